//! Snapshots on their way: one connection each, chunks with a checksum each, one reply at the end. A transfer that broke
//! goes on where it ended, if what arrived is what would be sent again.
//!
//! The layout is in FORMAT.md, "Snapshot transfer".

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{AppendHeader, Bug, GroupId, NodeId, SendOutcome, SnapshotMeta, bug};
use quorate_wire::{decode_append_header, decode_snapshot_meta, encode_append_header, encode_snapshot_meta};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::dial::dial;
use crate::error::Break;
use crate::frame::{self, Frame, FrameError, Kind};
use crate::hello::{Lane, PeerHello, Refusal, RefusalCode};
use crate::sink::Sink;
use crate::stream::{FrameReader, Stream};
use crate::transport::Inner;
use crate::{ReceivedData, ReceivedSnapshot};

/// Content in one chunk: a hundred system calls for 25 MiB, and a heartbeat's packet waits for less than one at
/// the network card.
const CHUNK_BYTES: usize = 256 << 10;
/// With a limit of the rate, chunks are a tenth of a second long at most, but not shorter than this.
const LEAST_CHUNK_BYTES: usize = 4 << 10;
/// Reading again what has arrived, or was sent, may take so many times the idle limit: about 300 GiB at 500 MiB/s.
const REREAD_FACTOR: u32 = 20;
/// Bytes of a resume frame: offset and checksum.
const RESUME_BYTES: usize = 12;
/// Bytes of a snapshot's announcement before the append header and the meta.
const BEGIN_FIXED_BYTES: usize = 24;
/// Bytes of the closing frame: length and checksum.
const END_BYTES: usize = 12;

/// A snapshot to send.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    /// The group it is for.
    pub group: GroupId,
    /// Travels with it.
    pub header: AppendHeader,
    /// What it holds.
    pub meta: SnapshotMeta,
    /// Its content.
    pub source: SnapshotSource,
    /// Who is told how far it is.
    pub progress: Progress,
}

/// Told how many bytes of how many are there; must not block. The default tells nobody.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl Progress {
    /// Tells this function.
    pub fn new(tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    fn tell(&self, bytes: u64, total: u64) {
        if let Some(tell) = &self.0 {
            tell(bytes, total);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}

/// Where a snapshot to send is read from.
#[derive(Debug)]
pub enum SnapshotSource {
    /// An open file, from its start. It must not change meanwhile; it may be unlinked.
    File(File),
    /// Bytes in memory.
    Memory(Bytes),
    /// What says itself whether it may be sent.
    Checked(Box<dyn CheckedContent>),
}

/// Bytes of a snapshot that are checked as they are read, before they are sent. Its methods may block.
pub trait CheckedContent: Send + Sync + fmt::Debug {
    /// How many there are.
    fn length(&self) -> u64;

    /// Appends at most `most` bytes from `offset` on; nothing at the end.
    ///
    /// # Errors
    /// If they cannot be read, or are not what was written; then the transfer fails.
    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()>;
}

/// Tells how a transfer ended, exactly once, whatever becomes of its task.
pub(crate) struct Done(Option<Box<dyn FnOnce(SendOutcome) + Send>>);

impl Done {
    pub(crate) fn new(done: impl FnOnce(SendOutcome) + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    fn tell(mut self, outcome: SendOutcome) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(SendOutcome::Failed);
        }
    }
}

/// What is announced before the content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Begin {
    pub(crate) group: GroupId,
    pub(crate) length: u64,
    pub(crate) header: AppendHeader,
    pub(crate) meta: SnapshotMeta,
}

impl Begin {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; BEGIN_FIXED_BYTES];
        out[0..8].copy_from_slice(&self.group.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.length.to_le_bytes());
        encode_append_header(&self.header, &mut out);
        let header_len = (out.len() - BEGIN_FIXED_BYTES) as u32;
        out[16..20].copy_from_slice(&header_len.to_le_bytes());
        let meta_at = out.len();
        encode_snapshot_meta(&self.meta, &mut out);
        let meta_len = (out.len() - meta_at) as u32;
        out[20..24].copy_from_slice(&meta_len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("snapshot announcement of {} bytes is too short", bytes.len());
        let (fixed, rest) = bytes.split_at_checked(BEGIN_FIXED_BYTES).ok_or_else(short)?;
        let (header_len, meta_len) = (u32_at(fixed, 16) as usize, u32_at(fixed, 20) as usize);
        let (header, rest) = rest.split_at_checked(header_len).ok_or_else(short)?;
        let meta = rest.get(..meta_len).ok_or_else(short)?;
        Ok(Self {
            group: GroupId(u64_at(fixed, 0)),
            length: u64_at(fixed, 8),
            header: decode_append_header(header).map_err(|error| error.to_string())?,
            meta: decode_snapshot_meta(meta).map_err(|error| error.to_string())?,
        })
    }
}

