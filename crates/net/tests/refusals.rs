//! Who may not talk to whom, and that both ends say so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Hello, Log, Node, identity, options, until};
use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId, Starts};
use quorate_net::{DialedBy, LocalIdentity, NetError, PeerRefused, ProbeAnswer, Transport};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// `dialing` dials `dialed` as node 2; both ends must say `why`, once each however often it tries.
async fn both_ends_say(log: &mut Log, dialing: &Node, dialed: &Node, why: &str) {
    dialing.net.set_address(NodeId(2), &dialed.address());
    let there = log.line(&["WARN", "no connection from node", why]).await;
    assert!(there.contains("refused:"), "{there}");
    until(|| dialing.net.stats()[0].control.dials >= 4).await;
    until(|| dialing.net.stats()[0].data.dials >= 4).await;
    for lane in ["lane=control", "lane=data"] {
        let said = [lane, "WARN", "peer=2", "not connected: the other end refuses this node", why];
        assert_eq!(log.count(&said), 1, "said once, not at every attempt");
        assert_eq!(log.count(&[lane, "not connected"]), 1, "and nothing else");
    }
    assert_eq!(log.count(&["no connection from node"]), 1, "at the other end as well");
    let stats = &dialing.net.stats()[0];
    assert!(!stats.control.connected && !stats.data.connected);
    assert!(stats.control.last_error.as_ref().unwrap().contains(why), "{:?}", stats.control.last_error);
    assert!(stats.hello.is_none());
}

async fn refused(dialing: LocalIdentity, dialed: LocalIdentity, why: &str) {
    let mut log = Log::capture();
    let (one, two) = (Node::start(options(dialing)).await, Node::start(options(dialed)).await);
    both_ends_say(&mut log, &one, &two, why).await;
}

#[tokio::test]
async fn another_cluster() {
    let other = LocalIdentity { cluster: ClusterId(0xbad), ..identity(2) };
    refused(identity(1), other, "node 2 belongs to cluster 00000000000000000000000000000bad, node 1 to cluster").await;
}

#[tokio::test]
async fn another_node_than_the_one_meant() {
    refused(identity(1), identity(3), "this is node 3, not node 2; correct the address of node 2").await;
}

#[tokio::test]
async fn another_leader_id_mode() {
    let standard = LocalIdentity { mode: LeaderIdMode::Standard, ..identity(2) };
    refused(identity(1), standard, "node 2 uses leader id mode Standard, node 1 uses Advanced").await;
}

#[tokio::test]
async fn oneself() {
    let mut log = Log::capture();
    let one = Node::start(options(identity(1))).await;
    both_ends_say(&mut log, &one, &one, "node 1 reached itself").await;
}

#[tokio::test]
async fn a_peer_that_the_library_refuses_when_it_is_dialed() {
    let mut log = Log::capture();
    let one = Node::start(options(identity(1))).await;
    let two = Node::start_with(options(identity(2)), |peer| {
        assert_eq!((peer.node, peer.incarnation, peer.starts), (NodeId(1), Incarnation(1001), Starts::counted(1)));
        assert_eq!(peer.dialed_by, DialedBy::Peer);
        Err("an older copy of node 1's disk; replace the member".into())
    })
    .await;
    both_ends_say(&mut log, &one, &two, "an older copy of node 1's disk; replace the member").await;
}

#[tokio::test]
async fn a_peer_that_the_library_refuses_when_it_answers() {
    let mut log = Log::capture();
    let one = Node::start_with(options(identity(1)), |peer| {
        assert_eq!(peer.dialed_by, DialedBy::Us);
        Err("an older copy of node 2's disk".into())
    })
    .await;
    let two = Node::start(options(identity(2))).await;
    one.knows(&two, 2);
    log.line(&["WARN", "peer=2", "not connected: refused: an older copy of node 2's disk"]).await;
    log.line(&["WARN", "peer=1", "the other end refuses this node: an older copy of node 2's disk"]).await;
    assert!(!one.net.stats()[0].control.connected);
}

#[tokio::test]
async fn an_older_copy_is_told_that_it_is_one_when_it_dials() {
    let text = "an older copy of node 1's disk";
    let mut one = Node::start(options(identity(1))).await;
    let two = Node::start_with(options(identity(2)), move |_| Err(PeerRefused::older_copy(text))).await;
    one.knows(&two, 2);
    assert_eq!(told_of_older_copy(&mut one).await, (NodeId(2), text.into()));
}

