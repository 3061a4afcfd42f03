//! docs/invariants.md names every invariant; `QUORATE_REWRITE=1` writes its table anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::Invariant;

const HEAD: &str = "| | name | what holds |\n|---|---|---|\n";

#[test]
fn the_page_names_every_invariant() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/invariants.md");
    let page = std::fs::read_to_string(path).expect("the page can be read");
    let start = page.find(HEAD).expect("the page has a table") + HEAD.len();
    let mut expected = page[..start].to_owned();
    for invariant in Invariant::ALL {
        let row = format!("| {} | `{}` | {} |\n", invariant.number(), invariant.name(), invariant.text());
        expected.push_str(&row);
    }
    // What follows the table is about clusters.
    let end = page[start..].find("\n\n").map_or(page.len(), |blank| start + blank + 1);
    expected.push_str(&page[end..]);
    if std::env::var_os("QUORATE_REWRITE").is_some() {
        std::fs::write(path, &expected).expect("the page can be written");
    }
    assert_eq!(page, expected, "run this test with QUORATE_REWRITE=1 to write the table anew");
}
