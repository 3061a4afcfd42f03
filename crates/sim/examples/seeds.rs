//! Runs so many seeds and prints what was found: a smaller build than `quorate sim --seeds N`, for `cargo xtask coverage`.

use std::process::ExitCode;

use quorate_sim::{Search, search};

fn main() -> ExitCode {
    // Injected panics are none of its findings.
    std::panic::set_hook(Box::new(|_| {}));
    let Some(seeds) = std::env::args().nth(1).and_then(|seeds| seeds.parse().ok()) else {
        eprintln!("usage: seeds NUMBER");
        return ExitCode::from(2);
    };
    let summary = search(Search { first_seed: 1, seeds, budget: None, jobs: 2, recovery: false });
    println!("{summary}");
    if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
