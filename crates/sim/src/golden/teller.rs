//! Tells what cores met in the words of a script.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_core::{
    Action, Config, Event, Incarnation, LogId, MAX_INDEX, NodeId, Phase, ReadPolicy, SendOutcome, Tail, Vote, WriteId,
    WriteOp,
};

use super::sent::{Mail, Number};
use super::words::{change, listed, millis, options};
use crate::history::Nanos;
use crate::record::{Found, Moment, What};

pub(super) struct Teller {
    commands: Vec<String>,
    /// What the cluster is made with.
    config: Config,
    /// Where the script's clock is.
    at: Nanos,
    mail: Mail,
    nodes: BTreeMap<NodeId, Node>,
    /// Commands of clients so far, for their names.
    proposed: u64,
}

/// A node as the script's world has it.
#[derive(Default)]
struct Node {
    disk: Option<Incarnation>,
    runs: bool,
    config: Option<Config>,
    vote: Vote,
    last: LogId,
    /// The end of its newest snapshot.
    snapshot: LogId,
    /// Writes that are not durable.
    pending: VecDeque<(WriteId, WriteOp)>,
    jobs: VecDeque<Job>,
    /// A snapshot is being written while the state machine goes on.
    captured: bool,
}

enum Job {
    Apply(LogId),
    Install,
    Build,
}

impl Node {
    fn make_durable(&mut self) {
        if let Some((_, op)) = self.pending.pop_front() {
            (self.vote, self.last) = after(self.vote, self.last, &op);
        }
    }

    /// How many writes that were not durable must have survived for this to be found; `None`: it is another disk.
    fn survived(&self, found: &Found) -> Option<usize> {
        let (mut vote, mut last) = (self.vote, self.last);
        for (count, (_, op)) in self.pending.iter().enumerate() {
            if (vote, last) == (found.vote, found.last) {
                return Some(count);
            }
            (vote, last) = after(vote, last, op);
        }
        ((vote, last) == (found.vote, found.last)).then_some(self.pending.len())
    }
}

/// A disk's vote and end of log behind a write.
fn after(vote: Vote, last: LogId, op: &WriteOp) -> (Vote, LogId) {
    match op {
        WriteOp::Vote(vote) => (*vote, last),
        WriteOp::Append { span, .. } => (vote, span.last),
        WriteOp::Truncate { after } => (vote, *after),
        WriteOp::Reset { to, tail: Tail::Discard } => (vote, *to),
        WriteOp::Reset { to, tail: Tail::Keep } => (vote, last.max(*to)),
        WriteOp::PromiseLease(_) | WriteOp::ForgetPromisedEnd => (vote, last),
    }
}

impl Teller {
    /// The commands of a script in which cores meet the same.
    pub(super) fn tell(moments: &[Moment]) -> Vec<String> {
        let config = moments.iter().find_map(|moment| match &moment.what {
            What::Started(found) => Some(found.config.clone()),
            _ => None,
        });
        let config = config.unwrap_or_else(|| Config::new(1, Incarnation(0)));
        let mail = Mail::of(moments);
        let mut teller = Self { commands: Vec::new(), config, at: 0, mail, nodes: BTreeMap::new(), proposed: 0 };
        teller.begin(moments);
        for place in 0..moments.len() {
            teller.moment(moments, place);
        }
        teller.commands
    }

    fn begin(&mut self, moments: &[Moment]) {
        let nodes = moments.iter().map(|moment| moment.node.0).max().unwrap_or(1);
        let usual = Config::new(0, Incarnation(0));
        let told = options(&self.config, &usual);
        self.commands.push(format!("cluster {nodes} stopped blank{told}"));
        self.commands.extend(["autopersist off", "autoapply off"].map(str::to_owned));
    }

    /// A command at this time.
    fn say(&mut self, at: Nanos, command: String) {
        if at > self.at {
            self.commands.push(format!("wait {}", millis(Duration::from_nanos(at - self.at))));
            self.at = at;
        }
        self.commands.push(command);
    }

    fn moment(&mut self, moments: &[Moment], place: usize) {
        let Moment { at, node: id, what } = &moments[place];
        match what {
            What::Started(found) => self.started(*at, *id, found),
            What::Stopped => {
                let later = moments[place..].iter().filter(|moment| moment.node == *id);
                let next = later.into_iter().find_map(|moment| match &moment.what {
                    What::Started(found) => Some(found),
                    _ => None,
                });
                self.stopped(*at, *id, next.map(|found| &**found));
            }
            What::Tuned(config) => self.tuned(*at, *id, config),
            What::Step { event, actions } => {
                self.step(*at, *id, event, place);
                self.asked(*id, actions);
            }
        }
    }

