//! Nodes that are stepped by the thread that sends to them: a packet is taken in within the turn of the peer that sends it; and
//! beside them, nodes that are stepped by a thread that stands by.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod bomb;
mod common;
mod identity;

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bomb::Bomb;
use common::{Ledger, PATIENCE, by_id, in_time, leader, peers, start_on, stop};
use identity::FixedIdentity;
use quorate::{
    Batches, ClosedReason, ClusterId, Completions, Config, GroupId, Host, Identity, Incarnation, LeaderIdMode, LogId,
    LogWrite, MemoryNetwork, MemorySnapshots, MemoryStorage, Node, NodeId, Raft, RaftLogStorage, ReadPolicy, Recovered,
    Span, Starts, Storage, StorageError, WriteId,
};
use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Leaders that are not late although the machine is busy.
fn patient() -> Config {
    Config {
        election_timeout_min: Duration::from_secs(2),
        election_timeout_max: Duration::from_secs(3),
        heartbeat_interval: Duration::from_millis(50),
        ..Config::default()
    }
}

/// Writes as long as it is answered without a wait for any other task.
async fn write_at_once(leader: &Raft<Ledger>, count: u64) {
    // The first finds the ways to the peers.
    let before = leader.client_write("0".to_owned()).await.unwrap().response;
    for number in 1..count {
        let mut write = pin!(leader.client_write(number.to_string()));
        let mut answered = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if answered.is_pending() {
            // It lets others of its thread join first.
            answered = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        let Poll::Ready(answered) = answered else { panic!("write {number} waits for something") };
        assert_eq!(answered.unwrap().response, before + number);
    }
}

#[test]
fn a_write_is_answered_by_the_poll_that_asks_for_it() {
    in_time(0, || async {
        let nodes = start_on(&MemoryNetwork::fused(), 3, patient()).await;
        write_at_once(&leader(&nodes).await, 100).await;
        stop(nodes).await;
    });
}

#[test]
fn nodes_that_are_given_their_ends_of_the_network_are_stepped_alike() {
    in_time(0, || async {
        let network = MemoryNetwork::fused();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let storage = Storage::in_memory(id).unwrap();
            let endpoint = network.endpoint(id, storage.identity.identity().incarnation);
            let builder = Raft::builder(id).peers(peers(1..=3)).storage(storage).network(Arc::new(endpoint));
            nodes.push(builder.config(patient()).start(Ledger::inline()).await.unwrap());
        }
        for node in &nodes {
            node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
        }
        write_at_once(&leader(&nodes).await, 100).await;
        stop(nodes).await;
    });
}

/// Keeps the names of what is around each turn.
#[derive(Clone, Default)]
struct Around(Arc<Mutex<BTreeSet<Option<&'static str>>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Around {
    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, context: layer::Context<'_, S>) {
        if span.metadata().name() == "turn" {
            let parent = context.span(id).and_then(|span| span.parent());
            self.0.lock().unwrap().insert(parent.map(|parent| parent.name()));
        }
    }
}

#[test]
fn a_turn_is_part_of_what_steps_it_and_of_no_other_turn() {
    in_time(0, || async {
        let nodes = start_on(&MemoryNetwork::fused(), 3, patient()).await;
        let leader = leader(&nodes).await;
        let around = Around::default();
        let _subscriber = tracing_subscriber::registry().with(around.clone()).set_default();
        let _span = tracing::info_span!("caller").entered();
        write_at_once(&leader, 20).await;
        assert_eq!(*around.0.lock().unwrap(), BTreeSet::from([None, Some("caller")]));
        stop(nodes).await;
    });
}

/// What some writers were told.
struct Told {
    acknowledged: Vec<String>,
    unknown: Vec<String>,
}

/// Writes by every node, until it is over; `count` of them were begun.
fn write_by_each(
    nodes: &[Raft<Ledger>],
    over: &Arc<AtomicBool>,
    count: &Arc<AtomicU64>,
) -> Vec<tokio::task::JoinHandle<Told>> {
    let writer = |node: Raft<Ledger>, number: usize| {
        let (over, count) = (Arc::clone(over), Arc::clone(count));
        tokio::spawn(async move {
            let mut told = Told { acknowledged: Vec::new(), unknown: Vec::new() };
            while !over.load(Ordering::Relaxed) {
                let command = format!("{number}-{}", count.fetch_add(1, Ordering::Relaxed));
                match node.client_write(command.clone()).await {
                    Ok(_) => told.acknowledged.push(command),
                    Err(error) if error.is_retryable() => {}
                    Err(_) => told.unknown.push(command),
                }
            }
            told
        })
    };
    nodes.iter().cycle().take(2 * nodes.len()).cloned().enumerate().map(|(number, node)| writer(node, number)).collect()
}

