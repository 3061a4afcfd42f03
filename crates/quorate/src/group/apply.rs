//! The apply queue: applies, installs and captures of one state machine, in one order (laws 11, 20, 21).
//!
//! User code runs here and nowhere else, never under the driver's lock: on the thread that delivers the commit if
//! the machine says that its applies are cheap, all or this one, else on a thread that may block.

mod halt;
mod snapshots;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use quorate_core::{Bug, GroupId, Instant, LogId, NodeId, SnapshotMeta, Span, bug};
use quorate_wire::{Batch, Batches, EntryKind, SESSION_HEADER_BYTES};
use tracing::level_filters::LevelFilter;

use self::halt::Apart;
pub(crate) use self::snapshots::install_into;
use super::book::Book;
use super::commands::Commands;
use super::content::Restored;
use super::node::Applies;
use super::{Applied, Failure, Fired, KEPT_ROOM, Permit, WaitList, Waits};
use crate::blame;
use crate::driver::{ApplyJob, Awaited, Input};
use crate::events::NODE;
use crate::meters::{Depths, GroupMeters};
use crate::{ClosedReason, RaftLogStorage, RaftStateMachine, SnapshotStore, StorageError, StorageErrorKind};

const IDLE: u8 = 0;
const RUNNING: u8 = 2;
const DIRTY: u8 = 3;

/// What stands around an apply queue and brings its work to threads and its news to the driver. Decides nothing.
pub(crate) trait Shell: Send + Sync {
    /// Takes something for the driver, and sees that it is stepped.
    fn leave(&self, input: Input);

    /// Everything up to this entry is applied, which nobody waits for.
    fn leave_applied(&self, log_id: LogId);

    /// Runs work that may block, elsewhere.
    fn spawn_blocking(&self, work: Work);

    /// Writes a snapshot elsewhere, while applies go on.
    fn spawn_beside(&self, work: Work) {
        self.spawn_blocking(work);
    }
}

/// Something that may block.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// A read of the state machine.
pub(crate) type ReadFn<S> = Box<dyn FnOnce(&S) + Send>;

enum Job<S> {
    Driver(ApplyJob),
    /// Once `at` is applied.
    Read {
        at: u64,
        read: ReadFn<S>,
    },
    /// A read that may block.
    Visit(ReadFn<S>),
}

/// Where jobs are worked off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a thread that must not block.
    Here,
    /// On a thread that may.
    Apart,
}

struct Machine<S: RaftStateMachine> {
    state: S,
    book: Book,
    /// The last entry of the last batch that was applied whole.
    applied: LogId,
    /// Comes before what is in the queue: put here by the turn that brought it, which has the queue to itself then.
    next: Vec<ApplyJob>,
    /// Reads of what is not yet applied.
    parked: Vec<(u64, ReadFn<S>)>,
    /// What callers are told of the batch at hand; kept for its room.
    results: Vec<Applied<S::Response>>,
}

/// Entries that somebody waits for.
struct Expected {
    first: LogId,
    /// Index after the last.
    end: u64,
    /// Index of the first that is not answered.
    next: u64,
    waits: Arc<dyn Waits>,
    expired: bool,
    permit: Permit,
}

impl Expected {
    /// Whether its next entry is in this batch.
    fn waits_for(&self, batch: &Batch) -> bool {
        self.first.leader_id == batch.last().leader_id && self.next <= batch.last().index
    }
}

/// Most bytes of entries held for a machine that does not keep up; what comes on top is read from the log again
/// when its turn comes: 64 MiB.
const MAX_QUEUED_BYTES: usize = 64 << 20;

fn size_of_batches(batches: &Batches) -> usize {
    batches.iter().map(|batch| batch.bytes().len()).sum()
}

/// What an apply queue is made of.
pub(crate) struct ApplyParts<S> {
    pub(crate) state: S,
    /// Of what is in the state.
    pub(crate) book: Book,
    /// Whether the machine keeps its state itself.
    pub(crate) durable: bool,
    pub(crate) meters: Arc<GroupMeters>,
    pub(crate) storage: Arc<dyn RaftLogStorage>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
}

