//! Lies: any message and any snapshot in any state, from any peer, and events that a driver might wrongly deliver. They may waste time
//! and, told by a voter, cost the cluster its safety; they never make a core panic or break a claim about itself.
//!
//! `QUORATE_LIES_EVENTS=10000000 cargo test --release -p quorate-core --test lies` for a long run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

#[path = "../src/rng.rs"]
#[allow(dead_code, reason = "the core draws from it in other ways too")]
mod rng;

use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, AppendAnswer, AppendHeader, Config, Core, Entries, Envelope, Event, Incarnation, Instant,
    LeaderId, LeaderIdMode, LogId, Membership, Message, Node, NodeId, Phase, Quorum, ReadPolicy, Recovered, RequestId,
    Round, Run, Runs, SendOutcome, SnapshotMeta, StartId, StreamId, Vote, VoteAnswer, WriteId,
};
use rng::Rng;

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number near one that was seen, or at an end of the range.
    fn bend(&mut self, number: u64) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - 1,
            3 => number.wrapping_sub(1),
            4 => number.wrapping_add(1),
            5 => number.wrapping_add(self.next() % 10),
            _ => number,
        }
    }

    fn bend_leader(&mut self, id: LeaderId) -> LeaderId {
        LeaderId::new(self.bend(id.term), self.bend(id.node_id.0))
    }

    fn bend_log_id(&mut self, id: LogId) -> LogId {
        let leader_id = if self.below(2) == 0 { self.bend_leader(id.leader_id) } else { id.leader_id };
        LogId::new(leader_id, self.bend(id.index))
    }

    fn bend_vote(&mut self, vote: Vote) -> Vote {
        let leader_id = if self.below(3) == 0 { self.bend_leader(vote.leader_id) } else { vote.leader_id };
        Vote { leader_id, committed: vote.committed ^ (self.below(6) == 0) }
    }

    fn bend_message(&mut self, message: &mut Message) {
        match message {
            Message::VoteRequest(request) => {
                request.vote = self.bend_vote(request.vote);
                request.last_log_id = self.bend_log_id(request.last_log_id);
            }
            Message::VoteReply(reply) => {
                reply.requested = self.bend_vote(reply.requested);
                reply.answer = match self.below(4) {
                    0 => VoteAnswer::StaleVote(self.bend_vote(reply.requested)),
                    1 => VoteAnswer::LeaderAlive,
                    _ => VoteAnswer::Granted,
                };
            }
            Message::Append(append) => self.bend_append(append),
            Message::AppendReply(reply) => {
                reply.vote = self.bend_vote(reply.vote);
                reply.round = Round(self.bend(reply.round.0));
                reply.answer = match (reply.answer, self.below(4)) {
                    (AppendAnswer::Accepted { matched }, 0) => {
                        let (prev, hint) = (self.bend_log_id(matched), self.bend_log_id(matched));
                        AppendAnswer::Conflict { prev, hint }
                    }
                    (AppendAnswer::Accepted { matched }, 1) => {
                        let (prev, hint) = (self.bend_log_id(matched), self.bend_log_id(matched));
                        reply.lost = Some(StartId(self.next() % 3));
                        AppendAnswer::Conflict { prev, hint }
                    }
                    (AppendAnswer::Accepted { matched }, _) => {
                        AppendAnswer::Accepted { matched: self.bend_log_id(matched) }
                    }
                    (_, 0) => AppendAnswer::Refused { seen: self.bend_vote(reply.vote) },
                    (other, _) => other,
                };
            }
            Message::ReadRequest { request, .. } => request.0 = self.bend(request.0),
            Message::ReadReply { request, log_id, .. } => {
                request.0 = self.bend(request.0);
                *log_id = log_id.map(|id| self.bend_log_id(id));
            }
            Message::TransferLeader { vote, last_log_id } => {
                *vote = self.bend_vote(*vote);
                *last_log_id = self.bend_log_id(*last_log_id);
            }
            #[allow(unreachable_patterns, reason = "others are told as they are")]
            _ => {}
        }
    }

    fn bend_header(&mut self, header: &mut AppendHeader) {
        header.vote = self.bend_vote(header.vote);
        header.commit = self.bend(header.commit);
        header.round = Round(self.bend(header.round.0));
        header.stream = StreamId(self.bend(header.stream.0));
        header.heard = (self.below(4) == 0).then(|| StartId(self.next() % 3));
    }

    fn bend_meta(&mut self, meta: &mut SnapshotMeta) {
        if self.below(2) == 0 {
            meta.last_log_id = self.bend_log_id(meta.last_log_id);
        }
        if self.below(2) == 0 {
            meta.membership_log_id = self.bend_log_id(meta.membership_log_id);
        }
        match self.below(8) {
            0 => meta.membership = Membership::default(),
            1 => meta.membership = Membership::majority([member(1 + self.next() % 4)]),
            2 => meta.membership = Membership::majority((1..=4).map(member)),
            _ => {}
        }
    }

    fn bend_append(&mut self, append: &mut Append) {
        self.bend_header(&mut append.header);
        append.prev = self.bend_log_id(append.prev);
        let mut runs = Runs::none();
        for run in append.entries.runs.iter() {
            let last = if self.below(3) == 0 { self.bend(run.last) } else { run.last };
            let leader_id = if self.below(4) == 0 { self.bend_leader(run.leader_id) } else { run.leader_id };
            runs.push(Run { leader_id, last });
        }
        if self.below(6) == 0 {
            let at = self.bend_log_id(append.prev);
            runs.push(Run { leader_id: at.leader_id, last: at.index });
        }
        append.entries.runs = runs;
        for (index, membership) in &mut append.entries.memberships {
            match self.below(4) {
                // By it nobody at all is a quorum.
                0 => membership.configs.iter_mut().for_each(|set| set.commit = Quorum::at_least(0, [])),
                _ => *index = self.bend(*index),
            }
        }
        append.entries.bytes = self.bend(append.entries.bytes);
    }
}

