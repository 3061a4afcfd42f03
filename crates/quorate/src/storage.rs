//! Where a group's log and vote are kept: [`RaftLogStorage`].

use quorate_core::{GroupId, LogId, Recovered, Span, Tail, Vote, WriteId};
use quorate_wire::Batches;
use std::time::Duration;

use crate::{StorageError, StorageErrorKind};

/// One durable write with its bytes; see [`quorate_core::WriteOp`].
#[derive(Clone, Debug)]
pub enum LogWrite {
    /// Keep this vote.
    Vote(Vote),
    /// Append these entries at the end of the log.
    Append(Batches),
    /// Remove every entry after this one.
    Truncate {
        /// The last entry that stays.
        after: LogId,
    },
    /// A snapshot up to `to` is installed.
    Reset {
        /// The end of the snapshot.
        to: LogId,
        /// What becomes of later entries.
        tail: Tail,
    },
    /// A lease of this length may have been promised.
    PromiseLease(Duration),
    /// Forget [`Recovered::promised_end`]: nothing beyond the end of the log is promised any more.
    ForgetPromisedEnd,
}

/// Told when a write is durable. One for a group, shared by all its writes.
///
/// May be called from any thread, inline in `submit` or later, in any order: the library reports to the core
/// only what is durable without a gap.
pub trait Completions: Send + Sync {
    /// The write, and this one only, is durable; or it failed, and nothing of this storage can be trusted
    /// to become durable any more. A failure closes the group, also one of a write that nobody waits for.
    fn complete(&self, write: WriteId, result: Result<(), StorageError>);
}

/// A durable log for many groups. The default is the write-ahead log that comes with the library; another one is given
/// to [`HostBuilder::storage`](crate::HostBuilder::storage), the rest of which comes from
/// [`Storage::open`](crate::Storage::open). `quorate-testkit` has a suite that checks an implementation.
///
/// A log that refuses everything, to show the shape:
///
/// ```
/// use std::sync::Arc;
/// use quorate::{Batches, Completions, GroupId, LogId, LogWrite, RaftLogStorage, Recovered, Span, StorageError};
/// use quorate::{StorageErrorKind, WriteId};
///
/// struct Full(std::sync::Mutex<Option<Arc<dyn Completions>>>);
///
/// impl RaftLogStorage for Full {
///     fn recover(&self, _: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
///         *self.0.lock().unwrap() = Some(completions);
///         Ok(Recovered::default()) // No vote, no entries.
///     }
///
///     fn submit(&self, _: GroupId, write: WriteId, _: LogWrite) {
///         // A log that is not full makes it durable first, here or on a thread of its own.
///         let completions = self.0.lock().unwrap().clone();
///         let full = StorageError::new(StorageErrorKind::Full, "no space");
///         completions.expect("recovered before").complete(write, Err(full));
///     }
///
///     fn read(&self, _: GroupId, _: Span, _: u64) -> Result<Option<Batches>, StorageError> {
///         Ok(None)
///     }
///
///     fn purge(&self, _: GroupId, _: LogId) {}
/// }
/// ```
pub trait RaftLogStorage: Send + Sync + 'static {
    /// Opens a group and returns what it holds; `completions` is told of all its writes from now on.
    /// The snapshot and applied fields are the caller's to fill.
    ///
    /// # Errors
    /// If the log is damaged or cannot be read.
    fn recover(&self, group: GroupId, completions: std::sync::Arc<dyn Completions>) -> Result<Recovered, StorageError>;

    /// Takes a write. Never blocks. Writes of a group take effect in the order given; entries can be read
    /// as soon as this returns.
    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite);

    /// Reads entries from the front of `span`, about `max_bytes` of them but at least one. May block.
    /// `Ok(None)`: the log does not hold this span (any more).
    ///
    /// # Errors
    /// If the log is damaged or cannot be read.
    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError>;

    /// Forgets entries up to and including `upto`, at leisure. Never blocks.
    fn purge(&self, group: GroupId, upto: LogId);

    /// Gives up the log of a group that was recovered, because no snapshot is left that leads up to it. First how far it
    /// reached becomes durable, as [`Recovered::promised_end`]; then the log is emptied, in a write that every later one
    /// follows. Returns the promised end. May block.
    ///
    /// # Errors
    /// If the storage cannot keep that promise, as it does unless implemented: then the node does not start.
    fn give_up(&self, group: GroupId) -> Result<LogId, StorageError> {
        let text = format!("this storage cannot give up the log of {group} and remember how far it reached");
        Err(StorageError::new(StorageErrorKind::Corrupt, text))
    }

    /// Whether there is no space for more entries; proposals are refused until there is.
    fn is_full(&self) -> bool {
        false
    }

    /// Lets go of files and locks: the host that used it has stopped, and nothing more is asked. May block. Provided: that
    /// can wait until the log is dropped.
    fn close(&self) {}

    /// This library's own log in memory, whose writes need no completions. Whatever stands around one is another log.
    #[doc(hidden)]
    fn as_memory(&self) -> Option<&crate::MemoryStorage> {
        None
    }
}

/// Shared, it is the same log.
impl<L: RaftLogStorage + ?Sized> RaftLogStorage for std::sync::Arc<L> {
    fn recover(&self, group: GroupId, completions: std::sync::Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        (**self).recover(group, completions)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        (**self).submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        (**self).read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        (**self).purge(group, upto);
    }

    fn give_up(&self, group: GroupId) -> Result<LogId, StorageError> {
        (**self).give_up(group)
    }

    fn is_full(&self) -> bool {
        (**self).is_full()
    }

    fn close(&self) {
        (**self).close();
    }

    fn as_memory(&self) -> Option<&crate::MemoryStorage> {
        (**self).as_memory()
    }
}
