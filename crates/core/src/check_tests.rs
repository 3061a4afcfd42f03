//! Every invariant fires: for each one, a state or a step that breaks it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::core::{Contact, Core, Role};
use crate::durability::Held;
use crate::election::Candidate;
use crate::invariant::Invariant as I;
use crate::leader::Leader;
use crate::progress::{Inflight, Mode};
use crate::transfer::Transfer;
use crate::{
    Action, Actions, Append, AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, Config, CoreEntry,
    Entries, Envelope, Event, Incarnation, Instant, LeaderId, LeaderIdMode, LogId, LogIds, Membership, Message, Node,
    NodeId, Note, Outcome, Phase, ReadPolicy, Recovered, RequestId, Round, Run, Runs, SnapshotMeta, Source, Span,
    StartId, StreamId, Tail, Vote, VoteAnswer, VoteReply, VoteRequest, Write, WriteId, WriteOp,
};

fn incarnation(id: u64) -> Incarnation {
    Incarnation(u128::from(id) << 8)
}

fn leader_id(term: u64, node: u64) -> LeaderId {
    LeaderId::new(term, node)
}

fn at(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(leader_id(term, node), index)
}

fn member(id: u64) -> (NodeId, Incarnation, Node) {
    (NodeId(id), incarnation(id), Node::default())
}

/// A node of a cluster of three whose log is 0-0.1, 1-3.2 to 1-3.4.
fn node(id: u64, mode: LeaderIdMode) -> Core {
    let members = (1..=3).map(member);
    let runs = [Run { leader_id: leader_id(0, 0), last: 1 }, Run { leader_id: leader_id(1, 3), last: 4 }];
    let recovered = Recovered {
        vote: Vote::uncommitted(leader_id(1, 3)),
        log: LogIds::new(LogId::ZERO, runs),
        memberships: vec![(at(0, 0, 1), Membership::majority(members))],
        ..Recovered::default()
    };
    let config = Config { mode, snapshot_entries: 0, ..Config::new(id, incarnation(id)) };
    Core::new(config, recovered, Instant::from_nanos(1))
}

/// Takes a correct step; returns the state before it and what it asked for.
fn step(core: &mut Core, event: Event) -> (Core, Actions) {
    let before = core.clone();
    let mut actions = Actions::new();
    core.step_checked(core.now, event, &mut actions);
    (before, actions)
}

fn message(from: u64, message: Message) -> Event {
    Event::Message(Envelope { from: NodeId(from), incarnation: incarnation(from), message })
}

fn header(vote: LeaderId, stream: u64, round: u64, commit: u64) -> AppendHeader {
    let (stream, round) = (StreamId(stream), Round(round));
    let (lease, vote) = (Duration::ZERO, Vote::committed(vote));
    AppendHeader { vote, stream, round, commit, lease, named: None, heard: None }
}

fn append(vote: LeaderId, prev: LogId, last: u64, commit: u64) -> Event {
    let runs = if last > prev.index { Runs::one(vote, last) } else { Runs::none() };
    let entries = Entries { runs, ..Entries::default() };
    message(vote.node_id.0, Message::Append(Append { header: header(vote, 1, 1, commit), prev, entries }))
}

fn vote_request(from: u64, term: u64, phase: Phase) -> Event {
    let request = VoteRequest {
        phase,
        campaign: Campaign(7),
        vote: Vote::uncommitted(leader_id(term, from)),
        last_log_id: at(9, 9, 99),
        reason: CampaignReason::Timeout,
    };
    message(from, Message::VoteRequest(request))
}

fn grant(requested: Vote, campaign: Campaign) -> Message {
    Message::VoteReply(VoteReply { phase: Phase::Real, campaign, requested, answer: VoteAnswer::Granted })
}

fn matched(vote: Vote, stream: u64, round: u64, matched: LogId) -> Message {
    let answer = AppendAnswer::Accepted { matched };
    let (stream, round, promised) = (StreamId(stream), Round(round), Duration::ZERO);
    Message::AppendReply(AppendReply { vote, stream, round, promised, lost: None, answer })
}

fn send(message: Message) -> Action {
    Action::Send { to: NodeId(2), message }
}

/// Node 2 follows 2-1, which sent it entry 5 and committed 4. Everything is durable but entry 5.
fn follower() -> Core {
    let mut core = node(2, LeaderIdMode::Advanced);
    step(&mut core, append(leader_id(2, 1), at(1, 3, 4), 5, 4));
    step(&mut core, Event::Persisted(WriteId(1)));
    core
}

