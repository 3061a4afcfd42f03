//! Directed scenarios: partial partitions in which some quorum is still connected and must go on, and disturbances
//! that a healthy leader must not notice.
//!
//! The partitions are those of "Omni-Paxos: Breaking the Barriers of Partial Connectivity" (2023), section 2, and of
//! Cloudflare's outage of November 2020. Not asked for is a *constrained election*: that a leader is found although the
//! only node that reaches a quorum has a short log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use quorate_core::{ChangeMembers, ChangeTerms, LeaderIdMode, LeasePolicy, NodeId, Retain, Toggle};

use crate::disk::Crash;
use crate::fault::FaultSet;
use crate::history::Nanos;
use crate::ledger::LedgerClients;
use crate::options::Options;
use crate::rules::RuleKind;
use crate::world::{Event, World};

/// For so many election timeouts a partition lasts.
const LENGTH: u32 = 40;
/// For so many election timeouts a client waits. It may have asked a leader that nobody hears, and the gaps between commits
/// should be the cluster's; therefore no node hands writes on for its clients either.
const CLIENT_PATIENCE: u64 = 2;
/// A connected quorum commits at least once in so many election timeouts, also right after the partition began: the old
/// leader finds out, and elections may be split. So does a healthy leader whose follower is disturbed. The longest that
/// `quorate sim --matrix` printed for four first seeds were 6 and 4.
const PATIENCE: u64 = 8;

/// Who reaches whom, by role; [`Topology::leaders`] says which role led before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Role 0 reaches everybody, everybody else only role 0.
    QuorumLoss,
    /// As `QuorumLoss`, but the leader is cut off altogether and role 0 has a short log: only safety is asked for.
    Constrained,
    /// Two halves, and one node between that reaches both.
    Bridge,
    /// Each reaches its neighbours, with seven nodes also theirs, so that somebody reaches a quorum.
    Chained,
    /// Role 0 and the last do not reach each other; otherwise nothing is wrong.
    Cloudflare,
    /// What role 0 sends to the last role is lost.
    OneWayTo,
    /// What the last role sends to role 0 is lost.
    OneWayFrom,
    /// What anybody sends to role 0 is lost.
    Deaf,
    /// What role 0 sends is lost.
    Mute,
}

impl Topology {
    /// Every topology.
    pub const ALL: &'static [Topology] = &[
        Topology::QuorumLoss,
        Topology::Constrained,
        Topology::Bridge,
        Topology::Chained,
        Topology::Cloudflare,
        Topology::OneWayTo,
        Topology::OneWayFrom,
        Topology::Deaf,
        Topology::Mute,
    ];

    /// Whether messages from one role reach another.
    pub fn reaches(self, from: usize, to: usize, nodes: usize) -> bool {
        let (last, middle) = (nodes - 1, nodes / 2);
        match self {
            Topology::QuorumLoss => from == 0 || to == 0,
            Topology::Constrained => (from == 0 || to == 0) && from != 1 && to != 1,
            Topology::Bridge => from == middle || to == middle || (from < middle) == (to < middle),
            Topology::Chained => from.abs_diff(to) <= if nodes > 5 { 2 } else { 1 },
            Topology::Cloudflare => (from, to) != (0, last) && (from, to) != (last, 0),
            Topology::OneWayTo => (from, to) != (0, last),
            Topology::OneWayFrom => (from, to) != (last, 0),
            Topology::Deaf => to != 0,
            Topology::Mute => from != 0,
        }
    }

    /// Which roles the leader may have had before, one scenario each.
    pub fn leaders(self, nodes: usize) -> Vec<usize> {
        match self {
            Topology::QuorumLoss => vec![0, 1],
            Topology::Constrained => vec![1],
            Topology::Bridge | Topology::Chained => vec![0, nodes / 2, nodes - 1],
            Topology::Cloudflare => vec![0, 1],
            Topology::OneWayTo | Topology::OneWayFrom | Topology::Deaf | Topology::Mute => vec![0, nodes - 1],
        }
    }

    /// Whether this role and those that it hears and that hear it are a majority.
    pub fn has_quorum(self, role: usize, nodes: usize) -> bool {
        let both = |other: &usize| self.reaches(role, *other, nodes) && self.reaches(*other, role, nodes);
        (0..nodes).filter(|other| *other == role || both(other)).count() > nodes / 2
    }
}

/// What happens to a node while the leader is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It was cut off for long, and comes back.
    Rejoins,
    /// It is removed from the membership, and goes on without having heard of it.
    Removed,
    /// As `Removed`, and it restarts.
    RemovedRestarts,
    /// Its process is killed and started again, several times.
    Restarts,
    /// Its process stands still for a while, several times.
    Pauses,
    /// Its disk is 200 times slower for a while.
    SlowDisk,
    /// What the leader sends it arrives late.
    SlowLink,
    /// It comes back with a blank disk.
    Wiped,
}