/// The queue and its state machine.
pub(crate) struct ApplyQueue<S: RaftStateMachine> {
    me: Weak<Self>,
    pub(crate) shell: OnceLock<Weak<dyn Shell>>,
    node: NodeId,
    group: GroupId,
    meters: Arc<GroupMeters>,
    inline: bool,
    /// Of commands that are not applied inline nevertheless.
    is_slow: Option<fn(&[u8]) -> bool>,
    /// Whether the machine keeps its state itself.
    durable: bool,
    storage: Arc<dyn RaftLogStorage>,
    snapshots: Arc<dyn SnapshotStore>,
    word: AtomicU8,
    jobs: Mutex<VecDeque<Job<S>>>,
    /// Lets the pump see without the lock that there are none.
    any: AtomicBool,
    /// Bytes of entries that wait to be applied.
    queued_bytes: AtomicUsize,
    machine: Mutex<Machine<S>>,
    /// Sessions, and answers kept for them, as of the last job.
    session_counts: (AtomicU64, AtomicU64),
    expected: Mutex<VecDeque<Expected>>,
    /// Whether there are any, to be seen without the lock. Set before the jobs that may answer them are in the queue.
    awaited: AtomicBool,
    /// Empty, for its room.
    spare: Mutex<Fired>,
    /// Nothing is applied or read any more.
    over: AtomicBool,
    /// What was handed to threads that may block.
    apart: Arc<Apart>,
}

/// Why the queue cannot go on.
enum Fatal {
    Storage(StorageError),
    Machine(String),
}

