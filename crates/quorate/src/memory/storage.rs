//! A log in memory. Writes complete inline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_core::{GroupId, LogId, LogIds, Recovered, Run, Span, Tail as LogTail, Vote, WriteId};
use quorate_wire::{Batches, EntryKind, decode_membership};

use crate::driver::Tail;
use crate::{Completions, LogWrite, RaftLogStorage, StorageError, StorageErrorKind};

/// A log in memory: lost with the process. Cheap to clone; a clone is the same log, so that a test can restart
/// a node on it.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    groups: Arc<Mutex<BTreeMap<GroupId, MemoryLog>>>,
}

/// The log of one group.
#[derive(Clone, Default)]
pub(crate) struct MemoryLog(Arc<Mutex<Group>>);

struct Group {
    completions: Option<Arc<dyn Completions>>,
    vote: Vote,
    purged: LogId,
    log: Tail,
    promised_lease: Duration,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            completions: None,
            vote: Vote::default(),
            purged: LogId::ZERO,
            log: Tail::new(usize::MAX),
            promised_lease: Duration::ZERO,
        }
    }
}

impl std::fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

impl MemoryStorage {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group's log, to write to without looking for it each time.
    pub(crate) fn log_of(&self, group: GroupId) -> MemoryLog {
        self.groups.lock().entry(group).or_default().clone()
    }
}

impl MemoryLog {
    /// Makes a write: it is durable, as far as memory is, when this returns. It has no id, and is not reported.
    pub(crate) fn write(&self, op: LogWrite) {
        self.0.lock().write(op);
    }

    /// As a [write](Self::write) of entries.
    pub(crate) fn append(&self, batches: &Batches) {
        self.0.lock().log.append(batches);
    }
}

impl Group {
    fn write(&mut self, op: LogWrite) {
        match op {
            LogWrite::Vote(vote) => self.vote = vote,
            LogWrite::Append(batches) => self.log.append(&batches),
            LogWrite::Truncate { after } => self.log.truncate_after(after),
            LogWrite::Reset { to, tail } => {
                match tail {
                    LogTail::Keep => self.log.forget(to.index),
                    LogTail::Discard => self.log.clear(),
                }
                self.purged = to;
            }
            LogWrite::PromiseLease(lease) => self.promised_lease = self.promised_lease.max(lease),
            // Nothing damages a memory: it never promised more than its log holds.
            LogWrite::ForgetPromisedEnd => {}
        }
    }

    fn recovered(&self) -> Result<Recovered, StorageError> {
        let mut memberships = Vec::new();
        let mut runs = Vec::new();
        for batch in self.log.iter().filter(|batch| batch.last().index > self.purged.index) {
            runs.push(Run { leader_id: batch.last().leader_id, last: batch.last().index });
            for entry in batch.iter().filter(|entry| entry.kind == EntryKind::Membership) {
                let membership = decode_membership(entry.payload)
                    .map_err(|error| StorageError::new(StorageErrorKind::Corrupt, error.to_string()))?;
                memberships.push((entry.log_id, membership));
            }
        }
        memberships.retain(|(log_id, _)| log_id.index > self.purged.index);
        Ok(Recovered {
            vote: self.vote,
            log: LogIds::new(self.purged, runs),
            memberships,
            snapshot: None,
            applied: LogId::ZERO,
            promised_lease: self.promised_lease,
            promised_end: LogId::ZERO,
        })
    }
}

impl RaftLogStorage for MemoryStorage {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        let log = self.log_of(group);
        let mut group = log.0.lock();
        group.completions = Some(completions);
        group.recovered()
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        let completions = {
            let log = self.log_of(group);
            let mut group = log.0.lock();
            group.write(op);
            group.completions.clone()
        };
        if let Some(completions) = completions {
            completions.complete(write, Ok(()));
        }
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        let Some(mut found) = self.log_of(group).0.lock().log.read(span) else { return Ok(None) };
        let mut bytes = 0;
        let fits = found.iter().take_while(|batch| {
            let first = bytes == 0;
            bytes += batch.bytes().len() as u64;
            first || bytes <= max_bytes
        });
        let count = fits.count();
        found.truncate(count);
        Ok(Some(found))
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        let log = self.log_of(group);
        let mut group = log.0.lock();
        group.log.forget(upto.index);
        group.purged = group.purged.max(upto);
    }

    fn as_memory(&self) -> Option<&MemoryStorage> {
        Some(self)
    }
}
