//! [`Host`]: what many groups of one process share: log, network, clock.

mod bootstrap;
mod inner;
mod load;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use quorate_core::{GroupId, LeaderIdMode, Node, NodeId};
use quorate_wal::{Disk, RealDisk};

pub(crate) use self::bootstrap::initialize;
pub(crate) use self::inner::{HostInner, Port};
#[cfg(feature = "sim")]
pub(crate) use self::start::{Disks, find};
use crate::durable::Durable;
use crate::group::WallClock;
use crate::identity::MemoryIdentity;
use crate::{
    Config, IdentityStore, MemoryNetwork, MemorySnapshots, MemoryStorage, MetricsRegistry, Raft, RaftLogStorage,
    RaftNetwork, RaftStateMachine, Settings, SnapshotStore, StartError, StorageError, TlsFiles,
};

/// Where a node keeps what it must not forget, see [`HostBuilder::storage`].
#[derive(Clone)]
pub struct Storage {
    /// Logs and votes.
    pub log: Arc<dyn RaftLogStorage>,
    /// Snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Who the node is.
    pub identity: Arc<dyn IdentityStore>,
}

impl Storage {
    /// The library's own: a node's directory, made if it is not there, with its log, votes, snapshots and identity. Who
    /// replaces one part takes the others from here:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use quorate::{LogWrite, MemoryStorage, NodeId, Storage};
    /// # let directory = std::env::temp_dir().join(format!("quorate-doc-storage-{}", std::process::id()));
    /// let my_log = Arc::new(MemoryStorage::new());
    /// let storage = Storage { log: my_log, ..Storage::open(&directory, 1)? };
    /// assert_eq!(storage.identity.identity().node, NodeId(1));
    /// # drop(storage);
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// May block. It is closed when the host that uses it stops, or the last copy is dropped.
    ///
    /// # Errors
    /// If the directory is damaged, another node's, in use, or cannot be read.
    pub fn open(directory: impl AsRef<Path>, node: impl Into<NodeId>) -> Result<Self, StorageError> {
        Self::open_on(Arc::new(RealDisk), directory, node)
    }

    /// As [`open`](Self::open), through this disk instead of the file system: for tests of what a disk may do.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        directory: impl AsRef<Path>,
        node: impl Into<NodeId>,
    ) -> Result<Self, StorageError> {
        let durable = Durable::open(disk, directory.as_ref(), node.into())?;
        Ok(Self { log: durable.clone(), snapshots: durable.clone(), identity: durable })
    }

    /// Everything in memory, under a new identity.
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn in_memory(node: impl Into<NodeId>) -> Result<Self, StartError> {
        Self::in_memory_as(node.into(), LeaderIdMode::default())
    }

    fn in_memory_as(node: NodeId, mode: LeaderIdMode) -> Result<Self, StartError> {
        Ok(Self {
            log: Arc::new(MemoryStorage::new()),
            snapshots: Arc::new(MemorySnapshots::new()),
            identity: Arc::new(MemoryIdentity::new(node, mode)?),
        })
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("identity", &self.identity.identity()).finish_non_exhaustive()
    }
}

/// Describes a [`Host`].
#[derive(Clone)]
pub struct HostBuilder {
    id: NodeId,
    peers: BTreeMap<NodeId, Node>,
    settings: Settings,
    data_dir: Option<PathBuf>,
    listen: Option<String>,
    memory: Option<MemoryNetwork>,
    storage: Option<Storage>,
    network: Option<Arc<dyn RaftNetwork>>,
    config: Config,
    tls: Option<TlsFiles>,
    disk: Arc<dyn Disk>,
    wall: WallClock,
    registry: MetricsRegistry,
}

impl std::fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuilder")
            .field("id", &self.id)
            .field("peers", &self.peers)
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl HostBuilder {
    pub(crate) fn new(id: NodeId) -> Self {
        Self {
            id,
            peers: BTreeMap::new(),
            settings: Settings::default(),
            data_dir: None,
            listen: None,
            memory: None,
            storage: None,
            network: None,
            config: Config::default(),
            tls: None,
            disk: Arc::new(RealDisk),
            wall: Arc::new(SystemTime::now),
            registry: MetricsRegistry::new(),
        }
    }

    /// The first voters of every group, this node among them; see [`Builder::peers`](crate::Builder::peers).
    pub fn peers(mut self, peers: impl IntoIterator<Item = (NodeId, Node)>) -> Self {
        self.peers = peers.into_iter().collect();
        self
    }

    /// The replicated settings of every group that this node makes; see
    /// [`Builder::settings`](crate::Builder::settings).
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Where the log and the snapshots of all groups are kept.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// The address to listen on for peers; without it, the one that `peers` gives for this node.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Reaches peers through this network inside the process; see [`Builder::in_memory`](crate::Builder::in_memory).
    pub fn in_memory(mut self, network: &MemoryNetwork) -> Self {
        self.memory = Some(network.clone());
        self
    }

    /// Opens the data directory through this disk instead of the file system: for tests of what a disk may do.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Takes the time of entries from this clock instead of the system's: for tests of what expires. It is looked at
    /// four times a second; in between its time goes on by itself. It may jump; the time of a log never goes back.
    pub fn wall_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.wall = Arc::new(clock);
        self
    }

    /// Shows the numbers of this host's groups in this registry, together with those of other hosts.
    pub fn metrics_registry(mut self, registry: &MetricsRegistry) -> Self {
        self.registry = registry.clone();
        self
    }

    /// Keeps everything in these stores instead of a data directory; see [`Storage::open`].
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Reaches peers through this network instead of TCP.
    pub fn network(mut self, network: Arc<dyn RaftNetwork>) -> Self {
        self.network = Some(network);
        self
    }

    /// Tunables.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Encrypts and authenticates connections between peers, both ways (feature `tls`).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Opens the log and the network. Must be called on a tokio runtime, which the host then uses.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(self) -> Result<Host, StartError> {
        HostInner::open(self).await.map(|inner| Host { inner })
    }
}

/// What many groups of one process share: log, network, clock. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<HostInner>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Host {
    /// Starts to describe a host.
    pub fn builder(id: impl Into<NodeId>) -> HostBuilder {
        HostBuilder::new(id.into())
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.inner.id
    }

    /// The address this node listens on for peers, with the port that the system chose if it was 0.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// The numbers of this host's groups.
    pub fn metrics_registry(&self) -> MetricsRegistry {
        self.inner.registry.clone()
    }

    /// Starts to describe a group on this host.
    pub fn group(&self, id: impl Into<GroupId>) -> GroupBuilder {
        GroupBuilder { host: self.clone(), id: id.into(), owns_host: false }
    }

    /// Stops every group, the network and the log; within the time that [`Raft::shutdown`] names. Leaders do not hand
    /// over: use [`Raft::shutdown_with`] on each group first.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

/// Describes a group on a [`Host`]; made by [`Host::group`].
#[derive(Debug)]
pub struct GroupBuilder {
    pub(crate) host: Host,
    pub(crate) id: GroupId,
    pub(crate) owns_host: bool,
}

impl GroupBuilder {
    /// Starts the group on this node. `machine` is its state if there is no snapshot.
    ///
    /// It must be the same on every node, also on those that join later: a node without a snapshot applies the whole log
    /// to it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start<S: RaftStateMachine>(self, machine: S) -> Result<Raft<S>, StartError> {
        start::group(self, machine).await
    }
}
