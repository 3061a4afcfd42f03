//! Times and their bounds; the page of a registry, whole and read back.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use super::{Latencies, LatencyMeter};

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn entered(times: &[(Duration, u64)]) -> Latencies {
    let meter = LatencyMeter::default();
    times.iter().for_each(|(took, count)| meter.enter(*took, *count));
    meter.latencies()
}

#[test]
fn a_quantile_is_at_most_an_eighth_too_long_and_never_too_short() {
    assert_eq!(entered(&[]).quantile(0.5), None);
    assert_eq!(entered(&[]).mean(), None);
    for exact in [1, 7, 8, 9, 15, 16, 17, 1000, 1023, 1024, 1025, 999_999, 60_000_000] {
        let times = entered(&[(micros(exact), 3)]);
        let found = times.quantile(0.99).unwrap();
        assert!(found >= micros(exact) && found <= micros(exact + exact / 8 + 1), "{exact} µs: {found:?}");
        assert_eq!((times.count(), times.mean()), (3, Some(micros(exact))));
    }
    let spread = entered(&[(micros(10), 90), (micros(1000), 9), (Duration::from_secs(1), 1)]);
    let rough = |part| spread.quantile(part).unwrap().as_micros();
    assert_eq!((rough(0.0), rough(0.9), rough(1.0)), (10, 10, 1_048_576));
    assert!((1000..=1125).contains(&rough(0.95)), "{}", rough(0.95));
    assert_eq!(spread.sum(), micros(90 * 10 + 9 * 1000 + 1_000_000));
    assert!(entered(&[(Duration::from_secs(7200), 1)]).quantile(0.5).unwrap() >= Duration::from_secs(1000), "too long");
}

#[test]
fn what_takes_as_long_as_a_bound_is_within_it() {
    let just_over = Duration::from_nanos(16_001);
    let times = entered(&[(Duration::ZERO, 1), (micros(16), 2), (just_over, 4), (micros(32), 8), (Duration::MAX, 16)]);
    let bounds = times.by_bounds();
    assert_eq!(bounds[0], (Some(micros(16)), 3));
    assert_eq!(bounds[1], (Some(micros(32)), 12));
    assert!(bounds[2..bounds.len() - 1].iter().all(|(_, count)| *count == 0));
    assert_eq!(bounds.last(), Some(&(None, 16)));
    assert_eq!(bounds[bounds.len() - 2].0, Some(Duration::from_micros(1 << 26)));
}

#[cfg(feature = "prometheus")]
mod page {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use quorate_core::{GroupId, LogId, NodeId, Note, PeerState, Phase, StepDown, Vote, VoteAnswer};

    use super::micros;
    use crate::meters::{Depths, GroupMeters, HostMeters, Metered};
    use crate::metrics::blank_metrics;
    use crate::{MetricKind, MetricsRegistry, PeerMetrics, RaftMetrics};

    /// What the page is meant to be: `QUORATE_REWRITE=1` writes it anew, to be read before it is kept.
    const PAGE: &str = include_str!("page.txt");

    struct Fake(GroupMeters);

    impl Metered for Fake {
        fn meters(&self) -> &GroupMeters {
            &self.0
        }

        fn depths(&self) -> Depths {
            Depths { proposal_batches: 1, proposal_bytes: 2048, apply_jobs: 3, apply_bytes: 4096, sessions: 5 }
        }

        fn shown(self: Arc<Self>) -> RaftMetrics {
            let peer = PeerMetrics {
                id: NodeId(2),
                incarnation: None,
                older_copy: false,
                state: PeerState::Replicate,
                matched: LogId::ZERO,
                next_index: 1,
                lag: 7,
                inflight_appends: 1,
                inflight_bytes: 512,
                acked_ago: None,
                caught_up: false,
                backing_off: false,
                snapshot: None,
            };
            RaftMetrics { replication: vec![peer], ..blank_metrics(self.0.node, self.0.group) }
        }
    }

    fn fill(meters: &GroupMeters) {
        let vote = Vote::default();
        meters.note(&Note::Campaigning { phase: Phase::Pre, vote });
        meters.note(&Note::Campaigning { phase: Phase::Real, vote });
        meters.note(&Note::BecameLeader(vote.leader_id));
        meters.note(&Note::SteppedDown { leader_id: vote.leader_id, reason: StepDown::NoQuorum });
        meters.note(&Note::Following(vote.leader_id));
        meters.voted(&VoteAnswer::Granted);
        meters.voted(&VoteAnswer::LeaderAlive);
        meters.proposed(10, 1000);
        meters.propose_to_commit.enter(micros(300), 10);
        meters.round_trip(NodeId(2)).enter(micros(120), 1);
        meters.sent_snapshot(Some(1 << 20), Duration::from_millis(250));
        meters.sent_snapshot(None, Duration::from_millis(9));
    }

