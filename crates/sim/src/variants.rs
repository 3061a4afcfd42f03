//! Membership changes of every kind, drawn by chance: such as must succeed if the cluster can bear them, and such as
//! must be refused whatever it is like.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_core::{
    ChangeMembers, ChangeTerms, Core, LeaderId, LeaderIdMode, LeasePolicy, LogId, Membership, Node as Member, NodeId,
    Precondition, Quorum, Readiness, Retain, Settings, VoterSet,
};

use crate::goals::Goal;
use crate::rng::Rng;
use crate::rules::{Pair, RuleKind, sound, sound_for_advanced, too_deep, unsound};

/// The address of a node in changes that must be refused as a whole: no membership may ever name it.
pub(crate) const NEVER: &str = "never";

/// A change to be asked for.
pub(crate) struct Proposal {
    pub(crate) change: ChangeMembers,
    pub(crate) retain: Retain,
    pub(crate) terms: ChangeTerms,
    /// What it shows if it succeeds; nothing if it must be refused.
    pub(crate) goals: Vec<Goal>,
}

/// Where changes are drawn from.
pub(crate) struct Drawer<'a> {
    pub(crate) rng: &'a mut Rng,
    /// The leader's.
    pub(crate) core: &'a Core,
    /// Every node that there is.
    pub(crate) nodes: &'a [NodeId],
    pub(crate) patience: Duration,
}

fn member(id: NodeId) -> Member {
    Member::at(format!("node-{id}"))
}

fn records(ids: impl IntoIterator<Item = NodeId>) -> BTreeMap<NodeId, Member> {
    ids.into_iter().map(|id| (id, member(id))).collect()
}

/// Whether the voters decide by majorities.
fn is_majority(set: &VoterSet) -> bool {
    let majority = Quorum::majority(set.voters.keys().copied());
    set.elect == majority && set.commit == majority
}

/// A change after which these nodes vote; by majorities, if they decide by a rule of their own now.
pub(crate) fn with_rule(membership: &Membership, change: ChangeMembers, voters: &BTreeSet<NodeId>) -> ChangeMembers {
    match membership.configs.last() {
        Some(set) if !is_majority(set) => {
            let majority = Quorum::majority(voters.iter().copied());
            let rule = ChangeMembers::SetQuorum { elect: majority.clone(), commit: majority };
            ChangeMembers::Batch(vec![change, rule])
        }
        Some(_) | None => change,
    }
}

