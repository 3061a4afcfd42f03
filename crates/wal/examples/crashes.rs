//! Crashes and failing disks in bulk: `cargo run --profile ci -p quorate-wal --example crashes`.
//!
//! Every prefix, subsets of unsynced sectors and reordered changes of directories of scripts over log, votes, identity
//! and snapshots, also while the log is recovered and mended; and an error, no space or a short write at every call.
//! Fails if anything acknowledged is lost, a log cannot be opened, or something comes back that never was; and if there
//! were fewer than 100,000 different disks.
//!
//! `-- mutants` (with the feature `mutants`) plants each bug of the disk in turn and looks for it with the same means.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::available_parallelism;

use common::crashes::{States, sweep, sweep_recovery};
use common::faulty::{run, sweep_faults};
use common::mending::{
    Misses, sweep_giving_up, sweep_mending, sweep_mending_faults, sweep_noting, sweep_opening_faults,
};
use common::records::{sweep_missed_and_damaged_records, sweep_missed_records};
use common::votes::{sweep_missed_and_damaged_votes, sweep_missed_votes};

/// Different disks that crashes must leave in one run.
const LEAST_DISTINCT: usize = 100_000;

thread_local! {
    /// What the panic that this thread handles said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What was found in one sweep.
struct Outcome {
    name: &'static str,
    states: States,
    finding: Option<String>,
}

/// A sweep that is to be made.
type Sweep = (&'static str, Box<dyn FnOnce() -> States + Send>);

fn sweep_of(name: &'static str, work: impl FnOnce() -> States) -> Outcome {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(states) => Outcome { name, states, finding: None },
        Err(_) => Outcome { name, states: States::default(), finding: Some(SAID.take()) },
    }
}

/// Makes all sweeps, as many at once as there are processors.
fn all(sweeps: Vec<Sweep>) -> Vec<Outcome> {
    let (left, done) = (Mutex::new(sweeps.into_iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some((at, (name, work))) = next else { return };
                    let outcome = sweep_of(name, work);
                    done.lock().unwrap().push((at, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn faults(count: usize) -> States {
    States { checked: count, ..States::default() }
}

fn crash_sweeps(small: u64, recoveries: u64) -> Vec<Sweep> {
    let mut sweeps: Vec<Sweep> = Vec::new();
    let mut add = |name, work: Box<dyn FnOnce() -> States + Send>| sweeps.push((name, work));
    for seed in 0..small {
        add("small segments", Box::new(move || sweep(seed..seed + 1, 50, 24 << 10)));
    }
    for seed in 10_000..10_001 + small / 5 {
        add("large segments", Box::new(move || sweep(seed..seed + 1, 50, 256 << 10)));
    }
    for seed in 200..200 + recoveries {
        add("while recovering", Box::new(move || sweep_recovery(seed..seed + 1, 17)));
    }
    for seed in 20..20 + recoveries {
        add("while mending", Box::new(move || sweep_mending(seed..seed + 1, 4)));
    }
    for seed in 0..recoveries {
        add("while damage is noted", Box::new(move || sweep_noting(60 + seed..61 + seed, 1 + seed % 3, Misses::Lost)));
        let elsewhere = move || sweep_noting(80 + seed..81 + seed, 1 + seed % 3, Misses::Elsewhere);
        add("while damage is noted", Box::new(elsewhere));
    }
    for seed in 40..40 + recoveries {
        add("while a log is given up", Box::new(move || sweep_giving_up(seed..seed + 1)));
    }
    for groups in 1..=3 {
        add("after a missed write of a vote", Box::new(move || sweep_missed_votes(groups, 1)));
    }
    add("after a missed write of a record", Box::new(|| sweep_missed_records(29)));
    sweeps
}

fn fault_sweeps(writes: usize) -> Vec<Sweep> {
    vec![
        ("faults", Box::new(move || faults(sweep_faults(5, writes, 1).0))),
        ("faults while opening", Box::new(|| faults(sweep_opening_faults(5)))),
        ("faults while mending", Box::new(|| faults(sweep_mending_faults(20, 1)))),
        ("damage beside a missed write of a record", Box::new(|| faults(sweep_missed_and_damaged_records(7)))),
        ("damage beside a missed write of a vote", Box::new(|| faults(sweep_missed_and_damaged_votes(2)))),
    ]
}

/// Prints one line a kind of sweep and what was found; returns all that was seen, and whether nothing was wrong.
fn report(what: &str, outcomes: Vec<Outcome>) -> (States, bool) {
    let mut names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name).collect();
    names.dedup();
    let (mut seen, mut findings) = (States::default(), Vec::new());
    let mut outcomes = outcomes.into_iter().peekable();
    for name in names {
        let mut states = States::default();
        while let Some(outcome) = outcomes.next_if(|outcome| outcome.name == name) {
            states = states + outcome.states;
            findings.extend(outcome.finding);
        }
        println!("{:>8}  {name}", states.checked);
        seen = seen + states;
    }
    let count = |kind: &str| findings.iter().filter(|finding| finding.contains(kind)).count();
    let (lost, unopenable, resurrected) = (count(" lost:"), count(" unopenable:"), count(" resurrected:"));
    let other = findings.len() - lost - unopenable - resurrected;
    let checked = seen.checked;
    println!("{what}: {checked}; lost {lost}, unopenable {unopenable}, resurrected {resurrected}, other {other}");
    findings.iter().for_each(|finding| println!("    {finding}"));
    (seen, findings.is_empty())
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| SAID.set(panic.to_string().replace('\n', " "))));
    if std::env::args().nth(1).as_deref() == Some("mutants") {
        return mutants();
    }
    let (crashes, sound) = report("crash states", all(crash_sweeps(270, 6)));
    let (distinct, most) = (crashes.distinct.len(), crashes.most_unsynced);
    println!(
        "distinct crash states: {distinct}; a crash could undo up to {most} operations, every prefix of them kept"
    );
    let (calls, _) = run(5, 300, |_| {}, "no fault");
    println!("a script of 300 writes makes {calls} calls");
    let (_, survived) = report("faults injected", all(fault_sweeps(300)));
    let enough = distinct >= LEAST_DISTINCT;
    if !enough {
        println!("fewer than {LEAST_DISTINCT} distinct crash states were seen");
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
        let sweeps: [fn() -> Outcome; 10] = [
            || sweep_of("while damage is noted", || sweep_noting(60..61, 1, Misses::Lost)),
            || sweep_of("while a log is given up", || sweep_giving_up(40..42)),
            || sweep_of("a damaged copy of a vote", || faults(common::mending::damaged_votes())),
            || sweep_of("after a missed write of a vote", || sweep_missed_votes(2, 7)),
            || sweep_of("faults while opening", || faults(sweep_opening_faults(5))),
            || sweep_of("while mending", || sweep_mending(20..21, 4)),
            || sweep_of("small segments", || sweep(0..2, 50, 24 << 10)),
            || sweep_of("small segments", || sweep(25..28, 50, 24 << 10)),
            || sweep_of("faults", || faults(sweep_faults(1, 60, 1).0)),
            || sweep_of("damage", || faults(common::mending::damage_is_refused())),
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
