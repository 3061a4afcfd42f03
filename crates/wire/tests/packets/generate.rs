//! Random but reproducible packets.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::{
    Append, AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, ClusterId, GroupId, Incarnation,
    LeaderId, LeasePolicy, LogId, MAX_QUORUM_DEPTH, Membership, Message, Node, NodeId, Phase, Quorum, ReadConfirmation,
    RequestId, Retain, Round, Settings, SnapshotMeta, StartId, StreamId, Vote, VoteAnswer, VoteReply, VoteRequest,
    VoterSet,
};
use quorate_wire::{BatchBuilder, Batches, EntryKind, Packet, encode_membership, entries_of};

/// The cluster of every entry made here.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

/// Number of message kinds.
pub(crate) const KINDS: u64 = 7;

/// SplitMix64 (Steele, Lea, Flood 2014). The core's own is not public, and a generator for tests is not worth an export.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Small, large or anything; never `u64::MAX`, which terms and indexes cannot be.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(4),
            1 => self.below(1 << 20),
            2 => u64::MAX - 1 - self.below(3),
            _ => self.next() >> 1,
        }
    }
}

fn leader_id(rng: &mut Rng) -> LeaderId {
    LeaderId::new(rng.number(), rng.number())
}

fn log_id(rng: &mut Rng) -> LogId {
    LogId::new(leader_id(rng), rng.number())
}

fn vote(rng: &mut Rng) -> Vote {
    Vote { leader_id: leader_id(rng), committed: rng.coin() }
}

fn phase(rng: &mut Rng) -> Phase {
    if rng.coin() { Phase::Pre } else { Phase::Real }
}

pub(crate) fn header(rng: &mut Rng) -> AppendHeader {
    AppendHeader {
        vote: Vote::committed(leader_id(rng)),
        stream: StreamId(rng.number()),
        round: Round(rng.number()),
        commit: rng.number(),
        lease: Duration::from_nanos(rng.number()),
        named: rng.coin().then(|| Incarnation(u128::from(rng.number().max(1)))),
        heard: rng.coin().then(|| StartId(rng.number())),
    }
}

fn text(rng: &mut Rng) -> String {
    (0..rng.below(6)).map(|_| ['a', 'z', '.', ':', 'é', '字'][rng.below(6) as usize]).collect()
}

fn quorum(rng: &mut Rng, depth: usize) -> Quorum {
    if depth == MAX_QUORUM_DEPTH || rng.below(3) == 0 {
        return Quorum::Node(NodeId(rng.number()));
    }
    let of = (0..rng.below(4)).map(|_| (rng.next() as u32, quorum(rng, depth + 1))).collect();
    Quorum::AtLeast { need: rng.next() as u32, of }
}

fn voter_set(rng: &mut Rng) -> VoterSet {
    let incarnation = |rng: &mut Rng| Incarnation(u128::from(rng.next()) << 64 | u128::from(rng.next()));
    let voters: BTreeMap<_, _> = (0..rng.below(5)).map(|_| (NodeId(rng.number()), incarnation(rng))).collect();
    if rng.coin() {
        return VoterSet::majority(voters);
    }
    VoterSet { elect: quorum(rng, 0), commit: quorum(rng, 0), voters }
}

fn node(rng: &mut Rng) -> Node {
    let labels = (0..rng.below(3)).map(|_| (text(rng), text(rng))).collect();
    Node { address: text(rng), labels }
}

/// Any membership, sound or not: the format carries both.
pub(crate) fn membership(rng: &mut Rng) -> Membership {
    Membership {
        configs: (0..rng.below(3)).map(|_| voter_set(rng)).collect(),
        nodes: (0..rng.below(5)).map(|_| (NodeId(rng.number()), node(rng))).collect(),
        settings: Settings { lease: if rng.coin() { LeasePolicy::LeaseReads } else { LeasePolicy::FastFailover } },
        retain: if rng.coin() { Retain::AsLearners } else { Retain::Remove },
    }
}

pub(crate) fn snapshot_meta(rng: &mut Rng) -> SnapshotMeta {
    SnapshotMeta { last_log_id: log_id(rng), membership_log_id: log_id(rng), membership: membership(rng) }
}

