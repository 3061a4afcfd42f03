//! Doors for `quorate-fuzz`: what reads bytes of other nodes and of snapshots. Not part of the stable API.

use std::io;

use bytes::Bytes;
use quorate_core::{ClusterId, GroupId, Incarnation, LeaderId, LogId, NodeId};
use quorate_wire::EntryKind;

use crate::RaftStateMachine;
use crate::call::{Call, CallId, Standing, Written};
use crate::group;
use crate::session::{SessionOutcome, SessionTable, check_session_entry};

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
    let (group, id) = (GroupId(1), CallId { run: 7 << 100, number: 9 });
    let (cluster, incarnation) = (ClusterId(7), Incarnation(5));
    let log_id = LogId::new(LeaderId::new(4, 2), 17);
    let calls = [
        Call::Probe { group, id, cluster, incarnation, address: "host:1".to_owned() },
        Call::Standing { group, id, standing: Standing::Named, cluster, incarnation, leader: Some(NodeId(2)) },
        Call::Join { group, id, address: "host:2".to_owned() },
        Call::Joined { group, id, done: false, leader: Some(NodeId(3)) },
        Call::Write { group, id, low: 3, entry: EntryKind::Command, only: None, payload: Bytes::from_static(b"put") },
        Call::Write {
            group,
            id,
            low: 3,
            entry: EntryKind::Command,
            only: Some(log_id.leader_id),
            payload: Bytes::from_static(b"put"),
        },
        Call::Written { group, id, written: Written::OtherLeader { leader: Some(NodeId(2)) } },
        Call::Written { group, id, written: Written::Applied { log_id, response: Bytes::from_static(b"done") } },
        Call::Written { group, id, written: Written::Malformed { text: "no".to_owned() } },
        Call::Written { group, id, written: Written::Session(SessionOutcome::Done(log_id)) },
    ];
    calls.iter().map(Call::encode).collect()
}
