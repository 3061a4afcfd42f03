//! What a cluster counts and times, on disk and over TCP: each number where it belongs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::time::Duration;

use common::{Ledger, PATIENCE};
use quorate::{MetricValue, MetricsRegistry, NodeId, Raft, RuntimeStats};

const WRITES: usize = 20;

/// Waits until the numbers of a node are so; each look hands the time on to what the node does.
async fn until(node: &Raft<Ledger>, holds: impl Fn(&RuntimeStats) -> bool) -> RuntimeStats {
    let look = async {
        loop {
            let stats = node.runtime_stats();
            if holds(&stats) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("not in time: {:?}", node.runtime_stats()))
}

fn number(registry: &MetricsRegistry, name: &str, node: u64) -> Vec<u64> {
    let families = registry.families();
    let family = families.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("{name}"));
    let of_node = family.samples.iter().filter(|sample| sample.labels.contains(&("node", node.to_string())));
    let value = |value: &MetricValue| match value {
        MetricValue::Number(number) => *number,
        MetricValue::Times(times) => times.count(),
    };
    of_node.map(|sample| value(&sample.value)).collect()
}

async fn wait_for(registry: &MetricsRegistry, name: &str, node: u64, wanted: u64) {
    let look = async {
        while number(registry, name, node) != [wanted] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{name}: {:?}", number(registry, name, node)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_of_a_write_is_timed_where_it_happens() {
    let folder = std::env::temp_dir().join(format!("quorate-numbers-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let registry = MetricsRegistry::new();
    let any = "127.0.0.1:0".to_owned();
    let start = |id: u64, peers: Vec<(u64, String)>| {
        let builder = Raft::builder(id).peers(peers).data_dir(folder.join(id.to_string()));
        builder.metrics_registry(&registry).start(Ledger::inline())
    };
    let first = start(1, vec![(1, any.clone())]).await.unwrap();
    let second = start(2, vec![(1, first.address().to_owned()), (2, any)]).await.unwrap();
    second.wait(PATIENCE).leader().await.unwrap();

    for at in 0..WRITES {
        first.client_write(at.to_string()).await.unwrap();
    }
    let last = first.trigger().snapshot().await.unwrap();
    second.wait(PATIENCE).applied_index_at_least(last.index).await.unwrap();
    let writes = WRITES as u64;
    let led = until(&first, |stats| {
        let answered = stats.round_trips.get(&NodeId(2)).is_some_and(|trips| trips.count() > 0);
        answered && stats.propose_to_commit.count() >= writes && stats.persist.count() >= writes
    })
    .await;
    assert_eq!((led.proposed_entries, led.propose_to_commit.count()), (writes, writes), "each write counts");
    assert!(led.proposed_batches <= writes && led.proposed_bytes > led.proposed_entries);
    assert!(led.applied_entries > writes, "memberships and the leader's first entry as well");
    assert_eq!(led.commit_to_apply.count(), led.applied_entries);
    assert!(led.apply.sum() <= led.commit_to_apply.sum(), "a part of it");
    assert!(led.fsync.count() > 0 && led.fsync.sum() > Duration::ZERO);
    assert!(led.persist.quantile(1.0) > Some(Duration::ZERO));
    assert_eq!((led.elections_won, led.leader_changes, led.snapshot_build.count()), (1, 1, 1));

    let followed = until(&second, |stats| stats.commit_to_apply.count() >= writes).await;
    assert_eq!((followed.proposed_entries, followed.propose_to_commit.count(), followed.elections_won), (0, 0, 0));
    assert!(followed.round_trips.is_empty(), "nobody answers a follower");
    assert!(followed.fsync.count() > 0 && followed.persist.count() > 0, "it keeps what it takes");

    // One page for both.
    assert_eq!(number(&registry, "quorate_is_leader", 1), [1]);
    assert_eq!(number(&registry, "quorate_is_leader", 2), [0]);
    assert_eq!(number(&registry, "quorate_leader", 2), [1]);
    // The core hears of it in the turn after.
    wait_for(&registry, "quorate_applied_index", 2, last.index).await;
    wait_for(&registry, "quorate_peer_lag_entries", 1, 0).await;
    assert_eq!(number(&registry, "quorate_snapshot_index", 1), [last.index]);
    assert_eq!(number(&registry, "quorate_proposed_entries_total", 1), [writes]);
    assert_eq!(number(&registry, "quorate_proposal_window_bytes", 1), [0], "everything is answered");
    assert_eq!(number(&registry, "quorate_apply_queue_jobs", 1), [0]);
    assert!(number(&registry, "quorate_written_bytes_total", 2)[0] > 0);

    second.shutdown().await;
    first.shutdown().await;
    drop((first, second));
    let _ = std::fs::remove_dir_all(&folder);
}
