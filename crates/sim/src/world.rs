//! The world: virtual time, the events in it, and the nodes that they happen to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::virtual_node::{CallId, Chore, ChoreKind};
use quorate::{ReceivedSnapshot, SnapshotData, StorageError};
use quorate_core::{
    ClusterId, Event as CoreEvent, Incarnation, LogId, Membership, Node as Member, NodeId, SendOutcome, WriteId,
};
use quorate_wal::Wake;
use quorate_wire::{Batches, Packet};

use crate::clients::Clients;
use crate::digest::{Digest, hash_of};
use crate::disk::{Crash, SimDisk};
use crate::fault::{Fault, FaultCounts};
use crate::history::Nanos;
use crate::invariants::{Invariants, Shadows};
use crate::machine::with_book;
use crate::net::{Fate, Flight, Net, Shipment};
use crate::options::Options;
use crate::process::{Running, Shadow, SkewedClock, Start, start};
use crate::rng::Rng;
use crate::workload::Workload;

/// The cluster's identity.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5175_6f72_6174_6500_0000_0000_0000_0001);

/// Something that happens to a process is void once the process is another: its run is part of the event.
pub(crate) enum Event {
    Packet(Flight),
    Snapshot {
        to: usize,
        from: usize,
        incarnation: Incarnation,
        shipment: Box<Shipment>,
        arrives: bool,
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
    Start(usize),
    Resume(usize),
    Chaos,
    Heal(crate::chaos::Cure),
    Operator,
}

/// Why a run failed.
pub(crate) type Violation = String;

/// Why a node does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// It will be started.
    Stopped,
    /// It refused to start, or to go on, and said why.
    Halted(String),
}

/// A place for a node: its disk stays when the process goes.
pub(crate) struct Place<W: Workload> {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) incarnation: Incarnation,
    /// Counts the processes here.
    pub(crate) run: u64,
    pub(crate) running: Option<Running<W::Machine>>,
    pub(crate) down: Down,
    /// What the disk may hold if the process was stopped.
    pub(crate) possible: Option<Vec<Shadow>>,
    pub(crate) paused_until: Option<Nanos>,
    deferred: Vec<Event>,
    pub(crate) drift: i64,
    pub(crate) offset: i64,
    pub(crate) slow_disk: u64,
    pub(crate) slow_apply: u64,
    /// It lost something, and is not counted on until the operator has dealt with it.
    pub(crate) impaired: bool,
    /// Its disk is damaged where its log cannot tell before it said that everything is durable.
    pub(crate) fragile: bool,
    /// Its disk holds damage that was not found yet, or not dealt with.
    pub(crate) damaged: bool,
    /// It loses its power in the middle of the next turn of its log.
    pub(crate) cut_off: Option<Crash>,
    /// When it was last stopped it could elect itself, without asking anybody.
    pub(crate) alone: bool,
    /// How often it halted since it last ran.
    pub(crate) halts: u64,
    /// It speaks with optional fields that its peers do not know.
    pub(crate) newer: bool,
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
    pub(crate) chaos: crate::chaos::Chaos,
    pub(crate) atlas: crate::atlas::Atlas,
    pub(crate) digest: Digest,
    pub(crate) events: u64,
    pub(crate) decisions: crate::edits::Decisions,
    pub(crate) trace: bool,
    pub(crate) disk_rng: Rng,
    pub(crate) clock_rng: Rng,
    /// Time during which some operation was under way.
    pub(crate) busy: Nanos,
    pub(crate) violation: Option<Violation>,
    /// Membership changes that were completed.
    pub(crate) changes: u64,
    /// Membership changes under way, and where they were asked for.
    pub(crate) pending: std::collections::BTreeMap<CallId, usize>,
    packets: Vec<(NodeId, bytes::Bytes, bool)>,
    shipments: Vec<Shipment>,
    chores: Vec<Chore>,
    appended: Vec<(LogId, Batches)>,
    answers: Vec<(CallId, crate::clients::AnswerOf<W>)>,
    touched: Vec<usize>,
}

