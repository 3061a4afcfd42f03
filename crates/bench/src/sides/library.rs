//! Quorate through its public API, three nodes in this process: the builder, `client_write`, `read`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use quorate::{
    Config, LeasePolicy, MemoryNetwork, Raft, RaftStateMachine, Raw, ReadPolicy, Settings, Storage, TlsFiles,
};
use tokio::runtime::Runtime;

use crate::args::Options;
use crate::measure::{Client, Load, Trial, client_runtime, measure, server_runtime};
use crate::sides::ports;

/// Counts what it applies and answers nothing: as much as the machines on the other sides do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) applied: u64,
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

    fn restore(input: &mut dyn io::Read) -> io::Result<Self> {
        let mut applied = [0; 8];
        input.read_exact(&mut applied)?;
        Ok(Self { applied: u64::from_le_bytes(applied) })
    }

    fn applies_inline(&self) -> bool {
        true
    }
}

pub(crate) type Node = Raft<Machine>;

/// Writes one command a call.
#[derive(Clone)]
pub(crate) struct Put {
    node: Node,
    command: Raw,
}

impl Put {
    /// Empty commands, as OpenRaft's are: what is measured is consensus, not copying.
    pub(crate) fn new(node: Node) -> Self {
        Self::sized(node, 0)
    }

    /// Commands of so many bytes.
    pub(crate) fn sized(node: Node, bytes: usize) -> Self {
        Self { node, command: Raw(Bytes::from(vec![b'x'; bytes])) }
    }
}

impl Client for Put {
    async fn call(&self) -> Result<u64, String> {
        let written = self.node.client_write(self.command.clone()).await;
        written.map(|_| 1).map_err(|error| format!("a write was refused: {error}"))
    }
}

/// Writes many commands a call.
#[derive(Clone)]
pub(crate) struct Many {
    pub(crate) node: Node,
    pub(crate) entries: usize,
}

impl Client for Many {
    async fn call(&self) -> Result<u64, String> {
        for written in self.node.client_write_many(vec![Raw::default(); self.entries]).await {
            written.map_err(|error| format!("a write was refused: {error}"))?;
        }
        Ok(self.entries as u64)
    }
}

/// Reads how much was applied.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) node: Node,
    pub(crate) policy: ReadPolicy,
}

impl Client for Look {
    async fn call(&self) -> Result<u64, String> {
        let seen = self.node.read(self.policy, |machine| machine.applied).await;
        seen.map(|_| 1).map_err(|error| format!("a read was refused: {error}"))
    }
}

/// What joins the nodes.
#[derive(Clone)]
pub(crate) enum Link {
    Memory(MemoryNetwork),
    /// The shipped transport on loopback.
    Tcp,
    /// With certificates, one a node.
    Tls(Vec<TlsFiles>),
}

/// How nodes are set up.
#[derive(Clone)]
pub(crate) struct Setup {
    /// How many there are.
    pub(crate) nodes: u64,
    pub(crate) link: Link,
    /// Where each has its log; without it, in memory.
    pub(crate) data: Option<PathBuf>,
    pub(crate) lease: LeasePolicy,
}

impl Setup {
    /// Three nodes, everything in memory, elections as fast as they come.
    pub(crate) fn in_memory(link: Link) -> Self {
        Self { nodes: 3, link, data: None, lease: LeasePolicy::default() }
    }
}

/// Nodes on threads of their own.
pub(crate) struct Cluster {
    servers: Runtime,
    nodes: Vec<Node>,
    leader: usize,
}

impl Cluster {
    /// Starts the nodes and waits until all agree who leads.
    pub(crate) fn start(options: &Options, setup: &Setup) -> Result<Self, String> {
        let servers = server_runtime(options)?;
        let (nodes, leader) =
            servers.block_on(nodes(setup)).map_err(|error| format!("quorate does not start: {error}"))?;
        Ok(Self { servers, nodes, leader })
    }

    /// The one that leads.
    pub(crate) fn leader(&self) -> Node {
        self.nodes[self.leader].clone()
    }

    /// All of them.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Puts the load on a client of the leader.
    pub(crate) fn measure<C: Client>(
        &self,
        options: &Options,
        load: Load<'_>,
        client: impl Fn(Node) -> C,
    ) -> Result<Trial, String> {
        measure(options, &client_runtime(options)?, load, &client(self.leader()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.servers.block_on(async {
            for node in &self.nodes {
                node.shutdown().await;
            }
        });
    }
}

/// One trial in memory: a fresh cluster, warmed up, measured, shut down.
pub(crate) fn in_memory<C: Client>(
    options: &Options,
    network: &MemoryNetwork,
    load: Load<'_>,
    client: impl Fn(Node) -> C,
) -> Result<Trial, String> {
    let setup = Setup::in_memory(Link::Memory(network.clone()));
    Cluster::start(options, &setup)?.measure(options, load, client)
}

/// How it is set.
pub(crate) fn about() -> String {
    let Config { max_append_bytes, max_inflight_appends, snapshot_entries, keep_entries, .. } = Config::default();
    format!(
        "quorate: as by default: appends of up to {} KiB, {max_inflight_appends} of them under way to a peer, snapshot every {snapshot_entries} entries, {keep_entries} kept; but its state machine asks to apply on the thread that steps its node",
        max_append_bytes >> 10
    )
}

async fn nodes(setup: &Setup) -> Result<(Vec<Node>, usize), Box<dyn std::error::Error + Send + Sync>> {
    let peers: Vec<(u64, String)> = match setup.link {
        Link::Memory(_) => (1..=setup.nodes).map(|id| (id, format!("node {id}"))).collect(),
        Link::Tcp | Link::Tls(_) => (1..)
            .zip(ports::free(u16::try_from(setup.nodes)?))
            .map(|(id, port)| (id, format!("127.0.0.1:{port}")))
            .collect(),
    };
    let mut starting = Vec::new();
    for (place, id) in (1..=setup.nodes).enumerate() {
        let settings = Settings { lease: setup.lease };
        let mut builder = Node::builder(id).peers(peers.clone()).settings(settings);
        builder = match &setup.data {
            Some(dir) => builder.data_dir(dir.join(id.to_string())),
            None if matches!(setup.link, Link::Memory(_)) => builder,
            None => builder.storage(Storage::in_memory(id)?),
        };
        builder = match &setup.link {
            Link::Memory(network) => builder.in_memory(network),
            Link::Tcp => builder,
            Link::Tls(files) => builder.tls(files[place].clone()),
        };
        starting.push(tokio::spawn(builder.start(Machine::default())));
    }
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await??);
    }
    let mut leader = 0;
    for node in &nodes {
        // All must agree, else the warm-up would pay for an election.
        leader = node.wait(Duration::from_secs(10)).leader().await?.0;
    }
    let place = nodes.iter().position(|node| node.node_id().0 == leader).ok_or("an unknown node leads")?;
    Ok((nodes, place))
}
