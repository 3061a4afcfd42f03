//! A fault counts once it has an effect, and never if it has none.

use super::*;
use crate::ledger::LedgerClients;
use crate::trial::{cluster, cluster_with, elapse, serve, stop};

const PARTITIONS: [Fault; 4] =
    [Fault::SymmetricPartition, Fault::AsymmetricPartition, Fault::BridgePartition, Fault::ChainPartition];

/// Commits it so often, at whatever node; returns how often it counted at once.
fn tries(world: &mut World<LedgerClients>, fault: Fault, times: u64) -> u64 {
    let before = world.counts.of(fault);
    for _ in 0..times {
        world.commit_fault(fault);
    }
    world.counts.of(fault) - before
}

#[test]
fn a_partition_that_parts_nobody_is_none() {
    for fault in PARTITIONS {
        assert_eq!(tries(&mut cluster(1), fault, 10), 0, "{fault} of one node");
        assert_eq!(tries(&mut cluster(5), fault, 10), 10, "{fault} of five nodes");
    }
    for (fault, times) in PARTITIONS.into_iter().zip([10, 10, 0, 0]) {
        assert_eq!(tries(&mut cluster(2), fault, 10), times, "{fault} of two nodes");
    }
    let mut dead = cluster(3);
    (0..3).for_each(|at| stop(&mut dead, at));
    for fault in PARTITIONS {
        assert_eq!(tries(&mut dead, fault, 10), 0, "{fault} of nodes that do not run");
    }
}

#[test]
fn nothing_happens_to_a_node_that_does_not_run() {
    let mut dead = cluster(3);
    (0..3).for_each(|at| stop(&mut dead, at));
    for fault in [Fault::SlowDisk, Fault::SlowApply, Fault::ClockJump, Fault::MixedVersions, Fault::Pause] {
        assert_eq!(tries(&mut dead, fault, 9), 0, "{fault}");
        elapse(&mut dead, 20);
        assert_eq!(dead.counts.of(fault), 0, "{fault}");
    }
}

#[test]
fn a_clock_jumps_in_a_running_process_at_once() {
    assert_eq!(tries(&mut cluster(3), Fault::ClockJump, 4), 4);
}

#[test]
fn a_slow_disk_counts_with_its_first_slow_turn() {
    let mut world = cluster(1);
    world.slow_disk(0);
    world.slow_apply(0);
    assert_eq!((world.counts.of(Fault::SlowDisk), world.counts.of(Fault::SlowApply)), (0, 0));
    serve(&mut world, 8);
    assert_eq!((world.counts.of(Fault::SlowDisk), world.counts.of(Fault::SlowApply)), (1, 1));
    serve(&mut world, 8);
    assert_eq!((world.counts.of(Fault::SlowDisk), world.counts.of(Fault::SlowApply)), (1, 1), "each counts once");
}

#[test]
fn a_node_that_stands_still_is_not_paused_again() {
    let mut world = cluster(1);
    assert_eq!(tries(&mut world, Fault::Pause, 5), 1);
}

#[test]
fn a_newer_version_counts_once_a_peer_has_read_it() {
    let mut world = cluster(2);
    assert_eq!(tries(&mut world, Fault::MixedVersions, 1), 0);
    elapse(&mut world, 8);
    assert_eq!(world.counts.of(Fault::MixedVersions), 1);
}

#[test]
fn a_clog_counts_with_the_first_message_that_waits() {
    let mut world = cluster(2);
    assert_eq!(tries(&mut world, Fault::Clog, 1), 0);
    let until = world.now + world.options.election_timeout.as_nanos() as u64 * 40;
    world.net.clog(0, 1, until);
    world.net.clog(1, 0, until);
    elapse(&mut world, 20);
    assert!((1..=2).contains(&world.counts.of(Fault::Clog)), "{}", world.counts.of(Fault::Clog));
}

#[test]
fn a_leader_whose_disk_is_behind_for_too_long_is_counted_when_it_leaves() {
    let left = |slow: u64| {
        let mut world = cluster_with(3, |options| {
            options.disk_latency = options.election_timeout / 50;
            options.config.max_disk_lag = options.election_timeout;
        });
        serve(&mut world, 8);
        let leader = world.leader().expect("it leads");
        world.places[leader].slow_disk = slow;
        world.clients.limit = world.clients.asked + 40;
        (0..world.options.clients).for_each(|client| world.on_client(client));
        elapse(&mut world, 20);
        world.counters.of(crate::situations::LEFT_FOR_ITS_DISK)
    };
    assert_eq!(left(1), 0);
    assert!(left(200) > 0);
}

#[test]
fn a_machine_puts_snapshots_off() {
    let deferred = |permille: u32| {
        let mut world = cluster_with(3, |options| {
            (options.deferrals, options.config.snapshot_entries) = (permille, 3);
        });
        serve(&mut world, 40);
        let disk = &world.places[0].disk;
        (with_book(|book| book.deferred) > 0, disk.flip(0, false).is_some())
    };
    assert_eq!(deferred(0), (false, true), "there is a snapshot to flip a bit of");
    assert_eq!(deferred(1000), (true, false));
}

#[test]
fn a_node_that_ends_once_everything_healed_for_what_was_done_before_is_started_at_once() {
    let down = |healed: bool| {
        let mut world = cluster(3);
        let at = world.up().find(|at| world.leader() != Some(*at)).expect("one follows");
        world.disk_fault(Fault::SyncError, at);
        world.chaos.healed = healed;
        world.clients.limit = world.clients.asked + 8;
        (0..world.options.clients).for_each(|client| world.on_client(client));
        world.settle();
        let until = world.now + world.nanos(20);
        assert!(world.run_until(until, |world| world.places[at].running.is_none()), "its sync fails");
        let ended = world.now;
        assert!(world.run_until(until, |world| world.places[at].running.is_some()));
        world.now - ended
    };
    assert_eq!(down(true), 0);
    assert!(down(false) > 0, "somebody looks after it later");
}

#[test]
fn nodes_that_all_stood_still_keep_their_leader() {
    let mut world = cluster(3);
    let vote = |world: &World<LedgerClients>| {
        let leader = world.leader().expect("one leads");
        world.places[leader].running.as_ref().expect("it runs").node.core().vote()
    };
    let before = vote(&world);
    for round in 0..50 {
        // At another place between two heartbeats each time.
        elapse(&mut world, 1);
        let a_little = world.options.election_timeout.as_nanos() as u64 * round / 97;
        let begin = world.now + a_little;
        world.run_until(begin, |_| false);
        let until = world.now + world.nanos(3);
        (0..3).for_each(|at| world.pause(at, until));
        elapse(&mut world, 8);
        assert_eq!(vote(&world), before, "round {round}");
    }
}

#[test]
fn who_stood_still_finds_out_that_the_others_are_gone() {
    let mut world = cluster(3);
    let leader = world.leader().expect("one leads");
    let until = world.now + world.nanos(3);
    (0..3).for_each(|at| world.pause(at, until));
    elapse(&mut world, 2);
    stop(&mut world, leader);
    elapse(&mut world, 8);
    assert!(world.leader().is_some_and(|next| next != leader));
    let last = world.leader().expect("one leads");
    let until = world.now + world.nanos(3);
    (0..3).filter(|at| *at != leader).for_each(|at| world.pause(at, until));
    elapse(&mut world, 2);
    (0..3).filter(|at| ![leader, last].contains(at)).for_each(|at| stop(&mut world, at));
    elapse(&mut world, 8);
    assert_eq!(world.leader(), None, "without a quorum nobody leads");
}
