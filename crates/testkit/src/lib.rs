//! Proofs for those who build on Quorate, and for Quorate itself.
//!
//! # Conformance
//!
//! [`storage`], [`storage::snapshots`], [`machine`] and [`network`] check implementations of the library's traits, with one
//! call each. What they find is a [`Report`]: which law is broken, at which step, what was expected and what was there; and
//! which parts were not run, because the suite was not given what they need. Each [`Law`] is seen broken by an
//! implementation with that one mistake in this crate's tests.
//!
//! # Golden scripts
//!
//! Golden scripts for the protocol core: text files that tell a schedule, show what the core does with it,
//! and state what must be true afterwards.
//!
//! A script (see [`script`]) drives a small world of cores in which nothing moves unless it is told to: the
//! clock stands, messages wait on their links, writes wait for the disk. After every step the whole cluster
//! is checked against the safety properties of Raft (dissertation figure 3.2) and against the promises that
//! messages make about disks.

#[cfg(feature = "conformance")]
mod chance;
mod invariants;
#[cfg(feature = "conformance")]
pub mod machine;
#[cfg(feature = "conformance")]
pub mod network;
pub mod quorums;
#[cfg(feature = "conformance")]
mod report;
pub mod script;
#[cfg(feature = "conformance")]
pub mod storage;
mod world;

/// The longest patience that a suite has, about 30 years: `Duration::MAX` is no limit, and no overflow.
#[cfg(feature = "conformance")]
const NO_LIMIT: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 24 * 3600);

#[cfg(feature = "conformance")]
pub use chance::Chance;
#[cfg(feature = "conformance")]
pub use report::{Failure, Law, Outcome, Report};
