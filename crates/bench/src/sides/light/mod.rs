//! A gRPC client that takes next to nothing of the machine which it shares with the servers: unary calls of one method,
//! whose request is there as bytes, on few connections, all that is due in one system call.
//!
//! What it asks of a server is what every client asks. It checks of every call that HTTP and gRPC say success, and hands
//! on the answer's message.

mod frames;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};

use frames::{CallHeaders, Head};

/// Bytes read at once at most.
const READ_BYTES: usize = 64 << 10;
/// What the server may send on a connection: renewed when half of it is used.
const RECEIVE_WINDOW: u32 = 8 << 20;
/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A message as it travels.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.push(0);
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode_raw(&mut bytes);
    bytes.into()
}

/// A connection for calls of one method.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is to be written.
    ready: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every call, those to come as well.
    fn fail(&self, problem: &dyn Display) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| problem.to_string());
        state.waiting.clear();
        state.held.clear();
    }
}

impl Connection {
    /// Connects to `authority`, for calls of `path`. Must be called on the runtime that is to do its work.
    pub(crate) async fn open(authority: &str, path: &str) -> Result<Self, String> {
        let wrong = |error: std::io::Error| format!("cannot connect to {authority}: {error}");
        let tcp = TcpStream::connect(authority).await.map_err(wrong)?;
        tcp.set_nodelay(true).map_err(wrong)?;
        let state = Mutex::new(State::new(CallHeaders::new(path, authority)));
        let shared = Arc::new(Shared { state, ready: Notify::new() });
        let (read, write) = tcp.into_split();
        shared.ready.notify_one();
        tokio::spawn(write_all(shared.clone(), write));
        tokio::spawn(read_all(shared.clone(), read));
        Ok(Self { shared })
    }

    /// One call: the message of the answer.
    pub(crate) async fn call(&self, request: &Bytes) -> Result<Vec<u8>, String> {
        let (answer, answered) = oneshot::channel();
        let writes = {
            let mut state = self.shared.lock();
            if let Some(problem) = &state.failed {
                return Err(problem.clone());
            }
            let was_empty = state.out.is_empty();
            state.held.push_back(Call { request: request.clone(), answer });
            state.begin_held();
            was_empty && !state.out.is_empty()
        };
        if writes {
            self.shared.ready.notify_one();
        }
        answered.await.unwrap_or_else(|_| {
            let failed = self.shared.lock().failed.clone();
            Err(failed.unwrap_or_else(|| "the connection was closed".to_owned()))
        })
    }
}

/// Asked for, not yet sent.
#[derive(Debug)]
struct Call {
    request: Bytes,
    answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

/// Sent, not yet answered.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Vec<u8>, String>>,
    http_ok: bool,
    /// The answer's bytes so far.
    body: Vec<u8>,
}

#[derive(Debug)]
struct State {
    headers: CallHeaders,
    next_stream: u32,
    /// Bytes that wait to be written.
    out: Vec<u8>,
    /// Calls that the server takes no more of for now.
    held: VecDeque<Call>,
    waiting: HashMap<u32, Waiting>,
    /// What may be sent on the connection, and on a new stream; windows may be below zero.
    window: i64,
    stream_window: i64,
    /// Calls that the server takes at once: 0 until its settings have come, as the protocol's first message.
    max_streams: usize,
    /// Received since the server's window was renewed.
    received: u32,
    failed: Option<String>,
}

impl State {
    fn new(headers: CallHeaders) -> Self {
        let mut out = frames::PREFACE.to_vec();
        let settings = [(frames::HEADER_TABLE_SIZE, 0), (frames::ENABLE_PUSH, 0)];
        let payload: Vec<u8> = settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
        frames::frame(&mut out, frames::SETTINGS, 0, 0, &payload);
        let more = RECEIVE_WINDOW - frames::FIRST_WINDOW;
        frames::frame(&mut out, frames::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        let window = i64::from(frames::FIRST_WINDOW);
        Self {
            headers,
            next_stream: 1,
            out,
            held: VecDeque::new(),
            waiting: HashMap::new(),
            window,
            stream_window: window,
            max_streams: 0,
            received: 0,
            failed: None,
        }
    }

    /// Begins what the server takes.
    fn begin_held(&mut self) {
        while self.waiting.len() < self.max_streams
            && let Some(call) =
                self.held.pop_front_if(|call| call.request.len() as i64 <= self.window.min(self.stream_window))
        {
            let stream = self.next_stream;
            // There are 2^30 of them: hours of the fastest table.
            self.next_stream += 2;
            self.window -= call.request.len() as i64;
            let block = if stream == 1 { &self.headers.first } else { &self.headers.later };
            frames::frame(&mut self.out, frames::HEADERS, frames::END_HEADERS, stream, block);
            frames::frame(&mut self.out, frames::DATA, frames::END_STREAM, stream, &call.request);
            self.waiting.insert(stream, Waiting { answer: call.answer, http_ok: false, body: Vec::new() });
        }
    }

    /// Takes in a frame. An error ends the connection.
    fn on_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), String> {
        let acknowledges = head.flags & frames::ACK != 0;
        match head.kind {
            frames::HEADERS => self.on_headers(head, payload)?,
            frames::DATA => self.on_data(head, payload)?,
            frames::RESET => {
                if let Some(call) = self.waiting.remove(&head.stream) {
                    let code = number(payload).unwrap_or(0);
                    // An answer that nobody waits for any more is nobody's loss.
                    let _ = call.answer.send(Err(format!("the call was reset: {code}")));
                }
            }
            frames::SETTINGS if !acknowledges => self.on_settings(payload)?,
            frames::PING if !acknowledges => frames::frame(&mut self.out, frames::PING, frames::ACK, 0, payload),
            frames::GOAWAY => return Err(format!("the server says goodbye: {}", String::from_utf8_lossy(payload))),
            frames::WINDOW_UPDATE if head.stream == 0 => {
                self.window += i64::from(number(payload).ok_or("a window without a size")?);
            }
            frames::SETTINGS | frames::PING | frames::WINDOW_UPDATE => {}
            other => return Err(format!("a frame of kind {other}, which no answer of ours needs")),
        }
        self.begin_held();
        Ok(())
    }

