//! Which faults, in which order.

use std::fmt;

use crate::rng::Rng;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the leader, started again later.
    KillLeader,
    /// `kill -9` of one that does not lead.
    KillFollower,
    /// `kill -9` of all three at once.
    KillAll,
    /// `SIGSTOP` of any of them for three seconds.
    Pause,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillLeader => "kill -9 of the leader",
            Self::KillFollower => "kill -9 of a follower",
            Self::KillAll => "kill -9 of all three",
            Self::Pause => "SIGSTOP for 3 s",
        })
    }
}

/// So many of each, in an order from the seed.
pub fn schedule(rng: &mut Rng, counts: &[(Fault, usize)]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = counts.iter().flat_map(|(fault, count)| std::iter::repeat_n(*fault, *count)).collect();
    rng.shuffle(&mut faults);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_the_order_and_nothing_else() {
        let counts = [(Fault::KillLeader, 5), (Fault::KillFollower, 5), (Fault::KillAll, 5), (Fault::Pause, 5)];
        let orders: Vec<_> = (0..10).map(|seed| schedule(&mut Rng::new(seed), &counts)).collect();
        for order in &orders {
            for (fault, count) in counts {
                assert_eq!(order.iter().filter(|other| **other == fault).count(), count);
            }
        }
        assert_eq!(orders[3], schedule(&mut Rng::new(3), &counts));
        assert!(orders.iter().any(|order| *order != orders[0]));
    }
}
