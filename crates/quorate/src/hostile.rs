//! Doors for `quorate-fuzz`: what reads bytes of other nodes and of snapshots. Not part of the stable API.

use std::io;

use bytes::Bytes;
use quorate_wire::EntryKind;

use crate::RaftStateMachine;
use crate::call::Call;
use crate::group;
use crate::session::{SessionTable, check_session_entry};

/// Reads a call; whether it is one.
///
/// # Panics
/// If it does not read the same once it is written again.
pub fn call(bytes: Bytes) -> bool {
    let Some(call) = Call::decode(bytes) else { return false };
    assert_eq!(Call::decode(call.encode()).as_ref(), Some(&call), "a call reads the same once it is written again");
    true
}

/// Reads an entry of a client as the node does that is asked to propose it.
///
/// # Errors
/// Why it is refused.
///
/// # Panics
/// If what is accepted says that its command starts behind its end.
pub fn session_entry(entry: EntryKind, payload: &Bytes) -> Result<(), String> {
    let command_at = check_session_entry(entry, payload)?;
    assert!(command_at.is_none_or(|at| at <= payload.len()), "a command starts inside of its entry");
    Ok(())
}

/// A restored snapshot.
#[derive(Debug)]
pub struct Restored<S> {
    /// The state machine.
    pub state: S,
    /// The time of the last entry in it.
    pub time: u64,
    /// The sessions.
    pub sessions: SessionTable,
}

/// Restores a snapshot's content, as a node does that starts or was sent one.
///
/// # Errors
/// What is wrong with it.
pub fn restore<S: RaftStateMachine>(mut bytes: &[u8]) -> io::Result<Restored<S>> {
    let group::Restored { state, time, sessions } = group::restore(&mut bytes)?;
    Ok(Restored { state, time, sessions })
}

/// Writes a snapshot's content, as a node does that builds one.
///
/// # Errors
/// If the state machine cannot be written.
pub fn content<S: RaftStateMachine>(restored: &Restored<S>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    group::write_header(&mut bytes, restored.time, &restored.sessions)?;
    restored.state.snapshot(&mut bytes)?;
    Ok(bytes)
}

/// A call of each kind.
pub fn calls() -> Vec<Bytes> {
    crate::call::samples().iter().map(Call::encode).collect()
}
