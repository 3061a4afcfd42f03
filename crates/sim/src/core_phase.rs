//! A part of the cluster that can elect and commit is connected and well; the rest is cut off, heard only, hears only, stands
//! still, is down, or slow. That part has a leader soon, and serves.

use std::collections::BTreeSet;

use quorate_core::{Membership, Toggle};

use crate::disk::Crash;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Down, Place, World};

/// Cores that were led and served.
const SERVED: &str = "connected core serves";
/// Of them, those whose membership was joint when they were chosen.
const JOINT: &str = "connected core in joint membership";
/// Of them, those that had to elect: who led was not among them.
const ELECTED: &str = "connected core without its leader";
/// Situations of cores, beside what the rest is like.
pub(crate) const CORES: [&str; 3] = [SERVED, JOINT, ELECTED];

/// What a node outside the core is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    /// It reaches nobody of the core, and is reached by nobody.
    CutOff,
    /// It does not run.
    Down,
    /// It stands still.
    Paused,
    /// It hears the core, and is not heard.
    Hears,
    /// The core hears it, and it hears nobody.
    Heard,
    /// Its disk and its applies are slow; it reaches everybody of the core.
    Slow,
}

impl Outside {
    const ALL: [Outside; 6] =
        [Outside::CutOff, Outside::Down, Outside::Paused, Outside::Hears, Outside::Heard, Outside::Slow];

    const fn name(self) -> &'static str {
        match self {
            Outside::CutOff => "core beside a node cut off",
            Outside::Down => "core beside a node that is down",
            Outside::Paused => "core beside a paused node",
            Outside::Hears => "core beside a node that hears",
            Outside::Heard => "core beside a node that is heard",
            Outside::Slow => "core beside a slow node",
        }
    }
}

/// What the rest is like, in some run.
pub(crate) const OUTSIDE: [&str; 6] = [
    Outside::CutOff.name(),
    Outside::Down.name(),
    Outside::Paused.name(),
    Outside::Hears.name(),
    Outside::Heard.name(),
    Outside::Slow.name(),
];

/// A connected core, while there is one.
pub(crate) struct CorePhase {
    members: BTreeSet<usize>,
    /// Also heard and hearing, but not well.
    slow: BTreeSet<usize>,
    /// They are not started.
    down: BTreeSet<usize>,
}

/// Of a thousand times, so often a client asks a node of the core, and not just any.
const ASKED_OF_THE_CORE: u32 = 800;

impl CorePhase {
    /// Whom a client asks: who is believed to lead, if that is one of the core, or another one of it, or anyone.
    pub(crate) fn someone(&self, known: Option<usize>, anywhere: usize, chance: &mut Rng) -> usize {
        if !chance.chance(ASKED_OF_THE_CORE) {
            return anywhere;
        }
        let members = Vec::from_iter(self.members.iter().chain(&self.slow).copied());
        known.filter(|at| members.contains(at)).unwrap_or_else(|| *chance.pick(&members))
    }
}

/// At most so many election timeouts pass without new faults before a core is chosen.
const QUIET_TAIL: u64 = 4;
/// An election takes longer by so many of the least election timeouts than where everybody can be asked
/// ([`patience_for_a_leader`](World::patience_for_a_leader)): of the voters no quorum but one may be left, so that each of
/// them is needed, and one that campaigns with a log that is too short delays the one that can win by its own time-out.
const LONGER: u32 = 4;

impl<W: Workload> World<W> {
    /// Whether this node is not started, because it is outside a core.
    pub(crate) fn is_kept_down(&self, at: usize) -> bool {
        self.chaos.core.as_ref().is_some_and(|core| core.down.contains(&at))
    }

    /// Whether everything of this node that can get well did, and nothing happens to it any more.
    pub(crate) fn is_well_for_good(&self, at: usize) -> bool {
        self.chaos.healed || self.chaos.core.as_ref().is_some_and(|core| core.members.contains(&at))
    }

