//! Doors for `quorate-fuzz`: what reads bytes of unknown peers, without sockets. Not part of the stable API.
//!
//! Each of these reads as a connection does, writes what it read again, and panics if that is read as something else.

use bytes::{Bytes, BytesMut};
use quorate_core::NodeId;

use crate::frame::{self, Decoder, FRAME_HEADER_BYTES, Kind};
use crate::hello::{self, LOWEST_VERSION, LocalIdentity, PREFIX_BYTES, Refusal, Reply, Request};
use crate::snapshot::Begin;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A packet, not looked at.
    Packet(Bytes),
    /// A call of the library, not looked at.
    Call(Bytes),
    /// Anything else, which was read; with its kind and whether it could be.
    Read(&'static str, Result<(), String>),
}

/// Reads the handshake's request, and judges it as `local`.
///
/// # Errors
/// Why it is refused.
///
/// # Panics
/// If it does not read the same once it is written again.
pub fn request(local: &LocalIdentity, bytes: &[u8]) -> Result<(), String> {
    let request = Request::decode(whole_hello(bytes)?).map_err(|error| error.to_string())?;
    let again = Request::decode(&request.encode());
    assert_eq!(again.as_ref(), Ok(&request), "a request reads the same once it is written again");
    hello::judge_request(local, &request).map(|_| ()).map_err(|refusal| refusal.to_string())
}

/// Reads the handshake's reply, and judges it as `local`, who asked for node `to`.
///
/// # Errors
/// Why it is refused.
///
/// # Panics
/// If it does not read the same once it is written again.
pub fn reply(local: &LocalIdentity, to: NodeId, bytes: &[u8]) -> Result<(), String> {
    let reply = Reply::decode(whole_hello(bytes)?).map_err(|error| error.to_string())?;
    let again = Reply::decode(&reply.encode());
    assert_eq!(again.as_ref(), Ok(&reply), "a reply reads the same once it is written again");
    reply.answer.as_ref().map_err(Refusal::to_string)?;
    hello::judge_reply(local, to, &reply.identity).map_err(|refusal| refusal.to_string())
}

/// The hello that `bytes` start with, as far as a connection would read it.
fn whole_hello(bytes: &[u8]) -> Result<&[u8], String> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return Err("the hello is cut".to_owned());
    };
    let want = PREFIX_BYTES + hello::rest_length(prefix).map_err(|error| error.to_string())?;
    bytes.get(..want).ok_or_else(|| "the hello is cut".to_owned())
}

/// Cuts a stream that arrives `step` bytes at a time into frames of at most `limit` bytes, and looks into them. Gives
/// the frames, and why the stream ended if it was refused.
///
/// # Panics
/// If a frame does not read the same once it is written again, or more memory is held for a frame than its bytes and
/// the named limits account for.
pub fn frames(stream: &[u8], step: usize, limit: usize) -> (Vec<Carried>, Result<(), String>) {
    let (mut decoder, mut buffer, mut found) = (Decoder::new(LOWEST_VERSION, limit), BytesMut::new(), Vec::new());
    for part in stream.chunks(step.max(1)) {
        decoder.reserve(&mut buffer);
        let held = buffer.capacity();
        assert!(held <= 2 * buffer.len() + frame::MOST_SPARE_BYTES, "{held} bytes for {}", buffer.len());
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => {
                    check_again(&frame);
                    match carried(&frame) {
                        Ok(carried) => found.push(carried),
                        Err(error) => return (found, Err(error)),
                    }
                }
                Ok(None) => break,
                Err(error) => return (found, Err(error.to_string())),
            }
        }
    }
    let ended = match decoder.progress(&buffer) {
        Some(_) => Err("the stream ends inside a frame".to_owned()),
        None => Ok(()),
    };
    (found, ended)
}

fn check_again(read: &frame::Frame) {
    let (head_len, body_len) = (read.head_len, read.content.len() - read.head_len);
    let header = frame::header(read.kind, LOWEST_VERSION, head_len, crc32c::crc32c(read.head()), body_len);
    let mut again = BytesMut::with_capacity(FRAME_HEADER_BYTES + read.content.len());
    again.extend_from_slice(&header);
    again.extend_from_slice(&read.content);
    let again = Decoder::new(LOWEST_VERSION, read.content.len()).next(&mut again);
    assert_eq!(again.as_ref().ok().and_then(Option::as_ref), Some(read), "a frame reads the same once written again");
}

