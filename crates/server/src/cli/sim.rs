//! `quorate sim`: runs simulated clusters.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use quorate_sim::{Search, run_seed, search};

use super::Failure;

/// `quorate sim`.
#[derive(Debug, Args)]
pub(super) struct SimArgs {
    /// Runs this one seed and prints everything about it.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every message and fault of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs the directed scenarios: partial partitions, and disturbances that a healthy leader must not notice.
    #[arg(long, conflicts_with_all = ["seed", "budget", "seeds"])]
    matrix: bool,
    /// Searches for so long, such as 90s or 10m.
    #[arg(long, value_parser = parse_time, conflicts_with = "seed")]
    budget: Option<Duration>,
    /// Searches so many seeds.
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first seed of a search.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads of a search.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Fails if some kind of fault never happened.
    #[arg(long)]
    every_fault: bool,
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
    if let Some(seed) = args.seed {
        let (report, _) = run_seed(seed, args.trace);
        println!("{report}");
        return Ok(if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    if args.matrix {
        return Ok(run_matrix(args.first_seed));
    }
    if args.budget.is_none() && args.seeds.is_none() {
        return Err(Failure::new("say --seed N, or how long to search: --budget 10m, --seeds N"));
    }
    let what = Search {
        first_seed: args.first_seed,
        seeds: args.seeds.unwrap_or(u64::MAX),
        budget: args.budget,
        jobs: args.jobs,
    };
    let summary = search(what);
    println!("{summary}");
    let missing = summary.missing_faults();
    if args.every_fault && missing != quorate_sim::FaultSet::NONE {
        return Err(Failure::new(format!("these faults never happened: {missing}")));
    }
    Ok(if summary.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_matrix(seed: u64) -> ExitCode {
    let (mut scenarios, mut failed) = (0, 0);
    quorate_sim::matrix::all(seed, |name, outcome| {
        println!("{name}: {outcome}");
        scenarios += 1;
        failed += u64::from(outcome.violation.is_some());
    });
    println!("{scenarios} scenarios, {failed} failures");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