impl Disturbance {
    /// Every disturbance.
    pub const ALL: &'static [Disturbance] = &[
        Disturbance::Rejoins,
        Disturbance::Removed,
        Disturbance::RemovedRestarts,
        Disturbance::Restarts,
        Disturbance::Pauses,
        Disturbance::SlowDisk,
        Disturbance::SlowLink,
        Disturbance::Wiped,
    ];
}

/// A cluster for a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where chance comes from: latencies and jitter.
    pub seed: u64,
    /// Voters.
    pub nodes: usize,
    /// How leader ids compare.
    pub mode: LeaderIdMode,
    /// Whether the leader asks for leases.
    pub lease: LeasePolicy,
    /// Whether nodes notice that links are cut: sending fails at once.
    pub noticed: bool,
}

impl Setting {
    /// Both ways to compare leader ids, both lease policies, and cuts that are noticed and that are not.
    pub fn all(seed: u64, nodes: usize) -> Vec<Self> {
        let mut settings = Vec::new();
        for mode in [LeaderIdMode::Advanced, LeaderIdMode::Standard] {
            for lease in [LeasePolicy::FastFailover, LeasePolicy::LeaseReads] {
                for noticed in [false, true] {
                    let seed = seed + settings.len() as u64;
                    settings.push(Self { seed, nodes, mode, lease, noticed });
                }
            }
        }
        settings
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { seed, nodes, mode, lease, noticed } = self;
        let cuts = if *noticed { "noticed" } else { "unnoticed" };
        write!(f, "{nodes} nodes, {mode:?}, {lease:?}, cuts {cuts}, seed {seed}")
    }
}

/// How a scenario went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong, if something was.
    pub violation: Option<String>,
    /// Writes that were acknowledged meanwhile.
    pub committed: u64,
    /// The longest time without one, in election timeouts.
    pub longest_gap: u64,
    /// New leaders meanwhile.
    pub elections: usize,
    /// Those of them in the second half.
    pub late_elections: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { violation, committed, longest_gap, elections, .. } = self;
        write!(f, "{committed} writes, {longest_gap} election timeouts without one at most, {elections} elections")?;
        match violation {
            Some(violation) => write!(f, ", VIOLATION {violation}"),
            None => Ok(()),
        }
    }
}

/// Partitions a cluster, and asks that a connected quorum commits meanwhile, that a leader who still has one stays, and
/// that leadership comes to rest. `leader` is the role that led before.
pub fn partition(setting: Setting, topology: Topology, leader: usize, trace: bool) -> Outcome {
    let mut scene = Scene::new(setting, trace);
    if scene.begin() {
        let first = scene.leader_place();
        let nodes = setting.nodes;
        let order: Vec<usize> = (0..nodes).map(|role| (first + nodes + role - leader) % nodes).collect();
        if topology == Topology::Constrained {
            scene.cut(&order, |from, to| from == 0 || to == 0);
            scene.load(8);
            scene.rest();
        }
        scene.cut(&order, |from, to| !topology.reaches(from, to, nodes));
        scene.load(LENGTH);
        let kept = topology.has_quorum(leader, nodes);
        let patience = match topology {
            Topology::Constrained => None,
            Topology::QuorumLoss | Topology::Bridge | Topology::Chained | Topology::Cloudflare => Some(PATIENCE),
            Topology::OneWayTo | Topology::OneWayFrom | Topology::Deaf | Topology::Mute => Some(PATIENCE),
        };
        scene.judge(patience, kept);
        scene.end();
    }
    scene.outcome()
}

/// Disturbs a follower, and asks that the leader stays, and goes on committing.
pub fn disturb(setting: Setting, disturbance: Disturbance, trace: bool) -> Outcome {
    let mut scene = Scene::new(setting, trace);
    if scene.begin() {
        let first = scene.leader_place();
        let at = (first + 1) % setting.nodes;
        scene.disturb(disturbance, first, at);
        scene.judge(Some(PATIENCE), true);
        scene.end();
    }
    scene.outcome()
}

