//! What waits for one connection of a peer, bounded in bytes, and how it becomes one write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_wire::Packet;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::frame::{self, FRAME_HEADER_BYTES, Kind};
use crate::options::FRAME_ALLOWANCE_BYTES;

/// One write takes at most about this: more waits for the next, so that the window opens in steps.
const WRITE_BYTES: usize = 1 << 20;
/// Pieces handed to one system call.
const WRITE_PIECES: usize = 64;

/// What waits to be sent.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are packets, and a box would cost each an allocation")]
pub(crate) enum Item {
    Packet(Packet),
    Call(Bytes),
}

impl Item {
    /// What it takes of the window: the payload and an allowance for the rest.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Item::Packet(packet) => packet_bytes(packet),
            Item::Call(body) => call_bytes(body),
        }
    }
}

pub(crate) fn packet_bytes(packet: &Packet) -> usize {
    packet.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>() + FRAME_ALLOWANCE_BYTES
}

pub(crate) fn call_bytes(body: &Bytes) -> usize {
    body.len() + FRAME_ALLOWANCE_BYTES
}

impl From<Packet> for Item {
    fn from(packet: Packet) -> Self {
        Item::Packet(packet)
    }
}

impl From<Bytes> for Item {
    fn from(body: Bytes) -> Self {
        Item::Call(body)
    }
}

/// The queue of one lane of one peer, and what is told of it.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    state: Mutex<QueueState>,
    /// Wakes the writer: once for each time the queue stops being empty.
    ready: Notify,
    /// Tells the lane's task to look at the peer's epoch, or to stop.
    pub(crate) poke: Notify,
    /// Ends a wait before a reconnect.
    pub(crate) wake: Notify,
    limit: usize,
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct QueueState {
    items: VecDeque<Item>,
    /// Queued, and taken by the writer but not yet by the system. Invariant: the sum over those items.
    bytes: usize,
    /// Whether a connection stands or is being made.
    open: bool,
}

/// Totals of a lane.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connected: AtomicBool,
    pub(crate) frames: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) given_back: AtomicU64,
    pub(crate) last_error: Mutex<Option<String>>,
}

