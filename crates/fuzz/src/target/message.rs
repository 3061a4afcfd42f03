//! What frames and entries carry: messages of the protocol, entries, memberships, sessions, calls.

use bytes::Bytes;
use quorate::advanced::sessions::{Answer, LogPlace, SessionLimits, SessionTable};
use quorate_core::LeaderIdMode;
use quorate_wire::{
    Batch, EntryKind, Packet, SessionHeader, SessionOpening, WireError, decode_append_header, decode_membership,
    decode_session_ids, decode_snapshot_meta, encode_append_header, encode_membership, encode_session_ids,
    encode_snapshot_meta, entries_of,
};

use crate::outcome::Outcome;
use crate::repair as mend;
use crate::samples::{
    CLUSTER, GROUP, batches, encoded_membership, header, log_id, meta, packets, session_payloads, whole_packet,
};

/// Most voters of a membership whose rules are judged: judging takes time by their subsets.
const MAX_JUDGED_VOTERS: usize = 8;

/// Bytes of a message. The first byte says of what kind.
pub fn message(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let Some((kind, rest)) = bytes.split_first() else { return outcome };
    outcome.shape = u64::from(kind % 9);
    let accepted = match kind % 9 {
        0 => outcome.took(packet(rest)),
        1 => outcome.took(entries(rest)),
        2 => outcome.took(membership(rest)),
        3 => outcome.took(again(rest, decode_snapshot_meta, encode_snapshot_meta).map(|_| ())),
        4 => outcome.took(again(rest, decode_append_header, encode_append_header).map(|_| ())),
        5 => outcome.took(session_table(rest)),
        6 => quorate::hostile::call(Bytes::copy_from_slice(rest)).then_some(()),
        _ => session_entry(rest, &mut outcome),
    };
    if accepted.is_some() {
        outcome.accept();
    }
    outcome
}

/// Reads, writes what was read, and reads that: the same.
fn again<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, WireError>,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> Result<T, WireError> {
    let value = decode(bytes)?;
    let mut written = Vec::new();
    encode(&value, &mut written);
    assert!(written.len() <= bytes.len(), "what is read is written in no more bytes");
    assert_eq!(decode(&written).as_ref(), Ok(&value), "it reads the same once it is written again");
    Ok(value)
}

fn packet(bytes: &[u8]) -> Result<(), WireError> {
    let packet = Packet::decode(CLUSTER, Bytes::copy_from_slice(bytes))?;
    assert_eq!(packet.body_len(), packet.batches.iter().map(|batch| batch.bytes().len() as u64).sum::<u64>());
    let again = Packet::decode(CLUSTER, whole_packet(&packet));
    let again = again.expect("a packet that was read is read once it is written again");
    assert_eq!((again.group, &again.message), (packet.group, &packet.message), "it reads the same");
    assert_eq!(again.batches, packet.batches, "its entries read the same");
    packet.batches.iter().for_each(check_batch);
    Ok(())
}

fn entries(bytes: &[u8]) -> Result<(), String> {
    let given = Bytes::copy_from_slice(bytes);
    let batches = Batch::decode(CLUSTER, GROUP, given).map_err(|error| error.to_string())?;
    let joined: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().iter().copied()).collect();
    assert_eq!(joined, bytes, "batches are the bytes that they were read from");
    batches.iter().for_each(check_batch);
    entries_of(&batches).map(|_| ()).map_err(|error| error.to_string())
}

/// A batch says of itself what its entries say, whole and in parts.
fn check_batch(batch: &Batch) {
    let indexes: Vec<u64> = batch.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indexes.len() as u64, batch.count(), "as many entries as it says");
    assert_eq!((indexes.first(), indexes.last()), (Some(&batch.first().index), Some(&batch.last().index)));
    for entry in batch.iter() {
        assert_eq!(batch.payload(&entry), entry.payload);
    }
    let middle = batch.first().index + batch.count() / 2;
    let (front, back) = (batch.slice(0, middle), batch.slice(middle + 1, u64::MAX));
    let parts: u64 = front.iter().chain(&back).map(Batch::count).sum();
    assert_eq!(parts, batch.count(), "parts are together the whole");
}

fn membership(bytes: &[u8]) -> Result<(), WireError> {
    let membership = again(bytes, decode_membership, encode_membership)?;
    if membership.configs.iter().all(|set| set.voters.len() <= MAX_JUDGED_VOTERS) {
        for mode in [LeaderIdMode::Advanced, LeaderIdMode::Standard] {
            drop(membership.check(mode));
        }
    }
    Ok(())
}

