//! `coverage`: which lines of the protocol, the formats and the log are run by their tests and by simulated seeds.
//!
//! Built with `-C instrument-coverage` in a target directory of its own. The tools that read what such programs write are
//! rustup's component `llvm-tools`, of the compiler's own version: others do not know its format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::source::tests_begin;

/// Crates whose lines are counted.
const MEASURED: &[&str] = &["core", "wire", "wal"];
/// Packages whose tests are run.
const TESTED: &[&str] = &["quorate-core", "quorate-wire", "quorate-wal", "quorate-testkit"];
/// Simulated seeds, unless the command line says otherwise.
const SEEDS: &str = "300";
/// States of each scope of the exhaustive search: enough to come by all that only it uses.
const EXPLORED: &str = "2000";
/// Below this share of covered lines the chore fails.
const LEAST_PERCENT: f64 = 95.0;
/// A crate's share may be smaller than the page says by so many points: chance decides about some lines.
const MOST_LOST: f64 = 0.5;
/// The page with a reason for every line of the core that nothing runs.
const REASONS: &str = "docs/coverage.md";
const TARGET: &str = "target/coverage";

/// `[--seeds N] [--write]`: runs the tests and so many simulated seeds, prints lines covered by file, and checks the
/// reasons and the shares of the page, or writes the shares into it.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let write = args.last().is_some_and(|flag| flag == "--write");
    let seeds = match &args[..args.len() - usize::from(write)] {
        [] => SEEDS,
        [flag, number] if flag == "--seeds" => number.as_str(),
        _ => return Err(format!("unexpected arguments {args:?}; see `cargo xtask help`")),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    let tools = tools()?;
    let profiles = root.join(TARGET).join("profiles");
    // Counts of programs that were built from other lines would be added.
    let _ = fs::remove_dir_all(&profiles);
    let tested: Vec<&str> = TESTED.iter().flat_map(|name| ["--package", name]).collect();
    let mut programs = BTreeSet::new();
    programs.extend(cargo(&root, &[&["test", "--no-run", "--message-format=json"][..], &tested].concat(), true)?);
    cargo(&root, &[&["test", "--quiet"][..], &tested].concat(), false)?;
    for (program, arguments) in [
        (&["--package", "quorate-sim", "--example", "seeds"][..], &[seeds][..]),
        (&["--package", "quorate-explore"][..], &["--states", EXPLORED][..]),
    ] {
        programs.extend(cargo(&root, &[&["build", "--message-format=json"][..], program].concat(), true)?);
        cargo(&root, &[&["run", "--quiet"][..], program, &["--"], arguments].concat(), false)?;
    }
    let lcov = export(&root, &tools, &profiles, &programs)?;
    report(&root, &lcov, write)
}

/// The directory of `llvm-profdata` and `llvm-cov`.
fn tools() -> Result<PathBuf, String> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = said("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not name its host")?;
    let directory = Path::new(&said("rustc", &["--print", "sysroot"])?).join("lib/rustlib").join(host).join("bin");
    if !directory.join("llvm-cov").exists() {
        said("rustup", &["component", "add", "llvm-tools"])?;
    }
    match directory.join("llvm-cov").exists() {
        true => Ok(directory),
        false => Err("there is no llvm-cov: `rustup component add llvm-tools` did not bring it".to_owned()),
    }
}

/// Runs cargo with instrumentation; with `listed` it returns the programs that were built.
fn cargo(root: &Path, args: &[&str], listed: bool) -> Result<Vec<PathBuf>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(&args[..1])
        .arg("--target-dir")
        .arg(root.join(TARGET))
        .args(&args[1..])
        .current_dir(root)
        .env("RUSTFLAGS", "-C instrument-coverage")
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("LLVM_PROFILE_FILE", root.join(TARGET).join("profiles/%m-%p.profraw"))
        .stdout(if listed { Stdio::piped() } else { Stdio::inherit() })
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", args.join(" ")));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?))).collect())
}

