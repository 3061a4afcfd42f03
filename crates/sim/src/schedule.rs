//! A run as text: its options, and what is left out of it. `testdata/regression/*.sim`.
//!
//! ```text
//! # What it shows.
//! mutant LearnerCommits
//! shows leader completeness
//! seed 17
//! voters 3
//! without fault 0-4 7
//! ```
//!
//! Options that a file does not name are those of its seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use quorate::Config;
use quorate_core::{LeaderIdMode, OnLostLog, Toggle};

use crate::edits::Decision;
use crate::fault::{Fault, FaultSet};
use crate::options::Options;
use crate::rules::RuleKind;

/// Above this no run of numbers in a file is believed.
const MAX_NUMBER: u64 = 10_000_000;

/// A run to be played again.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What it is about, a line each.
    pub notes: Vec<String>,
    /// The planted bug with which it fails; without it, it must not.
    pub mutant: Option<String>,
    /// The check that failed when this was written.
    pub shows: Option<String>,
    /// The run.
    pub options: Options,
}

/// A value of an option, as text.
trait Value: Sized {
    fn show(&self) -> String;
    fn read(text: &str) -> Result<Self, String>;
}

macro_rules! plain {
    ($($kind:ty)+) => {
        $(impl Value for $kind {
            fn show(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("`{text}` is no {}", stringify!($kind)))
            }
        })+
    };
}

plain!(u64 u32 usize bool);

impl Value for Duration {
    fn show(&self) -> String {
        format!("{}ns", self.as_nanos())
    }

    fn read(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("ns").ok_or_else(|| format!("`{text}` is no time in ns"))?;
        Ok(Duration::from_nanos(u64::read(number)?))
    }
}

impl Value for Toggle {
    fn show(&self) -> String {
        (*self == Toggle::On).show()
    }

    fn read(text: &str) -> Result<Self, String> {
        Ok(if bool::read(text)? { Toggle::On } else { Toggle::Off })
    }
}

impl Value for LeaderIdMode {
    fn show(&self) -> String {
        match self {
            LeaderIdMode::Advanced => "advanced".to_owned(),
            LeaderIdMode::Standard => "standard".to_owned(),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "advanced" => Ok(LeaderIdMode::Advanced),
            "standard" => Ok(LeaderIdMode::Standard),
            _ => Err(format!("`{text}` is no way to compare leader ids")),
        }
    }
}

impl Value for OnLostLog {
    fn show(&self) -> String {
        match self {
            OnLostLog::Halt => "halt".to_owned(),
            OnLostLog::Rejoin => "rejoin".to_owned(),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "halt" => Ok(OnLostLog::Halt),
            "rejoin" => Ok(OnLostLog::Rejoin),
            _ => Err(format!("`{text}` is nothing to do about a lost log")),
        }
    }
}

impl Value for RuleKind {
    fn show(&self) -> String {
        self.name().to_owned()
    }

    fn read(text: &str) -> Result<Self, String> {
        let known = RuleKind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| format!("`{text}` is no kind of quorum rules"))
    }
}

impl Value for FaultSet {
    fn show(&self) -> String {
        if *self == FaultSet::NONE { "none".to_owned() } else { self.to_string() }
    }

    fn read(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(FaultSet::NONE);
        }
        let fault = |name: &str| {
            let known = Fault::ALL.iter().copied().find(|fault| fault.name() == name);
            known.ok_or_else(|| format!("`{name}` is no fault"))
        };
        text.split(',').map(fault).collect()
    }
}

macro_rules! fields {
    ($($name:literal: $($path:ident).+,)+) => {
        fn shown(options: &Options) -> Vec<(&'static str, String)> {
            vec![$(($name, Value::show(&options.$($path).+)),)+]
        }

        fn set(options: &mut Options, name: &str, text: &str) -> Result<(), String> {
            match name {
                $($name => options.$($path).+ = Value::read(text)?,)+
                _ => return Err(format!("`{name}` is no option")),
            }
            Ok(())
        }
    };
}

