//! Snapshots keep everything, and damaged ones are refused.

use super::requests::{Random, random_command};
use super::*;

fn snapshot(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.snapshot(&mut bytes).unwrap();
    bytes
}

fn restore(bytes: &[u8]) -> std::io::Result<Store> {
    let mut input = bytes;
    Store::restore(&mut input)
}

fn some_store() -> Store {
    let mut random = Random::new(7);
    let mut store = Store::new();
    for _ in 0..300 {
        let command = random_command(&mut random, store.revision());
        store.apply(command.encode());
    }
    let attributes = crate::mvcc::MemberAttributes { id: 3, name: "n3".into(), client_urls: vec!["http://x:1".into()] };
    store.apply(Command::Member(attributes).encode());
    store
}

#[test]
fn a_restored_store_is_the_same_with_all_its_history() {
    let store = some_store();
    assert!(store.compacted > 0 && store.keys.len() > 5, "the sample has something to keep");
    assert_eq!(restore(&snapshot(&store)).unwrap(), store);
    assert_eq!(restore(&snapshot(&Store::new())).unwrap(), Store::new());
}

#[test]
fn a_frozen_store_is_written_as_it_was() {
    let mut store = some_store();
    let before = snapshot(&store);
    let frozen = store.freeze().expect("it can be frozen");
    put(&mut store, "later", "x");
    let mut bytes = Vec::new();
    frozen(&mut bytes).unwrap();
    assert_eq!(bytes, before);
    assert_ne!(snapshot(&store), before);
}

#[test]
fn a_snapshot_cut_off_anywhere_is_refused() {
    let bytes = snapshot(&some_store());
    for len in (0..bytes.len()).step_by(7) {
        assert!(restore(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn a_flipped_bit_never_panics_and_never_makes_an_impossible_store() {
    let bytes = snapshot(&some_store());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let Ok(mut store) = restore(&damaged) else { continue };
        // The library's checksums find such damage; what gets past them must still behave.
        let _ = store.range(&range_request("\0", "\0")).unwrap();
        let now = store.revision();
        if now < i64::MAX {
            put(&mut store, "a", "x");
        }
    }
}

#[test]
fn a_foreign_or_newer_snapshot_is_named_as_such() {
    let text = |bytes: &[u8]| restore(bytes).unwrap_err().to_string();
    assert!(text(b"something else altogether").contains("does not begin as one"));
    let mut newer = snapshot(&Store::new());
    newer[8] = 2;
    assert!(text(&newer).contains("version 2, this program knows version 1"));
}
