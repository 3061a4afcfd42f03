//! Who connects and writes: one task a lane of a peer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_core::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;
use crate::error::Break;
use crate::frame::{self, Kind};
use crate::hello::{
    self, DialedBy, FEATURES, HIGHEST_VERSION, LOWEST_VERSION, Lane, LocalIdentity, PREFIX_BYTES, PeerHello, Refusal,
    RefusalCode, Reply, Request,
};
use crate::lane::{Assembly, Item, LaneQueue};
use crate::stream::{Stream, tune};
use crate::transport::{Inner, Peer, Phase, lock};

/// A connection that stood this long may be replaced at once; one that did not counts as a failed attempt.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// A connection ready to carry frames.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) version: u16,
    /// Largest frame that both ends accept.
    pub(crate) max_frame: usize,
    pub(crate) peer: PeerHello,
}

/// Keeps one lane of a peer connected and writes what is queued for it.
pub(crate) async fn run(inner: Arc<Inner>, peer: Arc<Peer>, lane: Lane) {
    let queue = peer.queue(lane);
    let seed = inner.options.identity.incarnation.0 as u64 ^ inner.options.identity.starts.boot() ^ peer.node.0 << 8;
    let mut backoff = Backoff::new(inner.options.backoff_min, inner.options.backoff_max, seed ^ lane as u64);
    loop {
        let epoch = peer.epoch();
        let ended = one_connection(&inner, &peer, lane, epoch, &mut backoff).await;
        queue.counters.connected.store(false, Relaxed);
        if inner.phase() != Phase::Running || peer.is_removed() {
            queue.close();
            return;
        }
        if matches!(ended, Break::Local) {
            continue;
        }
        note_failure(&inner, queue, &peer, lane, &ended);
        if lane == Lane::Control
            && matches!(ended, Break::ConnectRefused { .. })
            && let Some(handler) = inner.handler.get()
        {
            handler.on_refused(peer.node);
        }
        wait(&inner, &peer, lane, epoch, backoff.next()).await;
    }
}

/// Dials, and writes until the connection ends.
async fn one_connection(inner: &Inner, peer: &Peer, lane: Lane, epoch: u64, backoff: &mut Backoff) -> Break {
    let queue = peer.queue(lane);
    queue.counters.dials.fetch_add(1, Relaxed);
    let address = peer.address();
    let dialing = dial(inner, peer.node, &address, lane);
    tokio::pin!(dialing);
    let dialed = loop {
        tokio::select! {
            dialed = &mut dialing => break dialed,
            () = queue.poke.notified() => {
                if peer.epoch() != epoch || inner.phase() != Phase::Running {
                    return Break::Local;
                }
            }
        }
    };
    let mut connection = match dialed {
        Ok(connection) => connection,
        Err(ended) => return ended,
    };
    inner.note_hello(&connection.peer);
    queue.counters.connected.store(true, Relaxed);
    *lock(&queue.counters.last_error) = None;
    let version = connection.version;
    tracing::info!(name: "connected", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, %lane, version, "connected");

    let since = Instant::now();
    let mut writer = Writer { queue, items: VecDeque::new(), assembly: Assembly::default(), carried: false };
    let ended = writer.write_until_end(inner, peer, &mut connection, epoch).await;
    if since.elapsed() >= STABLE_AFTER {
        backoff.reset();
    }
    let carried = writer.abandon();
    if carried && lane == Lane::Data {
        report_lost(inner, peer);
    }
    ended
}

fn report_lost(inner: &Inner, peer: &Peer) {
    if let Some(handler) = inner.handler.get() {
        handler.on_lost(peer.node);
    }
}

/// Logs why there is no connection, once for each reason.
fn note_failure(inner: &Inner, queue: &LaneQueue, peer: &Peer, lane: Lane, ended: &Break) {
    let text = ended.to_string();
    let mut last = lock(&queue.counters.last_error);
    if last.as_ref() == Some(&text) {
        return;
    }
    match ended {
        Break::Closed | Break::Io(_) => {
            tracing::info!(name: "disconnected", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, %lane, "disconnected: {text}");
        }
        _ => tracing::warn!(
            name: "not_connected", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, address = peer.address(), %lane,
            "not connected: {text}"
        ),
    }
    *last = Some(text);
}

