//! A crash at every step of the disk's past: what is acknowledged is there, and what is there was the log once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{CLUSTER, Model, Rig, Script, check_group, log_id, options};
use quorate_core::{ClusterId, GroupId, LeaderIdMode, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Wake, WalWrite};

/// What may be found from a step of the journal on, until the next epoch.
struct Epoch {
    from: usize,
    models: BTreeMap<GroupId, Model>,
}

/// Runs a random script with restarts and returns what may be found when.
fn run(disk: &MemDisk, seed: u64, writes: usize, segment_bytes: u64) -> Vec<Epoch> {
    disk.start_journal();
    let mut script = Script::new(seed, 3);
    if seed % 4 == 3 {
        script.largest_payload = 3000;
    }
    let mut epochs = Vec::new();
    let mut rig = Rig::begin(disk, segment_bytes);
    let mut from = 0;
    for group in script.groups.clone() {
        rig.group(group).unwrap();
    }
    let mut done = 0;
    while done < writes {
        match script.rng.below(36) {
            0..=21 => {
                script.submit(&rig);
                done += 1;
            }
            22..=31 => {
                rig.settle();
            }
            32 => {
                rig.pass(Duration::from_millis(6));
            }
            33..=34 => {
                assert!(script.note(&rig).is_none());
                script.purge(&rig);
            }
            _ => {
                // The process is killed, perhaps in the middle of a turn, and started again; what it wrote without a
                // sync is still in the cache.
                assert!(script.note(&rig).is_none());
                disk.die_at(disk.calls() + script.rng.below(12));
                for _ in 0..2 {
                    script.submit(&rig);
                }
                rig.settle();
                script.note(&rig);
                drop(rig);
                disk.revive();
                rig = Rig::open(disk, options(segment_bytes)).unwrap();
                let mut models = BTreeMap::new();
                for (group, model) in &script.models {
                    let (k, purged) = check_group(&rig, *group, model, model.acknowledged.len(), "restart");
                    models.insert(*group, model.restart(k, purged));
                }
                epochs.push(Epoch { from, models: std::mem::replace(&mut script.models, models) });
                from = disk.journal_steps();
            }
        }
        assert!(script.note(&rig).is_none());
    }
    rig.settle();
    assert!(script.note(&rig).is_none());
    epochs.push(Epoch { from, models: script.models });
    epochs
}

/// Opens what a crash left, checks it, goes on writing, and checks that after another crash.
fn check(disk: &MemDisk, epoch: &Epoch, steps: usize, go_on: bool, segment_bytes: u64, what: &str) {
    let mut rig = Rig::open(disk, options(segment_bytes)).unwrap_or_else(|error| panic!("{what}: {error}"));
    if rig.handle.identity().cluster == ClusterId(0) {
        rig.handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
    }
    let mut expected = BTreeMap::new();
    for (group, model) in &epoch.models {
        let (k, purged) = check_group(&rig, *group, model, model.floor(steps), what);
        expected.insert(*group, model.restart(k, purged));
    }
    if !go_on {
        return;
    }
    for (group, model) in &mut expected {
        let last = model.now().last();
        let term = last.leader_id.term + 1000;
        rig.append(*group, 1, term, last.index + 1, &[b"after the crash"]);
        let mut state = model.now().clone();
        state.entries.push(common::ModelEntry {
            id: log_id(term, last.index + 1),
            kind: quorate_wire::EntryKind::Command,
            payload: (*b"after the crash").into(),
        });
        model.states = vec![state];
        model.purge = u64::MAX;
    }
    rig.settle();
    assert_eq!(rig.told().iter().filter(|(_, _, result, _)| result.is_ok()).count(), expected.len(), "{what}");
    let disk = disk.crashed(Crash::DropAll);
    let rig = Rig::open(&disk, options(segment_bytes)).unwrap_or_else(|error| panic!("{what}, then: {error}"));
    for (group, model) in &expected {
        check_group(&rig, *group, model, 0, &format!("{what}, then"));
    }
}

fn crash_modes(seed: u64, steps: usize, unsynced: usize) -> Vec<Crash> {
    match unsynced {
        0 => vec![Crash::DropAll],
        _ => {
            let sample = seed.wrapping_mul(1_000_003).wrapping_add(steps as u64 * 17);
            vec![Crash::DropAll, Crash::KeepAll, Crash::Subset(sample), Crash::Subset(sample + 1)]
        }
    }
}

fn sweep(seeds: std::ops::Range<u64>, writes: usize, segment_bytes: u64) -> usize {
    let mut states = 0usize;
    for seed in seeds {
        let disk = MemDisk::new();
        let epochs = run(&disk, seed, writes, segment_bytes);
        let mut replay = disk.replay();
        loop {
            let steps = replay.steps();
            let epoch = epochs.iter().rev().find(|epoch| epoch.from <= steps).unwrap();
            for crash in crash_modes(seed, steps, replay.unsynced()) {
                let what = format!("seed {seed}, step {steps}, {crash:?}");
                check(&replay.crashed(crash), epoch, steps, states.is_multiple_of(3), segment_bytes, &what);
                states += 1;
            }
            if !replay.advance() {
                break;
            }
        }
    }
    states
}

