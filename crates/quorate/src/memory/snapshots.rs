//! Snapshots in memory.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use quorate_core::{GroupId, SnapshotMeta};
use quorate_wire::{decode_snapshot_meta, encode_snapshot_meta};

use crate::snapshot::{ReceivedContent, SnapshotStore, SnapshotWriter, StoredSnapshot};
use crate::{SnapshotData, SnapshotSource, StorageError, StorageErrorKind};

type Newest = Arc<Mutex<BTreeMap<GroupId, Snapshot>>>;

/// Snapshots in memory: lost with the process. Cheap to clone; a clone is the same store.
#[derive(Clone, Debug, Default)]
pub struct MemorySnapshots {
    newest: Newest,
}

#[derive(Clone, Debug)]
struct Snapshot {
    meta: SnapshotMeta,
    content: Bytes,
}

impl MemorySnapshots {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl SnapshotStore for MemorySnapshots {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let (newest, meta) = (Arc::clone(&self.newest), meta.clone());
        Ok(Box::new(Writer { newest, group, meta, content: Vec::new() }))
    }

    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        let found = self.newest.lock().get(&group).cloned();
        Ok(found.map(|snapshot| Box::new(snapshot) as Box<dyn StoredSnapshot>))
    }

    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError> {
        let mut bytes = match data {
            SnapshotData::Memory(bytes) => bytes,
            SnapshotData::File(path) => Bytes::from(std::fs::read(path)?),
        };
        let corrupt = |text: String| StorageError::new(StorageErrorKind::Corrupt, text);
        let length = bytes.try_get_u32_le().map_err(|error| corrupt(error.to_string()))? as usize;
        if length > bytes.len() {
            return Err(corrupt("a received snapshot ends inside its header".into()));
        }
        let meta = decode_snapshot_meta(&bytes.split_to(length)).map_err(|error| corrupt(error.to_string()))?;
        let snapshot = Snapshot { meta, content: bytes };
        Ok(Box::new(Received { newest: Arc::clone(&self.newest), group, snapshot }))
    }
}

/// A build that was captured earlier may end after a later snapshot was installed: the newest stays.
fn keep_newest(newest: &Newest, group: GroupId, snapshot: Snapshot) {
    let mut newest = newest.lock();
    let is_older = |known: &Snapshot| known.meta.last_log_id > snapshot.meta.last_log_id;
    if !newest.get(&group).is_some_and(is_older) {
        newest.insert(group, snapshot);
    }
}

struct Writer {
    newest: Newest,
    group: GroupId,
    meta: SnapshotMeta,
    content: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for Writer {
    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        keep_newest(&self.newest, self.group, Snapshot { meta: self.meta, content: self.content.into() });
        Ok(())
    }
}

impl StoredSnapshot for Snapshot {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.content.clone().reader()))
    }

    /// Length of the meta, meta, content.
    fn source(&self) -> io::Result<SnapshotSource> {
        let mut meta = Vec::new();
        encode_snapshot_meta(&self.meta, &mut meta);
        let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
        Ok(SnapshotSource::Memory([&length.to_le_bytes()[..], &meta, &self.content].concat().into()))
    }
}

struct Received {
    newest: Newest,
    group: GroupId,
    snapshot: Snapshot,
}

impl ReceivedContent for Received {
    fn meta(&self) -> &SnapshotMeta {
        &self.snapshot.meta
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        self.snapshot.content()
    }

    fn adopt(self: Box<Self>) -> Result<(), StorageError> {
        keep_newest(&self.newest, self.group, self.snapshot);
        Ok(())
    }
}
