//! What a caller holds: [`Session`] and [`PendingWrite`].

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_wire::{
    EntryKind, MAX_PAYLOAD_BYTES, MAX_SESSION_SERIALS, SESSION_HEADER_BYTES, SessionOpening, encode_session_ids,
};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout_at};

use super::serials::Serials;
use super::submit::Submitted;
use crate::deadline::{from_now, later};
use crate::raft::Group;
use crate::{ClientWriteError, ClientWriteResponse, Raft, RaftStateMachine, SessionError};

/// Shortest time to live: what keeps sessions alive must not become a load of its own.
const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(1);
/// A session without writes is kept alive three times within its time to live.
const KEEPS_PER_LIFE: u32 = 3;

/// How a session is opened. Written into the log: every node goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// The session expires when the log's time has gone on by more than this since its last entry. At least 1 s,
    /// default 60 s.
    pub time_to_live: Duration,
    /// Most writes that may be under way at once. 1 to 1,024, default 64.
    pub max_in_flight: u32,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { time_to_live: Duration::from_secs(60), max_in_flight: 64 }
    }
}

impl SessionOptions {
    /// A session that is not written to for so long is kept alive in the log.
    pub fn keep_interval(&self) -> Duration {
        self.time_to_live / KEEPS_PER_LIFE
    }

    fn check(&self) -> Result<(), SessionError> {
        if self.time_to_live < MIN_TIME_TO_LIVE {
            return Err(SessionError::Options { field: "time_to_live", must: "be at least 1 s" });
        }
        if !(1..=MAX_SESSION_SERIALS).contains(&self.max_in_flight) {
            return Err(SessionError::Options { field: "max_in_flight", must: "be from 1 to 1,024" });
        }
        Ok(())
    }
}

/// A client session: its writes are applied exactly once, also if leaders change and messages are lost or repeated
/// on the way (dissertation 6.3).
///
/// Writes may be made concurrently; among them there is no order. A session that is not written to is kept alive
/// in the log three times within its time to live. Dropping the last handle closes it, as far as that can be done
/// without waiting; [`close`](Self::close) waits, [`detach`](Self::detach) leaves it open.
pub struct Session<S: RaftStateMachine> {
    shared: Arc<Shared<S>>,
}

/// A command that has its number: however often it is sent, it is applied once; made by [`Session::prepare`].
///
/// While it is held the cluster keeps its answer. Dropping it tells the session that the answer is no longer
/// needed; what was sent and not yet applied then may or may not be applied, once.
pub struct PendingWrite<S: RaftStateMachine> {
    shared: Arc<Shared<S>>,
    serial: u64,
    /// The entry's payload; its low mark is filled in when it is sent.
    payload: Vec<u8>,
    /// Whether an attempt may be applied.
    unknown: bool,
}

struct Shared<S: RaftStateMachine> {
    group: Arc<Group<S>>,
    id: u64,
    options: SessionOptions,
    state: Mutex<State>,
    /// A serial became free.
    room: Notify,
    keeper: OnceLock<AbortHandle>,
}

struct State {
    serials: Serials,
    /// When the last write began that the cluster answered.
    active: Instant,
    /// It expired, was closed, or was left to others.
    over: bool,
}

impl<S: RaftStateMachine> Raft<S> {
    /// Opens a session: its writes are applied exactly once. Any node takes this.
    ///
    /// ```
    /// # use quorate::{Raft, RaftStateMachine, SessionError, SessionOptions};
    /// # async fn add<S: RaftStateMachine<Command = u64, Response = u64>>(raft: &Raft<S>) -> Result<(), SessionError> {
    /// let session = raft.open_session(SessionOptions::default()).await?;
    /// let total = session.write(5).await?.response;
    /// println!("the total is {total}: 5 was added once, however often it had to be sent");
    /// session.close().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`SessionError`]. If the outcome is unknown the session that may have been opened expires unused.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session<S>, SessionError> {
        options.check()?;
        let mut payload = Vec::new();
        SessionOpening { time_to_live: options.time_to_live, max_in_flight: options.max_in_flight }
            .encode(&mut payload);
        let (started, group) = (Instant::now(), &self.group);
        let deadline = started + group.write_timeout();
        // A repeated opening opens another session; only the one that answers is used.
        match group.submit(EntryKind::OpenSession, payload.into(), deadline, &mut false).await? {
            Submitted::Done(log_id) => Ok(Session::start(Arc::clone(group), log_id.index, options, 1, started)),
            Submitted::Response(..) => Err(SessionError::Write(ClientWriteError::OutcomeUnknown)),
        }
    }

    /// Goes on with a session that was opened with these options, on this node or another, before a crash or a
    /// [`detach`](Session::detach).
    ///
    /// `next_serial` is the [serial](PendingWrite::serial) of the first command whose answer the caller may lack:
    /// commands are numbered from there, so those after it have to be prepared again in the order of their first
    /// time. Give 1 more than the greatest serial if nothing is open.
    ///
    /// Not across the recovery of a lost quorum ([`recover`](crate::recover)): an id is a log index, and if the opening
    /// was lost the same index may have opened another client's session since. Open a new one there.
    ///
    /// # Errors
    /// [`SessionError::Expired`] if the session is no more; else see [`SessionError`].
    pub async fn resume_session(
        &self,
        id: u64,
        options: SessionOptions,
        next_serial: u64,
    ) -> Result<Session<S>, SessionError> {
        options.check()?;
        let (started, group) = (Instant::now(), &self.group);
        group.submit(EntryKind::KeepSessions, list(id), started + group.write_timeout(), &mut false).await?;
        Ok(Session::start(Arc::clone(group), id, options, next_serial.max(1), started))
    }
}

