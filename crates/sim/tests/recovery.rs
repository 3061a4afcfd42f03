//! Quorums that are lost for good and recovered: the cluster goes on from what a survivor held, and nothing else is lost.

use quorate_sim::{Options, Totals, run_options};

/// What recoveries must meet.
const SITUATIONS: [&str; 5] = [
    "quorums recovered",
    "old nodes kept out after a recovery",
    "recoveries that lost entries",
    "recoveries interrupted",
    "answers lost with a quorum",
];

/// As many seeds as it takes to meet all of them, and at most this many.
const SEEDS: u64 = 150;

#[test]
fn lost_quorums_are_recovered_and_old_nodes_kept_out() {
    let mut totals = Totals::default();
    for seed in 1..=SEEDS {
        let options = Options { recovery: true, beyond_budget: false, ..Options::of_seed(seed) };
        let (report, history) = run_options(options.clone(), false);
        assert_eq!(report.violation, None, "seed {seed}");
        totals.add(&report.counters);
        if seed <= 2 {
            let (again, same) = run_options(options, false);
            assert_eq!(report.hash, again.hash, "seed {seed}");
            assert_eq!(history, same, "seed {seed}");
        }
        if seed >= 12 && SITUATIONS.iter().all(|name| totals.of(name).sum > 0) {
            return;
        }
    }
    panic!("not all of {SITUATIONS:?} were met in {SEEDS} seeds: {totals}");
}
