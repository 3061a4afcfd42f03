//! Makes a failing run short: fewer nodes and features, fewer faults, fewer operations, less time.
//!
//! After the idea of delta debugging (Zeller and Hildebrandt, 2002): leave something out, play again, keep the shorter
//! run if it still fails in the same way. A run is a function of its options and of what is left out of it, so nothing
//! else must be remembered.

use std::time::Duration;

use quorate_core::{OnLostLog, Toggle};

use crate::edits::Decision;
use crate::fault::Fault;
use crate::options::Options;
use crate::rules::RuleKind;
use crate::run::Report;

/// Other chances that are tried for the same options.
const OTHER_SEEDS: u64 = 24;

/// A run made short.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrunk {
    /// The run as it was.
    pub before: Report,
    /// The short one.
    pub after: Report,
    /// Runs that it took.
    pub runs: u64,
}

/// Words of violations that do not begin with their check's name, and that name.
const CHECKS: &[(&str, &str)] = &[
    ("commit of node", "commit goes back"),
    ("applied of node", "applied goes back"),
    ("vote of node", "vote goes back"),
    ("comes back with log end", "what a disk promised"),
    ("commits index", "committed entry is not in the log"),
    (", which is committed", "committed entry is lacking"),
    ("cannot decode a message", "message cannot be decoded"),
    ("entries and differ", "equal state"),
    ("operation ", "oracle"),
    ("saw version", "oracle"),
    ("not deterministic", "determinism"),
    ("change that", "answer to the operator"),
    ("is said to", "answer to the operator"),
];

/// Which check a violation is of: the same for all violations of one kind. An invariant of the core goes by its name
/// in docs/invariants.md.
pub fn check_of(violation: &str) -> &str {
    if let Some(panic) = violation.strip_prefix("panic: ") {
        let invariant = panic.strip_prefix("invariant ").and_then(|claim| claim.split([' ', ':']).nth(1));
        let injected = panic.starts_with("injected").then_some("panic of the state machine");
        return invariant.or(injected).unwrap_or("assertion");
    }
    let head = violation.split_once(": ").map_or(violation, |(head, _)| head);
    let is_name = head.len() < violation.len() && !head.contains(|c: char| c.is_ascii_digit() && head.len() > 12);
    if is_name && head.len() <= 40 {
        return head;
    }
    CHECKS.iter().find(|(words, _)| violation.contains(words)).map_or("another check", |(_, check)| check)
}

/// A violation's first clause, without the check's name and without numbers: what happened, or did not. One check may tell
/// of several failures: a cluster without a leader is not one that has a leader and does not converge.
fn clause_of(violation: &str) -> String {
    let said = match violation.split_once(": ") {
        Some((head, rest)) if head == "panic" || head == check_of(violation) => rest,
        _ => violation,
    };
    let clause = said.split([':', ';', ',']).next().unwrap_or(said);
    let mut words: Vec<&str> = Vec::new();
    for word in clause.split_whitespace() {
        match words.last() {
            _ if word.contains(|c: char| c.is_ascii_digit()) => words.push("#"),
            // A vote says so behind its numbers.
            Some(&"#") if word == "committed" => {}
            _ => words.push(word),
        }
    }
    words.join(" ")
}

/// Whether two violations are the same failure.
fn same(one: &str, other: &str) -> bool {
    check_of(one) == check_of(other) && clause_of(one) == clause_of(other)
}

/// Shrinks a run that fails; `None` if it does not. At most about `limit` runs. `run` plays these options, and may stop
/// a run that has more than so many events, see [`crate::run_within`].
pub fn shrink(options: Options, limit: u64, run: impl FnMut(&Options, u64) -> Report) -> Option<Shrunk> {
    let mut run = run;
    let before = run(&options, u64::MAX);
    let violation = before.violation.clone()?;
    let mut shrinker = Shrinker { best: before.clone(), violation, run, runs: 1, limit };
    shrinker.cut();
    for round in 0..3 {
        let events = shrinker.best.events;
        shrinker.simplify();
        if round == 0 {
            shrinker.other_chances();
        }
        Decision::ALL.iter().for_each(|decision| shrinker.leave_out(*decision));
        shrinker.cut();
        if shrinker.best.events == events {
            break;
        }
    }
    let Shrinker { best: after, runs, .. } = shrinker;
    Some(Shrunk { before, after, runs })
}

struct Shrinker<R> {
    best: Report,
    /// Of the run as it was.
    violation: String,
    run: R,
    runs: u64,
    limit: u64,
}

impl<R: FnMut(&Options, u64) -> Report> Shrinker<R> {
    /// Takes these options over if they fail in the same way and no later.
    fn attempt(&mut self, change: impl FnOnce(&mut Options)) -> bool {
        let mut options = self.best.options.clone();
        change(&mut options);
        if self.runs >= self.limit || options == self.best.options {
            return false;
        }
        self.runs += 1;
        let report = (self.run)(&options, self.best.events);
        let same = report.violation.as_deref().is_some_and(|violation| same(violation, &self.violation));
        let better = same && report.events <= self.best.events;
        if better {
            self.best = report;
        }
        better
    }

