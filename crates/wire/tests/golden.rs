//! The bytes of every message kind, written out by hand from FORMAT.md: the format cannot change unnoticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, ClusterId, Entries, GroupId,
    Incarnation, LeaderId, LeasePolicy, LogId, Membership, Message, Node, NodeId, Phase, Quorum, ReadConfirmation,
    RequestId, Retain, Round, Settings, SnapshotMeta, StartId, StreamId, Vote, VoteAnswer, VoteReply, VoteRequest,
    VoterSet,
};
use quorate_wire::{
    Batch, BatchBuilder, Batches, EntryKind, Packet, SessionHeader, SessionOpening, decode_append_header,
    decode_membership, decode_snapshot_meta, encode_append_header, encode_membership, encode_session_ids,
    encode_snapshot_meta, entries_of,
};

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(9);

/// Bytes of hex digits; blanks are only for the reader, and `(n)` is the number n in eight bytes.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if let Some(number) = word.strip_prefix('(').and_then(|word| word.strip_suffix(')')) {
            bytes.extend_from_slice(&number.parse::<u64>().unwrap().to_le_bytes());
            continue;
        }
        assert_eq!(word.len() % 2, 0, "{word}");
        bytes.extend((0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()));
    }
    bytes
}

fn leader() -> Vote {
    Vote::committed(LeaderId::new(5, 2))
}

fn log_id() -> LogId {
    LogId::new(LeaderId::new(4, 3), 17)
}

fn header() -> AppendHeader {
    AppendHeader {
        vote: leader(),
        stream: StreamId(11),
        round: Round(12),
        commit: 16,
        lease: Duration::from_millis(300),
        named: Some(Incarnation(21)),
        heard: None,
    }
}

fn append(batches: &[Batch]) -> Message {
    Message::Append(Append { header: header(), prev: log_id(), entries: entries_of(batches).unwrap() })
}

fn append_reply(answer: AppendAnswer) -> Message {
    let promised = Duration::from_millis(300);
    let (stream, round) = (StreamId(11), Round(12));
    Message::AppendReply(AppendReply { vote: leader(), stream, round, promised, lost: None, answer })
}

/// The same from a node that lost entries.
fn after_a_loss(message: Message) -> Message {
    match message {
        Message::AppendReply(reply) => Message::AppendReply(AppendReply { lost: Some(StartId(77)), ..reply }),
        other => other,
    }
}

fn vote_reply(answer: VoteAnswer) -> Message {
    let requested = Vote::uncommitted(LeaderId::new(5, 2));
    Message::VoteReply(VoteReply { phase: Phase::Real, campaign: Campaign(8), requested, answer })
}

fn membership() -> Membership {
    let quorum = Quorum::AtLeast { need: 2, of: vec![(1, Quorum::Node(NodeId(1))), (3, Quorum::Node(NodeId(2)))] };
    let set = VoterSet {
        elect: quorum,
        commit: Quorum::Node(NodeId(2)),
        voters: [(NodeId(1), Incarnation(0x0102)), (NodeId(2), Incarnation(1 << 120))].into(),
    };
    let node = Node { address: "a:1".into(), labels: [("zone".into(), "é".into())].into() };
    Membership {
        configs: vec![set],
        nodes: [(NodeId(1), node), (NodeId(2), Node::at(""))].into(),
        settings: Settings { lease: LeasePolicy::LeaseReads },
        retain: Retain::AsLearners,
    }
}

const MEMBERSHIP: &str = "
    af000000 0000
    01000000
      62000000 0000
        01 02000000 02000000  01000000 00 (1)  03000000 00 (2)
        00 (2)
        02000000
          (1) 02010000000000000000000000000000
          (2) 00000000000000000000000000000001
    02000000
      23000000 0000  (1) 03000000 613a31  01000000 04000000 7a6f6e65 02000000 c3a9
      12000000 0000  (2) 00000000  00000000
    01 01";

fn check(message: Message, batches: Batches, text: &str) {
    let expected = hex(text);
    let sent = Packet { group: GROUP, message, batches };
    let mut bytes = Vec::new();
    sent.encode_head(&mut bytes);
    sent.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    assert_eq!(format!("{bytes:02x?}"), format!("{expected:02x?}"), "{:?}", sent.message);
    let received = Packet::decode(CLUSTER, Bytes::from(expected)).unwrap();
    assert_eq!((received.group, received.message, received.batches), (sent.group, sent.message, sent.batches));
}

