//! Damages bytes on one node's disk, one at a time: `cargo run --profile ci -p quorate-sim --example flips [STRIDE]`; with
//! stride 1 every byte that was ever written: of segments, votes, identity, peers and snapshots. Each byte gets one bit
//! flipped, and several. In a cluster of three it is repaired from the others; a node alone serves on with all it had, or
//! stops and names the entries that it lost. Fails if a node of three needs an operator, or one alone does not say so, and
//! for damage that nobody saw where no region of the file says that it need not be.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a failed step ends the program")]

#[path = "../tests/trio/mod.rs"]
mod trio;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use trio::regions::{Region, Regions};
use trio::{Seen, Trio, flip_bits, written};

/// Without an argument: some thousand flips.
const STRIDE: usize = 7;

/// How often damage to a file was seen how.
#[derive(Default)]
struct Counts {
    harmless: BTreeMap<Region, u32>,
    /// Not seen, and nothing says that it need not be: which.
    unseen: Vec<String>,
    at_start: u32,
    when_read: u32,
    halted: u32,
}

impl Counts {
    fn note(&mut self, seen: &Seen, region: Option<Region>, what: String) {
        match seen {
            Seen::Not { .. } => match region {
                Some(region) => *self.harmless.entry(region).or_default() += 1,
                None => self.unseen.push(what),
            },
            Seen::AtStart => self.at_start += 1,
            Seen::WhenRead => self.when_read += 1,
            Seen::Halted => self.halted += 1,
        }
    }
}

/// What became of damage.
struct Flip {
    seen: Seen,
    /// Where it may go unseen.
    region: Option<Region>,
    what: String,
}

/// A file of a cluster of so many.
type Place = (usize, PathBuf);

fn main() -> ExitCode {
    let stride = std::env::args().nth(1).map_or(STRIDE, |stride| stride.parse().expect("the stride is a number"));
    let threads = available_parallelism().map_or(1, usize::from);
    let mut counts: BTreeMap<Place, Counts> = BTreeMap::new();
    let mut sum = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|mine| scope.spawn(move || damage_some(stride, |number| number % threads == mine)))
            .collect();
        for worker in workers {
            for (place, Flip { seen, region, what }) in worker.join().expect("nothing went wrong") {
                counts.entry(place).or_default().note(&seen, region, what);
                sum += 1;
            }
        }
    });
    let mut by_region: BTreeMap<Region, u32> = BTreeMap::new();
    for ((size, path), Counts { harmless, at_start, when_read, halted, .. }) in &counts {
        println!(
            "{size} nodes, {}: harmless {}, seen at the start {at_start}, seen later {when_read}, halted and named {halted}",
            path.display(),
            harmless.values().sum::<u32>(),
        );
        harmless.iter().for_each(|(region, count)| *by_region.entry(*region).or_default() += count);
    }
    println!("not seen, and harmless: {by_region:?}");
    let unseen: Vec<&String> = counts.values().flat_map(|counts| &counts.unseen).collect();
    if !unseen.is_empty() {
        unseen.iter().for_each(|what| println!("NOT SEEN, and no reason why: {what}"));
        return ExitCode::FAILURE;
    }
    println!(
        "flips: {sum}, at every byte with stride {stride}; every one seen or harmless, none of them lost anything"
    );
    ExitCode::SUCCESS
}

/// Damages every `stride`th byte of those whose number is ours: first of three nodes, then of one.
fn damage_some(stride: usize, ours: impl Fn(usize) -> bool) -> Vec<(Place, Flip)> {
    let (three, alone) = (Trio::stopped(3), Trio::stopped(1));
    let mut whole = alone.copy();
    whole.start(0).unwrap();
    let end = whole.last_index(0);
    let mut found = Vec::new();
    let mut number = 0;
    for (trio, size, at) in [(&three, 3, 1), (&alone, 1, 0)] {
        let regions = Regions::of(trio, at);
        for (path, _) in trio.files(at) {
            for offset in written(trio, at, &path).into_iter().step_by(stride) {
                number += 1;
                if !ours(number) {
                    continue;
                }
                for mask in masks(offset + number as u64) {
                    let what = format!("{size} nodes, {} at {offset}, {mask:#04x}", path.display());
                    let damaged = flip_bits(trio, at, &path, offset, mask);
                    let seen = match size {
                        1 => damaged.serves_or_names(end, &what),
                        _ => damaged.repairs(at, &what),
                    };
                    let region = match seen {
                        Seen::Not { purged } => regions.harmless(&path, offset, purged),
                        Seen::AtStart | Seen::WhenRead | Seen::Halted => None,
                    };
                    found.push(((size, path.clone()), Flip { seen, region, what }));
                }
            }
        }
    }
    found
}

/// One bit, and a random number of them.
fn masks(seed: u64) -> [u8; 2] {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let one = 1 << (mixed % 8);
    let some = (mixed >> 32) as u8;
    [one, if some.count_ones() > 1 { some } else { !one }]
}
