//! A leader after everything healed: who counts as one, from when on the time is taken, and how long it may take.

use crate::history::Nanos;
use crate::workload::Workload;
use crate::world::World;

/// A leader is there within so many of the greatest election timeouts (`election_timeout_max`, here twice the least):
/// a node that heard a leader until the last moment waits for one of them, and elections may be split.
const TIMEOUTS: u32 = 4;
/// The longest that it took, in hundredths of the least election timeout.
const LED_AFTER: &str = "leader after healing, timeout %";
/// Runs in which it took more than four of the least.
const LED_LATE: &str = "leader after 4 least timeouts";
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
        (options.config.election_timeout_max * TIMEOUTS + once).as_nanos() as u64
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
            self.counters.add(LED_LATE, u64::from(took > 400));
        }
        led
    }
}
