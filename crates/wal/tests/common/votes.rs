//! Votes on a disk that does not do what it says: a write of theirs is lost, or takes another place.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use quorate_core::{GroupId, Instant, LeaderId, Vote, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, DiskFile, DiskLock, WalCore, WalError, WalWrite};

use super::crashes::States;
use super::mending::mending;
use super::{Rig, Told, dir};

const SECTOR: u64 = 512;
/// In each of the two files every slot has two copies, so many sectors apart.
const APART: u64 = 64;
const ROUNDS: u64 = 4;

const FILES: &[&str] = &["vote.a", "vote.b"];

/// What becomes of a write to the files that are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    Lost,
    To { file: usize, sector: u64 },
}

fn path_of(file: usize) -> PathBuf {
    dir().join(FILES[file])
}

/// Where the copies of the slots are, of one that no group has, too.
fn places(slots: u64) -> impl Iterator<Item = (usize, u64)> {
    let sectors = (0..slots).flat_map(|slot| [slot, slot + APART]);
    sectors.flat_map(|sector| [(0, sector), (1, sector)])
}

#[derive(Debug, Default)]
pub struct Plan {
    pub writes: usize,
    misses: Option<(usize, Miss)>,
    /// The step of the journal at which it did.
    pub missed: Option<usize>,
}

/// A disk that misses one write to some files.
#[derive(Clone, Debug)]
pub struct MissingDisk {
    disk: MemDisk,
    files: &'static [&'static str],
    pub plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct MissingFile {
    file: Arc<dyn DiskFile>,
    /// Which of them it is.
    number: usize,
    disk: MissingDisk,
}

impl MissingDisk {
    pub fn new(disk: &MemDisk, files: &'static [&'static str], misses: Option<(usize, Miss)>) -> Self {
        Self { disk: disk.clone(), files, plan: Arc::new(Mutex::new(Plan { misses, ..Plan::default() })) }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        match (0..self.files.len()).find(|number| path == dir().join(self.files[*number])) {
            Some(number) => Arc::new(MissingFile { file, number, disk: self.clone() }),
            None => file,
        }
    }
}

impl Disk for MissingDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.open(path)?))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.create(path)?))
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
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
}

impl DiskFile for MissingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut plan = self.disk.plan.lock().unwrap();
        plan.writes += 1;
        let number = plan.writes - 1;
        let Some((_, miss)) = plan.misses.filter(|(at, _)| *at == number) else {
            return self.file.write_at(bytes, offset);
        };
        if let Miss::To { file, sector } = miss {
            let target = self.disk.disk.open(&dir().join(self.disk.files[file]))?;
            let room = target.length()?.saturating_sub(sector * SECTOR) as usize;
            target.write_at(&bytes[..bytes.len().min(room)], sector * SECTOR)?;
            if file != self.number {
                target.sync_data()?;
            }
        }
        plan.missed = Some(self.disk.disk.journal_steps());
        Ok(bytes.len())
    }
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_vectored_at(buffers, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
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

/// What groups voted, and when that was acknowledged.
#[derive(Default)]
struct Voted {
    votes: Vec<Vote>,
    acknowledged: Vec<usize>,
}

/// Votes of all groups and of one in turn, with a restart, on a disk that misses one write.
struct Played {
    disk: MemDisk,
    groups: BTreeMap<GroupId, Voted>,
    writes: usize,
    missed: Option<usize>,
}

fn play(base: &MemDisk, groups: u64, misses: Option<(usize, Miss)>) -> Played {
    let disk = base.crashed(Crash::KeepAll);
    disk.start_journal();
    let missing = MissingDisk::new(&disk, FILES, misses);
    let plan = missing.plan.clone();
    let missing: Arc<dyn Disk> = Arc::new(missing);
    let mut voted: BTreeMap<GroupId, Voted> = (1..=groups).map(|group| (GroupId(group), Voted::default())).collect();
    let mut rig: Option<Rig> = None;
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            drop(rig.take());
            let (core, handle) = WalCore::open(missing.clone(), dir(), mending())
                .unwrap_or_else(|error| panic!("{misses:?}, round {round}: unopenable: {error}"));
            let opened = Rig { disk: disk.clone(), core, handle, told: Told::default(), now: Instant::ORIGIN };
            voted.keys().for_each(|group| drop(opened.group(*group).unwrap()));
            rig = Some(opened);
        }
        let rig = rig.as_mut().unwrap();
        let asked = voted.iter_mut().filter(|(group, _)| round % 2 == 0 || group.0 == 1 + round / 2 % groups);
        for (group, voted) in asked {
            let leader_id = LeaderId::new(round + 1, group.0);
            voted.votes.push(Vote { leader_id, committed: round % 3 == 0 });
            rig.handle.submit(*group, WriteId(round + 1), WalWrite::Vote(voted.votes[voted.votes.len() - 1]));
        }
        rig.settle();
        for (group, _, result, at) in rig.told() {
            assert!(result.is_ok(), "{misses:?}: {result:?}");
            voted.get_mut(&group).unwrap().acknowledged.push(at);
        }
    }
    drop(rig);
    let plan = plan.lock().unwrap();
    Played { disk, groups: voted, writes: plan.writes, missed: plan.missed }
}

