//! Checksums put right after a change, so that what is behind them is reached. Written from FORMAT.md, not from the code
//! that is tried.

use crate::dir::INCARNATION;
use crate::parts::Parts;
use crate::samples::CLUSTER;

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    u32_at(bytes, at).map(|length| length as usize)
}

/// Writes the checksum of `covered`, going on from `seed`, at `at`.
fn seal(bytes: &mut [u8], covered: std::ops::Range<usize>, seed: u32, at: usize) -> Option<u32> {
    let checksum = crc32c::crc32c_append(seed, bytes.get(covered)?);
    bytes.get_mut(at..at + 4)?.copy_from_slice(&checksum.to_le_bytes());
    Some(checksum)
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) -> Option<()> {
    bytes.get_mut(at..at + 4)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

/// A request or a reply of a handshake.
pub(crate) fn hello(bytes: &mut [u8]) -> Option<()> {
    let end = 10 + u16_at(bytes, 8)?;
    seal(bytes, 0..end.checked_sub(4)?, 0, end - 4).map(|_| ())
}

/// Frames of a connection, and the packets in them.
pub(crate) fn frames(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(next) = frame(bytes, at) {
        at = next;
    }
}

fn frame(bytes: &mut [u8], at: usize) -> Option<usize> {
    let (length, head) = (length_at(bytes, at)?, length_at(bytes, at + 8)?);
    let content = at + 20;
    let end = content.checked_add(length)?.min(bytes.len());
    if bytes.get(at + 4) == Some(&1) && content + head <= end {
        packet(bytes.get_mut(content..end)?);
    }
    let head_end = (content + head.min(length)).min(bytes.len());
    seal(bytes, content..head_end, 0, at + 12)?;
    seal(bytes, at..at + 16, 0, at + 16)?;
    Some(end)
}

/// A packet's entries.
pub(crate) fn packet(bytes: &mut [u8]) -> Option<()> {
    let body = length_at(bytes, 4)?.checked_add(24)?;
    entries(bytes.get_mut(body..)?);
    Some(())
}

/// Entry bodies that stand one after the other. Gives where they end.
pub(crate) fn entries(bytes: &mut [u8]) -> usize {
    let seed = crc32c::crc32c(&CLUSTER.0.to_le_bytes());
    let mut at = 0;
    while let Some(length) = length_at(bytes, at).filter(|length| *length >= 52) {
        let Some(end) = at.checked_add(length).filter(|end| *end <= bytes.len()) else { break };
        if seal(bytes, at..end - 4, seed, end - 4).is_none() {
            break;
        }
        at = end;
    }
    at
}

/// A record in four copies: `identity` or `peers`.
pub(crate) fn record(bytes: &mut [u8]) {
    let of_disk = crc32c::crc32c(&INCARNATION.to_le_bytes());
    for at in (0..4).map(|copy| copy * (128 << 10)) {
        let Some(length) = length_at(bytes, at + 12) else { return };
        let end = (at + 24).saturating_add(length);
        let seed = if bytes[at..].starts_with(b"QRMPEERS") { of_disk } else { 0 };
        seal(bytes, at..end, seed, end);
    }
}

/// A file of votes.
pub(crate) fn votes(bytes: &mut [u8]) {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&CLUSTER.0.to_le_bytes()), &INCARNATION.to_le_bytes());
    for copy in bytes.chunks_exact_mut(512).filter(|copy| copy.iter().any(|byte| *byte != 0)) {
        seal(copy, 0..508, seed, 508);
    }
}

/// A file whose last four bytes are the checksum of all before.
pub(crate) fn tail(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len().checked_sub(4)?;
    seal(bytes, 0..end, 0, end).map(|_| ())
}

