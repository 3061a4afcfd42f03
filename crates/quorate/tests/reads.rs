//! How fresh a read is, whom it needs, and how long it waits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use common::{Ledger, PATIENCE, in_time, leader, peers, start, stop};
use quorate::{ClosedReason, Config, LeasePolicy, MemoryNetwork, Phase, Raft, ReadError, ReadPolicy, Role, Settings};

const LEASES: Settings = Settings { lease: LeasePolicy::LeaseReads };
const HOUR: Duration = Duration::from_secs(3600);

/// Little patience with reads that need somebody.
fn impatient() -> Config {
    Config { read_timeout: Duration::from_millis(400), ..Config::default() }
}

/// Three nodes whose leases outlive a test, and whose wall clock is ahead by as many seconds as the counter says.
async fn start_with_leases() -> (MemoryNetwork, Arc<AtomicU64>, Vec<Raft<Ledger>>) {
    let (network, ahead) = (MemoryNetwork::new(), Arc::new(AtomicU64::new(0)));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let ahead = Arc::clone(&ahead);
        let wall = move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed));
        let builder = Raft::builder(id).peers(peers(1..=3)).in_memory(&network).config(impatient());
        nodes.push(builder.settings(LEASES).wall_clock(wall).start(Ledger::inline()).await.unwrap());
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    // Longer leases once there is a leader, so that nobody has to wait so long for the first one.
    let (election_timeout_min, election_timeout_max) = (Duration::from_secs(8), Duration::from_secs(10));
    let max_clock_drift = Duration::from_secs(1);
    for node in &nodes {
        let longer = Config { election_timeout_min, election_timeout_max, max_clock_drift, ..impatient() };
        node.reconfigure(longer).await.unwrap();
    }
    let leading = leader(&nodes).await;
    // The first round that asks for a longer lease makes voters note it, the second makes them promise.
    for _ in 0..2 {
        leading.ensure_linearizable(ReadPolicy::ReadIndex).await.unwrap();
    }
    (network, ahead, nodes)
}

