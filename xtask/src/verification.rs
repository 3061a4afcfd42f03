//! `verification`: long runs, each into a file of its own, and `docs/verification.md` made from those files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cargo::{cargo, root};

/// The page with `{{name}}` where a part's result goes.
const TEMPLATE: &str = include_str!("verification.md");

const PAGE: &str = "docs/verification.md";
const BUGS: &str = "docs/bugs-found.md";
/// Where outputs are kept.
const OUTPUTS: &str = "target/verification";
/// Where the simulator writes its figures, faults and counters.
const REPORT: &str = "target/verification/sim.report";

/// One run that the page tells of.
struct Part {
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// A script of the repository; cargo where there is none.
    script: Option<&'static str>,
    /// Arguments of the script or of cargo.
    args: &'static str,
    /// What follows them, unless the command line says something else.
    more: &'static str,
    /// Its result: the lines that contain one of these words. Each must be there.
    shows: &'static [&'static str],
}

const fn part(name: &'static str, args: &'static str, shows: &'static [&'static str]) -> Part {
    Part { name, env: &[], script: None, args, more: "", shows }
}

/// How long the search of a whole page is at least.
const SEARCH_MINUTES: f64 = 60.0;

const PARTS: &[Part] = &[
    Part {
        name: "sim",
        env: &[],
        script: None,
        args: "run --quiet --profile ci --package quorate-server --bin quorate -- sim --every-fault --thorough \
               --report target/verification/sim.report",
        more: "--budget 1h --jobs 2",
        shows: &["simulated cluster-hours under load, "],
    },
    // What `.ci/run` searches, of any commit that figures are to rest on.
    Part {
        name: "sample",
        env: &[],
        script: None,
        args: "run --quiet --profile ci --package quorate-server --bin quorate -- sim --every-fault --thorough",
        more: "--seeds 8000 --jobs 2",
        shows: &["simulated cluster-hours under load, "],
    },
    part(
        "matrix",
        "run --quiet --profile ci --package quorate-server --bin quorate -- sim --matrix",
        &[" scenarios, "],
    ),
    part("explore", "run --quiet --profile ci --package quorate-explore --", &["distinct states in all"]),
    Part {
        name: "storm",
        env: &[("QUORATE_STORM_SEEDS", "20000")],
        script: None,
        args: "test --quiet --profile ci --package quorate-core --test storm -- --nocapture",
        more: "",
        shows: &["entries committed, ", "test result: "],
    },
    Part {
        name: "lies",
        env: &[("QUORATE_LIES_EVENTS", "20000000")],
        script: None,
        args: "test --quiet --profile ci --package quorate-core --test lies -- --nocapture",
        more: "",
        shows: &["of them lies", "test result: "],
    },
    part(
        "crashes",
        "run --quiet --profile ci --package quorate-wal --example crashes --",
        &["crash states: ", "makes ", "faults injected: "],
    ),
    Part {
        name: "flips",
        env: &[],
        script: None,
        args: "run --quiet --profile ci --package quorate-sim --example flips --",
        // Every byte.
        more: "1",
        shows: &["flips: ", " nodes, "],
    },
    Part {
        name: "fuzz",
        env: &[],
        script: None,
        args: "run --quiet --package xtask -- fuzz",
        more: "--inputs 1000000",
        shows: &[" % accepted, "],
    },
    part("memory", "bench --quiet --profile ci --package quorate-bench --bench hostile", &[" bytes live at a time"]),
    part("scripts", "run --quiet --package xtask -- mutants", &[" scripts turned red by no bug"]),
    Part {
        name: "mutants",
        env: &[],
        script: None,
        args: "run --quiet --package xtask -- mutants --sim",
        // It goes on from where earlier hunts stopped: from nothing it takes hours.
        more: "--seeds 300 --results docs/mutants-hunt.tsv",
        shows: &[" caught by random runs, ", "each that no seed showed was tried with "],
    },
    part("mutant-tests", "run --quiet --package xtask -- mutants --tests", &[" quorate"]),
    part("disk-mutants", "run --quiet --package xtask -- mutants --disk", &["Disk"]),
    Part {
        name: "process",
        env: &[("QUORATE_OPERATIONS", "1000000")],
        script: Some("tests/etcd-process/run"),
        args: "nothing_acknowledged",
        more: "",
        shows: &[" closing reads, no violation", " times, next acknowledged write after ", "test result: ok. 1 passed"],
    },
    part("coverage", "run --quiet --package xtask -- coverage", &[" lines are run, ", "all lines: "]),
];

