//! Failing runs of planted bugs become golden scripts: `cargo xtask mutants --ci`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::sync::Mutex;

use quorate_core::{Bug, plant};
use quorate_sim::{Golden, Options, golden, run_options, run_within, shrink};
use quorate_testkit::script::{Violated, play, violated};

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

/// A planted bug is one for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn failing_runs_become_short_scripts_that_violate_something_only_with_the_bug() {
    let _alone = ONE_AT_A_TIME.lock();
    quiet();
    let mut told = 0;
    for bug in BUGS {
        plant(Some(bug));
        let fails = |seed: &u64| run_options(Options::of_seed(*seed), false).0.violation.is_some();
        let seed = (1..200).find(fails).expect("some seed fails");
        let short = shrink(Options::of_seed(seed), 100, run_within).expect("it fails").after.options;
        let Golden { commands, violates, before, .. } = golden(short, 2000);
        println!("{}: seed {seed}, {} of {before} commands: {violates:?}", bug.name(), commands.len());
        let Some(what) = violates else { continue };
        assert_eq!(violated(&commands), Some(Violated { commands: commands.clone(), what }));
        let with_bug = play("told", &script(&commands));
        assert_eq!(with_bug.failures.len(), 1, "{}: {:?}", bug.name(), with_bug.failures);
        plant(None);
        assert_eq!(violated(&commands), None, "{}: without the bug", bug.name());
        told += usize::from(commands.len() <= SHORT);
    }
    assert!(told >= TOLD, "{told} of {} became short scripts", BUGS.len());
}

/// Runs that hold, so many of which must be told to the last message.
const HOLD: u64 = 16;
const EXACT: usize = 8;

#[test]
fn runs_that_hold_are_told_as_scripts_that_hold_most_of_them_to_the_last_message() {
    let _alone = ONE_AT_A_TIME.lock();
    plant(None);
    let mut exact = 0;
    for seed in 1..=HOLD {
        let mut options = Options::of_seed(seed);
        // Entries of a script have other sizes, and tunables may be changed to limits of so many bytes.
        (options.config.max_append_bytes, options.config.max_inflight_bytes) = (1 << 20, 8 << 20);
        (options.config.snapshot_bytes, options.config.max_kept_bytes) = (0, 256 << 20);
        options.triggers = false;
        let Golden { violates, failed, before, undone, .. } = golden(options, 0);
        println!("seed {seed}: {before} commands, {} undone, the first {:?}", undone.len(), undone.first());
        assert_eq!((violates, failed), (None, None), "seed {seed}");
        exact += usize::from(undone.is_empty());
    }
    assert!(exact >= EXACT, "{exact} of {HOLD}");
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
