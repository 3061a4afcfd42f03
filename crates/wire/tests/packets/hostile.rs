//! Bytes that no honest peer sends.

use bytes::Bytes;
use quorate_core::{GroupId, LeaderId, MAX_QUORUM_DEPTH, Membership, Node, NodeId, Quorum, VoterSet};
use quorate_wire::codec::{put_block, put_length};
use quorate_wire::{
    BatchBuilder, EntryKind, MAX_MEMBERSHIP_BYTES, PACKET_HEADER_BYTES, Packet, WireError, decode_append_header,
    decode_membership, decode_snapshot_meta, encode_append_header, encode_membership, encode_snapshot_meta,
};

use crate::generate::{CLUSTER, KINDS, Rng, bytes_of, header, membership, packet, snapshot_meta};

/// Most memory that decoding may take, per byte of input; a map of one label takes the most.
const MEMORY_PER_BYTE: u64 = 32;
/// And on top of that, whatever the input.
const MEMORY_FIXED: u64 = 2048;

/// Everything that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
enum Target {
    Packet,
    Membership,
    SnapshotMeta,
    AppendHeader,
}

/// Decodes; what is accepted must survive being written and read again. Returns whether it was accepted.
fn decode(target: Target, bytes: &Bytes) -> bool {
    match target {
        Target::Packet => {
            let Ok(packet) = Packet::decode(CLUSTER, bytes.clone()) else { return false };
            let again = Packet::decode(CLUSTER, bytes_of(&packet).into()).unwrap();
            assert_eq!((again.message, again.batches), (packet.message, packet.batches));
        }
        Target::Membership => {
            let Ok(found) = decode_membership(bytes) else { return false };
            let mut again = Vec::new();
            encode_membership(&found, &mut again);
            assert_eq!(decode_membership(&again), Ok(found));
        }
        Target::SnapshotMeta => {
            let Ok(found) = decode_snapshot_meta(bytes) else { return false };
            let mut again = Vec::new();
            encode_snapshot_meta(&found, &mut again);
            assert_eq!(decode_snapshot_meta(&again), Ok(found));
        }
        Target::AppendHeader => {
            let Ok(found) = decode_append_header(bytes) else { return false };
            let mut again = Vec::new();
            encode_append_header(&found, &mut again);
            assert_eq!(decode_append_header(&again), Ok(found));
        }
    }
    true
}

/// Asserts that decoding takes little memory.
fn check_memory(target: Target, bytes: &Bytes) {
    let taken = allocation_counter::measure(|| match target {
        Target::Packet => drop(Packet::decode(CLUSTER, bytes.clone())),
        Target::Membership => drop(decode_membership(bytes)),
        Target::SnapshotMeta => drop(decode_snapshot_meta(bytes)),
        Target::AppendHeader => drop(decode_append_header(bytes)),
    });
    let limit = MEMORY_FIXED + MEMORY_PER_BYTE * bytes.len() as u64;
    assert!(taken.bytes_max <= limit, "{target:?}: {} bytes for {} of input: {bytes:x?}", taken.bytes_max, bytes.len());
}

fn honest(rng: &mut Rng) -> (Target, Vec<u8>) {
    let mut bytes = Vec::new();
    match rng.below(4) {
        0 => {
            encode_membership(&membership(rng), &mut bytes);
            (Target::Membership, bytes)
        }
        1 if rng.coin() => {
            encode_append_header(&header(rng), &mut bytes);
            (Target::AppendHeader, bytes)
        }
        1 => {
            encode_snapshot_meta(&snapshot_meta(rng), &mut bytes);
            (Target::SnapshotMeta, bytes)
        }
        _ => {
            let kind = rng.below(KINDS);
            (Target::Packet, bytes_of(&packet(rng, kind)))
        }
    }
}

/// Changes some bytes, most often to values that hurt.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(3) {
        if bytes.is_empty() {
            bytes.push(rng.next() as u8);
        }
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(7) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff][rng.below(6) as usize],
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => {
                let value = [0, 1, 0xffff, 0x7fff_ffff, u32::MAX, bytes.len() as u32][rng.below(6) as usize];
                bytes.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            4 => bytes.insert(at, rng.next() as u8),
            5 => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
    }
}

/// An append whose entry has this payload and a right checksum: what a faulty leader could send.
fn append_with_membership(rng: &mut Rng, payload: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::Membership, payload);
    let batch = builder.seal(CLUSTER, GroupId(1), LeaderId::new(u64::MAX, u64::MAX), 1, 0).unwrap();
    let mut sent = packet(rng, 2);
    let quorate_core::Message::Append(append) = &mut sent.message else { panic!("kind 2 is an append") };
    append.prev = quorate_core::LogId::ZERO;
    sent.group = GroupId(1);
    sent.batches = [batch].into_iter().collect();
    bytes_of(&sent)
}

#[test]
fn every_truncation_is_refused() {
    let mut rng = Rng(11);
    for _ in 0..300 {
        let (target, bytes) = honest(&mut rng);
        let bytes = Bytes::from(bytes);
        for end in 0..bytes.len() {
            assert!(!decode(target, &bytes.slice(..end)), "{target:?} cut at {end} of {}", bytes.len());
        }
    }
}

