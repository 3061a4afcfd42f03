//! Quorums that are lost for good, and recovered from what a survivor holds (law 16, docs/design/002): by the production
//! code, on the survivor's simulated disk, with power failures in between. What the plan does not admit to losing stays.

use std::path::Path;
use std::sync::Arc;

use quorate::recover::direct::{force, forced, look, plan};
use quorate::recover::{FoundDirectory, Plan, RecoverError};
use quorate_core::{Incarnation, LogIds};
use quorate_wal::{Disk, ForcedRecovery};

use crate::chaos::Cure;
use crate::disk::Crash;
use crate::fault::Fault;
use crate::machine::with_book;
use crate::net::{Carries, Flight};
use crate::options::Options;
use crate::process::{DIRECTORY, GROUP, Shadow, SkewedClock};
use crate::repair::Hurt;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Event, World};

/// Quorums that were lost, and recovered.
const RECOVERED: &str = "quorums recovered";
/// Recoveries after which a node with its disk of before spoke to the others, and was refused.
const KEPT_OUT: &str = "old nodes kept out after a recovery";
/// Recoveries that lost committed entries.
const LOSSES: &str = "recoveries that lost entries";
/// Recoveries that the power failed in.
const INTERRUPTED: &str = "recoveries interrupted";
/// Committed entries that were lost with their quorums.
const LOST: &str = "entries lost with a quorum";
/// Answers of clients that went with them.
const LOST_ANSWERS: &str = "answers lost with a quorum";
/// Counters of recoveries; over many seeds none may be 0.
pub(crate) const RECOVERIES: [&str; 4] = [RECOVERED, KEPT_OUT, LOSSES, INTERRUPTED];

/// After so many attempts that found no quorum to lose the cluster keeps it.
const MOST_TRIES: u64 = 8;
/// Of so many power failures the last is over.
const MOST_FAILURES: u32 = 3;

/// When a quorum is lost, and what became of it.
pub(crate) struct Recoveries {
    /// Once clients have begun so many operations; never, if it is `None`.
    due: Option<u64>,
    tries: u64,
    /// A node that runs with its disk of before.
    old: Option<usize>,
    kept_out: bool,
}

impl Recoveries {
    pub(crate) fn new(options: &Options) -> Self {
        let most = options.operations * 3 / 4;
        let due = options.recovery.then(|| Rng::new(options.seed, 12).between(most / 6, most.max(1)));
        Self { due, tries: 0, old: None, kept_out: false }
    }
}

/// A stopped node whose disk is whole.
type Candidate = (usize, FoundDirectory);

fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

impl<W: Workload> World<W> {
    /// Loses a quorum, if it is time to, and if there is one that can be lost.
    pub(crate) fn lose_a_quorum_if_due(&mut self) -> bool {
        if self.chaos.over || self.recoveries.due.is_none_or(|due| self.clients.asked < due) {
            return false;
        }
        // Whether there is a quorum to lose shows only when everybody is stopped, and a fragile node must not be: it would
        // start again and take what its disk lost for a torn tail (docs/design/001).
        if self.places.iter().any(|place| place.fragile) {
            return false;
        }
        self.recoveries.tries += 1;
        let tries = self.recoveries.tries;
        if tries > MOST_TRIES {
            self.recoveries.due = None;
            return false;
        }
        let mut chance = Rng::new(self.options.seed, 12 + (tries << 16));
        if let Err(violation) = self.lose_a_quorum(&mut chance) {
            self.fail(violation);
        }
        true
    }

