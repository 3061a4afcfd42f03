//! The library's tunables of one node.

use std::time::Duration;

use quorate_core::{ConfigError, Incarnation, LeaderIdMode, MAX_TIMEOUT, NodeId, OnLostLog, Toggle};
use quorate_wire::MAX_PAYLOAD_BYTES;

/// Tunables of one node. Start from `Config::default()`, which fits a local network.
///
/// What the whole cluster must agree on is in [`Membership`](crate::Membership) instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A follower that has not heard of a leader for a random time between this and
    /// `election_timeout_max` campaigns. Default 300 ms.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`; must be greater. Default 600 ms.
    pub election_timeout_max: Duration,
    /// A leader shows that it lives at least this often; at most half of `election_timeout_min`. Default 60 ms.
    pub heartbeat_interval: Duration,
    /// How leader ids compare; the same on every node of the cluster, for ever.
    pub leader_id_mode: LeaderIdMode,
    /// Handle time-outs: campaign, show that this node leads, step aside, send again. Off: only answer messages and
    /// callers, who are answered in time all the same. Default on.
    pub tick: Toggle,
    /// A leader shows by itself that it lives. Off: only with what it has to send, and on request. Default on.
    pub heartbeat: Toggle,
    /// Ask how an election would end before starting it. Default on.
    pub pre_vote: Toggle,
    /// A leader that no quorum has acknowledged for `election_timeout_max` steps aside. Default on.
    pub check_quorum: Toggle,
    /// Campaign when the leader is silent. Off: only on request. Default on.
    pub elect: Toggle,
    /// Most bytes of entries in one append; a single larger entry still travels, alone. Default 1 MiB.
    pub max_append_bytes: u64,
    /// Most appends with entries that may be unacknowledged at one peer. Default 2.
    pub max_inflight_appends: usize,
    /// Most bytes of entries that may be unacknowledged at one peer. Default 8 MiB.
    pub max_inflight_bytes: u64,
    /// An append that is not acknowledged for this long is taken for lost. Default 600 ms.
    pub retransmit_timeout: Duration,
    /// Build a snapshot when this many entries were applied since the last one; zero: not by entries.
    /// Default 100,000. With this, `snapshot_bytes` and `snapshot_interval` all zero: only on request.
    pub snapshot_entries: u64,
    /// Build a snapshot when this many bytes were written to the log since the last one, or since the start; zero:
    /// not by bytes. Default 0.
    pub snapshot_bytes: u64,
    /// Build a snapshot this long after the last one, or after the start, if anything was applied since; zero: not
    /// by time. Default 0.
    pub snapshot_interval: Duration,
    /// Entries kept in the log after a snapshot covers them, for followers that lag a little. Default 10,000.
    pub keep_entries: u64,
    /// Most bytes of entries that a leader keeps beyond that because a peer that is alive has not acknowledged them;
    /// a peer that lags by more gets a snapshot. Default 256 MiB.
    pub max_kept_bytes: u64,
    /// Most bytes of snapshots that this node sends in a second, over all peers and groups; at least 64 KiB. Default
    /// `None`: as fast as it goes.
    pub snapshot_max_bytes_per_second: Option<u64>,
    /// A leader whose own log is not durable up to a committed entry for this long steps aside. Default 10 s.
    pub max_disk_lag: Duration,
    /// What this node does if its log is lost: its disk is blank, but the cluster knows it as a voter. Default: halt.
    ///
    /// With [`OnLostLog::Rejoin`] it is served as a learner, and stays one until somebody asks the leader for
    /// [`ChangeMembers::AddVoterIds`](crate::ChangeMembers::AddVoterIds) with its id. No leader does that by itself: a
    /// lost disk took acknowledged entries with it, and whether the quorums that counted them are still whole is for
    /// an operator to say. Nodes without a data directory lose their disk at every stop.
    pub on_lost_log: OnLostLog,
    /// A learner that lags behind the end of the log by at most this many entries has caught up: it may become a voter.
    /// Default 5,000.
    pub replication_lag_threshold: u64,
    /// How much less time may pass on this node's clock than on a voter's while a lease of `election_timeout_min` runs;
    /// a leader counts its lease that much shorter. Matters only for [`ReadPolicy::LeaseRead`](crate::ReadPolicy).
    /// Default 30 ms; at most half of `election_timeout_min`.
    pub max_clock_drift: Duration,
    /// How long a write may take, waiting for a leader included. Default 5 s.
    pub write_timeout: Duration,
    /// How long a read may take. Default 5 s.
    pub read_timeout: Duration,
    /// Largest encoded command in bytes. Default 16 MiB, at most 64 MiB.
    pub max_command_bytes: usize,
    /// Most bytes of writes that may wait for this node at once; more are `Overloaded`. Default 64 MiB.
    pub proposal_window_bytes: usize,
    /// Bytes of recent entries kept in memory for followers and applies. Default 32 MiB.
    pub tail_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self::of_core(&quorate_core::Config::new(NodeId(0), Incarnation(0)))
    }
}

