//! The log as its user sees it: who may open it, what it takes, what it does without space.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{CLUSTER, Rig, batch_of, dir, leader, log_id, options, segment};
use quorate_core::{ClusterId, GroupId, LeaderIdMode, LogId, NodeId, Span, Tail, Vote, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, RealDisk, Wake, Wal, WalCore, WalError, WalOptions, WalWrite};
use quorate_wire::{Batches, EntryKind};

const GROUP: GroupId = GroupId(1);

fn results(rig: &Rig) -> Vec<(u64, Result<(), String>)> {
    rig.told().into_iter().map(|(_, write, result, _)| (write.0, result.map_err(|e| e.to_string()))).collect()
}

#[test]
fn a_directory_is_one_nodes_and_one_processes() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    assert!(matches!(Rig::open(&disk, options(64 << 10)), Err(WalError::Locked { .. })));
    drop(rig);
    let other = WalOptions { node_id: NodeId(2), ..options(64 << 10) };
    let error = Rig::open(&disk, other).err().unwrap();
    assert_eq!(
        error.to_string(),
        "data directory /data belongs to node 1, not to node 2: use the directory of node 2, or an empty one"
    );
}

#[test]
fn a_boot_is_counted_before_the_log_is_open_and_the_disk_keeps_its_name() {
    let disk = MemDisk::new();
    for boot in 1..4 {
        let disk = disk.clone();
        let rig = Rig::open(&disk, options(64 << 10)).unwrap();
        let identity = rig.handle.identity();
        assert_eq!((identity.starts.boot(), identity.incarnation.0, identity.node), (boot, 77, NodeId(1)));
        let after = disk.crashed(Crash::DropAll);
        let again = Rig::open(&after, options(64 << 10)).unwrap();
        assert_eq!(again.handle.identity().starts.boot(), boot + 1, "the count was durable");
    }
}

#[test]
fn an_older_copy_that_a_peer_names_stops_and_is_not_opened_again() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(GROUP).unwrap();
    rig.handle.note_older_copy(NodeId(3), "start 9 was seen").unwrap();
    rig.settle();
    let told = rig.told();
    let writes: Vec<_> = told.iter().map(|(group, write, result, _)| (*group, write.0, result.clone())).collect();
    let error = WalError::OlderCopy { dir: "/data".into(), peer: NodeId(3), text: "start 9 was seen".into() };
    let failed = rig.handle.failure().map(|error| error.to_string());
    assert_eq!(failed, Some(error.to_string()));
    assert!(matches!(&writes[..], [(GROUP, 0, Err(WalError::OlderCopy { .. }))]), "its group is told: {writes:?}");
    drop(rig);
    let after = disk.crashed(Crash::DropAll);
    for _ in 0..2 {
        let refused = Rig::open(&after, options(64 << 10)).err().unwrap();
        assert_eq!(refused.to_string(), error.to_string());
    }
}

#[test]
fn a_cluster_is_set_once() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    rig.handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
    let other = rig.handle.set_cluster(ClusterId(5), LeaderIdMode::Advanced);
    assert!(matches!(other, Err(WalError::OtherCluster { found: CLUSTER, wanted: ClusterId(5) })));
    assert!(matches!(rig.handle.set_cluster(CLUSTER, LeaderIdMode::Standard), Err(WalError::Invalid { .. })));
    drop(rig);
    let rig = Rig::open(&disk, options(64 << 10)).unwrap();
    assert_eq!(rig.handle.identity().cluster, CLUSTER);
}

