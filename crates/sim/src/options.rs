//! Everything a run depends on. All of it follows from the seed, and all of it is printed.

use std::fmt;
use std::time::Duration;

use quorate::Config;
use quorate_core::{LeaderIdMode, OnLostLog, Toggle};

use crate::edits::Edits;
use crate::fault::{Fault, FaultSet};
use crate::rng::Rng;
use crate::rules::RuleKind;

/// What a run is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// Voters of the first membership, from 1 to 7.
    pub voters: u64,
    /// Further nodes, blank at first, that membership changes may take in.
    pub spares: u64,
    /// How leader ids compare.
    pub mode: LeaderIdMode,
    /// The quorum rules of the first membership.
    pub first_rules: RuleKind,
    /// Clients that write and read at the same time.
    pub clients: u32,
    /// Operations that clients start in the first phase.
    pub operations: u64,
    /// Most virtual time of the first phase, in which faults happen.
    pub length: Duration,
    /// The least election timeout; the other times of the run follow from it.
    pub election_timeout: Duration,
    /// A message takes about this long.
    pub latency: Duration,
    /// A disk write takes about this long.
    pub disk_latency: Duration,
    /// Between two faults, about.
    pub fault_interval: Duration,
    /// What a client does between two operations, about.
    pub think: Duration,
    /// The kinds of faults of this run.
    pub faults: FaultSet,
    /// Of a thousand messages, so many suffer each of the enabled faults of single messages.
    pub message_faults: u32,
    /// Of a thousand operations, so many are reads.
    pub reads: u32,
    /// Of a thousand times, so often a client starts several writes at once.
    pub batches: u32,
    /// Of a thousand such times, so often those without a session are asked for in one call.
    pub together: u32,
    /// Whether clients ask on without waiting for answers, so that a leader which is cut off takes many writes.
    pub hasty: bool,
    /// Of a thousand commands without a session, so many are only for the leader that took an earlier one.
    pub conditions: u32,
    /// Of a thousand attempts to write, so many go to any node, which hands them to the leader.
    pub forwards: u32,
    /// Of a thousand clients, so many have sessions.
    pub sessions: u32,
    /// Whether the membership changes.
    pub membership: bool,
    /// Whether elections, snapshots and purges are triggered by hand.
    pub triggers: bool,
    /// Faults may exceed what the cluster promises to survive: then only safety, or a clean halt, is required.
    pub beyond_budget: bool,
    /// Whether nodes mend damaged disks and are repaired by their peers; otherwise they refuse to start, and the operator
    /// gives them blank disks.
    pub mends: bool,
    /// Whether a quorum is lost for good in the first phase, and recovered from what a survivor holds.
    pub recovery: bool,
    /// Whether, before everything heals, a part that can elect and commit is well and has to serve without the rest.
    pub core: bool,
    /// Whether the cluster spends its leases on reads; then half of the linearizable reads are lease reads.
    pub lease_reads: bool,
    /// Whether applies run on the thread that delivers the commit.
    pub inline_applies: bool,
    /// Of a thousand times that a state machine is asked for a snapshot, so often it says: not now.
    pub deferrals: u32,
    /// Whether snapshots are written from a copy of the state while applies go on.
    pub frozen_snapshots: bool,
    /// Whether every invariant of the core's steps is asserted after each step of every node.
    pub check_steps: bool,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// The nodes' tunables.
    pub config: Config,
    /// What is left out of the run.
    pub edits: Edits,
}

