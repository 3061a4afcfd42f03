//! Zeros ahead of what is written: a block that is only reserved costs the sync that first finds it written more than any
//! later one, because the file system then notes in the file's metadata that it holds something. One write of zeros over many
//! blocks, which all of them read as anyway, pays for them together.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// So far ahead: sixteen batches of one small write each, or more.
const AHEAD_BYTES: u64 = 64 << 10;
/// A write of more than this pays for its own blocks: zeros would be written for nothing.
const SMALL_BYTES: u64 = 8 << 10;
/// Zeros end at a multiple of this.
const BLOCK_BYTES: u64 = 4 << 10;

static ZEROS: [u8; (AHEAD_BYTES + BLOCK_BYTES) as usize] = [0; (AHEAD_BYTES + BLOCK_BYTES) as usize];

/// How far a file is written that was reserved from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    /// Zero of a file that was not reserved through this handle: nothing is known of it, and it gets no zeros.
    reserved: u64,
    /// From here on nothing was ever written.
    written: u64,
    /// Where the newest write ended that went on where another had ended, or stood alone: not a mark's.
    next: u64,
    /// Whether that write was small.
    small: bool,
}

impl Ahead {
    /// A file that ended at `present` is reserved up to `length`.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn reserve(&mut self, present: u64, length: u64) {
        self.reserved = length;
        self.written = self.written.max(present);
    }

    /// So many bytes were written at `offset`. The second small write in a row, and those that follow, take what is only
    /// reserved behind them along.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64, bytes: u64) {
        let (end, small) = (offset + bytes, bytes <= SMALL_BYTES);
        // One that leaves a gap, or comes after a large one, is no sign of more small ones to come.
        let goes_on = (self.next..=self.next.next_multiple_of(BLOCK_BYTES)).contains(&offset);
        let small_again = goes_on && self.small && small;
        if goes_on || end > self.written {
            (self.next, self.small) = (end, small);
        }
        if end <= self.written {
            return;
        }
        self.written = end;
        let until = (end + AHEAD_BYTES).next_multiple_of(BLOCK_BYTES).min(self.reserved);
        if small_again && until > end {
            // If it fails, all is as it was: the file reads as zeros there.
            self.written = until;
            drop(file.write_all_at(&ZEROS[..(until - end) as usize], end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reserved file that nobody else can open, and writes to it as the log's.
    struct Written(File, Ahead);

    impl Written {
        fn new(name: &str, reserved: u64) -> Self {
            let path = std::env::temp_dir().join(format!("quorate-ahead-{name}-{}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            let mut ahead = Ahead::default();
            ahead.reserve(0, reserved);
            Self(file, ahead)
        }

        /// Writes so many ones, and returns how long the file is then, zeros and all: nothing was reserved in truth.
        fn write(&mut self, offset: u64, bytes: u64) -> u64 {
            self.0.write_all_at(&vec![1; bytes as usize], offset).unwrap();
            self.1.wrote(&self.0, offset, bytes);
            self.0.metadata().unwrap().len()
        }

        /// Parts of the file that are not zeros, as ranges.
        fn ones(&self) -> Vec<(u64, u64)> {
            let mut all = vec![0; self.0.metadata().unwrap().len() as usize];
            self.0.read_exact_at(&mut all, 0).unwrap();
            let mut at = 0;
            let parts = all.chunk_by(|one, two| one == two).map(|part| {
                at += part.len() as u64;
                (part[0], at - part.len() as u64, at)
            });
            parts.filter(|part| part.0 == 1).map(|(_, from, to)| (from, to)).collect()
        }
    }

    #[test]
    fn small_writes_in_a_row_take_reserved_blocks_along_once() {
        let mut file = Written::new("small", 1 << 20);
        assert_eq!(file.write(0, 512), 512, "the first may be the only one");
        assert_eq!(file.write(512, 512), AHEAD_BYTES + BLOCK_BYTES);
        // What follows is written over zeros that are there already, one that begins with the next block too.
        assert_eq!(file.write(1024, 512), AHEAD_BYTES + BLOCK_BYTES);
        assert_eq!(file.write(BLOCK_BYTES, AHEAD_BYTES - 8), AHEAD_BYTES + BLOCK_BYTES, "to just before their end");
        assert_eq!(
            file.write(AHEAD_BYTES + BLOCK_BYTES - 8, 512),
            AHEAD_BYTES + BLOCK_BYTES + 504,
            "after a large one"
        );
        assert_eq!(file.write(AHEAD_BYTES + BLOCK_BYTES + 504, 512), 2 * AHEAD_BYTES + 2 * BLOCK_BYTES);
        assert_eq!(file.ones(), [(0, 1536), (BLOCK_BYTES, AHEAD_BYTES + BLOCK_BYTES + 1016)], "no zeros over data");
    }

    #[test]
    fn a_mark_at_the_start_is_neither_followed_by_zeros_nor_in_the_way_of_them() {
        let mut file = Written::new("mark", 1 << 20);
        file.write(8192, 512);
        file.write(0, 512);
        assert_eq!(file.write(8704, 512), AHEAD_BYTES + 12288);
        file.write(512, 512);
        assert_eq!(file.ones(), [(0, 1024), (8192, 9216)]);
    }

    #[test]
    fn no_zeros_after_a_large_write_or_a_gap() {
        let mut file = Written::new("none", 1 << 20);
        file.write(0, 512);
        assert_eq!(file.write(512, SMALL_BYTES + 1), 512 + SMALL_BYTES + 1, "large");
        let end = 512 + SMALL_BYTES + 1;
        assert_eq!(file.write(end, 512), end + 512, "behind a large one");
        assert_eq!(file.write(1 << 19, 512), (1 << 19) + 512, "leaves a gap");
    }

    #[test]
    fn zeros_end_where_the_reserved_space_does_and_at_what_was_written_at_its_end_before() {
        let mut file = Written::new("end", 40_000);
        file.write(0, 512);
        assert_eq!(file.write(512, 512), 40_000);
        let mut sealed = Written::new("sealed", 1 << 20);
        sealed.write(0, 512);
        sealed.write((1 << 20) - 512, 512);
        sealed.write(512, 512);
        sealed.write(1024, 512);
        assert_eq!(sealed.ones(), [(0, 1536), ((1 << 20) - 512, 1 << 20)]);
    }

    #[test]
    fn a_file_that_was_not_reserved_gets_none_and_one_that_was_longer_none_over_what_it_held() {
        let mut file = Written::new("unknown", 0);
        file.write(0, 512);
        assert_eq!(file.write(512, 512), 1024);
        let mut longer = Written::new("longer", 0);
        longer.write(0, 4096);
        longer.1.reserve(4096, 1 << 20);
        longer.write(0, 512);
        longer.write(512, 512);
        assert_eq!(longer.ones(), [(0, 4096)]);
    }
}
