//! One group's node without threads, tasks, sockets or clocks: the third shell, beside the pump and the tests.
//!
//! Driver, apply queue, proposal queue and storage adapter are the production ones; what stands around them
//! (the pump of `group`) is replaced by calls that a simulator makes when its own clock says so. Like the pump, it
//! decides nothing. Not part of the stable API: the feature `sim` exists for `quorate-sim`.

mod forwards;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_core::{
    Action, ChangeMembers, ChangeTerms, ClusterId, ConfigError, Core, Event, GroupId, Incarnation, Instant, LeaderId,
    LogId, Membership, NodeId, ReadPolicy, Retain, SendOutcome, Toggle, WriteId,
};
use quorate_wal::WalHandle;
use quorate_wire::{EntryKind, Packet};
use tokio::sync::oneshot;

use crate::driver::{Completed, Driver, DriverParts, Effects, Fetch, Input, Now, Ship, Tune};
use crate::durable::Durable;
use crate::group::{
    Applies, ApplyQueue, ClockWatch, Failure, Fired, Freshness, Joined, ProposalQueue, Proposals, ReadBatch, Shell,
    Terms, Timer, Work, entry_bytes, outgoing,
};
use crate::host::{Disks, find};
use crate::meters::GroupMeters;
use crate::session::{SessionOutcome, SessionRefusal, SessionTable};
use crate::tuning::check_tunables;
use crate::{
    ChangeError, ClosedReason, Completions, Config, InitializeError, RaftLogStorage, RaftNetwork, RaftStateMachine,
    ReceivedSnapshot, ReconfigureError, SnapshotError, SnapshotStore, StartError, Storage, StorageError,
    StorageErrorKind,
};

pub use crate::group::Shown;

/// Names a call of a client at one node; the caller's choice.
pub type CallId = u64;

/// Turns in a row before the rest is left to the next call.
const MAX_TURNS: usize = 32;
/// Bytes of entries read at once for a peer.
const FETCH_BYTES: u64 = 1 << 20;

/// The production storage over a log that somebody else takes the turns of.
pub fn storage_of(handle: WalHandle) -> Storage {
    let durable = Durable::without_thread(handle);
    Storage { log: durable.clone(), snapshots: durable.clone(), identity: durable }
}

/// What a virtual node is made of.
pub struct VirtualParts<S> {
    /// The node.
    pub id: NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
    /// The group.
    pub group: GroupId,
    /// Zero while the node is blank.
    pub cluster: ClusterId,
    /// Tunables.
    pub config: Config,
    /// Of the core's jitter; another one at every start.
    pub seed: u64,
    /// Log and votes.
    pub log: Arc<dyn RaftLogStorage>,
    /// Snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Where messages go. Only [`RaftNetwork::send`], `call`, `send_snapshot` and `set_address` are called.
    pub network: Arc<dyn RaftNetwork>,
    /// Whether its disk ever noted a peer.
    pub has_met_peers: bool,
    /// The state machine, blank; a snapshot on disk replaces it.
    pub machine: S,
}

