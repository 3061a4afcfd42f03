//! Votes: a slot a group in two files, each with a copy of every slot; all durable before a vote counts (law 9).
//!
//! The space is written when a group is opened, so a vote can be kept on a full disk. A copy says which slot it is of, and
//! its checksum which disk: one that a disk wrote elsewhere is known there for what it is (docs/design/001, "Votes").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{Bug, GroupId, LeaderId, LogId, NodeId, Vote, bug};

use crate::codec::{
    AT_ITS_END, MAX_COUNTER, is_ordinary, log_id_at, put_log_id, put_u32, put_u64, put_u128, u32_at, u64_at, u128_at,
};
use crate::copies::VERSION;
use crate::disk::{Disk, DiskFile, read_up_to, write_all_at};
use crate::error::WalError;
use crate::identity::Identity;
use crate::segment::seed_of;

/// Bytes of a copy: a disk writes a sector whole or not at all.
const COPY_BYTES: usize = 512;
const COPY_MAGIC: u32 = u32::from_le_bytes(*b"QVOT");
/// Where the checksum stands in a copy; everything before it is covered.
const CHECKSUM_AT: usize = COPY_BYTES - 4;
/// Copies of a slot in each file, each by a write of its own.
const COPIES: usize = 2;
/// Places of a slot, of all in both files, that must be readable.
const READABLE: usize = 2;
/// Slots that the files grow by; their first copies stand together.
const CHAPTER_SLOTS: usize = 64;
const CHAPTER_SECTORS: usize = CHAPTER_SLOTS * COPIES;

/// What a group's slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct VoteRecord {
    pub(crate) vote: Vote,
    /// The longest lease that may have been promised.
    pub(crate) promised_lease: Duration,
    /// The last entry that may have been acknowledged before damage took the end of the log; zero: nothing was lost.
    pub(crate) promised_end: LogId,
    /// Which of two copies is newer.
    pub(crate) sequence: u64,
}

/// Both files.
#[derive(Debug)]
pub(crate) struct VoteFiles {
    paths: [PathBuf; 2],
    /// Either may be gone until it is written anew.
    files: [Option<Arc<dyn DiskFile>>; 2],
    /// Slots that exist in both files.
    slots: usize,
    place: BTreeMap<GroupId, usize>,
    records: BTreeMap<GroupId, VoteRecord>,
}

/// What stands in a sector.
enum Found {
    Blank,
    Whole(Copy),
    Damaged { stored: u32, computed: u32 },
}

/// A copy that is as it was written, wherever it stands.
struct Copy {
    slot: usize,
    group: GroupId,
    record: VoteRecord,
}

/// What both files say of a slot.
#[derive(Default)]
struct Slot {
    newest: Option<(GroupId, VoteRecord)>,
    /// Copies in their place, or places that were never written.
    readable: usize,
    /// The last of its places where neither is.
    damage: Option<WalError>,
}

/// The slot of which a copy is to stand in a sector.
fn slot_at(sector: usize) -> usize {
    sector / CHAPTER_SECTORS * CHAPTER_SLOTS + sector % CHAPTER_SLOTS
}

/// Where a copy of a slot is to stand.
fn sector_of(slot: usize, copy: usize) -> usize {
    slot / CHAPTER_SLOTS * CHAPTER_SECTORS + copy * CHAPTER_SLOTS + slot % CHAPTER_SLOTS
}

impl VoteFiles {
    /// Makes both files, durable but for their names.
    pub(crate) fn create(disk: &dyn Disk, paths: [PathBuf; 2]) -> Result<Self, WalError> {
        let mut made = Vec::new();
        for path in &paths {
            made.push(disk.create(path).map_err(WalError::io("create", path))?);
        }
        let files = [Some(made[0].clone()), Some(made[1].clone())];
        let mut votes = Self { paths, files, slots: 0, place: BTreeMap::new(), records: BTreeMap::new() };
        votes.grow()?;
        Ok(votes)
    }

