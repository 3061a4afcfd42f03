//! What the simulator puts around a state machine: it sees every apply, and may panic on request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::resume_unwind;

use quorate::virtual_node::Shown;
use quorate::{Checkpoint, Commands, EntryContext, Frozen, LastApplied, Payload, RaftStateMachine};
use quorate_core::LogId;

use crate::counters::Counters;
use crate::digest::{Digest, hash_of};
use crate::rng::Rng;
use crate::situations;

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
    /// By node: the last command that its present process showed to a read.
    shown: BTreeMap<u64, u64>,
    /// By index of the last command: the hash of the state after it.
    states: BTreeMap<u64, u64>,
    /// Of a thousand times, so often a machine puts a snapshot off; and what decides when.
    pub(crate) deferrals: Option<(u32, Rng)>,
    /// How often one was put off.
    pub(crate) deferred: u64,
    /// By index of a command: the hash of what it was answered.
    responses: BTreeMap<u64, u64>,
    /// By node: the last command that its present process has applied.
    reached: BTreeMap<u64, u64>,
    /// States that were equal to that of another node, or of an earlier process, after the same command.
    equal_states: u64,
    /// Answers of which the same is said.
    equal_responses: u64,
    /// Snapshots that were written while their node applied what came after them.
    beside: u64,
}

/// A state is compared after each command whose index this divides, if a batch ends there; wherever a snapshot is written;
/// after every batch of a machine that keeps its state itself.
const STATE_EVERY: u64 = 8;

thread_local! {
    /// A state machine is restored from bytes alone, so it finds the book of its run here: a run stays on one thread.
    static BOOK: RefCell<Book> = RefCell::new(Book::default());
}

/// Looks at this thread's book.
pub(crate) fn with_book<T>(work: impl FnOnce(&mut Book) -> T) -> T {
    BOOK.with_borrow_mut(work)
}

impl Book {
    /// A process starts at this node: it may show what is older than what the one before it showed.
    pub(crate) fn on_start(&mut self, node: u64) {
        self.node = node;
        self.shown.remove(&node);
        self.reached.remove(&node);
    }

    /// What was applied from here on is lost with a quorum: other commands may take its place.
    pub(crate) fn on_recovery(&mut self, from: u64) {
        self.applied.truncate(from as usize);
        self.states.split_off(&from);
        self.responses.split_off(&from);
    }

    /// The last command up to this index, and the hash of all commands up to it: what a durable machine says that it has
    /// applied, somebody has.
    fn chain_at(&self, index: u64) -> (u64, u64) {
        let upto = self.applied.len().min(index as usize + 1);
        let last = self.applied[..upto].iter().rev().flatten().next();
        last.map_or((0, 0), |(log_id, chain)| (*chain, log_id.index))
    }

    /// Monotonic reads: what a process once showed it shows to every later read.
    pub(crate) fn on_read(&mut self, node: u64, index: u64) {
        let shown = self.shown.entry(node).or_default();
        if index < *shown {
            let before = *shown;
            self.violation.get_or_insert(format!(
                "monotonic reads: node {node} shows the state after command {index}, and showed {before} before"
            ));
        }
        *shown = (*shown).max(index);
    }

    /// Equal state at equal applied: whoever wrote down the state after the same command wrote the same bytes.
    fn on_state(&mut self, index: u64, hash: u64) {
        let Some(known) = self.states.get(&index).copied() else {
            self.states.insert(index, hash);
            return;
        };
        self.equal_states += u64::from(known == hash);
        if known != hash {
            let node = self.node;
            self.violation
                .get_or_insert(format!("equal state: node {node} differs from another after command {index}"));
        }
    }

    /// Equal answers: whoever applies the same command after the same ones answers the same bytes.
    fn on_response(&mut self, index: u64, hash: u64) {
        let Some(known) = self.responses.get(&index).copied() else {
            self.responses.insert(index, hash);
            return;
        };
        self.equal_responses += u64::from(known == hash);
        if known != hash {
            let node = self.node;
            self.violation
                .get_or_insert(format!("equal answers: node {node} answers command {index} otherwise than another"));
        }
    }

    /// A snapshot of the state after this command was written beside the applies.
    fn on_frozen(&mut self, index: u64) {
        self.beside += u64::from(self.reached.get(&self.node).is_some_and(|reached| *reached > index));
    }

