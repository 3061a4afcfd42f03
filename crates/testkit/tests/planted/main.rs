//! Each planted bug is named by the suite, and the same implementation without it passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod log;
mod machines;
mod net;
mod snapshots;

use std::time::Duration;

use log::FileLog;
use machines::{FLAWS, Map, Sum, SumFlaw};
use net::Loopback;
use quorate_testkit::{Law, Report, machine, network, storage};
use snapshots::FileSnapshots;

/// The suite finds this law broken, at a step and with an expectation in words.
fn assert_names(report: &Report, law: Law) {
    let found: Vec<Law> = report.failures().map(|failure| failure.law).collect();
    assert!(found.contains(&law), "expected: {law}\n{report}");
    let named = report.failures().find(|failure| failure.law == law).unwrap();
    assert!(!named.step.is_empty() && !named.expected.is_empty() && !named.found.is_empty(), "{named}");
    assert!(report.to_string().contains(&law.to_string()), "the report says it");
}

// ---- storage ----

fn log_with(flaw: log::Flaw) -> Report {
    let suite = storage::Suite::on_disk(move |disk, dir| FileLog::open(&*disk, dir, flaw));
    suite.patience(Duration::from_millis(if flaw == log::Flaw::LateCallback { 100 } else { 20_000 })).states(300).run()
}

#[test]
fn a_log_without_a_bug_passes() {
    let report = log_with(log::Flaw::None);
    println!("{report}");
    assert_eq!(report.assert_passed().not_run_parts(), [""; 0]);
}

#[test]
fn a_log_that_completes_late_out_of_order_and_from_any_thread_passes() {
    println!("{}", log_with(log::Flaw::CompletesAnywhere).assert_passed());
}

#[test]
fn a_vote_that_is_not_synced() {
    assert_names(&log_with(log::Flaw::VoteNotSynced), Law::VoteIsKept);
}

#[test]
fn an_append_that_is_not_synced() {
    assert_names(&log_with(log::Flaw::AppendNotSynced), Law::EntriesAreKept);
}

#[test]
fn a_late_callback() {
    assert_names(&log_with(log::Flaw::LateCallback), Law::CompletesOnce);
}

#[test]
fn a_hole_after_a_purge() {
    assert_names(&log_with(log::Flaw::HoleAfterPurge), Law::NoHoles);
}

#[test]
fn a_truncation_that_a_restart_undoes() {
    assert_names(&log_with(log::Flaw::TruncationUndone), Law::NothingComesBack);
}

#[test]
fn a_stale_entry_after_an_overwrite() {
    assert_names(&log_with(log::Flaw::StaleRead), Law::ReadsTheSpan);
}

#[test]
fn a_purge_that_loses_the_boundary() {
    assert_names(&log_with(log::Flaw::BoundaryLost), Law::BoundaryIsKept);
}

#[test]
fn a_vote_that_goes_back() {
    assert_names(&log_with(log::Flaw::VoteGoesBack), Law::VoteIsKept);
}

#[test]
fn an_acknowledgement_after_a_failure() {
    assert_names(&log_with(log::Flaw::AcknowledgesAfterFailure), Law::NothingAfterFailure);
}

#[test]
fn a_torn_tail_that_is_believed() {
    assert_names(&log_with(log::Flaw::TornTailBelieved), Law::OpensAgain);
}

// ---- snapshots ----

fn store_with(flaw: snapshots::Flaw) -> Report {
    storage::snapshots::Suite::on_disk(move |disk, dir| FileSnapshots::open(disk, dir, flaw)).run()
}

#[test]
fn a_store_without_a_bug_passes() {
    println!("{}", store_with(snapshots::Flaw::None).assert_passed());
}

#[test]
fn half_a_snapshot() {
    assert_names(&store_with(snapshots::Flaw::Half), Law::SnapshotIsWhole);
}

