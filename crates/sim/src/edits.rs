//! What a run decides by chance, numbered, and which of it is left out: so that a run can be made shorter.

use std::collections::BTreeSet;
use std::fmt;

/// What is decided by chance, and can be left out of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Something goes wrong with a node, a disk or the network.
    Fault,
    /// Something happens to a single message.
    Message,
    /// A client starts an operation.
    Operation,
    /// The operator does something.
    Operator,
}

impl Decision {
    /// Every kind.
    pub const ALL: &[Decision] = &[Decision::Fault, Decision::Message, Decision::Operation, Decision::Operator];

    /// Its name in a schedule.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Fault => "fault",
            Decision::Message => "message",
            Decision::Operation => "operation",
            Decision::Operator => "operator",
        }
    }
}

/// How many decisions of each kind were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions([u64; Decision::ALL.len()]);

impl Decisions {
    /// Of this kind.
    pub fn of(&self, decision: Decision) -> u64 {
        self.0[decision as usize]
    }

    pub(crate) fn set(&mut self, decision: Decision, count: u64) {
        self.0[decision as usize] = count;
    }

    /// Numbers the next one.
    pub(crate) fn next(&mut self, decision: Decision) -> u64 {
        let number = self.0[decision as usize];
        self.0[decision as usize] += 1;
        number
    }
}

/// Decisions that are left out, by kind and number from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits([BTreeSet<u64>; Decision::ALL.len()]);

impl Edits {
    /// Whether this decision is carried out.
    pub fn keeps(&self, decision: Decision, number: u64) -> bool {
        !self.0[decision as usize].contains(&number)
    }

    /// Leaves these out too, from the first to before the second.
    #[must_use]
    pub fn without(mut self, decision: Decision, from: u64, to: u64) -> Self {
        self.0[decision as usize].extend(from..to);
        self
    }

    /// Leaves no more of a kind out than below this number: what is above was never decided.
    #[must_use]
    pub fn up_to(mut self, decided: &Decisions) -> Self {
        for decision in Decision::ALL {
            self.0[*decision as usize].retain(|number| *number < decided.of(*decision));
        }
        self
    }

    /// How many of a kind are left out.
    pub fn count(&self, decision: Decision) -> u64 {
        self.0[decision as usize].len() as u64
    }

    /// The numbers of a kind, as runs: first and last.
    pub(crate) fn runs(&self, decision: Decision) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for number in &self.0[decision as usize] {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => runs.push((*number, *number)),
            }
        }
        runs
    }
}

impl fmt::Display for Edits {
    /// As in a schedule: a line a kind, `without fault 0-4 7`. Nothing if nothing is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for decision in Decision::ALL.iter().filter(|decision| self.count(**decision) > 0) {
            write!(f, "without {}", decision.name())?;
            for (first, last) in self.runs(*decision) {
                match first == last {
                    true => write!(f, " {first}")?,
                    false => write!(f, " {first}-{last}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