impl<S> std::fmt::Debug for VirtualParts<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualParts").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Is told of every step of a core, in order.
pub trait StepObserver: Send {
    /// A step begins; if the core panics in it, nothing else is told of it.
    fn begins(&mut self, event: &Event);
    /// The step that began asked for these actions.
    fn ends(&mut self, actions: &[Action]);
    /// Between two steps the core was given other tunables.
    fn tuned(&mut self, config: &quorate_core::Config);
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<R> {
    /// A write was committed and applied.
    Applied {
        /// Its place in the log.
        log_id: LogId,
        /// What the state machine answered.
        response: R,
    },
    /// Certainly not applied: this node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Certainly not applied: it was for another leader id.
    OtherLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Certainly not applied, for another reason.
    Refused,
    /// It may or may not be applied.
    Unknown,
    /// A session was opened (its id is the index), kept alive or closed.
    SessionDone {
        /// The place of the entry in the log.
        log_id: LogId,
    },
    /// The session table refused the entry.
    SessionRefused(SessionRefusal),
    /// A read was refused. A read that is served calls its closure instead.
    ReadRefused(quorate_core::Refusal),
    /// A membership change ended.
    Changed(Result<LogId, ChangeError>),
    /// The first membership is in the log, or not.
    Initialized(Result<LogId, InitializeError>),
    /// A transfer ended, with the leader there is now.
    Transferred(Result<LeaderId, ChangeError>),
    /// A snapshot was taken, or the log purged, up to there.
    Compacted(Result<LogId, SnapshotError>),
    /// The tunables were replaced.
    Reconfigured(Result<(), ReconfigureError>),
}

/// What a node does by itself, and can be switched off; see [`RuntimeConfig`](crate::RuntimeConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Time-outs.
    Tick,
    /// Heartbeats of a leader.
    Heartbeat,
    /// Campaigns.
    Elect,
    /// Asking before a campaign.
    PreVote,
}

/// Work that may block, which production does on another thread.
pub struct Chore {
    /// What it is.
    pub kind: ChoreKind,
    work: Work,
}

impl Chore {
    /// Does it.
    pub fn run(self) {
        (self.work)();
    }
}

impl std::fmt::Debug for Chore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chore").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What a [`Chore`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoreKind {
    /// Applies, installs, captures: one after the other.
    Apply,
    /// A snapshot that is written while applies go on.
    Build,
    /// Entries read for a peer.
    Fetch,
    /// A snapshot read for a peer.
    Ship,
}

/// What the apply queue and chores report to.
#[derive(Default)]
struct VirtualShell {
    state: Mutex<ShellState>,
}

#[derive(Default)]
struct ShellState {
    inbox: Vec<Input>,
    /// Something in the inbox is waited for.
    awake: bool,
    chores: Vec<Chore>,
}

impl VirtualShell {
    fn chore(&self, kind: ChoreKind, work: Work) {
        self.state.lock().chores.push(Chore { kind, work });
    }
}

impl Shell for Arc<VirtualShell> {
    fn leave(&self, input: Input) {
        let mut state = self.state.lock();
        state.inbox.push(input);
        state.awake = true;
    }

    fn leave_applied(&self, log_id: LogId) {
        self.state.lock().inbox.push(Input::Event(Event::Applied(log_id)));
    }

    fn spawn_blocking(&self, work: Work) {
        self.chore(ChoreKind::Apply, work);
    }

    fn spawn_beside(&self, work: Work) {
        self.chore(ChoreKind::Build, work);
    }
}

/// Completions of a storage, for the driver's next turn.
struct Reports {
    completed: Arc<Completed>,
    shell: Arc<VirtualShell>,
}

impl Completions for Reports {
    fn complete(&self, write: WriteId, result: Result<(), StorageError>) {
        self.completed.push(write, result);
        self.shell.state.lock().awake = true;
    }
}

/// A look at the state machine.
pub type Look<S> = Box<dyn FnOnce(&S) + Send>;

type Answers<R> = Arc<Mutex<Vec<(CallId, Answer<R>)>>>;

/// Calls whose outcome comes later.
type Asked<T, E> = BTreeMap<CallId, oneshot::Receiver<Result<T, E>>>;

struct PendingRead<S> {
    call: CallId,
    batch: Arc<ReadBatch>,
    look: Look<S>,
}