/// A node of so many groups that has not voted yet.
fn blank(groups: u64) -> MemDisk {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, super::mending::SEGMENT_BYTES);
    (1..=groups).for_each(|group| drop(rig.group(GroupId(group)).unwrap()));
    rig.core.close(Instant::ORIGIN).unwrap();
    disk
}

impl Played {
    /// Opens it; every group's vote must be the last one acknowledged, or one that was asked for since.
    fn check(&self, disk: &MemDisk, steps: usize, what: &str) -> Result<(), WalError> {
        let rig = Rig::open(disk, mending())?;
        for (group, voted) in &self.groups {
            let floor = voted.acknowledged.iter().filter(|at| **at <= steps).count();
            let found = rig.group(*group).unwrap().vote;
            let votes: Vec<Vote> = [Vote::default()].into_iter().chain(voted.votes.iter().copied()).collect();
            let allowed = &votes[floor..];
            assert!(allowed.contains(&found), "{what}: lost: {group:?} voted {:?}, and says {found:?}", votes[floor]);
        }
        Ok(())
    }

    fn acknowledged_by(&self, steps: usize) -> u64 {
        let all = self.groups.values().flat_map(|voted| &voted.acknowledged);
        all.filter(|at| **at <= steps).count() as u64
    }
}

/// Every write of votes lost, and put in the place of every copy of every slot, in either file; then a crash at every
/// step, or none. One miss costs no vote, and the node always starts. Every `stride`th of them.
pub fn sweep_missed_votes(groups: u64, stride: usize) -> States {
    let base = blank(groups);
    let writes = play(&base, groups, None).writes;
    let mut states = States::default();
    let misses = || [Miss::Lost].into_iter().chain(places(groups + 1).map(|(file, sector)| Miss::To { file, sector }));
    let all = (0..writes).flat_map(|write| misses().map(move |miss| (write, miss)));
    for (write, miss) in all.step_by(stride) {
        let played = play(&base, groups, Some((write, miss)));
        let missed = played.missed.expect("the write is made");
        let mut replay = played.disk.replay();
        let mut here = States::default();
        loop {
            let steps = replay.steps();
            if steps >= missed {
                here.of_step(write as u64, &replay, played.acknowledged_by(steps), |crash, disk| {
                    let what = format!("{groups} groups, write {write} {miss:?}, {crash:?} at step {steps}");
                    let checked = played.check(disk, steps, &what);
                    checked.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
                });
            }
            if !replay.advance() {
                break;
            }
        }
        states = states + here;
    }
    states
}

