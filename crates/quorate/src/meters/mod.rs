//! What a node counts and times for its operators. No global recorder: a registry belongs to whoever makes it.
//!
//! The path of a write costs a few relaxed additions and one reading of the clock for each batch. A histogram takes
//! its memory (2 KiB) when the first time is entered. Nothing here decides anything.

mod disk;
mod group;
mod latency;
#[cfg(feature = "prometheus")]
mod prometheus;
mod registry;
mod stats;
#[cfg(test)]
mod tests;
mod trips;

pub(crate) use self::disk::TimedDisk;
pub(crate) use self::group::{Depths, GroupMeters, HostMeters};
pub use self::latency::Latencies;
pub(crate) use self::latency::{LatencyMeter, Took};
#[cfg(feature = "prometheus")]
pub use self::prometheus::PROMETHEUS_CONTENT_TYPE;
pub(crate) use self::registry::Metered;
pub use self::registry::{MetricFamily, MetricKind, MetricSample, MetricValue, MetricsRegistry};
pub use self::stats::RuntimeStats;
pub(crate) use self::trips::Trips;
