//! The gRPC services: for each a trait, a server that routes to it, and a client.
//!
//! All calls here are unary, so one macro writes what tonic's generator would. A method of these services that is
//! not listed is answered `UNIMPLEMENTED` with its name.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{IntoRequest, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::cluster::{MemberListRequest, MemberListResponse};
use super::kv::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse,
};
use super::maintenance::{AlarmRequest, AlarmResponse, StatusRequest, StatusResponse};
use super::txn::{TxnRequest, TxnResponse};
use super::unary::unary;

/// The longest request that is read at all, in bytes. Above the limit of a write, so that a write somewhat over it
/// gets etcd's answer and not a transport's.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// A closure as a unary call.
pub(super) struct Unary<F>(pub(super) F);

impl<F, Req, Resp, Fut> Service<Request<Req>> for Unary<F>
where
    F: FnMut(Request<Req>) -> Fut,
    Fut: Future<Output = Result<Response<Resp>, Status>> + Send + 'static,
{
    type Response = Response<Resp>;
    type Error = Status;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        Box::pin((self.0)(request))
    }
}

fn not_served(path: &str) -> http::Response<Body> {
    Status::unimplemented(format!("quorate: {path} is not served by this version")).into_http()
}

macro_rules! service {
    (
        $(#[$doc:meta])*
        $name:literal: trait $service:ident, server $server:ident, client $client:ident {
            $($(#[$method_doc:meta])* $method:ident = $rpc:literal ($request:ty) -> $response:ty;)*
        }
    ) => {
        $(#[$doc])*
        pub trait $service: Send + Sync + 'static {
            $(
                $(#[$method_doc])*
                fn $method(
                    &self,
                    request: Request<$request>,
                ) -> impl Future<Output = Result<Response<$response>, Status>> + Send;
            )*
        }

        #[doc = concat!("Routes calls of `", $name, "` to a [`", stringify!($service), "`].")]
        #[derive(Debug)]
        pub struct $server<T> {
            inner: Arc<T>,
        }

        impl<T> $server<T> {
            /// A server that answers with `inner`.
            pub fn new(inner: Arc<T>) -> Self {
                Self { inner }
            }
        }

        impl<T> Clone for $server<T> {
            fn clone(&self) -> Self {
                Self { inner: Arc::clone(&self.inner) }
            }
        }

        impl<T> NamedService for $server<T> {
            const NAME: &'static str = $name;
        }

        impl<T: $service> Service<http::Request<Body>> for $server<T> {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<Self::Response, Infallible>;

            fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                match request.uri().path() {
                    $(
                        concat!("/", $name, "/", $rpc) => {
                            let inner = Arc::clone(&self.inner);
                            let method = move |request: Request<$request>| async move { inner.$method(request).await };
                            Box::pin(async move { Ok(unary(request, method).await) })
                        }
                    )*
                    other => {
                        let response = not_served(other);
                        Box::pin(async move { Ok(response) })
                    }
                }
            }
        }

        #[doc = concat!("Calls `", $name, "`.")]
        #[derive(Clone, Debug)]
        pub struct $client {
            inner: tonic::client::Grpc<Channel>,
        }

        impl $client {
            /// A client over a connected (or lazily connecting) channel.
            pub fn new(channel: Channel) -> Self {
                Self { inner: tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX) }
            }

            $(
                $(#[$method_doc])*
                ///
                /// # Errors
                /// What the server answered, or why it was not reached.
                pub async fn $method(
                    &mut self,
                    request: impl IntoRequest<$request>,
                ) -> Result<Response<$response>, Status> {
                    self.inner
                        .ready()
                        .await
                        .map_err(|error| Status::unavailable(format!("endpoint is not reachable: {error}")))?;
                    let path = http::uri::PathAndQuery::from_static(concat!("/", $name, "/", $rpc));
                    self.inner.unary(request.into_request(), path, ProstCodec::default()).await
                }
            )*
        }
    };
}

macro_rules! not_served {
    ($($(#[$doc:meta])* $server:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $server;

            impl NamedService for $server {
                const NAME: &'static str = $name;
            }

            impl Service<http::Request<Body>> for $server {
                type Response = http::Response<Body>;
                type Error = Infallible;
                type Future = std::future::Ready<Result<Self::Response, Infallible>>;

                fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                    Poll::Ready(Ok(()))
                }

                fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                    std::future::ready(Ok(not_served(request.uri().path())))
                }
            }
        )*
    };
}

not_served! {
    /// Says of every call of the watch service that it is not served.
    WatchNotServed = "etcdserverpb.Watch";
    /// Says of every call of the lease service that it is not served.
    LeaseNotServed = "etcdserverpb.Lease";
    /// Says of every call of the auth service that it is not served.
    AuthNotServed = "etcdserverpb.Auth";
}

service! {
    /// Keys and values.
    "etcdserverpb.KV": trait Kv, server KvServer, client KvClient {
        /// Reads the keys of a range.
        range = "Range"(RangeRequest) -> RangeResponse;
        /// Sets a key.
        put = "Put"(PutRequest) -> PutResponse;
        /// Deletes the keys of a range.
        delete_range = "DeleteRange"(DeleteRangeRequest) -> DeleteRangeResponse;
        /// Conditions and operations as one step.
        txn = "Txn"(TxnRequest) -> TxnResponse;
        /// Forgets history before a revision.
        compact = "Compact"(CompactionRequest) -> CompactionResponse;
    }
}

service! {
    /// Who is in the cluster.
    "etcdserverpb.Cluster": trait Cluster, server ClusterServer, client ClusterClient {
        /// Lists the members.
        member_list = "MemberList"(MemberListRequest) -> MemberListResponse;
    }
}

service! {
    /// How a node is.
    "etcdserverpb.Maintenance": trait Maintenance, server MaintenanceServer, client MaintenanceClient {
        /// Lists alarms.
        alarm = "Alarm"(AlarmRequest) -> AlarmResponse;
        /// How this node is.
        status = "Status"(StatusRequest) -> StatusResponse;
    }
}
