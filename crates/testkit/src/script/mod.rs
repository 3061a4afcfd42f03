//! Golden scripts: a claim in prose, commands, what they did, and what must be true.
//!
//! ```text
//! # Claim: a node that leads sends a blank entry first (dissertation 6.4).
//!
//! cluster 3
//! elect 1 real
//!   1 campaigns real 1-1
//!   ...
//! expect role 1 = candidate
//! ```
//!
//! - Lines that start with `#` are prose. The first one starts the claim.
//! - A line at the margin is a command, or an `expect`.
//! - Indented lines under a command are what it did. They are written by the runner: with `QUORATE_REWRITE=1`
//!   they are replaced, otherwise they must be exactly what happens.
//! - `expect` lines are written by hand, before the run, and are never rewritten.
//!
//! `testdata/README.md` lists the commands.

mod change;
mod command;
mod diff;
mod expect;
mod inject;
mod shorten;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use command::Stage;
pub use shorten::{Rehearsal, Violated, rehearse, shorten, violated};

/// Whether recorded output is compared or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The output must be what the file says.
    Check,
    /// The output in the file becomes what happens.
    Rewrite,
}

impl Mode {
    /// Reads the wishes of the environment: `QUORATE_REWRITE` and `CI`, as their values are.
    ///
    /// # Errors
    /// If both are set: a build that judges changes must not make them.
    pub fn from_env(rewrite: Option<&str>, ci: Option<&str>) -> Result<Self, Failure> {
        let is_set = |value: Option<&str>| value.is_some_and(|value| !value.is_empty() && value != "0");
        match (is_set(rewrite), is_set(ci)) {
            (false, _) => Ok(Mode::Check),
            (true, false) => Ok(Mode::Rewrite),
            (true, true) => {
                Err(Failure("QUORATE_REWRITE is set in CI: rewrite scripts locally and commit them".into()))
            }
        }
    }
}

/// Why a script failed: file, line, command and the difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// What became of a script.
#[derive(Clone, Debug)]
pub struct Report {
    /// The script with the output that its commands had now.
    pub text: String,
    /// Everything that is wrong, without differences of output.
    pub failures: Vec<Failure>,
    /// Where the output is not what the script says.
    pub changes: Vec<Failure>,
}

/// Every script below a folder, in the order of their names.
///
/// # Errors
/// If a folder cannot be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs the script in a file.
///
/// # Errors
/// If the file cannot be read or written, or the script fails; see [`play`].
pub fn run_file(path: &Path, name: &str, mode: Mode) -> Result<(), Failure> {
    let io = |e: std::io::Error| Failure(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(io)?;
    let report = play(name, &text);
    let mut failures = report.failures;
    match mode {
        Mode::Rewrite if report.text != text => std::fs::write(path, &report.text).map_err(io)?,
        Mode::Rewrite => {}
        Mode::Check => failures.extend(report.changes),
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure(failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\n\n"))),
    }
}

/// One line at the margin, with what stands under it.
struct Block<'a> {
    /// Line number, from 1.
    line: usize,
    text: &'a str,
    /// The recorded output, without indentation.
    output: Vec<&'a str>,
}

/// Runs a script. `name` is what failures call it.
pub fn play(name: &str, text: &str) -> Report {
    let mut report = Report { text: String::new(), failures: Vec::new(), changes: Vec::new() };
    let mut stage = Stage::default();
    let mut expects = 0;
    let mut broken = false;
    for block in blocks(text) {
        report.text.push_str(block.text);
        report.text.push('\n');
        let fail = |what: String| Failure(format!("{name}:{}: `{}`\n{what}", block.line, block.text));
        let command = block.text.trim();
        let is_prose = command.is_empty() || command.starts_with('#');
        let is_expect = command.split_whitespace().next() == Some("expect");
        expects += usize::from(is_expect);
        if broken || is_prose || is_expect {
            if is_expect && !broken {
                let checked = expect::check(&stage, command);
                report.failures.extend(checked.err().map(fail));
            }
            // Only commands have output. After an error the rest of the file stays as it is.
            if !block.output.is_empty() && !broken {
                report.changes.push(fail("nothing happens here: remove the indented lines".to_string()));
            }
            if broken {
                block.output.iter().for_each(|line| report.text.push_str(&format!("  {line}\n")));
            }
            continue;
        }
        match stage.run(command) {
            Ok(output) => {
                output.iter().for_each(|line| report.text.push_str(&format!("  {line}\n")));
                if let Some(difference) = diff::lines(&block.output, &output) {
                    report
                        .changes
                        .push(fail(format!("it did something else than recorded (- recorded, + now):\n{difference}")));
                }
            }
            Err(error) => {
                let shown: Vec<String> = stage.output().iter().map(|line| format!("  {line}\n")).collect();
                shown.iter().for_each(|line| report.text.push_str(line));
                report.failures.push(fail(format!("{error}\nit did:\n{}", shown.concat())));
                broken = true;
            }
        }
    }
    if !has_claim(text) {
        let what = "a script starts with a line `# Claim: ...` that says what it shows";
        report.failures.push(Failure(format!("{name}:1: {what}")));
    }
    if expects == 0 {
        report.failures.push(Failure(format!("{name}: no `expect` line: a script states what must be true")));
    }
    report
}

/// Words that a claim has at least: fewer say nothing.
const LEAST_WORDS_OF_A_CLAIM: usize = 4;

fn has_claim(text: &str) -> bool {
    let claim = text.lines().next().and_then(|line| line.strip_prefix("# Claim:"));
    claim.is_some_and(|claim| claim.split_whitespace().count() >= LEAST_WORDS_OF_A_CLAIM)
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indented = line.starts_with(' ') || line.starts_with('\t');
        match blocks.last_mut() {
            Some(block) if indented => block.output.push(line.trim()),
            _ => blocks.push(Block { line: number + 1, text: line.trim_end(), output: Vec::new() }),
        }
    }
    blocks
}
