//! The service `etcdserverpb.Cluster`.

use quorate::ReadPolicy;
use tonic::{Request, Response, Status};

use super::{Face, error};
use crate::proto::{Cluster, Member, MemberListRequest, MemberListResponse};

impl Cluster for Face {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.check_leader(request.metadata())?;
        let policy = if request.into_inner().linearizable { ReadPolicy::ReadIndex } else { ReadPolicy::Stale };
        let known = self.raft.read(policy, |store| store.members().clone()).await.map_err(error::of_read)?;
        let membership = self.metrics.borrow().membership.clone();
        let members = membership.nodes.iter().map(|(id, node)| {
            let told = known.get(&id.0);
            Member {
                id: id.0,
                name: told.map(|told| told.name.clone()).unwrap_or_default(),
                peer_urls: vec![format!("http://{}", node.address)],
                client_urls: told.map(|told| told.client_urls.clone()).unwrap_or_default(),
                is_learner: !membership.is_voter(*id),
            }
        });
        let members = members.collect();
        Ok(Response::new(MemberListResponse { header: Some(self.header(0)), members }))
    }
}
