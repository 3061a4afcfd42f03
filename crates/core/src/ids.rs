//! Names for nodes, leaders, log positions and the counters that tie answers to questions.

use std::cmp::Ordering;
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A node's number within its cluster, chosen by the operator and never reused for another machine.
    NodeId(u64)
}
number! {
    /// A Raft group: one replicated log among the many that a process may hold.
    GroupId(u64)
}
number! {
    /// The cluster's identity: random, made once at initialization, in every handshake and on every disk. Its upper
    /// 16 bits count recoveries of a lost quorum (law 16); see [`ClusterId::recovery`].
    ClusterId(u128)
}
number! {
    /// The identity of one disk: random, written when a node's directory is formatted. A voter is a node
    /// id *and* an incarnation, so a wiped disk is never taken for the voter it replaced.
    Incarnation(u128)
}
number! {
    /// Names one durable write. Only grows; `Persisted(w)` claims every write up to and including `w`.
    WriteId(u64)
}
number! {
    /// Names a caller's request, so that the driver can find who waits for the answer.
    RequestId(u64)
}
number! {
    /// Names one replication stream from a leader to a peer. A reply of another stream is ignored.
    StreamId(u64)
}
number! {
    /// A leader's heartbeat round. An acknowledgement echoes the round of the message it answers, and so
    /// proves that the peer followed this leader at some moment after the round began.
    Round(u64)
}
number! {
    /// Names one campaign of a candidate. A grant counts only for the campaign it echoes.
    Campaign(u64)
}
number! {
    /// Names one start of a node that lost entries to damage: no other start of the node has the same. A leader that
    /// echoes it counts nothing that the node acknowledged before it (docs/design/001).
    StartId(u64)
}

impl ClusterId {
    /// Where the count of recoveries begins.
    const RECOVERY_SHIFT: u32 = 112;

    /// The id of a new cluster, never zero, from random bits.
    pub fn from_random(bits: u128) -> Self {
        Self(bits).base().max(ClusterId(1))
    }

    /// How often a lost quorum of the cluster was recovered: its recovery epoch. Nodes of different ones refuse each
    /// other like nodes of different clusters.
    pub fn recovery(self) -> u16 {
        (self.0 >> Self::RECOVERY_SHIFT) as u16
    }

    /// The id that the cluster was made with. Checksums of entries and files start from it, so that a recovery need
    /// not write the log again.
    pub fn base(self) -> Self {
        Self(self.0 & (u128::MAX >> (128 - Self::RECOVERY_SHIFT)))
    }

    /// The id after one more recovery; `None` after 65,535.
    pub fn recovered(self) -> Option<Self> {
        Some(Self(self.base().0 | u128::from(self.recovery().checked_add(1)?) << Self::RECOVERY_SHIFT))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

macro_rules! debug_number {
    ($($name:ident => $prefix:literal),* $(,)?) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        })*
    };
}
debug_number!(ClusterId => "cluster-", Incarnation => "inc-");

macro_rules! debug_decimal {
    ($($name:ident => $prefix:literal),* $(,)?) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        })*
    };
}
debug_decimal!(NodeId => "n", GroupId => "g", WriteId => "w", RequestId => "r", StartId => "start-", StreamId => "s", Round => "round-", Campaign => "c");

/// Who leads: a term and the node that leads in it.
///
/// Ordered by term, then node. In advanced mode several leaders may follow each other within a term, the
/// greater node id last; in standard mode a term has at most one leader (dissertation 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LeaderId {
    /// The term, from 1; 0 is before any election.
    pub term: u64,
    /// The node that campaigned for this term.
    pub node_id: NodeId,
}

impl LeaderId {
    /// A leader id of `term` and `node_id`.
    #[inline]
    pub fn new(term: u64, node_id: impl Into<NodeId>) -> Self {
        Self { term, node_id: node_id.into() }
    }

    /// One number, by which leader ids are ordered: two comparisons less each time.
    #[inline]
    fn order(self) -> u128 {
        u128::from(self.term) << 64 | u128::from(self.node_id.0)
    }
}

impl Ord for LeaderId {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for LeaderId {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.node_id)
    }
}

impl fmt::Debug for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How leader ids of one term relate; part of the cluster's identity, fixed at initialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum LeaderIdMode {
    /// Leader ids are totally ordered, so a split vote does not need a new term. The default.
    #[default]
    Advanced,
    /// At most one leader a term, as in the dissertation.
    Standard,
}

