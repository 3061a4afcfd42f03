//! The session table: which commands were applied, and what their answers were (dissertation 6.3).
//!
//! The table after an entry is a function of the entries up to there and nothing else: no clock, no setting of a
//! node, no iteration order. So it is the same on every node, whether a node applied every entry or started from a
//! snapshot, wherever that was taken. FORMAT.md, "Sessions", has the rules.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use quorate_core::{Bug, LogId, bug};
use quorate_wire::codec::{Reader, put_log_id};
use quorate_wire::{SessionHeader, SessionOpening, WireError};

/// Counted for each answer beside its bytes: its place in the table, about.
const ANSWER_OVERHEAD_BYTES: u64 = 128;
/// Bytes of a session in a snapshot beside its answers.
const SESSION_BYTES: usize = 52;
/// Least bytes of an answer in a snapshot.
const LEAST_ANSWER_BYTES: usize = 8 + 24 + 1 + 4;

/// What bounds a table. Part of version 1 of the format: all nodes must expire the same sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionLimits {
    /// Most sessions; the next one opened expires the least recently active.
    pub sessions: usize,
    /// Most bytes of answers, each counted with 128 bytes more than its length; above it the least recently active
    /// sessions expire.
    pub answer_bytes: u64,
}

impl SessionLimits {
    /// Those of version 1: 65,536 sessions (about 10 MiB without answers), 256 MiB of answers.
    pub const V1: Self = Self { sessions: 65_536, answer_bytes: 256 << 20 };
}

/// An entry's place and time in the log: indexes grow, times do not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The entry's index.
    pub index: u64,
    /// The greatest time of the entries so far, in nanoseconds since the Unix epoch.
    pub time: u64,
}

/// The kept answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Where the command was applied.
    pub log_id: LogId,
    /// The encoded response; `None` if it could not be encoded.
    pub response: Option<Bytes>,
}

impl Answer {
    fn cost(&self) -> u64 {
        ANSWER_OVERHEAD_BYTES + self.response.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

/// Why an entry about a session does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionRefusal {
    /// There is no such session: it expired, was closed, or never was.
    Expired,
    /// The client said that it has the answer, which is no longer kept.
    Acknowledged,
    /// Too far above the low mark.
    TooManyInFlight,
}

/// What becomes of a session command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it, then [`remember`](SessionTable::remember) the answer.
    Apply,
    /// It was applied before.
    Answered(Answer),
    /// It is not applied.
    Refused(SessionRefusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    /// What it was opened with.
    time_to_live: u64,
    max_in_flight: u32,
    /// Serials below are acknowledged. Never goes back.
    low: u64,
    /// Time and index of the last entry that named it.
    active: u64,
    active_index: u64,
    /// Invariant: `low <= serial < low + max_in_flight`.
    answers: BTreeMap<u64, Answer>,
}

impl Session {
    /// The greatest time at which it still lives.
    fn due(&self) -> u64 {
        self.active.saturating_add(self.time_to_live)
    }

    fn answer_bytes(&self) -> u64 {
        self.answers.values().map(Answer::cost).sum()
    }
}

/// All sessions of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionTable {
    limits: SessionLimits,
    /// By id: the index of the entry that opened it.
    sessions: BTreeMap<u64, Session>,
    /// (due, id) of every session: who expires first.
    by_due: BTreeSet<(u64, u64)>,
    /// (index of the last entry that named it, id) of every session: who was active longest ago.
    by_activity: BTreeSet<(u64, u64)>,
    /// Of all sessions.
    answers: u64,
    answer_bytes: u64,
}

