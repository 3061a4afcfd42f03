//! Quorum rules against a naive check over the power set.

use std::collections::BTreeMap;

use quorate_core::{Incarnation, LeaderIdMode, Membership, NodeId, Quorum, RuleError, VoterSet};

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

/// Every way to give `count` nodes a weight from 1 to 3 in two rules, up to renaming the nodes: each node takes one of
/// the nine pairs of weights, and only how many take which matters.
fn pairs_of_weights(count: usize) -> Vec<Vec<(u32, u32)>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        all = all
            .into_iter()
            .flat_map(|weights: Vec<(u32, u32)>| {
                let from = weights.last().copied().unwrap_or((1, 1));
                let next = (1..=3).flat_map(|one| (1..=3).map(move |other| (one, other))).filter(move |w| *w >= from);
                next.map(move |pair| weights.iter().copied().chain([pair]).collect()).collect::<Vec<_>>()
            })
            .collect();
    }
    all
}

fn weighted(need: u32, weights: impl Iterator<Item = u32>) -> Quorum {
    Quorum::weighted(need, weights.enumerate().map(|(id, weight)| (NodeId(id as u64), weight)))
}

/// The power set of at most seven nodes has 128 members, and a rule is the set of those that are quorums: one number.
fn quorums(weights: &[u32], need: u32) -> u128 {
    let sum = |set: u32| weights.iter().enumerate().map(|(id, w)| if set >> id & 1 == 1 { *w } else { 0 }).sum::<u32>();
    (0..1u32 << weights.len()).filter(|set| sum(*set) >= need).fold(0, |found, set| found | 1 << set)
}

/// Whether no quorum of one rule is inside the complement of a quorum of the other. The complement of set `s` is the
/// set `all - s`: the power set read backwards.
fn power_sets_meet(one: u128, other: u128, count: usize) -> bool {
    let backwards = other.reverse_bits() >> (128 - (1u32 << count));
    one & backwards == 0
}

#[test]
fn greatest_reached_of_every_weighted_rule_up_to_seven_nodes() {
    // With three levels (nothing, less, more) every cut between two values of any assignment is tried.
    for count in 1..=7 {
        let sorted = pairs_of_weights(count).into_iter().filter(|pairs| pairs.iter().all(|(_, other)| *other == 1));
        for weights in sorted.map(|pairs| pairs.into_iter().map(|(weight, _)| weight).collect::<Vec<_>>()) {
            let rules: Vec<_> =
                (1..=weights.iter().sum()).map(|need| (need, weighted(need, weights.iter().copied()))).collect();
            for code in 0..3u32.pow(count as u32) {
                let levels: Vec<u32> = (0..count).map(|id| code / 3u32.pow(id as u32) % 3).collect();
                let sum = |least: u32| -> u32 {
                    levels.iter().zip(&weights).map(|(level, w)| if *level >= least { *w } else { 0 }).sum()
                };
                let (some, more) = (sum(1), sum(2));
                for (need, rule) in &rules {
                    let expected = if more >= *need { Some(2) } else { (some >= *need).then_some(1) };
                    let value = |id: NodeId| Some(levels[id.0 as usize]).filter(|level| *level > 0);
                    assert_eq!(rule.greatest_reached(&value), expected, "{rule} with {levels:?}");
                }
            }
        }
    }
}

#[test]
fn greatest_reached_of_random_rules_is_what_its_definition_says() {
    let mut rng = Rng(1);
    for _ in 0..5000 {
        let count = 1 + rng.below(9);
        let rule = random_two_level(&mut rng, count);
        for _ in 0..4 {
            let values: Vec<_> = (0..9).map(|_| (rng.below(5) > 0).then(|| rng.below(6))).collect();
            let found = rule.greatest_reached(&|id| values[id.0 as usize]);
            assert_eq!(found, naive_reached(&rule, &values), "{rule} with {values:?}");
        }
    }
}

/// More parts than there is room for on the stack, in one rule and in one part of another.
#[test]
fn greatest_reached_of_a_rule_of_17_parts() {
    let mut rng = Rng(3);
    let many = |need| Quorum::at_least(need, (0..17).map(NodeId));
    for need in 1..=17 {
        for rule in [many(need), Quorum::majority_of([many(need), Quorum::Node(NodeId(17)), Quorum::Node(NodeId(3))])] {
            let values: Vec<_> = (0..18).map(|_| (rng.below(9) > 0).then(|| rng.below(40))).collect();
            let found = rule.greatest_reached(&|id| values[id.0 as usize]);
            assert_eq!(found, naive_reached(&rule, &values), "{rule} with {values:?}");
        }
    }
}

