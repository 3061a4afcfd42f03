//! Damage on one node of three is repaired from the others without an operator; a node alone stops and says what is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests")]

mod trio;

use trio::{Seen, Trio, flip, written};

/// The program `flips` (crates/sim/examples) flips every byte.
#[test]
fn a_flipped_byte_on_one_node_is_repaired_from_the_others() {
    let trio = Trio::stopped(3);
    let mut seen = [0; 4];
    for (path, _) in trio.files(1) {
        for offset in written(&trio, 1, &path).into_iter().step_by(197) {
            let what = format!("{} at {offset}", path.display());
            seen[match flip(&trio, 1, &path, offset).repairs(1, &what) {
                Seen::Harmless => 0,
                Seen::AtStart => 1,
                Seen::WhenRead => 2,
                Seen::Refused(_) => 3,
            }] += 1;
        }
    }
    println!("harmless {}, seen at the start {}, when read {}, refused {}", seen[0], seen[1], seen[2], seen[3]);
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
}

/// A cluster of one has nobody to repair it: it stops, and names what is lost.
#[test]
fn a_node_alone_names_the_lost_entries() {
    let alone = Trio::stopped(1);
    let mut named = 0;
    for (path, bytes) in alone.files(0).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")) {
        for offset in (12 << 10..bytes).step_by(211) {
            let mut damaged = flip(&alone, 0, &path, offset);
            if let Err(error) = damaged.start(0) {
                damaged.refused = Some(error);
            } else {
                damaged.write(1);
            }
            if let Some(error) = damaged.refused {
                let says = error.contains("lost its entries after") && error.contains("quorate recover");
                assert!(says || error.contains("/data"), "{} at {offset}: {error}", path.display());
                named += usize::from(says);
            } else {
                damaged.converge("alone");
            }
        }
    }
    assert!(named > 3, "{named}");
}
