//! What can go wrong: for the caller ([`NetError`]) and on one connection ([`Break`]).

use std::path::PathBuf;
use std::{fmt, io};

use crate::frame::FrameError;
use crate::hello::{HelloError, Refusal};

/// The transport could not be set up.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetError {
    /// The listening socket could not be opened.
    Listen {
        /// The address asked for.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The directory for incoming snapshots cannot be used.
    IncomingDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An option is out of its range.
    Options(String),
    /// The certificates or the key cannot be used.
    Tls(String),
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetError::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: the port is in use by another process; stop it or choose another"
                )
            }
            NetError::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            NetError::IncomingDir { path, source } => {
                write!(f, "cannot use {} for incoming snapshots: {source}", path.display())
            }
            NetError::Options(what) => write!(f, "transport option: {what}"),
            NetError::Tls(what) => write!(f, "tls: {what}"),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NetError::Listen { source, .. } | NetError::IncomingDir { source, .. } => Some(source),
            NetError::Options(_) | NetError::Tls(_) => None,
        }
    }
}

/// Why a connection ended, or never came to be.
#[derive(Debug)]
pub(crate) enum Break {
    /// Every address of the peer refused the connection: nobody listens there.
    ConnectRefused { address: String },
    /// No connection came about for another reason.
    Connect { address: String, source: io::Error },
    /// The connection or the handshake took too long.
    Deadline(&'static str),
    /// Reading or writing failed.
    Io(io::Error),
    /// The other end closed between two frames.
    Closed,
    /// The other end closed where its answer to our hello was due.
    Unanswered,
    /// The other end closed in the middle of a frame.
    Truncated { have: usize, want: usize },
    /// What arrived is not a hello of ours.
    Hello(HelloError),
    /// The other end refuses us.
    RefusedByPeer(Refusal),
    /// We refuse the other end.
    RefusedByUs(Refusal),
    /// A frame cannot be accepted.
    Frame(FrameError),
    /// The content of a frame cannot be accepted.
    Content(String),
    /// TLS failed.
    #[cfg(feature = "tls")]
    Tls(io::Error),
    /// This end closes: its identity or the peer's address changed, or it stops.
    Local,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Break::ConnectRefused { address } => {
                write!(f, "connection refused at {address}: no process listens there")
            }
            Break::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Break::Deadline(what) => write!(f, "{what} took too long"),
            Break::Io(source) => write!(f, "connection broke: {source}"),
            Break::Closed => f.write_str("the other end closed the connection"),
            Break::Unanswered => f.write_str("the other end closed the connection instead of answering"),
            Break::Truncated { have, want } => {
                write!(f, "the other end closed in the middle of a frame: {have} of {want} bytes arrived")
            }
            Break::Hello(error) => error.fmt(f),
            Break::RefusedByPeer(refusal) => write!(f, "the other end refuses this node: {refusal}"),
            Break::RefusedByUs(refusal) => write!(f, "refused: {refusal}"),
            Break::Frame(error) => error.fmt(f),
            Break::Content(error) => write!(f, "malformed content: {error}"),
            #[cfg(feature = "tls")]
            Break::Tls(source) => write!(f, "tls handshake failed: {source}"),
            Break::Local => f.write_str("closed by this node"),
        }
    }
}

impl From<io::Error> for Break {
    fn from(source: io::Error) -> Self {
        Break::Io(source)
    }
}

impl From<FrameError> for Break {
    fn from(error: FrameError) -> Self {
        Break::Frame(error)
    }
}

impl From<HelloError> for Break {
    fn from(error: HelloError) -> Self {
        Break::Hello(error)
    }
}
