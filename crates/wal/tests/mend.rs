//! Damage at rest under [`OnDamage::Mend`]: the log opens as an older state of itself, with everything that is whole, and
//! knows the last thing it may have acknowledged (docs/design/001).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::ErrorKind;
use std::path::Path;

use common::crashes::States;
use common::mending::{
    Misses, SEGMENT_BYTES, build, check_mended, damaged_decisions, damaged_notes, mending, noted, open_mended, played,
    segments, sweep_giving_up, sweep_mending, sweep_mending_faults, sweep_noting, sweep_purged,
};
use common::{Rig, dir, log_id, options};
use quorate_core::{
    Campaign, GroupId, Instant, MAX_INDEX, Message, Phase, Span, Tail, Vote, VoteAnswer, VoteReply, WriteId,
};
use quorate_wal::fake::{Crash, Fault, MemDisk};
use quorate_wal::{Disk, WalError, WalOptions, WalWrite};
use quorate_wire::{Batches, Packet};

#[test]
fn a_flipped_byte_costs_entries_and_no_promise() {
    let (mut lost, mut whole) = (0, 0);
    for (seed, groups) in [(0, 3), (1, 1), (2, 1), (3, 2)] {
        let (disk, models) = build(seed, 90, groups);
        for (path, bytes) in segments(&disk) {
            for offset in (seed..bytes).step_by(331) {
                let what = format!("seed {seed}, {} at {offset}", path.display());
                let damaged = disk.crashed(Crash::KeepAll);
                damaged.flip(&path, offset, 1 << ((offset + seed) % 8));
                let found = open_mended(&damaged, &models, &what);
                match check_mended(&models, &found, &what) {
                    true => lost += 1,
                    false => whole += 1,
                }
                // What was mended is an ordinary log, and stays as it was found.
                let again = damaged.crashed(Crash::DropAll);
                let rig =
                    Rig::open(&again, options(SEGMENT_BYTES)).unwrap_or_else(|error| panic!("{what}, then: {error}"));
                for (group, (state, entries)) in &found {
                    let now = rig.group(*group).unwrap();
                    assert_eq!((&now.log, now.promised_end), (&state.log, state.promised_end), "{what}, then");
                    assert_eq!(&rig.read_all(*group, &now, 1 << 20).unwrap(), entries, "{what}, then");
                }
            }
        }
    }
    println!("{lost} flips took entries, {whole} took none");
    assert!(lost > 100 && whole > 100, "{lost} and {whole}");
}

/// Of one group the promise is exact: the mark or what follows always names it.
#[test]
fn one_group_knows_exactly_what_it_promised() {
    let (disk, models) = build(7, 60, 1);
    let (group, model) = models.first_key_value().unwrap();
    let mut lost = 0;
    for (path, bytes) in segments(&disk) {
        for offset in (0..bytes).step_by(127) {
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, offset, 0x10);
            let (state, _) = &open_mended(&damaged, &models, "exact")[group];
            if state.log.last() != model.now().last() {
                lost += 1;
                assert!(state.promised_end.index < MAX_INDEX, "{} at {offset}: {}", path.display(), state.promised_end);
            }
        }
    }
    assert!(lost > 20, "{lost}");
}

/// A log that goes on when a part of it is purged, or is in a snapshot, ends after what names that part.
#[test]
fn what_is_purged_after_the_damage_is_not_the_end_of_the_log() {
    let group = GroupId(1);
    for (what, purges) in [("a purge", true), ("a reset that keeps the tail", false)] {
        let (disk, mut rig) = of_three_entries();
        match purges {
            true => rig.handle.purge(group, log_id(1, 1)),
            false => {
                let reset = WalWrite::Reset { to: log_id(1, 1), tail: Tail::Keep };
                rig.handle.submit(group, WriteId(5), reset);
            }
        }
        rig.settle();
        drop(rig);
        // The marks of this start name no group: it wrote none.
        drop(Rig::open(&disk, mending()).unwrap());
        spoil(&disk, b"third");
        let rig = Rig::open(&disk, mending()).unwrap();
        assert!(rig.handle.mended().is_some());
        let state = rig.group(group).unwrap();
        assert_eq!(state.log.last(), log_id(1, 2), "{what}");
        assert!(state.promised_end >= log_id(1, 3), "{what}: {} is promised", state.promised_end);
    }
}

