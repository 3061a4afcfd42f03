//! What arrives on a good day, and after a node came back.

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::advanced::core::{
    Append, AppendAnswer, AppendReply, Campaign, CampaignReason, Entries, Message, ReadConfirmation, RequestId, Round,
    StreamId, VoteAnswer, VoteReply, VoteRequest,
};
use quorate::advanced::wire::{BatchBuilder, entries_of};
use quorate::{
    AppendHeader, Batches, ClusterId, EntryKind, GroupId, Incarnation, LeaderId, LogId, Membership, NodeId,
    OutgoingSnapshot, Packet, Phase, RaftNetwork, SendOutcome, SnapshotData, SnapshotMeta, SnapshotProgress,
    SnapshotSource, Vote,
};

use super::inbox::Told;
use super::{Node, Suite};
use crate::chance::Chance;
use crate::report::{Failure, Law};

const GROUP: GroupId = GroupId(5);
/// Waits between attempts to hand over a message that was refused.
const PAUSE: Duration = Duration::from_millis(2);

pub(super) fn header(number: u64) -> AppendHeader {
    AppendHeader {
        vote: Vote::committed(LeaderId::new(4, 1)),
        stream: StreamId(3),
        round: Round(number),
        commit: number,
        lease: Duration::from_millis(700),
        named: Some(Incarnation(22)),
        heard: None,
    }
}

/// An append of one entry at index `number`, with this payload.
pub(super) fn entries(number: u64, payload: &[u8]) -> Packet {
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::Command, payload);
    let sealed = builder.seal(ClusterId(0x7e57), GROUP, LeaderId::new(4, 1), number, 7);
    let batches: Batches = sealed.into_iter().collect();
    let prev = match number {
        1 => LogId::ZERO,
        _ => LogId::new(LeaderId::new(4, 1), number - 1),
    };
    let entries = entries_of(&batches).unwrap_or_default();
    Packet { group: GROUP, message: Message::Append(Append { header: header(number), prev, entries }), batches }
}

/// A message without entries, which carries a number.
pub(super) fn bare(number: u64) -> Packet {
    let prev = LogId::new(LeaderId::new(4, 1), number);
    let message = Message::Append(Append { header: header(number), prev, entries: Entries::default() });
    Packet { group: GROUP, message, batches: Batches::new() }
}

/// One message of each kind.
fn kinds() -> Vec<Packet> {
    let (vote, log_id) = (Vote::uncommitted(LeaderId::new(7, 2)), LogId::new(LeaderId::new(4, 1), 17));
    let (phase, campaign) = (Phase::Pre, Campaign(8));
    let reply = |answer| AppendReply {
        vote: Vote::committed(LeaderId::new(4, 1)),
        stream: StreamId(3),
        round: Round(9),
        promised: Duration::from_millis(100),
        lost: None,
        answer,
    };
    let by = ReadConfirmation::Lease;
    let reason = CampaignReason::Transfer(LeaderId::new(4, 1));
    let messages = [
        Message::VoteRequest(VoteRequest { phase, campaign, vote, last_log_id: log_id, reason }),
        Message::VoteReply(VoteReply { phase, campaign, requested: vote, answer: VoteAnswer::StaleLog(log_id) }),
        Message::AppendReply(reply(AppendAnswer::Accepted { matched: log_id })),
        Message::AppendReply(reply(AppendAnswer::Conflict { prev: log_id, hint: LogId::ZERO })),
        Message::ReadRequest { request: RequestId(1 << 40), by },
        Message::ReadReply { request: RequestId(1 << 40), log_id: Some(log_id) },
        Message::TransferLeader { vote: Vote::committed(LeaderId::new(4, 1)), last_log_id: log_id },
    ];
    let batches = Batches::new;
    let mut packets: Vec<_> =
        messages.into_iter().map(|message| Packet { group: GROUP, message, batches: batches() }).collect();
    packets.extend([bare(3), entries(4, b"four"), entries(5, b"")]);
    packets
}

/// What is compared of a packet: cut into other batches it is the same.
pub(super) fn essence(packet: &Packet) -> (GroupId, Message, Vec<u8>) {
    let mut bytes = Vec::new();
    packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    (packet.group, packet.message.clone(), bytes)
}

pub(super) fn words(packet: &Packet) -> String {
    let bytes: usize = packet.batches.iter().map(|batch| batch.bytes().len()).sum();
    format!("{:?} with {bytes} bytes of entries", packet.message)
}

