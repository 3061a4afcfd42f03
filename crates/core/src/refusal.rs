//! What a refusal means to who asked: whom to ask instead, whether to ask again, and what to do, in words.

use std::fmt;

use crate::event::{Refusal, TransferFailure};
use crate::ids::{LogId, NodeId};

impl Refusal {
    /// Whom to ask instead, if that is known.
    pub fn leader(&self) -> Option<NodeId> {
        match self {
            Refusal::NotLeader { leader } => *leader,
            Refusal::Transferring { to } => Some(*to),
            // By name, as wherever refusals are told apart: a new one must be asked who leads.
            Refusal::ChangeInProgress { .. }
            | Refusal::NotYetCommitted
            | Refusal::NoVoters
            | Refusal::UnknownNode(_)
            | Refusal::NotSeenYet(_)
            | Refusal::NotCaughtUp { .. }
            | Refusal::WouldLoseQuorum { .. }
            | Refusal::PreconditionFailed { .. }
            | Refusal::RuleNeeded { .. }
            | Refusal::IsVoter(_)
            | Refusal::BadRule(_)
            | Refusal::AlreadyInitialized
            | Refusal::NotAmongVoters
            | Refusal::LeaseDisabled
            | Refusal::NotTransferred(_)
            | Refusal::NothingApplied
            | Refusal::SnapshotFailed
            | Refusal::SnapshotDeferred
            | Refusal::Halted => None,
        }
    }

    /// Whether the same request may succeed later, here or on [`leader`](Self::leader), though nobody asks for
    /// anything else meanwhile. That nothing was done is certain with all of them.
    pub fn is_retryable(&self) -> bool {
        match self {
            Refusal::NotLeader { .. }
            | Refusal::Transferring { .. }
            | Refusal::ChangeInProgress { .. }
            | Refusal::NotYetCommitted
            | Refusal::NotSeenYet(_)
            | Refusal::NotCaughtUp { .. }
            | Refusal::WouldLoseQuorum { .. }
            | Refusal::NothingApplied
            | Refusal::SnapshotFailed
            | Refusal::SnapshotDeferred => true,
            Refusal::NotTransferred(failure) => failure.is_retryable(),
            Refusal::NoVoters
            | Refusal::UnknownNode(_)
            | Refusal::PreconditionFailed { .. }
            | Refusal::IsVoter(_)
            | Refusal::RuleNeeded { .. }
            | Refusal::BadRule(_)
            | Refusal::AlreadyInitialized
            | Refusal::NotAmongVoters
            | Refusal::LeaseDisabled
            | Refusal::Halted => false,
        }
    }

    /// Always false: what is refused was not done.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl TransferFailure {
    /// Whether this node leads on, and may be asked again.
    pub fn is_retryable(&self) -> bool {
        match self {
            TransferFailure::NoTarget | TransferFailure::TimedOut { .. } | TransferFailure::Aborted { .. } => true,
            TransferFailure::NotVoter(_) | TransferFailure::LeaderChanged { .. } => false,
        }
    }

    /// Always false: this node leads on, or it is known who leads.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

/// Node ids as text: `2, 3`.
struct List<'a>(&'a [NodeId]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotLeader { leader: Some(id) } => write!(f, "this node does not lead: ask node {id}"),
            Refusal::NotLeader { leader: None } => f.write_str("no leader is known"),
            Refusal::Transferring { to } => write!(f, "leadership is being handed to node {to}: ask there"),
            Refusal::ChangeInProgress { log_id } => {
                write!(f, "the membership change at {log_id} is not finished: wait for it")
            }
            Refusal::NotYetCommitted => {
                f.write_str("the leader is new and has committed nothing yet: try again shortly")
            }
            Refusal::NoVoters => f.write_str("the change would leave no voters"),
            Refusal::UnknownNode(id) => {
                write!(f, "node {id} is not among the nodes of the cluster: only those can vote or lead; add it first")
            }
            Refusal::NotSeenYet(id) => {
                write!(f, "node {id} has not been heard of yet: wait until it follows the leader")
            }
            Refusal::NotCaughtUp { node, matched: LogId::ZERO, .. } => write!(
                f,
                "node {node} has acknowledged nothing of the log: is it running, at the address that it was added with?"
            ),
            Refusal::NotCaughtUp { node, matched, last } => write!(
                f,
                "node {node} has not caught up: it holds the log up to {matched}, the log ends at {last}; wait for it, \
                 or raise `replication_lag_threshold`"
            ),
            Refusal::WouldLoseQuorum { silent } => write!(
                f,
                "the change would leave the cluster without a quorum: voters {} are silent; start them, or waive this \
                 with `Readiness::Waived`",
                List(silent)
            ),
            Refusal::PreconditionFailed { expected, actual } => {
                write!(f, "the leader is not in the state expected: {expected} was expected, {actual} is")
            }
            Refusal::RuleNeeded { added, removed } => write!(
                f,
                "the voters decide by a quorum rule that names them: adding {{{}}} and removing {{{}}} needs a new \
                 rule; put `SetQuorum` into the same `Batch`",
                List(added),
                List(removed)
            ),
            Refusal::IsVoter(id) => write!(f, "node {id} votes: remove it from the voters first"),
            Refusal::BadRule(error) => error.fmt(f),
            Refusal::AlreadyInitialized => f.write_str("this node already belongs to a cluster"),
            Refusal::NotAmongVoters => f.write_str("this node is not among the voters named"),
            Refusal::LeaseDisabled => {
                f.write_str("lease reads are off: set the cluster's lease policy to `LeaseReads`")
            }
            Refusal::NotTransferred(failure) => failure.fmt(f),
            Refusal::NothingApplied => f.write_str("nothing was applied yet that a snapshot could hold"),
            Refusal::SnapshotFailed => {
                f.write_str("the snapshot could not be built: the log says why; the newest one is as before")
            }
            Refusal::SnapshotDeferred => {
                f.write_str("the state machine would not build a snapshot now: ask again later")
            }
            Refusal::Halted => f.write_str("this node stopped after a failed write"),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for TransferFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferFailure::NoTarget => f.write_str("leadership not handed over: no other voter was heard of lately"),
            TransferFailure::NotVoter(id) => {
                write!(f, "leadership not handed over: node {id} does not vote, or is about to be removed")
            }
            TransferFailure::TimedOut { to } => {
                write!(f, "leadership not handed over: node {to} did not take over in time; this node leads on")
            }
            TransferFailure::Aborted { to } => {
                write!(f, "leadership not handed over to node {to}: it was aborted; this node leads on")
            }
            TransferFailure::LeaderChanged { leader } => {
                write!(f, "leadership was lost meanwhile: leader {leader} took over")
            }
        }
    }
}

impl std::error::Error for TransferFailure {}
