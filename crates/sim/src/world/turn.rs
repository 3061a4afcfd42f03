//! Turns of logs and nodes: every event ends with a step of each node that something was brought to, and what follows
//! from it.

use quorate::virtual_node::{Chore, ChoreKind};
use quorate_wal::Wake;

use super::{Event, MOST_TURNS, NEVER_ENDS, World};
use crate::disk::Crash;
use crate::fault::Fault;
use crate::history::Nanos;
use crate::machine::with_book;
use crate::situations;
use crate::workload::Workload;

/// About as many calls a machine makes of its disk to apply a batch.
const MOST_CALLS: u64 = 14;

impl<W: Workload> World<W> {
    // ---- disks ----

    pub(super) fn on_wal(&mut self, at: usize, run: u64) {
        self.digest.word(5 + at as u64 * 64);
        let now = self.now;
        let Some(running) = self.running(at, run) else { return };
        if running.wal_at != Some(now) {
            return;
        }
        running.wal_at = None;
        if let Some(crash) = self.places[at].cut_off
            && !(self.places[at].disk.shelters() && self.disk_rng.chance(600))
            && self.stop_for_a_while(at, crash)
        {
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

    /// Work that may block is done. A durable machine is best killed in the middle of it.
    pub(super) fn on_chore(&mut self, at: usize, run: u64, chore: Chore) {
        self.digest.word(7 + at as u64 * 64);
        if self.running(at, run).is_none() {
            return;
        }
        let place = &self.places[at];
        let is_machines = chore.kind == ChoreKind::Apply && !place.fragile && place.disk.shelters();
        let cut_off = place.cut_off.filter(|_| is_machines);
        if cut_off.is_some() {
            place.disk.die_in(self.disk_rng.below(MOST_CALLS));
        }
        with_book(|book| book.node = place.id.0);
        chore.run();
        match cut_off {
            Some(crash) => drop(self.stop_for_a_while(at, crash)),
            None => self.touch(at),
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

    // ---- nodes ----

    /// Steps every node that something was brought to, and takes what follows from it.
    pub(crate) fn settle(&mut self) {
        let mut turns = 0;
        while let Some(at) = self.touched.pop() {
            turns += 1;
            if turns > MOST_TURNS {
                self.fail(NEVER_ENDS);
            }
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
        let current = place.cluster == self.cluster;
        for (prev, batches) in self.appended.drain(..) {
            if current {
                self.operator.memberships.on_append(&batches);
            }
            if let Err(violation) = self.invariants.on_append(prev, &batches) {
                self.violation.get_or_insert(violation);
            }
        }
        let before = running.seen;
        let mut elected = false;
        match self.invariants.after_step(running.node.core(), run, before, &self.shadows) {
            Ok(seen) => {
                running.seen = seen;
                elected = seen.leading.is_some() && seen.leading != before.leading;
                let handed_over = running.left_for_its_disk(before, running.clock.at(now));
                self.counters.add(situations::LEFT_FOR_ITS_DISK, handed_over.into());
                let loaded = self.clients.is_busy();
                situations::after_step(&mut self.counters, running.node.core(), before, seen, loaded);
                if self.trace && elected {
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
        if elected {
            self.takes_effect(at, Fault::ClockSkew);
            self.on_elected(at);
        }
        self.watch_old_node(at, before.commit);
        self.watch_membership(at);
        self.take_effects(at, run, work);
        if let Some(reason) = closed {
            self.say(|| format!("node {id} closes: {reason}"));
            let errors = self.places[at].disk.damage();
            self.stop(at, Crash::KeepAll);
            self.halted(at, reason, errors);
        }
    }

    fn take_effects(&mut self, at: usize, run: u64, work: bool) {
        let mut packets = std::mem::take(&mut self.packets);
        for (to, bytes, carries) in packets.drain(..) {
            self.send(at, to, bytes, carries);
        }
        self.packets = packets;
        for shipment in std::mem::take(&mut self.shipments) {
            self.ship(at, shipment);
        }
        for chore in std::mem::take(&mut self.chores) {
            if chore.kind == ChoreKind::Apply && self.places[at].slow_apply > 1 {
                self.takes_effect(at, Fault::SlowApply);
            }
            let time = match chore.kind {
                ChoreKind::Apply => self.disk_rng.between(1_000, 50_000) * self.places[at].slow_apply,
                // Long enough for entries to be committed and applied meanwhile.
                ChoreKind::Build => self.disk_rng.below(self.options.latency.as_nanos() as u64 * 4 + 1),
                ChoreKind::Fetch | ChoreKind::Ship => self.disk_rng.between(10_000, 200_000),
            };
            self.schedule(self.now + time, Event::Chore { at, run, chore });
        }
        if work {
            if self.places[at].slow_disk > 1 {
                self.takes_effect(at, Fault::SlowDisk);
            }
            let latency = self.options.disk_latency.as_nanos() as u64;
            let time = (latency / 2 + self.disk_rng.below(latency + 1)) * self.places[at].slow_disk;
            self.schedule_wal(at, self.now + time);
        }
        let mut answers = std::mem::take(&mut self.answers);
        for (call, answer) in answers.drain(..) {
            self.hash_answer(at, call, &answer);
            situations::on_answer(&mut self.counters, &answer);
            self.on_answer(at, call, answer);
        }
        self.answers = answers;
        self.take_seen();
    }
}
