//! Field numbers, as etcd's `rpc.proto` and `kv.proto` have them.

use bytes::Bytes;
use prost::Message;

use super::*;

/// The field numbers and wire types in an encoded message, in order: 0 is a number, 2 is length and bytes.
fn fields(message: &impl Message) -> Vec<(u64, u64)> {
    let bytes = message.encode_to_vec();
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = prost::encoding::decode_varint(&mut rest).unwrap();
        let value = prost::encoding::decode_varint(&mut rest).unwrap();
        if key & 7 == 2 {
            rest = &rest[value as usize..];
        }
        found.push((key >> 3, key & 7));
    }
    found
}

/// Numbers with their wire types, written as in a proto file.
fn numbered(numbers: &[u64], strings: &[u64]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = numbers.iter().map(|field| (*field, 0)).collect();
    all.extend(strings.iter().map(|field| (*field, 2)));
    all.sort_unstable();
    all
}

fn x() -> Bytes {
    Bytes::from_static(b"x")
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 })
}

fn key_value() -> KeyValue {
    KeyValue { key: x(), create_revision: 1, mod_revision: 1, version: 1, value: x(), lease: 1 }
}

#[test]
fn keys_and_headers() {
    assert_eq!(fields(&key_value()), numbered(&[2, 3, 4, 6], &[1, 5]));
    assert_eq!(fields(&header().unwrap()), numbered(&[1, 2, 3, 4], &[]));
}

#[test]
fn ranges() {
    let request = RangeRequest {
        key: x(),
        range_end: x(),
        limit: 1,
        revision: 1,
        sort_order: SortOrder::Descend as i32,
        sort_target: SortTarget::Value as i32,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 1,
        min_create_revision: 1,
        max_create_revision: 1,
    };
    assert_eq!(fields(&request), numbered(&[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], &[1, 2]));
    let response = RangeResponse { header: header(), kvs: vec![key_value()], more: true, count: 1 };
    assert_eq!(fields(&response), numbered(&[3, 4], &[1, 2]));
    assert_eq!([SortOrder::None as i32, SortOrder::Ascend as i32, SortOrder::Descend as i32], [0, 1, 2]);
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    assert_eq!(targets.map(|target| target as i32), [0, 1, 2, 3, 4]);
}

#[test]
fn writes() {
    let request = PutRequest { key: x(), value: x(), lease: 1, prev_kv: true, ignore_value: true, ignore_lease: true };
    assert_eq!(fields(&request), numbered(&[3, 4, 5, 6], &[1, 2]));
    assert_eq!(fields(&PutResponse { header: header(), prev_kv: Some(key_value()) }), numbered(&[], &[1, 2]));
    let request = DeleteRangeRequest { key: x(), range_end: x(), prev_kv: true };
    assert_eq!(fields(&request), numbered(&[3], &[1, 2]));
    let response = DeleteRangeResponse { header: header(), deleted: 1, prev_kvs: vec![key_value()] };
    assert_eq!(fields(&response), numbered(&[2], &[1, 3]));
    assert_eq!(fields(&CompactionRequest { revision: 1, physical: true }), numbered(&[1, 2], &[]));
    assert_eq!(fields(&CompactionResponse { header: header() }), numbered(&[], &[1]));
}

#[test]
fn transactions() {
    let compare = |target_union| Compare {
        result: CompareResult::NotEqual as i32,
        target: CompareTarget::Lease as i32,
        key: x(),
        target_union: Some(target_union),
        range_end: x(),
    };
    for (union, field) in [
        (TargetUnion::Version(1), 4),
        (TargetUnion::CreateRevision(1), 5),
        (TargetUnion::ModRevision(1), 6),
        (TargetUnion::Lease(1), 8),
    ] {
        assert_eq!(fields(&compare(union)), numbered(&[1, 2, field], &[3, 64]));
    }
    assert_eq!(fields(&compare(TargetUnion::Value(x()))), numbered(&[1, 2], &[3, 7, 64]));
    let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
    assert_eq!(results.map(|result| result as i32), [0, 1, 2, 3]);
    let targets =
        [CompareTarget::Version, CompareTarget::Create, CompareTarget::Mod, CompareTarget::Value, CompareTarget::Lease];
    assert_eq!(targets.map(|target| target as i32), [0, 1, 2, 3, 4]);

    let request = |request| RequestOp { request: Some(request) };
    assert_eq!(fields(&request(request_op::Request::Range(RangeRequest::default()))), [(1, 2)]);
    assert_eq!(fields(&request(request_op::Request::Put(PutRequest::default()))), [(2, 2)]);
    assert_eq!(fields(&request(request_op::Request::DeleteRange(DeleteRangeRequest::default()))), [(3, 2)]);
    assert_eq!(fields(&request(request_op::Request::Txn(TxnRequest::default()))), [(4, 2)]);
    let response = |response| ResponseOp { response: Some(response) };
    assert_eq!(fields(&response(response_op::Response::Range(RangeResponse::default()))), [(1, 2)]);
    assert_eq!(fields(&response(response_op::Response::Put(PutResponse::default()))), [(2, 2)]);
    assert_eq!(fields(&response(response_op::Response::DeleteRange(DeleteRangeResponse::default()))), [(3, 2)]);
    assert_eq!(fields(&response(response_op::Response::Txn(TxnResponse::default()))), [(4, 2)]);

    let op = RequestOp::default();
    let txn = TxnRequest { compare: vec![Compare::default()], success: vec![op.clone()], failure: vec![op] };
    assert_eq!(fields(&txn), numbered(&[], &[1, 2, 3]));
    let response = TxnResponse { header: header(), succeeded: true, responses: vec![ResponseOp::default()] };
    assert_eq!(fields(&response), numbered(&[2], &[1, 3]));
}

#[test]
fn members_and_maintenance() {
    let member = Member {
        id: 1,
        name: "x".into(),
        peer_urls: vec!["x".into()],
        client_urls: vec!["x".into()],
        is_learner: true,
    };
    assert_eq!(fields(&member), numbered(&[1, 5], &[2, 3, 4]));
    assert_eq!(fields(&MemberListRequest { linearizable: true }), numbered(&[1], &[]));
    assert_eq!(fields(&MemberListResponse { header: header(), members: vec![member] }), numbered(&[], &[1, 2]));
    let status = StatusResponse {
        header: header(),
        version: "x".into(),
        db_size: 1,
        leader: 1,
        raft_index: 1,
        raft_term: 1,
        raft_applied_index: 1,
        errors: vec!["x".into()],
        db_size_in_use: 1,
        is_learner: true,
    };
    assert_eq!(fields(&status), numbered(&[3, 4, 5, 6, 7, 9, 10], &[1, 2, 8]));
    assert_eq!(fields(&AlarmRequest { action: 1, member_id: 1, alarm: 1 }), numbered(&[1, 2, 3], &[]));
    let alarm = AlarmMember { member_id: 1, alarm: 1 };
    assert_eq!(fields(&alarm), numbered(&[1, 2], &[]));
    assert_eq!(fields(&AlarmResponse { header: header(), alarms: vec![alarm] }), numbered(&[], &[1, 2]));
}
