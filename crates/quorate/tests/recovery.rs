//! Lost logs and lost quorums (laws 15 and 16), on durable nodes in one process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Ledger, PATIENCE, leader};
use quorate::recover::{RecoverError, Recovery};
use quorate::{
    ChangeMembers, ClosedReason, Config, GroupId, Host, Node, NodeId, OnLostLog, Raft, RaftMetrics, ReadError,
    ReadPolicy, Retain, Role,
};
use quorate_wal::{RealDisk, Wal, WalOptions};

/// A directory below cargo's own, removed unless the test fails.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn of(&self, node: u64) -> PathBuf {
        self.0.join(node.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Three addresses that nobody listens on yet.
fn addresses() -> Vec<(u64, String)> {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    (1..).zip(listeners).map(|(id, listener)| (id, listener.local_addr().unwrap().to_string())).collect()
}

struct Cluster {
    directory: Directory,
    addresses: Vec<(u64, String)>,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        Self { directory: Directory::new(name), addresses: addresses() }
    }

    async fn start(&self, id: u64, config: Config) -> Raft<Ledger> {
        let builder = Raft::builder(id).peers(self.addresses.clone()).data_dir(self.directory.of(id));
        builder.config(config).start(Ledger::default()).await.unwrap()
    }

    async fn start_all(&self) -> Vec<Raft<Ledger>> {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(self.start(id, Config::default()).await);
        }
        for node in &nodes {
            node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
        }
        nodes
    }

    fn wipe(&self, id: u64) {
        fs::remove_dir_all(self.directory.of(id)).unwrap();
    }

    fn recovery(&self, ids: &[u64]) -> Recovery {
        Recovery::new(ids.iter().map(|id| self.directory.of(*id)))
    }
}

async fn holds(node: &Raft<Ledger>, commands: &[&str]) {
    let expected: Vec<String> = commands.iter().map(|command| (*command).to_string()).collect();
    assert_eq!(node.read(ReadPolicy::ReadIndex, Ledger::commands).await.unwrap(), expected);
}

async fn until(node: &Raft<Ledger>, what: &str, holds: impl Fn(&RaftMetrics) -> bool) -> RaftMetrics {
    node.wait(PATIENCE).metrics(holds, what).await.unwrap()
}

