//! What must hold of memberships for those who see every node.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{Core, LeaderId, LogId, Membership, NodeId};
use quorate_wire::{Batch, Batches, EntryKind};

use crate::workload::Workload;
use crate::world::{Place, World};

/// Memberships that were in some log, and what nodes made of them.
#[derive(Default)]
pub(crate) struct Memberships {
    /// Entries that bring a membership.
    stood: BTreeSet<(u64, LeaderId)>,
    /// What each brings, as the first node says that goes by it.
    said: BTreeMap<LogId, (NodeId, Membership)>,
    /// By place: by which membership it went when it was last looked at, and where its log ended.
    looked: BTreeMap<usize, (LogId, LogId)>,
}

impl Memberships {
    /// These entries are submitted to a log.
    pub(crate) fn on_append(&mut self, batches: &Batches) {
        let entries = batches.iter().flat_map(Batch::iter).filter(|entry| entry.kind == EntryKind::Membership);
        self.stood.extend(entries.map(|entry| (entry.log_id.index, entry.log_id.leader_id)));
    }

    /// A node goes by the last membership in its log, and by what every other node finds there.
    pub(crate) fn check(&mut self, at: usize, core: &Core) -> Result<(), String> {
        let (id, log, in_force) = (core.config().node_id, core.log(), core.membership_log_id());
        let now = (in_force, log.last());
        if self.looked.insert(at, now) == Some(now) {
            return Ok(());
        }
        let (other, known) = self.said.entry(in_force).or_insert_with(|| (id, core.membership().clone()));
        if known != core.membership() {
            return Err(format!("one membership: nodes {other} and {id} find different ones at {in_force}"));
        }
        if in_force.index > log.purged().index && !log.holds(in_force) {
            return Err(format!("membership in force: node {id} goes by {in_force}, which is not in its log"));
        }
        let mut later = self.stood.range((in_force.index + 1, LeaderId::default())..);
        match later.find(|(index, leader)| log.at(*index).is_some_and(|entry| entry.leader_id == *leader)) {
            Some((index, leader)) => Err(format!(
                "membership in force: node {id} goes by {in_force}, and its log holds a later one, {}",
                LogId::new(*leader, *index)
            )),
            None => Ok(()),
        }
    }
}

impl<W: Workload> World<W> {
    /// Every membership that may be in force where nodes with these logs elect and commit: the last that some running node
    /// knows to be committed, and those after it.
    pub(crate) fn memberships_that_count(&self) -> Vec<Membership> {
        let here = |place: &&Place<W>| place.cluster == self.cluster;
        let cores = || self.places.iter().filter(here).filter_map(|place| Some(place.running.as_ref()?.node.core()));
        let committed = |core: &&Core| core.membership_log_id().index <= core.commit();
        let least = cores().filter(committed).map(|core| core.membership_log_id().index).max().unwrap_or(0);
        let count = |core: &&Core| core.membership_log_id().index >= least && !core.membership().is_empty();
        let counted: BTreeMap<LogId, &Membership> =
            cores().filter(count).map(|core| (core.membership_log_id(), core.membership())).collect();
        counted.into_values().cloned().collect()
    }

    /// Whether the disks at these places elect and commit under each of these memberships, both halves of a joint one.
    pub(crate) fn is_quorum(&self, memberships: &[Membership], places: &BTreeSet<usize>) -> bool {
        let there = |id, incarnation| {
            let mut places = places.iter().map(|at| &self.places[*at]);
            places.any(|place| place.id == id && place.incarnation == incarnation).then_some(())
        };
        let decide = |membership: &Membership| {
            membership.elect_reached(there).is_some() && membership.commit_reached(there).is_some()
        };
        memberships.iter().all(decide)
    }