/// A process that is killed leaves a batch, and not its mark: the newest mark is of before the batch that is damaged then.
#[test]
fn a_mark_of_before_the_damage_is_not_the_end_of_the_log() {
    let (disk, mut rig) = of_three_entries();
    rig.group(GroupId(2)).unwrap();
    disk.start_journal();
    rig.append(GroupId(2), 1, 1, 1, &[b"other"]);
    rig.settle();
    drop(rig);
    let (mut replay, mut named) = (disk.replay(), 0);
    loop {
        let killed = replay.crashed(Crash::KeepAll);
        spoil(&killed, b"third");
        let rig = Rig::open(&killed, mending()).unwrap();
        // With nothing after it, the damage is a torn tail for all that the disk says.
        if rig.handle.mended().is_some() {
            let promised = rig.group(GroupId(1)).unwrap().promised_end;
            assert!(promised >= log_id(1, 3), "step {}: {promised} is promised", replay.steps());
            named += 1;
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(named > 1, "{named}");
}

/// The same of random logs, with purges and other starts in them, and with the last process killed.
#[test]
fn a_flipped_byte_in_a_log_that_was_purged_costs_no_promise() {
    let lost: usize = (80..86).map(|seed| sweep_purged(seed, 1 + seed % 3, 211)).sum();
    println!("{lost} flips took entries");
    assert!(lost > 100, "{lost}");
}

/// A promise is sent to candidates: also one that nothing named must be a log id that messages can carry.
#[test]
fn what_is_promised_can_be_said() {
    let mut unknown = 0;
    for seed in [0, 3] {
        let (disk, models) = build(seed, 90, 3);
        for (path, bytes) in segments(&disk) {
            for offset in (seed..bytes).step_by(1009) {
                let damaged = disk.crashed(Crash::KeepAll);
                damaged.flip(&path, offset, 0x10);
                for (state, _) in open_mended(&damaged, &models, "said").values() {
                    let answer = VoteAnswer::StaleLog(state.promised_end);
                    let reply = VoteReply { phase: Phase::Real, campaign: Campaign(1), requested: state.vote, answer };
                    let message = Message::VoteReply(reply);
                    let packet = Packet { group: GroupId(1), message, batches: Batches::new() };
                    let mut bytes = Vec::new();
                    packet.encode_head(&mut bytes);
                    let read = Packet::decode(common::CLUSTER, bytes.into());
                    assert_eq!(read.map(|read| read.message), Ok(packet.message), "{}", state.promised_end);
                    unknown += usize::from(state.promised_end.index == MAX_INDEX);
                }
            }
        }
    }
    assert!(unknown > 0, "some promise is of what nothing names");
}

/// No mark calls the newest batch durable. Only the process that read it knows that it is no torn tail, and says so.
#[test]
fn a_lost_batch_that_was_read_costs_no_promise() {
    let states = sweep_noting(60..62, 1, Misses::Lost) + sweep_noting(62..63, 3, Misses::Lost);
    println!("{} crash states while noting and mending", states.checked);
    assert!(states.checked > 150, "{}", states.checked);
}

#[test]
fn a_batch_written_elsewhere_that_was_read_costs_no_promise() {
    let states = sweep_noting(64..65, 1, Misses::Elsewhere) + sweep_noting(65..66, 3, Misses::Elsewhere);
    assert!(states.checked > 100, "{}", states.checked);
}

/// The header of the newest segment tells nothing of the batches behind it.
#[test]
fn a_damaged_header_in_a_killed_log_costs_no_promise() {
    let mut lost = 0;
    for seed in 70..74 {
        let (disk, script, rig) = played(seed, 60, 1);
        drop(rig);
        for (path, _) in segments(&disk).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")) {
            let what = format!("seed {seed}, the header of {}", path.display());
            let damaged = disk.crashed(Crash::KeepAll);
            damaged.flip(&path, 40, 0x10);
            let found = open_mended(&damaged, &script.models, &what);
            lost += usize::from(check_mended(&script.models, &found, &what));
            for (group, (state, _)) in &found {
                let (last, promised) = (script.models[group].now().last(), state.promised_end);
                assert!(promised >= last, "{what}: {group:?} promised {last}, and takes {promised} for that");
            }
        }
    }
    assert!(lost > 4, "{lost}");
}

/// A crash while a log is mended, at any step, leaves a log that can be mended, and no promise is lost.
#[test]
fn a_crash_while_mending_loses_no_promise() {
    let states = sweep_mending(20..21, 4);
    println!("{} crash states while mending", states.checked);
    assert!(states.checked > 150, "{}", states.checked);
}

/// A call that fails while a log is mended costs nothing that the next opening does not find.
#[test]
fn a_fault_while_mending_loses_no_promise() {
    let faults = sweep_mending_faults(20, 5);
    println!("{faults} faults while mending");
    assert!(faults > 40, "{faults}");
}

/// A log that no snapshot leads up to is given up: what was promised is durable before it is gone.
#[test]
fn a_crash_while_a_log_is_given_up_loses_no_promise() {
    let states = sweep_giving_up(40..44);
    assert!(states.checked > 40, "{}", states.checked);
}

/// What every start of a group reads of its log, its memberships and its last entry, may stand in a finished segment, which
/// opening does not read otherwise: damage there is mended by the same opening, not by the one after a start that failed.
#[test]
fn damage_that_a_start_would_meet_is_mended_before_it() {
    let start = |rig: &Rig, groups: &mut dyn Iterator<Item = GroupId>| -> Result<(), WalError> {
        for group in groups {
            let log = rig.group(group)?.log;
            let (purged, last) = (log.purged(), log.last());
            if last.index > purged.index {
                let prev = log.at(last.index - 1).unwrap_or(purged);
                rig.handle.read(group, Span { prev, last }, 1)?;
            }
        }
        Ok(())
    };
    let mut met = 0;
    for seed in 0..6 {
        let (disk, models) = build(seed, 90, 4);
        for (path, bytes) in segments(&disk) {
            for offset in (12 << 10..bytes).step_by(89) {
                let what = format!("seed {seed}, {} at {offset}", path.display());
                let damaged = disk.crashed(Crash::KeepAll);
                damaged.flip(&path, offset, 0x10);
                let as_it_is = damaged.crashed(Crash::KeepAll);
                let rig = Rig::open(&damaged, mending()).unwrap_or_else(|error| panic!("{what}: {error}"));
                start(&rig, &mut models.keys().copied()).unwrap_or_else(|error| panic!("{what}: {error}"));
                // Damage that opening alone does not see.
                if let Ok(rig) = Rig::open(&as_it_is, options(SEGMENT_BYTES))
                    && start(&rig, &mut models.keys().copied()).is_err()
                {
                    met += 1;
                }
            }
        }
    }
    println!("{met} starts would have met damage");
    assert!(met > 20, "{met}");
}

/// What cannot be read of one group when the log is opened is for that group's start: it keeps nobody else from running.
#[test]
fn an_error_of_the_disk_in_what_a_start_reads_keeps_no_node_from_opening() {
    let (disk, models) = build(3, 90, 4);
    // The calls of an opening, and those of them that may fail without failing it.
    let survived = |options: &dyn Fn() -> WalOptions| {
        let whole = disk.crashed(Crash::KeepAll);
        drop(Rig::open(&whole, options()).unwrap());
        let survives = |call: &u64| {
            let failing = disk.crashed(Crash::KeepAll);
            failing.fail_at(*call, Fault::Error(ErrorKind::Other));
            let opened = Rig::open(&failing, options());
            if let Ok(rig) = &opened {
                for (group, model) in &models {
                    let state = rig.group(*group).unwrap();
                    assert_eq!(state.log.last(), model.now().last(), "call {call}");
                    rig.read_all(*group, &state, 1 << 20).unwrap();
                }
                assert!(rig.handle.mended().is_none(), "call {call}: an error is no damage");
            }
            opened.is_ok()
        };
        (whole.calls(), (0..whole.calls()).filter(survives).count() as u64)
    };
    let (calls, of_those) = survived(&mending);
    let (fewer, of_fewer) = survived(&|| options(SEGMENT_BYTES));
    println!("{} reads of what starts read", calls - fewer);
    assert!(calls >= fewer + 8, "{calls}, {fewer}");
    assert_eq!(of_those - of_fewer, calls - fewer, "each of these reads may fail");
}

#[test]
fn a_damaged_note_promises_whatever_may_have_been() {
    assert!(damaged_notes() > 100);
}

/// A log that is whole, beside a damaged note, is not written again: crashes and failures meanwhile make it no shorter.
#[test]
fn a_damaged_note_beside_a_whole_log_costs_no_entry() {
    let (disk, script) = noted(Misses::Lost);
    disk.flip(&dir().join("damage-seen"), 50, 0x04);
    let models = &script.models;
    let whole = open_mended(&disk.crashed(Crash::KeepAll), models, "whole");
    assert!(whole.values().any(|(_, entries)| entries.len() > 5), "{whole:?}");
    let played = disk.crashed(Crash::KeepAll);
    played.start_journal();
    let rig = Rig::open(&played, mending()).unwrap();
    assert!(rig.handle.mended().is_some(), "the node says that it may have lost something");
    drop(rig);
    let (mut replay, mut states) = (played.replay(), States::default());
    loop {
        states.of_step(1, &replay, 0, |crash, crashed| {
            let what = format!("{crash:?} at step {}", replay.steps());
            let found = open_mended(crashed, models, &what);
            for (group, (state, entries)) in &found {
                let (before, all) = &whole[group];
                assert_eq!((state, entries.len()), (before, all.len()), "{what}: {group:?}");
            }
            assert!(found == whole, "{what}");
        });
        if !replay.advance() {
            break;
        }
    }
    assert!(states.checked > 20, "{}", states.checked);
    // However often an opening fails, wherever.
    let failing = disk.crashed(Crash::KeepAll);
    for call in 0.. {
        failing.fail_at(failing.calls() + call, Fault::Error(ErrorKind::StorageFull));
        let opened = Rig::open(&failing, mending());
        let names = failing.list(dir()).unwrap();
        if opened.is_ok() && !names.iter().any(|name| name == "damage-seen") {
            assert!(call > 20, "{call}");
            break;
        }
    }
    assert_eq!(open_mended(&failing, models, "after failures"), whole);
}

/// Where the log is damaged as well as the note, one interrupted mending may make the log shorter, but not each of them.
#[test]
fn a_mending_that_is_interrupted_again_and_again_goes_on_from_what_is_left() {
    let (disk, script) = noted(Misses::Elsewhere);
    disk.flip(&dir().join("damage-seen"), 50, 0x04);
    let models = &script.models;
    disk.start_journal();
    open_mended(&disk, models, "mended");
    let (mut replay, mut checked, mut shorter) = (disk.replay(), 0, 0);
    loop {
        let once = replay.crashed(Crash::KeepAll);
        let decided = once.list(&dir().join("damaged")).is_ok_and(|names| !names.is_empty());
        if decided {
            let what = format!("step {}", replay.steps());
            let left = open_mended(&once.crashed(Crash::KeepAll), models, &what);
            check_mended(models, &left, &what);
            shorter += usize::from(left.values().any(|(_, entries)| entries.is_empty()));
            once.start_journal();
            open_mended(&once, models, &what);
            let mut again = once.replay();
            loop {
                let what = format!("{what}, then step {}", again.steps());
                assert_eq!(open_mended(&again.crashed(Crash::DropAll), models, &what), left, "{what}");
                checked += 1;
                if !again.advance() {
                    break;
                }
            }
        }
        if !replay.advance() {
            break;
        }
    }
    println!("{checked} states, {shorter} of them with nothing written again");
    assert!(checked > 100 && shorter > 0, "{checked}, {shorter}");
}

#[test]
fn one_copy_of_the_decision_to_mend_is_enough() {
    let damaged = damaged_decisions();
    assert!(damaged > 10, "{damaged}");
}

/// A segment that is gone takes what was in it and after it, and no promise.
#[test]
fn a_lost_segment_costs_entries_and_no_promise() {
    let (disk, models) = build(30, 120, 2);
    for (path, _) in segments(&disk) {
        let what = format!("{} is gone", path.display());
        let damaged = disk.crashed(Crash::KeepAll);
        damaged.remove(&path).unwrap();
        check_mended(&models, &open_mended(&damaged, &models, &what), &what);
    }
}

/// A log of three entries of group 1, which voted for their leader.
fn of_three_entries() -> (MemDisk, Rig) {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk, mending()).unwrap();
    rig.handle.set_cluster(common::CLUSTER, quorate_core::LeaderIdMode::Advanced).unwrap();
    let group = GroupId(1);
    rig.group(group).unwrap();
    rig.handle.submit(group, WriteId(1), WalWrite::Vote(Vote { leader_id: common::leader(1), committed: true }));
    for (i, payload) in (1..).zip([b"first", b"secnd", b"third"]) {
        rig.append(group, 1 + i, 1, i, &[payload]);
        rig.settle();
    }
    assert!(rig.handle.mended().is_none());
    (disk, rig)
}

