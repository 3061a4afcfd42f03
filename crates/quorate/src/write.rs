//! Writes: into the shared queue on the leader, through a call to the leader elsewhere, and again where a
//! refusal proves that nothing was applied.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use quorate_core::{LeaderId, LogId, NodeId};
use quorate_wire::EntryKind;
use smallvec::SmallVec;
use tokio::time::timeout_at;

use crate::call::{Call, CallId, Written};
use crate::calls::answer;
use crate::deadline::{from_now, later};
use crate::forward::{Attempt, Stop, told, written};
use crate::group::{Duty, Failure, Joined, Node, Permit, Responder, Room, Runs, Terms, Timer, entry_bytes};
use crate::host::Port;
use crate::raft::{ClientWriteResponse, ClientWriteResult, Group, RETRY_PAUSE};
use crate::session::{SessionOutcome, check_session_entry};
use crate::writing::{Ticket, Write, WriteMany};
use crate::{ClientWriteError, ClosedReason, Payload, PayloadError, RaftStateMachine, blame};

/// Told how a write ended.
pub(crate) type OnApply<R> = Box<dyn FnOnce(ClientWriteResult<R>) + Send>;

/// Also says when a command that failed was put into the queue, if it was.
type AttemptHere<R> = Result<(LogId, R), (Stop, Option<Instant>)>;

thread_local! {
    /// Where commands are encoded, outside of any lock.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Of so many commands at once, the ends of their encodings are kept on the stack.
const INLINE_ENDS: usize = 64;

/// A scratch buffer that grew larger than this is not kept.
const MAX_SCRATCH_BYTES: usize = 1 << 20;

/// Lends the thread's scratch buffer, empty.
fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with(|cell| {
        let mut scratch = cell.take();
        scratch.clear();
        let result = work(&mut scratch);
        if scratch.capacity() <= MAX_SCRATCH_BYTES {
            cell.set(scratch);
        }
        result
    })
}

impl<S: RaftStateMachine> Group<S> {
    /// Writes on this node or through the leader, up to the deadline.
    pub(crate) fn write(
        self: Arc<Self>,
        command: S::Command,
        terms: Terms,
        deadline: Option<Instant>,
    ) -> impl Future<Output = ClientWriteResult<S::Response>> + Send + use<S> {
        let mut write = Write::new(self, command, terms, deadline);
        std::future::poll_fn(move |context| write.poll(context))
    }

    /// A node that drains takes no new writes, or it would never have answered all of them.
    pub(crate) fn check_open(&self) -> Result<(), ClientWriteError> {
        match self.node.is_draining() {
            true => Err(ClientWriteError::Closed(ClosedReason::Shutdown)),
            false => Ok(()),
        }
    }

    /// Whether a write goes into this node's queue. For the leader that is given, whatever is believed of it: the
    /// driver knows when it comes to it.
    pub(crate) fn goes_here(&self, only: Option<LeaderId>) -> bool {
        only.map_or_else(|| self.node.leads(), |leader_id| leader_id.node_id == self.node.me)
    }

    /// Puts a write on its way; `done` is told how it ended, if this returns without an error.
    pub(crate) fn send(
        self: &Arc<Self>,
        command: S::Command,
        terms: Terms,
        deadline: Option<Instant>,
        done: OnApply<S::Response>,
    ) -> Result<(), ClientWriteError> {
        self.check_open()?;
        if let Some(reason) = self.node.closed() {
            return Err(ClientWriteError::Closed(reason.clone()));
        }
        let group = Arc::clone(self);
        with_scratch(|scratch| {
            self.encode(&command, scratch)?;
            let bytes = entry_bytes(scratch.len());
            if !self.proposals.window.take(bytes, self.limit()) {
                return Err(ClientWriteError::Overloaded);
            }
            if deadline.is_some() || !self.goes_here(terms.only) {
                let permit = Permit { window: Arc::clone(&self.proposals.window), bytes };
                let write =
                    async move { done(group.write_with_patience(command, terms, deadline, None, Some(permit)).await) };
                drop(self.node.runtime.spawn(write));
                return Ok(());
            }
            let (asked, latest) = (terms.clone(), Some(from_now(self.host.config.write_timeout)));
            let responder: Responder<S::Response> = Box::new(move |result| match result {
                Ok((log_id, response)) => {
                    terms.committed(log_id);
                    done(Ok(ClientWriteResponse { log_id, response }));
                }
                Err(failure @ (Failure::NotLeader(_) | Failure::Replaced)) => {
                    let runtime = group.node.runtime.clone();
                    let last = Some(Stop::Failed(failure));
                    let again =
                        async move { done(group.write_with_patience(command, terms, latest, last, None).await) };
                    drop(runtime.spawn(again));
                }
                Err(failure) => done(Err(group.error_of(failure))),
            });
            match self.proposals.push_remote(EntryKind::Command, scratch, &asked, responder) {
                Ok(Duty::Nothing) => Ok(()),
                Ok(Duty::ComeBack | Duty::StepNow | Duty::StepHalf | Duty::Wake) => {
                    self.node.step_there();
                    Ok(())
                }
                Err(reason) => Err(ClientWriteError::Closed(reason)),
            }
        })
    }

