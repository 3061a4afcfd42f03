//! Memberships as bytes: the payload of a membership entry and a part of a snapshot's meta.
//!
//! The layout is in FORMAT.md, "Membership".

use std::collections::BTreeMap;

use bytes::BufMut;
use quorate_core::{
    Incarnation, LeasePolicy, MAX_QUORUM_DEPTH, Membership, Node, NodeId, Quorum, Retain, Settings, VoterSet,
};

use crate::WireError;
use crate::codec::{BLOCK_HEADER_BYTES, Reader, put_block, put_length, put_text};

/// Longest encoding of a membership: 256 KiB, some 2,000 nodes with addresses and labels of 100 bytes. Whoever
/// proposes a membership checks it; a longer one is refused on reading.
pub const MAX_MEMBERSHIP_BYTES: usize = 256 << 10;

const QUORUM_NODE: u8 = 0;
const QUORUM_AT_LEAST: u8 = 1;

/// Least bytes of a quorum rule: tag and node.
const LEAST_QUORUM_BYTES: usize = 9;
/// Least bytes of a part of a rule: weight and rule.
const LEAST_PART_BYTES: usize = 4 + LEAST_QUORUM_BYTES;
/// Bytes of a voter: node and incarnation.
const VOTER_BYTES: usize = 24;
/// Least bytes of a voter set: two rules and the count of voters.
const LEAST_SET_BYTES: usize = BLOCK_HEADER_BYTES + 2 * LEAST_QUORUM_BYTES + 4;
/// Least bytes of a node: id, length of the address, count of labels.
const LEAST_NODE_BYTES: usize = BLOCK_HEADER_BYTES + 8 + 4 + 4;
/// Least bytes of a label: two lengths.
const LEAST_LABEL_BYTES: usize = 8;

/// Appends the encoding of a membership.
pub fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    put_block(out, |out| {
        put_length(out, membership.configs.len());
        membership.configs.iter().for_each(|set| put_voter_set(out, set));
        put_length(out, membership.nodes.len());
        membership.nodes.iter().for_each(|(id, node)| put_node(out, *id, node));
        out.put_u8(match membership.retain {
            Retain::Remove => 0,
            Retain::AsLearners => 1,
        });
        out.put_u8(match membership.settings.lease {
            LeasePolicy::FastFailover => 0,
            LeasePolicy::LeaseReads => 1,
        });
    });
}

/// Decodes what [`encode_membership`] wrote. Says nothing about whether the rules are sound: that is
/// [`Membership::check`].
///
/// # Errors
/// Names what is wrong.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, WireError> {
    let mut reader = Reader::new("membership", bytes);
    let membership = read_membership(&mut reader)?;
    reader.finish()?;
    Ok(membership)
}

/// Reads a membership from the front.
pub(crate) fn read_membership(reader: &mut Reader<'_>) -> Result<Membership, WireError> {
    let mut fields = reader.block("membership")?;
    let length = fields.remaining() + BLOCK_HEADER_BYTES;
    if length > MAX_MEMBERSHIP_BYTES {
        return Err(WireError::TooLong { what: "membership", length, limit: MAX_MEMBERSHIP_BYTES });
    }
    let count = fields.count(LEAST_SET_BYTES)?;
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        configs.push(read_voter_set(&mut fields)?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..fields.count(LEAST_NODE_BYTES)? {
        let (id, node) = read_node(&mut fields)?;
        insert_ascending(&mut nodes, id, node, "nodes of a membership")?;
    }
    let retain = match fields.flag("membership.retain")? {
        false => Retain::Remove,
        true => Retain::AsLearners,
    };
    let lease = match fields.flag("membership.lease")? {
        false => LeasePolicy::FastFailover,
        true => LeasePolicy::LeaseReads,
    };
    Ok(Membership { configs, nodes, settings: Settings { lease }, retain })
}

fn put_voter_set(out: &mut Vec<u8>, set: &VoterSet) {
    put_block(out, |out| {
        put_quorum(out, &set.elect);
        put_quorum(out, &set.commit);
        put_length(out, set.voters.len());
        for (id, incarnation) in &set.voters {
            out.put_u64_le(id.0);
            out.put_u128_le(incarnation.0);
        }
    });
}

fn read_voter_set(reader: &mut Reader<'_>) -> Result<VoterSet, WireError> {
    let mut fields = reader.block("voter set")?;
    let elect = read_quorum(&mut fields, 0)?;
    let commit = read_quorum(&mut fields, 0)?;
    let mut voters = BTreeMap::new();
    for _ in 0..fields.count(VOTER_BYTES)? {
        let id = NodeId(fields.u64()?);
        insert_ascending(&mut voters, id, Incarnation(fields.u128()?), "voters of a voter set")?;
    }
    Ok(VoterSet { elect, commit, voters })
}

fn put_quorum(out: &mut Vec<u8>, quorum: &Quorum) {
    match quorum {
        Quorum::Node(id) => {
            out.put_u8(QUORUM_NODE);
            out.put_u64_le(id.0);
        }
        Quorum::AtLeast { need, of } => {
            out.put_u8(QUORUM_AT_LEAST);
            out.put_u32_le(*need);
            put_length(out, of.len());
            for (weight, part) in of {
                out.put_u32_le(*weight);
                put_quorum(out, part);
            }
        }
    }
}

/// Recursion ends at [`MAX_QUORUM_DEPTH`], whatever the bytes say.
fn read_quorum(reader: &mut Reader<'_>, depth: usize) -> Result<Quorum, WireError> {
    match reader.u8()? {
        QUORUM_NODE => Ok(Quorum::Node(NodeId(reader.u64()?))),
        QUORUM_AT_LEAST if depth >= MAX_QUORUM_DEPTH => Err(WireError::TooDeep),
        QUORUM_AT_LEAST => {
            let need = reader.u32()?;
            let count = reader.count(LEAST_PART_BYTES)?;
            let mut of = Vec::with_capacity(count);
            for _ in 0..count {
                of.push((reader.u32()?, read_quorum(reader, depth + 1)?));
            }
            Ok(Quorum::AtLeast { need, of })
        }
        other => Err(WireError::Value { field: "quorum rule's tag", value: other.into() }),
    }
}

fn put_node(out: &mut Vec<u8>, id: NodeId, node: &Node) {
    put_block(out, |out| {
        out.put_u64_le(id.0);
        put_text(out, &node.address);
        put_length(out, node.labels.len());
        for (name, value) in &node.labels {
            put_text(out, name);
            put_text(out, value);
        }
    });
}

fn read_node(reader: &mut Reader<'_>) -> Result<(NodeId, Node), WireError> {
    let mut fields = reader.block("node")?;
    let id = NodeId(fields.u64()?);
    let address = fields.text()?.to_owned();
    let mut labels = BTreeMap::new();
    for _ in 0..fields.count(LEAST_LABEL_BYTES)? {
        let name = fields.text()?.to_owned();
        insert_ascending(&mut labels, name, fields.text()?.to_owned(), "labels of a node")?;
    }
    Ok((id, Node { address, labels }))
}

/// Adds an item that must come after all others: a membership has one encoding.
fn insert_ascending<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    what: &'static str,
) -> Result<(), WireError> {
    if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
        return Err(WireError::Order { what });
    }
    map.insert(key, value);
    Ok(())
}
