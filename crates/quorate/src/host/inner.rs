//! What the groups of a host share, and where messages find their group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_core::{
    ChangeMembers, ChangeTerms, ClusterId, Event, GroupId, Incarnation, LeaderId, Node as Member, NodeId, Phase, Retain,
};
use quorate_wire::{EntryKind, Packet};
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::HostBuilder;
use crate::blame;
use crate::call::{Call, CallId, Standing, Written};
use crate::calls::{Calls, Seen, answer};
use crate::driver::Input;
use crate::durable::Durable;
use crate::group::{Clock, Node, WallClock};
use crate::identity::random_u128;
use crate::meters::{HostMeters, TimedDisk};
use crate::raft::STOP_PATIENCE;
use crate::tcp::TcpNetwork;
use crate::{
    ClosedReason, Config, Identity, Inbound, Link, MemoryEndpoint, MetricsRegistry, RaftNetwork, ReceivedSnapshot,
    Settings, StartError, Storage, StorageError, TransferMetrics,
};

/// A group, for those who know no types.
pub(crate) trait Port: Send + Sync {
    fn node(&self) -> &Arc<Node>;

    /// A peer forwards a write; `only`: for this leader.
    fn on_write(self: Arc<Self>, from: NodeId, id: CallId, entry: EntryKind, only: Option<LeaderId>, payload: Bytes);

    /// A peer forwards commands.
    fn on_write_many(self: Arc<Self>, from: NodeId, id: CallId, only: Option<LeaderId>, payloads: Vec<Bytes>);
}

/// What the groups of a host share.
pub(crate) struct HostInner {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Where peers reach this node.
    pub(crate) address: String,
    pub(crate) peers: BTreeMap<NodeId, Member>,
    /// Of the groups that this node makes.
    pub(crate) settings: Settings,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) wall: WallClock,
    pub(crate) runtime: Handle,
    pub(crate) storage: Storage,
    pub(crate) registry: MetricsRegistry,
    pub(crate) meters: Arc<HostMeters>,
    pub(crate) network: Arc<dyn RaftNetwork>,
    pub(crate) calls: Arc<Calls>,
    seen: Seen,
    cluster: RwLock<ClusterId>,
    /// Whether `cluster` is zero.
    blank: AtomicBool,
    groups: RwLock<BTreeMap<GroupId, Arc<dyn Port>>>,
    /// Who talked to this node while it was blank.
    strangers: Mutex<BTreeSet<NodeId>>,
    pub(crate) stranger: Notify,
    /// Whether the thread that delivers a packet steps the group.
    fused: bool,
    closed: AtomicBool,
    /// Whether everything is stopped.
    stopped: watch::Sender<bool>,
    /// Stops what `open` started, after the network.
    on_shutdown: Mutex<Vec<AtShutdown>>,
}

/// Stops something that was started with the host.
type AtShutdown = Box<dyn FnOnce() + Send>;

