//! Putting an entry about a session into the log: here or through the leader, again and again, because what arrives
//! twice is applied once.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_core::{LogId, NodeId};
use quorate_wire::EntryKind;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

use super::{SessionOutcome, SessionRefusal};
use crate::forward::{Attempt, Stop};
use crate::group::{Failure, Permit, Room, Terms, Timer, entry_bytes};
use crate::raft::{Group, RETRY_PAUSE};
use crate::writing::Ticket;
use crate::{ClientWriteError, PayloadError, RaftStateMachine, SessionError};

/// Each attempt may take twice as long as the one before, up to this many times the first: a slow leader is not
/// buried under repetitions.
const MAX_PATIENCE_FACTOR: u32 = 8;

/// What became of an entry.
pub(super) enum Submitted<R> {
    /// A command: applied now or before.
    Response(LogId, R),
    /// A session was opened, kept alive or closed, or a blank entry applied.
    Done(LogId),
}

impl<S: RaftStateMachine> Group<S> {
    /// Writes a blank entry; one that is written twice says nothing else than one.
    pub(crate) async fn write_blank(self: &Arc<Self>) -> Result<LogId, ClientWriteError> {
        let deadline = Instant::now() + self.write_timeout();
        match self.submit(EntryKind::Blank, Bytes::new(), deadline, &mut false).await {
            Ok(Submitted::Done(log_id)) => Ok(log_id),
            Err(SessionError::Write(error)) => Err(error),
            Ok(Submitted::Response(..)) | Err(_) => Err(ClientWriteError::OutcomeUnknown),
        }
    }

