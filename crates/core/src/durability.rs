//! What is durable, and what waits for it: held replies, write ids, the durable end of the log.
//!
//! The core keeps every promise until `Persisted` covers the writes it rests on, so no storage or driver
//! author can acknowledge too early.

use std::collections::VecDeque;
use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::event::{Action, Actions, Source, Write, WriteOp};
use crate::ids::{Campaign, LogId, Vote, WriteId};
use crate::invariant::Invariant as I;
use crate::log::Span;
use crate::time::Instant;

/// Something to do once a write, and every earlier one, is durable.
#[allow(clippy::large_enum_variant, reason = "nearly all are acts, and a box would cost each an allocation")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// A granted vote, a caller's answer, an install under a vote.
    Act(Action),
    /// The candidate's own vote is durable: it counts, and the requests may leave (law 3).
    Campaign(Campaign),
    /// This node takes over from the leader of `vote` (dissertation 3.10), unless it is later than `until`.
    TakeOver { vote: Vote, until: Instant },
    /// A lease of this length may be promised from now on (law 17).
    Promise(Duration),
}

/// The order of durable writes and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Durability {
    /// The last write asked for.
    asked: WriteId,
    /// Every write up to this one is durable. Invariant: `persisted <= asked`.
    persisted: WriteId,
    /// Writes that extend the log, and the index up to which the log is durable after each. A truncation
    /// lowers what earlier writes may claim: what they wrote is no longer in the log.
    extends: VecDeque<(WriteId, u64)>,
    /// The log is durable up to here. Invariant: at most the log's last index.
    index: u64,
    /// The write that made the vote durable, or will.
    vote: WriteId,
    held: VecDeque<(WriteId, Held)>,
    /// Every write is durable once it is performed; see [`Core::persist_at_once`](crate::Core::persist_at_once).
    at_once: bool,
    /// More became durable in the step under way, and what follows from that was not done yet.
    fresh: bool,
}

impl Durability {
    pub(crate) fn recovered(index: u64) -> Self {
        Self { index, ..Self::default() }
    }

    /// From now on every write is durable once it is performed.
    pub(crate) fn persist_at_once(&mut self) {
        self.at_once = true;
    }

    /// Whether every write is durable once it is performed.
    pub(crate) fn persists_at_once(&self) -> bool {
        self.at_once
    }

    /// Takes in that the driver reported this write.
    #[inline]
    pub(crate) fn on_persisted(&mut self, write: WriteId) {
        self.fresh |= self.persisted(write);
    }

    /// Whether more became durable in this step, since this was last asked.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Whether [`take_fresh`](Self::take_fresh) would say so.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The log is durable up to here.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Whether the vote is durable.
    pub(crate) fn vote_is_durable(&self) -> bool {
        self.vote <= self.persisted
    }

    /// Asks for entries to be appended: what every proposal and every append comes to.
    #[inline]
    pub(crate) fn append(&mut self, span: Span, source: Source, out: &mut Actions) {
        self.asked = WriteId(self.asked.0 + 1);
        self.extend_to(span.last.index);
        self.ask(|| WriteOp::Append { span, source }, out);
    }

    /// Asks for a write and notes what it will make durable.
    pub(crate) fn write(&mut self, op: WriteOp, out: &mut Actions) {
        self.asked = WriteId(self.asked.0 + 1);
        match &op {
            WriteOp::Vote(_) => self.vote = self.asked,
            WriteOp::Append { span, .. } => self.extend_to(span.last.index),
            WriteOp::Truncate { after } => self.cut(after.index),
            WriteOp::Reset { to, tail } => {
                if *tail == crate::Tail::Discard {
                    // Nothing of the old log is in the new one, durable or not.
                    self.cut(0);
                }
                self.extends.push_back((self.asked, to.index));
            }
            WriteOp::PromiseLease(_) | WriteOp::ForgetPromisedEnd => {}
        }
        self.ask(|| op, out);
    }

