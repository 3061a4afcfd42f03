//! Builds that lose data on purpose, for tests.

use quorate::{Builder, RaftStateMachine};

/// Why a test build does not start without being told that it is one; `None` in a build for users.
pub const WARNING: Option<&str> = if cfg!(feature = "bug-ack-before-fsync") {
    Some("this is a test build with a planted bug: it acknowledges writes before they are durable")
} else if cfg!(feature = "lossy-disk") {
    Some("this is a test build: its disk loses unsynced bytes when the process is killed")
} else if cfg!(feature = "mutants") {
    Some("this is a test build: bugs can be planted in it")
} else {
    None
};

/// No build with one of these features is without the warning, and the command line asks for it before a node starts.
#[cfg(any(feature = "bug-ack-before-fsync", feature = "lossy-disk", feature = "mutants"))]
const _: () = assert!(WARNING.is_some(), "a test build says so");

/// Gives a node the disk of this build.
pub fn with_disk<S: RaftStateMachine>(builder: Builder<S>) -> Builder<S> {
    #[cfg(feature = "lossy-disk")]
    let builder = builder.disk(std::sync::Arc::new(crate::lossy_disk::LossyDisk::new()));
    builder
}
