//! Leading: proposals, replication, rounds, commit, check-quorum (dissertation 3.5, 3.6, 6.2, 10.2).

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::change::Changes;
use crate::config::Config;
use crate::core::{Core, Role};
use crate::event::{Action, Actions, CoreEntry, Note, Outcome, PeerState, Refusal, Source, StepDown};
use crate::ids::{Incarnation, LeaderId, LogId, NodeId, RequestId, Round, StreamId, Vote};
use crate::log::{LogIds, Span};
use crate::message::{Append, AppendAnswer, AppendHeader, AppendReply, Entries, Message, Phase};
use crate::pieces::Pieces;
use crate::progress::{Inflight, Mode, Progress};
use crate::read::ReadQueue;
use crate::rounds::Rounds;
use crate::time::Instant;

/// The pause after a lost snapshot doubles this often: eight times the retransmit timeout at most.
const MAX_SNAPSHOT_BACKOFF: u32 = 3;

/// What only a leader has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    /// Every other node of the membership in force, by id.
    pub(crate) peers: Vec<Progress>,
    pub(crate) next_stream: u64,
    /// Index of the blank entry that started this leadership.
    pub(crate) first_own: u64,
    pub(crate) round: Round,
    /// When the newest rounds began.
    rounds: Rounds,
    heartbeat_at: Instant,
    pub(crate) since: Instant,
    /// A commit quorum acknowledged this leader after this moment.
    pub(crate) quorum_acked: Option<Instant>,
    /// The clock jumped here: earlier rounds and moments say nothing about how long ago something was.
    pub(crate) clock_from: (Round, Instant),
    pub(crate) reads: ReadQueue,
    /// Membership changes that callers wait for.
    pub(crate) changes: Changes,
    /// A node was asked to take over: no lease read is served any more under this leader id (law 17).
    pub(crate) transfer_was_sent: bool,
    /// Since when a committed entry, and which, is not durable here.
    disk_behind: Option<(Instant, u64)>,
    /// Whether this node alone is a commit quorum of the membership in force.
    is_quorum: bool,
    /// If any so many voters of the membership in force are a commit quorum: that number, and whether this node votes.
    count: Option<(usize, bool)>,
}

/// As many voters are counted at once.
const MAX_COUNTED: usize = 5;

/// What sending to a peer needs to know of the rest of the core.
pub(crate) struct Sending<'a> {
    pub(crate) log: &'a LogIds,
    pieces: &'a Pieces,
    config: &'a Config,
    vote: Vote,
    commit: u64,
    /// The end of the newest snapshot.
    snapshot: u64,
    now: Instant,
    pub(crate) round: Round,
    lease: Duration,
}

impl Core {
    pub(crate) fn become_leader(&mut self, out: &mut Actions) {
        self.vote = Vote::committed(self.vote.leader_id);
        let first_own = self.log.last().index + 1;
        self.role = Role::Leader(Box::new(Leader {
            peers: Vec::new(),
            next_stream: 0,
            first_own,
            round: Round(0),
            rounds: Rounds::default(),
            heartbeat_at: self.now + self.config.heartbeat_interval,
            since: self.now,
            quorum_acked: None,
            clock_from: (Round(0), Instant::ORIGIN),
            reads: ReadQueue::default(),
            changes: Changes::default(),
            transfer_was_sent: false,
            disk_behind: None,
            is_quorum: false,
            count: None,
        }));
        self.contact = None;
        out.note(Note::BecameLeader(self.vote.leader_id));
        self.track_members(out);
        // The blank entry commits what earlier leaders left, and with it this leader knows what is committed
        // (dissertation 3.6.2, 6.4).
        self.append_core_entry(self.vote.leader_id, CoreEntry::Blank, out);
        if bug(Bug::CompleteBeforeOwnEntry) && self.membership().is_joint() {
            let target = self.membership().target();
            self.append_core_entry(self.vote.leader_id, CoreEntry::Membership(target), out);
        }
        self.start_round();
        self.replicate(out);
    }

