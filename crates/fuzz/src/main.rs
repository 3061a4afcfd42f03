//! `cargo xtask fuzz`: as many inputs as asked for.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use quorate_fuzz::{TARGETS, Target, run, target};

const HELP: &str = "\
usage: cargo xtask fuzz [--inputs N] [--seed S] [TARGET ..]
       cargo xtask fuzz --write-corpus FOLDER

  Hostile bytes for everything that reads bytes from outside. Without a target: frame, message, log, snapshot, meta and
  client, one after the other. N inputs each (100000); the same seed (1) gives the same inputs. The first input that
  makes a target panic is printed, to be put into testdata/hostile/TARGET/WHAT.hex.";

fn main() -> ExitCode {
    match chosen(std::env::args().skip(1)) {
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(Chosen { corpus: Some(folder), .. })) => match write_corpus(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fuzz: cannot write {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        },
        Ok(Some(chosen)) => all(&chosen),
        Err(problem) => {
            eprintln!("fuzz: {problem}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn all(Chosen { targets, seed, inputs, .. }: &Chosen) -> ExitCode {
    let mut failed = false;
    for target in targets {
        let began = std::time::Instant::now();
        match run(target, *seed, *inputs) {
            Ok(report) => println!("{:<9} {report}, {:.1} s", target.name, began.elapsed().as_secs_f64()),
            Err(found) => {
                println!("FOUND: {found}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes the valid inputs, a folder for each target: what libFuzzer starts from.
fn write_corpus(folder: &Path) -> io::Result<()> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, input) in (target.corpus)().iter().enumerate() {
            fs::write(folder.join(number.to_string()), input)?;
        }
    }
    Ok(())
}

/// What was asked for.
struct Chosen {
    targets: Vec<Target>,
    seed: u64,
    /// Of each target.
    inputs: u64,
    /// Where to write the corpora, instead of trying anything.
    corpus: Option<PathBuf>,
}

fn chosen(mut args: impl Iterator<Item = String>) -> Result<Option<Chosen>, String> {
    let mut chosen = Chosen { targets: Vec::new(), seed: 1, inputs: 100_000, corpus: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        let number = |value: String| value.parse().map_err(|_| format!("{value:?} is no number"));
        match arg.as_str() {
            "--seed" => chosen.seed = number(value()?)?,
            "--inputs" => chosen.inputs = number(value()?)?,
            "--write-corpus" => chosen.corpus = Some(value()?.into()),
            "help" | "--help" | "-h" => return Ok(None),
            name => chosen.targets.push(target(name).ok_or_else(|| format!("there is no target {name:?}"))?),
        }
    }
    if chosen.targets.is_empty() {
        chosen.targets = TARGETS.to_vec();
    }
    Ok(Some(chosen))
}
