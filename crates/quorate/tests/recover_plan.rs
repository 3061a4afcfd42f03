//! What a recovery of a lost quorum says it will do, and what it refuses: directories made by hand, on a disk in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::path::Path;
use std::sync::Arc;

use quorate::advanced::core::Instant;
use quorate::advanced::wal::fake::MemDisk;
use quorate::advanced::wal::{Disk, WalCore, WalHandle, WalOptions, WalWrite};
use quorate::advanced::wire::{BatchBuilder, EntryKind, encode_membership};
use quorate::recover::{RecoverError, Recovery};
use quorate::{
    ClusterId, GroupId, Incarnation, LeaderId, LeaderIdMode, LogId, Membership, Node, NodeId, SnapshotMeta, Vote,
};

const CLUSTER: ClusterId = ClusterId(0xc1);

fn disk_of(node: u64) -> Incarnation {
    Incarnation(u128::from(node) << 8)
}

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

fn members(ids: &[u64]) -> Membership {
    Membership::majority(ids.iter().map(|id| (NodeId(*id), disk_of(*id), Node::at(DEAD))))
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

/// What a group's directory holds: the vote's term, the first membership, then commands up to each log id in turn.
struct Group<'a> {
    vote: u64,
    membership: Option<Membership>,
    log: &'a [(u64, u64)],
}

fn open(disk: &MemDisk, dir: &str, node: u64) -> (WalCore, WalHandle) {
    let options =
        WalOptions { incarnation: Some(disk_of(node)), segment_bytes: 1 << 16, ..WalOptions::new(NodeId(node)) };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    WalCore::open(shared, Path::new(dir), options).unwrap()
}

