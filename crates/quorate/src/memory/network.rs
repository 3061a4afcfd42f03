//! A network inside one process: a packet is handed to the peer as it is, batches shared, nothing encoded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::RwLock;
use quorate_core::{GroupId, Incarnation, Instant, NodeId, SendOutcome};
use quorate_wire::Packet;
use smallvec::SmallVec;

use crate::driver::Answer;
use crate::group::{Node, Standby};
use crate::{Inbound, OutgoingSnapshot, RaftNetwork, ReceivedSnapshot, SnapshotData};

/// A network inside one process, for tests and benchmarks. Cheap to clone; nodes started with the same one
/// reach each other.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    nodes: RwLock<BTreeMap<NodeId, Started>>,
    /// Number of the next start.
    next: AtomicU64,
    /// Pairs that cannot reach each other, both ways round.
    cut: RwLock<BTreeSet<(NodeId, NodeId)>>,
    any_cut: AtomicBool,
    fused: AtomicBool,
    /// Grows whenever another node may be reached, or not any more.
    changes: AtomicU64,
    standby: Arc<Standby>,
}

impl Shared {
    /// Whatever was found before is looked for again. Called after the change.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// A node that was started.
struct Started {
    number: u64,
    inbound: Arc<dyn Inbound>,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<_> = self.shared.nodes.read().keys().copied().collect();
        f.debug_struct("MemoryNetwork").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    /// A network without nodes, whose nodes are stepped by tasks of their runtimes. Under load one of these threads stays
    /// awake for them, and a caller waits for it awake for some microseconds, where that has proved shorter than to sleep.
    pub fn new() -> Self {
        Self::default()
    }

    /// A network without nodes on which the thread that sends to a peer steps it too. Best for few callers;
    /// with many, nodes that are stepped in parallel do more.
    pub fn fused() -> Self {
        let network = Self::default();
        network.shared.fused.store(true, Ordering::Relaxed);
        network
    }

    /// Cuts the connection between two nodes, both ways.
    pub fn cut(&self, one: impl Into<NodeId>, other: impl Into<NodeId>) {
        let (one, other) = (one.into(), other.into());
        self.shared.cut.write().extend([(one, other), (other, one)]);
        self.shared.any_cut.store(true, Ordering::Release);
        self.shared.changed();
    }

    /// Cuts a node off from every other node.
    pub fn isolate(&self, node: impl Into<NodeId>) {
        let node = node.into();
        let others: Vec<_> = self.shared.nodes.read().keys().copied().filter(|id| *id != node).collect();
        others.into_iter().for_each(|other| self.cut(node, other));
    }

    /// Restores every connection.
    pub fn heal(&self) {
        self.shared.cut.write().clear();
        self.shared.any_cut.store(false, Ordering::Release);
        self.shared.changed();
    }

    /// One node's end, for [`HostBuilder::network`](crate::HostBuilder::network); `incarnation` is that of its
    /// [identity](crate::Identity). [`Builder::in_memory`](crate::Builder::in_memory) makes it by itself.
    pub fn endpoint(&self, me: impl Into<NodeId>, incarnation: Incarnation) -> MemoryEndpoint {
        MemoryEndpoint {
            shared: Arc::clone(&self.shared),
            me: me.into(),
            incarnation,
            number: AtomicU64::new(u64::MAX),
        }
    }
}

/// One node's end of a [`MemoryNetwork`].
pub struct MemoryEndpoint {
    shared: Arc<Shared>,
    me: NodeId,
    incarnation: Incarnation,
    /// Of its own start; `u64::MAX` before.
    number: AtomicU64,
}

impl std::fmt::Debug for MemoryEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryEndpoint").field("me", &self.me).finish_non_exhaustive()
    }
}

impl MemoryEndpoint {
    /// The ways to a group's nodes in the same process.
    pub(crate) fn links(&self, group: GroupId) -> Links {
        let (shared, me, incarnation) = (Arc::clone(&self.shared), self.me, self.incarnation);
        Links { shared, me, incarnation, group, as_of: 0, known: SmallVec::new() }
    }

    /// The groups of this node's host are others than before.
    pub(crate) fn groups_changed(&self) {
        self.shared.changed();
    }

    /// Where this network's nodes are left to a thread that is awake, if they are not stepped by who sends.
    pub(crate) fn standby(&self) -> Option<Arc<Standby>> {
        (!self.is_fused()).then(|| Arc::clone(&self.shared.standby))
    }

