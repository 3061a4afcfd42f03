//! Snapshots: files of this node and of peers, and what is in them.

use std::io::Read;
use std::sync::Arc;

use quorate::hostile::{Restored, content, restore};
use quorate::{RaftStateMachine, Raw};
use quorate_core::GroupId;
use quorate_server::mvcc::{Command, Store};
use quorate_server::proto::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use quorate_wal::{OnDamage, SnapshotStore};

use super::message::sessions;
use crate::dir;
use crate::outcome::Outcome;
use crate::repair as mend;
use crate::samples::{GROUP, header, meta};

/// Bytes of a snapshot. The first byte says whether a file, or an announcement, or a content.
pub fn snapshot(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let Some((kind, rest)) = bytes.split_first() else { return outcome };
    outcome.shape = u64::from(kind % 4);
    match kind % 4 {
        0 | 1 => file(rest, &mut outcome),
        2 => {
            if outcome.took(quorate_net::hostile::begin(rest)).is_some() {
                outcome.accept();
            }
        }
        _ => contents(rest, &mut outcome),
    }
    outcome
}

/// The same file, as this node's newest and as one that a peer sends.
fn file(bytes: &[u8], outcome: &mut Outcome) {
    let disk = dir::copy(&dir::lived()[0]);
    let name = format!("snapshots/{GROUP}/{:016x}-{:016x}-{:016x}.snap", 99, 9, 1);
    dir::put(&disk, &dir::dir().join(name), bytes);
    let (_core, handle) = dir::open(&disk, OnDamage::Refuse).expect("the log is whole");
    let store = handle.snapshots();
    let own = store.latest(GROUP);
    let own =
        outcome.took(own).flatten().map(|file| (file.meta().clone(), file.content_bytes(), file.verify().is_ok()));
    let Some((found, content)) = received(store, GROUP, bytes, outcome) else { return };
    assert_eq!(own, Some((found, content.len() as u64, true)), "own and received files are judged alike");
    contents(&content, outcome);
}

fn received(
    store: &SnapshotStore,
    group: GroupId,
    bytes: &[u8],
    outcome: &mut Outcome,
) -> Option<(quorate_core::SnapshotMeta, Vec<u8>)> {
    let mut incoming = outcome.took(store.receive(group))?;
    bytes.chunks(1000).for_each(|some| incoming.append(some).expect("a disk in memory does not fail"));
    let received = outcome.took(incoming.finish())?;
    let mut content = Vec::new();
    received.content().read_to_end(&mut content).expect("a file that was verified is read");
    let adopted = store.adopt(received).expect("a file that was verified is adopted");
    let mut again = Vec::new();
    adopted.content().read_to_end(&mut again).expect("an adopted file is read");
    assert_eq!(again, content, "adopting changes nothing");
    let copy = Arc::new(adopted.meta().clone());
    Some(((*copy).clone(), content))
}

fn contents(bytes: &[u8], outcome: &mut Outcome) {
    let Some(restored) = outcome.took(restore::<Store>(bytes)) else { return };
    let written = content(&restored).expect("what was restored is written");
    let again: Restored<Store> = restore(&written).expect("what was written is restored");
    assert_eq!(again.time, restored.time);
    assert_eq!(again.sessions, restored.sessions, "sessions are restored the same");
    assert_eq!(again.state, restored.state, "the state is restored the same");
    outcome.accept();
    go_on(restored.state);
}

/// What no node wrote must not harm the node that goes on with it.
fn go_on(mut store: Store) {
    let all = || RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let read = store.range(&all()).expect("the present can be read");
    let keys = read.kvs.iter().map(|kv| kv.key.clone()).take(4).chain([b"a".to_vec().into()]);
    for key in keys.collect::<Vec<_>>() {
        for _ in 0..2 {
            let put = PutRequest { key: key.clone(), value: b"v".to_vec().into(), prev_kv: true, ..Default::default() };
            let _: Raw = store.apply(Command::Put(put).encode());
        }
        let old = RangeRequest { revision: store.revision() - 1, ..all() };
        drop(store.range(&old));
    }
    let delete = DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: true };
    let _: Raw = store.apply(Command::DeleteRange(delete).encode());
    assert_eq!(store.sizes().live, 0, "nothing is left");
    let compaction = CompactionRequest { revision: store.revision(), physical: true };
    let _: Raw = store.apply(Command::Compaction(compaction).encode());
    assert_eq!(store.sizes().total, 0, "nothing is left of the past either");
}

/// A content with sessions and keys.
fn sample() -> Vec<u8> {
    let mut store = Store::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        let put = PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let _: Raw = store.apply(Command::Put(put).encode());
    }
    let delete = DeleteRangeRequest { key: b"b".to_vec().into(), ..Default::default() };
    let _: Raw = store.apply(Command::DeleteRange(delete).encode());
    let member = quorate_server::mvcc::MemberAttributes {
        id: 1,
        name: "one".to_owned(),
        client_urls: vec!["http://one:2379".to_owned()],
    };
    let _: Raw = store.apply(Command::Member(member).encode());
    let _: Raw = store.apply(Command::Compaction(CompactionRequest { revision: 3, physical: false }).encode());
    content(&Restored { state: store, time: 17, sessions: sessions() }).expect("a vector takes all")
}

/// The file of a snapshot with this content.
fn sample_file(content: &[u8]) -> Vec<u8> {
    let disk = dir::copy(&dir::lived()[0]);
    let (_core, handle) = dir::open(&disk, OnDamage::Refuse).expect("the log is whole");
    let mut writer = handle.snapshots().create(GROUP, &meta()).expect("a disk in memory does not fail");
    std::io::Write::write_all(&mut writer, content).expect("a disk in memory does not fail");
    let file = writer.commit().expect("a disk in memory does not fail");
    let mut bytes = vec![0; file.len() as usize];
    let read = file.read_at(0, &mut bytes).expect("a disk in memory does not fail");
    bytes.truncate(read);
    bytes
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let content = sample();
    let tag = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let identity = quorate_net::LocalIdentity {
        cluster: crate::samples::CLUSTER,
        node: quorate_core::NodeId(1),
        incarnation: quorate_core::Incarnation(9),
        starts: quorate_core::Starts::counted(1),
        mode: quorate_core::LeaderIdMode::Advanced,
    };
    let net = quorate_net::hostile::samples(&identity, quorate_core::NodeId(2), &[], &[], (header(), meta()));
    let mut corpus = vec![tag(0, &sample_file(&content)), tag(0, &sample_file(b"")), tag(3, &content)];
    corpus.extend(net.begins.iter().map(|begin| tag(2, begin)));
    corpus
}

pub(super) fn repair(bytes: &mut [u8]) {
    let Some((kind, rest)) = bytes.split_first_mut() else { return };
    if *kind % 4 < 2 {
        mend::snapshot(rest);
    }
}
