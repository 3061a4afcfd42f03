//! The limits: the same clients, and a task that answers without doing anything; and the same over a connection.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::args::Options;
use crate::measure::{Client, Load, Trial, client_runtime, measure, server_runtime};

/// Requests taken from the channel at once; more than 4096 clients can have in flight does not help.
const BATCH: usize = 1024;
/// Bytes that the peer takes from its connection at once.
const READ_BYTES: usize = 64 << 10;

/// Who waits for an answer.
type Caller = oneshot::Sender<()>;

#[derive(Clone)]
struct EchoClient {
    requests: UnboundedSender<Caller>,
    /// What a call counts for.
    entries: u64,
}

impl Client for EchoClient {
    async fn call(&self) -> Result<u64, String> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).map_err(|_| "the echo task is gone".to_owned())?;
        answered.await.map_err(|_| "the echo task dropped a request".to_owned())?;
        Ok(self.entries)
    }
}

/// One trial of the echo.
pub(crate) fn trial(options: &Options, load: Load<'_>) -> Result<Trial, String> {
    of_batches(options, load, 1)
}

/// One trial of calls that stand for so many entries each: one answer a call, which is the least that a batch can have.
pub(crate) fn of_batches(options: &Options, load: Load<'_>, entries: usize) -> Result<Trial, String> {
    let servers = server_runtime(options)?;
    let runtime = client_runtime(options)?;
    let (requests, mut inbox) = mpsc::unbounded_channel::<Caller>();
    servers.spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for answer in batch.drain(..) {
                // A client that has stopped no longer waits.
                let _ = answer.send(());
            }
        }
    });
    measure(options, &runtime, load, &EchoClient { requests, entries: entries as u64 })
}

/// One trial of a connection on loopback: commands of so many bytes go to one peer, which only says how many came.
pub(crate) fn over_tcp(options: &Options, load: Load<'_>, bytes: usize) -> Result<Trial, String> {
    let servers = server_runtime(options)?;
    let runtime = client_runtime(options)?;
    let wrong = |error: io::Error| format!("no connection over loopback: {error}");
    let (here, there) = servers.block_on(connection()).map_err(wrong)?;
    let (requests, inbox) = mpsc::unbounded_channel();
    let (sent, waiting) = mpsc::unbounded_channel();
    let (from_peer, to_peer) = here.into_split();
    // If one of them fails, the callers are dropped, and the clients say so.
    servers.spawn(send(inbox, to_peer, sent, bytes));
    servers.spawn(acknowledge(there, bytes));
    servers.spawn(answer(from_peer, waiting));
    measure(options, &runtime, load, &EchoClient { requests, entries: 1 })
}

async fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let here = TcpStream::connect(listener.local_addr()?).await?;
    let (there, _) = listener.accept().await?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    Ok((here, there))
}

async fn send(
    mut inbox: UnboundedReceiver<Caller>,
    mut to_peer: OwnedWriteHalf,
    sent: UnboundedSender<Caller>,
    bytes: usize,
) -> io::Result<()> {
    let commands = vec![b'x'; BATCH * bytes];
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        let length = batch.len() * bytes;
        for caller in batch.drain(..) {
            // Nobody takes them once the connection is gone.
            let _ = sent.send(caller);
        }
        to_peer.write_all(&commands[..length]).await?;
    }
    Ok(())
}

/// The peer: what a follower without a log would do.
async fn acknowledge(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    let (mut block, mut received) = (vec![0; READ_BYTES], 0);
    loop {
        match stream.read(&mut block).await? {
            0 => return Ok(()),
            some => received += some as u64,
        }
        stream.write_u64(received / bytes as u64).await?;
    }
}

async fn answer(from_peer: OwnedReadHalf, mut waiting: UnboundedReceiver<Caller>) -> io::Result<()> {
    let mut from_peer = BufReader::new(from_peer);
    let mut answered = 0;
    loop {
        let acknowledged = from_peer.read_u64().await?;
        while answered < acknowledged {
            let Some(caller) = waiting.recv().await else { return Ok(()) };
            // A client that has stopped no longer waits.
            let _ = caller.send(());
            answered += 1;
        }
    }
}
