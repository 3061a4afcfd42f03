//! What operators are told in clusters with faults of every kind: the events occur, and are as they are listed.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code, reason = "helpers of tests")]

#[path = "../../quorate/src/events/tests/capture.rs"]
mod capture;
mod trio;

use std::collections::BTreeSet;

use capture::Capture;
use quorate_sim::{Options, run_options};
use trio::{Trio, flip};

/// What some seed of a few meets.
const EXPECTED: [&str; 20] = [
    "apply",
    "campaign_held_back",
    "campaign_started",
    "clock_jumped",
    "leader_elected",
    "leader_followed",
    "leader_stepped_down",
    "log_truncated",
    "membership_in_force",
    "peer_has_other_disk",
    "peer_needs_snapshot",
    "peer_state",
    "rejoining",
    "snapshot_build",
    "snapshot_built",
    "snapshot_install",
    "snapshot_installed",
    "vote_denied",
    "vote_granted",
    "vote_refused",
];

/// What is told when a disk of three is damaged and repaired.
const REPAIR: [&str; 4] = ["log_given_up", "log_repaired", "snapshot_damaged", "snapshot_installed"];

/// As many seeds as it takes to see all of them, and at most this many.
const SEEDS: u64 = 40;

#[test]
fn what_operators_are_told_is_as_it_is_listed() {
    let mut missing = BTreeSet::from(EXPECTED);
    for seed in 1..=SEEDS {
        let capture = Capture::default();
        let run = || run_options(Options::of_seed(seed), false);
        let (report, _) = tracing::subscriber::with_default(capture.clone(), run);
        assert_eq!(report.violation, None, "seed {seed}");
        let told = capture.names();
        missing.retain(|name| !told.contains(*name));
        if missing.is_empty() {
            return;
        }
    }
    panic!("not told in {SEEDS} seeds: {missing:?}");
}

#[test]
fn a_damaged_disk_and_its_repair_are_told() {
    let trio = Trio::stopped(3);
    let (path, bytes) = trio.snapshot_of(1);
    let capture = Capture::default();
    let repair = || flip(&trio, 1, &path, bytes / 2).repairs(1, "a damaged snapshot");
    tracing::subscriber::with_default(capture.clone(), repair);
    let told = capture.names();
    assert!(REPAIR.iter().all(|name| told.contains(*name)), "{told:?}");
}
