//! Planted bugs: how many seeds it takes until each is caught, and by which check.
//!
//! A bug counts as caught if a seed shows it, else a directed scenario, else what [`shown`] names for it, beside what random
//! runs lack: a golden script or a test of its own. One with none of these fails the hunt.
//!
//! The switch is one for the whole process, so one bug is hunted at a time, on several threads. A run ends after a
//! number of events, whatever a bug does; one that spins inside a single step is given up with its thread. Both count
//! as caught.
//!
//! A hunt is long, so what was found can be kept in a file ([`Results`]): the next hunt plays the seeds again that caught
//! something, and goes on from there with the others.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate_core::{Bug, plant};

use crate::matrix::{self, Disturbance, Setting, Topology};
use crate::options::Options;
use crate::run::run_options;
use crate::shrink::check_of;

pub mod shown;

use shown::{By, shown_by, shows};

/// No run takes so long: if one does, it never ends.
const LONGEST_RUN: Duration = Duration::from_secs(240);

/// Bugs that a search of some hundred seeds must catch, of every layer: what CI tries.
pub const SAMPLE: &[Bug] = &[
    // Elections, replication, commit.
    Bug::TwoVotesATerm,
    Bug::CommitsOlderTerm,
    Bug::CommitsWhatIsNotMatched,
    Bug::LeaderCountsBeforeFlush,
    Bug::AcknowledgeBeforePersist,
    Bug::NoTruncateOnConflict,
    // Membership, reads, snapshots.
    Bug::EffectiveOnCommit,
    Bug::LeaveJointEarly,
    Bug::ReadBeforeOwnCommit,
    Bug::PurgeBeforeSnapshotIsDurable,
    // Around the core: driver, clock, start, sessions, disk.
    Bug::EarlyCompletionIsDropped,
    Bug::LeaseByWallClock,
    Bug::AppliedBeforeItsData,
    Bug::SnapshotWithoutSessions,
    Bug::DiskAcknowledgesBeforeSync,
];

/// How to hunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunt {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// At most so many seeds a bug.
    pub seeds: u64,
    /// At most for so long a bug.
    pub patience: Duration,
    /// Threads.
    pub jobs: usize,
    /// Whether the directed scenarios are played with a bug that no seed showed.
    pub scenarios: bool,
}

/// How a hunt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A check failed that holds without the bug.
    Caught {
        /// With this seed.
        seed: u64,
        /// Like this.
        violation: String,
    },
    /// A run never ended.
    Hung {
        /// With this seed.
        seed: u64,
    },
    /// It was caught by an earlier hunt, and is again by the same seed.
    Known {
        /// With this seed.
        seed: u64,
        /// By this check.
        check: String,
    },
    /// No seed shows it, but a directed scenario does, see [`crate::matrix`].
    Directed {
        /// Which.
        scenario: String,
    },
    /// No seed shows it and no scenario, but this does.
    Shown {
        /// What.
        by: By,
    },
    /// Nothing shows it.
    Missed,
    /// A check failed that fails without the bug as well: a violation to look at first.
    Unsound {
        /// With this seed.
        seed: u64,
        /// Like this.
        violation: String,
    },
}

/// One bug's line in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The bug.
    pub bug: Bug,
    /// How the hunt ended.
    pub outcome: Outcome,
    /// Seeds that were tried, up to the one that caught it.
    pub seeds: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { bug, outcome, seeds, took } = self;
        write!(f, "{:<34} {seeds:>6} {:>7.1}  ", bug.name(), took.as_secs_f64())?;
        match outcome {
            Outcome::Caught { seed, violation } => write!(f, "{} (seed {seed})", check_of(violation)),
            Outcome::Hung { seed } => write!(f, "a step that never ends (seed {seed})"),
            Outcome::Directed { scenario } => write!(f, "{SCENARIO}{scenario}"),
            Outcome::Known { seed, check } => write!(f, "{check} (seed {seed}, again)"),
            Outcome::Shown { by } => write!(f, "no seed; {by}"),
            Outcome::Missed => f.write_str("MISSED"),
            Outcome::Unsound { seed, violation } => write!(f, "FAILS WITHOUT THE BUG, seed {seed}: {violation}"),
        }
    }
}

/// The heading of the table of [`Row`]s.
pub fn heading() -> String {
    format!("{:<34} {:>6} {:>7}  caught by", "bug", "seeds", "s")
}