    pub(crate) fn is_fused(&self) -> bool {
        self.shared.fused.load(Ordering::Relaxed)
    }

    fn peer(&self, to: NodeId) -> Option<Arc<dyn Inbound>> {
        if self.shared.any_cut.load(Ordering::Acquire) && self.shared.cut.read().contains(&(self.me, to)) {
            return None;
        }
        self.shared.nodes.read().get(&to).map(|node| Arc::clone(&node.inbound))
    }
}

impl RaftNetwork for MemoryEndpoint {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        self.shared.nodes.write().insert(self.me, Started { number, inbound });
        self.shared.changed();
    }

    fn set_address(&self, _node: NodeId, _address: &str) {}

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        match self.peer(to) {
            Some(peer) => {
                peer.on_packet(self.me, self.incarnation, packet);
                Ok(())
            }
            None => Err(packet),
        }
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        let peer = self.peer(to);
        if let Some(peer) = &peer {
            peer.on_call(self.me, body);
        }
        peer.is_some()
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let OutgoingSnapshot { group, header, meta, source, .. } = snapshot;
        let (Some(peer), Ok(data)) = (self.peer(to), source.read_all()) else { return done(SendOutcome::Failed) };
        let received = ReceivedSnapshot { group, header, meta, data: SnapshotData::Memory(data) };
        peer.on_snapshot(self.me, self.incarnation, received);
        done(SendOutcome::Delivered);
    }

    fn shutdown(&self) {
        // Not the node that took its place meanwhile.
        let mut nodes = self.shared.nodes.write();
        if nodes.get(&self.me).is_some_and(|node| node.number == self.number.load(Ordering::Relaxed)) {
            nodes.remove(&self.me);
        }
        drop(nodes);
        self.shared.changed();
    }

    fn as_memory(&self) -> Option<&MemoryEndpoint> {
        Some(self)
    }
}

/// A node of this library that was found in the same process.
#[derive(Clone)]
pub struct Link {
    pub(crate) node: Weak<Node>,
    /// Whether the thread that hands it a packet steps it.
    pub(crate) fused: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("fused", &self.fused).finish_non_exhaustive()
    }
}

/// One node's ways to its peers of a group, found once: a packet is made where it is read.
pub(crate) struct Links {
    shared: Arc<Shared>,
    me: NodeId,
    incarnation: Incarnation,
    group: GroupId,
    /// The changes that are taken in.
    as_of: u64,
    known: SmallVec<[(NodeId, Link); 4]>,
}

impl Links {
    /// The disk that this node speaks from.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Hands a packet to a peer, if that is known to be reached in this process, and keeps what it answers at once; else
    /// gives it back.
    ///
    /// As a packet that was sent earlier, it may still arrive while another thread cuts the connection.
    #[inline]
    pub(crate) fn send<P: FnOnce() -> Packet>(
        &mut self,
        to: NodeId,
        packet: P,
        turn: (Instant, &mut VecDeque<Answer>),
    ) -> Result<(), P> {
        let changes = self.shared.changes.load(Ordering::Acquire);
        if changes != self.as_of {
            self.known.clear();
            self.as_of = changes;
        }
        let (from, incarnation) = (self.me, self.incarnation);
        let known = self.known.iter().find(|(id, _)| *id == to).map(|(_, link)| link);
        // A group that is started again is another node, and the one before is closed.
        if let Some(Link { node, fused }) = known
            && let Some(node) = node.upgrade()
        {
            // The sender's driver is locked: this may be the last to hold a node that was stopped meanwhile.
            if node.closed().is_none() {
                match *fused {
                    true => node.bring_in_turn(from, incarnation, packet, turn),
                    false => {
                        node.leave_packet(from, incarnation, packet);
                        node.let_go();
                    }
                }
                return Ok(());
            }
            node.let_go();
        }
        self.look_for(to);
        Err(packet)
    }

    /// The next packet may find it.
    #[cold]
    fn look_for(&mut self, to: NodeId) {
        self.known.retain(|(id, _)| *id != to);
        let cut = self.shared.any_cut.load(Ordering::Acquire) && self.shared.cut.read().contains(&(self.me, to));
        let inbound = self.shared.nodes.read().get(&to).map(|node| Arc::clone(&node.inbound));
        if let Some(link) = inbound.filter(|_| !cut).and_then(|inbound| inbound.link(self.group)) {
            self.known.push((to, link));
        }
    }
}
