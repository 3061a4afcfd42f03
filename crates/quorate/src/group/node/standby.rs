//! A thread that stands by: it steps, one after the other, nodes of a network in memory that are left to their tasks, and
//! looks for more for a short while before it sleeps.
//!
//! A message takes a node in memory a microsecond or two. To wake a sleeping thread for it takes all threads together some
//! twenty, and is done several times a write where each node is left to a task of its own. So whoever has stepped a node
//! that was left to it goes on with the others', as long as there are any, and waits for them awake for about as long as a
//! wake costs: what comes meanwhile wakes nobody. Where that does not pay, it is tried less and less often.
//!
//! It does not pay where a crowd writes at once: their batches cost more than a wake, grow while a thread sleeps, and the
//! core that it would wait on is what the writers need. So a turn that finds many commands ends it, and it is tried less and
//! less often too. A caller waits awake as well, for its own answer, but only one that has come alone for a while: its
//! thread has nothing else to do, where that of many callers would keep them all waiting. The bounds are
//! measured by tables M1 to M5 of docs/benchmarks.md: with 64 callers on one thread, 0.79 million writes a second without
//! standing by, 1.79 with it, and 0.60 if callers wait awake too; with 1,024, 3.1 without and 2.2 with it.
//!
//! It decides only who steps when; what is stepped, and in which turns, is the pump's. A node that waits here is
//! `SCHEDULED` as if its task was woken, and is handed over to that task when the thread that stands by goes away. In one
//! poll of a task the thread stays no longer than [`SLICE`], for the runtime has other tasks.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{IDLE, Node};

/// Longest in one poll: what tokio asks of its tasks, times a few, for it costs a wake to come back.
const SLICE: Duration = Duration::from_micros(250);
/// Waiting awake costs about what it saves: all threads together take 20 to 25 µs for a wake, and two are saved, this
/// thread's and that of whoever is answered the sooner. Half of that ends too early for what 64 callers on one thread do
/// between two batches.
const MAX_WAIT: Duration = Duration::from_micros(50);
/// A clock is read once in so many looks.
const LOOKS: usize = 16;
/// As many steps: each may take many turns, and apply what they commit.
const STEPS: usize = 4;
/// So many nodes may wait: those of one group. What more there is to do is worth more threads.
const MAX_LEFT: usize = 2;
/// More commands than that in a batch are a crowd's.
const CROWD: u64 = 64;
/// In vain so often in a row, it is tried once in 2 to that power times.
const MAX_MISSES: u32 = 10;

/// Whether threads of this process run beside each other: else who waits awake keeps others from what it waits for.
static HAS_CORES: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|cores| cores > NonZero::<usize>::MIN));

thread_local! {
    /// Whether this thread stands by.
    static STANDING_BY: Cell<bool> = const { Cell::new(false) };
}

/// Where the nodes of a network are left to a thread that stands by, if there is one.
#[derive(Default)]
pub(crate) struct Standby {
    /// Lets others see without the lock whether a thread stands by.
    there: AtomicBool,
    /// Nodes that wait; lets the thread look without the lock.
    left: AtomicUsize,
    lists: Mutex<Lists>,
    patience: Patience,
    /// A turn found a crowd's commands while a thread stood by.
    is_crowded: AtomicBool,
    /// Whether it is tried again after that: an end for a crowd is in vain, a whole slice without one is not.
    solitude: Patience,
}

#[derive(Default)]
struct Lists {
    /// Whether a thread stands by.
    there: bool,
    /// Left by the thread that stands by: most often one that was answered.
    soon: VecDeque<Weak<Node>>,
    /// Left by others.
    later: VecDeque<Weak<Node>>,
    /// The last one that was taken out was in `soon`.
    was_soon: bool,
}

impl Lists {
    /// The next one. A leader that was answered by one of its followers need not wait for the other one's turn; but it must
    /// not keep that from its turn for ever either.
    fn next(&mut self) -> Option<Weak<Node>> {
        let next = match self.was_soon {
            true => self.later.pop_front().map(|node| (node, false)).or_else(|| Some((self.soon.pop_front()?, true))),
            false => self.soon.pop_front().map(|node| (node, true)).or_else(|| Some((self.later.pop_front()?, false))),
        };
        let (node, is_soon) = next?;
        self.was_soon = is_soon;
        Some(node)
    }
}

