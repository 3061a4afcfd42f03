//! Votes: two files with a sector a group, both durable before a vote counts (law 9).
//!
//! The space is written when a group is opened, so a vote can be kept on a full disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{Bug, ClusterId, GroupId, LeaderId, LogId, NodeId, Vote, bug};

use crate::codec::{
    MAX_COUNTER, is_ordinary, log_id_at, put_log_id, put_u32, put_u64, put_u128, u32_at, u64_at, u128_at,
};
use crate::disk::{Disk, DiskFile, read_up_to, write_all_at};
use crate::error::WalError;
use crate::twin::VERSION;

/// Bytes of a slot: a disk writes a sector whole or not at all.
const SLOT_BYTES: usize = 512;
const SLOT_MAGIC: u32 = u32::from_le_bytes(*b"QVOT");
/// Where the checksum stands in a slot; everything before it is covered.
const CHECKSUM_AT: usize = SLOT_BYTES - 4;
/// Slots that the files grow by: 32 KiB.
const GROW_SLOTS: usize = 64;

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
    files: [Arc<dyn DiskFile>; 2],
    /// Slots that exist in both files.
    slots: usize,
    place: BTreeMap<GroupId, usize>,
    records: BTreeMap<GroupId, VoteRecord>,
}

/// What a slot holds, as its two copies tell.
type Chosen = (GroupId, ClusterId, VoteRecord);

/// What one copy of a slot holds.
enum Slot {
    Blank,
    Valid(GroupId, ClusterId, VoteRecord),
    Damaged { stored: u32, computed: u32 },
}

impl VoteFiles {
    /// Makes both files, durable but for their names.
    pub(crate) fn create(disk: &dyn Disk, paths: [PathBuf; 2]) -> Result<Self, WalError> {
        let mut made = Vec::new();
        for path in &paths {
            made.push(disk.create(path).map_err(WalError::io("create", path))?);
        }
        let files = [made[0].clone(), made[1].clone()];
        let mut votes = Self { paths, files, slots: 0, place: BTreeMap::new(), records: BTreeMap::new() };
        votes.grow()?;
        Ok(votes)
    }

    /// Reads both files and makes them equal, durably, so that a vote that is used is in both.
    pub(crate) fn open(disk: &dyn Disk, paths: [PathBuf; 2], cluster: ClusterId) -> Result<Self, WalError> {
        let (votes, rewritten) = Self::read(disk, paths, cluster)?;
        for file in 0..2 {
            // Everything is written again, not only what differs: what a killed process wrote may be in the page
            // cache only, and after a sync that failed the cache may claim that it is clean.
            write_all_at(&*votes.files[file], &rewritten, 0).map_err(WalError::io("write", &votes.paths[file]))?;
            votes.sync(file)?;
        }
        Ok(votes)
    }

    /// Reads both files and changes nothing; gives what both should hold, too.
    pub(crate) fn read(disk: &dyn Disk, paths: [PathBuf; 2], cluster: ClusterId) -> Result<(Self, Vec<u8>), WalError> {
        let mut opened = Vec::new();
        for path in &paths {
            let file = disk.open(path).map_err(WalError::io("open", path))?;
            let length = file.length().map_err(WalError::io("read the length of", path))?;
            let bytes = read_up_to(&*file, usize::try_from(length).unwrap_or(usize::MAX), 0)
                .map_err(WalError::io("read", path))?;
            opened.push((file, bytes));
        }
        let slots = opened.iter().map(|(_, bytes)| bytes.len() / SLOT_BYTES).max().unwrap_or(0);
        let files = [opened[0].0.clone(), opened[1].0.clone()];
        let mut votes = Self { paths, files, slots: 0, place: BTreeMap::new(), records: BTreeMap::new() };
        let mut rewritten = vec![0; slots * SLOT_BYTES];
        for slot in 0..slots {
            let read = |file: usize| {
                let bytes: &[u8] = &opened[file].1;
                parse(bytes.get(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES).unwrap_or(&[]))
            };
            let Some((group, found, record)) = votes.choose(slot, read(0), read(1))? else { continue };
            let at = slot * SLOT_BYTES;
            if found != cluster {
                return Err(WalError::damaged(&votes.paths[0], at as u64, format!("the vote is of cluster {found}")));
            }
            if votes.place.insert(group, slot).is_some() {
                return Err(WalError::damaged(&votes.paths[0], at as u64, format!("group {group} has two slots")));
            }
            votes.records.insert(group, record);
            rewritten[at..at + SLOT_BYTES].copy_from_slice(&encode(group, cluster, record));
        }
        votes.slots = slots;
        Ok((votes, rewritten))
    }

