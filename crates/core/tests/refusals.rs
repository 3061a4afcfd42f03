//! Requests that a node refuses whatever its peers say: before there is a cluster, when it is stopped, when it may not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::{
    Action, Actions, Append, AppendHeader, ChangeMembers, ChangeTerms, Config, Core, Entries, Envelope, Event,
    Incarnation, Instant, LeaderId, LogId, Membership, Message, Node, NodeId, Note, Outcome, Quorum, ReadPolicy,
    Recovered, Refusal, RequestId, Retain, Round, RuleError, Runs, ServerState, StreamId, Toggle, Vote, WriteId,
};

fn blank(spoil: impl Fn(&mut Config)) -> Core {
    let mut config = Config::new(1, Incarnation(1));
    spoil(&mut config);
    Core::new(config, Recovered::default(), Instant::ORIGIN)
}

fn alone() -> Membership {
    Membership::majority([(NodeId(1), Incarnation(1), Node::default())])
}

fn step(core: &mut Core, now: Instant, event: Event) -> Vec<Action> {
    let mut out = Actions::new();
    core.step_checked(now, event, &mut out);
    out.0
}

/// What a step answered.
fn answers(core: &mut Core, event: Event) -> Vec<Outcome> {
    let actions = step(core, Instant::ORIGIN, event).into_iter();
    actions.filter_map(|action| if let Action::Reply { outcome, .. } = action { Some(outcome) } else { None }).collect()
}

#[test]
fn a_first_membership_that_cannot_be_is_refused_by_name() {
    let mut membership = alone();
    membership.nodes.clear();
    let refused = answers(&mut blank(|_| {}), Event::Initialize { request: RequestId(1), membership });
    assert_eq!(refused, [Outcome::Refused(Refusal::BadRule(RuleError::UnknownNode(NodeId(1))))]);
}

#[test]
fn a_stopped_node_refuses_every_request_and_ignores_the_rest() {
    let mut core = blank(|_| {});
    assert!(!core.is_halted());
    step(&mut core, Instant::ORIGIN, Event::Initialize { request: RequestId(1), membership: alone() });
    step(&mut core, Instant::ORIGIN, Event::PersistFailed(WriteId(1)));
    assert_eq!((core.is_halted(), core.state().to_string().as_str()), (true, "halted"));
    assert_eq!(core.state(), ServerState::Halted);
    let request = RequestId(2);
    let change = ChangeMembers::AddNodes([(NodeId(2), Node::default())].into());
    let requests = [
        Event::Propose { request, count: 1, bytes: 8 },
        Event::Read { request, policy: ReadPolicy::ReadIndex },
        Event::ChangeMembership { request, change, retain: Retain::Remove, terms: ChangeTerms::default() },
        Event::Initialize { request, membership: alone() },
        Event::TransferLeader { request, to: None },
        Event::Snapshot { request: Some(request) },
        Event::PurgeLog { upto: 1, request: Some(request) },
    ];
    for event in requests {
        let what = format!("{event:?}");
        assert_eq!(answers(&mut core, event), [Outcome::Refused(Refusal::Halted)], "{what}");
    }
    for event in
        [Event::Timeout, Event::Heartbeat, Event::AbortTransfer, Event::ClockJumped, Event::Snapshot { request: None }]
    {
        assert_eq!(step(&mut core, Instant::ORIGIN, event), []);
    }
}

#[test]
fn a_node_that_does_not_tick_lets_every_timeout_pass() {
    let mut core = blank(|config| config.tick = Toggle::Off);
    let now = Instant::ORIGIN + core.config().election_timeout_max * 10;
    assert_eq!(step(&mut core, now, Event::Timeout), []);
}

#[test]
fn a_membership_whose_rules_cannot_be_used_is_not_taken_from_a_leader() {
    let mut core = blank(|_| {});
    let mut membership = alone();
    membership.configs[0].commit = Quorum::at_least(0, []);
    let leader_id = LeaderId::new(1, NodeId(2));
    let header = AppendHeader {
        vote: Vote::committed(leader_id),
        stream: StreamId(1),
        round: Round(1),
        commit: 0,
        lease: std::time::Duration::ZERO,
        named: None,
        heard: None,
    };
    let entries = Entries { runs: Runs::one(leader_id, 1), memberships: vec![(1, membership)], bytes: 80 };
    let message = Message::Append(Append { header, prev: LogId::ZERO, entries });
    let lie = Envelope { from: NodeId(2), incarnation: Incarnation(2), message };
    let actions = step(&mut core, Instant::ORIGIN, Event::Message(lie));
    let what = "a membership whose rules cannot be used";
    // Whoever sends it may lead; what it sends is not taken.
    assert_eq!(actions.last(), Some(&Action::Note(Note::Impossible { from: NodeId(2), what })));
    assert_eq!(core.last_log_id(), LogId::ZERO);
}
