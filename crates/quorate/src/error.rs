//! One error type a plane: writes, reads, membership, storage, start.

mod node;

use std::fmt;
use std::time::Duration;

use quorate_core::{ConfigError, Incarnation, LeaderId, LogId, NodeId, Refusal};

pub use self::node::{LeadershipError, StartError, StorageError, StorageErrorKind, WaitError};

use crate::PayloadError;

/// Why a node's group does nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClosedReason {
    /// [`Raft::shutdown`](crate::Raft::shutdown) was called, or the host was closed.
    Shutdown,
    /// The log storage or the snapshot store failed or panicked; nothing can become durable any more.
    Storage(StorageError),
    /// The state machine panicked, or refused what was committed.
    StateMachine(String),
    /// The network panicked.
    Network(String),
    /// The clock of [`HostBuilder::wall_clock`](crate::HostBuilder::wall_clock) panicked.
    Clock(String),
    /// Its disk is blank, but the cluster knows it as a voter with another disk, and
    /// [`Config::on_lost_log`](crate::Config::on_lost_log) says to stop then. Nothing was accepted.
    LostLog {
        /// This node.
        node: NodeId,
        /// Its disk.
        disk: Incarnation,
        /// The disk that the membership names.
        named: Incarnation,
    },
    /// The library itself panicked. A bug: please report it.
    Internal(String),
}

impl ClosedReason {
    /// Always false: a group that is closed does not open again on this handle. Other nodes go on, and may be asked.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: it ends what only looks. Calls that change something have errors of their own.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClosedReason::Shutdown => f.write_str("it was shut down"),
            ClosedReason::Storage(error) => write!(f, "its log storage failed: {error}"),
            ClosedReason::StateMachine(text) => write!(f, "its state machine failed: {text}"),
            ClosedReason::Network(text) => write!(f, "its network failed: {text}"),
            ClosedReason::Clock(text) => write!(f, "its wall clock failed: {text}"),
            ClosedReason::LostLog { node, disk, named } => write!(
                f,
                "its log is lost: this disk ({disk}) is blank, but the cluster knows node {node} as a voter with disk \
                 {named}; if that disk is gone for good, either start this node with `on_lost_log = Rejoin`, and once it \
                 has caught up make it a voter again with `change_membership(AddVoterIds([{node}]))`, or replace it: \
                 `change_membership(RemoveVoters([{node}]))` and add another node"
            ),
            ClosedReason::Internal(text) => write!(f, "the library failed, please report this: {text}"),
        }
    }
}

impl std::error::Error for ClosedReason {}

/// Why a write was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientWriteError {
    /// Too many bytes of writes are already waiting; not applied.
    Overloaded,
    /// The disk has no space for more entries; not applied.
    StorageFull,
    /// The encoded command is larger than allowed; not applied.
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes, [`Config::max_command_bytes`](crate::Config::max_command_bytes).
        limit: usize,
    },
    /// The command could not be encoded; not applied.
    Encode(PayloadError),
    /// No leader took the command before the deadline; not applied.
    NoLeader {
        /// The last leader that was known, if any.
        leader: Option<NodeId>,
    },
    /// This node belongs to no cluster yet; not applied.
    NoCluster {
        /// What it waits for, in words: the nodes that are silent, say.
        waits: String,
    },
    /// The write was [only for this leader](crate::WriteBuilder::with_leader), which leads no more; not applied, and
    /// never will be under this condition.
    LeaderChanged {
        /// The leader that the write was for.
        wanted: LeaderId,
        /// Who leads now, if known.
        leader: Option<NodeId>,
    },
    /// The command may or may not be applied, now or later: the deadline passed, or the leader was lost, after
    /// it entered a log.
    OutcomeUnknown,
    /// The command was applied, but the state machine's response could not be encoded for the way here, or not decoded.
    Response {
        /// Where it was applied.
        log_id: LogId,
        /// What is wrong with the response.
        error: PayloadError,
    },
    /// This node's group is closed; not applied.
    Closed(ClosedReason),
}

