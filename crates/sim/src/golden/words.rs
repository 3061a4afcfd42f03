//! The words of a script: how times, options and changes are written there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use quorate_core::{
    ChangeMembers, ChangeTerms, Config, LeasePolicy, Node, NodeId, OnLostLog, Precondition, Quorum, Readiness, Retain,
    Toggle,
};

/// Milliseconds, with decimals if need be.
pub(super) fn millis(time: Duration) -> String {
    let (whole, part) = (time.as_millis(), time.subsec_nanos() % 1_000_000);
    format!("{whole}.{part:06}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Things with commas between.
pub(super) fn listed<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    let things: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    if things.is_empty() { "nobody".to_owned() } else { things.join(",") }
}

/// Options that are others than these.
pub(super) fn options(config: &Config, usual: &Config) -> String {
    let mut text = String::new();
    if config.mode != usual.mode {
        text.push_str(" standard");
    }
    if (config.election_timeout_min, config.election_timeout_max)
        != (usual.election_timeout_min, usual.election_timeout_max)
    {
        let (min, max) = (millis(config.election_timeout_min), millis(config.election_timeout_max));
        text.push_str(&format!(" election-timeout={min}..{max}"));
    }
    let toggle = |toggle: Toggle| if toggle.is_on() { "on" } else { "off" }.to_owned();
    let on_lost_log = |config: &Config| match config.on_lost_log {
        OnLostLog::Halt => "halt".to_owned(),
        OnLostLog::Rejoin => "rejoin".to_owned(),
    };
    let values = |config: &Config| {
        [
            ("tick", toggle(config.tick)),
            ("heartbeats", toggle(config.heartbeat)),
            ("pre-vote", toggle(config.pre_vote)),
            ("check-quorum", toggle(config.check_quorum)),
            ("campaign", toggle(config.elect)),
            ("heartbeat", millis(config.heartbeat_interval)),
            ("retransmit", millis(config.retransmit_timeout)),
            ("max-disk-lag", millis(config.max_disk_lag)),
            ("max-clock-drift", millis(config.max_clock_drift)),
            ("max-append-bytes", config.max_append_bytes.to_string()),
            ("max-inflight-bytes", config.max_inflight_bytes.to_string()),
            ("max-inflight", config.max_inflight_appends.to_string()),
            ("snapshot-entries", config.snapshot_entries.to_string()),
            ("snapshot-bytes", config.snapshot_bytes.to_string()),
            ("snapshot-interval", millis(config.snapshot_interval)),
            ("max-kept-bytes", config.max_kept_bytes.to_string()),
            ("keep-entries", config.keep_entries.to_string()),
            ("lag-threshold", config.replication_lag_threshold.to_string()),
            ("on-lost-log", on_lost_log(config)),
        ]
    };
    for ((key, value), (_, usual)) in values(config).into_iter().zip(values(usual)) {
        if value != usual {
            text.push_str(&format!(" {key}={value}"));
        }
    }
    text
}

/// A membership change as `change` takes it.
pub(super) fn change(change: &ChangeMembers, retain: Retain, terms: &ChangeTerms) -> String {
    let mut text = match change {
        ChangeMembers::Batch(changes) => changes.iter().map(one).collect::<Vec<_>>().join(" ; "),
        single => one(single),
    };
    if retain == Retain::AsLearners {
        text.push_str(" retain");
    }
    if terms.readiness == Readiness::Waived {
        text.push_str(" waived");
    }
    if !terms.patience.is_zero() {
        text.push_str(&format!(" wait={}", terms.patience.as_millis()));
    }
    for condition in &terms.preconditions {
        text.push_str(&match condition {
            Precondition::LeaderId(id) => format!(" if-leader={id}"),
            Precondition::LastLogId(id) => format!(" if-last={id}"),
            Precondition::LastMembershipLogId(id) => format!(" if-membership={id}"),
        });
    }
    text
}

fn one(change: &ChangeMembers) -> String {
    let ids = |ids: &BTreeSet<NodeId>| listed(ids);
    match change {
        ChangeMembers::AddVoters(nodes) => format!("add-voters {}", records(nodes)),
        ChangeMembers::AddVoterIds(set) => format!("add-voter-ids {}", ids(set)),
        ChangeMembers::RemoveVoters(set) => format!("remove-voters {}", ids(set)),
        ChangeMembers::ReplaceAllVoters(set) => format!("replace-voters {}", ids(set)),
        ChangeMembers::AddNodes(nodes) => format!("add-nodes {}", records(nodes)),
        ChangeMembers::SetNodes(nodes) => format!("set-nodes {}", records(nodes)),
        ChangeMembers::RemoveNodes(set) => format!("remove-nodes {}", ids(set)),
        ChangeMembers::ReplaceAllNodes(nodes) => format!("replace-nodes {}", records(nodes)),
        ChangeMembers::SetQuorum { elect, commit } => format!("rule elect {} commit {}", rule(elect), rule(commit)),
        ChangeMembers::SetSettings(settings) => match settings.lease {
            LeasePolicy::LeaseReads => "lease-reads".to_owned(),
            LeasePolicy::FastFailover => "fast-failover".to_owned(),
        },
        ChangeMembers::Batch(changes) => changes.iter().map(one).collect::<Vec<_>>().join(" ; "),
    }
}

fn records(nodes: &BTreeMap<NodeId, Node>) -> String {
    let one = |(id, node): (&NodeId, &Node)| {
        let labels = node.labels.iter().map(|(key, value)| format!("/{key}={value}"));
        format!("{id}@{}{}", node.address, labels.collect::<String>())
    };
    listed(nodes.iter().map(one))
}

fn rule(quorum: &Quorum) -> String {
    match quorum {
        Quorum::Node(id) => id.to_string(),
        Quorum::AtLeast { need, of } => {
            let parts = of.iter().map(|(weight, part)| match weight {
                1 => rule(part),
                weight => format!("{}*{weight}", rule(part)),
            });
            format!("{need}{{{}}}", listed(parts))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds() {
        let told = [0, 5_000_000, 3_750_000, 1].map(|nanos| millis(Duration::from_nanos(nanos)));
        assert_eq!(told, ["0", "5", "3.75", "0.000001"]);
    }

    #[test]
    fn rules_and_records_are_written_as_scripts_read_them() {
        let nodes = |ids: &[u64]| ids.iter().map(|id| (1, Quorum::Node(NodeId(*id)))).collect::<Vec<_>>();
        let half = Quorum::AtLeast { need: 2, of: nodes(&[1, 2, 3]) };
        let whole = Quorum::AtLeast { need: 2, of: vec![(1, half.clone()), (2, Quorum::Node(NodeId(7)))] };
        let asked = ChangeMembers::SetQuorum { elect: half, commit: whole };
        let terms = ChangeTerms { patience: Duration::from_millis(40), ..ChangeTerms::default() };
        assert_eq!(
            change(&asked, Retain::AsLearners, &terms),
            "rule elect 2{1,2,3} commit 2{2{1,2,3},7*2} retain wait=40"
        );
        let node = Node { labels: [("zone".to_owned(), "a".to_owned())].into(), ..Node::at("here:1") };
        let asked = ChangeMembers::AddNodes([(NodeId(4), node)].into());
        assert_eq!(change(&asked, Retain::Remove, &ChangeTerms::default()), "add-nodes 4@here:1/zone=a");
    }
}
