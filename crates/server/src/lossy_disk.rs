//! A disk that forgets: what was written and not synced is gone when the process is killed.
//!
//! `kill -9` leaves the page cache to the kernel, so it does not show a missing sync. Here unsynced bytes stay in this
//! process's memory, and reach the real files only with the sync. Names (create, rename, remove) are the real
//! disk's at once.
//!
//! With the feature `bug-ack-before-fsync` a sync reports success at once and is done [`LATE`] at the latest: the
//! planted fault that the process test must find.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quorate::advanced::wal::{Disk, DiskFile, DiskLock, RealDisk};

const EARLY: bool = cfg!(feature = "bug-ack-before-fsync");
/// How late the planted fault is. Many group commits are acknowledged meanwhile.
const LATE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct LossyDisk {
    real: RealDisk,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By device and inode: a file may be open twice, and renamed while it is.
    files: Mutex<HashMap<(u64, u64), Arc<Pending>>>,
    /// Syncs that were acknowledged early, in order: a file and how many of its operations.
    late: Mutex<VecDeque<(Arc<Pending>, usize)>>,
}

/// A file's content that only this process knows.
#[derive(Debug)]
struct Pending {
    real: Arc<dyn DiskFile>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    operations: VecDeque<Operation>,
    /// How many of them were acknowledged early.
    acknowledged: usize,
    length: u64,
}

