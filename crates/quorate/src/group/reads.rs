//! Reads that ask the core for freshness: one question for all calls that come in together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_core::{LogId, NodeId, ReadPolicy, Refusal};

use super::proposals::{MIN_HALF, this_thread};
use super::waits::Fired;
use crate::ClosedReason;

/// A batch has room at first for as many callers as the last one had, but not for more than so many: 64 KiB.
const MAX_ROOM: usize = 4096;

/// The answer to a batch of reads.
#[derive(Clone, Debug)]
pub(crate) enum Freshness {
    /// Served once this is applied.
    At(LogId),
    Refused(Refusal),
    Closed(ClosedReason),
}

/// Reads that came in together and get one answer. Whoever waits for it holds no more than this: thousands may.
pub(crate) struct ReadBatch {
    answer: OnceLock<Freshness>,
    /// Who waits. The answer is set under this lock, so that nobody who finds none under it is forgotten.
    wakers: Mutex<Vec<Waker>>,
    /// Callers that joined; changed under the queue's lock.
    joined: AtomicUsize,
    /// When the first of its callers came.
    pub(crate) since: Instant,
    /// Whom this node followed then.
    pub(crate) followed: Option<NodeId>,
    /// The thread of that caller.
    thread: u64,
}

impl ReadBatch {
    /// Opened by this thread, with room for so many; `followed` is whom this node follows.
    pub(crate) fn new(room: usize, followed: Option<NodeId>) -> Arc<Self> {
        let wakers = Mutex::new(Vec::with_capacity(room));
        let (answer, joined, since) = (OnceLock::new(), AtomicUsize::new(0), Instant::now());
        Arc::new(Self { answer, wakers, joined, since, followed, thread: this_thread() })
    }

    pub(crate) fn finish(&self, result: Result<LogId, Refusal>, fired: &mut Fired) {
        self.answer(result.map_or_else(Freshness::Refused, Freshness::At), fired);
    }

    pub(crate) fn close(&self, reason: &ClosedReason, fired: &mut Fired) {
        self.answer(Freshness::Closed(reason.clone()), fired);
    }

    fn answer(&self, answer: Freshness, fired: &mut Fired) {
        let mut wakers = self.wakers.lock();
        self.answer.get_or_init(|| answer);
        fired.wake_all(&mut wakers);
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_answered(&self) -> bool {
        self.answer.get().is_some()
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Freshness> {
        if let Some(answer) = self.answer.get() {
            return Poll::Ready(answer.clone());
        }
        let mut wakers = self.wakers.lock();
        if let Some(answer) = self.answer.get() {
            return Poll::Ready(answer.clone());
        }
        // A call that is polled again for another reason leaves a second waker, which does no harm.
        wakers.push(context.waker().clone());
        Poll::Pending
    }
}

/// What a caller of a batch has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadDuty {
    /// It opened the batch: let others on this thread join, then have it taken.
    ComeBack,
    /// Nothing: who opened it on this thread comes back.
    Nothing,
    /// With it the batch is half as large as the last one, and none is under way: have it taken if a thread that is awake
    /// answers it, so that the other half is collected meanwhile.
    StepHalf,
    /// Another thread's caller opened the batch, and nobody knows when it comes back: have it taken.
    Wake,
}

#[derive(Default)]
struct Queue {
    index: Option<Arc<ReadBatch>>,
    lease: Option<Arc<ReadBatch>>,
    /// By the maximum age that was asked for.
    ages: BTreeMap<Duration, Arc<ReadBatch>>,
    /// Callers of the last batch by read index that was taken: the next one has about as many.
    last_count: usize,
    /// The last batch by read index that was taken.
    last: Weak<ReadBatch>,
    closed: Option<ClosedReason>,
}

/// Reads that wait for the next turn.
#[derive(Default)]
pub(crate) struct ReadQueue {
    queue: Mutex<Queue>,
    /// Lets a turn see without the lock that there are none.
    any: AtomicBool,
}

impl ReadQueue {
    /// Joins the reads that wait for the next turn; `leader` tells whom this node follows.
    pub(crate) fn join(
        &self,
        policy: ReadPolicy,
        waker: &Waker,
        leader: impl FnOnce() -> Option<NodeId>,
    ) -> Result<(Arc<ReadBatch>, ReadDuty), ClosedReason> {
        // Let go of after the lock: who waits in it may be the last to know of it.
        let mut before = None;
        let mut queue = self.queue.lock();
        let Queue { index, lease, ages, last_count, last, closed } = &mut *queue;
        if let Some(reason) = closed {
            return Err(reason.clone());
        }
        let mut opened = false;
        let open = || {
            opened = true;
            ReadBatch::new(*last_count, leader())
        };
        let batch = match policy {
            ReadPolicy::MaxAge(age) => ages.entry(age).or_insert_with(open),
            ReadPolicy::LeaseRead => lease.get_or_insert_with(open),
            ReadPolicy::ReadIndex | ReadPolicy::Stale => index.get_or_insert_with(open),
        };
        batch.wakers.lock().push(waker.clone());
        let count = batch.joined.load(Ordering::Relaxed) + 1;
        batch.joined.store(count, Ordering::Relaxed);
        let (batch, half) = (Arc::clone(batch), *last_count / 2);
        let is_half = policy == ReadPolicy::ReadIndex && count == half && half >= MIN_HALF;
        if is_half {
            before = last.upgrade();
        }
        let is_under_way = before.as_ref().is_some_and(|batch| batch.answer.get().is_none());
        let duty = match batch.thread == this_thread() {
            _ if opened => ReadDuty::ComeBack,
            true if is_half && !is_under_way => ReadDuty::StepHalf,
            true => ReadDuty::Nothing,
            false => ReadDuty::Wake,
        };
        self.any.store(true, Ordering::Release);
        Ok((batch, duty))
    }