impl Options {
    /// The options of a seed: each draws a random subset of faults and features, and often tiny limits.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0);
        let election_timeout = Duration::from_millis(*rng.pick(&[150, 300, 1000, 1000, 2000, 2000, 4000]));
        let faults = Fault::ALL.iter().copied().filter(|_| rng.chance(550)).collect();
        let voters = *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7]);
        let mut options = Self {
            seed,
            voters,
            spares: if rng.chance(500) { rng.between(1, 2).min(7 - voters.min(6)) } else { 0 },
            mode: if rng.chance(700) { LeaderIdMode::Advanced } else { LeaderIdMode::Standard },
            first_rules: RuleKind::Majority,
            clients: rng.between(2, 6) as u32,
            operations: rng.between(300, 500),
            length: election_timeout * 120,
            election_timeout,
            latency: election_timeout / *rng.pick(&[20, 50, 200]),
            disk_latency: election_timeout / *rng.pick(&[50, 200, 1000]),
            fault_interval: election_timeout * rng.between(1, 6) as u32 / 2,
            think: election_timeout / rng.between(2, 12) as u32,
            faults,
            message_faults: *rng.pick(&[1, 5, 20]),
            reads: *rng.pick(&[200, 400, 600]),
            batches: *rng.pick(&[0, 100, 300]),
            together: 0,
            hasty: false,
            conditions: 0,
            forwards: 0,
            sessions: 0,
            membership: rng.chance(500),
            triggers: rng.chance(500),
            beyond_budget: rng.chance(50),
            mends: Rng::new(seed, 6).chance(750),
            recovery: Rng::new(seed, 11).chance(30),
            core: Rng::new(seed, 22).chance(400),
            lease_reads: rng.chance(300),
            inline_applies: rng.chance(500),
            deferrals: 0,
            frozen_snapshots: false,
            check_steps: true,
            segment_bytes: *rng.pick(&[16 << 10, 16 << 10, 32 << 10, 128 << 10]),
            config: Config::default(),
            edits: Edits::default(),
        };
        options.recovery &= !options.beyond_budget;
        options.config = options.draw_config(&mut rng);
        options.draw_workload(&mut Rng::new(seed, 9));
        options
    }

    /// The same run, which stays within the budget, loses a quorum for good, and recovers it.
    #[must_use]
    pub fn losing_a_quorum(self) -> Self {
        Self { recovery: true, beyond_budget: false, ..self }
    }

    /// How `quorate sim` is told to run what was drawn from its seed.
    pub fn named(&self) -> String {
        let recovery = if self.recovery { " --recovery" } else { "" };
        format!("--seed {}{recovery}", self.seed)
    }

    /// What clients and the operator do, beside what the run's own generator decides.
    fn draw_workload(&mut self, rng: &mut Rng) {
        self.sessions = *rng.pick(&[0, 400, 800]);
        self.hasty = rng.chance(150);
        self.conditions = *rng.pick(&[0, 100, 400]);
        self.forwards = *rng.pick(&[0, 0, 200, 600]);
        self.deferrals = *rng.pick(&[0, 0, 300, 700]);
        self.together = *rng.pick(&[0, 500, 1000]);
        self.first_rules = if rng.chance(700) { RuleKind::Majority } else { *rng.pick(&RuleKind::ALL) };
        self.frozen_snapshots = rng.chance(400);
    }

    /// Whether this node is a voter of the first membership.
    pub(crate) fn wants(&self, id: quorate_core::NodeId) -> bool {
        id.0 <= self.voters
    }

    /// Tunables for these times, with tiny limits more often than not.
    pub(crate) fn draw_config(&self, rng: &mut Rng) -> Config {
        let timeout = self.election_timeout;
        let max_append_bytes = *rng.pick(&[1, 200, 2000, 1 << 20]);
        let mut config = Config {
            election_timeout_min: timeout,
            election_timeout_max: timeout * 2,
            heartbeat_interval: timeout / *rng.pick(&[3, 5, 8]),
            leader_id_mode: self.mode,
            pre_vote: toggle(rng.chance(850)),
            check_quorum: toggle(rng.chance(850)),
            elect: Toggle::On,
            max_append_bytes,
            max_inflight_appends: *rng.pick(&[1, 1, 2, 4]),
            max_inflight_bytes: max_append_bytes.max(*rng.pick(&[1, 500, 8 << 20])),
            retransmit_timeout: timeout * *rng.pick(&[1, 2]),
            snapshot_entries: *rng.pick(&[0, 3, 10, 50, 200]),
            keep_entries: *rng.pick(&[0, 1, 5, 100]),
            // Two clocks of the simulation differ by 2 % at most.
            max_clock_drift: timeout / 40,
            tail_cache_bytes: *rng.pick(&[1, 1000, 1 << 20]),
            snapshot_bytes: *rng.pick(&[0, 0, 0, 500, 20_000]),
            snapshot_interval: timeout * *rng.pick(&[0, 0, 0, 1, 10]),
            max_kept_bytes: *rng.pick(&[0, 1000, 256 << 20, 256 << 20]),
            replication_lag_threshold: *rng.pick(&[0, 3, 5000, 5000]),
            proposal_window_bytes: *rng.pick(&[250, 2000, 64 << 20, 64 << 20]),
            ..Config::default()
        };
        config.max_command_bytes = config.max_command_bytes.min(config.proposal_window_bytes);
        config.max_disk_lag = timeout * *rng.pick(&[1, 2, 10]);
        config.on_lost_log = *rng.pick(&[OnLostLog::Halt, OnLostLog::Rejoin]);
        config
    }
}

