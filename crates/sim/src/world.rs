//! The world: virtual time, the events in it, and the nodes that they happen to.

mod delivery;
mod hashed;
mod life;
mod turn;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::StorageError;
use quorate::virtual_node::{CallId, Chore};
use quorate_core::{ClusterId, Event as CoreEvent, Incarnation, LogId, NodeId, WriteId};
use quorate_wire::Batches;

use crate::clients::Clients;
use crate::counters::Counters;
use crate::digest::Digest;
use crate::disk::{Crash, SimDisk};
use crate::fault::{Fault, FaultCounts, FaultSet};
use crate::halts::Cause;
use crate::history::Nanos;
use crate::invariants::{Invariants, Shadows};
use crate::machine::with_book;
use crate::net::{Arrival, Flight, Net, Packets, Sender, Shipment};
use crate::options::Options;
use crate::process::{Running, Shadow};
use crate::record::Recorder;
use crate::rng::Rng;
use crate::workload::Workload;

/// The cluster's identity, until it is recovered.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5175_6f72_6174_6500_0000_0000_0000_0001);

/// Something that happens to a process is void once the process is another: its run is part of the event.
pub(crate) enum Event {
    Packet(Flight),
    Snapshot {
        to: usize,
        from: usize,
        sender: Sender,
        shipment: Box<Shipment>,
        arrival: Arrival,
    },
    /// Entries that this node sent may be lost.
    Lost {
        at: usize,
        run: u64,
        to: NodeId,
    },
    Timer {
        at: usize,
        run: u64,
    },
    Wal {
        at: usize,
        run: u64,
    },
    Durable {
        at: usize,
        run: u64,
        write: WriteId,
        result: Result<(), StorageError>,
    },
    Chore {
        at: usize,
        run: u64,
        chore: Chore,
    },
    Client(u32),
    GiveUp {
        client: u32,
        op: u64,
    },
    Retry {
        client: u32,
        op: u64,
    },
    /// A client looks after its session.
    Session(u32),
    /// An attempt of what a client does beside its operations.
    Errand(u64),
    /// A call was not answered in time.
    Late(CallId),
    Start(usize),
    Resume(usize),
    Chaos,
    Heal(crate::chaos::Cure),
    Operator,
}

/// No run has so many events: the longest of many thousand seeds have a tenth of them.
pub(crate) const MOST_EVENTS: u64 = 2_000_000;

/// Nodes take no more turns than this between two moments of time.
pub(crate) const MOST_TURNS: u64 = 100_000;

/// What is wrong with a run beyond these limits.
pub(crate) const NEVER_ENDS: &str = "liveness: a run that never ends";
/// What is said of a run that was to be a shorter one.
const CUT_SHORT: &str = "cut short: a run of more events than asked for";

/// Why a run failed.
pub(crate) type Violation = String;

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// It will be started.
    Stopped,
    /// It refused to start, or to go on, and said why: for what was done to it, or that was a violation.
    Halted(String, Option<Cause>),
}

/// A place for a node: its disk stays when the process goes.
pub(crate) struct Place<W: Workload> {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) incarnation: Incarnation,
    /// The cluster that its disk belongs to, with the recovery.
    pub(crate) cluster: ClusterId,
    /// How often its disk was opened, at its last start.
    pub(crate) boot: u64,
    /// Counts the processes here.
    pub(crate) run: u64,
    pub(crate) running: Option<Running<W::Machine>>,
    pub(crate) down: Down,
    /// What the disk may hold if the process was stopped.
    pub(crate) possible: Option<Vec<Shadow>>,
    pub(crate) paused_until: Option<Nanos>,
    /// Since when its machine sleeps, if it does not only stand still.
    pub(crate) asleep_since: Option<Nanos>,
    deferred: Vec<Event>,
    pub(crate) drift: i64,
    pub(crate) offset: i64,
    pub(crate) slow_disk: u64,
    pub(crate) slow_apply: u64,
    /// Its disk was blank when the operator put it in: what members know it as is gone, until it was added again.
    pub(crate) renewed: bool,
    /// Its disk is not its first: somebody may know it by another, or a message of the past does.
    pub(crate) another_disk: bool,
    /// It lost something, and is not counted on until the operator has dealt with it.
    pub(crate) impaired: bool,
    /// Its disk is damaged where its log cannot tell before it said that everything is durable.
    pub(crate) fragile: bool,
    /// Its disk holds damage that was not found yet, or not dealt with.
    pub(crate) damaged: bool,
    /// What became of damage to its disk.
    pub(crate) hurt: crate::repair::Hurt,
    /// It loses its power in the middle of the next turn of its log.
    pub(crate) cut_off: Option<Crash>,
    /// When it was last stopped it could elect itself, without asking anybody.
    pub(crate) alone: bool,
    /// When it was last stopped it was the only voter.
    pub(crate) only_voter: bool,
    /// How often it said since it last ran that its disk keeps it from running.
    pub(crate) halts: u64,
    /// It speaks with optional fields that its peers do not know.
    pub(crate) newer: bool,
    /// What was done to it and has had no effect yet.
    pub(crate) due: FaultSet,
    pub(crate) config: quorate::Config,
}

