//! Snapshot files: written beside, made durable, then renamed (law 11).
//!
//! A snapshot is one file: a header, the content in chunks, and a manifest with what it holds and the checksum of
//! every chunk. The same bytes are sent to a peer. FORMAT.md, "Snapshot files".

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use quorate_core::{Bug, ClusterId, GroupId, SnapshotMeta, bug};
use quorate_wire::{decode_snapshot_meta, encode_snapshot_meta};

use crate::codec::{put_u32, put_u64, put_u128, u32_at, u64_at, u128_at};
use crate::copies::VERSION;
use crate::disk::{Disk, DiskFile, read_exact_at, read_up_to, read_whole, write_all_at};
use crate::error::WalError;
use crate::handle::lock;

/// Bytes of content under one checksum: 1 MiB.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Chunks that the disk may fetch ahead of the one that is read: one that is asked for more at a time does more, and a snapshot
/// is read from its start to its end.
const READ_AHEAD_CHUNKS: usize = 4;
const MAGIC: [u8; 8] = *b"QRMSNAPS";
const HEADER_BYTES: usize = 64;
const MANIFEST_MAGIC: u32 = u32::from_le_bytes(*b"QMAN");
const MANIFEST_HEAD_BYTES: usize = 24;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"QSNT");
const TRAILER_BYTES: usize = 32;
/// Largest manifest that is read: meta and the checksums of 16 TiB.
const MAX_MANIFEST_BYTES: u64 = 80 << 20;

/// Where snapshots are kept. Cheap to clone; every call may block.
#[derive(Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    /// `snapshots`, with a directory a group.
    dir: PathBuf,
    /// `incoming`: what is being written or received; emptied when the log is opened.
    incoming: PathBuf,
    /// `damaged`: what nobody reads any more, for whoever wants to look at it.
    aside: PathBuf,
    cluster: Mutex<ClusterId>,
    /// How often the directory was opened: what was made before is never taken for what is made now, even if whoever
    /// made it has not stopped.
    start: u64,
    next_name: Mutex<u64>,
}

/// A durable snapshot. Cheap to clone; stays readable when it is pruned.
#[derive(Clone)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    length: u64,
    content_bytes: u64,
    meta: Arc<SnapshotMeta>,
    chunks: Arc<[u32]>,
}

/// A file under a temporary name, removed when dropped unless it was renamed.
struct Temporary {
    store: SnapshotStore,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    kept: bool,
}

impl SnapshotStore {
    /// `start` counts the openings of this directory.
    pub(crate) fn open(disk: Arc<dyn Disk>, data_dir: &Path, cluster: ClusterId, start: u64) -> Result<Self, WalError> {
        let (dir, incoming) = (data_dir.join("snapshots"), data_dir.join("incoming"));
        for dir in [&dir, &incoming] {
            disk.create_dir_all(dir).map_err(WalError::io("create", dir))?;
        }
        for name in disk.list(&incoming).map_err(WalError::io("list", &incoming))? {
            let path = incoming.join(name);
            disk.remove(&path).map_err(WalError::io("remove", &path))?;
        }
        disk.sync_dir(&incoming).map_err(WalError::io("sync", &incoming))?;
        disk.sync_dir(data_dir).map_err(WalError::io("sync", data_dir))?;
        let aside = data_dir.join("damaged");
        let (cluster, next_name) = (Mutex::new(cluster), Mutex::new(0));
        let inner = Inner { disk, dir, incoming, aside, cluster, start, next_name };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        *lock(&self.inner.cluster) = cluster;
    }

