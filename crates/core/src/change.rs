//! Membership changes: joint consensus, generalised (dissertation 4.3). When a membership entry may be appended,
//! what waits for it, and how a joint change ends; what a change means is in `draft.rs`.

use std::collections::VecDeque;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::draft::Draft;
use crate::event::{Action, Actions, CoreEntry, Outcome, Refusal};
use crate::ids::{Incarnation, LogId, NodeId, RequestId};
use crate::membership::{ChangeMembers, ChangeTerms, Membership, Precondition, Readiness, Retain};
use crate::quorum::VoterSet;
use crate::time::Instant;

/// Most changes that may wait; one more is refused at once.
const MAX_WAITING_CHANGES: usize = 16;

/// What a leader knows of the membership changes that callers asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Changes {
    /// Changes in the log: each is answered when a membership entry of at least this index is committed.
    in_log: Vec<(RequestId, u64)>,
    /// Changes that cannot be appended yet, in the order they came.
    waiting: VecDeque<Waiting>,
}

/// A change that a caller asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    request: RequestId,
    change: ChangeMembers,
    retain: Retain,
    terms: ChangeTerms,
    /// When the caller's patience ends.
    until: Instant,
    /// Why it could not be appended the last time.
    reason: Option<Refusal>,
}

impl Changes {
    /// Whether somebody waits for a change that may make voters of nodes that lag.
    pub(crate) fn waives_readiness(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.terms.readiness == Readiness::Waived)
    }

    /// When the first caller's patience ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Everybody who is to be answered.
    pub(crate) fn requests(&self) -> impl Iterator<Item = RequestId> {
        let in_log = self.in_log.iter().map(|(request, _)| *request);
        in_log.chain(self.waiting.iter().map(|waiting| waiting.request))
    }

    /// Answers everybody: the leadership ended.
    pub(crate) fn fail(self, out: &mut Actions) {
        for (request, _) in self.in_log {
            out.push(Action::Reply { request, outcome: Outcome::Unknown });
        }
        for Waiting { request, .. } in self.waiting {
            let outcome = Outcome::Refused(Refusal::NotLeader { leader: None });
            out.push(Action::Reply { request, outcome });
        }
    }
}

impl Core {
    pub(crate) fn on_change_membership(
        &mut self,
        request: RequestId,
        change: ChangeMembers,
        retain: Retain,
        terms: ChangeTerms,
        out: &mut Actions,
    ) {
        let until = self.now + terms.patience;
        self.try_change(Waiting { request, change, retain, terms, until, reason: None }, out);
    }

