//! Who this directory belongs to, and what it has seen of its peers.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId};

use crate::codec::{MAX_COUNTER, put_u64, put_u128, u64_at, u128_at};
use crate::disk::Disk;
use crate::error::WalError;
use crate::twin::TwinFile;

const IDENTITY_MAGIC: [u8; 8] = *b"QRMIDENT";
const IDENTITY_COPY_BYTES: usize = 4096;
const IDENTITY_BODY_BYTES: usize = 80;

const PEERS_MAGIC: [u8; 8] = *b"QRMPEERS";
const PEERS_COPY_BYTES: usize = 64 << 10;
const PEER_BYTES: usize = 40;
/// Incarnations kept of one peer: the newest ones.
const INCARNATIONS_PER_PEER: usize = 4;

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
    /// How often the directory was opened, this time included. Durable before the log is open.
    pub boot: u64,
    /// How leader ids compare in the cluster; meaningful once the cluster is known.
    pub mode: LeaderIdMode,
    /// When the directory was formatted, in seconds since the Unix epoch. For people only.
    pub created: u64,
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BODY_BYTES] {
        let mut body = [0; IDENTITY_BODY_BYTES];
        put_u128(&mut body, 0, self.cluster.0);
        put_u64(&mut body, 16, self.node.0);
        put_u128(&mut body, 24, self.incarnation.0);
        put_u64(&mut body, 40, self.boot);
        body[48] = match self.mode {
            LeaderIdMode::Advanced => 0,
            LeaderIdMode::Standard => 1,
        };
        put_u64(&mut body, 56, self.created);
        put_u128(&mut body, 64, self.formatted.0);
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
        if u64_at(body, 40) > MAX_COUNTER {
            return Err(WalError::damaged(path, 64, "the boot counter is one that no disk reaches"));
        }
        Ok(Self {
            cluster: ClusterId(u128_at(body, 0)),
            node: NodeId(u64_at(body, 16)),
            incarnation: Incarnation(u128_at(body, 24)),
            boot: u64_at(body, 40),
            mode,
            created: u64_at(body, 56),
            formatted: Incarnation(u128_at(body, 64)),
        })
    }
}

/// The file `identity`.
#[derive(Debug)]
pub(crate) struct IdentityFile {
    twin: TwinFile,
    identity: Identity,
}

impl IdentityFile {
    /// Makes the file; see [`TwinFile::create`].
    pub(crate) fn create(disk: &dyn Disk, path: &Path, identity: Identity) -> Result<Self, WalError> {
        let twin = TwinFile::create(disk, path, IDENTITY_MAGIC, IDENTITY_COPY_BYTES, &identity.encode())?;
        Ok(Self { twin, identity })
    }

    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, WalError> {
        let (twin, body) = TwinFile::open(disk, path, IDENTITY_MAGIC, IDENTITY_COPY_BYTES)?;
        Ok(Self { twin, identity: Identity::decode(path, &body)? })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Counts this opening, durably: peers tell an old copy of the disk by a lower count.
    pub(crate) fn count_boot(&mut self) -> Result<(), WalError> {
        let next = Identity { boot: self.identity.boot + 1, ..self.identity };
        self.store(next)
    }

    /// Notes the cluster, durably.
    pub(crate) fn store_cluster(&mut self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), WalError> {
        let next = Identity { cluster, mode, ..self.identity };
        self.store(next)
    }

    /// Makes the directory another voter of another recovery, durably (law 16).
    pub(crate) fn store_recovery(&mut self, cluster: ClusterId, incarnation: Incarnation) -> Result<(), WalError> {
        let next = Identity { cluster, incarnation, ..self.identity };
        self.store(next)
    }

    fn store(&mut self, next: Identity) -> Result<(), WalError> {
        self.twin.store(&next.encode())?;
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
        /// The highest boot counter seen of it.
        seen_boot: u64,
    },
    /// Another disk than the one seen last.
    OtherIncarnation {
        /// The one seen last before.
        known: Incarnation,
    },
}

/// The file `peers`: the highest boot counter seen of every peer's disks.
#[derive(Debug)]
pub(crate) struct PeersFile {
    twin: TwinFile,
    /// Disks of each peer with the highest boot counter seen, the newest disk last.
    peers: BTreeMap<NodeId, Vec<(Incarnation, u64)>>,
}

impl PeersFile {
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, WalError> {
        let twin = TwinFile::create(disk, path, PEERS_MAGIC, PEERS_COPY_BYTES, &[])?;
        Ok(Self { twin, peers: BTreeMap::new() })
    }

    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, WalError> {
        let (twin, body) = TwinFile::open(disk, path, PEERS_MAGIC, PEERS_COPY_BYTES)?;
        if body.len() % PEER_BYTES != 0 {
            return Err(WalError::damaged(path, 12, "the list of peers has a part of a row"));
        }
        let mut peers: BTreeMap<NodeId, Vec<(Incarnation, u64)>> = BTreeMap::new();
        for row in body.chunks_exact(PEER_BYTES) {
            let disks = peers.entry(NodeId(u64_at(row, 0))).or_default();
            disks.push((Incarnation(u128_at(row, 8)), u64_at(row, 24)));
        }
        let mut peers = Self { twin, peers };
        // What a killed process wrote may not be on disk yet.
        peers.twin.store(&encode_peers(&peers.peers))?;
        Ok(peers)
    }

