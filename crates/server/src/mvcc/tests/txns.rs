//! Transactions, one rule a test.

use super::*;
use crate::mvcc::{MAX_TXN_DEPTH, MAX_TXN_OPS, MAX_TXN_OPS_IN_ALL, check_txn, is_read_only};
use crate::proto::response_op::Response;
use crate::proto::{Compare, CompareResult, CompareTarget, TargetUnion};

fn compare(key: &str, result: CompareResult, target: CompareTarget, union: TargetUnion) -> Compare {
    Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

fn holds(store: &mut Store, compare: Compare) -> bool {
    txn(store, TxnRequest { compare: vec![compare], ..Default::default() }).unwrap().succeeded
}

fn ops(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

#[test]
fn every_field_can_be_compared_in_every_way() {
    let mut store = Store::new();
    put(&mut store, "a", "m");
    put(&mut store, "a", "m"); // created 2, changed 3, version 2
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let fields = [
        (CompareTarget::Version, 2, TargetUnion::Version as fn(i64) -> TargetUnion),
        (CompareTarget::Create, 2, TargetUnion::CreateRevision),
        (CompareTarget::Mod, 3, TargetUnion::ModRevision),
        (CompareTarget::Lease, 0, TargetUnion::Lease),
    ];
    for (target, is, union) in fields {
        for other in is - 1..=is + 1 {
            assert_eq!(holds(&mut store, compare("a", Equal, target, union(other))), is == other);
            assert_eq!(holds(&mut store, compare("a", NotEqual, target, union(other))), is != other);
            assert_eq!(holds(&mut store, compare("a", Greater, target, union(other))), is > other);
            assert_eq!(holds(&mut store, compare("a", Less, target, union(other))), is < other);
        }
    }
    for other in ["l", "m", "n", "mm", ""] {
        let value = || TargetUnion::Value(bytes(other));
        assert_eq!(holds(&mut store, compare("a", Equal, CompareTarget::Value, value())), "m" == other);
        assert_eq!(holds(&mut store, compare("a", NotEqual, CompareTarget::Value, value())), "m" != other);
        assert_eq!(holds(&mut store, compare("a", Greater, CompareTarget::Value, value())), "m" > other);
        assert_eq!(holds(&mut store, compare("a", Less, CompareTarget::Value, value())), "m" < other);
    }
    assert_eq!(store.revision(), 3, "conditions alone make no revision");
}

#[test]
fn an_absent_key_is_all_zeros_but_has_no_value_to_compare() {
    let mut store = Store::new();
    let version = |n| TargetUnion::Version(n);
    assert!(holds(&mut store, compare("a", CompareResult::Equal, CompareTarget::Version, version(0))));
    assert!(!holds(&mut store, compare("a", CompareResult::Greater, CompareTarget::Version, version(0))));
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater] {
        let value = TargetUnion::Value(Bytes::new());
        assert!(!holds(&mut store, compare("a", result, CompareTarget::Value, value)), "{result:?}");
    }
}

#[test]
fn a_condition_on_a_range_must_hold_for_every_key() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "b", "2");
    let on_range = |n| Compare {
        range_end: bytes("c"),
        ..compare("a", CompareResult::Less, CompareTarget::Mod, TargetUnion::ModRevision(n))
    };
    assert!(holds(&mut store, on_range(4)));
    assert!(!holds(&mut store, on_range(3)));
}

#[test]
fn a_missing_or_mismatched_value_is_zero() {
    let mut store = Store::new();
    put(&mut store, "a", "");
    let none = Compare { target: CompareTarget::Version as i32, key: bytes("x"), ..Default::default() };
    assert!(holds(&mut store, none), "absent key, absent number: zero equals zero");
    let other = compare("a", CompareResult::Greater, CompareTarget::Mod, TargetUnion::Version(9));
    assert!(holds(&mut store, other), "a number for another field does not count");
    let none = Compare { target: CompareTarget::Value as i32, key: bytes("a"), ..Default::default() };
    assert!(holds(&mut store, none));
}

#[test]
fn all_operations_share_one_revision_and_see_the_ones_before() {
    let mut store = Store::new();
    put(&mut store, "old", "x");
    let request = ops(vec![
        range_op("a", "z"),
        put_op("a", "1"),
        range_op("a", "z"),
        delete_op("old", ""),
        put_op("b", "2"),
        range_op("a", "z"),
    ]);
    let response = txn(&mut store, request).unwrap();
    assert!(response.succeeded, "no conditions: all hold");
    assert_eq!(revision(&response.header), 3);
    let read = |at: usize| match &response.responses[at].response {
        Some(Response::Range(response)) => (keys(response).join(" "), revision(&response.header)),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(0), ("old".into(), 2));
    assert_eq!(read(2), ("a old".into(), 3));
    assert_eq!(read(5), ("a b".into(), 3));
    assert_eq!((get(&store, "a").unwrap().mod_revision, get(&store, "b").unwrap().mod_revision), (3, 3));
    assert_eq!(store.revision(), 3);
    let before = store.range(&RangeRequest { revision: 2, ..range_request("a", "z") }).unwrap();
    assert_eq!(keys(&before), ["old"]);
}

