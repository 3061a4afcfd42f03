//! The protocol core: a node is told again what it was told in a steady run.

use std::error::Error;
use std::hint::black_box;

use quorate_core::{Actions, Envelope, Event};

use crate::measured;
use crate::steady::{Told, World};

/// Proposals before anything is counted: until every list of bounded length is as long as it gets.
const WARM_UP: usize = 2_000;
const PROPOSALS: usize = 2_000;

pub(super) fn leader() -> Result<u64, Box<dyn Error>> {
    replay(0, 1)
}

pub(super) fn follower() -> Result<u64, Box<dyn Error>> {
    replay(1, 64)
}

/// Tells the core at `place` again what it was told in proposals of `entries` each.
fn replay(place: usize, entries: u64) -> Result<u64, Box<dyn Error>> {
    let mut world = World::new();
    let mut core = world.cores[place].clone();
    world.told[place].clear();
    (0..WARM_UP).for_each(|_| world.propose(entries));
    let (warm, from) = (world.told[place].len(), world.cores[0].last_log_id().index);
    (0..PROPOSALS).for_each(|_| world.propose(entries));
    let proposed = world.cores[0].last_log_id().index - from;
    if proposed != entries * PROPOSALS as u64 {
        return Err("the run is not steady: another leader, or refused proposals".into());
    }
    let mut told = std::mem::take(&mut world.told[place]);
    let mut counted = told.split_off(warm);
    let mut out = Actions::new();
    let mut tell = |Told { now, event }: &mut Told| {
        match event {
            // As drivers do, where it lies.
            Event::Message(Envelope { from, incarnation, message }) => {
                core.receive(*now, *from, *incarnation, message, &mut out);
            }
            event => core.step(*now, std::mem::replace(event, Event::Timeout), &mut out),
        }
        black_box(&out);
        out.0.clear();
    };
    told.iter_mut().for_each(&mut tell);
    measured(|| counted.iter_mut().for_each(tell));
    Ok(PROPOSALS as u64)
}
