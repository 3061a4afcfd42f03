//! The O(n log n) oracle: since the state machine keeps every value that an object took, in order, each answer can be
//! placed in that order; what remains to be checked is that the order agrees with real time.

use std::collections::BTreeMap;

use crate::history::{Call, Freshness, History, Key, ListView, Nanos, Operation, Outcome};
use crate::ledger::Ledger;

/// An object's past: what it held after each version, and where each value is.
struct Past {
    views: Vec<ListView>,
    place: BTreeMap<u64, u64>,
}

/// Checks that every acknowledged write is in the state exactly once, that nothing else is, and that all answers
/// together are linearizable.
///
/// # Errors
/// Says what is wrong.
pub fn check(history: &History, end: &Ledger) -> Result<(), String> {
    let mut pasts = BTreeMap::new();
    for key in end.keys() {
        pasts.insert(key, past_of(history, key, end.values(key))?);
    }
    let empty = Past { views: vec![ListView::default()], place: BTreeMap::new() };
    let mut placed: BTreeMap<Key, Vec<(&Operation, u64)>> = BTreeMap::new();
    for operation in &history.operations {
        let key = operation.call.key();
        if let Some(version) = place(operation, pasts.get(&key).unwrap_or(&empty))? {
            placed.entry(key).or_default().push((operation, version));
        }
    }
    check_batches(history, &pasts)?;
    placed.values().try_for_each(|operations| check_real_time(operations))
}

/// Writes of one call enter a log together, in their order, and of a log the end alone is lost: one that is in the state
/// is behind those of its call that were asked for before it, and all of them are there.
fn check_batches(history: &History, pasts: &BTreeMap<Key, Past>) -> Result<(), String> {
    let mut batches: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some(batch) = operation.batch {
            batches.entry(batch).or_default().push(operation);
        }
    }
    batches.values().try_for_each(|batch| check_batch(batch, pasts))
}

/// Calls of which some writes took effect and some that had to, if they were in the log, did not.
pub fn taken_in_part(history: &History, end: &Ledger) -> u64 {
    let mut batches: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for operation in &history.operations {
        let (Some(batch), Call::Append { key, value } | Call::Put { key, value }) = (operation.batch, operation.call)
        else {
            continue;
        };
        let (there, lacking) = batches.entry(batch).or_default();
        *(if end.values(key).contains(&value) { there } else { lacking }) += 1;
    }
    batches.values().filter(|(there, lacking)| *there > 0 && *lacking > 0).count() as u64
}

fn check_batch(batch: &[&Operation], pasts: &BTreeMap<Key, Past>) -> Result<(), String> {
    let (mut lacking, mut newest) = (None, BTreeMap::new());
    for operation in batch {
        let (id, key) = (operation.id, operation.call.key());
        let (value, always) = match operation.call {
            Call::Append { value, .. } | Call::Put { value, .. } => (value, true),
            // May have been applied without an effect.
            Call::CompareAndSwap { value, .. } => (value, false),
            Call::ReadList { .. } | Call::ReadRegister { .. } => continue,
        };
        let Some(version) = pasts.get(&key).and_then(|past| past.place.get(&value)) else {
            lacking = lacking.or(always.then_some(id));
            continue;
        };
        if let Some(before) = lacking {
            return Err(format!("one call: operation {id} took effect, and {before} of the same call did not"));
        }
        if let Some((before, _)) = newest.insert(key, (id, version)).filter(|(_, older)| older > &version) {
            return Err(format!("one call: operation {id} is before {before}, which was asked for before it"));
        }
    }
    Ok(())
}

/// Checks a state that may lack the newest writes: what is there was asked for, once, and is where clients were told
/// that it is; and the answers that tell of nothing later agree with real time.
///
/// # Errors
/// Says what is wrong.
pub fn check_part(history: &History, part: &Ledger) -> Result<(), String> {
    let mut pasts = BTreeMap::new();
    for key in part.keys() {
        pasts.insert(key, past_of(history, key, part.values(key))?);
    }
    let mut placed: BTreeMap<Key, Vec<(&Operation, u64)>> = BTreeMap::new();
    for operation in &history.operations {
        let key = operation.call.key();
        let Some(past) = pasts.get(&key).filter(|past| is_inside(operation, past)) else { continue };
        if let Some(version) = place(operation, past)? {
            placed.entry(key).or_default().push((operation, version));
        }
    }
    placed.values().try_for_each(|operations| check_real_time(operations))
}

