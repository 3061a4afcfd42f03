//! What must hold of the nodes together: dissertation figure 3.2, and that nothing committed is lost.

use quorate_core::{LeaderId, LeaderIdMode, LogId, LogIds, NodeId};

use crate::local::{Broken, Local, incarnation};

/// What happened so far, as far as later states must agree with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// The committed entries from index 1, and the leader that was known when each was first seen committed.
    committed: Vec<(LogId, LeaderId)>,
    /// Who led, and in which run.
    leaders: Vec<(LeaderId, u8)>,
}

/// Whether two logs that hold the same entry are equal up to it (log matching, dissertation 3.5).
fn match_each_other(one: &LogIds, other: &LogIds) -> bool {
    let mut same = true;
    for index in 1..=one.last().index.min(other.last().index) {
        let equal = one.at(index) == other.at(index);
        if equal && !same {
            return false;
        }
        same = equal;
    }
    true
}

impl History {
    /// Takes in the state of a node after its step, beside the others.
    pub(crate) fn after_step(&mut self, node: &Local, nodes: &[&Local], mode: LeaderIdMode) -> Result<(), Broken> {
        for other in nodes {
            for (one, two) in [(node.core.log(), other.core.log()), (&node.durable, &other.durable)] {
                if !match_each_other(one, two) {
                    return Err(format!("log matching: {one:?} of node {} and {two:?} of node {}", node.id, other.id));
                }
            }
        }
        self.check_leader(node, mode)?;
        self.check_commit(node)?;
        for leader in nodes.iter().filter(|node| node.core.is_leader()) {
            self.check_completeness(leader)?;
        }
        self.check_kept(nodes)
    }

    /// Election safety (dissertation figure 3.2), and that nobody leads twice as the same leader (law 7).
    fn check_leader(&mut self, node: &Local, mode: LeaderIdMode) -> Result<(), Broken> {
        if !node.core.is_leader() {
            return Ok(());
        }
        let leader_id = node.core.vote().leader_id;
        if leader_id.node_id != node.id {
            return Err(format!("election safety: node {} leads as {leader_id}", node.id));
        }
        for (other, boot) in &self.leaders {
            if *other == leader_id && *boot != node.boot {
                return Err(format!("law 7: node {} leads again as {leader_id} after a restart", node.id));
            }
            if *other != leader_id && other.term == leader_id.term && mode == LeaderIdMode::Standard {
                return Err(format!("election safety: {leader_id} and {other} lead in one term"));
            }
        }
        if !self.leaders.contains(&(leader_id, node.boot)) {
            self.leaders.push((leader_id, node.boot));
            self.leaders.sort_unstable();
        }
        Ok(())
    }

    /// One index, one entry, for ever (state machine safety, dissertation 3.6.3).
    fn check_commit(&mut self, node: &Local) -> Result<(), Broken> {
        for index in 1..=node.core.commit() {
            let Some(entry) = node.core.log().at(index) else {
                return Err(format!("node {} commits index {index}, which its log does not hold", node.id));
            };
            match self.committed.get(index as usize - 1) {
                Some((known, _)) if *known != entry => {
                    return Err(format!("state machine safety: node {} commits {entry} over {known}", node.id));
                }
                Some(_) => {}
                None => self.committed.push((entry, node.core.vote().leader_id)),
            }
        }
        Ok(())
    }

    /// A leader holds what was committed under earlier leaders (dissertation 3.6.3).
    fn check_completeness(&self, leader: &Local) -> Result<(), Broken> {
        let leader_id = leader.core.vote().leader_id;
        for (entry, under) in &self.committed {
            if *under < leader_id && !leader.core.log().holds(*entry) {
                return Err(format!("leader completeness: {leader_id} lacks {entry}, committed under {under}"));
            }
        }
        Ok(())
    }

    /// What is committed stays on the disks of a commit quorum, whatever crashes; a disk that lost it to damage stands for
    /// it as long as its node promises it (docs/design/001).
    fn check_kept(&self, nodes: &[&Local]) -> Result<(), Broken> {
        let Some((last, _)) = self.committed.last() else { return Ok(()) };
        let Some(knows) = nodes.iter().find(|node| node.core.log().holds(*last)) else {
            return Err(format!("no node holds {last}, which is committed"));
        };
        let (_, membership) = knows.core.membership_at(last.index);
        let holds = |id: NodeId, _| {
            let node = nodes.iter().find(|node| node.id == id && incarnation(id) == incarnation(node.id))?;
            let promises = node.core.lost_entries().is_some_and(|lost| lost.last >= *last);
            (node.durable.holds(*last) || promises).then_some(())
        };
        match membership.commit_reached(holds) {
            Some(()) => Ok(()),
            None => Err(format!("{last} is committed, but not on the disks of a commit quorum of {membership}")),
        }
    }
}
