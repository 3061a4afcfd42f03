//! Who a node is, durably: [`IdentityStore`].

use parking_lot::Mutex;
use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId, Starts};

use crate::{PeerRefused, StartError, StorageError, StorageErrorKind};

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to; zero while it is blank.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The identity of its disk: random, made when the disk was formatted.
    pub incarnation: Incarnation,
    /// When that disk was opened, with a random token of each start; durable before the first message. A store that keeps
    /// no tokens gives [`Starts::counted`]: an older copy of it is then told only until it was started as often.
    pub starts: Starts,
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

    /// Keeps durably the newest start at which a peer was seen on this disk (law 15).
    ///
    /// # Errors
    /// The reason why the peer must not be talked to, and what to do about it. A peer on an older copy of its disk is to
    /// be told, for [`note_older_copy`](Self::note_older_copy).
    fn record_peer(&self, peer: NodeId, incarnation: Incarnation, starts: &Starts) -> Result<(), PeerRefused>;

    /// A peer has refused this node, because it runs on an older copy of its disk (law 15): nothing is durable on it any
    /// more, so that its groups end, and it does not start again. A store that does nothing stays refused by that peer.
    ///
    /// # Errors
    /// The disk's; the groups end all the same.
    fn note_older_copy(&self, peer: NodeId, text: &str) -> Result<(), StorageError> {
        let _ = (peer, text);
        Ok(())
    }

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
        let identity = Identity { cluster: ClusterId(0), node, incarnation, starts: Starts::counted(1), mode };
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

    fn record_peer(&self, _peer: NodeId, _incarnation: Incarnation, _starts: &Starts) -> Result<(), PeerRefused> {
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
