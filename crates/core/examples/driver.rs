//! A driver of one's own: three cores in one thread, on a virtual clock, with a log in memory and nothing but the standard
//! library. One node leads, takes a command, and all three apply it. `cargo run -p quorate-core --example driver`
//!
//! A driver for real has what is missing here in the same places: files behind `Persist`, sockets behind `Send`, the
//! machine's clock. At a start it hands `Core::new` what it finds on disk, and it gives each start another seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, Config, Core, CoreEntry, Entries, Envelope, Event, Incarnation, Instant, LogId,
    Membership, Message, Node, NodeId, Recovered, RequestId, Run, Source, Span, Write, WriteOp,
};

/// What the core does not know of an entry: its bytes.
#[derive(Clone, Debug)]
enum Payload {
    Blank,
    Membership(Membership),
    Command(String),
}

type Entry = (LogId, Payload);

/// A core, and all that its driver keeps for it.
struct Driven {
    core: Core,
    /// From index 1, as nothing is purged.
    log: Vec<Entry>,
    /// Commands of proposals that the core has not answered yet.
    proposed: BTreeMap<RequestId, String>,
    applied: Vec<String>,
}

/// Three cores, and what is on its way to each: an event, and the entries that travel beside it.
struct Cluster {
    now: Instant,
    nodes: BTreeMap<NodeId, Driven>,
    events: VecDeque<(NodeId, Event, Vec<Entry>)>,
}

/// Names a node's disk. For real: drawn at random when the disk is blank, and kept on it.
fn disk(id: NodeId) -> Incarnation {
    Incarnation(u128::from(id.0))
}

impl Cluster {
    fn new() -> Self {
        let start = |id: NodeId| {
            let config = Config { seed: id.0, ..Config::new(id, disk(id)) };
            let core = Core::new(config, Recovered::default(), Instant::ORIGIN);
            (id, Driven { core, log: Vec::new(), proposed: BTreeMap::new(), applied: Vec::new() })
        };
        let nodes = (1..=3).map(NodeId).map(start).collect();
        Self { now: Instant::ORIGIN, nodes, events: VecDeque::new() }
    }

    /// The loop of a driver: what happened goes in, what comes out is done, in order; with nothing left to do it waits
    /// for the deadline of a core.
    fn run_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            let (id, event, carried) = self.events.pop_front().unwrap_or_else(|| self.sleep());
            let mut actions = Actions::new();
            if let Some(node) = self.nodes.get_mut(&id) {
                node.core.step(self.now, event, &mut actions);
            }
            actions.0.into_iter().for_each(|action| self.perform(id, action, &carried));
        }
    }

    /// Nothing happens before the nearest deadline, so it is that time now.
    fn sleep(&mut self) -> (NodeId, Event, Vec<Entry>) {
        let deadlines = self.nodes.iter().filter_map(|(id, node)| Some((node.core.deadline()?, *id)));
        let Some((deadline, id)) = deadlines.min() else { panic!("every core waits for a caller, and none comes") };
        self.now = self.now.max(deadline);
        assert!(self.now < Instant::ORIGIN + Duration::from_secs(10), "elections and commits take no such time here");
        (id, Event::Timeout, Vec::new())
    }

    fn perform(&mut self, id: NodeId, action: Action, carried: &[Entry]) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match action {
            // Done at once. A real disk takes its time: the core goes on meanwhile, and holds back by itself what
            // nobody may hear before the write is durable. `Event::PersistFailed` tells it of one that fails.
            Action::Persist(write) => {
                let done = Event::Persisted(write.id);
                node.write(write, carried);
                self.events.push_back((id, done, Vec::new()));
            }
            Action::Send { to, message } => self.send(id, to, message, Vec::new()),
            // `Event::SendLost` is for a connection that breaks, or a log that was cut meanwhile: not here.
            Action::SendEntries { to, header, span } => {
                let carried = node.read(span).to_vec();
                let entries = describe(&carried);
                self.send(id, to, Message::Append(Append { header, prev: span.prev, entries }), carried);
            }
            Action::Apply(span) => {
                for (log_id, payload) in node.read(span).to_vec() {
                    let what = match payload {
                        Payload::Blank => "nothing, a leader begins with it".to_owned(),
                        Payload::Membership(membership) => membership.to_string(),
                        Payload::Command(command) => {
                            node.applied.push(command.clone());
                            command
                        }
                    };
                    println!("{:?}: node {id} applies {log_id}: {what}", self.now.since(Instant::ORIGIN));
                }
                self.events.push_back((id, Event::Applied(span.last), Vec::new()));
            }
            // A real driver answers the caller. A write has happened only when its entry is applied, under the leader
            // that `Outcome::Proposed` names; a read is served once what `Outcome::Read` names is applied.
            Action::Reply { request, outcome } => {
                node.proposed.remove(&request);
                println!("node {id} answers request {}: {outcome:?}", request.0);
            }
            Action::Note(note) => println!("node {id} notes {note:?}"),
            // After 100,000 entries, so not in this run. A real driver builds the snapshot of what is applied, aside,
            // and reports `SnapshotBuilt` when it is durable; purges the log; streams the snapshot to a peer whose
            // entries are purged, and reports `SnapshotSent`; and there hands it over as `SnapshotReceived`, restores
            // the machine from it when asked to install it, and reports `SnapshotInstalled`.
            Action::BuildSnapshot | Action::Purge { .. } | Action::SendSnapshot { .. } | Action::InstallSnapshot(_) => {
                panic!("a snapshot is asked for, which this driver cannot make: {action:?}")
            }
        }
    }

    /// Links that lose nothing and keep the order. The core needs neither, only that a message is from whom it says.
    fn send(&mut self, from: NodeId, to: NodeId, message: Message, carried: Vec<Entry>) {
        self.events.push_back((to, Event::Message(Envelope { from, incarnation: disk(from), message }), carried));
    }
}

