//! What a membership becomes by a change: the target, without regard to when it may be appended.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Refusal;
use crate::ids::{Incarnation, NodeId};
use crate::membership::{ChangeMembers, Membership, Node, Retain, Settings};
use crate::quorum::{Quorum, VoterSet};

/// A membership while a change is applied to it.
pub(crate) struct Draft {
    /// The voters it starts from, with their rules.
    base: VoterSet,
    voters: BTreeMap<NodeId, Incarnation>,
    nodes: BTreeMap<NodeId, Node>,
    /// Voters that a joint change under way is about to remove: they can be made voters again.
    leaving: BTreeMap<NodeId, Node>,
    settings: Settings,
    rules: Option<(Quorum, Quorum)>,
    /// Voters whose disk was not heard of: nobody can name it yet (law 15).
    unseen: BTreeSet<NodeId>,
}

impl Draft {
    /// What `change` makes of the membership in force; of a joint one, of what it is on its way to.
    pub(crate) fn of(
        in_force: &Membership,
        change: &ChangeMembers,
        seen: &impl Fn(NodeId) -> Option<Incarnation>,
    ) -> Result<Self, Refusal> {
        let base = in_force.target();
        let Some(set) = base.configs.last() else { return Err(Refusal::NoVoters) };
        let leaving = in_force.nodes.iter().filter(|(id, _)| !base.nodes.contains_key(id));
        let mut draft = Draft {
            base: set.clone(),
            voters: set.voters.clone(),
            leaving: leaving.map(|(id, node)| (*id, node.clone())).collect(),
            nodes: base.nodes,
            settings: base.settings,
            rules: None,
            unseen: BTreeSet::new(),
        };
        draft.apply(change, seen)?;
        if draft.voters.is_empty() {
            return Err(Refusal::NoVoters);
        }
        if let Some(id) = draft.voters.keys().find(|id| !draft.nodes.contains_key(id)) {
            return Err(Refusal::UnknownNode(*id));
        }
        let (voters, unseen) = (&draft.voters, &mut draft.unseen);
        unseen.retain(|id| voters.contains_key(id));
        Ok(draft)
    }

    /// The first voter whose disk was not heard of.
    pub(crate) fn unseen(&self) -> Option<NodeId> {
        self.unseen.first().copied()
    }

    /// Voters that are not even learners yet.
    pub(crate) fn strangers(&self, in_force: &Membership) -> BTreeMap<NodeId, Node> {
        let voters = self.nodes.iter().filter(|(id, _)| self.voters.contains_key(id));
        voters.filter(|(id, _)| !in_force.nodes.contains_key(id)).map(|(id, node)| (*id, node.clone())).collect()
    }

    /// The uniform membership that the change asks for.
    pub(crate) fn finish(self) -> Result<Membership, Refusal> {
        let base = self.base;
        let same_ids = self.voters.keys().eq(base.voters.keys());
        let majority = Quorum::majority(base.voters.keys().copied());
        let is_majority = base.elect == majority && base.commit == majority;
        let config = match self.rules {
            Some((elect, commit)) => VoterSet { elect, commit, voters: self.voters },
            None if same_ids => VoterSet { voters: self.voters, ..base },
            None if is_majority => VoterSet::majority(self.voters),
            // A rule that names its voters cannot be stretched over others: the caller must say the new one.
            None => {
                let added = self.voters.keys().filter(|id| !base.voters.contains_key(id)).copied().collect();
                let removed = base.voters.keys().filter(|id| !self.voters.contains_key(id)).copied().collect();
                return Err(Refusal::RuleNeeded { added, removed });
            }
        };
        Ok(Membership { configs: vec![config], nodes: self.nodes, settings: self.settings, retain: Retain::Remove })
    }

    fn apply(&mut self, change: &ChangeMembers, seen: &impl Fn(NodeId) -> Option<Incarnation>) -> Result<(), Refusal> {
        match change {
            ChangeMembers::AddVoters(nodes) => {
                self.add_nodes(nodes);
                for id in nodes.keys() {
                    self.add_voter(*id, seen)?;
                }
            }
            ChangeMembers::AddVoterIds(ids) => {
                for id in ids {
                    self.add_voter(*id, seen)?;
                }
            }
            ChangeMembers::RemoveVoters(ids) => self.voters.retain(|id, _| !ids.contains(id)),
            ChangeMembers::ReplaceAllVoters(ids) => {
                self.voters.retain(|id, _| ids.contains(id));
                for id in ids {
                    self.add_voter(*id, seen)?;
                }
            }
            ChangeMembers::AddNodes(nodes) => self.add_nodes(nodes),
            ChangeMembers::SetNodes(nodes) => self.nodes.extend(nodes.clone()),
            ChangeMembers::RemoveNodes(ids) => {
                if let Some(id) = ids.iter().find(|id| self.voters.contains_key(id)) {
                    return Err(Refusal::IsVoter(*id));
                }
                self.nodes.retain(|id, _| !ids.contains(id));
            }
            ChangeMembers::ReplaceAllNodes(nodes) => self.nodes = nodes.clone(),
            ChangeMembers::SetQuorum { elect, commit } => self.rules = Some((elect.clone(), commit.clone())),
            ChangeMembers::SetSettings(settings) => self.settings = *settings,
            ChangeMembers::Batch(changes) => {
                for change in changes {
                    self.apply(change, seen)?;
                }
            }
        }
        Ok(())
    }

    /// A node that is already known keeps its record.
    fn add_nodes(&mut self, nodes: &BTreeMap<NodeId, Node>) {
        for (id, node) in nodes {
            self.nodes.entry(*id).or_insert_with(|| node.clone());
        }
    }

    /// Makes a node a voter, as the disk it was last seen with.
    fn add_voter(&mut self, id: NodeId, seen: &impl Fn(NodeId) -> Option<Incarnation>) -> Result<(), Refusal> {
        if !self.nodes.contains_key(&id) {
            let known = self.leaving.get(&id).ok_or(Refusal::UnknownNode(id))?;
            self.nodes.insert(id, known.clone());
        }
        let incarnation = seen(id).or(self.voters.get(&id).copied());
        if incarnation.is_none() {
            self.unseen.insert(id);
        }
        self.voters.insert(id, incarnation.unwrap_or(Incarnation(0)));
        Ok(())
    }
}
