//! What the log on disk holds of one group, and where: the index that recovery rebuilds and reads use.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_core::{LogId, LogIds, Run, Tail};

use quorate_wire::{ENTRY_CHECKSUM_BYTES, ENTRY_HEADER_BYTES, EntryKind};

use crate::codec::{LOG_ID_BYTES, is_ordinary, log_id_at, put_log_id, put_u64, u64_at};
use crate::frame::{FRAME_HEADER_BYTES, Op, tail_byte, tail_of};
use crate::segment::Segment;

/// Entries that follow each other in one segment are one stretch in the index up to this many bytes, so that the
/// index stays small (64 MiB of entries: 2,048 stretches of about 70 bytes) and a read takes at most this much too
/// many.
const STRETCH_BYTES: u64 = 32 << 10;

/// One line of a segment's index: what the segment does to a group's log. Lines of a group, applied in order, give
/// its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Entries of one leader from index `first` to `last`, in frames somewhere from `start` to `end`.
    Entries {
        first: u64,
        last: LogId,
        start: u64,
        end: u64,
    },
    /// The body of a membership entry, which is part of the entries before.
    Membership {
        id: LogId,
        start: u64,
        end: u64,
    },
    Truncate {
        after: LogId,
    },
    Reset {
        to: LogId,
        tail: Tail,
    },
    Purge {
        upto: LogId,
    },
}

/// Bytes of a line in a footer.
pub(crate) const ROW_BYTES: usize = 64;

impl Row {
    pub(crate) fn encode(&self, group: u64, out: &mut Vec<u8>) {
        let mut bytes = [0; ROW_BYTES];
        put_u64(&mut bytes, 8, group);
        let (tag, first, id, start, end) = match *self {
            Row::Entries { first, last, start, end } => (1, first, last, start, end),
            Row::Membership { id, start, end } => (2, 0, id, start, end),
            Row::Truncate { after } => (3, 0, after, 0, 0),
            Row::Reset { to, tail } => {
                bytes[1] = tail_byte(tail);
                (4, 0, to, 0, 0)
            }
            Row::Purge { upto } => (5, 0, upto, 0, 0),
        };
        bytes[0] = tag;
        put_u64(&mut bytes, 16, first);
        put_log_id(&mut bytes, 24, id);
        put_u64(&mut bytes, 24 + LOG_ID_BYTES, start);
        put_u64(&mut bytes, 32 + LOG_ID_BYTES, end);
        out.extend_from_slice(&bytes);
    }

    /// Reads a line of a segment whose frames end before `limit`.
    pub(crate) fn decode(bytes: &[u8], limit: u64) -> Option<(u64, Row)> {
        let id = log_id_at(bytes, 24);
        let (start, end) = (u64_at(bytes, 24 + LOG_ID_BYTES), u64_at(bytes, 32 + LOG_ID_BYTES));
        if start > end || end > limit || !is_ordinary(id) {
            return None;
        }
        let row = match bytes[0] {
            1 => Row::Entries { first: u64_at(bytes, 16), last: id, start, end },
            2 => Row::Membership { id, start, end },
            3 => Row::Truncate { after: id },
            4 => Row::Reset { to: id, tail: tail_of(bytes[1])? },
            5 => Row::Purge { upto: id },
            _ => return None,
        };
        Some((u64_at(bytes, 8), row))
    }

    /// The lines of a frame at `offset`.
    pub(crate) fn of(op: &Op, offset: u64) -> Vec<Row> {
        let batch = match op {
            Op::Entries(batch) => batch,
            Op::Truncate { after } => return vec![Row::Truncate { after: *after }],
            Op::Reset { to, tail } => return vec![Row::Reset { to: *to, tail: *tail }],
            Op::Purge { upto } => return vec![Row::Purge { upto: *upto }],
        };
        let bodies = offset + FRAME_HEADER_BYTES as u64;
        let end = bodies + batch.bytes().len() as u64;
        let mut rows = vec![Row::Entries { first: batch.first().index, last: batch.last(), start: offset, end }];
        if batch.has_special() {
            let memberships = batch.iter().filter(|entry| entry.kind == EntryKind::Membership);
            rows.extend(memberships.map(|entry| {
                let payload = bodies + entry.payload_at as u64;
                let end = payload + (entry.payload.len() + ENTRY_CHECKSUM_BYTES) as u64;
                Row::Membership { id: entry.log_id, start: payload - ENTRY_HEADER_BYTES as u64, end }
            }));
        }
        rows
    }