/// Up to three batches of growing leaders after `prev`.
fn batches(rng: &mut Rng, group: GroupId, prev: LogId) -> Batches {
    let mut batches = Batches::new();
    let mut at = prev;
    for _ in 0..rng.below(4) {
        let mut builder = BatchBuilder::new();
        for _ in 0..1 + rng.below(3) {
            match rng.below(8) {
                0 => builder.push(EntryKind::Blank, b""),
                1 | 2 => {
                    let mut payload = Vec::new();
                    encode_membership(&membership(rng), &mut payload);
                    builder.push(EntryKind::Membership, &payload);
                }
                3 => {
                    let kinds = [EntryKind::OpenSession, EntryKind::KeepSessions, EntryKind::CloseSessions];
                    builder.push(kinds[rng.below(3) as usize], &rng.next().to_le_bytes());
                }
                4 => builder.push(EntryKind::SessionCommand, &[rng.next() as u8; 30]),
                _ => builder.push(EntryKind::Command, &vec![rng.next() as u8; rng.below(40) as usize]),
            }
        }
        let leader_id = LeaderId::new(at.leader_id.term + 1, rng.number());
        let batch = builder.seal(CLUSTER, group, leader_id, at.index + 1, rng.next()).unwrap();
        at = batch.last();
        batches.push(batch);
    }
    batches
}

fn append(rng: &mut Rng, group: GroupId) -> (Append, Batches) {
    let prev = LogId::new(LeaderId::new(rng.number() >> 1, rng.number()), rng.number() >> 1);
    let batches = batches(rng, group, prev);
    (Append { header: header(rng), prev, entries: entries_of(&batches).unwrap() }, batches)
}

/// A packet of the given kind, from 0 to [`KINDS`]` - 1`.
pub(crate) fn packet(rng: &mut Rng, kind: u64) -> Packet {
    let group = GroupId(rng.number());
    let mut entries = Batches::new();
    let message = match kind {
        0 => Message::VoteRequest(VoteRequest {
            phase: phase(rng),
            campaign: Campaign(rng.number()),
            vote: vote(rng),
            last_log_id: log_id(rng),
            reason: if rng.coin() { CampaignReason::Timeout } else { CampaignReason::Transfer(leader_id(rng)) },
        }),
        1 => Message::VoteReply(VoteReply {
            phase: phase(rng),
            campaign: Campaign(rng.number()),
            requested: vote(rng),
            answer: match rng.below(4) {
                0 => VoteAnswer::Granted,
                1 => VoteAnswer::StaleVote(vote(rng)),
                2 => VoteAnswer::StaleLog(log_id(rng)),
                _ => VoteAnswer::LeaderAlive,
            },
        }),
        2 => {
            let (append, batches) = append(rng, group);
            entries = batches;
            Message::Append(append)
        }
        3 => Message::AppendReply(AppendReply {
            vote: Vote::committed(leader_id(rng)),
            stream: StreamId(rng.number()),
            round: Round(rng.number()),
            promised: Duration::from_nanos(rng.number()),
            lost: rng.coin().then(|| StartId(rng.number())),
            answer: match rng.below(3) {
                0 => AppendAnswer::Accepted { matched: log_id(rng) },
                1 => AppendAnswer::Conflict { prev: log_id(rng), hint: log_id(rng) },
                _ => AppendAnswer::Refused { seen: vote(rng) },
            },
        }),
        4 => Message::ReadRequest {
            request: RequestId(rng.number()),
            by: if rng.coin() { ReadConfirmation::Round } else { ReadConfirmation::Lease },
        },
        5 => {
            let log_id = if rng.coin() { Some(log_id(rng)) } else { None };
            Message::ReadReply { request: RequestId(rng.number()), log_id }
        }
        _ => Message::TransferLeader { vote: Vote::committed(leader_id(rng)), last_log_id: log_id(rng) },
    };
    Packet { group, message, batches: entries }
}

/// The packet's bytes as a transport would write them.
pub(crate) fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_head(&mut bytes);
    let head = bytes.len();
    packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    assert_eq!((bytes.len() - head) as u64, packet.body_len());
    bytes
}
