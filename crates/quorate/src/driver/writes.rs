//! Which writes are durable without a gap, whatever order the storage completes them in.

use std::collections::VecDeque;

use quorate_core::{Bug, Instant, WriteId, bug};

/// Writes that were submitted and not yet reported to the core.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// In the order of their ids; whether each is durable, and since when it is under way.
    open: VecDeque<(WriteId, bool, Instant)>,
}

impl Writes {
    pub(crate) fn submitted(&mut self, write: WriteId, now: Instant) {
        self.open.push_back((write, false, now));
    }

    /// Takes in that this write is durable; unknown and repeated ids are ignored. Returns the last write of the
    /// durable prefix, if that grew.
    pub(crate) fn completed(&mut self, write: WriteId) -> Option<WriteId> {
        if self.open.len() == 1 && self.open.pop_front_if(|(id, _, _)| *id == write).is_some() {
            return Some(write);
        }
        let place = self.place(write)?;
        self.open[place].1 = place == 0 || !bug(Bug::EarlyCompletionIsDropped);
        let mut reached = None;
        while let Some((id, durable, _)) = self.open.front()
            && (*durable || bug(Bug::EarlyCompletionCoversEarlier) && *id < write)
        {
            reached = Some(*id);
            self.open.pop_front();
        }
        reached
    }

    /// Whether the core waits for this write.
    pub(crate) fn waits_for(&self, write: WriteId) -> bool {
        self.place(write).is_some()
    }

    /// When this write was submitted, if it is not durable yet.
    pub(crate) fn since(&self, write: WriteId) -> Option<Instant> {
        let (_, durable, since) = self.open[self.place(write)?];
        (!durable).then_some(since)
    }

    fn place(&self, write: WriteId) -> Option<usize> {
        if self.open.front().is_some_and(|(id, _, _)| *id == write) {
            return Some(0);
        }
        self.open.binary_search_by_key(&write, |(id, _, _)| *id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prefix_without_gaps_is_reported() {
        let mut writes = Writes::default();
        (1..=4).for_each(|id| writes.submitted(WriteId(id), Instant::ORIGIN));
        assert_eq!(writes.completed(WriteId(3)), None);
        assert_eq!(writes.completed(WriteId(2)), None);
        assert_eq!(writes.completed(WriteId(1)), Some(WriteId(3)));
        assert_eq!(writes.completed(WriteId(1)), None, "a repeated id is ignored");
        assert_eq!(writes.completed(WriteId(9)), None, "an unknown id is ignored");
        assert_eq!(writes.completed(WriteId(4)), Some(WriteId(4)));
    }
}
