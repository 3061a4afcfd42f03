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
    for file in rust_files(&root.join("examples"))? {
        let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        if !is_test_file(&file) {
            println!("{:>7} {}", count_lines(&text).0, file.strip_prefix(&root).unwrap_or(&file).display());
        }
    }
    let mut beyond = Vec::new();
    for (name, most) in DEPENDENCIES {
        let tree =
            metadata::cargo(&["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}"])?;
        let (foreign, ours) = dependencies(&tree, name);
        println!("{name}: {foreign} dependencies from the registry (at most {most}), {ours} of our own");
        beyond.extend((foreign > *most).then_some(*name));
    }
    match beyond[..] {
        [] => Ok(()),
        _ => Err(format!("more dependencies than there may be: {}", beyond.join(", "))),
    }
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
    fn each_version_of_a_dependency_counts_once() {
        let tree = "quorate v0.1.0 (/w/quorate)\nbytes v1.0.0\nquorate-core v0.1.0 (/w/core)\nbytes v1.0.0 (*)\nserde_derive v1.0.0 (proc-macro)\nbytes v0.5.0\n\n";
        assert_eq!(dependencies(tree, "quorate"), (3, 1));
        assert_eq!(dependencies("quorate-core v0.1.0 (/w/core)\n", "quorate-core"), (0, 0));
    }
}