/// Node 2 follows 2-1 and lost entries of it; what it promised has no end.
fn damaged() -> Core {
    let mut core = node(2, LeaderIdMode::Advanced);
    core.promised_end = at(2, 1, crate::MAX_INDEX);
    step(&mut core, append(leader_id(2, 1), at(1, 3, 4), 5, 4));
    step(&mut core, Event::Persisted(WriteId(1)));
    core
}

/// Node 1 asks for votes in term 2.
fn candidate() -> Core {
    let mut core = node(1, LeaderIdMode::Advanced);
    step(&mut core, Event::Elect { phase: Phase::Real });
    step(&mut core, Event::Persisted(WriteId(1)));
    core
}

/// Node 1 leads as 2-1; its log ends at 2-1.6, up to 5 is committed, durable here and at node 2.
fn leader() -> Core {
    let mut core = candidate();
    let Role::Candidate(Candidate { vote, campaign, .. }) = core.role else { unreachable!("it campaigns") };
    step(&mut core, message(2, grant(vote, campaign)));
    step(&mut core, Event::Persisted(WriteId(2)));
    let ours = core.vote;
    step(&mut core, message(2, matched(ours, 1, 1, at(2, 1, 5))));
    step(&mut core, Event::Propose { request: RequestId(1), count: 1, bytes: 10 });
    core
}

/// The same, with a read whose round is under way.
fn reading() -> Core {
    let mut core = leader();
    step(&mut core, Event::Read { request: RequestId(9), policy: ReadPolicy::ReadIndex });
    core
}

/// The same leader hands over to node 2.
fn transferring() -> Core {
    let mut core = leader();
    step(&mut core, Event::TransferLeader { request: RequestId(9), to: Some(NodeId(2)) });
    core
}

/// A follower that holds a grant for node 3 until its vote is durable.
fn granting() -> Core {
    let mut core = node(2, LeaderIdMode::Advanced);
    step(&mut core, vote_request(3, 4, Phase::Real));
    core
}

fn lead(core: &mut Core, change: impl FnOnce(&mut Leader)) {
    let Role::Leader(leader) = &mut core.role else { unreachable!("it leads") };
    change(leader);
}

fn campaign(core: &mut Core, change: impl FnOnce(&mut Candidate)) {
    let Role::Candidate(candidate) = &mut core.role else { unreachable!("it campaigns") };
    change(candidate);
}

/// What an invariant says of a broken thing.
fn told(of: impl FnOnce()) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(of)) else { return "nothing".to_owned() };
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "another panic".to_owned())
}

fn fires(invariant: I, of: impl FnOnce()) -> I {
    let told = told(of);
    let expected = format!("invariant {}, {}:", invariant.number(), invariant.name());
    assert!(told.starts_with(&expected), "{invariant:?} does not fire, but: {told}");
    invariant
}

/// Breaks a state.
fn state(invariant: I, mut core: Core, change: impl FnOnce(&mut Core)) -> I {
    core.check_state();
    change(&mut core);
    fires(invariant, || core.check_state())
}

/// Takes a correct step, and breaks the state after it or what it asked for.
fn after(invariant: I, mut core: Core, event: Event, change: impl FnOnce(&mut Core, &mut Vec<Action>)) -> I {
    let (before, mut actions) = step(&mut core, event.clone());
    core.check_step(&before, &event, &actions);
    change(&mut core, &mut actions.0);
    fires(invariant, || core.check_step(&before, &event, &actions))
}