/// What a worker tells: which seed it begins, and how it ended.
enum News {
    Begun(usize, u64),
    Ended(usize, u64, Option<String>),
}

struct Work {
    next: AtomicU64,
    stop: AtomicBool,
    news: Mutex<Sender<News>>,
    hunt: Hunt,
}

impl Work {
    fn tell(&self, news: News) {
        // Nobody listens any more to a run that was given up.
        let _ = self.news.lock().unwrap_or_else(PoisonError::into_inner).send(news);
    }

    fn work(&self, job: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.hunt.seeds {
                return;
            }
            let seed = self.hunt.first_seed.wrapping_add(number);
            self.tell(News::Begun(job, seed));
            let (report, _) = run_options(Options::of_seed(seed), false);
            self.stop.fetch_or(report.violation.is_some(), Ordering::Relaxed);
            self.tell(News::Ended(job, seed, report.violation));
        }
    }
}

/// Hunts one bug: runs seeds until a check fails. Leaves no bug planted.
pub fn hunt(bug: Bug, hunt: Hunt) -> Row {
    let begun = Instant::now();
    plant(Some(bug));
    let (sender, receiver) = channel();
    let work = Work { next: AtomicU64::new(0), stop: AtomicBool::new(false), news: Mutex::new(sender), hunt };
    let work = Arc::new(work);
    let jobs = hunt.jobs.max(1);
    for job in 0..jobs {
        let work = Arc::clone(&work);
        std::thread::spawn(move || work.work(job));
    }
    let news = Arc::downgrade(&work);
    drop(work);
    let mut running: Vec<Option<(u64, Instant)>> = vec![None; jobs];
    let (mut first, mut hung): (Option<(u64, String)>, Option<u64>) = (None, None);
    let mut tried = 0;
    let stop = || news.upgrade().iter().for_each(|work| work.stop.store(true, Ordering::Relaxed));
    loop {
        match receiver.recv_timeout(Duration::from_millis(500)) {
            Ok(News::Begun(job, seed)) => running[job] = Some((seed, Instant::now())),
            Ok(News::Ended(job, seed, violation)) => {
                running[job] = None;
                tried += 1;
                if let Some(violation) = violation
                    && first.as_ref().is_none_or(|(known, _)| seed < *known)
                {
                    first = Some((seed, violation));
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if begun.elapsed() > hunt.patience {
            stop();
        }
        let endless = running.iter().flatten().find(|(_, since)| since.elapsed() > LONGEST_RUN);
        if let Some((seed, _)) = endless {
            hung = Some(*seed);
            stop();
            break;
        }
    }
    plant(None);
    let outcome = match (first, hung) {
        (Some((seed, violation)), _) => confirm(seed, violation),
        (None, Some(seed)) => Outcome::Hung { seed },
        (None, None) => match hunt.scenarios.then(|| directed(bug)).flatten() {
            Some(scenario) => Outcome::Directed { scenario },
            None => otherwise(bug),
        },
    };
    let seeds = match &outcome {
        Outcome::Caught { seed, .. } | Outcome::Hung { seed } | Outcome::Unsound { seed, .. } => {
            seed.wrapping_sub(hunt.first_seed) + 1
        }
        Outcome::Directed { .. } | Outcome::Known { .. } | Outcome::Shown { .. } | Outcome::Missed => tried,
    };
    Row { bug, outcome, seeds, took: begun.elapsed() }
}

/// The first directed scenario that fails with the bug and holds without it. A bug may hurt nobody's data, and yet
/// topple a healthy leader, or keep a connected quorum from having one.
fn directed(bug: Bug) -> Option<String> {
    let fails = |play: &dyn Fn() -> matrix::Outcome| {
        plant(Some(bug));
        let failed = catch_unwind(AssertUnwindSafe(play)).map_or(true, |outcome| outcome.violation.is_some());
        plant(None);
        failed && play().violation.is_none()
    };
    let settings = Setting::all(1, 3).into_iter().chain(Setting::all(1, 5).into_iter().take(1));
    for setting in settings {
        for disturbance in Disturbance::ALL {
            if fails(&|| matrix::disturb(setting, *disturbance, false)) {
                return Some(format!("{disturbance:?} of {}", setting.nodes));
            }
        }
        for topology in Topology::ALL {
            for leader in topology.leaders(setting.nodes) {
                if fails(&|| matrix::partition(setting, *topology, leader, false)) {
                    return Some(format!("{topology:?} of {}", setting.nodes));
                }
            }
        }
    }
    None
}

/// What is named for a bug that no seed and no scenario shows.
fn otherwise(bug: Bug) -> Outcome {
    let Some((by, _)) = shown_by(bug) else { return Outcome::Missed };
    match shows(by, bug) {
        Ok(true) => Outcome::Shown { by },
        Ok(false) => Outcome::Missed,
        Err(problem) => {
            println!("{problem}");
            Outcome::Missed
        }
    }
}

/// What fails with the bug must not fail without it.
fn confirm(seed: u64, violation: String) -> Outcome {
    match run_options(Options::of_seed(seed), false).0.violation {
        None => Outcome::Caught { seed, violation },
        Some(violation) => Outcome::Unsound { seed, violation },
    }
}

/// What hunts found before, in a file of lines: name, seeds tried, the check that caught it or `-`, and the code that was
/// tried, by tabs.
#[derive(Debug, Default)]
pub struct Results {
    path: Option<PathBuf>,
    /// Names the code that is tried now.
    code: String,
    known: BTreeMap<String, Found>,
}

/// A line of [`Results`].
#[derive(Clone, Debug, Default)]
struct Found {
    seeds: u64,
    check: Option<String>,
    code: String,
}

/// How a check is named that is a directed scenario.
const SCENARIO: &str = "scenario ";

impl Results {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// Says which line cannot be read.
    pub fn open(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let mut known = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.split('\t');
            let (Some(name), Some(seeds), Some(check)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(format!("{}: three words by tabs: {line}", path.display()));
            };
            let seeds = seeds.parse().map_err(|error| format!("{}: {line}: {error}", path.display()))?;
            let check = (check != "-").then(|| check.to_owned());
            let code = parts.next().unwrap_or_default().to_owned();
            known.insert(name.to_owned(), Found { seeds, check, code });
        }
        Ok(Self { path: Some(path.to_owned()), code: String::new(), known })
    }

    /// Lines from now on say that they are of this code.
    #[must_use]
    pub fn of_code(self, code: String) -> Self {
        Self { code, ..self }
    }

    fn note(&mut self, row: &Row, code: String) -> Result<(), String> {
        let check = match &row.outcome {
            Outcome::Caught { violation, .. } => Some(check_of(violation).to_owned()),
            Outcome::Hung { .. } => Some("a step that never ends".to_owned()),
            Outcome::Directed { scenario } => Some(format!("{SCENARIO}{scenario}")),
            Outcome::Known { check, .. } => Some(check.clone()),
            Outcome::Shown { .. } | Outcome::Missed => None,
            Outcome::Unsound { .. } => return Ok(()),
        };
        let found = Found { seeds: row.seeds, check, code };
        self.known.insert(row.bug.name().to_owned(), found);
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = String::new();
        for bug in Bug::ALL {
            let Some(Found { seeds, check, code }) = self.known.get(bug.name()) else { continue };
            text += &format!("{}\t{seeds}\t{}\t{code}\n", bug.name(), check.as_deref().unwrap_or("-"));
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes what random runs lack, and the bugs that they may miss for it, into a page between its two marks.
    ///
    /// # Errors
    /// If the page cannot be read or written, or has no place for it.
    pub fn write_page(&self, path: &Path) -> Result<(), String> {
        const BEGIN: &str =
            "<!-- generated: cargo xtask mutants --sim --results docs/mutants-hunt.tsv --page docs/mutants.md -->\n";
        const END: &str = "<!-- end of what random runs lack -->";
        let io = |error: std::io::Error| format!("{}: {error}", path.display());
        let page = std::fs::read_to_string(path).map_err(io)?;
        let place = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) = place.ok_or_else(|| format!("{}: no place between {BEGIN}and {END}", path.display()))?;
        let groups = shown::page(|bug| match self.known.get(bug.name()) {
            Some(found) if found.check.is_some() => None,
            found => Some(found.map_or(0, |found| found.seeds)),
        });
        std::fs::write(path, format!("{before}{BEGIN}{groups}\n{END}{after}")).map_err(io)
    }

    /// Plays again what caught a bug before, and hunts it anew if that does not any more; goes on with the others from
    /// where earlier hunts stopped.
    fn hunt(&mut self, bug: Bug, how: Hunt) -> Result<Row, String> {
        let begun = Instant::now();
        let Found { seeds: before, check, code: tried_on } = self.known.get(bug.name()).cloned().unwrap_or_default();
        if let Some(known) = check {
            let seed = how.first_seed + before.max(1) - 1;
            let again = match known.starts_with(SCENARIO) {
                true => directed(bug).map(|scenario| Outcome::Directed { scenario }),
                false => {
                    let one = Hunt { first_seed: seed, seeds: 1, jobs: 1, scenarios: false, ..how };
                    match hunt(bug, one).outcome {
                        Outcome::Caught { violation, .. } => {
                            Some(Outcome::Known { seed, check: check_of(&violation).to_owned() })
                        }
                        hung @ Outcome::Hung { .. } => Some(hung),
                        _ => None,
                    }
                }
            };
            if let Some(outcome) = again {
                let row = Row { bug, outcome, seeds: before, took: begun.elapsed() };
                self.note(&row, self.code.clone())?;
                return Ok(row);
            }
            let row = hunt(bug, how);
            self.note(&row, self.code.clone())?;
            return Ok(row);
        }
        // Where no more seeds are asked for, the scenarios were played when the last of them was tried.
        let how = Hunt { scenarios: how.scenarios && before < how.seeds, ..how };
        let rest = Hunt { first_seed: how.first_seed + before, seeds: how.seeds.saturating_sub(before), ..how };
        // What was tried on other code, and not since, says so.
        let code = if rest.seeds == 0 { tried_on } else { self.code.clone() };
        let mut row = hunt(bug, rest);
        row.seeds += before;
        self.note(&row, code)?;
        Ok(row)
    }
}

/// Hunts these, printing a line each as they end; returns whether all were caught that must be.
///
/// # Errors
/// If the results cannot be kept.
pub fn hunt_all(bugs: &[Bug], how: Hunt, results: &mut Results) -> Result<bool, String> {
    println!("{}", heading());
    let begun = Instant::now();
    let (mut by_seed, mut by_scenario, mut by_script, mut by_test) = (0, 0, 0, 0);
    let (mut seeds, mut least, mut bad) = (0, u64::MAX, Vec::new());
    for bug in bugs {
        let row = results.hunt(*bug, how)?;
        println!("{row}");
        seeds += row.seeds;
        match row.outcome {
            Outcome::Caught { .. } | Outcome::Hung { .. } | Outcome::Known { .. } => by_seed += 1,
            Outcome::Directed { .. } => by_scenario += 1,
            Outcome::Shown { by: By::Script(_) } => by_script += 1,
            Outcome::Shown { by: By::Test(_) | By::Crashes } => by_test += 1,
            Outcome::Missed | Outcome::Unsound { .. } => bad.push(bug.name()),
        }
        if matches!(row.outcome, Outcome::Directed { .. } | Outcome::Shown { .. } | Outcome::Missed) {
            least = least.min(row.seeds);
        }
    }
    let (all, took) = (bugs.len(), begun.elapsed());
    println!(
        "{all} bugs: {by_seed} caught by random runs, {by_scenario} by a scenario, {by_script} by a golden script, \
         {by_test} by a test or crashes of their own, {} by nothing; {seeds} seeds, {took:.0?}",
        bad.len()
    );
    if least < u64::MAX {
        println!("each that no seed showed was tried with at least {least} seeds");
    }
    if !bad.is_empty() {
        println!("nothing shows: {}; see crates/sim/src/mutants/shown.rs", bad.join(", "));
    }
    Ok(bad.is_empty())
}

/// The bugs of these names; all of them if there are none.
///
/// # Errors
/// Names the first that is none.
pub fn named(names: &[String]) -> Result<Vec<Bug>, String> {
    if names.is_empty() {
        return Ok(Bug::ALL.to_vec());
    }
    let find = |name: &String| {
        let known = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
        known.ok_or_else(|| format!("no such bug: {name}"))
    };
    names.iter().map(find).collect()
}

/// Plants the bug of this name.
///
/// # Errors
/// If there is none.
pub fn plant_named(name: &str) -> Result<(), String> {
    let bugs = named(&[name.to_owned()])?;
    plant(bugs.first().copied());
    Ok(())
}