    fn page() -> (MetricsRegistry, (Arc<Fake>, Arc<HostMeters>)) {
        let registry = MetricsRegistry::new();
        let fake = Arc::new(Fake(GroupMeters::new(NodeId(1), GroupId(3), None)));
        fill(&fake.0);
        let metered = Arc::clone(&fake) as Arc<dyn Metered>;
        registry.add_group(Arc::downgrade(&metered));
        let host = Arc::new(HostMeters::new(NodeId(1)));
        host.fsync.enter(Duration::from_millis(2), 1);
        host.written_bytes.add(4096);
        registry.add_host(&host);
        (registry, (fake, host))
    }

    #[test]
    fn the_page_is_what_it_is_meant_to_be() {
        let (registry, _kept) = page();
        let text = registry.prometheus_text();
        if std::env::var_os("QUORATE_REWRITE").is_some() {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meters/page.txt");
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, PAGE);
    }

    /// A sample: its name, its labels, its number.
    type Line = (String, BTreeMap<String, String>, f64);

    /// Reads a line as OpenMetrics has it; labels of ours need no escapes.
    fn read(line: &str) -> Line {
        let (series, number) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let label = |label: &str| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.strip_prefix('"').unwrap().strip_suffix('"').unwrap().to_owned())
        };
        let number = if number == "+Inf" { f64::INFINITY } else { number.parse().unwrap() };
        (name.to_owned(), labels.map(label).collect(), number)
    }

    #[test]
    fn the_page_can_be_read_and_says_what_the_registry_says() {
        let (registry, _kept) = page();
        let text = registry.prometheus_text();
        assert!(text.ends_with("# EOF\n"));
        let lines: Vec<Line> = text.lines().filter(|line| !line.starts_with('#')).map(read).collect();
        let mut families = registry.families();
        assert!(families.iter().all(|family| family.name.starts_with("quorate_")));
        for family in families.drain(..) {
            let (base, kind) = match family.kind {
                MetricKind::Counter => (family.name.strip_suffix("_total").unwrap(), "counter"),
                MetricKind::Gauge => (family.name, "gauge"),
                MetricKind::Histogram => (family.name, "histogram"),
            };
            assert!(text.contains(&format!("# TYPE {base} {kind}\n")), "{base}");
            assert!(text.contains(&format!("# HELP {base} {}\n", family.help)), "{base}");
            if family.kind == MetricKind::Histogram {
                assert!(base.ends_with("_seconds"), "{base}");
                of_histogram(&lines, base, family.samples.len());
                continue;
            }
            let found = lines.iter().filter(|(name, _, _)| name == family.name);
            assert_eq!(found.count(), family.samples.len(), "{base}");
        }
        let value = |name: &str, label: (&str, &str)| {
            let has = |labels: &BTreeMap<String, String>| labels.get(label.0).is_some_and(|value| value == label.1);
            lines.iter().find(|(found, labels, _)| found == name && has(labels)).map(|(_, _, value)| *value)
        };
        assert_eq!(value("quorate_proposed_entries_total", ("group", "3")), Some(10.0));
        assert_eq!(value("quorate_step_downs_total", ("reason", "no_quorum")), Some(1.0));
        assert_eq!(value("quorate_votes_total", ("answer", "leader_alive")), Some(1.0));
        assert_eq!(value("quorate_peer_lag_entries", ("peer", "2")), Some(7.0));
        assert_eq!(value("quorate_round_trip_seconds_sum", ("peer", "2")), Some(0.00012));
        assert_eq!(value("quorate_fsync_seconds_count", ("node", "1")), Some(1.0));
        assert_eq!(value("quorate_snapshots_not_sent_total", ("node", "1")), Some(1.0));
    }

    /// Buckets grow up to the count, and there is one such row for each sample.
    fn of_histogram(lines: &[Line], base: &str, samples: usize) {
        let named = |ending: &str| {
            let name = format!("{base}{ending}");
            lines.iter().filter(move |(found, _, _)| *found == name)
        };
        assert_eq!(named("_sum").count(), samples, "{base}");
        let counts: Vec<f64> = named("_count").map(|(_, _, count)| *count).collect();
        assert_eq!(counts.len(), samples, "{base}");
        let buckets: Vec<(f64, f64)> = named("_bucket")
            .map(|(_, labels, count)| (labels["le"].parse().unwrap_or(f64::INFINITY), *count))
            .collect();
        for (row, count) in buckets.chunks(24).zip(&counts) {
            assert!(row.is_sorted(), "{base}: {row:?}");
            assert_eq!(row.last(), Some(&(f64::INFINITY, *count)), "{base}");
        }
        assert_eq!(buckets.len(), 24 * samples, "{base}");
    }

    #[test]
    fn a_node_that_comes_back_replaces_its_earlier_run_and_one_that_is_gone_is_not_shown() {
        let (registry, kept) = page();
        let samples = |registry: &MetricsRegistry| registry.families()[0].samples.len();
        let again = Arc::new(Fake(GroupMeters::new(NodeId(1), GroupId(3), None))) as Arc<dyn Metered>;
        registry.add_group(Arc::downgrade(&again));
        let other = Arc::new(Fake(GroupMeters::new(NodeId(1), GroupId(4), None))) as Arc<dyn Metered>;
        registry.add_group(Arc::downgrade(&other));
        assert_eq!(samples(&registry), 2);
        drop((kept, again));
        assert_eq!(samples(&registry), 1);
    }
}
