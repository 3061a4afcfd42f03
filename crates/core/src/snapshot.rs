//! Snapshots: when to build one, what to purge, how one is installed (dissertation 5).

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::durability::Held;
use crate::event::{Action, Actions, Note, Outcome, Refusal, SnapshotMeta, Tail, WriteOp};
use crate::follower::{Ack, MAX_INDEX};
use crate::ids::{LogId, NodeId, RequestId};
use crate::kept::Kept;
use crate::log::LogIds;
use crate::membership::Membership;
use crate::message::AppendHeader;
use crate::pieces::Pieces;
use crate::time::Instant;

/// A snapshot that could not be built is tried again after this long.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// The newest snapshot and what is being done about snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Snapshots {
    /// The end of the newest durable snapshot. Never goes back.
    pub(crate) last: LogId,
    /// A build was asked for and has not ended.
    building: bool,
    pub(crate) installing: Option<(SnapshotMeta, Ack)>,
    /// What the policies count from.
    since: Since,
    /// A build failed: not again before this, unless somebody asks.
    retry_at: Option<Instant>,
    /// Who waits for a snapshot, and which index it must hold.
    requests: Vec<(RequestId, u64)>,
    /// The log is no longer wanted up to here, but for peers that lag.
    purge_to: u64,
    /// The part of the log that may be kept for them.
    pub(crate) kept: Kept,
}

/// Where the thresholds of the policies count from: the last snapshot, or the last time that the state machine would
/// not build one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Since {
    index: u64,
    at: Instant,
    /// Bytes written to the log since; counted only if a policy asks for it.
    bytes: u64,
    /// The entry with which they became so many that a snapshot is due once it is applied.
    full_at: Option<u64>,
}

impl Snapshots {
    pub(crate) fn recovered(last: LogId, purged: u64, now: Instant) -> Self {
        Self {
            last,
            since: Since { index: last.index, at: now, ..Since::default() },
            kept: Kept::after(purged),
            ..Self::default()
        }
    }

    /// Those who wait for a snapshot.
    pub(crate) fn callers(&self) -> impl Iterator<Item = RequestId> {
        self.requests.iter().map(|(request, _)| *request)
    }
}

impl Since {
    fn count(&mut self, bytes: u64, last: u64, threshold: u64) {
        self.bytes += bytes;
        if self.bytes >= threshold && self.full_at.is_none() {
            self.full_at = Some(last);
        }
    }
}

impl Core {
    // ---- when to build ----

    /// Entries up to `last` were appended.
    pub(crate) fn note_size(&mut self, last: u64, bytes: u64) {
        self.pieces.push(last, bytes);
        self.snapshot.kept.push(last, bytes, self.config.max_kept_bytes);
        if self.config.snapshot_bytes > 0 {
            self.snapshot.since.count(bytes, last, self.config.snapshot_bytes);
        }
    }

    /// When the next snapshot is to be built, which may be in the past; `None`: nothing to wait for.
    pub(crate) fn snapshot_due_at(&self) -> Option<Instant> {
        let (snapshot, config) = (&self.snapshot, &self.config);
        if snapshot.building || snapshot.installing.is_some() {
            return None;
        }
        if !snapshot.requests.is_empty() {
            return Some(Instant::ORIGIN);
        }
        if self.applied.index <= snapshot.last.index {
            return None;
        }
        let entries = self.applied.index.saturating_sub(snapshot.since.index);
        let large = config.snapshot_entries > 0 && entries >= config.snapshot_entries
            || snapshot.since.full_at.is_some_and(|index| self.applied.index >= index);
        let due = match (large, config.snapshot_interval.is_zero()) {
            (true, _) => Instant::ORIGIN,
            (false, false) => snapshot.since.at + config.snapshot_interval,
            (false, true) => return None,
        };
        Some(due.max(snapshot.retry_at.unwrap_or(Instant::ORIGIN)))
    }

    /// Asks for a snapshot if one is due.
    pub(crate) fn maybe_build_snapshot(&mut self, out: &mut Actions) {
        if self.snapshot_due_at().is_some_and(|due| due <= self.now) {
            self.build_snapshot(out);
        }
    }

    fn build_snapshot(&mut self, out: &mut Actions) {
        self.snapshot.building = true;
        out.push(Action::BuildSnapshot);
        if bug(Bug::PurgeBeforeSnapshotIsDurable) {
            self.snapshot.last = self.applied;
            self.purge_log(self.applied.index, out);
        }
    }

