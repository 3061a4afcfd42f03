//! Sizes of the newest part of the log, so that appends can be cut by bytes without the payloads.

use std::collections::VecDeque;

/// Most pieces remembered: 4,096 batches, about 64 KiB of state. Older entries are sent "cold": one append at
/// a time, cut to size by the driver that reads them.
const MAX_PIECES: usize = 4096;
/// Pieces that are looked at one by one from the end before they are searched.
const LOOK_BACK: usize = 4;
/// Most entries of a cold append.
pub(crate) const COLD_ENTRIES: u64 = 1024;

/// Sizes of consecutive batches at the end of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Pieces {
    /// The index before the first piece.
    start: u64,
    /// Last index and bytes of each batch.
    pieces: VecDeque<(u64, u64)>,
}

/// How much to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) cold: bool,
}

impl Pieces {
    pub(crate) fn after(start: u64) -> Self {
        Self { start, pieces: VecDeque::new() }
    }

    /// A log that was written entry by entry: what an untimed projection makes of any.
    pub(crate) fn one_each(start: u64, end: u64) -> Self {
        Self { start, pieces: (start + 1..=end).map(|index| (index, 1)).collect() }
    }

    pub(crate) fn push(&mut self, last: u64, bytes: u64) {
        self.pieces.push_back((last, bytes));
        if self.pieces.len() > MAX_PIECES
            && let Some((last, _)) = self.pieces.pop_front()
        {
            self.start = last;
        }
    }

    pub(crate) fn truncate_after(&mut self, index: u64) {
        while self.pieces.back().is_some_and(|(last, _)| *last > index) {
            let Some((_, bytes)) = self.pieces.pop_back() else { break };
            let before = self.pieces.back().map_or(self.start, |(last, _)| *last);
            if before < index {
                // Part of the batch stays; its size is at most the whole batch's.
                self.pieces.push_back((index, bytes));
                return;
            }
        }
        self.start = self.start.min(index);
    }

    /// The last index whose size is known, or where knowledge starts.
    pub(crate) fn end(&self) -> u64 {
        self.pieces.back().map_or(self.start, |(last, _)| *last)
    }

    /// Size of the entries after `index`, as far as it is remembered; a batch that goes beyond it counts whole.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.pieces.iter().rev().take_while(|(last, _)| *last > index).map(|(_, bytes)| bytes).sum()
    }

    /// Place of the piece that holds `index`. What is sent next is most often at the end.
    fn place(&self, index: u64) -> usize {
        let newest = self.pieces.len();
        for back in 1..=newest.min(LOOK_BACK) {
            if self.pieces.get(newest - back).is_some_and(|(last, _)| *last < index) {
                return newest - back + 1;
            }
        }
        self.pieces.partition_point(|(last, _)| *last < index)
    }

    /// The newest piece, if it holds `first`. What is sent is what was just appended, most often.
    fn newest_from(&self, first: u64) -> Option<(u64, u64)> {
        let newest = self.pieces.len().checked_sub(1)?;
        let before =
            newest.checked_sub(1).and_then(|place| self.pieces.get(place)).map_or(self.start, |(last, _)| *last);
        self.pieces.get(newest).copied().filter(|(last, _)| first > before && first <= *last)
    }

    /// The longest run of entries from `first` that fits `max_bytes`, at least one batch.
    pub(crate) fn cut(&self, first: u64, end: u64, max_bytes: u64) -> Cut {
        if first <= self.start || self.pieces.is_empty() {
            let last = end.min(first + COLD_ENTRIES - 1).min(self.start.max(first));
            return Cut { last, bytes: max_bytes, cold: true };
        }
        if let Some((last, bytes)) = self.newest_from(first) {
            return Cut { last, bytes, cold: false };
        }
        let from = self.place(first);
        let mut cut = Cut { last: first, bytes: 0, cold: false };
        for (last, bytes) in self.pieces.range(from..) {
            if cut.bytes > 0 && cut.bytes + bytes > max_bytes {
                break;
            }
            cut.last = *last;
            cut.bytes += bytes;
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_batches_and_by_bytes() {
        let mut pieces = Pieces::after(10);
        for (last, bytes) in [(12, 100), (13, 900), (20, 50)] {
            pieces.push(last, bytes);
        }
        assert_eq!([9, 12, 15, 20].map(|index| pieces.bytes_after(index)), [1050, 950, 50, 0]);
        assert_eq!(pieces.cut(11, 20, 1000), Cut { last: 13, bytes: 1000, cold: false });
        assert_eq!(pieces.cut(13, 20, 10), Cut { last: 13, bytes: 900, cold: false });
        assert_eq!(pieces.cut(14, 20, 1000), Cut { last: 20, bytes: 50, cold: false });
        assert_eq!(pieces.cut(3, 20, 1000), Cut { last: 10, bytes: 1000, cold: true });
    }

    #[test]
    fn a_truncated_batch_keeps_an_upper_bound_of_its_size() {
        let mut pieces = Pieces::after(10);
        pieces.push(12, 100);
        pieces.push(20, 50);
        pieces.truncate_after(15);
        assert_eq!(pieces.cut(13, 15, 1000), Cut { last: 15, bytes: 50, cold: false });
        pieces.truncate_after(9);
        pieces.push(11, 7);
        assert_eq!(pieces.cut(10, 11, 1000), Cut { last: 11, bytes: 7, cold: false });
    }
}
