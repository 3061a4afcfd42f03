//! One group on one node: the pump around the driver, the apply queue, and who waits for what.

mod apply;
mod book;
mod clock;
mod commands;
mod content;
mod node;
mod proposals;
mod reads;
mod terms;
mod waits;
mod window;

pub(crate) use apply::{ApplyParts, ApplyQueue, Shell, Work, install_into};
pub(crate) use book::Book;
pub use book::Checkpoint;
#[cfg(feature = "sim")]
pub(crate) use clock::ClockWatch;
pub use commands::Commands;
#[cfg(feature = "sim")]
pub use commands::Shown;
pub(crate) use content::{Restored, Watched, read_header, restore, restored_by, write_header};
#[cfg(feature = "sim")]
pub(crate) use node::blocking::outgoing;
pub(crate) use node::standby::{Standby, wait_awake};
pub(crate) use node::{Applies, Clock, Node, NodeParts, Reports, WallClock};
pub(crate) use proposals::{Duty, Joined, ProposalQueue, Proposals, Runs, Taken, entry_bytes};
pub(crate) use reads::{Freshness, ReadBatch, ReadDuty};
pub(crate) use terms::{CommitSlot, CommitWaits, OnCommit, Terms, Timer, forget};
pub(crate) use waits::{Applied, Failure, Fired, KEPT_ROOM, Outcome, Responder, WaitList, Waits};
pub(crate) use window::{Permit, Room};