impl SessionTable {
    /// A table without sessions.
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            by_due: BTreeSet::new(),
            by_activity: BTreeSet::new(),
            answers: 0,
            answer_bytes: 0,
        }
    }

    /// Number of sessions.
    pub fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// Number of answers kept.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    // ---- entries ----

    /// Expires sessions, as the log's time went on to `time`. To be called for every entry of any kind, before it
    /// is applied.
    pub fn advance(&mut self, time: u64) {
        while let Some((due, id)) = self.by_due.first().copied()
            && due < time
        {
            self.remove(id);
        }
    }

    /// Opens the session whose id is `at.index`.
    pub fn open(&mut self, at: LogPlace, opening: SessionOpening) {
        self.advance(at.time);
        while self.sessions.len() >= self.limits.sessions.max(1) {
            self.expire_least_active();
        }
        let session = Session {
            time_to_live: u64::try_from(opening.time_to_live.as_nanos()).unwrap_or(u64::MAX),
            max_in_flight: opening.max_in_flight,
            low: 1,
            active: at.time,
            active_index: at.index,
            answers: BTreeMap::new(),
        };
        self.insert(at.index, session);
    }

    /// Decides about a command.
    pub fn command(&mut self, at: LogPlace, header: SessionHeader) -> Verdict {
        self.advance(at.time);
        let SessionHeader { session: id, serial, low } = header;
        if bug(Bug::ExpiredSessionReopened) && !self.sessions.contains_key(&id) {
            let opening = SessionOpening { time_to_live: std::time::Duration::from_secs(60), max_in_flight: 64 };
            self.open(LogPlace { index: id, ..at }, opening);
        }
        if !self.touch(at, id) {
            return Verdict::Refused(SessionRefusal::Expired);
        }
        self.acknowledge(id, low);
        let Some(session) = self.sessions.get(&id) else { return Verdict::Refused(SessionRefusal::Expired) };
        if serial < session.low && !bug(Bug::LowMarkIgnored) {
            return Verdict::Refused(SessionRefusal::Acknowledged);
        }
        if let Some(answer) = session.answers.get(&serial) {
            return Verdict::Answered(answer.clone());
        }
        if serial >= session.low.saturating_add(session.max_in_flight.into()) {
            return Verdict::Refused(SessionRefusal::TooManyInFlight);
        }
        Verdict::Apply
    }

    /// Keeps the answer of a command that was to be applied.
    pub fn remember(&mut self, header: SessionHeader, answer: Answer) {
        let Some(session) = self.sessions.get_mut(&header.session) else { return };
        let cost = answer.cost();
        if let Some(other) = session.answers.insert(header.serial, answer) {
            debug_assert!(bug(Bug::LowMarkIgnored), "a serial is applied once");
            self.answers -= 1;
            self.answer_bytes -= other.cost();
        }
        self.answers += 1;
        self.answer_bytes += cost;
        // Down to none: answers that alone are too many are not kept either.
        while self.answer_bytes > self.limits.answer_bytes && !self.sessions.is_empty() {
            self.expire_least_active();
        }
    }

    /// Keeps sessions alive; returns whether all of them lived.
    pub fn keep(&mut self, at: LogPlace, ids: &[u64]) -> bool {
        self.advance(at.time);
        let mut all = true;
        for id in ids {
            all &= self.touch(at, *id);
            if bug(Bug::AnswersForgottenAtKeepAlive)
                && let Some(session) = self.sessions.get_mut(id)
            {
                self.answer_bytes -= session.answer_bytes();
                self.answers -= session.answers.len() as u64;
                session.answers.clear();
            }
        }
        all
    }

    /// Closes sessions; what is not there is closed already.
    pub fn close(&mut self, at: LogPlace, ids: &[u64]) {
        self.advance(at.time);
        ids.iter().for_each(|id| self.remove(*id));
    }

    // ---- parts ----

    /// Takes in that an entry named this session; returns whether it lives.
    fn touch(&mut self, at: LogPlace, id: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        self.by_due.remove(&(session.due(), id));
        self.by_activity.remove(&(session.active_index, id));
        // Neither goes back in a log; who applies entries otherwise cannot make a session younger.
        session.active = session.active.max(at.time);
        session.active_index = session.active_index.max(at.index);
        self.by_due.insert((session.due(), id));
        self.by_activity.insert((session.active_index, id));
        true
    }

    /// Forgets the answers below the client's low mark.
    fn acknowledge(&mut self, id: u64, low: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if low <= session.low {
            return;
        }
        session.low = low;
        while let Some(first) = session.answers.first_entry().filter(|first| *first.key() < low) {
            self.answers -= 1;
            self.answer_bytes -= first.get().cost();
            first.remove();
        }
    }

    fn expire_least_active(&mut self) {
        if let Some((_, id)) = self.by_activity.first().copied() {
            self.remove(id);
        }
    }

    fn insert(&mut self, id: u64, session: Session) {
        self.remove(id);
        self.by_due.insert((session.due(), id));
        self.by_activity.insert((session.active_index, id));
        self.answers += session.answers.len() as u64;
        self.answer_bytes += session.answer_bytes();
        self.sessions.insert(id, session);
    }

    fn remove(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_due.remove(&(session.due(), id));
        self.by_activity.remove(&(session.active_index, id));
        self.answers -= session.answers.len() as u64;
        self.answer_bytes -= session.answer_bytes();
    }

    // ---- snapshots ----

    /// Appends the table's encoding, the same for equal tables. FORMAT.md, "Content of a snapshot".
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.sessions());
        for (id, session) in &self.sessions {
            out.put_u64_le(*id);
            out.put_u64_le(session.time_to_live);
            out.put_u32_le(session.max_in_flight);
            out.put_u64_le(session.low);
            out.put_u64_le(session.active);
            out.put_u64_le(session.active_index);
            out.put_u64_le(session.answers.len() as u64);
            for (serial, answer) in &session.answers {
                out.put_u64_le(*serial);
                put_log_id(out, answer.log_id);
                out.put_u8(answer.response.is_some().into());
                let bytes = answer.response.as_deref().unwrap_or_default();
                // Entries, and so responses that fit a reply, are far below 4 GiB.
                out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                out.put_slice(bytes);
            }
        }
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If bytes are missing or left over, or no table can be so.
    pub fn decode(limits: SessionLimits, bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("session table", bytes);
        let mut table = Self::new(limits);
        let count = count(&mut reader, SESSION_BYTES)?;
        if count > limits.sessions as u64 {
            let (length, limit) = (count as usize, limits.sessions);
            return Err(WireError::TooLong { what: "session table", length, limit });
        }
        let mut last = 0;
        for _ in 0..count {
            let (id, session) = read_session(&mut reader)?;
            if id <= last {
                return Err(WireError::Order { what: "sessions of a table" });
            }
            last = id;
            table.insert(id, session);
        }
        reader.finish()?;
        Ok(table)
    }
}

