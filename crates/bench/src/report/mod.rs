//! What was measured, as data: [`Report`]. As text (`text.rs`), as a chart (`svg.rs`), as a page (`page.rs`), as JSON.

mod machine;
pub(crate) mod page;
mod readme;
mod source;
pub(crate) mod svg;
pub(crate) mod text;
mod verified;

use serde::{Deserialize, Serialize};

use crate::args::Options;
use crate::measure::disk::SyncLatency;
use crate::measure::{Goal, Trial};
use crate::tables::Table;
pub(crate) use machine::Machine;
pub(crate) use source::Source;

/// One table, measured. Older files lack the fields that came later: each of those has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its name in `quorate-bench list`.
    pub(crate) table: String,
    pub(crate) what: String,
    /// The command that made it.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// The code that was measured.
    #[serde(default)]
    pub(crate) source: Source,
    /// The library, the opponents, the compiler.
    pub(crate) versions: Vec<String>,
    /// How both sides were set.
    pub(crate) settings: Vec<String>,
    /// What its figures do not say.
    pub(crate) caveats: Vec<String>,
    /// Whether its rows are the points of curves.
    pub(crate) curve: bool,
    /// Before and after, if the table is about the disk.
    pub(crate) disk: Vec<SyncLatency>,
    pub(crate) rows: Vec<Row>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) goal: Option<Goal>,
    pub(crate) sides: Vec<Side>,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// Who a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Quorate.
    Ours,
    /// What it is compared with.
    Beside,
    /// What no such program can pass.
    Limit,
}

/// One side's trials, one a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) trials: Vec<Trial>,
    /// Allocations of the whole process an operation, of one more trial that counted them: counting takes time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allocations: Option<f64>,
}

/// Median and extremes of a few numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) greatest: f64,
}

/// The arguments, but those that name a place on this machine: anybody else has others.
fn without_places(words: &str) -> String {
    let mut words = words.split(' ');
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "--dir" | "--etcd" | "--engines" => drop(words.next()),
            _ => kept.push(word),
        }
    }
    kept.join(" ")
}

impl Report {
    /// A report without rows.
    pub(crate) fn new(table: &Table, options: &Options, words: &str) -> Self {
        Self {
            table: table.id.to_owned(),
            what: table.what.to_owned(),
            command: format!("cargo run --release -p quorate-bench -- {}", without_places(words)),
            machine: Machine::this(&options.dir),
            source: Source::this(),
            versions: vec![format!("quorate {}, {}", env!("CARGO_PKG_VERSION"), machine::build())],
            settings: vec![table.trials(options)],
            caveats: table.caveats.iter().map(|&caveat| caveat.to_owned()).collect(),
            curve: false,
            disk: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Says which points of a curve this run's options leave out.
    pub(crate) fn leave_out(&mut self, options: &Options, points: impl Iterator<Item = String>) {
        let points: Vec<String> = points.collect();
        if !points.is_empty() {
            self.caveats.push(format!("{}, which `--bytes {}` leaves out", points.join(", "), options.bytes));
        }
    }

    /// For the page, and for whoever wants to compute.
    pub(crate) fn to_json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| format!("not JSON: {error}"))
    }

    /// What [`to_json`](Self::to_json) wrote.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

impl Row {
    fn side(&self, role: Role) -> Option<&Side> {
        self.sides.iter().find(|side| side.role == role)
    }

    /// Quorate's values to another side's, pair by pair: in one pair both met the same machine.
    fn ratio(&self, to: Role) -> Option<Spread> {
        let (ours, other) = (self.side(Role::Ours)?, self.side(to)?);
        Spread::of(ours.trials.iter().zip(&other.trials).map(|(a, b)| a.value / b.value))
    }

    /// Quorate's processor time to the opponent's, pair by pair.
    fn cpu_ratio(&self) -> Option<Spread> {
        let (ours, other) = (self.side(Role::Ours)?, self.side(Role::Beside)?);
        let pairs = ours.trials.iter().zip(&other.trials);
        Spread::of(pairs.filter_map(|(a, b)| Some(a.cpu_ns? / b.cpu_ns?)))
    }

    /// How much of what the limit does Quorate does.
    fn share_of_limit(&self) -> Option<f64> {
        let ratio = self.ratio(Role::Limit)?.median;
        Some(match self.better {
            Better::Higher => ratio,
            Better::Lower => 1.0 / ratio,
        })
    }

    /// What its goal is about: a ratio, or Quorate's own value.
    fn measured(&self) -> Option<Spread> {
        match self.goal? {
            Goal::Ratio { .. } => self.ratio(self.compared_with()),
            Goal::Value { .. } | Goal::Aim(_) => self.side(Role::Ours)?.values(),
        }
    }

    /// Whose value is its ratio's other side: the opponent's, or the limit's where there is none.
    fn compared_with(&self) -> Role {
        if self.side(Role::Beside).is_some() { Role::Beside } else { Role::Limit }
    }

