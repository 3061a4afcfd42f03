//! Why a lost quorum is not recovered.

use std::fmt;
use std::path::{Path, PathBuf};

use quorate_core::{ClusterId, GroupId, LogId, NodeId};
use quorate_wal::WalError;

/// Why a lost quorum is not recovered. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoverError {
    /// No directory was given.
    NoDirectories,
    /// The node of this directory runs.
    Running {
        /// The directory.
        directory: PathBuf,
    },
    /// This is no data directory.
    NotADirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory cannot be read or written, or is damaged.
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The node never belonged to a cluster, or has no group with a membership.
    Blank {
        /// The directory.
        directory: PathBuf,
        /// Its node.
        node: NodeId,
    },
    /// Two directories are of one node.
    SameNode {
        /// The node.
        node: NodeId,
    },
    /// The directories are not of one cluster and one recovery of it.
    OtherCluster {
        /// A directory.
        directory: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// That of the directories before it.
        wanted: ClusterId,
    },
    /// The survivor asked for is not among the directories.
    UnknownSurvivor(NodeId),
    /// A group's membership does not name the survivor: it was removed.
    NotMember {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// A quorum can come together.
    QuorumReachable {
        /// The group.
        group: GroupId,
        /// Who is there.
        nodes: Vec<NodeId>,
        /// Who of them listens but did not say who it is.
        unclear: Vec<NodeId>,
        /// Who of them is one of the directories: it need only be started.
        stopped: Vec<NodeId>,
    },
    /// A member answers that belongs to a later recovery.
    AlreadyRecovered {
        /// The member.
        node: NodeId,
        /// Its recovery.
        recovery: u16,
    },
    /// The most complete logs of the groups are in different directories.
    NoSingleBest {
        /// Of each group the node that has the most complete log, and where that ends.
        best: Vec<(GroupId, NodeId, LogId)>,
    },
    /// There is no later recovery, term or index.
    Exhausted,
    /// The system gives no random numbers.
    Random(String),
}

impl RecoverError {
    pub(super) fn of_directory(directory: &Path, error: &WalError) -> Self {
        let directory = directory.to_path_buf();
        match error {
            WalError::Locked { .. } => RecoverError::Running { directory },
            WalError::NoDirectory { .. } => RecoverError::NotADirectory { directory },
            other => RecoverError::Directory { directory, text: other.to_string() },
        }
    }
}

/// Node ids in a sentence.
pub(super) fn list(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    match ids.split_last() {
        None => "no node".into(),
        Some((only, [])) => format!("node {only}"),
        Some((last, others)) => format!("nodes {} and {last}", others.join(", ")),
    }
}

impl RecoverError {
    /// Whether the same call may succeed later: once the node of a directory is stopped.
    pub fn is_retryable(&self) -> bool {
        matches!(self, RecoverError::Running { .. })
    }

    /// Always false: nothing was changed.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::NoDirectories => f.write_str("say which data directories survived"),
            RecoverError::Running { directory } => write!(
                f,
                "{} is in use by a running node: while it runs nothing is recovered from it; stop it first",
                directory.display()
            ),
            RecoverError::NotADirectory { directory } => {
                write!(f, "{} is no node's data directory: it has no file `identity`", directory.display())
            }
            RecoverError::Directory { directory, text } => write!(f, "{}: {text}", directory.display()),
            RecoverError::Blank { directory, node } => write!(
                f,
                "{} of node {node} holds no membership: the node was never part of a cluster, so there is nothing to \
                 recover from it",
                directory.display()
            ),
            RecoverError::SameNode { node } => {
                write!(f, "two directories are of node {node}: leave out the older copy")
            }
            RecoverError::OtherCluster { directory, found, wanted } => write!(
                f,
                "{} belongs to cluster {found} (recovery {}), the others to {wanted} (recovery {}): leave it out",
                directory.display(),
                found.recovery(),
                wanted.recovery()
            ),
            RecoverError::UnknownSurvivor(node) => write!(f, "no directory is of node {node}"),
            RecoverError::NotMember { group, node } => write!(
                f,
                "the membership of group {group} does not name node {node}: it was removed, and a cluster cannot go \
                 on from it; take the directory of a member"
            ),
            RecoverError::QuorumReachable { group, nodes, unclear, stopped } => {
                write!(f, "a quorum of group {group} can be reached: {}.", list(nodes))?;
                if !stopped.is_empty() {
                    write!(f, " Start {}, and it elects a leader.", list(stopped))?;
                } else if unclear.is_empty() {
                    f.write_str(" It elects a leader by itself.")?;
                }
                if !unclear.is_empty() {
                    write!(
                        f,
                        " Something listens at the address of {} and does not say who it is; if you know that it is \
                         not the member, say that the member is lost",
                        list(unclear)
                    )?;
                }
                Ok(())
            }
            RecoverError::AlreadyRecovered { node, recovery } => write!(
                f,
                "node {node} answers from recovery {recovery} of the cluster, which is later than these directories: \
                 the quorum was recovered there; empty these directories and start their nodes as new ones"
            ),
            RecoverError::NoSingleBest { best } => {
                f.write_str("no directory has the most complete log of every group:")?;
                for (group, node, last) in best {
                    write!(f, " group {group} is most complete at node {node}, up to {last};")?;
                }
                f.write_str(" say which survivor to take, and what the others have more is lost")
            }
            RecoverError::Exhausted => f.write_str("there is no later recovery, term or index"),
            RecoverError::Random(text) => write!(f, "no random numbers: {text}"),
        }
    }
}

impl std::error::Error for RecoverError {}
