//! `check-deps`: who may know whom.

use std::fs;
use std::path::{Path, PathBuf};

use crate::metadata::{self, Package};
use crate::source::{self, Token};

/// For each package, the packages of this workspace that it may depend on outside of its tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("quorate-core", &[]),
    ("quorate-wire", &["quorate-core"]),
    ("quorate-wal", &["quorate-wire", "quorate-core"]),
    ("quorate-net", &["quorate-wire", "quorate-core"]),
    ("quorate", &["quorate-net", "quorate-wal", "quorate-wire", "quorate-core"]),
    ("quorate-sim", &["quorate", "quorate-wal", "quorate-wire", "quorate-core", "quorate-testkit"]),
    // The server uses the public API and nothing below it: it is the proof that the API is enough.
    ("quorate-server", &["quorate", "quorate-sim"]),
    ("quorate-testkit", &["quorate", "quorate-net", "quorate-wal", "quorate-wire", "quorate-core"]),
    ("quorate-bench", &["quorate-server", "quorate", "quorate-core", "quorate-fuzz", "quorate-guard"]),
    ("quorate-guard", &["quorate", "quorate-wal", "quorate-wire", "quorate-core"]),
    ("quorate-explore", &["quorate-core"]),
    // Hostile bytes for all that reads bytes from outside.
    ("quorate-fuzz", &["quorate-server", "quorate", "quorate-net", "quorate-wal", "quorate-wire", "quorate-core"]),
    ("quorate-guide", &["quorate", "quorate-sim", "quorate-testkit"]),
    // Examples use what users do.
    ("bank", &["quorate", "quorate-sim"]),
    ("grpc", &["quorate"]),
    ("kv-http", &["quorate"]),
    ("redb-log", &["quorate"]),
    ("redb-map", &["quorate"]),
    ("sqlite", &["quorate"]),
    ("xtask", &[]),
];

/// What tests of every package may use besides.
const FOR_TESTS: &[&str] = &["quorate-testkit"];

/// All that the protocol core may take from outside.
const CORE_MAY_USE: &[&str] = &["bytes"];

/// Words that have no place in the core, and why.
const FORBIDDEN_WORDS: &[(&str, &str)] = &[
    ("HashMap", "the order of iteration is behaviour; use BTreeMap"),
    ("HashSet", "the order of iteration is behaviour; use BTreeSet"),
    ("hash_map", "the order of iteration is behaviour"),
    ("RandomState", "a run must be a function of its inputs"),
    ("SystemTime", "time comes in with each step"),
    ("rand", "chance comes from the generator in the core's state"),
    ("getrandom", "chance comes from the generator in the core's state"),
    ("serde", "bytes are quorate-wire's"),
    ("tracing", "logging is data: Action::Note"),
    ("println", "logging is data: Action::Note"),
    ("eprintln", "logging is data: Action::Note"),
    ("dbg", "logging is data: Action::Note"),
    ("tokio", "the core never waits"),
    ("async", "the core never waits"),
    ("await", "the core never waits"),
];

/// Modules of `std` that the core must not touch.
const FORBIDDEN_MODULES: &[&str] = &["env", "fs", "io", "net", "process", "thread"];

/// The one file that asks the environment: which bug is planted, in builds with the feature `mutants` only.
const PLANTS_BUGS: &str = "bug.rs";

/// Prints every violation; fails if there is one.
pub(crate) fn check() -> Result<(), String> {
    let packages = metadata::workspace()?;
    let mut violations: Vec<String> = packages.iter().flat_map(|package| check_arrows(package, &packages)).collect();
    let core = packages.iter().find(|package| package.name == "quorate-core").ok_or("there is no quorate-core")?;
    let files = rust_files(&core.directory.join("src"))?;
    for file in &files {
        let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let may_ask = file.ends_with(PLANTS_BUGS);
        violations.extend(
            check_core_source(&text, may_ask)
                .into_iter()
                .map(|(line, what)| format!("{}:{line}: {what}", file.display())),
        );
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    if !violations.is_empty() {
        return Err(format!("{} violations of the directions in ARCHITECTURE.md", violations.len()));
    }
    println!("check-deps: {} packages and {} files of the core keep their directions", packages.len(), files.len());
    Ok(())
}

fn check_arrows(package: &Package, workspace: &[Package]) -> Vec<String> {
    let name = &package.name;
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
        return vec![format!("{name}: no direction is known for it; add it to ARROWS in xtask/src/deps.rs")];
    };
    let mut violations = Vec::new();
    for dependency in &package.dependencies {
        let to = dependency.name.as_str();
        let is_ours = workspace.iter().any(|other| other.name == to);
        if is_ours && !allowed.contains(&to) && !(dependency.is_dev && FOR_TESTS.contains(&to)) {
            violations.push(format!("{name} must not depend on {to}"));
        }
        if name == "quorate-core" && !is_ours && !dependency.is_dev && !CORE_MAY_USE.contains(&to) {
            violations.push(format!("{name} must not depend on {to}: it may use {CORE_MAY_USE:?} and nothing else"));
        }
    }
    violations
}

