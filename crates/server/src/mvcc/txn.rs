//! Single writes and transactions.
//!
//! A transaction runs in three steps, as in etcd: all conditions, also those of transactions within, are evaluated
//! on the state before it, which decides every branch; then the operations of those branches are checked; then they
//! are done, and nothing can fail any more.

use std::cmp::Ordering;

use bytes::Bytes;

use super::error::KvError;
use super::store::{KeyRange, Store, Writer};
use crate::proto::request_op::Request;
use crate::proto::response_op::Response;
use crate::proto::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse,
    RangeRequest, RequestOp, ResponseHeader, ResponseOp, TargetUnion, TxnRequest, TxnResponse,
};

/// Whether a transaction changes nothing whatever its branches, so that it needs no log entry.
pub fn is_read_only(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::Range(_)) => true,
        Some(Request::Txn(txn)) => is_read_only(txn),
        Some(Request::Put(_) | Request::DeleteRange(_)) | None => false,
    })
}

/// Whether a transaction looks at more than single keys, so that it may take by the store's size.
pub fn is_long(txn: &TxnRequest) -> bool {
    txn.compare.iter().any(|compare| !compare.range_end.is_empty())
        || txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
            Some(Request::Range(request)) => !request.range_end.is_empty(),
            Some(Request::DeleteRange(request)) => !request.range_end.is_empty(),
            Some(Request::Txn(txn)) => is_long(txn),
            Some(Request::Put(_)) | None => false,
        })
}

impl Store {
    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, KvError> {
        self.check_lease(request)?;
        self.check_kept(request)?;
        let mut writer = self.write();
        let mut response = writer.run_put(request);
        response.header = header(writer.finish());
        Ok(response)
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut writer = self.write();
        let mut response = writer.run_delete(request);
        response.header = header(writer.finish());
        response
    }

    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, KvError> {
        let plan = self.plan(request);
        self.check_puts(&plan)?;
        self.check_ranges(&plan)?;
        let mut writer = self.write();
        let mut response = writer.run(&plan)?;
        response.header = header(writer.finish());
        Ok(response)
    }

    /// Serves a transaction that [is read-only](is_read_only); the header has the revision only. Its operations
    /// that are not reads, of which there are none, are left out.
    ///
    /// # Errors
    /// If a revision that it asks for cannot be read.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, KvError> {
        let plan = self.plan(request);
        self.check_ranges(&plan)?;
        let mut response = self.run_reads(&plan)?;
        response.header = header(self.revision);
        Ok(response)
    }

    fn run_reads(&self, plan: &Plan<'_>) -> Result<TxnResponse, KvError> {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let response = match step {
                Step::Range(request) => Some(Response::Range(self.range(request)?)),
                Step::Txn(plan) => Some(Response::Txn(self.run_reads(plan)?)),
                Step::Put(_) | Step::Delete(_) | Step::Nothing => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: header(0), succeeded: plan.succeeded, responses })
    }

    /// Decides every branch.
    fn plan<'r>(&self, request: &'r TxnRequest) -> Plan<'r> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let step = |op: &'r RequestOp| match &op.request {
            Some(Request::Range(request)) => Step::Range(request),
            Some(Request::Put(request)) => Step::Put(request),
            Some(Request::DeleteRange(request)) => Step::Delete(request),
            Some(Request::Txn(request)) => Step::Txn(self.plan(request)),
            None => Step::Nothing,
        };
        Plan { succeeded, steps: ops.iter().map(step).collect() }
    }

    /// Whether a condition holds now, for every key that it names. With no key there it is held against zeros; but
    /// no condition on a value holds then, since an absent value is not an empty one.
    fn holds(&self, compare: &Compare) -> bool {
        let mut keys = 0;
        let mut all = true;
        self.visit(KeyRange::new(&compare.key, &compare.range_end), self.revision, |key, edit| {
            keys += 1;
            all = all && edit.key_value(key).is_some_and(|kv| compare_one(compare, &kv));
        });
        if keys == 0 {
            return compare.target != CompareTarget::Value as i32 && compare_one(compare, &KeyValue::default());
        }
        all
    }

    fn check_puts(&self, plan: &Plan<'_>) -> Result<(), KvError> {
        for step in &plan.steps {
            match step {
                Step::Put(request) => {
                    self.check_kept(request)?;
                    self.check_lease(request)?;
                }
                Step::Txn(plan) => self.check_puts(plan)?,
                Step::Range(_) | Step::Delete(_) | Step::Nothing => {}
            }
        }
        Ok(())
    }

    fn check_ranges(&self, plan: &Plan<'_>) -> Result<(), KvError> {
        for step in &plan.steps {
            match step {
                Step::Range(request) if request.revision == 0 => {}
                Step::Range(request) if request.revision > self.revision => return Err(KvError::FutureRevision),
                Step::Range(request) if request.revision < self.compacted => return Err(KvError::Compacted),
                Step::Txn(plan) => self.check_ranges(plan)?,
                Step::Range(_) | Step::Put(_) | Step::Delete(_) | Step::Nothing => {}
            }
        }
        Ok(())
    }

    /// A value or lease can be kept only of a key that exists.
    fn check_kept(&self, request: &PutRequest) -> Result<(), KvError> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.get(&request.key, self.revision).is_none() {
            return Err(KvError::KeyNotFound);
        }
        Ok(())
    }

    /// There are no leases yet, so none is found.
    fn check_lease(&self, request: &PutRequest) -> Result<(), KvError> {
        if request.lease != 0 { Err(KvError::LeaseNotFound) } else { Ok(()) }
    }
}

