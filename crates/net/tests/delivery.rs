//! What is sent arrives, whole and in order, or the sender hears of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Event, Hello, Log, Node, ack, ack_number, append, assert_same, batch, identity, noise, options, until};
use quorate_core::{ClusterId, NodeId, Starts};
use quorate_net::{DialedBy, LocalIdentity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_arrive_intact_and_in_order_on_each_lane() {
    let (one, mut two) = (Node::start(options(identity(1))).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    let payloads: Vec<_> = (0..300).map(|n| noise(n * n * 3 % 150_000, n as u64)).collect();
    let sent: Vec<_> = (1..).zip(&payloads).map(|(n, payload)| append(vec![batch(3, n, &[payload])])).collect();
    for (number, packet) in (1..).zip(&sent) {
        one.send(2, packet.clone()).await;
        one.send(2, ack(number)).await;
    }
    let (mut data, mut control) = (0, 0);
    while data < sent.len() || control < sent.len() {
        let packet = two.packet().await;
        if packet.batches.is_empty() {
            control += 1;
            assert_eq!(ack_number(&packet), Some(control as u64));
        } else {
            assert_same(&packet, &sent[data]);
            data += 1;
        }
    }
    let stats = &one.net.stats()[0];
    assert!(stats.control.connected && stats.data.connected);
    assert_eq!((stats.control.sent_frames, stats.data.sent_frames), (300, 300));
    assert!(stats.control.writes <= 300, "queued frames leave together");
}

#[tokio::test]
async fn a_packet_of_many_batches_arrives_as_it_was() {
    let (one, mut two) = (Node::start(options(identity(1))).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    let batches: Vec<_> = (1..=100).map(|n| batch(n, n, &[&noise(5000, n)])).collect();
    let packet = append(batches);
    one.send(2, packet.clone()).await;
    let from = two
        .next(|event| match event {
            Event::Packet(from, incarnation, found) => {
                assert_same(&found, &packet);
                Some((from, incarnation))
            }
            _ => None,
        })
        .await;
    assert_eq!(from, (NodeId(1), identity(1).incarnation));
}

#[tokio::test]
async fn calls_arrive_small_large_and_empty() {
    let (one, mut two) = (Node::start(options(identity(1))).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    for body in [Bytes::new(), Bytes::from(noise(1000, 1)), Bytes::from(noise(3 << 20, 2))] {
        until(|| one.net.call(NodeId(2), body.clone())).await;
        let found = two.next(|event| if let Event::Call(from, body) = event { Some((from, body)) } else { None }).await;
        assert_eq!(found, (NodeId(1), body));
    }
}

/// A peer that shakes hands and then reads only what it is told to.
async fn deaf_peer(node: u64) -> (TcpListener, String, impl AsyncFn(&TcpListener) -> (u8, tokio::net::TcpStream)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accept = async move |listener: &TcpListener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        let lane = common::read_hello(&mut stream).await[14];
        stream.write_all(&common::reply_bytes(node, Ok(1))).await.unwrap();
        (lane, stream)
    };
    (listener, address, accept)
}

#[tokio::test]
async fn a_full_window_gives_the_packet_back_and_a_broken_connection_is_told() {
    let mut limited = options(identity(1));
    limited.data_window_bytes = 1 << 20;
    let mut one = Node::start(limited).await;
    let (listener, address, accept) = deaf_peer(2).await;
    one.net.set_address(NodeId(2), &address);
    let (a, b) = (accept(&listener).await, accept(&listener).await);
    assert_eq!(a.0 + b.0, 3, "a control and a data connection");
    until(|| one.net.stats()[0].data.connected).await;

    let packet = append(vec![batch(3, 1, &[&noise(100_000, 1)])]);
    let mut taken = 0;
    let back = loop {
        match one.net.send(NodeId(2), packet.clone()) {
            Ok(()) => taken += 1,
            Err(back) => break back,
        }
        assert!(taken < 10_000, "the window never fills");
        tokio::task::yield_now().await;
    };
    assert_same(&back, &packet);
    let stats = &one.net.stats()[0];
    assert!(stats.data.queued_bytes <= 1 << 20, "{} bytes queued", stats.data.queued_bytes);
    assert_eq!(stats.data.given_back, 1);
    assert!(one.net.send(NodeId(2), ack(1)).is_ok(), "the control lane is not behind the data lane");

    drop((a, b));
    assert_eq!(one.lost().await, NodeId(2));
}

#[tokio::test]
async fn a_packet_larger_than_the_window_goes_alone_and_one_larger_than_a_frame_comes_back() {
    let mut limited = options(identity(1));
    limited.data_window_bytes = 1000;
    limited.max_frame_bytes = 1 << 20;
    let (one, mut two) = (Node::start(limited).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    let packet = append(vec![batch(3, 1, &[&noise(500_000, 1)])]);
    one.send(2, packet.clone()).await;
    assert_same(&two.packet().await, &packet);
    let huge = append(vec![batch(3, 1, &[&noise(2 << 20, 1)])]);
    assert!(one.net.send(NodeId(2), huge).is_err());
    assert!(one.net.send(NodeId(9), packet).is_err(), "no address is known for node 9");
}

#[tokio::test]
async fn a_frame_that_the_peer_does_not_accept_is_dropped_and_told_and_the_rest_arrives() {
    let mut small = options(identity(2));
    small.max_frame_bytes = 512 << 10;
    let (mut one, mut two) = (Node::start(options(identity(1))).await, Node::start(small).await);
    one.knows(&two, 2);
    one.send(2, append(vec![batch(3, 1, &[&noise(600_000, 1)])])).await;
    let fits = append(vec![batch(3, 1, &[b"fits"])]);
    one.send(2, fits.clone()).await;
    assert_same(&two.packet().await, &fits);
    assert_eq!(one.lost().await, NodeId(2));
}

#[tokio::test]
async fn a_peer_that_goes_is_told_as_refused_and_found_again_when_it_is_back() {
    let (mut one, mut two) = (Node::start(options(identity(1))).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    two.knows(&one, 1);
    one.send(2, ack(1)).await;
    assert_eq!(ack_number(&two.packet().await), Some(1));
    assert!(!one.told().iter().any(|event| matches!(event, Event::Refused(_))), "nobody was refused yet");

    let address = two.address();
    two.net.shutdown();
    two.net.closed().await;
    assert_eq!(one.refused().await, NodeId(2));

    let mut again = options(LocalIdentity { starts: Starts::counted(2), ..identity(2) });
    again.listen = address;
    let mut two = Node::start(again).await;
    one.send(2, ack(2)).await;
    assert_eq!(ack_number(&two.packet().await), Some(2));
    let hello = one.next(|event| match event {
        Event::Hello(hello) if hello.starts.boot() == 2 => Some(*hello),
        _ => None,
    });
    let hello = hello.await;
    assert_eq!((hello.node, hello.dialed_by), (NodeId(2), DialedBy::Us));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused_and_silence_is_not() {
    let mut log = Log::capture();
    let mut impatient = options(identity(1));
    impatient.connect_timeout = Duration::from_millis(20);
    impatient.handshake_timeout = Duration::from_millis(20);
    let mut one = Node::start(impatient).await;
    // Accepts at the system's hands and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.net.set_address(NodeId(2), &silent.local_addr().unwrap().to_string());
    log.line(&["WARN", "peer=2", "the handshake took too long"]).await;
    one.net.set_address(NodeId(4), "no-such-name.invalid:7");
    log.line(&["WARN", "peer=4", "not connected"]).await;
    assert!(!one.told().iter().any(|event| matches!(event, Event::Refused(_))));

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    one.net.set_address(NodeId(5), &free.to_string());
    assert_eq!(one.refused().await, NodeId(5));
    log.line(&["WARN", "peer=5", "no process listens there"]).await;
}

#[tokio::test]
async fn a_peer_that_dials_ends_the_wait_before_a_reconnect() {
    let mut patient = options(identity(1));
    (patient.backoff_min, patient.backoff_max) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let mut one = Node::start(patient).await;
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap().to_string();
    drop(place);
    one.net.set_address(NodeId(2), &address);
    // The first attempt and the one right after it; then the hour begins.
    assert_eq!((one.refused().await, one.refused().await), (NodeId(2), NodeId(2)));
    let mut there = options(identity(2));
    there.listen = address;
    let mut two = Node::start(there).await;
    two.knows(&one, 1);
    one.send(2, ack(1)).await;
    assert_eq!(ack_number(&two.packet().await), Some(1));
}

#[tokio::test]
async fn a_blank_node_learns_its_cluster_and_connects_anew_under_it() {
    let blank = |node| LocalIdentity { cluster: ClusterId(0), ..identity(node) };
    let mut one = Node::start(options(blank(1))).await;
    let mut two = Node::start(options(blank(2))).await;
    let other = Node::start(options(LocalIdentity { cluster: ClusterId(0xbad), ..identity(3) })).await;
    one.knows(&two, 2);
    two.knows(&one, 1);
    other.knows(&two, 2);
    one.send(2, ack(1)).await;
    assert_eq!(ack_number(&two.packet().await), Some(1), "blank nodes talk to each other");
    until(|| other.net.stats()[0].data.connected && other.net.stats()[0].control.connected).await;

    one.net.set_identity(identity(1));
    let founded = append(vec![batch(3, 1, &[b"the first entry"])]);
    one.send(2, founded.clone()).await;
    assert_same(&two.packet().await, &founded);
    two.net.set_identity(identity(2));
    let seen = one.next(|event| match event {
        Event::Hello(hello) if hello.cluster == common::CLUSTER && hello.dialed_by == DialedBy::Peer => Some(hello),
        _ => None,
    });
    assert_eq!(seen.await.node, NodeId(2));
    until(|| {
        let refused = &other.net.stats()[0].control.last_error;
        refused.as_ref().is_some_and(|text| text.contains("cluster"))
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_moves_is_followed_and_one_that_is_removed_is_left() {
    let mut one = Node::start(options(identity(1))).await;
    let mut before = Node::start(options(identity(2))).await;
    one.knows(&before, 2);
    one.send(2, ack(1)).await;
    assert_eq!(ack_number(&before.packet().await), Some(1));
    let mut after = Node::start(options(identity(2))).await;
    one.knows(&after, 2);
    one.send(2, ack(2)).await;
    assert_eq!(ack_number(&after.packet().await), Some(2));

    after.knows(&one, 1);
    after.send(1, ack(3)).await;
    assert_eq!(ack_number(&one.packet().await), Some(3));
    one.net.remove_peer(NodeId(2));
    assert!(one.net.send(NodeId(2), ack(4)).is_err());
    assert!(one.net.stats().is_empty());
    one.net.shutdown();
    one.net.closed().await;
}

#[tokio::test]
async fn what_was_queued_before_a_shutdown_still_leaves() {
    let (one, mut two) = (Node::start(options(identity(1))).await, Node::start(options(identity(2))).await);
    one.knows(&two, 2);
    until(|| one.net.stats()[0].control.connected).await;
    one.net.send(NodeId(2), ack(7)).unwrap();
    one.net.shutdown();
    one.net.closed().await;
    assert_eq!(ack_number(&two.packet().await), Some(7));
    assert!(one.net.send(NodeId(2), ack(8)).is_err());
}

#[tokio::test]
async fn the_bytes_are_those_of_the_format() {
    let mut two = Node::start(options(identity(2))).await;
    let mut stream = common::raw_peer(&two, Hello::new(1, 2, 2)).await;
    let packet = append(vec![batch(3, 1, &[b"by hand"])]);
    stream.write_all(&common::packet_bytes(&packet)).await.unwrap();
    assert_same(&two.packet().await, &packet);
    assert!(two.net.stats().is_empty(), "no address is known for the peer, and that does not matter");

    let (listener, address, accept) = deaf_peer(3).await;
    two.net.set_address(NodeId(3), &address);
    let (first, second) = (accept(&listener).await, accept(&listener).await);
    let (_, mut data) = if first.0 == 2 { first } else { second };
    two.send(3, packet.clone()).await;
    let expected = common::packet_bytes(&packet);
    let mut found = vec![0; expected.len()];
    data.read_exact(&mut found).await.unwrap();
    assert_eq!(found, expected);
}
