//! A node's log and disk: what is submitted, and what would survive a crash.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use quorate_core::{LogId, LogIds, Membership, Run, SnapshotMeta, Span, Tail, Vote, WriteId};

use super::text::compact;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Blank,
    Command(String),
    Membership(Membership),
}

impl Payload {
    /// Size in the log: small enough that limits can be met by a script.
    pub(crate) fn bytes(&self) -> u64 {
        const HEADER_BYTES: u64 = 10;
        match self {
            Payload::Command(command) => HEADER_BYTES + command.len() as u64,
            Payload::Blank | Payload::Membership(_) => HEADER_BYTES,
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Blank => f.write_str("."),
            Payload::Command(command) => f.write_str(command),
            Payload::Membership(membership) => f.write_str(&compact(membership)),
        }
    }
}

/// An entry with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: LogId,
    pub(crate) payload: Payload,
}

/// A log with payloads. Invariant: indexes follow `purged` without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) purged: LogId,
    pub(crate) entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, |entry| entry.id)
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.purged.index + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        match index == self.purged.index {
            true => Some(self.purged),
            false => self.entry(index).map(|entry| entry.id),
        }
    }

    /// Whether the log holds this entry, or it is the last purged.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// The entries of `span`, if both its ends are in the log.
    pub(crate) fn read(&self, span: Span) -> Option<Vec<Entry>> {
        if !self.holds(span.prev) || !self.holds(span.last) {
            return None;
        }
        (span.first_index()..=span.last.index).map(|index| self.entry(index).cloned()).collect()
    }

    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let last = self.last();
            if entry.id.index != last.index + 1 || entry.id.leader_id < last.leader_id {
                return Err(format!("append of {} after {last}", entry.id));
            }
            self.entries.push(entry.clone());
        }
        Ok(())
    }

    pub(crate) fn truncate(&mut self, after: LogId) -> Result<(), String> {
        if !self.holds(after) {
            return Err(format!("truncate after {after}, which the log does not hold"));
        }
        self.entries.retain(|entry| entry.id.index <= after.index);
        Ok(())
    }

    pub(crate) fn reset(&mut self, to: LogId, tail: Tail) -> Result<(), String> {
        match tail {
            Tail::Discard => self.entries.clear(),
            Tail::Keep if !self.holds(to) => return Err(format!("reset to {to} keeps the tail of another log")),
            Tail::Keep => self.entries.retain(|entry| entry.id.index > to.index),
        }
        self.purged = to;
        Ok(())
    }

    /// Forgets entries up to `upto`, as far as the log holds them.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if let Some(id) = self.id_at(upto.index)
            && id.index > self.purged.index
        {
            self.entries.retain(|entry| entry.id.index > id.index);
            self.purged = id;
        }
    }

    /// What the core keeps of a log.
    pub(crate) fn ids(&self) -> LogIds {
        LogIds::new(self.purged, self.entries.iter().map(|e| Run { leader_id: e.id.leader_id, last: e.id.index }))
    }

    pub(crate) fn memberships(&self) -> Vec<(LogId, Membership)> {
        let found = self.entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.id, membership.clone())),
            Payload::Blank | Payload::Command(_) => None,
        });
        found.collect()
    }
}

/// A snapshot: what it says of itself, and the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) commands: Vec<String>,
}

/// A submitted write.
#[derive(Clone, Debug)]
pub(crate) struct PendingWrite {
    pub(crate) id: WriteId,
    pub(crate) op: DiskOp,
}

/// A write with its bytes.
#[derive(Clone, Debug)]
pub(crate) enum DiskOp {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(LogId),
    Reset { to: LogId, tail: Tail },
    PromiseLease(Duration),
    ForgetPromisedEnd,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) vote: Vote,
    pub(crate) promised_lease: Duration,
    pub(crate) log: Log,
    /// The last entry that was in the log before damage took its end.
    pub(crate) promised_end: LogId,
    pub(crate) snapshot: Option<Snapshot>,
    /// Submitted and not yet durable, in the order of their ids.
    pub(crate) pending: VecDeque<PendingWrite>,
    /// A write failed: nothing becomes durable any more.
    pub(crate) poisoned: bool,
}

impl Disk {
    /// Makes the oldest pending write durable.
    pub(crate) fn persist_one(&mut self) -> Result<Option<WriteId>, String> {
        let Some(write) = self.pending.pop_front() else { return Ok(None) };
        let done = match write.op {
            DiskOp::Vote(vote) => {
                self.vote = vote;
                Ok(())
            }
            DiskOp::Append(entries) => self.log.append(&entries),
            DiskOp::Truncate(after) => self.log.truncate(after),
            DiskOp::Reset { to, tail } => self.log.reset(to, tail),
            DiskOp::PromiseLease(longest) => {
                self.promised_lease = self.promised_lease.max(longest);
                Ok(())
            }
            DiskOp::ForgetPromisedEnd => {
                self.promised_end = LogId::ZERO;
                Ok(())
            }
        };
        done.map_err(|e| format!("the disk cannot do write {}: {e}", write.id.0))?;
        Ok(Some(write.id))
    }

    /// A snapshot became durable. The newest counts, whichever came last.
    pub(crate) fn keep_snapshot(&mut self, snapshot: &Snapshot) {
        let newer = |known: &Snapshot| known.meta.last_log_id.index > snapshot.meta.last_log_id.index;
        if !self.snapshot.as_ref().is_some_and(newer) {
            self.snapshot = Some(snapshot.clone());
        }
    }

    /// Whether `id` would survive a crash, in the log or in the snapshot.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        self.log.holds(id) || self.snapshot.as_ref().is_some_and(|s| s.meta.last_log_id.index >= id.index)
    }
}