    /// Reads both files and makes them equal, durably, so that a vote that is used is in both. One that is gone is made
    /// anew, and first: until it is whole the other one stays as it is. No two copies of a vote are of one write, here as
    /// when it was new: the disk may miss one. `identity` is the log's.
    pub(crate) fn open(disk: &dyn Disk, paths: [PathBuf; 2], identity: &Identity) -> Result<Self, WalError> {
        let (mut votes, rewritten) = Self::read(disk, paths, identity)?;
        let order = if votes.files[1].is_none() { [1, 0] } else { [0, 1] };
        for file in order {
            let path = votes.paths[file].clone();
            let is_new = votes.files[file].is_none();
            if is_new {
                votes.files[file] = Some(disk.create(&path).map_err(WalError::io("create", &path))?);
            }
            // Everything is written again, not only what differs: what a killed process wrote may be in the page
            // cache only, and after a sync that failed the cache may claim that it is clean.
            for (number, half) in rewritten.chunks(CHAPTER_SLOTS * COPY_BYTES).enumerate() {
                let at = (number * CHAPTER_SLOTS * COPY_BYTES) as u64;
                write_all_at(&**votes.file(file)?, half, at).map_err(WalError::io("write", &path))?;
            }
            votes.sync(file)?;
            if let Some(dir) = path.parent().filter(|_| is_new) {
                disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
            }
        }
        Ok(votes)
    }

    /// Reads both files and changes nothing; gives what both should hold, too.
    pub(crate) fn read(disk: &dyn Disk, paths: [PathBuf; 2], identity: &Identity) -> Result<(Self, Vec<u8>), WalError> {
        let mut opened = Vec::new();
        for path in &paths {
            let file = match disk.open(path) {
                Ok(file) => file,
                // The same as one that holds nothing: all its copies are lost.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    opened.push((None, Vec::new()));
                    continue;
                }
                Err(error) => return Err(WalError::io("open", path)(error)),
            };
            let length = file.length().map_err(WalError::io("read the length of", path))?;
            let bytes = read_up_to(&*file, usize::try_from(length).unwrap_or(usize::MAX), 0)
                .map_err(WalError::io("read", path))?;
            opened.push((Some(file), bytes));
        }
        let [(one, a), (other, b)] = [&opened[0], &opened[1]];
        let files = [one.clone(), other.clone()];
        let mut votes = Self { paths, files, slots: 0, place: BTreeMap::new(), records: BTreeMap::new() };
        let slots = votes.survey([a, b], identity)?;
        votes.slots = slots.len();
        let mut rewritten = vec![0; slots.len() * COPIES * COPY_BYTES];
        for (slot, Slot { newest, readable, damage }) in slots.into_iter().enumerate() {
            // Rule: a vote is certain only beside enough copies that can be read: an older one must never pass for it.
            if let (Some(error), true) = (damage, readable < READABLE) {
                return Err(error);
            }
            let Some((group, record)) = newest else { continue };
            votes.records.insert(group, record);
            for copy in 0..COPIES {
                let at = sector_of(slot, copy) * COPY_BYTES;
                rewritten[at..at + COPY_BYTES].copy_from_slice(&encode(slot, group, identity, record));
            }
        }
        Ok((votes, rewritten))
    }

    /// What all sectors say of every slot, and which group has which.
    fn survey(&mut self, files: [&Vec<u8>; 2], identity: &Identity) -> Result<Vec<Slot>, WalError> {
        // A slot is used only once both files have its whole chapter.
        let chapters = files.map(|bytes| bytes.len() / (CHAPTER_SECTORS * COPY_BYTES)).into_iter().max().unwrap_or(0);
        if chapters == 0 {
            return Err(WalError::damaged(&self.paths[1], 0, "neither file of votes has room for one"));
        }
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(chapters * CHAPTER_SLOTS, Slot::default);
        for (file, bytes) in files.into_iter().enumerate() {
            for sector in 0..chapters * CHAPTER_SECTORS {
                let at = sector * COPY_BYTES;
                let place = &mut slots[slot_at(sector)];
                let path = &self.paths[file];
                match parse(bytes.get(at..at + COPY_BYTES).unwrap_or_default(), identity) {
                    Found::Blank => place.readable += 1,
                    Found::Damaged { stored, computed } => {
                        let what = "too few copies of a vote are whole";
                        place.damage = Some(WalError::checksum(path, at as u64, what, stored, computed));
                    }
                    Found::Whole(copy) => {
                        let slot = if bug(Bug::DiskVoteSlotAnywhere) { slot_at(sector) } else { copy.slot };
                        if slot == slot_at(sector) {
                            place.readable += 1;
                        } else {
                            // It took the place of another slot's, and tells all the same what was promised.
                            let what = format!("the copy of a vote is of slot {slot}");
                            place.damage = Some(WalError::damaged(path, at as u64, what));
                        }
                        let error = |what: String| WalError::damaged(path, at as u64, what);
                        let Some(owner) = slots.get_mut(slot) else {
                            return Err(error(format!("the copy of a vote is of slot {slot}, which no file has")));
                        };
                        if self.place.insert(copy.group, slot).is_some_and(|other| other != slot) {
                            return Err(error(format!("group {} has two slots", copy.group)));
                        }
                        match &mut owner.newest {
                            Some((group, _)) if *group != copy.group => {
                                return Err(error(format!("slot {slot} is of two groups, {group} and {}", copy.group)));
                            }
                            Some((_, newest)) if newest.sequence >= copy.record.sequence => {}
                            newest => *newest = Some((copy.group, copy.record)),
                        }
                    }
                }
            }
        }
        Ok(slots)
    }

    /// The groups that ever voted.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.records.keys().copied()
    }

    /// The record of a group; all zero if it never voted.
    pub(crate) fn record(&self, group: GroupId) -> VoteRecord {
        self.records.get(&group).copied().unwrap_or_default()
    }

    /// Gives a group its place, making the files larger if need be, so that its votes never need space.
    pub(crate) fn reserve(&mut self, group: GroupId) -> Result<(), WalError> {
        if self.place.contains_key(&group) {
            return Ok(());
        }
        let taken: std::collections::BTreeSet<usize> = self.place.values().copied().collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or(taken.len());
        if slot >= self.slots {
            self.grow()?;
        }
        self.place.insert(group, slot);
        Ok(())
    }

    /// Writes zeros, not only a reservation: writing them later must need nothing from the file system.
    fn grow(&mut self) -> Result<(), WalError> {
        let zeros = vec![0; CHAPTER_SECTORS * COPY_BYTES];
        for (number, path) in self.paths.iter().enumerate() {
            let file = self.file(number)?;
            let written = write_all_at(&**file, &zeros, (self.slots * COPIES * COPY_BYTES) as u64);
            written.map_err(|error| match crate::error::is_no_space(&error) {
                true => WalError::Full { path: path.clone() },
                false => WalError::io("write", path)(error),
            })?;
            file.sync_data().map_err(WalError::io("sync", path))?;
        }
        self.slots += CHAPTER_SLOTS;
        Ok(())
    }

    /// Makes records durable in both files: the second is touched only after the first is safe. `identity` is the log's.
    pub(crate) fn write(
        &mut self,
        identity: &Identity,
        records: &BTreeMap<GroupId, VoteRecord>,
    ) -> Result<(), WalError> {
        // Rule: nothing is written that is refused when it is read.
        if records.values().any(|record| record.sequence >= MAX_COUNTER) {
            return Err(AT_ITS_END);
        }
        let (files, copies) = if bug(Bug::DiskVotesInOneCopy) { (1, 1) } else { (2, COPIES) };
        for file in 0..files {
            for (group, record) in records {
                let Some(slot) = self.place.get(group) else {
                    return Err(WalError::Invalid { what: "a vote of a group that was not opened" });
                };
                let bytes = encode(*slot, *group, identity, *record);
                for copy in 0..copies {
                    let at = (sector_of(*slot, copy) * COPY_BYTES) as u64;
                    let written = write_all_at(&**self.file(file)?, &bytes, at);
                    written.map_err(WalError::io("write", &self.paths[file]))?;
                }
            }
            self.sync(file)?;
        }
        self.records.extend(records.iter().map(|(group, record)| (*group, *record)));
        Ok(())
    }

    fn sync(&self, file: usize) -> Result<(), WalError> {
        self.file(file)?.sync_data().map_err(WalError::io("sync", &self.paths[file]))
    }

    fn file(&self, file: usize) -> Result<&Arc<dyn DiskFile>, WalError> {
        self.files[file].as_ref().ok_or_else(|| WalError::damaged(&self.paths[file], 0, "the file of votes is gone"))
    }
}

