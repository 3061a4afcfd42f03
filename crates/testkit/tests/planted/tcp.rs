//! A network over TCP, as simple as a correct one can be: a connection and a queue a peer. With a flaw, if wanted.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use bytes::Bytes;
use quorate::advanced::core::{Message, ReadConfirmation, RequestId};
use quorate::advanced::wire::{decode_append_header, decode_snapshot_meta, encode_append_header, encode_snapshot_meta};
use quorate::{
    Batches, GroupId, Identity, Inbound, Incarnation, NodeId, OutgoingSnapshot, Packet, RaftNetwork, ReceivedSnapshot,
    SendOutcome, SnapshotData,
};

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Nobody hears of what was lost.
    LossUntold,
    /// A loss is told with the next one.
    EverySecondLossTold,
    /// A full queue is emptied.
    FullQueueEmptied,
    /// Only the entries' own checksums are looked at.
    FramesUnchecked,
    /// A queue has no end.
    EndlessQueue,
    /// Waits for a place in the queue.
    WaitsForPlace,
    /// What was written to a connection that broke is sent once more.
    SendsAgain,
    /// A connection that is made once more begins with a message that nobody sent.
    GreetsAgain,
    /// A connection that broke is not made again.
    ConnectsOnce,
    /// A transfer has been delivered once its bytes were written, or could not be.
    DeliveredUnseen,
}

/// Bytes that may wait for a peer.
const QUEUE_BYTES: usize = 4 << 20;
/// No frame is larger.
const FRAME_BYTES: usize = 64 << 20;

const HELLO: u8 = 0;
const PACKET: u8 = 1;
const CALL: u8 = 2;
const SNAPSHOT: u8 = 3;

type Ear = Arc<Mutex<Option<Arc<dyn Inbound>>>>;

/// One node's end.
pub(crate) struct Tcp {
    me: Identity,
    flaw: Flaw,
    address: String,
    inbound: Ear,
    peers: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    arrivals: Arc<Arrivals>,
}

/// What arrives at a node.
#[derive(Default)]
struct Arrivals {
    over: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
    /// By sender, the newest of its connections for messages, of all that ever were.
    newest: Mutex<BTreeMap<NodeId, u64>>,
}

/// The way to a peer at one address.
struct Link {
    to: NodeId,
    address: String,
    flaw: Flaw,
    inbound: Ear,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u8, Vec<u8>)>,
    bytes: usize,
    /// What was written to this connection, if it is to be sent once more.
    written: VecDeque<(u8, Vec<u8>)>,
    /// The connection, and a number that changes with it.
    stream: Option<TcpStream>,
    connections: u64,
    /// A packet with entries was taken that may not have arrived.
    owes: bool,
    tellings: u64,
    over: bool,
}

/// Length, kind, a checksum of both, a checksum of the body; the body.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn read_frame(stream: &mut TcpStream, flaw: Flaw) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 13];
    stream.read_exact(&mut head)?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    let length = number(0) as usize;
    if crc32c::crc32c(&head[..5]) != number(5) || length > FRAME_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if crc32c::crc32c(&body) != number(9) && flaw != Flaw::FramesUnchecked {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((head[4], body))
}

fn connect(address: &str, me: Identity) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let hello = [&me.node.0.to_le_bytes()[..], &me.incarnation.0.to_le_bytes()].concat();
    stream.write_all(&frame(HELLO, &hello))?;
    Ok(stream)
}

/// A message that nobody sent.
fn greeting() -> Packet {
    let message = Message::ReadRequest { request: RequestId(0), by: ReadConfirmation::Lease };
    Packet { group: GroupId(5), message, batches: Batches::new() }
}

impl Tcp {
    pub(crate) fn bind(me: Identity, flaw: Flaw) -> io::Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let (inbound, arrivals) = (Ear::default(), Arc::new(Arrivals::default()));
        let (ear, arriving) = (Arc::clone(&inbound), Arc::clone(&arrivals));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if arriving.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Some(inbound) = ear.lock().unwrap().clone() else { continue };
                let mut sockets = arriving.sockets.lock().unwrap();
                let is_again = !sockets.is_empty();
                sockets.push(stream.try_clone().unwrap());
                drop(sockets);
                if is_again && flaw == Flaw::GreetsAgain {
                    inbound.on_packet(NodeId(3 - me.node.0), Incarnation(0), greeting());
                }
                // It ends with its connection.
                let arrivals = Arc::clone(&arriving);
                thread::spawn(move || _ = receive(stream, me, &*inbound, &arrivals, flaw));
            }
        });
        let tcp = Self { me, flaw, address: address.clone(), inbound, peers: Mutex::default(), arrivals };
        Ok((tcp, address))
    }

    fn link(&self, to: NodeId) -> Option<Arc<Link>> {
        self.peers.lock().unwrap().get(&to).cloned()
    }
}