#[test]
fn another_version_is_refused_by_name() {
    let disk = MemDisk::new();
    drop(Rig::begin(&disk, 64 << 10));
    let path = dir().join("identity");
    for at in (0..4).map(|copy| copy * (128 << 10)) {
        let file = disk.open(&path).unwrap();
        let mut head = [0; 24];
        file.read_at(&mut head, at).unwrap();
        let body = u32::from_le_bytes(head[12..16].try_into().unwrap());
        let mut copy = vec![0; 24 + body as usize];
        file.read_at(&mut copy, at).unwrap();
        copy[8] = 2;
        file.write_at(&copy, at).unwrap();
        file.write_at(&crc32c::crc32c(&copy).to_le_bytes(), at + copy.len() as u64).unwrap();
    }
    let error = Rig::open(&disk, options(64 << 10)).err().unwrap();
    assert!(matches!(error, WalError::OtherVersion { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn a_log_without_identity_is_not_formatted_over() {
    let disk = MemDisk::new();
    drop(Rig::begin(&disk, 64 << 10));
    disk.remove(&dir().join("identity")).unwrap();
    assert!(matches!(Rig::open(&disk, options(64 << 10)), Err(WalError::NoIdentity { .. })));
}

#[test]
fn entries_are_readable_at_once_and_by_both_their_ends() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(GROUP).unwrap();
    rig.append(GROUP, 1, 1, 1, &[b"a", b"b", b"c"]);
    let whole = Span { prev: LogId::ZERO, last: log_id(1, 3) };
    for settled in [false, true] {
        let read = rig.handle.read(GROUP, whole, 1 << 20).unwrap().unwrap();
        assert_eq!(read.iter().map(|batch| batch.count()).sum::<u64>(), 3, "settled: {settled}");
        let one = rig.handle.read(GROUP, whole, 0).unwrap().unwrap();
        assert_eq!(one[0].count(), 1, "at least one entry, whatever the limit");
        let wrong_leader = Span { prev: LogId::ZERO, last: log_id(2, 3) };
        assert!(rig.handle.read(GROUP, wrong_leader, 1 << 20).unwrap().is_none());
        let beyond = Span { prev: log_id(1, 2), last: log_id(1, 4) };
        assert!(rig.handle.read(GROUP, beyond, 1 << 20).unwrap().is_none());
        rig.settle();
    }
    rig.handle.submit(GROUP, WriteId(2), WalWrite::Truncate { after: log_id(1, 1) });
    rig.append(GROUP, 3, 2, 2, &[b"B"]);
    let read = |rig: &Rig| {
        let span = Span { prev: LogId::ZERO, last: log_id(2, 2) };
        let batches = rig.handle.read(GROUP, span, 1 << 20).unwrap().unwrap();
        batches
            .iter()
            .flat_map(|batch| batch.iter().map(|e| e.payload.to_vec()).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    assert_eq!(read(&rig), [b"a", b"B"]);
    assert!(rig.handle.read(GROUP, whole, 1 << 20).unwrap().is_none(), "truncated at once");
    rig.settle();
    assert_eq!(read(&rig), [b"a", b"B"]);
}

#[test]
fn what_cannot_follow_is_refused_and_so_is_everything_after_it() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk, options(64 << 10)).unwrap();
    rig.group(GROUP).unwrap();
    rig.handle.submit(GROUP, WriteId(1), WalWrite::Vote(Vote::uncommitted(leader(1))));
    rig.settle();
    assert!(matches!(results(&rig)[..], [(1, Err(_))]), "no cluster yet");
    drop(rig);
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(GROUP).unwrap();
    rig.group(GroupId(2)).unwrap();
    rig.append(GROUP, 1, 1, 1, &[b"a"]);
    rig.append(GROUP, 2, 1, 5, &[b"gap"]);
    rig.handle.submit(GROUP, WriteId(3), WalWrite::Vote(Vote::uncommitted(leader(1))));
    rig.append(GroupId(2), 1, 1, 1, &[b"another group goes on"]);
    rig.settle();
    let told: BTreeMap<(u64, u64), bool> =
        rig.told().into_iter().map(|(group, write, result, _)| ((group.0, write.0), result.is_ok())).collect();
    assert_eq!(told, BTreeMap::from([((1, 1), true), ((1, 2), false), ((1, 3), false), ((2, 1), true)]));
    assert!(rig.handle.failure().is_none(), "a wrong call poisons nothing");
}

#[test]
fn a_snapshot_keeps_the_tail_only_if_the_log_holds_its_last_entry() {
    for (to, asked, kept) in [
        (log_id(1, 2), Tail::Keep, 3),
        (log_id(2, 2), Tail::Keep, 2),
        (log_id(1, 2), Tail::Discard, 2),
        (log_id(3, 9), Tail::Keep, 9),
    ] {
        let disk = MemDisk::new();
        let mut rig = Rig::begin(&disk, 64 << 10);
        rig.group(GROUP).unwrap();
        rig.append(GROUP, 1, 1, 1, &[b"a", b"b", b"c"]);
        rig.handle.submit(GROUP, WriteId(2), WalWrite::Reset { to, tail: asked });
        rig.settle();
        let disk = disk.crashed(Crash::DropAll);
        let log = Rig::open(&disk, options(64 << 10)).unwrap().group(GROUP).unwrap().log;
        assert_eq!((log.purged(), log.last().index), (to, kept), "reset to {to} with {asked:?}");
    }
}

/// The schedule: an installed snapshot's reset waits in the queue, a purge beyond it overtakes it.
#[test]
fn a_purge_that_overtakes_a_reset_loses_nothing() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(GROUP).unwrap();
    rig.append(GROUP, 1, 1, 1, &[b"a", b"b", b"c", b"d"]);
    rig.settle();
    rig.handle.submit(GROUP, WriteId(2), WalWrite::Reset { to: log_id(1, 2), tail: Tail::Keep });
    rig.handle.purge(GROUP, log_id(1, 3));
    rig.append(GROUP, 3, 1, 5, &[b"e"]);
    rig.settle();
    assert_eq!(results(&rig), [(1, Ok(())), (2, Ok(())), (3, Ok(()))]);
    let disk = disk.crashed(Crash::DropAll);
    let log = Rig::open(&disk, options(64 << 10)).unwrap().group(GROUP).unwrap().log;
    assert_eq!((log.purged(), log.last()), (log_id(1, 3), log_id(1, 5)));
}

#[test]
fn a_full_disk_makes_entries_wait_and_keeps_votes_and_purges_going() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 32 << 10);
    rig.group(GROUP).unwrap();
    rig.group(GroupId(2)).unwrap();
    disk.set_capacity(Some(disk.used() + 100));
    let payload = [1; 1000];
    let mut write = 0;
    while !rig.handle.is_full() {
        write += 1;
        rig.append(GROUP, write, 1, write, &[&payload]);
        rig.settle();
        assert!(write < 100, "the disk never fills up");
    }
    let acknowledged = results(&rig).len() as u64;
    assert_eq!(acknowledged, write - 1, "the last one waits, and does not fail");
    rig.handle.submit(GroupId(2), WriteId(1), WalWrite::Vote(Vote::uncommitted(leader(3))));
    let wake = rig.settle();
    assert_eq!(results(&rig), [(1, Ok(()))], "a vote needs no space");
    assert!(matches!(wake, Wake::At(_)), "it is tried again by itself");
    assert!(rig.handle.failure().is_none());
    // Purging frees the segment only when another one is begun, so the operator makes a little space.
    disk.set_capacity(Some(disk.used() + (40 << 10)));
    rig.pass(Duration::from_millis(200));
    assert!(!rig.handle.is_full());
    assert_eq!(results(&rig), [(write, Ok(()))]);
    rig.handle.purge(GROUP, log_id(1, write - 1));
    rig.settle();
    assert!(!disk.files().iter().any(|(path, _)| *path == segment(1)), "{:?}", disk.files());
}

