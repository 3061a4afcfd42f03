//! The handshake as bytes and as a judgement: who may talk to whom. No I/O.
//!
//! The layout is in FORMAT.md, "Handshake".

use std::fmt;

use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId, STARTS_KEPT, Starts};

/// First bytes of both hellos. The line end shows a transfer that mangles text.
pub(crate) const MAGIC: [u8; 8] = *b"quorate\n";
/// Lowest protocol version this build speaks.
pub(crate) const LOWEST_VERSION: u16 = 1;
/// Highest protocol version this build speaks.
pub(crate) const HIGHEST_VERSION: u16 = 1;
/// Bytes of both hellos that tell how long the rest is: magic and length.
pub(crate) const PREFIX_BYTES: usize = 10;
/// Longest rest of a hello: today's fields, a refusal's text, and room for later versions.
pub(crate) const MAX_REST_BYTES: usize = 1024;
/// Longest text of a refusal.
pub(crate) const MAX_TEXT_BYTES: usize = 512;

/// What this build knows beyond version 1, a bit each; nothing yet. Announced, so that a leader writes an entry of
/// a later kind only when every member can read it.
pub(crate) const FEATURES: u64 = 0;

/// The tokens of a disk's newest starts.
const TOKENS_BYTES: usize = 8 * STARTS_KEPT;
/// Rest of a request: up to the features at 76..84, the tokens, and the checksum.
const REQUEST_REST_BYTES: usize = 84 - PREFIX_BYTES + TOKENS_BYTES + 4;
/// Rest of a reply without text and tokens: up to the text's length at 84..86, and the checksum.
const REPLY_REST_BYTES: usize = 86 - PREFIX_BYTES + 4;

/// Which of a peer's connections one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, appends without entries, every reply, small calls.
    Control,
    /// Appends with entries, large calls.
    Data,
    /// One snapshot.
    Snapshot,
}

impl Lane {
    fn to_byte(self) -> u8 {
        match self {
            Lane::Control => 1,
            Lane::Data => 2,
            Lane::Snapshot => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Lane::Control),
            2 => Some(Lane::Data),
            3 => Some(Lane::Snapshot),
            _ => None,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Control => "control",
            Lane::Data => "data",
            Lane::Snapshot => "snapshot",
        })
    }
}

/// Who this node is, as it tells its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// The cluster; 0 while the node is blank.
    pub cluster: ClusterId,
    /// The node. Never changes while the transport lives.
    pub node: NodeId,
    /// The identity of its disk.
    pub incarnation: Incarnation,
    /// When that disk was opened; durable before the first message (law 15).
    pub starts: Starts,
    /// How leader ids compare.
    pub mode: LeaderIdMode,
}

/// What a peer said of itself in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The cluster; 0 if the peer is blank.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The identity of its disk.
    pub incarnation: Incarnation,
    /// When that disk was opened.
    pub starts: Starts,
    /// How leader ids compare.
    pub mode: LeaderIdMode,
    /// What the peer knows beyond its protocol version, a bit each. Version 1 announces none.
    pub features: u64,
    /// Which connection it is.
    pub lane: Lane,
    /// Who dialed.
    pub dialed_by: DialedBy,
}

impl PeerHello {
    /// Whether the two cannot be one process: the same disk at another start.
    pub(crate) fn is_copy_of(&self, other: &PeerHello) -> bool {
        (self.node, self.incarnation) == (other.node, other.incarnation) && self.starts.last() != other.starts.last()
    }
}

/// Which end dialed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialedBy {
    /// This node.
    Us,
    /// The peer.
    Peer,
}

/// Why a node refuses another; travels in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// No protocol version in common.
    Version,
    /// The nodes belong to different clusters.
    Cluster,
    /// Another node was expected at this address.
    WrongNode,
    /// A node reached itself.
    Oneself,
    /// Another disk uses the same node id.
    SameId,
    /// The nodes compare leader ids differently.
    Mode,
    /// The connection is of a kind that is not known here.
    Lane,
    /// The certificate is for another node or cluster.
    Certificate,
    /// The library refuses, for another reason than the others.
    Peer,
    /// Too many connections.
    Busy,
    /// A snapshot did not arrive whole, or cannot be kept.
    Snapshot,
    /// A lost quorum was recovered on one side and not on the other (law 16).
    Recovery,
    /// The peer runs on an older copy of its disk (law 15).
    OlderCopy,
    /// A code of a later version.
    Unknown(u16),
}

