//! A connected quorum commits while a partition lasts, and a healthy leader stays whatever its followers go through.

use quorate_sim::matrix::{Disturbance, Setting, Topology, disturb, partition};

/// All settings; `quorate sim --matrix` runs every scenario in each.
fn settings(nodes: usize) -> Vec<Setting> {
    Setting::all(100, nodes)
}

fn partitions(nodes: usize) {
    let mut failures = Vec::new();
    let settings = settings(nodes);
    let of =
        |topology: &Topology| topology.leaders(nodes).into_iter().map(|leader| (*topology, leader)).collect::<Vec<_>>();
    for (number, (topology, leader)) in Topology::ALL.iter().flat_map(of).enumerate() {
        // All settings are met, not each by every scenario.
        let setting = settings[(number * 3 + nodes) % settings.len()];
        let outcome = partition(setting, topology, leader, false);
        if outcome.violation.is_some() {
            failures.push(format!("{topology:?}, led by role {leader}, {setting:?}: {outcome}"));
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn three_nodes_go_on_in_partitions() {
    partitions(3);
}

#[test]
fn five_nodes_go_on_in_partitions() {
    partitions(5);
}

#[test]
fn seven_nodes_go_on_in_partitions() {
    partitions(7);
}

#[test]
fn somebody_reaches_a_quorum_in_every_topology() {
    for topology in Topology::ALL.iter().filter(|topology| **topology != Topology::Constrained) {
        for nodes in [3, 5, 7] {
            assert!((0..nodes).any(|role| topology.has_quorum(role, nodes)), "{topology:?} of {nodes}");
        }
    }
}

#[test]
fn a_healthy_leader_stays_whatever_happens_to_a_follower() {
    let mut failures = Vec::new();
    for (number, disturbance) in Disturbance::ALL.iter().enumerate() {
        let nodes = if number % 2 == 0 { 3 } else { 5 };
        let setting = settings(nodes)[number];
        let outcome = disturb(setting, *disturbance, false);
        if outcome.violation.is_some() {
            failures.push(format!("{disturbance:?}, {setting:?}: {outcome}"));
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