    /// A caller wants a snapshot. One that is being built may not hold what the caller has in mind: it is answered
    /// when a snapshot holds all that was handed out to be applied, of which the machine may have told the caller
    /// already.
    pub(crate) fn on_snapshot_wanted(&mut self, request: Option<RequestId>, out: &mut Actions) {
        let (applied, last) = (self.apply_sent.index, self.snapshot.last);
        if let Some(request) = request {
            let outcome = match applied {
                0 => Outcome::Refused(Refusal::NothingApplied),
                _ if applied <= last.index => Outcome::SnapshotBuilt(last),
                _ => return self.snapshot.requests.push((request, applied)),
            };
            return out.push(Action::Reply { request, outcome });
        }
        let busy = self.snapshot.building || self.snapshot.installing.is_some();
        if self.applied.index > last.index && !busy {
            self.build_snapshot(out);
        }
    }

    /// What is on disk cannot be sent, and would not be restored at the next start: another is built over it, of the same
    /// entries if nothing was applied since. One that is on its way takes its place as well.
    pub(crate) fn on_snapshot_damaged(&mut self, out: &mut Actions) {
        let busy = self.snapshot.building || self.snapshot.installing.is_some();
        if self.applied.index > 0 && !busy && !bug(Bug::DamagedSnapshotStays) {
            self.build_snapshot(out);
        }
    }

    /// Answers those whose snapshot there is now.
    fn answer_snapshot_requests(&mut self, out: &mut Actions) {
        let last = self.snapshot.last;
        for (request, _) in self.snapshot.requests.extract_if(.., |(_, holds)| *holds <= last.index) {
            out.push(Action::Reply { request, outcome: Outcome::SnapshotBuilt(last) });
        }
    }

    pub(crate) fn refuse_snapshot_requests(&mut self, why: &Refusal, out: &mut Actions) {
        for (request, _) in std::mem::take(&mut self.snapshot.requests) {
            out.push(Action::Reply { request, outcome: Outcome::Refused(why.clone()) });
        }
    }

    // ---- how a build ended ----

    pub(crate) fn on_snapshot_built(&mut self, meta: &SnapshotMeta, out: &mut Actions) {
        self.snapshot.building = false;
        let last = meta.last_log_id;
        if last.index > self.apply_sent.index || self.log.at(last.index).is_some_and(|mine| mine != last) {
            // It is of something else than what was applied.
            return self.refuse_snapshot_requests(&Refusal::SnapshotFailed, out);
        }
        // A build that was captured before an install may end after it.
        if meta.last_log_id.index > self.snapshot.last.index {
            self.take_snapshot(meta.last_log_id);
            if bug(Bug::SnapshotNewerThanApplied) {
                self.snapshot.last = self.log.at(self.commit).unwrap_or(self.snapshot.last);
            }
            self.snapshot.purge_to = self.snapshot.last.index.saturating_sub(self.config.keep_entries);
            self.maybe_purge(out);
        }
        self.answer_snapshot_requests(out);
    }

    /// A newer snapshot is durable.
    fn take_snapshot(&mut self, last: LogId) {
        self.snapshot.last = last;
        let counted = if bug(Bug::TriggerDuringABuildIsLost) { self.applied.index } else { last.index };
        self.snapshot.since = Since { index: counted, at: self.now, ..Since::default() };
        if self.config.snapshot_bytes > 0 {
            let bytes = self.pieces.bytes_after(last.index);
            self.snapshot.since.count(bytes, self.log.last().index, self.config.snapshot_bytes);
        }
        self.snapshot.retry_at = None;
    }

    /// Everything is as before; whoever asked is told, and a policy waits a little.
    pub(crate) fn on_snapshot_build_failed(&mut self, out: &mut Actions) {
        self.snapshot.building = false;
        self.snapshot.retry_at = Some(self.now + SNAPSHOT_RETRY);
        self.refuse_snapshot_requests(&Refusal::SnapshotFailed, out);
        if bug(Bug::FailedBuildPurges) {
            self.snapshot.last = self.applied;
            self.purge_log(self.applied.index.saturating_sub(self.config.keep_entries), out);
        }
    }

