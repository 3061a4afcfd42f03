//! Paths that every write takes, made small enough to be counted: `cargo xtask guard` runs each of them under callgrind
//! and compares the instructions of one operation with docs/instructions.tsv.
//!
//! Only what runs inside [`measured`] counts. What a path needs before, and what warms it up, does not.

pub mod paths;
pub mod steady;

/// Runs what is counted. Callgrind is told to collect while this function is on the stack, by its name.
#[inline(never)]
pub fn measured<T>(work: impl FnOnce() -> T) -> T {
    // Not the last thing that is done: a tail call would leave this function before the work begins.
    std::hint::black_box(work())
}
