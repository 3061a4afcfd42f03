//! The core's notes as tracing events; `events/events.md` lists them.

use quorate_core::{GroupId, NodeId, Note, PeerState, VoteAnswer, VoteReply};
use tracing::{debug, error, info, warn};

use crate::events::{ELECTION, MEMBERSHIP, REPLICATION, SNAPSHOT, STORAGE};

pub(crate) fn trace(node: NodeId, group: GroupId, note: &Note) {
    let (node, group) = (node.0, group.0);
    match note {
        Note::Campaigning { phase, vote } => {
            debug!(name: "campaign_started", target: ELECTION, node, group, ?phase, %vote, "campaigning");
        }
        Note::BecameLeader(leader_id) => {
            info!(name: "leader_elected", target: ELECTION, node, group, %leader_id, "became leader");
        }
        Note::SteppedDown { leader_id, reason } => {
            info!(name: "leader_stepped_down", target: ELECTION, node, group, %leader_id, ?reason, "stepped down");
        }
        Note::Following(leader_id) => {
            info!(name: "leader_followed", target: ELECTION, node, group, %leader_id, "following");
        }
        Note::Granted { phase, vote } => {
            debug!(name: "vote_granted", target: ELECTION, node, group, ?phase, %vote, "granted a vote");
        }
        Note::PeerState { peer, state } => peer_state(node, group, *peer, *state),
        Note::Truncated { after } => info!(
            name: "log_truncated", target: REPLICATION, node, group, %after, "removed conflicting entries from the log"
        ),
        Note::MembershipInForce(log_id) => {
            info!(name: "membership_in_force", target: MEMBERSHIP, node, group, %log_id, "membership in force");
        }
        Note::OtherIncarnation { peer, seen } => warn!(
            name: "peer_has_other_disk", target: MEMBERSHIP, node, group, peer = peer.0, %seen,
            "peer speaks from another disk than before; its word does not count for the voter it was: once it has \
             caught up, make it a voter again with `change_membership(AddVoterIds([{}]))`",
            peer.0
        ),
        Note::LostLog { named } => error!(
            name: "log_lost", target: MEMBERSHIP, node, group, %named,
            "this disk is blank, but the cluster knows this node as a voter with another disk: its log is lost"
        ),
        Note::Rejoining { named } => warn!(
            name: "rejoining", target: MEMBERSHIP, node, group, %named,
            "this disk is blank, but the cluster knows this node as a voter with another disk: it follows as a learner \
             and votes again after `change_membership(AddVoterIds([{node}]))`"
        ),
        Note::OlderCopy { peer, held } => error!(
            name: "peer_is_older_copy", target: MEMBERSHIP, node, group, peer = peer.0, %held,
            "peer denies entries that it acknowledged: an older copy of its disk was put back, and its word is not \
             counted. Replace its disk: stop it, empty its data directory, start it with `on_lost_log = Rejoin`, then \
             `change_membership(AddVoterIds([{}]))`",
            peer.0
        ),
        Note::PeerLostEntries { peer, hint } => warn!(
            name: "peer_lost_entries", target: REPLICATION, node, group, peer = peer.0, %hint,
            "peer lost entries to damage; it is sent them again"
        ),
        Note::Repaired { promised_end } => info!(
            name: "log_repaired", target: STORAGE, node, group, %promised_end,
            "what damage took from the log is there again"
        ),
        Note::Impossible { from, what } => error!(
            name: "impossible_message", target: REPLICATION, node, group, peer = from.0, what,
            "impossible message ignored"
        ),
        Note::BoundByLease => info!(
            name: "campaign_held_back", target: ELECTION, node, group,
            "promised the leader a lease: does not campaign yet"
        ),
        Note::ClockJumped => warn!(
            name: "clock_jumped", target: ELECTION, node, group,
            "the monotonic and the wall clock disagree (the machine slept, or its clock was set): leases start again"
        ),
        Note::SnapshotInstalled(last) => {
            info!(name: "snapshot_installed", target: SNAPSHOT, node, group, %last, "installed a snapshot");
        }
        Note::Halted => {
            error!(name: "write_failed", target: STORAGE, node, group, "halted after a failed write");
        }
    }
}

fn peer_state(node: u64, group: u64, peer: NodeId, state: PeerState) {
    let peer = peer.0;
    match state {
        PeerState::Probe | PeerState::Replicate => {
            debug!(name: "peer_state", target: REPLICATION, node, group, peer, ?state, "replication state");
        }
        PeerState::Snapshot => info!(
            name: "peer_needs_snapshot", target: REPLICATION, node, group, peer,
            "peer lags behind the begin of the log: it needs a snapshot"
        ),
    }
}

/// This node does not vote for another.
pub(crate) fn refused(node: NodeId, group: GroupId, to: NodeId, reply: &VoteReply) {
    if reply.answer == VoteAnswer::Granted {
        return;
    }
    let VoteReply { phase, requested, answer, .. } = reply;
    debug!(
        name: "vote_refused", target: ELECTION, node = node.0, group = group.0, ?phase, vote = %requested, peer = to.0,
        why = ?answer, "refused a vote"
    );
}

/// Another does not vote for this node.
pub(crate) fn denied(node: NodeId, group: GroupId, from: NodeId, reply: &VoteReply) {
    if reply.answer == VoteAnswer::Granted {
        return;
    }
    let VoteReply { phase, requested, answer, .. } = reply;
    debug!(
        name: "vote_denied", target: ELECTION, node = node.0, group = group.0, ?phase, vote = %requested,
        peer = from.0, why = ?answer, "was refused a vote"
    );
}
