//! Bytes that change at rest: found and named, or harmless; never a log that is silently another.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::mending::{SEGMENT_BYTES, played};
use common::{Model, Rig, Script, dir, options, segment};
use quorate_core::{GroupId, Instant};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, GroupState, WalError};

/// What opening a damaged disk came to.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// An error that names the file.
    Refused,
    /// The log opens, and reading the entries names the file.
    AtRead,
    Harmless,
}

fn names(error: &WalError, path: &Path) -> bool {
    match error {
        WalError::Corrupt(damage) => damage.path == path,
        WalError::OtherVersion { path: found, .. } => found == path,
        _ => false,
    }
}

/// Opens the disk; every group must be what `floor` and its model allow.
fn inspect(disk: &MemDisk, path: &Path, models: &BTreeMap<GroupId, Model>, floors: &[usize], what: &str) -> Seen {
    let rig = match Rig::open(disk, options(SEGMENT_BYTES)) {
        Ok(rig) => rig,
        Err(error) => {
            assert!(names(&error, path), "{what}: {error}");
            return Seen::Refused;
        }
    };
    for ((group, model), floor) in models.iter().zip(floors) {
        let found: GroupState = match rig.group(*group) {
            Ok(found) => found,
            Err(error) => {
                assert!(names(&error, path), "{what}: {error}");
                return Seen::AtRead;
            }
        };
        match rig.read_all(*group, &found, 1 << 20) {
            Err(error) => {
                assert!(names(&error, path), "{what}: {error}");
                return Seen::AtRead;
            }
            Ok(entries) => {
                assert!(model.find(*floor, &found, &entries).is_some(), "{what}: {group:?} is silently {found:?}");
            }
        }
    }
    Seen::Harmless
}

#[test]
fn one_flipped_byte_in_a_closed_log_is_found_or_harmless() {
    let mut counts = BTreeMap::new();
    for seed in 0..2 {
        let (disk, script, rig) = played(seed, 100, 3);
        rig.core.close(Instant::ORIGIN + Duration::from_secs(1)).unwrap();
        let floors: Vec<usize> = script.models.values().map(|model| model.states.len() - 1).collect();
        for (path, bytes) in disk.files() {
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            // In vote files every byte of the groups' first copies, elsewhere a sample.
            let (stride, bytes) = match end {
                "seg" => (53, bytes),
                "a" | "b" => (7, 3 * 512),
                _ => (211, bytes),
            };
            for offset in (seed..bytes).step_by(stride) {
                let what = format!("seed {seed}, {} at {offset}", path.display());
                let damaged = disk.crashed(Crash::KeepAll);
                let mask = 1 << ((offset + seed) % 8);
                damaged.flip(&path, offset, mask);
                let seen = inspect(&damaged, &path, &script.models, &floors, &what);
                if seen == Seen::Refused {
                    // Nothing was changed: with the byte back, everything is.
                    damaged.flip(&path, offset, mask);
                    assert_eq!(inspect(&damaged, &path, &script.models, &floors, &what), Seen::Harmless, "{what}");
                }
                *counts.entry(format!("{seen:?}")).or_insert(0) += 1;
            }
        }
    }
    println!("flipped bytes of a closed log: {counts:?}");
    assert!(counts.values().all(|count| *count > 50) && counts.len() == 3, "{counts:?}");
}

/// The files of votes have room for groups that are still to come: what happens to it concerns nobody.
#[test]
fn one_flipped_byte_where_no_group_has_voted_is_harmless() {
    let (disk, script, rig) = played(3, 40, 3);
    rig.core.close(Instant::ORIGIN + Duration::from_secs(1)).unwrap();
    let floors: Vec<usize> = script.models.values().map(|model| model.states.len() - 1).collect();
    for name in ["vote.a", "vote.b"] {
        for (offset, mask) in
            (3 * 512..64 * 512).chain(67 * 512..128 * 512).step_by(1021).zip([0x01, 0x80, 0xff].into_iter().cycle())
        {
            let path = dir().join(name);
            let what = format!("{name} at {offset}");
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, mask);
            assert_eq!(inspect(&damaged, &path, &script.models, &floors, &what), Seen::Harmless, "{what}");
            // And it is gone with the first opening: the slot can be used.
            let mut byte = [1];
            assert_eq!(damaged.open(&path).unwrap().read_at(&mut byte, offset).unwrap(), 1);
            assert_eq!(byte, [0], "{what}");
        }
    }
}

/// Without a closing mark the last batch may look torn, but nothing before it.
#[test]
fn one_flipped_byte_in_a_killed_log_costs_at_most_the_last_batch() {
    let mut refused = 0;
    for seed in 10..13 {
        let (disk, mut script, mut rig) = played(seed, 60, 3);
        // The last batch of each group is not covered by a mark yet.
        let floors: Vec<usize> = script.models.values().map(|model| model.acknowledged.len()).collect();
        let logs = |script: &Script| -> Vec<_> {
            script.models.values().map(|model| (model.now().last(), model.now().entries.len())).collect()
        };
        let before = logs(&script);
        while logs(&script) == before {
            script.submit(&rig);
        }
        rig.settle();
        assert!(script.note(&rig).is_none());
        drop(rig);
        let (path, bytes) = disk.files().into_iter().rfind(|(path, _)| path.starts_with(dir().join("wal"))).unwrap();
        for offset in (seed..bytes).step_by(13) {
            let what = format!("seed {seed}, {} at {offset}", path.display());
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, 0x20);
            refused += usize::from(inspect(&damaged, &path, &script.models, &floors, &what) == Seen::Refused);
        }
    }
    assert!(refused > 50, "only {refused}");
}