#[test]
fn on_a_full_disk_purging_makes_the_space() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 32 << 10);
    rig.group(GROUP).unwrap();
    let payload = [1; 1000];
    let mut write = 0;
    // Room for three segments.
    disk.set_capacity(Some(disk.used() + (64 << 10) + 100));
    while !rig.handle.is_full() {
        write += 1;
        rig.append(GROUP, write, 1, write, &[&payload]);
        rig.settle();
        assert!(write < 200, "the disk never fills up");
    }
    assert_eq!(results(&rig).len() as u64, write - 1);
    rig.handle.purge(GROUP, log_id(1, write - 2));
    rig.settle();
    assert_eq!(results(&rig), [(write, Ok(()))], "the purged segments are used again at once");
    assert!(!rig.handle.is_full());
    let disk = disk.crashed(Crash::DropAll);
    let rig = Rig::open(&disk, options(32 << 10)).unwrap();
    let state = rig.group(GROUP).unwrap();
    assert_eq!((state.log.purged(), state.log.last()), (log_id(1, write - 2), log_id(1, write)));
    assert_eq!(rig.read_all(GROUP, &state, 1 << 20).unwrap().len(), 2);
}

/// A log of nine segments of 32 KiB that needs only the last; the index of its last entry.
fn needs_the_last_of_nine(disk: &MemDisk) -> (Rig, u64) {
    let mut rig = Rig::begin(disk, 32 << 10);
    rig.group(GROUP).unwrap();
    let mut write = 0;
    while segments(disk) < 9 {
        write += 1;
        rig.append(GROUP, write, 1, write, &[&[1; 1000]]);
        rig.settle();
    }
    results(&rig);
    rig.handle.purge(GROUP, log_id(1, write - 1));
    rig.settle();
    (rig, write)
}

