//! Why a request is refused, in etcd's words.

use std::fmt;

use tonic::{Code, Status};

/// Why a request is refused: a property of the request and the store, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum KvError {
    /// The key is empty.
    EmptyKey = 1,
    /// A value or lease is to be kept, of a key that does not exist; or a transaction has an empty operation.
    KeyNotFound = 2,
    /// A value is given and also to be kept.
    ValueProvided = 3,
    /// A lease is given and also to be kept.
    LeaseProvided = 4,
    /// The lease does not exist.
    LeaseNotFound = 5,
    /// A transaction has more operations than are allowed.
    TooManyOps = 6,
    /// A transaction would write a key twice.
    DuplicateKey = 7,
    /// The order of a range is none of etcd's.
    InvalidSortOption = 8,
    /// The revision was compacted away.
    Compacted = 9,
    /// The revision does not exist yet.
    FutureRevision = 10,
    /// The request is larger than is allowed.
    RequestTooLarge = 11,
}

impl KvError {
    const ALL: [KvError; 11] = [
        KvError::EmptyKey,
        KvError::KeyNotFound,
        KvError::ValueProvided,
        KvError::LeaseProvided,
        KvError::LeaseNotFound,
        KvError::TooManyOps,
        KvError::DuplicateKey,
        KvError::InvalidSortOption,
        KvError::Compacted,
        KvError::FutureRevision,
        KvError::RequestTooLarge,
    ];

    /// The number that stands for it in a response that travels between nodes.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The error of a number; `None` if a newer version made it.
    pub(super) fn from_number(number: u8) -> Option<KvError> {
        KvError::ALL.into_iter().find(|error| error.number() == number)
    }

    /// etcd's status code.
    pub fn code(self) -> Code {
        match self {
            KvError::Compacted | KvError::FutureRevision => Code::OutOfRange,
            KvError::LeaseNotFound => Code::NotFound,
            KvError::EmptyKey
            | KvError::KeyNotFound
            | KvError::ValueProvided
            | KvError::LeaseProvided
            | KvError::TooManyOps
            | KvError::DuplicateKey
            | KvError::InvalidSortOption
            | KvError::RequestTooLarge => Code::InvalidArgument,
        }
    }

    /// etcd's text. Clients compare it, so it is part of the API.
    pub fn text(self) -> &'static str {
        match self {
            KvError::EmptyKey => "etcdserver: key is not provided",
            KvError::KeyNotFound => "etcdserver: key not found",
            KvError::ValueProvided => "etcdserver: value is provided",
            KvError::LeaseProvided => "etcdserver: lease is provided",
            KvError::LeaseNotFound => "etcdserver: requested lease not found",
            KvError::TooManyOps => "etcdserver: too many operations in txn request",
            KvError::DuplicateKey => "etcdserver: duplicate key given in txn request",
            KvError::InvalidSortOption => "etcdserver: invalid sort option",
            KvError::Compacted => "etcdserver: mvcc: required revision has been compacted",
            KvError::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            KvError::RequestTooLarge => "etcdserver: request is too large",
        }
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for KvError {}

impl From<KvError> for Status {
    fn from(error: KvError) -> Self {
        Status::new(error.code(), error.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_its_number() {
        for error in KvError::ALL {
            assert_eq!(KvError::from_number(error.number()), Some(error));
        }
        assert_eq!(KvError::from_number(0), None);
        assert_eq!(KvError::from_number(200), None);
    }
}
