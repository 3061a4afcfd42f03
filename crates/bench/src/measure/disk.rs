//! What the machine's disk can do: the durable limit, measured without anything of ours.

use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, pwritev};
use serde::{Deserialize, Serialize};

use super::{Percentiles, Recorder};

/// How long the disk is looked at before and after a durable table.
const PROBE: Duration = Duration::from_millis(1500);
/// What a probe writes before each sync.
const PROBE_BYTES: usize = 4096;
/// A file that is written over and over: as long as a segment of the log.
const FILE_BYTES: u64 = 64 << 20;
/// Most buffers that one `pwritev` takes (`IOV_MAX` of Linux).
const MAX_BUFFERS: usize = 1024;

/// How long `fdatasync` took, after an overwrite of 4 KiB, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SyncLatency(pub(crate) Percentiles);

/// A file whose blocks are all there: writing it over changes no metadata, as in a log that recycles its segments.
pub(crate) struct RecycledFile {
    file: File,
    at: u64,
}

impl RecycledFile {
    /// Makes it, and writes it once.
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        let mut recycled = Self::allocate(path)?;
        let block = vec![0_u8; 1 << 20];
        while recycled.at < FILE_BYTES {
            recycled.write(&[IoSlice::new(&block)])?;
        }
        recycled.file.sync_all().map_err(|error| format!("cannot sync {}: {error}", path.display()))?;
        recycled.at = 0;
        Ok(recycled)
    }

    /// Only has its blocks reserved: to write one for the first time changes metadata, which the sync has to journal.
    pub(crate) fn allocate(path: &Path) -> Result<Self, String> {
        let wrong = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(wrong)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(wrong)?;
        fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).map_err(|error| wrong(error.into()))?;
        file.sync_all().map_err(wrong)?;
        Ok(Self { file, at: 0 })
    }

    /// Writes these bytes behind the last ones, from the front again at the end, and waits until they are durable.
    pub(crate) fn write_and_sync(&mut self, buffers: &[IoSlice<'_>]) -> Result<(), String> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.at + length as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.write(buffers)?;
        fdatasync(&self.file).map_err(|error| format!("fdatasync: {error}"))
    }

    fn write(&mut self, buffers: &[IoSlice<'_>]) -> Result<(), String> {
        for some in buffers.chunks(MAX_BUFFERS) {
            let length: usize = some.iter().map(|buffer| buffer.len()).sum();
            let written = loop {
                match pwritev(&self.file, some, self.at) {
                    Err(Errno::INTR) => {}
                    other => break other.map_err(|error| format!("pwritev: {error}"))?,
                }
            };
            if written != length {
                return Err(format!("a write of {length} bytes ended after {written}"));
            }
            self.at += length as u64;
        }
        Ok(())
    }
}

/// Overwrites and syncs for as long as `until` says, and records how long each took.
pub(crate) fn sync_loop(
    file: &mut RecycledFile,
    bytes: usize,
    end: Instant,
    recorder: &Recorder,
) -> Result<(), String> {
    let block = vec![7_u8; bytes];
    while Instant::now() < end {
        let begun = Instant::now();
        file.write_and_sync(&[IoSlice::new(&block)])?;
        recorder.record(0, begun.elapsed());
    }
    Ok(())
}

/// Looks at the disk below `dir`.
pub(crate) fn probe(dir: &Path) -> Result<SyncLatency, String> {
    let path = dir.join(format!("probe-{}", std::process::id()));
    let mut file = RecycledFile::create(&path)?;
    let recorder = Recorder::new()?;
    sync_loop(&mut file, PROBE_BYTES, Instant::now() + PROBE, &recorder)?;
    fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    recorder.percentiles().map(SyncLatency).ok_or_else(|| format!("no fdatasync ended within {PROBE:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_file_is_written_from_the_front_again() {
        let dir = std::env::temp_dir().join(format!("quorate-bench-disk-{}", std::process::id()));
        let mut file = RecycledFile::create(&dir.join("file")).unwrap();
        let block = vec![1_u8; 40 << 20];
        file.write_and_sync(&[IoSlice::new(&block)]).unwrap();
        file.write_and_sync(&[IoSlice::new(&block)]).unwrap();
        assert_eq!(file.at, 40 << 20);
        assert_eq!(fs::metadata(dir.join("file")).unwrap().len(), FILE_BYTES);
        fs::remove_dir_all(&dir).unwrap();
    }
}