/// Whether a vote file holds anything but zeros: a directory with votes and no identity was damaged.
pub(crate) fn holds_votes(disk: &dyn Disk, path: &Path) -> Result<bool, WalError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(WalError::io("open", path)(error)),
    };
    let length = file.length().map_err(WalError::io("read the length of", path))?;
    let bytes =
        read_up_to(&*file, usize::try_from(length).unwrap_or(usize::MAX), 0).map_err(WalError::io("read", path))?;
    Ok(bytes.iter().any(|byte| *byte != 0))
}

fn encode(slot: usize, group: GroupId, identity: &Identity, record: VoteRecord) -> Vec<u8> {
    let mut copy = vec![0; COPY_BYTES];
    put_u32(&mut copy, 0, COPY_MAGIC);
    put_u32(&mut copy, 4, VERSION);
    put_u64(&mut copy, 8, group.0);
    put_u128(&mut copy, 16, identity.cluster.0);
    put_u64(&mut copy, 32, record.sequence);
    put_u64(&mut copy, 40, record.vote.leader_id.term);
    put_u64(&mut copy, 48, record.vote.leader_id.node_id.0);
    put_u64(&mut copy, 56, u64::try_from(record.promised_lease.as_nanos()).unwrap_or(u64::MAX));
    copy[64] = u8::from(record.vote.committed);
    put_log_id(&mut copy, 72, record.promised_end);
    put_u64(&mut copy, 96, slot as u64);
    let checksum = checksum_of(&copy, identity);
    put_u32(&mut copy, CHECKSUM_AT, checksum);
    copy
}

