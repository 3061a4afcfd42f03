//! Clusters for tests of the simulator's own parts.

use crate::disk::Crash;
use crate::fault::FaultSet;
use crate::ledger::LedgerClients;
use crate::options::Options;
use crate::rules::RuleKind;
use crate::world::World;

/// A cluster of seed 1 that was started and has a leader, and that nothing befalls but what a test does.
pub(crate) fn cluster(nodes: u64) -> World<LedgerClients> {
    cluster_with(nodes, |_| {})
}

/// The same with other options.
pub(crate) fn cluster_with(nodes: u64, other: impl FnOnce(&mut Options)) -> World<LedgerClients> {
    let mut options = Options::of_seed(1);
    (options.voters, options.spares, options.faults) = (nodes, 0, FaultSet::NONE);
    options.first_rules = RuleKind::Majority;
    (options.beyond_budget, options.recovery, options.membership) = (false, false, false);
    other(&mut options);
    let clients = LedgerClients::new(0, options.lease_reads, options.inline_applies);
    let mut world = World::new(options, clients, false);
    world.boot_cluster();
    elapse(&mut world, 8);
    assert!(world.leader().is_some());
    world
}

/// Lets so many election timeouts pass.
pub(crate) fn elapse(world: &mut World<LedgerClients>, timeouts: u32) {
    let until = world.now + (world.options.election_timeout * timeouts).as_nanos() as u64;
    world.run_until(until, |_| false);
    assert_eq!(world.violation, None);
}

/// Clients begin so many operations, and are served.
pub(crate) fn serve(world: &mut World<LedgerClients>, operations: u64) {
    world.clients.limit = world.clients.asked + operations;
    (0..world.options.clients).for_each(|client| world.on_client(client));
    world.settle();
    let until = world.now + (world.options.election_timeout * 20).as_nanos() as u64;
    assert!(world.run_until(until, |world| world.clients.asked >= world.clients.limit && !world.clients.is_busy()));
    assert_eq!(world.violation, None);
}

/// Ends a process, which is not started again.
pub(crate) fn stop(world: &mut World<LedgerClients>, at: usize) {
    world.stop(at, Crash::KeepAll);
    world.on_process_gone(at);
}
