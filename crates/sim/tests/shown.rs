//! What shows the bugs that random runs may miss. In a program of its own: a planted bug is one for the whole process.

use std::path::Path;

use quorate_core::Bug;
use quorate_sim::mutants::shown::{By, LACKS, shows};

#[test]
fn a_bug_has_one_place_and_what_shows_it_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tests = std::fs::read_to_string(root.join("xtask/src/mutants.rs")).unwrap();
    let mut seen = Vec::new();
    for (bug, by) in LACKS.iter().flat_map(|lack| lack.bugs) {
        assert!(!seen.contains(bug), "{bug:?} has two places");
        seen.push(*bug);
        match by {
            By::Script(name) => assert!(root.join("testdata").join(name).with_extension("txt").is_file(), "{name}"),
            By::Test(file) => {
                assert!(root.join(file).is_file(), "{file}");
                assert!(tests.contains(&format!("(\"{}\",", bug.name())), "{bug:?} is no test of `--tests`");
            }
            By::Crashes => assert!(bug.name().starts_with("Disk"), "{bug:?} is none of the disk"),
        }
    }
}

/// Every script that stands for a bug shows it, and one that knows nothing of it does not.
#[test]
fn scripts_show_the_bugs_that_they_stand_for() {
    for (bug, by) in LACKS.iter().flat_map(|lack| lack.bugs) {
        assert_eq!(shows(*by, *bug), Ok(true), "{by} and {bug:?}");
    }
    assert_eq!(shows(By::Script("commit/single-voter"), Bug::LeaseFromReceipt), Ok(false));
    assert!(shows(By::Script("commit/none"), Bug::LeaseFromReceipt).unwrap_err().contains("commit/none"));
}