fn broken_logs() -> Vec<I> {
    vec![
        state(I::CommitInLog, follower(), |core| core.commit = 6),
        state(I::PurgedBehindSnapshot, follower(), |core| core.log.purge(2)),
        state(I::SnapshotIsCommitted, follower(), |core| core.snapshot.last = at(2, 1, 5)),
        state(I::AppliedIsCommitted, follower(), |core| core.applied = at(2, 1, 5)),
        state(I::AppliedIsDurable, follower(), |core| {
            core.commit = 5;
            core.apply_sent = at(2, 1, 5);
        }),
        state(I::LogWithinVote, follower(), |core| core.vote = Vote::uncommitted(leader_id(1, 9))),
        state(I::SizesEndWithLog, follower(), |core| core.pieces.push(6, 1)),
        state(I::DurableInLog, follower(), |core| {
            core.log.truncate_after(4);
            core.pieces.truncate_after(4);
            core.disk = crate::durability::Durability::recovered(5);
            let Role::Follower(follower) = &mut core.role else { return };
            follower.accepted = 4;
        }),
        state(I::PersistedWasAsked, follower(), |core| core.disk.claim_persisted(WriteId(9))),
        state(I::WritesInOrder, granting(), |core| {
            core.disk.hold_for(WriteId(0), Held::Campaign(Campaign(0)));
        }),
        state(I::HeldForAWrite, granting(), |core| core.disk.claim_persisted(WriteId(1))),
        state(I::MembershipsInOrder, follower(), |core| core.memberships.clear()),
        state(I::MembershipInLog, follower(), |core| core.memberships[1].0.index = 9),
        fires(I::LeaderIdsGrow, || {
            let mut core = follower();
            core.log.break_order();
            core.check_state();
        }),
    ]
}

fn broken_roles() -> Vec<I> {
    let other = Membership::majority([(NodeId(1), incarnation(1), Node::default())]);
    vec![
        state(I::OneOpenMembership, leader(), |core| {
            core.memberships.extend([(at(2, 1, 6), other.clone()), (at(2, 1, 6), other.clone())]);
        }),
        state(I::FollowsAnother, follower(), |core| {
            let Role::Follower(follower) = &mut core.role else { return };
            follower.leader = Some(NodeId(2));
        }),
        state(I::AcceptedInLog, follower(), |core| {
            let Role::Follower(follower) = &mut core.role else { return };
            follower.accepted = 6;
        }),
        state(I::CampaignsForItself, candidate(), |core| campaign(core, |c| c.vote.committed = true)),
        state(I::CandidateVote, candidate(), |core| core.vote = Vote::uncommitted(leader_id(3, 1))),
        state(I::CandidateVote, candidate(), |core| campaign(core, |c| c.phase = Phase::Pre)),
        state(I::GrantsCountedOnce, candidate(), |core| {
            campaign(core, |c| c.grants = vec![(NodeId(2), incarnation(2)); 2]);
        }),
        state(I::LeadsUnderOwnVote, leader(), |core| core.vote.committed = false),
        state(I::LeadershipStarts, leader(), |core| lead(core, |leader| leader.first_own = 4)),
        state(I::RemovedLeaderLeaves, leader(), |core| {
            core.memberships.push((at(2, 1, 5), Membership::majority([2, 3].map(member))));
        }),
        state(I::HandsOverToAVoter, transferring(), |core| {
            let Some((_, membership)) = core.memberships.last_mut() else { return };
            membership.configs[0].voters.remove(&NodeId(2));
        }),
        state(I::CommitsWhatIsReached, leader(), |core| {
            lead(core, |leader| {
                for peer in &mut leader.peers {
                    (peer.matched, peer.next) = (at(2, 1, 6), 7);
                    peer.incarnation = Some(incarnation(peer.id.0));
                }
            });
        }),
        state(I::HandsOverItsOwn, transferring(), |core| {
            core.transfer = core.transfer.map(|transfer| Transfer { to: NodeId(1), ..transfer });
        }),
        state(I::NothingWhileTransferring, transferring(), |core| {
            core.transfer = core.transfer.map(|transfer| Transfer { last: at(2, 1, 5), ..transfer });
        }),
        state(I::LeaderOwesNoLease, leader(), |core| {
            core.contact = Some(Contact { leader: NodeId(2), at: core.now, refused: false });
        }),
        state(I::PeersAreMembers, leader(), |core| lead(core, |leader| drop(leader.peers.pop()))),
        state(I::ProgressInLog, leader(), |core| lead(core, |leader| leader.peers[0].next = 8)),
        state(I::ProgressInLog, leader(), |core| lead(core, |leader| leader.peers[0].next = 5)),
        state(I::ProgressInLog, leader(), |core| lead(core, |leader| leader.peers[0].matched = at(1, 3, 5))),
        state(I::InflightInWindow, leader(), |core| {
            lead(core, |leader| {
                let sent = Inflight { first: 7, last: 7, bytes: 1, cold: false, round: Round(0) };
                leader.peers[0].mode = Mode::Replicate { inflight: [sent].into(), oldest_sent: Instant::ORIGIN };
            });
        }),
        state(I::SnapshotIsLacked, leader(), |core| {
            lead(core, |leader| leader.peers[0].mode = Mode::Snapshot { retry_at: None, holds: 0 });
        }),
        state(I::RoundsBegan, leader(), |core| lead(core, |leader| leader.peers[0].acked = Round(99))),
        state(I::ReadsAtCommit, reading(), |core| {
            core.commit = 4;
            core.apply_sent = at(1, 3, 4);
        }),
        state(I::ReadsWaitForARound, reading(), |core| {
            lead(core, |leader| leader.peers.iter_mut().for_each(|peer| peer.acked = leader.round));
        }),
    ]
}

