//! What a transport can be told: [`TransportOptions`].

use std::path::PathBuf;
use std::time::Duration;

use crate::error::NetError;
use crate::hello::LocalIdentity;
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// Bytes that a frame adds to the entries in it, at most: header, fields of the message.
pub(crate) const FRAME_ALLOWANCE_BYTES: usize = 1 << 10;

/// Options of a [`Transport`](crate::Transport).
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Who this node is at the start; see [`Transport::set_identity`](crate::Transport::set_identity).
    pub identity: LocalIdentity,
    /// Where to listen: `host:port`. Port 0 lets the system choose.
    pub listen: String,
    /// Where snapshots that arrive are written; made if missing. `None` keeps them in memory.
    pub incoming_dir: Option<PathBuf>,
    /// Mutual TLS 1.3 with every peer; `None` speaks plain TCP.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsOptions>,
    /// Most bytes queued for a peer's control connection. Default 4 MiB.
    pub control_window_bytes: usize,
    /// Most bytes queued for a peer's data connection; one packet may exceed it if it is alone. Default 16 MiB.
    pub data_window_bytes: usize,
    /// Largest frame accepted, and sent. Default 68 MiB: an entry of the largest size, and room.
    pub max_frame_bytes: usize,
    /// Largest snapshot accepted. Default 64 GiB.
    pub max_snapshot_bytes: u64,
    /// Most connections accepted at a time. Default 1024.
    pub max_incoming: usize,
    /// Shortest wait before a reconnect, after a first one at once. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest wait before a reconnect. Default 1 s.
    pub backoff_max: Duration,
    /// How long one address may take to accept a connection. Default 2 s.
    pub connect_timeout: Duration,
    /// How long TLS and hello may take together. Default 5 s.
    pub handshake_timeout: Duration,
    /// How long sent bytes may stay unacknowledged by the peer's system before the connection is given up, and
    /// how long an idle connection goes unprobed. Default 5 s.
    pub silence_timeout: Duration,
    /// Most bytes of snapshots sent in a second, over all peers; at least 64 KiB. Default `None`: no limit.
    pub snapshot_max_bytes_per_second: Option<u64>,
    /// How long a snapshot transfer may make no progress. Default 30 s.
    pub snapshot_idle_timeout: Duration,
}

impl TransportOptions {
    /// The defaults.
    pub fn new(identity: LocalIdentity, listen: impl Into<String>) -> Self {
        Self {
            identity,
            listen: listen.into(),
            incoming_dir: None,
            #[cfg(feature = "tls")]
            tls: None,
            control_window_bytes: 4 << 20,
            data_window_bytes: 16 << 20,
            max_frame_bytes: 68 << 20,
            max_snapshot_bytes: 64 << 30,
            max_incoming: 1024,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(5),
            snapshot_max_bytes_per_second: None,
            snapshot_idle_timeout: Duration::from_secs(30),
        }
    }

    pub(crate) fn check(&self) -> Result<(), NetError> {
        let largest_frame = (u32::MAX / 2) as usize;
        let smallest_frame = 512 << 10;
        let rules = [
            (self.identity.node.0 != 0, "the node id must not be 0"),
            (self.max_frame_bytes >= smallest_frame, "max_frame_bytes must be at least 512 KiB"),
            (self.max_frame_bytes <= largest_frame, "max_frame_bytes must be at most 2 GiB - 1"),
            (self.control_window_bytes > 0, "control_window_bytes must not be 0"),
            (self.data_window_bytes > 0, "data_window_bytes must not be 0"),
            (self.max_incoming > 0, "max_incoming must not be 0"),
            (!self.backoff_min.is_zero(), "backoff_min must not be 0"),
            (self.backoff_min <= self.backoff_max, "backoff_min must not exceed backoff_max"),
            (!self.connect_timeout.is_zero(), "connect_timeout must not be 0"),
            (!self.handshake_timeout.is_zero(), "handshake_timeout must not be 0"),
            (self.silence_timeout >= Duration::from_millis(100), "silence_timeout must be at least 100 ms"),
            (
                self.snapshot_max_bytes_per_second.is_none_or(|rate| rate >= 64 << 10),
                "snapshot_max_bytes_per_second must be at least 64 KiB",
            ),
            (!self.snapshot_idle_timeout.is_zero(), "snapshot_idle_timeout must not be 0"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(NetError::Options((*rule).into())),
            None => Ok(()),
        }
    }
}
