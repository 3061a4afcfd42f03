//! Requests that a node refuses whatever its peers say: before there is a cluster, when it is stopped, when it may not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use quorate_core::{
    Action, Actions, ChangeMembers, ChangeTerms, Config, Core, Event, Incarnation, Instant, Membership, Node, NodeId,
    Outcome, ReadPolicy, Recovered, Refusal, RequestId, Retain, RuleError, ServerState, Toggle, WriteId,
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
