//! [`RuntimeStats`]: one group's numbers, for programs.

use std::collections::BTreeMap;

use quorate_core::NodeId;

use super::{GroupMeters, HostMeters, Latencies};

/// How long the parts of a group's work took on this node since it started, and how much of it there was; from
/// [`Raft::runtime_stats`](crate::Raft::runtime_stats).
#[derive(Clone, Debug)]
pub struct RuntimeStats {
    /// Batches of writes that entered the log here.
    pub proposed_batches: u64,
    /// Writes in them.
    pub proposed_entries: u64,
    /// Their bytes in the log.
    pub proposed_bytes: u64,
    /// Entries applied here, those of a start included.
    pub applied_entries: u64,
    /// Times that this node became leader.
    pub elections_won: u64,
    /// Leaders that this node was or followed.
    pub leader_changes: u64,
    /// On a leader: from a write's place in the log to its commit; each write counts.
    pub propose_to_commit: Latencies,
    /// From an entry's commit, durable here, until the state machine had applied it; each entry counts.
    pub commit_to_apply: Latencies,
    /// What of that the state machine took, for each run of entries that was applied together; where it is applied by the
    /// thread that delivers the commit, all of it.
    pub apply: Latencies,
    /// From the start of a durable write until the core heard of its end.
    pub persist: Latencies,
    /// What of that a sync of a file took, of all groups of this node; empty if the node was given its storage.
    pub fsync: Latencies,
    /// On a leader: from a message to the peer's answer, which does not wait for its disk.
    pub round_trips: BTreeMap<NodeId, Latencies>,
    /// Building snapshots.
    pub snapshot_build: Latencies,
    /// Installing snapshots.
    pub snapshot_install: Latencies,
    /// Sending snapshots that a peer took whole.
    pub snapshot_send: Latencies,
}

impl RuntimeStats {
    pub(crate) fn of(group: &GroupMeters, host: &HostMeters) -> Self {
        let round_trips = group.round_trips().into_iter();
        Self {
            proposed_batches: group.proposed_batches.value(),
            proposed_entries: group.proposed_entries.value(),
            proposed_bytes: group.proposed_bytes.value(),
            applied_entries: group.applied_entries.value(),
            elections_won: group.elections_won.value(),
            leader_changes: group.leader_changes.value(),
            propose_to_commit: group.propose_to_commit.latencies(),
            commit_to_apply: group.commit_to_apply.latencies(),
            apply: group.apply.latencies(),
            persist: group.persist.latencies(),
            fsync: host.fsync.latencies(),
            round_trips: round_trips.map(|(peer, meter)| (peer, meter.latencies())).collect(),
            snapshot_build: group.snapshot_build.latencies(),
            snapshot_install: group.snapshot_install.latencies(),
            snapshot_send: group.snapshot_send.latencies(),
        }
    }
}
