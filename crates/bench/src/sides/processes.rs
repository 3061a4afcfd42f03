//! Processes that this one starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program that the kernel ends with this one, if the system has `setpriv`.
pub(crate) fn ended_with_us(program: &Path) -> Command {
    let has_setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has_setpriv {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// This program, as it runs: also if its file was built anew since, so that all tables of a run measure one build.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}
