//! Valid histories pass, and each kind of corruption is named.

use super::*;
use crate::history::Stamp;
use crate::rng::Rng;

fn operation(client: u32, call: Call, invoked: Stamp, returned: Stamp, outcome: Outcome) -> Operation {
    Operation { client, call, invoked, returned, outcome }
}

fn put(key: u64, value: u64, invoked: Stamp, returned: Stamp, revision: Revision) -> Operation {
    operation(0, Call::Put(Key(key), Value(value)), invoked, returned, Outcome::Written(revision))
}

fn unknown(key: u64, value: u64, invoked: Stamp) -> Operation {
    operation(0, Call::Put(Key(key), Value(value)), invoked, invoked + 1, Outcome::Unknown)
}

fn get(key: u64, invoked: Stamp, returned: Stamp, at: Revision, seen: Option<Seen>) -> Operation {
    operation(1, Call::Get(Key(key)), invoked, returned, Outcome::Read(at, seen))
}

/// (value, mod revision, create revision, version)
fn seen(value: u64, mod_revision: Revision, create_revision: Revision, version: i64) -> Option<Seen> {
    Some(Seen { value: Value(value), mod_revision, create_revision, version })
}

fn violations(history: &[Operation]) -> Vec<Violation> {
    check(history).expect_err("this history is wrong")
}

#[test]
fn a_plain_history_passes_and_is_counted() {
    let history = [
        get(1, 0, 1, 1, None),
        put(1, 10, 2, 4, 2),
        put(1, 11, 3, 5, 3),
        get(1, 3, 6, 2, seen(10, 2, 2, 1)),
        operation(0, Call::Swap(Key(1), 3, Value(12)), 7, 8, Outcome::Written(4)),
        operation(0, Call::Swap(Key(1), 3, Value(13)), 9, 10, Outcome::Read(4, seen(12, 4, 2, 3))),
        operation(0, Call::Put(Key(1), Value(14)), 9, 10, Outcome::Refused),
        put(2, 15, 11, 12, 5),
    ];
    let expected = Summary { written: 4, read: 3, refused: 1, unaudited: 1, ..Summary::default() };
    assert_eq!(check(&history), Ok(expected));
}

#[test]
fn a_write_of_unknown_outcome_may_happen_late_or_never() {
    let history = [put(1, 10, 0, 1, 2), unknown(1, 11, 2), put(1, 12, 5, 6, 3), get(1, 7, 8, 3, seen(12, 3, 2, 2))];
    assert_eq!(check(&history).map(|summary| summary.unknown_but_applied), Ok(0));

    let late = [history[0], history[1], history[2], get(1, 7, 8, 4, seen(11, 4, 2, 3))];
    assert_eq!(check(&late).map(|summary| summary.unknown_but_applied), Ok(1));

    // Applied between the two others and seen by nobody: only the version tells.
    let overwritten = [history[0], history[1], put(1, 12, 5, 6, 4), get(1, 7, 8, 4, seen(12, 4, 2, 3))];
    assert_eq!(check(&overwritten).map(|summary| summary.unknown_but_applied), Ok(0));
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    // The store came back without it, and its revision was given again to another.
    let history = [put(1, 10, 0, 1, 2), put(2, 11, 2, 3, 3), get(1, 4, 5, 3, None)];
    assert_eq!(violations(&history), [Violation::LostWrite { operation: 0, read: 2 }]);

    let history = [put(1, 10, 0, 1, 2), put(1, 11, 2, 3, 3), get(1, 4, 5, 3, seen(10, 2, 2, 1))];
    assert!(violations(&history).contains(&Violation::LostWrite { operation: 1, read: 2 }));

    let history = [put(1, 10, 0, 1, 2), put(2, 11, 2, 3, 2)];
    assert!(violations(&history).contains(&Violation::SharedRevision { first: 0, second: 1, revision: 2 }));
}

#[test]
fn a_write_that_was_applied_twice_is_found() {
    // By two revisions of one value.
    let history = [put(1, 10, 0, 1, 2), get(1, 2, 3, 3, seen(10, 3, 2, 2))];
    assert!(violations(&history).contains(&Violation::AppliedTwice { operation: 0, first: 2, second: 3 }));

    // By its version: one call, two writes.
    let history = [unknown(1, 10, 0), get(1, 2, 3, 3, seen(10, 3, 2, 2))];
    assert_eq!(violations(&history), [Violation::WrongVersion { read: 1, version: 2, least: 1, most: 1 }]);
}

