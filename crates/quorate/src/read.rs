//! Reads: a freshness that the core confirms, then a look at the state machine once it is reached.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quorate_core::{LogId, NodeId, ReadPolicy, Refusal};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::group::{Freshness, ReadBatch};
use crate::raft::Group;
use crate::writing::Boxed;
use crate::{ClosedReason, RaftStateMachine, ReadError, blame};

impl<S: RaftStateMachine> Group<S> {
    pub(crate) fn read<T: Send + 'static>(
        self: Arc<Self>,
        policy: ReadPolicy,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, ReadError>> + Send {
        let mut read = Read::new(self, policy, read);
        poll_fn(move |context| read.poll(context).map_ok(|(_, seen)| seen))
    }

    pub(crate) fn ensure_linearizable(
        self: &Arc<Self>,
        policy: ReadPolicy,
    ) -> impl Future<Output = Result<LogId, ReadError>> + Send + use<S> {
        let mut read = Read::new(Arc::clone(self), policy, |_: &S| ());
        poll_fn(move |context| read.poll(context).map_ok(|(at, ())| at))
    }

    /// Looks at the state machine once `at` is applied.
    async fn read_at<T: Send + 'static>(
        self: Arc<Self>,
        at: LogId,
        started: Instant,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<(LogId, T), ReadError> {
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
            Ok(Ok(seen)) => Ok((at, seen)),
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

    /// Reads after a question that was not answered, if there was one.
    async fn read_again<T: Send + 'static>(
        self: Arc<Self>,
        policy: ReadPolicy,
        asked: Option<(Refusal, Arc<ReadBatch>)>,
        read: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<(LogId, T), ReadError> {
        let started = match asked {
            Some((refusal, batch)) => {
                self.refused(refusal, batch.followed, batch.since).await?;
                batch.since
            }
            None => Instant::now(),
        };
        let at = self.ask_until_known(policy, started).await?;
        match self.applies.try_read(at.index, read) {
            Ok(seen) => Ok((at, seen)),
            Err(read) => self.read_at(at, started, read).await,
        }
    }

    /// Asks in turns, as often as it takes.
    async fn ask_until_known(self: &Arc<Self>, policy: ReadPolicy, started: Instant) -> Result<LogId, ReadError> {
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

    /// Asks once, together with all who ask before the next turn.
    pub(crate) async fn ask_freshness(self: &Arc<Self>, policy: ReadPolicy) -> Freshness {
        let mut asked: Option<Asked<S>> = None;
        poll_fn(|context| match &mut asked {
            Some(asked) => asked.poll(context),
            None => match Asked::new(Arc::clone(self), policy, context) {
                Ok(question) => {
                    asked = Some(question);
                    Poll::Pending
                }
                Err(reason) => Poll::Ready(Freshness::Closed(reason)),
            },
        })
        .await
    }
}

/// A question that others may have joined.
struct Asked<S: RaftStateMachine> {
    group: Arc<Group<S>>,
    batch: Arc<ReadBatch>,
    /// It was the first of its batch: others rely on its coming back.
    comes_back: bool,
}

impl<S: RaftStateMachine> Asked<S> {
    /// Whoever asks is polled again with the answer, or before, to come back.
    fn new(group: Arc<Group<S>>, policy: ReadPolicy, context: &Context<'_>) -> Result<Self, ClosedReason> {
        let (batch, comes_back) = group.node.join_reads(policy, context.waker())?;
        Ok(Self { group, batch, comes_back })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Freshness> {
        // Polled again, after the others on its thread: now the batch is taken, unless a turn came before.
        if std::mem::take(&mut self.comes_back) && self.group.node.reads.any() {
            self.group.node.step_here();
        }
        self.batch.poll(context)
    }
}

impl<S: RaftStateMachine> Drop for Asked<S> {
    fn drop(&mut self) {
        // The caller gave up.
        if self.comes_back {
            self.group.node.step_there();
        }
    }
}

/// What was seen, and which entry had to be applied for it.
type Seen<T> = Result<(LogId, T), ReadError>;

/// Where a read is.
enum Stage<S: RaftStateMachine, T> {
    /// Not polled yet.
    New(Arc<Group<S>>),
    Asked(Asked<S>),
    /// It waits for something else than its first question.
    Patient(Boxed<Seen<T>>),
    Over,
}

/// A read, as its caller holds it: by hand, and no larger than the way of most reads needs, as a
/// [write](crate::writing::Write) is.
struct Read<S: RaftStateMachine, T, F> {
    policy: ReadPolicy,
    read: Option<F>,
    stage: Stage<S, T>,
}

impl<S: RaftStateMachine, T: Send + 'static, F: FnOnce(&S) -> T + Send + 'static> Read<S, T, F> {
    fn new(group: Arc<Group<S>>, policy: ReadPolicy, read: F) -> Self {
        Self { policy, read: Some(read), stage: Stage::New(group) }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Seen<T>> {
        match &mut self.stage {
            Stage::Asked(asked) => {
                let answer = ready!(asked.poll(context));
                let Some(read) = self.read.take() else { return self.begin(context) };
                match answer {
                    Freshness::At(at) => match asked.group.applies.try_read(at.index, read) {
                        Ok(seen) => Poll::Ready(Ok((at, seen))),
                        Err(read) => {
                            let (group, since) = (Arc::clone(&asked.group), asked.batch.since);
                            self.go_on(group.read_at(at, since, read), context)
                        }
                    },
                    Freshness::Refused(refusal) => {
                        let (group, refused) = (Arc::clone(&asked.group), (refusal, Arc::clone(&asked.batch)));
                        self.go_on(group.read_again(self.policy, Some(refused), read), context)
                    }
                    Freshness::Closed(reason) => Poll::Ready(Err(ReadError::Closed(reason))),
                }
            }
            Stage::Patient(read) => {
                let result = ready!(read.as_mut().poll(context));
                self.stage = Stage::Over;
                Poll::Ready(result)
            }
            Stage::New(_) | Stage::Over => self.begin(context),
        }
    }

    fn begin(&mut self, context: &mut Context<'_>) -> Poll<Seen<T>> {
        let (Stage::New(group), Some(read)) = (&self.stage, self.read.take()) else {
            // As any future of an `async` block does.
            panic!("a read was polled after it had ended");
        };
        let known = match self.policy {
            ReadPolicy::Stale => match group.node.closed() {
                Some(reason) => return Poll::Ready(Err(ReadError::Closed(reason.clone()))),
                None => Some(LogId::ZERO),
            },
            policy => group.node.answer_at_once(policy),
        };
        if let Some(at) = known {
            return match group.applies.try_read(at.index, read) {
                Ok(seen) => Poll::Ready(Ok((at, seen))),
                Err(read) => {
                    let group = Arc::clone(group);
                    self.go_on(group.read_at(at, Instant::now(), read), context)
                }
            };
        }
        if !group.node.ends_questions_within(group.host.config.read_timeout) {
            let group = Arc::clone(group);
            return self.go_on(group.read_again(self.policy, None, read), context);
        }
        // No timer and no clock on this path: a question without an answer is ended by the node's task.
        let asked = Asked::new(Arc::clone(group), self.policy, context).map_err(ReadError::Closed)?;
        self.read = Some(read);
        self.stage = Stage::Asked(asked);
        Poll::Pending
    }

    fn go_on(
        &mut self,
        read: impl Future<Output = Seen<T>> + Send + 'static,
        context: &mut Context<'_>,
    ) -> Poll<Seen<T>> {
        let mut read = Box::pin(read);
        let polled = read.as_mut().poll(context);
        if polled.is_pending() {
            self.stage = Stage::Patient(read);
        }
        polled
    }
}
