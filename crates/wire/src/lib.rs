//! The versioned byte format of messages and log entries. FORMAT.md is its specification.

mod entry;
mod packet;

pub use entry::{
    Batch, BatchBuilder, ENTRY_CHECKSUM_BYTES, ENTRY_HEADER_BYTES, ENTRY_OVERHEAD_BYTES, Entry, EntryError, EntryKind,
    MAX_PAYLOAD_BYTES, body_length, checksum_seed, verify,
};
pub use packet::{Batches, Packet};
