//! What the simulator puts around a state machine: it sees every apply, and may panic on request.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::ops::Range;

use bytes::Bytes;
use quorate::{EntryContext, Frozen, Payload, PayloadError, RaftStateMachine};
use quorate_core::LogId;

use crate::digest::{Digest, hash_of};

/// What all state machines of a run have applied together: one entry an index, and one state after it.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By index; commands only.
    applied: Vec<Option<(LogId, u64)>>,
    /// Commands that were applied somewhere, each counted once.
    pub(crate) commands: u64,
    /// Applies on all nodes together.
    pub(crate) applies: u64,
    /// The first contradiction.
    pub(crate) violation: Option<String>,
    /// The node whose machine runs now.
    pub(crate) node: u64,
    /// This node's machine panics at its next apply.
    pub(crate) panic_at: Option<u64>,
    pub(crate) panics: u64,
}

thread_local! {
    /// A state machine is restored from bytes alone, so it finds the book of its run here: a run stays on one thread.
    static BOOK: RefCell<Book> = RefCell::new(Book::default());
}

/// Looks at this thread's book.
pub(crate) fn with_book<T>(work: impl FnOnce(&mut Book) -> T) -> T {
    BOOK.with_borrow_mut(work)
}

impl Book {
    /// State machine safety (dissertation 3.6.3): the same entry, after the same entries.
    fn on_apply(&mut self, log_id: LogId, chain: u64) {
        self.applies += 1;
        let at = log_id.index as usize;
        if self.applied.len() <= at {
            self.applied.resize(at + 1, None);
        }
        match self.applied[at] {
            None => {
                self.applied[at] = Some((log_id, chain));
                self.commands += 1;
            }
            Some(known) if known == (log_id, chain) => {}
            Some((known, _)) => {
                let node = self.node;
                self.violation.get_or_insert(format!(
                    "state machine safety: node {node} applies {log_id} where another applied {known}, \
                     or after other commands"
                ));
            }
        }
    }
}

/// A command and the hash of its bytes.
pub(crate) struct WatchedCommand<C> {
    digest: u64,
    command: C,
}

impl<C: Payload> Payload for WatchedCommand<C> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        self.command.encode(out)
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self { digest: hash_of(&bytes), command: C::decode(bytes)? })
    }

    fn decode_part(buffer: &Bytes, part: Range<usize>) -> Result<Self, PayloadError> {
        Ok(Self { digest: hash_of(&buffer[part.clone()]), command: C::decode_part(buffer, part)? })
    }
}

/// A state machine under the simulator.
pub(crate) struct Watched<S> {
    pub(crate) machine: S,
    /// Hash of all commands applied, in order.
    pub(crate) chain: u64,
}

impl<S> Watched<S> {
    pub(crate) fn new(machine: S) -> Self {
        Self { machine, chain: 0 }
    }
}

impl<S: RaftStateMachine> RaftStateMachine for Watched<S> {
    type Command = WatchedCommand<S::Command>;
    type Response = S::Response;

    fn apply(&mut self, command: Self::Command) -> S::Response {
        self.machine.apply(command.command)
    }

    fn apply_entry(&mut self, entry: EntryContext, command: Self::Command) -> S::Response {
        let mut digest = Digest::default();
        digest.word(self.chain);
        digest.word(entry.log_id.index);
        digest.word(entry.log_id.leader_id.term);
        digest.word(entry.log_id.leader_id.node_id.0);
        digest.word(command.digest);
        self.chain = digest.value() as u64;
        let panics = with_book(|book| {
            let panics = book.panic_at == Some(book.node);
            if panics {
                book.panic_at = None;
                book.panics += 1;
            } else {
                book.on_apply(entry.log_id, self.chain);
            }
            panics
        });
        assert!(!panics, "injected: the state machine panics");
        self.machine.apply_entry(entry, command.command)
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.chain.to_le_bytes())?;
        self.machine.snapshot(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut chain = [0; 8];
        input.read_exact(&mut chain)?;
        Ok(Self { chain: u64::from_le_bytes(chain), machine: S::restore(input)? })
    }

    fn freeze(&self) -> Option<Frozen> {
        let (chain, frozen) = (self.chain, self.machine.freeze()?);
        Some(Box::new(move |out| {
            out.write_all(&chain.to_le_bytes())?;
            frozen(out)
        }))
    }

    fn applies_inline(&self) -> bool {
        self.machine.applies_inline()
    }
}
