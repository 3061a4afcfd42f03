//! Votes on a disk that loses a write, or puts it in another place: the vote that was promised is found, or none at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::crashes::States;
use common::mending::{build, mending};
use common::votes::{sweep_missed_and_damaged_votes, sweep_missed_votes, sweep_missed_while_opening};
use common::{Rig, check_group, dir};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, WalError};

#[test]
fn a_missed_write_of_a_vote_costs_no_vote() {
    let states = sweep_missed_votes(1, 3) + sweep_missed_votes(3, 17);
    println!("{} crash states", states.checked);
    assert!(states.checked > 500, "{}", states.checked);
}

#[test]
fn an_older_vote_never_passes_for_one_that_is_lost() {
    let disks = sweep_missed_and_damaged_votes(1);
    println!("{disks} disks");
    assert!(disks > 100, "{disks}");
}

/// Either file may be emptied; without both nobody knows what was promised.
#[test]
fn votes_that_both_files_lost_are_not_taken_for_none() {
    let (disk, models) = build(40, 30, 2);
    let empty = |names: &[&str]| {
        let disk = disk.crashed(Crash::KeepAll);
        names.iter().for_each(|name| disk.open(&dir().join(name)).unwrap().set_len(0).unwrap());
        disk
    };
    for name in ["vote.a", "vote.b"] {
        let rig = Rig::open(&empty(&[name]), mending()).unwrap();
        for (group, model) in &models {
            check_group(&rig, *group, model, model.acknowledged.len(), name);
        }
    }
    let error = Rig::open(&empty(&["vote.a", "vote.b"]), mending()).err().unwrap();
    assert!(matches!(&error, WalError::Corrupt(_)) && error.to_string().contains("vote."), "{error}");
}

/// Either file may be gone; it is made anew, whatever step of that a crash ends. Without both nobody knows what was promised.
#[test]
fn votes_of_a_file_that_is_gone_are_in_the_other() {
    let (disk, models) = build(40, 30, 2);
    let without = |disk: &MemDisk, names: &[&str]| {
        let disk = disk.crashed(Crash::KeepAll);
        names.iter().for_each(|name| disk.remove(&dir().join(name)).unwrap());
        disk.sync_dir(dir()).unwrap();
        disk
    };
    let check = |disk: &MemDisk, what: &str| {
        let rig = Rig::open(disk, mending()).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
        for (group, model) in &models {
            check_group(&rig, *group, model, model.acknowledged.len(), what);
        }
    };
    let mut states = States::default();
    for (gone, other) in [("vote.a", "vote.b"), ("vote.b", "vote.a")] {
        let damaged = without(&disk, &[gone]);
        damaged.start_journal();
        check(&damaged, gone);
        check(&without(&damaged, &[other]), "the one that was made anew");
        let mut replay = damaged.replay();
        loop {
            states.of_step(1, &replay, 0, |crash, crashed| {
                check(crashed, &format!("{gone} is gone, {crash:?} at step {}", replay.steps()));
            });
            if !replay.advance() {
                break;
            }
        }
    }
    assert!(states.checked > 25, "{}", states.checked);
    let error = Rig::open(&without(&disk, &["vote.a", "vote.b"]), mending()).err().unwrap();
    assert!(matches!(&error, WalError::Corrupt(_)) && error.to_string().contains("vote."), "{error}");
}

/// Opening writes every vote again: then, too, no two copies of one are of one write.
#[test]
fn a_missed_write_of_an_opening_makes_no_file_older() {
    let disks = sweep_missed_while_opening();
    println!("{disks} disks");
    assert!(disks > 500, "{disks}");
}
