//! Quorums as an algebra: one recursive rule, one algorithm over it.

use std::collections::BTreeMap;
use std::fmt;

use crate::bug::{Bug, bug};
use crate::ids::{Incarnation, LeaderIdMode, NodeId};

/// Deepest nesting of a rule.
pub const MAX_QUORUM_DEPTH: usize = 4;
/// Most voters of a rule that has to be checked by enumeration (2^20 sets of 20 additions each, about 20 ms).
pub const MAX_ENUMERATED_VOTERS: usize = 20;

/// Which sets of nodes are enough.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Quorum {
    /// This node.
    Node(NodeId),
    /// Parts whose weights sum up to at least `need`.
    AtLeast {
        /// Least sum of weights; from 1 to the sum of all weights.
        need: u32,
        /// The parts and their weights, each at least 1.
        of: Vec<(u32, Quorum)>,
    },
}

impl Quorum {
    /// More than half of the nodes.
    pub fn majority(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let of: Vec<_> = nodes.into_iter().map(|id| (1, Quorum::Node(id))).collect();
        let count = u32::try_from(of.len()).unwrap_or(u32::MAX);
        Quorum::AtLeast { need: count / 2 + 1, of }
    }

    /// At least `need` of the nodes.
    pub fn at_least(need: u32, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Quorum::AtLeast { need, of: nodes.into_iter().map(|id| (1, Quorum::Node(id))).collect() }
    }

    /// Nodes whose weights sum up to at least `need`.
    pub fn weighted(need: u32, nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        Quorum::AtLeast { need, of: nodes.into_iter().map(|(id, weight)| (weight, Quorum::Node(id))).collect() }
    }

    /// More than half of these rules, such as one for each zone.
    pub fn majority_of(parts: impl IntoIterator<Item = Quorum>) -> Self {
        let of: Vec<_> = parts.into_iter().map(|part| (1, part)).collect();
        let count = u32::try_from(of.len()).unwrap_or(u32::MAX);
        Quorum::AtLeast { need: count / 2 + 1, of }
    }

    /// A majority of the zones' majorities: of three zones of three nodes, any two in each of any two zones.
    pub fn hierarchical<Z: IntoIterator<Item = NodeId>>(zones: impl IntoIterator<Item = Z>) -> Self {
        Self::majority_of(zones.into_iter().map(Self::majority))
    }

    /// The greatest value that a quorum has reached: the greatest `v` such that the nodes with a value of at
    /// least `v` are a quorum. `None` if the nodes with any value are not one.
    ///
    /// Serves votes (`()`), the commit index, leases and read rounds alike.
    pub fn greatest_reached<T: Ord + Copy>(&self, value: &impl Fn(NodeId) -> Option<T>) -> Option<T> {
        match self {
            Quorum::Node(id) => value(*id),
            Quorum::AtLeast { need, of } => {
                // Rules are small: up to 16 parts stay on the stack, and few of them on little of it.
                match of.len() {
                    0..=5 => greatest_among(*need, of, &mut [(None, 0); 5][..of.len()], value),
                    6..=16 => greatest_among(*need, of, &mut [(None, 0); 16][..of.len()], value),
                    many => greatest_among(*need, of, &mut vec![(None, 0); many], value),
                }
            }
        }
    }

    /// If any so many of its nodes are a quorum: that number.
    pub(crate) fn count(&self) -> Option<usize> {
        let Quorum::AtLeast { need, of } = self else { return None };
        let alike = of.iter().all(|(weight, part)| *weight == 1 && matches!(part, Quorum::Node(_)));
        usize::try_from(*need).ok().filter(|_| alike && !bug(Bug::QuorumOfAnUnsortedPrefix))
    }

    /// The nodes of the rule, in rule order.
    pub fn nodes(&self, into: &mut Vec<NodeId>) {
        match self {
            Quorum::Node(id) => into.push(*id),
            Quorum::AtLeast { of, .. } => of.iter().for_each(|(_, part)| part.nodes(into)),
        }
    }

    fn check_shape(&self, depth: usize) -> Result<(), RuleError> {
        match self {
            Quorum::Node(_) => Ok(()),
            Quorum::AtLeast { need, of } => {
                if depth >= MAX_QUORUM_DEPTH {
                    return Err(RuleError::TooDeep);
                }
                let mut sum = 0u32;
                for (weight, part) in of {
                    if *weight == 0 {
                        return Err(RuleError::ZeroWeight);
                    }
                    sum = sum.checked_add(*weight).ok_or(RuleError::WeightOverflow)?;
                    part.check_shape(depth + 1)?;
                }
                if *need == 0 || *need > sum {
                    return Err(RuleError::NeedOutOfRange { need: *need, sum });
                }
                Ok(())
            }
        }
    }

    /// Weights by node if the rule is one threshold over nodes: `(need, [(node, weight)])`.
    fn threshold(&self) -> Option<(u32, BTreeMap<NodeId, u32>)> {
        match self {
            Quorum::Node(id) => Some((1, BTreeMap::from([(*id, 1)]))),
            Quorum::AtLeast { need, of } => {
                let mut weights = BTreeMap::new();
                for (weight, part) in of {
                    let Quorum::Node(id) = part else { return None };
                    weights.insert(*id, *weight);
                }
                Some((*need, weights))
            }
        }
    }

