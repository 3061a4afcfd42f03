//! Transactions of the service `etcdserverpb.KV`.

use bytes::Bytes;

use super::kv::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};

/// How a field must stand to the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CompareResult {
    /// Equal.
    Equal = 0,
    /// Greater than the value.
    Greater = 1,
    /// Less than the value.
    Less = 2,
    /// Not equal.
    NotEqual = 3,
}

/// Which field of a key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CompareTarget {
    /// The number of puts since the key was created.
    Version = 0,
    /// The creating revision.
    Create = 1,
    /// The last revision.
    Mod = 2,
    /// The value.
    Value = 3,
    /// The lease.
    Lease = 4,
}

/// The value to compare with.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum TargetUnion {
    /// For [`CompareTarget::Version`].
    #[prost(int64, tag = "4")]
    Version(i64),
    /// For [`CompareTarget::Create`].
    #[prost(int64, tag = "5")]
    CreateRevision(i64),
    /// For [`CompareTarget::Mod`].
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    /// For [`CompareTarget::Value`].
    #[prost(bytes = "bytes", tag = "7")]
    Value(Bytes),
    /// For [`CompareTarget::Lease`].
    #[prost(int64, tag = "8")]
    Lease(i64),
}

/// A condition on a key, or on every key of a range.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Compare {
    /// See [`CompareResult`].
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub result: i32,
    /// See [`CompareTarget`].
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub target: i32,
    /// The key, or the first key of the range.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// The value to compare with; absent is zero, or empty.
    #[prost(oneof = "TargetUnion", tags = "4, 5, 6, 7, 8")]
    pub target_union: Option<TargetUnion>,
    /// As in [`RangeRequest::range_end`].
    #[prost(bytes = "bytes", tag = "64")]
    pub range_end: Bytes,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RequestOp {
    /// What to do.
    #[prost(oneof = "request_op::Request", tags = "1, 2, 3, 4")]
    pub request: Option<request_op::Request>,
}

/// What a [`RequestOp`] does.
pub mod request_op {
    /// See the request of each name.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Request {
        /// Read.
        #[prost(message, tag = "1")]
        Range(super::RangeRequest),
        /// Put.
        #[prost(message, tag = "2")]
        Put(super::PutRequest),
        /// Delete.
        #[prost(message, tag = "3")]
        DeleteRange(super::DeleteRangeRequest),
        /// A transaction within.
        #[prost(message, tag = "4")]
        Txn(super::TxnRequest),
    }
}

/// The result of one operation of a transaction.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ResponseOp {
    /// The result.
    #[prost(oneof = "response_op::Response", tags = "1, 2, 3, 4")]
    pub response: Option<response_op::Response>,
}

/// What a [`ResponseOp`] holds.
pub mod response_op {
    /// See the response of each name.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Response {
        /// Of a read.
        #[prost(message, tag = "1")]
        Range(super::RangeResponse),
        /// Of a put.
        #[prost(message, tag = "2")]
        Put(super::PutResponse),
        /// Of a delete.
        #[prost(message, tag = "3")]
        DeleteRange(super::DeleteRangeResponse),
        /// Of a transaction within.
        #[prost(message, tag = "4")]
        Txn(super::TxnResponse),
    }
}

/// Conditions, and what to do when all hold or when one does not: as one step.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Done when all hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// Done otherwise.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// What a transaction did.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TxnResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether all conditions held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One result for each operation of the branch taken.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}
