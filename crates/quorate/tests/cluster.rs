//! Three nodes in one process: writes, reads, leader changes, and what callers are told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::time::{Duration, Instant};

use common::{Ledger, PATIENCE, by_id, leader, peers, start, stop};
use quorate::{ClientWriteError, ClosedReason, Config, MemoryNetwork, Raft, ReadError, ReadPolicy, Role};

fn shared<T>(values: &[T]) -> bool
where
    T: PartialEq,
{
    values.windows(2).all(|pair| pair[0] == pair[1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_writes_and_serves_reads_that_see_them() {
    let (_network, nodes) = start(3, Config::default()).await;
    for round in 0..20 {
        for node in &nodes {
            let text = format!("{round} by {}", node.node_id());
            let written = node.client_write(text.clone()).await.unwrap();
            for reader in &nodes {
                let seen = reader.read(ReadPolicy::ReadIndex, |ledger| ledger.applied.last().cloned()).await.unwrap();
                assert_eq!(seen, Some((written.log_id.index, text.clone())), "read at node {}", reader.node_id());
            }
        }
    }
    let mut ledgers = Vec::new();
    for node in &nodes {
        ledgers.push(node.read(ReadPolicy::ReadIndex, |ledger| ledger.applied.clone()).await.unwrap());
    }
    assert_eq!(ledgers[0].len(), 60);
    assert!(shared(&ledgers));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_get_each_their_own_response() {
    let (_network, nodes) = start(3, Config::default()).await;
    let mut writers = Vec::new();
    for writer in 0..64 {
        let node = nodes[writer % 3].clone();
        writers.push(tokio::spawn(async move {
            let mut places = Vec::new();
            for i in 0..50 {
                let written = node.client_write(format!("{writer}-{i}")).await.unwrap();
                places.push((written.response, format!("{writer}-{i}")));
            }
            places
        }));
    }
    let ledger = {
        let mut places = Vec::new();
        for writer in writers {
            places.extend(writer.await.unwrap());
        }
        let ledger = nodes[0].read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap();
        for (place, command) in places {
            assert_eq!(ledger[place as usize - 1], command);
        }
        ledger
    };
    assert_eq!(ledger.len(), 64 * 50, "each command is applied once");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_and_each_command_its_outcome() {
    let config = Config { max_command_bytes: 100, ..Config::default() };
    let (_network, nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.node_id() != leading.node_id()).unwrap();
    for node in [&leading, follower] {
        let large = "x".repeat(200);
        let batch = vec!["a".to_string(), large.clone(), "b".to_string(), large, "c".to_string()];
        let results = node.client_write_many(batch).await;
        let outcomes: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(outcomes, [true, false, true, false, true], "{results:?}");
        let responses: Vec<u64> = results.iter().flatten().map(|written| written.response).collect();
        assert!(responses.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(matches!(results[1], Err(ClientWriteError::TooLarge { limit: 100, .. })));
    }
    let seen = nodes[0].read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap();
    assert_eq!(seen, ["a", "b", "c", "a", "b", "c"]);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_when_the_leader_stops() {
    let (_network, nodes) = start(3, Config::default()).await;
    nodes[0].client_write("before".into()).await.unwrap();
    let first = leader(&nodes).await;
    first.shutdown().await;
    assert_eq!(first.closed().await, ClosedReason::Shutdown);
    assert!(matches!(first.client_write("x".into()).await, Err(ClientWriteError::Closed(ClosedReason::Shutdown))));
    assert!(matches!(first.read(ReadPolicy::Stale, |_| ()).await, Err(ReadError::Closed(ClosedReason::Shutdown))));
    for node in nodes.iter().filter(|node| node.node_id() != first.node_id()) {
        node.client_write(format!("by {}", node.node_id())).await.unwrap();
    }
    let second = leader(&nodes).await;
    assert_ne!(second.node_id(), first.node_id());
    let seen = second.read(ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await.unwrap();
    assert_eq!(seen, 3);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_says_that_the_outcome_is_unknown_and_no_leader_that_nothing_happened() {
    let config = Config { write_timeout: Duration::from_millis(1500), ..Config::default() };
    let (network, nodes) = start(3, config).await;
    let first = leader(&nodes).await;
    network.isolate(first.node_id());
    // In its log, but nowhere else.
    let ambiguous = first.client_write("ambiguous".into()).await.unwrap_err();
    assert_eq!(ambiguous, ClientWriteError::OutcomeUnknown);
    assert!(ambiguous.outcome_is_unknown() && !ambiguous.is_retryable());
    // By now it stepped aside: check-quorum.
    first.wait(PATIENCE).metrics(|now| now.role != Role::Leader, "the cut-off leader to step aside").await.unwrap();
    let refused = first.client_write("refused".into()).await.unwrap_err();
    assert_eq!(refused, ClientWriteError::NoLeader { leader: None });
    assert!(refused.is_retryable());
    // The others never saw either.
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != first.node_id()).cloned().collect();
    let second = leader(&others).await;
    let written = second.client_write("certain".into()).await.unwrap();
    network.heal();
    first.wait(PATIENCE).applied_index_at_least(written.log_id.index).await.unwrap();
    let seen = first.read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap();
    assert_eq!(seen, ["certain"]);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_another_leaders_entry_replaced_is_written_again() {
    let (network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await;
    network.isolate(first.node_id());
    let pending = tokio::spawn(first.client_write("patient".into()));
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != first.node_id()).cloned().collect();
    first.wait(PATIENCE).metrics(|now| now.role != Role::Leader, "the cut-off leader to step aside").await.unwrap();
    leader(&others).await.client_write("other".into()).await.unwrap();
    network.heal();
    pending.await.unwrap().unwrap();
    let seen = first.read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap();
    assert_eq!(seen, ["other", "patient"], "applied once, after what replaced it");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_is_overload_at_the_deadline_and_at_once_without_patience() {
    let config = Config {
        max_command_bytes: 1000,
        proposal_window_bytes: 1000,
        election_timeout_min: Duration::from_secs(4),
        election_timeout_max: Duration::from_secs(6),
        ..Config::default()
    };
    let (network, nodes) = start(3, config).await;
    let first = leader(&nodes).await;
    network.isolate(first.node_id());
    let base = first.wait(PATIENCE).is_leader().await.unwrap().last_log_id.index;
    let pending = tokio::spawn(first.client_write("x".repeat(900)));
    first.wait(PATIENCE).log_index_at_least(base + 1).await.unwrap();
    let refused = first.try_client_write("y".repeat(100)).await.unwrap_err();
    assert_eq!(refused, ClientWriteError::Overloaded);
    assert!(refused.is_retryable());
    let patient = first.client_write_with("y".repeat(100), Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(patient.unwrap_err(), ClientWriteError::Overloaded);
    network.heal();
    pending.await.unwrap().unwrap();
    first.client_write("y".repeat(100)).await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_a_small_window_on_every_node_and_nobody_is_forgotten() {
    // A window takes a few commands; a hundred times as many stand in line.
    let config = Config { max_command_bytes: 1000, proposal_window_bytes: 4000, ..Config::default() };
    let (_network, nodes) = start(3, config).await;
    leader(&nodes).await;
    let mut callers = tokio::task::JoinSet::new();
    for (at, node) in nodes.iter().enumerate() {
        let deadline = Instant::now() + PATIENCE;
        for number in 0..100 {
            let name = |what: &str| format!("{what}-{at}-{number}-{}", "x".repeat(number * 9));
            let one = node.client_write_with(name("one"), deadline);
            callers.spawn(async move { vec![one.await.map(drop)] });
            if number % 10 == 0 {
                let many = node.write_many((0..5).map(|part| name(&format!("many{part}"))).collect());
                callers.spawn(async move {
                    many.deadline(PATIENCE).await.into_iter().map(|result| result.map(drop)).collect()
                });
            }
        }
    }
    let results = callers.join_all().await.concat();
    assert_eq!(results.len(), 3 * (100 + 10 * 5));
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    let mut applied = nodes[0].read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap();
    applied.sort();
    applied.dedup();
    assert_eq!(applied.len(), results.len(), "each of them once");
    // Nothing of the windows is kept: a node that drains has answered all there was.
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_apply_closes_the_group_and_answers_everybody() {
    let (_network, nodes) = start(1, Config::default()).await;
    let node = &nodes[0];
    node.client_write("fine".into()).await.unwrap();
    let killed = node.client_write("panic".into()).await.unwrap_err();
    assert_eq!(killed, ClientWriteError::OutcomeUnknown);
    let ClosedReason::StateMachine(text) = node.closed().await else { panic!("another reason") };
    assert!(text.contains("the test asked for it"), "{text}");
    assert!(matches!(node.client_write("more".into()).await, Err(ClientWriteError::Closed(_))));
    assert!(matches!(node.read(ReadPolicy::ReadIndex, |_| ()).await, Err(ReadError::Closed(_))));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lags_behind_the_log_is_sent_a_snapshot() {
    let config = Config { snapshot_entries: 20, keep_entries: 5, ..Config::default() };
    let (network, nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let lagging = nodes.iter().find(|node| node.node_id() != leading.node_id()).unwrap();
    network.isolate(lagging.node_id());
    for i in 0..100 {
        leading.client_write(format!("{i}")).await.unwrap();
    }
    leading.wait(PATIENCE).purged_index_at_least(60).await.unwrap();
    network.heal();
    let end = leading.client_write("end".into()).await.unwrap().log_id.index;
    let caught_up = lagging.wait(PATIENCE).applied_index_at_least(end).await.unwrap();
    assert!(caught_up.snapshot.index >= 60, "it came by a snapshot: {caught_up:?}");
    let seen = lagging.read(ReadPolicy::ReadIndex, |ledger| ledger.applied.len()).await.unwrap();
    assert_eq!(seen, 101);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_node_waits_for_every_listed_peer_before_there_is_a_cluster() {
    let network = MemoryNetwork::new();
    let builder = |id: u64| Raft::builder(id).peers(peers(1..=3)).in_memory(&network);
    let one = builder(1).start(Ledger::inline()).await.unwrap();
    let two = builder(2).start(Ledger::inline()).await.unwrap();
    let nobody = one.wait(Duration::from_millis(700)).leader().await;
    assert!(nobody.is_err(), "two of three are a quorum, but the third might have state");
    assert_eq!(one.cluster_id(), quorate::ClusterId(0));
    // Whoever writes or reads meanwhile is told who is missing.
    let brief = Duration::from_millis(20);
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            let refused = one.write("early".into()).deadline(brief).await.unwrap_err();
            assert!(refused.is_retryable(), "{refused}");
            if matches!(refused, ClientWriteError::NoCluster { .. }) {
                break refused.to_string();
            }
        }
    });
    assert!(refused.await.unwrap().contains("waiting for an answer of nodes 3 before"));
    let three = builder(3).start(Ledger::inline()).await.unwrap();
    let nodes = vec![one, two, three];
    for node in &nodes {
        node.wait(PATIENCE).leader().await.unwrap();
    }
    assert!(shared(&nodes.iter().map(Raft::cluster_id).collect::<Vec<_>>()));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_node_whose_peers_have_state_joins_as_a_learner() {
    let (network, mut nodes) = start(3, Config::default()).await;
    nodes[0].client_write("old".into()).await.unwrap();
    let four = Raft::builder(4).peers(peers(1..=4)).in_memory(&network).start(Ledger::inline()).await.unwrap();
    let joined =
        four.wait(PATIENCE).metrics(|now| now.last_applied.index >= 3, "the learner to catch up").await.unwrap();
    assert_eq!(joined.role, Role::Learner);
    assert_eq!(four.read(ReadPolicy::ReadIndex, |ledger| ledger.commands()).await.unwrap(), ["old"]);
    let change = quorate::ChangeMembers::AddVoterIds([quorate::NodeId(4)].into());
    leader(&nodes).await.change_membership(change, quorate::Retain::Remove).await.unwrap();
    four.wait(PATIENCE).voter_ids([1, 2, 3, 4]).await.unwrap();
    nodes.push(four);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_starts_at_once_and_initialize_makes_a_cluster_by_hand() {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3u64 {
        nodes.push(Raft::builder(id).in_memory(&network).start(Ledger::inline()).await.unwrap());
    }
    let member = |id: u64| (quorate::NodeId(id), quorate::Node::at(format!("memory:{id}")));
    assert!(nodes.iter().all(|node| !node.is_initialized()));
    nodes[1].initialize([member(1), member(2), member(3)].into()).await.unwrap();
    for node in &nodes {
        node.wait(PATIENCE).leader().await.unwrap();
        assert!(node.is_initialized());
        node.client_write("hello".into()).await.unwrap();
    }
    let again = nodes[0].initialize([member(1)].into()).await.unwrap_err();
    assert_eq!(again, quorate::InitializeError::Refused(quorate::Refusal::AlreadyInitialized));
    assert!(by_id(&nodes, nodes[0].current_leader().unwrap()).is_some());
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_write_is_a_barrier_and_changes_nothing() {
    let (_network, nodes) = start(3, Config::default()).await;
    let leading = leader(&nodes).await;
    for node in &nodes {
        let before = leading.client_write("a command".into()).await.unwrap();
        let barrier = node.write_blank().await.unwrap();
        assert!(barrier > before.log_id, "it comes after what was written before");
        let after = leading.client_write("another".into()).await.unwrap();
        assert_eq!(after.response, before.response + 1, "the state machine saw nothing of it");
        assert!(after.log_id > barrier);
    }
    stop(nodes).await;
}
