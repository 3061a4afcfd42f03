//! When a leader's rounds began: what an acknowledgement of one says about time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::Round;
use crate::time::Instant;

/// Most rounds whose start is remembered exactly, and most that are remembered beside them.
const MAX_ROUNDS: usize = 64;
/// Of older rounds, as many as this in the time that a peer may be silent.
const OLDER_WITHIN_PATIENCE: u32 = 32;

/// Reads begin rounds as fast as the nearest peers answer; a peer farther away answers many rounds later, and must
/// count as alive all the same. So the newest are remembered each, and of older ones a few. A round that was not
/// remembered counts as begun with one before it, which is never too late.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Rounds {
    older: VecDeque<(Round, Instant)>,
    newest: VecDeque<(Round, Instant)>,
}

impl Rounds {
    /// A round begins; a peer that is silent for `patience` is not counted on.
    pub(crate) fn begin(&mut self, round: Round, now: Instant, patience: Duration) {
        self.newest.push_back((round, now));
        if self.newest.len() <= MAX_ROUNDS {
            return;
        }
        let Some(oldest) = self.newest.pop_front() else { return };
        let apart = patience / OLDER_WITHIN_PATIENCE;
        if self.older.back().is_none_or(|(_, began)| oldest.1 >= *began + apart) {
            self.older.push_back(oldest);
        }
        if self.older.len() > MAX_ROUNDS {
            self.older.pop_front();
        }
    }

    /// When a round began, or some time before; `None`: too long ago, or not yet.
    pub(crate) fn began(&self, round: Round) -> Option<Instant> {
        if self.newest.back().is_none_or(|(last, _)| round > *last) {
            return None;
        }
        let within = |rounds: &VecDeque<(Round, Instant)>| {
            let after = rounds.partition_point(|(begun, _)| *begun <= round);
            rounds.get(after.checked_sub(1)?).map(|(_, began)| *began)
        };
        within(&self.newest).or_else(|| within(&self.older))
    }

    /// When the newest round began.
    pub(crate) fn last_began(&self) -> Option<Instant> {
        self.newest.back().map(|(_, began)| *began)
    }

    /// See [`Core::forget_time`](crate::Core::forget_time).
    pub(crate) fn forget_time(&mut self) {
        self.older.iter_mut().chain(&mut self.newest).for_each(|(_, began)| *began = Instant::ORIGIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_never_counts_from_after_it_began() {
        let mut rounds = Rounds::default();
        let patience = Duration::from_millis(600);
        let began = |round: u64| Instant::from_nanos(round * 100_000);
        for round in 1..=20_000 {
            rounds.begin(Round(round), began(round), patience);
        }
        assert_eq!(rounds.began(Round(20_000)), Some(began(20_000)));
        assert_eq!(rounds.began(Round(19_937)), Some(began(19_937)), "the newest exactly");
        for round in [19_936, 19_000, 15_000, 14_000] {
            let found = rounds.began(Round(round)).unwrap();
            assert!(
                found <= began(round) && began(round).since(found) <= Duration::from_millis(19),
                "{round}: {found:?}"
            );
        }
        assert_eq!(rounds.began(Round(1)), None, "longer ago than anybody waits");
        assert_eq!(rounds.began(Round(20_001)), None, "not begun");
        assert!(rounds.older.len() <= MAX_ROUNDS && rounds.newest.len() == MAX_ROUNDS);
    }
}