    /// The rule with every node's place among `voters` instead of its id; `None` if one is no voter.
    fn in_places(&self, voters: &[NodeId]) -> Option<Quorum> {
        Some(match self {
            Quorum::Node(id) => Quorum::Node(NodeId(voters.binary_search(id).ok()? as u64)),
            Quorum::AtLeast { need, of } => {
                let of: Option<Vec<_>> =
                    of.iter().map(|(weight, part)| Some((*weight, part.in_places(voters)?))).collect();
                Quorum::AtLeast { need: *need, of: of? }
            }
        })
    }

    /// Whether the places whose bits are set are a quorum, for a rule over places below 32.
    fn is_met_by(&self, chosen: u32) -> bool {
        match self {
            Quorum::Node(place) => chosen >> place.0 & 1 == 1,
            Quorum::AtLeast { need, of } => {
                let mut sum = 0u32;
                for (weight, part) in of {
                    // `check_shape` saw that the sum of all weights does not overflow.
                    sum += if part.is_met_by(chosen) { *weight } else { 0 };
                }
                sum >= *need
            }
        }
    }

    /// Of a quorum, only the places that it cannot do without.
    fn least_part(&self, quorum: u32) -> u32 {
        let mut least = quorum;
        for place in (0..u32::BITS).map(|bit| 1 << bit) {
            if least & place != 0 && self.is_met_by(least & !place) {
                least &= !place;
            }
        }
        least
    }
}

/// [`Quorum::greatest_reached`] of these parts; `room` is one place for each.
fn greatest_among<T: Ord + Copy>(
    need: u32,
    of: &[(u32, Quorum)],
    room: &mut [(Option<T>, u32)],
    value: &impl Fn(NodeId) -> Option<T>,
) -> Option<T> {
    for (filled, (weight, part)) in of.iter().enumerate() {
        let reached = match part {
            Quorum::Node(id) => value(*id),
            Quorum::AtLeast { .. } => part.greatest_reached(value),
        };
        // Kept in order, the greatest first: parts are too few for anything cleverer.
        let mut place = filled;
        while place > 0 && room[place - 1].0 < reached && !bug(Bug::QuorumOfAnUnsortedPrefix) {
            room[place] = room[place - 1];
            place -= 1;
        }
        room[place] = (reached, *weight);
    }
    let mut sum = 0u64;
    for (reached, weight) in room {
        sum += u64::from(*weight);
        if sum >= u64::from(need) {
            return *reached;
        }
    }
    None
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quorum::Node(id) => write!(f, "{id}"),
            Quorum::AtLeast { need, of } => {
                write!(f, "{need} of {{")?;
                for (i, (weight, part)) in of.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    match weight {
                        1 => write!(f, "{comma}{part}")?,
                        w => write!(f, "{comma}{part}*{w}")?,
                    }
                }
                f.write_str("}")
            }
        }
    }
}

/// One set of voters with the rules by which it elects and commits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoterSet {
    /// Grants that elect a leader.
    pub elect: Quorum,
    /// Acknowledgements that commit an entry, keep a lease, confirm a read.
    pub commit: Quorum,
    /// The disk each voter votes from (law 15).
    pub voters: BTreeMap<NodeId, Incarnation>,
}

impl VoterSet {
    /// Majorities of the voters.
    pub fn majority(voters: BTreeMap<NodeId, Incarnation>) -> Self {
        let rule = Quorum::majority(voters.keys().copied());
        Self { elect: rule.clone(), commit: rule, voters }
    }

    /// The greatest value that an elect quorum has reached.
    pub fn elect_reached<T: Ord + Copy>(&self, value: &impl Fn(NodeId, Incarnation) -> Option<T>) -> Option<T> {
        self.elect.greatest_reached(&|id| value(id, *self.voters.get(&id)?))
    }

    /// The greatest value that a commit quorum has reached.
    pub fn commit_reached<T: Ord + Copy>(&self, value: &impl Fn(NodeId, Incarnation) -> Option<T>) -> Option<T> {
        self.commit.greatest_reached(&|id| value(id, *self.voters.get(&id)?))
    }

