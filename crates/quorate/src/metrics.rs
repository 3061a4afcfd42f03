//! What a node says about itself: [`RaftMetrics`], and [`Wait`] for it to change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{
    GroupId, Incarnation, Instant, LogId, Membership, NodeId, PeerState, PeerStatus, ServerState, Status, Vote,
};
use tokio::sync::watch;

use crate::error::list_of;
use crate::{ClosedReason, WaitError};

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Receives the log, does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}

/// The state of one node of one group, as of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftMetrics {
    /// This node.
    pub id: NodeId,
    /// The group.
    pub group: GroupId,
    /// Set once the node's group is closed.
    pub closed: Option<ClosedReason>,
    /// What it is.
    pub role: Role,
    /// The greatest vote it has seen.
    pub vote: Vote,
    /// The leader it leads as or follows.
    pub current_leader: Option<NodeId>,
    /// The end of its log.
    pub last_log_id: LogId,
    /// Its log is durable up to this index.
    pub durable_index: u64,
    /// The last index known to be committed.
    pub commit_index: u64,
    /// The last entry applied to the state machine.
    pub last_applied: LogId,
    /// Client sessions, as of the last entry applied.
    pub sessions: u64,
    /// Answers kept for them.
    pub session_answers: u64,
    /// The last entry in the newest snapshot.
    pub snapshot: LogId,
    /// The last entry forgotten.
    pub purged: LogId,
    /// The membership in force.
    pub membership: Arc<Membership>,
    /// The entry that brought it.
    pub membership_log_id: LogId,
    /// On a leader: how far each peer is.
    pub replication: Vec<PeerMetrics>,
    /// How far the snapshot is that a leader sends to this node; one that broke off stays until another begins.
    pub receiving_snapshot: Option<TransferMetrics>,
    /// On a leader: how long ago, at least, a quorum acknowledged it. `None` elsewhere, or before it did.
    pub quorum_acked_ago: Option<Duration>,
    /// On a leader: for how long from now it may serve [`ReadPolicy::LeaseRead`](crate::ReadPolicy) without asking
    /// anybody; very long if it is the only voter. `None` without a lease.
    pub lease_left: Option<Duration>,
}

/// The metrics of a node before its first turn.
pub(crate) fn blank_metrics(id: NodeId, group: GroupId) -> RaftMetrics {
    RaftMetrics {
        id,
        group,
        closed: None,
        role: Role::Learner,
        vote: Vote::default(),
        current_leader: None,
        last_log_id: LogId::ZERO,
        durable_index: 0,
        commit_index: 0,
        last_applied: LogId::ZERO,
        sessions: 0,
        session_answers: 0,
        snapshot: LogId::ZERO,
        purged: LogId::ZERO,
        membership: Arc::default(),
        membership_log_id: LogId::ZERO,
        replication: Vec::new(),
        receiving_snapshot: None,
        quorum_acked_ago: None,
        lease_left: None,
    }
}

/// The metrics of a core's state.
pub(crate) fn metrics_of(
    id: NodeId,
    group: GroupId,
    status: Status,
    membership: Arc<Membership>,
    now: Instant,
) -> RaftMetrics {
    let replication = status.peers.iter().map(|peer: &PeerStatus| PeerMetrics {
        id: peer.id,
        incarnation: peer.incarnation,
        older_copy: peer.older_copy,
        state: peer.state,
        matched: peer.matched,
        next_index: peer.next,
        lag: status.last_log_id.index.saturating_sub(peer.matched.index),
        inflight_appends: peer.inflight_appends,
        inflight_bytes: peer.inflight_bytes,
        acked_ago: peer.acked_at.map(|at| now.since(at)),
        caught_up: peer.caught_up,
        backing_off: peer.backing_off,
        snapshot: None,
    });
    RaftMetrics {
        id,
        group,
        closed: None,
        role: match status.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower | ServerState::Halted => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
        },
        vote: status.vote,
        current_leader: status.leader,
        last_log_id: status.last_log_id,
        durable_index: status.durable,
        commit_index: status.commit,
        last_applied: status.applied,
        sessions: 0,
        session_answers: 0,
        snapshot: status.snapshot,
        purged: status.purged,
        membership,
        membership_log_id: status.membership_log_id,
        replication: replication.collect(),
        receiving_snapshot: None,
        quorum_acked_ago: status.quorum_acked.map(|at| now.since(at)),
        lease_left: status.lease_until.map(|until| until.since(now)).filter(|left| !left.is_zero()),
    }
}

