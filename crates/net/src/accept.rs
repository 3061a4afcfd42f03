//! Who accepts and reads: one task a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_core::{ClusterId, NodeId};
use quorate_wire::Packet;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::dial::read_hello;
use crate::error::Break;
use crate::frame::{Frame, FrameError, Kind};
use crate::hello::{self, DialedBy, FEATURES, HelloError, Lane, PeerHello, Refusal, RefusalCode, Reply, Request};
use crate::snapshot;
use crate::stream::{FrameReader, Stream, tune};
use crate::transport::{Inner, Peer};

/// Wait after an error of `accept`: most often too many open files, which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the transport stops.
pub(crate) async fn listen(inner: Arc<Inner>, listener: TcpListener) {
    let stopping = inner.stopping();
    tokio::pin!(stopping);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopping => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                failing = false;
                let Ok(permit) = Arc::clone(&inner.incoming_permits).try_acquire_owned() else {
                    let limit = inner.options.max_incoming;
                    let text = format!("dropped a connection: {limit} are open, the most that max_incoming allows");
                    if inner.is_news(remote.ip(), None, &text) {
                        tracing::warn!(name: "too_many_connections", target: crate::EVENTS, node = inner.me(), %remote, "{text}");
                    }
                    continue;
                };
                let task_inner = Arc::clone(&inner);
                inner.spawn(async move {
                    connection(task_inner, tcp, remote).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if !failing {
                    tracing::error!(name: "cannot_accept", target: crate::EVENTS, node = inner.me(), %error, "cannot accept connections");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An accepted connection after its handshake.
struct Accepted {
    stream: Stream,
    version: u16,
    peer: PeerHello,
}

async fn connection(inner: Arc<Inner>, tcp: TcpStream, remote: SocketAddr) {
    let mut claimed = None;
    let welcomed = async {
        tune(&tcp, inner.options.silence_timeout)?;
        match timeout(inner.options.handshake_timeout, welcome(&inner, tcp, &mut claimed)).await {
            Ok(welcomed) => welcomed,
            Err(_) => Err(Break::Deadline("the handshake")),
        }
    };
    let stopping = inner.stopping();
    let ended = tokio::select! {
        welcomed = welcomed => match welcomed {
            Ok(accepted) => return serve(&inner, accepted, remote).await,
            Err(ended) => ended,
        },
        () = stopping => return,
    };
    // A port that is merely probed sends nothing, and says nothing about a peer.
    if matches!(ended, Break::Closed) {
        tracing::debug!(name: "handshake_ended", target: crate::EVENTS, node = inner.me(), %remote, "closed before the handshake");
        return;
    }
    let text = ended.to_string();
    if inner.is_news(remote.ip(), claimed, &text) {
        let node = claimed.map_or_else(|| "an unknown node".to_owned(), |node| format!("node {node}"));
        tracing::warn!(name: "not_welcome", target: crate::EVENTS, node = inner.me(), %remote, "no connection from {node}: {text}");
    }
}

/// The accepting side of the handshake. `claimed` is who the other end says it is.
async fn welcome(inner: &Inner, tcp: TcpStream, claimed: &mut Option<NodeId>) -> Result<Accepted, Break> {
    #[cfg(feature = "tls")]
    let mut stream = match &inner.tls {
        Some(tls) => Stream::Tls(Box::new(tls.accept(tcp).await.map_err(Break::Tls)?)),
        None => Stream::Plain(tcp),
    };
    #[cfg(not(feature = "tls"))]
    let mut stream = Stream::Plain(tcp);

    let bytes = read_hello(&mut stream).await?;
    let identity = inner.identity();
    let judged = match Request::decode(&bytes) {
        Ok(request) => {
            *claimed = Some(request.identity.node);
            judge(inner, &stream, &request).map(|version| (version, request))
        }
        Err(HelloError::Refuse(refusal)) => Err(refusal),
        Err(error) => return Err(error.into()),
    };
    let answer = judged.as_ref().map(|(version, _)| *version).map_err(Refusal::clone);
    let reply = Reply { answer, identity, max_frame: inner.options.max_frame_bytes as u32, features: FEATURES };
    stream.write_all(&reply.encode()).await?;
    stream.flush().await?;
    match judged {
        Ok((version, request)) => Ok(Accepted { stream, version, peer: peer_of(&request) }),
        Err(refusal) => {
            stream.shutdown().await?;
            Err(Break::RefusedByUs(refusal))
        }
    }
}

fn peer_of(request: &Request) -> PeerHello {
    PeerHello {
        cluster: request.identity.cluster,
        node: request.identity.node,
        incarnation: request.identity.incarnation,
        starts: request.identity.starts,
        mode: request.identity.mode,
        features: request.features,
        lane: request.lane,
        dialed_by: DialedBy::Peer,
    }
}

fn judge(inner: &Inner, stream: &Stream, request: &Request) -> Result<u16, Refusal> {
    let version = hello::judge_request(&inner.identity(), request)?;
    match stream {
        Stream::Plain(_) => {}
        #[cfg(feature = "tls")]
        Stream::Tls(stream) => {
            if let Some(tls) = &inner.tls {
                tls.check_certificate(stream, request.identity.node)?;
            }
        }
    }
    if let Some(handler) = inner.handler.get() {
        handler.check_peer(&peer_of(request)).map_err(Refusal::of_peer)?;
    }
    Ok(version)
}

/// Reads an accepted connection to its end.
async fn serve(inner: &Arc<Inner>, accepted: Accepted, remote: SocketAddr) {
    let peer = accepted.peer;
    inner.forget_refusals(remote.ip(), peer.node);
    let entered = inner.enter(peer);
    inner.note_hello(&peer);
    tracing::debug!(name: "accepted", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, lane = %peer.lane, %remote, "accepted");
    let reading = async {
        match peer.lane {
            Lane::Control | Lane::Data => read(inner, accepted).await,
            Lane::Snapshot => snapshot::receive(inner, accepted.stream, accepted.version, peer).await,
        }
    };
    let ended = tokio::select! {
        ended = reading => ended,
        () = entered.close.notified() => Break::Local,
        () = inner.stopping() => Break::Local,
    };
    match ended {
        Break::Closed | Break::Io(_) | Break::Local => {
            tracing::debug!(
                name: "accepted_ended", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, lane = %peer.lane, %remote,
                "connection ended: {ended}"
            );
        }
        ended => {
            let text = ended.to_string();
            if inner.is_news(remote.ip(), Some(peer.node), &text) {
                tracing::warn!(
                    name: "accepted_broken", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, lane = %peer.lane, %remote,
                    "closed the connection: {text}"
                );
            }
        }
    }
}

/// Delivers what a control or data connection brings.
async fn read(inner: &Inner, mut accepted: Accepted) -> Break {
    let (from, incarnation) = (accepted.peer.node, accepted.peer.incarnation);
    let Some(handler) = inner.handler.get() else { return Break::Local };
    let mut reader = FrameReader::new(accepted.version, inner.options.max_frame_bytes);
    let mut known: Option<Arc<Peer>> = inner.peer(from);
    loop {
        let frame = match reader.next(&mut accepted.stream).await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        if known.is_none() {
            known = inner.peer(from);
        }
        if let Some(peer) = &known {
            peer.received_frames.fetch_add(1, Relaxed);
            peer.received_bytes.fetch_add(frame.content.len() as u64, Relaxed);
        }
        match frame.kind {
            Kind::Packet => match packet_of(inner, &accepted.peer, frame) {
                Ok(Some(packet)) => handler.on_packet(from, incarnation, packet),
                Ok(None) => {}
                Err(ended) => return ended,
            },
            // Its checksum covers the whole.
            Kind::Call if frame.head_len == frame.content.len() => handler.on_call(from, frame.content),
            Kind::Call => return Break::Content("a call outside its checksum".into()),
            Kind::Goodbye => {
                return match Refusal::decode(frame.head()) {
                    Some(refusal) => {
                        if refusal.code == RefusalCode::OlderCopy {
                            handler.on_older_copy(from, &refusal.text);
                        }
                        Break::RefusedByPeer(refusal)
                    }
                    None => Break::Content("a goodbye without a code".into()),
                };
            }
            Kind::SnapshotBegin
            | Kind::SnapshotChunk
            | Kind::SnapshotEnd
            | Kind::SnapshotReply
            | Kind::SnapshotResume => {
                return FrameError::Unexpected(frame.kind).into();
            }
        }
    }
}

/// Decodes a packet; `None` if it is of a later version and to be skipped.
fn packet_of(inner: &Inner, peer: &PeerHello, frame: Frame) -> Result<Option<Packet>, Break> {
    // A blank node does not know its cluster yet; the entries' checksums start from the id of the cluster that
    // the sender told.
    let own = inner.identity().cluster;
    let cluster = if own == ClusterId(0) { peer.cluster } else { own };
    match Packet::decode(cluster, frame.content) {
        Ok(packet) => Ok(Some(packet)),
        Err(error) if error.is_from_newer_version() => {
            tracing::debug!(name: "message_skipped", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, "skipped a message: {error}");
            Ok(None)
        }
        Err(error) => Err(Break::Content(error.to_string())),
    }
}
