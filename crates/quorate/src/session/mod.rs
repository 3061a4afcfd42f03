//! Client sessions: commands that are applied exactly once, whatever is lost or repeated on the way (dissertation
//! 6.3, law 22).
//!
//! `table.rs` decides, at apply, the same on every node. `client.rs` is what a caller holds: it numbers commands and
//! writes them again, under the same number, until it knows what became of them; `serials.rs` has the numbers.
//! `submit.rs` is one such attempt after the other.

mod client;
mod serials;
mod submit;
mod table;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use quorate_core::LogId;
use quorate_wire::{
    EntryKind, MAX_PAYLOAD_BYTES, SESSION_HEADER_BYTES, SessionHeader, SessionOpening, decode_session_ids,
};

pub use client::{PendingWrite, Session, SessionOptions};
pub use serials::Serials;
pub use table::{Answer, LogPlace, SessionLimits, SessionRefusal, SessionTable, Verdict};

/// What became of an entry about a session that has no response of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionOutcome {
    /// The session was opened, kept alive or closed.
    Done(LogId),
    /// The command was applied there, and its response cannot be encoded or decoded.
    Unreadable(LogId),
    /// Nothing was done.
    Refused(SessionRefusal),
}

/// Whether this entry of a client may enter a log; returns where in it the state machine's command starts, if it has
/// one.
pub(crate) fn check_session_entry(entry: EntryKind, payload: &Bytes) -> Result<Option<usize>, String> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(format!("it has {} bytes, an entry at most {MAX_PAYLOAD_BYTES}", payload.len()));
    }
    let command = match entry {
        EntryKind::Command => Ok(Some(0)),
        EntryKind::SessionCommand => SessionHeader::decode(payload).map(|_| Some(SESSION_HEADER_BYTES)),
        EntryKind::OpenSession => SessionOpening::decode(payload).map(|_| None),
        EntryKind::KeepSessions | EntryKind::CloseSessions => decode_session_ids(payload).map(|_| None),
        EntryKind::Blank if payload.is_empty() => Ok(None),
        EntryKind::Blank => return Err("a blank entry is empty".into()),
        EntryKind::Membership => return Err("no client writes such entries".into()),
    };
    command.map_err(|error| error.to_string())
}