impl RefusalCode {
    fn to_number(self) -> u16 {
        match self {
            RefusalCode::Version => 1,
            RefusalCode::Cluster => 2,
            RefusalCode::WrongNode => 3,
            RefusalCode::Oneself => 4,
            RefusalCode::SameId => 5,
            RefusalCode::Mode => 6,
            RefusalCode::Lane => 7,
            RefusalCode::Certificate => 8,
            RefusalCode::Peer => 9,
            RefusalCode::Busy => 10,
            RefusalCode::Snapshot => 11,
            RefusalCode::Recovery => 12,
            RefusalCode::OlderCopy => 13,
            RefusalCode::Unknown(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            1 => RefusalCode::Version,
            2 => RefusalCode::Cluster,
            3 => RefusalCode::WrongNode,
            4 => RefusalCode::Oneself,
            5 => RefusalCode::SameId,
            6 => RefusalCode::Mode,
            7 => RefusalCode::Lane,
            8 => RefusalCode::Certificate,
            9 => RefusalCode::Peer,
            10 => RefusalCode::Busy,
            11 => RefusalCode::Snapshot,
            12 => RefusalCode::Recovery,
            13 => RefusalCode::OlderCopy,
            other => RefusalCode::Unknown(other),
        }
    }
}

/// Why the library refuses a peer; see [`Handler::check_peer`](crate::Handler::check_peer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRefused {
    /// Whether the peer runs on an older copy of its disk: it is told, and stops.
    pub older_copy: bool,
    /// The reason why not, and what to do about it; shown at both ends.
    pub text: String,
}

impl PeerRefused {
    /// The peer runs on an older copy of its disk (law 15).
    pub fn older_copy(text: impl Into<String>) -> Self {
        Self { older_copy: true, text: text.into() }
    }
}

impl From<String> for PeerRefused {
    fn from(text: String) -> Self {
        Self { older_copy: false, text }
    }
}

impl From<&str> for PeerRefused {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for PeerRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A refusal: the code for programs, the text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RefusalCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// What the library says of a peer.
    pub(crate) fn of_peer(refused: PeerRefused) -> Self {
        let code = if refused.older_copy { RefusalCode::OlderCopy } else { RefusalCode::Peer };
        Self::new(code, refused.text)
    }

    /// Bytes: code and text. Used in the goodbye frame; the reply has its own place for both.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.code.to_number().to_le_bytes().to_vec();
        out.extend_from_slice(cut(&self.text).as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, text) = bytes.split_first_chunk::<2>()?;
        Some(Self::new(RefusalCode::from_number(u16::from_le_bytes(*code)), clean(text)))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.text, self.code.to_number())
    }
}

/// The longest start of `text` that fits a refusal.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// A peer's text, safe for a log: no control characters, limited in length.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT_BYTES)]);
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    // What is no UTF-8 takes three bytes for each that came.
    cut(&clean).to_owned()
}

/// Bytes that are no hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HelloError {
    /// The first bytes are not ours.
    Magic([u8; 8]),
    /// The length is out of range.
    Length(usize),
    /// The checksum does not match.
    Checksum { stored: u32, computed: u32 },
    /// A hello that is well formed, but of a kind this build must refuse.
    Refuse(Refusal),
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::Magic([0x15 | 0x16, 3, ..]) => {
                f.write_str("the other end speaks tls and this node does not; configure tls at both ends or at neither")
            }
            HelloError::Magic(bytes) => write!(
                f,
                "the other end does not speak this protocol (it starts with {:?}); is it a peer address, and is tls on at both ends or at neither?",
                String::from_utf8_lossy(bytes)
            ),
            HelloError::Length(length) => write!(f, "handshake length {length} out of range"),
            HelloError::Checksum { stored, computed } => {
                write!(f, "handshake checksum {stored:#010x} stored, {computed:#010x} computed")
            }
            HelloError::Refuse(refusal) => refusal.fmt(f),
        }
    }
}