impl Config {
    /// Checks every field and the relations between them.
    ///
    /// # Errors
    /// Names the field that is wrong and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let error = |field, must| Err(ConfigError { field, must });
        if self.max_command_bytes == 0 || self.max_command_bytes > MAX_PAYLOAD_BYTES {
            return error("max_command_bytes", "be from 1 byte to 64 MiB");
        }
        if self.proposal_window_bytes < self.max_command_bytes {
            return error("proposal_window_bytes", "be at least max_command_bytes");
        }
        if self.write_timeout > MAX_TIMEOUT || self.read_timeout > MAX_TIMEOUT {
            return error("write_timeout", "be at most a year, and read_timeout too");
        }
        if self.write_timeout.is_zero() || self.read_timeout.is_zero() {
            return error("write_timeout", "be greater than zero, and read_timeout too");
        }
        if self.snapshot_max_bytes_per_second.is_some_and(|rate| rate < 64 << 10) {
            return error("snapshot_max_bytes_per_second", "be at least 64 KiB, or `None`");
        }
        self.to_core(NodeId(0), Incarnation(0), 0).check()
    }

    /// The core's tunables as they are, and defaults for the rest.
    fn of_core(core: &quorate_core::Config) -> Config {
        Config {
            election_timeout_min: core.election_timeout_min,
            election_timeout_max: core.election_timeout_max,
            heartbeat_interval: core.heartbeat_interval,
            leader_id_mode: core.mode,
            tick: core.tick,
            heartbeat: core.heartbeat,
            pre_vote: core.pre_vote,
            check_quorum: core.check_quorum,
            elect: core.elect,
            max_append_bytes: core.max_append_bytes,
            max_inflight_appends: core.max_inflight_appends,
            max_inflight_bytes: core.max_inflight_bytes,
            retransmit_timeout: core.retransmit_timeout,
            snapshot_entries: core.snapshot_entries,
            snapshot_bytes: core.snapshot_bytes,
            snapshot_interval: core.snapshot_interval,
            keep_entries: core.keep_entries,
            max_kept_bytes: core.max_kept_bytes,
            snapshot_max_bytes_per_second: None,
            max_disk_lag: core.max_disk_lag,
            on_lost_log: core.on_lost_log,
            replication_lag_threshold: core.replication_lag_threshold,
            max_clock_drift: core.max_clock_drift,
            write_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            max_command_bytes: 16 << 20,
            proposal_window_bytes: 64 << 20,
            tail_cache_bytes: 32 << 20,
        }
    }

    /// These tunables with the core's part replaced.
    pub(crate) fn with_core(&self, core: &quorate_core::Config) -> Config {
        Config {
            leader_id_mode: self.leader_id_mode,
            snapshot_max_bytes_per_second: self.snapshot_max_bytes_per_second,
            write_timeout: self.write_timeout,
            read_timeout: self.read_timeout,
            max_command_bytes: self.max_command_bytes,
            proposal_window_bytes: self.proposal_window_bytes,
            tail_cache_bytes: self.tail_cache_bytes,
            ..Config::of_core(core)
        }
    }

    /// A field that cannot change at run time and differs in `other`.
    pub(crate) fn fixed_field_of(&self, other: &Config) -> Option<&'static str> {
        let differs = [
            ("leader_id_mode", self.leader_id_mode != other.leader_id_mode),
            (
                "snapshot_max_bytes_per_second",
                self.snapshot_max_bytes_per_second != other.snapshot_max_bytes_per_second,
            ),
            ("write_timeout", self.write_timeout != other.write_timeout),
            ("read_timeout", self.read_timeout != other.read_timeout),
            ("max_command_bytes", self.max_command_bytes != other.max_command_bytes),
            ("proposal_window_bytes", self.proposal_window_bytes != other.proposal_window_bytes),
            ("tail_cache_bytes", self.tail_cache_bytes != other.tail_cache_bytes),
        ];
        differs.into_iter().find_map(|(field, differs)| differs.then_some(field))
    }

    /// The core's part.
    pub(crate) fn to_core(&self, node_id: NodeId, incarnation: Incarnation, seed: u64) -> quorate_core::Config {
        quorate_core::Config {
            node_id,
            incarnation,
            mode: self.leader_id_mode,
            election_timeout_min: self.election_timeout_min,
            election_timeout_max: self.election_timeout_max,
            heartbeat_interval: self.heartbeat_interval,
            tick: self.tick,
            heartbeat: self.heartbeat,
            pre_vote: self.pre_vote,
            check_quorum: self.check_quorum,
            elect: self.elect,
            max_append_bytes: self.max_append_bytes,
            max_inflight_appends: self.max_inflight_appends,
            max_inflight_bytes: self.max_inflight_bytes,
            retransmit_timeout: self.retransmit_timeout,
            snapshot_entries: self.snapshot_entries,
            snapshot_bytes: self.snapshot_bytes,
            snapshot_interval: self.snapshot_interval,
            keep_entries: self.keep_entries,
            max_kept_bytes: self.max_kept_bytes,
            max_disk_lag: self.max_disk_lag,
            max_clock_drift: self.max_clock_drift,
            on_lost_log: self.on_lost_log,
            replication_lag_threshold: self.replication_lag_threshold,
            seed,
        }
    }
}