/// A run under way.
pub(crate) struct World<W: Workload> {
    pub(crate) options: Options,
    pub(crate) now: Nanos,
    sequence: u64,
    heap: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    slab: Vec<Option<Event>>,
    free: Vec<usize>,
    pub(crate) places: Vec<Place<W>>,
    pub(crate) net: Net,
    pub(crate) shadows: Shadows,
    pub(crate) invariants: Invariants,
    pub(crate) counts: FaultCounts,
    pub(crate) clients: Clients<W>,
    /// What is to be shown once everything healed.
    pub(crate) wanted: Option<crate::service::Wanted>,
    pub(crate) chaos: crate::chaos::Chaos,
    pub(crate) atlas: crate::atlas::Atlas,
    pub(crate) digest: Digest,
    pub(crate) events: u64,
    /// Above so many it is cut short.
    pub(crate) most_events: u64,
    pub(crate) decisions: crate::edits::Decisions,
    pub(crate) trace: bool,
    /// Where what the cores meet is noted, if anybody wants to know.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) disk_rng: Rng,
    pub(crate) clock_rng: Rng,
    /// Time during which some operation was under way.
    pub(crate) busy: Nanos,
    pub(crate) violation: Option<Violation>,
    /// What is counted by name, in any file of the world: `self.counters.add("lease reads", 1)`.
    pub(crate) counters: Counters,
    pub(crate) operator: crate::operator::Operator,
    /// The cluster as it is now: another one after each recovery.
    pub(crate) cluster: ClusterId,
    pub(crate) recoveries: crate::recovery::Recoveries,
    /// Membership changes that were completed.
    pub(crate) changes: u64,
    /// Membership changes under way, and where they were asked for.
    pub(crate) pending: std::collections::BTreeMap<CallId, usize>,
    packets: Packets,
    shipments: Vec<Shipment>,
    chores: Vec<Chore>,
    appended: Vec<(LogId, Batches)>,
    answers: Vec<(CallId, crate::clients::AnswerOf<W>)>,
    touched: Vec<usize>,
}

impl<W: Workload> World<W> {
    pub(crate) fn new(options: Options, workload: W, trace: bool) -> Self {
        let nodes = (options.voters + options.spares) as usize;
        with_book(|book| {
            *book = crate::machine::Book::default();
            book.deferrals = Some((options.deferrals, Rng::new(options.seed, 23)));
        });
        let mut world = Self {
            now: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
            places: Vec::new(),
            net: Net::new(nodes, &options),
            shadows: Shadows::new(),
            invariants: Invariants::new(options.mode),
            counts: FaultCounts::default(),
            clients: Clients::new(&options, workload),
            wanted: None,
            chaos: crate::chaos::Chaos::new(&options),
            atlas: crate::atlas::Atlas::default(),
            digest: Digest::default(),
            events: 0,
            most_events: MOST_EVENTS,
            decisions: crate::edits::Decisions::default(),
            trace,
            recorder: None,
            disk_rng: Rng::new(options.seed, 2),
            clock_rng: Rng::new(options.seed, 3),
            busy: 0,
            violation: None,
            counters: Counters::default(),
            operator: crate::operator::Operator::default(),
            cluster: CLUSTER,
            recoveries: crate::recovery::Recoveries::new(&options),
            changes: 0,
            pending: std::collections::BTreeMap::new(),
            packets: Vec::new(),
            shipments: Vec::new(),
            chores: Vec::new(),
            appended: Vec::new(),
            answers: Vec::new(),
            touched: Vec::new(),
            options,
        };
        world.name_situations();
        for number in 1..=nodes as u64 {
            world.add_place(NodeId(number));
        }
        world
    }

