//! Benchmarks of Quorate beside its opponents: `cargo run --release -p quorate-bench -- memory`.
//!
//! Every figure is a ratio inside one run on one machine. Both sides get the same client count and the same
//! threads; their trials alternate, so that a machine that slows down slows down both. The clock stops at the
//! client: an operation counts when its caller has the answer.

#![forbid(unsafe_code)]

mod args;
mod clients;
mod echo;
mod openraft_side;
mod quorate_side;
mod report;

use std::process::ExitCode;

use args::Options;
use report::Row;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("quorate-bench: {problem}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    match memory(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("quorate-bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Rows M1 to M5 and M7: puts into three nodes of one process, logs in memory, no sockets.
fn memory(options: &Options) -> Result<(), String> {
    println!("{}", report::heading(options));
    for &clients in &options.clients {
        let mut row = Row::new(clients);
        for pair in 0..options.pairs {
            // Who goes first alternates: neither side always meets the warmer machine.
            let (ours, theirs) = if pair % 2 == 0 {
                let ours = quorate_side::trial(options, clients)?;
                (ours, openraft_side::trial(options, clients)?)
            } else {
                let theirs = openraft_side::trial(options, clients)?;
                (quorate_side::trial(options, clients)?, theirs)
            };
            let echo = echo::trial(options, clients)?;
            println!("{}", report::pair_line(clients, pair, &ours, &theirs, &echo));
            row.push(ours, theirs, echo);
        }
        println!("{}", row.summary());
    }
    Ok(())
}
