//! Snapshots: when to build one, what to purge, how one is installed (dissertation 5).

use crate::core::Core;
use crate::durability::Held;
use crate::event::{Action, Actions, Note, SnapshotMeta, Tail, WriteOp};
use crate::follower::Ack;
use crate::ids::{LogId, NodeId};
use crate::log::LogIds;
use crate::message::AppendHeader;
use crate::pieces::Pieces;

impl Core {
    /// Asks for a snapshot if at least `entries` were applied since the last one.
    pub(crate) fn maybe_build_snapshot(&mut self, entries: u64, out: &mut Actions) {
        let due = self.applied.index >= self.snapshot.last.index + entries;
        if due && !self.snapshot.building && self.snapshot.installing.is_none() {
            self.snapshot.building = true;
            out.push(Action::BuildSnapshot);
        }
    }

    pub(crate) fn on_snapshot_built(&mut self, meta: &SnapshotMeta, out: &mut Actions) {
        self.snapshot.building = false;
        if meta.last_log_id.index <= self.snapshot.last.index || meta.last_log_id.index > self.apply_sent.index {
            return;
        }
        self.snapshot.last = meta.last_log_id;
        self.purge_log(meta.last_log_id.index.saturating_sub(self.config.keep_entries), out);
    }

    /// Forgets entries up to `upto`, as far as a durable snapshot covers them.
    pub(crate) fn purge_log(&mut self, upto: u64, out: &mut Actions) {
        let upto = upto.min(self.snapshot.last.index).min(self.disk.index());
        if upto <= self.log.purged().index {
            return;
        }
        self.log.purge(upto);
        out.push(Action::Purge { upto: self.log.purged() });
    }

    pub(crate) fn on_snapshot_received(
        &mut self,
        from: NodeId,
        header: AppendHeader,
        meta: SnapshotMeta,
        out: &mut Actions,
    ) {
        if !self.accept_leader(from, &header, out) {
            return;
        }
        let usable = meta.last_log_id.leader_id <= header.vote.leader_id
            && meta.membership_log_id <= meta.last_log_id
            && meta.last_log_id.index > 0
            && meta.membership.check(self.config.mode).is_ok();
        if !usable {
            return out.note(Note::Impossible { from, what: "a snapshot whose description cannot be" });
        }
        if meta.last_log_id.index <= self.commit {
            // Everything in it is here already.
            self.accept_upto(meta.last_log_id.index, 0);
            return self.answer_append(from, &header, out);
        }
        if self.snapshot.installing.is_some() {
            return;
        }
        let ack = Ack { to: from, vote: header.vote, stream: header.stream, round: header.round, matched: LogId::ZERO };
        self.snapshot.installing = Some((meta.clone(), ack));
        // An installed snapshot says which leader it is from: it must not be durable before the vote for it is.
        self.disk.hold(Held::Act(Action::InstallSnapshot(meta)));
    }

    /// The snapshot is durable and restored: now, and only now, the log is reset to it, in one write (law 11).
    pub(crate) fn on_snapshot_installed(&mut self, meta: SnapshotMeta, out: &mut Actions) {
        let Some((asked, ack)) = self.snapshot.installing.take() else { return };
        if asked != meta {
            return out.note(Note::Impossible { from: ack.to, what: "an installed snapshot that was not asked for" });
        }
        let to = meta.last_log_id;
        // Rule: what follows the snapshot is good only if the log holds the snapshot's last entry.
        let tail = if self.log.holds(to) { Tail::Keep } else { Tail::Discard };
        match tail {
            Tail::Keep => self.log.purge(to.index),
            Tail::Discard => {
                self.log = LogIds::after(to);
                self.pieces = Pieces::after(to.index);
                self.memberships.clear();
            }
        }
        self.disk.write(WriteOp::Reset { to, tail }, out);
        self.memberships.retain(|(id, _)| id.index > to.index);
        self.memberships.insert(0, (meta.membership_log_id, meta.membership));
        self.commit = self.commit.max(to.index);
        self.apply_sent = self.apply_sent.max(to);
        self.applied = self.applied.max(to);
        self.snapshot.last = to;
        self.forget_old_memberships();
        out.note(Note::SnapshotInstalled(to));
        self.on_membership_in_force(out);
        self.accept_upto(to.index, 0);
        if ack.vote.leader_id == self.vote.leader_id {
            self.expect_ack(ack);
        }
    }

    fn expect_ack(&mut self, ack: Ack) {
        if let crate::core::Role::Follower(follower) = &mut self.role {
            // The newest stream keeps its place: an ack of an older one would be ignored anyway.
            let newer = follower.ack.is_some_and(|known| known.stream > ack.stream);
            if !newer {
                let matched = follower.ack.map_or(LogId::ZERO, |known| known.matched);
                let round = follower.ack.map_or(ack.round, |known| known.round.max(ack.round));
                follower.ack = Some(Ack { matched, round, ..ack });
            }
        }
    }
}
