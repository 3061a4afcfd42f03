//! Who is in the cluster, and which sets of them decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::ids::{Incarnation, LeaderId, LogId, NodeId};
use crate::quorum::{Quorum, RuleError, VoterSet};

/// Where a node is reached and what it is labelled with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Node {
    /// The address that peers connect to, as `host:port`.
    pub address: String,
    /// Free labels, such as `zone` or `rack`.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// A node at `address` without labels.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), labels: BTreeMap::new() }
    }
}

impl From<&str> for Node {
    fn from(address: &str) -> Self {
        Self::at(address)
    }
}

impl From<String> for Node {
    fn from(address: String) -> Self {
        Self::at(address)
    }
}

impl From<&String> for Node {
    fn from(address: &String) -> Self {
        Self::at(address)
    }
}

/// Cluster-wide settings that are replicated with the membership: every node acts on the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Settings {
    /// Whether the cluster spends its leases on reads or on fast failover.
    pub lease: LeasePolicy,
}

/// What a leader's lease is used for. Never both at once: a lease read needs followers that keep their
/// promise whatever the connection says (law 6, law 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum LeasePolicy {
    /// A voter that sees the leader's connection refused may elect at once. Lease reads are disabled.
    #[default]
    FastFailover,
    /// Voters honour the lease to its end. The leader may serve lease reads.
    LeaseReads,
}

/// What becomes of voters that a change leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retain {
    /// Voters that leave stay as learners.
    AsLearners,
    /// Voters that leave are removed from the cluster.
    Remove,
}

/// A membership: the voter sets that must all agree, and every node that is replicated to.
///
/// One set is the normal state; more than one is a joint membership on its way to the last set
/// (dissertation 4.3, generalised). Nodes that are in no voter set are learners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The voter sets; every one must reach its quorum. The last one is the target of a joint change.
    pub configs: Vec<VoterSet>,
    /// Every node, voter or learner.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Replicated settings.
    pub settings: Settings,
    /// In a joint membership: what becomes of voters that the target leaves out.
    pub retain: Retain,
}

impl Default for Membership {
    fn default() -> Self {
        Self { configs: Vec::new(), nodes: BTreeMap::new(), settings: Settings::default(), retain: Retain::Remove }
    }
}

impl Membership {
    /// A majority of the given voters, without learners.
    pub fn majority(voters: impl IntoIterator<Item = (NodeId, Incarnation, Node)>) -> Self {
        let mut incarnations = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for (id, incarnation, node) in voters {
            incarnations.insert(id, incarnation);
            nodes.insert(id, node);
        }
        Self { configs: vec![VoterSet::majority(incarnations)], nodes, ..Self::default() }
    }

    /// Whether nothing was ever configured: the node is blank.
    pub fn is_empty(&self) -> bool {
        self.configs.is_empty()
    }

    /// Whether a change is under way that needs more than one set to agree.
    pub fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// The uniform membership that a joint one is on its way to; a uniform one is its own target.
    pub fn target(&self) -> Membership {
        let target: Vec<VoterSet> = self.configs.last().cloned().into_iter().collect();
        let stays = |id: &NodeId| {
            let votes_on = target.iter().any(|set| set.voters.contains_key(id));
            votes_on || !self.is_voter(*id) || self.retain == Retain::AsLearners
        };
        let nodes = self.nodes.iter().filter(|(id, _)| stays(id)).map(|(id, node)| (*id, node.clone())).collect();
        Membership { configs: target, nodes, settings: self.settings, retain: Retain::Remove }
    }

    /// Whether `id` votes in any of the sets.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.configs.iter().any(|set| set.voters.contains_key(&id))
    }

    /// Whether `id` votes in any set as exactly this incarnation.
    pub fn is_voter_as(&self, id: NodeId, incarnation: Incarnation) -> bool {
        self.configs.iter().any(|set| set.voters.get(&id) == Some(&incarnation))
    }

    /// Ids that vote in any of the sets, in order.
    pub fn voter_ids(&self) -> BTreeSet<NodeId> {
        self.configs.iter().flat_map(|set| set.voters.keys().copied()).collect()
    }

    /// Ids that are replicated to but vote in no set, in order.
    pub fn learner_ids(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().copied().filter(|id| !self.is_voter(*id)).collect()
    }

    /// The greatest value that an elect quorum of every set has reached.
    pub fn elect_reached<T: Ord + Copy>(&self, value: impl Fn(NodeId, Incarnation) -> Option<T>) -> Option<T> {
        least(self.deciding().map(|set| set.elect_reached(&value)))
    }

    /// The greatest value that a commit quorum of every set has reached.
    pub fn commit_reached<T: Ord + Copy>(&self, value: impl Fn(NodeId, Incarnation) -> Option<T>) -> Option<T> {
        least(self.deciding().map(|set| set.commit_reached(&value)))
    }

    /// If any so many of the voters are a commit quorum: that number.
    pub(crate) fn commit_count(&self) -> Option<usize> {
        match &self.configs[..] {
            [set] => set.commit.count(),
            _ => None,
        }
    }

    /// The sets that must all agree: every one.
    fn deciding(&self) -> impl Iterator<Item = &VoterSet> {
        let skipped = if bug(Bug::NewSetAlone) { self.configs.len().saturating_sub(1) } else { 0 };
        let deciding = if bug(Bug::OldSetAlone) { 1 } else { self.configs.len() };
        self.configs.iter().skip(skipped).take(deciding)
    }

    /// Checks every rule, and that every voter is a known node.
    ///
    /// # Errors
    /// Names the first thing that is wrong, see [`RuleError`].
    pub fn check(&self, mode: crate::LeaderIdMode) -> Result<(), RuleError> {
        if self.configs.is_empty() {
            return Err(RuleError::Empty);
        }
        for set in &self.configs {
            set.check(mode)?;
            if let Some(id) = set.voters.keys().find(|id| !self.nodes.contains_key(id)) {
                return Err(RuleError::UnknownNode(*id));
            }
        }
        Ok(())
    }
}