/// Takes frames in until the connection ends, or brings what cannot be read.
fn receive(
    mut stream: TcpStream,
    me: Identity,
    inbound: &dyn Inbound,
    arrivals: &Arrivals,
    flaw: Flaw,
) -> io::Result<()> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (HELLO, hello) = read_frame(&mut stream, flaw)? else { return Err(malformed()) };
    let (node, incarnation) = hello.split_first_chunk::<8>().ok_or_else(malformed)?;
    let from = NodeId(u64::from_le_bytes(*node));
    let incarnation = Incarnation(u128::from_le_bytes(incarnation.try_into().map_err(|_| malformed())?));
    let mut number = None;
    loop {
        let (kind, body) = read_frame(&mut stream, flaw).inspect_err(|_| _ = stream.shutdown(Shutdown::Both))?;
        let mut newest = arrivals.newest.lock().unwrap();
        if kind != SNAPSHOT {
            let newest = newest.entry(from).or_default();
            let number = *number.get_or_insert_with(|| {
                *newest += 1;
                *newest
            });
            // What an older connection still holds would come behind what a newer one brought.
            if number != *newest {
                return stream.shutdown(Shutdown::Both);
            }
        }
        match kind {
            PACKET => match Packet::decode(me.cluster, body.into()) {
                Ok(packet) => inbound.on_packet(from, incarnation, packet),
                Err(_) => return stream.shutdown(Shutdown::Both),
            },
            CALL => inbound.on_call(from, body.into()),
            SNAPSHOT => {
                inbound.on_snapshot(from, incarnation, snapshot_of(body).ok_or_else(malformed)?);
                stream.write_all(&[1])?;
            }
            _ => return Err(malformed()),
        }
    }
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend_from_slice(bytes);
}