    /// What never came to pass is not asked for.
    fn cut(&mut self) {
        let (time, decisions) = (self.best.time, self.best.decisions);
        self.attempt(|options| {
            options.length = options.length.min(time + Duration::from_nanos(1));
            options.operations = options.operations.min(decisions.of(Decision::Operation));
            options.edits = std::mem::take(&mut options.edits).up_to(&decisions);
        });
    }

    /// Fewer nodes and clients, fewer features, fewer kinds of faults.
    fn simplify(&mut self) {
        for length in [16_u32, 8, 4, 2] {
            self.attempt(|options| options.length /= length);
            self.attempt(|options| options.operations /= u64::from(length));
        }
        self.attempt(|options| options.faults = crate::fault::FaultSet::NONE);
        for fault in Fault::ALL {
            self.attempt(|options| options.faults = options.faults.without(*fault));
        }
        for voters in 1..self.best.options.voters {
            if self.attempt(|options| options.voters = voters) {
                break;
            }
        }
        self.attempt(|options| options.spares = 0);
        self.attempt(|options| options.first_rules = RuleKind::Majority);
        self.attempt(|options| options.clients = 1);
        self.attempt(|options| options.clients = 2);
        self.attempt(|options| options.membership = false);
        self.attempt(|options| options.triggers = false);
        self.attempt(|options| options.recovery = false);
        self.attempt(|options| options.core = false);
        self.attempt(|options| options.sessions = 0);
        self.attempt(|options| options.conditions = 0);
        self.attempt(|options| options.hasty = false);
        self.attempt(|options| options.together = 0);
        self.attempt(|options| options.batches = 0);
        self.attempt(|options| options.forwards = 0);
        self.attempt(|options| options.reads = 0);
        self.attempt(|options| options.beyond_budget = false);
        self.attempt(|options| options.lease_reads = false);
        self.attempt(|options| options.inline_applies = true);
        self.attempt(|options| options.deferrals = 0);
        self.attempt(|options| options.frozen_snapshots = false);
        self.attempt(|options| options.segment_bytes = 128 << 10);
        self.attempt(|options| options.config.snapshot_entries = 0);
        self.attempt(|options| options.config.max_append_bytes = 1 << 20);
        self.attempt(|options| options.config.max_inflight_appends = 4);
        self.attempt(|options| options.config.max_inflight_bytes = 8 << 20);
        self.attempt(|options| options.config.pre_vote = Toggle::On);
        self.attempt(|options| options.config.check_quorum = Toggle::On);
        self.attempt(|options| options.config.max_disk_lag = options.election_timeout * 10);
        self.attempt(|options| options.config.on_lost_log = OnLostLog::Rejoin);
        self.attempt(|options| options.think *= 4);
    }

    /// The same options with other chances may fail sooner.
    fn other_chances(&mut self) {
        let first = self.best.options.seed;
        for seed in 1..=OTHER_SEEDS {
            self.attempt(|options| options.seed = first.wrapping_add(seed));
        }
    }

