//! What the library's own ends of two nodes say to each other, beside the protocol: who is blank, who may join,
//! and writes on their way to the leader. Opaque to the network.
//!
//! Layout: version, kind, fields in the order of the enum; little-endian. FORMAT.md, "Calls".

use bytes::{Buf, BufMut, Bytes};
use quorate_core::{ClusterId, GroupId, Incarnation, LeaderId, LogId, NodeId};
use quorate_wire::EntryKind;

use crate::session::{SessionOutcome, SessionRefusal};

/// The version of the layout.
const VERSION: u8 = 1;

const PROBE: u8 = 0;
const STANDING: u8 = 1;
const JOIN: u8 = 2;
const JOINED: u8 = 3;
const WRITE: u8 = 4;
const WRITTEN: u8 = 5;
const WRITE_MANY: u8 = 6;
const WRITTEN_MANY: u8 = 7;

/// Names a call among all calls of all runs of all nodes: a late or repeated answer is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallId {
    /// Random, new at each start of a node.
    pub(crate) run: u128,
    /// Counts the run's calls, from 1.
    pub(crate) number: u64,
}

/// What a node is to the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing was ever written here.
    Blank,
    /// It has state, and its membership names the asker with the asker's disk, or as a learner.
    Named,
    /// It has state, and its membership names the asker with another disk.
    NamedOtherwise,
    /// It has state, and its membership does not name the asker.
    NotNamed,
}

/// How a forwarded write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Applied; with the encoded response.
    Applied { log_id: LogId, response: Bytes },
    /// The node asked does not lead; it never entered a log.
    NotLeader { leader: Option<NodeId> },
    /// The node asked does not lead under the leader id that the write is for; it never entered a log.
    OtherLeader { leader: Option<NodeId> },
    /// It never entered a log, and may be sent again.
    Busy,
    /// The disk is full; it never entered a log.
    StorageFull,
    /// It cannot be decoded; it never entered a log.
    Malformed { text: String },
    /// It may or may not be applied.
    Unknown,
    /// It is about a session, was committed, and has no response.
    Session(SessionOutcome),
}

/// A message between two nodes' libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// What is your standing? I belong to `cluster`, if it is not zero, and am reached at `address`.
    Probe { group: GroupId, id: CallId, cluster: ClusterId, incarnation: Incarnation, address: String },
    /// The answer. `id` as in the probe.
    Standing {
        group: GroupId,
        id: CallId,
        standing: Standing,
        cluster: ClusterId,
        incarnation: Incarnation,
        leader: Option<NodeId>,
    },
    /// Make me a learner.
    Join { group: GroupId, id: CallId, address: String },
    /// The answer: done, or ask this leader.
    Joined { group: GroupId, id: CallId, done: bool, leader: Option<NodeId> },
    /// Propose an entry: a command, or one about sessions. Calls of this run below `low` are answered or given up.
    Write { group: GroupId, id: CallId, low: u64, entry: EntryKind, only: Option<LeaderId>, payload: Bytes },
    /// The answer.
    Written { group: GroupId, id: CallId, written: Written },
    /// Propose commands, in this order.
    WriteMany { group: GroupId, id: CallId, low: u64, only: Option<LeaderId>, payloads: Vec<Bytes> },
    /// The answer: one for each, in this order.
    WrittenMany { group: GroupId, id: CallId, written: Vec<Written> },
}

