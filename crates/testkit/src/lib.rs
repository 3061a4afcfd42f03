//! Golden scripts for the protocol core: text files that tell a schedule, show what the core does with it,
//! and state what must be true afterwards.
//!
//! A script (see [`script`]) drives a small world of cores in which nothing moves unless it is told to: the
//! clock stands, messages wait on their links, writes wait for the disk. After every step the whole cluster
//! is checked against the safety properties of Raft (dissertation figure 3.2) and against the promises that
//! messages make about disks.

mod invariants;
pub mod script;
mod world;
