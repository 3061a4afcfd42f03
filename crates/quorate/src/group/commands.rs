//! [`Commands`]: what a state machine is handed to apply, entry by entry.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_core::{Bug, LogId, bug};
use quorate_wire::{
    Batch, BatchIter, Entry, EntryKind, SESSION_HEADER_BYTES, SessionHeader, SessionOpening, decode_membership,
    decode_session_ids,
};

use super::book::{Book, Checkpoint};
use super::{Applied, Failure, Outcome};
use crate::session::{Answer, LogPlace, SessionOutcome, SessionRefusal, Verdict};
use crate::{EntryContext, Payload, PayloadError, RaftStateMachine, blame};

/// Committed commands to apply, in log order, each followed by its response: what
/// [`RaftStateMachine::apply_batch`] gets.
///
/// Nobody sees a response before `apply_batch` has returned, so a durable machine may respond inside a transaction and
/// commit that at the end.
#[derive(Debug)]
pub struct Commands<'a, S: RaftStateMachine> {
    batch: &'a Batch,
    /// What is left; nothing once something has failed.
    entries: BatchIter<'a>,
    book: &'a mut Book,
    /// The time of the entry before, as it is in the log and as callers see it.
    stamp: (u64, SystemTime),
    /// The command that was taken and has no response yet.
    taken: Option<Taken>,
    /// Index of the first entry that somebody waits for, and what they are told.
    awaited: Option<(u64, &'a mut Vec<Applied<S::Response>>)>,
    failed: Option<String>,
    /// Sees every command before the machine gets it, and what it answers.
    #[cfg(feature = "sim")]
    watch: Option<Watch<'a, S::Response>>,
}