/// Whether the answer is of a version that the state has. Of a write that nobody was answered, [`place`] asks that.
fn is_inside(operation: &Operation, past: &Past) -> bool {
    let there = |version: u64| (version as usize) < past.views.len();
    let holds = |value: u64| past.place.contains_key(&value);
    match (operation.call, operation.outcome) {
        (_, Outcome::Unknown) => true,
        (_, Outcome::NotApplied) => false,
        (_, Outcome::Appended { length }) => there(length),
        (_, Outcome::List(view)) => there(view.length),
        (
            Call::Put { value, .. } | Call::CompareAndSwap { value, .. },
            Outcome::Put { .. } | Outcome::Swapped { swapped: true, .. },
        ) => holds(value),
        (_, Outcome::Swapped { swapped: false, previous: value } | Outcome::Register { value }) => {
            value == 0 || holds(value)
        }
        (_, Outcome::Put { .. } | Outcome::Swapped { swapped: true, .. }) => false,
    }
}

/// Every value was written by an operation that may have taken effect, once.
fn past_of(history: &History, key: Key, values: &[u64]) -> Result<Past, String> {
    let mut past = Past { views: vec![ListView::default()], place: BTreeMap::new() };
    for value in values {
        let version = past.views.len() as u64;
        if past.place.insert(*value, version).is_some() {
            return Err(format!("exactly once: key {key} took the value {value} twice"));
        }
        let writer = value.checked_sub(1).and_then(|id| history.place_of(id));
        let writer = writer.map(|place| &history.operations[place]);
        match writer {
            None => return Err(format!("phantom: key {key} took the value {value}, which nobody wrote")),
            Some(writer) if writer.call.key() != key || !writer.call.is_write() => {
                return Err(format!("phantom: key {key} took the value {value}, which nobody wrote there"));
            }
            Some(writer) if writer.outcome == Outcome::NotApplied => {
                return Err(format!("operation {} took effect, but its client was told that it did not", writer.id));
            }
            Some(_) => {}
        }
        past.views.push(past.views[past.views.len() - 1].append(*value));
    }
    Ok(past)
}

/// The version that an operation made or saw; `None` if that is not known.
fn place(operation: &Operation, past: &Past) -> Result<Option<u64>, String> {
    let id = operation.id;
    let written = |value: u64| {
        past.place.get(&value).copied().ok_or_else(|| format!("lost: the acknowledged operation {id} had no effect"))
    };
    let held = |version: u64| past.views[version as usize - 1].last;
    let saw = |value: u64| match value {
        0 => Ok(Some(0)),
        _ => past.place.get(&value).copied().map(Some).ok_or(format!("operation {id} saw {value}, which never was")),
    };
    match (operation.call, operation.outcome) {
        (_, Outcome::NotApplied) => Ok(None),
        (
            Call::Append { value, .. } | Call::Put { value, .. } | Call::CompareAndSwap { value, .. },
            Outcome::Unknown,
        ) => Ok(past.place.get(&value).copied()),
        (_, Outcome::Unknown) => Ok(None),
        (Call::Append { value, .. }, Outcome::Appended { length }) => match written(value)? {
            version if version == length => Ok(Some(version)),
            version => Err(format!("operation {id} was told length {length}, but is at {version}")),
        },
        (Call::Put { value, .. }, Outcome::Put { previous }) => match written(value)? {
            version if held(version) == previous => Ok(Some(version)),
            version => Err(format!("operation {id} was told it replaced {previous}, not {}", held(version))),
        },
        (Call::CompareAndSwap { value, expect, .. }, Outcome::Swapped { swapped: true, previous }) => {
            match written(value)? {
                version if held(version) == previous && previous == expect => Ok(Some(version)),
                version => Err(format!("operation {id} swapped {}, it expected {expect}", held(version))),
            }
        }
        (Call::CompareAndSwap { value, expect, .. }, Outcome::Swapped { swapped: false, previous }) => {
            if previous == expect || past.place.contains_key(&value) {
                return Err(format!("operation {id} was told that it did not swap {expect} for {value}"));
            }
            saw(previous)
        }
        (Call::ReadList { .. }, Outcome::List(view)) => match past.views.get(view.length as usize) {
            Some(known) if *known == view => Ok(Some(view.length)),
            _ => Err(format!("operation {id} saw a list that never was: {view:?}")),
        },
        (Call::ReadRegister { .. }, Outcome::Register { value }) => saw(value),
        (call, outcome) => Err(format!("operation {id}, {call:?}, was answered {outcome:?}")),
    }
}

