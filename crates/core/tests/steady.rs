//! Three cores on perfect links and disks: elect, replicate, read, change members. The golden scripts in
//! testdata play what goes wrong; this only shows the shortest way to drive a core.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, ChangeMembers, ChangeTerms, Config, Core, Entries, Envelope, Event, Incarnation, Instant,
    Membership, Message, Node, NodeId, Outcome, ReadPolicy, Recovered, RequestId, Retain, Runs, WriteOp,
};

struct World {
    now: Instant,
    cores: BTreeMap<NodeId, Core>,
    queue: VecDeque<(NodeId, Event)>,
    replies: BTreeMap<RequestId, Outcome>,
    memberships: BTreeMap<quorate_core::LogId, Membership>,
}

fn incarnation(id: NodeId) -> Incarnation {
    Incarnation(u128::from(id.0) * 16)
}

impl World {
    fn new(nodes: u64, voters: u64) -> Self {
        let cores = (1..=nodes).map(NodeId).map(|id| {
            let config = Config { seed: id.0, ..Config::new(id, incarnation(id)) };
            (id, Core::new(config, Recovered::default(), Instant::ORIGIN))
        });
        let mut world = World {
            now: Instant::ORIGIN,
            cores: cores.collect(),
            queue: VecDeque::new(),
            replies: BTreeMap::new(),
            memberships: BTreeMap::new(),
        };
        let members = (1..=voters).map(NodeId).map(|id| (id, incarnation(id), Node::at(format!("n{id}"))));
        let membership = Membership::majority(members);
        world.step(NodeId(1), Event::Initialize { request: RequestId(1), membership });
        world.settle();
        world
    }

    fn step(&mut self, id: NodeId, event: Event) {
        let mut out = Actions::new();
        let core = self.cores.get_mut(&id).unwrap();
        core.step_checked(self.now, event, &mut out);
        for action in out.0 {
            self.perform(id, action);
        }
    }

    fn perform(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Persist(write) => {
                if let WriteOp::Append {
                    span,
                    source: quorate_core::Source::Core(quorate_core::CoreEntry::Membership(membership)),
                } = write.op
                {
                    self.memberships.insert(span.last, membership);
                }
                self.queue.push_back((id, Event::Persisted(write.id)));
            }
            Action::Send { to, message } => self.deliver(id, to, message),
            Action::SendEntries { to, header, span } => {
                let mut entries = Entries { bytes: span.count(), ..Entries::default() };
                let log = self.cores[&id].log();
                for index in span.first_index()..=span.last.index {
                    let at = log.at(index).unwrap();
                    entries.runs.push(quorate_core::Run { leader_id: at.leader_id, last: index });
                    entries.memberships.extend(self.memberships.get(&at).map(|m| (index, m.clone())));
                }
                assert_ne!(entries.runs, Runs::none());
                self.deliver(id, to, Message::Append(Append { header, prev: span.prev, entries }));
            }
            Action::Apply(span) => self.queue.push_back((id, Event::Applied(span.last))),
            Action::Reply { request, outcome } => {
                self.replies.insert(request, outcome);
            }
            Action::Note(_) | Action::Purge { .. } | Action::BuildSnapshot => {}
            Action::SendSnapshot { .. } | Action::InstallSnapshot(_) => unreachable!("nothing is purged here"),
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let envelope = Envelope { from, incarnation: incarnation(from), message };
        self.queue.push_back((to, Event::Message(envelope)));
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            while let Some((id, event)) = self.queue.pop_front() {
                self.step(id, event);
            }
            self.now = self.now + Duration::from_millis(10);
            let is_due = |core: &Core| core.deadline().is_some_and(|deadline| deadline <= self.now);
            let due: Vec<_> = self.cores.iter().filter(|(_, core)| is_due(core)).map(|(id, _)| *id).collect();
            for id in due {
                self.step(id, Event::Timeout);
            }
        }
    }
}

