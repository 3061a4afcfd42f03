//! The state of one node of one group, and the dispatch of events to the files that handle them.

use crate::bug::{Bug, bug};
use crate::config::Config;
use crate::durability::{Durability, Held};
use crate::event::{Action, Actions, CoreEntry, Event, Note, Outcome, Recovered, Refusal, Source, StepDown, WriteOp};
use crate::follower::Ack;
use crate::ids::{Campaign, Incarnation, LeaderId, LogId, NodeId, RequestId, Vote, WriteId};
use crate::leader::Leader;
use crate::lease::Promises;
use crate::log::{LogIds, Span};
use crate::lost_entries::Settlement;
use crate::membership::Membership;
use crate::message::{Envelope, Message};
use crate::pieces::Pieces;
use crate::read::AskedRead;
use crate::rng::Rng;
use crate::snapshot::Snapshots;
use crate::time::Instant;
use crate::transfer::Transfer;

/// One node's part in one Raft group.
///
/// `Clone + Eq + Hash`: two runs can be compared, and small scopes searched exhaustively.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    pub(crate) config: Config,
    /// The time of the last step; never goes back.
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    /// The greatest vote this node has made or accepted; on disk once `disk` says so.
    pub(crate) vote: Vote,
    pub(crate) log: LogIds,
    /// The last entry that was acknowledged before damage took the end of the log; zero: nothing is lost. See
    /// [`Core::lost_entries`].
    pub(crate) promised_end: LogId,
    /// When nothing is promised any more beyond the log; see [`Core::settle_promise`].
    pub(crate) settles: Option<Settlement>,
    pub(crate) pieces: Pieces,
    /// The membership at `applied` and every later one in the log. Never empty; the last is in force.
    pub(crate) memberships: Vec<(LogId, Membership)>,
    /// Entries up to here are committed. Never goes back, never past the log.
    pub(crate) commit: u64,
    pub(crate) disk: Durability,
    /// The last entry handed out to be applied. Invariant: `applied <= apply_sent <= commit`.
    pub(crate) apply_sent: LogId,
    pub(crate) applied: LogId,
    pub(crate) snapshot: Snapshots,
    pub(crate) role: Role,
    /// When a leader was last heard of; the lease it holds here.
    pub(crate) contact: Option<Contact>,
    /// When to campaign, if still a follower or candidate by then.
    pub(crate) election_deadline: Instant,
    pub(crate) campaign: Campaign,
    /// The transfer of leadership under way.
    pub(crate) transfer: Option<Transfer>,
    /// The next campaign starts above this term: it refused this node's last one, or was on disk at the start.
    pub(crate) seen_term: u64,
    /// What this node promised to leaders (law 17).
    pub(crate) promises: Promises,
    /// Read indexes asked from the leader.
    pub(crate) asked_reads: Vec<AskedRead>,
    pub(crate) next_read: u64,
    /// The vote that was on disk when this node started, and when that was.
    pub(crate) promised: (Vote, Instant),
    /// Everything that was committed at this moment is in the log up to this entry.
    pub(crate) confirmed: Option<(Instant, LogId)>,
    /// A write failed, or the log is lost; nothing is done any more.
    pub(crate) halted: bool,
}

/// What this node does in the group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(crate::election::Candidate),
    Leader(Box<Leader>),
}

/// Follows a leader, or waits for one. Learners are followers that never campaign.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Follower {
    pub(crate) leader: Option<NodeId>,
    /// The log equals the leader's up to here.
    pub(crate) accepted: u64,
    /// Where acknowledgements go.
    pub(crate) ack: Option<Ack>,
}

/// The last sign of life of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Contact {
    pub(crate) leader: NodeId,
    pub(crate) at: Instant,
    /// This node's own connection to it was refused since (law 6).
    pub(crate) refused: bool,
}