/// The error says where, and both checksums.
#[test]
fn damage_is_reported_with_file_offset_and_both_checksums() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    let group = GroupId(1);
    rig.group(group).unwrap();
    rig.append(group, 1, 1, 1, &[b"some payload"]);
    rig.settle();
    let (path, used) = (segment(1), 64 << 10);
    rig.core.close(Instant::ORIGIN).unwrap();
    let at = (0..used).find(|at| starts_with(&disk, &path, *at, b"some payload")).unwrap();
    disk.flip(&path, at + 3, 0xff);
    let error = Rig::open(&disk, options(64 << 10)).err().unwrap();
    let WalError::Corrupt(damage) = &error else { panic!("{error}") };
    assert_eq!(damage.path, path);
    assert!(damage.offset <= at && at < damage.offset + 128, "{error}");
    assert!(damage.stored.is_some() && damage.computed.is_some() && damage.stored != damage.computed);
    let text = error.to_string();
    assert!(
        text.contains("0000000000000001.seg") && text.contains("stored") && text.contains("replace this member"),
        "{text}"
    );
}

/// A later batch proves that an earlier one was durable, even when no mark is left to say so.
#[test]
fn a_valid_batch_behind_damage_makes_it_corruption() {
    let group = GroupId(1);
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, 64 << 10);
    rig.group(group).unwrap();
    for (i, payload) in (1..).zip([b"first", b"secnd", b"third"]) {
        rig.append(group, i, 1, i, &[payload]);
        rig.settle();
    }
    drop(rig);
    for mark in [4096, 8192] {
        disk.flip(&segment(1), mark + 20, 0x01);
    }
    let at = |bytes: &[u8]| (0..64 << 10).find(|at| starts_with(&disk, &segment(1), *at, bytes)).unwrap();
    let last_torn = disk.crashed(Crash::KeepAll);
    last_torn.flip(&segment(1), at(b"third"), 0x01);
    let rig = Rig::open(&last_torn, options(64 << 10)).unwrap();
    assert_eq!(rig.group(group).unwrap().log.last().index, 2, "what nothing proves durable is a torn tail");
    disk.flip(&segment(1), at(b"secnd"), 0x01);
    let error = Rig::open(&disk, options(64 << 10)).err().unwrap();
    assert!(matches!(&error, WalError::Corrupt(damage) if damage.path == segment(1)), "{error}");
}

/// A block of another past of the same disk, put where it once was, is valid in itself but not in its place.
#[test]
fn a_block_of_another_past_does_not_fit_into_the_chain() {
    let group = GroupId(1);
    let past = |first: &[u8], second: &[u8]| {
        let disk = MemDisk::new();
        let mut rig = Rig::begin(&disk, 64 << 10);
        rig.group(group).unwrap();
        for (i, payload) in (1..).zip([first, second, b"third"]) {
            rig.append(group, i, 1, i, &[payload]);
            rig.settle();
        }
        rig.core.close(Instant::ORIGIN).unwrap();
        disk
    };
    let (disk, other) = (past(b"first", b"second"), past(b"FIRST", b"SECOND"));
    let at =
        |disk: &MemDisk, bytes: &[u8]| (0..64 << 10).find(|at| starts_with(disk, &segment(1), *at, bytes)).unwrap();
    let (from, to) = (at(&other, b"SECOND"), at(&disk, b"second"));
    assert_eq!(from, to, "the same place");
    let sector = from / 512 * 512;
    let mut block = [0; 512];
    other.open(&segment(1)).unwrap().read_at(&mut block, sector).unwrap();
    let file = disk.open(&segment(1)).unwrap();
    file.write_at(&block, sector).unwrap();
    file.sync_data().unwrap();
    let error = Rig::open(&disk, options(64 << 10)).err().unwrap();
    assert!(matches!(&error, WalError::Corrupt(damage) if damage.offset == sector), "{error}");
    assert!(error.to_string().contains("does not follow"), "{error}");
}

fn starts_with(disk: &MemDisk, path: &Path, at: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    disk.open(path).unwrap().read_at(&mut found, at).unwrap() == bytes.len() && found == bytes
}

/// Files that are gone are missed, not taken for a log that is shorter.
#[test]
fn a_lost_file_is_missed() {
    let (disk, _, rig) = played(20, 120, 3);
    rig.core.close(Instant::ORIGIN).unwrap();
    let files: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    let segments = files.iter().filter(|path| path.extension().is_some_and(|end| end == "seg")).count();
    assert!(segments >= 4, "{files:?}");
    // Of the two files of votes either is made anew from the other (votes.rs).
    for path in files.into_iter().filter(|path| !path.to_string_lossy().contains("vote.")) {
        let damaged = disk.crashed(Crash::KeepAll);
        damaged.remove(&path).unwrap();
        let error = Rig::open(&damaged, options(SEGMENT_BYTES)).err();
        let error = error.unwrap_or_else(|| panic!("{} is not missed", path.display()));
        assert!(!error.to_string().is_empty());
    }
}