/// Lines of a file of the core with something that must not be there; the environment may be there if it `may_ask`.
fn check_core_source(text: &str, may_ask: bool) -> Vec<(usize, String)> {
    let tokens = source::tokens(text);
    let mut violations = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if let Some((word, why)) = FORBIDDEN_WORDS.iter().find(|(word, _)| *word == token.text) {
            violations.push((token.line, format!("`{word}` in the core: {why}")));
        }
        if matches(&tokens[at..], &["Instant", "::", "now"]) {
            violations.push((token.line, "`Instant::now` in the core: time comes in with each step".to_owned()));
        }
        if matches(&tokens[at..], &["std", "::"]) {
            for module in first_segments(&tokens[at + 2..]) {
                if FORBIDDEN_MODULES.contains(&module.text) && !(may_ask && module.text == "env") {
                    violations.push((
                        module.line,
                        format!("`std::{}` in the core: it is a function of its inputs", module.text),
                    ));
                }
            }
        }
    }
    violations
}

fn matches(tokens: &[Token<'_>], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
}

/// What follows a `std::`: one name, or the first names of every branch of a group.
fn first_segments<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    match tokens.first() {
        Some(token) if token.text == "{" => {}
        Some(token) => return vec![*token],
        None => return Vec::new(),
    }
    let (mut depth, mut is_start, mut names) = (0_usize, false, Vec::new());
    for token in tokens {
        match token.text {
            "{" => {
                depth += 1;
                is_start = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => is_start = depth == 1,
            _ if is_start => {
                names.push(*token);
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

/// Every `.rs` file below a directory, in the order of their names.
pub(crate) fn rust_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error| format!("cannot list {}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies =
            dependencies.iter().map(|(name, is_dev)| Dependency { name: (*name).to_owned(), is_dev: *is_dev });
        Package { name: name.to_owned(), directory: PathBuf::new(), dependencies: dependencies.collect() }
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let workspace: Vec<Package> = ARROWS.iter().map(|(name, _)| package(name, &[])).collect();
        let check = |package: &Package| check_arrows(package, &workspace);
        assert!(check(&package("quorate-wal", &[("quorate-core", false), ("crc32c", false)])).is_empty());
        assert!(check(&package("quorate-core", &[("quorate-testkit", true), ("proptest", true)])).is_empty());
        assert_eq!(
            check(&package("quorate-wal", &[("quorate-net", false)])),
            ["quorate-wal must not depend on quorate-net"]
        );
        assert_eq!(check(&package("quorate-wal", &[("quorate", true)])), ["quorate-wal must not depend on quorate"]);
        assert_eq!(check(&package("quorate-server", &[("quorate-wal", false)])).len(), 1);
        assert_eq!(check(&package("quorate-wire", &[("quorate-testkit", false)])).len(), 1);
        assert!(check(&package("quorate-core", &[("smallvec", false)]))[0].contains("nothing else"));
        assert!(check(&package("stranger", &[]))[0].contains("ARROWS"));
    }

    #[test]
    fn what_the_core_must_not_touch_is_found_however_it_is_written() {
        let found = |text: &str| check_core_source(text, false).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
        assert!(found("use std::collections::BTreeMap;\nuse std::time::Duration; // HashMap, std::fs\n").is_empty());
        assert_eq!(found("use std::fs;"), [1]);
        assert_eq!(found("fn f() { std::thread::yield_now() }"), [1]);
        assert_eq!(found("use std::{\n    fmt::{self, Display},\n    net::IpAddr,\n};"), [3]);
        assert_eq!(found("use std::collections::{BTreeMap, HashMap};"), [1]);
        assert_eq!(found("\nlet x = Instant::now();"), [2]);
        assert_eq!(found("async fn f() {}"), [1]);
        assert!(found("let s = \"HashMap\"; let brand = net::x;").is_empty());
        assert_eq!((found("use std::env;"), check_core_source("use std::env;", true)), (vec![1], vec![]));
        assert_eq!(check_core_source("use std::fs;", true).len(), 1);
    }
}
