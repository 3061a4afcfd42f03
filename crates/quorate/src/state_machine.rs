//! What users write: [`RaftStateMachine`].

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use quorate_core::LogId;

/// A deterministic state machine: the same commands in the same order give the same state and responses.
///
/// Three methods are required. Applies wait while [`snapshot`](Self::snapshot) runs, unless
/// [`freeze`](Self::freeze) is provided.
pub trait RaftStateMachine: Sized + Send + 'static {
    /// What clients write.
    type Command: Payload;
    /// What they get back once it is applied.
    type Response: Payload;

    /// Applies a committed command.
    fn apply(&mut self, command: Self::Command) -> Self::Response;

    /// Writes the whole state.
    ///
    /// # Errors
    /// If `out` fails. Everything stays as it was.
    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Makes a state from what [`snapshot`](Self::snapshot) wrote.
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this state machine.
    fn restore(input: &mut dyn Read) -> io::Result<Self>;

    /// Applies a committed command that wants to know its place in the log and the leader's time.
    fn apply_entry(&mut self, entry: EntryContext, command: Self::Command) -> Self::Response {
        let _ = entry;
        self.apply(command)
    }

    /// Captures the state cheaply; the returned closure writes it elsewhere while applies go on. `None`: not
    /// provided, [`snapshot`](Self::snapshot) is used.
    fn freeze(&self) -> Option<Frozen> {
        None
    }

    /// Whether this is a bad moment to build a snapshot, for instance while the state is being rearranged. It is asked
    /// again when the policy's threshold is met once more; whoever asked for a snapshot is told.
    fn defer_snapshot(&self) -> bool {
        false
    }

    /// Whether applies are so cheap (about a microsecond) that they may run on the thread that delivers the
    /// commit instead of on one of their own.
    fn applies_inline(&self) -> bool {
        false
    }
}

/// A captured state, see [`RaftStateMachine::freeze`].
pub type Frozen = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Where and when a command was put into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryContext {
    /// Its place in the log.
    pub log_id: LogId,
    /// The leader's clock when it was proposed; never goes back along the log.
    pub time: SystemTime,
}

/// A type that travels in the log or in a reply. Provided for everything that serde can serialize; [`Raw`]
/// passes bytes through at no cost.
pub trait Payload: Sized + Send + 'static {
    /// Appends the encoding.
    ///
    /// # Errors
    /// If the value cannot be encoded; it is not proposed then.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError>;

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If the bytes are not an encoding.
    fn decode(bytes: Bytes) -> Result<Self, PayloadError>;

    /// Decodes a part of a larger buffer. Provided; a type that keeps nothing of the buffer can spare itself a
    /// reference to it.
    ///
    /// # Errors
    /// If the bytes are not an encoding.
    fn decode_part(buffer: &Bytes, part: Range<usize>) -> Result<Self, PayloadError> {
        Self::decode(buffer.slice(part))
    }

    /// Writes the encoding: the whole of a [snapshot](RaftStateMachine::snapshot), for a state machine that is small
    /// enough to be encoded in memory first.
    ///
    /// # Errors
    /// If the value cannot be encoded, or `out` fails.
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes).map_err(io::Error::other)?;
        out.write_all(&bytes)
    }

    /// Reads what [`write_to`](Self::write_to) wrote, to the end of the input.
    ///
    /// # Errors
    /// If the input fails, or its bytes are not an encoding.
    fn read_from(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        Self::decode(bytes.into()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Bytes that are stored as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Raw(pub Bytes);

impl Payload for Raw {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Raw(bytes))
    }
}

/// A command or response that could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadError(pub String);

impl std::fmt::Display for PayloadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "payload cannot be encoded or decoded: {}", self.0)
    }
}

impl std::error::Error for PayloadError {}
