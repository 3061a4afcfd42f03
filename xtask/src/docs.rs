//! `check-docs`: links between our pages lead somewhere, the scripts and tests that COMPARE.md names are there, the guide names every
//! example and no field or method that there is not, the program that README.md shows is the one that is tested, the figures of "What it takes to begin" are those that are
//! counted, and the page of bugs names what keeps them away.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::deps::rust_files;

/// The example that README.md shows, and CI runs.
const EXAMPLE: &str = "examples/counter.rs";

/// Pages that show it: the project's, and the one that opens the library's documentation.
const SHOW_IT: &[&str] = &["README.md", "crates/quorate/README.md"];

/// Where the guide lists all examples.
const EXAMPLES: &str = "docs/guide/src/examples.md";

/// Where the names are that the guide may use, besides docs/api: metrics, events, and tunables of an example.
const NAMES: &[&str] = &["crates/quorate/src/meters/page.txt", "crates/quorate/src/events/events.md"];

/// The chapter that names OpenRaft's fields and methods, too.
const OF_ANOTHER: &str = "openraft.md";

/// A feature of the crate `tracing` that the guide names.
const FOREIGN: &[&str] = &["max_level_info"];

/// Prints every broken link; fails if there is one, or if a page shows another program.
pub(crate) fn check() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let mut broken = 0;
    let pages = pages(&root)?;
    for page in &pages {
        let text = read(page)?;
        for link in links(&text) {
            let target = page.parent().unwrap_or(&root).join(link);
            if !target.exists() {
                eprintln!("{}: there is no {link}", page.display());
                broken += 1;
            }
        }
    }
    let compare = read(&root.join("COMPARE.md"))?;
    let mut functions = BTreeSet::new();
    for file in rust_files(&root.join("crates"))? {
        functions.extend(declared(&read(&file)?).map(str::to_owned));
    }
    for test in tests_named(&compare).filter(|name| !functions.contains(*name)) {
        eprintln!("COMPARE.md: there is no test {test}");
        broken += 1;
    }
    for script in scripts(&compare) {
        if !root.join("testdata").join(format!("{script}.txt")).exists() {
            eprintln!("COMPARE.md: there is no script {script}");
            broken += 1;
        }
    }
    let listed = read(&root.join(EXAMPLES))?;
    for name in names(&root.join("examples"))? {
        if !listed.contains(&format!("| `{name}` |")) {
            eprintln!("{EXAMPLES}: there is no row for examples/{name}");
            broken += 1;
        }
    }
    broken += unknown_names(&root)?;
    let example = program(&read(&root.join(EXAMPLE))?);
    for page in SHOW_IT {
        if !read(&root.join(page))?.contains(&example) {
            eprintln!("{page} does not show {EXAMPLE} as it is, without its first doc comment");
            broken += 1;
        }
    }
    for problem in crate::figures::problems(&root)? {
        eprintln!("{problem}");
        broken += 1;
    }
    for problem in crate::bugs::problems(&root)? {
        eprintln!("{problem}");
        broken += 1;
    }
    match broken {
        0 => {
            println!("check-docs: {} pages, every link leads somewhere", pages.len());
            Ok(())
        }
        _ => Err(format!("{broken} problems in the pages")),
    }
}

/// Prints what the guide's chapters name and no listing of the public API has; returns how many there are.
fn unknown_names(root: &Path) -> Result<usize, String> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let api = root.join("docs/api");
    let listings = names(&api)?.into_iter().map(|name| api.join(name));
    let mut known = BTreeSet::new();
    for file in listings.chain(NAMES.iter().map(|name| root.join(name))) {
        known.extend(words(&read(&file)?).map(str::to_owned));
    }
    let chapters = root.join("docs/guide/src");
    let mut unknown = 0;
    for chapter in names(&chapters)?.into_iter().filter(|name| name != OF_ANOTHER) {
        for name in named(&read(&chapters.join(&chapter))?) {
            if !known.contains(name) && !FOREIGN.contains(&name) {
                eprintln!("docs/guide/src/{chapter}: there is no {name}");
                unknown += 1;
            }
        }
    }
    Ok(unknown)
}

