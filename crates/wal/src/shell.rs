//! The log with its own thread: [`Wal`]. Nothing is decided here.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle};
use std::time;

use quorate_core::Instant;

use crate::disk::Disk;
use crate::error::WalError;
use crate::handle::{Shared, WalHandle, lock};
use crate::open::WalCore;
use crate::options::WalOptions;
use crate::turn::Wake;

/// A log with its own thread. Dropped, it is shut down.
#[derive(Debug)]
pub struct Wal {
    handle: WalHandle,
    thread: Option<JoinHandle<Result<(), WalError>>>,
}

impl Wal {
    /// Opens a data directory, formatting a blank one, and starts the log's thread.
    ///
    /// # Errors
    /// As [`WalCore::open`], or if the thread cannot be started.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<Wal, WalError> {
        let (core, handle) = WalCore::open(disk, dir, options)?;
        let named = thread::Builder::new().name("quorate-wal".to_owned());
        let thread = named.spawn(move || run(core)).map_err(WalError::io("start the log's thread for", dir))?;
        Ok(Wal { handle, thread: Some(thread) })
    }

    /// A handle to the log.
    pub fn handle(&self) -> WalHandle {
        self.handle.clone()
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

fn run(mut core: WalCore) -> Result<(), WalError> {
    let started = time::Instant::now();
    let now = || Instant::from_nanos(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    loop {
        match core.turn(now()) {
            Wake::Again => {}
            Wake::Idle => wait(core.shared(), None),
            Wake::At(at) => wait(core.shared(), Some(at.since(now()))),
        }
        if lock(&core.shared().state).stopping {
            return core.close(now());
        }
    }
}

/// Waits until something is submitted, the log is to stop, or so much time passed.
fn wait(shared: &Shared, at_most: Option<time::Duration>) {
    let state = lock(&shared.state);
    if state.dirty || state.stopping {
        return;
    }
    // Woken for nothing, the thread takes a turn for nothing.
    match at_most {
        Some(time) => drop(shared.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner)),
        None => drop(shared.work.wait(state).unwrap_or_else(PoisonError::into_inner)),
    }
}
