//! A node that lost entries to damage: what it still promises, and when it is whole again (docs/design/001).
//!
//! It is whole when its log reaches the promised end. Where nothing names that end, it is beyond everything the leader
//! of its vote will ever send. Then the node has to learn that nobody counts any more what it lost: it names its start
//! in every answer, the leader forgets what the node acknowledged before, and from then on echoes the name.

use crate::bug::{Bug, bug};
use crate::core::Core;
use crate::event::{Actions, Note, WriteOp};
use crate::ids::{LeaderId, LogId, NodeId, StartId};
use crate::log::Span;
use crate::message::{AppendAnswer, AppendHeader, AppendReply};

/// A leader of this id counts nothing that this node acknowledged before its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settlement {
    pub(crate) leader_id: LeaderId,
    /// What it had committed when it said so. What it commits later it commits without what was lost.
    pub(crate) commit: u64,
}

// ---- the node that lost entries ----

impl Core {
    /// What damage took from the log and is not there again: from after the log's end up to what this node may have
    /// acknowledged. It votes as if it held that, and does not campaign (docs/design/001).
    pub fn lost_entries(&self) -> Option<Span> {
        let prev = self.log.last();
        (self.promised_end > prev).then_some(Span { prev, last: self.promised_end })
    }

    /// Entries came. When the log reaches the promised end this node is whole, and what a later leader replaces is no
    /// loss: an entry of a leader after the promised end's comes after everything that was committed before it.
    pub(crate) fn forget_promised_end(&mut self, out: &mut Actions) {
        if self.promised_end > LogId::ZERO && self.lost_entries().is_none() {
            out.note(Note::Repaired { promised_end: self.promised_end });
            self.promised_end = LogId::ZERO;
        }
    }

    /// What this node says of itself to a leader that may count what is lost.
    pub(crate) fn start_with_a_loss(&self) -> Option<StartId> {
        self.lost_entries().map(|_| self.start())
    }

    /// The name of this start.
    pub(crate) fn start(&self) -> StartId {
        StartId(self.config.seed)
    }

    /// Takes in a message of the leader that was just accepted: so its leader id is this node's vote, and no smaller
    /// than that of any leader who was ever sent an acknowledgement.
    pub(crate) fn note_echo(&mut self, header: &AppendHeader) {
        if self.lost_entries().is_none() {
            return;
        }
        // Rule: only this start's own name proves that the leader heard of the loss before it sent this. A later
        // stream does not, nor does the name of an earlier start: more may have been acknowledged, and lost, since.
        let echoes = header.heard == Some(self.start()) || header.heard.is_some() && bug(Bug::AnyStartIsEchoed);
        if !echoes && !bug(Bug::HealsWithoutAnEcho) {
            return;
        }
        let leader_id = header.vote.leader_id;
        // Each such message is a proof of its own; the one with the least to catch up with is enough.
        let known = self.settles.filter(|known| known.leader_id == leader_id && known.commit <= header.commit);
        self.settles = known.or(Some(Settlement { leader_id, commit: header.commit }));
    }

    /// Ends the promise if everything that is, or will be, committed with the help of what was lost is in this log
    /// (docs/design/001).
    pub(crate) fn settle_promise(&mut self, out: &mut Actions) {
        if self.lost_entries().is_none() || !self.is_settled() || bug(Bug::PromiseNeverSettles) {
            return;
        }
        out.note(Note::Repaired { promised_end: self.promised_end });
        self.promised_end = LogId::ZERO;
        if !bug(Bug::PromiseEndsInMemoryOnly) {
            // Nothing waits for it: a crash before brings the promise back, which is only too careful.
            self.disk.write(WriteOp::ForgetPromisedEnd, out);
        }
    }

    /// Whether this log durably holds all that its leader had committed with what was lost, and all that was committed
    /// before that leader, known by an entry of its own: its log, which held that, leads up to it.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(settles) = self.settles.filter(|settles| settles.leader_id == self.vote.leader_id) else {
            return false;
        };
        let matched = self.durable_match();
        let holds_committed = matched.index >= settles.commit || bug(Bug::HealsBeforeItCaughtUp);
        let holds_its_own = matched.leader_id == settles.leader_id || bug(Bug::HealsOnEarlierLeadersEntries);
        holds_committed && holds_its_own
    }
}

// ---- its leader ----

impl Core {
    /// Whether a peer says that it lost entries since it was last heard to say so.
    pub(crate) fn brings_word_of_a_loss(&self, from: NodeId, reply: &AppendReply) -> bool {
        let crate::core::Role::Leader(leader) = &self.role else { return false };
        let follows = !matches!(reply.answer, AppendAnswer::Refused { .. });
        reply.lost.is_some() && follows && leader.peer(from).is_some_and(|peer| peer.heard != reply.lost)
    }

    /// A peer lost entries and keeps its promises: it holds less than it acknowledged, and counts for what it holds
    /// from now on. What it helped to commit stays committed: it votes as if it held it (docs/design/001).
    pub(crate) fn on_lost_entries(&mut self, from: NodeId, reply: &AppendReply, out: &mut Actions) {
        let (prev, hint) = match reply.answer {
            // What it holds of this log it says to be durable. It is asked again, in the next stream.
            AppendAnswer::Accepted { matched } => {
                (LogId { index: matched.index.saturating_add(1), ..matched }, matched)
            }
            AppendAnswer::Conflict { prev, hint } => (prev, hint),
            AppendAnswer::Refused { .. } => return,
        };
        if !self.on_round_acked(from, reply.round, out) {
            return;
        }
        if bug(Bug::KeepsCountingWhatWasLost) {
            self.with_peer(from, |_, peer, _| peer.heard = reply.lost);
            return;
        }
        let held = self.with_peer(from, |_, peer, _| {
            peer.heard = reply.lost;
            peer.matched_in = reply.round;
            std::mem::replace(&mut peer.matched, LogId::ZERO)
        });
        if held.is_some_and(|held| held > LogId::ZERO) {
            out.note(Note::PeerLostEntries { peer: from, hint });
        }
        // Rule: this begins the next stream, also where the logs match: whatever is counted from now on answers what
        // was sent after this, so it was said by this start of the peer, or a later one.
        self.on_conflict(from, reply.round, prev, hint, out);
    }
}