    /// The write under way extends the log.
    #[inline]
    fn extend_to(&mut self, last: u64) {
        match self.at_once {
            true => self.index = last,
            false => self.extends.push_back((self.asked, last)),
        }
    }

    #[inline]
    fn ask(&mut self, op: impl FnOnce() -> WriteOp, out: &mut Actions) {
        let id = self.asked;
        out.add(|| Action::Persist(Write { id, op: op() }));
        if self.at_once {
            // Whatever rests on it comes after it, and actions are performed in order.
            self.on_persisted(id);
        }
    }

    fn cut(&mut self, keep: u64) {
        self.index = self.index.min(keep);
        for (_, upto) in &mut self.extends {
            *upto = (*upto).min(keep);
        }
    }

    /// Does this once everything asked for so far is durable; at the end of the step, if it is already.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held.push_back((self.asked, held));
    }

    /// Whether a take-over waits for the disk already.
    pub(crate) fn is_to_take_over(&self) -> bool {
        self.held.iter().any(|(_, held)| matches!(held, Held::TakeOver { .. }))
    }

    /// Takes in `Persisted(write)`; returns whether it says anything new.
    #[inline]
    pub(crate) fn persisted(&mut self, write: WriteId) -> bool {
        let is_old = write == self.persisted || write < self.persisted && !bug(Bug::OlderCompletionWins);
        if is_old || write > self.asked {
            return false;
        }
        self.persisted = write;
        while let Some((_, upto)) = self.extends.pop_front_if(|(id, _)| *id <= write) {
            self.index = self.index.max(upto);
        }
        true
    }

    /// Whether anything waits for a write.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// The next held thing that may be done now.
    pub(crate) fn release(&mut self) -> Option<Held> {
        let persisted = self.persisted;
        self.held.pop_front_if(|(id, _)| *id <= persisted).map(|(_, held)| held)
    }

    /// Counts writes from the last durable one, and lets what is held wait until `due`.
    pub(crate) fn count_from_durable(&mut self, due: Instant) {
        let from = self.persisted.0;
        let rebase = |id: &mut WriteId| id.0 = id.0.saturating_sub(from);
        self.extends.iter_mut().for_each(|(id, _)| rebase(id));
        for (id, held) in &mut self.held {
            rebase(id);
            if let Held::TakeOver { until, .. } = held {
                *until = due;
            }
        }
        rebase(&mut self.asked);
        rebase(&mut self.vote);
        self.persisted = WriteId(0);
    }

    /// The last write asked for.
    pub(crate) fn asked(&self) -> WriteId {
        self.asked
    }

    /// Every write up to this one is durable.
    pub(crate) fn durable_write(&self) -> WriteId {
        self.persisted
    }

    /// What waits, and for which write, in order.
    pub(crate) fn held(&self) -> impl Iterator<Item = &(WriteId, Held)> {
        self.held.iter()
    }

    /// Breaks the state, to see that the checks notice.
    #[cfg(test)]
    pub(crate) fn claim_persisted(&mut self, write: WriteId) {
        self.persisted = write;
    }

    /// Breaks a promise to hold, to see that the checks notice.
    #[cfg(test)]
    pub(crate) fn forget_held(&mut self) {
        self.held.clear();
    }

    /// Breaks the order of what is held, to see that the checks notice.
    #[cfg(test)]
    pub(crate) fn hold_for(&mut self, write: WriteId, held: Held) {
        self.held.push_back((write, held));
    }

    pub(crate) fn check(&self, last: LogId) {
        I::PersistedWasAsked.check(self.persisted <= self.asked && self.vote <= self.asked);
        I::DurableInLog.check(self.index <= last.index);
        I::WritesInOrder.check(self.extends.iter().map(|(id, _)| id).is_sorted());
        I::WritesInOrder.check(self.held.iter().map(|(id, _)| id).is_sorted());
        I::HeldForAWrite.check(self.held.iter().all(|(id, _)| *id > self.persisted && *id <= self.asked));
    }
}
