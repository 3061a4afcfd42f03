//! Flips bytes on one node's disk in a cluster of three, one at a time, and sees it repaired from the others:
//! `cargo run --profile ci -p quorate-sim --example flips [STRIDE]`; with stride 1 every byte that was ever written: of
//! segments, votes, identity, peers and snapshots. Fails if a node needs an operator.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a failed step ends the program")]

#[path = "../tests/trio/mod.rs"]
mod trio;

use std::process::ExitCode;

use trio::{Seen, Trio, flip, written};

fn main() -> ExitCode {
    let stride = std::env::args().nth(1).map_or(29, |stride| stride.parse().expect("the stride is a number"));
    let trio = Trio::stopped(3);
    let (mut all, mut refused) = ([0; 4], Vec::new());
    for (path, _) in trio.files(1) {
        let mut seen = [0; 4];
        for offset in written(&trio, 1, &path).into_iter().step_by(stride) {
            let what = format!("{} at {offset}", path.display());
            seen[match flip(&trio, 1, &path, offset).repairs(1, &what) {
                Seen::Harmless => 0,
                Seen::AtStart => 1,
                Seen::WhenRead => 2,
                Seen::Refused(error) => {
                    refused.push(format!("{what}: {error}"));
                    3
                }
            }] += 1;
        }
        println!(
            "{}: harmless {}, seen at the start {}, seen when read {}, refused by name {}",
            path.display(),
            seen[0],
            seen[1],
            seen[2],
            seen[3]
        );
        all.iter_mut().zip(seen).for_each(|(sum, count)| *sum += count);
    }
    println!("flips: {}; every one seen or harmless, none of them lost anything", all.iter().sum::<u32>());
    refused.dedup_by_key(|error| error.split(" at ").next().unwrap_or_default().to_owned());
    refused.iter().for_each(|error| println!("    {error}"));
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