    fn lose_a_quorum(&mut self, chance: &mut Rng) -> Result<(), String> {
        self.check_parts()?;
        let leader = self.leader();
        self.stop_everybody(chance);
        let candidates = self.candidates()?;
        let Some((plan, survivors)) = draw_survivors(&candidates, leader, chance)? else {
            self.say(|| "no quorum to lose".to_owned());
            let soon = self.options.election_timeout.as_nanos() as u64 / 4;
            (0..self.places.len()).for_each(|at| self.schedule(self.now + soon, Event::Start(at)));
            return Ok(());
        };
        self.say(|| format!("a quorum is lost; nodes {survivors:?} survive\n{plan}"));
        let (at, plan, forced) = self.recover_survivor(plan, chance)?;
        let others = candidates.iter().filter(|(other, _)| *other != at);
        // One that could go on alone in the cluster of before is to be kept off (docs/design/002).
        let harmless: Vec<usize> = others.filter(|(_, one)| lone(one)).map(|(other, _)| *other).collect();
        let old = match chance.chance(700) && !harmless.is_empty() {
            true => Some(*chance.pick(&harmless)),
            false => None,
        };
        self.renew_others(at, old);
        self.go_on(at, &plan, &forced)
    }

    /// Everything stops at the same moment, some of it for good.
    fn stop_everybody(&mut self, chance: &mut Rng) {
        for at in 0..self.places.len() {
            let crash = self.crash_of(*chance.pick(&[Crash::KeepAll, Crash::Some, Crash::Some]));
            if self.places[at].running.is_some() {
                self.stop(at, crash);
            }
            self.on_process_gone(at);
            self.places[at].cut_off = None;
            self.places[at].disk.arm(None);
            self.places[at].disk.leave_space(None);
        }
    }

    /// A stop that loses what was not synced, if this run has such stops, or else one that loses nothing.
    fn crash_of(&self, crash: Crash) -> Crash {
        match self.options.faults.has(Fault::LostUnsynced) {
            true => crash,
            false => Crash::KeepAll,
        }
    }

