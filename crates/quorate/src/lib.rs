// What is shown with numbers for commands needs the feature, there and in some pages below.
#![cfg_attr(feature = "serde", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "serde"), doc = "A Raft consensus library that is durable, fast and safe by default.")]
//!
//! [`Raft::client_write`] resolves when the command is committed and applied; any node takes it. [`Raft::read`] is
//! linearizable by default. Errors say with `is_retryable()` that nothing happened, and with `outcome_is_unknown()`
//! that it may have. Writes of a [`Session`] are applied exactly once, however often they are sent. Many groups
//! share one log and one transport through a [`Host`]. [`advanced`] has the layers below.

mod asynchronous;
mod blame;
mod builder;
mod call;
mod calls;
mod change;
mod config;
mod deadline;
mod driver;
mod durable;
mod error;
pub mod events;
mod forward;
mod group;
mod host;
#[cfg(feature = "hostile")]
pub mod hostile;
mod identity;
mod leadership;
mod memory;
mod meters;
mod metrics;
mod network;
#[cfg(feature = "serde")]
mod payload;
mod progress;
mod raft;
mod read;
pub mod recover;
mod replay;
mod session;
mod snapshot;
mod state_machine;
mod storage;
mod tcp;
mod tuning;
#[cfg(feature = "sim")]
pub mod virtual_node;
mod write;
mod write_builder;
mod write_many;
mod writing;

pub use asynchronous::{AsyncStateMachine, Asynchronous};
pub use builder::Builder;
pub use change::CatchUp;
pub use config::Config;
pub use error::{
    ChangeError, ClientWriteError, ClosedReason, InitializeError, LeadershipError, ReadError, ReconfigureError,
    SessionError, SnapshotError, StartError, StorageError, StorageErrorKind, WaitError,
};
pub use group::{Checkpoint, Commands};
pub use host::{GroupBuilder, Host, HostBuilder, Storage};
pub use identity::{Identity, IdentityStore};
pub use leadership::{LeaderChanges, Leadership};
#[doc(hidden)]
pub use memory::Link;
pub use memory::{MemoryEndpoint, MemoryNetwork, MemorySnapshots, MemoryStorage};
#[cfg(feature = "prometheus")]
pub use meters::PROMETHEUS_CONTENT_TYPE;
pub use meters::{Latencies, MetricFamily, MetricKind, MetricSample, MetricValue, MetricsRegistry, RuntimeStats};
pub use metrics::{PeerMetrics, RaftMetrics, Role, TransferMetrics, Wait};
pub use network::{
    CheckedContent, Inbound, OutgoingSnapshot, RaftNetwork, ReceivedSnapshot, SnapshotData, SnapshotProgress,
    SnapshotSource,
};
pub use progress::{DataMetrics, Progress, ServerMetrics};
pub use raft::{ClientWriteResponse, ClientWriteResult, Drain, Raft, Trigger};
pub use session::{PendingWrite, Session, SessionOptions};
pub use snapshot::{ReceivedContent, SnapshotStore, SnapshotWriter, StoredSnapshot};
pub use state_machine::{EntryContext, Frozen, LastApplied, Payload, PayloadError, RaftStateMachine, Raw};
pub use storage::{Completions, LogWrite, RaftLogStorage};
pub use tcp::TcpNetwork;
pub use tuning::RuntimeConfig;
pub use write_builder::{Submitted, WriteBuilder, WriteManyBuilder};

pub use quorate_core::{
    ChangeMembers, ChangeTerms, ClusterId, ConfigError, GroupId, Incarnation, LeaderId, LeaderIdMode, LeasePolicy,
    LogId, Membership, Node, NodeId, OnLostLog, PeerState, Phase, Precondition, Quorum, ReadPolicy, Readiness, Refusal,
    Retain, RuleError, Settings, SnapshotMeta, Start, Starts, Toggle, TransferFailure, Vote, VoterSet,
};

// What storages and networks are handed.
pub use quorate_core::{
    AppendHeader, LogIds, Message, Recovered, Round, Run, SendOutcome, Span, StartId, StartOrder, StreamId, Tail,
    WriteId,
};
pub use quorate_net::PeerRefused;
pub use quorate_wal::Disk;
pub use quorate_wire::{Batch, BatchIter, Batches, Entry, EntryError, EntryKind, Packet, WireError};

/// Certificates for mutual TLS between peers, as PEM files: for `tls` of the builders, with the feature `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signed every node's certificate.
    pub ca: std::path::PathBuf,
    /// This node's certificate chain.
    pub certificate: std::path::PathBuf,
    /// Its private key.
    pub key: std::path::PathBuf,
    /// The cluster's name in certificates: a node's must be good for `node-<id>.<cluster name>.quorate`.
    pub cluster_name: String,
}

/// For those who bring their own disk, storage or driver.
pub mod advanced {
    pub use quorate_core as core;
    pub use quorate_wal as wal;
    pub use quorate_wire as wire;

    /// A state machine on its own, for tests of it.
    pub mod machines {
        pub use crate::replay::Replay;
    }

    /// The session table, for drivers that apply entries themselves, and the numbers of those who write in a session.
    pub mod sessions {
        pub use quorate_wire::{SessionHeader, SessionOpening};

        pub use crate::session::{Answer, LogPlace, Serials, SessionLimits, SessionRefusal, SessionTable, Verdict};
    }
}