/// What `llvm-cov` says about every line, as lcov.
fn export(root: &Path, tools: &Path, profiles: &Path, programs: &BTreeSet<PathBuf>) -> Result<String, String> {
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    let merged = root.join(TARGET).join("merged.profdata");
    let entries = fs::read_dir(profiles).map_err(|error| format!("{}: {error}", profiles.display()))?;
    let raw = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let list: Vec<String> = raw.map(|path| path.display().to_string()).collect();
    let inputs = root.join(TARGET).join("profiles.txt");
    fs::write(&inputs, list.join("\n")).map_err(|error| format!("{}: {error}", inputs.display()))?;
    run(Command::new(tools.join("llvm-profdata"))
        .args(["merge", "--sparse", "--input-files"])
        .arg(inputs)
        .arg("-o")
        .arg(&merged))?;
    let mut command = Command::new(tools.join("llvm-cov"));
    command.args(["export", "--format=lcov", "--instr-profile"]).arg(&merged);
    for program in programs {
        command.arg("--object").arg(program);
    }
    command.arg("--sources").args(MEASURED.iter().map(|name| root.join("crates").join(name).join("src")));
    String::from_utf8(run(&mut command)?).map_err(|_| "llvm-cov did not print text".to_owned())
}

/// How often each line of each file was run.
type Counts = BTreeMap<PathBuf, BTreeMap<usize, u64>>;

fn parse(lcov: &str) -> Counts {
    let (mut counts, mut file) = (Counts::new(), PathBuf::new());
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = PathBuf::from(path);
        } else if let Some((number, count)) = line.strip_prefix("DA:").and_then(|rest| rest.split_once(','))
            && let (Ok(number), Ok(count)) = (number.parse(), count.parse::<u64>())
        {
            *counts.entry(file.clone()).or_default().entry(number).or_default() += count;
        }
    }
    counts
}

/// One file's lines that count, and those that nothing ran.
#[derive(Debug, Default, PartialEq, Eq)]
struct Covered {
    lines: usize,
    /// With their numbers, from 1, and the function they are in.
    missed: Vec<(usize, String, String)>,
}

/// Tests are no lines that count, and neither are planted bugs, which these builds leave out.
fn covered(source: &str, counts: &BTreeMap<usize, u64>) -> Covered {
    let lines: Vec<&str> = source.lines().collect();
    let planted = planted(&lines);
    let mut covered = Covered::default();
    for (number, count) in counts.range(..=tests_begin(source)) {
        if *number == 0 || planted.contains(number) {
            continue;
        }
        covered.lines += 1;
        if *count == 0 {
            let line = lines.get(number - 1).map_or("", |line| line.trim()).to_owned();
            covered.missed.push((*number, function(&lines, *number), line));
        }
    }
    covered
}

/// The name of the function that a line, from 1, is in or begins; empty outside of functions.
fn function(lines: &[&str], number: usize) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let Some(line) = lines.get(number - 1) else { return String::new() };
    let above = lines[..number - 1].iter().rev().filter(|above| indent(above) < indent(line));
    let names = std::iter::once(line).chain(above).filter(|line| !line.trim_start().starts_with("//"));
    let mut names = names.filter_map(|line| line.split_once("fn ").filter(|(before, _)| is_before_fn(before)));
    let name = names.next().map(|(_, rest)| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next());
    name.flatten().unwrap_or_default().to_owned()
}

/// Whether this may stand before the word `fn` of an item.
fn is_before_fn(words: &str) -> bool {
    words
        .split_whitespace()
        .all(|word| ["const", "async", "unsafe", "extern"].contains(&word) || word.starts_with("pub"))
        || words.trim_start().starts_with("pub(")
}

