//! A file system in memory that knows what is durable and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const PAGE_BYTES: u64 = 4096;
const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
const SECTOR_BYTES: usize = 512;

/// What of the unsynced writes a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    DropAll,
    /// Everything: as if only the process had been killed.
    KeepAll,
    /// The first so many operations, in the order in which they were made, counted over all files and directories.
    KeepFirst(usize),
    /// A subset, drawn from this seed: of some operations all or nothing, of some writes single sectors of 512 bytes.
    Subset(u64),
}

/// A file's bytes. Copies share pages, so that a disk can be copied at every step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    pub(crate) length: u64,
}

#[derive(Clone, Debug)]
struct Page {
    bytes: [u8; PAGE_BYTES as usize],
    /// Of the bytes, once somebody asked: most pages are shared by thousands of disks.
    digest: OnceLock<u64>,
}

/// A change of a file.
#[derive(Clone, Debug)]
pub(crate) enum FileOp {
    Write { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

/// A change of a directory.
#[derive(Clone, Debug)]
enum DirOp {
    Link {
        path: PathBuf,
        inode: u64,
    },
    Unlink {
        path: PathBuf,
    },
    /// Within one directory: atomic.
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: u64,
    },
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Content,
    durable: Content,
    /// What was done after `durable`, with its place in the order of all operations.
    since: Vec<(u64, FileOp, Fate)>,
}

/// What a crash does to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may be lost; the next sync makes it durable.
    Unsynced,
    /// It may be lost: a sync failed, and no later one makes it durable.
    Doomed,
    /// It is durable, but follows on one that is not.
    Durable,
}

/// What was done to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create(PathBuf),
    File(u64, FileOp),
    Sync(u64),
    FailedSync(u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
    SyncDir(PathBuf),
}

/// The file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dir_ops: Vec<(u64, DirOp)>,
    /// Directories are durable at once: what matters is what is in them.
    dirs: BTreeSet<PathBuf>,
    next_inode: u64,
    order: u64,
}

impl Page {
    fn zero() -> Self {
        Self { bytes: [0; PAGE_BYTES as usize], digest: OnceLock::new() }
    }

    /// `None` of a page that reads like one that was never written.
    fn digest(&self) -> Option<u64> {
        let digest = *self.digest.get_or_init(|| match self.bytes.iter().all(|byte| *byte == 0) {
            true => 0,
            false => digest_of(&self.bytes).max(1),
        });
        (digest > 0).then_some(digest)
    }
}

fn digest_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Content {
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let length = buffer.len().min(usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES) as usize;
            let some = (PAGE_BYTES as usize - within).min(length - done);
            match self.pages.get(&(at / PAGE_BYTES)) {
                Some(page) => buffer[done..done + some].copy_from_slice(&page.bytes[within..within + some]),
                None => buffer[done..done + some].fill(0),
            }
            done += some;
        }
        length
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES) as usize;
            let some = (PAGE_BYTES as usize - within).min(bytes.len() - done);
            let part = &bytes[done..done + some];
            done += some;
            // What was never written reads as zeros.
            if part == &ZEROS[..some] && !self.pages.contains_key(&(at / PAGE_BYTES)) {
                continue;
            }
            let page = Arc::make_mut(self.pages.entry(at / PAGE_BYTES).or_insert_with(|| Arc::new(Page::zero())));
            page.bytes[within..within + some].copy_from_slice(part);
            page.digest = OnceLock::new();
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pages.retain(|page, _| page * PAGE_BYTES < length);
            let within = (length % PAGE_BYTES) as usize;
            if within > 0
                && let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES))
            {
                let page = Arc::make_mut(page);
                page.bytes[within..].fill(0);
                page.digest = OnceLock::new();
            }
        }
        self.length = length;
    }

    fn apply(&mut self, op: &FileOp) {
        match op {
            FileOp::Write { offset, bytes } => self.write(bytes, *offset),
            FileOp::Length(length) => self.set_length(*length),
        }
    }
}

