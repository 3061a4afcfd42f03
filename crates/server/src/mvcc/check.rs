//! What is refused by the request alone, before anything is proposed.

use std::collections::{BTreeMap, BTreeSet};

use super::error::KvError;
use super::store::{End, KeyRange};
use crate::proto::request_op::Request;
use crate::proto::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest};

/// The largest write, in bytes, as in etcd.
pub const MAX_REQUEST_BYTES: usize = 3 << 19; // 1.5 MiB
/// The most conditions, or operations in a branch, of a transaction; those within another count with it.
pub const MAX_TXN_OPS: usize = 128;

/// The most conditions and operations of a transaction and all those within it together, in whichever branch. etcd has
/// no such limit: [`MAX_TXN_OPS`] counts along each way down only, so a request of the largest size could hold a
/// hundred thousand operations, for all of which every other client of the cluster would wait.
pub const MAX_TXN_OPS_IN_ALL: usize = 4096;

/// The most transactions within each other. Readers of protobuf stop at 100 messages within each other; a command in the
/// log and its response are a few deeper than the request that a client was able to send, and two a transaction.
pub const MAX_TXN_DEPTH: usize = 32;

/// Checks a range request.
///
/// # Errors
/// If the key is empty or the order is unknown.
pub fn check_range(request: &RangeRequest) -> Result<(), KvError> {
    if request.key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(KvError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put request.
///
/// # Errors
/// If the key is empty, or what is to be kept is also given.
pub fn check_put(request: &PutRequest) -> Result<(), KvError> {
    if request.key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(KvError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(KvError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete request.
///
/// # Errors
/// If the key is empty.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), KvError> {
    if request.key.is_empty() { Err(KvError::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction with all that is in it.
///
/// # Errors
/// The first error of an operation; or there are too many; or one branch would write a key twice.
pub fn check_txn(request: &TxnRequest) -> Result<(), KvError> {
    let mut in_all = MAX_TXN_OPS_IN_ALL;
    check_ops(request, MAX_TXN_OPS, MAX_TXN_DEPTH, &mut in_all)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

/// So many operations are `allowed` from here down on any one way, and `in_all` are left for the whole request.
fn check_ops(request: &TxnRequest, allowed: usize, depth: usize, in_all: &mut usize) -> Result<(), KvError> {
    let within = depth.checked_sub(1).ok_or(KvError::TooManyOps)?;
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = allowed.checked_sub(most).ok_or(KvError::TooManyOps)?;
    let here = request.compare.len() + request.success.len() + request.failure.len();
    *in_all = in_all.checked_sub(here).ok_or(KvError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(KvError::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::Range(request)) => check_range(request),
        Some(Request::Put(request)) => check_put(request),
        Some(Request::DeleteRange(request)) => check_delete_range(request),
        Some(Request::Txn(request)) => check_ops(request, left, within, in_all),
        None => Err(KvError::KeyNotFound),
    })
}

/// What a branch writes. Takes n log n time: a transaction holds thousands of operations.
#[derive(Default)]
struct Writes<'r> {
    puts: BTreeSet<&'r [u8]>,
    deletes: Intervals<'r>,
}

impl<'r> Writes<'r> {
    /// Refuses a key that is put twice, or put and deleted. Two transactions within may do so in one order, the
    /// put first, as in etcd: the first is over before the second. The branches of one exclude each other.
    fn of(ops: &'r [RequestOp]) -> Result<Self, KvError> {
        let mut all = Writes::default();
        for op in ops {
            if let Some(Request::DeleteRange(request)) = &op.request {
                all.deletes.insert(KeyRange::new(&request.key, &request.range_end));
            }
        }
        for op in ops {
            let Some(Request::Txn(txn)) = &op.request else { continue };
            let success = Writes::of(&txn.success)?;
            let failure = Writes::of(&txn.failure)?;
            let either: BTreeSet<&[u8]> = success.puts.union(&failure.puts).copied().collect();
            for key in either {
                all.put(key)?;
            }
            all.deletes.extend(success.deletes);
            all.deletes.extend(failure.deletes);
        }
        for op in ops {
            if let Some(Request::Put(request)) = &op.request {
                all.put(&request.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &'r [u8]) -> Result<(), KvError> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(KvError::DuplicateKey) } else { Ok(()) }
    }
}

/// A set of keys, as intervals that do not overlap.
#[derive(Default)]
struct Intervals<'r> {
    by_start: BTreeMap<&'r [u8], End<'r>>,
}

impl<'r> Intervals<'r> {
    fn contains(&self, key: &[u8]) -> bool {
        let before = self.by_start.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)));
        before.last().is_some_and(|(start, end)| covers(start, *end, key))
    }

    fn insert(&mut self, range: KeyRange<'r>) {
        let (mut start, mut end) = (range.start, range.end);
        if matches!(end, End::Before(before) if before <= start) {
            return; // nothing is in it
        }
        if let Some((earlier, its_end)) = self.by_start.range(..=start).next_back()
            && covers(earlier, *its_end, start)
        {
            start = earlier;
            end = later_end(start, *its_end, range.start, end);
        }
        while let Some((next, its_end)) = self.by_start.range(start..).next()
            && (*next == start || covers(start, end, next))
        {
            let (next, its_end) = (*next, *its_end);
            end = later_end(start, end, next, its_end);
            self.by_start.remove(next);
        }
        self.by_start.insert(start, end);
    }

    fn extend(&mut self, other: Intervals<'r>) {
        for (start, end) in other.by_start {
            self.insert(KeyRange { start, end });
        }
    }
}

/// Whether `key`, which is not below `start`, is in the interval.
fn covers(start: &[u8], end: End<'_>, key: &[u8]) -> bool {
    match end {
        End::Single => key == start,
        End::Before(end) => key < end,
        End::Open => true,
    }
}

/// The end that reaches further, of two intervals that overlap, the first starting not after the second.
fn later_end<'r>(first: &[u8], first_end: End<'r>, second: &[u8], second_end: End<'r>) -> End<'r> {
    match (first_end, second_end) {
        (End::Open, _) | (_, End::Open) => End::Open,
        (End::Single, _) => {
            debug_assert_eq!(first, second, "they overlap");
            second_end
        }
        (End::Before(_), End::Single) => first_end,
        (End::Before(first), End::Before(second)) => End::Before(first.max(second)),
    }
}