/// Lines, from 1, that ask for a planted bug, and the blocks that only such a bug runs.
fn planted(lines: &[&str]) -> BTreeSet<usize> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        if !line.contains("bug(Bug::") {
            continue;
        }
        found.insert(at + 1);
        let is_arm =
            line.contains("match bug(Bug::") && lines.get(at + 1).is_some_and(|arm| arm.trim().starts_with("true =>"));
        found.extend(is_arm.then_some(at + 2));
        if !line.trim_start().starts_with("if bug(Bug::") {
            continue;
        }
        for (further, inner) in lines.iter().enumerate().skip(at + 1) {
            let is_inside = inner.trim().is_empty() || indent(inner) > indent(line) || inner.trim() == "{";
            if !is_inside {
                found.extend(inner.trim_start().starts_with('}').then_some(further + 1));
                break;
            }
            found.insert(further + 1);
        }
    }
    found
}

fn report(root: &Path, lcov: &str, write: bool) -> Result<(), String> {
    let (mut text, mut without_reason) = (String::new(), Vec::new());
    let (mut all, mut all_missed) = (0, 0);
    let mut crates: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let page = fs::read_to_string(root.join(REASONS)).map_err(|error| format!("{REASONS}: {error}"))?;
    let reasons = reasons(&page);
    let mut unused = reasons.clone();
    println!("{:<36} {:>7} {:>7} {:>7}", "file", "lines", "missed", "%");
    for (path, counts) in parse(lcov) {
        let name = path.strip_prefix(root.join("crates")).unwrap_or(&path).display().to_string().replace("/src/", "/");
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let Covered { lines, missed } = covered(&source, &counts);
        println!("{name:<36} {lines:>7} {:>7} {:>7.1}", missed.len(), percent(lines, missed.len()));
        all += lines;
        all_missed += missed.len();
        let of_crate = crates.entry(name.split('/').next().unwrap_or_default().to_owned()).or_default();
        (of_crate.0, of_crate.1) = (of_crate.0 + lines, of_crate.1 + missed.len());
        for (number, function, line) in &missed {
            let _ = writeln!(text, "{name}:{number}: {line}");
            let says_something = line.chars().any(char::is_alphanumeric);
            if !name.starts_with("core/") || !says_something {
                continue;
            }
            let place = format!("{name} {function}: {line}");
            if !unused.remove(&place) && !reasons.contains(&place) {
                without_reason.push(format!("{number}: {place}"));
            }
        }
    }
    let file = root.join(TARGET).join("uncovered.txt");
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    without_reason.iter().for_each(|line| println!("no reason: {line}"));
    unused.iter().for_each(|line| println!("run, and {REASONS} says it is not: {line}"));
    let mut shares = BTreeMap::new();
    for (name, (lines, missed)) in crates {
        println!("{name}: {} of {lines} lines are run, {:.1} %", lines - missed, percent(lines, missed));
        shares.insert(name, percent(lines, missed));
    }
    let share = percent(all, all_missed);
    println!(
        "all lines: {} of {all} are run, {share:.1} %; the others are in {TARGET}/uncovered.txt",
        all - all_missed
    );
    if share < LEAST_PERCENT {
        return Err(format!("less than {LEAST_PERCENT} % of the lines are run"));
    }
    if write {
        fs::write(root.join(REASONS), with_shares(&page, &shares)).map_err(|error| format!("{REASONS}: {error}"))?;
    } else {
        check_shares(&page, &shares)?;
    }
    match (without_reason.len(), unused.len()) {
        (0, 0) => Ok(()),
        (0, count) => Err(format!("{count} lines of {REASONS} are of no line of the core that nothing runs")),
        (count, _) => Err(format!("{count} lines of the core are run by nothing, and {REASONS} gives no reason")),
    }
}

/// A line of the page's table: a crate and its share in percent.
fn share(line: &str) -> Option<(&str, f64)> {
    let (name, share) = line.strip_prefix("| ")?.strip_suffix(" % |")?.split_once(" | ")?;
    Some((name, share.parse().ok()?))
}

