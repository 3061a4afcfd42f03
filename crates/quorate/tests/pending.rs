//! Whoever waits for a node that stops is told at once, and whoever comes later as well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;
mod identity;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use common::{Ledger, PATIENCE, leader, start};
use identity::FixedIdentity;
use quorate::{
    Batches, CatchUp, ChangeMembers, ClientWriteError, ClosedReason, ClusterId, Completions, Config, Drain, GroupId,
    Identity, Incarnation, LeaderIdMode, LogId, LogWrite, MemoryNetwork, MemorySnapshots, MemoryStorage, Node, NodeId,
    PendingWrite, Phase, Raft, RaftLogStorage, ReadPolicy, Recovered, Retain, Session, SessionOptions, Settings, Span,
    Starts, Storage, StorageError, StorageErrorKind, Toggle, WriteId,
};
use tokio::time::timeout;

/// No time-out of the library ends anything: only the end of the node does.
fn endless() -> Config {
    let long = PATIENCE * 100;
    Config {
        election_timeout_min: long,
        election_timeout_max: long * 2,
        write_timeout: long,
        read_timeout: long,
        ..Config::default()
    }
}

type Call = Pin<Box<dyn Future<Output = String> + Send>>;

/// Every call of the public API that waits for something, by name, with how it ended as text.
fn calls(raft: &Raft<Ledger>) -> Vec<(&'static str, Call)> {
    let mut calls: Vec<(&'static str, Call)> = Vec::new();
    macro_rules! call {
        ($name:literal, |$raft:ident| $call:expr) => {{
            let $raft = raft.clone();
            calls.push(($name, Box::pin(async move { format!("{:?}", $call.await) })));
        }};
    }
    let word = || "word".to_owned();
    let later = || Instant::now() + PATIENCE * 100;
    let member = || Node::at("memory:9");
    call!("client_write", |raft| raft.client_write(word()));
    call!("client_write_with", |raft| raft.client_write_with(word(), later()));
    call!("try_client_write", |raft| raft.try_client_write(word()));
    call!("client_write_many", |raft| raft.client_write_many(vec![word(), word()]));
    call!("write", |raft| raft.write(word()));
    call!("write_many", |raft| raft.write_many(vec![word()]).deadline(PATIENCE * 100));
    call!("applied", |raft| async { raft.write(word()).submit()?.applied().await });
    call!("committed", |raft| async { raft.write(word()).submit()?.committed().await });
    call!("write_blank", |raft| raft.write_blank());
    for policy in [ReadPolicy::ReadIndex, ReadPolicy::LeaseRead, ReadPolicy::Stale] {
        call!("read", |raft| raft.read(policy, |_| ()));
    }
    call!("with_state_machine", |raft| raft.with_state_machine(ReadPolicy::ReadIndex, async |_: &Ledger| ()));
    call!("ensure_linearizable", |raft| raft.ensure_linearizable(ReadPolicy::ReadIndex));
    call!("initialize", |raft| raft.initialize(BTreeMap::from([(NodeId(1), member()), (NodeId(2), member())])));
    call!("change_membership", |raft| raft.change_membership(ChangeMembers::Batch(Vec::new()), Retain::Remove));
    call!("change_settings", |raft| raft.change_settings(Settings::default()));
    call!("add_learner", |raft| raft.add_learner(9, member(), CatchUp::Wait));
    call!("transfer_leader", |raft| raft.trigger().transfer_leader(None));
    call!("elect", |raft| raft.trigger().elect(Phase::Pre));
    call!("heartbeat", |raft| raft.trigger().heartbeat());
    call!("snapshot", |raft| raft.trigger().snapshot());
    call!("snapshot within", |raft| raft.trigger().within(PATIENCE * 100).snapshot());
    call!("purge_log", |raft| raft.trigger().purge_log(1));
    call!("as_leader", |raft| raft.as_leader());
    call!("config", |raft| raft.config());
    call!("reconfigure", |raft| raft.reconfigure(endless()));
    call!("wait", |raft| raft.wait(PATIENCE * 100).leader());
    call!("wait_for_recovery", |raft| raft.wait_for_recovery(PATIENCE * 100));
    call!("watch_commit", |raft| async { raft.watch_commit().wait_until_ge(1 << 40).await });
    call!("server_metrics", |raft| async { raft.server_metrics().wait_until(|now| now.id == NodeId(99)).await });
    call!("on_leader_change", |raft| raft.on_leader_change(|_| async {}, |_| async {}).close());
    call!("open_session", |raft| raft.open_session(SessionOptions::default()));
    call!("resume_session", |raft| raft.resume_session(1, SessionOptions::default(), 1));
    call!("closed", |raft| raft.closed());
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_node_that_stops_is_told() {
    // Its peers never come: it knows no cluster, and no leader.
    let node = Raft::builder(1).peer_ids([1, 2, 3]).in_memory(&MemoryNetwork::new()).config(endless());
    let node = node.start(Ledger::inline()).await.unwrap();
    let mut waiting = Vec::new();
    for (name, call) in calls(&node) {
        waiting.push((name, tokio::spawn(call)));
    }
    // Each was polled by now, or is on the way; both must do.
    tokio::task::yield_now().await;
    assert!(waiting.iter().filter(|(_, call)| !call.is_finished()).count() > 10, "most of them wait");
    node.shutdown().await;
    for (name, call) in waiting {
        let ended = timeout(PATIENCE, call).await.unwrap_or_else(|_| unreachable!("{name} waits for ever"));
        println!("{name}: {}", ended.unwrap());
    }
    for (name, call) in calls(&node) {
        let ended = timeout(PATIENCE, call).await.unwrap_or_else(|_| unreachable!("{name} waits for ever afterwards"));
        let fine = ended.contains("Closed") || ended.contains("Shutdown") || name == "on_leader_change";
        assert!(fine || ended.starts_with("Err(NotVoter"), "{name}, asked of a node that is closed: {ended}");
    }
    // Twice is as good as once.
    node.shutdown().await;
    node.shutdown_with(Drain::default()).await;
    assert_eq!(node.closed().await, ClosedReason::Shutdown);
}

/// A write that its leader cannot commit, forwarded by another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answers_what_it_has_forwarded() {
    let (network, nodes) = start(5, endless()).await;
    let leading = leader(&nodes).await;
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != leading.node_id()).collect();
    let session: Session<Ledger> =
        others[0].open_session(SessionOptions { max_in_flight: 1, ..SessionOptions::default() }).await.unwrap();
    for cut in &others[1..] {
        network.cut(leading.node_id(), cut.node_id());
    }
    let (forwards, last) = (others[0].clone(), leading.metrics().borrow().last_log_id.index);
    let one = tokio::spawn(forwards.client_write("one".to_owned()));
    let many = tokio::spawn(forwards.client_write_many(vec!["two".to_owned(), "three".to_owned()]));
    let in_session = tokio::spawn(async move {
        let pending = session.prepare("four".to_owned()).await.unwrap();
        // The next one waits for this one's place.
        let next = session.prepare("five".to_owned()).await;
        drop(pending);
        next.map(drop)
    });
    leading.wait(PATIENCE).log_index_at_least(last + 3).await.unwrap();
    forwards.shutdown().await;
    let unknown = ClientWriteError::OutcomeUnknown;
    assert_eq!(timeout(PATIENCE, one).await.unwrap().unwrap(), Err(unknown.clone()));
    assert_eq!(timeout(PATIENCE, many).await.unwrap().unwrap(), [Err(unknown.clone()), Err(unknown)]);
    assert!(timeout(PATIENCE, in_session).await.unwrap().unwrap().unwrap_err().is_closed());
    for node in nodes {
        node.shutdown_with(Drain { transfer: Toggle::Off, deadline: PATIENCE / 100 }).await;
    }
}

