//! The driver: performs what the core asks for, in order, and tells it what was done. It decides nothing about
//! Raft, owns no thread, takes no lock that blocks and reads no clock: whoever holds it calls [`Driver::turn`].
//!
//! What has to happen outside (applies, wake-ups, blocking reads) comes out as [`Effects`]; storage and network are
//! called directly, because `submit` and `send` only enqueue (law 20).

mod due;
mod note;
mod perform;
mod tail;
mod tune;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
#[cfg(feature = "sim")]
use quorate_core::Envelope;
use quorate_core::{
    Actions, AppendHeader, AppendReply, Bug, ChangeMembers, ChangeTerms, ClusterId, Core, Entries, Event, GroupId,
    Incarnation, Instant, LeaderId, LogId, Membership, Message, NodeId, ReadPolicy, Recovered, Refusal, RequestId,
    Retain, SnapshotMeta, Span, StreamId, WriteId, bug,
};
use quorate_wire::{BatchBuilder, Batches, Packet};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::blame;
use crate::group::{CommitWaits, Failure, Fired, Permit, Proposals, ReadBatch, Taken, Waits, forget};
use crate::memory::{Links, MemoryLog};
use crate::meters::{GroupMeters, Trips};
#[cfg(feature = "sim")]
use crate::virtual_node::StepObserver;
use crate::{
    ChangeError, ClosedReason, InitializeError, RaftLogStorage, RaftNetwork, ReceivedSnapshot, SnapshotData,
    SnapshotError, StorageError,
};

#[cfg(test)]
pub(crate) use self::note::{denied, refused, trace};
pub(crate) use self::tail::Tail;
pub(crate) use self::tune::{Switch, Tune};
use self::writes::Writes;

/// The time, read after the inputs of a turn were taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For the core.
    pub(crate) at: Instant,
    /// For entries: nanoseconds since the Unix epoch.
    pub(crate) wall: u64,
}

/// That a node leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leading {
    pub(crate) leader_id: LeaderId,
    /// A quorum followed it after this moment.
    pub(crate) quorum_acked: Option<Instant>,
}

/// Something for a turn.
pub(crate) enum Input {
    Packet {
        from: NodeId,
        incarnation: Incarnation,
        packet: Packet,
    },
    Received {
        from: NodeId,
        incarnation: Incarnation,
        snapshot: ReceivedSnapshot,
    },
    Event(Event),
    Read {
        policy: ReadPolicy,
        batch: Arc<ReadBatch>,
    },
    Change {
        change: ChangeMembers,
        retain: Retain,
        terms: ChangeTerms,
        reply: oneshot::Sender<Result<LogId, ChangeError>>,
    },
    Initialize {
        membership: Membership,
        reply: oneshot::Sender<Result<LogId, InitializeError>>,
    },
    /// Hand leadership over.
    Transfer {
        to: Option<NodeId>,
        reply: oneshot::Sender<Result<LeaderId, ChangeError>>,
    },
    /// What this node leads under, or whom it follows.
    AskLeading {
        reply: oneshot::Sender<Result<Leading, Option<NodeId>>>,
    },
    /// Someone wants a snapshot, or the log purged up to this index.
    Compact {
        purge: Option<u64>,
        reply: oneshot::Sender<Result<LogId, SnapshotError>>,
    },
    /// Entries sent to this peer may not have arrived.
    Lost(NodeId),
    /// What a [`Fetch`] found.
    Fetched {
        fetch: Fetch,
        found: Option<Batches>,
    },
    /// The snapshot that was to be installed is, and the last entry in it was stamped with `time`.
    Installed {
        meta: SnapshotMeta,
        time: u64,
    },
    /// This node now belongs to this cluster.
    Cluster(ClusterId),
    /// Reads asked before this are given up: their question or answer was lost.
    ExpireReads {
        before: Instant,
    },
    /// Tunables are asked for or changed.
    Tune(Tune),
    /// Someone wants fresh metrics.
    Publish,
    /// The group is over.
    Close(ClosedReason),
}

/// A packet that is stepped in the turn of the peer that sends it.
pub(crate) struct Lent<'a> {
    pub(crate) from: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) packet: &'a mut Packet,
    /// The time of the peer's turn.
    pub(crate) at: Instant,
    /// For the peer, which takes them in the same turn.
    pub(crate) answers: &'a mut VecDeque<Answer>,
}