#[test]
fn the_first_voter_leads_and_everyone_applies_what_it_proposes() {
    let mut world = World::new(3, 3);
    assert!(world.cores[&NodeId(1)].is_leader());
    world.step(NodeId(1), Event::Propose { request: RequestId(2), count: 5, bytes: 100 });
    world.settle();
    assert!(matches!(world.replies[&RequestId(2)], Outcome::Proposed(span) if span.count() == 5));
    for core in world.cores.values() {
        assert_eq!(core.applied(), world.cores[&NodeId(1)].last_log_id());
    }
}

#[test]
fn a_read_on_any_node_names_an_entry_that_covers_every_write_before_it() {
    let mut world = World::new(3, 3);
    world.step(NodeId(1), Event::Propose { request: RequestId(2), count: 1, bytes: 20 });
    world.settle();
    for id in 1..=3 {
        let request = RequestId(10 + id);
        world.step(NodeId(id), Event::Read { request, policy: ReadPolicy::ReadIndex });
        world.settle();
        assert_eq!(world.replies[&request], Outcome::Read(world.cores[&NodeId(1)].last_log_id()));
    }
}

#[test]
fn a_learner_becomes_a_voter_and_the_leader_can_be_removed() {
    let mut world = World::new(4, 3);
    let add = ChangeMembers::AddNodes(BTreeMap::from([(NodeId(4), Node::at("n4"))]));
    let steps = [
        (RequestId(20), add),
        (RequestId(21), ChangeMembers::AddVoterIds([NodeId(4)].into())),
        (RequestId(22), ChangeMembers::RemoveVoters([NodeId(1)].into())),
    ];
    for (request, change) in steps {
        world.step(
            NodeId(1),
            Event::ChangeMembership { request, change, retain: Retain::Remove, terms: ChangeTerms::default() },
        );
        world.settle();
        assert!(matches!(world.replies[&request], Outcome::MembershipChanged(_)), "{:?}", world.replies[&request]);
    }
    let leader = world.cores.values().find(|core| core.is_leader()).expect("the others elect one of them");
    assert_eq!(leader.membership().voter_ids(), [2, 3, 4].map(NodeId).into());
    assert!(!world.cores[&NodeId(1)].is_leader());
}

/// Reads begin rounds as fast as the nearest peers answer. A peer that is farther away answers rounds that are long
/// past, and is as alive as the others.
#[test]
fn a_far_peer_is_heard_of_however_many_rounds_begin_meanwhile() {
    let mut world = World::new(3, 3);
    while let Some((id, event)) = world.queue.pop_front() {
        world.step(id, event);
    }
    world.now = world.now + Duration::from_millis(500);
    let asked_at = world.now;
    world.step(NodeId(1), Event::Heartbeat);
    let is_far = |(to, event): &(NodeId, Event)| {
        *to == NodeId(3) || matches!(event, Event::Message(envelope) if envelope.from == NodeId(3))
    };
    let mut far = VecDeque::new();
    for _ in 0..1000 {
        world.now = world.now + Duration::from_micros(10);
        world.step(NodeId(1), Event::Heartbeat);
        while let Some(next) = world.queue.pop_front() {
            match is_far(&next) {
                true => far.push_back(next),
                false => world.step(next.0, next.1),
            }
        }
    }
    // The first question only is answered by now.
    let (to, event) = far.pop_front().unwrap();
    world.step(to, event);
    let (to, event) = world.queue.pop_front().unwrap();
    assert_eq!(to, NodeId(1), "the answer");
    world.step(to, event);
    let status = world.cores[&NodeId(1)].status();
    let far = status.peers.iter().find(|peer| peer.id == NodeId(3)).unwrap();
    let acked_at = far.acked_at.unwrap();
    let before = asked_at.since(acked_at);
    assert!(
        acked_at <= asked_at && before < Duration::from_millis(20),
        "from when that round began, about: {before:?}"
    );
    assert!(status.quorum_acked > Some(asked_at), "the near one answers the newest");
}