/// A closed one, the second entry of which is damaged.
fn damaged_in_the_middle() -> MemDisk {
    let (disk, rig) = of_three_entries();
    rig.core.close(Instant::ORIGIN).unwrap();
    spoil(&disk, b"secnd");
    disk
}

/// Flips a byte of this payload in the first segment.
fn spoil(disk: &MemDisk, payload: &[u8]) {
    let path = common::segment(1);
    let at = (0..24 << 10).find(|at| holds(disk, &path, *at, payload)).unwrap();
    disk.flip(&path, at, 0xff);
}

/// What was promised beyond the damage outlives every start, until it is said to have ended; then it is forgotten durably.
#[test]
fn a_promised_end_is_kept_until_it_is_forgotten() {
    let disk = damaged_in_the_middle();
    let group = GroupId(1);
    for _ in 0..2 {
        let rig = Rig::open(&disk, mending()).unwrap();
        assert_eq!(rig.group(group).unwrap().promised_end, log_id(1, 3));
    }
    let mut rig = Rig::open(&disk, mending()).unwrap();
    rig.group(group).unwrap();
    rig.handle.submit(group, WriteId(1), WalWrite::ForgetPromisedEnd);
    rig.settle();
    assert!(rig.told().iter().all(|(_, _, result, _)| result.is_ok()));
    drop(rig);
    let rig = Rig::open(&disk.crashed(Crash::DropAll), mending()).unwrap();
    let state = rig.group(group).unwrap();
    assert_eq!((state.log.last(), state.promised_end), (log_id(1, 1), log_id(1, 1)));
}

