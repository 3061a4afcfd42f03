//! The checker of linearizability is itself checked: against published histories of known verdict, examples from
//! papers, brute force, and the oracle.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;

use quorate::RaftStateMachine;
use quorate_sim::check::ledger::{self, LedgerModel, Parts};
use quorate_sim::check::models::{
    AppendList, AppendListInput, AppendListOutput, KeyValue, KeyValueDeed, KeyValueInput, OnceCounter,
    OnceCounterInput, Register, RegisterInput, RegisterOutput,
};
use quorate_sim::check::{Model, Timed, Verdict, linearizable};
use quorate_sim::history::{Call, Freshness, Key, ListView, Operation, Outcome};
use quorate_sim::{FIRST_REGISTER, History, Ledger, LedgerCommand, Rng, oracle};

const STEPS: u64 = 5_000_000;

fn is_linearizable<M: Model>(model: &M, history: &[Timed<M::Input, M::Output>]) -> bool {
    match linearizable(model, history, STEPS).verdict {
        Verdict::Linearizable => true,
        Verdict::Violation { .. } => false,
        Verdict::Unknown { key } => panic!("gave up at {key:?}"),
    }
}

// ---- published histories ----

/// The histories of a file: name, verdict, and events split into words.
fn published(text: &str) -> Vec<(String, bool, Vec<Vec<&str>>)> {
    let mut histories = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["=", name, verdict] => histories.push((name.to_owned(), verdict == "ok", Vec::new())),
            _ => histories.last_mut().expect("a history begins").2.push(words),
        }
    }
    histories
}

/// An empty register is 0, so values are one more.
fn value(word: &str) -> u64 {
    word.parse().map_or(0, |value: u64| value + 1)
}

fn etcd(events: &[Vec<&str>]) -> Vec<Timed<RegisterInput, RegisterOutput>> {
    let mut history = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, event) in (1..).zip(events) {
        let process = event[0];
        match event[1..] {
            ["i", ref asked @ ..] => {
                let input = match *asked {
                    ["r", ..] => RegisterInput::Read,
                    ["w", new] => RegisterInput::Write(value(new)),
                    ["c", expect, new] => RegisterInput::CompareAndSwap { expect: value(expect), value: value(new) },
                    _ => panic!("{event:?}"),
                };
                open.insert(process, history.len());
                history.push(Timed { input, output: None, invoked_at: at, returned_at: None });
            }
            [end, ref told @ ..] => {
                let operation = &mut history[open.remove(process).expect("it was asked")];
                operation.output = match (end, told) {
                    ("o", ["r", seen]) => Some(RegisterOutput::Value(value(seen))),
                    ("o", ["w", _]) => Some(RegisterOutput::Written),
                    ("o" | "f", ["c", ..]) => Some(RegisterOutput::Swapped(end == "o")),
                    ("f" | "?", _) => None,
                    _ => panic!("{event:?}"),
                };
                operation.returned_at = Some(at);
            }
            [] => panic!("an empty event"),
        }
    }
    history
}

#[test]
fn published_histories_of_etcd_get_their_verdicts() {
    let histories = published(include_str!("histories/etcd.txt"));
    assert_eq!(histories.len(), 102);
    let mut most = 0;
    for (name, verdict, events) in histories {
        let checked = linearizable(&Register, &etcd(&events), STEPS);
        most = most.max(checked.steps);
        assert_eq!(checked.verdict == Verdict::Linearizable, verdict, "etcd {name}: {checked:?}");
        assert!(!matches!(checked.verdict, Verdict::Unknown { .. }), "etcd {name}: {checked:?}");
    }
    println!("at most {most} steps");
}

#[test]
fn published_histories_of_a_map_get_their_verdicts() {
    let histories = published(include_str!("histories/kv.txt"));
    assert_eq!(histories.len(), 4);
    for (name, verdict, events) in histories {
        let mut history = Vec::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, event) in (1..).zip(&events) {
            let text = event.get(4).copied().unwrap_or_default().to_owned();
            if event[1] == "i" {
                let deed = match event[2] {
                    "g" => KeyValueDeed::Get,
                    "p" => KeyValueDeed::Put(text),
                    _ => KeyValueDeed::Append(text),
                };
                open.insert(event[0], history.len());
                let input = KeyValueInput { key: event[3].to_owned(), deed };
                history.push(Timed { input, output: None, invoked_at: at, returned_at: None });
            } else {
                let operation = &mut history[open.remove(event[0]).expect("it was asked")];
                operation.output = Some((event[2] == "g").then_some(text));
                operation.returned_at = Some(at);
            }
        }
        assert_eq!(is_linearizable(&KeyValue, &history), verdict, "{name}");
    }
}