/// `run NAME [ARGS ..]` runs one part and keeps its output; `run` alone runs them all; nothing composes the page.
pub(crate) fn command(args: &[String]) -> Result<(), String> {
    let root = root();
    match args {
        [] => compose(&root),
        [run] if run == "run" => PARTS.iter().try_for_each(|part| perform(&root, part, &[])),
        [run, name, more @ ..] if run == "run" => perform(&root, part_named(name)?, more),
        [other, ..] => Err(format!("unexpected argument {other:?}; see `cargo xtask help`")),
    }
}

fn part_named(name: &str) -> Result<&'static Part, String> {
    let names = || PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
    PARTS.iter().find(|part| part.name == name).ok_or_else(|| format!("no part {name:?}; there are {}", names()))
}

impl Part {
    fn file(&self, root: &Path) -> PathBuf {
        root.join(OUTPUTS).join(format!("{}.txt", self.name))
    }

    /// What follows its own arguments.
    fn arguments(&self, given: &[String]) -> Vec<String> {
        match given {
            [] => self.more.split_whitespace().map(str::to_owned).collect(),
            given => given.to_vec(),
        }
    }

    /// The command as a person types it.
    fn typed(&self, more: &[String]) -> String {
        let typed = format!("{} {}", self.typed_alone(), self.arguments(more).join(" "));
        typed.trim_end().trim_end_matches(" --").to_owned()
    }

    /// Whether a row of the page's table is this part's, whatever arguments it was given beyond its own.
    fn is_of(&self, row: &str) -> bool {
        row.starts_with(&format!("| `{}", self.typed_alone().trim_end_matches(" --")))
    }

    /// The same without what follows its own arguments.
    fn typed_alone(&self) -> String {
        let env = self.env.iter().map(|(name, value)| format!("{name}={value} "));
        let typed = self.args.replace("run --quiet --package xtask --", "xtask").replace("--quiet ", "");
        let program = self.script.unwrap_or("cargo");
        format!("{}{program} {typed}", env.collect::<String>())
    }
}

/// Runs a part, shows what it prints, and keeps it behind a head that says what was run, on what, how long and how it ended.
fn perform(root: &Path, part: &Part, more: &[String]) -> Result<(), String> {
    let typed = part.typed(more);
    println!("=== {}: {typed}", part.name);
    // Said before it begins: the tree may change while it runs.
    let (code, began) = (commit(root)?, Instant::now());
    // Nor may an earlier result pass for this one's, if it is stopped on the way.
    let _ = fs::remove_file(part.file(root));
    if part.args.contains(REPORT) {
        let _ = fs::remove_file(root.join(REPORT));
    }
    // The simulator writes its report there itself.
    fs::create_dir_all(root.join(OUTPUTS)).map_err(|error| format!("cannot make {OUTPUTS}: {error}"))?;
    let mut program = part.script.map_or_else(cargo, |script| Command::new(root.join(script)));
    let mut child = program
        .args(part.args.split_whitespace())
        .args(part.arguments(more))
        .envs(part.env.iter().copied())
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {typed}: {error}"))?;
    let mut output = String::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output to read")?).lines() {
        let line = line.map_err(|error| format!("{}: cannot read its output: {error}", part.name))?;
        println!("{line}");
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait().map_err(|error| format!("{}: {error}", part.name))?;
    // Where this tree lies is nobody's business.
    let place = root.canonicalize().map(|path| format!("{}/", path.display())).unwrap_or_default();
    let output = if place.len() > 1 { output.replace(&place, "") } else { output };
    let head = format!(
        "command: {typed}\ncommit: {code}\nseconds: {}\nended: {}\n\n",
        began.elapsed().as_secs(),
        if status.success() { "well" } else { "FAILED" }
    );
    let file = part.file(root);
    fs::write(&file, head + &output).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} failed; what it printed is in {}", part.name, file.display())),
    }
}

/// Names the code that is built here.
pub(crate) fn commit(root: &Path) -> Result<String, String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output();
        let output = output.map_err(|error| format!("cannot run git: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Pages change nothing that is run, and this chore writes one itself.
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    Ok(if changed.is_empty() { commit } else { commit + " and changes on top" })
}

/// A part's output file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    head: BTreeMap<String, String>,
    body: String,
}