/// Every scenario in every setting, with 3, 5 and 7 nodes, whose name contains this: its name, and how it went.
pub fn all(seed: u64, only: &str, trace: bool, mut told: impl FnMut(&str, &Outcome)) {
    for setting in [3, 5, 7].into_iter().flat_map(|nodes| Setting::all(seed, nodes)) {
        for topology in Topology::ALL {
            for leader in topology.leaders(setting.nodes) {
                let name = format!("{topology:?}, led by role {leader}, {setting}");
                if name.contains(only) {
                    told(&name, &partition(setting, *topology, leader, trace));
                }
            }
        }
        for disturbance in Disturbance::ALL {
            let name = format!("{disturbance:?}, {setting}");
            if name.contains(only) {
                told(&name, &disturb(setting, *disturbance, trace));
            }
        }
    }
}

struct Scene {
    world: World<LedgerClients>,
    noticed: bool,
    outcome: Outcome,
}

impl Scene {
    fn new(setting: Setting, trace: bool) -> Self {
        let mut options = Options::of_seed(setting.seed);
        let timeout = Duration::from_secs(1);
        (options.voters, options.spares, options.mode, options.lease_reads) =
            (setting.nodes as u64, 0, setting.mode, setting.lease == LeasePolicy::LeaseReads);
        (options.election_timeout, options.latency, options.disk_latency) = (timeout, timeout / 100, timeout / 500);
        (options.faults, options.message_faults) = (FaultSet::NONE, 0);
        (options.membership, options.triggers, options.beyond_budget) = (false, false, false);
        options.recovery = false;
        (options.reads, options.batches, options.think, options.operations) = (0, 0, timeout / 2, 0);
        (options.clients, options.sessions, options.hasty) = (2, 0, false);
        (options.conditions, options.together, options.first_rules) = (0, 0, RuleKind::Majority);
        options.forwards = 0;
        options.config = options.draw_config(&mut crate::rng::Rng::new(setting.seed, 7));
        (options.config.pre_vote, options.config.check_quorum) = (Toggle::On, Toggle::On);
        let clients = LedgerClients::new(0, options.lease_reads, options.inline_applies);
        let outcome = Outcome { violation: None, committed: 0, longest_gap: 0, elections: 0, late_elections: 0 };
        let mut world = World::new(options, clients, trace);
        world.clients.patience = CLIENT_PATIENCE;
        Self { world, noticed: setting.noticed, outcome }
    }

    /// A leader, some writes, and a rest in which everybody gets as far as the leader.
    fn begin(&mut self) -> bool {
        self.world.boot_cluster();
        let patience = self.timeouts(40);
        if !self.world.run_until(patience, |world| world.leader().is_some()) {
            self.world.fail("no leader at the beginning");
            return false;
        }
        self.load(8);
        self.rest();
        self.outcome =
            Outcome { committed: 0, longest_gap: 0, elections: 0, late_elections: 0, ..self.outcome.clone() };
        self.world.violation.is_none()
    }

    fn timeouts(&self, many: u32) -> Nanos {
        (self.world.options.election_timeout * many).as_nanos() as u64
    }

    fn leader_place(&self) -> usize {
        self.world.leader().unwrap_or(0)
    }

    /// Clients write for so many election timeouts.
    fn load(&mut self, timeouts: u32) {
        self.world.clients.limit = u64::MAX;
        for client in 0..self.world.options.clients {
            if self.world.clients.is_idle(client) {
                self.world.schedule(self.world.now, Event::Client(client));
            }
        }
        let (leaders, mut gap) = (self.world.invariants.leaders(), 0);
        let mut half = leaders;
        for step in 0..timeouts {
            if step == timeouts / 2 {
                half = self.world.invariants.leaders();
            }
            let (before, until) = (self.world.clients.acknowledged, self.world.now + self.timeouts(1));
            self.world.run_until(until, |_| false);
            let served = self.world.clients.acknowledged - before;
            gap = if served == 0 { gap + 1 } else { 0 };
            self.outcome.committed += served;
            self.outcome.longest_gap = self.outcome.longest_gap.max(gap);
        }
        self.outcome.elections += self.world.invariants.leaders() - leaders;
        self.outcome.late_elections += self.world.invariants.leaders() - half;
    }

    /// Clients stop, and every node that is reached gets as far as its leader.
    fn rest(&mut self) {
        self.world.clients.limit = self.world.clients.asked;
        let until = self.world.now + self.timeouts(12);
        self.world.run_until(until, |_| false);
    }

    fn cut(&mut self, order: &[usize], is_cut: impl Fn(usize, usize) -> bool) {
        self.world.net.heal();
        let mut refused: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for (from_role, from) in order.iter().enumerate() {
            for (to_role, to) in order.iter().enumerate() {
                if from != to && is_cut(from_role, to_role) {
                    self.world.net.cut(*from, *to);
                    refused.entry(*from).or_default().push(self.world.places[*to].id);
                }
            }
        }
        for (from, peers) in refused.into_iter().filter(|_| self.noticed) {
            if let Some(running) = &self.world.places[from].running {
                peers.iter().for_each(|peer| running.node.refused(*peer));
                running.outbox.refuse(peers);
            }
            self.world.touch(from);
        }
        self.world.settle();
    }

