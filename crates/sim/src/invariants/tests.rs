//! Each invariant fires on a violation made by hand.

use quorate_core::{
    Action, Actions, Config, Event, GroupId, Instant, LogIds, Membership, Node, Recovered, RequestId, SnapshotMeta,
    Vote,
};
use quorate_wire::{BatchBuilder, EntryKind};

use super::*;

const DISK: Incarnation = Incarnation(7);

fn leader_id(term: u64, node: u64) -> LeaderId {
    LeaderId::new(term, node)
}

/// A node that is a cluster of its own, leads and has committed.
fn leader() -> Core {
    let id = NodeId(1);
    let config = Config { seed: 1, mode: LeaderIdMode::Standard, ..Config::new(id, DISK) };
    let mut core = Core::new(config, Recovered::default(), Instant::ORIGIN);
    let membership = Membership::majority([(id, DISK, Node::at("n1"))]);
    let mut events = vec![Event::Initialize { request: RequestId(1), membership }];
    let mut now = Instant::ORIGIN;
    while !core.is_leader() || core.commit() < 2 {
        let event = events.pop().unwrap_or_else(|| {
            now = core.deadline().expect("it waits for something");
            Event::Timeout
        });
        let mut out = Actions::new();
        core.step(now, event, &mut out);
        for action in out.0 {
            if let Action::Persist(write) = action {
                events.insert(0, Event::Persisted(write.id));
            }
        }
    }
    core
}

fn disks(core: &Core) -> Shadows {
    Shadows::from([((NodeId(1), DISK), Shadow { vote: core.vote(), log: core.log().clone(), ..Shadow::default() })])
}

/// What a step says that brought the leader from `before` to where it is, after `history`.
fn step(history: impl FnOnce(&mut Invariants, &Core), before: Seen) -> String {
    let core = leader();
    let mut invariants = Invariants::new(LeaderIdMode::Standard);
    history(&mut invariants, &core);
    let shadows = disks(&core);
    invariants.after_step(&core, 1, before, &shadows).err().unwrap_or_default()
}

#[test]
fn a_step_of_a_healthy_leader_breaks_nothing() {
    assert_eq!(step(|_, _| {}, Seen::default()), "");
}

#[test]
fn a_second_leader_of_a_term_breaks_election_safety() {
    let second = |invariants: &mut Invariants, core: &Core| {
        let other = leader_id(core.vote().leader_id.term, 9);
        invariants.leaders.insert(other, (NodeId(9), 1));
    };
    assert!(step(second, Seen::default()).starts_with("election safety: a second leader in term"));
}

#[test]
fn leading_again_after_a_restart_breaks_law_7() {
    let earlier = |invariants: &mut Invariants, core: &Core| {
        invariants.leaders.insert(core.vote().leader_id, (NodeId(1), 0));
    };
    assert!(step(earlier, Seen::default()).starts_with("law 7: node 1 leads again"));
}

#[test]
fn a_leader_that_lacks_what_was_committed_breaks_leader_completeness() {
    let lacks = |invariants: &mut Invariants, _: &Core| {
        let entry = LogId::new(leader_id(0, 9), 2);
        invariants.committed = vec![None, None, Some((entry, leader_id(0, 9)))];
    };
    assert!(step(lacks, Seen::default()).starts_with("leader completeness: leader"));
}

#[test]
fn another_entry_at_a_committed_index_breaks_committed_never_changes() {
    let changes = |invariants: &mut Invariants, core: &Core| {
        let entry = LogId::new(leader_id(0, 9), 1);
        invariants.committed = vec![None, Some((entry, core.vote().leader_id))];
    };
    assert!(step(changes, Seen::default()).starts_with("committed never changes: node 1 commits"));
}

#[test]
fn a_commit_that_no_quorum_has_on_disk_breaks_acknowledged_is_durable() {
    let core = leader();
    let check = |shadows: &Shadows| {
        let mut invariants = Invariants::new(LeaderIdMode::Standard);
        invariants.after_step(&core, 1, Seen::default(), shadows).err().unwrap_or_default()
    };
    assert_eq!(check(&disks(&core)), "");
    assert!(check(&Shadows::new()).starts_with("acknowledged is durable: leader"));
    let empty = Shadows::from([((NodeId(1), DISK), Shadow { vote: core.vote(), ..Shadow::default() })]);
    assert!(check(&empty).starts_with("acknowledged is durable: leader"));
    let of_another_disk: Shadows = disks(&core).into_values().map(|disk| ((NodeId(1), Incarnation(8)), disk)).collect();
    assert!(check(&of_another_disk).starts_with("acknowledged is durable: leader"));
    // An older copy of the disk counts for what the disk had, and for nothing that it had not.
    let copy_after =
        |lost| Shadows::from([((NodeId(1), DISK), Shadow { vote: core.vote(), lost, ..Shadow::default() })]);
    let before = &disks(&core)[&(NodeId(1), DISK)];
    assert_eq!(check(&copy_after(before.all_it_held())), "");
    let mut shorter = before.clone();
    shorter.log.truncate_after(core.commit() - 1);
    assert!(check(&copy_after(shorter.all_it_held())).starts_with("acknowledged is durable: leader"));
}

