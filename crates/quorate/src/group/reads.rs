//! Reads that ask the core for freshness: one question for all calls that come in together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_core::{LogId, ReadPolicy, Refusal};

use super::waits::Fired;
use crate::ClosedReason;

/// The answer to a batch of reads.
#[derive(Clone, Debug)]
pub(crate) enum Freshness {
    /// Served once this is applied.
    At(LogId),
    Refused(Refusal),
    Closed(ClosedReason),
}

#[derive(Default)]
struct State {
    answer: Option<Freshness>,
    wakers: Vec<Waker>,
}

/// Reads that came in together and get one answer.
#[derive(Default)]
pub(crate) struct ReadBatch {
    state: Mutex<State>,
}

impl ReadBatch {
    pub(crate) fn finish(&self, result: Result<LogId, Refusal>, fired: &mut Fired) {
        self.answer(result.map_or_else(Freshness::Refused, Freshness::At), fired);
    }

    pub(crate) fn close(&self, reason: &ClosedReason, fired: &mut Fired) {
        self.answer(Freshness::Closed(reason.clone()), fired);
    }

    fn answer(&self, answer: Freshness, fired: &mut Fired) {
        let mut state = self.state.lock();
        state.answer.get_or_insert(answer);
        fired.wake_all(&mut state.wakers);
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_answered(&self) -> bool {
        self.state.lock().answer.is_some()
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Freshness> {
        let mut state = self.state.lock();
        if let Some(answer) = &state.answer {
            return Poll::Ready(answer.clone());
        }
        // A call that is polled again for another reason leaves a second waker, which does no harm.
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

#[derive(Default)]
struct Queue {
    index: Option<Arc<ReadBatch>>,
    lease: Option<Arc<ReadBatch>>,
    /// By the maximum age that was asked for.
    ages: BTreeMap<Duration, Arc<ReadBatch>>,
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
    /// Joins the reads that wait for the next turn.
    pub(crate) fn join(&self, policy: ReadPolicy) -> Result<Arc<ReadBatch>, ClosedReason> {
        let mut queue = self.queue.lock();
        if let Some(reason) = &queue.closed {
            return Err(reason.clone());
        }
        let open = match policy {
            ReadPolicy::MaxAge(age) => queue.ages.entry(age).or_default(),
            ReadPolicy::LeaseRead => queue.lease.get_or_insert_default(),
            ReadPolicy::ReadIndex | ReadPolicy::Stale => queue.index.get_or_insert_default(),
        };
        let batch = Arc::clone(open);
        self.any.store(true, Ordering::Release);
        Ok(batch)
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
                (queue.index.take(), queue.lease.take(), std::mem::take(&mut queue.ages))
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
