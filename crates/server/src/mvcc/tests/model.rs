//! A naive store: every revision is a whole copy of all keys, every request is done in the most obvious way.
//!
//! The model and the store get the same random requests and must give the same answers, now and at every revision.

use std::collections::BTreeMap;

use super::requests::{Random, any_txn, random_command, random_range};
use super::*;
use crate::mvcc::check_txn;
use crate::proto::response_op::Response;
use crate::proto::{Compare, ResponseHeader, ResponseOp, TargetUnion};

type Keys = BTreeMap<Vec<u8>, KeyValue>;

struct Model {
    /// The keys at revision 1, 2, ...
    revisions: Vec<Keys>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        Model { revisions: vec![Keys::new()], compacted: -1 }
    }

    fn now(&self) -> i64 {
        self.revisions.len() as i64
    }

    fn keys(&self) -> &Keys {
        self.revisions.last().unwrap()
    }

    fn apply(&mut self, command: &Command) -> Result<Response, KvError> {
        match command {
            Command::Put(request) => {
                check_put(self.keys(), request)?;
                let mut work = Work::new(self);
                let response = work.put(request);
                self.finish(work);
                Ok(Response::Put(response))
            }
            Command::DeleteRange(request) => {
                let mut work = Work::new(self);
                let response = work.delete(request);
                self.finish(work);
                Ok(Response::DeleteRange(response))
            }
            Command::Txn(request) => {
                let mut path = Vec::new();
                decide(self.keys(), request, &mut path);
                self.check(request, &mut path.iter(), true)?;
                self.check(request, &mut path.iter(), false)?;
                let mut work = Work::new(self);
                let mut response = work.txn(self, request, &mut path.iter())?;
                self.finish(work);
                response.header = header(self.now());
                Ok(Response::Txn(response))
            }
            Command::Compaction(_) | Command::Member(_) => unreachable!("not asked of the model this way"),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), KvError> {
        if revision <= self.compacted {
            return Err(KvError::Compacted);
        }
        if revision > self.now() {
            return Err(KvError::FutureRevision);
        }
        self.compacted = revision;
        Ok(())
    }

    fn finish(&mut self, work: Work) {
        if work.changed {
            self.revisions.push(work.keys);
        }
    }

    /// First the puts of all branches taken, then the reads.
    fn check(&self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>, puts: bool) -> Result<(), KvError> {
        let taken = if *path.next().unwrap() { &request.success } else { &request.failure };
        for op in taken {
            match op.request.as_ref().unwrap() {
                Request::Txn(request) => self.check(request, path, puts)?,
                Request::Put(request) if puts => {
                    let there = self.keys().contains_key(&request.key[..]);
                    if (request.ignore_value || request.ignore_lease) && !there {
                        return Err(KvError::KeyNotFound);
                    }
                    if request.lease != 0 {
                        return Err(KvError::LeaseNotFound);
                    }
                }
                Request::Range(request) if !puts && request.revision > self.now() => {
                    return Err(KvError::FutureRevision);
                }
                Request::Range(request) if !puts && request.revision != 0 && request.revision < self.compacted => {
                    return Err(KvError::Compacted);
                }
                Request::Put(_) | Request::Range(_) | Request::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn range(&self, request: &RangeRequest, now: i64, newest: &Keys) -> Result<RangeResponse, KvError> {
        if request.revision > now {
            return Err(KvError::FutureRevision);
        }
        let at = if request.revision <= 0 { now } else { request.revision };
        if at < self.compacted {
            return Err(KvError::Compacted);
        }
        let keys = if at == now { newest } else { &self.revisions[at as usize - 1] };
        let mut kvs: Vec<KeyValue> = within(keys, &request.key, &request.range_end);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { header: header(now), kvs: vec![], more: false, count });
        }
        kvs.retain(|kv| {
            (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
                && (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
                && (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision)
        });
        kvs.sort_by(|a, b| {
            let ordering = match request.sort_target {
                0 => a.key.cmp(&b.key),
                1 => a.version.cmp(&b.version),
                2 => a.create_revision.cmp(&b.create_revision),
                3 => a.mod_revision.cmp(&b.mod_revision),
                _ => a.value.cmp(&b.value),
            };
            if request.sort_order == 2 { ordering.reverse() } else { ordering }
        });
        let more = request.limit > 0 && kvs.len() as i64 > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse { header: header(now), kvs, more, count })
    }
}

fn check_put(keys: &Keys, request: &PutRequest) -> Result<(), KvError> {
    if request.lease != 0 {
        return Err(KvError::LeaseNotFound);
    }
    if (request.ignore_value || request.ignore_lease) && !keys.contains_key(&request.key[..]) {
        return Err(KvError::KeyNotFound);
    }
    Ok(())
}

/// The state of a transaction under way.
struct Work {
    keys: Keys,
    begin: i64,
    changed: bool,
}

impl Work {
    fn new(model: &Model) -> Self {
        Work { keys: model.keys().clone(), begin: model.now(), changed: false }
    }

    fn revision(&self) -> i64 {
        self.begin + i64::from(self.changed)
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let old = self.keys.get(&request.key[..]).cloned();
        self.changed = true;
        let mut kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(self.begin + 1, |old| old.create_revision),
            mod_revision: self.begin + 1,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            value: request.value.clone(),
            lease: request.lease,
        };
        if request.ignore_value
            && let Some(old) = &old
        {
            kv.value = old.value.clone();
        }
        self.keys.insert(request.key.to_vec(), kv);
        PutResponse { header: header(self.revision()), prev_kv: if request.prev_kv { old } else { None } }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone = within(&self.keys, &request.key, &request.range_end);
        for kv in &gone {
            self.keys.remove(&kv.key[..]);
        }
        self.changed |= !gone.is_empty();
        let deleted = gone.len() as i64;
        DeleteRangeResponse {
            header: header(self.revision()),
            deleted,
            prev_kvs: if request.prev_kv { gone } else { vec![] },
        }
    }

    fn txn(
        &mut self,
        model: &Model,
        request: &TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
    ) -> Result<TxnResponse, KvError> {
        let succeeded = *path.next().unwrap();
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().unwrap() {
                Request::Range(request) => Response::Range(model.range(request, self.revision(), &self.keys)?),
                Request::Put(request) => Response::Put(self.put(request)),
                Request::DeleteRange(request) => Response::DeleteRange(self.delete(request)),
                Request::Txn(request) => Response::Txn(self.txn(model, request, path)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: header(0), succeeded, responses })
    }
}

fn within(keys: &Keys, key: &[u8], end: &[u8]) -> Vec<KeyValue> {
    let inside = |kv: &&KeyValue| match end {
        [] => kv.key == key,
        [0] => &kv.key[..] >= key,
        end => &kv.key[..] >= key && &kv.key[..] < end,
    };
    keys.values().filter(inside).cloned().collect()
}

/// Evaluates the conditions of every branch that is taken, outer first.
fn decide(keys: &Keys, request: &TxnRequest, path: &mut Vec<bool>) {
    let all = request.compare.iter().all(|compare| {
        let there = within(keys, &compare.key, &compare.range_end);
        if there.is_empty() {
            compare.target != 3 && holds(compare, &KeyValue::default())
        } else {
            there.iter().all(|kv| holds(compare, kv))
        }
    });
    path.push(all);
    for op in if all { &request.success } else { &request.failure } {
        if let Some(Request::Txn(request)) = &op.request {
            decide(keys, request, path);
        }
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let given = |tag: i32| match (&compare.target_union, tag) {
        (Some(TargetUnion::Version(n)), 0)
        | (Some(TargetUnion::CreateRevision(n)), 1)
        | (Some(TargetUnion::ModRevision(n)), 2)
        | (Some(TargetUnion::Lease(n)), 4) => *n,
        _ => 0,
    };
    let sign = match compare.target {
        0 => (kv.version - given(0)).signum(),
        1 => (kv.create_revision - given(1)).signum(),
        2 => (kv.mod_revision - given(2)).signum(),
        3 => {
            let value = match &compare.target_union {
                Some(TargetUnion::Value(value)) => value.clone(),
                _ => Bytes::new(),
            };
            kv.value.cmp(&value) as i64
        }
        4 => (kv.lease - given(4)).signum(),
        _ => 0,
    };
    match compare.result {
        0 => sign == 0,
        1 => sign > 0,
        2 => sign < 0,
        3 => sign != 0,
        _ => true,
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn store_response(store: &mut Store, command: &Command) -> Result<Response, KvError> {
    match command {
        Command::Put(_) => apply(store, command.clone()).map(Response::Put),
        Command::DeleteRange(_) => apply(store, command.clone()).map(Response::DeleteRange),
        Command::Txn(_) => apply(store, command.clone()).map(Response::Txn),
        Command::Compaction(_) | Command::Member(_) => unreachable!("compared by itself"),
    }
}

#[test]
fn the_store_answers_as_the_model_does() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut store = Store::new();
        let mut model = Model::new();
        for step in 0..400 {
            let command = random_command(&mut random, model.now());
            if let Command::Compaction(request) = &command {
                let ours = compact(&mut store, request.revision).map(|response| response.header);
                let theirs = model.compact(request.revision).map(|()| header(model.now()));
                assert_eq!(ours, theirs, "seed {seed} step {step}: {command:?}");
            } else {
                let ours = store_response(&mut store, &command);
                assert_eq!(ours, model.apply(&command), "seed {seed} step {step}: {command:?}");
            }
            assert_eq!(store.revision(), model.now(), "seed {seed} step {step}");
            for _ in 0..3 {
                let read = random_range(&mut random, model.now());
                let theirs = model.range(&read, model.now(), model.keys());
                assert_eq!(store.range(&read), theirs, "seed {seed} step {step}: {read:?}");
            }
            if random.one_in(50) {
                let mut bytes = Vec::new();
                store.snapshot(&mut bytes).unwrap();
                let restored = Store::restore(&mut &bytes[..]).unwrap();
                assert_eq!(restored, store, "seed {seed} step {step}");
                store = restored;
            }
        }
        check_whole_history(&store, &model, seed);
    }
}

/// Every revision that can still be read is as it was, and the accounts add up.
fn check_whole_history(store: &Store, model: &Model, seed: u64) {
    for at in model.compacted.max(1)..=model.now() {
        let all = RangeRequest { revision: at, ..range_request("\0", "\0") };
        let expected: Vec<KeyValue> = model.revisions[at as usize - 1].values().cloned().collect();
        assert_eq!(store.range(&all).unwrap().kvs, expected, "seed {seed} revision {at}");
    }
    let live: usize = model.keys().values().map(|kv| kv.key.len() + kv.value.len()).sum();
    assert_eq!(store.sizes().live, live as u64, "seed {seed}");
    let total: u64 =
        store.keys.iter().flat_map(|(key, history)| history.edits().iter().map(|edit| edit.bytes(key))).sum();
    assert_eq!(store.sizes().total, total, "seed {seed}");
}

/// What a list of operations writes, found by looking at every pair.
struct NaiveWrites {
    puts: Vec<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

fn naive_writes(ops: &[RequestOp]) -> Result<NaiveWrites, KvError> {
    let mut all = NaiveWrites { puts: vec![], deletes: vec![] };
    for op in ops {
        if let Some(Request::DeleteRange(request)) = &op.request {
            all.deletes.push((request.key.clone(), request.range_end.clone()));
        }
    }
    let check = |all: &NaiveWrites, key: &Bytes, known: &[Bytes]| {
        let deleted = all.deletes.iter().any(|(start, end)| match &end[..] {
            [] => key == start,
            [0] => key >= start,
            _ => key >= start && key < end,
        });
        if deleted || known.contains(key) { Err(KvError::DuplicateKey) } else { Ok(()) }
    };
    for op in ops {
        if let Some(Request::Txn(request)) = &op.request {
            let success = naive_writes(&request.success)?;
            let failure = naive_writes(&request.failure)?;
            let known = all.puts.clone();
            for key in success.puts.iter().chain(&failure.puts) {
                check(&all, key, &known)?;
            }
            all.puts.extend(success.puts.into_iter().chain(failure.puts));
            all.deletes.extend(success.deletes.into_iter().chain(failure.deletes));
        }
    }
    for op in ops {
        if let Some(Request::Put(request)) = &op.request {
            check(&all, &request.key, &all.puts)?;
            all.puts.push(request.key.clone());
        }
    }
    Ok(all)
}

#[test]
fn duplicate_keys_are_found_as_by_looking_at_every_pair() {
    let mut random = Random::new(11);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut request = any_txn(&mut random, 10, 3);
        strip_other_errors(&mut request);
        let naive = naive_writes(&request.success).and(naive_writes(&request.failure)).map(|_| ());
        assert_eq!(check_txn(&request), naive, "{request:?}");
        refused += u32::from(naive.is_err());
    }
    assert!((2_000..18_000).contains(&refused), "both outcomes are tried: {refused}");
}

/// Only duplicates are compared here.
fn strip_other_errors(request: &mut TxnRequest) {
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match op.request.as_mut() {
            Some(Request::Put(put)) => *put = PutRequest { key: put.key.clone(), ..Default::default() },
            Some(Request::Txn(request)) => strip_other_errors(request),
            Some(Request::Range(_) | Request::DeleteRange(_)) | None => {}
        }
    }
}