/// The damaged segments are kept aside, the damage is named, and the log goes on.
#[test]
fn a_mended_log_goes_on() {
    let (disk, group, path) = (damaged_in_the_middle(), GroupId(1), common::segment(1));
    let mut rig = Rig::open(&disk, mending()).unwrap();
    let damage = rig.handle.mended().unwrap();
    assert_eq!(damage.path, path);
    let state = rig.group(group).unwrap();
    assert_eq!((state.log.last(), state.promised_end), (log_id(1, 1), log_id(1, 3)));
    assert_eq!(rig.read_all(group, &state, 1000).unwrap()[0].payload[..], *b"first");
    rig.append(group, 1, 1, 2, &[b"secnd", b"third", b"forth"]);
    rig.settle();
    assert!(rig.told().iter().all(|(_, _, result, _)| result.is_ok()));
    rig.core.close(Instant::ORIGIN).unwrap();
    let names = disk.list(&dir().join("damaged")).unwrap();
    assert_eq!(names, ["0000000000000001.seg"]);
    let rig = Rig::open(&disk, mending()).unwrap();
    assert!(rig.handle.mended().is_none());
    let state = rig.group(group).unwrap();
    assert_eq!((state.log.last(), state.promised_end), (log_id(1, 4), log_id(1, 4)));
    assert_eq!(rig.read_all(group, &state, 1000).unwrap().len(), 4);
}

fn holds(disk: &MemDisk, path: &Path, at: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    disk.open(path).unwrap().read_at(&mut found, at).unwrap() == bytes.len() && found == bytes
}