    /// Writes on this node, now or not at all.
    pub(crate) async fn try_write(self: Arc<Self>, mut command: S::Command) -> ClientWriteResult<S::Response> {
        self.check_open()?;
        if !self.node.leads() {
            return Err(self.not_here());
        }
        match self.write_here(&mut command, &Terms::default(), Room::Take).await {
            Ok((log_id, response)) => Ok(ClientWriteResponse { log_id, response }),
            Err((Stop::Error(error), _)) => Err(error),
            Err((Stop::NoRoom, _)) => Err(ClientWriteError::Overloaded),
            Err((Stop::Failed(failure), _)) => Err(self.error_of(failure)),
        }
    }

    fn not_here(&self) -> ClientWriteError {
        match self.node.closed() {
            Some(reason) => ClientWriteError::Closed(reason.clone()),
            None => self.no_leader(),
        }
    }

    /// That nobody takes the write, as far as this node knows.
    pub(crate) fn no_leader(&self) -> ClientWriteError {
        match self.node.awaits() {
            Some(waits) => ClientWriteError::NoCluster { waits },
            None => ClientWriteError::NoLeader { leader: self.node.leader() },
        }
    }

    pub(crate) fn error_of(&self, failure: Failure) -> ClientWriteError {
        match failure {
            Failure::NotLeader(leader) => ClientWriteError::NoLeader { leader },
            Failure::Replaced => ClientWriteError::NoLeader { leader: self.node.leader() },
            Failure::OtherLeader { wanted, leader } => ClientWriteError::LeaderChanged { wanted, leader },
            Failure::StorageFull => ClientWriteError::StorageFull,
            Failure::Closed(reason) => ClientWriteError::Closed(reason),
            Failure::Session(SessionOutcome::Unreadable(log_id)) => {
                let error = PayloadError(
                    "the state machine's response cannot be encoded, or is too large to be handed on".into(),
                );
                ClientWriteError::Response { log_id, error }
            }
            // Only entries about sessions end so, and they are not written here.
            Failure::Unknown | Failure::Session(_) => ClientWriteError::OutcomeUnknown,
        }
    }

    // ---- on this node ----

    /// Puts the command into the queue and waits for its response. The command is lent as mutable because a
    /// shared reference could not be kept across threads.
    async fn write_here(
        self: &Arc<Self>,
        command: &mut S::Command,
        terms: &Terms,
        room: Room,
    ) -> AttemptHere<S::Response> {
        let mut ticket: Option<Ticket<S>> = None;
        std::future::poll_fn(|context| {
            let told = match &mut ticket {
                None => match self.enqueue(command, terms, room, context.waker()) {
                    Ok(joined) => ticket.insert(Ticket::new(Arc::clone(self), joined)).poll_first(context),
                    Err(stop) => return Poll::Ready(Err((stop, None))),
                },
                Some(ticket) => ticket.poll(context),
            };
            let since = ticket.as_ref().map(|ticket| ticket.joined.waits.since);
            told.map_err(|failure| (Stop::Failed(failure), since))
        })
        .await
    }

