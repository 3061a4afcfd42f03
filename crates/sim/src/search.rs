//! Many seeds, for so long or so many, on several threads: each run stays on one.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::counters::{Counters, Total, Totals};
use crate::fault::{Fault, FaultCounts};
use crate::goals::Goal;
use crate::musts::Must;
use crate::options::Options;
use crate::run::{Report, run_options};
use crate::thorough::Figures;

/// Of so many seeds one is run twice, to compare what there is to tell of it, the trace hash included.
const HASHED_EVERY: u64 = 50;
/// Failures that are kept; the rest is counted.
const MAX_FAILURES: usize = 20;
/// Counters of every run, which figures are made of.
const COMMITTED: &str = "commands committed";
const FAULTS: &str = "faults";
/// Not 0 in a run whose whole history was searched for a linearization, after the oracle had judged it.
const LINEARIZED: &str = "linearization steps";

/// What to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// At most so many seeds.
    pub seeds: u64,
    /// At most for so long.
    pub budget: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// Whether every run loses a quorum for good ([`Options::losing_a_quorum`]).
    pub recovery: bool,
}

impl Search {
    fn options(&self, seed: u64) -> Options {
        let options = Options::of_seed(seed);
        if self.recovery { options.losing_a_quorum() } else { options }
    }
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// Seeds run.
    pub seeds: u64,
    /// Virtual time in which some operation was under way.
    pub busy: Duration,
    /// Real time.
    pub took: Duration,
    /// Events.
    pub events: u64,
    /// Checks of single claims.
    pub checks: u64,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// In how many seeds each fault was left out.
    pub disabled: Vec<(Fault, u64)>,
    /// What was counted in the seeds.
    pub totals: Totals,
    /// Seeds that were run twice.
    pub hashed: u64,
    /// The seeds whose search for a linearization was given up.
    pub undecided: Vec<u64>,
    /// The same of histories without an end.
    pub undecided_without_end: Vec<u64>,
    /// Runs that failed, the first of them.
    pub failures: Vec<Report>,
    /// How many failed.
    pub failed: u64,
}

impl Summary {
    fn add(&mut self, report: Report, hashed: bool) {
        self.seeds += 1;
        self.busy += report.busy;
        self.events += report.events;
        self.checks += report.checks;
        self.faults.merge(&report.faults);
        for (place, fault) in Fault::ALL.iter().enumerate() {
            if self.disabled.len() <= place {
                self.disabled.push((*fault, 0));
            }
            self.disabled[place].1 += u64::from(!report.options.faults.has(*fault));
        }
        self.totals.add(&counted(&report));
        self.hashed += u64::from(hashed);
        self.undecided.extend(report.undecided.then_some(report.options.seed));
        self.undecided_without_end.extend(report.undecided_without_end.then_some(report.options.seed));
        if report.violation.is_some() {
            self.failed += 1;
            if self.failures.len() < MAX_FAILURES {
                self.failures.push(report);
            }
        }
    }

    /// Simulated hours of clusters under load.
    pub fn hours(&self) -> f64 {
        self.busy.as_secs_f64() / 3600.0
    }

    /// What should have happened in some seed, and did in none.
    pub fn missing(&self) -> Vec<Must> {
        let never = |must: &Must| match must {
            Must::Suffer(fault) => self.faults.of(*fault) == 0,
            Must::Reach(_) | Must::Repair(_) | Must::Recover(_) | Must::Meet(_) => self.totals.of(must.name()).sum == 0,
        };
        Must::all().filter(never).collect()
    }

    fn all_undecided(&self) -> impl Iterator<Item = &u64> {
        self.undecided.iter().chain(&self.undecided_without_end)
    }

    /// The figures that a thorough search is told by.
    pub(crate) fn amounts_to(&self) -> Figures {
        let median = |name| self.totals.of(name).median;
        Figures {
            seeds: self.seeds,
            hours: self.hours(),
            committed: median(COMMITTED),
            faults: median(FAULTS),
            failed: self.failed,
            linearized: self.totals.of(LINEARIZED).runs - self.undecided.len() as u64,
            given_up: self.undecided.len() as u64,
            stuck: self.totals.of(Goal::BeyondStuck.name()).runs,
            stuck_given_up: self.undecided_without_end.len() as u64,
        }
    }

