//! Quorate through its public API: the builder, `in_memory`, `client_write`.

use std::io::{self, Read, Write};
use std::time::Duration;

use quorate::{MemoryNetwork, Raft, RaftStateMachine, Raw};

use crate::args::Options;
use crate::clients::{self, Client, Trial};

/// Counts what it applies and answers nothing: as much as the machine on the other side does.
#[derive(Clone, Copy, Debug, Default)]
struct Machine {
    applied: u64,
}

impl RaftStateMachine for Machine {
    type Command = Raw;
    type Response = Raw;

    fn apply(&mut self, _command: Raw) -> Raw {
        self.applied += 1;
        Raw::default()
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.applied.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut applied = [0; 8];
        input.read_exact(&mut applied)?;
        Ok(Self { applied: u64::from_le_bytes(applied) })
    }

    fn applies_inline(&self) -> bool {
        true
    }
}

type Node = Raft<Machine>;

impl Client for Node {
    async fn put(&self) -> Result<(), String> {
        // Empty, as OpenRaft's command is: what is measured is consensus, not copying.
        self.client_write(Raw::default()).await.map(drop).map_err(|error| format!("quorate refused a write: {error}"))
    }
}

/// One trial: a fresh cluster, warmed up, measured, shut down.
pub(crate) fn trial(options: &Options, clients: usize) -> Result<Trial, String> {
    let servers = clients::server_runtime(options)?;
    let runtime = clients::client_runtime(options)?;
    let (nodes, leader) = servers.block_on(cluster()).map_err(|error| format!("quorate does not start: {error}"))?;
    let trial = clients::measure(options, &runtime, clients, &nodes[leader]);
    servers.block_on(async {
        for node in &nodes {
            node.shutdown().await;
        }
    });
    trial
}

async fn cluster() -> Result<(Vec<Node>, usize), Box<dyn std::error::Error + Send + Sync>> {
    let network = MemoryNetwork::new();
    let peers = [(1, "one"), (2, "two"), (3, "three")];
    let start = |id: u64| {
        let builder = Node::builder(id).peers(peers).in_memory(&network);
        tokio::spawn(builder.start(Machine::default()))
    };
    let (one, two, three) = (start(1), start(2), start(3));
    let nodes = vec![one.await??, two.await??, three.await??];
    let mut leader = 0;
    for node in &nodes {
        // All must agree, else the warm-up would pay for an election.
        leader = node.wait(Duration::from_secs(10)).leader().await?.0;
    }
    let place = nodes.iter().position(|node| node.node_id().0 == leader).ok_or("an unknown node leads")?;
    Ok((nodes, place))
}
