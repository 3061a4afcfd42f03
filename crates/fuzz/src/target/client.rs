//! What clients ask: protobuf requests of the etcd face, one after the other, on one store.

use bytes::Bytes;
use prost::Message;
use quorate::{RaftStateMachine, Raw};
use quorate_server::mvcc::{
    Command, KvError, MAX_REQUEST_BYTES, Store, check_delete_range, check_put, check_range, check_txn, decode_response,
    is_read_only,
};
use quorate_server::proto::{
    AlarmRequest, CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    MemberListRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, StatusRequest, TargetUnion,
    TxnRequest, TxnResponse, request_op,
};

use crate::outcome::Outcome;

/// Most requests of an input.
const MAX_REQUESTS: usize = 8;

/// Requests, each with a byte that says of what kind and its length (two bytes).
pub fn client(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut store = store();
    let (mut rest, mut all) = (bytes, true);
    for _ in 0..MAX_REQUESTS {
        let Some(([kind, low, high], after)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (body, after) = after.split_at(length);
        all &= request(&mut store, *kind, Bytes::copy_from_slice(body), &mut outcome).is_some();
        rest = after;
    }
    if all && !bytes.is_empty() {
        outcome.accept();
    }
    check_store(&store);
    outcome
}

fn store() -> Store {
    let mut store = Store::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("b", "4")] {
        let put = PutRequest { key: text(key), value: text(value), ..Default::default() };
        let _: Raw = store.apply(Command::Put(put).encode());
    }
    store
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Serves one request as the face does; nothing if it is refused.
fn request(store: &mut Store, kind: u8, body: Bytes, outcome: &mut Outcome) -> Option<()> {
    outcome.way(["range", "put", "delete", "txn", "compact", "members", "alarm", "status"][usize::from(kind % 8)]);
    match kind % 8 {
        0 => {
            let request: RangeRequest = decode(body, outcome)?;
            outcome.took(check_range(&request))?;
            let response = outcome.took(store.range(&request))?;
            check_read(&request, &response);
        }
        1 => {
            let request: PutRequest = decode(body, outcome)?;
            outcome.took(check_put(&request))?;
            write::<PutResponse>(store, Command::Put(request), outcome)?;
        }
        2 => {
            let request: DeleteRangeRequest = decode(body, outcome)?;
            outcome.took(check_delete_range(&request))?;
            write::<DeleteRangeResponse>(store, Command::DeleteRange(request), outcome)?;
        }
        3 => {
            let request: TxnRequest = decode(body, outcome)?;
            outcome.took(check_txn(&request))?;
            if is_read_only(&request) {
                outcome.took(store.read_txn(&request))?;
            } else {
                write::<TxnResponse>(store, Command::Txn(request), outcome)?;
            }
        }
        4 => {
            let request: CompactionRequest = decode(body, outcome)?;
            write::<CompactionResponse>(store, Command::Compaction(request), outcome)?;
        }
        5 => drop(decode::<MemberListRequest>(body, outcome)?),
        6 => drop(decode::<AlarmRequest>(body, outcome)?),
        _ => drop(decode::<StatusRequest>(body, outcome)?),
    }
    Some(())
}

/// Reads a message, writes it, and reads that: the same.
fn decode<M: Message + Default + PartialEq + std::fmt::Debug>(body: Bytes, outcome: &mut Outcome) -> Option<M> {
    let message = outcome.took(M::decode(body))?;
    let again = M::decode(message.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&message), "a request reads the same once it is written again");
    Some(message)
}

/// Applies a command. What was accepted must be applicable, or every node of the cluster would stop at it.
fn write<M: Message + Default + PartialEq>(store: &mut Store, command: Command, outcome: &mut Outcome) -> Option<()> {
    let raw = command.encode();
    if raw.0.len() > MAX_REQUEST_BYTES {
        outcome.refused(KvError::RequestTooLarge);
        return None;
    }
    let mut other = store.clone();
    let response = store.apply(raw.clone());
    assert_eq!(other.apply(raw), response, "two nodes answer alike");
    assert_eq!(&other, store, "two nodes have the same state");
    let response = decode_response::<M>(response).expect("a response is read by the node that was asked");
    outcome.took(response).map(|_| ())
}