impl Output {
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\n\n")?;
        let fields = head.lines().map(|line| line.split_once(": "));
        let head = fields.map(|field| field.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Some(Self { head: head.collect::<Option<_>>()?, body: body.to_owned() })
    }

    fn field(&self, name: &str) -> &str {
        self.head.get(name).map_or("?", String::as_str)
    }

    /// The lines that a part calls its result.
    fn result(&self, part: &Part) -> Result<Vec<&str>, String> {
        let missing = part.shows.iter().find(|word| !self.body.contains(**word));
        if let Some(word) = missing {
            return Err(format!("{}: its output has no line with {word:?}", part.name));
        }
        Ok(self.body.lines().filter(|line| part.shows.iter().any(|word| line.contains(word))).collect())
    }
}

/// Writes the page; fails if a part was not run, failed or has no result, which the page then says as well. What was not
/// run anew stays as the page has it, with the commit that it was of.
fn compose(root: &Path) -> Result<(), String> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let earlier = fs::read_to_string(root.join(PAGE)).ok().and_then(|page| Earlier::parse(&page)).unwrap_or_default();
    let mut values = BTreeMap::new();
    let (mut problems, mut outputs) = (Vec::new(), BTreeMap::new());
    let mut table = "| run | code | minutes, with building | ended |\n|---|---|---|---|\n".to_owned();
    for (number, part) in PARTS.iter().enumerate() {
        let output = fs::read_to_string(part.file(root)).ok().and_then(|text| Output::parse(&text));
        let Some(output) = output else {
            let run = earlier.runs.get(number).and_then(Option::as_ref);
            if let Some((run, shown)) = run.zip(earlier.values.get(part.name)) {
                let _ = writeln!(table, "{}", run.row);
                problems.extend(shortcoming(part.name, &run.code, run.minutes, &run.ended));
                values.insert(part.name, shown.clone());
                continue;
            }
            problems.push(format!("`{}` was not run: `cargo xtask verification run {}`", part.name, part.name));
            let _ = writeln!(table, "| `{}` | | | NOT RUN |", part.typed(&[]));
            values.insert(part.name, format!("*Not run for this page:* `{}`", part.typed(&[])));
            continue;
        };
        let (code, ended) = (output.field("commit"), output.field("ended"));
        let minutes = output.field("seconds").parse::<f64>().unwrap_or(f64::NAN) / 60.0;
        let _ = writeln!(table, "| `{}` | `{code}` | {minutes:.1} | {ended} |", output.field("command"));
        problems.extend(shortcoming(part.name, code, minutes, ended));
        let shown = match output.result(part) {
            Ok(lines) => format!("    {}", lines.join("\n    ")),
            Err(problem) => {
                let shown = format!("*No result:* {problem}");
                problems.push(problem);
                shown
            }
        };
        values.insert(part.name, shown);
        outputs.insert(part.name, output);
    }
    let figures = fs::read_to_string(root.join(REPORT)).map_err(|_| format!("`{REPORT}` is not there: run `sim`"));
    match figures.and_then(|text| tables(&text)) {
        Ok((figures, faults, counters)) => {
            values.extend([("figures", figures), ("faults", faults), ("counters", counters)]);
        }
        Err(problem) => {
            let kept = |name: &str| earlier.values.get(name).filter(|_| !outputs.contains_key("sim"));
            let names = ["figures", "faults", "counters"];
            problems.extend(names.iter().all(|name| kept(name).is_none()).then_some(problem));
            let nothing = "*Not run for this page.*".to_owned();
            values.extend(names.map(|name| (name, kept(name).unwrap_or(&nothing).clone())));
        }
    }
    let kept = earlier.values.get("means").filter(|_| MEANS.iter().any(|(_, part, _)| !outputs.contains_key(part)));
    let anew = || means(&|name| outputs.get(name).map(|output: &Output| output.body.as_str()));
    values.insert("means", kept.cloned().unwrap_or_else(anew));
    let missing = match problems.is_empty() {
        true => "Nothing: every run below was made, and ended well.".to_owned(),
        false => format!("- {}", problems.join("\n- ")),
    };
    values.extend([("missing", missing), ("version", env!("CARGO_PKG_VERSION").to_owned())]);
    values.insert("bugs", bugs(&read(&root.join(BUGS))?).to_string());
    values.insert("runs", table.trim_end().to_owned());
    let page = fill(TEMPLATE, &values)?;
    fs::write(root.join(PAGE), page).map_err(|error| format!("cannot write {PAGE}: {error}"))?;
    println!("{PAGE} is written");
    match problems.is_empty() {
        true => Ok(()),
        false => Err(format!("the page is not whole:\n  {}", problems.join("\n  "))),
    }
}

