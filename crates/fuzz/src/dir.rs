//! Data directories on disks in memory: valid ones to take files from, and hostile ones to be opened.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quorate_core::{GroupId, Incarnation, Instant, LeaderIdMode, NodeId, Span, Starts, Tail, Vote, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{
    Disk, ForcedGroup, ForcedRecovery, GroupState, MIN_SEGMENT_BYTES, OnDamage, Wake, WalCore, WalError, WalHandle,
    WalOptions, WalWrite,
};
use quorate_wire::{Batch, Batches, EntryKind};

use crate::outcome::Outcome;
use crate::parts::File;
use crate::samples::{CLUSTER, GROUP, batch, batches, leader, log_id, membership, meta};

/// The incarnation of the sample disk.
pub(crate) const INCARNATION: u128 = 77;
/// Of every start.
const TOKEN: u64 = 78;
/// Groups that are looked at in a hostile directory.
const GROUPS: [GroupId; 3] = [GROUP, GroupId(2), GroupId(3)];
/// Most turns of the log for one write.
const MAX_TURNS: usize = 16;

pub(crate) fn dir() -> &'static Path {
    Path::new("/data")
}

fn options(on_damage: OnDamage) -> WalOptions {
    WalOptions {
        segment_bytes: MIN_SEGMENT_BYTES,
        incarnation: Some(Incarnation(INCARNATION)),
        start_token: Some(TOKEN),
        created: Some(1),
        on_damage,
        ..WalOptions::new(NodeId(1))
    }
}

pub(crate) fn open(disk: &MemDisk, on_damage: OnDamage) -> Result<(WalCore, WalHandle), WalError> {
    WalCore::open(Arc::new(disk.clone()), dir(), options(on_damage))
}

/// A peer's starts.
fn started(times: u64) -> Starts {
    (1..=times).fold(Starts::default(), |starts, token| starts.next(token))
}

/// Turns until nothing is left to do.
fn settle(core: &mut WalCore) {
    for _ in 0..MAX_TURNS {
        if core.turn(Instant::ORIGIN) != Wake::Again {
            return;
        }
    }
}

/// A directory as a node left it: two groups with entries, memberships, votes, a truncation, a purge, a snapshot.
fn lived_in(batches_of_filler: u64) -> MemDisk {
    let disk = MemDisk::new();
    let (mut core, handle) = open(&disk, OnDamage::Refuse).expect("a blank directory is formatted");
    handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).expect("a blank node learns its cluster");
    for group in [GROUP, GroupId(2)] {
        drop(handle.open_group(group, Arc::new(|_, _| {})).expect("a group is opened"));
    }
    let mut number = 0;
    let mut write = |core: &mut WalCore, op| {
        number += 1;
        handle.submit(GROUP, WriteId(number), op);
        settle(core);
    };
    write(&mut core, WalWrite::Vote(Vote::uncommitted(leader(1))));
    write(&mut core, WalWrite::PromiseLease(Duration::from_millis(300)));
    let first = batch(1, 1, &[(EntryKind::Blank, Vec::new())]).expect("it has an entry");
    write(&mut core, WalWrite::Append([first].into_iter().collect()));
    write(&mut core, WalWrite::Append(batches()));
    write(&mut core, WalWrite::Truncate { after: log_id(2, 6) });
    for index in 7..7 + batches_of_filler {
        let filler = batch(3, index, &[(EntryKind::Command, vec![index as u8; 1200])]).expect("it has an entry");
        write(&mut core, WalWrite::Append([filler].into_iter().collect()));
    }
    let mut snapshot = handle.snapshots().create(GROUP, &meta()).expect("a snapshot is begun");
    snapshot.write_all(b"content").expect("it is written");
    drop(snapshot.commit().expect("it is durable"));
    handle.purge(GROUP, log_id(1, 2));
    settle(&mut core);
    write(&mut core, WalWrite::Reset { to: log_id(1, 3), tail: Tail::Keep });
    let _ = handle.record_peer(NodeId(2), Incarnation(5), &started(3)).expect("a peer is noted");
    core.close(Instant::ORIGIN).expect("the log is closed");
    disk
}

/// Lengths of logs in the corpus: one segment, and several.
const FILLERS: [u64; 3] = [0, 2, 9];