impl Call {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.put_u8(VERSION);
        let head = |out: &mut Vec<u8>, kind, group: &GroupId, id: &CallId| {
            out.put_u8(kind);
            out.put_u64_le(group.0);
            out.put_u128_le(id.run);
            out.put_u64_le(id.number);
        };
        match self {
            Call::Probe { group, id, cluster, incarnation, address } => {
                head(&mut out, PROBE, group, id);
                out.put_u128_le(cluster.0);
                out.put_u128_le(incarnation.0);
                put_bytes(&mut out, address.as_bytes());
            }
            Call::Standing { group, id, standing, cluster, incarnation, leader } => {
                head(&mut out, STANDING, group, id);
                out.put_u8(match standing {
                    Standing::Blank => 0,
                    Standing::Named => 1,
                    Standing::NamedOtherwise => 2,
                    Standing::NotNamed => 3,
                });
                out.put_u128_le(cluster.0);
                out.put_u128_le(incarnation.0);
                put_node(&mut out, *leader);
            }
            Call::Join { group, id, address } => {
                head(&mut out, JOIN, group, id);
                put_bytes(&mut out, address.as_bytes());
            }
            Call::Joined { group, id, done, leader } => {
                head(&mut out, JOINED, group, id);
                out.put_u8(u8::from(*done));
                put_node(&mut out, *leader);
            }
            Call::Write { group, id, low, entry, only, payload } => {
                head(&mut out, WRITE, group, id);
                out.put_u64_le(*low);
                out.put_u8(entry.to_byte());
                put_leader_id(&mut out, *only);
                put_bytes(&mut out, payload);
            }
            Call::Written { group, id, written } => {
                head(&mut out, WRITTEN, group, id);
                put_written(&mut out, written);
            }
            Call::WriteMany { group, id, low, only, payloads } => {
                head(&mut out, WRITE_MANY, group, id);
                out.put_u64_le(*low);
                put_leader_id(&mut out, *only);
                put_count(&mut out, payloads.len());
                payloads.iter().for_each(|payload| put_bytes(&mut out, payload));
            }
            Call::WrittenMany { group, id, written } => {
                head(&mut out, WRITTEN_MANY, group, id);
                put_count(&mut out, written.len());
                written.iter().for_each(|written| put_written(&mut out, written));
            }
        }
        out.into()
    }

    /// The same answer, but for what the state machine answered: the writes were applied.
    pub(crate) fn without_responses(self) -> Call {
        let cut = |written| match written {
            Written::Applied { log_id, .. } => Written::Session(SessionOutcome::Unreadable(log_id)),
            other => other,
        };
        match self {
            Call::Written { group, id, written } => Call::Written { group, id, written: cut(written) },
            Call::WrittenMany { group, id, written } => {
                Call::WrittenMany { group, id, written: written.into_iter().map(cut).collect() }
            }
            other => other,
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if it is anything else.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Call> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let kind = bytes.try_get_u8().ok()?;
        let group = GroupId(bytes.try_get_u64_le().ok()?);
        let id = CallId { run: bytes.try_get_u128_le().ok()?, number: bytes.try_get_u64_le().ok()? };
        let call = match kind {
            PROBE => {
                let cluster = ClusterId(bytes.try_get_u128_le().ok()?);
                let incarnation = Incarnation(bytes.try_get_u128_le().ok()?);
                Call::Probe { group, id, cluster, incarnation, address: take_text(&mut bytes)? }
            }
            STANDING => {
                let standing = match bytes.try_get_u8().ok()? {
                    0 => Standing::Blank,
                    1 => Standing::Named,
                    2 => Standing::NamedOtherwise,
                    3 => Standing::NotNamed,
                    _ => return None,
                };
                let cluster = ClusterId(bytes.try_get_u128_le().ok()?);
                let incarnation = Incarnation(bytes.try_get_u128_le().ok()?);
                Call::Standing { group, id, standing, cluster, incarnation, leader: take_node(&mut bytes)? }
            }
            JOIN => Call::Join { group, id, address: take_text(&mut bytes)? },
            JOINED => {
                let done = take_flag(&mut bytes)?;
                Call::Joined { group, id, done, leader: take_node(&mut bytes)? }
            }
            WRITE => {
                let low = bytes.try_get_u64_le().ok()?;
                let entry = EntryKind::from_byte(bytes.try_get_u8().ok()?)?;
                let only = take_leader_id(&mut bytes)?;
                Call::Write { group, id, low, entry, only, payload: take_bytes(&mut bytes)? }
            }
            WRITTEN => Call::Written { group, id, written: take_written(&mut bytes)? },
            WRITE_MANY => {
                let low = bytes.try_get_u64_le().ok()?;
                let only = take_leader_id(&mut bytes)?;
                Call::WriteMany { group, id, low, only, payloads: take_many(&mut bytes, take_bytes)? }
            }
            WRITTEN_MANY => Call::WrittenMany { group, id, written: take_many(&mut bytes, take_written)? },
            _ => return None,
        };
        bytes.is_empty().then_some(call)
    }
}