/// What the page said before: results by name, and runs in the order of the parts.
#[derive(Default)]
struct Earlier {
    values: BTreeMap<&'static str, String>,
    /// `None` for what was not run.
    runs: Vec<Option<Run>>,
}

/// A row of the page's table.
struct Run {
    row: String,
    code: String,
    minutes: f64,
    ended: String,
}

impl Earlier {
    /// `None` for a page of another template or with another list of parts.
    fn parse(page: &str) -> Option<Self> {
        let values = taken_apart(TEMPLATE, page)?;
        let rows: Vec<&str> = values.get("runs")?.lines().skip(2).collect();
        let fits = rows.len() == PARTS.len() && PARTS.iter().zip(&rows).all(|(part, row)| part.is_of(row));
        let runs = rows.into_iter().map(Run::parse).collect();
        fits.then_some(Self { values, runs })
    }
}

impl Run {
    fn parse(row: &str) -> Option<Self> {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, code, minutes, ended] = cells[..] else { return None };
        let (code, minutes) = (code.trim_matches('`').to_owned(), minutes.parse().ok()?);
        Some(Self { row: row.to_owned(), code, minutes, ended: ended.to_owned() })
    }
}

/// What a run lacks that was made.
fn shortcoming(name: &str, code: &str, minutes: f64, ended: &str) -> Option<String> {
    match name {
        _ if ended != "well" => Some(format!("`{name}` failed")),
        _ if code.contains(' ') => Some(format!("`{name}` ran code that no commit names: {code}")),
        "sim" if minutes.is_nan() || minutes < SEARCH_MINUTES => {
            Some(format!("`{name}` searched for {minutes:.1} minutes, and {SEARCH_MINUTES} at least are asked for"))
        }
        _ => None,
    }
}

/// Markdown tables of the simulator's figures, faults and counters.
fn tables(report: &str) -> Result<(String, String, String), String> {
    let mut figures = "| | |\n|---|---:|\n".to_owned();
    let mut faults = "| fault | times | seeds without it |\n|---|---:|---:|\n".to_owned();
    let mut counters =
        "| counted | in all | seeds with | median of a seed | most of a seed |\n|---|---:|---:|---:|---:|\n".to_owned();
    for line in report.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let table = match (fields[0], fields.len()) {
            ("figure", 3) => &mut figures,
            ("fault", 4) => &mut faults,
            ("counter", 6) => &mut counters,
            ("missing", 3) => {
                let _ = writeln!(figures, "| {} `{}` | NEVER HAPPENED |", fields[1], fields[2]);
                continue;
            }
            ("given-up", 2) => {
                let _ = writeln!(
                    figures,
                    "| seed {}: no order of its history was found in time, nor that there is none | |",
                    fields[1]
                );
                continue;
            }
            ("failure", 3) => {
                let _ = writeln!(figures, "| seed {} FAILED | {} |", fields[1], fields[2].replace('|', "\\|"));
                continue;
            }
            _ => return Err(format!("{REPORT}: a line of no known kind: {line}")),
        };
        let _ = writeln!(table, "| {} |", fields[1..].join(" | "));
    }
    Ok((figures.trim_end().to_owned(), faults.trim_end().to_owned(), counters.trim_end().to_owned()))
}

/// A means of catching planted bugs, the part that tries it, and the bug that a line of its output says is caught so.
type Means = (&'static str, &'static str, fn(&str) -> Option<&str>);

const MEANS: [Means; 5] = [
    ("golden scripts", "scripts", |line| {
        let (bug, red) = row(line)?;
        (red.parse::<u64>().ok()? > 0).then_some(bug)
    }),
    ("random runs of the simulator", "mutants", |line| hunted(line, " (seed ")),
    ("directed scenarios of the simulator", "mutants", |line| hunted(line, " scenario ")),
    ("tests", "mutant-tests", |line| row(line).filter(|(_, by)| by.starts_with("quorate")).map(|(bug, _)| bug)),
    ("crashing and failing disks", "disk-mutants", |line| row(line).map(|(bug, _)| bug)),
];

