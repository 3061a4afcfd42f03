//! What those who watch a node ask over plain HTTP: on the client port, and on one of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Cluster, DEADLINE, free_ports, put, stop_all};
use quorate_server::topology::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Page {
    status: u16,
    head: String,
    body: String,
}

async fn get(address: &Address, path: &str) -> Page {
    let ask = async {
        let mut stream = TcpStream::connect(address.to_string()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, ask).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_health_are_served_beside_the_clients_and_apart() {
    let mut cluster = Cluster::new("pages", 3);
    let apart = Address { host: "127.0.0.1".to_owned(), port: free_ports(1) };
    cluster.options[0].listen_metrics = vec![apart.clone()];
    let clients = cluster.options[0].listen_clients[0].clone();
    let mut nodes = cluster.start_all().await;
    cluster.kv(0).put(put("a", "1")).await.expect("gRPC is served on the same port");

    for address in [&clients, &apart] {
        let page = get(address, "/metrics").await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert!(page.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", page.head);
        assert!(page.body.contains("# EOF"), "the whole of it");
        let node = cluster.options[0].id;
        let sample = format!("quorate_applied_entries_total{{node=\"{node}\",group=\"1\"}}");
        let line = page.body.lines().find(|line| line.starts_with(&sample)).expect("it is there");
        assert!(line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() > 3, "{line}");
        assert!(page.body.contains("quorate_fsync_seconds_bucket"), "disks are timed");
        for path in ["/livez", "/readyz"] {
            let page = get(address, path).await;
            assert_eq!((page.status, page.body.contains("ok")), (200, true), "{path}: {}", page.body);
        }
        let page = get(address, "/health").await;
        assert!(page.status == 200 && page.body.contains(r#"{"health":"true","reason":""}"#), "{}", page.body);
    }

    // Without a quorum it lives, and is not ready.
    for node in nodes.drain(1..) {
        node.shutdown().await;
    }
    let page = get(&apart, "/readyz").await;
    assert_eq!(page.status, 503);
    assert!(page.body.contains("not ready: "), "{}", page.body);
    let page = get(&clients, "/health").await;
    assert!(page.status == 503 && page.body.contains(r#"{"health":"false","reason":"#), "{}", page.body);
    assert_eq!(get(&clients, "/livez").await.status, 200);
    stop_all(nodes).await;
}