fn toggle(on: bool) -> Toggle {
    if on { Toggle::On } else { Toggle::Off }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { seed, voters, spares, mode, clients, operations, length, election_timeout, latency, .. } = self;
        writeln!(
            f,
            "seed {seed}: {voters} voters, {spares} spare nodes, {mode:?} leader ids, first rules {}",
            self.first_rules.name()
        )?;
        writeln!(f, "  election timeout {election_timeout:?}, latency {latency:?}, disk {:?}", self.disk_latency)?;
        writeln!(
            f,
            "  {clients} clients, {operations} operations in at most {length:?}, think {:?}, reads {} permille, batches {} permille, {} permille of them in one call, sessions {} permille, hasty {}, conditions {} permille, forwarded {} permille",
            self.think,
            self.reads,
            self.batches,
            self.together,
            self.sessions,
            self.hasty,
            self.conditions,
            self.forwards
        )?;
        writeln!(
            f,
            "  membership changes {}, triggers {}, lease reads {}, inline applies {}, frozen snapshots {}, segments of {} bytes, beyond the budget {}, disks mended {}, quorum lost and recovered {}, served by a core {}, steps checked {}",
            self.membership,
            self.triggers,
            self.lease_reads,
            self.inline_applies,
            self.frozen_snapshots,
            self.segment_bytes,
            self.beyond_budget,
            self.mends,
            self.recovery,
            self.core,
            self.check_steps
        )?;
        let config = &self.config;
        writeln!(
            f,
            "  heartbeat {:?}, pre-vote {:?}, check-quorum {:?}, append {} bytes, in flight {} appends and {} bytes",
            config.heartbeat_interval,
            config.pre_vote,
            config.check_quorum,
            config.max_append_bytes,
            config.max_inflight_appends,
            config.max_inflight_bytes
        )?;
        writeln!(
            f,
            "  retransmit {:?}, snapshot every {} entries, {} bytes, {:?}, keep {} entries, {} bytes for peers, tail {} bytes",
            config.retransmit_timeout,
            config.snapshot_entries,
            config.snapshot_bytes,
            config.snapshot_interval,
            config.keep_entries,
            config.max_kept_bytes,
            config.tail_cache_bytes
        )?;
        writeln!(
            f,
            "  caught up within {} entries, {} bytes of writes wait at once, commands of at most {} bytes, snapshots deferred {} permille",
            config.replication_lag_threshold, config.proposal_window_bytes, config.max_command_bytes, self.deferrals
        )?;
        writeln!(
            f,
            "  campaigns {:?} within {:?}, disk behind for at most {:?}, clocks apart by at most {:?}, a lost log: {:?}",
            config.elect, config.election_timeout_max, config.max_disk_lag, config.max_clock_drift, config.on_lost_log
        )?;
        writeln!(f, "  a fault every {:?}, {} permille of messages", self.fault_interval, self.message_faults)?;
        write!(f, "  faults {}", self.faults)?;
        self.edits.to_string().lines().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_draw_is_what_a_node_may_be_started_with() {
        for seed in 0..2000 {
            let options = Options::of_seed(seed);
            let another = options.draw_config(&mut Rng::new(seed, 99));
            for config in [&options.config, &another] {
                assert_eq!(config.check(), Ok(()), "seed {seed}");
            }
        }
    }
}