/// What a node answers in the turn of the peer that asks.
pub(crate) struct Answer {
    pub(crate) from: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) reply: AppendReply,
}

impl Input {
    /// Lets go of what no driver takes; whoever waits for an answer sees its channel close.
    pub(crate) fn discard(self) {
        if let Self::Received { snapshot, .. } = self {
            snapshot.data.discard();
        }
    }
}

/// Entries for a peer that have to be read from the storage, on a thread that may block.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) to: NodeId,
    pub(crate) header: AppendHeader,
    pub(crate) span: Span,
}

/// A snapshot that a peer needs.
#[derive(Debug)]
pub(crate) struct Ship {
    pub(crate) to: NodeId,
    pub(crate) header: AppendHeader,
    pub(crate) at_least: LogId,
}

/// The entries from `first` on are awaited; they count only under this leader.
pub(crate) struct Awaited {
    pub(crate) first: LogId,
    pub(crate) count: u64,
    pub(crate) waits: Arc<dyn Waits>,
    pub(crate) permit: Permit,
}

/// Work for the apply queue, in this order (law 11).
pub(crate) enum ApplyJob {
    /// Apply these entries, committed and durable at `since`; without batches they have to be read first. Never dropped.
    Apply { span: Span, batches: Option<Batches>, since: Instant },
    /// Make this snapshot durable, restore from it.
    Install { meta: Box<SnapshotMeta>, data: SnapshotData },
    /// Capture what is applied.
    Build,
}

/// What a turn leaves for its caller.
#[derive(Default)]
pub(crate) struct Effects {
    /// To be handed over before the driver is let go; what is awaited before the applies.
    pub(crate) awaited: Vec<Awaited>,
    pub(crate) apply: Vec<ApplyJob>,
    /// To be fired after the driver was let go.
    pub(crate) fired: Fired,
    pub(crate) fetch: Vec<Fetch>,
    pub(crate) ship: Vec<Ship>,
    /// The group is over.
    pub(crate) closed: Option<ClosedReason>,
}

/// Completions that arrived and were not yet reported to the core.
#[derive(Default)]
pub(crate) struct Completed {
    list: Mutex<Vec<(WriteId, Result<(), StorageError>)>>,
    /// Lets a turn see without the lock that there are none.
    any: AtomicBool,
}

impl Completed {
    pub(crate) fn push(&self, write: WriteId, result: Result<(), StorageError>) {
        let mut list = self.list.lock();
        list.push((write, result));
        self.any.store(true, Ordering::Release);
    }

    /// Exchanges what arrived for an empty list; returns whether there was any.
    fn take(&self, into: &mut Vec<(WriteId, Result<(), StorageError>)>) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut list = self.list.lock();
        self.any.store(false, Ordering::Relaxed);
        std::mem::swap(into, &mut *list);
        !into.is_empty()
    }
}

/// A batch of writes in the log.
struct Proposed {
    /// Its last index.
    last: u64,
    entries: u64,
    at: Instant,
}

/// Who waits for an answer of the core, other than writers.
enum Waiting {
    /// With the moment it was asked.
    Read(Arc<ReadBatch>, Instant),
    Change(oneshot::Sender<Result<LogId, ChangeError>>),
    Initialize(oneshot::Sender<Result<LogId, InitializeError>>),
    Transfer(oneshot::Sender<Result<LeaderId, ChangeError>>),
    Compact(oneshot::Sender<Result<LogId, SnapshotError>>),
}

/// What a driver is made of.
pub(crate) struct DriverParts {
    pub(crate) config: quorate_core::Config,
    pub(crate) group: GroupId,
    pub(crate) cluster: ClusterId,
    pub(crate) recovered: Recovered,
    /// The greatest time stamped into an entry or snapshot that was recovered.
    pub(crate) last_time: u64,
    pub(crate) tail_bytes: usize,
    pub(crate) storage: Arc<dyn RaftLogStorage>,
    pub(crate) network: Arc<dyn RaftNetwork>,
    pub(crate) proposals: Arc<dyn Proposals>,
    pub(crate) completed: Arc<Completed>,
    pub(crate) meters: Arc<GroupMeters>,
}

