//! State machines with `async` methods: [`AsyncStateMachine`].

use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use crate::{Checkpoint, Commands, EntryContext, Frozen, LastApplied, Payload, RaftStateMachine};

/// A [`RaftStateMachine`] that awaits, for example a database's driver. Started as [`Asynchronous`].
///
/// Commands are applied one after the other as ever. While one awaits, the thread of this group's applies waits: it is
/// one of the runtime's blocking threads, and nothing else of the node needs it.
///
#[cfg_attr(feature = "serde", doc = "```")]
#[cfg_attr(not(feature = "serde"), doc = "```text")]
/// use std::io::{self, Read, Write};
/// use quorate::{AsyncStateMachine, Asynchronous, EntryContext, MemoryNetwork, Raft, ReadPolicy};
///
/// struct Sum(u64);
///
/// impl AsyncStateMachine for Sum {
///     type Command = u64;
///     type Response = u64;
///
///     async fn apply(&mut self, _entry: EntryContext, add: u64) -> u64 {
///         tokio::task::yield_now().await; // A query.
///         self.0 += add;
///         self.0
///     }
///
///     async fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
///         out.write_all(&self.0.to_le_bytes())
///     }
///
///     async fn restore(input: &mut dyn Read) -> io::Result<Self> {
///         let mut bytes = [0; 8];
///         input.read_exact(&mut bytes)?;
///         Ok(Self(u64::from_le_bytes(bytes)))
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = MemoryNetwork::new();
/// let peers = [(1, "memory:1")];
/// let raft = Raft::builder(1).peers(peers).in_memory(&network).start(Asynchronous(Sum(0))).await?;
/// assert_eq!(raft.client_write(5).await?.response, 5);
/// assert_eq!(raft.read(ReadPolicy::ReadIndex, |sum| sum.0.0).await?, 5);
/// # raft.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[expect(async_fn_in_trait, reason = "the futures are driven where they are made, so they need not be `Send`")]
pub trait AsyncStateMachine: Sized + Send + 'static {
    /// See [`RaftStateMachine::Command`].
    type Command: Payload;
    /// See [`RaftStateMachine::Response`].
    type Response: Payload;

    /// See [`RaftStateMachine::apply_entry`].
    async fn apply(&mut self, entry: EntryContext, command: Self::Command) -> Self::Response;

    /// See [`RaftStateMachine::snapshot`].
    ///
    /// # Errors
    /// If `out` fails. Everything stays as it was.
    async fn snapshot(&self, out: &mut dyn Write) -> io::Result<()>;

    /// See [`RaftStateMachine::restore`].
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this state machine.
    async fn restore(input: &mut dyn Read) -> io::Result<Self>;

    /// See [`RaftStateMachine::apply_batch`].
    ///
    /// # Errors
    /// If they cannot be applied: the group is closed on this node.
    async fn apply_batch(&mut self, commands: &mut Commands<'_, Asynchronous<Self>>) -> io::Result<()> {
        while let Some((entry, command)) = commands.next_command() {
            let response = self.apply(entry, command).await;
            commands.respond(response);
        }
        Ok(())
    }

    /// See [`RaftStateMachine::last_applied`].
    ///
    /// # Errors
    /// If it cannot be read: the group does not start.
    async fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::InMemory)
    }

    /// See [`RaftStateMachine::install`].
    ///
    /// # Errors
    /// If that fails: the group is closed on this node, and the next start installs it again.
    async fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let _ = checkpoint;
        *self = Self::restore(input).await?;
        Ok(())
    }

    /// See [`RaftStateMachine::freeze`].
    async fn freeze(&self) -> Option<Frozen> {
        None
    }

    /// See [`RaftStateMachine::defer_snapshot`].
    fn defer_snapshot(&self) -> bool {
        false
    }
}

/// An [`AsyncStateMachine`] as a [`RaftStateMachine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asynchronous<M>(pub M);

impl<M> Deref for Asynchronous<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> DerefMut for Asynchronous<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.0
    }
}

impl<M: AsyncStateMachine> RaftStateMachine for Asynchronous<M> {
    type Command = M::Command;
    type Response = M::Response;

    fn apply(&mut self, _command: M::Command) -> M::Response {
        unreachable!("the library applies batches, which this type provides")
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        block_on(self.0.snapshot(out))
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        block_on(M::restore(input)).map(Self)
    }

    fn apply_entry(&mut self, entry: EntryContext, command: M::Command) -> M::Response {
        block_on(self.0.apply(entry, command))
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        block_on(self.0.apply_batch(commands))
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        block_on(self.0.last_applied())
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        block_on(self.0.install(input, checkpoint))
    }

    fn freeze(&self) -> Option<Frozen> {
        block_on(self.0.freeze())
    }

    fn defer_snapshot(&self) -> bool {
        self.0.defer_snapshot()
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives a future on this thread, which may block. Timers and sockets of the runtime work: its blocking threads know
/// the runtime, which drives them elsewhere.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
