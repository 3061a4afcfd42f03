//! Damage on one node of three is repaired from the others without an operator; a node alone stops and says what is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests")]

mod trio;

use std::time::Duration;

use quorate_wal::Disk;
use quorate_wal::fake::Crash;
use trio::regions::{Region, Regions};
use trio::{Seen, Trio, flip, flip_bits, written};

/// The program `flips` (crates/sim/examples) flips more of them: with the argument 1, every byte.
#[test]
fn a_flipped_byte_on_one_node_is_repaired_from_the_others() {
    let trio = Trio::stopped(3);
    let regions = Regions::of(&trio, 1);
    let mut seen = [0; 3];
    for (path, _) in trio.files(1) {
        for offset in written(&trio, 1, &path).into_iter().step_by(197) {
            let what = format!("{} at {offset}", path.display());
            seen[match flip(&trio, 1, &path, offset).repairs(1, &what) {
                Seen::Not { purged } => {
                    assert!(regions.harmless(&path, offset, purged).is_some(), "{what}: not seen, and no reason why");
                    0
                }
                Seen::AtStart => 1,
                Seen::WhenRead => 2,
                Seen::Halted => unreachable!("it is not alone"),
            }] += 1;
        }
    }
    println!("not seen and harmless {}, seen at the start {}, when read {}", seen[0], seen[1], seen[2]);
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
}

/// Damage to a snapshot, or to an entry that is kept, has to be seen.
#[test]
fn what_counts_is_in_no_region_that_may_go_unseen() {
    let trio = Trio::stopped(3);
    let (regions, (snapshot, bytes)) = (Regions::of(&trio, 1), trio.snapshot_of(1));
    assert!((0..bytes).all(|offset| regions.harmless(&snapshot, offset, u64::MAX).is_none()));
    let (mut kept, mut purged) = (0, 0);
    for (path, _) in trio.files(1).into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "seg")) {
        for offset in written(&trio, 1, &path) {
            kept += usize::from(regions.harmless(&path, offset, 0).is_none());
            purged += usize::from(regions.harmless(&path, offset, u64::MAX) == Some(Region::Purged));
        }
    }
    assert!(kept > 1000 && purged > 1000, "{kept} bytes must not be damaged unseen, {purged} of entries");
}

/// A disk lost the newest write of one node silently, which found that when it read the entry. It does not forget the
/// write, which a third node never had: the two elect nobody until a node is back that holds it.
#[test]
fn a_lost_write_that_was_read_is_not_forgotten() {
    let mut trio = Trio::stopped(3).copy();
    (0..2).for_each(|at| trio.start(at).unwrap());
    trio.lose_newest(1);
    trio.stop(1);
    trio.start(1).unwrap();
    assert_eq!(trio.set_aside(1), Vec::<String>::new(), "only the log is damaged");
    trio.stop(0);
    trio.start(2).unwrap();
    trio.settle(Duration::from_secs(5));
    assert_eq!(trio.leader(), None, "lost: who never had the write leads");
    trio.start(0).unwrap();
    trio.converge("the write is back");
}

/// Every part of a snapshot file: header, content, manifest and end.
#[test]
fn a_damaged_snapshot_is_put_aside_and_comes_from_the_others() {
    let trio = Trio::stopped(3);
    let (path, bytes) = trio.snapshot_of(1);
    let mut aside = 0;
    for offset in (0..bytes).step_by(13) {
        let what = format!("{} at {offset}", path.display());
        let seen = flip(&trio, 1, &path, offset).repairs(1, &what);
        aside += u64::from(seen == Seen::AtStart);
    }
    assert_eq!(aside, bytes.div_ceil(13), "every byte of a snapshot counts");
    let gone = trio.copy();
    gone.disks[1].remove(&path).unwrap();
    gone.repairs(1, "its snapshot is gone");
}

/// The log lost its end, and what it follows on is gone as well.
#[test]
fn a_damaged_snapshot_and_a_damaged_log_are_repaired_together() {
    let trio = Trio::stopped(3);
    let (snapshot, bytes) = trio.snapshot_of(1);
    for (path, _) in trio.files(1).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")) {
        for offset in written(&trio, 1, &path).into_iter().step_by(977) {
            let damaged = flip(&trio, 1, &snapshot, offset % bytes);
            let what = format!("{} at {offset}, and the snapshot", path.display());
            flip(&damaged, 1, &path, offset).repairs(1, &what);
        }
    }
}

