//! Who a node is, durably: [`IdentityStore`].

use parking_lot::Mutex;
use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId};

use crate::{StartError, StorageError, StorageErrorKind};

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to; zero while it is blank.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The identity of its disk: random, made when the disk was formatted.
    pub incarnation: Incarnation,
    /// How often that disk was opened; durable before the first message.
    pub boot: u64,
    /// How leader ids compare.
    pub mode: LeaderIdMode,
}

/// Keeps who a node is. All calls may block.
pub trait IdentityStore: Send + Sync + 'static {
    /// Who this node is.
    fn identity(&self) -> Identity;

    /// Keeps durably that this node, blank until now, belongs to a cluster.
    ///
    /// # Errors
    /// If it belongs to another one, or the disk fails.
    fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), StorageError>;

    /// Keeps durably that a peer was seen with this disk and boot counter (law 15).
    ///
    /// # Errors
    /// The reason why the peer must not be talked to, and what to do about it.
    fn record_peer(&self, peer: NodeId, incarnation: Incarnation, boot: u64) -> Result<(), String>;

    /// Whether any peer was ever recorded. A node of which damage took the membership as well takes itself for alone if
    /// not, and stops rather than wait for ever; so a store that does not know says yes.
    fn has_met_peers(&self) -> bool {
        true
    }

    /// Lets go of files and locks: the host that used it has stopped. May block. Provided: that can wait until the store is
    /// dropped.
    fn close(&self) {}
}

/// The identity of a node without a disk: a new one at each start.
#[derive(Debug)]
pub(crate) struct MemoryIdentity {
    identity: Mutex<Identity>,
}

impl MemoryIdentity {
    pub(crate) fn new(node: NodeId, mode: LeaderIdMode) -> Result<Self, StartError> {
        let incarnation = Incarnation(random_u128()?);
        let identity = Identity { cluster: ClusterId(0), node, incarnation, boot: 1, mode };
        Ok(Self { identity: Mutex::new(identity) })
    }
}

impl IdentityStore for MemoryIdentity {
    fn identity(&self) -> Identity {
        *self.identity.lock()
    }

    fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), StorageError> {
        let mut identity = self.identity.lock();
        if identity.cluster != ClusterId(0) && identity.cluster != cluster {
            let text = format!("this node belongs to cluster {}, not to {cluster}", identity.cluster);
            return Err(StorageError::new(StorageErrorKind::Identity, text));
        }
        (identity.cluster, identity.mode) = (cluster, mode);
        Ok(())
    }

    fn record_peer(&self, _peer: NodeId, _incarnation: Incarnation, _boot: u64) -> Result<(), String> {
        Ok(())
    }
}

/// A random number from the operating system, never zero.
pub(crate) fn random_u128() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| StartError::Config(format!("the operating system gives no random numbers: {error}")))?;
    Ok(u128::from_le_bytes(bytes).max(1))
}