/// A newest vote of which a write is missed, and damage to other copies: to one, and the vote is still known; to all
/// others, and the node says so. Never is it an older one. Returns the number of disks.
pub fn sweep_missed_and_damaged_votes(groups: u64) -> usize {
    let base = blank(groups);
    let whole = play(&base, groups, None);
    // The two last rounds, in which nothing is read again.
    let from = whole.writes - 4 * (groups as usize + 1);
    let misses = || [Miss::Lost].into_iter().chain(places(groups + 1).map(|(file, sector)| Miss::To { file, sector }));
    let mut disks = 0;
    for (write, miss) in (from..whole.writes).flat_map(|write| misses().map(move |miss| (write, miss))) {
        let played = play(&base, groups, Some((write, miss)));
        let steps = played.disk.journal_steps();
        for (file, sector) in places(groups + 1) {
            let disk = played.disk.crashed(Crash::KeepAll);
            spoil(&disk, file, sector);
            let what = format!("{groups} groups, write {write} {miss:?}, then damage to sector {sector} of {file}");
            let checked = played.check(&disk, steps, &what);
            checked.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
            disks += 1;
        }
        for slot in 0..groups {
            for spared in places(slot + 1).skip(4 * slot as usize) {
                let disk = played.disk.crashed(Crash::KeepAll);
                let copies = places(slot + 1).skip(4 * slot as usize).filter(|place| *place != spared);
                copies.for_each(|(file, sector)| spoil(&disk, file, sector));
                let what = format!("{groups} groups, write {write} {miss:?}, {spared:?} alone is left of slot {slot}");
                match played.check(&disk, steps, &what) {
                    Err(WalError::Corrupt(damage)) => {
                        assert!(damage.to_string().contains("vote."), "{what}: {damage}");
                    }
                    other => panic!("{what}: lost: {other:?}"),
                }
                disks += 1;
            }
        }
    }
    disks
}

/// Makes a sector one that no vote is.
fn spoil(disk: &MemDisk, file: usize, sector: u64) {
    let file = disk.open(&path_of(file)).unwrap();
    file.write_at(&[0xa5; SECTOR as usize], sector * SECTOR).unwrap();
    file.sync_data().unwrap();
}

/// A node is killed while it writes a vote; of the opening after that, which writes all votes again, the disk misses a write,
/// and then either file of votes is gone: what the opening said is what the next one says. Returns the number of disks.
pub fn sweep_missed_while_opening() -> usize {
    let disk = blank(1);
    let group = GroupId(1);
    let mut rig = Rig::open(&disk, mending()).unwrap();
    rig.group(group).unwrap();
    for term in 1..3 {
        if term == 2 {
            disk.start_journal();
        }
        let vote = Vote { leader_id: LeaderId::new(term, 1), committed: false };
        rig.handle.submit(group, WriteId(term), WalWrite::Vote(vote));
        rig.settle();
    }
    let without = |disk: &MemDisk, name: &str| {
        let disk = disk.crashed(Crash::KeepAll);
        disk.remove(&dir().join(name)).unwrap();
        disk.sync_dir(dir()).unwrap();
        disk
    };
    let (mut replay, mut disks) = (disk.replay(), 0);
    loop {
        let killed = replay.crashed(Crash::KeepAll);
        for gone in [None, Some("vote.a"), Some("vote.b")] {
            let open = |misses: Option<(usize, Miss)>| {
                let disk = gone.map_or_else(|| killed.crashed(Crash::KeepAll), |name| without(&killed, name));
                let missing = MissingDisk::new(&disk, FILES, misses);
                let plan = missing.plan.clone();
                let (core, handle) = WalCore::open(Arc::new(missing), dir(), mending()).unwrap();
                let rig = Rig { disk: disk.clone(), core, handle, told: Told::default(), now: Instant::ORIGIN };
                let vote = rig.group(group).unwrap().vote;
                (disk, vote, plan.lock().unwrap().writes)
            };
            let writes = open(None).2;
            let misses = || [Miss::Lost].into_iter().chain(places(2).map(|(file, sector)| Miss::To { file, sector }));
            for (write, miss) in (0..writes).flat_map(|write| misses().map(move |miss| (write, miss))) {
                let (opened, said, _) = open(Some((write, miss)));
                let what = format!("step {}, {gone:?} gone, write {write} {miss:?}", replay.steps());
                for next in FILES.iter().map(|name| without(&opened, name)).chain([opened.clone()]) {
                    match Rig::open(&next, mending()) {
                        Ok(rig) => assert_eq!(rig.group(group).unwrap().vote, said, "{what}: lost"),
                        // Both files were lost, one after the other: it may be refused, but never older.
                        Err(WalError::Corrupt(damage)) if miss != Miss::Lost || gone.is_some() => {
                            assert!(damage.to_string().contains("vote."), "{what}: {damage}");
                        }
                        Err(error) => panic!("{what}: unopenable: {error}"),
                    }
                    disks += 1;
                }
            }
        }
        if !replay.advance() {
            return disks;
        }
    }
}
