//! Calls to the disk fail: nothing acknowledged is lost, nothing panics, and the log can be opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::faulty::{open, sweep_faults};
use common::mending::sweep_opening_faults;
use common::{Rig, Script, check_group, options};
use quorate_core::{GroupId, Incarnation, NodeId, Starts};
use quorate_wal::fake::{Crash, Fault, MemDisk};

const SEGMENT_BYTES: u64 = 24 << 10;

/// The program `crashes` (crates/wal/examples) does this with 300 writes and every call.
#[test]
fn calls_may_fail_once() {
    let (short, short_stops) = sweep_faults(1, 60, 3);
    let (long, _) = sweep_faults(5, 300, 41);
    println!("faults injected: {short}, of which {short_stops} stopped the log, and {long} into a longer script");
    assert!(
        short_stops > 100 && long > 60,
        "only {short_stops} of {short} faults were noticed, {long} in the long one"
    );
}

/// A read that fails while a log is opened is neither damage nor the end of the log.
#[test]
fn a_call_of_an_opening_may_fail() {
    assert!(sweep_opening_faults(5) > 30);
}

/// The disk dies for good: nothing is acknowledged after that, and what was, survives.
#[test]
fn a_disk_that_dies_takes_nothing_acknowledged_with_it() {
    let begun = {
        let disk = MemDisk::new();
        let script = Script::new(9, 3);
        open(&disk, &script, "no fault");
        disk.calls()
    };
    let mut deaths = 0;
    for call in (begun..begun + 300).step_by(3) {
        let disk = MemDisk::new();
        let mut script = Script::new(9, 3);
        let mut rig = open(&disk, &script, "before it dies");
        disk.die_at(call);
        for _ in 0..60 {
            script.submit(&rig);
            if script.rng.below(2) == 0 {
                rig.settle();
            }
            if script.note(&rig).is_some() {
                deaths += 1;
                break;
            }
        }
        drop(rig);
        let after = disk.crashed(Crash::DropAll);
        let rig = Rig::open(&after, options(SEGMENT_BYTES)).unwrap();
        for (group, model) in &script.models {
            check_group(&rig, *group, model, model.acknowledged.len(), &format!("dead from call {call}"));
        }
    }
    assert!(deaths > 50, "only {deaths} deaths were noticed");
}

/// Who cannot write down what it saw of a peer stops: it would refuse that peer for ever, and still campaign.
#[test]
fn a_failed_note_of_a_peer_fails_the_log() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, SEGMENT_BYTES);
    rig.group(GroupId(1)).unwrap();
    disk.fail_at(disk.calls(), Fault::Error(ErrorKind::Other));
    assert!(rig.handle.record_peer(NodeId(2), Incarnation(2), &Starts::counted(1)).is_err());
    rig.settle();
    let told = rig.told();
    let writes: Vec<_> = told.iter().map(|(group, write, result, _)| (group.0, write.0, result.is_ok())).collect();
    assert_eq!(writes, [(1, 0, false)], "a group that waits for nothing is told");
    rig.append(GroupId(1), 1, 1, 1, &[b"late"]);
    rig.settle();
    let told = rig.told();
    assert!(told.len() == 1 && told[0].2.is_err() && rig.handle.failure().is_some(), "{told:?}");
}

/// A write that nobody asked for fails: the closing mark of a log that is idle. Who has nothing to write hears of it.
#[test]
fn a_failed_closing_mark_is_told_to_groups_that_wait_for_nothing() {
    let disk = MemDisk::new();
    let mut rig = Rig::begin(&disk, SEGMENT_BYTES);
    rig.group(GroupId(1)).unwrap();
    rig.append(GroupId(1), 1, 1, 1, &[b"durable"]);
    rig.settle();
    assert!(rig.told().iter().all(|told| told.2.is_ok()));
    disk.fail_at(disk.calls(), Fault::Error(ErrorKind::Other));
    rig.pass(Duration::from_secs(60));
    let told = rig.told();
    let writes: Vec<_> = told.iter().map(|(group, write, result, _)| (group.0, write.0, result.is_ok())).collect();
    assert_eq!(writes, [(1, 0, false)]);
}
