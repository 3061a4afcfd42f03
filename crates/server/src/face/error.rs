//! The library's errors as etcd's.

use quorate::{ClientWriteError, ReadError};
use tonic::{Code, Status};

use crate::mvcc::KvError;

pub(super) const NO_LEADER: &str = "etcdserver: no leader";
const TIMED_OUT: &str = "etcdserver: request timed out";
const STOPPED: &str = "etcdserver: server stopped";
const TOO_MANY: &str = "etcdserver: too many requests";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// What a client is told of a write that was not acknowledged. etcd has one text for all that may yet be applied.
pub(super) fn of_write(error: ClientWriteError) -> Status {
    match error {
        ClientWriteError::Overloaded => Status::new(Code::ResourceExhausted, TOO_MANY),
        ClientWriteError::StorageFull => Status::new(Code::ResourceExhausted, NO_SPACE),
        ClientWriteError::TooLarge { .. } => KvError::RequestTooLarge.into(),
        ClientWriteError::NoLeader { leader: None } | ClientWriteError::NoCluster { .. } => {
            Status::new(Code::Unavailable, NO_LEADER)
        }
        ClientWriteError::NoLeader { leader: Some(_) } | ClientWriteError::OutcomeUnknown => {
            Status::new(Code::Unavailable, TIMED_OUT)
        }
        ClientWriteError::Closed(reason) => {
            tracing::warn!("write refused: this node is closed because {reason}");
            Status::new(Code::Unavailable, STOPPED)
        }
        other => Status::new(Code::Internal, format!("quorate: {other}")),
    }
}

/// What a client is told of a read that was not served.
pub(super) fn of_read(error: ReadError) -> Status {
    match error {
        ReadError::NoLeader { leader: None } | ReadError::NoCluster { .. } => Status::new(Code::Unavailable, NO_LEADER),
        ReadError::NoLeader { leader: Some(_) } | ReadError::NotCaughtUp { .. } => {
            Status::new(Code::Unavailable, TIMED_OUT)
        }
        ReadError::Closed(reason) => {
            tracing::warn!("read refused: this node is closed because {reason}");
            Status::new(Code::Unavailable, STOPPED)
        }
        other => Status::new(Code::Internal, format!("quorate: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use quorate::{ClosedReason, NodeId, PayloadError};

    use super::*;

    #[test]
    fn writes_fail_in_the_words_of_etcd() {
        let cases = [
            (ClientWriteError::Overloaded, Code::ResourceExhausted, "etcdserver: too many requests"),
            (ClientWriteError::StorageFull, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (
                ClientWriteError::TooLarge { bytes: 9, limit: 8 },
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (ClientWriteError::NoLeader { leader: None }, Code::Unavailable, "etcdserver: no leader"),
            (ClientWriteError::NoCluster { waits: "x".into() }, Code::Unavailable, "etcdserver: no leader"),
            (
                ClientWriteError::NoLeader { leader: Some(NodeId(1)) },
                Code::Unavailable,
                "etcdserver: request timed out",
            ),
            (ClientWriteError::OutcomeUnknown, Code::Unavailable, "etcdserver: request timed out"),
            (ClientWriteError::Closed(ClosedReason::Shutdown), Code::Unavailable, "etcdserver: server stopped"),
        ];
        for (error, code, text) in cases {
            let status = of_write(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
        let status = of_write(ClientWriteError::Encode(PayloadError("x".into())));
        assert_eq!(status.code(), Code::Internal);
    }

    #[test]
    fn reads_fail_in_the_words_of_etcd() {
        let none = of_read(ReadError::NoLeader { leader: None });
        assert_eq!((none.code(), none.message()), (Code::Unavailable, "etcdserver: no leader"));
        let blank = of_read(ReadError::NoCluster { waits: "x".into() });
        assert_eq!((blank.code(), blank.message()), (Code::Unavailable, "etcdserver: no leader"));
        let late = of_read(ReadError::NotCaughtUp { read_at: quorate::LogId::ZERO });
        assert_eq!((late.code(), late.message()), (Code::Unavailable, "etcdserver: request timed out"));
        assert_eq!(of_read(ReadError::LeaseDisabled).code(), Code::Internal);
    }
}
