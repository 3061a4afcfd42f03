//! Paths that every write takes, made small enough to be counted: `cargo xtask guard` runs each of them under callgrind
//! and compares the instructions of one operation with docs/instructions.tsv.
//!
//! Only what runs inside [`measured`] counts. What a path needs before, and what warms it up, does not.

pub mod counting;
pub mod paths;
pub mod steady;

use std::sync::atomic::{AtomicU64, Ordering};

/// Allocations inside of `measured`, by all threads.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Runs what is counted. Callgrind is told to collect while this function is on the stack, by its name.
#[inline(never)]
pub fn measured<T>(work: impl FnOnce() -> T) -> T {
    let before = counting::allocations();
    let done = std::hint::black_box(work());
    ALLOCATIONS.fetch_add(counting::allocations() - before, Ordering::Relaxed);
    done
}

/// Allocations while something was [measured].
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}