    /// Leaves out decisions of a kind: all, halves, quarters, and so on to single ones, the last first.
    fn leave_out(&mut self, decision: Decision) {
        let mut part = self.best.decisions.of(decision);
        while part > 0 {
            let mut to = self.best.decisions.of(decision);
            while to > 0 {
                let from = to.saturating_sub(part);
                if (from..to).any(|number| self.best.options.edits.keeps(decision, number)) {
                    self.attempt(|options| {
                        options.edits = std::mem::take(&mut options.edits).without(decision, from, to);
                    });
                }
                to = from.min(self.best.decisions.of(decision));
            }
            part /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{run_options, run_within};

    #[test]
    fn words_that_name_a_check_are_words_of_some_violation() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut text = String::new();
        for folder in ["", "world", "check"].map(|name| source.join(name)) {
            for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if file.is_file() && !file.ends_with("shrink.rs") {
                    text += &std::fs::read_to_string(file).unwrap();
                }
            }
        }
        // Where what is between them is filled in.
        let said = |words: &str| words.split("node").all(|part| text.contains(part));
        let unused: Vec<&str> = CHECKS.iter().map(|(words, _)| *words).filter(|words| !said(words)).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    /// A run of this many events that fails because of one fault and two operations.
    fn fails(options: &Options, template: &Report) -> Report {
        let mut report = template.clone();
        report.options = options.clone();
        let keeps = |decision, number| options.edits.keeps(decision, number);
        let kept = |decision| (0..300).filter(|number| keeps(decision, *number)).count() as u64;
        report.events = 10 + options.voters + kept(Decision::Fault) + kept(Decision::Operation);
        Decision::ALL.iter().for_each(|decision| report.decisions.set(*decision, 300));
        let needed = keeps(Decision::Fault, 77) && keeps(Decision::Operation, 5) && keeps(Decision::Operation, 201);
        report.violation = (needed && options.voters > 2).then(|| "lost: entry 7".to_owned());
        report
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let mut options = Options::of_seed(4);
        options.voters = 5;
        (options.operations, options.length) = (1, Duration::from_millis(1));
        let (template, _) = run_options(options.clone(), false);
        let shrunk = shrink(options, 10_000, |options, _| fails(options, &template));
        let Some(Shrunk { before, after, .. }) = shrunk else { panic!("it fails") };
        assert_eq!(before.events, 615);
        assert_eq!((after.options.voters, after.events), (3, 16), "{}", after.options);
        assert_eq!(after.options.edits.count(Decision::Fault), 299);
        assert_eq!(after.options.edits.count(Decision::Operation), 298);
        assert_eq!(after.options.faults, crate::fault::FaultSet::NONE);
    }

    #[test]
    fn a_run_without_some_operations_holds() {
        let mut options = Options::of_seed(4);
        options.edits = options.edits.without(Decision::Operation, 0, 3).without(Decision::Operation, 7, 40);
        let (report, history) = run_options(options, false);
        assert_eq!(report.violation, None);
        let ids: Vec<u64> = history.operations.iter().map(|operation| operation.id).take(6).collect();
        assert_eq!(ids, [3, 4, 5, 6, 40, 41]);
    }

    #[test]
    fn what_does_not_fail_is_not_shrunk() {
        let mut options = Options::of_seed(4);
        (options.operations, options.length) = (1, Duration::from_millis(1));
        // That asks for a cluster which has formed, and this one has no time to.
        options.core = false;
        assert_eq!(shrink(options, 100, run_within), None);
    }

    #[test]
    fn a_shorter_run_that_fails_otherwise_is_not_taken() {
        let mut options = Options::of_seed(4);
        (options.operations, options.length) = (1, Duration::from_millis(1));
        let (template, _) = run_options(options.clone(), false);
        // Without its last 200 faults the cluster has no leader; with them it has one, and does not converge.
        let shrunk = shrink(options, 10_000, |options, _| {
            let mut report = template.clone();
            let kept = (0..300).filter(|number| options.edits.keeps(Decision::Fault, *number)).count() as u64;
            (report.options, report.events) = (options.clone(), kept);
            Decision::ALL.iter().for_each(|decision| report.decisions.set(*decision, 300));
            report.violation = Some(match kept {
                0..100 => "liveness: no leader within 4 election timeouts".to_owned(),
                _ => format!("liveness: the nodes do not converge: node 1 follows; node {kept} is down"),
            });
            report
        });
        let Some(Shrunk { after, .. }) = shrunk else { panic!("it fails") };
        assert_eq!(after.events, 100, "{:?}", after.violation);
        assert!(after.violation.is_some_and(|violation| violation.contains("do not converge")));
    }

    #[test]
    fn violations_are_the_same_whatever_their_numbers() {
        for (one, other, alike) in [
            ("liveness: clients wait for ever", "liveness: no leader at the beginning", false),
            ("liveness: the nodes do not converge: node 1 leads", "liveness: the nodes do not converge: ?", true),
            ("election safety: a second leader in term 4", "election safety: a second leader in term 11", true),
            ("election safety: a second leader in term 4", "election safety: node 2 leads as 4.2", false),
            ("commit of node 3 goes back from 4 to 2", "commit of node 1 goes back from 40 to 7", true),
            ("vote of node 3 goes back from 4-1 committed to 2-1", "vote of node 3 goes back from 4-1 to 2-1", true),
            ("panic: invariant 45, HeldUntilDurable: at 3", "panic: invariant 45, HeldUntilDurable: at 4", true),
            ("panic: invariant 45, HeldUntilDurable: at 3", "panic: invariant 46, Another: at 3", false),
            ("panic: the queue is empty", "panic: index out of bounds: the length is 3", false),
            ("operation 7, Read, was answered 3", "operation 12, Write(3), was answered 4", true),
            ("operation 7 saw a list that never was: [3]", "operation 7 swapped 3, it expected 4", false),
        ] {
            assert_eq!(same(one, other), alike, "{one} / {other}");
        }
    }

    #[test]
    fn a_violation_has_a_check() {
        for (violation, check) in [
            ("election safety: a second leader in term 4", "election safety"),
            ("law 7: node 3 leads again as 4.3 after a restart", "law 7"),
            ("liveness: the nodes do not converge: node 1 follows", "liveness"),
            ("commit of node 3 goes back from 4 to 2", "commit goes back"),
            ("panic: a claim failed: at index 3", "assertion"),
            ("panic: invariant 45, HeldUntilDurable: what is held stays", "HeldUntilDurable"),
            ("panic: injected: the state machine panics", "panic of the state machine"),
            ("node 2 lacks 4.2-7, which is committed", "committed entry is lacking"),
            ("operation 7 saw a list that never was: [3]", "oracle"),
        ] {
            assert_eq!(check_of(violation), check, "{violation}");
        }
    }
}
