//! What the library puts before the state machine's own bytes in a snapshot: the time of the last entry and the
//! session table. FORMAT.md, "Content of a snapshot".

use std::fmt;
use std::io::{self, Read, Write};

use quorate_core::{Bug, bug};

use crate::session::{SessionLimits, SessionTable};
use crate::snapshot::damage_of;
use crate::{RaftStateMachine, StorageError, blame};

/// Starts the content of every snapshot: magic and version.
const MAGIC: [u8; 8] = *b"QRMsnap\x02";
/// Bytes before the session table: magic, time, length of the table.
const FIXED_BYTES: usize = 24;
/// Longest session table: twice what all answers and sessions can take.
const MAX_TABLE_BYTES: u64 = 1 << 30;

/// What a snapshot's content says.
pub(crate) struct Restored<S> {
    pub(crate) state: S,
    /// Of the last entry in it.
    pub(crate) time: u64,
    pub(crate) sessions: SessionTable,
}

/// Writes what stands before the state machine's bytes.
pub(crate) fn write_header(out: &mut dyn Write, time: u64, sessions: &SessionTable) -> io::Result<()> {
    let mut table = Vec::new();
    match bug(Bug::SnapshotWithoutSessions) {
        true => SessionTable::new(SessionLimits::V1).encode(&mut table),
        false => sessions.encode(&mut table),
    }
    out.write_all(&MAGIC)?;
    out.write_all(&time.to_le_bytes())?;
    out.write_all(&(table.len() as u64).to_le_bytes())?;
    out.write_all(&table)
}

/// Makes a state from a snapshot's content.
pub(crate) fn restore<S: RaftStateMachine>(content: &mut dyn Read) -> io::Result<Restored<S>> {
    let (time, sessions) = read_header(content)?;
    let state = restored_by(|| S::restore(content))?;
    Ok(Restored { state, time, sessions })
}

/// Reads what stands before the state machine's bytes.
pub(crate) fn read_header(content: &mut dyn Read) -> io::Result<(u64, SessionTable)> {
    let mut fixed = [0; FIXED_BYTES];
    content.read_exact(&mut fixed)?;
    if fixed[..8] != MAGIC {
        return Err(invalid("the snapshot's content starts with another magic or version than this library writes"));
    }
    let number = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().unwrap_or_default());
    let (time, length) = (number(8), number(16));
    if length > MAX_TABLE_BYTES {
        return Err(invalid("the snapshot's session table is longer than any can be"));
    }
    let mut table = Vec::new();
    // Memory is taken as bytes arrive, not as the length promises them.
    (&mut *content).take(length).read_to_end(&mut table)?;
    if table.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let sessions = SessionTable::decode(SessionLimits::V1, &table).map_err(|error| invalid(&error.to_string()))?;
    Ok((time, sessions))
}

/// What user code that restores, installs or opens a state gives; a panic is an error. One of the store that it reads
/// from goes on to whoever says why the group ends.
pub(crate) fn restored_by<T>(user: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    blame::catch(user).unwrap_or_else(|panic| match blame::is_known() {
        true => panic.resume(),
        false => Err(io::Error::other(Panicked(panic.text()))),
    })
}

/// Whether it is a panic that [`restored_by`] made an error.
pub(crate) fn has_panicked(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Panicked>())
}

/// The message of a state machine's panic.
#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state machine panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A snapshot's content that notes whether a read met damage: a state machine may take that for the end of its bytes.
pub(crate) struct Watched {
    content: blame::Stored<Box<dyn Read + Send>>,
    pub(crate) damage: Option<StorageError>,
}

impl Watched {
    pub(crate) fn new(content: Box<dyn Read + Send>) -> Self {
        Self { content: blame::Stored(content), damage: None }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.content.read(buffer);
        if let Some(damage) = result.as_ref().err().and_then(damage_of) {
            self.damage = Some(damage);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_wire::SessionOpening;

    use super::*;
    use crate::session::LogPlace;

    struct Bytes(Vec<u8>);

    impl RaftStateMachine for Bytes {
        type Command = crate::Raw;
        type Response = crate::Raw;

        fn apply(&mut self, command: crate::Raw) -> crate::Raw {
            command
        }

        fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(&self.0)
        }

        fn restore(input: &mut dyn Read) -> io::Result<Self> {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            assert_ne!(bytes, b"panic", "the test asked for it");
            Ok(Self(bytes))
        }
    }

    fn content(state: &[u8]) -> (SessionTable, Vec<u8>) {
        let mut sessions = SessionTable::new(SessionLimits::V1);
        let opening = SessionOpening { time_to_live: Duration::from_secs(1), max_in_flight: 4 };
        sessions.open(LogPlace { index: 3, time: 5 }, opening);
        let mut bytes = Vec::new();
        write_header(&mut bytes, 7, &sessions).unwrap();
        bytes.extend_from_slice(state);
        (sessions, bytes)
    }

    fn kind_of(bytes: &[u8]) -> io::ErrorKind {
        restore::<Bytes>(&mut &bytes[..]).map(|_| "restored").unwrap_err().kind()
    }

    #[test]
    fn what_is_written_is_restored() {
        let (sessions, bytes) = content(b"state");
        let restored = restore::<Bytes>(&mut &bytes[..]).unwrap();
        assert_eq!((restored.time, restored.sessions, &restored.state.0[..]), (7, sessions, &b"state"[..]));
    }

    #[test]
    fn what_no_node_wrote_is_refused() {
        let (_, bytes) = content(b"");
        for end in 0..bytes.len() {
            assert_eq!(kind_of(&bytes[..end]), io::ErrorKind::UnexpectedEof, "cut at {end}");
        }
        let with = |at: usize, number: u64| {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            kind_of(&bytes)
        };
        assert_eq!(with(0, u64::from_le_bytes(*b"QRMsnap\x01")), io::ErrorKind::InvalidData, "an older version");
        assert_eq!(with(16, u64::MAX), io::ErrorKind::InvalidData, "a table without end");
        assert_eq!(with(16, MAX_TABLE_BYTES), io::ErrorKind::UnexpectedEof, "takes no memory for what is not there");
        assert_eq!(with(16, 3), io::ErrorKind::InvalidData, "a table that is cut");
        assert_eq!(kind_of(&content(b"panic").1), io::ErrorKind::Other, "a state machine that panics");
    }
}