/// A task's thread stands by, until this is dropped, whatever happens: what is left then goes to the nodes' tasks.
pub(super) struct StandsBy<'a>(&'a Standby);

impl Drop for StandsBy<'_> {
    fn drop(&mut self) {
        let (soon, later) = {
            let mut lists = self.0.lists.lock();
            lists.there = false;
            self.0.there.store(false, Ordering::Relaxed);
            self.0.left.store(0, Ordering::Relaxed);
            (std::mem::take(&mut lists.soon), std::mem::take(&mut lists.later))
        };
        for node in soon.into_iter().chain(later).filter_map(|node| node.upgrade()) {
            node.signal.notify_one();
            node.let_go();
        }
    }
}

/// This thread steps what is left to it, until this is dropped.
struct Serves;

impl Drop for Serves {
    fn drop(&mut self) {
        STANDING_BY.set(false);
    }
}

impl StandsBy<'_> {
    /// Steps this task's node, then what is left to the thread, and waits for more. Tells whether its time in this poll is
    /// over; else nothing came, or too much.
    pub(super) fn serve(&self, own: &Arc<Node>) -> bool {
        let (began, mut steps) = (Instant::now(), 0_usize);
        STANDING_BY.set(true);
        let _serves = Serves;
        own.step_here();
        loop {
            while let Some(node) = self.0.take() {
                node.step_left();
                if self.0.ends_for_a_crowd() {
                    return false;
                }
                steps += 1;
                if steps.is_multiple_of(STEPS) && began.elapsed() >= SLICE {
                    self.0.solitude.learn(true);
                    return true;
                }
            }
            if self.0.ends_for_a_crowd() {
                return false;
            }
            let now = Instant::now();
            if now.duration_since(began) >= SLICE {
                self.0.solitude.learn(true);
                return true;
            }
            let came = wait_awake(now, || self.0.left.load(Ordering::Acquire) > 0);
            self.0.patience.learn(came);
            if !came {
                return false;
            }
        }
    }
}

impl Standby {
    /// Whether a thread that is awake steps what is left to it.
    pub(crate) fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Takes in how many commands a turn finds, if a thread stands by.
    #[inline]
    pub(super) fn look(&self, commands: impl FnOnce() -> u64) {
        if self.is_there() && commands() > CROWD {
            self.is_crowded.store(true, Ordering::Relaxed);
        }
    }

    fn ends_for_a_crowd(&self) -> bool {
        let is_crowded = self.is_crowded.load(Ordering::Relaxed);
        if is_crowded {
            self.is_crowded.store(false, Ordering::Relaxed);
            self.solitude.learn(false);
        }
        is_crowded
    }

    /// Leaves a scheduled node to the thread that stands by; tells whether there is one.
    pub(super) fn leave(&self, node: &Weak<Node>) -> bool {
        if !self.is_there() {
            return false;
        }
        let mut lists = self.lists.lock();
        if !lists.there || lists.soon.len() + lists.later.len() >= MAX_LEFT {
            return false;
        }
        match STANDING_BY.get() {
            true => lists.soon.push_back(Weak::clone(node)),
            false => lists.later.push_back(Weak::clone(node)),
        }
        self.left.store(lists.soon.len() + lists.later.len(), Ordering::Release);
        true
    }

    /// Has this task's thread stand by, unless another one does or it does not pay.
    pub(super) fn begin(&self) -> Option<StandsBy<'_>> {
        if self.is_there() || !self.patience.pays() || !self.solitude.pays() {
            return None;
        }
        let mut lists = self.lists.lock();
        if std::mem::replace(&mut lists.there, true) {
            return None;
        }
        self.there.store(true, Ordering::Relaxed);
        Some(StandsBy(self))
    }

    fn take(&self) -> Option<Arc<Node>> {
        while self.left.load(Ordering::Relaxed) > 0 {
            let mut lists = self.lists.lock();
            let next = lists.next();
            self.left.store(lists.soon.len() + lists.later.len(), Ordering::Relaxed);
            drop(lists);
            if let Some(node) = next.and_then(|node| node.upgrade()) {
                return Some(node);
            }
        }
        None
    }
}

impl Node {
    /// Whether a thread that is awake steps this node's peers.
    pub(crate) fn is_stood_by(&self) -> bool {
        self.standby.as_ref().is_some_and(|standby| standby.is_there())
    }

