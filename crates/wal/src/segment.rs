//! A segment file: its header, marks, batches and footer (FORMAT.md, "Segments").

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{Bug, ClusterId, GroupId, Incarnation, LogIds, NodeId, bug};
use quorate_wire::{Batch, Batches, EntryError};

use crate::codec::{MAX_COUNTER, put_u32, put_u64, put_u128, round_up, u32_at, u64_at, u128_at};
use crate::copies::VERSION;
use crate::disk::{Disk, DiskFile, read_exact_at, read_up_to, write_all_at};
use crate::error::{WalError, is_no_space};
use crate::frame::{
    Bad, FRAME_HEADER_BYTES, FrameHeader, FrameKind, LAST_OF_BATCH, LEAD_BYTES, Lead, MARK_SLOT_BYTES, Mark, Position,
    SECTOR_BYTES, entries_checksum,
};
use crate::group::{ROW_BYTES, Row, decode_ids, encode_ids};
use crate::identity::Identity;

const SEGMENT_MAGIC: [u8; 8] = *b"QRMWALSG";
const HEADER_BYTES: usize = 512;
/// The two mark slots follow the header's block.
const MARKS_AT: u64 = 4096;
/// Where the first batch starts.
pub(crate) const DATA_AT: u64 = MARKS_AT + 2 * MARK_SLOT_BYTES;
/// The last sector of a segment tells where its footer is.
pub(crate) const TRAILER_BYTES: u64 = SECTOR_BYTES;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"QTRL");
const TRAILER_USED: usize = 32;
/// Bytes read at a time when looking for leads behind damage.
const SEARCH_BYTES: u64 = 1 << 20;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The cluster of its entries.
    pub(crate) cluster: ClusterId,
    /// The start value of every checksum but the header's: bytes of another disk never verify.
    pub(crate) seed: u32,
    /// Checksum of the header: what the first frame's header chains to.
    pub(crate) header_checksum: u32,
}

/// A batch read back and verified.
#[derive(Debug)]
pub(crate) struct ReadBatch {
    /// Where the sync before ended.
    pub(crate) durable: Position,
    /// Checksum of the frame header before.
    pub(crate) previous: u32,
    /// After the last frame.
    pub(crate) end: u64,
    pub(crate) sync: u64,
    /// Checksum of the last frame's header.
    pub(crate) chain: u32,
    /// The frames after the lead.
    pub(crate) frames: Vec<Frame>,
}

/// A verified frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) body: Bytes,
    /// The entries, if it is of that kind.
    pub(crate) entries: Option<Batch>,
}

/// Why a batch could not be read.
#[derive(Debug)]
pub(crate) enum BatchError {
    /// The bytes are no batch; where, and how that was seen.
    Bad { offset: u64, what: String, sums: Option<(u32, u32)> },
    /// They could not be read.
    Failed(WalError),
}

impl BatchError {
    /// The error for bytes that must be a batch.
    pub(crate) fn into_damage(self, path: &Path) -> WalError {
        match self {
            BatchError::Bad { offset, what, sums: Some((stored, computed)) } => {
                WalError::checksum(path, offset, &what, stored, computed)
            }
            BatchError::Bad { offset, what, sums: None } => WalError::damaged(path, offset, what),
            BatchError::Failed(error) => error,
        }
    }

    fn bad(path: &Path, offset: u64, bad: &Bad) -> Self {
        match bad.intact {
            true => BatchError::Failed(WalError::damaged(path, offset, bad.what)),
            false => BatchError::Bad { offset, what: bad.what.to_owned(), sums: bad.sums },
        }
    }

    fn because(offset: u64, what: &str) -> Self {
        BatchError::Bad { offset, what: what.to_owned(), sums: None }
    }

