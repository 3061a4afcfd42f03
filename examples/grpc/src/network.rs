//! [`GrpcNetwork`]: the library's messages as unary calls, one after the other to each peer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;
use quorate::advanced::wire::{decode_append_header, decode_snapshot_meta, encode_append_header, encode_snapshot_meta};
use quorate::{
    ClusterId, GroupId, IdentityStore, Inbound, Incarnation, NodeId, OutgoingSnapshot, Packet, RaftNetwork,
    ReceivedSnapshot, SendOutcome, SnapshotData, SnapshotSource, Starts,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};

use crate::service::{self, Body, Frame, PeersServer, SnapshotPart};

/// Frames that may wait for one peer; with appends of 1 MiB at most (`Config::max_append_bytes`), at most so many MiB.
const QUEUE: usize = 64;
/// Bytes of a snapshot in one call.
const PART: usize = 1 << 20;

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// One node's end.
pub(crate) struct GrpcNetwork {
    shared: Arc<Shared>,
    listener: Mutex<Option<TcpListener>>,
    /// True when the server is to end.
    stop: watch::Sender<bool>,
}

/// What the network's tasks share.
struct Shared {
    /// Where other nodes reach this one.
    address: String,
    identity: Arc<dyn IdentityStore>,
    runtime: Handle,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Set when the node starts.
    inbound: Mutex<Option<Arc<dyn Inbound>>>,
    /// Snapshots that have begun to arrive, by sender and group.
    arriving: Mutex<BTreeMap<(NodeId, GroupId), Vec<u8>>>,
}

/// Where a node is reached, and what waits to be sent there.
#[derive(Clone)]
struct Peer {
    address: String,
    channel: Channel,
    queue: Sender<(Body, Loss)>,
}

/// What it means if a frame does not arrive.
#[derive(Clone, Copy, PartialEq)]
enum Loss {
    /// Entries must be sent again: the library is told.
    Told,
    /// Whoever waits for an answer asks again.
    Silent,
}

impl GrpcNetwork {
    /// Listens on `address`; a port of 0 is one that the system chooses.
    pub(crate) async fn bind(address: &str, identity: Arc<dyn IdentityStore>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?.to_string(),
            identity,
            runtime: Handle::current(),
            peers: Mutex::default(),
            inbound: Mutex::default(),
            arriving: Mutex::default(),
        });
        Ok(Self { shared, listener: Mutex::new(Some(listener)), stop: watch::Sender::new(false) })
    }

    pub(crate) fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether the frame waits for its turn now.
    fn put(&self, to: NodeId, loss: Loss, body: impl FnOnce() -> Body) -> bool {
        let Some(peer) = lock(&self.shared.peers).get(&to).cloned() else { return false };
        let Ok(place) = peer.queue.try_reserve() else { return false };
        place.send((body(), loss));
        true
    }
}

impl Shared {
    fn frame(&self, body: Body) -> Frame {
        let me = self.identity.identity();
        Frame {
            node: me.node.0,
            incarnation: me.incarnation.0.to_le_bytes().to_vec(),
            boot: me.starts.boot(),
            cluster: me.cluster.0.to_le_bytes().to_vec(),
            address: self.address.clone(),
            body: Some(body),
            tokens: me.starts.tokens().to_vec(),
        }
    }

    fn set_address(self: &Arc<Self>, node: NodeId, address: &str) {
        let mut peers = lock(&self.peers);
        if peers.get(&node).is_some_and(|peer| peer.address == address) {
            return;
        }
        let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { return };
        let _runtime = self.runtime.enter();
        // Connects when it is first used, and again whenever that is needed. A call that hangs holds up those behind it.
        let channel = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect_lazy();
        let (queue, waiting) = mpsc::channel(QUEUE);
        self.runtime.spawn(send_all(Arc::clone(self), node, channel.clone(), waiting));
        // The queue of another address ends with its last sender.
        peers.insert(node, Peer { address: address.to_owned(), channel, queue });
    }

    /// Takes a frame in, from peers of this cluster whose disks are the ones they were.
    fn on_frame(self: &Arc<Self>, frame: Frame) -> Result<(), Status> {
        let inbound = lock(&self.inbound).clone().ok_or(Status::unavailable("not started yet"))?;
        let malformed = || Status::invalid_argument("malformed frame");
        let number = |bytes: &[u8]| bytes.try_into().map(u128::from_le_bytes).map_err(|_| malformed());
        let (from, theirs) = (NodeId(frame.node), ClusterId(number(&frame.cluster)?));
        let (incarnation, ours) = (Incarnation(number(&frame.incarnation)?), self.identity.identity().cluster);
        let blank = ClusterId(0);
        // A blank node has no cluster yet: it is told by those who have.
        if theirs != ours && theirs != blank && ours != blank {
            return Err(Status::permission_denied(format!("node {from} is of another cluster, {theirs}")));
        }
        let starts = Starts::new(frame.boot, frame.tokens.as_slice().try_into().map_err(|_| malformed())?);
        self.identity.record_peer(from, incarnation, &starts).map_err(|refused| match refused.older_copy {
            true => Status::failed_precondition(refused.text),
            false => Status::permission_denied(refused.text),
        })?;
        if !lock(&self.peers).contains_key(&from) {
            // A blank node that a cluster takes in was told no addresses.
            self.set_address(from, &frame.address);
        }
        match frame.body.ok_or_else(malformed)? {
            Body::Packet(bytes) => {
                let packet = Packet::decode(theirs, bytes.into()).map_err(|_| malformed())?;
                inbound.on_packet(from, incarnation, packet);
            }
            Body::Call(bytes) => inbound.on_call(from, bytes.into()),
            Body::Snapshot(part) => {
                let (group, total) = (GroupId(part.group), part.total);
                let header = decode_append_header(&part.header).map_err(|_| malformed())?;
                let meta = decode_snapshot_meta(&part.meta).map_err(|_| malformed())?;
                let whole = self.on_part((from, group), part)?;
                if let Some(content) = whole {
                    let data = SnapshotData::Memory(content);
                    inbound.on_snapshot(from, incarnation, ReceivedSnapshot { group, header, meta, data });
                } else {
                    let arrived = lock(&self.arriving).get(&(from, group)).map_or(0, Vec::len) as u64;
                    inbound.on_snapshot_progress(from, group, arrived, total);
                }
            }
        }
        Ok(())
    }

