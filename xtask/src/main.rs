//! Project chores: `cargo xtask help`.

mod allowed;
mod api;
mod book;
mod bugs;
mod cargo;
mod compare;
mod coverage;
mod deny;
mod deps;
mod docs;
mod features;
mod figures;
mod fuzz;
mod guard;
mod lines;
mod metadata;
mod mutants;
mod package;
mod sizes;
mod source;
mod verification;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  check-deps   the arrows between crates (server -> quorate -> {net, wal} -> wire -> core), and what the
               protocol core must not touch: files, sockets, threads, clocks, chance, logging, hash order
  check-docs   links between our pages, scripts and tests that COMPARE.md names, what the guide names, the program that README.md
               shows, and the figures of both
  book         makes the guide's pages, in target/book, with mdBook
  mutants      plants each bug of crates/core/src/bug.rs in turn and counts the golden scripts that notice;
               `cargo xtask mutants NAME ..` plants only those, and names every script
               `cargo xtask mutants --sim [--seeds N] [--jobs J] [NAME ..]` counts the random seeds until one notices;
               `cargo xtask mutants --disk` looks for the disk's with crashes, `--explore` in small scopes, `--tests` with
               tests; `cargo xtask mutants --ci` does so for a sample
  fuzz         hostile bytes for everything that reads bytes from outside; `cargo xtask fuzz --help`
  package      what would be published: manifests, files, and that each crate builds from its package alone
               (`--no-verify` leaves the building out)
  features     each published crate (or those named) compiles without features, with each alone, and with all
  public-api   compares what each library offers with the listings in docs/api; `--write` writes them
  deny         licences, bans and sources of all that comes with the workspace; with cargo-deny, too, if it is there;
               `cargo xtask deny advisories` looks for known holes, and needs their database from the network
  sizes        lines of code of each crate; functions of more than 70 lines; dependencies and examples, which are bounded
  compare      what it takes to begin, beside OpenRaft and etcd: lines, commands, traits, dependencies, as the pages say them;
               `--build` measures two cold builds
  verification makes docs/verification.md from the outputs of long runs, which
               `cargo xtask verification run [NAME [ARGS ..]]` makes and keeps in target/verification
  guard        instructions and allocations of the paths in crates/guard beside docs/instructions.tsv, by valgrind;
               `cargo xtask guard PATH ..` counts only those; `--write` stores what it counts
  coverage     lines of core, wire and wal that their tests and 300 simulated seeds run (`--seeds N`); `--write` keeps their
               shares in docs/coverage.md
  help         this text";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    finish(match (command.as_str(), &args[..]) {
        ("mutants", _) => mutants::run(args),
        ("coverage", _) => coverage::run(&args),
        ("verification", _) => verification::command(&args),
        ("fuzz", _) => fuzz::run(args),
        ("package", _) => package::run(&args),
        ("features", _) => features::run(&args),
        ("public-api", _) => api::run(&args),
        ("guard", _) => guard::run(&args),
        ("compare", _) => compare::run(&args),
        ("deny", _) => deny::run(&args),
        ("check-deps", []) => deps::check(),
        ("check-docs", []) => docs::check(),
        ("book", []) => book::build(),
        ("sizes", []) => sizes::print(),
        ("" | "help" | "--help" | "-h", _) => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("xtask: unknown command or argument: {command} {}\n\n{HELP}", args.join(" "));
            return ExitCode::from(2);
        }
    })
}

fn finish(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}
