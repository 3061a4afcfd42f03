//! The page of bugs: every file of testdata/regression is named there, and each row names a test, a script or a seed that
//! there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/bugs-found.md";
const FOLDER: &str = "testdata/regression";

/// Where tests lie.
const TESTS: &[&str] = &["crates", "examples", "tests", "xtask"];

/// What a row says that names nothing, and knows.
const UNTESTED: &str = "no test of its own";

/// A name of so many words in the last cell of a row is meant to be a test's.
const WORDS_OF_A_TEST: usize = 4;

/// What is wrong with the page.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>, String> {
    let page = fs::read_to_string(root.join(PAGE)).map_err(|error| format!("cannot read {PAGE}: {error}"))?;
    let mut tests = BTreeSet::new();
    for folder in TESTS {
        collect_tests(&root.join(folder), &mut tests)?;
    }
    let files: Vec<String> = fs::read_dir(root.join(FOLDER))
        .map_err(|error| format!("cannot list {FOLDER}: {error}"))?
        .map(|entry| entry.map(|entry| format!("{FOLDER}/{}", entry.file_name().to_string_lossy())))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("cannot list {FOLDER}: {error}"))?;
    let mut found = unnamed(&page, &files);
    for row in rows(&page) {
        found.extend(judge(row, &tests, |path| root.join(path).exists()));
    }
    Ok(found.into_iter().map(|problem| format!("{PAGE}: {problem}")).collect())
}

/// Files that the page does not name.
fn unnamed(page: &str, files: &[String]) -> Vec<String> {
    let named: BTreeSet<&str> = page.lines().flat_map(quoted).collect();
    files.iter().filter(|file| !named.contains(file.as_str())).map(|file| format!("nothing names {file}")).collect()
}

fn rows(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with("| ")).skip(1)
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What is wrong with a row.
fn judge(row: &str, tests: &BTreeSet<String>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let what: String = row.trim_start_matches("| ").chars().take(60).collect();
    let fixed_by = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
    let is_path = |word: &&str| word.starts_with("testdata/") || word.starts_with("crates/");
    let mut problems: Vec<String> = quoted(row)
        .filter(is_path)
        .filter(|path| !exists(path))
        .map(|path| format!("\"{what}..\": there is no {path}"))
        .collect();
    let is_test = |word: &&str| word.split('_').count() >= WORDS_OF_A_TEST && !word.contains(['/', ':', ' ', '(']);
    problems.extend(
        quoted(fixed_by)
            .filter(is_test)
            .filter(|name| !tests.contains(*name))
            .map(|name| format!("\"{what}..\": there is no test {name}")),
    );
    let shows = |word: &str| {
        tests.contains(word) || exists(word) && (word.starts_with("testdata/") || word.contains("/tests/"))
    };
    if !quoted(row).any(shows) && !names_a_seed(row) && !row.contains(UNTESTED) {
        problems.push(format!("\"{what}..\" names no test, script or seed"));
    }
    problems
}

/// Whether it says `seed 17` somewhere, or `seeds 0 and 22`.
fn names_a_seed(row: &str) -> bool {
    let mut words = row.split_whitespace();
    while let Some(word) = words.next() {
        let digit = |next: &str| next.starts_with(|first: char| first.is_ascii_digit());
        if matches!(word.trim_start_matches(['(', '`', '-']), "seed" | "seeds")
            && words.clone().next().is_some_and(digit)
        {
            return true;
        }
    }
    false
}

/// The names of all tests below a folder.
fn collect_tests(folder: &Path, into: &mut BTreeSet<String>) -> Result<(), String> {
    let cannot = |error| format!("cannot read {}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect_tests(&path, into)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.extend(tests_of(&fs::read_to_string(&path).map_err(cannot)?));
        }
    }
    Ok(())
}

/// The functions of a program that an attribute calls tests.
fn tests_of(source: &str) -> Vec<String> {
    let (mut tests, mut marked) = (Vec::new(), false);
    for line in source.lines().map(str::trim_start) {
        let after = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "));
        if let Some(rest) = after {
            if marked {
                tests.extend(rest.split('(').next().map(str::to_owned));
            }
            marked = false;
        } else if let Some(attribute) = line.strip_prefix("#[") {
            let name = attribute.split(['(', ']']).next().unwrap_or_default();
            marked |= name == "test" || name.ends_with("::test");
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Bugs\n\n| what | found by | fixed by |\n|---|---|---|\n\
        | a | reading | `testdata/regression/a.txt` |\n| b | seed 7 | a check |\n";

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_file_that_no_row_names_is_a_problem() {
        let files = ["testdata/regression/a.txt", "testdata/regression/b.sim"].map(str::to_owned);
        assert_eq!(unnamed(PAGE, &files), ["nothing names testdata/regression/b.sim"]);
    }

    #[test]
    fn a_row_names_something_that_is_there() {
        let tests = names(&["it_holds_for_ever", "short"]);
        let judged =
            |row: &str| judge(row, &tests, |path| path == "testdata/a.txt" || path == "crates/x/tests/y.rs").len();
        assert_eq!(rows(PAGE).map(judged).collect::<Vec<_>>(), [2, 0], "a.txt is not there, and nothing else is named");
        for good in [
            "| a | b | so; `it_holds_for_ever` |",
            "| a | b | so; `short` |",
            "| a | b | `testdata/a.txt` |",
            "| a | lies (`crates/x/tests/y.rs`) | so |",
            "| a | `quorate sim --seed 661`: no leader | so |",
            "| a | lies, seeds 0 and 22 | so |",
            "| a | b | so; no test of its own |",
        ] {
            assert_eq!(judged(good), 0, "{good}");
        }
        for bad in [
            "| a | b | so (`src/a.rs`, `cover`) |",
            "| a | the seed of a doubt | so |",
            "| a | b | `testdata/a.txt`, `testdata/b.txt` |",
            "| a | b | `testdata/a.txt`, `it_held_for_ever` |",
        ] {
            assert_eq!(judged(bad), 1, "{bad}");
        }
    }

    #[test]
    fn only_functions_that_are_marked_are_tests() {
        let source = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test(flavor = \"x\")]\n// Why.\nasync fn three() {}\n\
            #[derive(Debug)]\nstruct Four;\n#[test]\n#[should_panic]\nfn five() {}\n";
        assert_eq!(tests_of(source), ["one", "three", "five"]);
    }
}
