//! Machines that keep their state themselves.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate::advanced::machines::Replay;
use quorate::advanced::wal::Disk;
use quorate::advanced::wal::fake::{Crash, MemDisk};
use quorate::{LastApplied, RaftStateMachine};

use super::{Parts, apply, check_answers, worked};
use crate::chance::Chance;
use crate::report::{Failure, Law, Looked};
use crate::storage::Places;

type OpenAt<'a, S> = &'a dyn Fn(&Path) -> io::Result<S>;

/// Opens a machine and says how much it has applied.
fn open<S: RaftStateMachine>(opened: io::Result<S>, step: &str) -> Result<(Replay<S>, u64), Failure> {
    let mut machine = worked(opened, Law::OpensAgain, step)?;
    let index = match worked(machine.last_applied(), Law::AppliedWithData, step)? {
        LastApplied::InMemory => {
            let found = "`last_applied` says that the machine is in memory";
            return Err(Failure::new(Law::AppliedWithData, step, "a durable machine", found));
        }
        LastApplied::Nothing => 0,
        LastApplied::UpTo(checkpoint) => worked(checkpoint.log_id(), Law::AppliedWithData, step)?.index,
    };
    Ok((worked(Replay::start(machine), Law::AppliedWithData, step)?, index))
}

/// The machine must hold what the first `index` commands make, as another one that applied just these.
fn check_holds<S: RaftStateMachine>(
    parts: &Parts<'_, S>,
    found: &Replay<S>,
    log: &[Bytes],
    index: u64,
    other: io::Result<S>,
    step: &str,
) -> Result<usize, Failure> {
    let applied = &log[..usize::try_from(index).unwrap_or(usize::MAX).min(log.len())];
    let (mut expected, _) = open(other, step)?;
    apply(&mut expected, applied, 1, &[5], step)?;
    let step = format!("{step}: `last_applied` is {index}, the state is to be of the first {} commands", applied.len());
    parts.check_equal(Law::AppliedWithData, &expected, found, &step)
}

/// Closed and opened again at every few commands: it goes on as one that was never closed.
pub(super) fn restarts<S: RaftStateMachine>(
    parts: &Parts<'_, S>,
    open_at: OpenAt<'_, S>,
    places: &Places,
) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in parts.seeds.clone() {
        let log = parts.log(&mut Chance::new(seed))?;
        let (steady, place) = (places.blank(), places.blank());
        let step = format!("the log of seed {seed}");
        let answers = apply(&mut open(open_at(&steady), &step)?.0, &log, 1, &[4], &step)?;
        let mut done = 0;
        while done < log.len() {
            let step = format!("the log of seed {seed}, opened again after command {done}");
            let (mut machine, index) = open(open_at(&place), &step)?;
            if index > done as u64 {
                let expected = format!("at most {done}");
                return Err(Failure::new(Law::AppliedWithData, step, expected, index.to_string()));
            }
            checks += check_holds(parts, &machine, &log, index, open_at(&places.blank()), &step)?;
            let from = usize::try_from(index).unwrap_or(0);
            let end = (done + 9).min(log.len());
            let again = apply(&mut machine, &log[from..end], index + 1, &[4], &step)?;
            checks += check_answers(Law::GoesOn, &answers[from..end].to_vec(), &again, &step)?;
            done = end;
        }
        let step = format!("the log of seed {seed}, at its end");
        let (machine, index) = open(open_at(&place), &step)?;
        checks += check_holds(parts, &machine, &log, index, open_at(&places.blank()), &step)?;
    }
    Ok(checks)
}

/// A snapshot of one is installed into another, which held something else, and survives.
pub(super) fn installs<S: RaftStateMachine>(
    parts: &Parts<'_, S>,
    open_at: OpenAt<'_, S>,
    places: &Places,
) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in parts.seeds.clone() {
        let log = parts.log(&mut Chance::new(seed))?;
        for at in [log.len() / 2, log.len()] {
            let step = format!("the log of seed {seed}, the snapshot after command {at} installed elsewhere");
            let (mut original, _) = open(open_at(&places.blank()), &step)?;
            apply(&mut original, &log[..at], 1, &[4], &step)?;
            let content = worked(original.snapshot(), Law::RestoreIsEqual, &step)?;
            let place = places.blank();
            let (mut other, _) = open(open_at(&place), &step)?;
            apply(&mut other, &log[..at / 3], 1, &[4], &step)?;
            worked(other.install(&original.meta(), &content), Law::RestoreIsEqual, &step)?;
            checks += parts.check_equal(Law::RestoreIsEqual, &original, &other, &step)?;
            drop(other);
            let step = format!("{step}, and opened again");
            let (mut other, index) = open(open_at(&place), &step)?;
            if index != at as u64 {
                return Err(Failure::new(Law::AppliedWithData, step, at.to_string(), index.to_string()));
            }
            checks += parts.check_equal(Law::AppliedWithData, &original, &other, &step)?;
            let expected = apply(&mut original, &log[at..], at as u64 + 1, &[4], &step)?;
            let answers = apply(&mut other, &log[at..], at as u64 + 1, &[4], &step)?;
            checks += check_answers(Law::GoesOn, &expected, &answers, &step)?;
        }
    }
    Ok(checks)
}

type OpenOn<'a, S> = &'a dyn Fn(Arc<dyn Disk>, &Path) -> io::Result<S>;

/// Crashes at steps of the disk, at every one as long as they are at most a quarter of the states asked for, else at a
/// sample: the state is that of `last_applied`, whatever was lost.
pub(super) fn crashes<S: RaftStateMachine>(parts: &Parts<'_, S>, open_on: OpenOn<'_, S>) -> Result<Looked, Failure> {
    let on = |disk: &MemDisk| open_on(Arc::new(disk.clone()), Path::new("/machine"));
    let seed = parts.seeds.start;
    let log = parts.log(&mut Chance::new(seed))?;
    let disk = MemDisk::new();
    disk.start_journal();
    let (mut machine, _) = open(on(&disk), "a blank disk")?;
    apply(&mut machine, &log, 1, &[3], "a disk without faults")?;
    drop(machine);
    let (total, mut replay, mut states) = (disk.journal_steps(), disk.replay(), 0);
    let (mut chance, mut tried, mut places) = (Chance::new(seed), 0, 0);
    loop {
        let steps = replay.steps();
        places += 1;
        if chance.below(total as u64 * 4) < parts.states as u64 {
            tried += 1;
            let sample = steps as u64;
            for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(sample), Crash::Subset(sample + 1)] {
                let step = format!("a crash at step {steps} of {total} of the disk, {crash:?}");
                let (found, index) = open(on(&replay.crashed(crash)), &step)?;
                check_holds(parts, &found, &log, index, on(&MemDisk::new()), &step)?;
                states += 1;
            }
        }
        if !replay.advance() {
            return Ok(Looked { checks: states, places: Some((tried, places)) });
        }
    }
}
