//! How nodes reach each other: [`RaftNetwork`].

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{AppendHeader, ClusterId, GroupId, Incarnation, NodeId, SendOutcome, SnapshotMeta};
use quorate_wire::Packet;

/// Of a snapshot that is checked, read at a time: 1 MiB.
const READ_BYTES: usize = 1 << 20;

/// Called by the network with what arrives. Never blocks.
pub trait Inbound: Send + Sync {
    /// A message arrived. The network vouches for the sender by its handshake.
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet);

    /// The library's own request or reply from a peer's library (forwarded writes, joins), opaque to the network.
    fn on_call(&self, from: NodeId, body: Bytes);

    /// The connection to the peer was refused, or was reset and the immediate reconnect failed (law 6).
    fn on_refused(&self, peer: NodeId);

    /// A packet with entries that was accepted by [`RaftNetwork::send`] may not arrive: the connection broke.
    fn on_lost(&self, to: NodeId);

    /// The peer, which this node connects to, belongs to no cluster yet: it is told, by a call, where this node is reached.
    ///
    /// For networks whose peers cannot answer where they were reached; others need not tell.
    fn on_blank_peer(&self, peer: NodeId) {
        let _ = peer;
    }

    /// So many bytes of a snapshot, of so many, have arrived. Only for showing.
    fn on_snapshot_progress(&self, from: NodeId, group: GroupId, bytes: u64, total: u64) {
        let _ = (from, group, bytes, total);
    }

    /// This library's own node of a group, to which a network in the same process may hand packets directly.
    #[doc(hidden)]
    fn link(&self, group: GroupId) -> Option<crate::Link> {
        let _ = group;
        None
    }

    /// A snapshot arrived whole; `file` is its content, to be taken over, and `len` its length in bytes.
    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot);
}

/// A snapshot that arrived.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    /// The group it is for.
    pub group: GroupId,
    /// The header of the sending leader.
    pub header: AppendHeader,
    /// What it holds.
    pub meta: SnapshotMeta,
    /// Its content: a file in the directory for incoming snapshots, or bytes in memory.
    pub data: SnapshotData,
}

/// The content of a snapshot.
#[derive(Clone, Debug)]
pub enum SnapshotData {
    /// In a file.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}

impl SnapshotData {
    /// Removes what nobody wants.
    pub(crate) fn discard(self) {
        if let SnapshotData::File(path) = self
            && let Err(error) = std::fs::remove_file(&path)
        {
            let path = path.display();
            tracing::debug!(
                name: "snapshot_not_removed", target: crate::events::SNAPSHOT, %path, %error,
                "cannot remove an unwanted snapshot"
            );
        }
    }
}

/// A snapshot to send.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    /// The group it is for.
    pub group: GroupId,
    /// Travels with it.
    pub header: AppendHeader,
    /// What it holds.
    pub meta: SnapshotMeta,
    /// An open handle, so that a newer snapshot may replace the file meanwhile; or the bytes.
    pub source: SnapshotSource,
    /// To be told how far it is.
    pub progress: SnapshotProgress,
}

/// What a network tells about a snapshot on its way, for the metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct SnapshotProgress(Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl SnapshotProgress {
    /// Hands on what is told.
    pub fn new(tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// So many bytes of so many were sent.
    pub fn tell(&self, bytes: u64, total: u64) {
        if let Some(tell) = &self.0 {
            tell(bytes, total);
        }
    }
}

impl std::fmt::Debug for SnapshotProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SnapshotProgress").field(&self.0.is_some()).finish()
    }
}

/// Where a snapshot to send is read from.
#[derive(Debug)]
pub enum SnapshotSource {
    /// An open file, from its start.
    File(File),
    /// Bytes in memory.
    Memory(Bytes),
    /// What is read piece by piece and checked as it is read, so that a large snapshot is read once.
    Checked(Box<dyn CheckedContent>),
}

impl SnapshotSource {
    /// All of it, for a network that sends it as one message. May block.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written: then nothing of it may be sent.
    pub fn read_all(self) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        match self {
            SnapshotSource::Memory(bytes) => return Ok(bytes),
            SnapshotSource::File(mut file) => {
                file.read_to_end(&mut bytes)?;
            }
            SnapshotSource::Checked(mut content) => {
                bytes.reserve_exact(usize::try_from(content.length()).map_err(io::Error::other)?);
                while (bytes.len() as u64) < content.length() {
                    let offset = bytes.len();
                    content.append(&mut bytes, offset as u64, READ_BYTES)?;
                    if bytes.len() == offset {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        Ok(bytes.into())
    }
}

/// Bytes of a snapshot that are checked as they are read, before they are sent. Its methods may block.
pub trait CheckedContent: Send + Sync + std::fmt::Debug {
    /// How many there are.
    fn length(&self) -> u64;

    /// Appends at most `most` bytes from `offset` on; nothing at the end.
    ///
    /// # Errors
    /// If they cannot be read. If they are not what was written, one that holds a [`StorageError`](crate::StorageError) of
    /// kind [`Corrupt`](crate::StorageErrorKind::Corrupt). Then what was sent must not be delivered.
    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()>;
}

/// How nodes reach each other. One-way messages; a lost reply equals a lost request.
///
/// What its handshake says of a node, and where it notes what a peer said, is the node's
/// [`IdentityStore`](crate::IdentityStore): [`Storage::open`](crate::Storage::open) has it before there is a network.
pub trait RaftNetwork: Send + Sync + 'static {
    /// Starts delivering to `inbound`.
    fn start(&self, inbound: Arc<dyn Inbound>);

    /// Tells where a node is reached, or that it is reached elsewhere from now on: nothing that is sent after this goes to
    /// the address of before.
    ///
    /// A blank node that a cluster takes in is told no address of its peers before it has answered one: the network must
    /// be able to answer whoever reached this node, on the same connection or at an address from its hello; or the network of
    /// the node that reaches it tells [`Inbound::on_blank_peer`].
    fn set_address(&self, node: NodeId, address: &str);

    /// Tells that this node, blank until now, belongs to a cluster from now on.
    fn set_cluster(&self, cluster: ClusterId) {
        let _ = cluster;
    }

    /// Takes a message for a peer. Never blocks.
    ///
    /// # Errors
    /// Gives the packet back if the peer's queue is full or there is no connection.
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet>;

    /// As [`send`](Self::send), for a message without entries that must not overtake packets with entries sent
    /// before. A network that has one queue a peer need not provide it.
    ///
    /// # Errors
    /// As for `send`.
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    fn send_behind(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.send(to, packet)
    }

    /// Takes the library's own request or reply for a peer. Never blocks. Returns whether it was taken: `false`
    /// promises that it was not sent and never will be; `true` promises nothing.
    ///
    /// It may be lost, delayed, repeated and overtaken, but never be delivered to a process of the peer and to a later
    /// one as well: best drop it when the process it was sent to is gone. A process proposes a forwarded write once,
    /// however often it arrives, and knows nothing of what the process before it was handed: handed to both, it may be
    /// applied twice. A call that is written to one connection, once, and dropped with it, keeps this; a queue that
    /// delivers again after a restart does not.
    fn call(&self, to: NodeId, body: Bytes) -> bool;

    /// Sends a snapshot on a connection of its own and tells how it ended.
    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>);

    /// Stops: closes every connection.
    fn shutdown(&self);

    /// This library's own network in memory. Whatever stands around one is another network.
    #[doc(hidden)]
    fn as_memory(&self) -> Option<&crate::MemoryEndpoint> {
        None
    }
}
