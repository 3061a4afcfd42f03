//! Replaces every node of a cluster, one after the other, while it is written to. `cargo run --release --example rolling`
//!
//! Each step is one joint membership change: the new node is added as a learner, catches up, and takes the old one's vote
//! in the same entry. The old node is shut down once the change is complete.
use std::error::Error;
use std::io::{Read, Result as IoResult, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::{
    ChangeError, ChangeMembers, ClientWriteError, LogId, MemoryNetwork, Node, NodeId, Payload, Raft, RaftStateMachine,
    ReadPolicy, Retain,
};

struct Counter(u64);

impl RaftStateMachine for Counter {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> IoResult<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> IoResult<Self> {
        u64::read_from(input).map(Counter)
    }
}

/// Asks whoever leads for a change, also if that changes meanwhile.
async fn change(nodes: &[Raft<Counter>], change: ChangeMembers) -> Result<LogId, ChangeError> {
    let mut asked = &nodes[0];
    loop {
        match asked.change_membership(change.clone(), Retain::Remove).await {
            Err(ChangeError::NotLeader { leader: Some(leader) }) => {
                asked = nodes.iter().find(|node| node.node_id() == leader).unwrap_or(asked);
            }
            // Who leads is not known here at the moment, or the leader is not ready.
            Err(error) if error.is_retryable() => drop(asked.wait(Duration::from_secs(1)).leader().await),
            outcome => return outcome,
        }
    }
}

/// Adds 1 until it is told to stop; returns how many were acknowledged, and how many may have been added besides.
async fn write(node: Raft<Counter>, stop: Arc<AtomicBool>) -> Result<(u64, u64), ClientWriteError> {
    let (mut acknowledged, mut unknown) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match node.client_write(1).await {
            Ok(_) => acknowledged += 1,
            Err(error) if error.outcome_is_unknown() => unknown += 1,
            Err(ClientWriteError::NoLeader { .. } | ClientWriteError::NoCluster { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((acknowledged, unknown))
}

/// Returns what was acknowledged, what may have been added besides, and what the new nodes hold.
async fn run() -> Result<(u64, u64, u64), Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let builder = Raft::builder(id).peers((1..=3).map(|id| (id, "in this process"))).in_memory(&network);
        nodes.push(builder.start(Counter(0)).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    // Node 3 is the last to go.
    let mut writer = tokio::spawn(write(nodes[2].clone(), Arc::clone(&stop)));
    let (mut acknowledged, mut unknown) = (0, 0);
    for (old, new) in [(1, 4), (2, 5), (3, 6)] {
        // A blank node without a list of peers waits until a cluster takes it in.
        let added = Raft::builder(new).in_memory(&network).start(Counter(0)).await?;
        if old == 3 {
            stop.store(true, Ordering::Relaxed);
            (acknowledged, unknown) = writer.await??;
            stop.store(false, Ordering::Relaxed);
            writer = tokio::spawn(write(nodes[1].clone(), Arc::clone(&stop)));
        }
        nodes.push(added);
        let swap = ChangeMembers::Batch(vec![
            ChangeMembers::AddVoters([(NodeId(new), Node::at("in this process"))].into()),
            ChangeMembers::RemoveVoters([NodeId(old)].into()),
        ]);
        let done = change(&nodes, swap).await?;
        nodes.remove(0).shutdown().await;
        println!("node {new} votes in place of node {old} since entry {done}");
    }
    stop.store(true, Ordering::Relaxed);
    let (more, more_unknown) = writer.await??;
    let held = nodes[0].read(ReadPolicy::ReadIndex, |counter| counter.0).await?;
    for node in nodes {
        node.shutdown().await;
    }
    Ok((acknowledged + more, unknown + more_unknown, held))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (acknowledged, unknown, held) = run().await?;
    println!("{acknowledged} writes were acknowledged, {unknown} have an unknown outcome, the counter is {held}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_acknowledged_is_lost() -> Result<(), Box<dyn Error>> {
        let (acknowledged, unknown, held) = run().await?;
        assert!(acknowledged > 0);
        assert!((acknowledged..=acknowledged + unknown).contains(&held), "{acknowledged} + {unknown}, held {held}");
        Ok(())
    }
}
