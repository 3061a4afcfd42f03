//! Where snapshots are kept: [`SnapshotStore`].

use std::io::{self, Read, Write};

use quorate_core::{GroupId, SnapshotMeta};

use crate::{SnapshotData, SnapshotSource, StorageError, StorageErrorKind};

/// Keeps the newest snapshot of each group. All calls may block; the library makes them where that is allowed.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Starts to write a snapshot.
    ///
    /// # Errors
    /// If it cannot be created.
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError>;

    /// The newest snapshot.
    ///
    /// # Errors
    /// If it is damaged, which is [`StorageErrorKind::Corrupt`](crate::StorageErrorKind::Corrupt), or cannot be read.
    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError>;

    /// The newest snapshot but `skip`, if the store still has it: what a node starts from if newer ones are damaged.
    ///
    /// # Errors
    /// As for [`latest`](Self::latest).
    fn stored(&self, group: GroupId, skip: usize) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        if skip == 0 { self.latest(group) } else { Ok(None) }
    }

    /// Puts the `count` newest snapshots of a group, which are damaged, aside: kept for the operator, but snapshots no
    /// more. Durable when it returns. `Ok(false)`, as unless implemented: they stay, and the node does not start.
    ///
    /// # Errors
    /// If that fails.
    fn set_aside(&self, _group: GroupId, _count: usize) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Takes over what a peer sent, which is what [`StoredSnapshot::source`] gave there, and verifies it: here, or its
    /// content as it is read, and what nobody read before it is adopted. It is not the newest snapshot before
    /// [`ReceivedContent::adopt`].
    ///
    /// # Errors
    /// If it is damaged or cannot be kept.
    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError>;
}

/// A snapshot being written; dropped, it never was.
pub trait SnapshotWriter: Write + Send {
    /// Makes it durable and the newest one.
    ///
    /// # Errors
    /// If that fails; the one before stays the newest.
    fn commit(self: Box<Self>) -> Result<(), StorageError>;
}

/// A durable snapshot.
pub trait StoredSnapshot: Send {
    /// What it holds.
    fn meta(&self) -> &SnapshotMeta;

    /// What was written to it. Reading what is not what was written fails, with an error that holds a [`StorageError`] of
    /// kind [`StorageErrorKind::Corrupt`](crate::StorageErrorKind::Corrupt); nothing else does.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn content(&self) -> io::Result<Box<dyn Read + Send>>;

    /// Reads everything: whether it is what was written.
    ///
    /// # Errors
    /// What is wrong, as for [`content`](Self::content).
    fn verify(&self) -> Result<(), StorageError> {
        match io::copy(&mut self.content()?, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => Err(damage_of(&error).unwrap_or_else(|| error.into())),
        }
    }

    /// The bytes to send to a peer, which may be more than the content. Unless they are
    /// [checked](SnapshotSource::Checked) as they are read, everything is [verified](Self::verify) before.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn source(&self) -> io::Result<SnapshotSource>;
}

/// A snapshot from a peer.
pub trait ReceivedContent: Send {
    /// What it holds.
    fn meta(&self) -> &SnapshotMeta;

    /// What was written to it. Reading what is not what was written fails.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn content(&self) -> io::Result<Box<dyn Read + Send>>;

    /// Makes it durable and the newest one.
    ///
    /// # Errors
    /// If that fails, or something of it is not what was written, whether it was read or not; the one before stays the
    /// newest.
    fn adopt(self: Box<Self>) -> Result<(), StorageError>;
}

/// The damage that a read of a snapshot's content met, if it was that.
pub(crate) fn damage_of(error: &io::Error) -> Option<StorageError> {
    let found = error.get_ref()?.downcast_ref::<StorageError>()?;
    (found.kind() == StorageErrorKind::Corrupt).then(|| found.clone())
}

/// What a read of a snapshot met.
pub(crate) fn storage_error_of(error: &io::Error) -> StorageError {
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>());
    found.cloned().unwrap_or_else(|| StorageError::new(StorageErrorKind::Io, error.to_string()))
}
