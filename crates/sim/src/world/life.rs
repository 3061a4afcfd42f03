//! Processes: how they start, stop, stand still and go on.

use std::path::Path;
use std::sync::Arc;

use quorate_core::{Membership, Node as Member, NodeId};
use quorate_wal::OnDamage;

use super::{Down, Event, World};
use crate::disk::{Crash, MACHINE_DIRECTORY};
use crate::fault::Fault;
use crate::goals::Goal;
use crate::history::Nanos;
use crate::invariants::Invariants;
use crate::machine::with_book;
use crate::process::{Running, Shadow, SkewedClock, Start, start};
use crate::record::{Found, What};
use crate::rng::Rng;
use crate::rules::{RuleKind, sound};
use crate::situations;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    pub(crate) fn boot_cluster(&mut self) {
        for at in 0..self.places.len() {
            self.start(at);
        }
        self.settle();
        let voters = self.places.iter().take(self.options.voters as usize);
        let mut membership = Membership::majority(
            voters.map(|place| (place.id, place.incarnation, Member::at(format!("node-{}", place.id)))),
        );
        let (kind, ids): (_, Vec<NodeId>) = (self.options.first_rules, membership.nodes.keys().copied().collect());
        if kind != RuleKind::Majority {
            let mut chance = Rng::new(self.options.seed, 15);
            let (elect, commit) = sound(&mut chance, kind, self.options.mode, &ids);
            self.say(|| format!("the first membership elects by {elect}, commits by {commit}"));
            membership.configs.iter_mut().for_each(|set| (set.elect, set.commit) = (elect.clone(), commit.clone()));
            self.reach(Goal::FirstRules);
        }
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
        let waits_for_a_disk = self.chaos.over && self.places[at].disk.has_bad_sector();
        if self.places[at].running.is_some() || self.is_kept_down(at) || waits_for_a_disk {
            return;
        }
        let seed = self.clock_rng.bits();
        let place = &mut self.places[at];
        place.run += 1;
        place.deferred.clear();
        (place.paused_until, place.asleep_since) = (None, None);
        with_book(|book| book.on_start(place.id.0));
        let disk = Arc::new(place.disk.clone());
        let machine = match self.clients.workload.open(disk, Path::new(MACHINE_DIRECTORY)) {
            Ok(machine) => machine,
            Err(error) => {
                let errors = place.disk.damage();
                return self.halted(at, format!("its state machine failed to open: {error}"), errors);
            }
        };
        let clock = SkewedClock::new(self.now, place.drift, place.offset);
        let given = Start {
            now: self.now,
            cluster: place.cluster,
            mode: self.options.mode,
            config: place.config.clone(),
            seed,
            segment_bytes: self.options.segment_bytes,
            check_steps: self.options.check_steps,
            on_damage: if self.options.mends { OnDamage::Mend } else { OnDamage::Refuse },
            clock,
            disk: &place.disk,
            incarnation: place.incarnation,
        };
        let (id, run) = (place.id, place.run);
        self.digest.word(8 + at as u64 * 64);
        let (started, mended) = start(id, given, machine);
        if mended.any() {
            self.on_mended(at, mended);
        }
        match started {
            Ok(mut running) => {
                self.observe(id, &mut running);
                let place = &mut self.places[at];
                let core = running.node.core();
                let possible = place.possible.take().unwrap_or_else(|| vec![Shadow::default()]);
                let checked = match place.hurt.mending {
                    true => Invariants::on_mended_boot(core, &possible),
                    false => Invariants::on_boot(core, &possible),
                };
                // A log that is mended is a new one; from others the next damage may uncover what was cut off.
                let past = possible.last().filter(|_| !mended.log).map(|disk| disk.past.clone()).unwrap_or_default();
                let lost = possible[0].lost.clone();
                let mut found = Shadow { vote: core.vote(), log: core.log().clone(), lost, past };
                if place.hurt.mending {
                    found.lost.push(possible[0].log.clone());
                    place.hurt.begin(core);
                }
                self.shadows.insert((id, place.incarnation), found);
                situations::at_start(&mut self.counters, running.node.core());
                place.boot = running.starts.boot();
                place.running = Some(running);
                place.disk.is_at_work();
                place.halts = 0;
                place.hurt.was_read();
                self.say(|| format!("node {id} starts, run {run}"));
                if let Err(violation) = checked {
                    self.fail(violation);
                }
                self.touch(at);
            }
            Err(error) => {
                self.say(|| format!("node {id} cannot start: {error}"));
                self.refused_to_start(at, error);
            }
        }
    }

    /// Stops a process; `crash` is what becomes of its unsynced writes.
    pub(crate) fn stop(&mut self, at: usize, crash: Crash) {
        let chance = self.disk_rng.bits();
        let place = &mut self.places[at];
        if let Some(running) = &mut place.running {
            let at_work = running.wal.has_work() || place.cut_off.is_some();
            if at_work && !chance.is_multiple_of(4) {
                // In the middle of a turn of the log.
                place.disk.die_in(chance / 4 % 6);
                running.wal.turn(running.clock.at(self.now));
            }
            let durable = self.shadows.entry((place.id, place.incarnation)).or_default();
            running.take_done(durable);
            let possible = running.possible(durable);
            let own = |id, incarnation| ((id, incarnation) == (place.id, place.incarnation)).then_some(());
            let membership = running.node.core().membership();
            place.alone = membership.elect_reached(own).is_some();
            place.only_voter = membership.voter_ids() == [place.id].into();
            place.possible = Some(possible);
        }
        self.record(at, What::Stopped);
        let place = &mut self.places[at];
        place.running = None;
        place.cut_off = None;
        place.run += 1;
        place.down = Down::Stopped;
        let deferred = std::mem::take(&mut place.deferred);
        (place.paused_until, place.asleep_since) = (None, None);
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
        self.counters.add(situations::BAD_SECTOR_AGAIN, damage.bad_sector_reads);
        self.counters.add(situations::ROTTEN_LOG, damage.rotten_log_reads);
        self.counters.add(situations::ROTTEN_SNAPSHOT, damage.rotten_snapshot_reads);
        let id = self.places[at].id;
        self.on_down();
        self.say(|| format!("node {id} stops, {crash:?}"));
    }

    /// Notes what a node found and every step of its core, if the run is recorded.
    fn observe(&self, id: NodeId, running: &mut Running<W::Machine>) {
        if let Some(recorder) = &self.recorder {
            recorder.note(id, What::Started(Box::new(Found::of(running.node.core()))));
            running.node.observe_steps(recorder.observer(id));
        }
    }

    /// Notes it, if the run is recorded.
    pub(crate) fn record(&self, at: usize, what: What) {
        if let Some(recorder) = &self.recorder {
            recorder.note(self.places[at].id, what);
        }
    }

    pub(crate) fn pause(&mut self, at: usize, until: Nanos) {
        if self.places[at].running.is_some() && self.places[at].paused_until.is_none() {
            self.places[at].paused_until = Some(until);
            self.schedule(until, Event::Resume(at));
        }
    }

    pub(super) fn resume(&mut self, at: usize) {
        if self.places[at].paused_until.is_some_and(|until| until <= self.now) {
            let now = self.now;
            let place = &mut self.places[at];
            place.paused_until = None;
            let deferred = std::mem::take(&mut place.deferred);
            let slept = place.asleep_since.take().map_or(0, |since| now - since);
            // Its timers are late, and what comes of them is seen to at once.
            let mut wal = false;
            if let Some(running) = &mut place.running {
                running.clock.stood_still(slept);
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
}