    fn started(&mut self, at: Nanos, id: NodeId, found: &Found) {
        let node = self.nodes.entry(id).or_default();
        let wiped = node.disk.is_some_and(|disk| disk != found.incarnation);
        let lost = found.promised_end.filter(|_| !wiped);
        (node.disk, node.runs, node.config) = (Some(found.incarnation), true, Some(found.config.clone()));
        (node.vote, node.last, node.snapshot) = (found.vote, found.last, found.snapshot);
        if let Some(end) = lost {
            let unnamed = if end.index == MAX_INDEX { " unnamed" } else { "" };
            self.say(at, format!("damage {id} {}{unnamed}", found.last.index));
        }
        let wiped = if wiped { " wiped" } else { "" };
        let other = options(&found.config, &self.config);
        self.say(at, format!("restart {id}{wiped} seed={}{other}", found.config.seed));
    }

    fn tuned(&mut self, at: Nanos, id: NodeId, config: &Config) {
        let before = self.nodes.entry(id).or_default().config.replace(config.clone());
        let told = before.map_or(String::new(), |before| options(config, &before));
        if !told.is_empty() {
            self.say(at, format!("tune {id}{told}"));
        }
    }

    fn stopped(&mut self, at: Nanos, id: NodeId, next: Option<&Found>) {
        let node = self.nodes.entry(id).or_default();
        if !std::mem::take(&mut node.runs) {
            return;
        }
        let kept = next.and_then(|found| node.survived(found)).unwrap_or(0);
        // A snapshot may be whole on disk before the core hears of it.
        let is_whole = next.is_some_and(|found| Some(found.incarnation) == node.disk && found.snapshot > node.snapshot);
        (node.captured, node.jobs) = (false, VecDeque::new());
        node.pending.clear();
        let kept = if kept > 0 { format!(" keeps={kept}") } else { String::new() };
        let snapshot = if is_whole { " snapshot" } else { "" };
        self.say(at, format!("crash {id}{kept}{snapshot}"));
    }

    /// What the core asks for waits until it is done.
    fn asked(&mut self, id: NodeId, actions: &[Action]) {
        let node = self.nodes.entry(id).or_default();
        for action in actions {
            match action {
                Action::Persist(write) => node.pending.push_back((write.id, write.op.clone())),
                Action::Apply(span) => node.jobs.push_back(Job::Apply(span.last)),
                Action::InstallSnapshot(_) => node.jobs.push_back(Job::Install),
                Action::BuildSnapshot => node.jobs.push_back(Job::Build),
                _ => {}
            }
        }
    }

    fn step(&mut self, at: Nanos, id: NodeId, event: &Event, place: usize) {
        match event {
            Event::Message(_) | Event::SnapshotReceived { .. } => self.arrives(at, place),
            Event::Persisted(write) => self.persisted(at, id, *write),
            Event::Applied(last) => self.applied(at, id, *last),
            Event::SnapshotBuilt(meta) => {
                self.nodes.entry(id).or_default().snapshot = meta.last_log_id;
                self.built(at, id);
            }
            Event::SnapshotInstalled(meta) => {
                self.nodes.entry(id).or_default().snapshot = meta.last_log_id;
                self.job(at, id, "apply");
            }
            Event::SnapshotInstallFailed | Event::SnapshotBuildFailed => self.job(at, id, "fail-snapshot"),
            Event::SnapshotDeferred => self.job(at, id, "defer-snapshot"),
            // The script's world says so itself when the snapshot arrives, or is dropped.
            Event::SnapshotSent { outcome: SendOutcome::Delivered, .. } => {}
            Event::SnapshotSent { to, stream, outcome: SendOutcome::Failed } => {
                if let Some(Number { number, .. }) = self.mail.lost_snapshot((id, *to), *stream) {
                    self.say(at, format!("drop {id}->{to} #{number} 1"));
                }
            }
            Event::SendLost { to, stream } => self.say(at, format!("lose-sent {id}->{to} {stream:?}")),
            Event::PersistFailed(_) => self.say(at, format!("fail-write {id}")),
            Event::Propose { count, .. } => {
                let names = (1..=*count).map(|nth| format!("c{}", self.proposed + nth));
                let names = names.collect::<Vec<_>>().join(" ");
                self.proposed += count;
                self.say(at, format!("propose {id} {names}"));
            }
            other => {
                if let Some(command) = told(id, other) {
                    self.say(at, command);
                }
            }
        }
    }