/// Waits before the next attempt; meanwhile nothing is taken, for it could only grow stale.
async fn wait(inner: &Inner, peer: &Peer, lane: Lane, epoch: u64, delay: Duration) {
    if delay.is_zero() {
        return;
    }
    let queue = peer.queue(lane);
    // Registered before the look at the epoch: a poke between the two is not missed.
    let woken = queue.wake.notified();
    tokio::pin!(woken);
    woken.as_mut().enable();
    if queue.close() && lane == Lane::Data {
        report_lost(inner, peer);
    }
    if peer.epoch() == epoch && inner.phase() == Phase::Running {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = woken => {}
        }
    }
    queue.open();
}

/// Writes a lane's queue to its connection.
struct Writer<'a> {
    queue: &'a LaneQueue,
    /// Taken from the queue, not yet encoded.
    items: VecDeque<Item>,
    /// Encoded, being written. Its share of the window is zero once that was released.
    assembly: Assembly,
    /// Whether the connection was given anything that may be lost with it.
    carried: bool,
}

impl Writer<'_> {
    async fn write_until_end(&mut self, inner: &Inner, peer: &Peer, to: &mut Connection, epoch: u64) -> Break {
        let mut unexpected = [0; 16];
        loop {
            // Rule: nothing that is sent after an address or identity was set goes to where it was before.
            if !self.queue.take_if(|| peer.epoch() == epoch, &mut self.items) {
                return close(to).await;
            }
            if !self.items.is_empty() {
                if let Err(error) = self.write(to, inner, peer).await {
                    return Break::Io(error);
                }
                continue;
            }
            if inner.phase() != Phase::Running {
                return close(to).await;
            }
            tokio::select! {
                biased;
                () = self.queue.ready() => {}
                () = self.queue.poke.notified() => {}
                read = to.stream.read(&mut unexpected) => return match read {
                    Ok(0) => Break::Closed,
                    Ok(_) => Break::Content("bytes on a connection that only carries ours".into()),
                    Err(error) => Break::Io(error),
                },
            }
        }
    }

    /// Writes all that was taken.
    async fn write(&mut self, to: &mut Connection, inner: &Inner, peer: &Peer) -> io::Result<()> {
        self.carried = true;
        while !self.items.is_empty() {
            self.assembly.fill(&mut self.items, to.version, to.max_frame);
            if let Some(length) = self.assembly.too_large {
                let limit = to.max_frame;
                tracing::error!(
                    name: "frame_too_large", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, length, limit,
                    "dropped a frame larger than the peer accepts"
                );
                report_lost(inner, peer);
            }
            self.assembly.write_to(&mut to.stream).await?;
            let counters = &self.queue.counters;
            counters.frames.fetch_add(self.assembly.frames, Relaxed);
            counters.bytes.fetch_add(self.assembly.bytes as u64, Relaxed);
            counters.writes.fetch_add(1, Relaxed);
            self.queue.release(self.assembly.window_bytes);
            self.assembly.clear();
        }
        Ok(())
    }

    /// Gives the window back what the end of the connection left unwritten; tells whether anything may be lost.
    fn abandon(mut self) -> bool {
        let items = std::mem::take(&mut self.items);
        self.queue.release(items.iter().map(Item::bytes).sum::<usize>() + self.assembly.window_bytes);
        self.carried
    }
}

/// Ends the connection so that what was written still arrives.
async fn close(connection: &mut Connection) -> Break {
    // The connection is given up in any case.
    let _ = connection.stream.shutdown().await;
    Break::Local
}

/// Connects to a node and shakes hands.
pub(crate) async fn dial(inner: &Inner, to: NodeId, address: &str, lane: Lane) -> Result<Connection, Break> {
    let tcp = connect(address, inner.options.connect_timeout).await?;
    let source = |source| Break::Connect { address: address.to_owned(), source };
    tune(&tcp, inner.options.silence_timeout).map_err(source)?;
    match timeout(inner.options.handshake_timeout, greet(inner, tcp, to, lane)).await {
        // A connection that never stood did not break: say that it did not come about.
        Ok(Err(Break::Io(error))) => Err(source(error)),
        Ok(Err(Break::Closed)) => Err(Break::Unanswered),
        Ok(greeted) => greeted,
        Err(_) => Err(Break::Deadline("the handshake")),
    }
}

/// Connects to the first address of a name that accepts. Refused only if every address refuses.
pub(crate) async fn connect(address: &str, limit: Duration) -> Result<TcpStream, Break> {
    let failed = |source| Break::Connect { address: address.to_owned(), source };
    let addresses = match timeout(limit, lookup_host(address)).await {
        Ok(found) => found.map_err(failed)?,
        Err(_) => return Err(Break::Deadline("resolving the address")),
    };
    let mut ended = failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut all_refused = true;
    for one in addresses {
        match timeout(limit, TcpStream::connect(one)).await {
            Ok(Ok(tcp)) if is_itself(&tcp) => {
                // A dial to a free local port can meet itself (simultaneous open), and would keep the peer from
                // listening there. Nobody does, so it counts as refused; a reset leaves the port free at once.
                let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                if all_refused {
                    ended = Break::ConnectRefused { address: address.to_owned() };
                }
            }
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if all_refused {
                    ended = Break::ConnectRefused { address: address.to_owned() };
                }
            }
            Ok(Err(error)) => (ended, all_refused) = (failed(error), false),
            Err(_) => (ended, all_refused) = (Break::Deadline("connecting"), false),
        }
    }
    Err(ended)
}

