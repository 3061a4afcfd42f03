//! What must hold of one node's state between any two steps; what must hold of a step is in `check_step.rs`. Run after
//! every step of every script, test and simulation; cheap enough to run always.

use crate::core::{Core, Role};
use crate::invariant::Invariant as I;
use crate::leader::Leader;
use crate::message::Phase;
use crate::progress::{Mode, Progress};

impl Core {
    /// Asserts the invariants of this node's state.
    ///
    /// # Panics
    /// If one does not hold: that is a bug in the core, not in what a peer, a file or a user said.
    pub fn check_state(&self) {
        self.check_log();
        self.disk.check(self.log.last());
        self.check_memberships();
        self.promises.check();
        match &self.role {
            Role::Follower(follower) => {
                let last = self.log.last().index;
                I::FollowsAnother.check(follower.leader != Some(self.config.node_id));
                I::AcceptedInLog.check(follower.accepted <= last);
                I::AcceptedInLog.check(follower.ack.is_none_or(|ack| ack.matched.index <= last));
            }
            Role::Candidate(candidate) => {
                let for_itself = candidate.vote.leader_id.node_id == self.config.node_id;
                I::CampaignsForItself.check(for_itself && !candidate.vote.committed);
                I::CandidateVote.check(match candidate.phase {
                    Phase::Real => candidate.vote == self.vote,
                    Phase::Pre => candidate.vote.exceeds(self.vote, self.config.mode),
                });
                let voters = candidate.grants.iter().enumerate();
                let twice = voters.into_iter().any(|(i, grant)| candidate.grants[..i].contains(grant));
                I::GrantsCountedOnce.check(!twice);
            }
            Role::Leader(leader) => self.check_leader(leader),
        }
        self.check_transfer();
    }

    fn check_log(&self) {
        let last = self.log.last();
        let purged = self.log.purged();
        I::CommitInLog.check(self.commit <= last.index);
        I::PurgedBehindSnapshot.check(purged.index <= self.commit && purged.index <= self.snapshot.last.index);
        I::SnapshotIsCommitted.check(self.snapshot.last.index <= self.commit);
        I::AppliedIsCommitted.check(self.applied <= self.apply_sent && self.apply_sent.index <= self.commit);
        I::AppliedIsDurable.check(self.apply_sent.index <= self.disk.index().max(self.snapshot.last.index));
        let mut runs = self.log.runs().map(|run| run.leader_id);
        I::LeaderIdsGrow.check(runs.by_ref().is_sorted());
        let beyond = last.leader_id > self.vote.leader_id && self.config.mode == crate::LeaderIdMode::Advanced;
        I::LogWithinVote.check(!beyond && last.leader_id.term <= self.vote.leader_id.term);
        I::SizesEndWithLog.check(self.pieces.end() == last.index);
    }

    fn check_memberships(&self) {
        let indexes = self.memberships.iter().map(|(id, _)| id.index);
        I::MembershipsInOrder.check(!self.memberships.is_empty() && indexes.is_sorted());
        I::MembershipInLog.check(self.in_force().0.index <= self.log.last().index);
    }

    fn check_transfer(&self) {
        let Some(transfer) = self.transfer else { return };
        let me = self.config.node_id;
        I::HandsOverItsOwn.check(transfer.to != me && transfer.from.node_id == me);
        let may_lead = |to| self.membership().configs.iter().all(|set| set.voters.contains_key(&to));
        I::HandsOverToAVoter.check(self.transferring_to().is_none_or(may_lead));
        I::NothingWhileTransferring.check(self.transferring_to().is_none() || transfer.last == self.log.last());
    }

    fn check_leader(&self, leader: &Leader) {
        let me = self.config.node_id;
        let vote = self.vote;
        I::LeadsUnderOwnVote.check(vote.committed && vote.leader_id.node_id == me);
        I::LeaderOwesNoLease.check(self.contact.is_none());
        let (first, purged, last) = (leader.first_own, self.log.purged().index, self.log.last().index);
        let starts = self.log.at(first).is_none_or(|id| first <= purged || id.leader_id == vote.leader_id);
        let before = self.log.at(first.saturating_sub(1)).is_none_or(|id| id.leader_id < vote.leader_id);
        I::LeadershipStarts.check(first <= last && starts && before);
        let own = self.memberships.iter().filter(|(id, _)| id.index >= first && id.index > self.commit);
        I::OneOpenMembership.check(own.count() <= 1);
        let removed = self.in_force().0.index <= self.commit && first <= self.commit && !self.is_voter();
        I::RemovedLeaderLeaves.check(!removed || self.transferring_to().is_some() || self.halted);
        let others = self.membership().nodes.keys().filter(|id| **id != me);
        I::PeersAreMembers.check(leader.peers.iter().map(|peer| &peer.id).eq(others));
        leader.peers.iter().for_each(|peer| self.check_peer(leader, peer));
        if let Some((round, read_at)) = leader.reads.under_way() {
            I::RoundsBegan.check(round <= leader.round);
            I::ReadsAtCommit.check(read_at.index <= self.commit && read_at.index >= first);
            I::ReadsWaitForARound.check(self.round_reached().is_none_or(|reached| reached < round));
        }
        let reached = self.membership().commit_reached(|id, disk| match (id, disk) == (me, self.config.incarnation) {
            true => Some(self.disk.index()),
            false => leader.peer_as(id, disk).map(|peer| peer.matched.index),
        });
        I::CommitsWhatIsReached.check(reached.is_none_or(|reached| reached < first || reached <= self.commit));
    }

    fn check_peer(&self, leader: &Leader, peer: &Progress) {
        let held = peer.matched.index <= self.log.purged().index || self.log.holds(peer.matched);
        I::ProgressInLog.check(held && peer.matched.index < peer.next && peer.next <= self.log.last().index + 1);
        I::RoundsBegan.check(peer.acked <= leader.round);
        I::SnapshotIsLacked.check(!peer.has_its_snapshot());
        if let Mode::Replicate { inflight, .. } = &peer.mode {
            I::InflightInWindow.check(inflight.iter().map(|sent| (sent.first, sent.last)).is_sorted());
            I::InflightInWindow.check(inflight.iter().all(|sent| sent.first <= sent.last && sent.last < peer.next));
        }
    }
}
