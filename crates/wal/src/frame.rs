//! The bytes of a segment's data area: batches of frames, and marks (FORMAT.md, "Segments").
//!
//! A batch is what one `fdatasync` makes durable. It starts at a sector with a lead frame, which tells the batch's
//! length and the end of the sync before; its frames are chained by their headers' checksums. A batch counts whole
//! or not at all.

use quorate_core::{GroupId, LogId, Tail};
use quorate_wire::{Batch, ENTRY_CHECKSUM_BYTES, body_length};

use crate::codec::{LOG_ID_BYTES, MAX_COUNTER, is_ordinary, log_id_at, put_log_id, put_u32, put_u64, u32_at, u64_at};

/// Batches start at multiples of this, so that writing one never touches a sector of another.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
/// Body of a lead frame.
pub(crate) const LEAD_BODY_BYTES: usize = 32;
/// A lead frame, header and body.
pub(crate) const LEAD_BYTES: usize = FRAME_HEADER_BYTES + LEAD_BODY_BYTES;
/// Set in the flags of a batch's last frame.
pub(crate) const LAST_OF_BATCH: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Starts a batch.
    Lead,
    /// What every group's log was when the segment was begun; in the first batch of a segment.
    Base,
    /// Consecutive entries of one leader.
    Entries,
    /// Removes the end of a group's log.
    Truncate,
    /// A snapshot was installed.
    Reset,
    /// The front of a group's log is forgotten.
    Purge,
    /// The segment's index; nothing follows it.
    Footer,
}

impl FrameKind {
    fn to_byte(self) -> u8 {
        match self {
            FrameKind::Lead => 1,
            FrameKind::Base => 2,
            FrameKind::Entries => 3,
            FrameKind::Truncate => 4,
            FrameKind::Reset => 5,
            FrameKind::Purge => 6,
            FrameKind::Footer => 7,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => FrameKind::Lead,
            2 => FrameKind::Base,
            3 => FrameKind::Entries,
            4 => FrameKind::Truncate,
            5 => FrameKind::Reset,
            6 => FrameKind::Purge,
            7 => FrameKind::Footer,
            _ => return None,
        })
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    /// Bytes of the body.
    pub(crate) body_bytes: u32,
    /// Checksum of the body; of entries, of their own checksums, so that payloads are hashed once (law 10).
    pub(crate) body_checksum: u32,
    pub(crate) segment: u64,
    /// Boot counter of the process that wrote it.
    pub(crate) generation: u64,
    /// Offset of this header in the segment.
    pub(crate) offset: u64,
    /// Checksum of the frame header before; of the segment header for the first frame.
    pub(crate) previous: u32,
    /// The group; 0 for frames of no group.
    pub(crate) group: GroupId,
    /// Number of the sync that made it durable; grows along the log.
    pub(crate) sync: u64,
}

/// Why a header was not accepted.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    pub(crate) what: &'static str,
    /// Checksum stored and computed, if they told.
    pub(crate) sums: Option<(u32, u32)>,
    /// Whether the bytes are as they were written, so that this is no torn write.
    pub(crate) intact: bool,
}

impl Bad {
    fn because(what: &'static str) -> Self {
        Self { what, sums: None, intact: false }
    }
}

impl FrameHeader {
    /// Appends the header; returns its checksum, which the next frame repeats.
    pub(crate) fn encode(&self, seed: u32, out: &mut Vec<u8>) -> u32 {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[4] = self.kind.to_byte();
        bytes[5] = self.flags;
        put_u32(&mut bytes, 8, self.body_bytes);
        put_u32(&mut bytes, 12, self.body_checksum);
        put_u64(&mut bytes, 16, self.segment);
        put_u64(&mut bytes, 24, self.generation);
        put_u64(&mut bytes, 32, self.offset);
        put_u32(&mut bytes, 40, self.previous);
        put_u64(&mut bytes, 48, self.group.0);
        put_u64(&mut bytes, 56, self.sync);
        let checksum = crc32c::crc32c_append(seed, &bytes[4..]);
        put_u32(&mut bytes, 0, checksum);
        out.extend_from_slice(&bytes);
        checksum
    }

