//! A planted bug's failing runs are made short: `cargo xtask mutants --ci`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::{Bug, plant};
use quorate_sim::{Options, Schedule, Shrunk, check_of, run_options, run_within, shrink};

/// Found in most seeds.
const BUG: Bug = Bug::NoTruncateOnConflict;

/// A run that fails after fewer events is short already.
const LONG: u64 = 4000;

/// Long runs that are made short, and how many of them must end with a quarter of their events. Not all: what a run
/// needs to fail may be all that is in it.
const RUNS: usize = 5;
const SHORT: usize = 4;

#[test]
fn most_runs_of_a_planted_bug_shrink_to_a_quarter_of_their_events() {
    quiet();
    plant(Some(BUG));
    let is_long = |seed: &u64| {
        let (report, _) = run_options(Options::of_seed(*seed), false);
        report.violation.is_some() && report.events >= LONG
    };
    let long: Vec<u64> = (1..500).filter(is_long).take(RUNS).collect();
    assert_eq!(long.len(), RUNS, "too few seeds fail late: {long:?}");
    let shrunk: Vec<Shrunk> =
        long.iter().map(|seed| shrink(Options::of_seed(*seed), 400, run_within).expect("it fails")).collect();
    for (seed, Shrunk { before, after, runs }) in long.iter().zip(&shrunk) {
        println!("seed {seed}: {} events, {} before, {runs} runs", after.events, before.events);
        assert_eq!(check_of(after.violation.as_ref().unwrap()), check_of(before.violation.as_ref().unwrap()));
    }
    let short = shrunk.iter().filter(|shrunk| shrunk.after.events * 4 <= shrunk.before.events).count();
    assert!(short >= SHORT, "{short} of {RUNS} runs became short");
    let files: Vec<Schedule> = shrunk.iter().map(written_and_read).collect();
    plant(None);
    for file in files {
        assert_eq!(run_options(file.options, false).0.violation, None, "without the bug");
    }
}

/// What is written of a short run is read again as the same, and fails as it did.
fn written_and_read(shrunk: &Shrunk) -> Schedule {
    let violation = shrunk.after.violation.as_ref().unwrap();
    let short = Schedule {
        notes: vec!["A test.".to_owned()],
        mutant: Some(BUG.name().to_owned()),
        shows: Some(check_of(violation).to_owned()),
        options: shrunk.after.options.clone(),
    };
    let read: Schedule = short.to_string().parse().expect("what was written is read");
    assert_eq!(read, short);
    let (failed, _) = run_options(read.options.clone(), false);
    assert_eq!(failed.violation.as_ref(), Some(violation));
    read
}

/// Assertions that fail because of the bug are reported with their runs; only those of this file are printed.
fn quiet() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|at| at.file().ends_with("tests/shrink.rs")) {
            print(panic);
        }
    }));
}
