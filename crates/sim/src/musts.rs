//! What a search must have seen at least once: what never happens is not tested. One list of all kinds, for whoever asks
//! ([`Summary::missing`](crate::Summary::missing), `quorate sim --every-fault`).

use std::fmt;

use crate::core_phase::{CORES, OUTSIDE};
use crate::fault::Fault;
use crate::goals::Goal;
use crate::recovery::RECOVERIES;
use crate::repair::REPAIRS;
use crate::situations::SITUATIONS;

/// Something that some seed of a long search must have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Must {
    /// A kind of fault happened.
    Suffer(Fault),
    /// Clients or the operator achieved something.
    Reach(Goal),
    /// A damaged disk was repaired, in this respect.
    Repair(&'static str),
    /// A lost quorum was recovered, in this respect.
    Recover(&'static str),
    /// A rare situation of the protocol was met.
    Meet(&'static str),
}

impl Must {
    /// Everything.
    pub fn all() -> impl Iterator<Item = Must> {
        let faults = Fault::ALL.iter().copied().map(Must::Suffer);
        let goals = Goal::ALL.iter().copied().map(Must::Reach);
        let repairs = REPAIRS.iter().copied().map(Must::Repair);
        let recoveries = RECOVERIES.iter().copied().map(Must::Recover);
        let situations = SITUATIONS.iter().chain(&CORES).chain(&OUTSIDE).copied().map(Must::Meet);
        faults.chain(goals).chain(repairs).chain(recoveries).chain(situations)
    }

    /// What kind it is.
    pub fn kind(self) -> &'static str {
        match self {
            Must::Suffer(_) => "fault",
            Must::Reach(_) => "goal",
            Must::Repair(_) => "repair",
            Must::Recover(_) => "recovery",
            Must::Meet(_) => "situation",
        }
    }

    /// Its name: of a fault in the table of faults, of anything else among the counters.
    pub fn name(self) -> &'static str {
        match self {
            Must::Suffer(fault) => fault.name(),
            Must::Reach(goal) => goal.name(),
            Must::Repair(name) | Must::Recover(name) | Must::Meet(name) => name,
        }
    }
}

impl fmt::Display for Must {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_one_name() {
        let mut names: Vec<&str> =
            Must::all().filter(|must| !matches!(must, Must::Suffer(_))).map(Must::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "they share the counters");
    }
}
