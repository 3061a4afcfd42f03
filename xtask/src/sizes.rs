//! `sizes`: how much there is to read, and how much comes with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::deps::rust_files;
use crate::metadata;
use crate::source::{count_lines, functions};

/// A function beyond this is named: it may hold two concepts.
const LONG_FUNCTION: usize = 70;

/// How many crates from the registry may come with what people import, and with the server.
const DEPENDENCIES: &[(&str, usize)] = &[("quorate-core", 1), ("quorate", 60), ("quorate-server", 120)];

/// Most lines of examples that are shown for how short they are. The counter is all that a user writes for a state machine
/// of their own on three durable nodes.
const EXAMPLES: &[(&str, usize)] = &[("examples/counter.rs", 30), ("examples/sqlite/src/main.rs", 200)];

/// Prints lines of code of each crate and example, long functions, and the dependencies of the two crates that people
/// import.
pub(crate) fn print() -> Result<(), String> {
    println!("{:<18} {:>7} {:>7}   lines that are neither blank nor comment", "crate", "code", "tests");
    let (mut all_code, mut all_tests, mut long) = (0, 0, Vec::new());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    for package in metadata::workspace()? {
        let (mut code, mut tests) = (0, 0);
        for folder in ["src", "tests", "examples", "benches"] {
            let folder_path = package.directory.join(folder);
            if !folder_path.is_dir() {
                continue;
            }
            for file in rust_files(&folder_path)? {
                let text =
                    fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
                long.extend(
                    functions(&text)
                        .into_iter()
                        .filter(|(_, _, lines)| *lines > LONG_FUNCTION)
                        .map(|(function, line, lines)| (lines, format!("{name}:{line} {function}"))),
                );
                let (in_code, in_tests) = count_lines(&text);
                let is_test = folder != "src" || is_test_file(file.strip_prefix(&package.directory).unwrap_or(&file));
                code += if is_test { 0 } else { in_code };
                tests += in_tests + if is_test { in_code } else { 0 };
            }
        }
        println!("{:<18} {code:>7} {tests:>7}", package.name);
        all_code += code;
        all_tests += tests;
    }
    println!("{:<18} {all_code:>7} {all_tests:>7}\n", "all");
    long.sort_unstable_by(|a, b| b.cmp(a));
    println!("{} functions of more than {LONG_FUNCTION} lines", long.len());
    long.iter().for_each(|(lines, name)| println!("{lines:>7} {name}"));
    println!("lines of the examples, all that a user writes, their tests apart:");
    let mut examples = Vec::new();
    for file in rust_files(&root.join("examples"))? {
        let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        if !is_test_file(&file) {
            let (name, lines) = (file.strip_prefix(&root).unwrap_or(&file).display().to_string(), count_lines(&text).0);
            println!("{lines:>7} {name}");
            examples.push((name, lines));
        }
    }
    let too_long = too_long(&examples);
    let mut beyond = Vec::new();
    for (name, most) in DEPENDENCIES {
        let tree =
            metadata::cargo(&["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}"])?;
        let (foreign, ours) = dependencies(&tree, name);
        println!("{name}: {foreign} dependencies from the registry (at most {most}), {ours} of our own");
        beyond.extend((foreign > *most).then_some(*name));
    }
    match (&beyond[..], &too_long[..]) {
        ([], []) => Ok(()),
        ([], _) => Err(too_long.join("\n")),
        (_, _) => Err(format!("more dependencies than there may be: {}\n{}", beyond.join(", "), too_long.join("\n"))),
    }
}

/// What is wrong with examples of so many lines.
fn too_long(counted: &[(String, usize)]) -> Vec<String> {
    let wrong = |(name, most): &(&str, usize)| match counted.iter().find(|(found, _)| found == name) {
        None => Some(format!("{name}, of at most {most} lines, is not there")),
        Some((_, lines)) => (lines > most).then(|| format!("{name} has {lines} lines, and may have {most}")),
    };
    EXAMPLES.iter().filter_map(wrong).collect()
}

/// Lines of code below a folder, its tests apart.
pub(crate) fn lines_of(folder: &Path) -> Result<usize, String> {
    let mut lines = 0;
    for file in rust_files(folder)?.iter().filter(|file| !is_test_file(file.strip_prefix(folder).unwrap_or(file))) {
        let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        lines += count_lines(&text).0;
    }
    Ok(lines)
}

/// Whether a file below `src` is a module of tests: `tests.rs`, or anything below `tests/`.
fn is_test_file(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// Distinct packages in what `cargo tree` printed, the root left out: (from the registry, of this workspace).
pub(crate) fn dependencies(tree: &str, root: &str) -> (usize, usize) {
    // A line is `name v1.2.3`, `(/path)` follows for a package of ours, `(proc-macro)` or `(*)` may.
    let is_ours = |line: &str| line.contains("(/");
    let packages: BTreeSet<(&str, &str, bool)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?, is_ours(line)))
        })
        .filter(|(name, _, _)| *name != root)
        .collect();
    let ours = packages.iter().filter(|(_, _, ours)| *ours).count();
    (packages.len() - ours, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_tests_are_known_by_their_path() {
        assert!(is_test_file(Path::new("src/log/tests.rs")));
        assert!(is_test_file(Path::new("src/mvcc/tests/model.rs")));
        assert!(!is_test_file(Path::new("src/contests.rs")));
    }

    #[test]
    fn an_example_that_grows_beyond_its_bound_is_named() {
        let counted = |counter, sql| {
            let names = ["examples/counter.rs", "examples/sqlite/src/main.rs"].map(str::to_owned);
            let lines: [Option<usize>; 2] = [counter, sql];
            too_long(&names.into_iter().zip(lines).filter_map(|(name, lines)| Some((name, lines?))).collect::<Vec<_>>())
        };
        assert_eq!(counted(Some(30), Some(200)), [""; 0]);
        assert_eq!(counted(Some(31), Some(1)), ["examples/counter.rs has 31 lines, and may have 30"]);
        assert_eq!(counted(Some(1), None), ["examples/sqlite/src/main.rs, of at most 200 lines, is not there"]);
    }

    #[test]
    fn each_version_of_a_dependency_counts_once() {
        let tree = "quorate v0.1.0 (/w/quorate)\nbytes v1.0.0\nquorate-core v0.1.0 (/w/core)\nbytes v1.0.0 (*)\nserde_derive v1.0.0 (proc-macro)\nbytes v0.5.0\n\n";
        assert_eq!(dependencies(tree, "quorate"), (3, 1));
        assert_eq!(dependencies("quorate-core v0.1.0 (/w/core)\n", "quorate-core"), (0, 0));
    }
}