    /// Follows the membership in force: who is replicated to.
    pub(crate) fn track_members(&mut self, out: &mut Actions) {
        let me = self.config.node_id;
        let next = self.log.last().index + 1;
        let ids: Vec<NodeId> = self.membership().nodes.keys().copied().filter(|id| *id != me).collect();
        let disks: Vec<_> = ids.iter().map(|id| self.membership().disks_of(*id)).collect();
        let own = (me, self.config.incarnation);
        let is_quorum = self.membership().commit_reached(|id, disk| ((id, disk) == own).then_some(())).is_some();
        let count = self.membership().commit_count().map(|need| (need, self.is_voter()));
        let Role::Leader(leader) = &mut self.role else { return };
        leader.is_quorum = is_quorum;
        leader.count = count.filter(|_| !bug(Bug::EffectiveOnCommit));
        leader.peers.retain(|peer| ids.contains(&peer.id));
        for id in ids {
            if let Err(place) = leader.peers.binary_search_by_key(&id, |peer| peer.id) {
                let stream = leader.new_stream();
                leader.peers.insert(place, Progress::new(id, next, stream));
                out.note(Note::PeerState { peer: id, state: PeerState::Probe });
            }
        }
        for (peer, disks) in leader.peers.iter_mut().zip(disks) {
            peer.named = disks;
        }
    }