fn incarnation(id: u64) -> Incarnation {
    Incarnation(u128::from(id) << 8)
}

fn member(id: u64) -> (NodeId, Incarnation, Node) {
    (NodeId(id), incarnation(id), Node::default())
}

struct World {
    rng: Rng,
    now: Instant,
    cores: Vec<Core>,
    wire: Vec<(NodeId, NodeId, Message)>,
    /// What was said lately, to be said again.
    said: Vec<Message>,
    writes: Vec<Vec<WriteId>>,
    applied: Vec<LogId>,
    /// Under which headers leaders spoke lately.
    headers: Vec<AppendHeader>,
    /// Snapshots under way, and their receivers.
    snapshots: Vec<(NodeId, AppendHeader, SnapshotMeta)>,
    /// What each node builds, `None`, or installs.
    jobs: Vec<Vec<Option<SnapshotMeta>>>,
    /// The newest snapshot of each node.
    kept: Vec<SnapshotMeta>,
    installed: u64,
    requests: u64,
    events: u64,
    lies: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mode = if seed.is_multiple_of(2) { LeaderIdMode::Advanced } else { LeaderIdMode::Standard };
        let cores = (1..=3).map(|id| {
            // Snapshots are due all the time in half of the worlds.
            let snapshot_entries = if seed % 4 < 2 { 4 } else { 0 };
            let plain = Config::new(id, incarnation(id));
            let config = Config { mode, seed: seed * 10 + id, snapshot_entries, keep_entries: 1, ..plain };
            Core::new(config, Recovered::default(), Instant::ORIGIN)
        });
        let mut world = Self {
            rng: Rng::new(seed),
            now: Instant::ORIGIN,
            cores: cores.collect(),
            wire: Vec::new(),
            said: Vec::new(),
            writes: vec![Vec::new(); 3],
            applied: vec![LogId::ZERO; 3],
            headers: Vec::new(),
            snapshots: Vec::new(),
            jobs: vec![Vec::new(); 3],
            kept: vec![SnapshotMeta::default(); 3],
            installed: 0,
            requests: 1,
            events: 0,
            lies: 0,
        };
        let membership = Membership::majority((1..=3).map(member));
        world.step(0, Event::Initialize { request: RequestId(0), membership });
        world
    }

    fn step(&mut self, at: usize, event: Event) {
        self.events += 1;
        let from = NodeId(at as u64 + 1);
        let mut out = Actions::new();
        self.cores[at].step_checked(self.now, event, &mut out);
        for action in out.0 {
            match action {
                Action::Persist(write) => self.writes[at].push(write.id),
                Action::Send { to, message } => self.say(from, to, message),
                Action::SendEntries { to, header, span } => {
                    self.note_header(header);
                    let log = self.cores[at].log();
                    let mut entries = Entries { bytes: span.count() * 10, ..Entries::default() };
                    for index in span.first_index()..=span.last.index {
                        let Some(id) = log.at(index) else { continue };
                        entries.runs.push(Run { leader_id: id.leader_id, last: index });
                        let (in_force, membership) = self.cores[at].membership_at(index);
                        if *in_force == id {
                            entries.memberships.push((index, membership.clone()));
                        }
                    }
                    self.say(from, to, Message::Append(Append { header, prev: span.prev, entries }));
                }
                Action::Apply(span) => self.applied[at] = span.last,
                Action::SendSnapshot { to, header, .. } => {
                    self.note_header(header);
                    let meta = self.kept[at].clone();
                    self.snapshots.truncate(20);
                    self.snapshots.push((to, header, meta));
                }
                Action::BuildSnapshot => self.jobs[at].push(None),
                Action::InstallSnapshot(meta) => self.jobs[at].push(Some(meta)),
                _ => {}
            }
        }
    }

    fn note_header(&mut self, header: AppendHeader) {
        if self.headers.len() < 32 {
            self.headers.push(header);
        } else {
            let place = self.rng.below(32);
            self.headers[place] = header;
        }
    }

    /// What a node would put in a snapshot now.
    fn meta(&self, at: usize) -> SnapshotMeta {
        let last_log_id = self.cores[at].applied();
        let (membership_log_id, membership) = self.cores[at].membership_at(last_log_id.index).clone();
        SnapshotMeta { last_log_id, membership_log_id, membership }
    }

    /// The oldest build or install of a node ends well.
    fn work(&mut self, at: usize) {
        let event = match self.jobs[at].remove(0) {
            None => {
                self.kept[at] = self.meta(at);
                Event::SnapshotBuilt(self.kept[at].clone())
            }
            Some(meta) => {
                self.installed += 1;
                self.kept[at] = meta.clone();
                self.applied[at] = meta.last_log_id;
                Event::SnapshotInstalled(meta)
            }
        };
        self.step(at, event);
    }

    /// A snapshot that nobody sent, or one that was, somewhere else.
    fn forge(&mut self, at: usize) {
        self.lies += 1;
        let mut header = self.headers[self.rng.below(self.headers.len())];
        let like = self.rng.below(3);
        let mut meta = if self.rng.below(2) == 0 { self.kept[like].clone() } else { self.meta(like) };
        if self.rng.below(2) == 0 {
            // Up to an entry that is in some log, and perhaps in no other.
            let log = self.cores[like].log();
            let index = log.last().index.saturating_sub(self.rng.next() % 4);
            meta.last_log_id = log.at(index).unwrap_or(log.last());
        }
        if self.rng.below(3) > 0 {
            self.rng.bend_meta(&mut meta);
        }
        if self.rng.below(3) == 0 {
            self.rng.bend_header(&mut header);
        }
        let from = header.vote.leader_id.node_id;
        let incarnation = incarnation(from.0);
        self.step(at, Event::SnapshotReceived { from, incarnation, header, meta });
    }

    fn say(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.said.len() < 128 {
            self.said.push(message.clone());
        } else {
            let place = self.rng.below(128);
            self.said[place] = message.clone();
        }
        if self.wire.len() < 200 {
            self.wire.push((from, to, message));
        }
    }

    fn hear(&mut self, from: NodeId, to: NodeId, message: Message) {
        let Some(at) = (to.0 as usize).checked_sub(1).filter(|at| *at < self.cores.len()) else { return };
        let incarnation = incarnation(from.0);
        self.step(at, Event::Message(Envelope { from, incarnation, message }));
    }

    fn turn(&mut self) {
        let at = self.rng.below(3);
        match self.rng.below(100) {
            0..40 if !self.wire.is_empty() => {
                let place = self.rng.below(self.wire.len());
                let (from, to, message) = self.wire.swap_remove(place);
                self.hear(from, to, message);
            }
            40..55 if !self.writes[at].is_empty() => {
                let write = self.writes[at].remove(0);
                self.step(at, Event::Persisted(write));
            }
            55..62 => {
                self.now = self.now + Duration::from_millis(self.rng.next() % 60);
                if self.cores[at].deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.step(at, Event::Timeout);
                }
            }
            62..70 => {
                self.requests += 1;
                let (request, count) = (RequestId(self.requests), 1 + self.rng.next() % 3);
                self.step(at, Event::Propose { request, count, bytes: 10 });
            }
            70..74 => {
                self.requests += 1;
                self.step(at, Event::Read { request: RequestId(self.requests), policy: ReadPolicy::ReadIndex });
            }
            74..76 => self.step(at, Event::Applied(self.applied[at])),
            76..78 if !self.snapshots.is_empty() => {
                let place = self.rng.below(self.snapshots.len());
                let (to, header, meta) = self.snapshots.swap_remove(place);
                let from = header.vote.leader_id.node_id;
                let Some(to) = (to.0 as usize).checked_sub(1).filter(|to| *to < 3) else { return };
                self.step(to, Event::SnapshotReceived { from, incarnation: incarnation(from.0), header, meta });
            }
            78..82 if !self.jobs[at].is_empty() => self.work(at),
            82..86 if !self.headers.is_empty() => self.forge(at),
            86..96 if !self.said.is_empty() => self.lie(at),
            96..100 => self.mislead(at),
            _ => {}
        }
    }

    fn lie(&mut self, at: usize) {
        self.lies += 1;
        let mut message = self.said[self.rng.below(self.said.len())].clone();
        if self.rng.below(4) > 0 {
            self.rng.bend_message(&mut message);
        }
        // Half of the lies are told as if by the node that could tell them.
        let speaker = match &message {
            Message::Append(append) => append.header.vote.leader_id.node_id,
            Message::VoteRequest(request) => request.vote.leader_id.node_id,
            _ => NodeId(1 + self.rng.next() % 4),
        };
        let from = if self.rng.below(2) == 0 { speaker } else { NodeId(1 + self.rng.next() % 4) };
        self.hear(from, NodeId(at as u64 + 1), message);
    }

    /// What a driver should not say, and a careless one might.
    fn mislead(&mut self, at: usize) {
        self.lies += 1;
        let number = self.rng.next() % 12;
        let (to, stream) = (NodeId(number % 4), StreamId(number));
        let event = match self.rng.below(14) {
            0 => Event::Persisted(WriteId(self.rng.bend(0))),
            1 => Event::Timeout,
            2 => Event::SendLost { to, stream },
            3 => Event::LinkRefused { peer: to },
            4 => Event::SnapshotBuildFailed,
            5 => Event::SnapshotInstallFailed,
            6 => Event::Elect { phase: if number.is_multiple_of(2) { Phase::Pre } else { Phase::Real } },
            7 => Event::AbortTransfer,
            8 => Event::SnapshotDeferred,
            13 => Event::SnapshotDamaged,
            9 => Event::SnapshotSent { to, stream, outcome: SendOutcome::Delivered },
            10 => Event::Applied(self.rng.bend_log_id(self.applied[at])),
            11 => {
                let like = self.rng.below(3);
                let mut meta = self.meta(like);
                self.rng.bend_meta(&mut meta);
                Event::SnapshotInstalled(meta)
            }
            12 => {
                let mut meta = self.meta(at);
                self.rng.bend_meta(&mut meta);
                Event::SnapshotBuilt(meta)
            }
            _ => Event::Heartbeat,
        };
        self.step(at, event);
    }
}