    /// Encodes the command and puts it into the queue.
    pub(crate) fn enqueue(
        &self,
        command: &mut S::Command,
        terms: &Terms,
        room: Room,
        waker: &std::task::Waker,
    ) -> Result<Joined<S::Response>, Stop> {
        with_scratch(|scratch| {
            self.encode(command, scratch).map_err(Stop::Error)?;
            if room == Room::Take && !self.proposals.window.take(entry_bytes(scratch.len()), self.limit()) {
                return Err(Stop::NoRoom);
            }
            let joined = self.proposals.push(EntryKind::Command, scratch, terms, waker);
            joined.map_err(|reason| Stop::Error(ClientWriteError::Closed(reason)))
        })
    }

    pub(crate) fn encode(&self, command: &S::Command, out: &mut Vec<u8>) -> Result<(), ClientWriteError> {
        let start = out.len();
        command.encode(out).map_err(ClientWriteError::Encode)?;
        let (bytes, limit) = (out.len() - start, self.host.config.max_command_bytes);
        if bytes > limit {
            out.truncate(start);
            return Err(ClientWriteError::TooLarge { bytes, limit });
        }
        Ok(())
    }

    pub(crate) fn limit(&self) -> usize {
        self.host.config.proposal_window_bytes
    }

    // ---- with patience ----

    /// Tries until the command is applied, its outcome is unknown, or the deadline passes.
    pub(crate) async fn write_with_patience(
        self: Arc<Self>,
        mut command: S::Command,
        mut terms: Terms,
        deadline: Option<Instant>,
        mut last: Option<Stop>,
        mut permit: Option<Permit>,
    ) -> ClientWriteResult<S::Response> {
        let deadline = deadline.unwrap_or_else(|| from_now(self.host.config.write_timeout));
        terms.timer = Timer::Caller;
        let mut leaders = self.node.watch_leader();
        // Encoded again where it goes: thousands of callers may wait for room, and each of them has its command already.
        let mut encoded = Bytes::new();
        let bytes = entry_bytes(with_scratch(|scratch| self.encode(&command, scratch).map(|()| scratch.len()))?);
        loop {
            match last {
                None => {}
                Some(Stop::Error(error)) => return Err(error),
                // Given back if the caller stops waiting for a leader.
                Some(Stop::NoRoom) => permit = Some(self.room(bytes, deadline).await?),
                Some(Stop::Failed(Failure::Replaced)) if let Some(wanted) = terms.only => {
                    return Err(ClientWriteError::LeaderChanged { wanted, leader: self.node.leader() });
                }
                Some(Stop::Failed(failure @ (Failure::NotLeader(_) | Failure::Replaced))) => {
                    // A known other leader is asked at once; else something has to change first.
                    if Instant::now() >= deadline {
                        return Err(self.error_of(failure));
                    }
                    let pause = tokio::time::timeout(RETRY_PAUSE, leaders.changed());
                    drop(timeout_at(deadline.into(), pause).await);
                }
                Some(Stop::Failed(failure)) => return Err(self.error_of(failure)),
            }
            let leader = match terms.only {
                Some(leader_id) => {
                    leaders.borrow_and_update();
                    // Whatever was tried before never entered a log.
                    if let Some(error) = self.lost_leader(&terms) {
                        return Err(error);
                    }
                    leader_id.node_id
                }
                None => self.leader_before(deadline, &mut leaders).await?,
            };
            let attempt = if leader == self.node.me {
                // From here on the queue gives the bytes back: the write is put there before anything is waited for.
                let room = permit.take().map_or(Room::Take, Permit::hand_on);
                let here = self.write_here(&mut command, &terms, room);
                timeout_at(deadline.into(), here).await.map(|attempt| attempt.map_err(|(stop, _)| stop))
            } else {
                // Counted here as well: there are never more of them under way than fit, and a node which drains waits for
                // the answers.
                if permit.is_none() {
                    let window = &self.proposals.window;
                    if !window.take(bytes, self.limit()) {
                        // Another node may lead by the time there is room.
                        last = Some(Stop::NoRoom);
                        continue;
                    }
                    permit = Some(Permit { window: Arc::clone(window), bytes });
                }
                if encoded.is_empty() {
                    let mut bytes = Vec::with_capacity(bytes);
                    self.encode(&command, &mut bytes)?;
                    encoded = bytes.into();
                }
                let there = self.write_there(leader, EntryKind::Command, terms.only, encoded.clone());
                timeout_at(deadline.into(), there).await
            };
            match attempt {
                Ok(Ok((log_id, response))) => {
                    terms.committed(log_id);
                    return Ok(ClientWriteResponse { log_id, response });
                }
                Ok(Err(stop)) => last = Some(stop),
                Err(_elapsed) => return Err(ClientWriteError::OutcomeUnknown),
            }
        }
    }

