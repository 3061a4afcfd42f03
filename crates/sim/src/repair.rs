//! Disks that are mended: what was damaged is found at a start, and comes back from the peers (docs/design/001, 003).

use std::path::Path;

use quorate_core::Core;
use quorate_wal::Disk;

use crate::chaos::Cure;
use crate::disk::Crash;
use crate::process::{DIRECTORY, Mended};
use crate::workload::Workload;
use crate::world::{Down, Event, World};

/// Disks that were damaged, noticed it when they were opened, and went on.
const MENDED: &str = "disks mended";
/// Entries that mended disks had lost, or were behind by, and got from their leaders.
const ENTRIES: &str = "entries refetched";
/// Mended disks that got a snapshot from their leaders.
const SNAPSHOTS: &str = "snapshots refetched";
/// Counters of repairs; over many seeds none may be 0.
pub(crate) const REPAIRS: [&str; 3] = [MENDED, ENTRIES, SNAPSHOTS];

/// What a log that read damage makes of it, for the next opening.
const NOTE: &str = "damage-seen";

/// What was done to a node's disk since it was formatted, and what became of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hurt {
    /// Something of it was damaged.
    pub(crate) ever: bool,
    /// It is an older copy of itself: nothing mends that.
    pub(crate) outdated: bool,
    /// It lost something, and does not have it back yet.
    pub(crate) mending: bool,
    /// It is opened so that everything on it is read.
    scrubs: bool,
    /// Where its log ended when it was opened.
    kept: u64,
    /// Where its log ended when it lacked nothing any more, in memory: whole is the disk that holds so much.
    whole: Option<u64>,
}

impl Hurt {
    /// It was opened, and what was to be read was.
    pub(crate) fn was_read(&mut self) {
        self.scrubs = false;
    }

    /// A mended disk was opened.
    pub(crate) fn begin(&mut self, core: &Core) {
        self.kept = core.log().last().index;
        self.whole = None;
    }
}

impl<W: Workload> World<W> {
    /// Whether a node may find damage on its disk: there was some, and not all of it is known to be gone. When everything
    /// was read, and what was lost came back, there is none.
    pub(crate) fn may_find_damage(&self, at: usize) -> bool {
        let place = &self.places[at];
        let open = place.damaged || place.fragile || place.hurt.mending || place.hurt.scrubs;
        place.disk.is_spoiled() && (open || self.options.beyond_budget)
    }

    /// A node found damage when it started, and goes on without what is damaged.
    pub(crate) fn on_mended(&mut self, at: usize, mended: Mended) {
        let id = self.places[at].id;
        self.say(|| format!("node {id} is mended: {mended:?}"));
        if !self.may_find_damage(at) {
            self.fail(format!("healthy disk: node {id} mends its disk, which nothing damaged: {mended:?}"));
        }
        self.counters.add(MENDED, 1);
        let place = &mut self.places[at];
        // A sector that is bad for good may lie where this mending read nothing.
        let bad = place.disk.has_bad_sector();
        (place.hurt.mending, place.impaired, place.damaged) = (true, true, bad);
    }

    /// Has everything on a disk read at the next opening, also what is not needed to start: damage that was not found is
    /// found then, or harms nobody.
    pub(crate) fn scrub(&mut self, at: usize) {
        let timeout = self.options.election_timeout.as_nanos() as u64;
        if !self.places[at].is_disk_idle() || self.places[at].fragile {
            return self.schedule(self.now + timeout / 3, Event::Heal(Cure::Replace(at)));
        }
        let dir = Path::new(DIRECTORY);
        let disk = &self.places[at].disk;
        let noted = disk.list(dir).is_ok_and(|names| names.iter().any(|name| name == NOTE));
        let note = || disk.create(&dir.join(NOTE)).and_then(|_| disk.sync_dir(dir));
        // What the node itself noted says more.
        if !noted && note().is_err() {
            return self.schedule(self.now + timeout, Event::Heal(Cure::Replace(at)));
        }
        self.stop(at, Crash::KeepAll);
        self.on_process_gone(at);
        let place = &mut self.places[at];
        (place.damaged, place.hurt.scrubs) = (false, true);
        self.schedule(self.now + timeout, Event::Start(at));
    }

