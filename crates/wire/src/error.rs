//! Why bytes from a peer or a file cannot be accepted.

use std::fmt;

use quorate_core::LogId;

use crate::EntryError;

/// Bytes that cannot be accepted. `what` names the thing that was being read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end too early, or a length in them is more than what follows.
    Short {
        /// What was being read.
        what: &'static str,
        /// Where in it, in bytes.
        at: usize,
        /// How many bytes were wanted from there.
        wanted: u64,
    },
    /// Bytes are left over.
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many bytes are left.
        left: u64,
    },
    /// The message is of a kind that this version does not know. A transport drops it with a note.
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
    /// The writer marked features as required that this version does not know. A transport drops the message
    /// with a note.
    UnknownFeatures {
        /// What was being read.
        what: &'static str,
        /// The unknown bits of the `required` field.
        bits: u16,
    },
    /// A field has a value that it cannot have.
    Value {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// The items of a list stand in another order than the format says, or one stands twice.
    Order {
        /// The list.
        what: &'static str,
    },
    /// A text is not UTF-8.
    Text {
        /// What was being read.
        what: &'static str,
        /// Where in it, in bytes.
        at: usize,
    },
    /// Longer than its limit.
    TooLong {
        /// What was being read.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A quorum rule is nested deeper than [`MAX_QUORUM_DEPTH`](quorate_core::MAX_QUORUM_DEPTH).
    TooDeep,
    /// An entry body is bad.
    Entry(EntryError),
    /// Entries do not follow what stands before them.
    Gap {
        /// What stands before.
        prev: LogId,
        /// The entry that does not follow it.
        next: LogId,
    },
}

impl WireError {
    /// Whether the bytes may be right for a newer version: the message is to be dropped with a note, the
    /// connection stays.
    pub fn is_from_newer_version(&self) -> bool {
        matches!(self, WireError::UnknownKind { .. } | WireError::UnknownFeatures { .. })
    }
}

impl WireError {
    /// Always false: the same bytes are refused again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// Always false: reading changes nothing.
    pub fn outcome_is_unknown(&self) -> bool {
        false
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Short { what, at, wanted } => {
                write!(f, "{what}: {wanted} bytes wanted at offset {at}, fewer are there")
            }
            WireError::Trailing { what, left } => write!(f, "{what}: {left} bytes left over after its end"),
            WireError::UnknownKind { kind } => {
                write!(f, "message of unknown kind {kind}: the peer speaks a newer version, upgrade this node")
            }
            WireError::UnknownFeatures { what, bits } => write!(
                f,
                "{what}: requires unknown features {bits:#06x}: written by a newer version, upgrade this node"
            ),
            WireError::Value { field, value } => write!(f, "{field}: {value} is not a possible value"),
            WireError::Order { what } => write!(f, "{what}: not in ascending order without repetition"),
            WireError::Text { what, at } => write!(f, "{what}: the text at offset {at} is not UTF-8"),
            WireError::TooLong { what, length, limit } => {
                write!(f, "{what}: {length} bytes long, at most {limit} are allowed")
            }
            WireError::TooDeep => {
                write!(f, "quorum rule: nested deeper than {} levels", quorate_core::MAX_QUORUM_DEPTH)
            }
            WireError::Entry(error) => fmt::Display::fmt(error, f),
            WireError::Gap { prev, next } => write!(f, "append: entry {next} does not follow {prev}"),
        }
    }
}

impl std::error::Error for WireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WireError::Entry(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EntryError> for WireError {
    fn from(error: EntryError) -> Self {
        WireError::Entry(error)
    }
}
