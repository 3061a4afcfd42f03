//! The default storage: the library's traits on the write-ahead log of `quorate-wal`.
//!
//! Nothing is decided here: each call is one call of the log, each error one of ours.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_core::{
    ClusterId, GroupId, Incarnation, LeaderIdMode, LogId, NodeId, Recovered, SnapshotMeta, Span, Starts, WriteId,
};
use quorate_wal::{Disk, OnDamage, PeerVerdict, Wal, WalError, WalHandle, WalOptions, WalWrite};
use quorate_wire::Batches;

use crate::events::{MEMBERSHIP, SNAPSHOT, STORAGE};
use crate::{
    CheckedContent, Completions, Identity, IdentityStore, LogWrite, PeerRefused, RaftLogStorage, ReceivedContent,
    SnapshotData, SnapshotSource, SnapshotStore, SnapshotWriter, StorageError, StorageErrorKind, StoredSnapshot,
};

/// A chunk of a received snapshot's file on its way into the store: 1 MiB.
const COPY_BYTES: usize = 1 << 20;

/// A node's directory, open: log, votes, snapshots and identity.
pub(crate) struct Durable {
    handle: WalHandle,
    /// Owns the log's thread; `None` once it is shut down.
    wal: Mutex<Option<Wal>>,
}

impl Durable {
    /// Opens a node's directory, or makes a blank one. May block.
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path, node: NodeId) -> Result<Arc<Self>, StorageError> {
        let options = WalOptions { on_damage: OnDamage::Mend, ..WalOptions::new(node) };
        let wal = Wal::open(disk, directory, options)?;
        if let Some(damage) = wal.handle().mended() {
            tracing::error!(
                name: "log_damaged", target: STORAGE, node = node.0, %damage,
                "the log was damaged; what is whole was kept, the rest will come from peers"
            );
        }
        Ok(Arc::new(Self { handle: wal.handle(), wal: Mutex::new(Some(wal)) }))
    }

    /// Over a log whose turns somebody else takes.
    #[cfg(feature = "sim")]
    pub(crate) fn without_thread(handle: WalHandle) -> Arc<Self> {
        Arc::new(Self { handle, wal: Mutex::new(None) })
    }

    /// Writes what was submitted and closes the log. May block.
    pub(crate) fn shutdown(&self) {
        let Some(wal) = self.wal.lock().take() else { return };
        if let Err(error) = wal.shutdown() {
            tracing::error!(name: "log_not_closed", target: STORAGE, %error, "the log did not close cleanly");
        }
    }
}

impl RaftLogStorage for Durable {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        let on_durable = move |write, result: Result<(), WalError>| {
            completions.complete(write, result.map_err(StorageError::from));
        };
        let state = self.handle.open_group(group, Arc::new(on_durable))?;
        Ok(Recovered {
            vote: state.vote,
            log: state.log,
            memberships: state.memberships,
            promised_lease: state.promised_lease,
            promised_end: state.promised_end,
            ..Recovered::default()
        })
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        let op = match op {
            LogWrite::Vote(vote) => WalWrite::Vote(vote),
            LogWrite::Append(batches) => WalWrite::Append(batches),
            LogWrite::Truncate { after } => WalWrite::Truncate { after },
            LogWrite::Reset { to, tail } => WalWrite::Reset { to, tail },
            LogWrite::PromiseLease(lease) => WalWrite::PromiseLease(lease),
            LogWrite::ForgetPromisedEnd => WalWrite::ForgetPromisedEnd,
        };
        self.handle.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        Ok(self.handle.read(group, span, max_bytes)?)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.handle.purge(group, upto);
    }

    fn give_up(&self, group: GroupId) -> Result<LogId, StorageError> {
        if self.handle.on_damage() == OnDamage::Refuse {
            let text = format!("no snapshot leads up to the log of {group}; nothing was changed");
            return Err(StorageError::new(StorageErrorKind::Corrupt, text));
        }
        Ok(self.handle.give_up_log(group)?)
    }

    fn is_full(&self) -> bool {
        self.handle.is_full()
    }

    fn close(&self) {
        self.shutdown();
    }
}

impl IdentityStore for Durable {
    fn identity(&self) -> Identity {
        let found = self.handle.identity();
        Identity {
            cluster: found.cluster,
            node: found.node,
            incarnation: found.incarnation,
            starts: found.starts,
            mode: found.mode,
        }
    }

    fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), StorageError> {
        Ok(self.handle.set_cluster(cluster, mode)?)
    }

    fn record_peer(&self, peer: NodeId, incarnation: Incarnation, starts: &Starts) -> Result<(), PeerRefused> {
        match self.handle.record_peer(peer, incarnation, starts) {
            Ok(PeerVerdict::Fine) => Ok(()),
            Ok(PeerVerdict::OtherIncarnation { known }) => {
                // It is served as a learner: its word does not count for the voter it replaced (law 15).
                let node = self.handle.identity().node.0;
                tracing::warn!(
                    name: "peer_came_back_with_other_disk", target: MEMBERSHIP, node, peer = peer.0, %known,
                    seen = %incarnation, "a peer came back with another disk"
                );
                Ok(())
            }
            Ok(PeerVerdict::OlderCopy { seen_boot }) => Err(PeerRefused::older_copy(format!(
                "node {peer} speaks from an older copy of its disk (start {}, which does not come after start \
                 {seen_boot} that was seen): it may have forgotten what it promised; stop it, empty its data directory, start it with `on_lost_log = \
                 Rejoin`, then `change_membership(AddVoterIds([{peer}]))`",
                starts.boot()
            ))),
            Err(error) => Err(format!("cannot write down that node {peer} was seen: {error}").into()),
        }
    }

    fn note_older_copy(&self, peer: NodeId, text: &str) -> Result<(), StorageError> {
        Ok(self.handle.note_older_copy(peer, text)?)
    }

    fn has_met_peers(&self) -> bool {
        self.handle.has_met_peers()
    }

    fn close(&self) {
        self.shutdown();
    }
}

