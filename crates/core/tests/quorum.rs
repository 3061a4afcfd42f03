//! Quorum rules against a naive check over the power set.

use std::collections::BTreeMap;

use quorate_core::{Incarnation, LeaderIdMode, NodeId, Quorum, RuleError, VoterSet};

/// Whether the chosen nodes are a quorum, by definition.
fn is_quorum(rule: &Quorum, chosen: u32) -> bool {
    match rule {
        Quorum::Node(id) => chosen & (1 << id.0) != 0,
        Quorum::AtLeast { need, of } => {
            let sum: u32 = of.iter().filter(|(_, part)| is_quorum(part, chosen)).map(|(weight, _)| weight).sum();
            sum >= *need
        }
    }
}

/// The greatest value such that the nodes with at least that value are a quorum, by definition.
fn naive_reached(rule: &Quorum, values: &[Option<u32>]) -> Option<u32> {
    let mut candidates: Vec<u32> = values.iter().flatten().copied().collect();
    candidates.sort_unstable();
    let at_least = |least: u32| {
        let chosen = values.iter().enumerate().filter(|(_, value)| value.is_some_and(|v| v >= least));
        chosen.fold(0, |bits, (id, _)| bits | 1 << id)
    };
    candidates.into_iter().rev().find(|least| is_quorum(rule, at_least(*least)))
}

fn voters(count: u32) -> BTreeMap<NodeId, Incarnation> {
    (0..count).map(|id| (NodeId(u64::from(id)), Incarnation(1))).collect()
}

fn naive_meet(one: &Quorum, other: &Quorum, count: u32) -> bool {
    (0u32..1 << count).all(|set| !(is_quorum(one, set) && is_quorum(other, !set & ((1 << count) - 1))))
}

/// A small generator, so that the test is the same every time.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(limit)) as u32
    }
}

/// Every threshold over weights of 1 to 3, for the given number of nodes.
fn weighted_rules(count: u32) -> Vec<Quorum> {
    let mut rules = Vec::new();
    for code in 0..3u32.pow(count) {
        let of: Vec<_> =
            (0..count).map(|id| (code / 3u32.pow(id) % 3 + 1, Quorum::Node(NodeId(u64::from(id))))).collect();
        let sum: u32 = of.iter().map(|(weight, _)| weight).sum();
        rules.extend((1..=sum).map(|need| Quorum::AtLeast { need, of: of.clone() }));
    }
    rules
}

fn random_two_level(rng: &mut Rng, count: u32) -> Quorum {
    let groups = 1 + rng.below(3.min(count));
    let mut parts: Vec<Vec<(u32, Quorum)>> = vec![Vec::new(); groups as usize];
    for id in 0..count {
        let group = if id < groups { id } else { rng.below(groups) };
        parts[group as usize].push((1 + rng.below(3), Quorum::Node(NodeId(u64::from(id)))));
    }
    let of: Vec<_> = parts
        .into_iter()
        .map(|of| {
            let sum: u32 = of.iter().map(|(weight, _)| weight).sum();
            (1 + rng.below(2), Quorum::AtLeast { need: 1 + rng.below(sum), of })
        })
        .collect();
    let sum: u32 = of.iter().map(|(weight, _)| weight).sum();
    Quorum::AtLeast { need: 1 + rng.below(sum), of }
}

#[test]
fn greatest_reached_is_what_its_definition_says() {
    let mut rng = Rng(1);
    let mut rules: Vec<Quorum> = (1..=5).flat_map(weighted_rules).collect();
    rules.extend((0..3000).map(|_| {
        let count = 1 + rng.below(9);
        random_two_level(&mut rng, count)
    }));
    for rule in &rules {
        for _ in 0..4 {
            let values: Vec<_> = (0..9).map(|_| (rng.below(5) > 0).then(|| rng.below(6))).collect();
            let found = rule.greatest_reached(&|id| values[id.0 as usize]);
            assert_eq!(found, naive_reached(rule, &values), "{rule} with {values:?}");
        }
    }
}

