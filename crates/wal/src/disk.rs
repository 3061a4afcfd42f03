//! The only door to the file system: [`Disk`], and the real one behind it.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::ahead::Ahead;
use crate::past_cache::PastCache;

/// Most buffers that one `pwritev` takes (`IOV_MAX` of Linux).
const MAX_BUFFERS: usize = 1024;

/// A file system, as far as the log needs one.
///
/// What is written to a file is durable after [`DiskFile::sync_data`]; what is created, renamed or removed in a
/// directory, after [`sync_dir`](Disk::sync_dir). Nothing is assumed about what survives without them.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is no such file.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file, or empties an existing one.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Names in a directory, sorted. Names that are not UTF-8 are left out: none of ours are.
    ///
    /// # Errors
    /// As the system says; `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, replacing another.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and those above it; does nothing if it exists.
    ///
    /// # Errors
    /// As the system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes durable what was created, renamed and removed in a directory.
    ///
    /// # Errors
    /// As the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock on a file, creating it; `None` if someone else has it. Released when dropped.
    ///
    /// # Errors
    /// As the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
}

/// A lock on a file, released when dropped.
pub trait DiskLock: Debug + Send + Sync {}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for, or 0 at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`; possibly fewer bytes than given.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes buffers one after the other at `offset`; possibly fewer bytes than given.
    ///
    /// # Errors
    /// As the system says.
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes everything written to the file durable, and its length.
    ///
    /// # Errors
    /// As the system says. After an error nothing is known about what was written since the last success.
    fn sync_data(&self) -> io::Result<()>;

    /// Sets the length; new bytes are zeros.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves space for `length` bytes, so that writing them later cannot fail for want of space. The file
    /// is at least that long afterwards; new bytes are zeros.
    ///
    /// # Errors
    /// As the system says; `StorageFull` if there is no space.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;

    /// A hint that these bytes will be read soon; does nothing unless a disk has use for it.
    fn will_read(&self, _offset: u64, _length: u64) {}

    /// As [`read_at`](Self::read_at), of much that nobody is going to read again soon, by one reader: a disk may keep it out
    /// of its cache, and may have fetched it when an earlier part was asked for. So the file must not change meanwhile.
    ///
    /// # Errors
    /// As the system says.
    fn read_once_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
}

/// Fills `buffer` from `offset`; an error if the file ends before.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    read_whole(buffer, offset, |buffer, offset| file.read_at(buffer, offset))
}

/// Fills `buffer` from `offset` by as many reads as that takes.
pub(crate) fn read_whole(
    mut buffer: &mut [u8],
    mut offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match read(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `length` bytes from `offset`, fewer only at the end of the file.
pub(crate) fn read_up_to(file: &dyn DiskFile, length: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `buffers` at `offset`, as many at a time as the system takes.
pub(crate) fn write_all_vectored_at(
    file: &dyn DiskFile,
    mut buffers: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let some = &buffers[..buffers.len().min(MAX_BUFFERS)];
        match file.write_vectored_at(some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut buffers, n);
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile::new(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct RealLock {
    /// Closing it releases the lock, also when the process is killed.
    _file: File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Held while something is written, so that zeros never overtake it.
    ahead: Mutex<Ahead>,
    /// The same file, to be read past the cache, once that was asked for.
    past_cache: OnceLock<Option<PastCache>>,
}

impl RealFile {
    fn new(file: File) -> Self {
        Self { file, ahead: Mutex::default(), past_cache: OnceLock::new() }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(target_os = "linux")]
    fn write_some(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.file, buffers, offset)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn write_some(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        match buffers.iter().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.file.write_at(buffer, offset),
            None => Ok(0),
        }
    }
}

/// Whether a file system is known to put what is written over zeros where the zeros are. One that copies on write would use up
/// for them what is reserved.
#[cfg(target_os = "linux")]
fn writes_in_place(file: &File) -> bool {
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    // The number's type differs between targets.
    rustix::fs::fstatfs(file).is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|it| [EXT4, XFS].contains(&it)))
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut ahead = self.ahead();
        let written = self.file.write_at(bytes, offset)?;
        ahead.wrote(&self.file, offset, written as u64);
        Ok(written)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut ahead = self.ahead();
        let written = self.write_some(buffers, offset)?;
        ahead.wrote(&self.file, offset, written as u64);
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        *self.ahead() = Ahead::default();
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let present = self.file.metadata()?.len();
        #[cfg(target_os = "linux")]
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => {
                if writes_in_place(&self.file) {
                    self.ahead().reserve(present, length);
                }
                return Ok(());
            }
            // Not every file system can: then zeros reserve the space.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; 1 << 16];
        let mut at = present;
        while at < length {
            let some = zeros.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
            write_all_at(self, &zeros[..some], at)?;
            at += some as u64;
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn will_read(&self, offset: u64, length: u64) {
        // Only a hint, which a file system need not know.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
    }

    fn read_once_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let past_cache = self.past_cache.get_or_init(|| PastCache::open(&self.file));
        match past_cache.as_ref().and_then(|past_cache| past_cache.read(buffer, offset)) {
            Some(read) => Ok(read),
            None => self.read_at(buffer, offset),
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;

    use super::*;

    /// A real file that was reserved, which nobody else can open, and whether it gets zeros ahead.
    fn reserved(name: &str) -> (Arc<dyn DiskFile>, File, bool) {
        let path = std::env::temp_dir().join(format!("quorate-disk-{name}-{}", std::process::id()));
        let file = RealDisk.create(&path).unwrap();
        let other = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.allocate(1 << 20).unwrap();
        let zeros = writes_in_place(&other);
        (file, other, zeros)
    }

    /// Blocks that hold something, which one that is only reserved does not: a sync has less to do for those that do.
    fn written_blocks(file: &File) -> u64 {
        let (mut at, mut bytes) = (0, 0);
        while let Ok(from) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            at = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(from)).unwrap();
            bytes += at - from;
        }
        bytes / 4096
    }

    #[test]
    fn small_writes_to_a_reserved_file_take_blocks_along_and_leave_what_is_at_its_end() {
        let (file, other, zeros) = reserved("ahead");
        let (blocks, length) = (other.metadata().unwrap().st_blocks(), 1 << 20);
        write_all_at(&*file, b"the end", length - 7).unwrap();
        write_all_vectored_at(&*file, &mut [IoSlice::new(b"one"), IoSlice::new(b" and ")], 0).unwrap();
        write_all_at(&*file, b"two", 8).unwrap();
        let (mut found, mut end) = (vec![1; 1 << 20], [0; 7]);
        read_exact_at(&*file, &mut found, 0).unwrap();
        read_exact_at(&*file, &mut end, length - 7).unwrap();
        assert_eq!((&found[..11], &end), (&b"one and two"[..], b"the end"));
        assert!(found[11..found.len() - 7].iter().all(|&byte| byte == 0));
        assert_eq!((file.length().unwrap(), other.metadata().unwrap().st_blocks()), (length, blocks), "as reserved");

        let (file, other, _) = reserved("row");
        write_all_at(&*file, &[1; 512], 0).unwrap();
        write_all_vectored_at(&*file, &mut [IoSlice::new(&[1; 512])], 512).unwrap();
        file.sync_data().unwrap();
        let blocks = written_blocks(&other);
        assert!(if zeros { (16..=18).contains(&blocks) } else { blocks < 16 || blocks == 256 }, "{blocks} blocks");

        let (file, other, _) = reserved("shorter");
        file.set_len(0).unwrap();
        write_all_at(&*file, &[1; 512], 0).unwrap();
        write_all_at(&*file, &[1; 512], 512).unwrap();
        assert_eq!(other.metadata().unwrap().len(), 1024, "what is no longer reserved gets none");
    }

    #[test]
    fn what_is_read_once_and_what_is_read_through_the_cache_are_equal() {
        let (file, ..) = reserved("once");
        let content: Vec<u8> = (0..1_u32 << 20).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        write_all_at(&*file, &content, 0).unwrap();
        file.sync_data().unwrap();
        file.will_read(64, 1 << 18);
        let mut found = vec![0; content.len() - 64];
        for (number, piece) in found.chunks_mut(1 << 18).enumerate() {
            read_whole(piece, 64 + (number << 18) as u64, |buffer, at| file.read_once_at(buffer, at)).unwrap();
        }
        assert!(found == content[64..]);
        let past_end = read_whole(&mut [0; 1 << 17], 1 << 20, |buffer, at| file.read_once_at(buffer, at));
        assert_eq!(past_end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
