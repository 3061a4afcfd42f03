//! A segmented, checksummed, group-committed log for many Raft groups, with votes, identity and snapshot files.
//!
//! One [`Wal`] serves a process. All groups share one stream of segments and one `fdatasync` a turn. The bytes are
//! specified in FORMAT.md, "Disk". All file access goes through the [`Disk`] trait.
//!
//! The public surface, in the order of use:
//!
//! ```text
//! Wal::open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<Wal, WalError>    // formats a blank dir; own thread
//!   WalOptions::new(node_id: NodeId)           // public fields: segment_bytes, idle_mark_after, ...; defaults are good
//! Wal derefs to WalHandle (cheap to clone):
//!   identity(&self) -> Identity                // { cluster, node, incarnation, boot, mode, created }; boot already +1, durable
//!   set_cluster(&self, ClusterId, LeaderIdMode) -> Result<(), WalError>      // blocks, durable; only from blank, or the same
//!   record_peer(&self, NodeId, Incarnation, boot: u64) -> Result<PeerVerdict, WalError>     // blocks, durable (law 15)
//!       PeerVerdict::{Fine, OlderCopy { seen_boot }, OtherIncarnation { known }}
//!   open_group(&self, GroupId, OnDurable) -> Result<GroupState, WalError>    // may read files
//!       GroupState { vote, log: LogIds, memberships: Vec<(LogId, Membership)>, promised_lease: Duration }
//!       OnDurable = Arc<dyn Fn(WriteId, Result<(), WalError>) + Send + Sync>
//!   submit(&self, GroupId, WriteId, WalWrite)  // never blocks; entries are readable at once
//!       WalWrite::{Vote(Vote), Append(Batches), Truncate { after }, Reset { to, tail }, PromiseLease(Duration)}
//!   read(&self, GroupId, Span, max_bytes: u64) -> Result<Option<Batches>, WalError>    // may read files
//!   purge(&self, GroupId, upto: LogId)         // never blocks
//!   is_full(&self) -> bool
//!   snapshots(&self) -> &SnapshotStore
//! Wal::shutdown(self) -> Result<(), WalError>  // everything submitted is written, a closing mark set, the thread joined
//!
//! SnapshotStore (cheap to clone; all calls may block):
//!   create(GroupId, &SnapshotMeta) -> Result<SnapshotWriter, WalError>       // io::Write; dropped = removed
//!   SnapshotWriter::commit(self) -> Result<SnapshotFile, WalError>           // durable under its final name
//!   latest(GroupId) -> Result<Option<SnapshotFile>, WalError>
//!   SnapshotFile::{meta(), len(), read_at(offset, &mut [u8]) -> usize (raw bytes, to send), content() -> SnapshotReader (io::Read, verifies)}
//!   receive(GroupId) -> Result<IncomingSnapshot, WalError>                   // raw bytes of a peer's SnapshotFile, in order
//!   IncomingSnapshot::{append(&[u8]), len(), finish(self) -> Result<ReceivedSnapshot, WalError>}     // finish verifies everything
//!   ReceivedSnapshot::{meta(), content()}      // restore the state machine from content(), then
//!   adopt(ReceivedSnapshot) -> Result<SnapshotFile, WalError>                // then submit WalWrite::Reset (law 11)
//!   prune(GroupId) -> Result<(), WalError>     // all but the newest
//!
//! WalCore::open(disk, dir, options) -> Result<(WalCore, WalHandle), WalError>    // the same without a thread, for simulators
//! WalCore::turn(&mut self, now: Instant) -> Wake      // Wake::{Again, At(Instant), Idle}
//! ```

mod codec;
mod disk;
mod error;
pub mod fake;
mod frame;
mod group;
mod handle;
mod identity;
mod open;
mod options;
mod recover;
mod segment;
mod shell;
mod snapshot;
mod turn;
mod twin;
mod vote_file;

pub use disk::{Disk, DiskFile, DiskLock, RealDisk};
pub use error::{Damage, WalError};
pub use handle::{GroupState, OnDurable, WalHandle, WalWrite};
pub use identity::{Identity, PeerVerdict};
pub use open::WalCore;
pub use options::{MIN_SEGMENT_BYTES, WalOptions};
pub use shell::Wal;
pub use snapshot::{
    IncomingSnapshot, ReceivedSnapshot, SNAPSHOT_CHUNK_BYTES, SnapshotFile, SnapshotReader, SnapshotStore,
    SnapshotWriter,
};
pub use turn::Wake;
