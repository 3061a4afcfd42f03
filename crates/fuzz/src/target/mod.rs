//! The six targets.

mod client;
mod frame;
mod log;
mod message;
mod meta;
mod snapshot;

use crate::outcome::Outcome;

pub use client::client;
pub use frame::frame;
pub use log::log;
pub use message::message;
pub use meta::meta;
pub use snapshot::snapshot;

/// A target, its corpus, and how its checksums are put right.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What is tried. Panics if something is wrong with the library.
    pub run: fn(&[u8]) -> Outcome,
    /// Valid inputs.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Puts the checksums in an input right, as far as it can be read.
    pub repair: fn(&mut [u8]),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "frame", run: frame, corpus: frame::corpus, repair: frame::repair },
    Target { name: "message", run: message, corpus: message::corpus, repair: message::repair },
    Target { name: "log", run: log, corpus: log::corpus, repair: log::repair },
    Target { name: "snapshot", run: snapshot, corpus: snapshot::corpus, repair: snapshot::repair },
    Target { name: "meta", run: meta, corpus: meta::corpus, repair: meta::repair },
    Target { name: "client", run: client, corpus: client::corpus, repair: client::repair },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
