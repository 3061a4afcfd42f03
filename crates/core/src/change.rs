//! Membership changes: joint consensus, generalised (dissertation 4.3).

use std::collections::BTreeMap;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::event::{Action, Actions, CoreEntry, Outcome, Refusal};
use crate::ids::{Incarnation, LogId, NodeId, RequestId};
use crate::membership::{ChangeMembers, Membership, Node, Retain};
use crate::quorum::{Quorum, RuleError, VoterSet};

impl Core {
    pub(crate) fn on_change_membership(
        &mut self,
        request: RequestId,
        change: &ChangeMembers,
        retain: Retain,
        out: &mut Actions,
    ) {
        match self.plan_change(change, retain) {
            Err(refusal) => out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) }),
            Ok(membership) => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.change = Some(request);
                }
                self.append_membership(membership, out);
            }
        }
    }

    /// Appends a membership under this leader. It is in force at once.
    fn append_membership(&mut self, membership: Membership, out: &mut Actions) {
        self.append_core_entry(self.own_leader_id(), CoreEntry::Membership(membership), out);
        self.replicate(out);
        // A smaller quorum may already be reached.
        self.advance_commit(out);
    }

    /// The next membership entry on the way to what the caller wants.
    fn plan_change(&self, change: &ChangeMembers, retain: Retain) -> Result<Membership, Refusal> {
        let Role::Leader(leader) = &self.role else { return Err(Refusal::NotLeader { leader: self.leader() }) };
        if let Some(to) = self.transferring_to() {
            return Err(Refusal::Transferring { to });
        }
        // Rule: a membership entry may be appended only when an entry of this leadership is committed under the
        // membership in force, and the last membership entry is committed (law 12).
        if self.commit < leader.first_own {
            return Err(Refusal::NotYetCommitted);
        }
        let (log_id, current) = self.in_force();
        if log_id.index > self.commit || current.is_joint() {
            return Err(Refusal::ChangeInProgress { log_id: *log_id });
        }
        let target = self.target(current, change)?;
        target.check(self.config.mode).map_err(Refusal::BadRule)?;
        if target.configs == current.configs {
            return Ok(target);
        }
        // Leaving voters stay until the change is complete; learners that the change removes go at once.
        let mut nodes = target.nodes.clone();
        for (id, node) in current.nodes.iter().filter(|(id, _)| current.is_voter(**id)) {
            nodes.entry(*id).or_insert_with(|| node.clone());
        }
        let configs = current.configs.iter().chain(&target.configs).cloned().collect();
        Ok(Membership { configs, nodes, settings: target.settings, retain })
    }

    /// The uniform membership that the change asks for.
    fn target(&self, current: &Membership, change: &ChangeMembers) -> Result<Membership, Refusal> {
        let Some(set) = current.configs.last() else { return Err(Refusal::NoVoters) };
        let mut draft =
            Draft { voters: set.voters.clone(), nodes: current.nodes.clone(), settings: current.settings, rules: None };
        draft.apply(change, &|id| self.seen_incarnation(id))?;
        if draft.voters.is_empty() {
            return Err(Refusal::NoVoters);
        }
        if let Some(id) = draft.voters.keys().find(|id| !draft.nodes.contains_key(id)) {
            return Err(Refusal::UnknownNode(*id));
        }
        let same_ids = draft.voters.keys().eq(set.voters.keys());
        let majority = Quorum::majority(set.voters.keys().copied());
        let is_majority = set.elect == majority && set.commit == majority;
        let config = match draft.rules {
            Some((elect, commit)) => VoterSet { elect, commit, voters: draft.voters },
            None if same_ids => VoterSet { voters: draft.voters, ..set.clone() },
            None if is_majority => VoterSet::majority(draft.voters),
            // A rule that names its voters cannot be stretched over others: say the new one.
            None => return Err(Refusal::BadRule(RuleError::OtherNodes)),
        };
        Ok(Membership { configs: vec![config], nodes: draft.nodes, settings: draft.settings, retain: Retain::Remove })
    }

    /// The disk a node speaks from, as far as this leader has heard of it (law 15).
    fn seen_incarnation(&self, id: NodeId) -> Option<Incarnation> {
        if id == self.config.node_id {
            return Some(self.config.incarnation);
        }
        let Role::Leader(leader) = &self.role else { return None };
        leader.peer(id).and_then(|peer| peer.incarnation)
    }

    /// Something was committed: finish a joint change, answer its caller, leave if removed.
    pub(crate) fn on_commit_advanced(&mut self, out: &mut Actions) {
        let (log_id, membership) = self.in_force();
        let log_id = *log_id;
        if log_id.index > self.commit {
            return;
        }
        if membership.is_joint() {
            // Also one that an earlier leader left unfinished (law 12: an own entry is committed by now).
            let target = uniform(membership);
            // Nothing is appended while leadership is handed over: the next leader finishes the change.
            if self.transferring_to().is_some() && !bug(Bug::AppendDuringTransfer) {
                return;
            }
            return self.append_membership(target, out);
        }
        self.answer_change(log_id, out);
        if !self.is_voter() && self.is_leader() {
            self.leave_leadership(out);
        }
    }

    fn answer_change(&mut self, log_id: LogId, out: &mut Actions) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(request) = leader.change.take() {
            out.push(Action::Reply { request, outcome: Outcome::MembershipChanged(log_id) });
        }
    }
}

/// Where a joint membership is going.
fn uniform(joint: &Membership) -> Membership {
    let target: Vec<VoterSet> = joint.configs.last().cloned().into_iter().collect();
    let stays = |id: &NodeId| {
        let was_voter = joint.configs.iter().any(|set| set.voters.contains_key(id));
        let votes_on = target.iter().any(|set| set.voters.contains_key(id));
        votes_on || !was_voter || joint.retain == Retain::AsLearners
    };
    let nodes = joint.nodes.iter().filter(|(id, _)| stays(id)).map(|(id, node)| (*id, node.clone())).collect();
    Membership { configs: target, nodes, settings: joint.settings, retain: Retain::Remove }
}

/// A membership while a change is applied to it.
struct Draft {
    voters: BTreeMap<NodeId, Incarnation>,
    nodes: BTreeMap<NodeId, Node>,
    settings: crate::Settings,
    rules: Option<(Quorum, Quorum)>,
}

impl Draft {
    fn apply(&mut self, change: &ChangeMembers, seen: &impl Fn(NodeId) -> Option<Incarnation>) -> Result<(), Refusal> {
        match change {
            ChangeMembers::AddVoters(nodes) => {
                for (id, node) in nodes {
                    self.nodes.entry(*id).or_insert_with(|| node.clone());
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
            ChangeMembers::AddNodes(nodes) => {
                for (id, node) in nodes {
                    self.nodes.entry(*id).or_insert_with(|| node.clone());
                }
            }
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

    /// Makes a node a voter, as the disk it was last seen with.
    fn add_voter(&mut self, id: NodeId, seen: &impl Fn(NodeId) -> Option<Incarnation>) -> Result<(), Refusal> {
        if !self.nodes.contains_key(&id) {
            return Err(Refusal::UnknownNode(id));
        }
        let incarnation = seen(id).or(self.voters.get(&id).copied()).ok_or(Refusal::NotSeenYet(id))?;
        self.voters.insert(id, incarnation);
        Ok(())
    }
}