/// Sends a snapshot and tells how it ended.
pub(crate) async fn send(inner: Arc<Inner>, to: NodeId, snapshot: OutgoingSnapshot, done: Done) {
    let group = snapshot.group;
    let sent = tokio::select! {
        sent = transfer(&inner, to, snapshot) => sent,
        () = inner.stopping() => Err(Break::Local),
    };
    match sent {
        Ok(length) => {
            tracing::info!(name: "snapshot_sent", target: crate::EVENTS, node = inner.me(), peer = to.0, group = group.0, length, "snapshot delivered");
            done.tell(SendOutcome::Delivered);
        }
        Err(ended) => {
            tracing::warn!(
                name: "snapshot_not_sent", target: crate::EVENTS, node = inner.me(), peer = to.0, group = group.0, "snapshot not delivered: {ended}"
            );
            done.tell(SendOutcome::Failed);
        }
    }
}

async fn transfer(inner: &Inner, to: NodeId, snapshot: OutgoingSnapshot) -> Result<u64, Break> {
    let OutgoingSnapshot { group, header, meta, source, progress } = snapshot;
    let Some(peer) = inner.peer(to) else {
        return Err(Break::Content(format!("no address is known for node {to}")));
    };
    let source = blocking(|| Source::open(source)).await?;
    let connection = dial(inner, to, &peer.address(), Lane::Snapshot).await?;
    let (version, idle, length) = (connection.version, inner.options.snapshot_idle_timeout, source.length);
    let (mut incoming, mut outgoing) = split(connection.stream);
    let mut reader = FrameReader::new(version, connection.max_frame);
    let begin = frame::whole(Kind::SnapshotBegin, version, &Begin { group, length, header, meta }.encode());
    within(idle, async { Ok(outgoing.write_all(&begin).await?) }).await?;
    let has = resume_point(&within(idle * REREAD_FACTOR, reader.next(&mut incoming)).await?)?;
    let (source, start) = blocking(move || source.start_after(has)).await?;
    if start.offset > 0 {
        tracing::info!(
            name: "snapshot_goes_on", target: crate::EVENTS, node = inner.me(), peer = to.0, group = group.0, offset = start.offset, length,
            "a broken snapshot transfer goes on"
        );
    }
    let pace = Pace { inner, version, idle, progress: &progress };
    let writing = write_all(&mut outgoing, source, start, pace);
    let written = tokio::select! {
        // The receiver has the last word; before that it can only refuse.
        biased;
        early = reader.next(&mut incoming) => {
            verdict(&early?)?;
            return Err(Break::Content("the receiver confirmed a snapshot that it does not have".into()));
        }
        written = writing => written,
    };
    let written = match written {
        // The receiver waits for the rest of it, and has nothing to say.
        Err(ended @ Break::Content(_)) => return Err(ended),
        written => written,
    };
    match (written, within(idle, reader.next(&mut incoming)).await) {
        (Ok(()), reply) => verdict(&reply?).map(|()| length),
        // Why the receiver refused is worth more than that writing to it failed.
        (Err(_), Ok(reply)) if matches!(verdict(&reply), Err(Break::RefusedByPeer(_))) => verdict(&reply).map(|()| 0),
        (Err(ended), _) => Err(ended),
    }
}

fn not_read(error: io::Error) -> Break {
    Break::Content(format!("cannot read the snapshot: {error}"))
}

/// How much of the content is where it belongs, and its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) offset: u64,
    pub(crate) checksum: u32,
}

/// What the receiver says that it has.
fn resume_point(frame: &Frame) -> Result<Point, Break> {
    if frame.kind != Kind::SnapshotResume {
        verdict(frame)?;
        return Err(Break::Content("the receiver confirmed a snapshot that it does not have".into()));
    }
    match frame.head() {
        head if head.len() >= RESUME_BYTES => Ok(Point { offset: u64_at(head, 0), checksum: u32_at(head, 8) }),
        head => Err(Break::Content(format!("a snapshot resume of {} bytes", head.len()))),
    }
}

