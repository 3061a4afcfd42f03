//! Runs made short: every one holds, and names a planted bug with which it fails (`planted.rs`). One that only has to hold
//! would show nothing once chance is drawn in another order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::path::Path;

use quorate_sim::{Schedule, run_options};

#[test]
fn what_failed_once_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/regression");
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of regressions is there") {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sim") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let schedule: Schedule = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(schedule.mutant.is_some(), "{} names no planted bug: write a script or a test of it", path.display());
        assert!(!schedule.notes.is_empty(), "{} does not say what it shows", path.display());
        let (report, _) = run_options(schedule.options, false);
        assert_eq!(report.violation, None, "{}", path.display());
        assert!(report.events > 100, "{} does nothing", path.display());
        played += 1;
    }
    assert!(played > 0, "there is at least one");
}
