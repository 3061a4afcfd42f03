//! Handing leadership over: on request, and by a leader that was removed (dissertation 3.10, 4.2.2).
//!
//! The leader takes no proposals, brings the target's log up to its own and asks it to campaign at once. It keeps
//! asking, because the message may be lost, and it never waits longer than an election timeout: a transfer ends
//! with the new leader, or with a named reason, and then this node takes proposals again.

use std::cmp::Reverse;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::durability::Held;
use crate::event::{Action, Actions, Outcome, Refusal, StepDown, TransferFailure};
use crate::ids::{LeaderId, LogId, NodeId, RequestId, Vote};
use crate::message::{CampaignReason, Message, Phase};
use crate::time::Instant;

/// A transfer under way. It outlives the leadership that it hands over: the caller is told who leads then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    /// Whom to answer; `None`: a removed leader hands over by itself.
    pub(crate) request: Option<RequestId>,
    /// Who is to lead.
    pub(crate) to: NodeId,
    /// The leadership that is handed over.
    pub(crate) from: LeaderId,
    /// The end of the log that is handed over: nothing is appended meanwhile.
    pub(crate) last: LogId,
    /// When to give up.
    pub(crate) until: Instant,
    /// When the target was last asked to campaign; `None`: it was not up to date yet.
    pub(crate) asked_at: Option<Instant>,
}

impl Core {
    // ---- on the leader ----

    pub(crate) fn on_transfer(&mut self, request: RequestId, to: Option<NodeId>, out: &mut Actions) {
        let outcome = match self.plan_transfer(to) {
            Ok(to) if to == self.config.node_id => Outcome::Transferred(self.vote.leader_id),
            Ok(to) => return self.start_transfer(Some(request), to),
            Err(refusal) => Outcome::Refused(refusal),
        };
        out.push(Action::Reply { request, outcome });
    }

    /// Whom to hand over to, or why to nobody.
    fn plan_transfer(&self, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        if !self.is_leader() {
            return Err(Refusal::NotLeader { leader: self.leader() });
        }
        if let Some(to) = self.transferring_to() {
            return Err(Refusal::Transferring { to });
        }
        let Some(to) = to else {
            return self.successor().ok_or(Refusal::NotTransferred(TransferFailure::NoTarget));
        };
        if !self.membership().nodes.contains_key(&to) {
            return Err(Refusal::UnknownNode(to));
        }
        match to == self.config.node_id || self.may_lead_next(to) {
            true => Ok(to),
            false => Err(Refusal::NotTransferred(TransferFailure::NotVoter(to))),
        }
    }

    fn start_transfer(&mut self, request: Option<RequestId>, to: NodeId) {
        let until = self.now + self.config.election_timeout_max;
        let (from, last) = (self.vote.leader_id, self.log.last());
        self.transfer = Some(Transfer { request, to, from, last, until, asked_at: None });
    }

    pub(crate) fn on_abort_transfer(&mut self, out: &mut Actions) {
        if let Some(to) = self.transferring_to() {
            self.fail_transfer(TransferFailure::Aborted { to }, out);
        }
    }

    /// Whom this leader hands over to, if it does.
    pub fn transferring_to(&self) -> Option<NodeId> {
        let is_mine = |from: LeaderId| from == self.vote.leader_id || bug(Bug::TransferFlagStays);
        self.transfer.filter(|transfer| self.is_leader() && is_mine(transfer.from)).map(|it| it.to)
    }

    /// The voter to lead next: with the longest durable log among those heard of lately, the lowest id of equals.
    fn successor(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let patience = self.config.election_timeout_max;
        let candidates = leader
            .peers
            .iter()
            .filter(|peer| self.may_lead_next(peer.id) && peer.acked_at.is_some_and(|at| self.now < at + patience));
        candidates.max_by_key(|peer| (peer.matched.index, Reverse(peer.id))).map(|peer| peer.id)
    }

    /// Whether the peer votes, and will still when the change under way is complete.
    fn may_lead_next(&self, id: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(peer) = leader.peer(id) else { return false };
        if bug(Bug::TransferToAnybody) {
            return true;
        }
        // A disk that was not heard of yet may be the one that is meant; another one certainly is not (law 15).
        self.membership().configs.iter().all(|set| {
            set.voters.get(&id).is_some_and(|named| {
                !peer.regressed && peer.incarnation.is_none_or(|incarnation| incarnation == *named)
            })
        })
    }

    /// A leader that the committed membership leaves out hands over before it goes, so that nobody has to wait
    /// for an election timeout.
    pub(crate) fn leave_leadership(&mut self, out: &mut Actions) {
        if self.transferring_to().is_some() {
            return;
        }
        match self.successor() {
            Some(to) => self.start_transfer(None, to),
            None => self.step_down_removed(out),
        }
    }

    fn step_down_removed(&mut self, out: &mut Actions) {
        // The others learn that the change is committed before this leader leaves (dissertation 4.2.2).
        self.broadcast_round(out);
        self.step_down(StepDown::Removed, out);
    }