fn broken_progress() -> Vec<I> {
    let heartbeat = || append(leader_id(2, 1), at(2, 1, 5), 5, 4);
    let standard = || {
        let mut core = node(2, LeaderIdMode::Standard);
        step(&mut core, append(leader_id(2, 1), at(1, 3, 4), 5, 4));
        core
    };
    let snapshotted = || {
        let mut core = follower();
        core.snapshot.last = at(1, 3, 3);
        core
    };
    let ack = |core: &Core| message(2, matched(core.vote, 1, 1, at(2, 1, 5)));
    let old_ack = |core: &Core| message(2, matched(core.vote, 0, 1, at(2, 1, 6)));
    vec![
        after(I::ClockForward, follower(), heartbeat(), |core, _| core.now = Instant::ORIGIN),
        after(I::VoteForward, follower(), heartbeat(), |core, _| core.vote = Vote::committed(leader_id(1, 3))),
        after(I::OneVoteATerm, standard(), heartbeat(), |core, _| core.vote = Vote::committed(leader_id(2, 3))),
        after(I::CommitForward, follower(), heartbeat(), |core, _| core.commit = 3),
        after(I::AppliedForward, follower(), heartbeat(), |core, _| core.apply_sent = at(1, 3, 3)),
        after(I::SnapshotForward, snapshotted(), heartbeat(), |core, _| core.snapshot.last = at(1, 3, 2)),
        after(I::SnapshotIsDurable, follower(), heartbeat(), |core, _| core.snapshot.last = at(1, 3, 3)),
        after(I::OldStreamsDoNotCount, leader(), old_ack(&leader()), |core, _| {
            lead(core, |leader| leader.peers[0].matched = at(2, 1, 6));
        }),
        after(I::CommittedStays, follower(), heartbeat(), |core, _| {
            core.log = LogIds::new(LogId::ZERO, [Run { leader_id: leader_id(1, 3), last: 5 }]);
        }),
        after(I::LeaderAppendsOnly, leader(), Event::Heartbeat, |core, _| core.log.truncate_after(5)),
        after(I::AcceptedStays, follower(), heartbeat(), |core, _| core.log.truncate_after(4)),
        after(I::MatchedForward, leader(), ack(&leader()), |core, _| {
            lead(core, |leader| leader.peers[0].matched = at(1, 3, 4));
        }),
        after(I::CountsSinceTheLoss, leader(), ack(&leader()), |core, _| {
            lead(core, |leader| leader.peers[0].heard = Some(StartId(7)));
        }),
    ]
}

