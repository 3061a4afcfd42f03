//! [`Raft`]: a handle to one group on one node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_core::{ClusterId, Event, GroupId, LeaderId, LogId, Node as Member, NodeId, ReadPolicy, Toggle};
use tokio::sync::{oneshot, watch};
use tokio::time::{timeout, timeout_at};

use crate::deadline::from_now;
use crate::driver::Input;
use crate::group::{ApplyQueue, Node, ProposalQueue, Terms};
use crate::host::{HostInner, initialize};
use crate::{
    Builder, ChangeError, ClientWriteError, ClosedReason, Host, InitializeError, MetricsRegistry, RaftMetrics,
    RaftStateMachine, ReadError, RuntimeStats, SnapshotError, Wait, WriteBuilder, WriteManyBuilder,
};

/// Pause before a refused request is made again, if nothing tells when it may succeed.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A node that stops waits this long for what is not its own: a state machine that does not come back from an apply, or a
/// disk that does not take the log's closing mark.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A group with its types.
pub(crate) struct Group<S: RaftStateMachine> {
    pub(crate) host: Arc<HostInner>,
    pub(crate) node: Arc<Node>,
    pub(crate) proposals: Arc<ProposalQueue<S::Response>>,
    pub(crate) applies: Arc<ApplyQueue<S>>,
}

impl<S: RaftStateMachine> Group<S> {
    pub(crate) fn closed_reason(&self) -> ClosedReason {
        self.node.closed().cloned().unwrap_or(ClosedReason::Shutdown)
    }
}

/// A handle to one group on this node. Cheap to clone. The node runs until it is shut down, also without handles.
pub struct Raft<S: RaftStateMachine> {
    pub(crate) group: Arc<Group<S>>,
    /// The host, if it was made for this group alone.
    owned_host: Option<Host>,
}

impl<S: RaftStateMachine> Clone for Raft<S> {
    fn clone(&self) -> Self {
        Self { group: Arc::clone(&self.group), owned_host: self.owned_host.clone() }
    }
}

impl<S: RaftStateMachine> std::fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = &self.group.node;
        f.debug_struct("Raft").field("node", &node.me).field("group", &node.group).finish_non_exhaustive()
    }
}