    fn entry(path: &Path, start: u64, error: &EntryError) -> Self {
        if let EntryError::Kind { at, .. } = error {
            // Whole, but of a newer version: a program that cannot read it must not take it for a torn tail.
            return BatchError::Failed(WalError::damaged(path, start + *at as u64, format!("in entries: {error}")));
        }
        let (at, sums) = match *error {
            EntryError::Checksum { at, stored, computed } => (at, Some((stored, computed))),
            EntryError::Length { at }
            | EntryError::Group { at, .. }
            | EntryError::Kind { at, .. }
            | EntryError::Gap { at } => (at, None),
        };
        BatchError::Bad { offset: start + at as u64, what: format!("in entries: {error}"), sums }
    }
}

/// The name of a segment file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in a segment file's name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().filter(|number| *number < MAX_COUNTER)
}

/// The error of making a file: "no space" is no failure of the log.
fn full_or(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WalError {
    let path = path.to_path_buf();
    move |error| if is_no_space(&error) { WalError::Full { path } } else { WalError::io(doing, &path)(error) }
}

/// The start value of checksums on this disk.
pub(crate) fn seed_of(cluster: ClusterId, incarnation: Incarnation) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&cluster.0.to_le_bytes()), &incarnation.0.to_le_bytes())
}

impl Segment {
    /// Makes a segment: its space reserved, its header and its name durable. `spare` is a file of the same length to
    /// use again.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        bytes: u64,
        identity: &Identity,
        spare: Option<&Path>,
    ) -> Result<Segment, WalError> {
        let path = dir.join(file_name(number));
        let made = dir.join("next.tmp");
        let file = match spare {
            Some(spare) => {
                disk.rename(spare, &made).map_err(WalError::io("rename", spare))?;
                disk.open(&made).map_err(WalError::io("open", &made))?
            }
            None => {
                let file = disk.create(&made).map_err(full_or("create", &made))?;
                if let Err(error) = file.allocate(bytes) {
                    // What was reserved so far must not stay reserved; that it does not matters only for space.
                    let _ = disk.remove(&made);
                    return Err(full_or("reserve space for", &made)(error));
                }
                file
            }
        };
        let mut header = vec![0; HEADER_BYTES];
        header[0..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut header, 8, VERSION);
        put_u64(&mut header, 16, number);
        put_u64(&mut header, 24, identity.starts.boot());
        put_u64(&mut header, 32, bytes);
        put_u64(&mut header, 40, identity.node.0);
        put_u128(&mut header, 48, identity.cluster.0);
        put_u128(&mut header, 64, identity.incarnation.0);
        let header_checksum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        put_u32(&mut header, HEADER_BYTES - 4, header_checksum);
        // No space for any of this is no space for a segment: nothing was promised yet, so nothing is poisoned.
        write_all_at(&*file, &header, 0).map_err(full_or("write", &made))?;
        file.sync_data().map_err(full_or("sync", &made))?;
        disk.rename(&made, &path).map_err(full_or("rename", &made))?;
        if !bug(Bug::DiskSegmentNameUnsynced) {
            disk.sync_dir(dir).map_err(full_or("sync", dir))?;
        }
        let seed = seed_of(identity.cluster, identity.incarnation);
        Ok(Segment { number, bytes, path, file, cluster: identity.cluster, seed, header_checksum })
    }

    /// Opens a segment of this node.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, number: u64, identity: &Identity) -> Result<Segment, WalError> {
        let path = dir.join(file_name(number));
        let file = disk.open(&path).map_err(WalError::io("open", &path))?;
        let header = read_up_to(&*file, HEADER_BYTES, 0).map_err(WalError::io("read", &path))?;
        if header.len() < HEADER_BYTES {
            return Err(WalError::damaged(&path, 0, "the file is shorter than a segment's header"));
        }
        let (stored, computed) = (u32_at(&header, HEADER_BYTES - 4), crc32c::crc32c(&header[..HEADER_BYTES - 4]));
        if header[0..8] != SEGMENT_MAGIC || stored != computed {
            return Err(WalError::checksum(
                &path,
                0,
                "the segment header does not match its checksum",
                stored,
                computed,
            ));
        }
        let found = u32_at(&header, 8);
        if found != VERSION {
            return Err(WalError::OtherVersion { path, found, supported: VERSION });
        }
        let (cluster, incarnation) = (ClusterId(u128_at(&header, 48)), Incarnation(u128_at(&header, 64)));
        if u64_at(&header, 16) != number {
            return Err(WalError::damaged(&path, 16, format!("the header is of segment {:#x}", u64_at(&header, 16))));
        }
        if NodeId(u64_at(&header, 40)) != identity.node || incarnation != identity.incarnation {
            return Err(WalError::damaged(&path, 40, "the segment was written by another node or to another disk"));
        }
        // A blank identity with a segment: the node stopped while it learnt its cluster.
        if cluster != identity.cluster && identity.cluster != ClusterId(0) {
            return Err(WalError::damaged(&path, 48, format!("the segment is of cluster {cluster}")));
        }
        let bytes = u64_at(&header, 32);
        let length = file.length().map_err(WalError::io("read the length of", &path))?;
        if length < bytes || bytes < DATA_AT + TRAILER_BYTES {
            return Err(WalError::damaged(&path, length, format!("the file ends before its {bytes} bytes")));
        }
        let seed = seed_of(cluster, incarnation);
        Ok(Segment { number, bytes, path, file, cluster, seed, header_checksum: stored })
    }

    /// Opens a segment to look for what is left in it, whatever its header says.
    pub(crate) fn open_damaged(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        identity: &Identity,
    ) -> Result<Segment, WalError> {
        match Segment::open(disk, dir, number, identity) {
            Err(WalError::Corrupt(_)) => {}
            opened => return opened,
        }
        let path = dir.join(file_name(number));
        let file = disk.open(&path).map_err(WalError::io("open", &path))?;
        let bytes = file.length().map_err(WalError::io("read the length of", &path))?.max(DATA_AT + TRAILER_BYTES);
        let (cluster, seed) = (identity.cluster, seed_of(identity.cluster, identity.incarnation));
        Ok(Segment { number, bytes, path, file, cluster, seed, header_checksum: 0 })
    }

    /// Where no batch may go: the trailer.
    pub(crate) fn limit(&self) -> u64 {
        self.bytes - TRAILER_BYTES
    }

    /// The newest mark, if any was written to this segment.
    pub(crate) fn newest_mark(&self) -> Result<Option<Mark>, WalError> {
        let bytes = read_up_to(&*self.file, 2 * MARK_SLOT_BYTES as usize, MARKS_AT)
            .map_err(WalError::io("read", &self.path))?;
        let marks =
            bytes.chunks(MARK_SLOT_BYTES as usize).filter_map(|slot| Mark::decode(slot, self.seed, self.number));
        Ok(marks.max_by_key(|mark| mark.number))
    }

    /// Writes a mark; durable with the next sync.
    pub(crate) fn write_mark(&self, mark: &Mark) -> Result<(), WalError> {
        let at = MARKS_AT + (mark.number % 2) * MARK_SLOT_BYTES;
        write_all_at(&*self.file, &mark.encode(self.seed), at).map_err(WalError::io("write", &self.path))
    }

    /// Reads and verifies the batch at `at`, whose lead must repeat the checksum `previous` if given.
    pub(crate) fn read_batch(&self, at: u64, previous: Option<u32>) -> Result<ReadBatch, BatchError> {
        let failed = |error| match bug(Bug::DiskReadErrorEndsLog) {
            true => BatchError::because(at, "it cannot be read"),
            false => BatchError::Failed(WalError::io("read", &self.path)(error)),
        };
        if at > self.limit() || at + LEAD_BYTES as u64 > self.limit() {
            return Err(BatchError::because(at, "the segment is used up"));
        }
        let mut lead_bytes = [0; LEAD_BYTES];
        read_exact_at(&*self.file, &mut lead_bytes, at).map_err(failed)?;
        let (header, chain, lead) = self.decode_lead(&lead_bytes, at)?;
        if previous.is_some_and(|previous| previous != header.previous) {
            return Err(BatchError::because(at, "the batch does not follow the one before it"));
        }
        if lead.batch_bytes < LEAD_BYTES as u64 || lead.batch_bytes > self.limit() - at {
            return Err(BatchError::because(at, "the batch claims to be longer than its segment"));
        }
        let mut bytes = vec![0; lead.batch_bytes as usize];
        read_exact_at(&*self.file, &mut bytes, at).map_err(failed)?;
        let bytes = Bytes::from(bytes);
        let (durable, previous) = (lead.durable, header.previous);
        let mut batch =
            ReadBatch { durable, previous, end: at + lead.batch_bytes, sync: header.sync, chain, frames: Vec::new() };
        let mut place = LEAD_BYTES;
        let mut last = header.flags & LAST_OF_BATCH != 0;
        while !last {
            let frame_at = at + place as u64;
            let rest = bytes.get(place..).unwrap_or_default();
            let (frame, checksum) = FrameHeader::decode(rest, self.seed, self.number, frame_at)
                .map_err(|bad| BatchError::bad(&self.path, frame_at, &bad))?;
            if frame.previous != batch.chain || frame.sync != header.sync || frame.generation != header.generation {
                return Err(BatchError::because(frame_at, "the frame does not follow the one before it"));
            }
            let body_at = place + FRAME_HEADER_BYTES;
            let body_end = body_at + frame.body_bytes as usize;
            if body_end > bytes.len() || frame.kind == FrameKind::Lead {
                return Err(BatchError::because(frame_at, "the frame does not fit into its batch"));
            }
            batch.frames.push(self.verify_body(frame, bytes.slice(body_at..body_end))?);
            batch.chain = checksum;
            place = body_end;
            last = frame.flags & LAST_OF_BATCH != 0;
        }
        if place != bytes.len() || batch.frames.len() + 1 != lead.frames as usize {
            return Err(BatchError::because(at, "the batch has another length than its lead says"));
        }
        Ok(batch)
    }

    fn decode_lead(&self, bytes: &[u8], at: u64) -> Result<(FrameHeader, u32, Lead), BatchError> {
        let (header, checksum) = FrameHeader::decode(bytes, self.seed, self.number, at)
            .map_err(|bad| BatchError::bad(&self.path, at, &bad))?;
        let body = bytes.get(FRAME_HEADER_BYTES..LEAD_BYTES).unwrap_or_default();
        let lead = Lead::decode(body)
            .filter(|_| header.kind == FrameKind::Lead)
            .ok_or_else(|| BatchError::because(at, "the frame does not lead a batch"))?;
        let computed = crc32c::crc32c_append(self.seed, body);
        if computed != header.body_checksum {
            let sums = Some((header.body_checksum, computed));
            return Err(BatchError::Bad { offset: at, what: "the lead does not match its checksum".into(), sums });
        }
        Ok((header, checksum, lead))
    }

    fn verify_body(&self, header: FrameHeader, body: Bytes) -> Result<Frame, BatchError> {
        let at = header.offset + FRAME_HEADER_BYTES as u64;
        let computed = match header.kind {
            FrameKind::Entries => entries_checksum(self.seed, &body),
            _ => crc32c::crc32c_append(self.seed, &body),
        };
        let entries = match header.kind {
            FrameKind::Entries => {
                let mut batches = Batch::decode(self.cluster, header.group, body.clone())
                    .map_err(|error| BatchError::entry(&self.path, at, &error))?;
                match (batches.pop(), batches.is_empty()) {
                    (Some(batch), true) => Some(batch),
                    _ => return Err(BatchError::because(at, "the frame's entries are not of one leader")),
                }
            }
            _ => None,
        };
        if computed != header.body_checksum && !bug(Bug::DiskAcceptsTornTail) {
            let sums = Some((header.body_checksum, computed));
            return Err(BatchError::Bad { offset: at, what: "the frame does not match its checksum".into(), sums });
        }
        Ok(Frame { header, body, entries })
    }

    /// The offset of a valid lead at or after `from`: proof that what is before it was durable once.
    pub(crate) fn find_lead(&self, from: u64) -> Result<Option<u64>, WalError> {
        let mut at = round_up(from, SECTOR_BYTES);
        while at < self.limit() {
            let length = SEARCH_BYTES.min(self.limit() - at) as usize;
            let bytes = read_up_to(&*self.file, length, at).map_err(WalError::io("read", &self.path))?;
            for (i, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
                let place = at + i as u64 * SECTOR_BYTES;
                let claims =
                    sector.len() >= LEAD_BYTES && u64_at(sector, 16) == self.number && u64_at(sector, 32) == place;
                if claims && self.decode_lead(sector, place).is_ok() {
                    return Ok(Some(place));
                }
            }
            if bytes.len() < length {
                break;
            }
            at += length as u64;
        }
        Ok(None)
    }

    /// Writes where the footer's batch is; durable with the next sync.
    pub(crate) fn write_trailer(&self, footer_at: u64) -> Result<(), WalError> {
        let mut bytes = [0; SECTOR_BYTES as usize];
        put_u32(&mut bytes, 0, TRAILER_MAGIC);
        put_u64(&mut bytes, 8, self.number);
        put_u64(&mut bytes, 16, footer_at);
        let checksum = crc32c::crc32c_append(self.seed, &bytes[..TRAILER_USED - 4]);
        put_u32(&mut bytes, TRAILER_USED - 4, checksum);
        write_all_at(&*self.file, &bytes, self.limit()).map_err(WalError::io("write", &self.path))
    }

    /// The batch with the footer, if the segment was finished and both are whole.
    pub(crate) fn read_footer(&self) -> Result<Option<(ReadBatch, SegmentIndex)>, WalError> {
        let bytes = read_up_to(&*self.file, TRAILER_USED, self.limit()).map_err(WalError::io("read", &self.path))?;
        if bytes.len() < TRAILER_USED || u32_at(&bytes, 0) != TRAILER_MAGIC || u64_at(&bytes, 8) != self.number {
            return Ok(None);
        }
        let computed = crc32c::crc32c_append(self.seed, &bytes[..TRAILER_USED - 4]);
        let footer_at = u64_at(&bytes, 16);
        if computed != u32_at(&bytes, TRAILER_USED - 4) || footer_at >= self.limit() {
            return Ok(None);
        }
        let batch = match self.read_batch(footer_at, None) {
            Ok(batch) => batch,
            Err(BatchError::Bad { .. }) => return Ok(None),
            Err(BatchError::Failed(error)) => return Err(error),
        };
        let index = batch.frames.last().filter(|frame| frame.header.kind == FrameKind::Footer);
        let index = index.and_then(|frame| SegmentIndex::decode(&frame.body, self.limit()));
        Ok(index.map(|index| (batch, index)))
    }

    /// Reads entries of a group from `first` to `last` out of the frames from `start` to `end`, verifying them, until
    /// `budget` bytes are used up; at least one if `out` is empty. Returns whether there is budget left.
    pub(crate) fn read_entries(
        &self,
        group: GroupId,
        (start, end): (u64, u64),
        (first, last): (u64, u64),
        budget: &mut u64,
        out: &mut Batches,
    ) -> Result<bool, WalError> {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        read_exact_at(&*self.file, &mut bytes, start).map_err(WalError::io("read", &self.path))?;
        let bytes = Bytes::from(bytes);
        let mut at = start;
        while at < end {
            let place = (at - start) as usize;
            let header = FrameHeader::decode(&bytes[place..], self.seed, self.number, at);
            let (header, _) = header.map_err(|bad| BatchError::bad(&self.path, at, &bad).into_damage(&self.path))?;
            let body_at = place + FRAME_HEADER_BYTES;
            let body_end = body_at + header.body_bytes as usize;
            if body_end > bytes.len() {
                return Err(WalError::damaged(&self.path, at, "the frame is longer than the index says"));
            }
            if header.kind == FrameKind::Entries && header.group == group {
                let frame = self.verify_body(header, bytes.slice(body_at..body_end));
                let frame = frame.map_err(|error| error.into_damage(&self.path))?;
                let wanted = frame.entries.and_then(|batch| batch.slice(first, last));
                if let Some(batch) = wanted
                    && !take_within(batch, budget, out)
                {
                    return Ok(false);
                }
            }
            at = start + body_end as u64;
            if header.flags & LAST_OF_BATCH != 0 {
                at = round_up(at, SECTOR_BYTES);
            }
        }
        Ok(true)
    }
}