/// Hands a message over until it is taken: a connection may have to be made first.
pub(super) fn offer<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    step: &str,
    mut attempt: impl FnMut() -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + suite.options.patience;
    while !attempt() {
        if Instant::now() >= deadline {
            let found = format!("it was refused for {:?}", suite.options.patience);
            return Err(Failure::new(Law::Reconnects, step, "the message is taken", found));
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Sends a packet until it is taken.
pub(super) fn send<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    from: &Node<N>,
    to: NodeId,
    packet: &Packet,
    step: &str,
) -> Result<(), Failure> {
    offer(suite, step, || from.network.send(to, packet.clone()).is_ok())
}

/// Waits for the next packet that `wanted` knows, in the order of arrival.
fn arrival<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    at: &Node<N>,
    wanted: impl Fn(&Packet) -> bool,
    step: &str,
) -> Result<(NodeId, Incarnation, Packet), Failure> {
    let found = at.inbox.wait(suite.options.patience, |told| {
        let place = told.iter().position(|told| matches!(told, Told::Packet(_, _, packet) if wanted(packet)))?;
        match told.remove(place) {
            Told::Packet(from, incarnation, packet) => Some((from, incarnation, packet)),
            Told::Call(..) | Told::Lost(..) | Told::Snapshot(..) => None,
        }
    });
    found.ok_or_else(|| {
        let seen = at.inbox.look(|told| told.len());
        Failure::new(Law::ArrivesWhole, step, "it arrives", format!("{seen} other things"))
    })
}

fn check_sender<N: RaftNetwork>(from: &Node<N>, told: (NodeId, Incarnation), step: &str) -> Result<(), Failure> {
    let expected = (from.me.node, from.me.incarnation);
    match told == expected {
        true => Ok(()),
        false => {
            let text = |who: (NodeId, Incarnation)| format!("{} on disk {}", who.0, who.1);
            Err(Failure::new(Law::ToWhomItConcerns, step, text(expected), text(told)))
        }
    }
}

/// Sends a packet and waits until it, and nothing else, has arrived.
fn round<N: RaftNetwork>(suite: &Suite<'_, N>, from: &Node<N>, to: &Node<N>, packet: &Packet) -> Result<(), Failure> {
    let step = format!("{} sends {}: {}", from.id(), to.id(), words(packet));
    send(suite, from, to.id(), packet, &step)?;
    let (sender, incarnation, arrived) = arrival(suite, to, |_| true, &step)?;
    check_sender(from, (sender, incarnation), &step)?;
    match essence(&arrived) == essence(packet) {
        true => Ok(()),
        false => Err(Failure::new(Law::ArrivesWhole, step, words(packet), words(&arrived))),
    }
}

/// Every kind of message and call, both ways; to nobody nothing.
pub(super) fn messages<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two) = suite.pair()?;
    let mut checks = 0;
    for packet in kinds() {
        round(suite, &one, &two, &packet)?;
        round(suite, &two, &one, &packet)?;
        checks += 2;
    }
    for size in [0, 10, 40_000, 1 << 20] {
        let body = Bytes::from(Chance::new(size as u64).bytes(size));
        let step = format!("a call of {size} bytes");
        offer(suite, &step, || one.network.call(two.id(), body.clone()))?;
        let is_it = |told: &mut Vec<Told>| {
            told.iter().any(|told| matches!(told, Told::Call(NodeId(1), found) if *found == body)).then_some(())
        };
        if two.inbox.wait(suite.options.patience, is_it).is_none() {
            return Err(Failure::new(Law::ArrivesWhole, step, "it arrives", "nothing, or something else"));
        }
        checks += 1;
    }
    let step = "a message to a node that nobody knows";
    if one.network.send(NodeId(9), bare(1)).is_ok() || one.network.call(NodeId(9), Bytes::new()) {
        return Err(Failure::new(Law::ToWhomItConcerns, step, "it is given back", "it was taken"));
    }
    Ok(checks + 1)
}

/// The numbers of the appends that have arrived, in order.
fn numbers(told: &[Told]) -> Vec<(u64, bool)> {
    told.iter()
        .filter_map(|told| match told {
            Told::Packet(_, _, packet) => match &packet.message {
                Message::Append(append) => Some((append.header.round.0, !packet.batches.is_empty())),
                _ => None,
            },
            Told::Call(..) | Told::Lost(..) | Told::Snapshot(..) => None,
        })
        .collect()
}

