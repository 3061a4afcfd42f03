//! The laws of the driver: completions in any order and from any thread (law 19), no user code under the core's
//! lock (law 20), and a failed write that stops the node and answers everybody (law 7).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;
mod identity;

use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::{Ledger, PATIENCE, peers};
use identity::FixedIdentity;
use quorate::advanced::core::{Recovered, Span, WriteId};
use quorate::advanced::wire::Batches;
use quorate::{
    ChangeError, ChangeMembers, ChangeTerms, ClosedReason, ClusterId, Completions, Config, GroupId, Host, Identity,
    Incarnation, LeaderIdMode, LeadershipError, LogId, LogWrite, MemoryNetwork, MemorySnapshots, MemoryStorage, Node,
    NodeId, Payload, PayloadError, Raft, RaftLogStorage, RaftStateMachine, Raw, ReconfigureError, Retain,
    SnapshotError, Storage, StorageError, StorageErrorKind,
};

/// Memory storage whose completions go through a hand that a test gives.
struct Handed {
    inner: MemoryStorage,
    hand: Arc<Hand>,
}

type Completed = (WriteId, Result<(), StorageError>);

/// Receives completions instead of the library.
struct Hand {
    to: OnceLock<Arc<dyn Completions>>,
    queue: Mutex<mpsc::Sender<Completed>>,
}

impl Completions for Hand {
    fn complete(&self, write: WriteId, result: Result<(), StorageError>) {
        self.queue.lock().unwrap().send((write, result)).unwrap();
    }
}

impl RaftLogStorage for Handed {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        assert!(self.hand.to.set(completions).is_ok(), "one group, opened once");
        self.inner.recover(group, Arc::clone(&self.hand) as Arc<dyn Completions>)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        self.inner.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.inner.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.inner.purge(group, upto);
    }
}

/// Starts three nodes whose writes complete by the hand of `hands_on`, which runs on a thread of each node.
async fn start(
    hands_on: impl Fn(mpsc::Receiver<Completed>, Arc<dyn Completions>) + Send + Sync + 'static,
) -> Vec<Raft<Ledger>> {
    start_with(Config::default(), hands_on).await
}

async fn start_with(
    config: Config,
    hands_on: impl Fn(mpsc::Receiver<Completed>, Arc<dyn Completions>) + Send + Sync + 'static,
) -> Vec<Raft<Ledger>> {
    let network = MemoryNetwork::new();
    let hands_on = Arc::new(hands_on);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let (queue, completed) = mpsc::channel();
        let hand = Arc::new(Hand { to: OnceLock::new(), queue: Mutex::new(queue) });
        let identity = Identity {
            cluster: ClusterId(0),
            node: NodeId(id),
            incarnation: Incarnation(u128::from(id)),
            starts: quorate::Starts::counted(1),
            mode: LeaderIdMode::Advanced,
        };
        let storage = Storage {
            log: Arc::new(Handed { inner: MemoryStorage::new(), hand: Arc::clone(&hand) }),
            snapshots: Arc::new(MemorySnapshots::new()),
            identity: Arc::new(FixedIdentity::new(identity)),
        };
        let members = peers(1..=3).into_iter().map(|(id, address)| (NodeId(id), Node::at(address)));
        let builder = Host::builder(id).peers(members).in_memory(&network).config(config.clone()).storage(storage);
        let host = builder.open().await.unwrap();
        let hands_on = Arc::clone(&hands_on);
        thread::spawn(move || {
            let Ok(first) = completed.recv() else { return };
            let to = Arc::clone(hand.to.get().unwrap());
            let (again, completed_again) = mpsc::channel();
            again.send(first).unwrap();
            let forward = thread::spawn(move || completed.into_iter().for_each(|done| again.send(done).unwrap_or(())));
            hands_on(completed_again, to);
            drop(forward);
        });
        nodes.push(host.group(1).start(Ledger::inline()).await.unwrap());
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    nodes
}

/// Memory storage whose next `submit` says that it was called, and does not return before the test lets it.
struct Blocking {
    inner: MemoryStorage,
    door: Mutex<Option<mpsc::Receiver<()>>>,
    entered: tokio::sync::mpsc::UnboundedSender<()>,
}

