//! What a log holds, as simply as it can be said; and random writes.

use std::time::Duration;

use quorate::advanced::wire::{BatchBuilder, decode_membership, encode_membership};
use quorate::{
    Batch, Batches, EntryKind, GroupId, Incarnation, LeaderId, LogId, LogIds, LogWrite, Membership, Node, NodeId,
    Recovered, Run, Tail, Vote,
};

use super::CLUSTER;
use crate::chance::Chance;
use crate::report::{Failure, Law};

/// An entry as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) id: LogId,
    pub(super) kind: EntryKind,
    pub(super) payload: Vec<u8>,
}

/// What a group holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) vote: Vote,
    pub(super) lease: Duration,
    /// The log starts after this.
    pub(super) base: LogId,
    pub(super) entries: Vec<Written>,
}

impl State {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The entry at this index, or the base.
    pub(super) fn at(&self, index: u64) -> Option<LogId> {
        let entry = self.entries.iter().map(|entry| entry.id).find(|id| id.index == index);
        entry.or(Some(self.base).filter(|base| base.index == index))
    }

    pub(super) fn apply(&mut self, write: &LogWrite) {
        match write {
            LogWrite::Vote(vote) => self.vote = *vote,
            LogWrite::PromiseLease(lease) => self.lease = self.lease.max(*lease),
            // Nothing was lost: the log's end is all that is promised.
            LogWrite::ForgetPromisedEnd => {}
            LogWrite::Append(batches) => self.entries.extend(batches.iter().flat_map(entries_of)),
            LogWrite::Truncate { after } => self.entries.retain(|entry| entry.id.index <= after.index),
            LogWrite::Reset { to, tail } => {
                match tail {
                    Tail::Keep => self.entries.retain(|entry| entry.id.index > to.index),
                    Tail::Discard => self.entries.clear(),
                }
                self.base = *to;
            }
        }
    }

    /// The log ids, without the entries up to `purged`.
    pub(super) fn ids(&self, purged: LogId) -> LogIds {
        let kept = self.entries.iter().filter(|entry| entry.id.index > purged.index);
        LogIds::new(purged, kept.map(|entry| Run { leader_id: entry.id.leader_id, last: entry.id.index }))
    }
}

pub(super) fn entries_of(batch: &Batch) -> impl Iterator<Item = Written> + '_ {
    batch.iter().map(|entry| Written { id: entry.log_id, kind: entry.kind, payload: entry.payload.to_vec() })
}

/// Every state that a group may be found in, and what was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// The state after each write, and before the first.
    pub(super) states: Vec<State>,
    /// The id of the first write minus one.
    pub(super) writes_before: u64,
    /// The furthest index whose purge was asked for.
    pub(super) purge: u64,
    pub(super) term: u64,
    /// Everything that was ever written to the log.
    pub(super) ever: Vec<Written>,
}

impl Default for Model {
    fn default() -> Self {
        Self { states: vec![State::default()], writes_before: 0, purge: 0, term: 1, ever: Vec::new() }
    }
}

impl Model {
    pub(super) fn now(&self) -> State {
        self.states.last().cloned().unwrap_or_default()
    }

    /// Takes a write in; returns its id.
    pub(super) fn write(&mut self, write: &LogWrite) -> u64 {
        let mut state = self.now();
        state.apply(write);
        if let LogWrite::Append(batches) = write {
            self.ever.extend(batches.iter().flat_map(entries_of));
        }
        self.states.push(state);
        self.last_write()
    }

    pub(super) fn last_write(&self) -> u64 {
        self.writes_before + self.states.len() as u64 - 1
    }

    /// Goes on from a state that was found after `purged`.
    pub(super) fn restart(&self, place: usize, purged: LogId) -> Self {
        let mut state = self.states[place].clone();
        state.entries.retain(|entry| entry.id.index > purged.index);
        state.base = purged;
        Self { states: vec![state], writes_before: self.last_write(), ..self.clone() }
    }

    /// Which of the states from `floor` on was found; else which law does not allow it. `read` is what was read of it.
    pub(super) fn find(&self, step: &str, floor: usize, found: &Recovered, read: &[Written]) -> Result<usize, Failure> {
        let purged = found.log.purged();
        let allowed = &self.states[floor..];
        let fits = |state: &State| {
            state.vote == found.vote
                && state.lease == found.promised_lease
                && state.last() == found.log.last()
                && state.at(purged.index) == Some(purged)
                && purged.index <= self.purge.max(state.base.index)
                && found.log == state.ids(purged)
                && state.entries.iter().filter(|entry| entry.id.index > purged.index).eq(read)
        };
        if let Some(place) = allowed.iter().position(fits) {
            return Ok(floor + place);
        }
        let law = self.broken(allowed, found, read);
        let states = allowed.iter().map(|state| {
            format!("[vote {}, lease {:?}, log ({}, {}]]", state.vote, state.lease, state.base, state.last())
        });
        let expected = match allowed {
            [_] => states.collect(),
            _ => format!("what one of the writes made: {}", states.collect::<Vec<_>>().join(" ")),
        };
        let (vote, lease, last) = (found.vote, found.promised_lease, found.log.last());
        let count = read.len();
        let found = format!("[vote {vote}, lease {lease:?}, log ({purged}, {last}]], {count} entries read");
        Err(Failure::new(law, step, expected, found))
    }