/// The receiver's answer.
fn verdict(reply: &Frame) -> Result<(), Break> {
    if reply.kind != Kind::SnapshotReply {
        return Err(FrameError::Unexpected(reply.kind).into());
    }
    match reply.head() {
        [0, 0, ..] => Ok(()),
        head => {
            let refusal = Refusal::decode(head).map(Break::RefusedByPeer);
            Err(refusal.unwrap_or_else(|| Break::Content("a snapshot reply without a code".into())))
        }
    }
}

/// How a snapshot is written.
struct Pace<'a> {
    inner: &'a Inner,
    version: u16,
    idle: Duration,
    progress: &'a Progress,
}

/// Writes content and end, from `start` on; each chunk within the idle limit. While one chunk is written the next is read
/// and made a frame, so two are in memory.
async fn write_all<W: AsyncWrite + Unpin>(
    to: &mut W,
    source: Source,
    start: Point,
    pace: Pace<'_>,
) -> Result<(), Break> {
    let Pace { inner, version, idle, progress } = pace;
    let (length, mut at) = (source.length, start);
    let rate = inner.options.snapshot_max_bytes_per_second;
    let chunk_bytes = rate.map_or(CHUNK_BYTES, |rate| (rate as usize / 10).clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES));
    // Whole blocks, which the receiver can write past its cache.
    let chunk_bytes = chunk_bytes - chunk_bytes % LEAST_CHUNK_BYTES;
    let read = |source: Source, from, room| spawn_blocking(move || source.chunk(from, chunk_bytes, version, room));
    progress.tell(at.offset, length);
    let (mut room, mut ahead) = (Vec::new(), (at.offset < length).then(|| read(source, at, Vec::new())));
    while let Some(reading) = ahead.take() {
        let Chunk { source, frame, end } = finished(reading).await.map_err(not_read)?;
        let content_bytes = end.offset - at.offset;
        if content_bytes == 0 {
            let text = "the snapshot became shorter while it was sent";
            return Err(Break::Content(format!("{text}: {} of {length} bytes", at.offset)));
        }
        at = end;
        ahead = (at.offset < length).then(|| read(source, at, std::mem::take(&mut room)));
        if let Some(rate) = rate {
            inner.transfers.wait_for(content_bytes, rate).await;
        }
        within(idle, async { Ok(to.write_all(&frame).await?) }).await?;
        room = frame;
        progress.tell(at.offset, length);
    }
    let mut end = [0; END_BYTES];
    end[..8].copy_from_slice(&at.offset.to_le_bytes());
    end[8..].copy_from_slice(&at.checksum.to_le_bytes());
    let end = frame::whole(Kind::SnapshotEnd, version, &end);
    within(idle, async {
        to.write_all(&end).await?;
        Ok(to.flush().await?)
    })
    .await
}

/// What is being sent. Its methods block.
struct Source {
    from: SnapshotSource,
    length: u64,
}

/// A chunk that is ready to be sent, and where the content goes on behind it.
struct Chunk {
    source: Source,
    frame: Vec<u8>,
    end: Point,
}

impl Source {
    fn open(mut from: SnapshotSource) -> io::Result<Self> {
        let length = match &mut from {
            SnapshotSource::Memory(memory) => memory.len() as u64,
            SnapshotSource::File(file) => {
                file.seek(io::SeekFrom::Start(0))?;
                file.metadata()?.len()
            }
            SnapshotSource::Checked(content) => content.length(),
        };
        Ok(Self { from, length })
    }