    /// The phase with a core: it must have a leader, and serve. What is not in it stays as it is put there.
    pub(crate) fn serve_in_a_core(&mut self) {
        if !self.options.core || self.options.beyond_budget {
            return;
        }
        let mut chance = Rng::new(self.options.seed, 21);
        self.say(|| "quiet tail".to_owned());
        self.chaos.over = true;
        self.net.quiet = true;
        self.restore_tunables();
        self.run_until(self.now + self.nanos(chance.below(QUIET_TAIL + 1) as u32), |_| false);
        for at in 0..self.places.len() {
            if self.places[at].down == Down::Stopped {
                self.start(at);
            }
        }
        if self.violation.is_some() {
            return;
        }
        let Some(members) = self.draw_core(&mut chance) else { return };
        let joint = self.memberships_that_count().iter().any(Membership::is_joint);
        let elects = self.leader().is_some_and(|leader| !members.contains(&leader));
        let outside = self.part(members, &mut chance);
        self.settle();
        let whole = self.net.clear_at().max(self.now);
        let patience = self.patience_for_a_leader() + self.nanos(LONGER);
        let led = self.run_until(whole + patience, |world| world.leader_of_core().is_some());
        if !led {
            return self.fail("liveness: no leader of a connected core");
        }
        if let Some(lacking) = self.serve_again() {
            return self.fail(format!("liveness: {lacking} is served by a connected core"));
        }
        self.chaos.core = None;
        if self.violation.is_none() {
            self.counters.add(SERVED, 1);
            self.counters.add(JOINT, joint.into());
            self.counters.add(ELECTED, elects.into());
            outside.iter().for_each(|outside| self.counters.add(outside.name(), 1));
        }
    }

    /// Whether a core may count on this node: it is well, has lost nothing, and no change that was asked of it may come yet.
    fn is_sound(&self, at: usize) -> bool {
        let place = &self.places[at];
        let whole = !place.impaired && !place.damaged && !place.fragile && place.cluster == self.cluster;
        let promises = |place: &Place<W>| {
            place.running.as_ref().is_none_or(|running| running.node.core().lost_entries().is_some())
        };
        whole && !promises(place) && self.pending.values().all(|asked| *asked != at)
    }

    /// Nodes that are enough, whatever membership that counts comes to be in force, and seldom more of them than must be.
    /// `None`: there is no such part of the cluster, or it is all of it.
    fn draw_core(&self, chance: &mut Rng) -> Option<BTreeSet<usize>> {
        let memberships = self.memberships_that_count();
        let mut order: Vec<usize> = (0..self.places.len()).filter(|at| self.is_sound(*at)).collect();
        chance.shuffle(&mut order);
        if chance.chance(600) {
            // Who leads is the first that is left out.
            order.sort_by_key(|at| self.leader() != Some(*at));
        }
        let mut members: BTreeSet<usize> = order.iter().copied().collect();
        for at in order {
            members.remove(&at);
            if !self.is_quorum(&memberships, &members) || chance.chance(100) {
                members.insert(at);
            }
        }
        let enough = !memberships.is_empty() && self.is_quorum(&memberships, &members);
        (enough && members.len() < self.places.len()).then_some(members)
    }

    /// Heals the core, and puts the rest as it is to be.
    fn part(&mut self, members: BTreeSet<usize>, chance: &mut Rng) -> Vec<Outside> {
        let mut core = CorePhase { members, slow: BTreeSet::new(), down: BTreeSet::new() };
        self.say(|| format!("a core of nodes {:?}", core.members.iter().map(|at| at + 1).collect::<Vec<_>>()));
        self.net.heal();
        let mut put = Vec::new();
        for at in 0..self.places.len() {
            if core.members.contains(&at) {
                self.calm_node(at);
                continue;
            }
            let outside = self.draw_outside(at, chance);
            self.say(|| format!("node {}: {outside:?}", at + 1));
            put.push(outside);
            for other in (0..self.places.len()).filter(|other| *other != at) {
                let inside = core.members.contains(&other);
                if !(inside && matches!(outside, Outside::Heard | Outside::Slow)) {
                    self.net.cut(at, other);
                }
                if !(inside && matches!(outside, Outside::Hears | Outside::Slow)) {
                    self.net.cut(other, at);
                }
            }
            match outside {
                Outside::CutOff | Outside::Hears | Outside::Heard => {}
                Outside::Down => {
                    self.stop(at, Crash::KeepAll);
                    self.on_process_gone(at);
                    core.down.insert(at);
                }
                Outside::Paused => {
                    let until = self.now + self.nanos(10_000);
                    self.pause(at, until);
                    self.places[at].paused_until = Some(until);
                }
                Outside::Slow => {
                    core.slow.insert(at);
                    self.places[at].slow_disk = chance.between(5, 50);
                    self.places[at].slow_apply = chance.between(10, 200);
                }
            }
        }
        self.chaos.core = Some(core);
        self.tell_refused();
        put
    }

