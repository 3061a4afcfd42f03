//! What must hold in a cluster after every step: dissertation figure 3.2, and what messages promise about
//! disks (laws 3, 7, 8, 15).

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{Incarnation, LeaderId, LeaderIdMode, LogId, Membership, Message, NodeId, Phase, Vote, VoteAnswer};

use crate::quorums::commits;
use crate::world::{Entry, Node, Payload, View};

/// What was seen of a running node at its last step.
#[derive(Clone)]
struct Seen {
    boot: u64,
    vote: Vote,
    commit: u64,
    applied: u64,
    membership: Membership,
    /// While it leads: as whom, and the end of its log.
    leading: Option<(LeaderId, LogId)>,
}

/// A history of the cluster, and the claims that it must never contradict.
pub(crate) struct Invariants {
    mode: LeaderIdMode,
    /// Every entry that ever stood in a log, with the one before it.
    entries: BTreeMap<LogId, (LogId, Payload)>,
    /// Who led, in which run.
    leaders: BTreeMap<LeaderId, (NodeId, u64)>,
    /// What is committed, and under which leader that was first seen.
    committed: BTreeMap<u64, (LogId, LeaderId)>,
    applied: BTreeMap<u64, (LogId, Payload)>,
    /// Which disks ever held an entry.
    durable: BTreeSet<(LogId, NodeId, Incarnation)>,
    /// The newest snapshot that a disk ever held.
    snapshots: BTreeMap<(NodeId, Incarnation), u64>,
    /// Standard mode: whom a disk voted for in a term.
    grants: BTreeMap<(NodeId, Incarnation, u64), NodeId>,
    seen: BTreeMap<NodeId, Seen>,
}

type Check = Result<(), String>;