    /// What there is one of, with its name.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let seconds = self.took.as_secs_f64().max(1e-9);
        let Figures { committed, faults, linearized, given_up, stuck, stuck_given_up, .. } = self.amounts_to();
        vec![
            ("first seed", self.first_seed.to_string()),
            ("seeds", self.seeds.to_string()),
            ("simulated cluster-hours under load", format!("{:.2}", self.hours())),
            ("seconds", format!("{seconds:.1}")),
            ("events", self.events.to_string()),
            ("events/s", format!("{:.0}", self.events as f64 / seconds)),
            ("checks", self.checks.to_string()),
            ("seeds run twice, to compare trace hashes", self.hashed.to_string()),
            ("commands committed, median of a seed", committed.to_string()),
            ("faults, median of a seed", faults.to_string()),
            ("histories held against the oracle and linearized", linearized.to_string()),
            ("searches for a linearization given up", given_up.to_string()),
            ("histories without an end, of clusters that lost too much", stuck.to_string()),
            ("searches for a linearization of these given up", stuck_given_up.to_string()),
            ("failures", self.failed.to_string()),
        ]
    }

    /// All that was found, for programs: a line a figure, fault, counter and failure, its fields parted by tabs.
    pub fn lines(&self) -> String {
        let mut lines: Vec<String> =
            self.figures().iter().map(|(name, value)| format!("figure\t{name}\t{value}")).collect();
        lines.extend(self.disabled.iter().map(|(fault, without)| {
            let times = self.faults.of(*fault);
            format!("fault\t{}\t{times}\t{without}", fault.name())
        }));
        lines.extend(self.totals.iter().map(|(name, total)| {
            let Total { sum, runs, median, most } = total;
            format!("counter\t{name}\t{sum}\t{runs}\t{median}\t{most}")
        }));
        lines.extend(self.all_undecided().map(|seed| format!("given-up\t{seed}")));
        lines.extend(self.missing().into_iter().map(|must| format!("missing\t{}\t{}", must.kind(), must.name())));
        lines.extend(self.failures.iter().map(|report| {
            let violation = report.violation.as_deref().unwrap_or_default().replace(['\n', '\t'], " ");
            format!("failure\t{}\t{violation}", report.options.seed)
        }));
        lines.join("\n") + "\n"
    }
}

/// All that a run counted.
fn counted(report: &Report) -> Counters {
    let mut all = report.counters.clone();
    all.add("operations", report.asked);
    all.add("operations answered", report.acknowledged);
    all.add(COMMITTED, report.commands);
    all.add(FAULTS, report.faults.happened());
    all.add("leaderships", report.leaders);
    all.add("membership changes", report.changes);
    all.add(LINEARIZED, report.search_steps);
    all.add("events of a seed", report.events);
    all
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.figures() {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(f, "{:<16} {:>10} {:>14}", "fault", "times", "seeds without")?;
        for (fault, without) in &self.disabled {
            writeln!(f, "{:<16} {:>10} {:>14}", fault.name(), self.faults.of(*fault), without)?;
        }
        writeln!(f, "{}", self.totals)?;
        for seed in self.all_undecided() {
            writeln!(f, "GIVEN UP seed {seed}: no order of its history was found, nor that there is none")?;
        }
        for report in &self.failures {
            let (seed, which) = (report.options.seed, report.options.named());
            let violation = report.violation.as_deref().unwrap_or_default();
            writeln!(f, "FAILED seed {seed}: {violation}\n  again: quorate sim {which} --trace")?;
        }
        write!(
            f,
            "{} seeds, {:.2} simulated cluster-hours under load, {} failures",
            self.seeds,
            self.hours(),
            self.failed
        )
    }
}

/// Runs seed after seed.
pub fn search(what: Search) -> Summary {
    let started = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let summary = Mutex::new(Summary { first_seed: what.first_seed, ..Summary::default() });
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= what.seeds {
                return;
            }
            let hashed = number.is_multiple_of(HASHED_EVERY);
            let report = one(what.options(what.first_seed.wrapping_add(number)), hashed);
            summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(report, hashed);
            if what.budget.is_some_and(|budget| started.elapsed() >= budget) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..what.jobs.max(1)).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.took = started.elapsed();
    summary.undecided.sort_unstable();
    summary.undecided_without_end.sort_unstable();
    summary.failures.sort_by_key(|report| report.options.seed);
    summary
}

fn one(options: Options, twice: bool) -> Report {
    let (mut report, _) = run_options(options.clone(), false);
    if twice {
        let (again, _) = run_options(options, false);
        if again != report {
            report.violation.get_or_insert(format!(
                "not deterministic: trace hash {:032x}, and {:032x} the second time; {} and {} events",
                report.hash, again.hash, report.events, again.events
            ));
        }
    }
    report
}