impl<S: RaftStateMachine> Session<S> {
    fn start(group: Arc<Group<S>>, id: u64, options: SessionOptions, next_serial: u64, active: Instant) -> Self {
        let serials = Serials::new(next_serial, options.max_in_flight);
        let state = State { serials, active, over: false };
        let runtime = group.host.runtime.clone();
        let shared = Arc::new(Shared {
            group,
            id,
            options,
            state: Mutex::new(state),
            room: Notify::new(),
            keeper: OnceLock::new(),
        });
        let keeper = runtime.spawn(keep_alive(Arc::downgrade(&shared))).abort_handle();
        // It was just made: nobody set it before.
        let _ = shared.keeper.set(keeper);
        Self { shared }
    }

    /// Its id: the index of the entry that opened it.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// What it was opened with.
    pub fn options(&self) -> SessionOptions {
        self.shared.options
    }

    /// Writes a command: it is applied exactly once when this returns a response. Sends it again through every
    /// change of leader, up to [`Config::write_timeout`](crate::Config::write_timeout).
    ///
    /// # Errors
    /// See [`SessionError`]. If the outcome is unknown the command is applied once, now or later, or never; to be able
    /// to ask again, use [`prepare`](Self::prepare).
    pub async fn write(&self, command: S::Command) -> Result<ClientWriteResponse<S::Response>, SessionError> {
        let deadline = Instant::now() + self.shared.group.write_timeout();
        self.write_until(command, deadline).await
    }

    /// As [`write`](Self::write), up to another deadline.
    ///
    /// # Errors
    /// As for `write`.
    pub async fn write_until(
        &self,
        command: S::Command,
        deadline: Instant,
    ) -> Result<ClientWriteResponse<S::Response>, SessionError> {
        let mut pending = self.prepare_until(command, deadline).await?;
        pending.send_until(deadline).await
    }

    /// Numbers a command, so that it can be sent as often as it takes. Waits while
    /// [`max_in_flight`](SessionOptions::max_in_flight) earlier ones are held.
    ///
    /// # Errors
    /// If it cannot be encoded, is too large, or the session is over; nothing was sent.
    pub async fn prepare(&self, command: S::Command) -> Result<PendingWrite<S>, SessionError> {
        let deadline = Instant::now() + self.shared.group.write_timeout();
        self.prepare_until(command, deadline).await
    }

    async fn prepare_until(&self, command: S::Command, deadline: Instant) -> Result<PendingWrite<S>, SessionError> {
        let mut payload = vec![0; SESSION_HEADER_BYTES];
        self.shared.group.encode(&command, &mut payload)?;
        drop(command);
        if payload.len() > MAX_PAYLOAD_BYTES {
            let (bytes, limit) = (payload.len() - SESSION_HEADER_BYTES, MAX_PAYLOAD_BYTES - SESSION_HEADER_BYTES);
            return Err(SessionError::Write(ClientWriteError::TooLarge { bytes, limit }));
        }
        let serial = self.shared.take_serial(deadline).await?;
        Ok(PendingWrite { shared: Arc::clone(&self.shared), serial, payload, unknown: false })
    }

    /// Closes the session: the cluster forgets it.
    ///
    /// # Errors
    /// If it could not be closed before [`Config::write_timeout`](crate::Config::write_timeout); it then expires.
    pub async fn close(self) -> Result<(), SessionError> {
        self.shared.end();
        let group = &self.shared.group;
        let deadline = Instant::now() + group.write_timeout();
        group.submit(EntryKind::CloseSessions, list(self.shared.id), deadline, &mut false).await?;
        Ok(())
    }

    /// Gives the handle up without closing the session, so that it can be [resumed](Raft::resume_session) before it
    /// expires. It is no longer kept alive from here.
    pub fn detach(self) {
        self.shared.end();
    }
}

