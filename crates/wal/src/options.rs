//! How a log is opened.

use std::time::Duration;

use quorate_core::{Incarnation, NodeId};

use crate::segment::{DATA_AT, TRAILER_BYTES};

/// Least length of a segment: its header, its marks and 4 KiB of data.
pub const MIN_SEGMENT_BYTES: u64 = DATA_AT + 4096 + TRAILER_BYTES;

/// What opening does about damage that is more than a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnDamage {
    /// Refuses, and changes nothing.
    Refuse,
    /// Keeps the whole front of every group's log and what was promised beyond it
    /// ([`GroupState::promised_end`](crate::GroupState::promised_end)), for peers to repair; puts the damaged segments
    /// aside, in the directory `damaged`.
    Mend,
}

/// How a log is opened. The defaults are good for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Whose directory it is, or becomes if it is blank.
    pub node_id: NodeId,
    /// Length of a segment, in bytes, a multiple of 512: 64 MiB. A write that does not fit gets a larger one.
    pub segment_bytes: u64,
    /// How long after its last write an idle log says that everything is durable: 5 ms. Until then damage to the
    /// last batch of a log that stopped is taken for a batch that was torn.
    pub idle_mark_after: Duration,
    /// How long a log without space for a segment waits before it tries again: 200 ms.
    pub retry_full_after: Duration,
    /// What is done about damage: refused.
    pub on_damage: OnDamage,
    /// The disk's incarnation, if the directory is blank; drawn from the system's random numbers if not given. For
    /// tests and simulators.
    pub incarnation: Option<Incarnation>,
    /// The token of this start, not 0; drawn from the system's random numbers if not given. For tests and simulators.
    pub start_token: Option<u64>,
    /// The time written down if the directory is blank, in seconds since the Unix epoch; the system's if not given.
    pub created: Option<u64>,
}

impl WalOptions {
    /// The defaults, for a node.
    pub fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            segment_bytes: 64 << 20,
            idle_mark_after: Duration::from_millis(5),
            retry_full_after: Duration::from_millis(200),
            on_damage: OnDamage::Refuse,
            incarnation: None,
            start_token: None,
            created: None,
        }
    }
}
