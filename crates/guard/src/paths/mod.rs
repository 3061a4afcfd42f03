//! The paths. Each is one thread's work and the same at every run, but for what a clock decides now and then (a
//! heartbeat, a sweep) in the paths through the public API.

mod core;
mod put;
mod wal;
mod wire;

use std::error::Error;

/// Something whose instructions are counted.
pub struct Path {
    /// What it is called in docs/instructions.tsv.
    pub name: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// Runs it; returns how many operations were measured.
    pub run: fn() -> Result<u64, Box<dyn Error>>,
}

/// All of them.
pub const PATHS: &[Path] = &[
    Path {
        name: "core-leader",
        what: "a proposal of one entry on the leader of three: proposed, durable, acknowledged by both, committed, applied",
        run: core::leader,
    },
    Path {
        name: "core-follower",
        what: "an append of 64 entries on a follower: accepted, durable, acknowledged, applied",
        run: core::follower,
    },
    Path { name: "wire", what: "a packet with 64 entries of 256 bytes, encoded and decoded", run: wire::packet },
    Path { name: "wal", what: "a turn of the log that writes and syncs 16 entries of 256 bytes", run: wal::turn },
    Path {
        name: "put-1",
        what: "client_write by one client, three nodes in memory on one thread (the fused form)",
        run: put::one_client,
    },
    Path {
        name: "put-many",
        what: "an entry of client_write_many with batches of 64, by one client, in the same way",
        run: put::in_batches,
    },
    Path { name: "put-64", what: "client_write by one of 64 clients, in the same way", run: put::many_clients },
    Path {
        name: "read-lease",
        what: "a read by a lease, answered on the caller's thread, in the same way",
        run: put::lease_reads,
    },
];