    /// Nodes whose disks are whole, and hold something.
    fn candidates(&self) -> Result<Vec<Candidate>, String> {
        let mut candidates = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            if place.impaired || place.damaged || place.fragile || place.hurt.mending {
                continue;
            }
            match look(&self.disk_of(at), directory()) {
                Ok(found) => candidates.push((at, found)),
                Err(RecoverError::Blank { .. } | RecoverError::NotADirectory { .. }) => {}
                Err(error) => return Err(format!("recovery: node {} cannot be looked at: {error}", place.id)),
            }
        }
        Ok(candidates)
    }

    fn disk_of(&self, at: usize) -> Arc<dyn Disk> {
        Arc::new(self.places[at].disk.clone())
    }

    /// Recovers the survivor's disk, with power failures on the way: whole, or not at all. After each of them the operator
    /// plans anew, and may be left with another log, or another survivor: what nobody had synced may be gone.
    fn recover_survivor(&mut self, first: Plan, chance: &mut Rng) -> Result<(usize, Plan, ForcedRecovery), String> {
        let mut decided = first;
        for failures in 0..=MOST_FAILURES {
            let id = decided.survivor;
            let at = self.places.iter().position(|place| place.id == id).ok_or("recovery: of nobody")?;
            let (place, disk) = (&self.places[at], self.disk_of(at));
            let time = SkewedClock::new(self.now, place.drift, place.offset).wall(self.now);
            let fails = failures < MOST_FAILURES && chance.chance(500);
            if fails {
                place.disk.die_in(chance.below(120));
            }
            let incarnation = Incarnation(u128::from(id.0) << 64 | u128::from(self.disk_rng.bits() | 1));
            let wanted = forced(&decided, incarnation, time).map_err(|error| format!("recovery: {error}"))?;
            let result = force(&disk, &decided, incarnation, time);
            // The power fails now at the latest, and takes what was not synced, or only the process ends.
            let crash = self.crash_of(if chance.chance(500) { Crash::Some } else { Crash::DropAll });
            self.places[at].disk.stop(crash);
            let interrupted = result.is_err();
            self.counters.add(INTERRUPTED, u64::from(interrupted));
            match result {
                Err(error) if !fails => return Err(format!("recovery: node {id} cannot be recovered: {error}")),
                result => self.say(|| format!("node {id} is recovered: {:?}", result.map(|_| ()))),
            }
            let found = look(&disk, directory()).map_err(|error| format!("recovery: node {id} is lost: {error}"))?;
            if interrupted && found.cluster == decided.cluster {
                let others = decided.found.into_iter().filter(|one| one.node != id);
                decided = plan(others.chain([found])).map_err(|error| format!("recovery: no other plan: {error}"))?;
                continue;
            }
            if (found.cluster, found.incarnation) != (wanted.after, incarnation) {
                return Err(format!("recovery: node {id} is of cluster {} now", found.cluster));
            }
            check_recovered(&found, &wanted)?;
            self.promise_what_is_kept(at, &decided, &wanted)?;
            (self.places[at].incarnation, self.places[at].cluster) = (found.incarnation, found.cluster);
            return Ok((at, decided, wanted));
        }
        Err("recovery: the power fails for ever".to_owned())
    }

    /// What the survivor's disk must hold: all that it promised, and the forced entry.
    fn promise_what_is_kept(&mut self, at: usize, plan: &Plan, forced: &ForcedRecovery) -> Result<(), String> {
        let place = &mut self.places[at];
        let kept = plan.groups.iter().find(|group| group.group == GROUP).map(|group| group.kept).unwrap_or_default();
        let snapshot = plan.found.iter().find(|one| one.node == place.id).and_then(|one| one.groups.get(&GROUP));
        let mut possible = place.possible.take().unwrap_or_default();
        possible.retain(|disk| disk.log.last() == kept);
        if possible.is_empty() && snapshot.is_some_and(|group| group.snapshot == kept) {
            // A crash came between an installed snapshot and the log's reset to it.
            possible.push(Shadow { log: LogIds::after(kept), ..Shadow::default() });
        }
        if possible.is_empty() {
            return Err(format!("recovery: node {} is said to end at {kept}, where its disk did not", place.id));
        }
        for disk in &mut possible {
            for group in forced.groups.iter().filter(|group| group.group == GROUP) {
                let entry = group.forced.log_id;
                disk.vote = group.forced.vote;
                disk.log.append(entry.leader_id, entry.index);
            }
        }
        place.possible = Some(possible);
        Ok(())
    }

    /// The other nodes lose their disks, or are to be emptied by the rules; one comes back as it was.
    fn renew_others(&mut self, survivor: usize, old: Option<usize>) {
        self.cluster = self.places[survivor].cluster;
        let timeout = self.options.election_timeout.as_nanos() as u64;
        for at in (0..self.places.len()).filter(|at| *at != survivor) {
            if Some(at) != old {
                self.wipe(at);
                continue;
            }
            let place = &mut self.places[at];
            (place.impaired, place.damaged, place.hurt) = (true, true, Hurt::default());
            place.hurt.outdated = true;
            self.schedule(self.now + timeout, Event::Start(at));
            self.schedule(self.now + timeout * 12, Event::Heal(Cure::Replace(at)));
        }
        self.forget_copies();
        (self.recoveries.old, self.recoveries.kept_out, self.recoveries.due) = (old, false, None);
        self.forget_memberships();
    }

    /// The survivor starts, and what the cluster and its clients know from now on is what it holds.
    fn go_on(&mut self, at: usize, plan: &Plan, forced: &ForcedRecovery) -> Result<(), String> {
        self.start(at);
        let entry = forced.groups.iter().find(|group| group.group == GROUP).map(|group| group.forced.log_id);
        let (Some(entry), Some(running)) = (entry, &self.places[at].running) else {
            return Err(format!("recovery: node {} does not start: {:?}", plan.survivor, self.places[at].down));
        };
        let log = running.node.core().log().clone();
        for one in &plan.found {
            let Some(group) = one.groups.get(&GROUP) else { continue };
            if group.snapshot.index > log.purged().index && !log.holds(group.snapshot) {
                let (node, known, kept) = (one.node, group.snapshot, entry);
                return Err(format!("recovery: node {node} knows that {known} is committed, and it is lost by {kept}"));
            }
        }
        let (from, lost) = self.invariants.on_recovery(&log, entry)?;
        with_book(|book| book.on_recovery(from));
        let answers = self.on_lost_entries(from, from < entry.index);
        self.say(|| format!("recovered: {lost} entries from {from} on and {answers} answers are lost"));
        self.counters.add(RECOVERED, 1);
        self.counters.add(LOSSES, u64::from(lost > 0));
        self.counters.add(LOST, lost);
        self.counters.add(LOST_ANSWERS, answers);
        Ok(())
    }

    /// A message between nodes of different recoveries: the handshake refuses it, and its sender hears of that.
    pub(crate) fn on_other_recovery(&mut self, flight: &Flight) {
        let at = |place: usize| self.recoveries.old == Some(place);
        if self.places[flight.from].cluster == flight.cluster && (at(flight.from) || at(flight.to)) {
            self.counters.add(KEPT_OUT, u64::from(!self.recoveries.kept_out));
            self.recoveries.kept_out = true;
        }
        let peer = self.places[flight.to].id;
        let sender = &self.places[flight.from];
        if flight.carries == Carries::Entries
            && sender.paused_until.is_none()
            && let Some(running) = &sender.running
        {
            running.node.lost(peer);
            self.touch(flight.from);
        }
    }

    /// A node of before neither leads nor commits anything.
    pub(crate) fn watch_old_node(&mut self, at: usize, before: u64) {
        let place = &self.places[at];
        if place.cluster == self.cluster {
            return;
        }
        let Some(running) = &place.running else { return };
        if running.seen.leading.is_some() || running.seen.commit > before {
            self.fail(format!("recovery: node {} goes on in the cluster of before", place.id));
        }
    }
}

