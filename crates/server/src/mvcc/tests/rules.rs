//! Puts, deletes, ranges and compaction, one rule a test.

use quorate::Raw;

use super::*;
use crate::mvcc::{check_delete_range, check_put, check_range};
use crate::proto::{SortOrder, SortTarget};

fn three_keys() -> Store {
    let mut store = Store::new();
    put(&mut store, "a", "3");
    put(&mut store, "b", "1");
    put(&mut store, "c", "2");
    store
}

#[test]
fn an_empty_store_is_at_revision_one_and_each_write_adds_one() {
    let mut store = Store::new();
    assert_eq!(store.revision(), 1);
    assert_eq!(revision(&put(&mut store, "a", "1").header), 2);
    assert_eq!(revision(&put(&mut store, "b", "1").header), 3);
    assert_eq!(store.revision(), 3);
}

#[test]
fn a_key_counts_its_puts_and_starts_anew_after_a_delete() {
    let mut store = Store::new();
    put(&mut store, "a", "x");
    put(&mut store, "a", "y");
    let kv = get(&store, "a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));

    assert_eq!(delete(&mut store, "a", "").deleted, 1);
    assert_eq!(get(&store, "a"), None);
    put(&mut store, "a", "z");
    let kv = get(&store, "a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn a_delete_of_nothing_makes_no_revision() {
    let mut store = Store::new();
    put(&mut store, "a", "x");
    let response = delete(&mut store, "b", "z");
    assert_eq!((response.deleted, revision(&response.header)), (0, 2));
    assert_eq!(store.revision(), 2);
}

#[test]
fn a_delete_of_many_keys_is_one_revision_and_returns_them_if_asked() {
    let mut store = three_keys();
    let request = DeleteRangeRequest { prev_kv: true, ..delete_request("a", "c") };
    let response: DeleteRangeResponse = apply(&mut store, Command::DeleteRange(request)).unwrap();
    assert_eq!((response.deleted, revision(&response.header)), (2, 5));
    assert_eq!(response.prev_kvs.len(), 2);
    assert_eq!((&response.prev_kvs[1].key[..], &response.prev_kvs[1].value[..]), (&b"b"[..], &b"1"[..]));
    assert_eq!(keys(&store.range(&range_request("\0", "\0")).unwrap()), ["c"]);
}

#[test]
fn a_put_returns_the_previous_key_only_if_asked_and_there() {
    let mut store = Store::new();
    let request = PutRequest { prev_kv: true, ..put_request("a", "x") };
    let response: PutResponse = apply(&mut store, Command::Put(request.clone())).unwrap();
    assert_eq!(response.prev_kv, None);
    let response: PutResponse = apply(&mut store, Command::Put(request)).unwrap();
    assert_eq!(response.prev_kv.unwrap().mod_revision, 2);
    assert_eq!(put(&mut store, "a", "y").prev_kv, None);
}

#[test]
fn a_value_or_lease_is_kept_only_of_a_key_that_exists() {
    let mut store = Store::new();
    let keep = PutRequest { ignore_value: true, ..put_request("a", "") };
    let refused: Result<PutResponse, _> = apply(&mut store, Command::Put(keep.clone()));
    assert_eq!(refused, Err(KvError::KeyNotFound));
    let keep_lease = PutRequest { ignore_lease: true, ..put_request("a", "y") };
    let refused: Result<PutResponse, _> = apply(&mut store, Command::Put(keep_lease.clone()));
    assert_eq!(refused, Err(KvError::KeyNotFound));
    assert_eq!(store.revision(), 1, "a refused write makes no revision");

    put(&mut store, "a", "x");
    let _: PutResponse = apply(&mut store, Command::Put(keep)).unwrap();
    let kv = get(&store, "a").unwrap();
    assert_eq!((&kv.value[..], kv.version), (&b"x"[..], 2));
    let _: PutResponse = apply(&mut store, Command::Put(keep_lease)).unwrap();
    assert_eq!(&get(&store, "a").unwrap().value[..], b"y");
}

#[test]
fn no_lease_is_ever_found() {
    let mut store = Store::new();
    let request = PutRequest { lease: 7, ..put_request("a", "x") };
    let refused: Result<PutResponse, _> = apply(&mut store, Command::Put(request));
    assert_eq!(refused, Err(KvError::LeaseNotFound));
    assert_eq!(store.revision(), 1);
}

#[test]
fn a_range_is_one_key_or_up_to_an_end_or_open() {
    let mut store = three_keys();
    put(&mut store, "ab", "4");
    let read = |key, end| store.range(&range_request(key, end)).unwrap();
    assert_eq!(keys(&read("a", "")), ["a"]);
    assert_eq!(keys(&read("a", "b")), ["a", "ab"], "the end is a prefix plus one: all keys with the prefix");
    assert_eq!(keys(&read("a", "c")), ["a", "ab", "b"]);
    assert_eq!(keys(&read("b", "\0")), ["b", "c"]);
    assert_eq!(keys(&read("\0", "\0")), ["a", "ab", "b", "c"]);
    assert_eq!(keys(&read("c", "a")), [] as [&str; 0], "an end before the start holds nothing");
    assert_eq!(keys(&read("c", "c")), [] as [&str; 0]);
    assert_eq!(keys(&read("x", "")), [] as [&str; 0]);
}

#[test]
fn a_limit_cuts_off_but_the_count_is_of_all() {
    let store = three_keys();
    let mut request = RangeRequest { limit: 2, ..range_request("a", "\0") };
    let response = store.range(&request).unwrap();
    assert_eq!((keys(&response), response.more, response.count), (vec!["a", "b"], true, 3));
    request.limit = 3;
    let response = store.range(&request).unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (3, false, 3));
    request.limit = -1;
    assert_eq!(store.range(&request).unwrap().kvs.len(), 3);
}

#[test]
fn count_only_has_no_keys_and_keys_only_no_values() {
    let store = three_keys();
    let response = store.range(&RangeRequest { count_only: true, limit: 1, ..range_request("a", "\0") }).unwrap();
    assert_eq!((response.kvs.len(), response.count, response.more), (0, 3, false));
    let response = store.range(&RangeRequest { keys_only: true, ..range_request("a", "\0") }).unwrap();
    assert!(response.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0));
    assert_eq!(&get(&store, "a").unwrap().value[..], b"3", "the store keeps its values");
}

