#![doc = include_str!("events.md")]

#[cfg(test)]
mod tests;

/// Campaigns, votes, and who leads.
pub const ELECTION: &str = "quorate::election";
/// What a leader does for its peers, and what they lack.
pub const REPLICATION: &str = "quorate::replication";
/// Who belongs to the cluster, and with which disk.
pub const MEMBERSHIP: &str = "quorate::membership";
/// Snapshots built, sent, installed.
pub const SNAPSHOT: &str = "quorate::snapshot";
/// Damage on this node's disk, and its repair.
pub const STORAGE: &str = "quorate::storage";
/// Connections between nodes, if the library's TCP transport is used.
pub const NETWORK: &str = "quorate::network";
/// The begin and the end of a node, and what should not happen.
pub const NODE: &str = "quorate::node";
