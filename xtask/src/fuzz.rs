//! `fuzz`: the targets of `crates/fuzz`, built fast and with every check.

use std::path::Path;
use std::process::Command;

/// Runs them with these arguments.
pub(crate) fn run(args: Vec<String>) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--profile", "fuzz", "--package", "quorate-fuzz", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .arg("--")
        .args(args)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("hostile bytes did harm, or were not tried".to_owned()),
    }
}