/// Whether this node is no quorum of its own, as far as its disk says, and does not even elect itself: with rules such as
/// elect 1 of 3, commit 3 of 3 it would lead, and commit nothing.
fn lone(one: &FoundDirectory) -> bool {
    let own = |id, incarnation| ((id, incarnation) == (one.node, one.incarnation)).then_some(());
    let mut memberships = one.groups.values().flat_map(|group| &group.memberships);
    memberships.all(|(_, membership)| membership.elect_reached(own).is_none()) && plan([one.clone()]).is_ok()
}

/// Which of the stopped nodes survive: so few that they are no quorum, and at least one. Who led is lost more often
/// than not.
fn draw_survivors(
    candidates: &[Candidate],
    leader: Option<usize>,
    chance: &mut Rng,
) -> Result<Option<(Plan, Vec<usize>)>, String> {
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    chance.shuffle(&mut order);
    if chance.chance(700) {
        order.retain(|(at, _)| leader != Some(*at));
    }
    while !order.is_empty() {
        match plan(order.iter().map(|(_, found)| found.clone())) {
            Ok(_) if order.len() > 1 && chance.chance(400) => {}
            Ok(plan) => return Ok(Some((plan, order.iter().map(|(at, _)| at + 1).collect()))),
            Err(RecoverError::QuorumReachable { .. }) => {}
            Err(RecoverError::NotMember { node, .. }) => {
                order.retain(|(_, found)| found.node != node);
                continue;
            }
            Err(error) => return Err(format!("recovery: no plan: {error}")),
        }
        order.pop();
    }
    Ok(None)
}