/// A log that can stop to answer, and die.
#[derive(Default)]
struct Mortal {
    inner: MemoryStorage,
    completions: OnceLock<Arc<dyn Completions>>,
    /// Writes that have no answer, once there are no more.
    held: Mutex<Option<Vec<WriteId>>>,
}

impl Mortal {
    fn hold(&self) {
        *self.held.lock().unwrap() = Some(Vec::new());
    }

    /// Its first write fails; later ones are not heard of any more.
    fn die(&self) {
        let held = std::mem::take(self.held.lock().unwrap().as_mut().unwrap());
        let error = StorageError::new(StorageErrorKind::Io, "the test broke this disk");
        self.completions.get().unwrap().complete(held[0], Err(error));
    }
}

impl RaftLogStorage for Mortal {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        assert!(self.completions.set(Arc::clone(&completions)).is_ok(), "one group, opened once");
        self.inner.recover(group, completions)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        match &mut *self.held.lock().unwrap() {
            Some(held) => held.push(write),
            None => self.inner.submit(group, write, op),
        }
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.inner.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.inner.purge(group, upto);
    }
}

/// A leader on this log, in a cluster of its own.
async fn leader_on(log: &Arc<Mortal>) -> Raft<Ledger> {
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(1),
        incarnation: Incarnation(1),
        starts: Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    let storage = Storage {
        log: Arc::clone(log) as Arc<dyn RaftLogStorage>,
        snapshots: Arc::new(MemorySnapshots::new()),
        identity: Arc::new(FixedIdentity::new(identity)),
    };
    let builder = Raft::builder(1).peer_ids([1]).in_memory(&MemoryNetwork::new()).config(endless());
    let node = builder.storage(storage).start(Ledger::inline()).await.unwrap();
    node.wait(PATIENCE).is_leader().await.unwrap();
    node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    node
}

