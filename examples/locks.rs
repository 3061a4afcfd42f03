//! A lock service: leases that end by the log's time, and fencing tokens. `cargo run --release --example locks`
//!
//! A lock server must not ask its own clock whether a lease is over: each node would see another moment. The leader
//! stamps its time into every entry, and the state machine goes by that, so all nodes agree. What a holder does with the
//! lock carries its token; a store that has seen a greater one refuses it.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use quorate::{EntryContext, MemoryNetwork, Payload, Raft, RaftStateMachine};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Command {
    /// Take the lock, or keep it for longer.
    Acquire { lock: String, owner: String, lease: Duration },
    /// Give it back; the token shows that it is still yours.
    Release { lock: String, token: u64 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Held { token: u64 },
    Busy { owner: String },
    Released,
    NotYours,
}

#[derive(Default, Serialize, Deserialize)]
struct Locks(BTreeMap<String, Lease>);

#[derive(Clone, Serialize, Deserialize)]
struct Lease {
    owner: String,
    /// The index of the entry that gave it: later holders have greater ones.
    token: u64,
    until: SystemTime,
}

impl RaftStateMachine for Locks {
    type Command = Command;
    type Response = Answer;

    fn apply(&mut self, _: Command) -> Answer {
        unreachable!("the library calls apply_entry, which is provided here")
    }

    fn apply_entry(&mut self, entry: EntryContext, command: Command) -> Answer {
        match command {
            Command::Acquire { lock, owner, lease } => {
                let held = self.0.get(&lock).filter(|held| held.until > entry.time);
                let token = match held {
                    Some(held) if held.owner != owner => return Answer::Busy { owner: held.owner.clone() },
                    Some(held) => held.token,
                    None => entry.log_id.index,
                };
                self.0.insert(lock, Lease { owner, token, until: entry.time + lease });
                Answer::Held { token }
            }
            Command::Release { lock, token } => match self.0.get(&lock) {
                Some(held) if held.token == token => {
                    self.0.remove(&lock);
                    Answer::Released
                }
                _ => Answer::NotYours,
            },
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Self::read_from(input)
    }
}

async fn acquire(node: &Raft<Locks>, owner: &str, lease: Duration) -> Result<Answer, Box<dyn Error>> {
    let command = Command::Acquire { lock: "printer".into(), owner: owner.into(), lease };
    Ok(node.client_write(command).await?.response)
}

/// Two clients want one lock; the second tries again after a `pause` until it has it. Returns what they were told.
async fn run(
    clock: impl Fn() -> SystemTime + Clone + Send + Sync + 'static,
    pause: impl AsyncFn(),
) -> Result<Vec<Answer>, Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let builder = Raft::builder(id).peers((1..=3).map(|id| (id, "in this process"))).in_memory(&network);
        nodes.push(builder.wall_clock(clock.clone()).start(Locks::default()).await?);
    }
    let lease = Duration::from_millis(500);
    let mut told = vec![acquire(&nodes[0], "ann", lease).await?, acquire(&nodes[1], "bob", lease).await?];
    let later = loop {
        pause().await;
        match acquire(&nodes[2], "bob", lease).await? {
            Answer::Busy { .. } => {}
            answer => break answer,
        }
    };
    told.push(later);
    // Ann is late: her lease is over, and its token no longer opens anything.
    let Answer::Held { token } = told[0] else { return Err("the lock was free".into()) };
    let late = Command::Release { lock: "printer".into(), token };
    told.push(nodes[0].client_write(late).await?.response);
    for node in nodes {
        node.shutdown().await;
    }
    Ok(told)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for (who, answer) in ["ann", "bob", "bob, later", "ann, too late"].iter().zip(run(SystemTime::now, wait).await?) {
        println!("{who}: {answer:?}");
    }
    Ok(())
}

async fn wait() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lease_ends_and_the_next_token_is_greater() -> Result<(), Box<dyn Error>> {
        let seconds = Arc::new(AtomicU64::new(1_000_000));
        let clock = {
            let seconds = Arc::clone(&seconds);
            move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::SeqCst))
        };
        let told = run(clock, async || {
            seconds.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        });
        let told = told.await?;
        let [Answer::Held { token: first }, busy, Answer::Held { token: second }, late] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(*busy, Answer::Busy { owner: "ann".into() });
        assert!(second > first, "{told:?}");
        assert_eq!(*late, Answer::NotYours);
        Ok(())
    }
}