/// One group's driver on one node.
pub(crate) struct Driver {
    me: NodeId,
    group: GroupId,
    /// Zero until this node belongs to a cluster: no entry can be read or written before.
    cluster: ClusterId,
    core: Core,
    storage: Arc<dyn RaftLogStorage>,
    /// If the storage is this library's log in memory: what is written to it is durable at once.
    memory: Option<MemoryLog>,
    /// A write could not be made, so that nothing the core says may be done any more.
    broken: bool,
    /// The time of this turn.
    at: Instant,
    /// What was applied, until the core is told by the next step of this turn.
    applied: Option<LogId>,
    /// If the network is this library's in memory: where peers are found directly.
    links: Option<Links>,
    network: Arc<dyn RaftNetwork>,
    proposals: Arc<dyn Proposals>,
    completed: Arc<Completed>,
    meters: Arc<GroupMeters>,
    trips: Trips,
    tail: Tail,
    writes: Writes,
    /// The greatest time stamped into an entry so far.
    last_time: u64,
    /// The core's answers during a step; reused.
    actions: Actions,
    /// Events that performing an action caused, in order.
    caused: VecDeque<Event>,
    /// What peers answered in this turn, in order.
    answers: VecDeque<Answer>,
    /// Entries of the packet being stepped.
    at_hand: Batches,
    /// Content of the received snapshot being stepped.
    received: Option<SnapshotData>,
    /// The proposal being stepped.
    proposal: Option<Taken>,
    /// The batches of writes that are in the log and not committed.
    proposed: VecDeque<Proposed>,
    /// Most of them.
    max_proposed: usize,
    /// When the next turn is due, as of the last one.
    due: Option<Instant>,
    /// While this node reads what came as it stood still: until when nothing is taken for overdue.
    catches_up: Option<Instant>,
    /// Who wants to know that a write is committed.
    commit_waits: CommitWaits,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    /// Acknowledgements of this turn, one a peer where the protocol allows it.
    replies: SmallVec<[(NodeId, AppendReply); 2]>,
    /// Something other than these was sent in this turn.
    posted: bool,
    /// The stream that each peer was last sent entries in.
    streams: SmallVec<[(NodeId, StreamId); 8]>,
    /// Peers whose entries are being read from the storage, once for each read.
    fetching: SmallVec<[NodeId; 2]>,
    /// What was last sent in this turn: most often the next peer is sent the same.
    sent: Option<(Span, Batches, Entries)>,
    /// For entries that the core makes.
    builder: BatchBuilder,
    /// Completions being worked off; reused.
    completions: Vec<(WriteId, Result<(), StorageError>)>,
    /// What the wall clock showed when the core's clock began: only a planted bug asks.
    wall_at_origin: Option<u64>,
    /// Whether the invariants of steps are asserted.
    #[cfg(feature = "sim")]
    checked: bool,
    #[cfg(feature = "sim")]
    observer: Option<Box<dyn StepObserver>>,
}

impl Driver {
    pub(crate) fn new(parts: DriverParts, now: Instant) -> Self {
        let tail = Tail::new(parts.tail_bytes);
        let (me, max_proposed) = (parts.config.node_id, parts.config.max_inflight_appends);
        if let Some(snapshot) = &parts.recovered.snapshot {
            parts.meters.snapshot_at(snapshot.last_log_id.index);
        }
        let mut core = Core::new(parts.config, parts.recovered, now);
        let memory = parts.storage.as_memory().map(|storage| storage.log_of(parts.group));
        if memory.is_some() {
            core.persist_at_once();
        }
        let driver = Self {
            me,
            group: parts.group,
            cluster: parts.cluster,
            due: core.deadline(),
            catches_up: None,
            core,
            storage: parts.storage,
            memory,
            broken: false,
            applied: None,
            at: now,
            links: parts.network.as_memory().map(|endpoint| endpoint.links(parts.group)),
            network: parts.network,
            proposals: parts.proposals,
            completed: parts.completed,
            meters: parts.meters,
            trips: Trips::default(),
            tail,
            writes: Writes::default(),
            last_time: parts.last_time,
            actions: Actions::new(),
            caused: VecDeque::new(),
            answers: VecDeque::new(),
            at_hand: Batches::new(),
            received: None,
            proposal: None,
            proposed: VecDeque::new(),
            max_proposed,
            commit_waits: CommitWaits::default(),
            waiting: BTreeMap::new(),
            next_request: 0,
            replies: SmallVec::new(),
            posted: false,
            streams: SmallVec::new(),
            fetching: SmallVec::new(),
            sent: None,
            builder: BatchBuilder::new(),
            completions: Vec::new(),
            wall_at_origin: None,
            #[cfg(feature = "sim")]
            checked: false,
            #[cfg(feature = "sim")]
            observer: None,
        };
        driver.tell_addresses();
        driver
    }