#[test]
fn results_are_sorted_by_any_field_either_way_before_the_limit_cuts() {
    let mut store = three_keys();
    put(&mut store, "a", "3");
    let sorted = |target: SortTarget, order: SortOrder, limit| {
        let request =
            RangeRequest { sort_target: target as i32, sort_order: order as i32, limit, ..range_request("a", "\0") };
        let response = store.range(&request).unwrap();
        (keys(&response).concat(), response.more)
    };
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 0), ("cba".into(), false));
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 1), ("c".into(), true));
    assert_eq!(sorted(SortTarget::Value, SortOrder::Ascend, 0), ("bca".into(), false));
    assert_eq!(sorted(SortTarget::Value, SortOrder::None, 2), ("bc".into(), true), "no order means ascending");
    assert_eq!(sorted(SortTarget::Mod, SortOrder::Descend, 0), ("acb".into(), false));
    assert_eq!(sorted(SortTarget::Create, SortOrder::Descend, 0), ("cba".into(), false));
    assert_eq!(sorted(SortTarget::Version, SortOrder::Descend, 0), ("abc".into(), false), "equals stay by key");
    assert_eq!(sorted(SortTarget::Key, SortOrder::Ascend, 0), ("abc".into(), false));
}

#[test]
fn revision_bounds_filter_what_is_returned_but_not_the_count() {
    let mut store = three_keys(); // a, b, c at 2, 3, 4
    put(&mut store, "a", "5"); // 5
    let filtered = |request: RangeRequest| {
        let response = store.range(&RangeRequest { key: bytes("a"), range_end: bytes("\0"), ..request }).unwrap();
        assert_eq!(response.count, 3);
        (keys(&response).concat(), response.more)
    };
    let none = RangeRequest::default();
    assert_eq!(filtered(RangeRequest { min_mod_revision: 4, ..none.clone() }).0, "ac");
    assert_eq!(filtered(RangeRequest { max_mod_revision: 4, ..none.clone() }).0, "bc");
    assert_eq!(filtered(RangeRequest { min_create_revision: 3, ..none.clone() }).0, "bc");
    assert_eq!(filtered(RangeRequest { max_create_revision: 3, ..none.clone() }).0, "ab");
    assert_eq!(filtered(RangeRequest { max_create_revision: 3, limit: 1, ..none.clone() }), ("a".into(), true));
    assert_eq!(filtered(RangeRequest { max_create_revision: 2, limit: 1, ..none }), ("a".into(), false));
}

