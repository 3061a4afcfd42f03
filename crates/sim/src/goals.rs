//! What clients and the operator must have achieved somewhere in a search: what never happens is not tested.

use std::fmt;

use crate::workload::Workload;
use crate::world::World;

macro_rules! goals {
    ($($(#[doc = $what:literal])+ $goal:ident = $name:literal,)+) => {
        /// Something that a search must have seen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Goal {
            $($(#[doc = $what])+ $goal,)+
        }

        impl Goal {
            /// Every goal.
            pub const ALL: &[Goal] = &[$(Goal::$goal,)+];

            /// Its name, as printed.
            pub fn name(self) -> &'static str {
                match self {
                    $(Goal::$goal => $name,)+
                }
            }
        }
    };
}

goals! {
    /// A write for one leader was applied under it.
    ConditionHeld = "conditional-write",
    /// A write for one leader was refused, because that leader led no more.
    RefusedLeader = "refused-leader",
    /// A node that did not lead handed a write to the leader, and told its client how it ended.
    Forwarded = "forwarded-write",
    /// The same, of a command of a session.
    ForwardedInSession = "forwarded-session-write",
    /// A node handed a write for one leader to it, and told its client that it was applied.
    ForwardedCondition = "forwarded-conditional-write",
    /// A node handed a write for one leader to it, and that led no more.
    ForwardRefusedLeader = "forward-refused-leader",
    /// Writes that were asked for in one call were all applied.
    WroteMany = "write-many",
    /// The same, handed to the leader in one call.
    ForwardedMany = "forwarded-write-many",
    /// The same, for one leader.
    ManyUnderCondition = "conditional-write-many",
    /// A node handed a write to one that did not lead.
    ForwardRefused = "forward-refused",
    /// A linearizable read was served by the leader.
    ReadIndexLeader = "read-index-leader",
    /// A linearizable read was served by a follower.
    ReadIndexFollower = "read-index-follower",
    /// A linearizable read was served by a learner.
    ReadIndexLearner = "read-index-learner",
    /// A lease read was served by the leader.
    LeaseReadLeader = "lease-read-leader",
    /// A lease read was served by a follower.
    LeaseReadFollower = "lease-read-follower",
    /// A lease read was served by a learner.
    LeaseReadLearner = "lease-read-learner",
    /// A read of a maximum age was served by the leader.
    MaxAgeLeader = "max-age-read-leader",
    /// A read of a maximum age was served by a follower.
    MaxAgeFollower = "max-age-read-follower",
    /// A read of a maximum age was served by a learner.
    MaxAgeLearner = "max-age-read-learner",
    /// A read of whatever is there was served by the leader.
    StaleLeader = "stale-read-leader",
    /// A read of whatever is there was served by a follower.
    StaleFollower = "stale-read-follower",
    /// A read of whatever is there was served by a learner.
    StaleLearner = "stale-read-learner",
    /// Clients were answered in a quiet window.
    QuietServed = "quiet-served",
    /// A session was opened.
    SessionOpened = "session-opened",
    /// A command of a session was applied, and its client told.
    SessionWrite = "session-write",
    /// A command was answered after it had been sent more than once.
    SessionRetried = "session-retried",
    /// An answered command was sent again, and got the same answer.
    SessionEcho = "session-echo",
    /// A repeated command was refused because its answer was acknowledged.
    SessionAcknowledged = "session-acknowledged",
    /// A command of a closed or expired session was refused.
    SessionGone = "session-gone",
    /// A session was kept alive.
    SessionKept = "session-kept",
    /// A session expired.
    SessionExpired = "session-expired",
    /// A session was closed.
    SessionClosed = "session-closed",
    /// A change made nodes voters.
    AddVoters = "add-voters",
    /// A change made learners voters.
    AddVoterIds = "add-voter-ids",
    /// A change took a vote away.
    RemoveVoters = "remove-voters",
    /// A change named all voters.
    ReplaceAllVoters = "replace-all-voters",
    /// A change added a learner, or nothing.
    AddNodes = "add-nodes",
    /// A change overwrote a record.
    SetNodes = "set-nodes",
    /// A change removed a learner.
    RemoveNodes = "remove-nodes",
    /// A change named all nodes.
    ReplaceAllNodes = "replace-all-nodes",
    /// Several changes were made as one.
    BatchOfChanges = "batch-of-changes",
    /// A change said that majorities decide.
    MajorityRule = "majority-rule",
    /// The first membership had quorum rules of its own.
    FirstRules = "first-rules",
    /// Voters got weights.
    WeightedRule = "weighted-rule",
    /// Voters got weights, and elections others than commits, or another sum of them.
    WeightedApart = "weighted-rules-apart",
    /// Zones of voters decide.
    HierarchicalRule = "hierarchical-rule",
    /// Zones of voters decide, more of them elections than commits, or fewer.
    HierarchicalApart = "hierarchical-rules-apart",
    /// Parts with weights decide, in parts with weights.
    NestedRule = "nested-rule",
    /// A change of voters brought rules for them that are no majorities.
    VotersWithRules = "voters-with-rules",
    /// Elections and commits got rules of their own.
    OwnRules = "own-rules",
    /// A change switched between lease reads and fast failover.
    SetSettings = "set-settings",
    /// A change would keep voters that leave as learners.
    RetainedAsLearners = "retained",
    /// A change did not ask for caught-up and live voters.
    ReadinessWaived = "readiness-waived",
    /// A change was made under preconditions.
    ConditionalChange = "conditional-change",
    /// A joint membership gave way to its target.
    JointCompleted = "joint-completed",
    /// A joint membership gave way to another: from c1 c2 to c2 c3.
    JointExtended = "joint-extended",
    /// A joint membership gave way to the voters that it came from.
    JointReverted = "joint-reverted",
    /// A change was refused because it left no voters.
    RefusedNoVoters = "refused-no-voters",
    /// A change was refused because a node of it is not in the cluster.
    RefusedUnknownNode = "refused-unknown-node",
    /// A change was refused because the node to be removed votes.
    RefusedIsVoter = "refused-is-voter",
    /// A change was refused because a quorum rule needs nothing, or more than there is.
    RefusedRuleNeed = "refused-rule-need",
    /// A change was refused because a quorum rule is over other nodes than the voters.
    RefusedRuleNodes = "refused-rule-nodes",
    /// A change was refused because a quorum rule names a node twice.
    RefusedRuleTwice = "refused-rule-twice",
    /// A change was refused because a weight is 0.
    RefusedRuleWeight = "refused-rule-weight",
    /// A change was refused because weights sum up to more than a number holds.
    RefusedRuleSum = "refused-rule-sum",
    /// A change was refused because a quorum rule is nested too deep.
    RefusedRuleDepth = "refused-rule-depth",
    /// A change was refused because two quorums would not meet.
    RefusedRulesApart = "refused-rules-apart",
    /// A change was refused because what it relied on did not hold.
    RefusedPrecondition = "refused-precondition",
    /// A change was refused because another one was not finished.
    RefusedInProgress = "refused-in-progress",
    /// A change was refused because a new voter lagged, or was never heard of.
    RefusedNotCaughtUp = "refused-not-caught-up",
    /// A change was refused because too few voters lived.
    RefusedQuorum = "refused-quorum",
    /// Leadership was handed over to the node that was named.
    TransferToNamed = "transfer-to-named",
    /// Leadership was handed over to the best node.
    TransferToAny = "transfer-to-any",
    /// A transfer was given up on request.
    TransferAborted = "transfer-aborted",
    /// A transfer failed, and its caller was told.
    TransferFailed = "transfer-failed",
    /// A transfer, or none, was to be given up.
    AbortAsked = "abort-asked",
    /// A campaign was asked for.
    Elect = "elect",
    /// A heartbeat was asked for.
    Heartbeat = "heartbeat",
    /// A snapshot that was asked for is durable.
    SnapshotTaken = "snapshot-taken",
    /// A log was purged on request.
    LogPurged = "log-purged",
    /// A running node got other tunables.
    Reconfigured = "reconfigured",
    /// Tunables that cannot be were refused.
    RefusedConfig = "refused-config",
    /// A cluster served to the end although it lost more than it promises to survive.
    BeyondServed = "beyond-served",
    /// A cluster that lost too much stood still.
    BeyondStuck = "beyond-stuck",
    /// Time-outs were switched.
    SwitchTick = "switch-tick",
    /// Heartbeats were switched.
    SwitchHeartbeat = "switch-heartbeat",
    /// Campaigns were switched.
    SwitchElect = "switch-elect",
    /// Pre-votes were switched.
    SwitchPreVote = "switch-pre-vote",
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<W: Workload> World<W> {
    /// This was achieved, once more.
    pub(crate) fn reach(&mut self, goal: Goal) {
        self.counters.add(goal.name(), 1);
    }
}