/// Many entries, and questions sent behind them.
pub(super) fn order<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    const MESSAGES: u64 = 400;
    let (one, two) = suite.pair()?;
    let step = "400 messages with entries, some large, and a message behind every fifth";
    for number in 1..=MESSAGES {
        let size = if number % 40 == 0 { 300_000 } else { 100 };
        send(suite, &one, two.id(), &entries(number, &vec![number as u8; size]), step)?;
        if number % 5 == 0 {
            offer(suite, step, || one.network.send_behind(two.id(), bare(number)).is_ok())?;
        }
    }
    let expected = (MESSAGES + MESSAGES / 5) as usize;
    let all = two.inbox.wait(suite.options.patience, |told| (numbers(told).len() >= expected).then_some(()));
    let arrived = two.inbox.look(|told| numbers(told));
    if all.is_none() {
        let found = format!("{}", arrived.len());
        return Err(Failure::new(Law::ArrivesWhole, step, format!("{expected} messages"), found));
    }
    let mut before = 0;
    for (place, (number, is_entries)) in arrived.iter().enumerate() {
        let expected = if *is_entries { before + 1 } else { before };
        if *number != expected {
            let law = if *is_entries && *number <= before { Law::ArrivesOnce } else { Law::LanesKeepOrder };
            let what = if *is_entries { "entries" } else { "the message behind" };
            let step = format!("{step}: arrival {place}");
            return Err(Failure::new(law, step, format!("number {expected}"), format!("{what} {number}")));
        }
        before = if *is_entries { *number } else { before };
    }
    // Behind what was sent last everything else has arrived: nothing may come twice.
    round_after(suite, &one, &two, MESSAGES + 1)?;
    let after = two.inbox.look(|told| numbers(told).len());
    match after == expected {
        true => Ok(expected),
        false => Err(Failure::new(Law::ArrivesOnce, step, expected.to_string(), after.to_string())),
    }
}

/// Sends one more message with entries and waits for it, among others.
fn round_after<N: RaftNetwork>(suite: &Suite<'_, N>, one: &Node<N>, two: &Node<N>, number: u64) -> Result<(), Failure> {
    let (packet, step) = (entries(number, b"last"), "one more message with entries");
    send(suite, one, two.id(), &packet, step)?;
    arrival(suite, two, |arrived| essence(arrived) == essence(&packet), step).map(drop)
}

/// Entries of all sizes up to the largest, alone and together.
pub(super) fn large<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two) = suite.pair()?;
    let mut sizes = vec![1, 4_095, 65_536, 1 << 20];
    sizes.extend([suite.options.largest - 1, suite.options.largest]);
    for size in &sizes {
        round(suite, &one, &two, &entries(1, &Chance::new(*size as u64).bytes(*size)))?;
    }
    let mut packet = entries(1, &[1; 100_000]);
    for number in 2..=20 {
        packet.batches.extend(entries(number, &vec![number as u8; 100_000]).batches);
    }
    if let Message::Append(append) = &mut packet.message {
        append.entries = entries_of(&packet.batches).unwrap_or_default();
    }
    round(suite, &one, &two, &packet)?;
    Ok(sizes.len() + 1)
}

fn meta(number: u64) -> SnapshotMeta {
    let log_id = LogId::new(LeaderId::new(4, 1), number);
    SnapshotMeta { last_log_id: log_id, membership_log_id: LogId::ZERO, membership: Membership::default() }
}

/// Transfers from memory and from a file, and to nobody.
pub(super) fn snapshots<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two) = suite.pair()?;
    round_after(suite, &one, &two, 1)?;
    let file = std::env::temp_dir().join(format!("quorate-conformance-snapshot-{}", std::process::id()));
    let sizes = [10_usize, 300_000, 3 << 20];
    for (number, size) in (1..).zip(sizes) {
        let content = Chance::new(number).bytes(size);
        let step = format!("a snapshot of {size} bytes");
        let broken = |found: &str| Failure::new(Law::ArrivesWhole, step.as_str(), "it arrives whole", found);
        let source = match number % 2 {
            0 => {
                let made = std::fs::File::create(&file).and_then(|mut made| made.write_all(&content));
                let opened = made.and_then(|()| std::fs::File::open(&file));
                SnapshotSource::File(opened.map_err(|error| broken(&error.to_string()))?)
            }
            _ => SnapshotSource::Memory(content.clone().into()),
        };
        transfer(suite, &one, two.id(), number, source, SendOutcome::Delivered, &step)?;
        let found = two.inbox.wait(suite.options.patience, |told| {
            let place = told.iter().position(|told| matches!(told, Told::Snapshot(..)))?;
            match told.remove(place) {
                Told::Snapshot(from, incarnation, snapshot) => Some((from, incarnation, snapshot)),
                Told::Packet(..) | Told::Call(..) | Told::Lost(..) => None,
            }
        });
        let (from, incarnation, snapshot) = found.ok_or_else(|| broken("nothing"))?;
        check_sender(&one, (from, incarnation), &step)?;
        let arrived = match snapshot.data {
            SnapshotData::Memory(bytes) => bytes.to_vec(),
            SnapshotData::File(path) => std::fs::read(path).map_err(|error| broken(&error.to_string()))?,
        };
        let same = (snapshot.group, snapshot.header, &snapshot.meta) == (GROUP, header(number), &meta(number));
        if !same || arrived != content {
            return Err(broken(&format!("{:?}, {} bytes", snapshot.meta, arrived.len())));
        }
    }
    let nobody = SnapshotSource::Memory(Bytes::from_static(b"content"));
    let step = "a snapshot to a node that nobody knows";
    transfer(suite, &one, NodeId(9), 1, nobody, SendOutcome::Failed, step)?;
    // It may not be there any more.
    let _ = std::fs::remove_file(file);
    Ok(sizes.len() + 1)
}

