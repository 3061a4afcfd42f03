//! What a node was told by its network.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::{
    ClusterId, Identity, IdentityStore, Inbound, Incarnation, LeaderIdMode, NodeId, Packet, PeerRefused,
    ReceivedSnapshot, Starts, StorageError,
};

/// Something that a network told.
#[derive(Debug)]
pub(super) enum Told {
    Packet(NodeId, Incarnation, Packet),
    Call(NodeId, Bytes),
    /// How many attempts to send had been made by then.
    Lost(NodeId, u64),
    Snapshot(NodeId, Incarnation, ReceivedSnapshot),
}

/// A node's ear.
#[derive(Default)]
pub(super) struct Inbox {
    told: Mutex<Vec<Told>>,
    more: Condvar,
    /// Attempts to send packets with entries.
    attempts: Mutex<u64>,
}

impl Inbox {
    fn push(&self, told: Told) {
        self.lock().push(told);
        self.more.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at everything told so far, again and again, until `look` finds what it wants.
    pub(super) fn wait<T>(&self, patience: Duration, mut look: impl FnMut(&mut Vec<Told>) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut told = self.lock();
        loop {
            if let Some(found) = look(&mut told) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            told = self.more.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Vec<Told>) -> T) -> T {
        look(&mut self.lock())
    }

    /// Notes an attempt to send; returns how many were made before.
    pub(super) fn count_attempt(&self) -> u64 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        *attempts += 1;
        *attempts - 1
    }
}

impl Inbound for Inbox {
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet) {
        self.push(Told::Packet(from, incarnation, packet));
    }

    fn on_call(&self, from: NodeId, body: Bytes) {
        self.push(Told::Call(from, body));
    }

    fn on_refused(&self, _peer: NodeId) {}

    fn on_lost(&self, to: NodeId) {
        let attempts = *self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        self.push(Told::Lost(to, attempts));
    }

    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot) {
        self.push(Told::Snapshot(from, incarnation, snapshot));
    }
}

/// The identity of a node of the suite, in memory.
pub(super) struct Name(Identity);

impl Name {
    /// Node `node`, on the disk it was given at its `boot`.
    pub(super) fn new(node: u64, disk: u128, boot: u64) -> Arc<Self> {
        Arc::new(Self(Identity {
            cluster: ClusterId(0x7e57),
            node: NodeId(node),
            incarnation: Incarnation(disk),
            starts: Starts::counted(boot),
            mode: LeaderIdMode::Advanced,
        }))
    }
}

impl IdentityStore for Name {
    fn identity(&self) -> Identity {
        self.0
    }

    fn set_cluster(&self, _cluster: ClusterId, _mode: LeaderIdMode) -> Result<(), StorageError> {
        Ok(())
    }

    fn record_peer(&self, _peer: NodeId, _incarnation: Incarnation, _starts: &Starts) -> Result<(), PeerRefused> {
        Ok(())
    }
}