/// A bug and the word behind it; bugs are named like types.
fn row(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (bug, next) = (words.next()?, words.next()?);
    let is_name =
        line.starts_with(bug) && bug.starts_with(char::is_uppercase) && bug.chars().all(char::is_alphanumeric);
    let is_caught = !line.contains("NOT NOTICED") && !line.contains("MISSED") && !line.contains("FAILS WITHOUT");
    (is_name && is_caught).then_some((bug, next))
}

/// The bug of a line of a hunt, which has its seeds behind it, if this word says how it was caught.
fn hunted<'a>(line: &'a str, how: &str) -> Option<&'a str> {
    let (bug, seeds) = row(line)?;
    (seeds.parse::<u64>().is_ok() && line.contains(how)).then_some(bug)
}

/// How many planted bugs each means catches, and how many any of them.
fn means<'a>(body: &dyn Fn(&str) -> Option<&'a str>) -> String {
    let mut table = "| means | planted bugs that it catches |\n|---|---:|\n".to_owned();
    let mut any = BTreeSet::new();
    for (what, part, caught) in MEANS {
        let Some(body) = body(part) else {
            let _ = writeln!(table, "| {what} | *not run for this page* |");
            continue;
        };
        let bugs: BTreeSet<&str> = body.lines().filter_map(caught).collect();
        let _ = writeln!(table, "| {what} | {} |", bugs.len());
        any.extend(bugs);
    }
    let all = body("scripts").and_then(|body| body.lines().find_map(|line| line.split_once(" bugs, ")));
    let of = all.map_or(String::new(), |(count, _)| format!(" of {count}"));
    let _ = write!(table, "| any of these | {}{of} |", any.len());
    table
}

/// Rows of the page of bugs.
fn bugs(page: &str) -> usize {
    page.lines().filter(|line| line.starts_with("| ")).count().saturating_sub(1)
}

/// The template with every `{{name}}` replaced; fails if one is unknown, or a value has no place.
fn fill(template: &str, values: &BTreeMap<&str, String>) -> Result<String, String> {
    let (mut page, mut rest, mut used) = (String::new(), template, Vec::new());
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").ok_or("the template has a {{ without its }}")?;
        page.push_str(before);
        page.push_str(values.get(name).ok_or_else(|| format!("the template names {name:?}, which nothing makes"))?);
        used.push(name);
        rest = behind;
    }
    page.push_str(rest);
    match values.keys().find(|name| !used.contains(name)) {
        Some(name) => Err(format!("the template has no place for {name:?}")),
        None => Ok(page),
    }
}

