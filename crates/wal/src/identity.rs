//! Who this directory belongs to, and what it has seen of its peers.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_core::{Bug, ClusterId, Incarnation, LeaderIdMode, NodeId, STARTS_KEPT, Start, StartOrder, Starts, bug};

use crate::codec::{AT_ITS_END, MAX_COUNTER, put_u64, put_u128, u64_at, u128_at};
use crate::copies::{BODY_BYTES, CopiedRecord, Mark};
use crate::disk::Disk;
use crate::error::WalError;

/// Nothing is known before it is read; but node and first incarnation never change.
const IDENTITY: Mark = Mark { magic: *b"QRMIDENT", seed: 0, owner: owner_of };
const NODE_AT: usize = 16;
const FORMATTED_AT: usize = 64;
/// Whether a peer said that this is an older copy.
const MARKED_AT: usize = 49;
const TOKENS_AT: usize = 80;
const MARK_AT: usize = TOKENS_AT + 8 * STARTS_KEPT;
/// Without the text of the mark.
const IDENTITY_BODY_BYTES: usize = MARK_AT + 10;
/// Longest text of the mark.
const MARK_TEXT_BYTES: usize = 1024;

const PEER_BYTES: usize = 40;

/// Who a data directory belongs to (law 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; 0 until it is known.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Random, made when the directory was formatted, and again when a lost quorum was recovered from it.
    pub incarnation: Incarnation,
    /// The incarnation that the directory was formatted with. The log's checksums start from it, so that a recovery
    /// need not write the log again.
    pub formatted: Incarnation,
    /// When the directory was opened, this time included. Durable before the log is open.
    pub starts: Starts,
    /// How leader ids compare in the cluster; meaningful once the cluster is known.
    pub mode: LeaderIdMode,
    /// When the directory was formatted, in seconds since the Unix epoch. For people only.
    pub created: u64,
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BODY_BYTES] {
        let mut body = [0; IDENTITY_BODY_BYTES];
        put_u128(&mut body, 0, self.cluster.0);
        put_u64(&mut body, NODE_AT, self.node.0);
        put_u128(&mut body, 24, self.incarnation.0);
        put_u64(&mut body, 40, self.starts.boot());
        body[48] = match self.mode {
            LeaderIdMode::Advanced => 0,
            LeaderIdMode::Standard => 1,
        };
        put_u64(&mut body, 56, self.created);
        put_u128(&mut body, FORMATTED_AT, self.formatted.0);
        for (at, token) in self.starts.tokens().iter().enumerate() {
            put_u64(&mut body, TOKENS_AT + 8 * at, *token);
        }
        body
    }

    /// The identity as the log's files know it: none of it changes when a lost quorum is recovered.
    pub(crate) fn of_log(&self) -> Self {
        Self { cluster: self.cluster.base(), incarnation: self.formatted, ..*self }
    }

    fn decode(path: &Path, body: &[u8]) -> Result<Self, WalError> {
        // Later fields may follow.
        if body.len() < IDENTITY_BODY_BYTES {
            return Err(WalError::damaged(path, 12, "the identity is shorter than its version says"));
        }
        let mode = match body[48] {
            0 => LeaderIdMode::Advanced,
            1 => LeaderIdMode::Standard,
            other => return Err(WalError::damaged(path, 72, format!("unknown leader id mode {other}"))),
        };
        if u64_at(body, 40) >= MAX_COUNTER {
            return Err(WalError::damaged(path, 64, "the boot counter is one that no disk reaches"));
        }
        Ok(Self {
            cluster: ClusterId(u128_at(body, 0)),
            node: NodeId(u64_at(body, NODE_AT)),
            incarnation: Incarnation(u128_at(body, 24)),
            starts: Starts::new(u64_at(body, 40), std::array::from_fn(|at| u64_at(body, TOKENS_AT + 8 * at))),
            mode,
            created: u64_at(body, 56),
            formatted: Incarnation(u128_at(body, FORMATTED_AT)),
        })
    }
}