impl Invariants {
    pub(crate) fn new(mode: LeaderIdMode) -> Self {
        Self {
            mode,
            entries: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            applied: BTreeMap::new(),
            durable: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            grants: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// The last index that any node ever knew to be committed.
    pub(crate) fn newest_commit(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Takes in what disks hold from the beginning.
    pub(crate) fn learn_disks(&mut self, nodes: &BTreeMap<NodeId, Node>) {
        for node in nodes.values() {
            self.learn_disk(node);
        }
    }

    /// A lost quorum was recovered from a log that ends at `last`: what was committed after it is given up, and named.
    pub(crate) fn recovered(&mut self, last: u64) -> Vec<String> {
        self.applied.retain(|index, _| *index <= last);
        let lost = self.committed.split_off(&(last + 1));
        lost.values().map(|(id, _)| id.to_string()).collect()
    }

    fn learn_disk(&mut self, node: &Node) {
        let place = (node.id, node.incarnation());
        self.durable.extend(node.disk.log.entries.iter().map(|entry| (entry.id, place.0, place.1)));
        if let Some(snapshot) = &node.disk.snapshot {
            let newest = self.snapshots.entry(place).or_default();
            *newest = (*newest).max(snapshot.meta.last_log_id.index);
        }
    }

    /// Whether this disk ever held the entry, itself or in a snapshot.
    fn ever_held(&self, node: NodeId, incarnation: Incarnation, id: LogId) -> bool {
        self.durable.contains(&(id, node, incarnation))
            || self.snapshots.get(&(node, incarnation)).is_some_and(|upto| *upto >= id.index)
    }

    /// Checks everything that a step of `node` may have broken.
    pub(crate) fn after_step(&mut self, nodes: &BTreeMap<NodeId, Node>, node: &Node) -> Check {
        self.learn_disk(node);
        self.check_log_matching(&node.log.entries, node.log.purged)?;
        self.check_log_matching(&node.disk.log.entries, node.disk.log.purged)?;
        let Some(view) = node.view() else {
            self.seen.remove(&node.id);
            return Ok(());
        };
        let before = self.seen.get(&node.id).filter(|seen| seen.boot == node.boot).cloned();
        self.check_view(node, &view)?;
        if let Some(before) = &before {
            self.check_monotone(node, &view, before)?;
        }
        self.check_leader(node, &view, before.as_ref())?;
        let from = before.as_ref().map_or(view.snapshot.index, |seen| seen.commit);
        // One step may commit by a membership and put the next one in force.
        let then = before.as_ref().map(|seen| &seen.membership);
        self.check_commit(node, &view, from, then)?;
        self.check_leader_completeness(nodes)?;
        let leading = view.leads.map(|leader_id| (leader_id, view.last));
        let View { vote, commit, applied, membership, .. } = view;
        let seen = Seen { boot: node.boot, vote, commit, applied: applied.index, membership, leading };
        self.seen.insert(node.id, seen);
        Ok(())
    }

    /// Log matching (dissertation 3.5): one log id names one entry, and one entry before it. By induction logs
    /// that share a log id are equal up to it.
    fn check_log_matching(&mut self, entries: &[Entry], purged: LogId) -> Check {
        let mut prev = purged;
        for entry in entries {
            let (known_prev, known) = self.entries.entry(entry.id).or_insert_with(|| (prev, entry.payload.clone()));
            if *known_prev != prev {
                return Err(format!("log matching: {} follows {prev} here and {known_prev} elsewhere", entry.id));
            }
            if *known != entry.payload {
                return Err(format!("log matching: {} is {} here and {known} elsewhere", entry.id, entry.payload));
            }
            prev = entry.id;
        }
        Ok(())
    }

    /// What the core says of itself agrees with what the world saw it do.
    fn check_view(&self, node: &Node, view: &View) -> Check {
        let id = node.id;
        if view.last != node.log.last() {
            return Err(format!("node {id} says its log ends at {}, but submitted {}", view.last, node.log.last()));
        }
        if view.applied.index > view.commit {
            return Err(format!("node {id} applied {} but committed only {}", view.applied, view.commit));
        }
        if view.commit > view.last.index {
            return Err(format!("node {id} committed {} but its log ends at {}", view.commit, view.last));
        }
        if !node.disk.holds(node.machine.applied) && node.machine.applied != LogId::ZERO {
            let applied = node.machine.applied;
            return Err(format!("node {id} applied {applied}, which its disk does not hold"));
        }
        let snapshot = node.disk.snapshot.as_ref().map_or(0, |snapshot| snapshot.meta.last_log_id.index);
        if node.disk.log.purged.index > snapshot {
            return Err(format!("node {id} purged {} without a snapshot of it", node.disk.log.purged));
        }
        Ok(())
    }

    /// Commit, apply and vote never go back within a run.
    fn check_monotone(&self, node: &Node, view: &View, before: &Seen) -> Check {
        let id = node.id;
        if view.commit < before.commit {
            return Err(format!("commit of node {id} goes back from {} to {}", before.commit, view.commit));
        }
        if view.applied.index < before.applied {
            return Err(format!("applied of node {id} goes back from {} to {}", before.applied, view.applied));
        }
        if !view.vote.at_least(before.vote, self.mode) {
            return Err(format!("vote of node {id} goes back from {} to {}", before.vote, view.vote));
        }
        Ok(())
    }

    /// Election safety, leader append-only (dissertation figure 3.2), and law 7.
    fn check_leader(&mut self, node: &Node, view: &View, before: Option<&Seen>) -> Check {
        let Some(leader_id) = view.leads else { return Ok(()) };
        if leader_id.node_id != node.id {
            return Err(format!("election safety: node {} leads as {leader_id}", node.id));
        }
        let run = (node.id, node.boot);
        let first = *self.leaders.entry(leader_id).or_insert(run);
        if first != run {
            return Err(format!("law 7: node {} leads again as {leader_id} after a restart", node.id));
        }
        let same_term = self.leaders.range(LeaderId::new(leader_id.term, 0)..=LeaderId::new(leader_id.term, u64::MAX));
        if self.mode == LeaderIdMode::Standard && same_term.count() > 1 {
            return Err(format!("election safety: a second leader in term {}", leader_id.term));
        }
        if let Some((led_as, end)) = before.and_then(|seen| seen.leading)
            && led_as == leader_id
            && end.index > node.log.purged.index
            && !node.log.holds(end)
        {
            return Err(format!("leader append-only: leader {leader_id} lost its entry {end}"));
        }
        Ok(())
    }

    /// State machine safety, as far as commit: one index, one entry; and a leader commits only what a commit
    /// quorum of its membership has on disk.
    fn check_commit(&mut self, node: &Node, view: &View, from: u64, then: Option<&Membership>) -> Check {
        for index in from + 1..=view.commit {
            let Some(entry) = node.log.id_at(index) else {
                if index > node.log.purged.index {
                    return Err(format!("node {} commits index {index}, which its log does not hold", node.id));
                }
                continue;
            };
            let (known, _) = *self.committed.entry(index).or_insert((entry, view.vote.leader_id));
            if known != entry {
                return Err(format!("state machine safety: node {} commits {entry} over {known}", node.id));
            }
        }
        let Some(leader_id) = view.leads else { return Ok(()) };
        let Some(newest) = node.log.id_at(view.commit).filter(|_| view.commit > from) else { return Ok(()) };
        if newest.leader_id != leader_id {
            return Err(format!("figure 3.7: leader {leader_id} commits {newest}, which is not its own"));
        }
        let held = |id, incarnation| self.ever_held(id, incarnation, newest);
        if !then.into_iter().chain([&view.membership]).any(|membership| commits(membership, held)) {
            return Err(format!("leader {leader_id} commits {newest} without a commit quorum that has it on disk"));
        }
        Ok(())
    }

    /// Leader completeness (dissertation 3.6): a leader holds what was committed under earlier leaders.
    fn check_leader_completeness(&self, nodes: &BTreeMap<NodeId, Node>) -> Check {
        for node in nodes.values() {
            let Some(leader_id) = node.view().and_then(|view| view.leads) else { continue };
            for (index, (entry, under)) in &self.committed {
                let covered = *index <= node.log.purged.index || node.log.holds(*entry);
                if *under < leader_id && !covered {
                    return Err(format!(
                        "leader completeness: leader {leader_id} lacks {entry}, committed under {under}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// State machine safety (dissertation 3.6.3): every machine applies the same entry at an index.
    pub(crate) fn on_apply(&mut self, node: NodeId, entry: &Entry) -> Check {
        let known = self.applied.entry(entry.id.index).or_insert_with(|| (entry.id, entry.payload.clone()));
        if *known != (entry.id, entry.payload.clone()) {
            return Err(format!(
                "state machine safety: node {node} applies {}={} where another applied {}={}",
                entry.id, entry.payload, known.0, known.1
            ));
        }
        Ok(())
    }

    /// What a message promises is on the sender's disk when it leaves.
    pub(crate) fn on_send(&mut self, node: &Node, message: &Message) -> Check {
        match message {
            Message::VoteRequest(request) if request.phase == Phase::Real => {
                if node.disk.vote != request.vote {
                    return Err(format!("law 3: node {} asks for {} before it is durable", node.id, request.vote));
                }
                if !node.disk.holds(request.last_log_id) {
                    let last = request.last_log_id;
                    return Err(format!("law 3: node {} asks for votes with {last}, not yet durable", node.id));
                }
                self.check_one_grant(node, request.vote.leader_id)
            }
            Message::VoteReply(reply) if reply.phase == Phase::Real && reply.answer == VoteAnswer::Granted => {
                if !node.disk.vote.at_least(reply.requested, self.mode) {
                    return Err(format!("law 8: node {} grants {} before it is durable", node.id, reply.requested));
                }
                self.check_one_grant(node, reply.requested.leader_id)
            }
            Message::AppendReply(reply) => match reply.answer {
                quorate_core::AppendAnswer::Accepted { matched } if !self.holds_or_held(node, matched) => {
                    Err(format!("law 8: node {} acknowledges {matched} before it is durable", node.id))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// An acknowledgement held back by a later truncation is still true of the past (LAWS, "found sound").
    fn holds_or_held(&self, node: &Node, id: LogId) -> bool {
        id == LogId::ZERO
            || node.disk.log.purged == id
            || node.disk.holds(id)
            || self.ever_held(node.id, node.incarnation(), id)
    }

    fn check_one_grant(&mut self, node: &Node, leader_id: LeaderId) -> Check {
        if self.mode == LeaderIdMode::Advanced {
            return Ok(());
        }
        let key = (node.id, node.incarnation(), leader_id.term);
        let granted = *self.grants.entry(key).or_insert(leader_id.node_id);
        match granted == leader_id.node_id {
            true => Ok(()),
            false => Err(format!("node {} votes for {granted} and {leader_id} in one term", node.id)),
        }
    }
}
