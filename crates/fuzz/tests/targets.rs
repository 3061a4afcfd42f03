//! A fixed number of inputs of each target, and every input that once found something.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::path::Path;

use quorate_fuzz::{TARGETS, run, target, unhex};

/// Chosen once; the same inputs in every run.
const SEED: u64 = 20_261_121;

fn tried(name: &str, inputs: u64) {
    let target = target(name).unwrap();
    let report = run(&target, SEED, inputs).unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(report.inputs, inputs);
    println!("{name}: {report}");
    // A target that accepts nothing, or all, tries nothing.
    let share = report.accepted * 100 / report.inputs;
    assert!((1..95).contains(&share), "{name}: {report}");
    assert!(report.ways > 10, "{name}: {report}");
}

#[test]
fn frames_and_handshakes() {
    tried("frame", 20_000);
}

#[test]
fn messages_entries_and_calls() {
    tried("message", 40_000);
}

#[test]
fn segments_of_the_log() {
    tried("log", 1_500);
}

#[test]
fn snapshots_of_this_node_and_of_peers() {
    tried("snapshot", 3_000);
}

#[test]
fn identity_votes_and_peers() {
    tried("meta", 1_000);
}

#[test]
fn requests_of_clients() {
    tried("client", 15_000);
}

#[test]
fn every_valid_input_is_accepted_before_and_after_repair() {
    for target in TARGETS {
        let corpus = (target.corpus)();
        assert!(corpus.len() >= 4, "{}", target.name);
        for (number, input) in corpus.iter().enumerate() {
            let mut repaired = input.clone();
            (target.repair)(&mut repaired);
            assert!(repaired == *input, "{} {number}: a repair changes a valid input", target.name);
        }
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hostile");
    let mut played = 0;
    for folder in std::fs::read_dir(&root).unwrap() {
        let folder = folder.unwrap().path();
        let Some(target) = target(folder.file_name().unwrap().to_str().unwrap()) else { continue };
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let input = unhex(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let played_one = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(played_one.is_ok(), "{}", path.display());
            played += 1;
        }
    }
    assert!(played > 0, "there are such inputs in {}", root.display());
}