impl ClientWriteError {
    /// Whether the command was certainly not applied, and the same write may succeed later: here, or, if this node
    /// [is closed](Self::is_closed), only through another one.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientWriteError::Overloaded
            | ClientWriteError::StorageFull
            | ClientWriteError::NoLeader { .. }
            | ClientWriteError::NoCluster { .. }
            | ClientWriteError::Closed(_) => true,
            // Not under the same condition: its caller has to decide again.
            ClientWriteError::LeaderChanged { .. }
            | ClientWriteError::TooLarge { .. }
            | ClientWriteError::Encode(_)
            | ClientWriteError::OutcomeUnknown
            | ClientWriteError::Response { .. } => false,
        }
    }

    /// Whether the command may or may not have been applied.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, ClientWriteError::OutcomeUnknown)
    }

    /// Whether this node takes no writes any more: it is over, or [drains](crate::Raft::shutdown_with).
    pub fn is_closed(&self) -> bool {
        matches!(self, ClientWriteError::Closed(_))
    }
}

impl fmt::Display for ClientWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientWriteError::Overloaded => {
                f.write_str("write refused: too many bytes of writes are waiting; try again later, or raise `proposal_window_bytes`")
            }
            ClientWriteError::StorageFull => f.write_str("write refused: the disk is full; free space, then try again"),
            ClientWriteError::TooLarge { bytes, limit } => {
                write!(f, "write refused: the command has {bytes} bytes, `max_command_bytes` allows {limit}")
            }
            ClientWriteError::Encode(error) => write!(f, "write refused: {error}"),
            ClientWriteError::NoLeader { leader: None } => {
                f.write_str("write refused: no leader is known here; check that a quorum of voters is up, and that this node reaches it \
                     and was not removed")
            }
            ClientWriteError::NoLeader { leader: Some(id) } => {
                write!(f, "write refused: leader {id} did not take it in time; try again")
            }
            ClientWriteError::NoCluster { waits } => {
                write!(f, "write refused: this node belongs to no cluster yet: {waits}")
            }
            ClientWriteError::LeaderChanged { wanted, leader: None } => {
                write!(f, "write refused: {wanted} leads no more; find out who does, and decide again")
            }
            ClientWriteError::LeaderChanged { wanted, leader: Some(id) } => {
                write!(f, "write refused: {wanted} leads no more, node {id} does; decide again")
            }
            ClientWriteError::OutcomeUnknown => {
                f.write_str("write outcome unknown: it may or may not be applied; read before you write it again")
            }
            ClientWriteError::Response { log_id, error } => {
                write!(f, "write applied at {log_id}, but its response is unreadable: {error}")
            }
            ClientWriteError::Closed(reason) => write!(f, "write refused: this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for ClientWriteError {}

/// Why a write of a session has no response, or a session was not opened, kept or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// The session is no more, and is not opened again: it was not heard of for its time to live, too many others
    /// were opened or had answers kept, or it was closed. The command may have been applied before.
    Expired,
    /// The session was told before that the answer to this command is no longer needed. The command may have been
    /// applied before.
    Acknowledged,
    /// As many writes as the session allows are under way already; not applied.
    TooManyInFlight,
    /// An option is out of range; nothing was done.
    Options {
        /// The option.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// As for a write without a session.
    Write(ClientWriteError),
}

impl SessionError {
    /// Whether the command was certainly not applied, so that it may be tried again: here, or, if this node
    /// [is closed](Self::is_closed), only through another one.
    pub fn is_retryable(&self) -> bool {
        match self {
            SessionError::TooManyInFlight => true,
            SessionError::Expired | SessionError::Acknowledged | SessionError::Options { .. } => false,
            SessionError::Write(error) => error.is_retryable(),
        }
    }

    /// Whether the command may or may not have been applied. Unless the session expired, sending the same
    /// [`PendingWrite`](crate::PendingWrite) again finds out, and applies it at most once.
    pub fn outcome_is_unknown(&self) -> bool {
        match self {
            SessionError::Expired | SessionError::Acknowledged => true,
            SessionError::TooManyInFlight | SessionError::Options { .. } => false,
            SessionError::Write(error) => error.outcome_is_unknown(),
        }
    }
}

impl SessionError {
    /// Whether this node takes no writes any more; see
    /// [`resume_session`](crate::Raft::resume_session) for how to go on through another one.
    pub fn is_closed(&self) -> bool {
        matches!(self, SessionError::Write(error) if error.is_closed())
    }

    /// Whether the same [`PendingWrite`](crate::PendingWrite) is worth sending again through this node: it may still get
    /// its answer, and is applied at most once. `false` once the session or the node is over.
    pub fn may_resend(&self) -> bool {
        match self {
            SessionError::Write(error) => match error {
                ClientWriteError::Overloaded
                | ClientWriteError::StorageFull
                | ClientWriteError::NoLeader { .. }
                | ClientWriteError::NoCluster { .. }
                | ClientWriteError::OutcomeUnknown => true,
                ClientWriteError::TooLarge { .. }
                | ClientWriteError::Encode(_)
                | ClientWriteError::LeaderChanged { .. }
                | ClientWriteError::Response { .. }
                | ClientWriteError::Closed(_) => false,
            },
            SessionError::TooManyInFlight => true,
            SessionError::Expired | SessionError::Acknowledged | SessionError::Options { .. } => false,
        }
    }
}

impl From<ClientWriteError> for SessionError {
    fn from(error: ClientWriteError) -> Self {
        SessionError::Write(error)
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Expired => f.write_str(
                "session expired: a write under way may or may not be applied; read before you write it in a new session",
            ),
            SessionError::Acknowledged => {
                f.write_str("write outcome unknown: its answer was acknowledged before and is no longer kept")
            }
            SessionError::TooManyInFlight => {
                f.write_str("write refused: as many writes as `max_in_flight` allows are under way in this session")
            }
            SessionError::Options { field, must } => write!(f, "session not opened: `{field}` must {must}"),
            SessionError::Write(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SessionError {}

/// Why a read was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed the read before the deadline.
    NoLeader {
        /// The last leader that was known, if any.
        leader: Option<NodeId>,
    },
    /// This node belongs to no cluster yet.
    NoCluster {
        /// What it waits for, in words: the nodes that are silent, say.
        waits: String,
    },
    /// The leader confirmed the read, but it did not begin before the deadline: this node had not applied up to it, or
    /// another read held the state machine up.
    NotCaughtUp {
        /// What has to be applied first.
        read_at: LogId,
    },
    /// [`ReadPolicy::LeaseRead`](crate::ReadPolicy::LeaseRead) needs the replicated setting
    /// [`LeasePolicy::LeaseReads`](crate::LeasePolicy::LeaseReads).
    LeaseDisabled,
    /// This node's group is closed.
    Closed(ClosedReason),
}

impl ReadError {
    /// Whether the same read may succeed later through this node. One that is closed never serves it; another one may.
    pub fn is_retryable(&self) -> bool {
        match self {
            ReadError::NoLeader { .. } | ReadError::NoCluster { .. } | ReadError::NotCaughtUp { .. } => true,
            ReadError::LeaseDisabled | ReadError::Closed(_) => false,
        }
    }

    /// Always false: a read changes nothing.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::NoLeader { leader: None } => {
                f.write_str("read failed: no leader is known here; check that a quorum of voters is up, and that this node reaches it and \
                     was not removed")
            }
            ReadError::NoLeader { leader: Some(id) } => {
                write!(f, "read failed: leader {id} did not confirm it in time; try again")
            }
            ReadError::NoCluster { waits } => {
                write!(f, "read failed: this node belongs to no cluster yet: {waits}")
            }
            ReadError::NotCaughtUp { read_at } => {
                write!(f, "read failed: this node has not applied {read_at} yet; try again, or ask another node")
            }
            ReadError::LeaseDisabled => {
                f.write_str("read failed: lease reads are off; set the cluster's lease policy to `LeaseReads`")
            }
            ReadError::Closed(reason) => write!(f, "read failed: this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Why a membership change, or another request to the leader, was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    /// This node does not lead; nothing was done.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The change is not allowed now or at all; nothing was done.
    Refused(Refusal),
    /// The change may or may not take effect: leadership was lost on the way, or the deadline passed.
    OutcomeUnknown,
    /// This node's group is closed; nothing was done.
    Closed(ClosedReason),
}

impl ChangeError {
    /// Whether nothing was done and the same call may succeed later, here or on the leader that is named.
    pub fn is_retryable(&self) -> bool {
        match self {
            ChangeError::NotLeader { .. } => true,
            ChangeError::Refused(refusal) => refusal.is_retryable(),
            ChangeError::OutcomeUnknown | ChangeError::Closed(_) => false,
        }
    }

    /// Whether the change may or may not take effect.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, ChangeError::OutcomeUnknown)
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::NotLeader { leader: Some(id) } => write!(f, "this node does not lead: ask node {id}"),
            ChangeError::NotLeader { leader: None } => {
                f.write_str("no leader is known here; check that a quorum of voters is up, and that this node reaches it and was not \
                     removed")
            }
            ChangeError::Refused(refusal) => refusal.fmt(f),
            ChangeError::OutcomeUnknown => {
                f.write_str("outcome unknown: it may or may not take effect; look at the membership and the leader")
            }
            ChangeError::Closed(reason) => write!(f, "this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for ChangeError {}

/// Says why a core that need only take its turn did not answer.
fn held_up_text(after: Duration) -> String {
    format!("no answer within {after:?}: this node's storage or network holds it up; neither may block its caller")
}

/// Node ids as text: `2, 3`.
pub(crate) fn list_of<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> String {
    let ids: Vec<String> = ids.into_iter().map(NodeId::to_string).collect();
    ids.join(", ")
}

/// Why a snapshot was not built, or the log not purged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It was not done; everything is as before.
    Refused(Refusal),
    /// It was not done in time. It goes on, and may still be done; who asks again waits for the same.
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// This node's group is closed.
    Closed(ClosedReason),
}

impl SnapshotError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            SnapshotError::Refused(refusal) => refusal.is_retryable(),
            SnapshotError::TimedOut { .. } => true,
            SnapshotError::Closed(_) => false,
        }
    }

    /// Always false: a snapshot changes nothing that a caller can see.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Refused(refusal) => refusal.fmt(f),
            SnapshotError::TimedOut { after } => {
                write!(f, "not done within {after:?}; it goes on: ask again to wait for it")
            }
            SnapshotError::Closed(reason) => write!(f, "this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// Why the tunables were not changed, or not told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// A value cannot be used, or cannot change while the node runs.
    Config(ConfigError),
    /// This node's core had no turn in time: its storage or its network holds it up. What was to be changed may be
    /// changed still.
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// This node's group is closed.
    Closed(ClosedReason),
}

impl ReconfigureError {
    /// Whether the same call may succeed later. Values are set, not added to: setting them twice does no harm.
    pub fn is_retryable(&self) -> bool {
        match self {
            ReconfigureError::TimedOut { .. } => true,
            ReconfigureError::Config(_) | ReconfigureError::Closed(_) => false,
        }
    }

    /// Whether what was to be changed may be changed, now or later.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, ReconfigureError::TimedOut { .. })
    }
}

impl fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconfigureError::Config(error) => write!(f, "not changed: {error}"),
            ReconfigureError::TimedOut { after } => write!(f, "{}", held_up_text(*after)),
            ReconfigureError::Closed(reason) => write!(f, "not changed: this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for ReconfigureError {}

/// Why a cluster was not initialized.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitializeError {
    /// These members did not answer in time, so their disks cannot be named as voters. Initialize with the
    /// ones that are up, and add the others later.
    Silent(Vec<NodeId>),
    /// This member already belongs to a cluster.
    HasState(NodeId),
    /// The membership cannot be used, or this node is not blank.
    Refused(Refusal),
    /// The first entry may or may not have become durable.
    OutcomeUnknown,
    /// This node's storage could not keep the cluster's identity.
    Storage(StorageError),
    /// This node's group is closed.
    Closed(ClosedReason),
}

impl InitializeError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, InitializeError::Silent(_))
    }

    /// Whether the cluster may or may not exist.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, InitializeError::OutcomeUnknown)
    }
}