    /// What was compared.
    pub(crate) fn count(&self, counters: &mut Counters) {
        counters.add(situations::DEFERRED, self.deferred);
        counters.add(situations::EQUAL_STATES, self.equal_states);
        counters.add(situations::EQUAL_ANSWERS, self.equal_responses);
        counters.add(situations::APPLIED_BESIDE, self.beside);
    }

    /// State machine safety (dissertation 3.6.3): the same entry, after the same entries.
    fn on_apply(&mut self, log_id: LogId, chain: u64) {
        self.applies += 1;
        self.reached.insert(self.node, log_id.index);
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

/// A state machine under the simulator.
pub(crate) struct Watched<S> {
    pub(crate) machine: S,
    /// Hash of all commands applied, in order.
    pub(crate) chain: u64,
    /// The last command applied.
    pub(crate) index: u64,
    /// Whether it keeps its state itself: then the state after every batch is compared, not only snapshots.
    durable: bool,
}

impl<S> Watched<S> {
    pub(crate) fn new(machine: S) -> Self {
        Self { machine, chain: 0, index: 0, durable: false }
    }
}

impl<S: RaftStateMachine> Watched<S> {
    /// Tells the book what the machine holds now, if it is time to.
    fn show(&self) -> io::Result<()> {
        match self.durable || self.index > 0 && self.index.is_multiple_of(STATE_EVERY) {
            true => write_state(&mut io::sink(), self.chain, self.index, |out| self.machine.snapshot(out)),
            false => Ok(()),
        }
    }
}

/// A command is about to be applied.
fn on_command((chain, index): (&mut u64, &mut u64), entry: EntryContext, payload: &[u8]) {
    let mut digest = Digest::default();
    digest.word(*chain);
    digest.word(entry.log_id.index);
    digest.word(entry.log_id.leader_id.term);
    digest.word(entry.log_id.leader_id.node_id.0);
    digest.word(hash_of(payload));
    *chain = digest.value() as u64;
    *index = entry.log_id.index;
    let panics = with_book(|book| {
        let panics = book.panic_at == Some(book.node);
        if panics {
            book.panic_at = None;
            book.panics += 1;
        } else {
            book.on_apply(entry.log_id, *chain);
        }
        panics
    });
    if panics {
        // Not by `panic!`: what is injected is expected, so no panic hook is to print it.
        resume_unwind(Box::new("injected: the state machine panics"));
    }
}

/// A command was answered.
fn on_response(index: u64, response: &impl Payload) {
    let mut bytes = Vec::new();
    // What cannot be encoded goes to nobody else.
    if response.encode(&mut bytes).is_ok() {
        with_book(|book| book.on_response(index, hash_of(&bytes)));
    }
}

impl<S: RaftStateMachine> RaftStateMachine for Watched<S> {
    type Command = S::Command;
    type Response = S::Response;

    fn apply(&mut self, command: S::Command) -> S::Response {
        self.machine.apply(command)
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let Self { machine, chain, index, .. } = self;
        let applied = commands.lend(machine, &mut |shown| match shown {
            Shown::Command(entry, payload) => on_command((chain, index), entry, payload),
            Shown::Response(log_id, response) => on_response(log_id.index, response),
        });
        match applied {
            true => self.show(),
            // The commands say why.
            false => Ok(()),
        }
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        let kept = self.machine.last_applied()?;
        self.durable = kept != LastApplied::InMemory;
        if let LastApplied::UpTo(checkpoint) = &kept {
            let end = checkpoint.log_id()?.index;
            (self.chain, self.index) = with_book(|book| book.chain_at(end));
        }
        self.show()?;
        Ok(kept)
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        (self.chain, self.index) = read_head(input)?;
        self.machine.install(input, checkpoint)?;
        self.show()
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        write_state(out, self.chain, self.index, |out| self.machine.snapshot(out))
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let (chain, index) = read_head(input)?;
        Ok(Self { chain, index, machine: S::restore(input)?, durable: false })
    }

    fn freeze(&self) -> Option<Frozen> {
        let (chain, index, frozen) = (self.chain, self.index, self.machine.freeze()?);
        Some(Box::new(move |out| {
            write_state(out, chain, index, frozen)?;
            with_book(|book| book.on_frozen(index));
            Ok(())
        }))
    }

    fn defer_snapshot(&self) -> bool {
        let drawn = with_book(|book| {
            let defers = book.deferrals.as_mut().is_some_and(|(permille, chance)| chance.chance(*permille));
            book.deferred += u64::from(defers);
            defers
        });
        drawn || self.machine.defer_snapshot()
    }

    fn applies_inline(&self) -> bool {
        self.machine.applies_inline()
    }

    fn slow_commands(&self) -> Option<fn(&[u8]) -> bool> {
        self.machine.slow_commands()
    }
}

/// What [`write_state`] wrote before the state.
fn read_head(input: &mut dyn Read) -> io::Result<(u64, u64)> {
    let [mut chain, mut index] = [[0; 8]; 2];
    input.read_exact(&mut chain)?;
    input.read_exact(&mut index)?;
    Ok((u64::from_le_bytes(chain), u64::from_le_bytes(index)))
}

/// Hashes what passes.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    digest: Digest,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.digest.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a state, and tells the book what it is.
fn write_state(
    out: &mut dyn Write,
    chain: u64,
    index: u64,
    state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(&chain.to_le_bytes())?;
    out.write_all(&index.to_le_bytes())?;
    let mut hashing = Hashing { out, digest: Digest::default() };
    state(&mut hashing)?;
    let hash = hashing.digest.value() as u64;
    with_book(|book| book.on_state(index, hash));
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_core::{LeaderId, NodeId};

    use super::*;

    fn at(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, 1), index)
    }

