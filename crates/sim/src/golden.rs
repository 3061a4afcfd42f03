//! A failing run told as a golden script (testdata/README.md), and made short there.
//!
//! What the cores met is told again in the script's words: every start with its seed, every message by its number on its
//! link, every write and job as it was done, at the same times. Cores are functions of what they meet, so those of the
//! script do what those of the run did, to the last message, as far as the script's world can do it: there entries have
//! other sizes (so limits in bytes take effect elsewhere), one clock goes for all nodes, and disks that lie, are put back
//! or are recovered are told in part or not at all. A command that cannot be done is passed over, and counted. What is
//! violated is then looked for in the script, and what is not needed for it is left out, which is cheap there: a script
//! takes milliseconds.

mod sent;
mod teller;
mod words;

use quorate_testkit::script::{Rehearsal, Violated, rehearse, shorten};

use crate::options::Options;
use crate::run::recorded;
use teller::Teller;

/// A run as a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// The commands.
    pub commands: Vec<String>,
    /// What is violated at the last of them. `None`: nothing is, so all commands are there that can be done; what failed in
    /// the run is beyond the cores, or a script cannot say what happened to a disk or a clock.
    pub violates: Option<String>,
    /// What failed in the run, by another check perhaps: the script's world has its own.
    pub failed: Option<String>,
    /// How many commands there were before they were made fewer.
    pub before: usize,
    /// Those of them that could not be done there, and why: where the script's world is not the run's.
    pub undone: Vec<(String, String)>,
}

impl Golden {
    /// The script, with a claim and an expectation for a person to write; `source` names the run.
    pub fn text(&self, source: &str) -> String {
        let failed = self.failed.as_ref().map(|failed| format!("It failed by: {failed}\n"));
        let violates = match &self.violates {
            Some(what) => format!("The last command violates: {what}"),
            None => "It violates nothing here: write what is to be expected.".to_owned(),
        };
        let said = format!("From {source}.\n{}{violates}", failed.unwrap_or_default());
        let said: String = said.lines().map(|line| format!("# {line}\n")).collect();
        let commands = self.commands.join("\n");
        // Nobody but a person can write the claim; a script without one fails, and says so.
        format!("# Claim:\n#\n{said}\n{commands}\n")
    }
}

/// Tells a run with the default workload as a script, and makes that short with at most so many tries. Give it a run that
/// [`shrink`](crate::shrink) has made short.
pub fn golden(options: Options, tries: usize) -> Golden {
    let (moments, failed) = recorded(options);
    let commands = Teller::tell(&moments);
    let before = commands.len();
    let Rehearsal { done, undone, violation } = rehearse(&commands);
    let (commands, violates) = match violation {
        Some(what) => {
            let Violated { commands, what } = shorten(Violated { commands: done, what }, tries);
            (commands, Some(what))
        }
        None => (done, None),
    };
    Golden { commands, violates, failed, before, undone }
}
