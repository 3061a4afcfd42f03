//! A rolling restart of durable nodes under load: each node in turn is drained, stopped and started again from its
//! directory, and no writer notices more than a refusal that says "try again".

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Ledger, PATIENCE, by_id, leader};
use quorate::{ClientWriteError, Config, Drain, MemoryNetwork, Raft, ReadPolicy, Toggle};
use tokio::sync::watch;

const WRITERS: u64 = 64;
/// Writes that are acknowledged between two restarts, and after the last.
const BETWEEN: u64 = 1_000;

/// How nodes reach each other.
enum Wires {
    InProcess(MemoryNetwork),
    Tcp(Vec<(u64, String)>),
}

struct Cluster {
    directory: PathBuf,
    wires: Wires,
}

impl Cluster {
    /// An election by time-out would take longer than a writer waits: whoever hands over late fails the test.
    fn config() -> Config {
        Config {
            election_timeout_min: PATIENCE * 2,
            election_timeout_max: PATIENCE * 3,
            write_timeout: PATIENCE,
            ..Config::default()
        }
    }

    fn new(name: &str, wires: Wires) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        Self { directory, wires }
    }

    async fn start(&self, id: u64) -> Raft<Ledger> {
        let builder = Raft::builder(id).data_dir(self.directory.join(id.to_string())).config(Self::config());
        let builder = match &self.wires {
            Wires::InProcess(network) => builder.peers(common::peers(1..=3)).in_memory(network),
            Wires::Tcp(addresses) => builder.peers(addresses.clone()),
        };
        builder.start(Ledger::inline()).await.unwrap()
    }
}

/// What writers and the one who restarts nodes share.
struct Shared {
    /// By place: the handle of the node as it runs now.
    nodes: Mutex<Vec<Raft<Ledger>>>,
    over: AtomicBool,
    acked: watch::Sender<u64>,
    refused: AtomicU64,
    /// When a write was acknowledged last, and the longest time between two since it was looked at.
    pace: Mutex<(Instant, Duration)>,
}

impl Shared {
    fn node(&self, place: u64) -> Raft<Ledger> {
        self.nodes.lock().unwrap()[place as usize % 3].clone()
    }

    fn ack(&self) {
        let now = Instant::now();
        let mut pace = self.pace.lock().unwrap();
        *pace = (now, pace.1.max(now - pace.0));
        drop(pace);
        self.acked.send_modify(|acked| *acked += 1);
    }

    /// Waits until so many more writes are acknowledged.
    async fn progress(&self, more: u64) {
        let mut acked = self.acked.subscribe();
        let goal = *acked.borrow() + more;
        tokio::time::timeout(PATIENCE, acked.wait_for(|acked| *acked >= goal)).await.unwrap().unwrap();
    }
}

/// Writes until it is told to stop; returns how many of its commands were acknowledged. One that is refused is written again
/// through the next node.
async fn write(shared: Arc<Shared>, writer: u64) -> u64 {
    let (mut place, mut written) = (writer, 0);
    while !shared.over.load(Ordering::Relaxed) {
        match shared.node(place).client_write(format!("{writer}-{written}")).await {
            Ok(_) => {
                shared.ack();
                written += 1;
            }
            Err(error) => {
                assert!(error.is_retryable(), "writer {writer}: {error}");
                assert!(matches!(error, ClientWriteError::Closed(_)), "only the node that stops refuses: {error}");
                shared.refused.fetch_add(1, Ordering::Relaxed);
                place += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    written
}

async fn restart_all_under_load(cluster: Cluster) {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(cluster.start(id).await);
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    let shared = Arc::new(Shared {
        nodes: Mutex::new(nodes.clone()),
        over: AtomicBool::new(false),
        acked: watch::Sender::new(0),
        refused: AtomicU64::new(0),
        pace: Mutex::new((Instant::now(), Duration::ZERO)),
    });
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(Arc::clone(&shared), writer))).collect();
    let heartbeat = Cluster::config().heartbeat_interval;
    let mut left: BTreeSet<u64> = [1, 2, 3].into();
    while !left.is_empty() {
        shared.progress(BETWEEN).await;
        // Who leads comes first: the next one leads then, and is restarted too.
        let leading = leader(&nodes).await.node_id().0;
        let id = if left.contains(&leading) { leading } else { *left.first().unwrap() };
        left.remove(&id);
        let node = by_id(&nodes, id.into()).unwrap().clone();
        let term = node.metrics().borrow().vote.leader_id.term;
        shared.pace.lock().unwrap().1 = Duration::ZERO;
        let began = Instant::now();
        node.shutdown_with(Drain { deadline: PATIENCE, ..Drain::default() }).await;
        let drained = began.elapsed();
        let again = cluster.start(id).await;
        nodes[id as usize - 1] = again.clone();
        shared.nodes.lock().unwrap()[id as usize - 1] = again.clone();
        again.wait_for_recovery(PATIENCE).await.unwrap();
        shared.progress(WRITERS).await;
        let pause = shared.pace.lock().unwrap().1;
        let elections = leader(&nodes).await.metrics().borrow().vote.leader_id.term - term;
        println!(
            "node {id} ({}): longest time without an acknowledgement {:.2} heartbeats, drained in {:.2}",
            if id == leading { "led, and handed over" } else { "followed" },
            pause.as_secs_f64() / heartbeat.as_secs_f64(),
            drained.as_secs_f64() / heartbeat.as_secs_f64(),
        );
        assert_eq!(elections, u64::from(id == leading), "one hand-over of a leader, none of a follower");
    }
    shared.progress(BETWEEN).await;
    shared.over.store(true, Ordering::Relaxed);
    let mut expected = BTreeSet::new();
    for (writer, task) in (0..).zip(writers) {
        let written = task.await.unwrap();
        expected.extend((0..written).map(|number| format!("{writer}-{number}")));
    }
    println!("{} writes acknowledged, {} refused", expected.len(), shared.refused.load(Ordering::Relaxed));
    for node in &nodes {
        let applied = node.read(ReadPolicy::ReadIndex, Ledger::commands).await.unwrap();
        assert_eq!(applied.len(), expected.len(), "each write is applied once");
        assert_eq!(applied.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    for node in nodes {
        node.shutdown_with(Drain { transfer: Toggle::Off, ..Drain::default() }).await;
    }
    fs::remove_dir_all(&cluster.directory).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_restarted_one_by_one_and_every_failed_write_may_be_made_again() {
    restart_all_under_load(Cluster::new("rolling", Wires::InProcess(MemoryNetwork::new()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_tcp() {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = (1..).zip(&listeners).map(|(id, listener)| (id, listener.local_addr().unwrap().to_string()));
    let wires = Wires::Tcp(addresses.collect());
    drop(listeners);
    restart_all_under_load(Cluster::new("rolling-tcp", wires)).await;
}