/// Directories as nodes left them.
pub(crate) fn lived() -> &'static [MemDisk] {
    static DISKS: OnceLock<Vec<MemDisk>> = OnceLock::new();
    DISKS.get_or_init(|| FILLERS.map(lived_in).to_vec())
}

/// A copy that nobody else has.
pub(crate) fn copy(disk: &MemDisk) -> MemDisk {
    disk.crashed(Crash::KeepAll)
}

/// A recovery makes fewer calls of the disk.
const MOST_CALLS: u64 = 400;

/// The file `recovery` of a recovery that was stopped right after its decision, and that directory's `identity`.
pub(crate) fn recovering() -> Option<(Vec<u8>, Vec<u8>)> {
    let before = lived().first()?;
    let shared: Arc<dyn Disk> = Arc::new(copy(before));
    let found = quorate_wal::inspect(&shared, dir()).ok()?;
    let (_, state, _) = found.groups.iter().find(|(group, ..)| *group == GROUP)?;
    let prev = state.log.last();
    let forced = ForcedRecovery {
        before: CLUSTER,
        after: CLUSTER.recovered()?,
        incarnation: Incarnation(88),
        groups: vec![ForcedGroup {
            group: GROUP,
            time: 9,
            forced: quorate_core::ForcedMembership {
                vote: Vote::uncommitted(leader(9)),
                prev,
                log_id: log_id(9, prev.index + 1),
                membership: membership(false),
            },
        }],
    };
    let after = forced.after.0.to_le_bytes();
    // What a power failure at this call leaves.
    let left_at = |call: u64| {
        let disk = copy(before);
        disk.die_at(call);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        drop(quorate_wal::force_recovery(&shared, dir(), &forced));
        disk.revive();
        disk
    };
    let is_decided = |disk: &MemDisk| read(disk, "identity").is_some_and(|id| id.windows(16).any(|part| part == after));
    // The first call after which it is decided; the last finds it done.
    let (mut undecided, mut decided) = (0, MOST_CALLS);
    while decided - undecided > 1 {
        let call = u64::midpoint(undecided, decided);
        if is_decided(&left_at(call)) { decided = call } else { undecided = call }
    }
    let disk = left_at(decided);
    is_decided(&disk).then_some(())?;
    Some((read(&disk, "recovery")?, read(&disk, "identity")?))
}

/// A file of the directory.
pub(crate) fn read(disk: &MemDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(&dir().join(name)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.length().ok()?).ok()?];
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], at as u64).ok()? {
            0 => break,
            read => at += read,
        }
    }
    Some(bytes)
}

/// Puts a file into the directory, in place of one that is there.
pub(crate) fn put(disk: &MemDisk, path: &Path, bytes: &[u8]) {
    let parent = path.parent().unwrap_or(Path::new("/"));
    disk.create_dir_all(parent).expect("a disk in memory does not fail");
    let file = disk.create(path).expect("a disk in memory does not fail");
    let mut at = 0;
    while at < bytes.len() {
        at += file.write_at(&bytes[at..], at as u64).expect("a disk in memory does not fail");
    }
    file.sync_data().expect("a disk in memory does not fail");
    disk.sync_dir(parent).expect("a disk in memory does not fail");
}

/// The segments of a directory's log.
pub(crate) fn segments(disk: &MemDisk) -> Vec<File> {
    let wal = dir().join("wal");
    let names = disk.list(&wal).unwrap_or_default();
    let numbered = names.iter().filter_map(|name| {
        let number = u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
        Some(File { number, bytes: read(disk, &format!("wal/{name}"))? })
    });
    numbered.collect()
}

pub(crate) fn segment_path(number: u64) -> PathBuf {
    dir().join("wal").join(format!("{number:016x}.seg"))
}

/// What a group's log says, entries included; nothing if its entries cannot be read.
#[derive(Debug, PartialEq)]
struct Told {
    group: GroupId,
    state: GroupState,
    entries: Option<Batches>,
}

