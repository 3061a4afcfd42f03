//! Hostile bytes for everything in Quorate that reads bytes from outside.
//!
//! Six targets, each a plain function of bytes: [`frame`], [`message`], [`log`], [`snapshot`], [`meta`], [`client`].
//! What a target accepts it writes again and reads again, goes on with it as a node would, and compares; it panics if
//! anything is wrong, and never because of the bytes. A seeded mutator of our own ([`mutate`], [`run`]) makes inputs out
//! of valid ones and puts checksums right after most changes, so that what is behind them is reached.
//!
//! `cargo xtask fuzz` runs them; `tests/targets.rs` runs a fixed number of inputs of each, and those that once found
//! something (`testdata/hostile`); `benches/hostile.rs` of `quorate-bench` bounds what they allocate; the wrappers in
//! `fuzz/`, outside of the workspace, hand them to libFuzzer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

mod dir;
mod mutate;
mod outcome;
mod parts;
mod repair;
mod rng;
mod run;
mod samples;
mod target;

pub use mutate::{MAX_INPUT_BYTES, mutate};
pub use outcome::Outcome;
pub use rng::Rng;
pub use run::{Report, change, hex, inputs, run, unhex};
pub use target::{TARGETS, Target, client, frame, log, message, meta, snapshot, target};
