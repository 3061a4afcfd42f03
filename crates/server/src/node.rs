//! One node: the library's Raft on a data directory, with the etcd face in front of it.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use quorate::{ClientWriteError, ClosedReason, Config, OnLostLog, Raft, StartError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::codegen::tokio_stream::StreamExt;
use tonic::codegen::{Service, http};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::face::{Face, pages};
use crate::gather::Gathered;
use crate::mvcc::{Command, MemberAttributes, Store};
use crate::topology::Address;

/// How long open requests may take to finish when a node stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two attempts to tell the cluster this member's name.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2 windows: what a client may send before the server has read it, of one request and of one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where it listens for clients.
    pub listen_clients: Vec<Address>,
    /// Where it listens for those who watch it, besides: pages only.
    pub listen_metrics: Vec<Address>,
    /// Where clients are told to reach it.
    pub client_urls: Vec<String>,
    /// Where it listens for peers.
    pub listen_peers: Address,
    /// The first members: node ids and peer addresses, this node among them.
    pub peers: Vec<(u64, String)>,
    /// What it does if its log is lost.
    pub on_lost_log: OnLostLog,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum NodeError {
    /// A client address, or one for metrics, cannot be listened on.
    ListenClients {
        /// The address.
        address: Address,
        /// What the system says.
        error: io::Error,
    },
    /// The library refused.
    Start(StartError),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeError::ListenClients { address, error } => {
                write!(f, "cannot start: cannot listen for clients on {address}: {error}")
            }
            NodeError::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NodeError {}

/// A running node.
#[derive(Debug)]
pub struct Node {
    name: String,
    raft: Raft<Store>,
    /// Told true when the node is to stop.
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    publisher: JoinHandle<()>,
    published: watch::Receiver<bool>,
}

impl Node {
    /// Starts a node. Returns once it listens; it may have no leader yet.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(options: NodeOptions) -> Result<Node, NodeError> {
        // The ports first: whoever started the same node twice learns it before anything is written.
        let (clients, watchers) = (listen(&options.listen_clients).await?, listen(&options.listen_metrics).await?);
        let builder = Raft::builder(options.id)
            .peers(options.peers)
            .data_dir(&options.data_dir)
            .listen(options.listen_peers.to_string())
            .config(Config { on_lost_log: options.on_lost_log, ..Config::default() });
        let raft = crate::test_build::with_disk(builder).start(Store::new()).await.map_err(NodeError::Start)?;

        let (stop, stopped) = watch::channel(false);
        let face = Face::new(raft.clone());
        let mut servers = JoinSet::new();
        for listener in clients {
            servers.spawn(serve(listener, face.clone().front(), stopped.clone()));
        }
        for listener in watchers {
            servers.spawn(serve(listener, Routes::from(pages(raft.clone())), stopped.clone()));
        }
        let attributes =
            MemberAttributes { id: options.id, name: options.name.clone(), client_urls: options.client_urls };
        let (tell, published) = watch::channel(false);
        let publisher = tokio::spawn(publish(raft.clone(), attributes, tell));
        Ok(Node { name: options.name, raft, stop, servers, publisher, published })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The library's handle.
    pub fn raft(&self) -> &Raft<Store> {
        &self.raft
    }

    /// Waits until the cluster has committed a write of this node; false if the node closed before.
    pub fn ready(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut published = self.published.clone();
        async move { published.wait_for(|published| *published).await.is_ok() }
    }

    /// Waits until the node is closed, for whatever reason, and says why.
    pub async fn closed(&self) -> ClosedReason {
        self.raft.closed().await
    }

    /// Stops: refuses new requests, lets open ones finish for a moment, then closes the log.
    pub async fn shutdown(mut self) {
        self.publisher.abort();
        let _ = self.stop.send(true); // nobody listens if all servers have ended
        let drained = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            self.servers.shutdown().await;
        }
        self.raft.shutdown().await;
    }
}

async fn listen(addresses: &[Address]) -> Result<Vec<TcpListener>, NodeError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = TcpListener::bind(address.to_string()).await;
        listeners.push(bound.map_err(|error| NodeError::ListenClients { address: address.clone(), error })?);
    }
    Ok(listeners)
}

async fn serve<S>(listener: TcpListener, service: S, mut stopped: watch::Receiver<bool>)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let until = async move {
        let _ = stopped.wait_for(|stop| *stop).await; // an error: the node is gone, which is a stop too
    };
    let connections = TcpIncoming::from(listener).with_nodelay(Some(true)).map(|tcp| tcp.map(Gathered::new));
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // Pages are asked for by HTTP/1.1.
        .accept_http1(true)
        .serve_with_incoming_shutdown(service, connections, until)
        .await;
    if let Err(error) = served {
        tracing::error!("clients are not served any more: {error}");
    }
}

/// Tells the cluster this member's name and where clients reach it. To say it twice is harmless, so it is tried
/// until it is certain.
async fn publish(raft: Raft<Store>, attributes: MemberAttributes, published: watch::Sender<bool>) {
    loop {
        match raft.client_write(Command::Member(attributes.clone()).encode()).await {
            Ok(_) => {
                let _ = published.send(true); // nobody waits if the node was dropped
                return;
            }
            Err(ClientWriteError::Closed(_)) => return,
            Err(error) => tracing::debug!("name not told yet: {error}"),
        }
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}