impl HostInner {
    pub(super) async fn open(mut builder: HostBuilder) -> Result<Arc<Self>, StartError> {
        builder.config.check()?;
        let runtime = Handle::try_current()
            .map_err(|_| StartError::Config("a node must be started on a tokio runtime".into()))?;
        if !builder.peers.is_empty() && !builder.peers.contains_key(&builder.id) {
            let text = format!(
                "`peers` must name this node, {}, too; one that is added to a running cluster has no `peers`, but `listen`",
                builder.id
            );
            return Err(StartError::Config(text));
        }
        // Where snapshots from peers are written before the store takes them over.
        let incoming = builder.data_dir.as_ref().map(|directory| directory.join("received"));
        let meters = Arc::new(HostMeters::new(builder.id));
        let (storage, on_shutdown) = open_storage(&mut builder, &runtime, &meters).await?;
        let identity = blame::at_start(|| blame::storage(|| storage.identity.identity()))?;
        check_identity(&identity, builder.id, &builder.config)?;
        let mut address = builder.peers.get(&builder.id).map(|node| node.address.clone()).unwrap_or_default();
        if let (true, Some(listen)) = (address.is_empty(), &builder.listen) {
            address.clone_from(listen);
        }
        let network: Arc<dyn RaftNetwork> = match (builder.network, builder.memory) {
            (Some(network), _) => network,
            (None, Some(memory)) => Arc::new(memory.endpoint(builder.id, identity.incarnation)),
            (None, None) => {
                let listen = builder.listen.clone().unwrap_or_else(|| address.clone());
                if listen.is_empty() {
                    return Err(StartError::Config("say where to listen for peers: `listen`, or `peers`".into()));
                }
                let rate = builder.config.snapshot_max_bytes_per_second;
                let tls = builder.tls.as_ref();
                let tcp = TcpNetwork::bind_with(Arc::clone(&storage.identity), &listen, incoming, tls, rate).await?;
                if let Some(host) = address.strip_suffix(":0") {
                    address = format!("{host}:{}", tcp.port());
                    // The first membership says how others reach this node.
                    if let Some(me) = builder.peers.get_mut(&builder.id) {
                        me.address.clone_from(&address);
                    }
                }
                Arc::new(tcp)
            }
        };
        let fused = network.as_memory().is_some_and(MemoryEndpoint::is_fused);
        for (id, node) in builder.peers.iter().filter(|(id, _)| **id != builder.id) {
            blame::told((), || network.set_address(*id, &node.address));
        }
        let host = Arc::new(Self {
            id: builder.id,
            incarnation: identity.incarnation,
            address,
            peers: builder.peers,
            settings: builder.settings,
            config: builder.config,
            clock: Clock::start(),
            wall: builder.wall,
            runtime,
            storage,
            registry: builder.registry,
            meters,
            network,
            calls: Arc::new(Calls::new(random_u128()?)),
            seen: Seen::default(),
            cluster: RwLock::new(identity.cluster),
            blank: AtomicBool::new(identity.cluster == ClusterId(0)),
            groups: RwLock::new(BTreeMap::new()),
            strangers: Mutex::new(BTreeSet::new()),
            stranger: Notify::new(),
            fused,
            closed: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
            on_shutdown: Mutex::new(on_shutdown),
        });
        host.registry.add_host(&host.meters);
        let arrivals = Arc::new(Arrivals(Arc::clone(&host)));
        if let Err(error) = blame::at_start(|| blame::network(|| host.network.start(arrivals))) {
            host.shutdown().await;
            return Err(error);
        }
        Ok(host)
    }

    // ---- cluster ----

    /// The cluster this node belongs to; zero: none yet.
    pub(crate) fn cluster(&self) -> ClusterId {
        *self.cluster.read()
    }

    /// Makes this blank node a member of `cluster`, durably.
    pub(crate) async fn adopt(self: &Arc<Self>, cluster: ClusterId) -> Result<(), StorageError> {
        let host = Arc::clone(self);
        let adopt = move || {
            blame::stored(|| host.storage.identity.set_cluster(cluster, host.config.leader_id_mode))?;
            *host.cluster.write() = cluster;
            host.blank.store(false, Ordering::Release);
            blame::told((), || host.network.set_cluster(cluster));
            for port in host.groups.read().values() {
                port.node().leave(Input::Cluster(cluster));
            }
            Ok(())
        };
        match self.runtime.spawn_blocking(adopt).await {
            Ok(adopted) => adopted,
            Err(_) => Err(StorageError::new(crate::StorageErrorKind::Io, "the runtime is shutting down")),
        }
    }

    /// Peers that talked to this node while it was blank.
    pub(crate) fn strangers(&self) -> BTreeSet<NodeId> {
        self.strangers.lock().clone()
    }

    // ---- groups ----

    pub(crate) fn add_group(&self, id: GroupId, port: Arc<dyn Port>) -> Result<(), StartError> {
        let mut groups = self.groups.write();
        if self.closed.load(Ordering::Acquire) {
            return Err(StartError::Closed);
        }
        if groups.get(&id).is_some_and(|port| !port.node().is_at_rest()) {
            return Err(StartError::AlreadyRunning);
        }
        let replaced = groups.insert(id, port);
        drop(groups);
        // With the machine of before, which is the user's: not under the lock.
        drop(replaced);
        self.groups_changed();
        Ok(())
    }

    /// Forgets a group that is over, unless it was started again meanwhile.
    pub(crate) fn remove_group(&self, node: &Arc<Node>) {
        let removed = {
            let mut groups = self.groups.write();
            let is_there = groups.get(&node.group).is_some_and(|port| Arc::ptr_eq(port.node(), node));
            is_there.then(|| groups.remove(&node.group))
        };
        drop(removed);
        self.groups_changed();
    }