    /// Starts a snapshot of a group. It does not exist until it is committed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<SnapshotWriter, WalError> {
        let temporary = self.temporary()?;
        let mut header = [0; HEADER_BYTES];
        header[0..8].copy_from_slice(&MAGIC);
        put_u32(&mut header, 8, VERSION);
        put_u32(&mut header, 12, SNAPSHOT_CHUNK_BYTES as u32);
        put_u128(&mut header, 16, lock(&self.inner.cluster).0);
        put_u64(&mut header, 32, group.0);
        let checksum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        put_u32(&mut header, HEADER_BYTES - 4, checksum);
        write_all_at(&*temporary.file, &header, 0).map_err(WalError::io("write", &temporary.path))?;
        Ok(SnapshotWriter {
            temporary,
            group,
            meta: meta.clone(),
            chunk: Vec::new(),
            chunks: Vec::new(),
            at: HEADER_BYTES as u64,
        })
    }

    /// The newest snapshot of a group.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if its header or manifest is damaged, or what the disk says.
    pub fn latest(&self, group: GroupId) -> Result<Option<SnapshotFile>, WalError> {
        self.stored(group, 0)
    }

    /// The newest snapshot of a group but `skip`.
    ///
    /// # Errors
    /// As for [`latest`](Self::latest).
    pub fn stored(&self, group: GroupId, skip: usize) -> Result<Option<SnapshotFile>, WalError> {
        match self.names(group)?.into_iter().rev().nth(skip) {
            Some(name) => self.open_file(group, &self.group_dir(group).join(name)).map(Some),
            None => Ok(None),
        }
    }

    /// Starts to receive a peer's snapshot file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn receive(&self, group: GroupId) -> Result<IncomingSnapshot, WalError> {
        Ok(IncomingSnapshot { temporary: self.temporary()?, group, length: 0 })
    }

    /// Takes over a peer's snapshot file that lies on this disk, without copying it: makes its bytes durable where it is,
    /// and verifies what it says of itself. Its content is verified as it is read, and what nobody read when it is
    /// [adopted](Self::adopt): a large one is read once. `None`: there is no such file on this disk.
    ///
    /// # Errors
    /// As for [`IncomingSnapshot::finish`]; the file is removed then.
    pub fn take_over(&self, group: GroupId, path: &Path) -> Result<Option<ReceivedSnapshot>, WalError> {
        let file = match self.inner.disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WalError::io("open", path)(error)),
        };
        let temporary = Temporary { store: self.clone(), path: path.to_path_buf(), file, kept: false };
        let length = temporary.file.length().map_err(WalError::io("read the length of", path))?;
        let incoming = IncomingSnapshot { temporary, group, length };
        let file = incoming.parse()?;
        incoming.synced(file, 0).map(Some)
    }

    /// Gives a received snapshot its final name; it is verified, durable, and the newest if none is newer, when this returns.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if what was not verified before is damaged, or what the disk says, or said to a reader of its
    /// content, who may have taken that for the end; then it is removed.
    pub fn adopt(&self, received: ReceivedSnapshot) -> Result<SnapshotFile, WalError> {
        let ReceivedSnapshot { temporary, group, file, progress } = received;
        if let Some(error) = progress.failed.get() {
            return Err(error.clone());
        }
        file.verify_from(progress.verified.load(Ordering::Acquire))?;
        self.publish(temporary, group, file)
    }

    /// Removes all snapshots of a group but the newest.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prune(&self, group: GroupId) -> Result<(), WalError> {
        let mut names = self.names(group)?;
        let dir = self.group_dir(group);
        if names.pop().is_none() || names.is_empty() {
            return Ok(());
        }
        for name in names {
            let path = dir.join(name);
            self.inner.disk.remove(&path).map_err(WalError::io("remove", &path))?;
        }
        self.inner.disk.sync_dir(&dir).map_err(WalError::io("sync", &dir))
    }

    /// Puts the `count` newest snapshots of a group, which are damaged, into the directory `damaged`: they are no
    /// snapshots any more. What was put there before stays, also of the same name: a leader may send the same snapshot
    /// again. Durable when it returns; a crash on the way leaves them damaged where they were, or there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_aside(&self, group: GroupId, count: usize) -> Result<(), WalError> {
        let Inner { disk, aside, dir: snapshots, .. } = &*self.inner;
        let dir = self.group_dir(group);
        disk.create_dir_all(aside).map_err(WalError::io("create", aside))?;
        if let Some(data_dir) = snapshots.parent() {
            disk.sync_dir(data_dir).map_err(WalError::io("sync", data_dir))?;
        }
        let mut taken = disk.list(aside).map_err(WalError::io("list", aside))?;
        for name in self.names(group)?.into_iter().rev().take(count) {
            let nth = |nth: usize| match nth {
                1 => format!("{}-{name}", group.0),
                _ => format!("{}-{nth}-{name}", group.0),
            };
            // One of these is free: there is one more of them than names that are taken.
            let Some(free) = (1..=taken.len() + 1).map(nth).find(|name| !taken.contains(name)) else { continue };
            let (from, to) = (dir.join(&name), aside.join(&free));
            disk.rename(&from, &to).map_err(WalError::io("rename", &from))?;
            taken.push(free);
        }
        // The new name first: a crash must not leave a file without any.
        for dir in [aside, &dir] {
            disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
        }
        Ok(())
    }

    fn group_dir(&self, group: GroupId) -> PathBuf {
        self.inner.dir.join(group.0.to_string())
    }

    /// Names of a group's snapshots, the newest last.
    fn names(&self, group: GroupId) -> Result<Vec<String>, WalError> {
        let dir = self.group_dir(group);
        match self.inner.disk.list(&dir) {
            Ok(names) => Ok(names.into_iter().filter(|name| name.ends_with(".snap")).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(WalError::io("list", &dir)(error)),
        }
    }

    fn temporary(&self) -> Result<Temporary, WalError> {
        let number = {
            let mut next = lock(&self.inner.next_name);
            *next += 1;
            *next
        };
        let path = self.inner.incoming.join(format!("{:016x}-{number:016x}.tmp", self.inner.start));
        let file = self.inner.disk.create(&path).map_err(WalError::io("create", &path))?;
        Ok(Temporary { store: self.clone(), path, file, kept: false })
    }

    /// Renames a durable file into place.
    fn publish(&self, mut temporary: Temporary, group: GroupId, file: SnapshotFile) -> Result<SnapshotFile, WalError> {
        let disk = &self.inner.disk;
        let dir = self.group_dir(group);
        disk.create_dir_all(&dir).map_err(WalError::io("create", &dir))?;
        disk.sync_dir(&self.inner.dir).map_err(WalError::io("sync", &self.inner.dir))?;
        let id = file.meta.last_log_id;
        // Sorted by name they are sorted by index.
        let name = format!("{:016x}-{:016x}-{:016x}.snap", id.index, id.leader_id.term, id.leader_id.node_id.0);
        let path = dir.join(name);
        disk.rename(&temporary.path, &path).map_err(WalError::io("rename", &temporary.path))?;
        temporary.kept = true;
        let left = temporary.path.parent().unwrap_or(&self.inner.incoming);
        for dir in [dir.as_path(), left] {
            disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
        }
        Ok(SnapshotFile { path, ..file })
    }

    fn open_file(&self, group: GroupId, path: &Path) -> Result<SnapshotFile, WalError> {
        let file = self.inner.disk.open(path).map_err(WalError::io("open", path))?;
        self.parse(group, path, file)
    }

    /// Reads and verifies header, trailer and manifest.
    fn parse(&self, group: GroupId, path: &Path, file: Arc<dyn DiskFile>) -> Result<SnapshotFile, WalError> {
        let read = |length: usize, at: u64| read_up_to(&*file, length, at).map_err(WalError::io("read", path));
        let length = file.length().map_err(WalError::io("read the length of", path))?;
        let header = read(HEADER_BYTES, 0)?;
        if header.len() < HEADER_BYTES || length < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(WalError::damaged(path, length, "the file is shorter than a snapshot"));
        }
        let stored = u32_at(&header, HEADER_BYTES - 4);
        let computed = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        if header[0..8] != MAGIC || stored != computed {
            return Err(WalError::checksum(path, 0, "the snapshot's header does not match", stored, computed));
        }
        match u32_at(&header, 8) {
            VERSION => {}
            found => return Err(WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION }),
        }
        if ClusterId(u128_at(&header, 16)) != *lock(&self.inner.cluster) || GroupId(u64_at(&header, 32)) != group {
            return Err(WalError::damaged(path, 16, "the snapshot is of another cluster or group"));
        }
        if u32_at(&header, 12) as usize != SNAPSHOT_CHUNK_BYTES {
            return Err(WalError::damaged(path, 12, "the snapshot has another chunk size than its version says"));
        }
        let trailer_at = length - TRAILER_BYTES as u64;
        let trailer = read(TRAILER_BYTES, trailer_at)?;
        let (stored, computed) = (u32_at(&trailer, 28), crc32c::crc32c(&trailer[..28]));
        let (manifest_bytes, manifest_at) = (u64::from(u32_at(&trailer, 4)), u64_at(&trailer, 8));
        if u32_at(&trailer, 0) != TRAILER_MAGIC || stored != computed || u64_at(&trailer, 16) != length {
            let what = "the snapshot's end does not match, or the file was cut";
            return Err(WalError::checksum(path, trailer_at, what, stored, computed));
        }
        let least = (MANIFEST_HEAD_BYTES + 4) as u64;
        let fits = (least..=MAX_MANIFEST_BYTES).contains(&manifest_bytes)
            && manifest_at.checked_add(manifest_bytes) == Some(trailer_at);
        if !fits {
            return Err(WalError::damaged(path, trailer_at, "the snapshot's manifest has an impossible place"));
        }
        let manifest = read(manifest_bytes as usize, manifest_at)?;
        let end = manifest.len() - 4;
        let (stored, computed) = (u32_at(&manifest, end), crc32c::crc32c(&manifest[..end]));
        if u32_at(&manifest, 0) != MANIFEST_MAGIC || stored != computed {
            return Err(WalError::checksum(
                path,
                manifest_at,
                "the snapshot's manifest does not match",
                stored,
                computed,
            ));
        }
        let (content_bytes, chunks, meta) = (u64_at(&manifest, 8), u64_at(&manifest, 16), u32_at(&manifest, 4));
        let chunks_at = MANIFEST_HEAD_BYTES as u64 + u64::from(meta);
        let consistent = content_bytes.div_ceil(SNAPSHOT_CHUNK_BYTES as u64) == chunks
            && content_bytes.checked_add(HEADER_BYTES as u64) == Some(manifest_at)
            && chunks_at + chunks * 4 == end as u64;
        if !consistent {
            return Err(WalError::damaged(path, manifest_at, "the snapshot's manifest contradicts itself"));
        }
        let meta = decode_snapshot_meta(&manifest[MANIFEST_HEAD_BYTES..chunks_at as usize])
            .map_err(|error| WalError::damaged(path, manifest_at, error.to_string()))?;
        let chunks = manifest[chunks_at as usize..end].chunks_exact(4).map(|chunk| u32_at(chunk, 0)).collect();
        Ok(SnapshotFile { path: path.to_path_buf(), file, length, content_bytes, meta: Arc::new(meta), chunks })
    }
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is removed when the log is opened.
            let _ = self.store.inner.disk.remove(&self.path);
        }
    }
}

