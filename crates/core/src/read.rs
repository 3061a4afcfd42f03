//! Reads: one confirmed round for a batch of them, or what was confirmed lately (dissertation 6.4).

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::event::{Action, Actions, Outcome, ReadPolicy, Refusal};
use crate::ids::{LogId, NodeId, RequestId, Round};
use crate::message::{Message, ReadConfirmation};
use crate::time::Instant;

/// Most reads that may be asked of the leader and not answered: 64 KiB of state. The oldest is refused then; its
/// question, or the answer, was most likely lost.
const MAX_ASKED_READS: usize = 4096;

/// A read whose index was asked from the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AskedRead {
    /// Its number on the wire: never used twice, also not when a caller asks again.
    pub(crate) number: RequestId,
    /// Whom to answer.
    pub(crate) request: RequestId,
    /// When it was asked; `None`: the clock jumped since.
    pub(crate) at: Option<Instant>,
}

/// Reads that wait for a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct ReadQueue {
    /// The round under way, what the reads of its batch will see, and who they are.
    under_way: Option<(Round, LogId, Vec<Reader>)>,
    /// Reads that came after it began.
    next: Vec<Reader>,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    /// A caller on this node.
    Local(RequestId),
    /// A caller on another node, which asked for the read index.
    Remote { node: NodeId, request: RequestId },
}

impl Reader {
    fn answer(self, read: Option<LogId>, out: &mut Actions) {
        out.push(match (self, read) {
            (Reader::Local(request), Some(log_id)) => Action::Reply { request, outcome: Outcome::Read(log_id) },
            (Reader::Local(request), None) => {
                let refusal = Refusal::NotLeader { leader: None };
                Action::Reply { request, outcome: Outcome::Refused(refusal) }
            }
            (Reader::Remote { node, request }, log_id) => {
                Action::Send { to: node, message: Message::ReadReply { request, log_id } }
            }
        });
    }
}

impl ReadQueue {
    /// The round under way, and what its reads will see.
    pub(crate) fn under_way(&self) -> Option<(Round, LogId)> {
        self.under_way.as_ref().map(|(round, log_id, _)| (*round, *log_id))
    }

    /// Callers on this node that wait.
    pub(crate) fn callers(&self) -> impl Iterator<Item = RequestId> {
        let readers = self.under_way.iter().flat_map(|(_, _, readers)| readers).chain(&self.next);
        readers.filter_map(|reader| match reader {
            Reader::Local(request) => Some(*request),
            Reader::Remote { .. } => None,
        })
    }

    /// The leadership ended: nobody was answered, nothing was read.
    pub(crate) fn fail(&mut self, out: &mut Actions) {
        let (_, _, readers) = self.under_way.take().unwrap_or_default();
        for reader in readers.into_iter().chain(self.next.drain(..)) {
            reader.answer(None, out);
        }
    }
}

impl Core {
    /// What [`Event::Read`](crate::Event::Read) would be answered with in a step at this moment, if that took neither a
    /// round nor the leader: [`Outcome::Read`] of this entry. `None`: step, to get an answer or to begin what brings it.
    /// Nothing changes, so a driver may ask this as often as it likes; what it says of clocks it says of the driver's, as
    /// the event does, so a jump of those must have been [told](crate::Event::ClockJumped) before.
    pub fn answer_at_once(&self, now: Instant, policy: ReadPolicy) -> Option<LogId> {
        if self.halted {
            return None;
        }
        let now = self.now.max(now);
        match policy {
            ReadPolicy::Stale => Some(self.applied),
            ReadPolicy::LeaseRead => self.read_by_lease(now),
            ReadPolicy::MaxAge(age) => self.confirmed_within(age, now),
            ReadPolicy::ReadIndex => None,
        }
    }

    pub(crate) fn on_read(&mut self, request: RequestId, policy: ReadPolicy, out: &mut Actions) {
        let answer = |outcome| Action::Reply { request, outcome };
        match policy {
            ReadPolicy::Stale => out.push(answer(Outcome::Read(self.applied))),
            // Never falls back silently to another policy.
            ReadPolicy::LeaseRead if !self.uses_leases() && !bug(Bug::LeaseReadFallsBack) => {
                out.push(answer(Outcome::Refused(Refusal::LeaseDisabled)));
            }
            ReadPolicy::LeaseRead => self.read_as(request, ReadConfirmation::Lease, out),
            ReadPolicy::MaxAge(age) => match self.confirmed_within(age, self.now) {
                Some(log_id) => out.push(answer(Outcome::Read(log_id))),
                None => self.read_as(request, ReadConfirmation::Round, out),
            },
            ReadPolicy::ReadIndex => self.read_as(request, ReadConfirmation::Round, out),
        }
    }

