//! `quorate sim`: runs simulated clusters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_sim::{Options, Schedule, Search, Shrunk, check_of, golden, run_options, run_within, search, shrink};

use super::Failure;

/// `quorate sim`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SimArgs {
    #[command(subcommand)]
    command: Option<SimCommand>,
    #[command(flatten)]
    which: Which,
    /// Prints every message and fault of the run.
    #[arg(long)]
    trace: bool,
    /// Runs the directed scenarios: partial partitions, and disturbances that a healthy leader must not notice.
    #[arg(long, conflicts_with_all = ["seed", "budget", "seeds"])]
    matrix: bool,
    /// Of the directed scenarios those alone whose name contains this, as `--matrix` prints it; with `--trace` every message.
    #[arg(long, requires = "matrix", value_name = "NAME")]
    scenario: Option<String>,
    /// Searches for so long, such as 90s or 10m.
    #[arg(long, value_parser = parse_time, conflicts_with_all = ["seed", "schedule"])]
    budget: Option<Duration>,
    /// Searches so many seeds.
    #[arg(long, conflicts_with_all = ["seed", "schedule"])]
    seeds: Option<u64>,
    /// The first seed of a search.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads of a search.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints the trace hash of each seed, and nothing else: two builds of the same code print the same.
    #[arg(long, requires = "seeds", conflicts_with_all = ["budget", "matrix", "report"])]
    hashes: bool,
    /// Fails if something that a long search must have seen never happened: a kind of fault, a goal of clients or the
    /// operator, a repair, a recovery, a rare situation of the protocol.
    #[arg(long)]
    every_fault: bool,
    /// Fails if the search is too small to say much: fewer than 2,000 seeds or 50 simulated hours under load, fewer than
    /// 200 commands committed or 5 faults in the median seed, or a history that was not judged.
    #[arg(long, conflicts_with_all = ["seed", "schedule", "matrix", "hashes"])]
    thorough: bool,
    /// Writes what a search found here, for programs.
    #[arg(long, conflicts_with_all = ["seed", "schedule", "matrix"])]
    report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Makes a failing run short, and writes it to a file.
    Shrink(ShrinkArgs),
    /// Plants each known bug in turn and searches seeds until a check notices.
    #[cfg(feature = "mutants")]
    Mutants(MutantsArgs),
}

/// One run.
#[derive(Debug, Args)]
struct Which {
    /// Runs this one seed and prints everything about it.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs what this file says.
    #[arg(long, conflicts_with = "seed")]
    schedule: Option<PathBuf>,
    /// Loses a quorum for good in each run, within the budget otherwise, and recovers it.
    #[arg(long, conflicts_with = "schedule")]
    recovery: bool,
    /// Plants this bug; a schedule may name one, too.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    plant: Option<String>,
}

#[derive(Debug, Args)]
struct ShrinkArgs {
    #[command(flatten)]
    which: Which,
    /// Writes the short run here.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Tells the short run as a golden script (testdata/README.md), makes that short as well, and writes it here.
    #[arg(long)]
    golden: Option<PathBuf>,
    /// Tries at most about so many shorter runs, and as many shorter scripts.
    #[arg(long, default_value_t = 2000)]
    tries: u64,
}

#[cfg(feature = "mutants")]
#[derive(Debug, Args)]
struct MutantsArgs {
    /// At most so many seeds for each bug.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// At most for so long for each bug.
    #[arg(long, value_parser = parse_time, default_value = "1h")]
    budget: Duration,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Keeps what was found in this file, and goes on from what is in it.
    #[arg(long)]
    results: Option<PathBuf>,
    /// This bug; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match &text[number.len()..] {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        other => return Err(format!("`{other}` is no unit of time: use s, m or h")),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_secs(number * unit))
}

