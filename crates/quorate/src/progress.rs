//! [`Progress`]: one part of a node's state, watched by itself.

use std::sync::Arc;
use std::time::Duration;

use quorate_core::{LogId, Membership, NodeId, Vote};
use tokio::sync::watch;

use crate::{ClosedReason, PeerMetrics, Raft, RaftMetrics, RaftStateMachine, Role, WaitError};

/// A part of a node's state as it changes; from [`Raft::watch_commit`] and its like.
///
/// Values in between may be left out: what is seen last is true, and indexes are updated about once a millisecond.
#[derive(Clone, Debug)]
pub struct Progress<T> {
    metrics: watch::Receiver<RaftMetrics>,
    part: fn(&RaftMetrics) -> T,
    /// What was returned last.
    last: T,
}

impl<T: Clone + PartialEq> Progress<T> {
    fn new(metrics: watch::Receiver<RaftMetrics>, part: fn(&RaftMetrics) -> T) -> Self {
        let last = part(&metrics.borrow());
        Self { metrics, part, last }
    }

    /// As it is now.
    pub fn get(&mut self) -> T {
        self.last = (self.part)(&self.metrics.borrow());
        self.last.clone()
    }

    /// Waits until it is another than was returned last, or at first than it was at the beginning.
    ///
    /// # Errors
    /// Why the group is closed, once nothing changes any more.
    pub async fn changed(&mut self) -> Result<T, ClosedReason> {
        let last = self.last.clone();
        self.wait_until(move |now| *now != last).await
    }

    /// Waits until this holds; returns the value for which it does. At once, if it holds now.
    ///
    /// # Errors
    /// Why the group is closed, if it does not hold then.
    pub async fn wait_until(&mut self, mut holds: impl FnMut(&T) -> bool) -> Result<T, ClosedReason> {
        loop {
            // Copies: while a borrow is held nothing is published, and `holds` may call this library.
            let (value, closed) = {
                let now = self.metrics.borrow_and_update();
                ((self.part)(&now), now.closed.clone())
            };
            if holds(&value) {
                self.last = value.clone();
                return Ok(value);
            }
            if let Some(reason) = closed {
                return Err(reason);
            }
            if self.metrics.changed().await.is_err() {
                return Err(ClosedReason::Shutdown);
            }
        }
    }

    /// Waits until it is this or more.
    ///
    /// # Errors
    /// Why the group is closed, if it is less then.
    pub async fn wait_until_ge(&mut self, least: T) -> Result<T, ClosedReason>
    where
        T: PartialOrd,
    {
        self.wait_until(|now| *now >= least).await
    }
}

/// How far a node's data is; from [`Raft::data_metrics`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataMetrics {
    /// The end of its log.
    pub last_log_id: LogId,
    /// Its log is durable up to this index.
    pub durable_index: u64,
    /// The last index known to be committed.
    pub commit_index: u64,
    /// The last entry applied to the state machine.
    pub last_applied: LogId,
    /// The last entry in the newest snapshot.
    pub snapshot: LogId,
    /// The last entry forgotten.
    pub purged: LogId,
    /// On a leader: how far each peer is.
    pub replication: Vec<PeerMetrics>,
}

/// What a node is in its cluster; from [`Raft::server_metrics`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMetrics {
    /// This node.
    pub id: NodeId,
    /// What it is.
    pub role: Role,
    /// The greatest vote it has seen.
    pub vote: Vote,
    /// The leader it leads as or follows.
    pub current_leader: Option<NodeId>,
    /// The membership in force.
    pub membership: Arc<Membership>,
    /// The entry that brought it.
    pub membership_log_id: LogId,
    /// Set once the node's group is closed.
    pub closed: Option<ClosedReason>,
}

impl<S: RaftStateMachine> Raft<S> {
    /// [`metrics`](Self::metrics), without what is about the cluster.
    pub fn data_metrics(&self) -> Progress<DataMetrics> {
        Progress::new(self.metrics(), |now| DataMetrics {
            last_log_id: now.last_log_id,
            durable_index: now.durable_index,
            commit_index: now.commit_index,
            last_applied: now.last_applied,
            snapshot: now.snapshot,
            purged: now.purged,
            replication: now.replication.clone(),
        })
    }

    /// [`metrics`](Self::metrics), without what changes with every write.
    pub fn server_metrics(&self) -> Progress<ServerMetrics> {
        Progress::new(self.metrics(), |now| ServerMetrics {
            id: now.id,
            role: now.role,
            vote: now.vote,
            current_leader: now.current_leader,
            membership: Arc::clone(&now.membership),
            membership_log_id: now.membership_log_id,
            closed: now.closed.clone(),
        })
    }

    /// The last index of this node's log that is durable here.
    ///
    /// ```
    /// # use quorate::{ClosedReason, Raft, RaftStateMachine};
    /// # async fn follow<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), ClosedReason> {
    /// let mut log = raft.watch_log();
    /// let reached = log.wait_until_ge(100).await?;
    /// println!("at {reached}, then at {}", log.changed().await?);
    /// # Ok(()) }
    /// ```
    pub fn watch_log(&self) -> Progress<u64> {
        Progress::new(self.metrics(), |now| now.durable_index)
    }

    /// The greatest vote that this node has seen. How two compare depends on the mode: use
    /// [`wait_until`](Progress::wait_until).
    pub fn watch_vote(&self) -> Progress<Vote> {
        Progress::new(self.metrics(), |now| now.vote)
    }

    /// The last index that this node knows to be committed.
    pub fn watch_commit(&self) -> Progress<u64> {
        Progress::new(self.metrics(), |now| now.commit_index)
    }

    /// The last entry in this node's newest snapshot.
    pub fn watch_snapshot(&self) -> Progress<LogId> {
        Progress::new(self.metrics(), |now| now.snapshot)
    }

    /// The last entry applied to this node's state machine.
    pub fn watch_apply(&self) -> Progress<LogId> {
        Progress::new(self.metrics(), |now| now.last_applied)
    }

    /// Waits until this node has applied all that the cluster had committed when this was called: after a start, what
    /// it served before and what it missed. Returns the entry that it had to apply.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quorate::{Raft, RaftStateMachine, WaitError};
    /// # async fn come_back<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), WaitError> {
    /// let entry = raft.wait_for_recovery(Duration::from_secs(60)).await?;
    /// println!("caught up: entry {entry} is applied, and all before it; may be put behind the load balancer");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If it has not in time, for want of a leader or because it still catches up, or the group is closed before.
    pub async fn wait_for_recovery(&self, timeout: Duration) -> Result<LogId, WaitError> {
        let recovered = async {
            loop {
                match self.ensure_linearizable(quorate_core::ReadPolicy::ReadIndex).await {
                    Ok(log_id) => return Ok(log_id),
                    Err(crate::ReadError::Closed(reason)) => return Err(WaitError::Closed(reason)),
                    // Whatever else it is ends with time: the caller's patience counts, not that of reads.
                    Err(_) => tokio::time::sleep(crate::raft::RETRY_PAUSE).await,
                }
            }
        };
        match tokio::time::timeout(timeout, recovered).await {
            Ok(result) => result,
            Err(_) => Err(WaitError::Timeout { what: "this node to catch up with its cluster".into(), after: timeout }),
        }
    }
}
