//! Whether the clock that leases are measured with ran as other clocks did (law 17).
//!
//! The core's time is `std::time::Instant`: on Linux `CLOCK_MONOTONIC`, which stands still while the machine sleeps. A
//! leader that slept would take a lease for valid that is long over. So every turn that may rest on time compares it with
//! the wall clock, which goes on (two more looks at clocks, about 50 ns); if they disagree, the core is told
//! ([`Event::ClockJumped`](quorate_core::Event::ClockJumped)), and confirms by rounds until voters promised anew. A
//! wall clock that an operator sets looks the same, and costs one round. What stops both clocks alike (a hypervisor that
//! pauses a guest and does not tell it) cannot be seen from inside: do not use lease reads there.

use std::time::Duration;

use quorate_core::Core;

/// Compares two clocks over a window.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    /// Where the window began on each clock, in nanoseconds.
    base: (u64, u64),
}

impl ClockWatch {
    pub(crate) fn new(mono: u64, wall: u64) -> Self {
        Self { base: (mono, wall) }
    }

    /// Whether a window for leases of this length is over, so that the clocks must be compared.
    fn is_due(&self, mono: u64, lease: Duration) -> bool {
        mono.saturating_sub(self.base.0) >= nanos(lease)
    }

    /// Whether a turn may leave the comparison to a later one. What packets and writes ask for does not rest on a clock
    /// that runs as others do, but with leases. Where there are none, a turn of nothing else leaves it to the next one that
    /// brings anything else, as a read of a maximum age does, or that comes when the window is over: it finds the same.
    pub(crate) fn may_wait(&self, core: &Core, packets_only: bool, mono: u64) -> bool {
        packets_only && !core.relies_on_clock() && !self.is_due(mono, core.config().election_timeout_min)
    }

    /// Takes the wall clock, read between two looks at the monotonic one: a thread that was interrupted in between
    /// proves nothing. Returns whether they disagree.
    ///
    /// `drift`: as [`Config::max_clock_drift`](crate::Config::max_clock_drift), for a lease of `lease`. A quarter of it
    /// may pass unseen in a window, and a lease touches at most two windows: half of it is left for drift proper.
    pub(crate) fn jumped(&mut self, (before, wall, after): (u64, u64, u64), drift: Duration, lease: Duration) -> bool {
        let jumped = !self.lies_between((before, wall, after), drift);
        if jumped || self.is_due(before, lease) {
            self.base = (before, wall);
        }
        jumped
    }

    /// Whether clocks that are looked at without a turn, the wall's first, can be trusted. A thread that was interrupted
    /// in between trusts them less. They are not if the window is over, for only a turn begins the next one, nor if they
    /// disagree: a turn finds the same, and tells the core.
    pub(crate) fn agree(&self, (mono, wall): (u64, u64), drift: Duration, lease: Duration) -> bool {
        !self.is_due(mono, lease) && self.lies_between((mono, wall, mono), drift)
    }

    /// Whether as much has passed on the wall clock since the window began as on the other one until `before`, or until
    /// `after`.
    fn lies_between(&self, (before, wall, after): (u64, u64, u64), drift: Duration) -> bool {
        let tolerance = i128::from(nanos(drift) / 4);
        let (mono_base, wall_base) = self.base;
        let passed = i128::from(wall) - i128::from(wall_base);
        let least = i128::from(before.saturating_sub(mono_base)) - tolerance;
        let most = i128::from(after.saturating_sub(mono_base)) + tolerance;
        least <= passed && passed <= most
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn watch() -> ClockWatch {
        ClockWatch::new(0, 5_000 * MS)
    }

    fn jumped(watch: &mut ClockWatch, before: u64, wall: u64, after: u64) -> bool {
        watch.jumped((before, wall, after), Duration::from_millis(40), Duration::from_millis(300))
    }

    #[test]
    fn clocks_that_run_alike_are_trusted_however_long() {
        let mut watch = watch();
        for at in (0..100_000).step_by(100) {
            // Half a per mille apart: as fast as the system's clock is ever slewed.
            let wall = 5_000 * MS + at * MS + at * MS / 2_000;
            assert!(!jumped(&mut watch, at * MS, wall, at * MS), "at {at} ms");
        }
    }

    #[test]
    fn a_machine_that_slept_is_noticed_once() {
        let mut watch = watch();
        assert!(!jumped(&mut watch, 100 * MS, 5_110 * MS, 100 * MS));
        assert!(jumped(&mut watch, 100 * MS, 5_111 * MS, 100 * MS));
        assert!(!jumped(&mut watch, 101 * MS, 5_112 * MS, 101 * MS));
    }

    #[test]
    fn a_monotonic_clock_that_leapt_is_noticed() {
        assert!(jumped(&mut watch(), 1_000 * MS, 5_100 * MS, 1_000 * MS));
    }

    /// The one without a turn leaves it to a turn to find out.
    #[test]
    fn a_look_without_a_turn_trusts_no_more_than_a_turn_does() {
        let agree = |watch: &ClockWatch, mono, wall| {
            watch.agree((mono * MS, wall * MS), Duration::from_millis(40), Duration::from_millis(300))
        };
        let mut watch = watch();
        assert!(agree(&watch, 100, 5_110) && agree(&watch, 100, 5_090));
        for (mono, wall) in [(100, 5_111), (100, 5_089), (250, 5_200), (300, 5_300)] {
            assert!(!agree(&watch, mono, wall), "{mono} ms, {wall} ms");
        }
        assert!(jumped(&mut watch, 100 * MS, 5_111 * MS, 100 * MS), "it was not forgotten");
        assert!(agree(&watch, 101, 5_112));
    }

    #[test]
    fn an_interrupted_look_proves_nothing() {
        assert!(!jumped(&mut watch(), 10 * MS, 5_200 * MS, 250 * MS));
    }
}