fn snapshot_of(body: Vec<u8>) -> Option<ReceivedSnapshot> {
    let (group, mut rest) = body.split_first_chunk::<8>()?;
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(part)
    };
    let (header, meta) = (decode_append_header(next()?).ok()?, decode_snapshot_meta(next()?).ok()?);
    let data = SnapshotData::Memory(Bytes::copy_from_slice(next()?));
    Some(ReceivedSnapshot { group: GroupId(u64::from_le_bytes(*group)), header, meta, data })
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether it is on its way. With the flaw only it waits.
    fn put(&self, kind: u8, body: impl FnOnce() -> Vec<u8>) -> bool {
        let mut state = self.lock();
        let is_full = |state: &State| state.bytes >= QUEUE_BYTES && self.flaw != Flaw::EndlessQueue;
        while is_full(&state) && !state.over && self.flaw == Flaw::WaitsForPlace {
            state = self.changed.wait(state).unwrap();
        }
        let is_dead =
            state.over || (self.flaw == Flaw::ConnectsOnce && state.connections > 0 && state.stream.is_none());
        if is_full(&state) && self.flaw == Flaw::FullQueueEmptied {
            (state.queue, state.bytes) = Default::default();
            return false;
        }
        if is_dead || is_full(&state) {
            return false;
        }
        let body = body();
        state.bytes += body.len();
        state.queue.push_back((kind, body));
        self.changed.notify_all();
        true
    }

    /// Writes what waits, to one connection after the other.
    fn run(self: &Arc<Self>, me: Identity) {
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() && !state.over {
                state = self.changed.wait(state).unwrap();
            }
            if state.over {
                break;
            }
            if state.stream.is_none() {
                drop(state);
                if self.connected(connect(&self.address, me)).is_err() {
                    self.broken(None);
                    continue;
                }
                state = self.lock();
            }
            let connection = state.connections;
            let (Some((kind, body)), Some(stream)) = (state.queue.pop_front(), &state.stream) else { continue };
            let mut stream = stream.try_clone().unwrap();
            state.owes |= kind == PACKET;
            if self.flaw == Flaw::SendsAgain {
                state.written.push_back((kind, body.clone()));
            }
            drop(state);
            let written = stream.write_all(&frame(kind, &body));
            let mut state = self.lock();
            // Whatever was in the queue when the connection broke is gone.
            state.bytes = state.queue.iter().map(|(_, body)| body.len()).sum();
            self.changed.notify_all();
            drop(state);
            if written.is_err() {
                self.broken(Some(connection));
            }
        }
        self.broken(None);
    }

    /// A connection is there; somebody waits for its end.
    fn connected(self: &Arc<Self>, stream: io::Result<TcpStream>) -> io::Result<()> {
        let stream = stream?;
        let (link, mut ended) = (Arc::clone(self), stream.try_clone()?);
        let mut state = self.lock();
        state.stream = Some(stream);
        state.connections += 1;
        let connection = state.connections;
        drop(state);
        thread::spawn(move || {
            // The peer writes nothing: a byte, the end and an error all mean that it is over.
            let _ = ended.read(&mut [0]);
            link.broken(Some(connection));
        });
        Ok(())
    }

    /// This connection, or the one there should be, is over: what was given to it, and what waits, may not arrive.
    fn broken(&self, connection: Option<u64>) {
        let mut state = self.lock();
        if connection.is_some_and(|connection| state.connections != connection) {
            return;
        }
        // It is over once.
        state.connections += 1;
        if let Some(stream) = state.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if self.flaw == Flaw::SendsAgain && !state.over {
            let mut again = std::mem::take(&mut state.written);
            again.append(&mut state.queue);
            state.queue = again;
            self.changed.notify_all();
            return;
        }
        let lost = state.owes || state.queue.iter().any(|(kind, _)| *kind == PACKET);
        (state.queue, state.bytes, state.owes) = Default::default();
        self.changed.notify_all();
        if !lost {
            return;
        }
        state.tellings += 1;
        let is_told = match self.flaw {
            Flaw::LossUntold => false,
            Flaw::EverySecondLossTold => state.tellings.is_multiple_of(2),
            _ => true,
        };
        drop(state);
        if let Some(inbound) = self.inbound.lock().unwrap().clone().filter(|_| is_told) {
            inbound.on_lost(self.to);
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.over = true;
        if let Some(stream) = &state.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

/// Sends a snapshot on a connection of its own; says whether the peer has it.
fn transfer(address: &str, me: Identity, snapshot: OutgoingSnapshot) -> io::Result<()> {
    let content = snapshot.source.read_all()?.to_vec();
    let (mut header, mut meta) = (Vec::new(), Vec::new());
    encode_append_header(&snapshot.header, &mut header);
    encode_snapshot_meta(&snapshot.meta, &mut meta);
    let mut body = snapshot.group.0.to_le_bytes().to_vec();
    [&header, &meta, &content].into_iter().for_each(|bytes| part(&mut body, bytes));
    let mut stream = connect(address, me)?;
    stream.write_all(&frame(SNAPSHOT, &body))?;
    stream.read_exact(&mut [0])
}

impl RaftNetwork for Tcp {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        *self.inbound.lock().unwrap() = Some(inbound);
    }

    fn set_address(&self, node: NodeId, address: &str) {
        let link = Arc::new(Link {
            to: node,
            address: address.to_owned(),
            flaw: self.flaw,
            inbound: Arc::clone(&self.inbound),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (running, me) = (Arc::clone(&link), self.me);
        thread::spawn(move || running.run(me));
        if let Some(before) = self.peers.lock().unwrap().insert(node, link) {
            before.close();
        }
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let encode = || {
            let mut bytes = Vec::new();
            packet.encode_head(&mut bytes);
            packet.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
            bytes
        };
        if self.link(to).is_some_and(|link| link.put(PACKET, encode)) { Ok(()) } else { Err(packet) }
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        self.link(to).is_some_and(|link| link.put(CALL, || body.to_vec()))
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let Some(link) = self.link(to) else { return done(SendOutcome::Failed) };
        let me = self.me;
        thread::spawn(move || match transfer(&link.address, me, snapshot) {
            Err(_) if link.flaw != Flaw::DeliveredUnseen => done(SendOutcome::Failed),
            Ok(()) | Err(_) => done(SendOutcome::Delivered),
        });
    }

    fn shutdown(&self) {
        self.arrivals.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
        self.peers.lock().unwrap().values().for_each(|link| link.close());
        for socket in self.arrivals.sockets.lock().unwrap().drain(..) {
            // Closed already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