#[test]
fn a_stale_read_is_found() {
    let history = [put(1, 10, 0, 1, 2), put(1, 11, 2, 3, 3), get(1, 4, 5, 2, seen(10, 2, 2, 1))];
    assert_eq!(violations(&history), [Violation::StaleRead { read: 2, earlier: 1 }]);

    // Reads must not go back either.
    let history = [unknown(1, 10, 0), get(1, 2, 3, 2, seen(10, 2, 2, 1)), get(1, 4, 5, 1, None)];
    assert_eq!(violations(&history), [Violation::StaleRead { read: 2, earlier: 1 }]);

    // At the same time is no order.
    let history = [put(1, 10, 0, 9, 2), get(1, 4, 5, 1, None), get(1, 9, 10, 2, seen(10, 2, 2, 1))];
    assert!(check(&history).is_ok());
}

#[test]
fn revisions_against_real_time_are_found() {
    let history = [put(1, 10, 0, 1, 3), put(2, 11, 2, 3, 2)];
    assert_eq!(violations(&history), [Violation::Reordered { operation: 1, earlier: 0 }]);

    // A write of unknown outcome cannot take effect before it began.
    let history = [put(1, 10, 0, 1, 3), unknown(2, 11, 2), get(2, 4, 5, 3, seen(11, 2, 2, 1))];
    assert_eq!(violations(&history), [Violation::Reordered { operation: 1, earlier: 0 }]);
}

#[test]
fn what_nobody_wrote_is_found() {
    let wrong = seen(99, 2, 2, 1).unwrap();
    assert_eq!(violations(&[get(1, 0, 1, 2, Some(wrong))])[0], Violation::NeverWritten { read: 0, seen: wrong });

    let history = [put(2, 10, 0, 1, 2), get(1, 2, 3, 2, seen(10, 2, 2, 1))];
    assert!(matches!(violations(&history)[0], Violation::NeverWritten { read: 1, .. }));

    let future = [put(1, 10, 0, 1, 3), get(1, 0, 3, 2, seen(10, 3, 3, 1))];
    assert!(matches!(violations(&future)[0], Violation::NeverWritten { read: 1, .. }));
}

#[test]
fn a_refused_write_that_is_seen_is_found() {
    let refused = operation(0, Call::Put(Key(1), Value(10)), 0, 1, Outcome::Refused);
    let history = [refused, get(1, 2, 3, 2, seen(10, 2, 2, 1))];
    assert_eq!(violations(&history)[0], Violation::RefusedButApplied { operation: 0, read: 1 });
}

#[test]
fn a_swap_over_another_write_is_found() {
    let history = [
        put(1, 10, 0, 1, 2),
        put(1, 11, 2, 3, 3),
        operation(0, Call::Swap(Key(1), 2, Value(12)), 4, 5, Outcome::Written(4)),
    ];
    assert_eq!(violations(&history), [Violation::WrongSwap { operation: 2, named: 2, found: 3 }]);
}

#[test]
fn a_key_that_was_made_anew_is_found() {
    let history = [
        put(1, 10, 0, 1, 2),
        get(1, 2, 3, 2, seen(10, 2, 2, 1)),
        put(1, 11, 4, 5, 3),
        get(1, 6, 7, 3, seen(11, 3, 3, 2)),
    ];
    assert_eq!(violations(&history), [Violation::Recreated { read: 3, create_revision: 3, before: 2 }]);
}

#[test]
fn the_report_names_the_operations() {
    let history = [put(1, 10, 0, 1, 2), put(2, 11, 2, 3, 3), get(1, 4, 5, 3, None)];
    let text = describe(&history, &violations(&history));
    assert!(text.contains("lost write") && text.contains("#0 client 0 Put(Key(1), Value(10))"), "{text}");
}

