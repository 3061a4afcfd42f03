//! Quorum rules drawn by chance: pairs that meet, as law 13 asks for, and pairs that do not.

use quorate_core::{LeaderIdMode, MAX_QUORUM_DEPTH, NodeId, Quorum};
use quorate_testkit::quorums::meet;

use crate::rng::Rng;

/// So many pairs are drawn until one is as it should be.
const MOST_DRAWS: u32 = 40;

/// What the rules of a membership are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Majorities elect and commit.
    Majority,
    /// Voters have weights, for elections others than for commits, or the same.
    Weighted,
    /// Zones of voters decide.
    Hierarchical,
    /// So many voters elect, and so many commit.
    Counted,
    /// Parts with weights, in parts with weights.
    Nested,
}

impl RuleKind {
    /// Every kind.
    pub const ALL: [RuleKind; 5] =
        [RuleKind::Majority, RuleKind::Weighted, RuleKind::Hierarchical, RuleKind::Counted, RuleKind::Nested];

    /// Its name, as in a file.
    pub fn name(self) -> &'static str {
        match self {
            RuleKind::Majority => "majority",
            RuleKind::Weighted => "weighted",
            RuleKind::Hierarchical => "hierarchical",
            RuleKind::Counted => "counted",
            RuleKind::Nested => "nested",
        }
    }
}

/// Rules by which leaders are elected and entries committed.
pub(crate) type Pair = (Quorum, Quorum);

/// Whether a cluster may go by them: every two quorums meet that must.
pub(crate) fn may_be((elect, commit): &Pair, mode: LeaderIdMode, voters: &[NodeId]) -> bool {
    let elections = match mode {
        LeaderIdMode::Advanced => true,
        LeaderIdMode::Standard => meet(elect, elect, voters),
    };
    elections && meet(elect, commit, voters)
}

/// Rules of a kind over these voters, that meet.
pub(crate) fn sound(rng: &mut Rng, kind: RuleKind, mode: LeaderIdMode, voters: &[NodeId]) -> Pair {
    for _ in 0..MOST_DRAWS {
        let pair = draw(rng, kind, voters);
        if may_be(&pair, mode, voters) {
            return if rng.chance(500) { tight(pair, mode, voters) } else { pair };
        }
    }
    let rule = Quorum::majority(voters.iter().copied());
    (rule.clone(), rule)
}

/// Rules of which two quorums do not meet that must; `None` if there are none over these voters.
pub(crate) fn unsound(rng: &mut Rng, mode: LeaderIdMode, voters: &[NodeId]) -> Option<Pair> {
    let kinds = [RuleKind::Weighted, RuleKind::Hierarchical, RuleKind::Counted, RuleKind::Nested];
    let kind = *rng.pick(&kinds);
    (0..MOST_DRAWS).map(|_| draw(rng, kind, voters)).find(|pair| !may_be(pair, mode, voters))
}

/// Rules of which every two quorums that must meet do, but two that elect: enough where leader ids of one term differ.
pub(crate) fn sound_for_advanced(rng: &mut Rng, voters: &[NodeId]) -> Option<Pair> {
    let count = voters.len() as u64;
    let elect = (count >= 2).then(|| rng.between(1, count / 2) as u32)?;
    let rule = |need| Quorum::at_least(need, voters.iter().copied());
    Some((rule(elect), rule(voters.len() as u32 + 1 - elect)))
}

/// A rule that is nested one level deeper than may be.
pub(crate) fn too_deep(voters: &[NodeId]) -> Quorum {
    (0..MAX_QUORUM_DEPTH).fold(Quorum::majority(voters.iter().copied()), |rule, _| Quorum::majority_of([rule]))
}

fn draw(rng: &mut Rng, kind: RuleKind, voters: &[NodeId]) -> Pair {
    let count = voters.len() as u64;
    match kind {
        RuleKind::Majority => {
            let rule = Quorum::majority(voters.iter().copied());
            (rule.clone(), rule)
        }
        RuleKind::Weighted => {
            let weights = weights(rng, voters.len());
            let others = if rng.chance(500) { self::weights(rng, voters.len()) } else { weights.clone() };
            let mut rule = |weights: &[u32]| {
                let need = need(rng, weights.iter().sum());
                Quorum::weighted(need, voters.iter().copied().zip(weights.iter().copied()))
            };
            (rule(&weights), rule(&others))
        }
        RuleKind::Hierarchical => {
            let zones = rng.between(2, 3).min(count) as usize;
            let zones: Vec<&[NodeId]> = voters.chunks(voters.len().div_ceil(zones)).collect();
            let mut rule = || {
                let inside = zones.iter().map(|zone| Quorum::majority(zone.iter().copied()));
                Quorum::AtLeast { need: need(rng, zones.len() as u32), of: inside.map(|zone| (1, zone)).collect() }
            };
            (rule(), rule())
        }
        RuleKind::Counted => {
            let mut rule = || Quorum::at_least(need(rng, count as u32), voters.iter().copied());
            (rule(), rule())
        }
        RuleKind::Nested => (tree(rng, voters, 2), tree(rng, voters, 2)),
    }
}