impl fmt::Display for InitializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitializeError::Silent(ids) => write!(
                f,
                "cluster not initialized: no answer from nodes {}; start them, or initialize without them and add them later",
                list_of(ids)
            ),
            InitializeError::HasState(id) => {
                write!(f, "cluster not initialized: node {id} already belongs to a cluster; join that one instead")
            }
            InitializeError::Refused(refusal) => write!(f, "cluster not initialized: {refusal}"),
            InitializeError::OutcomeUnknown => {
                f.write_str("cluster perhaps initialized: the first entry may or may not be durable")
            }
            InitializeError::Storage(error) => write!(f, "cluster not initialized: {error}"),
            InitializeError::Closed(reason) => {
                write!(f, "cluster not initialized: this node is closed because {reason}")
            }
        }
    }
}

impl std::error::Error for InitializeError {}

#[cfg(test)]
mod tests {
    use quorate_core::{RuleError, TransferFailure};

    use super::*;

    /// For each error: is it certain that nothing was done, and may it be tried again; is the outcome unknown.
    macro_rules! judged {
        ($($error:expr => $retryable:literal, $unknown:literal;)*) => {
            $({
                let error = $error;
                assert_eq!((error.is_retryable(), error.outcome_is_unknown()), ($retryable, $unknown), "{error}");
            })*
        };
    }

