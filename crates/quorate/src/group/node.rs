//! The pump: who steps the driver, when, and what happens after it was let go (laws 19, 20).
//!
//! Whoever brings something pushes it into the inbox and then tries to become the pump. One atomic word says
//! whether somebody is: the pump leaves only by changing `RUNNING` to `IDLE`, and goes round again if it finds
//! `DIRTY`, so nothing that was pushed is left behind. The driver's lock is therefore never contended.

mod ahead;
mod at_once;
pub(crate) mod blocking;
mod end;
mod seen;
pub(crate) mod standby;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use quorate_core::{
    Core, Event, GroupId, Incarnation, Instant, LeaderId, LogId, Membership, NodeId, ServerState, Vote, WriteId,
};
use quorate_wire::Packet;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::Span;

use self::standby::{Standby, StandsBy, give_way, may_wait_awake};
use super::clock::ClockWatch;
use super::{Fired, Proposals, Shell, Work};
use crate::blame::{self, Caught};
use crate::driver::{ApplyJob, Awaited, Completed, Driver, DriverParts, Effects, Input, Lent, Now};
use crate::events::NODE;
use crate::group::reads::ReadQueue;
use crate::meters::{Depths, GroupMeters};
use crate::metrics::{TransfersShown, metrics_of};
use crate::{
    ClosedReason, Completions, MemoryEndpoint, RaftLogStorage, RaftMetrics, RaftNetwork, SnapshotStore, StorageError,
};

/// Nobody steps the driver and nothing is left to do.
const IDLE: u8 = 0;
/// The node's task was woken to step it.
const SCHEDULED: u8 = 1;
/// Somebody steps it.
const RUNNING: u8 = 2;
/// Somebody steps it and has to go round again.
const DIRTY: u8 = 3;

/// Turns that one thread makes in a row before it leaves the rest to the node's task.
const MAX_TURNS: usize = 32;
/// While only indexes change, metrics are published this often: a receiver that stays must not slow writes down.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(1);
/// A leader's metrics are published this often if nothing changes: they say how long ago peers were heard of.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// When this process first looked at a clock: every clock of it begins there, so that a time of one node is a time of
/// another.
static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// The machine's clock, as the core sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: *ORIGIN }
    }

    pub(crate) fn now(&self) -> Instant {
        let elapsed = self.origin.elapsed();
        // Enough for 584 years.
        Instant::from_nanos(elapsed.as_secs().wrapping_mul(1_000_000_000).wrapping_add(elapsed.subsec_nanos().into()))
    }

    /// The wall clock at the origin: nanoseconds since the Unix epoch, or before it, for one that is set by hand may show
    /// less than what this process is old.
    fn wall_offset(&self, wall: &WallClock) -> i64 {
        wall_nanos(wall).checked_signed_diff(self.now().as_nanos()).unwrap_or(i64::MAX)
    }

    pub(crate) fn at(&self, instant: Instant) -> std::time::Instant {
        self.origin + Duration::from_nanos(instant.as_nanos())
    }
}