#[test]
fn the_past_can_be_read_until_it_is_compacted() {
    let mut store = Store::new();
    put(&mut store, "a", "1"); // 2
    put(&mut store, "a", "2"); // 3
    delete(&mut store, "a", ""); // 4
    put(&mut store, "b", "1"); // 5
    let at = |store: &Store, revision| {
        store.range(&RangeRequest { revision, ..range_request("a", "") }).map(|response| {
            assert_eq!(super::revision(&response.header), 5, "the header has the current revision");
            response.kvs.first().map(|kv| kv.value.clone())
        })
    };
    assert_eq!(at(&store, 1), Ok(None));
    assert_eq!(at(&store, 2), Ok(Some(bytes("1"))));
    assert_eq!(at(&store, 3), Ok(Some(bytes("2"))));
    assert_eq!(at(&store, 4), Ok(None));
    assert_eq!(at(&store, 6), Err(KvError::FutureRevision));
    assert_eq!(at(&store, -3), Ok(None), "a negative revision is the current one");

    assert_eq!(revision(&compact(&mut store, 3).unwrap().header), 5);
    assert_eq!(at(&store, 2), Err(KvError::Compacted));
    assert_eq!(at(&store, 3), Ok(Some(bytes("2"))), "the compacted revision itself stays");
    assert_eq!(at(&store, 4), Ok(None));
}

#[test]
fn compaction_goes_forward_and_not_past_the_present() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    assert_eq!(compact(&mut store, 3), Err(KvError::FutureRevision));
    assert_eq!(compact(&mut store, -1), Err(KvError::Compacted));
    assert!(compact(&mut store, 0).is_ok(), "etcd lets the first compaction be at 0");
    assert_eq!(compact(&mut store, 0), Err(KvError::Compacted));
    assert!(compact(&mut store, 2).is_ok());
    assert_eq!(compact(&mut store, 2), Err(KvError::Compacted));
    assert_eq!(compact(&mut store, 1), Err(KvError::Compacted));
}

#[test]
fn compaction_frees_what_nobody_can_see() {
    let mut store = Store::new();
    for _ in 0..10 {
        put(&mut store, "key", "0123456789");
    }
    put(&mut store, "gone", "x");
    delete(&mut store, "gone", "");
    assert_eq!(store.sizes().live, 13);
    assert_eq!(store.sizes().total, 130 + 5 + 4);
    let now = store.revision();
    compact(&mut store, now).unwrap();
    assert_eq!((store.sizes().live, store.sizes().total), (13, 13));
    assert_eq!(store.keys.len(), 1, "a deleted key leaves nothing");
    assert!(store.changes.is_empty());
    assert_eq!(get(&store, "key").unwrap().version, 10);
}

#[test]
fn what_is_wrong_by_itself_is_refused_before_it_is_proposed() {
    assert_eq!(check_range(&range_request("", "x")), Err(KvError::EmptyKey));
    let unknown = RangeRequest { sort_order: 9, ..range_request("a", "") };
    assert_eq!(check_range(&unknown), Err(KvError::InvalidSortOption));
    let unknown = RangeRequest { sort_target: -1, ..range_request("a", "") };
    assert_eq!(check_range(&unknown), Err(KvError::InvalidSortOption));
    assert_eq!(check_put(&put_request("", "x")), Err(KvError::EmptyKey));
    let both = PutRequest { ignore_value: true, ..put_request("a", "x") };
    assert_eq!(check_put(&both), Err(KvError::ValueProvided));
    let both = PutRequest { ignore_lease: true, lease: 1, ..put_request("a", "x") };
    assert_eq!(check_put(&both), Err(KvError::LeaseProvided));
    assert_eq!(check_delete_range(&delete_request("", "")), Err(KvError::EmptyKey));
    assert_eq!(check_put(&put_request("a", "")), Ok(()));
}

#[test]
#[should_panic(expected = "the command has version 9")]
fn a_command_of_a_newer_version_stops_the_node() {
    Store::new().apply(Raw(Bytes::from_static(&[9, 1, 2])));
}

#[test]
#[should_panic(expected = "of a kind that this program does not know")]
fn a_command_of_an_unknown_kind_stops_the_node() {
    Store::new().apply(Raw(Bytes::from_static(&[1])));
}

#[test]
fn a_response_that_is_none_is_refused_not_believed() {
    for wrong in [&[][..], &[2], &[1], &[1, 99], &[1, 3, 3], &[0, 0xff]] {
        assert!(decode_response::<PutResponse>(Raw(Bytes::copy_from_slice(wrong))).is_err(), "{wrong:?}");
    }
}

#[test]
fn members_tell_their_names() {
    let mut store = Store::new();
    let attributes =
        crate::mvcc::MemberAttributes { id: 7, name: "n7".into(), client_urls: vec!["http://127.0.0.1:2379".into()] };
    let _: () = apply(&mut store, Command::Member(attributes.clone())).unwrap();
    assert_eq!(store.members()[&7], attributes);
    assert_eq!(store.revision(), 1, "that is no write of a key");
}
