//! Where snapshots are kept: [`SnapshotStore`].

use std::io::{self, Read, Write};

use quorate_core::{GroupId, SnapshotMeta};

use crate::{SnapshotData, SnapshotSource, StorageError};

/// Keeps the newest snapshot of each group. All calls may block; the library makes them where that is allowed.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Starts to write a snapshot.
    ///
    /// # Errors
    /// If it cannot be created.
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError>;

    /// The newest whole snapshot.
    ///
    /// # Errors
    /// If it is damaged or cannot be read.
    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError>;

    /// Takes over what a peer sent, which is what [`StoredSnapshot::source`] gave there, and verifies it. It is
    /// not the newest snapshot before [`ReceivedContent::adopt`].
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

    /// What was written to it.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn content(&self) -> io::Result<Box<dyn Read + Send>>;

    /// The bytes to send to a peer, which may be more than the content.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn source(&self) -> io::Result<SnapshotSource>;
}

/// A verified snapshot from a peer.
pub trait ReceivedContent: Send {
    /// What it holds.
    fn meta(&self) -> &SnapshotMeta;

    /// What was written to it.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn content(&self) -> io::Result<Box<dyn Read + Send>>;

    /// Makes it durable and the newest one.
    ///
    /// # Errors
    /// If that fails; the one before stays the newest.
    fn adopt(self: Box<Self>) -> Result<(), StorageError>;
}
