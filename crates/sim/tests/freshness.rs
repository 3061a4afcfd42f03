//! What reads that are not linearizable promise all the same: an age, and never to go back.

use quorate::RaftStateMachine;
use quorate_sim::check::Verdict;
use quorate_sim::check::ledger::{self, Parts};
use quorate_sim::history::{Call, Freshness, ListView, Operation, Outcome};
use quorate_sim::{History, Ledger, LedgerCommand, oracle};

const KEY: u32 = 0;

/// Three appends, complete at 110, 210 and 310, and what they make of the list.
fn appended() -> (History, Ledger, Vec<ListView>) {
    let (mut history, mut ledger, mut views) = (History::default(), Ledger::default(), vec![ListView::default()]);
    for value in 1..=3 {
        let call = Call::Append { key: KEY, value };
        let outcome = ledger.apply(LedgerCommand(call)).0;
        history.operations.push(operation(value - 1, 100 * value, call, outcome, 1));
        views.push(ledger.list(KEY));
    }
    (history, ledger, views)
}

fn operation(id: u64, at: u64, call: Call, outcome: Outcome, process: u64) -> Operation {
    let (node, invoked_at, returned_at) = (1, at, Some(at + 10));
    Operation { id, client: 0, session: None, batch: None, node, process, invoked_at, returned_at, call, outcome }
}

/// Reads at these times, as fresh as that, by these processes, that see these versions.
fn check(reads: &[(u64, Freshness, u64, usize)]) -> Result<(), String> {
    let (mut history, end, views) = appended();
    for (at, freshness, process, version) in reads.iter().copied() {
        let call = Call::ReadList { key: KEY, freshness };
        let id = history.operations.len() as u64;
        history.operations.push(operation(id, at, call, Outcome::List(views[version]), process));
    }
    oracle::check(&history, &end)
}

fn says(checked: Result<(), String>, what: &str) -> bool {
    checked.is_err_and(|error| error.contains(what))
}

#[test]
fn a_read_of_an_age_sees_what_was_complete_so_long_before() {
    // At 500: the second append is complete, the third may not be.
    assert_eq!(check(&[(500, Freshness::MaxAge(200), 1, 2)]), Ok(()));
    assert_eq!(check(&[(500, Freshness::MaxAge(200), 1, 3)]), Ok(()));
    assert!(says(check(&[(500, Freshness::MaxAge(200), 1, 1)]), "too old"));
    // The third is complete 190 ns before, which a slow clock measures as less: 187 ns may not see it.
    assert_eq!(check(&[(500, Freshness::MaxAge(187), 1, 2)]), Ok(()));
    assert!(says(check(&[(500, Freshness::MaxAge(186), 1, 2)]), "too old"));
    assert!(says(check(&[(500, Freshness::MaxAge(0), 1, 2)]), "too old"));
}

#[test]
fn a_stale_read_may_be_as_old_as_it_likes_but_goes_not_back_in_one_process() {
    assert_eq!(check(&[(500, Freshness::Stale, 1, 2), (600, Freshness::Stale, 2, 0)]), Ok(()));
    assert_eq!(check(&[(500, Freshness::Stale, 1, 1), (600, Freshness::Stale, 1, 1)]), Ok(()));
    // Under way at the same time, they have no order.
    assert_eq!(check(&[(500, Freshness::Stale, 1, 2), (505, Freshness::Stale, 1, 1)]), Ok(()));
    assert!(says(check(&[(500, Freshness::Stale, 1, 2), (600, Freshness::Stale, 1, 1)]), "goes back"));
}

#[test]
fn what_a_stale_read_saw_is_behind_no_later_linearizable_one() {
    // The third append began at 300 and is shown at 305, before it is answered.
    let shown = (302, Freshness::Stale, 1, 3);
    assert!(says(check(&[shown, (313, Freshness::Linearizable, 2, 2)]), "not linearizable"));
    assert_eq!(check(&[shown, (313, Freshness::Linearizable, 2, 3)]), Ok(()));
}