    fn groups_changed(&self) {
        if let Some(memory) = self.network.as_memory() {
            memory.groups_changed();
        }
    }

    /// Sees that a group may be started: it does not run. One that is over may still be at work on what its state machine
    /// was given last, which is waited for.
    pub(crate) async fn check_not_running(&self, id: GroupId) -> Result<(), StartError> {
        let Some(port) = self.port(id) else { return Ok(()) };
        let is_over = port.node().closed().is_some();
        match is_over && port.node().comes_to_rest(Instant::now() + STOP_PATIENCE).await {
            true => Ok(()),
            false => Err(StartError::AlreadyRunning),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn port(&self, group: GroupId) -> Option<Arc<dyn Port>> {
        self.groups.read().get(&group).cloned()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.groups.read().values().map(|port| Arc::clone(port.node())).collect()
    }

    /// Has a group stepped: by this thread if the network is fused, else by the node's task.
    pub(crate) fn step(&self, node: &Arc<Node>) {
        match self.fused {
            true => node.step_here(),
            false => node.step_there(),
        }
    }

    fn push(&self, node: &Arc<Node>, input: Input) {
        match self.fused {
            true => node.bring(input),
            false => node.leave(input),
        }
    }

    pub(crate) async fn shutdown(self: &Arc<Self>) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            Stop { host: Arc::clone(self), nodes: self.nodes(), has_left: false }.begin();
        }
        // Whoever comes second waits for the first.
        let mut stopped = self.stopped.subscribe();
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Closes the stores, if that was not done. The log writes its closing mark.
    fn close_stores(self: &Arc<Self>) {
        let (closing, closed) = mpsc::channel::<()>();
        let close = {
            let host = Arc::clone(self);
            move || {
                host.run_closers();
                drop((host, closing));
            }
        };
        match spawn_thread("quorate-close", close) {
            // A disk that is stuck is left alone.
            Ok(_) => drop(closed.recv_timeout(STOP_PATIENCE)),
            Err(_) => self.run_closers(),
        }
    }

    fn run_closers(&self) {
        let stops = std::mem::take(&mut *self.on_shutdown.lock());
        for stop in stops {
            blame::told((), stop);
        }
    }

    /// With their machines, which are the user's: not under the lock, and each whatever becomes of the others.
    fn drop_groups(&self) {
        let groups = std::mem::take(&mut *self.groups.write());
        for port in groups.into_values() {
            drop(blame::catch(|| drop(port)));
        }
    }

    // ---- calls ----

    fn on_call(self: &Arc<Self>, from: NodeId, call: Call) {
        match call {
            Call::Probe { group, id, cluster, incarnation, address } => {
                self.on_probe(from, group, id, incarnation, &address);
                self.maybe_elect(group, cluster);
            }
            Call::Join { group, id, address } => self.on_join(from, group, id, address),
            Call::Write { group, id, low, entry, only, payload } => {
                if !self.seen.is_new(from, id, low) {
                    return;
                }
                match self.port(group) {
                    Some(port) => port.on_write(from, id, entry, only, payload),
                    None => {
                        let written = Written::NotLeader { leader: None };
                        answer(&*self.network, from, Call::Written { group, id, written });
                    }
                }
            }
            Call::WriteMany { group, id, low, only, payloads } => {
                if !self.seen.is_new(from, id, low) {
                    return;
                }
                match self.port(group) {
                    Some(port) => port.on_write_many(from, id, only, payloads),
                    None => {
                        let written = vec![Written::NotLeader { leader: None }; payloads.len()];
                        answer(&*self.network, from, Call::WrittenMany { group, id, written });
                    }
                }
            }
            Call::Standing { id, .. }
            | Call::Joined { id, .. }
            | Call::Written { id, .. }
            | Call::WrittenMany { id, .. } => {
                self.calls.on_answer(from, id, call);
            }
        }
    }

    fn on_probe(&self, from: NodeId, group: GroupId, id: CallId, incarnation: Incarnation, address: &str) {
        let port = self.port(group);
        let known = port.as_ref().map(|port| port.node().membership()).filter(|now| now.nodes.contains_key(&from));
        if known.is_none() && !address.is_empty() {
            blame::told((), || self.network.set_address(from, address));
        }
        // A group that is not started here yet cannot say that it is blank.
        let Some(port) = port else { return };
        let node = port.node();
        let standing = match &known {
            _ if node.is_blank() => Standing::Blank,
            None => Standing::NotNamed,
            Some(now) if now.is_voter(from) && !now.is_voter_as(from, incarnation) => Standing::NamedOtherwise,
            Some(_) => Standing::Named,
        };
        let (cluster, leader) = (self.cluster(), node.leader());
        let standing = Call::Standing { group, id, standing, cluster, incarnation: self.incarnation, leader };
        answer(&*self.network, from, standing);
    }

    /// Tells a blank node where this one is reached. Its answer does not matter: it asks, once it can.
    fn tell_address(&self, peer: NodeId) {
        let (cluster, incarnation) = (self.cluster(), self.incarnation);
        let group = self.groups.read().keys().next().copied();
        let Some(group) = group.filter(|_| cluster != ClusterId(0) && !self.address.is_empty()) else { return };
        let address = self.address.clone();
        drop(self.calls.ask(&*self.network, peer, |id, _| Call::Probe { group, id, cluster, incarnation, address }));
    }

    /// The founder of a cluster campaigned before its peers knew that they belong to it. One that asks, and knows
    /// by now, can vote: no need to wait for the next time-out.
    fn maybe_elect(&self, group: GroupId, asker: ClusterId) {
        let Some(port) = self.port(group).filter(|_| asker != ClusterId(0) && asker == self.cluster()) else { return };
        let node = port.node();
        if node.is_founder() && node.leader().is_none() {
            self.push(node, Input::Event(Event::Elect { phase: Phase::Pre }));
        }
    }

    fn on_join(self: &Arc<Self>, from: NodeId, group: GroupId, id: CallId, address: String) {
        let Some(port) = self.port(group) else { return };
        let node = Arc::clone(port.node());
        let host = Arc::clone(self);
        if !node.leads() {
            let joined = Call::Joined { group, id, done: false, leader: node.leader() };
            return answer(&*self.network, from, joined);
        }
        drop(self.runtime.spawn(async move {
            let (reply, result) = oneshot::channel();
            let change = ChangeMembers::AddNodes([(from, Member::at(address))].into());
            let terms = ChangeTerms::default();
            node.bring(Input::Change { change, retain: Retain::Remove, terms, reply });
            let done = matches!(result.await, Ok(Ok(_)));
            let joined = Call::Joined { group, id, done, leader: node.leader() };
            answer(&*host.network, from, joined);
        }));
    }
}

/// The end of a host, under way. Whoever gives up waiting does not give it up, and it needs no runtime of the user's,
/// which may have ended, or have no thread left. Dropped, it does what is not done yet: nobody waits for it in vain.
struct Stop {
    host: Arc<HostInner>,
    nodes: Vec<Arc<Node>>,
    /// Whether the network was stopped.
    has_left: bool,
}

impl Stop {
    fn begin(self) {
        self.close();
        // Without a thread it is dropped here.
        drop(spawn_thread("quorate-stop", move || self.run()));
    }

