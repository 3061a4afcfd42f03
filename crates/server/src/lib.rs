//! The `quorate` server: a durable cluster with an etcd v3 face.
//!
//! It uses only the public API of the library, and so is the proof that the API is enough. In reading order:
//! [`mvcc`] (etcd's semantics as a state machine), [`proto`] (etcd's messages and services).

pub mod mvcc;
pub mod proto;