    /// Reads the header at `offset` of segment `segment`, and its checksum.
    pub(crate) fn decode(bytes: &[u8], seed: u32, segment: u64, offset: u64) -> Result<(Self, u32), Bad> {
        let Some(bytes) = bytes.get(..FRAME_HEADER_BYTES) else {
            return Err(Bad::because("the file ends inside a frame header"));
        };
        let (stored, computed) = (u32_at(bytes, 0), crc32c::crc32c_append(seed, &bytes[4..]));
        if stored != computed {
            let what = "the frame header does not match its checksum";
            return Err(Bad { what, sums: Some((stored, computed)), intact: false });
        }
        if u64_at(bytes, 16) != segment || u64_at(bytes, 32) != offset {
            return Err(Bad::because("the frame belongs to another place"));
        }
        if u64_at(bytes, 56) >= MAX_COUNTER {
            return Err(Bad::because("the frame's sync has a number that no log reaches"));
        }
        let Some(kind) = FrameKind::from_byte(bytes[4]) else {
            let what = "the frame is of a kind that this version does not know";
            return Err(Bad { what, sums: None, intact: true });
        };
        let header = Self {
            kind,
            flags: bytes[5],
            body_bytes: u32_at(bytes, 8),
            body_checksum: u32_at(bytes, 12),
            segment,
            generation: u64_at(bytes, 24),
            offset,
            previous: u32_at(bytes, 40),
            group: GroupId(u64_at(bytes, 48)),
            sync: u64_at(bytes, 56),
        };
        Ok((header, stored))
    }
}

/// The body of a lead frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// Where the sync before this batch ended: its segment and the offset after its last frame.
    pub(crate) durable: Position,
    /// Bytes of the batch, from the lead's header to the end of the last frame.
    pub(crate) batch_bytes: u64,
    /// Number of frames, the lead included.
    pub(crate) frames: u32,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl Lead {
    pub(crate) fn encode(&self) -> [u8; LEAD_BODY_BYTES] {
        let mut body = [0; LEAD_BODY_BYTES];
        put_u64(&mut body, 0, self.durable.segment);
        put_u64(&mut body, 8, self.durable.offset);
        put_u64(&mut body, 16, self.batch_bytes);
        put_u32(&mut body, 24, self.frames);
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        (body.len() == LEAD_BODY_BYTES).then(|| Self {
            durable: Position { segment: u64_at(body, 0), offset: u64_at(body, 8) },
            batch_bytes: u64_at(body, 16),
            frames: u32_at(body, 24),
        })
    }
}

/// The checksum in the header of an entries frame: over the entries' own checksums, in order.
pub(crate) fn entries_checksum(seed: u32, bodies: &[u8]) -> u32 {
    let mut checksum = seed;
    let mut rest = bodies;
    while let Some(body) = body_length(rest).and_then(|length| rest.get(..length)) {
        checksum = crc32c::crc32c_append(checksum, &body[body.len() - ENTRY_CHECKSUM_BYTES..]);
        rest = &rest[body.len()..];
    }
    checksum
}

/// What a frame does to a group's log.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Entries(Batch),
    Truncate { after: LogId },
    Reset { to: LogId, tail: Tail },
    Purge { upto: LogId },
}

impl Op {
    pub(crate) fn kind(&self) -> FrameKind {
        match self {
            Op::Entries(_) => FrameKind::Entries,
            Op::Truncate { .. } => FrameKind::Truncate,
            Op::Reset { .. } => FrameKind::Reset,
            Op::Purge { .. } => FrameKind::Purge,
        }
    }

    /// Bytes of the frame, header included.
    pub(crate) fn frame_bytes(&self) -> u64 {
        let body = match self {
            Op::Entries(batch) => batch.bytes().len(),
            Op::Truncate { .. } | Op::Purge { .. } => LOG_ID_BYTES,
            Op::Reset { .. } => LOG_ID_BYTES + 8,
        };
        (FRAME_HEADER_BYTES + body) as u64
    }

    /// The body of a frame other than entries, whose body is the batch itself.
    pub(crate) fn small_body(&self) -> Vec<u8> {
        match self {
            Op::Entries(_) => Vec::new(),
            Op::Truncate { after: id } | Op::Purge { upto: id } => {
                let mut body = vec![0; LOG_ID_BYTES];
                put_log_id(&mut body, 0, *id);
                body
            }
            Op::Reset { to, tail } => {
                let mut body = vec![0; LOG_ID_BYTES + 8];
                put_log_id(&mut body, 0, *to);
                body[LOG_ID_BYTES] = tail_byte(*tail);
                body
            }
        }
    }

    /// Reads the body of a frame other than entries.
    pub(crate) fn decode_small(kind: FrameKind, body: &[u8]) -> Option<Op> {
        if body.len() < LOG_ID_BYTES || !is_ordinary(log_id_at(body, 0)) {
            return None;
        }
        match kind {
            FrameKind::Truncate if body.len() == LOG_ID_BYTES => Some(Op::Truncate { after: log_id_at(body, 0) }),
            FrameKind::Purge if body.len() == LOG_ID_BYTES => Some(Op::Purge { upto: log_id_at(body, 0) }),
            FrameKind::Reset if body.len() == LOG_ID_BYTES + 8 => {
                Some(Op::Reset { to: log_id_at(body, 0), tail: tail_of(body[LOG_ID_BYTES])? })
            }
            _ => None,
        }
    }
}