// ---- examples by hand ----

fn told<I, O>(from: u64, to: u64, input: I, output: O) -> Timed<I, O> {
    Timed { input, output: Some(output), invoked_at: from, returned_at: Some(to) }
}

fn untold<I, O>(from: u64, input: I) -> Timed<I, O> {
    Timed { input, output: None, invoked_at: from, returned_at: None }
}

fn write(from: u64, to: u64, value: u64) -> Timed<RegisterInput, RegisterOutput> {
    told(from, to, RegisterInput::Write(value), RegisterOutput::Written)
}

fn read(from: u64, to: u64, value: u64) -> Timed<RegisterInput, RegisterOutput> {
    told(from, to, RegisterInput::Read, RegisterOutput::Value(value))
}

fn swap(from: u64, to: u64, expect: u64, value: u64, swapped: bool) -> Timed<RegisterInput, RegisterOutput> {
    told(from, to, RegisterInput::CompareAndSwap { expect, value }, RegisterOutput::Swapped(swapped))
}

#[test]
fn examples_of_herlihy_and_wing() {
    // A register, after "Linearizability" (1990), section 1: a write under way may be seen or not, and once seen stays.
    assert!(is_linearizable(&Register, &[write(0, 10, 1), write(11, 50, 2), read(20, 30, 1), read(31, 40, 2)]));
    assert!(!is_linearizable(&Register, &[write(0, 10, 1), write(11, 50, 2), read(20, 30, 2), read(31, 40, 1)]));
    // Their H3 of queues, as a list: what was appended first, in real time, stands first.
    let append =
        |from, to, value, length| told(from, to, AppendListInput::Append(value), AppendListOutput::Length(length));
    let list =
        |from, to, values: &[u64]| told(from, to, AppendListInput::Read, AppendListOutput::Values(values.to_vec()));
    assert!(!is_linearizable(&AppendList, &[append(0, 10, 7, 2), append(11, 20, 8, 1), list(21, 30, &[8, 7])]));
    assert!(is_linearizable(&AppendList, &[append(0, 12, 7, 2), append(11, 20, 8, 1), list(21, 30, &[8, 7])]));
    // Not even sequential: two readers see two orders.
    let two_orders = [append(0, 9, 1, 1), append(0, 9, 2, 2), list(10, 19, &[1, 2]), list(10, 19, &[2, 1])];
    assert!(!is_linearizable(&AppendList, &two_orders));
}

#[test]
fn examples_of_jepsen() {
    // Stale read (etcd, Consul 2014): a read after a complete write sees what was before.
    assert!(!is_linearizable(&Register, &[write(0, 10, 1), write(20, 30, 2), read(40, 50, 1)]));
    // Lost update: two swaps of one value both succeed.
    assert!(!is_linearizable(&Register, &[write(0, 10, 1), swap(20, 40, 1, 2, true), swap(25, 45, 1, 3, true)]));
    assert!(is_linearizable(&Register, &[write(0, 10, 1), swap(20, 40, 1, 2, true), swap(25, 45, 2, 3, true)]));
    // A swap that failed although nothing else was there to make it fail.
    assert!(!is_linearizable(&Register, &[write(0, 10, 1), swap(20, 30, 1, 2, false)]));
    // Dirty read: a write that failed for certain is left out, so nobody may see it.
    assert!(!is_linearizable(&Register, &[read(20, 30, 9)]));
}