pub(super) fn run(args: &SimArgs) -> Result<ExitCode, Failure> {
    // What a run finds is in its report, and injected panics are none of its findings.
    std::panic::set_hook(Box::new(|_| {}));
    match &args.command {
        Some(SimCommand::Shrink(args)) => return shorten(args),
        #[cfg(feature = "mutants")]
        Some(SimCommand::Mutants(args)) => return hunt(args),
        None => {}
    }
    if let Some(schedule) = args.which.schedule()? {
        let (report, _) = run_options(schedule.options, args.trace);
        println!("{report}");
        return Ok(if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    if args.matrix {
        let only = args.scenario.as_deref().unwrap_or_default();
        if args.trace && only.is_empty() {
            return Err(Failure::new("a trace of all scenarios is no use: say which, with --scenario NAME"));
        }
        return run_matrix(args.first_seed, only, args.trace);
    }
    if args.trace {
        return Err(Failure::new("one run has a trace: say which, with --seed N or --schedule FILE"));
    }
    if args.budget.is_none() && args.seeds.is_none() {
        return Err(Failure::new("say --seed N, or how long to search: --budget 10m, --seeds N"));
    }
    if args.hashes {
        if args.which.recovery {
            return Err(Failure::new("trace hashes are of seeds as they are drawn: leave out --recovery"));
        }
        print_hashes(args.first_seed, args.seeds.unwrap_or(1));
        return Ok(ExitCode::SUCCESS);
    }
    let what = Search {
        first_seed: args.first_seed,
        seeds: args.seeds.unwrap_or(u64::MAX),
        budget: args.budget,
        jobs: args.jobs,
        recovery: args.which.recovery,
    };
    let summary = search(what);
    println!("{summary}");
    if let Some(path) = &args.report {
        std::fs::write(path, summary.lines()).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    if let Some(report) = summary.failures.first() {
        println!("to make the first short: quorate sim shrink {}", report.options.named());
    }
    let short = summary.shortfalls();
    if args.thorough && !short.is_empty() {
        return Err(Failure::new(format!("the search falls short: {}", short.join("; "))));
    }
    let missing: Vec<String> = summary.missing().iter().map(ToString::to_string).collect();
    if args.every_fault && !missing.is_empty() {
        return Err(Failure::new(format!("these never happened: {}", missing.join(", "))));
    }
    Ok(if summary.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The trace hashes of many seeds: the same in every build.
fn print_hashes(first: u64, seeds: u64) {
    for seed in first..first.saturating_add(seeds) {
        println!("{seed} {:032x}", quorate_sim::run_seed(seed, false).0.hash);
    }
}

fn run_matrix(seed: u64, only: &str, trace: bool) -> Result<ExitCode, Failure> {
    let (mut scenarios, mut failed) = (0, 0);
    let mut gaps: BTreeMap<String, u64> = BTreeMap::new();
    quorate_sim::matrix::all(seed, only, trace, |name, outcome| {
        println!("{name}: {outcome}");
        scenarios += 1;
        failed += u64::from(outcome.violation.is_some());
        let gap = gaps.entry(name.split(',').next().unwrap_or_default().to_owned()).or_default();
        *gap = (*gap).max(outcome.longest_gap);
    });
    if scenarios == 0 {
        return Err(Failure::new(format!(
            "no scenario has {only:?} in its name: `quorate sim --matrix` prints them all"
        )));
    }
    println!("election timeouts without a commit, at most: {gaps:?}");
    println!("{scenarios} scenarios, {failed} failures");
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Which {
    /// The run that is asked for, with its bug planted.
    fn schedule(&self) -> Result<Option<Schedule>, Failure> {
        let schedule = match (&self.seed, &self.schedule) {
            (Some(seed), _) => {
                let mut options = Options::of_seed(*seed);
                if self.recovery {
                    options = options.losing_a_quorum();
                }
                Schedule { notes: Vec::new(), mutant: None, shows: None, options }
            }
            (None, Some(path)) => {
                let in_file = |error: String| Failure::new(format!("{}: {error}", path.display()));
                let text = std::fs::read_to_string(path).map_err(|error| in_file(error.to_string()))?;
                text.parse().map_err(in_file)?
            }
            (None, None) => return Ok(None),
        };
        self.planted(schedule).map(Some)
    }

    #[cfg(not(feature = "mutants"))]
    fn planted(&self, schedule: Schedule) -> Result<Schedule, Failure> {
        Ok(schedule)
    }

    #[cfg(feature = "mutants")]
    fn planted(&self, mut schedule: Schedule) -> Result<Schedule, Failure> {
        schedule.mutant = self.plant.clone().or(schedule.mutant);
        if let Some(name) = &schedule.mutant {
            quorate_sim::mutants::plant_named(name).map_err(Failure::new)?;
        }
        Ok(schedule)
    }
}

fn shorten(args: &ShrinkArgs) -> Result<ExitCode, Failure> {
    let Some(Schedule { mut notes, mutant, options, .. }) = args.which.schedule()? else {
        return Err(Failure::new("say which run: --seed N, or --schedule FILE"));
    };
    let Some(Shrunk { before, after, runs }) = shrink(options, args.tries, run_within) else {
        return Err(Failure::new("this run does not fail"));
    };
    let (long, short, seed) = (before.events, after.events, before.options.seed);
    println!("{after}\n\n{long} events before, {short} now; {runs} runs tried");
    let violation = after.violation.unwrap_or_default();
    if notes.is_empty() {
        notes.push(format!("From seed {seed}: {violation}"));
    }
    if let Some(path) = &args.golden {
        tell(path, args.tries, after.options.clone(), &format!("seed {seed}"))?;
    }
    let shows = Some(check_of(&violation).to_owned());
    let text = Schedule { notes, mutant, shows, options: after.options }.to_string();
    match &args.output {
        Some(path) => {
            std::fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            println!("read it: quorate sim --schedule {} --trace", path.display());
        }
        None => println!("\n{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a run as a golden script.
fn tell(path: &Path, tries: u64, options: Options, source: &str) -> Result<(), Failure> {
    let golden = golden(options, usize::try_from(tries).unwrap_or(usize::MAX));
    let text = golden.text(source);
    std::fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    let (count, before, path) = (golden.commands.len(), golden.before, path.display());
    if let Some((command, why)) = golden.undone.first() {
        println!(
            "\n{} commands could not be done in a script's world, the first: `{command}`: {why}",
            golden.undone.len()
        );
    }
    match golden.violates {
        Some(what) => println!("\na golden script of {count} commands, {before} before: {path}\nit violates: {what}"),
        None => println!("\na golden script of {count} commands that violates nothing by itself: {path}"),
    }
    println!(
        "write its claim and what it expects; then QUORATE_REWRITE=1 cargo test -p quorate-testkit fills in the rest"
    );
    Ok(())
}

#[cfg(feature = "mutants")]
fn hunt(args: &MutantsArgs) -> Result<ExitCode, Failure> {
    use quorate_sim::mutants::{Hunt, Results, hunt_all, named};
    let bugs = named(&args.only).map_err(Failure::new)?;
    let how = Hunt { first_seed: 1, seeds: args.seeds, patience: args.budget, jobs: args.jobs, scenarios: true };
    let mut results = match &args.results {
        Some(path) => Results::open(path).map_err(Failure::new)?,
        None => Results::default(),
    };
    let all = hunt_all(&bugs, how, &mut results).map_err(Failure::new)?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert!(parse_time("3 weeks").is_err());
    }
}