fn session_table(bytes: &[u8]) -> Result<(), WireError> {
    let decode = |bytes: &[u8]| SessionTable::decode(SessionLimits::V1, bytes);
    let mut table = again(bytes, decode, SessionTable::encode)?;
    // What no node wrote must not harm the node that goes on with it.
    let at = LogPlace { index: u64::MAX / 2, time: u64::MAX / 2 };
    let opening = SessionOpening { time_to_live: std::time::Duration::from_secs(1), max_in_flight: 4 };
    for session in [1, 4, u64::MAX] {
        let header = SessionHeader { session, serial: 2, low: 2 };
        if table.command(at, header) == quorate::advanced::sessions::Verdict::Apply {
            table.remember(header, Answer { log_id: log_id(3, 9), response: Some(Bytes::from_static(b"done")) });
        }
        drop(table.command(at, SessionHeader { session, serial: u64::MAX, low: u64::MAX }));
    }
    table.open(at, opening);
    table.keep(at, &[1, 4]);
    table.close(at, &[4]);
    table.advance(u64::MAX);
    Ok(())
}

/// An entry about sessions: its kind, then its payload.
fn session_entry(bytes: &[u8], outcome: &mut Outcome) -> Option<()> {
    let (kind, payload) = bytes.split_first()?;
    let kind = EntryKind::from_byte(kind % 8)?;
    let payload = Bytes::copy_from_slice(payload);
    outcome.took(quorate::hostile::session_entry(kind, &payload))?;
    match kind {
        EntryKind::OpenSession => {
            let opening = again(&payload, SessionOpening::decode, |opening, out| opening.encode(out));
            assert!(opening.is_ok(), "what may be proposed can be applied");
        }
        EntryKind::SessionCommand => {
            let header = SessionHeader::decode(&payload);
            assert!(header.is_ok(), "what may be proposed can be applied");
        }
        EntryKind::KeepSessions | EntryKind::CloseSessions => {
            let ids = again(&payload, decode_session_ids, |ids, out| encode_session_ids(ids, out));
            assert!(ids.is_ok(), "what may be proposed can be applied");
        }
        EntryKind::Command | EntryKind::Blank | EntryKind::Membership => {}
    }
    Some(())
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let tag = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let mut corpus: Vec<Vec<u8>> = packets().iter().map(|packet| tag(0, &whole_packet(packet))).collect();
    let entries: Vec<u8> = batches().iter().flat_map(|batch| batch.bytes().iter().copied()).collect();
    corpus.push(tag(1, &entries));
    corpus.extend([false, true].map(|joint| tag(2, &encoded_membership(joint))));
    let (mut metas, mut headers, mut table) = (Vec::new(), Vec::new(), Vec::new());
    encode_snapshot_meta(&meta(), &mut metas);
    encode_append_header(&header(), &mut headers);
    sessions().encode(&mut table);
    corpus.extend([tag(3, &metas), tag(4, &headers), tag(5, &table)]);
    corpus.extend(quorate::hostile::calls().iter().map(|call| tag(6, call)));
    let payloads = session_payloads();
    corpus.extend(payloads.iter().map(|(kind, payload)| tag(7, &tag(kind.to_byte(), payload))));
    corpus
}

/// A table with sessions, answers and a command that cannot be encoded.
pub(super) fn sessions() -> SessionTable {
    let mut table = SessionTable::new(SessionLimits::V1);
    let opening = SessionOpening { time_to_live: std::time::Duration::from_secs(60), max_in_flight: 8 };
    for session in [4, 6, 9] {
        table.open(LogPlace { index: session, time: session }, opening);
    }
    for (serial, response) in [(1, Some(Bytes::from_static(b"one"))), (2, None)] {
        let header = SessionHeader { session: 6, serial, low: 1 };
        drop(table.command(LogPlace { index: 10 + serial, time: 12 }, header));
        table.remember(header, Answer { log_id: log_id(2, 10 + serial), response });
    }
    table
}

pub(super) fn repair(bytes: &mut [u8]) {
    let Some((kind, rest)) = bytes.split_first_mut() else { return };
    match *kind % 9 {
        0 => drop(mend::packet(rest)),
        1 => drop(mend::entries(rest)),
        _ => {}
    }
}