impl RaftLogStorage for Blocking {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        self.inner.recover(group, completions)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        let door = self.door.lock().unwrap().take();
        if let Some(door) = door {
            self.entered.send(()).unwrap();
            // Opened, or gone with the test.
            let _ = door.recv();
        }
        self.inner.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.inner.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.inner.purge(group, upto);
    }
}

/// A storage must not block who submits. One that does holds up the core, but not those who ask it for something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_core_that_is_held_up_is_told_so_in_time() {
    let (entered, mut in_submit) = tokio::sync::mpsc::unbounded_channel();
    let log = Arc::new(Blocking { inner: MemoryStorage::new(), door: Mutex::new(None), entered });
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(1),
        incarnation: Incarnation(1),
        starts: quorate::Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    let storage = Storage {
        log: Arc::clone(&log) as Arc<dyn RaftLogStorage>,
        snapshots: Arc::new(MemorySnapshots::new()),
        identity: Arc::new(FixedIdentity::new(identity)),
    };
    let patience = Duration::from_millis(300);
    let config = Config { read_timeout: patience, write_timeout: patience, ..Config::default() };
    let builder = Raft::builder(1).peers(peers(1..=1)).in_memory(&MemoryNetwork::new()).config(config.clone());
    let node = builder.storage(storage).start(Ledger::inline()).await.unwrap();
    node.wait(PATIENCE).is_leader().await.unwrap();

    let (open, door) = mpsc::channel();
    *log.door.lock().unwrap() = Some(door);
    let (runtime, writes) = (tokio::runtime::Handle::current(), node.clone());
    let written = thread::spawn(move || runtime.block_on(writes.client_write("held up".into())));
    in_submit.recv().await.unwrap();
    let asked = async {
        let (patient, own) = (node.trigger().within(patience), node.trigger());
        let (leads, transferred) = (node.as_leader(), own.transfer_leader(None));
        tokio::join!(node.config(), node.reconfigure(config), leads, patient.heartbeat(), transferred)
    };
    let (told, set, leads, beats, transferred) =
        tokio::time::timeout(PATIENCE, asked).await.expect("nobody waits for the storage");
    let after = patience;
    assert_eq!((told, set), (Err(ReconfigureError::TimedOut { after }), Err(ReconfigureError::TimedOut { after })));
    let held_up = LeadershipError::TimedOut { after };
    assert_eq!((leads, beats), (Err(held_up.clone()), Err(held_up)));
    assert_eq!(transferred, Err(ChangeError::OutcomeUnknown));
    open.send(()).unwrap();
    // By now it is certainly late, but it may be told that it is written.
    drop(written.join().unwrap());
    node.shutdown().await;
}

