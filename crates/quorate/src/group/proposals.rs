//! The one queue in which all writes of a group wait for a turn of the driver.
//!
//! Callers append their encoded command to the open batch under a short lock; the driver takes the whole batch as
//! one proposal. So the more callers there are, the less each of them costs, without any timer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_core::LeaderId;
use quorate_wire::{BatchBuilder, ENTRY_OVERHEAD_BYTES, EntryKind};
use smallvec::SmallVec;

use super::node::standby::Patience;
use super::terms::{Commits, Terms, Timer, forget};
use super::waits::{Failure, Fired, Responder, WaitList, Waits};
use super::window::{Permit, Window};
use crate::ClosedReason;

/// A batch takes no more commands once it has this many bytes: what fits one append.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// After so many batches with one command each, callers step the driver before others could join; and one in so many
/// lets others join nevertheless. Where a call is answered in its own step, to be polled again is a part in thirty of what
/// it costs, and the thread's other tasks wait for so many calls at most, some 50 µs.
const ALONE: i32 = 16;

/// Nor do they wait longer than this, and for one call more, should calls be slow because what they apply is. Forty times
/// what [`ALONE`] calls take, so that only slow ones come here.
const MAX_ALONE: Duration = Duration::from_millis(2);

/// So many batches later it is tried again, if a step did not answer its caller.
const NOT_AT_ONCE: i32 = 256;

/// Who comes after so many batches with one command each has its thread for itself.
const SINGLES: u32 = 4;

/// A batch of fewer than twice so many is not taken in halves: a turn costs as much as eight calls.
pub(super) const MIN_HALF: usize = 8;

/// Lists of callers that are kept for the next batches: thousands of callers come in bursts of several batches.
const MAX_SPARE_LISTS: usize = 16;
/// Builders that are kept for them.
const MAX_SPARES: usize = 2;

/// A batch on its way into the log.
pub(crate) struct Taken {
    pub(crate) builder: BatchBuilder,
    pub(crate) waits: Arc<dyn Waits>,
    pub(crate) permit: Permit,
    /// Refused unless this leader id leads when it is proposed.
    pub(crate) only: Option<LeaderId>,
    pub(crate) commits: Commits,
}

/// What the driver, which knows no types, does with the queue.
pub(crate) trait Proposals: Send + Sync {
    /// The oldest batch.
    fn take(&self) -> Option<Taken>;

    /// Commands in the oldest batch; 0 if there is none.
    fn next_count(&self) -> u64;

    /// Says whether the driver leaves batches in the queue until some that it took are committed. Until then
    /// nobody needs to be woken for the queue: the driver comes back by itself.
    fn set_held(&self, held: bool);

    /// Gives a builder's buffer back for reuse.
    fn recycle(&self, builder: BatchBuilder);

    /// Batches in the queue, and bytes of writes that have no answer yet.
    fn depth(&self) -> (u64, u64);

    /// Refuses everything in the queue, and whatever comes later.
    fn close(&self, reason: &ClosedReason, fired: &mut Fired);

    /// Fails with "never entered a log" what joined before `before`.
    fn expire(&self, before: Instant, fired: &mut Fired);
}

struct Open<R> {
    builder: BatchBuilder,
    waits: Arc<WaitList<R>>,
    /// All of it is under the same condition.
    only: Option<LeaderId>,
    commits: Commits,
    /// The thread of the caller that opened it.
    thread: u64,
}

struct Queue<R> {
    batches: VecDeque<Open<R>>,
    spare: Vec<BatchBuilder>,
    /// Emptied lists of callers, for their room.
    spare_waits: Vec<Arc<WaitList<R>>>,
    /// Commands in the last batch that was taken: the next one has about as many.
    last_count: usize,
    /// Grows by one with every batch of one command, from -[`ALONE`] to `ALONE`, then from 0 again: above 0, nobody joins
    /// these days.
    alone: i32,
    /// Batches of one command in a row, up to [`SINGLES`].
    singles: u32,
    /// When the last caller came that let others join.
    gave_way: Instant,
    closed: Option<ClosedReason>,
}

