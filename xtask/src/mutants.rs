//! `mutants`: the golden scripts against every planted bug, built apart from everything else.

use std::path::Path;
use std::process::Command;

/// Builds the script runner with planted bugs, in a target directory of its own so that no other build can pick
/// them up, and runs it.
pub(crate) fn run(names: Vec<String>) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--profile", "ci", "--package", "quorate-testkit", "--example", "mutants"])
        .args(["--features", "mutants"])
        .arg("--target-dir")
        .arg(root.join("target/mutants"))
        .arg("--")
        .args(names)
        .current_dir(&root)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("the scripts do not notice every planted bug".to_owned()),
    }
}