/// Waits until some more writes were begun.
async fn see_writes(count: &AtomicU64) {
    let enough = count.load(Ordering::Relaxed) + 20;
    while count.load(Ordering::Relaxed) < enough {
        tokio::task::yield_now().await;
    }
}

/// Waits for the writers. Every node applied the same: what was acknowledged, each command once and in its writer's order, and what nobody knows of.
async fn judge(nodes: &[Raft<Ledger>], writers: Vec<tokio::task::JoinHandle<Told>>) {
    let mut told = Vec::new();
    for writer in writers {
        told.push(writer.await.unwrap());
    }
    let leader = leader(nodes).await;
    let last = leader.ensure_linearizable(ReadPolicy::ReadIndex).await.unwrap();
    let mut ledgers = Vec::new();
    for node in nodes {
        node.wait(PATIENCE).applied_index_at_least(last.index).await.unwrap();
        ledgers.push(node.read(ReadPolicy::Stale, |ledger| ledger.applied.clone()).await.unwrap());
    }
    assert!(ledgers.iter().all(|ledger| *ledger == ledgers[0]), "the nodes differ");
    let commands: Vec<_> = ledgers.remove(0).into_iter().map(|(_, command)| command).collect();
    let once: HashSet<_> = commands.iter().cloned().collect();
    assert_eq!(once.len(), commands.len(), "a command is applied twice");
    let mut known = 0;
    for (writer, Told { acknowledged, unknown }) in told.into_iter().enumerate() {
        let unknown: HashSet<_> = unknown.into_iter().collect();
        let own = |command: &&String| command.starts_with(&format!("{writer}-")) && !unknown.contains(*command);
        let applied: Vec<_> = commands.iter().filter(own).cloned().collect();
        assert_eq!(applied, acknowledged, "of writer {writer}");
        known += applied.len();
    }
    assert!(known > 0, "nothing was written");
}

fn leadership_goes_round(network: fn() -> MemoryNetwork) {
    in_time(3, move || async move {
        let nodes = start_on(&network(), 3, patient()).await;
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = write_by_each(&nodes, &over, &count);
        let mut last = leader(&nodes).await.node_id();
        for _ in 0..15 {
            see_writes(&count).await;
            let to = NodeId(last.0 % 3 + 1);
            by_id(&nodes, last).unwrap().trigger().transfer_leader(to).await.unwrap();
            by_id(&nodes, to).unwrap().wait(PATIENCE).current_leader(to).await.unwrap();
            last = to;
        }
        over.store(true, Ordering::Relaxed);
        judge(&nodes, writers).await;
        stop(nodes).await;
    });
}

#[test]
fn leadership_goes_round_between_threads_that_all_step_every_node() {
    leadership_goes_round(MemoryNetwork::fused);
}

#[test]
fn leadership_goes_round_beside_a_thread_that_stands_by() {
    leadership_goes_round(MemoryNetwork::new);
}

fn cut_connections_lose_nothing(network: fn() -> MemoryNetwork) {
    in_time(3, move || async move {
        let network = network();
        let nodes = start_on(&network, 3, Config::default()).await;
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = write_by_each(&nodes, &over, &count);
        for round in 0..4_u64 {
            see_writes(&count).await;
            let away = leader(&nodes).await.node_id();
            // The leader, or one that follows it.
            let away = if round % 2 == 0 { away } else { NodeId(away.0 % 3 + 1) };
            network.isolate(away);
            let rest: Vec<_> = nodes.iter().filter(|node| node.node_id() != away).cloned().collect();
            let serves = async {
                loop {
                    let command = format!("operator-{round}-{away}");
                    if leader(&rest).await.client_write(command).await.is_ok() {
                        break;
                    }
                }
            };
            serves.await;
            network.heal();
        }
        over.store(true, Ordering::Relaxed);
        judge(&nodes, writers).await;
        stop(nodes).await;
    });
}

#[test]
fn cut_connections_lose_nothing_between_threads_that_all_step_every_node() {
    cut_connections_lose_nothing(MemoryNetwork::fused);
}

