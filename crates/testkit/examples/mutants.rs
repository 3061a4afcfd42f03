//! Plants every bug in turn and counts the golden scripts that turn red: `cargo xtask mutants [NAME ..]`.
//!
//! Each bug runs in a process of its own, so that one that panics or never ends spoils nothing.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_core::{Bug, plant};
use quorate_testkit::script::{files, play};

/// Bugs that no script can show, and what shows them instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("SnapshotWithoutSessions", SESSIONS),
    ("AnswersForgottenAtKeepAlive", SESSIONS),
    ("ExpiredSessionReopened", SESSIONS),
    ("ExpiryByLocalClock", SESSIONS),
    ("DuplicateAppliedAfterRestart", SESSIONS),
    ("LowMarkIgnored", SESSIONS),
    ("GapAccepted", "QUORATE_BUG=<name> cargo test -p quorate --features mutants --test published"),
    ("EarlyCompletionIsDropped", "QUORATE_BUG=<name> cargo test -p quorate --features mutants --test laws"),
    ("ResumedTransferMixesSnapshots", "the tests of snapshot transfer in quorate-net"),
    ("DiskAcknowledgesBeforeSync", DISK),
    ("DiskIgnoresSyncError", DISK),
    ("DiskAcceptsTornTail", DISK),
    ("DiskCutsAtDamage", DISK),
    ("DiskVotesInOneCopy", DISK),
    ("DiskMarksBeforeData", DISK),
    ("DiskReadErrorEndsLog", DISK),
    ("DiskForgetsPromisedEnd", DISK),
    ("DiskFreesTooEarly", DISK),
    ("DiskSegmentNameUnsynced", DISK),
    ("DiskSnapshotUnsynced", DISK),
];

/// The core knows nothing of files.
const DISK: &str = "cargo run --profile ci -p quorate-wal --features mutants --example crashes -- mutants";

/// The core knows nothing of sessions.
const SESSIONS: &str = "QUORATE_BUG=<name> cargo test -p quorate --features mutants --test sessions";

/// A script that takes longer than this will never end: they take milliseconds.
const LONGEST_SCRIPT: Duration = Duration::from_secs(10);

/// A bug that was noticed is not played longer than this: some make every script go round in circles.
const LONGEST_BUG: Duration = Duration::from_secs(10);

/// Set in the processes that play the scripts.
const WORKER: &str = "QUORATE_MUTANTS_WORKER";

/// How a script turned red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Red {
    /// Something that must be true was not: an expectation, an invariant, an assertion.
    Claim,
    /// Only the recorded output is another.
    Output,
}