impl Core {
    /// A node as it comes back from its disk, or blank.
    ///
    /// It starts as a follower, also if its own vote was committed: a restarted node never leads under its old
    /// leader id (law 7).
    pub fn new(config: Config, recovered: Recovered, now: Instant) -> Self {
        let snapshot = recovered.snapshot.unwrap_or_default();
        let mut memberships = vec![(snapshot.membership_log_id, snapshot.membership)];
        memberships.extend(recovered.memberships.into_iter().filter(|(id, _)| id.index > snapshot.last_log_id.index));
        let applied = recovered.applied.max(snapshot.last_log_id);
        let last = recovered.log.last();
        let mut rng = Rng::new(config.seed ^ config.node_id.0.rotate_left(32));
        // Numbers on the wire must differ between runs: a late answer to an earlier run's question must not
        // pass for an answer to this run's.
        let campaign = Campaign(config.seed << 16);
        let next_read = if config.seed == 0 { 0 } else { rng.next() >> 16 << 16 };
        let mut core = Self {
            now,
            rng,
            vote: recovered.vote,
            pieces: Pieces::after(last.index),
            memberships,
            commit: if bug(Bug::RestartCommitsItsLog) { last.index } else { applied.index },
            disk: Durability::recovered(last.index),
            apply_sent: applied,
            applied,
            snapshot: Snapshots::recovered(snapshot.last_log_id, recovered.log.purged().index, now),
            role: Role::Follower(Follower { accepted: applied.index, ..Follower::default() }),
            contact: None,
            election_deadline: now,
            campaign,
            transfer: None,
            // The vote on disk does not say whether it was won: a restarted node does not share its term.
            seen_term: recovered.vote.leader_id.term,
            promises: Promises::recovered(recovered.promised_lease, now),
            asked_reads: Vec::new(),
            next_read,
            promised: (recovered.vote, now),
            confirmed: None,
            halted: false,
            // A whole log promises what it holds, and no more once a leader replaced its end.
            promised_end: if recovered.promised_end > last { recovered.promised_end } else { LogId::ZERO },
            settles: None,
            log: recovered.log,
            config,
        };
        core.forget_old_memberships();
        core.set_election_deadline();
        if core.is_only_voter() || bug(Bug::CampaignsAtStart) {
            core.election_deadline = now;
        }
        core
    }

    /// Takes in an event and says what to do. Never fails, never blocks.
    pub fn step(&mut self, now: Instant, mut event: Event, out: &mut Actions) {
        if let Event::Message(Envelope { from, incarnation, message }) = &mut event {
            return self.receive(now, *from, *incarnation, message, out);
        }
        self.now = self.now.max(now);
        if self.halted {
            return refuse_when_halted(event, out);
        }
        let led_by = self.led_by();
        match event {
            Event::Message(_) => unreachable!("it was received above"),
            Event::Timeout => self.on_timeout(out),
            Event::Propose { request, count, bytes } => self.on_propose(request, count, bytes, out),
            Event::Read { request, policy } => self.on_read(request, policy, out),
            Event::ChangeMembership { request, change, retain, terms } => {
                self.on_change_membership(request, change, retain, terms, out)
            }
            Event::Initialize { request, membership } => self.on_initialize(request, membership, out),
            Event::TransferLeader { request, to } => self.on_transfer(request, to, out),
            Event::AbortTransfer => self.on_abort_transfer(out),
            Event::Elect { phase } => self.on_elect(phase, out),
            Event::Heartbeat => self.on_heartbeat(out),
            Event::Snapshot { request } => self.on_snapshot_wanted(request, out),
            Event::PurgeLog { upto, request } => self.on_purge_log(upto, request, out),
            Event::Persisted(write) => self.disk.on_persisted(write),
            Event::PersistFailed(write) => self.on_persist_failed(write, out),
            Event::Applied(log_id) => self.on_applied(log_id),
            Event::SnapshotBuilt(meta) => self.on_snapshot_built(&meta, out),
            Event::SnapshotBuildFailed => self.on_snapshot_build_failed(out),
            Event::SnapshotDeferred => self.on_snapshot_deferred(out),
            Event::SnapshotDamaged => self.on_snapshot_damaged(out),
            Event::SnapshotReceived { from, header, meta, .. } => self.on_snapshot_received(from, header, meta, out),
            Event::SnapshotInstalled(meta) => self.on_snapshot_installed(meta, out),
            Event::SnapshotInstallFailed => self.on_snapshot_install_failed(),
            Event::SnapshotSent { to, stream, outcome } => self.on_snapshot_sent(to, stream, outcome),
            Event::SendLost { to, stream } => self.on_send_lost(to, stream, out),
            Event::LinkRefused { peer } => self.on_link_refused(peer),
            Event::ClockJumped => self.on_clock_jumped(out),
        }
        self.conclude(led_by, out);
    }

