//! A message of the protocol on its way between two nodes.

use quorate_core::{GroupId, Message};
use smallvec::SmallVec;

use crate::Batch;

/// Batches of entries, most often one.
pub type Batches = SmallVec<[Batch; 1]>;

/// A message of the protocol on its way, with the entries that travel beside it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The group it is for.
    pub group: GroupId,
    /// What it says.
    pub message: Message,
    /// The entries of a [`Message::Append`]; empty otherwise.
    pub batches: Batches,
}