fn others(nodes: &[Raft<Ledger>], one: &Raft<Ledger>) -> Vec<Raft<Ledger>> {
    nodes.iter().filter(|node| node.node_id() != one.node_id()).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_reads_are_refused_unless_the_cluster_is_set_to_them() {
    let (_network, nodes) = start(3, Config::default()).await;
    let leading = leader(&nodes).await;
    for node in &nodes {
        assert_eq!(node.read(ReadPolicy::LeaseRead, |_| ()).await, Err(ReadError::LeaseDisabled));
    }
    let on = leading.change_settings(LEASES).await.unwrap();
    leading.client_write("a".into()).await.unwrap();
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(on.index).await.unwrap();
        assert_eq!(node.read(ReadPolicy::LeaseRead, |ledger| ledger.commands()).await.unwrap(), ["a"]);
    }
    leading.change_settings(Settings { lease: LeasePolicy::FastFailover }).await.unwrap();
    assert_eq!(leading.read(ReadPolicy::LeaseRead, |_| ()).await, Err(ReadError::LeaseDisabled));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_read_needs_nobody_while_the_lease_holds() {
    let (network, _ahead, nodes) = start_with_leases().await;
    let leading = leader(&nodes).await;
    leading.client_write("a".into()).await.unwrap();
    leading.wait(PATIENCE).metrics(|now| now.lease_left.is_some(), "a lease to be shown").await.unwrap();
    network.isolate(leading.node_id());
    assert_eq!(leading.read(ReadPolicy::LeaseRead, |ledger| ledger.commands()).await.unwrap(), ["a"]);
    assert!(matches!(leading.read(ReadPolicy::ReadIndex, |_| ()).await, Err(ReadError::NoLeader { .. })));
    // What the lease forbids the others: a campaign that an operator asks for.
    for node in others(&nodes, &leading) {
        drop(node.trigger().elect(Phase::Real));
    }
    assert_eq!(leading.read(ReadPolicy::LeaseRead, |ledger| ledger.commands()).await.unwrap(), ["a"]);
    // So that the leader can hand over when it stops.
    network.heal();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_slept_holds_no_lease_and_no_age() {
    let (network, ahead, nodes) = start_with_leases().await;
    let leading = leader(&nodes).await;
    network.isolate(leading.node_id());
    leading.ensure_linearizable(ReadPolicy::LeaseRead).await.unwrap();
    leading.ensure_linearizable(ReadPolicy::MaxAge(HOUR)).await.unwrap();
    // The wall clock went on while the other one stood still.
    ahead.store(60, Ordering::Relaxed);
    for policy in [ReadPolicy::LeaseRead, ReadPolicy::MaxAge(HOUR)] {
        let refused = leading.ensure_linearizable(policy).await.unwrap_err();
        assert!(matches!(refused, ReadError::NoLeader { .. }), "{policy:?}: {refused}");
    }
    // So that the leader can hand over when it stops.
    network.heal();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_a_maximum_age_asks_nobody_if_this_node_made_sure_lately() {
    let (network, nodes) = start(3, impatient()).await;
    let leading = leader(&nodes).await;
    leading.client_write("a".into()).await.unwrap();
    let follower = others(&nodes, &leading).remove(0);
    // Nothing was confirmed here yet: the first one asks, and sees what was written before.
    assert_eq!(follower.read(ReadPolicy::MaxAge(HOUR), |ledger| ledger.commands()).await.unwrap(), ["a"]);
    network.isolate(follower.node_id());
    assert_eq!(follower.read(ReadPolicy::MaxAge(HOUR), |ledger| ledger.commands()).await.unwrap(), ["a"]);
    let young = ReadPolicy::MaxAge(Duration::ZERO);
    assert!(matches!(follower.read(young, |_| ()).await, Err(ReadError::NoLeader { .. })));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_a_leader_until_its_deadline() {
    let (network, nodes) = start(3, Config { read_timeout: PATIENCE, ..Config::default() }).await;
    let leading = leader(&nodes).await;
    leading.client_write("a".into()).await.unwrap();
    for node in &nodes {
        network.isolate(node.node_id());
    }
    for node in &nodes {
        let nobody = |now: &quorate::RaftMetrics| now.role != Role::Leader && now.current_leader.is_none();
        node.wait(PATIENCE).metrics(nobody, "nobody to lead").await.unwrap();
    }
    let mut reads = Vec::new();
    for node in &nodes {
        let node = node.clone();
        reads.push(tokio::spawn(async move { node.read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await }));
    }
    tokio::task::yield_now().await;
    network.heal();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap(), ["a"]);
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_for_a_leader_is_told_when_the_node_stops() {
    let (network, nodes) = start(3, Config { read_timeout: PATIENCE, ..Config::default() }).await;
    let follower = others(&nodes, &leader(&nodes).await).remove(0);
    network.isolate(follower.node_id());
    let nobody = |now: &quorate::RaftMetrics| now.current_leader.is_none();
    follower.wait(PATIENCE).metrics(nobody, "no leader to be known").await.unwrap();
    let reader = follower.clone();
    let read = tokio::spawn(async move { reader.read(ReadPolicy::ReadIndex, |_| ()).await });
    follower.shutdown().await;
    assert_eq!(read.await.unwrap(), Err(ReadError::Closed(ClosedReason::Shutdown)));
    stop(nodes).await;
}

/// What it makes the library do needs the state machine, which is being looked at: it is done afterwards.
#[test]
fn a_read_may_call_the_library() {
    in_time(0, || async {
        let (_network, nodes) = start(1, Config::default()).await;
        let node = nodes[0].clone();
        node.client_write("a".into()).await.unwrap();
        let inner = node.clone();
        let look = move |ledger: &Ledger| {
            inner.write("b".into()).send().unwrap();
            let term = inner.metrics().borrow().vote.leader_id.term;
            let mut read = Box::pin(async move { inner.read(ReadPolicy::Stale, |ledger| ledger.commands()).await });
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            (ledger.commands(), term, read)
        };
        let (seen, term, read) = node.read(ReadPolicy::Stale, look).await.unwrap();
        assert_eq!((seen, term), (vec!["a".to_owned()], 1));
        assert_eq!(read.await.unwrap()[0], "a");
        node.wait(PATIENCE).metrics(|now| now.last_applied.index == 4, "b to be applied").await.unwrap();
        assert_eq!(node.read(ReadPolicy::Stale, |ledger| ledger.commands()).await.unwrap(), ["a", "b"]);
        stop(nodes).await;
    });
}

#[test]
fn reads_that_call_the_library_and_writes_do_not_stop_each_other() {
    in_time(4, || async {
        let (_network, nodes) = start(1, Config::default()).await;
        let mut tasks = Vec::new();
        for task in 0..5 {
            let node = nodes[0].clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..1000 {
                    if task < 3 {
                        node.client_write("x".into()).await.unwrap();
                    } else {
                        let inner = node.clone();
                        let look = move |_: &Ledger| drop(inner.metrics());
                        node.read(ReadPolicy::Stale, look).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(nodes[0].read(ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await, Ok(3000));
        stop(nodes).await;
    });
}

#[test]
fn a_read_that_panics_tells_its_caller_and_nobody_else() {
    in_time(0, || async {
        let (_network, nodes) = start(1, Config::default()).await;
        let node = nodes[0].clone();
        let look = |_: &Ledger| assert_eq!("a panic", "the test asked for it");
        let reader = tokio::spawn(async move { node.read(ReadPolicy::Stale, look).await });
        assert!(reader.await.unwrap_err().is_panic());
        nodes[0].client_write("a".into()).await.unwrap();
        assert_eq!(nodes[0].read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap(), ["a"]);
        stop(nodes).await;
    });
}

/// Its deadline is for it to begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_has_begun_takes_as_long_as_its_closure() {
    let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).config(impatient());
    let node = builder.start(Ledger::default()).await.unwrap();
    node.client_write("a".into()).await.unwrap();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let look = move |ledger: &Ledger| {
        begin.send(()).unwrap();
        ended.recv().unwrap();
        ledger.commands()
    };
    let reader = node.clone();
    let long = tokio::spawn(async move { reader.read(ReadPolicy::ReadIndex, look).await });
    begun.await.unwrap();
    // Those that wait behind it come to their deadlines, and do not begin any more.
    let looks = Arc::new(AtomicU64::new(0));
    for _ in 0..2 {
        let counted = Arc::clone(&looks);
        let behind = node.read(ReadPolicy::Stale, move |_| counted.fetch_add(1, Ordering::Relaxed)).await;
        assert!(matches!(behind, Err(ReadError::NotCaughtUp { .. })), "{behind:?}");
    }
    end.send(()).unwrap();
    assert_eq!(long.await.unwrap().unwrap(), ["a"]);
    node.ensure_linearizable(ReadPolicy::ReadIndex).await.unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 0);
    node.shutdown().await;
}

/// Each publishes something while the condition looks.
#[test]
fn a_condition_may_call_the_library() {
    in_time(0, || async {
        let (_network, nodes) = start(1, Config::default()).await;
        let node = nodes[0].clone();
        let publish = move || {
            let seen = node.metrics();
            while !seen.has_changed().unwrap() {
                drop(node.metrics());
            }
        };
        let mut looks = 0;
        let condition = |_: &quorate::RaftMetrics| {
            publish();
            looks += 1;
            looks == 2
        };
        nodes[0].wait(PATIENCE).metrics(condition, "a second look").await.unwrap();
        let holds = |_: &u64| {
            publish();
            looks += 1;
            looks == 4
        };
        nodes[0].watch_commit().wait_until(holds).await.unwrap();
        stop(nodes).await;
    });
}
