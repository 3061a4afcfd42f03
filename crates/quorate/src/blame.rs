//! Whose panic it is: storages and networks may be their user's, as state machines are.
//!
//! A panic of one ends the group that it worked for, and the reason names it. Where no group works, it is only told.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::group::panic_text;
use crate::{ClosedReason, StorageError, StorageErrorKind};

thread_local! {
    /// Who panics on this thread, until that is caught.
    static BLAMED: Cell<Option<Culprit>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
enum Culprit {
    Storage,
    Network,
}

fn blame<T>(culprit: Culprit, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        BLAMED.set(Some(culprit));
        // The panic was told when it was made.
        resume_unwind(panic)
    })
}

/// Calls a log or snapshot store; if it panics, [`reason`] says so.
pub(crate) fn storage<T>(call: impl FnOnce() -> T) -> T {
    blame(Culprit::Storage, call)
}

/// Calls a network; if it panics, [`reason`] says so.
pub(crate) fn network<T>(call: impl FnOnce() -> T) -> T {
    blame(Culprit::Network, call)
}

/// Calls a network for no group; a panic is told, and answered with `otherwise`.
pub(crate) fn told<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let panic = panic_text(&*panic);
        tracing::error!(name: "network_panicked", target: crate::events::NODE, panic, "the network panicked");
        otherwise
    })
}

/// Why the group that worked when this panic came is over; `otherwise` if it was neither storage nor network.
pub(crate) fn reason(panic: &(dyn Any + Send), otherwise: impl FnOnce(String) -> ClosedReason) -> ClosedReason {
    let text = panic_text(panic);
    match BLAMED.take() {
        Some(Culprit::Storage) => ClosedReason::Storage(panicked(&text)),
        Some(Culprit::Network) => ClosedReason::Network(format!("it panicked: {text}")),
        None => otherwise(text),
    }
}

/// The failure of a storage that panicked with this message.
fn panicked(text: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Poisoned, format!("it panicked: {text}"))
}
