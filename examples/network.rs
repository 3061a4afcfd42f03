//! A network of one's own: packets as bytes, over channels of this process. `cargo run --release --example network`
//!
//! What is here of channels would be of sockets, gRPC or a message bus elsewhere: who says hello, what becomes bytes, and
//! when a packet is given back. Nothing here decides anything about Raft; what is lost, late or repeated is repaired above.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Result as IoResult, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate::{
    CatchUp, ClusterId, Config, Identity, IdentityStore, Inbound, Node, NodeId, OutgoingSnapshot, Packet, Payload,
    Raft, RaftNetwork, RaftStateMachine, ReadPolicy, ReceivedSnapshot, SendOutcome, SnapshotData, Storage,
};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Frames that may wait for one node. A full queue gives packets back: the library sends them again when it is time.
const QUEUE: usize = 256;

/// What travels: who sends it, and what.
struct Frame {
    from: Identity,
    /// The sender's address: a blank node that a cluster takes in was told no other.
    reply_to: String,
    body: Body,
}

enum Body {
    Packet(Bytes),
    Call(Bytes),
    Snapshot(Box<ReceivedSnapshot>),
}

/// The cable: who listens at which address.
#[derive(Clone, Default)]
struct Cable(Arc<Mutex<BTreeMap<String, Sender<Frame>>>>);

type Addresses = Arc<Mutex<BTreeMap<NodeId, String>>>;

/// One node's end of the cable.
struct Port {
    cable: Cable,
    address: String,
    arriving: Mutex<Option<Receiver<Frame>>>,
    addresses: Addresses,
    /// What this node says of itself in each frame, and where it notes what peers say.
    identity: Arc<dyn IdentityStore>,
}

impl Port {
    fn plug_in(cable: &Cable, address: &str, identity: Arc<dyn IdentityStore>) -> Arc<Self> {
        let (sender, arriving) = mpsc::channel(QUEUE);
        lock(&cable.0).insert(address.to_owned(), sender);
        Arc::new(Self {
            cable: cable.clone(),
            address: address.to_owned(),
            arriving: Mutex::new(Some(arriving)),
            addresses: Addresses::default(),
            identity,
        })
    }

    /// Whether the frame is on its way.
    fn put(&self, to: NodeId, body: Body) -> bool {
        let Some(address) = lock(&self.addresses).get(&to).cloned() else { return false };
        let peer = lock(&self.cable.0).get(&address).cloned();
        let frame = Frame { from: self.identity.identity(), reply_to: self.address.clone(), body };
        peer.is_some_and(|peer| peer.try_send(frame).is_ok())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes frames in, from peers of this cluster whose disks are the ones they were.
async fn deliver(
    mut arriving: Receiver<Frame>,
    identity: Arc<dyn IdentityStore>,
    addresses: Addresses,
    inbound: Arc<dyn Inbound>,
) {
    while let Some(Frame { from, reply_to, body }) = arriving.recv().await {
        let ours = identity.identity().cluster;
        let blank = ClusterId(0);
        // A blank node has no cluster yet: it is told by those who have.
        let strangers = from.cluster != ours && from.cluster != blank && ours != blank;
        if strangers || identity.record_peer(from.node, from.incarnation, &from.starts).is_err() {
            continue;
        }
        lock(&addresses).entry(from.node).or_insert(reply_to);
        match body {
            // Every entry's checksum is verified here. What else is in a packet would need one too, if bytes could be damaged.
            Body::Packet(bytes) => match Packet::decode(from.cluster, bytes) {
                Ok(packet) => inbound.on_packet(from.node, from.incarnation, packet),
                Err(error) => eprintln!("a packet of node {} is thrown away: {error}", from.node),
            },
            Body::Call(bytes) => inbound.on_call(from.node, bytes),
            Body::Snapshot(snapshot) => inbound.on_snapshot(from.node, from.incarnation, *snapshot),
        }
    }
}

impl RaftNetwork for Port {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        if let Some(arriving) = lock(&self.arriving).take() {
            tokio::spawn(deliver(arriving, Arc::clone(&self.identity), Arc::clone(&self.addresses), inbound));
        }
    }

    fn set_address(&self, node: NodeId, address: &str) {
        lock(&self.addresses).insert(node, address.to_owned());
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let mut bytes = Vec::new();
        packet.encode_head(&mut bytes);
        packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
        if self.put(to, Body::Packet(bytes.into())) { Ok(()) } else { Err(packet) }
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        self.put(to, Body::Call(body))
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let OutgoingSnapshot { group, header, meta, source, .. } = snapshot;
        let Ok(content) = source.read_all() else { return done(SendOutcome::Failed) };
        let data = SnapshotData::Memory(content);
        let sent = self.put(to, Body::Snapshot(Box::new(ReceivedSnapshot { group, header, meta, data })));
        done(if sent { SendOutcome::Delivered } else { SendOutcome::Failed });
    }

    fn shutdown(&self) {
        lock(&self.cable.0).remove(&self.address);
    }
}

struct Counter(u64);

impl RaftStateMachine for Counter {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> IoResult<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> IoResult<Self> {
        u64::read_from(input).map(Counter)
    }
}

async fn start(id: u64, voters: u64, cable: &Cable, directory: &Path) -> Result<Raft<Counter>, Box<dyn Error>> {
    let address = |id: u64| format!("socket {id}");
    let storage = Storage::open(directory.join(id.to_string()), id)?;
    let builder = Raft::builder(id)
        .peers((1..=voters).map(|id| (id, address(id))))
        .listen(address(id))
        .network(Port::plug_in(cable, &address(id), Arc::clone(&storage.identity)))
        .storage(storage)
        .config(Config { snapshot_entries: 50, keep_entries: 10, ..Config::default() });
    Ok(builder.start(Counter(0)).await?)
}

/// Three nodes count to 100; a fourth, which comes late, gets a snapshot. Returns what it reads.
async fn run(directory: &Path) -> Result<u64, Box<dyn Error>> {
    let cable = Cable::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(id, 3, &cable, directory).await?);
    }
    for _ in 0..100 {
        nodes[0].client_write(1).await?;
    }
    let late = start(4, 0, &cable, directory).await?;
    let leading = nodes.iter().find(|node| node.is_leader()).unwrap_or(&nodes[0]);
    leading.add_learner(4, Node::at("socket 4"), CatchUp::Wait).await?;
    let seen = late.read(ReadPolicy::ReadIndex, |counter| counter.0).await?;
    nodes.push(late);
    for node in nodes {
        node.shutdown().await;
    }
    Ok(seen)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("node 4 came late and reads {}", run(Path::new("data/network")).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_nodes_and_a_late_one_agree_over_it() -> Result<(), Box<dyn Error>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../target/tmp/example-network-{}", std::process::id()));
        assert_eq!(run(&directory).await?, 100);
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }
}