    /// Room in the window, as soon as it is this caller's turn.
    pub(crate) async fn room(&self, bytes: usize, deadline: Instant) -> Result<Permit, ClientWriteError> {
        let room = self.proposals.window.take_in_line(bytes, self.limit());
        timeout_at(deadline.into(), room).await.map_err(|_elapsed| ClientWriteError::Overloaded)
    }

    /// That the leader which the write is for leads no more, if that is certain: this node is closed, or accepted a
    /// later leader, so that a quorum takes no more entries of the earlier one.
    pub(crate) fn lost_leader(&self, terms: &Terms) -> Option<ClientWriteError> {
        if let Some(reason) = self.node.closed() {
            return Some(ClientWriteError::Closed(reason.clone()));
        }
        let (wanted, accepted) = (terms.only?, self.node.accepted());
        (accepted > wanted).then(|| ClientWriteError::LeaderChanged { wanted, leader: self.node.leader() })
    }

    /// The leader, as soon as there is one.
    pub(crate) async fn leader_before(
        &self,
        deadline: Instant,
        leaders: &mut tokio::sync::watch::Receiver<Option<NodeId>>,
    ) -> Result<NodeId, ClientWriteError> {
        loop {
            if let Some(reason) = self.node.closed() {
                return Err(ClientWriteError::Closed(reason.clone()));
            }
            if let Some(leader) = *leaders.borrow_and_update() {
                return Ok(leader);
            }
            if Instant::now() >= deadline || timeout_at(deadline.into(), leaders.changed()).await.is_err() {
                return Err(self.no_leader());
            }
        }
    }

    /// Sends an entry to the leader and waits for its answer.
    pub(crate) async fn write_there(
        &self,
        leader: NodeId,
        entry: EntryKind,
        only: Option<LeaderId>,
        payload: Bytes,
    ) -> Attempt<S::Response> {
        let group = self.node.group;
        let question = |id, low| Call::Write { group, id, low, entry, only, payload };
        let mut asked = self.host.calls.ask(&*self.host.network, leader, question);
        if asked.unsent {
            return Err(Stop::Failed(Failure::NotLeader(Some(leader))));
        }
        let Some(Call::Written { written, .. }) = asked.answer().await else {
            return Err(Stop::Failed(Failure::Unknown));
        };
        told(written, leader, only)
    }

    // ---- many at once ----

