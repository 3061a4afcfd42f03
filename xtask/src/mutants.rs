//! `mutants`: the golden scripts, or random runs, against every planted bug, built apart from everything else.

use std::path::Path;
use std::process::Command;

/// Builds with planted bugs, in a target directory of its own so that no other build can pick them up, and runs: the
/// golden scripts; with `--sim` first, random runs; with `--ci`, random runs with a sample of the bugs, and the test
/// that makes such a run short.
pub(crate) fn run(mut args: Vec<String>) -> Result<(), String> {
    match args.first().map(String::as_str) {
        Some("--sim") => {
            args.remove(0);
            example("quorate-sim", &args)
        }
        Some("--ci") => {
            cargo(&["test", "--test", "shrink"], "quorate-sim", &[])?;
            example("quorate-sim", &["--ci".to_owned(), "--seeds".to_owned(), "2000".to_owned()])
        }
        _ => example("quorate-testkit", &args),
    }
}

fn example(package: &str, args: &[String]) -> Result<(), String> {
    cargo(&["run", "--quiet", "--example", "mutants"], package, args)
}

fn cargo(what: &[&str], package: &str, args: &[String]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(what)
        .args(["--profile", "ci", "--package", package, "--features", "mutants"])
        .arg("--target-dir")
        .arg(root.join("target/mutants"))
        .arg("--")
        .args(args)
        .current_dir(&root)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{package} does not notice every planted bug")),
    }
}
