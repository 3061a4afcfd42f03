//! `Core::step` alone, on the steady path: a leader and two followers, entries proposed one or 64 at a time, made
//! durable, acknowledged, committed and applied.
//!
//! `cargo bench -p quorate-bench --bench step` prints events per second and allocations per event of the leader and of
//! a follower. First the three cores run, and what each of them is told is written down; then one of them is told the
//! same again, with nothing else in the loop. As a test (`cargo test -p quorate-bench --bench step`) it measures no
//! time, and fails if the steady path allocates.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the benchmark")]

use std::process::ExitCode;
use std::time::Duration;

use quorate_core::{Actions, Core};
use quorate_guard::counting;
use quorate_guard::steady::{Told, World};

/// Batches before anything is measured: until every window and every list of bounded length is as large as it gets.
const WARM_UP: usize = 10_000;

/// What playing one node's events again took.
struct Measured {
    events: usize,
    allocations: u64,
    took: Duration,
}

impl Measured {
    fn line(&self, who: &str, batch: u64) -> String {
        let events = self.events as f64;
        let (seconds, each) = (self.took.as_secs_f64(), self.took.as_nanos() as f64 / events);
        format!(
            "{who:<9} batches of {batch:>2}: {:>11.0} events/s, {each:>6.1} ns an event, {} allocations in {} events ({:.6} an event)",
            events / seconds,
            self.allocations,
            self.events,
            self.allocations as f64 / events
        )
    }
}

/// Tells `core` everything again, and measures what comes after `warm`.
fn replay(mut core: Core, mut told: Vec<Told>, warm: usize) -> Measured {
    let mut out = Actions::new();
    let measured = told.split_off(warm);
    for Told { now, event } in told {
        core.step(now, event, &mut out);
        out.0.clear();
    }
    let events = measured.len();
    let (before, began) = (counting::allocations(), std::time::Instant::now());
    for Told { now, event } in measured {
        core.step(now, event, &mut out);
        std::hint::black_box(&out);
        out.0.clear();
    }
    Measured { events, allocations: counting::allocations() - before, took: began.elapsed() }
}

/// The leader and a follower, each told again what it was told in `batches` proposals of `count` entries.
fn measure(count: u64, batches: usize) -> [Measured; 2] {
    let mut world = World::new();
    let cores = world.cores.clone();
    world.told.iter_mut().for_each(Vec::clear);
    (0..WARM_UP).for_each(|_| world.propose(count));
    let warm: Vec<usize> = world.told.iter().map(Vec::len).collect();
    let from = world.cores[0].last_log_id().index;
    (0..batches).for_each(|_| world.propose(count));
    let end = world.cores[0].last_log_id().index;
    assert_eq!(end - from, count * batches as u64, "the path is not steady: another leader, or refused proposals");
    assert!(world.cores.iter().all(|core| core.applied().index >= end - count), "the path is not steady: it lags");
    [0, 1].map(|at| replay(cores[at].clone(), std::mem::take(&mut world.told[at]), warm[at]))
}

fn main() -> ExitCode {
    // Cargo says so when it is to be a benchmark.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let batches = if is_bench { 100_000 } else { 5_000 };
    let mut allocations = 0;
    for count in [1, 64] {
        let [leader, follower] = measure(count, batches);
        allocations += leader.allocations + follower.allocations;
        if is_bench {
            println!("{}", leader.line("leader,", count));
            println!("{}", follower.line("follower,", count));
        } else {
            let (events, made) = (leader.events + follower.events, leader.allocations + follower.allocations);
            println!("batches of {count}: {events} events, {made} allocations");
        }
    }
    if allocations > 0 {
        eprintln!("the steady path allocates");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
