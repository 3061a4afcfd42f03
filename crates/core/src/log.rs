//! The shape of a log: which leader created which indexes. Payloads live outside the core.

use std::collections::VecDeque;
use std::fmt;

use crate::ids::{LeaderId, LogId};

/// A stretch of the log: the entries after `prev` up to and including `last`.
///
/// Named by both end ids: by log matching, a log that holds `last` holds exactly these entries, so a span
/// can never be read under the wrong leader.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The log id before the first entry.
    pub prev: LogId,
    /// The last entry.
    pub last: LogId,
}

impl Span {
    /// Index of the first entry.
    #[inline]
    pub fn first_index(&self) -> u64 {
        self.prev.index + 1
    }

    /// Number of entries.
    #[inline]
    pub fn count(&self) -> u64 {
        self.last.index.saturating_sub(self.prev.index)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}]", self.prev, self.last)
    }
}

/// Consecutive entries of one leader, up to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Who created them.
    pub leader_id: LeaderId,
    /// The last index of the run; the first follows from what comes before.
    pub last: u64,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.leader_id, self.last)
    }
}

/// The runs of a message's entries. One run, the common case, needs no allocation.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Runs {
    /// The only run.
    one: Option<Run>,
    /// All of them, if there are more.
    many: Vec<Run>,
}

impl Runs {
    /// No entries.
    pub fn none() -> Self {
        Self::default()
    }

    /// Entries of one leader, up to `last`.
    pub fn one(leader_id: LeaderId, last: u64) -> Self {
        Self { one: Some(Run { leader_id, last }), many: Vec::new() }
    }

    /// Adds entries at the end; extends the last run if the leader is the same.
    pub fn push(&mut self, run: Run) {
        match self.many.last_mut().or(self.one.as_mut()) {
            None => self.one = Some(run),
            Some(end) if end.leader_id == run.leader_id => end.last = run.last,
            Some(_) => {
                self.many.extend(self.one.take());
                self.many.push(run);
            }
        }
    }