    pub(crate) fn on_propose(&mut self, request: RequestId, count: u64, bytes: u64, out: &mut Actions) {
        let obeys_another = bug(Bug::ProposesUnderTheNextLeader) && self.vote.committed;
        if !self.is_leader() && !obeys_another || count == 0 {
            let refusal = Refusal::NotLeader { leader: self.leader() };
            return out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) });
        }
        if let Some(to) = self.transferring_to() {
            return out.push(Action::Reply { request, outcome: Outcome::Refused(Refusal::Transferring { to }) });
        }
        let prev = self.log.last();
        let last = LogId::new(self.vote.leader_id, prev.index + count);
        self.log.append(last.leader_id, last.index);
        self.note_size(last.index, bytes);
        let span = Span { prev, last };
        // The leader writes while it replicates; its own disk counts like any other (dissertation 10.2.1).
        self.disk.append(span, Source::Proposal(request), out);
        out.add(|| Action::Reply { request, outcome: Outcome::Proposed(span) });
        self.replicate(out);
    }

    // ---- sending ----

    /// Sends to every peer what it may be sent now.
    pub(crate) fn replicate(&mut self, out: &mut Actions) {
        let half = self.config.heartbeat_interval.as_nanos() as u64 / 2;
        let lease = self.lease_to_ask();
        let Role::Leader(leader) = &mut self.role else { return };
        // Traffic carries fresh rounds, so that a busy leader needs no heartbeats.
        if leader.rounds.last_began().is_none_or(|began| self.now.nanos_since(began) >= half) {
            leader.begin_round(self.now, self.config.election_timeout_max);
        }
        let sending = Sending {
            log: &self.log,
            pieces: &self.pieces,
            config: &self.config,
            vote: self.vote,
            commit: self.commit,
            snapshot: self.snapshot.last.index,
            now: self.now,
            round: leader.round,
            lease,
        };
        for peer in &mut leader.peers {
            sending.send_entries(peer, out);
        }
    }

    fn replicate_to(&mut self, id: NodeId, out: &mut Actions) {
        let last = self.log.last().index;
        if let Role::Leader(leader) = &self.role
            && leader.peer(id).is_some_and(|peer| peer.is_sent(last))
        {
            return;
        }
        self.with_peer(id, |sending, peer, _| sending.send_entries(peer, out));
    }

    /// Lends a peer together with what sending to it needs.
    pub(crate) fn with_peer<R>(
        &mut self,
        id: NodeId,
        act: impl FnOnce(&Sending<'_>, &mut Progress, &mut u64) -> R,
    ) -> Option<R> {
        let lease = self.lease_to_ask();
        let Role::Leader(leader) = &mut self.role else { return None };
        let sending = Sending {
            log: &self.log,
            pieces: &self.pieces,
            config: &self.config,
            vote: self.vote,
            commit: self.commit,
            snapshot: self.snapshot.last.index,
            now: self.now,
            round: leader.round,
            lease,
        };
        let place = leader.place(id)?;
        Some(act(&sending, &mut leader.peers[place], &mut leader.next_stream))
    }

    /// Shows every peer that the leader lives, in a new round.
    pub(crate) fn broadcast_round(&mut self, out: &mut Actions) {
        self.start_round();
        self.send_heartbeats(Duration::ZERO, out);
    }

    fn start_round(&mut self) {
        let now = self.now;
        if let Role::Leader(leader) = &mut self.role {
            leader.begin_round(now, self.config.election_timeout_max);
        }
    }

    /// Sends an empty append to every peer that was sent nothing for `quiet_for`.
    fn send_heartbeats(&mut self, quiet_for: Duration, out: &mut Actions) {
        let lease = self.lease_to_ask();
        let Role::Leader(leader) = &mut self.role else { return };
        let sending = Sending {
            log: &self.log,
            pieces: &self.pieces,
            config: &self.config,
            vote: self.vote,
            commit: self.commit,
            snapshot: self.snapshot.last.index,
            now: self.now,
            round: leader.round,
            lease,
        };
        for peer in &mut leader.peers {
            // A peer that does not know the newest commit index is told, however busy it was.
            let stale = peer.sent_commit < sending.commit;
            let stale = stale || bug(Bug::HeartbeatsThoughBusy);
            if stale || peer.sent_at.is_none_or(|at| sending.now.since(at) >= quiet_for) {
                sending.send_heartbeat(peer, out);
            }
        }
    }

    pub(crate) fn on_heartbeat(&mut self, out: &mut Actions) {
        if self.is_leader() {
            self.broadcast_round(out);
        }
    }

    // ---- time ----

    pub(crate) fn leader_deadline(&self, leader: &Leader) -> Instant {
        let heard = leader.quorum_acked.unwrap_or(leader.since);
        let next = leader.changes.deadline().map_or(leader.heartbeat_at, |end| end.min(leader.heartbeat_at));
        match self.checks_quorum() {
            true => next.min(heard + self.config.election_timeout_max),
            false => next,
        }
    }

    pub(crate) fn on_leader_timeout(&mut self, out: &mut Actions) {
        self.measure_quorum();
        if self.check_quorum_lapsed() {
            return self.step_down(StepDown::NoQuorum, out);
        }
        if self.disk_lags_too_long() {
            return self.step_down(StepDown::Disk, out);
        }
        let interval = self.config.heartbeat_interval;
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if now < leader.heartbeat_at {
            return;
        }
        leader.heartbeat_at = now + interval;
        let beats = self.config.heartbeat.is_on();
        if beats {
            leader.begin_round(now, self.config.election_timeout_max);
        }
        self.give_up_on_lost_sends(out);
        self.maybe_purge(out);
        if beats {
            self.send_heartbeats(interval * 3 / 4, out);
        }
        self.replicate(out);
    }

    /// The tunables changed.
    pub(crate) fn on_reconfigured_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_at = leader.heartbeat_at.min(self.now + self.config.heartbeat_interval);
    }

    fn check_quorum_lapsed(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let heard = leader.quorum_acked.unwrap_or(leader.since);
        self.checks_quorum() && self.now >= heard + self.config.election_timeout_max
    }

    fn checks_quorum(&self) -> bool {
        self.config.check_quorum.is_on() && !bug(Bug::NoCheckQuorum)
    }

    /// A leader whose own log stays behind what the others committed hands over (law 8).
    fn disk_lags_too_long(&mut self) -> bool {
        let (now, max) = (self.now, self.config.max_disk_lag);
        let (commit, durable) = (self.commit, self.disk.index());
        let Role::Leader(leader) = &mut self.role else { return false };
        // A busy disk is always behind the newest entry; what counts is how long it is behind the same one.
        leader.disk_behind = leader.disk_behind.filter(|(_, index)| *index > durable);
        if leader.disk_behind.is_none() && commit > durable {
            leader.disk_behind = Some((now, commit));
        }
        leader.disk_behind.is_some_and(|(since, _)| now.since(since) >= max)
    }

    /// What was not acknowledged in time is taken for lost.
    fn give_up_on_lost_sends(&mut self, out: &mut Actions) {
        let (now, timeout) = (self.now, self.config.retransmit_timeout);
        let Role::Leader(leader) = &mut self.role else { return };
        for peer in &mut leader.peers {
            let lost = match &peer.mode {
                Mode::Replicate { inflight, oldest_sent } => !inflight.is_empty() && now.since(*oldest_sent) >= timeout,
                Mode::Snapshot { retry_at, .. } => retry_at.is_some_and(|at| now >= at),
                Mode::Probe { .. } => false,
            };
            if lost {
                peer.probe(peer.matched.index + 1, None, &mut leader.next_stream, out);
            }
        }
    }

    // ---- receiving ----

    pub(crate) fn on_append_reply(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        reply: &AppendReply,
        out: &mut Actions,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        if reply.vote != self.vote && !bug(Bug::RepliesToAnOldVoteCount) {
            return;
        }
        let Some(place) = leader.place(from) else { return };
        let peer = &mut leader.peers[place];
        if peer.incarnation.is_some_and(|known| known != incarnation) {
            // Another disk: nothing that the old one acknowledged is on it (law 15).
            let named = std::mem::take(&mut peer.named);
            *peer = Progress { named, ..Progress::new(from, self.log.last().index + 1, peer.stream) };
            peer.incarnation = Some(incarnation);
            peer.probe(self.log.last().index + 1, None, &mut leader.next_stream, out);
            out.note(Note::OtherIncarnation { peer: from, seen: incarnation });
            return self.replicate_to(from, out);
        }
        peer.incarnation = Some(incarnation);
        peer.promises = reply.lost.is_some();
        let lives_again = peer.shows_life();
        if reply.stream != peer.stream && !bug(Bug::OldStreamCounts) {
            // It says nothing about this stream, but the peer is there.
            if lives_again {
                self.replicate_to(from, out);
            }
            return;
        }
        self.on_lease_promised(from, reply.round, reply.promised);
        if self.brings_word_of_a_loss(from, reply) {
            return self.on_lost_entries(from, reply, out);
        }
        match reply.answer {
            AppendAnswer::Accepted { matched } => {
                if self.on_round_acked(from, reply.round, out) {
                    self.on_accepted(from, matched, reply.round, out);
                }
            }
            AppendAnswer::Conflict { prev, hint } => {
                // Rule: who denies what it acknowledged counts no more, also not for the round it answers (law 15).
                self.note_older_copy(from, reply.round, prev, out);
                if self.on_round_acked(from, reply.round, out) {
                    self.on_conflict(from, reply.round, prev, hint, out);
                }
            }
            AppendAnswer::Refused { seen } => self.on_refused(from, seen, out),
        }
    }

    fn on_accepted(&mut self, from: NodeId, matched: LogId, round: Round, out: &mut Actions) {
        let purged = self.log.purged();
        let unknown = matched.index > purged.index && !self.log.holds(matched);
        if unknown || matched.index > self.log.last().index {
            return out.note(Note::Impossible { from, what: "an acknowledgement of entries that do not exist" });
        }
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(place) = leader.place(from) else { return };
        let peer = &mut leader.peers[place];
        if !matches!(peer.mode, Mode::Replicate { .. }) {
            peer.matches(matched, purged, now, out);
        }
        let learned_in = if bug(Bug::LateDenialRegresses) { round } else { leader.round };
        let news = peer.advance_matched(matched, learned_in, now);
        // What was kept behind the snapshot was too little. The pause is for a snapshot that may be lost: this one is there.
        if peer.has_its_snapshot() && !bug(Bug::InstalledSnapshotIsWaitedFor) {
            peer.snapshot_tries = 0;
            peer.probe(peer.matched.index + 1, None, &mut leader.next_stream, out);
        }
        if peer.answers_past_entries(round) && !bug(Bug::LossFoundByTimeOutOnly) {
            self.with_peer(from, |sending, peer, streams| {
                let asked = peer.asked_behind;
                sending.ask_behind(peer, out);
                if bug(Bug::SlowIsTakenForLost) && peer.asked_behind > asked {
                    peer.probe(peer.matched.index + 1, None, streams, out);
                }
            });
        }
        if bug(Bug::AcknowledgementCountsTwice) && !news {
            self.commit_to(matched.index);
        }
        // Commit first: what is sent next then carries the new commit index. A peer that came no further than what is
        // committed helps no later entry to be.
        if news && matched.index > self.commit {
            self.advance_commit(out);
        }
        self.replicate_to(from, out);
    }

    pub(crate) fn on_conflict(&mut self, from: NodeId, round: Round, prev: LogId, hint: LogId, out: &mut Actions) {
        // The last entry of ours that can be in the peer's log, by its hint.
        let mut bound = hint.index.min(prev.index.saturating_sub(1));
        if bug(Bug::BackOffSkipsTheConflict) {
            bound = prev.index;
        }
        let agreed = match bound < self.log.purged().index {
            // Before what is left of our log: only a snapshot can help.
            true => bound,
            false => self.log.last_at_most(bound, hint.leader_id).index,
        };
        self.with_peer(from, |_, peer, next_stream| {
            if prev.index > 0 && prev.index <= peer.matched.index && round <= peer.matched_in {
                return;
            }
            let next = agreed.max(peer.matched.index) + 1;
            peer.probe(next, None, next_stream, out);
        });
        self.replicate_to(from, out);
    }

    /// A peer that denies entries which it acknowledged speaks from an older copy of its disk.
    fn note_older_copy(&mut self, from: NodeId, round: Round, prev: LogId, out: &mut Actions) {
        self.with_peer(from, |sending, peer, _| {
            // Rule: only the answer to a message that was sent after the acknowledgement came denies it. Any other
            // may have been said before it, and be late.
            let answers_later = round > peer.matched_in && round <= sending.round;
            if prev.index > 0 && prev.index <= peer.matched.index && answers_later {
                peer.regressed = true;
                let held = std::mem::replace(&mut peer.matched, LogId::ZERO);
                out.note(Note::OlderCopy { peer: from, held });
            }
        });
    }

    /// A peer has seen a greater vote.
    fn on_refused(&mut self, from: NodeId, seen: Vote, out: &mut Actions) {
        if self.vote.at_least(seen, self.config.mode) || bug(Bug::NoStepDown) {
            return;
        }
        let greater = Vote::uncommitted(seen.leader_id);
        if !greater.exceeds(self.vote, self.config.mode) || seen.leader_id.term == u64::MAX {
            // A second leader in this term, which cannot be, is reported and not believed (law 1).
            return out.note(Note::Impossible { from, what: "a second leader in one term, or the last term" });
        }
        if seen.committed {
            self.step_down(StepDown::GreaterVote(seen), out);
            return self.set_vote(greater, out);
        }
        if self.asked_for(seen) {
            return;
        }
        // Rule: a greater uncommitted vote does not topple a leader; it raises itself above it at once (law 5).
        self.seen_term = self.seen_term.max(seen.leader_id.term);
        self.step_down(StepDown::GreaterVote(seen), out);
        if self.is_electable() {
            self.start_campaign(Phase::Real, crate::CampaignReason::Timeout, out);
        }
    }

    pub(crate) fn on_snapshot_sent(&mut self, to: NodeId, stream: StreamId, outcome: crate::SendOutcome) {
        let (now, timeout) = (self.now, self.config.retransmit_timeout);
        self.with_peer(to, |_, peer, _| {
            if peer.stream != stream {
                return;
            }
            let doubled = peer.snapshot_tries.saturating_sub(1).min(MAX_SNAPSHOT_BACKOFF);
            let pause = timeout * (1 << doubled);
            let Mode::Snapshot { retry_at, .. } = &mut peer.mode else { return };
            // The peer stays in this state: a heartbeat that it acknowledges must not shorten the pause.
            *retry_at = Some(match outcome {
                // Installing takes a while; the acknowledgement ends this state before that.
                crate::SendOutcome::Delivered => now + pause * 10,
                crate::SendOutcome::Failed => now + pause,
            });
        });
    }

    // ---- rounds and commit ----

    /// Takes in that a peer followed this leader in `round`; returns whether that can be.
    pub(crate) fn on_round_acked(&mut self, from: NodeId, round: Round, out: &mut Actions) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        if round > leader.round && !bug(Bug::RoundsToComeCount) {
            out.note(Note::Impossible { from, what: "an acknowledgement of a round that was not begun" });
            return false;
        }
        let Some(place) = leader.place(from) else { return false };
        if round <= leader.peers[place].acked {
            return true;
        }
        let began = leader.round_began(round);
        let peer = &mut leader.peers[place];
        peer.acked = round;
        peer.acked_at = peer.acked_at.max(began);
        self.measure_quorum();
        self.maybe_confirm_reads(out);
        true
    }

    /// The moment after which a commit quorum followed this leader. Counted from *send* time.
    fn measure_quorum(&mut self) {
        let acked = self.quorum_reached(self.now, |peer| peer.acked_at);
        if let Role::Leader(leader) = &mut self.role {
            leader.quorum_acked = leader.quorum_acked.max(acked);
        }
    }

    /// The greatest round that a commit quorum acknowledged.
    pub(crate) fn round_reached(&self) -> Option<Round> {
        let Role::Leader(leader) = &self.role else { return None };
        self.quorum_reached(leader.round, |peer| Some(peer.acked))
    }

    /// The greatest value that a commit quorum reached by the membership in force, this leader with `own` and a peer whose
    /// word counts with what `of` says. Where any so many voters are a quorum they are counted, else the rule is asked.
    #[inline]
    pub(crate) fn quorum_reached<T: Ord + Copy>(&self, own: T, of: impl Fn(&Progress) -> Option<T>) -> Option<T> {
        let me = (self.config.node_id, self.config.incarnation);
        let Role::Leader(leader) = &self.role else { return None };
        let by_rule = || {
            self.membership().commit_reached(|id, incarnation| match (id, incarnation) == me {
                true => Some(own),
                false => leader.peer_as(id, incarnation).and_then(&of),
            })
        };
        let counted = leader.count_reached(Some(own), &of);
        debug_assert!(counted.is_none_or(|reached| reached == by_rule()), "to count is to ask the rule");
        counted.unwrap_or_else(by_rule)
    }

    /// Commits what a commit quorum holds durably, if it is of this leadership (dissertation 3.6.2).
    pub(crate) fn advance_commit(&mut self, out: &mut Actions) {
        let own = if bug(Bug::LeaderCountsBeforeFlush) { self.log.last().index } else { self.disk.index() };
        let Role::Leader(leader) = &self.role else { return };
        if bug(Bug::OneHungPeerStopsTheLeader) && leader.peers.iter().any(|peer| peer.inflight_appends() > 1) {
            return;
        }
        let Some(mut reached) = self.quorum_reached(own, |peer| Some(peer.matched.index)) else { return };
        if bug(Bug::LearnerCommits) {
            let mut matched: Vec<u64> = leader.peers.iter().map(|peer| peer.matched.index).chain([own]).collect();
            matched.sort_unstable();
            reached = reached.max(matched[matched.len() - 1 - self.membership().voter_ids().len() / 2]);
        }
        // Rule: never count replicas of an earlier leader's entry (figure 3.7).
        let older = reached < leader.first_own && !bug(Bug::CommitsOlderTerm);
        if older || !self.commit_to(reached) {
            return;
        }
        self.on_commit_advanced(out);
        self.maybe_start_reads(out);
    }

    /// Answers those who wait for this leadership: it ended.
    pub(crate) fn fail_leader_requests(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.reads.fail(out);
        std::mem::take(&mut leader.changes).fail(out);
    }
}