/// A store that is right: operations overlap, take effect at a random moment between beginning and end, some
/// answers are lost. Reads of every key at the end.
fn generated(seed: u64) -> Vec<Operation> {
    const KEYS: u64 = 4;
    let mut rng = Rng::new(seed);
    let mut store: HashMap<Key, Seen> = HashMap::new();
    let mut revision = 1;
    let mut history: Vec<Operation> = Vec::new();
    for step in 0..200_u64 {
        // The moment of effect is 10 * step; beginnings and ends reach over the neighbours'.
        let moment = 1000 + 10 * step;
        let (invoked, returned) = (moment - rng.below(50) as u64, moment + 1 + rng.below(50) as u64);
        let key = Key(rng.bits() % KEYS);
        let now = store.get(&key).copied();
        let call = match rng.below(5) {
            0 | 1 => Call::Get(key),
            2 => Call::Swap(key, now.map_or(0, |seen| seen.mod_revision) - (rng.below(2) as i64), Value(step)),
            _ => Call::Put(key, Value(step)),
        };
        let writes = match call {
            Call::Put(..) => true,
            Call::Swap(_, named, _) => named == now.map_or(0, |seen| seen.mod_revision),
            Call::Get(_) => false,
        };
        let is_lost = rng.below(10) == 0;
        let outcome = match call.value().filter(|_| writes && !(is_lost && rng.below(2) == 0)) {
            Some(value) => {
                revision += 1;
                let create_revision = now.map_or(revision, |seen| seen.create_revision);
                let version = now.map_or(0, |seen| seen.version) + 1;
                store.insert(key, Seen { value, mod_revision: revision, create_revision, version });
                Outcome::Written(revision)
            }
            None => Outcome::Read(revision, now),
        };
        let outcome =
            if is_lost || (writes && !matches!(outcome, Outcome::Written(_))) { Outcome::Unknown } else { outcome };
        history.push(operation(rng.below(8) as u32, call, invoked, returned, outcome));
    }
    for key in 0..KEYS {
        history.push(get(key, 10_000, 10_001, revision, store.get(&Key(key)).copied()));
    }
    history
}

#[test]
fn a_right_store_always_passes() {
    for seed in 0..500 {
        let history = generated(seed);
        let summary = check(&history).unwrap_or_else(|found| panic!("seed {seed}: {}", describe(&history, &found)));
        assert_eq!(summary.unaudited, 0, "seed {seed}");
        assert!(summary.written > 20 && summary.read > 20, "seed {seed}: {summary:?}");
    }
}

#[test]
fn a_store_that_forgets_one_write_never_passes() {
    for seed in 0..500 {
        let mut history = generated(seed);
        // The last acknowledged write of a key vanishes from the closing read, as after a lost log tail.
        let last_read = history.len() - 1;
        let key = history[last_read].call.key();
        let Outcome::Read(at, Some(seen)) = history[last_read].outcome else { continue };
        let is_acknowledged =
            history.iter().any(|o| o.call.value() == Some(seen.value) && matches!(o.outcome, Outcome::Written(_)));
        if !is_acknowledged {
            continue;
        }
        let before = history.iter().filter(|o| o.call.key() == key && o.call.value() != Some(seen.value));
        let before =
            before.filter_map(|o| Some((o.call.value()?, o.outcome))).filter_map(|(value, outcome)| match outcome {
                Outcome::Written(revision) if revision < seen.mod_revision => Some((revision, value)),
                _ => None,
            });
        let older =
            before.max().map(|(mod_revision, value)| Seen { value, mod_revision, version: seen.version - 1, ..seen });
        history[last_read].outcome = Outcome::Read(at, older);
        let found = violations(&history);
        let is_lost =
            |violation: &Violation| matches!(violation, Violation::LostWrite { read, .. } if *read == last_read);
        assert!(found.iter().any(is_lost), "seed {seed}: {found:?}");
    }
}

#[test]
fn a_store_that_serves_one_read_from_the_past_never_passes() {
    for seed in 0..500 {
        let mut history = generated(seed);
        // A closing read at the revision before the last acknowledged write.
        let last = history.iter().filter_map(|o| match o.outcome {
            Outcome::Written(revision) => Some((revision, o.call.key())),
            _ => None,
        });
        let (revision, key) = last.max().unwrap();
        let place = history.iter().rposition(|o| o.call == Call::Get(key)).unwrap();
        history[place].outcome = Outcome::Read(revision - 1, None);
        let found = violations(&history);
        let is_stale = |violation: &Violation| matches!(violation, Violation::StaleRead { read, .. } if *read == place);
        assert!(found.iter().any(is_stale), "seed {seed}: {found:?}");
    }
}

#[test]
fn a_store_that_swaps_two_revisions_never_passes() {
    for seed in 0..500 {
        let mut history = generated(seed);
        let written: Vec<usize> =
            (0..history.len()).filter(|place| matches!(history[*place].outcome, Outcome::Written(_))).collect();
        let (first, last) = (written[0], *written.last().unwrap());
        let (a, b) = (history[first].outcome, history[last].outcome);
        history[first].outcome = b;
        history[last].outcome = a;
        let found = violations(&history);
        let is_order =
            |violation: &Violation| matches!(violation, Violation::Reordered { .. } | Violation::StaleRead { .. });
        assert!(found.iter().any(is_order), "seed {seed}: {found:?}");
    }
}