#[derive(Debug)]
enum Operation {
    Write { offset: u64, bytes: Vec<u8> },
    SetLength(u64),
    Allocate(u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LossyDisk {
    /// The real disk, made forgetful.
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        if EARLY {
            let shared = Arc::downgrade(&shared);
            std::thread::spawn(move || sync_late(&shared));
        }
        LossyDisk { real: RealDisk, shared }
    }

    fn wrap(&self, path: &Path, real: Arc<dyn DiskFile>) -> io::Result<Arc<dyn DiskFile>> {
        let metadata = std::fs::metadata(path)?;
        let mut files = lock(&self.shared.files);
        let pending = match files.get(&(metadata.dev(), metadata.ino())) {
            Some(pending) => Arc::clone(pending),
            None => {
                let length = real.length()?;
                let state = Mutex::new(State { operations: VecDeque::new(), acknowledged: 0, length });
                let pending = Arc::new(Pending { real, state });
                files.insert((metadata.dev(), metadata.ino()), Arc::clone(&pending));
                pending
            }
        };
        Ok(Arc::new(LossyFile { pending, shared: Arc::clone(&self.shared) }))
    }

    /// The file at `path` is about to go, its inode to be used again.
    fn forget(&self, path: &Path) {
        if let Ok(metadata) = std::fs::metadata(path) {
            lock(&self.shared.files).remove(&(metadata.dev(), metadata.ino()));
        }
    }
}

impl Default for LossyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for LossyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.wrap(path, self.real.open(path)?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.forget(path);
        self.wrap(path, self.real.create(path)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.real.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Names are the real disk's: they must not come before what was (seemingly) synced under them.
        self.shared.sync_all_late()?;
        self.forget(to);
        self.real.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.forget(path);
        self.real.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.real.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.sync_all_late()?;
        self.real.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.real.lock(path)
    }
}

#[derive(Debug)]
struct LossyFile {
    pending: Arc<Pending>,
    shared: Arc<Shared>,
}

impl DiskFile for LossyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = lock(&self.pending.state);
        let rest = usize::try_from(state.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(rest);
        let window = &mut buffer[..len];
        window.fill(0);
        let mut filled = 0;
        while filled < len {
            match self.pending.real.read_at(&mut window[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        for operation in &state.operations {
            operation.replay(window, offset);
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = lock(&self.pending.state);
        state.length = state.length.max(offset + bytes.len() as u64);
        state.operations.push_back(Operation::Write { offset, bytes: bytes.to_vec() });
        Ok(bytes.len())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write_at(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !EARLY {
            let all = lock(&self.pending.state).operations.len();
            return self.pending.sync(all);
        }
        let mut late = lock(&self.shared.late);
        let mut state = lock(&self.pending.state);
        let new = state.operations.len() - state.acknowledged;
        state.acknowledged += new;
        late.push_back((Arc::clone(&self.pending), new));
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = lock(&self.pending.state);
        state.length = length;
        state.operations.push_back(Operation::SetLength(length));
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        // The space is taken at once: whether there is any must be known now.
        self.pending.real.allocate(length)?;
        let mut state = lock(&self.pending.state);
        state.length = state.length.max(length);
        state.operations.push_back(Operation::Allocate(length));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.pending.state).length)
    }
}

impl Operation {
    /// Does it to the part of a file that begins at `start`.
    fn replay(&self, window: &mut [u8], start: u64) {
        let end = start + window.len() as u64;
        match self {
            Operation::Write { offset, bytes } => {
                let (from, to) = ((*offset).max(start), (offset + bytes.len() as u64).min(end));
                if from < to {
                    let source = &bytes[(from - offset) as usize..(to - offset) as usize];
                    window[(from - start) as usize..(to - start) as usize].copy_from_slice(source);
                }
            }
            Operation::SetLength(length) if *length < end => {
                window[length.saturating_sub(start) as usize..].fill(0);
            }
            Operation::SetLength(_) | Operation::Allocate(_) => {}
        }
    }
}

impl Pending {
    /// Does the first `count` operations to the real file, durably.
    fn sync(&self, count: usize) -> io::Result<()> {
        let mut state = lock(&self.state);
        for operation in state.operations.iter().take(count) {
            match operation {
                Operation::Write { offset, bytes } => write_all(&*self.real, bytes, *offset)?,
                Operation::SetLength(length) => self.real.set_len(*length)?,
                Operation::Allocate(length) => self.real.allocate(*length)?,
            }
        }
        self.real.sync_data()?;
        state.operations.drain(..count);
        state.acknowledged = state.acknowledged.saturating_sub(count);
        Ok(())
    }
}

fn write_all(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = file.write_at(bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

impl Shared {
    /// Does every sync that was acknowledged early, in their order.
    fn sync_all_late(&self) -> io::Result<()> {
        let mut late = lock(&self.late);
        while let Some((file, count)) = late.pop_front() {
            file.sync(count)?;
        }
        Ok(())
    }
}

fn sync_late(shared: &Weak<Shared>) {
    loop {
        // The planted fault itself: a time in which a kill loses what was acknowledged.
        std::thread::sleep(LATE);
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.sync_all_late() {
            tracing::error!("a late sync failed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("quorate-lossy-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn content(file: &dyn DiskFile) -> Vec<u8> {
        let mut bytes = vec![0xee; 64];
        let len = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn unsynced_bytes_are_read_back_but_are_not_in_the_file() {
        let dir = directory("unsynced");
        let (disk, path) = (LossyDisk::new(), dir.join("a"));
        let file = disk.create(&path).unwrap();
        file.write_at(b"hello world", 0).unwrap();
        file.write_at(b"J", 0).unwrap();
        file.set_len(5).unwrap();
        file.set_len(7).unwrap();
        assert_eq!(content(&*file), b"Jello\0\0");
        assert_eq!(content(&*disk.open(&path).unwrap()), b"Jello\0\0", "every handle sees it");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert_eq!(file.length().unwrap(), 7);

        file.sync_data().unwrap();
        disk.sync_dir(&dir).unwrap(); // with the planted fault: the late syncs too
        assert_eq!(std::fs::read(&path).unwrap(), b"Jello\0\0");
        file.write_at(b"!", 6).unwrap();
        assert_eq!(content(&*file), b"Jello\0!");
        assert_eq!(content(&*LossyDisk::new().open(&path).unwrap()), b"Jello\0\0", "as after a kill");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_keeps_its_unsynced_bytes_under_a_new_name() {
        let dir = directory("rename");
        let disk = LossyDisk::new();
        let file = disk.create(&dir.join("a")).unwrap();
        file.allocate(4).unwrap();
        file.write_at(b"xy", 1).unwrap();
        disk.rename(&dir.join("a"), &dir.join("b")).unwrap();
        assert_eq!(content(&*disk.open(&dir.join("b")).unwrap()), b"\0xy\0");
        disk.remove(&dir.join("b")).unwrap();
        assert_eq!(content(&*disk.create(&dir.join("b")).unwrap()), b"");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
