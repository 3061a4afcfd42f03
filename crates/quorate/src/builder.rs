//! [`Builder`]: a host with one group, in one expression.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use quorate_core::{GroupId, Node, NodeId};
use quorate_wal::Disk;

use crate::host::HostBuilder;
use crate::{
    Config, GroupBuilder, MemoryNetwork, MetricsRegistry, Raft, RaftNetwork, RaftStateMachine, Settings, StartError,
    Storage,
};

/// Describes a node with one group; made by [`Raft::builder`].
#[derive(Debug)]
pub struct Builder<S: RaftStateMachine> {
    host: HostBuilder,
    machine: std::marker::PhantomData<fn(S)>,
}

impl<S: RaftStateMachine> Builder<S> {
    pub(crate) fn new(id: NodeId) -> Self {
        Self { host: HostBuilder::new(id), machine: std::marker::PhantomData }
    }

    /// The first voters and their addresses, this node among them. A blank node makes a cluster of them once
    /// all of them are up and blank; a node that already belongs to a cluster ignores it.
    ///
    /// An address, or a [`Node`] with labels: give every node the same.
    ///
    /// ```
    /// # use quorate::{Builder, Node, RaftStateMachine};
    /// # fn describe<S: RaftStateMachine>(builder: Builder<S>) -> Builder<S> {
    /// let node = |host: &str, zone: &str| Node {
    ///     labels: [("zone".into(), zone.into())].into(),
    ///     ..Node::at(format!("{host}:7000"))
    /// };
    /// builder.peers([(1, node("10.0.0.1", "a")), (2, node("10.0.0.2", "b")), (3, node("10.0.0.3", "c"))])
    /// # }
    /// ```
    pub fn peers<N: Into<Node>>(mut self, peers: impl IntoIterator<Item = (u64, N)>) -> Self {
        self.host = self.host.peers(peers.into_iter().map(|(id, node)| (NodeId(id), node.into())));
        self
    }

    /// As [`peers`](Self::peers), on a network that needs no addresses, such as a [`MemoryNetwork`].
    ///
    /// ```
    /// # use quorate::{MemoryNetwork, Raft, RaftStateMachine, StartError};
    /// # async fn start<S: RaftStateMachine>(network: &MemoryNetwork, machine: S) -> Result<Raft<S>, StartError> {
    /// Raft::builder(1).peer_ids([1, 2, 3]).in_memory(network).start(machine).await
    /// # }
    /// ```
    pub fn peer_ids(self, ids: impl IntoIterator<Item = u64>) -> Self {
        self.peers(ids.into_iter().map(|id| (id, "")))
    }

    /// The replicated settings, if this node makes the cluster: give every node of `peers` the same. Later they are
    /// changed by [`Raft::change_settings`].
    pub fn settings(mut self, settings: Settings) -> Self {
        self.host = self.host.settings(settings);
        self
    }

    /// Where the log and the snapshots are kept; made if it is not there. Every node needs either this or
    /// [`in_memory`](Self::in_memory).
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.host = self.host.data_dir(directory);
        self
    }

    /// The address to listen on for peers; without it, the one that `peers` gives for this node.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.host = self.host.listen(address);
        self
    }

    /// Reaches peers through this network inside the process instead of TCP. Without a `data_dir` the log is
    /// kept in memory too.
    pub fn in_memory(mut self, network: &MemoryNetwork) -> Self {
        self.host = self.host.in_memory(network);
        self
    }

    /// Keeps everything in these stores instead of a data directory.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.host = self.host.storage(storage);
        self
    }

    /// Reaches peers through this network instead of TCP.
    pub fn network(mut self, network: Arc<dyn RaftNetwork>) -> Self {
        self.host = self.host.network(network);
        self
    }

    /// Tunables.
    pub fn config(mut self, config: Config) -> Self {
        self.host = self.host.config(config);
        self
    }

    /// Opens the data directory through this disk instead of the file system: for tests of what a disk may do.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.host = self.host.disk(disk);
        self
    }

    /// Takes the time of entries from this clock instead of the system's: for tests of what expires. It is looked at
    /// four times a second; in between its time goes on by itself.
    pub fn wall_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.host = self.host.wall_clock(clock);
        self
    }

    /// Shows this node's numbers in this registry, together with those of others.
    pub fn metrics_registry(mut self, registry: &MetricsRegistry) -> Self {
        self.host = self.host.metrics_registry(registry);
        self
    }

    /// Encrypts and authenticates connections between peers, both ways (feature `tls`).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, files: crate::TlsFiles) -> Self {
        self.host = self.host.tls(files);
        self
    }

    /// Starts the node. `machine` is its state if there is no snapshot.
    ///
    /// It must be the same on every node, also on those that join later: a node without a snapshot applies the whole log
    /// to it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self, machine: S) -> Result<Raft<S>, StartError> {
        let host = self.host.open().await?;
        let group = GroupBuilder { host: host.clone(), id: GroupId(1), owns_host: true };
        let started = group.start(machine).await;
        if started.is_err() {
            host.shutdown().await;
        }
        started
    }
}
