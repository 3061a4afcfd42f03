//! Elections: campaigns, votes, leases on followers (dissertation 3.4, 4.2.3, 9.6).

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::{Contact, Core, Follower, Role};
use crate::durability::Held;
use crate::event::{Action, Actions, Note, StepDown};
use crate::ids::{Campaign, Incarnation, LeaderId, LeaderIdMode, NodeId, Vote};
use crate::message::{CampaignReason, Message, Phase, VoteAnswer, VoteReply, VoteRequest};

/// A campaign under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    pub(crate) phase: Phase,
    pub(crate) campaign: Campaign,
    /// The vote asked for; in phase `Real` it is this node's own vote.
    pub(crate) vote: Vote,
    pub(crate) reason: CampaignReason,
    /// Who granted it, and from which disk.
    pub(crate) grants: Vec<(NodeId, Incarnation)>,
    /// It leaves a gap for another: it split the vote with a node of a greater id, or a pre-vote told it of a better log.
    pub(crate) gives_way: bool,
}

impl Core {
    // ---- the timer ----

    pub(crate) fn set_election_deadline(&mut self) {
        let min = self.config.election_timeout_min.as_nanos() as u64;
        let max = self.config.election_timeout_max.as_nanos() as u64;
        let timeout = if bug(Bug::SameTimeoutEverywhere) { min } else { self.rng.between(min, max) };
        self.election_deadline = self.now.after_nanos(timeout);
    }

    /// Whether this node campaigns by itself when it hears of no leader.
    pub(crate) fn may_campaign(&self) -> bool {
        self.config.elect.is_on() && self.is_electable()
    }

    /// Whether this node votes in the last committed membership or a later one. A leader on its way out may
    /// hold the only copy of the entry that removes it, and must be able to finish (dissertation 4.2.2).
    pub(crate) fn is_electable(&self) -> bool {
        if bug(Bug::BlankNodeCampaigns) && self.membership().is_empty() {
            return true;
        }
        // Rule: a leader's log holds every committed entry, and really (dissertation 3.6.3, docs/design/001).
        if self.lost_entries().is_some() && !bug(Bug::CampaignsWithLostEntries) {
            return false;
        }
        let mut committed = self.memberships.iter().rposition(|(id, _)| id.index <= self.commit).unwrap_or(0);
        if bug(Bug::RemovedLeaderCannotFinish) {
            committed = self.memberships.len() - 1;
        }
        if bug(Bug::LearnerCampaigns) {
            return self.membership().nodes.contains_key(&self.config.node_id);
        }
        let (me, incarnation) = (self.config.node_id, self.config.incarnation);
        self.memberships[committed..].iter().any(|(_, membership)| membership.is_voter_as(me, incarnation))
    }

    pub(crate) fn on_election_timeout(&mut self, out: &mut Actions) {
        if self.now < self.campaign_due() {
            return;
        }
        if !self.may_campaign() {
            return self.become_follower(None);
        }
        match self.config.pre_vote.is_on() && !bug(Bug::PreVoteSkipped) {
            true => self.start_campaign(Phase::Pre, CampaignReason::Timeout, out),
            false => self.start_campaign(Phase::Real, CampaignReason::Timeout, out),
        }
    }

    /// A caller wants a campaign now.
    pub(crate) fn on_elect(&mut self, phase: Phase, out: &mut Actions) {
        if self.is_electable() && !self.is_leader() {
            self.start_campaign(phase, CampaignReason::Timeout, out);
        }
    }

    /// This node's own connection to a peer was refused. That is evidence, for this node only, that a leader
    /// there is gone (law 6).
    pub(crate) fn on_link_refused(&mut self, peer: NodeId) {
        let fast_failover = !self.uses_leases() || bug(Bug::ConnectionEvidenceEndsPromise);
        if fast_failover && self.vote.leader_id.node_id == peer {
            // Also what a restarted voter keeps to its leader for.
            self.promised.0 = Vote::default();
        }
        let Some(contact) = &mut self.contact else { return };
        if contact.leader != peer || !fast_failover || matches!(self.role, Role::Leader(_)) {
            return;
        }
        contact.refused = true;
        if self.may_campaign() {
            // Spread the followers of a dead leader a little, so that one of them wins at once.
            let spread = self.config.heartbeat_interval.as_nanos() as u64 / 2;
            let soon = self.now + Duration::from_nanos(self.rng.between(0, spread));
            self.election_deadline = self.election_deadline.min(soon);
        }
    }

    // ---- campaigning ----