/// What [`fill`] put into the template's places; `None` if the page was not made of it.
fn taken_apart<'a>(template: &'a str, page: &str) -> Option<BTreeMap<&'a str, String>> {
    let mut values = BTreeMap::new();
    let (before, mut template) = template.split_once("{{")?;
    let mut page = page.strip_prefix(before)?;
    loop {
        let (name, after) = template.split_once("}}")?;
        let (between, next) = after.split_once("{{").map_or((after, None), |(text, next)| (text, Some(next)));
        let (value, rest) = match next {
            Some(_) => page.split_once(between)?,
            None => (page.strip_suffix(between)?, ""),
        };
        values.insert(name, value.to_owned());
        let Some(next) = next else { return Some(values) };
        (template, page) = (next, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_has_a_place_for_every_part_and_nothing_else() {
        let mut values: BTreeMap<&str, String> = PARTS.iter().map(|part| (part.name, part.typed(&[]))).collect();
        let others = ["figures", "faults", "counters", "bugs", "runs", "means", "missing", "version"];
        values.extend(others.map(|name| (name, String::new())));
        let page = fill(TEMPLATE, &values).unwrap();
        assert!(!page.contains("{{") && page.contains("cargo xtask mutants --sim"), "{page}");
        assert!(fill("a {{strange}} place", &values).unwrap_err().contains("strange"));
        values.insert("another", String::new());
        assert!(fill(TEMPLATE, &values).unwrap_err().contains("another"));
    }

    #[test]
    fn a_run_counts_if_it_ended_well_was_of_a_commit_and_took_long_enough() {
        assert_eq!(shortcoming("matrix", "0123456789ab", 1.0, "well"), None);
        assert_eq!(shortcoming("sim", "0123456789ab", 60.1, "well"), None);
        let lacks = |name, code, minutes, ended| shortcoming(name, code, minutes, ended).unwrap();
        assert!(lacks("matrix", "0123456789ab", 1.0, "FAILED").contains("failed"));
        assert!(lacks("matrix", "0123456789ab and changes on top", 1.0, "well").contains("no commit names"));
        assert!(lacks("sim", "0123456789ab", 10.0, "well").contains("for 10.0 minutes"));
        assert!(lacks("sim", "0123456789ab", f64::NAN, "well").contains("at least"));
    }

    #[test]
    fn an_output_says_what_was_run_and_how_it_ended() {
        let text = "command: cargo x\ncommit: abc\nseconds: 90\nended: well\n\nfirst\n3 scenarios, 0 failures\n";
        let output = Output::parse(text).unwrap();
        assert_eq!((output.field("command"), output.field("ended")), ("cargo x", "well"));
        assert_eq!(output.result(part_named("matrix").unwrap()).unwrap(), ["3 scenarios, 0 failures"]);
        assert!(output.result(part_named("explore").unwrap()).unwrap_err().contains("distinct states"));
        assert_eq!(Output::parse("no head"), None);
    }

    #[test]
    fn what_is_not_run_anew_stays_on_the_page() {
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        let earlier = Earlier::parse(&page).expect("the page was made of this template");
        assert_eq!(fill(TEMPLATE, &taken_apart(TEMPLATE, &page).unwrap()).unwrap(), page);
        for (part, run) in PARTS.iter().zip(&earlier.runs) {
            let is_told = run.as_ref().is_none_or(|run| !run.code.is_empty() && run.minutes > 0.0);
            assert!(is_told && !earlier.values[part.name].is_empty(), "{}", part.name);
        }
        assert!(Run::parse("| `cargo xtask mutants` | | | NOT RUN |").is_none());
        assert!(Earlier::parse(&page.replace("sim --matrix", "sim --other")).is_none(), "another list of parts");
        assert!(Earlier::parse("# Another page").is_none());
        let values = taken_apart("a {{x}} b\n{{y}}\n", "a 1\n2 b\n3 b\n\n").unwrap();
        assert_eq!(values, BTreeMap::from([("x", "1\n2".to_owned()), ("y", "3 b\n".to_owned())]));
    }

    #[test]
    fn a_report_of_the_simulator_becomes_tables() {
        let report = "figure\tseeds\t12\nfault\tdrop\t90\t1\ncounter\treads\t8\t5\t1\t3\ngiven-up\t4\nfailure\t7\tstale | read\n";
        let (figures, faults, counters) = tables(report).unwrap();
        assert!(figures.contains("| seed 4: no order of its history"), "{figures}");
        assert!(figures.contains("| seed 7 FAILED | stale \\| read |"), "{figures}");
        assert!(faults.ends_with("| drop | 90 | 1 |") && counters.ends_with("| reads | 8 | 5 | 1 | 3 |"));
        assert!(tables("figure\tseeds\n").is_err());
    }

    #[test]
    fn planted_bugs_are_counted_by_what_catches_them() {
        let scripts = "bug    red   claim  first script\nA  3  2  log/a\nB  0  0  (no script: a test)\n\n5 bugs, 9 scripts; 0 \
                       scripts turned red by no bug of their own\n";
        let hunt = "bug  seeds  s  caught by\nA  7  0.5  oracle (seed 7)\nB  1  0.0  liveness (seed 1, before)\n\
                    C  9  1.0  scenario Bridge of 3\nD  9  1.0  MISSED\nE  9  1.0  no seed; test crates/a.rs\n\
                    5 bugs: 2 caught by random runs, 1 by a scenario, 0 by a golden script, 1 by a test or crashes of \
                    their own, 1 by nothing; 35 seeds, 3s\n";
        let tests = "E  quorate --lib writes\nD  quorate --lib writes  NOT NOTICED\n";
        let table = means(&|part| match part {
            "scripts" => Some(scripts),
            "mutants" => Some(hunt),
            "mutant-tests" => Some(tests),
            _ => None,
        });
        let counts: Vec<&str> = table.lines().skip(2).map(|line| line.rsplit('|').nth(1).unwrap().trim()).collect();
        assert_eq!(counts, ["1", "2", "1", "1", "*not run for this page*", "4 of 5"], "{table}");
    }

    #[test]
    fn bugs_are_rows_below_a_heading() {
        assert_eq!(bugs("# Bugs\n\n| what | by |\n|---|---|\n| a | b |\n| c | d |\n"), 2);
    }
}
