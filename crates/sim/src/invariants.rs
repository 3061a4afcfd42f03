//! What must hold in a cluster after every event (dissertation figure 3.2), and what acknowledgements promise about
//! disks. Each check looks only at what the event may have changed.

use std::collections::BTreeMap;

use quorate_core::{Core, Incarnation, LeaderId, LeaderIdMode, LogId, LogIds, NodeId};
use quorate_testkit::quorums::commits;
use quorate_wire::Batches;

use crate::digest::Digest;

use crate::process::{Seen, Shadow};

/// An entry that stood in a log: under which leader, after which, with which content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stood {
    leader_id: LeaderId,
    prev: LogId,
    content: u64,
}

/// What every disk must hold, also disks that are gone.
pub(crate) type Shadows = BTreeMap<(NodeId, Incarnation), Shadow>;

/// A history of the cluster, and the claims that it must never contradict.
pub(crate) struct Invariants {
    mode: LeaderIdMode,
    /// By index.
    stood: Vec<Vec<Stood>>,
    /// By index: what is committed, and the leader under which that was first seen.
    committed: Vec<Option<(LogId, LeaderId)>>,
    /// Who led, in which run.
    leaders: BTreeMap<LeaderId, (NodeId, u64)>,
    /// Checks made.
    pub(crate) checks: u64,
}

type Check = Result<(), String>;

impl Invariants {
    pub(crate) fn new(mode: LeaderIdMode) -> Self {
        Self { mode, stood: Vec::new(), committed: Vec::new(), leaders: BTreeMap::new(), checks: 0 }
    }

