//! Writes on their way through this node's queue, as their callers hold them.
//!
//! Thousands of callers hold one each, and every batch touches all of these: what a write costs then is how many cache
//! lines it lies in. So these futures are written by hand, and hold no more than the way through the queue needs. Every other
//! way is boxed.

use std::future::Future;
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quorate_core::{LeaderId, LogId};

use crate::RaftStateMachine;
use crate::deadline::later;
use crate::forward::Stop;
use crate::group::{Duty, Failure, Joined, Room, Terms, Timer, wait_awake};
use crate::raft::{ClientWriteResponse, ClientWriteResult, Group};
use crate::write::Here;

/// A way that few calls go.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a write is.
enum Stage<S: RaftStateMachine, T> {
    /// Not polled yet.
    New(Arc<Group<S>>, Option<Instant>),
    Queued(Ticket<S>),
    /// It needs more than a place in this node's queue.
    Patient(Boxed<T>),
    Over,
}

impl<S: RaftStateMachine, T> Stage<S, T> {
    /// What a write begins with, once.
    fn begin(&mut self) -> (Arc<Group<S>>, Option<Instant>) {
        match replace(self, Stage::Over) {
            Stage::New(group, deadline) => (group, deadline),
            // As any future of an `async` block does.
            Stage::Queued(_) | Stage::Patient(_) | Stage::Over => panic!("a write was polled after it had ended"),
        }
    }

    /// Goes on by way of another future.
    fn go_on(&mut self, write: Boxed<T>, context: &mut Context<'_>) -> Poll<T> {
        *self = Stage::Patient(write);
        self.poll_patient(context)
    }

    fn poll_patient(&mut self, context: &mut Context<'_>) -> Poll<T> {
        let Stage::Patient(write) = self else { return Poll::Pending };
        let result = ready!(write.as_mut().poll(context));
        *self = Stage::Over;
        Poll::Ready(result)
    }
}

/// One command.
pub(crate) struct Write<S: RaftStateMachine> {
    /// Kept for another try.
    command: Option<S::Command>,
    terms: Terms,
    stage: Stage<S, ClientWriteResult<S::Response>>,
}