/// A snapshot file: chunks, manifest, end, header.
pub(crate) fn snapshot(bytes: &mut [u8]) -> Option<()> {
    seal(bytes, 0..60, 0, 60)?;
    let trailer = bytes.len().checked_sub(32)?;
    let manifest_at = usize::try_from(u64_at(bytes, trailer + 8)?).ok()?;
    let length = length_at(bytes, trailer + 4)?;
    // What was inserted or removed before the end moves the manifest, and the file has another length.
    let place = |bytes: &mut [u8], at: usize| -> Option<()> {
        let end = at.checked_add(length)?.checked_sub(4).filter(|end| *end <= bytes.len())?;
        let meta = length_at(bytes, at + 4)?;
        let mut chunk_at = at + 24 + meta;
        for (number, from) in (64..at).step_by(1 << 20).enumerate() {
            let checksum = crc32c::crc32c(bytes.get(from..at.min(from + (1 << 20)))?);
            chunk_at += 4 * usize::from(number > 0);
            if chunk_at + 4 <= end {
                put_u32(bytes, chunk_at, checksum)?;
            }
        }
        seal(bytes, at..end, 0, end).map(|_| ())
    };
    let moved = (64..trailer).find(|at| bytes.get(*at..at + 4) == Some(b"QMAN"));
    if let Some(at) = moved.filter(|at| *at != manifest_at && at % 2 == 0) {
        bytes.get_mut(trailer + 8..trailer + 16)?.copy_from_slice(&(at as u64).to_le_bytes());
        place(bytes, at);
    } else {
        place(bytes, manifest_at);
    }
    seal(bytes, trailer..trailer + 28, 0, trailer + 28).map(|_| ())
}

/// The segments of a log.
pub(crate) fn segments(bytes: &mut [u8], incarnation: u128) {
    for mut part in Parts::of_mut(bytes) {
        segment(&mut part.stored, incarnation);
        part.put_back();
    }
}

fn segment(bytes: &mut [u8], incarnation: u128) -> Option<()> {
    let header = seal(bytes, 0..508, 0, 508)?;
    let seed = crc32c::crc32c_append(crc32c::crc32c(bytes.get(48..64)?), &incarnation.to_le_bytes());
    for at in [4096, 8192] {
        if let Some(rows) = length_at(bytes, at + 4).filter(|rows| *rows <= 100) {
            let end = at + 72 + 32 * rows;
            seal(bytes, at..end, seed, end);
        }
    }
    let mut chain = header;
    let mut at = 12_288;
    while at + 96 <= bytes.len() {
        match batch(bytes, at, seed, chain) {
            Some((end, last)) => {
                chain = last;
                at = end.next_multiple_of(512).max(at + 512);
            }
            None => at += 512,
        }
    }
    let trailer = usize::try_from(u64_at(bytes, 32)?).ok()?.checked_sub(512)?;
    seal(bytes, trailer..trailer + 28, seed, trailer + 28).map(|_| ())
}

/// One batch of frames, from its lead on. Gives where it ends and the last header's checksum.
fn batch(bytes: &mut [u8], start: usize, seed: u32, chain: u32) -> Option<(usize, u32)> {
    let (mut at, mut chain) = (start, chain);
    if bytes.get(at + 4) != Some(&1) {
        return None;
    }
    loop {
        let (kind, flags, length) = (*bytes.get(at + 4)?, *bytes.get(at + 5)?, length_at(bytes, at + 8)?);
        let (body, end) = (at + 64, (at + 64).checked_add(length)?);
        let checksum = match kind {
            3 => entries_frame(bytes.get_mut(body..end)?, seed),
            _ => crc32c::crc32c_append(seed, bytes.get(body..end)?),
        };
        put_u32(bytes, at + 12, checksum)?;
        put_u32(bytes, at + 40, chain)?;
        chain = seal(bytes, at + 4..at + 64, seed, at)?;
        if flags & 1 != 0 {
            return Some((end, chain));
        }
        at = end;
    }
}

/// The checksum of a frame of entries: over the entries' own.
fn entries_frame(bytes: &mut [u8], seed: u32) -> u32 {
    let whole = entries(bytes);
    let (mut at, mut checksum) = (0, seed);
    while at < whole
        && let Some(length) = length_at(bytes, at)
    {
        let end = at + length;
        checksum = crc32c::crc32c_append(checksum, bytes.get(end - 4..end).unwrap_or_default());
        at = end;
    }
    checksum
}
