//! Log entries as bytes: encoded once by the proposer, byte-identical on wire and disk.
//!
//! The layout is in FORMAT.md, "Entry body".

use std::fmt;

use bytes::{Bytes, BytesMut};
use quorate_core::{ClusterId, GroupId, LeaderId, LogId, NodeId};
use smallvec::SmallVec;

/// Bytes of an entry body before its payload.
pub const ENTRY_HEADER_BYTES: usize = 48;
/// Bytes of an entry body after its payload: the checksum.
pub const ENTRY_CHECKSUM_BYTES: usize = 4;
/// Bytes that an entry adds to its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = ENTRY_HEADER_BYTES + ENTRY_CHECKSUM_BYTES;
/// Largest payload of an entry: 64 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// A builder that is used again makes so much room at once, and small batches that follow each other share one
/// allocation: 78 of an empty command each. Whoever keeps the last of them keeps all of it.
const SHARED_ROOM_BYTES: usize = 4 << 10;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Starts a leadership; has no payload.
    Blank,
    /// A command for the state machine.
    Command,
    /// A membership.
    Membership,
    /// Opens a session; its id is the entry's index. The payload is a [`SessionOpening`](crate::SessionOpening).
    OpenSession,
    /// A command of a session: a [`SessionHeader`](crate::SessionHeader), then the command.
    SessionCommand,
    /// Keeps sessions alive; the payload lists them.
    KeepSessions,
    /// Closes sessions; the payload lists them.
    CloseSessions,
}

impl EntryKind {
    /// Its number in an entry.
    pub fn to_byte(self) -> u8 {
        match self {
            EntryKind::Blank => 0,
            EntryKind::Command => 1,
            EntryKind::Membership => 2,
            EntryKind::OpenSession => 3,
            EntryKind::SessionCommand => 4,
            EntryKind::KeepSessions => 5,
            EntryKind::CloseSessions => 6,
        }
    }

    /// The kind of this number, if there is one.
    #[inline]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(EntryKind::Blank),
            1 => Some(EntryKind::Command),
            2 => Some(EntryKind::Membership),
            3 => Some(EntryKind::OpenSession),
            4 => Some(EntryKind::SessionCommand),
            5 => Some(EntryKind::KeepSessions),
            6 => Some(EntryKind::CloseSessions),
            _ => None,
        }
    }

    /// Whether the core makes such entries, not clients.
    fn is_special(self) -> bool {
        match self {
            EntryKind::Blank | EntryKind::Membership => true,
            EntryKind::Command
            | EntryKind::OpenSession
            | EntryKind::SessionCommand
            | EntryKind::KeepSessions
            | EntryKind::CloseSessions => false,
        }
    }
}

/// One entry, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its place in the log.
    pub log_id: LogId,
    /// What it is.
    pub kind: EntryKind,
    /// The leader's clock when it was proposed, in nanoseconds since the Unix epoch. Never goes back in a log.
    pub time: u64,
    /// The payload.
    pub payload: &'a [u8],
    /// Where the payload starts in [`Batch::bytes`].
    pub payload_at: usize,
}

/// Consecutive entries of one leader in one refcounted buffer. Cheap to clone; never empty.
///
/// The unit that the log, every peer's stream and the state machine share.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    first: u64,
    last: LogId,
    bytes: Bytes,
    /// Whether an entry that the core made is inside.
    special: bool,
}

impl Batch {
    /// The first entry.
    #[inline]
    pub fn first(&self) -> LogId {
        LogId::new(self.last.leader_id, self.first)
    }

    /// The last entry.
    #[inline]
    pub fn last(&self) -> LogId {
        self.last
    }

    /// Number of entries; at least 1.
    pub fn count(&self) -> u64 {
        self.last.index - self.first + 1
    }

    /// The entry bodies, one after the other.
    #[inline]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether an entry that the core made is inside: a blank one or a membership.
    pub fn has_special(&self) -> bool {
        self.special
    }

