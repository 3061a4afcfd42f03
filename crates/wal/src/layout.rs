//! A batch as it lies in a segment: a lead, frames chained by their headers' checksums, zeros up to the sector's end.

use std::ops::Range;

use bytes::Bytes;
use quorate_core::GroupId;

use crate::codec::round_up;
use crate::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, LAST_OF_BATCH, LEAD_BODY_BYTES, LEAD_BYTES, Lead, Op, SECTOR_BYTES,
    entries_checksum,
};
use crate::segment::Segment;

/// A frame to be written.
pub(crate) struct Planned {
    kind: FrameKind,
    group: GroupId,
    body: Body,
}

enum Body {
    /// Written from where it is.
    Entries(Bytes),
    Small(Vec<u8>),
}

impl Planned {
    pub(crate) fn of(group: GroupId, op: &Op) -> Self {
        let body = match op {
            Op::Entries(batch) => Body::Entries(batch.bytes().clone()),
            Op::Truncate { .. } | Op::Reset { .. } | Op::Purge { .. } => Body::Small(op.small_body()),
        };
        Self { kind: op.kind(), group, body }
    }

    pub(crate) fn special(kind: FrameKind, body: Vec<u8>) -> Self {
        Self { kind, group: GroupId(0), body: Body::Small(body) }
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Entries(bytes) => bytes,
            Body::Small(bytes) => bytes,
        }
    }
}

/// Where a batch begins, and what it follows.
pub(crate) struct Place {
    /// Its offset in the segment.
    pub(crate) at: u64,
    pub(crate) sync: u64,
    pub(crate) generation: u64,
    /// Checksum of the frame header before.
    pub(crate) previous: u32,
}

/// The bytes of a batch.
pub(crate) struct Layout<'a> {
    /// Headers and small bodies; entries are written from where they are.
    pub(crate) small: Vec<u8>,
    /// All that is written, in order: a part of `small`, and the entries that follow it.
    pub(crate) pieces: Vec<(Range<usize>, &'a [u8])>,
    /// Where each frame begins.
    pub(crate) offsets: Vec<u64>,
    /// Where the last frame ends.
    pub(crate) end: u64,
    /// Checksum of the last frame's header.
    pub(crate) chain: u32,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(segment: &Segment, place: Place, lead: &Lead, frames: &'a [Planned]) -> Self {
        let Place { at, sync, generation, previous } = place;
        let lead = lead.encode();
        let mut header = FrameHeader {
            kind: FrameKind::Lead,
            flags: if frames.is_empty() { LAST_OF_BATCH } else { 0 },
            body_bytes: LEAD_BODY_BYTES as u32,
            body_checksum: crc32c::crc32c_append(segment.seed, &lead),
            segment: segment.number,
            generation,
            offset: at,
            previous,
            group: GroupId(0),
            sync,
        };
        let mut small =
            Vec::with_capacity(LEAD_BYTES + frames.len() * (FRAME_HEADER_BYTES + 32) + SECTOR_BYTES as usize);
        let mut chain = header.encode(segment.seed, &mut small);
        small.extend_from_slice(&lead);
        let mut offsets = Vec::with_capacity(frames.len());
        let mut pieces: Vec<(Range<usize>, &[u8])> = Vec::with_capacity(frames.len() + 1);
        let mut piece_from = 0;
        let mut offset = at + LEAD_BYTES as u64;
        for (i, frame) in frames.iter().enumerate() {
            let body = frame.body();
            header = FrameHeader {
                kind: frame.kind,
                flags: if i + 1 == frames.len() { LAST_OF_BATCH } else { 0 },
                body_bytes: body.len() as u32,
                body_checksum: match frame.body {
                    Body::Entries(_) => entries_checksum(segment.seed, body),
                    Body::Small(_) => crc32c::crc32c_append(segment.seed, body),
                },
                offset,
                previous: chain,
                group: frame.group,
                ..header
            };
            chain = header.encode(segment.seed, &mut small);
            offsets.push(offset);
            offset += (FRAME_HEADER_BYTES + body.len()) as u64;
            match frame.body {
                Body::Small(_) => small.extend_from_slice(body),
                Body::Entries(_) => {
                    pieces.push((piece_from..small.len(), body));
                    piece_from = small.len();
                }
            }
        }
        // Zeros up to the sector's end: nothing of what was there before stays.
        small.resize(small.len() + (round_up(offset, SECTOR_BYTES) - offset) as usize, 0);
        pieces.push((piece_from..small.len(), &[]));
        Self { small, pieces, offsets, end: offset, chain }
    }
}
