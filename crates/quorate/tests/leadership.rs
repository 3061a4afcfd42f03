//! Leadership through the public API: transfers and their outcomes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{Ledger, PATIENCE, by_id, leader, peers, start, stop};
use quorate::{
    ChangeError, ClosedReason, Config, Drain, LeadershipError, MemoryNetwork, NodeId, PeerState, Phase, Raft,
    RaftMetrics, ReconfigureError, Refusal, Role, StartError, Toggle, TransferFailure,
};

/// Leaders that are not late although the machine is busy.
fn patient(seconds: u64) -> Config {
    Config {
        election_timeout_min: Duration::from_secs(seconds),
        election_timeout_max: Duration::from_secs(seconds + 1),
        heartbeat_interval: Duration::from_millis(50),
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_round_under_load_and_no_write_is_lost() {
    let (_network, nodes) = start(3, patient(2)).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for (number, node) in nodes.iter().cloned().enumerate() {
        let over = Arc::clone(&over);
        writers.push(tokio::spawn(async move {
            let mut written = 0;
            while !over.load(Ordering::Relaxed) {
                // A leader stops taking writes before it hands over, so no write is caught in between.
                node.client_write(format!("{number}-{written}")).await.unwrap();
                written += 1;
            }
            written
        }));
    }
    let mut last = leader(&nodes).await.current_leader().unwrap();
    for turn in 0..9 {
        let from = by_id(&nodes, last).unwrap();
        let to = NodeId(last.0 % 3 + 1);
        // Every third time the leader chooses.
        let named = (turn % 3 != 2).then_some(to);
        let leader_id = from.trigger().transfer_leader(named).await.unwrap();
        assert_eq!(named.unwrap_or(leader_id.node_id), leader_id.node_id);
        assert_ne!(leader_id.node_id, last);
        last = leader_id.node_id;
        by_id(&nodes, last).unwrap().wait(PATIENCE).current_leader(last).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut sum = 0;
    for writer in writers {
        sum += writer.await.unwrap();
    }
    let applied = nodes[0].read(quorate::ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await.unwrap();
    assert_eq!(applied, sum, "each write is applied once");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_cannot_be_says_why() {
    let (network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    let other = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap();
    let asked = other.trigger().transfer_leader(NodeId(1)).await;
    assert_eq!(asked, Err(ChangeError::NotLeader { leader: Some(first.node_id()) }));
    let asked = first.trigger().transfer_leader(NodeId(9)).await;
    assert_eq!(asked, Err(ChangeError::Refused(Refusal::UnknownNode(NodeId(9)))));

    // One that is given up sooner says so.
    network.isolate(other.node_id());
    let trigger = first.trigger();
    let mut transfer = Box::pin(trigger.transfer_leader(other.node_id()));
    let begun = std::future::poll_fn(|context| Poll::Ready(transfer.as_mut().poll(context).is_pending())).await;
    assert!(begun, "the target does not answer");
    trigger.abort_transfer();
    let aborted = TransferFailure::Aborted { to: other.node_id() };
    assert_eq!(transfer.await, Err(ChangeError::Refused(Refusal::NotTransferred(aborted))));
    first.client_write("between".to_owned()).await.unwrap();

    // A target that is cut off is given up after an election timeout, and the leader takes writes again.
    let asked = first.trigger().transfer_leader(other.node_id()).await;
    let failure = TransferFailure::TimedOut { to: other.node_id() };
    assert_eq!(asked, Err(ChangeError::Refused(Refusal::NotTransferred(failure))));
    first.client_write("after".to_owned()).await.unwrap();
    network.heal();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_shut_down_hands_over_first() {
    // An election by time-out would take five seconds at least, longer than the writes below wait.
    let config = Config { write_timeout: Duration::from_secs(3), ..patient(5) };
    let (_network, nodes) = start(3, config).await;
    let first = leader(&nodes).await;
    first.shutdown().await;
    for node in nodes.iter().filter(|node| node.node_id() != first.node_id()) {
        node.client_write("after".to_owned()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_drains_answers_what_it_has_taken() {
    let (_network, nodes) = start(3, patient(2)).await;
    let first = leader(&nodes).await;
    let writes: Vec<_> = (0..64).map(|n| first.write(format!("{n}")).submit().unwrap()).collect();
    first.shutdown_with(Drain { deadline: PATIENCE, ..Drain::default() }).await;
    let mut answered = 0;
    for write in writes {
        match write.applied().await {
            Ok(_) => answered += 1,
            // Refused while it handed over, and not yet sent on when it stopped.
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    let other = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap();
    let applied = other.read(quorate::ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await.unwrap();
    assert_eq!(applied, answered);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_at_its_deadline() {
    let (network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    network.isolate(first.node_id());
    let write = first.write("alone".to_owned()).submit().unwrap();
    first.shutdown_with(Drain { transfer: Toggle::Off, deadline: Duration::from_millis(20) }).await;
    let error = write.applied().await.unwrap_err();
    assert!(error.is_retryable() || error.outcome_is_unknown(), "{error}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunables_change_while_the_node_runs() {
    let (_network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    let started = first.config().await.unwrap();
    assert_eq!(started, Config::default());
    // On all nodes, the leader last: followers must not expect more heartbeats than it sends.
    let slower = Config {
        election_timeout_min: Duration::from_secs(20),
        election_timeout_max: Duration::from_secs(40),
        max_inflight_appends: 5,
        ..started.clone()
    };
    for node in &nodes {
        node.reconfigure(slower.clone()).await.unwrap();
        assert_eq!(node.config().await.unwrap(), slower);
    }
    first.client_write("one".to_owned()).await.unwrap();

    // What does not go together, or is fixed, is refused and changes nothing.
    let wrong = Config { heartbeat_interval: Duration::from_secs(15), ..slower.clone() };
    assert!(
        matches!(first.reconfigure(wrong).await, Err(ReconfigureError::Config(error)) if error.field == "heartbeat_interval")
    );
    let fixed = Config { max_command_bytes: 17, ..slower.clone() };
    assert!(
        matches!(first.reconfigure(fixed).await, Err(ReconfigureError::Config(error)) if error.field == "max_command_bytes")
    );
    assert_eq!(first.config().await.unwrap(), slower);

    // Without elections a dead leader is not replaced, until somebody asks for it.
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != first.node_id()).cloned().collect();
    for node in &others {
        node.runtime_config().elect(Toggle::Off);
        node.runtime_config().pre_vote(Toggle::Off);
        let config = node.config().await.unwrap();
        assert_eq!((config.elect, config.pre_vote, config.tick), (Toggle::Off, Toggle::Off, Toggle::On));
    }
    first.runtime_config().heartbeat(Toggle::Off);
    first.runtime_config().tick(Toggle::Off);
    let config = first.config().await.unwrap();
    assert_eq!((config.heartbeat, config.tick), (Toggle::Off, Toggle::Off));
    // A short election timeout ends the silent leader's lease.
    for node in &others {
        node.reconfigure(Config { elect: Toggle::Off, pre_vote: Toggle::On, ..Config::default() }).await.unwrap();
    }
    let next = &others[0];
    while !next.is_leader() {
        // Refused as long as the other follower's lease lasts.
        drop(next.trigger().elect(Phase::Real).await);
    }
    next.client_write("two".to_owned()).await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_how_each_peer_is() {
    let (network, nodes) = start(3, patient(2)).await;
    let first = leader(&nodes).await;
    let away = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap().node_id();
    let written = first.client_write("one".to_owned()).await.unwrap();
    let of = move |metrics: &RaftMetrics| metrics.replication.iter().find(|peer| peer.id == away).copied();

    let caught_up = |metrics: &RaftMetrics| {
        of(metrics).is_some_and(|peer| peer.matched == written.log_id && peer.acked_ago.is_some())
    };
    let metrics = first.wait(PATIENCE).metrics(caught_up, "the peer to catch up").await.unwrap();
    let peer = of(&metrics).unwrap();
    assert_eq!((peer.state, peer.lag), (PeerState::Replicate, 0));
    assert_eq!((peer.inflight_appends, peer.inflight_bytes, peer.backing_off), (0, 0, false));

    network.isolate(away);
    first.client_write("two".to_owned()).await.unwrap();
    let long = Some(Duration::from_millis(100));
    let lost = |metrics: &RaftMetrics| of(metrics).is_some_and(|peer| peer.backing_off && peer.acked_ago > long);
    let metrics = first.wait(PATIENCE).metrics(lost, "the peer to be backed off from").await.unwrap();
    let peer = of(&metrics).unwrap();
    assert_eq!((peer.lag, peer.matched), (1, written.log_id));

    network.heal();
    let back = |metrics: &RaftMetrics| of(metrics).is_some_and(|peer| peer.lag == 0 && !peer.backing_off);
    first.wait(PATIENCE).metrics(back, "the peer to be back").await.unwrap();
    stop(nodes).await;
}

/// A waker of an executor that breaks.
#[derive(Default)]
struct Broken(AtomicBool);

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        assert!(!self.0.load(Ordering::Relaxed), "the test asked for it");
    }
}

#[tokio::test]
async fn a_waker_that_panics_harms_nobody_else() {
    // One thread for everything: what it leaves behind meets the next call.
    let (_network, nodes) = start(1, Config::default()).await;
    let node = &nodes[0];
    let mut broken = Box::pin(node.client_write("one".to_owned()));
    let executor = Arc::new(Broken::default());
    let waker = Waker::from(Arc::clone(&executor));
    let _waits = broken.as_mut().poll(&mut Context::from_waker(&waker));
    executor.0.store(true, Ordering::Relaxed);
    assert_eq!(node.client_write("two".to_owned()).await.unwrap().response, 2);
    assert_eq!(broken.await.unwrap().response, 1, "it is answered, whoever polls it then");
    stop(nodes).await;
}

#[tokio::test]
async fn whoever_shuts_down_second_waits_for_the_first() {
    let (_network, nodes) = start(1, Config::default()).await;
    let (one, other) = (nodes[0].clone(), nodes[0].clone());
    tokio::join!(one.shutdown(), async {
        other.shutdown().await;
        assert_eq!(other.metrics().borrow().closed, Some(ClosedReason::Shutdown));
    });
}

#[tokio::test]
async fn time_outs_without_end_are_refused_by_name() {
    let network = MemoryNetwork::new();
    let endless = [
        Config { write_timeout: Duration::MAX, ..Config::default() },
        Config { election_timeout_max: Duration::MAX, ..Config::default() },
        Config { heartbeat_interval: Duration::MAX, ..Config::default() },
        Config { retransmit_timeout: Duration::MAX, ..Config::default() },
    ];
    for config in endless {
        let started =
            Raft::builder(1).peers(peers([1])).in_memory(&network).config(config).start(Ledger::inline()).await;
        assert!(matches!(started, Err(StartError::Config(text)) if text.contains("at most a year")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_say_how_they_ended() {
    let (network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    let other = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap();
    let leading = first.as_leader().await.unwrap();
    assert_eq!(leading.leader_id.node_id, first.node_id());
    assert_eq!(first.trigger().heartbeat().await, Ok(leading.leader_id));
    let acked = first.as_leader().await.unwrap().quorum_acked.unwrap();
    assert!(leading.quorum_acked.is_none_or(|before| before <= acked));
    let elsewhere = LeadershipError::NotLeader { leader: Some(first.node_id()) };
    assert_eq!(other.as_leader().await, Err(elsewhere.clone()));
    assert_eq!(other.trigger().heartbeat().await, Err(elsewhere));
    assert_eq!(first.trigger().elect(Phase::Real).await, Ok(leading.leader_id), "it leads already");
    assert_eq!(first.voter_ids().len(), 3);
    assert!(first.learner_ids().is_empty());

    network.isolate(first.node_id());
    assert!(first.trigger().heartbeat().await.is_err(), "nobody hears it");
    let elected = loop {
        // Refused as long as the other voter's lease lasts.
        match other.trigger().elect(Phase::Pre).await {
            Ok(leader_id) => break leader_id,
            Err(LeadershipError::NotElected { .. }) if !other.is_leader() => {}
            Err(error) => unreachable!("{error}"),
        }
        if let Some(leader) = other.current_leader().filter(|leader| *leader != first.node_id()) {
            // By itself, the third was faster.
            break by_id(&nodes, leader).unwrap().trigger().heartbeat().await.unwrap();
        }
    };
    assert!(elected > leading.leader_id);
    network.heal();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_start_of_a_leadership_gets_its_stop() {
    let (_network, nodes) = start(3, Config::default()).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watched = leader(&nodes).await;
    let (starts, stops) = (tell.clone(), tell);
    let changes = watched.on_leader_change(
        move |leader_id| {
            starts.send((true, leader_id)).unwrap();
            std::future::ready(())
        },
        move |leader_id| {
            stops.send((false, leader_id)).unwrap();
            std::future::ready(())
        },
    );
    let mut under = Vec::new();
    for _ in 0..3 {
        let (starting, leader_id) = told.recv().await.unwrap();
        assert!(starting && leader_id.node_id == watched.node_id());
        under.push(leader_id);
        let next = leader(&nodes).await.trigger().transfer_leader(None).await.unwrap().node_id;
        assert_eq!(told.recv().await, Some((false, leader_id)));
        let next = by_id(&nodes, next).unwrap();
        next.wait(PATIENCE).is_leader().await.unwrap();
        next.trigger().transfer_leader(watched.node_id()).await.unwrap();
    }
    assert!(under.is_sorted_by(|a, b| a < b));
    let (starting, last) = told.recv().await.unwrap();
    assert!(starting);
    changes.close().await;
    assert_eq!(told.recv().await, Some((false, last)));
    assert_eq!(told.recv().await, None);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_group_stops_its_leadership() {
    let (_network, nodes) = start(1, Config::default()).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let stops = tell.clone();
    let start = move |_| {
        tell.send(true).unwrap();
        std::future::ready(())
    };
    let end = move |_| {
        stops.send(false).unwrap();
        std::future::ready(())
    };
    drop(nodes[0].on_leader_change(start, end));
    assert_eq!(told.recv().await, Some(true), "a handle that is dropped ends nothing");
    stop(nodes).await;
    assert_eq!((told.recv().await, told.recv().await), (Some(false), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_the_state_are_watched_by_themselves() {
    let (_network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap();
    let mut applied = follower.watch_apply();
    let mut commit = follower.watch_commit();
    let mut server = first.server_metrics();
    let mut vote = follower.watch_vote();
    let mut data = first.data_metrics();
    let before = server.get();
    assert_eq!((before.role, before.current_leader), (quorate::Role::Leader, Some(first.node_id())));
    let written = first.client_write("one".to_owned()).await.unwrap().log_id;
    assert!(applied.wait_until_ge(written).await.unwrap() >= written);
    assert!(commit.wait_until_ge(written.index).await.unwrap() >= written.index);
    assert!(follower.watch_log().wait_until_ge(written.index).await.unwrap() >= written.index);
    data.wait_until(|data| data.last_applied >= written && data.commit_index >= written.index).await.unwrap();
    assert_eq!(server.get(), before, "a write changes nothing about the cluster");
    let snapshot = follower.trigger().snapshot().await.unwrap();
    assert_eq!(follower.watch_snapshot().wait_until_ge(snapshot).await, Ok(snapshot));
    follower.wait(PATIENCE).snapshot(snapshot).await.unwrap();
    first.wait(PATIENCE).committed_index_at_least(written.index).await.unwrap();
    first.wait(PATIENCE).leader_with_quorum_acked(PATIENCE).await.unwrap();
    let last = first.write_blank().await.unwrap().index;
    follower.wait(PATIENCE).log_index(last).await.unwrap();
    follower.wait(PATIENCE).committed_index(last).await.unwrap();
    follower.wait(PATIENCE).applied_index(last).await.unwrap();
    let purged = follower.trigger().purge_log(written.index).await.unwrap();
    follower.wait(PATIENCE).purged(purged).await.unwrap();

    let earlier = vote.get();
    let next = first.trigger().transfer_leader(follower.node_id()).await.unwrap();
    assert_ne!(vote.changed().await.unwrap(), earlier);
    let vote = vote.wait_until(|vote| vote.committed && vote.leader_id == next).await.unwrap();
    first.wait(PATIENCE).vote(vote).await.unwrap();
    assert_eq!(server.wait_until(|now| now.current_leader == Some(next.node_id)).await.unwrap().vote, vote);
    stop(nodes).await;
    let end = commit.get();
    assert_eq!(commit.wait_until_ge(end + 1).await, Err(ClosedReason::Shutdown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_recovers_before_it_serves() {
    let (network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    let away = nodes.iter().find(|node| node.node_id() != first.node_id()).unwrap();
    network.isolate(away.node_id());
    let written = first.client_write("missed".to_owned()).await.unwrap().log_id;
    let alone = away.wait_for_recovery(Duration::from_millis(20)).await;
    assert!(matches!(alone, Err(quorate::WaitError::Timeout { .. })), "{alone:?}");
    network.heal();
    assert!(away.wait_for_recovery(PATIENCE).await.unwrap() >= written);
    let applied = away.read(quorate::ReadPolicy::Stale, Ledger::commands).await.unwrap();
    assert_eq!(applied, ["missed"]);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_for_the_first_time_sees_who_leads_however_busy_the_node_is() {
    for _ in 0..20 {
        let network = MemoryNetwork::new();
        let builder = Raft::builder(1).peers(peers(1..=1)).in_memory(&network);
        let node = builder.start(Ledger::inline()).await.unwrap();
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move {
                    while node.client_write("more".to_owned()).await.is_ok() {
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        node.client_write("first".to_owned()).await.unwrap();
        let seen = node.metrics().borrow().clone();
        assert_eq!((seen.role, seen.current_leader), (Role::Leader, Some(NodeId(1))));
        node.shutdown().await;
        for writer in busy {
            writer.await.unwrap();
        }
    }
}
