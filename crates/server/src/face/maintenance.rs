//! The service `etcdserverpb.Maintenance`.

use quorate::{RaftMetrics, ReadPolicy};
use tonic::{Request, Response, Status};

use super::{Face, VERSION, error};
use crate::proto::{AlarmAction, AlarmRequest, AlarmResponse, Maintenance, StatusRequest, StatusResponse};

impl Maintenance for Face {
    /// There are no alarms yet: a list is empty, and to clear one that is not raised does nothing, as in etcd.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        match AlarmAction::try_from(request.into_inner().action) {
            Ok(AlarmAction::Get | AlarmAction::Deactivate) => {
                Ok(Response::new(AlarmResponse { header: Some(self.header(0)), alarms: Vec::new() }))
            }
            Ok(AlarmAction::Activate) => Err(Status::unimplemented("quorate: alarms cannot be raised by hand")),
            Err(_) => Err(Status::invalid_argument("quorate: the alarm action is unknown")),
        }
    }

    /// Answers also when nothing else works: it needs neither a leader nor the state machine.
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let stored = self.raft.read(ReadPolicy::Stale, |store| (store.revision(), store.sizes())).await.ok();
        let (revision, sizes) = stored.unwrap_or_default();
        let header = self.header(revision);
        let metrics = self.metrics.borrow();
        Ok(Response::new(StatusResponse {
            header: Some(header),
            version: VERSION.to_owned(),
            db_size: i64::try_from(sizes.total).unwrap_or(i64::MAX),
            leader: metrics.current_leader.unwrap_or_default().0,
            raft_index: metrics.commit_index,
            raft_term: metrics.vote.leader_id.term,
            raft_applied_index: metrics.last_applied.index,
            errors: problems(&metrics),
            db_size_in_use: i64::try_from(sizes.live).unwrap_or(i64::MAX),
            is_learner: !metrics.membership.is_empty() && !metrics.membership.is_voter(metrics.id),
        }))
    }
}

/// What is wrong with this node, as far as it knows itself.
fn problems(metrics: &RaftMetrics) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(reason) = &metrics.closed {
        problems.push(format!("quorate: this node is closed because {reason}"));
    } else if metrics.membership.is_empty() {
        problems.push("quorate: no cluster yet: this node waits until all its first members are up".to_owned());
    }
    if metrics.current_leader.is_none() {
        problems.push(error::NO_LEADER.to_owned());
    }
    problems
}
