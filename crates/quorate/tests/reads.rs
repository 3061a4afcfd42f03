//! How fresh a read is, whom it needs, and how long it waits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use common::{Ledger, PATIENCE, in_time, leader, peers, start, stop};
use quorate::{
    ClosedReason, Config, LeasePolicy, LogId, MemoryNetwork, Phase, Raft, ReadError, ReadPolicy, Role, Settings,
};

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
    write_by_lease(&leading).await;
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

/// Writes "a" at a leader, and waits until it holds a lease.
async fn write_by_lease(leading: &Raft<Ledger>) -> LogId {
    let written = leading.client_write("a".into()).await.unwrap().log_id;
    leading.wait(PATIENCE).metrics(|now| now.lease_left.is_some(), "a lease to be shown").await.unwrap();
    written
}

/// How a call ends that waits for nobody; `None`: it waits.
///
/// Tests of it have one thread: nothing else of a node runs meanwhile.
fn at_once<T>(call: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    }
}

/// Whether a node that has applied "a" serves this without waiting for anybody.
fn serves_at_once(node: &Raft<Ledger>, policy: ReadPolicy) -> bool {
    let read = at_once(node.read(policy, |ledger| ledger.commands()));
    assert!(read.as_ref().is_none_or(|read| *read == Ok(vec!["a".to_owned()])), "{policy:?}: {read:?}");
    let confirmed = at_once(node.ensure_linearizable(policy));
    assert_eq!(confirmed.map(|confirmed| confirmed.is_ok()), read.as_ref().map(|_| true), "{policy:?}");
    read.is_some()
}

#[tokio::test]
async fn a_read_that_rests_on_a_lease_is_answered_where_it_is_made() {
    let (network, ahead, nodes) = start_with_leases().await;
    let leading = leader(&nodes).await;
    let written = write_by_lease(&leading).await;
    assert_eq!(at_once(leading.ensure_linearizable(ReadPolicy::LeaseRead)), Some(Ok(written)));
    let follower = others(&nodes, &leading).remove(0);
    follower.ensure_linearizable(ReadPolicy::ReadIndex).await.unwrap();
    for node in [&leading, &follower] {
        network.isolate(node.node_id());
        assert!(serves_at_once(node, ReadPolicy::MaxAge(HOUR)));
        assert_eq!(serves_at_once(node, ReadPolicy::LeaseRead), node.is_leader());
        assert!(!serves_at_once(node, ReadPolicy::ReadIndex));
    }
    // A clock that jumped is told to the core by a turn, which such a read leaves it to.
    ahead.store(60, Ordering::Relaxed);
    for policy in [ReadPolicy::LeaseRead, ReadPolicy::MaxAge(HOUR)] {
        assert!(!serves_at_once(&leading, policy) && !serves_at_once(&follower, policy), "{policy:?}");
    }
    network.heal();
    stop(nodes).await;
}

#[tokio::test]
async fn a_lease_that_ran_out_answers_nothing_at_once() {
    // It runs out long before its leader steps down.
    let (min, max) = (Duration::from_millis(900), Duration::from_millis(1200));
    let max_clock_drift = Duration::from_millis(450);
    let config = Config { election_timeout_min: min, election_timeout_max: max, max_clock_drift, ..impatient() };
    let (network, nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    leading.change_settings(LEASES).await.unwrap();
    write_by_lease(&leading).await;
    network.isolate(leading.node_id());
    while leading.metrics().borrow().lease_left.is_some() {
        tokio::task::yield_now().await;
    }
    assert!(!serves_at_once(&leading, ReadPolicy::LeaseRead));
    network.heal();
    stop(nodes).await;
}

#[tokio::test]
async fn a_leader_that_hands_over_answers_nothing_at_once() {
    let (network, _ahead, nodes) = start_with_leases().await;
    let leading = leader(&nodes).await;
    let written = write_by_lease(&leading).await;
    assert!(serves_at_once(&leading, ReadPolicy::LeaseRead));
    // Its successor has all that it needs, and never hears that it is to lead.
    let to = others(&nodes, &leading).remove(0).node_id();
    let lacks = |now: &quorate::RaftMetrics| now.replication.iter().any(|peer| peer.id == to && peer.matched < written);
    while lacks(&leading.metrics().borrow()) {
        tokio::task::yield_now().await;
    }
    network.isolate(leading.node_id());
    let trigger = leading.trigger();
    let mut handing = std::pin::pin!(trigger.transfer_leader(Some(to)));
    assert!(handing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    leading.wait(PATIENCE).metrics(|now| now.lease_left.is_none(), "the lease to be given up").await.unwrap();
    assert!(leading.is_leader() && !serves_at_once(&leading, ReadPolicy::LeaseRead));
    network.heal();
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_is_closed_answers_no_read_from_its_lease() {
    let (election_timeout_min, election_timeout_max) = (Duration::from_secs(8), Duration::from_secs(10));
    let config = Config { election_timeout_min, election_timeout_max, ..impatient() };
    let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).settings(LEASES).config(config);
    let node = builder.start(Ledger::inline()).await.unwrap();
    node.client_write("a".into()).await.unwrap();
    let policies = [ReadPolicy::LeaseRead, ReadPolicy::MaxAge(HOUR)];
    policies.iter().for_each(|policy| assert!(serves_at_once(&node, *policy), "{policy:?}"));
    node.shutdown().await;
    let closed = ReadError::Closed(ClosedReason::Shutdown);
    for policy in policies {
        assert_eq!(at_once(node.read(policy, |_| ())), Some(Err(closed.clone())), "{policy:?}");
        assert_eq!(at_once(node.ensure_linearizable(policy)), Some(Err(closed.clone())), "{policy:?}");
    }
}

/// Readers on many threads, at a leader that also writes: each sees what was written before it asked.
#[test]
fn lease_reads_and_writes_do_not_stop_each_other() {
    in_time(4, || async {
        let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).settings(LEASES);
        let node = builder.start(Ledger::inline()).await.unwrap();
        // From the first write on the cluster is there, with its settings.
        node.client_write("x".into()).await.unwrap();
        let written = Arc::new(AtomicU64::new(1));
        let mut tasks = Vec::new();
        for task in 0..6 {
            let (node, written) = (node.clone(), Arc::clone(&written));
            tasks.push(tokio::spawn(async move {
                for _ in 0..1000 {
                    if task < 3 {
                        node.client_write("x".into()).await.unwrap();
                        written.fetch_add(1, Ordering::SeqCst);
                    } else {
                        let least = written.load(Ordering::SeqCst);
                        let seen =
                            node.read(ReadPolicy::LeaseRead, |ledger| ledger.applied.len() as u64).await.unwrap();
                        assert!(seen >= least, "{seen} of {least}");
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        node.shutdown().await;
    });
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