    /// Adds a part of a snapshot; gives all of it with its last.
    fn on_part(&self, place: (NodeId, GroupId), part: SnapshotPart) -> Result<Option<Bytes>, Status> {
        let mut arriving = lock(&self.arriving);
        if part.offset == 0 {
            arriving.insert(place, Vec::new());
        }
        let content = arriving.get_mut(&place).filter(|content| content.len() as u64 == part.offset);
        let content = content.ok_or(Status::aborted("another part is expected"))?;
        content.extend_from_slice(&part.content);
        let whole = content.len() as u64 >= part.total;
        Ok(if whole { arriving.remove(&place).map(Bytes::from) } else { None })
    }
}

/// Sends what waits for a peer, one call after the other.
async fn send_all(shared: Arc<Shared>, to: NodeId, channel: Channel, mut waiting: Receiver<(Body, Loss)>) {
    while let Some((body, loss)) = waiting.recv().await {
        let delivered = service::deliver(&channel, shared.frame(body)).await;
        if let Err(refused) = &delivered
            && refused.code() == Code::FailedPrecondition
        {
            // This node runs on an older copy of its disk: it stops, and does not come back (law 15).
            let _ = shared.identity.note_older_copy(to, refused.message());
        }
        let inbound = lock(&shared.inbound).clone();
        if let (Err(_), Loss::Told, Some(inbound)) = (delivered, loss, inbound) {
            inbound.on_lost(to);
        }
    }
}

async fn send_parts(
    shared: &Shared,
    channel: &Channel,
    snapshot: &OutgoingSnapshot,
    content: &[u8],
) -> Result<(), Status> {
    let (mut header, mut meta) = (Vec::new(), Vec::new());
    encode_append_header(&snapshot.header, &mut header);
    encode_snapshot_meta(&snapshot.meta, &mut meta);
    let total = content.len() as u64;
    for (offset, part) in content.chunks(PART).enumerate().map(|(at, part)| ((at * PART) as u64, part)) {
        let (header, meta, content, sent) = (header.clone(), meta.clone(), part.to_vec(), offset + part.len() as u64);
        let part = SnapshotPart { group: snapshot.group.0, header, meta, offset, total, content };
        service::deliver(channel, shared.frame(Body::Snapshot(part))).await?;
        snapshot.progress.tell(sent, total);
    }
    Ok(())
}

impl RaftNetwork for GrpcNetwork {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        *lock(&self.shared.inbound) = Some(inbound);
        let Some(listener) = lock(&self.listener).take() else { return };
        let shared = Arc::clone(&self.shared);
        let peers = PeersServer::new(move |frame| shared.on_frame(frame));
        let mut stopped = self.stop.subscribe();
        self.shared.runtime.spawn(async move {
            let until = async move { drop(stopped.wait_for(|stop| *stop).await) };
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = Server::builder().add_service(peers).serve_with_incoming_shutdown(incoming, until).await;
            if let Err(error) = served {
                eprintln!("peers are not served any more: {error}");
            }
        });
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.shared.set_address(node, address);
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let loss = if packet.batches.is_empty() { Loss::Silent } else { Loss::Told };
        let encode = || {
            let mut bytes = Vec::new();
            packet.encode_head(&mut bytes);
            packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
            Body::Packet(bytes)
        };
        if self.put(to, loss, encode) { Ok(()) } else { Err(packet) }
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        self.put(to, Loss::Silent, || Body::Call(body.to_vec()))
    }

    fn send_snapshot(&self, to: NodeId, mut snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let Some(peer) = lock(&self.shared.peers).get(&to).cloned() else { return done(SendOutcome::Failed) };
        let shared = Arc::clone(&self.shared);
        // Beside the queue: a large snapshot holds up no heartbeat.
        self.shared.runtime.spawn(async move {
            let source = std::mem::replace(&mut snapshot.source, SnapshotSource::Memory(Bytes::new()));
            let Ok(content) = source.read_all() else { return done(SendOutcome::Failed) };
            let sent = send_parts(&shared, &peer.channel, &snapshot, &content).await;
            done(if sent.is_ok() { SendOutcome::Delivered } else { SendOutcome::Failed });
        });
    }

    fn shutdown(&self) {
        self.stop.send_replace(true);
        lock(&self.shared.peers).clear();
        *lock(&self.shared.inbound) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
