//! A storm: random schedules of messages, disks, crashes and membership changes over a few cores, with the
//! safety properties of figure 3.2 checked after every step. The simulator does this with real logs and
//! sockets' worth of faults; this one needs nothing but the core and finds its bugs in a second.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

#[path = "../src/rng.rs"]
#[allow(dead_code, reason = "the core draws from it in other ways too")]
mod rng;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, AppendAnswer, AppendHeader, AppendReply, Campaign, CampaignReason, ChangeMembers,
    ChangeTerms, Config, Core, CoreEntry, Entries, Envelope, Event, Incarnation, Instant, LeaderId, LeaderIdMode,
    LeasePolicy, LogId, LogIds, MAX_INDEX, Membership, Message, Node, NodeId, OnLostLog, Outcome, Phase, ReadPolicy,
    Readiness, Recovered, RequestId, Retain, Round, Run, SendOutcome, Settings, SnapshotMeta, Source, StreamId, Tail,
    Toggle, Vote, VoteAnswer, VoteReply, VoteRequest, WriteId, WriteOp,
};
use rng::Rng;

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a disk holds, and what it was asked to hold.
#[derive(Clone, Default)]
struct Disk {
    vote: Vote,
    log: LogIds,
    /// The end of the log before damage took it.
    promised_end: LogId,
    snapshot: Option<SnapshotMeta>,
    promised_lease: Duration,
    pending: VecDeque<(WriteId, WriteOp, Vec<Run>)>,
}

impl Disk {
    /// Makes the oldest pending write durable.
    fn flush_one(&mut self) -> Option<WriteId> {
        let (id, op, runs) = self.pending.pop_front()?;
        match op {
            WriteOp::Vote(vote) => self.vote = vote,
            WriteOp::Append { span, .. } => {
                assert_eq!(self.log.last(), span.prev, "an append follows the end of the log");
                runs.into_iter().for_each(|run| self.log.append(run.leader_id, run.last));
                assert_eq!(self.log.last(), span.last);
            }
            WriteOp::Truncate { after } => {
                assert!(self.log.holds(after));
                self.log.truncate_after(after.index);
            }
            WriteOp::Reset { to, tail } => {
                assert!(self.snapshot.as_ref().is_some_and(|meta| meta.last_log_id >= to), "snapshot first (law 11)");
                match tail {
                    Tail::Keep if self.log.holds(to) => self.log.purge(to.index),
                    Tail::Keep | Tail::Discard => self.log = LogIds::after(to),
                }
            }
            WriteOp::PromiseLease(lease) => self.promised_lease = self.promised_lease.max(lease),
            WriteOp::ForgetPromisedEnd => self.promised_end = LogId::ZERO,
        }
        Some(id)
    }
}

struct Peer {
    core: Option<Core>,
    disk: Disk,
    incarnation: Incarnation,
    applies: VecDeque<Event>,
    starts: u64,
}

struct World {
    rng: Rng,
    now: Instant,
    mode: LeaderIdMode,
    pre_vote: Toggle,
    peers: BTreeMap<NodeId, Peer>,
    wire: Vec<(NodeId, NodeId, Wire)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    memberships: BTreeMap<LogId, Membership>,
    /// A membership of fewer than three voters was proposed while a damaged log was not mended: if that node is needed, and
    /// does not know how far its promise went, it votes for nobody (docs/design/001).
    hurt_among_few: bool,
    committed: BTreeMap<u64, LogId>,
    /// When more was committed than before, and up to where.
    commits: Vec<(Instant, u64)>,
    /// What each read must at least see.
    reads: BTreeMap<RequestId, u64>,
    served: u64,
    /// Promises of damaged logs that ended by their leader's echo (docs/design/001).
    settled: u64,
    leaders: BTreeMap<u64, BTreeSet<NodeId>>,
    next_request: u64,
    panicky: bool,
    /// Disks are wiped too. Then a quorum may be lost, and nothing is promised but safety.
    wipes: bool,
    /// Disks are memory: what is written is durable before anything after it is done.
    at_once: bool,
    /// Everything works again.
    healed: bool,
    /// Print every step: for looking into a seed that failed.
    show: bool,
}

