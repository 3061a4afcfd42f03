//! The log with its own thread: [`Wal`]. Nothing is decided here.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time;

use quorate_core::{GroupId, Instant};

use crate::baton::Turn;
use crate::disk::Disk;
use crate::error::WalError;
use crate::handle::{WalHandle, WalWrite, lock};
use crate::open::WalCore;
use crate::options::WalOptions;
use crate::turn::Wake;

/// How long the log's thread leaves others to take its turns: as long as the closing mark waits by default.
const AMONG_THREADS: time::Duration = time::Duration::from_millis(5);

/// A log with its own thread. Dropped, it is shut down.
#[derive(Debug)]
pub struct Wal {
    handle: WalHandle,
    clock: Clock,
    thread: Option<JoinHandle<Result<(), WalError>>>,
}

impl Wal {
    /// Opens a data directory, formatting a blank one, and starts the log's thread.
    ///
    /// # Errors
    /// As [`WalCore::open`], or if the thread cannot be started.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<Wal, WalError> {
        let (core, handle) = WalCore::open(disk, dir, options)?;
        let clock = Clock(time::Instant::now());
        let named = thread::Builder::new().name("quorate-wal".to_owned());
        let thread = named.spawn(move || run(core, clock)).map_err(WalError::io("start the log's thread for", dir))?;
        Ok(Wal { handle, clock, thread: Some(thread) })
    }

    /// A handle to the log.
    pub fn handle(&self) -> WalHandle {
        self.handle.clone()
    }

    /// Takes a write of an open group and waits until it is durable: as [`submit`](WalHandle::submit) and a wait for its
    /// completion, but for a thread that waits anyway it is less: it writes and syncs itself if nobody is at it, and what
    /// others submitted with it. So completions of groups may be called from here. Blocks; not to be called from a
    /// completion, which it would wait for.
    ///
    /// # Errors
    /// What the completion would be told.
    ///
    /// # Panics
    /// If the group was not opened; if a completion does.
    pub fn write(&self, group: GroupId, op: WalWrite) -> Result<(), WalError> {
        self.handle.shared.write(group, op, || self.clock.now())
    }

    /// Writes everything submitted, closes the log and waits for its thread. Blocks.
    ///
    /// # Errors
    /// The first failure of this log, if there was one.
    pub fn shutdown(mut self) -> Result<(), WalError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), WalError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        lock(&self.handle.shared.state).stopping = true;
        self.handle.shared.work.notify_all();
        if thread.thread().id() == thread::current().id() {
            // Dropped by a completion, on the log's own thread: it stops by itself.
            return Ok(());
        }
        thread.join().unwrap_or(Err(WalError::Closed))
    }
}

/// The log's time: how long it is open.
#[derive(Clone, Copy, Debug)]
struct Clock(time::Instant);

impl Clock {
    fn now(self) -> Instant {
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Deref for Wal {
    type Target = WalHandle;

    fn deref(&self) -> &WalHandle {
        &self.handle
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // Whoever wants to know of a failure calls `shutdown`.
        let _ = self.stop();
    }
}

fn run(core: WalCore, clock: Clock) -> Result<(), WalError> {
    let shared = Arc::clone(core.shared());
    loop {
        let mut turn = Turn::wait(&shared, AMONG_THREADS);
        let wake = turn.take(|| clock.now());
        if lock(&shared.state).stopping {
            // Nobody takes a turn after this one.
            return core.close(clock.now());
        }
        drop(turn);
        match wake {
            Wake::Again => shared.leave_to_threads(AMONG_THREADS),
            Wake::Idle => shared.sleep(None),
            Wake::At(at) => shared.sleep(Some(at.since(clock.now()))),
        }
    }
}
