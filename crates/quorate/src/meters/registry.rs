//! [`MetricsRegistry`]: all numbers of the nodes of a process, by name.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quorate_core::NodeId;

use super::group::{PHASES, STEP_DOWNS, VOTES};
use super::{Depths, GroupMeters, HostMeters, Latencies, LatencyMeter};
use crate::{PeerMetrics, RaftMetrics};

/// A group that can be looked at.
pub(crate) trait Metered: Send + Sync {
    fn meters(&self) -> &GroupMeters;
    fn depths(&self) -> Depths;
    /// Fresh unless the node is at work just now.
    fn shown(self: Arc<Self>) -> RaftMetrics;
}

/// All numbers of the nodes that were given it: counters, gauges and times, by name and labels.
///
/// Every host has one of its own unless [`Builder::metrics_registry`](crate::Builder::metrics_registry) gives it
/// another, so that a process with several hosts has one page. Nothing is global, and nothing is sent anywhere: whoever
/// exports reads [`families`](Self::families), or with the feature `prometheus` the text of `prometheus_text`. It can
/// also be registered, as a `Collector`, with a registry of `prometheus-client` that the program has already.
///
/// A group is shown until its last handle is gone. Two nodes of one id must not share a registry: the later one is
/// shown.
///
/// ```
/// # use quorate::{MetricValue, Raft, RaftStateMachine};
/// # fn show<S: RaftStateMachine>(raft: &Raft<S>) {
/// for family in raft.metrics_registry().families() {
///     for sample in family.samples {
///         if let MetricValue::Times(times) = sample.value {
///             println!("{} {:?}: 99 % within {:?}", family.name, sample.labels, times.quantile(0.99));
///         }
///     }
/// }
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MetricsRegistry {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    groups: Vec<Weak<dyn Metered>>,
    hosts: Vec<Weak<HostMeters>>,
}

impl std::fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsRegistry").field("groups", &self.known.lock().groups.len()).finish_non_exhaustive()
    }
}

/// Samples of one name.
#[derive(Clone, Debug)]
pub struct MetricFamily {
    /// As Prometheus has it, with the unit and, for counters, `_total` at its end.
    pub name: &'static str,
    /// What it is, in a sentence without a full stop.
    pub help: &'static str,
    /// Of all its samples.
    pub kind: MetricKind,
    /// One for each set of labels.
    pub samples: Vec<MetricSample>,
}

/// What a number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It grows, from 0 at the node's start.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times, in buckets.
    Histogram,
}

/// One number.
#[derive(Clone, Debug)]
pub struct MetricSample {
    /// `node` and, where they apply, `group`, `peer` and others.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: MetricValue,
}

/// A number, or times.
#[derive(Clone, Debug)]
pub enum MetricValue {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a histogram.
    Times(Latencies),
}

impl MetricsRegistry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add_group(&self, group: Weak<dyn Metered>) {
        let id = |group: &Weak<dyn Metered>| group.upgrade().map(|group| (group.meters().node, group.meters().group));
        let new = id(&group);
        let mut known = self.known.lock();
        known.groups.retain(|other| id(other).is_some_and(|other| Some(other) != new));
        known.groups.push(group);
    }

    pub(crate) fn add_host(&self, host: &Arc<HostMeters>) {
        let mut known = self.known.lock();
        known.hosts.retain(|other| other.upgrade().is_some_and(|other| other.node != host.node));
        known.hosts.push(Arc::downgrade(host));
    }

    /// All numbers as they are now, by name in a fixed order; samples by node, group and peer. Never waits: a number
    /// that a node is changing is the one before or after.
    pub fn families(&self) -> Vec<MetricFamily> {
        let (mut groups, mut hosts): (Vec<_>, Vec<_>) = {
            let known = self.known.lock();
            (
                known.groups.iter().filter_map(Weak::upgrade).collect(),
                known.hosts.iter().filter_map(Weak::upgrade).collect(),
            )
        };
        groups.sort_by_key(|group| (group.meters().node, group.meters().group));
        hosts.sort_by_key(|host| host.node);
        let looks = groups.iter().map(|group| Look {
            labels: vec![("node", group.meters().node.0.to_string()), ("group", group.meters().group.0.to_string())],
            depths: group.depths(),
            shown: Arc::clone(group).shown(),
            meters: group.meters(),
        });
        let mut page = Page { looks: looks.collect(), hosts: &hosts, families: Vec::new() };
        page.state();
        page.queues();
        page.work();
        page.elections();
        page.snapshots();
        page.families
    }
}

/// A group, while its numbers are read.
struct Look<'a> {
    labels: Vec<(&'static str, String)>,
    depths: Depths,
    shown: RaftMetrics,
    meters: &'a GroupMeters,
}

