//! The versions of one key.

use bytes::Bytes;

use crate::proto::KeyValue;

/// When something was written: the transaction, and the place within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Revision {
    /// The transaction's revision, from 2.
    pub(super) main: i64,
    /// The change's place in the transaction, from 0.
    pub(super) sub: i64,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// When.
    pub(super) revision: Revision,
    /// The revision that created the key; of a deletion, 0.
    pub(super) created: i64,
    /// How many puts since then; of a deletion, 0.
    pub(super) version: i64,
    /// The lease it is attached to; 0 is none.
    pub(super) lease: i64,
    /// The new value; `None` is a deletion.
    pub(super) value: Option<Bytes>,
}

impl Edit {
    /// The key as this edit leaves it; `None` if it deletes it.
    pub(super) fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        let value = self.value.as_ref()?;
        Some(KeyValue {
            key: key.clone(),
            create_revision: self.created,
            mod_revision: self.revision.main,
            version: self.version,
            value: value.clone(),
            lease: self.lease,
        })
    }

    /// Bytes that it accounts for.
    pub(super) fn bytes(&self, key: &[u8]) -> u64 {
        (key.len() + self.value.as_ref().map_or(0, Bytes::len)) as u64
    }
}

/// The changes of one key, oldest first. Invariant: not empty, revisions ascend, the first is a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    edits: Vec<Edit>,
}

impl History {
    /// A key that is put for the first time.
    pub(super) fn new(first: Edit) -> Self {
        // Room for one: most keys are written once.
        History { edits: vec![first] }
    }

    /// All edits, oldest first.
    pub(super) fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The put that is visible at a revision; `None` if the key does not exist then.
    pub(super) fn at(&self, revision: i64) -> Option<&Edit> {
        let newest = self.edits.last()?;
        let edit = if newest.revision.main <= revision {
            newest
        } else {
            let after = self.edits.partition_point(|edit| edit.revision.main <= revision);
            self.edits.get(after.checked_sub(1)?)?
        };
        edit.value.is_some().then_some(edit)
    }

    /// Adds the newest edit.
    pub(super) fn push(&mut self, edit: Edit) {
        debug_assert!(self.edits.last().is_none_or(|last| last.revision < edit.revision), "edits ascend");
        self.edits.push(edit);
    }

    /// Forgets what cannot be seen at `revision` or later. Returns the bytes freed; the key is to be removed if
    /// nothing [remains](Self::is_empty).
    pub(super) fn compact(&mut self, revision: i64, key: &[u8]) -> u64 {
        let seen = self.edits.partition_point(|edit| edit.revision.main <= revision);
        let Some(last_seen) = seen.checked_sub(1) else { return 0 };
        let keeps_last = self.edits[last_seen].value.is_some();
        let gone = if keeps_last { last_seen } else { seen };
        let freed = self.edits.drain(..gone).map(|edit| edit.bytes(key)).sum();
        if self.edits.capacity() > 4 * self.edits.len() {
            self.edits.shrink_to_fit();
        }
        freed
    }

    /// Whether compaction left nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}
