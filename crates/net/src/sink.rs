//! Where a snapshot that arrives is put, and what is left of one that did not arrive whole.
//!
//! A part stays under a name that says which snapshot it is of: sender, disk, what it holds, length. A later transfer of
//! the same one goes on from there, also after a restart; the first transfer of another one removes it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::GroupId;
use quorate_wire::encode_snapshot_meta;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use crate::ReceivedData;
use crate::direct::{BLOCK_BYTES, DirectFile};
use crate::error::Break;
use crate::hello::PeerHello;
use crate::snapshot::{Begin, Point, blocking, finished};
use crate::transport::Inner;

/// Ends the names of files that arrived whole and belong to the library.
const WHOLE_SUFFIX: &str = ".incoming";
/// Ends the names of files that are being received, or wait for the rest.
const PART_SUFFIX: &str = ".part";
/// Written bytes that are made durable at a time, so that the end of a large snapshot does not wait for all of it.
const SYNC_BYTES: usize = 16 << 20;
/// Most bytes that are written while earlier ones are made durable: two tenths of a second of a disk of 300 MB/s.
const MOST_UNSYNCED_BYTES: usize = 4 * SYNC_BYTES;
/// Bytes read at a time to find the checksum of what is there.
const READ_BYTES: usize = 1 << 20;

/// What the transfers of a node share.
#[derive(Default)]
pub(crate) struct Transfers {
    /// When the next chunk may be sent.
    free_at: Mutex<Option<Instant>>,
    /// Who receives for a group.
    turns: Mutex<HashMap<GroupId, Arc<Slot>>>,
}

/// One transfer of a group at a time writes files: the newest.
#[derive(Default)]
struct Slot {
    newest: AtomicU64,
    changed: Notify,
    busy: Arc<tokio::sync::Mutex<()>>,
}

/// A transfer's turn to write the files of its group.
pub(crate) struct Turn {
    slot: Arc<Slot>,
    number: u64,
    _guard: OwnedMutexGuard<()>,
}

impl Transfers {
    /// Waits until so many bytes may be sent at `rate` bytes a second, over all transfers.
    pub(crate) async fn wait_for(&self, bytes: u64, rate: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(at + takes);
            at
        };
        sleep_until(at).await;
    }

    /// Ends the transfer of this group that is under way, if any, and takes its place: its connection may be dead
    /// without anybody having noticed.
    pub(crate) async fn take_turn(&self, group: GroupId) -> Turn {
        let slot = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(group).or_default())
        };
        let number = slot.newest.fetch_add(1, SeqCst) + 1;
        slot.changed.notify_waiters();
        let guard = Arc::clone(&slot.busy).lock_owned().await;
        Turn { slot, number, _guard: guard }
    }
}

impl Turn {
    /// Waits until a newer transfer wants the place.
    pub(crate) fn overtaken(&self) -> impl Future<Output = ()> + use<> {
        let (slot, number) = (Arc::clone(&self.slot), self.number);
        async move {
            loop {
                let changed = slot.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if slot.newest.load(SeqCst) != number {
                    return;
                }
                changed.await;
            }
        }
    }
}

/// Where a snapshot that arrives is put.
pub(crate) enum Sink {
    File(Filling),
    Memory(Vec<u8>),
}

/// A file that is being written. One chunk is written, and what was written before is made durable, while the next one
/// arrives.
pub(crate) struct Filling {
    file: Arc<DirectFile>,
    /// Where the next content goes.
    at: u64,
    /// Also held by whatever is under way, for the next transfer must not begin before that is over.
    part: Arc<Part>,
    writing: Option<JoinHandle<io::Result<()>>>,
    syncing: Option<JoinHandle<io::Result<()>>>,
    /// Bytes that the sync under way, or the last one, does not cover.
    unsynced: usize,
}

impl Sink {
    /// Opens the file for this snapshot, with what is there of it.
    pub(crate) async fn open(
        inner: &Inner,
        begin: &Begin,
        peer: &PeerHello,
        turn: Turn,
    ) -> Result<(Self, Point), Break> {
        let Some(dir) = inner.options.incoming_dir.clone() else {
            return Ok((Sink::Memory(Vec::new()), Point::default()));
        };
        let mut meta = Vec::new();
        encode_snapshot_meta(&begin.meta, &mut meta);
        let group = format!("group-{}-from-", begin.group);
        let (from, disk, length) = (peer.node, peer.incarnation.0, begin.length);
        let name = format!("{group}{from}-{disk:032x}-{:08x}-{length}{PART_SUFFIX}", crc32c::crc32c(&meta));
        let opened = blocking(move || {
            for entry in fs::read_dir(&dir)? {
                let other = entry?.file_name().to_string_lossy().into_owned();
                if other.starts_with(&group) && other.ends_with(PART_SUFFIX) && other != name {
                    fs::remove_file(dir.join(other))?;
                }
            }
            let path = dir.join(name);
            let file = DirectFile::open(&path)?;
            let has = measure(file.file(), length)?;
            let part = Arc::new(Part { path: Mutex::new(Some(path)), spoilt: Spoilt::default(), _turn: turn });
            let file = Arc::new(file);
            Ok((Sink::File(Filling { file, at: has.offset, part, writing: None, syncing: None, unsynced: 0 }), has))
        });
        opened.await.map_err(not_written)
    }

    /// Lets its file be removed.
    pub(crate) fn spoilt(&self) -> Spoilt {
        match self {
            Sink::File(filling) => filling.part.spoilt.clone(),
            Sink::Memory(_) => Spoilt::default(),
        }
    }