fn carried(frame: &frame::Frame) -> Result<Carried, String> {
    let read = |name, read: Option<()>| Carried::Read(name, read.ok_or_else(|| format!("{name} is cut")));
    Ok(match frame.kind {
        Kind::Packet => Carried::Packet(frame.content.clone()),
        Kind::Call if frame.head_len < frame.content.len() => return Err("a call outside its checksum".to_owned()),
        Kind::Call => Carried::Call(frame.content.clone()),
        Kind::SnapshotBegin => Carried::Read("begin", begin(frame.head())),
        Kind::SnapshotReply | Kind::Goodbye => read("refusal", refusal(frame.head())),
        Kind::SnapshotChunk => read("chunk", frame.head().first_chunk::<8>().map(|_| ())),
        Kind::SnapshotEnd => read("end", frame.head().first_chunk::<12>().map(|_| ())),
        Kind::SnapshotResume => read("resume", frame.head().first_chunk::<12>().map(|_| ())),
    })
}

/// Reads the announcement of a snapshot.
///
/// # Errors
/// Why it is refused.
///
/// # Panics
/// If it does not read the same once it is written again.
pub fn begin(bytes: &[u8]) -> Result<(), String> {
    let begin = Begin::decode(bytes)?;
    assert_eq!(
        Begin::decode(&begin.encode()).as_ref(),
        Ok(&begin),
        "an announcement reads the same once written again"
    );
    Ok(())
}

fn refusal(bytes: &[u8]) -> Option<()> {
    let refusal = Refusal::decode(bytes)?;
    let again = Refusal::decode(&refusal.encode());
    assert_eq!(again.as_ref(), Some(&refusal), "a refusal reads the same once it is written again");
    Some(())
}

/// Valid bytes to start from: requests, replies, and frames that `packets` and `calls` travel in.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Requests of a handshake.
    pub requests: Vec<Vec<u8>>,
    /// Replies.
    pub replies: Vec<Vec<u8>>,
    /// Streams of frames.
    pub streams: Vec<Vec<u8>>,
    /// Announcements of snapshots.
    pub begins: Vec<Vec<u8>>,
}

/// Writes samples: packets as (head, body), calls, and one snapshot.
pub fn samples(
    peer: &LocalIdentity,
    to: NodeId,
    packets: &[(Vec<u8>, Vec<u8>)],
    calls: &[Bytes],
    snapshot: (quorate_core::AppendHeader, quorate_core::SnapshotMeta),
) -> Samples {
    let mut samples = Samples::default();
    let versions = (LOWEST_VERSION, LOWEST_VERSION);
    for lane in [hello::Lane::Control, hello::Lane::Data, hello::Lane::Snapshot] {
        let request = Request { versions, lane, identity: *peer, to, max_frame: 1 << 20, features: 0 };
        samples.requests.push(request.encode());
    }
    let refusal = Refusal::new(hello::RefusalCode::WrongNode, "this is node 3, not node 2");
    for answer in [Ok(LOWEST_VERSION), Err(refusal.clone())] {
        samples.replies.push(Reply { answer, identity: *peer, max_frame: 1 << 20, features: 0 }.encode());
    }
    let (header, meta) = snapshot;
    let begin = Begin { group: quorate_core::GroupId(1), length: 11, header, meta }.encode();
    let whole = |kind, head: &[u8]| frame::whole(kind, LOWEST_VERSION, head);
    let mut transfer = whole(Kind::SnapshotBegin, &begin);
    transfer.extend(whole(Kind::SnapshotResume, &[0; 12]));
    transfer.extend(whole(Kind::SnapshotChunk, b"\0\0\0\0\0\0\0\0the content"));
    transfer.extend(whole(Kind::SnapshotEnd, &[11, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]));
    transfer.extend(whole(Kind::SnapshotReply, &refusal.encode()));
    samples.streams.push(transfer);
    samples.begins.push(begin);
    let mut all = Vec::new();
    for (head, body) in packets {
        let mut framed = Vec::new();
        let at = frame::start(&mut framed);
        framed.extend_from_slice(head);
        frame::finish(&mut framed, at, Kind::Packet, LOWEST_VERSION, body.len());
        framed.extend_from_slice(body);
        all.extend_from_slice(&framed);
        samples.streams.push(framed);
    }
    for call in calls {
        samples.streams.push(whole(Kind::Call, call));
    }
    all.extend(whole(Kind::Goodbye, &refusal.encode()));
    samples.streams.push(all);
    samples
}
