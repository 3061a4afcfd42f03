//! Plants every bug in turn and counts the golden scripts that turn red: `cargo xtask mutants [NAME ..]`. With `--page`
//! the table goes to docs/mutants.md, beside what random runs found (docs/mutants-hunt.tsv).
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
    ("SnapshotWithoutSessions", TESTS),
    ("AnswersForgottenAtKeepAlive", TESTS),
    ("ExpiredSessionReopened", TESTS),
    ("ExpiryByLocalClock", TESTS),
    ("DuplicateAppliedAfterRestart", TESTS),
    ("LowMarkIgnored", TESTS),
    ("RestoreMergesSessions", TESTS),
    ("EarlyCompletionIsDropped", TESTS),
    ("EarlyCompletionCoversEarlier", TESTS),
    ("CoveredWaiterBehindAnotherWaits", TESTS),
    ("ForwardedWriteTakenTwice", TESTS),
    ("GapAccepted", TESTS),
    ("WriteConditionIgnored", TESTS),
    ("DamagedSnapshotIsEmptyState", TESTS),
    ("SendsUnverifiedSnapshot", TESTS),
    ("ResumedTransferMixesSnapshots", TESTS),
    ("StartsAreOnlyCounted", TESTS),
    ("StartTokensForgotten", TESTS),
    ("AppliedBeforeItsData", SIM),
    ("LeaseByWallClock", SIM),
    ("AppliedIsNotAnswered", SIM),
];

/// The core knows nothing of files.
const DISK: &str = "`cargo xtask mutants --disk`";

/// The core knows nothing of sessions, bytes and threads.
const TESTS: &str = "`cargo xtask mutants --tests`";

/// The core knows nothing of starts and clocks.
const SIM: &str = "`cargo xtask mutants --sim`";

/// Scripts whose own bug makes so much else red that it counts for no script in particular.
const OWN: &[(&str, &str)] = &[
    ("dissertation/acknowledgement-waits-for-the-disk", "AcknowledgeBeforePersist"),
    ("durability/late-disk-answers-twice", "NoSecondAnswer"),
    ("durability/one-order-for-votes-and-log", "GrantBeforePersist"),
    ("election/requests-wait-for-the-disk", "RequestBeforePersist"),
    ("published/openraft-1959-not-all-at-once", "SameTimeoutEverywhere"),
    ("replication/commit-index-travels-with-appends", "EntriesDoNotCommit"),
    ("restart/applied-is-replayed", "RestartCommitsItsLog"),
];

/// A bug that makes more than one script in this many red says nothing about any of them.
const BROAD: usize = 4;

/// A script that takes longer than this will never end: they take milliseconds.
const LONGEST_SCRIPT: Duration = Duration::from_secs(10);

/// A bug that was noticed is not played longer than this: some make every script go round in circles.
const LONGEST_BUG: Duration = Duration::from_secs(120);

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
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let page = wanted.first().is_some_and(|word| word == "--page");
    if page {
        wanted.remove(0);
    }
    if page && !wanted.is_empty() {
        eprintln!("--page writes the table of all bugs: give it no names");
        return ExitCode::FAILURE;
    }
    if let Some(unknown) = wanted.iter().find(|name| !Bug::ALL.iter().any(|bug| bug.name() == **name)) {
        eprintln!("no such bug: {unknown}");
        return ExitCode::FAILURE;
    }
    let bugs = Bug::ALL.iter().filter(|bug| wanted.is_empty() || wanted.iter().any(|name| name == bug.name()));
    let mut names = vec!["none"];
    names.extend(bugs.map(|bug| bug.name()));
    match run_all(&names) {
        Ok(table) if page => finish(print(&table, &names, false).and_then(|()| write_page(&table, &names[1..]))),
        Ok(table) => finish(print(&table, &names, !wanted.is_empty())),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
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

/// Prints the table; fails if a bug is not noticed, a script shows nothing, or the scripts are red without a bug.
fn print(table: &Table, names: &[&'static str], in_full: bool) -> Result<(), String> {
    if let Some((script, _)) = table.get("none").and_then(|reds| reds.first()) {
        return Err(format!("{script} fails without a planted bug: mend that first"));
    }
    println!(
        "{:<34} {:>4} {:>7}  first script (claim: not only the recorded output is another)",
        "bug", "red", "claim"
    );
    let mut missed = Vec::new();
    for name in names.iter().filter(|name| **name != "none") {
        let Some(reds) = table.get(*name) else { continue };
        let told = match (first_of(reds), elsewhere(name)) {
            (Some(script), _) => script.to_owned(),
            (None, Some(by)) => format!("(no script: {by})"),
            (None, None) => {
                missed.push(*name);
                "NOT NOTICED".to_owned()
            }
        };
        println!("{name:<34} {:>4} {:>7}  {told}", reds.len(), claims_of(reds));
        if in_full {
            reds.iter().for_each(|(script, red)| println!("    {red:?} {script}"));
        }
    }
    if !missed.is_empty() {
        return Err(format!("{} bugs that nothing notices: {}", missed.len(), missed.join(", ")));
    }
    if in_full { Ok(()) } else { print_idle(table) }
}

fn claims_of(reds: &[(String, Red)]) -> usize {
    reds.iter().filter(|(_, red)| *red == Red::Claim).count()
}

/// The first script whose claim it breaks, or else the first that plays otherwise.
fn first_of(reds: &[(String, Red)]) -> Option<&str> {
    let claim = reds.iter().find(|(_, red)| *red == Red::Claim);
    claim.or(reds.first()).map(|(script, _)| script.as_str())
}

fn elsewhere(name: &str) -> Option<&'static str> {
    let of_the_disk = name.starts_with("Disk").then_some(DISK);
    ELSEWHERE.iter().find(|(bug, _)| *bug == name).map(|(_, by)| *by).or(of_the_disk)
}

/// Scripts that no bug turns red but those that turn nearly everything red: to be strengthened, or given a bug.
fn print_idle(table: &Table) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let all = files(&root).unwrap_or_default();
    let name = |path: &Path| path.strip_prefix(&root).unwrap_or(path).with_extension("").display().to_string();
    let is_red = |script: &str, bug: &str| table.get(bug).is_some_and(|reds| reds.iter().any(|(red, _)| red == script));
    let narrow: Vec<&String> =
        table.iter().filter(|(_, reds)| reds.len() * BROAD <= all.len()).map(|(bug, _)| bug).collect();
    let owns = |script: &String| OWN.iter().any(|(own, bug)| own == script && is_red(script, bug));
    let shows = |script: &String| owns(script) || narrow.iter().any(|bug| is_red(script, bug));
    let idle: Vec<String> = all.iter().map(|path| name(path)).filter(|script| !shows(script)).collect();
    println!(
        "\n{} bugs, {} scripts; {} scripts turned red by no bug of their own (one that turns at most a quarter red)",
        table.len() - 1,
        all.len(),
        idle.len()
    );
    match idle.is_empty() {
        true => Ok(()),
        false => Err(format!("give these a bug, or remove them: {}", idle.join(", "))),
    }
}