/// What who watches a machine is shown.
#[cfg(feature = "sim")]
#[derive(Debug)]
pub enum Shown<'a, R> {
    /// A command, before the machine gets it: its place and its bytes.
    Command(EntryContext, &'a [u8]),
    /// What the machine answered to the command there.
    Response(LogId, &'a R),
}

#[cfg(feature = "sim")]
struct Watch<'a, R>(&'a mut dyn FnMut(Shown<'_, R>));

#[cfg(feature = "sim")]
impl<R> std::fmt::Debug for Watch<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

#[derive(Debug)]
struct Taken {
    log_id: LogId,
    /// If it is a session's.
    session: Option<SessionHeader>,
}

impl<'a, S: RaftStateMachine> Commands<'a, S> {
    /// The entries of a batch that the book does not hold yet.
    #[inline]
    pub(crate) fn new(
        batch: &'a Batch,
        book: &'a mut Book,
        awaited: Option<(u64, &'a mut Vec<Applied<S::Response>>)>,
    ) -> Self {
        let mut entries = batch.iter();
        for _ in batch.first().index..=book.applied.index {
            entries.next();
        }
        Self {
            batch,
            entries,
            book,
            stamp: (0, UNIX_EPOCH),
            taken: None,
            awaited,
            failed: None,
            #[cfg(feature = "sim")]
            watch: None,
        }
    }

    /// Lets a machine apply all of them that `S` stands around, and whose answers are its own; `watch` sees each command
    /// before that machine does, and each answer. Tells whether they were applied.
    #[cfg(feature = "sim")]
    pub fn lend<M>(&mut self, machine: &mut M, watch: &mut dyn FnMut(Shown<'_, S::Response>)) -> bool
    where
        M: RaftStateMachine<Response = S::Response>,
    {
        let mut lent = Commands::<M> {
            batch: self.batch,
            entries: self.entries.clone(),
            book: &mut *self.book,
            stamp: self.stamp,
            taken: None,
            awaited: self.awaited.as_mut().map(|(from, results)| (*from, &mut **results)),
            failed: None,
            watch: Some(Watch(watch)),
        };
        let told = machine.apply_batch(&mut lent);
        self.failed = lent.finish(told).err();
        // They are taken in, and what they made is in the book.
        self.entries.by_ref().for_each(drop);
        self.failed.is_none()
    }

    /// The next command, and its place in the log; `None` when there are no more. The one before must have been
    /// [answered](Self::respond).
    #[inline]
    pub fn next_command(&mut self) -> Option<(EntryContext, S::Command)> {
        if self.taken.is_some() {
            self.refuse_another();
            return None;
        }
        let (context, session, command) = self.take_next()?;
        self.taken = Some(Taken { log_id: context.log_id, session });
        Some((context, command))
    }

    /// Applies and answers all commands, each at once: nothing is kept of a command meanwhile.
    #[inline]
    pub(crate) fn apply_each(&mut self, mut apply: impl FnMut(EntryContext, S::Command) -> S::Response) {
        while let Some((context, session, command)) = self.take_next() {
            let response = apply(context, command);
            self.answer(context.log_id, session, response);
        }
    }

    /// The next command, its place, and its header if it is a session's.
    // A call costs an entry a hundred instructions, and whether it is one is else decided anew with every change.
    #[expect(clippy::inline_always, reason = "it is the loop of two callers")]
    #[inline(always)]
    fn take_next(&mut self) -> Option<(EntryContext, Option<SessionHeader>, S::Command)> {
        loop {
            let entry = self.entries.next()?;
            if entry.time != self.stamp.0 {
                self.advance_time(entry.time);
            }
            // Most entries are plain commands.
            let session = match entry.kind {
                EntryKind::Command => None,
                _ => match self.take_in(&entry) {
                    None => continue,
                    header => header,
                },
            };
            let command_at = if session.is_some() { SESSION_HEADER_BYTES } else { 0 };
            let command = self.decode(&entry, command_at)?;
            let context = EntryContext { log_id: entry.log_id, time: self.stamp.1 };
            #[cfg(feature = "sim")]
            if let Some(Watch(watch)) = &mut self.watch {
                watch(Shown::Command(context, &entry.payload[command_at..]));
            }
            return Some((context, session, command));
        }
    }

    /// Takes in an entry that is no plain command; tells the header if it is a session's command to be applied.
    #[cold]
    fn take_in(&mut self, entry: &Entry<'a>) -> Option<SessionHeader> {
        match self.on_other_entry(entry) {
            Ok(None) => self.book.applied = entry.log_id,
            Ok(header) => return header,
            Err(text) => self.fail(text),
        }
        None
    }

    /// The command before was not answered.
    #[cold]
    fn refuse_another(&mut self) {
        if let Some(taken) = &self.taken {
            self.fail(format!("`apply_batch` took another command before it answered {}", taken.log_id));
        }
    }

    /// Nothing more is applied.
    #[cold]
    fn fail(&mut self, text: String) {
        self.entries.by_ref().for_each(drop);
        self.failed.get_or_insert(text);
    }

    /// Answers the command that was taken last. Dropped if none is waiting for one.
    #[inline]
    pub fn respond(&mut self, response: S::Response) {
        if let Some(Taken { log_id, session }) = self.taken.take() {
            self.answer(log_id, session, response);
        }
    }

    #[inline]
    fn answer(&mut self, log_id: LogId, session: Option<SessionHeader>, response: S::Response) {
        #[cfg(feature = "sim")]
        if let Some(Watch(watch)) = &mut self.watch {
            watch(Shown::Response(log_id, &response));
        }
        if let Some(header) = session {
            self.remember(header, log_id, &response);
        }
        self.book.applied = log_id;
        self.tell(log_id, || Ok(response));
    }

    #[cold]
    fn remember(&mut self, header: SessionHeader, log_id: LogId, response: &S::Response) {
        let mut encoded = Vec::new();
        let encoded = response.encode(&mut encoded).is_ok().then(|| encoded.into());
        self.book.sessions.remember(header, Answer { log_id, response: encoded });
    }

    /// What a durable machine keeps together with its state: everything up to the last answered command, or up to the
    /// end if [`next_command`](Self::next_command) gave `None`.
    pub fn checkpoint(&self) -> Checkpoint {
        self.book.checkpoint()
    }

    /// Whether all of it was applied, as the machine says with `told`; else why the group cannot go on.
    #[inline]
    pub(crate) fn finish(&mut self, told: io::Result<()>) -> Result<(), String> {
        match told {
            Ok(()) if self.entries.is_empty() && self.taken.is_none() && self.failed.is_none() => Ok(()),
            told => self.finish_rest(told),
        }
    }

    #[cold]
    fn finish_rest(&mut self, told: io::Result<()>) -> Result<(), String> {
        if let Err(error) = told {
            self.fail(format!("it cannot apply: {error}"));
        }
        if let Some(taken) = self.taken.take() {
            self.fail(format!("`apply_batch` returned before it answered the command {}", taken.log_id));
        }
        // What is left may be no command; a failure leaves nothing.
        if let Some((entry, _)) = self.next_command() {
            self.fail(format!("`apply_batch` returned without the command {}", entry.log_id));
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    #[inline]
    fn tell(&mut self, log_id: LogId, result: impl FnOnce() -> Applied<S::Response>) {
        if let Some((from, results)) = &mut self.awaited
            && log_id.index >= *from
        {
            results.push(result());
        }
    }

    /// The entries from here on have another time than those before.
    fn advance_time(&mut self, time: u64) {
        self.stamp = (time, UNIX_EPOCH + Duration::from_nanos(time));
        self.book.time = self.book.time.max(time);
        self.book.sessions.advance(expiry_time(self.book.time));
    }

    fn on_other_entry(&mut self, entry: &Entry<'a>) -> Result<Option<SessionHeader>, String> {
        match entry.kind {
            // A caller may wait for it; nobody waits for the one that a leadership begins with.
            EntryKind::Blank => self.done(entry),
            EntryKind::Membership => {
                self.book.membership = decode_membership(entry.payload)
                    .map_err(|error| format!("membership {}: {error}", entry.log_id))?;
                self.book.membership_log_id = entry.log_id;
            }
            EntryKind::Command => unreachable!("the caller applies plain commands"),
            EntryKind::OpenSession | EntryKind::SessionCommand | EntryKind::KeepSessions | EntryKind::CloseSessions => {
                return self.on_session_entry(entry);
            }
        }
        Ok(None)
    }

    /// The command in an entry, from this byte of its payload on. `None`: it cannot be decoded, so all of it failed.
    #[inline]
    fn decode(&mut self, entry: &Entry<'a>, at: usize) -> Option<S::Command> {
        let part = entry.payload_at + at..entry.payload_at + entry.payload.len();
        match S::Command::decode_part(self.batch.bytes(), part) {
            Ok(command) => Some(command),
            Err(error) => {
                self.fail_command(entry.log_id, &error);
                None
            }
        }
    }

    #[cold]
    fn fail_command(&mut self, log_id: LogId, error: &PayloadError) {
        self.fail(format!("command {log_id}: {error}"));
    }

    /// Takes in an entry about sessions: the table decides (law 22).
    fn on_session_entry(&mut self, entry: &Entry<'a>) -> Result<Option<SessionHeader>, String> {
        let malformed = |error| format!("entry {} about sessions: {error}", entry.log_id);
        let at = LogPlace { index: entry.log_id.index, time: self.book.time };
        let sessions = &mut self.book.sessions;
        match entry.kind {
            EntryKind::OpenSession => {
                sessions.open(at, SessionOpening::decode(entry.payload).map_err(malformed)?);
                self.done(entry);
            }
            EntryKind::KeepSessions => {
                let ids = decode_session_ids(entry.payload).map_err(malformed)?;
                match sessions.keep(at, &ids) {
                    true => self.done(entry),
                    false => self.refused(entry, SessionRefusal::Expired),
                }
            }
            EntryKind::CloseSessions => {
                sessions.close(at, &decode_session_ids(entry.payload).map_err(malformed)?);
                self.done(entry);
            }
            EntryKind::SessionCommand => {
                let header = SessionHeader::decode(entry.payload).map_err(malformed)?;
                match sessions.command(at, header) {
                    Verdict::Answered(answer) => self.tell(entry.log_id, || Err(Box::new(answered(answer)))),
                    Verdict::Refused(refusal) => self.refused(entry, refusal),
                    Verdict::Apply => return Ok(Some(header)),
                }
            }
            EntryKind::Blank | EntryKind::Command | EntryKind::Membership => {
                unreachable!("the caller brings entries about sessions")
            }
        }
        Ok(None)
    }

    fn done(&mut self, entry: &Entry<'a>) {
        self.conclude(entry, SessionOutcome::Done(entry.log_id));
    }

    fn refused(&mut self, entry: &Entry<'a>, refusal: SessionRefusal) {
        self.conclude(entry, SessionOutcome::Refused(refusal));
    }

    fn conclude(&mut self, entry: &Entry<'a>, outcome: SessionOutcome) {
        self.tell(entry.log_id, || Err(Box::new(Err(Failure::Session(outcome)))));
    }
}

/// The answer that was kept of a command that had been applied before.
fn answered<R: Payload>(answer: Answer) -> Outcome<R> {
    let Answer { log_id, response } = answer;
    let unreadable = || Failure::Session(SessionOutcome::Unreadable(log_id));
    let response = response.ok_or_else(unreadable)?;
    // It was applied long ago: a panic is no reason to end the group, and would end the next leader's as well.
    let decoded = blame::catch(|| R::decode(response));
    Ok((log_id, decoded.ok().and_then(Result::ok).ok_or_else(unreadable)?))
}

/// The time by which sessions expire: the log's.
fn expiry_time(log_time: u64) -> u64 {
    if bug(Bug::ExpiryByLocalClock) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return u64::try_from(since.as_nanos()).unwrap_or(log_time);
    }
    log_time
}