    /// Takes in the entries of `next` if they follow these closely.
    pub(crate) fn absorb(&mut self, next: &Row) -> bool {
        match (self, next) {
            (
                Row::Entries { last, start, end, .. },
                Row::Entries { first: next_first, last: next_last, end: next_end, .. },
            ) if last.leader_id == next_last.leader_id
                && last.index + 1 == *next_first
                && *next_end - *start <= STRETCH_BYTES =>
            {
                *last = *next_last;
                *end = *next_end;
                true
            }
            _ => false,
        }
    }
}

/// Where some entries are.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) first: u64,
    pub(crate) last: LogId,
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Whether entries after `last` may stand between `start` and `end` that were truncated: nothing may be added.
    closed: bool,
}

/// Where a membership entry is.
#[derive(Clone, Debug)]
pub(crate) struct MembershipPlace {
    pub(crate) id: LogId,
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// A group's log as the segments hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupLog {
    pub(crate) ids: LogIds,
    /// Invariant: together they hold every entry of `ids`, except of a log whose first segments were deleted, and
    /// only until its purge mark is replayed.
    pub(crate) stretches: VecDeque<Stretch>,
    pub(crate) memberships: VecDeque<MembershipPlace>,
}

impl GroupLog {
    /// A log whose entries, if any, are in segments before.
    pub(crate) fn of(ids: LogIds) -> Self {
        Self { ids, ..Self::default() }
    }

    /// Applies a line of `segment`'s index.
    ///
    /// # Errors
    /// Says why the line cannot follow: then the file was damaged in a way that checksums did not show.
    pub(crate) fn apply(&mut self, segment: &Arc<Segment>, row: Row) -> Result<(), &'static str> {
        match row {
            Row::Entries { first, last, start, end } => {
                check_append(&self.ids, first, last)?;
                self.ids.append(last.leader_id, last.index);
                if !self.extend_last(segment, &row) {
                    let segment = segment.clone();
                    self.stretches.push_back(Stretch { first, last, segment, start, end, closed: false });
                }
            }
            Row::Membership { id, start, end } => {
                if self.ids.holds(id) && id.index > self.ids.purged().index {
                    self.memberships.push_back(MembershipPlace { id, segment: segment.clone(), start, end });
                }
            }
            Row::Truncate { after } => {
                check_truncate(&self.ids, after)?;
                self.ids.truncate_after(after.index);
                self.cut(after.index);
            }
            Row::Reset { to, tail } => {
                reset(&mut self.ids, to, tail);
                self.cut(self.ids.last().index);
                if self.ids.last() == self.ids.purged() {
                    self.stretches.clear();
                    self.memberships.clear();
                }
                self.forget();
            }
            Row::Purge { upto } => {
                if self.ids.holds(upto) {
                    self.ids.purge(upto.index);
                }
                self.forget();
            }
        }
        Ok(())
    }

    fn extend_last(&mut self, segment: &Arc<Segment>, row: &Row) -> bool {
        let Some(stretch) = self.stretches.back_mut() else { return false };
        if stretch.closed || stretch.segment.number != segment.number {
            return false;
        }
        let Stretch { first, last, start, end, .. } = *stretch;
        let mut merged = Row::Entries { first, last, start, end };
        let absorbed = merged.absorb(row);
        if let Row::Entries { last, end, .. } = merged {
            (stretch.last, stretch.end) = (last, end);
        }
        absorbed
    }

    /// Drops what is after `index`.
    fn cut(&mut self, index: u64) {
        while self.stretches.back().is_some_and(|stretch| stretch.first > index) {
            self.stretches.pop_back();
        }
        if let Some(stretch) = self.stretches.back_mut() {
            stretch.closed = true;
            stretch.last.index = stretch.last.index.min(index);
        }
        while self.memberships.back().is_some_and(|place| place.id.index > index) {
            self.memberships.pop_back();
        }
    }

    /// Forgets everything after `index`, which is not whole.
    pub(crate) fn keep_upto(&mut self, index: u64) {
        self.ids.truncate_after(index);
        self.cut(index);
    }

    /// Drops what is purged.
    fn forget(&mut self) {
        let purged = self.ids.purged().index;
        while self.stretches.front().is_some_and(|stretch| stretch.last.index <= purged) {
            self.stretches.pop_front();
        }
        while self.memberships.front().is_some_and(|place| place.id.index <= purged) {
            self.memberships.pop_front();
        }
    }

    /// The first index that the log should hold but no segment does.
    pub(crate) fn first_missing(&self) -> Option<u64> {
        let mut next = self.ids.purged().index.saturating_add(1);
        for stretch in &self.stretches {
            if stretch.first > next {
                break;
            }
            next = next.max(stretch.last.index + 1);
        }
        (next <= self.ids.last().index).then_some(next)
    }
}