/// What sessions wait for: each needs a write that the log does not answer, or the place of the one that is held.
async fn calls_of_sessions(node: &Raft<Ledger>) -> (Vec<(&'static str, Call)>, PendingWrite<Ledger>) {
    let word = || "word".to_owned();
    let options = SessionOptions { max_in_flight: 1, ..SessionOptions::default() };
    let [full, sends, writes, closes] = [(); 4].map(|()| node.open_session(options));
    let (full, sends, writes, closes) = tokio::join!(full, sends, writes, closes);
    let (full, sends, writes, closes) = (full.unwrap(), sends.unwrap(), writes.unwrap(), closes.unwrap());
    let held = full.prepare(word()).await.unwrap();
    let mut pending = sends.prepare(word()).await.unwrap();
    let mut calls: Vec<(&'static str, Call)> = Vec::new();
    calls.push(("PendingWrite::send", Box::pin(async move { format!("{:?}", pending.send().await) })));
    calls.push(("Session::prepare", Box::pin(async move { format!("{:?}", full.prepare(word()).await) })));
    calls.push(("Session::write", Box::pin(async move { format!("{:?}", writes.write(word()).await) })));
    calls.push(("Session::close", Box::pin(async move { format!("{:?}", closes.close().await) })));
    (calls, held)
}

/// A leader whose disk does not answer any more, and then fails, or is shut down: everybody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_leader_whose_disk_dies_is_told() {
    for dies in [true, false] {
        let log = Arc::new(Mortal::default());
        let node = leader_on(&log).await;
        let mut waiting = Vec::new();
        let (of_sessions, held) = calls_of_sessions(&node).await;
        log.hold();
        for (name, call) in calls(&node).into_iter().chain(of_sessions) {
            waiting.push((name, tokio::spawn(call)));
        }
        while log.held.lock().unwrap().as_ref().is_some_and(Vec::is_empty) {
            tokio::task::yield_now().await;
        }
        match dies {
            true => log.die(),
            false => node.shutdown().await,
        }
        for (name, call) in waiting {
            let ended = timeout(PATIENCE, call).await.unwrap_or_else(|_| unreachable!("{name} waits for ever"));
            let ended = ended.unwrap();
            println!("{name}: {ended}");
            let in_session = name.contains("Session::") || name.contains("PendingWrite");
            assert!(!in_session || ended.starts_with("Err("), "{name} of a log that keeps nothing: {ended}");
        }
        drop(held);
        assert_eq!(matches!(node.closed().await, ClosedReason::Storage(_)), dies);
        for (name, call) in calls(&node) {
            let ended =
                timeout(PATIENCE, call).await.unwrap_or_else(|_| unreachable!("{name} waits for ever afterwards"));
            let reason = if dies { "Storage(" } else { "Shutdown" };
            assert!(ended.contains(reason) || name == "on_leader_change", "{name}, of a node that is closed: {ended}");
        }
        node.shutdown().await;
    }
}
