//! `identity` and `peers` on a disk that loses a write, or puts it in another place: what was noted is found, or no node at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::records::{stray_records, sweep_missed_and_damaged_records, sweep_missed_records};

#[test]
fn a_missed_write_of_a_record_costs_nothing_that_was_noted() {
    let states = sweep_missed_records(97);
    println!("{} crash states", states.checked);
    assert!(states.checked > 300, "{}", states.checked);
}

#[test]
fn an_older_record_never_passes_for_one_that_is_lost() {
    let disks = sweep_missed_and_damaged_records(41);
    println!("{disks} disks");
    assert!(disks > 300, "{disks}");
}

#[test]
fn a_copy_of_another_directory_is_damage() {
    let disks = stray_records();
    assert!(disks > 300, "{disks}");
}