    pub(crate) fn start_campaign(&mut self, phase: Phase, reason: CampaignReason, out: &mut Actions) {
        if self.is_bound_by_promise(self.config.node_id, reason) {
            return out.note(Note::BoundByLease);
        }
        let vote = Vote::uncommitted(self.next_leader_id());
        if vote.leader_id.term == u64::MAX && !bug(Bug::CampaignsInTheLastTerm) {
            // Only a lie can have brought the terms this far; nobody would accept the last one.
            return self.set_election_deadline();
        }
        self.campaign = Campaign(self.campaign.0 + 1);
        let campaign = self.campaign;
        if phase == Phase::Real {
            self.contact = None;
            self.promises.release();
        }
        self.set_election_deadline();
        self.role = Role::Candidate(Candidate { phase, campaign, vote, reason, grants: Vec::new(), gives_way: false });
        out.note(Note::Campaigning { phase, vote });
        match phase {
            Phase::Pre => self.request_votes(out),
            Phase::Real => {
                self.set_vote(vote, out);
                if bug(Bug::RequestBeforePersist) {
                    return self.request_votes(out);
                }
                // Rule: the requests wait for the disk (law 3). If they left before and this node crashed, it
                // could campaign again under the same vote with a shorter log, and be elected by old grants.
                self.disk.hold(Held::Campaign(campaign));
            }
        }
    }

    /// The leader id of the next campaign: above every vote this node has seen.
    fn next_leader_id(&self) -> LeaderId {
        let me = self.config.node_id;
        let seen = self.vote.leader_id;
        let same_term = LeaderId { term: seen.term, node_id: me };
        // In advanced mode a split vote does not need a new term: a greater candidate can still win this one.
        let may_share_term = self.config.mode == LeaderIdMode::Advanced
            && !self.vote.committed
            && same_term > seen
            && (seen.term > self.seen_term || bug(Bug::RestartSharesTheTerm));
        if may_share_term {
            return same_term;
        }
        LeaderId { term: seen.term.max(self.seen_term).saturating_add(1), node_id: me }
    }

    /// The candidate's own vote is durable.
    pub(crate) fn on_vote_durable(&mut self, campaign: Campaign, out: &mut Actions) {
        if matches!(&self.role, Role::Candidate(c) if c.phase == Phase::Real && c.campaign == campaign) {
            self.request_votes(out);
        }
    }

    /// Grants itself the vote and asks everyone else.
    fn request_votes(&mut self, out: &mut Actions) {
        let me = (self.config.node_id, self.config.incarnation);
        let last_log_id = self.log.last();
        let voters = self.membership().voter_ids();
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.grants.push(me);
        let request = VoteRequest {
            phase: candidate.phase,
            campaign: candidate.campaign,
            vote: candidate.vote,
            last_log_id,
            reason: candidate.reason,
        };
        for to in voters.into_iter().filter(|id| *id != me.0) {
            out.push(Action::Send { to, message: Message::VoteRequest(request.clone()) });
        }
        self.maybe_win(out);
    }

    pub(crate) fn on_vote_reply(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        reply: &VoteReply,
        out: &mut Actions,
    ) {
        let mode = self.config.mode;
        let Role::Candidate(candidate) = &mut self.role else { return };
        // Rule: a grant counts only for the campaign it echoes (law 2).
        let echoes =
            reply.phase == candidate.phase && reply.campaign == candidate.campaign && reply.requested == candidate.vote;
        if !echoes && !bug(Bug::CountsOldGrants) {
            return;
        }
        match reply.answer {
            VoteAnswer::Granted => {
                if !candidate.grants.contains(&(from, incarnation)) || bug(Bug::GrantCountsTwice) {
                    candidate.grants.push((from, incarnation));
                }
                self.maybe_win(out);
            }
            VoteAnswer::StaleVote(seen) => {
                let forgets = match candidate.phase {
                    Phase::Pre => bug(Bug::PreVoteLearnsNothing),
                    Phase::Real => bug(Bug::RefusalTeachesNothing),
                };
                let is_behind = !candidate.vote.exceeds(seen, mode) && !forgets;
                if is_behind {
                    self.seen_term = self.seen_term.max(seen.leader_id.term);
                }
                // Who refuses a pre-vote for its term alone hears no leader, and is asked again, above that term, without
                // waiting a whole timeout; but not before the campaign that brought the term can have been won, unless
                // disks take longer than a heartbeat. Then an election more is the cost.
                if is_behind && candidate.phase == Phase::Pre && !candidate.gives_way && !bug(Bug::PreVoteBehindWaits) {
                    let moment = self.config.heartbeat_interval.as_nanos() as u64;
                    let soon = self.now + Duration::from_nanos(self.rng.between(moment, moment * 2));
                    self.election_deadline = self.election_deadline.min(soon);
                }
                let is_split = candidate.vote.compare(seen, mode).is_none() && from == seen.leader_id.node_id;
                if is_split && candidate.phase == Phase::Real {
                    self.on_split_vote(from);
                }
            }
            // The better candidate goes first.
            VoteAnswer::StaleLog(_) => {
                candidate.gives_way |= candidate.phase == Phase::Pre;
                let extra = self.config.election_timeout_min;
                self.election_deadline = self.election_deadline.max(self.now + extra);
            }
            VoteAnswer::LeaderAlive => {}
        }
    }