#[test]
fn cut_connections_lose_nothing_beside_a_thread_that_stands_by() {
    cut_connections_lose_nothing(MemoryNetwork::new);
}

#[test]
fn a_caller_alone_is_answered_beside_a_thread_that_stands_by() {
    in_time(2, || async {
        let nodes = start_on(&MemoryNetwork::new(), 3, patient()).await;
        let leader = leader(&nodes).await;
        let writer = tokio::spawn(async move {
            for number in 1..=3_000 {
                assert_eq!(leader.client_write(number.to_string()).await.unwrap().response, number);
            }
            for first in (3_001..6_000).step_by(4) {
                let answers = leader.client_write_many((first..first + 4).map(|number| number.to_string()).collect());
                let answers: Vec<_> = answers.await.into_iter().map(|answer| answer.unwrap().response).collect();
                assert_eq!(answers, [first, first + 1, first + 2, first + 3]);
            }
        });
        writer.await.unwrap();
        stop(nodes).await;
    });
}

/// A log in memory that panics in its way when it is told to, by a number above zero, and counts on how often it did.
struct Log(MemoryStorage, Arc<AtomicU64>, fn());

impl RaftLogStorage for Log {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        self.0.recover(group, completions)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        if self.1.load(Ordering::Relaxed) > 0 {
            self.1.fetch_add(1, Ordering::Relaxed);
            (self.2)();
        }
        self.0.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.0.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.0.purge(group, upto);
    }
}

/// A node whose log panics when it is told to.
async fn fragile(network: &MemoryNetwork, id: u64, trap: &Arc<AtomicU64>, panics: fn()) -> (Host, Raft<Ledger>) {
    let incarnation = Incarnation(u128::from(id));
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(id),
        incarnation,
        starts: Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    let storage = Storage {
        log: Arc::new(Log(MemoryStorage::new(), Arc::clone(trap), panics)),
        snapshots: Arc::new(MemorySnapshots::new()),
        identity: Arc::new(FixedIdentity::new(identity)),
    };
    let peers = (1..=3).map(|id| (NodeId(id), Node::at(format!("memory:{id}"))));
    let builder = Host::builder(id).listen(format!("memory:{id}")).peers(peers).config(patient()).storage(storage);
    let host = builder.in_memory(network).open().await.unwrap();
    let raft = host.group(GroupId(1)).start(Ledger::inline()).await.unwrap();
    (host, raft)
}

/// A log panics in the turn of a peer; what that says is given. The others go on as before.
fn panic_in_the_turn_of_a_peer(panics: fn(), said: &'static str) {
    in_time(0, move || async move {
        let network = MemoryNetwork::fused();
        let traps: Vec<_> = (1..=3).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let starts = (1..=3).zip(&traps).map(|(id, trap)| {
            let (network, trap) = (network.clone(), Arc::clone(trap));
            tokio::spawn(async move { fragile(&network, id, &trap, panics).await })
        });
        let (mut hosts, mut nodes) = (Vec::new(), Vec::new());
        for start in starts.collect::<Vec<_>>() {
            let (host, node) = start.await.unwrap();
            hosts.push(host);
            nodes.push(node);
        }
        let leading = leader(&nodes).await;
        leading.client_write("before".to_owned()).await.unwrap();
        let follower = nodes.iter().find(|node| node.node_id() != leading.node_id()).unwrap();
        let trap = &traps[follower.node_id().0 as usize - 1];
        trap.store(1, Ordering::Relaxed);
        leading.client_write("meanwhile".to_owned()).await.unwrap();
        let ClosedReason::Storage(error) = follower.closed().await else { panic!("another reason") };
        assert!(error.to_string().contains(said), "{error}");
        write_at_once(&leading, 20).await;
        assert!(leading.is_leader(), "the one whose turn it was goes on");
        assert_eq!(trap.load(Ordering::Relaxed), 2, "what failed is not stepped again");
        for host in hosts {
            host.shutdown().await;
        }
    });
}

#[test]
fn what_panics_in_the_turn_of_a_peer_ends_the_node_that_it_belongs_to() {
    panic_in_the_turn_of_a_peer(|| panic!("the trap"), "it panicked: the trap");
}

#[test]
fn a_panic_in_the_turn_of_a_peer_whose_remains_panic_too_leaves_nothing_claimed() {
    panic_in_the_turn_of_a_peer(|| std::panic::panic_any(Bomb), "it panicked: a panic without a message");
}