    /// From now on every invariant of a step is asserted after it.
    #[cfg(feature = "sim")]
    pub(crate) fn check_steps(&mut self) {
        self.checked = true;
    }

    /// From now on every step is told to this observer.
    #[cfg(feature = "sim")]
    pub(crate) fn observe_steps(&mut self, observer: Box<dyn StepObserver>) {
        self.observer = Some(observer);
    }

    #[cfg(feature = "sim")]
    fn step_core(&mut self, now: Now, event: Event, actions: &mut Actions) {
        let before = actions.0.len();
        if let Some(observer) = &mut self.observer {
            observer.begins(&event);
        }
        match self.checked {
            true => self.core.step_checked(now.at, event, actions),
            false => self.core.step(now.at, event, actions),
        }
        if let Some(observer) = &mut self.observer {
            observer.ends(actions.0.get(before..).unwrap_or_default());
        }
    }

    #[cfg(not(feature = "sim"))]
    #[inline(always)]
    fn step_core(&mut self, now: Now, event: Event, actions: &mut Actions) {
        self.core.step(now.at, event, actions);
    }

    fn receive(&mut self, now: Now, from: (NodeId, Incarnation), message: &mut Message, actions: &mut Actions) {
        let (from, incarnation) = from;
        #[cfg(feature = "sim")]
        if self.checked || self.observer.is_some() {
            // Who looks is shown an event; the core receives it as any other message.
            let nothing = Message::ReadReply { request: RequestId(0), log_id: None };
            let message = std::mem::replace(message, nothing);
            return self.step_core(now, Event::Message(Envelope { from, incarnation, message }), actions);
        }
        self.core.receive(now.at, from, incarnation, message, actions);
    }