fn is_itself(tcp: &TcpStream) -> bool {
    matches!((tcp.local_addr(), tcp.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// The dialing side of the handshake.
async fn greet(inner: &Inner, tcp: TcpStream, to: NodeId, lane: Lane) -> Result<Connection, Break> {
    #[cfg(feature = "tls")]
    let mut stream = match &inner.tls {
        Some(tls) => Stream::Tls(Box::new(tls.connect(to, tcp).await.map_err(Break::Tls)?)),
        None => Stream::Plain(tcp),
    };
    #[cfg(not(feature = "tls"))]
    let mut stream = Stream::Plain(tcp);

    let identity = inner.identity();
    let max_frame = inner.options.max_frame_bytes;
    let versions = (LOWEST_VERSION, HIGHEST_VERSION);
    let request = Request { versions, lane, identity, to, max_frame: max_frame as u32, features: FEATURES };
    stream.write_all(&request.encode()).await?;
    stream.flush().await?;
    let reply = Reply::decode(&read_hello(&mut stream).await?)?;
    let version = match reply.answer {
        Ok(version) => version,
        Err(refusal) => {
            // Believed of the node that was asked only: a wrong address must not stop this node.
            let asked = hello::judge_reply(&identity, to, &reply.identity).is_ok();
            if let (RefusalCode::OlderCopy, true, Some(handler)) = (refusal.code, asked, inner.handler.get()) {
                handler.on_older_copy(to, &refusal.text);
            }
            return Err(Break::RefusedByPeer(refusal));
        }
    };
    let peer = PeerHello {
        cluster: reply.identity.cluster,
        node: reply.identity.node,
        incarnation: reply.identity.incarnation,
        starts: reply.identity.starts,
        mode: reply.identity.mode,
        features: reply.features,
        lane,
        dialed_by: DialedBy::Us,
    };
    if let Err(refusal) = judge(inner, &identity, to, &reply.identity, &peer) {
        let goodbye = frame::whole(Kind::Goodbye, version, &refusal.encode());
        // The refusal stands whether or not the other end hears of it.
        let _ = stream.write_all(&goodbye).await;
        let _ = stream.shutdown().await;
        return Err(Break::RefusedByUs(refusal));
    }
    Ok(Connection { stream, version, max_frame: max_frame.min(reply.max_frame as usize), peer })
}

fn judge(
    inner: &Inner,
    local: &LocalIdentity,
    to: NodeId,
    identity: &LocalIdentity,
    peer: &PeerHello,
) -> Result<(), Refusal> {
    hello::judge_reply(local, to, identity)?;
    match inner.handler.get() {
        Some(handler) => handler.check_peer(peer).map_err(Refusal::of_peer),
        None => Ok(()),
    }
}

/// Reads one whole hello, and not a byte more.
pub(crate) async fn read_hello(stream: &mut Stream) -> Result<Vec<u8>, Break> {
    let mut prefix = [0; PREFIX_BYTES];
    match read_full(stream, &mut prefix).await? {
        0 => return Err(Break::Closed),
        // What is not ours may well be shorter than ours: a tls alert has 7 bytes.
        have if have < PREFIX_BYTES => {
            hello::check_magic(&prefix, have)?;
            return Err(Break::Truncated { have, want: PREFIX_BYTES });
        }
        _ => {}
    }
    let want = PREFIX_BYTES + hello::rest_length(&prefix)?;
    let mut whole = vec![0; want];
    whole[..PREFIX_BYTES].copy_from_slice(&prefix);
    let have = PREFIX_BYTES + read_full(stream, &mut whole[PREFIX_BYTES..]).await?;
    if have < want {
        return Err(Break::Truncated { have, want });
    }
    Ok(whole)
}

/// Reads until `bytes` are full or the other end closes; gives how many were read.
async fn read_full(stream: &mut Stream, bytes: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < bytes.len() {
        match stream.read(&mut bytes[have..]).await? {
            0 => break,
            read => have += read,
        }
    }
    Ok(have)
}