    /// Decides what a slot holds from its two copies.
    fn choose(&self, slot: usize, a: Slot, b: Slot) -> Result<Option<Chosen>, WalError> {
        let at = (slot * SLOT_BYTES) as u64;
        match (a, b) {
            (Slot::Valid(ga, ca, a), Slot::Valid(gb, _, b)) => {
                if ga != gb {
                    return Err(WalError::damaged(&self.paths[1], at, "the two copies are of different groups"));
                }
                Ok(Some((ga, ca, if a.sequence >= b.sequence { a } else { b })))
            }
            (Slot::Valid(g, c, r), _) | (_, Slot::Valid(g, c, r)) => Ok(Some((g, c, r))),
            // Of a damaged and a blank one: the first vote of a group, torn. The second copy is written only after the
            // first is durable, so nobody has heard of it.
            (Slot::Blank | Slot::Damaged { .. }, Slot::Blank) => Ok(None),
            (Slot::Blank | Slot::Damaged { .. }, Slot::Damaged { stored, computed }) => {
                let what = "no copy of a vote is whole";
                Err(WalError::checksum(&self.paths[1], at, what, stored, computed))
            }
        }
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
        let zeros = vec![0; GROW_SLOTS * SLOT_BYTES];
        for (file, path) in self.files.iter().zip(&self.paths) {
            let written = write_all_at(&**file, &zeros, (self.slots * SLOT_BYTES) as u64);
            written.map_err(|error| match crate::error::is_no_space(&error) {
                true => WalError::Full { path: path.clone() },
                false => WalError::io("write", path)(error),
            })?;
            file.sync_data().map_err(WalError::io("sync", path))?;
        }
        self.slots += GROW_SLOTS;
        Ok(())
    }

    /// Makes records durable in both files: the second is touched only after the first is safe.
    pub(crate) fn write(
        &mut self,
        cluster: ClusterId,
        records: &BTreeMap<GroupId, VoteRecord>,
    ) -> Result<(), WalError> {
        let copies = if bug(Bug::DiskVotesInOneCopy) { 1 } else { 2 };
        for file in 0..copies {
            for (group, record) in records {
                let Some(slot) = self.place.get(group) else {
                    return Err(WalError::Invalid { what: "a vote of a group that was not opened" });
                };
                self.write_slot(file, *slot, &encode(*group, cluster, *record))?;
            }
            self.sync(file)?;
        }
        self.records.extend(records.iter().map(|(group, record)| (*group, *record)));
        Ok(())
    }

    fn write_slot(&self, file: usize, slot: usize, bytes: &[u8]) -> Result<(), WalError> {
        write_all_at(&*self.files[file], bytes, (slot * SLOT_BYTES) as u64)
            .map_err(WalError::io("write", &self.paths[file]))
    }

    fn sync(&self, file: usize) -> Result<(), WalError> {
        self.files[file].sync_data().map_err(WalError::io("sync", &self.paths[file]))
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

fn encode(group: GroupId, cluster: ClusterId, record: VoteRecord) -> Vec<u8> {
    let mut slot = vec![0; SLOT_BYTES];
    put_u32(&mut slot, 0, SLOT_MAGIC);
    put_u32(&mut slot, 4, VERSION);
    put_u64(&mut slot, 8, group.0);
    put_u128(&mut slot, 16, cluster.0);
    put_u64(&mut slot, 32, record.sequence);
    put_u64(&mut slot, 40, record.vote.leader_id.term);
    put_u64(&mut slot, 48, record.vote.leader_id.node_id.0);
    put_u64(&mut slot, 56, u64::try_from(record.promised_lease.as_nanos()).unwrap_or(u64::MAX));
    slot[64] = u8::from(record.vote.committed);
    put_log_id(&mut slot, 72, record.promised_end);
    let checksum = crc32c::crc32c(&slot[..CHECKSUM_AT]);
    put_u32(&mut slot, CHECKSUM_AT, checksum);
    slot
}

fn parse(slot: &[u8]) -> Slot {
    // Rule: one byte that changed where nothing was written is no vote. A record has more, whatever becomes of one of them.
    if slot.iter().filter(|byte| **byte != 0).count() <= 1 {
        return Slot::Blank;
    }
    if slot.len() < SLOT_BYTES {
        return Slot::Damaged { stored: 0, computed: 0 };
    }
    let (stored, computed) = (u32_at(slot, CHECKSUM_AT), crc32c::crc32c(&slot[..CHECKSUM_AT]));
    if stored != computed || u32_at(slot, 0) != SLOT_MAGIC || u32_at(slot, 4) != VERSION {
        return Slot::Damaged { stored, computed };
    }
    if u64_at(slot, 32) > MAX_COUNTER || u64_at(slot, 40) == u64::MAX || !is_ordinary(log_id_at(slot, 72)) {
        return Slot::Damaged { stored, computed };
    }
    let leader_id = LeaderId { term: u64_at(slot, 40), node_id: NodeId(u64_at(slot, 48)) };
    let record = VoteRecord {
        vote: Vote { leader_id, committed: slot[64] == 1 },
        promised_lease: Duration::from_nanos(u64_at(slot, 56)),
        promised_end: log_id_at(slot, 72),
        sequence: u64_at(slot, 32),
    };
    Slot::Valid(GroupId(u64_at(slot, 8)), ClusterId(u128_at(slot, 16)), record)
}