    fn restart(&mut self, at: usize) {
        self.world.stop(at, Crash::KeepAll);
        self.world.on_process_gone(at);
        self.world.schedule(self.world.now + 1_000_000, Event::Start(at));
    }

    fn disturb(&mut self, disturbance: Disturbance, leader: usize, at: usize) {
        let order: Vec<usize> = (0..self.world.places.len()).collect();
        match disturbance {
            Disturbance::Rejoins => {
                self.cut(&order, |from, to| (from == at) != (to == at));
                self.load(LENGTH / 2);
                self.world.calm();
            }
            Disturbance::Removed | Disturbance::RemovedRestarts => {
                self.cut(&order, |from, to| (from == at) != (to == at));
                self.remove(leader, at);
                self.load(8);
                self.check_removed(leader, at);
                self.world.calm();
                if disturbance == Disturbance::RemovedRestarts {
                    self.restart(at);
                }
            }
            Disturbance::Restarts => {
                for _ in 0..6 {
                    self.restart(at);
                    self.load(4);
                }
            }
            Disturbance::Pauses => {
                for _ in 0..4 {
                    let until = self.world.now + self.timeouts(4);
                    self.world.pause(at, until);
                    self.load(7);
                }
            }
            Disturbance::SlowDisk => {
                self.world.places[at].slow_disk = 200;
                self.load(LENGTH / 2);
                self.world.places[at].slow_disk = 1;
            }
            Disturbance::SlowLink => {
                for _ in 0..4 {
                    let until = self.world.now + self.timeouts(4);
                    self.world.net.clog(leader, at, until);
                    self.load(7);
                }
            }
            Disturbance::Wiped => self.world.wipe(at),
        }
        self.load(LENGTH / 2);
    }

    fn remove(&mut self, leader: usize, at: usize) {
        let (id, call) = (self.world.places[at].id, self.world.clients.new_call());
        if let Some(running) = &mut self.world.places[leader].running {
            running.node.change(call, ChangeMembers::RemoveVoters([id].into()), Retain::Remove, ChangeTerms::default());
        }
        self.world.pending.insert(call, leader);
        self.world.touch(leader);
        self.world.settle();
    }

    /// The leader has committed that the node is no member.
    fn check_removed(&mut self, leader: usize, at: usize) {
        let id = self.world.places[at].id;
        let removed = self.world.places[leader].running.as_ref().is_some_and(|running| {
            let core = running.node.core();
            !core.membership().nodes.contains_key(&id) && core.membership_log_id().index <= core.commit()
        });
        if !removed {
            self.world.fail(format!("node {id} was not removed: nothing is shown"));
        }
    }

    /// Asks for a commit in so many election timeouts, if it is asked for, and for a leadership that comes to rest.
    fn judge(&mut self, patience: Option<u64>, leader_stays: bool) {
        let Outcome { longest_gap, elections, late_elections, .. } = self.outcome;
        if patience.is_some_and(|patience| longest_gap > patience) {
            self.world.fail(format!("a connected quorum commits nothing for {longest_gap} election timeouts"));
        }
        if patience.is_some() && late_elections > 0 {
            self.world.fail(format!("leadership does not come to rest: {late_elections} elections in the second half"));
        }
        if leader_stays && elections > 0 {
            self.world.fail(format!("a leader that reaches a quorum is replaced: {elections} elections"));
        }
    }

    /// Everything heals, and all that every run asks for is asked for.
    fn end(&mut self) {
        self.world.start_operator();
        if self.world.violation.is_none() {
            self.world.heal_and_serve();
        }
        if self.world.violation.is_none() {
            self.world.converge();
        }
    }

    fn outcome(mut self) -> Outcome {
        self.outcome.violation = self.world.violation;
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Scene {
        let setting = Setting::all(1, 3)[0];
        let mut scene = Scene::new(setting, false);
        assert!(scene.begin());
        scene
    }

    #[test]
    fn a_removal_that_is_not_made_shows_nothing() {
        let mut scene = begun();
        let leader = scene.leader_place();
        let at = (leader + 1) % 3;
        scene.load(8);
        scene.check_removed(leader, at);
        let violation = scene.world.violation.take().expect("nobody was removed");
        assert!(violation.contains("was not removed"), "{violation}");
        scene.remove(leader, at);
        scene.load(8);
        scene.check_removed(leader, at);
        assert_eq!(scene.world.violation, None);
    }
}
