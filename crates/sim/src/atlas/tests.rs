//! What is done to disks, and what the operator does about it.

use quorate_core::NodeId;

use super::*;
use crate::process::Mended;
use crate::trial::{cluster, cluster_with, elapse, serve, stop};
use crate::world::Down;

#[test]
fn nothing_is_armed_on_a_disk_that_is_damaged_already() {
    let armed = |damaged: bool, outdated: bool| {
        let mut world = cluster_with(3, |options| options.mends = false);
        let place = &mut world.places[1];
        (place.impaired, place.damaged, place.hurt.outdated) = (damaged, damaged, outdated);
        world.disk_fault(Fault::LostWrite, 1);
        (world.places[1].disk.armed(), world.places[1].fragile)
    };
    assert_eq!(armed(false, false), (Some(Armed::LostWrite), true), "otherwise nothing is shown");
    assert_eq!(armed(true, false), (None, false));
    assert_eq!(armed(true, true), (None, false));
}

#[test]
fn a_majority_of_lost_voters_is_not_sound() {
    let mut world = cluster(7);
    let membership = {
        let leader = world.leader().and_then(|at| world.places[at].running.as_ref()).expect("it leads");
        leader.node.core().membership().clone()
    };
    (0..5).for_each(|at| world.places[at].impaired = true);
    let left =
        |leaving: &[u64]| without(&membership.target().voter_ids(), &leaving.iter().map(|id| NodeId(*id)).collect());
    assert!(!world.is_sound_majority(&membership, &left(&[1])), "four of the six that stay are lost");
    assert!(!world.is_sound_majority(&membership, &left(&[1, 2, 3])), "two of four");
    assert!(world.is_sound_majority(&membership, &left(&[1, 2, 3, 4])), "one of three");
    assert!(world.is_sound_majority(&membership, &left(&[1, 2, 3, 4, 5])), "all that are lost leave at once");
}

#[test]
fn a_leader_that_cannot_read_its_log_for_a_peer_ends() {
    let mut world = cluster_with(3, |options| {
        (options.config.tail_cache_bytes, options.config.snapshot_entries) = (1, 0);
        (options.config.snapshot_bytes, options.config.snapshot_interval) = (0, std::time::Duration::ZERO);
    });
    let lags = world.up().find(|at| world.leader() != Some(*at)).expect("one follows");
    stop(&mut world, lags);
    serve(&mut world, 20);
    // With nothing in memory.
    let others = [(lags + 1) % 3, (lags + 2) % 3];
    others.iter().for_each(|at| stop(&mut world, *at));
    others.iter().for_each(|at| world.start(*at));
    elapse(&mut world, 8);
    let leader = world.leader().expect("it leads");
    world.disk_fault(Fault::ReadError, leader);
    assert_eq!(world.places[leader].disk.armed(), Some(Armed::Read));
    world.start(lags);
    world.settle();
    let until = world.now + 20 * world.options.election_timeout.as_nanos() as u64;
    let ended = world.run_until(until, |world| world.places[leader].running.is_none());
    assert!(ended, "{:?}", world.places[leader].disk.armed());
    match &world.places[leader].down {
        Down::Halted(why, Some(_)) => assert!(why.ends_with("injected: a read failed"), "{why}"),
        Down::Halted(..) | Down::Stopped => panic!("it says why"),
    }
    elapse(&mut world, 20);
    assert!(world.leader().is_some(), "another leads");
}

#[test]
fn a_bit_flips_under_a_node_that_runs_on() {
    let mut found = [0; 2];
    for seed in 0..40 {
        let mut world = cluster(3);
        serve(&mut world, 8);
        world.disk_rng = Rng::new(seed, 1);
        let until = world.now + world.nanos(8);
        world.run_until(until, |world| world.places[1].is_disk_idle());
        assert!(world.disk_fault(Fault::BitFlip, 1));
        assert!(world.places[1].damaged && world.places[1].disk.is_spoiled());
        found[usize::from(world.places[1].running.is_some())] += 1;
    }
    assert!(found[0] > 5 && found[1] > 10, "stopped and running: {found:?}");
}

#[test]
fn a_bad_sector_stays_until_the_disk_is_replaced() {
    let mut world = cluster_with(3, |options| options.mends = true);
    serve(&mut world, 20);
    let gone_bad = (0..40).any(|seed| {
        world.disk_rng = Rng::new(seed, 1);
        world.disk_fault(Fault::ReadError, 1) && world.places[1].disk.has_bad_sector()
    });
    assert!(gone_bad && world.places[1].damaged && !world.disk_fault(Fault::BitFlip, 1));
    stop(&mut world, 1);
    world.start(1);
    world.settle();
    elapse(&mut world, 2);
    assert!(world.places[1].disk.has_bad_sector(), "whatever the start made of it");
    // What was mended lay elsewhere.
    world.on_mended(1, Mended { log: true, ..Mended::default() });
    assert!(world.places[1].damaged);
    assert!(!world.can_do_without(0), "of what is committed one good copy stays");
    // Nor may it stay for ever because the file was gone for a while, until a crash brought it back.
    world.places[1].damaged = false;
    world.replace(1);
    assert!(!world.places[1].disk.has_bad_sector() && world.places[1].renewed);
}

#[test]
fn a_node_with_another_disk_halts_if_it_was_told_to() {
    let mut world = cluster_with(3, |options| options.config.on_lost_log = quorate_core::OnLostLog::Halt);
    serve(&mut world, 8);
    let at = world.up().find(|at| world.leader() != Some(*at)).expect("one follows");
    world.wipe(at);
    let until = world.now + world.nanos(20);
    let halts = |world: &World<_>| matches!(world.places[at].down, Down::Halted(_, Some(crate::halts::Cause::LostLog)));
    assert!(world.run_until(until, halts), "{:?}", world.places[at].down);
    assert_eq!(world.violation, None);
}
