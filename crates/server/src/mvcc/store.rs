//! All keys, and how they change.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::command::MemberAttributes;
use super::error::KvError;
use super::history::{Edit, History, Revision};
use crate::proto::KeyValue;

/// The key-value store: keys, their versions since the last compaction, and the members' own data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub(super) keys: BTreeMap<Bytes, History>,
    /// Every change after the compacted revision, in order: what compaction has to look at, and nothing else.
    pub(super) changes: VecDeque<(Revision, Bytes)>,
    /// The revision of the last write; 1 for a new store.
    pub(super) revision: i64,
    /// The oldest revision that can be read, as a compaction set it; -1 before the first.
    pub(super) compacted: i64,
    pub(super) sizes: Sizes,
    pub(super) members: BTreeMap<u64, MemberAttributes>,
}

/// How much a store holds, in bytes of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// With history.
    pub total: u64,
    /// What exists now.
    pub live: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store, at revision 1.
    pub fn new() -> Self {
        Store {
            keys: BTreeMap::new(),
            changes: VecDeque::new(),
            revision: 1,
            compacted: -1,
            sizes: Sizes::default(),
            members: BTreeMap::new(),
        }
    }

    /// The revision of the last write.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How much it holds.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What members said of themselves, by node id.
    pub fn members(&self) -> &BTreeMap<u64, MemberAttributes> {
        &self.members
    }

    /// Calls `visit` with every key of `range` that exists at `revision`, in order.
    pub(super) fn visit<'s>(&'s self, range: KeyRange<'_>, revision: i64, mut visit: impl FnMut(&'s Bytes, &'s Edit)) {
        let Some(bounds) = range.bounds() else {
            if let Some((key, history)) = self.keys.get_key_value(range.start)
                && let Some(edit) = history.at(revision)
            {
                visit(key, edit);
            }
            return;
        };
        if range.is_empty() {
            return; // `BTreeMap::range` panics on these
        }
        for (key, history) in self.keys.range::<[u8], _>(bounds) {
            if let Some(edit) = history.at(revision) {
                visit(key, edit);
            }
        }
    }

    /// The key as it is at `revision`.
    pub(super) fn get(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let (key, history) = self.keys.get_key_value(key)?;
        history.at(revision)?.key_value(key)
    }

    /// Forgets every version that cannot be seen at `revision` or later. Takes time by the changes since the last
    /// compaction, not by the keys.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), KvError> {
        if revision <= self.compacted {
            return Err(KvError::Compacted);
        }
        if revision > self.revision {
            return Err(KvError::FutureRevision);
        }
        self.compacted = revision;
        while let Some((_, key)) = self.changes.pop_front_if(|(changed, _)| changed.main <= revision) {
            let Some(history) = self.keys.get_mut(&key) else { continue }; // an earlier change removed it
            self.sizes.total -= history.compact(revision, &key);
            if history.is_empty() {
                self.keys.remove(&key);
            }
        }
        if self.changes.capacity() > 4 * self.changes.len() {
            self.changes.shrink_to_fit();
        }
        Ok(())
    }

    /// Starts a write transaction.
    pub(super) fn write(&mut self) -> Writer<'_> {
        Writer { main: self.revision + 1, sub: 0, store: self }
    }
}

/// A write transaction: all its changes share one revision, which exists once there is a change.
pub(super) struct Writer<'a> {
    store: &'a mut Store,
    main: i64,
    sub: i64,
}

impl Writer<'_> {
    /// The store, with the changes so far.
    pub(super) fn store(&self) -> &Store {
        self.store
    }

    /// The revision that a read within the transaction sees.
    pub(super) fn revision(&self) -> i64 {
        if self.sub == 0 { self.main - 1 } else { self.main }
    }

    /// Puts a key. The bytes are copied: what arrives is a slice of a whole batch, which would stay in memory.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let revision = self.next();
        let mut edit =
            Edit { revision, created: revision.main, version: 1, lease, value: Some(Bytes::copy_from_slice(value)) };
        let added = edit.bytes(key);
        self.store.sizes.total += added;
        self.store.sizes.live += added;
        let key = match self.store.keys.entry(Bytes::copy_from_slice(key)) {
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                entry.insert(History::new(edit));
                key
            }
            Entry::Occupied(mut entry) => {
                let key = entry.key().clone();
                if let Some(old) = entry.get().at(revision.main) {
                    edit.created = old.created;
                    edit.version = old.version + 1;
                    self.store.sizes.live -= old.bytes(&key);
                }
                entry.get_mut().push(edit);
                key
            }
        };
        self.store.changes.push_back((revision, key));
    }

    /// Deletes the keys of a range; returns how many there were.
    pub(super) fn delete(&mut self, range: KeyRange<'_>) -> i64 {
        let mut doomed = Vec::new();
        let mut freed = 0;
        self.store.visit(range, self.main, |key, edit| {
            freed += edit.bytes(key);
            doomed.push(key.clone());
        });
        self.store.sizes.live -= freed;
        let count = doomed.len() as i64;
        for key in doomed {
            let revision = self.next();
            let Some(history) = self.store.keys.get_mut(&key) else { continue };
            history.push(Edit { revision, created: 0, version: 0, lease: 0, value: None });
            self.store.sizes.total += key.len() as u64;
            self.store.changes.push_back((revision, key));
        }
        count
    }

    /// Ends the transaction; returns the store's revision after it.
    pub(super) fn finish(self) -> i64 {
        self.store.revision = self.revision();
        self.store.revision
    }

    fn next(&mut self) -> Revision {
        let sub = self.sub;
        self.sub += 1;
        Revision { main: self.main, sub }
    }
}

/// The keys that a request names with `key` and `range_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRange<'a> {
    pub(super) start: &'a [u8],
    pub(super) end: End<'a>,
}

/// First and last key of a search in the map.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The end of a [`KeyRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// The start is the only key.
    Single,
    /// Exclusive.
    Before(&'a [u8]),
    /// Every key from the start on.
    Open,
}

impl<'a> KeyRange<'a> {
    /// Reads a request's fields: no end is one key, an end of one zero byte is no bound.
    pub(super) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end),
        };
        KeyRange { start: key, end }
    }

    /// Whether no key can be in it.
    fn is_empty(&self) -> bool {
        matches!(self.end, End::Before(end) if end <= self.start)
    }

    /// As bounds of a search; `None` for a single key.
    fn bounds(&self) -> Option<Bounds<'a>> {
        let start = Bound::Included(self.start);
        match self.end {
            End::Single => None,
            End::Before(end) => Some((start, Bound::Excluded(end))),
            End::Open => Some((start, Bound::Unbounded)),
        }
    }
}
