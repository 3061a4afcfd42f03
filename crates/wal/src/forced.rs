//! Recovering a lost quorum from a stopped node's directory (law 16): looking at it, and forcing a membership on it.
//!
//! The log is not written again, and a crash leaves the directory as it was or recovered. What is to be done is put
//! into the file `recovery` first. Then one write of `identity` makes the directory another voter of another recovery:
//! before it nothing has happened, after it the directory is recovered, whatever is left to do. What is left, a vote and
//! an entry for each group, every opening does before anything else, until it is done.

use std::path::Path;
use std::sync::{Arc, Mutex};

use quorate_core::{
    ClusterId, ForcedMembership, GroupId, Incarnation, Instant, LogIds, SnapshotMeta, Span, Tail, Vote, WriteId,
};
use quorate_wire::{BatchBuilder, Batches, EntryKind, decode_membership, encode_membership};

use crate::codec::{LOG_ID_BYTES, is_ordinary, log_id_at, put_log_id, u32_at, u64_at, u128_at};
use crate::copies::VERSION;
use crate::disk::{Disk, DiskLock, read_up_to, write_all_at};
use crate::error::WalError;
use crate::handle::{GroupState, WalHandle, WalWrite, lock, read_membership};
use crate::identity::{Identity, IdentityFile};
use crate::note;
use crate::open::{WalCore, vote_paths};
use crate::options::WalOptions;
use crate::recover::recover;
use crate::snapshot::SnapshotStore;
use crate::turn::Wake;
use crate::vote_file::VoteFiles;

const MAGIC: [u8; 8] = *b"QRMRECOV";
/// Magic, version, length of the body.
const HEAD_BYTES: usize = 16;
/// Cluster before and after, incarnation, number of groups.
const BODY_HEAD_BYTES: usize = 56;
/// Group, time, log id before, log id, length of the membership.
const GROUP_HEAD_BYTES: usize = 16 + 2 * LOG_ID_BYTES + 4;
/// Largest file that is read: far more groups than a directory has.
const MAX_FILE_BYTES: usize = 1 << 30;

/// What a stopped node's directory holds.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Whose it is.
    pub identity: Identity,
    /// Its groups, by id, with the end of the newest snapshot of each. A log that a crash left behind its snapshot is
    /// shown as the next start will see it.
    pub groups: Vec<(GroupId, GroupState, Option<SnapshotMeta>)>,
}

/// A membership to force on a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedGroup {
    /// The group.
    pub group: GroupId,
    /// The time stamped into the entry, unless the log is ahead of it: nanoseconds since the Unix epoch.
    pub time: u64,
    /// The vote and the entry.
    pub forced: ForcedMembership,
}

/// What makes a directory the only voter of a recovered cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedRecovery {
    /// The cluster that the directory belongs to.
    pub before: ClusterId,
    /// The cluster that it belongs to from then on: the same, of another recovery.
    pub after: ClusterId,
    /// The directory's incarnation from then on; the memberships name it.
    pub incarnation: Incarnation,
    /// What is forced on each group.
    pub groups: Vec<ForcedGroup>,
}

