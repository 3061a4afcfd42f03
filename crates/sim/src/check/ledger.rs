//! The default workload's history as [`linearizable`] takes it.

use std::collections::BTreeSet;

use super::{Checked, Model, Timed, Verdict, linearizable};
use crate::history::{Call, Freshness, History, Key, ListView, Nanos, Operation, Outcome};
use crate::ledger::{FIRST_REGISTER, Ledger};

/// Steps after which a seed's search is given up. A seed takes about one step an operation.
pub const MAX_STEPS: u64 = 200_000;

/// The objects of a [`Ledger`]: [`Call`] says what is asked, [`Outcome`] what is answered. A list's state is what
/// reads see of it, a register's is its value, as `last`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerModel;

impl Model for LedgerModel {
    type Key = Key;
    type State = ListView;
    type Input = Call;
    type Output = Outcome;

    fn key(&self, input: &Call) -> Key {
        input.key()
    }

    fn start(&self, _key: &Key) -> ListView {
        ListView::default()
    }

    fn step(&self, state: &ListView, input: &Call, output: Option<&Outcome>) -> Option<ListView> {
        let register = |value| ListView { last: value, ..ListView::default() };
        let (next, answer) = match *input {
            Call::Append { value, .. } => {
                let next = state.append(value);
                (next, Outcome::Appended { length: next.length })
            }
            Call::Put { value, .. } => (register(value), Outcome::Put { previous: state.last }),
            Call::CompareAndSwap { expect, value, .. } => {
                let swapped = state.last == expect;
                let next = if swapped { register(value) } else { *state };
                (next, Outcome::Swapped { swapped, previous: state.last })
            }
            Call::ReadList { .. } => (*state, Outcome::List(*state)),
            Call::ReadRegister { .. } => (*state, Outcome::Register { value: state.last }),
        };
        output.is_none_or(|output| *output == answer).then_some(next)
    }
}

/// The operations of a history whose answers must be linearizable, and a look at every object at its end.
///
/// Writes that nobody was answered are left out where nobody can have seen their effect: a list at its end has all that
/// was appended, and a register's value that no answer names, and no swap expects, was overwritten before it mattered.
pub fn timed(history: &History, end: &Ledger) -> Vec<Timed<Call, Outcome>> {
    let named = named(history);
    let mut timed: Vec<_> = history.operations.iter().filter_map(|operation| one(operation, &named, end)).collect();
    let keys: BTreeSet<Key> = history.operations.iter().map(|operation| operation.call.key()).collect();
    for key in keys.into_iter().chain(end.keys()).collect::<BTreeSet<_>>() {
        let freshness = Freshness::Linearizable;
        let (input, output) = match key < FIRST_REGISTER {
            true => (Call::ReadList { key, freshness }, Outcome::List(end.list(key))),
            false => (Call::ReadRegister { key, freshness }, Outcome::Register { value: end.register(key) }),
        };
        timed.push(Timed { input, output: Some(output), invoked_at: Nanos::MAX, returned_at: None });
    }
    timed
}

/// The same of a history at the end of which nothing is known: any write that nobody was answered may have taken effect at
/// any time, or take it yet. One of a register is left out as in [`timed`].
pub fn timed_without_end(history: &History) -> Vec<Timed<Call, Outcome>> {
    let named = named(history);
    let open = |operation: &Operation| {
        let Operation { call, outcome, invoked_at, returned_at, .. } = *operation;
        let known = Timed { input: call, output: Some(outcome), invoked_at, returned_at };
        match (call, outcome) {
            (_, Outcome::NotApplied) => None,
            (Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. }, outcome) => {
                (freshness.is_linearizable() && outcome != Outcome::Unknown).then_some(known)
            }
            (Call::Append { .. }, Outcome::Unknown) => Some(Timed { output: None, ..known }),
            (Call::Put { value, .. } | Call::CompareAndSwap { value, .. }, Outcome::Unknown) => {
                named.contains(&value).then_some(Timed { output: None, ..known })
            }
            _ => Some(known),
        }
    };
    history.operations.iter().filter_map(open).collect()
}

/// Values that an answer names, or that a swap expects.
fn named(history: &History) -> BTreeSet<u64> {
    let mut named: BTreeSet<u64> = BTreeSet::new();
    for operation in &history.operations {
        if let Call::CompareAndSwap { expect, .. } = operation.call {
            named.insert(expect);
        }
        match operation.outcome {
            Outcome::Put { previous: value }
            | Outcome::Swapped { previous: value, .. }
            | Outcome::Register { value } => {
                named.insert(value);
            }
            Outcome::Unknown | Outcome::NotApplied | Outcome::Appended { .. } | Outcome::List(_) => {}
        }
    }
    named
}

fn one(operation: &Operation, named: &BTreeSet<u64>, end: &Ledger) -> Option<Timed<Call, Outcome>> {
    let Operation { call, outcome, invoked_at, returned_at, .. } = *operation;
    let known = Timed { input: call, output: Some(outcome), invoked_at, returned_at };
    match (call, outcome) {
        (_, Outcome::NotApplied) => None,
        (Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. }, outcome) => {
            (freshness.is_linearizable() && outcome != Outcome::Unknown).then_some(known)
        }
        (Call::Append { key, value }, Outcome::Unknown) => {
            let place = end.values(key).iter().position(|known| *known == value)?;
            let output = Some(Outcome::Appended { length: place as u64 + 1 });
            Some(Timed { output, returned_at: None, ..known })
        }
        (Call::Put { key, value } | Call::CompareAndSwap { key, value, .. }, Outcome::Unknown) => {
            let seen = named.contains(&value) || end.register(key) == value;
            seen.then_some(Timed { output: None, ..known })
        }
        _ => Some(known),
    }
}

/// Checks a history with the search.
///
/// # Errors
/// Says which object's answers no order explains.
pub fn check(history: &History, end: &Ledger) -> Result<Checked<Key>, String> {
    judge(&timed(history, end))
}

/// The same of a history at the end of which nothing is known.
///
/// # Errors
/// As [`check`].
pub fn check_without_end(history: &History) -> Result<Checked<Key>, String> {
    judge(&timed_without_end(history))
}

fn judge(timed: &[Timed<Call, Outcome>]) -> Result<Checked<Key>, String> {
    let checked = linearizable(&LedgerModel, timed, MAX_STEPS);
    let Verdict::Violation { key, longest, stuck } = &checked.verdict else { return Ok(checked) };
    let after = longest.last().map_or(String::new(), |last| format!(", the last {}", say(&timed[*last])));
    Err(format!(
        "not linearizable: no order explains the answers for key {key}: {} operations{after}, then {} does not fit",
        longest.len(),
        say(&timed[*stuck])
    ))
}

fn say(operation: &Timed<Call, Outcome>) -> String {
    let Timed { input, output, invoked_at, returned_at } = operation;
    format!("{input:?} -> {output:?} from {invoked_at} to {returned_at:?}")
}
