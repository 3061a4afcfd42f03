//! When a turn is due by itself, and who may judge the others then.

use quorate_core::{Event, Instant};

use super::{Driver, Effects, Now};

impl Driver {
    /// When the next turn is due, if nothing else causes one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A blank node cannot campaign: it has no membership.
        self.due
    }

    /// The core's deadline is over.
    ///
    /// A node that is stepped a heartbeat after its turn `was_due` stood still itself, and so may have its machine: what
    /// peers sent meanwhile may not be read yet. Before it takes its leader or its quorum for gone, it reads for as long
    /// as a heartbeat; a leader asks its peers anew for that. Nothing is promised by that which time could break: leases
    /// are counted by whoever gave them.
    pub(super) fn on_due(&mut self, now: Now, was_due: Option<Instant>, effects: &mut Effects) {
        let config = self.core.config();
        let (beat, beats) = (config.heartbeat_interval, config.tick.is_on() && config.heartbeat.is_on());
        let stood_still = was_due.is_some_and(|due| now.at.since(due) >= beat);
        if self.catches_up.is_none() && stood_still {
            self.catches_up = Some(now.at + beat);
            if self.core.is_leader() && beats {
                self.step(now, Event::Heartbeat, effects);
            }
        } else if self.catches_up.is_none_or(|until| until <= now.at) {
            self.catches_up = None;
            self.step(now, Event::Timeout, effects);
        }
        self.report_completions(now, effects);
        self.due = self.next_due();
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.core.deadline().map(|due| self.catches_up.map_or(due, |until| due.max(until)))
    }
}