/// The words of a text, as programs have them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What stands in backticks on one line of text and has an underscore between its letters: fields and methods, metrics, events. Snippets
/// are compiled, and need no check.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    let spans = prose.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_one = |span: &&str| {
        span.trim_matches('_').contains('_') && words(span).count() <= 2 && !span.contains(['/', '.', ' '])
    };
    spans.filter(is_one).flat_map(words).filter(|word| word.contains('_'))
}

/// Our pages: what lies at the root, in docs/, the guide's chapters, and beside the tests.
fn pages(root: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/design", "docs/guide/src", "testdata", "tests/etcd-process"] {
        let folder = root.join(folder);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.map_err(|error| format!("cannot list {}: {error}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What lies in a folder, by name.
fn names(folder: &Path) -> Result<Vec<String>, String> {
    let cannot = |error| format!("cannot list {}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(cannot)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
    // What an example leaves behind when it is run there.
    names.retain(|name| name != "data");
    names.sort();
    Ok(names)
}

/// The golden scripts that a table names: `dir/name` in the last cell of a row.
fn scripts(text: &str) -> Vec<&str> {
    let cells = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.rsplit('|').nth(1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.filter(|word| word.split('/').count() == 2 && !word.contains(['(', '.', ' '])).collect()
}

/// The tests that a page names: words in backticks with four underscores or more, which only tests have, and these few fields.
fn tests_named(text: &str) -> impl Iterator<Item = &str> {
    const FIELDS: &[&str] = &["max_in_snapshot_log_to_keep", "snapshot_max_bytes_per_second"];
    let is_name = |word: &&str| {
        word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && word.bytes().filter(|byte| *byte == b'_').count() >= 4
    };
    let words = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    words.filter(is_name).filter(|word| !FIELDS.contains(word))
}

/// The functions of a source.
fn declared(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.split("fn ").skip(1);
    starts.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
}

/// The relative targets of `[text](target)`, without `#section`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.match_indices("](").filter_map(|(at, _)| {
        let rest = &text[at + 2..];
        rest.find(')').map(|end| &rest[..end])
    });
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://") && !file.contains(char::is_whitespace)).collect()
}

/// A program without the comment that opens it.
fn program(source: &str) -> String {
    source.lines().skip_while(|line| line.starts_with("//!")).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_files_count() {
        let text = "[a](A.md) [b](b/c.md#part) [web](https://x.org) [here](#part) `x[0](y z)`";
        assert_eq!(links(text), ["A.md", "b/c.md"]);
    }

    #[test]
    fn scripts_stand_in_the_last_cell() {
        let text = "`no/row`\n| a | `not/last` | `dir/one`, `a_test`, `dir/two` |\n|---|---|---|\n| b | c | |";
        assert_eq!(scripts(text), ["dir/one", "dir/two"]);
    }

    #[test]
    fn names_are_found_outside_of_snippets() {
        let text = "a `write_timeout`, `Config::read_timeout`, `fn()`\n```rust\n`no_snippet`\n```\n`a/path_of.rs` `within(..)` `to_end()`";
        assert_eq!(named(text).collect::<Vec<_>>(), ["write_timeout", "read_timeout", "to_end"]);
        assert_eq!(words("pub fn a_b(c: d)").collect::<Vec<_>>(), ["pub", "fn", "a_b", "c", "d"]);
    }

    #[test]
    fn tests_are_told_from_fields() {
        let text = "`a_node_that_stops_is_told`, `max_append_bytes` and `snapshot_max_bytes_per_second`";
        assert_eq!(tests_named(text).collect::<Vec<_>>(), ["a_node_that_stops_is_told"]);
        assert_eq!(declared("async fn a_b() {}\nfn c<T>() {}").collect::<Vec<_>>(), ["a_b", "c"]);
    }

    #[test]
    fn a_program_starts_after_its_doc_comment() {
        assert_eq!(program("//! What.\n//! More.\nuse a;\nfn main() {}\n"), "use a;\nfn main() {}\n");
    }
}