impl Leader {
    /// See [`Core::forget_time`].
    pub(crate) fn forget_own_time(&mut self) {
        self.rounds.forget_time();
        self.heartbeat_at = Instant::ORIGIN;
        self.since = Instant::ORIGIN;
        self.quorum_acked = self.quorum_acked.map(|_| Instant::ORIGIN);
        self.disk_behind = self.disk_behind.map(|(_, index)| (Instant::ORIGIN, index));
    }

    pub(crate) fn new_stream(&mut self) -> StreamId {
        next_stream(&mut self.next_stream)
    }

    /// Whether more than `commit` can be committed: without any peer that holds more, no quorum does, unless this node is
    /// one. Cheap, because it is asked after every write.
    pub(crate) fn may_commit_beyond(&self, commit: u64) -> bool {
        self.is_quorum || self.peers.iter().any(|peer| peer.matched.index > commit)
    }

    /// The greatest value that a commit quorum reached, this node with `own` and a peer with what `of` says; the least value
    /// is that of none. `None` if its rule has to be asked.
    #[inline]
    fn count_reached<T: Ord + Copy + Default>(&self, own: T, of: impl Fn(&Progress) -> T) -> Option<T> {
        let (need, votes) = self.count?;
        // The greatest first.
        let mut held = [T::default(); MAX_COUNTED];
        held[0] = if votes { own } else { T::default() };
        for (place, peer) in (1..).zip(&self.peers) {
            let counts = peer.named.first().is_some_and(|disk| peer.counts_as(*disk));
            *held.get_mut(place)? = if counts { of(peer) } else { T::default() };
            for place in (1..=place).rev() {
                if held[place - 1] >= held[place] {
                    break;
                }
                held.swap(place - 1, place);
            }
        }
        held.get(need.checked_sub(1)?).copied()
    }

