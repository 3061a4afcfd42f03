//! Peers that speak garbage, half a frame, too much, or not at all: their connection closes with a clear line in the
//! log, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Hello, Log, Node, ack, ack_number, append, assert_same, batch, identity, noise, options};
use quorate_core::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A node under fire, and a good peer that must not notice.
struct Besieged {
    node: Node,
    friend: Node,
    sent: u64,
}

impl Besieged {
    async fn new() -> Self {
        let node = Node::start(options(identity(2))).await;
        let friend = Node::start(options(identity(1))).await;
        friend.knows(&node, 2);
        let mut besieged = Self { node, friend, sent: 0 };
        besieged.is_unharmed().await;
        besieged
    }

    /// The friend's next message arrives, on the connection it has had from the start.
    async fn is_unharmed(&mut self) {
        self.sent += 1;
        self.friend.send(2, ack(self.sent)).await;
        assert_eq!(ack_number(&self.node.packet().await), Some(self.sent));
        assert_eq!(self.friend.net.stats()[0].control.dials, 1);
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_closed() {
    let mut log = Log::capture();
    let mut besieged = Besieged::new().await;
    let mut flipped = Hello::new(3, 2, 1).bytes();
    flipped[33] ^= 4;
    let mut long = Hello::new(3, 2, 1).bytes();
    long[8..10].copy_from_slice(&5000u16.to_le_bytes());
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", "does not speak this protocol (it starts with \"GET / HT\")"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on", "the other end speaks tls and this node does not"),
        (&noise(4000, 3), "does not speak this protocol"),
        (&flipped, "handshake checksum"),
        (&long, "handshake length 5000 out of range"),
        (b"quorate\nF", "in the middle of a frame: 9 of 10 bytes arrived"),
    ];
    for (bytes, why) in cases {
        let mut stream = TcpStream::connect(besieged.node.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(common::read_to_close(&mut stream).await, [], "{why}");
        log.line(&["WARN", "no connection from an unknown node", why]).await;
        besieged.is_unharmed().await;
    }
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_a_frame_closes_the_connection() {
    let mut log = Log::capture();
    let mut besieged = Besieged::new().await;
    let frame = common::packet_bytes(&append(vec![batch(3, 1, &[b"a payload", b"another"])]));
    let good = common::packet_bytes(&ack(0));
    for at in 0..frame.len() {
        let mut bad = frame.clone();
        bad[at] ^= 1 << (at % 8);
        let mut stream = common::raw_peer(&besieged.node, Hello::new(3, 2, 2)).await;
        stream.write_all(&bad).await.unwrap();
        // What follows would be accepted if the node had gone on.
        let _ = stream.write_all(&good).await;
        let _ = stream.shutdown().await;
        assert_eq!(common::read_to_close(&mut stream).await, [], "byte {at}");
        assert!(besieged.node.told().iter().all(|event| !matches!(event, common::Event::Packet(..))), "byte {at}");
    }
    // The same text twice in a row is said once.
    let said = log.count(&["WARN", "peer=3", "closed the connection"]);
    assert!(said > frame.len() - 20, "{said} of {}", frame.len());
    besieged.is_unharmed().await;
}

#[tokio::test]
async fn a_frame_cut_anywhere_is_never_delivered() {
    let mut besieged = Besieged::new().await;
    let mut log = Log::capture();
    let frame = common::packet_bytes(&append(vec![batch(3, 1, &[b"a payload"])]));
    for at in 1..frame.len() {
        let mut stream = common::raw_peer(&besieged.node, Hello::new(3, 2, 2)).await;
        stream.write_all(&frame[..at]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(common::read_to_close(&mut stream).await, [], "cut at {at}");
        log.line(&["WARN", "peer=3", &format!("in the middle of a frame: {at} of ")]).await;
        assert!(besieged.node.told().iter().all(|event| !matches!(event, common::Event::Packet(..))), "cut at {at}");
    }
    besieged.is_unharmed().await;
}

#[tokio::test]
async fn frames_that_break_the_rules_close_the_connection() {
    let mut log = Log::capture();
    let mut besieged = Besieged::new().await;
    let good = append(vec![batch(3, 1, &[b"a payload"])]);
    let mut head = Vec::new();
    good.encode_head(&mut head);
    let body = good.batches[0].bytes().to_vec();
    let other_cluster = {
        let mut builder = quorate_wire::BatchBuilder::new();
        builder.push(quorate_wire::EntryKind::Command, b"a payload");
        let leader = quorate_core::LeaderId::new(3, 1);
        builder.seal(quorate_core::ClusterId(0xbad), common::GROUP, leader, 1, 5).unwrap()
    };
    let huge = {
        let mut header = common::frame_bytes(1, b"", b"");
        header[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..16]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    };
    let cases = [
        (huge, "frame of 4294967295 bytes exceeds the limit"),
        (common::frame_bytes(1, &head, &[]), "malformed content"),
        (common::frame_bytes(1, &head, &[body.clone(), vec![0]].concat()), "malformed content"),
        (common::frame_bytes(1, b"", b""), "malformed content"),
        (common::frame_bytes(1, &head, other_cluster.bytes()), "malformed content: entry at offset 0: checksum"),
        (common::frame_bytes(2, b"in", b"out"), "a call outside its checksum"),
        (common::frame_bytes(4, b"", b""), "unexpected frame of kind SnapshotChunk"),
        (common::frame_bytes(7, b"", b""), "a goodbye without a code"),
    ];
    for (bytes, why) in cases {
        let mut stream = common::raw_peer(&besieged.node, Hello::new(3, 2, 2)).await;
        stream.write_all(&bytes).await.unwrap();
        common::read_to_close(&mut stream).await;
        log.line(&["WARN", "peer=3", "closed the connection", why]).await;
    }
    besieged.is_unharmed().await;
}

#[tokio::test]
async fn frames_and_messages_of_a_later_version_are_skipped() {
    let mut besieged = Besieged::new().await;
    let mut stream = common::raw_peer(&besieged.node, Hello::new(3, 2, 2)).await;
    stream.write_all(&common::frame_bytes(99, b"what is this", b"who knows")).await.unwrap();
    let mut later = Vec::new();
    ack(1).encode_head(&mut later);
    later[0] = 200;
    stream.write_all(&common::frame_bytes(1, &later, b"")).await.unwrap();
    let known = append(vec![batch(3, 1, &[b"a payload"])]);
    stream.write_all(&common::packet_bytes(&known)).await.unwrap();
    assert_same(&besieged.node.packet().await, &known);
    besieged.is_unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_for_ever_is_ended() {
    let mut log = Log::capture();
    let node = Node::start(options(identity(2))).await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&Hello::new(3, 2, 1).bytes()[..40]).await.unwrap();
    let began = tokio::time::Instant::now();
    // Time stands still but for timers: only the node's own deadline can end this.
    assert_eq!(common::read_to_close(&mut stream).await, []);
    assert_eq!(began.elapsed().as_secs(), 5, "the default of handshake_timeout");
    log.line(&["WARN", "no connection from an unknown node: the handshake took too long"]).await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_dropped_and_those_that_stand_stay() {
    let mut log = Log::capture();
    let mut few = options(identity(2));
    few.max_incoming = 2;
    let mut node = Node::start(few).await;
    let mut first = common::raw_peer(&node, Hello::new(1, 2, 1)).await;
    let second = common::raw_peer(&node, Hello::new(3, 2, 1)).await;
    let mut third = TcpStream::connect(node.address()).await.unwrap();
    assert_eq!(common::read_to_close(&mut third).await, []);
    log.line(&["WARN", "2 are open, the most that max_incoming allows"]).await;
    first.write_all(&common::packet_bytes(&ack(5))).await.unwrap();
    assert_eq!(ack_number(&node.packet().await), Some(5));
    drop(second);
    let place = async {
        loop {
            let mut stream = TcpStream::connect(node.address()).await.unwrap();
            stream.write_all(&Hello::new(4, 2, 1).bytes()).await.unwrap();
            let mut byte = [0];
            if tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await.is_ok_and(|read| read == 1) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), place).await.expect("a place is free again");
    assert_eq!(node.net.local_addr().ip().to_string(), "127.0.0.1");
    assert!(node.net.send(NodeId(1), ack(1)).is_err(), "who dials is not dialed without an address");
}