fn broken_writes() -> Vec<I> {
    let entries = || append(leader_id(2, 1), at(2, 1, 5), 6, 4);
    let propose = || Event::Propose { request: RequestId(2), count: 1, bytes: 1 };
    let is_write = |action: &Action| matches!(action, Action::Persist(_));
    vec![
        after(I::WriteIdsGrowByOne, follower(), entries(), |_, actions| {
            for action in actions {
                let Action::Persist(write) = action else { continue };
                write.id = WriteId(write.id.0 + 1);
            }
        }),
        after(I::LogWritesReplay, follower(), entries(), |_, actions| {
            for action in actions {
                let Action::Persist(Write { op: WriteOp::Append { span, .. }, .. }) = action else { continue };
                span.prev = at(1, 3, 4);
            }
        }),
        after(I::VoteWritten, node(2, LeaderIdMode::Advanced), vote_request(3, 4, Phase::Real), |_, actions| {
            for action in actions {
                let Action::Persist(Write { op: WriteOp::Vote(vote), .. }) = action else { continue };
                vote.leader_id = leader_id(3, 3);
            }
        }),
        after(I::AppendsOwnEntries, follower(), entries(), |_, actions| {
            for action in actions {
                let Action::Persist(Write { op: WriteOp::Append { source, .. }, .. }) = action else { continue };
                *source = Source::Core(CoreEntry::Blank);
            }
        }),
        after(I::MembershipByMembership, leader(), propose(), |_, actions| {
            for action in actions {
                let Action::Persist(Write { op: WriteOp::Append { source, .. }, .. }) = action else { continue };
                *source = Source::Core(CoreEntry::Membership(Membership::majority([])));
            }
        }),
        after(I::HeldUntilDurable, granting(), Event::Persisted(WriteId(1)), |_, actions| actions.clear()),
        after(I::HeldUntilDurable, granting(), Event::Timeout, |core, _| core.disk.forget_held()),
        after(I::MembershipWithLog, follower(), Event::Timeout, |core, _| {
            core.memberships.push((at(2, 1, 5), Membership::default()));
        }),
        after(I::LogWritesReplay, leader(), propose(), |_, actions| {
            for action in actions.iter_mut().filter(|action| is_write(action)) {
                let Action::Persist(write) = action else { continue };
                write.op = WriteOp::Reset { to: at(2, 1, 6), tail: Tail::Discard };
            }
        }),
    ]
}

fn broken_promises() -> Vec<I> {
    let vote = Vote::uncommitted(leader_id(4, 3));
    let ours = Vote::committed(leader_id(2, 1));
    let request = |last_log_id| {
        let (vote, reason) = (Vote::uncommitted(leader_id(2, 1)), CampaignReason::Timeout);
        send(Message::VoteRequest(VoteRequest { phase: Phase::Real, campaign: Campaign(1), vote, last_log_id, reason }))
    };
    let read = || Event::Read { request: RequestId(9), policy: ReadPolicy::ReadIndex };
    let halted = || {
        let mut core = follower();
        step(&mut core, Event::PersistFailed(WriteId(2)));
        core
    };
    vec![
        after(I::PromisedEndIsKept, damaged(), append(leader_id(2, 1), at(2, 1, 5), 5, 5), |core, _| {
            core.promised_end = LogId::ZERO;
        }),
        after(I::PromisedEndIsKept, damaged(), append(leader_id(2, 1), at(2, 1, 5), 5, 5), |core, _| {
            core.settles = Some(crate::lost_entries::Settlement { leader_id: leader_id(2, 1), commit: 5 });
        }),
        after(I::GrantIsDurable, granting(), Event::Timeout, |_, actions| {
            actions.push(send(grant(vote, Campaign(7))));
        }),
        after(I::RequestIsDurable, granting(), Event::Timeout, |_, actions| actions.push(request(at(1, 3, 4)))),
        after(I::AcknowledgesDurable, follower(), Event::Timeout, |_, actions| {
            actions.push(send(matched(ours, 1, 1, at(2, 1, 5))));
        }),
        after(I::NoVoteInsideLease, follower(), vote_request(3, 4, Phase::Real), |_, actions| {
            actions.push(Action::Note(Note::Granted { phase: Phase::Real, vote }));
        }),
        after(I::PreVoteChangesNothing, follower(), vote_request(3, 4, Phase::Pre), |core, _| core.seen_term = 9),
        after(I::StaleChangesNothing, follower(), append(leader_id(1, 3), at(1, 3, 4), 4, 4), |core, _| {
            core.election_deadline = Instant::from_nanos(99);
        }),
        after(I::HaltedIsSilent, halted(), Event::Timeout, |core, _| core.seen_term = 9),
        after(I::HaltedIsSilent, halted(), read(), |_, actions| {
            actions.push(Action::Reply { request: RequestId(7), outcome: Outcome::Read(LogId::ZERO) });
        }),
        after(I::LeadsByQuorum, candidate(), Event::Heartbeat, |core, actions| {
            *core = leader();
            core.log = candidate().log;
            core.disk = candidate().disk;
            core.commit = 0;
            core.apply_sent = LogId::ZERO;
            actions.clear();
        }),
        after(I::CommitsByQuorum, leader(), Event::Heartbeat, |core, _| core.commit = 6),
        after(I::ReadAfterRound, leader(), read(), |_, actions| {
            actions.push(Action::Reply { request: RequestId(9), outcome: Outcome::Read(at(1, 3, 4)) });
        }),
        after(I::ReadAfterRound, leader(), read(), |core, actions| {
            // All that is committed, but nobody was asked.
            let known = core.log.at(core.commit).unwrap();
            actions.push(Action::Reply { request: RequestId(9), outcome: Outcome::Read(known) });
        }),
        after(I::ReadAfterRound, reading(), Event::Heartbeat, |core, _| {
            lead(core, |leader| leader.reads = Default::default());
        }),
    ]
}

