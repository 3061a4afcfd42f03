//! How a read is answered on its caller's thread, without a turn, where this node leads by a lease, or made sure lately; and
//! how it joins those that the next turn takes.
//!
//! Whoever asks claims the pump's word for a look, unless a pump has it: then the question is a turn's, as any other. The
//! core is asked what it would answer to [`Event::Read`](quorate_core::Event::Read) and does not change; the clocks are
//! compared as in a turn, and where they disagree nothing is answered here, so that a turn finds it and tells the core.
//! That is two looks at clocks and a few atomic words; a turn on the node's own task takes 15 us.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use quorate_core::{LogId, ReadPolicy};

use super::{EXPIRY_INTERVAL, Node, RUNNING, wall_nanos};
use crate::driver::Input;
use crate::group::{ReadBatch, ReadDuty};
use crate::{ClosedReason, blame};

impl Node {
    /// What a read of this policy sees, if that can be told now; `None`: ask in a turn. Waits for nobody, and nobody waits
    /// for it: what comes meanwhile marks the word, and is stepped here afterwards, as by any pump.
    pub(crate) fn answer_at_once(self: &Arc<Self>, policy: ReadPolicy) -> Option<LogId> {
        match policy {
            ReadPolicy::LeaseRead | ReadPolicy::MaxAge(_) => {}
            ReadPolicy::ReadIndex | ReadPolicy::Stale => return None,
        }
        let word = self.claim_free()?;
        let answer = blame::catch(|| self.look_at_once(policy)).unwrap_or_else(|panic| {
            // The wall clock's, which may be the user's.
            self.leave(Input::Close(blame::reason(&panic, ClosedReason::Internal)));
            None
        });
        // It is given back as it was found: if the node's task was woken, it still comes.
        if self.word.compare_exchange(RUNNING, word, Ordering::AcqRel, Ordering::Acquire).is_err() {
            Arc::clone(self).pump_from_here();
        }
        answer
    }

    /// The same of a claimed node.
    fn look_at_once(&self, policy: ReadPolicy) -> Option<LogId> {
        // The wall clock first: where the other one, read later, shows as much, no more time than that had passed when the
        // wall clock was read. The lease held then, and the read had begun.
        let wall = wall_nanos(&self.wall);
        let now = self.clock.now();
        let seat = self.seat.try_lock()?;
        if self.closed.get().is_some() {
            return None;
        }
        let core = seat.driver.core();
        let (drift, lease) = (core.config().max_clock_drift, core.config().election_timeout_min);
        if !seat.clock.agree((now.as_nanos(), wall), drift, lease) {
            return None;
        }
        core.answer_at_once(now, policy)
    }

    /// Joins the reads that the next turn takes. The caller is woken with the answer; tells whether it has to come back
    /// before, and see to that turn.
    pub(crate) fn join_reads(
        self: &Arc<Self>,
        policy: ReadPolicy,
        waker: &Waker,
    ) -> Result<(Arc<ReadBatch>, bool), ClosedReason> {
        let (batch, duty) = self.reads.join(policy, waker, || self.leader())?;
        match duty {
            ReadDuty::ComeBack => waker.wake_by_ref(),
            ReadDuty::Nothing => {}
            ReadDuty::StepHalf if !self.is_stood_by() => {}
            ReadDuty::StepHalf => self.step_here(),
            ReadDuty::Wake => self.step_there(),
        }
        Ok((batch, duty == ReadDuty::ComeBack))
    }

    /// Whether a question that gets no answer is [given up](Self::expire) before this is over.
    pub(crate) fn ends_questions_within(&self, limit: Duration) -> bool {
        self.read_patience.saturating_add(2 * EXPIRY_INTERVAL) < limit
    }
}
