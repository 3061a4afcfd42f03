//! What one group on one node counts and times, and what the groups of a host share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use quorate_core::{Core, GroupId, Instant, NodeId, Note, Phase, ServerState, StepDown, VoteAnswer};

use super::{LatencyMeter, Took};
use crate::group::Clock;

/// A number that only grows, or a state.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of one group on one node.
#[derive(Debug)]
pub(crate) struct GroupMeters {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    /// `None`: what is timed outside of the driver is not timed.
    clock: Option<Clock>,

    pub(crate) proposed_batches: Number,
    pub(crate) proposed_entries: Number,
    pub(crate) proposed_bytes: Number,
    pub(crate) applied_entries: Number,
    /// In phase `Pre` and `Real`.
    pub(crate) campaigns: [Number; 2],
    pub(crate) elections_won: Number,
    pub(crate) leader_changes: Number,
    /// In the order of [`STEP_DOWNS`].
    pub(crate) step_downs: [Number; 4],
    /// In the order of [`VOTES`].
    pub(crate) votes: [Number; 4],
    pub(crate) snapshots_built: Number,
    pub(crate) snapshots_installed: Number,
    pub(crate) snapshots_sent: Number,
    pub(crate) snapshots_not_sent: Number,
    pub(crate) snapshot_sent_bytes: Number,
    pub(crate) log_repairs: Number,
    pub(crate) impossible_messages: Number,
    pub(crate) clock_jumps: Number,

    pub(crate) propose_to_commit: LatencyMeter,
    pub(crate) commit_to_apply: LatencyMeter,
    pub(crate) apply: LatencyMeter,
    pub(crate) persist: LatencyMeter,
    pub(crate) snapshot_build: LatencyMeter,
    pub(crate) snapshot_install: LatencyMeter,
    pub(crate) snapshot_send: LatencyMeter,
    round_trips: RwLock<BTreeMap<NodeId, Arc<LatencyMeter>>>,

    /// As of the last turn.
    pub(crate) term: Number,
    pub(crate) leads: Number,
    /// 0: none is known.
    pub(crate) leader: Number,
    pub(crate) voter: Number,
    pub(crate) last_index: Number,
    pub(crate) commit_index: Number,
    pub(crate) applied_index: Number,
    pub(crate) purged_index: Number,
    /// Of the newest durable snapshot.
    pub(crate) snapshot_index: Number,
}

/// Reasons in the order of their counters.
pub(crate) const STEP_DOWNS: [&str; 4] = ["greater_vote", "no_quorum", "removed", "disk"];
/// Answers in the order of their counters.
pub(crate) const VOTES: [&str; 4] = ["granted", "stale_vote", "stale_log", "leader_alive"];
/// Phases in the order of their counters.
pub(crate) const PHASES: [&str; 2] = ["pre", "real"];

impl GroupMeters {
    pub(crate) fn new(node: NodeId, group: GroupId, clock: Option<Clock>) -> Self {
        Self {
            node,
            group,
            clock,
            proposed_batches: Number::default(),
            proposed_entries: Number::default(),
            proposed_bytes: Number::default(),
            applied_entries: Number::default(),
            campaigns: Default::default(),
            elections_won: Number::default(),
            leader_changes: Number::default(),
            step_downs: Default::default(),
            votes: Default::default(),
            snapshots_built: Number::default(),
            snapshots_installed: Number::default(),
            snapshots_sent: Number::default(),
            snapshots_not_sent: Number::default(),
            snapshot_sent_bytes: Number::default(),
            log_repairs: Number::default(),
            impossible_messages: Number::default(),
            clock_jumps: Number::default(),
            propose_to_commit: LatencyMeter::default(),
            commit_to_apply: LatencyMeter::default(),
            apply: LatencyMeter::default(),
            persist: LatencyMeter::default(),
            snapshot_build: LatencyMeter::default(),
            snapshot_install: LatencyMeter::default(),
            snapshot_send: LatencyMeter::default(),
            round_trips: RwLock::default(),
            term: Number::default(),
            leads: Number::default(),
            leader: Number::default(),
            voter: Number::default(),
            last_index: Number::default(),
            commit_index: Number::default(),
            applied_index: Number::default(),
            purged_index: Number::default(),
            snapshot_index: Number::default(),
        }
    }

    /// The time, where there is a clock.
    pub(crate) fn now(&self) -> Option<Instant> {
        self.clock.map(|clock| clock.now())
    }

    /// Whether there is a clock.
    pub(crate) fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Enters the time from `began` to now.
    pub(crate) fn enter_since(&self, meter: &LatencyMeter, began: Option<Instant>) {
        if let (Some(began), Some(now)) = (began, self.now()) {
            meter.enter(now.since(began), 1);
        }
    }

    /// A batch of writes enters the log.
    pub(crate) fn proposed(&self, entries: u64, bytes: u64) {
        self.proposed_batches.add(1);
        self.proposed_entries.add(entries);
        self.proposed_bytes.add(bytes);
    }

