//! A small record kept in two checksummed copies of one file, both durable before it counts.
//!
//! A crash can damage only the copy that was being written, and then the other one holds the record before or
//! after; damage to either copy at rest is repaired from the other at the next write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{MAX_COUNTER, put_u32, put_u64, u32_at, u64_at};
use crate::disk::{Disk, DiskFile, read_up_to, write_all_at};
use crate::error::WalError;

/// Bytes before the body: magic, version, body length, sequence.
const HEAD_BYTES: usize = 24;
/// Bytes after the body: the checksum.
const CHECKSUM_BYTES: usize = 4;
/// Version of the format of every file but snapshots.
pub(crate) const VERSION: u32 = 1;

/// The two copies.
#[derive(Debug)]
pub(crate) struct TwinFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    magic: [u8; 8],
    copy_bytes: usize,
    sequence: u64,
    /// After a failed write nobody knows what is durable, so nothing is written any more.
    failed: Option<WalError>,
}

/// What one copy holds.
enum Copy {
    Valid { sequence: u64, body: Vec<u8> },
    OtherVersion(u32),
    Damaged { stored: u32, computed: u32 },
}

impl TwinFile {
    /// Makes the file. It is not durable under its name before its directory is synced.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        magic: [u8; 8],
        copy_bytes: usize,
        body: &[u8],
    ) -> Result<Self, WalError> {
        let file = disk.create(path).map_err(WalError::io("create", path))?;
        write_all_at(&*file, &vec![0; copy_bytes * 2], 0).map_err(WalError::io("write", path))?;
        let mut twin = Self { path: path.to_path_buf(), file, magic, copy_bytes, sequence: 0, failed: None };
        twin.store(body)?;
        Ok(twin)
    }

    /// Opens the file and returns the newest record.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        magic: [u8; 8],
        copy_bytes: usize,
    ) -> Result<(Self, Vec<u8>), WalError> {
        let file = disk.open(path).map_err(WalError::io("open", path))?;
        let bytes = read_up_to(&*file, copy_bytes * 2, 0).map_err(WalError::io("read", path))?;
        let copies = [0, copy_bytes].map(|at| {
            let copy = bytes.get(at..(at + copy_bytes).min(bytes.len())).unwrap_or_default();
            parse(copy, magic)
        });
        let newest = match copies {
            [Copy::Valid { sequence: a, body: one }, Copy::Valid { sequence: b, body: other }] => {
                if a >= b {
                    (a, one)
                } else {
                    (b, other)
                }
            }
            [Copy::Valid { sequence, body }, _] | [_, Copy::Valid { sequence, body }] => (sequence, body),
            [Copy::OtherVersion(found), _] | [_, Copy::OtherVersion(found)] => {
                return Err(WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION });
            }
            [Copy::Damaged { stored, computed }, Copy::Damaged { .. }] => {
                return Err(WalError::checksum(path, 0, "both copies are damaged", stored, computed));
            }
        };
        let (sequence, body) = newest;
        let twin = Self { path: path.to_path_buf(), file, magic, copy_bytes, sequence, failed: None };
        Ok((twin, body))
    }

    /// Largest body that fits.
    pub(crate) fn capacity(&self) -> usize {
        self.copy_bytes - HEAD_BYTES - CHECKSUM_BYTES
    }

    /// Replaces the record; durable in both copies when this returns.
    pub(crate) fn store(&mut self, body: &[u8]) -> Result<(), WalError> {
        assert!(body.len() <= self.capacity(), "the record fits into a copy");
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.sequence += 1;
        let end = HEAD_BYTES + body.len();
        let mut copy = vec![0; end + CHECKSUM_BYTES];
        copy[0..8].copy_from_slice(&self.magic);
        put_u32(&mut copy, 8, VERSION);
        put_u32(&mut copy, 12, body.len() as u32);
        put_u64(&mut copy, 16, self.sequence);
        copy[HEAD_BYTES..end].copy_from_slice(body);
        let checksum = crc32c::crc32c(&copy[..end]);
        put_u32(&mut copy, end, checksum);
        for at in [0, self.copy_bytes as u64] {
            let written = write_all_at(&*self.file, &copy, at)
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

fn parse(copy: &[u8], magic: [u8; 8]) -> Copy {
    if copy.len() < HEAD_BYTES + CHECKSUM_BYTES {
        return Copy::Damaged { stored: 0, computed: 0 };
    }
    let end = HEAD_BYTES.saturating_add(u32_at(copy, 12) as usize).min(copy.len() - CHECKSUM_BYTES);
    let (stored, computed) = (u32_at(copy, end), crc32c::crc32c(&copy[..end]));
    if copy[0..8] != magic || stored != computed || u64_at(copy, 16) > MAX_COUNTER {
        return Copy::Damaged { stored, computed };
    }
    match u32_at(copy, 8) {
        VERSION => Copy::Valid { sequence: u64_at(copy, 16), body: copy[HEAD_BYTES..end].to_vec() },
        found => Copy::OtherVersion(found),
    }
}
