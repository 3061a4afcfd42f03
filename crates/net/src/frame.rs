//! Frames: how a byte stream is cut into messages. No I/O.
//!
//! The layout is in FORMAT.md, "Frame". A frame has a header with its own checksum, a head with a checksum in
//! the header, and a body whose entries carry theirs: a payload is hashed once on its way (law 10).

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 20;
/// A smaller gap than this at the end of a read buffer is not worth a read.
const LEAST_READ_BYTES: usize = 4 << 10;
/// Size of a read buffer: some hundred small messages, one system call.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// A frame's buffer is reserved in steps of at most this, so that a length field alone cannot take memory.
const RESERVE_STEP_BYTES: usize = 4 << 20;

/// Most that a buffer has room for beyond twice what it holds.
#[cfg(feature = "hostile")]
pub(crate) const MOST_SPARE_BYTES: usize = 2 * RESERVE_STEP_BYTES + READ_BUFFER_BYTES;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message of the protocol; the body is entries.
    Packet,
    /// The library's own.
    Call,
    /// A snapshot starts.
    SnapshotBegin,
    /// A part of it.
    SnapshotChunk,
    /// It was whole.
    SnapshotEnd,
    /// The receiver's answer.
    SnapshotReply,
    /// What the receiver of a snapshot has of it already.
    SnapshotResume,
    /// The node that dialed refuses the other, and closes.
    Goodbye,
}

impl Kind {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Kind::Packet => 1,
            Kind::Call => 2,
            Kind::SnapshotBegin => 3,
            Kind::SnapshotChunk => 4,
            Kind::SnapshotEnd => 5,
            Kind::SnapshotReply => 6,
            Kind::Goodbye => 7,
            Kind::SnapshotResume => 8,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Kind::Packet),
            2 => Some(Kind::Call),
            3 => Some(Kind::SnapshotBegin),
            4 => Some(Kind::SnapshotChunk),
            5 => Some(Kind::SnapshotEnd),
            6 => Some(Kind::SnapshotReply),
            7 => Some(Kind::Goodbye),
            8 => Some(Kind::SnapshotResume),
            _ => None,
        }
    }
}

/// A frame that arrived whole; its head is verified, its body is not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Head and body, one after the other.
    pub(crate) content: Bytes,
    /// Where the body starts in `content`.
    pub(crate) head_len: usize,
}

impl Frame {
    pub(crate) fn head(&self) -> &[u8] {
        &self.content[..self.head_len]
    }
}

/// A frame that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    HeaderChecksum {
        stored: u32,
        computed: u32,
    },
    HeadChecksum {
        kind: u8,
        stored: u32,
        computed: u32,
    },
    Length {
        length: usize,
        limit: usize,
    },
    HeadLength {
        head: usize,
        length: usize,
    },
    Flags(u8),
    Version {
        found: u16,
        agreed: u16,
    },
    /// A kind that this lane, or this place in it, does not carry.
    Unexpected(Kind),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::HeaderChecksum { stored, computed } => {
                write!(f, "frame header checksum {stored:#010x} stored, {computed:#010x} computed")
            }
            FrameError::HeadChecksum { kind, stored, computed } => {
                write!(f, "checksum of a frame of kind {kind}: {stored:#010x} stored, {computed:#010x} computed")
            }
            FrameError::Length { length, limit } => write!(f, "frame of {length} bytes exceeds the limit of {limit}"),
            FrameError::HeadLength { head, length } => {
                write!(f, "frame of {length} bytes cannot hold a head of {head}")
            }
            FrameError::Flags(flags) => write!(f, "frame flags {flags:#04x} are not known to this version"),
            FrameError::Version { found, agreed } => {
                write!(f, "frame of protocol version {found} where {agreed} was agreed")
            }
            FrameError::Unexpected(kind) => write!(f, "unexpected frame of kind {kind:?}"),
        }
    }
}

/// Starts a frame in `out`; the head follows, then [`finish`].
pub(crate) fn start(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    at
}

