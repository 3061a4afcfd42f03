//! `guard`: what a write costs, in instructions, beside what it cost when that was last looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{cargo, root, succeed};

/// What a path may cost: one line each.
const FIGURES: &str = "docs/instructions.tsv";
/// Callgrind collects while this function runs: `quorate_guard::measured`.
const MEASURED: &str = "*quorate_guard*measured*";
/// For a path that is not in the file yet.
const NEW_MARGIN_PERCENT: f64 = 3.0;
/// Allocations may be so many more an operation: some lists grow by doubling, and a clock decides now and then.
const ALLOCATIONS_MARGIN: f64 = 0.02;

const HEAD: &str = "\
# What one operation of each path of crates/guard costs. Made by `cargo xtask guard --write`, but for the margins, which
# are kept; `cargo xtask guard` counts again and fails beyond a margin, above or below.
# path\tinstructions\tmargin in percent\tallocations\twhat an operation is
";

/// One line of the file.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    path: String,
    instructions: f64,
    margin_percent: f64,
    allocations: f64,
    what: String,
}

/// What callgrind saw of one path.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    instructions: f64,
    allocations: f64,
}

/// `cargo xtask guard [--write] [PATH ..]`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (flags, names): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| arg.starts_with('-'));
    let write = match flags[..] {
        [] => false,
        [flag] if flag == "--write" => true,
        _ => return Err("usage: cargo xtask guard [--write] [PATH ..]".to_owned()),
    };
    let program = build()?;
    let listed = list(&program)?;
    if let Some(unknown) = names.iter().find(|name| listed.iter().all(|(path, _)| path != **name)) {
        return Err(format!("there is no path {unknown}"));
    }
    let stored = read()?;
    let (mut figures, mut problems) = (Vec::new(), Vec::new());
    println!(
        "{:<14} {:>12} {:>12} {:>8} {:>8} {:>12}",
        "path", "instructions", "stored", "change", "margin", "allocations"
    );
    for (path, what) in listed {
        let known = stored.iter().find(|figure| figure.path == path);
        if !names.is_empty() && !names.contains(&&path) {
            figures.extend(known.cloned());
            continue;
        }
        let counted = count(&program, &path)?;
        let change = known.map(|known| (counted.instructions / known.instructions - 1.0) * 100.0);
        println!(
            "{path:<14} {:>12.1} {:>12} {:>8} {:>8} {:>12.3}",
            counted.instructions,
            known.map_or_else(|| "-".to_owned(), |known| format!("{:.1}", known.instructions)),
            change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1} %")),
            known.map_or_else(|| "-".to_owned(), |known| format!("{} %", known.margin_percent)),
            counted.allocations,
        );
        match known {
            Some(known) => problems.extend(judge(known, counted)),
            None => problems.push(format!("{path} is not in {FIGURES}")),
        }
        let margin_percent = known.map_or(NEW_MARGIN_PERCENT, |known| known.margin_percent);
        let Counted { instructions, allocations } = counted;
        figures.push(Figure { path, instructions, margin_percent, allocations, what });
    }
    if write {
        fs::write(root().join(FIGURES), format!("{HEAD}{}", print(&figures)))
            .map_err(|error| format!("cannot write {FIGURES}: {error}"))?;
        println!("written to {FIGURES}");
        return Ok(());
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{}\nIf that is meant (a change of the code, of the toolchain or of the C library), say so in the commit, \
             and store what was counted: cargo xtask guard --write",
            problems.join("\n")
        )),
    }
}

/// What is wrong with what a path costs now.
fn judge(stored: &Figure, counted: Counted) -> Vec<String> {
    let mut problems = Vec::new();
    let path = &stored.path;
    let change = (counted.instructions / stored.instructions - 1.0) * 100.0;
    if change.is_nan() || change > stored.margin_percent {
        let (now, was, margin) = (counted.instructions, stored.instructions, stored.margin_percent);
        problems.push(format!(
            "{path}: {now:.1} instructions an operation, {was:.1} stored: {change:+.1} %, margin {margin} %"
        ));
    }
    let more = counted.allocations - stored.allocations;
    if more.is_nan() || more > ALLOCATIONS_MARGIN {
        let (now, was) = (counted.allocations, stored.allocations);
        problems
            .push(format!("{path}: {now:.3} allocations an operation, {was:.3} stored, margin {ALLOCATIONS_MARGIN}"));
    }
    if is_stale(stored, counted) {
        problems.push(format!(
            "{path} costs less than is stored, so that what it is worth could be lost again unseen: \
             cargo xtask guard --write {path}"
        ));
    }
    problems
}

/// Whether a path became so much cheaper that what is stored guards nothing any more.
fn is_stale(stored: &Figure, counted: Counted) -> bool {
    counted.instructions < stored.instructions * (1.0 - stored.margin_percent / 100.0)
        || counted.allocations < stored.allocations - ALLOCATIONS_MARGIN
}