fn segments(disk: &MemDisk) -> usize {
    let files = disk.files();
    (1..=20).filter(|number| files.iter().any(|(path, _)| *path == segment(*number))).count()
}

#[test]
fn segments_that_wait_to_be_removed_are_used_again_however_fast_the_log_grows() {
    let disk = MemDisk::new();
    let (mut rig, mut write) = needs_the_last_of_nine(&disk);
    let files = disk.files().len();
    // No time passes: nothing is removed.
    let newest =
        |disk: &MemDisk| (1..=40).filter(|number| disk.files().iter().any(|(path, _)| *path == segment(*number))).max();
    while newest(&disk) < Some(15) {
        write += 1;
        rig.append(GROUP, write, 1, write, &[&[1; 1000]]);
        rig.settle();
        assert!(disk.files().len() <= files, "no file was made while others wait to be removed");
    }
}

#[test]
fn segments_that_nobody_needs_are_removed_one_after_the_other() {
    let disk = MemDisk::new();
    let (mut rig, write) = needs_the_last_of_nine(&disk);
    // Two are spares, and one was removed.
    for left in (1..=6).rev() {
        assert_eq!(segments(&disk), left);
        let after = disk.crashed(Crash::DropAll);
        let again = Rig::open(&after, options(32 << 10)).unwrap();
        assert_eq!(again.group(GROUP).unwrap().log.last(), log_id(1, write), "any number of them may be left");
        let wake = rig.pass(Duration::from_millis(500));
        assert_eq!((segments(&disk), matches!(wake, Wake::At(_))), (left, left > 1), "not yet, but by itself");
        rig.pass(Duration::from_millis(500));
    }
    assert_eq!(segments(&disk), 1, "the active one");
}

#[test]
fn segments_that_nobody_needs_are_removed_at_once_where_there_is_no_space() {
    let disk = MemDisk::new();
    let (mut rig, write) = needs_the_last_of_nine(&disk);
    assert_eq!(segments(&disk), 6);
    disk.set_capacity(Some(disk.used() + (20 << 10)));
    // No spare is as large.
    rig.append(GROUP, write + 1, 1, write + 1, &[&[2; 80 << 10]]);
    rig.settle();
    assert_eq!(results(&rig), [(write + 1, Ok(()))]);
    assert!(!rig.handle.is_full());
}

#[test]
fn a_write_larger_than_a_segment_gets_a_segment_of_its_size() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 24 << 10);
    rig.group(GROUP).unwrap();
    let large = vec![5; 300 << 10];
    rig.append(GROUP, 1, 1, 1, &[b"small", &large, b"small"]);
    rig.append(GROUP, 2, 1, 4, &[b"next"]);
    rig.settle();
    assert_eq!(results(&rig), [(1, Ok(())), (2, Ok(()))]);
    let disk = disk.crashed(Crash::DropAll);
    let rig = Rig::open(&disk, options(24 << 10)).unwrap();
    let state = rig.group(GROUP).unwrap();
    let entries = rig.read_all(GROUP, &state, 1000).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.payload.len()).collect::<Vec<_>>(), [5, 300 << 10, 5, 4]);
}

