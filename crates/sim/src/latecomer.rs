//! A node that was away at the end. What it lacks its leader has purged, down to the last entry, and nobody writes any more:
//! it must get all of it all the same.

use crate::disk::Crash;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Event, World};

/// Nodes that were away while everything they lacked was purged.
pub(crate) const CAUGHT_UP: &str = "latecomers";

/// Of a thousand runs, so many end with one.
const OFTEN: u32 = 400;

impl<W: Workload> World<W> {
    /// After everything healed, and before all nodes must agree.
    pub(crate) fn miss_the_end(&mut self) {
        let mut chance = Rng::new(self.options.seed, 14);
        if self.options.beyond_budget || !chance.chance(OFTEN) || self.violation.is_some() {
            return;
        }
        let members = self.members();
        let able = |at: &usize| {
            let place = &self.places[*at];
            let sound = !place.fragile && !place.damaged && !place.impaired;
            place.running.is_some() && members.contains(&place.id) && sound
        };
        let leader = self.leader();
        let able: Vec<usize> = (0..self.places.len()).filter(able).filter(|at| Some(*at) != leader).collect();
        if able.is_empty() {
            return;
        }
        let at = *chance.pick(&able);
        if !self.can_do_without(at) {
            return;
        }
        self.stop(at, Crash::KeepAll);
        self.on_process_gone(at);
        self.begin(8);
        self.clients.limit = self.clients.asked;
        let timeout = self.options.election_timeout.as_nanos() as u64;
        self.run_until(self.now + timeout * 6, |_| false);
        // What is applied is in a snapshot, and then nothing is left of the log.
        for purge in [false, true] {
            let Some(running) = self.leader().and_then(|at| self.places[at].running.as_ref()) else { break };
            let applied = running.node.core().applied().index;
            let Some(at) = self.leader() else { break };
            let call = self.expect_an_answer(at);
            let Some(running) = &mut self.places[at].running else { break };
            running.node.compact(call, purge.then_some(applied));
            self.touch(at);
            self.settle();
            self.run_until(self.now + timeout * 2, |_| false);
        }
        if self.violation.is_none() {
            self.counters.add(CAUGHT_UP, 1);
            self.schedule(self.now, Event::Start(at));
        }
    }
}
