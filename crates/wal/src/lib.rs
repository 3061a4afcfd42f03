//! A segmented, checksummed, group-committed log for many Raft groups, with votes, identity and snapshot files.
//!
//! One [`Wal`] serves a process. All groups share one stream of segments and one `fdatasync` a turn. A write is told
//! to be durable only after that; a log that fails to write or to sync acknowledges nothing any more. What the disk
//! holds after a crash is decided by checksums and by marks kept apart from the data: only what was never durable is
//! discarded, anything else is reported as damage, with file and offset. The bytes are specified in FORMAT.md, "Disk".
//!
//! ```
//! # fn main() -> Result<(), quorate_wal::WalError> {
//! use std::path::Path;
//! use std::sync::Arc;
//! use quorate_core::{ClusterId, GroupId, LeaderId, LeaderIdMode, NodeId, Vote, WriteId};
//! use quorate_wal::{Wal, WalOptions, WalWrite, fake::MemDisk};
//!
//! let disk = Arc::new(MemDisk::new()); // `RealDisk` outside of tests
//! let wal = Wal::open(disk, Path::new("/data"), WalOptions::new(NodeId(1)))?;
//! wal.set_cluster(ClusterId(7), LeaderIdMode::Advanced)?;
//! let (done, durable) = std::sync::mpsc::channel();
//! let state = wal.open_group(GroupId(1), Arc::new(move |write, result| drop(done.send((write, result.is_ok())))))?;
//! assert_eq!(state.vote, Vote::default());
//! wal.submit(GroupId(1), WriteId(1), WalWrite::Vote(Vote::uncommitted(LeaderId::new(1, 1))));
//! assert_eq!(durable.recv(), Ok((WriteId(1), true)));
//! wal.shutdown()
//! # }
//! ```
//!
//! To read the code: `frame.rs` (the bytes of a batch), `segment.rs` (a file of them), `turn.rs` (what a turn writes),
//! `recover.rs` (what is believed after a crash), `mend.rs` (what a
//! damaged log is made into), `note.rs` (what a process that reads damage leaves to the next), `group.rs` (the index), `handle.rs` (what callers see). [`WalCore`]
//! is all of it without a thread; `shell.rs` adds the thread and decides nothing; `baton.rs` lets threads that wait for a
//! write take turns in its stead.
//! `disk.rs` is the only door to the file system; `ahead.rs` and `past_cache.rs` are what the real one does beside.

mod ahead;
mod baton;
mod codec;
mod copies;
mod disk;
mod error;
pub mod fake;
mod forced;
mod frame;
mod group;
mod handle;
mod identity;
mod layout;
mod mend;
mod note;
mod open;
mod options;
mod past_cache;
mod recover;
mod segment;
mod shell;
mod snapshot;
mod turn;
mod vote_file;

pub use disk::{Disk, DiskFile, DiskLock, RealDisk};
pub use error::{Damage, WalError};
pub use forced::{ForcedGroup, ForcedRecovery, Inspection, force_recovery, inspect};
pub use handle::{GroupState, OnDurable, WalHandle, WalWrite};
pub use identity::{Identity, PeerVerdict};
pub use open::WalCore;
pub use options::{MIN_SEGMENT_BYTES, OnDamage, WalOptions};
pub use shell::Wal;
pub use snapshot::{
    CheckedFile, IncomingSnapshot, ReceivedSnapshot, SNAPSHOT_CHUNK_BYTES, SnapshotFile, SnapshotReader, SnapshotStore,
    SnapshotWriter,
};
pub use turn::Wake;
