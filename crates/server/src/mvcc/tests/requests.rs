//! Random requests over few keys, so that they meet.

use super::*;
use crate::mvcc::check_txn;
use crate::proto::{Compare, TargetUnion};

/// A small generator: the same seed, the same requests (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as u64) as i64
    }
}

pub(super) fn random_key(random: &mut Random) -> Bytes {
    let len = 1 + random.below(2) as usize;
    (0..len).map(|_| b"abc\xff"[random.below(4) as usize]).collect()
}

fn random_value(random: &mut Random) -> Bytes {
    (0..random.below(3)).map(|_| b'0' + random.below(3) as u8).collect()
}

fn random_end(random: &mut Random) -> Bytes {
    match random.below(6) {
        0 => Bytes::from_static(&[0]),
        1 | 2 => random_key(random),
        _ => Bytes::new(),
    }
}

pub(super) fn random_put(random: &mut Random) -> PutRequest {
    let ignore_value = random.one_in(8);
    PutRequest {
        key: random_key(random),
        value: if ignore_value { Bytes::new() } else { random_value(random) },
        lease: i64::from(random.one_in(40)),
        prev_kv: random.one_in(2),
        ignore_value,
        ignore_lease: random.one_in(8),
    }
}

pub(super) fn random_delete(random: &mut Random) -> DeleteRangeRequest {
    DeleteRangeRequest { key: random_key(random), range_end: random_end(random), prev_kv: random.one_in(2) }
}

pub(super) fn random_range(random: &mut Random, now: i64) -> RangeRequest {
    let bound = |random: &mut Random| if random.one_in(6) { random.between(0, now) } else { 0 };
    RangeRequest {
        min_mod_revision: bound(random),
        max_mod_revision: bound(random),
        min_create_revision: bound(random),
        max_create_revision: bound(random),
        key: random_key(random),
        range_end: random_end(random),
        limit: if random.one_in(3) { random.between(-1, 4) } else { 0 },
        revision: if random.one_in(3) { random.between(-1, now + 1) } else { 0 },
        sort_order: random.below(3) as i32,
        sort_target: random.below(5) as i32,
        serializable: random.one_in(2),
        keys_only: random.one_in(5),
        count_only: random.one_in(5),
    }
}

fn random_compare(random: &mut Random, now: i64) -> Compare {
    let number = random.between(0, now);
    let union = match random.below(6) {
        0 => Some(TargetUnion::Version(number % 4)),
        1 => Some(TargetUnion::CreateRevision(number)),
        2 => Some(TargetUnion::ModRevision(number)),
        3 => Some(TargetUnion::Value(random_value(random))),
        4 => Some(TargetUnion::Lease(number % 2)),
        _ => None,
    };
    Compare {
        result: random.below(5) as i32,
        target: random.below(6) as i32,
        key: random_key(random),
        target_union: union,
        range_end: random_end(random),
    }
}

/// Any transaction, also ones that would be refused before they are proposed.
pub(super) fn any_txn(random: &mut Random, now: i64, depth: u32) -> TxnRequest {
    let compare = (0..random.below(3)).map(|_| random_compare(random, now)).collect();
    let mut branch = || -> Vec<RequestOp> {
        (0..random.below(4))
            .map(|_| match random.below(if depth == 0 { 4 } else { 6 }) {
                0 | 1 => op(Request::Put(random_put(random))),
                2 => op(Request::DeleteRange(random_delete(random))),
                3 => op(Request::Range(random_range(random, now))),
                _ => op(Request::Txn(any_txn(random, now, depth - 1))),
            })
            .collect()
    };
    let success = branch();
    TxnRequest { compare, success, failure: branch() }
}

/// A transaction that a server would propose.
pub(super) fn random_txn(random: &mut Random, now: i64) -> TxnRequest {
    loop {
        let request = any_txn(random, now, 2);
        if check_txn(&request).is_ok() {
            return request;
        }
    }
}

/// A command that a server would propose.
pub(super) fn random_command(random: &mut Random, now: i64) -> Command {
    match random.below(20) {
        0..=8 => Command::Put(random_put(random)),
        9..=11 => Command::DeleteRange(random_delete(random)),
        12..=18 => Command::Txn(random_txn(random, now)),
        _ => Command::Compaction(CompactionRequest { revision: random.between(now - 20, now + 1), physical: true }),
    }
}
