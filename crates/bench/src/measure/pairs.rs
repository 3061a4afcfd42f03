//! Trials of several sides, in turns.

use super::{Trial, allocations};
use crate::args::Options;
use crate::report::{Better, Role, Row, Side};

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Goal {
    /// Of Quorate's value to the opponent's.
    Ratio {
        must: f64,
        /// The same as `must` if there is none.
        aim: f64,
    },
    /// Of Quorate's value.
    Value { must: f64, aim: f64 },
    /// Of Quorate's value, and nothing less is asked for.
    Aim(f64),
}

impl Goal {
    /// Whether there is more to reach than what must be.
    pub(crate) fn has_aim(self) -> bool {
        match self {
            Goal::Ratio { must, aim } | Goal::Value { must, aim } => must.total_cmp(&aim).is_ne(),
            Goal::Aim(_) => true,
        }
    }
}

/// What a row is about.
#[derive(Clone, Debug)]
pub(crate) struct RowPlan<'a> {
    pub(crate) id: &'a str,
    pub(crate) what: String,
    pub(crate) unit: &'a str,
    pub(crate) better: Better,
    pub(crate) goal: Option<Goal>,
}

impl RowPlan<'_> {
    /// The same row in an open loop: its value is a latency.
    fn open(mut self, options: &Options) -> Self {
        if let Some(rate) = options.rate.filter(|_| self.unit.ends_with("/s")) {
            self.what = format!("{}, open loop at {rate}/s", self.what);
            self.unit = "us (99 %)";
            self.better = Better::Lower;
            self.goal = None;
        }
        self
    }
}

/// One side of a row: how one trial of it is made.
pub(crate) struct Contender<'a> {
    name: &'a str,
    role: Role,
    trial: Box<dyn FnMut() -> Result<Trial, String> + 'a>,
}

impl<'a> Contender<'a> {
    /// Quorate.
    pub(crate) fn ours(name: &'a str, trial: impl FnMut() -> Result<Trial, String> + 'a) -> Self {
        Self { name, role: Role::Ours, trial: Box::new(trial) }
    }

    /// What it is compared with.
    pub(crate) fn beside(name: &'a str, trial: impl FnMut() -> Result<Trial, String> + 'a) -> Self {
        Self { name, role: Role::Beside, trial: Box::new(trial) }
    }

    /// What no such program can pass.
    pub(crate) fn limit(name: &'a str, trial: impl FnMut() -> Result<Trial, String> + 'a) -> Self {
        Self { name, role: Role::Limit, trial: Box::new(trial) }
    }

    fn try_once(&mut self) -> Result<Trial, String> {
        (self.trial)().map_err(|problem| format!("{}: {problem}", self.name))
    }
}

/// Measures a row, and then each side once more to count its allocations, if the loop is closed.
pub(crate) fn measure_row_and_count(
    options: &Options,
    plan: RowPlan<'_>,
    mut contenders: Vec<Contender<'_>>,
) -> Result<Row, String> {
    let mut row = measured(options, plan, &mut contenders)?;
    if options.rate.is_some() {
        // Issuing on time allocates a task an operation: its count would say nothing of the sides.
        return Ok(row);
    }
    allocations::count_them(true);
    let counted: Result<Vec<Trial>, String> = contenders.iter_mut().map(Contender::try_once).collect();
    allocations::count_them(false);
    for (side, trial) in row.sides.iter_mut().zip(counted?) {
        side.allocations = trial.allocations;
    }
    Ok(row)
}

/// Measures a row: pair by pair, each side once. Who goes first moves on with every pair, so that no side always meets
/// the warmer machine.
pub(crate) fn measure_row(
    options: &Options,
    plan: RowPlan<'_>,
    mut contenders: Vec<Contender<'_>>,
) -> Result<Row, String> {
    measured(options, plan, &mut contenders)
}

fn measured(options: &Options, plan: RowPlan<'_>, contenders: &mut [Contender<'_>]) -> Result<Row, String> {
    let plan = plan.open(options);
    let mut sides: Vec<Side> = contenders
        .iter()
        .map(|contender| Side {
            name: contender.name.to_owned(),
            role: contender.role,
            trials: Vec::new(),
            allocations: None,
        })
        .collect();
    for pair in 0..options.pairs {
        for turn in 0..contenders.len() {
            let at = (pair + turn) % contenders.len();
            sides[at].trials.push(contenders[at].try_once()?);
        }
        let said: Vec<String> =
            sides.iter().map(|side| format!("{} {:.1}", side.name, side.trials[pair].value)).collect();
        println!("{}, {}, pair {}: {} {}", plan.id, plan.what, pair + 1, said.join(", "), plan.unit);
    }
    Ok(Row {
        id: plan.id.to_owned(),
        what: plan.what,
        unit: plan.unit.to_owned(),
        better: plan.better,
        goal: plan.goal,
        sides,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn sides_take_turns_and_the_first_moves_on() {
        let options = Options { pairs: 2, ..Options::default() };
        let order = RefCell::new(String::new());
        let says = |name: &'static str| {
            let order = &order;
            move || {
                order.borrow_mut().push_str(name);
                Ok(Trial::of(1.0))
            }
        };
        let plan = RowPlan { id: "X", what: "x".into(), unit: "put/s", better: Better::Higher, goal: None };
        let sides = vec![Contender::ours("a", says("a")), Contender::beside("b", says("b"))];
        let row = measure_row(&options, plan, sides).unwrap();
        assert_eq!(*order.borrow(), "abba");
        assert_eq!(row.sides.iter().map(|side| side.trials.len()).collect::<Vec<_>>(), [2, 2]);
    }
}