    /// Writes an entry until it is known what became of it, up to the deadline. `unknown` says whether an attempt
    /// may still be applied; it is right also if this future is dropped.
    pub(super) async fn submit(
        self: &Arc<Self>,
        entry: EntryKind,
        payload: Bytes,
        deadline: Instant,
        unknown: &mut bool,
    ) -> Result<Submitted<S::Response>, SessionError> {
        self.check_open().map_err(|error| certain(error, *unknown))?;
        let mut leaders = self.node.watch_leader();
        let mut permit = None;
        // A leader that does not answer for so long may be one no more.
        let first = self.host.config.election_timeout_max;
        let mut patience = first;
        loop {
            let leader = match self.leader_before(deadline, &mut leaders).await {
                Ok(leader) => leader,
                Err(error) => return Err(certain(error, *unknown)),
            };
            let before = std::mem::replace(unknown, true);
            let until = deadline.min(Instant::now() + patience);
            let ended = self.attempt(leader, entry, payload.clone(), &mut permit, until, &mut leaders).await;
            let timed_out = matches!(ended, Ended::TimedOut);
            let error = match ended {
                Ended::Answered(Ok((log_id, response))) => return Ok(Submitted::Response(log_id, response)),
                Ended::Answered(Err(Stop::Failed(Failure::Session(outcome)))) => return concluded(outcome),
                Ended::Answered(Err(Stop::Failed(Failure::Unknown))) | Ended::OtherLeader => {
                    ClientWriteError::OutcomeUnknown
                }
                Ended::TimedOut => {
                    patience = (patience * 2).min(first * MAX_PATIENCE_FACTOR);
                    ClientWriteError::OutcomeUnknown
                }
                Ended::Answered(Err(Stop::NoRoom)) => {
                    *unknown = before;
                    let room = self.room(entry_bytes(payload.len()), deadline).await;
                    permit = Some(room.map_err(|error| certain(error, *unknown))?);
                    continue;
                }
                Ended::Answered(Err(Stop::Failed(failure @ (Failure::NotLeader(_) | Failure::Replaced)))) => {
                    *unknown = before;
                    self.error_of(failure)
                }
                Ended::Answered(Err(Stop::Failed(failure))) => {
                    *unknown = before;
                    return Err(certain(self.error_of(failure), *unknown));
                }
                Ended::Answered(Err(Stop::Error(error @ ClientWriteError::Response { .. }))) => {
                    return Err(SessionError::Write(error));
                }
                Ended::Answered(Err(Stop::Error(error))) => {
                    *unknown = before;
                    return Err(certain(error, *unknown));
                }
            };
            if Instant::now() >= deadline {
                return Err(certain(error, *unknown));
            }
            // A known other leader is asked at once; else something has to change first.
            if *leaders.borrow() == Some(leader) && !timed_out {
                let pause = tokio::time::timeout(RETRY_PAUSE, leaders.changed());
                drop(timeout_at(deadline.into(), pause).await);
            }
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        leader: NodeId,
        entry: EntryKind,
        payload: Bytes,
        permit: &mut Option<Permit>,
        until: Instant,
        leaders: &mut watch::Receiver<Option<NodeId>>,
    ) -> Ended<S::Response> {
        let attempt = async {
            if leader != self.node.me {
                drop(permit.take());
                return self.write_there(leader, entry, None, payload).await;
            }
            // From here on the queue gives the bytes back: the entry is put there before anything is waited for.
            let room = permit.take().map_or(Room::Take, Permit::hand_on);
            self.submit_here(entry, &payload, room).await
        };
        tokio::select! {
            biased;
            answer = attempt => Ended::Answered(answer),
            () = other_than(leaders, leader) => Ended::OtherLeader,
            () = sleep_until(until.into()) => Ended::TimedOut,
        }
    }

    /// The caller looks at the clock.
    async fn submit_here(self: &Arc<Self>, entry: EntryKind, payload: &[u8], room: Room) -> Attempt<S::Response> {
        let terms = Terms { timer: Timer::Caller, ..Terms::default() };
        if room == Room::Take && !self.proposals.window.take(entry_bytes(payload.len()), self.limit()) {
            return Err(Stop::NoRoom);
        }
        let mut ticket: Option<Ticket<S>> = None;
        std::future::poll_fn(|context| match &mut ticket {
            None => match self.proposals.push(entry, payload, &terms, context.waker()) {
                Ok(joined) => {
                    let ticket = ticket.insert(Ticket::new(Arc::clone(self), joined));
                    ticket.poll_first(context).map_err(Stop::Failed)
                }
                Err(reason) => Poll::Ready(Err(Stop::Error(ClientWriteError::Closed(reason)))),
            },
            Some(ticket) => ticket.poll(context).map_err(Stop::Failed),
        })
        .await
    }

    /// As long as a write may take.
    pub(super) fn write_timeout(&self) -> Duration {
        self.host.config.write_timeout
    }
}

/// How an attempt ended.
enum Ended<R> {
    Answered(Attempt<R>),
    /// Another node leads, or none: what was sent to this one may be lost.
    OtherLeader,
    TimedOut,
}

/// What the session table said.
fn concluded<R>(outcome: SessionOutcome) -> Result<Submitted<R>, SessionError> {
    match outcome {
        SessionOutcome::Done(log_id) => Ok(Submitted::Done(log_id)),
        SessionOutcome::Unreadable(log_id) => {
            let error = PayloadError("the state machine's response cannot be encoded or decoded".into());
            Err(SessionError::Write(ClientWriteError::Response { log_id, error }))
        }
        SessionOutcome::Refused(SessionRefusal::Expired) => Err(SessionError::Expired),
        SessionOutcome::Refused(SessionRefusal::Acknowledged) => Err(SessionError::Acknowledged),
        SessionOutcome::Refused(SessionRefusal::TooManyInFlight) => Err(SessionError::TooManyInFlight),
    }
}

/// "Certainly not applied" is true only if no attempt may have been.
fn certain(error: ClientWriteError, unknown: bool) -> SessionError {
    SessionError::Write(if unknown { ClientWriteError::OutcomeUnknown } else { error })
}

/// Waits until another node leads, or none does.
async fn other_than(leaders: &mut watch::Receiver<Option<NodeId>>, leader: NodeId) {
    if leaders.wait_for(|now| *now != Some(leader)).await.is_err() {
        // The node is gone, and with it whoever could answer: the time-out says so.
        std::future::pending::<()>().await;
    }
}
