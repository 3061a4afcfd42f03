//! What is applied where: on the thread that delivers it, or apart.

use super::*;
use crate::mvcc::MemberAttributes;
use crate::proto::Compare;

#[test]
fn what_takes_by_the_size_of_the_store_is_not_applied_inline() {
    let is_slow = Store::new().slow_commands().expect("it applies inline");
    let slow = |command: Command| is_slow(&command.encode().0);
    let branch = |request| TxnRequest { failure: vec![op(request)], ..Default::default() };
    let members = MemberAttributes { id: 1, name: "n".to_owned(), client_urls: Vec::new() };
    for command in [
        Command::Put(put_request("", "")),
        Command::Put(put_request("k", "v")),
        Command::DeleteRange(delete_request("k", "")),
        Command::Member(members),
        Command::Txn(TxnRequest::default()),
        Command::Txn(branch(Request::Put(put_request("k", "v")))),
        Command::Txn(branch(Request::Txn(branch(Request::Range(range_request("k", "")))))),
    ] {
        assert!(!slow(command.clone()), "{command:?}");
    }
    let all = Compare { key: bytes("a"), range_end: bytes("\0"), ..Default::default() };
    for command in [
        Command::Compaction(CompactionRequest { revision: 1, physical: false }),
        Command::DeleteRange(delete_request("a", "b")),
        Command::Txn(branch(Request::DeleteRange(delete_request("a", "b")))),
        Command::Txn(branch(Request::Txn(branch(Request::Range(range_request("a", "\0")))))),
        Command::Txn(TxnRequest { compare: vec![all], ..Default::default() }),
    ] {
        assert!(slow(command.clone()), "{command:?}");
    }
    assert!(!is_slow(b"") && !is_slow(&[1, 0xff]), "what cannot be read is not applied");
}