impl<S: RaftStateMachine> ApplyQueue<S> {
    pub(crate) fn new(parts: ApplyParts<S>) -> Arc<Self> {
        let (inline, is_slow) = (parts.state.applies_inline(), parts.state.slow_commands());
        let applied = parts.book.applied;
        let machine = Machine {
            state: parts.state,
            book: parts.book,
            applied,
            next: Vec::new(),
            parked: Vec::new(),
            results: Vec::new(),
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            shell: OnceLock::new(),
            node: parts.meters.node,
            group: parts.meters.group,
            meters: parts.meters,
            inline,
            is_slow,
            durable: parts.durable,
            storage: parts.storage,
            snapshots: parts.snapshots,
            word: AtomicU8::new(IDLE),
            jobs: Mutex::new(VecDeque::new()),
            queued_bytes: AtomicUsize::new(0),
            any: AtomicBool::new(false),
            session_counts: (machine.book.sessions.sessions().into(), machine.book.sessions.answers().into()),
            machine: Mutex::new(machine),
            expected: Mutex::new(VecDeque::new()),
            awaited: AtomicBool::new(false),
            spare: Mutex::default(),
            over: AtomicBool::new(false),
            apart: Arc::default(),
        })
    }

    /// Runs `read` once `at` is applied.
    pub(crate) fn read(&self, at: u64, read: ReadFn<S>) {
        self.enqueue(Job::Read { at, read });
    }

    /// Runs `visit`, which may block, after what is in the queue.
    pub(crate) fn visit(&self, visit: ReadFn<S>) {
        self.enqueue(Job::Visit(visit));
    }

    fn enqueue(&self, job: Job<S>) {
        {
            let mut jobs = self.jobs.lock();
            jobs.push_back(job);
            self.any.store(true, Ordering::Release);
        }
        if let Some(applied) = self.pump(false) {
            self.tell_applied(applied);
        }
    }

    /// Runs `read` now and here if the machine is cheap, free, and has applied `at`; else gives it back.
    ///
    /// Whoever looks has the queue's word, as those have who work jobs off: what the caller's code makes this library do
    /// meanwhile, on this thread or another, finds the queue at work, and what that left is worked off afterwards.
    pub(crate) fn try_read<T, F: FnOnce(&S) -> T>(&self, at: u64, read: F) -> Result<T, F> {
        let claim = || self.word.compare_exchange(IDLE, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
        if !self.inline || self.over.load(Ordering::Acquire) || claim().is_err() {
            return Err(read);
        }
        let looked = match self.machine.try_lock() {
            // Looked at again under the lock: a group that is over by then serves nothing.
            Some(machine) if machine.applied.index >= at && !self.over.load(Ordering::Acquire) => {
                Ok(blame::catch(|| read(&machine.state)))
            }
            _ => Err(read),
        };
        if self.word.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err()
            && let Some(applied) = self.work(Place::Here)
        {
            self.tell_applied(applied);
        }
        looked.map(|seen| seen.unwrap_or_else(|panic| panic.resume()))
    }

    /// Shows the state and what is applied to it, unless the queue is over or at work.
    #[cfg(feature = "sim")]
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&S, LogId) -> T) -> Option<T> {
        let machine = self.machine.try_lock().filter(|_| !self.over.load(Ordering::Acquire))?;
        Some(look(&machine.state, machine.applied))
    }

    /// Shows the session table, as [`peek`](Self::peek) shows the state.
    #[cfg(feature = "sim")]
    pub(crate) fn peek_sessions<T>(&self, look: impl FnOnce(&crate::session::SessionTable, LogId) -> T) -> Option<T> {
        let machine = self.machine.try_lock().filter(|_| !self.over.load(Ordering::Acquire))?;
        Some(look(&machine.book.sessions, machine.applied))
    }

    /// Counts the bytes of an apply, and lets go of them if too many wait already.
    fn bound(&self, batches: &mut Option<Batches>) {
        let bytes = batches.as_ref().map_or(0, size_of_batches);
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > MAX_QUEUED_BYTES {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            *batches = None;
        }
    }

    /// Remembers who waits for the entries of proposals.
    fn expect(&self, awaited: &mut Vec<Awaited>) {
        let mut expected = self.expected.lock();
        for Awaited { first, count, waits, permit } in awaited.drain(..) {
            let end = first.index + count;
            expected.push_back(Expected { first, end, next: first.index, waits, expired: false, permit });
        }
        self.awaited.store(true, Ordering::Release);
    }

    /// Whether anybody may wait for an entry. Who took a job sees what was expected before that came.
    fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    // ---- working jobs off ----

    fn work_apart(&self) {
        if let Some(applied) = self.work(Place::Apart) {
            self.tell_applied(applied);
        }
    }

    fn tell_applied(&self, log_id: LogId) {
        if let Some(shell) = self.shell() {
            shell.leave_applied(log_id);
        }
    }

    /// Works off what is in the queue, as far as this place allows; returns the last entry that was applied, if any was.
    fn work(&self, place: Place) -> Option<LogId> {
        let mut applied = None;
        let mut fired = self.lend_fired();
        loop {
            // What made it dirty before is found by this round.
            if self.word.load(Ordering::Relaxed) != RUNNING {
                self.word.swap(RUNNING, Ordering::AcqRel);
            }
            if !self.work_off(place, &mut applied, &mut fired) {
                // Another thread goes on; the word stays `RUNNING` for it.
                break;
            }
            if self.word.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                break;
            }
            // Under load this may go on for long.
            if let Some(applied) = applied.take() {
                self.tell_applied(applied);
            }
        }
        if fired.has_room() {
            self.keep_fired(fired);
        }
        applied
    }

    /// Works off what the turn that goes on here has put before the queue; nobody else is at work then.
    fn work_next(&self) -> Option<LogId> {
        let mut machine = self.machine.lock();
        let mut next = std::mem::take(&mut machine.next);
        if self.is_slow.is_some() && next.iter().any(|job| self.goes_apart(job)) {
            drop(machine);
            self.hand_on(next);
            return None;
        }
        let mut fired = self.lend_fired();
        let before = machine.applied.index;
        for job in &next {
            if let ApplyJob::Apply { batches: Some(batches), since, .. } = job
                && !self.is_over()
            {
                self.attempt(|| {
                    self.apply(&mut machine, batches, &mut fired)?;
                    // No clock is read for its beginning: that was with the turn that brought it.
                    let began = self.meters.has_clock().then_some(*since);
                    self.meters.applied(machine.applied.index - before, *since, began);
                    machine.serve_parked();
                    Ok(())
                });
            }
        }
        next.clear();
        machine.next = next;
        let applied = (machine.applied.index > before).then_some(machine.applied);
        self.count_sessions(&machine);
        drop(machine);
        if fired.has_room() {
            fired.fire();
            self.keep_fired(fired);
        }
        if self.is_over() || self.word.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Something came meanwhile.
            return self.work(Place::Here).or(applied);
        }
        applied
    }

    /// Has another thread go on, with these jobs before what is in the queue. The word stays `RUNNING` for it.
    fn hand_on(&self, next: Vec<ApplyJob>) {
        {
            let mut jobs = self.jobs.lock();
            for mut job in next.into_iter().rev() {
                if let ApplyJob::Apply { batches, .. } = &mut job {
                    self.bound(batches);
                }
                jobs.push_front(Job::Driver(job));
            }
            self.any.store(true, Ordering::Release);
        }
        if let Some(me) = self.me.upgrade() {
            self.spawn_blocking(Box::new(move || me.work_apart()));
        }
    }

    /// Whether a job has to be done on a thread that may block.
    fn goes_apart(&self, job: &ApplyJob) -> bool {
        match job {
            ApplyJob::Apply { batches: Some(batches), .. } => self.is_slow.is_some_and(|is_slow| {
                let look = || batches.iter().any(|batch| has_slow(batch, is_slow));
                blame::catch(look).unwrap_or(true)
            }),
            ApplyJob::Apply { batches: None, .. } | ApplyJob::Install { .. } | ApplyJob::Build => true,
        }
    }

    /// For what is to be done without a lock. Most followers never answer anybody.
    fn lend_fired(&self) -> Fired {
        if self.is_awaited() { std::mem::take(&mut *self.spare.lock()) } else { Fired::default() }
    }

    /// Keeps the room of what is done.
    fn keep_fired(&self, mut fired: Fired) {
        fired.shrink();
        *self.spare.lock() = fired;
    }

    fn count_sessions(&self, machine: &Machine<S>) {
        self.session_counts.0.store(machine.book.sessions.sessions(), Ordering::Relaxed);
        self.session_counts.1.store(machine.book.sessions.answers(), Ordering::Relaxed);
    }

    /// Works off what is in the queue; returns whether all of it could be done in this place.
    #[inline(never)]
    fn work_off(&self, place: Place, newest: &mut Option<LogId>, fired: &mut Fired) -> bool {
        let mut machine = self.machine.lock();
        let before = machine.applied.index;
        let mut done = true;
        while !self.over.load(Ordering::Acquire) && self.any.load(Ordering::Acquire) {
            let Some(job) = self.next_job(place, &mut done) else { break };
            self.attempt(|| self.work_one(job, &mut machine, fired));
        }
        if self.over.load(Ordering::Acquire) {
            // What callers left in their reads is dropped like everything of theirs: without a lock.
            let unread = (std::mem::take(&mut *self.jobs.lock()), std::mem::take(&mut machine.parked));
            fired.call(move || drop(unread));
        }
        let applied = machine.applied;
        self.count_sessions(&machine);
        drop(machine);
        fired.fire();
        if applied.index > before {
            *newest = Some(applied);
        }
        if !done && let Some(me) = self.me.upgrade() {
            if let Some(applied) = newest.take() {
                // Before the other thread may have more to tell.
                self.tell_applied(applied);
            }
            self.spawn_blocking(Box::new(move || me.work_apart()));
        }
        done
    }

    /// Does a job; if it fails, the group is over.
    fn attempt(&self, job: impl FnOnce() -> Result<(), Fatal>) {
        let fatal = match blame::catch(job) {
            Ok(Ok(())) => return,
            Ok(Err(Fatal::Storage(error))) => ClosedReason::Storage(error),
            Ok(Err(Fatal::Machine(text))) => ClosedReason::StateMachine(text),
            Err(panic) => blame::reason(&panic, machine_panicked),
        };
        // The state may be half changed: nobody sees it any more.
        self.over.store(true, Ordering::Release);
        // The next pump has a look, and lets go of what came meanwhile.
        self.any.store(true, Ordering::Release);
        self.tell(Input::Close(fatal));
    }

    /// The next job that can be done in this place; clears `done` if there is one that cannot.
    fn next_job(&self, place: Place, done: &mut bool) -> Option<Job<S>> {
        let mut jobs = self.jobs.lock();
        let front = jobs.front()?;
        let goes_apart = || match front {
            Job::Read { .. } => false,
            Job::Visit(_) => true,
            Job::Driver(job) => self.goes_apart(job),
        };
        if place == Place::Here && goes_apart() {
            *done = false;
            return None;
        }
        let job = jobs.pop_front();
        if let Some(Job::Driver(ApplyJob::Apply { batches: Some(batches), .. })) = &job {
            self.queued_bytes.fetch_sub(size_of_batches(batches), Ordering::Relaxed);
        }
        if jobs.is_empty() {
            self.any.store(false, Ordering::Relaxed);
        }
        job
    }

    #[inline(never)]
    fn work_one(&self, job: Job<S>, machine: &mut Machine<S>, fired: &mut Fired) -> Result<(), Fatal> {
        match job {
            Job::Read { at, read } if machine.applied.index >= at => read(&machine.state),
            Job::Read { at, read } => machine.parked.push((at, read)),
            Job::Visit(visit) => visit(&machine.state),
            Job::Driver(ApplyJob::Apply { span, batches, since }) => {
                let began = self.meters.now();
                self.work_apply(span, batches.as_ref(), (since, began), machine, fired)?;
            }
            Job::Driver(ApplyJob::Install { meta, data }) => {
                let began = self.meters.now();
                self.install(machine, *meta, data, fired)?;
                self.meters.enter_since(&self.meters.snapshot_install, began);
                machine.serve_parked();
            }
            Job::Driver(ApplyJob::Build) => self.build(machine),
        }
        Ok(())
    }

    // ---- applying ----

    /// Applies entries that were committed and durable at the first of two moments; with the second one the work began.
    fn work_apply(
        &self,
        span: Span,
        batches: Option<&Batches>,
        (since, began): (Instant, Option<Instant>),
        machine: &mut Machine<S>,
        fired: &mut Fired,
    ) -> Result<(), Fatal> {
        let before = machine.applied.index;
        match batches {
            Some(batches) => self.apply(machine, batches, fired)?,
            None => self.read_and_apply(machine, span, fired)?,
        }
        // Fewer than the span's if it was cut short.
        self.meters.applied(machine.applied.index - before, since, began);
        machine.serve_parked();
        Ok(())
    }

    fn read_and_apply(&self, machine: &mut Machine<S>, span: Span, fired: &mut Fired) -> Result<(), Fatal> {
        let mut rest = span;
        // A node that is stopped does not wait for the rest of a long log.
        while rest.count() > 0 && !self.is_over() {
            let read = || self.storage.read(self.group, rest, 1 << 20);
            let found = blame::storage(read).map_err(Fatal::Storage)?;
            let Some(last) = found.as_ref().and_then(|batches| batches.last()).map(Batch::last) else {
                let text = format!("committed entries {rest:?} are no longer in the log");
                return Err(Fatal::Storage(StorageError::new(StorageErrorKind::Corrupt, text)));
            };
            self.apply(machine, &found.unwrap_or_default(), fired)?;
            rest.prev = last;
        }
        Ok(())
    }

    #[inline(always)]
    fn apply(&self, machine: &mut Machine<S>, batches: &Batches, fired: &mut Fired) -> Result<(), Fatal> {
        // Most often nobody traces: then not even a span that is disabled is made.
        let traced = LevelFilter::current() == LevelFilter::TRACE;
        let _span = traced.then(|| {
            let (first, last) = (batches.first().map(Batch::first), batches.last().map(Batch::last));
            let (first, last) = (first.map(|first| first.index), last.map(|last| last.index));
            tracing::trace_span!(target: NODE, "apply", node = self.node.0, group = self.group.0, first, last).entered()
        });
        for batch in batches {
            if self.is_over() {
                break;
            }
            if batch.last().index <= machine.applied.index {
                continue;
            }
            match self.is_awaited() {
                true => self.apply_awaited(machine, batch, fired)?,
                false => machine.apply(batch, None)?,
            }
        }
        Ok(())
    }

    /// Applies a batch that somebody may wait for.
    #[inline(never)]
    fn apply_awaited(&self, machine: &mut Machine<S>, batch: &Batch, fired: &mut Fired) -> Result<(), Fatal> {
        let Some((from, count)) = self.awaited(batch, fired) else { return machine.apply(batch, None) };
        let mut results = std::mem::take(&mut machine.results);
        results.reserve(usize::try_from(count).unwrap_or(0));
        machine.apply(batch, Some((from, &mut results)))?;
        self.answer(batch, &mut results, fired);
        results.clear();
        if results.capacity() <= KEPT_ROOM {
            machine.results = results;
        }
        Ok(())
    }

    /// Index of the first entry of the batch that somebody waits for, and how many follow from there; who waits for what
    /// it replaced is told.
    fn awaited(&self, batch: &Batch, fired: &mut Fired) -> Option<(u64, u64)> {
        let mut expected = self.expected.lock();
        // Most often all that is expected is of the leader of the entries that are applied.
        let leader_id = batch.last().leader_id;
        if expected.iter().any(|head| head.first.leader_id != leader_id) {
            fail_replaced(&mut expected, batch, fired);
        }
        let head = expected.iter().find(|head| head.waits_for(batch))?;
        Some((head.next, batch.last().index + 1 - head.next.max(batch.first().index)))
    }

    /// Answers whoever waits for an entry of this batch.
    fn answer(&self, batch: &Batch, results: &mut Vec<Applied<S::Response>>, fired: &mut Fired) {
        let last = batch.last();
        let mut results = results.drain(..);
        let mut expected = self.expected.lock();
        let mut place = 0;
        while let Some(head) = expected.get_mut(place) {
            if !head.waits_for(batch) {
                place += 1;
                continue;
            }
            let end = head.end.min(last.index + 1);
            let count = usize::try_from(end - head.next).unwrap_or(usize::MAX);
            if let Some(list) = head.waits.as_any().downcast_ref::<WaitList<S::Response>>()
                && !bug(Bug::AppliedIsNotAnswered)
            {
                list.complete(head.first, head.cell(), results.by_ref().take(count), fired);
            }
            head.next = end;
            if head.next < head.end {
                // The rest of it is in batches to come.
                place += 1;
            } else if let Some(head) = take_out(&mut expected, place) {
                head.let_go(fired);
            }
        }
        self.awaited.store(!expected.is_empty(), Ordering::Release);
    }

    fn tell(&self, input: Input) {
        if let Some(shell) = self.shell() {
            shell.leave(input);
        }
    }

    /// Without a shell the node is gone, and nobody waits for the work.
    fn spawn_blocking(&self, work: Work) {
        if let Some(shell) = self.shell() {
            let counted = self.apart.count(work);
            shell.spawn_blocking(Box::new(move || counted.run()));
        }
    }

    /// As [`spawn_blocking`](Self::spawn_blocking), for work that goes on beside the queue.
    fn spawn_beside(&self, work: Work) {
        if let Some(shell) = self.shell() {
            let counted = self.apart.count(work);
            shell.spawn_beside(Box::new(move || counted.run()));
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn shell(&self) -> Option<Arc<dyn Shell>> {
        self.shell.get().and_then(Weak::upgrade)
    }
}

impl<S: RaftStateMachine> Applies for ApplyQueue<S> {
    fn halt(&self) -> bool {
        self.over.store(true, Ordering::Release);
        // Whoever takes the machine from here on sees that.
        self.machine.try_lock().is_some() && self.apart.is_idle()
    }

    fn halt_and_wait(&self) {
        self.over.store(true, Ordering::Release);
        drop(self.machine.lock());
        self.apart.wait();
    }

    fn push(&self, awaited: &mut Vec<Awaited>, jobs: &mut Vec<ApplyJob>) -> bool {
        if !awaited.is_empty() {
            self.expect(awaited);
        }
        if jobs.is_empty() {
            return false;
        }
        // Only turns of the driver bring jobs that change the state, one turn after the other: what nobody is at work on
        // and is not in the queue is done, so this one is next. Who brings a read meanwhile finds the queue at work.
        if let [ApplyJob::Apply { batches: Some(_), .. }] = &jobs[..]
            && self.inline
            && !self.any.load(Ordering::Acquire)
            && self.word.compare_exchange(IDLE, RUNNING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            std::mem::swap(&mut self.machine.lock().next, jobs);
            return true;
        }
        let mut queue = self.jobs.lock();
        for job in jobs.iter_mut() {
            // Written in place: a job is large.
            queue.push_back(Job::Driver(match job {
                ApplyJob::Apply { span, batches, since } => {
                    self.bound(batches);
                    ApplyJob::Apply { span: *span, batches: batches.take(), since: *since }
                }
                job => std::mem::replace(job, ApplyJob::Build),
            }));
        }
        jobs.clear();
        self.any.store(true, Ordering::Release);
        false
    }

    fn pump(&self, claimed: bool) -> Option<LogId> {
        if claimed {
            return self.work_next();
        }
        if !self.any.load(Ordering::Acquire) || self.word.swap(DIRTY, Ordering::AcqRel) != IDLE {
            return None;
        }
        if self.inline {
            return self.work(Place::Here);
        }
        match self.me.upgrade() {
            None => self.work(Place::Here),
            Some(me) => {
                self.spawn_blocking(Box::new(move || me.work_apart()));
                None
            }
        }
    }

    fn session_counts(&self) -> (u64, u64) {
        let (sessions, answers) = &self.session_counts;
        (sessions.load(Ordering::Relaxed), answers.load(Ordering::Relaxed))
    }

    fn depths(&self) -> Depths {
        let (jobs, bytes) = (self.jobs.lock().len(), self.queued_bytes.load(Ordering::Relaxed));
        Depths { apply_jobs: jobs as u64, apply_bytes: bytes as u64, ..Depths::default() }
    }

    fn expire(&self, before: std::time::Instant, fired: &mut Fired) {
        for head in self.expected.lock().iter_mut() {
            if head.waits.since() >= before {
                break;
            }
            if !std::mem::replace(&mut head.expired, true) {
                head.waits.expire(head.cell(), fired);
            }
        }
    }

    fn close(&self, _reason: &ClosedReason, fired: &mut Fired) {
        self.over.store(true, Ordering::Release);
        let expected = std::mem::take(&mut *self.expected.lock());
        for head in expected {
            head.waits.fail(head.cell(), &Failure::Unknown, fired);
            head.let_go(fired);
        }
        let unread = std::mem::take(&mut *self.jobs.lock());
        fired.call(move || drop(unread));
        if let Some(mut machine) = self.machine.try_lock() {
            let parked = std::mem::take(&mut machine.parked);
            fired.call(move || drop(parked));
        } else {
            // Whoever is at work looks at the queue again, and lets go of parked reads.
            self.any.store(true, Ordering::Release);
            self.pump(false);
        }
    }
}

/// Whether one of a batch's commands is.
fn has_slow(batch: &Batch, is_slow: fn(&[u8]) -> bool) -> bool {
    batch.iter().any(|entry| match entry.kind {
        EntryKind::Command => is_slow(entry.payload),
        EntryKind::SessionCommand => entry.payload.get(SESSION_HEADER_BYTES..).is_some_and(is_slow),
        EntryKind::Blank
        | EntryKind::Membership
        | EntryKind::OpenSession
        | EntryKind::KeepSessions
        | EntryKind::CloseSessions => false,
    })
}

/// Tells those whose place in the log another leader's entry took. By log matching none of the rest of such a proposal
/// can be committed either. Proposals of an earlier leadership with higher indexes stay, in front of newer ones: nothing
/// is known of them until something is committed there.
fn fail_replaced(expected: &mut VecDeque<Expected>, batch: &Batch, fired: &mut Fired) {
    let last = batch.last();
    let replaced = |head: &Expected| head.next <= last.index && head.first.leader_id != last.leader_id;
    fail_those(expected, replaced, &Failure::Replaced, fired);
}

/// Tells those whose proposal ends so, and waits for them no more.
fn fail_those(
    expected: &mut VecDeque<Expected>,
    ends: impl Fn(&Expected) -> bool,
    failure: &Failure,
    fired: &mut Fired,
) {
    while let Some(place) = expected.iter().position(&ends) {
        let Some(head) = expected.remove(place) else { break };
        head.waits.fail(head.cell(), failure, fired);
        head.let_go(fired);
    }
}

/// As [`VecDeque::remove`]; most often it is the first.
fn take_out(expected: &mut VecDeque<Expected>, place: usize) -> Option<Expected> {
    match place {
        0 => expected.pop_front(),
        _ => expected.remove(place),
    }
}

/// Why the group is over after a panic that is the machine's.
fn machine_panicked(text: String) -> ClosedReason {
    ClosedReason::StateMachine(format!("it panicked: {text}"))
}

impl Expected {
    /// The first cell that is not answered.
    fn cell(&self) -> usize {
        usize::try_from(self.next - self.first.index).unwrap_or(usize::MAX)
    }

    /// All of it is answered. It goes once no lock is held: it may hold what a caller that gave up left.
    fn let_go(self, fired: &mut Fired) {
        fired.let_go(self.waits, self.permit);
    }
}

impl<S: RaftStateMachine> Machine<S> {
    /// Applies what is new of a batch; `awaited` says from which index on somebody waits, and takes what they are told.
    #[inline(always)]
    fn apply(&mut self, batch: &Batch, awaited: Option<(u64, &mut Vec<Applied<S::Response>>)>) -> Result<(), Fatal> {
        let mut commands = Commands::new(batch, &mut self.book, awaited);
        let told = self.state.apply_batch(&mut commands);
        commands.finish(told).map_err(Fatal::Machine)?;
        self.applied = batch.last();
        Ok(())
    }

    fn replace(&mut self, restored: Restored<S>, meta: &SnapshotMeta) {
        let Restored { state, time, sessions } = restored;
        self.state = state;
        let kept = std::mem::replace(&mut self.book, Book::at(meta.clone(), time, sessions)).sessions;
        if !kept.is_empty() && bug(Bug::RestoreMergesSessions) {
            self.book.sessions = kept;
        }
    }

    #[inline]
    fn serve_parked(&mut self) {
        if !self.parked.is_empty() {
            self.serve_those_applied();
        }
    }

    fn serve_those_applied(&mut self) {
        let applied = self.applied.index;
        for (_, read) in self.parked.extract_if(.., |(at, _)| *at <= applied) {
            read(&self.state);
        }
    }
}

#[cfg(test)]
mod tests;