// ---- counting ----

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the program as CI builds everything.
fn build() -> Result<PathBuf, String> {
    let mut build = cargo();
    build.current_dir(root()).args(["build", "--locked", "--quiet", "--profile", "ci", "--package", "quorate-guard"]);
    succeed(&mut build, || "quorate-guard does not build".to_owned())?;
    Ok(target().join("ci/quorate-guard"))
}

/// Names of the paths, and what an operation of each is.
fn list(program: &Path) -> Result<Vec<(String, String)>, String> {
    let text = output(Command::new(program).arg("list"))?;
    let pair = |line: &str| line.split_once('\t').map(|(path, what)| (path.to_owned(), what.to_owned()));
    Ok(text.lines().filter_map(pair).collect())
}

fn count(program: &Path, path: &str) -> Result<Counted, String> {
    let out = target().join(format!("guard-{path}.callgrind"));
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--error-exitcode=0"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(path);
    let printed = output(&mut valgrind)?;
    let (operations, allocations) =
        said(&printed).ok_or_else(|| format!("{path} does not say what it did, but: {printed}"))?;
    let profile = fs::read_to_string(&out).map_err(|error| format!("cannot read {}: {error}", out.display()))?;
    let total = total(&profile).filter(|total| *total > 0);
    let total = total.ok_or_else(|| format!("callgrind collected nothing: it does not find {MEASURED}"))?;
    Ok(Counted { instructions: total as f64 / operations, allocations: allocations / operations })
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} did not print text"))
}

/// What the program says of a path: how many operations it made, and how many allocations they took.
fn said(printed: &str) -> Option<(f64, f64)> {
    let (operations, allocations) = printed.trim().split_once(' ')?;
    Some((operations.parse().ok()?, allocations.parse().ok()?))
}

/// All instructions that callgrind collected.
fn total(profile: &str) -> Option<u64> {
    let line =
        profile.lines().find_map(|line| line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:")))?;
    line.split_whitespace().next()?.parse().ok()
}

// ---- the file ----

fn read() -> Result<Vec<Figure>, String> {
    let path = root().join(FIGURES);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("cannot read {FIGURES}: {error}")),
    }
}

fn parse(text: &str) -> Result<Vec<Figure>, String> {
    let figure = |line: &str| {
        let mut fields = line.split('\t');
        Some(Figure {
            path: fields.next()?.to_owned(),
            instructions: fields.next()?.parse().ok()?,
            margin_percent: fields.next()?.parse().ok()?,
            allocations: fields.next()?.parse().ok()?,
            what: fields.next()?.to_owned(),
        })
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| figure(line).ok_or_else(|| format!("{FIGURES}: not a figure: {line}"))).collect()
}

fn print(figures: &[Figure]) -> String {
    let line = |figure: &Figure| {
        let Figure { path, instructions, margin_percent, allocations, what } = figure;
        format!("{path}\t{instructions:.1}\t{margin_percent}\t{allocations:.3}\t{what}\n")
    };
    figures.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        Figure {
            path: "wire".to_owned(),
            instructions: 20_000.0,
            margin_percent: 3.0,
            allocations: 2.0,
            what: "a packet, there and back".to_owned(),
        }
    }

    #[test]
    fn a_path_that_costs_more_or_less_than_is_stored_is_red() {
        let counted = |instructions, allocations| Counted { instructions, allocations };
        assert_eq!(judge(&figure(), counted(20_500.0, 2.01)), Vec::<String>::new());
        let slower = judge(&figure(), counted(20_700.0, 2.0));
        assert_eq!(slower, ["wire: 20700.0 instructions an operation, 20000.0 stored: +3.5 %, margin 3 %"]);
        let allocates = judge(&figure(), counted(20_000.0, 3.0));
        assert_eq!(allocates, ["wire: 3.000 allocations an operation, 2.000 stored, margin 0.02"]);
        assert!(!is_stale(&figure(), counted(19_500.0, 2.0)));
        for cheaper in [counted(19_300.0, 2.0), counted(20_000.0, 1.0)] {
            assert!(judge(&figure(), cheaper)[0].contains("cargo xtask guard --write wire"));
        }
        assert_eq!(judge(&figure(), counted(f64::NAN, f64::NAN)).len(), 2);
    }

    #[test]
    fn figures_are_read_as_they_are_written() {
        let figures = vec![figure(), Figure { path: "wal".to_owned(), margin_percent: 1.5, ..figure() }];
        assert_eq!(parse(&format!("{HEAD}{}", print(&figures))), Ok(figures));
        assert!(parse("wire\tmany\t3\t2\tx\n").is_err());
    }

    #[test]
    fn what_is_said_of_a_path_is_read() {
        assert_eq!(said("200 50\n"), Some((200.0, 50.0)));
        assert_eq!(said("no leader\n"), None);
        assert_eq!(total("version: 1\nevents: Ir\n\nfn=(1) main\n0 5\n\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn every_path_has_a_figure_with_a_margin() {
        let figures = read().unwrap();
        assert!(figures.len() >= 5, "the guard has five paths or more");
        assert!(figures.iter().all(|figure| figure.instructions > 0.0 && figure.margin_percent <= 5.0));
    }
}