/// Completes the frame that started at `at` and whose head ends at the end of `out`; gives the frame's length
/// without its header.
pub(crate) fn finish(out: &mut [u8], at: usize, kind: Kind, version: u16, body_len: usize) -> usize {
    let (space, head) = out[at..].split_at_mut(FRAME_HEADER_BYTES);
    space.copy_from_slice(&header(kind, version, head.len(), crc32c::crc32c(head), body_len));
    head.len() + body_len
}

/// A frame's header, when the head's checksum is known.
pub(crate) fn header(
    kind: Kind,
    version: u16,
    head_len: usize,
    head_checksum: u32,
    body_len: usize,
) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0..4].copy_from_slice(&((head_len + body_len) as u32).to_le_bytes());
    header[4] = kind.to_byte();
    header[6..8].copy_from_slice(&version.to_le_bytes());
    header[8..12].copy_from_slice(&(head_len as u32).to_le_bytes());
    header[12..16].copy_from_slice(&head_checksum.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..16]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// A whole frame without a body.
pub(crate) fn whole(kind: Kind, version: u16, head: &[u8]) -> Vec<u8> {
    let mut out = header(kind, version, head.len(), crc32c::crc32c(head), 0).to_vec();
    out.extend_from_slice(head);
    out
}

/// A verified header whose frame has not arrived whole.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u8,
    length: usize,
    head_len: usize,
    head_checksum: u32,
}

/// Cuts what arrives into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    version: u16,
    limit: usize,
    pending: Option<Header>,
}

impl Decoder {
    /// Frames of `version`, of at most `limit` bytes after the header.
    pub(crate) fn new(version: u16, limit: usize) -> Self {
        Self { version, limit, pending: None }
    }

