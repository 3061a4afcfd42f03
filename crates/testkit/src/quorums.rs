//! Whether a quorum agrees, by the rules' text: a second opinion, for those who judge the core's own reckoning.

use quorate_core::{Incarnation, Membership, NodeId, Quorum, VoterSet};

/// Whether those who have something are a commit quorum of every voter set; without voters nobody is.
pub fn commits(membership: &Membership, has: impl Fn(NodeId, Incarnation) -> bool) -> bool {
    let agrees =
        |set: &VoterSet| agree(&set.commit, &|id| set.voters.get(&id).is_some_and(|incarnation| has(id, *incarnation)));
    !membership.configs.is_empty() && membership.configs.iter().all(agrees)
}

/// Whether those who have something can elect and commit by all of these voter sets.
pub fn decide(sets: &[VoterSet], has: impl Fn(NodeId, Incarnation) -> bool) -> bool {
    let has = |set: &VoterSet, id| set.voters.get(&id).is_some_and(|incarnation| has(id, *incarnation));
    sets.iter().all(|set| [&set.elect, &set.commit].into_iter().all(|rule| agree(rule, &|id| has(set, id))))
}

/// Whether every quorum of one rule has a node of every quorum of the other, as every set of these voters shows.
///
/// # Panics
/// If there are more than 20 voters.
pub fn meet(one: &Quorum, other: &Quorum, voters: &[NodeId]) -> bool {
    assert!(voters.len() <= 20, "2^20 sets are looked at, no more");
    let is_in =
        |set: u32, id: NodeId| voters.iter().position(|voter| *voter == id).is_some_and(|at| set >> at & 1 == 1);
    (0..1u32 << voters.len()).all(|set| !agree(one, &|id| is_in(set, id)) || !agree(other, &|id| !is_in(set, id)))
}

fn agree(rule: &Quorum, has: &impl Fn(NodeId) -> bool) -> bool {
    match rule {
        Quorum::Node(id) => has(*id),
        Quorum::AtLeast { need, of } => {
            let agreed = of.iter().filter(|(_, part)| agree(part, has)).map(|(weight, _)| u64::from(*weight));
            agreed.sum::<u64>() >= u64::from(*need)
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Node;

    use super::*;

    #[test]
    fn quorums_are_those_of_the_core() {
        let zones = Quorum::hierarchical([vec![NodeId(1), NodeId(2), NodeId(3)], vec![NodeId(4)], vec![NodeId(5)]]);
        let weighted = Quorum::weighted(4, (1..=5).map(|id| (NodeId(id), id as u32 % 3 + 1)));
        for rule in [Quorum::majority((1..=5).map(NodeId)), zones, weighted] {
            let mut membership =
                Membership::majority((1..=5).map(|id| (NodeId(id), Incarnation(id.into()), Node::default())));
            membership.configs[0].commit = rule;
            for present in 0..32u32 {
                let has = |id: NodeId, _| present & (1 << (id.0 - 1)) != 0;
                let reached = membership.commit_reached(|id, disk| has(id, disk).then_some(())).is_some();
                assert_eq!(commits(&membership, has), reached, "{membership:?} {present:b}");
            }
        }
        assert!(!commits(&Membership::default(), |_, _| true), "nobody decides where nobody votes");
    }
}