/// What the dialing node says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) versions: (u16, u16),
    pub(crate) lane: Lane,
    pub(crate) identity: LocalIdentity,
    /// The node that is expected to answer.
    pub(crate) to: NodeId,
    /// Largest frame this node accepts.
    pub(crate) max_frame: u32,
    pub(crate) features: u64,
}

/// How the node that was dialed answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The version to speak, or why not.
    pub(crate) answer: Result<u16, Refusal>,
    pub(crate) identity: LocalIdentity,
    /// Largest frame the answering node accepts.
    pub(crate) max_frame: u32,
    pub(crate) features: u64,
}

/// Checks that what arrived, `have` bytes of `prefix`, is the start of a hello.
pub(crate) fn check_magic(prefix: &[u8; PREFIX_BYTES], have: usize) -> Result<(), HelloError> {
    let compared = have.min(MAGIC.len());
    if prefix[..compared] == MAGIC[..compared] {
        return Ok(());
    }
    Err(HelloError::Magic(array(prefix, 0)))
}

/// Length of the rest of a hello, from its first [`PREFIX_BYTES`].
pub(crate) fn rest_length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, HelloError> {
    check_magic(prefix, PREFIX_BYTES)?;
    let length = usize::from(u16_at(prefix, 8));
    if (REQUEST_REST_BYTES.min(REPLY_REST_BYTES)..=MAX_REST_BYTES).contains(&length) {
        return Ok(length);
    }
    Err(HelloError::Length(length))
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_BYTES + REQUEST_REST_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(REQUEST_REST_BYTES as u16).to_le_bytes());
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.push(self.lane.to_byte());
        out.push(mode_to_byte(self.identity.mode));
        put_identity(&mut out, &self.identity, self.to);
        out.extend_from_slice(&self.max_frame.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        put_tokens(&mut out, &self.identity.starts);
        seal(out)
    }

    /// Reads a whole hello: prefix and rest. Fields after those known are skipped.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        check(bytes, REQUEST_REST_BYTES)?;
        let versions = (u16_at(bytes, 10), u16_at(bytes, 12));
        // Before anything else: in another version the fields that follow may mean something else.
        common_version(versions).map_err(HelloError::Refuse)?;
        let lane = Lane::from_byte(bytes[14]).ok_or_else(|| {
            let text = format!("lane {} is not known to this node's version", bytes[14]);
            HelloError::Refuse(Refusal::new(RefusalCode::Lane, text))
        })?;
        let mode = mode_from_byte(bytes[15]).map_err(HelloError::Refuse)?;
        let (identity, to) = identity_at(bytes, mode, Some(84));
        Ok(Self { versions, lane, identity, to, max_frame: u32_at(bytes, 72), features: u64_at(bytes, 76) })
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let text = self.answer.as_ref().map_or_else(|refusal| cut(&refusal.text), |_| "");
        let tokens = if self.answer.is_ok() { TOKENS_BYTES } else { 0 };
        let rest = REPLY_REST_BYTES + text.len() + tokens;
        let mut out = Vec::with_capacity(PREFIX_BYTES + rest);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(rest as u16).to_le_bytes());
        let (code, version) = match &self.answer {
            Ok(version) => (0, *version),
            Err(refusal) => (refusal.code.to_number(), 0),
        };
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(&version.to_le_bytes());
        out.push(mode_to_byte(self.identity.mode));
        out.push(0);
        put_identity(&mut out, &self.identity, NodeId(0));
        out.extend_from_slice(&self.max_frame.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        if self.answer.is_ok() {
            put_tokens(&mut out, &self.identity.starts);
        }
        seal(out)
    }

    /// Reads a whole reply: prefix and rest. Fields after those known are skipped.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        check(bytes, REPLY_REST_BYTES)?;
        let (code, version) = (u16_at(bytes, 10), u16_at(bytes, 12));
        let length = usize::from(u16_at(bytes, 84));
        let end = bytes.len() - 4;
        let text = bytes.get(86..86 + length).filter(|_| 86 + length <= end).ok_or(HelloError::Length(length))?;
        if code != 0 {
            // The mode byte of a later version may be unknown; a refusal must be readable all the same.
            let mode = mode_from_byte(bytes[14]).unwrap_or_default();
            let refusal = Refusal::new(RefusalCode::from_number(code), clean(text));
            return Ok(Self {
                answer: Err(refusal),
                identity: identity_at(bytes, mode, None).0,
                max_frame: u32_at(bytes, 72),
                features: u64_at(bytes, 76),
            });
        }
        common_version((version, version)).map_err(HelloError::Refuse)?;
        let mode = mode_from_byte(bytes[14]).map_err(HelloError::Refuse)?;
        let tokens_at = 86 + length;
        if tokens_at + TOKENS_BYTES > end {
            return Err(HelloError::Length(bytes.len()));
        }
        let (identity, _) = identity_at(bytes, mode, Some(tokens_at));
        Ok(Self { answer: Ok(version), identity, max_frame: u32_at(bytes, 72), features: u64_at(bytes, 76) })
    }
}