/// A crash at any step of giving up the log leaves a node that gives it up again, and forgets nothing it promised.
#[test]
fn a_crash_while_a_damaged_snapshot_is_dealt_with_loses_no_promise() {
    let trio = Trio::stopped(3);
    let (path, bytes) = trio.snapshot_of(1);
    let mut damaged = flip(&trio, 1, &path, bytes / 2);
    damaged.disks[1].start_journal();
    damaged.start(1).unwrap();
    damaged.settle(Duration::from_millis(20));
    let mut states = 0;
    let mut replay = damaged.disks[1].replay();
    loop {
        for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(replay.steps() as u64)] {
            if (states + replay.steps()).is_multiple_of(4) {
                let mut crashed = trio.copy();
                crashed.disks[1] = replay.crashed(crash);
                crashed.repairs(1, &format!("{crash:?} at step {}", replay.steps()));
            }
            states += 1;
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(states > 60, "{states}");
}

/// A leader whose snapshot rots while it runs builds it again when a peer needs it, and sends no damaged byte.
#[test]
fn a_leader_builds_a_damaged_snapshot_again() {
    let trio = Trio::stopped(3);
    let (path, bytes) = trio.snapshot_of(1);
    for offset in [3, 60, 64, bytes / 2, bytes - 20, u64::MAX] {
        let what = format!("{} of the leader at {offset}", path.display());
        let mut trio = flip(&trio, 2, &trio.snapshot_of(2).0, bytes / 2);
        (0..2).for_each(|at| trio.start(at).unwrap());
        trio.transfer(1, &what);
        match offset {
            u64::MAX => trio.disks[1].remove(&path).unwrap(),
            _ => trio.disks[1].flip(&path, offset, 0x08),
        }
        trio.start(2).unwrap();
        trio.write(1);
        trio.converge(&what);
        assert_eq!(trio.leader(), Some(1), "{what}: the leader goes on");
        assert_eq!(trio.damaged_arrivals, 0, "{what}: no damaged byte was sent");
    }
}

/// A cluster of one has nobody to repair it: it stops, and names what is lost.
#[test]
fn a_node_alone_names_the_lost_entries() {
    let alone = Trio::stopped(1);
    let mut whole = alone.copy();
    whole.start(0).unwrap();
    let end = whole.last_index(0);
    let mut named = 0;
    for (path, _) in alone.files(0) {
        let stride = if path.extension().is_some_and(|e| e == "seg") { 97 } else { 397 };
        for (offset, mask) in
            written(&alone, 0, &path).into_iter().step_by(stride).zip([0x08, 0x80, 0x55].into_iter().cycle())
        {
            let what = format!("{} at {offset}, {mask:#04x}", path.display());
            let seen = flip_bits(&alone, 0, &path, offset, mask).serves_or_names(end, &what);
            named += usize::from(seen == Seen::Halted);
        }
    }
    assert!(named > 10, "{named}");
}

/// With its snapshot a node alone lost what nobody else has: it says so each time, and changes nothing until the file is
/// whole again.
#[test]
fn a_node_alone_keeps_its_damaged_snapshot() {
    let alone = Trio::stopped(1);
    let (path, bytes) = alone.snapshot_of(0);
    for offset in (0..bytes).step_by(37).chain([u64::MAX]) {
        let what = format!("{} at {offset}", path.display());
        let mut damaged = alone.copy();
        match offset {
            u64::MAX => damaged.disks[0].remove(&path).unwrap(),
            _ => damaged.disks[0].flip(&path, offset, 0x08),
        }
        for _ in 0..2 {
            let error = damaged.start(0).expect_err(&what);
            assert!(error.contains("lost its entries after 0-0.0, up to 1-1.") && error.contains("backup"), "{error}");
            assert!(offset == u64::MAX || error.contains(&path.display().to_string()), "{what}: {error}");
            damaged.stop(0);
            assert!(damaged.set_aside(0).is_empty(), "{what}");
        }
        if offset < u64::MAX {
            damaged.disks[0].flip(&path, offset, 0x08);
            damaged.start(0).unwrap();
            damaged.write(1);
            damaged.converge(&what);
        }
    }
}
