//! What must hold of one node's state between any two steps. Run after every step of every script, test and
//! simulation; cheap enough to run always.

use crate::core::{Core, Role};
use crate::message::Phase;
use crate::progress::Mode;

impl Core {
    /// Asserts the invariants of this node's state.
    ///
    /// # Panics
    /// If one does not hold: that is a bug in the core, not in what a peer, a file or a user said.
    pub fn check_state(&self) {
        self.check_log();
        self.check_memberships();
        match &self.role {
            Role::Follower(follower) => {
                assert!(follower.accepted <= self.log.last().index, "only entries in the log are accepted");
                assert!(follower.leader != Some(self.config.node_id), "no node follows itself");
                if let Some(ack) = follower.ack {
                    assert!(ack.matched.index <= self.log.last().index, "only entries in the log are acknowledged");
                }
            }
            Role::Candidate(candidate) => {
                assert_eq!(candidate.vote.leader_id.node_id, self.config.node_id, "a node campaigns for itself");
                assert!(!candidate.vote.committed, "a campaign's vote is not committed");
                if candidate.phase == Phase::Real {
                    assert_eq!(candidate.vote, self.vote, "a candidate votes for itself");
                }
            }
            Role::Leader(_) => self.check_leader(),
        }
        self.check_transfer();
    }

    fn check_log(&self) {
        let last = self.log.last();
        self.disk.check(last);
        assert!(self.commit <= last.index, "only entries in the log are committed");
        assert!(self.commit >= self.log.purged().index, "only committed entries are purged");
        assert!(self.applied <= self.apply_sent, "only what was handed out is applied");
        assert!(self.apply_sent.index <= self.commit, "only committed entries are applied");
        assert!(self.log.purged().index <= self.snapshot.last.index, "only what a durable snapshot covers is purged");
        assert!(self.snapshot.last.index <= self.commit, "only committed entries are in a snapshot");
        let leader_ids = self.log.runs().map(|run| run.leader_id);
        assert!(leader_ids.is_sorted(), "leader ids never go back along a log");
        assert!(
            last.leader_id <= self.vote.leader_id || self.config.mode == crate::LeaderIdMode::Standard,
            "the log holds no entry of a leader beyond the vote"
        );
        assert!(last.leader_id.term <= self.vote.leader_id.term, "the log holds no entry of a later term");
    }

    fn check_memberships(&self) {
        assert!(!self.memberships.is_empty(), "a membership is always in force");
        let indexes = self.memberships.iter().map(|(id, _)| id.index);
        assert!(indexes.is_sorted(), "memberships are in log order");
        assert!(self.in_force().0.index <= self.log.last().index, "the membership in force is in the log");
    }

    fn check_transfer(&self) {
        let Some(transfer) = self.transfer else { return };
        assert!(transfer.to != self.config.node_id, "no node hands over to itself");
        assert_eq!(transfer.from.node_id, self.config.node_id, "a node hands over what it led");
        if self.transferring_to().is_some() {
            assert_eq!(transfer.last, self.log.last(), "nothing is appended while leadership is handed over");
        }
    }

    fn check_leader(&self) {
        let Role::Leader(leader) = &self.role else { return };
        assert!(self.vote.committed, "a leader's vote is committed");
        assert_eq!(self.vote.leader_id.node_id, self.config.node_id, "a leader leads under its own vote");
        assert!(leader.first_own <= self.log.last().index, "a leadership starts with a blank entry");
        let own = self.memberships.iter().filter(|(id, _)| id.index >= leader.first_own && id.index > self.commit);
        assert!(own.count() <= 1, "a leader appends a membership only when its last one is committed (law 12)");
        let ids = leader.peers.iter().map(|peer| peer.id);
        assert!(ids.is_sorted(), "peers are in order");
        for peer in &leader.peers {
            assert!(peer.id != self.config.node_id, "a leader is not its own peer");
            assert!(peer.matched.index < peer.next, "what is matched is not sent again");
            assert!(peer.next <= self.log.last().index + 1, "only entries in the log are sent");
            assert!(peer.acked <= leader.round, "only rounds that began are acknowledged");
            if let Mode::Replicate { inflight, .. } = &peer.mode {
                let spans = inflight.iter().map(|sent| (sent.first, sent.last));
                assert!(spans.is_sorted(), "appends in flight are in log order");
                assert!(inflight.len() <= self.config.max_inflight_appends, "the message window is kept");
            }
        }
    }
}
