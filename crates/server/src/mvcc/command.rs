//! The bytes of a command in the log, and of its response on the way back to the node that was asked.
//!
//! A command is one version byte, then a protobuf message that holds the client's request as it came. A response is
//! one byte, 0 for done and 1 for refused, then the protobuf response or the number of a [`KvError`].

use bytes::{BufMut, Bytes};
use prost::Message;
use quorate::{PayloadError, Raw};

use super::error::KvError;
use super::txn::is_long;
use crate::proto::{CompactionRequest, DeleteRangeRequest, PutRequest, TxnRequest};

const VERSION: u8 = 1;
/// What begins a put in the envelope: field 1, with a length.
const PUT: u8 = 1 << 3 | 2;
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// What a log entry asks of the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Set a key.
    Put(PutRequest),
    /// Delete the keys of a range.
    DeleteRange(DeleteRangeRequest),
    /// Conditions and operations as one step.
    Txn(TxnRequest),
    /// Forget history.
    Compaction(CompactionRequest),
    /// A member tells its name and where clients reach it.
    Member(MemberAttributes),
}

/// What a member tells of itself when it starts.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct MemberAttributes {
    /// Its node id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where clients reach it.
    #[prost(string, repeated, tag = "3")]
    pub client_urls: Vec<String>,
}

impl Command {
    /// The entry's bytes.
    pub fn encode(self) -> Raw {
        let envelope = Envelope { command: Some(self.into()) };
        let mut bytes = Vec::with_capacity(1 + envelope.encoded_len());
        bytes.put_u8(VERSION);
        envelope.encode_raw(&mut bytes);
        Raw(bytes.into())
    }

    /// Reads an entry's bytes.
    ///
    /// # Errors
    /// If a newer version wrote it, or it is no command at all.
    pub(super) fn decode(Raw(mut bytes): Raw) -> Result<Command, PayloadError> {
        let Some(&version) = bytes.first() else {
            return Err(PayloadError("the command is empty".into()));
        };
        if version != VERSION {
            return Err(PayloadError(format!(
                "the command has version {version}, this program knows version {VERSION}: start a newer one"
            )));
        }
        let _ = bytes.split_to(1);
        let envelope = Envelope::decode(bytes).map_err(|error| PayloadError(format!("the command: {error}")))?;
        let unknown = || PayloadError("the command is of a kind that this program does not know".into());
        Ok(envelope.command.ok_or_else(unknown)?.into())
    }
}

/// Whether applying an entry with these bytes may take by the store's size, not only by the command's.
pub(super) fn is_slow(bytes: &[u8]) -> bool {
    if let [VERSION, PUT, ..] = bytes {
        // Nearly all of them, so not decoded twice.
        return false;
    }
    match Command::decode(Raw(Bytes::copy_from_slice(bytes))) {
        Ok(Command::Put(_) | Command::Member(_)) => false,
        Ok(Command::DeleteRange(request)) => !request.range_end.is_empty(),
        Ok(Command::Txn(request)) => is_long(&request),
        Ok(Command::Compaction(_)) => true,
        // It is not applied at all.
        Err(_) => false,
    }
}

/// A response's bytes.
pub(super) fn encode_response<M: Message>(result: Result<M, KvError>) -> Raw {
    let mut bytes = Vec::new();
    match result {
        Ok(message) => {
            bytes.reserve_exact(1 + message.encoded_len());
            bytes.put_u8(DONE);
            message.encode_raw(&mut bytes);
        }
        Err(error) => bytes.extend_from_slice(&[REFUSED, error.number()]),
    }
    Raw(bytes.into())
}

/// Reads a response's bytes.
///
/// # Errors
/// The outer error if they are no response to such a command, or one of a newer version; the inner one if the
/// store refused.
pub fn decode_response<M: Message + Default>(Raw(mut bytes): Raw) -> Result<Result<M, KvError>, PayloadError> {
    let malformed = || PayloadError("the response is not one that this program knows".into());
    match bytes.first().copied() {
        Some(DONE) => {
            let body: Bytes = bytes.split_off(1);
            Ok(Ok(M::decode(body).map_err(|error| PayloadError(format!("the response: {error}")))?))
        }
        Some(REFUSED) if bytes.len() == 2 => Ok(Err(KvError::from_number(bytes[1]).ok_or_else(malformed)?)),
        Some(_) | None => Err(malformed()),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    command: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Put(PutRequest),
    #[prost(message, tag = "2")]
    DeleteRange(DeleteRangeRequest),
    #[prost(message, tag = "3")]
    Txn(TxnRequest),
    #[prost(message, tag = "4")]
    Compaction(CompactionRequest),
    #[prost(message, tag = "5")]
    Member(MemberAttributes),
}

impl From<Command> for Kind {
    fn from(command: Command) -> Self {
        match command {
            Command::Put(request) => Kind::Put(request),
            Command::DeleteRange(request) => Kind::DeleteRange(request),
            Command::Txn(request) => Kind::Txn(request),
            Command::Compaction(request) => Kind::Compaction(request),
            Command::Member(attributes) => Kind::Member(attributes),
        }
    }
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Put(request) => Command::Put(request),
            Kind::DeleteRange(request) => Command::DeleteRange(request),
            Kind::Txn(request) => Command::Txn(request),
            Kind::Compaction(request) => Command::Compaction(request),
            Kind::Member(attributes) => Command::Member(attributes),
        }
    }
}