    /// Takes the next frame from `buffer`; `None` if it has not arrived whole. Frames of kinds that this
    /// version does not know are skipped.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            let header = match self.pending {
                Some(header) => header,
                None if buffer.len() < FRAME_HEADER_BYTES => return Ok(None),
                None => {
                    let header = self.header(&buffer.split_to(FRAME_HEADER_BYTES))?;
                    *self.pending.insert(header)
                }
            };
            if buffer.len() < header.length {
                return Ok(None);
            }
            self.pending = None;
            let content = buffer.split_to(header.length).freeze();
            let computed = crc32c::crc32c(&content[..header.head_len]);
            if computed != header.head_checksum {
                let (kind, stored) = (header.kind, header.head_checksum);
                return Err(FrameError::HeadChecksum { kind, stored, computed });
            }
            if let Some(kind) = Kind::from_byte(header.kind) {
                return Ok(Some(Frame { kind, content, head_len: header.head_len }));
            }
        }
    }

    fn header(&self, bytes: &[u8]) -> Result<Header, FrameError> {
        let (stored, computed) = (u32_at(bytes, 16), crc32c::crc32c(&bytes[..16]));
        if stored != computed {
            return Err(FrameError::HeaderChecksum { stored, computed });
        }
        let version = u16::from_le_bytes([bytes[6], bytes[7]]);
        if version != self.version {
            return Err(FrameError::Version { found: version, agreed: self.version });
        }
        if bytes[5] != 0 {
            return Err(FrameError::Flags(bytes[5]));
        }
        let (length, head) = (u32_at(bytes, 0) as usize, u32_at(bytes, 8) as usize);
        if length > self.limit {
            return Err(FrameError::Length { length, limit: self.limit });
        }
        if head > length {
            return Err(FrameError::HeadLength { head, length });
        }
        Ok(Header { kind: bytes[4], length, head_len: head, head_checksum: u32_at(bytes, 12) })
    }

    /// Bytes that the frame in progress has and wants, header included; `None` between two frames.
    pub(crate) fn progress(&self, buffer: &BytesMut) -> Option<(usize, usize)> {
        match self.pending {
            Some(header) => Some((FRAME_HEADER_BYTES + buffer.len(), FRAME_HEADER_BYTES + header.length)),
            None if buffer.is_empty() => None,
            None => Some((buffer.len(), FRAME_HEADER_BYTES)),
        }
    }

    /// Makes room in `buffer` for the next read.
    pub(crate) fn reserve(&self, buffer: &mut BytesMut) {
        let missing = self.pending.map_or(0, |header| header.length.saturating_sub(buffer.len()));
        let spare = buffer.capacity() - buffer.len();
        if missing > spare {
            buffer.reserve(missing.min(RESERVE_STEP_BYTES.max(buffer.len())).max(READ_BUFFER_BYTES));
        } else if spare < LEAST_READ_BYTES && missing == 0 {
            buffer.reserve(READ_BUFFER_BYTES);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(kind: Kind, head: &[u8], body: &[u8]) -> BytesMut {
        let mut out = Vec::new();
        let at = start(&mut out);
        out.extend_from_slice(head);
        finish(&mut out, at, kind, 1, body.len());
        out.extend_from_slice(body);
        out.as_slice().into()
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let mut stream = bytes_of(Kind::Packet, b"head", b"body");
        stream.extend_from_slice(&bytes_of(Kind::Call, b"", b""));
        stream.extend_from_slice(&bytes_of(Kind::Packet, b"last", &[9; 300]));
        for step in 1..=stream.len() {
            let (mut decoder, mut buffer, mut found) = (Decoder::new(1, 1000), BytesMut::new(), Vec::new());
            for part in stream.chunks(step) {
                decoder.reserve(&mut buffer);
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                    found.push((frame.kind, frame.head().to_vec(), frame.content.len()));
                }
            }
            let expected =
                [(Kind::Packet, b"head".to_vec(), 8), (Kind::Call, vec![], 0), (Kind::Packet, b"last".to_vec(), 304)];
            assert_eq!(found, expected, "step {step}");
            assert_eq!(decoder.progress(&buffer), None);
        }
    }

    #[test]
    fn any_flipped_bit_of_header_and_head_is_seen() {
        let whole = bytes_of(Kind::Packet, b"the head", b"body");
        for bit in 0..(FRAME_HEADER_BYTES + 8) * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Decoder::new(1, 1000).next(&mut bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unknown_kinds_are_skipped_and_unknown_flags_are_not() {
        let mut stream = bytes_of(Kind::Packet, b"later", b"more");
        stream[4] = 200;
        let checksum = crc32c::crc32c(&stream[..16]);
        stream[16..20].copy_from_slice(&checksum.to_le_bytes());
        stream.extend_from_slice(&bytes_of(Kind::Call, b"ours", b""));
        let found = Decoder::new(1, 1000).next(&mut stream).unwrap().unwrap();
        assert_eq!((found.kind, found.head()), (Kind::Call, b"ours".as_ref()));

        let mut flagged = bytes_of(Kind::Packet, b"", b"");
        flagged[5] = 1;
        let checksum = crc32c::crc32c(&flagged[..16]);
        flagged[16..20].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Decoder::new(1, 1000).next(&mut flagged), Err(FrameError::Flags(1)));
    }

    #[test]
    fn limits_hold_before_memory_is_taken() {
        let mut large = bytes_of(Kind::Packet, b"", &[0; 1001]);
        assert_eq!(Decoder::new(1, 1000).next(&mut large), Err(FrameError::Length { length: 1001, limit: 1000 }));
        assert!(matches!(
            Decoder::new(2, 1000).next(&mut bytes_of(Kind::Call, b"", b"")),
            Err(FrameError::Version { .. })
        ));

        let mut claim = bytes_of(Kind::Packet, b"", b"");
        let mut decoder = Decoder::new(1, usize::MAX);
        claim[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32c::crc32c(&claim[..16]);
        claim[16..20].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decoder.next(&mut claim), Ok(None));
        decoder.reserve(&mut claim);
        assert!(claim.capacity() <= 2 * RESERVE_STEP_BYTES, "{} bytes for a claim", claim.capacity());
    }
}
