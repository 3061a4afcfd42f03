//! How much memory hostile bytes take: the targets of `quorate-fuzz` under an allocator that counts bytes.
//!
//! `cargo test -p quorate-bench --bench hostile` tries a fixed number of inputs of each target and fails if one of them
//! made more live at a time than a multiple of its length and a constant allow. `cargo bench -p quorate-bench --bench
//! hostile` tries a hundred times as many.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the benchmark")]

use std::process::ExitCode;

use quorate_fuzz::{TARGETS, Target, inputs};

/// Counts live bytes: with `step.rs` the only place in the workspace with `unsafe`, and never part of what is published.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    static LIVE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    struct Counting;

    fn grew(by: usize) {
        let live = LIVE.fetch_add(by, Ordering::Relaxed) + by;
        MOST.fetch_max(live, Ordering::Relaxed);
    }

    // SAFETY: every call goes to the system's allocator as it is; counting touches no memory that is handed out.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            grew(layout.size());
            // SAFETY: the caller keeps to the contract of `alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: `at` is from `System`, with this layout.
            unsafe { System.dealloc(at, layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            grew(size);
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: `at` is from `System`, with this layout; the caller keeps to the contract of `realloc`.
            unsafe { System.realloc(at, layout, size) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;

    /// What `call` gives, and the most bytes that were live at a time beyond those before it.
    pub(super) fn most_during<T>(call: impl FnOnce() -> T) -> (T, usize) {
        let before = LIVE.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let given = call();
        (given, MOST.load(Ordering::Relaxed).saturating_sub(before))
    }
}

/// Live bytes that an input of a target may make: so many for each of its own, and so many besides. Messages become
/// structures that are larger than their bytes, and the targets hold each two or three times to compare them. A frame
/// may reserve 8 MiB on the word of its length; the others besides are the directory and the files that an input is put
/// into, and what opening them allocates at a time. Seen were 12.6 MiB (frame), 11 KiB (message), 2.2 MiB (log, meta,
/// snapshot) and 70 KiB (client: empty operations of two bytes become structures of hundreds).
fn limits(target: &Target) -> (usize, usize) {
    match target.name {
        "frame" => (64, 16 << 20),
        "message" => (64, 64 << 10),
        "client" => (1024, 256 << 10),
        _ => (64, 8 << 20),
    }
}

fn main() -> ExitCode {
    let factor = if std::env::args().any(|arg| arg == "--bench") { 100 } else { 1 };
    let mut failed = false;
    for target in TARGETS {
        let count = factor * if matches!(target.name, "log" | "meta" | "snapshot") { 300 } else { 3000 };
        failed |= !holds(&target, count);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Tries inputs; whether all of them kept to the limits.
fn holds(target: &Target, count: usize) -> bool {
    let (each, besides) = limits(target);
    let (mut tried, mut kept, mut most) = (0, true, (0, 0));
    // The corpus and what is made once are there before anything is counted.
    for input in (target.corpus)() {
        let _ = (target.run)(&input);
    }
    inputs(target, 7, |input| {
        if tried == count {
            return None;
        }
        tried += 1;
        let (outcome, bytes) = counting::most_during(|| (target.run)(input));
        most = most.max((bytes, input.len()));
        if bytes > each * input.len() + besides {
            println!("{}: input {tried} of {} bytes took {bytes}", target.name, input.len());
            kept = false;
        }
        Some(outcome)
    });
    println!("{:<9} {tried} inputs, at most {} bytes live at a time, for an input of {}", target.name, most.0, most.1);
    kept
}