#[test]
fn every_crash_leaves_what_was_acknowledged_and_nothing_that_never_was() {
    // More of them: QUORATE_CRASH_SEEDS=150 checks more than 100,000 states, best in release.
    let seeds = std::env::var("QUORATE_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    // Seed 25: killed between a footer and its sync, started again, and the power lost while the next segment begins.
    let small = sweep(0..seeds, 50, 24 << 10) + sweep(25..26, 50, 24 << 10);
    let large = sweep(10_000..10_000 + seeds / 5, 50, 256 << 10);
    println!("crash states checked: {small} over small segments, {large} over large ones");
    assert!(small + large > 8_000, "only {} crash states", small + large);
}

#[test]
fn a_crash_while_recovering_from_a_crash_changes_nothing() {
    let mut states = 0;
    for seed in 200..204 {
        let disk = MemDisk::new();
        let epochs = run(&disk, seed, 40, 24 << 10);
        let mut replay = disk.replay();
        while replay.advance() {
            let steps = replay.steps();
            if !steps.is_multiple_of(17) {
                continue;
            }
            let epoch = epochs.iter().rev().find(|epoch| epoch.from <= steps).unwrap();
            for crash in crash_modes(seed, steps, replay.unsynced()) {
                let first = replay.crashed(crash);
                first.start_journal();
                drop(Rig::open(&first, options(24 << 10)).unwrap());
                let mut opening = first.replay();
                while opening.advance() {
                    for again in crash_modes(seed + 1, opening.steps(), opening.unsynced()) {
                        let what =
                            format!("seed {seed}, step {steps}, {crash:?}, opening {}, {again:?}", opening.steps());
                        check(&opening.crashed(again), epoch, steps, false, 24 << 10, &what);
                        states += 1;
                    }
                }
            }
        }
    }
    println!("crash states while recovering: {states}");
    assert!(states > 2_000, "only {states} crash states");
}

/// The schedule: a batch is torn, its tail stays in the file, and the log goes on over it in smaller batches.
#[test]
fn the_rest_of_a_torn_batch_never_comes_back() {
    let group = GroupId(1);
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(group).unwrap();
    rig.append(group, 1, 1, 1, &[b"kept"]);
    rig.settle();
    disk.start_journal();
    let large = [7; 900];
    let many: Vec<&[u8]> = (0..8).map(|_| &large[..]).collect();
    rig.append(group, 2, 1, 2, &many);
    rig.settle();
    let mut replay = disk.replay();
    assert!(replay.advance(), "the batch is written first");
    let mut torn = 0;
    for sample in 0..200 {
        let mut disk = replay.crashed(Crash::Subset(sample));
        for round in 0..4 {
            let mut rig = Rig::open(&disk, options(64 << 10)).unwrap();
            let state = rig.group(group).unwrap();
            if state.log.last().index >= 9 {
                break;
            }
            torn += 1;
            assert_eq!(state.log.last().index, 1 + round, "sample {sample}");
            rig.append(group, 1, 2, 2 + round, &[b"new"]);
            rig.settle();
            let entries = rig.read_all(group, &rig.group(group).unwrap(), 1 << 20).unwrap();
            assert!(entries[1..].iter().all(|entry| *entry.payload == *b"new"));
            disk = disk.crashed(Crash::DropAll);
        }
    }
    assert!(torn > 100, "only {torn} torn batches");
}

/// Law 3: a vote completes only after the log writes before it, and later log writes wait for it.
#[test]
fn votes_and_entries_of_a_group_become_durable_in_one_order() {
    let group = GroupId(1);
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(group).unwrap();
    disk.start_journal();
    let vote = quorate_core::Vote::uncommitted(common::leader(2));
    rig.append(group, 1, 1, 1, &[b"before"]);
    rig.handle.submit(group, WriteId(2), WalWrite::Vote(vote));
    rig.append(group, 3, 2, 2, &[b"after"]);
    assert_eq!(rig.settle(), Wake::At(rig.now + Duration::from_millis(5)));
    let order: Vec<u64> = rig.told().iter().map(|(_, write, result, _)| (write.0, result.is_ok()).0).collect();
    assert_eq!(order, [1, 2, 3]);
    let mut replay = disk.replay();
    let mut seen = Vec::new();
    loop {
        for crash in [Crash::DropAll, Crash::KeepAll] {
            let rig = Rig::open(&replay.crashed(crash), options(64 << 10)).unwrap();
            let state = rig.group(group).unwrap();
            let found = (state.log.last().index, state.vote == vote);
            if !seen.contains(&found) {
                seen.push(found);
            }
        }
        if !replay.advance() {
            break;
        }
    }
    assert_eq!(seen, [(0, false), (1, false), (1, true), (2, true)]);
}
