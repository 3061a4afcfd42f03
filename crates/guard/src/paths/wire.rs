//! The wire format.

use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, AppendHeader, ClusterId, GroupId, Incarnation, LeaderId, LogId, Message, Round, StreamId, Vote,
};
use quorate_wire::{BatchBuilder, Batches, EntryKind, Packet, entries_of};

use crate::measured;

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(1);
const ENTRIES: usize = 64;
const COMMAND: [u8; 256] = [b'x'; 256];
const PACKETS: u64 = 200;

/// One after the other, the batch sealed before it is sent as the proposer does, and all that follows from the bytes.
pub(super) fn packet() -> Result<u64, Box<dyn Error>> {
    let leader_id = LeaderId::new(3, 1);
    let mut builder = BatchBuilder::new();
    let mut pass = |first: u64| -> Result<u64, Box<dyn Error>> {
        (0..ENTRIES).for_each(|_| builder.push(EntryKind::Command, &COMMAND));
        let batch = builder.seal(CLUSTER, GROUP, leader_id, first, 5).ok_or("a batch has entries")?;
        let batches = Batches::from_iter([batch]);
        let header = AppendHeader {
            vote: Vote { leader_id, committed: true },
            stream: StreamId(1),
            round: Round(first),
            commit: first - 1,
            lease: Duration::from_millis(500),
            named: Some(Incarnation(2)),
            heard: None,
        };
        let append = Append { header, prev: LogId::new(leader_id, first - 1), entries: entries_of(&batches)? };
        let packet = Packet { group: GROUP, message: Message::Append(append), batches };
        let mut bytes = Vec::with_capacity(1 << 15);
        packet.encode_head(&mut bytes);
        packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
        let read = Packet::decode(CLUSTER, Bytes::from(bytes))?;
        Ok(black_box(read).batches.iter().map(|batch| batch.count()).sum())
    };
    pass(2)?;
    let mut entries = 0;
    measured(|| -> Result<(), Box<dyn Error>> {
        for at in 0..PACKETS {
            entries += pass(2 + at * ENTRIES as u64)?;
        }
        Ok(())
    })?;
    if entries != PACKETS * ENTRIES as u64 {
        return Err("packets lost entries".into());
    }
    Ok(PACKETS)
}