/// Adds as many of a batch's entries as the budget allows, at least one if `out` is empty; `false` if some were left.
pub(crate) fn take_within(batch: Batch, budget: &mut u64, out: &mut Batches) -> bool {
    let bytes = batch.bytes().len() as u64;
    if bytes <= *budget {
        *budget -= bytes;
        out.push(batch);
        return true;
    }
    let mut taken = None;
    for entry in batch.iter() {
        let end = (entry.payload_at + entry.payload.len()) as u64;
        if end > *budget && (taken.is_some() || !out.is_empty()) {
            break;
        }
        taken = Some(entry.log_id.index);
    }
    out.extend(taken.and_then(|last| batch.slice(batch.first().index, last)));
    *budget = 0;
    false
}

/// What a segment does to each group's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentIndex {
    rows: BTreeMap<GroupId, Vec<Row>>,
    count: u64,
}

impl SegmentIndex {
    /// Adds a line; entries that follow others closely are taken into their line.
    pub(crate) fn record(&mut self, group: GroupId, row: Row) {
        let rows = self.rows.entry(group).or_default();
        if !rows.last_mut().is_some_and(|last| last.absorb(&row)) {
            rows.push(row);
            self.count += 1;
        }
    }

    /// Number of lines.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The lines, in order within a group.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (GroupId, Row)> + '_ {
        self.rows.iter().flat_map(|(group, rows)| rows.iter().map(|row| (*group, *row)))
    }

    /// The index in a frame, if it is a footer.
    pub(crate) fn of_footer(frame: &Frame, limit: u64) -> Option<Self> {
        if frame.header.kind != FrameKind::Footer {
            return None;
        }
        Self::decode(&frame.body, limit)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = self.count.to_le_bytes().to_vec();
        self.rows().for_each(|(group, row)| row.encode(group.0, &mut body));
        body
    }

    fn decode(body: &[u8], limit: u64) -> Option<Self> {
        let count = body.get(..8).map(|field| u64_at(field, 0))?;
        if (body.len() - 8) as u64 != count.checked_mul(ROW_BYTES as u64)? {
            return None;
        }
        let mut index = Self { rows: BTreeMap::new(), count };
        for row in body[8..].chunks_exact(ROW_BYTES) {
            let (group, row) = Row::decode(row, limit)?;
            index.rows.entry(GroupId(group)).or_default().push(row);
        }
        Some(index)
    }

    /// Bytes of a segment that a footer of `rows` lines takes.
    pub(crate) fn footer_bytes(rows: u64) -> u64 {
        round_up((LEAD_BYTES + FRAME_HEADER_BYTES + 8) as u64 + rows * ROW_BYTES as u64, SECTOR_BYTES)
    }
}

/// The body of a base frame: what came before the segment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Base {
    /// End of the last batch before the footer of the segment before; 0 for the first segment.
    pub(crate) data_end: u64,
    /// Checksum of the last frame header there.
    pub(crate) chain: u32,
    /// Every group's log.
    pub(crate) logs: BTreeMap<GroupId, LogIds>,
}

impl Base {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = vec![0; 24];
        put_u64(&mut body, 0, self.data_end);
        put_u32(&mut body, 8, self.chain);
        put_u64(&mut body, 16, self.logs.len() as u64);
        for (group, ids) in &self.logs {
            body.extend_from_slice(&group.0.to_le_bytes());
            encode_ids(ids, &mut body);
        }
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let head = body.get(..24)?;
        let mut base = Self { data_end: u64_at(head, 0), chain: u32_at(head, 8), logs: BTreeMap::new() };
        let mut rest = &body[24..];
        for _ in 0..u64_at(head, 16) {
            let group = rest.get(..8).map(|field| GroupId(u64_at(field, 0)))?;
            let (ids, length) = decode_ids(&rest[8..])?;
            base.logs.insert(group, ids);
            rest = &rest[8 + length..];
        }
        rest.is_empty().then_some(base)
    }
}