pub(crate) fn tail_byte(tail: Tail) -> u8 {
    match tail {
        Tail::Keep => 0,
        Tail::Discard => 1,
    }
}

pub(crate) fn tail_of(byte: u8) -> Option<Tail> {
    match byte {
        0 => Some(Tail::Keep),
        1 => Some(Tail::Discard),
        _ => None,
    }
}

/// Bytes reserved for each of a segment's two marks.
pub(crate) const MARK_SLOT_BYTES: u64 = 4096;
const MARK_MAGIC: u32 = u32::from_le_bytes(*b"QMRK");
const MARK_HEAD_BYTES: usize = 72;
const MARK_ROW_BYTES: usize = 8 + LOG_ID_BYTES;
/// Most groups whose last log id a mark names; of more groups, the first ones.
pub(crate) const MAX_MARK_GROUPS: usize = 100;

/// What is known to be durable, written apart from the data (law 9).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Grows with every mark; the slot is its lowest bit.
    pub(crate) number: u64,
    pub(crate) segment: u64,
    pub(crate) generation: u64,
    /// Number of the sync that the mark is part of.
    pub(crate) sync: u64,
    /// Everything before this was durable before the mark was written.
    pub(crate) durable: Position,
    /// Where the batch of the same sync ends; equal to `durable` in a closing mark.
    pub(crate) batch_end: u64,
    /// The last log id at `durable` of groups that the sync before touched.
    pub(crate) groups: Vec<(GroupId, LogId)>,
}

impl Mark {
    /// The mark's bytes, padded to whole sectors.
    pub(crate) fn encode(&self, seed: u32) -> Vec<u8> {
        let rows = &self.groups[..self.groups.len().min(MAX_MARK_GROUPS)];
        let end = MARK_HEAD_BYTES + rows.len() * MARK_ROW_BYTES;
        let mut bytes = vec![0; (end + 4).next_multiple_of(SECTOR_BYTES as usize)];
        put_u32(&mut bytes, 0, MARK_MAGIC);
        put_u32(&mut bytes, 4, rows.len() as u32);
        put_u64(&mut bytes, 8, self.number);
        put_u64(&mut bytes, 16, self.segment);
        put_u64(&mut bytes, 24, self.generation);
        put_u64(&mut bytes, 32, self.sync);
        put_u64(&mut bytes, 40, self.durable.segment);
        put_u64(&mut bytes, 48, self.durable.offset);
        put_u64(&mut bytes, 56, self.batch_end);
        for (i, (group, last)) in rows.iter().enumerate() {
            put_u64(&mut bytes, MARK_HEAD_BYTES + i * MARK_ROW_BYTES, group.0);
            put_log_id(&mut bytes, MARK_HEAD_BYTES + i * MARK_ROW_BYTES + 8, *last);
        }
        let checksum = crc32c::crc32c_append(seed, &bytes[..end]);
        put_u32(&mut bytes, end, checksum);
        bytes
    }

    /// Reads a mark slot; `None` if it holds no mark of this segment: it was never written, or torn.
    pub(crate) fn decode(bytes: &[u8], seed: u32, segment: u64) -> Option<Self> {
        let rows = bytes.get(..MARK_HEAD_BYTES).map(|head| u32_at(head, 4) as usize)?;
        if rows > MAX_MARK_GROUPS || u32_at(bytes, 0) != MARK_MAGIC {
            return None;
        }
        let end = MARK_HEAD_BYTES + rows * MARK_ROW_BYTES;
        let stored = bytes.get(end..end + 4).map(|field| u32_at(field, 0))?;
        if stored != crc32c::crc32c_append(seed, &bytes[..end]) || u64_at(bytes, 16) != segment {
            return None;
        }
        if u64_at(bytes, 8) >= MAX_COUNTER || u64_at(bytes, 32) >= MAX_COUNTER {
            return None;
        }
        let row = |i: usize| MARK_HEAD_BYTES + i * MARK_ROW_BYTES;
        Some(Self {
            number: u64_at(bytes, 8),
            segment,
            generation: u64_at(bytes, 24),
            sync: u64_at(bytes, 32),
            durable: Position { segment: u64_at(bytes, 40), offset: u64_at(bytes, 48) },
            batch_end: u64_at(bytes, 56),
            groups: (0..rows).map(|i| (GroupId(u64_at(bytes, row(i))), log_id_at(bytes, row(i) + 8))).collect(),
        })
    }
}
