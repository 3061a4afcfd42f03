//! Segments of the log.

use std::sync::OnceLock;

use quorate_wal::Disk;
use quorate_wal::fake::MemDisk;

use crate::dir::{self, INCARNATION};
use crate::outcome::Outcome;
use crate::parts::{self, File};
use crate::repair as mend;

/// A directory without its segments.
fn template() -> &'static MemDisk {
    static DISK: OnceLock<MemDisk> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = dir::copy(&dir::lived()[0]);
        for File { number, .. } in dir::segments(&disk) {
            disk.remove(&dir::segment_path(number)).expect("a disk in memory does not fail");
        }
        dir::copy(&disk)
    })
}

/// Segments of a log: opened with damage refused and with damage mended, read, written to, and opened again.
pub fn log(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let disk = dir::copy(template());
    for File { number, bytes } in parts::split(bytes) {
        dir::put(&disk, &dir::segment_path(number), &bytes);
    }
    dir::check(&disk, &mut outcome);
    outcome
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let whole: Vec<Vec<File>> = dir::lived().iter().map(dir::segments).collect();
    // Without the end of the log, as a crash leaves it; and the last segment alone, as purging leaves it.
    let last = whole.iter().filter_map(|files| files.last().cloned()).map(|file| vec![file]);
    let front = whole.iter().filter_map(|files| files.split_last()).map(|(_, front)| front.to_vec());
    let far = whole.first().into_iter().flatten().map(|file| File { number: u64::MAX, bytes: file.bytes.clone() });
    let all = whole.iter().cloned().chain(last).chain(front).chain([far.collect()]);
    all.map(|files: Vec<File>| parts::join(&files)).collect()
}

pub(super) fn repair(bytes: &mut [u8]) {
    mend::segments(bytes, INCARNATION);
}
