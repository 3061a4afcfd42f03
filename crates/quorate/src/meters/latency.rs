//! Times, entered by any thread without a lock: log-linear buckets as those of the crate `histogram`, which reads them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::Histogram;

/// Buckets in each power of two, as a power of two: a time is known to 12.5 %.
const GROUPING_POWER: u8 = 3;
/// Times from 2^30 µs, 18 minutes, on are entered as that long.
const MAX_POWER: u8 = 30;
const MAX_MICROS: u64 = (1 << MAX_POWER) - 1;
/// 224, which take 1.75 KiB.
const BUCKETS: usize = bucket_of(MAX_MICROS) + 1;
/// What bounds of exported buckets begin and end with: 2^4 µs, 2^26 µs (67 s).
const BOUND_POWERS: std::ops::RangeInclusive<u32> = 4..=26;

/// Times that are entered.
#[derive(Debug, Default)]
pub(crate) struct LatencyMeter {
    /// Made when the first time is entered: most groups never send a snapshot.
    buckets: OnceLock<Box<[AtomicU64; BUCKETS]>>,
    nanos: AtomicU64,
}

impl LatencyMeter {
    /// Enters that something took so long, for each of `count` entries.
    pub(crate) fn enter(&self, took: Duration, count: u64) {
        self.add(Took::nanos(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)), count);
    }

    /// As [`enter`](Self::enter).
    #[inline]
    pub(crate) fn add(&self, took: Took, count: u64) {
        let buckets = self.buckets.get_or_init(|| Box::new([const { AtomicU64::new(0) }; BUCKETS]));
        buckets[took.bucket].fetch_add(count, Ordering::Relaxed);
        self.nanos.fetch_add(took.nanos.saturating_mul(count), Ordering::Relaxed);
    }

    /// What was entered so far.
    pub(crate) fn latencies(&self) -> Latencies {
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed));
        let counts = |buckets: &[AtomicU64]| buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let load = |counts| Histogram::from_buckets(GROUPING_POWER, MAX_POWER, counts).ok();
        Latencies { buckets: self.buckets.get().and_then(|buckets| load(counts(&buckets[..]))), sum }
    }
}

/// A time and its bucket, to be entered in one meter or more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    nanos: u64,
    bucket: usize,
}

impl Took {
    #[inline]
    pub(crate) fn nanos(nanos: u64) -> Self {
        // So that what took at most 2^k µs is in a bucket below 2^k.
        let micros = nanos.saturating_sub(1) / 1000;
        Self { nanos, bucket: bucket_of(micros.min(MAX_MICROS)) }
    }
}

/// The bucket of so many microseconds, as the crate `histogram` numbers them: each below 2^(g+1) has its own, and each
/// power of two from there on 2^g.
#[inline]
const fn bucket_of(micros: u64) -> usize {
    if micros < 2 << GROUPING_POWER {
        return micros as usize;
    }
    let dropped = micros.ilog2() - GROUPING_POWER as u32;
    ((dropped as usize) << GROUPING_POWER) + (micros >> dropped) as usize
}

/// How long something took, over all the times it was done since the node started.
#[derive(Clone, Default)]
pub struct Latencies {
    buckets: Option<Histogram>,
    sum: Duration,
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Latencies");
        shown.field("count", &self.count()).field("mean", &self.mean());
        shown.field("p50", &self.quantile(0.5)).field("p99", &self.quantile(0.99)).finish()
    }
}

impl Latencies {
    /// How often it was done.
    pub fn count(&self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }

    /// All of it together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The mean; `None` if it was never done.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| self.sum.div_f64(count as f64))
    }

    /// The time within which this part (from 0 to 1) of all were done, at most 12.5 % too long; `None` if it was
    /// never done. Times of more than 18 minutes count as 18 minutes.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut passed = 0;
        self.counts().find_map(|(within, count)| {
            passed += count;
            (passed >= wanted).then_some(within)
        })
    }

    /// How many took at most a bound and more than the bound before: for bounds from 16 µs to 67 s, each twice the
    /// last, then for all that took longer (`None`). For those who export to systems with few buckets.
    pub fn by_bounds(&self) -> Vec<(Option<Duration>, u64)> {
        let mut counts = self.counts().peekable();
        let mut rows = Vec::with_capacity(BOUND_POWERS.clone().count() + 1);
        for power in BOUND_POWERS {
            let bound = Duration::from_micros(1 << power);
            let mut within = 0;
            while let Some((_, count)) = counts.next_if(|(to, _)| *to <= bound) {
                within += count;
            }
            rows.push((Some(bound), within));
        }
        rows.push((None, counts.map(|(_, count)| count).sum()));
        rows
    }

    /// Each bucket's greatest time and its count.
    fn counts(&self) -> impl Iterator<Item = (Duration, u64)> {
        let buckets = self.buckets.iter().flat_map(Histogram::iter);
        buckets.map(|bucket| (Duration::from_micros(bucket.end() + 1), bucket.count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_numbered_as_those_of_the_crate() {
        let mut histogram = Histogram::new(GROUPING_POWER, MAX_POWER).unwrap();
        assert_eq!((histogram.as_slice().len(), BUCKETS), (224, 224));
        for power in 0..MAX_POWER {
            for micros in [1 << power, (1 << power) + 1, 3 << power >> 1, (2 << power) - 1] {
                let counts = histogram.as_slice()[bucket_of(micros)];
                histogram.increment(micros).unwrap();
                assert_eq!(histogram.as_slice()[bucket_of(micros)], counts + 1, "{micros} µs");
            }
        }
    }
}
