//! What the library knows of a state machine beside its state: how far it has applied, and what that made of sessions
//! and membership. FORMAT.md, "What a durable state machine keeps".

use std::io;

use quorate_core::{LogId, Membership, SnapshotMeta};
use quorate_wire::codec::{Reader, put_block};
use quorate_wire::{WireError, decode_snapshot_meta, encode_snapshot_meta};

use crate::session::{SessionLimits, SessionTable};

/// Starts every checkpoint: magic and version.
const MAGIC: &[u8; 8] = b"QRMkept\x01";

/// What follows from the entries applied so far, apart from the state machine's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Book {
    /// The last entry of which everything is taken in.
    pub(crate) applied: LogId,
    pub(crate) membership_log_id: LogId,
    pub(crate) membership: Membership,
    /// The greatest time stamped by leaders so far, in nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) sessions: SessionTable,
}

impl Book {
    /// Before the first entry.
    pub(crate) fn blank() -> Self {
        Self::at(SnapshotMeta::default(), 0, SessionTable::new(SessionLimits::V1))
    }

    /// Where a snapshot ends.
    pub(crate) fn at(meta: SnapshotMeta, time: u64, sessions: SessionTable) -> Self {
        let SnapshotMeta { last_log_id: applied, membership_log_id, membership } = meta;
        Self { applied, membership_log_id, membership, time, sessions }
    }

    /// What a snapshot taken now holds.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            membership_log_id: self.membership_log_id,
            membership: self.membership.clone(),
        }
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let mut bytes = MAGIC.to_vec();
        put_block(&mut bytes, |out| encode_snapshot_meta(&self.meta(), out));
        bytes.extend_from_slice(&self.time.to_le_bytes());
        self.sessions.encode(&mut bytes);
        Checkpoint(bytes)
    }

    pub(crate) fn of(checkpoint: &Checkpoint) -> io::Result<Self> {
        let read = || {
            let (meta, mut rest) = checkpoint.parse()?;
            let time = rest.u64()?;
            let sessions = SessionTable::decode(SessionLimits::V1, rest.take(rest.remaining())?)?;
            Ok(Self::at(meta, time, sessions))
        };
        read().map_err(invalid)
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what the state machine kept is no checkpoint: {error}"))
}

/// How far a durable state machine has applied the log, and what the library must know to go on from there: opaque bytes
/// that the machine keeps in the same transaction as its state. Some hundred bytes, and the table of sessions, if there
/// are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint(Vec<u8>);

impl Checkpoint {
    /// What was kept. Whether it is one is looked at when it is used.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// What to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last entry that is in the state.
    ///
    /// # Errors
    /// `InvalidData` if these are not the bytes of a checkpoint.
    pub fn log_id(&self) -> io::Result<LogId> {
        self.parse().map(|(meta, _)| meta.last_log_id).map_err(invalid)
    }

    fn parse(&self) -> Result<(SnapshotMeta, Reader<'_>), WireError> {
        let mut reader = Reader::new("checkpoint", &self.0);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(WireError::Value { field: "checkpoint.magic", value: 0 });
        }
        let mut block = reader.block("checkpoint.meta")?;
        let meta = decode_snapshot_meta(block.take(block.remaining())?)?;
        Ok((meta, reader))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_core::{Incarnation, LeaderId, Node, NodeId};
    use quorate_wire::SessionOpening;

    use super::*;
    use crate::session::LogPlace;

    fn book() -> Book {
        let mut book = Book::blank();
        book.applied = LogId::new(LeaderId::new(4, 2), 17);
        book.membership_log_id = LogId::new(LeaderId::new(1, 1), 1);
        book.membership = Membership::majority([(NodeId(1), Incarnation(5), Node::at("a:1"))]);
        book.time = 9;
        let opening = SessionOpening { time_to_live: Duration::from_secs(1), max_in_flight: 4 };
        book.sessions.open(LogPlace { index: 3, time: 5 }, opening);
        book
    }

    #[test]
    fn a_checkpoint_is_read_back() {
        for book in [Book::blank(), book()] {
            let checkpoint = Checkpoint::from_bytes(book.checkpoint().as_bytes());
            assert_eq!(checkpoint.log_id().unwrap(), book.applied);
            assert_eq!(Book::of(&checkpoint).unwrap(), book);
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let bytes = book().checkpoint().0;
        for end in 0..bytes.len() {
            let cut = Book::of(&Checkpoint::from_bytes(&bytes[..end]));
            assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::InvalidData, "cut at {end}");
        }
        let mut newer = bytes;
        newer[7] = 2;
        assert_eq!(Book::of(&Checkpoint(newer)).unwrap_err().kind(), io::ErrorKind::InvalidData, "another version");
    }
}
