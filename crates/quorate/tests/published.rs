//! Published bugs of other Raft libraries that lived above the core: what happens here in their place. Those of the
//! core are scripts, `testdata/published/`; docs/published-bugs.md lists both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::time::Duration;

use common::{PATIENCE, leader, start, stop};
use quorate::advanced::core::{
    Append, AppendHeader, ChangeMembers, Entries, LeaderId, Message, Retain, Round, StreamId, Vote,
};
use quorate::advanced::wire::{Batch, BatchBuilder, Batches, EntryError, EntryKind, Packet, WireError};
use quorate::{ClusterId, Config, GroupId, LogId, NodeId, ReadPolicy};

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(9);

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

fn batch(term: u64, first: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(EntryKind::Command, b"command");
    builder.seal(CLUSTER, GROUP, LeaderId::new(term, 1), first, first).unwrap()
}

/// What arrives of an append with this `prev` and these entries.
fn arrives(prev: LogId, batches: &[Batch]) -> Result<Packet, WireError> {
    let header = AppendHeader {
        vote: Vote::committed(LeaderId::new(9, 1)),
        stream: StreamId(1),
        round: Round(1),
        commit: 0,
        lease: Duration::ZERO,
        named: None,
        heard: None,
    };
    let message = Message::Append(Append { header, prev, entries: Entries::default() });
    let packet = Packet { group: GROUP, message, batches: Batches::from_iter(batches.iter().cloned()) };
    let mut bytes = Vec::new();
    packet.encode_head(&mut bytes);
    packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    Packet::decode(CLUSTER, bytes.into())
}

/// OpenRaft issue 1795: after a failed read a leader sent entries from the middle of its log behind "no entry before",
/// and the follower's log had a gap. Such an append cannot be decoded here, whatever its sender believes.
#[test]
fn entries_that_do_not_follow_are_malformed() {
    arrives(log_id(3, 6), &[batch(3, 7), batch(4, 8)]).unwrap();
    for (prev, entries) in [
        (LogId::ZERO, vec![batch(3, 7)]),
        (log_id(3, 5), vec![batch(3, 7)]),
        (log_id(3, 7), vec![batch(3, 7)]),
        (log_id(4, 6), vec![batch(3, 7)]),
        (log_id(3, 6), vec![batch(3, 7), batch(3, 9)]),
    ] {
        let refused = arrives(prev, &entries);
        let is_gap = matches!(refused, Err(WireError::Gap { .. } | WireError::Entry(EntryError::Gap { .. })));
        assert!(is_gap, "{entries:?} after {prev}: {refused:?}");
    }
}

/// OpenRaft issue 1810: to remove a follower, the leader's loop waited for the append that hung on its connection. Here
/// nothing waits for a peer: one that takes everything and answers nothing is removed while others write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hangs_is_removed_while_others_write() {
    let (network, nodes) = start(4, Config::default()).await;
    let leading = leader(&nodes).await;
    let hung = nodes.iter().map(|node| node.node_id()).find(|id| *id != leading.node_id()).unwrap();
    network.isolate(hung);
    let mut writers = Vec::new();
    for i in 0..50 {
        writers.push(tokio::spawn(leading.client_write(format!("{i}"))));
    }
    let change = ChangeMembers::RemoveVoters([NodeId(hung.0)].into());
    leading.change_membership(change, Retain::Remove).await.unwrap();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let end = leading.client_write("end".into()).await.unwrap().log_id.index;
    for node in nodes.iter().filter(|node| node.node_id() != hung) {
        node.wait(PATIENCE).applied_index_at_least(end).await.unwrap();
    }
    let seen = leading.read(ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await.unwrap();
    assert_eq!(seen, 51, "every write is applied once");
    stop(nodes).await;
}
