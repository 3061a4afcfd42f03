//! The receiving side of replication: accept, refuse, hint, acknowledge (dissertation 3.5).

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::event::{Action, Actions, Note, Source, WriteOp};
use crate::ids::{LogId, NodeId, Round, StartId, StreamId, Vote};
use crate::log::Span;
use crate::message::{Append, AppendAnswer, AppendHeader, AppendReply, Entries, Message};

/// Last index that a log may have: at a thousand million entries a second it is reached after 36 years.
pub const MAX_INDEX: u64 = 1 << 60;

/// Most bytes of entries in one append: sums of them do not overflow.
const MAX_BYTES: u64 = 1 << 40;

/// Where acknowledgements go, and how far they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ack {
    pub(crate) to: NodeId,
    pub(crate) vote: Vote,
    pub(crate) stream: StreamId,
    pub(crate) round: Round,
    /// The lease that was promised in that round.
    pub(crate) promised: Duration,
    /// The last `matched` that was sent.
    pub(crate) matched: LogId,
}

impl Core {
    pub(crate) fn on_append(&mut self, from: NodeId, append: &mut Append, out: &mut Actions) {
        if !self.accept_leader(from, &append.header, out) {
            return;
        }
        if let Some(what) = self.impossible(append) {
            return out.note(Note::Impossible { from, what });
        }
        let Some(agreed) = self.agreement(append) else {
            return self.refuse_prev(from, append, out);
        };
        let end = append.entries.runs.last().unwrap_or(append.prev);
        if end.index > agreed && !self.take_entries(from, &mut append.entries, agreed, end, out) {
            return;
        }
        let commit =
            if bug(Bug::EntriesDoNotCommit) && end.index > append.prev.index { 0 } else { append.header.commit };
        self.accept_upto(end.index.min(self.log.last().index), commit);
        self.answer_append(from, &append.header, out);
    }

    /// Accepts the sender as leader, or refuses it; returns whether it leads.
    pub(crate) fn accept_leader(&mut self, from: NodeId, header: &AppendHeader, out: &mut Actions) -> bool {
        let vote = header.vote;
        if !vote.committed || vote.leader_id.node_id != from || vote.leader_id.term == u64::MAX {
            out.note(Note::Impossible { from, what: "an append that is not from its vote's leader" });
            return false;
        }
        if vote != self.vote && !vote.at_least(self.vote, self.config.mode) && !bug(Bug::StaleLeaderAccepted) {
            // Two committed votes of one term in standard mode: one of them is a lie (law 1).
            if self.vote.committed
                && self.vote.leader_id.term == vote.leader_id.term
                && vote.compare(self.vote, self.config.mode).is_none()
            {
                out.note(Note::Impossible { from, what: "a second leader in one term" });
            }
            let answer = AppendAnswer::Refused { seen: self.vote };
            let (stream, round) = (header.stream, header.round);
            let reply = AppendReply { vote, stream, round, promised: Duration::ZERO, lost: None, answer };
            out.push(Action::Send { to: from, message: Message::AppendReply(reply) });
            return false;
        }
        if self.halts_for_lost_log(from, header, out) {
            return false;
        }
        self.follow(from, vote, out);
        self.note_echo(header);
        true
    }

