//! Cargo, as chores run it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the project is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs it to its end; `otherwise` says what it means that it failed.
pub(crate) fn succeed(command: &mut Command, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    match command.status().map_err(|error| format!("cannot run cargo: {error}"))?.success() {
        true => Ok(()),
        false => Err(otherwise()),
    }
}
