//! Raft over gRPC: three nodes count to 100, a fourth comes late and gets a snapshot; each run goes on
//! from the one before. `cargo run --release -p grpc`
//!
//! For those who have gRPC between their machines anyway, with its proxies, certificates and metrics: `network.rs` is a
//! `RaftNetwork` on tonic, `service.rs` the one call that it needs. A stream for each peer would be faster than a call for
//! each message; the library's own TCP is faster still.
use std::error::Error;
use std::io::{Read, Result as IoResult, Write};
use std::path::Path;
use std::sync::Arc;

use quorate::{CatchUp, Config, Node, Payload, Raft, RaftStateMachine, ReadPolicy, Storage};

use crate::network::GrpcNetwork;

mod network;
mod service;

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

/// Where the nodes listen; the first three begin the cluster.
type Addresses = [String; 4];

/// Starts the nodes, each on its disk; a port of 0 becomes the one that the system chose.
async fn start(directory: &Path, addresses: &mut Addresses) -> Result<Vec<Raft<Counter>>, Box<dyn Error>> {
    let mut ends = Vec::new();
    for (id, address) in (1_u64..).zip(addresses.iter_mut()) {
        let storage = Storage::open(directory.join(id.to_string()), id)?;
        let network = GrpcNetwork::bind(address, Arc::clone(&storage.identity)).await?;
        network.address().clone_into(address);
        ends.push((id, storage, network));
    }
    let mut nodes = Vec::new();
    for (id, storage, network) in ends {
        let config = Config { snapshot_entries: 50, keep_entries: 10, ..Config::default() };
        let builder = Raft::builder(id).listen(network.address()).network(Arc::new(network)).storage(storage);
        // A node that belongs to a cluster already, as all of them do in a second run, ignores the peers.
        let peers = (1..4).zip(addresses.iter().cloned());
        let builder = if id < 4 { builder.peers(peers) } else { builder };
        nodes.push(builder.config(config).start(Counter(0)).await?);
    }
    Ok(nodes)
}

/// Returns what the late node reads.
async fn run(directory: &Path, addresses: &mut Addresses) -> Result<u64, Box<dyn Error>> {
    let nodes = start(directory, addresses).await?;
    for at in 0..100 {
        nodes[at % 3].client_write(1).await?;
    }
    let leading = nodes.iter().find(|node| node.is_leader()).unwrap_or(&nodes[0]);
    leading.add_learner(4, Node::at(&addresses[3]), CatchUp::Wait).await?;
    let seen = nodes[3].read(ReadPolicy::ReadIndex, |counter| counter.0).await?;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(seen)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses = [1, 2, 3, 4].map(|id| format!("127.0.0.1:705{id}"));
    let seen = run(Path::new("data/grpc"), &mut addresses).await?;
    println!("node 4 came late and reads {seen}; run it again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_nodes_and_a_late_one_agree_over_grpc() -> Result<(), Box<dyn Error>> {
        let directory =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/tmp/grpc-{}", std::process::id()));
        let mut addresses = [1, 2, 3, 4].map(|_| "127.0.0.1:0".to_owned());
        assert_eq!(run(&directory, &mut addresses).await?, 100);
        assert_eq!(run(&directory, &mut addresses).await?, 200, "a second run goes on where the first one stopped");
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }

    #[test]
    fn it_keeps_what_networks_promise() -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Runtime::new()?;
        let suite = quorate_testkit::network::Suite::new(|identity| {
            let network = runtime.block_on(GrpcNetwork::bind("127.0.0.1:0", identity))?;
            let address = network.address().to_owned();
            Ok((network, address))
        });
        // In between cuts connections, damages bytes, and stalls.
        println!("{}", suite.over_tcp().run().assert_passed());
        Ok(())
    }
}