/// Looks at the directory of a stopped node. Changes nothing in it but leftovers of what was being made when it stopped.
///
/// # Errors
/// [`WalError::NoDirectory`], [`WalError::Locked`] if the node runs, [`WalError::Corrupt`], or what the disk says.
pub fn inspect(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Inspection, WalError> {
    let _lock = lock_existing(&**disk, dir)?;
    let identity = IdentityFile::open(&**disk, &dir.join("identity"))?.identity();
    if let Some(recovery) = pending(&**disk, dir, &identity)? {
        // Recovered, but for what the next opening does: let it.
        drop(_lock);
        finish_by_opening(disk, dir, &identity, &recovery)?;
        return inspect(disk, dir);
    }
    let note = note::read(&**disk, dir, &identity.of_log())?;
    note.as_ref().map_or(Ok(()), |note| note.check(dir))?;
    let recovery = recover(&**disk, &dir.join("wal"), &identity.of_log(), note.as_ref())?;
    let (votes, _) = VoteFiles::read(&**disk, vote_paths(dir), &identity.of_log())?;
    let snapshots = SnapshotStore::open(Arc::clone(disk), dir, identity.cluster.base(), identity.starts.boot())?;
    let mut logs = recovery.groups;
    for group in votes.groups() {
        logs.entry(group).or_default();
    }
    let mut groups = Vec::new();
    for (group, log) in logs {
        let record = votes.record(group);
        let mut memberships = Vec::new();
        for place in &log.memberships {
            memberships.push((place.id, read_membership(group, place)?));
        }
        let mut found = GroupState {
            vote: record.vote,
            promised_end: record.promised_end.max(log.ids.last()),
            log: log.ids,
            memberships,
            promised_lease: record.promised_lease,
        };
        let snapshot = snapshots.latest(group)?.map(|file| file.meta().clone());
        if let Some(end) = snapshot.as_ref().map(|meta| meta.last_log_id)
            && !found.log.holds(end)
            && found.log.purged().index <= end.index
        {
            found.log = LogIds::after(end);
            found.memberships.clear();
        }
        groups.push((group, found, snapshot));
    }
    Ok(Inspection { identity, groups })
}

/// Forces memberships on the directory of a stopped node. When this returns it is done; after a crash the directory is
/// as before, or the next opening finishes it.
///
/// # Errors
/// As [`inspect`]; [`WalError::Invalid`] if the directory is not, or no longer, what the recovery was planned for.
pub fn force_recovery(disk: &Arc<dyn Disk>, dir: &Path, recovery: &ForcedRecovery) -> Result<(), WalError> {
    let found = make_durable(disk, dir, recovery)?;
    for ForcedGroup { group, forced, .. } in &recovery.groups {
        let end = found.groups.iter().find(|(id, ..)| id == group).map(|(_, state, _)| state.log.last());
        if end != Some(forced.prev) && found.identity.cluster == recovery.before {
            return Err(WalError::Invalid { what: "the log is not the one that the recovery was planned for" });
        }
    }
    let locked = lock_existing(&**disk, dir)?;
    let mut file = IdentityFile::open(&**disk, &dir.join("identity"))?;
    let identity = file.identity();
    if identity.cluster != recovery.before || recovery.before.recovered() != Some(recovery.after) {
        return Err(WalError::Invalid {
            what: "the directory is not of the cluster that the recovery was planned for",
        });
    }
    write_pending(&**disk, dir, recovery)?;
    // From here on the directory is recovered.
    file.store_recovery(recovery.after, recovery.incarnation)?;
    drop(locked);
    finish_by_opening(disk, dir, &file.identity(), recovery)
}

/// What a killed process wrote may be in the system's memory only. The recovery goes on from the log's end as it was
/// found, so that has to outlive a power failure before anything is decided.
fn make_durable(disk: &Arc<dyn Disk>, dir: &Path, recovery: &ForcedRecovery) -> Result<Inspection, WalError> {
    let found = inspect(disk, dir)?;
    finish_by_opening(disk, dir, &found.identity, recovery)?;
    inspect(disk, dir)
}

/// Opens and closes the directory. The token of that start comes from what is random already, the disk's next incarnation,
/// and the count of the start: what a recovery writes is a function of what it was given, and nobody meets a start that
/// never speaks.
fn finish_by_opening(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    identity: &Identity,
    recovery: &ForcedRecovery,
) -> Result<(), WalError> {
    let random = (recovery.incarnation.0 >> 64) as u64 ^ recovery.incarnation.0 as u64;
    let token = random ^ identity.starts.boot().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let options = WalOptions { start_token: Some(token.max(1)), ..WalOptions::new(identity.node) };
    let (core, handle) = WalCore::open(Arc::clone(disk), dir, options)?;
    drop(handle);
    core.close(Instant::ORIGIN)
}

fn lock_existing(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, WalError> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(WalError::io("list", dir)(error)),
    };
    if !names.iter().any(|name| name == "identity") {
        return Err(WalError::NoDirectory { dir: dir.to_path_buf() });
    }
    let path = dir.join("LOCK");
    let locked = disk.lock(&path).map_err(WalError::io("lock", &path))?;
    locked.ok_or_else(|| WalError::Locked { dir: dir.to_path_buf() })
}