/// Whether it made its version, rather than saw it.
fn made(operation: &Operation) -> bool {
    operation.call.is_write() && !matches!(operation.outcome, Outcome::Swapped { swapped: false, .. })
}

/// When an operation ended, if it is known how.
fn ended(operation: &Operation) -> Option<Nanos> {
    match operation.outcome {
        Outcome::Unknown => None,
        _ => operation.returned_at,
    }
}

/// The newest version known to be complete by a time.
#[derive(Default)]
struct Newest {
    /// By time: the newest version until then, and whose it is.
    versions: Vec<(Nanos, (u64, u64))>,
}

impl Newest {
    fn of<'a>(operations: impl Iterator<Item = &'a (&'a Operation, u64)>) -> Self {
        let ends = operations.filter_map(|(operation, version)| Some((ended(operation)?, (*version, operation.id))));
        let mut versions: Vec<_> = ends.collect();
        versions.sort_unstable();
        let mut newest = (0, 0);
        for (_, version) in &mut versions {
            newest = newest.max(*version);
            *version = newest;
        }
        Self { versions }
    }

    /// Before this moment: the version, and whose it is.
    fn before(&self, moment: Nanos) -> (u64, u64) {
        let until = self.versions.partition_point(|(at, _)| *at < moment);
        until.checked_sub(1).map_or((0, 0), |last| self.versions[last].1)
    }
}

/// With all operations of one object placed in its order of versions, they are linearizable exactly if no operation
/// is placed before one that was complete when it began, and none saw what was not yet asked for. A stale read need
/// not be linearizable, but what it saw was committed, so that it is behind no operation that begins later.
fn check_real_time(operations: &[(&Operation, u64)]) -> Result<(), String> {
    let mut invoked_at: BTreeMap<u64, Nanos> = BTreeMap::new();
    for (operation, version) in operations.iter().filter(|(operation, _)| made(operation)) {
        invoked_at.insert(*version, operation.invoked_at);
    }
    let newest = Newest::of(operations.iter());
    let mut processes: BTreeMap<(u64, u64), Vec<&(&Operation, u64)>> = BTreeMap::new();
    for placed in operations {
        let (operation, version) = placed;
        let (id, made) = (operation.id, made(operation));
        let kind = if made { "write" } else { "read" };
        if let Some(moment) = operation.call.freshness().sees_all_before(operation.invoked_at) {
            let (behind, before) = newest.before(moment);
            if *version < behind || made && *version == behind {
                let (what, when) = match operation.call.freshness() {
                    Freshness::MaxAge(age) => ("too old", format!("{age} ns before it began")),
                    Freshness::Linearizable | Freshness::Stale => ("not linearizable", "when it began".to_owned()),
                };
                return Err(format!(
                    "{what}: {kind} {id} is at version {version}, although operation {before} at version {behind} was \
                     complete {when}"
                ));
            }
        }
        let future = invoked_at.get(version).is_some_and(|asked| ended(operation).is_some_and(|at| at < *asked));
        if !made && future {
            return Err(format!("{kind} {id} saw version {version} before it was asked for"));
        }
        if !made && !operation.call.is_write() {
            processes.entry((operation.node, operation.process)).or_default().push(placed);
        }
    }
    processes.iter().try_for_each(|(process, reads)| check_monotone(*process, reads))
}