#[test]
fn every_message_with_fewer_fields_than_it_needs_is_refused() {
    let mut rng = Rng(12);
    for round in 0..200 {
        let sent = packet(&mut rng, round % KINDS);
        let mut head = Vec::new();
        sent.encode_head(&mut head);
        let bytes = bytes_of(&sent);
        for end in PACKET_HEADER_BYTES..head.len() {
            // The header tells the truth about the shorter field area.
            let mut cut = [&bytes[..end], &bytes[head.len()..]].concat();
            cut[4..8].copy_from_slice(&((end - PACKET_HEADER_BYTES) as u32).to_le_bytes());
            assert!(!decode(Target::Packet, &cut.into()), "fields cut at {end}: {sent:?}");
        }
    }
}

#[test]
fn mutations_neither_panic_nor_take_memory() {
    let mut rng = Rng(13);
    let (mut accepted, mut refused) = (0u64, 0u64);
    for round in 0..200_000u64 {
        let (mut target, mut bytes) = honest(&mut rng);
        mutate(&mut rng, &mut bytes);
        if matches!(target, Target::Membership) && round % 4 == 0 {
            bytes = append_with_membership(&mut rng, &bytes);
            target = Target::Packet;
        }
        let bytes = Bytes::from(bytes);
        check_memory(target, &bytes);
        if decode(target, &bytes) { accepted += 1 } else { refused += 1 }
    }
    // Both sides were reached: many mutations only change a number.
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn noise_neither_panics_nor_takes_memory() {
    let mut rng = Rng(14);
    for _ in 0..19_000 {
        let bytes: Bytes = (0..rng.below(200)).map(|_| (rng.next() >> rng.below(64)) as u8).collect();
        for target in [Target::Packet, Target::Membership, Target::SnapshotMeta, Target::AppendHeader] {
            check_memory(target, &bytes);
        }
    }
}

#[test]
fn the_costliest_membership_stays_within_the_bound() {
    // One label a node, every text empty: a map for 8 bytes.
    let node = Node { address: String::new(), labels: [(String::new(), String::new())].into() };
    let costly =
        Membership { nodes: (0..8_000).map(|id| (NodeId(id), node.clone())).collect(), ..Membership::default() };
    let mut bytes = Vec::new();
    encode_membership(&costly, &mut bytes);
    assert!(bytes.len() <= MAX_MEMBERSHIP_BYTES);
    let bytes = Bytes::from(bytes);
    check_memory(Target::Membership, &bytes);
    assert_eq!(decode_membership(&bytes), Ok(costly));
}

#[test]
fn a_membership_over_the_limit_is_refused() {
    let node = Node::at("x".repeat(MAX_MEMBERSHIP_BYTES));
    let long = Membership { nodes: [(NodeId(1), node)].into(), ..Membership::default() };
    let mut bytes = Vec::new();
    encode_membership(&long, &mut bytes);
    assert!(matches!(decode_membership(&bytes), Err(WireError::TooLong { .. })));
}

#[test]
fn rules_nested_too_deep_are_refused() {
    let nested = |depth| {
        let mut rule = Quorum::Node(NodeId(1));
        for _ in 0..depth {
            rule = Quorum::AtLeast { need: 1, of: vec![(1, rule)] };
        }
        let set = VoterSet { elect: rule.clone(), commit: rule, voters: Default::default() };
        let mut bytes = Vec::new();
        encode_membership(&Membership { configs: vec![set], ..Membership::default() }, &mut bytes);
        decode_membership(&bytes)
    };
    assert!(nested(MAX_QUORUM_DEPTH).is_ok());
    assert_eq!(nested(MAX_QUORUM_DEPTH + 1), Err(WireError::TooDeep));

    // Deep enough to end the stack, were depth not checked before descending: need 1 of one part of weight 1.
    let level = [1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    let mut bytes = Vec::new();
    put_block(&mut bytes, |out| {
        put_length(out, 1);
        put_block(out, |out| out.extend(std::iter::repeat_n(level, 19_000).flatten()));
    });
    assert_eq!(decode_membership(&bytes), Err(WireError::TooDeep));
}

#[test]
fn nodes_out_of_order_or_twice_are_refused() {
    let two = Membership { nodes: [1, 2].map(|id| (NodeId(id), Node::at("a"))).into(), ..Membership::default() };
    let mut bytes = Vec::new();
    encode_membership(&two, &mut bytes);
    // Header, count of sets, count of nodes, then each node's header and id.
    let first = 6 + 4 + 4 + 6;
    assert_eq!(bytes[first], 1);
    for id in [2, 3] {
        bytes[first] = id;
        assert_eq!(decode_membership(&bytes), Err(WireError::Order { what: "nodes of a membership" }));
    }
}

#[test]
fn terms_and_indexes_without_a_successor_are_refused() {
    let bytes = bytes_of(&packet(&mut Rng(15), 6));
    for (at, field) in [(0, "term"), (17, "term"), (33, "index")] {
        let mut bytes = bytes.clone();
        let at = PACKET_HEADER_BYTES + at;
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Packet::decode(CLUSTER, bytes.into()).map(|_| ()), Err(WireError::Value { field, value: u64::MAX }));
    }
}

#[test]
fn a_leaders_vote_must_be_committed() {
    for kind in [2, 3, 6] {
        let mut bytes = bytes_of(&packet(&mut Rng(16), kind));
        bytes[PACKET_HEADER_BYTES + 16] = 0;
        assert_eq!(
            Packet::decode(CLUSTER, bytes.into()).map(|_| ()),
            Err(WireError::Value { field: "vote.committed", value: 0 }),
            "kind {kind}"
        );
    }
}