// ---- the file `recovery` ----

fn write_pending(disk: &dyn Disk, dir: &Path, recovery: &ForcedRecovery) -> Result<(), WalError> {
    let (made, path) = (dir.join("recovery.tmp"), dir.join("recovery"));
    let file = disk.create(&made).map_err(WalError::io("create", &made))?;
    write_all_at(&*file, &encode(recovery), 0).map_err(WalError::io("write", &made))?;
    file.sync_data().map_err(WalError::io("sync", &made))?;
    disk.rename(&made, &path).map_err(WalError::io("rename", &made))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

/// What an interrupted recovery left to do. One that was interrupted before the identity was written never happened:
/// its file is removed.
pub(crate) fn pending(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Option<ForcedRecovery>, WalError> {
    let path = dir.join("recovery");
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(WalError::io("open", &path)(error)),
    };
    let bytes = read_up_to(&*file, MAX_FILE_BYTES.min(length_of(&*file, &path)?), 0);
    let recovery = decode(&path, &bytes.map_err(WalError::io("read", &path))?)?;
    if (identity.cluster, identity.incarnation) == (recovery.after, recovery.incarnation) {
        return Ok(Some(recovery));
    }
    if identity.cluster == recovery.before {
        forget(disk, dir)?;
        return Ok(None);
    }
    Err(WalError::damaged(&path, HEAD_BYTES as u64, "the recovery is of another cluster than the directory"))
}

fn length_of(file: &dyn crate::disk::DiskFile, path: &Path) -> Result<usize, WalError> {
    let length = file.length().map_err(WalError::io("read the length of", path))?;
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

/// Removes the file: everything in it is done, or never happened.
pub(crate) fn forget(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
    let path = dir.join("recovery");
    disk.remove(&path).map_err(WalError::io("remove", &path))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

fn encode(recovery: &ForcedRecovery) -> Vec<u8> {
    let mut body = Vec::new();
    for id in [recovery.before.0, recovery.after.0, recovery.incarnation.0] {
        body.extend_from_slice(&id.to_le_bytes());
    }
    body.extend_from_slice(&(recovery.groups.len() as u64).to_le_bytes());
    for ForcedGroup { group, time, forced } in &recovery.groups {
        body.extend_from_slice(&group.0.to_le_bytes());
        body.extend_from_slice(&time.to_le_bytes());
        for id in [forced.prev, forced.log_id] {
            let mut bytes = [0; LOG_ID_BYTES];
            put_log_id(&mut bytes, 0, id);
            body.extend_from_slice(&bytes);
        }
        let mut membership = Vec::new();
        encode_membership(&forced.membership, &mut membership);
        body.extend_from_slice(&(membership.len() as u32).to_le_bytes());
        body.extend_from_slice(&membership);
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(path: &Path, bytes: &[u8]) -> Result<ForcedRecovery, WalError> {
    let damaged = |at: usize, what: &str| WalError::damaged(path, at as u64, what);
    let (covered, stored) = bytes
        .split_at_checked(bytes.len().saturating_sub(4))
        .filter(|(covered, _)| covered.len() >= HEAD_BYTES + BODY_HEAD_BYTES)
        .ok_or_else(|| damaged(0, "the file is shorter than its version says"))?;
    let (stored, computed) = (u32_at(stored, 0), crc32c::crc32c(covered));
    if covered[..8] != MAGIC || stored != computed {
        return Err(WalError::checksum(path, 0, "the file is damaged", stored, computed));
    }
    if u32_at(covered, 8) != VERSION {
        let found = u32_at(covered, 8);
        return Err(WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION });
    }
    let body = &covered[HEAD_BYTES..];
    let count = u64_at(body, 48);
    let (mut at, mut groups) = (BODY_HEAD_BYTES, Vec::new());
    for _ in 0..count {
        let head = body.get(at..at + GROUP_HEAD_BYTES).ok_or_else(|| damaged(at, "a group is cut"))?;
        at += GROUP_HEAD_BYTES;
        let length = u32_at(head, GROUP_HEAD_BYTES - 4) as usize;
        let end = at.saturating_add(length);
        let membership = body.get(at..end).ok_or_else(|| damaged(at, "a membership is cut"))?;
        let membership = decode_membership(membership).map_err(|error| damaged(at, &error.to_string()))?;
        at = end;
        let (prev, log_id) = (log_id_at(head, 16), log_id_at(head, 16 + LOG_ID_BYTES));
        if !is_ordinary(prev) || !is_ordinary(log_id) || prev.index.checked_add(1) != Some(log_id.index) {
            return Err(damaged(at, "the forced entry does not follow the log that is named"));
        }
        let forced = ForcedMembership { vote: Vote::uncommitted(log_id.leader_id), prev, log_id, membership };
        groups.push(ForcedGroup { group: GroupId(u64_at(head, 0)), time: u64_at(head, 8), forced });
    }
    Ok(ForcedRecovery {
        before: ClusterId(u128_at(body, 0)),
        after: ClusterId(u128_at(body, 16)),
        incarnation: Incarnation(u128_at(body, 32)),
        groups,
    })
}

// ---- what every opening finishes ----

/// Writes the votes and entries that are not yet there. Doing it again changes nothing.
pub(crate) fn finish(
    core: &mut WalCore,
    handle: &WalHandle,
    dir: &Path,
    recovery: &ForcedRecovery,
) -> Result<(), WalError> {
    let mut waits = 0_usize;
    let told: Arc<Mutex<Vec<Result<(), WalError>>>> = Arc::default();
    for ForcedGroup { group, time, forced } in &recovery.groups {
        let heard = Arc::clone(&told);
        let on_durable = move |_, result| lock(&heard).push(result);
        let found = handle.open_group(*group, Arc::new(on_durable))?;
        if found.log.holds(forced.log_id) {
            continue;
        }
        for (number, write) in (1..).zip(writes(handle, *group, &found, *time, forced, recovery.after)?) {
            handle.submit(*group, WriteId(number), write);
            waits += 1;
        }
    }
    loop {
        let wake = core.turn(Instant::ORIGIN);
        for result in std::mem::take(&mut *lock(&told)) {
            result?;
            waits -= 1;
        }
        match wake {
            _ if waits == 0 => return Ok(()),
            Wake::Again => {}
            Wake::At(_) | Wake::Idle => return Err(WalError::Full { path: dir.to_path_buf() }),
        }
    }
}

fn writes(
    handle: &WalHandle,
    group: GroupId,
    found: &GroupState,
    time: u64,
    forced: &ForcedMembership,
    cluster: ClusterId,
) -> Result<Vec<WalWrite>, WalError> {
    let mut writes = vec![WalWrite::Vote(forced.vote)];
    if found.log.last() != forced.prev {
        let snapshot = handle.snapshots().latest(group)?.map(|file| file.meta().last_log_id);
        if snapshot != Some(forced.prev) {
            return Err(WalError::Invalid { what: "the log is not the one that the file `recovery` was made for" });
        }
        // A crash came between an installed snapshot and the log's reset to it.
        writes.push(WalWrite::Reset { to: forced.prev, tail: Tail::Discard });
    }
    let mut payload = Vec::new();
    encode_membership(&forced.membership, &mut payload);
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::Membership, &payload);
    let time = time.max(last_time(handle, group, &found.log)?);
    let (leader_id, index) = (forced.log_id.leader_id, forced.log_id.index);
    let batch = builder.seal(cluster, group, leader_id, index, time);
    let batch = batch.ok_or(WalError::Invalid { what: "the forced membership is too large for an entry" })?;
    writes.push(WalWrite::Append([batch].into_iter().collect::<Batches>()));
    Ok(writes)
}

/// The time of the log's last entry: time never goes back along a log.
fn last_time(handle: &WalHandle, group: GroupId, log: &LogIds) -> Result<u64, WalError> {
    let last = log.last();
    let prev = last.index.checked_sub(1).and_then(|index| log.at(index));
    let Some(prev) = prev.filter(|_| last != log.purged()) else { return Ok(0) };
    let found = handle.read(group, Span { prev, last }, 1)?;
    Ok(found.iter().flatten().flat_map(|batch| batch.iter()).map(|entry| entry.time).max().unwrap_or(0))
}