    /// Where to go on: behind what the receiver has, if that is how this content begins; else at the start. The bytes
    /// are compared, by their checksum, and not what they are said to be: a snapshot of the same entries that was
    /// built again need not have the same bytes.
    fn start_after(mut self, has: Point) -> io::Result<(Self, Point)> {
        if has.offset == 0 || has.offset > self.length {
            return Ok((self, Point::default()));
        }
        let (mut own, mut some) = (Point::default(), Vec::new());
        while own.offset < has.offset {
            let most = usize::try_from(has.offset - own.offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            some.clear();
            self.append(&mut some, own.offset, most)?;
            if some.is_empty() {
                break;
            }
            own.checksum = crc32c::crc32c_append(own.checksum, &some);
            own.offset += some.len() as u64;
        }
        if own == has || bug(Bug::ResumedTransferMixesSnapshots) {
            return Ok((self, has));
        }
        if let SnapshotSource::File(file) = &mut self.from {
            file.seek(io::SeekFrom::Start(0))?;
        }
        Ok((self, Point::default()))
    }

    /// Reads the chunk that starts at `from` and frames it, in `room`; one without content at the end.
    fn chunk(mut self, from: Point, chunk_bytes: usize, version: u16, room: Vec<u8>) -> io::Result<Chunk> {
        // The frame is built in front of the content, so that both leave in one write.
        let mut frame = room;
        frame.clear();
        let at = frame::start(&mut frame);
        frame.extend_from_slice(&from.offset.to_le_bytes());
        let content_at = frame.len();
        self.append(&mut frame, from.offset, chunk_bytes)?;
        let content = &frame[content_at..];
        let end = Point {
            offset: from.offset + content.len() as u64,
            checksum: crc32c::crc32c_append(from.checksum, content),
        };
        frame::finish(&mut frame, at, Kind::SnapshotChunk, version, 0);
        Ok(Chunk { source: self, frame, end })
    }

    /// Appends at most `most` bytes from `offset` on; nothing at the end.
    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()> {
        let most = usize::try_from(self.length - offset).map_or(most, |left| left.min(most));
        match &mut self.from {
            SnapshotSource::Memory(memory) => {
                let start = (offset as usize).min(memory.len());
                to.extend_from_slice(&memory[start..(start + most).min(memory.len())]);
            }
            SnapshotSource::File(file) => {
                (&*file).take(most as u64).read_to_end(to)?;
            }
            SnapshotSource::Checked(content) => content.append(to, offset, most)?,
        }
        Ok(())
    }
}

/// Receives one snapshot; gives why the connection ended.
pub(crate) async fn receive(inner: &Arc<Inner>, stream: Stream, version: u16, peer: PeerHello) -> Break {
    let Some(handler) = inner.handler.get() else { return Break::Local };
    let idle = inner.options.snapshot_idle_timeout;
    let (mut incoming, mut outgoing) = split(stream);
    let mut reader = FrameReader::new(version, inner.options.max_frame_bytes);
    let (reply, ended) = match receive_whole(inner, &mut reader, (&mut incoming, &mut outgoing), version, &peer).await {
        Ok(received) => {
            let (group, length) = (received.group, received.len);
            tracing::info!(
                name: "snapshot_received", target: crate::EVENTS, node = inner.me(), peer = peer.node.0, group = group.0, length, "snapshot received"
            );
            handler.on_snapshot(peer.node, peer.incarnation, received);
            (vec![0, 0], Break::Closed)
        }
        // Nobody is left to be answered.
        Err(ended @ (Break::Closed | Break::Truncated { .. })) => return ended,
        Err(ended) => (Refusal::new(RefusalCode::Snapshot, ended.to_string()).encode(), ended),
    };
    let reply = frame::whole(Kind::SnapshotReply, version, &reply);
    let answered = within(idle, async {
        outgoing.write_all(&reply).await?;
        outgoing.shutdown().await?;
        // Closing with bytes unread would reset the connection, and the reply might be lost with it.
        drain(&mut incoming).await
    });
    match answered.await {
        Ok(()) => ended,
        Err(not_answered) if matches!(ended, Break::Closed) => not_answered,
        Err(_) => ended,
    }
}

/// Reads until the other end closes.
async fn drain<R: AsyncRead + Unpin>(incoming: &mut R) -> Result<(), Break> {
    tokio::io::copy(incoming, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn receive_whole<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    inner: &Inner,
    reader: &mut FrameReader,
    (incoming, outgoing): (&mut R, &mut W),
    version: u16,
    peer: &PeerHello,
) -> Result<ReceivedSnapshot, Break> {
    let idle = inner.options.snapshot_idle_timeout;
    let first = within(idle, reader.next(incoming)).await?;
    let begin = match first.kind {
        Kind::SnapshotBegin => Begin::decode(first.head()).map_err(Break::Content)?,
        Kind::Goodbye => return Err(goodbye(&first)),
        other => return Err(FrameError::Unexpected(other).into()),
    };
    let limit = inner.options.max_snapshot_bytes;
    if begin.length > limit {
        let text = format!("snapshot of {} bytes exceeds the limit of {limit}; raise max_snapshot_bytes", begin.length);
        return Err(Break::Content(text));
    }
    let turn = within(idle, async { Ok(inner.transfers.take_turn(begin.group).await) }).await?;
    let overtaken = turn.overtaken();
    let whole = async {
        let (sink, has) = Sink::open(inner, &begin, peer, turn).await?;
        let mut resume = [0; RESUME_BYTES];
        resume[..8].copy_from_slice(&has.offset.to_le_bytes());
        resume[8..].copy_from_slice(&has.checksum.to_le_bytes());
        let resume = frame::whole(Kind::SnapshotResume, version, &resume);
        within(idle, async { Ok(outgoing.write_all(&resume).await?) }).await?;
        fill(inner, reader, incoming, &begin, (sink, has), peer).await
    };
    let data = tokio::select! {
        data = whole => data?,
        () = overtaken => return Err(Break::Content("a newer transfer of this group began".into())),
    };
    let Begin { group, header, meta, length } = begin;
    Ok(ReceivedSnapshot { group, header, meta, data, len: length })
}

/// Takes in chunks and the end.
async fn fill<R: AsyncRead + Unpin>(
    inner: &Inner,
    reader: &mut FrameReader,
    incoming: &mut R,
    begin: &Begin,
    (mut sink, has): (Sink, Point),
    peer: &PeerHello,
) -> Result<ReceivedData, Break> {
    let idle = inner.options.snapshot_idle_timeout;
    let spoilt = sink.spoilt();
    // What the sender says does not fit together: nothing of it is worth keeping.
    let spoil = |ended: Break| {
        spoilt.spoil();
        ended
    };
    let mut at = has;
    let mut may_start_over = has.offset > 0;
    loop {
        // The sender reads again what it need not send: the first chunk may take a while.
        let patience = if may_start_over { idle * REREAD_FACTOR } else { idle };
        let frame = within(patience, reader.next(incoming)).await?;
        match frame.kind {
            Kind::SnapshotChunk => {
                if may_start_over && chunk_offset(&frame).map_err(spoil)? == 0 {
                    at = Point::default();
                    sink.clear().await?;
                }
                may_start_over = false;
                let content = chunk_at(&frame, at.offset, begin.length).map_err(spoil)?;
                at.checksum = crc32c::crc32c_append(at.checksum, &content);
                at.offset += content.len() as u64;
                sink.write(content).await?;
                if let Some(handler) = inner.handler.get() {
                    handler.on_snapshot_progress(peer.node, begin.group, at.offset, begin.length);
                }
            }
            Kind::SnapshotEnd => {
                check_end(frame.head(), at.offset, at.checksum, begin.length).map_err(spoil)?;
                return sink.finish(inner, begin).await;
            }
            other => return Err(spoil(FrameError::Unexpected(other).into())),
        }
    }
}

fn goodbye(frame: &Frame) -> Break {
    Refusal::decode(frame.head())
        .map_or_else(|| Break::Content("a goodbye without a code".into()), Break::RefusedByPeer)
}

fn chunk_offset(frame: &Frame) -> Result<u64, Break> {
    if frame.head_len != frame.content.len() || frame.content.len() < 8 {
        return Err(Break::Content("a snapshot chunk outside its checksum".into()));
    }
    Ok(u64_at(frame.head(), 0))
}

/// The content of a chunk, which must continue at `offset` and stay within `length`.
fn chunk_at(frame: &Frame, offset: u64, length: u64) -> Result<Bytes, Break> {
    let found = chunk_offset(frame)?;
    if found != offset {
        return Err(Break::Content(format!("snapshot chunk at offset {found} where {offset} was expected")));
    }
    let content = frame.content.slice(8..);
    if content.len() as u64 > length - offset {
        return Err(Break::Content(format!("snapshot longer than the {length} bytes announced")));
    }
    Ok(content)
}

fn check_end(head: &[u8], offset: u64, checksum: u32, length: u64) -> Result<(), Break> {
    if head.len() < END_BYTES || offset != length || u64_at(head, 0) != length {
        return Err(Break::Content(format!("snapshot ends after {offset} of {length} bytes")));
    }
    let stored = u32_at(head, 8);
    if stored != checksum {
        return Err(Break::Content(format!("snapshot checksum {stored:#010x} sent, {checksum:#010x} received")));
    }
    Ok(())
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    finished(spawn_blocking(work)).await
}

/// Waits for file work that was begun.
pub(crate) async fn finished<T>(work: JoinHandle<io::Result<T>>) -> io::Result<T> {
    work.await.map_err(io::Error::other)?
}

/// Limits a step that must make progress.
async fn within<T>(limit: Duration, step: impl Future<Output = Result<T, Break>>) -> Result<T, Break> {
    timeout(limit, step).await.unwrap_or(Err(Break::Deadline("the next step of the snapshot transfer")))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}