fn transfer<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    from: &Node<N>,
    to: NodeId,
    number: u64,
    source: SnapshotSource,
    expected: SendOutcome,
    step: &str,
) -> Result<(), Failure> {
    let outcome = outcome(suite, from, to, number, source, step)?;
    match outcome == expected {
        true => Ok(()),
        false => {
            let (expected, found) = (format!("{expected:?}"), format!("{outcome:?}"));
            Err(Failure::new(Law::TransferEndsOnce, step, expected, found))
        }
    }
}

/// Sends a snapshot; returns how that ended.
pub(super) fn outcome<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    from: &Node<N>,
    to: NodeId,
    number: u64,
    source: SnapshotSource,
    step: &str,
) -> Result<SendOutcome, Failure> {
    let (done, ended) = mpsc::channel();
    let progress = SnapshotProgress::default();
    let snapshot = OutgoingSnapshot { group: GROUP, header: header(number), meta: meta(number), source, progress };
    // Nobody listens any more once the suite has given up.
    from.network.send_snapshot(to, snapshot, Box::new(move |outcome| _ = done.send(outcome)));
    let ended = ended.recv_timeout(suite.options.patience);
    ended.map_err(|error| {
        Failure::new(Law::TransferEndsOnce, step, "it ends, whatever becomes of it", error.to_string())
    })
}

/// Node 2 stops, and comes back: first the same disk, then another, each time at another address.
pub(super) fn reconnect<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, mut two) = suite.pair()?;
    round_after(suite, &one, &two, 1)?;
    let mut checks = 0;
    for (life, disk, boot) in [(1, 22, 2), (2, 33, 1), (3, 33, 2)] {
        let step = format!("node 2 comes back, life {life}, disk {disk}, boot {boot}");
        two.network.shutdown();
        let gone = std::sync::Arc::clone(&two.inbox);
        let next = suite.node(2, disk, boot)?;
        one.network.set_address(next.id(), &next.address);
        next.network.set_address(one.id(), &one.address);
        two = next;
        one.inbox.look(|told| told.clear());
        // A message that is taken may still be lost with the old connection.
        let deadline = Instant::now() + suite.options.patience;
        let packet = entries(life + 10, b"are you there?");
        let mut is_there = false;
        while !is_there && Instant::now() < deadline {
            // Refused is as good as lost here: it is sent again.
            let _ = one.network.send(two.id(), packet.clone());
            let arrived = two.inbox.wait(Duration::from_millis(50), |told| {
                told.iter().any(|told| matches!(told, Told::Packet(..))).then_some(())
            });
            is_there = arrived.is_some();
            let is_new = |told: &&Told| matches!(told, Told::Packet(_, _, found) if essence(found) == essence(&packet));
            // It was sent after the network had been told where the node is now.
            if gone.look(|told| told.iter().any(|one| is_new(&one))) {
                let found = "it arrives at the node that was stopped";
                return Err(Failure::new(Law::ToWhomItConcerns, step, "messages go to the node there is", found));
            }
        }
        if !is_there {
            return Err(Failure::new(Law::Reconnects, step, "a message arrives", "nothing"));
        }
        two.inbox.look(|told| told.clear());
        round_after(suite, &two, &one, life + 20)?;
        let packet = bare(life + 30);
        send(suite, &two, one.id(), &packet, &step)?;
        let (sender, incarnation, _) = arrival(suite, &one, |found| essence(found) == essence(&packet), &step)?;
        check_sender(&two, (sender, incarnation), &step)?;
        checks += 3;
    }
    Ok(checks)
}