#[tokio::test]
async fn an_older_copy_is_told_that_it_is_one_when_it_answers() {
    let text = "an older copy of node 2's disk";
    let one = Node::start_with(options(identity(1)), move |_| Err(PeerRefused::older_copy(text))).await;
    let mut two = Node::start(options(identity(2))).await;
    one.knows(&two, 2);
    assert_eq!(told_of_older_copy(&mut two).await, (NodeId(1), text.into()));
}

async fn told_of_older_copy(node: &mut Node) -> (NodeId, String) {
    node.next(|event| match event {
        common::Event::OlderCopy(peer, text) => Some((peer, text)),
        _ => None,
    })
    .await
}

/// Who answers at a wrong address may be anybody.
#[tokio::test]
async fn another_node_cannot_say_that_this_one_is_an_older_copy() {
    let mut one = Node::start(options(identity(1))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.net.set_address(NodeId(2), &listener.local_addr().unwrap().to_string());
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            common::read_hello(&mut stream).await;
            stream.write_all(&common::reply_bytes(3, Err((13, "an older copy")))).await.unwrap();
        }
    });
    until(|| one.net.stats()[0].control.dials >= 2 && one.net.stats()[0].data.dials >= 2).await;
    let refused = one.net.stats()[0].control.last_error.clone().unwrap();
    assert!(refused.contains("the other end refuses this node: an older copy"), "{refused}");
    assert!(!one.told().iter().any(|event| matches!(event, common::Event::OlderCopy(..))));
    answering.abort();
}

#[tokio::test]
async fn the_tokens_of_a_disk_arrive_in_both_directions() {
    let starts = |node| (1..=70).fold(Starts::default(), |starts, token: u64| starts.next(token << 8 | node));
    let started = |node| LocalIdentity { starts: starts(node), ..identity(node) };
    let mut one = Node::start(options(started(1))).await;
    let mut two = Node::start(options(started(2))).await;
    one.knows(&two, 2);
    for (node, peer) in [(&mut one, 2), (&mut two, 1)] {
        let hello = node.next(|event| match event {
            common::Event::Hello(hello) => Some(hello),
            _ => None,
        });
        assert_eq!(hello.await.starts, starts(peer));
    }
}

/// Shakes hands by hand, and gives code and text of the refusal.
async fn refusal_of(hello: Hello) -> (u16, String) {
    let node = Node::start(options(identity(2))).await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let refusal = common::code_and_text(&common::read_hello(&mut stream).await);
    assert_eq!(common::read_to_close(&mut stream).await, [], "closed after the refusal");
    refusal
}

#[tokio::test]
async fn what_only_another_version_would_say_is_refused_in_words() {
    let hello = Hello::new(1, 2, 1);
    let (code, text) = refusal_of(Hello { versions: (2, 5), ..hello }).await;
    assert_eq!(code, 1);
    assert!(text.contains("protocol versions 2 to 5 there, 1 to 1 here"), "{text}");
    let (code, text) = refusal_of(Hello { lane: 9, ..hello }).await;
    assert_eq!((code, text.as_str()), (7, "lane 9 is not known to this node's version"));
    let (code, text) = refusal_of(Hello { mode: 7, ..hello }).await;
    assert_eq!((code, text.as_str()), (6, "leader id mode 7 is not known to this node's version"));
}

#[tokio::test]
async fn a_later_version_that_speaks_ours_too_is_welcome() {
    let node = Node::start(options(identity(2))).await;
    common::raw_peer(&node, Hello { versions: (1, 9), ..Hello::new(1, 2, 1) }).await;
}

