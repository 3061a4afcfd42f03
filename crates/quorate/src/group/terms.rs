//! What a caller asks of a write beside its command, and who is told that it is committed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_core::{Core, LeaderId, LogId};

use super::Fired;

/// Called when an entry is committed.
pub(crate) type OnCommit = Box<dyn FnOnce(LogId) + Send>;

/// Someone who wants to know that a write is committed: told at most once, and before it is told of the response.
pub(crate) struct CommitSlot(Mutex<Option<OnCommit>>);

impl CommitSlot {
    pub(crate) fn new(on_commit: OnCommit) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(on_commit))))
    }

    /// Tells, unless that was done. Called without the driver's lock: what is called is the user's.
    pub(crate) fn fire(&self, log_id: LogId) {
        // Held over the call: whoever comes second may tell of the response, and must not overtake it.
        let mut slot = self.0.lock();
        if let Some(on_commit) = slot.take() {
            on_commit(log_id);
        }
    }
}

/// Who answers a write that takes too long once it is in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The node, [`write_timeout`](crate::Config::write_timeout) after the write came: nobody else looks at a clock.
    #[default]
    Node,
    /// Whoever asked, by a deadline of its own, which may be later: a caller here, or the node that forwards.
    Caller,
}

/// What is asked of a write; nothing, most often.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// Only under this leader id.
    pub(crate) only: Option<LeaderId>,
    pub(crate) on_commit: Option<Arc<CommitSlot>>,
    pub(crate) timer: Timer,
}

impl Terms {
    /// Of what another node forwards, and waits for as long as its caller wants.
    pub(crate) fn forwarded(only: Option<LeaderId>) -> Self {
        Self { only, on_commit: None, timer: Timer::Caller }
    }

    /// The write was committed there.
    pub(crate) fn committed(&self, log_id: LogId) {
        if let Some(slot) = &self.on_commit {
            slot.fire(log_id);
        }
    }
}

/// By cell of a batch: who wants to know that it is committed.
pub(crate) type Commits = Vec<(usize, Arc<CommitSlot>)>;

/// Entries in this node's log that someone waits for to be committed, in log order.
#[derive(Default)]
pub(crate) struct CommitWaits(VecDeque<(LogId, Arc<CommitSlot>)>);

impl CommitWaits {
    /// A batch is in the log from `first` on.
    pub(crate) fn proposed(&mut self, first: LogId, commits: Commits) {
        let at = |cell: usize| LogId::new(first.leader_id, first.index + cell as u64);
        self.0.extend(commits.into_iter().map(|(cell, slot)| (at(cell), slot)));
    }

    /// Tells of what is committed. An entry that was replaced, or is in a snapshot only, is told of by its response,
    /// if it has one.
    #[inline]
    pub(crate) fn tell(&mut self, core: &Core, fired: &mut Fired) {
        if !self.0.is_empty() {
            self.tell_committed(core, fired);
        }
    }

    fn tell_committed(&mut self, core: &Core, fired: &mut Fired) {
        while let Some((log_id, slot)) = self.0.pop_front_if(|(log_id, _)| log_id.index <= core.commit()) {
            let holds = core.log().at(log_id.index) == Some(log_id);
            fired.call(move || {
                if holds {
                    slot.fire(log_id)
                }
            });
        }
    }

    /// Nobody is told any more.
    pub(crate) fn close(&mut self, fired: &mut Fired) {
        let left = std::mem::take(&mut self.0);
        // What is dropped may be the user's: not under the driver's lock (law 20).
        fired.call(move || drop(left));
    }
}

/// Drops what nobody will be told of, once no lock is held.
pub(crate) fn forget(commits: Commits, fired: &mut Fired) {
    if !commits.is_empty() {
        fired.call(move || drop(commits));
    }
}