// ---- the page ----

const BEGIN: &str = "<!-- generated: cargo xtask mutants --page -->";
const END: &str = "<!-- end -->";

/// Writes the table into docs/mutants.md.
fn write_page(table: &Table, names: &[&'static str]) -> Result<(), String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |name: &str| {
        let path = docs.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let hunted = read("mutants-hunt.tsv")?;
    let page = read("mutants.md")?;
    let (before, rest) = page.split_once(BEGIN).ok_or("docs/mutants.md has no place for the table")?;
    let (_, after) = rest.split_once(END).ok_or("docs/mutants.md has no end of the table")?;
    let mut caught = Caught::default();
    let mut rows = String::from(
        "| bug | what it does wrong | red scripts, by claim | the first, or else | seeds | caught by | code |\n|---|---|---|---|---|---|---|\n",
    );
    for name in names {
        let Some(bug) = Bug::ALL.iter().find(|bug| bug.name() == *name) else { continue };
        let reds = table.get(*name).map_or(&[][..], |reds| reds);
        let by = first_of(reds).or(elsewhere(name)).unwrap_or_default();
        let (count, claims) = (reds.len(), claims_of(reds));
        let hunt = hunted.lines().rfind(|line| line.split('\t').next() == Some(name)).unwrap_or_default();
        let mut words = hunt.split('\t').skip(1);
        let (seeds, check, code) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
        caught.count(reds.is_empty(), elsewhere(name), check);
        let check = if check == "-" { "no seed" } else { check };
        rows.push_str(&format!(
            "| `{name}` | {} | {count}, {claims} | {by} | {seeds} | {check} | {code} |\n",
            bug.what()
        ));
    }
    let text = format!("{before}{BEGIN}\n{caught}\n{rows}{END}{after}");
    std::fs::write(docs.join("mutants.md"), text).map_err(|error| error.to_string())
}

/// How many bugs each means catches.
#[derive(Default)]
struct Caught {
    all: usize,
    scripts: usize,
    seeds: usize,
    scenarios: usize,
    disk: usize,
    tests: usize,
    /// By a script alone.
    only_scripts: usize,
    /// By random seeds or a scenario alone.
    only_sim: usize,
}

impl Caught {
    /// Counts a bug: whether no script shows it, what stands for the scripts then, and which check failed in the hunt.
    fn count(&mut self, no_script: bool, by: Option<&str>, check: &str) {
        let scenario = check.starts_with("scenario ");
        let seed = !scenario && !check.is_empty() && check != "-";
        self.all += 1;
        self.scripts += usize::from(!no_script);
        self.seeds += usize::from(seed);
        self.scenarios += usize::from(scenario);
        self.disk += usize::from(by == Some(DISK));
        self.tests += usize::from(by == Some(TESTS));
        self.only_scripts += usize::from(!no_script && by.is_none() && !seed && !scenario);
        self.only_sim += usize::from(no_script && by == Some(SIM) && (seed || scenario));
    }
}

impl std::fmt::Display for Caught {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { all, scripts, seeds, scenarios, disk, tests, only_scripts, only_sim, .. } = self;
        writeln!(
            f,
            "{all} bugs: {scripts} turn a golden script red, {seeds} are caught by random seeds and {scenarios} by a directed \
             scenario, {disk} by the crashes and failing calls of the disk, {tests} by tests. {only_scripts} by scripts alone, \
             {only_sim} by the simulator alone."
        )
    }
}
