//! What goes wrong, when, and for how long.

use crate::core_phase::CorePhase;
use crate::disk::Crash;
use crate::edits::Decision;
use crate::fault::Fault;
use crate::goals::Goal;
use crate::history::Nanos;
use crate::machine::with_book;
use crate::net::{Arrival, HeldSnapshot};
use crate::options::Options;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Down, Event, World};

/// Ends a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    Network,
    SlowDisk(usize),
    SlowApply(usize),
    /// There is space on the disk again.
    Space(usize),
    /// A log that may have lost a write is opened again.
    Expose(usize),
    /// A node whose disk was copied gets the old copy back, as soon as it can be told from the disk; so many tries.
    OldDisk(usize, u32),
    /// A node with an old disk gets a blank one.
    Replace(usize),
    /// Messages suffer again.
    Loud,
    /// A leader dies, if it still leads: what it was asked to do is half done.
    Strike(usize),
    /// A leader is cut off.
    CutOff(usize),
}

/// Who decides what goes wrong.
pub(crate) struct Chaos {
    rng: Rng,
    /// Nothing goes wrong any more.
    pub(crate) over: bool,
    /// What went wrong before is over, too.
    pub(crate) healed: bool,
    /// Operations that were answered when the quiet window began.
    served_before: Option<u64>,
    /// What is done to the cluster, without what only happens to single messages.
    deeds: Vec<Fault>,
    /// While a part of the cluster is well, and has to serve without the rest.
    pub(crate) core: Option<CorePhase>,
}

/// Faults that are done to something, at a moment.
const DEEDS: &[Fault] = &[
    Fault::Clog,
    Fault::SymmetricPartition,
    Fault::AsymmetricPartition,
    Fault::BridgePartition,
    Fault::ChainPartition,
    Fault::HoldAndReplay,
    Fault::Kill,
    Fault::Restart,
    Fault::Pause,
    Fault::LostUnsynced,
    Fault::SlowDisk,
    Fault::ClockJump,
    Fault::SlowApply,
    Fault::MachinePanic,
    Fault::Wipe,
    Fault::OldDisk,
    Fault::MixedVersions,
    Fault::BitFlip,
    Fault::MisdirectedWrite,
    Fault::LostWrite,
    Fault::ReadError,
    Fault::WriteError,
    Fault::SyncError,
    Fault::DiskFull,
];

impl Chaos {
    pub(crate) fn new(options: &Options) -> Self {
        let deeds = DEEDS.iter().copied().filter(|fault| options.faults.has(*fault)).collect();
        Self { rng: Rng::new(options.seed, 5), over: false, healed: false, served_before: None, deeds, core: None }
    }
}

impl<W: Workload> World<W> {
    fn span(&mut self, from: u32, to: u32) -> Nanos {
        let timeout = self.options.election_timeout;
        self.chaos.rng.time(timeout * from / 2, timeout * to / 2).as_nanos() as u64
    }

    pub(crate) fn start_chaos(&mut self) {
        self.net.quiet = false;
        let after = self.chaos.rng.around(self.options.fault_interval).as_nanos() as u64;
        self.schedule(self.now + after, Event::Chaos);
    }

    pub(crate) fn on_chaos(&mut self) {
        self.digest.word(13);
        if self.chaos.over {
            return;
        }
        // Each draws from a generator of its own: leaving one out changes nothing about the others.
        let number = self.decisions.next(Decision::Fault);
        self.chaos.rng = Rng::new(self.options.seed, 5 + ((number + 1) << 16));
        let mut after = self.chaos.rng.around(self.options.fault_interval).as_nanos() as u64;
        if !self.options.edits.keeps(Decision::Fault, number) {
            // Left out.
        } else if self.chaos.rng.chance(60) {
            // A quiet window: what was broken gets well, and the cluster shows that it can serve.
            self.say(|| "quiet".to_owned());
            self.calm();
            self.chaos.served_before = Some(self.clients.acknowledged);
            after += self.span(8, 30);
            let end = self.now + after;
            self.schedule(end, Event::Heal(Cure::Loud));
        } else if !self.chaos.deeds.is_empty() {
            let fault = *self.chaos.rng.pick(&self.chaos.deeds);
            self.commit_fault(fault);
        }
        self.schedule(self.now + after, Event::Chaos);
    }