#[test]
fn unknown_writes_happen_at_any_time_after_their_call_or_never() {
    let unknown = || untold(5, RegisterInput::Write(9));
    assert!(is_linearizable(&Register, &[unknown(), read(10, 20, 0), read(1000, 1010, 9)]));
    assert!(is_linearizable(&Register, &[unknown(), read(10, 20, 0), read(1000, 1010, 0)]));
    assert!(!is_linearizable(&Register, &[unknown(), read(10, 20, 9), read(1000, 1010, 0)]));
    assert!(!is_linearizable(&Register, &[unknown(), read(1, 4, 9)]), "not before it was asked");
    assert!(is_linearizable(&Register, &[unknown(), read(1, 5, 9)]), "the same nanosecond is concurrent");
    // Once.
    assert!(!is_linearizable(&Register, &[unknown(), read(10, 20, 9), write(30, 40, 1), read(50, 60, 9)]));
    // What the client gave up at is no return.
    let given_up = Timed { returned_at: Some(8), ..unknown() };
    assert!(is_linearizable(&Register, &[given_up, read(10, 20, 0), read(30, 40, 9)]));
}

#[test]
fn a_command_of_a_session_counts_once() {
    let add =
        |from, to, serial, output| told(from, to, OnceCounterInput::Add { session: 7, serial, amount: 1 }, output);
    let look = |from, to, output| told(from, to, OnceCounterInput::Read, output);
    assert!(is_linearizable(&OnceCounter, &[add(0, 10, 1, 1), add(20, 30, 1, 1), look(40, 50, 1)]));
    assert!(!is_linearizable(&OnceCounter, &[add(0, 10, 1, 1), add(20, 30, 1, 2)]), "counted again");
    assert!(!is_linearizable(&OnceCounter, &[add(0, 10, 1, 1), add(20, 30, 1, 1), look(40, 50, 2)]));
    assert!(is_linearizable(&OnceCounter, &[add(0, 10, 1, 1), add(5, 30, 2, 2), look(40, 50, 2)]));
    assert!(!is_linearizable(&OnceCounter, &[look(0, 10, 1)]), "nobody added");
}

#[test]
fn a_violation_names_its_object_and_the_operation_that_does_not_fit() {
    let history = [write(0, 10, 1), write(20, 30, 2), read(40, 50, 1)];
    let checked = linearizable(&Register, &history, STEPS);
    assert_eq!(checked.verdict, Verdict::Violation { key: (), longest: vec![0, 1], stuck: 2 });
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    // 24 writes at once, and a read of none of them after it: every order has to be tried.
    let mut history: Vec<_> = (1..=24).map(|value| write(0, 100, value)).collect();
    history.push(read(200, 300, 99));
    let checked = linearizable(&Register, &history, 20_000);
    assert_eq!(checked.verdict, Verdict::Unknown { key: () });
    assert_eq!(checked.steps, 20_001);
}

#[test]
fn writes_that_nobody_was_told_of_are_not_tried_in_every_order() {
    // Of forty such writes any subset may have taken effect, in any order: a search of those would never end.
    let untold_writes = |asked| (1..=40).map(move |value| untold(asked, RegisterInput::Write(value)));
    let swaps = (1..=40).map(|value| untold(0, RegisterInput::CompareAndSwap { expect: 0, value: 100 + value }));
    let history = |reads: &[u64]| {
        let reads = reads.iter().zip(1..).map(|(value, turn)| read(turn * 10, turn * 10 + 5, *value));
        untold_writes(0).chain(swaps.clone()).chain(reads).collect::<Vec<_>>()
    };
    for (reads, expected) in [(&[7, 30, 0, 2][..], false), (&[7, 30, 140][..], false), (&[107, 30, 1][..], true)] {
        let checked = linearizable(&Register, &history(reads), 20_000);
        let linearizable = checked.verdict == Verdict::Linearizable;
        assert!(
            linearizable == expected && !matches!(checked.verdict, Verdict::Unknown { .. }),
            "{reads:?}: {checked:?}"
        );
    }
}

#[test]
fn a_write_of_what_is_there_may_stand_where_it_changes_something() {
    let writes = [
        vec![write(0, 100, 0), write(0, 10, 1), read(110, 120, 0)],
        vec![write(0, 10, 5), write(20, 60, 5), write(20, 30, 3), read(70, 80, 5)],
    ];
    assert!(writes.iter().all(|history| is_linearizable(&Register, history)));
}