/// The node that was dialed judges the one that dialed; gives the version to speak.
pub(crate) fn judge_request(local: &LocalIdentity, request: &Request) -> Result<u16, Refusal> {
    let version = common_version(request.versions)?;
    let peer = &request.identity;
    if peer.node == local.node && peer.incarnation == local.incarnation {
        return Err(Refusal::new(RefusalCode::Oneself, format!("node {} reached itself", local.node)));
    }
    if request.to != local.node {
        let text =
            format!("this is node {}, not node {}; correct the address of node {}", local.node, request.to, request.to);
        return Err(Refusal::new(RefusalCode::WrongNode, text));
    }
    if peer.node == local.node {
        let text = format!("this is node {} as well, on another disk; give one of the two another id", local.node);
        return Err(Refusal::new(RefusalCode::SameId, text));
    }
    judge_identity(local, peer)?;
    Ok(version)
}

/// The node that dialed judges the one that answered.
pub(crate) fn judge_reply(local: &LocalIdentity, to: NodeId, peer: &LocalIdentity) -> Result<(), Refusal> {
    if peer.node != to {
        let text = format!("node {} answers where node {to} was expected; correct the address of node {to}", peer.node);
        return Err(Refusal::new(RefusalCode::WrongNode, text));
    }
    judge_identity(local, peer)
}

/// Blank nodes may talk to each other and to nodes of any cluster, to join it; all others only within theirs.
fn judge_identity(local: &LocalIdentity, peer: &LocalIdentity) -> Result<(), Refusal> {
    let blank = ClusterId(0);
    let recovered = local.cluster.base() == peer.cluster.base() && local.cluster.recovery() != peer.cluster.recovery();
    if recovered && local.cluster.base() != blank {
        return Err(Refusal::new(RefusalCode::Recovery, recovery_text(local, peer)));
    }
    if local.cluster != peer.cluster && local.cluster != blank && peer.cluster != blank {
        let text = format!(
            "node {} belongs to cluster {}, node {} to cluster {}",
            local.node, local.cluster, peer.node, peer.cluster
        );
        return Err(Refusal::new(RefusalCode::Cluster, text));
    }
    if local.mode != peer.mode {
        let text = format!(
            "node {} uses leader id mode {:?}, node {} uses {:?}; the mode is one for the whole cluster",
            local.node, local.mode, peer.node, peer.mode
        );
        return Err(Refusal::new(RefusalCode::Mode, text));
    }
    Ok(())
}

/// Says which of two nodes was left behind when a lost quorum was recovered, and what to do with it (law 16).
fn recovery_text(one: &LocalIdentity, other: &LocalIdentity) -> String {
    let (old, new) = match one.cluster.recovery() < other.cluster.recovery() {
        true => (one, other),
        false => (other, one),
    };
    format!(
        "node {} is of recovery {} of the cluster, node {} of recovery {}: a lost quorum was recovered without node {}; \
         stop it, empty its data directory and add it as a new node",
        old.node,
        old.cluster.recovery(),
        new.node,
        new.cluster.recovery(),
        old.node
    )
}

/// The highest version both ends speak.
fn common_version((lowest, highest): (u16, u16)) -> Result<u16, Refusal> {
    let version = highest.min(HIGHEST_VERSION);
    if lowest <= highest && version >= lowest.max(LOWEST_VERSION) {
        return Ok(version);
    }
    let text = format!(
        "protocol versions {lowest} to {highest} there, {LOWEST_VERSION} to {HIGHEST_VERSION} here: none in common; upgrade one version at a time"
    );
    Err(Refusal::new(RefusalCode::Version, text))
}