#[test]
fn vote_request() {
    let message = |phase, reason| {
        let (vote, last_log_id) = (Vote::uncommitted(LeaderId::new(5, 2)), log_id());
        Message::VoteRequest(VoteRequest { phase, campaign: Campaign(8), vote, last_log_id, reason })
    };
    check(
        message(Phase::Pre, CampaignReason::Transfer(LeaderId::new(4, 3))),
        Batches::new(),
        "01 00 0000 43000000 (9) (0)  00 01 (8)  (5) (2) 00  (4) (3) (17)  (4) (3)",
    );
    check(
        message(Phase::Real, CampaignReason::Timeout),
        Batches::new(),
        "01 00 0000 33000000 (9) (0)  01 00 (8)  (5) (2) 00  (4) (3) (17)",
    );
}

#[test]
fn vote_replies() {
    check(vote_reply(VoteAnswer::Granted), Batches::new(), "02 00 0000 1b000000 (9) (0)  01 (8) (5) (2) 00  00");
    check(
        vote_reply(VoteAnswer::StaleVote(Vote::committed(LeaderId::new(6, 1)))),
        Batches::new(),
        "02 00 0000 2c000000 (9) (0)  01 (8) (5) (2) 00  01 (6) (1) 01",
    );
    check(
        vote_reply(VoteAnswer::StaleLog(log_id())),
        Batches::new(),
        "02 00 0000 33000000 (9) (0)  01 (8) (5) (2) 00  02 (4) (3) (17)",
    );
    check(vote_reply(VoteAnswer::LeaderAlive), Batches::new(), "02 00 0000 1b000000 (9) (0)  01 (8) (5) (2) 00  03");
}

#[test]
fn appends() {
    check(
        append(&[]),
        Batches::new(),
        "03 00 0000 5a000000 (9) (0)  (5) (2) 01 (11) (12) (16) (300000000) (21) (0) 00  (4) (3) (17)",
    );
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::Blank, b"");
    builder.push(EntryKind::Command, b"set");
    let batch = builder.seal(CLUSTER, GROUP, LeaderId::new(5, 2), 18, 1000).unwrap();
    check(
        append(std::slice::from_ref(&batch)),
        [batch].into_iter().collect(),
        "03 00 0000 5a000000 (9) (107)  (5) (2) 01 (11) (12) (16) (300000000) (21) (0) 00  (4) (3) (17)
         34000000 00 000000 (9) (5) (2) (18) (1000)        0a1fc8cd
         37000000 01 000000 (9) (5) (2) (19) (1000) 736574 b297e2ec",
    );
}

#[test]
fn session_entries() {
    let (mut opening, mut command, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    SessionOpening { time_to_live: Duration::from_secs(1), max_in_flight: 64 }.encode(&mut opening);
    SessionHeader { session: 18, serial: 3, low: 2 }.encode(&mut command);
    command.extend_from_slice(b"set");
    encode_session_ids(&[18, 19], &mut ids);
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::OpenSession, &opening);
    builder.push(EntryKind::SessionCommand, &command);
    builder.push(EntryKind::KeepSessions, &ids);
    builder.push(EntryKind::CloseSessions, &ids);
    let batch = builder.seal(CLUSTER, GROUP, LeaderId::new(5, 2), 18, 1000).unwrap();
    assert!(!batch.has_special(), "the core makes none of these");
    check(
        append(std::slice::from_ref(&batch)),
        [batch].into_iter().collect(),
        "03 00 0000 5a000000 (9) (305)  (5) (2) 01 (11) (12) (16) (300000000) (21) (0) 00  (4) (3) (17)
         46000000 03 000000 (9) (5) (2) (18) (1000) 0e000000 0000 (1000000000) 40000000  f3cda24d
         4f000000 04 000000 (9) (5) (2) (19) (1000) (18) (3) (2) 736574                  96671c3e
         4e000000 05 000000 (9) (5) (2) (20) (1000) 16000000 0000 02000000 (18) (19)     e996b597
         4e000000 06 000000 (9) (5) (2) (21) (1000) 16000000 0000 02000000 (18) (19)     f794cc77",
    );
}