    fn commit_fault(&mut self, fault: Fault) {
        let at = self.chaos.rng.below(self.places.len() as u64) as usize;
        self.say(|| format!("fault {fault} at node {}", at + 1));
        // Some are counted where they have an effect, later or never.
        let happened = match fault {
            Fault::Clog => self.clog(at),
            Fault::SymmetricPartition | Fault::AsymmetricPartition | Fault::BridgePartition | Fault::ChainPartition => {
                self.partition(fault)
            }
            Fault::HoldAndReplay => self.replay(),
            // Best while its machine writes.
            Fault::Kill if self.places[at].disk.shelters() && self.chaos.rng.chance(600) => {
                self.places[at].cut_off.get_or_insert(Crash::KeepAll);
                false
            }
            Fault::Kill => self.stop_for_a_while(at, Crash::KeepAll),
            Fault::LostUnsynced => self.cut_power(at),
            Fault::Restart => self.restart_otherwise(at),
            Fault::Pause => self.pause_for_a_while(at),
            Fault::SlowDisk => self.slow_disk(at),
            Fault::SlowApply => self.slow_apply(at),
            Fault::ClockJump => self.jump(at),
            Fault::MachinePanic => self.plan_a_panic(at),
            Fault::MixedVersions => {
                let place = &mut self.places[at];
                place.newer = !place.newer;
                place.due = if place.newer { place.due.with(fault) } else { place.due.without(fault) };
                false
            }
            _ => {
                // What a disk did wrong is counted where it does it.
                self.disk_fault(fault, at);
                false
            }
        };
        self.counts.add(fault, u64::from(happened));
    }

    /// What was done to a node before has an effect for the first time, and is counted.
    pub(crate) fn takes_effect(&mut self, at: usize, fault: Fault) {
        let due = self.places[at].due;
        self.counts.add(fault, u64::from(due.has(fault)));
        self.places[at].due = due.without(fault);
    }

    // ---- processes ----

    /// Whether there was a process to stop.
    pub(crate) fn stop_for_a_while(&mut self, at: usize, crash: Crash) -> bool {
        if self.places[at].running.is_none() || self.places[at].fragile {
            return false;
        }
        self.stop(at, crash);
        self.keep_copy(at);
        self.on_process_gone(at);
        let after = self.span(1, 16);
        self.schedule(self.now + after, Event::Start(at));
        true
    }

    /// A power cut may hit everybody.
    fn cut_power(&mut self, at: usize) -> bool {
        let crash = if self.chaos.rng.chance(300) { Crash::DropAll } else { Crash::Some };
        match self.chaos.rng.chance(200) {
            true => {
                for at in 0..self.places.len() {
                    self.stop_for_a_while(at, crash);
                }
            }
            // Best when the log is at work.
            false if self.places[at].running.is_some() => self.places[at].cut_off = Some(crash),
            false => {}
        }
        false
    }

    fn restart_otherwise(&mut self, at: usize) -> bool {
        if self.places[at].running.is_none() || self.places[at].fragile {
            return false;
        }
        self.stop(at, Crash::KeepAll);
        self.on_process_gone(at);
        self.places[at].config = self.options.draw_config(&mut self.chaos.rng);
        self.say(|| format!("node {} starts again with {:?}", self.places[at].id, self.places[at].config));
        self.schedule(self.now + 1_000_000, Event::Start(at));
        true
    }

    fn pause_for_a_while(&mut self, at: usize) -> bool {
        if self.places[at].running.is_none() || self.places[at].paused_until.is_some() {
            return false;
        }
        let until = self.now + self.span(1, 10);
        self.pause(at, until);
        true
    }

    fn slow_disk(&mut self, at: usize) -> bool {
        self.places[at].due = self.places[at].due.with(Fault::SlowDisk);
        self.places[at].slow_disk = self.chaos.rng.between(5, 200);
        let until = self.now + self.span(2, 16);
        self.schedule(until, Event::Heal(Cure::SlowDisk(at)));
        false
    }

    fn slow_apply(&mut self, at: usize) -> bool {
        self.places[at].due = self.places[at].due.with(Fault::SlowApply);
        self.places[at].slow_apply = self.chaos.rng.between(10, 2000);
        let until = self.now + self.span(2, 16);
        self.schedule(until, Event::Heal(Cure::SlowApply(at)));
        false
    }