fn mode_to_byte(mode: LeaderIdMode) -> u8 {
    match mode {
        LeaderIdMode::Advanced => 0,
        LeaderIdMode::Standard => 1,
    }
}

fn mode_from_byte(byte: u8) -> Result<LeaderIdMode, Refusal> {
    match byte {
        0 => Ok(LeaderIdMode::Advanced),
        1 => Ok(LeaderIdMode::Standard),
        _ => Err(Refusal::new(RefusalCode::Mode, format!("leader id mode {byte} is not known to this node's version"))),
    }
}

/// Writes bytes 16..72, which both hellos share.
fn put_identity(out: &mut Vec<u8>, identity: &LocalIdentity, to: NodeId) {
    out.extend_from_slice(&identity.cluster.0.to_le_bytes());
    out.extend_from_slice(&identity.node.0.to_le_bytes());
    out.extend_from_slice(&to.0.to_le_bytes());
    out.extend_from_slice(&identity.incarnation.0.to_le_bytes());
    out.extend_from_slice(&identity.starts.boot().to_le_bytes());
}

fn put_tokens(out: &mut Vec<u8>, starts: &Starts) {
    starts.tokens().iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
}

/// What stands at bytes 16..72 of both hellos, and the tokens where they are, if they are there.
fn identity_at(bytes: &[u8], mode: LeaderIdMode, tokens_at: Option<usize>) -> (LocalIdentity, NodeId) {
    let boot = u64_at(bytes, 64);
    let tokens = |at: usize| Starts::new(boot, std::array::from_fn(|start| u64_at(bytes, at + 8 * start)));
    let identity = LocalIdentity {
        cluster: ClusterId(u128::from_le_bytes(array(bytes, 16))),
        node: NodeId(u64_at(bytes, 32)),
        incarnation: Incarnation(u128::from_le_bytes(array(bytes, 48))),
        starts: tokens_at.map_or(Starts::counted(boot), tokens),
        mode,
    };
    (identity, NodeId(u64_at(bytes, 40)))
}