fields! {
    "voters": voters,
    "spares": spares,
    "leader-ids": mode,
    "first-rules": first_rules,
    "clients": clients,
    "operations": operations,
    "length": length,
    "election-timeout": election_timeout,
    "latency": latency,
    "disk-latency": disk_latency,
    "fault-interval": fault_interval,
    "think": think,
    "faults": faults,
    "message-faults": message_faults,
    "reads": reads,
    "batches": batches,
    "together": together,
    "hasty": hasty,
    "conditions": conditions,
    "forwards": forwards,
    "sessions": sessions,
    "membership": membership,
    "triggers": triggers,
    "beyond-budget": beyond_budget,
    "mends": mends,
    "recovery": recovery,
    "core": core,
    "lease-reads": lease_reads,
    "inline-applies": inline_applies,
    "deferrals": deferrals,
    "frozen-snapshots": frozen_snapshots,
    "segment-bytes": segment_bytes,
    "config.election-timeout-min": config.election_timeout_min,
    "config.election-timeout-max": config.election_timeout_max,
    "config.heartbeat-interval": config.heartbeat_interval,
    "config.leader-ids": config.leader_id_mode,
    "config.pre-vote": config.pre_vote,
    "config.check-quorum": config.check_quorum,
    "config.max-append-bytes": config.max_append_bytes,
    "config.max-inflight-appends": config.max_inflight_appends,
    "config.max-inflight-bytes": config.max_inflight_bytes,
    "config.retransmit-timeout": config.retransmit_timeout,
    "config.snapshot-entries": config.snapshot_entries,
    "config.keep-entries": config.keep_entries,
    "config.tail-cache-bytes": config.tail_cache_bytes,
    "config.snapshot-bytes": config.snapshot_bytes,
    "config.snapshot-interval": config.snapshot_interval,
    "config.max-kept-bytes": config.max_kept_bytes,
    "config.replication-lag-threshold": config.replication_lag_threshold,
    "config.proposal-window-bytes": config.proposal_window_bytes,
    "config.max-command-bytes": config.max_command_bytes,
    "config.max-disk-lag": config.max_disk_lag,
    "config.max-clock-drift": config.max_clock_drift,
    "config.on-lost-log": config.on_lost_log,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "# {note}")?;
        }
        if let Some(mutant) = &self.mutant {
            writeln!(f, "mutant {mutant}")?;
        }
        if let Some(shows) = &self.shows {
            writeln!(f, "shows {shows}")?;
        }
        writeln!(f, "seed {}", self.options.seed)?;
        for (name, value) in shown(&self.options) {
            writeln!(f, "{name} {value}")?;
        }
        write!(f, "{}", self.options.edits)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = |line: &'static str| move |l: &&str| l.split_once(' ').is_some_and(|(word, _)| word == line);
        let seed = text.lines().find(words("seed")).and_then(|line| line.split_once(' '));
        let seed = u64::read(seed.ok_or("the file names no seed")?.1.trim())?;
        // A file that does not name them is from before there were any.
        let mut options = Options::of_seed(seed);
        (options.recovery, options.core) = (false, false);
        (options.forwards, options.together, options.deferrals) = (0, 0, 0);
        (options.first_rules, options.frozen_snapshots) = (RuleKind::Majority, false);
        let (config, usual) = (&mut options.config, Config::default());
        config.on_lost_log = OnLostLog::Rejoin;
        (config.snapshot_bytes, config.snapshot_interval) = (usual.snapshot_bytes, usual.snapshot_interval);
        (config.max_kept_bytes, config.proposal_window_bytes) = (usual.max_kept_bytes, usual.proposal_window_bytes);
        (config.replication_lag_threshold, config.max_command_bytes) =
            (usual.replication_lag_threshold, usual.max_command_bytes);
        let mut schedule = Schedule { notes: Vec::new(), mutant: None, shows: None, options };
        for (number, line) in text.lines().enumerate() {
            schedule.read(line.trim()).map_err(|error| format!("line {}: {error}", number + 1))?;
        }
        let Options { voters, spares, clients, .. } = &schedule.options;
        if !(1..=7).contains(voters) || *spares > 7 || !(1..=64).contains(clients) {
            return Err("there are 1 to 7 voters, at most 7 spare nodes and 1 to 64 clients".to_owned());
        }
        Ok(schedule)
    }
}

impl Schedule {
    fn read(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(note) = line.strip_prefix('#') {
            self.notes.push(note.trim().to_owned());
            return Ok(());
        }
        let (word, rest) = line.split_once(' ').ok_or_else(|| format!("`{line}` has no value"))?;
        match word {
            "seed" => Ok(()),
            "mutant" => {
                self.mutant = Some(rest.to_owned());
                Ok(())
            }
            "shows" => {
                self.shows = Some(rest.to_owned());
                Ok(())
            }
            "without" => self.leave_out(rest),
            _ => set(&mut self.options, word, rest),
        }
    }

    fn leave_out(&mut self, rest: &str) -> Result<(), String> {
        let mut words = rest.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let known = Decision::ALL.iter().copied().find(|decision| decision.name() == kind);
        let decision = known.ok_or_else(|| format!("`{kind}` cannot be left out"))?;
        for word in words {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last) = (u64::read(first)?, u64::read(last)?);
            if first > last || last > MAX_NUMBER {
                return Err(format!("`{word}` is no run of numbers"));
            }
            let edits = std::mem::take(&mut self.options.edits);
            self.options.edits = edits.without(decision, first, last + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for seed in 0..50 {
            let mut options = Options::of_seed(seed);
            // Every option is written: nothing is left to the seed.
            options.seed = seed + 1000;
            options.voters = 2;
            options.edits = std::mem::take(&mut options.edits)
                .without(Decision::Fault, 0, 4)
                .without(Decision::Fault, 6, 7)
                .without(Decision::Operator, 9, 11);
            let notes = vec!["A note.".to_owned()];
            let mutant = (seed % 2 == 0).then(|| "LearnerCommits".to_owned());
            let schedule = Schedule { notes, mutant, shows: Some("lost".to_owned()), options };
            let text = schedule.to_string();
            assert!(text.contains("without fault 0-3 6\nwithout operator 9-10\n"), "{text}");
            assert_eq!(text.parse(), Ok(schedule), "{text}");
        }
    }

    #[test]
    fn what_no_schedule_is_has_an_error() {
        let bad = ["voters 3", "seed 1\nvoters x", "seed 1\nthink 3s", "seed 1\nwithout luck 3", "seed 1\nfaults rain"];
        for text in bad.into_iter().chain(["seed 1\nwithout fault 5-2", "seed 1\nvoters 9", "seed 1\nnothing"]) {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