    /// A wall clock is set, or the machine sleeps: then the clock that leases are measured with stands still, and the wall
    /// clock goes on. The node has to find out by itself.
    fn jump(&mut self, at: usize) -> bool {
        let second = 1_000_000_000;
        let jump = self.chaos.rng.below(20 * second) as i64 - 10 * second as i64;
        let until = self.now + self.span(1, 10);
        if self.chaos.rng.chance(500) && self.places[at].running.is_some() && self.places[at].paused_until.is_none() {
            self.places[at].asleep_since = Some(self.now);
            self.pause(at, until);
            return true;
        }
        self.places[at].offset += jump;
        if let Some(running) = &mut self.places[at].running {
            running.clock.offset += jump;
            self.touch(at);
        }
        // A process that is started later sees no jump.
        self.places[at].running.is_some() && jump != 0
    }

    /// Counted when it panics: it may never apply anything more.
    fn plan_a_panic(&mut self, at: usize) -> bool {
        if !self.places[at].fragile {
            with_book(|book| book.panic_at = Some(self.places[at].id.0));
        }
        false
    }

    // ---- the network ----

    fn clog(&mut self, at: usize) -> bool {
        let until = self.now + self.span(1, 6);
        let others = self.places.len() - 1;
        if others == 0 {
            return false;
        }
        let to = (at + 1 + self.chaos.rng.below(others as u64) as usize) % self.places.len();
        self.net.clog(at, to, until);
        false
    }

    /// Messages of the past arrive, whatever happened since to those who sent them and to those whom they reach.
    fn replay(&mut self) -> bool {
        let (flights, snapshots) = self.net.release();
        let happened = !flights.is_empty() || !snapshots.is_empty();
        for flight in flights {
            let at = self.now + self.span(0, 2);
            self.schedule(at, Event::Packet(flight));
        }
        for HeldSnapshot { from, to, sender, shipment } in snapshots {
            let (at, shipment) = (self.now + self.span(0, 2), Box::new(shipment));
            self.schedule(at, Event::Snapshot { to, from, sender, shipment, arrival: Arrival::Whole });
        }
        happened
    }

    fn partition(&mut self, fault: Fault) -> bool {
        let size = self.places.len();
        let mut order: Vec<usize> = (0..size).collect();
        self.chaos.rng.shuffle(&mut order);
        self.net.heal();
        let split = self.chaos.rng.between(1, size.saturating_sub(1).max(1) as u64) as usize;
        let place_of = |at: usize| order.iter().position(|other| *other == at).unwrap_or(0);
        let mut parted = false;
        for from in 0..size {
            for to in 0..size {
                let (a, b) = (place_of(from), place_of(to));
                let cut = match fault {
                    Fault::AsymmetricPartition => a < split && b >= split,
                    // The first in the order reaches both sides.
                    Fault::BridgePartition => a > 0 && b > 0 && (a <= size / 2) != (b <= size / 2),
                    Fault::ChainPartition => a.abs_diff(b) > 1,
                    _ => (a < split) != (b < split),
                };
                if cut {
                    self.net.cut(from, to);
                    parted |= [from, to].iter().all(|at| self.places[*at].running.is_some());
                }
            }
        }
        self.tell_refused();
        let until = self.now + self.span(2, 30);
        self.schedule(until, Event::Heal(Cure::Network));
        parted
    }

    /// Nobody reaches this node, and it reaches nobody.
    pub(crate) fn cut_off(&mut self, at: usize) {
        self.net.heal();
        for other in (0..self.places.len()).filter(|other| *other != at) {
            self.net.cut(at, other);
            self.net.cut(other, at);
        }
        self.tell_refused();
        let runs = |at: usize| self.places[at].running.is_some();
        let parted = runs(at) && (0..self.places.len()).any(|other| other != at && runs(other));
        self.counts.add(Fault::SymmetricPartition, u64::from(parted));
        let until = self.now + self.span(4, 16);
        self.schedule(until, Event::Heal(Cure::Network));
    }

    /// Some nodes notice that they have no connection: their sends fail at once, and they hear that it was refused.
    pub(crate) fn tell_refused(&mut self) {
        for from in 0..self.places.len() {
            let ids = self.places.iter().map(|place| place.id);
            let peers: Vec<_> =
                ids.enumerate().filter(|(to, _)| self.net.is_cut(from, *to)).map(|(_, id)| id).collect();
            let notices = self.chaos.rng.chance(300);
            let Some(running) = &self.places[from].running else { continue };
            running.outbox.refuse(if notices { peers } else { Vec::new() });
        }
    }

