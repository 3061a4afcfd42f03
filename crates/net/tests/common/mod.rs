//! What the tests of the transport share: a handler that records, a log that can be waited for, and a peer
//! that speaks the bytes of FORMAT.md by hand, so that the format is checked by a second implementation.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, AppendAnswer, AppendHeader, AppendReply, ClusterId, GroupId, Incarnation, LeaderId, LeaderIdMode, LogId,
    Message, NodeId, Round, SnapshotMeta, Starts, StreamId, Vote,
};
use quorate_net::{Handler, LocalIdentity, PeerHello, PeerRefused, ReceivedSnapshot, Transport, TransportOptions};
use quorate_wire::{Batch, BatchBuilder, Batches, EntryKind, Packet, entries_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const GROUP: GroupId = GroupId(1);
/// Far more than any wait here needs: a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn identity(node: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: CLUSTER,
        node: NodeId(node),
        incarnation: Incarnation(1000 + u128::from(node)),
        starts: Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    }
}

pub fn options(identity: LocalIdentity) -> TransportOptions {
    let mut options = TransportOptions::new(identity, "127.0.0.1:0");
    options.backoff_min = Duration::from_millis(1);
    options.backoff_max = Duration::from_millis(20);
    options
}

/// What a handler was told.
#[derive(Debug)]
pub enum Event {
    Packet(NodeId, Incarnation, Packet),
    Call(NodeId, Bytes),
    Refused(NodeId),
    Lost(NodeId),
    Snapshot(NodeId, Incarnation, ReceivedSnapshot),
    Hello(Box<PeerHello>),
    OlderCopy(NodeId, String),
}

type Verdict = Box<dyn Fn(&PeerHello) -> Result<(), PeerRefused> + Send + Sync>;

struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    verdict: Verdict,
}

impl Recorder {
    fn tell(&self, event: Event) {
        // A test that is over listens no more.
        let _ = self.events.send(event);
    }
}

impl Handler for Recorder {
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet) {
        self.tell(Event::Packet(from, incarnation, packet));
    }
    fn on_call(&self, from: NodeId, body: Bytes) {
        self.tell(Event::Call(from, body));
    }
    fn on_refused(&self, peer: NodeId) {
        self.tell(Event::Refused(peer));
    }
    fn on_lost(&self, to: NodeId) {
        self.tell(Event::Lost(to));
    }
    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: ReceivedSnapshot) {
        self.tell(Event::Snapshot(from, incarnation, snapshot));
    }
    fn on_older_copy(&self, peer: NodeId, text: &str) {
        self.tell(Event::OlderCopy(peer, text.to_owned()));
    }
    fn check_peer(&self, peer: &PeerHello) -> Result<(), PeerRefused> {
        self.tell(Event::Hello(Box::new(*peer)));
        (self.verdict)(peer)
    }
}

/// A transport and what it told its handler.
pub struct Node {
    pub net: Transport,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Node {
    pub async fn start(options: TransportOptions) -> Self {
        Self::start_with(options, |_| Ok(())).await
    }

    pub async fn start_with(
        options: TransportOptions,
        verdict: impl Fn(&PeerHello) -> Result<(), PeerRefused> + Send + Sync + 'static,
    ) -> Self {
        let net = Transport::bind(options).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        net.start(Arc::new(Recorder { events: sender, verdict: Box::new(verdict) }));
        Self { net, events }
    }

    pub fn address(&self) -> String {
        self.net.local_addr().to_string()
    }

    pub fn knows(&self, other: &Node, node: u64) {
        self.net.set_address(NodeId(node), &other.address());
    }

    /// The next event that `pick` takes; others are passed over.
    pub async fn next<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the handler lives");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, wait).await.expect("the event comes")
    }

    /// What was told so far and not yet looked at.
    pub fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    pub async fn packet(&mut self) -> Packet {
        self.next(|event| if let Event::Packet(_, _, packet) = event { Some(packet) } else { None }).await
    }

    pub async fn refused(&mut self) -> NodeId {
        self.next(|event| if let Event::Refused(node) = event { Some(node) } else { None }).await
    }