impl Inode {
    /// Decides what was unsynced.
    fn settle(&mut self, decided: Fate) {
        for (_, _, fate) in self.since.iter_mut().filter(|(_, _, fate)| *fate == Fate::Unsynced) {
            *fate = decided;
        }
    }

    /// The operations that a crash may undo.
    fn unsafe_orders(&self) -> impl Iterator<Item = u64> + '_ {
        self.since.iter().filter(|(_, _, fate)| *fate != Fate::Durable).map(|(order, _, _)| *order)
    }
}

impl World {
    pub(crate) fn apply(&mut self, step: &Step) {
        self.order += 1;
        match step {
            Step::Create(path) => match self.names.get(path) {
                Some(inode) => self.change(*inode, &FileOp::Length(0)),
                None => {
                    self.next_inode += 1;
                    let inode = self.next_inode;
                    self.inodes.insert(inode, Inode::default());
                    self.names.insert(path.clone(), inode);
                    self.dir_ops.push((self.order, DirOp::Link { path: path.clone(), inode }));
                }
            },
            Step::File(inode, op) => self.change(*inode, op),
            Step::Sync(inode) => {
                if let Some(inode) = self.inodes.get_mut(inode) {
                    inode.settle(Fate::Durable);
                    let folded = inode.since.iter().take_while(|(_, _, fate)| *fate == Fate::Durable).count();
                    for (_, op, _) in inode.since.drain(..folded) {
                        inode.durable.apply(&op);
                    }
                }
            }
            Step::FailedSync(inode) => {
                if let Some(inode) = self.inodes.get_mut(inode) {
                    inode.settle(Fate::Doomed);
                }
            }
            Step::Rename(from, to) => {
                let Some(inode) = self.names.remove(from) else { return };
                self.names.insert(to.clone(), inode);
                if from.parent() == to.parent() {
                    self.dir_ops.push((self.order, DirOp::Rename { from: from.clone(), to: to.clone(), inode }));
                } else {
                    self.dir_ops.push((self.order, DirOp::Link { path: to.clone(), inode }));
                    self.dir_ops.push((self.order, DirOp::Unlink { path: from.clone() }));
                }
            }
            Step::Remove(path) => {
                self.names.remove(path);
                self.dir_ops.push((self.order, DirOp::Unlink { path: path.clone() }));
            }
            Step::MakeDir(dir) => {
                self.dirs.extend(dir.ancestors().map(Path::to_path_buf));
            }
            Step::SyncDir(dir) => {
                let (synced, rest) =
                    std::mem::take(&mut self.dir_ops).into_iter().partition(|(_, op)| op.dir() == Some(dir.as_path()));
                self.dir_ops = rest;
                let synced: Vec<(u64, DirOp)> = synced;
                synced.iter().for_each(|(_, op)| op.apply(&mut self.durable_names));
            }
        }
    }

