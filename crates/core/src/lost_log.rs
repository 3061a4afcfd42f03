//! A voter whose disk was lost: what its new, blank disk does (law 15).
//!
//! A voter is a node id *and* an incarnation, so a blank disk under an old node id is not the voter that was lost:
//! its grants and acknowledgements count for nobody. What remains is to tell the operator. Every append says under
//! which incarnation the leader's membership names the receiver; a receiver that holds nothing at all, and is named as
//! another disk, has lost its log. One whose log was given up to damage holds nothing either, and is not blank: it knows
//! what it promised, and gets the rest from its leader without anybody's help (docs/design/003).
//!
//! The memberships in the log would not do: the first entries of a long log may name a disk that was replaced, by the
//! book, long ago.

use crate::bug::{Bug, bug};
use crate::config::OnLostLog;
use crate::core::Core;
use crate::event::{Actions, Note};
use crate::ids::{Incarnation, LogId, NodeId};
use crate::membership::Membership;
use crate::message::AppendHeader;

impl Core {
    /// Whether this node, told by a leader that its log is lost, stops here. Asked before anything of the message is
    /// taken in: not the vote, not the entries.
    pub(crate) fn halts_for_lost_log(&mut self, from: NodeId, header: &AppendHeader, out: &mut Actions) -> bool {
        if self.log.last().max(self.promised_end) != LogId::ZERO {
            return false;
        }
        let Some(named) = header.named.filter(|named| *named != self.config.incarnation) else { return false };
        match self.config.on_lost_log {
            OnLostLog::Halt if bug(Bug::GoesOnWithoutItsLog) => false,
            OnLostLog::Halt => {
                self.halted = true;
                out.note(Note::LostLog { named });
                true
            }
            OnLostLog::Rejoin => {
                if self.leader() != Some(from) {
                    out.note(Note::Rejoining { named });
                }
                false
            }
        }
    }
}

impl Membership {
    /// The disks under which `id` votes: one, or in a joint change that replaces its disk, two.
    pub(crate) fn disks_of(&self, id: NodeId) -> Vec<Incarnation> {
        let mut disks: Vec<Incarnation> = self.configs.iter().filter_map(|set| set.voters.get(&id).copied()).collect();
        disks.dedup();
        disks
    }
}
