//! Free ports, directories that go away, and clusters inside the test's process.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test file uses another part of it")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::OnLostLog;
use quorate_server::node::{Node, NodeError, NodeOptions};
use quorate_server::proto::{ClusterClient, DeleteRangeRequest, KvClient, MaintenanceClient, PutRequest, RangeRequest};
use quorate_server::topology::{Address, node_id};
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint};

/// Everything must be done by then; a test that waits longer hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A directory below cargo's own, removed unless the test fails.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Ports in a row that nobody listens on, below those that the system gives to outgoing connections.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let skip = NEXT.fetch_add(u32::from(count) + 1, Ordering::Relaxed);
        let first = 12_000 + ((std::process::id() * 37 + skip) % 19_000) as u16;
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// Whether nobody listens there. It is asked without listening: a process that another test is starting holds copies of
/// this one's sockets until it runs its program, and a copy that listens would keep the port for so long.
fn is_free(port: u16) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

/// Waits until copies of a socket that listened there, as [`is_free`] tells of them, are gone too.
pub fn until_free(port: u16) {
    let begun = Instant::now();
    while !is_free(port) {
        assert!(begun.elapsed() < DEADLINE, "somebody listens on port {port}");
        std::thread::yield_now();
    }
}

/// How to start every node of a cluster, again and again.
pub struct Cluster {
    pub directory: Directory,
    pub options: Vec<NodeOptions>,
}

impl Cluster {
    pub fn new(name: &str, nodes: u16) -> Self {
        let directory = Directory::new(name);
        let first = free_ports(2 * nodes);
        let address = |port: u16| Address { host: "127.0.0.1".to_owned(), port };
        let names: Vec<String> = (1..=nodes).map(|at| format!("n{at}")).collect();
        let peers: Vec<(u64, String)> = (0..nodes)
            .map(|at| (node_id(name, &names[usize::from(at)]), address(first + 2 * at + 1).to_string()))
            .collect();
        let options = (0..nodes).map(|at| {
            let client = address(first + 2 * at);
            let own = names[usize::from(at)].clone();
            NodeOptions {
                id: node_id(name, &own),
                data_dir: directory.path().join(&own),
                name: own,
                client_urls: vec![client.url()],
                listen_clients: vec![client],
                listen_metrics: Vec::new(),
                listen_peers: address(first + 2 * at + 1),
                peers: peers.clone(),
                on_lost_log: OnLostLog::Halt,
            }
        });
        Cluster { options: options.collect(), directory }
    }

    pub async fn start(&self, at: usize) -> Node {
        let options = &self.options[at];
        options.listen_clients.iter().chain([&options.listen_peers]).for_each(|address| until_free(address.port));
        match Node::start(self.options[at].clone()).await {
            Ok(node) => node,
            Err(error) => panic!("node {at} does not start: {error}"),
        }
    }

    pub async fn try_start(&self, at: usize) -> Result<Node, NodeError> {
        Node::start(self.options[at].clone()).await
    }

    /// Starts all nodes and waits until each has had a write committed.
    pub async fn start_all(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for at in 0..self.options.len() {
            nodes.push(self.start(at).await);
        }
        for node in &nodes {
            let ready = tokio::time::timeout(DEADLINE, node.ready()).await;
            assert_eq!(ready, Ok(true), "node {} is not ready", node.name());
        }
        nodes
    }

    pub fn channel(&self, at: usize) -> Channel {
        let url = self.options[at].client_urls[0].clone();
        Endpoint::from_shared(url).unwrap().timeout(DEADLINE).connect_lazy()
    }

    pub fn kv(&self, at: usize) -> KvClient {
        KvClient::new(self.channel(at))
    }

    pub fn members(&self, at: usize) -> ClusterClient {
        ClusterClient::new(self.channel(at))
    }

    pub fn maintenance(&self, at: usize) -> MaintenanceClient {
        MaintenanceClient::new(self.channel(at))
    }
}

pub async fn stop_all(nodes: Vec<Node>) {
    for node in nodes {
        node.shutdown().await;
    }
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

pub fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