/// A snapshot being written. Dropped without [`commit`](Self::commit), it is removed.
pub struct SnapshotWriter {
    temporary: Temporary,
    group: GroupId,
    meta: SnapshotMeta,
    /// Content not yet written; less than a chunk.
    chunk: Vec<u8>,
    chunks: Vec<u32>,
    at: u64,
}

impl SnapshotWriter {
    /// Makes the snapshot durable under its final name.
    ///
    /// # Errors
    /// What the disk says; then there is no snapshot.
    pub fn commit(mut self) -> Result<SnapshotFile, WalError> {
        let path = self.temporary.path.clone();
        self.write_chunk().map_err(WalError::io("write", &path))?;
        let content_bytes = self.at - HEADER_BYTES as u64;
        let mut meta = Vec::new();
        encode_snapshot_meta(&self.meta, &mut meta);
        let mut manifest = vec![0; MANIFEST_HEAD_BYTES];
        put_u32(&mut manifest, 0, MANIFEST_MAGIC);
        put_u32(&mut manifest, 4, meta.len() as u32);
        put_u64(&mut manifest, 8, content_bytes);
        put_u64(&mut manifest, 16, self.chunks.len() as u64);
        manifest.extend_from_slice(&meta);
        self.chunks.iter().for_each(|chunk| manifest.extend_from_slice(&chunk.to_le_bytes()));
        let checksum = crc32c::crc32c(&manifest);
        manifest.extend_from_slice(&checksum.to_le_bytes());
        let mut trailer = [0; TRAILER_BYTES];
        put_u32(&mut trailer, 0, TRAILER_MAGIC);
        put_u32(&mut trailer, 4, manifest.len() as u32);
        put_u64(&mut trailer, 8, self.at);
        put_u64(&mut trailer, 16, self.at + (manifest.len() + TRAILER_BYTES) as u64);
        let checksum = crc32c::crc32c(&trailer[..28]);
        put_u32(&mut trailer, 28, checksum);
        manifest.extend_from_slice(&trailer);
        let file = self.temporary.file.clone();
        write_all_at(&*file, &manifest, self.at).map_err(WalError::io("write", &path))?;
        if !bug(Bug::DiskSnapshotUnsynced) {
            file.sync_data().map_err(WalError::io("sync", &path))?;
        }
        let store = self.temporary.store.clone();
        let snapshot = SnapshotFile {
            path,
            file,
            length: self.at + manifest.len() as u64,
            content_bytes,
            meta: Arc::new(self.meta),
            chunks: self.chunks.into(),
        };
        store.publish(self.temporary, self.group, snapshot)
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            write_all_at(&*self.temporary.file, &self.chunk, self.at)?;
            self.chunks.push(crc32c::crc32c(&self.chunk));
            self.at += self.chunk.len() as u64;
            self.chunk.clear();
        }
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.len().min(SNAPSHOT_CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..some]);
        if self.chunk.len() == SNAPSHOT_CHUNK_BYTES {
            self.write_chunk()?;
        }
        Ok(some)
    }

    /// Does nothing: chunks are written whole.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotWriter").field("group", &self.group).field("at", &self.at).finish_non_exhaustive()
    }
}

