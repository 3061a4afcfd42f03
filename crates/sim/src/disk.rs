//! A disk in memory that loses, tears, flips, misdirects and fails, as its fault settings say.
//!
//! A file has two contents: what a running system reads, and what a power cut would leave. A sync copies what was
//! written since from the first to the second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_wal::{Disk, DiskFile, DiskLock};

use crate::digest::Digest;
use crate::fault::{Fault, FaultSet};
use crate::rng::Rng;

const SECTOR_BYTES: usize = 512;
/// Where a durable state machine keeps its files, on its node's disk. A crash leaves of them what it leaves of all files;
/// other faults of disks are for the log, which says what it makes of them.
pub(crate) const MACHINE_DIRECTORY: &str = "/simulated-machine";

/// What of the unsynced writes a stop leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Everything: only the process was killed.
    KeepAll,
    /// Nothing that was not synced.
    DropAll,
    /// Some sectors. With the kinds of faults that say so, one of them may be torn in the middle, and a file longer than what is
    /// in it.
    Some,
}

/// What the next calls do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Armed {
    /// The next read fails.
    Read,
    /// The next write fails, with its first half written.
    Write,
    /// The next sync fails; what was unsynced never becomes durable.
    Sync,
    /// The next large write says that it was made, and was not.
    LostWrite,
    /// The next large write goes to another place of the same file.
    Misdirected,
}

/// What crashes and armed faults did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) lost_sectors: u64,
    pub(crate) torn_sectors: u64,
    pub(crate) zero_tails: u64,
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) sync_errors: u64,
    pub(crate) full_errors: u64,
    pub(crate) lost_writes: u64,
    pub(crate) misdirected_writes: u64,
    /// Reads of flipped bits by a process that runs: of its log or its snapshots.
    pub(crate) rotten_log_reads: u64,
    pub(crate) rotten_snapshot_reads: u64,
    /// Reads that failed because of a bad sector, without the first.
    pub(crate) bad_sector_reads: u64,
}

fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "snap")
}

/// A flipped bit, as long as nothing was written over it.
#[derive(Clone, Copy, Debug)]
struct Flip {
    file: usize,
    at: usize,
    in_snapshot: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// Shorter than `length` if the rest is zeros.
    bytes: Vec<u8>,
    length: u64,
}

impl Content {
    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let count = buffer.len().min(self.length.saturating_sub(offset) as usize);
        let have = (self.bytes.len() as u64).saturating_sub(offset).min(count as u64) as usize;
        if have > 0 {
            buffer[..have].copy_from_slice(&self.bytes[offset as usize..offset as usize + have]);
        }
        buffer[have..count].fill(0);
        count
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset as usize + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        self.length = self.length.max(end as u64);
    }

    fn set_length(&mut self, length: u64) {
        self.bytes.truncate(length as usize);
        self.length = length;
    }

    /// Copies a part of another content; what is not there is zeros.
    fn copy_part(&mut self, from: &Content, part: Range<usize>) {
        let have = from.bytes.len().min(part.end);
        if self.bytes.len() < part.end && have > part.start {
            self.bytes.resize(have.max(self.bytes.len()), 0);
        }
        let end = part.end.min(self.bytes.len());
        for (at, byte) in self.bytes[part.start.min(end)..end].iter_mut().enumerate() {
            *byte = from.bytes.get(part.start + at).copied().unwrap_or(0);
        }
        self.length = self.length.max(part.end.min(from.length as usize) as u64);
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Content,
    durable: Content,
    unsynced: Vec<Range<usize>>,
    /// Written before a sync that failed: no later sync makes it durable.
    doomed: Vec<Range<usize>>,
    /// The state machine's.
    sheltered: bool,
}

impl File {
    fn sync(&mut self) {
        for part in self.unsynced.drain(..) {
            self.durable.copy_part(&self.live, part);
        }
        if self.durable.length != self.live.length {
            let length = self.live.length;
            self.durable.set_length(length);
        }
    }

    fn stop(&mut self, crash: Crash, kinds: FaultSet, rng: &mut Rng, damage: &mut Damage) {
        let parts: Vec<Range<usize>> = self.unsynced.drain(..).chain(self.doomed.drain(..)).collect();
        match crash {
            Crash::KeepAll => {}
            Crash::DropAll | Crash::Some => {
                let grew = self.live.length > self.durable.length;
                for part in parts {
                    self.stop_part(part, crash, kinds, rng, damage);
                }
                if grew && crash == Crash::Some && kinds.has(Fault::ZeroTail) && rng.chance(800) {
                    // The length was written back, the content was not.
                    damage.zero_tails += 1;
                    let length = self.live.length;
                    self.durable.set_length(length.max(self.durable.length));
                }
                self.live = self.durable.clone();
            }
        }
    }