    /// A step of [`Event::Message`], for a driver that holds the message: it is large, so it is not moved. What it holds
    /// may be taken out of it.
    pub fn receive(
        &mut self,
        now: Instant,
        from: NodeId,
        incarnation: Incarnation,
        message: &mut Message,
        out: &mut Actions,
    ) {
        self.now = self.now.max(now);
        if self.halted {
            return;
        }
        let led_by = self.led_by();
        self.on_message(from, incarnation, message, out);
        self.conclude(led_by, out);
    }

    /// Whom reads were asked of before a step. Only they can be failed by it.
    #[inline]
    fn led_by(&self) -> Option<(LeaderId, Option<NodeId>)> {
        (!self.asked_reads.is_empty()).then(|| (self.vote.leader_id, self.leader()))
    }

    /// Does what came due in a step, whatever the event was.
    #[inline]
    fn conclude(&mut self, led_by: Option<(LeaderId, Option<NodeId>)>, out: &mut Actions) {
        loop {
            if self.disk.take_fresh() && !self.halted {
                self.on_durable(out);
            }
            if led_by.is_some_and(|led_by| led_by != (self.vote.leader_id, self.leader())) {
                self.fail_asked_reads(out);
            }
            self.conclude_once(out);
            // What came due may have asked for a write that is durable already: that may bring more.
            if !self.disk.is_fresh() {
                return;
            }
        }
    }

    #[inline]
    fn conclude_once(&mut self, out: &mut Actions) {
        if self.transfer.is_some() {
            self.advance_transfer(out);
        }
        if self.waiting_changes() > 0 {
            self.retry_changes(out);
        }
        if self.promised_end != LogId::ZERO {
            self.settle_promise(out);
        }
        if self.disk.holds_any() {
            self.release_held(out);
        }
        self.maybe_build_snapshot(out);
        self.maybe_apply(out);
    }

    /// Promises that the driver makes every [`Action::Persist`] durable when it performs it, before any action that comes
    /// after it, and stops for good if it cannot. [`Event::Persisted`] need not be reported then: whatever it would bring
    /// is done in the step that asks for the write. For logs in memory.
    pub fn persist_at_once(&mut self) {
        self.disk.persist_at_once();
    }

    /// Takes in [`Event::Applied`] without a step of its own: what follows from it is done at the end of the next step,
    /// which the driver is about to make.
    pub fn note_applied(&mut self, log_id: LogId) {
        if !self.halted {
            self.on_applied(log_id);
        }
    }

    /// When [`Event::Timeout`] is due; `None`: nothing is waited for.
    pub fn deadline(&self) -> Option<Instant> {
        if self.halted {
            return None;
        }
        if !self.config.tick.is_on() {
            // Callers are answered in time all the same: who hands over, and whose change waits.
            return self.transfer_deadline().into_iter().chain(self.changes_deadline()).min();
        }
        let due = match &self.role {
            Role::Leader(leader) => Some(self.leader_deadline(leader)),
            Role::Candidate(_) => Some(self.campaign_due()),
            // A learner does not campaign, but forgets a leader that it no longer hears.
            Role::Follower(follower) => {
                (follower.leader.is_some() || self.may_campaign()).then_some(self.campaign_due())
            }
        };
        let due = if self.transfer.is_some() { earlier(due, self.transfer_deadline()) } else { due };
        earlier(due, self.snapshot_due_at())
    }

