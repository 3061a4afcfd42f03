//! The handle: [`Transport`], its peers, and the life of its tasks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{ClusterId, NodeId, SendOutcome};
use quorate_wire::Packet;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};

use crate::Handler;
use crate::error::NetError;
use crate::hello::{DialedBy, Lane, LocalIdentity, PeerHello};
use crate::lane::{self, LaneQueue};
use crate::options::{FRAME_ALLOWANCE_BYTES, TransportOptions};
use crate::snapshot::OutgoingSnapshot;
use crate::{accept, dial, snapshot};

/// A call larger than this takes the data connection, so that heartbeats need not wait for it.
const CONTROL_CALL_BYTES: usize = 32 << 10;
/// How long a shutdown lets queued messages leave: a transfer of leadership is often the last one.
const FLUSH_TIME: Duration = Duration::from_millis(250);
/// Refusals remembered, so that each is logged once.
const REMEMBERED_REFUSALS: usize = 256;

/// A node's end of the network.
///
/// Dropping it shuts it down.
#[derive(Debug)]
pub struct Transport {
    inner: Arc<Inner>,
    listener: Mutex<Option<TcpListener>>,
    local_addr: SocketAddr,
}

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Nothing is accepted any more; queued messages may leave.
    Flushing,
    Stopped,
}

pub(crate) struct Inner {
    pub(crate) options: TransportOptions,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::TlsContext>,
    pub(crate) handler: OnceLock<Arc<dyn Handler>>,
    pub(crate) incoming_permits: Arc<Semaphore>,
    /// Numbers the files of incoming snapshots.
    pub(crate) next_file: AtomicU64,
    pub(crate) transfers: crate::sink::Transfers,
    identity: RwLock<LocalIdentity>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    incoming: Mutex<HashMap<u64, (PeerHello, Arc<Notify>)>>,
    next_incoming: AtomicU64,
    /// The last refusal of each address and node.
    refusals: Mutex<HashMap<(IpAddr, Option<NodeId>), String>>,
    phase: watch::Sender<Phase>,
    tasks: watch::Sender<usize>,
    runtime: Handle,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// A node that this one dials.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) control: LaneQueue,
    pub(crate) data: LaneQueue,
    pub(crate) received_frames: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// Grows when the address or this node's identity changes: connections of an older epoch are made anew.
    epoch: AtomicU64,
    removed: AtomicBool,
    address: Mutex<String>,
    hello: Mutex<Option<PeerHello>>,
}

/// What a transport tells of a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// Where it is dialed.
    pub address: String,
    /// What it last said of itself, when one end accepted the other.
    pub hello: Option<PeerHello>,
    /// The control connection to it.
    pub control: LaneStats,
    /// The data connection to it.
    pub data: LaneStats,
    /// Frames that arrived from it.
    pub received_frames: u64,
    /// Bytes that arrived from it, without frame headers.
    pub received_bytes: u64,
}

/// What a transport tells of one of its connections. The totals start with the transport.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LaneStats {
    /// Whether it stands.
    pub connected: bool,
    /// Bytes that wait to be sent.
    pub queued_bytes: usize,
    /// Frames sent.
    pub sent_frames: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Writes that took: frames over writes is how well they coalesce.
    pub writes: u64,
    /// Attempts to connect.
    pub dials: u64,
    /// Messages given back because the window was full or there was no connection.
    pub given_back: u64,
    /// Why there is no connection; `None` while there is one.
    pub last_error: Option<String>,
}

