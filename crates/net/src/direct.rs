//! A file that is written from its start to its end, once, and read much later: past the system's cache, where the file system
//! and the disk can do that.
//!
//! Through the cache each byte is copied into a page that has to be found first, and written back by the system when it is
//! made durable, in its own pace. Measured with 2 GiB on a disk of 2.5 GB/s: 0.5 GB/s through the cache, 1.4 GB/s in pieces
//! of 256 KiB past it. Nor does what arrives drive out of the cache what others need, or make their syncs wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What is written past the cache begins at a multiple of this in file and memory, and has a multiple of it as its length: as large
/// as the blocks of any common disk.
pub(crate) const BLOCK_BYTES: usize = 4 << 10;
/// A piece with less than this is left to the cache.
const LEAST_BYTES: usize = 64 << 10;
/// A larger piece is written in several: a peer chooses how large its frames are, and we keep as much memory for each transfer.
const MOST_BYTES: usize = 1 << 20;

/// Such a file. One write at a time.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    /// The same file, opened so that it is written past the cache.
    past_cache: Option<PastCache>,
}

#[derive(Debug)]
struct PastCache {
    file: File,
    /// Where a piece lies in memory as it has to; used again.
    piece: Mutex<Vec<u8>>,
    /// The file system took the file, but not what was written.
    refused: AtomicBool,
}

impl DirectFile {
    /// Opens a file, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let past_cache = open_past_cache(&file).map(|file| PastCache {
            file,
            piece: Mutex::default(),
            refused: AtomicBool::new(false),
        });
        Ok(Self { file, past_cache })
    }

    /// The file as others are.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of it.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let whole = bytes.len() - bytes.len() % BLOCK_BYTES;
        let past = match &self.past_cache {
            Some(past) if whole >= LEAST_BYTES && offset.is_multiple_of(BLOCK_BYTES as u64) => {
                past.write(&bytes[..whole], offset)?
            }
            _ => 0,
        };
        self.file.write_all_at(&bytes[past..], offset + past as u64)
    }
}

impl PastCache {
    /// Writes whole blocks, from the first on as many as can be written so. Returns how many bytes they are.
    fn write(&self, blocks: &[u8], offset: u64) -> io::Result<usize> {
        let mut written = 0;
        let mut memory = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        for blocks in blocks.chunks(MOST_BYTES) {
            if self.refused.load(Relaxed) {
                break;
            }
            if memory.len() < blocks.len() + BLOCK_BYTES {
                memory.resize(blocks.len() + BLOCK_BYTES, 0);
            }
            let start = memory.as_ptr().align_offset(BLOCK_BYTES);
            let Some(piece) = memory.get_mut(start..start.saturating_add(blocks.len())) else { break };
            piece.copy_from_slice(blocks);
            let some = self.write_piece(piece, offset + written as u64)?;
            written += some;
            if some < blocks.len() {
                break;
            }
        }
        Ok(written)
    }

    fn write_piece(&self, piece: &[u8], offset: u64) -> io::Result<usize> {
        let mut written = 0;
        while written < piece.len() {
            match self.file.write_at(&piece[written..], offset + written as u64) {
                // Whatever the disk takes in pieces that are no blocks is left to the cache.
                Ok(some) if some % BLOCK_BYTES != 0 || some == 0 => break,
                Ok(some) => written += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                    self.refused.store(true, Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

/// `None` where the file system knows no such thing.
#[cfg(target_os = "linux")]
fn open_past_cache(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags};

    // By its descriptor: its name may have changed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_past_cache(_file: &File) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("quorate-direct-{name}-{}", std::process::id()))
    }

    fn noise(length: u32) -> Vec<u8> {
        (0..length).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
    }

    /// Whether the file system of temporary files can do it at all.
    fn can() -> bool {
        let path = path("can");
        let file = File::create(&path).unwrap();
        let mut block = vec![0; 2 * BLOCK_BYTES];
        let start = block.as_ptr().align_offset(BLOCK_BYTES);
        let block = &mut block[start..start + BLOCK_BYTES];
        let can = open_past_cache(&file).is_some_and(|file| file.write_at(block, 0).is_ok());
        fs::remove_file(path).unwrap();
        can
    }

    #[test]
    fn whole_blocks_of_large_pieces_go_past_the_cache_where_that_can_be_done() {
        let (path, noise) = (path("past"), noise(3 << 20));
        let file = DirectFile::open(&path).unwrap();
        assert!(file.past_cache.is_some() || !can());
        if let Some(past) = &file.past_cache {
            let written = past.write(&noise, 0).unwrap();
            assert!(written == noise.len() || !can(), "{written} bytes of three pieces");
            assert!(fs::read(&path).unwrap() == noise[..written]);
            assert!(past.piece.lock().unwrap().len() <= MOST_BYTES + BLOCK_BYTES);
            assert!(!past.refused.load(Relaxed) || !can());
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn pieces_of_all_kinds_are_read_in_the_order_they_were_written_in() {
        let (path, noise) = (path("kinds"), noise(1 << 20));
        let file = DirectFile::open(&path).unwrap();
        let mut at = 0;
        for length in [LEAST_BYTES, 256 << 10, LEAST_BYTES + 1, 256 << 10, BLOCK_BYTES - 1, LEAST_BYTES * 2, 77] {
            file.write_all_at(&noise[at..at + length], at as u64).unwrap();
            at += length;
        }
        file.file().sync_data().unwrap();
        assert!(fs::read(&path).unwrap() == noise[..at]);
        // Once more over what is there, by another handle, and refused past the cache.
        let file = DirectFile::open(&path).unwrap();
        if let Some(past) = &file.past_cache {
            past.refused.store(true, Relaxed);
            assert_eq!(past.write(&noise[1..=LEAST_BYTES], 0).unwrap(), 0);
        }
        file.write_all_at(&noise[1..=LEAST_BYTES], 0).unwrap();
        let read = fs::read(&path).unwrap();
        assert!(read[..LEAST_BYTES] == noise[1..=LEAST_BYTES] && read[LEAST_BYTES..] == noise[LEAST_BYTES..at]);
        fs::remove_file(path).unwrap();
    }
}