    /// So many entries were applied, from `began` on; they were committed and durable here at `since`.
    pub(crate) fn applied(&self, entries: u64, since: Instant, began: Option<Instant>) {
        self.applied_entries.add(entries);
        let (Some(began), Some(now)) = (began, self.now()) else { return };
        let took = |from: Instant| Took::nanos(now.as_nanos().saturating_sub(from.as_nanos()));
        let whole = took(since);
        self.commit_to_apply.add(whole, entries);
        self.apply.add(if began == since { whole } else { took(began) }, 1);
    }

    /// A snapshot for a peer ended.
    pub(crate) fn sent_snapshot(&self, delivered: Option<u64>, took: Duration) {
        let Some(bytes) = delivered else { return self.snapshots_not_sent.add(1) };
        self.snapshots_sent.add(1);
        self.snapshot_sent_bytes.add(bytes);
        self.snapshot_send.enter(took, 1);
    }

    /// The times of answers of this peer.
    pub(crate) fn round_trip(&self, peer: NodeId) -> Arc<LatencyMeter> {
        Arc::clone(self.round_trips.write().entry(peer).or_default())
    }

    pub(crate) fn round_trips(&self) -> Vec<(NodeId, Arc<LatencyMeter>)> {
        self.round_trips.read().iter().map(|(peer, meter)| (*peer, Arc::clone(meter))).collect()
    }

    pub(crate) fn note(&self, note: &Note) {
        match note {
            Note::Campaigning { phase: Phase::Pre, .. } => self.campaigns[0].add(1),
            Note::Campaigning { phase: Phase::Real, .. } => self.campaigns[1].add(1),
            Note::BecameLeader(_) => {
                self.elections_won.add(1);
                self.leader_changes.add(1);
            }
            Note::Following(_) => self.leader_changes.add(1),
            Note::SteppedDown { reason, .. } => {
                let place = match reason {
                    StepDown::GreaterVote(_) => 0,
                    StepDown::NoQuorum => 1,
                    StepDown::Removed => 2,
                    StepDown::Disk => 3,
                };
                self.step_downs[place].add(1);
            }
            Note::SnapshotInstalled(_) => self.snapshots_installed.add(1),
            Note::Repaired { .. } => self.log_repairs.add(1),
            Note::Impossible { .. } => self.impossible_messages.add(1),
            Note::ClockJumped => self.clock_jumps.add(1),
            Note::Granted { .. }
            | Note::PeerState { .. }
            | Note::Truncated { .. }
            | Note::MembershipInForce(_)
            | Note::OtherIncarnation { .. }
            | Note::LostLog { .. }
            | Note::Rejoining { .. }
            | Note::OlderCopy { .. }
            | Note::PeerLostEntries { .. }
            | Note::BoundByLease
            | Note::Halted => {}
        }
    }

    /// This node answers a vote request.
    pub(crate) fn voted(&self, answer: &VoteAnswer) {
        let place = match answer {
            VoteAnswer::Granted => 0,
            VoteAnswer::StaleVote(_) => 1,
            VoteAnswer::StaleLog(_) => 2,
            VoteAnswer::LeaderAlive => 3,
        };
        self.votes[place].add(1);
    }

    /// A snapshot up to there is durable.
    pub(crate) fn snapshot_at(&self, index: u64) {
        self.snapshot_index.0.fetch_max(index, Ordering::Relaxed);
    }

    /// Takes over what a turn left that changes rarely.
    pub(crate) fn look(&self, core: &Core, state: ServerState) {
        self.term.set(core.vote().leader_id.term);
        self.leads.set(core.is_leader().into());
        self.leader.set(core.leader().map_or(0, |leader| leader.0));
        self.voter.set((state != ServerState::Learner).into());
    }

    /// Takes over how far a turn came.
    pub(crate) fn look_at_indexes(&self, core: &Core) {
        self.last_index.set(core.last_log_id().index);
        self.commit_index.set(core.commit());
        self.applied_index.set(core.applied().index);
        self.purged_index.set(core.log().purged().index);
    }
}

/// What waits where.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Depths {
    /// Batches of writes that the driver did not take yet.
    pub(crate) proposal_batches: u64,
    /// Bytes of writes without an answer.
    pub(crate) proposal_bytes: u64,
    /// Jobs of the state machine.
    pub(crate) apply_jobs: u64,
    /// Bytes of entries that wait to be applied.
    pub(crate) apply_bytes: u64,
    /// Client sessions.
    pub(crate) sessions: u64,
}

/// Of what the groups of a host share.
#[derive(Debug, Default)]
pub(crate) struct HostMeters {
    pub(crate) node: NodeId,
    pub(crate) fsync: LatencyMeter,
    pub(crate) written_bytes: Number,
}

impl HostMeters {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, ..Self::default() }
    }
}
