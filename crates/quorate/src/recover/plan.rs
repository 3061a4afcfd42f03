//! Deciding: from which directory, whether it is allowed, and what may be lost. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use quorate_core::{ClusterId, GroupId, Incarnation, LogId, Membership, NodeId};

use super::error::list;
use super::{FoundDirectory, FoundGroup, PeerAnswer, RecoverError};

/// What a recovery does. Printed, it says so to an operator, with what may be lost.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was found, by node id.
    pub found: Vec<FoundDirectory>,
    /// Who was asked, where, and what was heard.
    pub peers: BTreeMap<NodeId, (String, PeerAnswer)>,
    /// The node that becomes the only voter.
    pub survivor: NodeId,
    /// Its directory, the only one that is changed.
    pub directory: PathBuf,
    /// The cluster as it is.
    pub cluster: ClusterId,
    /// The cluster afterwards: one recovery more.
    pub recovered: ClusterId,
    /// What becomes of each of the survivor's groups.
    pub groups: Vec<GroupPlan>,
    /// Groups that other directories hold and the survivor's does not: they are lost.
    pub lost_groups: Vec<(GroupId, NodeId)>,
}

/// What becomes of a group.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// The group.
    pub group: GroupId,
    /// The membership in force at the survivor.
    pub membership: Membership,
    /// The survivor's log is kept up to here: all of it.
    pub kept: LogId,
    /// Up to this index it is known that entries were committed.
    pub known_committed: u64,
    /// The greatest term on any of the directories: the forced membership's is above it.
    pub seen_term: u64,
    /// Other directories whose logs end later, or that know entries to be committed which this one lacks, and where they
    /// end: what they have more is lost.
    pub longer: Vec<(NodeId, LogId)>,
}

pub(super) fn plan(
    found: Vec<FoundDirectory>,
    peers: BTreeMap<NodeId, (String, PeerAnswer)>,
    survivor: Option<NodeId>,
    lost: &BTreeSet<NodeId>,
) -> Result<Plan, RecoverError> {
    let Some(cluster) = found.first().map(|one| one.cluster) else { return Err(RecoverError::NoDirectories) };
    check_not_recovered(cluster, &peers)?;
    let chosen = choose(&found, survivor)?;
    check_no_quorum(&found, chosen, &peers, lost)?;
    let mut groups = Vec::new();
    for (group, state) in &chosen.groups {
        let Some((_, membership)) = state.membership() else { continue };
        if !membership.nodes.contains_key(&chosen.node) {
            return Err(RecoverError::NotMember { group: *group, node: chosen.node });
        }
        let others = found.iter().filter_map(|one| Some((one.node, one.groups.get(group)?)));
        let seen_term =
            others.clone().map(|(_, other)| other.vote.leader_id.term.max(other.last_log_id.leader_id.term)).max();
        let more = |other: &FoundGroup| other.last_log_id > state.last_log_id || !state.holds(other.snapshot);
        let longer = others.filter(|(_, other)| more(other));
        groups.push(GroupPlan {
            group: *group,
            membership: membership.clone(),
            kept: state.last_log_id,
            known_committed: state.snapshot.index,
            seen_term: seen_term.unwrap_or(0),
            longer: longer.map(|(node, other)| (node, other.last_log_id)).collect(),
        });
    }
    let lost_groups = found
        .iter()
        .flat_map(|one| one.groups.keys().map(move |group| (*group, one.node)))
        .filter(|(group, _)| !chosen.groups.contains_key(group))
        .collect();
    let recovered = cluster.recovered().ok_or(RecoverError::Exhausted)?;
    let (survivor, directory) = (chosen.node, chosen.directory.clone());
    Ok(Plan { survivor, directory, cluster, recovered, groups, lost_groups, peers, found })
}

/// A member of a later recovery means that all this was done before, elsewhere.
fn check_not_recovered(cluster: ClusterId, peers: &BTreeMap<NodeId, (String, PeerAnswer)>) -> Result<(), RecoverError> {
    for (node, (_, answer)) in peers {
        let PeerAnswer::Answers { cluster: theirs, .. } = answer else { continue };
        if theirs.base() == cluster.base() && theirs.recovery() > cluster.recovery() {
            return Err(RecoverError::AlreadyRecovered { node: *node, recovery: theirs.recovery() });
        }
    }
    Ok(())
}

