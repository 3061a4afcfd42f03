//! A leader after everything healed: who counts as one, from when on the time is taken, and how long it may take.

use crate::history::Nanos;
use crate::workload::Workload;
use crate::world::World;

/// A leader is there within so many of the least election timeouts. A node that heard a leader until the last moment
/// campaigns after two of them at the latest (`election_timeout_max` is twice the least here). If that vote is split, the
/// greatest of the candidates hears so from the others within half of one, as messages take a thirteenth at most, and
/// campaigns again after another half. The others leave it a gap, and who granted one of them a vote waits for a whole one
/// since then: so it is alone, and there is no second split.
///
/// More than this takes luck of a kind that no search has met, such as a first candidate that gives way to one whose log is
/// too short to win, where pre-votes are off.
const TIMEOUTS: u32 = 4;
/// Clocks run slower than the world's time by less than one part in so many.
const DRIFT: u32 = 50;
/// The longest that it took, in hundredths of the least election timeout.
const LED_AFTER: &str = "leader after healing, timeout %";
/// Runs in which it took more than three and more than four of the least.
const LED_LATE: [(u64, &str); 2] = [(300, "leader after 3 least timeouts"), (400, "leader after 4 least timeouts")];
/// Besides the timeouts, for the last campaign: pre-vote, vote and first append with their answers, each message up to
/// one and a half latencies.
const LATENCIES: u32 = 9;
/// The candidate's and the voters' votes and the first append wait for disks, each up to one and a half turns, and once
/// more where a turn was under way.
const DISK_TURNS: u32 = 9;

impl<W: Workload> World<W> {
    /// How long it may take until there is a leader, once everything is healed.
    pub(crate) fn patience_for_a_leader(&self) -> Nanos {
        let options = &self.options;
        let once = options.latency * LATENCIES + options.disk_latency * DISK_TURNS;
        let timeouts = options.election_timeout * TIMEOUTS;
        (timeouts + timeouts / DRIFT + once).as_nanos() as u64
    }

    /// The node that leads under the greatest leader id, if a commit quorum of its voters has accepted it. An old leader
    /// that was cut off and has heard of nothing is none.
    pub(crate) fn accepted_leader(&self) -> Option<usize> {
        let at = self.leader()?;
        let core = self.places[at].running.as_ref()?.node.core();
        let leads = core.vote();
        let follows = |id, incarnation| {
            let place = self.places.iter().find(|place| place.id == id && place.incarnation == incarnation)?;
            let vote = place.running.as_ref()?.node.core().vote();
            (vote == leads).then_some(())
        };
        core.membership().commit_reached(follows).map(|()| at)
    }

    /// Everything is healed: waits for a leader. The time counts from when every link delivers again: what a slow link
    /// held back when it was mended comes first.
    pub(crate) fn wait_for_a_leader(&mut self) -> bool {
        let whole = self.net.clear_at().max(self.now);
        let led = self.run_until(whole + self.patience_for_a_leader(), |world| world.accepted_leader().is_some());
        if led {
            let took = self.now.saturating_sub(whole) * 100 / self.options.election_timeout.as_nanos() as u64;
            self.counters.raise(LED_AFTER, took);
            LED_LATE.iter().for_each(|(after, name)| self.counters.add(name, u64::from(took > *after)));
        }
        led
    }
}
