//! Who takes the log's turns: its own thread, or a thread that waits for a write of its own and finds nobody at it. That
//! spares a waiting thread both hand-overs, to the log's thread and back. Who takes a turn takes all that is queued,
//! whoever asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant as SystemInstant};

use quorate_core::{GroupId, Instant};

use crate::error::WalError;
use crate::handle::{Asker, Queued, Shared, State, WalWrite, lock};
use crate::turn::Wake;

/// Most turns in a row that do not wait for other threads, after waits that were in vain.
const MAX_DOUBT: u32 = 63;

/// Who takes turns, and what became of writes that threads wait for.
#[derive(Default)]
pub(crate) struct Baton {
    /// Whether somebody takes a turn.
    taken: bool,
    /// How the log's thread sleeps.
    sleep: Sleep,
    /// Threads inside [`Shared::write`].
    writing: usize,
    /// Those of them that sleep, by their write's number. Each is woken for itself: a waker that all of them share would
    /// wake as many for nothing as it wakes for a result.
    sleeping: BTreeMap<u64, Arc<Condvar>>,
    /// Whether the log's thread waits for a turn to end.
    thread_waits: bool,
    /// Results that their threads have not taken yet, by the write's number.
    finished: BTreeMap<u64, Result<(), WalError>>,
    /// Who slept until then, to be woken once the turn is over.
    woken: Vec<Arc<Condvar>>,
    /// Whom the next turn waits for.
    gathering: Option<Gathering>,
    /// Turns that will not wait for anybody, and how many it was last time.
    doubts: u32,
    doubt: u32,
}

/// The threads that a turn released are about to write again, if they do nothing else: then one sync for all of them is
/// better than one for those that are fastest and another for the rest. So the next turn is left to the thread that
/// brings the last of so many writes.
struct Gathering {
    writes: usize,
    /// Half as long as the turn before took; then the turn begins with those that are there.
    until: SystemInstant,
    /// Whether a thread waits for that time.
    watched: bool,
}

/// How the log's thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Sleep {
    #[default]
    Awake,
    /// Until its deadline, or until it is woken.
    Until,
    /// Until it is woken.
    Unbounded,
}

impl Baton {
    /// Keeps what became of a write until its thread takes it.
    pub(crate) fn finish(&mut self, number: u64, result: Result<(), WalError>) {
        self.finished.insert(number, result);
        self.woken.extend(self.sleeping.remove(&number));
    }

    /// After a turn that took so long and left so many writes in the queue.
    fn gather(&mut self, took: Duration, queued: usize) {
        if self.writing < 2 || queued >= self.writing {
            return;
        }
        if self.doubts > 0 {
            self.doubts -= 1;
            return;
        }
        let until = SystemInstant::now() + took / 2;
        self.gathering = Some(Gathering { writes: self.writing, until, watched: false });
    }

    /// Doubles the turns that do not wait with each wait that was in vain.
    fn gathered(&mut self, queued: usize) {
        if let Some(gathering) = self.gathering.take() {
            self.doubt = if queued >= gathering.writes { 0 } else { (self.doubt * 2 + 1).min(MAX_DOUBT) };
            self.doubts = self.doubt;
        }
    }
}

impl State {
    /// Whether a waiting thread is to take the next turn. What waits for space is left to the log's thread, which knows
    /// when to try again, and what is left when the log stops, too.
    fn may_begin(&self) -> bool {
        let gathered =
            |gathering: &Gathering| self.queue.len() >= gathering.writes || SystemInstant::now() >= gathering.until;
        let free = !self.baton.taken && self.dirty && !self.stopping && !self.closed;
        free && self.baton.gathering.as_ref().is_none_or(gathered)
    }

    /// Whether there is something to do that no waiting thread will do with its own write: on a full disk they all wait.
    fn is_for_the_logs_thread(&self) -> bool {
        let of_thread = |queued: &Queued| matches!(queued.asker, Asker::Thread);
        self.dirty && (self.full || !(self.baton.writing > 0 && self.queue.iter().any(of_thread)))
    }

    /// After a turn, whom to wake: those with a result, and one who takes the next turn or waits until it may begin.
    fn awakened(&mut self) -> Vec<Arc<Condvar>> {
        let mut woken = std::mem::take(&mut self.baton.woken);
        let of_thread = |queued: &&Queued| matches!(queued.asker, Asker::Thread);
        let unwatched = self.baton.gathering.as_ref().is_some_and(|gathering| !gathering.watched);
        if unwatched || self.may_begin() {
            let sleeping = &self.baton.sleeping;
            woken.extend(self.queue.iter().filter(of_thread).find_map(|queued| sleeping.get(&queued.number)).cloned());
        }
        woken
    }

    /// Everybody who sleeps.
    fn all_awakened(&mut self) -> Vec<Arc<Condvar>> {
        let mut woken = std::mem::take(&mut self.baton.woken);
        woken.extend(self.baton.sleeping.values().cloned());
        woken
    }

    /// Whether nobody knows of a write any more: who took it panicked.
    fn is_lost(&self, number: u64) -> bool {
        !self.baton.taken && !self.queue.iter().rev().any(|queued| queued.number == number)
    }
}