#[test]
fn nothing_goes_back() {
    let commit = Seen { commit: 99, ..Seen::default() };
    assert!(step(|_, _| {}, commit).starts_with("commit of node 1 goes back"));
    let applied = Seen { applied: 99, ..Seen::default() };
    assert!(step(|_, _| {}, applied).starts_with("applied of node 1 goes back"));
    let vote = Seen { vote: Vote::uncommitted(leader_id(99, 1)), ..Seen::default() };
    assert!(step(|_, _| {}, vote).starts_with("vote of node 1 goes back"));
}

#[test]
fn one_log_id_for_two_entries_breaks_log_matching() {
    let batch = |first: u64, payload: &[u8]| {
        let mut builder = BatchBuilder::new();
        builder.push(EntryKind::Command, payload);
        let batch =
            builder.seal(crate::world::CLUSTER, GroupId(1), leader_id(2, 1), first, 7).expect("it has an entry");
        Batches::from_iter([batch])
    };
    let (prev, other) = (LogId::new(leader_id(1, 1), 3), LogId::new(leader_id(1, 2), 3));
    let second = |prev: LogId, batches: &Batches| {
        let mut invariants = Invariants::new(LeaderIdMode::Advanced);
        assert_eq!(invariants.on_append(LogId::new(leader_id(1, 1), 3), &batch(4, b"a")), Ok(()));
        invariants.on_append(prev, batches).err().unwrap_or_default()
    };
    assert_eq!(second(prev, &batch(4, b"a")), "");
    assert!(second(prev, &batch(4, b"b")).contains("has another content elsewhere"));
    assert!(second(other, &batch(4, b"a")).contains("elsewhere"));
    for broken in [second(prev, &batch(4, b"b")), second(other, &batch(4, b"a")), second(prev, &batch(5, b"a"))] {
        assert!(broken.starts_with("log matching: "), "{broken}");
    }
}

#[test]
fn a_node_that_comes_back_with_less_than_its_disk_promised_is_noticed() {
    let core = leader();
    let promised = Shadow { vote: core.vote(), log: core.log().clone(), ..Shadow::default() };
    assert_eq!(Invariants::on_boot(&core, std::slice::from_ref(&promised)), Ok(()));
    let mut longer = promised.clone();
    longer.log.append(core.vote().leader_id, core.last_log_id().index + 1);
    assert!(Invariants::on_boot(&core, &[longer]).is_err());
    let voted = Shadow { vote: Vote::uncommitted(leader_id(99, 2)), ..promised };
    assert!(Invariants::on_boot(&core, &[voted]).is_err());
}

#[test]
fn a_mended_node_that_comes_back_with_what_its_disk_never_held_is_noticed() {
    let before = leader();
    let held = Shadow { vote: before.vote(), log: before.log().clone(), ..Shadow::default() };
    let mended = |log: LogIds, promised_end: LogId| {
        let recovered = Recovered { vote: held.vote, log, promised_end, ..Recovered::default() };
        Core::new(before.config().clone(), recovered, Instant::ORIGIN)
    };
    let check = |log: LogIds, promised: LogId, disk: &Shadow| {
        Invariants::on_mended_boot(&mended(log, promised), std::slice::from_ref(disk)).err().unwrap_or_default()
    };
    let (end, mut front) = (held.log.last(), held.log.clone());
    front.truncate_after(1);
    assert_eq!(check(front.clone(), end, &held), "");
    assert_eq!(check(LogIds::default(), end, &held), "", "nothing is a front, too");
    assert!(check(front.clone(), front.last(), &held).starts_with("a promise lost: "));
    let mut mixed = front.clone();
    mixed.append(leader_id(end.leader_id.term + 1, 2), 2);
    assert!(check(mixed.clone(), LogId::new(leader_id(9, 2), 5), &held).starts_with("a log mixed up: "));
    // It was cut off, and damage took that: what it was before is an older state of the disk.
    let older = Shadow { past: vec![mixed.clone()], ..held.clone() };
    assert_eq!(check(mixed, LogId::new(leader_id(9, 2), 5), &older), "");
    let voted = Shadow { vote: Vote::uncommitted(leader_id(99, 2)), ..held.clone() };
    assert!(check(front, end, &voted).starts_with("a vote lost: "));
}