#[derive(Clone)]
enum Wire {
    Message(Incarnation, Message),
    Snapshot(Incarnation, AppendHeader, SnapshotMeta),
}

impl World {
    fn new(seed: u64, wipes: bool) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = [1, 2, 3, 3, 4, 5][rng.below(6) as usize];
        let mode = if rng.chance(50) { LeaderIdMode::Standard } else { LeaderIdMode::Advanced };
        let pre_vote = if rng.chance(70) { Toggle::On } else { Toggle::Off };
        let mut world = World {
            now: Instant::from_nanos(1),
            mode,
            pre_vote,
            peers: BTreeMap::new(),
            wire: Vec::new(),
            cut: BTreeSet::new(),
            memberships: BTreeMap::new(),
            hurt_among_few: false,
            committed: BTreeMap::new(),
            commits: Vec::new(),
            reads: BTreeMap::new(),
            served: 0,
            settled: 0,
            leaders: BTreeMap::new(),
            next_request: 0,
            healed: false,
            panicky: rng.chance(30),
            wipes,
            at_once: seed % 8 == 7,
            show: std::env::var_os("QUORATE_STORM_SHOW").is_some(),
            rng,
        };
        for id in (1..=nodes + 1).map(NodeId) {
            let incarnation = Incarnation(u128::from(id.0) << 8);
            let peer = Peer { core: None, disk: Disk::default(), incarnation, applies: VecDeque::new(), starts: 0 };
            world.peers.insert(id, peer);
            world.start(id);
        }
        let members = (1..=nodes).map(NodeId).map(|id| (id, Incarnation(u128::from(id.0) << 8), Node::default()));
        let mut membership = Membership::majority(members);
        membership.settings.lease = world.lease_policy();
        world.request(NodeId(1), |request| Event::Initialize { request, membership });
        // Before the caller is answered, a crash leaves a blank node and no cluster to converge.
        world.flush(NodeId(1));
        world
    }

    fn start(&mut self, id: NodeId) {
        let (now, mode, pre_vote) = (self.now, self.mode, self.pre_vote);
        let small = self.rng.chance(50);
        let peer = self.peers.get_mut(&id).unwrap();
        peer.starts += 1;
        let config = Config {
            mode,
            pre_vote,
            seed: id.0 * 1000 + peer.starts,
            snapshot_entries: if small { 5 } else { 0 },
            snapshot_bytes: if self.rng.chance(30) { 100 } else { 0 },
            snapshot_interval: Duration::from_millis(if self.rng.chance(30) { 300 } else { 0 }),
            keep_entries: 2,
            max_kept_bytes: if self.rng.chance(50) { 100 } else { 1 << 20 },
            max_append_bytes: if small { 30 } else { 1000 },
            max_inflight_bytes: 2000,
            replication_lag_threshold: if small { 3 } else { 100 },
            on_lost_log: if self.wipes { OnLostLog::Rejoin } else { OnLostLog::Halt },
            ..Config::new(id, peer.incarnation)
        };
        let log = peer.disk.log.clone();
        let snapshot = peer.disk.snapshot.clone();
        let from = snapshot.as_ref().map_or(0, |meta| meta.last_log_id.index);
        let memberships = (from + 1..=log.last().index)
            .filter_map(|index| log.at(index))
            .filter_map(|log_id| Some((log_id, self.memberships.get(&log_id)?.clone())))
            .collect();
        let Disk { vote, promised_lease, .. } = peer.disk;
        let promised_end = peer.disk.promised_end.max(log.last());
        let recovered =
            Recovered { vote, log, memberships, snapshot, promised_end, promised_lease, ..Recovered::default() };
        let mut core = Core::new(config, recovered, now);
        if self.at_once {
            core.persist_at_once();
        }
        core.check_state();
        peer.core = Some(core);
    }

    fn request(&mut self, id: NodeId, event: impl FnOnce(RequestId) -> Event) {
        self.next_request += 1;
        let event = event(RequestId(self.next_request));
        self.step(id, event);
    }

    fn step(&mut self, id: NodeId, event: Event) {
        let arrived: Vec<Run> = match &event {
            Event::Message(Envelope { message: Message::Append(append), .. }) => append.entries.runs.iter().collect(),
            _ => Vec::new(),
        };
        let mut out = Actions::new();
        let peer = self.peers.get_mut(&id).unwrap();
        let Some(core) = peer.core.as_mut() else { return };
        if self.at_once
            && let Some(Event::Applied(log_id)) = peer.applies.front()
        {
            // As drivers do whose logs are memory: it is told with the next step.
            core.note_applied(*log_id);
            peer.applies.pop_front();
        }
        let shown = self.show.then(|| format!("{:?} {id}: {event:?}", self.now));
        core.step_checked(self.now, event, &mut out);
        if let Some(shown) = shown {
            println!("{shown}\n    -> {:?}", out.0);
        }
        for action in out.0 {
            self.perform(id, action, &arrived);
        }
        self.check(id);
    }

    fn perform(&mut self, id: NodeId, action: Action, arrived: &[Run]) {
        let hurt = !self.is_whole();
        let peer = self.peers.get_mut(&id).unwrap();
        let incarnation = peer.incarnation;
        match action {
            Action::Persist(write) => {
                let mut runs = Vec::new();
                if let WriteOp::Append { span, source } = &write.op {
                    match source {
                        Source::Message => runs.extend(arrived.iter().filter(|run| run.last > span.prev.index)),
                        Source::Proposal(_) | Source::Core(_) => {
                            runs.push(Run { leader_id: span.last.leader_id, last: span.last.index });
                        }
                    }
                    if let Source::Core(CoreEntry::Membership(membership)) = source {
                        let few = membership.configs.iter().any(|set| set.voters.len() < 3);
                        self.hurt_among_few |= few && hurt;
                        let old = self.memberships.insert(span.last, membership.clone());
                        assert!(old.is_none_or(|old| old == *membership), "a log id is used once");
                    }
                }
                self.settled += u64::from(matches!(write.op, WriteOp::ForgetPromisedEnd));
                peer.disk.pending.push_back((write.id, write.op, runs));
                if self.at_once {
                    assert_eq!(peer.disk.flush_one(), Some(write.id));
                }
            }
            Action::Send { to, message } => self.wire.push((id, to, Wire::Message(incarnation, message))),
            Action::SendEntries { to, header, span } => {
                let log = peer.core.as_ref().unwrap().log().clone();
                assert_eq!(log.at(span.last.index), Some(span.last));
                let mut entries = Entries { bytes: span.count() * 10, ..Entries::default() };
                // A driver may send only the front of a span.
                let last = if self.rng.chance(10) { span.first_index() } else { span.last.index };
                for index in (span.first_index()..=last).take(span.count() as usize) {
                    let Some(at) = log.at(index) else { return };
                    entries.runs.push(Run { leader_id: at.leader_id, last: index });
                    entries.memberships.extend(self.memberships.get(&at).map(|m| (index, m.clone())));
                }
                let append = Append { header, prev: span.prev, entries };
                self.wire.push((id, to, Wire::Message(incarnation, Message::Append(append))));
            }
            Action::SendSnapshot { to, header, at_least } => {
                let meta = peer.disk.snapshot.clone().expect("only purged behind a snapshot");
                assert!(meta.last_log_id >= at_least);
                self.wire.push((id, to, Wire::Snapshot(incarnation, header, meta)));
            }
            Action::InstallSnapshot(meta) => peer.applies.push_back(Event::SnapshotInstalled(meta)),
            Action::BuildSnapshot => peer.applies.push_back(Event::Snapshot { request: None }),
            Action::Apply(span) => peer.applies.push_back(Event::Applied(span.last)),
            Action::Purge { upto } => {
                assert!(peer.disk.snapshot.as_ref().is_some_and(|meta| meta.last_log_id >= upto));
            }
            Action::Reply { request, outcome: Outcome::Read(log_id) } => {
                let seen = self.reads.remove(&request).unwrap();
                assert!(log_id.index >= seen, "read {request:?} at {log_id}, though {seen} was committed before");
                self.served += 1;
            }
            Action::Reply { .. } | Action::Note(_) => {}
        }
    }

    /// Election safety, log matching of what is committed, commit never changes.
    fn check(&mut self, id: NodeId) {
        let Some(core) = &self.peers[&id].core else { return };
        if core.is_leader() {
            let leader_id = core.vote().leader_id;
            let leaders = self.leaders.entry(leader_id.term).or_default();
            leaders.insert(leader_id.node_id);
            assert!(self.mode == LeaderIdMode::Advanced || leaders.len() == 1, "one leader a term");
            for (index, log_id) in self.committed.range(core.log().purged().index + 1..) {
                let holds = core.log().at(*index) == Some(*log_id);
                assert!(holds || log_id.leader_id >= leader_id, "leader {leader_id} lacks committed {log_id}");
            }
        }
        for index in (core.log().purged().index + 1..=core.commit()).rev().take(12) {
            let log_id = core.log().at(index).unwrap();
            let known = *self.committed.entry(index).or_insert(log_id);
            assert_eq!(known, log_id, "node {id} committed another entry at {index}");
        }
        let newest = self.committed.last_key_value().map_or(0, |(index, _)| *index);
        if self.commits.last().is_none_or(|(_, known)| *known < newest) {
            self.commits.push((self.now, newest));
        }
    }

    fn flush(&mut self, id: NodeId) {
        let peer = self.peers.get_mut(&id).unwrap();
        if peer.core.is_some()
            && let Some(write) = peer.disk.flush_one()
        {
            self.step(id, Event::Persisted(write));
        }
    }

    fn apply(&mut self, id: NodeId) {
        let peer = self.peers.get_mut(&id).unwrap();
        let Some(core) = &peer.core else { return };
        let Some(event) = peer.applies.pop_front() else { return };
        match event {
            Event::Snapshot { .. } if !self.healed && self.rng.chance(20) => {
                let ended = if self.rng.chance(50) { Event::SnapshotBuildFailed } else { Event::SnapshotDeferred };
                self.step(id, ended);
            }
            Event::SnapshotInstalled(_) if !self.healed && self.rng.chance(20) => {
                self.step(id, Event::SnapshotInstallFailed)
            }
            Event::Snapshot { .. } => {
                let last_log_id = core.applied();
                let (membership_log_id, membership) = core.membership_at(last_log_id.index).clone();
                let meta = SnapshotMeta { last_log_id, membership_log_id, membership };
                // The log on disk is purged with it.
                peer.disk.snapshot = Some(meta.clone());
                self.step(id, Event::SnapshotBuilt(meta));
            }
            Event::SnapshotInstalled(meta) => {
                peer.disk.snapshot = Some(meta.clone());
                self.step(id, Event::SnapshotInstalled(meta));
            }
            other => self.step(id, other),
        }
    }

    fn crash(&mut self, id: NodeId) {
        let lost_from = {
            let peer = self.peers.get_mut(&id).unwrap();
            peer.core = None;
            peer.applies.clear();
            peer.disk.pending.len() as u64
        };
        // A prefix of the unsynced writes may have reached the disk.
        for _ in 0..self.rng.below(lost_from + 1) {
            self.peers.get_mut(&id).unwrap().disk.flush_one();
        }
        let peer = self.peers.get_mut(&id).unwrap();
        peer.disk.pending.clear();
        // Installed but not reset: recovery applies the same test as the core (law 11).
        if let Some(meta) = &peer.disk.snapshot {
            let to = meta.last_log_id;
            if peer.disk.log.last().index < to.index || !peer.disk.log.holds(to) {
                if to.index > peer.disk.log.purged().index {
                    peer.disk.log = LogIds::after(to);
                }
            } else {
                peer.disk.log.purge(to.index);
            }
        }
        match self.wipes {
            true => self.maybe_wipe(id),
            false => self.maybe_damage(id),
        }
    }

    /// Puts a blank disk in place of a crashed node's (law 15). Not while one node alone has the first membership:
    /// without it there is no cluster.
    fn maybe_wipe(&mut self, id: NodeId) {
        if self.committed.is_empty() || !self.rng.chance(12) {
            return;
        }
        let peer = self.peers.get_mut(&id).unwrap();
        peer.disk = Disk::default();
        peer.incarnation = Incarnation(peer.incarnation.0 + 1);
    }

    /// Whether every disk holds what its node promised.
    fn is_whole(&self) -> bool {
        self.peers.values().all(|peer| peer.disk.promised_end <= peer.disk.log.last())
    }

    /// Takes the end of a crashed node's log, as damage does, at most on one node at a time: more could take the last
    /// copy of a committed entry. The node keeps what it promised (docs/design/001).
    fn maybe_damage(&mut self, id: NodeId) {
        let whole = self.is_whole();
        // Where fewer than three vote, the damaged node's own vote is needed to prove that a lost entry was not committed.
        let sets = self.memberships.values().flat_map(|membership| &membership.configs);
        let voters = sets.map(|set| set.voters.len()).min().unwrap_or(0);
        if !whole || voters < 3 || !self.rng.chance(20) {
            return;
        }
        let disk = &self.peers[&id].disk;
        let (first, last) = (disk.log.purged().index, disk.log.last().index);
        // Before there is a leader the first membership is on one node only, and nobody else can campaign.
        let sets = self.memberships.values().flat_map(|membership| &membership.configs);
        let mut voters = sets.flat_map(|set| set.voters.keys());
        if last < 2 || voters.any(|id| self.peers[id].disk.log.last() == LogId::ZERO) {
            return;
        }
        let keep = first.max(1) + self.rng.below(last - first.max(1) + 1);
        let loses_all = first > 0 && self.rng.chance(30);
        // Nothing after the damage names the group.
        let unnamed = self.rng.chance(50);
        let disk = &mut self.peers.get_mut(&id).unwrap().disk;
        let end = if unnamed { LogId::new(disk.vote.leader_id, MAX_INDEX) } else { disk.log.last() };
        disk.promised_end = disk.promised_end.max(end);
        if loses_all {
            // Its snapshot is damaged, and nothing leads up to the log (docs/design/003).
            (disk.snapshot, disk.log) = (None, LogIds::default());
            return;
        }
        disk.log.truncate_after(keep);
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        // Mostly in order, sometimes not.
        let place = if self.rng.chance(85) { 0 } else { self.rng.below(self.wire.len() as u64) as usize };
        let (from, to, wire) = if self.rng.chance(5) { self.wire[place].clone() } else { self.wire.remove(place) };
        if !self.peers.contains_key(&to) || self.cut.contains(&(from, to)) || self.rng.chance(3) {
            if let Wire::Snapshot(_, header, _) = wire {
                // A transport tells how every transfer ended.
                self.step(from, Event::SnapshotSent { to, stream: header.stream, outcome: SendOutcome::Failed });
            }
            return;
        }
        match wire {
            Wire::Message(incarnation, message) => {
                self.step(to, Event::Message(Envelope { from, incarnation, message }));
            }
            Wire::Snapshot(incarnation, header, meta) => {
                self.step(to, Event::SnapshotReceived { from, incarnation, header, meta });
                self.step(from, Event::SnapshotSent { to, stream: header.stream, outcome: SendOutcome::Delivered });
            }
        }
    }

    fn random_node(&mut self) -> NodeId {
        let place = self.rng.below(self.peers.len() as u64) as usize;
        *self.peers.keys().nth(place).unwrap()
    }

    fn turn(&mut self) {
        let id = self.random_node();
        match self.rng.below(1000) {
            0..400 => self.deliver(),
            400..550 => self.flush(id),
            550..650 => self.apply(id),
            650..760 => {
                self.now = self.now + Duration::from_millis(self.rng.below(20));
                let due = |peer: &Peer| peer.core.as_ref().and_then(Core::deadline);
                let due: Vec<_> = self
                    .peers
                    .iter()
                    .filter(|(_, p)| due(p).is_some_and(|d| d <= self.now))
                    .map(|(id, _)| *id)
                    .collect();
                due.into_iter().for_each(|id| self.step(id, Event::Timeout));
            }
            760..860 => {
                let count = 1 + self.rng.below(4);
                self.request(id, |request| Event::Propose { request, count, bytes: count * 10 });
            }
            860..890 => self.read(id),
            890..900 => self.step(id, Event::Heartbeat),
            900..906 => self.crash(id),
            906..940 if self.peers[&id].core.is_none() => self.start(id),
            940..950 => self.change(id),
            950..958 => {
                let other = self.random_node();
                self.cut.insert((id, other));
            }
            958..970 => self.cut.clear(),
            970..975 => self.step(id, Event::Elect { phase: Phase::Pre }),
            975..978 => self.step(id, Event::Elect { phase: Phase::Real }),
            978..984 => {
                let peer = self.random_node();
                self.step(id, Event::LinkRefused { peer });
            }
            984..986 => self.transfer(id),
            986..987 if self.rng.chance(30) => self.step(id, Event::SnapshotDamaged),
            986..987 => self.step(id, Event::Snapshot { request: None }),
            987..988 => self.request(id, |request| Event::Snapshot { request: Some(request) }),
            988..992 => {
                let stream = StreamId(self.rng.below(10));
                let to = self.random_node();
                self.step(id, Event::SendLost { to, stream });
            }
            992..994 => self.step(id, Event::ClockJumped),
            994..1000 if self.panicky => self.lie(id),
            _ => {}
        }
    }

    fn transfer(&mut self, id: NodeId) {
        let to = if self.rng.chance(30) { None } else { Some(self.random_node()) };
        match self.rng.chance(20) {
            true => self.step(id, Event::AbortTransfer),
            false => self.request(id, |request| Event::TransferLeader { request, to }),
        }
    }

    fn lease_policy(&mut self) -> LeasePolicy {
        if self.rng.chance(60) { LeasePolicy::LeaseReads } else { LeasePolicy::FastFailover }
    }

    fn read(&mut self, id: NodeId) {
        let age = Duration::from_millis(self.rng.below(500));
        let policy =
            [ReadPolicy::ReadIndex, ReadPolicy::LeaseRead, ReadPolicy::MaxAge(age)][self.rng.below(3) as usize];
        let oldest = match policy {
            ReadPolicy::MaxAge(age) => self.now - age - Duration::from_nanos(1),
            ReadPolicy::ReadIndex | ReadPolicy::LeaseRead | ReadPolicy::Stale => self.now,
        };
        let seen = self.commits.iter().rfind(|(at, _)| *at <= oldest).map_or(0, |(_, index)| *index);
        self.reads.insert(RequestId(self.next_request + 1), seen);
        self.request(id, |request| Event::Read { request, policy });
    }

    fn change(&mut self, id: NodeId) {
        let node = self.random_node();
        let change = match self.rng.below(6) {
            5 => ChangeMembers::SetSettings(Settings { lease: self.lease_policy() }),
            0 => ChangeMembers::AddNodes([(node, Node::default())].into()),
            1 => ChangeMembers::AddVoterIds([node].into()),
            2 => ChangeMembers::RemoveVoters([node].into()),
            3 => ChangeMembers::AddVoters([(node, Node::default())].into()),
            _ => {
                let keep = (0..3).map(|_| self.random_node()).collect();
                ChangeMembers::ReplaceAllVoters(keep)
            }
        };
        let retain = if self.rng.chance(50) { Retain::AsLearners } else { Retain::Remove };
        // Patient callers overlap, so that joint changes are continued and reverted; waived ones take what lags.
        let patience = Duration::from_millis(if self.rng.chance(60) { self.rng.below(800) } else { 0 });
        let readiness = if self.rng.chance(30) { Readiness::Waived } else { Readiness::Required };
        let terms = ChangeTerms { patience, readiness, ..ChangeTerms::default() };
        self.request(id, |request| Event::ChangeMembership { request, change, retain, terms });
    }

    /// A message that no correct peer sends. It may waste time; it must not panic. Lies that only a peer
    /// without a conscience could tell (a commit index, a match) are left out of the safety checks' way by
    /// naming a node that is in no membership.
    fn lie(&mut self, id: NodeId) {
        let from = NodeId(99);
        let rng = &mut self.rng;
        let mut number = || [0, 1, 2, 5, 9, u64::MAX - 1, u64::MAX][rng.below(7) as usize];
        let leader_id = LeaderId::new(number(), 99);
        let log_id = LogId::new(LeaderId::new(number(), number()), number());
        let vote = Vote { leader_id, committed: number() % 2 == 0 };
        let (stream, round) = (StreamId(number()), Round(number()));
        let message = match number() % 5 {
            0 => Message::VoteReply(VoteReply {
                phase: Phase::Real,
                campaign: Campaign(number()),
                requested: vote,
                answer: VoteAnswer::Granted,
            }),
            1 => {
                let answer = AppendAnswer::Accepted { matched: log_id };
                Message::AppendReply(AppendReply {
                    vote,
                    stream,
                    round,
                    promised: Duration::from_secs(1),
                    lost: None,
                    answer,
                })
            }
            2 => {
                let answer = AppendAnswer::Conflict { prev: log_id, hint: log_id };
                Message::AppendReply(AppendReply {
                    vote,
                    stream,
                    round,
                    promised: Duration::from_secs(1),
                    lost: None,
                    answer,
                })
            }
            3 => Message::ReadReply { request: RequestId(number()), log_id: Some(log_id) },
            _ => Message::VoteRequest(VoteRequest {
                phase: Phase::Pre,
                campaign: Campaign(number()),
                vote,
                last_log_id: log_id,
                reason: CampaignReason::Timeout,
            }),
        };
        self.step(id, Event::Message(Envelope { from, incarnation: Incarnation(1), message }));
    }

    /// Everything works again: the cluster must come to one leader and one log.
    fn heal(&mut self) {
        self.cut.clear();
        self.healed = true;
        let down: Vec<_> = self.peers.iter().filter(|(_, p)| p.core.is_none()).map(|(id, _)| *id).collect();
        down.into_iter().for_each(|id| self.start(id));
        for round in 0..600 {
            let ids: Vec<_> = self.peers.keys().copied().collect();
            for _ in 0..50 {
                let wire = std::mem::take(&mut self.wire);
                for (from, to, wire) in wire {
                    if !self.peers.contains_key(&to) {
                        continue;
                    }
                    match wire {
                        Wire::Message(incarnation, message) => {
                            self.step(to, Event::Message(Envelope { from, incarnation, message }));
                        }
                        Wire::Snapshot(incarnation, header, meta) => {
                            self.step(to, Event::SnapshotReceived { from, incarnation, header, meta });
                            let outcome = SendOutcome::Delivered;
                            self.step(from, Event::SnapshotSent { to, stream: header.stream, outcome });
                        }
                    }
                }
                for id in &ids {
                    self.flush(*id);
                    self.apply(*id);
                }
            }
            // A peer that could not install a snapshot waits for most of a minute until it is sent another.
            self.now = self.now + Duration::from_millis(if round < 300 { 20 } else { 200 });
            for id in ids {
                let deadline = self.peers[&id].core.as_ref().and_then(Core::deadline);
                if deadline.is_some_and(|d| d <= self.now) {
                    self.step(id, Event::Timeout);
                }
            }
        }
    }
}

