//! What can go wrong, in words that name the file and say what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{ClusterId, NodeId};

/// Why the log, or one of its writes, failed. Cheap to clone: every pending write of a poisoned log gets one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WalError {
    /// A call to the file system failed.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// Bytes that were durable are not what they were. Nothing was changed on disk.
    Corrupt(Arc<Damage>),
    /// Another process has the directory open.
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another node.
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// The node it belongs to.
        found: NodeId,
        /// The node that wanted to open it.
        wanted: NodeId,
    },
    /// The node already belongs to another cluster.
    OtherCluster {
        /// The cluster on disk.
        found: ClusterId,
        /// The cluster asked for.
        wanted: ClusterId,
    },
    /// A file was written by another version of the format.
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version this program reads and writes.
        supported: u32,
    },
    /// The directory has parts of a node's data, but not its identity.
    NoIdentity {
        /// The directory.
        dir: PathBuf,
        /// A file that should not be there without an identity.
        found: PathBuf,
    },
    /// A peer has seen a later start of this node's disk, which is not on it: the directory is an older copy of it, and is
    /// not used any more (law 15).
    OlderCopy {
        /// The directory.
        dir: PathBuf,
        /// The peer.
        peer: NodeId,
        /// What it said.
        text: String,
    },
    /// The directory is nobody's data directory.
    NoDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// A write was submitted before the node belongs to a cluster.
    NoCluster,
    /// There is no space for what was asked; nothing was lost.
    Full {
        /// The file that could not be made larger.
        path: PathBuf,
    },
    /// The caller asked for something that cannot follow from what it asked before.
    Invalid {
        /// What was wrong.
        what: &'static str,
    },
    /// The log was shut down.
    Closed,
}

/// Where bytes are damaged, and how that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// The checksum found, if a checksum told.
    pub stored: Option<u32>,
    /// The checksum of the bytes found, if a checksum told.
    pub computed: Option<u32>,
}

impl Damage {
    /// Damage that was found when an entry was read, in an earlier opening.
    pub(crate) fn noted(path: PathBuf) -> Self {
        Self { path, offset: 0, what: "damage that a read found earlier".into(), stored: None, computed: None }
    }
}

impl WalError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WalError {
        let path = path.to_path_buf();
        move |error| WalError::Io { doing, path, error: Arc::new(error) }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> WalError {
        let damage = Damage { path: path.to_path_buf(), offset, what: what.into(), stored: None, computed: None };
        WalError::Corrupt(Arc::new(damage))
    }

    pub(crate) fn checksum(path: &Path, offset: u64, what: &str, stored: u32, computed: u32) -> WalError {
        WalError::Corrupt(Arc::new(Damage {
            path: path.to_path_buf(),
            offset,
            what: what.to_owned(),
            stored: Some(stored),
            computed: Some(computed),
        }))
    }

    /// Whether the disk had no space, so that the same may succeed later.
    pub fn is_full(&self) -> bool {
        match self {
            WalError::Full { .. } => true,
            WalError::Io { error, .. } => is_no_space(error),
            _ => false,
        }
    }
}

/// Whether an error of the system means "no space".
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.path.display(), self.offset, self.what)?;
        if let (Some(stored), Some(computed)) = (self.stored, self.computed) {
            write!(f, " (checksum {stored:#010x} stored, {computed:#010x} computed)")?;
        }
        Ok(())
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalError::Io { doing, path, error } => write!(f, "cannot {doing} {}: {error}", path.display()),
            WalError::Corrupt(damage) => write!(
                f,
                "damaged file {damage}; nothing was changed: replace this member, or restore the file from a backup"
            ),
            WalError::Locked { dir } => {
                write!(f, "data directory {} is in use by another process: stop it first", dir.display())
            }
            WalError::OtherNode { dir, found, wanted } => write!(
                f,
                "data directory {} belongs to node {found}, not to node {wanted}: use the directory of node {wanted}, \
                 or an empty one",
                dir.display()
            ),
            WalError::OtherCluster { found, wanted } => write!(
                f,
                "this node belongs to cluster {found}, not to cluster {wanted}: start it with an empty data directory \
                 to move it"
            ),
            WalError::OtherVersion { path, found, supported } => write!(
                f,
                "{} has format version {found}, this program knows version {supported}: use the program that wrote it",
                path.display()
            ),
            WalError::OlderCopy { dir, peer, text } => write!(
                f,
                "data directory {} is an older copy of this node's disk and is not used any more: put the newest copy \
                 in its place, or an empty directory; node {peer} said: {text}",
                dir.display()
            ),
            WalError::NoDirectory { dir } => {
                write!(f, "{} is no node's data directory: it has no file `identity`", dir.display())
            }
            WalError::NoIdentity { dir, found } => write!(
                f,
                "data directory {} has no identity but holds {}: restore the file `identity`, or use an empty directory",
                dir.display(),
                found.display()
            ),
            WalError::NoCluster => f.write_str("nothing can be written before the node belongs to a cluster"),
            WalError::Full { path } => {
                write!(f, "no space left for {}: free some space, nothing is lost", path.display())
            }
            WalError::Invalid { what } => f.write_str(what),
            WalError::Closed => f.write_str("the log was shut down"),
        }
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WalError::Io { error, .. } => Some(error.as_ref()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    /// Each says what it is about, and what can be done.
    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let path = || PathBuf::from("/data/x");
        let said = [
            (WalError::Locked { dir: path() }, ["/data/x", "stop it first"]),
            (WalError::OtherCluster { found: ClusterId(1), wanted: ClusterId(2) }, ["cluster", "empty data directory"]),
            (WalError::OtherVersion { path: path(), found: 9, supported: 1 }, ["/data/x", "format version 9"]),
            (WalError::NoDirectory { dir: path() }, ["/data/x", "`identity`"]),
            (WalError::Full { path: path() }, ["/data/x", "free some space"]),
            (WalError::Invalid { what: "no such write" }, ["no such", "write"]),
            (WalError::Closed, ["log", "shut down"]),
        ];
        for (error, words) in said {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(error.source().is_none(), "{text}");
        }
    }

    /// What is full may be tried again, what is broken may not.
    #[test]
    fn only_missing_space_is_full() {
        let io = |kind: io::ErrorKind| WalError::io("write", Path::new("/data/x"))(kind.into());
        assert!(WalError::Full { path: PathBuf::new() }.is_full());
        assert!(io(io::ErrorKind::StorageFull).is_full() && io(io::ErrorKind::QuotaExceeded).is_full());
        assert!(!io(io::ErrorKind::PermissionDenied).is_full() && !WalError::Closed.is_full());
        let error = io(io::ErrorKind::StorageFull);
        assert!(error.source().is_some_and(|source| source.to_string().contains("space")), "{error}");
    }
}