#[test]
fn one_sync_serves_all_groups_of_a_turn() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 1 << 20);
    let groups: Vec<GroupId> = (1..=50).map(GroupId).collect();
    groups.iter().for_each(|group| drop(rig.group(*group).unwrap()));
    rig.settle();
    let calls = disk.calls();
    groups.iter().for_each(|group| rig.append(*group, 1, 1, 1, &[b"x"]));
    groups.iter().for_each(|group| rig.handle.submit(*group, WriteId(2), WalWrite::Vote(Vote::default())));
    rig.settle();
    assert_eq!(rig.told().len(), 100);
    // Entries, mark, sync; then in each vote file two copies of each group's slot, and a sync.
    assert_eq!(disk.calls() - calls, 3 + 2 * (2 * 50 + 1));
}

#[test]
fn closing_fails_what_waits_and_tells_later_writers() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    rig.group(GROUP).unwrap();
    rig.append(GROUP, 1, 1, 1, &[b"written on the way out"]);
    let (handle, told) = (rig.handle.clone(), rig.told.clone());
    rig.core.close(rig.now).unwrap();
    handle.submit(GROUP, WriteId(2), WalWrite::Vote(Vote::default()));
    let told: Vec<(u64, bool)> = told.lock().unwrap().iter().map(|(_, w, r, _)| (w.0, r.is_ok())).collect();
    assert_eq!(told, [(1, true), (2, false)]);
    assert!(matches!(handle.set_cluster(CLUSTER, LeaderIdMode::Advanced), Err(WalError::Closed)));
}

struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quorate-wal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn append(wal: &Wal, write: u64, index: u64, payload: &[u8]) {
    let entry = common::ModelEntry { id: log_id(1, index), kind: EntryKind::Command, payload: payload.into() };
    wal.submit(GROUP, WriteId(write), WalWrite::Append(Batches::from_iter([batch_of(GROUP, &[entry])])));
}

#[test]
fn on_a_real_disk_a_log_with_its_thread_comes_back_with_everything() {
    let directory = Directory::new("real");
    let options = WalOptions { segment_bytes: 256 << 10, ..WalOptions::new(NodeId(1)) };
    let mut incarnation = None;
    for round in 0..3u64 {
        let wal = Wal::open(Arc::new(RealDisk), &directory.0, options.clone()).unwrap();
        assert!(matches!(
            WalCore::open(Arc::new(RealDisk), &directory.0, options.clone()),
            Err(WalError::Locked { .. })
        ));
        let identity = wal.identity();
        assert_eq!(*incarnation.get_or_insert(identity.incarnation), identity.incarnation);
        assert_ne!(identity.incarnation.0, 0);
        assert_eq!(identity.starts.boot(), round + 1);
        wal.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
        let (done, completed) = mpsc::channel();
        let done = Mutex::new(done);
        let told = move |write: WriteId, result: Result<(), WalError>| {
            done.lock().unwrap().send((write, result.is_ok())).unwrap_or_default();
        };
        let state = wal.open_group(GROUP, Arc::new(told)).unwrap();
        assert_eq!(state.log.last().index, round * 400);
        let payload = [round as u8; 2000];
        for n in 1..=400 {
            append(&wal, n, round * 400 + n, &payload);
        }
        for n in 1..=400 {
            assert_eq!(completed.recv().unwrap(), (WriteId(n), true));
        }
        let last = log_id(1, (round + 1) * 400);
        let entries = common::read_all(&wal, GROUP, state.log.purged(), last, 10_000).unwrap();
        assert!(entries.iter().all(|entry| u64::from(entry.payload[0]) == (entry.id.index - 1) / 400));
        if round == 1 {
            wal.purge(GROUP, log_id(1, 700));
        }
        wal.shutdown().unwrap();
    }
    let names = RealDisk.list(Path::new(&directory.0).join("wal").as_path()).unwrap();
    assert!(!names.contains(&"0000000000000001.seg".to_owned()), "purged segments are gone: {names:?}");
}