impl Transport {
    /// Opens the listening socket on the current runtime. Nothing is accepted or dialed before
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// An option, the address, the directory or a certificate that cannot be used.
    pub async fn bind(options: TransportOptions) -> Result<Self, NetError> {
        options.check()?;
        #[cfg(feature = "tls")]
        let tls = options.tls.as_ref().map(|tls| tls.build(options.identity.node)).transpose()?;
        if let Some(dir) = &options.incoming_dir {
            let prepared = crate::sink::prepare_dir(dir);
            prepared.map_err(|source| NetError::IncomingDir { path: dir.clone(), source })?;
        }
        let failed = |source| NetError::Listen { address: options.listen.clone(), source };
        let listener = TcpListener::bind(&options.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let inner = Inner {
            #[cfg(feature = "tls")]
            tls,
            handler: OnceLock::new(),
            incoming_permits: Arc::new(Semaphore::new(options.max_incoming)),
            next_file: AtomicU64::new(1),
            transfers: crate::sink::Transfers::default(),
            identity: RwLock::new(options.identity),
            peers: RwLock::default(),
            incoming: Mutex::default(),
            next_incoming: AtomicU64::new(1),
            refusals: Mutex::default(),
            phase: watch::Sender::new(Phase::Running),
            tasks: watch::Sender::new(0),
            runtime: Handle::current(),
            options,
        };
        Ok(Self { inner: Arc::new(inner), listener: Mutex::new(Some(listener)), local_addr })
    }

    /// Starts to accept and to dial, delivering to `handler`. Only the first call counts.
    pub fn start(&self, handler: Arc<dyn Handler>) {
        let peers = self.inner.peers.write().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = lock(&self.listener).take() else { return };
        if self.inner.handler.set(handler).is_err() || self.inner.phase() != Phase::Running {
            return;
        }
        self.inner.spawn(accept::listen(Arc::clone(&self.inner), listener));
        peers.values().for_each(|peer| self.inner.spawn_lanes(peer));
    }

    /// Where it listens; the port is the real one.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tells where a node is reached (`host:port`), or that it is reached elsewhere from now on. Names are
    /// resolved at each connect. The node is dialed at once and kept connected; the own id is ignored.
    pub fn set_address(&self, node: NodeId, address: &str) {
        if node == self.inner.options.identity.node {
            return;
        }
        let mut peers = self.inner.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            let mut known = lock(&peer.address);
            if *known != address {
                address.clone_into(&mut known);
                drop(known);
                peer.renew();
            }
            return;
        }
        let peer = Arc::new(Peer::new(node, address, &self.inner.options));
        peers.insert(node, Arc::clone(&peer));
        if self.inner.handler.get().is_some() {
            self.inner.spawn_lanes(&peer);
        }
    }

    /// Forgets a node: closes its connections and dials it no more. It may still dial this node, unless
    /// [`Handler::check_peer`] refuses it.
    pub fn remove_peer(&self, node: NodeId) {
        let removed = self.inner.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(peer) = removed {
            peer.removed.store(true, SeqCst);
            peer.renew();
        }
        self.inner.close_incoming(|hello| hello.node == node);
    }

    /// Tells who this node is from now on: a blank node learned its cluster. Every connection is made anew under
    /// the new identity before another message leaves; nothing queued is lost.
    pub fn set_identity(&self, identity: LocalIdentity) {
        *self.inner.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        let (blank, cluster) = (ClusterId(0), identity.cluster);
        self.inner.close_incoming(|hello| hello.cluster != blank && cluster != blank && hello.cluster != cluster);
        let peers = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().for_each(|peer| peer.renew());
    }

