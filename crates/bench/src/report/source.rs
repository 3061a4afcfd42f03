//! Which code was measured: what `build.rs` noted when this program was built.

use serde::{Deserialize, Serialize};

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
    /// What this program was built of, and by.
    pub(crate) fn this() -> Self {
        Self { commit: env!("QUORATE_BENCH_COMMIT").to_owned(), rustc: env!("QUORATE_BENCH_RUSTC").to_owned() }
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!("commit {}, {}", self.commit, self.rustc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_twelve_digits_or_is_unknown() {
        let Source { commit, rustc } = Source::this();
        let digits: String = commit.chars().take_while(char::is_ascii_hexdigit).collect();
        let is_commit = digits.len() >= 12 && ["", " and changes on top"].contains(&&commit[digits.len()..]);
        assert!(is_commit || commit == "unknown", "{commit}");
        assert!(rustc.starts_with("rustc "), "{rustc}");
    }
}
