//! A planted bug's failing run is made short: `cargo xtask mutants --sim --test`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::{Bug, plant};
use quorate_sim::{Options, Schedule, check_of, run_options, shrink};

/// Found in the first seeds.
const BUG: Bug = Bug::NoTruncateOnConflict;

/// A run that fails after fewer events is short already.
const LONG: u64 = 4000;

#[test]
fn a_planted_bugs_run_shrinks_to_a_quarter_of_its_events() {
    plant(Some(BUG));
    let run = |options: &Options| run_options(options.clone(), false).0;
    let long = |seed: &u64| {
        let report = run(&Options::of_seed(*seed));
        report.violation.is_some() && report.events >= LONG
    };
    let seed = (1..500).find(long).expect("some seed fails late");
    let violation = run(&Options::of_seed(seed)).violation.expect("it fails");
    let shrunk = shrink(Options::of_seed(seed), 600, run).expect("it fails");
    let (before, after) = (&shrunk.before, &shrunk.after);
    assert!(after.events * 4 <= before.events, "{} events, and {} before", after.events, before.events);
    let short = Schedule {
        notes: vec!["A test.".to_owned()],
        mutant: Some(BUG.name().to_owned()),
        shows: Some(check_of(&violation).to_owned()),
        options: after.options.clone(),
    };
    let read: Schedule = short.to_string().parse().expect("what was written is read");
    assert_eq!(read, short);
    let failed = run(&read.options);
    assert_eq!(failed.violation, after.violation);
    assert_eq!(check_of(&failed.violation.unwrap()), check_of(&violation));
    plant(None);
    assert_eq!(run(&read.options).violation, None, "without the bug");
    eprintln!("{} events, {} before, {} runs\n{short}", after.events, before.events, shrunk.runs);
}