/// Followers answer appends with what they have on disk, so the leader leads on; nothing commits. Nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_change_has_a_deadline_also_where_every_disk_hangs() {
    let gate = Arc::new(tokio::sync::Mutex::new(()));
    let disks = Arc::clone(&gate);
    let config = Config { write_timeout: Duration::from_millis(300), ..Config::default() };
    let nodes = start_with(config, move |completed, to| {
        while let Ok((write, result)) = completed.recv() {
            drop(disks.blocking_lock());
            to.complete(write, result);
        }
    })
    .await;
    let leader = nodes[0].wait(PATIENCE).leader().await.unwrap();
    let leading = nodes.iter().find(|node| node.node_id() == leader).unwrap();
    let hung = gate.lock().await;
    let learner = ChangeMembers::AddNodes([(NodeId(4), Node::at("node 4"))].into());
    let changed = leading.change_membership_with(learner, Retain::AsLearners, ChangeTerms::default());
    let changed = tokio::time::timeout(PATIENCE, changed).await.expect("it is answered");
    assert!(changed.as_ref().is_err_and(ChangeError::outcome_is_unknown), "{changed:?}");
    assert!(leading.as_leader().await.is_ok(), "the core has no reason to answer: the leader leads on");
    drop(hung);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_may_come_in_any_order_from_any_thread() {
    let nodes = start(|completed, to| {
        while let Ok(first) = completed.recv() {
            let mut waiting = vec![first];
            waiting.extend(completed.try_iter());
            for (write, result) in waiting.into_iter().rev() {
                to.complete(write, result.clone());
                // A repeated completion says nothing new.
                to.complete(write, result);
            }
        }
    })
    .await;
    let mut writers = Vec::new();
    for i in 0..200 {
        let node = nodes[i % 3].clone();
        writers.push(tokio::spawn(async move { node.client_write(format!("{i}")).await }));
    }
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let last = nodes[0].read(quorate::ReadPolicy::ReadIndex, |ledger| ledger.applied.clone()).await.unwrap();
    assert_eq!(last.len(), 200, "every write is applied once");
    for node in &nodes {
        let index = last.last().unwrap().0;
        node.wait(PATIENCE).applied_index_at_least(index).await.unwrap();
        let applied = node.read(quorate::ReadPolicy::Stale, |ledger| ledger.applied.clone()).await.unwrap();
        assert_eq!(applied[..200], last[..], "every node applied the same");
    }
    common::stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_the_node_and_answers_everybody() {
    let fails = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&fails);
    let nodes = start(move |completed, to| {
        for (write, result) in completed {
            // Once: only the first node to write after the switch has a bad disk.
            let bad = seen.swap(false, Ordering::SeqCst);
            let broken = || StorageError::new(StorageErrorKind::Io, "the test broke this disk");
            to.complete(write, if bad { Err(broken()) } else { result });
        }
    })
    .await;
    let leader = common::leader(&nodes).await;
    leader.client_write("before".into()).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let mut writers = Vec::new();
    for i in 0..50 {
        let node = leader.clone();
        writers.push(tokio::spawn(async move { node.client_write(format!("{i}")).await }));
    }
    // Everybody is answered: with a response, or with an error that says what may have happened.
    let mut answers = Vec::new();
    for writer in writers {
        answers.push(writer.await.unwrap());
    }
    let closed = closed_one(&nodes).await;
    assert!(matches!(closed.closed().await, ClosedReason::Storage(_)), "the bad disk is the reason");
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != closed.node_id()).cloned().collect();
    others[0].client_write("after".into()).await.unwrap();
    let applied = others[0].read(quorate::ReadPolicy::ReadIndex, Ledger::commands).await.unwrap();
    for (i, answer) in answers.iter().enumerate() {
        let times = applied.iter().filter(|command| **command == i.to_string()).count();
        assert!(times <= 1, "no write is applied twice");
        assert!(answer.is_err() || times == 1, "write {i} was acknowledged and is lost");
    }
    common::stop(nodes).await;
}

async fn closed_one(nodes: &[Raft<Ledger>]) -> Raft<Ledger> {
    loop {
        if let Some(node) = nodes.iter().find(|node| node.metrics().borrow().closed.is_some()) {
            return node.clone();
        }
        tokio::task::yield_now().await;
    }
}

/// Stands still in `apply` until the test lets it go.
struct Gate {
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
    applied: u64,
}

impl RaftStateMachine for Gate {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _command: u64) -> u64 {
        self.gate.lock().unwrap().recv().unwrap();
        self.applied += 1;
        self.applied
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.applied.to_le_bytes())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_go_on_while_user_code_stands_still() {
    let network = MemoryNetwork::new();
    let (open, gate) = mpsc::channel();
    let gate = Gate { gate: Arc::new(Mutex::new(gate)), applied: 0 };
    let node = Raft::builder(1).peers(peers([1])).in_memory(&network).start(gate).await.unwrap();
    let mut writers = Vec::new();
    for i in 0..10 {
        let node = node.clone();
        writers.push(tokio::spawn(async move { node.client_write(i).await }));
    }
    // The first membership, the leader's blank entry and the ten commands: committed, though nothing is applied.
    node.wait(PATIENCE).metrics(|metrics| metrics.commit_index >= 12, "all are committed").await.unwrap();
    assert!(node.metrics().borrow().last_applied.index < 12, "user code still holds the applies");
    for _ in 0..10 {
        open.send(()).unwrap();
    }
    let mut responses = Vec::new();
    for writer in writers {
        responses.push(writer.await.unwrap().unwrap().response);
    }
    responses.sort_unstable();
    assert_eq!(responses, (1..=10).collect::<Vec<_>>());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_is_waited_for_no_longer_than_its_caller_says() {
    let (open, gate) = mpsc::channel();
    let gate = Gate { gate: Arc::new(Mutex::new(gate)), applied: 0 };
    let node = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).start(gate).await.unwrap();
    let mut write = node.write(1).submit().unwrap();
    let log_id = write.committed().await.unwrap();
    let brief = Duration::from_millis(20);
    // The build stands behind the apply, in which user code stands still.
    let late = node.trigger().within(brief).snapshot().await;
    assert_eq!(late, Err(SnapshotError::TimedOut { after: brief }));
    open.send(()).unwrap();
    write.applied().await.unwrap();
    assert_eq!(node.trigger().within(PATIENCE).snapshot().await, Ok(log_id), "what was asked for went on");
    assert_eq!(node.trigger().within(PATIENCE).purge_log(log_id.index).await, Ok(log_id));
    // Alone, it has nobody to hand over to, and says so at once.
    let refused = node.trigger().within(PATIENCE).transfer_leader(None).await.unwrap_err();
    assert!(!refused.outcome_is_unknown(), "{refused}");
    node.shutdown().await;
}