    pub async fn lost(&mut self) -> NodeId {
        self.next(|event| if let Event::Lost(node) = event { Some(node) } else { None }).await
    }

    pub async fn hello(&mut self) -> PeerHello {
        self.next(|event| if let Event::Hello(hello) = event { Some(*hello) } else { None }).await
    }

    pub async fn snapshot(&mut self) -> ReceivedSnapshot {
        self.next(|event| if let Event::Snapshot(_, _, snapshot) = event { Some(snapshot) } else { None }).await
    }

    /// Sends, again and again while the window is full or the connection is being made.
    pub async fn send(&self, to: u64, mut packet: Packet) {
        let wait = async {
            while let Err(back) = self.net.send(NodeId(to), packet) {
                packet = back;
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the packet is taken");
    }
}

/// Goes round until `holds`.
pub async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it holds at last");
}

pub fn header() -> AppendHeader {
    AppendHeader {
        vote: Vote::committed(LeaderId::new(3, 1)),
        stream: StreamId(9),
        round: Round(4),
        commit: 2,
        lease: Duration::ZERO,
        named: None,
        heard: None,
    }
}

pub fn batch(term: u64, first: u64, payloads: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new();
    payloads.iter().for_each(|payload| builder.push(EntryKind::Command, payload));
    builder.seal(CLUSTER, GROUP, LeaderId::new(term, 1), first, 5).unwrap()
}

/// An append of these batches, which follow each other.
pub fn append(batches: Vec<Batch>) -> Packet {
    let batches: Batches = batches.into();
    let first = batches[0].first();
    let prev = if first.index == 1 { LogId::ZERO } else { LogId::new(first.leader_id, first.index - 1) };
    let entries = entries_of(&batches).unwrap();
    Packet { group: GROUP, message: Message::Append(Append { header: header(), prev, entries }), batches }
}

/// A message for the control lane that carries a number.
pub fn ack(number: u64) -> Packet {
    let answer = AppendAnswer::Accepted { matched: LogId::new(LeaderId::new(3, 1), number) };
    let AppendHeader { vote, stream, round, lease, .. } = header();
    let reply = AppendReply { vote, stream, round, promised: lease, lost: None, answer };
    Packet { group: GROUP, message: Message::AppendReply(reply), batches: Batches::new() }
}

pub fn ack_number(packet: &Packet) -> Option<u64> {
    match &packet.message {
        Message::AppendReply(AppendReply { answer: AppendAnswer::Accepted { matched }, .. }) => Some(matched.index),
        _ => None,
    }
}

#[track_caller]
pub fn assert_same(found: &Packet, sent: &Packet) {
    assert_eq!((found.group, &found.message, &found.batches), (sent.group, &sent.message, &sent.batches));
}

pub fn meta() -> SnapshotMeta {
    SnapshotMeta { last_log_id: LogId::new(LeaderId::new(2, 1), 77), ..SnapshotMeta::default() }
}

/// Bytes that no accident makes equal.
pub fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ (seed >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

// What follows speaks the bytes of FORMAT.md by hand.

/// A dialing node's hello.
#[derive(Clone, Copy)]
pub struct Hello {
    pub versions: (u16, u16),
    pub lane: u8,
    pub mode: u8,
    pub cluster: u128,
    pub node: u64,
    pub to: u64,
    pub boot: u64,
}

impl Hello {
    pub fn new(node: u64, to: u64, lane: u8) -> Self {
        Self { versions: (1, 1), lane, mode: 0, cluster: CLUSTER.0, node, to, boot: 1 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"quorate\n".to_vec();
        out.extend_from_slice(&(78 + 512u16).to_le_bytes());
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.extend_from_slice(&[self.lane, self.mode]);
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&(1000 + u128::from(self.node)).to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&(1u32 << 26).to_le_bytes());
        out.extend_from_slice(&0u64.to_le_bytes());
        out.extend_from_slice(&[0; 512]);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }
}

/// An accepting node's answer: the version, or a code and a text.
pub fn reply_bytes(node: u64, answer: Result<u16, (u16, &str)>) -> Vec<u8> {
    let (code, version, text) = match answer {
        Ok(version) => (0, version, ""),
        Err((code, text)) => (code, 0, text),
    };
    let mut out = b"quorate\n".to_vec();
    let tokens = if answer.is_ok() { 512 } else { 0 };
    out.extend_from_slice(&(80 + text.len() as u16 + tokens).to_le_bytes());
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&CLUSTER.0.to_le_bytes());
    out.extend_from_slice(&node.to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes());
    out.extend_from_slice(&(1000 + u128::from(node)).to_le_bytes());
    out.extend_from_slice(&1u64.to_le_bytes());
    out.extend_from_slice(&(1u32 << 26).to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes());
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len() + usize::from(tokens), 0);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

pub fn frame_bytes(kind: u8, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = ((head.len() + body.len()) as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&[kind, 0, 1, 0]);
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(head).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
    out
}

pub fn packet_bytes(packet: &Packet) -> Vec<u8> {
    let mut head = Vec::new();
    packet.encode_head(&mut head);
    let body: Vec<u8> = packet.batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
    frame_bytes(1, &head, &body)
}

/// Reads one hello, of either side: code and version (or the versions) at bytes 10 and 12, and the whole.
pub async fn read_hello(stream: &mut TcpStream) -> Vec<u8> {
    let mut whole = vec![0; 10];
    timeout(PATIENCE, stream.read_exact(&mut whole)).await.unwrap().unwrap();
    let rest = usize::from(u16::from_le_bytes([whole[8], whole[9]]));
    whole.resize(10 + rest, 0);
    timeout(PATIENCE, stream.read_exact(&mut whole[10..])).await.unwrap().unwrap();
    whole
}

pub fn code_and_text(reply: &[u8]) -> (u16, String) {
    let text = &reply[86..86 + usize::from(u16::from_le_bytes([reply[84], reply[85]]))];
    (u16::from_le_bytes([reply[10], reply[11]]), String::from_utf8(text.to_vec()).unwrap())
}

/// Connects to a node as a peer made by hand, and shakes hands.
pub async fn raw_peer(node: &Node, hello: Hello) -> TcpStream {
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let (code, text) = code_and_text(&read_hello(&mut stream).await);
    assert_eq!((code, text.as_str()), (0, ""));
    stream
}

/// Waits until the other end closes, and gives what it still said.
pub async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the other end closes");
    if let Err(error) = read {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    said
}

/// Collects what the transport logs on this thread (tests with one thread only).
pub struct Log {
    lines: mpsc::UnboundedReceiver<String>,
    /// Each line, and whether a wait was already answered with it.
    seen: Vec<(String, bool)>,
    _guard: tracing::subscriber::DefaultGuard,
}

/// A second listener. While there is only one, a thread without it may decide for all that an event interests nobody.
static SECOND: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));