/// The queue.
pub(crate) struct ProposalQueue<R> {
    queue: Mutex<Queue<R>>,
    /// See [`Proposals::set_held`].
    held: AtomicBool,
    /// Batches in the queue; lets a turn see without the lock that there are none.
    waiting: AtomicUsize,
    pub(crate) window: Arc<Window>,
    /// Of callers that wait awake.
    pub(crate) patience: Patience,
    /// Tells when a batch was opened.
    clock: fn() -> Instant,
}

/// Bytes that a command takes of the window.
pub(crate) fn entry_bytes(payload: usize) -> usize {
    payload + ENTRY_OVERHEAD_BYTES
}

/// Where a caller finds its result.
pub(crate) struct Joined<R> {
    pub(crate) waits: Arc<WaitList<R>>,
    pub(crate) cell: usize,
    /// When it came; of one command that joined a batch, when that was opened.
    pub(crate) since: Instant,
    pub(crate) duty: Duty,
    /// It opened the batch, and of late nobody joined one.
    pub(crate) is_single: bool,
}

/// Where each run of commands that were added together waits, and its length. Most often they fit one batch.
pub(crate) type Runs<R> = SmallVec<[(Joined<R>, usize); 1]>;

/// What a caller has to do so that its batch is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing: the driver comes back to the queue, or the caller that opened the batch on this thread does.
    Nothing,
    /// It opened the batch: let others on this thread join, then have it taken.
    ComeBack,
    /// It opened the batch, and nobody joins these days: have it taken.
    StepNow,
    /// With it the batch is half as large as the last one, and nothing is under way: have it taken if a thread that is awake
    /// answers it, so that the other half is collected meanwhile.
    StepHalf,
    /// Another thread's caller opened the batch, and nobody knows when it comes back: have it taken.
    Wake,
}

static NEXT_THREAD: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Tells this thread's callers from others'.
    static THREAD: u64 = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
}

/// Tells this thread from others.
pub(super) fn this_thread() -> u64 {
    THREAD.with(|id| *id)
}

impl<R> Open<R> {
    /// Whether a payload of this length fits into the batch too.
    fn has_room(&self, payload: usize) -> bool {
        self.builder.bytes() + entry_bytes(payload) <= MAX_BATCH_BYTES
    }

    /// What the caller of this cell has to do.
    fn duty(&self, cell: usize) -> Duty {
        match cell {
            0 => Duty::ComeBack,
            _ if self.thread == this_thread() => Duty::Nothing,
            _ => Duty::Wake,
        }
    }
}

impl<R> Queue<R> {
    /// Whether a caller that opens a batch now lets others on its thread join.
    fn gives_way(&mut self, now: Instant) -> bool {
        let gives_way = self.alone <= 0 || now.duration_since(self.gave_way) >= MAX_ALONE;
        if gives_way {
            self.gave_way = now;
        }
        gives_way
    }
}

