//! What a directory keeps beside its log: identity, votes, peers, and decisions that an opening finishes.

use crate::dir;
use crate::outcome::Outcome;
use crate::parts::{self, File, Parts};
use crate::repair as mend;
use crate::samples::{CLUSTER, GROUP};

/// The files, by their number in an input.
const NAMES: [&str; 7] = ["identity", "vote.a", "vote.b", "peers", "recovery", "mended", "damage-seen"];

fn name(number: u64) -> &'static str {
    NAMES[(number % NAMES.len() as u64) as usize]
}

/// Files of a directory whose log is whole.
pub fn meta(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let disk = dir::copy(&dir::lived()[0]);
    for File { number, bytes } in parts::split(bytes) {
        dir::put(&disk, &dir::dir().join(name(number)), &bytes);
    }
    dir::check(&disk, &mut outcome);
    outcome
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let file = |number: u64| Some(File { number, bytes: dir::read(&dir::lived()[0], name(number))? });
    let mut corpus: Vec<Vec<File>> = (0..4).filter_map(file).map(|file| vec![file]).collect();
    corpus.push((0..4).filter_map(file).collect());
    corpus.push((1..3).filter_map(file).collect());
    if let Some((recovery, identity)) = dir::recovering() {
        let recovery = File { number: 4, bytes: recovery };
        corpus.push(vec![recovery.clone(), File { number: 0, bytes: identity }]);
        corpus.push(vec![recovery]);
    }
    let mut decision = vec![0; 32];
    decision[..8].copy_from_slice(b"QRMMENDS");
    decision[8] = 1;
    decision[16] = 1;
    mend::tail(&mut decision);
    corpus.push(vec![File { number: 5, bytes: decision }]);
    corpus.push(vec![File { number: 6, bytes: Vec::new() }]);
    corpus.push(vec![File { number: 6, bytes: note() }]);
    corpus.iter().map(|files| parts::join(files)).collect()
}

/// A note of damage: more was durable than the log holds.
fn note() -> Vec<u8> {
    let mut note = vec![0; 72 + 32 + 4];
    note[..8].copy_from_slice(b"QRMNOTED");
    note[8] = 1;
    note[16..32].copy_from_slice(&CLUSTER.0.to_le_bytes());
    note[32..48].copy_from_slice(&dir::INCARNATION.to_le_bytes());
    for (i, field) in [1, 60_000, 1, GROUP.0, 9, 1, 99].into_iter().enumerate() {
        note[48 + 8 * i..56 + 8 * i].copy_from_slice(&u64::to_le_bytes(field));
    }
    mend::tail(&mut note);
    note
}

pub(super) fn repair(bytes: &mut [u8]) {
    for mut part in Parts::of_mut(bytes) {
        match name(part.number) {
            "identity" | "peers" => mend::record(&mut part.stored),
            "vote.a" | "vote.b" => mend::votes(&mut part.stored),
            _ => drop(mend::tail(&mut part.stored)),
        }
        part.put_back();
    }
}