impl<S: RaftStateMachine> PendingWrite<S> {
    /// Its number within the session.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Sends the command until its outcome is known, up to [`Config::write_timeout`](crate::Config::write_timeout).
    /// After an unknown outcome it may be sent again, and after a response too: that gives the same response.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn send(&mut self) -> Result<ClientWriteResponse<S::Response>, SessionError> {
        let deadline = Instant::now() + self.shared.group.write_timeout();
        self.send_until(deadline).await
    }

    /// As [`send`](Self::send), up to another deadline.
    ///
    /// # Errors
    /// As for `send`.
    pub async fn send_until(&mut self, deadline: Instant) -> Result<ClientWriteResponse<S::Response>, SessionError> {
        let started = Instant::now();
        self.shared.state.lock().serials.head(self.shared.id, self.serial, &mut self.payload);
        let payload = Bytes::copy_from_slice(&self.payload);
        let group = &self.shared.group;
        match group.submit(EntryKind::SessionCommand, payload, deadline, &mut self.unknown).await {
            Ok(Submitted::Response(log_id, response)) => {
                self.shared.was_active(started);
                Ok(ClientWriteResponse { log_id, response })
            }
            Ok(Submitted::Done(_)) => Err(SessionError::Write(ClientWriteError::OutcomeUnknown)),
            Err(SessionError::Expired) => {
                self.shared.end();
                Err(SessionError::Expired)
            }
            Err(error) => Err(error),
        }
    }
}

impl<S: RaftStateMachine> Drop for PendingWrite<S> {
    fn drop(&mut self) {
        self.shared.state.lock().serials.release(self.serial);
        self.shared.room.notify_waiters();
    }
}

impl<S: RaftStateMachine> Shared<S> {
    async fn take_serial(&self, deadline: Instant) -> Result<u64, SessionError> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(serial) = self.try_take_serial()? {
                return Ok(serial);
            }
            let waited = tokio::select! {
                waited = timeout_at(deadline.into(), room) => waited,
                () = self.group.node.wait_closed() => {
                    return Err(SessionError::Write(ClientWriteError::Closed(self.group.closed_reason())));
                }
            };
            if waited.is_err() {
                return Err(SessionError::TooManyInFlight);
            }
        }
    }

    fn try_take_serial(&self) -> Result<Option<u64>, SessionError> {
        let mut state = self.state.lock();
        if state.over {
            return Err(SessionError::Expired);
        }
        Ok(state.serials.take())
    }

    /// The cluster answered what was sent at `started`: the session was alive then.
    fn was_active(&self, started: Instant) {
        let mut state = self.state.lock();
        state.active = state.active.max(started);
    }

    /// Nothing is sent for this session from here any more.
    fn end(&self) {
        self.state.lock().over = true;
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        self.room.notify_waiters();
    }

    /// When it has to be kept alive, if it is not written to until then; `None`: never.
    fn keep_due(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!state.over).then(|| later(state.active, self.options.keep_interval()))
    }
}

impl<S: RaftStateMachine> Drop for Shared<S> {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        if self.state.get_mut().over || self.group.node.closed().is_some() {
            return;
        }
        let (group, ids) = (Arc::clone(&self.group), list(self.id));
        drop(self.group.host.runtime.spawn(async move {
            let deadline = Instant::now() + group.write_timeout();
            // If it fails the session expires.
            drop(group.submit(EntryKind::CloseSessions, ids, deadline, &mut false).await);
        }));
    }
}

/// Keeps a session alive while it is not written to. Holds it only for moments, so that it can be dropped.
async fn keep_alive<S: RaftStateMachine>(session: Weak<Shared<S>>) {
    while let Some(due) = session.upgrade().and_then(|session| session.keep_due()) {
        sleep_until(due.into()).await;
        let Some(shared) = session.upgrade() else { return };
        let started = Instant::now();
        if shared.keep_due().is_none_or(|due| due > started) {
            continue;
        }
        let (group, ids) = (Arc::clone(&shared.group), list(shared.id));
        let pause = shared.options.keep_interval();
        drop(shared);
        let kept = group.submit(EntryKind::KeepSessions, ids, later(started, pause), &mut false).await;
        let Some(shared) = session.upgrade() else { return };
        match kept {
            Ok(_) => shared.was_active(started),
            Err(SessionError::Expired) => return shared.end(),
            Err(_) if group.node.closed().is_some() => return,
            // It was tried up to its time, or there is no room: try again, but not in a tight loop.
            Err(_) => {
                drop(shared);
                sleep_until(from_now(pause / 10).into()).await;
            }
        }
    }
}

/// The payload that names this session alone.
fn list(id: u64) -> Bytes {
    let mut payload = Vec::new();
    encode_session_ids(&[id], &mut payload);
    payload.into()
}

impl<S: RaftStateMachine> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl<S: RaftStateMachine> std::fmt::Debug for PendingWrite<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (session, serial) = (self.shared.id, self.serial);
        f.debug_struct("PendingWrite").field("session", &session).field("serial", &serial).finish_non_exhaustive()
    }
}