    /// What no correct leader sends.
    fn impossible(&self, append: &Append) -> Option<&'static str> {
        let entries = &append.entries;
        let end = entries.runs.last().unwrap_or(append.prev);
        if !entries.runs.follow(append.prev) {
            return Some("entries whose log ids go back");
        }
        let too_far = end.index > MAX_INDEX && !bug(Bug::AnyIndexAccepted);
        if end.leader_id > append.header.vote.leader_id || too_far {
            return Some("entries of a later leader than the sender");
        }
        if entries.bytes > MAX_BYTES {
            return Some("more bytes of entries than a disk holds");
        }
        if append.prev.index == 0 && append.prev != LogId::ZERO {
            return Some("a log id at index 0");
        }
        if entries.memberships.is_empty() {
            return None;
        }
        let in_range = |index: u64| index > append.prev.index && index <= end.index;
        let sorted = entries.memberships.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !sorted || !entries.memberships.iter().all(|(index, _)| in_range(*index)) {
            return Some("memberships that are not among the entries");
        }
        if entries.memberships.iter().any(|(_, membership)| membership.check(self.config.mode).is_err()) {
            return Some("a membership whose rules cannot be used");
        }
        None
    }

    /// The last index up to which this log and the leader's agree, as far as the append tells; `None` if it
    /// does not hold `prev`.
    fn agreement(&self, append: &Append) -> Option<u64> {
        let purged = self.log.purged();
        let mut agreed = if append.prev.index < purged.index {
            // What is purged is committed, and so in the leader's log too.
            purged.index
        } else if self.log.holds(append.prev) || append.entries.runs.is_empty() && bug(Bug::EmptyPrevMatches) {
            append.prev.index
        } else {
            return None;
        };
        for run in append.entries.runs.iter() {
            if run.last <= agreed {
                continue;
            }
            let next = agreed + 1;
            let same = self.log.at(next).is_some_and(|mine| mine.leader_id == run.leader_id);
            let overlooked = bug(Bug::NoTruncateOnConflict) && self.log.last().index >= next;
            if !same && !overlooked || bug(Bug::TruncatesOnAnyAppend) {
                break;
            }
            agreed = run.last.min(self.log.run_end(next).unwrap_or(agreed));
            if agreed < run.last {
                break;
            }
        }
        Some(agreed)
    }

    fn refuse_prev(&mut self, from: NodeId, append: &Append, out: &mut Actions) {
        let prev = append.prev;
        // The leader can skip everything of a leader that is not in its log (dissertation 3.5, end).
        let hint = self.log.last_at_most(prev.index, prev.leader_id);
        let (answer, lost) = (AppendAnswer::Conflict { prev, hint }, self.start_with_a_loss());
        let promised = self.promise_lease(&append.header, out);
        let AppendHeader { vote, stream, round, .. } = append.header;
        let reply = AppendReply { vote, stream, round, promised, lost, answer };
        out.push(Action::Send { to: from, message: Message::AppendReply(reply) });
    }

    /// Appends what is new, after removing what conflicts; returns whether it could.
    fn take_entries(
        &mut self,
        from: NodeId,
        entries: &mut Entries,
        agreed: u64,
        end: LogId,
        out: &mut Actions,
    ) -> bool {
        if self.log.last().index > agreed {
            let accepted = match &self.role {
                Role::Follower(follower) => follower.accepted,
                Role::Candidate(_) | Role::Leader(_) => 0,
            };
            if agreed < self.commit.max(accepted) && !bug(Bug::TruncatesOnAnyAppend) {
                // A leader appends only (figure 3.2): it cannot contradict itself.
                let what = "entries that conflict with committed ones, or with this leader's own";
                out.note(Note::Impossible { from, what });
                return false;
            }
            self.truncate_after(agreed, out);
        }
        let prev = self.log.last();
        if !entries.runs.iter().filter(|run| run.last > agreed).all(|run| run.leader_id >= prev.leader_id) {
            out.note(Note::Impossible { from, what: "entries of an earlier leader than the log they follow" });
            return false;
        }
        for run in entries.runs.iter().filter(|run| run.last > agreed) {
            self.log.append(run.leader_id, run.last);
        }
        self.forget_promised_end(out);
        self.note_size(end.index, entries.bytes);
        self.disk.append(Span { prev, last: end }, Source::Message, out);
        if entries.memberships.is_empty() {
            return true;
        }
        let memberships = std::mem::take(&mut entries.memberships);
        for (index, membership) in memberships.into_iter().filter(|(index, _)| *index > agreed) {
            let Some(log_id) = self.log.at(index) else { continue };
            self.put_in_force(log_id, membership, out);
        }
        true
    }

    fn truncate_after(&mut self, index: u64, out: &mut Actions) {
        assert!(index >= self.commit, "committed entries are never removed");
        let Some(after) = self.log.at(index) else { return };
        self.log.truncate_after(index);
        self.pieces.truncate_after(index);
        self.snapshot.kept.truncate_after(index);
        self.disk.write(WriteOp::Truncate { after }, out);
        out.note(Note::Truncated { after });
        self.restore_membership(index, out);
    }

    /// The log equals the leader's up to `index`; the leader has committed up to `commit`.
    pub(crate) fn accept_upto(&mut self, index: u64, commit: u64) {
        let Role::Follower(follower) = &mut self.role else { return };
        follower.accepted = follower.accepted.max(index);
        let matched = if bug(Bug::CommitsWhatIsNotMatched) { self.log.last().index } else { follower.accepted };
        let upto = commit.min(matched);
        self.commit_to(upto);
    }

    /// Answers at once with what is durable now: a slow disk must not end a healthy leadership (law 8).
    pub(crate) fn answer_append(&mut self, from: NodeId, header: &AppendHeader, out: &mut Actions) {
        let matched = self.durable_match();
        let promised = self.promise_lease(header, out);
        let lost = self.start_with_a_loss();
        let Role::Follower(follower) = &mut self.role else { return };
        let AppendHeader { vote, stream, round, .. } = *header;
        let ack = Ack { to: from, vote, stream, round, promised, matched };
        follower.ack = Some(ack);
        if bug(Bug::AnswerWaitsForTheDisk) && matched.index < follower.accepted {
            return;
        }
        out.add(|| ack.into_action(lost));
    }

    /// A write completed: a second answer, if it makes more durable.
    pub(crate) fn maybe_acknowledge(&mut self, out: &mut Actions) {
        let (matched, lost) = (self.durable_match(), self.start_with_a_loss());
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(ack) = &mut follower.ack else { return };
        if matched.index > ack.matched.index && !bug(Bug::NoSecondAnswer) {
            ack.matched = matched;
            out.add(|| ack.into_action(lost));
        }
    }

    /// Durable here, equal to the leader's log, and under a vote that is durable: what may be acknowledged.
    #[inline]
    pub(crate) fn durable_match(&self) -> LogId {
        let Role::Follower(follower) = &self.role else { return LogId::ZERO };
        if !self.disk.vote_is_durable() {
            return LogId::ZERO;
        }
        if bug(Bug::AcknowledgeBeforePersist) {
            return self.log.at(follower.accepted).unwrap_or(LogId::ZERO);
        }
        self.log.at(follower.accepted.min(self.disk.index())).unwrap_or(LogId::ZERO)
    }
}

impl Ack {
    fn into_action(self, lost: Option<StartId>) -> Action {
        let answer = AppendAnswer::Accepted { matched: self.matched };
        let Ack { vote, stream, round, promised, .. } = self;
        let reply = AppendReply { vote, stream, round, promised, lost, answer };
        Action::Send { to: self.to, message: Message::AppendReply(reply) }
    }
}
