//! [`Raft`]: a handle to one group on one node.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use quorate_core::{ChangeMembers, GroupId, LogId, Node, NodeId, ReadPolicy, Retain};
use tokio::sync::watch;

use crate::{
    Builder, ChangeError, ClientWriteError, ClosedReason, InitializeError, RaftMetrics, RaftStateMachine, ReadError,
    Wait,
};

/// A handle to one group on this node. Cheap to clone.
#[derive(Debug)]
pub struct Raft<S: RaftStateMachine> {
    machine: PhantomData<fn() -> S>,
}

impl<S: RaftStateMachine> Clone for Raft<S> {
    fn clone(&self) -> Self {
        Self { machine: PhantomData }
    }
}

/// A command that was committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWriteResponse<R> {
    /// Its place in the log.
    pub log_id: LogId,
    /// What the state machine answered.
    pub response: R,
}

/// How a write ended; `R` is the state machine's response.
pub type ClientWriteResult<R> = Result<ClientWriteResponse<R>, ClientWriteError>;

impl<S: RaftStateMachine> Raft<S> {
    /// Starts to describe a node.
    pub fn builder(id: impl Into<NodeId>) -> Builder<S> {
        Builder::new(id.into())
    }

    /// Writes a command: returns once it is committed by a quorum and applied on the node that led.
    ///
    /// A node that does not lead forwards it. Waits for a leader, and for room in the window, up to
    /// [`Config::write_timeout`](crate::Config::write_timeout).
    ///
    /// # Errors
    /// See [`ClientWriteError`]: whether it was certainly not applied, or may have been.
    pub async fn client_write(&self, command: S::Command) -> ClientWriteResult<S::Response> {
        let _ = command;
        Err(ClientWriteError::Closed(ClosedReason::Shutdown))
    }

    /// As [`client_write`](Self::client_write), up to another deadline.
    ///
    /// # Errors
    /// As for `client_write`.
    pub async fn client_write_with(&self, command: S::Command, deadline: Instant) -> ClientWriteResult<S::Response> {
        let _ = deadline;
        self.client_write(command).await
    }

    /// As [`client_write`](Self::client_write), but fails at once if this node does not lead or has no room.
    ///
    /// # Errors
    /// As for `client_write`.
    pub async fn try_client_write(&self, command: S::Command) -> ClientWriteResult<S::Response> {
        self.client_write(command).await
    }

    /// Writes commands in this order, with one wake-up for all of them. Each has an outcome of its own.
    pub async fn client_write_many(&self, commands: Vec<S::Command>) -> Vec<ClientWriteResult<S::Response>> {
        commands.into_iter().map(|_| Err(ClientWriteError::Closed(ClosedReason::Shutdown))).collect()
    }

    /// Reads the state machine, as fresh as `policy` asks for. Any node serves it.
    ///
    /// # Errors
    /// If the policy cannot be kept before [`Config::read_timeout`](crate::Config::read_timeout).
    pub async fn read<T: Send + 'static>(
        &self,
        policy: ReadPolicy,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let _ = (policy, read);
        Err(ReadError::Closed(ClosedReason::Shutdown))
    }

    /// Waits until a read of this node's state machine is as fresh as `policy` asks for, and says which entry
    /// had to be applied for it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn ensure_linearizable(&self, policy: ReadPolicy) -> Result<LogId, ReadError> {
        let _ = policy;
        Err(ReadError::Closed(ClosedReason::Shutdown))
    }

    /// The node's state, as a channel that changes with it.
    pub fn metrics(&self) -> watch::Receiver<RaftMetrics> {
        unreachable_metrics()
    }

    /// Waits for a condition.
    pub fn wait(&self, timeout: Duration) -> Wait {
        Wait::new(self.metrics(), timeout)
    }

    /// Makes this blank node and the other blank members the first voters of a new cluster. They must answer.
    ///
    /// # Errors
    /// See [`InitializeError`].
    pub async fn initialize(&self, members: BTreeMap<NodeId, Node>) -> Result<LogId, InitializeError> {
        let _ = members;
        Err(InitializeError::Closed(ClosedReason::Shutdown))
    }

    /// Changes the membership; returns once the change is complete. Only on the leader.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_membership(&self, change: ChangeMembers, retain: Retain) -> Result<LogId, ChangeError> {
        let _ = (change, retain);
        Err(ChangeError::Closed(ClosedReason::Shutdown))
    }

    /// Adds a node that receives the log but does not vote. Only on the leader.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, id: impl Into<NodeId>, node: Node) -> Result<LogId, ChangeError> {
        self.change_membership(ChangeMembers::AddNodes([(id.into(), node)].into()), Retain::Remove).await
    }

    /// Makes things happen now that would happen later.
    pub fn trigger(&self) -> Trigger<'_, S> {
        Trigger { raft: self }
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        false
    }

    /// The leader this node follows or is.
    pub fn current_leader(&self) -> Option<NodeId> {
        None
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        NodeId(0)
    }

    /// This group.
    pub fn group_id(&self) -> GroupId {
        GroupId(0)
    }

    /// Stops the group on this node. If it is the only one of its host, stops the host too.
    pub async fn shutdown(&self) {}

    /// Waits until the group is closed, for whatever reason, and says why.
    pub async fn closed(&self) -> ClosedReason {
        ClosedReason::Shutdown
    }
}

fn unreachable_metrics() -> watch::Receiver<RaftMetrics> {
    let metrics = RaftMetrics {
        id: NodeId(0),
        group: GroupId(0),
        closed: Some(ClosedReason::Shutdown),
        role: crate::Role::Learner,
        vote: Default::default(),
        current_leader: None,
        last_log_id: LogId::ZERO,
        durable: LogId::ZERO,
        commit_index: 0,
        last_applied: LogId::ZERO,
        snapshot: LogId::ZERO,
        purged: LogId::ZERO,
        membership: Default::default(),
        membership_log_id: LogId::ZERO,
        replication: Vec::new(),
        quorum_acked_ago: None,
    };
    watch::channel(metrics).1
}

/// Makes things happen now; made by [`Raft::trigger`].
#[derive(Debug)]
pub struct Trigger<'a, S: RaftStateMachine> {
    raft: &'a Raft<S>,
}

impl<S: RaftStateMachine> Trigger<'_, S> {
    /// Campaigns, after a pre-vote.
    pub fn elect(&self) {
        let _ = self.raft;
    }

    /// Starts a heartbeat round, if this node leads.
    pub fn heartbeat(&self) {}

    /// Builds a snapshot.
    pub fn snapshot(&self) {}

    /// Forgets the log up to this index, as far as a snapshot covers it.
    pub fn purge_log(&self, upto: u64) {
        let _ = upto;
    }
}
