//! Failing runs of planted bugs become golden scripts: `cargo xtask mutants --ci`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::{Bug, plant};
use quorate_sim::{Golden, Options, golden, run_options, run_within, shrink};
use quorate_testkit::script::{play, violated};

/// Mistakes of elections, commits, logs, disks and leases. What their first failing seed does can nearly always be told.
const BUGS: [Bug; 8] = [
    Bug::CommitsOlderTerm,
    Bug::NoTruncateOnConflict,
    Bug::CommitGoesBack,
    Bug::StaleLeaderAccepted,
    Bug::TruncatesOnAnyAppend,
    Bug::GrantBeforePersist,
    Bug::NoRefusalInsideLease,
    Bug::RestartCommitsItsLog,
];

/// So many of them must be told.
const TOLD: usize = 6;

/// A script with more commands says little.
const SHORT: usize = 60;

#[test]
fn failing_runs_become_short_scripts_that_violate_something_only_with_the_bug() {
    quiet();
    let mut told = 0;
    for bug in BUGS {
        plant(Some(bug));
        let fails = |seed: &u64| run_options(Options::of_seed(*seed), false).0.violation.is_some();
        let seed = (1..200).find(fails).expect("some seed fails");
        let short = shrink(Options::of_seed(seed), 100, run_within).expect("it fails").after.options;
        let Golden { commands, violates, before } = golden(short, 2000);
        println!("{}: seed {seed}, {} of {before} commands: {violates:?}", bug.name(), commands.len());
        if violates.is_none() {
            assert_eq!(violated(&commands), None, "{}: all of them hold", bug.name());
            continue;
        }
        assert_eq!(
            violated(&commands).map(|found| (found.commands, found.what)),
            Some((commands.clone(), violates.unwrap()))
        );
        let with_bug = play("told", &script(&commands));
        assert_eq!(with_bug.failures.len(), 1, "{}: {:?}", bug.name(), with_bug.failures);
        plant(None);
        assert_eq!(violated(&commands), None, "{}: without the bug", bug.name());
        told += usize::from(commands.len() <= SHORT);
    }
    assert!(told >= TOLD, "{told} of {} became short scripts", BUGS.len());
}

/// As a person makes it whole.
fn script(commands: &[String]) -> String {
    let claimed = "# Claim: nothing is violated by what follows.\n";
    format!("{claimed}{}\nexpect never note 1 what no node ever says\n", commands.join("\n"))
}

/// Assertions that fail because of the bug are reported with their runs; only those of this file are printed.
fn quiet() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|at| at.file().ends_with("tests/golden.rs")) {
            print(panic);
        }
    }));
}