    /// Not now: it is asked again once as much was applied, or as much time passed, as if it had built one.
    pub(crate) fn on_snapshot_deferred(&mut self, out: &mut Actions) {
        self.snapshot.building = false;
        self.snapshot.since = Since { index: self.applied.index, at: self.now, ..Since::default() };
        self.refuse_snapshot_requests(&Refusal::SnapshotDeferred, out);
    }

    // ---- purging ----

    pub(crate) fn on_purge_log(&mut self, upto: u64, request: Option<RequestId>, out: &mut Actions) {
        self.purge_log(upto, out);
        if let Some(request) = request {
            out.push(Action::Reply { request, outcome: Outcome::LogPurged(self.log.purged()) });
        }
    }

    /// Forgets what no policy keeps, and no peer is about to read.
    pub(crate) fn maybe_purge(&mut self, out: &mut Actions) {
        let upto = self.snapshot.purge_to.min(self.needed_after());
        self.purge_log(upto, out);
    }

    /// A leader keeps what a live peer has not acknowledged, and what follows a snapshot on its way to one, up to a
    /// number of bytes: else a peer that only lags would be sent snapshots again and again.
    fn needed_after(&self) -> u64 {
        let Role::Leader(leader) = &self.role else { return u64::MAX };
        if bug(Bug::PurgeIgnoresLaggingFollower) {
            return u64::MAX;
        }
        let lease = self.config.election_timeout_max;
        let needed = leader.peers.iter().filter_map(|peer| peer.needs_after(self.now, lease)).min();
        needed.unwrap_or(u64::MAX).max(self.snapshot.kept.floor())
    }

    /// Forgets entries up to `upto`, as far as a durable snapshot covers them.
    fn purge_log(&mut self, upto: u64, out: &mut Actions) {
        let upto = upto.min(self.snapshot.last.index).min(self.disk.index());
        if upto <= self.log.purged().index {
            return;
        }
        self.log.purge(upto);
        self.snapshot.kept.forget(upto);
        out.push(Action::Purge { upto: self.log.purged() });
    }

    // ---- installing ----

    pub(crate) fn on_snapshot_received(
        &mut self,
        from: NodeId,
        header: AppendHeader,
        meta: SnapshotMeta,
        out: &mut Actions,
    ) {
        if from == self.config.node_id {
            return out.note(Note::Impossible { from, what: "a snapshot from this node itself" });
        }
        if !self.accept_leader(from, &header, out) {
            return;
        }
        let usable = meta.last_log_id.leader_id <= header.vote.leader_id
            && meta.membership_log_id <= meta.last_log_id
            && (meta.membership_log_id.index <= meta.last_log_id.index || bug(Bug::SnapshotOfALaterMembership))
            && (1..=MAX_INDEX).contains(&meta.last_log_id.index)
            && meta.membership.check(self.config.mode).is_ok();
        if !usable {
            return out.note(Note::Impossible { from, what: "a snapshot whose description cannot be" });
        }
        let covered = meta.last_log_id.index <= self.commit;
        if !covered && self.conflicts_with_commit(meta.last_log_id) {
            return out.note(Note::Impossible { from, what: "a snapshot that conflicts with committed entries" });
        }
        if !covered && self.contradicts_memberships(&meta) {
            return out.note(Note::Impossible { from, what: "a snapshot with another membership than the log holds" });
        }
        if covered {
            // Everything in it is here already.
            self.accept_upto(meta.last_log_id.index, 0);
            return self.answer_append(from, &header, out);
        }
        if self.snapshot.installing.is_some() {
            return;
        }
        let AppendHeader { vote, stream, round, .. } = header;
        let ack = Ack { to: from, vote, stream, round, promised: Duration::ZERO, matched: LogId::ZERO };
        self.snapshot.installing = Some((meta.clone(), ack));
        // An installed snapshot says which leader it is from: it must not be durable before the vote for it is.
        if bug(Bug::InstallBeforeTheVote) {
            return out.push(Action::InstallSnapshot(meta));
        }
        self.disk.hold(Held::Act(Action::InstallSnapshot(meta)));
    }