/// Term, candidate and "a quorum granted it" in one value.
///
/// Not `Ord`: how two votes compare depends on the cluster's [`LeaderIdMode`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Vote {
    /// The leader, or would-be leader, voted for.
    pub leader_id: LeaderId,
    /// Whether a quorum granted it: the leader exists.
    pub committed: bool,
}

impl Vote {
    /// A vote for a candidate that no quorum is known to have granted.
    pub fn uncommitted(leader_id: LeaderId) -> Self {
        Self { leader_id, committed: false }
    }

    /// The vote of an elected leader.
    pub fn committed(leader_id: LeaderId) -> Self {
        Self { leader_id, committed: true }
    }

    /// Compares two votes, or says that neither may be granted over the other.
    ///
    /// Advanced mode orders by (term, node, committed). In standard mode two votes of one term for
    /// different nodes are incomparable, except that a committed vote beats an uncommitted one (law 1).
    pub fn compare(self, other: Vote, mode: LeaderIdMode) -> Option<Ordering> {
        let by_commit = self.committed.cmp(&other.committed);
        match mode {
            LeaderIdMode::Advanced => Some(self.leader_id.cmp(&other.leader_id).then(by_commit)),
            LeaderIdMode::Standard => match self.leader_id.term.cmp(&other.leader_id.term) {
                Ordering::Equal if self.leader_id.node_id == other.leader_id.node_id => Some(by_commit),
                Ordering::Equal if by_commit == Ordering::Equal => None,
                Ordering::Equal => Some(by_commit),
                by_term => Some(by_term),
            },
        }
    }

    /// Whether this vote is equal to or greater than `other`.
    pub fn at_least(self, other: Vote, mode: LeaderIdMode) -> bool {
        matches!(self.compare(other, mode), Some(Ordering::Equal | Ordering::Greater))
    }

    /// Whether this vote is greater than `other`.
    pub fn exceeds(self, other: Vote, mode: LeaderIdMode) -> bool {
        self.compare(other, mode) == Some(Ordering::Greater)
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.leader_id, if self.committed { " committed" } else { "" })
    }
}

impl fmt::Debug for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.leader_id, if self.committed { "+" } else { "?" })
    }
}

/// A position in the log: the leader that created the entry, and its index.
///
/// Two logs that hold the same log id are equal up to it (log matching, dissertation 3.5). Printed
/// `term-node.index`. Indexes start at 1; [`LogId::ZERO`] is the place before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// The leader under which the entry was created.
    pub leader_id: LeaderId,
    /// The entry's place in the log, from 1.
    pub index: u64,
}

impl LogId {
    /// Before the first entry.
    pub const ZERO: LogId = LogId { leader_id: LeaderId { term: 0, node_id: NodeId(0) }, index: 0 };

    /// A log id of `leader_id` at `index`.
    #[inline]
    pub fn new(leader_id: LeaderId, index: u64) -> Self {
        Self { leader_id, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.leader_id, self.index)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_ids_are_ordered_by_term_then_node() {
        let ids = [(0, 0), (0, 1), (0, u64::MAX), (1, 0), (1, 7), (u64::MAX, 0), (u64::MAX, u64::MAX)];
        let ids = ids.map(|(term, node)| LeaderId::new(term, node));
        assert!(ids.is_sorted_by(|one, next| one < next));
        assert!(LogId::new(ids[1], 9) < LogId::new(ids[2], 1) && LogId::new(ids[1], 1) < LogId::new(ids[1], 9));
    }

    #[test]
    fn a_recovery_changes_the_cluster_id_and_not_its_base() {
        let made = ClusterId::from_random(u128::MAX);
        assert_eq!((made.recovery(), made.base()), (0, made));
        let once = made.recovered().unwrap();
        let twice = once.recovered().unwrap();
        assert_eq!((once.recovery(), twice.recovery()), (1, 2));
        assert_eq!((once.base(), twice.base()), (made, made));
        assert!(once != made && twice != once);
        assert_eq!(ClusterId(u128::MAX).recovered(), None, "there is no 65,536th");
        assert_eq!(ClusterId::from_random(0), ClusterId(1), "zero is no cluster");
    }
}