/// What tells the time that a leader stamps into entries.
pub(crate) type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Nanoseconds since the Unix epoch.
fn wall_nanos(wall: &WallClock) -> u64 {
    let since = blame::clock(|| wall()).duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// What the node, which knows no types, does with its apply queue.
pub(crate) trait Applies: Send + Sync {
    /// Takes jobs over, in order, and before them who waits for what they apply. Only enqueues. Returns whether they have
    /// the queue to themselves until they are [pumped](Self::pump), which then must follow whatever happens.
    fn push(&self, awaited: &mut Vec<Awaited>, jobs: &mut Vec<ApplyJob>) -> bool;
    /// Works them off, here if that is cheap, else on another thread. Returns what was applied here, if anything was.
    fn pump(&self, claimed: bool) -> Option<LogId>;
    /// Number of client sessions, and of answers kept for them.
    fn session_counts(&self) -> (u64, u64);
    /// What waits in it.
    fn depths(&self) -> Depths;
    /// Answers "unknown" to writers that came before `before` and have no deadline of their own.
    fn expire(&self, before: std::time::Instant, fired: &mut Fired);
    /// Answers "unknown" to every writer; nothing is applied any more.
    fn close(&self, reason: &ClosedReason, fired: &mut Fired);
    /// Begins nothing from now on that calls the machine; whether nothing that does is under way.
    fn halt(&self) -> bool;
    /// [Halts](Self::halt), and blocks until nothing is under way, for ever if the machine does not come back.
    fn halt_and_wait(&self);
}

/// What a node is made of.
pub(crate) struct NodeParts {
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) clock: Clock,
    pub(crate) wall: WallClock,
    pub(crate) runtime: Handle,
    pub(crate) write_timeout: Duration,
    pub(crate) read_patience: Duration,
    pub(crate) storage: Arc<dyn RaftLogStorage>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) network: Arc<dyn RaftNetwork>,
    pub(crate) proposals: Arc<dyn Proposals>,
    pub(crate) applies: Arc<dyn Applies>,
    pub(crate) metrics: watch::Sender<RaftMetrics>,
    pub(crate) meters: Arc<GroupMeters>,
}

/// Writers are answered at most this long after their deadline.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// What only the pump touches.
struct Seat {
    driver: Driver,
    inputs: Vec<Input>,
    clock: ClockWatch,
    effects: Effects,
    /// What was last published.
    mark: Mark,
    published_at: Instant,
    /// Something changed that was not published.
    stale: bool,
    /// Something other than a packet came, which may have changed what the mark does not show.
    forced: bool,
    /// What others were told.
    leader: Option<NodeId>,
    /// The vote whose leader id others see.
    accepted: Vote,
    /// Of the membership that others see.
    membership_log_id: LogId,
    /// When the driver last went ahead.
    at: Instant,
    /// It did so in the turn of a peer, and what that leaves is still to be seen to.
    ahead: bool,
}

/// What waits for a turn.
#[derive(Default)]
struct Inbox {
    inputs: Vec<Input>,
    /// The last entry that was applied, if the driver was not told of it.
    applied: Option<LogId>,
}

/// What others have to be told once the driver was let go.
struct News {
    leader: Option<Option<NodeId>>,
    metrics: Option<Box<RaftMetrics>>,
}

/// What metrics are compared by.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Mark {
    coarse: (Option<ServerState>, Option<NodeId>, Vote, LogId),
    fine: (LogId, u64, LogId, u64),
}

impl Mark {
    /// Whether this is what would be published now, indexes aside. Who knows a leader is that leader or follows it, so that
    /// the membership says what it is: it need not be looked up there.
    #[inline]
    fn is_of(&self, core: &Core) -> bool {
        let (state, leader, vote, membership) = self.coarse;
        let same = leader == core.leader() && vote == core.vote() && membership == core.membership_log_id();
        same && leader.is_some() && core.is_leader() == (state == Some(ServerState::Leader)) && !core.is_halted()
    }
}