    /// Whether no peer was ever seen.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Compares with what was seen before and keeps the highest, durably.
    pub(crate) fn record(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        boot: u64,
    ) -> Result<PeerVerdict, WalError> {
        let disks = self.peers.get(&node).map_or(&[][..], Vec::as_slice);
        let newest = disks.last().copied();
        let verdict = match disks.iter().find(|(seen, _)| *seen == incarnation) {
            Some((_, seen_boot)) if boot < *seen_boot => return Ok(PeerVerdict::OlderCopy { seen_boot: *seen_boot }),
            Some((_, seen_boot)) if newest.is_some_and(|(last, _)| last == incarnation) => match boot == *seen_boot {
                true => return Ok(PeerVerdict::Fine),
                false => PeerVerdict::Fine,
            },
            _ => newest.map_or(PeerVerdict::Fine, |(known, _)| PeerVerdict::OtherIncarnation { known }),
        };
        let mut next = self.peers.clone();
        let disks = next.entry(node).or_default();
        match disks.iter_mut().find(|(seen, _)| *seen == incarnation) {
            Some((_, seen_boot)) => *seen_boot = boot,
            None => disks.push((incarnation, boot)),
        }
        if disks.len() > INCARNATIONS_PER_PEER {
            disks.remove(0);
        }
        let body = encode_peers(&next);
        if body.len() > self.twin.capacity() {
            return Err(WalError::Invalid { what: "more peers than the file `peers` holds (1637 disks)" });
        }
        self.twin.store(&body)?;
        self.peers = next;
        Ok(verdict)
    }
}

fn encode_peers(peers: &BTreeMap<NodeId, Vec<(Incarnation, u64)>>) -> Vec<u8> {
    let mut body = Vec::new();
    for (node, disks) in peers {
        for (incarnation, boot) in disks {
            let mut row = [0; PEER_BYTES];
            put_u64(&mut row, 0, node.0);
            put_u128(&mut row, 8, incarnation.0);
            put_u64(&mut row, 24, *boot);
            body.extend_from_slice(&row);
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::MemDisk;

    #[test]
    fn an_older_copy_and_another_disk_of_a_peer_are_told_apart() {
        let disk = MemDisk::new();
        let path = Path::new("/peers");
        let mut peers = PeersFile::create(&disk, path).unwrap();
        let (node, first, second) = (NodeId(2), Incarnation(10), Incarnation(20));
        assert_eq!(peers.record(node, first, 5).unwrap(), PeerVerdict::Fine);
        assert_eq!(peers.record(node, first, 7).unwrap(), PeerVerdict::Fine);
        drop(peers);
        let mut peers = PeersFile::open(&disk, path).unwrap();
        assert_eq!(peers.record(node, first, 6).unwrap(), PeerVerdict::OlderCopy { seen_boot: 7 });
        assert_eq!(peers.record(node, second, 1).unwrap(), PeerVerdict::OtherIncarnation { known: first });
        assert_eq!(peers.record(node, second, 2).unwrap(), PeerVerdict::Fine, "it was replaced for good");
        assert_eq!(peers.record(node, first, 8).unwrap(), PeerVerdict::OtherIncarnation { known: second });
        assert_eq!(peers.record(NodeId(3), first, 1).unwrap(), PeerVerdict::Fine, "another node");
    }

    #[test]
    fn one_damaged_copy_of_the_identity_is_survived_and_two_are_refused() {
        let disk = MemDisk::new();
        let path = Path::new("/identity");
        let identity = Identity {
            cluster: ClusterId(9),
            node: NodeId(4),
            incarnation: Incarnation(77),
            formatted: Incarnation(76),
            boot: 3,
            mode: LeaderIdMode::Standard,
            created: 11,
        };
        IdentityFile::create(&disk, path, identity).unwrap();
        disk.flip(path, 30, 0x10);
        assert_eq!(IdentityFile::open(&disk, path).unwrap().identity(), identity);
        disk.flip(path, IDENTITY_COPY_BYTES as u64 + 50, 0x01);
        assert!(matches!(IdentityFile::open(&disk, path), Err(WalError::Corrupt(_))));
    }
}