#[test]
fn registers_that_take_values_again_get_the_verdict_of_brute_force() {
    let mut rng = Rng::new(4, 0);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..1500 {
        let mut one = || {
            let from = rng.below(40);
            let (to, value) = (from + rng.between(1, 40), rng.below(3));
            match rng.below(8) {
                0..3 => write(from, to, value),
                3..5 => read(from, to, value),
                5 => untold(from, RegisterInput::Write(value)),
                _ => swap(from, to, value, rng.below(3), rng.chance(500)),
            }
        };
        let history: Vec<_> = (0..6).map(|_| one()).collect();
        let verdict = brute_force(&Register, &history);
        assert_eq!(is_linearizable(&Register, &history), verdict, "{history:#?}");
        *if verdict { &mut good } else { &mut bad } += 1;
    }
    assert!(good > 200 && bad > 200, "{good} and {bad}");
}

#[test]
fn an_answer_that_was_left_behind_is_named() {
    let append =
        |from, to, length| told(from, to, Call::Append { key: 0, value: length }, Outcome::Appended { length });
    let look = Call::ReadList { key: 0, freshness: Freshness::Linearizable };
    let history =
        [append(0, 10, 1), append(20, 30, 2), told(40, 50, look, Outcome::List(ListView::default().append(1)))];
    let checked = linearizable(&LedgerModel, &history, 100);
    assert_eq!(checked.verdict, Verdict::Violation { key: 0, longest: vec![0, 1], stuck: 2 });
}

#[test]
fn appends_that_nobody_was_told_of_are_not_tried_where_an_answer_would_be_left_behind() {
    // Of 18 such appends only those fit that stand between the lengths that are told.
    let history = |lengths: &[(u64, u64, u64)], seen: ListView| {
        let lost = (0..18).map(|turn| untold(0, Call::Append { key: 0, value: 100 + turn }));
        let tell =
            |(from, to, length)| told(from, to, Call::Append { key: 0, value: length }, Outcome::Appended { length });
        let read = Call::ReadList { key: 0, freshness: Freshness::Linearizable };
        let read = told(35, 45, read, Outcome::List(seen));
        lost.chain(lengths.iter().copied().map(tell)).chain([read]).collect::<Vec<_>>()
    };
    let seen = ListView::default().append(1).append(2);
    for (lengths, seen, expected) in [
        // The read returned before the third append did, and was called after it.
        (&[(10, 20, 1), (30, 40, 2), (32, 60, 3), (70, 80, 4)][..], seen, true),
        (&[(10, 20, 1), (30, 40, 2), (32, 34, 3), (70, 80, 4)][..], seen, false),
        (&[(10, 20, 1), (30, 40, 2), (70, 80, 5)][..], seen, true),
        (&[(10, 20, 1), (30, 40, 2), (70, 80, 21)][..], seen, true),
        (&[(10, 20, 1), (30, 40, 2), (70, 80, 5)][..], seen.append(3), false),
    ] {
        let checked = linearizable(&LedgerModel, &history(lengths, seen), 20_000);
        let linearizable = checked.verdict == Verdict::Linearizable;
        assert!(
            linearizable == expected && !matches!(checked.verdict, Verdict::Unknown { .. }),
            "{lengths:?}: {checked:?}"
        );
    }
}

// ---- histories of a simulated object ----

/// A list and a register.
const KEYS: [u32; 2] = [0, FIRST_REGISTER];

/// What so many clients of a linearizable ledger were told, and the ledger at the end.
fn generate(rng: &mut Rng, keys: &[u32], clients: u32, operations: u64, unknown: u32) -> (History, Ledger) {
    let mut calls: Vec<(u64, usize)> = Vec::new();
    let mut history = History::default();
    let mut free_at = vec![0; clients as usize];
    let mut last_seen = 0;
    for id in 0..operations {
        let client = rng.below(clients.into()) as usize;
        let invoked_at = free_at[client] + rng.below(20);
        let effect = invoked_at + rng.below(30);
        let returned_at = effect + rng.below(30);
        free_at[client] = returned_at + 1;
        let (value, key) = (id + 1, *rng.pick(keys));
        let freshness = Freshness::Linearizable;
        let call = match (key < FIRST_REGISTER, rng.below(4)) {
            (true, 0 | 1) => Call::Append { key, value },
            (true, _) => Call::ReadList { key, freshness },
            (false, 0) => Call::Put { key, value },
            (false, 1) => Call::CompareAndSwap { key, expect: rng.below(last_seen + 1), value },
            (false, _) => Call::ReadRegister { key, freshness },
        };
        last_seen = value.min(last_seen + rng.below(3));
        let lost = rng.chance(unknown);
        // Nobody knows when it happens, if it does.
        let effect = if lost { effect + rng.below(200) } else { effect };
        if !lost || rng.chance(600) {
            calls.push((effect, id as usize));
        }
        let outcome = if lost { Outcome::Unknown } else { Outcome::NotApplied };
        let returned_at = Some(returned_at);
        history.operations.push(Operation {
            id,
            client: client as u32,
            session: None,
            batch: None,
            node: 1,
            process: 1,
            invoked_at,
            returned_at,
            call,
            outcome,
        });
    }
    let mut ledger = Ledger::default();
    calls.sort_unstable();
    for (_, id) in calls {
        let operation = &mut history.operations[id];
        let outcome = match operation.call.is_write() {
            true => ledger.apply(LedgerCommand(operation.call)).0,
            false => ledger.look(operation.call),
        };
        if operation.outcome == Outcome::NotApplied {
            operation.outcome = outcome;
        }
    }
    (history, ledger)
}

