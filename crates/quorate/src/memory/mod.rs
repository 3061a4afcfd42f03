//! Log, snapshots and network inside one process, for tests, benchmarks and caches.

mod network;
mod snapshots;
mod storage;

pub(crate) use network::Links;
pub use network::{Link, MemoryEndpoint, MemoryNetwork};
pub use snapshots::MemorySnapshots;
pub(crate) use storage::MemoryLog;
pub use storage::MemoryStorage;
