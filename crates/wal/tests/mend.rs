//! Damage at rest under [`OnDamage::Mend`]: the log opens as an older state of itself, with everything that is whole, and
//! knows the last thing it may have acknowledged (docs/design/001).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Model, ModelEntry, Rig, Script, dir, log_id, options};
use quorate_core::{GroupId, Instant};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, GroupState, OnDamage, WalError, WalOptions};

const SEGMENT_BYTES: u64 = 24 << 10;

fn mending() -> WalOptions {
    WalOptions { on_damage: OnDamage::Mend, ..options(SEGMENT_BYTES) }
}

/// A closed log of several segments.
fn build(seed: u64, writes: usize, groups: u64) -> (MemDisk, BTreeMap<GroupId, Model>) {
    let disk = MemDisk::new();
    let mut script = Script::new(seed, groups);
    let mut rig = Rig::begin(&disk, SEGMENT_BYTES);
    script.groups.iter().for_each(|group| drop(rig.group(*group).unwrap()));
    for _ in 0..writes {
        script.submit(&rig);
        if script.rng.below(2) == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert!(script.note(&rig).is_none());
    rig.core.close(Instant::ORIGIN + Duration::from_secs(1)).unwrap();
    (disk, script.models)
}

fn segments(disk: &MemDisk) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, _)| path.starts_with(dir().join("wal"))).collect()
}

