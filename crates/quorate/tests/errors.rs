//! Every error that the library can hand out says whether to try again and whether its outcome is known. What it says is
//! tested where the errors are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::path::Path;

/// By the listing of the public API, which CI compares with the source.
#[test]
fn every_error_says_whether_it_is_retryable_and_whether_its_outcome_is_unknown() {
    let listing = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/quorate.txt");
    let listing = std::fs::read_to_string(listing).unwrap();
    let is_error = |item: &&str| item.lines().any(|line| line.trim_start().starts_with("impl Error for "));
    let errors: Vec<&str> = listing.split("\n\n").filter(is_error).collect();
    assert!(errors.len() >= 20, "there are {}", errors.len());
    for error in errors {
        let name = error.lines().next().unwrap();
        for method in ["pub fn is_retryable(&self) -> bool", "pub fn outcome_is_unknown(&self) -> bool"] {
            assert!(error.contains(method), "{name} has no `{method}`");
        }
        // Whoever stores a log must tell all cases of an entry that cannot be accepted apart; its page says so.
        let is_enum = name.starts_with("enum ") && !name.ends_with("::EntryError");
        let may_grow = error.contains("#[non_exhaustive]") || !is_enum;
        assert!(may_grow, "{name} is not `#[non_exhaustive]`: a new case would break those who match on it");
    }
}