fn count(reader: &mut Reader<'_>, least: usize) -> Result<u64, WireError> {
    let count = reader.u64()?;
    let wanted = count.saturating_mul(least as u64);
    if wanted > reader.remaining() as u64 {
        return Err(WireError::Short { what: "session table", at: 0, wanted });
    }
    Ok(count)
}

fn read_session(reader: &mut Reader<'_>) -> Result<(u64, Session), WireError> {
    let id = reader.u64()?;
    let (time_to_live, max_in_flight, low) = (reader.u64()?, reader.u32()?, reader.u64()?);
    let (active, active_index) = (reader.u64()?, reader.u64()?);
    if active_index < id {
        return Err(WireError::Value { field: "session.active_index", value: active_index });
    }
    let mut session = Session { time_to_live, max_in_flight, low, active, active_index, answers: BTreeMap::new() };
    let mut next = low;
    for _ in 0..count(reader, LEAST_ANSWER_BYTES)? {
        let serial = reader.u64()?;
        if serial < next || serial - low >= u64::from(max_in_flight) {
            return Err(WireError::Value { field: "session.serial", value: serial });
        }
        next = serial.saturating_add(1);
        let log_id = reader.log_id()?;
        let known = reader.flag("session.answered")?;
        let length = reader.u32()? as usize;
        let response = reader.take(length)?;
        if !known && !response.is_empty() {
            return Err(WireError::Value { field: "session.response", value: length as u64 });
        }
        if !bug(Bug::DuplicateAppliedAfterRestart) {
            // A copy of its own, as a slice would keep the bytes of the whole table.
            let response = known.then(|| Bytes::copy_from_slice(response));
            session.answers.insert(serial, Answer { log_id, response });
        }
    }
    Ok((id, session))
}