/// The least of the values, or `None` if there are none or one is missing.
fn least<T: Ord>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let mut least: Option<T> = None;
    for value in values {
        let value = value?;
        least = Some(match least {
            Some(found) if found <= value => found,
            _ => value,
        });
    }
    least
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, set) in self.configs.iter().enumerate() {
            if i > 0 {
                f.write_str(" + ")?;
            }
            write!(f, "{set}")?;
        }
        let learners = self.learner_ids();
        if !learners.is_empty() {
            f.write_str(" learners {")?;
            for (i, id) in learners.iter().enumerate() {
                write!(f, "{}{id}", if i > 0 { "," } else { "" })?;
            }
            f.write_str("}")?;
        }
        Ok(())
    }
}

/// What a caller asks a membership to become.
///
/// Callers make these and do not match on them. Who writes them down, as a script or a command line, must have a word
/// for each, so a new one breaks that: this is not `#[non_exhaustive]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChangeMembers {
    /// Make these nodes voters, adding the ones that are not yet known.
    AddVoters(BTreeMap<NodeId, Node>),
    /// Make these learners voters.
    AddVoterIds(BTreeSet<NodeId>),
    /// These voters stop voting; [`Retain`] says whether they stay as learners.
    RemoveVoters(BTreeSet<NodeId>),
    /// Exactly these nodes vote; all of them must be in the cluster.
    ReplaceAllVoters(BTreeSet<NodeId>),
    /// Add learners; a node that is already known keeps its record.
    AddNodes(BTreeMap<NodeId, Node>),
    /// Add nodes or overwrite their records.
    SetNodes(BTreeMap<NodeId, Node>),
    /// Remove learners.
    RemoveNodes(BTreeSet<NodeId>),
    /// Replace the records of all nodes; voters must be among them.
    ReplaceAllNodes(BTreeMap<NodeId, Node>),
    /// The named voters decide by these rules instead of a majority.
    SetQuorum {
        /// Which sets of voters can elect a leader.
        elect: Quorum,
        /// Which sets of voters can commit an entry.
        commit: Quorum,
    },
    /// Change the replicated settings.
    SetSettings(Settings),
    /// All of these, in order, as one change.
    Batch(Vec<ChangeMembers>),
}

/// Under which terms a membership change is made. The default: no preconditions, no patience, nothing waived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ChangeTerms {
    /// What must hold when the change enters the log; otherwise it is refused.
    pub preconditions: Vec<Precondition>,
    /// How long the change may wait until it can enter the log: for a leader that is new, for the end of another
    /// change, for new voters to be heard of and to catch up, for silent voters to come back. Zero: it is refused at
    /// once.
    ///
    /// A voter to be that is not in the cluster is added as a learner at once, and stays one if patience ends.
    pub patience: Duration,
    /// Whether new voters must have caught up, and enough voters be alive.
    pub readiness: Readiness,
}

/// Something about the leader's state that a caller relies on, for changes that must not undo each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// It leads under this leader id.
    LeaderId(LeaderId),
    /// Its log ends with this entry.
    LastLogId(LogId),
    /// The membership in force is the one of this entry.
    LastMembershipLogId(LogId),
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precondition::LeaderId(leader_id) => write!(f, "leader {leader_id}"),
            Precondition::LastLogId(log_id) => write!(f, "last log id {log_id}"),
            Precondition::LastMembershipLogId(log_id) => write!(f, "last membership log id {log_id}"),
        }
    }
}

/// Whether the cluster must be able to go on at once when a membership change is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Readiness {
    /// New voters have caught up to within [`Config::replication_lag_threshold`](crate::Config), and the voters that
    /// acknowledged the leader within its lease can commit and elect. Otherwise the change waits, or is refused.
    #[default]
    Required,
    /// Make the change all the same. Nothing may be committed until enough voters are there and have caught up; if
    /// they never are, only the recovery of a lost quorum helps.
    Waived,
}