#[test]
fn a_node_that_comes_back_with_a_snapshot_alone_has_its_vote() {
    let (before, end) = (leader(), LogId::new(leader_id(9, 2), 40));
    let snapshot = SnapshotMeta {
        last_log_id: end,
        membership_log_id: before.membership_log_id(),
        membership: before.membership().clone(),
    };
    let vote = before.vote();
    let recovered = Recovered { vote, log: LogIds::after(end), snapshot: Some(snapshot), ..Recovered::default() };
    let core = Core::new(before.config().clone(), recovered, Instant::ORIGIN);
    let promised = Shadow { vote, log: before.log().clone(), ..Shadow::default() };
    assert_eq!(Invariants::on_boot(&core, std::slice::from_ref(&promised)), Ok(()));
    let voted = Shadow { vote: Vote::uncommitted(leader_id(99, 2)), ..promised };
    assert!(Invariants::on_boot(&core, &[voted]).is_err());
}

#[test]
fn a_log_that_lacks_what_is_committed_is_noticed_at_the_end() {
    let core = leader();
    let mut invariants = Invariants::new(LeaderIdMode::Standard);
    assert_eq!(invariants.check_whole(&core), Ok(()));
    invariants.committed = vec![None, Some((LogId::new(leader_id(0, 9), 1), leader_id(0, 9)))];
    assert!(invariants.check_whole(&core).is_err());
}

#[test]
fn a_recovery_gives_up_what_its_survivor_lacks_and_no_more() {
    let known = || {
        let mut invariants = Invariants::new(LeaderIdMode::Advanced);
        let ids = [LogId::new(leader_id(1, 1), 1), LogId::new(leader_id(1, 1), 2), LogId::new(leader_id(2, 2), 3)];
        invariants.committed = vec![None];
        invariants.committed.extend(ids.map(|id| Some((id, leader_id(9, 2)))));
        invariants.leaders = [(leader_id(1, 1), (NodeId(1), 1)), (leader_id(9, 2), (NodeId(2), 1))].into();
        invariants
    };
    let forced = LogId::new(leader_id(4, 1), 6);
    let mut invariants = known();
    let mut tail = LogIds::default();
    tail.append(leader_id(1, 1), 5);
    assert_eq!(invariants.on_recovery(&tail, forced), Ok((3, 1)), "entry 3 is another leader's in this log");
    assert_eq!(invariants.committed(), 2);
    assert!(invariants.has_led(leader_id(1, 1)) && !invariants.has_led(leader_id(9, 2)));
    assert_eq!(known().on_recovery(&LogIds::after(LogId::new(leader_id(2, 2), 3)), forced), Ok((4, 0)));
    let mut hole = LogIds::default();
    hole.append(leader_id(1, 2), 2);
    hole.append(leader_id(2, 2), 3);
    let broken = known().on_recovery(&hole, forced).expect_err("it lacks entries 1 and 2");
    assert!(broken.starts_with("recovery: the survivor lacks 1-1.1"), "{broken}");
}

#[test]
fn a_leader_that_commits_an_earlier_leaders_entry_breaks_figure_3_7() {
    let before = leader();
    let earlier = before.vote().leader_id;
    let snapshot = SnapshotMeta {
        last_log_id: LogId::new(earlier, 2),
        membership_log_id: before.membership_log_id(),
        membership: before.membership().clone(),
    };
    // What the snapshot holds is committed from the start, and the log still has it.
    let recovered =
        Recovered { vote: before.vote(), log: before.log().clone(), snapshot: Some(snapshot), ..Recovered::default() };
    let mut core = Core::new(before.config().clone(), recovered, Instant::ORIGIN);
    let mut events = Vec::new();
    while !core.is_leader() {
        let now = core.deadline().unwrap_or(Instant::ORIGIN);
        let mut out = Actions::new();
        core.step(now, events.pop().unwrap_or(Event::Timeout), &mut out);
        let writes = out.0.into_iter().filter_map(|action| match action {
            Action::Persist(write) => Some(Event::Persisted(write.id)),
            _ => None,
        });
        events.extend(writes);
    }
    assert!(core.vote().leader_id > earlier && core.commit() == 2, "it has committed nothing of its own yet");
    let shadows = disks(&core);
    let told = Invariants::new(LeaderIdMode::Standard).after_step(&core, 1, Seen::default(), &shadows);
    assert!(told.as_ref().is_err_and(|told| told.starts_with("figure 3.7: leader")), "{told:?}");
}
