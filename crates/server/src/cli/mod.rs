//! The command line.

mod dev;
mod dev_layout;
mod recover;
mod serve;
mod signal;
#[cfg(feature = "sim")]
mod sim;
mod status;
mod table;

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::test_build;

pub use dev::DevArgs;
pub use recover::RecoverArgs;
pub use serve::ServeArgs;
pub use status::StatusArgs;

/// A durable, replicated key-value store that speaks etcd v3.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true)]
pub struct Cli {
    /// Start although this build loses data on purpose.
    #[arg(long, global = true, hide = true)]
    i_know_this_is_a_test_build: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a durable cluster on this machine, in one process: to try things out.
    Dev(DevArgs),
    /// Runs one node of a cluster.
    Serve(ServeArgs),
    /// Says who leads, how far every node is, and what is wrong.
    Status(StatusArgs),
    /// Recovers a cluster of which so many nodes are lost for good that no quorum can come together again.
    Recover(RecoverArgs),
    /// Simulates clusters with faults of every kind, from seeds, and checks what they promise.
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
}

/// Why a command failed, for people: one message, perhaps with what to do on a line of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Runs a command; `begun` is when the process began. The exit code is 0 for success, 1 for a failure, 2 for flags
/// that make no sense (then clap has exited already).
pub fn run(cli: Cli, begun: Instant) -> ExitCode {
    match execute(cli, begun) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("quorate: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli, begun: Instant) -> Result<ExitCode, Failure> {
    let starts = matches!(cli.command, Command::Dev(_) | Command::Serve(_) | Command::Recover(_));
    check_build(test_build::WARNING, cli.i_know_this_is_a_test_build, starts)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let code = match cli.command {
        Command::Dev(args) => {
            // Its nodes start one after the other: that the first do not reach the last yet is no news.
            log_to_stderr("warn,quorate::network=error");
            runtime.block_on(dev::run(args, begun))?;
            ExitCode::SUCCESS
        }
        Command::Serve(args) => {
            log_to_stderr("info");
            runtime.block_on(serve::run(args, begun))?;
            ExitCode::SUCCESS
        }
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::run(&args)?,
        Command::Status(args) => {
            log_to_stderr("error");
            runtime.block_on(status::run(args))?
        }
        Command::Recover(args) => {
            log_to_stderr("error");
            runtime.block_on(recover::run(args))?;
            ExitCode::SUCCESS
        }
    };
    Ok(code)
}

/// Only a test build may be told that it is one; `false` for commands that start no node.
fn check_build(warning: Option<&str>, told: bool, starts: bool) -> Result<(), Failure> {
    match (warning, told) {
        (Some(warning), false) if starts => {
            Err(Failure::new(format!("{warning}; to start it all the same, say --i-know-this-is-a-test-build")))
        }
        (None, true) => Err(Failure::new("this is not a test build: leave out --i-know-this-is-a-test-build")),
        (Some(_), _) | (None, false) => Ok(()),
    }
}

/// Logs go to stderr; `RUST_LOG` says which.
fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Fails only if a subscriber is set already, which then stays.
    let _ = subscriber.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_build_starts_no_node_without_being_told_that_it_is_one() {
        let said = |result: Result<(), Failure>| result.err().map(|failure| failure.to_string()).unwrap_or_default();
        let refusal = said(check_build(Some("bugs can be planted in it"), false, true));
        assert!(refusal.starts_with("bugs can be planted in it") && refusal.contains("--i-know"), "{refusal}");
        assert_eq!(said(check_build(Some("bugs"), true, true)), "");
        assert_eq!(said(check_build(Some("bugs"), false, false)), "", "a command that starts no node");
        assert_eq!(said(check_build(None, false, true)), "");
        assert!(said(check_build(None, true, true)).starts_with("this is not a test build"));
    }
}
