//! How many planted bugs' failing runs become golden scripts: `cargo xtask mutants --told`.
//!
//! Takes the file of a hunt (docs/mutants-hunt.tsv), plays the seed that caught each bug, makes the run short and tells it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use quorate_sim::{Golden, Options, golden, mutants, run_within, shrink};

/// Shorter runs and shorter scripts that are tried for each bug.
const TRIES: usize = 120;

fn main() -> ExitCode {
    // What a run panics of is in its report.
    std::panic::set_hook(Box::new(|_| {}));
    let mut args = std::env::args().skip(1);
    let Some(Ok(hunted)) = args.next().map(std::fs::read_to_string) else {
        println!("name the file of a hunt that can be read, and bugs, if not all of them");
        return ExitCode::FAILURE;
    };
    let only: BTreeSet<String> = args.collect();
    let (mut tried, mut sizes) = (0, Vec::new());
    for line in hunted.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[name, seed, check, ..] = &fields[..] else { continue };
        let Some(seed) = seed.parse().ok().filter(|_| check != "-") else { continue };
        if !only.is_empty() && !only.contains(name) || mutants::plant_named(name).is_err() {
            continue;
        }
        let Some(short) = shrink(Options::of_seed(seed), TRIES as u64, run_within) else {
            println!("{name}: seed {seed} holds: hunt again");
            continue;
        };
        tried += 1;
        let Golden { commands, violates, before, undone, .. } = golden(short.after.options, TRIES);
        let undone = undone.len();
        match violates {
            Some(what) => {
                sizes.push(commands.len());
                let what = what.rsplit_once("}): ").map_or(what.as_str(), |(_, claim)| claim);
                println!("{name}: {} of {before} commands, {undone} undone: {what}", commands.len());
            }
            None => println!("{name}: {before} commands, {undone} undone: nothing is violated ({check})"),
        }
    }
    sizes.sort_unstable();
    let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    println!(
        "{} of {tried} bugs become scripts that violate something, of {median} commands in the median",
        sizes.len()
    );
    ExitCode::SUCCESS
}