impl SnapshotStore for Durable {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let writer = self.handle.snapshots().create(group, meta)?;
        Ok(Box::new(Writer { writer, store: self.handle.snapshots().clone(), group }))
    }

    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        self.stored(group, 0)
    }

    fn stored(&self, group: GroupId, skip: usize) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        let stored = self.handle.snapshots().stored(group, skip)?;
        Ok(stored.map(|file| Box::new(Stored { file }) as Box<dyn StoredSnapshot>))
    }

    fn set_aside(&self, group: GroupId, count: usize) -> Result<bool, StorageError> {
        let wanted = self.handle.on_damage() == OnDamage::Mend;
        if wanted {
            self.handle.snapshots().set_aside(group, count)?;
        }
        Ok(wanted)
    }

    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError> {
        let store = self.handle.snapshots().clone();
        let taken_over = match &data {
            SnapshotData::File(path) => store.take_over(group, path)?,
            SnapshotData::Memory(_) => None,
        };
        let received = match taken_over {
            Some(received) => received,
            // In memory, or the log's disk is not the file system's.
            None => {
                let copied = copy(&store, group, &data);
                data.discard();
                copied?
            }
        };
        Ok(Box::new(Received { received, store, group }))
    }
}

/// Copies what a peer sent into the store.
fn copy(
    store: &quorate_wal::SnapshotStore,
    group: GroupId,
    data: &SnapshotData,
) -> Result<quorate_wal::ReceivedSnapshot, StorageError> {
    let mut incoming = store.receive(group)?;
    match data {
        SnapshotData::Memory(bytes) => incoming.append(bytes)?,
        SnapshotData::File(path) => {
            let mut file = File::open(path)?;
            let mut chunk = vec![0; COPY_BYTES];
            loop {
                let count = file.read(&mut chunk)?;
                if count == 0 {
                    break;
                }
                incoming.append(&chunk[..count])?;
            }
        }
    }
    Ok(incoming.finish()?)
}

/// A snapshot being written.
struct Writer {
    writer: quorate_wal::SnapshotWriter,
    store: quorate_wal::SnapshotStore,
    group: GroupId,
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl SnapshotWriter for Writer {
    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        let Self { writer, store, group } = *self;
        writer.commit()?;
        prune(&store, group);
        Ok(())
    }
}

/// The newest snapshot.
struct Stored {
    file: quorate_wal::SnapshotFile,
}

/// Reads a snapshot's content; damage is an error of this library's.
struct Content(quorate_wal::SnapshotReader);

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<WalError>()) {
            Some(found) => io::Error::other(StorageError::from(found.clone())),
            None => error,
        })
    }
}

/// A snapshot's file on its way to a peer.
#[derive(Debug)]
struct Checked(quorate_wal::CheckedFile);

impl CheckedContent for Checked {
    fn length(&self) -> u64 {
        self.0.len()
    }

    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()> {
        self.0.append(to, offset, most).map_err(|error| io::Error::other(StorageError::from(error)))
    }
}

impl StoredSnapshot for Stored {
    fn meta(&self) -> &SnapshotMeta {
        self.file.meta()
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Content(self.file.content())))
    }

    fn verify(&self) -> Result<(), StorageError> {
        Ok(self.file.verify()?)
    }

    fn source(&self) -> io::Result<SnapshotSource> {
        Ok(SnapshotSource::Checked(Box::new(Checked(self.file.checked()))))
    }
}

/// A snapshot from a peer.
struct Received {
    received: quorate_wal::ReceivedSnapshot,
    store: quorate_wal::SnapshotStore,
    group: GroupId,
}

impl ReceivedContent for Received {
    fn meta(&self) -> &SnapshotMeta {
        self.received.meta()
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Content(self.received.content())))
    }

    fn adopt(self: Box<Self>) -> Result<(), StorageError> {
        let Self { received, store, group } = *self;
        store.adopt(received)?;
        prune(&store, group);
        Ok(())
    }
}

/// Removes all but the newest snapshot. That it cannot is no reason to fail: they are only in the way.
fn prune(store: &quorate_wal::SnapshotStore, group: GroupId) {
    if let Err(error) = store.prune(group) {
        tracing::warn!(
            name: "snapshot_not_pruned", target: SNAPSHOT, group = group.0, %error, "cannot remove old snapshots"
        );
    }
}

impl From<WalError> for StorageError {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Corrupt(_) | WalError::NoIdentity { .. } => StorageErrorKind::Corrupt,
            WalError::OtherVersion { .. } => StorageErrorKind::OtherVersion,
            WalError::Locked { .. }
            | WalError::OtherNode { .. }
            | WalError::OlderCopy { .. }
            | WalError::NoDirectory { .. }
            | WalError::OtherCluster { .. }
            | WalError::NoCluster => StorageErrorKind::Identity,
            WalError::Closed => StorageErrorKind::Poisoned,
            other if other.is_full() => StorageErrorKind::Full,
            _ => StorageErrorKind::Io,
        };
        StorageError::new(kind, error.to_string())
    }
}