    /// When the first caller's patience ends. Whatever is stepped then answers it.
    pub(crate) fn changes_deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Leader(leader) => leader.changes.deadline(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Tries again what could not be appended before. Called after every step of a leader.
    pub(crate) fn retry_changes(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.changes.waiting.is_empty() {
            return;
        }
        for asked in std::mem::take(&mut leader.changes.waiting) {
            self.try_change(asked, out);
        }
    }

    /// Appends a change, lets it wait, or refuses it.
    fn try_change(&mut self, mut asked: Waiting, out: &mut Actions) {
        let patient = self.now < asked.until && self.waiting_changes() < MAX_WAITING_CHANGES;
        if patient && asked.reason.as_ref().and_then(|reason| self.still_holds(reason)) == Some(true) {
            return self.let_wait(asked);
        }
        let refusal = match self.plan_change(&asked) {
            Ok(membership) => return self.append_change(asked.request, membership, out),
            Err(reason) if patient && self.still_holds(&reason).is_some() => {
                match self.check_ever_possible(&asked.change) {
                    Ok(()) => {
                        self.add_strangers(&mut asked, &reason, out);
                        asked.reason = Some(reason);
                        return self.let_wait(asked);
                    }
                    // What can never be is not waited for.
                    Err(never) => never,
                }
            }
            Err(refusal) => refusal,
        };
        out.push(Action::Reply { request: asked.request, outcome: Outcome::Refused(refusal) });
    }

    fn let_wait(&mut self, asked: Waiting) {
        if let Role::Leader(leader) = &mut self.role {
            leader.changes.waiting.push_back(asked);
        }
    }

    pub(crate) fn waiting_changes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.changes.waiting.len(),
            Role::Follower(_) | Role::Candidate(_) => 0,
        }
    }

    /// Whether what keeps a change from being appended still does; `None`: it always will. Cheap, because it is asked
    /// after every step.
    fn still_holds(&self, reason: &Refusal) -> Option<bool> {
        let Role::Leader(leader) = &self.role else { return None };
        match reason {
            Refusal::NotYetCommitted => Some(self.commit < leader.first_own),
            Refusal::ChangeInProgress { .. } => Some(self.in_force().0.index > self.commit),
            Refusal::NotSeenYet(id) => Some(self.seen_incarnation(*id).is_none()),
            Refusal::NotCaughtUp { node, .. } => {
                Some(self.seen_incarnation(*node).is_none_or(|incarnation| self.lag(*node, incarnation).is_some()))
            }
            Refusal::WouldLoseQuorum { silent } => {
                let alive = |id: &NodeId| self.seen_incarnation(*id).is_some_and(|disk| self.is_alive(*id, disk));
                Some(!silent.iter().any(alive))
            }
            Refusal::Transferring { .. } => Some(self.transferring_to().is_some()),
            // By name, as wherever refusals are told apart: a new one must be given its answer here.
            Refusal::NotLeader { .. }
            | Refusal::NoVoters
            | Refusal::UnknownNode(_)
            | Refusal::IsVoter(_)
            | Refusal::RuleNeeded { .. }
            | Refusal::BadRule(_)
            | Refusal::PreconditionFailed { .. }
            | Refusal::AlreadyInitialized
            | Refusal::NotAmongVoters
            | Refusal::LeaseDisabled
            | Refusal::NotTransferred(_)
            | Refusal::NothingApplied
            | Refusal::SnapshotFailed
            | Refusal::SnapshotDeferred
            | Refusal::Halted => None,
        }
    }

    /// A voter to be that is not in the cluster yet begins as a learner; the change goes on when it has caught up.
    fn add_strangers(&mut self, asked: &mut Waiting, reason: &Refusal, out: &mut Actions) {
        let (_, current) = self.in_force();
        if !matches!(reason, Refusal::NotSeenYet(_)) || current.is_joint() {
            return;
        }
        let Ok(draft) = self.draft_of(&asked.change) else { return };
        let strangers = draft.strangers(current);
        if strangers.is_empty() {
            return;
        }
        let mut membership = current.clone();
        membership.nodes.extend(strangers);
        self.append_membership(membership, out);
        // What the caller saw held when this entry was appended. From now on this entry is what it saw, so that no
        // other change comes between.
        let own = self.in_force().0;
        asked.terms.preconditions.retain(|precondition| !matches!(precondition, Precondition::LastLogId(_)));
        for precondition in &mut asked.terms.preconditions {
            if let Precondition::LastMembershipLogId(log_id) = precondition {
                *log_id = own;
            }
        }
    }

    /// Appends a change that may be appended, and remembers whom to answer.
    fn append_change(&mut self, request: RequestId, membership: Membership, out: &mut Actions) {
        let index = self.log.last().index + 1;
        // A joint change is done when the entry after it is committed: then the old set has nothing to say any more.
        let done_at = if membership.is_joint() { index + 1 } else { index };
        if let Role::Leader(leader) = &mut self.role {
            leader.changes.in_log.push((request, done_at));
        }
        self.append_membership(membership, out);
    }

    /// Appends a membership under this leader. It is in force at once.
    fn append_membership(&mut self, membership: Membership, out: &mut Actions) {
        let early = (bug(Bug::LeaveJointEarly) && membership.is_joint()).then(|| membership.target());
        self.append_core_entry(self.own_leader_id(), CoreEntry::Membership(membership), out);
        if let Some(target) = early {
            self.append_core_entry(self.own_leader_id(), CoreEntry::Membership(target), out);
        }
        self.replicate(out);
        // A smaller quorum may already be reached. Of a round it may have to be said now: who leads alone from now on is
        // sent no acknowledgement any more.
        self.advance_commit(out);
        if !bug(Bug::ReadWaitsForWhoLeft) {
            self.maybe_confirm_reads(out);
        }
    }

    // ---- what may be appended, and when ----

    /// The next membership entry on the way to what the caller wants.
    fn plan_change(&self, asked: &Waiting) -> Result<Membership, Refusal> {
        let Role::Leader(leader) = &self.role else { return Err(Refusal::NotLeader { leader: self.leader() }) };
        if let Some(to) = self.transferring_to() {
            return Err(Refusal::Transferring { to });
        }
        self.check_preconditions(&asked.terms.preconditions)?;
        // Rule: a membership entry may be appended only when an entry of this leadership is committed under the
        // membership in force, and the last membership entry is committed (law 12).
        if self.commit < leader.first_own {
            return Err(Refusal::NotYetCommitted);
        }
        let (log_id, current) = self.in_force();
        if log_id.index > self.commit && !bug(Bug::ChangeDuringChange) {
            return Err(Refusal::ChangeInProgress { log_id: *log_id });
        }
        let draft = self.draft_of(&asked.change)?;
        if let Some(id) = draft.unseen() {
            return Err(Refusal::NotSeenYet(id));
        }
        let target = draft.finish()?;
        let required = asked.terms.readiness == Readiness::Required;
        if required && !bug(Bug::PromoteWithoutCatchUp) {
            self.check_caught_up(current, &target)?;
        }
        target.check(self.config.mode).map_err(Refusal::BadRule)?;
        if required {
            self.check_alive(current, &target)?;
        }
        Ok(step_towards(current, target, asked.retain))
    }

    fn draft_of(&self, change: &ChangeMembers) -> Result<Draft, Refusal> {
        Draft::of(&self.in_force().1, change, &|id| self.seen_incarnation(id))
    }

    fn check_ever_possible(&self, change: &ChangeMembers) -> Result<(), Refusal> {
        self.draft_of(change)?.finish()?.check(self.config.mode).map_err(Refusal::BadRule)
    }

    fn check_preconditions(&self, preconditions: &[Precondition]) -> Result<(), Refusal> {
        for expected in preconditions {
            let actual = match expected {
                Precondition::LeaderId(_) => Precondition::LeaderId(self.own_leader_id()),
                Precondition::LastLogId(_) => Precondition::LastLogId(self.log.last()),
                Precondition::LastMembershipLogId(_) => Precondition::LastMembershipLogId(self.in_force().0),
            };
            if actual != *expected && !bug(Bug::PreconditionsIgnored) {
                return Err(Refusal::PreconditionFailed { expected: *expected, actual });
            }
        }
        Ok(())
    }

    /// Whether every new voter is near the end of the log: from the moment the change is in force, commits may wait
    /// for it.
    fn check_caught_up(&self, current: &Membership, target: &Membership) -> Result<(), Refusal> {
        let Some(to) = target.configs.last() else { return Ok(()) };
        let new = to.voters.iter().filter(|(id, incarnation)| !current.is_voter_as(**id, **incarnation));
        for (id, incarnation) in new {
            if let Some(matched) = self.lag(*id, *incarnation) {
                return Err(Refusal::NotCaughtUp { node: *id, matched, last: self.log.last() });
            }
        }
        Ok(())
    }

    /// Whether the voters that live could commit and elect, if who votes or by which rules changes.
    fn check_alive(&self, current: &Membership, target: &Membership) -> Result<(), Refusal> {
        let Some(to) = target.configs.last().filter(|to| Some(*to) != current.configs.last()) else { return Ok(()) };
        let alive = |id, incarnation| self.is_alive(id, incarnation).then_some(());
        if to.commit_reached(&alive).is_some() && to.elect_reached(&alive).is_some() {
            return Ok(());
        }
        let silent = to.voters.iter().filter(|(id, incarnation)| !self.is_alive(**id, **incarnation));
        Err(Refusal::WouldLoseQuorum { silent: silent.map(|(id, _)| *id).collect() })
    }

    /// How far a node is, if it lags too far to vote: commits, or elections, would wait for it.
    pub(crate) fn lag(&self, id: NodeId, incarnation: Incarnation) -> Option<LogId> {
        if (id, incarnation) == (self.config.node_id, self.config.incarnation) {
            return None;
        }
        let Role::Leader(leader) = &self.role else { return Some(LogId::ZERO) };
        let Some(peer) = leader.peer_as(id, incarnation) else { return Some(LogId::ZERO) };
        let near = self.log.last().index - peer.matched.index <= self.config.replication_lag_threshold;
        // Before the purge point only a snapshot helps, however few entries that is.
        let without_snapshot = peer.matched.index >= self.log.purged().index;
        // Who may have promised more than it holds can refuse every candidate, so it settles that as a learner first.
        let promises = peer.promises && !bug(Bug::PromotesWhoPromises);
        (!near || !without_snapshot || promises).then_some(peer.matched)
    }

    /// Whether a voter was heard of recently enough to be counted on.
    fn is_alive(&self, id: NodeId, incarnation: Incarnation) -> bool {
        if (id, incarnation) == (self.config.node_id, self.config.incarnation) {
            return true;
        }
        let Role::Leader(leader) = &self.role else { return false };
        let acked_at = leader.peer_as(id, incarnation).and_then(|peer| peer.acked_at);
        acked_at.is_some_and(|at| self.now < at + self.config.election_timeout_max)
    }

    /// The disk a node speaks from, as far as this leader has heard of it (law 15).
    fn seen_incarnation(&self, id: NodeId) -> Option<Incarnation> {
        if id == self.config.node_id {
            return Some(self.config.incarnation);
        }
        let Role::Leader(leader) = &self.role else { return None };
        leader.peer(id).and_then(|peer| peer.incarnation)
    }

    // ---- how a change ends ----

    /// Something was committed, or what was committed could not be followed before: answer callers, finish a joint
    /// change, leave if removed.
    pub(crate) fn on_commit_advanced(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &self.role else { return };
        let (log_id, membership) = self.in_force();
        let (log_id, is_joint) = (*log_id, membership.is_joint());
        // Rule: not before an own entry is committed, though the membership may be since an earlier leader (law 12).
        if log_id.index > self.commit || self.commit < leader.first_own {
            return;
        }
        self.answer_changes(log_id, out);
        if is_joint {
            return self.leave_joint(log_id, out);
        }
        if !self.is_voter() && self.is_leader() && !bug(Bug::RemovedLeaderStays) {
            self.leave_leadership(out);
        }
    }

    /// Ends a joint membership that is committed; also one that an earlier leader left unfinished. A change that waits
    /// goes on from here: what comes next need only share a set with what is committed.
    fn leave_joint(&mut self, joint_at: LogId, out: &mut Actions) {
        // Nothing is appended while leadership is handed over: the next leader finishes the change.
        if self.transferring_to().is_some() && !bug(Bug::AppendDuringTransfer) {
            return;
        }
        self.retry_changes(out);
        if self.is_leader() && self.in_force().0 == joint_at {
            let target = self.membership().target();
            self.append_membership(target, out);
        }
    }

    fn answer_changes(&mut self, committed: LogId, out: &mut Actions) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.changes.in_log.retain(|(request, done_at)| {
            let waits = committed.index < *done_at;
            if !waits {
                out.push(Action::Reply { request: *request, outcome: Outcome::MembershipChanged(committed) });
            }
            waits
        });
    }
}

/// The next entry from a membership that is committed towards a uniform one: never to one that shares no voter set
/// with what is committed, because two such could decide at once.
fn step_towards(current: &Membership, target: Membership, retain: Retain) -> Membership {
    let (Some(from), Some(to)) = (current.configs.last(), target.configs.last()) else { return target };
    if same_set(from, to) {
        return target;
    }
    // Leaving voters stay until the change is complete; learners that the change removes go at once.
    let mut nodes = target.nodes.clone();
    for (id, node) in current.nodes.iter().filter(|(id, _)| from.voters.contains_key(id)) {
        nodes.entry(*id).or_insert_with(|| node.clone());
    }
    let is_revert = current.configs.iter().any(|set| same_set(set, to));
    let joint = Membership { configs: vec![from.clone(), to.clone()], nodes, settings: target.settings, retain };
    match is_revert {
        // Back to the set that a joint change came from: it decides already.
        true => joint.target(),
        false => joint,
    }
}

/// Two sets are the same only if ids, incarnations and both rules are (law 12).
fn same_set(one: &VoterSet, other: &VoterSet) -> bool {
    if bug(Bug::SameIdsSameSet) {
        return one.voters.keys().eq(other.voters.keys());
    }
    one == other
}
