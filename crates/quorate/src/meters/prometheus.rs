//! The registry as a page that Prometheus scrapes, by `prometheus-client`.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::{Latencies, MetricFamily, MetricKind, MetricSample, MetricValue, MetricsRegistry};

/// The content type of [`MetricsRegistry::prometheus_text`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type NoLabels = [(&'static str, &'static str); 0];

impl MetricsRegistry {
    /// All numbers as text for Prometheus (OpenMetrics 1.0), to be served with [`PROMETHEUS_CONTENT_TYPE`].
    ///
    /// Times are in seconds, in buckets of [`Latencies::by_bounds`]. Who has a page already registers this registry
    /// with it instead: it is a [`Collector`].
    pub fn prometheus_text(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode(&mut text, &registry);
        debug_assert!(written.is_ok(), "a string takes everything");
        text
    }
}

impl Collector for MetricsRegistry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.families().iter().try_for_each(|family| write_family(&mut encoder, family))
    }
}

fn write_family(encoder: &mut DescriptorEncoder<'_>, family: &MetricFamily) -> Result<(), Error> {
    let (name, kind) = match family.kind {
        // The encoder puts the ending there itself.
        MetricKind::Counter => (family.name.trim_end_matches("_total"), MetricType::Counter),
        MetricKind::Gauge => (family.name, MetricType::Gauge),
        MetricKind::Histogram => (family.name, MetricType::Histogram),
    };
    let mut written = encoder.encode_descriptor(name, family.help, None, kind)?;
    family.samples.iter().try_for_each(|sample| write_sample(&mut written, family.kind, sample))
}

fn write_sample(family: &mut MetricEncoder<'_>, kind: MetricKind, sample: &MetricSample) -> Result<(), Error> {
    let labels = sample.labels.as_slice();
    let mut encoder = family.encode_family(&labels)?;
    match (&sample.value, kind) {
        (MetricValue::Number(value), MetricKind::Counter) => {
            encoder.encode_counter(value, None::<&Exemplar<NoLabels, f64>>)
        }
        // What the encoder takes of whole numbers is signed; none of ours comes near.
        (MetricValue::Number(value), _) => encoder.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX)),
        (MetricValue::Times(times), _) => write_times(&mut encoder, times),
    }
}

fn write_times(encoder: &mut MetricEncoder<'_>, times: &Latencies) -> Result<(), Error> {
    let seconds = |(bound, count): (Option<std::time::Duration>, u64)| {
        (bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()), count)
    };
    let buckets: Vec<(f64, u64)> = times.by_bounds().into_iter().map(seconds).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabels>(times.sum().as_secs_f64(), count, &buckets, None)
}
