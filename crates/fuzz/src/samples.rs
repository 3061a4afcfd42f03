//! Valid values that every corpus is made of.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, ClusterId, GroupId, Incarnation,
    LeaderId, LogId, Membership, Message, Node, NodeId, Phase, Quorum, ReadConfirmation, RequestId, Round,
    SnapshotMeta, StartId, StreamId, Vote, VoteAnswer, VoteReply, VoteRequest,
};
use quorate_wire::{
    Batch, BatchBuilder, Batches, EntryKind, Packet, SessionHeader, SessionOpening, encode_membership,
    encode_session_ids, entries_of,
};

/// The cluster of every sample.
pub(crate) const CLUSTER: ClusterId = ClusterId(7);
/// The group of most samples.
pub(crate) const GROUP: GroupId = GroupId(1);

pub(crate) fn leader(term: u64) -> LeaderId {
    LeaderId::new(term, 1)
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader(term), index)
}

/// Three voters; with `joint`, on their way to other rules.
pub(crate) fn membership(joint: bool) -> Membership {
    let member = |id: u64| {
        let labels = [("zone".to_owned(), "a".to_owned())].into_iter().collect();
        (NodeId(id), Incarnation(u128::from(id) << 64 | 9), Node { address: format!("host-{id}:2380"), labels })
    };
    let mut membership = Membership::majority((1..=3).map(member));
    if joint && let Some(mut set) = membership.configs.first().cloned() {
        let node = |id| (1, Quorum::Node(NodeId(id)));
        let inner = Quorum::AtLeast { need: 1, of: vec![node(2), node(3)] };
        set.commit = Quorum::AtLeast { need: 2, of: vec![node(1), (1, inner)] };
        membership.configs.push(set);
    }
    membership
}

pub(crate) fn encoded_membership(joint: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_membership(&membership(joint), &mut bytes);
    bytes
}

pub(crate) fn meta() -> SnapshotMeta {
    SnapshotMeta { last_log_id: log_id(2, 9), membership_log_id: log_id(1, 2), membership: membership(true) }
}

pub(crate) fn header() -> AppendHeader {
    AppendHeader {
        vote: Vote { leader_id: leader(2), committed: true },
        stream: StreamId(4),
        round: Round(17),
        commit: 5,
        lease: Duration::from_millis(200),
        named: Some(Incarnation(9)),
        heard: Some(StartId(7)),
    }
}

/// Payloads of the entries about sessions.
pub(crate) fn session_payloads() -> Vec<(EntryKind, Vec<u8>)> {
    let (mut opening, mut command, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    SessionOpening { time_to_live: Duration::from_secs(60), max_in_flight: 64 }.encode(&mut opening);
    SessionHeader { session: 4, serial: 2, low: 1 }.encode(&mut command);
    command.extend_from_slice(b"the command");
    encode_session_ids(&[4, 6, 9], &mut ids);
    vec![
        (EntryKind::OpenSession, opening),
        (EntryKind::SessionCommand, command),
        (EntryKind::KeepSessions, ids.clone()),
        (EntryKind::CloseSessions, ids),
        (EntryKind::Command, b"a command".to_vec()),
        (EntryKind::Blank, Vec::new()),
        (EntryKind::Membership, encoded_membership(true)),
    ]
}

pub(crate) fn batch(term: u64, first: u64, entries: &[(EntryKind, Vec<u8>)]) -> Option<Batch> {
    let mut builder = BatchBuilder::new();
    entries.iter().for_each(|(kind, payload)| builder.push(*kind, payload));
    builder.seal(CLUSTER, GROUP, leader(term), first, 5)
}

/// Batches of three leaders, one after the other.
pub(crate) fn batches() -> Batches {
    let sessions = session_payloads();
    let of = |term, first, range: std::ops::Range<usize>| batch(term, first, &sessions[range]);
    [of(1, 2, 0..3), of(2, 5, 3..6), of(4, 8, 6..7)].into_iter().flatten().collect()
}

/// One packet of each kind.
pub(crate) fn packets() -> Vec<Packet> {
    let vote = Vote { leader_id: leader(3), committed: true };
    let asked = Vote { leader_id: leader(4), committed: false };
    let (phase, campaign, last_log_id) = (Phase::Real, Campaign(6), log_id(2, 9));
    let request = |reason| Message::VoteRequest(VoteRequest { phase, campaign, vote: asked, last_log_id, reason });
    let vote_reply = |answer| Message::VoteReply(VoteReply { phase: Phase::Pre, campaign, requested: asked, answer });
    let answered = |answer, lost| {
        let promised = Duration::from_millis(100);
        Message::AppendReply(AppendReply { vote, stream: StreamId(4), round: Round(8), promised, lost, answer })
    };
    let reply = |answer| answered(answer, None);
    let (prev, hint) = (log_id(2, 8), log_id(1, 3));
    let mut packets: Vec<Packet> = [
        request(CampaignReason::Timeout),
        request(CampaignReason::Transfer(leader(3))),
        vote_reply(VoteAnswer::Granted),
        vote_reply(VoteAnswer::StaleVote(vote)),
        vote_reply(VoteAnswer::StaleLog(prev)),
        vote_reply(VoteAnswer::LeaderAlive),
        reply(AppendAnswer::Accepted { matched: prev }),
        reply(AppendAnswer::Conflict { prev, hint }),
        answered(AppendAnswer::Conflict { prev, hint }, Some(StartId(7))),
        reply(AppendAnswer::Refused { seen: asked }),
        Message::ReadRequest { request: RequestId(3), by: ReadConfirmation::Round },
        Message::ReadReply { request: RequestId(3), log_id: Some(prev) },
        Message::TransferLeader { vote, last_log_id },
    ]
    .into_iter()
    .map(|message| Packet { group: GROUP, message, batches: Batches::new() })
    .collect();
    let batches = batches();
    if let Ok(entries) = entries_of(&batches) {
        let message = Message::Append(Append { header: header(), prev: log_id(1, 1), entries });
        packets.push(Packet { group: GROUP, message, batches });
    }
    packets
}

/// A packet's head and body.
pub(crate) fn encode_packet(packet: &Packet) -> (Vec<u8>, Vec<u8>) {
    let mut head = Vec::new();
    packet.encode_head(&mut head);
    let body = packet.batches.iter().flat_map(|batch| batch.bytes().iter().copied()).collect();
    (head, body)
}

pub(crate) fn whole_packet(packet: &Packet) -> Bytes {
    let (head, body) = encode_packet(packet);
    [head, body].concat().into()
}