#[test]
fn the_other_branch_runs_when_a_condition_fails() {
    let mut store = Store::new();
    let request = TxnRequest {
        compare: vec![compare("a", CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0))],
        success: vec![put_op("a", "then")],
        failure: vec![put_op("a", "else")],
    };
    assert!(!txn(&mut store, request.clone()).unwrap().succeeded);
    assert_eq!(&get(&store, "a").unwrap().value[..], b"else");
    assert!(txn(&mut store, request).unwrap().succeeded);
    assert_eq!(&get(&store, "a").unwrap().value[..], b"then");
}

#[test]
fn a_transaction_without_effect_makes_no_revision() {
    let mut store = Store::new();
    let response = txn(&mut store, ops(vec![delete_op("a", ""), range_op("a", "")])).unwrap();
    assert_eq!(revision(&response.header), 1);
    assert_eq!(store.revision(), 1);
}

#[test]
fn conditions_within_are_decided_on_the_state_before_all() {
    let mut store = Store::new();
    let within = TxnRequest {
        compare: vec![compare("a", CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0))],
        success: vec![put_op("b", "then")],
        failure: vec![put_op("b", "else")],
    };
    let response = txn(&mut store, ops(vec![put_op("a", "1"), op(Request::Txn(within))])).unwrap();
    assert_eq!(&get(&store, "b").unwrap().value[..], b"else");
    match &response.responses[1].response {
        Some(Response::Txn(response)) => {
            assert!(!response.succeeded);
            assert_eq!(revision(&response.header), 0, "as in etcd, only the outer header has a revision");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_is_refused_whole() {
    let mut store = Store::new();
    put(&mut store, "b", "x");
    put(&mut store, "b", "y");
    compact(&mut store, 3).unwrap();
    let keep = op(Request::Put(PutRequest { ignore_value: true, ..put_request("x", "") }));
    assert_eq!(txn(&mut store, ops(vec![put_op("a", "1"), keep])), Err(KvError::KeyNotFound));
    let leased = op(Request::Put(PutRequest { lease: 1, ..put_request("x", "") }));
    assert_eq!(txn(&mut store, ops(vec![put_op("a", "1"), leased])), Err(KvError::LeaseNotFound));
    let read_at = |revision| op(Request::Range(RangeRequest { revision, ..range_request("b", "") }));
    assert_eq!(txn(&mut store, ops(vec![put_op("a", "1"), read_at(4)])), Err(KvError::FutureRevision));
    assert_eq!(txn(&mut store, ops(vec![put_op("a", "1"), read_at(2)])), Err(KvError::Compacted));
    assert_eq!(txn(&mut store, ops(vec![txn_op(vec![read_at(4)], vec![])])), Err(KvError::FutureRevision));
    assert_eq!((store.revision(), get(&store, "a")), (3, None));
    assert!(txn(&mut store, ops(vec![put_op("a", "1"), read_at(3)])).is_ok());
}

#[test]
fn what_reads_only_needs_no_log_entry_and_answers_the_same() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    let mut request = ops(vec![range_op("a", ""), txn_op(vec![range_op("a", "z")], vec![])]);
    assert!(is_read_only(&request));
    assert_eq!(store.read_txn(&request), txn(&mut store, request.clone()));
    request.failure.push(delete_op("a", ""));
    assert!(!is_read_only(&request), "also a branch that is not taken counts");
    assert!(is_read_only(&TxnRequest::default()));
    let future = ops(vec![op(Request::Range(RangeRequest { revision: 9, ..range_request("a", "") }))]);
    assert_eq!(store.read_txn(&future), Err(KvError::FutureRevision));
}

#[test]
fn one_branch_writes_a_key_once() {
    let refused = |success: Vec<RequestOp>| assert_eq!(check_txn(&ops(success)), Err(KvError::DuplicateKey));
    let allowed = |success: Vec<RequestOp>| assert_eq!(check_txn(&ops(success)), Ok(()));
    refused(vec![put_op("a", ""), put_op("a", "")]);
    refused(vec![put_op("a", ""), delete_op("a", "")]);
    refused(vec![put_op("b", ""), delete_op("a", "c")]);
    refused(vec![delete_op("a", "\0"), put_op("b", "")]);
    refused(vec![put_op("a", ""), txn_op(vec![put_op("a", "")], vec![])]);
    refused(vec![put_op("a", ""), txn_op(vec![], vec![put_op("a", "")])]);
    refused(vec![txn_op(vec![put_op("a", "")], vec![]), txn_op(vec![], vec![put_op("a", "")])]);
    refused(vec![txn_op(vec![delete_op("a", "")], vec![]), txn_op(vec![put_op("a", "")], vec![])]);
    refused(vec![txn_op(vec![txn_op(vec![put_op("a", ""), put_op("a", "")], vec![])], vec![])]);
    allowed(vec![put_op("a", ""), put_op("b", "")]);
    allowed(vec![put_op("b", ""), delete_op("a", "b")]);
    allowed(vec![put_op("b", ""), delete_op("c", "a")]);
    allowed(vec![delete_op("a", ""), delete_op("a", "z")]);
    allowed(vec![put_op("a", ""), range_op("a", "")]);
    allowed(vec![txn_op(vec![put_op("a", "")], vec![put_op("a", "")])]);
    allowed(vec![txn_op(vec![put_op("a", "")], vec![]), txn_op(vec![delete_op("a", "")], vec![])]);
    let branches = TxnRequest { success: vec![put_op("a", "")], failure: vec![put_op("a", "")], compare: vec![] };
    assert_eq!(check_txn(&branches), Ok(()), "branches exclude each other");
}

#[test]
fn a_put_and_then_a_delete_in_two_transactions_within_leave_nothing() {
    let mut store = Store::new();
    let within = vec![txn_op(vec![put_op("a", "1")], vec![]), txn_op(vec![delete_op("a", "")], vec![])];
    txn(&mut store, ops(within)).unwrap();
    assert_eq!((get(&store, "a"), store.revision()), (None, 2));
    assert_eq!(store.sizes().live, 0);
}

#[test]
fn operations_are_counted_with_those_within() {
    let many = |n: usize| (0..n).map(|i| put_op(&i.to_string(), "")).collect::<Vec<_>>();
    assert_eq!(check_txn(&ops(many(MAX_TXN_OPS))), Ok(()));
    assert_eq!(check_txn(&ops(many(MAX_TXN_OPS + 1))), Err(KvError::TooManyOps));
    let compares = TxnRequest {
        compare: vec![Compare { key: bytes("a"), ..Default::default() }; MAX_TXN_OPS + 1],
        ..Default::default()
    };
    assert_eq!(check_txn(&compares), Err(KvError::TooManyOps));
    assert_eq!(check_txn(&ops(vec![txn_op(many(MAX_TXN_OPS - 1), vec![])])), Ok(()));
    assert_eq!(check_txn(&ops(vec![txn_op(many(MAX_TXN_OPS), vec![])])), Err(KvError::TooManyOps));
}

#[test]
fn operations_beside_each_other_are_limited_in_all() {
    // Along each way down there are at most 128 operations.
    let reads = |count: usize| vec![range_op("a", ""); count];
    let within = |success, failure| vec![txn_op(reads(success), reads(failure)); 64];
    assert_eq!(64 + 64 * 63, MAX_TXN_OPS_IN_ALL);
    assert_eq!(check_txn(&ops(within(63, 0))), Ok(()));
    assert_eq!(check_txn(&ops(within(0, 63))), Ok(()), "the other branch counts like the first");
    assert_eq!(check_txn(&ops(within(30, 33))), Ok(()), "both branches count");
    assert_eq!(check_txn(&ops(within(31, 33))), Err(KvError::TooManyOps));
    assert_eq!(check_txn(&ops([within(63, 0), reads(1)].concat())), Err(KvError::TooManyOps));
    let compare = vec![Compare { key: bytes("a"), ..Default::default() }];
    let compared = TxnRequest { compare, ..ops(within(63, 0)) };
    assert_eq!(check_txn(&compared), Err(KvError::TooManyOps), "conditions count");
}

#[test]
fn transactions_within_each_other_are_limited_so_that_the_log_can_hold_them() {
    let nested = |depth: usize| {
        (1..depth).fold(ops(vec![put_op("a", "1")]), |inner, _| ops(vec![txn_op(inner.success, vec![])]))
    };
    assert_eq!(check_txn(&nested(MAX_TXN_DEPTH)), Ok(()));
    assert_eq!(check_txn(&nested(MAX_TXN_DEPTH + 1)), Err(KvError::TooManyOps));
    let mut store = Store::new();
    txn(&mut store, nested(MAX_TXN_DEPTH)).unwrap();
    assert_eq!(get(&store, "a").unwrap().value, bytes("1"));
}

#[test]
fn every_operation_is_checked_by_itself_too() {
    assert_eq!(check_txn(&ops(vec![put_op("", "")])), Err(KvError::EmptyKey));
    assert_eq!(check_txn(&ops(vec![range_op("", "")])), Err(KvError::EmptyKey));
    assert_eq!(check_txn(&ops(vec![delete_op("", "")])), Err(KvError::EmptyKey));
    assert_eq!(check_txn(&ops(vec![txn_op(vec![put_op("", "")], vec![])])), Err(KvError::EmptyKey));
    assert_eq!(check_txn(&ops(vec![RequestOp { request: None }])), Err(KvError::KeyNotFound));
    let compare = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    assert_eq!(check_txn(&compare), Err(KvError::EmptyKey));
}