#[test]
fn a_snapshot_whose_name_is_not_synced() {
    assert_names(&store_with(snapshots::Flaw::NameNotSynced), Law::SnapshotIsKept);
}

// ---- state machines ----

fn map_with<const FLAW: usize>(flaw: machines::Flaw) -> Report {
    assert_eq!(FLAWS[FLAW], flaw);
    let suite = machine::Suite::new(Map::<FLAW>::new, |chance| (chance.below(9), chance.below(100)));
    suite.contents(Map::contents).run()
}

#[test]
fn a_map_without_a_bug_passes() {
    println!("{}", map_with::<0>(machines::Flaw::None).assert_passed());
}

#[test]
fn a_snapshot_that_misses_a_range_of_keys() {
    assert_names(&map_with::<1>(machines::Flaw::MissingRange), Law::RestoreIsEqual);
}

#[test]
fn a_snapshot_that_misses_a_range_of_keys_when_nobody_looks_inside() {
    let report = machine::Suite::new(Map::<1>::new, |chance| (chance.below(9), chance.below(100))).run();
    assert_names(&report, Law::RestoreIsEqual);
}

#[test]
fn a_snapshot_with_more_in_it_than_its_index_says() {
    assert_names(&map_with::<2>(machines::Flaw::LateCapture), Law::FreezeIsThen);
}

#[test]
fn an_apply_that_follows_the_order_of_a_hash_map() {
    assert_names(&map_with::<3>(machines::Flaw::MapOrder), Law::SameResponses);
}

#[test]
fn half_a_snapshot_that_is_restored() {
    assert_names(&map_with::<4>(machines::Flaw::HalfRestored), Law::PartIsRefused);
}

#[test]
fn state_that_no_snapshot_holds() {
    assert_names(&map_with::<5>(machines::Flaw::HiddenState), Law::RestoreIsEqual);
}

fn sum_with(flaw: SumFlaw) -> Report {
    let suite =
        machine::Suite::durable_on_disk(move |disk, dir| Sum::open(disk, dir, flaw), |chance| 1 + chance.below(100));
    suite.contents(|machine| machine.sum.to_string()).run()
}

#[test]
fn a_durable_sum_without_a_bug_passes() {
    println!("{}", sum_with(SumFlaw::None).assert_passed());
}

#[test]
fn an_applied_index_that_is_saved_before_the_data() {
    assert_names(&sum_with(SumFlaw::AppliedBeforeData), Law::AppliedWithData);
}

#[test]
fn an_installed_snapshot_without_its_index() {
    assert_names(&sum_with(SumFlaw::InstallsWithoutCheckpoint), Law::AppliedWithData);
}

// ---- networks ----

fn network_with(flaw: net::Flaw) -> Report {
    let network = Loopback::new(flaw);
    let suite = network::Suite::new(move |identity| Ok((network.end(identity.identity()), "loopback".to_owned())));
    suite.largest(2 << 20).patience(Duration::from_secs(2)).run()
}

#[test]
fn a_network_without_a_bug_passes() {
    println!("{}", network_with(net::Flaw::None).assert_passed());
}

#[test]
fn a_network_that_delivers_to_the_node_that_was_there_before() {
    assert_names(&network_with(net::Flaw::OlderIncarnation), Law::ToWhomItConcerns);
}

#[test]
fn a_network_that_mixes_its_lanes() {
    assert_names(&network_with(net::Flaw::LanesMixed), Law::LanesKeepOrder);
}

#[test]
fn a_network_that_cuts_large_frames() {
    assert_names(&network_with(net::Flaw::LargeTruncated), Law::ArrivesWhole);
}

#[test]
fn a_network_that_delivers_twice() {
    assert_names(&network_with(net::Flaw::DeliversTwice), Law::ArrivesOnce);
}

#[test]
fn a_network_that_names_an_older_disk() {
    assert_names(&network_with(net::Flaw::OldName), Law::ToWhomItConcerns);
}