    /// Checks the rules: well formed, over exactly the voters, and every elect quorum meets every commit
    /// quorum; in standard mode every two elect quorums meet as well (law 13).
    ///
    /// # Errors
    /// Names what is wrong; of quorums that do not meet, both.
    pub fn check(&self, mode: LeaderIdMode) -> Result<(), RuleError> {
        for rule in [&self.elect, &self.commit] {
            rule.check_shape(0)?;
            let mut nodes = Vec::new();
            rule.nodes(&mut nodes);
            nodes.sort_unstable();
            if bug(Bug::VoterTwice) {
                nodes.dedup();
            }
            if let Some(twice) = nodes.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(RuleError::NodeTwice(twice[0]));
            }
            if !nodes.iter().eq(self.voters.keys()) {
                return Err(RuleError::OtherNodes);
            }
        }
        self.check_meet(&self.elect, &self.commit)?;
        match mode {
            LeaderIdMode::Advanced => Ok(()),
            LeaderIdMode::Standard => self.check_meet(&self.elect, &self.elect),
        }
    }

    /// Two rules meet if no quorum of one fits into the complement of a quorum of the other.
    fn check_meet(&self, one: &Quorum, other: &Quorum) -> Result<(), RuleError> {
        if bug(Bug::RulesNeedNotMeet) {
            return Ok(());
        }
        let voters: Vec<NodeId> = self.voters.keys().copied().collect();
        if let (Some((need, weights)), Some((other_need, other_weights))) = (one.threshold(), other.threshold())
            && weights == other_weights
        {
            // Thresholds over one set: disjoint quorums need at least the sum of both needs.
            let total: u64 = weights.values().map(|w| u64::from(*w)).sum();
            if u64::from(need) + u64::from(other_need) > total {
                return Ok(());
            }
            // With equal weights of 1 that is exact; otherwise the weights may still not split so.
            if weights.values().all(|w| *w == 1) {
                let (left, right) = voters.split_at(need as usize);
                return Err(RuleError::DoNotMeet { one: left.to_vec(), other: right[..other_need as usize].to_vec() });
            }
        }
        if voters.len() > MAX_ENUMERATED_VOTERS {
            return Err(RuleError::TooManyVoters(voters.len()));
        }
        let (Some(one), Some(other)) = (one.in_places(&voters), other.in_places(&voters)) else {
            return Err(RuleError::OtherNodes);
        };
        let all = (1u32 << voters.len()) - 1;
        let named = |quorum: u32| (0..voters.len()).filter(|i| quorum >> i & 1 == 1).map(|i| voters[i]).collect();
        for inside in 0..=all {
            let outside = all & !inside;
            if one.is_met_by(inside) && other.is_met_by(outside) {
                let (one, other) = (one.least_part(inside), other.least_part(outside));
                return Err(RuleError::DoNotMeet { one: named(one), other: named(other) });
            }
        }
        Ok(())
    }
}

impl fmt::Display for VoterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.elect == self.commit && self.elect == Quorum::majority(self.voters.keys().copied()) {
            f.write_str("{")?;
            for (i, id) in self.voters.keys().enumerate() {
                write!(f, "{}{id}", if i > 0 { "," } else { "" })?;
            }
            return f.write_str("}");
        }
        write!(f, "elect {} commit {}", self.elect, self.commit)
    }
}

/// A quorum rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuleError {
    /// There is no voter set.
    Empty,
    /// A weight is 0.
    ZeroWeight,
    /// The weights of one level sum up to more than `u32::MAX`.
    WeightOverflow,
    /// `need` is 0 or more than the sum of weights.
    NeedOutOfRange {
        /// The sum asked for.
        need: u32,
        /// The sum of all weights.
        sum: u32,
    },
    /// Rules are nested deeper than [`MAX_QUORUM_DEPTH`].
    TooDeep,
    /// A node is named twice in one rule.
    NodeTwice(NodeId),
    /// A rule is over other nodes than the voters.
    OtherNodes,
    /// A voter is not a node of the membership.
    UnknownNode(NodeId),
    /// Two quorums that must share a node do not.
    DoNotMeet {
        /// A quorum.
        one: Vec<NodeId>,
        /// A quorum without any of its nodes.
        other: Vec<NodeId>,
    },
    /// The rule can only be checked by enumeration, and has more than [`MAX_ENUMERATED_VOTERS`] voters.
    TooManyVoters(usize),
}

impl RuleError {
    /// Always false: the same rule is refused again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: nothing is done with a rule that is refused.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Empty => f.write_str("a membership needs at least one voter set"),
            RuleError::ZeroWeight => {
                f.write_str("a weight of 0 in a quorum rule: leave the node out or give it at least 1")
            }
            RuleError::WeightOverflow => f.write_str("the weights of a quorum rule sum up to more than 4294967295"),
            RuleError::NeedOutOfRange { need, sum } => {
                write!(f, "a quorum rule needs {need} of a sum of weights of {sum}: use 1 to {sum}")
            }
            RuleError::TooDeep => write!(f, "a quorum rule is nested deeper than {MAX_QUORUM_DEPTH} levels"),
            RuleError::NodeTwice(id) => write!(f, "node {id} stands twice in one quorum rule"),
            RuleError::OtherNodes => f.write_str("a quorum rule must name exactly the voters of its set"),
            RuleError::UnknownNode(id) => write!(f, "voter {id} is not a node of the membership: add it first"),
            RuleError::DoNotMeet { one, other } => {
                let named = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let (one, other) = (named(one), named(other));
                write!(f, "the quorums {{{one}}} and {{{other}}} share no node, so both could decide at once")
            }
            RuleError::TooManyVoters(n) => {
                write!(
                    f,
                    "a nested or mixed quorum rule over {n} voters cannot be checked: use at most {MAX_ENUMERATED_VOTERS}"
                )
            }
        }
    }
}

impl std::error::Error for RuleError {}
