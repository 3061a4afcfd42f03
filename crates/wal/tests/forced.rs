//! Recovering a lost quorum from a directory (law 16): whatever moment the power fails, the directory is as before or
//! recovered, and what it held is there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{CLUSTER, ModelEntry, Rig, batch_of, dir, log_id, membership, options};
use quorate_core::{ForcedMembership, GroupId, Incarnation, LogId, NodeId, SnapshotMeta, Vote, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, ForcedGroup, ForcedRecovery, WalError, WalWrite, force_recovery, inspect};
use quorate_wire::EntryKind;

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(7)];
const VOTED_ONLY: GroupId = GroupId(9);

fn entries(count: u64) -> Vec<ModelEntry> {
    let mut payload = Vec::new();
    quorate_wire::encode_membership(&membership(1), &mut payload);
    let first = ModelEntry { id: log_id(1, 1), kind: EntryKind::Membership, payload: payload.into() };
    let command = |index| ModelEntry { id: log_id(2, index), kind: EntryKind::Command, payload: (*b"kept").into() };
    std::iter::once(first).chain((2..=count).map(command)).collect()
}

/// A directory that was stopped: two groups with a log, one that only ever voted.
fn stopped() -> MemDisk {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    for (group, count) in GROUPS.into_iter().zip([5, 3]) {
        rig.group(group).unwrap();
        rig.handle.submit(group, WriteId(1), WalWrite::Vote(Vote::uncommitted(common::leader(4))));
        let all = entries(count);
        rig.handle.submit(group, WriteId(2), WalWrite::Append([batch_of(group, &all[..1])].into_iter().collect()));
        rig.handle.submit(group, WriteId(3), WalWrite::Append([batch_of(group, &all[1..])].into_iter().collect()));
    }
    rig.group(VOTED_ONLY).unwrap();
    rig.handle.submit(VOTED_ONLY, WriteId(1), WalWrite::Vote(Vote::uncommitted(common::leader(3))));
    rig.settle();
    assert!(rig.told().iter().all(|(_, _, result, _)| result.is_ok()));
    let Rig { core, now, .. } = rig;
    core.close(now).unwrap();
    disk
}