/// How many entries were committed, how many reads served, and how many promises ended by an echo.
fn storm(seed: u64) -> (u64, u64, u64) {
    let mut world = World::new(seed, false);
    for _ in 0..3000 {
        world.turn();
    }
    world.heal();
    let leader = world.peers.values().filter_map(|p| p.core.as_ref()).filter(|core| core.is_leader());
    let Some(leader) = leader.max_by_key(|core| core.vote().leader_id) else {
        assert!(world.hurt_among_few && !world.is_whole(), "a healed cluster has a leader");
        return (0, world.served, world.settled);
    };
    let (commit, last) = (leader.commit(), leader.last_log_id());
    assert_eq!(commit, last.index, "a healed cluster commits everything its leader holds");
    let members = leader.membership().nodes.keys();
    for id in members {
        let core = world.peers[id].core.as_ref().unwrap();
        assert_eq!(core.last_log_id(), last, "node {id} has the leader's log");
        assert_eq!(core.applied(), last, "node {id} applied it");
    }
    (commit, world.served, world.settled)
}

#[test]
fn no_schedule_breaks_safety_and_a_healed_cluster_converges() {
    let seeds = std::env::var("QUORATE_STORM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300u64);
    let first = std::env::var("QUORATE_STORM_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0u64);
    let (mut committed, mut served, mut settled) = (0, 0, 0);
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| storm(seed));
        match result {
            Ok((entries, reads, promises)) => {
                committed += entries;
                served += reads;
                settled += promises;
            }
            Err(_) => panic!("seed {seed} failed: QUORATE_STORM_FIRST={seed} QUORATE_STORM_SEEDS=1"),
        }
    }
    println!("{seeds} storms, {committed} entries committed, {served} reads served, {settled} promises settled");
    assert!(committed / seeds > 10, "storms that commit nothing show nothing");
    assert!(served / seeds > 10, "storms that serve no reads show nothing of them");
    // A seed that is looked into alone need not have any.
    assert!(settled > 0 || seeds < 100, "storms that settle no promise show nothing of damage without a name");
}

/// Laws 15 and 16: however many disks are wiped, and whoever is made a voter again, no index ever has two committed
/// entries, and no leader lacks one. A cluster that lost its quorum stands still.
#[test]
fn wiped_disks_never_outvote_what_was_committed() {
    let seeds = std::env::var("QUORATE_STORM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60u64);
    let first = std::env::var("QUORATE_STORM_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000u64);
    let (mut committed, mut wiped) = (0, 0);
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, true);
            for _ in 0..3000 {
                world.turn();
            }
            world.heal();
            world
        });
        let Ok(world) = result else { panic!("seed {seed} failed: QUORATE_STORM_FIRST={seed} QUORATE_STORM_SEEDS=1") };
        committed += world.committed.len() as u64;
        wiped += world.peers.values().map(|peer| (peer.incarnation.0 & 0xff) as u64).sum::<u64>();
    }
    println!("{seeds} storms, {committed} entries committed, {wiped} disks wiped");
    assert!(committed / seeds > 5 && wiped / seeds >= 1, "{committed} committed and {wiped} wiped show nothing");
}
