//! [`MemDisk`]: a disk in memory that can crash at any step, fail at any call, and forget what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile, DiskLock};
use crate::fake::world::{Crash, FileOp, Step, World};
use crate::handle::lock;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this error. A write may have written its first half; what was unsynced at a failed sync never becomes
    /// durable by a later one, although it can be read until then.
    Error(io::ErrorKind),
    /// A write writes only so many bytes, and says so. No effect on other calls.
    ShortWrite(usize),
}

/// A disk in memory. Copies of the handle are the same disk.
///
/// Every file's and directory's unsynced operations are kept apart, so that [`crashed`](MemDisk::crashed) can make
/// any disk that a crash could leave, and [`replay`](MemDisk::replay) can do so for every moment of the past.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    world: World,
    /// The world when the journal began, and what was done since.
    origin: World,
    journal: Vec<Step>,
    faults: BTreeMap<u64, Fault>,
    /// From this call on, every call fails and does nothing.
    dead_from: Option<u64>,
    calls: u64,
    capacity: Option<u64>,
    locks: BTreeSet<PathBuf>,
}

impl MemDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        let disk = Self::default();
        lock(&disk.inner).world.apply(&Step::MakeDir(PathBuf::from("/")));
        disk
    }

    fn of(world: World) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { world: world.clone(), origin: world, ..Inner::default() })) }
    }

    /// The disk that a crash at this moment would leave. This one goes on as it is.
    pub fn crashed(&self, crash: Crash) -> MemDisk {
        Self::of(lock(&self.inner).world.crashed(crash))
    }

    /// Forgets the past: [`replay`](Self::replay) starts here.
    pub fn start_journal(&self) {
        let mut inner = lock(&self.inner);
        inner.origin = inner.world.clone();
        inner.journal.clear();
    }

    /// Number of steps since the journal was started.
    pub fn journal_steps(&self) -> usize {
        lock(&self.inner).journal.len()
    }

    /// Goes through the past again, step by step.
    pub fn replay(&self) -> Replay {
        let inner = lock(&self.inner);
        Replay { world: inner.origin.clone(), journal: inner.journal.clone(), done: 0 }
    }

    /// Number of calls so far, of those that can fail.
    pub fn calls(&self) -> u64 {
        lock(&self.inner).calls
    }

    /// Makes call number `call` fail, counting from 0.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        lock(&self.inner).faults.insert(call, fault);
    }

    /// Makes every call from number `call` on fail without any effect: as if the process were killed there. What it
    /// wrote before stays readable and unsynced.
    pub fn die_at(&self, call: u64) {
        lock(&self.inner).dead_from = Some(call);
    }

    /// Ends what [`die_at`](Self::die_at) began: the next process may use the disk.
    pub fn revive(&self) {
        lock(&self.inner).dead_from = None;
    }

    /// Limits the sum of all file lengths; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.inner).capacity = bytes;
    }

    /// The sum of all file lengths.
    pub fn used(&self) -> u64 {
        lock(&self.inner).world.files().map(|(_, bytes)| bytes).sum()
    }

    /// Flips the bits of `mask` in one byte of a file, durably and unnoticed.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) {
        lock(&self.inner).world.flip(path, offset, mask);
    }

    /// All files and their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        lock(&self.inner).world.files().map(|(path, bytes)| (path.to_path_buf(), bytes)).collect()
    }

    /// Number of operations that a crash now may undo.
    pub fn unsynced(&self) -> usize {
        lock(&self.inner).world.unsynced()
    }

    /// A number for all that can be read: directories, names, lengths and bytes. What is not synced yet counts like the
    /// rest, so it tells apart what crashes left.
    pub fn digest(&self) -> u64 {
        lock(&self.inner).world.digest()
    }
}

/// The past of a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct Replay {
    world: World,
    journal: Vec<Step>,
    done: usize,
}

impl Replay {
    /// Does the next step again; `false` at the end.
    pub fn advance(&mut self) -> bool {
        let Some(step) = self.journal.get(self.done) else { return false };
        self.world.apply(step);
        self.done += 1;
        true
    }

    /// Number of steps done.
    pub fn steps(&self) -> usize {
        self.done
    }

    /// Number of operations that a crash here may undo.
    pub fn unsynced(&self) -> usize {
        self.world.unsynced()
    }

    /// The disk that a crash at this step would have left.
    pub fn crashed(&self, crash: Crash) -> MemDisk {
        MemDisk::of(self.world.crashed(crash))
    }
}

impl Inner {
    fn is_dead(&self) -> bool {
        self.dead_from.is_some_and(|from| self.calls >= from)
    }

    /// Counts a call, and fails it if it is to.
    fn call(&mut self) -> io::Result<Option<usize>> {
        let (call, dead) = (self.calls, self.is_dead());
        self.calls += 1;
        if dead {
            return Err(io::Error::other("injected: the disk is dead"));
        }
        match self.faults.get(&call) {
            Some(Fault::Error(kind)) => Err(io::Error::new(*kind, "injected")),
            Some(Fault::ShortWrite(bytes)) => Ok(Some(*bytes)),
            None => Ok(None),
        }
    }

    fn step(&mut self, step: Step) {
        self.world.apply(&step);
        self.journal.push(step);
    }

