//! `deny`: what comes with Quorate, by deny.toml: checked here, and by cargo-deny too if it is installed.

use std::process::Command;

use crate::allowed;
use crate::cargo::{cargo, root, succeed};

/// What needs nothing but the packages themselves.
const CHECKS: &[&str] = &["licenses", "bans", "sources"];

/// Checks licences, bans and sources; with cargo-deny, which reads the texts of licences too, if it is there. Checks that are
/// named are cargo-deny's alone.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let is_there = Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success());
    if args.is_empty() {
        allowed::check()?;
        if !is_there {
            println!("deny: cargo-deny, which also reads licence texts, is not installed");
            return Ok(());
        }
    }
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