/// One group's node, stepped by a simulator.
pub struct VirtualNode<S: RaftStateMachine> {
    id: NodeId,
    group: GroupId,
    driver: Driver,
    inputs: Vec<Input>,
    effects: Effects,
    fired: Fired,
    shell: Arc<VirtualShell>,
    /// Keeps the queue's way back to the shell alive.
    _back: Arc<dyn Shell>,
    log: Arc<dyn RaftLogStorage>,
    snapshots: Arc<dyn SnapshotStore>,
    network: Arc<dyn RaftNetwork>,
    proposals: Arc<ProposalQueue<S::Response>>,
    applies: Arc<ApplyQueue<S>>,
    window_bytes: usize,
    read_patience: Duration,
    /// When reads are next looked through for lost ones.
    expiry: Option<Instant>,
    /// From its first turn on.
    clock: Option<ClockWatch>,
    reads: Vec<PendingRead<S>>,
    /// Writes that wait together, and the call of each.
    many: Vec<(Joined<S::Response>, Vec<CallId>)>,
    changes: Asked<LogId, ChangeError>,
    transfers: Asked<LeaderId, ChangeError>,
    compactions: Asked<LogId, SnapshotError>,
    tunings: Asked<(), ConfigError>,
    /// What it was started with.
    start: Config,
    incarnation: Incarnation,
    forwards: forwards::Forwards,
    initialize: Option<(CallId, oneshot::Receiver<Result<LogId, InitializeError>>)>,
    answers: Answers<S::Response>,
    closed: Option<ClosedReason>,
}

