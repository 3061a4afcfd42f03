//! `mutants`: the golden scripts, or random runs, against every planted bug, built apart from everything else.

use std::process::Command;

use crate::cargo::{root, succeed};
use crate::verification::commit;

/// Bugs that neither scripts nor crashing disks nor random runs need show, and the test that turns red with each.
const TESTS: &[(&str, &str, &[&str])] = &[
    ("SnapshotWithoutSessions", "quorate", SESSIONS),
    ("AnswersForgottenAtKeepAlive", "quorate", SESSIONS),
    ("ExpiredSessionReopened", "quorate", SESSIONS),
    ("ExpiryByLocalClock", "quorate", SESSIONS),
    ("DuplicateAppliedAfterRestart", "quorate", SESSIONS),
    ("LowMarkIgnored", "quorate", SESSIONS),
    ("RestoreMergesSessions", "quorate", SESSIONS),
    ("EarlyCompletionIsDropped", "quorate", &["--lib", "writes"]),
    ("EarlyCompletionCoversEarlier", "quorate", &["--lib", "writes"]),
    ("CoveredWaiterBehindAnotherWaits", "quorate", &["--lib", "group::apply"]),
    ("DamagedSnapshotIsEmptyState", "quorate-sim", &["--test", "damage"]),
    ("SendsUnverifiedSnapshot", "quorate-sim", &["--test", "damage"]),
    ("ForwardedWriteTakenTwice", "quorate", &["--lib", "calls"]),
    ("GapAccepted", "quorate", &["--test", "published", "malformed"]),
    ("WriteConditionIgnored", "quorate", &["--test", "writes"]),
    ("ResumedTransferMixesSnapshots", "quorate-net", &["--test", "snapshots"]),
    ("StartsAreOnlyCounted", "quorate-wal", &["--lib", "identity"]),
    ("StartTokensForgotten", "quorate-wal", &["--lib", "identity"]),
];

/// Bugs that `--ci` plays the golden scripts with: no random run of a minute is sure to find them.
const SCRIPTS: [&str; 6] = [
    "IgnoresLastTerm",
    "OldStreamCounts",
    "NewSetAlone",
    "LeaseFromReceipt",
    "StaleTransferObeyed",
    "InstallKeepsConflictingTail",
];

const SESSIONS: &[&str] = &["--test", "sessions"];

/// Builds with planted bugs, in a target directory of its own so that no other build can pick them up, and runs: the
/// golden scripts; with `--sim` first, random runs, then what else shows the bug; with `--disk`, crashes and failing calls; with `--explore`, searches
/// through small scopes; with `--planted`, the short runs that name a bug; with `--told`, what was caught, told as golden
/// scripts; with `--ci`, random runs with a sample of the bugs, the tests that make such a run short and tell it, and those
/// that were made short.
pub(crate) fn run(mut args: Vec<String>) -> Result<(), String> {
    match args.first().map(String::as_str) {
        Some("--sim") => {
            args.remove(0);
            hunt(&args)
        }
        Some("--ci") => {
            cargo(
                &["test", "--test", "shrink", "--test", "golden", "--test", "planted", "--test", "shown"],
                "quorate-sim",
                &[],
            )?;
            example("quorate-testkit", "mutants", &SCRIPTS.map(str::to_owned))?;
            hunt(&["--ci".to_owned(), "--seeds".to_owned(), "2000".to_owned()])
        }
        Some("--tests") => tests(),
        Some("--planted") => cargo(&["test", "--test", "planted"], "quorate-sim", &[]),
        Some("--told") => {
            args[0] = "docs/mutants-hunt.tsv".to_owned();
            example("quorate-sim", "retell", &args)
        }
        Some("--disk") => example("quorate-wal", "crashes", &["mutants".to_owned()]),
        Some("--explore") => {
            args[0] = "mutants".to_owned();
            cargo(&["run", "--quiet"], "quorate-explore", &args)
        }
        _ => example("quorate-testkit", "mutants", &args),
    }
}

fn hunt(args: &[String]) -> Result<(), String> {
    let code = ["--code".to_owned(), commit(&root())?];
    example("quorate-sim", "hunt", &[args, &code].concat())
}

/// Runs each of [`TESTS`] with its bug, which must turn it red, after all of them without one.
fn tests() -> Result<(), String> {
    let mut green: Vec<(&str, &[&str])> = Vec::new();
    let mut missed = Vec::new();
    for (bug, package, args) in TESTS {
        if !green.contains(&(*package, *args)) {
            test(package, args, None)?.then_some(()).ok_or(format!("{package} {args:?} fails without a bug"))?;
            green.push((*package, *args));
        }
        let caught = !test(package, args, Some(bug))?;
        println!("{bug:<34} {package} {}{}", args.join(" "), if caught { "" } else { "  NOT NOTICED" });
        if !caught {
            missed.push(*bug);
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("no test notices {}", missed.join(", "))) }
}

/// Whether this test passes.
fn test(package: &str, args: &[&str], bug: Option<&str>) -> Result<bool, String> {
    let mut command = command(&["test", "--quiet"], package, "quorate-core/mutants");
    command.args(args).env_remove("QUORATE_BUG").stdout(std::process::Stdio::null());
    if let Some(bug) = bug {
        command.env("QUORATE_BUG", bug).stderr(std::process::Stdio::null());
    }
    command.status().map(|status| status.success()).map_err(|error| format!("cannot run cargo: {error}"))
}

fn example(package: &str, name: &str, args: &[String]) -> Result<(), String> {
    cargo(&["run", "--quiet", "--example", name], package, args)
}

fn cargo(what: &[&str], package: &str, args: &[String]) -> Result<(), String> {
    let mut command = command(what, package, "mutants");
    succeed(command.arg("--").args(args), || format!("{package} does not notice every planted bug"))
}

/// Cargo on a package with the feature, in the target directory for planted bugs.
fn command(what: &[&str], package: &str, feature: &str) -> Command {
    let mut command = crate::cargo::cargo();
    command
        .args(what)
        .args(["--profile", "ci", "--package", package, "--features", feature])
        // The scripts need the core alone, and a build with planted bugs is one of its own.
        .args((package == "quorate-testkit").then_some("--no-default-features"))
        .arg("--target-dir")
        .arg(root().join("target/mutants"))
        .current_dir(root());
    command
}
