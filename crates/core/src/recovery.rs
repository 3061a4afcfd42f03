//! What replaces the membership when its quorum is lost for good (law 16).
//!
//! Nothing here runs in a live node: an operator has the entry written to the disk of a stopped one. It is the one
//! entry that no quorum agreed to, so what surrounds it must keep everyone else out: another incarnation, so that no
//! word of the old disk counts, and another recovery epoch of the whole directory, so that nodes of before are refused.

use std::collections::BTreeMap;

use crate::bug::{Bug, bug};
use crate::ids::{Incarnation, LeaderId, LogId, NodeId, Vote};
use crate::membership::{Membership, Node, Retain};
use crate::quorum::VoterSet;

/// The entry that makes a survivor the only voter, and the vote that has to be on disk before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedMembership {
    /// Refuses everything up to the entry's leader id.
    pub vote: Vote,
    /// The entry that the forced one follows: the end of the survivor's log, which is kept whole.
    pub prev: LogId,
    /// The forced entry.
    pub log_id: LogId,
    /// What it says.
    pub membership: Membership,
}

impl ForcedMembership {
    /// The entry for the survivor `node`, which votes from now on as `incarnation`. `last` is the end of its log,
    /// `current` the membership in force there, `seen` the greatest term on any disk that was looked at. `None` if
    /// there is no greater term, or no such node in the membership.
    ///
    /// One voter, even if several nodes survive: the others' logs may differ from this one, and a disk that still
    /// believes in the old membership must not vote. They come back blank, by the ordinary way of new nodes.
    pub fn new(
        node: NodeId,
        incarnation: Incarnation,
        seen: u64,
        last: LogId,
        current: &Membership,
    ) -> Option<ForcedMembership> {
        let above = if bug(Bug::RecoversUnderASeenTerm) { 0 } else { 1 };
        let term = seen.max(last.leader_id.term).checked_add(above).filter(|term| *term < u64::MAX)?;
        let index = last.index.checked_add(1).filter(|index| *index < u64::MAX)?;
        let leader_id = LeaderId { term, node_id: node };
        let member: Node = current.nodes.get(&node)?.clone();
        let membership = Membership {
            configs: vec![VoterSet::majority(BTreeMap::from([(node, incarnation)]))],
            nodes: BTreeMap::from([(node, member)]),
            settings: current.settings,
            retain: Retain::Remove,
        };
        let vote = Vote::uncommitted(leader_id);
        Some(ForcedMembership { vote, prev: last, log_id: LogId::new(leader_id, index), membership })
    }
}