    /// The entries, in log order.
    #[inline]
    pub fn iter(&self) -> BatchIter<'_> {
        BatchIter { bytes: &self.bytes, at: 0 }
    }

    /// The payload of one of this batch's entries as a buffer of its own, without copying.
    pub fn payload(&self, entry: &Entry<'_>) -> Bytes {
        self.bytes.slice(entry.payload_at..entry.payload_at + entry.payload.len())
    }

    /// The part of the batch with indexes from `first` to `last`; `None` if there is none.
    pub fn slice(&self, first: u64, last: u64) -> Option<Batch> {
        let first = first.max(self.first);
        let last = last.min(self.last.index);
        if first > last {
            return None;
        }
        if first == self.first && last == self.last.index {
            return Some(self.clone());
        }
        let mut start = None;
        let mut end = 0;
        let mut special = false;
        for entry in self.iter().take_while(|entry| entry.log_id.index <= last) {
            if entry.log_id.index >= first {
                start.get_or_insert(entry.payload_at - ENTRY_HEADER_BYTES);
                special |= entry.kind.is_special();
            }
            end = entry.payload_at + entry.payload.len() + ENTRY_CHECKSUM_BYTES;
        }
        let bytes = self.bytes.slice(start?..end);
        Some(Batch { first, last: LogId::new(self.last.leader_id, last), bytes, special })
    }

    /// Reads entry bodies that stand one after the other, verifying every checksum, and splits them by leader.
    ///
    /// # Errors
    /// Says what is wrong with the first entry that cannot be accepted.
    pub fn decode(cluster: ClusterId, group: GroupId, bytes: Bytes) -> Result<SmallVec<[Batch; 1]>, EntryError> {
        let mut batches: SmallVec<[Batch; 1]> = SmallVec::new();
        let mut at = 0;
        let mut start = 0;
        let mut open: Option<(u64, LogId, bool)> = None;
        while at < bytes.len() {
            let (entry, length) = verify(cluster, group, &bytes[at..], at)?;
            let special = entry.kind.is_special();
            match &mut open {
                Some((_, last, _)) if entry.log_id.index != last.index + 1 => return Err(EntryError::Gap { at }),
                Some((_, last, _)) if entry.log_id.leader_id < last.leader_id => return Err(EntryError::Gap { at }),
                Some((_, last, any)) if entry.log_id.leader_id == last.leader_id => {
                    *last = entry.log_id;
                    *any |= special;
                }
                _ => {
                    if let Some((first, last, special)) = open {
                        batches.push(Batch { first, last, bytes: bytes.slice(start..at), special });
                    }
                    start = at;
                    open = Some((entry.log_id.index, entry.log_id, special));
                }
            }
            at += length;
        }
        if let Some((first, last, special)) = open {
            batches.push(Batch { first, last, bytes: bytes.slice(start..at), special });
        }
        Ok(batches)
    }
}

/// The entries of a [`Batch`], in log order.
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BatchIter<'_> {
    /// Whether nothing follows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let (entry, length) = parse(rest, self.at)?;
        self.at += length;
        Some(entry)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}..={}, {} bytes)", self.first(), self.last.index, self.bytes.len())
    }
}

/// Collects payloads before their place in the log is known, then turns them into a [`Batch`] in place.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    buffer: BytesMut,
    count: u64,
    special: bool,
    /// How much room is made at least.
    room: usize,
    /// The cluster that entries were sealed for last, and the start of their checksums.
    seed: Option<(ClusterId, u32)>,
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If the payload is larger than [`MAX_PAYLOAD_BYTES`]: the caller checks that first.
    pub fn push(&mut self, kind: EntryKind, payload: &[u8]) {
        assert!(payload.len() <= MAX_PAYLOAD_BYTES, "the caller limits payloads to MAX_PAYLOAD_BYTES");
        let length = (payload.len() + ENTRY_OVERHEAD_BYTES) as u32;
        if self.buffer.capacity() - self.buffer.len() < length as usize {
            self.buffer.reserve(self.room.max(length as usize));
        }
        let mut header = [0u8; ENTRY_HEADER_BYTES];
        header[0..4].copy_from_slice(&length.to_le_bytes());
        header[4] = kind.to_byte();
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(&[0; ENTRY_CHECKSUM_BYTES]);
        self.count += 1;
        self.special |= kind.is_special();
    }

    /// Number of entries collected.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their size in bytes.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Gives the collected entries their place in the log and empties the builder; `None` if it is empty.
    pub fn seal(
        &mut self,
        cluster: ClusterId,
        group: GroupId,
        leader_id: LeaderId,
        first: u64,
        time: u64,
    ) -> Option<Batch> {
        if self.count == 0 {
            return None;
        }
        let seed = match self.seed {
            Some((sealed_for, seed)) if sealed_for == cluster => seed,
            _ => self.seed.insert((cluster, checksum_seed(cluster))).1,
        };
        let mut at = 0;
        let mut index = first;
        while at < self.buffer.len() {
            let length = u32_at(&self.buffer, at) as usize;
            let body = &mut self.buffer[at..at + length];
            body[8..16].copy_from_slice(&group.0.to_le_bytes());
            body[16..24].copy_from_slice(&leader_id.term.to_le_bytes());
            body[24..32].copy_from_slice(&leader_id.node_id.0.to_le_bytes());
            body[32..40].copy_from_slice(&index.to_le_bytes());
            body[40..48].copy_from_slice(&time.to_le_bytes());
            let (covered, checksum) = body.split_at_mut(length - ENTRY_CHECKSUM_BYTES);
            checksum.copy_from_slice(&crc32c::crc32c_append(seed, covered).to_le_bytes());
            at += length;
            index += 1;
        }
        let batch = Batch {
            first,
            last: LogId::new(leader_id, index - 1),
            bytes: self.buffer.split().freeze(),
            special: self.special,
        };
        self.clear();
        self.room = SHARED_ROOM_BYTES;
        Some(batch)
    }

    /// Forgets what was collected.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.count = 0;
        self.special = false;
    }
}