/// The directory of a node that was stopped.
fn directory(disk: &MemDisk, node: u64, cluster: ClusterId, groups: &[(u64, Group<'_>)]) -> String {
    let dir = format!("/data/{node}");
    let (mut core, handle) = open(disk, &dir, node);
    if cluster != ClusterId(0) {
        handle.set_cluster(cluster, LeaderIdMode::Advanced).unwrap();
    }
    for (number, group) in groups {
        let at = GroupId(*number);
        handle.open_group(at, Arc::new(|_, result| result.unwrap())).unwrap();
        let mut write = 0..;
        let mut submit = |op| handle.submit(at, quorate::advanced::core::WriteId(write.next().unwrap()), op);
        submit(WalWrite::Vote(Vote::uncommitted(LeaderId::new(group.vote, 2))));
        let mut seal = |kind, payloads: &[Vec<u8>], leader_id, first| {
            let mut builder = BatchBuilder::new();
            payloads.iter().for_each(|payload| builder.push(kind, payload));
            let batch = builder.seal(cluster, at, leader_id, first, 5).unwrap();
            submit(WalWrite::Append([batch].into_iter().collect()));
        };
        let mut last = 0;
        if let Some(membership) = &group.membership {
            let mut payload = Vec::new();
            encode_membership(membership, &mut payload);
            seal(EntryKind::Membership, &[payload], LeaderId::default(), 1);
            last = 1;
        }
        for (term, index) in group.log {
            let payloads = vec![b"x".to_vec(); (index - last) as usize];
            seal(EntryKind::Command, &payloads, LeaderId::new(*term, 1), last + 1);
            last = *index;
        }
    }
    while core.turn(Instant::ORIGIN) == quorate::advanced::wal::Wake::Again {}
    core.close(Instant::ORIGIN).unwrap();
    dir
}

fn recovery<const N: usize>(disk: &MemDisk, dirs: [&String; N]) -> Recovery {
    Recovery::new(dirs).disk(Arc::new(disk.clone()))
}

async fn text(recovery: &Recovery) -> String {
    recovery.plan().await.unwrap().to_string()
}

#[tokio::test]
async fn one_survivor_of_three() {
    let disk = MemDisk::new();
    let log = Group { vote: 3, membership: Some(members(&[1, 2, 3])), log: &[(1, 4), (2, 7)] };
    let one = directory(&disk, 1, CLUSTER, &[(1, log)]);
    let recovery = recovery(&disk, [&one]);
    let expected = "\
cluster 000000000000000000000000000000c1, recovery 0

/data/1: node 1, disk 00000000000000000000000000000100
  group 1: vote 3-2, log from 1 to 2-1.7, snapshot up to 0
    membership 0-0.1: {1,2,3}

asked:
  node 2: does not answer: connection refused at 127.0.0.1:1: no process listens there
  node 3: does not answer: connection refused at 127.0.0.1:1: no process listens there

plan: node 1 becomes the only voter of recovery 1
  in /data/1: every group, and nothing in any other directory
  group 1: the log is kept up to 2-1.7
    entries 1 to 7 may or may not have been committed: now they will be
    MAY BE LOST: what nodes 2 and 3 committed in place of entries 1 to 7, or after them
";
    assert_eq!(text(&recovery).await, expected);
    assert_eq!(text(&recovery).await, expected, "it changed nothing");
    let plan = recovery.apply().await.unwrap();
    assert_eq!(
        plan.next_steps(),
        "\
next:
  1. start node 1: it leads alone, as recovery 1
  2. keep nodes 2 and 3 stopped as they are: with their old directories they are refused, and if a quorum of them came back it would serve the old cluster
  3. empty the directory of each, or take new machines, and start them: they join as learners
  4. when they have caught up make them voters: change_membership(AddVoterIds([2])), and so on
"
    );
    // A second time there is a quorum: the survivor, which need only be started.
    let again = recovery.apply().await.unwrap_err();
    assert_eq!(again.to_string(), "a quorum of group 1 can be reached: node 1. Start node 1, and it elects a leader.");
    let (_core, handle) = open(&disk, &one, 1);
    assert_eq!(handle.identity().cluster, CLUSTER.recovered().unwrap());
    let state = handle.open_group(GroupId(1), Arc::new(|_, _| {})).unwrap();
    assert_eq!((state.log.last(), state.vote.to_string()), (id(4, 8), "4-1".to_string()));
    let (_, forced) = state.memberships.last().unwrap();
    assert!(forced.is_voter_as(NodeId(1), handle.identity().incarnation) && forced.nodes.len() == 1);
}

#[tokio::test]
async fn the_most_complete_log_of_several_survivors() {
    let disk = MemDisk::new();
    let five = members(&[1, 2, 3, 4, 5]);
    let group = |vote, log| Group { vote, membership: Some(five.clone()), log };
    // Longer, but of an earlier leader: not more complete.
    let one = directory(&disk, 1, CLUSTER, &[(1, group(2, &[(1, 9)]))]);
    let two = directory(&disk, 2, CLUSTER, &[(1, group(8, &[(1, 3), (2, 4)]))]);
    let both = recovery(&disk, [&one, &two]);
    let plan = both.plan().await.unwrap();
    assert_eq!((plan.survivor, plan.groups[0].kept, plan.groups[0].seen_term), (NodeId(2), id(2, 4), 8));
    assert!(!plan.to_string().contains("LOST: what node 1 has more"), "{plan}");
    // Taking the other one is possible, and says what it costs.
    let plan = both.survivor(1).plan().await.unwrap();
    assert!(plan.to_string().contains("LOST: what node 2 has more, up to 2-1.4"), "{plan}");
    assert_eq!(plan.groups[0].seen_term, 8, "above every term on any of the disks");
}

#[tokio::test]
async fn a_later_log_that_lacks_what_a_snapshot_proves_committed_is_not_the_most_complete() {
    // Node 2 led in term 2 and wrote entries 4 to 6 alone. Then term 3 committed entry 4 of term 1, with an entry of its
    // own after it, on nodes that are lost; node 1 was told of the commit, and not yet sent the entry.
    let disk = MemDisk::new();
    let five = members(&[1, 2, 3, 4, 5]);
    let group = |vote, log| Group { vote, membership: Some(five.clone()), log };
    let one = directory(&disk, 1, CLUSTER, &[(1, group(3, &[(1, 4)]))]);
    let (core, handle) = open(&disk, &one, 1);
    let meta = SnapshotMeta { last_log_id: id(1, 4), membership_log_id: LogId::ZERO, membership: five.clone() };
    handle.snapshots().create(GroupId(1), &meta).unwrap().commit().unwrap();
    core.close(Instant::ORIGIN).unwrap();
    let two = directory(&disk, 2, CLUSTER, &[(1, group(2, &[(1, 3), (2, 6)]))]);
    let both = recovery(&disk, [&one, &two]);
    let plan = both.plan().await.unwrap();
    assert_eq!((plan.survivor, plan.groups[0].kept), (NodeId(1), id(1, 4)));
    assert!(plan.to_string().contains("LOST: what node 2 has more, up to 2-1.6"), "{plan}");
    // Taking the other one is possible, and says what it costs.
    let plan = both.survivor(2).plan().await.unwrap();
    assert!(plan.to_string().contains("LOST: what node 1 has more, up to 1-1.4"), "{plan}");
}

#[tokio::test]
async fn every_group_of_the_directory() {
    let disk = MemDisk::new();
    let three = members(&[1, 2, 3, 4, 5]);
    let group = |log| Group { vote: 2, membership: Some(three.clone()), log };
    let voted_only = Group { vote: 2, membership: None, log: &[] };
    let one = directory(&disk, 1, CLUSTER, &[(1, group(&[(1, 5)])), (2, group(&[(1, 3)])), (9, voted_only)]);
    let two = directory(&disk, 2, CLUSTER, &[(1, group(&[(1, 4)])), (2, group(&[(2, 4)])), (3, group(&[(1, 2)]))]);
    let both = recovery(&disk, [&one, &two]);
    let refused = both.plan().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no directory has the most complete log of every group: group 1 is most complete at node 1, up to 1-1.5; \
         group 2 is most complete at node 2, up to 2-1.4; group 3 is most complete at node 2, up to 1-1.2; \
         say which survivor to take, and what the others have more is lost"
    );
    let both = both.survivor(1);
    let plan = text(&both).await;
    let decision = &plan[plan.find("\nplan:").unwrap()..];
    assert_eq!(
        decision,
        "
plan: node 1 becomes the only voter of recovery 1
  in /data/1: every group, and nothing in any other directory
  group 1: the log is kept up to 1-1.5
    entries 1 to 5 may or may not have been committed: now they will be
    MAY BE LOST: what nodes 3, 4 and 5 committed in place of entries 1 to 5, or after them
  group 2: the log is kept up to 1-1.3
    entries 1 to 3 may or may not have been committed: now they will be
    LOST: what node 2 has more, up to 2-1.4
    MAY BE LOST: what nodes 3, 4 and 5 committed in place of entries 1 to 3, or after them
  LOST: group 3, of which only node 2 has anything
"
    );
    both.apply().await.unwrap();
    let (_core, handle) = open(&disk, &one, 1);
    for (group, last) in [(1, id(3, 6)), (2, id(3, 4)), (9, LogId::ZERO)] {
        assert_eq!(handle.open_group(GroupId(group), Arc::new(|_, _| {})).unwrap().log.last(), last, "group {group}");
    }
}

#[tokio::test]
async fn a_learner_may_be_all_that_is_left() {
    let disk = MemDisk::new();
    let mut membership = members(&[1, 2, 3]);
    membership.nodes.insert(NodeId(4), Node::at(DEAD));
    let log = Group { vote: 1, membership: Some(membership), log: &[(1, 3)] };
    let learner = directory(&disk, 4, CLUSTER, &[(1, log)]);
    let plan = text(&recovery(&disk, [&learner])).await;
    assert!(plan.contains("node 4 did not vote here: it may lack much of what was committed"), "{plan}");
    assert!(
        plan.contains("MAY BE LOST: what nodes 1, 2 and 3 committed in place of entries 1 to 3, or after them"),
        "{plan}"
    );
}

#[tokio::test]
async fn what_a_snapshot_covers_is_known_to_be_committed() {
    let disk = MemDisk::new();
    let log = Group { vote: 3, membership: Some(members(&[1, 2, 3])), log: &[(1, 6)] };
    let one = directory(&disk, 1, CLUSTER, &[(1, log)]);
    let (core, handle) = open(&disk, &one, 1);
    let meta = SnapshotMeta { last_log_id: id(1, 4), membership_log_id: LogId::ZERO, membership: members(&[1, 2, 3]) };
    handle.snapshots().create(GroupId(1), &meta).unwrap().commit().unwrap();
    core.close(Instant::ORIGIN).unwrap();
    let plan = text(&recovery(&disk, [&one])).await;
    assert!(plan.contains("snapshot up to 4"), "{plan}");
    assert!(plan.contains("entries 5 to 6 may or may not have been committed: now they will be"), "{plan}");
    assert!(plan.contains("what nodes 2 and 3 committed in place of entries 5 to 6, or after them"), "{plan}");
}

#[tokio::test]
async fn refusals() {
    let disk = MemDisk::new();
    let group = |ids: &[u64]| Group { vote: 1, membership: Some(members(ids)), log: &[(1, 3)] };
    let one = directory(&disk, 1, CLUSTER, &[(1, group(&[1, 2, 3]))]);
    let two = directory(&disk, 2, CLUSTER, &[(1, group(&[1, 2, 3]))]);
    let why = async |recovery: Recovery| recovery.plan().await.unwrap_err();

    assert_eq!(why(recovery(&disk, [])).await, RecoverError::NoDirectories);
    assert_eq!(
        why(recovery(&disk, [&one, &two])).await.to_string(),
        "a quorum of group 1 can be reached: nodes 1 and 2. Start nodes 1 and 2, and it elects a leader."
    );
    assert_eq!(why(recovery(&disk, [&one, &one])).await, RecoverError::SameNode { node: NodeId(1) });
    assert_eq!(why(recovery(&disk, [&one]).survivor(7)).await, RecoverError::UnknownSurvivor(NodeId(7)));
    let nowhere = "/data/none".to_string();
    let refused = why(recovery(&disk, [&nowhere])).await;
    assert_eq!(refused.to_string(), "/data/none is no node's data directory: it has no file `identity`");

    let running = open(&disk, &one, 1);
    let refused = why(recovery(&disk, [&one])).await;
    assert!(matches!(refused, RecoverError::Running { .. }), "{refused}");
    drop(running);

    let blank = directory(&disk, 4, ClusterId(0), &[]);
    assert!(matches!(why(recovery(&disk, [&blank])).await, RecoverError::Blank { node: NodeId(4), .. }));
    let never_heard = directory(&disk, 5, CLUSTER, &[(1, Group { vote: 2, membership: None, log: &[] })]);
    assert!(matches!(why(recovery(&disk, [&never_heard])).await, RecoverError::Blank { node: NodeId(5), .. }));
    let removed = directory(&disk, 6, CLUSTER, &[(1, group(&[1, 2, 3]))]);
    let refused = why(recovery(&disk, [&removed])).await;
    assert_eq!(refused, RecoverError::NotMember { group: GroupId(1), node: NodeId(6) });
    let stranger = directory(&disk, 7, ClusterId(0xbad), &[(1, group(&[1, 2, 7]))]);
    assert!(matches!(why(recovery(&disk, [&one, &stranger])).await, RecoverError::OtherCluster { .. }));
    let of_later_recovery = directory(&disk, 8, CLUSTER.recovered().unwrap(), &[(1, group(&[8]))]);
    let refused = why(recovery(&disk, [&one, &of_later_recovery])).await;
    assert!(refused.to_string().contains("(recovery 1), the others to"), "{refused}");
}

#[tokio::test]
async fn a_membership_that_may_yet_give_way_to_the_one_before_it() {
    // The last entry takes node 2 and 3 out. It may not be committed: then 1 and 2 together are a quorum.
    let disk = MemDisk::new();
    let directory_of = |node| {
        let log = Group { vote: 1, membership: Some(members(&[1, 2, 3])), log: &[(1, 3)] };
        let dir = directory(&disk, node, CLUSTER, &[(1, log)]);
        let (mut core, handle) = open(&disk, &dir, node);
        handle.open_group(GroupId(1), Arc::new(|_, result| result.unwrap())).unwrap();
        let mut payload = Vec::new();
        let mut next = members(&[1, 4, 5]);
        next.nodes.insert(NodeId(2), Node::at(DEAD));
        encode_membership(&next, &mut payload);
        let mut builder = BatchBuilder::new();
        builder.push(EntryKind::Membership, &payload);
        let batch = builder.seal(CLUSTER, GroupId(1), LeaderId::new(1, 1), 4, 9).unwrap();
        let write = quorate::advanced::core::WriteId(1);
        handle.submit(GroupId(1), write, WalWrite::Append([batch].into_iter().collect()));
        core.turn(Instant::ORIGIN);
        core.close(Instant::ORIGIN).unwrap();
        dir
    };
    let (one, two) = (directory_of(1), directory_of(2));
    let refused = recovery(&disk, [&one, &two]).plan().await.unwrap_err();
    let RecoverError::QuorumReachable { nodes, .. } = refused else { panic!("{refused}") };
    assert_eq!(nodes, [NodeId(1), NodeId(2)]);
    // With one of them alone neither has a quorum.
    assert_eq!(recovery(&disk, [&one]).plan().await.unwrap().survivor, NodeId(1));
}
