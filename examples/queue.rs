//! A durable queue with exactly-once producers, while its leader is lost. `cargo run --release --example queue`
//!
//! A producer that hears nothing does not know whether its job is in the queue. In a session it may send the same write
//! again until it knows: the cluster applies it once, and answers every repetition with the first answer.
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;

use quorate::{Payload, Raft, RaftStateMachine, ReadPolicy, Session, SessionError, SessionOptions};
use serde::{Deserialize, Serialize};

const PRODUCERS: usize = 4;
const JOBS: usize = 50;

#[derive(Serialize, Deserialize)]
enum Command {
    Push(String),
    Pop,
}

#[derive(Default, Serialize, Deserialize)]
struct Queue(VecDeque<String>);

impl RaftStateMachine for Queue {
    type Command = Command;
    /// The job that was taken.
    type Response = Option<String>;

    fn apply(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Push(job) => {
                self.0.push_back(job);
                None
            }
            Command::Pop => self.0.pop_front(),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Self::read_from(input)
    }
}

/// Applies a command exactly once, however often it has to be sent.
async fn once(session: &Session<Queue>, command: Command) -> Result<Option<String>, SessionError> {
    let mut pending = session.prepare(command).await?;
    loop {
        match pending.send().await {
            Ok(written) => return Ok(written.response),
            Err(error) if error.may_resend() => eprintln!("{error}: sending it again"),
            Err(error) => return Err(error),
        }
    }
}

async fn produce(node: Raft<Queue>, name: usize) -> Result<(), SessionError> {
    let session = node.open_session(SessionOptions::default()).await?;
    for job in 0..JOBS {
        once(&session, Command::Push(format!("job {job} of producer {name}"))).await?;
    }
    session.close().await
}

/// Producers write through two nodes while the leader, the third, is stopped; returns how often each job came out.
async fn run(peers: &[(u64, String)], directory: &Path) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let mut nodes = Vec::new();
    for (id, _) in peers {
        let builder = Raft::builder(*id).peers(peers.to_vec()).data_dir(directory.join(id.to_string()));
        nodes.push(builder.start(Queue::default()).await?);
    }
    // Who answers this leads, or asked the one who does.
    nodes[0].ensure_linearizable(ReadPolicy::ReadIndex).await?;
    let leading = nodes.iter().position(Raft::is_leader).unwrap_or_default();
    let leader = nodes.remove(leading);
    let mut producers: Vec<_> =
        (0..PRODUCERS).map(|name| tokio::spawn(produce(nodes[name % nodes.len()].clone(), name))).collect();
    // The first producer is done when the leader stops, the others may be anywhere.
    producers.remove(0).await??;
    leader.shutdown().await;
    for producer in producers {
        producer.await??;
    }
    let mut taken = BTreeMap::new();
    let consumer = nodes[0].open_session(SessionOptions::default()).await?;
    while let Some(job) = once(&consumer, Command::Pop).await? {
        *taken.entry(job).or_default() += 1;
    }
    consumer.close().await?;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(taken)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers = (1..=3).map(|id| (id, format!("127.0.0.1:{}", 7010 + id))).collect::<Vec<_>>();
    let taken = run(&peers, Path::new("data/queue")).await?;
    let twice = taken.values().filter(|times| **times > 1).count();
    println!("{} jobs were pushed, {} came out, {twice} of them more than once", PRODUCERS * JOBS, taken.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_job_comes_out_once() -> Result<(), Box<dyn Error>> {
        let ports = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let address = |port: &TcpListener| port.local_addr().map(|address| address.to_string());
        let addresses = ports.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        drop(ports);
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../target/tmp/example-queue-{}", std::process::id()));
        let taken = run(&(1..).zip(addresses).collect::<Vec<_>>(), &directory).await?;
        assert_eq!(taken.len(), PRODUCERS * JOBS);
        assert!(taken.values().all(|times| *times == 1), "{taken:?}");
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }
}
