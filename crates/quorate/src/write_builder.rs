//! [`WriteBuilder`]: a write of which more is asked than its response.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_core::{LeaderId, LogId};
use tokio::sync::oneshot;

use crate::deadline::from_now;
use crate::group::{CommitSlot, OnCommit, Terms};
use crate::raft::Group;
use crate::{ClientWriteError, ClientWriteResult, RaftStateMachine};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A write before it is made; from [`Raft::write`](crate::Raft::write).
///
/// Nothing happens until it is awaited, [sent](Self::send) or [submitted](Self::submit).
#[must_use = "nothing is written before it is awaited, sent or submitted"]
pub struct WriteBuilder<S: RaftStateMachine> {
    group: Arc<Group<S>>,
    command: S::Command,
    only: Option<LeaderId>,
    patience: Option<Duration>,
    on_commit: Option<OnCommit>,
}

impl<S: RaftStateMachine> WriteBuilder<S> {
    pub(crate) fn new(group: Arc<Group<S>>, command: S::Command) -> Self {
        Self { group, command, only: None, patience: None, on_commit: None }
    }

    /// Only if this leader id still leads at the moment the command enters its log; otherwise
    /// [`ClientWriteError::LeaderChanged`], and the command is never applied.
    ///
    /// It is decided where the command enters the log, not by what this node believes; any node may be asked, and
    /// sends the condition along. A leader id never leads again once it stopped: what was decided under it (the
    /// `log_id.leader_id` of an earlier write) is acted on by that leader, or not at all.
    pub fn with_leader(mut self, leader_id: LeaderId) -> Self {
        self.only = Some(leader_id);
        self
    }

    /// Answers after this long at the latest, counted from when it is made, whether that is shorter or longer than
    /// [`Config::write_timeout`](crate::Config::write_timeout), which holds otherwise.
    /// `Duration::MAX`: without end.
    pub fn deadline(mut self, after: Duration) -> Self {
        self.patience = Some(after);
        self
    }

    /// Calls this once the command is committed: it will be applied. Not called, but dropped, if the write ends in
    /// another way. Always before the response is known.
    ///
    /// A node that forwards the write learns of both at once. This runs on a thread of the library: it must not
    /// block. A panic in it is caught and logged.
    pub fn on_commit(mut self, tell: impl FnOnce(LogId) + Send + 'static) -> Self {
        self.on_commit = Some(Box::new(tell));
        self
    }

    fn parts(self) -> (Arc<Group<S>>, S::Command, Terms, Option<Instant>) {
        let terms = Terms { only: self.only, on_commit: self.on_commit.map(CommitSlot::new), ..Terms::default() };
        (self.group, self.command, terms, self.patience.map(from_now))
    }

    /// Makes the write and does not wait for it: fire and forget. If its leader is lost before the command is in a
    /// log it is tried again, as when it is awaited.
    ///
    /// # Errors
    /// What is known at once: the command cannot be encoded or is too large, too many bytes of writes wait already,
    /// or the group is closed. How it ends otherwise nobody is told; see [`send_then`](Self::send_then).
    pub fn send(self) -> Result<(), ClientWriteError> {
        self.send_then(|_outcome| {})
    }

    /// As [`send`](Self::send); then tells the outcome, on a thread of the library: what is called must not block.
    ///
    /// # Errors
    /// As for `send`; then `tell` is not called.
    pub fn send_then(
        self,
        tell: impl FnOnce(ClientWriteResult<S::Response>) + Send + 'static,
    ) -> Result<(), ClientWriteError> {
        let (group, command, terms, deadline) = self.parts();
        group.send(command, terms, deadline, Box::new(tell))
    }

    /// As [`send`](Self::send), with something to wait on: first for the commit, then for the response.
    ///
    /// ```
    /// # use quorate::{ClientWriteError, Raft, RaftStateMachine};
    /// # async fn add<S: RaftStateMachine<Command = u64>>(raft: &Raft<S>) -> Result<(), ClientWriteError> {
    /// let mut write = raft.write(5).submit()?;
    /// let log_id = write.committed().await?;
    /// let response = write.applied().await?.response;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for `send`.
    pub fn submit(self) -> Result<Submitted<S::Response>, ClientWriteError> {
        let (commit, committed) = oneshot::channel();
        let (apply, applied) = oneshot::channel();
        let first = self.on_commit;
        let told = move |log_id| {
            if let Some(first) = first {
                first(log_id);
            }
            // Whoever submitted it may have gone.
            let _ = commit.send(log_id);
        };
        let write = Self { on_commit: Some(Box::new(told)), ..self };
        write.send_then(move |outcome| drop(apply.send(outcome)))?;
        Ok(Submitted { committed: Some(committed), log_id: None, applied, outcome: None })
    }
}

