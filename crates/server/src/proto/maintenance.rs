//! Messages of the service `etcdserverpb.Maintenance`.

use super::kv::ResponseHeader;

/// Asks a node how it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct StatusRequest {}

/// How a node is.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct StatusResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The version of the API that it serves, with its own after a plus.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Bytes of keys and values, history included.
    #[prost(int64, tag = "3")]
    pub db_size: i64,
    /// The node that it follows or is; 0 is none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    /// The last log index that it knows to be committed.
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    /// Its term.
    #[prost(uint64, tag = "6")]
    pub raft_term: u64,
    /// The last log index that it has applied.
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
    /// What is wrong, if something is.
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    /// Bytes of keys and values as of now.
    #[prost(int64, tag = "9")]
    pub db_size_in_use: i64,
    /// Whether it has no vote.
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
}

/// What an [`AlarmRequest`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AlarmAction {
    /// List the alarms.
    Get = 0,
    /// Raise one.
    Activate = 1,
    /// Clear one.
    Deactivate = 2,
}

/// Lists, raises or clears alarms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct AlarmRequest {
    /// See [`AlarmAction`].
    #[prost(enumeration = "AlarmAction", tag = "1")]
    pub action: i32,
    /// The member concerned; 0 is all.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The kind of alarm; 0 is all.
    #[prost(int32, tag = "3")]
    pub alarm: i32,
}

/// An alarm of a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct AlarmMember {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// The kind: 1 is no space, 2 corruption.
    #[prost(int32, tag = "2")]
    pub alarm: i32,
}

/// The alarms.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AlarmResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Those that stand.
    #[prost(message, repeated, tag = "2")]
    pub alarms: Vec<AlarmMember>,
}