    /// Serves a read once the leader made sure that it leads: this node, or the one that is asked.
    fn read_as(&mut self, request: RequestId, by: ReadConfirmation, out: &mut Actions) {
        if self.is_leader() {
            return self.confirm_read(Reader::Local(request), by, out);
        }
        let Some(leader) = self.leader() else {
            let refusal = Refusal::NotLeader { leader: None };
            return out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) });
        };
        if self.asked_reads.len() >= MAX_ASKED_READS {
            let oldest = self.asked_reads.remove(0).request;
            let refusal = Refusal::NotLeader { leader: Some(leader) };
            out.push(Action::Reply { request: oldest, outcome: Outcome::Refused(refusal) });
        }
        if !bug(Bug::ReadNumberReused) {
            self.next_read += 1;
        }
        let number = RequestId(self.next_read);
        self.asked_reads.push(AskedRead { number, request, at: Some(self.now) });
        out.push(Action::Send { to: leader, message: Message::ReadRequest { request: number, by } });
    }

    pub(crate) fn on_read_request(
        &mut self,
        from: NodeId,
        request: RequestId,
        by: ReadConfirmation,
        out: &mut Actions,
    ) {
        self.confirm_read(Reader::Remote { node: from, request }, by, out);
    }

    fn confirm_read(&mut self, reader: Reader, by: ReadConfirmation, out: &mut Actions) {
        if by == ReadConfirmation::Lease
            && let Some(log_id) = self.read_by_lease(self.now)
        {
            return reader.answer(Some(log_id), out);
        }
        let Role::Leader(leader) = &mut self.role else { return reader.answer(None, out) };
        leader.reads.next.push(reader);
        self.maybe_start_reads(out);
    }

    pub(crate) fn on_read_reply(&mut self, number: RequestId, log_id: Option<LogId>, out: &mut Actions) {
        let Some(place) = self.asked_reads.iter().position(|asked| asked.number == number) else { return };
        let AskedRead { request, at, .. } = self.asked_reads.swap_remove(place);
        let Some(log_id) = log_id else {
            let refusal = Refusal::NotLeader { leader: None };
            return out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) });
        };
        // What the leader confirmed is committed: no need to wait for the next append to say so.
        if self.log.holds(log_id) || bug(Bug::ReadReplyCommitsAnotherEntry) && self.log.last().index >= log_id.index {
            self.commit_to(log_id.index);
        }
        // Counted from the question: the leader made sure some time after that.
        let at = at.map(|asked| if bug(Bug::MaxAgeFromTheAnswer) { self.now } else { asked });
        self.confirmed = self.confirmed.max(at.map(|at| (at, log_id)));
        out.push(Action::Reply { request, outcome: Outcome::Read(log_id) });
    }

    /// What a read sees that may be this old, if this node made sure lately: everything that was committed so long
    /// ago, and perhaps more.
    fn confirmed_within(&self, age: Duration, now: Instant) -> Option<LogId> {
        let is_young = |at: Instant| now.since(at) <= age;
        match &self.role {
            // No other leader had committed anything when a quorum still followed this one.
            Role::Leader(leader) => {
                let acked = leader.quorum_acked.filter(|at| *at >= leader.clock_from.1);
                match acked.is_some_and(is_young) {
                    true => self.known_commit(),
                    false => self.read_by_lease(now),
                }
            }
            Role::Follower(_) | Role::Candidate(_) => self.confirmed.filter(|(at, _)| is_young(*at)).map(|(_, id)| id),
        }
    }

    /// The last entry that this leader knows to be committed, once it knows: without a commit of its own it does not
    /// (dissertation 6.4, step 1).
    pub(crate) fn known_commit(&self) -> Option<LogId> {
        let Role::Leader(leader) = &self.role else { return None };
        let knows = self.commit >= leader.first_own || bug(Bug::ReadBeforeOwnCommit);
        knows.then(|| self.log.at(self.commit)).flatten()
    }

    /// Starts a round for the reads that wait, unless one is under way.
    pub(crate) fn maybe_start_reads(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.reads.next.is_empty() || leader.reads.under_way.is_some() {
            return;
        }
        let Some(log_id) = self.known_commit() else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        let readers = std::mem::take(&mut leader.reads.next);
        self.broadcast_round(out);
        if let Role::Leader(leader) = &mut self.role {
            let before = u64::from(bug(Bug::ReadCountsAnEarlierRound));
            leader.reads.under_way = Some((Round(leader.round.0 - before), log_id, readers));
        }
        self.maybe_confirm_reads(out);
    }

    /// Answers the reads whose round a commit quorum acknowledged.
    pub(crate) fn maybe_confirm_reads(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &self.role else { return };
        let Some((round, _, _)) = &leader.reads.under_way else { return };
        if self.round_reached().is_none_or(|reached| reached < *round) && !bug(Bug::ReadBeforeRound) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some((_, log_id, readers)) = leader.reads.under_way.take() else { return };
        for reader in readers {
            reader.answer(Some(log_id), out);
        }
        self.maybe_start_reads(out);
    }

    /// The leader changed: what was asked of the old one may never be answered.
    pub(crate) fn fail_asked_reads(&mut self, out: &mut Actions) {
        for asked in self.asked_reads.drain(..) {
            let refusal = Refusal::NotLeader { leader: None };
            out.push(Action::Reply { request: asked.request, outcome: Outcome::Refused(refusal) });
        }
    }
}
