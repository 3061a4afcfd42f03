//! What a leader knows of one peer, and how it replicates to it.

use std::collections::VecDeque;

use crate::bug::{Bug, bug};
use crate::event::{Actions, Note, PeerState};
use crate::ids::{Incarnation, LogId, NodeId, Round, StartId, StreamId};
use crate::time::Instant;

/// A peer as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    /// The disk it last spoke from; `None` until it has.
    pub(crate) incarnation: Option<Incarnation>,
    /// The disks under which the membership in force names it as a voter.
    pub(crate) named: Vec<Incarnation>,
    /// The peer holds this and everything before it, durably. Goes back only if it says that entries are lost.
    pub(crate) matched: LogId,
    /// Next entry to send. Invariant: `matched.index < next <= last + 1`.
    pub(crate) next: u64,
    pub(crate) mode: Mode,
    /// The current stream; replies of others are ignored.
    pub(crate) stream: StreamId,
    /// The newest round when `matched` was learned: what was sent in a later one was sent knowing it.
    pub(crate) matched_in: Round,
    /// Probes and failed sends since it last answered.
    pub(crate) unanswered: u32,
    /// The newest round when it was last asked, behind the entries in flight, whether it got them.
    pub(crate) asked_behind: Round,
    /// The last round it acknowledged, and when that round began.
    pub(crate) acked: Round,
    pub(crate) acked_at: Option<Instant>,
    /// It elects nobody else before this moment, counted from send time on the leader's clock (law 17).
    pub(crate) promised_until: Option<Instant>,
    /// When it was last sent an append, with or without entries.
    pub(crate) sent_at: Option<Instant>,
    /// The commit index that append carried.
    pub(crate) sent_commit: u64,
    /// It denied holding what it had acknowledged: an older copy of its disk was put back. It is served, but
    /// no longer counted (law 15).
    pub(crate) regressed: bool,
    /// The last start of which it said that entries are lost. Nothing counts that it acknowledged before that start.
    pub(crate) heard: Option<StartId>,
    /// It lost entries and still keeps to what it promised: it may refuse every log.
    pub(crate) promises: bool,
    /// How often it was sent a snapshot since it last replicated.
    pub(crate) snapshot_tries: u32,
}

/// How the leader replicates to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// One append at a time, to find where the logs match. `retry_at`: when to send it again; `sent`: the
    /// entries it carried, which are in flight if it is accepted.
    Probe { retry_at: Option<Instant>, sent: Option<Inflight> },
    /// Logs match up to `next - 1`: appends are pipelined.
    Replicate { inflight: VecDeque<Inflight>, oldest_sent: Instant },
    /// A snapshot is on its way. `retry_at`: when to send it again, once the transfer ended; `holds`: the peer will
    /// hold at least this index when it has it, and then needs the log from there on.
    Snapshot { retry_at: Option<Instant>, holds: u64 },
}

/// An append with entries that is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inflight {
    /// Index of its first entry.
    pub(crate) first: u64,
    /// Index of its last entry.
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    /// The sizes of its entries were not known, so the driver may have sent only the front of it.
    pub(crate) cold: bool,
    /// The newest round when it was sent.
    pub(crate) round: Round,
}

impl Progress {
    pub(crate) fn new(id: NodeId, next: u64, stream: StreamId) -> Self {
        Self {
            id,
            incarnation: None,
            named: Vec::new(),
            matched: LogId::ZERO,
            matched_in: Round(0),
            next,
            mode: Mode::Probe { retry_at: None, sent: None },
            stream,
            unanswered: 0,
            asked_behind: Round(0),
            acked: Round(0),
            acked_at: None,
            promised_until: None,
            sent_at: None,
            sent_commit: 0,
            regressed: false,
            heard: None,
            promises: false,
            snapshot_tries: 0,
        }
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.mode {
            Mode::Probe { .. } => PeerState::Probe,
            Mode::Replicate { .. } => PeerState::Replicate,
            Mode::Snapshot { .. } => PeerState::Snapshot,
        }
    }

