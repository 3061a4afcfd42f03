//! Machines in memory: the same log gives the same state, whatever snapshots lie between.

use quorate::RaftStateMachine;
use quorate::advanced::machines::Replay;

use super::{Blank, Parts, apply, check_answers, worked};
use crate::chance::Chance;
use crate::report::{Failure, Law};

/// Ways to cut a log into batches.
const CUTS: [&[usize]; 3] = [&[1], &[7, 1, 3], &[usize::MAX]];

fn start<S: RaftStateMachine>(blank: &Blank<'_, S>, step: &str) -> Result<Replay<S>, Failure> {
    worked(Replay::start(blank()), Law::SameState, step)
}

/// Two machines, one log: the same responses, the same states; and the same in other batches.
pub(super) fn determinism<S: RaftStateMachine>(parts: &Parts<'_, S>, blank: &Blank<'_, S>) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in parts.seeds.clone() {
        let log = parts.log(&mut Chance::new(seed))?;
        let step = format!("the log of seed {seed}, applied twice");
        let (mut one, mut other) = (start(blank, &step)?, start(blank, &step)?);
        checks += parts.check_equal(Law::SameState, &one, &other, &format!("{step}, before the first command"))?;
        for (place, command) in log.iter().enumerate() {
            let (command, index) = (std::slice::from_ref(command), place as u64 + 1);
            let first = apply(&mut one, command, index, &[1], &step)?;
            let second = apply(&mut other, command, index, &[1], &step)?;
            checks += check_answers(Law::SameResponses, &first, &second, &step)?;
            let step = format!("{step}, after command {index}");
            checks += parts.check_equal(Law::SameState, &one, &other, &step)?;
        }
        let singly = apply(&mut start(blank, &step)?, &log, 1, &[1], &step)?;
        for cut in CUTS {
            let step = format!("the log of seed {seed} in batches of {cut:?}");
            let mut cut_up = start(blank, &step)?;
            let answers = apply(&mut cut_up, &log, 1, cut, &step)?;
            checks += check_answers(Law::BatchesAreInvisible, &singly, &answers, &step)?;
            checks += parts.check_equal(Law::BatchesAreInvisible, &one, &cut_up, &step)?;
        }
    }
    Ok(checks)
}

/// A snapshot at some places of the log: what is restored from it is equal, and goes on alike.
pub(super) fn snapshots<S: RaftStateMachine>(parts: &Parts<'_, S>, blank: &Blank<'_, S>) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in parts.seeds.clone() {
        let mut chance = Chance::new(seed);
        let log = parts.log(&mut chance)?;
        let middle = chance.below(log.len() as u64) as usize;
        for at in [0, 1, middle, log.len() - 1, log.len()] {
            let step = format!("the log of seed {seed}, a snapshot after command {at}");
            let mut original = start(blank, &step)?;
            apply(&mut original, &log[..at], 1, &[5], &step)?;
            let before = parts.view(&original, &step)?;
            let content = worked(original.snapshot(), Law::RestoreIsEqual, &step)?;
            if parts.view(&original, &step)? != before {
                let found = parts.view(&original, &step)?.to_string();
                return Err(Failure::new(Law::SnapshotChangesNothing, step, before.to_string(), found));
            }
            let mut restored = worked(Replay::<S>::restore(&original.meta(), &content), Law::RestoreIsEqual, &step)?;
            checks += parts.check_equal(Law::RestoreIsEqual, &original, &restored, &step)?;
            let step = format!("{step}, then the rest");
            let expected = apply(&mut original, &log[at..], at as u64 + 1, &[3], &step)?;
            let answers = apply(&mut restored, &log[at..], at as u64 + 1, &[3], &step)?;
            checks += check_answers(Law::RestoreIsEqual, &expected, &answers, &step)?;
            checks += parts.check_equal(Law::RestoreIsEqual, &original, &restored, &step)?;
            checks += parts.check_parts(&original, &step)?;
        }
    }
    Ok(checks)
}

impl<S: RaftStateMachine> Parts<'_, S> {
    /// A front of a snapshot is either refused or, if the format cannot tell, at least not taken for the whole.
    fn check_parts(&self, original: &Replay<S>, step: &str) -> Result<usize, Failure> {
        let content = worked(original.snapshot(), Law::RestoreIsEqual, step)?;
        let whole = self.view(original, step)?;
        let mut checks = 0;
        for cut in 1..=4 {
            let length = content.len() - content.len() * cut / 5 - 1;
            let Ok(restored) = Replay::<S>::restore(&original.meta(), &content[..length]) else { continue };
            let step = format!("{step}: the first {length} of {} bytes of a snapshot", content.len());
            if self.view(&restored, &step)? != whole {
                let expected = "`restore` fails, as nobody else can tell";
                let found = "a state with less in it";
                return Err(Failure::new(Law::PartIsRefused, step, expected, found));
            }
            checks += 1;
        }
        Ok(checks)
    }
}

/// A capture is written after more was applied, and holds none of that.
pub(super) fn captures<S: RaftStateMachine>(parts: &Parts<'_, S>, blank: &Blank<'_, S>) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in parts.seeds.clone() {
        let log = parts.log(&mut Chance::new(seed))?;
        for at in [0, log.len() / 3, log.len() / 2] {
            let step = format!("the log of seed {seed}, a capture after command {at}, written after the last");
            let mut machine = start(blank, &step)?;
            apply(&mut machine, &log[..at], 1, &[5], &step)?;
            let Some(frozen) = worked(machine.freeze(), Law::FreezeIsThen, &step)? else { continue };
            let meta = machine.meta();
            apply(&mut machine, &log[at..], at as u64 + 1, &[5], &step)?;
            let content = worked(frozen(), Law::FreezeIsThen, &step)?;
            let restored = worked(Replay::<S>::restore(&meta, &content), Law::FreezeIsThen, &step)?;
            let mut then = start(blank, &step)?;
            apply(&mut then, &log[..at], 1, &[5], &step)?;
            checks += parts.check_equal(Law::FreezeIsThen, &then, &restored, &step)?;
        }
    }
    Ok(checks)
}
