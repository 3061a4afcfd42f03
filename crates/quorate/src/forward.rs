//! Writes that another node proposes: how they ended, on the way from who was asked to who asked.

use quorate_core::{LeaderId, LogId, NodeId};

use crate::call::Written;
use crate::group::Failure;
use crate::session::SessionOutcome;
use crate::{ClientWriteError, ClosedReason, Payload, PayloadError, blame};

/// Most bytes of a response that is handed on to another node: 64 MiB, which fits a frame of the default network.
pub(crate) const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Why an attempt to write ended.
pub(crate) enum Stop {
    Failed(Failure),
    /// The window is full: it never entered a log.
    NoRoom,
    /// For good.
    Error(ClientWriteError),
}

pub(crate) type Attempt<R> = Result<(LogId, R), Stop>;

/// What the forwarding node is told. `leader`: who leads, if it is known and another node.
pub(crate) fn written<R: Payload>(
    result: Result<(LogId, R), Failure>,
    leader: impl FnOnce() -> Option<NodeId>,
) -> Written {
    match result {
        Ok((log_id, response)) => {
            let mut encoded = Vec::new();
            match blame::catch(|| response.encode(&mut encoded)) {
                Ok(Ok(())) if encoded.len() <= MAX_RESPONSE_BYTES => {
                    Written::Applied { log_id, response: encoded.into() }
                }
                // It was applied all the same.
                Ok(Ok(()) | Err(_)) | Err(_) => Written::Session(SessionOutcome::Unreadable(log_id)),
            }
        }
        Err(Failure::NotLeader(leader)) => Written::NotLeader { leader },
        Err(Failure::OtherLeader { leader, .. }) => Written::OtherLeader { leader },
        Err(Failure::Replaced | Failure::Closed(ClosedReason::Shutdown)) => Written::NotLeader { leader: leader() },
        Err(Failure::Closed(_)) => Written::NotLeader { leader: None },
        Err(Failure::StorageFull) => Written::StorageFull,
        Err(Failure::Unknown) => Written::Unknown,
        Err(Failure::Session(outcome)) => Written::Session(outcome),
    }
}

/// What the forwarding node makes of it. `asked` was asked; `only`: for this leader.
pub(crate) fn told<R: Payload>(written: Written, asked: NodeId, only: Option<LeaderId>) -> Attempt<R> {
    match written {
        Written::Applied { log_id, response } => {
            let decoded = blame::catch(|| R::decode(response));
            match decoded.unwrap_or_else(|_| Err(PayloadError("decoding it panicked".into()))) {
                Ok(response) => Ok((log_id, response)),
                Err(error) => Err(Stop::Error(ClientWriteError::Response { log_id, error })),
            }
        }
        Written::NotLeader { leader } => Err(Stop::Failed(Failure::NotLeader(leader))),
        Written::OtherLeader { leader } => Err(Stop::Failed(match only {
            Some(wanted) => Failure::OtherLeader { wanted, leader },
            None => Failure::NotLeader(leader),
        })),
        Written::Busy => Err(Stop::Failed(Failure::NotLeader(Some(asked)))),
        Written::StorageFull => Err(Stop::Error(ClientWriteError::StorageFull)),
        Written::Malformed { text } => Err(Stop::Error(ClientWriteError::Encode(PayloadError(text)))),
        Written::Unknown => Err(Stop::Failed(Failure::Unknown)),
        Written::Session(outcome) => Err(Stop::Failed(Failure::Session(outcome))),
    }
}