    fn close(&self) {
        for node in self.nodes.iter().filter(|node| node.closed().is_none()) {
            node.bring(Input::Close(ClosedReason::Shutdown));
        }
    }

    /// Waits; what follows once nothing is to be waited for is done by the drop.
    fn run(mut self) {
        let until = Instant::now() + STOP_PATIENCE;
        let Ok(here) = runtime::Builder::new_current_thread().enable_time().build() else { return };
        let closed = async {
            for node in &self.nodes {
                node.wait_closed().await;
            }
        };
        let _stuck = here.block_on(async { timeout_at(until, closed).await });
        self.leave();
        // They write to the stores that are closed next, and to files of their own that may be opened again.
        here.block_on(async {
            for node in &self.nodes {
                node.comes_to_rest(until).await;
            }
        });
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.has_left, true) {
            // What is the user's finds the runtime that it was started on.
            let _context = self.host.runtime.enter();
            blame::told((), || self.host.network.shutdown());
            self.host.calls.close();
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.close();
        self.leave();
        self.host.close_stores();
        {
            let _context = self.host.runtime.enter();
            self.host.drop_groups();
        }
        self.host.stopped.send_replace(true);
    }
}

fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// The network's end of a host.
struct Arrivals(Arc<HostInner>);

impl Inbound for Arrivals {
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet) {
        let host = &self.0;
        if host.blank.load(Ordering::Acquire) {
            // Without a cluster id no entry can be verified. Whoever talks to this node may know the id.
            if host.strangers.lock().insert(from) {
                host.stranger.notify_waiters();
            }
            return;
        }
        if let Some(port) = host.port(packet.group) {
            match host.fused {
                true => Arc::clone(port.node()).bring_packet(from, incarnation, || packet),
                false => port.node().leave_packet(from, incarnation, || packet),
            }
        }
    }

