//! The default workload's history as [`linearizable`] takes it.

use std::collections::{BTreeMap, BTreeSet};

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

    /// Lists only grow.
    fn is_past(&self, state: &ListView, _input: &Call, output: &Outcome) -> bool {
        match output {
            Outcome::Appended { length } => state.length >= *length,
            Outcome::List(seen) => state.length > seen.length || (state.length == seen.length && state != seen),
            _ => false,
        }
    }
}

/// The operations of a history whose answers must be linearizable, and a look at every object at its end.
///
/// The end holds each value that an object ever took, in order: of a write that nobody was answered it says what the
/// answer would have been, or that there was no effect.
pub fn timed(history: &History, end: &Ledger) -> Vec<Timed<Call, Outcome>> {
    let mut timed: Vec<_> = history.operations.iter().filter_map(|operation| one(operation, end)).collect();
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

/// The values that each object is known to have had, in order, up to some point that its end may be beyond.
pub type Parts = BTreeMap<Key, Vec<u64>>;

/// The same of a history at the end of which no more is known than `parts`: of any other write that nobody was answered,
/// that it may have taken effect at any time, or take it yet. One of a register is left out as in [`timed`], and one of a
/// list of which no answer tells more than the part: it took effect after everything that was answered, if it did.
pub fn timed_without_end(history: &History, parts: &Parts) -> Vec<Timed<Call, Outcome>> {
    let named = named(history);
    let told = told(history);
    let open = |operation: &Operation| {
        let Operation { call, outcome, invoked_at, returned_at, .. } = *operation;
        let known = Timed { input: call, output: Some(outcome), invoked_at, returned_at };
        let part = parts.get(&call.key()).map_or(&[][..], Vec::as_slice);
        match (call, outcome) {
            (_, Outcome::NotApplied) => None,
            (Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. }, outcome) => {
                (freshness.is_linearizable() && outcome != Outcome::Unknown).then_some(known)
            }
            (
                Call::Append { value, .. } | Call::Put { value, .. } | Call::CompareAndSwap { value, .. },
                Outcome::Unknown,
            ) => {
                if let Some(place) = part.iter().position(|known| *known == value) {
                    let output = Some(answer_at(call, part, place));
                    return Some(Timed { output, returned_at: None, ..known });
                }
                let matters = match call {
                    Call::Append { key, .. } => told.get(&key).is_some_and(|length| *length > part.len() as u64),
                    _ => named.contains(&value),
                };
                matters.then_some(Timed { output: None, ..known })
            }
            _ => Some(known),
        }
    };
    history.operations.iter().filter_map(open).collect()
}

/// What a write is answered whose value is the one in this place.
fn answer_at(call: Call, values: &[u64], place: usize) -> Outcome {
    let previous = place.checked_sub(1).map_or(0, |before| values[before]);
    match call {
        Call::Put { .. } => Outcome::Put { previous },
        Call::CompareAndSwap { .. } => Outcome::Swapped { swapped: true, previous },
        Call::Append { .. } | Call::ReadList { .. } | Call::ReadRegister { .. } => {
            Outcome::Appended { length: place as u64 + 1 }
        }
    }
}

/// The greatest length of each list that an answer tells.
fn told(history: &History) -> BTreeMap<Key, u64> {
    let mut told = BTreeMap::new();
    for operation in &history.operations {
        if let Outcome::Appended { length } | Outcome::List(ListView { length, .. }) = operation.outcome {
            let greatest = told.entry(operation.call.key()).or_insert(0);
            *greatest = length.max(*greatest);
        }
    }
    told
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

fn one(operation: &Operation, end: &Ledger) -> Option<Timed<Call, Outcome>> {
    let Operation { call, outcome, invoked_at, returned_at, .. } = *operation;
    let known = Timed { input: call, output: Some(outcome), invoked_at, returned_at };
    match (call, outcome) {
        (_, Outcome::NotApplied) => None,
        (Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. }, outcome) => {
            (freshness.is_linearizable() && outcome != Outcome::Unknown).then_some(known)
        }
        (
            Call::Append { key, value } | Call::Put { key, value } | Call::CompareAndSwap { key, value, .. },
            Outcome::Unknown,
        ) => {
            let values = end.values(key);
            let place = values.iter().position(|known| *known == value)?;
            Some(Timed { output: Some(answer_at(call, values, place)), returned_at: None, ..known })
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

/// The same of a history at the end of which no more is known than `parts`.
///
/// # Errors
/// As [`check`].
pub fn check_without_end(history: &History, parts: &Parts) -> Result<Checked<Key>, String> {
    judge(&timed_without_end(history, parts))
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
