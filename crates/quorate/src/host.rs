//! [`Host`]: what many groups of one process share: log, network, clock.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_core::{GroupId, Node, NodeId};

use crate::{Config, MemoryNetwork, Raft, RaftStateMachine, StartError, TlsFiles};

/// Describes a [`Host`].
#[derive(Clone, Debug)]
pub struct HostBuilder {
    id: NodeId,
    peers: BTreeMap<NodeId, Node>,
    data_dir: Option<PathBuf>,
    listen: Option<String>,
    memory: Option<MemoryNetwork>,
    config: Config,
    tls: Option<TlsFiles>,
}

impl HostBuilder {
    pub(crate) fn new(id: NodeId) -> Self {
        Self {
            id,
            peers: BTreeMap::new(),
            data_dir: None,
            listen: None,
            memory: None,
            config: Config::default(),
            tls: None,
        }
    }

    /// The first voters of every group, this node among them; see [`Builder::peers`](crate::Builder::peers).
    pub fn peers(mut self, peers: impl IntoIterator<Item = (NodeId, Node)>) -> Self {
        self.peers = peers.into_iter().collect();
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

    /// Tunables.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Encrypts and authenticates connections between peers, both ways.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Opens the log and the network. Must be called on a tokio runtime, which the host then uses.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(self) -> Result<Host, StartError> {
        self.config.check()?;
        Ok(Host { id: self.id })
    }
}

/// What many groups of one process share: log, network, clock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    id: NodeId,
}

impl Host {
    /// Starts to describe a host.
    pub fn builder(id: impl Into<NodeId>) -> HostBuilder {
        HostBuilder::new(id.into())
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.id
    }

    /// Starts to describe a group on this host.
    pub fn group(&self, id: impl Into<GroupId>) -> GroupBuilder {
        GroupBuilder { host: self.clone(), id: id.into() }
    }

    /// Stops every group, the network and the log.
    pub async fn shutdown(&self) {}
}

/// Describes a group on a [`Host`]; made by [`Host::group`].
#[derive(Debug)]
pub struct GroupBuilder {
    host: Host,
    id: GroupId,
}

impl GroupBuilder {
    /// Starts the group on this node. `machine` is its state if there is no snapshot.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start<S: RaftStateMachine>(self, machine: S) -> Result<Raft<S>, StartError> {
        let _ = (self.host, self.id, machine);
        Err(StartError::Closed)
    }
}