    #[test]
    fn every_error_says_whether_to_try_again_and_whether_the_outcome_is_known() {
        let closed = || ClosedReason::Shutdown;
        let after = Duration::from_secs(1);
        let storage = |kind| StorageError::new(kind, "text");
        let bad = ConfigError { field: "field", must: "be" };
        let refused = ChangeError::Refused;
        judged! {
            ClientWriteError::Overloaded => true, false;
            ClientWriteError::OutcomeUnknown => false, true;
            ClientWriteError::Closed(closed()) => true, false;
            ClientWriteError::LeaderChanged { wanted: LeaderId::new(1, 2), leader: None } => false, false;
            ClientWriteError::Response { log_id: LogId::ZERO, error: PayloadError("text".into()) } => false, false;
            SessionError::Expired => false, true;
            SessionError::TooManyInFlight => true, false;
            ReadError::NoLeader { leader: None } => true, false;
            ReadError::Closed(closed()) => false, false;
            ChangeError::OutcomeUnknown => false, true;
            ChangeError::NotLeader { leader: None } => true, false;
            refused(Refusal::NotYetCommitted) => true, false;
            refused(Refusal::WouldLoseQuorum { silent: vec![NodeId(2)] }) => true, false;
            refused(Refusal::NotTransferred(TransferFailure::NoTarget)) => true, false;
            refused(Refusal::NotTransferred(TransferFailure::NotVoter(NodeId(2)))) => false, false;
            refused(Refusal::BadRule(RuleError::TooDeep)) => false, false;
            refused(Refusal::Halted) => false, false;
            Refusal::NotLeader { leader: None } => true, false;
            TransferFailure::Aborted { to: NodeId(2) } => true, false;
            RuleError::Empty => false, false;
            SnapshotError::Refused(Refusal::SnapshotDeferred) => true, false;
            SnapshotError::Refused(Refusal::Halted) => false, false;
            InitializeError::Refused(Refusal::AlreadyInitialized) => false, false;
            bad.clone() => false, false;
            PayloadError("text".into()) => false, false;
            ClosedReason::Shutdown => false, false;
            InitializeError::Silent(vec![NodeId(2)]) => true, false;
            InitializeError::OutcomeUnknown => false, true;
            SnapshotError::TimedOut { after } => true, false;
            SnapshotError::Closed(closed()) => false, false;
            ReconfigureError::Config(bad) => false, false;
            ReconfigureError::TimedOut { after } => true, true;
            ReconfigureError::Closed(closed()) => false, false;
            StorageError::new(StorageErrorKind::Io, "text") => false, true;
            StorageError::new(StorageErrorKind::Corrupt, "text") => false, false;
            StartError::AlreadyRunning => true, false;
            StartError::Storage(storage(StorageErrorKind::Full)) => true, false;
            StartError::Storage(storage(StorageErrorKind::Io)) => false, false;
            StartError::Config("text".into()) => false, false;
            WaitError::Timeout { what: "what".into(), after } => true, false;
            WaitError::Closed(closed()) => false, false;
            LeadershipError::NoQuorum { after } => true, false;
            LeadershipError::TimedOut { after } => true, false;
            LeadershipError::Closed(closed()) => false, false;
        }
    }
}
