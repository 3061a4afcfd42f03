//! The store against etcd's rules, one by one, and against a naive model under random requests.

mod model;
mod requests;
mod rules;
mod slow;
mod snapshots;
mod txns;

use bytes::Bytes;
use prost::Message;
use quorate::RaftStateMachine;

use super::{Command, KvError, Store, decode_response};
use crate::proto::request_op::Request;
use crate::proto::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};

/// Applies a command as the log would: through its bytes.
fn apply<M: Message + Default>(store: &mut Store, command: Command) -> Result<M, KvError> {
    let response = store.apply(command.encode());
    decode_response(response).expect("the store answers in its own format")
}

fn put(store: &mut Store, key: &str, value: &str) -> PutResponse {
    apply(store, Command::Put(put_request(key, value))).expect("a plain put is never refused")
}

fn delete(store: &mut Store, key: &str, range_end: &str) -> DeleteRangeResponse {
    apply(store, Command::DeleteRange(delete_request(key, range_end))).expect("a delete is never refused")
}

fn compact(store: &mut Store, revision: i64) -> Result<CompactionResponse, KvError> {
    apply(store, Command::Compaction(CompactionRequest { revision, physical: true }))
}

fn txn(store: &mut Store, request: TxnRequest) -> Result<TxnResponse, KvError> {
    apply(store, Command::Txn(request))
}

fn get(store: &Store, key: &str) -> Option<KeyValue> {
    store.range(&range_request(key, "")).expect("the current revision is readable").kvs.pop()
}

fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

fn range_request(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() }
}

fn delete_request(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    op(Request::Put(put_request(key, value)))
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    op(Request::DeleteRange(delete_request(key, range_end)))
}

fn range_op(key: &str, range_end: &str) -> RequestOp {
    op(Request::Range(range_request(key, range_end)))
}

fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::Txn(TxnRequest { compare: Vec::new(), success, failure }))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Keys of a response, as text.
fn keys(response: &RangeResponse) -> Vec<&str> {
    response.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).expect("test keys are text")).collect()
}

fn revision(header: &Option<crate::proto::ResponseHeader>) -> i64 {
    header.as_ref().expect("responses have a header").revision
}
