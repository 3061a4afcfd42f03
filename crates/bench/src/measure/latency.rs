//! How long operations took.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told from a longer one.
const LONGEST: Duration = Duration::from_secs(60);
/// Histograms, so that clients of different threads seldom meet at one.
const SHARDS: usize = 8;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) most: f64,
}

/// Takes latencies from many threads, to three significant digits, without allocating.
pub(crate) struct Recorder {
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Recorder {
    pub(crate) fn new() -> Result<Self, String> {
        let shards = (0..SHARDS)
            .map(|_| Histogram::new_with_bounds(1, nanos(LONGEST), 3).map(Mutex::new))
            .collect::<Result<_, _>>();
        shards.map(|shards| Self { shards }).map_err(|error| format!("a histogram cannot be made: {error}"))
    }

    /// Notes one latency of this client.
    pub(crate) fn record(&self, client: usize, took: Duration) {
        let shard = &self.shards[client % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(took));
    }

    /// What was noted; `None` if nothing was.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let lock = |shard: &Mutex<Histogram<u64>>| shard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = lock(self.shards.first()?);
        for shard in &self.shards[1..] {
            // The bounds are the same: adding cannot fail.
            let _ = all.add(lock(shard));
        }
        let micros = |value: u64| value as f64 / 1e3;
        (!all.is_empty()).then(|| Percentiles {
            p50: micros(all.value_at_quantile(0.5)),
            p99: micros(all.value_at_quantile(0.99)),
            p999: micros(all.value_at_quantile(0.999)),
            most: micros(all.max()),
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_shards() {
        let recorder = Recorder::new().unwrap();
        assert_eq!(recorder.percentiles(), None);
        for at in 1..=1000 {
            recorder.record(at, Duration::from_micros(at as u64));
        }
        let found = recorder.percentiles().unwrap();
        assert!((found.p50 - 500.0).abs() < 2.0, "{found:?}");
        assert!((found.p99 - 990.0).abs() < 2.0, "{found:?}");
        assert!((found.most - 1000.0).abs() < 2.0, "{found:?}");
    }
}
