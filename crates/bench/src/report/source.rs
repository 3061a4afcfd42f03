//! Which code was measured.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Where a process that measures one of several tables finds the commit that they are all of: the tree may move on while
/// they run, the program does not.
pub(crate) const COMMIT_OF_ALL: &str = "QUORATE_BENCH_COMMIT";

/// A commit and a compiler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Source {
    /// Twelve digits, and whether anything that is built differs from it; or "unknown".
    pub(crate) commit: String,
    /// What `rustc -V` says.
    pub(crate) rustc: String,
}

impl Default for Source {
    fn default() -> Self {
        Self { commit: "unknown".to_owned(), rustc: "unknown".to_owned() }
    }
}

impl Source {
    /// What this program was built of, as far as the repository still tells: ask before anything is built anew.
    pub(crate) fn this() -> Self {
        let unknown = Self::default();
        let rustc = said(Command::new("rustc").arg("-V")).unwrap_or(unknown.rustc);
        let commit = std::env::var(COMMIT_OF_ALL).ok().or_else(commit).unwrap_or(unknown.commit);
        Self { commit, rustc }
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!("commit {}, {}", self.commit, self.rustc)
    }
}

fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |words: &[&str]| said(Command::new("git").arg("-C").arg(&root).args(words));
    // Documents are not measured, and what this program writes is among them.
    let changed = git(&["status", "--porcelain", "--", ".", ":(exclude)docs", ":(exclude)*.md"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    Some(if changed.is_empty() { commit } else { commit + " and changes on top" })
}

/// What a program prints; `None` if it is not there or fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_or_fails_says_nothing() {
        assert_eq!(said(&mut Command::new("no-such-program-at-all")), None);
        assert_eq!(said(&mut Command::new("false")), None);
        assert_eq!(said(Command::new("echo").arg(" yes ")), Some("yes".to_owned()));
    }

    #[test]
    fn a_commit_has_twelve_digits_or_is_unknown() {
        let Some(commit) = commit() else { return };
        let digits: String = commit.chars().take_while(char::is_ascii_hexdigit).collect();
        assert!(digits.len() >= 12, "{commit}");
        assert!(["", " and changes on top"].contains(&&commit[digits.len()..]), "{commit}");
    }
}
