//! The etcd v3 face of a node: gRPC requests in, commands and reads of the library out.

mod cluster;
mod error;
mod kv;
mod maintenance;
mod pages;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(crate) use pages::pages;
use quorate::{Raft, RaftMetrics};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Code, Status};

use crate::mvcc::Store;
use crate::proto::{
    AuthNotServed, ClusterServer, KvServer, LeaseNotServed, MaintenanceServer, ResponseHeader, WatchNotServed,
};

/// The version that clients are told: the etcd API that is served, then our own.
const VERSION: &str = concat!("3.5.0+quorate.", env!("CARGO_PKG_VERSION"));

/// Answers the etcd v3 API for one node.
#[derive(Clone, Debug)]
pub struct Face {
    raft: Raft<Store>,
    metrics: watch::Receiver<RaftMetrics>,
}

impl Face {
    /// The face of a node.
    pub fn new(raft: Raft<Store>) -> Self {
        Face { metrics: raft.metrics(), raft }
    }

    /// The services and the pages, to be served by a gRPC server that takes HTTP/1.1, too.
    pub fn front(self) -> Front {
        let pages = pages(self.raft.clone());
        let face = Arc::new(self);
        let kv = KvServer::new(Arc::clone(&face));
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(ClusterServer::new(Arc::clone(&face)))
            .add_service(MaintenanceServer::new(face))
            .add_service(WatchNotServed)
            .add_service(LeaseNotServed)
            .add_service(AuthNotServed);
        Front { kv, rest: Routes::from(routes.routes().into_axum_router().merge(pages)).prepare() }
    }

    /// Who answers, as of `revision`.
    fn header(&self, revision: i64) -> ResponseHeader {
        let metrics = self.metrics.borrow();
        ResponseHeader {
            cluster_id: self.raft.cluster_id().0 as u64, // etcd's has 64 bits
            member_id: metrics.id.0,
            revision,
            raft_term: metrics.vote.leader_id.term,
        }
    }

    /// Completes a header that the store gave its revision.
    fn complete(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        Some(self.header(header.map_or(0, |header| header.revision)))
    }

    /// etcd's clients may ask for an answer only from a node that has a leader.
    fn check_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let asked = metadata.get("hasleader").is_some_and(|value| value == "true");
        if asked && self.metrics.borrow().current_leader.is_none() {
            return Err(Status::new(Code::Unavailable, error::NO_LEADER));
        }
        Ok(())
    }
}

/// All that a node serves to clients.
#[derive(Clone, Debug)]
pub struct Front {
    /// Not by the router, which costs a call more than what it does for it.
    kv: KvServer<Face>,
    rest: Routes,
}

impl Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The services always are, and so is a router.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path().starts_with("/etcdserverpb.KV/") {
            true => self.kv.call(request),
            false => Box::pin(self.rest.call(request)),
        }
    }
}
