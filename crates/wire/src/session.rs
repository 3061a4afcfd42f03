//! The payloads of the entries that client sessions are made of (dissertation 6.3).
//!
//! The layout is in FORMAT.md, "Sessions".

use std::time::Duration;

use bytes::BufMut;

use crate::WireError;
use crate::codec::{Reader, put_block, put_duration, put_length};

/// Bytes of a session command before the command itself.
pub const SESSION_HEADER_BYTES: usize = 24;
/// Most serials that a session may have in flight.
pub const MAX_SESSION_SERIALS: u32 = 1024;
/// Most sessions that one entry keeps alive or closes.
pub const MAX_SESSION_IDS: usize = 1024;

/// What a session is opened with: all that decides about it later is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOpening {
    /// The session expires once the log's time has gone on by more than this since its last entry. Not zero.
    pub time_to_live: Duration,
    /// A serial this far above the low mark, or further, is refused. From 1 to [`MAX_SESSION_SERIALS`].
    pub max_in_flight: u32,
}

impl SessionOpening {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_block(out, |out| {
            put_duration(out, self.time_to_live);
            out.put_u32_le(self.max_in_flight);
        });
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If bytes are missing or left over, or a value is out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("opening of a session", bytes);
        let mut fields = reader.block("opening of a session")?;
        let (time_to_live, max_in_flight) = (fields.duration()?, fields.u32()?);
        reader.finish()?;
        if time_to_live.is_zero() {
            return Err(WireError::Value { field: "session.time_to_live", value: 0 });
        }
        if !(1..=MAX_SESSION_SERIALS).contains(&max_in_flight) {
            return Err(WireError::Value { field: "session.max_in_flight", value: max_in_flight.into() });
        }
        Ok(Self { time_to_live, max_in_flight })
    }
}

/// What stands before the command in a session command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionHeader {
    /// The index of the entry that opened the session.
    pub session: u64,
    /// The number of the command within its session, from 1: the same in every attempt to write it.
    pub serial: u64,
    /// The client has the answers of all serials below, and will not ask for them again.
    pub low: u64,
}

impl SessionHeader {
    /// Appends the encoding; the command follows it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.session);
        out.put_u64_le(self.serial);
        out.put_u64_le(self.low);
    }

    /// Decodes the front of a session command; the command is what follows the first [`SESSION_HEADER_BYTES`].
    ///
    /// # Errors
    /// If bytes are missing.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("session command", payload);
        Ok(Self { session: reader.u64()?, serial: reader.u64()?, low: reader.u64()? })
    }
}

/// Appends a list of sessions, ascending: to keep alive, or to close.
///
/// # Panics
/// If there are more than [`MAX_SESSION_IDS`].
pub fn encode_session_ids(ids: &[u64], out: &mut Vec<u8>) {
    assert!(ids.len() <= MAX_SESSION_IDS, "the caller limits lists of sessions to MAX_SESSION_IDS");
    put_block(out, |out| {
        put_length(out, ids.len());
        ids.iter().for_each(|id| out.put_u64_le(*id));
    });
}

/// Decodes what [`encode_session_ids`] wrote.
///
/// # Errors
/// If bytes are missing or left over, or the list is too long or not ascending.
pub fn decode_session_ids(bytes: &[u8]) -> Result<Vec<u64>, WireError> {
    let mut reader = Reader::new("list of sessions", bytes);
    let mut fields = reader.block("list of sessions")?;
    let count = fields.count(8)?;
    if count > MAX_SESSION_IDS {
        return Err(WireError::TooLong { what: "list of sessions", length: count * 8, limit: MAX_SESSION_IDS * 8 });
    }
    let mut ids: Vec<u64> = Vec::with_capacity(count);
    for _ in 0..count {
        let id = fields.u64()?;
        if ids.last().is_some_and(|last| *last >= id) {
            return Err(WireError::Order { what: "list of sessions" });
        }
        ids.push(id);
    }
    reader.finish()?;
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Vec<u8> {
        let mut bytes = Vec::new();
        SessionOpening { time_to_live: Duration::from_secs(60), max_in_flight: 64 }.encode(&mut bytes);
        bytes
    }

    fn ids(ids: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_session_ids(ids, &mut bytes);
        bytes
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let expected = SessionOpening { time_to_live: Duration::from_secs(60), max_in_flight: 64 };
        assert_eq!(SessionOpening::decode(&opening()), Ok(expected));
        for list in [&[][..], &[7], &[1, 2, u64::MAX]] {
            assert_eq!(decode_session_ids(&ids(list)).as_deref(), Ok(list));
        }
        let header = SessionHeader { session: 3, serial: 9, low: 7 };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes.len(), SESSION_HEADER_BYTES);
        bytes.extend_from_slice(b"the command");
        assert_eq!(SessionHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn cut_bytes_are_refused() {
        let whole = [opening(), ids(&[4, 5])];
        for bytes in &whole {
            for end in 0..bytes.len() {
                assert!(SessionOpening::decode(&bytes[..end]).is_err(), "cut at {end}");
                assert!(decode_session_ids(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        for end in 0..SESSION_HEADER_BYTES {
            assert!(SessionHeader::decode(&[1; SESSION_HEADER_BYTES][..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn values_that_no_client_may_write_are_refused() {
        let opening = |nanos: u64, serials: u32| {
            let mut bytes = vec![14, 0, 0, 0, 0, 0];
            bytes.extend(nanos.to_le_bytes());
            bytes.extend(serials.to_le_bytes());
            SessionOpening::decode(&bytes)
        };
        assert!(opening(1, 1).is_ok() && opening(u64::MAX, MAX_SESSION_SERIALS).is_ok());
        assert_eq!(opening(0, 1), Err(WireError::Value { field: "session.time_to_live", value: 0 }));
        for serials in [0, MAX_SESSION_SERIALS + 1, u32::MAX] {
            let value = u64::from(serials);
            assert_eq!(opening(1, serials), Err(WireError::Value { field: "session.max_in_flight", value }));
        }
        for disordered in [[5, 5], [6, 5]] {
            assert_eq!(decode_session_ids(&ids(&disordered)), Err(WireError::Order { what: "list of sessions" }));
        }
        let many: Vec<u64> = (0..=MAX_SESSION_IDS as u64).collect();
        let mut bytes = Vec::new();
        put_block(&mut bytes, |out| {
            put_length(out, many.len());
            many.iter().for_each(|id| out.put_u64_le(*id));
        });
        assert!(matches!(decode_session_ids(&bytes), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        let mut bytes = ids(&[1, 2]);
        bytes[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode_session_ids(&bytes), Err(WireError::Short { .. })));
    }
}