    fn add_place(&mut self, id: NodeId) {
        let incarnation = Incarnation(u128::from(id.0) << 64 | u128::from(self.disk_rng.bits() | 1));
        let skewed = self.options.faults.has(Fault::ClockSkew);
        let drifts = self.options.faults.has(Fault::ClockDrift);
        let second = 1_000_000_000;
        let offset = if skewed { self.clock_rng.below(120 * second) as i64 - 60 * second as i64 } else { 0 };
        let drift = if drifts { self.clock_rng.below(20_000) as i64 - 10_000 } else { 0 };
        // They count when the node first stamps times as a leader, and when it first wakes by its clock.
        let mut due = FaultSet::NONE;
        for (fault, wrong) in [(Fault::ClockSkew, offset), (Fault::ClockDrift, drift)] {
            due = if wrong == 0 { due } else { due.with(fault) };
        }
        self.places.push(Place {
            id,
            disk: SimDisk::new(Rng::new(self.options.seed, 100 + id.0), self.options.faults),
            incarnation,
            cluster: self.cluster,
            boot: 0,
            run: 0,
            running: None,
            down: Down::Stopped,
            possible: None,
            paused_until: None,
            asleep_since: None,
            deferred: Vec::new(),
            drift,
            offset,
            slow_disk: 1,
            slow_apply: 1,
            renewed: false,
            another_disk: false,
            impaired: false,
            fragile: false,
            damaged: false,
            hurt: crate::repair::Hurt::default(),
            alone: false,
            only_voter: false,
            cut_off: None,
            halts: 0,
            newer: false,
            due,
            config: self.options.config.clone(),
        });
    }

    // ---- time ----