/// A listener that answers every hello with these bytes.
async fn answers(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            common::read_hello(&mut stream).await;
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn answers_that_the_dialing_node_refuses() {
    let mut log = Log::capture();
    let one = Node::start(options(identity(1))).await;
    let mut flipped = common::reply_bytes(2, Ok(1));
    flipped[20] ^= 1;
    let cases = [
        (common::reply_bytes(3, Ok(1)), "node 3 answers where node 2 was expected"),
        (common::reply_bytes(2, Ok(2)), "protocol versions 2 to 2 there, 1 to 1 here"),
        (common::reply_bytes(2, Err((99, "a later version's reason"))), "a later version's reason (code 99)"),
        (flipped, "handshake checksum"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "does not speak this protocol (it starts with \"HTTP/1.1\")"),
        (b"\x15\x03\x03\0\x02\x02\x46 and so on".to_vec(), "the other end speaks tls and this node does not"),
        (b"quorate\n\xff\xff".to_vec(), "handshake length 65535 out of range"),
        (b"quora".to_vec(), "closed in the middle of a frame: 5 of 10 bytes arrived"),
    ];
    for (answer, why) in cases {
        one.net.set_address(NodeId(2), &answers(answer).await);
        log.line(&["WARN", "peer=2", "not connected", why]).await;
    }
}

#[tokio::test]
async fn two_nodes_of_one_id_are_told_apart_by_their_disks() {
    let node = Node::start(options(LocalIdentity { incarnation: Incarnation(1), ..identity(2) })).await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&Hello::new(2, 2, 1).bytes()).await.unwrap();
    let (code, text) = common::code_and_text(&common::read_hello(&mut stream).await);
    assert_eq!(code, 5);
    assert!(text.contains("this is node 2 as well, on another disk"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_bound_is_said_clearly() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bad = options(identity(1));
    bad.listen = taken.local_addr().unwrap().to_string();
    let error = Transport::bind(bad.clone()).await.unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }));
    assert!(error.to_string().contains("the port is in use by another process"), "{error}");

    bad.listen = "127.0.0.1:0".into();
    bad.identity.node = NodeId(0);
    let error = Transport::bind(bad.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "transport option: the node id must not be 0");

    bad.identity.node = NodeId(1);
    bad.incoming_dir = Some("/dev/null/nowhere".into());
    assert!(matches!(Transport::bind(bad).await.unwrap_err(), NetError::IncomingDir { .. }));
}

#[tokio::test]
async fn a_node_of_before_a_recovery() {
    let recovered = LocalIdentity { cluster: common::CLUSTER.recovered().unwrap(), ..identity(2) };
    refused(identity(1), recovered, "node 1 is of recovery 0 of the cluster, node 2 of recovery 1").await;
    let recovered = LocalIdentity { cluster: common::CLUSTER.recovered().unwrap(), ..identity(1) };
    refused(recovered, identity(2), "stop it, empty its data directory and add it as a new node").await;
}

#[tokio::test]
async fn an_older_copy_that_was_let_in_before_the_newer_one_came() {
    let mut log = Log::capture();
    let node = Node::start(options(identity(2))).await;
    let mut older = common::raw_peer(&node, Hello { boot: 4, ..Hello::new(1, 2, 1) }).await;
    let mut other_disk = common::raw_peer(&node, Hello::new(3, 2, 1)).await;
    let _newer = common::raw_peer(&node, Hello { boot: 5, ..Hello::new(1, 2, 1) }).await;
    assert_eq!(common::read_to_close(&mut older).await, [], "closed once the newer one is known");
    log.line(&["DEBUG", "peer=1", "closed a connection of an earlier one", "older=4", "newer=5"]).await;
    // And the other way round, as when both shook hands at once.
    let mut late = common::raw_peer(&node, Hello { boot: 4, ..Hello::new(1, 2, 2) }).await;
    assert_eq!(common::read_to_close(&mut late).await, []);
    let again = common::raw_peer(&node, Hello { boot: 5, ..Hello::new(1, 2, 2) }).await;
    log.line(&["ERROR", "peer=1", "from an older copy of the node's disk", "older=4", "newer=5"]).await;
    // A connection that has nothing to do with it stands: it takes a frame and is closed only by its own goodbye.
    other_disk.write_all(&common::frame_bytes(7, &[1, 0], &[])).await.unwrap();
    log.line(&["peer=3", "the other end refuses this node"]).await;
    drop(again);
}

#[tokio::test]
async fn a_probe_tells_nobody_a_node_and_something_else_apart() {
    let limit = std::time::Duration::from_secs(20);
    let node = Node::start(options(identity(2))).await;
    let asked = quorate_net::probe(&identity(1), NodeId(2), &node.address(), limit).await;
    assert_eq!(asked, ProbeAnswer::Node(Box::new(identity(2))));
    // Also if it would refuse the asker.
    let stranger = LocalIdentity { cluster: ClusterId(0xbad), ..identity(1) };
    assert_eq!(
        quorate_net::probe(&stranger, NodeId(2), &node.address(), limit).await,
        ProbeAnswer::Node(Box::new(identity(2)))
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        common::read_to_close(&mut stream).await;
    });
    let asked = quorate_net::probe(&identity(1), NodeId(2), &address, limit).await;
    assert!(matches!(&asked, ProbeAnswer::Unclear(text) if text.contains("does not speak this protocol")), "{asked:?}");
    other.await.unwrap();
    let asked = quorate_net::probe(&identity(1), NodeId(2), &address, limit).await;
    assert!(matches!(&asked, ProbeAnswer::Nobody(text) if text.contains("no process listens there")), "{asked:?}");
}
