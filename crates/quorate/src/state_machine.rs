//! What users write: [`RaftStateMachine`].

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use quorate_core::LogId;

use crate::{Checkpoint, Commands};

/// A deterministic state machine: the same commands in the same order give the same state and responses.
///
/// Three methods are required:
///
#[cfg_attr(feature = "serde", doc = "```")]
#[cfg_attr(not(feature = "serde"), doc = "```text")]
/// use std::io::{self, Read, Write};
///
/// struct Counter(u64);
///
/// impl quorate::RaftStateMachine for Counter {
///     type Command = u64;
///     type Response = u64;
///
///     fn apply(&mut self, add: u64) -> u64 {
///         self.0 += add;
///         self.0
///     }
///
///     fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
///         out.write_all(&self.0.to_le_bytes())
///     }
///
///     fn restore(input: &mut dyn Read) -> io::Result<Self> {
///         let mut bytes = [0; 8];
///         input.read_exact(&mut bytes)?;
///         Ok(Self(u64::from_le_bytes(bytes)))
///     }
/// }
/// ```
///
/// The others are provided, and make it better at something:
///
/// - [`apply_entry`](Self::apply_entry) tells a command's place in the log and the leader's time;
/// - [`apply_batch`](Self::apply_batch) takes what is committed together, for example into one transaction;
/// - [`freeze`](Self::freeze) captures the state cheaply: without it applies wait while a snapshot is written;
/// - [`last_applied`](Self::last_applied) and [`install`](Self::install) are those of a durable machine, which keeps its
///   state itself and goes on from it after a restart;
/// - [`applies_inline`](Self::applies_inline) saves a change of threads where applies take about a microsecond, and
///   [`slow_commands`](Self::slow_commands) tells those that take longer.
///
/// A machine with `async` methods is an [`AsyncStateMachine`](crate::AsyncStateMachine). A panic in any of these methods
/// is caught: it closes this group on this node, with [`ClosedReason::StateMachine`](crate::ClosedReason::StateMachine),
/// and no other group. `quorate-testkit` has a suite that checks an implementation of any of them.
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

    /// Applies commands that are committed together. Provided: each by [`apply_entry`](Self::apply_entry).
    ///
    /// A machine that keeps its state in a database takes them in one transaction. Its [`apply`](Self::apply) is then called by
    /// nobody, and may say so with `unreachable!`:
    ///
    #[cfg_attr(feature = "serde", doc = "```")]
    #[cfg_attr(not(feature = "serde"), doc = "```text")]
    /// # use std::io::{self, Read, Write};
    /// # use quorate::{Checkpoint, Commands, LastApplied, Raw, RaftStateMachine};
    /// # #[derive(Default)]
    /// # struct Database { rows: Vec<Raw>, kept: Option<Vec<u8>> }
    /// # impl Database { fn begin(&mut self) {} fn insert(&mut self, row: Raw) { self.rows.push(row) }
    /// #     fn put_checkpoint(&mut self, bytes: &[u8]) { self.kept = Some(bytes.to_vec()) }
    /// #     fn commit(&mut self) -> io::Result<()> { Ok(()) } }
    /// # struct Table { database: Database }
    /// # impl RaftStateMachine for Table {
    /// #     type Command = Raw;
    /// #     type Response = ();
    /// #     fn apply(&mut self, row: Raw) { self.database.insert(row) }
    /// #     fn snapshot(&self, _: &mut dyn Write) -> io::Result<()> { Ok(()) }
    /// #     fn restore(_: &mut dyn Read) -> io::Result<Self> { Err(io::ErrorKind::Unsupported.into()) }
    /// fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
    ///     self.database.begin();
    ///     while let Some((_, row)) = commands.next_command() {
    ///         self.database.insert(row);
    ///         commands.respond(());
    ///     }
    ///     self.database.put_checkpoint(commands.checkpoint().as_bytes());
    ///     self.database.commit()
    /// }
    ///
    /// fn last_applied(&mut self) -> io::Result<LastApplied> {
    ///     Ok(LastApplied::kept(self.database.kept.clone()))
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// If they cannot be applied: the group is closed on this node, as after a panic.
    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        commands.apply_each(|entry, command| self.apply_entry(entry, command));
        Ok(())
    }

    /// How far a durable machine has applied the log: the [checkpoint](Commands::checkpoint) that it kept last, asked once
    /// when the group starts. A machine that keeps one need not do so after every batch, but only together with
    /// the state that belongs to it: what is later is applied again. Provided: the machine is in memory, and starts from
    /// the library's snapshot.
    ///
    /// # Errors
    /// If that cannot be read: the group does not start.
    fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::InMemory)
    }

    /// Replaces all that a durable machine holds by what [`snapshot`](Self::snapshot) wrote, and keeps `checkpoint` with it,
    /// in one step. Called only if [`last_applied`](Self::last_applied) says that the machine is durable.
    ///
    /// # Errors
    /// If that fails: the group is closed on this node, and the next start installs it again.
    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let _ = checkpoint;
        *self = Self::restore(input)?;
        Ok(())
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

    /// Of a machine that [applies inline](Self::applies_inline): what tells, by a command's encoding, that applying it may
    /// take longer. A batch with such a command is applied on a thread that may block, as all are without
    /// `applies_inline`; in their order all the same. Asked once; what it returns is asked of every command before it is
    /// applied, so it should look at a few bytes only. If that panics, the command counts as slow. Provided: none is.
    fn slow_commands(&self) -> Option<fn(&[u8]) -> bool> {
        None
    }
}

/// What a state machine keeps of itself, see [`RaftStateMachine::last_applied`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastApplied {
    /// Nothing: its state goes with the process, and the library restores it.
    InMemory,
    /// It is durable, and nothing was applied to it yet.
    Nothing,
    /// It is durable, and has applied everything up to this.
    UpTo(Checkpoint),
}

impl LastApplied {
    /// Of a durable machine that found these bytes of a checkpoint, or none.
    pub fn kept(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::Nothing, |bytes| Self::UpTo(Checkpoint::from_bytes(bytes)))
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
///
/// What the feature `serde` (on by default) provides cannot be implemented again: a type that derives both `Serialize` and
/// `Deserialize` has this encoding. For another one, give a type that does not derive both an implementation of its own: a
/// new type around it, say. A library that others build on keeps to that also if it does without the feature, which any
/// crate of the program may switch on.
pub trait Payload: Sized + Send + 'static {
    /// Appends the encoding.
    ///
    /// # Errors
    /// If the value cannot be encoded; it is not proposed then.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError>;

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// A command's bytes are a part of a buffer that holds its neighbours in the log too: whoever keeps them keeps all of
    /// it, so what is to live long is better copied.
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

impl PayloadError {
    /// Always false: the same value, or the same bytes, fail again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: encoding and decoding change nothing. Whether a command was applied says the error of the
    /// write.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl std::fmt::Display for PayloadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "payload cannot be encoded or decoded: {}", self.0)
    }
}

impl std::error::Error for PayloadError {}