#[test]
fn a_state_that_lacks_the_newest_has_nothing_wrong_in_it() {
    let (history, _, _) = appended();
    let state = |values: &[u64]| {
        let mut ledger = Ledger::default();
        for value in values.iter().copied() {
            ledger.apply(LedgerCommand(Call::Append { key: KEY, value }));
        }
        ledger
    };
    assert_eq!(oracle::check_part(&history, &state(&[])), Ok(()));
    assert_eq!(oracle::check_part(&history, &state(&[1, 2])), Ok(()));
    assert!(says(oracle::check(&history, &state(&[1, 2])), "lost"));
    // In another order than clients were told, twice, and what nobody wrote.
    assert!(oracle::check_part(&history, &state(&[2, 1])).is_err());
    assert!(says(oracle::check_part(&history, &state(&[1, 1])), "exactly once"));
    assert!(says(oracle::check_part(&history, &state(&[1, 2, 3, 4])), "phantom"));
    // Without the first, the second is elsewhere.
    assert!(says(oracle::check_part(&history, &state(&[2])), "lost"));
}

/// Where a cluster stands still for good, what was answered until then is judged all the same.
#[test]
fn a_stale_answer_is_found_where_there_is_no_end() {
    let verdict = |asked: &[(u64, Call, Outcome)]| {
        let (mut history, _, _) = appended();
        for (at, call, outcome) in asked.iter().copied() {
            let id = history.operations.len() as u64;
            history.operations.push(operation(id, at, call, outcome, 1));
        }
        ledger::check_without_end(&history, &Parts::new()).map(|checked| checked.verdict)
    };
    let views = appended().2;
    let read = |at, view| (at, Call::ReadList { key: KEY, freshness: Freshness::Linearizable }, Outcome::List(view));
    let open = |at, value| (at, Call::Append { key: KEY, value }, Outcome::Unknown);
    assert_eq!(verdict(&[]), Ok(Verdict::Linearizable));
    assert_eq!(verdict(&[read(500, views[3])]), Ok(Verdict::Linearizable));
    assert!(verdict(&[read(500, views[2])]).is_err_and(|error| error.starts_with("not linearizable")), "stale");
    // What nobody was answered may have taken effect or not, and later, but not before it was asked for.
    let seen = views[3].append(9);
    assert_eq!(verdict(&[open(400, 9), read(500, views[3])]), Ok(Verdict::Linearizable));
    assert_eq!(verdict(&[open(400, 9), read(500, views[3]), read(600, seen)]), Ok(Verdict::Linearizable));
    assert!(verdict(&[read(500, seen), open(600, 9)]).is_err(), "seen before it was asked for");
    assert!(verdict(&[open(400, 9), read(500, seen), read(600, views[3])]).is_err(), "seen, and then not");
}

/// A state that lacks the newest tells the order of all before: also of reads that no order of answers alone would tell to be old.
#[test]
fn an_answer_against_real_time_is_found_beside_a_state_that_lacks_the_newest() {
    let part = |values: &[u64], reads: &[(u64, Freshness, usize)]| {
        let (mut history, _, views) = appended();
        for (at, freshness, version) in reads.iter().copied() {
            let (id, call) = (history.operations.len() as u64, Call::ReadList { key: KEY, freshness });
            history.operations.push(operation(id, at, call, Outcome::List(views[version]), 1));
        }
        let mut state = Ledger::default();
        for value in values.iter().copied() {
            state.apply(LedgerCommand(Call::Append { key: KEY, value }));
        }
        oracle::check_part(&history, &state)
    };
    assert_eq!(part(&[1, 2], &[(230, Freshness::Linearizable, 2)]), Ok(()));
    assert!(says(part(&[1, 2], &[(230, Freshness::Linearizable, 1)]), "not linearizable"));
    assert!(says(part(&[1, 2], &[(500, Freshness::MaxAge(200), 1)]), "too old"));
    let back = [(500, Freshness::Stale, 2), (600, Freshness::Stale, 1)];
    assert!(says(part(&[1, 2], &back), "goes back"));
    // What the state does not hold, it says nothing of.
    assert_eq!(part(&[1], &back), Ok(()));
}