impl SnapshotFile {
    /// What it holds.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Where the file is; gone once it is pruned.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes: what [`read_at`](Self::read_at) covers.
    #[expect(clippy::len_without_is_empty, reason = "a snapshot file is never empty")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Bytes of what the state machine wrote.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Reads the file's bytes, to send them: fewer than asked for, or 0 at the end. The receiver verifies them.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, WalError> {
        self.file.read_at(buffer, offset).map_err(WalError::io("read", &self.path))
    }

    /// The file's bytes, to send them: content is verified chunk by chunk before it is handed out.
    pub fn checked(&self) -> CheckedFile {
        CheckedFile { snapshot: self.clone(), number: None, chunk: Vec::new() }
    }

    /// What the state machine wrote, verified chunk by chunk before it is handed out.
    pub fn content(&self) -> SnapshotReader {
        let (snapshot, progress) = (self.clone(), Arc::default());
        SnapshotReader { snapshot, next: 0, chunk: Vec::new(), at: 0, reading: Reading::Again, progress }
    }

    /// Reads and verifies everything.
    ///
    /// # Errors
    /// [`WalError::Corrupt`], or what the disk says.
    pub fn verify(&self) -> Result<(), WalError> {
        self.verify_from(0)
    }

    fn verify_from(&self, first: usize) -> Result<(), WalError> {
        let mut chunk = Vec::new();
        (first..self.chunks.len()).try_for_each(|number| self.read_chunk(number, &mut chunk, Reading::Again))
    }

    fn read_chunk(&self, number: usize, chunk: &mut Vec<u8>, reading: Reading) -> Result<(), WalError> {
        let from = (number * SNAPSHOT_CHUNK_BYTES) as u64;
        let length = (self.content_bytes - from).min(SNAPSHOT_CHUNK_BYTES as u64);
        let at = HEADER_BYTES as u64 + from;
        chunk.resize(length as usize, 0);
        match reading {
            Reading::Once => read_whole(chunk, at, |buffer, at| self.file.read_once_at(buffer, at)),
            Reading::Again => {
                let (first, chunks) = if number == 0 { (0, 1 + READ_AHEAD_CHUNKS) } else { (READ_AHEAD_CHUNKS, 1) };
                let bytes = |chunks| (chunks * SNAPSHOT_CHUNK_BYTES) as u64;
                self.file.will_read(at + bytes(first), bytes(chunks));
                read_exact_at(&*self.file, chunk, at)
            }
        }
        .map_err(WalError::io("read", &self.path))?;
        let (stored, computed) = (self.chunks[number], crc32c::crc32c(chunk));
        match stored == computed {
            true => Ok(()),
            false => {
                Err(WalError::checksum(&self.path, at, "a chunk of the snapshot does not match", stored, computed))
            }
        }
    }
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotFile({}, {} bytes)", self.meta.last_log_id, self.length)
    }
}

