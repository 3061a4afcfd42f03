//! The pages that say which script shows what name scripts and planted bugs that exist.

use std::path::Path;

use quorate_core::Bug;

/// Words in backticks in the rows of the tables of a page.
fn named(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>()).collect()
}

fn is_script(name: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(format!("{name}.txt")).is_file()
}

/// Scripts of `testdata/published` are named without their folder on their own page.
fn check(page: &str, folder: &str) {
    let (mut scripts, mut bugs) = (0, 0);
    for name in named(page) {
        let is_bug = name.starts_with(|first: char| first.is_ascii_uppercase());
        let is_path = name.contains('-') || name.contains('/');
        if is_bug {
            assert!(
                Bug::ALL.iter().any(|bug| bug.name() == name),
                "{page} names the planted bug {name}: there is none"
            );
            bugs += 1;
        } else if is_path && !name.ends_with(".rs") {
            let full = if name.contains('/') { name.clone() } else { format!("{folder}/{name}") };
            assert!(is_script(&full), "{page} names the script {full}: there is none");
            scripts += 1;
        }
    }
    assert!(scripts > 10 && bugs > 10, "{page} has a table with {scripts} scripts and {bugs} planted bugs");
}

#[test]
fn the_page_of_laws_names_scripts_and_bugs_that_exist() {
    check("laws.md", "published");
}

#[test]
fn the_page_of_published_bugs_names_scripts_and_bugs_that_exist() {
    check("published-bugs.md", "published");
}

#[test]
fn every_published_bug_has_its_line() {
    let named = named("published-bugs.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/published");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.path().with_extension("");
        let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        assert!(named.contains(&name), "published-bugs.md does not name {name}");
    }
}