    /// Writes commands in their order, with one wake-up for all that fit one batch; what this node cannot take goes to the
    /// leader. All of them are answered by the deadline.
    pub(crate) fn write_many(
        self: Arc<Self>,
        commands: Vec<S::Command>,
        only: Option<LeaderId>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Vec<ClientWriteResult<S::Response>>> + Send + use<S> {
        let mut write = WriteMany::new(self, commands, only, deadline);
        std::future::poll_fn(move |context| write.poll(context))
    }

    /// Writes what this node did not take.
    pub(crate) async fn write_many_again(
        self: Arc<Self>,
        commands: Vec<S::Command>,
        only: Option<LeaderId>,
        deadline: Option<Instant>,
        here: Here<S::Response>,
    ) -> Vec<ClientWriteResult<S::Response>> {
        let began = here.since.unwrap_or_else(Instant::now);
        let mut results: Vec<Option<_>> = here.results.into_iter().map(Some).collect();
        here.again.into_iter().for_each(|place| results[place] = None);
        results.resize_with(commands.len(), || None);
        let mut rest = Vec::new();
        for (place, (command, result)) in commands.iter().zip(&mut results).enumerate() {
            if result.is_none() {
                let mut encoded = Vec::new();
                match self.encode(command, &mut encoded) {
                    Ok(()) => rest.push((place, Bytes::from(encoded))),
                    Err(error) => *result = Some(Err(error)),
                }
            }
        }
        if !rest.is_empty() {
            let deadline = deadline.unwrap_or_else(|| later(began, self.host.config.write_timeout));
            drop(commands);
            self.write_rest(rest, only, deadline, &mut results).await;
        }
        results.into_iter().map(|result| result.unwrap_or(Err(ClientWriteError::OutcomeUnknown))).collect()
    }

    /// Puts the commands into the queue, all that can be encoded or none; returns where they wait, and which cannot.
    pub(crate) fn enqueue_many(
        &self,
        commands: &[S::Command],
        only: Option<LeaderId>,
        timer: Timer,
    ) -> (Runs<S::Response>, Refused) {
        let (mut runs, mut refused) = (Runs::new(), Refused::new());
        with_scratch(|scratch| {
            let mut ends: SmallVec<[usize; INLINE_ENDS]> = SmallVec::with_capacity(commands.len());
            for (place, command) in commands.iter().enumerate() {
                match self.encode(command, scratch) {
                    Ok(()) => ends.push(scratch.len()),
                    Err(error) => refused.push((place, error)),
                }
            }
            let bytes = entry_bytes(0) * ends.len() + scratch.len();
            match self.proposals.window.take(bytes, self.limit()) {
                true if !ends.is_empty() => runs = self.proposals.push_many(scratch, &ends, only, timer),
                true => {}
                false => refused.clear(),
            }
        });
        (runs, refused)
    }

    /// Waits for commands that were put into the queue, and writes what has to be written again.
    pub(crate) async fn write_many_queued(
        self: Arc<Self>,
        commands: Vec<S::Command>,
        only: Option<LeaderId>,
        deadline: Option<Instant>,
        runs: Runs<S::Response>,
        refused: Refused,
    ) -> Vec<ClientWriteResult<S::Response>> {
        let count = commands.len();
        let mut here = Here::new(0, runs.first().map(|(run, _)| run.since));
        let mut refused = refused.into_iter().peekable();
        self.results_of(runs, deadline, |result| {
            // Not before there are some: many calls wait at once.
            here.results.reserve_exact(count - here.results.len());
            while let Some((_, error)) = refused.next_if(|(place, _)| *place <= here.results.len()) {
                here.results.push(Err(error));
            }
            here.add(&self, only, result);
        })
        .await;
        for (place, error) in refused {
            // A queue that is closed took none of those before it.
            here.again.extend(here.results.len()..place);
            here.results.resize_with(place, || Err(ClientWriteError::OutcomeUnknown));
            here.results.push(Err(error));
        }
        match here.again.is_empty() && here.results.len() == count {
            true => here.results,
            false => self.write_many_again(commands, only, deadline, here).await,
        }
    }

    /// Waits for runs of commands in the queue, until the deadline if there is one, and hands over how each of them ended.
    pub(crate) async fn results_of(
        self: &Arc<Self>,
        mut runs: Runs<S::Response>,
        deadline: Option<Instant>,
        mut take: impl FnMut(Result<(LogId, S::Response), Failure>),
    ) {
        let mut tickets: Option<Tickets<S>> = None;
        let all = std::future::poll_fn(|context| {
            let first = tickets.is_none();
            let tickets = tickets.get_or_insert_with(|| {
                let runs = std::mem::take(&mut runs).into_iter();
                runs.map(|(run, count)| (Ticket::new(Arc::clone(self), run), count)).collect()
            });
            for (ticket, _) in tickets.iter_mut() {
                if first { ticket.begin(context) } else { ticket.come_back() }
            }
            let last_done = |(ticket, count): &(Ticket<S>, usize)| {
                ticket.joined.waits.poll_done(ticket.joined.cell + count - 1, context).is_pending()
            };
            let pending = tickets.iter().map(last_done).fold(false, |any, pending| any | pending);
            if pending { Poll::Pending } else { Poll::Ready(()) }
        });
        match deadline {
            None => all.await,
            // What has no result then is taken as "unknown".
            Some(deadline) => drop(timeout_at(deadline.into(), all).await),
        }
        for (ticket, count) in tickets.iter().flatten() {
            ticket.joined.waits.take_each(ticket.joined.cell, *count, &mut take);
        }
    }
}

/// Places of commands that cannot be encoded, and why.
pub(crate) type Refused = Vec<(usize, ClientWriteError)>;

/// What became of commands that were put into this node's queue together; of none, by default.
pub(crate) struct Here<R> {
    /// One result a command, of the first so many of them.
    pub(crate) results: Vec<ClientWriteResult<R>>,
    /// Places of those that certainly entered no log, and are tried again.
    pub(crate) again: Vec<usize>,
    /// When they were put there, if they were.
    since: Option<Instant>,
}

impl<R> Default for Here<R> {
    fn default() -> Self {
        Self::new(0, None)
    }
}

impl<R> Here<R> {
    /// With room for so many results.
    pub(crate) fn new(count: usize, since: Option<Instant>) -> Self {
        Self { results: Vec::with_capacity(count), again: Vec::new(), since }
    }