impl<W: Workload> World<W> {
    pub(crate) fn new(options: Options, workload: W, trace: bool) -> Self {
        let nodes = (options.voters + options.spares) as usize;
        with_book(|book| *book = crate::machine::Book::default());
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
            chaos: crate::chaos::Chaos::new(&options),
            atlas: crate::atlas::Atlas::default(),
            digest: Digest::default(),
            events: 0,
            decisions: crate::edits::Decisions::default(),
            trace,
            disk_rng: Rng::new(options.seed, 2),
            clock_rng: Rng::new(options.seed, 3),
            busy: 0,
            violation: None,
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
        self.counts.add(Fault::ClockSkew, u64::from(skewed));
        self.counts.add(Fault::ClockDrift, u64::from(drifts));
        self.places.push(Place {
            id,
            disk: SimDisk::new(Rng::new(self.options.seed, 100 + id.0)),
            incarnation,
            run: 0,
            running: None,
            down: Down::Stopped,
            possible: None,
            paused_until: None,
            deferred: Vec::new(),
            drift,
            offset,
            slow_disk: 1,
            slow_apply: 1,
            impaired: false,
            fragile: false,
            damaged: false,
            alone: false,
            cut_off: None,
            halts: 0,
            newer: false,
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
            Event::Snapshot { to, from, incarnation, shipment, arrives } => {
                self.on_snapshot(to, from, incarnation, *shipment, arrives);
            }
            Event::Lost { at, run, to } => {
                self.digest.word(3);
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
                    self.touch(at);
                }
            }
            Event::Wal { at, run } => self.on_wal(at, run),
            Event::Durable { at, run, write, result } => {
                self.digest.word(6 + write.0 * 64);
                if let Some(running) = self.running(at, run) {
                    running.deliver(write, result);
                    self.touch(at);
                }
            }
            Event::Chore { at, run, chore } => {
                self.digest.word(7 + at as u64 * 64);
                let id = self.places[at].id;
                if self.running(at, run).is_some() {
                    with_book(|book| book.node = id.0);
                    chore.run();
                    self.touch(at);
                }
            }
            Event::Client(client) => self.on_client(client),
            Event::GiveUp { client, op } => self.on_give_up(client, op),
            Event::Retry { client, op } => self.attempt(client, op),
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

    // ---- processes ----

    pub(crate) fn boot_cluster(&mut self) {
        for at in 0..self.places.len() {
            self.start(at);
        }
        self.settle();
        let voters = self.places.iter().take(self.options.voters as usize);
        let mut membership = Membership::majority(
            voters.map(|place| (place.id, place.incarnation, Member::at(format!("node-{}", place.id)))),
        );
        if self.options.lease_reads {
            membership.settings.lease = quorate_core::LeasePolicy::LeaseReads;
        }
        if let Some(running) = &mut self.places[0].running {
            running.node.initialize(0, membership);
        }
        self.touch(0);
        self.settle();
    }

    pub(crate) fn start(&mut self, at: usize) {
        if self.places[at].running.is_some() {
            return;
        }
        let seed = self.clock_rng.bits();
        let machine = self.clients.workload.machine();
        let place = &mut self.places[at];
        place.run += 1;
        place.deferred.clear();
        place.paused_until = None;
        with_book(|book| book.node = place.id.0);
        let clock = SkewedClock::new(self.now, place.drift, place.offset);
        let given = Start {
            now: self.now,
            cluster: CLUSTER,
            mode: self.options.mode,
            config: place.config.clone(),
            seed,
            segment_bytes: self.options.segment_bytes,
            check_steps: self.options.check_steps,
            clock,
            disk: &place.disk,
            incarnation: place.incarnation,
        };
        let (id, run) = (place.id, place.run);
        self.digest.word(8 + at as u64 * 64);
        match start(id, given, machine) {
            Ok(running) => {
                let possible = place.possible.take().unwrap_or_else(|| vec![Shadow::default()]);
                let checked = Invariants::on_boot(running.node.core(), &possible);
                let found = Shadow { vote: running.node.core().vote(), log: running.node.core().log().clone() };
                self.shadows.insert((id, place.incarnation), found);
                place.running = Some(running);
                place.halts = 0;
                self.say(|| format!("node {id} starts, run {run}"));
                if let Err(violation) = checked {
                    self.fail(violation);
                }
                self.touch(at);
            }
            Err(error) => {
                self.say(|| format!("node {id} cannot start: {error}"));
                self.halted(at, error);
            }
        }
    }

    /// A node says that it cannot go on, and why.
    pub(crate) fn halted(&mut self, at: usize, why: String) {
        let place = &mut self.places[at];
        place.running = None;
        place.run += 1;
        place.down = Down::Halted(why);
        self.on_halt(at);
    }

    /// Stops a process; `crash` is what becomes of its unsynced writes.
    pub(crate) fn stop(&mut self, at: usize, crash: Crash) {
        let chance = self.disk_rng.bits();
        let place = &mut self.places[at];
        if let Some(running) = &mut place.running {
            if running.wal.has_work() && !chance.is_multiple_of(4) {
                // In the middle of a turn of the log.
                place.disk.die_in(chance / 4 % 10);
                running.wal.turn(running.clock.at(self.now));
            }
            let durable = self.shadows.entry((place.id, place.incarnation)).or_default();
            running.take_done(durable);
            let possible = running.possible(durable);
            let own = |id, incarnation| ((id, incarnation) == (place.id, place.incarnation)).then_some(());
            place.alone = running.node.core().membership().elect_reached(own).is_some();
            place.possible = Some(possible);
        }
        place.running = None;
        place.cut_off = None;
        place.run += 1;
        place.down = Down::Stopped;
        let deferred = std::mem::take(&mut place.deferred);
        place.paused_until = None;
        place.disk.stop(crash);
        let damage = place.disk.take_damage();
        self.fail_deferred(deferred);
        self.counts.add(Fault::LostUnsynced, damage.lost_sectors.min(1));
        self.counts.add(Fault::TornSector, damage.torn_sectors.min(1));
        self.counts.add(Fault::ZeroTail, damage.zero_tails.min(1));
        self.counts.add(Fault::ReadError, damage.read_errors);
        self.counts.add(Fault::WriteError, damage.write_errors);
        self.counts.add(Fault::SyncError, damage.sync_errors);
        self.counts.add(Fault::DiskFull, damage.full_errors.min(1));
        self.counts.add(Fault::LostWrite, damage.lost_writes);
        self.counts.add(Fault::MisdirectedWrite, damage.misdirected_writes);
        let id = self.places[at].id;
        self.say(|| format!("node {id} stops, {crash:?}"));
    }

    pub(crate) fn pause(&mut self, at: usize, until: Nanos) {
        if self.places[at].running.is_some() && self.places[at].paused_until.is_none() {
            self.places[at].paused_until = Some(until);
            self.schedule(until, Event::Resume(at));
        }
    }

    fn resume(&mut self, at: usize) {
        if self.places[at].paused_until.is_some_and(|until| until <= self.now) {
            let now = self.now;
            let place = &mut self.places[at];
            place.paused_until = None;
            let deferred = std::mem::take(&mut place.deferred);
            // Its timers are late, and what comes of them is seen to at once.
            let mut wal = false;
            if let Some(running) = &mut place.running {
                running.timer = None;
                wal = running.wal_at.take().is_some();
                self.touch(at);
            }
            if wal {
                self.schedule_wal(at, now);
            }
            for event in deferred {
                match event {
                    Event::Timer { .. } | Event::Wal { .. } => {}
                    event => self.schedule(now, event),
                }
            }
        }
    }

    // ---- messages ----

    fn on_packet(&mut self, flight: Flight) {
        self.digest.word(1 + flight.to as u64 * 64);
        self.digest.word(hash_of(&flight.bytes));
        let from = self.places[flight.from].id;
        let to = self.places[flight.to].id;
        let Some(running) = &mut self.places[flight.to].running else {
            return self.refuse(flight);
        };
        if !running.meets(from, flight.incarnation, flight.boot) {
            self.say(|| format!("{to} refuses to hear {from}"));
            return self.on_deaf(flight);
        }
        match Packet::decode(CLUSTER, flight.bytes) {
            Ok(packet) => {
                if self.trace {
                    println!("{:>14.6} {from} -> {to} {}", self.now as f64 / 1e9, brief(&packet));
                }
                running.node.packet(from, flight.incarnation, packet);
                self.touch(flight.to);
            }
            Err(error) => self.fail(format!("node {to} cannot decode a message of {from}: {error}")),
        }
    }

    /// A paused process stops: the senders of the snapshots on their way to it hear that they did not arrive.
    fn fail_deferred(&mut self, deferred: Vec<Event>) {
        for event in deferred {
            if let Event::Snapshot { to, from, incarnation, shipment, .. } = event {
                self.schedule(self.now, Event::Snapshot { to, from, incarnation, shipment, arrives: false });
            }
        }
    }

    /// A handshake failed: with an older copy of a disk, or a connection of the past, it must. Otherwise the receiver
    /// could not write down whom it met, and somebody starts it again.
    fn on_deaf(&mut self, flight: Flight) {
        let sender = &self.places[flight.from];
        let current = sender.running.as_ref().map(|running| running.boot) == Some(flight.boot);
        if current && sender.incarnation == flight.incarnation && !sender.damaged {
            self.stop(flight.to, Crash::KeepAll);
            self.halted(flight.to, "it cannot write down whom it met".to_owned());
        }
    }

    /// Nobody listens there: the sender's connection is refused.
    fn refuse(&mut self, flight: Flight) {
        let peer = self.places[flight.to].id;
        if !self.net.is_cut(flight.to, flight.from)
            && let Some(running) = &self.places[flight.from].running
            && self.places[flight.from].paused_until.is_none()
        {
            running.node.refused(peer);
            if flight.entries {
                running.node.lost(peer);
            }
            self.touch(flight.from);
        }
    }

    fn on_snapshot(&mut self, to: usize, from: usize, incarnation: Incarnation, shipment: Shipment, arrives: bool) {
        self.digest.word(2 + to as u64 * 64);
        let Shipment { group, header, meta, bytes, done, .. } = shipment;
        let sender = self.places[from].id;
        let arrived = arrives && !self.net.is_cut(from, to);
        match &self.places[to].running {
            Some(running) if arrived => {
                let data = SnapshotData::Memory(bytes);
                running.node.snapshot(sender, incarnation, ReceivedSnapshot { group, header, meta, data });
                done(SendOutcome::Delivered);
                self.touch(to);
                self.say(|| format!("{sender} -> {} snapshot", to + 1));
            }
            _ => done(SendOutcome::Failed),
        }
        if self.places[from].running.is_some() && self.places[from].paused_until.is_none() {
            self.touch(from);
        }
    }

    fn send(&mut self, from: usize, to: NodeId, bytes: bytes::Bytes, entries: bool) {
        let Some(to) = self.places.iter().position(|place| place.id == to) else { return };
        let place = &self.places[from];
        let boot = place.running.as_ref().map_or(0, |running| running.boot);
        let bytes = if place.newer { with_unknown_fields(&bytes) } else { bytes };
        let flight = Flight { from, to, incarnation: place.incarnation, boot, bytes, entries };
        let (run, now, peer) = (place.run, self.now, self.places[to].id);
        match self.net.send(now, &flight, &mut self.counts) {
            Fate::At(at) => self.schedule(at, Event::Packet(flight)),
            Fate::Twice(at, again) => {
                self.schedule(at, Event::Packet(flight.clone()));
                self.schedule(again, Event::Packet(flight));
            }
            Fate::Corrupt => {
                let damaged = self.net.damage(&flight.bytes);
                // The frame's checksum keeps it from the node; decoding it must be harmless all the same.
                drop(Packet::decode(CLUSTER, damaged));
                let later = now + self.options.latency.as_nanos() as u64;
                self.schedule(later, Event::Lost { at: from, run, to: peer });
            }
            Fate::Lost if entries && self.net.is_cut(from, to) => {}
            Fate::Lost => {}
        }
    }

    // ---- disks ----

    fn on_wal(&mut self, at: usize, run: u64) {
        self.digest.word(5 + at as u64 * 64);
        let now = self.now;
        let Some(running) = self.running(at, run) else { return };
        if running.wal_at != Some(now) {
            return;
        }
        running.wal_at = None;
        if let Some(crash) = self.places[at].cut_off.take() {
            self.stop_for_a_while(at, crash);
            return;
        }
        let Some(running) = self.running(at, run) else { return };
        let wake = running.wal.turn(running.clock.at(now));
        self.collect_done(at);
        match wake {
            Wake::Again => self.schedule_wal(at, now + 1000),
            Wake::At(instant) => {
                let when = self.places[at].running.as_ref().map(|running| running.clock.when(instant));
                if let Some(when) = when {
                    self.schedule_wal(at, when);
                }
            }
            Wake::Idle => {}
        }
    }

    fn collect_done(&mut self, at: usize) {
        let place = &mut self.places[at];
        let Some(running) = &mut place.running else { return };
        let durable = self.shadows.entry((place.id, place.incarnation)).or_default();
        let done = running.take_done(durable);
        let run = place.run;
        let shuffled = self.options.faults.has(Fault::OutOfOrderCompletion) && !self.net.quiet;
        let mut times: Vec<Nanos> = done.iter().map(|_| self.now + 1000).collect();
        if shuffled && done.len() > 1 {
            for time in &mut times {
                *time += self.disk_rng.below(self.options.disk_latency.as_nanos() as u64 * 4 + 1);
            }
            self.counts.add(Fault::OutOfOrderCompletion, u64::from(!times.is_sorted()));
        }
        for ((write, result), time) in done.into_iter().zip(times) {
            self.schedule(time, Event::Durable { at, run, write, result });
        }
    }

    pub(crate) fn schedule_wal(&mut self, at: usize, when: Nanos) {
        let place = &mut self.places[at];
        let run = place.run;
        let Some(running) = &mut place.running else { return };
        if running.wal_at.is_none_or(|earlier| when < earlier) {
            running.wal_at = Some(when);
            self.schedule(when, Event::Wal { at, run });
        }
    }

    // ---- after every event ----

    /// Steps every node that something was brought to, and takes what follows from it.
    pub(crate) fn settle(&mut self) {
        while let Some(at) = self.touched.pop() {
            if self.violation.is_some() {
                return self.touched.clear();
            }
            self.turn(at);
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.now;
        let place = &mut self.places[at];
        if place.paused_until.is_some() {
            return;
        }
        let (id, run) = (place.id, place.run);
        let Some(running) = &mut place.running else { return };
        with_book(|book| book.node = id.0);
        running.node.turn(running.clock.at(now), running.clock.wall(now));
        running.take_appended(&mut self.appended);
        for (prev, batches) in self.appended.drain(..) {
            if let Err(violation) = self.invariants.on_append(prev, &batches) {
                self.violation.get_or_insert(violation);
            }
        }
        let before = running.seen;
        match self.invariants.after_step(running.node.core(), run, before, &self.shadows) {
            Ok(seen) => {
                running.seen = seen;
                if self.trace && seen.leading.is_some() && seen.leading != before.leading {
                    println!("{:>14.6} node {id} leads as {:?}", now as f64 / 1e9, seen.leading);
                }
            }
            Err(violation) => {
                self.violation.get_or_insert(violation);
            }
        }
        if let Some(violation) = with_book(|book| book.violation.take()) {
            self.violation.get_or_insert(violation);
        }
        running.node.take_answers(&mut self.answers);
        running.node.take_chores(&mut self.chores);
        running.outbox.take(&mut self.packets, &mut self.shipments);
        let deadline = running.node.deadline().map(|instant| running.clock.when(instant));
        let closed = running.node.closed().map(ToString::to_string);
        let work = running.wal.has_work();
        if let Some(due) = deadline
            && running.timer.is_none_or(|timer| due < timer)
        {
            running.timer = Some(due.max(now + 1));
            let due = due.max(now + 1);
            self.schedule(due, Event::Timer { at, run });
        }
        self.take_effects(at, run, work);
        if let Some(reason) = closed {
            self.say(|| format!("node {id} closes: {reason}"));
            self.stop(at, Crash::KeepAll);
            self.halted(at, reason);
        }
    }

    fn take_effects(&mut self, at: usize, run: u64, work: bool) {
        let mut packets = std::mem::take(&mut self.packets);
        for (to, bytes, entries) in packets.drain(..) {
            self.send(at, to, bytes, entries);
        }
        self.packets = packets;
        let incarnation = self.places[at].incarnation;
        for shipment in std::mem::take(&mut self.shipments) {
            let Some(to) = self.places.iter().position(|place| place.id == shipment.to) else { continue };
            let time = self.net.send_snapshot(at, to, shipment.bytes.len());
            let later = self.now + time.unwrap_or(self.options.latency.as_nanos() as u64 * 4);
            let shipment = Box::new(shipment);
            let arrives = time.is_some();
            self.schedule(later, Event::Snapshot { to, from: at, incarnation, shipment, arrives });
        }
        for chore in std::mem::take(&mut self.chores) {
            let time = match chore.kind {
                ChoreKind::Apply => self.disk_rng.between(1_000, 50_000) * self.places[at].slow_apply,
                ChoreKind::Fetch | ChoreKind::Ship => self.disk_rng.between(10_000, 200_000),
            };
            self.schedule(self.now + time, Event::Chore { at, run, chore });
        }
        if work {
            let latency = self.options.disk_latency.as_nanos() as u64;
            let time = (latency / 2 + self.disk_rng.below(latency + 1)) * self.places[at].slow_disk;
            self.schedule_wal(at, self.now + time);
        }
        let mut answers = std::mem::take(&mut self.answers);
        for (call, answer) in answers.drain(..) {
            self.on_answer(at, call, answer);
        }
        self.answers = answers;
        self.take_seen();
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

/// A message as a later version might send it: with fields at the end that this one does not know.
fn with_unknown_fields(bytes: &bytes::Bytes) -> bytes::Bytes {
    const UNKNOWN: [u8; 5] = [7; 5];
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[4..8]);
    let fields = u32::from_le_bytes(length);
    let end = quorate_wire::PACKET_HEADER_BYTES + fields as usize;
    let longer = (fields + UNKNOWN.len() as u32).to_le_bytes();
    [&bytes[..4], &longer, &bytes[8..end], &UNKNOWN, &bytes[end..]].concat().into()
}

/// A message for a trace.
fn brief(packet: &Packet) -> String {
    format!("{:?}", packet.message)
}

/// What nodes' reads saw, until the world takes it.
pub(crate) type SeenList<T> = Arc<Mutex<Vec<(CallId, T)>>>;

impl<W: Workload> Place<W> {
    /// Whether its log has nothing to write, and has said that everything is durable.
    pub(crate) fn is_disk_idle(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.wal_at.is_none() && !running.wal.has_work())
    }
}

/// Something for the core, by hand.
pub(crate) fn trigger<W: Workload>(world: &mut World<W>, at: usize, event: CoreEvent) {
    if let Some(running) = &world.places[at].running {
        running.node.trigger(event);
        world.touch(at);
    }
}
