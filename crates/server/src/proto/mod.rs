//! The etcd v3 API: messages with etcd's field numbers, and the three services that quorate serves.
//!
//! Written by hand against the public API, so that nothing needs `protoc`. Field numbers are the contract; names
//! are etcd's, in Rust's case.

mod cluster;
mod kv;
mod maintenance;
mod service;
#[cfg(test)]
mod tests;
mod txn;
mod unary;

pub use cluster::{Member, MemberListRequest, MemberListResponse};
pub use kv::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, SortOrder, SortTarget,
};
pub use maintenance::{AlarmAction, AlarmMember, AlarmRequest, AlarmResponse, StatusRequest, StatusResponse};
pub use service::{
    AuthNotServed, Cluster, ClusterClient, ClusterServer, Kv, KvClient, KvServer, LeaseNotServed, MAX_MESSAGE_BYTES,
    Maintenance, MaintenanceClient, MaintenanceServer, WatchNotServed,
};
pub use txn::{
    Compare, CompareResult, CompareTarget, RequestOp, ResponseOp, TargetUnion, TxnRequest, TxnResponse, request_op,
    response_op,
};