/// Reads of one process, however stale, do not go back.
fn check_monotone((node, process): (u64, u64), reads: &[&(&Operation, u64)]) -> Result<(), String> {
    let newest = Newest::of(reads.iter().copied());
    for (operation, version) in reads {
        let (behind, before) = newest.before(operation.invoked_at);
        if *version < behind {
            let id = operation.id;
            return Err(format!(
                "a read goes back: read {id} is at version {version}, although process {process} of node {node} had \
                 shown version {behind} to read {before}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate::RaftStateMachine;

    use super::*;
    use crate::ledger::LedgerCommand;

    fn append(id: u64, outcome: Outcome) -> Operation {
        let call = Call::Append { key: 0, value: id + 1 };
        let (invoked_at, returned_at) = (id * 10, Some(id * 10 + 5));
        Operation {
            id,
            client: 0,
            session: None,
            batch: None,
            node: 1,
            process: 0,
            invoked_at,
            returned_at,
            call,
            outcome,
        }
    }

    /// What the oracle says of two appends that were answered so, and a list that holds these values in the end.
    fn verdict(outcomes: [Outcome; 2], values: &[u64]) -> String {
        let operations = (0..).zip(outcomes).map(|(id, outcome)| append(id, outcome)).collect();
        let mut end = Ledger::default();
        for value in values {
            end.apply(LedgerCommand(Call::Append { key: 0, value: *value }));
        }
        check(&History { operations }, &end).err().unwrap_or_default()
    }

    const FIRST: Outcome = Outcome::Appended { length: 1 };
    const SECOND: Outcome = Outcome::Appended { length: 2 };

    #[test]
    fn answers_that_agree_with_the_state_pass() {
        assert_eq!(verdict([FIRST, SECOND], &[1, 2]), "");
        assert_eq!(verdict([FIRST, Outcome::Unknown], &[1]), "");
        assert_eq!(verdict([FIRST, Outcome::Unknown], &[1, 2]), "");
    }

    #[test]
    fn a_write_in_the_state_twice_is_not_exactly_once() {
        assert!(verdict([FIRST, SECOND], &[1, 2, 2]).starts_with("exactly once: key 0 took the value 2 twice"));
    }

    #[test]
    fn an_acknowledged_write_that_is_not_in_the_state_is_lost() {
        assert!(verdict([FIRST, SECOND], &[1]).starts_with("lost: the acknowledged operation 1"));
    }

    /// The same of three appends of one call, whose answers are not known.
    fn verdict_of_a_call(values: &[u64]) -> String {
        let mut operations: Vec<Operation> = (0..3).map(|id| append(id, Outcome::Unknown)).collect();
        operations.iter_mut().for_each(|operation| (operation.invoked_at, operation.batch) = (0, Some(7)));
        let mut end = Ledger::default();
        for value in values {
            end.apply(LedgerCommand(Call::Append { key: 0, value: *value }));
        }
        check(&History { operations }, &end).err().unwrap_or_default()
    }

    #[test]
    fn writes_of_one_call_are_applied_from_its_front_in_order() {
        for values in [&[][..], &[1], &[1, 2], &[1, 2, 3]] {
            assert_eq!(verdict_of_a_call(values), "");
        }
        let skipped = "one call: operation 2 took effect, and 1 of the same call did not";
        assert_eq!(verdict_of_a_call(&[1, 3]), skipped);
        let swapped = "one call: operation 2 is before 1, which was asked for before it";
        assert_eq!(verdict_of_a_call(&[1, 3, 2]), swapped);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_a_phantom() {
        assert!(verdict([FIRST, SECOND], &[1, 2, 9]).starts_with("phantom: key 0 took the value 9"));
    }

    #[test]
    fn an_order_against_real_time_is_not_linearizable() {
        let swapped = [Outcome::Appended { length: 2 }, Outcome::Appended { length: 1 }];
        assert!(verdict(swapped, &[2, 1]).starts_with("not linearizable: "));
    }
}
