//! Crashes at any write, disks that lie, calls that fail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate::advanced::wal::fake::{Crash, Fault, MemDisk};
use quorate::advanced::wal::{Disk, DiskFile, DiskLock};
use quorate::{GroupId, LogWrite, RaftLogStorage, StorageError};

use super::Options;
use super::model::{Written, append};
use super::rig::{GROUPS, Past, Rig, read_span};
use crate::chance::Chance;
use crate::report::{Failure, Law, Looked};

/// Opens a log on a disk.
pub(super) type OpenOn<'a, L> = &'a dyn Fn(Arc<dyn Disk>, &Path) -> Result<L, StorageError>;

/// Where the log lies on a disk in memory.
pub(super) const DIRECTORY: &str = "/log";

fn open_at<L: RaftLogStorage>(
    open: OpenOn<'_, L>,
    disk: &MemDisk,
    past: &Past,
    steps: usize,
    options: &Options,
    what: &str,
) -> Result<Rig<L>, Failure> {
    let log = open(Arc::new(disk.clone()), Path::new(DIRECTORY))
        .map_err(|error| Failure::new(Law::OpensAgain, format!("{what}: opening"), "a log", error.to_string()))?;
    Rig::open(log, Some(disk), past, steps, (Chance::new(options.seed), options.patience), what)
}

/// A random script, perhaps with waits for what is durable, so that there is something to lose.
pub(super) fn play<L: RaftLogStorage>(rig: &mut Rig<L>, writes: usize, what: &str) -> Result<(), Failure> {
    for number in 0..writes {
        if number == writes / 2 {
            rig.submit_snapshot();
        }
        rig.submit_random();
        if rig.chance.below(2) == 0 {
            rig.settle(&format!("{what}: write {number}"))?;
        }
        if rig.chance.below(10) == 0 {
            rig.purge_random();
        }
    }
    rig.settle(&format!("{what}: the last write"))?;
    Ok(())
}

/// Crashes at steps of random scripts, with what was not synced lost, kept, or torn: at every step as long as the steps
/// are at most half of the states asked for, else at a sample.
pub(super) fn crashes<L: RaftLogStorage>(
    open: OpenOn<'_, L>,
    options: &Options,
    torn: bool,
) -> Result<Looked, Failure> {
    let (mut states, mut tried, mut places) = (0, 0, 0);
    for seed in options.seeds() {
        let options = Options { seed, ..options.clone() };
        let disk = MemDisk::new();
        disk.start_journal();
        let mut rig = open_at(open, &disk, &Past::default(), 0, &options, "a blank disk")?;
        play(&mut rig, options.writes, &format!("seed {seed}"))?;
        let past = rig.past();
        drop(rig);
        let (total, mut replay) = (disk.journal_steps(), disk.replay());
        // By chance, not every so many: a log's steps have a rhythm.
        let (mut chance, budget) = (Chance::new(seed), options.states as u64 / options.seeds.max(1));
        loop {
            let steps = replay.steps();
            places += 1;
            if chance.below(total as u64 * 2) < budget {
                tried += 1;
                for crash in modes(torn, seed, steps, replay.unsynced()) {
                    let what = format!("seed {seed}, a crash at step {steps} of {total} of the disk, {crash:?}");
                    let left = replay.crashed(crash);
                    let rig = open_at(open, &left, &past, steps, &options, &what)?;
                    states += 1;
                    if states % 4 == 0 {
                        go_on(open, rig, &left, &options, &what)?;
                    }
                }
            }
            if !replay.advance() {
                break;
            }
        }
    }
    Ok(Looked { checks: states, places: Some((tried, places)) })
}

fn modes(torn: bool, seed: u64, steps: usize, unsynced: usize) -> Vec<Crash> {
    let sample = seed.wrapping_mul(1_000_003).wrapping_add(steps as u64 * 17);
    match (torn, unsynced) {
        (_, 0) => vec![Crash::DropAll],
        (false, unsynced) => {
            let mut modes = vec![Crash::DropAll, Crash::KeepAll];
            modes.extend((1..unsynced.min(3)).map(Crash::KeepFirst));
            modes
        }
        (true, _) => vec![Crash::Subset(sample), Crash::Subset(sample + 1)],
    }
}

