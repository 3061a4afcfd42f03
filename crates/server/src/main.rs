//! The binary `quorate`.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use quorate_server::cli::{self, Cli};

fn main() -> ExitCode {
    let begun = Instant::now();
    cli::run(Cli::parse(), begun)
}
