//! The one door of the tests: a cluster of nodes in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{self, Read, Write};
use std::time::Duration;

use quorate::{Config, EntryContext, MemoryNetwork, NodeId, Raft, RaftStateMachine};

/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` on a runtime of its own, of one thread or with so many workers: if the library stops its threads for ever,
/// the test fails all the same.
pub(crate) fn in_time<F: Future<Output = ()> + 'static>(workers: usize, test: impl FnOnce() -> F + Send + 'static) {
    use tokio::runtime::Builder;
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        builder.worker_threads(workers.max(1)).enable_all().build().unwrap().block_on(test());
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).expect("it fails, or waits for ever");
}

/// A list of every command applied, with what a test may want to go wrong.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) applied: Vec<(u64, String)>,
    pub(crate) inline: bool,
}

impl RaftStateMachine for Ledger {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, _command: String) -> u64 {
        unreachable!("apply_entry is provided")
    }

    fn apply_entry(&mut self, entry: EntryContext, command: String) -> u64 {
        assert_ne!(command, "panic", "the test asked for it");
        self.applied.push((entry.log_id.index, command));
        self.applied.len() as u64
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        for (index, command) in &self.applied {
            out.write_all(&index.to_le_bytes())?;
            out.write_all(&(command.len() as u64).to_le_bytes())?;
            out.write_all(command.as_bytes())?;
        }
        Ok(())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let mut applied = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(16);
            let index = u64::from_le_bytes(head[..8].try_into().unwrap());
            let length = u64::from_le_bytes(head[8..].try_into().unwrap()) as usize;
            let (command, tail) = tail.split_at(length);
            applied.push((index, String::from_utf8(command.to_vec()).unwrap()));
            rest = tail;
        }
        Ok(Self { applied, inline: false })
    }

    fn applies_inline(&self) -> bool {
        self.inline
    }
}

impl Ledger {
    pub(crate) fn inline() -> Self {
        Self { inline: true, ..Self::default() }
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.applied.iter().map(|(_, command)| command.clone()).collect()
    }
}

pub(crate) fn peers(ids: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    ids.into_iter().map(|id| (id, format!("memory:{id}"))).collect()
}

/// Starts nodes 1 to `count` on a network of their own and waits until they have a leader.
pub(crate) async fn start(count: u64, config: Config) -> (MemoryNetwork, Vec<Raft<Ledger>>) {
    let network = MemoryNetwork::new();
    let nodes = start_on(&network, count, config).await;
    (network, nodes)
}

pub(crate) async fn start_on(network: &MemoryNetwork, count: u64, config: Config) -> Vec<Raft<Ledger>> {
    // RUST_LOG=quorate=debug shows what the nodes do.
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
    let mut nodes = Vec::new();
    for id in 1..=count {
        let builder = Raft::builder(id).peers(peers(1..=count)).in_memory(network).config(config.clone());
        nodes.push(builder.start(Ledger::inline()).await.unwrap());
    }
    for node in &nodes {
        // The first membership and the leader's first entry: from here on every node can take part in elections.
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    nodes
}

/// The node that leads, once one does.
pub(crate) async fn leader(nodes: &[Raft<Ledger>]) -> Raft<Ledger> {
    let watching = nodes.iter().find(|node| node.metrics().borrow().closed.is_none()).unwrap();
    loop {
        let id = watching.wait(PATIENCE).leader().await.unwrap();
        if let Some(node) = by_id(nodes, id).filter(|node| node.is_leader()) {
            return node.clone();
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) fn by_id(nodes: &[Raft<Ledger>], id: NodeId) -> Option<&Raft<Ledger>> {
    nodes.iter().find(|node| node.node_id() == id)
}

pub(crate) async fn stop(nodes: Vec<Raft<Ledger>>) {
    for node in nodes {
        node.shutdown().await;
    }
}
