//! The core's notes as tracing events.

use quorate_core::{GroupId, NodeId, Note};

pub(super) fn trace(node: NodeId, group: GroupId, note: &Note) {
    let (node, group) = (node.0, group.0);
    match note {
        Note::Campaigning { phase, vote } => tracing::debug!(node, group, ?phase, %vote, "campaigning"),
        Note::BecameLeader(leader_id) => tracing::info!(node, group, %leader_id, "became leader"),
        Note::SteppedDown { leader_id, reason } => tracing::info!(node, group, %leader_id, ?reason, "stepped down"),
        Note::Following(leader_id) => tracing::info!(node, group, %leader_id, "following"),
        Note::Granted { phase, vote } => tracing::debug!(node, group, ?phase, %vote, "granted a vote"),
        Note::PeerState { peer, state } => tracing::debug!(node, group, peer = peer.0, ?state, "replication state"),
        Note::Truncated { after } => tracing::info!(node, group, %after, "removed conflicting entries from the log"),
        Note::MembershipInForce(log_id) => tracing::info!(node, group, %log_id, "membership in force"),
        Note::OtherIncarnation { peer, seen } => tracing::warn!(
            node,
            group,
            peer = peer.0,
            %seen,
        "peer speaks from another disk than before; its word does not count for the voter it was: once it has caught up, \
             make it a voter again with `change_membership(AddVoterIds([{}]))`",
            peer.0
        ),
        Note::LostLog { named } => tracing::error!(
            node,
            group,
            %named,
            "this disk is blank, but the cluster knows this node as a voter with another disk: its log is lost"
        ),
        Note::Rejoining { named } => tracing::warn!(
            node,
            group,
            %named,
            "this disk is blank, but the cluster knows this node as a voter with another disk: it follows as a learner \
             and votes again after `change_membership(AddVoterIds([{node}]))`"
        ),
        Note::OlderCopy { peer, held } => tracing::error!(
            node,
            group,
            peer = peer.0,
            %held,
            "peer denies entries that it acknowledged: an older copy of its disk was put back, and its word is not \
             counted. Replace its disk: stop it, empty its data directory, start it with `on_lost_log = Rejoin`, then \
             `change_membership(AddVoterIds([{}]))`",
            peer.0
        ),
        Note::PeerLostEntries { peer, hint } => {
            tracing::warn!(node, group, peer = peer.0, %hint, "peer lost entries to damage; it is sent them again");
        }
        Note::Repaired { promised_end } => {
            tracing::info!(node, group, %promised_end, "what damage took from the log is there again");
        }
        Note::Impossible { from, what } => {
            tracing::error!(node, group, from = from.0, what, "impossible message ignored")
        }
        Note::BoundByLease => tracing::info!(node, group, "promised the leader a lease: does not campaign yet"),
        Note::ClockJumped => tracing::warn!(
            node,
            group,
            "the monotonic and the wall clock disagree (the machine slept, or its clock was set): leases start again"
        ),
        Note::SnapshotInstalled(log_id) => tracing::info!(node, group, %log_id, "installed a snapshot"),
        Note::Halted => tracing::error!(node, group, "halted after a failed write"),
    }
}
