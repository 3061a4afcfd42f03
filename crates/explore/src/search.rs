//! Breadth-first search, level by level.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use crate::local::{Broken, Checks, Driver};
use crate::scope::{Beginning, Scope};
use crate::world::{Choice, Stepper, World};

/// Fingerprints are well mixed: their low half is the hash.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type Seen = HashSet<u128, BuildHasherDefault<Identity>>;

/// How a search ended.
pub(crate) enum End {
    /// There are no more states within the bounds.
    Closed,
    /// The limit of states was reached with this many states waiting.
    Stopped {
        waiting: usize,
    },
    Violation {
        what: Broken,
        trace: Vec<String>,
    },
}

/// What a search saw.
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) choices: u64,
    pub(crate) depth: usize,
    pub(crate) nodes: usize,
    pub(crate) steps: usize,
    pub(crate) end: End,
}

/// Where a state came from: the state before, and which of its choices.
struct Origin {
    parent: u32,
    choice: u16,
}

/// Searches a scope until it is closed, something is violated, or the limit is reached.
pub(crate) fn search(scope: &Scope, limit: usize, checks: Checks) -> Report {
    let mut stepper = Stepper::new(Driver { scope, checks });
    let mut seen = Seen::default();
    let mut origins: Vec<Origin> = Vec::new();
    let mut choices = Vec::new();
    let (mut taken, mut depth) = (0u64, 0);
    let report = |stepper: &Stepper<'_>, states, choices, depth, end| {
        let (nodes, steps) = stepper.counts();
        Report { states, choices, depth, nodes, steps, end }
    };
    let first = match begin(&mut stepper, scope) {
        Ok(first) => first,
        Err(what) => return report(&stepper, 0, 0, 0, End::Violation { what, trace: Vec::new() }),
    };
    seen.insert(stepper.fingerprint(&first));
    origins.push(Origin { parent: 0, choice: 0 });
    let mut level = vec![(first.clone(), 0u32)];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (place, (world, number)) in level.iter().enumerate() {
            if seen.len() >= limit {
                let waiting = level.len() - place + next_level.len();
                return report(&stepper, seen.len(), taken, depth, End::Stopped { waiting });
            }
            stepper.choices(world, &mut choices);
            for (at, choice) in choices.iter().enumerate() {
                taken += 1;
                let next = match stepper.take(world, *choice) {
                    Ok(Some(next)) => next,
                    Ok(None) => continue,
                    Err(what) => {
                        let trace = trace(&mut stepper, &first, &origins, *number, *choice);
                        return report(&stepper, seen.len(), taken, depth + 1, End::Violation { what, trace });
                    }
                };
                if seen.insert(stepper.fingerprint(&next)) {
                    let number_of_next = u32::try_from(origins.len()).unwrap_or(u32::MAX);
                    origins.push(Origin { parent: *number, choice: u16::try_from(at).unwrap_or(u16::MAX) });
                    next_level.push((next, number_of_next));
                }
            }
        }
        if !next_level.is_empty() {
            depth += 1;
        }
        level = next_level;
    }
    report(&stepper, seen.len(), taken, depth, End::Closed)
}

fn begin(stepper: &mut Stepper<'_>, scope: &Scope) -> Result<World, Broken> {
    let first = stepper.beginning();
    match scope.begins {
        Beginning::NoLeader => Ok(first),
        Beginning::Led => {
            let campaign = Choice::Timeout(0, crate::local::Moment::Late);
            let world = stepper.take(&first, campaign)?.ok_or("node 1 cannot campaign".to_owned())?;
            stepper.settle(world)
        }
    }
}

/// Walks from the first state to a violation again, and tells the way.
fn trace(stepper: &mut Stepper<'_>, first: &World, origins: &[Origin], from: u32, last: Choice) -> Vec<String> {
    let mut way = Vec::new();
    let mut at = from;
    while at != 0 {
        let origin = &origins[at as usize];
        way.push(origin.choice);
        at = origin.parent;
    }
    let mut told = Vec::new();
    let mut world = first.clone();
    let mut choices = Vec::new();
    for place in way.into_iter().rev() {
        stepper.choices(&world, &mut choices);
        let choice = choices[usize::from(place)];
        told.push(stepper.tell(choice));
        if let Ok(Some(next)) = stepper.take(&world, choice) {
            world = next;
        }
    }
    told.push(stepper.tell(last));
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::Disk;

    #[test]
    fn small_scopes_close_without_a_violation() {
        let mut closed = 0;
        for scope in Scope::all() {
            let report = search(&scope, 3_000, Checks::Everything);
            match report.end {
                End::Violation { what, trace } => panic!("{}: {what}\n{}", scope.name, trace.join("\n")),
                End::Closed => closed += 1,
                End::Stopped { waiting } => assert!(waiting > 0 && report.depth > 2, "{}: stops early", scope.name),
            }
        }
        assert!(closed > 0, "no scope is closed by so few states");
    }

    #[test]
    fn a_search_repeats_to_the_state() {
        let scope =
            Scope::all().into_iter().find(|scope| scope.disk == Disk::AnyTime).expect("some scope has a slow disk");
        let runs = [(); 2].map(|()| search(&scope, 2_000, Checks::ClusterOnly));
        assert_eq!(runs[0].states, runs[1].states);
        assert_eq!(runs[0].choices, runs[1].choices);
    }
}