fn votes_everywhere(id: u64) -> impl Fn(&RaftMetrics) -> bool {
    move |now| now.membership.is_voter(NodeId(id)) && !now.membership.is_joint()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_halts_or_rejoins_as_a_learner_until_it_is_made_a_voter() {
    let cluster = Cluster::new("wiped");
    let mut nodes = cluster.start_all().await;
    nodes[0].client_write("kept".into()).await.unwrap();
    let leading = leader(&nodes).await;
    let place = nodes.iter().position(|node| node.node_id() != leading.node_id()).unwrap();
    let wiped = nodes.remove(place);
    let id = wiped.node_id().0;
    wiped.shutdown().await;
    cluster.wipe(id);

    // By default it stops, and says why and what to do.
    let halted = cluster.start(id, Config::default()).await;
    let reason = halted.closed().await;
    assert!(matches!(reason, ClosedReason::LostLog { node, .. } if node == NodeId(id)), "{reason:?}");
    let text = reason.to_string();
    for part in ["its log is lost", "on_lost_log = Rejoin", &format!("AddVoterIds([{id}])"), "RemoveVoters"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(halted.metrics().borrow().last_log_id.index, 0, "nothing was accepted");
    halted.shutdown().await;

    // Told to, it follows as a learner; its word does not count.
    let config = Config { on_lost_log: OnLostLog::Rejoin, ..Config::default() };
    let learner = cluster.start(id, config).await;
    let end = leading.client_write("more".into()).await.unwrap().log_id.index;
    let caught_up = until(&learner, "the learner to catch up", |now| now.last_applied.index >= end).await;
    assert_eq!(caught_up.role, Role::Learner);
    holds(&learner, &["kept", "more"]).await;

    // It goes on as one after a restart, whatever the configuration says then: it has a log now.
    learner.shutdown().await;
    let learner = cluster.start(id, Config::default()).await;
    let end = leading.client_write("again".into()).await.unwrap().log_id.index;
    until(&learner, "the learner to go on", |now| now.last_applied.index >= end).await;

    let change = ChangeMembers::AddVoterIds([NodeId(id)].into());
    leading.change_membership(change, Retain::Remove).await.unwrap();
    until(&learner, "the learner to vote", |now| now.role == Role::Follower).await;
    // With the third node down, a write needs the word of the disk that was new.
    let place = nodes.iter().position(|node| node.node_id() != leading.node_id()).unwrap();
    nodes.remove(place).shutdown().await;
    leading.client_write("with its vote".into()).await.unwrap();
    holds(&learner, &["kept", "more", "again", "with its vote"]).await;
    nodes.push(learner);
    common::stop(nodes).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_counts_on_is_refused_and_stops_for_good() {
    let cluster = Cluster::new("older-copy");
    let mut nodes = cluster.start_all().await;
    let leading = leader(&nodes).await;
    let place = nodes.iter().position(|node| node.node_id() != leading.node_id()).unwrap();
    let node = nodes.remove(place);
    let (id, data) = (node.node_id().0, cluster.directory.of(node.node_id().0));
    node.shutdown().await;
    copy(&data, &cluster.directory.0.join("copy"));
    let later = cluster.start(id, Config::default()).await;
    let end = leading.client_write("kept".into()).await.unwrap().log_id.index;
    later.wait(PATIENCE).applied_index_at_least(end).await.unwrap();
    later.shutdown().await;

    // The copy is started again and again, and is ahead of what its peers saw before they hear of it.
    cluster.wipe(id);
    fs::rename(cluster.directory.0.join("copy"), &data).unwrap();
    for _ in 0..5 {
        let wal = Wal::open(Arc::new(RealDisk), &data, WalOptions::new(NodeId(id))).unwrap();
        wal.shutdown().unwrap();
    }
    // It may hear of it before it is up.
    let start = || Raft::builder(id).peers(cluster.addresses.clone()).data_dir(&data).start(Ledger::default());
    let text = match start().await {
        Ok(halted) => {
            let reason = tokio::time::timeout(PATIENCE, halted.closed()).await.unwrap();
            halted.shutdown().await;
            reason.to_string()
        }
        Err(refused) => refused.to_string(),
    };
    for part in
        ["is an older copy of this node's disk", "newest copy", "said: ", "start 7, which does not come after start 2"]
    {
        assert!(text.contains(part), "{text}");
    }
    let refused = start().await.err().unwrap().to_string();
    assert!(refused.contains("is an older copy of this node's disk"), "{refused}");
    leading.client_write("more".into()).await.unwrap();
    holds(&leading, &["kept", "more"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_recovered_from_the_survivor_and_grows_again() {
    let cluster = Cluster::new("lost");
    let nodes = cluster.start_all().await;
    for command in ["a", "b"] {
        nodes[1].client_write(command.into()).await.unwrap();
    }
    nodes[0].trigger().snapshot().await.unwrap();
    nodes[0].client_write("c".into()).await.unwrap();
    let id = nodes[0].cluster_id();
    for node in &nodes {
        let end = nodes[0].metrics().borrow().last_log_id.index;
        node.wait(PATIENCE).applied_index_at_least(end).await.unwrap();
    }

    // While the node runs, or a quorum with it can be reached, nothing is recovered.
    let [one, two, three] = <[_; 3]>::try_from(nodes).unwrap();
    let refused = cluster.recovery(&[1]).plan().await.unwrap_err();
    assert!(matches!(refused, RecoverError::Running { .. }), "{refused}");
    one.shutdown().await;
    let refused = cluster.recovery(&[1]).apply().await.unwrap_err();
    let RecoverError::QuorumReachable { nodes, stopped, unclear, .. } = &refused else { panic!("{refused}") };
    assert_eq!((&nodes[..], &stopped[..]), (&[NodeId(1), NodeId(2), NodeId(3)][..], &[NodeId(1)][..]), "{refused}");
    assert!(unclear.is_empty());
    three.shutdown().await;
    let refused = cluster.recovery(&[1]).lost([NodeId(2)]).plan().await.unwrap_err();
    assert!(matches!(&refused, RecoverError::QuorumReachable { nodes, .. } if nodes[..] == [NodeId(1), NodeId(2)]));

    // Nodes 2 and 3 are lost for good.
    two.shutdown().await;
    let plan = cluster.recovery(&[1]).apply().await.unwrap();
    assert_eq!((plan.survivor, plan.cluster, plan.recovered), (NodeId(1), id, id.recovered().unwrap()));
    let one = cluster.start(1, Config::default()).await;
    holds(&one, &["a", "b", "c"]).await;
    one.client_write("d".into()).await.unwrap();
    assert_eq!(one.cluster_id().recovery(), 1);

    // An old node is refused: it finds no leader.
    let config = Config { read_timeout: Duration::from_millis(1500), ..Config::default() };
    let old = cluster.start(2, config).await;
    let refused = old.read(ReadPolicy::ReadIndex, Ledger::commands).await.unwrap_err();
    assert!(matches!(refused, ReadError::NoLeader { leader: None }), "{refused}");
    assert_eq!(old.metrics().borrow().membership.voter_ids().len(), 3, "it knows nothing of the recovery");
    old.shutdown().await;

    // Blank, both come back: first as learners, then as voters.
    let mut nodes = vec![one];
    for id in [2, 3] {
        cluster.wipe(id);
        let node = cluster.start(id, Config::default()).await;
        let end = nodes[0].metrics().borrow().last_log_id.index;
        let joined = until(&node, "the new node to catch up", |now| now.last_applied.index >= end).await;
        assert_eq!(joined.role, Role::Learner);
        let change = ChangeMembers::AddVoterIds([NodeId(id)].into());
        nodes[0].change_membership(change, Retain::Remove).await.unwrap();
        until(&node, "the new node to vote", votes_everywhere(id)).await;
        nodes.push(node);
    }
    assert!(nodes.iter().all(|node| node.cluster_id() == id.recovered().unwrap()));
    nodes.remove(0).shutdown().await;
    leader(&nodes).await.client_write("e".into()).await.unwrap();
    holds(&nodes[0], &["a", "b", "c", "d", "e"]).await;
    common::stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_of_a_directory_is_recovered_at_once() {
    let cluster = Cluster::new("groups");
    let open = async |id: u64| {
        let members = cluster.addresses.iter().map(|(id, address)| (NodeId(*id), Node::at(address)));
        let host = Host::builder(id).peers(members).data_dir(cluster.directory.of(id)).open().await.unwrap();
        let mut groups = Vec::new();
        for group in [3, 8] {
            groups.push(host.group(GroupId(group)).start(Ledger::default()).await.unwrap());
        }
        (host, groups)
    };
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(open(id).await);
    }
    for (place, command) in ["three", "eight"].into_iter().enumerate() {
        let written = hosts[1].1[place].client_write(command.into()).await.unwrap();
        hosts[0].1[place].wait(PATIENCE).applied_index_at_least(written.log_id.index).await.unwrap();
    }
    for (host, _) in hosts {
        host.shutdown().await;
    }
    let plan = cluster.recovery(&[1]).apply().await.unwrap();
    assert_eq!(plan.groups.iter().map(|group| group.group).collect::<Vec<_>>(), [GroupId(3), GroupId(8)]);
    let (host, groups) = open(1).await;
    holds(&groups[0], &["three"]).await;
    holds(&groups[1], &["eight"]).await;
    host.shutdown().await;
}
