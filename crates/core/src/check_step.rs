//! What must hold of a step: between a state, the event that it met, what it asked for, and the state after.

use crate::core::{Core, Role};
use crate::durability::Held;
use crate::event::{Action, Actions, CoreEntry, Event, Note, Outcome, ReadPolicy, Refusal, Source, Tail, WriteOp};
use crate::ids::{Incarnation, LeaderId, LeaderIdMode, LogId, NodeId, RequestId, Round, WriteId};
use crate::invariant::Invariant as I;
use crate::leader::Leader;
use crate::log::LogIds;
use crate::membership::{Membership, Readiness};
use crate::message::{AppendAnswer, CampaignReason, Envelope, Message, Phase, VoteAnswer, VoteRequest};
use crate::progress::Mode;
use crate::time::Instant;

impl Core {
    /// [`Core::step`], with every invariant of the step and of the state after it asserted. Copies the state, so it
    /// is for tests, searches and simulations. A step of a core whose writes are [durable at once](Core::persist_at_once)
    /// is several in one: of that only the state after it is checked.
    ///
    /// # Panics
    /// If an invariant does not hold: that is a bug in the core, whatever the event was.
    pub fn step_checked(&mut self, now: Instant, event: Event, out: &mut Actions) {
        if self.disk.persists_at_once() {
            self.step(now, event, out);
            return self.check_state();
        }
        let before = self.clone();
        let seen = event.clone();
        let mut actions = Actions::new();
        self.step(now, event, &mut actions);
        self.check_state();
        self.check_step(&before, &seen, &actions);
        out.0.append(&mut actions.0);
    }

    /// Asserts the invariants of the step that led from `before` to this state, by `event`, asking for `actions`.
    ///
    /// # Panics
    /// If one does not hold: that is a bug in the core, whatever the event was.
    pub fn check_step(&self, before: &Core, event: &Event, actions: &Actions) {
        let step = Step { before, after: self, event, actions: &actions.0 };
        step.check_forward();
        step.check_log();
        step.check_leading();
        step.check_writes();
        step.check_held();
        step.check_promised_end();
        step.check_nothing_changed();
        step.check_lease();
        step.check_campaign();
        step.check_evidence();
        step.check_lease_read();
        step.check_at_once();
        step.check_takes_over();
        step.check_grant();
        step.check_read_reply();
        step.check_lost();
        step.check_reads();
        step.check_applies();
        step.check_callers();
        step.check_deadline();
        actions.0.iter().for_each(|action| step.check_action(action));
    }

    fn leads_as(&self) -> Option<(&Leader, LeaderId)> {
        match &self.role {
            Role::Leader(leader) => Some((leader, self.vote.leader_id)),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }
}

/// A step that was made.
pub(crate) struct Step<'a> {
    pub(crate) before: &'a Core,
    pub(crate) after: &'a Core,
    pub(crate) event: &'a Event,
    actions: &'a [Action],
}

/// Whether both logs hold the same entries up to `upto`, as far as neither has purged them.
fn same_up_to(one: &LogIds, other: &LogIds, upto: u64) -> bool {
    let from = one.purged().index.max(other.purged().index);
    let ends = one.runs().chain(other.runs()).map(|run| run.last.min(upto));
    // Runs are made of their ends: where those agree, everything before does.
    ends.chain([upto]).filter(|index| *index > from).all(|index| one.at(index) == other.at(index))
}

