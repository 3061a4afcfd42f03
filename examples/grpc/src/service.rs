//! The gRPC service `quorate.Peers` with its one call, as tonic's generator would write it from
//!
//! ```proto
//! service Peers { rpc Deliver(Envelope) returns (google.protobuf.Empty); }
//! ```

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tonic::body::Body as HttpBody;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// A command may have 64 MiB, and travels alone then.
const MAX_FRAME_BYTES: usize = 65 << 20;

/// What travels: a frame that is what was sent, or refused. Entries have checksums of their own, votes have not.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(fixed32, tag = "1")]
    checksum: u32,
    #[prost(bytes = "vec", tag = "2")]
    frame: Vec<u8>,
}

/// A message of one node to another, and who sends it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Frame {
    #[prost(uint64, tag = "1")]
    pub(crate) node: u64,
    /// 16 bytes, as `cluster`.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) incarnation: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(crate) boot: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) cluster: Vec<u8>,
    /// Where the sender is reached.
    #[prost(string, tag = "5")]
    pub(crate) address: String,
    #[prost(oneof = "Body", tags = "6, 7, 8")]
    pub(crate) body: Option<Body>,
    /// Of the sender's newest starts, the newest first; see `quorate::Starts`. Calls know no handshake, so each has them.
    #[prost(fixed64, repeated, tag = "9")]
    pub(crate) tokens: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Body {
    #[prost(bytes = "vec", tag = "6")]
    Packet(Vec<u8>),
    #[prost(bytes = "vec", tag = "7")]
    Call(Vec<u8>),
    #[prost(message, tag = "8")]
    Snapshot(SnapshotPart),
}

/// A part of a snapshot. Parts come in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotPart {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) header: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) meta: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) offset: u64,
    /// Bytes of all parts.
    #[prost(uint64, tag = "5")]
    pub(crate) total: u64,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) content: Vec<u8>,
}

/// Sends a frame.
pub(crate) async fn deliver(channel: &Channel, frame: Frame) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/quorate.Peers/Deliver");
    let codec = ProstCodec::<Envelope, ()>::default();
    let frame = frame.encode_to_vec();
    let envelope = Envelope { checksum: crc32c::crc32c(&frame), frame };
    client.unary(Request::new(envelope), path, codec).await.map(Response::into_inner)
}

type Take = Arc<dyn Fn(Frame) -> Result<(), Status> + Send + Sync>;

/// Hands every frame that arrives to a closure.
#[derive(Clone)]
pub(crate) struct PeersServer {
    take: Take,
}

impl PeersServer {
    pub(crate) fn new(take: impl Fn(Frame) -> Result<(), Status> + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take) }
    }
}

impl NamedService for PeersServer {
    const NAME: &'static str = "quorate.Peers";
}

struct Deliver(Take);

impl UnaryService<Envelope> for Deliver {
    type Response = ();
    type Future = Ready<Result<Response<()>, Status>>;

    fn call(&mut self, request: Request<Envelope>) -> Self::Future {
        let Envelope { checksum, frame } = request.into_inner();
        let whole = Some(frame).filter(|frame| crc32c::crc32c(frame) == checksum);
        let frame = whole.and_then(|frame| Frame::decode(&frame[..]).ok());
        let taken = frame.ok_or(Status::data_loss("a damaged frame")).and_then(|frame| (self.0)(frame));
        ready(taken.map(Response::new))
    }
}

impl Service<http::Request<HttpBody>> for PeersServer {
    type Response = http::Response<HttpBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<HttpBody>) -> Self::Future {
        let take = Arc::clone(&self.take);
        Box::pin(async move {
            if request.uri().path() != "/quorate.Peers/Deliver" {
                return Ok(Status::unimplemented("no such call").into_http());
            }
            let codec = ProstCodec::<(), Envelope>::default();
            let mut server = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_FRAME_BYTES);
            Ok(server.unary(Deliver(take), request).await)
        })
    }
}
