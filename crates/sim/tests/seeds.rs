//! A seed is a run: the same one every time, without violations.

use quorate_sim::{Options, run_options, run_seed};

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [1, 2, 9] {
        let (first, history) = run_seed(seed, false);
        let (second, again) = run_seed(seed, false);
        assert_eq!(first, second);
        assert_eq!(history, again);
    }
}

#[test]
fn other_seeds_give_other_runs() {
    assert_ne!(run_seed(1, false).0.hash, run_seed(2, false).0.hash);
}

#[test]
fn the_history_is_what_clients_were_told() {
    let (report, history) = run_seed(3, false);
    assert_eq!(report.violation, None);
    assert_eq!(history.operations.len() as u64, report.asked);
    let answered = history.operations.iter().filter(|operation| operation.returned_at.is_some()).count();
    assert!(answered as u64 >= report.acknowledged, "{answered} of {}", report.acknowledged);
}

#[test]
fn without_faults_every_operation_is_answered() {
    let mut options = Options::of_seed(5);
    (options.faults, options.membership, options.triggers) = (quorate_sim::FaultSet::NONE, false, false);
    // Whoever asks a node that is outside a core gives up.
    options.core = false;
    let (report, _) = run_options(options, false);
    assert_eq!(report.violation, None);
    assert_eq!((report.acknowledged, report.faults.total()), (report.asked, 0));
}