    /// The greatest index known to be committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.len().saturating_sub(1) as u64
    }

    /// The greatest index that any log ever held.
    pub(crate) fn furthest(&self) -> u64 {
        self.stood.len().saturating_sub(1) as u64
    }

    /// Whether somebody led under this id.
    pub(crate) fn has_led(&self, leader: LeaderId) -> bool {
        self.leaders.contains_key(&leader)
    }

    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// Log matching (dissertation 3.5): one log id names one entry, and one entry before it. By induction logs that
    /// share a log id are equal up to it.
    pub(crate) fn on_append(&mut self, mut prev: LogId, batches: &Batches) -> Check {
        for entry in batches.iter().flat_map(quorate_wire::Batch::iter) {
            self.checks += 1;
            let mut content = Digest::default();
            content.word(entry.kind as u64);
            content.word(entry.time);
            content.bytes(entry.payload);
            let stood = Stood { leader_id: entry.log_id.leader_id, prev, content: content.value() as u64 };
            let at = entry.log_id.index as usize;
            if at != prev.index as usize + 1 {
                return Err(format!("log matching: {} is appended after {prev}", entry.log_id));
            }
            if self.stood.len() <= at {
                self.stood.resize(at + 1, Vec::new());
            }
            match self.stood[at].iter().find(|known| known.leader_id == stood.leader_id) {
                None => self.stood[at].push(stood),
                Some(known) if *known == stood => {}
                Some(known) if known.prev != prev => {
                    let (id, elsewhere) = (entry.log_id, known.prev);
                    return Err(format!("log matching: {id} follows {prev} here and {elsewhere} elsewhere"));
                }
                Some(_) => return Err(format!("log matching: {} has another content elsewhere", entry.log_id)),
            }
            prev = entry.log_id;
        }
        Ok(())
    }

    /// Checks what a step of this node may have broken, and returns what was seen of it.
    pub(crate) fn after_step(
        &mut self,
        core: &Core,
        boot: u64,
        before: Seen,
        shadows: &Shadows,
    ) -> Result<Seen, String> {
        self.checks += 1;
        core.check_state();
        let id = core.config().node_id;
        let leading = core.is_leader().then(|| core.vote().leader_id);
        let seen = Seen {
            vote: core.vote(),
            commit: core.commit(),
            applied: core.applied().index,
            leading,
            last: core.last_log_id().index,
            membership: core.membership_log_id(),
            transfers: core.transferring_to().is_some(),
        };
        if seen.commit < before.commit {
            return Err(format!("commit of node {id} goes back from {} to {}", before.commit, seen.commit));
        }
        if seen.applied < before.applied {
            return Err(format!("applied of node {id} goes back from {} to {}", before.applied, seen.applied));
        }
        if seen.vote != before.vote && !seen.vote.at_least(before.vote, self.mode) {
            return Err(format!("vote of node {id} goes back from {} to {}", before.vote, seen.vote));
        }
        if let Some(leader_id) = leading
            && leading != before.leading
        {
            self.on_leader(core, leader_id, boot)?;
        }
        if seen.commit > before.commit {
            self.on_commit(core, before, shadows)?;
        }
        Ok(seen)
    }

    /// Election safety and leader completeness (dissertation figure 3.2), and law 7.
    fn on_leader(&mut self, core: &Core, leader_id: LeaderId, boot: u64) -> Check {
        self.checks += 1;
        let id = core.config().node_id;
        if leader_id.node_id != id {
            return Err(format!("election safety: node {id} leads as {leader_id}"));
        }
        let run = (id, boot);
        let first = *self.leaders.entry(leader_id).or_insert(run);
        if first != run {
            return Err(format!("law 7: node {id} leads again as {leader_id} after a restart"));
        }
        let term = LeaderId::new(leader_id.term, 0)..=LeaderId::new(leader_id.term, u64::MAX);
        if self.mode == LeaderIdMode::Standard && self.leaders.range(term).count() > 1 {
            return Err(format!("election safety: a second leader in term {}", leader_id.term));
        }
        // By log matching the last entry committed under an earlier leader stands for all of them.
        let earlier = self.committed.iter().rev().flatten().find(|(_, under)| *under < leader_id);
        match earlier {
            Some((entry, under)) if entry.index > core.log().purged().index && !core.log().holds(*entry) => {
                Err(format!("leader completeness: leader {leader_id} lacks {entry}, committed under {under}"))
            }
            _ => Ok(()),
        }
    }

    /// A lost quorum was recovered from this log, which `forced` was appended to. Returns the first index from which on what
    /// was committed is lost, and how many entries that are: the least that can be, as the log is kept whole. Leader ids
    /// from the forced one on are another cluster's, and may be taken again.
    pub(crate) fn on_recovery(&mut self, log: &LogIds, forced: LogId) -> Result<(u64, u64), String> {
        self.checks += 1;
        let purged = log.purged();
        let kept =
            |id: LogId| if id.index == purged.index { id == purged } else { id.index < purged.index || log.holds(id) };
        let known = self.committed.iter().flatten().map(|(id, _)| *id);
        let from = known.clone().filter(|id| kept(*id)).map(|id| id.index).max().unwrap_or(0).max(purged.index) + 1;
        if let Some(id) = known.clone().find(|id| id.index < from && !kept(*id)) {
            return Err(format!("recovery: the survivor lacks {id}, which is committed, and holds later ones"));
        }
        let lost = known.filter(|id| id.index >= from).count() as u64;
        self.committed.truncate(from as usize);
        for (_, under) in self.committed.iter_mut().flatten() {
            *under = (*under).min(forced.leader_id);
        }
        for (index, stood) in self.stood.iter_mut().enumerate() {
            let id = log.at(index as u64);
            stood.retain(|one| index as u64 <= purged.index || id.is_some_and(|id| id.leader_id == one.leader_id));
        }
        self.leaders.retain(|leader, _| *leader < forced.leader_id);
        Ok((from, lost))
    }

    /// What is committed never changes; a leader commits only entries of its own, and only what a commit quorum of its
    /// membership has on disk.
    fn on_commit(&mut self, core: &Core, before: Seen, shadows: &Shadows) -> Check {
        let (id, upto, under) = (core.config().node_id, core.commit(), core.vote().leader_id);
        if self.committed.len() <= upto as usize {
            self.committed.resize(upto as usize + 1, None);
        }
        for index in before.commit + 1..=upto {
            self.checks += 1;
            let Some(entry) = core.log().at(index) else {
                if index > core.log().purged().index {
                    return Err(format!("node {id} commits index {index}, which its log does not hold"));
                }
                continue;
            };
            match &mut self.committed[index as usize] {
                Some((known, _)) if *known != entry => {
                    return Err(format!("committed never changes: node {id} commits {entry} over {known}"));
                }
                Some(_) => {}
                place => *place = Some((entry, under)),
            }
        }
        if !core.is_leader() {
            return Ok(());
        }
        let Some(newest) = core.log().at(upto) else { return Ok(()) };
        if newest.leader_id != under {
            return Err(format!("figure 3.7: leader {under} commits {newest}, which is not its own"));
        }
        let durable = |id, incarnation| shadows.get(&(id, incarnation)).is_some_and(|disk| disk.holds(newest));
        // A change that waited for this commit is appended in the same step: then the membership before it decided.
        let memberships = [core.membership(), &core.membership_at(before.last).1];
        if !memberships.iter().any(|membership| commits(membership, durable)) {
            return Err(format!(
                "acknowledged is durable: leader {under} commits {newest} without a commit quorum that has it on disk"
            ));
        }
        Ok(())
    }

    /// The whole cluster at the end: every committed entry is in the log of every node that has got so far.
    pub(crate) fn check_whole(&self, core: &Core) -> Check {
        let id = core.config().node_id;
        for (entry, _) in self.committed.iter().flatten().take_while(|(entry, _)| entry.index <= core.commit()) {
            if entry.index > core.log().purged().index && !core.log().holds(*entry) {
                return Err(format!("node {id} lacks {entry}, which is committed"));
            }
        }
        Ok(())
    }

    /// A node that comes back holds what its disk promised, and votes no lower (laws 7, 8, 9).
    pub(crate) fn on_boot(core: &Core, possible: &[Shadow]) -> Check {
        let (id, last) = (core.config().node_id, core.log().last());
        let fits = |disk: &Shadow| {
            let log = disk.log.last() == last && core.log().runs().eq(tail_of(disk, core.log().purged().index));
            log && (disk.vote == core.vote())
        };
        // The log's reset to an installed snapshot may have been cut off; the vote was not.
        let from_snapshot = core.log().runs().next().is_none()
            && last != LogId::ZERO
            && possible.iter().all(|disk| disk.log.last().index <= last.index)
            && possible.iter().any(|disk| disk.vote == core.vote());
        if possible.iter().any(fits) || from_snapshot {
            return Ok(());
        }
        let durable = &possible[0];
        Err(format!(
            "node {id} comes back with log end {last} and vote {}, but its disk promised {} and {}",
            core.vote(),
            durable.log.last(),
            durable.vote
        ))
    }
}

