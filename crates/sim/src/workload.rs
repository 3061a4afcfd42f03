//! What clients do: [`Workload`].

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use quorate::{RaftStateMachine, ReadPolicy};
use quorate_wal::Disk;

use crate::history::Nanos;
use crate::rng::Rng;

/// A state machine, what clients ask of it, and how their answers are checked.
pub trait Workload {
    /// The state machine.
    type Machine: RaftStateMachine;
    /// What a read sees.
    type Seen: Send + 'static;

    /// A blank state machine, as every node starts with.
    fn machine(&self) -> Self::Machine;

    /// The state machine of a node that starts. One that keeps its state itself does so in `directory` (to be made) on this
    /// disk, and finds there what a crash left. Provided: a [blank](Self::machine) one.
    ///
    /// # Errors
    /// If it cannot be opened: that is a violation.
    fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> io::Result<Self::Machine> {
        let _ = (disk, directory);
        Ok(self.machine())
    }

    /// A machine that holds what a [snapshot](RaftStateMachine::snapshot) says, to look at it. Provided: restored from it.
    ///
    /// # Errors
    /// If it cannot be read.
    fn restored(&self, snapshot: &[u8]) -> io::Result<Self::Machine> {
        Self::Machine::restore(&mut &*snapshot)
    }

    /// What a client asks next.
    fn next(&mut self, asked: Invoked, chance: &mut Rng) -> Op<Self::Machine, Self::Seen>;

    /// A client was told how an operation ended, or gave up.
    fn on_return(
        &mut self,
        id: u64,
        by: Asked,
        at: Nanos,
        returned: Returned<<Self::Machine as RaftStateMachine>::Response, Self::Seen>,
    );

    /// A lost quorum was recovered: what was answered as of this index, or later, is gone for good, and counts from now on
    /// as if it had never been done. Of these operations the survivor may hold another copy, that nobody had committed:
    /// they are done once more, or not. Returns how many answers are gone.
    fn on_recovered(&mut self, from: u64, copied: &BTreeSet<u64>) -> u64 {
        let _ = (from, copied);
        0
    }

    /// Checks all answers, at the end of the run: every node's state machine is equal to `end`.
    ///
    /// # Errors
    /// Says what is wrong.
    fn check(&mut self, end: &Self::Machine) -> Result<(), String>;

    /// Checks a state that may lack the newest writes, at the end of a run in which too much was lost to go on.
    ///
    /// # Errors
    /// Says what is wrong.
    fn check_part(&mut self, part: &Self::Machine) -> Result<(), String> {
        let _ = part;
        Ok(())
    }

    /// Checks all answers at the end of such a run, with no state to hold them against: a write that nobody was answered may
    /// have taken effect, or not.
    ///
    /// # Errors
    /// Says what is wrong.
    fn check_without_end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// An operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invoked {
    /// The operation's number, from 0.
    pub id: u64,
    /// The client.
    pub client: u32,
    /// When.
    pub at: Nanos,
}

/// Who was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The node.
    pub node: u64,
    /// Which of its processes: counts its starts.
    pub process: u64,
    /// The session that the write belonged to: the index of the entry that opened it.
    pub session: Option<u64>,
    /// The call that asked for it together with others, in the order of their numbers, if it was not asked for again by
    /// itself.
    pub batch: Option<u64>,
    /// The last command of the state that the answer is of, a write's own included; `None` if there is no answer.
    pub as_of: Option<u64>,
}

/// What a client asks.
pub enum Op<M: RaftStateMachine, T> {
    /// Write this.
    Write(M::Command),
    /// Look at the state, as fresh as this.
    Read(ReadPolicy, LookAt<M, T>),
}

/// A look at a state machine. May be taken more than once.
pub type LookAt<M, T> = Arc<dyn Fn(&M) -> T + Send + Sync>;

impl<M: RaftStateMachine, T> std::fmt::Debug for Op<M, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Write(_) => f.write_str("Write"),
            Op::Read(policy, _) => f.debug_tuple("Read").field(policy).finish(),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returned<R, T> {
    /// The write was applied, with this response.
    Written(R),
    /// The read saw this.
    Seen(T),
    /// It certainly took no effect and never will.
    NotApplied,
    /// It may take effect at any time, or never.
    Unknown,
}