/// Damages an answer, a time, or the state: often, not always, no order explains it any more.
fn corrupt(rng: &mut Rng, history: &mut History) -> &'static str {
    let size = history.operations.len() as u64;
    let one = rng.below(size) as usize;
    match rng.below(4) {
        0 => {
            // Answers of two operations of one kind are swapped.
            let kind = std::mem::discriminant(&history.operations[one].call);
            let alike: Vec<usize> = (0..size as usize)
                .filter(|other| std::mem::discriminant(&history.operations[*other].call) == kind)
                .collect();
            let other = *rng.pick(&alike);
            let outcome = history.operations[one].outcome;
            history.operations[one].outcome = history.operations[other].outcome;
            history.operations[other].outcome = outcome;
            "swapped"
        }
        1 => {
            // It returned earlier: what was concurrent is no more.
            let operation = &mut history.operations[one];
            let back = rng.below(40);
            operation.returned_at = operation.returned_at.map(|at| at.saturating_sub(back).max(operation.invoked_at));
            "moved"
        }
        2 => {
            let operation = &mut history.operations[one];
            operation.invoked_at = operation.returned_at.unwrap_or(operation.invoked_at);
            "later"
        }
        _ => {
            // A write is said never to have happened.
            history.operations[one].outcome = Outcome::NotApplied;
            "dropped"
        }
    }
}

/// Every order of every subset that holds all known operations.
fn brute_force<M: Model>(model: &M, history: &[Timed<M::Input, M::Output>]) -> bool {
    fn extend<M: Model>(model: &M, history: &[Timed<M::Input, M::Output>], order: &mut Vec<usize>) -> bool {
        if (0..history.len()).all(|place| history[place].output.is_none() || order.contains(&place))
            && explains(model, history, order)
        {
            return true;
        }
        for place in 0..history.len() {
            if order.contains(&place) {
                continue;
            }
            order.push(place);
            if extend(model, history, order) {
                return true;
            }
            order.pop();
        }
        false
    }
    extend(model, history, &mut Vec::new())
}

/// Whether this order agrees with real time and with all answers.
fn explains<M: Model>(model: &M, history: &[Timed<M::Input, M::Output>], order: &[usize]) -> bool {
    let end = |place: usize| match &history[place] {
        Timed { output: None, .. } => u64::MAX,
        operation => operation.returned_at.unwrap_or(u64::MAX),
    };
    let in_time = |at: usize| order[at..].iter().all(|later| end(*later) >= history[order[at]].invoked_at);
    let mut states = BTreeMap::new();
    (0..order.len()).all(in_time)
        && order.iter().all(|place| {
            let Timed { input, output, .. } = &history[*place];
            let key = model.key(input);
            let state = states.entry(key.clone()).or_insert_with(|| model.start(&key));
            match model.step(state, input, output.as_ref()) {
                Some(next) => {
                    *state = next;
                    true
                }
                None => false,
            }
        })
}

/// What a node that lags may have of each object.
fn cut(rng: &mut Rng, end: &Ledger) -> Parts {
    let part = |key| end.values(key)[..rng.between(0, end.values(key).len() as u64) as usize].to_vec();
    let keys: Vec<Key> = end.keys().collect();
    keys.iter().copied().zip(keys.iter().copied().map(part)).collect()
}