impl Step<'_> {
    // ---- what never goes back ----

    fn check_forward(&self) {
        let (before, after) = (self.before, self.after);
        let (old, new) = (before.vote, after.vote);
        let mode = after.config.mode;
        I::ClockForward.check(after.now >= before.now);
        let other_in_term = new.leader_id.term == old.leader_id.term && new.leader_id != old.leader_id;
        let elected = new.committed && !old.committed;
        I::OneVoteATerm.check(mode == LeaderIdMode::Advanced || !other_in_term || elected);
        I::VoteForward.check(new.at_least(old, mode) || new.leader_id == old.leader_id);
        I::CommitForward.check(after.commit >= before.commit);
        I::AppliedForward.check(after.applied >= before.applied && after.apply_sent >= before.apply_sent);
        I::SnapshotForward.check(after.snapshot.last.index >= before.snapshot.last.index);
        let reported = matches!(self.event, Event::SnapshotBuilt(_) | Event::SnapshotInstalled(_));
        I::SnapshotIsDurable.check(reported || after.snapshot.last == before.snapshot.last);
        I::SnapshotForward.check(after.log.purged().index >= before.log.purged().index);
    }

    // ---- the log ----

    fn check_log(&self) {
        let (before, after) = (self.before, self.after);
        I::CommittedStays.check(same_up_to(&before.log, &after.log, before.commit));
        let leads_on = before.leads_as().map(|(_, id)| id) == after.leads_as().map(|(_, id)| id);
        if before.is_leader() && leads_on {
            I::LeaderAppendsOnly.check(same_up_to(&before.log, &after.log, before.log.last().index));
        }
        if let (Role::Follower(old), Role::Follower(new)) = (&before.role, &after.role) {
            let follows_on = old.leader.is_some()
                && old.leader == new.leader
                && before.vote.leader_id == after.vote.leader_id
                && !self.writes().any(|op| matches!(op, WriteOp::Reset { tail: Tail::Discard, .. }));
            I::AcceptedStays.check(!follows_on || same_up_to(&before.log, &after.log, old.accepted));
        }
        let in_force = after.in_force();
        if in_force != before.in_force() {
            let id = in_force.0;
            let appended = self.spans().any(|span| id.index > span.prev.index && id.index <= span.last.index);
            let installed = matches!(self.event, Event::SnapshotInstalled(meta) if meta.membership_log_id == id);
            I::MembershipWithLog.check(appended || installed || before.memberships.contains(in_force));
        }
    }

    fn writes(&self) -> impl Iterator<Item = &WriteOp> {
        self.actions.iter().filter_map(|action| match action {
            Action::Persist(write) => Some(&write.op),
            _ => None,
        })
    }

    pub(crate) fn replies(&self) -> impl Iterator<Item = (&RequestId, &Outcome)> {
        self.actions.iter().filter_map(|action| match action {
            Action::Reply { request, outcome } => Some((request, outcome)),
            _ => None,
        })
    }

    fn spans(&self) -> impl Iterator<Item = crate::Span> {
        self.writes().filter_map(|op| match op {
            WriteOp::Append { span, .. } => Some(*span),
            _ => None,
        })
    }

    fn check_writes(&self) {
        let (before, after) = (self.before, self.after);
        let mut id = before.disk.asked();
        let mut end = before.log.last();
        let mut vote = before.vote.leader_id;
        for action in self.actions {
            let Action::Persist(write) = action else { continue };
            I::WriteIdsGrowByOne.check(write.id == WriteId(id.0 + 1));
            id = write.id;
            match &write.op {
                WriteOp::Vote(written) => vote = written.leader_id,
                WriteOp::Append { span, source } => {
                    I::LogWritesReplay.check(span.prev == end && span.last.index > end.index);
                    end = span.last;
                    self.check_source(span.last.leader_id, source);
                }
                WriteOp::Truncate { after } => {
                    I::LogWritesReplay.check(after.index < end.index && before.log.holds(*after));
                    end = *after;
                }
                WriteOp::Reset { to, tail: Tail::Discard } => end = *to,
                WriteOp::Reset { to, tail: Tail::Keep } => I::LogWritesReplay.check(before.log.holds(*to)),
                WriteOp::PromiseLease(_) | WriteOp::ForgetPromisedEnd => {}
            }
        }
        I::WriteIdsGrowByOne.check(id == after.disk.asked());
        I::LogWritesReplay.check(end == after.log.last());
        I::VoteWritten.check(vote == after.vote.leader_id);
    }

    fn check_source(&self, leader_id: LeaderId, source: &Source) {
        let own = leader_id == self.after.vote.leader_id && leader_id.node_id == self.after.config.node_id;
        match source {
            Source::Proposal(_) | Source::Core(CoreEntry::Blank) => I::AppendsOwnEntries.check(own),
            Source::Core(CoreEntry::Membership(_)) if matches!(self.event, Event::Initialize { .. }) => {}
            Source::Core(CoreEntry::Membership(membership)) => {
                I::AppendsOwnEntries.check(own);
                let (last_id, last) = self.before.in_force();
                let commit = self.after.commit;
                let own_committed = matches!(&self.before.role, Role::Leader(leader) if leader.first_own <= commit);
                let shared = membership.configs.iter().any(|set| last.configs.contains(set));
                I::MembershipByMembership.check(own_committed && last_id.index <= commit && shared);
                self.check_new_voters(last, membership);
            }
            Source::Message => {}
        }
    }

    /// Who begins to vote has nearly everything, but where somebody asked for a change without that.
    fn check_new_voters(&self, before: &Membership, membership: &Membership) {
        let (Some((leader, _)), Some(to)) = (self.after.leads_as(), membership.configs.last()) else { return };
        let waived =
            matches!(self.event, Event::ChangeMembership { terms, .. } if terms.readiness == Readiness::Waived);
        if waived || self.before.leads_as().is_some_and(|(leader, _)| leader.changes.waives_readiness()) {
            return;
        }
        let me = (self.after.config.node_id, self.after.config.incarnation);
        // Two memberships may come in one step, with what became due.
        let end = self.before.log.last().index;
        let near = |id: NodeId, disk: Incarnation| {
            let matched = leader.peer_as(id, disk).map(|peer| peer.matched.index);
            let near = |matched| matched + self.after.config.replication_lag_threshold >= end;
            matched.is_some_and(|matched| near(matched) && matched >= self.before.log.purged().index)
        };
        let mut new = to.voters.iter().filter(|(id, disk)| !before.is_voter_as(**id, **disk) && (**id, **disk) != me);
        I::VotersAreCaughtUp.check(new.all(|(id, disk)| near(*id, *disk)));
    }

    // ---- leading ----

    fn check_leading(&self) {
        let (before, after) = (self.before, self.after);
        let Some((leader, leader_id)) = after.leads_as() else { return };
        let me = (after.config.node_id, after.config.incarnation);
        let Some((old, _)) = before.leads_as().filter(|(_, id)| *id == leader_id) else {
            return I::LeadsByQuorum.check(self.was_elected(leader_id));
        };
        for peer in &leader.peers {
            let Some(known) = old.peer(peer.id).filter(|known| known.incarnation == peer.incarnation) else { continue };
            let lost = peer.heard != known.heard;
            I::CountsSinceTheLoss.check(!lost || peer.matched == LogId::ZERO && peer.stream > known.stream);
            I::MatchedForward.check(lost || peer.regressed || peer.matched.index >= known.matched.index);
            if let (Mode::Replicate { inflight: now, .. }, Mode::Replicate { inflight: then, .. }) =
                (&peer.mode, &known.mode)
            {
                I::InflightInWindow.check(now.len() <= after.config.max_inflight_appends.max(then.len()));
            }
        }
        if let Event::Message(Envelope { from, message: Message::AppendReply(reply), .. }) = self.event
            && let (Some(then), Some(now)) = (old.peer(*from), leader.peer(*from))
            && reply.stream != then.stream
        {
            I::OldStreamsDoNotCount.check(now.matched.index <= then.matched.index);
        }
        // A snapshot that was received before this leadership holds only what is committed.
        let installed = matches!(self.event, Event::SnapshotInstalled(meta) if meta.last_log_id.index == after.commit);
        if after.commit > before.commit && !installed {
            // A commit may bring the next membership in the same step: the sets that the two share agreed to it.
            let mut agreed = after.membership().clone();
            agreed.configs.retain(|set| before.membership().configs.contains(set));
            let reached = agreed.commit_reached(|id, incarnation| match (id, incarnation) == me {
                true => Some(after.disk.index()),
                false => leader.peer(id).filter(|peer| peer.counts_as(incarnation)).map(|peer| peer.matched.index),
            });
            let is_own = after.log.at(after.commit).is_some_and(|id| id.leader_id == leader_id);
            I::CommitsByQuorum.check(is_own && reached.is_some_and(|reached| reached >= after.commit));
        }
    }

    fn was_elected(&self, leader_id: LeaderId) -> bool {
        let Role::Candidate(candidate) = &self.before.role else { return false };
        let config = &self.after.config;
        let mut grants = candidate.grants.clone();
        grants.push((config.node_id, config.incarnation));
        if let Event::Message(Envelope { from, incarnation, message: Message::VoteReply(reply) }) = self.event
            && reply.phase == Phase::Real
            && reply.campaign == candidate.campaign
            && reply.requested == candidate.vote
            && reply.answer == VoteAnswer::Granted
        {
            grants.push((*from, *incarnation));
        }
        let granted = |id, incarnation| grants.contains(&(id, incarnation)).then_some(());
        candidate.phase == Phase::Real
            && candidate.vote.leader_id == leader_id
            && self.after.disk.vote_is_durable()
            && self.before.membership().elect_reached(granted).is_some()
    }

    // ---- promises ----

    fn check_held(&self) {
        let persisted = self.after.disk.durable_write();
        let (due, waiting): (Vec<_>, Vec<_>) = self.before.disk.held().partition(|(id, _)| *id <= persisted);
        let mut now = self.after.disk.held();
        I::HeldUntilDurable.check(waiting.iter().all(|held| now.next() == Some(held)));
        for (_, held) in due {
            let Held::Act(action) = held else { continue };
            I::HeldUntilDurable.check(self.actions.contains(action));
        }
    }

    fn check_promised_end(&self) {
        let (before, after) = (self.before, self.after);
        if before.promised_end > LogId::ZERO && after.promised_end == LogId::ZERO {
            let reached = before.promised_end <= after.log.last();
            let proven = |settles: &crate::lost_entries::Settlement| {
                let held = after.durable_match();
                let own = settles.leader_id == after.vote.leader_id && settles.leader_id == held.leader_id;
                own && held.index >= settles.commit
            };
            I::PromisedEndIsKept.check(reached || after.settles.as_ref().is_some_and(proven));
            I::PromisedEndIsKept.check(reached || self.writes().any(|op| *op == WriteOp::ForgetPromisedEnd));
        }
        if after.settles != before.settles {
            let header = match self.event {
                Event::Message(Envelope { message: Message::Append(append), .. }) => Some(&append.header),
                Event::SnapshotReceived { header, .. } => Some(header),
                _ => None,
            };
            I::PromisedEndIsKept.check(header.is_some_and(|header| header.heard == Some(after.start())));
        }
    }

    /// Whether an action was held until now, and was due.
    fn was_held(&self, action: &Action) -> bool {
        let persisted = self.after.disk.durable_write();
        let is_it = |held: &Held| matches!(held, Held::Act(act) if act == action);
        self.before.disk.held().any(|(id, held)| *id <= persisted && is_it(held))
    }

    fn check_lease(&self) {
        let Event::Message(Envelope { from, message: Message::VoteRequest(request), .. }) = self.event else { return };
        if request.phase == Phase::Real && matches!(request.reason, CampaignReason::Transfer(_)) {
            return;
        }
        let granted = Action::Note(Note::Granted { phase: request.phase, vote: request.vote });
        let keeps = request.phase == Phase::Pre && self.after.keeps_to_its_leader(*from);
        I::NoVoteInsideLease.check(!self.asks_for(&granted) || !keeps && !self.is_inside_lease(*from));
    }

    pub(crate) fn asks_for(&self, action: &Action) -> bool {
        self.actions.contains(action)
    }

    fn is_inside_lease(&self, candidate: NodeId) -> bool {
        let lease = self.after.config.election_timeout_min;
        let began = match (&self.before.role, self.before.contact) {
            (Role::Leader(leader), _) => leader.quorum_acked,
            (_, Some(contact)) if contact.leader != candidate && !contact.refused => Some(contact.at),
            (_, _) => None,
        };
        began.is_some_and(|began| self.after.now < began + lease)
    }

    fn check_nothing_changed(&self) {
        let failed = matches!(self.event, Event::PersistFailed(_));
        I::HaltedIsSilent.check(!failed || self.after.halted);
        let claim = match self.event {
            _ if self.before.halted => I::HaltedIsSilent,
            Event::Message(Envelope {
                message: Message::VoteRequest(VoteRequest { phase: Phase::Pre, .. }), ..
            }) => I::PreVoteChangesNothing,
            Event::Message(Envelope { message, .. }) if self.is_stale(message) => I::StaleChangesNothing,
            Event::SnapshotReceived { header, .. } if !header.vote.at_least(self.before.vote, self.mode()) => {
                I::StaleChangesNothing
            }
            _ => return,
        };
        // Time passed too, and may have brought what was due.
        let mut expected = self.before.clone();
        expected.step(self.after.now, Event::Persisted(WriteId(0)), &mut Actions::new());
        claim.check(expected == *self.after);
        if claim == I::HaltedIsSilent {
            let refused = Outcome::Refused(Refusal::Halted);
            let silent = |action: &Action| matches!(action, Action::Reply { outcome, .. } if *outcome == refused);
            claim.check(self.actions.iter().all(silent));
        }
    }

    fn mode(&self) -> LeaderIdMode {
        self.after.config.mode
    }

    /// Whether a message belongs to a leadership or a campaign that is over.
    fn is_stale(&self, message: &Message) -> bool {
        let vote = self.before.vote;
        match message {
            Message::Append(append) => !append.header.vote.at_least(vote, self.mode()),
            Message::AppendReply(reply) => reply.vote != vote || !self.before.is_leader(),
            Message::VoteReply(reply) => match &self.before.role {
                Role::Candidate(c) => {
                    reply.phase != c.phase || reply.campaign != c.campaign || reply.requested != c.vote
                }
                Role::Follower(_) | Role::Leader(_) => true,
            },
            Message::TransferLeader { vote: of, .. } => *of != vote,
            Message::VoteRequest(_) | Message::ReadRequest { .. } | Message::ReadReply { .. } => false,
        }
    }

    // ---- reads ----

    fn check_reads(&self) {
        let (before, after) = (self.before, self.after);
        // After it served the read the step may have put a membership in force, and dropped a peer that is not in it.
        let reached = |round: Round| {
            let me = (after.config.node_id, after.config.incarnation);
            let leaders = [after.leads_as(), before.leads_as()];
            let acked = |id, disk| {
                let of = leaders.iter().flatten().filter_map(|(leader, _)| leader.peer_as(id, disk));
                if (id, disk) == me { Some(leaders[0]?.0.round) } else { of.map(|peer| peer.acked).max() }
            };
            let in_force = [after.membership(), before.membership()];
            in_force.into_iter().any(|now| now.commit_reached(acked).is_some_and(|reached| reached >= round))
        };
        if let Event::Read { request, policy: ReadPolicy::ReadIndex } = self.event {
            let answers = self.actions.iter().filter_map(|action| match action {
                Action::Reply { request: to, outcome: Outcome::Read(at) } if to == request => Some(at.index),
                _ => None,
            });
            // At once it is answered if a round that begins now ends now, too.
            let ends_now = || match (before.leads_as(), after.leads_as()) {
                (Some((old, id)), Some((new, now))) if id == now => new.round > old.round && reached(new.round),
                _ => false,
            };
            answers.for_each(|at| I::ReadAfterRound.check(at >= before.commit && ends_now()));
        }
        let (Some((old, id)), Some((new, now))) = (before.leads_as(), after.leads_as()) else { return };
        let (then, under_way) = (old.reads.under_way(), new.reads.under_way());
        if id != now || then == under_way {
            return;
        }
        if let Some((round, _)) = then {
            I::ReadAfterRound.check(reached(round));
        }
        if let Some((round, at)) = under_way {
            I::ReadAfterRound.check(round > old.round && at.index >= before.commit);
        }
    }

    // ---- what is asked of the driver ----

    fn check_applies(&self) {
        let (before, after) = (self.before, self.after);
        let mut sent = before.apply_sent;
        if after.snapshot.last != before.snapshot.last && matches!(self.event, Event::SnapshotInstalled(_)) {
            sent = sent.max(after.snapshot.last);
        }
        for action in self.actions {
            let Action::Apply(span) = action else { continue };
            I::ApplyWithoutGap.check(span.prev == sent && span.count() > 0 && after.log.holds(span.last));
            sent = span.last;
        }
        I::ApplyWithoutGap.check(sent == after.apply_sent);
    }

    fn check_action(&self, action: &Action) {
        let after = self.after;
        match action {
            Action::Send { to, message } => self.check_message(action, *to, message),
            Action::SendEntries { header, span, .. } => {
                I::SendsOwnLog.check(self.is_own(header.vote.leader_id) && header.commit <= after.commit);
                // An empty span asks what became of what was sent before.
                I::SendsOwnLog
                    .check(span.prev <= span.last && after.log.holds(span.prev) && after.log.holds(span.last));
            }
            Action::SendSnapshot { header, at_least, .. } => {
                I::SendsOwnLog.check(self.is_own(header.vote.leader_id) && *at_least <= after.snapshot.last);
            }
            Action::Purge { upto } => {
                let covered = upto.index <= after.snapshot.last.index && upto.index <= after.log.purged().index;
                I::PurgeBehindSnapshot.check(covered);
            }
            Action::InstallSnapshot(_) => {
                I::InstallsUnderItsVote.check(after.disk.vote_is_durable() || self.was_held(action));
            }
            Action::Persist(_) | Action::BuildSnapshot | Action::Apply(_) | Action::Reply { .. } | Action::Note(_) => {}
        }
    }

    /// Whether this node led under that id, before the step or after it.
    fn is_own(&self, leader_id: LeaderId) -> bool {
        [self.before, self.after].iter().any(|core| core.leads_as().is_some_and(|(_, id)| id == leader_id))
    }

    fn check_message(&self, action: &Action, to: NodeId, message: &Message) {
        let after = self.after;
        let disk = &after.disk;
        match message {
            Message::VoteReply(reply) if reply.phase == Phase::Real && reply.answer == VoteAnswer::Granted => {
                let durable = disk.vote_is_durable() && after.vote.at_least(reply.requested, self.mode());
                I::GrantIsDurable.check(durable || self.was_held(action));
            }
            Message::VoteRequest(request) if request.phase == Phase::Real => {
                let vote = disk.vote_is_durable() && request.vote.leader_id == after.vote.leader_id;
                // What an installed snapshot holds survives a crash, also before the log is reset to it (law 11).
                let durable = disk.index().max(after.snapshot.last.index);
                let log = after.log.holds(request.last_log_id) && request.last_log_id.index <= durable;
                I::RequestIsDurable.check(vote && log);
            }
            Message::AppendReply(reply) => {
                let AppendAnswer::Accepted { matched } = reply.answer else { return };
                let durable = disk.vote_is_durable() && after.log.holds(matched) && matched.index <= disk.index();
                I::AcknowledgesDurable.check(matched == LogId::ZERO || durable);
            }
            Message::Append(append) => {
                let header = &append.header;
                I::SendsOwnLog.check(self.is_own(header.vote.leader_id) && header.commit <= after.commit);
                let known = append.prev.index <= after.log.purged().index || after.log.holds(append.prev);
                I::SendsOwnLog.check(known);
            }
            Message::VoteReply(_)
            | Message::VoteRequest(_)
            | Message::ReadRequest { .. }
            | Message::ReadReply { .. } => {}
            Message::TransferLeader { last_log_id, .. } => {
                let Some((leader, _)) = after.leads_as() else { return };
                let matched = leader.peer(to).map(|peer| peer.matched);
                I::AsksWhoHasTheLog.check(matched == Some(*last_log_id) && *last_log_id == after.log.last());
            }
        }
    }

    // ---- callers ----

    fn check_callers(&self) {
        let replies: Vec<RequestId> = self.replies().map(|(request, _)| *request).collect();
        let twice = replies.iter().enumerate().any(|(i, request)| replies[..i].contains(request));
        I::OneReply.check(!twice);
        let waits = waiting(self.after);
        let answered = |request: &RequestId| replies.contains(request) || waits.contains(request);
        I::NoCallerForgotten.check(waiting(self.before).iter().all(answered));
        if let Event::Propose { request, .. }
        | Event::Read { request, .. }
        | Event::ChangeMembership { request, .. }
        | Event::Initialize { request, .. }
        | Event::TransferLeader { request, .. }
        | Event::Snapshot { request: Some(request) }
        | Event::PurgeLog { request: Some(request), .. } = self.event
        {
            let held = |held: &Held| matches!(held, Held::Act(Action::Reply { request: to, .. }) if to == request);
            I::NoCallerForgotten.check(answered(request) || self.after.disk.held().any(|(_, what)| held(what)));
        }
    }

    fn check_deadline(&self) {
        let after = self.after;
        let moved = after.deadline().is_none_or(|due| due > after.now);
        I::TimeoutMovesDeadline.check(moved || !matches!(self.event, Event::Timeout));
    }
}

/// Callers whose answer the core owes, but for those that wait for the disk.
fn waiting(core: &Core) -> Vec<RequestId> {
    let mut waiting: Vec<RequestId> = core.asked_reads.iter().map(|asked| asked.request).collect();
    waiting.extend(core.transfer.and_then(|transfer| transfer.request));
    waiting.extend(core.snapshot.callers());
    if let Role::Leader(leader) = &core.role {
        waiting.extend(leader.changes.requests());
        waiting.extend(leader.reads.callers());
    }
    waiting
}