    /// The law that none of the `allowed` states agrees with.
    fn broken(&self, allowed: &[State], found: &Recovered, read: &[Written]) -> Law {
        let purged = found.log.purged();
        let is_none = |fits: &dyn Fn(&State) -> bool| !allowed.iter().any(fits);
        if is_none(&|state| state.vote == found.vote) {
            return Law::VoteIsKept;
        }
        if is_none(&|state| state.lease == found.promised_lease) {
            return Law::LeaseIsKept;
        }
        if is_none(&|state| purged.index <= self.purge.max(state.base.index)) {
            return Law::PurgeTakesNoMore;
        }
        let known = |id: LogId| id == LogId::ZERO || self.ever.iter().any(|entry| entry.id == id);
        let is_base = self.states.iter().any(|state| state.base == purged);
        if !known(purged) && !is_base {
            return Law::BoundaryIsKept;
        }
        let lacks = |state: &State| {
            let kept = state.entries.iter().filter(|entry| entry.id.index > purged.index);
            kept.clone().any(|entry| !read.contains(entry))
        };
        if !is_none(&|state| state.last() == found.log.last()) && allowed.iter().all(lacks) {
            return Law::ReadsTheSpan;
        }
        if allowed.iter().all(lacks) {
            return Law::EntriesAreKept;
        }
        let invents = |state: &State| read.iter().any(|entry| !state.entries.contains(entry));
        if allowed.iter().all(invents) {
            return Law::NothingComesBack;
        }
        Law::WritesInOrder
    }
}

/// The memberships among these entries.
pub(super) fn memberships_of(entries: &[Written]) -> Vec<(LogId, Membership)> {
    let found = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
    found.filter_map(|entry| Some((entry.id, decode_membership(&entry.payload).ok()?))).collect()
}

fn membership(n: u64) -> Vec<u8> {
    let node = Node::at(format!("host-{n}:1"));
    let mut payload = Vec::new();
    encode_membership(&Membership::majority([(NodeId(n), Incarnation(u128::from(n)), node)]), &mut payload);
    payload
}

/// A batch of one leader's entries.
pub(super) fn batch(group: GroupId, term: u64, first: u64, payloads: &[(EntryKind, Vec<u8>)]) -> Batch {
    let mut builder = BatchBuilder::new();
    payloads.iter().for_each(|(kind, payload)| builder.push(*kind, payload));
    match builder.seal(CLUSTER, group, LeaderId::new(term, 1), first, 7) {
        Some(batch) => batch,
        None => unreachable!("a batch has payloads"),
    }
}

/// An append of commands at the end of the log.
pub(super) fn append(group: GroupId, state: &State, term: u64, payloads: &[&[u8]]) -> LogWrite {
    let payloads: Vec<_> = payloads.iter().map(|payload| (EntryKind::Command, payload.to_vec())).collect();
    LogWrite::Append(Batches::from_iter([batch(group, term, state.last().index + 1, &payloads)]))
}

/// A write as a core might make it next.
pub(super) fn random(group: GroupId, model: &mut Model, chance: &mut Chance) -> LogWrite {
    let state = model.now();
    match chance.below(20) {
        0..=11 => {
            let mut batches = Batches::new();
            let mut next = state.last().index + 1;
            for _ in 0..1 + chance.below(2) {
                model.term = model.term.max(state.last().leader_id.term) + chance.below(2);
                let payloads: Vec<_> = (0..1 + chance.below(3))
                    .map(|_| match chance.below(12) {
                        0 => (EntryKind::Membership, membership(1 + chance.below(9))),
                        1 => (EntryKind::Blank, Vec::new()),
                        2 => (EntryKind::Command, chance.bytes(3000)),
                        _ => {
                            let length = chance.below(200) as usize;
                            (EntryKind::Command, chance.bytes(length))
                        }
                    })
                    .collect();
                batches.push(batch(group, model.term, next, &payloads));
                next += payloads.len() as u64;
            }
            LogWrite::Append(batches)
        }
        12..=14 => {
            model.term += 1;
            let leader_id = LeaderId::new(model.term, 1 + chance.below(3));
            LogWrite::Vote(Vote { leader_id, committed: chance.below(2) == 0 })
        }
        15 if chance.below(4) == 0 => LogWrite::ForgetPromisedEnd,
        15 => LogWrite::PromiseLease(Duration::from_millis(chance.below(5000))),
        16..=18 => {
            // What is purged is committed, and never truncated.
            let least = state.base.index.max(model.purge);
            let index = least + chance.below(state.last().index.saturating_sub(least) + 1);
            model.term += chance.below(2);
            LogWrite::Truncate { after: state.at(index).unwrap_or(state.base) }
        }
        _ => {
            let last = state.last();
            model.term += 1;
            match state.entries.iter().find(|entry| entry.id.index >= model.purge) {
                Some(entry) if chance.below(2) == 0 => LogWrite::Reset { to: entry.id, tail: Tail::Keep },
                _ => snapshot_beyond(model, last.index + 1 + chance.below(5)),
            }
        }
    }
}

/// A reset to a snapshot at `index`, which the log does not reach.
pub(super) fn snapshot_beyond(model: &Model, index: u64) -> LogWrite {
    LogWrite::Reset { to: LogId::new(LeaderId::new(model.term, 1), index), tail: Tail::Discard }
}
