//! Many groups in one process: one log, one network, a leader for each shard. `cargo run --release --example groups`
//!
//! A `Host` owns what groups share: the write-ahead log (so that one sync serves all of them), the connections and the
//! clock. Each group has its own state machine, leader and membership.
use std::error::Error;
use std::io::{Read, Result as IoResult, Write};
use std::path::Path;

use quorate::{Host, MemoryNetwork, Node, NodeId, Payload, Raft, RaftStateMachine, ReadPolicy};

const SHARDS: u64 = 6;

/// Counts words that fall into this shard.
struct Words(u64);

impl RaftStateMachine for Words {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, _word: String) -> u64 {
        self.0 += 1;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> IoResult<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> IoResult<Self> {
        u64::read_from(input).map(Words)
    }
}

/// Which shard a word belongs to: the same on every node and in every version of this program.
fn shard_of(word: &str) -> u64 {
    word.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte))) % SHARDS
}

/// One node: a host, and every shard on it.
async fn start(id: u64, network: &MemoryNetwork, directory: &Path) -> Result<(Host, Vec<Raft<Words>>), Box<dyn Error>> {
    let peers = (1..=3).map(|id| (NodeId(id), Node::at("in this process")));
    let host =
        Host::builder(id).peers(peers).in_memory(network).data_dir(directory.join(id.to_string())).open().await?;
    let mut shards = Vec::new();
    for shard in 0..SHARDS {
        // A group id is for ever, like a node id.
        shards.push(host.group(shard + 1).start(Words(0)).await?);
    }
    Ok((host, shards))
}

/// Counts words on three nodes; returns the count of each shard and the node that leads it.
async fn run(text: &str, directory: &Path) -> Result<Vec<(u64, NodeId)>, Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let (mut hosts, mut nodes) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let (host, shards) = start(id, &network, directory).await?;
        hosts.push(host);
        nodes.push(shards);
    }
    // Any node takes any word: it forwards it to the node that leads the word's shard.
    for (at, word) in text.split_whitespace().enumerate() {
        nodes[at % 3][shard_of(word) as usize].client_write(word.to_owned()).await?;
    }
    // Leaders are spread by hand: shard 0 to node 1, shard 1 to node 2, and so on.
    let mut counts = Vec::new();
    for shard in 0..SHARDS as usize {
        let wanted = NodeId(shard as u64 % 3 + 1);
        if let Some(leading) = nodes.iter().map(|shards| &shards[shard]).find(|raft| raft.is_leader())
            && leading.node_id() != wanted
        {
            leading.trigger().transfer_leader(wanted).await?;
        }
        let raft = &nodes[wanted.0 as usize - 1][shard];
        let count = raft.read(ReadPolicy::ReadIndex, |words| words.0).await?;
        counts.push((count, raft.current_leader().unwrap_or_default()));
    }
    for host in hosts {
        host.shutdown().await;
    }
    Ok(counts)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let counts = run("in the beginning every shard elects a leader of its own", Path::new("data/groups")).await?;
    for (shard, (count, leader)) in counts.iter().enumerate() {
        println!("shard {shard}: {count} words, led by node {leader}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_word_is_counted_in_its_shard_and_leaders_are_spread() -> Result<(), Box<dyn Error>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../target/tmp/example-groups-{}", std::process::id()));
        let text = "one two three four five six seven eight nine ten";
        let counts = run(text, &directory).await?;
        for (shard, (count, leader)) in (0..).zip(counts) {
            assert_eq!(count, text.split_whitespace().filter(|word| shard_of(word) == shard).count() as u64);
            assert_eq!(leader, NodeId(shard % 3 + 1));
        }
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }
}