/// Reads a snapshot's content.
#[derive(Debug)]
pub struct SnapshotReader {
    snapshot: SnapshotFile,
    next: usize,
    chunk: Vec<u8>,
    at: usize,
    reading: Reading,
    progress: Arc<Progress>,
}

/// Whether what is read is worth a place in the disk's cache.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// It just arrived, a large one past the cache, and a machine in memory is restored from it.
    Once,
    /// It may be in the cache, and be read again to be sent.
    Again,
}

/// What readers of a snapshot's content have seen.
#[derive(Debug, Default)]
struct Progress {
    /// How many chunks from the first on some of them has verified.
    verified: AtomicUsize,
    /// What the first one that failed met.
    failed: OnceLock<WalError>,
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && self.next < self.snapshot.chunks.len() {
            self.at = 0;
            if let Err(error) = self.snapshot.read_chunk(self.next, &mut self.chunk, self.reading) {
                // Who goes on after an error reads this chunk again, and nothing that was not verified.
                self.chunk.clear();
                let _first = self.progress.failed.set(error.clone());
                return Err(io::Error::other(error));
            }
            self.next += 1;
            self.progress.verified.fetch_max(self.next, Ordering::AcqRel);
        }
        let some = buffer.len().min(self.chunk.len() - self.at);
        buffer[..some].copy_from_slice(&self.chunk[self.at..self.at + some]);
        self.at += some;
        Ok(some)
    }
}