    /// Steps what was left to somebody, unless it was stepped since.
    fn step_left(self: Arc<Self>) {
        match self.word.load(Ordering::Acquire) != IDLE && self.claim() {
            true => self.pump_from_here(),
            false => self.let_go(),
        }
    }
}

/// Whether it pays to wait awake.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Not for so many times.
    skip: AtomicU32,
    /// In vain so often, of late.
    misses: AtomicU32,
}

impl Patience {
    /// Whether to wait this time.
    pub(crate) fn pays(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        self.skip.store(skip.saturating_sub(1), Ordering::Relaxed);
        skip == 0
    }

    /// Takes in whether it was worth it.
    pub(crate) fn learn(&self, came: bool) {
        let misses = self.misses.load(Ordering::Relaxed);
        if came {
            if misses > 0 {
                self.misses.store(misses / 2, Ordering::Relaxed);
            }
        } else {
            let misses = (misses + 1).min(MAX_MISSES);
            self.misses.store(misses, Ordering::Relaxed);
            self.skip.store((1 << misses) - 1, Ordering::Relaxed);
        }
    }
}

/// Waits for something as long as a wake costs, from `since` on; tells whether it came.
pub(crate) fn wait_awake(since: Instant, came: impl Fn() -> bool) -> bool {
    loop {
        for _ in 0..LOOKS {
            if came() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.elapsed() >= MAX_WAIT {
            return false;
        }
    }
}

/// Lets the runtime's other tasks go first. Any of its threads may go on here: `yield_now` would leave the task to this one,
/// and the nodes that are left to it with it, for as long as another task blocks the thread.
pub(super) async fn give_way() {
    let mut gave = false;
    poll_fn(|context| match std::mem::replace(&mut gave, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Whether somebody may wait awake for what a runtime's threads do.
pub(crate) fn may_wait_awake(runtime: &tokio::runtime::Handle) -> bool {
    *HAS_CORES && runtime.metrics().num_workers() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_thread_left_itself_goes_first_but_not_twice_in_a_row() {
        let mut lists = Lists::default();
        lists.later.extend([Weak::new(), Weak::new()]);
        lists.soon.extend([Weak::new(), Weak::new(), Weak::new()]);
        let mut left = Vec::new();
        while lists.next().is_some() {
            left.push((lists.soon.len(), lists.later.len()));
        }
        assert_eq!(left, [(2, 2), (2, 1), (1, 1), (1, 0), (0, 0)]);
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less_often() {
        let patience = Patience::default();
        let tries = |times: usize| (0..times).filter(|_| patience.pays()).count();
        assert_eq!(tries(5), 5, "until something is learned");
        for skipped in [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023] {
            patience.learn(false);
            assert_eq!(tries(skipped), 0);
            assert_eq!(tries(1), 1);
        }
        for _ in 0..5 {
            patience.learn(true);
        }
        patience.learn(false);
        assert_eq!((tries(1), tries(1)), (0, 1), "what pays again is tried again");
    }

    #[test]
    fn nobody_stands_by_for_a_crowd() {
        let standby = Standby::default();
        let tries = |times: usize| (0..times).filter(|_| standby.begin().is_some()).count();
        standby.look(|| unreachable!("nobody counts while no thread stands by"));
        for skipped in [1, 3, 7] {
            let here = standby.begin();
            standby.look(|| CROWD);
            assert!(here.is_some() && !standby.ends_for_a_crowd());
            standby.look(|| CROWD + 1);
            assert!(standby.ends_for_a_crowd() && !standby.ends_for_a_crowd(), "it is said once");
            drop(here);
            assert_eq!(tries(skipped), 0);
        }
        assert_eq!(tries(2), 2, "it is tried again");
    }

    #[test]
    fn a_thread_that_waits_awake_goes_to_sleep() {
        assert!(wait_awake(Instant::now(), || true));
        assert!(!wait_awake(Instant::now(), || false));
    }

    #[test]
    fn who_gives_way_goes_on_beside_a_task_that_blocks_its_thread() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let went_on = runtime.block_on(runtime.spawn(async {
            let (go_on, gone_on) = std::sync::mpsc::channel();
            // The next task of this thread.
            let blocks = tokio::spawn(async move { gone_on.recv_timeout(Duration::from_secs(10)) });
            give_way().await;
            let _gave_up = go_on.send(());
            blocks.await.unwrap()
        }));
        assert_eq!(went_on.unwrap(), Ok(()));
    }
}
