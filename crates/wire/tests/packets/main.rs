//! Packets, memberships and snapshot metas: what is written is read back; what is hostile is refused at little cost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod generate;
mod hostile;

use bytes::Bytes;
use generate::{CLUSTER, KINDS, Rng, bytes_of, header, membership, packet, snapshot_meta};
use quorate_core::{GroupId, LeaderId, LogId, Message};
use quorate_wire::codec::{Reader, put_block, put_text};
use quorate_wire::{
    Batch, BatchBuilder, EntryKind, PACKET_HEADER_BYTES, Packet, WireError, decode_append_header, decode_membership,
    decode_snapshot_meta, encode_append_header, encode_membership, encode_snapshot_meta, entries_of,
};

/// Decodes, and hands back what a test compares.
fn decode(bytes: &[u8]) -> Result<(GroupId, Message, Vec<Batch>), WireError> {
    Packet::decode(CLUSTER, Bytes::copy_from_slice(bytes)).map(parts)
}

fn parts(packet: Packet) -> (GroupId, Message, Vec<Batch>) {
    (packet.group, packet.message, packet.batches.into_vec())
}

fn append_of(batches: &[&Batch]) -> Vec<u8> {
    let mut rng = Rng(3);
    let mut sent = packet(&mut rng, 2);
    let Message::Append(append) = &mut sent.message else { panic!("kind 2 is an append") };
    append.prev = LogId::new(LeaderId::new(1, 1), 4);
    sent.group = GroupId(1);
    sent.batches = batches.iter().map(|batch| (*batch).clone()).collect();
    bytes_of(&sent)
}

fn commands(term: u64, first: u64, count: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    (0..count).for_each(|_| builder.push(EntryKind::Command, b"x"));
    builder.seal(CLUSTER, GroupId(1), LeaderId::new(term, 1), first, 0).unwrap()
}

#[test]
fn every_packet_is_read_back_as_it_was_written() {
    let mut rng = Rng(1);
    for round in 0..7_000 {
        let sent = packet(&mut rng, round % KINDS);
        let bytes = bytes_of(&sent);
        let received = decode(&bytes).unwrap_or_else(|error| panic!("packet {round}: {error}: {sent:?}"));
        assert_eq!(received, parts(sent), "packet {round}");
    }
}

#[test]
fn every_membership_and_snapshot_meta_is_read_back_as_it_was_written() {
    let mut rng = Rng(2);
    for _ in 0..2_000 {
        let (sent, meta, header) = (membership(&mut rng), snapshot_meta(&mut rng), header(&mut rng));
        let mut bytes = Vec::new();
        encode_membership(&sent, &mut bytes);
        assert_eq!(decode_membership(&bytes), Ok(sent));
        bytes.clear();
        encode_snapshot_meta(&meta, &mut bytes);
        assert_eq!(decode_snapshot_meta(&bytes), Ok(meta));
        bytes.clear();
        encode_append_header(&header, &mut bytes);
        assert_eq!(decode_append_header(&bytes), Ok(header));
    }
}

#[test]
fn received_entries_share_the_packets_buffer() {
    let batch = commands(2, 5, 3);
    let bytes = Bytes::from(append_of(&[&batch]));
    let range = bytes.as_ptr_range();
    let received = Packet::decode(CLUSTER, bytes).unwrap();
    assert!(range.contains(&received.batches[0].bytes().as_ptr()));
}

#[test]
fn batches_of_one_leader_become_one() {
    let bytes = append_of(&[&commands(2, 5, 2), &commands(2, 7, 3)]);
    let (_, _, batches) = decode(&bytes).unwrap();
    assert_eq!(batches, [commands(2, 5, 5)]);
}

#[test]
fn entries_must_follow_prev_and_each_other() {
    let gap = |result: Result<_, WireError>| matches!(result, Err(WireError::Gap { .. }));
    assert!(decode(&append_of(&[&commands(1, 5, 1)])).is_ok());
    assert!(gap(decode(&append_of(&[&commands(1, 6, 1)]))), "an index is left out");
    assert!(gap(decode(&append_of(&[&commands(1, 4, 1)]))), "an index comes again");
    assert!(gap(decode(&append_of(&[&commands(0, 5, 1)]))), "the term goes back");
    assert!(entries_of(&[commands(2, 5, 2), commands(3, 7, 1)]).is_ok());
    assert!(entries_of(&[commands(2, 5, 2), commands(3, 8, 1)]).is_err());
    assert!(entries_of(&[commands(2, 5, 2), commands(1, 7, 1)]).is_err());
}

#[test]
fn entries_of_another_group_or_cluster_are_refused() {
    let mut bytes = append_of(&[&commands(2, 5, 1)]);
    bytes[8] = 2;
    assert!(matches!(decode(&bytes), Err(WireError::Entry(_))));
    bytes[8] = 1;
    let other = quorate_core::ClusterId(1);
    assert!(matches!(Packet::decode(other, bytes.into()), Err(WireError::Entry(_))));
}

#[test]
fn fields_of_a_newer_version_are_skipped() {
    let mut rng = Rng(4);
    for kind in 0..KINDS {
        let sent = packet(&mut rng, kind);
        let mut bytes = bytes_of(&sent);
        let fields = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let end = PACKET_HEADER_BYTES + fields as usize;
        bytes[4..8].copy_from_slice(&(fields + 5).to_le_bytes());
        bytes.splice(end..end, *b"newer");
        assert_eq!(decode(&bytes), Ok(parts(sent)), "kind {kind}");
    }
    let mut block = Vec::new();
    put_block(&mut block, |out| ["known", "newer"].iter().for_each(|text| put_text(out, text)));
    let mut reader = Reader::new("test", &block);
    assert_eq!(reader.block("test").unwrap().text(), Ok("known"));
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn memberships_with_fields_of_a_newer_version_are_read() {
    let sent = membership(&mut Rng(5));
    let mut bytes = Vec::new();
    encode_membership(&sent, &mut bytes);
    bytes.extend_from_slice(b"newer");
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(decode_membership(&bytes), Ok(sent));
}

#[test]
fn unknown_kinds_and_required_features_are_told_apart_from_garbage() {
    let sent = bytes_of(&packet(&mut Rng(6), 0));
    for kind in (0..=255).filter(|kind| !(1..=7).contains(kind)) {
        let mut bytes = sent.clone();
        bytes[0] = kind;
        assert_eq!(decode(&bytes), Err(WireError::UnknownKind { kind }));
    }
    let mut bytes = sent.clone();
    bytes[3] = 0x80;
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error, WireError::UnknownFeatures { what: "vote request", bits: 0x8000 });
    assert!(error.is_from_newer_version());
    let mut bytes = sent;
    bytes[1] = 1;
    let error = decode(&bytes).unwrap_err();
    assert!(!error.is_from_newer_version(), "{error}");

    let mut bytes = Vec::new();
    encode_membership(&membership(&mut Rng(7)), &mut bytes);
    bytes[4] = 1;
    assert_eq!(decode_membership(&bytes), Err(WireError::UnknownFeatures { what: "membership", bits: 1 }));
}

#[test]
fn only_appends_carry_entries() {
    let mut bytes = bytes_of(&packet(&mut Rng(8), 4));
    let batch = commands(1, 1, 1);
    bytes[16..24].copy_from_slice(&(batch.bytes().len() as u64).to_le_bytes());
    bytes.extend_from_slice(batch.bytes());
    assert_eq!(decode(&bytes), Err(WireError::Trailing { what: "read request", left: batch.bytes().len() as u64 }));
}