/// Reads a snapshot's file, to send it.
#[derive(Debug)]
pub struct CheckedFile {
    snapshot: SnapshotFile,
    /// Which chunk is in memory, verified.
    number: Option<usize>,
    chunk: Vec<u8>,
}

impl CheckedFile {
    /// Length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a snapshot file is never empty")]
    pub fn len(&self) -> u64 {
        self.snapshot.length
    }

    /// Appends at most `most` of the file's bytes from `offset` on; nothing at the end. What stands around the content was
    /// verified when the file was opened.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if they are content that is not what was written, or what the disk says.
    pub fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> Result<(), WalError> {
        let (mut at, end) = (offset, offset.saturating_add(most as u64).min(self.snapshot.length));
        while at < end {
            let content_at = at.checked_sub(HEADER_BYTES as u64).filter(|at| *at < self.snapshot.content_bytes);
            let until = match content_at {
                Some(content_at) => {
                    let within = (content_at % SNAPSHOT_CHUNK_BYTES as u64) as usize;
                    self.load((content_at / SNAPSHOT_CHUNK_BYTES as u64) as usize)?;
                    let some = &self.chunk[within..];
                    let some = &some[..some.len().min((end - at) as usize)];
                    to.extend_from_slice(some);
                    at + some.len() as u64
                }
                None => {
                    let until = if at < HEADER_BYTES as u64 { end.min(HEADER_BYTES as u64) } else { end };
                    let filled = to.len();
                    to.resize(filled + (until - at) as usize, 0);
                    let SnapshotFile { file, path, .. } = &self.snapshot;
                    read_exact_at(&**file, &mut to[filled..], at).map_err(WalError::io("read", path))?;
                    until
                }
            };
            at = until;
        }
        Ok(())
    }

