//! Hunts planted bugs with random seeds: `cargo xtask mutants --sim`. A smaller build than `quorate sim mutants`.

use std::process::ExitCode;
use std::time::Duration;

use quorate_sim::mutants::{Hunt, Results, SAMPLE, hunt_all, named};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let mut how = Hunt { first_seed: 1, seeds: 20_000, patience: Duration::from_secs(3600), jobs: 2, scenarios: true };
    let (mut names, mut sample, mut results) = (Vec::new(), false, Results::default());
    let (mut code, mut page) = (String::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse::<u64>().map_err(|error| format!("{arg}: {error}"))
        };
        match arg.as_str() {
            "--ci" => sample = true,
            "--no-scenarios" => how.scenarios = false,
            "--results" => {
                let path = args.next().ok_or("--results needs a file")?;
                results = Results::open(path.as_ref())?;
            }
            "--page" => page = Some(args.next().ok_or("--page needs a file")?),
            "--code" => code = args.next().ok_or("--code needs a name")?,
            "--seeds" => how.seeds = number()?,
            "--first-seed" => how.first_seed = number()?,
            "--seconds" => how.patience = Duration::from_secs(number()?),
            "--jobs" => how.jobs = number()? as usize,
            name => names.push(name.to_owned()),
        }
    }
    let bugs = if sample { SAMPLE.to_vec() } else { named(&names)? };
    let mut results = results.of_code(code);
    let all = hunt_all(&bugs, how, &mut results)?;
    page.map_or(Ok(()), |page| results.write_page(page.as_ref()))?;
    Ok(all)
}