    /// Whether a node stopped for something else than damage that it read, or had no space to note what was durable then
    /// (docs/design/001). One that read damage and noted nothing has a bug, and shows it at its next start.
    pub(crate) fn is_unnoted(&self, at: usize) -> bool {
        let place = &self.places[at];
        let note = place.disk.open(&Path::new(DIRECTORY).join(NOTE)).and_then(|file| file.length());
        match note {
            Ok(bytes) => bytes == 0,
            Err(_) => !matches!(&place.down, Down::Halted(why, _) if why.contains("damaged file")),
        }
    }

    /// Notes which nodes have back what they lost. Nobody helps them: also where nothing names how far a promise went, it ends
    /// under the leader that there is (docs/design/001).
    pub(crate) fn look_for_repairs(&mut self) {
        let members = self.members();
        for at in 0..self.places.len() {
            let place = &self.places[at];
            let Some(running) = place.running.as_ref().filter(|_| place.hurt.mending) else { continue };
            let (core, id, kept) = (running.node.core(), place.id, place.hurt.kept);
            let (log, lost) = (core.log(), core.lost_entries());
            let (purged, last) = (log.purged().index, log.last().index);
            match lost {
                // Nobody sends it anything; it gets it back when it is wanted again.
                Some(_) if !members.is_empty() && !members.contains(&id) && !self.options.wants(id) => {}
                Some(_) => continue,
                // What is not durable yet is no second copy: a power failure takes it.
                None if core.durable() < last.min(place.hurt.whole.unwrap_or(last)) => {
                    self.places[at].hurt.whole.get_or_insert(last);
                    continue;
                }
                None => {
                    // From here on its disk counts for what it holds.
                    let place = &self.places[at];
                    if let Some(shadow) = self.shadows.get_mut(&(place.id, place.incarnation)) {
                        shadow.lost.clear();
                    }
                    self.counters.add(ENTRIES, last.saturating_sub(kept.max(purged)));
                    self.counters.add(SNAPSHOTS, u64::from(purged > kept));
                }
            }
            self.say(|| format!("node {id} is repaired"));
            let place = &mut self.places[at];
            place.hurt.mending = false;
            place.impaired = place.damaged || place.fragile || place.lacks();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_core::LogId;

    use super::*;
    use crate::ledger::LedgerClients;
    use crate::trial::{cluster, cluster_with, elapse, serve, stop};
    use crate::world::Place;

    /// Where the first batch of a segment starts (FORMAT.md, "Segments").
    const DATA_AT: u64 = 12_288;
    const SECTOR_BYTES: u64 = 512;

    /// Writes other bytes over a sector in the first tenth of what is written in the first segment.
    fn damage_the_log(disk: &impl Disk) {
        let dir = Path::new(DIRECTORY).join("wal");
        let names = disk.list(&dir).expect("there is a log");
        let file = disk.open(&dir.join(&names[0])).expect("it has a segment");
        let sectors = (file.length().expect("it has a length") - DATA_AT) / SECTOR_BYTES;
        let mut bytes = [0; SECTOR_BYTES as usize];
        let written = (0..sectors).filter(|sector| {
            let read = file.read_at(&mut bytes, DATA_AT + sector * SECTOR_BYTES);
            read.is_ok() && bytes.iter().any(|byte| *byte != 0)
        });
        let written: Vec<u64> = written.collect();
        let at = DATA_AT + written[written.len() / 10] * SECTOR_BYTES;
        file.write_at(&[0xa5; 40], at).expect("it is written");
        file.sync_data().expect("it is durable");
    }

    #[test]
    fn a_healthy_disk_that_is_mended_is_a_violation() {
        let mut world = cluster(3);
        world.on_mended(1, Mended { log: true, snapshots: 0 });
        let told = world.violation.expect("nothing was done to it");
        assert!(told.starts_with("healthy disk: node 2 mends its disk, which nothing damaged"), "{told}");
    }

    /// An operator takes only a disk that is at rest, and one whose segments wait to be removed is: hundreds may wait for
    /// minutes.
    #[test]
    fn a_disk_is_at_rest_while_superfluous_segments_wait() {
        let mut world = cluster_with(3, |options| {
            (options.reads, options.deferrals, options.segment_bytes) = (0, 0, 16 << 10);
            let config = &mut options.config;
            (config.snapshot_entries, config.keep_entries, config.max_kept_bytes) = (20, 0, 0);
            (config.snapshot_bytes, config.snapshot_interval) = (0, Duration::ZERO);
        });
        serve(&mut world, 300);
        let at = world.up().find(|at| world.leader() != Some(*at)).expect("one follows");
        let removes = |world: &World<LedgerClients>| {
            let running = world.places[at].running.as_ref().expect("it runs");
            running.wal_at.is_some_and(|next| next > world.now)
        };
        let until = world.now + world.nanos(2);
        assert!(world.run_until(until, |world| world.places[at].is_disk_idle()));
        assert!(removes(&world), "segments wait to be removed");
        world.places[at].hurt.ever = true;
        world.scrub(at);
        assert!(world.places[at].hurt.scrubs, "it is stopped, to be read");
    }

    /// What was given up stands in the log before the write that says so. Damage between the two leaves the front of it, and
    /// the promise.
    #[test]
    fn what_a_log_held_before_it_was_given_up_may_come_back() {
        let mut world = cluster_with(3, |options| {
            (options.mends, options.segment_bytes) = (true, 128 << 10);
            (options.reads, options.deferrals) = (0, 0);
            let config = &mut options.config;
            (config.snapshot_entries, config.keep_entries, config.max_kept_bytes) = (20, 0, 0);
            (config.snapshot_bytes, config.snapshot_interval) = (0, Duration::ZERO);
        });
        serve(&mut world, 60);
        elapse(&mut world, 4);
        let at = world.up().find(|at| world.leader() != Some(*at)).expect("one follows");
        let until = world.now + world.nanos(8);
        assert!(world.run_until(until, |world| world.places[at].is_disk_idle()));
        let log = |world: &World<LedgerClients>| {
            let core = world.places[at].running.as_ref().expect("it runs").node.core();
            (core.log().purged(), core.log().last(), core.lost_entries())
        };
        let (purged, promised, _) = log(&world);
        assert!(purged > LogId::ZERO, "its log does not begin at the first entry");
        (0..3).filter(|other| *other != at).for_each(|other| {
            world.net.cut(at, other);
            world.net.cut(other, at);
        });

        let damaged = |place: &mut Place<LedgerClients>| {
            (place.impaired, place.damaged, place.hurt.ever) = (true, true, true);
        };
        world.places[at].disk.flip(1000, false).expect("it has a snapshot");
        damaged(&mut world.places[at]);
        stop(&mut world, at);
        world.start(at);
        elapse(&mut world, 2);
        let (_, last, lost) = log(&world);
        assert_eq!((last, lost.map(|lost| lost.last)), (LogId::ZERO, Some(promised)), "it was given up");

        stop(&mut world, at);
        damage_the_log(&world.places[at].disk);
        damaged(&mut world.places[at]);
        world.start(at);
        assert_eq!(world.violation, None);
        let (purged, last, lost) = log(&world);
        assert!(purged == LogId::ZERO && last > LogId::ZERO && last < promised, "a front of it is there: {last}");
        assert!(lost.is_some_and(|lost| lost.last >= promised), "{lost:?}");
    }
}