impl<S: RaftStateMachine> std::fmt::Debug for VirtualNode<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualNode").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<S: RaftStateMachine> VirtualNode<S> {
    /// Starts a node from what its disk holds.
    ///
    /// # Errors
    /// If the tunables do not go together, or the disk is damaged or cannot be read.
    pub fn start(parts: VirtualParts<S>, now: Instant) -> Result<Self, StartError> {
        let VirtualParts { id, incarnation, group, cluster, config, seed, .. } = parts;
        config.check()?;
        let VirtualParts { log, snapshots, network, has_met_peers, machine, .. } = parts;
        let shell = Arc::new(VirtualShell::default());
        let completed = Arc::new(Completed::default());
        let reports = Reports { completed: Arc::clone(&completed), shell: Arc::clone(&shell) };
        let disks = Disks { log: &*log, snapshots: &*snapshots, has_met_peers, incarnation };
        let found = find(disks, (id, group), Arc::new(reports), machine)?;
        let meters = Arc::new(GroupMeters::new(id, group, None));
        let (applies, recovered, last_time) =
            found.into_applies(Arc::clone(&meters), Arc::clone(&log), Arc::clone(&snapshots));
        let proposals = Arc::new(ProposalQueue::new());
        let driver = DriverParts {
            config: config.to_core(id, incarnation, seed),
            group,
            cluster,
            recovered,
            last_time,
            tail_bytes: config.tail_cache_bytes,
            storage: Arc::clone(&log),
            network: Arc::clone(&network),
            proposals: Arc::clone(&proposals) as Arc<dyn Proposals>,
            completed,
            meters,
        };
        let back: Arc<dyn Shell> = Arc::new(Arc::clone(&shell));
        set(&applies.shell, Arc::downgrade(&back));
        Ok(Self {
            id,
            group,
            driver: Driver::new(driver, now),
            inputs: Vec::new(),
            effects: Effects::default(),
            fired: Fired::default(),
            shell,
            _back: back,
            log,
            snapshots,
            network,
            proposals,
            applies,
            window_bytes: config.proposal_window_bytes,
            read_patience: config.election_timeout_max,
            expiry: None,
            clock: None,
            reads: Vec::new(),
            many: Vec::new(),
            changes: BTreeMap::new(),
            transfers: BTreeMap::new(),
            compactions: BTreeMap::new(),
            tunings: BTreeMap::new(),
            // Another one at every start of every node, as random numbers are in production.
            forwards: forwards::Forwards::new(u128::from(seed) << 64 | u128::from(id.0)),
            start: config,
            incarnation,
            initialize: None,
            answers: Arc::default(),
            closed: None,
        })
    }

    /// From now on every invariant of the core's steps is asserted after each of them: a violation panics. Costs a copy
    /// of the core's state a step.
    pub fn check_steps(&mut self) {
        self.driver.check_steps();
    }

    /// From now on every step of the core is told to this observer.
    pub fn observe_steps(&mut self, observer: Box<dyn StepObserver>) {
        self.driver.observe_steps(observer);
    }

    // ---- bringing something; a turn takes it in ----

    /// A message arrived.
    pub fn packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet) {
        self.shell.leave(Input::Packet { from, incarnation, packet });
    }

    /// A snapshot arrived whole.
    pub fn snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot) {
        self.shell.leave(Input::Received { from, incarnation, snapshot });
    }

    /// The connection to a peer was refused.
    pub fn refused(&self, peer: NodeId) {
        self.shell.leave(Input::Event(Event::LinkRefused { peer }));
    }

    /// Entries sent to this peer may not arrive.
    pub fn lost(&self, to: NodeId) {
        self.shell.leave(Input::Lost(to));
    }

    /// Makes something happen now.
    pub fn trigger(&self, event: Event) {
        self.shell.leave(Input::Event(event));
    }

    /// Asks this leader to hand over.
    pub fn transfer(&mut self, call: CallId, to: Option<NodeId>) {
        let (reply, result) = oneshot::channel();
        self.transfers.insert(call, result);
        self.shell.leave(Input::Transfer { to, reply });
    }

    /// Asks for a snapshot, or for the log to be purged up to this index.
    pub fn compact(&mut self, call: CallId, purge: Option<u64>) {
        let (reply, result) = oneshot::channel();
        self.compactions.insert(call, result);
        self.shell.leave(Input::Compact { purge, reply });
    }

    /// Replaces the tunables, as [`Raft::reconfigure`](crate::Raft::reconfigure) does.
    pub fn reconfigure(&mut self, call: CallId, config: &Config) {
        if let Err(error) = check_tunables(&self.start, config) {
            return self.answers.lock().push((call, Answer::Reconfigured(Err(error))));
        }
        let (reply, result) = oneshot::channel();
        self.tunings.insert(call, result);
        let config = Box::new(config.to_core(self.id, self.incarnation, 0));
        self.shell.leave(Input::Tune(Tune::Set { config, reply }));
    }

    /// Switches what this node does by itself.
    pub fn switch(&self, switch: Switch, to: Toggle) {
        let switch = match switch {
            Switch::Tick => crate::driver::Switch::Tick,
            Switch::Heartbeat => crate::driver::Switch::Heartbeat,
            Switch::Elect => crate::driver::Switch::Elect,
            Switch::PreVote => crate::driver::Switch::PreVote,
        };
        self.shell.leave(Input::Tune(Tune::Switch { switch, to }));
    }

    /// The node belongs to this cluster from now on.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.shell.leave(Input::Cluster(cluster));
    }

    /// Makes this blank node the first of a new cluster.
    pub fn initialize(&mut self, call: CallId, membership: Membership) {
        let (reply, result) = oneshot::channel();
        self.initialize = Some((call, result));
        self.shell.leave(Input::Initialize { membership, reply });
    }

    /// Asks for another membership.
    pub fn change(&mut self, call: CallId, change: ChangeMembers, retain: Retain, terms: ChangeTerms) {
        let (reply, result) = oneshot::channel();
        self.changes.insert(call, result);
        self.shell.leave(Input::Change { change, retain, terms, reply });
    }

    /// Puts an encoded command into the queue of writes.
    pub fn write(&self, call: CallId, payload: &[u8]) {
        self.write_entry(call, EntryKind::Command, payload);
    }

    /// As [`write`](Self::write), but only if this leader id leads when it is proposed.
    pub fn write_if(&self, call: CallId, only: LeaderId, payload: &[u8]) {
        let terms = Terms { only: Some(only), ..Terms::default() };
        self.write_on(call, EntryKind::Command, payload, &terms);
    }

    /// Puts encoded commands into the queue of writes, all or none, in this order, as
    /// [`Raft::client_write_many`](crate::Raft::client_write_many) does; each is answered by its own call. `only`: if this
    /// leader id leads when they are proposed.
    pub fn write_many(&mut self, commands: &[(CallId, Vec<u8>)], only: Option<LeaderId>) {
        let (mut payloads, mut ends) = (Vec::new(), Vec::with_capacity(commands.len()));
        for (_, payload) in commands {
            payloads.extend_from_slice(payload);
            ends.push(payloads.len());
        }
        let mut calls = commands.iter().map(|(call, _)| *call);
        if self.proposals.window.take(entry_bytes(0) * ends.len() + payloads.len(), self.window_bytes) {
            for (joined, count) in self.proposals.push_many(&payloads, &ends, only, Timer::Caller) {
                self.many.push((joined, calls.by_ref().take(count).collect()));
            }
        }
        // No room for them, or a queue that is closed.
        self.answers.lock().extend(calls.map(|call| (call, Answer::Refused)));
        self.shell.state.lock().awake = true;
    }

    /// Puts an entry of a client into the queue of writes: a command, or one about sessions.
    pub fn write_entry(&self, call: CallId, kind: EntryKind, payload: &[u8]) {
        self.write_on(call, kind, payload, &Terms::default());
    }

    fn write_on(&self, call: CallId, kind: EntryKind, payload: &[u8], terms: &Terms) {
        if !self.proposals.window.take(entry_bytes(payload.len()), self.window_bytes) {
            return self.answers.lock().push((call, Answer::Refused));
        }
        let answers = Arc::clone(&self.answers);
        let responder = move |result: Result<(LogId, S::Response), Failure>| {
            answers.lock().push((call, answer_to(result)));
        };
        match self.proposals.push_remote(kind, payload, terms, Box::new(responder)) {
            Ok(_duty) => self.shell.state.lock().awake = true,
            Err(_closed) => self.answers.lock().push((call, Answer::Refused)),
        }
    }

    /// Looks at the state machine once it is as fresh as `policy` asks for.
    pub fn read(&mut self, call: CallId, policy: ReadPolicy, look: Look<S>, now: Instant) {
        if policy == ReadPolicy::Stale {
            return self.applies.read(0, look);
        }
        let batch = ReadBatch::new(1, None);
        self.expiry.get_or_insert(now + self.read_patience);
        self.reads.push(PendingRead { call, batch: Arc::clone(&batch), look });
        self.shell.leave(Input::Read { policy, batch });
    }

    // ---- stepping ----

    /// Whether something was brought that a turn should take in now.
    pub fn is_awake(&self) -> bool {
        self.shell.state.lock().awake
    }

    /// When a turn is due, if nothing else causes one.
    pub fn deadline(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let due = self.driver.deadline();
        match (due, self.expiry) {
            (Some(due), Some(expiry)) => Some(due.min(expiry)),
            (due, expiry) => due.or(expiry),
        }
    }

    /// Takes in what was brought, and does what is due. `wall` is in nanoseconds since the Unix epoch.
    pub fn turn(&mut self, now: Instant, wall: u64) {
        if self.expiry.is_some_and(|at| at <= now) {
            self.expiry = (!self.reads.is_empty()).then_some(now + self.read_patience);
            let before = now - self.read_patience;
            self.shell.state.lock().inbox.push(Input::ExpireReads { before });
        }
        for _ in 0..MAX_TURNS {
            {
                let mut state = self.shell.state.lock();
                state.awake = false;
                std::mem::swap(&mut self.inputs, &mut state.inbox);
            }
            if self.closed.is_some() {
                return self.inputs.clear();
            }
            self.turn_once(Now { at: now, wall });
            if !self.is_awake() {
                break;
            }
        }
        self.look_for_answers();
    }

    fn turn_once(&mut self, now: Now) {
        self.compare_clocks(now);
        self.driver.turn(now, None, (&mut self.inputs, None), &mut self.effects);
        let claimed = self.applies.push(&mut self.effects.awaited, &mut self.effects.apply);
        std::mem::swap(&mut self.fired, &mut self.effects.fired);
        self.fired.fire();
        if let Some(applied) = self.applies.pump(claimed) {
            self.shell.leave_applied(applied);
        }
        for fetch in std::mem::take(&mut self.effects.fetch) {
            self.fetch(fetch);
        }
        for ship in std::mem::take(&mut self.effects.ship) {
            self.ship(ship);
        }
        if let Some(reason) = self.effects.closed.take() {
            self.close(reason);
        }
    }

    /// As a node of production does at the beginning of a turn: the core is told before anything else if its clock cannot
    /// be trusted.
    fn compare_clocks(&mut self, now: Now) {
        let (mono, core) = (now.at.as_nanos(), self.driver.core());
        let (drift, lease) = (core.config().max_clock_drift, core.config().election_timeout_min);
        let packets_only = self.inputs.iter().all(|input| matches!(input, Input::Packet { .. }));
        let clock = self.clock.get_or_insert_with(|| ClockWatch::new(mono, now.wall));
        if !clock.may_wait(core, packets_only, mono) && clock.jumped((mono, now.wall, mono), drift, lease) {
            self.inputs.insert(0, Input::Event(Event::ClockJumped));
        }
    }

    fn fetch(&self, fetch: Fetch) {
        let (shell, log, group) = (Arc::clone(&self.shell), Arc::clone(&self.log), self.group);
        let work = move || {
            shell.leave(match log.read(group, fetch.span, FETCH_BYTES) {
                Ok(found) => Input::Fetched { fetch, found },
                Err(error) => Input::Close(ClosedReason::Storage(error)),
            });
        };
        self.shell.chore(ChoreKind::Fetch, Box::new(work));
    }

    fn ship(&self, ship: Ship) {
        let (shell, snapshots, group) = (Arc::clone(&self.shell), Arc::clone(&self.snapshots), self.group);
        let network = Arc::clone(&self.network);
        let work = move || {
            let (to, stream, damaged) = (ship.to, ship.header.stream, Arc::clone(&shell));
            let report = move |outcome| shell.leave(Input::Event(Event::SnapshotSent { to, stream, outcome }));
            let unreadable = move |error: &StorageError| {
                if error.kind() == StorageErrorKind::Corrupt {
                    damaged.leave(Input::Event(Event::SnapshotDamaged));
                }
            };
            match outgoing(&*snapshots, group, &ship, Box::new(unreadable.clone())) {
                Ok(Some(snapshot)) => network.send_snapshot(to, snapshot, Box::new(report)),
                Ok(None) => report(SendOutcome::Failed),
                Err(error) => {
                    unreadable(&error);
                    report(SendOutcome::Failed);
                }
            }
        };
        self.shell.chore(ChoreKind::Ship, Box::new(work));
    }

    /// Ends the group on this node: everybody is answered.
    pub fn close(&mut self, reason: ClosedReason) {
        if self.closed.is_some() {
            return;
        }
        self.proposals.close(&reason, &mut self.fired);
        self.driver.close(&reason, &mut self.fired);
        self.applies.close(&reason, &mut self.fired);
        self.fired.fire();
        self.closed = Some(reason);
        self.look_for_answers();
    }

    fn look_for_answers(&mut self) {
        self.take_forwarded();
        let mut answers = self.answers.lock();
        for PendingRead { call, batch, look } in self.reads.extract_if(.., |read| read.batch.is_answered()) {
            match batch.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Freshness::At(log_id)) => self.applies.read(log_id.index, look),
                Poll::Ready(Freshness::Refused(refusal)) => answers.push((call, Answer::ReadRefused(refusal))),
                Poll::Ready(Freshness::Closed(_)) | Poll::Pending => answers.push((call, Answer::Refused)),
            }
        }
        self.many.retain_mut(|(joined, calls)| {
            // As a caller does, who looks for the last of them.
            let (first, last) = (joined.cell, joined.cell + calls.len() - 1);
            if joined.waits.poll_done(last, &mut Context::from_waker(Waker::noop())).is_pending() {
                return true;
            }
            let mut of = calls.iter();
            joined.waits.take_each(first, calls.len(), |result| {
                answers.extend(of.next().map(|call| (*call, answer_to(result))));
            });
            self.proposals.leave(&mut joined.waits);
            false
        });
        take_results(&mut self.changes, &mut answers, Answer::Changed);
        take_results(&mut self.transfers, &mut answers, Answer::Transferred);
        take_results(&mut self.compactions, &mut answers, Answer::Compacted);
        let reconfigured =
            |result: Result<(), ConfigError>| Answer::Reconfigured(result.map_err(ReconfigureError::Config));
        take_results(&mut self.tunings, &mut answers, reconfigured);
        if let Some((call, result)) = &mut self.initialize
            && let Ok(result) = result.try_recv()
        {
            answers.push((*call, Answer::Initialized(result)));
            self.initialize = None;
        }
    }

    // ---- looking ----

    /// Answers since the last call of this.
    pub fn take_answers(&mut self, into: &mut Vec<(CallId, Answer<S::Response>)>) {
        into.append(&mut self.answers.lock());
    }

    /// Work since the last call of this. Chores of kind [`ChoreKind::Apply`] are to be run in order.
    pub fn take_chores(&mut self, into: &mut Vec<Chore>) {
        into.append(&mut self.shell.state.lock().chores);
    }

    /// The core.
    pub fn core(&self) -> &Core {
        self.driver.core()
    }

    /// The state machine and the last entry applied to it, unless the group is over.
    pub fn machine<T>(&self, look: impl FnOnce(&S, LogId) -> T) -> Option<T> {
        self.applies.peek(look)
    }

    /// The session table and the last entry applied to it, unless the group is over.
    pub fn sessions<T>(&self, look: impl FnOnce(&SessionTable, LogId) -> T) -> Option<T> {
        self.applies.peek_sessions(look)
    }

    /// Why the group is over, if it is.
    pub fn closed(&self) -> Option<&ClosedReason> {
        self.closed.as_ref()
    }
}