impl<S: RaftStateMachine> Write<S> {
    pub(crate) fn new(group: Arc<Group<S>>, command: S::Command, terms: Terms, deadline: Option<Instant>) -> Self {
        Self { command: Some(command), terms, stage: Stage::New(group, deadline) }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<ClientWriteResult<S::Response>> {
        match &mut self.stage {
            Stage::Queued(ticket) => {
                let told = ready!(ticket.poll(context));
                self.told(told, context)
            }
            Stage::Patient(_) => self.stage.poll_patient(context),
            Stage::New(..) | Stage::Over => self.begin(context),
        }
    }

    fn begin(&mut self, context: &mut Context<'_>) -> Poll<ClientWriteResult<S::Response>> {
        let (group, deadline) = self.stage.begin();
        if let Err(error) = group.check_open() {
            self.forget();
            return Poll::Ready(Err(error));
        }
        let Some(command) = &mut self.command else { return Poll::Pending };
        if deadline.is_some() || !group.goes_here(self.terms.only) {
            return self.go_on(group, deadline, None, context);
        }
        // No timer and no clock on this path: who waits too long is answered by the node's task.
        match group.enqueue(command, &self.terms, Room::Take, context.waker()) {
            Ok(joined) => {
                let mut ticket = Ticket::new(group, joined);
                let told = ticket.poll_first(context);
                self.stage = Stage::Queued(ticket);
                self.told(ready!(told), context)
            }
            Err(stop) => self.try_again(group, Instant::now(), stop, context),
        }
    }

    /// The queue told how it ended.
    fn told(
        &mut self,
        told: Result<(LogId, S::Response), Failure>,
        context: &mut Context<'_>,
    ) -> Poll<ClientWriteResult<S::Response>> {
        let stage = replace(&mut self.stage, Stage::Over);
        match told {
            Ok((log_id, response)) => {
                drop(stage);
                self.terms.committed(log_id);
                self.forget();
                Poll::Ready(Ok(ClientWriteResponse { log_id, response }))
            }
            Err(failure) => {
                let Stage::Queued(ticket) = stage else { return Poll::Pending };
                let (group, since) = (Arc::clone(&ticket.group), ticket.joined.since);
                drop(ticket);
                self.try_again(group, since, Stop::Failed(failure), context)
            }
        }
    }

    /// Lets go of what is the user's: it is not kept until the future is dropped.
    fn forget(&mut self) {
        self.command = None;
        self.terms.on_commit = None;
    }

    fn try_again(
        &mut self,
        group: Arc<Group<S>>,
        since: Instant,
        last: Stop,
        context: &mut Context<'_>,
    ) -> Poll<ClientWriteResult<S::Response>> {
        let deadline = later(since, group.host.config.write_timeout);
        self.go_on(group, Some(deadline), Some(last), context)
    }

    fn go_on(
        &mut self,
        group: Arc<Group<S>>,
        deadline: Option<Instant>,
        last: Option<Stop>,
        context: &mut Context<'_>,
    ) -> Poll<ClientWriteResult<S::Response>> {
        let Some(command) = self.command.take() else { return Poll::Pending };
        let terms = std::mem::take(&mut self.terms);
        self.stage.go_on(Box::pin(group.write_with_patience(command, terms, deadline, last, None)), context)
    }
}

/// Many commands, with one wake-up for all of them.
pub(crate) struct WriteMany<S: RaftStateMachine> {
    /// Kept for another try.
    commands: Vec<S::Command>,
    only: Option<LeaderId>,
    stage: Stage<S, Vec<ClientWriteResult<S::Response>>>,
}

impl<S: RaftStateMachine> WriteMany<S> {
    pub(crate) fn new(
        group: Arc<Group<S>>,
        commands: Vec<S::Command>,
        only: Option<LeaderId>,
        deadline: Option<Instant>,
    ) -> Self {
        Self { commands, only, stage: Stage::New(group, deadline) }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Vec<ClientWriteResult<S::Response>>> {
        match &mut self.stage {
            Stage::Queued(ticket) => {
                ticket.come_back();
                self.poll_last(context)
            }
            Stage::Patient(_) => self.stage.poll_patient(context),
            Stage::New(..) | Stage::Over => self.begin(context),
        }
    }

    fn begin(&mut self, context: &mut Context<'_>) -> Poll<Vec<ClientWriteResult<S::Response>>> {
        let (group, deadline) = self.stage.begin();
        if let Err(error) = group.check_open() {
            let commands = std::mem::take(&mut self.commands);
            return Poll::Ready(commands.iter().map(|_| Err(error.clone())).collect());
        }
        if !group.goes_here(self.only) {
            return self.go_on(group, deadline, Here::default(), context);
        }
        let timer = if deadline.is_some() { Timer::Caller } else { Timer::Node };
        let (mut runs, refused) = group.enqueue_many(&self.commands, self.only, timer);
        if deadline.is_none()
            && refused.is_empty()
            && runs.len() == 1
            && let Some((joined, _all)) = runs.pop()
        {
            let mut ticket = Ticket::new(group, joined);
            ticket.begin(context);
            self.stage = Stage::Queued(ticket);
            return self.poll_last(context);
        }
        let commands = std::mem::take(&mut self.commands);
        let write = group.write_many_queued(commands, self.only, deadline, runs, refused);
        self.stage.go_on(Box::pin(write), context)
    }

    /// All results are there with the last of them.
    fn poll_last(&mut self, context: &mut Context<'_>) -> Poll<Vec<ClientWriteResult<S::Response>>> {
        let (Stage::Queued(ticket), count) = (&self.stage, self.commands.len()) else { return Poll::Pending };
        let Joined { waits, cell, .. } = &ticket.joined;
        ready!(waits.poll_done(cell + count - 1, context));
        let Stage::Queued(ticket) = replace(&mut self.stage, Stage::Over) else { return Poll::Pending };
        let (mut here, only) = (Here::new(count, Some(ticket.joined.since)), self.only);
        let Joined { waits, cell, .. } = &ticket.joined;
        waits.take_each(*cell, count, |result| here.add(&ticket.group, only, result));
        if here.again.is_empty() {
            // Not kept until the future is dropped: they are the user's.
            drop(std::mem::take(&mut self.commands));
            return Poll::Ready(here.results);
        }
        let group = Arc::clone(&ticket.group);
        drop(ticket);
        self.go_on(group, None, here, context)
    }

    fn go_on(
        &mut self,
        group: Arc<Group<S>>,
        deadline: Option<Instant>,
        here: Here<S::Response>,
        context: &mut Context<'_>,
    ) -> Poll<Vec<ClientWriteResult<S::Response>>> {
        let commands = std::mem::take(&mut self.commands);
        self.stage.go_on(Box::pin(group.write_many_again(commands, self.only, deadline, here)), context)
    }
}

/// A caller's place in the queue.
pub(crate) struct Ticket<S: RaftStateMachine> {
    group: Arc<Group<S>>,
    pub(crate) joined: Joined<S::Response>,
}

impl<S: RaftStateMachine> Ticket<S> {
    pub(crate) fn new(group: Arc<Group<S>>, joined: Joined<S::Response>) -> Self {
        Self { group, joined }
    }