    /// Whether its word counts for a voter of this incarnation (law 15).
    pub(crate) fn counts_as(&self, incarnation: Incarnation) -> bool {
        if bug(Bug::CountsAnotherDisk) {
            return self.incarnation.is_some() && !self.regressed;
        }
        self.incarnation == Some(incarnation) && (!self.regressed || bug(Bug::CountsAnOlderCopy))
    }

    /// The disk it is told that it votes as: the one it speaks from, if that votes.
    pub(crate) fn named(&self) -> Option<Incarnation> {
        self.incarnation.filter(|disk| self.named.contains(disk)).or(self.named.last().copied())
    }

    /// The index after which this peer is about to be sent entries, if it is worth keeping them: it is alive, or is
    /// being sent a snapshot.
    pub(crate) fn needs_after(&self, now: Instant, lease: std::time::Duration) -> Option<u64> {
        match self.mode {
            Mode::Snapshot { holds, .. } => Some(holds),
            Mode::Probe { .. } | Mode::Replicate { .. } => {
                let alive = self.acked_at.is_some_and(|at| now.since(at) < lease);
                alive.then_some(self.matched.index)
            }
        }
    }

    pub(crate) fn note_sent(&mut self, now: Instant, commit: u64) {
        self.sent_at = Some(now);
        self.sent_commit = commit;
    }

    /// Whether it was sent everything up to `last`, and need not be sent it again for all that is known.
    pub(crate) fn is_sent(&self, last: u64) -> bool {
        matches!(self.mode, Mode::Replicate { .. }) && self.next > last
    }

    pub(crate) fn inflight_appends(&self) -> usize {
        match &self.mode {
            Mode::Replicate { inflight, .. } => inflight.len(),
            Mode::Probe { sent, .. } => usize::from(sent.is_some()),
            Mode::Snapshot { .. } => 0,
        }
    }

    pub(crate) fn inflight_bytes(&self) -> u64 {
        match &self.mode {
            Mode::Replicate { inflight, .. } => inflight.iter().map(|sent| sent.bytes).sum(),
            Mode::Probe { .. } | Mode::Snapshot { .. } => 0,
        }
    }

    /// Whether it holds all of the snapshot that was on its way to it, and still is taken to wait for it.
    pub(crate) fn has_its_snapshot(&self) -> bool {
        matches!(self.mode, Mode::Snapshot { holds, .. } if self.matched.index >= holds)
    }

    /// It accepted an append: the logs match. From now on appends are pipelined, unless what it holds was purged from the
    /// leader's log and it needs a snapshot still.
    #[cold]
    pub(crate) fn matches(&mut self, matched: LogId, purged: LogId, now: Instant, out: &mut Actions) {
        let mut inflight = VecDeque::new();
        match &self.mode {
            Mode::Probe { sent, .. } => inflight.extend(*sent),
            Mode::Snapshot { .. } if matched.index.max(self.matched.index) >= purged.index => {}
            Mode::Snapshot { .. } | Mode::Replicate { .. } => return,
        }
        self.next = match inflight.back() {
            Some(sent) => sent.last + 1,
            None => self.next.max(self.matched.index + 1),
        };
        self.mode = Mode::Replicate { inflight, oldest_sent: now };
        self.snapshot_tries = 0;
        out.note(Note::PeerState { peer: self.id, state: PeerState::Replicate });
    }

    /// Takes in that the peer holds `matched` durably; returns whether that is news.
    pub(crate) fn advance_matched(&mut self, matched: LogId, round: Round, now: Instant) -> bool {
        if matched.index <= self.matched.index {
            return false;
        }
        self.matched = matched;
        self.matched_in = self.matched_in.max(round);
        self.next = self.next.max(matched.index + 1);
        if let Mode::Replicate { inflight, oldest_sent } = &mut self.mode {
            while let Some(sent) = inflight.front() {
                // Of a cold append only the front may have been sent: go on from where it ended.
                let cut = sent.cold
                    && !bug(Bug::FrontTakenForTheWhole)
                    && matched.index >= sent.first
                    && matched.index < sent.last;
                if cut {
                    self.next = matched.index + 1;
                }
                let front = bug(Bug::FrontTakenForTheWhole) && matched.index >= sent.first;
                if !cut && !front && matched.index < sent.last {
                    break;
                }
                inflight.pop_front();
                *oldest_sent = now;
            }
        }
        true
    }
}