type Table = BTreeMap<String, Vec<(String, Red)>>;

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(WORKER) {
        return work(&name);
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !Bug::ALL.iter().any(|bug| bug.name() == **name)) {
        eprintln!("no such bug: {unknown}");
        return ExitCode::FAILURE;
    }
    let bugs = Bug::ALL.iter().filter(|bug| wanted.is_empty() || wanted.iter().any(|name| name == bug.name()));
    let mut names = vec!["none"];
    names.extend(bugs.map(|bug| bug.name()));
    match run_all(&names) {
        Ok(table) => print(&table, &names, !wanted.is_empty()),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Plays every script with one bug planted and prints a line for each that turns red.
fn work(name: &str) -> ExitCode {
    plant(Bug::ALL.iter().copied().find(|bug| bug.name() == name));
    std::panic::set_hook(Box::new(|_| {}));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let Ok(paths) = files(&root) else { return ExitCode::FAILURE };
    let (sender, receiver) = std::sync::mpsc::channel();
    let player = std::thread::spawn(move || {
        for path in paths {
            let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").display().to_string();
            let _ = sender.send((name.clone(), None));
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let red = match catch_unwind(|| play(&name, &text)) {
                Err(_) => Some(Red::Claim),
                Ok(report) if !report.failures.is_empty() => Some(Red::Claim),
                Ok(report) if !report.changes.is_empty() => Some(Red::Output),
                Ok(_) => None,
            };
            let _ = sender.send((name, Some(red)));
        }
    });
    let mut playing = String::new();
    let (began, mut noticed) = (std::time::Instant::now(), false);
    while !noticed || began.elapsed() < LONGEST_BUG {
        match receiver.recv_timeout(LONGEST_SCRIPT) {
            Ok((name, None)) => playing = name,
            Ok((name, Some(Some(red)))) => {
                noticed = true;
                println!("{red:?} {name}");
            }
            Ok((_, Some(None))) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                println!("Claim {playing}");
                println!("stopped: it never ended");
                return ExitCode::SUCCESS;
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => match player.join() {
                Ok(()) => return ExitCode::SUCCESS,
                Err(_) => return ExitCode::FAILURE,
            },
        }
    }
    ExitCode::SUCCESS
}

/// Runs one process a bug, as many at a time as the machine has cores.
fn run_all(names: &[&'static str]) -> Result<Table, String> {
    let me = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = Command::new(&me).env(WORKER, name).stdin(Stdio::null()).output();
                    if let Ok(mut results) = results.lock() {
                        results.push((*name, output));
                    }
                }
            });
        }
    });
    let mut table = Table::new();
    for (name, output) in results.into_inner().map_err(|_| "a worker panicked".to_owned())? {
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{name}: the process failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let reds = lines.filter_map(|(kind, script)| match kind {
            "Claim" => Some((script.to_owned(), Red::Claim)),
            "Output" => Some((script.to_owned(), Red::Output)),
            _ => None,
        });
        table.insert(name.to_owned(), reds.collect());
    }
    Ok(table)
}

/// Prints the table; fails if a bug is not noticed, or the scripts are red without one.
fn print(table: &Table, names: &[&'static str], in_full: bool) -> ExitCode {
    if let Some((script, _)) = table.get("none").and_then(|reds| reds.first()) {
        eprintln!("{script} fails without a planted bug: mend that first");
        return ExitCode::FAILURE;
    }
    println!(
        "{:<34} {:>4} {:>7}  first script (claim: not only the recorded output is another)",
        "bug", "red", "claim"
    );
    let mut missed = Vec::new();
    for name in names.iter().filter(|name| **name != "none") {
        let Some(reds) = table.get(*name) else { continue };
        let claims = reds.iter().filter(|(_, red)| *red == Red::Claim).count();
        let first = reds.iter().find(|(_, red)| *red == Red::Claim).or(reds.first());
        let elsewhere = ELSEWHERE.iter().find(|(bug, _)| bug == name);
        let told = match (first, elsewhere) {
            (Some((script, _)), _) => script.clone(),
            (None, Some((_, by))) => format!("(no script: {by})"),
            (None, None) => {
                missed.push(*name);
                "NOT NOTICED".to_owned()
            }
        };
        println!("{name:<34} {:>4} {claims:>7}  {told}", reds.len());
        if in_full {
            reds.iter().for_each(|(script, red)| println!("    {red:?} {script}"));
        }
    }
    if !in_full {
        print_idle(table);
    }
    match missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            println!("\n{} bugs that nothing notices: {}", missed.len(), missed.join(", "));
            ExitCode::FAILURE
        }
    }
}

/// Scripts that no bug turns red: to be strengthened, or given a bug.
fn print_idle(table: &Table) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let all = files(&root).unwrap_or_default();
    let name = |path: &Path| path.strip_prefix(&root).unwrap_or(path).with_extension("").display().to_string();
    let is_red = |name: &String| table.values().flatten().any(|(script, _)| script == name);
    let idle: Vec<String> = all.iter().map(|path| name(path)).filter(|name| !is_red(name)).collect();
    println!("\n{} bugs, {} scripts, {} of them turned red by no bug:", table.len() - 1, all.len(), idle.len());
    idle.iter().for_each(|script| println!("    {script}"));
}