/// Node 1 asks who would elect it in term 2.
fn asking() -> Core {
    let mut core = node(1, LeaderIdMode::Advanced);
    step(&mut core, Event::Elect { phase: Phase::Pre });
    core
}

fn broken_campaigns() -> Vec<I> {
    let elect = || Event::Elect { phase: Phase::Real };
    let fresh = || node(1, LeaderIdMode::Advanced);
    let not_granted = || {
        let Role::Candidate(Candidate { vote, campaign, .. }) = asking().role else { unreachable!("it campaigns") };
        let Message::VoteReply(reply) = grant(vote, campaign) else { unreachable!("a grant is a reply") };
        message(2, Message::VoteReply(VoteReply { phase: Phase::Pre, answer: VoteAnswer::LeaderAlive, ..reply }))
    };
    let wants_it_all = || {
        let mut core = fresh();
        step(&mut core, append(leader_id(2, 3), at(1, 3, 4), 5, 4));
        core
    };
    let hand_over =
        || message(3, Message::TransferLeader { vote: Vote::committed(leader_id(2, 3)), last_log_id: at(2, 3, 5) });
    let propose = || Event::Propose { request: RequestId(2), count: 1, bytes: 1 };
    let short_request = || {
        let Event::Message(mut envelope) = vote_request(3, 4, Phase::Pre) else {
            unreachable!("a request is a message")
        };
        if let Message::VoteRequest(request) = &mut envelope.message {
            request.last_log_id = at(1, 3, 1);
        }
        Event::Message(envelope)
    };
    let lost = || Event::SendLost { to: NodeId(2), stream: StreamId(1) };
    let confirmed = || {
        let mut core = follower();
        step(&mut core, Event::Read { request: RequestId(9), policy: ReadPolicy::ReadIndex });
        core
    };
    let answer = || message(1, Message::ReadReply { request: RequestId(1), log_id: Some(at(1, 3, 4)) });
    let installs = |core: &Core| SnapshotMeta {
        last_log_id: at(2, 1, 9),
        membership_log_id: at(0, 0, 1),
        membership: core.memberships[0].1.clone(),
    };
    let lease_read = Event::Read { request: RequestId(9), policy: ReadPolicy::LeaseRead };
    let young_read = Event::Read { request: RequestId(9), policy: ReadPolicy::MaxAge(Duration::ZERO) };
    vec![
        after(I::HeardEndsEvidence, follower(), append(leader_id(2, 1), at(2, 1, 5), 5, 4), |core, _| {
            core.contact = Some(Contact { leader: NodeId(1), at: Instant::from_nanos(9), refused: true });
        }),
        {
            // A learner campaigns.
            let mut core = fresh();
            let (before, actions) = step(&mut core, elect());
            let learner = |mut core: Core| {
                core.memberships = vec![(at(0, 0, 1), Membership::majority([2, 3].map(member)))];
                core
            };
            let (before, core) = (learner(before), learner(core));
            fires(I::CampaignsAsVoter, || core.check_step(&before, &elect(), &actions))
        },
        after(I::CampaignsAboveWhatItSaw, fresh(), Event::Elect { phase: Phase::Pre }, |core, _| {
            campaign(core, |candidate| candidate.vote = Vote::uncommitted(leader_id(1, 9)));
        }),
        after(I::TakesOverAsAsked, fresh(), elect(), |core, _| {
            campaign(core, |candidate| candidate.reason = CampaignReason::Transfer(leader_id(1, 3)));
        }),
        after(I::AsksACommitQuorum, asking(), not_granted(), |core, _| {
            let Role::Candidate(real) = candidate().role else { unreachable!("it campaigns") };
            core.campaign = Campaign(core.campaign.0 + 1);
            core.role = Role::Candidate(real);
        }),
        after(I::TakesOverAsAsked, wants_it_all(), hand_over(), |core, _| core.disk.forget_held()),
        after(I::AsksWhoHasTheLog, leader(), Event::Heartbeat, |core, actions| {
            let (vote, last_log_id) = (core.vote, core.log.last());
            actions.push(send(Message::TransferLeader { vote, last_log_id }));
        }),
        after(I::GrantsAWholeLog, node(2, LeaderIdMode::Advanced), short_request(), |_, actions| {
            let vote = Vote::uncommitted(leader_id(4, 3));
            actions.push(Action::Note(Note::Granted { phase: Phase::Pre, vote }));
        }),
        after(I::InstallsUnderItsVote, granting(), Event::Heartbeat, |core, actions| {
            actions.push(Action::InstallSnapshot(installs(core)));
        }),
        after(I::LostIsSentAgain, leader(), lost(), |core, _| {
            lead(core, |leader| leader.peers[0].stream = StreamId(1));
        }),
        after(I::CommitsWhatItHolds, confirmed(), answer(), |core, _| core.commit = 5),
        after(I::AgeFromTheQuestion, confirmed(), answer(), |core, _| {
            core.confirmed = core.confirmed.map(|(at, id)| (at + Duration::from_nanos(1), id));
        }),
        after(I::VotersAreCaughtUp, leader(), propose(), |core, actions| {
            let mut joint = core.membership().clone();
            let mut more = joint.configs[0].clone();
            more.voters.insert(NodeId(2), incarnation(9));
            joint.configs.push(more);
            for action in actions {
                let Action::Persist(Write { op: WriteOp::Append { source, .. }, .. }) = action else { continue };
                *source = Source::Core(CoreEntry::Membership(joint.clone()));
            }
        }),
        after(I::LeaseReadsByLease, leader(), lease_read, |_, actions| actions.clear()),
        after(I::AtOnceIsAsInAStep, leader(), young_read, |_, actions| actions.clear()),
    ]
}