/// The directory with the log of every group that ends last, of those that hold all that is known to be committed, or the one that the operator takes.
fn choose(found: &[FoundDirectory], survivor: Option<NodeId>) -> Result<&FoundDirectory, RecoverError> {
    if let Some(node) = survivor {
        return found.iter().find(|one| one.node == node).ok_or(RecoverError::UnknownSurvivor(node));
    }
    let ids: BTreeSet<GroupId> = found.iter().flat_map(|one| one.groups.keys().copied()).collect();
    // A log may end later, by log id, and lack what a leader after it committed: its tail is of a leader that came to
    // nothing (dissertation figure 3.7). What a snapshot covers is known to be committed, and is not given up for that.
    let holds_all = |state: &FoundGroup, group: &GroupId| {
        found.iter().filter_map(|other| other.groups.get(group)).all(|other| state.holds(other.snapshot))
    };
    let last = |one: &FoundDirectory, group: &GroupId| {
        one.groups.get(group).filter(|state| holds_all(state, group)).map(|state| state.last_log_id)
    };
    let best_of = |group: &GroupId| found.iter().filter_map(|one| last(one, group)).max();
    let complete = |one: &&FoundDirectory| ids.iter().all(|group| last(one, group) == best_of(group));
    if let Some(one) = found.iter().find(complete) {
        return Ok(one);
    }
    let best = ids.iter().filter_map(|group| {
        let (end, node) = found.iter().filter_map(|one| Some((last(one, group)?, one.node))).max()?;
        Some((*group, node, end))
    });
    Err(RecoverError::NoSingleBest { best: best.collect() })
}

/// Refuses while the members that answer, together with the directories at hand, are a quorum of any group.
fn check_no_quorum(
    found: &[FoundDirectory],
    chosen: &FoundDirectory,
    peers: &BTreeMap<NodeId, (String, PeerAnswer)>,
    lost: &BTreeSet<NodeId>,
) -> Result<(), RecoverError> {
    let there = |id: NodeId, incarnation: Incarnation| match peers.get(&id).map(|(_, answer)| answer) {
        None => found.iter().any(|one| (one.node, one.incarnation) == (id, incarnation)),
        Some(PeerAnswer::Answers { cluster, incarnation: disk }) => *cluster == chosen.cluster && *disk == incarnation,
        Some(PeerAnswer::Unclear(_)) => !lost.contains(&id),
        Some(PeerAnswer::Nobody(_) | PeerAnswer::NoAddress | PeerAnswer::OtherNode(_)) => false,
    };
    for (group, state) in found.iter().flat_map(|one| &one.groups) {
        for (_, membership) in &state.memberships {
            let reached = |id, incarnation| there(id, incarnation).then_some(());
            if membership.elect_reached(reached).is_none() || membership.commit_reached(reached).is_none() {
                continue;
            }
            let voters = membership.configs.iter().flat_map(|set| &set.voters);
            let nodes: BTreeSet<NodeId> =
                voters.filter(|(id, incarnation)| there(**id, **incarnation)).map(|(id, _)| *id).collect();
            let unclear = |id: &NodeId| matches!(peers.get(id), Some((_, PeerAnswer::Unclear(_))));
            return Err(RecoverError::QuorumReachable {
                group: *group,
                unclear: nodes.iter().copied().filter(unclear).collect(),
                stopped: nodes.iter().copied().filter(|id| !peers.contains_key(id)).collect(),
                nodes: nodes.into_iter().collect(),
            });
        }
    }
    Ok(())
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cluster {}, recovery {}", self.cluster.base(), self.cluster.recovery())?;
        for one in &self.found {
            writeln!(f, "\n{}: node {}, disk {}", one.directory.display(), one.node, one.incarnation)?;
            for (group, state) in &one.groups {
                writeln!(
                    f,
                    "  group {group}: vote {}, log from {} to {}, snapshot up to {}",
                    state.vote,
                    state.purged.index + 1,
                    state.last_log_id,
                    state.snapshot.index
                )?;
                if let Some((log_id, membership)) = state.membership() {
                    writeln!(f, "    membership {log_id}: {membership}")?;
                }
            }
        }
        if !self.peers.is_empty() {
            f.write_str("\nasked:\n")?;
        }
        for (node, (address, answer)) in &self.peers {
            write!(f, "  node {node}: ")?;
            match answer {
                PeerAnswer::Nobody(text) => writeln!(f, "does not answer: {text}")?,
                PeerAnswer::NoAddress => writeln!(f, "has no address")?,
                PeerAnswer::OtherNode(other) => writeln!(f, "node {other} answers at {address}")?,
                PeerAnswer::Unclear(text) => writeln!(f, "something else answers at {address}: {text}")?,
                PeerAnswer::Answers { cluster, .. } if *cluster == ClusterId(0) => writeln!(f, "answers, blank")?,
                PeerAnswer::Answers { cluster, incarnation } => {
                    writeln!(f, "answers from {address}: disk {incarnation} of cluster {cluster}")?
                }
            }
        }
        self.fmt_decision(f)
    }
}