    fn violation(work: impl FnOnce(&mut Book)) -> String {
        let mut book = Book { node: 2, ..Book::default() };
        work(&mut book);
        book.violation.unwrap_or_default()
    }

    #[test]
    fn another_command_or_another_past_at_an_index_breaks_state_machine_safety() {
        assert_eq!(NodeId(1), at(1, 1).leader_id.node_id);
        let fires = |log_id, chain| {
            violation(|book| {
                book.on_apply(at(1, 5), 77);
                book.on_apply(log_id, chain);
            })
        };
        assert_eq!(fires(at(1, 5), 77), "");
        assert!(fires(at(2, 5), 77).starts_with("state machine safety: node 2 applies"));
        assert!(fires(at(1, 5), 78).starts_with("state machine safety: node 2 applies"));
    }

    #[test]
    fn an_older_state_than_was_shown_breaks_monotonic_reads() {
        let fires = |restarts: bool| {
            violation(|book| {
                [3, 3, 7].into_iter().for_each(|index| book.on_read(2, index));
                if restarts {
                    book.on_start(2);
                }
                book.on_read(3, 1);
                book.on_read(2, 6);
            })
        };
        assert!(fires(false).starts_with("monotonic reads: node 2"));
        assert_eq!(fires(true), "", "a new process begins anew");
    }

    #[test]
    fn another_answer_to_the_same_command_breaks_equal_answers() {
        let fires = |index, hash| {
            violation(|book| {
                book.on_response(5, 77);
                book.on_response(index, hash);
            })
        };
        assert_eq!(fires(5, 77), "");
        assert_eq!(fires(6, 78), "");
        assert!(fires(5, 78).starts_with("equal answers: node 2 answers command 5 otherwise"));
    }

    #[test]
    fn a_snapshot_is_beside_applies_if_its_node_went_on_meanwhile() {
        let mut book = Book { node: 2, ..Book::default() };
        book.on_apply(at(1, 5), 77);
        book.on_frozen(5);
        assert_eq!(book.beside, 0);
        book.on_apply(at(1, 6), 78);
        book.on_frozen(5);
        book.node = 3;
        book.on_frozen(5);
        assert_eq!(book.beside, 1);
    }

    #[test]
    fn other_bytes_after_the_same_command_break_equal_state() {
        with_book(|book| *book = Book::default());
        let write = |index, bytes: &'static [u8]| {
            let mut out = Vec::new();
            write_state(&mut out, 1, index, |out| out.write_all(bytes)).unwrap();
            with_book(|book| book.violation.clone())
        };
        assert_eq!(write(4, b"abc"), None);
        assert_eq!(write(5, b"abd"), None);
        assert_eq!(write(4, b"abc"), None);
        assert!(write(4, b"abd").unwrap().starts_with("equal state: node"));
    }
}