    fn stop_part(&mut self, part: Range<usize>, crash: Crash, kinds: FaultSet, rng: &mut Rng, damage: &mut Damage) {
        let mut at = part.start;
        while at < part.end {
            let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(part.end);
            match if crash == Crash::DropAll { 0 } else { rng.below(6) } {
                0..=1 => damage.lost_sectors += 1,
                2..=3 if end - at > 1 && kinds.has(Fault::TornSector) => {
                    damage.torn_sectors += 1;
                    let torn = at + 1 + rng.below((end - at) as u64 - 1) as usize;
                    self.durable.copy_part(&self.live, at..torn);
                }
                _ => self.durable.copy_part(&self.live, at..end),
            }
            at = end;
        }
    }
}

#[derive(Clone, Debug)]
enum DirOp {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    /// Within one directory.
    Rename(PathBuf, PathBuf, usize),
}

impl DirOp {
    fn dir(&self) -> Option<&Path> {
        match self {
            DirOp::Link(path, _) | DirOp::Unlink(path) | DirOp::Rename(_, path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            DirOp::Link(path, file) => {
                names.insert(path.clone(), *file);
            }
            DirOp::Unlink(path) => {
                names.remove(path);
            }
            DirOp::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Inner {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_dirs: Vec<DirOp>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    rng: Rng,
    kinds: FaultSet,
    armed: Option<Armed>,
    /// So many calls of that kind are still let through.
    spared: u64,
    /// Counts down to the moment from which every call fails without effect.
    dies_in: Option<u64>,
    capacity: Option<u64>,
    damage: Damage,
    /// A bit was flipped, or a write was lost or misplaced, since it was formatted.
    spoiled: bool,
    flips: Vec<Flip>,
    /// Every read of it fails, whoever reads, until something is written over it.
    bad: Option<(usize, Range<usize>)>,
    /// It was read.
    bad_met: bool,
    /// A process was started from it, and runs.
    at_work: bool,
}

/// The disk. Copies of the handle are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimDisk {
    /// Of the kinds of faults, it asks for those that a power cut has: half-written sectors, lengths without content.
    pub(crate) fn new(rng: Rng, kinds: FaultSet) -> Self {
        let inner = Inner {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_dirs: Vec::new(),
            dirs: BTreeSet::from([PathBuf::from("/")]),
            locks: BTreeSet::new(),
            rng,
            kinds,
            armed: None,
            spared: 0,
            dies_in: None,
            capacity: None,
            damage: Damage::default(),
            spoiled: false,
            flips: Vec::new(),
            bad: None,
            bad_met: false,
            at_work: false,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A disk of its own with the same content.
    pub(crate) fn copy(&self) -> Self {
        let mut inner = self.inner.lock().clone();
        inner.locks.clear();
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Whether the state machine keeps something here.
    pub(crate) fn shelters(&self) -> bool {
        self.inner.lock().names.keys().any(|path| path.starts_with(MACHINE_DIRECTORY))
    }

    /// From the call after `calls` more, every call fails and does nothing: the process is killed there.
    pub(crate) fn die_in(&self, calls: u64) {
        self.inner.lock().dies_in = Some(calls);
    }

    /// What a stop leaves; the next process finds it.
    pub(crate) fn stop(&self, crash: Crash) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.dies_in = None;
        inner.armed = None;
        inner.at_work = false;
        inner.locks.clear();
        if crash == Crash::KeepAll {
            // The system goes on, with what it has in memory.
            return;
        }
        let ops = std::mem::take(&mut inner.unsynced_dirs);
        // Directories are journalled: a crash keeps a prefix of what was done.
        let kept = match crash {
            Crash::KeepAll => ops.len(),
            Crash::DropAll => 0,
            Crash::Some => inner.rng.below(ops.len() as u64 + 1) as usize,
        };
        for op in &ops[..kept] {
            op.apply(&mut inner.durable_names);
        }
        inner.names = inner.durable_names.clone();
        let used: BTreeSet<usize> = inner.names.values().copied().collect();
        for (number, file) in inner.files.iter_mut().enumerate() {
            match used.contains(&number) {
                true => file.stop(crash, inner.kinds, &mut inner.rng, &mut inner.damage),
                false => *file = File::default(),
            }
        }
    }

    pub(crate) fn arm(&self, armed: Option<Armed>) {
        self.arm_after(armed, 0);
    }

    /// The same, after so many calls of that kind.
    pub(crate) fn arm_after(&self, armed: Option<Armed>, calls: u64) {
        let mut inner = self.inner.lock();
        (inner.armed, inner.spared) = (armed, calls);
    }

    pub(crate) fn armed(&self) -> Option<Armed> {
        self.inner.lock().armed
    }

    /// Leaves so many bytes of space; `None`: as many as one likes.
    pub(crate) fn leave_space(&self, bytes: Option<u64>) {
        let mut inner = self.inner.lock();
        let used = inner.used();
        inner.capacity = bytes.map(|bytes| used + bytes);
    }

    /// The process that was started from it runs: what it reads from now on is not read to start it.
    pub(crate) fn is_at_work(&self) {
        self.inner.lock().at_work = true;
    }

    /// Flips a bit of what was written to some file, of so many of a thousand times to a snapshot if there is one: segments
    /// are many and snapshots are few; `others` says whether it may be of another file at all. Returns which, if there
    /// was any.
    pub(crate) fn flip(&self, snapshots: u32, others: bool) -> Option<String> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let (path, number, at) = inner.pick_written(snapshots, others)?;
        let bit = 1 << inner.rng.below(8);
        let file = &mut inner.files[number];
        for content in [&mut file.live, &mut file.durable] {
            if let Some(byte) = content.bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
        inner.spoiled = true;
        inner.flips.push(Flip { file: number, at, in_snapshot: is_snapshot(&path) });
        Some(format!("{} at {at}", path.display()))
    }

    /// A sector of what was written goes bad, of the same files as bits flip in: every read of it fails from now on, also
    /// after a restart, until it is written to. Returns which, if there was any.
    pub(crate) fn go_bad(&self, snapshots: u32) -> Option<String> {
        let mut inner = self.inner.lock();
        let (path, file, at) = inner.pick_written(snapshots, true)?;
        let first = at / SECTOR_BYTES * SECTOR_BYTES;
        (inner.bad, inner.bad_met) = (Some((file, first..first + SECTOR_BYTES)), false);
        Some(format!("{} at {first}", path.display()))
    }

    /// Whether it has a bad sector in a file that is still there, or that a power cut may bring back.
    pub(crate) fn has_bad_sector(&self) -> bool {
        let inner = self.inner.lock();
        let mut named = inner.names.values().chain(inner.durable_names.values());
        inner.bad.as_ref().is_some_and(|(file, _)| named.any(|named| named == file))
    }

    /// Whether something that was written is not what was written, for another reason than a crash.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.inner.lock().spoiled
    }

    /// Takes in all files by their names, as a running system reads them and as a power cut would leave them.
    pub(crate) fn hash(&self, digest: &mut Digest) {
        let inner = self.inner.lock();
        for names in [&inner.names, &inner.durable_names] {
            for (path, file) in names {
                digest.bytes(path.as_os_str().as_encoded_bytes());
                for content in [&inner.files[*file].live, &inner.files[*file].durable] {
                    digest.bytes(&content.bytes);
                    digest.word(content.length);
                }
            }
        }
    }

    /// What went wrong since it was last taken.
    pub(crate) fn damage(&self) -> Damage {
        self.inner.lock().damage
    }

    /// What went wrong since the last call.
    pub(crate) fn take_damage(&self) -> Damage {
        std::mem::take(&mut self.inner.lock().damage)
    }
}

impl Inner {
    /// A place in some file at which something was written: what happens to unused space harms nobody.
    fn pick_written(&mut self, snapshots: u32, others: bool) -> Option<(PathBuf, usize, usize)> {
        let damaged = |path: &&PathBuf| path.parent().is_some_and(|dir| dir.ends_with("damaged"));
        let aside = |path: &&PathBuf| damaged(path) || path.starts_with(MACHINE_DIRECTORY);
        let mut paths: Vec<PathBuf> = self.names.keys().filter(|path| !aside(path)).cloned().collect();
        if !others || self.rng.chance(snapshots) && paths.iter().any(|path| is_snapshot(path)) {
            paths.retain(|path| is_snapshot(path));
        }
        if paths.is_empty() {
            return None;
        }
        let path = self.rng.pick(&paths).clone();
        let number = *self.names.get(&path)?;
        let bytes = self.files[number].durable.bytes.iter();
        let written: Vec<usize> = bytes.enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        if written.is_empty() {
            return None;
        }
        let at = *self.rng.pick(&written);
        Some((path, number, at))
    }

    /// Whether this part of a file has a bad sector; a read of it fails.
    fn meets_bad_sector(&mut self, file: usize, part: &Range<usize>) -> bool {
        let meets = |bad: &(usize, Range<usize>)| bad.0 == file && bad.1.start < part.end && part.start < bad.1.end;
        if !self.bad.as_ref().is_some_and(meets) {
            return false;
        }
        self.damage.bad_sector_reads += u64::from(std::mem::replace(&mut self.bad_met, true));
        true
    }

    fn call(&mut self) -> io::Result<()> {
        match &mut self.dies_in {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the process was killed")),
            Some(calls) => {
                *calls -= 1;
                Ok(())
            }
        }
    }

    fn take_armed(&mut self, which: Armed, file: usize) -> bool {
        let armed = self.armed == Some(which) && !self.files[file].sheltered;
        if armed && self.spared > 0 {
            self.spared -= 1;
            return false;
        }
        if armed {
            self.armed = None;
        }
        armed
    }

    /// A process that runs reads this part of a file.
    fn note_rotten(&mut self, file: usize, part: Range<usize>) {
        let here = |flip: &&Flip| self.at_work && flip.file == file && part.contains(&flip.at);
        match self.flips.iter().find(here).map(|flip| flip.in_snapshot) {
            Some(true) => self.damage.rotten_snapshot_reads += 1,
            Some(false) => self.damage.rotten_log_reads += 1,
            None => {}
        }
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|file| &self.files[*file])
            .filter(|file| !file.sheltered)
            .map(|file| file.live.length)
            .sum()
    }

    fn grow(&mut self, file: usize, length: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity.filter(|_| !self.files[file].sheltered) else { return Ok(()) };
        let present = self.files[file].live.length;
        if length > present && self.used() + (length - present) > capacity {
            self.damage.full_errors += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn found(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn dir_op(&mut self, op: DirOp) {
        op.apply(&mut self.names);
        self.unsynced_dirs.push(op);
    }

    fn write(&mut self, number: usize, bytes: &[u8], mut offset: u64) -> io::Result<usize> {
        self.call()?;
        self.grow(number, offset + bytes.len() as u64)?;
        let large = bytes.len() >= SECTOR_BYTES;
        if large && self.take_armed(Armed::LostWrite, number) {
            self.damage.lost_writes += 1;
            self.spoiled = true;
            return Ok(bytes.len());
        }
        if large && self.files[number].live.length > offset && self.take_armed(Armed::Misdirected, number) {
            self.damage.misdirected_writes += 1;
            self.spoiled = true;
            let sectors = self.files[number].live.length.saturating_sub(bytes.len() as u64) / SECTOR_BYTES as u64;
            offset = self.rng.below(sectors.max(1)) * SECTOR_BYTES as u64;
        }
        let fails = self.take_armed(Armed::Write, number);
        let written = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        let part = offset as usize..offset as usize + written.len();
        self.flips.retain(|flip| flip.file != number || !part.contains(&flip.at));
        // What is written to a bad sector is written to another one in its place.
        self.bad.take_if(|bad| bad.0 == number && bad.1.start < part.end && part.start < bad.1.end);
        let file = &mut self.files[number];
        file.live.write(written, offset);
        file.unsynced.push(offset as usize..offset as usize + written.len());
        if fails {
            self.damage.write_errors += 1;
            return Err(io::Error::other("injected: a write failed"));
        }
        Ok(bytes.len())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.call()?;
        let file = inner.found(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.call()?;
        if path.parent().is_some_and(|dir| !inner.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = match inner.found(path) {
            Ok(file) => {
                inner.files[file].live.set_length(0);
                file
            }
            Err(_) => {
                let sheltered = path.starts_with(MACHINE_DIRECTORY);
                inner.files.push(File { sheltered, ..File::default() });
                let file = inner.files.len() - 1;
                inner.dir_op(DirOp::Link(path.to_path_buf(), file));
                file
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.inner.lock();
        inner.call()?;
        if !inner.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = inner.names.keys().chain(&inner.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<String> =
            below.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call()?;
        let file = inner.found(from)?;
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        if from.parent() == to.parent() {
            inner.dir_op(DirOp::Rename(from, to, file));
        } else {
            // Each directory is synced by itself. As one operation of the new one it would come before the link of a new
            // file's old name, which is then durable for ever.
            inner.dir_op(DirOp::Link(to, file));
            inner.dir_op(DirOp::Unlink(from));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call()?;
        inner.found(path)?;
        inner.dir_op(DirOp::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call()?;
        // Directories are durable at once: what matters is what is in them.
        inner.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call()?;
        let inner = &mut *inner;
        let names = &mut inner.durable_names;
        inner.unsynced_dirs.retain(|op| {
            let here = op.dir() == Some(dir);
            if here {
                op.apply(names);
            }
            !here
        });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut inner = self.inner.lock();
        inner.call()?;
        let taken = inner.locks.insert(path.to_path_buf());
        Ok(taken.then(|| Box::new(SimLock { disk: self.clone(), path: path.to_path_buf() }) as Box<dyn DiskLock>))
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.inner.lock().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.inner.lock();
        inner.call()?;
        let part = offset as usize..offset as usize + buffer.len();
        if inner.meets_bad_sector(self.file, &part) || inner.take_armed(Armed::Read, self.file) {
            inner.damage.read_errors += 1;
            return Err(io::Error::other("injected: a read failed"));
        }
        let count = inner.files[self.file].live.read(buffer, offset);
        inner.note_rotten(self.file, offset as usize..offset as usize + count);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.inner.lock().write(self.file, bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        self.write_at(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.call()?;
        let fails = inner.take_armed(Armed::Sync, self.file);
        let file = &mut inner.files[self.file];
        if fails {
            file.doomed.append(&mut file.unsynced);
            inner.damage.sync_errors += 1;
            return Err(io::Error::other("injected: a sync failed"));
        }
        file.sync();
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.call()?;
        inner.grow(self.file, length)?;
        inner.files[self.file].live.set_length(length);
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match self.length()? < length {
            true => self.set_len(length),
            false => Ok(()),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.inner.lock().files[self.file].live.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path)).ok()?;
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn a_power_cut_leaves_what_was_synced() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(b"two", 1).unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), b"otwo");
        disk.stop(Crash::DropAll);
        assert_eq!(read(&disk, "/a").unwrap(), b"one");
    }

    #[test]
    fn a_power_cut_does_nothing_of_a_kind_that_is_left_out() {
        let all = [FaultSet::NONE, FaultSet::NONE.with(Fault::TornSector), FaultSet::NONE.with(Fault::ZeroTail)];
        let counted = all.map(|kinds| {
            let mut counted = Damage::default();
            for seed in 0..100 {
                let disk = SimDisk::new(Rng::new(seed, 1), kinds);
                let file = disk.create(Path::new("/a")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                file.write_at(&[1; 4 * SECTOR_BYTES], 0).unwrap();
                disk.stop(Crash::Some);
                let damage = disk.take_damage();
                counted.lost_sectors += damage.lost_sectors;
                counted.torn_sectors += damage.torn_sectors;
                counted.zero_tails += damage.zero_tails;
            }
            [counted.lost_sectors, counted.torn_sectors, counted.zero_tails].map(|times| times > 0)
        });
        assert_eq!(counted, [[true, false, false], [true, true, false], [true, false, true]]);
    }

    #[test]
    fn a_killed_process_leaves_everything() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        disk.create(Path::new("/a")).unwrap().write_at(b"one", 0).unwrap();
        disk.stop(Crash::KeepAll);
        assert_eq!(read(&disk, "/a").unwrap(), b"one");
    }

    #[test]
    fn a_failed_sync_is_never_made_good_by_the_next() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(b"one", 0).unwrap();
        disk.arm(Some(Armed::Sync));
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), b"one");
        disk.stop(Crash::DropAll);
        assert_eq!(read(&disk, "/a").unwrap(), b"\0\0\0", "the length was synced, the bytes were not");
    }

    #[test]
    fn a_bad_sector_fails_every_read_until_it_is_written_to() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        assert!(disk.go_bad(0).is_none() && !disk.has_bad_sector(), "there is nothing that could go bad");
        let file = disk.create(Path::new("/a")).unwrap();
        file.write_at(&[1; SECTOR_BYTES], 0).unwrap();
        file.sync_data().unwrap();
        assert!(disk.go_bad(0).is_some() && disk.has_bad_sector());
        file.write_at(&[1; SECTOR_BYTES], SECTOR_BYTES as u64).unwrap();
        for crash in [Crash::KeepAll, Crash::Some] {
            assert!(file.read_at(&mut [0; 9], 500).is_err());
            file.read_at(&mut [0; 9], SECTOR_BYTES as u64).unwrap();
            disk.stop(crash);
        }
        assert_eq!((disk.damage().read_errors, disk.damage().bad_sector_reads), (2, 1));
        assert!(!disk.is_spoiled(), "it gives back no other bytes");
        file.write_at(&[2; 4], 7).unwrap();
        assert!(!disk.has_bad_sector());
        file.read_at(&mut [0; 9], 500).unwrap();
    }

    #[test]
    fn a_bad_sector_stays_as_long_as_a_power_cut_may_bring_its_file_back() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let (path, root) = (Path::new("/a"), Path::new("/"));
        let file = disk.create(path).unwrap();
        file.write_at(&[1; SECTOR_BYTES], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(root).unwrap();
        assert!(disk.go_bad(0).is_some());
        disk.remove(path).unwrap();
        let cut = disk.copy();
        cut.stop(Crash::DropAll);
        assert!(cut.open(path).is_ok() && disk.has_bad_sector());
        disk.sync_dir(root).unwrap();
        assert!(!disk.has_bad_sector());
    }

    #[test]
    fn a_file_that_moved_has_its_old_name_no_more_when_both_directories_are_synced() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let (old, new) = (Path::new("/old/a"), Path::new("/new/b"));
        let [from, to] = [old, new].map(|path| path.parent().unwrap());
        [from, to].iter().for_each(|dir| disk.create_dir_all(dir).unwrap());
        let after_a_cut = || {
            let disk = disk.copy();
            disk.stop(Crash::DropAll);
            [old, new].map(|path| disk.open(path).is_ok())
        };
        disk.create(old).unwrap();
        disk.rename(old, new).unwrap();
        assert_eq!(after_a_cut(), [false, false]);
        disk.sync_dir(to).unwrap();
        assert_eq!(after_a_cut(), [false, true]);
        disk.sync_dir(from).unwrap();
        assert_eq!(after_a_cut(), [false, true], "its old name was never durable");
        disk.rename(new, old).unwrap();
        disk.sync_dir(from).unwrap();
        assert_eq!(after_a_cut(), [true, true], "of the other directory nothing is known");
        disk.sync_dir(to).unwrap();
        assert_eq!(after_a_cut(), [true, false]);
    }

    #[test]
    fn a_disk_is_spoiled_by_what_changes_it_and_by_nothing_else() {
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let file = disk.create(Path::new("/a")).unwrap();
        let page = [1; SECTOR_BYTES * 2];
        for armed in [Armed::Write, Armed::Sync] {
            disk.arm(Some(armed));
            assert!(file.write_at(&page, 0).and_then(|_| file.sync_data()).is_err());
        }
        disk.arm(Some(Armed::LostWrite));
        file.write_at(b"short", 0).unwrap();
        disk.stop(Crash::DropAll);
        assert!(!disk.is_spoiled(), "what was armed never struck");
        let struck = |armed: Armed| {
            let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
            let file = disk.create(Path::new("/a")).unwrap();
            file.write_at(&page, 0).unwrap();
            disk.arm(Some(armed));
            file.write_at(&page, 0).unwrap();
            (disk.is_spoiled(), disk.copy().is_spoiled())
        };
        assert_eq!([struck(Armed::LostWrite), struck(Armed::Misdirected)], [(true, true); 2]);
        let disk = SimDisk::new(Rng::new(1, 1), FaultSet::ALL);
        let file = disk.create(Path::new("/a")).unwrap();
        assert!(disk.flip(0, true).is_none() && !disk.is_spoiled(), "there is nothing to flip");
        file.write_at(&page, 0).unwrap();
        file.sync_data().unwrap();
        assert!(disk.flip(0, false).is_none() && disk.flip(0, true).is_some() && disk.is_spoiled());
    }
}