impl Driven {
    /// The entries of a span.
    fn read(&self, span: Span) -> &[Entry] {
        &self.log[span.prev.index as usize..span.last.index as usize]
    }

    fn write(&mut self, write: Write, carried: &[Entry]) {
        match write.op {
            WriteOp::Append { span, source } => {
                let payloads = match source {
                    Source::Core(CoreEntry::Blank) => vec![(span.last, Payload::Blank)],
                    Source::Core(CoreEntry::Membership(members)) => vec![(span.last, Payload::Membership(members))],
                    // One command each: `Event::Propose` takes many, which are the entries of the span then.
                    Source::Proposal(request) => {
                        let command = self.proposed.remove(&request);
                        command.into_iter().map(|command| (span.last, Payload::Command(command))).collect()
                    }
                    // A message that was sent twice may begin with what the log already holds.
                    Source::Message => {
                        let is_new = |entry: &&Entry| entry.0.index > span.prev.index;
                        carried.iter().filter(is_new).cloned().collect()
                    }
                };
                self.log.extend(payloads);
                assert_eq!(self.log.len() as u64, span.last.index, "every entry of the span is there");
            }
            WriteOp::Truncate { after } => self.log.truncate(after.index as usize),
            // Kept on disk by a real driver, for `Recovered`: this one never starts again.
            WriteOp::Vote(_) | WriteOp::PromiseLease(_) | WriteOp::ForgetPromisedEnd => {}
            WriteOp::Reset { .. } => panic!("only for who installed a snapshot: the log starts after it then"),
        }
    }
}

/// What a message says of the entries that it carries.
fn describe(carried: &[Entry]) -> Entries {
    let mut entries = Entries::default();
    for (log_id, payload) in carried {
        entries.runs.push(Run { leader_id: log_id.leader_id, last: log_id.index });
        match payload {
            Payload::Blank => {}
            Payload::Membership(membership) => entries.memberships.push((log_id.index, membership.clone())),
            Payload::Command(command) => entries.bytes += command.len() as u64,
        }
    }
    entries
}

/// Makes the cluster, has it elect a leader, and gives that a command.
fn run() -> Cluster {
    let mut cluster = Cluster::new();
    let voters = (1..=3).map(NodeId).map(|id| (id, disk(id), Node::at(format!("n{id}"))));
    let initialize = Event::Initialize { request: RequestId(1), membership: Membership::majority(voters) };
    cluster.events.push_back((NodeId(1), initialize, Vec::new()));
    let leader = |cluster: &Cluster| cluster.nodes.iter().find(|(_, node)| node.core.is_leader()).map(|(id, _)| *id);
    cluster.run_until(|cluster| leader(cluster).is_some());
    if let Some((id, node)) = cluster.nodes.iter_mut().find(|(_, node)| node.core.is_leader()) {
        let (request, command) = (RequestId(2), "hello".to_owned());
        let propose = Event::Propose { request, count: 1, bytes: command.len() as u64 };
        node.proposed.insert(request, command);
        cluster.events.push_back((*id, propose, Vec::new()));
    }
    cluster.run_until(|cluster| cluster.nodes.values().all(|node| !node.applied.is_empty()));
    cluster
}

fn main() {
    let cluster = run();
    assert!(cluster.nodes.values().all(|node| node.applied == ["hello"]));
    println!("all three applied it, {:?} after the start", cluster.now.since(Instant::ORIGIN));
}

#[test]
fn one_leads_and_all_three_apply_what_it_was_given() {
    let cluster = run();
    let leaders = cluster.nodes.values().filter(|node| node.core.is_leader()).count();
    assert_eq!(leaders, 1);
    for node in cluster.nodes.values() {
        assert_eq!(node.applied, ["hello"]);
        assert_eq!(node.core.commit(), node.log.len() as u64, "nothing waits");
        assert!(node.log.iter().any(|(_, payload)| matches!(payload, Payload::Membership(_))));
    }
}