    fn arrives(&mut self, at: Nanos, place: usize) {
        let Some((Number { link: (from, to), number }, once_more)) = self.mail.arrival(place) else { return };
        if once_more {
            self.say(at, format!("duplicate {from}->{to} #{number} 1"));
        }
        self.say(at, format!("deliver {from}->{to} #{number} 1"));
    }

    fn persisted(&mut self, at: Nanos, id: NodeId, write: WriteId) {
        let node = self.nodes.entry(id).or_default();
        let count = node.pending.iter().take_while(|(id, _)| *id <= write).count();
        (0..count).for_each(|_| node.make_durable());
        match count {
            0 => self.say(at, format!("persist {id} again {}", write.0)),
            count => self.say(at, format!("persist {id} {count}")),
        }
    }

    /// Jobs up to this entry are done; a snapshot that stood before them has seen the state, and is still written.
    fn applied(&mut self, at: Nanos, id: NodeId, last: LogId) {
        let mut commands = Vec::new();
        let node = self.nodes.entry(id).or_default();
        let mut count = 0;
        loop {
            match node.jobs.front() {
                Some(Job::Apply(end)) if end.index <= last.index => count += 1,
                Some(Job::Build)
                    if matches!(node.jobs.get(1), Some(Job::Apply(end)) if end.index <= last.index)
                        && !node.captured =>
                {
                    if count > 0 {
                        commands.push(format!("apply {id} {}", std::mem::take(&mut count)));
                    }
                    commands.push(format!("capture {id}"));
                    node.captured = true;
                }
                _ => break,
            }
            node.jobs.pop_front();
        }
        if count > 0 {
            commands.push(format!("apply {id} {count}"));
        }
        commands.into_iter().for_each(|command| self.say(at, command));
    }

    fn built(&mut self, at: Nanos, id: NodeId) {
        match std::mem::take(&mut self.nodes.entry(id).or_default().captured) {
            true => self.say(at, format!("built {id}")),
            false => self.job(at, id, "apply"),
        }
    }

    /// The oldest job ends.
    fn job(&mut self, at: Nanos, id: NodeId, command: &str) {
        self.nodes.entry(id).or_default().jobs.pop_front();
        let count = if command == "apply" { " 1" } else { "" };
        self.say(at, format!("{command} {id}{count}"));
    }
}

/// What callers and the surroundings tell a core.
fn told(id: NodeId, event: &Event) -> Option<String> {
    Some(match event {
        Event::Timeout => format!("timeout {id}"),
        Event::Read { policy, .. } => match policy {
            ReadPolicy::ReadIndex => format!("read {id}"),
            ReadPolicy::LeaseRead => format!("read {id} lease"),
            ReadPolicy::MaxAge(age) => format!("read {id} max-age {}", millis(*age)),
            ReadPolicy::Stale => format!("read {id} stale"),
        },
        Event::ChangeMembership { change: asked, retain, terms, .. } => {
            format!("change {id} {}", change(asked, *retain, terms))
        }
        Event::Initialize { membership, .. } => {
            let lease =
                if membership.settings.lease == quorate_core::LeasePolicy::LeaseReads { " lease-reads" } else { "" };
            format!("initialize {id} {}{lease}", listed(membership.voter_ids()))
        }
        Event::TransferLeader { to, .. } => {
            let to = to.map_or(String::new(), |to| format!(" {to}"));
            format!("transfer {id}{to}")
        }
        Event::AbortTransfer => format!("abort-transfer {id}"),
        Event::Elect { phase } => format!("elect {id} {}", if *phase == Phase::Real { "real" } else { "pre" }),
        Event::Heartbeat => format!("heartbeat {id}"),
        Event::Snapshot { .. } => format!("snapshot {id}"),
        Event::PurgeLog { upto, .. } => format!("purge {id} {upto}"),
        Event::SnapshotDamaged => format!("damage {id} snapshot"),
        Event::LinkRefused { peer } => format!("refuse-link {id} {peer}"),
        Event::ClockJumped => format!("clock-jump {id}"),
        _ => return None,
    })
}
