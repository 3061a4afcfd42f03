//! Reading what is not in the system's cache without bringing it there: a large snapshot that arrived is read once, and would
//! drive out what others need. It also takes half the time where memory is slow to be had.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Such reads begin and end at multiples of this in file and memory: as large as the blocks of any common disk.
const BLOCK_BYTES: usize = 4 << 10;
/// Less than this is read through the cache.
const LEAST_BYTES: usize = 64 << 10;
/// Pieces that are read while the one before them is looked at: a disk that is asked for several at a time does more. Each has a
/// thread of its own, for as long as it takes.
const PIECES_AHEAD: usize = 3;
/// Most such threads of the process, whatever is restored at once; beyond, a piece is read by who asks for it.
const MOST_THREADS: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A file that is read past the cache, from its start to its end, by one reader at a time: two would throw away what the
/// other expects, and read it again.
#[derive(Debug)]
pub(crate) struct PastCache {
    file: Arc<File>,
    length: u64,
    queue: Mutex<Queue>,
    /// The file system took the file, but does not read it so.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    /// The pieces that are expected to be asked for next, each right behind the one before.
    coming: VecDeque<Coming>,
    /// Buffers of pieces that were handed out: having the pages of new ones takes longer than to read them.
    rooms: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Coming {
    offset: u64,
    length: usize,
    reading: JoinHandle<io::Result<Piece>>,
}

/// What was read: a part of a buffer.
#[derive(Debug)]
struct Piece(Vec<u8>, Range<usize>);

/// A thread's place among [`MOST_THREADS`].
struct Place;

impl Place {
    fn take() -> Option<Self> {
        // The count stays right either way: who is too many gives the place back at once.
        let place = (THREADS.fetch_add(1, Relaxed), Self);
        (place.0 < MOST_THREADS).then_some(place.1)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Relaxed);
    }
}

impl PastCache {
    /// `None` where the system, or the file system, knows no such thing.
    pub(crate) fn open(file: &File) -> Option<Self> {
        let length = file.metadata().ok()?.len();
        Some(Self {
            file: Arc::new(open_past_cache(file)?),
            length,
            queue: Mutex::default(),
            refused: AtomicBool::new(false),
        })
    }

    /// Reads from `offset` as much as there is, up to the buffer's length; `None` where that cannot be done.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        if buffer.len() < LEAST_BYTES || self.refused.load(Relaxed) {
            return None;
        }
        let length = buffer.len();
        let (piece, room) = {
            let mut queue = self.queue();
            let Queue { coming, rooms } = &mut *queue;
            if coming.front().is_some_and(|first| (first.offset, first.length) != (offset, length)) {
                // Nobody waits for what was expected and not asked for.
                coming.clear();
            }
            let first = coming.pop_front();
            let mut next = coming.back().map_or(offset, |last| last.offset) + length as u64;
            // What is shorter than a piece, at the end, is asked for by its own length, if at all.
            while coming.len() < PIECES_AHEAD && next + length as u64 <= self.length {
                let Some(place) = Place::take() else { break };
                let (file, room) = (Arc::clone(&self.file), rooms.pop().unwrap_or_default());
                let read = Builder::new().name("quorate-read".into()).spawn(move || {
                    let _place = place;
                    read_piece(&file, room, length, next)
                });
                let Ok(reading) = read else { break };
                coming.push_back(Coming { offset: next, length, reading });
                next += length as u64;
            }
            let room = if first.is_none() { rooms.pop() } else { None };
            (first, room.unwrap_or_default())
        };
        let read = match piece {
            // Of a thread that panicked nothing is known.
            Some(coming) => coming.reading.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
            None => read_piece(&self.file, room, length, offset),
        };
        // Whatever is wrong is told by reading again through the cache.
        let Piece(room, found) = read.inspect_err(|error| self.note(error)).ok()?;
        let found = room.get(found)?;
        let some = found.len().min(length);
        buffer[..some].copy_from_slice(&found[..some]);
        self.queue().rooms.push(room);
        // A read that came too short for any of it is not the end of the file.
        (some > 0 || offset >= self.length).then_some(some)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does not try again what the file system cannot do.
    fn note(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) {
            self.refused.store(true, Relaxed);
        }
    }
}

