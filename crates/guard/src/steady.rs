//! A steady run of the protocol core: a leader and two followers on perfect links and disks.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, Config, Core, Entries, Envelope, Event, Incarnation, Instant, Membership, Message, Node,
    NodeId, Recovered, RequestId, Runs,
};

/// Bytes of a command in the log.
const COMMAND: u64 = 100;
/// From one proposal to the next.
const PACE: Duration = Duration::from_millis(1);

/// A step of a core.
#[derive(Clone, Debug)]
pub struct Told {
    /// The time of the step.
    pub now: Instant,
    /// What it was told.
    pub event: Event,
}

/// Three cores on perfect links and disks, and what each was told.
#[derive(Debug)]
pub struct World {
    now: Instant,
    /// The first of them leads.
    pub cores: Vec<Core>,
    waiting: VecDeque<(usize, Event)>,
    /// What each core was told, in order.
    pub told: Vec<Vec<Told>>,
    request: u64,
}

fn member(id: u64) -> (NodeId, Incarnation, Node) {
    (NodeId(id), incarnation(id), Node::default())
}

fn incarnation(id: u64) -> Incarnation {
    Incarnation(u128::from(id))
}

impl World {
    /// Node 1 leads.
    #[expect(clippy::new_without_default, reason = "it runs an election, which nobody expects of a default")]
    pub fn new() -> Self {
        let cores = (1..=3).map(|id| {
            // Building snapshots is not part of the steady path.
            let never = Config { snapshot_entries: 0, snapshot_bytes: 0, ..Config::new(id, incarnation(id)) };
            // What is remembered of the log's size reaches its bound within the warm-up.
            let config = Config { seed: id, max_kept_bytes: 64 << 10, ..never };
            Core::new(config, Recovered::default(), Instant::ORIGIN)
        });
        let cores = cores.collect();
        let told = vec![Vec::new(), Vec::new(), Vec::new()];
        let mut world = Self { now: Instant::ORIGIN, cores, waiting: VecDeque::new(), told, request: 1 };
        let membership = Membership::majority((1..=3).map(member));
        world.waiting.push_back((0, Event::Initialize { request: RequestId(0), membership }));
        while !world.cores[0].is_leader() || world.cores.iter().any(|core| core.applied().index < 2) {
            world.settle();
            world.now = world.now + Duration::from_millis(10);
            world.timeouts();
        }
        world.settle();
        world
    }

    fn timeouts(&mut self) {
        for at in 0..self.cores.len() {
            if self.cores[at].deadline().is_some_and(|deadline| deadline <= self.now) {
                self.waiting.push_back((at, Event::Timeout));
            }
        }
    }

    /// Proposes so many entries, and plays what follows until nothing is under way.
    pub fn propose(&mut self, count: u64) {
        self.now = self.now + PACE;
        self.timeouts();
        self.request += 1;
        let event = Event::Propose { request: RequestId(self.request), count, bytes: count * COMMAND };
        self.waiting.push_back((0, event));
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((at, event)) = self.waiting.pop_front() {
            self.told[at].push(Told { now: self.now, event: event.clone() });
            let mut out = Actions::new();
            self.cores[at].step(self.now, event, &mut out);
            out.0.into_iter().for_each(|action| self.perform(at, action));
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Persist(write) => self.waiting.push_back((at, Event::Persisted(write.id))),
            Action::Send { to, message } => self.deliver(at, to, message),
            Action::SendEntries { to, header, span } => {
                let leader_id = span.last.leader_id;
                let runs = match span.count() {
                    0 => Runs::none(),
                    _ => Runs::one(leader_id, span.last.index),
                };
                let entries = Entries { runs, memberships: Vec::new(), bytes: span.count() * COMMAND };
                self.deliver(at, to, Message::Append(Append { header, prev: span.prev, entries }));
            }
            Action::Apply(span) => self.waiting.push_back((at, Event::Applied(span.last))),
            _ => {}
        }
    }

    fn deliver(&mut self, from: usize, to: NodeId, message: Message) {
        let from = from as u64 + 1;
        let envelope = Envelope { from: NodeId(from), incarnation: incarnation(from), message };
        self.waiting.push_back((to.0 as usize - 1, Event::Message(envelope)));
    }
}