/// Opens the directory with damage refused and with damage mended, and looks at everything in it.
pub(crate) fn check(disk: &MemDisk, outcome: &mut Outcome) {
    for on_damage in [OnDamage::Refuse, OnDamage::Mend] {
        outcome.way(if on_damage == OnDamage::Mend { "mend" } else { "refuse" });
        check_opened(&copy(disk), on_damage, outcome);
    }
    let shared: Arc<dyn Disk> = Arc::new(copy(disk));
    if let Some(inspected) = outcome.took(quorate_wal::inspect(&shared, dir())) {
        assert!(inspected.groups.windows(2).all(|pair| pair[0].0 < pair[1].0), "groups are told in order");
    }
}

fn check_opened(disk: &MemDisk, on_damage: OnDamage, outcome: &mut Outcome) {
    let Some((mut core, handle)) = outcome.took(open(disk, on_damage)) else { return };
    let boot = handle.identity().starts.boot();
    let (told, damaged) = look(&handle, outcome);
    outcome.took(handle.record_peer(NodeId(2), Incarnation(5), &started(4)));
    let mut wrote = false;
    if !damaged {
        // Mending opens nearly everything: accepted is what needs none.
        if on_damage == OnDamage::Refuse {
            outcome.accept()
        } else {
            outcome.deeper()
        }
        wrote = write_on(&mut core, &handle, &told, outcome);
    }
    drop(handle);
    let closed = core.close(Instant::ORIGIN);
    if damaged || closed.is_err() {
        return;
    }
    let again = open(disk, on_damage);
    if matches!(&again, Err(WalError::Invalid { what }) if what.ends_with("at its end")) {
        // Its counters begin just below the last number that a disk may count to, and nobody lost anything.
        return;
    }
    let (_core, handle) = again.expect("a log that was whole is opened again");
    assert_eq!(handle.identity().starts.boot(), boot + 1, "each opening is counted");
    let (again, damaged) = look(&handle, outcome);
    assert!(!damaged, "what could be read is read again");
    for (before, after) in told.iter().zip(&again) {
        let kept = entries_of(before);
        let found = entries_of(after);
        assert!(found.len() >= kept.len() && found[..kept.len()] == kept[..], "entries stay what they are");
        assert!(wrote || before.state == after.state, "nothing changed: {before:?} and {after:?}");
    }
}

/// The groups as they are told, and whether any of it was found damaged.
fn look(handle: &WalHandle, outcome: &mut Outcome) -> (Vec<Told>, bool) {
    let (mut told, mut damaged) = (Vec::new(), false);
    for group in GROUPS {
        let Some(state) = outcome.took(handle.open_group(group, Arc::new(|_, _| {}))) else {
            damaged = true;
            continue;
        };
        let (prev, last) = (state.log.purged(), state.log.last());
        let mut entries = None;
        if last.index > prev.index {
            let read = outcome.took(handle.read(group, Span { prev, last }, u64::MAX));
            damaged |= read.is_none();
            entries = read.flatten();
        }
        told.push(Told { group, state, entries });
    }
    (told, damaged)
}

fn entries_of(told: &Told) -> Vec<(quorate_core::LogId, Vec<u8>)> {
    let batches = told.entries.iter().flatten();
    batches.flat_map(Batch::iter).map(|entry| (entry.log_id, entry.payload.to_vec())).collect()
}

/// Goes on with the log as a node would: a vote and an entry. Gives whether something was written.
fn write_on(core: &mut WalCore, handle: &WalHandle, told: &[Told], outcome: &mut Outcome) -> bool {
    let Some(Told { group, state, .. }) = told.first() else { return false };
    let last = state.log.last();
    let term = last.leader_id.term.max(state.vote.leader_id.term);
    // Beyond these no node writes.
    if handle.identity().cluster != CLUSTER || last.index >= u64::MAX / 2 || term >= u64::MAX / 2 {
        return false;
    }
    handle.submit(*group, WriteId(1), WalWrite::Vote(Vote::uncommitted(leader(term + 1))));
    let entry = batch(term + 1, last.index + 1, &[(EntryKind::Command, b"more".to_vec())]);
    handle.submit(*group, WriteId(2), WalWrite::Append(entry.into_iter().collect()));
    settle(core);
    outcome.way(if handle.failure().is_some() { "failed" } else { "wrote" });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_caught_between_its_decision_and_its_end() {
        let (recovery, identity) = recovering().expect("a decided recovery that is not done");
        assert!(!recovery.is_empty() && Some(identity) != read(&lived()[0], "identity"));
    }
}