fn broken_requests() -> Vec<I> {
    let reply = |request| Action::Reply { request: RequestId(request), outcome: Outcome::Unknown };
    let span = |prev, last| Span { prev, last };
    let header = |node| header(leader_id(2, node), 1, 1, 5);
    vec![
        after(I::ApplyWithoutGap, leader(), Event::Heartbeat, |_, actions| {
            actions.push(Action::Apply(span(at(1, 3, 4), at(2, 1, 5))));
        }),
        after(I::SendsOwnLog, leader(), Event::Heartbeat, |_, actions| {
            let span = span(at(1, 3, 5), at(2, 1, 6));
            actions.push(Action::SendEntries { to: NodeId(2), header: header(1), span });
        }),
        after(I::SendsOwnLog, leader(), Event::Heartbeat, |_, actions| {
            let append = Append { header: header(3), prev: LogId::ZERO, entries: Entries::default() };
            actions.push(send(Message::Append(append)));
        }),
        after(I::SendsOwnLog, leader(), Event::Heartbeat, |_, actions| {
            actions.push(Action::SendSnapshot { to: NodeId(2), header: header(1), at_least: at(1, 3, 2) });
        }),
        after(I::PurgeBehindSnapshot, leader(), Event::Heartbeat, |_, actions| {
            actions.push(Action::Purge { upto: at(1, 3, 2) });
        }),
        after(I::OneReply, leader(), Event::Heartbeat, |_, actions| actions.extend([reply(5), reply(5)])),
        after(
            I::NoCallerForgotten,
            leader(),
            Event::Propose { request: RequestId(9), count: 1, bytes: 1 },
            |_, out| {
                out.retain(|action| !matches!(action, Action::Reply { .. }));
            },
        ),
        after(
            I::NoCallerForgotten,
            follower(),
            Event::Read { request: RequestId(9), policy: ReadPolicy::ReadIndex },
            |core, _| core.asked_reads.clear(),
        ),
        after(I::TimeoutMovesDeadline, follower(), Event::Timeout, |core, _| core.election_deadline = core.now),
    ]
}

#[test]
fn every_invariant_fires() {
    let mut fired = broken_logs();
    fired.extend(broken_roles());
    fired.extend(broken_progress());
    fired.extend(broken_writes());
    fired.extend(broken_promises());
    fired.extend(broken_campaigns());
    fired.extend(broken_requests());
    let silent: Vec<_> = I::ALL.iter().filter(|invariant| !fired.contains(invariant)).collect();
    assert!(silent.is_empty(), "nothing here breaks {silent:?}");
}