    /// The result, of a caller that was [pushed](crate::group::ProposalQueue::push) in this poll.
    pub(crate) fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<(LogId, S::Response), Failure>> {
        let duty = self.joined.duty;
        self.begin(context);
        // It is polled again in any case, or its waker is in the list.
        if duty == Duty::ComeBack || self.joined.cell > 0 {
            return Poll::Pending;
        }
        let told = self.joined.waits.poll(self.joined.cell, context);
        if duty == Duty::StepNow && told.is_pending() {
            self.group.proposals.was_not_at_once();
        }
        told
    }

    /// The result, of a caller that is polled again.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(LogId, S::Response), Failure>> {
        self.come_back();
        self.joined.waits.poll(self.joined.cell, context)
    }

    /// What a caller that has just joined does.
    pub(crate) fn begin(&mut self, context: &Context<'_>) {
        match self.joined.duty {
            Duty::Nothing => {}
            Duty::ComeBack => context.waker().wake_by_ref(),
            Duty::StepNow => {
                self.joined.duty = Duty::Nothing;
                self.group.node.step_here();
                self.wait_awake();
            }
            Duty::StepHalf => {
                self.joined.duty = Duty::Nothing;
                if self.group.node.is_stood_by() {
                    self.group.node.step_here();
                }
            }
            Duty::Wake => self.group.node.step_there(),
        }
    }

    /// Who opened the batch was polled again, after the others on its thread: now it is taken.
    pub(crate) fn come_back(&mut self) {
        if self.joined.duty != Duty::ComeBack {
            return;
        }
        self.joined.duty = Duty::Nothing;
        if self.joined.waits.taken() > 0 {
            return;
        }
        // Measured: the turn costs this thread less than waking another does, and it wakes its neighbours cheaply.
        self.group.node.step_here();
        self.wait_awake();
    }

    /// Waits a little for the answer to what this thread's turn asked of the peers, if a thread that is awake steps these, and
    /// no other call could have its answer meanwhile.
    fn wait_awake(&self) {
        if !self.joined.is_single || self.joined.waits.count() > 1 {
            return;
        }
        let (node, window, patience) = (&self.group.node, &self.group.proposals.window, &self.group.proposals.patience);
        if !node.is_stood_by() || !patience.pays() {
            return;
        }
        let is_over = || match self.joined.waits.taken() {
            0 => false,
            bytes => window.used() != bytes,
        };
        patience.learn(wait_awake(Instant::now(), is_over));
    }
}

impl<S: RaftStateMachine> Drop for Ticket<S> {
    fn drop(&mut self) {
        // The caller gave up, but others rely on its coming back.
        if self.joined.duty == Duty::ComeBack {
            self.group.node.step_there();
        }
        self.group.proposals.leave(&mut self.joined.waits);
    }
}
