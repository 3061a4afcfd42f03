//! What operators are told of a cluster's life, over TCP and in memory; each event and span is as it is listed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

#[path = "../src/events/tests/capture.rs"]
mod capture;
mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use capture::Capture;
use common::{Ledger, PATIENCE, leader, peers};
use quorate::{Config, MemoryNetwork, Raft};
use tokio::sync::oneshot;

/// Of this process: threads of the runtime tell most of it.
fn capture() -> Capture {
    let capture = Capture::default();
    tracing::subscriber::set_global_default(capture.clone()).unwrap();
    capture
}

/// One test: whoever captures what every thread says is alone in the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_of_a_cluster_is_told_by_listed_names() {
    let capture = capture();
    in_memory(&capture).await;
    over_tcp().await;
    let expected = BTreeSet::from([
        "accepted",
        "apply",
        "caller_panicked",
        "campaign_started",
        "closed",
        "cluster_awaited",
        "cluster_joined",
        "cluster_made",
        "connected",
        "failed",
        "leader_elected",
        "leader_followed",
        "leader_stepped_down",
        "membership_in_force",
        "peer_needs_snapshot",
        "peer_state",
        "snapshot_build",
        "snapshot_built",
        "snapshot_install",
        "snapshot_installed",
        "snapshot_send",
        "turn",
        "vote_granted",
    ]);
    let told = capture.names();
    let missing: Vec<_> = expected.iter().filter(|name| !told.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

async fn in_memory(capture: &Capture) {
    let network = MemoryNetwork::new();
    let start = |id| {
        // Leaders that are not late although the machine is busy.
        let (election_timeout_min, election_timeout_max) = (Duration::from_secs(2), Duration::from_secs(3));
        let config = Config { keep_entries: 0, election_timeout_min, election_timeout_max, ..Config::default() };
        Raft::builder(id).peers(peers(1..=3)).in_memory(&network).config(config).start(Ledger::inline())
    };
    let first = start(1).await.unwrap();
    // A blank node says what it waits for, once it has waited.
    while !capture.names().contains("cluster_awaited") {
        tokio::task::yield_now().await;
    }
    let mut nodes = vec![first, start(2).await.unwrap()];
    nodes.push(start(3).await.unwrap());
    nodes[2].wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    let leads = leader(&nodes).await;

    // A follower that lags behind the begin of the log needs a snapshot.
    let behind = nodes.iter().find(|node| !node.is_leader()).unwrap().clone();
    network.isolate(behind.node_id());
    for word in ["a", "b", "c"] {
        leads.client_write(word.to_owned()).await.unwrap();
    }
    let last = leads.trigger().snapshot().await.unwrap();
    leads.trigger().purge_log(last.index).await.unwrap();
    network.heal();
    behind.wait(PATIENCE).applied_index_at_least(last.index).await.unwrap();

    // What a caller leaves behind may panic; a state machine may not.
    let (reply, told) = oneshot::channel::<()>();
    let panics = move |_| {
        let _told = reply;
        panic!("the test asked for it");
    };
    leader(&nodes).await.write("d".to_owned()).on_commit(panics).await.unwrap();
    assert!(told.await.is_err(), "it was called");
    // On a busy machine it may lose its leadership before it is asked to hand it over: the next one is asked then.
    while let Err(error) = leader(&nodes).await.trigger().transfer_leader(None).await {
        assert!(error.is_retryable(), "{error}");
        tokio::task::yield_now().await;
    }
    drop(nodes[0].client_write("panic".to_owned()).await);
    // The one that leads is first to apply it; the others may be left without a quorum before they do.
    tokio::select! {
        _ = nodes[0].closed() => {}
        _ = nodes[1].closed() => {}
        _ = nodes[2].closed() => {}
    }
    for node in nodes {
        node.shutdown().await;
    }
}

async fn over_tcp() {
    let folder = std::env::temp_dir().join(format!("quorate-events-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let any = "127.0.0.1:0".to_owned();
    let start = |id: u64, peers: Vec<(u64, String)>| {
        Raft::builder(id).peers(peers).data_dir(folder.join(id.to_string())).start(Ledger::inline())
    };
    let first = start(1, vec![(1, any.clone())]).await.unwrap();
    // A blank node whose peer has state joins it.
    let second = start(2, vec![(1, first.address().to_owned()), (2, any)]).await.unwrap();
    let nodes = [first, second];
    nodes[1].wait(PATIENCE).leader().await.unwrap();
    nodes[1].client_write("a".to_owned()).await.unwrap();
    for node in nodes {
        node.shutdown().await;
    }
    let _ = std::fs::remove_dir_all(&folder);
}