/// Whether entries of one leader, from `first` to `last`, may be appended.
pub(crate) fn check_append(ids: &LogIds, first: u64, last: LogId) -> Result<(), &'static str> {
    let end = ids.last();
    let follows = end.index.checked_add(1) == Some(first) && last.index >= first && is_ordinary(last);
    if !follows || last.leader_id < end.leader_id {
        return Err("the entries do not follow the end of the log");
    }
    Ok(())
}

/// Whether the log may be cut after this entry.
pub(crate) fn check_truncate(ids: &LogIds, after: LogId) -> Result<(), &'static str> {
    match ids.holds(after) {
        true => Ok(()),
        false => Err("the log is to be cut after an entry that it does not hold"),
    }
}

/// Resets the log to a snapshot. The tail stays only if the log holds the snapshot's last entry, whatever was asked
/// for: recovery must decide as the running log did (law 11).
pub(crate) fn reset(ids: &mut LogIds, to: LogId, tail: Tail) {
    match tail {
        Tail::Keep if to.index < ids.purged().index => {}
        Tail::Keep if ids.holds(to) => ids.purge(to.index),
        Tail::Keep | Tail::Discard => *ids = LogIds::after(to),
    }
}

/// The runs of a log, for a base frame.
pub(crate) fn encode_ids(ids: &LogIds, out: &mut Vec<u8>) {
    let runs: Vec<Run> = ids.runs().collect();
    let mut bytes = vec![0; LOG_ID_BYTES + 8 + runs.len() * LOG_ID_BYTES];
    put_log_id(&mut bytes, 0, ids.purged());
    put_u64(&mut bytes, LOG_ID_BYTES, runs.len() as u64);
    for (i, run) in runs.iter().enumerate() {
        put_log_id(&mut bytes, LOG_ID_BYTES + 8 + i * LOG_ID_BYTES, LogId::new(run.leader_id, run.last));
    }
    out.extend_from_slice(&bytes);
}

/// Reads what [`encode_ids`] wrote, and its length.
pub(crate) fn decode_ids(bytes: &[u8]) -> Option<(LogIds, usize)> {
    let head = bytes.get(..LOG_ID_BYTES + 8)?;
    let count = usize::try_from(u64_at(head, LOG_ID_BYTES)).ok()?;
    let length = count.checked_mul(LOG_ID_BYTES)?.checked_add(head.len())?;
    let runs = bytes.get(head.len()..length)?;
    if !is_ordinary(log_id_at(head, 0)) {
        return None;
    }
    let mut ids = LogIds::after(log_id_at(head, 0));
    for run in runs.chunks_exact(LOG_ID_BYTES) {
        let last = log_id_at(run, 0);
        check_append(&ids, ids.last().index.saturating_add(1), last).ok()?;
        ids.append(last.leader_id, last.index);
    }
    Some((ids, length))
}
