//! `deny`: what comes with Quorate, by deny.toml, if cargo-deny is installed.

use std::process::Command;

use crate::cargo::{cargo, root, succeed};

/// What needs nothing but the packages themselves.
const CHECKS: &[&str] = &["licenses", "bans", "sources"];

/// Runs cargo-deny: licences, bans and sources, or the checks that are named; says how to get it if it is not there.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let is_there = Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        return Err("cargo-deny is not installed: `cargo install --locked cargo-deny`, then again".to_owned());
    }
    let checks = if args.is_empty() { CHECKS.to_vec() } else { args.iter().map(String::as_str).collect() };
    let mut command = cargo();
    command.args(["deny", "--locked", "check", "--hide-inclusion-graph"]).args(&checks).current_dir(root());
    succeed(&mut command, || "something came in that deny.toml does not allow".to_owned())?;
    println!("deny: {} as deny.toml wants them", checks.join(", "));
    Ok(())
}