    fn on_message(&mut self, from: NodeId, incarnation: Incarnation, message: &mut Message, out: &mut Actions) {
        if from == self.config.node_id {
            return out.note(Note::Impossible { from, what: "a message from this node itself" });
        }
        match message {
            Message::VoteRequest(request) => self.on_vote_request(from, request, out),
            Message::VoteReply(reply) => self.on_vote_reply(from, incarnation, reply, out),
            Message::Append(append) => self.on_append(from, append, out),
            Message::AppendReply(reply) => self.on_append_reply(from, incarnation, reply, out),
            Message::ReadRequest { request, by } => self.on_read_request(from, *request, *by, out),
            Message::ReadReply { request, log_id } => self.on_read_reply(*request, *log_id, out),
            Message::TransferLeader { vote, last_log_id } => self.on_transfer_leader(from, *vote, *last_log_id),
        }
    }

    fn on_timeout(&mut self, out: &mut Actions) {
        if !self.config.tick.is_on() {
            return;
        }
        match &self.role {
            Role::Leader(_) => self.on_leader_timeout(out),
            Role::Follower(_) | Role::Candidate(_) => self.on_election_timeout(out),
        }
    }

    /// More is durable than before.
    fn on_durable(&mut self, out: &mut Actions) {
        if self.disk.holds_any() {
            self.release_held(out);
        }
        match &self.role {
            Role::Leader(leader) if !leader.may_commit_beyond(self.commit) => {}
            Role::Leader(_) => self.advance_commit(out),
            Role::Follower(_) => self.maybe_acknowledge(out),
            Role::Candidate(_) => {}
        }
    }

    fn release_held(&mut self, out: &mut Actions) {
        while let Some(held) = self.disk.release() {
            match held {
                Held::Act(action) => out.push(action),
                Held::Campaign(campaign) => self.on_vote_durable(campaign, out),
                Held::TakeOver { vote, until } => self.take_over(vote, until, out),
                Held::Promise(lease) => self.promises.on_durable(lease),
            }
        }
    }

    fn on_persist_failed(&mut self, _write: WriteId, out: &mut Actions) {
        if bug(Bug::WriteErrorIgnored) {
            return;
        }
        // The log is poisoned: whatever this node said from now on could not be trusted.
        self.halt(out);
    }

    /// Stops for good: what this node holds does not fit together any more.
    pub(crate) fn halt(&mut self, out: &mut Actions) {
        if matches!(self.role, Role::Leader(_)) {
            self.step_down(StepDown::Disk, out);
        }
        self.halted = true;
        self.refuse_snapshot_requests(&Refusal::Halted, out);
        out.note(Note::Halted);
    }

    fn on_initialize(&mut self, request: RequestId, membership: Membership, out: &mut Actions) {
        let refuse = |reason| Action::Reply { request, outcome: Outcome::Refused(reason) };
        let blank = self.log.last().max(self.promised_end) == LogId::ZERO
            && self.vote == Vote::default()
            && self.membership().is_empty();
        if !blank {
            return out.push(refuse(Refusal::AlreadyInitialized));
        }
        if let Err(error) = membership.check(self.config.mode) {
            return out.push(refuse(Refusal::BadRule(error)));
        }
        if !membership.is_voter_as(self.config.node_id, self.config.incarnation) {
            return out.push(refuse(Refusal::NotAmongVoters));
        }
        let log_id = self.append_core_entry(LeaderId::default(), CoreEntry::Membership(membership), out);
        self.disk.hold(Held::Act(Action::Reply { request, outcome: Outcome::Initialized(log_id) }));
        self.election_deadline = self.now;
    }