    fn begin_round(&mut self, now: Instant, patience: Duration) {
        self.round = Round(self.round.0 + 1);
        self.rounds.begin(self.round, now, patience);
    }

    /// When a round began, or some time before.
    pub(crate) fn round_began(&self, round: Round) -> Option<Instant> {
        self.rounds.began(round)
    }

    /// Where a peer is among the others. There are few, so they are looked at one by one.
    pub(crate) fn place(&self, id: NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    pub(crate) fn peer(&self, id: NodeId) -> Option<&Progress> {
        self.place(id).map(|place| &self.peers[place])
    }

    /// The peer, if its word counts for a voter of this incarnation.
    pub(crate) fn peer_as(&self, id: NodeId, incarnation: Incarnation) -> Option<&Progress> {
        self.peer(id).filter(|peer| peer.counts_as(incarnation))
    }
}

fn next_stream(counter: &mut u64) -> StreamId {
    *counter += 1;
    StreamId(*counter)
}

impl Progress {
    /// Goes back to looking for where the logs match, in a new stream: replies to what was sent before say
    /// nothing about the new position.
    pub(crate) fn probe(&mut self, next: u64, retry_at: Option<Instant>, streams: &mut u64, out: &mut Actions) {
        if self.state() != PeerState::Probe {
            out.note(Note::PeerState { peer: self.id, state: PeerState::Probe });
        }
        self.next = next;
        self.stream = next_stream(streams);
        self.mode = Mode::Probe { retry_at, sent: None };
    }
}

impl Sending<'_> {
    pub(crate) fn header(&self, peer: &Progress) -> AppendHeader {
        AppendHeader {
            vote: self.vote,
            stream: peer.stream,
            round: self.round,
            commit: self.commit,
            lease: self.lease,
            named: peer.named(),
            heard: peer.heard,
        }
    }