fn need(rng: &mut Rng, sum: u32) -> u32 {
    rng.between(1, u64::from(sum.max(1))) as u32
}

fn weights(rng: &mut Rng, count: usize) -> Vec<u32> {
    (0..count).map(|_| rng.between(1, 4) as u32).collect()
}

/// Parts with weights, each of which may be parted again, so deep.
fn tree(rng: &mut Rng, voters: &[NodeId], depth: usize) -> Quorum {
    if voters.len() == 1 && rng.chance(700) {
        return Quorum::Node(voters[0]);
    }
    let parts = if depth == 0 { voters.len() } else { rng.between(1, voters.len() as u64) as usize };
    let parts: Vec<&[NodeId]> = voters.chunks(voters.len().div_ceil(parts)).collect();
    let weights = weights(rng, parts.len());
    let need = need(rng, weights.iter().sum());
    let inside = |part: &[NodeId], rng: &mut Rng| match depth {
        0 => Quorum::Node(part[0]),
        _ => tree(rng, part, depth - 1),
    };
    Quorum::AtLeast {
        need,
        of: weights.into_iter().zip(parts).map(|(weight, part)| (weight, inside(part, rng))).collect(),
    }
}

/// As few as may be on the outermost level: quorums that meet in one node are those that a mistake parts.
fn tight(mut pair: Pair, mode: LeaderIdMode, voters: &[NodeId]) -> Pair {
    loop {
        let less = |rule: &Quorum| match rule {
            Quorum::AtLeast { need, of } if *need > 1 => Some(Quorum::AtLeast { need: need - 1, of: of.clone() }),
            Quorum::AtLeast { .. } | Quorum::Node(_) => None,
        };
        let commit = less(&pair.1).map(|commit| (pair.0.clone(), commit));
        let elect = less(&pair.0).map(|elect| (elect, pair.1.clone()));
        let Some(next) = [commit, elect].into_iter().flatten().find(|pair| may_be(pair, mode, voters)) else {
            return pair;
        };
        pair = next;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_core::{Incarnation, RuleError, VoterSet};

    use super::*;

    fn checked((elect, commit): Pair, mode: LeaderIdMode, voters: &[NodeId]) -> Result<(), RuleError> {
        let voters: BTreeMap<_, _> = voters.iter().map(|id| (*id, Incarnation(1))).collect();
        VoterSet { elect, commit, voters }.check(mode)
    }

    #[test]
    fn what_is_drawn_as_sound_the_core_accepts_and_nothing_else() {
        let mut rng = Rng::new(1, 1);
        for round in 0..2000 {
            let mode = if round % 2 == 0 { LeaderIdMode::Advanced } else { LeaderIdMode::Standard };
            let voters: Vec<NodeId> = (1..=rng.between(1, 7)).map(NodeId).collect();
            for kind in RuleKind::ALL {
                let pair = sound(&mut rng, kind, mode, &voters);
                assert_eq!(checked(pair.clone(), mode, &voters), Ok(()), "{pair:?}");
            }
            if let Some(pair) = unsound(&mut rng, mode, &voters) {
                let refused = checked(pair.clone(), mode, &voters);
                assert!(matches!(refused, Err(RuleError::DoNotMeet { .. })), "{pair:?}: {refused:?}");
            }
            if let Some(pair) = sound_for_advanced(&mut rng, &voters) {
                let refused = checked(pair.clone(), LeaderIdMode::Standard, &voters);
                assert!(matches!(refused, Err(RuleError::DoNotMeet { .. })), "{pair:?}: {refused:?}");
                assert_eq!(checked(pair, LeaderIdMode::Advanced, &voters), Ok(()));
            }
            let deep = too_deep(&voters);
            assert_eq!(checked((deep.clone(), deep), mode, &voters), Err(RuleError::TooDeep));
        }
    }

    #[test]
    fn every_kind_has_rules_that_differ_for_elections_and_commits() {
        let (mut rng, voters) = (Rng::new(1, 2), [1, 2, 3, 4, 5].map(NodeId));
        for kind in [RuleKind::Weighted, RuleKind::Hierarchical, RuleKind::Counted, RuleKind::Nested] {
            let mut pairs = (0..50).map(|_| sound(&mut rng, kind, LeaderIdMode::Advanced, &voters));
            assert!(pairs.any(|(elect, commit)| elect != commit), "{kind:?}");
        }
    }
}