/// What was found can be written to, and survives another crash.
fn go_on<L: RaftLogStorage>(
    open: OpenOn<'_, L>,
    mut rig: Rig<L>,
    disk: &MemDisk,
    options: &Options,
    what: &str,
) -> Result<(), Failure> {
    let what = format!("{what}, then a write");
    for group in GROUPS {
        write_one(&mut rig, group);
    }
    rig.settle(&what)?;
    let past = rig.past();
    drop(rig);
    let left = disk.crashed(Crash::DropAll);
    open_at(open, &left, &past, usize::MAX, options, &format!("{what} and another crash"))?;
    Ok(())
}

fn write_one<L: RaftLogStorage>(rig: &mut Rig<L>, group: GroupId) -> u64 {
    let state = rig.model(group).now();
    let term = state.last().leader_id.term.max(state.vote.leader_id.term) + 1000;
    let write = append(group, &state, term, &[b"after"]);
    rig.submit(group, write)
}

/// A disk that says "synced" and syncs nothing, from some sync on.
#[derive(Debug)]
struct Liar {
    disk: MemDisk,
    /// Syncs that are still made.
    honest: Arc<AtomicU64>,
}

fn lies(honest: &AtomicU64) -> bool {
    honest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
}

#[derive(Debug)]
struct LyingFile {
    file: Arc<dyn DiskFile>,
    honest: Arc<AtomicU64>,
}

