//! The `quorate` server: a durable cluster with an etcd v3 face.
//!
//! It uses only the public API of the library, and so is the proof that the API is enough. In reading order:
//! [`mvcc`] (etcd's semantics as a state machine), [`proto`] (etcd's messages and services), [`face`] (the services
//! on the library), [`node`] (one node), [`topology`] (names and addresses), [`cli`] (the commands).

pub mod cli;
pub mod face;
mod gather;
#[cfg(feature = "lossy-disk")]
mod lossy_disk;
pub mod mvcc;
pub mod node;
pub mod proto;
pub mod test_build;
pub mod topology;
