//! Membership changes through the public API: conditions, learners that catch up, what is refused and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::time::Duration;

use common::{Ledger, PATIENCE, leader, start, stop};
use quorate::{
    CatchUp, ChangeError, ChangeMembers, ChangeTerms, Config, MemoryNetwork, Node, NodeId, Precondition, Quorum, Raft,
    Refusal, Retain, Role, WaitError,
};

/// A blank node that waits to be told of a cluster.
async fn blank(network: &MemoryNetwork, id: u64) -> Raft<Ledger> {
    Raft::builder(id).in_memory(network).start(Ledger::inline()).await.unwrap()
}

fn member(id: u64) -> Node {
    Node::at(format!("memory:{id}"))
}

async fn learners<const N: usize>(node: &Raft<Ledger>, ids: [u64; N]) {
    let ids = ids.map(NodeId).into();
    node.wait(PATIENCE).metrics(|now| now.membership.learner_ids() == ids, "other learners").await.unwrap();
}

fn refusal(error: ChangeError) -> Refusal {
    match error {
        ChangeError::Refused(refusal) => refusal,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_that_saw_the_same_membership_one_is_made() {
    let (_network, nodes) = start(3, Config::default()).await;
    let leading = leader(&nodes).await;
    let seen = leading.wait(PATIENCE).is_leader().await.unwrap();
    let preconditions =
        || vec![Precondition::LeaderId(seen.vote.leader_id), Precondition::LastMembershipLogId(seen.membership_log_id)];
    let add = |id: u64| ChangeMembers::AddNodes([(NodeId(id), member(id))].into());
    let first = leading.change_membership_if(add(4), Retain::Remove, preconditions()).await.unwrap();
    let second = leading.change_membership_if(add(5), Retain::Remove, preconditions()).await.unwrap_err();
    assert!(!second.is_retryable() && !second.outcome_is_unknown());
    let told = second.to_string();
    assert!(told.contains("last membership log id"), "{told}");
    let expected = Precondition::LastMembershipLogId(seen.membership_log_id);
    let actual = Precondition::LastMembershipLogId(first);
    assert_eq!(refusal(second), Refusal::PreconditionFailed { expected, actual });
    learners(&leading, [4]).await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_becomes_a_voter_in_one_call() {
    let config = Config { replication_lag_threshold: 5, ..Config::default() };
    let (network, mut nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    for i in 0..50 {
        leading.client_write(format!("{i}")).await.unwrap();
    }
    let four = blank(&network, 4).await;
    let change = ChangeMembers::AddVoters([(NodeId(4), member(4))].into());
    let done = leading.change_membership(change, Retain::Remove).await.unwrap();
    // When the joint entry, the one before the last, was appended, node 4 was near the end of the log.
    let caught_up = four.wait(PATIENCE).log_index_at_least(done.index - 1 - 5).await.unwrap();
    assert!(caught_up.last_log_id.index >= 50);
    four.wait(PATIENCE).voter_ids([1, 2, 3, 4]).await.unwrap();
    nodes.push(four);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_a_learner_waits_for_it_or_does_not() {
    let config =
        Config { replication_lag_threshold: 0, write_timeout: Duration::from_millis(700), ..Config::default() };
    let (network, mut nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let last = leading.client_write("before".into()).await.unwrap().log_id;
    let four = blank(&network, 4).await;
    leading.add_learner(4, member(4), CatchUp::Wait).await.unwrap();
    let seen = four.wait(PATIENCE).log_index_at_least(last.index).await.unwrap();
    assert_eq!(seen.role, Role::Learner);
    let caught_up =
        |now: &quorate::RaftMetrics| now.replication.iter().any(|peer| peer.id == NodeId(4) && peer.lag == 0);
    leading.wait(PATIENCE).metrics(caught_up, "no lag to be left").await.unwrap();

    // Nobody answers at 9: it is a learner all the same, and its caller is told how far it is.
    leading.add_learner(9, member(9), CatchUp::Skip).await.unwrap();
    let late = leading.add_learner(9, member(9), CatchUp::Wait).await.unwrap_err();
    assert!(late.is_retryable());
    assert!(matches!(refusal(late), Refusal::NotCaughtUp { node: NodeId(9), .. }));
    let unseen = leading.change_membership(ChangeMembers::AddVoterIds([NodeId(9)].into()), Retain::Remove).await;
    assert_eq!(refusal(unseen.unwrap_err()), Refusal::NotSeenYet(NodeId(9)));
    learners(&leading, [4, 9]).await;
    nodes.push(four);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_lags_is_not_promoted() {
    let config = Config { replication_lag_threshold: 10, ..Config::default() };
    let (network, mut nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let four = blank(&network, 4).await;
    leading.add_learner(4, member(4), CatchUp::Wait).await.unwrap();
    network.isolate(4);
    for i in 0..20 {
        leading.client_write(format!("{i}")).await.unwrap();
    }
    let promote = || ChangeMembers::AddVoterIds([NodeId(4)].into());
    let refused = leading.change_membership_with(promote(), Retain::Remove, ChangeTerms::default()).await.unwrap_err();
    let Refusal::NotCaughtUp { node, matched, last } = refusal(refused) else { panic!("another refusal") };
    assert_eq!(node, NodeId(4));
    assert!(matched.index + 20 <= last.index, "{matched} of {last}");
    // A patient caller gets it as soon as the node is back.
    let pending = {
        let leading = leading.clone();
        tokio::spawn(async move { leading.change_membership(promote(), Retain::Remove).await })
    };
    leading.client_write("commits do not wait".into()).await.unwrap();
    network.heal();
    pending.await.unwrap().unwrap();
    four.wait(PATIENCE).voter_ids([1, 2, 3, 4]).await.unwrap();
    nodes.push(four);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused_and_says_who_is_silent() {
    let config = Config { write_timeout: Duration::from_millis(1500), ..Config::default() };
    let (_network, nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let others: Vec<NodeId> = nodes.iter().map(Raft::node_id).filter(|id| *id != leading.node_id()).collect();
    let (stays, stops) = (others[0], others[1]);
    nodes.iter().find(|node| node.node_id() == stops).unwrap().shutdown().await;
    // Two of three are enough to go on: nothing changes for as long as it takes to miss the third.
    let lease = Config::default().election_timeout_max;
    let nothing = leading.wait(lease * 2).metrics(|now| now.role != Role::Leader, "the leader to lose its place").await;
    assert!(matches!(nothing, Err(WaitError::Timeout { .. })));
    // With the living one gone, two voters are left, and both are needed.
    let remove = |id| ChangeMembers::RemoveVoters([id].into());
    let refused = leading.change_membership(remove(stays), Retain::Remove).await.unwrap_err();
    assert_eq!(refusal(refused), Refusal::WouldLoseQuorum { silent: vec![stops] });
    // Without the dead one, nothing is lost.
    leading.change_membership(remove(stops), Retain::Remove).await.unwrap();
    leading.wait(PATIENCE).voter_ids([leading.node_id().0, stays.0]).await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_its_own_is_named_together_with_its_voters() {
    let (network, mut nodes) = start(3, Config::default()).await;
    let four = blank(&network, 4).await;
    let leading = leader(&nodes).await;
    let ids = |count: u64| (1..=count).map(NodeId);
    let rule = |elect, commit, count| ChangeMembers::SetQuorum {
        elect: Quorum::at_least(elect, ids(count)),
        commit: Quorum::at_least(commit, ids(count)),
    };
    leading.change_membership(rule(3, 1, 3), Retain::Remove).await.unwrap();
    let add = ChangeMembers::AddVoters([(NodeId(4), member(4))].into());
    let refused = leading.change_membership(add.clone(), Retain::Remove).await.unwrap_err();
    assert_eq!(refusal(refused), Refusal::RuleNeeded { added: vec![NodeId(4)], removed: vec![] });
    leading.change_membership(ChangeMembers::Batch(vec![add, rule(3, 2, 4)]), Retain::Remove).await.unwrap();
    four.wait(PATIENCE).voter_ids([1, 2, 3, 4]).await.unwrap();
    let wanted = "elect 3 of {1,2,3,4} commit 2 of {1,2,3,4}";
    leading.wait(PATIENCE).metrics(|now| now.membership.to_string() == wanted, wanted).await.unwrap();
    nodes.push(four);
    stop(nodes).await;
}

/// Nobody tells a node without a list of peers where anybody is: whoever adds it does, once they are connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_over_tcp_by_blank_nodes_that_know_nobody() {
    let folder = std::env::temp_dir().join(format!("quorate-grows-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let any = "127.0.0.1:0";
    let node = |id: u64| Raft::builder(id).listen(any).data_dir(folder.join(id.to_string()));
    let mut nodes = vec![node(1).peers([(1, any)]).start(Ledger::inline()).await.unwrap()];
    nodes[0].wait(PATIENCE).is_leader().await.unwrap();
    for id in [2, 3] {
        let next = node(id).start(Ledger::inline()).await.unwrap();
        nodes[0].add_learner(id, Node::at(next.address()), CatchUp::Wait).await.unwrap();
        nodes.push(next);
    }
    let voters = ChangeMembers::AddVoterIds([NodeId(2), NodeId(3)].into());
    nodes[0].change_membership(voters, Retain::Remove).await.unwrap();
    for node in &nodes {
        node.client_write(format!("by {}", node.node_id())).await.unwrap();
    }
    stop(nodes).await;
    let _ = std::fs::remove_dir_all(&folder);
}