    /// Goes on with a transfer, at the end of every step.
    pub(crate) fn advance_transfer(&mut self, out: &mut Actions) {
        let Some(transfer) = self.transfer else { return };
        if self.transferring_to().is_some() && !self.halted {
            return self.drive_transfer(transfer, out);
        }
        // This leadership is over; the caller wants to know whose the next one is.
        let next = self.leader().filter(|_| !self.halted);
        match next {
            Some(leader) if leader == transfer.to => {
                self.end_transfer(Outcome::Transferred(self.vote.leader_id), out);
            }
            Some(leader) => {
                let failure = TransferFailure::LeaderChanged { leader };
                self.end_transfer(Outcome::Refused(Refusal::NotTransferred(failure)), out);
            }
            None if self.halted || self.now >= transfer.until => self.end_transfer(Outcome::Unknown, out),
            None => {}
        }
    }

    fn drive_transfer(&mut self, transfer: Transfer, out: &mut Actions) {
        let to = transfer.to;
        if !self.may_lead_next(to) {
            return self.fail_transfer(TransferFailure::NotVoter(to), out);
        }
        if self.now >= transfer.until {
            return self.fail_transfer(TransferFailure::TimedOut { to }, out);
        }
        let again = self.config.heartbeat_interval;
        let due = transfer.asked_at.is_none_or(|at| self.now >= at + again);
        if !due || !self.may_take_over(&transfer) {
            return;
        }
        self.ask_to_take_over(to, transfer.last, out);
        if transfer.request.is_none() {
            self.transfer = None;
            return self.step_down_removed(out);
        }
        self.transfer = Some(Transfer { asked_at: Some(self.now), ..transfer });
    }

    /// Whether the target has everything that is handed over. One that was asked may not any more: damage took it.
    fn may_take_over(&self, transfer: &Transfer) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let up_to_date = leader.peer(transfer.to).is_some_and(|peer| peer.matched == transfer.last);
        // A removed leader stays until everything that it was given is committed.
        let waits_for_commit = transfer.request.is_none() && self.commit < transfer.last.index;
        (up_to_date || bug(Bug::TransferToLaggard)) && !waits_for_commit
    }

    fn ask_to_take_over(&mut self, to: NodeId, last_log_id: LogId, out: &mut Actions) {
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer_was_sent = true;
        }
        out.push(Action::Send { to, message: Message::TransferLeader { vote: self.vote, last_log_id } });
    }

    /// Gives up while this node still leads: it takes proposals again, unless it was removed meanwhile.
    fn fail_transfer(&mut self, failure: TransferFailure, out: &mut Actions) {
        let leaves = self.transfer.is_some_and(|transfer| transfer.request.is_none());
        self.end_transfer(Outcome::Refused(Refusal::NotTransferred(failure)), out);
        if leaves {
            return self.step_down_removed(out);
        }
        // A membership that was committed meanwhile has waited.
        self.on_commit_advanced(out);
    }

    fn end_transfer(&mut self, outcome: Outcome, out: &mut Actions) {
        let Some(transfer) = self.transfer else { return };
        if !bug(Bug::TransferFlagStays) {
            self.transfer = None;
        }
        if let Some(request) = transfer.request.filter(|_| !bug(Bug::TransferEndsUnanswered)) {
            out.push(Action::Reply { request, outcome });
        }
    }

    /// Whether a greater vote that refuses this leader is the one it asked for. Its request is still to come: it
    /// waits for the target's disk (law 3), and going above it would undo the transfer.
    pub(crate) fn asked_for(&self, seen: Vote) -> bool {
        let asked = self.transfer.is_some_and(|transfer| {
            transfer.asked_at.is_some() && transfer.to == seen.leader_id.node_id && !seen.committed
        });
        asked && !bug(Bug::RaiseAboveTransfer)
    }

    /// When a transfer has to be looked at again.
    pub(crate) fn transfer_deadline(&self) -> Option<Instant> {
        let transfer = self.transfer?;
        // A target that lags is not asked again when the time comes, but when its acknowledgement does.
        let again = transfer.asked_at.filter(|_| self.may_take_over(&transfer) || bug(Bug::TransferWakesInVain));
        let again = again.map(|at| at + self.config.heartbeat_interval);
        Some(again.map_or(transfer.until, |again| again.min(transfer.until)))
    }

    // ---- on the target ----

    /// The leader asks this node to take over. A leader of the past is not obeyed; one whose log is here, but not
    /// yet durable, is once it is.
    pub(crate) fn on_transfer_leader(&mut self, from: NodeId, vote: Vote, last_log_id: LogId) {
        let from_my_leader = vote == self.vote && vote.committed && vote.leader_id.node_id == from;
        let obeys = from_my_leader || bug(Bug::StaleTransferObeyed);
        let dropped = bug(Bug::TransferDroppedWhileFlushing) && self.disk.index() < last_log_id.index;
        let is_here = self.log.holds(last_log_id) && !dropped || bug(Bug::TakesOverWithoutTheLog);
        if !obeys || !is_here || self.disk.is_to_take_over() {
            return;
        }
        let until = self.now + self.config.election_timeout_min;
        self.disk.hold(Held::TakeOver { vote, until });
    }

    /// Everything that the log held when the leader asked is durable.
    pub(crate) fn take_over(&mut self, vote: Vote, until: Instant, out: &mut Actions) {
        // The leader does not wait for ever, and neither does what it allowed.
        let is_current = self.vote == vote || bug(Bug::TakesOverFromTheLastButOne);
        let in_time = self.now < until || bug(Bug::TakesOverTooLate);
        if is_current && in_time && self.is_electable() {
            self.start_campaign(Phase::Real, CampaignReason::Transfer(vote.leader_id), out);
        }
    }
}
