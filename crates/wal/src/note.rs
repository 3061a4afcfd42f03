//! What a process that reads damage writes down for the next opening: how far the log was durable (FORMAT.md, "Noted
//! damage").
//!
//! The newest batch has no mark behind it until the next one is written or the log is idle. If a disk lost it, only the
//! process that wrote it knows that it was no torn tail; so it says so before anybody hears of the damage.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_core::{Bug, GroupId, LogId, MAX_INDEX, bug};

use crate::codec::{
    LOG_ID_BYTES, MAX_COUNTER, is_ordinary, log_id_at, put_log_id, put_u32, put_u64, put_u128, u32_at, u64_at, u128_at,
};
use crate::copies::VERSION;
use crate::disk::{Disk, read_up_to, write_all_at};
use crate::error::WalError;
use crate::frame::Position;
use crate::identity::Identity;

pub(crate) const NAME: &str = "damage-seen";
const MADE: &str = "damage-seen.tmp";
const MAGIC: [u8; 8] = *b"QRMNOTED";
const HEAD_BYTES: usize = 72;
const ROW_BYTES: usize = 8 + LOG_ID_BYTES;

/// What was durable when a read found damage. Nothing of it, if that could not be written down: then it says only that
/// everything is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DamageNote {
    /// Everything before this was durable.
    pub(crate) durable: Position,
    /// Where every group's log ended there.
    pub(crate) ends: BTreeMap<GroupId, LogId>,
    /// It said something, and nobody knows what: anything may have been durable.
    pub(crate) is_damaged: bool,
}

impl DamageNote {
    fn encode(&self, identity: &Identity) -> Vec<u8> {
        let end = HEAD_BYTES + self.ends.len() * ROW_BYTES;
        let mut bytes = vec![0; end + 4];
        bytes[0..8].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 8, VERSION);
        put_u128(&mut bytes, 16, identity.cluster.0);
        put_u128(&mut bytes, 32, identity.incarnation.0);
        put_u64(&mut bytes, 48, self.durable.segment);
        put_u64(&mut bytes, 56, self.durable.offset);
        put_u64(&mut bytes, 64, self.ends.len() as u64);
        for (i, (group, last)) in self.ends.iter().enumerate() {
            put_u64(&mut bytes, HEAD_BYTES + i * ROW_BYTES, group.0);
            put_log_id(&mut bytes, HEAD_BYTES + i * ROW_BYTES + 8, *last);
        }
        let checksum = crc32c::crc32c(&bytes[..end]);
        put_u32(&mut bytes, end, checksum);
        bytes
    }

    /// Reads a note. An empty one was made where there was no space for more. One that is not what was written is damaged: a
    /// note gets its name when it is whole.
    fn decode(path: &Path, bytes: &[u8], identity: &Identity) -> Result<Self, WalError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let damaged = || Self { is_damaged: true, ..Self::default() };
        let Some(end) = bytes.len().checked_sub(4).filter(|end| *end >= HEAD_BYTES) else { return Ok(damaged()) };
        if bytes[0..8] != MAGIC || u32_at(bytes, end) != crc32c::crc32c(&bytes[..end]) {
            return Ok(damaged());
        }
        let found = u32_at(bytes, 8);
        if found != VERSION {
            return Err(WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION });
        }
        let durable = Position { segment: u64_at(bytes, 48), offset: u64_at(bytes, 56) };
        let rows = bytes[HEAD_BYTES..end].chunks_exact(ROW_BYTES);
        let ends: BTreeMap<GroupId, LogId> = rows.map(|row| (GroupId(u64_at(row, 0)), log_id_at(row, 8))).collect();
        let whole = ends.len() as u64 == u64_at(bytes, 64) && HEAD_BYTES + ends.len() * ROW_BYTES == end;
        let sound = ends.values().all(|last| is_ordinary(*last) && last.index <= MAX_INDEX)
            && durable.segment < MAX_COUNTER
            && durable.offset <= MAX_COUNTER;
        if !whole || !sound {
            return Err(WalError::damaged(path, 0, "not a note of what was durable, though its checksum is right"));
        }
        let ours = (u128_at(bytes, 16), u128_at(bytes, 32)) == (identity.cluster.0, identity.incarnation.0);
        Ok(if ours { Self { durable, ends, is_damaged: false } } else { damaged() })
    }

    /// Refuses a note that says nobody knows what, where nothing is to be mended.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), WalError> {
        match self.is_damaged {
            true => Err(WalError::damaged(&dir.join(NAME), 0, "not a note of what was durable when damage was read")),
            false => Ok(()),
        }
    }

    /// Says which entries, that were durable, logs do not hold that end as `found` says.
    pub(crate) fn missing(&self, found: impl Fn(GroupId) -> LogId) -> Option<String> {
        let (group, last, end) =
            self.ends.iter().map(|(group, last)| (*group, *last, found(*group))).find(|(_, last, end)| end < last)?;
        Some(format!("group {group} was durable up to {last}, and ends at {end} here"))
    }
}

/// Notes damage that a read found, durably. What was durable is left out if there is no space for it.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, identity: &Identity, note: &DamageNote) -> Result<(), WalError> {
    if !bug(Bug::DiskNoteIsEmpty) && write_whole(disk, dir, &note.encode(identity)).is_ok() {
        return Ok(());
    }
    // An older note says more than an empty one.
    if !names(disk, dir)?.iter().any(|name| name == NAME) {
        let path = dir.join(NAME);
        disk.create(&path).map_err(WalError::io("create", &path))?;
    }
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

