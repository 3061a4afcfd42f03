//! A snapshot store with one file a group. With a flaw, if wanted.

use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate::advanced::wal::Disk;
use quorate::advanced::wire::{decode_snapshot_meta, encode_snapshot_meta};
use quorate::{
    GroupId, ReceivedContent, SnapshotData, SnapshotMeta, SnapshotSource, SnapshotStore, SnapshotWriter, StorageError,
    StorageErrorKind, StoredSnapshot,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Written where it is looked for, and not checked.
    Half,
    /// Its name is not made durable.
    NameNotSynced,
    /// All groups have one file.
    OneFile,
    /// A peer is sent the first bytes only.
    SendsTheFront,
}

#[derive(Clone)]
pub(crate) struct FileSnapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    flaw: Flaw,
}

/// A snapshot as it stands in a file: length of the meta, meta, content, checksum.
#[derive(Clone)]
struct Snapshot {
    meta: SnapshotMeta,
    content: Vec<u8>,
    flaw: Flaw,
}

struct Writer {
    store: FileSnapshots,
    group: GroupId,
    snapshot: Snapshot,
}

impl FileSnapshots {
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, flaw: Flaw) -> Result<Self, StorageError> {
        disk.create_dir_all(dir)?;
        Ok(Self { disk, dir: dir.to_owned(), flaw })
    }

    fn path(&self, group: GroupId) -> PathBuf {
        let number = if self.flaw == Flaw::OneFile { 0 } else { group.0 };
        self.dir.join(format!("snapshot-{number}"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.create(path)?;
        let mut at = 0;
        while at < bytes.len() {
            at += file.write_at(&bytes[at..], at as u64)?;
        }
        file.sync_data()
    }

    fn commit(&self, group: GroupId, snapshot: &Snapshot) -> Result<(), StorageError> {
        let path = self.path(group);
        if self.flaw == Flaw::Half {
            self.write(&path, &snapshot.encode())?;
            return Ok(self.disk.sync_dir(&self.dir)?);
        }
        let new = path.with_extension("new");
        self.write(&new, &snapshot.encode())?;
        self.disk.rename(&new, &path)?;
        if self.flaw != Flaw::NameNotSynced {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn encode(&self) -> Vec<u8> {
        let mut meta = Vec::new();
        encode_snapshot_meta(&self.meta, &mut meta);
        let mut bytes = u32::try_from(meta.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(&meta);
        bytes.extend_from_slice(&self.content);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], flaw: Flaw) -> Result<Self, StorageError> {
        let corrupt = |text: &str| StorageError::new(StorageErrorKind::Corrupt, text);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("a snapshot without checksum"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) && flaw != Flaw::Half {
            return Err(corrupt("a snapshot with a wrong checksum"));
        }
        let (length, rest) = body.split_first_chunk::<4>().ok_or_else(|| corrupt("no meta"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let meta = rest.get(..length).ok_or_else(|| corrupt("a cut meta"))?;
        let meta = decode_snapshot_meta(meta).map_err(|error| corrupt(&error.to_string()))?;
        Ok(Self { meta, content: rest[length..].to_vec(), flaw })
    }
}

impl SnapshotStore for FileSnapshots {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let snapshot = Snapshot { meta: meta.clone(), content: Vec::new(), flaw: self.flaw };
        Ok(Box::new(Writer { store: self.clone(), group, snapshot }))
    }

    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        let file = match self.disk.open(&self.path(group)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.length()?).unwrap()];
        let mut at = 0;
        while at < bytes.len() {
            match file.read_at(&mut bytes[at..], at as u64)? {
                0 => break,
                count => at += count,
            }
        }
        Ok(Some(Box::new(Snapshot::decode(&bytes, self.flaw)?)))
    }

    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError> {
        let bytes = match data {
            SnapshotData::Memory(bytes) => bytes.to_vec(),
            SnapshotData::File(path) => std::fs::read(path)?,
        };
        let snapshot = Snapshot::decode(&bytes, self.flaw)?;
        Ok(Box::new(Writer { store: self.clone(), group, snapshot }))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.snapshot.content.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for Writer {
    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        self.store.commit(self.group, &self.snapshot)
    }
}

impl ReceivedContent for Writer {
    fn meta(&self) -> &SnapshotMeta {
        &self.snapshot.meta
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        self.snapshot.content()
    }

    fn adopt(self: Box<Self>) -> Result<(), StorageError> {
        self.commit()
    }
}

impl StoredSnapshot for Snapshot {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.content.clone())))
    }

    fn source(&self) -> io::Result<SnapshotSource> {
        let mut bytes = self.encode();
        if self.flaw == Flaw::SendsTheFront {
            bytes.truncate(100_000);
        }
        Ok(SnapshotSource::Memory(bytes.into()))
    }
}
