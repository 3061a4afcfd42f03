//! Messages of the service `etcdserverpb.Cluster`.

use super::kv::ResponseHeader;

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Member {
    /// Its node id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name; empty until it was started once.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where its peers reach it.
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it was started once.
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

/// Asks for the members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct MemberListRequest {
    /// Ask a quorum first, so that the answer is not of the past.
    #[prost(bool, tag = "1")]
    pub linearizable: bool,
}

/// The members.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct MemberListResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// By node id.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}
