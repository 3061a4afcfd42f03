//! The page of faults names every kind, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_sim::Fault;

#[test]
fn every_kind_has_its_row_in_the_docs() {
    let page = include_str!("../../../docs/faults.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let named = |fault: &Fault| rows.iter().any(|row| row.contains(&format!("`{fault}`")));
    let missing: Vec<&Fault> = Fault::ALL.iter().filter(|fault| !named(fault)).collect();
    assert_eq!(missing, Vec::<&Fault>::new());
    let names = rows.iter().flat_map(|row| row.split('|').nth(2)).flat_map(str::split_whitespace);
    assert_eq!(names.filter(|name| name.starts_with('`')).count(), Fault::ALL.len(), "a row of no kind");
}