fn write_whole(disk: &dyn Disk, dir: &Path, bytes: &[u8]) -> Result<(), WalError> {
    let (made, path) = (dir.join(MADE), dir.join(NAME));
    let file = disk.create(&made).map_err(WalError::io("create", &made))?;
    write_all_at(&*file, bytes, 0).map_err(WalError::io("write", &made))?;
    file.sync_data().map_err(WalError::io("sync", &made))?;
    disk.rename(&made, &path).map_err(WalError::io("rename", &made))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, WalError> {
    disk.list(dir).map_err(WalError::io("list", dir))
}

/// What a process before noted, if it did. `identity` is the log's.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Option<DamageNote>, WalError> {
    if !names(disk, dir)?.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let path = dir.join(NAME);
    let file = disk.open(&path).map_err(WalError::io("open", &path))?;
    let length = file.length().map_err(WalError::io("read the length of", &path))?;
    let bytes = read_up_to(&*file, usize::try_from(length).unwrap_or(usize::MAX), 0);
    DamageNote::decode(&path, &bytes.map_err(WalError::io("read", &path))?, identity).map(Some)
}

/// The noted damage is dealt with, or was none.
pub(crate) fn forget(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
    for name in names(disk, dir)?.iter().filter(|name| [NAME, MADE].contains(&name.as_str())) {
        let path = dir.join(name);
        disk.remove(&path).map_err(WalError::io("remove", &path))?;
    }
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_core::{Incarnation, LeaderId};

    use super::*;
    use crate::fake::{Fault, MemDisk};

    fn note() -> DamageNote {
        let ends = BTreeMap::from([(GroupId(7), LogId::new(LeaderId::new(2, 3), 44))]);
        DamageNote { durable: Position { segment: 5, offset: 0x3120 }, ends, is_damaged: false }
    }

    /// FORMAT.md, "Noted damage".
    #[test]
    fn the_bytes_of_a_note() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"QRMNOTED\x01\0\0\0\0\0\0\0");
        expected.extend_from_slice(&0x0c0b_0a09_u128.to_le_bytes());
        expected.extend_from_slice(&0x1d1c_u128.to_le_bytes());
        for field in [5_u64, 0x3120, 1, 7, 2, 3, 44] {
            expected.extend_from_slice(&field.to_le_bytes());
        }
        expected.extend_from_slice(&0x2603_03ea_u32.to_le_bytes());
        assert_eq!(note().encode(&Identity::of_a_test()), expected);
        assert_eq!(DamageNote::decode(Path::new(NAME), &expected, &Identity::of_a_test()).unwrap(), note());
    }

    #[test]
    fn a_note_that_is_not_what_was_written_is_no_empty_one() {
        let whole = note().encode(&Identity::of_a_test());
        let damaged = DamageNote { is_damaged: true, ..DamageNote::default() };
        let empty = DamageNote::decode(Path::new(NAME), &[], &Identity::of_a_test()).unwrap();
        assert_eq!(empty, DamageNote::default());
        for length in 1..whole.len() {
            let found = DamageNote::decode(Path::new(NAME), &whole[..length], &Identity::of_a_test()).unwrap();
            assert_eq!(found, damaged, "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let found = DamageNote::decode(Path::new(NAME), &flipped, &Identity::of_a_test()).unwrap();
            assert_eq!(found, damaged, "byte {at}");
        }
        let other = Identity { incarnation: Incarnation(9), ..Identity::of_a_test() };
        assert_eq!(DamageNote::decode(Path::new(NAME), &whole, &other).unwrap(), damaged);
    }

    #[test]
    fn what_a_later_version_noted_is_refused_by_name() {
        let mut later = note().encode(&Identity::of_a_test());
        later[8] = 2;
        let end = later.len() - 4;
        let checksum = crc32c::crc32c(&later[..end]);
        put_u32(&mut later, end, checksum);
        let error = DamageNote::decode(Path::new(NAME), &later, &Identity::of_a_test()).unwrap_err();
        assert!(matches!(error, WalError::OtherVersion { found: 2, .. }), "{error}");
    }

    /// Whatever call fails: afterwards damage is noted, and never less than before.
    #[test]
    fn a_note_that_cannot_be_written_whole_is_an_empty_one() {
        let dir = Path::new("/data");
        let mut empty = 0;
        for call in 0..6 {
            for earlier in [None, Some(DamageNote { durable: Position { segment: 4, offset: 9 }, ..note() })] {
                let disk = MemDisk::new();
                disk.create_dir_all(dir).unwrap();
                disk.sync_dir(dir).unwrap();
                if let Some(earlier) = &earlier {
                    write(&disk, dir, &Identity::of_a_test(), earlier).unwrap();
                }
                disk.fail_at(disk.calls() + call, Fault::Error(std::io::ErrorKind::StorageFull));
                write(&disk, dir, &Identity::of_a_test(), &note()).unwrap();
                let disk: Arc<dyn Disk> = Arc::new(disk.crashed(crate::fake::Crash::DropAll));
                let found = read(&*disk, dir, &Identity::of_a_test()).unwrap().expect("damage is noted");
                empty += usize::from(found == DamageNote::default());
                assert!(found == note() || found == earlier.clone().unwrap_or_default(), "call {call}: {found:?}");
                forget(&*disk, dir).unwrap();
                assert_eq!(read(&*disk, dir, &Identity::of_a_test()).unwrap(), None);
            }
        }
        assert!(empty > 2, "{empty}");
    }
}