#[test]
fn joint_rules_reach_what_all_of_them_reach() {
    let mut rng = Rng(3);
    for _ in 0..2000 {
        let sets: Vec<VoterSet> = (0..1 + rng.below(3))
            .map(|_| {
                let count = 1 + rng.below(7);
                let (elect, commit) = (random_two_level(&mut rng, count), random_two_level(&mut rng, count));
                VoterSet { elect, commit, voters: voters(count) }
            })
            .collect();
        let joint = Membership { configs: sets.clone(), ..Membership::default() };
        let values: Vec<_> = (0..9).map(|_| (rng.below(6) > 0).then(|| rng.below(6))).collect();
        let naive = |rule: fn(&VoterSet) -> &Quorum| -> Option<u32> {
            sets.iter().map(|set| naive_reached(rule(set), &values)).min().flatten()
        };
        assert_eq!(joint.elect_reached(|id, _| values[id.0 as usize]), naive(|set| &set.elect), "{joint}");
        assert_eq!(joint.commit_reached(|id, _| values[id.0 as usize]), naive(|set| &set.commit), "{joint}");
    }
}

/// What `check` says of two rules, and that the quorums it names are quorums, without a node in common.
fn is_accepted(elect: &Quorum, commit: &Quorum, count: u32, mode: LeaderIdMode) -> bool {
    let set = VoterSet { elect: elect.clone(), commit: commit.clone(), voters: voters(count) };
    match set.check(mode) {
        Ok(()) => true,
        Err(RuleError::DoNotMeet { one, other }) => {
            let bits = |ids: &[NodeId]| ids.iter().fold(0, |bits, id| bits | 1u32 << id.0);
            assert!(is_quorum(elect, bits(&one)), "{one:?} is no quorum of {elect}");
            let other_rule = if is_quorum(commit, bits(&other)) { commit } else { elect };
            assert!(is_quorum(other_rule, bits(&other)), "{other:?} is no quorum of {commit}");
            assert!(mode == LeaderIdMode::Standard || other_rule == commit, "{other:?} is no quorum of {commit}");
            assert_eq!(bits(&one) & bits(&other), 0, "{one:?} and {other:?} meet");
            false
        }
        Err(other) => panic!("elect {elect} commit {commit}: {other}"),
    }
}

/// Every pair of one-level rules with weights from 1 to 3: all of them up to five nodes. Of six and seven, for every elect
/// rule and every commit weights, the two needs where the answer changes, which is all if it changes once; that it does
/// is checked of the power sets.
#[test]
fn every_pair_of_weighted_rules_is_accepted_exactly_when_its_quorums_meet() {
    let mut checked = 0;
    for count in 1..=7usize {
        for pairs in pairs_of_weights(count) {
            let (ones, others): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
            let all = |weights: &[u32]| -> Vec<(Quorum, u128)> {
                let sum = weights.iter().sum();
                (1..=sum).map(|need| (weighted(need, weights.iter().copied()), quorums(weights, need))).collect()
            };
            let (elects, commits) = (all(&ones), all(&others));
            for (elect, elect_sets) in &elects {
                let meets: Vec<bool> =
                    commits.iter().map(|(_, sets)| power_sets_meet(*elect_sets, *sets, count)).collect();
                assert!(meets.is_sorted(), "a greater need never meets less");
                let changes = meets.iter().position(|meets| *meets).unwrap_or(meets.len());
                for (place, (commit, _)) in commits.iter().enumerate() {
                    if count < 6 || place + 1 == changes || place == changes {
                        checked += 1;
                        let found = is_accepted(elect, commit, count as u32, LeaderIdMode::Advanced);
                        assert_eq!(found, meets[place], "elect {elect} commit {commit}");
                    }
                }
            }
        }
    }
    assert!(checked > 300_000, "{checked} pairs");
}

