//! `fuzz`: the targets of `crates/fuzz`, built fast and with every check.

use crate::cargo::{cargo, root, succeed};

/// Runs them with these arguments.
pub(crate) fn run(args: Vec<String>) -> Result<(), String> {
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--profile", "fuzz", "--package", "quorate-fuzz", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .arg("--")
        .args(args);
    succeed(&mut command, || "hostile bytes did harm, or were not tried".to_owned())
}
