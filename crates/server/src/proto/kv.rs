//! Messages of the service `etcdserverpb.KV`, but for transactions; and `mvccpb.KeyValue`.

use bytes::Bytes;

/// A key with its value and its history in numbers.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct KeyValue {
    /// The key; never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The revision of the put that created the key (again).
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The revision of the last put.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// How many puts since the key was created; from 1.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease that the key is attached to; 0 is none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// Who answered, and as of when.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ResponseHeader {
    /// The cluster's id (its low 64 bits).
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// The node that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision when the request was served.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// The node's term.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// How results are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SortOrder {
    /// By key, ascending, unless the target is another field.
    None = 0,
    /// Least first.
    Ascend = 1,
    /// Greatest first.
    Descend = 2,
}

/// What results are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SortTarget {
    /// The key.
    Key = 0,
    /// The number of puts.
    Version = 1,
    /// The creating revision.
    Create = 2,
    /// The last revision.
    Mod = 3,
    /// The value.
    Value = 4,
}

/// Asks for the keys in a range.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RangeRequest {
    /// The key, or the first key of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The end of the range, exclusive. Empty: the key alone; one zero byte: every key from `key` on.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// At most so many keys; 0 is no limit.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// The revision to read; 0 or less is the current one.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// See [`SortOrder`].
    #[prost(enumeration = "SortOrder", tag = "5")]
    pub sort_order: i32,
    /// See [`SortTarget`].
    #[prost(enumeration = "SortTarget", tag = "6")]
    pub sort_target: i32,
    /// Answer from this node's state, which may be behind.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
    /// Leave the values out.
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    /// Only count.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
    /// Leave out keys last put before this revision.
    #[prost(int64, tag = "10")]
    pub min_mod_revision: i64,
    /// Leave out keys last put after this revision.
    #[prost(int64, tag = "11")]
    pub max_mod_revision: i64,
    /// Leave out keys created before this revision.
    #[prost(int64, tag = "12")]
    pub min_create_revision: i64,
    /// Leave out keys created after this revision.
    #[prost(int64, tag = "13")]
    pub max_create_revision: i64,
}

/// The keys of a range.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RangeResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The keys, in the order asked for.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut some off.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the range, whatever the limit and the filters.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// Sets a key.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its new value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease to attach it to; 0 is none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
    /// Return the key as it was before.
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// The key is set.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PutResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The key as it was before, if asked for and if it existed.
    #[prost(message, optional, tag = "2")]
    pub prev_kv: Option<KeyValue>,
}

/// Deletes the keys in a range.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DeleteRangeRequest {
    /// The key, or the first key of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// As in [`RangeRequest::range_end`].
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Return the keys as they were before.
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

/// The keys are gone.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DeleteRangeResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// How many there were.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
    /// What they were, if asked for.
    #[prost(message, repeated, tag = "3")]
    pub prev_kvs: Vec<KeyValue>,
}

/// Forgets history: every state before a revision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct CompactionRequest {
    /// The oldest revision that can still be read.
    #[prost(int64, tag = "1")]
    pub revision: i64,
    /// Wait until the memory is free; it always is.
    #[prost(bool, tag = "2")]
    pub physical: bool,
}

/// History is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct CompactionResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