    /// Takes a message for a peer: with entries for the data connection, else for the control connection. Never
    /// blocks.
    ///
    /// # Errors
    /// Gives the packet back if that window is full, if there is no connection and none is being made, if the
    /// packet is larger than a frame may be, or if no address is known.
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    pub fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let lane = if packet.batches.is_empty() { Lane::Control } else { Lane::Data };
        self.send_on(lane, to, packet)
    }

    /// Takes a message for a peer that must not overtake packets with entries: it goes behind them.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    pub fn send_behind(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.send_on(Lane::Data, to, packet)
    }

    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    fn send_on(&self, lane: Lane, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let Some(peer) = self.inner.peer(to) else { return Err(packet) };
        let bytes = lane::packet_bytes(&packet);
        let queue = peer.queue(lane);
        if bytes > self.inner.options.max_frame_bytes {
            queue.counters.given_back.fetch_add(1, Relaxed);
            return Err(packet);
        }
        queue.offer(packet, bytes)
    }

    /// Takes the library's own message for a peer. Never blocks; tells whether it was taken. Calls of different
    /// sizes may overtake each other.
    pub fn call(&self, to: NodeId, body: Bytes) -> bool {
        let Some(peer) = self.inner.peer(to) else { return false };
        let queue = if body.len() <= CONTROL_CALL_BYTES { &peer.control } else { &peer.data };
        let bytes = lane::call_bytes(&body);
        bytes <= self.inner.options.max_frame_bytes && queue.offer(body, bytes).is_ok()
    }

    /// Sends a snapshot on a connection of its own; `done` tells how it ended, on a thread of the runtime, exactly
    /// once.
    pub fn send_snapshot(
        &self,
        to: NodeId,
        snapshot: OutgoingSnapshot,
        done: impl FnOnce(SendOutcome) + Send + 'static,
    ) {
        let inner = Arc::clone(&self.inner);
        self.inner.spawn(snapshot::send(inner, to, snapshot, snapshot::Done::new(done)));
    }

    /// What is known of each peer, by node id.
    pub fn stats(&self) -> Vec<PeerStats> {
        let peers = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
        let mut stats: Vec<_> = peers.values().map(|peer| peer.stats()).collect();
        stats.sort_by_key(|peer| peer.node);
        stats
    }

    /// Stops: nothing is accepted any more; what is queued has a quarter of a second to leave.
    pub fn shutdown(&self) {
        drop(lock(&self.listener).take());
        self.inner.shutdown();
    }

    /// Waits until every task has ended and every connection is closed. Needs a [`shutdown`](Self::shutdown).
    pub async fn closed(&self) {
        // An error would mean that the sender is gone; we hold it.
        let _ = self.inner.tasks.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Inner {
    /// This node, for events.
    pub(crate) fn me(&self) -> u64 {
        self.options.identity.node.0
    }

    pub(crate) fn identity(&self) -> LocalIdentity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until a shutdown begins.
    pub(crate) async fn stopping(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Runs a task until it ends or the transport has stopped.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(self);
        let mut phase = self.phase.subscribe();
        self.runtime.spawn(async move {
            let _counted = counted;
            tokio::select! {
                () = task => {}
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
            }
        });
    }

    fn spawn_lanes(self: &Arc<Self>, peer: &Arc<Peer>) {
        if self.phase() == Phase::Running {
            for lane in [Lane::Control, Lane::Data] {
                self.spawn(dial::run(Arc::clone(self), Arc::clone(peer), lane));
            }
        }
    }

    fn shutdown(self: &Arc<Self>) {
        let first = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            *phase = (*phase).max(Phase::Flushing);
            first
        });
        if !first {
            return;
        }
        for peer in self.peers.read().unwrap_or_else(PoisonError::into_inner).values() {
            peer.poke();
        }
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let mut tasks = inner.tasks.subscribe();
            let _ = tokio::time::timeout(FLUSH_TIME, tasks.wait_for(|count| *count == 0)).await;
            inner.phase.send_replace(Phase::Stopped);
        });
    }

    /// Notes a peer's hello, in either direction.
    pub(crate) fn note_hello(&self, hello: &PeerHello) {
        if let Some(peer) = self.peer(hello.node) {
            let before = lock(&peer.hello).replace(*hello);
            if before.is_some_and(|before| before.is_copy_of(hello) && before.starts.boot() < hello.starts.boot()) {
                // What was dialed may be an older copy of the disk that spoke now: dial anew, and judge anew.
                peer.renew();
            }
            if hello.dialed_by == DialedBy::Peer {
                // Who dials us can be dialed: do not sit out a wait.
                peer.control.wake.notify_waiters();
                peer.data.wake.notify_waiters();
            }
        }
    }

    /// Enters an accepted connection; the notification asks it to close.
    pub(crate) fn enter(self: &Arc<Self>, hello: PeerHello) -> Entered {
        let number = self.next_incoming.fetch_add(1, Relaxed);
        let close = Arc::new(Notify::new());
        let mut incoming = lock(&self.incoming);
        // Connections of an earlier start of the same disk go: that process is gone, or it runs on an older copy of the
        // disk and was let in before that could be known (law 15). It is refused when it comes again.
        for (other, its_close) in incoming.values().filter(|(other, _)| other.is_copy_of(&hello)) {
            let (older, newer) =
                (hello.starts.boot().min(other.starts.boot()), hello.starts.boot().max(other.starts.boot()));
            if other.starts.boot() < hello.starts.boot() {
                tracing::debug!(
                    name: "earlier_start_closed", target: crate::EVENTS, node = self.me(), peer = hello.node.0, older, newer,
                    "a later start of its disk is here: closed a connection of an earlier one"
                );
                its_close.notify_one();
            } else {
                tracing::error!(
                    name: "older_copy_closed", target: crate::EVENTS, node = self.me(), peer = hello.node.0, older, newer,
                    "closed a connection from an older copy of the node's disk: a later start of it is here"
                );
                close.notify_one();
            }
        }
        incoming.insert(number, (hello, Arc::clone(&close)));
        drop(incoming);
        Entered { inner: Arc::clone(self), number, close }
    }

    fn close_incoming(&self, which: impl Fn(&PeerHello) -> bool) {
        lock(&self.incoming).values().filter(|(hello, _)| which(hello)).for_each(|(_, close)| close.notify_one());
    }

    /// Whether this refusal is news: the same text for the same address and node is logged once.
    pub(crate) fn is_news(&self, address: IpAddr, node: Option<NodeId>, text: &str) -> bool {
        let mut refusals = lock(&self.refusals);
        if refusals.get(&(address, node)).is_some_and(|known| known == text) {
            return false;
        }
        if refusals.len() >= REMEMBERED_REFUSALS {
            refusals.clear();
        }
        refusals.insert((address, node), text.to_owned());
        true
    }

    /// A handshake with this node succeeded: a later refusal is news again.
    pub(crate) fn forget_refusals(&self, address: IpAddr, node: NodeId) {
        lock(&self.refusals).retain(|(known, of), _| *known != address || of.is_some_and(|of| of != node));
    }
}