fn shared(disk: &MemDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// What the library makes of an inspection.
fn planned(disk: &MemDisk) -> ForcedRecovery {
    let found = inspect(&shared(disk), dir()).unwrap();
    let incarnation = Incarnation(0x99);
    let mut groups = Vec::new();
    for (group, state, _) in found.groups.iter().filter(|(_, state, _)| state.log.last() != LogId::ZERO) {
        let (_, current) = state.memberships.last().unwrap();
        let seen = state.vote.leader_id.term;
        let forced = ForcedMembership::new(NodeId(1), incarnation, seen, state.log.last(), current).unwrap();
        groups.push(ForcedGroup { group: *group, time: 3, forced });
    }
    let before = found.identity.cluster;
    ForcedRecovery { before, after: before.recovered().unwrap(), incarnation, groups }
}

fn has_file(disk: &MemDisk, name: &str) -> bool {
    disk.files().iter().any(|(path, _)| *path == dir().join(name))
}

/// Opens what a crash left; tells whether it is recovered. Anything else than before or after fails.
fn check(disk: &MemDisk, recovery: &ForcedRecovery, what: &str) -> bool {
    let rig = Rig::open(disk, options(64 << 10)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let identity = rig.handle.identity();
    let recovered = identity.cluster == recovery.after;
    assert!(recovered || identity.cluster == recovery.before, "{what}: cluster {}", identity.cluster);
    assert_eq!(
        identity.incarnation == recovery.incarnation,
        recovered,
        "{what}: incarnation and cluster change at once"
    );
    for (planned, count) in recovery.groups.iter().zip([5, 3]) {
        let ForcedGroup { group, forced, .. } = planned;
        let state = rig.group(*group).unwrap();
        let read = rig.read_all(*group, &state, 1 << 20).unwrap();
        assert_eq!(read[..count as usize], entries(count)[..], "{what}: the log is kept");
        if !recovered {
            assert_eq!((state.log.last(), state.vote), (forced.prev, Vote::uncommitted(common::leader(4))), "{what}");
            continue;
        }
        assert_eq!((state.log.last(), state.vote), (forced.log_id, forced.vote), "{what}");
        assert_eq!(state.memberships.last().unwrap(), &(forced.log_id, forced.membership.clone()), "{what}");
    }
    assert_eq!(rig.group(VOTED_ONLY).unwrap().vote, Vote::uncommitted(common::leader(3)), "{what}");
    assert!(!has_file(disk, "recovery"), "{what}: nothing is left to do");
    recovered
}

fn modes(steps: usize, unsynced: usize) -> Vec<Crash> {
    let subsets = (0..if unsynced == 0 { 0 } else { 4 }).map(|n| Crash::Subset(steps as u64 * 31 + n));
    [Crash::DropAll, Crash::KeepAll].into_iter().chain(subsets).collect()
}

#[test]
fn a_crash_at_any_moment_leaves_the_directory_as_before_or_recovered() {
    let disk = stopped();
    let recovery = planned(&disk);
    disk.start_journal();
    force_recovery(&shared(&disk), dir(), &recovery).unwrap();
    let mut replay = disk.replay();
    let (mut states, mut before, mut certain) = (0, 0, false);
    loop {
        for crash in modes(replay.steps(), replay.unsynced()) {
            let what = format!("step {}, {crash:?}", replay.steps());
            let recovered = check(&replay.crashed(crash), &recovery, &what);
            states += 1;
            before += usize::from(!recovered);
            if matches!(crash, Crash::DropAll) {
                assert!(recovered || !certain, "{what}: once it is durable it stays");
                certain = recovered;
            }
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(certain, "when it returned, it was durable");
    assert!(before > 10 && states - before > 10, "{states} states, {before} of them before");
}

#[test]
fn what_a_killed_process_left_in_memory_outlives_a_power_failure_during_the_recovery() {
    let (mut unsynced, mut states) = (0, 0);
    for calls in 1..12 {
        let disk = stopped();
        let mut rig = Rig::open(&disk, options(64 << 10)).unwrap();
        rig.group(GROUPS[0]).unwrap();
        let more = ModelEntry { id: log_id(2, 6), kind: EntryKind::Command, payload: (*b"more").into() };
        rig.handle.submit(
            GROUPS[0],
            WriteId(1),
            WalWrite::Append([batch_of(GROUPS[0], &[more])].into_iter().collect()),
        );
        disk.die_at(disk.calls() + calls);
        rig.core.turn(rig.now);
        drop(rig);
        disk.revive();
        unsynced += usize::from(disk.unsynced() > 0);
        let recovery = planned(&disk);
        disk.start_journal();
        force_recovery(&shared(&disk), dir(), &recovery).unwrap();
        let mut replay = disk.replay();
        loop {
            for crash in modes(replay.steps(), replay.unsynced()) {
                let what = format!("killed after {calls} calls, step {}, {crash:?}", replay.steps());
                let crashed = replay.crashed(crash);
                let rig = Rig::open(&crashed, options(64 << 10)).unwrap_or_else(|error| panic!("{what}: {error}"));
                let forced = &recovery.groups[0].forced;
                if rig.handle.identity().cluster == recovery.after {
                    assert_eq!(rig.group(GROUPS[0]).unwrap().log.last(), forced.log_id, "{what}");
                }
                states += 1;
            }
            if !replay.advance() {
                break;
            }
        }
    }
    assert!(unsynced > 0 && states > 100, "{unsynced} logs of which a part was in memory, {states} states");
}

#[test]
fn a_crash_while_an_opening_finishes_it_is_finished_by_the_next() {
    let disk = stopped();
    let recovery = planned(&disk);
    disk.start_journal();
    force_recovery(&shared(&disk), dir(), &recovery).unwrap();
    let (mut replay, mut states) = (disk.replay(), 0);
    while replay.advance() {
        for crash in [Crash::DropAll, Crash::Subset(replay.steps() as u64)] {
            let first = replay.crashed(crash);
            if !has_file(&first, "recovery") {
                continue;
            }
            first.start_journal();
            let recovered = check(&first, &recovery, "the first opening");
            let mut opening = first.replay();
            while opening.advance() {
                for again in [Crash::DropAll, Crash::Subset(opening.steps() as u64 * 7)] {
                    let what = format!("step {}, {crash:?}, opening {}, {again:?}", replay.steps(), opening.steps());
                    // A copy of the identity that was only in the cache may be what decides.
                    let later = check(&opening.crashed(again), &recovery, &what);
                    assert!(later == recovered || matches!(crash, Crash::Subset(_)), "{what}");
                    states += 1;
                }
            }
        }
    }
    assert!(states > 500, "only {states} states");
}

#[test]
fn it_is_done_once_and_goes_on() {
    let disk = stopped();
    let recovery = planned(&disk);
    force_recovery(&shared(&disk), dir(), &recovery).unwrap();
    let again = force_recovery(&shared(&disk), dir(), &recovery).unwrap_err();
    assert!(matches!(again, WalError::Invalid { .. }), "{again}");
    // A second recovery is planned anew, above the first.
    let second = planned(&disk);
    assert_eq!((second.before, second.after.recovery()), (recovery.after, 2));
    assert!(second.groups[0].forced.log_id > recovery.groups[0].forced.log_id);
    // New segments and new votes fit to the old ones.
    for round in 0..3 {
        let mut rig = Rig::open(&disk, options(64 << 10)).unwrap();
        let state = rig.group(GROUPS[0]).unwrap();
        let large = [7; 20_000];
        rig.append(GROUPS[0], 1, 9 + round, state.log.last().index + 1, &[&large, &large, &large]);
        rig.settle();
        assert!(rig.told().iter().all(|(_, _, result, _)| result.is_ok()));
        let state = rig.group(GROUPS[0]).unwrap();
        assert_eq!(rig.read_all(GROUPS[0], &state, 1 << 30).unwrap().len() as u64, 6 + 3 * (round + 1));
    }
    assert_eq!(CLUSTER.recovered(), Some(recovery.after));
}

#[test]
fn a_running_node_a_wrong_directory_and_damage_are_refused() {
    let disk = stopped();
    let recovery = planned(&disk);
    let rig = Rig::open(&disk, options(64 << 10)).unwrap();
    assert!(matches!(inspect(&shared(&disk), dir()), Err(WalError::Locked { .. })));
    assert!(matches!(force_recovery(&shared(&disk), dir(), &recovery), Err(WalError::Locked { .. })));
    drop(rig);
    for wrong in [Path::new("/nowhere"), &dir().join("wal")] {
        let files = disk.files();
        assert!(matches!(inspect(&shared(&disk), wrong), Err(WalError::NoDirectory { .. })));
        assert!(matches!(force_recovery(&shared(&disk), wrong, &recovery), Err(WalError::NoDirectory { .. })));
        assert_eq!(disk.files(), files, "nothing was made");
    }
    // A file `recovery` with one bit wrong, at any place.
    disk.start_journal();
    force_recovery(&shared(&disk), dir(), &recovery).unwrap();
    let mut replay = disk.replay();
    let path: PathBuf = dir().join("recovery");
    while !has_file(&replay.crashed(Crash::DropAll), "recovery") {
        assert!(replay.advance());
    }
    let (_, length) = replay.crashed(Crash::DropAll).files().into_iter().find(|(name, _)| *name == path).unwrap();
    for offset in 0..length {
        let damaged = replay.crashed(Crash::DropAll);
        damaged.flip(&path, offset, 1 << (offset % 8));
        let error = Rig::open(&damaged, options(64 << 10)).err().expect("damage is seen");
        assert!(matches!(error, WalError::Corrupt(_)), "offset {offset}: {error}");
    }
}

#[test]
fn a_log_that_a_crash_left_behind_its_snapshot_is_recovered_from_the_snapshot() {
    let disk = stopped();
    let rig = Rig::open(&disk, options(64 << 10)).unwrap();
    let end = LogId::new(common::leader(3), 40);
    let meta = SnapshotMeta { last_log_id: end, membership_log_id: log_id(1, 1), membership: membership(1) };
    let mut writer = rig.handle.snapshots().create(GROUPS[0], &meta).unwrap();
    std::io::Write::write_all(&mut writer, b"state").unwrap();
    writer.commit().unwrap();
    drop(rig);
    let found = inspect(&shared(&disk), dir()).unwrap();
    let (_, state, snapshot) = &found.groups[0];
    assert_eq!((state.log.last(), state.memberships.len()), (end, 0), "as the next start sees it");
    let current = &snapshot.as_ref().unwrap().membership;
    let forced = ForcedMembership::new(NodeId(1), Incarnation(5), 4, end, current).unwrap();
    let after = CLUSTER.recovered().unwrap();
    let groups = vec![ForcedGroup { group: GROUPS[0], time: 0, forced: forced.clone() }];
    let recovery = ForcedRecovery { before: CLUSTER, after, incarnation: Incarnation(5), groups };
    force_recovery(&shared(&disk), dir(), &recovery).unwrap();
    let rig = Rig::open(&disk, options(64 << 10)).unwrap();
    let state = rig.group(GROUPS[0]).unwrap();
    assert_eq!((state.log.purged(), state.log.last()), (end, forced.log_id));
}
