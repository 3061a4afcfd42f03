//! A state machine of one's own, run in simulated clusters with faults of every kind.

use std::io::{Read, Write};

use quorate::{RaftStateMachine, ReadPolicy};
use quorate_sim::{FaultSet, Op, Returned, Simulation, read};

/// Sums up what it is told.
struct Sum(u64);

impl RaftStateMachine for Sum {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> std::io::Result<Self> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Sum(u64::from_le_bytes(bytes)))
    }
}

fn main() {
    for seed in 1..=5 {
        let report = Simulation::new(
            seed,
            || Sum(0),
            |_, chance| match chance.below(3) {
                0 => read(ReadPolicy::ReadIndex, |sum: &Sum| sum.0),
                _ => Op::Write(1),
            },
        )
        .nodes(3)
        .operations(60)
        .faults(FaultSet::ALL)
        .check(|end, told| {
            let count = |what: fn(&Returned<u64, u64>) -> bool| told.iter().filter(|told| what(&told.returned)).count();
            let added = count(|returned| matches!(returned, Returned::Written(_))) as u64;
            // Reads as well; these may have been added, or not, but none of them twice.
            let unknown = count(|returned| matches!(returned, Returned::Unknown)) as u64;
            match (added..=added + unknown).contains(&end.0) {
                true => Ok(()),
                false => Err(format!("{added} were added, of {unknown} it is not known, the sum is {}", end.0)),
            }
        })
        .run();
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