/// The directory is what was planned, and another recovery is refused: there is a quorum.
fn check_recovered(found: &FoundDirectory, forced: &ForcedRecovery) -> Result<(), String> {
    for group in &forced.groups {
        let now = found.groups.get(&group.group);
        let membership = now.and_then(|group| group.membership());
        if now.is_none_or(|now| now.last_log_id != group.forced.log_id)
            || membership != Some(&(group.forced.log_id, group.forced.membership.clone()))
        {
            return Err(format!("recovery: node {} does not end with {}", found.node, group.forced.log_id));
        }
    }
    match plan([found.clone()]) {
        Err(RecoverError::QuorumReachable { .. }) => Ok(()),
        other => Err(format!("recovery: node {} would be recovered again: {other:?}", found.node)),
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{ClusterId, LogId};

    use super::*;
    use crate::ledger::LedgerClients;
    use crate::trial::{cluster, cluster_with, serve, stop};

    /// A stopped cluster, what is found on the disk of its first node, and what would be forced on it.
    fn planned() -> (World<LedgerClients>, Plan, ForcedRecovery) {
        let mut world = cluster(3);
        serve(&mut world, 10);
        (0..3).for_each(|at| stop(&mut world, at));
        let found = look(&world.disk_of(0), directory()).expect("its disk is whole");
        let plan = plan([found]).expect("one of three is no quorum");
        let forced = forced(&plan, Incarnation(99), 7).expect("it can be forced");
        (world, plan, forced)
    }

    #[test]
    fn a_directory_that_is_not_what_was_forced_is_a_violation() {
        let (_, plan, wanted) = planned();
        let told = check_recovered(&plan.found[0], &wanted).expect_err("nothing was forced on it yet");
        assert!(told.starts_with("recovery: node 1 does not end with"), "{told}");
        let nothing = ForcedRecovery { groups: Vec::new(), ..wanted };
        let told = check_recovered(&plan.found[0], &nothing).expect_err("it is no quorum");
        assert!(told.starts_with("recovery: node 1 would be recovered again"), "{told}");
    }

    #[test]
    fn a_survivor_that_is_said_to_end_where_its_disk_did_not_is_a_violation() {
        let (mut world, mut plan, wanted) = planned();
        let possible = world.places[0].possible.clone();
        assert_eq!(world.promise_what_is_kept(0, &plan, &wanted), Ok(()));
        world.places[0].possible = possible;
        plan.groups[0].kept.index += 1;
        let told = world.promise_what_is_kept(0, &plan, &wanted).expect_err("its disk ended before");
        assert!(told.starts_with("recovery: node 1 is said to end at"), "{told}");
    }

    #[test]
    fn a_survivor_that_does_not_start_or_lacks_what_was_known_is_a_violation() {
        let (mut world, plan, wanted) = planned();
        let nothing = ForcedRecovery { groups: Vec::new(), ..wanted.clone() };
        let told = world.go_on(0, &plan, &nothing).expect_err("nothing was forced");
        assert!(told.starts_with("recovery: node 1 does not start"), "{told}");
        let mut known = plan;
        let group = known.found[0].groups.get_mut(&GROUP).expect("it has the group");
        group.snapshot = LogId { index: 999, ..group.snapshot };
        let told = world.go_on(0, &known, &wanted).expect_err("its log ends before");
        assert!(told.contains("is committed, and it is lost by"), "{told}");
    }

    #[test]
    fn a_node_that_goes_on_in_the_cluster_of_before_is_a_violation() {
        let mut world = cluster(3);
        let at = world.leader().expect("it leads");
        world.watch_old_node(at, 0);
        assert_eq!(world.violation, None);
        world.cluster = ClusterId(world.cluster.0 + 1);
        world.watch_old_node(at, 0);
        let told = world.violation.expect("it leads there");
        assert!(told.starts_with("recovery: node") && told.ends_with("goes on in the cluster of before"), "{told}");
    }

    #[test]
    fn no_quorum_is_lost_while_a_disk_may_have_lost_a_write() {
        let mut world = cluster_with(3, |options| options.recovery = true);
        world.recoveries.due = Some(0);
        world.places[2].fragile = true;
        assert!(!world.lose_a_quorum_if_due());
        assert!(world.places.iter().all(|place| place.running.is_some()), "nobody is stopped");
        world.places[2].fragile = false;
        assert!(world.lose_a_quorum_if_due());
        assert_eq!(world.violation, None);
    }
}