impl Writer<'_> {
    fn run(&mut self, plan: &Plan<'_>) -> Result<TxnResponse, KvError> {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let response = match step {
                Step::Range(request) => {
                    let revision = self.revision();
                    Some(Response::Range(self.store().range_at(request, revision)?))
                }
                Step::Put(request) => Some(Response::Put(self.run_put(request))),
                Step::Delete(request) => Some(Response::DeleteRange(self.run_delete(request))),
                Step::Txn(plan) => Some(Response::Txn(self.run(plan)?)),
                Step::Nothing => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: header(0), succeeded: plan.succeeded, responses })
    }

    fn run_put(&mut self, request: &PutRequest) -> PutResponse {
        let looks_back = request.prev_kv || request.ignore_value || request.ignore_lease;
        let previous = if looks_back { self.store().get(&request.key, self.revision()) } else { None };
        let kept = previous.as_ref();
        let value: Bytes = match kept {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match kept {
            Some(kv) if request.ignore_lease => kv.lease,
            _ => request.lease,
        };
        self.put(&request.key, &value, lease);
        PutResponse { header: header(self.revision()), prev_kv: previous.filter(|_| request.prev_kv) }
    }

    fn run_delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            self.store().visit(range, self.revision(), |key, edit| prev_kvs.extend(edit.key_value(key)));
        }
        let deleted = self.delete(range);
        DeleteRangeResponse { header: header(self.revision()), deleted, prev_kvs }
    }
}

/// A transaction whose branches are decided.
struct Plan<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

enum Step<'r> {
    Range(&'r RangeRequest),
    Put(&'r PutRequest),
    Delete(&'r DeleteRangeRequest),
    Txn(Plan<'r>),
    Nothing,
}

/// Holds one key against a condition. Numbers that are none of etcd's mean what they mean there: an unknown field
/// is equal, an unknown relation holds.
fn compare_one(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            kv.version.cmp(&number(union, |u| if let TargetUnion::Version(n) = u { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Create) => kv
            .create_revision
            .cmp(&number(union, |u| if let TargetUnion::CreateRevision(n) = u { Some(*n) } else { None })),
        Ok(CompareTarget::Mod) => {
            kv.mod_revision.cmp(&number(union, |u| if let TargetUnion::ModRevision(n) = u { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Lease) => {
            kv.lease.cmp(&number(union, |u| if let TargetUnion::Lease(n) = u { Some(*n) } else { None }))
        }
        Ok(CompareTarget::Value) => {
            let value: &[u8] = if let Some(TargetUnion::Value(value)) = union { value } else { &[] };
            (*kv.value).cmp(value)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

/// The number given for a field; 0 if none is given, or one for another field.
fn number(union: Option<&TargetUnion>, read: impl Fn(&TargetUnion) -> Option<i64>) -> i64 {
    union.and_then(read).unwrap_or(0)
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}
