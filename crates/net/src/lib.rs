//! The TCP and TLS transport of Quorate.
//!
//! A node dials every peer it sends to, twice: a *control* connection for votes, appends without entries, replies
//! and small calls, and a *data* connection for appends with entries and large calls, so that a heartbeat never
//! waits behind a megabyte of log. A snapshot has a connection of its own. What a node accepts it only reads.
//! Many groups share these connections; the group is named in each packet.
//!
//! Messages are one-way and may be lost. Queues are bounded in bytes: [`Transport::send`] gives back what does
//! not fit. The bytes are specified in FORMAT.md.
//!
//! Reading order: `hello` (who may talk to whom), `frame` (how bytes become messages), both without I/O; `lane`
//! (what waits for a connection), `dial` (who connects and writes), `accept` (who reads), `snapshot`, `tls`.

/// The target of this crate's events, which `quorate::events` lists.
pub(crate) const EVENTS: &str = "quorate::network";

mod accept;
mod backoff;
mod dial;
mod direct;
mod error;
mod frame;
mod hello;
#[cfg(feature = "hostile")]
pub mod hostile;
mod lane;
mod options;
mod probe;
mod sink;
mod snapshot;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod transport;

use std::path::PathBuf;

use bytes::Bytes;
use quorate_core::{AppendHeader, GroupId, Incarnation, NodeId, SnapshotMeta};
use quorate_wire::Packet;

pub use error::NetError;
pub use hello::{DialedBy, Lane, LocalIdentity, PeerHello, PeerRefused, RefusalCode};
pub use options::TransportOptions;
pub use probe::{ProbeAnswer, probe};
pub use snapshot::{CheckedContent, OutgoingSnapshot, Progress, SnapshotSource};
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
pub use transport::{LaneStats, PeerStats, Transport};

/// Called by the transport with what arrives. Must not block: it runs on the runtime's threads.
pub trait Handler: Send + Sync + 'static {
    /// A message arrived. The handshake vouches for the sender.
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet);

    /// What a peer's [`Transport::call`] sent arrived.
    fn on_call(&self, from: NodeId, body: Bytes);

    /// A connection to the peer was refused: no process listens at its address, whether it never did, or was
    /// lost just now (law 6). Silence, time-outs and unreachable networks are not reported here.
    fn on_refused(&self, peer: NodeId);

    /// Packets with entries that were accepted by [`Transport::send`] may not arrive. May be called although all
    /// did arrive; never the other way round, except that a lost packet may be reported late.
    fn on_lost(&self, to: NodeId);

    /// A snapshot arrived whole and is durable in its file, not yet in the file's directory.
    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot);

    /// So many bytes of a snapshot of this group, of so many, have arrived. Only for showing; must not block.
    fn on_snapshot_progress(&self, from: NodeId, group: GroupId, bytes: u64, total: u64) {
        let _ = (from, group, bytes, total);
    }

    /// Asked in every handshake, once the transport itself finds nothing wrong: may this peer talk to us
    /// (law 15)? The text of a refusal is shown at both ends.
    ///
    /// # Errors
    /// The reason why not, and what to do about it.
    fn check_peer(&self, peer: &PeerHello) -> Result<(), PeerRefused>;

    /// A peer has refused this node: it has seen a later start of this node's disk, so this node runs on an older copy of
    /// it ([`PeerRefused::older_copy`]), and must stop. Nobody is to be told again after the first one.
    fn on_older_copy(&self, peer: NodeId, text: &str) {
        let _ = (peer, text);
    }
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
    /// Its content.
    pub data: ReceivedData,
    /// Length of the content in bytes.
    pub len: u64,
}

/// Where the content of a snapshot is.
#[derive(Clone, Debug)]
pub enum ReceivedData {
    /// In a file in [`TransportOptions::incoming_dir`], which now belongs to the receiver.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}