impl Plan {
    fn fmt_decision(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (survivor, recovery) = (self.survivor, self.recovered.recovery());
        writeln!(f, "\nplan: node {survivor} becomes the only voter of recovery {recovery}")?;
        writeln!(f, "  in {}: every group, and nothing in any other directory", self.directory.display())?;
        for group in &self.groups {
            let (kept, known) = (group.kept.index, group.known_committed);
            writeln!(f, "  group {}: the log is kept up to {}", group.group, group.kept)?;
            if kept > known {
                writeln!(
                    f,
                    "    entries {} to {kept} may or may not have been committed: now they will be",
                    known + 1
                )?;
            }
            let disk = self.found.iter().find(|one| one.node == survivor).map(|one| one.incarnation);
            if !disk.is_some_and(|disk| group.membership.is_voter_as(survivor, disk)) {
                writeln!(f, "    node {survivor} did not vote here: it may lack much of what was committed")?;
            }
            for (node, last) in &group.longer {
                writeln!(f, "    LOST: what node {node} has more, up to {last}")?;
            }
            let others: BTreeSet<NodeId> = group.membership.voter_ids();
            let others: Vec<NodeId> =
                others.into_iter().filter(|id| self.found.iter().all(|one| one.node != *id)).collect();
            if !others.is_empty() {
                // They may have had another leader, of a later term, after whatever this log ends with.
                let instead = match kept > known {
                    true => format!("in place of entries {} to {kept}, or after them", known + 1),
                    false => format!("after entry {kept}"),
                };
                writeln!(f, "    MAY BE LOST: what {} committed {instead}", list(&others))?;
            }
        }
        for (group, node) in &self.lost_groups {
            writeln!(f, "  LOST: group {group}, of which only node {node} has anything")?;
        }
        Ok(())
    }

    /// What to do once the plan is applied.
    pub fn next_steps(&self) -> String {
        let members = self.groups.iter().flat_map(|group| group.membership.nodes.keys().copied());
        let others: BTreeSet<NodeId> = members.filter(|id| *id != self.survivor).collect();
        let others: Vec<NodeId> = others.into_iter().collect();
        let (survivor, recovery) = (self.survivor, self.recovered.recovery());
        let mut text = format!("next:\n  1. start node {survivor}: it leads alone, as recovery {recovery}\n");
        if let [first, ..] = others[..] {
            text += &format!(
                "  2. keep {} stopped as they are: with their old directories they are refused, and if a quorum of them \
                 came back it would serve the old cluster\n  \
                 3. empty the directory of each, or take new machines, and start them: they join as learners\n  \
                 4. when they have caught up make them voters: change_membership(AddVoterIds([{first}])), and so on\n",
                list(&others)
            );
        }
        text
    }
}
