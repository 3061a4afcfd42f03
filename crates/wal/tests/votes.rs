//! Votes on a disk that loses a write, or puts it in another place: the vote that was promised is found, or none at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::mending::{build, mending};
use common::votes::{sweep_missed_and_damaged_votes, sweep_missed_votes};
use common::{Rig, check_group, dir};
use quorate_wal::fake::Crash;
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