    /// How the next one ended.
    pub(crate) fn add<S>(&mut self, group: &Group<S>, only: Option<LeaderId>, result: Result<(LogId, R), Failure>)
    where
        S: RaftStateMachine<Response = R>,
    {
        self.results.push(match result {
            Ok((log_id, response)) => Ok(ClientWriteResponse { log_id, response }),
            Err(Failure::Replaced) if let Some(wanted) = only => {
                Err(ClientWriteError::LeaderChanged { wanted, leader: group.node.leader() })
            }
            Err(failure) => {
                if matches!(failure, Failure::NotLeader(_) | Failure::Replaced) {
                    self.again.push(self.results.len());
                }
                Err(group.error_of(failure))
            }
        });
    }
}

/// Places of one caller, each of so many commands in a row. Most often there is one.
type Tickets<S> = SmallVec<[(Ticket<S>, usize); 1]>;

impl<S: RaftStateMachine> Port for Group<S> {
    fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn on_write_many(self: Arc<Self>, from: NodeId, id: CallId, only: Option<LeaderId>, payloads: Vec<Bytes>) {
        self.propose_many(from, id, only, payloads);
    }

    fn on_write(self: Arc<Self>, from: NodeId, id: CallId, entry: EntryKind, only: Option<LeaderId>, payload: Bytes) {
        let (group, host) = (self.node.group, Arc::clone(&self.host));
        let reply = move |written| answer(&*host.network, from, Call::Written { group, id, written });
        // Whether a given leader id leads is for the driver to say.
        if only.is_none() && !self.node.leads() {
            return reply(Written::NotLeader { leader: self.node.leader() });
        }
        if let Err(text) = self.check(entry, &payload) {
            return reply(Written::Malformed { text });
        }
        if !self.proposals.window.take_forwarded(entry_bytes(payload.len()), self.limit()) {
            return reply(Written::Busy);
        }
        let node = Arc::clone(&self.node);
        let answer_later = reply.clone();
        let responder: Responder<S::Response> =
            Box::new(move |result| answer_later(written(result, || node.leader().filter(|leader| *leader != node.me))));
        match self.proposals.push_remote(entry, &payload, &Terms::forwarded(only), responder) {
            Ok(_duty) => self.host.step(&self.node),
            Err(_closed) => reply(Written::NotLeader { leader: None }),
        }
    }
}

impl<S: RaftStateMachine> Group<S> {
    /// What cannot be decoded must not enter the log: no node could apply it.
    fn check(&self, entry: EntryKind, payload: &Bytes) -> Result<(), String> {
        match check_session_entry(entry, payload)? {
            Some(command) => self.check_command(&payload.slice(command..)),
            None => Ok(()),
        }
    }

    pub(crate) fn check_command(&self, command: &Bytes) -> Result<(), String> {
        if command.len() > self.host.config.max_command_bytes {
            return Err(format!(
                "it has {} bytes, the leader allows {}",
                command.len(),
                self.host.config.max_command_bytes
            ));
        }
        match blame::catch(|| S::Command::decode(command.clone())) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_panic) => Err("decoding it panicked".into()),
        }
    }
}