    /// Whether the log, as far as it holds what the snapshot does, says another membership was in force at its end.
    fn contradicts_memberships(&self, meta: &SnapshotMeta) -> bool {
        if bug(Bug::SnapshotOfAnotherMembership) {
            return false;
        }
        let mut known = self.memberships.iter();
        let otherwise = known.any(|(id, known)| *id == meta.membership_log_id && *known != meta.membership);
        let mut before = self.memberships.iter().rev().filter(|(id, _)| id.index <= meta.last_log_id.index);
        let at_its_end = before.next().filter(|_| self.log.holds(meta.last_log_id));
        otherwise || at_its_end.is_some_and(|(id, _)| *id != meta.membership_log_id)
    }

    /// Whether a log that ends with this entry, which this one does not hold, lacks something that is committed.
    fn conflicts_with_commit(&self, to: LogId) -> bool {
        to.index <= self.commit || self.log.at(self.commit).is_some_and(|committed| to.leader_id < committed.leader_id)
    }

    /// Everything is as before. The leader, who knows nothing of it, sends a snapshot again when none is acknowledged.
    pub(crate) fn on_snapshot_install_failed(&mut self) {
        self.snapshot.installing = None;
    }

    /// The snapshot is durable and restored: now, and only now, the log is reset to it, in one write (law 11).
    pub(crate) fn on_snapshot_installed(&mut self, meta: SnapshotMeta, out: &mut Actions) {
        let Some((asked, ack)) = self.snapshot.installing.take() else { return };
        if asked != meta {
            return out.note(Note::Impossible { from: ack.to, what: "an installed snapshot that was not asked for" });
        }
        let to = meta.last_log_id;
        // Rule: what follows the snapshot is good only if the log holds the snapshot's last entry.
        let keep = self.log.holds(to) || bug(Bug::InstallKeepsConflictingTail) && self.log.last().index >= to.index;
        let contradicts = keep && self.contradicts_memberships(&meta);
        if contradicts || !keep && (self.conflicts_with_commit(to) || self.is_leader()) {
            // Meanwhile another entry was committed there, or won an election: one of two leaders lied. The state
            // machine is the snapshot's by now and the log is the other's, so nothing more is done with either.
            self.snapshot.installing = Some((asked, ack));
            out.note(Note::Impossible { from: ack.to, what: "a snapshot that conflicts with committed entries" });
            return self.halt(out);
        }
        let tail = if keep { Tail::Keep } else { Tail::Discard };
        match tail {
            Tail::Keep => self.log.purge(to.index),
            Tail::Discard => {
                self.log = LogIds::after(to);
                self.pieces = Pieces::after(to.index);
                self.snapshot.kept = Kept::after(to.index);
                if let Role::Follower(follower) = &mut self.role {
                    // What was accepted of a leader that contradicts the snapshot is gone.
                    follower.accepted = follower.accepted.min(to.index);
                    follower.ack = follower.ack.filter(|ack| ack.matched.index <= to.index);
                }
                if !bug(Bug::InstallKeepsDiscardedMemberships) {
                    self.memberships.clear();
                }
            }
        }
        self.disk.write(WriteOp::Reset { to, tail }, out);
        self.memberships.retain(|(id, _)| id.index > to.index);
        let membership = if bug(Bug::SnapshotWithoutMembership) { Membership::default() } else { meta.membership };
        self.memberships.insert(0, (meta.membership_log_id, membership));
        self.commit = self.commit.max(to.index);
        self.apply_sent = self.apply_sent.max(to);
        self.applied = self.applied.max(to);
        self.take_snapshot(to);
        self.snapshot.kept.forget(to.index);
        self.forget_old_memberships();
        out.note(Note::SnapshotInstalled(to));
        self.forget_promised_end(out);
        self.on_membership_in_force(out);
        self.answer_snapshot_requests(out);
        self.accept_upto(to.index, 0);
        if ack.vote.leader_id == self.vote.leader_id {
            self.expect_ack(ack);
        }
    }

    fn expect_ack(&mut self, ack: Ack) {
        if let Role::Follower(follower) = &mut self.role {
            // The newest stream keeps its place: an ack of an older one would be ignored anyway.
            let newer = follower.ack.is_some_and(|known| known.stream > ack.stream);
            if !newer {
                let matched = follower.ack.map_or(LogId::ZERO, |known| known.matched);
                let newest = follower.ack.filter(|known| known.round >= ack.round).unwrap_or(ack);
                follower.ack = Some(Ack { matched, round: newest.round, promised: newest.promised, ..ack });
            }
        }
    }
}
