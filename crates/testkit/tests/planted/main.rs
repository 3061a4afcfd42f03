//! Every law has a planted bug that the suite names by it, and the same implementation without it passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod log;
mod machines;
mod net;
mod snapshots;
mod tcp;

use std::collections::BTreeSet;
use std::time::Duration;

use log::FileLog;
use machines::{FLAWS, Map, Newest, Number, Sum, SumFlaw};
use net::Loopback;
use quorate_testkit::{Law, Report, machine, network, storage};
use snapshots::FileSnapshots;
use tcp::Tcp;

/// A test for each planted bug: the suite finds these laws broken, and no other. Where there is more than one, each is
/// what the bug looks like to another part of the suite.
macro_rules! planted {
    ($($(#[$about:meta])* $bug:ident: $($law:ident),+ => $report:expr;)*) => {
        $(
            $(#[$about])*
            #[test]
            fn $bug() {
                assert_names(&$report, &[$(Law::$law),+]);
            }
        )*

        /// The laws that the tests above see broken.
        const SEEN_BROKEN: &[Law] = &[$($(Law::$law),+),*];
    };
}

/// The suite finds these laws broken, at a step and with an expectation in words, and no others.
fn assert_names(report: &Report, laws: &[Law]) {
    let found: BTreeSet<Law> = report.failures().map(|failure| failure.law).collect();
    assert_eq!(found, laws.iter().copied().collect(), "{report}");
    for failure in report.failures() {
        assert!(!failure.step.is_empty() && !failure.expected.is_empty() && !failure.found.is_empty(), "{failure}");
        assert!(report.to_string().contains(&failure.law.to_string()), "the report says it");
    }
}

/// A law that no planted bug breaks may be one that cannot fail.
#[test]
fn every_law_is_seen_broken() {
    let unseen: Vec<Law> = Law::ALL.iter().copied().filter(|law| !SEEN_BROKEN.contains(law)).collect();
    assert_eq!(unseen, [], "plant a bug for each");
}

planted! {
    // Logs.
    a_vote_that_is_not_synced: VoteIsKept => log_with(log::Flaw::VoteNotSynced);
    an_append_that_is_not_synced: EntriesAreKept => log_with(log::Flaw::AppendNotSynced);
    a_late_callback: CompletesOnce => log_with(log::Flaw::LateCallback);
    a_callback_that_comes_twice: CompletesOnce => log_with(log::Flaw::CallbackTwice);
    a_hole_after_a_purge: NoHoles => log_with(log::Flaw::HoleAfterPurge);
    a_truncation_that_a_restart_undoes: NothingComesBack, NoHoles => log_with(log::Flaw::TruncationUndone);
    a_stale_entry_after_an_overwrite: ReadsTheSpan => log_with(log::Flaw::StaleRead);
    a_purge_that_loses_the_boundary: BoundaryIsKept => log_with(log::Flaw::BoundaryLost);
    a_vote_that_goes_back: VoteIsKept => log_with(log::Flaw::VoteGoesBack);
    an_acknowledgement_after_a_failure: NothingAfterFailure => log_with(log::Flaw::AcknowledgesAfterFailure);
    a_torn_tail_that_is_believed: OpensAgain => log_with(log::Flaw::TornTailBelieved);
    entries_that_can_be_read_later: ReadableAtOnce => log_with(log::Flaw::ReadableLater);
    a_shorter_promise_that_takes_the_place_of_a_longer_one: LeaseIsKept => log_with(log::Flaw::NewestLease);
    a_purge_that_takes_one_entry_more: PurgeTakesNoMore => log_with(log::Flaw::PurgesOneMore);
    a_log_that_tells_its_newest_membership_only: MembershipsAreFound => log_with(log::Flaw::NewestMembership);
    a_reset_in_two_steps: WritesInOrder => log_with(log::Flaw::ResetsInTwoSteps);
    a_vote_that_is_that_of_all_groups: GroupsAreApart => log_with(log::Flaw::OneVote);
    a_gap_that_is_filled: NothingInvented => log_with(log::Flaw::FillsGaps);
    a_log_that_panics_where_it_should_say_no: NoPanic => log_with(log::Flaw::PanicsWithoutEntries);

    // Snapshots.
    half_a_snapshot: SnapshotIsWhole => store_with(snapshots::Flaw::Half);
    a_snapshot_whose_name_is_not_synced: SnapshotIsKept => store_with(snapshots::Flaw::NameNotSynced);
    a_snapshot_that_is_that_of_all_groups: GroupsAreApart => store_with(snapshots::Flaw::OneFile);
    a_snapshot_of_which_a_peer_is_sent_the_front: SnapshotTravels => store_with(snapshots::Flaw::SendsTheFront);

    // State machines.
    a_snapshot_that_misses_a_range_of_keys: RestoreIsEqual => map_with::<1>(machines::Flaw::MissingRange);
    a_snapshot_that_misses_a_range_of_keys_when_nobody_looks_inside: RestoreIsEqual => unseen_map_with::<1>();
    a_snapshot_with_more_in_it_than_its_index_says: FreezeIsThen => map_with::<2>(machines::Flaw::LateCapture);
    an_apply_that_follows_the_order_of_a_hash_map: SameResponses, RestoreIsEqual =>
        map_with::<3>(machines::Flaw::MapOrder);
    half_a_snapshot_that_is_restored: PartIsRefused => map_with::<4>(machines::Flaw::HalfRestored);
    state_that_no_snapshot_holds: RestoreIsEqual => map_with::<5>(machines::Flaw::HiddenState);
    state_that_a_machine_draws_for_itself: SameState, FreezeIsThen => map_with::<6>(machines::Flaw::OwnNumber);
    responses_that_follow_the_batch: BatchesAreInvisible => map_with::<7>(machines::Flaw::PlaceInBatch);
    a_snapshot_that_takes_an_entry_out: SnapshotChangesNothing => map_with::<8>(machines::Flaw::SnapshotTakesOut);
    an_applied_index_that_is_saved_before_the_data: AppliedWithData => sum_with(SumFlaw::AppliedBeforeData);
    an_installed_snapshot_without_its_index: AppliedWithData => sum_with(SumFlaw::InstallsWithoutCheckpoint);
    responses_that_count_from_the_opening: GoesOn => sum_with(SumFlaw::CountsFromOpening);
    a_command_that_loses_bits: PayloadsTravel => newest::<32, 64>();
    a_response_that_loses_bits: PayloadsTravel => newest::<64, 32>();

    // Networks.
    a_network_that_delivers_to_the_node_that_was_there_before: ToWhomItConcerns =>
        network_with(net::Flaw::OlderIncarnation);
    a_network_that_mixes_its_lanes: LanesKeepOrder => network_with(net::Flaw::LanesMixed);
    a_network_that_cuts_large_frames: ArrivesWhole => network_with(net::Flaw::LargeTruncated);
    a_network_that_delivers_twice: ArrivesOnce, ArrivesWhole => network_with(net::Flaw::DeliversTwice);
    a_network_that_names_an_older_disk: ToWhomItConcerns => network_with(net::Flaw::OldName);
    a_transfer_of_which_nobody_hears: TransferEndsOnce => network_with(net::Flaw::TransferForgotten);
    a_loss_that_is_not_told: LossIsTold => tcp_with(tcp::Flaw::LossUntold);
    a_loss_that_is_told_with_the_next: LossIsTold => tcp_with(tcp::Flaw::EverySecondLossTold);
    a_full_queue_that_is_emptied: LossIsTold => tcp_with(tcp::Flaw::FullQueueEmptied);
    frames_that_nobody_checks: DamageIsDropped => tcp_with(tcp::Flaw::FramesUnchecked);
    a_connection_that_begins_with_a_message_of_its_own: DamageIsDropped => tcp_with(tcp::Flaw::GreetsAgain);
    a_connection_that_is_replayed: ArrivesOnce => tcp_with(tcp::Flaw::SendsAgain);
    a_queue_without_an_end: BytesAreBounded => tcp_with(tcp::Flaw::EndlessQueue);
    a_network_that_waits_for_its_peer: BytesAreBounded => tcp_with(tcp::Flaw::WaitsForPlace);
    a_network_that_connects_once: Reconnects => tcp_with(tcp::Flaw::ConnectsOnce);
    a_transfer_that_is_called_delivered_whatever_became_of_it: TransferEndsOnce => tcp_with(tcp::Flaw::DeliveredUnseen);
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

// ---- snapshots ----

fn store_with(flaw: snapshots::Flaw) -> Report {
    storage::snapshots::Suite::on_disk(move |disk, dir| FileSnapshots::open(disk, dir, flaw)).run()
}

#[test]
fn a_store_without_a_bug_passes() {
    println!("{}", store_with(snapshots::Flaw::None).assert_passed());
}

// ---- state machines ----

fn map<'a, const FLAW: usize>() -> machine::Suite<'a, Map<FLAW>> {
    machine::Suite::new(Map::<FLAW>::new, |chance| (chance.below(9), chance.below(100)))
}

fn map_with<const FLAW: usize>(flaw: machines::Flaw) -> Report {
    assert_eq!(FLAWS[FLAW], flaw);
    map::<FLAW>().contents(Map::contents).run()
}

/// The suite has nothing but snapshots to compare.
fn unseen_map_with<const FLAW: usize>() -> Report {
    map::<FLAW>().run()
}

#[test]
fn a_map_without_a_bug_passes() {
    println!("{}", map_with::<0>(machines::Flaw::None).assert_passed());
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

fn newest<const COMMAND: u32, const RESPONSE: u32>() -> Report {
    machine::Suite::new(|| Newest::<COMMAND, RESPONSE>(0), |chance| Number(chance.number())).run()
}

#[test]
fn a_number_without_a_bug_passes() {
    println!("{}", newest::<64, 64>().assert_passed());
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

fn tcp_with(flaw: tcp::Flaw) -> Report {
    let suite = network::Suite::new(move |identity| Ok(Tcp::bind(identity.identity(), flaw)?));
    // What waits in the system between two sockets counts too.
    let suite = suite.over_tcp().largest(2 << 20).window(32 << 20);
    suite.patience(Duration::from_secs(if flaw == tcp::Flaw::None { 30 } else { 3 })).run()
}

#[test]
fn a_network_over_tcp_without_a_bug_passes() {
    let report = tcp_with(tcp::Flaw::None);
    println!("{report}");
    assert_eq!(report.assert_passed().not_run_parts(), [""; 0]);
}