    /// Sends what the peer's windows allow.
    fn send_entries(&self, peer: &mut Progress, out: &mut Actions) {
        let end = self.log.last().index;
        loop {
            let (inflight, cold) = match &peer.mode {
                Mode::Snapshot { .. } => return,
                Mode::Probe { retry_at, .. } => {
                    if retry_at.is_none_or(|at| self.now >= at) {
                        self.send_probe(peer, out);
                    }
                    return;
                }
                Mode::Replicate { .. } if peer.next > end => return,
                Mode::Replicate { inflight, .. } => (inflight.len(), inflight.back().is_some_and(|sent| sent.cold)),
            };
            let many = inflight >= self.config.max_inflight_appends;
            if many || cold || inflight > 0 && peer.inflight_bytes() >= self.config.max_inflight_bytes {
                return;
            }
            let Some(prev) = self.log.at(peer.next - 1) else { return self.send_snapshot(peer, out) };
            let cut = self.pieces.cut(peer.next, end, self.config.max_append_bytes);
            let Some(last) = self.log.at(cut.last) else { return };
            if cut.cold && inflight > 0 {
                return;
            }
            out.add(|| Action::SendEntries { to: peer.id, header: self.header(peer), span: Span { prev, last } });
            let (first, last, round) = (peer.next, last.index, self.round);
            let sent = Inflight { first, last, bytes: cut.bytes, cold: cut.cold, round };
            peer.next = last + 1;
            peer.note_sent(self.now, self.commit);
            if let Mode::Replicate { inflight, oldest_sent } = &mut peer.mode {
                if inflight.is_empty() {
                    *oldest_sent = self.now;
                }
                inflight.push_back(sent);
            }
        }
    }