    fn link(&self, group: GroupId) -> Option<Link> {
        let host = &self.0;
        // A blank node takes note of strangers. Once it is not, it never is again.
        let port = host.port(group).filter(|_| !host.blank.load(Ordering::Acquire))?;
        Some(Link { node: Arc::downgrade(port.node()), fused: host.fused })
    }

    fn on_call(&self, from: NodeId, body: Bytes) {
        match Call::decode(body) {
            Some(call) => self.0.on_call(from, call),
            None => tracing::warn!(
                name: "unknown_call", target: crate::events::NODE, node = self.0.id.0, peer = from.0,
                "a call that this version does not know"
            ),
        }
    }

    fn on_refused(&self, peer: NodeId) {
        for node in self.0.nodes() {
            self.0.push(&node, Input::Event(Event::LinkRefused { peer }));
        }
    }

    fn on_lost(&self, to: NodeId) {
        for node in self.0.nodes() {
            self.0.push(&node, Input::Lost(to));
        }
    }

    fn on_blank_peer(&self, peer: NodeId) {
        self.0.tell_address(peer);
    }

    fn on_snapshot_progress(&self, from: NodeId, group: GroupId, bytes: u64, total: u64) {
        if let Some(port) = self.0.port(group) {
            port.node().note_receiving(Some(TransferMetrics { peer: from, bytes, total }));
        }
    }

    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot) {
        match self.0.port(snapshot.group) {
            Some(port) if !self.0.blank.load(Ordering::Acquire) => {
                port.node().note_receiving(None);
                self.0.push(port.node(), Input::Received { from, incarnation, snapshot });
            }
            Some(_) | None => snapshot.data.discard(),
        }
    }
}

/// What the builder was given, or what it says to open; and what closes that.
async fn open_storage(
    builder: &mut HostBuilder,
    runtime: &Handle,
    meters: &Arc<HostMeters>,
) -> Result<(Storage, Vec<AtShutdown>), StartError> {
    match (builder.storage.take(), builder.data_dir.take()) {
        (Some(storage), _) => {
            let Storage { log, identity, .. } = storage.clone();
            let close = move || {
                // Each is closed whatever becomes of the other.
                blame::told((), || log.close());
                blame::told((), || identity.close());
            };
            Ok((storage, vec![Box::new(close)]))
        }
        (None, Some(directory)) => {
            let timed = TimedDisk { disk: Arc::clone(&builder.disk), meters: Arc::clone(meters) };
            let (disk, id) = (Arc::new(timed), builder.id);
            let open = move || Durable::open(disk, &directory, id);
            let durable = runtime.spawn_blocking(open).await.map_err(|_| StartError::Closed)??;
            let closing = Arc::clone(&durable);
            let storage = Storage { log: durable.clone(), snapshots: durable.clone(), identity: durable };
            Ok((storage, vec![Box::new(move || closing.shutdown())]))
        }
        (None, None) if builder.memory.is_some() => {
            Ok((Storage::in_memory_as(builder.id, builder.config.leader_id_mode)?, Vec::new()))
        }
        (None, None) => Err(StartError::Config("say where to keep the log: `data_dir`, or `in_memory`".into())),
    }
}

fn check_identity(identity: &Identity, id: NodeId, config: &Config) -> Result<(), StartError> {
    if identity.node != id {
        let text = format!("the data directory belongs to node {}, not to node {id}", identity.node);
        return Err(StorageError::new(crate::StorageErrorKind::Identity, text).into());
    }
    if identity.cluster != ClusterId(0) && identity.mode != config.leader_id_mode {
        let text = format!("the cluster's `leader_id_mode` is {:?}, for ever", identity.mode);
        return Err(StartError::Config(text));
    }
    Ok(())
}
