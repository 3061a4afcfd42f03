//! Short runs that name a planted bug: each fails with it, by the check that it names, and holds without it.
//!
//! A run is another one as soon as chance is drawn in another order. One that shows nothing any more is looked for anew,
//! of the same bug, and written in the old one's place, with `QUORATE_REWRITE=1`. Part of
//! `cargo xtask mutants --ci`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};

use quorate_core::plant;
use quorate_sim::mutants::plant_named;
use quorate_sim::{Options, Schedule, check_of, run_options, run_within, shrink};

/// Seeds that are looked at for a new run.
const SEEDS: u64 = 2000;

/// So many seeds that fail are made short; the shortest is kept.
const CANDIDATES: usize = 5;

/// Runs that one of them may take.
const TRIES: u64 = 400;

/// A run that is longer says little.
const SHORT: u64 = 2000;

#[test]
fn runs_that_name_a_planted_bug_fail_with_it() {
    // What a run panics of is in its report.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|at| at.file().ends_with("tests/planted.rs")) {
            print(panic);
        }
    }));
    let rewrites = std::env::var_os("QUORATE_REWRITE").is_some();
    let mut played = 0;
    for path in runs() {
        let name = path.display();
        let schedule: Schedule = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let Some(bug) = &schedule.mutant else { continue };
        let check = schedule.shows.as_deref().unwrap_or_else(|| panic!("{name} does not say which check fails"));
        plant_named(bug).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let failed = run_options(schedule.options.clone(), false).0;
        let shows = failed.violation.as_deref().map(check_of) == Some(check);
        if !shows && rewrites {
            std::fs::write(&path, anew(bug).to_string()).unwrap();
            continue;
        }
        assert!(shows, "{name} shows no {check} with {bug}, but {:?}", failed.violation);
        assert!(failed.events <= SHORT, "{name} is not short: {} events", failed.events);
        plant(None);
        assert_eq!(run_options(schedule.options, false).0.violation, None, "{name} fails without {bug}");
        played += 1;
    }
    assert!(played > 0 || rewrites, "there is at least one");
}

fn runs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/regression");
    let paths =
        std::fs::read_dir(folder).expect("the folder of regressions is there").map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sim")).collect()
}

/// The shortest run of the first few seeds that fail with the bug, which is planted.
fn anew(bug: &str) -> Schedule {
    let failing = (1..SEEDS).filter(|seed| run_options(Options::of_seed(*seed), false).0.violation.is_some());
    let shrunk =
        failing.take(CANDIDATES).filter_map(|seed| Some((seed, shrink(Options::of_seed(seed), TRIES, run_within)?)));
    let (seed, short) = shrunk.min_by_key(|(_, shrunk)| shrunk.after.events).expect("a seed fails");
    let (before, after) = (short.before.events, short.after.events);
    Schedule {
        notes: vec![format!("From seed {seed}: {before} events before it was made short, {after} then.")],
        mutant: Some(bug.to_owned()),
        shows: short.after.violation.as_deref().map(|violation| check_of(violation).to_owned()),
        options: short.after.options,
    }
}