#[test]
fn what_a_linearizable_object_answers_is_linearizable() {
    let mut rng = Rng::new(1, 0);
    for _ in 0..300 {
        let (clients, unknown) = (rng.between(1, 8) as u32, *rng.pick(&[0, 100, 300]));
        let (history, end) = generate(&mut rng, &KEYS, clients, 120, unknown);
        assert_eq!(oracle::check(&history, &end), Ok(()));
        let checked = ledger::check(&history, &end).expect("it is linearizable");
        assert_eq!(checked.verdict, Verdict::Linearizable);
        assert_eq!(oracle::check_part(&history, &end), Ok(()));
        for parts in [Parts::new(), cut(&mut rng, &end)] {
            let checked = ledger::check_without_end(&history, &parts).expect("it is linearizable");
            assert_eq!(checked.verdict, Verdict::Linearizable, "{parts:?}");
        }
    }
}

#[test]
fn small_histories_get_the_verdict_of_brute_force() {
    let mut rng = Rng::new(2, 0);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..1500 {
        let (clients, unknown) = (rng.between(2, 4) as u32, *rng.pick(&[0, 300]));
        let key = *rng.pick(&KEYS);
        let (mut history, end) = generate(&mut rng, &[key], clients, 5, unknown);
        for _ in 0..rng.below(4) {
            corrupt(&mut rng, &mut history);
        }
        let timed: Vec<_> = history
            .operations
            .iter()
            .filter(|operation| operation.outcome != Outcome::NotApplied)
            .filter(|operation| operation.call.is_write() || operation.outcome != Outcome::Unknown)
            .map(|operation| Timed {
                input: operation.call,
                output: Some(operation.outcome).filter(|outcome| *outcome != Outcome::Unknown),
                invoked_at: operation.invoked_at,
                returned_at: operation.returned_at,
            })
            .collect();
        let verdict = brute_force(&LedgerModel, &timed);
        assert_eq!(is_linearizable(&LedgerModel, &timed), verdict, "{timed:#?}");
        *if verdict { &mut good } else { &mut bad } += 1;
        // So does the way in which a history is prepared at the end of which nothing is known.
        let without_end = |parts: &Parts| is_linearizable(&LedgerModel, &ledger::timed_without_end(&history, parts));
        assert_eq!(without_end(&Parts::new()), verdict, "{history:#?}");
        // What is known of a part rules orders out, and none that the end allows.
        let by_part = without_end(&cut(&mut rng, &end));
        assert!(verdict || !by_part, "{history:#?}");
        // With the end in view, the other way to prepare a history comes to the verdict of brute force as well.
        let whole = ledger::timed(&history, &end);
        assert!(by_part || !is_linearizable(&LedgerModel, &whole), "{history:#?}");
        if whole.len() <= 6 {
            assert_eq!(is_linearizable(&LedgerModel, &whole), brute_force(&LedgerModel, &whole), "{whole:#?}");
        }
    }
    assert!(good > 300 && bad > 300, "{good} and {bad}");
}

#[test]
fn the_oracle_finds_what_the_search_finds_in_corrupted_histories() {
    let mut rng = Rng::new(3, 0);
    let mut found: BTreeMap<&str, [u32; 2]> = BTreeMap::new();
    let mut only_oracle = 0;
    for _ in 0..3000 {
        let (clients, unknown) = (rng.between(2, 6) as u32, *rng.pick(&[0, 100]));
        let (mut history, end) = generate(&mut rng, &KEYS, clients, 40, unknown);
        let how = corrupt(&mut rng, &mut history);
        let (oracle, search) = (oracle::check(&history, &end), ledger::check(&history, &end));
        // The oracle knows the order in which things happened; the search asks for any that explains the answers.
        if let (Ok(()), Err(violation)) = (&oracle, &search) {
            panic!("{how}: only the search finds {violation}");
        }
        only_oracle += u32::from(oracle.is_err() && search.is_ok());
        found.entry(how).or_default()[usize::from(search.is_err())] += 1;
    }
    assert!(found.values().all(|[_, caught]| *caught > 10), "{found:?}");
    assert!(only_oracle < 10, "{only_oracle}");
}