    /// The core, to look at.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Takes in what came and does what follows from it: first what was `applied`, then the inputs, then what was lent.
    /// Leaves `inputs` empty.
    pub(crate) fn turn(
        &mut self,
        mut now: Now,
        applied: Option<LogId>,
        (inputs, mut lent): (&mut Vec<Input>, Option<Lent<'_>>),
        effects: &mut Effects,
    ) {
        if bug(Bug::LeaseByWallClock) {
            let origin = *self.wall_at_origin.get_or_insert(now.wall.saturating_sub(now.at.as_nanos()));
            now.at = Instant::from_nanos(now.wall.saturating_sub(origin));
        }
        self.at = now.at;
        self.applied = applied;
        self.posted = false;
        // One by one: if one of them panics, the others can still be answered.
        for input in inputs.iter_mut() {
            match input {
                Input::Packet { from, incarnation, packet } => {
                    self.on_packet(now, (*from, *incarnation), packet, effects);
                }
                input => self.on_input(now, std::mem::replace(input, Input::Publish), effects),
            }
        }
        inputs.clear();
        if let Some(Lent { from, incarnation, packet, .. }) = &mut lent {
            self.on_packet(now, (*from, *incarnation), packet, effects);
        }
        self.report_completions(now, effects);
        self.take_proposals(now, effects);
        if let Some(log_id) = self.applied.take() {
            self.step(now, Event::Applied(log_id), effects);
        }
        let was_due = std::mem::replace(&mut self.due, self.core.deadline());
        if self.due.is_some_and(|due| due <= now.at) {
            self.on_due(now, was_due, effects);
        } else {
            self.catches_up = None;
        }
        self.commit_waits.tell(&self.core, &mut effects.fired);
        self.flush_replies(lent);
        if !self.answers.is_empty() {
            // Who is told an acknowledgement in this turn may answer something that was sent to it before.
            self.step_caused(now, effects);
            self.due = self.next_due();
            self.commit_waits.tell(&self.core, &mut effects.fired);
            self.flush_replies(None);
        }
        self.sent = None;
    }

    /// Takes writes out of the queue, as long as they could be sent.
    ///
    /// A leader has a few appends in flight to each peer; a further batch would only wait in the log, while more
    /// writes could still join it in the queue. So the acknowledgements set the pace, and the batches grow with
    /// the load.
    fn take_proposals(&mut self, now: Now, effects: &mut Effects) {
        self.proposals.set_held(false);
        loop {
            let (commit, leads) = (self.core.commit(), self.core.is_leader());
            while let Some(proposed) = self.proposed.pop_front_if(|batch| batch.last <= commit || !leads) {
                if leads {
                    self.meters.propose_to_commit.enter(now.at.since(proposed.at), proposed.entries);
                }
            }
            if self.broken {
                return;
            }
            if self.proposed.len() >= self.max_proposed || self.waits_for_more() {
                return self.proposals.set_held(true);
            }
            let Some(taken) = self.proposals.take() else { return };
            let (only, count, bytes) = (taken.only, taken.builder.count(), taken.builder.bytes() as u64);
            self.proposal = Some(taken);
            self.propose(now, only, (count, bytes), effects);
            // Storage that completes at once is reported in the same turn.
            self.report_completions(now, effects);
        }
    }

    /// Whether the next batch of writes is smaller than the one under way, in memory, where that is committed after some ten
    /// microseconds: so few would cost as much as many, and many that come in turns would go on in small batches for ever.
    fn waits_for_more(&self) -> bool {
        let in_memory = self.memory.is_some() && self.links.is_some();
        let Some(last) = self.proposed.back().filter(|_| in_memory) else { return false };
        (1..last.entries).contains(&self.proposals.next_count())
    }

    #[inline(never)]
    fn on_input(&mut self, now: Now, input: Input, effects: &mut Effects) {
        match input {
            Input::Packet { from, incarnation, mut packet } => {
                self.on_packet(now, (from, incarnation), &mut packet, effects);
            }
            Input::Received { from, incarnation, snapshot } => {
                self.on_received(now, (from, incarnation), snapshot, effects);
            }
            Input::Event(event) => self.on_event(now, event, effects),
            Input::Read { policy, batch } => {
                let request = self.wait(Waiting::Read(batch, now.at));
                self.step(now, Event::Read { request, policy }, effects);
            }
            Input::Change { change, retain, terms, reply } => {
                let request = self.wait(Waiting::Change(reply));
                self.step(now, Event::ChangeMembership { request, change, retain, terms }, effects);
            }
            Input::Initialize { membership, reply } => {
                let request = self.wait(Waiting::Initialize(reply));
                self.step(now, Event::Initialize { request, membership }, effects);
            }
            Input::Transfer { to, reply } => {
                let request = self.wait(Waiting::Transfer(reply));
                self.step(now, Event::TransferLeader { request, to }, effects);
            }
            Input::AskLeading { reply } => {
                let told = self.leading();
                // Whoever asked may have gone.
                effects.fired.call(move || _ = reply.send(told));
            }
            Input::Compact { purge, reply } => {
                let request = Some(self.wait(Waiting::Compact(reply)));
                let event = purge.map_or(Event::Snapshot { request }, |upto| Event::PurgeLog { upto, request });
                self.step(now, event, effects);
            }
            Input::Lost(peer) => {
                if let Some((to, stream)) = self.streams.iter().find(|(id, _)| *id == peer).copied() {
                    self.step(now, Event::SendLost { to, stream }, effects);
                }
            }
            Input::Fetched { fetch, found } => {
                self.on_fetched(fetch, found);
                self.step_caused(now, effects);
            }
            Input::Installed { meta, time } => {
                self.last_time = self.last_time.max(time);
                self.meters.snapshot_at(meta.last_log_id.index);
                self.step(now, Event::SnapshotInstalled(meta), effects);
            }
            Input::Cluster(cluster) => self.cluster = cluster,
            Input::ExpireReads { before } => self.expire_reads(before, effects),
            Input::Tune(tune) => self.on_tune(tune, &mut effects.fired),
            Input::Publish => {}
            Input::Close(reason) => {
                effects.closed.get_or_insert(reason);
            }
        }
    }

    /// Takes what the packet holds.
    #[inline(never)]
    fn on_packet(
        &mut self,
        now: Now,
        (from, incarnation): (NodeId, Incarnation),
        packet: &mut Packet,
        effects: &mut Effects,
    ) {
        match &packet.message {
            Message::AppendReply(reply) => {
                self.trips.answered(from, reply, now.at);
                return self.step_message(now, (from, incarnation), &mut packet.message, effects);
            }
            Message::VoteReply(reply) => note::denied(self.me, self.group, from, reply),
            Message::VoteRequest(_)
            | Message::Append(_)
            | Message::ReadRequest { .. }
            | Message::ReadReply { .. }
            | Message::TransferLeader { .. } => {}
        }
        self.at_hand = std::mem::take(&mut packet.batches);
        self.step_message(now, (from, incarnation), &mut packet.message, effects);
        self.at_hand.clear();
    }

    fn on_received(
        &mut self,
        now: Now,
        (from, incarnation): (NodeId, Incarnation),
        snapshot: ReceivedSnapshot,
        effects: &mut Effects,
    ) {
        let ReceivedSnapshot { header, meta, data, .. } = snapshot;
        // The core may hold an install until the disk has the vote it was accepted under; its data stays.
        let busy = self.core.is_installing();
        let mut unused = match busy {
            true => Some(data),
            false => self.received.replace(data),
        };
        self.step(now, Event::SnapshotReceived { from, incarnation, header, meta }, effects);
        if !self.core.is_installing() {
            unused = unused.or(self.received.take());
        }
        if let Some(unused) = unused {
            effects.fired.call(move || unused.discard());
        }
    }

    fn on_fetched(&mut self, fetch: Fetch, found: Option<Batches>) {
        if let Some(place) = self.fetching.iter().position(|to| *to == fetch.to) {
            self.fetching.swap_remove(place);
        }
        match found {
            Some(batches) => self.send_fetched(fetch.to, fetch.header, fetch.span.prev, batches),
            None => self.lost(fetch.to, fetch.header.stream),
        }
    }

    fn on_event(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if let Event::SnapshotBuilt(meta) = &event {
            self.meters.snapshot_at(meta.last_log_id.index);
        }
        self.step(now, event, effects);
    }

    fn expire_reads(&mut self, before: Instant, effects: &mut Effects) {
        let lost = self.waiting.extract_if(.., |_, waiting| matches!(waiting, Waiting::Read(_, at) if *at < before));
        for (_, waiting) in lost {
            if let Waiting::Read(batch, _) = waiting {
                batch.finish(Err(Refusal::NotLeader { leader: None }), &mut effects.fired);
            }
        }
    }

    fn wait(&mut self, waiting: Waiting) -> RequestId {
        let request = self.new_request();
        self.waiting.insert(request, waiting);
        request
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Offers the batch of writes that was taken to the core: it is in the log, or refused, when this returns.
    #[inline(never)]
    fn propose(&mut self, now: Now, only: Option<LeaderId>, (count, bytes): (u64, u64), effects: &mut Effects) {
        if blame::storage(|| self.storage.is_full()) {
            return self.refuse(&Failure::StorageFull, effects);
        }
        if let Some(wanted) = only
            && !self.leads_as(wanted)
            && !bug(Bug::WriteConditionIgnored)
        {
            // Nothing comes between this look and the step below: accepted is proposed under this leader id.
            let leader = self.core.leader();
            return self.refuse(&Failure::OtherLeader { wanted, leader }, effects);
        }
        let request = self.new_request();
        self.step(now, Event::Propose { request, count, bytes }, effects);
        if let Some(taken) = self.proposal.take() {
            debug_assert!(self.broken, "the core answers a proposal in the step that brings it");
            taken.waits.fail(0, &Failure::Unknown, &mut effects.fired);
            forget(taken.commits, &mut effects.fired);
        }
    }

    fn leading(&self) -> Result<Leading, Option<NodeId>> {
        match self.core.is_leader() {
            true => {
                Ok(Leading { leader_id: self.core.vote().leader_id, quorum_acked: self.core.status().quorum_acked })
            }
            false => Err(self.core.leader()),
        }
    }

    fn leads_as(&self, leader_id: LeaderId) -> bool {
        self.core.is_leader() && self.core.vote().leader_id == leader_id
    }

    /// Answers a batch of writes that never enters a log.
    fn refuse(&mut self, failure: &Failure, effects: &mut Effects) {
        let Some(Taken { builder, waits, permit, commits, .. }) = self.proposal.take() else { return };
        self.proposals.recycle(builder);
        // Room in the window is there again before the callers are woken.
        drop(permit);
        waits.fail(0, failure, &mut effects.fired);
        forget(commits, &mut effects.fired);
    }

    /// Steps the core and performs what it asks for, then what that caused.
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        self.step_once(now, event, effects);
        self.step_caused(now, effects);
    }

    fn step_caused(&mut self, now: Now, effects: &mut Effects) {
        while !self.caused.is_empty() || !self.answers.is_empty() {
            if let Some(event) = self.caused.pop_front() {
                self.step_once(now, event, effects);
            } else if let Some(Answer { from, incarnation, reply }) = self.answers.pop_front() {
                self.trips.answered(from, &reply, now.at);
                self.step_message_once(now, (from, incarnation), &mut Message::AppendReply(reply), effects);
            }
        }
    }

    /// The same for a message, which is taken as it lies there: messages are large.
    fn step_message(&mut self, now: Now, from: (NodeId, Incarnation), message: &mut Message, effects: &mut Effects) {
        self.step_message_once(now, from, message, effects);
        self.step_caused(now, effects);
    }

    fn step_message_once(
        &mut self,
        now: Now,
        from: (NodeId, Incarnation),
        message: &mut Message,
        effects: &mut Effects,
    ) {
        if self.broken {
            return;
        }
        let mut actions = self.before_step();
        self.receive(now, from, message, &mut actions);
        self.after_step(now, actions, effects);
    }

    fn step_once(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if self.broken {
            return;
        }
        let mut actions = self.before_step();
        self.step_core(now, event, &mut actions);
        self.after_step(now, actions, effects);
    }

    #[inline]
    fn before_step(&mut self) -> Actions {
        if let Some(log_id) = self.applied.take() {
            self.core.note_applied(log_id);
        }
        std::mem::take(&mut self.actions)
    }

    fn after_step(&mut self, now: Now, mut actions: Actions, effects: &mut Effects) {
        for action in &mut actions.0 {
            self.perform(now, action, effects);
            if self.broken {
                // What comes next may rest on the write.
                break;
            }
        }
        actions.0.clear();
        self.actions = actions;
    }

    /// Reports every write that is durable without a gap.
    #[inline]
    fn report_completions(&mut self, now: Now, effects: &mut Effects) {
        if self.memory.is_none() {
            self.report_completed(now, effects);
        }
    }

    fn report_completed(&mut self, now: Now, effects: &mut Effects) {
        loop {
            if !self.completed.take(&mut self.completions) {
                return;
            }
            let mut reached = None;
            let mut completions = std::mem::take(&mut self.completions);
            for (write, result) in completions.drain(..) {
                match result {
                    Ok(()) => {
                        if let Some(since) = self.writes.since(write) {
                            self.meters.persist.enter(now.at.since(since), 1);
                        }
                        reached = self.writes.completed(write).or(reached);
                    }
                    Err(error) => self.on_failed_write(now, write, error, effects),
                }
            }
            self.completions = completions;
            if let Some(write) = reached {
                self.step(now, Event::Persisted(write), effects);
            }
        }
    }

    #[cold]
    fn on_failed_write(&mut self, now: Now, write: WriteId, error: StorageError, effects: &mut Effects) {
        if self.writes.waits_for(write) {
            self.step(now, Event::PersistFailed(write), effects);
        }
        effects.closed.get_or_insert(ClosedReason::Storage(error));
    }

    /// The group is over: nobody is left without an answer.
    pub(crate) fn close(&mut self, reason: &ClosedReason, fired: &mut Fired) {
        if let Some(taken) = self.proposal.take() {
            // Its step panicked: the commands may be on their way to the log.
            taken.waits.fail(0, &Failure::Unknown, fired);
        }
        self.commit_waits.close(fired);
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Read(batch, _) => batch.close(reason, fired),
                Waiting::Change(reply) => {
                    fired.call(move || drop(reply.send(Err(ChangeError::OutcomeUnknown))));
                }
                Waiting::Initialize(reply) => {
                    fired.call(move || drop(reply.send(Err(InitializeError::OutcomeUnknown))));
                }
                Waiting::Transfer(reply) => {
                    fired.call(move || drop(reply.send(Err(ChangeError::OutcomeUnknown))));
                }
                Waiting::Compact(reply) => {
                    let closed = Err(SnapshotError::Closed(reason.clone()));
                    fired.call(move || drop(reply.send(closed)));
                }
            }
        }
    }

    fn tell_addresses(&self) {
        for (id, node) in &self.core.membership().nodes {
            if *id != self.me && !node.address.is_empty() {
                blame::told((), || self.network.set_address(*id, &node.address));
            }
        }
    }
}
