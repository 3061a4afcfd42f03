//! What must hold of a step by which leadership may change: who campaigns, above what, after asking whom; who votes for
//! whom; and what is promised, and expected, in between.

use crate::check_step::Step;
use crate::core::{Core, Role};
use crate::durability::Held;
use crate::election::Candidate;
use crate::event::{Action, Event, Note, Outcome, PeerState, ReadPolicy};
use crate::ids::{Incarnation, LeaderId, LogId, NodeId};
use crate::invariant::Invariant as I;
use crate::message::{CampaignReason, Envelope, Message, Phase, VoteAnswer};

impl Core {
    /// Whether this node votes in the last committed membership or a later one, and holds all that it acknowledged.
    fn is_fit_to_lead(&self) -> bool {
        let committed = self.memberships.iter().rposition(|(id, _)| id.index <= self.commit).unwrap_or(0);
        let (me, incarnation) = (self.config.node_id, self.config.incarnation);
        let votes = |(_, membership): &(LogId, crate::Membership)| membership.is_voter_as(me, incarnation);
        self.memberships[committed..].iter().any(votes) && self.lost_entries().is_none()
    }
}

impl Step<'_> {
    pub(crate) fn check_campaign(&self) {
        let (before, after) = (self.before, self.after);
        let Role::Candidate(candidate) = &after.role else { return };
        if after.campaign == before.campaign {
            return;
        }
        I::CampaignsAsVoter.check(before.is_fit_to_lead() || after.is_fit_to_lead());
        I::CampaignsAboveWhatItSaw.check(candidate.vote.leader_id.term > before.seen_term);
        if let CampaignReason::Transfer(from) = candidate.reason {
            I::TakesOverAsAsked.check(self.was_asked_to_take_over(from));
        }
        if let Role::Candidate(asked) = &before.role {
            I::AsksACommitQuorum.check(self.was_preferred(asked, candidate));
        }
    }

    /// Who is asked to take over by its leader does, also if its disk is not ready yet.
    pub(crate) fn check_takes_over(&self) {
        let before = self.before;
        let Event::Message(Envelope { message: Message::TransferLeader { vote, last_log_id }, .. }) = self.event else {
            return;
        };
        let waits = before.log.holds(*last_log_id) && before.disk.index() < last_log_id.index;
        if waits && *vote == before.vote && !before.is_leader() && self.leader_asks() && self.is_quiet() {
            I::TakesOverAsAsked.check(self.after.disk.is_to_take_over());
        }
    }

    fn leader_asks(&self) -> bool {
        let (vote, from) = (self.before.vote, self.event);
        matches!(from, Event::Message(Envelope { from, .. }) if vote.committed && vote.leader_id.node_id == *from)
    }

    /// Whether nothing but the event happens in this step: no time-out was due.
    fn is_quiet(&self) -> bool {
        !self.before.halted && self.after.now < self.before.campaign_due()
    }

    /// A vote, or the promise of one, goes to a log that lacks nothing of what this node acknowledged.
    pub(crate) fn check_grant(&self) {
        let Event::Message(Envelope { message: Message::VoteRequest(request), .. }) = self.event else { return };
        let note = Action::Note(Note::Granted { phase: request.phase, vote: request.vote });
        let end = self.before.log.last().max(self.before.promised_end);
        I::GrantsAWholeLog.check(!self.asks_for(&note) || request.last_log_id >= end);
    }

    /// What its leader answered to a read: what of it this node takes for committed, and for how old.
    pub(crate) fn check_read_reply(&self) {
        let Event::Message(Envelope { message: Message::ReadReply { request: number, log_id: Some(log_id) }, .. }) =
            self.event
        else {
            return;
        };
        let (before, after) = (self.before, self.after);
        if after.commit > before.commit && !after.is_leader() {
            I::CommitsWhatItHolds.check(after.log.holds(*log_id) && after.commit <= log_id.index);
        }
        if after.confirmed != before.confirmed {
            let asked = before.asked_reads.iter().find(|asked| asked.number == *number).and_then(|asked| asked.at);
            I::AgeFromTheQuestion.check(after.confirmed == asked.map(|at| (at, *log_id)));
        }
    }

    /// What could not be sent is not taken for sent.
    pub(crate) fn check_lost(&self) {
        let Event::SendLost { to, stream } = self.event else { return };
        let stream_of = |core: &Core| match &core.role {
            Role::Leader(leader) => {
                leader.peer(*to).filter(|peer| peer.state() != PeerState::Snapshot).map(|peer| peer.stream)
            }
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let lost = !self.before.halted && stream_of(self.before) == Some(*stream);
        I::LostIsSentAgain.check(!lost || stream_of(self.after) != Some(*stream));
    }

    /// Whether the leader that this node follows asked it to take over, as soon as what the leader's log held is durable
    /// here, and not too long ago.
    fn was_asked_to_take_over(&self, from: LeaderId) -> bool {
        let (vote, now) = (self.before.vote, self.after.now);
        let just_now = matches!(
            self.event,
            Event::Message(Envelope { message: Message::TransferLeader { vote: of, last_log_id }, .. })
                if *of == vote && self.before.log.holds(*last_log_id)
        );
        let in_time = |held: &Held| matches!(held, Held::TakeOver { vote: of, until } if *of == vote && now < *until);
        let before = self.before.disk.held().any(|(_, held)| in_time(held));
        vote.committed && vote.leader_id == from && (just_now || before)
    }

    /// Where a node campaigns because it would be elected: whether those that say so can also commit (law 4).
    fn was_preferred(&self, asked: &Candidate, candidate: &Candidate) -> bool {
        let (before, after) = (self.before, self.after);
        let Event::Message(Envelope { from, incarnation, message: Message::VoteReply(reply) }) = self.event else {
            return true;
        };
        let by_itself = after.now >= before.campaign_due();
        if by_itself || (asked.phase, candidate.phase) != (Phase::Pre, Phase::Real) {
            return true;
        }
        let echoes = (reply.phase, reply.campaign, reply.requested) == (asked.phase, asked.campaign, asked.vote);
        let granted = |id: NodeId, disk: Incarnation| {
            let just_now = echoes && reply.answer == VoteAnswer::Granted && (id, disk) == (*from, *incarnation);
            (just_now || asked.grants.contains(&(id, disk))).then_some(())
        };
        let membership = before.membership();
        membership.elect_reached(granted).is_some() && membership.commit_reached(granted).is_some()
    }

    /// What is heard of a leader counts for more than a connection to it that was refused before.
    pub(crate) fn check_evidence(&self) {
        let heard_at = |core: &Core| core.contact.map(|contact| (contact.leader, contact.at));
        if heard_at(self.before) != heard_at(self.after) {
            I::HeardEndsEvidence.check(self.after.contact.is_none_or(|contact| !contact.refused));
        }
    }

    pub(crate) fn check_lease_read(&self) {
        let Event::Read { request, policy: ReadPolicy::LeaseRead } = self.event else { return };
        if !self.before.uses_leases() && !self.after.uses_leases() {
            let refused = self.replies().any(|(to, outcome)| to == request && matches!(outcome, Outcome::Refused(_)));
            I::LeaseReadsByLease.check(refused);
        }
    }

    /// A read that is answered in the step that brings it was so without a round, or by one that ended at once.
    pub(crate) fn check_at_once(&self) {
        let Event::Read { request, policy } = self.event else { return };
        let told = self.replies().find_map(|(to, outcome)| match outcome {
            Outcome::Read(log_id) if to == request => Some(*log_id),
            _ => None,
        });
        let seen = self.before.answer_at_once(self.after.now, *policy);
        let began = || match (&self.before.role, &self.after.role) {
            (Role::Leader(old), Role::Leader(new)) => new.round > old.round,
            _ => false,
        };
        I::AtOnceIsAsInAStep.check(told == seen || seen.is_none() && began());
    }
}
