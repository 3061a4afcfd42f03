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
            "peer speaks from another disk than its membership names; its word is not counted: remove it and add it again"
        ),
        Note::Impossible { from, what } => {
            tracing::error!(node, group, from = from.0, what, "impossible message ignored")
        }
        Note::SnapshotInstalled(log_id) => tracing::info!(node, group, %log_id, "installed a snapshot"),
        Note::Halted => tracing::error!(node, group, "halted after a failed write"),
    }
}