    fn grow(&mut self, inode: u64, length: u64) -> io::Result<()> {
        let present = self.world.content(inode).map_or(0, |file| file.length);
        let used: u64 = self.world.files().map(|(_, bytes)| bytes).sum();
        match self.capacity {
            Some(capacity) if length > present && used + (length - present) > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn found(&self, path: &Path) -> io::Result<u64> {
        self.world.inode(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(dir) if !self.world.has_dir(dir) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        let inode = inner.found(path)?;
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        inner.parent_exists(path)?;
        inner.step(Step::Create(path.to_path_buf()));
        let inode = inner.found(path)?;
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        match inner.world.has_dir(dir) {
            true => Ok(inner.world.list(dir)),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        inner.found(from)?;
        inner.parent_exists(to)?;
        inner.step(Step::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        inner.found(path)?;
        inner.step(Step::Remove(path.to_path_buf()));
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        if !inner.world.has_dir(dir) {
            inner.step(Step::MakeDir(dir.to_path_buf()));
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        inner.step(Step::SyncDir(dir.to_path_buf()));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut inner = lock(&self.inner);
        inner.call()?;
        match inner.locks.insert(path.to_path_buf()) {
            true => Ok(Some(Box::new(MemLock { disk: self.clone(), path: path.to_path_buf() }))),
            false => Ok(None),
        }
    }
}

#[derive(Debug)]
struct MemLock {
    disk: MemDisk,
    path: PathBuf,
}

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        lock(&self.disk.inner).locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    inode: u64,
}

impl MemFile {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut inner = lock(&self.disk.inner);
        let dead = inner.is_dead();
        let called = inner.call();
        let written = match &called {
            Ok(short) => bytes.len().min(short.unwrap_or(usize::MAX)),
            Err(_) if dead => 0,
            Err(_) => bytes.len() / 2,
        };
        inner.grow(self.inode, offset + written as u64)?;
        if written > 0 {
            inner.step(Step::File(self.inode, FileOp::Write { offset, bytes: bytes[..written].into() }));
        }
        called.map(|_| written)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        inner.call()?;
        inner.grow(self.inode, length)?;
        inner.step(Step::File(self.inode, FileOp::Length(length)));
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = lock(&self.disk.inner);
        inner.call()?;
        Ok(inner.world.content(self.inode).map_or(0, |file| file.read(buffer, offset)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write(bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        let dead = inner.is_dead();
        let called = inner.call();
        match called {
            Ok(_) => inner.step(Step::Sync(self.inode)),
            Err(_) if dead => {}
            Err(_) => inner.step(Step::FailedSync(self.inode)),
        }
        called.map(|_| ())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match self.length()? < length {
            true => self.set_length(length),
            false => Ok(()),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.disk.inner).world.content(self.inode).map_or(0, |file| file.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &MemDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path)).ok()?;
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn only_what_was_synced_survives_for_certain() {
        let disk = MemDisk::new();
        let file = disk.create(Path::new("/a")).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(&disk.crashed(Crash::DropAll), "/a"), None, "its name was not synced");
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(b"two", 0).unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), b"two");
        assert_eq!(read(&disk.crashed(Crash::DropAll), "/a").unwrap(), b"one");
        assert_eq!(read(&disk.crashed(Crash::KeepAll), "/a").unwrap(), b"two");
        file.write_at(b"x", 1).unwrap();
        assert_eq!(read(&disk.crashed(Crash::KeepFirst(1)), "/a").unwrap(), b"two");
        assert_eq!(read(&disk.crashed(Crash::KeepFirst(2)), "/a").unwrap(), b"txo");
    }

    #[test]
    fn a_digest_is_of_what_can_be_read_and_of_nothing_else() {
        let disk = MemDisk::new();
        let empty = disk.digest();
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let made = disk.digest();
        file.set_len(10_000).unwrap();
        let long = disk.digest();
        file.write_at(&[0; 5000], 0).unwrap();
        assert_eq!(disk.digest(), long, "zeros read like what was never written");
        file.write_at(b"x", 4999).unwrap();
        let written = disk.digest();
        let crashes = [Crash::KeepAll, Crash::KeepFirst(1), Crash::KeepFirst(2), Crash::DropAll];
        assert_eq!(crashes.map(|crash| disk.crashed(crash).digest()), [written, long, long, made]);
        file.write_at(b"y", 4999).unwrap();
        let other = disk.digest();
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        let renamed = disk.digest();
        file.set_len(0).unwrap();
        assert_eq!(BTreeSet::from([empty, made, long, written, other, renamed, disk.digest()]).len(), 7);
        disk.rename(Path::new("/b"), Path::new("/a")).unwrap();
        assert_eq!(disk.digest(), made);
        disk.create_dir_all(Path::new("/c")).unwrap();
        assert_ne!(disk.digest(), made);
    }

    #[test]
    fn a_failed_sync_is_never_made_good_by_the_next() {
        let disk = MemDisk::new();
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(b"one", 0).unwrap();
        disk.fail_at(disk.calls(), Fault::Error(io::ErrorKind::Other));
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), b"one");
        assert_eq!(read(&disk.crashed(Crash::DropAll), "/a").unwrap(), b"");
    }

    #[test]
    fn a_full_disk_takes_only_what_fits_into_files_as_they_are() {
        let disk = MemDisk::new();
        disk.set_capacity(Some(10));
        let file = disk.create(Path::new("/a")).unwrap();
        file.allocate(10).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        let more = file.write_at(b"x", 10).unwrap_err();
        assert_eq!(more.kind(), io::ErrorKind::StorageFull);
    }
}