/// The checksum's start value: an entry of another cluster never verifies. A recovery of a lost quorum changes nothing
/// here: the log stays readable.
pub fn checksum_seed(cluster: ClusterId) -> u32 {
    crc32c::crc32c(&cluster.base().0.to_le_bytes())
}

/// Length in bytes of the entry body that `bytes` starts with, as far as its first field tells.
#[inline]
pub fn body_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (ENTRY_OVERHEAD_BYTES..=MAX_PAYLOAD_BYTES + ENTRY_OVERHEAD_BYTES).contains(&length).then_some(length)
}

/// Reads and verifies the entry body that `bytes` starts with; `at` is only for messages.
///
/// # Errors
/// Says what is wrong.
pub fn verify(cluster: ClusterId, group: GroupId, bytes: &[u8], at: usize) -> Result<(Entry<'_>, usize), EntryError> {
    let length = body_length(bytes).ok_or(EntryError::Length { at })?;
    let body = bytes.get(..length).ok_or(EntryError::Length { at })?;
    let (covered, stored) = body.split_at(length - ENTRY_CHECKSUM_BYTES);
    let stored = u32_at(stored, 0);
    let computed = crc32c::crc32c_append(checksum_seed(cluster), covered);
    if stored != computed {
        return Err(EntryError::Checksum { at, stored, computed });
    }
    let found = GroupId(u64_at(body, 8));
    if found != group {
        return Err(EntryError::Group { at, found });
    }
    if body[5..8] != [0; 3] {
        return Err(EntryError::Kind { at, kind: body[4] });
    }
    let (entry, length) = parse(body, at).ok_or(EntryError::Kind { at, kind: body[4] })?;
    if entry.log_id.index == 0 || entry.log_id.index == u64::MAX || entry.log_id.leader_id.term == u64::MAX {
        return Err(EntryError::Gap { at });
    }
    Ok((entry, length))
}

#[inline]
fn parse(bytes: &[u8], at: usize) -> Option<(Entry<'_>, usize)> {
    // Of a known length, so that no field of it needs a check of its own.
    let (header, rest) = bytes.split_first_chunk::<ENTRY_HEADER_BYTES>()?;
    let length = body_length(header)?;
    let payload = rest.get(..length - ENTRY_HEADER_BYTES)?.split_last_chunk::<ENTRY_CHECKSUM_BYTES>()?.0;
    let leader_id = LeaderId { term: u64_at(header, 16), node_id: NodeId(u64_at(header, 24)) };
    let entry = Entry {
        log_id: LogId { leader_id, index: u64_at(header, 32) },
        kind: EntryKind::from_byte(header[4])?,
        time: u64_at(header, 40),
        payload,
        payload_at: at + ENTRY_HEADER_BYTES,
    };
    Some((entry, length))
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// An entry body that cannot be accepted. `at` is its offset in the bytes given.
///
/// A log decides by it what is torn and what is damaged (law 9), so a new case must break those who match on it: this
/// is not `#[non_exhaustive]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// The length field is out of range or more than the bytes at hand.
    Length {
        /// Offset.
        at: usize,
    },
    /// The checksum does not match.
    Checksum {
        /// Offset.
        at: usize,
        /// The checksum found.
        stored: u32,
        /// The checksum of the bytes found.
        computed: u32,
    },
    /// The entry belongs to another group.
    Group {
        /// Offset.
        at: usize,
        /// The group it names.
        found: GroupId,
    },
    /// The kind is not known to this version.
    Kind {
        /// Offset.
        at: usize,
        /// The kind byte.
        kind: u8,
    },
    /// The entry does not follow the one before it.
    Gap {
        /// Offset.
        at: usize,
    },
}