    /// Whether anything waits.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What waits, for a turn.
    pub(crate) fn take(&self) -> impl Iterator<Item = (ReadPolicy, Arc<ReadBatch>)> {
        let (index, lease, ages) = match self.any.load(Ordering::Acquire) {
            true => {
                let mut queue = self.queue.lock();
                self.any.store(false, Ordering::Relaxed);
                let Queue { index, lease, ages, last_count, last, .. } = &mut *queue;
                if let Some(batch) = index {
                    *last_count = batch.joined.load(Ordering::Relaxed).min(MAX_ROOM);
                    *last = Arc::downgrade(batch);
                }
                (index.take(), lease.take(), std::mem::take(ages))
            }
            false => (None, None, BTreeMap::new()),
        };
        let index = index.map(|batch| (ReadPolicy::ReadIndex, batch));
        let lease = lease.map(|batch| (ReadPolicy::LeaseRead, batch));
        let ages = ages.into_iter().map(|(age, batch)| (ReadPolicy::MaxAge(age), batch));
        index.into_iter().chain(lease).chain(ages)
    }

    pub(crate) fn close(&self, reason: &ClosedReason, fired: &mut Fired) {
        self.queue.lock().closed.get_or_insert_with(|| reason.clone());
        for (_, batch) in self.take() {
            batch.close(reason, fired);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opened_a_batch_comes_back_and_another_thread_does_not_wait_for_that() {
        let queue = ReadQueue::default();
        let join = || queue.join(ReadPolicy::ReadIndex, Waker::noop(), || None).unwrap();
        let ((first, opened), (second, joined)) = (join(), join());
        assert_eq!((opened, joined), (ReadDuty::ComeBack, ReadDuty::Nothing));
        assert!(Arc::ptr_eq(&first, &second));
        let other = std::thread::scope(|scope| scope.spawn(|| join().1).join().unwrap());
        assert_eq!(other, ReadDuty::Wake);
        assert_eq!(queue.take().count(), 1);
        assert_eq!(join().1, ReadDuty::ComeBack, "the next batch");
    }

    #[test]
    fn half_of_a_batch_is_taken_unless_one_is_under_way() {
        let queue = ReadQueue::default();
        let join = || queue.join(ReadPolicy::ReadIndex, Waker::noop(), || None).unwrap();
        let duties = |count: usize| -> Vec<ReadDuty> { (0..count).map(|_| join().1).collect() };
        let half_at = |duties: &[ReadDuty]| duties.iter().position(|duty| *duty == ReadDuty::StepHalf);
        assert_eq!(half_at(&duties(2 * MIN_HALF)), None, "nothing is known of the batch before");
        let (_, first) = queue.take().next().unwrap();
        assert_eq!(half_at(&duties(2 * MIN_HALF)), None, "the first one has no answer");
        let (_, second) = queue.take().next().unwrap();
        for batch in [first, second] {
            batch.finish(Ok(LogId::ZERO), &mut Fired::default());
        }
        assert_eq!(half_at(&duties(2 * MIN_HALF)), Some(MIN_HALF - 1));
        queue.take().for_each(drop);
        assert_eq!(half_at(&duties(2 * MIN_HALF)), Some(MIN_HALF - 1), "all who asked gave up");
        queue.take().for_each(drop);
        duties(2 * MIN_HALF - 2);
        queue.take().for_each(drop);
        assert_eq!(half_at(&duties(2 * MIN_HALF)), None, "half of so few is not worth a turn");
    }
}