    /// Sends one append, with entries if there are any, to see whether the peer holds what comes before them.
    fn send_probe(&self, peer: &mut Progress, out: &mut Actions) {
        let Some(prev) = self.log.at(peer.next - 1) else { return self.send_snapshot(peer, out) };
        let last = self.log.last();
        let cut = self.pieces.cut(peer.next, last.index, self.config.max_append_bytes);
        let sent = match self.log.at(cut.last) {
            Some(last) if last.index > prev.index => {
                out.push(Action::SendEntries { to: peer.id, header: self.header(peer), span: Span { prev, last } });
                let (first, last, round) = (peer.next, last.index, self.round);
                Some(Inflight { first, last, bytes: cut.bytes, cold: cut.cold, round })
            }
            _ => {
                self.send_empty(peer, prev, out);
                None
            }
        };
        peer.note_sent(self.now, self.commit);
        let pause = peer.pause_after_probe(self.config.retransmit_timeout);
        peer.mode = Mode::Probe { retry_at: Some(self.now + pause), sent };
    }

    fn send_heartbeat(&self, peer: &mut Progress, out: &mut Actions) {
        let prev = match &peer.mode {
            // While probing, every message asks the same question.
            Mode::Probe { .. } => match self.log.at(peer.next - 1) {
                Some(prev) => prev,
                None => return self.send_snapshot(peer, out),
            },
            // Not the end of what was sent: on its own connection, a heartbeat may overtake entries.
            Mode::Replicate { .. } | Mode::Snapshot { .. } => peer.matched,
        };
        self.send_empty(peer, prev, out);
        peer.note_sent(self.now, self.commit);
    }

    fn send_empty(&self, peer: &Progress, prev: LogId, out: &mut Actions) {
        let append = Append { header: self.header(peer), prev, entries: Entries::default() };
        out.push(Action::Send { to: peer.id, message: Message::Append(append) });
    }

    fn send_snapshot(&self, peer: &mut Progress, out: &mut Actions) {
        if bug(Bug::NothingToSendBehindAPurgedLog) && self.log.last() == self.log.purged() {
            return;
        }
        // The driver sends its newest: this one, or a later one that the core was not told of yet.
        peer.mode = Mode::Snapshot { retry_at: None, holds: self.snapshot };
        peer.snapshot_tries = peer.snapshot_tries.saturating_add(1);
        out.note(Note::PeerState { peer: peer.id, state: PeerState::Snapshot });
        out.push(Action::SendSnapshot { to: peer.id, header: self.header(peer), at_least: self.log.purged() });
    }
}

impl Core {
    pub(crate) fn own_leader_id(&self) -> LeaderId {
        self.vote.leader_id
    }
}