    /// How the row stands beside its goal.
    fn verdict(&self) -> Option<Verdict> {
        let (value, must, aim) = match (self.goal?, self.measured()?.median) {
            (Goal::Ratio { must, aim } | Goal::Value { must, aim }, value) => (value, must, aim),
            (Goal::Aim(aim), value) => (value, aim, aim),
        };
        let reaches = |goal: f64| match self.better {
            Better::Higher => value >= goal,
            Better::Lower => value <= goal,
        };
        Some(match (reaches(aim), reaches(must)) {
            (true, _) => Verdict::Aim,
            (false, true) => Verdict::Must,
            (false, false) => Verdict::Missed,
        })
    }
}

/// How a row stands beside its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Aim,
    Must,
    Missed,
}

impl Side {
    fn values(&self) -> Option<Spread> {
        Spread::of(self.trials.iter().map(|trial| trial.value))
    }

    /// Allocations an operation, if they were counted.
    fn allocations(&self) -> Option<f64> {
        self.allocations.or_else(|| self.median(|trial| trial.allocations))
    }

    /// The median over the trials of something that not every trial has.
    fn median(&self, of: impl Fn(&Trial) -> Option<f64>) -> Option<f64> {
        Spread::of(self.trials.iter().filter_map(of)).map(|spread| spread.median)
    }
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let (&least, &greatest) = sorted.first().zip(sorted.last())?;
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { least, median, greatest })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with known figures.
    pub(crate) fn sample() -> Report {
        let trial = |value, cpu| Trial { value, cpu_ns: Some(cpu), ..Trial::default() };
        let side = |name: &str, role, values: [f64; 3]| Side {
            name: name.to_owned(),
            role,
            trials: values.map(|value| trial(value, 1e9 / value)).to_vec(),
            allocations: None,
        };
        let row = Row {
            id: "M4".into(),
            what: "1024 clients".into(),
            unit: "put/s".into(),
            better: Better::Higher,
            goal: Some(Goal::Ratio { must: 2.5, aim: 4.0 }),
            sides: vec![
                side("quorate", Role::Ours, [1000.0, 900.0, 800.0]),
                side("openraft", Role::Beside, [100.0, 300.0, 200.0]),
                side("echo", Role::Limit, [2000.0, 1800.0, 1600.0]),
            ],
        };
        Report {
            table: "M4".into(),
            what: "in-memory puts".into(),
            command: "cargo run".into(),
            machine: Machine {
                cores: 2,
                cpu: "a <processor>".into(),
                kernel: "a kernel".into(),
                disk: "a disk".into(),
            },
            source: Source { commit: "0123456789ab".into(), rustc: "rustc 1.90.0".into() },
            versions: vec!["quorate 0.1.0".into()],
            settings: vec!["3 pairs".into()],
            caveats: vec!["nothing of a network".into()],
            curve: false,
            disk: Vec::new(),
            rows: vec![row],
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_pairs_ratios() {
        let report = sample();
        let row = &report.rows[0];
        assert_eq!(row.ratio(Role::Beside), Some(Spread { least: 3.0, median: 4.0, greatest: 10.0 }));
        assert_eq!(row.share_of_limit(), Some(0.5));
        assert_eq!(row.verdict(), Some(Verdict::Aim));
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).unwrap().median, 2.5);
        assert_eq!(Spread::of([].into_iter()), None);
    }

    #[test]
    fn a_command_names_no_place_on_this_machine() {
        assert_eq!(without_places("M4 --dir /a/b --pairs 5 --etcd /bin/etcd"), "M4 --pairs 5");
    }

    #[test]
    fn a_goal_of_less_is_missed_by_more() {
        let mut row = sample().rows.remove(0);
        row.better = Better::Lower;
        row.goal = Some(Goal::Value { must: 950.0, aim: 100.0 });
        assert_eq!(row.verdict(), Some(Verdict::Must));
        row.goal = Some(Goal::Value { must: 850.0, aim: 100.0 });
        assert_eq!(row.verdict(), Some(Verdict::Missed));
        assert_eq!(row.share_of_limit(), Some(2.0));
    }

    #[test]
    fn json_is_read_back_as_it_was_written() {
        let report = sample();
        assert_eq!(Report::from_json(&report.to_json().unwrap()), Ok(report));
    }

    #[test]
    fn points_that_are_left_out_are_said() {
        let mut report = sample();
        let options = Options { bytes: 1024, ..Options::default() };
        report.leave_out(&options, std::iter::empty());
        assert_eq!(report.caveats.len(), 1);
        report.leave_out(&options, ["64 MiB", "1 GiB"].map(str::to_owned).into_iter());
        assert_eq!(report.caveats[1], "64 MiB, 1 GiB, which `--bytes 1024` leaves out");
    }

    #[test]
    fn an_older_file_is_read_without_the_fields_that_came_later() {
        let mut report = sample();
        let mut json = serde_json::to_value(&report).unwrap();
        assert!(json.as_object_mut().unwrap().remove("source").is_some());
        report.source = Source::default();
        assert_eq!(Report::from_json(&json.to_string()), Ok(report));
    }
}
