//! Snapshots on request, by policy, deferred and failed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{PATIENCE, peers};
use quorate::{ClosedReason, Config, MemoryNetwork, Raft, RaftStateMachine, Refusal, SnapshotError};

/// What a test wants to happen to builds.
#[derive(Default)]
struct Moods {
    defers: AtomicBool,
    fails: AtomicBool,
    asked: AtomicUsize,
    built: AtomicUsize,
}

#[derive(Default)]
struct Moody {
    moods: Arc<Moods>,
    count: u64,
}

impl RaftStateMachine for Moody {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, _command: String) -> u64 {
        self.count += 1;
        self.count
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.moods.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the test asked for it"));
        }
        self.moods.built.fetch_add(1, Ordering::SeqCst);
        out.write_all(&self.count.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut count = [0; 8];
        input.read_exact(&mut count)?;
        Ok(Self { count: u64::from_le_bytes(count), ..Self::default() })
    }

    fn defer_snapshot(&self) -> bool {
        self.moods.asked.fetch_add(1, Ordering::SeqCst);
        self.moods.defers.load(Ordering::SeqCst)
    }
}

/// One node, on request only unless `config` says otherwise.
async fn start(config: Config) -> (Raft<Moody>, Arc<Moods>) {
    let machine = Moody::default();
    let moods = Arc::clone(&machine.moods);
    let network = MemoryNetwork::new();
    let builder = Raft::builder(1).peers(peers([1])).in_memory(&network).config(config);
    let node = builder.start(machine).await.unwrap();
    node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    (node, moods)
}

fn on_request() -> Config {
    Config { snapshot_entries: 0, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_on_request_is_durable_when_it_is_answered() {
    let (node, moods) = start(on_request()).await;
    let written = node.client_write("a".into()).await.unwrap().log_id;
    assert_eq!(node.trigger().snapshot().await, Ok(written));
    node.wait(PATIENCE).snapshot_index_at_least(written.index).await.unwrap();
    assert_eq!(node.trigger().snapshot().await, Ok(written), "nothing was applied since: that one is it");
    assert_eq!(moods.built.load(Ordering::SeqCst), 1);
    assert_eq!(node.trigger().purge_log(written.index - 1).await.map(|purged| purged.index), Ok(written.index - 1));
    assert_eq!(node.trigger().purge_log(99).await, Ok(written), "as far as the snapshot covers it");
    node.shutdown().await;
    assert_eq!(node.trigger().snapshot().await, Err(SnapshotError::Closed(ClosedReason::Shutdown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_fails_or_is_deferred_leaves_everything_and_is_told() {
    let (node, moods) = start(on_request()).await;
    let first = node.client_write("a".into()).await.unwrap().log_id;
    assert_eq!(node.trigger().snapshot().await, Ok(first));
    let second = node.client_write("b".into()).await.unwrap().log_id;
    moods.fails.store(true, Ordering::SeqCst);
    assert_eq!(node.trigger().snapshot().await, Err(SnapshotError::Refused(Refusal::SnapshotFailed)));
    moods.defers.store(true, Ordering::SeqCst);
    assert_eq!(node.trigger().snapshot().await, Err(SnapshotError::Refused(Refusal::SnapshotDeferred)));
    assert_eq!(node.trigger().purge_log(99).await, Ok(first), "the log is kept from the old snapshot on");
    assert_eq!(node.client_write("c".into()).await.unwrap().response, 3, "writes go on");
    moods.fails.store(false, Ordering::SeqCst);
    moods.defers.store(false, Ordering::SeqCst);
    assert!(node.trigger().snapshot().await.unwrap() > second);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_was_told_not_now_asks_again() {
    let (node, moods) = start(Config { snapshot_entries: 3, ..Config::default() }).await;
    moods.defers.store(true, Ordering::SeqCst);
    for _ in 0..12 {
        node.client_write("a".into()).await.unwrap();
    }
    assert_eq!(node.metrics().borrow().snapshot.index, 0);
    let asked = moods.asked.load(Ordering::SeqCst);
    assert!((2..=6).contains(&asked), "not with each entry: {asked}");
    moods.defers.store(false, Ordering::SeqCst);
    for _ in 0..6 {
        node.client_write("b".into()).await.unwrap();
    }
    node.wait(PATIENCE).snapshot_index_at_least(15).await.unwrap();
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_by_bytes_and_by_time() {
    let (node, _) = start(Config { snapshot_bytes: 100_000, ..on_request() }).await;
    node.client_write("x".repeat(40_000)).await.unwrap();
    node.client_write("x".repeat(40_000)).await.unwrap();
    assert_eq!(node.metrics().borrow().snapshot.index, 0);
    let third = node.client_write("x".repeat(40_000)).await.unwrap().log_id;
    node.wait(PATIENCE).snapshot_index_at_least(third.index).await.unwrap();
    node.shutdown().await;

    let (node, moods) = start(Config { snapshot_interval: Duration::from_millis(50), ..on_request() }).await;
    let written = node.client_write("a".into()).await.unwrap().log_id;
    node.wait(PATIENCE).snapshot_index_at_least(written.index).await.unwrap();
    let built = moods.built.load(Ordering::SeqCst);
    let again = node.wait(Duration::from_millis(300)).snapshot_index_at_least(written.index + 1).await;
    assert!(again.is_err() && moods.built.load(Ordering::SeqCst) == built, "nothing was applied since");
    node.shutdown().await;
}