impl<R: Send + 'static> ProposalQueue<R> {
    pub(crate) fn new() -> Self {
        Self::timed_by(Instant::now)
    }

    fn timed_by(clock: fn() -> Instant) -> Self {
        let queue = Queue {
            batches: VecDeque::new(),
            spare: Vec::new(),
            spare_waits: Vec::new(),
            last_count: 0,
            alone: -ALONE,
            singles: 0,
            gave_way: clock(),
            closed: None,
        };
        Self {
            queue: Mutex::new(queue),
            held: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            window: Arc::default(),
            patience: Patience::default(),
            clock,
        }
    }

    /// Adds an entry whose bytes were taken from the window. Its caller is woken only if it is not the first of its batch.
    pub(crate) fn push(
        &self,
        kind: EntryKind,
        payload: &[u8],
        terms: &Terms,
        waker: &Waker,
    ) -> Result<Joined<R>, ClosedReason> {
        self.add(kind, payload, terms, |waits| waits.join(waker, terms.timer))
    }

    /// Adds an entry that nobody polls for, whose bytes were taken from the window.
    pub(crate) fn push_remote(
        &self,
        kind: EntryKind,
        payload: &[u8],
        terms: &Terms,
        responder: Responder<R>,
    ) -> Result<Duty, ClosedReason> {
        Ok(self.add(kind, payload, terms, |waits| waits.join_remote(responder, terms.timer))?.duty)
    }

    /// Whether the driver comes back to the queue without being woken.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Adds commands whose bytes were taken from the window: the parts of `payloads` that end at `ends`. Returns
    /// where each run of them waits, and its length; nothing if the queue is closed.
    pub(crate) fn push_many(&self, payloads: &[u8], ends: &[usize], only: Option<LeaderId>, timer: Timer) -> Runs<R> {
        let mut runs = Runs::new();
        let mut count;
        let mut queue = self.queue.lock();
        if queue.closed.is_some() {
            drop(queue);
            self.window.give(entry_bytes(0) * ends.len() + payloads.len());
            return runs;
        }
        let (mut start, mut ends) = (0, ends.iter().copied().peekable());
        while let Some(end) = ends.next() {
            // As many as fit into one batch, and its list of callers at once.
            let open = self.open(&mut queue, end - start, only);
            open.builder.push(EntryKind::Command, &payloads[start..end]);
            (start, count) = (end, 1);
            while let Some(end) = ends.next_if(|end| open.has_room(*end - start)) {
                open.builder.push(EntryKind::Command, &payloads[start..end]);
                (start, count) = (end, count + 1);
            }
            let cell = open.waits.join_many(count, timer);
            let (waits, duty) = (Arc::clone(&open.waits), open.duty(cell));
            let since = waits.since;
            runs.push((Joined { waits, cell, since, duty, is_single: false }, count));
        }
        drop(queue);
        if self.is_held() {
            // A batch may wait for long then, and be joined by who has just come.
            let now = (self.clock)();
            for (run, _) in &mut runs {
                run.duty = Duty::Nothing;
                run.since = if run.cell == 0 { run.since } else { now };
            }
        }
        runs
    }

    fn add(
        &self,
        kind: EntryKind,
        payload: &[u8],
        terms: &Terms,
        join: impl FnOnce(&WaitList<R>) -> usize,
    ) -> Result<Joined<R>, ClosedReason> {
        let mut queue = self.queue.lock();
        if let Some(reason) = &queue.closed {
            let reason = reason.clone();
            drop(queue);
            self.window.give(entry_bytes(payload.len()));
            return Err(reason);
        }
        let (half, is_single) = (queue.last_count / 2, queue.singles == SINGLES);
        let open = self.open(&mut queue, payload.len(), terms.only);
        open.builder.push(kind, payload);
        let cell = join(&open.waits);
        if let Some(slot) = &terms.on_commit {
            open.commits.push((cell, Arc::clone(slot)));
        }
        let bytes = open.builder.bytes();
        let (waits, duty) = (Arc::clone(&open.waits), open.duty(cell));
        let since = waits.since;
        let mut joined = Joined { waits, cell, since, duty, is_single: is_single && cell == 0 };
        if joined.duty == Duty::Nothing && cell + 1 == half && half >= MIN_HALF && self.window.used() == bytes {
            joined.duty = Duty::StepHalf;
        }
        // The batch was opened by this call, so this is its time: no clock is read for it.
        if joined.duty == Duty::ComeBack && !queue.gives_way(joined.since) {
            joined.duty = Duty::StepNow;
        }
        drop(queue);
        if joined.duty != Duty::Nothing && self.is_held() {
            joined.duty = Duty::Nothing;
        }
        Ok(joined)
    }

    /// A caller that stepped at once has no result from that.
    pub(crate) fn was_not_at_once(&self) {
        self.queue.lock().alone = -NOT_AT_ONCE;
    }

    /// A caller has its result: whoever is the last of its batch gives the list back for reuse.
    pub(crate) fn leave(&self, waits: &mut Arc<WaitList<R>>) {
        // What is left in it is the callers', and is dropped without the lock.
        if !WaitList::empty(waits) {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.spare_waits.len() < MAX_SPARE_LISTS {
            queue.spare_waits.push(Arc::clone(waits));
        }
    }

    /// The batch that takes a payload of this length under this condition.
    #[inline]
    fn open<'a>(&self, queue: &'a mut Queue<R>, payload: usize, only: Option<LeaderId>) -> &'a mut Open<R> {
        let full = |open: &Open<R>| open.only != only || !open.has_room(payload);
        if queue.batches.back().is_none_or(full) {
            self.open_another(queue, only);
        }
        match queue.batches.back_mut() {
            Some(open) => open,
            None => unreachable!("a batch was just made sure of"),
        }
    }

    #[inline(never)]
    fn open_another(&self, queue: &mut Queue<R>, only: Option<LeaderId>) {
        let (builder, now) = (queue.spare.pop().unwrap_or_default(), (self.clock)());
        let again = queue.spare_waits.pop().and_then(|list| WaitList::reopen(list, now));
        queue.batches.push_back(Open {
            builder,
            waits: again.unwrap_or_else(|| Arc::new(WaitList::new(queue.last_count, now))),
            only,
            commits: Commits::new(),
            thread: this_thread(),
        });
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    #[inline(never)]
    fn take_oldest(&self) -> Option<Taken> {
        let open = {
            let mut queue = self.queue.lock();
            let open = queue.batches.pop_front()?;
            queue.last_count = usize::try_from(open.builder.count()).unwrap_or(0);
            queue.singles = if queue.last_count == 1 { SINGLES.min(queue.singles + 1) } else { 0 };
            queue.alone = match queue.last_count {
                1 if queue.alone < ALONE => queue.alone + 1,
                1 => 0,
                _ => queue.alone.min(-ALONE),
            };
            open.waits.set_taken(open.builder.bytes());
            open
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = Permit { window: Arc::clone(&self.window), bytes: open.builder.bytes() };
        Some(Taken { builder: open.builder, waits: open.waits, permit, only: open.only, commits: open.commits })
    }
}

impl<R: Send + 'static> Proposals for ProposalQueue<R> {
    fn take(&self) -> Option<Taken> {
        // Most turns find none.
        match self.waiting.load(Ordering::SeqCst) {
            0 => None,
            _ => self.take_oldest(),
        }
    }

    fn next_count(&self) -> u64 {
        match self.waiting.load(Ordering::SeqCst) {
            0 => 0,
            _ => self.queue.lock().batches.front().map_or(0, |open| open.builder.count()),
        }
    }

    fn set_held(&self, held: bool) {
        // Sequentially consistent with `push`: who pushed and then sees `true` pushed before the driver's next take.
        if self.held.load(Ordering::Relaxed) != held {
            self.held.store(held, Ordering::SeqCst);
        }
    }

    fn recycle(&self, mut builder: BatchBuilder) {
        builder.clear();
        let mut queue = self.queue.lock();
        if queue.spare.len() < MAX_SPARES {
            queue.spare.push(builder);
        }
    }

    fn depth(&self) -> (u64, u64) {
        (self.waiting.load(Ordering::Relaxed) as u64, self.window.used() as u64)
    }

    fn close(&self, reason: &ClosedReason, fired: &mut Fired) {
        let batches = {
            let mut queue = self.queue.lock();
            queue.closed.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut queue.batches)
        };
        self.waiting.fetch_sub(batches.len(), Ordering::Relaxed);
        for open in batches {
            self.window.give(open.builder.bytes());
            open.waits.fail(0, &Failure::Closed(reason.clone()), fired);
            forget(open.commits, fired);
        }
    }

    fn expire(&self, before: Instant, fired: &mut Fired) {
        let mut bytes = 0;
        let mut queue = self.queue.lock();
        while queue.batches.front().is_some_and(|open| open.waits.since < before) {
            let Some(open) = queue.batches.pop_front() else { break };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            bytes += open.builder.bytes();
            open.waits.fail(0, &Failure::NotLeader(None), fired);
            forget(open.commits, fired);
        }
        drop(queue);
        // It wakes callers, which no lock may see.
        self.window.give(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// What the clock of a test shows.
        static SHOWN: Cell<Instant> = Cell::new(Instant::now());
    }

    /// The duty of a caller alone, which comes so much later than the one before.
    fn alone(queue: &ProposalQueue<u64>, later: Duration) -> Duty {
        SHOWN.set(SHOWN.get() + later);
        let joined = join(queue);
        drop(queue.take().unwrap());
        joined.duty
    }

    fn join(queue: &ProposalQueue<u64>) -> Joined<u64> {
        queue.push(EntryKind::Command, b"x", &Terms::default(), Waker::noop()).unwrap()
    }

    /// Who is refused by an older batch may try again for as long as if it had been the first of one.
    #[test]
    fn who_joins_a_batch_that_is_held_came_when_it_came() {
        let queue = ProposalQueue::<u64>::timed_by(|| SHOWN.get());
        let opened = SHOWN.get();
        let first = join(&queue);
        queue.set_held(true);
        SHOWN.set(opened + Duration::from_secs(4));
        let many = queue.push_many(b"ab", &[1, 2], None, Timer::Node);
        assert_eq!((first.since, many[0].0.waits.since), (opened, opened));
        assert_eq!(many[0].0.since, SHOWN.get());
        drop(queue.take());
        let opener = queue.push_many(b"ab", &[1, 2], None, Timer::Node);
        assert_eq!((opener[0].0.cell, opener[0].0.since), (0, SHOWN.get()));
    }

    #[test]
    fn a_list_is_used_again_once_everybody_left_it() {
        let queue = ProposalQueue::new();
        let (mut first, mut second) = (join(&queue), join(&queue));
        let list = Arc::as_ptr(&first.waits);
        assert_eq!((list, second.cell), (Arc::as_ptr(&second.waits), 1));
        let taken = queue.take().unwrap();
        queue.leave(&mut first.waits);
        drop(first);
        queue.leave(&mut second.waits);
        let other = join(&queue);
        assert_ne!(Arc::as_ptr(&other.waits), list, "who answers still has it");
        drop((taken, queue.take().unwrap()));
        queue.leave(&mut second.waits);
        drop(second);
        let again = join(&queue);
        assert_eq!((Arc::as_ptr(&again.waits), again.cell, again.waits.taken()), (list, 0, 0));
        assert!(again.waits.since >= other.waits.since, "it began anew");
    }

    #[test]
    fn who_is_always_alone_steps_at_once_and_now_and_then_lets_others_join() {
        let queue = ProposalQueue::timed_by(|| SHOWN.get());
        let soon = Duration::from_micros(3);
        let all_are = |count: i32, duty| (0..count).all(|_| alone(&queue, soon) == duty);
        assert!(all_are(ALONE + 1, Duty::ComeBack) && all_are(ALONE, Duty::StepNow));
        assert!(all_are(1, Duty::ComeBack) && all_are(ALONE, Duty::StepNow), "one in so many");
        let two = [join(&queue).duty, join(&queue).duty];
        assert_eq!(two, [Duty::ComeBack, Duty::Nothing]);
        drop(queue.take());
        assert!(all_are(ALONE + 1, Duty::ComeBack) && all_are(1, Duty::StepNow), "as in the beginning");
        queue.was_not_at_once();
        assert!(all_are(NOT_AT_ONCE + 1, Duty::ComeBack) && all_are(1, Duty::StepNow), "much later");
    }

    #[test]
    fn who_came_alone_for_a_while_is_told_so_until_others_join() {
        let queue = ProposalQueue::new();
        let single = || {
            let joined = join(&queue);
            drop(queue.take().unwrap());
            joined.is_single
        };
        for _ in 0..2 {
            assert!((0..SINGLES).all(|_| !single()) && (0..3).all(|_| single()));
            let two = [join(&queue).is_single, join(&queue).is_single];
            assert_eq!(two, [true, false], "who joins is not the only one");
            drop(queue.take());
        }
    }

    #[test]
    fn who_is_alone_and_slow_lets_others_join_before_long() {
        let queue = ProposalQueue::timed_by(|| SHOWN.get());
        let slow = MAX_ALONE / 4;
        assert!((0..=ALONE).all(|_| alone(&queue, slow) == Duty::ComeBack), "nobody knows yet that it is alone");
        for _ in 0..2 {
            assert!((0..3).all(|_| alone(&queue, slow) == Duty::StepNow));
            assert_eq!(alone(&queue, slow), Duty::ComeBack, "for so long it stepped at once");
        }
        assert!((0..ALONE).all(|_| alone(&queue, MAX_ALONE) == Duty::ComeBack), "every one of them takes so long");
        assert_eq!(alone(&queue, slow), Duty::StepNow, "it is fast again");
    }
}
