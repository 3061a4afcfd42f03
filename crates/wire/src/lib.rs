//! The versioned byte format of messages and log entries. FORMAT.md is its specification.

pub mod codec;
mod entry;
mod error;
mod membership;
mod message;
mod packet;
mod session;
mod snapshot;

pub use entry::{
    Batch, BatchBuilder, BatchIter, ENTRY_CHECKSUM_BYTES, ENTRY_HEADER_BYTES, ENTRY_OVERHEAD_BYTES, Entry, EntryError,
    EntryKind, MAX_PAYLOAD_BYTES, body_length, checksum_seed, verify,
};
pub use error::WireError;
pub use membership::{MAX_MEMBERSHIP_BYTES, decode_membership, encode_membership};
pub use message::{PACKET_HEADER_BYTES, entries_of};
pub use packet::{Batches, Packet};
pub use session::{
    MAX_SESSION_IDS, MAX_SESSION_SERIALS, SESSION_HEADER_BYTES, SessionHeader, SessionOpening, decode_session_ids,
    encode_session_ids,
};
pub use snapshot::{decode_append_header, decode_snapshot_meta, encode_append_header, encode_snapshot_meta};