#[test]
fn rules_are_accepted_exactly_when_their_quorums_meet() {
    let mut rng = Rng(2);
    let mut pairs: Vec<(Quorum, Quorum, u32)> = Vec::new();
    for count in 1..=7 {
        let nodes = || (0..count).map(|id| NodeId(u64::from(id)));
        for elect in 1..=count {
            pairs.extend((1..=count).map(|c| (Quorum::at_least(elect, nodes()), Quorum::at_least(c, nodes()), count)));
        }
    }
    for count in 1..=4 {
        let rules = weighted_rules(count);
        pairs.extend((0..2000).map(|_| {
            let mut pick = || rules[rng.below(rules.len() as u32) as usize].clone();
            (pick(), pick(), count)
        }));
        pairs.extend(rules.iter().map(|rule| (rule.clone(), rule.clone(), count)));
    }
    pairs.extend((0..2000).map(|_| {
        let count = 1 + rng.below(9);
        (random_two_level(&mut rng, count), random_two_level(&mut rng, count), count)
    }));
    for (elect, commit, count) in pairs {
        let set = VoterSet { elect: elect.clone(), commit: commit.clone(), voters: voters(count) };
        let found = set.check(LeaderIdMode::Advanced);
        if let Err(RuleError::DoNotMeet { one, other }) = &found {
            let bits = |ids: &[NodeId]| ids.iter().fold(0, |bits, id| bits | 1u32 << id.0);
            assert!(is_quorum(&elect, bits(one)), "{one:?} is no quorum of {elect}");
            assert!(is_quorum(&commit, bits(other)), "{other:?} is no quorum of {commit}");
            assert_eq!(bits(one) & bits(other), 0, "{one:?} and {other:?} meet");
        }
        assert_eq!(found.is_ok(), naive_meet(&elect, &commit, count), "elect {elect} commit {commit}");
        let standard = naive_meet(&elect, &commit, count) && naive_meet(&elect, &elect, count);
        assert_eq!(set.check(LeaderIdMode::Standard).is_ok(), standard, "elect {elect} commit {commit}");
    }
}

#[test]
fn rules_that_cannot_be_used_are_refused_with_the_reason() {
    let node = |id| Quorum::Node(NodeId(id));
    let check = |rule: Quorum| {
        VoterSet { elect: rule.clone(), commit: rule, voters: voters(2) }.check(LeaderIdMode::Advanced).unwrap_err()
    };
    let of = |weights: [u32; 2]| vec![(weights[0], node(0)), (weights[1], node(1))];
    assert_eq!(check(Quorum::AtLeast { need: 1, of: of([0, 1]) }), RuleError::ZeroWeight);
    assert_eq!(check(Quorum::AtLeast { need: 0, of: of([1, 1]) }), RuleError::NeedOutOfRange { need: 0, sum: 2 });
    assert_eq!(check(Quorum::AtLeast { need: 3, of: of([1, 1]) }), RuleError::NeedOutOfRange { need: 3, sum: 2 });
    assert_eq!(check(Quorum::AtLeast { need: 3, of: of([u32::MAX, 1]) }), RuleError::WeightOverflow);
    assert_eq!(
        check(Quorum::AtLeast { need: 2, of: vec![(1, node(0)), (1, node(0))] }),
        RuleError::NodeTwice(NodeId(0))
    );
    assert_eq!(check(node(0)), RuleError::OtherNodes);
    let mut deep = Quorum::AtLeast { need: 2, of: of([1, 1]) };
    for _ in 0..4 {
        deep = Quorum::AtLeast { need: 1, of: vec![(1, deep)] };
    }
    assert_eq!(check(deep), RuleError::TooDeep);
    let many: Vec<_> = (0..21).map(|id| (1 + u32::from(id == 0), node(id))).collect();
    let rule = Quorum::AtLeast { need: 3, of: many };
    let set = VoterSet { elect: rule.clone(), commit: rule, voters: voters(21) };
    assert_eq!(set.check(LeaderIdMode::Advanced), Err(RuleError::TooManyVoters(21)));
}
