//! State machines whose answers or states differ from node to node are seen where they begin to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::time::Duration;

use quorate::RaftStateMachine;
use quorate_sim::{FaultSet, Op, Report, Simulation};

thread_local! {
    /// What no two nodes find alike: as good as a clock.
    static TICKS: Cell<u64> = const { Cell::new(0) };
}

fn tick() -> u64 {
    TICKS.set(TICKS.get() + 1);
    TICKS.get()
}

/// Sums up what it is told.
struct Sum<const WRONG: char>(u64);

impl<const WRONG: char> RaftStateMachine for Sum<WRONG> {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += if WRONG == 's' { tick() } else { add };
        if WRONG == 'a' { tick() } else { add }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Sum(u64::from_le_bytes(bytes)))
    }
}

/// A run without snapshots.
fn run<const WRONG: char>() -> Report {
    Simulation::new(1, || Sum::<WRONG>(0), |_, _| Op::<_, ()>::Write(1))
        .nodes(3)
        .operations(300)
        .faults(FaultSet::NONE)
        .options(|options| {
            let config = &mut options.config;
            (config.snapshot_entries, config.snapshot_bytes, config.snapshot_interval) = (0, 0, Duration::ZERO);
            (options.triggers, options.membership, options.beyond_budget) = (false, false, false);
        })
        .run()
}

#[test]
fn answers_that_differ_are_seen_at_the_first_of_them() {
    let report = run::<'a'>();
    assert!(report.violation.unwrap().starts_with("equal answers: node"));
    assert!(report.asked < 50, "{} operations", report.asked);
}

#[test]
fn states_that_differ_are_seen_without_a_snapshot() {
    let report = run::<'s'>();
    assert!(report.violation.unwrap().starts_with("equal state: node"));
    assert!(report.asked < 100, "{} operations", report.asked);
}

#[test]
fn what_is_the_same_everywhere_is_found_equal() {
    let report = run::<'-'>();
    assert_eq!(report.violation, None);
    let of = |name: &str| report.counters.of(name);
    assert!(of("answers found equal") >= 2 * 300, "two others answer what the first did");
    assert!(of("states found equal") > 20, "{}", of("states found equal"));
}
