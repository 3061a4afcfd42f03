//! Threads that wait for their writes, and take the log's turns themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{CLUSTER, ModelEntry, Rig, batch_of, dir, log_id, options};
use quorate_core::{GroupId, LeaderIdMode, Vote, WriteId};
use quorate_wal::fake::{Crash, Fault, MemDisk};
use quorate_wal::{Wal, WalError, WalOptions, WalWrite};
use quorate_wire::{Batches, EntryKind};

const SEGMENT_BYTES: u64 = 64 << 10;
const THREADS: u64 = 4;

fn open(disk: &MemDisk, groups: u64) -> Wal {
    let options = WalOptions { retry_full_after: Duration::from_millis(1), ..options(SEGMENT_BYTES) };
    let wal = Wal::open(Arc::new(disk.clone()), dir(), options).unwrap();
    wal.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
    for group in 1..=groups {
        wal.open_group(GroupId(group), Arc::new(|_, _| {})).unwrap();
    }
    wal
}

fn entry(group: GroupId, index: u64) -> WalWrite {
    let entry = ModelEntry { id: log_id(1, index), kind: EntryKind::Command, payload: vec![7; 100].into() };
    WalWrite::Append(Batches::from_iter([batch_of(group, &[entry])]))
}

/// Writes until an error, at most so many entries; returns how many were acknowledged.
fn write(wal: &Wal, group: GroupId, entries: u64) -> (u64, Option<WalError>) {
    let mut all = (1..=entries).map(|index| wal.write(group, entry(group, index)));
    let failed = all.by_ref().enumerate().find_map(|(done, result)| Some((done as u64, Some(result.err()?))));
    failed.unwrap_or((entries, None))
}

/// The last index of each group, on what is left of the disk after a crash that loses all that was not synced.
fn found(disk: &MemDisk, groups: u64) -> Vec<u64> {
    let rig = Rig::open(&disk.crashed(Crash::DropAll), options(SEGMENT_BYTES)).unwrap();
    (1..=groups).map(|group| rig.group(GroupId(group)).unwrap().log.last().index).collect()
}

#[test]
fn what_threads_waited_for_is_durable_beside_what_others_submit() {
    const ENTRIES: u64 = 300;
    let disk = MemDisk::new();
    let wal = open(&disk, THREADS);
    let (done, durable) = mpsc::channel();
    let beside = GroupId(THREADS + 1);
    wal.open_group(beside, Arc::new(move |write, result| done.send((write, result.is_ok())).unwrap())).unwrap();
    thread::scope(|scope| {
        for group in 1..=THREADS {
            let wal = &wal;
            scope.spawn(move || assert_eq!(write(wal, GroupId(group), ENTRIES).0, ENTRIES));
        }
        for index in 1..=ENTRIES {
            wal.submit(beside, WriteId(index), entry(beside, index));
            if index % 3 == 0 {
                thread::yield_now();
            }
        }
        for index in 1..=ENTRIES {
            assert_eq!(durable.recv().unwrap(), (WriteId(index), true));
        }
    });
    assert_eq!(found(&disk, THREADS + 1), vec![ENTRIES; THREADS as usize + 1]);
    wal.shutdown().unwrap();
}

#[test]
fn a_vote_and_entries_of_one_thread_are_durable_in_their_order() {
    let disk = MemDisk::new();
    let wal = open(&disk, 1);
    let group = GroupId(1);
    for index in 1..=20 {
        let vote = Vote::uncommitted(log_id(index, 0).leader_id);
        wal.write(group, WalWrite::Vote(vote)).unwrap();
        wal.write(group, entry(group, index)).unwrap();
        let rig = Rig::open(&disk.crashed(Crash::DropAll), options(SEGMENT_BYTES)).unwrap();
        let state = rig.group(group).unwrap();
        assert_eq!((state.vote, state.log.last()), (vote, log_id(1, index)));
    }
}

#[test]
fn after_a_failure_every_thread_is_told_and_nothing_acknowledged_is_lost() {
    for after in 0..40 {
        let disk = MemDisk::new();
        let wal = open(&disk, THREADS);
        disk.fail_at(disk.calls() + after, Fault::Error(ErrorKind::Other));
        let acknowledged: Vec<u64> = thread::scope(|scope| {
            let wal = &wal;
            let threads: Vec<_> = (1..=THREADS)
                .map(|group| {
                    scope.spawn(move || {
                        let (done, error) = write(wal, GroupId(group), 1000);
                        assert!(error.is_some(), "the log goes on after a failure");
                        done
                    })
                })
                .collect();
            threads.into_iter().map(|each| each.join().unwrap()).collect()
        });
        assert!(wal.failure().is_some());
        assert!(wal.write(GroupId(1), WalWrite::Vote(Vote::default())).is_err());
        drop(wal);
        for (found, acknowledged) in found(&disk, THREADS).into_iter().zip(acknowledged) {
            assert!(found >= acknowledged, "{found} of {acknowledged} entries were found, call {after} failed");
        }
    }
}

#[test]
fn a_write_that_cannot_follow_is_refused_and_so_is_what_comes_after_it() {
    let wal = open(&MemDisk::new(), 2);
    let refused = |result| matches!(result, Err(WalError::Invalid { .. }));
    assert!(refused(wal.write(GroupId(1), entry(GroupId(1), 2))));
    assert!(refused(wal.write(GroupId(1), entry(GroupId(1), 1))));
    wal.write(GroupId(2), entry(GroupId(2), 1)).unwrap();
}

#[test]
fn a_thread_waits_for_space_until_there_is_some() {
    let disk = MemDisk::new();
    let wal = open(&disk, 1);
    disk.set_capacity(Some(disk.used() + 100));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(write(&wal, GroupId(1), 1000).0, 1000));
        while !wal.is_full() {
            thread::yield_now();
        }
        disk.set_capacity(None);
    });
}

#[test]
fn when_the_threads_are_done_the_log_says_that_all_is_durable() {
    let disk = MemDisk::new();
    let wal = open(&disk, 1);
    // The first write wakes the log's thread, the others find it waiting for the time of the mark.
    for entries in [1..=1, 2..=9] {
        entries.for_each(|index| wal.write(GroupId(1), entry(GroupId(1), index)).unwrap());
        let calls = disk.calls();
        while disk.calls() < calls + 2 {
            thread::yield_now();
        }
    }
}

#[test]
fn a_completion_that_panics_ends_the_log_for_threads_that_wait() {
    let disk = MemDisk::new();
    let wal = open(&disk, THREADS);
    let beside = GroupId(THREADS + 1);
    wal.open_group(beside, Arc::new(|_, _| panic!("a completion panics"))).unwrap();
    thread::scope(|scope| {
        for group in 1..=THREADS {
            let wal = &wal;
            scope.spawn(move || {
                // The panic is that of whoever takes the turn: one of these threads, or the log's.
                let result = catch_unwind(AssertUnwindSafe(|| write(wal, GroupId(group), u64::MAX).1));
                assert!(!matches!(result, Ok(None)));
            });
        }
        wal.submit(beside, WriteId(1), entry(beside, 1));
    });
    assert!(wal.write(GroupId(1), WalWrite::Vote(Vote::default())).is_err());
}
