//! An identity that lasts as long as the test holds it.

use std::sync::Mutex;

use quorate::{
    ClusterId, Identity, IdentityStore, Incarnation, LeaderIdMode, NodeId, PeerRefused, Starts, StorageError,
};

pub(crate) struct FixedIdentity(Mutex<Identity>);

impl FixedIdentity {
    pub(crate) fn new(identity: Identity) -> Self {
        Self(Mutex::new(identity))
    }
}

impl IdentityStore for FixedIdentity {
    fn identity(&self) -> Identity {
        *self.0.lock().unwrap()
    }

    fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), StorageError> {
        let mut identity = self.0.lock().unwrap();
        (identity.cluster, identity.mode) = (cluster, mode);
        Ok(())
    }

    fn record_peer(&self, _peer: NodeId, _incarnation: Incarnation, _starts: &Starts) -> Result<(), PeerRefused> {
        Ok(())
    }
}
