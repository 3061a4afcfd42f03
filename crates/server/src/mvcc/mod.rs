//! etcd's key-value semantics as a [`RaftStateMachine`](quorate::RaftStateMachine).
//!
//! Every write transaction gets the next revision; every key keeps its versions until they are compacted, so that
//! any revision since the last compaction can be read. Nothing here knows of gRPC, clocks or nodes: the same
//! commands in the same order give the same state, byte for byte.
//!
//! In reading order: `history` (one key), `store` (all keys), `range` and `txn` (requests), `check` (what is refused
//! before it is proposed), `command` (the bytes in the log), `machine` (apply), `snapshot` (the bytes of a snapshot).

mod check;
mod command;
mod error;
mod history;
mod machine;
mod range;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod txn;

pub use check::{
    MAX_REQUEST_BYTES, MAX_TXN_DEPTH, MAX_TXN_OPS, MAX_TXN_OPS_IN_ALL, check_delete_range, check_put, check_range,
    check_txn,
};
pub use command::{Command, MemberAttributes, decode_response};
pub use error::KvError;
pub use store::{Sizes, Store};
pub use txn::{is_long, is_read_only};