/// Appends the checksum over all before it.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Verifies length and checksum of a whole hello.
fn check(bytes: &[u8], least_rest: usize) -> Result<(), HelloError> {
    if bytes.len() < PREFIX_BYTES + least_rest {
        return Err(HelloError::Length(bytes.len()));
    }
    let (covered, stored) = bytes.split_at(bytes.len() - 4);
    let (stored, computed) = (u32_at(stored, 0), crc32c::crc32c(covered));
    if stored != computed {
        return Err(HelloError::Checksum { stored, computed });
    }
    Ok(())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u128, node: u64) -> LocalIdentity {
        LocalIdentity {
            cluster: ClusterId(cluster),
            node: NodeId(node),
            incarnation: Incarnation(100 + u128::from(node)),
            starts: Starts::counted(2).next(33),
            mode: LeaderIdMode::Advanced,
        }
    }

    fn request(identity: LocalIdentity, to: u64) -> Request {
        Request { versions: (1, 1), lane: Lane::Data, identity, to: NodeId(to), max_frame: 1 << 20, features: 0 }
    }

    fn code(result: Result<u16, Refusal>) -> RefusalCode {
        result.unwrap_err().code
    }

    #[test]
    fn hellos_survive_the_way_and_later_fields_are_skipped() {
        let request = request(identity(7, 1), 2);
        let bytes = request.encode();
        assert_eq!(rest_length(bytes[..PREFIX_BYTES].try_into().unwrap()).unwrap(), bytes.len() - PREFIX_BYTES);
        assert_eq!(Request::decode(&bytes).unwrap(), request);

        let mut longer = bytes[..bytes.len() - 4].to_vec();
        longer.extend_from_slice(b"a later version's fields");
        let rest = (longer.len() + 4 - PREFIX_BYTES) as u16;
        longer[8..10].copy_from_slice(&rest.to_le_bytes());
        assert_eq!(Request::decode(&seal(longer)).unwrap(), request);

        for answer in [Ok(1), Err(Refusal::new(RefusalCode::Cluster, "not ours"))] {
            let reply = Reply { answer, identity: identity(7, 2), max_frame: 5, features: 6 };
            let read = Reply::decode(&reply.encode()).unwrap();
            if read.answer.is_ok() {
                assert_eq!(read, reply);
            } else {
                // Whoever refuses is not judged.
                let identity = LocalIdentity { starts: Starts::counted(3), ..reply.identity };
                assert_eq!(read, Reply { identity, ..reply });
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        for bytes in [
            request(identity(7, 1), 2).encode(),
            Reply { answer: Ok(1), identity: identity(7, 2), max_frame: 5, features: 6 }.encode(),
        ] {
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // Magic and length are judged by `rest_length`, before there is a whole hello.
                let prefix: &[u8; PREFIX_BYTES] = bad[..PREFIX_BYTES].try_into().unwrap();
                let told = rest_length(prefix);
                let seen = told != Ok(bytes.len() - PREFIX_BYTES)
                    || (Request::decode(&bad).is_err() && Reply::decode(&bad).is_err());
                assert!(seen, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let refusal = Refusal::new(RefusalCode::Peer, "é".repeat(400) + "\n");
        let reply = Reply { answer: Err(refusal.clone()), identity: identity(7, 2), max_frame: 5, features: 6 };
        let text = Reply::decode(&reply.encode()).unwrap().answer.unwrap_err().text;
        assert_eq!(text, "é".repeat(256));
        assert_eq!(Refusal::decode(&refusal.encode()).unwrap().text, text);
        assert_eq!(clean(b"a\x1b[31m\nb"), "a?[31m?b");
    }

    #[test]
    fn who_may_talk_to_whom() {
        let local = identity(7, 2);
        assert_eq!(judge_request(&local, &request(identity(7, 1), 2)), Ok(1));
        assert_eq!(judge_request(&local, &request(identity(0, 1), 2)), Ok(1), "a blank node may ask to join");
        assert_eq!(judge_request(&identity(0, 2), &request(identity(7, 1), 2)), Ok(1), "and may be asked to");
        assert_eq!(judge_request(&identity(0, 2), &request(identity(0, 1), 2)), Ok(1), "and may found a cluster");

        assert_eq!(code(judge_request(&local, &request(identity(8, 1), 2))), RefusalCode::Cluster);
        let recovered = identity(7 | 1 << 112, 1);
        assert_eq!(code(judge_request(&local, &request(recovered, 2))), RefusalCode::Recovery);
        assert_eq!(code(judge_request(&recovered, &request(local, 1))), RefusalCode::Recovery);
        assert_eq!(judge_request(&recovered, &request(identity(0, 2), 1)), Ok(1), "a blank node may join again");
        assert_eq!(code(judge_request(&local, &request(identity(7, 1), 3))), RefusalCode::WrongNode);
        assert_eq!(code(judge_request(&local, &request(identity(7, 2), 3))), RefusalCode::Oneself);
        let other_disk = LocalIdentity { incarnation: Incarnation(1), ..local };
        assert_eq!(code(judge_request(&local, &request(other_disk, 2))), RefusalCode::SameId);
        let standard = LocalIdentity { mode: LeaderIdMode::Standard, ..identity(7, 1) };
        assert_eq!(code(judge_request(&local, &request(standard, 2))), RefusalCode::Mode);

        assert_eq!(judge_reply(&local, NodeId(1), &identity(7, 1)), Ok(()));
        assert_eq!(judge_reply(&local, NodeId(1), &identity(7, 3)).unwrap_err().code, RefusalCode::WrongNode);
        assert_eq!(judge_reply(&local, NodeId(1), &identity(8, 1)).unwrap_err().code, RefusalCode::Cluster);
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        assert_eq!(common_version((1, 9)), Ok(1));
        assert_eq!(code(common_version((2, 9))), RefusalCode::Version);
        assert_eq!(code(common_version((0, 0))), RefusalCode::Version);
        assert_eq!(code(common_version((3, 1))), RefusalCode::Version);
        let newer = Request { versions: (2, 3), ..request(identity(7, 1), 2) };
        assert!(matches!(
            Request::decode(&newer.encode()),
            Err(HelloError::Refuse(Refusal { code: RefusalCode::Version, .. }))
        ));
    }
}