impl Drawer<'_> {
    fn target(&self) -> Membership {
        self.core.membership().target()
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.target().voter_ids()
    }

    fn some(&mut self, of: &[NodeId]) -> Option<NodeId> {
        (!of.is_empty()).then(|| *self.rng.pick(of))
    }

    /// A change that is allowed, if enough nodes are there; `None` if there is none of the kind drawn.
    pub(crate) fn valid(&mut self) -> Option<Proposal> {
        let kind = self.rng.below(18);
        self.of_kind(kind)
    }

    /// One that changes who votes.
    pub(crate) fn of_voters(&mut self) -> Option<Proposal> {
        let kind = self.rng.below(4);
        self.of_kind(kind)
    }

    /// One back to the voters and rules that there are.
    pub(crate) fn back(&mut self) -> Option<Proposal> {
        let target = self.target();
        let set = target.configs.last()?;
        let change = ChangeMembers::Batch(vec![
            ChangeMembers::ReplaceAllVoters(set.voters.keys().copied().collect()),
            ChangeMembers::SetQuorum { elect: set.elect.clone(), commit: set.commit.clone() },
        ]);
        Some(self.under_terms(change, Goal::BatchOfChanges))
    }

    fn of_kind(&mut self, kind: u64) -> Option<Proposal> {
        let target = self.target();
        let voters: Vec<NodeId> = target.voter_ids().into_iter().collect();
        let learners: Vec<NodeId> = target.learner_ids().into_iter().collect();
        let outside: Vec<NodeId> = self.nodes.iter().copied().filter(|id| !target.nodes.contains_key(id)).collect();
        let others: Vec<NodeId> = self.nodes.iter().copied().filter(|id| !voters.contains(id)).collect();
        let all: Vec<NodeId> = target.nodes.keys().copied().collect();
        let (change, goal) = match kind {
            0 => (self.voting(|id| ChangeMembers::AddVoters(records([id])), &others, true)?, Goal::AddVoters),
            1 => (self.voting(|id| ChangeMembers::AddVoterIds([id].into()), &learners, true)?, Goal::AddVoterIds),
            2 if voters.len() > 1 => {
                (self.voting(|id| ChangeMembers::RemoveVoters([id].into()), &voters, false)?, Goal::RemoveVoters)
            }
            2 => return None,
            3 => {
                let mut chosen: BTreeSet<NodeId> = all.iter().copied().filter(|_| self.rng.chance(700)).collect();
                chosen.insert(self.some(&all)?);
                let change = ChangeMembers::ReplaceAllVoters(chosen.clone());
                (self.with_some_rule(change, &chosen), Goal::ReplaceAllVoters)
            }
            4 => (ChangeMembers::AddNodes(records(self.some(&outside))), Goal::AddNodes),
            5 => {
                let id = self.some(self.nodes)?;
                let mut record = member(id);
                record.labels.insert("drawn".to_owned(), self.rng.below(100).to_string());
                (ChangeMembers::SetNodes(BTreeMap::from([(id, record)])), Goal::SetNodes)
            }
            6 => (ChangeMembers::RemoveNodes([self.some(&learners)?].into()), Goal::RemoveNodes),
            7 => {
                let kept = learners.into_iter().filter(|_| self.rng.chance(500));
                let nodes: Vec<NodeId> = voters.iter().copied().chain(kept).collect();
                (ChangeMembers::ReplaceAllNodes(records(nodes)), Goal::ReplaceAllNodes)
            }
            8..=11 | 16 | 17 => {
                let rules = match kind {
                    9 => RuleKind::Weighted,
                    10 => RuleKind::Hierarchical,
                    11 => RuleKind::Counted,
                    16 | 17 => RuleKind::Nested,
                    _ => RuleKind::Majority,
                };
                return Some(self.with_rules(rules, &voters));
            }
            12 => {
                let lease = match self.core.membership().settings.lease {
                    LeasePolicy::FastFailover => LeasePolicy::LeaseReads,
                    LeasePolicy::LeaseReads => LeasePolicy::FastFailover,
                };
                (ChangeMembers::SetSettings(Settings { lease }), Goal::SetSettings)
            }
            13 | 14 => {
                let joins = self.some(&others)?;
                let leaves = self.some(&voters)?;
                let mut after: BTreeSet<NodeId> = voters.iter().copied().collect();
                after.insert(joins);
                after.remove(&leaves);
                let majority = Quorum::majority(after.iter().copied());
                let change = ChangeMembers::Batch(vec![
                    ChangeMembers::AddVoters(records([joins])),
                    ChangeMembers::RemoveVoters([leaves].into()),
                    ChangeMembers::SetQuorum { elect: majority.clone(), commit: majority },
                    ChangeMembers::SetNodes(records([joins])),
                ]);
                (change, Goal::BatchOfChanges)
            }
            _ => return Some(self.with_rules(RuleKind::Majority, &voters)),
        };
        Some(self.under_terms(change, goal))
    }

    /// Adds or removes a voter.
    fn voting(
        &mut self,
        change: impl Fn(NodeId) -> ChangeMembers,
        of: &[NodeId],
        joins: bool,
    ) -> Option<ChangeMembers> {
        let id = self.some(of)?;
        let mut after = self.voters();
        match joins {
            true => after.insert(id),
            false => after.remove(&id),
        };
        Some(self.with_some_rule(change(id), &after))
    }

    /// Rules over these voters: they meet.
    fn rules(&mut self, kind: RuleKind, voters: &[NodeId]) -> Pair {
        sound(self.rng, kind, self.core.config().mode, voters)
    }

    /// A change of nothing but the rules.
    fn with_rules(&mut self, kind: RuleKind, voters: &[NodeId]) -> Proposal {
        let (elect, commit) = self.rules(kind, voters);
        let apart = elect != commit;
        let (goal, more) = match kind {
            RuleKind::Majority => (Goal::MajorityRule, None),
            RuleKind::Weighted => (Goal::WeightedRule, Some(Goal::WeightedApart)),
            RuleKind::Hierarchical => (Goal::HierarchicalRule, Some(Goal::HierarchicalApart)),
            RuleKind::Counted => (Goal::OwnRules, None),
            RuleKind::Nested => (Goal::NestedRule, None),
        };
        let mut proposal = self.under_terms(ChangeMembers::SetQuorum { elect, commit }, goal);
        proposal.goals.extend(more.filter(|_| apart));
        proposal
    }

    /// A change after which these nodes vote, now and then by rules that are no majorities.
    fn with_some_rule(&mut self, change: ChangeMembers, voters: &BTreeSet<NodeId>) -> ChangeMembers {
        if voters.is_empty() || !self.rng.chance(200) {
            return with_rule(&self.target(), change, voters);
        }
        let voters: Vec<NodeId> = voters.iter().copied().collect();
        let kind = *self.rng.pick(&RuleKind::ALL);
        let (elect, commit) = self.rules(kind, &voters);
        ChangeMembers::Batch(vec![change, ChangeMembers::SetQuorum { elect, commit }])
    }

    fn under_terms(&mut self, change: ChangeMembers, goal: Goal) -> Proposal {
        let mut goals = vec![goal];
        let brings_rules =
            |part: &ChangeMembers| matches!(part, ChangeMembers::SetQuorum { elect, commit } if elect != commit);
        if goal != Goal::BatchOfChanges
            && let ChangeMembers::Batch(parts) = &change
            && parts.iter().any(brings_rules)
        {
            goals.push(Goal::VotersWithRules);
        }
        let retain = if self.rng.chance(500) { Retain::AsLearners } else { Retain::Remove };
        if retain == Retain::AsLearners {
            goals.push(Goal::RetainedAsLearners);
        }
        let mut terms = ChangeTerms { patience: self.patience, ..ChangeTerms::default() };
        if self.rng.chance(150) {
            terms.readiness = Readiness::Waived;
            goals.push(Goal::ReadinessWaived);
        }
        if self.rng.chance(200) {
            goals.push(Goal::ConditionalChange);
            terms.preconditions = vec![
                Precondition::LeaderId(self.core.vote().leader_id),
                Precondition::LastMembershipLogId(self.core.membership_log_id()),
            ];
            if self.rng.chance(300) {
                terms.preconditions.push(Precondition::LastLogId(self.core.last_log_id()));
            }
        }
        Proposal { change, retain, terms, goals }
    }

    /// A change that can never be.
    pub(crate) fn invalid(&mut self) -> Proposal {
        let me = self.core.config().node_id;
        let nobody = NodeId(99);
        let everybody: BTreeSet<NodeId> = self.nodes.iter().copied().collect();
        let voters: Vec<NodeId> = self.voters().into_iter().collect();
        let count = voters.len() as u32;
        let rule = |need| Quorum::at_least(need, voters.iter().copied());
        let mut terms = ChangeTerms { patience: self.patience, ..ChangeTerms::default() };
        let mode = self.core.config().mode;
        let majority = Quorum::majority(voters.iter().copied());
        let commit_by = |commit| ChangeMembers::SetQuorum { elect: majority.clone(), commit };
        let change = match self.rng.below(16) {
            0 => ChangeMembers::RemoveVoters(everybody),
            1 => ChangeMembers::ReplaceAllVoters(BTreeSet::new()),
            2 => ChangeMembers::AddVoterIds([nobody].into()),
            3 => ChangeMembers::Batch(vec![
                ChangeMembers::AddVoters(records([me])),
                ChangeMembers::RemoveNodes([me].into()),
            ]),
            4 => ChangeMembers::ReplaceAllNodes(BTreeMap::new()),
            5 => ChangeMembers::SetQuorum { elect: rule(0), commit: rule(count) },
            6 => ChangeMembers::SetQuorum { elect: rule(count + 1), commit: rule(1) },
            7 => {
                let other = Quorum::majority(voters.iter().copied().chain([nobody]));
                ChangeMembers::SetQuorum { elect: other.clone(), commit: other }
            }
            8 => {
                // A rule that names a node that does not vote.
                let alone = Quorum::at_least(1, [me, nobody]);
                ChangeMembers::Batch(vec![
                    ChangeMembers::AddVoters(records([me])),
                    ChangeMembers::ReplaceAllVoters([me].into()),
                    ChangeMembers::SetQuorum { elect: alone.clone(), commit: alone },
                ])
            }
            9 => commit_by(too_deep(&voters)),
            10 => {
                let twice = voters.iter().copied().chain(voters.first().copied());
                commit_by(Quorum::at_least(count.div_ceil(2) + 1, twice))
            }
            11 => commit_by(Quorum::weighted(1, voters.iter().map(|id| (*id, u32::from(Some(id) != voters.first()))))),
            12 => commit_by(Quorum::weighted(1, voters.iter().map(|id| (*id, u32::MAX)).chain([(me, 1)]))),
            13 | 14 => match unsound(self.rng, mode, &voters) {
                Some((elect, commit)) => ChangeMembers::SetQuorum { elect, commit },
                None => ChangeMembers::SetQuorum { elect: rule(0), commit: rule(count) },
            },
            15 if mode == LeaderIdMode::Standard => match sound_for_advanced(self.rng, &voters) {
                Some((elect, commit)) => ChangeMembers::SetQuorum { elect, commit },
                None => ChangeMembers::SetQuorum { elect: rule(0), commit: rule(count) },
            },
            _ => {
                let index = self.core.last_log_id().index + 1_000_000;
                let elsewhere = LogId::new(LeaderId { term: 0, node_id: nobody }, index);
                terms.preconditions = vec![Precondition::LastLogId(elsewhere)];
                ChangeMembers::AddNodes(BTreeMap::new())
            }
        };
        // Nothing of it may be done, also not what is allowed by itself.
        let marked = ChangeMembers::SetNodes(BTreeMap::from([(me, Member::at(NEVER))]));
        let change = ChangeMembers::Batch(vec![marked, change]);
        Proposal { change, retain: Retain::Remove, terms, goals: Vec::new() }
    }
}
