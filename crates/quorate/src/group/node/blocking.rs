//! Work of a node that may block, and so runs on a thread of its own: reading entries and sending snapshots for peers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_core::{Bug, Event, GroupId, NodeId, SendOutcome, bug};

use super::Node;
use crate::blame;
use crate::driver::{Fetch, Input, Ship};
use crate::events::SNAPSHOT;
use crate::snapshot::storage_error_of;
use crate::{
    CheckedContent, ClosedReason, OutgoingSnapshot, SnapshotProgress, SnapshotSource, SnapshotStore, StorageError,
    StorageErrorKind, TransferMetrics,
};

impl Node {
    pub(super) fn fetch(self: &Arc<Self>, fetch: Fetch) {
        let node = Arc::clone(self);
        drop(self.runtime.spawn_blocking(move || {
            let max_bytes = 1 << 20;
            let read = || blame::storage(|| node.storage.read(node.group, fetch.span, max_bytes));
            // A node that cannot read its log must not lead on: the peer would wait for ever.
            node.leave(match blame::catch(read) {
                Ok(Ok(found)) => Input::Fetched { fetch, found },
                Ok(Err(error)) => Input::Close(ClosedReason::Storage(error)),
                Err(panic) => Input::Close(blame::reason(&panic, ClosedReason::Internal)),
            });
        }));
    }

    pub(super) fn ship(self: &Arc<Self>, ship: Ship) {
        let node = Arc::clone(self);
        drop(self.runtime.spawn_blocking(move || {
            if let Err(panic) = blame::catch(|| node.send_snapshot(&ship)) {
                node.leave(Input::Close(blame::reason(&panic, ClosedReason::Internal)));
            }
        }));
    }

    fn send_snapshot(self: &Arc<Self>, ship: &Ship) {
        let node = self;
        let (to, stream) = (ship.to, ship.header.stream);
        let _span = tracing::debug_span!(
            target: SNAPSHOT, "snapshot_send", node = node.me.0, group = node.group.0, peer = to.0
        )
        .entered();
        let moved = Arc::new(AtomicU64::new(0));
        let report = {
            let node = Arc::clone(node);
            let began = node.clock.now();
            let moved = Arc::clone(&moved);
            move |outcome| {
                let delivered = (outcome == SendOutcome::Delivered).then(|| moved.load(Ordering::Relaxed));
                node.meters.sent_snapshot(delivered, node.clock.now().since(began));
                node.note_sending(to, None);
                node.leave(Input::Event(Event::SnapshotSent { to, stream, outcome }));
            }
        };
        let progress = {
            let node = Arc::clone(node);
            SnapshotProgress::new(move |bytes, total| {
                moved.store(total, Ordering::Relaxed);
                node.note_sending(to, Some((bytes, total)));
            })
        };
        let unreadable: Unreadable = {
            let node = Arc::clone(node);
            Box::new(move |error| node.note_unreadable(to, error))
        };
        match blame::storage(|| outgoing(&*node.snapshots, node.group, ship, unreadable)) {
            Ok(Some(snapshot)) => {
                let snapshot = OutgoingSnapshot { progress, ..snapshot };
                blame::network(|| node.network.send_snapshot(to, snapshot, Box::new(report)));
            }
            Ok(None) => report(SendOutcome::Failed),
            Err(error) => {
                node.note_unreadable(to, &error);
                report(SendOutcome::Failed);
            }
        }
    }

    /// The snapshot for a peer cannot be read; if it is damaged, another one has to be built.
    fn note_unreadable(&self, to: NodeId, error: &StorageError) {
        tracing::error!(
            name: "snapshot_unreadable", target: SNAPSHOT, node = self.me.0,
            group = self.group.0, peer = to.0, %error, "cannot read the snapshot for a peer"
        );
        if error.kind() == StorageErrorKind::Corrupt {
            self.leave(Input::Event(Event::SnapshotDamaged));
        }
    }

    /// Shows how far a snapshot to a peer is; `None`: it ended.
    fn note_sending(&self, to: NodeId, how_far: Option<(u64, u64)>) {
        self.transfers.lock().sending(to, how_far);
        self.leave(Input::Publish);
    }

    /// Shows how far a snapshot from a leader is; `None`: it is here.
    pub(crate) fn note_receiving(&self, how_far: Option<TransferMetrics>) {
        self.transfers.lock().receiving(how_far);
        self.leave(Input::Publish);
    }
}

/// Told what is wrong with a snapshot that is being sent, once.
pub(crate) type Unreadable = Box<dyn FnOnce(&StorageError) + Send + Sync>;

/// The snapshot that a peer needs, if it is there. Bytes that are not what was written are not sent: either everything is
/// verified here, and read a second time to be sent, or what is read is verified then, and `unreadable` told.
pub(crate) fn outgoing(
    snapshots: &dyn SnapshotStore,
    group: GroupId,
    ship: &Ship,
    unreadable: Unreadable,
) -> Result<Option<OutgoingSnapshot>, StorageError> {
    let Some(stored) = snapshots.latest(group)? else {
        let text = format!("the snapshot of {group} up to {} is gone", ship.at_least);
        return Err(StorageError::new(StorageErrorKind::Corrupt, text));
    };
    let meta = stored.meta().clone();
    if meta.last_log_id.index < ship.at_least.index {
        return Ok(None);
    }
    let source = match stored.source()? {
        SnapshotSource::Checked(content) => {
            SnapshotSource::Checked(Box::new(Watched { content, unreadable: Some(unreadable) }))
        }
        source @ (SnapshotSource::File(_) | SnapshotSource::Memory(_)) => {
            if !bug(Bug::SendsUnverifiedSnapshot) {
                stored.verify()?;
            }
            source
        }
    };
    let progress = SnapshotProgress::default();
    Ok(Some(OutgoingSnapshot { group, header: ship.header, meta, source, progress }))
}

/// Tells what is wrong with what a network reads.
struct Watched {
    content: Box<dyn CheckedContent>,
    unreadable: Option<Unreadable>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.content.fmt(f)
    }
}

impl CheckedContent for Watched {
    fn length(&self) -> u64 {
        self.content.length()
    }

    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()> {
        let appended = blame::stored(|| Ok(self.content.append(to, offset, most)));
        appended.unwrap_or_else(|panicked| Err(io::Error::other(panicked))).inspect_err(|error| {
            if let Some(unreadable) = self.unreadable.take() {
                unreadable(&storage_error_of(error));
            }
        })
    }
}