fn read_piece(file: &File, mut room: Vec<u8>, length: usize, offset: u64) -> io::Result<Piece> {
    let block = BLOCK_BYTES as u64;
    let (from, before) = (offset - offset % block, (offset % block) as usize);
    let length = (before + length).next_multiple_of(BLOCK_BYTES);
    if room.len() < length + BLOCK_BYTES {
        room.resize(length + BLOCK_BYTES, 0);
    }
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    // A place that cannot be found is one the file system would refuse.
    let aligned = room.get_mut(start..start.saturating_add(length)).ok_or(io::ErrorKind::InvalidInput)?;
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut aligned[filled..], from + filled as u64) {
            Ok(some) => {
                filled += some;
                // The rest of a file that does not end with a block comes short, and nothing after it.
                if some == 0 || some % BLOCK_BYTES != 0 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Piece(room, start + before.min(filled)..start + filled))
}

/// The same file, opened so that it is read past the cache; `None` where the system knows no such thing.
#[cfg(target_os = "linux")]
fn open_past_cache(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags};

    // By its descriptor: its name may have changed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_past_cache(_file: &File) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that nobody else can open, what it holds, and whether the file system can read one so at all.
    fn file(name: &str, length: u32) -> (File, Vec<u8>, bool) {
        let path = std::env::temp_dir().join(format!("quorate-past-cache-{name}-{}", std::process::id()));
        let content: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut block = vec![0; 2 * BLOCK_BYTES];
        let start = block.as_ptr().align_offset(BLOCK_BYTES);
        let block = &mut block[start..start + BLOCK_BYTES];
        let can = open_past_cache(&file).is_some_and(|file| file.read_at(block, 0).is_ok());
        (file, content, can)
    }

    #[test]
    fn reads_that_begin_and_end_anywhere_give_what_is_there() {
        let (file, content, can) = file("anywhere", 300_000);
        let past = PastCache::open(&file);
        assert!(past.is_some() || !can, "where the file system can do it, it is done");
        // A file system without such reads is read through the cache, which the callers do.
        let Some(past) = past else { return };
        let mut buffer = vec![0; LEAST_BYTES];
        let in_turn = (0..6).map(|piece| 64 + piece * LEAST_BYTES);
        for offset in in_turn.chain([0, 4096, 4097, 200_000, 299_999, 300_000, 400_000, 0, LEAST_BYTES]) {
            let found = past.read(&mut buffer, offset as u64);
            let expected = &content[offset.min(content.len())..content.len().min(offset + buffer.len())];
            assert!(found == Some(expected.len()) || !can, "at {offset}: {found:?} of {}", expected.len());
            assert!(buffer[..found.unwrap_or(0)] == expected[..found.unwrap_or(0)], "at {offset}");
        }
        assert_eq!(past.read(&mut buffer[..LEAST_BYTES - 1], 0), None, "few bytes");
    }

    #[test]
    fn who_reads_to_the_end_leaves_nothing_expected_behind() {
        // Header, five pieces, a short one, and what is behind the content.
        let (file, content, can) = file("left", 64 + 5 * (64 << 10) + 30_000 + 100);
        let Some(past) = PastCache::open(&file) else { return };
        let mut most = 0;
        for piece in content[64..content.len() - 100].chunks(LEAST_BYTES) {
            let mut buffer = vec![0; piece.len()];
            let offset = piece.as_ptr().addr() - content.as_ptr().addr();
            let found = past.read(&mut buffer, offset as u64);
            assert!(found == Some(piece.len()) || piece.len() < LEAST_BYTES || !can);
            most = most.max(past.queue().coming.len());
        }
        assert!(past.queue().coming.is_empty());
        assert!(past.queue().rooms.len() <= PIECES_AHEAD + 1, "buffers are used again");
        assert!(most > 0 || !can, "it read ahead");
    }

    #[test]
    fn what_the_file_system_cannot_do_is_not_tried_again() {
        let past = PastCache::open(&file("refused", 300_000).0);
        let Some(past) = past else { return };
        past.note(&io::ErrorKind::Interrupted.into());
        assert!(!past.refused.load(Relaxed));
        past.note(&io::ErrorKind::Unsupported.into());
        assert_eq!(past.read(&mut vec![0; LEAST_BYTES], 0), None);
    }
}
