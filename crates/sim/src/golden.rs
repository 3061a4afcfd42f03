//! A failing run told as a golden script (testdata/README.md), and made short there.
//!
//! What the cores met is told again in the script's words: every start with its seed, every message by its number on its
//! link, every write and job as it was done, at the same times. Cores are functions of what they meet, so those of the
//! script do what those of the run did, as far as the script's world can do it: disks that lie, logs that are damaged and
//! clocks that drift are told in part or not at all. What is violated is then looked for in the script, and what is not
//! needed for it is left out, which is cheap there: a script takes milliseconds.

mod sent;
mod teller;
mod words;

use quorate_testkit::script::{shorten, violated};

use crate::options::Options;
use crate::run::recorded;
use teller::Teller;

/// A run as a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// The commands.
    pub commands: Vec<String>,
    /// What is violated at the last of them. `None`: nothing is, so all commands are there; what failed in the run is
    /// beyond the cores, or a script cannot say what happened to a disk or a clock.
    pub violates: Option<String>,
    /// How many commands there were before they were made fewer.
    pub before: usize,
}

impl Golden {
    /// The script, with a claim and an expectation for a person to write; `source` names the run.
    pub fn text(&self, source: &str) -> String {
        let said = match &self.violates {
            Some(what) => format!("The last command violates:\n{what}"),
            None => "It violates nothing: write what is to be expected, or who else knows that it fails.".to_owned(),
        };
        let said: String = said.lines().map(|line| format!("# {line}\n")).collect();
        let commands = self.commands.join("\n");
        // Nobody but a person can write the claim; a script without one fails, and says so.
        format!("# Claim:\n#\n# From {source}.\n{said}\n{commands}\n")
    }
}

/// Tells a run with the default workload as a script, and makes that short with at most so many tries. Give it a run that
/// [`shrink`](crate::shrink) has made short.
pub fn golden(options: Options, tries: usize) -> Golden {
    let commands = Teller::tell(&recorded(options));
    let before = commands.len();
    match violated(&commands) {
        Some(found) => {
            let found = shorten(found, tries);
            Golden { commands: found.commands, violates: Some(found.what), before }
        }
        None => Golden { commands, violates: None, before },
    }
}
