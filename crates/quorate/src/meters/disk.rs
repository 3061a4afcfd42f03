//! A disk whose syncs are timed.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use quorate_wal::{Disk, DiskFile, DiskLock};

use super::HostMeters;

/// Another disk, whose syncs are timed.
#[derive(Debug)]
pub(crate) struct TimedDisk {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) meters: Arc<HostMeters>,
}

#[derive(Debug)]
struct TimedFile {
    file: Arc<dyn DiskFile>,
    meters: Arc<HostMeters>,
}

impl TimedDisk {
    fn timed(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(TimedFile { file, meters: Arc::clone(&self.meters) })
    }
}

impl Disk for TimedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.timed(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.timed(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
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

impl DiskFile for TimedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn read_once_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_once_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, length: u64) {
        self.file.will_read(offset, length);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.file.write_at(bytes, offset)?;
        self.meters.written_bytes.add(written as u64);
        Ok(written)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let written = self.file.write_vectored_at(buffers, offset)?;
        self.meters.written_bytes.add(written as u64);
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.file.sync_data();
        self.meters.fsync.enter(began.elapsed(), 1);
        synced
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