/// One group on one node.
pub(crate) struct Node {
    this: Weak<Self>,
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) clock: Clock,
    pub(crate) runtime: Handle,
    pub(crate) reads: ReadQueue,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) storage: Arc<dyn RaftLogStorage>,
    pub(crate) network: Arc<dyn RaftNetwork>,
    proposals: Arc<dyn Proposals>,
    applies: Arc<dyn Applies>,
    write_timeout: Duration,
    /// A question for a read that is not answered for this long is taken for lost.
    read_patience: Duration,
    word: AtomicU8,
    inbox: Mutex<Inbox>,
    seat: Mutex<Seat>,
    signal: Notify,
    /// Where it is left to a thread that is awake, if there is one.
    standby: Option<Arc<Standby>>,
    /// When the task's timer fires, in core nanoseconds.
    armed: AtomicU64,
    /// When it should, in core nanoseconds.
    due: AtomicU64,
    leads: AtomicBool,
    /// It is about to stop, and takes no writes any more.
    draining: AtomicBool,
    /// Whether nothing was ever written here.
    blank: AtomicBool,
    /// The wall clock at the core's origin, in nanoseconds since the Unix epoch; read again now and then.
    wall_offset: AtomicI64,
    wall: WallClock,
    /// Whether this run of this node made the cluster.
    founder: AtomicBool,
    /// What a blank node waits for, in words.
    awaits: Mutex<Option<String>>,
    leader: watch::Sender<Option<NodeId>>,
    /// The last leader id that this node accepted, or leads under.
    accepted: RwLock<LeaderId>,
    membership: RwLock<Arc<Membership>>,
    transfers: Mutex<TransfersShown>,
    metrics: watch::Sender<RaftMetrics>,
    pub(crate) meters: Arc<GroupMeters>,
    closed: OnceLock<ClosedReason>,
    /// The node's own task, until somebody waits for its end.
    task: Mutex<Option<JoinHandle<()>>>,
    /// Tells that `closed` is set and everybody answered.
    over: Notify,
    /// Of the thread that waits until nothing of the machine is under way, if there is one.
    waiter: Mutex<Option<watch::Receiver<bool>>>,
}

thread_local! {
    /// Whether this thread pumps a node.
    static PUMPING: Cell<bool> = const { Cell::new(false) };
    /// Nodes claimed by this thread while it was pumping another: stepped next, at depth one.
    static RUN_LIST: RefCell<VecDeque<Arc<Node>>> = const { RefCell::new(VecDeque::new()) };
    /// The node whose driver is in a turn on this thread, as an address to compare; 0: none.
    static IN_TURN: Cell<usize> = const { Cell::new(0) };
}

/// This thread pumps, until this is dropped.
struct Pumping;

impl Drop for Pumping {
    fn drop(&mut self) {
        PUMPING.set(false);
    }
}

/// A driver is in a turn on this thread, until this is dropped.
struct InTurn {
    /// The node whose driver is in the turn around it, as in [`IN_TURN`].
    outer: usize,
}

impl Drop for InTurn {
    fn drop(&mut self) {
        IN_TURN.set(self.outer);
    }
}

