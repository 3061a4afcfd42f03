//! Scripts on a disk of which one call fails: of the log, votes, identity, peers and snapshots.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use quorate_core::{ClusterId, Incarnation, LeaderIdMode, NodeId, Starts};
use quorate_wal::fake::{Crash, Fault, MemDisk};
use quorate_wal::{PeerVerdict, WalError};

use super::crashes::{SNAPSHOTS_OF, snapshot_content, take_snapshot};
use super::{CLUSTER, Rig, Rng, Script, check_group, options};

const SEGMENT_BYTES: u64 = 24 << 10;

/// What a call may do: fail for good, find no space, or write a part.
pub const FAULTS: [Fault; 3] =
    [Fault::Error(ErrorKind::Other), Fault::Error(ErrorKind::StorageFull), Fault::ShortWrite(100)];

/// What was acknowledged beside the log.
#[derive(Clone, Copy, Default)]
struct Beside {
    /// The newest snapshot that was committed, and the newest one begun.
    snapshot: u64,
    begun: u64,
    /// The greatest boot noted of a peer, and the greatest one that was to be.
    boot: u64,
    asked: u64,
}

impl Beside {
    /// Takes a snapshot or notes a peer. An error that the fault explains is no reason to fail.
    fn go_on(&mut self, rig: &Rig, chance: &mut Rng) -> Result<(), WalError> {
        if chance.below(2) == 0 {
            self.begun += 1;
            take_snapshot(rig, self.begun)?;
            self.snapshot = self.begun;
        } else {
            self.asked += 1;
            rig.handle.record_peer(NodeId(2), Incarnation(5), &Starts::counted(self.asked))?;
            self.boot = self.asked;
        }
        Ok(())
    }

    fn check(&self, rig: &Rig, what: &str) {
        let latest = rig.handle.snapshots().latest(SNAPSHOTS_OF);
        let latest = latest.unwrap_or_else(|error| panic!("{what}: unopenable: a snapshot: {error}"));
        let found = latest.as_ref().map_or(0, |file| file.meta().last_log_id.index);
        assert!(found >= self.snapshot, "{what}: lost: snapshot {}, found {found}", self.snapshot);
        assert!(found <= self.begun, "{what}: resurrected: snapshot {found}");
        if let Some(file) = latest {
            let mut bytes = Vec::new();
            let read = file.content().read_to_end(&mut bytes);
            read.unwrap_or_else(|error| panic!("{what}: lost: the snapshot's content: {error}"));
            assert!(bytes == snapshot_content(found), "{what}: lost: the snapshot has another content");
        }
        if self.boot > 1 {
            let older = rig.handle.record_peer(NodeId(2), Incarnation(5), &Starts::counted(self.boot - 1)).unwrap();
            let known = matches!(older, PeerVerdict::OlderCopy { seen_boot } if seen_boot >= self.boot);
            assert!(known, "{what}: lost: the boot count {} of a peer: {older:?}", self.boot);
        }
    }
}

/// Opens the log until it is open; it fails at most once.
pub fn open(disk: &MemDisk, script: &Script, what: &str) -> Rig {
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
    panic!("{what}: unopenable: the log cannot be opened again");
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
pub fn run(seed: u64, writes: usize, fault: impl Fn(&MemDisk), what: &str) -> (u64, bool) {
    let disk = MemDisk::new();
    fault(&disk);
    let mut script = Script::new(seed, 3);
    let mut rig = open(&disk, &script, what);
    let (mut failed, mut beside, mut chance) = (false, Beside::default(), Rng(seed ^ 0xbe51de));
    let mut done = 0;
    while done < writes {
        let beside_now = chance.below(20);
        if beside_now == 0 && beside.go_on(&rig, &mut chance).is_err() {
            // After an error nobody knows: the next opening tells.
            script.note(&rig);
            drop(rig);
            failed = true;
            rig = reopen(&disk, &mut script, what);
            beside.check(&rig, what);
        } else if beside_now == 1 {
            read_back(&rig, &script, what);
        }
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
            beside.check(&rig, what);
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
        let rig =
            Rig::open(&after, options(SEGMENT_BYTES)).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
        beside.check(&rig, what);
        for (group, model) in &script.models {
            check_group(&rig, *group, model, model.acknowledged.len(), &format!("{what}, then {crash:?}"));
        }
    }
    (disk.calls(), failed || died)
}

/// Reads a group's log: a read that works gives everything that was submitted; an error of the disk is named.
fn read_back(rig: &Rig, script: &Script, what: &str) {
    for (group, model) in &script.models {
        let (state, last) = (model.now(), model.now().last());
        let Some(first) = state.entries.iter().find(|entry| entry.id.index > model.purge.max(state.base.index)) else {
            continue;
        };
        let at = state.entries.iter().position(|entry| entry.id == first.id).unwrap_or(0);
        let prev = at.checked_sub(1).map_or(state.base, |before| state.entries[before].id);
        match super::read_all(&rig.handle, *group, prev, last, 700) {
            Ok(entries) => assert!(entries == state.entries[at..], "{what}: lost: a read of {group:?} misses entries"),
            Err(error) => assert!(matches!(error, WalError::Io { .. }), "{what}: lost: {error}"),
        }
    }
}

/// Runs the script of each seed with each fault at every `stride`th call; returns how many, and how many of them
/// stopped the log.
pub fn sweep_faults(seed: u64, writes: usize, stride: usize) -> (usize, usize) {
    let (calls, _) = run(seed, writes, |_| {}, "no fault");
    let (mut runs, mut failures) = (0, 0);
    for call in (0..calls).step_by(stride) {
        for fault in FAULTS {
            let what = format!("seed {seed}, call {call} of {calls}: {fault:?}");
            let (_, failed) = run(seed, writes, |disk| disk.fail_at(call, fault), &what);
            assert!(!failed || !matches!(fault, Fault::ShortWrite(_)), "{what}: the rest is written in another call");
            runs += 1;
            failures += usize::from(failed);
        }
    }
    (runs, failures)
}
