//! [`LossyDisk`]: files on the real disk, of which a killed process loses what it did not sync.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile, DiskLock, RealDisk, write_all_at};
use crate::handle::lock;

/// The real file system, but what was written to a file stays in this process until it is synced. `kill -9` does not
/// lose the system's page cache; with this disk it loses what a power cut would.
///
/// Names, lengths and reservations go to the real disk at once.
#[derive(Clone, Debug, Default)]
pub struct LossyDisk {
    disk: RealDisk,
    lies: bool,
    /// Every file opened so far, by path: all handles of a file see the same unsynced bytes.
    open: Arc<Mutex<BTreeMap<PathBuf, Arc<LossyFile>>>>,
}

impl LossyDisk {
    /// A disk that keeps its word: what was synced survives.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that says "synced" and keeps nothing: everything acknowledged since the process started is lost when it
    /// is killed. A test that kills processes must fail on it; otherwise it proves nothing.
    pub fn that_lies() -> Self {
        Self { lies: true, ..Self::default() }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let file = Arc::new(LossyFile { file, lies: self.lies, unsynced: Mutex::new(Vec::new()) });
        lock(&self.open).insert(path.to_path_buf(), file.clone());
        file
    }
}

impl Disk for LossyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = lock(&self.open).get(path) {
            return Ok(file.clone());
        }
        Ok(self.wrap(path, self.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.create(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut open = lock(&self.open);
        if let Some(file) = open.remove(from) {
            open.insert(to.to_path_buf(), file);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.open).remove(path);
        self.disk.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct LossyFile {
    file: Arc<dyn DiskFile>,
    lies: bool,
    /// Writes since the last sync, in order: offset and bytes.
    unsynced: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl DiskFile for LossyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let unsynced = lock(&self.unsynced);
        let mut read = self.file.read_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for (at, bytes) in unsynced.iter() {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            if from >= to {
                continue;
            }
            let target = (from - offset) as usize..(to - offset) as usize;
            if target.start > read {
                buffer[read..target.start].fill(0);
            }
            read = read.max(target.end);
            buffer[target].copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        lock(&self.unsynced).push((offset, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write_at(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.lies {
            return Ok(());
        }
        let mut unsynced = lock(&self.unsynced);
        for (offset, bytes) in unsynced.iter() {
            write_all_at(&*self.file, bytes, *offset)?;
        }
        unsynced.clear();
        self.file.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn length(&self) -> io::Result<u64> {
        let written = lock(&self.unsynced).iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
        Ok(self.file.length()?.max(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsynced_bytes_are_seen_here_and_by_nobody_else() {
        let dir = std::env::temp_dir().join(format!("quorate-lossy-{}", std::process::id()));
        let path = dir.join("file");
        let disk = LossyDisk::new();
        disk.create_dir_all(&dir).unwrap();
        let file = disk.create(&path).unwrap();
        file.write_at(b"hello", 3).unwrap();
        let mut bytes = [9; 8];
        assert_eq!(disk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap(), 8);
        assert_eq!(&bytes, b"\0\0\0hello");
        assert_eq!(std::fs::read(&path).unwrap(), b"", "a kill now would lose it");
        file.sync_data().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0\0hello");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Names are the file system's; what a file holds unsynced goes with it under its new name.
    #[test]
    fn a_renamed_file_keeps_what_is_unsynced_and_a_removed_one_is_gone() {
        let dir = std::env::temp_dir().join(format!("quorate-lossy-names-{}", std::process::id()));
        let (path, other) = (dir.join("file"), dir.join("other"));
        let disk = LossyDisk::new();
        disk.create_dir_all(&dir).unwrap();
        let file = disk.create(&path).unwrap();
        file.allocate(4).unwrap();
        let buffers = [IoSlice::new(b"one"), IoSlice::new(b", two")];
        assert_eq!(file.write_vectored_at(&buffers, 0).unwrap(), 8);
        assert_eq!(file.length().unwrap(), 8, "what is unsynced counts");
        disk.rename(&path, &other).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), ["other"]);
        let mut bytes = [0; 8];
        assert_eq!(disk.open(&other).unwrap().read_at(&mut bytes, 0).unwrap(), 8);
        assert_eq!(&bytes, b"one, two");
        assert_eq!(std::fs::read(&other).unwrap(), [0; 4], "a kill now would lose it");
        file.sync_data().unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"one, two");
        file.set_len(3).unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"one");
        disk.remove(&other).unwrap();
        assert!(disk.open(&other).is_err());
        let held = disk.lock(&dir.join("lock")).unwrap();
        assert!(held.is_some() && disk.lock(&dir.join("lock")).unwrap().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_that_was_synced() {
        let dir = std::env::temp_dir().join(format!("quorate-lossy-lies-{}", std::process::id()));
        let path = dir.join("file");
        let disk = LossyDisk::that_lies();
        disk.create_dir_all(&dir).unwrap();
        let file = disk.create(&path).unwrap();
        file.write_at(b"hello", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "a kill now would lose it, against its word");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
