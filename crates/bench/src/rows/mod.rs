//! One scenario a file.

pub(crate) mod failover;
pub(crate) mod floor;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod reads;
pub(crate) mod recovery;
pub(crate) mod servers;
pub(crate) mod wal;