#[test]
fn no_lie_makes_a_core_panic_or_break_its_own_claims() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let wanted = number("QUORATE_LIES_EVENTS", 1_000_000);
    let (mut events, mut lies, mut seed) = (0, 0, number("QUORATE_LIES_FIRST", 0));
    while events < wanted {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (0..2_000).for_each(|_| world.turn())));
        assert!(run.is_ok(), "seed {seed} failed: QUORATE_LIES_FIRST={seed} QUORATE_LIES_EVENTS=1");
        events += world.events;
        lies += world.lies;
        seed += 1;
    }
    println!("{events} events, {lies} of them lies, {seed} seeds");
    assert!(lies * 10 > events, "lies are told");
}

/// What a snapshot is said to hold comes from a peer too.
#[test]
fn a_snapshot_whose_description_cannot_be_is_not_installed() {
    let leader = LeaderId::new(3, 1);
    let members = [1, 2].map(|id| (NodeId(id), Incarnation(u128::from(id)), Node::default()));
    let id = |term: u64, index: u64| LogId::new(LeaderId::new(term, 1), index);
    let described = [(id(3, 9), id(2, 8)), (id(3, 9), id(2, 100)), (id(3, u64::MAX), id(2, 8)), (id(3, 0), id(2, 0))];
    let installs = described.map(|(last_log_id, membership_log_id)| {
        let meta = SnapshotMeta { last_log_id, membership_log_id, membership: Membership::majority(members.clone()) };
        let (stream, round) = (StreamId(1), Round(1));
        let vote = Vote::committed(leader);
        let header = AppendHeader { vote, stream, round, commit: 0, lease: Duration::ZERO, named: None, heard: None };
        let mut core = Core::new(Config::new(2, Incarnation(2)), Recovered::default(), Instant::ORIGIN);
        let mut out = Actions::new();
        let event =
            Event::SnapshotReceived { from: NodeId(1), incarnation: Incarnation(1), header, meta: meta.clone() };
        core.step_checked(Instant::ORIGIN, event, &mut out);
        core.step_checked(Instant::ORIGIN, Event::Persisted(WriteId(1)), &mut out);
        core.step_checked(Instant::ORIGIN, Event::SnapshotInstalled(meta), &mut out);
        out.0.iter().any(|action| matches!(action, Action::InstallSnapshot(_)))
    });
    assert_eq!(installs, [true, false, false, false]);
}
