//! Reading a range.

use std::cmp::Ordering;

use super::error::KvError;
use super::store::{KeyRange, Store};
use crate::proto::{KeyValue, RangeRequest, RangeResponse, ResponseHeader, SortOrder, SortTarget};

impl Store {
    /// Serves a range request; the header of the response has the revision only.
    ///
    /// # Errors
    /// [`KvError::Compacted`] or [`KvError::FutureRevision`] if the revision asked for cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        self.range_at(request, self.revision)
    }

    /// As [`range`](Self::range), where `current` is the current revision: within a transaction the next one.
    pub(super) fn range_at(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, KvError> {
        if request.revision > current {
            return Err(KvError::FutureRevision);
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.compacted {
            return Err(KvError::Compacted);
        }

        let order = Order::of(request);
        let filter = Filter::of(request);
        let wanted = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        // Without sorting, one more than wanted tells whether there are more.
        let collect = match order {
            _ if request.count_only => 0,
            Order::ByKey => wanted.saturating_add(1),
            Order::By(..) => usize::MAX,
        };
        let mut count = 0;
        let mut kvs: Vec<KeyValue> = Vec::new();
        self.visit(KeyRange::new(&request.key, &request.range_end), revision, |key, edit| {
            count += 1;
            if kvs.len() < collect && filter.admits(edit.revision.main, edit.created) {
                kvs.extend(edit.key_value(key));
            }
        });

        order.sort(&mut kvs);
        let more = kvs.len() > wanted;
        kvs.truncate(wanted);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
            }
        }
        Ok(RangeResponse { header: Some(ResponseHeader { revision: current, ..Default::default() }), kvs, more, count })
    }
}

/// The bounds on revisions that a request sets; 0 is none.
struct Filter {
    changed: (i64, i64),
    created: (i64, i64),
}

impl Filter {
    fn of(request: &RangeRequest) -> Self {
        let upper = |bound: i64| if bound == 0 { i64::MAX } else { bound };
        Filter {
            changed: (request.min_mod_revision, upper(request.max_mod_revision)),
            created: (request.min_create_revision, upper(request.max_create_revision)),
        }
    }

    fn admits(&self, changed: i64, created: i64) -> bool {
        (self.changed.0..=self.changed.1).contains(&changed) && (self.created.0..=self.created.1).contains(&created)
    }
}

/// How results are ordered.
#[derive(Clone, Copy)]
enum Order {
    /// As they come.
    ByKey,
    By(SortTarget, Direction),
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Order {
    /// Unknown numbers are refused before (see `check_range`); here they mean no order.
    fn of(request: &RangeRequest) -> Self {
        let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        match (target, order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => Order::ByKey,
            (_, SortOrder::None | SortOrder::Ascend) => Order::By(target, Direction::Up),
            (_, SortOrder::Descend) => Order::By(target, Direction::Down),
        }
    }

    /// Sorts; what is equal stays in the order of keys.
    fn sort(self, kvs: &mut [KeyValue]) {
        let Order::By(target, direction) = self else { return };
        let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
            match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        };
        match direction {
            Direction::Up => kvs.sort_by(compare),
            Direction::Down => kvs.sort_by(|a, b| compare(b, a)),
        }
    }
}