/// Answers write 1, once the test lets it, with something that writes again when it is dropped.
struct Echo {
    gate: mpsc::Receiver<()>,
    entered: tokio::sync::mpsc::UnboundedSender<()>,
    raft: Arc<OnceLock<Raft<Echo>>>,
}

/// An answer that uses the library when it is dropped.
struct Answer(Option<Raft<Echo>>);

impl Payload for Answer {
    fn encode(&self, _out: &mut Vec<u8>) -> Result<(), PayloadError> {
        Ok(())
    }

    fn decode(_bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(None))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(raft) = self.0.take() else { return };
        // Into the queue, then through a turn of the driver, here and now; what becomes of it is not waited for.
        let mut write = std::pin::pin!(raft.client_write(Raw(Bytes::from_static(b"2"))));
        for _ in 0..2 {
            assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    }
}

impl RaftStateMachine for Echo {
    type Command = Raw;
    type Response = Answer;

    fn apply(&mut self, command: Raw) -> Answer {
        if &command.0[..] != b"1" {
            return Answer(None);
        }
        self.entered.send(()).unwrap();
        self.gate.recv().unwrap();
        Answer(self.raft.get().cloned())
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Applies write 1, whose caller has `gone` while it is applied; returns once the write is applied that the drop of
/// its answer makes.
async fn drop_an_answer<G: Future<Output = ()> + Send + 'static>(
    write_timeout: Duration,
    gone: impl FnOnce(Raft<Echo>) -> G,
) {
    let (open, gate) = mpsc::channel();
    let (entered, mut in_apply) = tokio::sync::mpsc::unbounded_channel();
    let raft = Arc::new(OnceLock::new());
    let machine = Echo { gate, entered, raft: Arc::clone(&raft) };
    let config = Config { write_timeout, ..Config::default() };
    let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).config(config);
    let node = builder.start(machine).await.unwrap();
    assert!(raft.set(node.clone()).is_ok());
    let before = node.wait(PATIENCE).is_leader().await.unwrap().last_log_id.index;
    let caller = tokio::spawn(gone(node.clone()));
    in_apply.recv().await.unwrap();
    // A caller that waits for ever is gone when it is aborted.
    if write_timeout == PATIENCE {
        caller.abort();
    }
    drop(caller.await);
    open.send(()).unwrap();
    node.wait(PATIENCE).applied_index_at_least(before + 2).await.unwrap();
    node.shutdown().await;
}

/// Threads that wait for their own locks are left alone.
fn ends(test: impl Future<Output = ()> + Send + 'static) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test);
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).expect("nothing is locked while an answer is dropped");
}

#[test]
fn an_answer_whose_caller_gave_up_is_dropped_without_a_lock() {
    ends(drop_an_answer(PATIENCE, |raft| async move {
        drop(raft.client_write(Raw(Bytes::from_static(b"1"))).await);
    }));
}

#[test]
fn an_answer_that_comes_too_late_is_dropped_without_a_lock() {
    ends(drop_an_answer(Duration::from_millis(300), |raft| async move {
        let write = raft.client_write(Raw(Bytes::from_static(b"1"))).await;
        assert!(write.is_err_and(|error| error.outcome_is_unknown()));
    }));
}