    pub(crate) fn schedule(&mut self, at: Nanos, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot] = Some(event);
                slot
            }
            None => {
                self.slab.push(Some(event));
                self.slab.len() - 1
            }
        };
        self.sequence += 1;
        self.heap.push(Reverse((at.max(self.now), self.sequence, slot)));
    }

    /// Lets the next thing happen; `false` if there is none before `until`.
    pub(crate) fn advance(&mut self, until: Nanos) -> bool {
        let Some(Reverse((at, _, slot))) = self.heap.peek().copied() else { return false };
        if at > until {
            return false;
        }
        self.heap.pop();
        let Some(event) = self.slab[slot].take() else { return true };
        self.free.push(slot);
        if self.clients.is_busy() {
            self.busy += at - self.now;
        }
        self.now = at;
        if let Some(recorder) = &self.recorder {
            recorder.now(at);
        }
        self.events += 1;
        self.digest.word(at);
        self.handle(event);
        self.settle();
        true
    }

    /// Runs until something is wrong, or `until`, or `done` says so.
    pub(crate) fn run_until(&mut self, until: Nanos, mut done: impl FnMut(&Self) -> bool) -> bool {
        while self.violation.is_none() {
            if done(self) {
                return true;
            }
            if self.events >= self.most_events {
                self.fail(if self.most_events < MOST_EVENTS { CUT_SHORT } else { NEVER_ENDS });
                return false;
            }
            if !self.advance(until) {
                self.now = until;
                return done(self);
            }
        }
        false
    }

    pub(crate) fn fail(&mut self, violation: impl Into<Violation>) {
        let violation = violation.into();
        self.say(|| format!("VIOLATION: {violation}"));
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>14.6} {}", self.now as f64 / 1e9, text());
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(at) = self.place_of(&event)
            && self.places[at].paused_until.is_some()
        {
            return self.places[at].deferred.push(event);
        }
        match event {
            Event::Packet(flight) => self.on_packet(flight),
            Event::Snapshot { to, from, sender, shipment, arrival } => {
                self.on_snapshot(to, from, sender, *shipment, arrival);
            }
            Event::Lost { at, run, to } => {
                self.digest.word(3 + at as u64 * 64);
                self.digest.word(to.0);
                if let Some(running) = self.running(at, run) {
                    running.node.lost(to);
                    self.touch(at);
                }
            }
            Event::Timer { at, run } => {
                self.digest.word(4 + at as u64 * 64);
                let now = self.now;
                if let Some(running) = self.running(at, run)
                    && running.timer == Some(now)
                {
                    running.timer = None;
                    self.takes_effect(at, Fault::ClockDrift);
                    self.touch(at);
                }
            }
            Event::Wal { at, run } => self.on_wal(at, run),
            Event::Durable { at, run, write, result } => {
                self.digest.word(6 + at as u64 * 64);
                self.digest.word(write.0);
                self.digest.word(u64::from(result.is_ok()));
                if let Some(running) = self.running(at, run) {
                    running.deliver(write, result);
                    self.touch(at);
                }
            }
            Event::Chore { at, run, chore } => self.on_chore(at, run, chore),
            Event::Client(client) => self.on_client(client),
            Event::GiveUp { client, op } => self.on_give_up(client, op),
            Event::Retry { client, op } => self.attempt(client, op),
            Event::Session(client) => self.on_session(client),
            Event::Errand(id) => self.on_errand(id),
            Event::Late(call) => self.on_late(call),
            Event::Start(at) => self.start(at),
            Event::Resume(at) => self.resume(at),
            Event::Chaos => self.on_chaos(),
            Event::Heal(cure) => self.on_cure(cure),
            Event::Operator => self.on_operator(),
        }
    }

    fn place_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Packet(flight) => Some(flight.to),
            Event::Snapshot { to, .. } => Some(*to),
            Event::Lost { at, .. }
            | Event::Timer { at, .. }
            | Event::Wal { at, .. }
            | Event::Durable { at, .. }
            | Event::Chore { at, .. } => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn running(&mut self, at: usize, run: u64) -> Option<&mut Running<W::Machine>> {
        let place = &mut self.places[at];
        if place.run != run { None } else { place.running.as_mut() }
    }

    /// Its node takes a turn before time goes on.
    pub(crate) fn touch(&mut self, at: usize) {
        if !self.touched.contains(&at) {
            self.touched.push(at);
        }
    }

    // ---- looking ----

    /// Nodes that run and are not paused.
    pub(crate) fn up(&self) -> impl Iterator<Item = usize> + '_ {
        let up = |place: &Place<W>| place.running.is_some() && place.paused_until.is_none();
        self.places.iter().enumerate().filter(move |(_, place)| up(place)).map(|(at, _)| at)
    }

    /// The node that leads under the greatest leader id.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leading = |at: &usize| self.places[*at].running.as_ref().and_then(|running| running.seen.leading);
        self.up().filter(|at| leading(at).is_some()).max_by_key(leading)
    }
}

/// What nodes' reads saw, and as of which command, until the world takes it.
pub(crate) type SeenList<T> = Arc<Mutex<Vec<(CallId, u64, T)>>>;

impl<W: Workload> Place<W> {
    /// It has lost something for good, and waits for the operator.
    pub(crate) fn wants_back(&self) -> bool {
        self.impaired && !self.damaged && !self.hurt.mending
    }

    /// Whether it misses something, whatever else was done to its disk since.
    pub(crate) fn lacks(&self) -> bool {
        self.renewed || self.hurt.mending
    }

    /// Whether its log has nothing to write, and has said that everything is durable.
    pub(crate) fn is_disk_idle(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.wal.is_settled())
    }
}

/// Something for the core, by hand.
pub(crate) fn trigger<W: Workload>(world: &mut World<W>, at: usize, event: CoreEvent) {
    if let Some(running) = &world.places[at].running {
        running.node.trigger(event);
        world.touch(at);
    }
}
