//! Every call to the disk fails once: nothing acknowledged is lost, nothing panics, and the log can be opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::{CLUSTER, Rig, Script, check_group, options};
use quorate_core::{ClusterId, LeaderIdMode};
use quorate_wal::WalError;
use quorate_wal::fake::{Crash, Fault, MemDisk};

const SEGMENT_BYTES: u64 = 24 << 10;

/// Opens the log until it is open; it fails at most once.
fn open(disk: &MemDisk, script: &Script, what: &str) -> Rig {
    for _ in 0..3 {
        let Ok(rig) = Rig::open(disk, options(SEGMENT_BYTES)) else { continue };
        if rig.handle.identity().cluster == ClusterId(0)
            && rig.handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).is_err()
        {
            continue;
        }
        if script.groups.iter().all(|group| rig.group(*group).is_ok()) {
            return rig;
        }
    }
    panic!("{what}: the log cannot be opened again");
}

/// Opens the log again after a failure, and goes on from what it holds.
fn reopen(disk: &MemDisk, script: &mut Script, what: &str) -> Rig {
    let rig = open(disk, script, what);
    for (group, model) in &mut script.models {
        let (k, purged) = check_group(&rig, *group, model, model.acknowledged.len(), what);
        *model = model.restart(k, purged);
    }
    rig
}

/// Runs the script of `seed` with a fault; returns the number of calls, and whether the log failed.
fn run(seed: u64, writes: usize, fault: impl Fn(&MemDisk), what: &str) -> (u64, bool) {
    let disk = MemDisk::new();
    fault(&disk);
    let mut script = Script::new(seed, 3);
    let mut rig = open(&disk, &script, what);
    let mut failed = false;
    let mut done = 0;
    while done < writes {
        match script.rng.below(20) {
            0..=10 => {
                script.submit(&rig);
                done += 1;
            }
            11..=17 => {
                rig.settle();
            }
            18 => {
                rig.pass(Duration::from_millis(300));
            }
            _ => script.purge(&rig),
        }
        if let Some(error) = script.note(&rig) {
            assert!(matches!(error, WalError::Io { .. }), "{what}: {error}");
            assert!(rig.handle.failure().is_some(), "{what}: a failed write poisons the log");
            script.submit(&rig);
            rig.settle();
            assert!(script.note(&rig).is_some(), "{what}: a poisoned log acknowledges nothing");
            drop(rig);
            failed = true;
            rig = reopen(&disk, &mut script, what);
        }
    }
    // Twice: the fault may be that there is no space just now.
    rig.pass(Duration::from_millis(300));
    rig.pass(Duration::from_millis(300));
    let died = script.note(&rig).is_some();
    if !failed && !died {
        for (group, model) in &script.models {
            assert_eq!(model.acknowledged.len() + 1, model.states.len(), "{what}: {group:?} waits for ever");
        }
    }
    drop(rig);
    for crash in [Crash::DropAll, Crash::Subset(seed)] {
        let after = disk.crashed(crash);
        let rig = Rig::open(&after, options(SEGMENT_BYTES)).unwrap_or_else(|error| panic!("{what}: {error}"));
        for (group, model) in &script.models {
            check_group(&rig, *group, model, model.acknowledged.len(), &format!("{what}, then {crash:?}"));
        }
    }
    (disk.calls(), failed || died)
}

#[test]
fn every_call_may_fail_once() {
    let (calls, _) = run(1, 60, |_| {}, "no fault");
    let faults = [Fault::Error(ErrorKind::Other), Fault::Error(ErrorKind::StorageFull), Fault::ShortWrite(100)];
    let (mut runs, mut failures) = (0, 0);
    for call in 0..calls {
        for (i, fault) in faults.iter().enumerate() {
            let what = format!("call {call} of {calls}: {fault:?}");
            let seed = 1 + (call + i as u64) % 2 * 1000;
            let (_, failed) = run(seed, 60, |disk| disk.fail_at(call, *fault), &what);
            assert!(!failed || !matches!(fault, Fault::ShortWrite(_)), "{what}: the rest is written in another call");
            runs += 1;
            failures += usize::from(failed);
        }
    }
    println!("faults injected: {runs}, of which {failures} stopped the log");
    assert!(failures > 300, "only {failures} of {runs} faults were noticed");
}

#[test]
fn a_long_script_survives_a_fault_anywhere() {
    let (calls, _) = run(5, 300, |_| {}, "no fault");
    let mut runs = 0;
    for call in (0..calls).step_by(11) {
        let what = format!("call {call} of {calls}");
        run(5, 300, |disk| disk.fail_at(call, Fault::Error(ErrorKind::Other)), &what);
        runs += 1;
    }
    println!("faults injected into a script of 300 writes and {calls} calls: {runs}");
    assert!(runs > 80);
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
