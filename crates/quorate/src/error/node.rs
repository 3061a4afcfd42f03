//! Why a node does not start, stops, does not lead, or what is waited for does not come.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{ConfigError, NodeId};

use crate::ClosedReason;

/// What kind of failure a storage met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The operating system refused an operation.
    Io,
    /// What was read is not what was written.
    Corrupt,
    /// What was read was written by another version of the format.
    OtherVersion,
    /// There is no space.
    Full,
    /// An earlier failure: nothing can become durable through this handle any more.
    Poisoned,
    /// The directory belongs to another node, cluster or process.
    Identity,
}

/// A storage that failed. Fail-stop: the group it belonged to closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageError {
    kind: StorageErrorKind,
    text: Arc<str>,
}

impl StorageError {
    /// A failure of this kind; `text` names the file and what to do.
    pub fn new(kind: StorageErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into().into() }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }

    /// Whether the same operation may be tried again: never. A disk that failed once does not say what it kept (law 9), so
    /// the group closes; what to do before it is started again is in the text.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Whether something that was being written may or may not have become durable. The next start finds out.
    pub fn outcome_is_unknown(&self) -> bool {
        match self.kind {
            StorageErrorKind::Io | StorageErrorKind::Full | StorageErrorKind::Poisoned => true,
            StorageErrorKind::Corrupt | StorageErrorKind::OtherVersion | StorageErrorKind::Identity => false,
        }
    }
}

impl From<io::Error> for StorageError {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::Full,
            io::ErrorKind::InvalidData => StorageErrorKind::Corrupt,
            _ => StorageErrorKind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StorageError {}

/// Why a node could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is missing or contradicts another.
    Config(String),
    /// The data directory could not be opened.
    Storage(StorageError),
    /// The network could not be started.
    Network(io::Error),
    /// The state machine could not be restored from its snapshot.
    Restore(io::Error),
    /// The state machine, the storage, the network or the clock panicked; the text says which, and its message.
    Panicked(String),
    /// The group already runs on this host; or it was shut down, and its state machine does not come back.
    AlreadyRunning,
    /// The host is closed.
    Closed,
}

impl StartError {
    /// Whether the same call may succeed later: once an address is free, a disk has space, or the group that runs is shut
    /// down.
    pub fn is_retryable(&self) -> bool {
        match self {
            StartError::Network(_) | StartError::AlreadyRunning => true,
            StartError::Storage(error) => error.kind() == StorageErrorKind::Full,
            StartError::Config(_) | StartError::Restore(_) | StartError::Panicked(_) | StartError::Closed => false,
        }
    }

    /// Always false: a node that did not start answered nobody.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(text) => write!(f, "cannot start: {text}"),
            StartError::Storage(error) => write!(f, "cannot start: {error}"),
            StartError::Network(error) => write!(f, "cannot start: {error}"),
            StartError::Restore(error) => write!(f, "cannot start: the state machine refuses its snapshot: {error}"),
            StartError::Panicked(text) => write!(f, "cannot start: {text}"),
            StartError::AlreadyRunning => f.write_str("cannot start: this group already runs on this host"),
            StartError::Closed => f.write_str("cannot start: this host is closed"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Storage(error) => Some(error),
            StartError::Network(error) | StartError::Restore(error) => Some(error),
            StartError::Config(_) | StartError::Panicked(_) | StartError::AlreadyRunning | StartError::Closed => None,
        }
    }
}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> Self {
        StartError::Storage(error)
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        StartError::Config(error.to_string())
    }
}

/// A condition of [`Wait`](crate::Wait) that did not come true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// Not within the time given.
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The node's group was closed before.
    Closed(ClosedReason),
}

impl WaitError {
    /// Whether the same condition may come true later.
    pub fn is_retryable(&self) -> bool {
        match self {
            WaitError::Timeout { .. } => true,
            WaitError::Closed(_) => false,
        }
    }

    /// Always false: who waits changes nothing.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Timeout { what, after } => write!(f, "waited {after:?} for {what} in vain"),
            WaitError::Closed(reason) => write!(f, "this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for WaitError {}

/// Why a node does not lead, or could not show that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeadershipError {
    /// This node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// This node does not vote, so it cannot be elected.
    NotVoter,
    /// The campaign was not won in time, or another node was elected.
    NotElected {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// This node leads, but no quorum of voters answered it.
    NoQuorum {
        /// For how long it waited.
        after: Duration,
    },
    /// This node's core had no turn in time: its storage or its network holds it up.
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// This node's group is closed.
    Closed(ClosedReason),
}

impl LeadershipError {
    /// Whether it may go better at another time, or on another node.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, LeadershipError::Closed(_))
    }

    /// Always false: a campaign that was not won in time may still be won, but asking again does no harm.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for LeadershipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeadershipError::NotLeader { leader: None } => f.write_str("this node does not lead, and knows no leader"),
            LeadershipError::NotLeader { leader: Some(id) } => {
                write!(f, "this node does not lead, node {id} does; ask there")
            }
            LeadershipError::NotVoter => f.write_str("not elected: this node does not vote; make it a voter first"),
            LeadershipError::NotElected { leader: None } => {
                f.write_str("not elected: no quorum granted it in time; check that the voters are up")
            }
            LeadershipError::NotElected { leader: Some(id) } => {
                write!(f, "not elected: node {id} leads; to replace it, ask it to transfer leadership")
            }
            LeadershipError::NoQuorum { after } => {
                write!(
                    f,
                    "this node leads, but no quorum of voters answered within {after:?}; check that they are reached"
                )
            }
            LeadershipError::TimedOut { after } => f.write_str(&super::held_up_text(*after)),
            LeadershipError::Closed(reason) => write!(f, "this node is closed because {reason}"),
        }
    }
}

impl std::error::Error for LeadershipError {}