impl Node {
    pub(crate) fn new(parts: NodeParts, driver: DriverParts) -> Arc<Self> {
        let now = parts.clock.now();
        let driver = Driver::new(driver, now);
        let clock = ClockWatch::new(now.as_nanos(), wall_nanos(&parts.wall));
        let membership = Arc::new(driver.core().membership().clone());
        let membership_log_id = driver.core().membership_log_id();
        // What waits for more than other nodes in memory waits too long for a thread to stay awake.
        let is_in_memory = parts.storage.as_memory().is_some() && may_wait_awake(&parts.runtime);
        let standby = parts.network.as_memory().filter(|_| is_in_memory).and_then(MemoryEndpoint::standby);
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            me: parts.me,
            group: parts.group,
            clock: parts.clock,
            runtime: parts.runtime,
            reads: ReadQueue::default(),
            snapshots: parts.snapshots,
            storage: parts.storage,
            network: parts.network,
            proposals: parts.proposals,
            applies: parts.applies,
            write_timeout: parts.write_timeout,
            read_patience: parts.read_patience,
            word: AtomicU8::new(IDLE),
            inbox: Mutex::default(),
            signal: Notify::new(),
            standby,
            armed: AtomicU64::new(u64::MAX),
            due: AtomicU64::new(u64::MAX),
            leads: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            blank: AtomicBool::new(is_blank(driver.core())),
            wall_offset: AtomicI64::new(parts.clock.wall_offset(&parts.wall)),
            wall: parts.wall,
            founder: AtomicBool::new(false),
            awaits: Mutex::default(),
            leader: watch::Sender::new(None),
            accepted: RwLock::new(LeaderId::default()),
            membership: RwLock::new(membership),
            seat: Mutex::new(Seat {
                driver,
                inputs: Vec::new(),
                clock,
                effects: Effects::default(),
                mark: Mark::default(),
                published_at: Instant::ORIGIN,
                stale: true,
                forced: false,
                leader: None,
                accepted: Vote::default(),
                membership_log_id,
                at: now,
                ahead: false,
            }),
            metrics: parts.metrics,
            meters: parts.meters,
            transfers: Mutex::default(),
            closed: OnceLock::new(),
            task: Mutex::default(),
            over: Notify::new(),
            waiter: Mutex::default(),
        })
    }

    /// Starts the node's task.
    pub(crate) fn launch(self: &Arc<Self>) {
        *self.task.lock() = Some(self.runtime.spawn(Arc::clone(self).run_task()));
    }

    // ---- bringing something ----

    /// Pushes and steps here and now, unless somebody else does.
    pub(crate) fn bring(self: &Arc<Self>, input: Input) {
        if self.put(input) {
            self.step_here();
        }
    }

    /// [Brings](Self::bring) a packet: it is large, so it is made where it waits.
    #[inline]
    pub(crate) fn bring_packet(
        self: Arc<Self>,
        from: NodeId,
        incarnation: Incarnation,
        packet: impl FnOnce() -> Packet,
    ) {
        match self.push_packet(from, incarnation, packet) && self.claim() {
            true => self.pump_from_here(),
            false => self.let_go(),
        }
    }

    /// Lets go of a node where a lock is held: should nobody else hold it, it is dropped elsewhere, for that calls its
    /// user's machine.
    #[inline(never)]
    pub(crate) fn let_go(self: Arc<Self>) {
        if let Some(node) = Arc::into_inner(self) {
            node.drop_elsewhere();
        }
    }

    #[cold]
    fn drop_elsewhere(self) {
        let runtime = self.runtime.clone();
        let node = Box::new(self);
        // A runtime that has ended drops it here. What is told of a panic is told by its hook.
        drop(blame::catch(|| drop(runtime.spawn_blocking(move || drop(node)))));
    }

    /// [Leaves](Self::leave) a packet.
    #[inline]
    pub(crate) fn leave_packet(&self, from: NodeId, incarnation: Incarnation, packet: impl FnOnce() -> Packet) {
        if self.push_packet(from, incarnation, packet) {
            self.step_there();
        }
    }

    /// [Puts](Self::put) a packet.
    #[inline]
    fn push_packet(&self, from: NodeId, incarnation: Incarnation, packet: impl FnOnce() -> Packet) -> bool {
        let mut inbox = self.inbox.lock();
        if self.closed.get().is_some() {
            return false;
        }
        // With room made before, nothing comes between making it and writing it.
        inbox.inputs.reserve(1);
        inbox.inputs.push(Input::Packet { from, incarnation, packet: packet() });
        true
    }

    /// Pushes and leaves the stepping to the node's task, or to whoever steps now.
    pub(crate) fn leave(&self, input: Input) {
        if self.put(input) {
            self.step_there();
        }
    }

    /// Pushes, unless the group is over: nobody would ever take it. That is seen under the lock: whoever ends the group says
    /// so first, and then empties the inbox.
    fn put(&self, input: Input) -> bool {
        let mut inbox = self.inbox.lock();
        let is_over = self.closed.get().is_some();
        if is_over {
            drop(inbox);
            input.discard();
        } else {
            inbox.inputs.push(input);
        }
        !is_over
    }

    /// Nobody waits for this: the next turn takes it, and with a leader there is one every heartbeat. If somebody
    /// watches the metrics, the next turn comes at once.
    fn leave_applied(&self, log_id: LogId) {
        {
            // Another thread may have told of more meanwhile.
            let mut inbox = self.inbox.lock();
            inbox.applied = inbox.applied.max(Some(log_id));
        }
        if self.metrics.receiver_count() > 0 {
            self.step_there();
        }
    }

    /// Steps here and now, unless somebody else does.
    pub(crate) fn step_here(self: &Arc<Self>) {
        if self.claim() {
            Arc::clone(self).pump_from_here();
        }
    }

    /// Makes sure that somebody steps.
    pub(crate) fn step_there(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = match word {
                IDLE => SCHEDULED,
                RUNNING => DIRTY,
                _ => word,
            };
            match self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(IDLE) => return self.rouse(),
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Has this scheduled node stepped by a thread that is awake, or by its task.
    fn rouse(&self) {
        if !self.standby.as_ref().is_some_and(|standby| standby.leave(&self.this)) {
            self.signal.notify_one();
        }
    }

    /// Becomes the pump, or tells the pump to go round again.
    fn claim(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = match word {
                IDLE | SCHEDULED => RUNNING,
                _ => DIRTY,
            };
            match self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(IDLE | SCHEDULED) => return true,
                Ok(_) => return false,
                Err(now) => word = now,
            }
        }
    }

    /// Becomes the pump, if there is none; returns what the word was.
    #[inline]
    fn claim_free(&self) -> Option<u8> {
        let word = self.word.load(Ordering::Relaxed);
        let is_free = matches!(word, IDLE | SCHEDULED)
            && self.word.compare_exchange(word, RUNNING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        is_free.then_some(word)
    }

    /// Whether something came since the pump last looked.
    fn is_dirty(&self) -> bool {
        self.word.load(Ordering::Relaxed) != RUNNING
    }

    /// Before the pump looks at what came.
    fn clean(&self) {
        if self.is_dirty() {
            self.word.swap(RUNNING, Ordering::AcqRel);
        }
    }

    // ---- pumping ----

    /// Pumps this claimed node, then whatever that claimed in turn.
    fn pump_from_here(self: Arc<Self>) {
        if PUMPING.replace(true) {
            return RUN_LIST.with_borrow_mut(|list| list.push_back(self));
        }
        let _pumping = Pumping;
        let mut next = Some(self);
        while let Some(node) = next {
            // A panic of this library or of a waker ends the node that it happened in, not this thread's others.
            if let Err(panic) = blame::catch(|| node.pump()) {
                node.fail(&panic);
            }
            // With the last who holds it goes its user's machine, which may panic too.
            drop(blame::catch(|| drop(node)));
            next = RUN_LIST.with_borrow_mut(VecDeque::pop_front);
        }
    }

    /// The pump panicked: the node is over, and must not stay claimed.
    fn fail(self: &Arc<Self>, panic: &Caught) {
        let reason = blame::reason(panic, ClosedReason::Internal);
        // Whatever panics on the way out is of the same kind.
        drop(blame::catch(|| self.close(reason)));
        self.word.store(IDLE, Ordering::Release);
        self.step_there();
    }

    #[inline(never)]
    fn pump(self: &Arc<Self>) {
        for _ in 0..MAX_TURNS {
            self.turn();
            if self.word.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
        // The turn is over, the work is not: the node's task goes on.
        self.word.store(IDLE, Ordering::Release);
        self.step_there();
    }

    /// One turn, and what follows from it once the driver was let go.
    #[inline(never)]
    fn turn(self: &Arc<Self>) {
        let (errands, closed, news, fired, claimed);
        {
            let mut locked = self.seat.lock();
            let seat = &mut *locked;
            if self.closed.get().is_some() {
                self.clean();
                // Whoever waits for an answer sees its channel close, and is woken once nothing is locked.
                let left = std::mem::take(&mut self.inbox.lock().inputs);
                drop(locked);
                return left.into_iter().for_each(Input::discard);
            }
            // In the turn of a peer it may have gone ahead, and nothing come since; or failed there, and then it is done.
            let went_ahead = std::mem::take(&mut seat.ahead);
            if seat.effects.closed.is_none() && (!went_ahead || self.is_dirty()) {
                self.advance(seat, None);
            }
            let (effects, at) = (&mut seat.effects, seat.at);
            fired = (!effects.fired.is_empty()).then(|| std::mem::take(&mut effects.fired));
            errands = (!effects.fetch.is_empty() || !effects.ship.is_empty())
                .then(|| (std::mem::take(&mut effects.fetch), std::mem::take(&mut effects.ship)));
            closed = effects.closed.take();
            news = self.look(seat, at);
            self.set_due(seat, at);
            // Last, for nothing that may panic comes between it and the pump.
            claimed = self.applies.push(&mut seat.effects.awaited, &mut seat.effects.apply);
        }
        if let Some(mut fired) = fired {
            fired.fire();
        }
        if let Some(applied) = self.applies.pump(claimed) {
            self.leave_applied(applied);
        }
        if let Some((fetch, ship)) = errands {
            fetch.into_iter().for_each(|fetch| self.fetch(fetch));
            ship.into_iter().for_each(|ship| self.ship(ship));
        }
        if let Some(leader) = news.leader {
            self.leader.send_replace(leader);
        }
        if let Some(metrics) = news.metrics {
            self.metrics.send_replace(*metrics);
        }
        if let Some(reason) = closed {
            self.close(reason);
        }
    }

    /// The driver takes in what came. A panic ends the group, and nothing else.
    fn advance(&self, seat: &mut Seat, lent: Option<Lent<'_>>) {
        let _in_turn = InTurn { outer: IN_TURN.replace(self.address()) };
        if let Err(panic) = blame::catch(|| self.step_driver(seat, lent)) {
            let reason = blame::reason(&panic, ClosedReason::Internal);
            seat.effects.closed.get_or_insert(reason);
        }
    }

    #[inline]
    fn step_driver(&self, seat: &mut Seat, lent: Option<Lent<'_>>) {
        self.clean();
        if let Some(standby) = &self.standby {
            standby.look(|| self.proposals.next_count());
        }
        let applied = {
            let mut inbox = self.inbox.lock();
            std::mem::swap(&mut seat.inputs, &mut inbox.inputs);
            inbox.applied.take()
        };
        if self.reads.any() {
            seat.inputs.extend(self.reads.take().map(|(policy, batch)| Input::Read { policy, batch }));
        }
        let packets_only = seat.inputs.iter().all(|input| matches!(input, Input::Packet { .. }));
        seat.forced |= !packets_only;
        let at = self.read_clock(seat, packets_only, lent.as_ref().map(|lent| lent.at));
        seat.at = at;
        let wall = at.as_nanos().saturating_add_signed(self.wall_offset.load(Ordering::Relaxed));
        let now = Now { at, wall };
        // Part of whatever steps it, but of no turn of a peer.
        let around = || if lent.is_some() { None } else { Span::current().id() };
        let span = tracing::trace_span!(target: NODE, parent: around(), "turn", node = self.me.0, group = self.group.0);
        let _entered = span.enter();
        seat.driver.turn(now, applied, (&mut seat.inputs, lent), &mut seat.effects);
    }

    /// The time of a turn: that of the peer's turn that it is in, if it is. The core is told before anything else if its clock
    /// cannot be trusted.
    fn read_clock(&self, seat: &mut Seat, packets_only: bool, of_peer: Option<Instant>) -> Instant {
        // Another thread may have stepped this node since the peer's turn began.
        let before = of_peer.map_or_else(|| self.clock.now(), |at| at.max(seat.at));
        let core = seat.driver.core();
        let (drift, lease) = (core.config().max_clock_drift, core.config().election_timeout_min);
        if seat.clock.may_wait(core, packets_only, before.as_nanos()) {
            return before;
        }
        // The wall clock is read between two looks at the machine's, and a peer's turn may have begun long before.
        let before = of_peer.map_or(before, |_| self.clock.now());
        let wall = wall_nanos(&self.wall);
        let at = self.clock.now();
        if seat.clock.jumped((before.as_nanos(), wall, at.as_nanos()), drift, lease) {
            seat.inputs.insert(0, Input::Event(Event::ClockJumped));
        }
        at
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Copies what others look at without the lock; returns what they have to be told.
    #[inline]
    fn look(&self, seat: &mut Seat, now: Instant) -> News {
        let core = seat.driver.core();
        self.meters.look_at_indexes(core);
        if self.blank.load(Ordering::Relaxed) && !is_blank(core) {
            self.blank.store(false, Ordering::Release);
        }
        // Most turns change indexes only, of which nobody has to be told.
        if seat.mark.is_of(core) && self.metrics.receiver_count() == 0 {
            seat.stale = true;
            return News { leader: None, metrics: None };
        }
        self.look_closely(seat, now)
    }

    /// The same of what changes rarely.
    #[inline(never)]
    fn look_closely(&self, seat: &mut Seat, now: Instant) -> News {
        let core = seat.driver.core();
        let (leader, state) = (core.leader(), core.state());
        self.meters.look(core, state);
        self.leads.store(core.is_leader(), Ordering::Relaxed);
        if core.vote().committed && core.vote() != seat.accepted {
            seat.accepted = core.vote();
            *self.accepted.write() = core.vote().leader_id;
        }
        if core.membership_log_id() != seat.membership_log_id {
            seat.membership_log_id = core.membership_log_id();
            *self.membership.write() = Arc::new(core.membership().clone());
        }
        let changed = std::mem::replace(&mut seat.leader, leader) != leader;
        News { leader: changed.then_some(leader), metrics: self.maybe_publish(seat, state, now) }
    }

    /// The metrics, if they changed: at once what is rare, and for those who watch them indexes, once in a while.
    fn maybe_publish(&self, seat: &mut Seat, state: ServerState, now: Instant) -> Option<Box<RaftMetrics>> {
        let core = seat.driver.core();
        let coarse = (Some(state), core.leader(), core.vote(), core.membership_log_id());
        let at_once = coarse != seat.mark.coarse;
        // What is rare is kept up to date for whoever comes: another thread may step then, and nobody waits for it.
        if self.metrics.receiver_count() == 0 && !at_once {
            seat.stale = true;
            return None;
        }
        let fine = (core.last_log_id(), core.commit(), core.applied(), core.log().purged().index);
        let mark = Mark { coarse, fine };
        // Ages grow while nothing else changes.
        let aged = core.is_leader() && now.since(seat.published_at) >= REFRESH_INTERVAL;
        seat.stale |= std::mem::take(&mut seat.forced) || aged || mark != seat.mark;
        if !seat.stale || !at_once && now.since(seat.published_at) < PUBLISH_INTERVAL {
            return None;
        }
        seat.stale = false;
        seat.mark = mark;
        seat.published_at = now;
        let mut metrics = Box::new(metrics_of(self.me, self.group, core.status(), self.membership(), now));
        (metrics.sessions, metrics.session_answers) = self.applies.session_counts();
        self.transfers.lock().show(&mut metrics);
        Some(metrics)
    }

    /// Arms the task's timer if it would fire too late.
    fn set_due(&self, seat: &Seat, now: Instant) {
        let mut due = seat.driver.deadline().map_or(u64::MAX, Instant::as_nanos);
        if seat.stale && self.metrics.receiver_count() > 0 {
            due = due.min((now + PUBLISH_INTERVAL).as_nanos());
        }
        // Only the pump writes it. Most often the deadline moves away: who arms the timer meanwhile and sees the one before
        // wakes too early, which is never too late.
        if due >= self.due.load(Ordering::Relaxed) {
            return self.due.store(due, Ordering::Relaxed);
        }
        self.due.store(due, Ordering::SeqCst);
        if due < self.armed.load(Ordering::SeqCst) {
            self.signal.notify_one();
        }
    }

    // ---- the node's own task ----

    /// Owns the deadline, and steps when others leave it to.
    async fn run_task(self: Arc<Self>) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        // Deadlines mostly move away: the timer is set again only when it fired, or would fire too late.
        let (mut armed, mut stands_by) = (None, None::<StandsBy<'_>>);
        while self.closed.get().is_none() {
            // Before anything is stepped: what that leaves to others is left to this thread.
            stands_by = stands_by.or_else(|| self.standby.as_ref()?.begin());
            stands_by = match stands_by {
                Some(here) => here.serve(&self).then_some(here),
                None => {
                    self.step_here();
                    None
                }
            };
            if armed.is_some_and(|at| self.clock.now() >= at) {
                // Under load the signal is always ready, and the timer would never have its turn.
                armed = None;
                self.look_at_wall();
                self.expire();
            }
            let wake = self.next_wake();
            if armed.is_none_or(|at| wake < at) {
                armed = Some(wake);
                self.armed.store(wake.as_nanos(), Ordering::SeqCst);
                sleep.as_mut().reset(self.clock.at(wake).into());
                if self.due.load(Ordering::SeqCst) < wake.as_nanos() {
                    continue;
                }
            }
            if stands_by.is_some() {
                give_way().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.signal.notified() => {}
                () = sleep.as_mut() => {
                    armed = None;
                    self.look_at_wall();
                    self.expire();
                }
            }
        }
    }

    /// Reads the wall clock again, which may be the user's.
    fn look_at_wall(self: &Arc<Self>) {
        match blame::catch(|| self.clock.wall_offset(&self.wall)) {
            Ok(offset) => self.wall_offset.store(offset, Ordering::Relaxed),
            Err(panic) => self.bring(Input::Close(blame::reason(&panic, ClosedReason::Internal))),
        }
    }

    /// The driver's deadline, but soon enough to answer writers whose time is over.
    fn next_wake(&self) -> Instant {
        let sweep = self.clock.now() + self.write_timeout.min(EXPIRY_INTERVAL);
        Instant::from_nanos(self.due.load(Ordering::SeqCst)).min(sweep)
    }

    /// Answers writers whose time is over. What is still in the queue certainly entered no log: whoever has a later
    /// deadline of its own tries again.
    fn expire(&self) {
        let Some(before) = std::time::Instant::now().checked_sub(self.write_timeout) else { return };
        let mut fired = Fired::default();
        self.proposals.expire(before, &mut fired);
        self.applies.expire(before, &mut fired);
        fired.fire();
        let patience = self.read_patience.as_nanos().min(u128::from(u64::MAX));
        if let Some(before) = self.clock.now().as_nanos().checked_sub(patience as u64) {
            self.put(Input::ExpireReads { before: Instant::from_nanos(before) });
        }
    }
}

impl Shell for Node {
    fn leave(&self, input: Input) {
        Node::leave(self, input);
    }

    fn leave_applied(&self, log_id: LogId) {
        Node::leave_applied(self, log_id);
    }

    fn spawn_blocking(&self, work: Work) {
        drop(self.runtime.spawn_blocking(work));
    }
}

/// What a storage reports to; the node steps when its task comes round to it.
pub(crate) struct Reports {
    pub(crate) completed: Arc<Completed>,
    pub(crate) node: OnceLock<Weak<Node>>,
}

impl Completions for Reports {
    fn complete(&self, write: WriteId, result: Result<(), StorageError>) {
        self.completed.push(write, result);
        let Some(node) = self.node.get() else { return };
        // A storage that completes inside `submit` is inside the turn that will see it.
        if IN_TURN.get() != node.as_ptr().addr()
            && let Some(node) = node.upgrade()
        {
            node.step_there();
        }
    }
}

/// Whether nothing was ever written to this core's log.
fn is_blank(core: &Core) -> bool {
    let empty = core.last_log_id() == LogId::ZERO && core.lost_entries().is_none();
    empty && core.vote() == Vote::default() && core.membership().is_empty()
}