    /// Appends one entry that the core itself makes.
    pub(crate) fn append_core_entry(&mut self, leader_id: LeaderId, entry: CoreEntry, out: &mut Actions) -> LogId {
        let prev = self.log.last();
        let last = LogId::new(leader_id, prev.index + 1);
        self.log.append(leader_id, last.index);
        self.note_size(last.index, 64);
        if let CoreEntry::Membership(membership) = &entry {
            self.put_in_force(last, membership.clone(), out);
        }
        self.disk.append(Span { prev, last }, Source::Core(entry), out);
        last
    }

    /// Keeps a greater vote, durably.
    pub(crate) fn set_vote(&mut self, vote: Vote, out: &mut Actions) {
        assert!(
            vote.at_least(self.vote, self.config.mode) || vote.leader_id == self.vote.leader_id,
            "a vote never goes back"
        );
        // "A quorum granted it" need not be on disk: the leader id says enough to refuse every smaller vote.
        let durable_says_enough = vote.leader_id == self.vote.leader_id;
        self.vote = vote;
        if !durable_says_enough && !bug(Bug::VoteNotWritten) {
            self.disk.write(WriteOp::Vote(vote), out);
        }
    }

    // ---- commit and apply ----

    /// Moves the commit index forward, never back; returns whether it moved.
    pub(crate) fn commit_to(&mut self, index: u64) -> bool {
        if index <= self.commit && !bug(Bug::CommitGoesBack) {
            return false;
        }
        assert!(index <= self.log.last().index, "only entries in the log are committed");
        self.commit = index;
        true
    }

    /// Hands out what is committed *and* durable here: a state machine never runs ahead of the log that it
    /// would be rebuilt from (dissertation 10.2.1).
    fn maybe_apply(&mut self, out: &mut Actions) {
        let durable = if bug(Bug::AppliesBeforeDurable) { self.commit } else { self.disk.index() };
        let upto = self.commit.min(durable);
        if upto <= self.apply_sent.index || self.snapshot.installing.is_some() {
            return;
        }
        let Some(last) = self.log.at(upto) else { return };
        let prev = std::mem::replace(&mut self.apply_sent, last);
        out.add(|| Action::Apply(Span { prev, last }));
    }

    #[inline]
    fn on_applied(&mut self, log_id: LogId) {
        let (applied, sent) = (self.applied, self.apply_sent);
        let is_news = log_id.index > applied.index && log_id.leader_id >= applied.leader_id;
        if is_news && log_id.index <= sent.index && log_id.leader_id <= sent.leader_id {
            self.applied = log_id;
            if self.memberships.len() > 1 {
                self.forget_old_memberships();
            }
        }
    }

    // ---- membership in force ----

    /// The membership in force: the last one in the log, committed or not (dissertation 4.1).
    pub fn membership(&self) -> &Membership {
        &self.in_force().1
    }

    #[inline]
    pub(crate) fn in_force(&self) -> &(LogId, Membership) {
        if bug(Bug::EffectiveOnCommit)
            && let Some(committed) =
                self.memberships.iter().rfind(|(id, membership)| id.index <= self.commit && !membership.is_empty())
        {
            return committed;
        }
        match self.memberships.last() {
            Some(newest) => newest,
            None => unreachable!("the membership at `applied` is never forgotten"),
        }
    }

    pub(crate) fn put_in_force(&mut self, log_id: LogId, membership: Membership, out: &mut Actions) {
        self.memberships.push((log_id, membership));
        self.on_membership_in_force(out);
    }

    pub(crate) fn on_membership_in_force(&mut self, out: &mut Actions) {
        out.note(Note::MembershipInForce(self.in_force().0));
        self.track_members(out);
    }

    /// The log was cut: memberships after `index` are no longer in it.
    pub(crate) fn restore_membership(&mut self, index: u64, out: &mut Actions) {
        if bug(Bug::TruncatedMembershipStays) {
            return;
        }
        let before = self.memberships.len();
        while self.memberships.len() > 1 && self.in_force().0.index > index {
            self.memberships.pop();
        }
        if bug(Bug::TruncationForgetsMembership) {
            self.memberships.truncate(1);
        }
        if self.memberships.len() < before {
            self.on_membership_in_force(out);
        }
    }