/// How a node is shut down; see [`Raft::shutdown_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Whether a leader hands over before it stops. On by default.
    pub transfer: Toggle,
    /// For how long it hands over and waits for answers, in all. 5 s by default. Then it stops, as
    /// [`Raft::shutdown`] does.
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { transfer: Toggle::On, deadline: Duration::from_secs(5) }
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
    pub(crate) fn new(group: Arc<Group<S>>, owned_host: Option<Host>) -> Self {
        Self { group, owned_host }
    }

    /// Starts to describe a node.
    pub fn builder(id: impl Into<NodeId>) -> Builder<S> {
        Builder::new(id.into())
    }

    // ---- writes ----

    /// Writes a command: returns once it is committed by a quorum and applied on the node that led.
    ///
    /// A node that does not lead forwards it. Waits for a leader, and for room in the window, up to
    /// [`Config::write_timeout`](crate::Config::write_timeout).
    ///
    /// ```
    /// # use quorate::{ClientWriteError, Raft, RaftStateMachine};
    /// # async fn add<S>(raft: &Raft<S>) -> Result<(), ClientWriteError>
    /// # where S: RaftStateMachine<Command = u64, Response = u64> {
    /// match raft.client_write(5).await {
    ///     Ok(written) => println!("the total is {}, by entry {}", written.response, written.log_id),
    ///     Err(error) if error.is_retryable() => println!("nothing was added; another try may do: {error}"),
    ///     Err(error) if error.outcome_is_unknown() => println!("5 may have been added, or will be: {error}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`ClientWriteError`]: whether it was certainly not applied, or may have been.
    pub fn client_write(
        &self,
        command: S::Command,
    ) -> impl Future<Output = ClientWriteResult<S::Response>> + Send + use<S> {
        Arc::clone(&self.group).write(command, Terms::default(), None)
    }

    /// As [`client_write`](Self::client_write), up to another deadline.
    ///
    /// # Errors
    /// As for `client_write`.
    pub fn client_write_with(
        &self,
        command: S::Command,
        deadline: Instant,
    ) -> impl Future<Output = ClientWriteResult<S::Response>> + Send + use<S> {
        Arc::clone(&self.group).write(command, Terms::default(), Some(deadline))
    }

    /// As [`client_write`](Self::client_write), but fails at once if this node does not lead or has no room.
    ///
    /// # Errors
    /// As for `client_write`.
    pub fn try_client_write(
        &self,
        command: S::Command,
    ) -> impl Future<Output = ClientWriteResult<S::Response>> + Send + use<S> {
        let group = Arc::clone(&self.group);
        async move { group.try_write(command).await }
    }

    /// Writes commands in this order, with one wake-up for all of them. Each has an outcome of its own; the results are in
    /// the order of the commands.
    ///
    /// A node that does not lead hands them to the leader together, about a mebibyte at a time. What a leader certainly did not
    /// take is written again through the next one, so after a change of leaders it may come behind commands that followed it.
    /// All of them are answered within [`Config::write_timeout`](crate::Config::write_timeout); see
    /// [`WriteManyBuilder::deadline`](crate::WriteManyBuilder::deadline) for another time.
    ///
    /// ```
    /// # use quorate::{ClientWriteError, Raft, RaftStateMachine};
    /// # async fn add<S>(raft: &Raft<S>) -> Result<(), ClientWriteError>
    /// # where S: RaftStateMachine<Command = u64, Response = u64> {
    /// let added = [5, 6, 7];
    /// let results = raft.client_write_many(added.to_vec()).await;
    /// for (add, result) in added.into_iter().zip(results) {
    ///     println!("the total after {add}: {}", result?.response);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn client_write_many(
        &self,
        commands: Vec<S::Command>,
    ) -> impl Future<Output = Vec<ClientWriteResult<S::Response>>> + Send + use<S> {
        Arc::clone(&self.group).write_many(commands, None, None)
    }

    /// Describes a write of which more is asked: only under a given leader, told when it is committed, or not waited
    /// for. [`client_write`](Self::client_write) is the short form.
    ///
    /// ```
    /// # use quorate::{ClientWriteError, Raft, RaftStateMachine};
    /// # async fn add<S: RaftStateMachine<Command = u64>>(raft: &Raft<S>) -> Result<(), ClientWriteError> {
    /// let written = raft.write(5).on_commit(|log_id| println!("committed at {log_id}")).await?;
    /// // This node, or another, decided something under the leader of that entry: it must not be acted on later.
    /// raft.write(6).with_leader(written.log_id.leader_id).await?;
    /// # Ok(()) }
    /// ```
    pub fn write(&self, command: S::Command) -> WriteBuilder<S> {
        WriteBuilder::new(Arc::clone(&self.group), command)
    }

    /// As [`client_write_many`](Self::client_write_many), if more is asked of the writes.
    pub fn write_many(&self, commands: Vec<S::Command>) -> WriteManyBuilder<S> {
        WriteManyBuilder::new(Arc::clone(&self.group), commands)
    }

    /// Writes an entry that changes nothing, a barrier: returns its log id once it is committed and applied on the
    /// node that led. Any node takes this; it is tried again, through every change of leader, up to
    /// [`Config::write_timeout`](crate::Config::write_timeout).
    ///
    /// # Errors
    /// See [`ClientWriteError`]. If the outcome is unknown the entry may come later, and does no harm.
    pub async fn write_blank(&self) -> Result<LogId, ClientWriteError> {
        self.group.write_blank().await
    }

    // ---- reads ----

    /// Reads the state machine, as fresh as `policy` asks for. Any node serves it: one that does not lead asks the
    /// leader how far it must have applied, and reads its own state then.
    ///
    /// A read waits across a change of leaders, and until this node has applied far enough, up to
    /// [`Config::read_timeout`](crate::Config::read_timeout), while the runtime runs that the node was started on; if that is
    /// gone, until the node is shut down. Once `read` has begun it takes as long as it takes. Applies
    /// wait for it: it may call this library, but must not wait for what that does. A panic of `read` reaches the caller.
    ///
    #[cfg_attr(feature = "serde", doc = "```")]
    #[cfg_attr(not(feature = "serde"), doc = "```text")]
    /// # use std::time::Duration;
    /// # use quorate::{Payload, Raft, RaftStateMachine, ReadError, ReadPolicy};
    /// # struct Counter(u64);
    /// # impl RaftStateMachine for Counter {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
    /// #     fn snapshot(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> { self.0.write_to(out) }
    /// #     fn restore(input: &mut dyn std::io::Read) -> std::io::Result<Self> { u64::read_from(input).map(Counter) }
    /// # }
    /// # async fn look(raft: &Raft<Counter>) -> Result<(), ReadError> {
    /// let total = raft.read(ReadPolicy::ReadIndex, |counter| counter.0).await?;
    /// let recent = raft.read(ReadPolicy::MaxAge(Duration::from_millis(100)), |counter| counter.0).await?;
    /// let local = raft.read(ReadPolicy::Stale, |counter| counter.0).await?;
    /// println!("{total} now; {recent} not longer than 100 ms ago; {local} as far as this node knows");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] and [`ReadError::NotCaughtUp`] at the deadline; [`ReadError::LeaseDisabled`] at once, if
    /// the cluster's settings do not allow lease reads (see [`change_settings`](Self::change_settings));
    /// [`ReadError::Closed`] if the group is over.
    pub fn read<T: Send + 'static>(
        &self,
        policy: ReadPolicy,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, ReadError>> + Send {
        Arc::clone(&self.group).read(policy, read)
    }

    /// As [`read`](Self::read), but `visit` may await: to ship a consistent picture of the state somewhere, say.
    ///
    /// Nothing is applied on this node meanwhile, so nothing in it may wait for a write or read of this group. It
    /// runs on a thread that may block, and to its end also if the caller gives up; for how long is up to it.
    ///
    #[cfg_attr(feature = "serde", doc = "```")]
    #[cfg_attr(not(feature = "serde"), doc = "```text")]
    /// # use quorate::{Payload, Raft, RaftStateMachine, ReadError, ReadPolicy};
    /// # use tokio::io::AsyncWriteExt;
    /// # struct Counter(u64);
    /// # impl RaftStateMachine for Counter {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
    /// #     fn snapshot(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> { self.0.write_to(out) }
    /// #     fn restore(input: &mut dyn std::io::Read) -> std::io::Result<Self> { u64::read_from(input).map(Counter) }
    /// # }
    /// # type Ended = Result<(), Box<dyn std::error::Error>>;
    /// # async fn ship(raft: &Raft<Counter>, mut backup: tokio::net::TcpStream) -> Ended {
    /// let visit = async move |counter: &Counter| backup.write_u64(counter.0).await;
    /// let shipped = raft.with_state_machine(ReadPolicy::ReadIndex, visit).await;
    /// // First how the read ended, then what `visit` returned.
    /// shipped??;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`read`](Self::read), before it begins; it begins within
    /// [`Config::read_timeout`](crate::Config::read_timeout), or not at all.
    pub fn with_state_machine<T: Send + 'static>(
        &self,
        policy: ReadPolicy,
        visit: impl AsyncFnOnce(&S) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, ReadError>> + Send {
        let group = Arc::clone(&self.group);
        async move { group.visit(policy, visit).await }
    }

    /// Waits until a read of this node's state machine is as fresh as `policy` asks for, and says which entry
    /// had to be applied for it.
    ///
    #[cfg_attr(feature = "serde", doc = "```")]
    #[cfg_attr(not(feature = "serde"), doc = "```text")]
    /// # use quorate::{Payload, Raft, RaftStateMachine, ReadError, ReadPolicy};
    /// # struct Counter(u64);
    /// # impl RaftStateMachine for Counter {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
    /// #     fn snapshot(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> { self.0.write_to(out) }
    /// #     fn restore(input: &mut dyn std::io::Read) -> std::io::Result<Self> { u64::read_from(input).map(Counter) }
    /// # }
    /// # async fn look(raft: &Raft<Counter>) -> Result<(), ReadError> {
    /// let entry = raft.ensure_linearizable(ReadPolicy::ReadIndex).await?;
    /// // Asks nobody, and holds all that was committed when the line above was called.
    /// let total = raft.read(ReadPolicy::Stale, |counter| counter.0).await?;
    /// println!("the total is {total}, with entry {entry} and all before it");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn ensure_linearizable(&self, policy: ReadPolicy) -> Result<LogId, ReadError> {
        self.group.ensure_linearizable(policy).await
    }

    // ---- looking ----

    /// The node's state, as a channel that changes with it. While only indexes change it is updated about once a
    /// millisecond.
    ///
    /// Do not hold what `borrow` returns: the node stands still until it is dropped, and a leader loses its term meanwhile.
    /// Clone it, as here; nor call this library while it is held. [`wait`](Self::wait) and [`Progress`](crate::Progress)
    /// hold none while your code runs.
    ///
    /// ```
    /// # use quorate::{Raft, RaftStateMachine};
    /// # async fn follow<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), tokio::sync::watch::error::RecvError> {
    /// let mut metrics = raft.metrics();
    /// while metrics.borrow_and_update().closed.is_none() {
    ///     let now = metrics.borrow().clone();
    ///     println!("{:?} under {:?}, applied up to {}", now.role, now.current_leader, now.last_applied);
    ///     metrics.changed().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn metrics(&self) -> watch::Receiver<RaftMetrics> {
        self.group.node.metrics()
    }

    /// The numbers of this node's groups: counters, gauges and times, for exporters.
    pub fn metrics_registry(&self) -> MetricsRegistry {
        self.group.host.registry.clone()
    }

    /// How long the parts of this group's work took on this node, and how much of it there was.
    pub fn runtime_stats(&self) -> RuntimeStats {
        RuntimeStats::of(&self.group.node.meters, &self.group.host.meters)
    }

    /// Waits for a condition.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quorate::{Raft, RaftStateMachine, WaitError};
    /// # async fn follow<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), WaitError> {
    /// let patience = Duration::from_secs(5);
    /// let leader = raft.wait(patience).leader().await?;
    /// let now = raft.wait(patience).applied_index_at_least(100).await?;
    /// println!("node {leader} leads; applied here up to {}", now.last_applied);
    /// raft.wait(patience).metrics(|now| now.sessions == 0, "all sessions to be closed").await?;
    /// # Ok(()) }
    /// ```
    pub fn wait(&self, timeout: Duration) -> Wait {
        Wait::new(self.metrics(), timeout)
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.group.node.leads()
    }

    /// The leader this node follows or is.
    pub fn current_leader(&self) -> Option<NodeId> {
        self.group.node.leader()
    }

    /// The voters of the membership in force; of both sides, while it is joint.
    pub fn voter_ids(&self) -> BTreeSet<NodeId> {
        self.group.node.membership().voter_ids()
    }

    /// The learners of the membership in force.
    pub fn learner_ids(&self) -> BTreeSet<NodeId> {
        self.group.node.membership().learner_ids()
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.group.node.me
    }

    /// This group.
    pub fn group_id(&self) -> GroupId {
        self.group.node.group
    }

    /// The cluster; zero while this node is blank.
    pub fn cluster_id(&self) -> ClusterId {
        self.group.host.cluster()
    }

    /// Whether anything was ever written here: `false` as long as this node belongs to no cluster.
    pub fn is_initialized(&self) -> bool {
        !self.group.node.is_blank()
    }

    /// The address this node listens on for peers, with the port that the system chose if it was 0.
    pub fn address(&self) -> &str {
        &self.group.host.address
    }

    // ---- membership ----

    /// Makes this blank node and the other blank members the first voters of a new cluster. They must answer.
    ///
    /// ```
    /// # use quorate::{InitializeError, Node, NodeId, Raft, RaftStateMachine};
    /// # async fn form<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), InitializeError> {
    /// let members = [1, 2, 3].map(|id| (NodeId(id), Node::at(format!("10.0.0.{id}:7000"))));
    /// match raft.initialize(members.into()).await {
    ///     Ok(entry) => println!("a cluster of three, by entry {entry}"),
    ///     Err(InitializeError::Silent(ids)) => println!("not up, or not reached: {ids:?}"),
    ///     Err(InitializeError::HasState(id)) => println!("node {id} belongs to a cluster"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`InitializeError`].
    pub async fn initialize(&self, members: BTreeMap<NodeId, Member>) -> Result<LogId, InitializeError> {
        initialize(&self.group.host, &self.group.node, members).await
    }

    /// Makes things happen now that would happen later.
    pub fn trigger(&self) -> Trigger<'_, S> {
        Trigger { raft: self, patience: None }
    }

    // ---- the end ----

    /// Stops the group on this node. If it is the only one of its host, stops the host too.
    ///
    /// A leader hands over first if another voter was heard of lately, which takes an election timeout at most.
    /// Calls under way are answered: [`ClientWriteError::OutcomeUnknown`] to writes that are in the log.
    ///
    /// When it returns nothing of the state machine runs any more, so that its files may be opened again: an apply or a
    /// read under way is waited for, and a snapshot under way is given up (what the machine writes it to, or reads it from,
    /// fails). So do not await this in an apply, or in [`with_state_machine`](Self::with_state_machine).
    ///
    /// Returns even if a disk or a state machine is stuck: after 10 s for each of the two at most, which are left alone
    /// then. An apply that does not come back goes on in this process, beside whoever is given the same files now; end the
    /// process instead. That is as if it had crashed: nothing that was acknowledged is lost. Whoever drops what this returns
    /// does not end the stop: who asks again waits for it.
    pub async fn shutdown(&self) {
        // Nobody tells of time any more when the runtime that the node was started on has ended.
        if self.is_leader() && !self.group.node.is_left_alone() {
            // The others elect a leader in any case, only later.
            let _handed_over = self.trigger().transfer_leader(None).await;
        }
        self.stop().await;
    }

    async fn stop(&self) {
        if let Some(host) = &self.owned_host {
            return host.shutdown().await;
        }
        let node = &self.group.node;
        node.bring(Input::Close(ClosedReason::Shutdown));
        // One that is stuck stays known: it must not be started again beside itself.
        if node.comes_to_rest(tokio::time::Instant::now() + STOP_PATIENCE).await {
            self.group.host.remove_group(node);
        }
    }

    /// As [`shutdown`](Self::shutdown), but what this node has taken is answered first, as far as `drain` allows: the
    /// stop of a rolling restart.
    ///
    /// A leader hands over, so that later writes go to the next one; then the writes in this node's log and queue, and
    /// those it forwarded, are waited for. Who begins to write through this node from then on is refused at once with
    /// [`ClientWriteError::Closed`], and tries again through another one.
    /// Whatever has no answer at the deadline gets one: [`ClientWriteError::OutcomeUnknown`], or a refusal.
    ///
    /// So of writes through a node that is drained in time none has an unknown outcome, nor of those that others forwarded
    /// to it, unless the network loses something.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quorate::{ClientWriteError, ClosedReason, Drain, Raft, RaftStateMachine};
    /// # async fn stop<S: RaftStateMachine<Command = u64>>(raft: &Raft<S>) {
    /// raft.shutdown_with(Drain { deadline: Duration::from_secs(30), ..Drain::default() }).await;
    /// assert_eq!(raft.closed().await, ClosedReason::Shutdown);
    /// assert!(matches!(raft.client_write(5).await, Err(ClientWriteError::Closed(ClosedReason::Shutdown))));
    /// # }
    /// ```
    pub async fn shutdown_with(&self, drain: Drain) {
        let deadline = from_now(drain.deadline);
        let drained = async {
            if drain.transfer == Toggle::On && self.is_leader() {
                // The others elect a leader in any case, only later.
                let handed_over = self.trigger().transfer_leader(None).await.is_ok();
                self.group.node.drain();
                if handed_over {
                    // Who has not heard of the next leader forwards to this one, and must be refused, not left without
                    // an answer. Within a heartbeat everybody has heard.
                    tokio::time::sleep(self.group.host.config.heartbeat_interval).await;
                }
            }
            self.group.node.drain();
            self.group.proposals.window.until_empty().await;
        };
        let _answered = timeout_at(deadline.into(), drained).await;
        self.stop().await;
    }

    /// Waits until the group is closed, for whatever reason, and says why.
    pub async fn closed(&self) -> ClosedReason {
        self.group.node.wait_closed().await;
        self.group.closed_reason()
    }
}