    fn load(&mut self, number: usize) -> Result<(), WalError> {
        if self.number != Some(number) {
            self.number = None;
            match self.snapshot.read_chunk(number, &mut self.chunk, Reading::Again) {
                Err(WalError::Corrupt(_)) if bug(Bug::SendsUnverifiedSnapshot) => {}
                read => read?,
            }
            self.number = Some(number);
        }
        Ok(())
    }
}

/// A snapshot being received. Dropped without [`finish`](Self::finish), it is removed.
pub struct IncomingSnapshot {
    temporary: Temporary,
    group: GroupId,
    length: u64,
}

impl IncomingSnapshot {
    /// Adds the next bytes of the peer's file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let Temporary { file, path, .. } = &self.temporary;
        write_all_at(&**file, bytes, self.length).map_err(WalError::io("write", path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Bytes received: where a transfer goes on.
    #[expect(clippy::len_without_is_empty, reason = "the length is where a transfer goes on, not a collection's")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Verifies everything and makes the bytes durable. The snapshot still is not this node's.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if it did not arrive as it was sent, or is of another cluster or group, or what the disk
    /// says.
    pub fn finish(self) -> Result<ReceivedSnapshot, WalError> {
        let file = self.parse()?;
        file.verify()?;
        let verified = file.chunks.len();
        self.synced(file, verified)
    }

    fn parse(&self) -> Result<SnapshotFile, WalError> {
        let Temporary { store, path, file, .. } = &self.temporary;
        store.parse(self.group, path, file.clone())
    }

    fn synced(self, file: SnapshotFile, verified: usize) -> Result<ReceivedSnapshot, WalError> {
        let Self { temporary, group, .. } = self;
        file.file.sync_data().map_err(WalError::io("sync", &temporary.path))?;
        let progress = Progress { verified: AtomicUsize::new(verified), failed: OnceLock::new() };
        Ok(ReceivedSnapshot { temporary, group, file, progress: Arc::new(progress) })
    }
}

impl fmt::Debug for IncomingSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IncomingSnapshot({:?}, {} bytes)", self.group, self.length)
    }
}

/// A snapshot that arrived whole. Dropped without [`SnapshotStore::adopt`], it is removed.
pub struct ReceivedSnapshot {
    temporary: Temporary,
    group: GroupId,
    file: SnapshotFile,
    progress: Arc<Progress>,
}

impl ReceivedSnapshot {
    /// What it holds.
    pub fn meta(&self) -> &SnapshotMeta {
        self.file.meta()
    }

    /// What the sender's state machine wrote, verified chunk by chunk before it is handed out.
    pub fn content(&self) -> SnapshotReader {
        SnapshotReader { progress: Arc::clone(&self.progress), reading: Reading::Once, ..self.file.content() }
    }
}

impl fmt::Debug for ReceivedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceivedSnapshot({:?}, {:?})", self.group, self.file)
    }
}
