//! Whose panic it is: storages, networks and clocks may be their user's, as state machines are.
//!
//! A panic of one ends the group that it worked for, and the reason names it. Where no group works, it is only told.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::{ClosedReason, StartError, StorageError, StorageErrorKind};

thread_local! {
    /// Who panics on this thread, until that is caught.
    static BLAMED: Cell<Option<Culprit>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
enum Culprit {
    Storage,
    Network,
    Clock,
}

/// A panic that was caught. What it was made with is its maker's, as the code that panicked is, and may panic when it is
/// dropped: that must not go on from here, where locks are held and words are claimed.
pub(crate) struct Caught(Option<Box<dyn Any + Send>>);

/// Calls what is not this library's own, or must not take others with it.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Caught> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Caught(Some(panic)))
}

impl Caught {
    /// What it said.
    pub(crate) fn text(&self) -> String {
        let said = self.0.as_ref().and_then(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref::<String>().cloned())
        });
        said.unwrap_or_else(|| "a panic without a message".into())
    }

    /// Goes on with it. It was told when it was made.
    pub(crate) fn resume(mut self) -> ! {
        resume_unwind(self.0.take().unwrap_or_else(|| Box::new(())))
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        let left = self.0.take();
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(left))) {
            // It may go on like this for ever.
            std::mem::forget(another);
        }
    }
}

fn blame<T>(culprit: Culprit, call: impl FnOnce() -> T) -> T {
    catch(call).unwrap_or_else(|panic| {
        BLAMED.set(Some(culprit));
        panic.resume()
    })
}

/// Calls a log or snapshot store; if it panics, [`reason`] says so.
pub(crate) fn storage<T>(call: impl FnOnce() -> T) -> T {
    blame(Culprit::Storage, call)
}

/// Calls a store for no group; a panic is its error.
pub(crate) fn stored<T>(call: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch(call).unwrap_or_else(|panic| Err(panicked(&panic.text())))
}

/// What a store reads and writes snapshots with: its panics are the store's, also where a state machine calls it.
pub(crate) struct Stored<T>(pub(crate) T);

impl<T: Read> Read for Stored<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        storage(|| self.0.read(buffer))
    }
}

impl<T: Write> Write for Stored<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        storage(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        storage(|| self.0.flush())
    }
}

/// Whether the panic that was just caught on this thread is a storage's, a network's or a clock's.
pub(crate) fn is_known() -> bool {
    BLAMED.get().is_some()
}

/// Calls user code while a host or a group is started; a panic says whose it was, and nothing runs.
pub(crate) fn at_start<T>(call: impl FnOnce() -> T) -> Result<T, StartError> {
    catch(call).map_err(|panic| {
        let machine = |text| ClosedReason::StateMachine(format!("it panicked: {text}"));
        StartError::Panicked(reason(&panic, machine).to_string())
    })
}

/// Reads a wall clock; if it panics, [`reason`] says so.
pub(crate) fn clock<T>(call: impl FnOnce() -> T) -> T {
    blame(Culprit::Clock, call)
}

/// Calls a network; if it panics, [`reason`] says so.
pub(crate) fn network<T>(call: impl FnOnce() -> T) -> T {
    blame(Culprit::Network, call)
}

/// Calls a network, or a store that is closed, for no group; a panic is told, and answered with `otherwise`.
pub(crate) fn told<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch(call).unwrap_or_else(|panic| {
        let panic = panic.text();
        tracing::error!(name: "network_panicked", target: crate::events::NODE, panic, "the network or a store panicked");
        otherwise
    })
}

/// Why the group that worked when this panic came is over; `otherwise` if it was none of them.
pub(crate) fn reason(panic: &Caught, otherwise: impl FnOnce(String) -> ClosedReason) -> ClosedReason {
    let text = panic.text();
    match BLAMED.take() {
        Some(Culprit::Storage) => ClosedReason::Storage(panicked(&text)),
        Some(Culprit::Network) => ClosedReason::Network(format!("it panicked: {text}")),
        Some(Culprit::Clock) => ClosedReason::Clock(format!("it panicked: {text}")),
        None => otherwise(text),
    }
}

/// The failure of a storage that panicked with this message.
fn panicked(text: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Poisoned, format!("it panicked: {text}"))
}