    fn change(&mut self, inode: u64, op: &FileOp) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.live.apply(op);
            inode.since.push((self.order, op.clone(), Fate::Unsynced));
        }
    }

    pub(crate) fn inode(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    pub(crate) fn content(&self, inode: u64) -> Option<&Content> {
        self.inodes.get(&inode).map(|inode| &inode.live)
    }

    pub(crate) fn has_dir(&self, dir: &Path) -> bool {
        self.dirs.contains(dir)
    }

    /// Names of files and directories right under `dir`.
    pub(crate) fn list(&self, dir: &Path) -> Vec<String> {
        let below = self.names.keys().chain(&self.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<String> =
            below.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
        names.into_iter().collect()
    }

    /// Every file.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, u64)> + '_ {
        self.names.iter().map(|(path, inode)| (path.as_path(), self.content(*inode).map_or(0, |file| file.length)))
    }

    /// A number for all that a process that starts here can read: directories, names, lengths and bytes.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.dirs.hash(&mut hasher);
        for (path, inode) in &self.names {
            path.hash(&mut hasher);
            let Some(content) = self.content(*inode) else { continue };
            content.length.hash(&mut hasher);
            for (at, digest) in content.pages.iter().filter_map(|(at, page)| Some((at, page.digest()?))) {
                (at, digest).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Number of operations that a crash may undo.
    pub(crate) fn unsynced(&self) -> usize {
        self.dir_ops.len() + self.inodes.values().map(|inode| inode.unsafe_orders().count()).sum::<usize>()
    }

    /// Changes bytes behind the log's back, durably.
    pub(crate) fn flip(&mut self, path: &Path, offset: u64, mask: u8) {
        let Some(inode) = self.names.get(path).and_then(|inode| self.inodes.get_mut(inode)) else { return };
        for content in [&mut inode.live, &mut inode.durable] {
            let mut byte = [0];
            if content.read(&mut byte, offset) == 1 {
                content.write(&[byte[0] ^ mask], offset);
            }
        }
    }

    /// What a crash leaves.
    pub(crate) fn crashed(&self, crash: Crash) -> World {
        let mut orders: Vec<u64> = self.dir_ops.iter().map(|(order, _)| *order).collect();
        orders.extend(self.inodes.values().flat_map(Inode::unsafe_orders));
        orders.sort_unstable();
        let mut chance = Chance(match crash {
            Crash::Subset(seed) => seed,
            Crash::DropAll | Crash::KeepAll | Crash::KeepFirst(_) => 0,
        });
        let keep = |order: u64, chance: &mut Chance| match crash {
            Crash::DropAll => Kept::None,
            Crash::KeepAll => Kept::All,
            Crash::KeepFirst(n) => match orders.get(n) {
                Some(first_lost) if order >= *first_lost => Kept::None,
                _ => Kept::All,
            },
            Crash::Subset(_) => match chance.below(3) {
                0 => Kept::None,
                1 => Kept::All,
                _ => Kept::Sectors,
            },
        };
        let mut world = World { next_inode: self.next_inode, dirs: self.dirs.clone(), ..World::default() };
        world.durable_names = self.durable_names.clone();
        for (order, op) in &self.dir_ops {
            match keep(*order, &mut chance) {
                Kept::None => {}
                Kept::All | Kept::Sectors => op.apply(&mut world.durable_names),
            }
        }
        world.names = world.durable_names.clone();
        for inode in world.names.values() {
            let Some(found) = self.inodes.get(inode) else { continue };
            let mut content = found.durable.clone();
            for (order, op, fate) in &found.since {
                let kept = if *fate == Fate::Durable { Kept::All } else { keep(*order, &mut chance) };
                match (kept, op) {
                    (Kept::None, _) => {}
                    (Kept::Sectors, FileOp::Write { offset, bytes }) => {
                        write_some_sectors(&mut content, bytes, *offset, &mut chance);
                    }
                    (Kept::All | Kept::Sectors, op) => content.apply(op),
                }
            }
            let inode_after = Inode { live: content.clone(), durable: content, since: Vec::new() };
            world.inodes.insert(*inode, inode_after);
        }
        world
    }
}

/// What a crash keeps of one operation.
enum Kept {
    None,
    All,
    Sectors,
}

/// Writes a random subset of the sectors that `bytes` touches.
fn write_some_sectors(content: &mut Content, bytes: &[u8], offset: u64, chance: &mut Chance) {
    let mut at = 0;
    while at < bytes.len() {
        let within = ((offset + at as u64) % SECTOR_BYTES as u64) as usize;
        let end = (at + SECTOR_BYTES - within).min(bytes.len());
        if chance.below(2) == 0 {
            content.write(&bytes[at..end], offset + at as u64);
        }
        at = end;
    }
}

impl DirOp {
    fn dir(&self) -> Option<&Path> {
        match self {
            DirOp::Link { path, .. } | DirOp::Unlink { path } => path.parent(),
            DirOp::Rename { to, .. } => to.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            DirOp::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            DirOp::Unlink { path } => {
                names.remove(path);
            }
            DirOp::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// SplitMix64: small, seeded, good enough to choose sectors.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }
}