fn check_read(request: &RangeRequest, response: &RangeResponse) {
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    assert!(limit.is_none_or(|limit| response.kvs.len() <= limit), "no more keys than asked for");
    assert!(response.kvs.len() as i64 <= response.count, "no more keys than there are");
    let encoded = response.encode_to_vec();
    assert_eq!(RangeResponse::decode(encoded.as_slice()).as_ref(), Ok(response), "a response is read as it was");
}

/// A snapshot of the store restores it.
fn check_store(store: &Store) {
    let mut bytes = Vec::new();
    store.snapshot(&mut bytes).expect("a vector takes all");
    let restored = Store::restore(&mut bytes.as_slice()).expect("a snapshot is restored");
    assert_eq!(&restored, store, "a snapshot is the store");
}

fn tag(kind: u8, message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut out = vec![kind];
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub(super) fn corpus() -> Vec<Vec<u8>> {
    let range = RangeRequest { key: text("a"), range_end: text("c"), limit: 1, ..Default::default() };
    let sorted = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        sort_order: 2,
        sort_target: 3,
        min_mod_revision: 1,
        max_create_revision: 9,
        ..Default::default()
    };
    let old = RangeRequest { key: text("b"), revision: 3, keys_only: true, ..Default::default() };
    let put = PutRequest { key: text("b"), value: text("9"), prev_kv: true, ..Default::default() };
    let kept = PutRequest { key: text("c"), ignore_value: true, ignore_lease: true, ..Default::default() };
    let delete = DeleteRangeRequest { key: text("a"), range_end: text("b"), prev_kv: true };
    let compare = Compare {
        result: 1,
        target: 2,
        key: text("b"),
        target_union: Some(TargetUnion::ModRevision(2)),
        range_end: text("d"),
    };
    let value = Compare { target: 3, target_union: Some(TargetUnion::Value(text("1"))), ..compare.clone() };
    let read = op(request_op::Request::Range(sorted.clone()));
    let inner = TxnRequest { compare: vec![value], success: vec![read.clone()], failure: vec![read.clone()] };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![op(request_op::Request::Put(put.clone())), op(request_op::Request::Txn(inner.clone()))],
        failure: vec![op(request_op::Request::DeleteRange(delete.clone())), read],
    };
    let mut corpus = vec![
        tag(0, &range),
        tag(0, &sorted),
        tag(0, &old),
        tag(1, &put),
        tag(1, &kept),
        tag(2, &delete),
        tag(3, &txn),
        tag(3, &inner),
        tag(4, &CompactionRequest { revision: 3, physical: true }),
        tag(5, &MemberListRequest { linearizable: true }),
        tag(6, &AlarmRequest::default()),
        tag(7, &StatusRequest::default()),
    ];
    // Transactions within transactions, around the depth at which protobuf readers stop.
    corpus.extend([1, 8, 24, 30, 31, 32, 33, 47, 48, 49, 50, 51].map(|depth| tag(3, &nested(depth, &put))));
    let all: Vec<u8> = corpus.iter().take(9).flatten().copied().collect();
    corpus.push(all);
    corpus
}

fn nested(depth: usize, put: &PutRequest) -> TxnRequest {
    let mut txn = TxnRequest { success: vec![op(request_op::Request::Put(put.clone()))], ..Default::default() };
    for _ in 0..depth {
        txn = TxnRequest { success: vec![op(request_op::Request::Txn(txn))], ..Default::default() };
    }
    txn
}

/// Requests have no checksums.
pub(super) fn repair(_bytes: &mut [u8]) {}