impl Invariants {
    /// A node whose disk was damaged comes back with its vote, with the front of a log that it had, and promises as much as
    /// its disk had (docs/design/001).
    pub(crate) fn on_mended_boot(core: &Core, possible: &[Shadow]) -> Check {
        let (id, last, durable) = (core.config().node_id, core.log().last(), &possible[0]);
        let promised = core.lost_entries().map_or(last, |lost| lost.last);
        if durable.log.last() > promised {
            let end = durable.log.last();
            return Err(format!(
                "a promise lost: node {id} comes back mended, and promises {promised} instead of {end}"
            ));
        }
        if !possible.iter().any(|disk| disk.held_the_front(core.log())) {
            let runs: Vec<_> = core.log().runs().collect();
            return Err(format!(
                "a log mixed up: node {id} comes back mended, with entries {runs:?} that its disk never held so, but {}",
                durable.log.last()
            ));
        }
        if possible.iter().all(|disk| disk.vote != core.vote()) {
            let (vote, before) = (core.vote(), durable.vote);
            return Err(format!("a vote lost: node {id} comes back mended, with vote {vote} instead of {before}"));
        }
        Ok(())
    }
}

/// The runs of a log after `purged`.
fn tail_of(disk: &Shadow, purged: u64) -> impl Iterator<Item = quorate_core::Run> + '_ {
    disk.log.runs().filter(move |run| run.last > purged)
}

#[cfg(test)]
mod tests;
