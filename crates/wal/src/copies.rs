//! A small record kept in four checksummed copies of one file, all durable before it counts.
//!
//! Each copy is a write of its own, synced before the next: a crash damages at most one. An older record must never pass
//! for the newest, nor does one write that a disk loses, or puts elsewhere in the file, make it so (docs/design/001,
//! "Records"); a copy that is damaged at rest is written anew with the next record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{Incarnation, NodeId};

use crate::codec::{AT_ITS_END, MAX_COUNTER, put_u32, put_u64, u32_at, u64_at};
use crate::disk::{Disk, DiskFile, read_up_to, write_all_at};
use crate::error::WalError;

/// Bytes before the body: magic, version, body length, sequence.
const HEAD_BYTES: usize = 24;
/// Bytes after the body: the checksum.
const CHECKSUM_BYTES: usize = 4;
/// Version of the format of every file but snapshots.
pub(crate) const VERSION: u32 = 1;
const COPIES: usize = 4;
/// Copies that must be whole.
const WHOLE: usize = 2;

/// From one copy to the next. A copy takes at most half of it, so that a write of either file, wherever it goes, touches
/// no more than one.
const PITCH: usize = 128 << 10;
/// Largest body.
pub(crate) const BODY_BYTES: usize = PITCH / 2 - HEAD_BYTES - CHECKSUM_BYTES;

/// Where the copies are.
fn places() -> impl Iterator<Item = usize> {
    (0..COPIES).map(|copy| copy * PITCH)
}

/// By what a copy is known to be of this record, and not of another directory's that a disk put here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) magic: [u8; 8],
    /// What checksums start from.
    pub(crate) seed: u32,
    /// Where the seed is everybody's: of a body, which node and disk it is of.
    pub(crate) owner: fn(&[u8]) -> Option<(NodeId, Incarnation)>,
}

/// The copies.
#[derive(Debug)]
pub(crate) struct CopiedRecord {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    mark: Mark,
    sequence: u64,
    /// After a failed write nobody knows what is durable, so nothing is written any more.
    failed: Option<WalError>,
}

/// What one copy holds.
enum Copy {
    Whole { sequence: u64, body: Vec<u8> },
    OtherVersion(u32),
    Damaged { stored: u32, computed: u32 },
}

impl CopiedRecord {
    /// Makes the file. It is not durable under its name before its directory is synced.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, mark: Mark, body: &[u8]) -> Result<Self, WalError> {
        let file = disk.create(path).map_err(WalError::io("create", path))?;
        write_all_at(&*file, &vec![0; COPIES * PITCH], 0).map_err(WalError::io("write", path))?;
        let mut record = Self { path: path.to_path_buf(), file, mark, sequence: 0, failed: None };
        record.store(body)?;
        Ok(record)
    }

    /// Opens the file and returns the newest record.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, mark: Mark) -> Result<(Self, Vec<u8>), WalError> {
        let file = disk.open(path).map_err(WalError::io("open", path))?;
        let bytes = read_up_to(&*file, COPIES * PITCH, 0).map_err(WalError::io("read", path))?;
        let mut whole: Vec<(u64, Vec<u8>)> = Vec::new();
        let (mut other_version, mut damage) = (None, None);
        for at in places() {
            let copy = bytes.get(at..(at + PITCH / 2).min(bytes.len())).unwrap_or_default();
            match parse(copy, &mark) {
                Copy::Whole { sequence, body } => whole.push((sequence, body)),
                Copy::OtherVersion(found) => other_version = Some(found),
                Copy::Damaged { stored, computed } => damage = Some((at as u64, stored, computed)),
            }
        }
        // Rule: a record is certain only beside another copy that is whole, and of the same directory: an older one must
        // never pass for it, nor a stray one of another directory.
        let owners: Vec<_> = whole.iter().map(|(_, body)| (mark.owner)(body)).collect();
        let has_another = |at: usize| owners.iter().filter(|owner| **owner == owners[at]).count() >= WHOLE;
        let certain: Vec<usize> = (0..whole.len()).filter(|at| has_another(*at)).collect();
        let newest = certain.iter().copied().max_by_key(|at| whole[*at].0);
        let newest = newest.filter(|newest| certain.iter().all(|at| owners[*at] == owners[*newest]));
        match newest.map(|at| whole.swap_remove(at)) {
            Some((sequence, body)) => Ok((Self { path: path.to_path_buf(), file, mark, sequence, failed: None }, body)),
            None if whole.len() >= WHOLE => {
                Err(WalError::damaged(path, 0, "the copies are of more than one directory, or too few of any"))
            }
            None => Err(match (other_version, damage) {
                (Some(found), _) => WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION },
                (None, Some((at, stored, computed))) => {
                    WalError::checksum(path, at, "too few copies are whole", stored, computed)
                }
                (None, None) => WalError::damaged(path, 0, "too few copies are whole"),
            }),
        }
    }

    /// Replaces the record; durable in all copies when this returns.
    pub(crate) fn store(&mut self, body: &[u8]) -> Result<(), WalError> {
        assert!(body.len() <= BODY_BYTES, "the record fits into a copy");
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // Rule: nothing is written that is refused when it is read.
        if self.sequence + 1 >= MAX_COUNTER {
            return Err(AT_ITS_END);
        }
        self.sequence += 1;
        let end = HEAD_BYTES + body.len();
        let mut copy = vec![0; end + CHECKSUM_BYTES];
        copy[0..8].copy_from_slice(&self.mark.magic);
        put_u32(&mut copy, 8, VERSION);
        put_u32(&mut copy, 12, body.len() as u32);
        put_u64(&mut copy, 16, self.sequence);
        copy[HEAD_BYTES..end].copy_from_slice(body);
        let checksum = crc32c::crc32c_append(self.mark.seed, &copy[..end]);
        put_u32(&mut copy, end, checksum);
        for at in places() {
            let written = write_all_at(&*self.file, &copy, at as u64)
                .map_err(WalError::io("write", &self.path))
                .and_then(|()| self.file.sync_data().map_err(WalError::io("sync", &self.path)));
            if let Err(error) = written {
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }
}

fn parse(copy: &[u8], mark: &Mark) -> Copy {
    if copy.len() < HEAD_BYTES + CHECKSUM_BYTES {
        return Copy::Damaged { stored: 0, computed: 0 };
    }
    let end = HEAD_BYTES.saturating_add(u32_at(copy, 12) as usize).min(copy.len() - CHECKSUM_BYTES);
    let (stored, computed) = (u32_at(copy, end), crc32c::crc32c_append(mark.seed, &copy[..end]));
    if copy[0..8] != mark.magic || stored != computed || u64_at(copy, 16) >= MAX_COUNTER {
        return Copy::Damaged { stored, computed };
    }
    match u32_at(copy, 8) {
        VERSION => Copy::Whole { sequence: u64_at(copy, 16), body: copy[HEAD_BYTES..end].to_vec() },
        found => Copy::OtherVersion(found),
    }
}