impl Log {
    pub fn capture() -> Self {
        LazyLock::force(&SECOND);
        let (sender, lines) = mpsc::unbounded_channel();
        let guard = tracing::subscriber::set_default(Collect { sender: Mutex::new(sender) });
        Self { lines, seen: Vec::new(), _guard: guard }
    }

    /// Waits for a line that contains every part, and that answered no earlier wait. Two ends log in any order.
    pub async fn line(&mut self, parts: &[&str]) -> String {
        let wait = async {
            let mut next = 0;
            loop {
                while let Some((line, taken)) = self.seen.get_mut(next) {
                    if !*taken && parts.iter().all(|part| line.contains(part)) {
                        *taken = true;
                        return line.clone();
                    }
                    next += 1;
                }
                self.seen.push((self.lines.recv().await.expect("the log lives"), false));
            }
        };
        let found = timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("no line with {parts:?} in {:#?}", self.seen))
    }

    /// How many lines so far contain every part.
    pub fn count(&mut self, parts: &[&str]) -> usize {
        self.seen.extend(std::iter::from_fn(|| self.lines.try_recv().ok()).map(|line| (line, false)));
        self.seen.iter().filter(|(line, _)| parts.iter().all(|part| line.contains(part))).count()
    }
}

struct Collect {
    sender: Mutex<mpsc::UnboundedSender<String>>,
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Collect {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("quorate::network")
    }
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        let _ = self.sender.lock().unwrap().send(line.0);
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
