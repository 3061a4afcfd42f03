//! Damaged logs, and what mending makes of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use quorate_core::{GroupId, Instant, MAX_INDEX, Vote, WriteId};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, GroupState, OnDamage, WalError, WalOptions, WalWrite};

use super::crashes::States;
use super::{Model, ModelEntry, Rig, Script, dir, options};

pub const SEGMENT_BYTES: u64 = 24 << 10;

pub fn mending() -> WalOptions {
    WalOptions { on_damage: OnDamage::Mend, ..options(SEGMENT_BYTES) }
}

/// A log of several segments, with every group's model at its end.
pub fn played(seed: u64, writes: usize, groups: u64) -> (MemDisk, Script, Rig) {
    let disk = MemDisk::new();
    let mut script = Script::new(seed, groups);
    let mut rig = Rig::begin(&disk, SEGMENT_BYTES);
    script.groups.iter().for_each(|group| drop(rig.group(*group).unwrap()));
    for _ in 0..writes {
        script.submit(&rig);
        if script.rng.below(2) == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert!(script.note(&rig).is_none());
    (disk, script, rig)
}

/// A closed one.
pub fn build(seed: u64, writes: usize, groups: u64) -> (MemDisk, BTreeMap<GroupId, Model>) {
    let (disk, script, rig) = played(seed, writes, groups);
    rig.core.close(Instant::ORIGIN + Duration::from_secs(1)).unwrap();
    (disk, script.models)
}

/// Damages a log that was purged now and then, and whose process was killed and started again, on odd seeds also at the end,
/// in places `stride` bytes apart. Returns how often entries were lost.
pub fn sweep_purged(seed: u64, groups: u64, stride: usize) -> usize {
    let (disk, mut script, mut rig) = played(seed, 20, groups);
    let again = |rig: Rig, script: &Script| {
        drop(rig);
        let rig = Rig::open(&disk, options(SEGMENT_BYTES)).unwrap();
        script.groups.iter().for_each(|group| drop(rig.group(*group).unwrap()));
        rig
    };
    for _ in 0..40 {
        script.submit(&rig);
        rig.settle();
        assert!(script.note(&rig).is_none());
        match script.rng.below(5) {
            0 | 1 => script.purge(&rig),
            2 => rig = again(rig, &script),
            _ => {}
        }
        rig.settle();
    }
    for (group, model) in &mut script.models {
        // As in production, what a log holds is of leaders that its node voted for.
        let leader_id = super::leader(model.now().vote.leader_id.term.max(model.term) + 1);
        let write = WalWrite::Vote(Vote { leader_id, committed: true });
        let mut state = model.now().clone();
        state.apply(&write);
        model.states.push(state);
        model.next_write += 1;
        rig.handle.submit(*group, WriteId(model.next_write), write);
    }
    // Until a mark says that it is durable, the newest batch cannot be told from a torn tail.
    rig.pass(Duration::from_secs(1));
    assert!(script.note(&rig).is_none());
    if seed % 2 == 1 {
        rig = again(rig, &script);
    }
    drop(rig);
    let mut lost = 0;
    for (path, bytes) in segments(&disk) {
        for offset in (seed..bytes).step_by(stride) {
            let what = format!("seed {seed}, {} at {offset}", path.display());
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, 1 << (offset % 8));
            let found = open_mended(&damaged, &script.models, &what);
            lost += usize::from(check_mended(&script.models, &found, &what));
        }
    }
    lost
}

pub fn segments(disk: &MemDisk) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, _)| path.starts_with(dir().join("wal"))).collect()
}

