//! What a search must amount to before it says much: so many seeds, so long under load, so much done and suffered in a
//! seed, and every history judged.

use crate::search::Summary;

/// Seeds of a search of CI.
const MIN_SEEDS: u64 = 2_000;
/// Simulated hours under load of all seeds together.
const MIN_HOURS: f64 = 50.0;
/// Commands committed in the median seed.
const MIN_COMMITTED: u64 = 200;
/// Faults that happened in the median seed.
const MIN_FAULTS: u64 = 5;
/// So many histories may be too hard to find an order for, however many seeds there are.
const MAX_GIVEN_UP: u64 = 3;

/// What a search amounts to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) seeds: u64,
    pub(crate) hours: f64,
    /// Of the median seed.
    pub(crate) committed: u64,
    /// Of the median seed.
    pub(crate) faults: u64,
    pub(crate) failed: u64,
    /// Seeds whose history has an order.
    pub(crate) linearized: u64,
    /// Seeds whose search for one was given up.
    pub(crate) given_up: u64,
    /// Seeds that lost more than they promise to survive, and stood still: there is no end to hold a history against.
    pub(crate) stuck: u64,
    /// Those of them whose search for an order of what was answered was given up.
    pub(crate) stuck_given_up: u64,
}

impl Figures {
    /// Where it falls short.
    pub(crate) fn shortfalls(self) -> Vec<String> {
        let Self { seeds, hours, committed, faults, failed, linearized, given_up, stuck, stuck_given_up } = self;
        let undecided = given_up + stuck;
        let demands = [
            (seeds >= MIN_SEEDS, format!("{seeds} seeds, and {MIN_SEEDS} at least are asked for")),
            (hours >= MIN_HOURS, format!("{hours:.2} hours under load, and {MIN_HOURS} at least are asked for")),
            (
                committed >= MIN_COMMITTED,
                format!("a median of {committed} commands a seed, and {MIN_COMMITTED} at least"),
            ),
            (faults >= MIN_FAULTS, format!("a median of {faults} faults a seed, and {MIN_FAULTS} at least")),
            (failed == 0, format!("{failed} seeds failed")),
            (
                given_up <= MAX_GIVEN_UP,
                format!("{given_up} histories were given up, of {seeds} seeds, and {MAX_GIVEN_UP} may be"),
            ),
            (
                stuck_given_up <= MAX_GIVEN_UP,
                format!("{stuck_given_up} histories without an end were given up, and {MAX_GIVEN_UP} may be"),
            ),
            (
                linearized + undecided == seeds,
                format!("{linearized} histories linearized and {undecided} undecided, of {seeds} seeds"),
            ),
        ];
        demands.into_iter().filter(|(met, _)| !met).map(|(_, said)| said).collect()
    }
}

impl Summary {
    /// Where the search falls short of what a run of CI must amount to: 2,000 seeds, 50 simulated hours under load, 200
    /// commands and 5 faults in the median seed, no failure, and every history linearized but those that are counted as
    /// undecided.
    pub fn shortfalls(&self) -> Vec<String> {
        self.amounts_to().shortfalls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: Figures = Figures {
        seeds: 2_000,
        hours: 50.0,
        committed: 200,
        faults: 5,
        failed: 0,
        linearized: 1_990,
        given_up: 1,
        stuck: 9,
        stuck_given_up: 1,
    };

    #[test]
    fn what_is_enough_is_not_short() {
        assert_eq!(ENOUGH.shortfalls(), Vec::<String>::new());
    }

    #[test]
    fn each_figure_that_is_short_is_named() {
        let short = [
            (Figures { seeds: 1_999, linearized: 1_989, ..ENOUGH }, "1999 seeds,"),
            (Figures { hours: 49.99, ..ENOUGH }, "49.99 hours"),
            (Figures { committed: 199, ..ENOUGH }, "a median of 199 commands"),
            (Figures { faults: 4, ..ENOUGH }, "a median of 4 faults"),
            (Figures { failed: 1, ..ENOUGH }, "1 seeds failed"),
            (Figures { linearized: 1_987, given_up: 4, ..ENOUGH }, "4 histories were given up"),
            (Figures { stuck_given_up: 4, ..ENOUGH }, "4 histories without an end were given up"),
            (Figures { linearized: 1_989, ..ENOUGH }, "1989 histories linearized and 10 undecided"),
            (Figures { given_up: 0, ..ENOUGH }, "1990 histories linearized and 9 undecided"),
            (Figures { stuck: 0, ..ENOUGH }, "1990 histories linearized and 1 undecided"),
        ];
        for (figures, said) in short {
            let found = figures.shortfalls();
            assert!(found.len() == 1 && found[0].starts_with(said), "{found:?}");
        }
    }

    #[test]
    fn a_search_of_a_few_seeds_judges_each_and_is_too_short() {
        let what = crate::Search { first_seed: 1, seeds: 3, budget: None, jobs: 1, recovery: false };
        let summary = crate::search(what);
        let figures = summary.amounts_to();
        assert_eq!((figures.seeds, figures.linearized + figures.given_up + figures.stuck), (3, 3));
        assert!(figures.linearized > 0 && figures.faults > 0 && figures.committed > 0);
        assert!(summary.shortfalls().len() >= 2, "too few seeds, and too short");
    }
}