    /// A node whose disk is not whole, and one that does not run, is cut off. One that leads is not heard any more: who
    /// hears its leader elects no other, and without check-quorum that leader never finds out. Nor is one that campaigns
    /// without asking first: whoever votes for it waits for it, and it cannot know.
    fn draw_outside(&self, at: usize, chance: &mut Rng) -> Outside {
        let place = &self.places[at];
        let drawn = *chance.pick(&Outside::ALL);
        let Some(running) = place.running.as_ref().filter(|_| !place.fragile && !place.damaged && !place.impaired)
        else {
            return Outside::CutOff;
        };
        let leads = self.leader() == Some(at) || running.seen.leading.is_some();
        match drawn {
            Outside::Heard if leads || place.config.pre_vote == Toggle::Off => Outside::CutOff,
            Outside::Slow if leads => Outside::Down,
            _ => drawn,
        }
    }

    /// The node of the core, or beside it and slow, that leads under the greatest leader id of them, once a commit quorum
    /// of its voters has accepted it.
    fn leader_of_core(&self) -> Option<usize> {
        let core = self.chaos.core.as_ref()?;
        let reached = |at: &usize| core.members.contains(at) || core.slow.contains(at);
        let leading = |at: &usize| self.places[*at].running.as_ref().and_then(|running| running.seen.leading);
        let at = self.up().filter(|at| reached(at) && leading(at).is_some()).max_by_key(leading)?;
        let leader = self.places[at].running.as_ref()?.node.core();
        let follows = |id, incarnation| {
            let known = |at: &usize| self.places[*at].id == id && self.places[*at].incarnation == incarnation;
            let at = self.up().filter(reached).find(known)?;
            (self.places[at].running.as_ref()?.node.core().vote() == leader.vote()).then_some(())
        };
        leader.membership().commit_reached(follows).map(|()| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{cluster_with, serve};

    #[test]
    fn a_core_that_has_no_quorum_has_no_leader_and_that_is_a_violation() {
        let fails = |others: bool| {
            let mut world = cluster_with(5, |options| options.core = true);
            serve(&mut world, 8);
            let members = if others { BTreeSet::from([0, 1, 2]) } else { BTreeSet::from([0, 1]) };
            let memberships = world.memberships_that_count();
            assert_eq!(world.is_quorum(&memberships, &members), others);
            world.part(members, &mut Rng::new(1, 1));
            world.settle();
            let until = world.now + world.nanos(40);
            world.run_until(until, |world| world.leader_of_core().is_some() && world.now + 1 >= until)
        };
        assert!(fails(true));
        assert!(!fails(false), "two of five");
    }

    #[test]
    fn a_node_that_lost_something_is_in_no_core() {
        let mut world = cluster_with(5, |options| options.core = true);
        (world.places[1].impaired, world.places[3].damaged) = (true, true);
        for seed in 0..50 {
            let members = world.draw_core(&mut Rng::new(seed, 1));
            assert_eq!(members, Some(BTreeSet::from([0, 2, 4])));
        }
        world.places[4].fragile = true;
        assert_eq!(world.draw_core(&mut Rng::new(1, 1)), None, "two of five");
    }
}