    pub(crate) fn forget_old_memberships(&mut self) {
        // A snapshot of what is applied needs the membership that was in force there, though a later one may be
        // committed already.
        let at_applied = self.memberships.iter().rposition(|(id, _)| id.index <= self.applied.index).unwrap_or(0);
        self.memberships.drain(..at_applied);
    }

    // ---- who is who ----

    pub(crate) fn is_voter(&self) -> bool {
        self.membership().is_voter_as(self.config.node_id, self.config.incarnation)
    }

    pub(crate) fn is_only_voter(&self) -> bool {
        self.is_voter() && self.membership().voter_ids().len() == 1
    }

    /// Who leads, as far as this node knows.
    #[inline]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.config.node_id),
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
        }
    }

    /// The vote: on disk, or on its way there.
    #[inline]
    pub fn vote(&self) -> Vote {
        self.vote
    }

    /// The last entry of the log, durable or not.
    #[inline]
    pub fn last_log_id(&self) -> LogId {
        self.log.last()
    }

    /// Entries up to this index are committed, as far as this node knows.
    #[inline]
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// What the state machine has applied.
    #[inline]
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The log id of the membership in force.
    #[inline]
    pub fn membership_log_id(&self) -> LogId {
        self.in_force().0
    }

    /// The membership in force at a log index that is still known, for a snapshot's manifest.
    pub fn membership_at(&self, index: u64) -> &(LogId, Membership) {
        let upto = self.memberships.iter().rfind(|(id, _)| id.index <= index);
        upto.unwrap_or_else(|| &self.memberships[0])
    }

    /// Whether this node leads.
    #[inline]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether a snapshot that was received is being installed, or waits for the disk before it is.
    pub fn is_installing(&self) -> bool {
        self.snapshot.installing.is_some()
    }

    /// Whether a failed write, or a lost log, ended this core.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// The tunables; see [`Core::reconfigure`].
    #[inline]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes tunables at run time. Identity (node id, incarnation, mode) and the seed stay as they are. Shorter
    /// time-outs hold at once: ask for [`deadline`](Self::deadline) again.
    ///
    /// # Errors
    /// If the new values do not go together; nothing changes then.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), crate::ConfigError> {
        config.check()?;
        let old = &self.config;
        let (node_id, incarnation, mode, seed) = (old.node_id, old.incarnation, old.mode, old.seed);
        self.config = Config { node_id, incarnation, mode, seed, ..config };
        if !bug(Bug::ShorterTimeoutHoldsLater) {
            self.election_deadline = self.election_deadline.min(self.now + self.config.election_timeout_max);
        }
        self.on_reconfigured_leader();
        Ok(())
    }
}

/// The earlier of two moments, where there is one.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn refuse_when_halted(event: Event, out: &mut Actions) {
    match event {
        Event::Propose { request, .. }
        | Event::Read { request, .. }
        | Event::ChangeMembership { request, .. }
        | Event::Initialize { request, .. }
        | Event::TransferLeader { request, .. }
        | Event::Snapshot { request: Some(request) }
        | Event::PurgeLog { request: Some(request), .. } => {
            out.push(Action::Reply { request, outcome: Outcome::Refused(Refusal::Halted) });
        }
        Event::Message(_)
        | Event::Timeout
        | Event::AbortTransfer
        | Event::Elect { .. }
        | Event::Heartbeat
        | Event::Snapshot { request: None }
        | Event::PurgeLog { request: None, .. }
        | Event::Persisted(_)
        | Event::PersistFailed(_)
        | Event::Applied(_)
        | Event::SnapshotBuilt(_)
        | Event::SnapshotBuildFailed
        | Event::SnapshotDeferred
        | Event::SnapshotDamaged
        | Event::SnapshotReceived { .. }
        | Event::SnapshotInstalled(_)
        | Event::SnapshotInstallFailed
        | Event::SnapshotSent { .. }
        | Event::SendLost { .. }
        | Event::LinkRefused { .. }
        | Event::ClockJumped => {}
    }
}
