//! How long to wait before a reconnect: at once, then twice as long each time, with jitter.

use std::time::Duration;

/// The waits of one lane.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    /// Waits given since the last reset.
    count: u32,
    state: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, count: 0, state: seed }
    }

    /// A connection stood long enough: start over.
    pub(crate) fn reset(&mut self) {
        self.count = 0;
    }

    /// The next wait: zero the first time; then between half and all of a bound that doubles up to the maximum.
    pub(crate) fn next(&mut self) -> Duration {
        let count = self.count;
        self.count = count.saturating_add(1);
        if count == 0 {
            return Duration::ZERO;
        }
        let bound = self.min.saturating_mul(1u32 << (count - 1).min(20)).min(self.max);
        let half = bound / 2;
        half + half.mul_f64(self.fraction())
    }

    /// In 0..1 (splitmix64): nodes that lost the same peer must not come back in step.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_zero_and_the_rest_double_with_jitter() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        assert_eq!(backoff.next(), Duration::ZERO);
        for n in 0..100u32 {
            let bound = min.saturating_mul(1 << n.min(10)).min(max);
            let wait = backoff.next();
            assert!(wait >= bound / 2 && wait <= bound, "wait {n}: {wait:?} for a bound of {bound:?}");
        }
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
        let waits = |seed| {
            let mut backoff = Backoff::new(min, max, seed);
            (0..5).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2), "two nodes do not come back in step");
    }
}