    fn on_settings(&mut self, payload: &[u8]) -> Result<(), String> {
        if self.max_streams == 0 {
            self.max_streams = usize::MAX;
        }
        for (id, value) in frames::settings(payload) {
            match id {
                frames::HEADER_TABLE_SIZE if value < 4096 => {
                    return Err(format!("the server keeps {value} bytes of headers only"));
                }
                frames::MAX_STREAMS => self.max_streams = value as usize,
                frames::STREAM_WINDOW => self.stream_window = i64::from(value),
                _ => {}
            }
        }
        frames::frame(&mut self.out, frames::SETTINGS, frames::ACK, 0, &[]);
        Ok(())
    }

    fn on_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), String> {
        if head.flags & frames::END_HEADERS == 0 {
            return Err("headers in several frames".to_owned());
        }
        let answer = frames::unpadded(head, payload).and_then(frames::answer).ok_or("headers that cannot be read")?;
        let Some(call) = self.waiting.get_mut(&head.stream) else { return Ok(()) };
        call.http_ok |= answer.http_ok;
        if head.flags & frames::END_STREAM == 0 {
            return Ok(());
        }
        let Some(mut call) = self.waiting.remove(&head.stream) else { return Ok(()) };
        let result = if !(call.http_ok && answer.grpc_ok) {
            Err(format!("it was refused: {}", answer.said))
        } else if is_one_message(&call.body) {
            call.body.drain(..PREFIX_BYTES);
            Ok(call.body)
        } else {
            Err(format!("an answer of {} bytes, which are not one message", call.body.len()))
        };
        // An answer that nobody waits for any more is nobody's loss.
        let _ = call.answer.send(result);
        Ok(())
    }

    fn on_data(&mut self, head: Head, payload: &[u8]) -> Result<(), String> {
        // Padding counts for the window, too.
        self.received += head.length as u32;
        if self.received > RECEIVE_WINDOW / 2 {
            frames::frame(&mut self.out, frames::WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        let data = frames::unpadded(head, payload).ok_or("data that cannot be read")?;
        if head.flags & frames::END_STREAM != 0 {
            return Err("an answer without a status".to_owned());
        }
        if let Some(call) = self.waiting.get_mut(&head.stream) {
            call.body.extend_from_slice(data);
        }
        Ok(())
    }
}

fn setting(id: u16, value: u32) -> [u8; 6] {
    let ([a, b], [c, d, e, f]) = (id.to_be_bytes(), value.to_be_bytes());
    [a, b, c, d, e, f]
}

fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Whether these are the prefix and the bytes of one message that is not compressed.
fn is_one_message(body: &[u8]) -> bool {
    let Some(([compressed, length @ ..], message)) = body.split_first_chunk::<PREFIX_BYTES>() else { return false };
    *compressed == 0 && u32::from_be_bytes(*length) as usize == message.len()
}

/// Writes what is due.
async fn write_all(shared: Arc<Shared>, mut to: OwnedWriteHalf) {
    let mut bytes = Vec::new();
    loop {
        shared.ready.notified().await;
        // Whoever else can go on goes first: what they ask for travels in the same write.
        tokio::task::yield_now().await;
        {
            let mut state = shared.lock();
            if state.failed.is_some() {
                return;
            }
            bytes.clear();
            std::mem::swap(&mut bytes, &mut state.out);
        }
        if let Err(error) = to.write_all(&bytes).await {
            return shared.fail(&error);
        }
    }
}

/// Reads answers, until the connection ends.
async fn read_all(shared: Arc<Shared>, mut from: OwnedReadHalf) {
    let mut bytes: Vec<u8> = Vec::with_capacity(2 * READ_BYTES);
    loop {
        bytes.reserve(READ_BYTES);
        match from.read_buf(&mut bytes).await {
            Ok(0) => return shared.fail(&"the server closed the connection"),
            Ok(_) => {}
            Err(error) => return shared.fail(&error),
        }
        let mut at = 0;
        let (problem, writes) = {
            let mut state = shared.lock();
            let was_empty = state.out.is_empty();
            let mut outcome = Ok(());
            while let (Ok(()), Some((head, payload))) = (&outcome, Head::split(&bytes[at..])) {
                at += frames::HEAD_BYTES + payload.len();
                outcome = state.on_frame(head, payload);
            }
            (outcome.err(), was_empty && !state.out.is_empty())
        };
        if let Some(problem) = problem {
            return shared.fail(&problem);
        }
        bytes.drain(..at);
        if writes {
            shared.ready.notify_one();
        }
    }
}