/// Reads everything; a read that finds damage opens the log once more.
fn open(
    disk: &MemDisk,
    models: &BTreeMap<GroupId, Model>,
    what: &str,
) -> BTreeMap<GroupId, (GroupState, Vec<ModelEntry>)> {
    for attempt in 0..2 {
        let rig = Rig::open(disk, mending()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let read = |group: &GroupId| -> Result<_, WalError> {
            let state = rig.group(*group)?;
            let entries = rig.read_all(*group, &state, 1 << 20)?;
            Ok((*group, (state, entries)))
        };
        match models.keys().map(read).collect() {
            Ok(found) => return found,
            Err(WalError::Corrupt(_)) if attempt == 0 => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    panic!("{what}: damage is still found after mending")
}

/// Whether the log was this at some time, or the front of this.
fn was_once(model: &Model, state: &GroupState, entries: &[ModelEntry]) -> bool {
    let purged = state.log.purged();
    model.states.iter().any(|old| {
        let kept: Vec<&ModelEntry> = old.entries.iter().filter(|entry| entry.id.index > purged.index).collect();
        let holds = purged == old.base || old.entries.iter().any(|entry| entry.id == purged);
        holds && kept.len() >= entries.len() && kept.iter().zip(entries).all(|(a, b)| **a == *b)
    })
}

/// What was found must be an older state with its promises; returns whether something is missing.
fn check(
    models: &BTreeMap<GroupId, Model>,
    found: &BTreeMap<GroupId, (GroupState, Vec<ModelEntry>)>,
    what: &str,
) -> bool {
    let mut lost = false;
    for (group, model) in models {
        let (state, entries) = &found[group];
        let now = model.now();
        assert_eq!(
            (state.vote, state.promised_lease),
            (now.vote, now.lease),
            "{what}: votes of {group:?} are in other files"
        );
        assert!(was_once(model, state, entries), "{what}: {group:?} never was {state:?}");
        if state.log.last() == now.last() {
            continue;
        }
        lost = true;
        // Of a group that nothing names any more, all that its vote allows; the script's votes are not its leaders'.
        let by_vote = state.promised_end.index == u64::MAX || now.vote.leader_id < now.last().leader_id;
        let knows = state.promised_end >= now.last() || by_vote;
        assert!(knows, "{what}: {group:?} promised {}, and takes {} for that", now.last(), state.promised_end);
    }
    lost
}

#[test]
fn a_flipped_byte_costs_entries_and_no_promise() {
    let (mut lost, mut whole) = (0, 0);
    for (seed, groups) in [(0, 3), (1, 1), (2, 1), (3, 2)] {
        let (disk, models) = build(seed, 90, groups);
        for (path, bytes) in segments(&disk) {
            for offset in (seed..bytes).step_by(331) {
                let what = format!("seed {seed}, {} at {offset}", path.display());
                let damaged = disk.crashed(Crash::KeepAll);
                damaged.flip(&path, offset, 1 << ((offset + seed) % 8));
                let found = open(&damaged, &models, &what);
                match check(&models, &found, &what) {
                    true => lost += 1,
                    false => whole += 1,
                }
                // What was mended is an ordinary log, and stays as it was found.
                let again = damaged.crashed(Crash::DropAll);
                let rig =
                    Rig::open(&again, options(SEGMENT_BYTES)).unwrap_or_else(|error| panic!("{what}, then: {error}"));
                for (group, (state, entries)) in &found {
                    let now = rig.group(*group).unwrap();
                    assert_eq!((&now.log, now.promised_end), (&state.log, state.promised_end), "{what}, then");
                    assert_eq!(&rig.read_all(*group, &now, 1 << 20).unwrap(), entries, "{what}, then");
                }
            }
        }
    }
    println!("{lost} flips took entries, {whole} took none");
    assert!(lost > 100 && whole > 100, "{lost} and {whole}");
}

/// Of one group the promise is exact: the mark or what follows always names it.
#[test]
fn one_group_knows_exactly_what_it_promised() {
    let (disk, models) = build(7, 60, 1);
    let (group, model) = models.first_key_value().unwrap();
    let mut lost = 0;
    for (path, bytes) in segments(&disk) {
        for offset in (0..bytes).step_by(127) {
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, 0x10);
            let (state, _) = &open(&damaged, &models, "exact")[group];
            if state.log.last() != model.now().last() {
                lost += 1;
                assert!(state.promised_end.index < u64::MAX, "{} at {offset}: {}", path.display(), state.promised_end);
            }
        }
    }
    assert!(lost > 20, "{lost}");
}

/// A crash while a log is mended, at any step, leaves a log that can be mended, and no promise is lost.
#[test]
fn a_crash_while_mending_loses_no_promise() {
    let mut states = 0;
    for seed in 20..23 {
        let (disk, models) = build(seed, 70, 2);
        let files = segments(&disk);
        let (path, bytes) = &files[files.len() / 2];
        for offset in [3, 14_000, 17_000, bytes - 20_000 / 4].into_iter().filter(|offset| offset < bytes) {
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(path, offset, 0x04);
            damaged.start_journal();
            let what = format!("seed {seed}, {offset}");
            open(&damaged, &models, &what);
            let mut replay = damaged.replay();
            loop {
                for crash in [Crash::DropAll, Crash::KeepAll] {
                    let crashed = replay.crashed(crash);
                    let what = format!("{what}, crash at step {} of mending", replay.steps());
                    check(&models, &open(&crashed, &models, &what), &what);
                    states += 1;
                }
                if !replay.advance() {
                    break;
                }
            }
        }
    }
    println!("{states} crash states while mending");
    assert!(states > 300, "{states}");
}

/// A segment that is gone takes what was in it and after it, and no promise.
#[test]
fn a_lost_segment_costs_entries_and_no_promise() {
    let (disk, models) = build(30, 120, 2);
    for (path, _) in segments(&disk) {
        let what = format!("{} is gone", path.display());
        let damaged = disk.crashed(Crash::KeepAll);
        damaged.remove(&path).unwrap();
        check(&models, &open(&damaged, &models, &what), &what);
    }
}

/// The damaged segments are kept aside, the damage is named, and the log goes on.
#[test]
fn a_mended_log_goes_on() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk, mending()).unwrap();
    rig.handle.set_cluster(common::CLUSTER, quorate_core::LeaderIdMode::Advanced).unwrap();
    let group = GroupId(1);
    rig.group(group).unwrap();
    for (i, payload) in (1..).zip([b"first", b"secnd", b"third"]) {
        rig.append(group, i, 1, i, &[payload]);
        rig.settle();
    }
    assert!(rig.handle.mended().is_none());
    rig.core.close(Instant::ORIGIN).unwrap();
    let path = common::segment(1);
    let at = (0..24 << 10).find(|at| holds(&disk, &path, *at, b"secnd")).unwrap();
    disk.flip(&path, at, 0xff);
    let mut rig = Rig::open(&disk, mending()).unwrap();
    let damage = rig.handle.mended().unwrap();
    assert_eq!(damage.path, path);
    let state = rig.group(group).unwrap();
    assert_eq!((state.log.last(), state.promised_end), (log_id(1, 1), log_id(1, 3)));
    assert_eq!(rig.read_all(group, &state, 1000).unwrap()[0].payload[..], *b"first");
    rig.append(group, 1, 1, 2, &[b"secnd", b"third", b"forth"]);
    rig.settle();
    assert!(rig.told().iter().all(|(_, _, result, _)| result.is_ok()));
    rig.core.close(Instant::ORIGIN).unwrap();
    let names = disk.list(&dir().join("damaged")).unwrap();
    assert_eq!(names, ["0000000000000001.seg"]);
    let rig = Rig::open(&disk, mending()).unwrap();
    assert!(rig.handle.mended().is_none());
    let state = rig.group(group).unwrap();
    assert_eq!((state.log.last(), state.promised_end), (log_id(1, 4), log_id(1, 4)));
    assert_eq!(rig.read_all(group, &state, 1000).unwrap().len(), 4);
}

fn holds(disk: &MemDisk, path: &Path, at: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    disk.open(path).unwrap().read_at(&mut found, at).unwrap() == bytes.len() && found == bytes
}
