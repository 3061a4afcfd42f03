//! One scenario a file.

pub(crate) mod curves;
pub(crate) mod engines;
pub(crate) mod entries;
pub(crate) mod failover;
pub(crate) mod floor;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod opponents;
pub(crate) mod overload;
pub(crate) mod reads;
pub(crate) mod recovery;
pub(crate) mod servers;
pub(crate) mod snapshot;
pub(crate) mod wal;