fn put_written(out: &mut Vec<u8>, written: &Written) {
    match written {
        Written::Applied { log_id, response } => {
            out.put_u8(0);
            put_log_id(out, *log_id);
            put_bytes(out, response);
        }
        Written::NotLeader { leader } => {
            out.put_u8(1);
            put_node(out, *leader);
        }
        Written::OtherLeader { leader } => {
            out.put_u8(9);
            put_node(out, *leader);
        }
        Written::Busy => out.put_u8(2),
        Written::StorageFull => out.put_u8(3),
        Written::Malformed { text } => {
            out.put_u8(4);
            put_bytes(out, text.as_bytes());
        }
        Written::Unknown => out.put_u8(5),
        Written::Session(outcome) => put_session(out, *outcome),
    }
}

fn put_session(out: &mut Vec<u8>, outcome: SessionOutcome) {
    match outcome {
        SessionOutcome::Done(log_id) => {
            out.put_u8(6);
            put_log_id(out, log_id);
        }
        SessionOutcome::Unreadable(log_id) => {
            out.put_u8(7);
            put_log_id(out, log_id);
        }
        SessionOutcome::Refused(refusal) => {
            out.put_u8(8);
            out.put_u8(match refusal {
                SessionRefusal::Expired => 0,
                SessionRefusal::Acknowledged => 1,
                SessionRefusal::TooManyInFlight => 2,
            });
        }
    }
}

fn take_refusal(bytes: &mut Bytes) -> Option<SessionRefusal> {
    match bytes.try_get_u8().ok()? {
        0 => Some(SessionRefusal::Expired),
        1 => Some(SessionRefusal::Acknowledged),
        2 => Some(SessionRefusal::TooManyInFlight),
        _ => None,
    }
}

fn put_log_id(out: &mut Vec<u8>, log_id: LogId) {
    out.put_u64_le(log_id.leader_id.term);
    out.put_u64_le(log_id.leader_id.node_id.0);
    out.put_u64_le(log_id.index);
}

fn take_log_id(bytes: &mut Bytes) -> Option<LogId> {
    let (term, node_id) = (bytes.try_get_u64_le().ok()?, NodeId(bytes.try_get_u64_le().ok()?));
    Some(LogId::new(LeaderId { term, node_id }, bytes.try_get_u64_le().ok()?))
}

fn take_written(bytes: &mut Bytes) -> Option<Written> {
    Some(match bytes.try_get_u8().ok()? {
        0 => Written::Applied { log_id: take_log_id(bytes)?, response: take_bytes(bytes)? },
        1 => Written::NotLeader { leader: take_node(bytes)? },
        2 => Written::Busy,
        3 => Written::StorageFull,
        4 => Written::Malformed { text: take_text(bytes)? },
        5 => Written::Unknown,
        6 => Written::Session(SessionOutcome::Done(take_log_id(bytes)?)),
        7 => Written::Session(SessionOutcome::Unreadable(take_log_id(bytes)?)),
        8 => Written::Session(SessionOutcome::Refused(take_refusal(bytes)?)),
        9 => Written::OtherLeader { leader: take_node(bytes)? },
        _ => return None,
    })
}

fn put_node(out: &mut Vec<u8>, node: Option<NodeId>) {
    out.put_u8(u8::from(node.is_some()));
    out.put_u64_le(node.unwrap_or_default().0);
}

fn take_node(bytes: &mut Bytes) -> Option<Option<NodeId>> {
    let known = take_flag(bytes)?;
    let id = NodeId(bytes.try_get_u64_le().ok()?);
    Some(known.then_some(id))
}

fn put_leader_id(out: &mut Vec<u8>, leader_id: Option<LeaderId>) {
    out.put_u8(u8::from(leader_id.is_some()));
    let LeaderId { term, node_id } = leader_id.unwrap_or_default();
    out.put_u64_le(term);
    out.put_u64_le(node_id.0);
}

