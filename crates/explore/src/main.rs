//! Exhaustive search over small clusters: every schedule within named bounds, breadth-first.
//!
//! `cargo run --release -p quorate-explore -- [SCOPE ..] [--states N] [--cluster-only]`; with the feature `mutants`
//! also `mutants`, which plants bugs that the search must find.
//!
//! Time is left out: what waits may end at any moment (`Core::forget_time`). A message that is lost is one that never
//! arrives, a node that is down is one that takes no steps, so neither needs a state of its own.

mod cluster;
mod local;
mod scope;
mod search;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use local::Checks;
use scope::Scope;
use search::{End, search};

const USAGE: &str = "usage: quorate-explore [SCOPE ..] [--states N] [--cluster-only]\n       \
                     quorate-explore mutants [NAME ..] [--states N] [--trace]    (feature `mutants`)";

/// States of each scope, unless the command line says otherwise: a minute and a half in all on one core.
const STATES: usize = 400_000;

#[derive(Default)]
struct Args {
    names: Vec<String>,
    states: Option<usize>,
    cluster_only: bool,
    trace: bool,
}

fn parse() -> Result<Args, String> {
    let mut args = Args::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--states" => {
                let number = words.next().and_then(|number| number.replace('_', "").parse().ok());
                args.states = Some(number.ok_or("--states needs a number")?);
            }
            "--cluster-only" => args.cluster_only = true,
            "--trace" => args.trace = true,
            name if !name.starts_with('-') => args.names.push(name.to_owned()),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let args = match parse() {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.names.first().is_some_and(|name| name == "mutants") {
        return mutants(&args);
    }
    explore(&args)
}

fn explore(args: &Args) -> ExitCode {
    let scopes = Scope::all();
    if let Some(unknown) = args.names.iter().find(|name| !scopes.iter().any(|scope| scope.name == **name)) {
        let known: Vec<_> = scopes.iter().map(|scope| scope.name).collect();
        eprintln!("no such scope: {unknown}; there are {}\n{USAGE}", known.join(", "));
        return ExitCode::from(2);
    }
    let checks = if args.cluster_only { Checks::ClusterOnly } else { Checks::Everything };
    let began = Instant::now();
    let (mut states, mut violations) = (0, 0);
    for scope in scopes.iter().filter(|scope| args.names.is_empty() || args.names.iter().any(|n| n == scope.name)) {
        let start = Instant::now();
        let report = search(scope, args.states.unwrap_or(STATES), checks);
        states += report.states;
        println!("{}: {}", scope.name, scope.bounds());
        println!(
            "    {} distinct states, {} choices, depth {}, {} states and {} steps of single nodes, {:.1} s",
            report.states,
            report.choices,
            report.depth,
            report.nodes,
            report.steps,
            start.elapsed().as_secs_f64()
        );
        match report.end {
            End::Closed => println!("    closed: there are no more states within these bounds"),
            End::Stopped { waiting } => println!("    stopped at the limit, with {waiting} states waiting"),
            End::Violation { what, trace } => {
                violations += 1;
                println!("    VIOLATION at depth {}: {what}", report.depth);
                trace.iter().for_each(|line| println!("      {line}"));
            }
        }
    }
    println!("{states} distinct states in all, {violations} violations, {:.1} s", began.elapsed().as_secs_f64());
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: &Args) -> ExitCode {
    eprintln!("built without the feature `mutants`");
    ExitCode::from(2)
}

/// Plants bugs one after the other, and searches until one is found.
#[cfg(feature = "mutants")]
fn mutants(args: &Args) -> ExitCode {
    use quorate_core::{Bug, plant};
    let wanted = &args.names[1..];
    let mut found = 0;
    let mut missed = Vec::new();
    let checks = if args.cluster_only { Checks::ClusterOnly } else { Checks::Everything };
    for bug in Bug::ALL.iter().filter(|bug| wanted.is_empty() || wanted.iter().any(|name| name == bug.name())) {
        plant(Some(*bug));
        let mut told = None;
        for scope in Scope::all() {
            let report = search(&scope, args.states.unwrap_or(STATES), checks);
            if let End::Violation { what, trace } = report.end {
                told = Some((scope.name, report.states, what, trace));
                break;
            }
        }
        match told {
            Some((scope, states, what, trace)) => {
                found += 1;
                let depth = trace.len();
                println!("{:<30} {scope}, depth {depth}, {states} states: {what}", bug.name());
                if args.trace {
                    trace.iter().for_each(|line| println!("      {line}"));
                }
            }
            None => missed.push(bug.name()),
        }
    }
    plant(None);
    println!("\n{found} planted bugs found; out of this search's sight: {}", missed.join(", "));
    if found >= 10.min(if wanted.is_empty() { 10 } else { wanted.len() }) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