fn checksum_of(copy: &[u8], identity: &Identity) -> u32 {
    crc32c::crc32c_append(seed_of(identity.cluster, identity.incarnation), &copy[..CHECKSUM_AT])
}

fn parse(copy: &[u8], identity: &Identity) -> Found {
    if copy.len() < COPY_BYTES {
        return Found::Damaged { stored: 0, computed: 0 };
    }
    // Rule: one byte that changed where nothing was written is no vote. A record has more, whatever becomes of one of them.
    if copy.iter().filter(|byte| **byte != 0).count() <= 1 {
        return Found::Blank;
    }
    let (stored, computed) = (u32_at(copy, CHECKSUM_AT), checksum_of(copy, identity));
    if stored != computed || u32_at(copy, 0) != COPY_MAGIC || u32_at(copy, 4) != VERSION {
        return Found::Damaged { stored, computed };
    }
    if u64_at(copy, 32) >= MAX_COUNTER || u64_at(copy, 40) == u64::MAX || !is_ordinary(log_id_at(copy, 72)) {
        return Found::Damaged { stored, computed };
    }
    if u128_at(copy, 16) != identity.cluster.0 {
        return Found::Damaged { stored, computed };
    }
    let leader_id = LeaderId { term: u64_at(copy, 40), node_id: NodeId(u64_at(copy, 48)) };
    let record = VoteRecord {
        vote: Vote { leader_id, committed: copy[64] == 1 },
        promised_lease: Duration::from_nanos(u64_at(copy, 56)),
        promised_end: log_id_at(copy, 72),
        sequence: u64_at(copy, 32),
    };
    let slot = usize::try_from(u64_at(copy, 96)).unwrap_or(usize::MAX);
    Found::Whole(Copy { slot, group: GroupId(u64_at(copy, 8)), record })
}

#[cfg(test)]
mod tests {
    use quorate_core::Incarnation;

    use super::*;

    fn record() -> VoteRecord {
        VoteRecord {
            vote: Vote { leader_id: LeaderId::new(0x31, 2), committed: true },
            promised_lease: Duration::from_nanos(0x41),
            promised_end: LogId::new(LeaderId::new(0x21, 3), 0x51),
            sequence: 0x61,
        }
    }

    /// FORMAT.md, "Votes".
    #[test]
    fn the_bytes_of_a_vote() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"QVOT\x01\0\0\0\x07\0\0\0\0\0\0\0");
        expected.extend_from_slice(&0x0c0b_0a09_u128.to_le_bytes());
        for field in [0x61_u64, 0x31, 2, 0x41, 1, 0x21, 3, 0x51, 70] {
            expected.extend_from_slice(&field.to_le_bytes());
        }
        expected.resize(508, 0);
        expected.extend_from_slice(&0x8b42_28a9_u32.to_le_bytes());
        assert_eq!(encode(70, GroupId(7), &Identity::of_a_test(), record()), expected);
        assert!(
            matches!(parse(&expected, &Identity::of_a_test()), Found::Whole(Copy { slot: 70, group: GroupId(7), record: found })
            if found == record())
        );
        let other = Identity { incarnation: Incarnation(0x1d1d), ..Identity::of_a_test() };
        assert!(matches!(parse(&expected, &other), Found::Damaged { .. }), "another disk's");
    }

    #[test]
    fn every_slot_has_places_of_its_own() {
        let mut taken = std::collections::BTreeSet::new();
        for slot in 0..3 * CHAPTER_SLOTS {
            for copy in 0..COPIES {
                let sector = sector_of(slot, copy);
                assert!(taken.insert(sector) && slot_at(sector) == slot, "copy {copy} of slot {slot}");
            }
        }
        assert_eq!(taken.last(), Some(&(3 * CHAPTER_SECTORS - 1)));
        assert_eq!([sector_of(0, 1), sector_of(63, 1), sector_of(64, 0), sector_of(70, 1)], [64, 127, 128, 198]);
    }
}