struct Page<'a> {
    looks: Vec<Look<'a>>,
    hosts: &'a [Arc<HostMeters>],
    families: Vec<MetricFamily>,
}

impl Page<'_> {
    fn state(&mut self) {
        self.gauge("quorate_is_leader", "Whether this node leads", |look| look.meters.leads.value());
        self.gauge("quorate_leader", "The node that leads, 0 if none is known", |look| look.meters.leader.value());
        self.gauge("quorate_is_voter", "Whether this node votes", |look| look.meters.voter.value());
        self.gauge("quorate_term", "The term of the greatest vote seen", |look| look.meters.term.value());
        self.gauge("quorate_last_index", "The end of the log", |look| look.meters.last_index.value());
        self.gauge("quorate_commit_index", "The last index known to be committed", |look| {
            look.meters.commit_index.value()
        });
        self.gauge("quorate_applied_index", "The last index applied", |look| look.meters.applied_index.value());
        self.gauge("quorate_purged_index", "The last index that the log forgot", |look| {
            look.meters.purged_index.value()
        });
        self.gauge("quorate_snapshot_index", "The last index in the newest snapshot", |look| {
            look.meters.snapshot_index.value()
        });
        self.gauge("quorate_sessions", "Client sessions", |look| look.depths.sessions);
        self.peers("quorate_peer_lag_entries", "On a leader: entries that the peer is not known to hold", |peer| {
            peer.lag
        });
        self.peers(
            "quorate_peer_inflight_bytes",
            "On a leader: entries sent to the peer and not acknowledged",
            |peer| peer.inflight_bytes,
        );
        self.peers("quorate_peer_is_silent", "On a leader: whether the peer does not answer", |peer| {
            peer.backing_off.into()
        });
    }

    fn queues(&mut self) {
        self.gauge("quorate_proposal_queue_batches", "Batches of writes that did not enter the log yet", |look| {
            look.depths.proposal_batches
        });
        self.gauge("quorate_proposal_window_bytes", "Writes that wait for their answer", |look| {
            look.depths.proposal_bytes
        });
        self.gauge("quorate_apply_queue_jobs", "What the state machine has still to do", |look| look.depths.apply_jobs);
        self.gauge("quorate_apply_queue_bytes", "Entries that wait to be applied", |look| look.depths.apply_bytes);
    }

    fn work(&mut self) {
        self.counter("quorate_proposed_batches_total", "Batches of writes that entered the log", |it| {
            it.proposed_batches.value()
        });
        self.counter("quorate_proposed_entries_total", "Writes that entered the log", |it| it.proposed_entries.value());
        self.counter("quorate_proposed_bytes_total", "Their bytes", |it| it.proposed_bytes.value());
        self.counter("quorate_applied_entries_total", "Entries applied", |it| it.applied_entries.value());
        self.times("quorate_propose_to_commit_seconds", "From a write's place in the log to its commit", |it| {
            &it.propose_to_commit
        });
        self.times(
            "quorate_commit_to_apply_seconds",
            "From an entry's commit, durable here, to its end in the state machine",
            |it| &it.commit_to_apply,
        );
        self.times("quorate_apply_seconds", "The state machine's part, for each run of entries", |it| &it.apply);
        self.times("quorate_persist_seconds", "From a durable write's start until the core hears of its end", |it| {
            &it.persist
        });
        let round_trips = self.looks.iter().flat_map(|look| {
            let of = |(peer, meter): (NodeId, Arc<LatencyMeter>)| sample_of(&look.labels, peer, &meter);
            look.meters.round_trips().into_iter().map(of)
        });
        let samples = round_trips.collect();
        let help = "On a leader: from a message to the peer's answer";
        self.add("quorate_round_trip_seconds", help, MetricKind::Histogram, samples);
        let host =
            |host: &Arc<HostMeters>, value| MetricSample { labels: vec![("node", host.node.0.to_string())], value };
        let fsyncs = self.hosts.iter().map(|it| host(it, MetricValue::Times(it.fsync.latencies()))).collect();
        self.add("quorate_fsync_seconds", "Syncs of files, of all groups of the node", MetricKind::Histogram, fsyncs);
        let written = self.hosts.iter().map(|it| host(it, MetricValue::Number(it.written_bytes.value()))).collect();
        self.add(
            "quorate_written_bytes_total",
            "Bytes written to files, without zeros for what is to come",
            MetricKind::Counter,
            written,
        );
    }

    fn elections(&mut self) {
        self.counters("quorate_campaigns_total", "Campaigns of this node", "phase", &PHASES, |it, at| {
            it.campaigns[at].value()
        });
        self.counter("quorate_elections_won_total", "Times that this node became leader", |it| {
            it.elections_won.value()
        });
        self.counter("quorate_leader_changes_total", "Leaders that this node was or followed", |it| {
            it.leader_changes.value()
        });
        self.counters(
            "quorate_step_downs_total",
            "Leaderships of this node that ended",
            "reason",
            &STEP_DOWNS,
            |it, at| it.step_downs[at].value(),
        );
        self.counters("quorate_votes_total", "Vote requests that this node answered", "answer", &VOTES, |it, at| {
            it.votes[at].value()
        });
        self.counter("quorate_log_repairs_total", "Times that damage to the log was made good", |it| {
            it.log_repairs.value()
        });
        self.counter("quorate_impossible_messages_total", "Messages that no correct peer sends", |it| {
            it.impossible_messages.value()
        });
        self.counter("quorate_clock_jumps_total", "Times that the clock could not be trusted", |it| {
            it.clock_jumps.value()
        });
    }

    fn snapshots(&mut self) {
        self.counter("quorate_snapshots_built_total", "Snapshots built", |it| it.snapshots_built.value());
        self.counter("quorate_snapshots_installed_total", "Snapshots installed", |it| it.snapshots_installed.value());
        self.counter("quorate_snapshots_sent_total", "Snapshots that a peer took whole", |it| {
            it.snapshots_sent.value()
        });
        self.counter("quorate_snapshots_not_sent_total", "Transfers that broke off", |it| {
            it.snapshots_not_sent.value()
        });
        self.counter("quorate_snapshot_sent_bytes_total", "Bytes of the snapshots sent", |it| {
            it.snapshot_sent_bytes.value()
        });
        self.times("quorate_snapshot_build_seconds", "Building a snapshot, until it is durable", |it| {
            &it.snapshot_build
        });
        self.times("quorate_snapshot_install_seconds", "Installing a snapshot, until it is durable", |it| {
            &it.snapshot_install
        });
        self.times("quorate_snapshot_send_seconds", "Sending a snapshot that a peer took whole", |it| {
            &it.snapshot_send
        });
    }

    // ---- families ----

    fn add(&mut self, name: &'static str, help: &'static str, kind: MetricKind, samples: Vec<MetricSample>) {
        self.families.push(MetricFamily { name, help, kind, samples });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Fn(&Look<'_>) -> u64) {
        let of =
            |look: &Look<'_>| MetricSample { labels: look.labels.clone(), value: MetricValue::Number(value(look)) };
        let samples = self.looks.iter().map(of).collect();
        self.add(name, help, MetricKind::Gauge, samples);
    }

    fn peers(&mut self, name: &'static str, help: &'static str, value: impl Fn(&PeerMetrics) -> u64) {
        let of = |look: &Look<'_>, peer: &PeerMetrics| {
            let mut labels = look.labels.clone();
            labels.push(("peer", peer.id.0.to_string()));
            MetricSample { labels, value: MetricValue::Number(value(peer)) }
        };
        let looks = self.looks.iter();
        let samples = looks.flat_map(|look| look.shown.replication.iter().map(move |peer| of(look, peer))).collect();
        self.add(name, help, MetricKind::Gauge, samples);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: impl Fn(&GroupMeters) -> u64) {
        let of = |look: &Look<'_>| MetricSample {
            labels: look.labels.clone(),
            value: MetricValue::Number(value(look.meters)),
        };
        let samples = self.looks.iter().map(of).collect();
        self.add(name, help, MetricKind::Counter, samples);
    }

    /// One for each of `values` of a label.
    fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &[&str],
        value: impl Fn(&GroupMeters, usize) -> u64,
    ) {
        let mut samples = Vec::new();
        for look in &self.looks {
            for (at, text) in values.iter().enumerate() {
                let mut labels = look.labels.clone();
                labels.push((label, (*text).to_owned()));
                samples.push(MetricSample { labels, value: MetricValue::Number(value(look.meters, at)) });
            }
        }
        self.add(name, help, MetricKind::Counter, samples);
    }

    fn times(&mut self, name: &'static str, help: &'static str, meter: impl Fn(&GroupMeters) -> &LatencyMeter) {
        let of = |look: &Look<'_>| {
            let value = MetricValue::Times(meter(look.meters).latencies());
            MetricSample { labels: look.labels.clone(), value }
        };
        let samples = self.looks.iter().map(of).collect();
        self.add(name, help, MetricKind::Histogram, samples);
    }
}

fn sample_of(labels: &[(&'static str, String)], peer: NodeId, meter: &LatencyMeter) -> MetricSample {
    let mut labels = labels.to_vec();
    labels.push(("peer", peer.0.to_string()));
    MetricSample { labels, value: MetricValue::Times(meter.latencies()) }
}
