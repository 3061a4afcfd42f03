//! The chapters of the guide, each a module whose documentation is the chapter: so its snippets are tests. What snippets
//! hide is here.

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate::{Config, MemoryNetwork, Payload, Raft, RaftStateMachine, StartError};

/// What a snippet ends with.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Runs a snippet.
///
/// # Panics
/// If the snippet fails, or there are no threads.
pub fn run(snippet: impl Future<Output = Outcome>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    if let Err(error) = runtime.map_err(Box::from).and_then(|runtime| runtime.block_on(snippet)) {
        panic!("{error}");
    }
}

/// The state machine of most snippets: a number that is added to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counter(pub u64);

impl RaftStateMachine for Counter {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        u64::read_from(input).map(Counter)
    }
}

/// Nodes 1, 2 and 3 in this process, on a network of their own.
///
/// # Errors
/// If one of them cannot be started.
pub async fn three_nodes() -> Result<(MemoryNetwork, Vec<Raft<Counter>>), StartError> {
    three_nodes_with(Config::default()).await
}

/// As [`three_nodes`], with these tunables.
///
/// # Errors
/// If one of them cannot be started.
pub async fn three_nodes_with(config: Config) -> Result<(MemoryNetwork, Vec<Raft<Counter>>), StartError> {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let builder = Raft::builder(id).peers((1..=3).map(|id| (id, "in this process"))).in_memory(&network);
        nodes.push(builder.config(config.clone()).start(Counter(0)).await?);
    }
    for node in &nodes {
        // Until every node has applied the first entries of its leader.
        drop(node.wait_for_recovery(std::time::Duration::from_secs(20)).await);
    }
    Ok((network, nodes))
}

/// The node that leads.
///
/// # Panics
/// If none of them does within 20 s.
pub async fn leader_of(nodes: &[Raft<Counter>]) -> Raft<Counter> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(20) {
        if let Some(leading) = nodes.iter().find(|node| node.is_leader()) {
            return leading.clone();
        }
        tokio::task::yield_now().await;
    }
    panic!("no node leads");
}

/// A directory that is removed at the end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one, below the system's directory for such things.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("quorate-guide-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    /// A path in it.
    pub fn join(&self, name: impl ToString) -> PathBuf {
        self.0.join(name.to_string())
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a module of each chapter.
macro_rules! chapters {
    ($($name:ident $file:literal,)*) => {
        $(#[doc = include_str!(concat!("src/", $file))] pub mod $name {})*
        #[cfg(test)]
        const FILES: &[&str] = &[$($file),*];
    };
}

chapters! {
    introduction "README.md",
    first_program "first-program.md",
    state_machine "state-machine.md",
    writes "writes.md",
    reads "reads.md",
    sessions "sessions.md",
    testing "testing.md",
    cluster_formation "cluster-formation.md",
    membership "membership.md",
    quorums "quorums.md",
    snapshots "snapshots.md",
    storage "storage.md",
    network "network.md",
    many_groups "many-groups.md",
    failure_and_recovery "failure-and-recovery.md",
    operations "operations.md",
    observability "observability.md",
    tuning "tuning.md",
    examples "examples.md",
    openraft "openraft.md",
    faq "faq.md",
}

#[cfg(test)]
mod tests {
    use super::FILES;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_runtime_of_one_thread_is_enough() -> Result<(), Box<dyn std::error::Error>> {
        let (_network, nodes) = super::three_nodes().await?;
        nodes[0].client_write(1).await?;
        let seen = nodes[2].read(quorate::ReadPolicy::ReadIndex, |counter| counter.0).await?;
        assert_eq!(seen, 1);
        for node in nodes {
            node.shutdown().await;
        }
        Ok(())
    }

    #[test]
    fn the_summary_names_every_chapter_and_every_chapter_is_a_test() {
        let summary = include_str!("src/SUMMARY.md");
        let named: BTreeSet<&str> = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert_eq!(named, FILES.iter().copied().collect());
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = std::fs::read_dir(folder).map(Iterator::count).unwrap_or_default();
        assert_eq!(files, FILES.len() + 1, "a file of docs/guide/src is no chapter");
    }
}