/// An accepted connection's place in the register.
#[derive(Debug)]
pub(crate) struct Entered {
    inner: Arc<Inner>,
    number: u64,
    pub(crate) close: Arc<Notify>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.inner.incoming).remove(&self.number);
    }
}

/// Counts a task while it lives.
struct Counted(Arc<Inner>);

impl Counted {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.tasks.send_modify(|count| *count += 1);
        Self(Arc::clone(inner))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|count| *count -= 1);
    }
}

impl Peer {
    fn new(node: NodeId, address: &str, options: &TransportOptions) -> Self {
        Self {
            node,
            control: LaneQueue::new(options.control_window_bytes.max(FRAME_ALLOWANCE_BYTES)),
            data: LaneQueue::new(options.data_window_bytes.max(FRAME_ALLOWANCE_BYTES)),
            received_frames: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            address: Mutex::new(address.to_owned()),
            hello: Mutex::default(),
        }
    }

    /// The queue of a lane that is kept connected.
    pub(crate) fn queue(&self, lane: Lane) -> &LaneQueue {
        match lane {
            Lane::Control => &self.control,
            Lane::Data | Lane::Snapshot => &self.data,
        }
    }

    pub(crate) fn address(&self) -> String {
        lock(&self.address).clone()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(SeqCst)
    }

    fn renew(&self) {
        self.epoch.fetch_add(1, SeqCst);
        self.poke();
    }

    fn poke(&self) {
        for queue in [&self.control, &self.data] {
            queue.poke.notify_one();
            queue.wake.notify_waiters();
        }
    }

    fn stats(&self) -> PeerStats {
        PeerStats {
            node: self.node,
            address: self.address(),
            hello: *lock(&self.hello),
            control: lane_stats(&self.control),
            data: lane_stats(&self.data),
            received_frames: self.received_frames.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
        }
    }
}

fn lane_stats(queue: &LaneQueue) -> LaneStats {
    let counters = &queue.counters;
    LaneStats {
        connected: counters.connected.load(Relaxed),
        queued_bytes: queue.queued_bytes(),
        sent_frames: counters.frames.load(Relaxed),
        sent_bytes: counters.bytes.load(Relaxed),
        writes: counters.writes.load(Relaxed),
        dials: counters.dials.load(Relaxed),
        given_back: counters.given_back.load(Relaxed),
        last_error: lock(&counters.last_error).clone(),
    }
}

/// Locks; a panic elsewhere leaves our small maps whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