#[test]
fn every_pair_of_counts_and_random_two_level_rules_in_both_modes() {
    let mut rng = Rng(2);
    let mut pairs: Vec<(Quorum, Quorum, u32)> = Vec::new();
    for count in 1..=7 {
        let nodes = || (0..count).map(|id| NodeId(u64::from(id)));
        pairs.push((Quorum::majority(nodes()), Quorum::majority(nodes()), count));
        for elect in 1..=count {
            pairs.extend((1..=count).map(|c| (Quorum::at_least(elect, nodes()), Quorum::at_least(c, nodes()), count)));
        }
    }
    for count in 1..=4 {
        let rules = weighted_rules(count);
        pairs.extend(rules.iter().map(|rule| (rule.clone(), rule.clone(), count)));
    }
    pairs.extend((0..5000).map(|_| {
        let count = 1 + rng.below(9);
        (random_two_level(&mut rng, count), random_two_level(&mut rng, count), count)
    }));
    for (elect, commit, count) in pairs {
        let meet = naive_meet(&elect, &commit, count);
        assert_eq!(is_accepted(&elect, &commit, count, LeaderIdMode::Advanced), meet, "elect {elect} commit {commit}");
        let standard = meet && naive_meet(&elect, &elect, count);
        assert_eq!(
            is_accepted(&elect, &commit, count, LeaderIdMode::Standard),
            standard,
            "elect {elect} commit {commit}"
        );
    }
}

#[test]
fn constructors_make_the_rules_that_their_names_say() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
    let zones = Quorum::hierarchical([ids(&[0, 1, 2]), ids(&[3, 4, 5]), ids(&[6, 7, 8])]);
    assert_eq!(zones.to_string(), "2 of {2 of {0,1,2},2 of {3,4,5},2 of {6,7,8}}");
    // Two nodes of each of two zones are enough, a whole zone and one node of each other are not.
    assert!(is_quorum(&zones, 0b000_110_011) && !is_quorum(&zones, 0b001_001_111));
    assert!(VoterSet { elect: zones.clone(), commit: zones, voters: voters(9) }.check(LeaderIdMode::Standard).is_ok());
    // A witness zone of one node beside two of three.
    let parts = [Quorum::majority(ids(&[0, 1, 2])), Quorum::majority(ids(&[3, 4, 5])), Quorum::Node(NodeId(6))];
    assert_eq!(Quorum::majority_of(parts).to_string(), "2 of {2 of {0,1,2},2 of {3,4,5},6}");
    assert_eq!(Quorum::weighted(3, [(NodeId(0), 3), (NodeId(1), 1)]).to_string(), "3 of {0*3,1}");
    assert_eq!(Quorum::at_least(1, ids(&[4, 5])).to_string(), "1 of {4,5}");
    assert_eq!(Quorum::majority(ids(&[1, 2, 3, 4])).to_string(), "3 of {1,2,3,4}");
}

#[test]
fn quorums_that_do_not_meet_are_named_without_superfluous_nodes() {
    let zones = [[0, 1, 2], [3, 4, 5]].map(|zone| zone.map(NodeId));
    let elect = Quorum::AtLeast { need: 1, of: zones.iter().map(|zone| (1, Quorum::majority(*zone))).collect() };
    let set = VoterSet { commit: elect.clone(), elect, voters: voters(6) };
    let refused = set.check(LeaderIdMode::Advanced).unwrap_err();
    assert_eq!(refused, RuleError::DoNotMeet { one: vec![NodeId(0), NodeId(1)], other: vec![NodeId(4), NodeId(5)] });
    let told = refused.to_string();
    assert!(told.contains("{0,1} and {4,5} share no node"), "{told}");
}

#[test]
fn one_threshold_over_one_set_may_have_many_voters() {
    let ids = |count: u64| (0..count).map(NodeId);
    // One set by arithmetic, however large.
    let rule = Quorum::majority(ids(101));
    let set = VoterSet { elect: rule.clone(), commit: rule, voters: voters(101) };
    assert!(set.check(LeaderIdMode::Standard).is_ok());
    let rule = Quorum::at_least(50, ids(101));
    let set = VoterSet { elect: rule.clone(), commit: rule, voters: voters(101) };
    let Err(RuleError::DoNotMeet { one, other }) = set.check(LeaderIdMode::Advanced) else { panic!("accepted") };
    assert_eq!((one.len(), other.len()), (50, 50));
    assert!(one.iter().all(|id| !other.contains(id)));
    // One node alone is a threshold too.
    let (one, other) = (Quorum::Node(NodeId(0)), Quorum::majority(ids(1)));
    let set = VoterSet { elect: one.clone(), commit: one.clone(), voters: voters(1) };
    assert!(set.check(LeaderIdMode::Standard).is_ok());
    let set = VoterSet { elect: one, commit: other, voters: voters(1) };
    assert!(set.check(LeaderIdMode::Advanced).is_ok());
    // Twelve in zones of three: by enumeration.
    let zones = Quorum::hierarchical((0..4).map(|zone| (zone * 3..zone * 3 + 3).map(NodeId)));
    let set = VoterSet { elect: zones.clone(), commit: zones, voters: voters(12) };
    assert!(set.check(LeaderIdMode::Standard).is_ok());
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
