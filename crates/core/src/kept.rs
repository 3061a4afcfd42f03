//! Which part of the log a leader may keep for peers that lag: the newest entries up to a number of bytes.

use std::collections::VecDeque;

/// Pieces that the bound is divided into: how finely the kept part is measured.
const GRAINS: u64 = 64;

/// Sizes of the newest part of the log, coarsely: at most about twice [`GRAINS`] pieces.
///
/// Entries that were in the log at the start count as nothing, as their sizes are not known: after a restart at most
/// the old log is kept on top of the bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Kept {
    /// The entries after this index are within the bound.
    floor: u64,
    /// Size of all pieces.
    bytes: u64,
    /// Last index and bytes of consecutive pieces.
    pieces: VecDeque<(u64, u64)>,
}

impl Kept {
    pub(crate) fn after(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    /// What is beyond it is purged, whoever may want it.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Entries up to `last` were appended; `most` bytes are kept.
    pub(crate) fn push(&mut self, last: u64, bytes: u64, most: u64) {
        self.bytes += bytes;
        match self.pieces.back_mut() {
            Some((end, size)) if *size + bytes <= most / GRAINS => (*end, *size) = (last, *size + bytes),
            _ => self.pieces.push_back((last, bytes)),
        }
        while self.bytes > most
            && let Some((end, size)) = self.pieces.pop_front()
        {
            self.floor = end;
            self.bytes -= size;
        }
    }

    /// The entries after `index` were removed. What stays of a piece counts as the whole of it.
    pub(crate) fn truncate_after(&mut self, index: u64) {
        while let Some((end, size)) = self.pieces.pop_back_if(|(end, _)| *end > index) {
            debug_assert!(end > index);
            let start = self.pieces.back().map_or(self.floor, |(end, _)| *end);
            if start < index {
                self.pieces.push_back((index, size));
                return;
            }
            self.bytes -= size;
        }
        self.floor = self.floor.min(index);
    }

    /// The entries up to `index` were purged.
    pub(crate) fn forget(&mut self, index: u64) {
        while let Some((_, size)) = self.pieces.pop_front_if(|(end, _)| *end <= index) {
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_kept_up_to_the_bound() {
        let mut kept = Kept::after(0);
        for index in 1..=10 {
            kept.push(index, 100, 350);
        }
        assert_eq!(kept.floor(), 7, "8, 9 and 10 are 300 bytes");
        kept.push(11, 351, 350);
        assert_eq!(kept.floor(), 11, "an entry beyond the bound is not kept for anybody");
    }

    #[test]
    fn small_entries_share_a_piece() {
        let mut kept = Kept::after(0);
        for index in 1..=100_000 {
            kept.push(index, 10, 64_000);
        }
        assert!(kept.pieces.len() <= 66, "{}", kept.pieces.len());
        assert!((93_500..=93_700).contains(&kept.floor()), "6,400 entries of 10 bytes, to a grain: {}", kept.floor());
    }

    #[test]
    fn what_is_purged_or_truncated_makes_room() {
        let mut kept = Kept::after(0);
        for index in 1..=4 {
            kept.push(index, 100, 400);
        }
        kept.forget(2);
        kept.push(6, 200, 400);
        assert_eq!(kept.floor(), 0, "400 bytes are left");
        kept.truncate_after(5);
        kept.push(7, 100, 400);
        assert_eq!(kept.floor(), 3, "half a piece counts as the whole of it");
        kept.truncate_after(1);
        assert_eq!((kept.floor(), kept.bytes), (1, 0));
    }
}