impl LaneQueue {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(QueueState { items: VecDeque::new(), bytes: 0, open: true }),
            ready: Notify::new(),
            poke: Notify::new(),
            wake: Notify::new(),
            limit,
            counters: Counters::default(),
        }
    }

    /// Takes a value of `bytes`, or gives it back: the window is full or there is no connection.
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    pub(crate) fn offer<T: Into<Item>>(&self, value: T, bytes: usize) -> Result<(), T> {
        let mut state = self.lock();
        if !state.open || (state.bytes > 0 && state.bytes + bytes > self.limit) {
            drop(state);
            self.counters.given_back.fetch_add(1, Relaxed);
            return Err(value);
        }
        let was_empty = state.items.is_empty();
        state.bytes += bytes;
        state.items.push_back(value.into());
        drop(state);
        if was_empty {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Takes all that is queued, if the connection it is to go to `holds` still; `into` is empty. Tells whether it does.
    ///
    /// That is asked under the lock: what was queued after it had changed is not taken for the connection of before.
    pub(crate) fn take_if(&self, holds: impl FnOnce() -> bool, into: &mut VecDeque<Item>) -> bool {
        let mut state = self.lock();
        let holds = holds();
        if holds {
            std::mem::swap(&mut state.items, into);
        }
        holds
    }

    /// The writer is done with items of this size.
    pub(crate) fn release(&self, bytes: usize) {
        self.lock().bytes -= bytes;
    }

    /// Waits until something was queued since the last wait.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Drops what is queued and takes nothing more; tells whether something was dropped.
    pub(crate) fn close(&self) -> bool {
        let dropped = {
            let mut state = self.lock();
            state.open = false;
            let items = std::mem::take(&mut state.items);
            state.bytes -= items.iter().map(Item::bytes).sum::<usize>();
            items
        };
        !dropped.is_empty()
    }

    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frames ready for one write: heads in one buffer, entries where they are.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    /// Where the heads start that no piece covers yet.
    open_from: usize,
    pub(crate) frames: u64,
    pub(crate) bytes: usize,
    /// What the items took of the window.
    pub(crate) window_bytes: usize,
    /// Length of a frame that had to be dropped because the peer does not accept its size.
    pub(crate) too_large: Option<usize>,
}

#[derive(Debug)]
enum Piece {
    Heads(std::ops::Range<usize>),
    Shared(Bytes),
}

impl Assembly {
    /// Encodes from the front of `items`: all, or as much as one write takes.
    pub(crate) fn fill(&mut self, items: &mut VecDeque<Item>, version: u16, max_frame: usize) {
        self.heads.clear();
        self.pieces.clear();
        (self.open_from, self.frames, self.bytes, self.window_bytes) = (0, 0, 0, 0);
        self.too_large = None;
        while self.bytes < WRITE_BYTES {
            let Some(item) = items.pop_front() else { break };
            self.window_bytes += item.bytes();
            match item {
                Item::Packet(packet) => self.packet(packet, version, max_frame),
                Item::Call(body) => self.call(body, version, max_frame),
            }
        }
        self.cover_heads();
    }

    fn packet(&mut self, packet: Packet, version: u16, max_frame: usize) {
        let at = frame::start(&mut self.heads);
        packet.encode_head(&mut self.heads);
        let body_len = packet.body_len() as usize;
        let length = frame::finish(&mut self.heads, at, Kind::Packet, version, body_len);
        if length > max_frame {
            self.heads.truncate(at);
            self.too_large = Some(length);
            return;
        }
        self.count(length);
        if body_len > 0 {
            self.cover_heads();
            self.pieces.extend(packet.batches.iter().map(|batch| Piece::Shared(batch.bytes().clone())));
        }
    }

    fn call(&mut self, body: Bytes, version: u16, max_frame: usize) {
        if body.len() > max_frame {
            self.too_large = Some(body.len());
            return;
        }
        let header = frame::header(Kind::Call, version, body.len(), crc32c::crc32c(&body), 0);
        self.heads.extend_from_slice(&header);
        self.count(body.len());
        self.cover_heads();
        self.pieces.push(Piece::Shared(body));
    }

    fn count(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += FRAME_HEADER_BYTES + length;
    }

    fn cover_heads(&mut self) {
        if self.open_from < self.heads.len() {
            self.pieces.push(Piece::Heads(self.open_from..self.heads.len()));
            self.open_from = self.heads.len();
        }
    }

    fn piece(&self, at: usize) -> Option<&[u8]> {
        self.pieces.get(at).map(|piece| match piece {
            Piece::Heads(range) => &self.heads[range.clone()],
            Piece::Shared(bytes) => bytes.as_ref(),
        })
    }

    /// Writes it all with as few system calls as the system allows.
    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(&self, stream: &mut W) -> io::Result<()> {
        let (mut at, mut skip) = (0, 0);
        while at < self.pieces.len() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
            let mut count = 0;
            for slot in &mut slices {
                let Some(piece) = self.piece(at + count) else { break };
                *slot = IoSlice::new(if count == 0 { &piece[skip..] } else { piece });
                count += 1;
            }
            let mut written = stream.write_vectored(&slices[..count]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while let Some(piece) = self.piece(at) {
                let left = piece.len() - skip;
                if written < left {
                    skip += written;
                    break;
                }
                written -= left;
                (at, skip) = (at + 1, 0);
            }
        }
        stream.flush().await
    }

    /// Written: lets go of the entries, and of the claim on the window.
    pub(crate) fn clear(&mut self) {
        self.window_bytes = 0;
        self.pieces.clear();
        // A burst of large heads must not hold its memory for ever.
        self.heads.clear();
        self.heads.shrink_to(WRITE_BYTES / 16);
    }
}