impl<S: RaftStateMachine> IntoFuture for WriteBuilder<S> {
    type Output = ClientWriteResult<S::Response>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (group, command, terms, deadline) = self.parts();
        Box::pin(group.write(command, terms, deadline))
    }
}

impl<S: RaftStateMachine> fmt::Debug for WriteBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBuilder")
            .field("leader", &self.only)
            .field("deadline", &self.patience)
            .finish_non_exhaustive()
    }
}

/// A write under way; from [`WriteBuilder::submit`]. Dropped, the write goes on.
#[derive(Debug)]
pub struct Submitted<R> {
    /// Until it was heard from.
    committed: Option<oneshot::Receiver<LogId>>,
    log_id: Option<LogId>,
    applied: oneshot::Receiver<ClientWriteResult<R>>,
    /// Came while the commit was waited for.
    outcome: Option<ClientWriteResult<R>>,
}

impl<R> Submitted<R> {
    /// Waits until the command is committed: it will be applied, whatever fails.
    ///
    /// # Errors
    /// See [`ClientWriteError`]; the write is over then.
    pub async fn committed(&mut self) -> Result<LogId, ClientWriteError> {
        if let Some(committed) = &mut self.committed {
            self.log_id = committed.await.ok();
            self.committed = None;
        }
        if let Some(log_id) = self.log_id {
            return Ok(log_id);
        }
        if self.outcome.is_none() {
            self.outcome = Some(answer(&mut self.applied).await);
        }
        match &self.outcome {
            Some(Ok(written)) => Ok(written.log_id),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ClientWriteError::OutcomeUnknown),
        }
    }

    /// Waits until the command is applied on the node that led, for the state machine's answer.
    ///
    /// # Errors
    /// See [`ClientWriteError`].
    pub async fn applied(mut self) -> ClientWriteResult<R> {
        match self.outcome {
            Some(outcome) => outcome,
            None => answer(&mut self.applied).await,
        }
    }
}

async fn answer<R>(applied: &mut oneshot::Receiver<ClientWriteResult<R>>) -> ClientWriteResult<R> {
    // The sender is lost only with the runtime that the node ran on.
    applied.await.unwrap_or(Err(ClientWriteError::OutcomeUnknown))
}

/// Writes before they are made; from [`Raft::write_many`](crate::Raft::write_many). Awaited, it is
/// [`Raft::client_write_many`](crate::Raft::client_write_many).
#[must_use = "nothing is written before it is awaited"]
pub struct WriteManyBuilder<S: RaftStateMachine> {
    group: Arc<Group<S>>,
    commands: Vec<S::Command>,
    only: Option<LeaderId>,
    patience: Option<Duration>,
}

impl<S: RaftStateMachine> WriteManyBuilder<S> {
    pub(crate) fn new(group: Arc<Group<S>>, commands: Vec<S::Command>) -> Self {
        Self { group, commands, only: None, patience: None }
    }

    /// Each of them only if this leader id leads when it enters its log; see [`WriteBuilder::with_leader`].
    pub fn with_leader(mut self, leader_id: LeaderId) -> Self {
        self.only = Some(leader_id);
        self
    }

    /// Answers all of them after this long at the latest, counted from when it is awaited;
    /// [`Config::write_timeout`](crate::Config::write_timeout) otherwise. `Duration::MAX`: without end.
    pub fn deadline(mut self, after: Duration) -> Self {
        self.patience = Some(after);
        self
    }
}

impl<S: RaftStateMachine> IntoFuture for WriteManyBuilder<S> {
    type Output = Vec<ClientWriteResult<S::Response>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let deadline = self.patience.map(from_now);
        Box::pin(self.group.write_many(self.commands, self.only, deadline))
    }
}

impl<S: RaftStateMachine> fmt::Debug for WriteManyBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteManyBuilder").field("commands", &self.commands.len()).field("leader", &self.only).finish()
    }
}
