//! A crash at every step of the disk's past: what is acknowledged is there, and what is there was the log once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::crashes::{sweep, sweep_recovery};
use common::{Rig, options};
use quorate_core::{GroupId, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Wake, WalWrite};

#[test]
fn every_crash_leaves_what_was_acknowledged_and_nothing_that_never_was() {
    // The program `crashes` (crates/wal/examples) does the bulk.
    // Seed 25: killed between a footer and its sync, started again, and the power lost while the next segment begins.
    let small = sweep(0..1, 50, 24 << 10) + sweep(25..26, 50, 24 << 10);
    let large = sweep(10_000..10_001, 30, 256 << 10);
    let (few, many) = (small.checked, large.checked);
    println!("crash states checked: {few} over small segments, {many} over large ones");
    let states = small + large;
    assert!(states.distinct.len() > 600, "only {} distinct ones", states.distinct.len());
    assert!(states.most_unsynced > 3, "never more than {} operations to lose", states.most_unsynced);
}

#[test]
fn a_crash_while_recovering_from_a_crash_changes_nothing() {
    let states = sweep_recovery(200..201, 17);
    println!("crash states while recovering: {}", states.checked);
    assert!(states.checked > 250, "only {} crash states", states.checked);
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