/// The snapshots that a node sends and receives, as its network tells.
#[derive(Default)]
pub(crate) struct TransfersShown {
    sending: Vec<TransferMetrics>,
    receiving: Option<TransferMetrics>,
}

impl TransfersShown {
    pub(crate) fn sending(&mut self, to: NodeId, how_far: Option<(u64, u64)>) {
        self.sending.retain(|known| known.peer != to);
        self.sending.extend(how_far.map(|(bytes, total)| TransferMetrics { peer: to, bytes, total }));
    }

    pub(crate) fn receiving(&mut self, how_far: Option<TransferMetrics>) {
        self.receiving = how_far;
    }

    pub(crate) fn show(&self, metrics: &mut RaftMetrics) {
        for peer in &mut metrics.replication {
            peer.snapshot = self.sending.iter().find(|known| known.peer == peer.id).copied();
        }
        metrics.receiving_snapshot = self.receiving;
    }
}

/// How far a snapshot on its way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferMetrics {
    /// The other node.
    pub peer: NodeId,
    /// Bytes that were sent or received, those of earlier attempts that count included.
    pub bytes: u64,
    /// All its bytes.
    pub total: u64,
}

/// How far a peer is, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerMetrics {
    /// The peer.
    pub id: NodeId,
    /// The disk it last spoke from; its word counts only if the membership names it (law 15).
    pub incarnation: Option<Incarnation>,
    /// It denied what it had acknowledged, so its word does not count: an older copy of its disk was put back.
    pub older_copy: bool,
    /// How the leader replicates to it.
    pub state: PeerState,
    /// The last entry it holds durably.
    pub matched: LogId,
    /// The next index to send to it.
    pub next_index: u64,
    /// How many entries of the leader's log it is not known to hold durably.
    pub lag: u64,
    /// Appends with entries sent and not acknowledged, of [`Config::max_inflight_appends`](crate::Config).
    pub inflight_appends: usize,
    /// Bytes of entries sent and not acknowledged, of [`Config::max_inflight_bytes`](crate::Config).
    pub inflight_bytes: u64,
    /// How long ago, at least, it acknowledged this leader; `None` before it did. As of when these metrics were
    /// made, which is about once a second while nothing changes.
    pub acked_ago: Option<Duration>,
    /// It lags by at most [`Config::replication_lag_threshold`](crate::Config::replication_lag_threshold) entries, needs no
    /// snapshot, and knows what it may have promised: it can become a voter.
    pub caught_up: bool,
    /// It did not answer what it was sent, so it is sent entries after growing pauses only, until it is heard of.
    pub backing_off: bool,
    /// How far the snapshot is that it is being sent, if one is.
    pub snapshot: Option<TransferMetrics>,
}

/// Waits for a condition over [`RaftMetrics`]; made by [`Raft::wait`](crate::Raft::wait).
#[derive(Debug)]
pub struct Wait {
    metrics: watch::Receiver<RaftMetrics>,
    timeout: Duration,
}

impl Wait {
    pub(crate) fn new(metrics: watch::Receiver<RaftMetrics>, timeout: Duration) -> Self {
        Self { metrics, timeout }
    }

    /// Waits until `condition` holds and returns the metrics for which it did; `what` names it in the error.
    ///
    /// # Errors
    /// If it does not hold in time, or the node closes before.
    pub async fn metrics(
        mut self,
        mut condition: impl FnMut(&RaftMetrics) -> bool,
        what: impl Into<String>,
    ) -> Result<RaftMetrics, WaitError> {
        let wait = async {
            loop {
                // A copy: while a borrow is held nothing is published, and the condition may call this library.
                let now = self.metrics.borrow_and_update().clone();
                if condition(&now) {
                    return Ok(now);
                }
                if let Some(reason) = now.closed {
                    return Err(WaitError::Closed(reason));
                }
                if self.metrics.changed().await.is_err() {
                    return Err(WaitError::Closed(ClosedReason::Shutdown));
                }
            }
        };
        match tokio::time::timeout(self.timeout, wait).await {
            Ok(result) => result,
            Err(_) => Err(WaitError::Timeout { what: what.into(), after: self.timeout }),
        }
    }

