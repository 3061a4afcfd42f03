//! Whoever waits for a node that stops is told at once, and whoever comes later as well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use common::{Ledger, PATIENCE, leader, start};
use quorate::{
    CatchUp, ChangeMembers, ClientWriteError, ClosedReason, Config, Drain, MemoryNetwork, Node, NodeId, Phase, Raft,
    ReadPolicy, Retain, Session, SessionOptions, Settings, Toggle,
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
    call!("submit", |raft| async { raft.write(word()).submit()?.applied().await });
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