fn take_leader_id(bytes: &mut Bytes) -> Option<Option<LeaderId>> {
    let given = take_flag(bytes)?;
    let term = bytes.try_get_u64_le().ok()?;
    let leader_id = LeaderId { term, node_id: NodeId(bytes.try_get_u64_le().ok()?) };
    Some(given.then_some(leader_id))
}

fn take_flag(bytes: &mut Bytes) -> Option<bool> {
    match bytes.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // A call has a few thousand at most.
    out.put_u32_le(u32::try_from(count).unwrap_or(u32::MAX));
}

/// As many as the count before them says; no room is made for what is not there.
fn take_many<T>(bytes: &mut Bytes, take: impl Fn(&mut Bytes) -> Option<T>) -> Option<Vec<T>> {
    let count = bytes.try_get_u32_le().ok()?;
    (0..count).map(|_| take(bytes)).collect()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Commands are limited far below 4 GiB.
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn take_text(bytes: &mut Bytes) -> Option<String> {
    String::from_utf8(take_bytes(bytes)?.into()).ok()
}

fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

/// A call of each kind, with every answer: for tests, and for hostile bytes to start from.
#[cfg(any(test, feature = "hostile"))]
pub(crate) fn samples() -> Vec<Call> {
    let (group, id) = (GroupId(3), CallId { run: 7 << 100, number: 9 });
    let log_id = LogId::new(LeaderId::new(4, 2), 17);
    let written = [
        Written::Applied { log_id, response: Bytes::from_static(b"yes") },
        Written::NotLeader { leader: Some(NodeId(0)) },
        Written::NotLeader { leader: None },
        Written::OtherLeader { leader: Some(NodeId(2)) },
        Written::Busy,
        Written::StorageFull,
        Written::Malformed { text: "no".into() },
        Written::Unknown,
        Written::Session(SessionOutcome::Done(log_id)),
        Written::Session(SessionOutcome::Unreadable(log_id)),
        Written::Session(SessionOutcome::Refused(SessionRefusal::Expired)),
        Written::Session(SessionOutcome::Refused(SessionRefusal::Acknowledged)),
        Written::Session(SessionOutcome::Refused(SessionRefusal::TooManyInFlight)),
    ];
    let mut calls = vec![
        Call::Probe { group, id, cluster: ClusterId(4), incarnation: Incarnation(5), address: "here:1".into() },
        Call::Join { group, id, address: "there:1".into() },
        Call::Joined { group, id, done: true, leader: None },
        Call::Write {
            group,
            id,
            low: 3,
            entry: EntryKind::Command,
            only: Some(log_id.leader_id),
            payload: Bytes::from_static(b"put"),
        },
        Call::Write {
            group,
            id,
            low: 3,
            entry: EntryKind::SessionCommand,
            only: None,
            payload: Bytes::from_static(b"put"),
        },
    ];
    let payloads = vec![Bytes::from_static(b"put"), Bytes::new()];
    calls.push(Call::WriteMany { group, id, low: 3, only: Some(log_id.leader_id), payloads });
    calls.push(Call::WrittenMany { group, id, written: written.to_vec() });
    for standing in [Standing::Blank, Standing::Named, Standing::NamedOtherwise, Standing::NotNamed] {
        let (cluster, incarnation) = (ClusterId(1), Incarnation(2));
        calls.push(Call::Standing { group, id, standing, cluster, incarnation, leader: Some(NodeId(6)) });
    }
    calls.extend(written.into_iter().map(|written| Call::Written { group, id, written }));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same_call() {
        for call in samples() {
            assert_eq!(Call::decode(call.encode()), Some(call));
        }
    }

    #[test]
    fn cut_or_extended_bytes_are_refused() {
        for call in samples() {
            let bytes = call.encode();
            for end in 0..bytes.len() {
                assert_eq!(Call::decode(bytes.slice(..end)), None, "{call:?} cut at {end}");
            }
            assert_eq!(Call::decode([&bytes[..], b"x"].concat().into()), None);
        }
    }
}