#[test]
fn append_replies() {
    check(
        append_reply(AppendAnswer::Accepted { matched: log_id() }),
        Batches::new(),
        "04 00 0000 43000000 (9) (0)  (5) (2) 01 (11) (12) (300000000) 00  00 (4) (3) (17)",
    );
    check(
        append_reply(AppendAnswer::Conflict { prev: log_id(), hint: LogId::ZERO }),
        Batches::new(),
        "04 00 0000 5b000000 (9) (0)  (5) (2) 01 (11) (12) (300000000) 00  01 (4) (3) (17) (0) (0) (0)",
    );
    check(
        after_a_loss(append_reply(AppendAnswer::Conflict { prev: log_id(), hint: LogId::ZERO })),
        Batches::new(),
        "04 00 0000 63000000 (9) (0)  (5) (2) 01 (11) (12) (300000000) 01 (77)  01 (4) (3) (17) (0) (0) (0)",
    );
    check(
        append_reply(AppendAnswer::Refused { seen: Vote::uncommitted(LeaderId::new(6, 1)) }),
        Batches::new(),
        "04 00 0000 3c000000 (9) (0)  (5) (2) 01 (11) (12) (300000000) 00  02 (6) (1) 00",
    );
}

#[test]
fn reads() {
    let request = RequestId(13);
    let ask = |by| Message::ReadRequest { request, by };
    check(ask(ReadConfirmation::Round), Batches::new(), "05 00 0000 09000000 (9) (0)  (13) 00");
    check(ask(ReadConfirmation::Lease), Batches::new(), "05 00 0000 09000000 (9) (0)  (13) 01");
    check(
        Message::ReadReply { request, log_id: Some(log_id()) },
        Batches::new(),
        "06 00 0000 21000000 (9) (0)  (13) 01 (4) (3) (17)",
    );
    check(Message::ReadReply { request, log_id: None }, Batches::new(), "06 00 0000 09000000 (9) (0)  (13) 00");
}

#[test]
fn transfer_leader() {
    check(
        Message::TransferLeader { vote: leader(), last_log_id: log_id() },
        Batches::new(),
        "07 00 0000 29000000 (9) (0)  (5) (2) 01 (4) (3) (17)",
    );
}

#[test]
fn memberships() {
    let mut bytes = Vec::new();
    encode_membership(&membership(), &mut bytes);
    assert_eq!(format!("{bytes:02x?}"), format!("{:02x?}", hex(MEMBERSHIP)));
    assert_eq!(decode_membership(&bytes), Ok(membership()));
}

#[test]
fn snapshot_metas_and_headers() {
    let meta = SnapshotMeta { last_log_id: log_id(), membership_log_id: LogId::ZERO, membership: membership() };
    let mut bytes = Vec::new();
    encode_snapshot_meta(&meta, &mut bytes);
    let expected = hex(&format!("e5000000 0000 (4) (3) (17) (0) (0) (0) {MEMBERSHIP}"));
    assert_eq!(format!("{bytes:02x?}"), format!("{expected:02x?}"));
    assert_eq!(decode_snapshot_meta(&bytes), Ok(meta));

    bytes.clear();
    encode_append_header(&header(), &mut bytes);
    let expected = hex("44000000 0000 (5) (2) 01 (11) (12) (16) (300000000) (21) (0) 00");
    assert_eq!(format!("{bytes:02x?}"), format!("{expected:02x?}"));
    assert_eq!(decode_append_header(&bytes), Ok(header()));

    let heard = AppendHeader { heard: Some(StartId(77)), ..header() };
    bytes.clear();
    encode_append_header(&heard, &mut bytes);
    let expected = hex("4c000000 0000 (5) (2) 01 (11) (12) (16) (300000000) (21) (0) 01 (77)");
    assert_eq!(bytes, expected);
    assert_eq!(decode_append_header(&bytes), Ok(heard));
}

#[test]
fn an_append_without_entries_has_no_entries() {
    let Message::Append(append) = append(&[]) else { panic!("an append") };
    assert_eq!(append.entries, Entries::default());
}