/// A peer said that this directory is an older copy of the node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OlderCopyMark {
    pub(crate) peer: NodeId,
    /// What it said, for people.
    pub(crate) text: String,
}

impl OlderCopyMark {
    pub(crate) fn new(peer: NodeId, text: &str) -> Self {
        Self { peer, text: text[..text.floor_char_boundary(MARK_TEXT_BYTES)].to_owned() }
    }

    pub(crate) fn into_error(self, dir: &Path) -> WalError {
        WalError::OlderCopy { dir: dir.to_path_buf(), peer: self.peer, text: self.text }
    }
}

/// The file `identity`.
#[derive(Debug)]
pub(crate) struct IdentityFile {
    record: CopiedRecord,
    identity: Identity,
    mark: Option<OlderCopyMark>,
}

fn encode(identity: &Identity, mark: Option<&OlderCopyMark>) -> Vec<u8> {
    let mut body = identity.encode().to_vec();
    if let Some(OlderCopyMark { peer, text }) = mark {
        body[MARKED_AT] = 1;
        put_u64(&mut body, MARK_AT, peer.0);
        body[MARK_AT + 8..MARK_AT + 10].copy_from_slice(&(text.len() as u16).to_le_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    body
}

fn decode_mark(path: &Path, body: &[u8]) -> Result<Option<OlderCopyMark>, WalError> {
    let damaged = |what| WalError::damaged(path, 24, what);
    match body[MARKED_AT] {
        0 => return Ok(None),
        1 => {}
        _ => return Err(damaged("the identity is marked in a way that is not known")),
    }
    let length = usize::from(u16::from_le_bytes([body[MARK_AT + 8], body[MARK_AT + 9]]));
    let text = body.get(IDENTITY_BODY_BYTES..IDENTITY_BODY_BYTES + length).filter(|_| length <= MARK_TEXT_BYTES);
    let text = text.ok_or_else(|| damaged("the mark of an older copy is longer than the identity"))?;
    Ok(Some(OlderCopyMark { peer: NodeId(u64_at(body, MARK_AT)), text: String::from_utf8_lossy(text).into_owned() }))
}

fn owner_of(body: &[u8]) -> Option<(NodeId, Incarnation)> {
    let is_long = body.len() >= IDENTITY_BODY_BYTES;
    is_long.then(|| (NodeId(u64_at(body, NODE_AT)), Incarnation(u128_at(body, FORMATTED_AT))))
}

impl IdentityFile {
    /// Makes the file; see [`CopiedRecord::create`].
    pub(crate) fn create(disk: &dyn Disk, path: &Path, identity: Identity) -> Result<Self, WalError> {
        let record = CopiedRecord::create(disk, path, IDENTITY, &encode(&identity, None))?;
        Ok(Self { record, identity, mark: None })
    }

    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, WalError> {
        let (record, body) = CopiedRecord::open(disk, path, IDENTITY)?;
        let identity = Identity::decode(path, &body)?;
        let mark = decode_mark(path, &body)?;
        Ok(Self { record, identity, mark })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// What a peer said, if it said that this is an older copy of the disk.
    pub(crate) fn mark(&self) -> Option<&OlderCopyMark> {
        self.mark.as_ref()
    }

    /// Notes, durably, that this is an older copy of the disk: it is not opened any more (law 15).
    pub(crate) fn store_mark(&mut self, mark: OlderCopyMark) -> Result<(), WalError> {
        self.record.store(&encode(&self.identity, Some(&mark)))?;
        self.mark = Some(mark);
        Ok(())
    }

    /// Counts this opening, durably, with a random token of its own: by them peers tell an older copy of the disk.
    pub(crate) fn count_start(&mut self, token: u64) -> Result<(), WalError> {
        let mut starts = self.identity.starts.next(token);
        if starts.boot() >= MAX_COUNTER {
            return Err(AT_ITS_END);
        }
        if bug(Bug::StartTokensForgotten) {
            starts = Starts::counted(starts.boot() - 1).next(token);
        }
        self.store(Identity { starts, ..self.identity })
    }

    /// Notes the cluster, durably.
    pub(crate) fn store_cluster(&mut self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), WalError> {
        let next = Identity { cluster, mode, ..self.identity };
        self.store(next)
    }

    /// Makes the directory another voter of another recovery, durably (law 16): nobody has seen that one yet.
    pub(crate) fn store_recovery(&mut self, cluster: ClusterId, incarnation: Incarnation) -> Result<(), WalError> {
        self.mark = None;
        let next = Identity { cluster, incarnation, ..self.identity };
        self.store(next)
    }

    fn store(&mut self, next: Identity) -> Result<(), WalError> {
        self.record.store(&encode(&next, self.mark.as_ref()))?;
        self.identity = next;
        Ok(())
    }
}

/// What a peer's handshake says about its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerVerdict {
    /// The disk that was seen last, not older than then; or the first one seen of this peer.
    Fine,
    /// An older copy of the same disk was put back: it must not be counted (law 15).
    OlderCopy {
        /// The boot counter of the newest start seen of it.
        seen_boot: u64,
    },
    /// Another disk than the one seen last.
    OtherIncarnation {
        /// The one seen last before.
        known: Incarnation,
    },
}

/// The file `peers`: the newest start seen of every peer's disks.
#[derive(Debug)]
pub(crate) struct PeersFile {
    record: CopiedRecord,
    /// Disks of each peer with the newest start seen, the newest disk last.
    peers: BTreeMap<NodeId, Vec<(Incarnation, Start)>>,
}

/// Of the disk that was formatted with this incarnation.
fn mark_of_peers(formatted: Incarnation) -> Mark {
    Mark { magic: *b"QRMPEERS", seed: crc32c::crc32c(&formatted.0.to_le_bytes()), owner: |_| None }
}

impl PeersFile {
    pub(crate) fn create(disk: &dyn Disk, path: &Path, formatted: Incarnation) -> Result<Self, WalError> {
        let record = CopiedRecord::create(disk, path, mark_of_peers(formatted), &[])?;
        Ok(Self { record, peers: BTreeMap::new() })
    }

    pub(crate) fn open(disk: &dyn Disk, path: &Path, formatted: Incarnation) -> Result<Self, WalError> {
        let (record, body) = CopiedRecord::open(disk, path, mark_of_peers(formatted))?;
        if body.len() % PEER_BYTES != 0 {
            return Err(WalError::damaged(path, 12, "the list of peers has a part of a row"));
        }
        let mut peers: BTreeMap<NodeId, Vec<(Incarnation, Start)>> = BTreeMap::new();
        for row in body.chunks_exact(PEER_BYTES) {
            let disks = peers.entry(NodeId(u64_at(row, 0))).or_default();
            let start = Start { boot: u64_at(row, 24), token: u64_at(row, 32) };
            disks.push((Incarnation(u128_at(row, 8)), start));
        }
        let mut peers = Self { record, peers };
        // What a killed process wrote may not be on disk yet.
        peers.record.store(&encode_peers(&peers.peers))?;
        Ok(peers)
    }

    /// Whether no peer was ever seen.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Compares with what was seen before and keeps the newest start, durably.
    pub(crate) fn record(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        starts: &Starts,
    ) -> Result<PeerVerdict, WalError> {
        let disks = self.peers.get(&node).map_or(&[][..], Vec::as_slice);
        let newest = disks.last().copied();
        let seen = disks.iter().find(|(seen, _)| *seen == incarnation).map(|(_, start)| *start);
        let is_newest = newest.is_some_and(|(last, _)| last == incarnation);
        let verdict = match seen.map(|seen| (seen, starts.compare(seen))) {
            Some((seen, StartOrder::Forked)) => return Ok(PeerVerdict::OlderCopy { seen_boot: seen.boot }),
            Some((_, StartOrder::Same)) if is_newest => return Ok(PeerVerdict::Fine),
            Some((_, StartOrder::Later)) if is_newest => PeerVerdict::Fine,
            Some((_, StartOrder::Same | StartOrder::Later)) | None => {
                newest.map_or(PeerVerdict::Fine, |(known, _)| PeerVerdict::OtherIncarnation { known })
            }
        };
        let mut next = self.peers.clone();
        let disks = next.entry(node).or_default();
        match disks.iter_mut().find(|(seen, _)| *seen == incarnation) {
            Some((_, seen)) => *seen = starts.last(),
            None => disks.push((incarnation, starts.last())),
        }
        // A disk is forgotten only for want of room: the membership may name it still, and older copies of it be put back.
        while next.values().map(Vec::len).sum::<usize>() * PEER_BYTES > BODY_BYTES {
            let Some(disks) = next.values_mut().filter(|disks| disks.len() > 1).max_by_key(|disks| disks.len()) else {
                return Err(WalError::Invalid { what: "more peers than the file `peers` holds (1,637)" });
            };
            disks.remove(0);
        }
        let body = encode_peers(&next);
        self.record.store(&body)?;
        self.peers = next;
        Ok(verdict)
    }
}

fn encode_peers(peers: &BTreeMap<NodeId, Vec<(Incarnation, Start)>>) -> Vec<u8> {
    let mut body = Vec::new();
    for (node, disks) in peers {
        for (incarnation, start) in disks {
            let mut row = [0; PEER_BYTES];
            put_u64(&mut row, 0, node.0);
            put_u128(&mut row, 8, incarnation.0);
            put_u64(&mut row, 24, start.boot);
            put_u64(&mut row, 32, start.token);
            body.extend_from_slice(&row);
        }
    }
    body
}

#[cfg(test)]
impl Identity {
    /// What the tests of other files write under.
    pub(crate) fn of_a_test() -> Self {
        Self {
            cluster: ClusterId(0x0c0b_0a09),
            node: NodeId(1),
            incarnation: Incarnation(0x1d1c),
            formatted: Incarnation(0x1d1c),
            starts: Starts::counted(3),
            mode: LeaderIdMode::Advanced,
            created: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::MemDisk;

    const DISK: Incarnation = Incarnation(0x1d1c);

    fn started(starts: Starts, tokens: impl IntoIterator<Item = u64>) -> Starts {
        tokens.into_iter().fold(starts, |starts, token| starts.next(token))
    }

    #[test]
    fn an_older_copy_and_another_disk_of_a_peer_are_told_apart() {
        let disk = MemDisk::new();
        let path = Path::new("/peers");
        let mut peers = PeersFile::create(&disk, path, DISK).unwrap();
        let (node, first, second) = (NodeId(2), Incarnation(10), Incarnation(20));
        let of = |count| started(Starts::default(), 1..=count);
        assert_eq!(peers.record(node, first, &of(5)).unwrap(), PeerVerdict::Fine);
        assert_eq!(peers.record(node, first, &of(7)).unwrap(), PeerVerdict::Fine);
        drop(peers);
        let mut peers = PeersFile::open(&disk, path, DISK).unwrap();
        assert_eq!(peers.record(node, first, &of(6)).unwrap(), PeerVerdict::OlderCopy { seen_boot: 7 });
        assert_eq!(peers.record(node, second, &of(1)).unwrap(), PeerVerdict::OtherIncarnation { known: first });
        assert_eq!(peers.record(node, second, &of(2)).unwrap(), PeerVerdict::Fine, "it was replaced for good");
        assert_eq!(peers.record(node, first, &of(8)).unwrap(), PeerVerdict::OtherIncarnation { known: second });
        assert_eq!(peers.record(NodeId(3), first, &of(1)).unwrap(), PeerVerdict::Fine, "another node");
    }

    #[test]
    fn an_older_copy_that_counts_on_until_it_is_ahead_stays_refused() {
        let disk = MemDisk::new();
        let path = Path::new("/peers");
        let mut peers = PeersFile::create(&disk, path, DISK).unwrap();
        let (node, incarnation) = (NodeId(2), Incarnation(10));
        let copied = started(Starts::default(), 1..=6);
        let went_on = started(copied, [71, 72]);
        assert_eq!(peers.record(node, incarnation, &went_on).unwrap(), PeerVerdict::Fine);
        let mut copy = copied;
        for token in 81..89 {
            drop(peers);
            peers = PeersFile::open(&disk, path, DISK).unwrap();
            copy = copy.next(token);
            let verdict = peers.record(node, incarnation, &copy).unwrap();
            assert_eq!(verdict, PeerVerdict::OlderCopy { seen_boot: 8 }, "start {}", copy.boot());
        }
        assert_eq!(peers.record(node, incarnation, &went_on.next(73)).unwrap(), PeerVerdict::Fine, "the disk itself");
    }

    #[test]
    fn a_disk_is_forgotten_only_for_want_of_room() {
        let disk = MemDisk::new();
        let mut peers = PeersFile::create(&disk, Path::new("/peers"), DISK).unwrap();
        let (node, other) = (NodeId(2), NodeId(3));
        let of = |count| started(Starts::default(), 1..=count);
        peers.record(node, Incarnation(1), &of(5)).unwrap();
        peers.record(other, Incarnation(1), &of(5)).unwrap();
        for wiped in 2..=8 {
            peers.record(node, Incarnation(wiped), &of(1)).unwrap();
        }
        let older = PeerVerdict::OlderCopy { seen_boot: 5 };
        assert_eq!(peers.record(node, Incarnation(1), &of(4)).unwrap(), older, "a backup, after many blank disks");
        for wiped in 9..=1700 {
            peers.record(node, Incarnation(wiped), &of(1)).unwrap();
        }
        assert_eq!(peers.record(other, Incarnation(1), &of(4)).unwrap(), older, "who has most makes room");
        let known = Incarnation(1700);
        assert_eq!(peers.record(node, Incarnation(1), &of(4)).unwrap(), PeerVerdict::OtherIncarnation { known });
    }

    #[test]
    fn a_node_more_than_there_is_room_for_is_refused_and_the_others_are_kept() {
        let disk = MemDisk::new();
        let path = Path::new("/peers");
        let mut peers = PeersFile::create(&disk, path, DISK).unwrap();
        // What a record of 1,636 of them leaves.
        let start = Starts::counted(5).next(9);
        peers.peers = (1..1637).map(|node| (NodeId(node), vec![(Incarnation(1), start.last())])).collect();
        let last = NodeId(1637);
        assert_eq!(peers.record(last, Incarnation(1), &start).unwrap(), PeerVerdict::Fine);
        let mut peers = PeersFile::open(&disk, path, DISK).unwrap();
        let error = peers.record(NodeId(1638), Incarnation(1), &start).unwrap_err();
        assert!(error.to_string().contains("1,637"), "{error}");
        let older = peers.record(NodeId(1), Incarnation(1), &Starts::counted(4)).unwrap();
        assert_eq!(older, PeerVerdict::OlderCopy { seen_boot: 6 });
        assert_eq!(peers.record(last, Incarnation(1), &start.next(10)).unwrap(), PeerVerdict::Fine);
    }

    #[test]
    fn each_opening_keeps_its_token_beside_those_before_it() {
        let disk = MemDisk::new();
        let path = Path::new("/identity");
        let mut file = IdentityFile::create(&disk, path, identity()).unwrap();
        for token in 1..=STARTS_KEPT as u64 + 3 {
            file.count_start(token).unwrap();
            let starts = IdentityFile::open(&disk, path).unwrap().identity().starts;
            assert_eq!(starts.last(), Start { boot: 3 + token, token });
            let kept = (1..=token).rev().chain([0; STARTS_KEPT]).take(STARTS_KEPT);
            assert!(starts.tokens().iter().copied().eq(kept), "{:?}", starts.tokens());
        }
    }

    #[test]
    fn what_a_peer_said_of_an_older_copy_stays_until_a_recovery() {
        let disk = MemDisk::new();
        let path = Path::new("/identity");
        let mut file = IdentityFile::create(&disk, path, identity()).unwrap();
        assert_eq!(file.mark(), None);
        let mark = OlderCopyMark::new(NodeId(7), &"é".repeat(MARK_TEXT_BYTES));
        assert_eq!(mark.text, "é".repeat(MARK_TEXT_BYTES / 2), "cut at a character");
        file.store_mark(mark.clone()).unwrap();
        let mut file = IdentityFile::open(&disk, path).unwrap();
        assert_eq!(file.mark(), Some(&mark));
        file.store_cluster(ClusterId(9), LeaderIdMode::Standard).unwrap();
        assert_eq!(IdentityFile::open(&disk, path).unwrap().mark(), Some(&mark));
        file.store_recovery(ClusterId(9).recovered().unwrap(), Incarnation(78)).unwrap();
        assert_eq!(IdentityFile::open(&disk, path).unwrap().mark(), None);
    }

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(9),
            node: NodeId(4),
            incarnation: Incarnation(77),
            formatted: Incarnation(76),
            starts: Starts::counted(3),
            mode: LeaderIdMode::Standard,
            created: 11,
        }
    }

    #[test]
    fn two_damaged_copies_of_the_identity_are_survived_and_three_are_refused() {
        let disk = MemDisk::new();
        let path = Path::new("/identity");
        let identity = identity();
        IdentityFile::create(&disk, path, identity).unwrap();
        for (copy, offset) in [(1_u64, 30), (3, 50)] {
            disk.flip(path, copy * (128 << 10) + offset, 0x10);
            assert_eq!(IdentityFile::open(&disk, path).unwrap().identity(), identity);
        }
        disk.flip(path, 26, 0x01);
        let error = IdentityFile::open(&disk, path).unwrap_err();
        assert!(matches!(&error, WalError::Corrupt(_)) && error.to_string().contains("/identity"), "{error}");
    }

    /// FORMAT.md, "Records in four copies".
    #[test]
    fn the_bytes_of_a_record() {
        let disk = MemDisk::new();
        let path = Path::new("/identity");
        let mut file = IdentityFile::create(&disk, path, identity()).unwrap();
        file.store_mark(OlderCopyMark::new(NodeId(7), "no")).unwrap();
        let mut expected = b"QRMIDENT\x01\0\0\0".to_vec();
        expected.extend_from_slice(&604_u32.to_le_bytes());
        expected.extend_from_slice(&2_u64.to_le_bytes());
        expected.extend_from_slice(&9_u128.to_le_bytes());
        expected.extend_from_slice(&4_u64.to_le_bytes());
        expected.extend_from_slice(&77_u128.to_le_bytes());
        expected.extend_from_slice(&3_u64.to_le_bytes());
        expected.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&11_u64.to_le_bytes());
        expected.extend_from_slice(&76_u128.to_le_bytes());
        expected.resize(24 + 592, 0);
        expected.extend_from_slice(&7_u64.to_le_bytes());
        expected.extend_from_slice(b"\x02\0no");
        expected.extend_from_slice(&0x980e_5a99_u32.to_le_bytes());
        let written = disk.open(path).unwrap();
        assert_eq!(written.length().unwrap(), 512 << 10);
        for copy in 0..4 {
            let mut found = vec![0; 128 << 10];
            written.read_at(&mut found, copy * (128 << 10)).unwrap();
            assert_eq!(found[..expected.len()], expected, "copy {copy}");
            assert!(found[expected.len()..].iter().all(|byte| *byte == 0), "copy {copy}");
        }
    }
}
