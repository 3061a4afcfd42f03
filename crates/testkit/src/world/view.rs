//! What a core says of itself, as far as scripts and invariants look at it.

use quorate_core::{Core, LeaderId, LogId, Membership, NodeId, PeerStatus, ServerState, Vote};

/// A read-only copy of a core's state.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) vote: Vote,
    pub(crate) role: &'static str,
    pub(crate) leader: Option<NodeId>,
    /// While it leads: as whom.
    pub(crate) leads: Option<LeaderId>,
    pub(crate) last: LogId,
    pub(crate) durable: u64,
    pub(crate) commit: u64,
    pub(crate) applied: LogId,
    pub(crate) snapshot: LogId,
    pub(crate) purged: LogId,
    pub(crate) membership: Membership,
    pub(crate) membership_log_id: LogId,
    pub(crate) peers: Vec<PeerStatus>,
}

impl View {
    pub(crate) fn of(core: &Core) -> Self {
        let status = core.status();
        let leads = core.is_leader().then_some(status.vote.leader_id);
        Self {
            vote: status.vote,
            role: role(status.state),
            leader: status.leader,
            leads,
            last: status.last_log_id,
            durable: status.durable,
            commit: status.commit,
            applied: status.applied,
            snapshot: status.snapshot,
            purged: status.purged,
            membership: status.membership,
            membership_log_id: status.membership_log_id,
            peers: status.peers,
        }
    }
}

fn role(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Halted => "halted",
    }
}
