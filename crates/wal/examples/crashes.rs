//! Crashes and failing disks in bulk: `cargo run --profile ci -p quorate-wal --example crashes`.
//!
//! Every prefix, subsets of unsynced sectors and reordered changes of directories of scripts over log, votes, identity
//! and snapshots, also while the log is recovered and mended; and an error, no space or a short write at every call.
//! Fails if anything acknowledged is lost, a log cannot be opened, or something comes back that never was.
//!
//! `-- mutants` (with the feature `mutants`) plants each bug of the disk in turn and looks for it with the same means.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use common::crashes::{sweep, sweep_recovery};
use common::faulty::{run, sweep_faults};
use common::mending::{
    Misses, sweep_giving_up, sweep_mending, sweep_mending_faults, sweep_noting, sweep_opening_faults,
};

/// Crash states that one run must see.
const LEAST_STATES: usize = 100_000;

/// What the panic that is being handled said.
static SAID: Mutex<String> = Mutex::new(String::new());

/// What was found in one sweep.
struct Outcome {
    name: &'static str,
    states: usize,
    finding: Option<String>,
}

fn sweep_of(name: &'static str, work: impl FnOnce() -> usize) -> Outcome {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(states) => Outcome { name, states, finding: None },
        Err(_) => {
            let said = std::mem::take(&mut *SAID.lock().unwrap());
            Outcome { name, states: 0, finding: Some(said) }
        }
    }
}

fn crash_sweeps(small: u64, recoveries: u64) -> Vec<Outcome> {
    let seeds = 0..small;
    let mut outcomes: Vec<Outcome> =
        seeds.map(|seed| sweep_of("small segments", || sweep(seed..seed + 1, 50, 24 << 10))).collect();
    outcomes.extend(
        (0..small / 5 + 1)
            .map(|seed| sweep_of("large segments", || sweep(10_000 + seed..10_001 + seed, 50, 256 << 10))),
    );
    outcomes.extend(
        (0..recoveries).map(|seed| sweep_of("while recovering", || sweep_recovery(200 + seed..201 + seed, 17))),
    );
    outcomes.extend((0..recoveries).map(|seed| sweep_of("while mending", || sweep_mending(20 + seed..21 + seed, 4))));
    outcomes.extend((0..recoveries).map(|seed| {
        sweep_of("while damage is noted", || {
            sweep_noting(60 + seed..61 + seed, 1 + seed % 3, Misses::Lost)
                + sweep_noting(80 + seed..81 + seed, 1 + seed % 3, Misses::Elsewhere)
        })
    }));
    outcomes.extend(
        (0..recoveries).map(|seed| sweep_of("while a log is given up", || sweep_giving_up(40 + seed..41 + seed))),
    );
    outcomes
}

fn fault_sweeps(writes: usize) -> Vec<Outcome> {
    vec![
        sweep_of("faults", || sweep_faults(5, writes, 1).0),
        sweep_of("faults while opening", || sweep_opening_faults(5)),
        sweep_of("faults while mending", || sweep_mending_faults(20, 1)),
    ]
}

/// Prints one line a kind of sweep and what was found; fails if anything was.
fn report(what: &str, outcomes: &[Outcome]) -> bool {
    let mut names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name).collect();
    names.dedup();
    for name in names {
        let states: usize = outcomes.iter().filter(|outcome| outcome.name == name).map(|outcome| outcome.states).sum();
        println!("{states:>8}  {name}");
    }
    let findings: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.finding.as_ref()).collect();
    let count = |kind: &str| findings.iter().filter(|finding| finding.contains(kind)).count();
    let (lost, unopenable, resurrected) = (count(" lost:"), count(" unopenable:"), count(" resurrected:"));
    let other = findings.len() - lost - unopenable - resurrected;
    let states: usize = outcomes.iter().map(|outcome| outcome.states).sum();
    println!("{what}: {states}; lost {lost}, unopenable {unopenable}, resurrected {resurrected}, other {other}");
    findings.iter().for_each(|finding| println!("    {finding}"));
    findings.is_empty()
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| *SAID.lock().unwrap() = panic.to_string().replace('\n', " ")));
    if std::env::args().nth(1).as_deref() == Some("mutants") {
        return mutants();
    }
    let crashes = crash_sweeps(60, 6);
    let enough = crashes.iter().map(|outcome| outcome.states).sum::<usize>() >= LEAST_STATES;
    let sound = report("crash states", &crashes);
    let (calls, _) = run(5, 300, |_| {}, "no fault");
    println!("a script of 300 writes makes {calls} calls");
    let survived = report("faults injected", &fault_sweeps(300));
    if !enough {
        println!("fewer than {LEAST_STATES} crash states were seen");
    }
    if enough && sound && survived { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "mutants"))]
fn mutants() -> ExitCode {
    println!("planted bugs need the feature `mutants`");
    ExitCode::FAILURE
}

/// Plants each bug of the disk in turn; fails if one is not noticed.
#[cfg(feature = "mutants")]
fn mutants() -> ExitCode {
    use quorate_core::{Bug, plant};
    let mut missed = 0;
    for bug in Bug::ALL.iter().filter(|bug| bug.name().starts_with("Disk")) {
        plant(Some(*bug));
        let sweeps: [fn() -> Outcome; 9] = [
            || sweep_of("while damage is noted", || sweep_noting(60..61, 1, Misses::Lost)),
            || sweep_of("while a log is given up", || sweep_giving_up(40..42)),
            || sweep_of("a damaged copy of a vote", common::mending::damaged_votes),
            || sweep_of("faults while opening", || sweep_opening_faults(5)),
            || sweep_of("while mending", || sweep_mending(20..21, 4)),
            || sweep_of("small segments", || sweep(0..2, 50, 24 << 10)),
            || sweep_of("small segments", || sweep(25..28, 50, 24 << 10)),
            || sweep_of("faults", || sweep_faults(1, 60, 1).0),
            || sweep_of("damage", common::mending::damage_is_refused),
        ];
        let found = sweeps.iter().find_map(|sweep| {
            let outcome = sweep();
            outcome.finding.map(|finding| (outcome.name, finding))
        });
        plant(None);
        match found {
            Some((name, finding)) => println!("{:<28} {name}: {finding:.140}", bug.name()),
            None => {
                println!("{:<28} NOT NOTICED", bug.name());
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