    /// This node and `other` split a vote: neither goes above the other (law 1). Where the next campaigns of two nodes begin
    /// within a round trip of each other, that vote may be split as well: theirs, or the greater one's and a voter's.
    ///
    /// So the greatest of those that hear of each other goes alone. The lesser leave it a gap; and it waits for half of a least
    /// timeout only. What another has won after all is heard by then, and no timeout is over that began with a grant.
    fn on_split_vote(&mut self, other: NodeId) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let (me, timeout) = (self.config.node_id, self.config.election_timeout_min);
        if candidate.gives_way {
            return;
        }
        if other > me && !bug(Bug::SplitVoteIsSplitAgain) {
            candidate.gives_way = true;
            self.election_deadline = self.election_deadline + timeout;
        }
        if other < me && !bug(Bug::SplitVoteWaitsATimeout) {
            self.election_deadline = self.election_deadline.min(self.now + timeout / 2);
        }
    }

    fn maybe_win(&mut self, out: &mut Actions) {
        let Role::Candidate(candidate) = &self.role else { return };
        let granted = |id: NodeId, inc: Incarnation| {
            let another = bug(Bug::CountsAnotherDisk) && candidate.grants.iter().any(|(from, _)| *from == id);
            (another || candidate.grants.contains(&(id, inc))).then_some(())
        };
        let membership = self.membership();
        let mut elected = membership.elect_reached(granted).is_some();
        if bug(Bug::LearnerVotes) || bug(Bug::GrantCountsTwice) {
            elected |= candidate.grants.len() > membership.voter_ids().len() / 2;
        }
        match candidate.phase {
            // Rule: a pre-vote needs a commit quorum too (law 4): who could not commit must not elect.
            Phase::Pre
                if elected
                    && (membership.commit_reached(granted).is_some() || bug(Bug::PreVoteWithoutCommitQuorum)) =>
            {
                let reason = candidate.reason;
                self.start_campaign(Phase::Real, reason, out);
            }
            Phase::Real if elected => self.become_leader(out),
            Phase::Pre | Phase::Real => {}
        }
    }

    // ---- voting ----

    pub(crate) fn on_vote_request(&mut self, from: NodeId, request: &VoteRequest, out: &mut Actions) {
        let asks_for_itself =
            request.vote.leader_id.node_id == from && !request.vote.committed || bug(Bug::VoteRequestForAnother);
        if !asks_for_itself || request.vote.leader_id.term == u64::MAX {
            return out.note(Note::Impossible { from, what: "a vote request for another node or a committed vote" });
        }
        let answer = self.answer_vote_request(from, request);
        let learns = request.phase == Phase::Real && !bug(Bug::RefusedLogTeachesNothing);
        if learns && matches!(answer, VoteAnswer::StaleLog(_)) {
            // A candidate that cannot win must not keep the one that can one term behind for ever.
            self.seen_term = self.seen_term.max(request.vote.leader_id.term);
        }
        let granted = answer == VoteAnswer::Granted;
        let reply = VoteReply { phase: request.phase, campaign: request.campaign, requested: request.vote, answer };
        let message = Message::VoteReply(reply);
        // Rule: a pre-vote changes nothing here: not the vote, not the timer, not the lease (law 2).
        if !granted || request.phase == Phase::Pre && !bug(Bug::PreVoteChangesVote) {
            if granted {
                out.note(Note::Granted { phase: Phase::Pre, vote: request.vote });
                if bug(Bug::PreVoteResetsTimer) {
                    self.set_election_deadline();
                }
            }
            return out.push(Action::Send { to: from, message });
        }
        if self.is_leader() {
            self.step_down(StepDown::GreaterVote(request.vote), out);
        }
        self.become_follower(None);
        self.contact = None;
        self.promises.release();
        self.set_vote(request.vote, out);
        out.note(Note::Granted { phase: Phase::Real, vote: request.vote });
        // Rule: a grant waits for the disk. A crash here must not un-vote us (dissertation 3.8).
        if bug(Bug::GrantBeforePersist) {
            return out.push(Action::Send { to: from, message });
        }
        self.disk.hold(Held::Act(Action::Send { to: from, message }));
    }

    fn answer_vote_request(&self, from: NodeId, request: &VoteRequest) -> VoteAnswer {
        let mode = self.config.mode;
        if self.is_bound_by_promise(from, request.reason) {
            return VoteAnswer::LeaderAlive;
        }
        let handed_over = matches!(request.reason, CampaignReason::Transfer(_));
        let overrides_lease = request.phase == Phase::Real && handed_over;
        let forgets = match request.phase {
            Phase::Pre => bug(Bug::PreVoteIgnoresLeader),
            Phase::Real => bug(Bug::NoRefusalInsideLease),
        };
        if !overrides_lease && !forgets && self.refuses_for_lease(from) {
            return VoteAnswer::LeaderAlive;
        }
        let acceptable = match request.phase {
            Phase::Pre => request.vote.exceeds(self.vote, mode),
            Phase::Real if bug(Bug::RepeatedRequestRefused) => request.vote.exceeds(self.vote, mode),
            Phase::Real => request.vote.at_least(self.vote, mode),
        };
        let same_term = request.vote.leader_id.term == self.vote.leader_id.term && !self.vote.committed;
        let acceptable = acceptable || same_term && bug(Bug::TwoVotesATerm);
        if !acceptable {
            return VoteAnswer::StaleVote(self.vote);
        }
        // Rule: vote only for a log that is at least as up to date (dissertation 3.6.1), also as what damage took:
        // what this node acknowledged may be committed.
        let promised = if bug(Bug::ForgetsPromisedEnd) { crate::LogId::ZERO } else { self.promised_end };
        let end = self.log.last().max(promised);
        let is_stale = match bug(Bug::IgnoresLastTerm) {
            true => request.last_log_id.index < end.index,
            false => request.last_log_id < end,
        };
        if is_stale {
            return VoteAnswer::StaleLog(end);
        }
        if request.phase == Phase::Pre && self.keeps_to_its_leader(from) && !bug(Bug::RestartForgetsTheLeader) {
            return VoteAnswer::LeaderAlive;
        }
        VoteAnswer::Granted
    }

    /// Whether this node started so recently that the leader of its vote may still be alive: it does not remember
    /// when it heard of it. A real request is not refused for that, or a cluster of restarted nodes would wait.
    pub(crate) fn keeps_to_its_leader(&self, candidate: NodeId) -> bool {
        let voted_for = self.vote.leader_id;
        let other = voted_for.term > 0 && voted_for.node_id != candidate && voted_for.node_id != self.config.node_id;
        let (vote, started) = self.promised;
        other && self.vote == vote && self.now < started + self.config.election_timeout_min
    }

    /// Whether a live leader's lease forbids electing `candidate` (dissertation 4.2.3). It never forbids the
    /// node that the lease was promised to (law 5).
    fn refuses_for_lease(&self, candidate: NodeId) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                leader.quorum_acked.is_some_and(|at| self.now < at + self.config.election_timeout_min)
            }
            Role::Follower(_) | Role::Candidate(_) => self.contact.is_some_and(|contact| {
                let alive = self.now < contact.at + self.config.election_timeout_min;
                (contact.leader != candidate || bug(Bug::LeaseBindsItsLeader)) && !contact.refused && alive
            }),
        }
    }

    // ---- roles ----

    /// Accepts `leader` of `vote`, from whom a message just came.
    pub(crate) fn follow(&mut self, leader: NodeId, vote: Vote, out: &mut Actions) {
        // A new leader id is a new leader, also on the same node: what was accepted of the old one says nothing.
        let new_leader = vote.leader_id != self.vote.leader_id || self.leader() != Some(leader);
        if vote != self.vote {
            if self.is_leader() {
                self.step_down(StepDown::GreaterVote(vote), out);
            }
            self.set_vote(vote, out);
        }
        if new_leader {
            self.become_follower(Some(leader));
            out.note(Note::Following(vote.leader_id));
        }
        let refused = bug(Bug::EvidenceIsNotCancelled) && self.contact.is_some_and(|contact| contact.refused);
        self.contact = Some(Contact { leader, at: self.now, refused });
        self.set_election_deadline();
    }

    /// Follows `leader`, or waits for one. Does nothing about a leadership that this node holds.
    pub(crate) fn become_follower(&mut self, leader: Option<NodeId>) {
        // What is committed is in every later leader's log (leader completeness, dissertation 3.6.3).
        self.role = Role::Follower(Follower { leader, accepted: self.commit, ack: None });
        self.set_election_deadline();
    }

    /// Ends this node's leadership.
    pub(crate) fn step_down(&mut self, reason: StepDown, out: &mut Actions) {
        assert!(self.is_leader(), "only a leader steps down");
        out.note(Note::SteppedDown { leader_id: self.vote.leader_id, reason });
        self.fail_leader_requests(out);
        self.become_follower(None);
        // The others get a chance first: they may be connected where this node is not.
        self.election_deadline = self.election_deadline.max(self.now + self.config.election_timeout_max);
        self.contact = None;
    }
}