impl Disk for Liar {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile { file: self.disk.open(path)?, honest: Arc::clone(&self.honest) }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile { file: self.disk.create(path)?, honest: Arc::clone(&self.honest) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if lies(&self.honest) { Ok(()) } else { self.disk.sync_dir(dir) }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &[io::IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_vectored_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if lies(&self.honest) { Ok(()) } else { self.file.sync_data() }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

/// A disk that lies, then loses power: whatever opens then holds only what was written.
pub(super) fn lying_disk<L: RaftLogStorage>(open: OpenOn<'_, L>, options: &Options) -> Result<usize, Failure> {
    let mut states = 0;
    for seed in options.seeds() {
        for honest in [0, 8, 20, 40] {
            let disk = MemDisk::new();
            let liar = Liar { disk: disk.clone(), honest: Arc::new(AtomicU64::new(honest)) };
            let what = format!("seed {seed}, a disk that lies after {honest} syncs");
            let log = open(Arc::new(liar), Path::new(DIRECTORY)).map_err(|error| {
                Failure::new(Law::OpensAgain, format!("{what}: opening"), "a log", error.to_string())
            })?;
            let chance = (Chance::new(seed), options.patience);
            let mut rig = Rig::open(log, Some(&disk), &Past::default(), 0, chance, &what)?;
            play(&mut rig, options.writes, &what)?;
            let past = rig.past();
            drop(rig);
            for crash in [Crash::DropAll, Crash::Subset(seed), Crash::Subset(seed + 1)] {
                let what = format!("{what}, then loses power, {crash:?}");
                invents_nothing(open, &disk.crashed(crash), &past, &what)?;
                states += 1;
            }
        }
    }
    Ok(states)
}

/// That it does not open, or does not recover, is an answer too.
fn invents_nothing<L: RaftLogStorage>(
    open: OpenOn<'_, L>,
    disk: &MemDisk,
    past: &Past,
    what: &str,
) -> Result<(), Failure> {
    let Ok(log) = open(Arc::new(disk.clone()), Path::new(DIRECTORY)) else { return Ok(()) };
    for (group, model) in &past.models {
        let Ok(found) = log.recover(*group, Arc::new(Deaf)) else { continue };
        let votes: Vec<_> = model.states.iter().map(|state| state.vote).collect();
        if !votes.contains(&found.vote) {
            let step = format!("{what}: recovering {group}");
            let is_anothers = past.is_anothers(*group, &found, &[]);
            let law = if is_anothers { Law::GroupsAreApart } else { Law::NothingInvented };
            return Err(Failure::new(law, step, format!("{votes:?}"), found.vote.to_string()));
        }
        let span = quorate::Span { prev: found.log.purged(), last: found.log.last() };
        let step = format!("{what}: reading ({}, {}] of {group}", span.prev, span.last);
        let Ok(Some(read)) = read_span(&log, *group, span, 700, &step) else { continue };
        let is_known = |entry: &&Written| !model.ever.contains(entry);
        if let Some(entry) = read.iter().find(is_known) {
            let found = format!("{} {:?} of {} bytes", entry.id, entry.kind, entry.payload.len());
            return Err(Failure::new(Law::NothingInvented, step, "an entry that was written", found));
        }
    }
    Ok(())
}

/// Nobody listens.
struct Deaf;

impl quorate::Completions for Deaf {
    fn complete(&self, _write: quorate::WriteId, _result: Result<(), StorageError>) {}
}

/// Runs a script with a fault at a call of the disk, for every call, or a sample.
pub(super) fn faults<L: RaftLogStorage>(open: OpenOn<'_, L>, options: &Options) -> Result<Looked, Failure> {
    let writes = options.writes.min(12);
    let (mut runs, mut tried) = (0, 0);
    let calls = {
        let disk = MemDisk::new();
        let mut rig = open_at(open, &disk, &Past::default(), 0, options, "a disk without faults")?;
        play(&mut rig, writes, "a disk without faults")?;
        drop(rig);
        disk.calls()
    };
    let stride = (calls * 2).div_ceil(options.states as u64).max(1);
    for call in (0..calls).step_by(usize::try_from(stride).unwrap_or(1)) {
        tried += 1;
        for fault in [Fault::Error(io::ErrorKind::Other), Fault::ShortWrite(100)] {
            one_fault(open, options, writes, call, fault)?;
            runs += 1;
        }
    }
    Ok(Looked { checks: runs, places: Some((tried, calls as usize)) })
}

fn one_fault<L: RaftLogStorage>(
    open: OpenOn<'_, L>,
    options: &Options,
    writes: usize,
    call: u64,
    fault: Fault,
) -> Result<(), Failure> {
    let what = format!("call {call} of the disk meets {fault:?}");
    let disk = MemDisk::new();
    disk.fail_at(call, fault);
    let log = |disk: &MemDisk| open(Arc::new(disk.clone()), Path::new(DIRECTORY));
    // An opening may fail where the call fails, once.
    let log = match log(&disk).or_else(|_| log(&disk)) {
        Ok(log) => log,
        Err(error) => {
            let step = format!("{what}: opening once more");
            return Err(Failure::new(Law::OpensAgain, step, "a log", error.to_string()));
        }
    };
    let chance = || (Chance::new(options.seed), options.patience);
    let mut rig = Rig::open(log, Some(&disk), &Past::default(), 0, chance(), &what)?;
    for number in 0..writes {
        rig.submit_random();
        if rig.settle(&format!("{what}: write {number}"))? {
            continue;
        }
        for group in GROUPS {
            let write = write_one(&mut rig, group);
            rig.settle(&format!("{what}: a write after the failed one"))?;
            if rig.acknowledged_after(group, write) {
                let step = format!("{what}: a write after the failed one, {number}");
                let found = format!("write {write} of {group} was acknowledged");
                return Err(Failure::new(Law::NothingAfterFailure, step, "failures only", found));
            }
        }
        break;
    }
    let past = rig.past();
    drop(rig);
    for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(call)] {
        let what = format!("{what}, then a crash, {crash:?}");
        open_at(open, &disk.crashed(crash), &past, usize::MAX, options, &what)?;
    }
    Ok(())
}

/// A vote for the directed part, so that nothing but it is written.
pub(super) fn vote(term: u64, node: u64, committed: bool) -> LogWrite {
    LogWrite::Vote(quorate::Vote { leader_id: quorate::LeaderId::new(term, node), committed })
}
