//! Little-endian fields in fixed places.

use quorate_core::{LeaderId, LogId, NodeId};

use crate::error::WalError;

/// Bytes of an encoded log id: term, node id, index.
pub(crate) const LOG_ID_BYTES: usize = 24;

/// No counter of a disk (boots, syncs, segments, records) comes this far; one that does is damage, and could not go on.
pub(crate) const MAX_COUNTER: u64 = u64::MAX >> 1;
/// What is said instead of writing that number: no disk gets there by itself.
pub(crate) const AT_ITS_END: WalError = WalError::Invalid { what: "a counter on this disk is at its end" };

/// Whether a log id may stand in a file: terms and indexes have successors (FORMAT.md, "Conventions").
pub(crate) fn is_ordinary(id: LogId) -> bool {
    id.leader_id.term != u64::MAX && id.index != u64::MAX
}

pub(crate) fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u128(out: &mut [u8], at: usize, value: u128) {
    out[at..at + 16].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_log_id(out: &mut [u8], at: usize, id: LogId) {
    put_u64(out, at, id.leader_id.term);
    put_u64(out, at + 8, id.leader_id.node_id.0);
    put_u64(out, at + 16, id.index);
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut field = [0; 16];
    field.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(field)
}

pub(crate) fn log_id_at(bytes: &[u8], at: usize) -> LogId {
    let leader_id = LeaderId { term: u64_at(bytes, at), node_id: NodeId(u64_at(bytes, at + 8)) };
    LogId::new(leader_id, u64_at(bytes, at + 16))
}

/// `value` rounded up to a multiple of `unit`, or the greatest number: it may have been read from a disk.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit).saturating_mul(unit)
}