    /// The runs, in log order.
    pub fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.as_slice().iter().copied()
    }

    #[inline]
    fn as_slice(&self) -> &[Run] {
        match self.many.is_empty() {
            true => self.one.as_slice(),
            false => &self.many,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The last entry.
    pub fn last(&self) -> Option<LogId> {
        self.as_slice().last().map(|run| LogId::new(run.leader_id, run.last))
    }

    /// Whether the runs can follow `prev` in one log: indexes and leader ids never go back.
    pub fn follow(&self, prev: LogId) -> bool {
        let mut at = prev;
        for run in self.iter() {
            let grows = run.last > at.index && run.leader_id >= at.leader_id;
            if !grows {
                return false;
            }
            at = LogId::new(run.leader_id, run.last);
        }
        true
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The log ids of a log: one record a leader, not one an entry.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LogIds {
    /// The last entry that was purged; the log starts after it.
    purged: LogId,
    /// Runs after `purged`, all but the newest. Invariant: indexes and leader ids grow.
    older: VecDeque<Run>,
    /// Where the newest run begins: the end of `older`, or `purged.index`.
    newest_after: u64,
    /// The last entry, which is the newest run's; `purged`, if there is none. Nearly all that is asked is about that run.
    last: LogId,
}

impl LogIds {
    /// An empty log that starts after `purged`.
    pub fn after(purged: LogId) -> Self {
        Self { purged, older: VecDeque::new(), newest_after: purged.index, last: purged }
    }

    /// A log of these runs after `purged`.
    pub fn new(purged: LogId, runs: impl IntoIterator<Item = Run>) -> Self {
        let mut log = Self::after(purged);
        for run in runs {
            log.append(run.leader_id, run.last);
        }
        log
    }

    /// The last purged entry, or [`LogId::ZERO`].
    #[inline]
    pub fn purged(&self) -> LogId {
        self.purged
    }

    /// The last entry, or the last purged one.
    #[inline]
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.older.iter().copied().chain(self.newest())
    }

    fn newest(&self) -> Option<Run> {
        let LogId { leader_id, index } = self.last;
        (index > self.newest_after).then_some(Run { leader_id, last: index })
    }

    /// The log id at `index`, if the log holds it or it is the last purged.
    #[inline]
    pub fn at(&self, index: u64) -> Option<LogId> {
        match index > self.newest_after {
            true => (index <= self.last.index).then_some(LogId::new(self.last.leader_id, index)),
            false => self.at_older(index),
        }
    }

    fn at_older(&self, index: u64) -> Option<LogId> {
        if index <= self.purged.index {
            return (index == self.purged.index).then_some(self.purged);
        }
        let place = self.older.partition_point(|run| run.last < index);
        self.older.get(place).map(|run| LogId::new(run.leader_id, index))
    }

    /// Whether the log holds exactly this entry, or it is the last purged.
    #[inline]
    pub fn holds(&self, log_id: LogId) -> bool {
        self.at(log_id.index) == Some(log_id)
    }

    /// The last index that belongs to the same run as `index`.
    pub fn run_end(&self, index: u64) -> Option<u64> {
        if index > self.newest_after {
            return (index <= self.last.index).then_some(self.last.index);
        }
        let place = self.older.partition_point(|run| run.last < index);
        self.older.get(place).map(|run| run.last)
    }

    /// The last entry whose index is at most `index` and whose leader id is at most `leader_id`: where two
    /// logs can still agree. At least the purge point.
    pub fn last_at_most(&self, index: u64, leader_id: LeaderId) -> LogId {
        let mut from = self.purged;
        for run in self.runs() {
            if from.index >= index || run.leader_id > leader_id {
                break;
            }
            from = LogId::new(run.leader_id, run.last.min(index));
        }
        from
    }

    /// Adds entries of `leader_id` up to index `last`.
    ///
    /// # Panics
    /// If the log would go back: the caller checked that it does not.
    pub fn append(&mut self, leader_id: LeaderId, last: u64) {
        assert!(last > self.last.index, "an append moves the end of the log forward");
        assert!(leader_id >= self.last.leader_id, "leader ids never go back along a log");
        if leader_id != self.last.leader_id {
            self.older.extend(self.newest());
            self.newest_after = self.last.index;
        }
        self.last = LogId::new(leader_id, last);
    }

    /// Removes the entries after `index`; a no-op if there are none.
    ///
    /// # Panics
    /// If entries after `index` were purged: those are committed.
    pub fn truncate_after(&mut self, index: u64) {
        assert!(index >= self.purged.index, "purged entries are committed and never truncated");
        while self.last.index > index {
            if self.newest_after < index {
                self.last.index = index;
                return;
            }
            self.last = self.older.pop_back().map_or(self.purged, |run| LogId::new(run.leader_id, run.last));
            self.newest_after = self.older.back().map_or(self.purged.index, |run| run.last);
        }
    }

    /// Breaks the order of the log, to see that the checks notice.
    #[cfg(test)]
    pub(crate) fn break_order(&mut self) {
        self.older.push_front(Run { leader_id: self.last.leader_id, last: self.purged.index });
    }

    /// Forgets the entries up to and including `index`; a no-op if they are already purged.
    pub fn purge(&mut self, index: u64) {
        let Some(upto) = self.at(index) else { return };
        if upto.index <= self.purged.index {
            return;
        }
        while self.older.front().is_some_and(|run| run.last <= index) {
            self.older.pop_front();
        }
        self.newest_after = self.newest_after.max(index);
        self.purged = upto;
    }
}

impl fmt::Debug for LogIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.purged)?;
        f.debug_list().entries(self.runs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, 1), index)
    }

    fn log() -> LogIds {
        LogIds::new(id(1, 2), [(1, 4), (3, 7), (4, 9)].map(|(t, last)| Run { leader_id: LeaderId::new(t, 1), last }))
    }

    #[test]
    fn a_log_is_a_list_of_log_ids() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let (mut log, mut list, mut purged) = (LogIds::default(), Vec::<LogId>::new(), LogId::ZERO);
            for _ in 0..60 {
                let last = log.last();
                let index = rng.between(purged.index, last.index + 2);
                match rng.between(0, 4) {
                    0 => {
                        log.truncate_after(index);
                        list.retain(|entry| entry.index <= index);
                    }
                    1 => {
                        log.purge(index);
                        purged = list.iter().copied().find(|entry| entry.index == index).unwrap_or(purged);
                        list.retain(|entry| entry.index > purged.index);
                    }
                    _ => {
                        let (term, to) = (last.leader_id.term + rng.between(0, 2), last.index + rng.between(1, 4));
                        log.append(id(term, to).leader_id, to);
                        list.extend((last.index + 1..=to).map(|index| id(term, index)));
                    }
                }
                assert_eq!((log.purged(), log.last()), (purged, list.last().copied().unwrap_or(purged)));
                for index in 0..=log.last().index + 1 {
                    let entry = list.iter().chain([&purged]).copied().find(|entry| entry.index == index);
                    assert_eq!(log.at(index), entry);
                    let of_its_leader = |later: &&LogId| entry.is_some_and(|entry| entry.leader_id == later.leader_id);
                    let end = list.iter().rfind(of_its_leader).map(|end| end.index);
                    assert!(index <= purged.index || log.run_end(index) == end);
                }
                assert_eq!(log, LogIds::new(purged, log.runs()), "one state is written in one way");
            }
        }
    }

    #[test]
    fn runs_of_a_message_grow_by_leader() {
        let run = |term, last| Run { leader_id: LeaderId::new(term, 1), last };
        let mut runs = Runs::none();
        assert!(runs.is_empty() && runs.last().is_none());
        for (pushed, expected) in [
            (run(1, 4), vec![run(1, 4)]),
            (run(1, 6), vec![run(1, 6)]),
            (run(2, 7), vec![run(1, 6), run(2, 7)]),
            (run(2, 9), vec![run(1, 6), run(2, 9)]),
            (run(3, 10), vec![run(1, 6), run(2, 9), run(3, 10)]),
        ] {
            runs.push(pushed);
            assert_eq!(runs.iter().collect::<Vec<_>>(), expected);
            assert_eq!(runs.last(), Some(LogId::new(pushed.leader_id, pushed.last)));
        }
        assert!(runs.follow(id(1, 5)) && !runs.follow(id(1, 6)) && !runs.follow(id(2, 5)));
    }

    #[test]
    fn every_index_has_the_leader_of_its_run() {
        let log = log();
        let found: Vec<_> = (1..=10).map(|i| log.at(i).map(|id| id.leader_id.term)).collect();
        assert_eq!(found, [None, Some(1), Some(1), Some(1), Some(3), Some(3), Some(3), Some(4), Some(4), None]);
    }

    #[test]
    fn truncation_shortens_or_removes_runs() {
        for keep in 2..=9 {
            let mut log = log();
            let expected = log.at(keep);
            log.truncate_after(keep);
            assert_eq!(Some(log.last()), expected, "truncated after {keep}");
        }
    }

    #[test]
    fn purging_keeps_the_log_id_it_stops_at() {
        for upto in 2..=9 {
            let mut log = log();
            let expected = log.at(upto);
            log.purge(upto);
            assert_eq!(Some(log.purged()), expected);
            assert_eq!(log.last(), id(4, 9));
        }
    }

    #[test]
    fn hints_skip_whole_leaders() {
        let log = log();
        assert_eq!(log.last_at_most(9, LeaderId::new(2, 9)), id(1, 4));
        assert_eq!(log.last_at_most(6, LeaderId::new(9, 9)), id(3, 6));
        assert_eq!(log.last_at_most(9, LeaderId::new(0, 0)), id(1, 2));
    }
}
