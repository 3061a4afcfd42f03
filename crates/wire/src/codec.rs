//! Reading and writing fields: a [`Reader`] that never goes past its bytes and never panics, and the writers
//! that match it. FORMAT.md, "Conventions".
//!
//! Numbers are written with [`bytes::BufMut`]'s `put_*_le`.

use std::time::Duration;

use bytes::BufMut;
use quorate_core::{LeaderId, LogId, NodeId, Vote};

use crate::WireError;

/// Bytes of a log id: term, node, index.
pub const LOG_ID_BYTES: usize = 24;
/// Bytes of a vote: term, node, committed.
pub const VOTE_BYTES: usize = 17;
/// Bytes of a block before its fields: length, required features.
pub const BLOCK_HEADER_BYTES: usize = 6;

/// Reads fields from the front of some bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which are a `what` as far as error texts go.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// Number of bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let short = WireError::Short { what: self.what, at: self.at, wanted: count as u64 };
        let end = self.at.checked_add(count).ok_or(short.clone())?;
        let taken = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N)?);
        Ok(field)
    }

    /// The next byte.
    ///
    /// # Errors
    /// If there is none.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next two bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next sixteen bytes as a number.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u128(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// If there is none, or it is another.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::Value { field, value: other.into() }),
        }
    }

    /// A term or an index: never `u64::MAX`, so that its successor exists whatever a peer sends.
    ///
    /// # Errors
    /// If bytes are missing, or it is `u64::MAX`.
    pub fn ordinal(&mut self, field: &'static str) -> Result<u64, WireError> {
        match self.u64()? {
            u64::MAX => Err(WireError::Value { field, value: u64::MAX }),
            number => Ok(number),
        }
    }

    /// A leader id.
    ///
    /// # Errors
    /// If bytes are missing, or the term is `u64::MAX`.
    pub fn leader_id(&mut self) -> Result<LeaderId, WireError> {
        Ok(LeaderId { term: self.ordinal("term")?, node_id: NodeId(self.u64()?) })
    }

    /// A log id.
    ///
    /// # Errors
    /// If bytes are missing, or the term or index is `u64::MAX`.
    pub fn log_id(&mut self) -> Result<LogId, WireError> {
        Ok(LogId { leader_id: self.leader_id()?, index: self.ordinal("index")? })
    }

    /// A vote.
    ///
    /// # Errors
    /// If bytes are missing or wrong.
    pub fn vote(&mut self) -> Result<Vote, WireError> {
        Ok(Vote { leader_id: self.leader_id()?, committed: self.flag("vote.committed")? })
    }

    /// The vote of an elected leader.
    ///
    /// # Errors
    /// If bytes are missing or wrong, or the vote is not committed.
    pub fn committed_vote(&mut self) -> Result<Vote, WireError> {
        match self.vote()? {
            vote if vote.committed => Ok(vote),
            _ => Err(WireError::Value { field: "vote.committed", value: 0 }),
        }
    }

    /// A duration in nanoseconds.
    ///
    /// # Errors
    /// If bytes are missing.
    pub fn duration(&mut self) -> Result<Duration, WireError> {
        self.u64().map(Duration::from_nanos)
    }

    /// A text: its length as a `u32`, then UTF-8.
    ///
    /// # Errors
    /// If bytes are missing or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, WireError> {
        let length = self.u32()? as usize;
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| WireError::Text { what: self.what, at })
    }

    /// A `u32` count of items that take at least `least` bytes each. What it returns fits the bytes at hand, so
    /// that many items may be allocated.
    ///
    /// # Errors
    /// If bytes are missing for the count or that many items.
    pub fn count(&mut self, least: usize) -> Result<usize, WireError> {
        let count = self.u32()?;
        let wanted = u64::from(count).saturating_mul(least as u64);
        if wanted > self.remaining() as u64 {
            return Err(WireError::Short { what: self.what, at: self.at, wanted });
        }
        Ok(count as usize)
    }

    /// A block: its length, the features a reader must know, and its fields, for which a reader is returned.
    /// Fields that the caller leaves unread are a newer version's and are skipped.
    ///
    /// # Errors
    /// If bytes are missing, or the block requires features that version 1 does not have.
    pub fn block(&mut self, what: &'static str) -> Result<Reader<'a>, WireError> {
        let length = self.u32()? as usize;
        let mut fields = Reader::new(what, self.take(length)?);
        fields.no_required_features()?;
        Ok(fields)
    }

    pub(crate) fn no_required_features(&mut self) -> Result<(), WireError> {
        match self.u16()? {
            0 => Ok(()),
            bits => Err(WireError::UnknownFeatures { what: self.what, bits }),
        }
    }

    /// Ends reading.
    ///
    /// # Errors
    /// If bytes are left over.
    pub fn finish(self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(WireError::Trailing { what: self.what, left: left as u64 }),
        }
    }
}

/// Writes a leader id.
pub fn put_leader_id(out: &mut Vec<u8>, leader_id: LeaderId) {
    out.put_u64_le(leader_id.term);
    out.put_u64_le(leader_id.node_id.0);
}

/// Writes a log id.
pub fn put_log_id(out: &mut Vec<u8>, log_id: LogId) {
    put_leader_id(out, log_id.leader_id);
    out.put_u64_le(log_id.index);
}

/// Writes a vote.
pub fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    put_leader_id(out, vote.leader_id);
    out.put_u8(vote.committed.into());
}

/// Writes a duration in nanoseconds; more than 584 years become 584 years.
pub fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    out.put_u64_le(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

/// Writes a length or a count as a `u32`.
///
/// # Panics
/// If it is 4 GiB or more: whatever is written is limited to far less before.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    assert!(length <= u32::MAX as usize, "lengths are limited to less than 4 GiB before they are written");
    out.put_u32_le(length as u32);
}

/// Writes a text: its length, then UTF-8.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

/// Writes a block around the fields that `fields` writes; see [`Reader::block`].
///
/// # Panics
/// If the fields are longer than 4 GiB: they are limited before they are written.
pub fn put_block(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u16_le(0);
    fields(out);
    let length = out.len() - start - 4;
    assert!(length <= u32::MAX as usize, "blocks are limited to less than 4 GiB before they are written");
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
}