    /// Waits until a leader is known.
    ///
    /// # Errors
    /// If none is in time, or the node closes before.
    pub async fn leader(self) -> Result<NodeId, WaitError> {
        let found = self.metrics(|now| now.current_leader.is_some(), "a leader").await?;
        Ok(found.current_leader.unwrap_or_default())
    }

    /// Waits until this node leads.
    ///
    /// # Errors
    /// If it does not in time, or the node closes before.
    pub async fn is_leader(self) -> Result<RaftMetrics, WaitError> {
        self.role(Role::Leader).await
    }

    /// Waits until this node follows, or is, this leader.
    ///
    /// # Errors
    /// If it does not in time, or the node closes before.
    pub async fn current_leader(self, leader: impl Into<NodeId>) -> Result<RaftMetrics, WaitError> {
        let leader = leader.into();
        self.metrics(|now| now.current_leader == Some(leader), format!("node {leader} to lead")).await
    }

    /// Waits until this node is of this role.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn role(self, role: Role) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.role == role, format!("this node to be {role:?}")).await
    }

    /// Waits until this is the greatest vote that this node has seen.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn vote(self, vote: Vote) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.vote == vote, format!("the vote to be {vote}")).await
    }

    /// Waits until this node leads and a quorum followed it less than `within` ago.
    ///
    /// # Errors
    /// If it does not in time, or the node closes before.
    pub async fn leader_with_quorum_acked(self, within: Duration) -> Result<RaftMetrics, WaitError> {
        let holds =
            |now: &RaftMetrics| now.role == Role::Leader && now.quorum_acked_ago.is_some_and(|ago| ago <= within);
        self.metrics(holds, format!("this node to lead, and a quorum to follow it within {within:?}")).await
    }

    /// Waits until exactly the entry at `index` is the last applied here. Who is late may miss it: see
    /// [`applied_index_at_least`](Self::applied_index_at_least).
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn applied_index(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.last_applied.index == index, format!("index {index} to be the last applied")).await
    }

    /// Waits until exactly `index` is the last index of the log here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn log_index(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.last_log_id.index == index, format!("the log to end at index {index}")).await
    }

    /// Waits until exactly `index` is the last index known to be committed here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn committed_index(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.commit_index == index, format!("index {index} to be the last committed")).await
    }

    /// Waits until `index` is known to be committed here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn committed_index_at_least(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.commit_index >= index, format!("index {index} to be committed")).await
    }

    /// Waits until exactly this entry is the last in the newest snapshot here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn snapshot(self, last: LogId) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.snapshot == last, format!("a snapshot up to {last}")).await
    }

    /// Waits until exactly this entry is the last that is forgotten here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn purged(self, last: LogId) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.purged == last, format!("the log to be purged up to {last}")).await
    }

    /// Waits until the entry at `index` is applied here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn applied_index_at_least(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.last_applied.index >= index, format!("index {index} to be applied")).await
    }

    /// Waits until the log reaches `index` here.
    ///
    /// # Errors
    /// If it does not in time, or the node closes before.
    pub async fn log_index_at_least(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.last_log_id.index >= index, format!("the log to reach index {index}")).await
    }

    /// Waits until a snapshot covers `index` here.
    ///
    /// # Errors
    /// If none does in time, or the node closes before.
    pub async fn snapshot_index_at_least(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.snapshot.index >= index, format!("a snapshot of index {index}")).await
    }

    /// Waits until the log is purged up to `index` here.
    ///
    /// # Errors
    /// If it is not in time, or the node closes before.
    pub async fn purged_index_at_least(self, index: u64) -> Result<RaftMetrics, WaitError> {
        self.metrics(|now| now.purged.index >= index, format!("the log to be purged up to {index}")).await
    }

    /// Waits until exactly these nodes vote, and no change is under way.
    ///
    /// # Errors
    /// If they do not in time, or the node closes before.
    pub async fn voter_ids(self, ids: impl IntoIterator<Item = u64>) -> Result<RaftMetrics, WaitError> {
        let ids: BTreeSet<NodeId> = ids.into_iter().map(NodeId).collect();
        let what = format!("the voters to be {}", list_of(&ids));
        self.metrics(|now| !now.membership.is_joint() && now.membership.voter_ids() == ids, what).await
    }
}