    pub(crate) fn on_cure(&mut self, cure: Cure) {
        self.digest.word(14);
        match cure {
            // What is cut off from a core stays so.
            Cure::Network if self.chaos.core.is_some() => {}
            Cure::Network => {
                self.net.heal();
                self.tell_refused();
            }
            Cure::SlowDisk(_) | Cure::SlowApply(_) if self.chaos.core.is_some() => {}
            Cure::SlowDisk(at) => self.places[at].slow_disk = 1,
            Cure::SlowApply(at) => self.places[at].slow_apply = 1,
            Cure::Space(at) => self.places[at].disk.leave_space(None),
            Cure::Expose(at) => self.expose(at),
            Cure::OldDisk(at, tries) => self.old_disk(at, tries),
            Cure::Replace(at) => self.replace(at),
            Cure::Strike(at) => {
                let happened =
                    !self.chaos.over && self.leader() == Some(at) && self.stop_for_a_while(at, Crash::KeepAll);
                self.counts.add(Fault::Kill, u64::from(happened));
            }
            Cure::CutOff(at) if !self.chaos.over && self.leader() == Some(at) => self.cut_off(at),
            Cure::CutOff(_) => {}
            Cure::Loud => {
                self.net.quiet = self.chaos.over;
                if self.chaos.served_before.take().is_some_and(|before| self.clients.acknowledged > before) {
                    self.reach(Goal::QuietServed);
                }
            }
        }
    }

    /// Everything that can get well does.
    pub(crate) fn calm(&mut self) {
        self.restore_tunables();
        self.net.heal();
        self.tell_refused();
        self.net.quiet = true;
        with_book(|book| book.panic_at = None);
        (0..self.places.len()).for_each(|at| self.calm_node(at));
    }

    /// Everything of a node that can get well does.
    pub(crate) fn calm_node(&mut self, at: usize) {
        self.places[at].slow_disk = 1;
        self.places[at].slow_apply = 1;
        self.places[at].cut_off = None;
        // What a slow disk was busy with is done in a moment.
        if self.places[at].running.as_ref().is_some_and(|running| running.wal_at.is_some()) {
            let soon = self.now + self.options.disk_latency.as_nanos() as u64;
            self.schedule_wal(at, soon);
        }
        if !self.places[at].fragile {
            self.places[at].disk.arm(None);
        }
        self.places[at].disk.leave_space(None);
        if self.places[at].paused_until.is_some() {
            self.places[at].paused_until = Some(self.now);
            self.schedule(self.now, Event::Resume(at));
        }
        if self.places[at].running.is_none() {
            self.schedule(self.now, Event::Start(at));
        }
    }

    /// The last fault, at the moment at which everything heals, in about four runs of ten: most others end with a leader that serves,
    /// and show nothing of elections. The leader dies, or everybody.
    pub(crate) fn last_blow(&mut self) {
        let mut chance = Rng::new(self.options.seed, 13);
        let leader = self.leader().filter(|_| self.options.faults.has(Fault::Kill) && chance.chance(600));
        let all = self.options.faults.has(Fault::LostUnsynced) && chance.chance(300);
        let crash = *chance.pick(&[Crash::KeepAll, Crash::DropAll, Crash::Some]);
        let (struck, crash) = match all {
            true => ((0..self.places.len()).collect(), crash),
            false => (Vec::from_iter(leader), Crash::KeepAll),
        };
        for at in struck {
            if self.places[at].running.is_some() && !self.places[at].fragile {
                self.stop(at, crash);
                self.on_process_gone(at);
            }
        }
    }

    /// A node closed itself, or cannot start. Somebody looks after it later.
    pub(crate) fn on_halt(&mut self, at: usize) {
        self.on_process_gone(at);
        let place = &self.places[at];
        // What ends it for now, such as a full disk, is over in a while, and nothing is lost by it.
        let by_its_disk = matches!(&place.down, Down::Halted(_, Some(cause)) if cause.is_of_its_disk());
        // A disk that is mended is opened once more.
        let hopeless = by_its_disk && (!self.options.mends || place.hurt.outdated || place.halts > 0);
        // What no read noted before its log said that everything is durable, the next opening takes for a torn tail.
        let silent = place.fragile && self.is_unnoted(at);
        if place.damaged && (hopeless || silent) {
            // It says that its disk is damaged, and the cluster can do without it.
            return self.wipe(at);
        }
        // Where everything is well for good that is over, though the node ends only now: it failed before, and finds out. It is
        // started as those are that were down.
        let is_over =
            matches!(&place.down, Down::Halted(_, Some(cause)) if !cause.lasts()) && self.is_well_for_good(at);
        self.places[at].halts += u64::from(by_its_disk);
        let after = if is_over { 0 } else { self.span(1, 6) };
        self.schedule(self.now + after, Event::Start(at));
    }
}

#[cfg(test)]
mod tests;
