//! Tunables of one node's core.

use std::time::Duration;

use crate::ids::{Incarnation, LeaderIdMode, NodeId};

/// The longest time-out: a year, so that no sum or multiple of time-outs overflows.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Tunables of one node's core. Cluster-wide state is in [`Membership`](crate::Membership).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node.
    pub node_id: NodeId,
    /// This node's disk.
    pub incarnation: Incarnation,
    /// How leader ids compare; the same on every node of the cluster.
    pub mode: LeaderIdMode,
    /// A follower that has not heard of a leader for a random time between this and
    /// `election_timeout_max` campaigns. Also the lease within which it refuses other candidates.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`; must be greater.
    pub election_timeout_max: Duration,
    /// A leader starts a round at least this often. Must be less than half of `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// Handle time-outs. Off: this node never campaigns, shows that it leads, steps aside or sends again by itself;
    /// it only answers messages and callers, these in time all the same.
    pub tick: Toggle,
    /// A leader shows by itself that it lives. Off: only with what it has to send, and on request.
    pub heartbeat: Toggle,
    /// Ask how an election would end before starting it.
    pub pre_vote: Toggle,
    /// A leader that no commit quorum has acknowledged for `election_timeout_max` steps aside.
    pub check_quorum: Toggle,
    /// Campaign when the leader is silent. Off: only on request.
    pub elect: Toggle,
    /// Most bytes of entries in one append; a single larger entry still travels, alone.
    pub max_append_bytes: u64,
    /// Most appends with entries that may be unacknowledged at one peer.
    pub max_inflight_appends: usize,
    /// Most bytes of entries that may be unacknowledged at one peer.
    pub max_inflight_bytes: u64,
    /// An append that is not acknowledged for this long is taken for lost.
    pub retransmit_timeout: Duration,
    /// Build a snapshot when this many entries were applied since the last one; zero: not by entries.
    ///
    /// With all three of `snapshot_entries`, `snapshot_bytes` and `snapshot_interval` zero, snapshots are built only
    /// on request.
    pub snapshot_entries: u64,
    /// Build a snapshot when this many bytes were written to the log since the last one; zero: not by bytes.
    pub snapshot_bytes: u64,
    /// Build a snapshot this long after the last one, or after the start, if anything was applied since; zero: not
    /// by time.
    pub snapshot_interval: Duration,
    /// Entries kept in the log after a snapshot covers them, for followers that lag a little.
    pub keep_entries: u64,
    /// Most bytes of entries that a leader keeps beyond that, because a peer that is alive has not acknowledged
    /// them: a peer that lags by more gets a snapshot.
    pub max_kept_bytes: u64,
    /// A learner that lags behind the end of the log by at most this many entries has caught up: it may become a voter.
    pub replication_lag_threshold: u64,
    /// A leader whose own log is not durable up to a committed entry for this long steps aside (law 8).
    pub max_disk_lag: Duration,
    /// What this node does if its log is lost: its disk is blank, but the cluster knows it as a voter.
    pub on_lost_log: OnLostLog,
    /// How much less time may pass on this node's clock than on a voter's while a lease of `election_timeout_min` runs;
    /// a leader counts its lease that much shorter. At most half of `election_timeout_min`.
    pub max_clock_drift: Duration,
    /// Seeds the jitter of election timeouts. Give every start of a node another one, at random: it names the start to
    /// a leader that has to know one from another ([`StartId`](crate::StartId)).
    pub seed: u64,
}

/// What a node does that a leader names as a voter of another disk, while its own holds nothing (law 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnLostLog {
    /// Stop before anything is accepted, and say so: somebody should know that a disk was lost. The default.
    #[default]
    Halt,
    /// Be served as a learner. It votes again only after a membership change that names the new disk, which somebody
    /// has to ask for.
    Rejoin,
}

/// A feature that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Toggle {
    /// The feature is used.
    On,
    /// The feature is not used.
    Off,
}

impl Toggle {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Toggle::On
    }
}

impl Config {
    /// The defaults for a local network: elections after 300 to 600 ms, heartbeats every 60 ms.
    pub fn new(node_id: impl Into<NodeId>, incarnation: Incarnation) -> Self {
        Self {
            node_id: node_id.into(),
            incarnation,
            mode: LeaderIdMode::Advanced,
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            heartbeat_interval: Duration::from_millis(60),
            tick: Toggle::On,
            heartbeat: Toggle::On,
            pre_vote: Toggle::On,
            check_quorum: Toggle::On,
            elect: Toggle::On,
            max_append_bytes: 1 << 20,
            max_inflight_appends: 2,
            max_inflight_bytes: 8 << 20,
            retransmit_timeout: Duration::from_millis(600),
            snapshot_entries: 100_000,
            snapshot_bytes: 0,
            snapshot_interval: Duration::ZERO,
            keep_entries: 10_000,
            max_kept_bytes: 256 << 20,
            replication_lag_threshold: 5_000,
            max_disk_lag: Duration::from_secs(10),
            on_lost_log: OnLostLog::Halt,
            max_clock_drift: Duration::from_millis(30),
            seed: 0,
        }
    }

    /// Checks the relations between the fields.
    ///
    /// # Errors
    /// Names the field that is wrong and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let error = |field, must| Err(ConfigError { field, must });
        let longest = [
            ("election_timeout_max", self.election_timeout_max),
            ("heartbeat_interval", self.heartbeat_interval),
            ("retransmit_timeout", self.retransmit_timeout),
            ("max_disk_lag", self.max_disk_lag),
            ("max_clock_drift", self.max_clock_drift),
        ];
        if let Some((field, _)) = longest.into_iter().find(|(_, value)| *value > MAX_TIMEOUT) {
            return error(field, "be at most a year");
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return error("election_timeout_max", "be greater than election_timeout_min");
        }
        if self.heartbeat_interval.is_zero() {
            return error("heartbeat_interval", "be greater than zero");
        }
        if self.heartbeat_interval * 2 > self.election_timeout_min {
            return error("heartbeat_interval", "be at most half of election_timeout_min");
        }
        if self.retransmit_timeout < self.heartbeat_interval {
            return error("retransmit_timeout", "be at least heartbeat_interval");
        }
        if self.max_clock_drift * 2 > self.election_timeout_min {
            return error("max_clock_drift", "be at most half of election_timeout_min");
        }
        if self.max_append_bytes == 0 || self.max_inflight_bytes < self.max_append_bytes {
            return error("max_inflight_bytes", "be at least max_append_bytes, and both more than zero");
        }
        if self.max_inflight_appends == 0 {
            return error("max_inflight_appends", "be at least 1");
        }
        Ok(())
    }
}

/// A [`Config`] field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What it must do.
    pub must: &'static str,
}

impl ConfigError {
    /// Always false: the same value is refused again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: nothing is done with tunables that are refused.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "config field `{}` must {}", self.field, self.must)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_times_are_refused_by_name() {
        type Change = fn(&mut Config);
        let endless: [(&str, Change); 5] = [
            ("election_timeout_max", |config| config.election_timeout_max = Duration::MAX),
            ("heartbeat_interval", |config| config.heartbeat_interval = Duration::MAX),
            ("retransmit_timeout", |config| config.retransmit_timeout = Duration::MAX),
            ("max_disk_lag", |config| config.max_disk_lag = Duration::MAX),
            ("max_clock_drift", |config| config.max_clock_drift = Duration::MAX),
        ];
        for (field, change) in endless {
            let mut config = Config::new(1, Incarnation(1));
            change(&mut config);
            assert_eq!(config.check(), Err(ConfigError { field, must: "be at most a year" }));
        }
    }
}
