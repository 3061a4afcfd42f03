//! Reads: a freshness that the core confirms, then a look at the state machine once it is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Instant;

use quorate_core::{LogId, NodeId, ReadPolicy, Refusal};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::group::{Freshness, Node, Question};
use crate::raft::Group;
use crate::{RaftStateMachine, ReadError, blame};

impl<S: RaftStateMachine> Group<S> {
    pub(crate) async fn read<T: Send + 'static>(
        self: Arc<Self>,
        policy: ReadPolicy,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let (at, started) = self.freshness(policy).await?;
        match self.applies.try_read(at.index, read) {
            Ok(seen) => Ok(seen),
            Err(read) => self.read_at(at, started.unwrap_or_else(Instant::now), read).await,
        }
    }

    pub(crate) async fn ensure_linearizable(&self, policy: ReadPolicy) -> Result<LogId, ReadError> {
        let (at, started) = self.freshness(policy).await?;
        if self.applies.try_read(at.index, |_| ()).is_err() {
            self.read_at(at, started.unwrap_or_else(Instant::now), |_| ()).await?;
        }
        Ok(at)
    }

    /// Looks at the state machine once `at` is applied.
    async fn read_at<T: Send + 'static>(
        &self,
        at: LogId,
        started: Instant,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let (sender, mut seen) = oneshot::channel();
        // Whoever sets it first decides: the read begins, or the caller gives up.
        let decided = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&decided);
        let look = move |state: &S| {
            if sender.is_closed() || begins.swap(true, Ordering::AcqRel) {
                return;
            }
            // The state is only looked at: a panic harms nobody but the caller, who gets it.
            drop(sender.send(blame::catch(|| read(state))));
        };
        self.applies.read(at.index, Box::new(look));
        let answer = match timeout_at(self.read_deadline(started).into(), &mut seen).await {
            Ok(answer) => answer,
            // One that has begun takes as long as it takes.
            Err(_elapsed) if decided.swap(true, Ordering::AcqRel) => seen.await,
            Err(_elapsed) => return Err(ReadError::NotCaughtUp { read_at: at }),
        };
        match answer {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(panic)) => panic.resume(),
            Err(_dropped) => {
                self.node.wait_closed().await;
                Err(ReadError::Closed(self.closed_reason()))
            }
        }
    }

    /// Lets `visit` await while it looks at the state machine, in the queue of applies.
    pub(crate) async fn visit<T: Send + 'static>(
        self: Arc<Self>,
        policy: ReadPolicy,
        visit: impl AsyncFnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let started = Instant::now();
        let at = self.ensure_linearizable(policy).await?;
        let (begin, begun) = oneshot::channel();
        let (sender, seen) = oneshot::channel();
        let runtime = self.node.runtime.clone();
        let look = move |state: &S| {
            // Not for a caller who gave up waiting for it to begin.
            if begin.send(()).is_ok() {
                drop(sender.send(blame::catch(|| runtime.block_on(visit(state)))));
            }
        };
        self.applies.visit(Box::new(look));
        if timeout_at(self.read_deadline(started).into(), begun).await.is_err() {
            return Err(ReadError::NotCaughtUp { read_at: at });
        }
        match seen.await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(panic)) => panic.resume(),
            Err(_dropped) => {
                self.node.wait_closed().await;
                Err(ReadError::Closed(self.closed_reason()))
            }
        }
    }

    fn read_deadline(&self, started: Instant) -> Instant {
        started + self.host.config.read_timeout
    }

    /// The entry that has to be applied for a read of this policy, and since when its caller waits; `None`: it did not
    /// wait, and no clock was read for it.
    async fn freshness(&self, policy: ReadPolicy) -> Result<(LogId, Option<Instant>), ReadError> {
        if policy == ReadPolicy::Stale {
            return match self.node.closed() {
                Some(reason) => Err(ReadError::Closed(reason.clone())),
                None => Ok((LogId::ZERO, None)),
            };
        }
        if let Some(at) = self.node.answer_at_once(policy) {
            return Ok((at, None));
        }
        let started = match self.node.ends_questions_within(self.host.config.read_timeout) {
            // No timer and no clock on this path: a question without an answer is ended by the node's task.
            true => {
                let (answer, question) = self.ask(policy).await;
                let refusal = match answer {
                    Freshness::At(log_id) => return Ok((log_id, question.map(|question| question.since))),
                    Freshness::Refused(refusal) => refusal,
                    Freshness::Closed(reason) => return Err(ReadError::Closed(reason)),
                };
                let started = question.as_ref().map_or_else(Instant::now, |question| question.since);
                self.refused(refusal, question.and_then(|question| question.followed), started).await?;
                started
            }
            false => Instant::now(),
        };
        let at = Box::pin(self.ask_until_known(policy, started)).await?;
        Ok((at, Some(started)))
    }

    /// Asks in turns, as often as it takes.
    async fn ask_until_known(&self, policy: ReadPolicy, started: Instant) -> Result<LogId, ReadError> {
        loop {
            let followed = self.node.leader();
            let refusal = match timeout_at(self.read_deadline(started).into(), self.ask_freshness(policy)).await {
                Ok(Freshness::At(log_id)) => return Ok(log_id),
                Ok(Freshness::Refused(refusal)) => refusal,
                Ok(Freshness::Closed(reason)) => return Err(ReadError::Closed(reason)),
                Err(_elapsed) => return Err(self.no_leader_to_read()),
            };
            self.refused(refusal, followed, started).await?;
        }
    }

    /// Waits until asking again can help: a question was lost, or there is no leader yet; a read may be asked for as often
    /// as one likes. Fails if nothing can help in time.
    async fn refused(&self, refusal: Refusal, by: Option<NodeId>, started: Instant) -> Result<(), ReadError> {
        if refusal == Refusal::LeaseDisabled {
            return Err(ReadError::LeaseDisabled);
        }
        match timeout_at(self.read_deadline(started).into(), self.may_ask_again(by)).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => Err(self.no_leader_to_read()),
        }
    }

    fn no_leader_to_read(&self) -> ReadError {
        match self.node.awaits() {
            Some(waits) => ReadError::NoCluster { waits },
            None => ReadError::NoLeader { leader: self.node.leader() },
        }
    }

    /// Waits until asking again can help: another leader is known than the one that did not confirm, or that one had
    /// the time of a heartbeat to find out, or the group is over.
    async fn may_ask_again(&self, refused_by: Option<NodeId>) {
        let mut leaders = self.node.watch_leader();
        let known = async {
            if refused_by.is_some() && *leaders.borrow_and_update() == refused_by {
                let pause = self.host.config.heartbeat_interval;
                drop(tokio::time::timeout(pause, leaders.changed()).await);
            }
            drop(leaders.wait_for(Option::is_some).await);
        };
        tokio::select! {
            () = known => {}
            () = self.node.wait_closed() => {}
        }
    }

    pub(crate) async fn ask_freshness(&self, policy: ReadPolicy) -> Freshness {
        self.ask(policy).await.0
    }

    /// Asks once, together with all who ask before the next turn. Without a question where nobody can be asked.
    async fn ask(&self, policy: ReadPolicy) -> (Freshness, Option<Question>) {
        let mut asked: Option<Question> = None;
        let mut returns = Returns { node: &self.node, is_due: false };
        let answer = std::future::poll_fn(|context| match &asked {
            Some(question) => {
                returns.come_back();
                question.batch.poll(context)
            }
            None => match self.node.join_reads(policy, context.waker()) {
                Ok((question, comes_back)) => {
                    asked = Some(question);
                    returns.is_due = comes_back;
                    Poll::Pending
                }
                Err(reason) => Poll::Ready(Freshness::Closed(reason)),
            },
        })
        .await;
        (answer, asked)
    }
}

/// Whoever opened a batch of reads: others rely on its coming back.
struct Returns<'a> {
    node: &'a Arc<Node>,
    is_due: bool,
}

impl Returns<'_> {
    /// It was polled again, after the others on its thread: now the batch is taken, unless a turn came before.
    fn come_back(&mut self) {
        if std::mem::take(&mut self.is_due) && self.node.reads.any() {
            self.node.step_here();
        }
    }
}

impl Drop for Returns<'_> {
    fn drop(&mut self) {
        // The caller gave up.
        if self.is_due {
            self.node.step_there();
        }
    }
}