/// Makes things happen now; made by [`Raft::trigger`].
#[derive(Debug)]
pub struct Trigger<'a, S: RaftStateMachine> {
    pub(crate) raft: &'a Raft<S>,
    /// Of the caller; else each has its own.
    pub(crate) patience: Option<Duration>,
}

impl<S: RaftStateMachine> Trigger<'_, S> {
    /// Waits for the outcome for this long at most. What was triggered goes on then, and may still be done.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quorate::{LogId, Raft, RaftStateMachine, SnapshotError};
    /// # async fn back_up<S: RaftStateMachine>(raft: &Raft<S>) -> Result<LogId, SnapshotError> {
    /// raft.trigger().within(Duration::from_secs(60)).snapshot().await
    /// # }
    /// ```
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    fn bring(&self, event: Event) {
        self.raft.group.node.bring(Input::Event(event));
    }

    /// Hands leadership over to `to`, or with `None` to the most up-to-date voter; returns the new leader id once
    /// this node has heard of it (dissertation 3.10). Only on the leader.
    ///
    /// Until then writes are sent on to the target. Ends within
    /// [`Config::election_timeout_max`](crate::Config::election_timeout_max); a node that is held up gets
    /// [`Config::write_timeout`](crate::Config::write_timeout) on top.
    ///
    /// # Errors
    /// See [`ChangeError`]. With [`Refusal::NotTransferred`](crate::Refusal::NotTransferred) this node leads on, or it names who leads.
    /// [`ChangeError::OutcomeUnknown`] then, or at the end of what [`within`](Self::within) gave it.
    pub async fn transfer_leader(&self, to: impl Into<Option<NodeId>>) -> Result<LeaderId, ChangeError> {
        let (reply, result) = oneshot::channel();
        self.raft.group.node.bring(Input::Transfer { to: to.into(), reply });
        // The core has its own time-out; this one is the caller's.
        let config = &self.raft.group.host.config;
        let own = config.election_timeout_max.saturating_add(config.write_timeout);
        match timeout(self.patience.unwrap_or(own), result).await {
            Ok(ended) => ended.unwrap_or_else(|_| Err(ChangeError::Closed(self.raft.group.closed_reason()))),
            Err(_elapsed) => Err(ChangeError::OutcomeUnknown),
        }
    }

    /// Gives up the transfer under way, if there is one: this node takes writes again.
    pub fn abort_transfer(&self) {
        self.bring(Event::AbortTransfer);
    }

    /// Builds a snapshot, whatever the policy says; returns once it is durable, with the last entry in it.
    ///
    /// It holds at least what was applied when this was called; if there is such a snapshot already, that one is it.
    ///
    /// How long that takes is for the state machine and the disk to say, so it waits until it is done, unless
    /// [`within`](Self::within) gives it a time.
    ///
    /// ```
    /// # use quorate::{Raft, RaftStateMachine, SnapshotError};
    /// # async fn compact<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), SnapshotError> {
    /// let last = raft.trigger().snapshot().await?;
    /// println!("the snapshot holds everything up to {last}");
    /// let forgotten = raft.trigger().purge_log(last.index).await?;
    /// println!("the log begins after {forgotten}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If nothing was applied yet, the state machine defers it, or it cannot be built; [`SnapshotError::TimedOut`].
    pub async fn snapshot(&self) -> Result<LogId, SnapshotError> {
        self.compact(None, self.patience).await
    }

    /// Forgets the log up to this index, as far as a durable snapshot covers it, whoever may still lack it; returns the
    /// last entry that is forgotten now. Waits for [`Config::write_timeout`](crate::Config::write_timeout) at most, or as
    /// long as [`within`](Self::within) says.
    ///
    /// # Errors
    /// If the node is closed; [`SnapshotError::TimedOut`].
    pub async fn purge_log(&self, upto: u64) -> Result<LogId, SnapshotError> {
        let own = self.raft.group.host.config.write_timeout;
        self.compact(Some(upto), Some(self.patience.unwrap_or(own))).await
    }

    async fn compact(&self, purge: Option<u64>, patience: Option<Duration>) -> Result<LogId, SnapshotError> {
        let (reply, result) = oneshot::channel();
        let group = &self.raft.group;
        group.node.bring(Input::Compact { purge, reply });
        let ended = match patience {
            Some(after) => timeout(after, result).await.map_err(|_elapsed| SnapshotError::TimedOut { after })?,
            None => result.await,
        };
        ended.unwrap_or_else(|_| Err(SnapshotError::Closed(group.closed_reason())))
    }
}