/// The right to take a turn; passed on when dropped.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    begun: SystemInstant,
    /// What the turn said; `None` until it is over.
    wake: Option<Wake>,
}

impl<'a> Turn<'a> {
    /// Waits until nobody else takes a turn. For the log's thread. While threads write, their turns do all there is to
    /// do, and it does not insist: it looks again in such times, or when it alone can go on.
    pub(crate) fn wait(shared: &'a Shared, look_again: Duration) -> Self {
        let mut state = lock(&shared.state);
        while state.baton.taken {
            state.baton.thread_waits = true;
            state = shared.turned.wait_timeout(state, look_again).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.baton.thread_waits = false;
        Self::begin(shared, &mut state)
    }

    fn begin(shared: &'a Shared, state: &mut State) -> Self {
        state.baton.taken = true;
        state.baton.gathered(state.queue.len());
        Self { shared, begun: SystemInstant::now(), wake: None }
    }

    /// Takes the turn. Its time is read when nobody else has one, so that it never goes back.
    pub(crate) fn take(&mut self, now: impl Fn() -> Instant) -> Wake {
        *self.wake.insert(lock(&self.shared.writer).turn(self.shared, now()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        if self.wake.is_none() {
            // A completion panicked, so others were not called: nothing is acknowledged after that.
            state.poison.get_or_insert(WalError::Closed);
            state.dirty = true;
        }
        if self.wake == Some(Wake::Again) {
            let queued = state.queue.len();
            state.dirty |= queued > 0;
            state.baton.gather(self.begun.elapsed(), queued);
        }
        state.baton.taken = false;
        if state.baton.thread_waits && (state.baton.writing == 0 || state.stopping || state.is_for_the_logs_thread()) {
            self.shared.turned.notify_one();
        }
        let woken = if self.wake.is_some() { state.awakened() } else { state.all_awakened() };
        // It goes on, or learns when the closing mark is due.
        let unbounded = state.baton.sleep == Sleep::Unbounded && self.wake != Some(Wake::Idle);
        if unbounded || state.is_for_the_logs_thread() {
            self.shared.wake_thread(&state);
        }
        drop(state);
        // Who is woken wants that lock.
        woken.iter().for_each(|sleeper| sleeper.notify_one());
    }
}

impl Shared {
    /// Wakes the log's thread if it sleeps. Awake, it looks again before it does.
    pub(crate) fn wake_thread(&self, state: &State) {
        if state.baton.sleep != Sleep::Awake {
            self.work.notify_one();
        }
    }

    /// The log's thread sleeps until something is submitted, the log is to stop, or so much time passed.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) {
        let mut state = lock(&self.state);
        if state.is_for_the_logs_thread() || state.stopping {
            return;
        }
        state.baton.sleep = if at_most.is_some() { Sleep::Until } else { Sleep::Unbounded };
        // Woken for nothing, the thread takes a turn for nothing.
        state = match at_most {
            Some(time) => self.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.baton.sleep = Sleep::Awake;
    }

    /// After a turn of the log's thread that may have left something to do: if threads write, they take the next ones,
    /// and the log's looks after itself again in some time.
    pub(crate) fn leave_to_threads(&self, time: Duration) {
        if lock(&self.state).baton.writing > 0 {
            self.sleep(Some(time));
        }
    }

    /// Waits until this write has a result, or is to take a turn.
    fn wait_for_turn<'a>(&'a self, number: u64, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let watched = state.baton.gathering.as_mut().filter(|gathering| !gathering.watched).map(|gathering| {
            gathering.watched = true;
            gathering.until.saturating_duration_since(SystemInstant::now())
        });
        let sleeper = Arc::new(Condvar::new());
        state.baton.sleeping.insert(number, Arc::clone(&sleeper));
        state = match watched {
            Some(time) => sleeper.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
            None => sleeper.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.baton.sleeping.remove(&number);
        if let (Some(_), Some(gathering)) = (watched, &mut state.baton.gathering) {
            gathering.watched = false;
        }
        state
    }

    /// Lets every thread that waits look again: nobody takes turns any more.
    pub(crate) fn wake_all(&self) {
        let woken = lock(&self.state).all_awakened();
        woken.iter().for_each(|sleeper| sleeper.notify_one());
    }

    /// Submits a write and waits for it; takes turns meanwhile if nobody else does.
    pub(crate) fn write(&self, group: GroupId, op: WalWrite, now: impl Fn() -> Instant) -> Result<(), WalError> {
        let mut state = lock(&self.state);
        let Ok(number) = state.enqueue(group, Asker::Thread, op) else { return Err(WalError::Closed) };
        state.baton.writing += 1;
        loop {
            if let Some(result) = state.baton.finished.remove(&number) {
                state.baton.writing -= 1;
                return result;
            }
            if state.is_lost(number) {
                state.baton.writing -= 1;
                return Err(state.poison.clone().unwrap_or(WalError::Closed));
            }
            if state.may_begin() {
                let mut turn = Turn::begin(self, &mut state);
                drop(state);
                turn.take(&now);
                drop(turn);
                state = lock(&self.state);
            } else {
                state = self.wait_for_turn(number, state);
            }
        }
    }
}