/// Reads everything; a read that finds damage opens the log once more.
pub fn open_mended(
    disk: &MemDisk,
    models: &BTreeMap<GroupId, Model>,
    what: &str,
) -> BTreeMap<GroupId, (GroupState, Vec<ModelEntry>)> {
    for attempt in 0..2 {
        let rig = Rig::open(disk, mending()).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
        let read = |group: &GroupId| -> Result<_, WalError> {
            let state = rig.group(*group)?;
            let entries = rig.read_all(*group, &state, 1 << 20)?;
            Ok((*group, (state, entries)))
        };
        match models.keys().map(read).collect() {
            Ok(found) => return found,
            Err(WalError::Corrupt(_)) if attempt == 0 => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    panic!("{what}: damage is still found after mending")
}

/// Whether the log was this at some time, or the front of this.
pub fn was_once(model: &Model, state: &GroupState, entries: &[ModelEntry]) -> bool {
    let purged = state.log.purged();
    model.states.iter().any(|old| {
        let kept: Vec<&ModelEntry> = old.entries.iter().filter(|entry| entry.id.index > purged.index).collect();
        let holds = purged == old.base || old.entries.iter().any(|entry| entry.id == purged);
        holds && kept.len() >= entries.len() && kept.iter().zip(entries).all(|(a, b)| **a == *b)
    })
}

/// What was found must be an older state with its promises; returns whether something is missing.
pub fn check_mended(
    models: &BTreeMap<GroupId, Model>,
    found: &BTreeMap<GroupId, (GroupState, Vec<ModelEntry>)>,
    what: &str,
) -> bool {
    let mut lost = false;
    for (group, model) in models {
        let (state, entries) = &found[group];
        let now = model.now();
        assert_eq!(
            (state.vote, state.promised_lease),
            (now.vote, now.lease),
            "{what}: lost: votes of {group:?} are in other files"
        );
        assert!(was_once(model, state, entries), "{what}: resurrected: {group:?} never was {state:?}");
        if state.log.last() == now.last() {
            continue;
        }
        lost = true;
        // Of a group that nothing names any more, all that its vote allows; the script's votes are not its leaders'.
        let by_vote = state.promised_end.index == MAX_INDEX || now.vote.leader_id < now.last().leader_id;
        let knows = state.promised_end >= now.last() || by_vote;
        assert!(knows, "{what}: lost: {group:?} promised {}, and takes {} for that", now.last(), state.promised_end);
    }
    lost
}

/// Damages logs in several places, opens them, and crashes at every step of the mending.
pub fn sweep_mending(seeds: std::ops::Range<u64>, places: u64) -> States {
    let mut states = States::default();
    for seed in seeds {
        let (disk, models) = build(seed, 70, 2);
        let files = segments(&disk);
        for place in 0..places {
            let (path, bytes) = &files[(seed + place) as usize % files.len()];
            let offset = [3, 14_000, 17_000, bytes - 20_000 / 4][place as usize % 4] + place / 4 * 512;
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(path, offset.min(bytes - 1), 0x04);
            damaged.start_journal();
            let what = format!("seed {seed}, {} at {offset}", path.display());
            open_mended(&damaged, &models, &what);
            let mut replay = damaged.replay();
            loop {
                states.of_step(seed, &replay, 0, |crash, crashed| {
                    let what = format!("{what}, {crash:?} at step {} of mending", replay.steps());
                    check_mended(&models, &open_mended(crashed, &models, &what), &what);
                });
                if !replay.advance() {
                    break;
                }
            }
        }
    }
    states
}

/// Fails each call of a mending once, with each fault; every second `stride` of them. Returns the number of faults.
pub fn sweep_mending_faults(seed: u64, stride: usize) -> usize {
    let (disk, models) = build(seed, 40, 2);
    let files = segments(&disk);
    let (path, _) = &files[files.len() / 2];
    let damaged = || {
        let damaged = disk.crashed(Crash::KeepAll);
        damaged.flip(path, 13_000, 0x04);
        damaged
    };
    let calls = {
        let disk = damaged();
        open_mended(&disk, &models, "no fault");
        disk.calls()
    };
    let mut faults = 0;
    for call in (0..calls).step_by(stride) {
        for fault in super::faulty::FAULTS {
            let disk = damaged();
            disk.fail_at(call, fault);
            let what = format!("mending, call {call} of {calls}: {fault:?}");
            // It fails, or it was survived; either way the next opening finds everything.
            drop(Rig::open(&disk, mending()));
            let after = disk.crashed(Crash::DropAll);
            check_mended(&models, &open_mended(&after, &models, &what), &what);
            faults += 1;
        }
    }
    faults
}

/// How a disk that says it wrote a batch did not.
#[derive(Clone, Copy, Debug)]
pub enum Misses {
    Lost,
    /// It wrote the batch over an older one.
    Elsewhere,
}

/// Has the disk miss the newest batch, which no mark calls durable yet; returns a group with entries in it.
fn miss_newest(disk: &MemDisk, script: &mut Script, rig: &mut Rig, misses: Misses) -> GroupId {
    const DATA_AT: usize = 12 << 10;
    let content = |disk: &MemDisk, path: &PathBuf| {
        let file = disk.open(path).unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    loop {
        let before = disk.crashed(Crash::KeepAll);
        let ends: BTreeMap<_, _> = script.models.iter().map(|(group, model)| (*group, model.now().last())).collect();
        script.submit(rig);
        rig.settle();
        let grown = script.models.iter().find(|(group, model)| model.now().last() > ends[group]);
        let Some(group) = grown.map(|(group, _)| *group).filter(|_| segments(disk) == segments(&before)) else {
            continue;
        };
        assert!(script.note(rig).is_none());
        for (path, _) in segments(disk) {
            let (old, new) = (content(&before, &path), content(disk, &path));
            let mut changed = (DATA_AT..new.len()).filter(|at| old[*at] != new[*at]);
            let Some(first) = changed.next().map(|at| at / 512 * 512) else { continue };
            let end = changed.next_back().unwrap_or(first) + 1;
            let file = disk.open(&path).unwrap();
            file.write_at(&old[first..end], first as u64).unwrap();
            if matches!(misses, Misses::Elsewhere) {
                let place = (DATA_AT + (first - DATA_AT) / 2) / 512 * 512;
                file.write_at(&new[first..end], place as u64).unwrap();
            }
            file.sync_data().unwrap();
        }
        return group;
    }
}

/// A disk misses the newest batch, its process reads that and is killed, at every step of noting it; then it is mended,
/// and crashes at every step of that.
pub fn sweep_noting(seeds: std::ops::Range<u64>, groups: u64, misses: Misses) -> States {
    let mut states = States::default();
    for seed in seeds {
        let (disk, mut script, mut rig) = played(seed, 40, groups);
        let group = miss_newest(&disk, &mut script, &mut rig, misses);
        disk.start_journal();
        let found = rig.group(group).and_then(|state| rig.read_all(group, &state, 1 << 20));
        let what = format!("seed {seed}, {misses:?}");
        assert!(matches!(found, Err(WalError::Corrupt(_))), "{what}: lost: the damage is not seen: {found:?}");
        let (told, models) = (disk.journal_steps(), &script.models);
        let mut replay = disk.replay();
        loop {
            states.of_step(seed, &replay, u64::from(replay.steps() >= told), |crash, crashed| {
                let what = format!("{what}, {crash:?} at step {} of noting", replay.steps());
                let refused = Rig::open(&crashed.crashed(Crash::KeepAll), options(SEGMENT_BYTES)).err();
                let found = open_mended(crashed, models, &what);
                if replay.steps() < told {
                    // Nobody has heard of it yet.
                    return;
                }
                // A batch over an older one breaks the log at a place that a mark calls durable.
                let named = |error: &WalError| match misses {
                    Misses::Lost => error.to_string().contains("was durable up to"),
                    Misses::Elsewhere => matches!(error, WalError::Corrupt(_)),
                };
                let says = refused.as_ref().is_some_and(named);
                assert!(says, "{what}: lost: refused as {refused:?}");
                assert!(check_mended(models, &found, &what), "{what}: nothing is missing");
                let exact = found.values().all(|(state, _)| state.promised_end.index < MAX_INDEX);
                assert!(exact, "{what}: lost: how far it promised");
            });
            if !replay.advance() {
                break;
            }
        }
        let damaged = disk.crashed(Crash::DropAll);
        damaged.start_journal();
        open_mended(&damaged, models, &what);
        let mut replay = damaged.replay();
        loop {
            states.of_step(seed, &replay, 0, |crash, crashed| {
                let what = format!("{what}, {crash:?} at step {} of mending with a note", replay.steps());
                check_mended(models, &open_mended(crashed, models, &what), &what);
            });
            if !replay.advance() {
                break;
            }
        }
        let left = damaged.files().into_iter().find(|(path, _)| path.to_string_lossy().contains("damage-seen"));
        assert!(left.is_none(), "{what}: the note is left behind");
    }
    states
}

/// A log of one group whose newest batch the disk missed, its process having read and noted that.
pub fn noted(misses: Misses) -> (MemDisk, Script) {
    let play = |seed| {
        let (disk, mut script, mut rig) = played(seed, 40, 1);
        let group = miss_newest(&disk, &mut script, &mut rig, misses);
        // Else the script's votes are not its leaders'.
        let now = script.models[&group].now();
        (now.vote.leader_id >= now.last().leader_id).then_some((disk, script, rig, group))
    };
    let (disk, script, rig, group) = (60..100).find_map(play).expect("some script ends with a vote");
    let found = rig.group(group).and_then(|state| rig.read_all(group, &state, 1 << 20));
    assert!(matches!(found, Err(WalError::Corrupt(_))), "lost: the damage is not seen: {found:?}");
    (disk.crashed(Crash::DropAll), script)
}

/// What a process noted when it read damage is damaged too: then it promised whatever it may have. Returns the number of
/// damaged notes.
pub fn damaged_notes() -> usize {
    let (disk, script) = noted(Misses::Lost);
    let path = dir().join("damage-seen");
    let bytes = disk.open(&path).unwrap().length().unwrap();
    for offset in 0..bytes {
        let what = format!("byte {offset} of {bytes} of the note");
        let damaged = disk.crashed(Crash::DropAll);
        damaged.flip(&path, offset, 0x04);
        let refused = Rig::open(&damaged.crashed(Crash::KeepAll), options(SEGMENT_BYTES)).err();
        let named = refused.as_ref().is_some_and(|error| error.to_string().contains("damage-seen"));
        assert!(named, "{what}: lost: refused as {refused:?}");
        let found = open_mended(&damaged, &script.models, &what);
        assert!(check_mended(&script.models, &found, &what), "{what}: nothing is missing");
        for (state, _) in found.values() {
            assert_eq!(state.promised_end.index, MAX_INDEX, "{what}: lost: nobody knows how far it promised");
        }
    }
    bytes as usize
}

/// Either copy of the decision to mend is enough to finish it; without both nothing is done. Returns the number of damaged
/// decisions.
pub fn damaged_decisions() -> usize {
    let (disk, models) = build(20, 70, 2);
    let (path, _) = &segments(&disk)[0];
    disk.flip(path, 14_000, 0x04);
    disk.start_journal();
    let whole = open_mended(&disk, &models, "whole");
    let mut replay = disk.replay();
    let decision = dir().join("mended");
    let mut damaged = 0;
    while replay.advance() {
        let decided = replay.crashed(Crash::KeepAll);
        if !decided.files().iter().any(|(path, _)| *path == decision) {
            continue;
        }
        for at in 0..2 {
            let what = format!("copy {at} of the decision at step {}", replay.steps());
            let disk = decided.crashed(Crash::KeepAll);
            disk.flip(&decision, at * 4096 + damaged as u64 % 32, 0x20);
            let found = open_mended(&disk, &models, &what);
            assert_eq!(found, whole, "{what}: lost: what was decided");
            damaged += 1;
        }
        decided.flip(&decision, 3, 0x20);
        decided.flip(&decision, 4096 + 20, 0x20);
        let error = Rig::open(&decided, mending()).err();
        let named = error.as_ref().is_some_and(|error| error.to_string().contains("/mended"));
        assert!(named, "step {}: lost: refused as {error:?}", replay.steps());
    }
    damaged
}

/// Damage to either copy of any vote changes nothing; returns the number of flips.
pub fn damaged_votes() -> usize {
    let (disk, models) = build(40, 60, 2);
    let mut flips = 0;
    for name in ["vote.a", "vote.b"] {
        for offset in (0..2 * 512).chain(64 * 512..66 * 512).step_by(9) {
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&dir().join(name), offset, 0x40);
            let what = format!("{name} at {offset}");
            let lost = check_mended(&models, &open_mended(&damaged, &models, &what), &what);
            assert!(!lost, "{what}: lost: entries");
            flips += 1;
        }
    }
    flips
}

/// A byte flipped in a closed log is refused by a log that may not mend, when it is opened or read, or did no harm;
/// returns the number of flips.
pub fn damage_is_refused() -> usize {
    let (disk, models) = build(41, 60, 2);
    let mut flips = 0;
    for (path, bytes) in segments(&disk) {
        for offset in (12 << 10..bytes).step_by(61) {
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, 0x20);
            let Ok(rig) = Rig::open(&damaged, options(SEGMENT_BYTES)) else { continue };
            for (group, model) in &models {
                let Ok(state) = rig.group(*group) else { continue };
                let what = format!("{} at {offset}", path.display());
                assert_eq!(state.log.last(), model.now().last(), "{what}: lost: the end of {group:?}");
                match rig.read_all(*group, &state, 1 << 20) {
                    Ok(entries) => {
                        let kept = model.now().entries.iter().filter(|e| e.id.index > state.log.purged().index);
                        assert!(kept.eq(&entries), "{what}: lost: entries of {group:?} are others");
                    }
                    Err(error) => assert!(matches!(error, WalError::Corrupt(_)), "{what}: lost: {error}"),
                }
            }
            flips += 1;
        }
    }
    flips
}

/// Fails each call of an opening of a sound log that was not closed: an error is named as one, and nothing is lost by it.
/// Returns the number of faults.
pub fn sweep_opening_faults(seed: u64) -> usize {
    let disk = MemDisk::new();
    let mut script = Script::new(seed, 2);
    let mut rig = Rig::begin(&disk, SEGMENT_BYTES);
    script.groups.iter().for_each(|group| drop(rig.group(*group).unwrap()));
    for _ in 0..40 {
        script.submit(&rig);
        rig.settle();
    }
    assert!(script.note(&rig).is_none());
    drop(rig);
    let check = |disk: &MemDisk, what: &str| -> Result<(), WalError> {
        let rig = Rig::open(disk, options(SEGMENT_BYTES))?;
        for (group, model) in &script.models {
            if rig.group(*group).is_ok() {
                super::check_group(&rig, *group, model, model.acknowledged.len(), what);
            }
        }
        Ok(())
    };
    let calls = {
        let disk = disk.crashed(Crash::KeepAll);
        drop(Rig::open(&disk, options(SEGMENT_BYTES)).unwrap());
        disk.calls()
    };
    for call in 0..calls {
        let disk = disk.crashed(Crash::KeepAll);
        disk.fail_at(call, super::faulty::FAULTS[0]);
        let what = format!("opening, call {call} of {calls}");
        if let Err(error) = check(&disk, &what) {
            assert!(!matches!(error, WalError::Corrupt(_)), "{what}: lost: an error is taken for damage: {error}");
        }
        let after = disk.crashed(Crash::DropAll);
        check(&after, &what).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
    }
    calls as usize
}

/// Gives a log up, and crashes at every step of it: it is there as it was, or gone with its end promised; and it goes on.
pub fn sweep_giving_up(seeds: std::ops::Range<u64>) -> States {
    let mut states = States::default();
    for seed in seeds {
        let (disk, models) = build(seed, 40, 1);
        let (group, model) = models.first_key_value().unwrap();
        let (vote, end) = (model.now().vote, model.now().last());
        disk.start_journal();
        let mut rig = Rig::open(&disk, mending()).unwrap();
        rig.group(*group).unwrap();
        assert!(rig.handle.give_up_log(*group).unwrap() >= end, "lost: the promise, when it is made");
        rig.settle();
        let mut replay = disk.replay();
        loop {
            states.of_step(seed, &replay, 0, |crash, crashed| {
                let what = format!("seed {seed}, {crash:?} at step {} of giving up", replay.steps());
                let rig = Rig::open(crashed, mending());
                let rig = rig.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
                let found = rig.group(*group).unwrap();
                let (last, promised) = (found.log.last(), found.promised_end);
                let whole_or_gone = last == end || found.log == quorate_core::LogIds::default();
                assert!(whole_or_gone, "{what}: lost: the log ends at {last}");
                assert!(promised >= end && found.vote == vote, "{what}: lost: it promises {promised}, not {end}");
            });
            if !replay.advance() {
                break;
            }
        }
    }
    states
}
