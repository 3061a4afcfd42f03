//! The newest part of the log as shared batches: what peers are sent and the state machine applies, without a
//! copy and most often without a read.

use std::collections::VecDeque;

use quorate_core::{LogId, Span};
use quorate_wire::{Batch, Batches};

/// Batches that are looked at one by one from the end before they are searched.
const LOOK_BACK: usize = 8;
/// Memory of a batch beside its entries, about.
const BATCH_OVERHEAD_BYTES: usize = 160;

/// Recent batches, oldest first.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Invariant: each batch starts right after the one before it.
    batches: VecDeque<Batch>,
    bytes: usize,
    max_bytes: usize,
}

impl Tail {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Adds what was appended to the log; forgets the oldest batches above the limit, never the newest.
    pub(crate) fn append(&mut self, batches: &Batches) {
        batches.iter().for_each(|batch| self.push(batch.clone()));
    }

    fn push(&mut self, batch: Batch) {
        if self.batches.back().is_some_and(|last| last.last().index + 1 != batch.first().index) {
            self.clear();
        }
        self.bytes += cost(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.max_bytes && self.batches.len() > 1 {
            self.pop_front();
        }
    }

    /// The entries of `span`, if all of them are here and under the leader the span names: a log that holds
    /// `span.last` holds exactly these entries (log matching).
    pub(crate) fn read(&self, span: Span) -> Option<Batches> {
        // A leader sends the newest batch, and a follower that was just sent it applies the one before.
        for back in 1..=self.batches.len().min(2) {
            let batch = &self.batches[self.batches.len() - back];
            if batch.last() == span.last && batch.first().index == span.first_index() {
                let mut found = Batches::new();
                found.push(batch.clone());
                return Some(found);
            }
        }
        if span.first_index() < self.batches.front()?.first().index {
            return None;
        }
        let start = self.place(span.first_index());
        let mut found = Batches::new();
        for batch in self.batches.range(start..) {
            if batch.first().index > span.last.index {
                break;
            }
            found.push(batch.slice(span.first_index(), span.last.index)?);
        }
        (found.last()?.last() == span.last).then_some(found)
    }

    /// The batches, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }

    /// The last entry's time, if it is here.
    pub(crate) fn last_time(&self) -> Option<u64> {
        self.batches.back()?.iter().last().map(|entry| entry.time)
    }

    pub(crate) fn truncate_after(&mut self, after: LogId) {
        while self.batches.back().is_some_and(|batch| batch.last().index > after.index) {
            let Some(batch) = self.batches.pop_back() else { break };
            self.bytes -= cost(&batch);
            if let Some(kept) = batch.slice(batch.first().index, after.index) {
                self.bytes += cost(&kept);
                self.batches.push_back(kept);
            }
        }
    }

    /// Forgets whole batches up to `index`.
    pub(crate) fn forget(&mut self, index: u64) {
        while self.batches.front().is_some_and(|batch| batch.last().index <= index) {
            self.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    fn pop_front(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= cost(&batch);
        }
    }

    /// Place of the batch that holds `index`: most often near the end, where a look at each beats a search that
    /// touches cold memory.
    fn place(&self, index: u64) -> usize {
        let newest = self.batches.len();
        for back in 1..=newest.min(LOOK_BACK) {
            if self.batches[newest - back].first().index <= index {
                return newest - back;
            }
        }
        self.batches.partition_point(|batch| batch.last().index < index)
    }
}

/// What a batch costs beside its bytes: its handle here and its buffer's header.
fn cost(batch: &Batch) -> usize {
    batch.bytes().len() + BATCH_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use quorate_core::{ClusterId, GroupId, LeaderId};
    use quorate_wire::{BatchBuilder, EntryKind};

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, 1), index)
    }

    fn batch(term: u64, first: u64, count: u64) -> Batch {
        let mut builder = BatchBuilder::new();
        (0..count).for_each(|i| builder.push(EntryKind::Command, &[i as u8; 10]));
        builder.seal(ClusterId(1), GroupId(1), LeaderId::new(term, 1), first, first).unwrap()
    }

    fn tail(batches: &[Batch]) -> Tail {
        let mut tail = Tail::new(1 << 20);
        batches.iter().for_each(|batch| tail.append(&Batches::from_iter([batch.clone()])));
        tail
    }

    fn indexes(found: Option<Batches>) -> Option<Vec<u64>> {
        found.map(|batches| batches.iter().flat_map(|b| b.iter().map(|e| e.log_id.index).collect::<Vec<_>>()).collect())
    }

    #[test]
    fn spans_are_cut_out_of_batches() {
        let tail = tail(&[batch(1, 4, 3), batch(1, 7, 1), batch(2, 8, 4)]);
        let read = |prev, last| indexes(tail.read(Span { prev, last }));
        assert_eq!(read(id(1, 4), id(2, 9)), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(read(id(1, 3), id(1, 4)), Some(vec![4]));
        assert_eq!(read(id(2, 10), id(2, 11)), Some(vec![11]));
    }

    #[test]
    fn a_span_of_another_leader_or_out_of_reach_is_not_served() {
        let tail = tail(&[batch(1, 4, 3), batch(2, 7, 2)]);
        let read = |prev, last| tail.read(Span { prev, last });
        assert_eq!(read(id(1, 6), id(1, 8)), None, "index 8 is of term 2");
        assert_eq!(read(id(1, 2), id(2, 8)), None, "index 3 is no longer here");
        assert_eq!(read(id(2, 8), id(2, 9)), None, "index 9 is not yet here");
    }

    #[test]
    fn a_truncated_tail_takes_the_new_leaders_entries() {
        let mut tail = tail(&[batch(1, 4, 3), batch(1, 7, 2)]);
        tail.truncate_after(id(1, 5));
        tail.append(&Batches::from_iter([batch(2, 6, 2)]));
        assert_eq!(indexes(tail.read(Span { prev: id(1, 3), last: id(2, 7) })), Some(vec![4, 5, 6, 7]));
        assert_eq!(tail.last_time(), Some(6));
    }

    #[test]
    fn the_oldest_batches_go_when_there_are_too_many_bytes() {
        let mut tail = Tail::new(2 * (62 + BATCH_OVERHEAD_BYTES));
        (1..=5).for_each(|first| tail.append(&Batches::from_iter([batch(1, first, 1)])));
        assert_eq!(tail.read(Span { prev: id(1, 2), last: id(1, 5) }), None);
        assert_eq!(indexes(tail.read(Span { prev: id(1, 3), last: id(1, 5) })), Some(vec![4, 5]));
    }
}
