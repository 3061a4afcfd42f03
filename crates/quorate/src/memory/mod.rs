//! Log, snapshots and network inside one process, for tests, benchmarks and caches.

mod network;
mod snapshots;
mod storage;

pub use network::{MemoryEndpoint, MemoryNetwork};
pub use snapshots::MemorySnapshots;
pub use storage::MemoryStorage;