    /// Forgets what is there; nothing was written yet.
    pub(crate) async fn clear(&mut self) -> Result<(), Break> {
        match self {
            Sink::Memory(bytes) => bytes.clear(),
            Sink::File(filling) => {
                filling.at = 0;
                let cleared = filling.begin(|file| file.file().set_len(0));
                finished(cleared).await.map_err(not_written)?;
            }
        }
        Ok(())
    }

    /// Takes the next content. It is being written when this returns; whether it could be is told by the next call.
    pub(crate) async fn write(&mut self, content: Bytes) -> Result<(), Break> {
        match self {
            Sink::Memory(bytes) => bytes.extend_from_slice(&content),
            Sink::File(filling) => filling.write(content).await.map_err(not_written)?,
        }
        Ok(())
    }

    /// Makes the content durable and hands it over, under a name of its own.
    pub(crate) async fn finish(self, inner: &Inner, begin: &Begin) -> Result<ReceivedData, Break> {
        match self {
            Sink::Memory(bytes) => Ok(ReceivedData::Memory(bytes.into())),
            Sink::File(filling) => {
                let number = inner.next_file.fetch_add(1, Relaxed);
                let name = format!("group-{}-{number}{WHOLE_SUFFIX}", begin.group);
                Ok(ReceivedData::File(filling.finish(name).await.map_err(not_written)?))
            }
        }
    }
}

impl Filling {
    async fn write(&mut self, content: Bytes) -> io::Result<()> {
        self.written().await?;
        // A disk that is slower than the network is waited for, or its cache would fill with what others wait behind.
        if self.unsynced >= MOST_UNSYNCED_BYTES || self.syncing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.synced().await?;
        }
        if self.unsynced >= SYNC_BYTES && self.syncing.is_none() {
            self.syncing = Some(self.begin(|file| file.file().sync_data()));
            self.unsynced = 0;
        }
        self.unsynced += content.len();
        let at = self.at;
        self.at += content.len() as u64;
        self.writing = Some(self.begin(move |file| file.write_all_at(&content, at)));
        Ok(())
    }

    async fn finish(mut self, name: String) -> io::Result<PathBuf> {
        self.written().await?;
        self.synced().await?;
        finished(self.begin(|file| file.file().sync_all())).await?;
        let Self { part, .. } = self;
        blocking(move || {
            let mut path = part.path.lock().unwrap_or_else(PoisonError::into_inner);
            let from = path.take().unwrap_or_default();
            let to = from.with_file_name(name);
            fs::rename(&from, &to)?;
            Ok(to)
        })
        .await
    }

    /// Begins work on the file. A full disk is not helped by keeping the part; after a failed sync nothing is known of it.
    fn begin(&self, work: impl FnOnce(&DirectFile) -> io::Result<()> + Send + 'static) -> JoinHandle<io::Result<()>> {
        let (file, part) = (Arc::clone(&self.file), Arc::clone(&self.part));
        spawn_blocking(move || work(&file).inspect_err(|_| part.spoilt.spoil()))
    }

    async fn written(&mut self) -> io::Result<()> {
        match self.writing.take() {
            Some(writing) => finished(writing).await,
            None => Ok(()),
        }
    }

    async fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(syncing) => finished(syncing).await,
            None => Ok(()),
        }
    }
}

/// Length and checksum of what is there of `length` bytes: whole blocks, so that what follows can be written past the cache.
fn measure(mut file: &File, length: u64) -> io::Result<Point> {
    let present = file.metadata()?.len();
    if present > length {
        file.set_len(0)?;
    } else if present < length {
        file.set_len(present - present % BLOCK_BYTES as u64)?;
    }
    let (mut has, mut buffer) = (Point::default(), vec![0; READ_BYTES]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(has);
        }
        has.offset += count as u64;
        has.checksum = crc32c::crc32c_append(has.checksum, &buffer[..count]);
    }
}

fn not_written(source: io::Error) -> Break {
    Break::Content(format!("cannot write the snapshot: {source}"))
}

/// A file that waits for the rest unless it was spoilt.
pub(crate) struct Part {
    /// `None` once it has another name.
    path: Mutex<Option<PathBuf>>,
    spoilt: Spoilt,
    /// Ends after the last write to the file.
    _turn: Turn,
}

/// Whether a part is of no use to anybody.
#[derive(Clone, Default)]
pub(crate) struct Spoilt(Arc<AtomicBool>);

impl Spoilt {
    pub(crate) fn spoil(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(path) = self.path.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let empty = || fs::metadata(&path).is_ok_and(|found| found.len() == 0);
            if self.spoilt.0.load(SeqCst) || empty() {
                // What cannot be removed now is removed by the next transfer.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Makes the directory for incoming snapshots, and removes what arrived whole and was not taken over in an earlier run.
pub(crate) fn prepare_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(WHOLE_SUFFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_over_all_transfers_and_idle_time_is_not_saved_up() {
        let transfers = Transfers::default();
        let began = Instant::now();
        for _ in 0..10 {
            tokio::join!(transfers.wait_for(500, 10_000), transfers.wait_for(500, 10_000));
        }
        assert_eq!(began.elapsed().as_millis().div_ceil(50) * 50, 950, "20 times 50 ms, and the first at once");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..3 {
            transfers.wait_for(1000, 10_000).await;
        }
        assert!((200..=202).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
}