    /// A leader takes no disk for an older copy of itself that nothing was done to.
    pub(crate) fn check_older_copies(&mut self) {
        let Some(running) = self.leader().and_then(|at| self.places[at].running.as_ref()) else { return };
        let leader = running.node.core().config().node_id;
        let status = running.node.core().status();
        let wronged = status.peers.iter().filter(|peer| peer.older_copy).find(|peer| {
            let place = self.places.iter().find(|place| place.id == peer.id);
            place.is_some_and(|place| peer.incarnation == Some(place.incarnation) && !place.hurt.ever && !place.damaged)
        });
        if let Some(id) = wronged.map(|peer| peer.id) {
            self.fail(format!("older copy: leader {leader} takes the disk of node {id} for one"));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{Config, Incarnation, Instant, LogIds, Node, Recovered, Run};

    use super::*;
    use crate::ledger::LedgerClients;
    use crate::trial::{cluster, serve, stop};

    const LEADER: LeaderId = LeaderId { term: 1, node_id: NodeId(1) };

    fn majority(ids: &[u64]) -> Membership {
        Membership::majority(ids.iter().map(|id| (NodeId(*id), Incarnation((*id).into()), Node::default())))
    }

    /// A node whose log ends at 4, and whose membership is said to stand at this index.
    fn node(id: u64, at: u64, membership: Membership) -> Core {
        let recovered = Recovered {
            log: LogIds::new(LogId::ZERO, [Run { leader_id: LEADER, last: 4 }]),
            vote: quorate_core::Vote::committed(LEADER),
            memberships: vec![(LogId::new(LEADER, at), membership)],
            ..Recovered::default()
        };
        Core::new(Config::new(NodeId(id), Incarnation(id.into())), recovered, Instant::ORIGIN)
    }

    /// A follower whose disk is an older copy, though nothing was done to it that the simulator knows of.
    fn put_back(boots: u64) -> World<LedgerClients> {
        let mut world = cluster(3);
        serve(&mut world, 20);
        let at = (world.leader().expect("it leads") + 1) % 3;
        let restart = |world: &mut World<LedgerClients>| {
            stop(world, at);
            world.start(at);
            world.run_until(world.now + 8 * 1_000_000_000, |_| false);
        };
        let copy = world.places[at].disk.copy();
        (0..boots).for_each(|_| restart(&mut world));
        serve(&mut world, 20);
        world.run_until(world.now + 1_000_000_000, |_| false);
        stop(&mut world, at);
        world.places[at].disk = copy;
        // What its disk promised is not asked for: another check would speak first.
        world.places[at].possible = None;
        world.start(at);
        world.violation = None;
        for _ in 0..20 {
            let until = world.now + world.options.election_timeout.as_nanos() as u64;
            world.run_until(until, |_| false);
            world.check_older_copies();
        }
        world
    }

    #[test]
    fn a_leader_that_takes_a_sound_disk_for_an_older_copy_is_noticed() {
        let told = put_back(0).violation.expect("the leader says that it is one");
        assert!(told.starts_with("older copy: leader"), "{told}");
    }

    #[test]
    fn a_handshake_that_takes_a_sound_disk_for_an_older_copy_is_noticed() {
        let told = put_back(2).violation.expect("a peer met a later start of it");
        assert!(told.starts_with("older copy: node"), "{told}");
    }

    #[test]
    fn two_memberships_at_one_entry_break_one_membership() {
        let mut memberships = Memberships::default();
        assert_eq!(memberships.check(0, &node(1, 2, majority(&[1, 2]))), Ok(()));
        assert_eq!(memberships.check(1, &node(2, 2, majority(&[1, 2]))), Ok(()));
        let told = memberships.check(2, &node(3, 2, Membership::default()));
        assert!(told.is_err_and(|told| told.starts_with("one membership: nodes 1 and 3")));
    }

    #[test]
    fn a_membership_that_is_not_the_last_in_the_log_breaks_membership_in_force() {
        let mut memberships = Memberships::default();
        memberships.stood.extend([(2, LEADER), (3, LeaderId { term: 9, ..LEADER })]);
        assert_eq!(memberships.check(0, &node(1, 2, majority(&[1, 2]))), Ok(()));
        memberships.stood.insert((4, LEADER));
        let told = memberships.check(1, &node(2, 2, majority(&[1, 2])));
        assert!(told.is_err_and(|told| told.starts_with("membership in force: node 2 goes by")));
    }

    #[test]
    fn a_membership_that_is_not_in_the_log_breaks_membership_in_force() {
        let told = Memberships::default().check(0, &node(1, 5, majority(&[1, 2])));
        assert!(told.is_err_and(|told| told.contains("which is not in its log")));
    }
}
