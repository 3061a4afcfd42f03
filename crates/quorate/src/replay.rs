//! [`Replay`]: a state machine that applies batches without a cluster.

use std::io::{self, Write};

use quorate_core::{LogId, SnapshotMeta};
use quorate_wire::{Batch, Entry, EntryKind};

use crate::group::{Applied, Book, Commands, install_into, read_header, write_header};
use crate::{Frozen, LastApplied, RaftStateMachine};

/// A state machine and what a node knows beside it, without the node: applies batches, takes snapshots, starts from them,
/// as a node does. For tests of state machines.
#[derive(Debug)]
pub struct Replay<S> {
    state: S,
    book: Book,
}

/// A snapshot in two parts, of which the second can be made later.
type Parts = (Vec<u8>, Option<Frozen>);

impl<S: RaftStateMachine> Replay<S> {
    /// A machine as a node gets it when it starts: blank, or durable and with what it has applied.
    ///
    /// # Errors
    /// If a durable machine cannot say what it has applied.
    pub fn start(mut state: S) -> io::Result<Self> {
        let book = match state.last_applied()? {
            LastApplied::InMemory | LastApplied::Nothing => Book::blank(),
            LastApplied::UpTo(checkpoint) => Book::of(&checkpoint)?,
        };
        Ok(Self { state, book })
    }

    /// A machine in memory made from what [`snapshot`](Self::snapshot) gave.
    ///
    /// # Errors
    /// If it cannot be restored.
    pub fn restore(meta: &SnapshotMeta, mut content: &[u8]) -> io::Result<Self> {
        let (time, sessions) = read_header(&mut content)?;
        Ok(Self { state: S::restore(&mut content)?, book: Book::at(meta.clone(), time, sessions) })
    }

    /// Replaces what a durable machine holds by what [`snapshot`](Self::snapshot) gave.
    ///
    /// # Errors
    /// If it cannot be installed.
    pub fn install(&mut self, meta: &SnapshotMeta, mut content: &[u8]) -> io::Result<()> {
        self.book = install_into(&mut self.state, &mut content, meta)?;
        Ok(())
    }

    /// Applies what of the batch is new; returns the responses to commands.
    ///
    /// # Errors
    /// If the machine cannot apply it, or leaves commands without a response. Do not go on then.
    pub fn apply(&mut self, batch: &Batch) -> io::Result<Vec<(LogId, S::Response)>> {
        let (before, mut results) = (self.book.applied.index, Vec::new());
        let mut commands = Commands::new(batch, &mut self.book, Some((0, &mut results)));
        let told = self.state.apply_batch(&mut commands);
        commands.finish(told).map_err(io::Error::other)?;
        // Nobody is told of a membership.
        let told = batch.iter().filter(|entry| entry.log_id.index > before && entry.kind != EntryKind::Membership);
        let response = |(entry, result): (Entry<'_>, Applied<S::Response>)| match result {
            Ok(response) => Some((entry.log_id, response)),
            Err(outcome) => outcome.ok(),
        };
        Ok(told.zip(results).filter_map(response).collect())
    }

    /// What a snapshot taken now holds.
    pub fn meta(&self) -> SnapshotMeta {
        self.book.meta()
    }

    /// The content of a snapshot taken now.
    ///
    /// # Errors
    /// If the machine cannot write it.
    pub fn snapshot(&self) -> io::Result<Vec<u8>> {
        let mut content = self.header()?;
        self.state.snapshot(&mut content)?;
        Ok(content)
    }

    /// A snapshot of now, to be written later, if the machine provides [`RaftStateMachine::freeze`].
    ///
    /// # Errors
    /// If what stands before the machine's own bytes cannot be written.
    pub fn freeze(&self) -> io::Result<Option<impl FnOnce() -> io::Result<Vec<u8>> + use<S>>> {
        let (mut content, frozen): Parts = (self.header()?, self.state.freeze());
        Ok(frozen.map(|frozen| {
            move || {
                frozen(&mut content as &mut dyn Write)?;
                Ok(content)
            }
        }))
    }

    /// The machine.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Gives the machine back.
    pub fn into_state(self) -> S {
        self.state
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        write_header(&mut content, self.book.time, &self.book.sessions)?;
        Ok(content)
    }
}