/// How a write ended.
fn answer_to<R>(result: Result<(LogId, R), Failure>) -> Answer<R> {
    match result {
        Ok((log_id, response)) => Answer::Applied { log_id, response },
        Err(failure) => answer_of(failure),
    }
}

/// How a write ended that was not applied, or has no response.
fn answer_of<R>(failure: Failure) -> Answer<R> {
    match failure {
        Failure::NotLeader(leader) => Answer::NotLeader { leader },
        Failure::OtherLeader { leader, .. } => Answer::OtherLeader { leader },
        Failure::StorageFull | Failure::Replaced | Failure::Closed(_) => Answer::Refused,
        Failure::Unknown => Answer::Unknown,
        Failure::Session(SessionOutcome::Done(log_id)) => Answer::SessionDone { log_id },
        Failure::Session(SessionOutcome::Unreadable(_)) => Answer::Unknown,
        Failure::Session(SessionOutcome::Refused(refusal)) => Answer::SessionRefused(refusal),
    }
}

/// Moves the outcomes that are there to the answers.
fn take_results<T, E, R>(
    asked: &mut Asked<T, E>,
    answers: &mut Vec<(CallId, Answer<R>)>,
    answer: impl Fn(Result<T, E>) -> Answer<R>,
) {
    asked.retain(|call, result| match result.try_recv() {
        Ok(result) => {
            answers.push((*call, answer(result)));
            false
        }
        Err(oneshot::error::TryRecvError::Empty) => true,
        Err(oneshot::error::TryRecvError::Closed) => {
            answers.push((*call, Answer::Unknown));
            false
        }
    });
}

fn set<T>(cell: &OnceLock<T>, value: T) {
    // It was just made: nobody set it before.
    let _ = cell.set(value);
}
