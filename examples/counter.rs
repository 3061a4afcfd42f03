//! A replicated, durable counter: three nodes in one process. `cargo run --release --example counter`
use quorate::{Payload, Raft, RaftStateMachine, ReadPolicy};
use std::io::{Read, Result, Write};

struct Counter(u64);

impl RaftStateMachine for Counter {
    type Command = u64;
    type Response = u64;
    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
    fn snapshot(&self, out: &mut dyn Write) -> Result<()> {
        self.0.write_to(out)
    }
    fn restore(input: &mut dyn Read) -> Result<Self> {
        u64::read_from(input).map(Counter)
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let peers = [(1, "127.0.0.1:7001"), (2, "127.0.0.1:7002"), (3, "127.0.0.1:7003")];
    let start = |id: u64| Raft::builder(id).peers(peers).data_dir(format!("data/counter/{id}")).start(Counter(0));
    let nodes = [start(1).await?, start(2).await?, start(3).await?];
    let total = nodes[2].client_write(5).await?.response;
    let seen = nodes[1].read(ReadPolicy::ReadIndex, |counter| counter.0).await?;
    println!("node 3 wrote, the counter is {total}; node 2 reads {seen}");
    tokio::join!(nodes[0].shutdown(), nodes[1].shutdown(), nodes[2].shutdown());
    Ok(())
}
