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
            let added = told.iter().filter(|told| matches!(told.returned, Returned::Written(_))).count() as u64;
            if end.0 < added {
                Err(format!("{added} were told that they were added, the sum is {}", end.0))
            } else {
                Ok(())
            }
        })
        .run();
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