impl EntryError {
    /// Always false: the same bytes are refused again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: reading changes nothing.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryError::Length { at } => write!(f, "entry at offset {at}: length field out of range"),
            EntryError::Checksum { at, stored, computed } => {
                write!(f, "entry at offset {at}: checksum {stored:#010x} stored, {computed:#010x} computed")
            }
            EntryError::Group { at, found } => write!(f, "entry at offset {at}: belongs to group {found}"),
            EntryError::Kind { at, kind } => write!(f, "entry at offset {at}: unknown kind {kind}"),
            EntryError::Gap { at } => write!(f, "entry at offset {at}: does not follow the one before it"),
        }
    }
}

impl std::error::Error for EntryError {}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);
    const GROUP: GroupId = GroupId(1);

    fn batch(leader: LeaderId, first: u64, payloads: &[&[u8]]) -> Batch {
        let mut builder = BatchBuilder::new();
        payloads.iter().for_each(|payload| builder.push(EntryKind::Command, payload));
        builder.seal(CLUSTER, GROUP, leader, first, 5).unwrap()
    }

    #[test]
    fn what_is_sealed_decodes_to_the_same_batch() {
        let sealed = batch(LeaderId::new(2, 1), 4, &[b"one", b"", b"three"]);
        let decoded = Batch::decode(CLUSTER, GROUP, sealed.bytes().clone()).unwrap();
        assert_eq!(decoded.as_slice(), std::slice::from_ref(&sealed));
        let payloads: Vec<_> = sealed.iter().map(|e| (e.log_id.index, e.payload.to_vec())).collect();
        assert_eq!(payloads, [(4, b"one".to_vec()), (5, Vec::new()), (6, b"three".to_vec())]);
    }

    #[test]
    fn entries_of_several_leaders_become_a_batch_each() {
        let (one, two) = (batch(LeaderId::new(2, 1), 4, &[b"a", b"b"]), batch(LeaderId::new(3, 1), 6, &[b"c"]));
        let joined: Bytes = [one.bytes().as_ref(), two.bytes().as_ref()].concat().into();
        assert_eq!(Batch::decode(CLUSTER, GROUP, joined).unwrap().as_slice(), [one, two]);
    }

    #[test]
    fn slices_are_batches_of_their_own() {
        let whole = batch(LeaderId::new(2, 1), 4, &[b"a", b"bb", b"ccc", b"d"]);
        let part = whole.slice(5, 6).unwrap();
        assert_eq!(part, batch(LeaderId::new(2, 1), 4, &[b"a", b"bb", b"ccc"]).slice(5, 9).unwrap());
        assert_eq!(Batch::decode(CLUSTER, GROUP, part.bytes().clone()).unwrap().as_slice(), [part]);
        assert_eq!(whole.slice(8, 9), None);
    }

    #[test]
    fn small_batches_of_one_builder_share_a_buffer() {
        let mut builder = BatchBuilder::new();
        let mut seal = |first, payload: &[u8]| {
            builder.push(EntryKind::Command, payload);
            builder.seal(CLUSTER, GROUP, LeaderId::new(2, 1), first, 5).unwrap()
        };
        let batches = [seal(1, b"one"), seal(2, b"two"), seal(3, b"three"), seal(4, &[7; 2 * SHARED_ROOM_BYTES])];
        assert_eq!(batches[2].bytes().as_ptr(), batches[1].bytes().as_ptr_range().end);
        for batch in batches {
            assert_eq!(Batch::decode(CLUSTER, GROUP, batch.bytes().clone()).unwrap().as_slice(), [batch]);
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let sealed = batch(LeaderId::new(2, 1), 4, &[b"one", b"two"]);
        for bit in 0..sealed.bytes().len() * 8 {
            let mut bytes = sealed.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::decode(CLUSTER, GROUP, bytes.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_entry_is_of_the_last_term() {
        let of = |term| Batch::decode(CLUSTER, GROUP, batch(LeaderId::new(term, 1), 4, &[b"one"]).bytes().clone());
        assert!(of(u64::MAX - 1).is_ok());
        assert_eq!(of(u64::MAX), Err(EntryError::Gap { at: 0 }));
    }

    #[test]
    fn entries_of_another_cluster_or_group_are_refused() {
        let bytes = batch(LeaderId::new(2, 1), 4, &[b"one"]).bytes().clone();
        assert!(matches!(Batch::decode(ClusterId(8), GROUP, bytes.clone()), Err(EntryError::Checksum { .. })));
        assert!(matches!(Batch::decode(CLUSTER, GroupId(2), bytes), Err(EntryError::Group { .. })));
    }
}
