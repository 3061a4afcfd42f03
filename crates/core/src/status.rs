//! A read-only copy of a core's state, for metrics, operators and tests.

use std::fmt;

use crate::core::{Core, Role};
use crate::event::PeerState;
use crate::ids::{Incarnation, LogId, NodeId, Vote};
use crate::log::Span;
use crate::membership::Membership;
use crate::time::Instant;

/// What a node does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// Is replicated to, or waits to be; does not vote.
    Learner,
    /// Votes, and follows or waits for a leader.
    Follower,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped: a write failed, or its log is lost.
    Halted,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerState::Learner => "learner",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Leader => "leader",
            ServerState::Halted => "halted",
        })
    }
}

/// A copy of a core's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the node does.
    pub state: ServerState,
    /// Its vote.
    pub vote: Vote,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The end of its log.
    pub last_log_id: LogId,
    /// What damage took from its log and is not there again.
    pub lost_entries: Option<Span>,
    /// Its log is durable up to this index.
    pub durable: u64,
    /// Entries up to this index are committed, as far as it knows.
    pub commit: u64,
    /// What its state machine has applied.
    pub applied: LogId,
    /// The end of its newest snapshot.
    pub snapshot: LogId,
    /// The last purged entry.
    pub purged: LogId,
    /// The log id of the membership in force.
    pub membership_log_id: LogId,
    /// The membership in force.
    pub membership: Membership,
    /// On a leader: its peers.
    pub peers: Vec<PeerStatus>,
    /// On a leader: a commit quorum followed it after this moment.
    pub quorum_acked: Option<Instant>,
    /// On a leader: until when its lease holds, if the cluster uses leases.
    pub lease_until: Option<Instant>,
}

/// A peer, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// The disk it last spoke from.
    pub incarnation: Option<Incarnation>,
    /// It denied what it had acknowledged, so its word does not count: an older copy of its disk was put back (law 15).
    pub older_copy: bool,
    /// How it is replicated to.
    pub state: PeerState,
    /// It holds its log durably up to here.
    pub matched: LogId,
    /// The next entry it will be sent.
    pub next: u64,
    /// Appends with entries that were sent and not acknowledged.
    pub inflight_appends: usize,
    /// Bytes of entries sent and not acknowledged.
    pub inflight_bytes: u64,
    /// It did not answer what it was sent, so it is sent entries after growing pauses only.
    pub backing_off: bool,
    /// When the last round that it acknowledged began.
    pub acked_at: Option<Instant>,
    /// It is near enough to the end of the log to become a voter, and knows what it may have promised: a change that makes
    /// it one is not refused as [`NotCaughtUp`](crate::Refusal::NotCaughtUp).
    pub caught_up: bool,
}

impl Core {
    /// What this node does.
    pub fn state(&self) -> ServerState {
        match &self.role {
            _ if self.halted => ServerState::Halted,
            Role::Leader(_) => ServerState::Leader,
            Role::Candidate(_) => ServerState::Candidate,
            Role::Follower(_) if self.is_voter() => ServerState::Follower,
            Role::Follower(_) => ServerState::Learner,
        }
    }

    /// A copy of the state.
    pub fn status(&self) -> Status {
        let peers = match &self.role {
            Role::Leader(leader) => leader
                .peers
                .iter()
                .map(|peer| PeerStatus {
                    id: peer.id,
                    incarnation: peer.incarnation,
                    older_copy: peer.regressed,
                    state: peer.state(),
                    matched: peer.matched,
                    next: peer.next,
                    inflight_appends: peer.inflight_appends(),
                    inflight_bytes: peer.inflight_bytes(),
                    backing_off: peer.is_backed_off(),
                    acked_at: peer.acked_at,
                    caught_up: peer.incarnation.is_some_and(|disk| self.lag(peer.id, disk).is_none()),
                })
                .collect(),
            Role::Follower(_) | Role::Candidate(_) => Vec::new(),
        };
        let quorum_acked = match &self.role {
            Role::Leader(leader) => leader.quorum_acked,
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        Status {
            state: self.state(),
            vote: self.vote,
            leader: self.leader(),
            last_log_id: self.log.last(),
            lost_entries: self.lost_entries(),
            durable: self.disk.index(),
            commit: self.commit,
            applied: self.applied,
            snapshot: self.snapshot.last,
            purged: self.log.purged(),
            membership_log_id: self.membership_log_id(),
            membership: self.membership().clone(),
            peers,
            quorum_acked,
            lease_until: self.lease_until(),
        }
    }

    /// The log ids of the log.
    pub fn log(&self) -> &crate::LogIds {
        &self.log
    }

    /// The log is durable up to this index.
    pub fn durable(&self) -> u64 {
        self.disk.index()
    }
}