/// The page with these shares in its table.
fn with_shares(page: &str, shares: &BTreeMap<String, f64>) -> String {
    let lines = page.lines().map(|line| match share(line).and_then(|(name, _)| Some((name, shares.get(name)?))) {
        Some((name, share)) => format!("| {name} | {share:.1} % |\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// Every crate that is measured is in the page's table, with about the share that it has.
fn check_shares(page: &str, shares: &BTreeMap<String, f64>) -> Result<(), String> {
    for (name, now) in shares {
        let known = page.lines().filter_map(share).find(|(known, _)| known == name);
        let Some((_, known)) = known else { return Err(format!("{REASONS} has no share of {name}")) };
        if *now < known - MOST_LOST {
            return Err(format!("{now:.1} % of the lines of {name} are run; {REASONS} says {known:.1} %"));
        }
    }
    Ok(())
}

fn percent(lines: usize, missed: usize) -> f64 {
    100.0 * (lines - missed) as f64 / lines.max(1) as f64
}

/// The lines of the page that name a line of code: `    core/log.rs function: the line as it reads`.
fn reasons(page: &str) -> BTreeSet<String> {
    page.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_line_in_several_programs_are_added() {
        let lcov = "SF:/a.rs\nDA:1,0\nDA:2,0\nend_of_record\nSF:/a.rs\nDA:1,3\nend_of_record\n";
        let counts = parse(lcov);
        assert_eq!(counts[Path::new("/a.rs")], BTreeMap::from([(1, 3), (2, 0)]));
    }

    #[test]
    fn tests_and_planted_bugs_do_not_count() {
        let source = "fn a() {\n    if bug(Bug::X) {\n        return;\n    }\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        let counts = BTreeMap::from([(1, 1), (2, 1), (3, 0), (4, 0), (5, 0), (6, 1), (10, 0)]);
        assert_eq!(
            covered(source, &counts),
            Covered { lines: 3, missed: vec![(5, "a".to_owned(), "b();".to_owned())] }
        );
    }

    #[test]
    fn a_planted_bug_may_ask_in_several_lines() {
        let lines = ["    if bug(Bug::X)", "        && let Some(a) = b", "    {", "        c();", "    }", "    d();"];
        assert_eq!(planted(&lines), BTreeSet::from([1, 2, 3, 4, 5]));
        assert_eq!(planted(&["match bug(Bug::X) {", "    true => a,", "    false => b,", "}"]), BTreeSet::from([1, 2]));
        assert_eq!(planted(&["let early = bug(Bug::X) && joint;", "b();"]), BTreeSet::from([1]));
    }

    #[test]
    fn shares_are_kept_in_the_page() {
        let page = "# Lines\n\n| crate | lines that are run |\n|---|---:|\n| core | 98.0 % |\n\nmore\n";
        let now = |share| BTreeMap::from([("core".to_owned(), share)]);
        assert_eq!(check_shares(page, &now(97.6)), Ok(()));
        assert!(check_shares(page, &now(97.4)).unwrap_err().contains("97.4 % of the lines of core"));
        assert!(check_shares("", &now(99.0)).unwrap_err().contains("no share of core"));
        assert_eq!(with_shares(page, &now(99.25)), page.replace("98.0", "99.2"));
    }

    #[test]
    fn reasons_are_the_indented_lines() {
        let page = "# Lines\n\nWhy:\n\n    core/log.rs at: None => return,\n\nand no more\n";
        assert_eq!(reasons(page), BTreeSet::from(["core/log.rs at: None => return,".to_owned()]));
    }

    #[test]
    fn a_line_is_of_the_function_around_it() {
        let source = "impl A {\n    pub(crate) fn a(\n        b: fn (u8),\n    ) {\n        // fn c\n        if b {\n            \
                      return;\n        }\n    }\n\n    const fn d() -> u8 {\n        7\n    }\n}\nconst E: u8 = 1;\n";
        let lines: Vec<&str> = source.lines().collect();
        let found = [2, 6, 7, 11, 12, 15].map(|number| function(&lines, number));
        assert_eq!(found, ["a", "a", "a", "d", "d", ""]);
    }
}
