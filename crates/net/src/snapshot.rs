//! Snapshots on their way: one connection each, chunks with a checksum each, one reply at the end.
//!
//! The layout is in FORMAT.md, "Snapshot transfer".

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{AppendHeader, GroupId, NodeId, SendOutcome, SnapshotMeta};
use quorate_wire::{decode_append_header, decode_snapshot_meta, encode_append_header, encode_snapshot_meta};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::dial::dial;
use crate::error::Break;
use crate::frame::{self, Frame, FrameError, Kind};
use crate::hello::{Lane, PeerHello, Refusal, RefusalCode};
use crate::stream::{FrameReader, Stream};
use crate::transport::Inner;
use crate::{ReceivedData, ReceivedSnapshot};

/// Content in one chunk: a hundred system calls for 25 MiB, and a heartbeat's packet waits for less than one at
/// the network card.
const CHUNK_BYTES: usize = 256 << 10;
/// Ends the names of files that are being received.
const INCOMING_SUFFIX: &str = ".incoming";
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
}

/// Where a snapshot to send is read from.
#[derive(Debug)]
pub enum SnapshotSource {
    /// An open file, from its start. It must not change meanwhile; it may be unlinked.
    File(File),
    /// Bytes in memory.
    Memory(Bytes),
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
struct Begin {
    group: GroupId,
    length: u64,
    header: AppendHeader,
    meta: SnapshotMeta,
}

impl Begin {
    fn encode(&self) -> Vec<u8> {
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

    fn decode(bytes: &[u8]) -> Result<Self, String> {
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
            tracing::info!(peer = %to, %group, length, "snapshot delivered");
            done.tell(SendOutcome::Delivered);
        }
        Err(ended) => {
            tracing::warn!(peer = %to, %group, "snapshot not delivered: {ended}");
            done.tell(SendOutcome::Failed);
        }
    }
}

async fn transfer(inner: &Inner, to: NodeId, snapshot: OutgoingSnapshot) -> Result<u64, Break> {
    let OutgoingSnapshot { group, header, meta, source } = snapshot;
    let Some(peer) = inner.peer(to) else {
        return Err(Break::Content(format!("no address is known for node {to}")));
    };
    let mut source = Source::open(source).await?;
    let connection = dial(inner, to, &peer.address(), Lane::Snapshot).await?;
    let (version, idle, length) = (connection.version, inner.options.snapshot_idle_timeout, source.length);
    let (mut incoming, mut outgoing) = split(connection.stream);
    let mut reader = FrameReader::new(version, connection.max_frame);
    let begin = frame::whole(Kind::SnapshotBegin, version, &Begin { group, length, header, meta }.encode());
    let writing = write_all(&mut outgoing, &mut source, &begin, version, idle);
    let written = tokio::select! {
        // The receiver has the last word; before that it can only refuse.
        biased;
        early = reader.next(&mut incoming) => {
            verdict(&early?)?;
            return Err(Break::Content("the receiver confirmed a snapshot that it does not have".into()));
        }
        written = writing => written,
    };
    match (written, within(idle, reader.next(&mut incoming)).await) {
        (Ok(()), reply) => verdict(&reply?).map(|()| length),
        // Why the receiver refused is worth more than that writing to it failed.
        (Err(_), Ok(reply)) if matches!(verdict(&reply), Err(Break::RefusedByPeer(_))) => verdict(&reply).map(|()| 0),
        (Err(ended), _) => Err(ended),
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

/// Writes announcement, content and end; each chunk within the idle limit.
async fn write_all<W: AsyncWrite + Unpin>(
    to: &mut W,
    source: &mut Source,
    begin: &[u8],
    version: u16,
    idle: Duration,
) -> Result<(), Break> {
    within(idle, async { Ok(to.write_all(begin).await?) }).await?;
    let (mut offset, mut checksum) = (0u64, 0);
    let mut chunk = Vec::new();
    while offset < source.length {
        // The frame is built in front of the content, so that both leave in one write.
        chunk.clear();
        let at = frame::start(&mut chunk);
        chunk.extend_from_slice(&offset.to_le_bytes());
        let content_at = chunk.len();
        chunk = source.append(chunk, offset).await?;
        let content = &chunk[content_at..];
        if content.is_empty() {
            let (want, text) = (source.length, "the snapshot became shorter while it was sent");
            return Err(Break::Content(format!("{text}: {offset} of {want} bytes")));
        }
        checksum = crc32c::crc32c_append(checksum, content);
        offset += content.len() as u64;
        frame::finish(&mut chunk, at, Kind::SnapshotChunk, version, 0);
        within(idle, async { Ok(to.write_all(&chunk).await?) }).await?;
    }
    let mut end = [0; END_BYTES];
    end[..8].copy_from_slice(&offset.to_le_bytes());
    end[8..].copy_from_slice(&checksum.to_le_bytes());
    let end = frame::whole(Kind::SnapshotEnd, version, &end);
    within(idle, async {
        to.write_all(&end).await?;
        Ok(to.flush().await?)
    })
    .await
}

/// What is being sent.
struct Source {
    /// Taken while a read is under way.
    file: Option<File>,
    memory: Bytes,
    length: u64,
}

impl Source {
    async fn open(source: SnapshotSource) -> io::Result<Self> {
        match source {
            SnapshotSource::Memory(memory) => Ok(Self { file: None, length: memory.len() as u64, memory }),
            SnapshotSource::File(mut file) => {
                blocking(move || {
                    let length = file.metadata()?.len();
                    file.seek(io::SeekFrom::Start(0))?;
                    Ok(Self { file: Some(file), memory: Bytes::new(), length })
                })
                .await
            }
        }
    }

    /// Appends the next chunk, which starts at `offset`; nothing at the end.
    async fn append(&mut self, mut to: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        let most = usize::try_from(self.length - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let Some(file) = self.file.take() else {
            let start = (offset as usize).min(self.memory.len());
            to.extend_from_slice(&self.memory[start..(start + most).min(self.memory.len())]);
            return Ok(to);
        };
        let (file, to) = blocking(move || {
            (&file).take(most as u64).read_to_end(&mut to)?;
            Ok((file, to))
        })
        .await?;
        self.file = Some(file);
        Ok(to)
    }
}

/// Receives one snapshot; gives why the connection ended.
pub(crate) async fn receive(inner: &Arc<Inner>, stream: Stream, version: u16, peer: PeerHello) -> Break {
    let Some(handler) = inner.handler.get() else { return Break::Local };
    let idle = inner.options.snapshot_idle_timeout;
    let (mut incoming, mut outgoing) = split(stream);
    let mut reader = FrameReader::new(version, inner.options.max_frame_bytes);
    let (reply, ended) = match receive_whole(inner, &mut reader, &mut incoming, &peer).await {
        Ok(received) => {
            let (group, length) = (received.group, received.len);
            tracing::info!(peer = %peer.node, %group, length, "snapshot received");
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

async fn receive_whole<R: AsyncRead + Unpin>(
    inner: &Inner,
    reader: &mut FrameReader,
    incoming: &mut R,
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
    let mut sink = Sink::open(inner, begin.group, peer.node).await?;
    let (mut offset, mut checksum) = (0u64, 0);
    loop {
        let frame = within(idle, reader.next(incoming)).await?;
        match frame.kind {
            Kind::SnapshotChunk => {
                let content = chunk_at(&frame, offset, begin.length)?;
                checksum = crc32c::crc32c_append(checksum, &content);
                offset += content.len() as u64;
                sink = sink.write(content).await?;
            }
            Kind::SnapshotEnd => {
                check_end(frame.head(), offset, checksum, begin.length)?;
                let data = sink.finish().await?;
                let Begin { group, header, meta, length } = begin;
                return Ok(ReceivedSnapshot { group, header, meta, data, len: length });
            }
            other => return Err(FrameError::Unexpected(other).into()),
        }
    }
}

fn goodbye(frame: &Frame) -> Break {
    Refusal::decode(frame.head())
        .map_or_else(|| Break::Content("a goodbye without a code".into()), Break::RefusedByPeer)
}

/// The content of a chunk, which must continue at `offset` and stay within `length`.
fn chunk_at(frame: &Frame, offset: u64, length: u64) -> Result<Bytes, Break> {
    if frame.head_len != frame.content.len() || frame.content.len() < 8 {
        return Err(Break::Content("a snapshot chunk outside its checksum".into()));
    }
    let found = u64_at(frame.head(), 0);
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

/// Where a snapshot that arrives is put.
enum Sink {
    File { file: File, path: Unfinished, unsynced: usize },
    Memory(Vec<u8>),
}

/// Written bytes that are made durable at a time, so that the end of a large snapshot does not wait for all of it.
const SYNC_BYTES: usize = 16 << 20;

impl Sink {
    async fn open(inner: &Inner, group: GroupId, from: NodeId) -> Result<Self, Break> {
        let Some(dir) = &inner.options.incoming_dir else { return Ok(Sink::Memory(Vec::new())) };
        let number = inner.next_file.fetch_add(1, Relaxed);
        let path = dir.join(format!("group-{group}-from-{from}-{number}{INCOMING_SUFFIX}"));
        let opened = blocking(move || {
            let file = File::options().write(true).create_new(true).open(&path)?;
            Ok(Sink::File { file, path: Unfinished(Some(path)), unsynced: 0 })
        });
        opened.await.map_err(not_written)
    }

    async fn write(self, content: Bytes) -> Result<Self, Break> {
        match self {
            Sink::Memory(mut bytes) => {
                bytes.extend_from_slice(&content);
                Ok(Sink::Memory(bytes))
            }
            Sink::File { mut file, path, unsynced } => {
                let written = blocking(move || {
                    file.write_all(&content)?;
                    let unsynced = unsynced + content.len();
                    if unsynced < SYNC_BYTES {
                        return Ok(Sink::File { file, path, unsynced });
                    }
                    file.sync_data()?;
                    Ok(Sink::File { file, path, unsynced: 0 })
                });
                written.await.map_err(not_written)
            }
        }
    }

    /// Makes the content durable and hands it over.
    async fn finish(self) -> Result<ReceivedData, Break> {
        match self {
            Sink::Memory(bytes) => Ok(ReceivedData::Memory(bytes.into())),
            Sink::File { file, mut path, .. } => {
                let synced = blocking(move || {
                    file.sync_all()?;
                    Ok(path.0.take())
                });
                let path = synced.await.map_err(not_written)?;
                Ok(ReceivedData::File(path.unwrap_or_default()))
            }
        }
    }
}

fn not_written(source: io::Error) -> Break {
    Break::Content(format!("cannot write the snapshot: {source}"))
}

/// A file that is removed unless it is taken out.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the directory for incoming snapshots, and removes what an earlier run left unfinished in it.
pub(crate) fn prepare_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(INCOMING_SUFFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
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
