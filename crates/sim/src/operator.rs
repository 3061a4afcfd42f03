//! The operator: elections, transfers, snapshots, purges and switches by hand, and changes of the membership. Whatever
//! is asked for has an outcome, and what is said of it must be so.

use std::collections::BTreeMap;

use quorate::virtual_node::{Answer, CallId, Switch};
use quorate::{ChangeError, ReconfigureError, SnapshotError};
use quorate_core::{
    Event as CoreEvent, Incarnation, LeaderId, LogId, NodeId, Phase, Refusal, RuleError, Toggle, TransferFailure,
    VoterSet,
};
use quorate_testkit::quorums::decide;

use crate::chaos::Cure;
use crate::clients::AnswerOf;
use crate::edits::Decision;
use crate::fault::Fault;
use crate::goals::Goal;
use crate::memberships::Memberships;
use crate::rng::Rng;
use crate::variants::{Drawer, NEVER, Proposal};
use crate::workload::Workload;
use crate::world::{Event, World, trigger};

/// What was asked for.
enum Expected {
    /// A membership change; if it shows nothing it must be refused.
    Change(Vec<Goal>),
    Transfer(Option<NodeId>),
    /// This much was applied when it was asked for.
    Snapshot(u64),
    Purge,
    /// The tunables, if they may be so.
    Config(Option<Box<quorate::Config>>),
    /// Whatever it is.
    Any,
}

impl Expected {
    fn name(&self) -> &'static str {
        match self {
            Expected::Change(_) => "a membership change",
            Expected::Transfer(_) => "a transfer",
            Expected::Snapshot(_) => "a snapshot",
            Expected::Purge => "a purge",
            Expected::Config(_) => "other tunables",
            Expected::Any => "a call",
        }
    }
}

/// What the operator waits for, and has seen of memberships.
#[derive(Default)]
pub(crate) struct Operator {
    expected: BTreeMap<CallId, (usize, Expected)>,
    /// By place: the membership in force when it was last looked at.
    in_force: BTreeMap<usize, (LogId, Vec<VoterSet>)>,
    pub(crate) memberships: Memberships,
}

impl Operator {
    /// What was asked of a process that is gone has no outcome.
    pub(crate) fn on_process_gone(&mut self, at: usize) {
        self.expected.retain(|_, (place, _)| *place != at);
    }

    /// What has no outcome yet, and where it was asked for.
    pub(crate) fn owed(&self) -> impl Iterator<Item = (usize, &'static str)> + '_ {
        self.expected.values().map(|(at, expected)| (*at, expected.name()))
    }
}

impl<W: Workload> World<W> {
    pub(crate) fn start_operator(&mut self) {
        self.schedule(self.now, Event::Operator);
    }

    pub(crate) fn on_operator(&mut self) {
        self.digest.word(15);
        let interval = self.options.election_timeout * 2;
        let after = self.disk_rng.around(interval).as_nanos() as u64;
        self.schedule(self.now + after, Event::Operator);
        self.look_for_repairs();
        self.check_older_copies();
        let healed = self.chaos.over && self.places.iter().all(|place| !place.impaired);
        // A core is one of the memberships that there are.
        if healed || self.chaos.core.is_some() {
            return;
        }
        if self.lose_a_quorum_if_due() {
            return;
        }
        if self.places.iter().any(|place| place.impaired) {
            return self.readmit();
        }
        let number = self.decisions.next(Decision::Operator);
        if !self.options.edits.keeps(Decision::Operator, number) {
            return;
        }
        // Of its own: leaving this one out changes nothing about the others.
        let mut chance = Rng::new(self.options.seed, 6 + ((number + 1) << 16));
        if self.options.membership && (!self.options.triggers || chance.chance(500)) {
            return self.change_membership(&mut chance);
        }
        if self.options.triggers {
            self.pull_trigger(&mut chance);
        }
    }

    /// A call at this node; what is said of it must be so.
    fn expect(&mut self, at: usize, expected: Expected) -> CallId {
        let call = self.clients.new_call();
        if self.places[at].running.is_some() {
            self.operator.expected.insert(call, (at, expected));
        }
        call
    }

    /// A call at this node, of which it only matters that there is an answer.
    pub(crate) fn expect_an_answer(&mut self, at: usize) -> CallId {
        self.expect(at, Expected::Any)
    }

    // ---- triggers ----

    fn pull_trigger(&mut self, chance: &mut Rng) {
        let at = chance.below(self.places.len() as u64) as usize;
        let event = match chance.below(14) {
            0..=2 => return self.transfer(chance),
            3 | 4 => return self.snapshot(at),
            5 | 6 => return self.purge(at, chance),
            7 | 8 => return self.reconfigure(at, chance),
            9 => return self.switch(at, chance),
            10 => CoreEvent::Elect { phase: Phase::Pre },
            11 => CoreEvent::Elect { phase: Phase::Real },
            12 => CoreEvent::Heartbeat,
            _ => CoreEvent::AbortTransfer,
        };
        self.say(|| format!("operator: {event:?} at node {}", at + 1));
        if self.places[at].running.is_some() {
            self.reach(match event {
                CoreEvent::Elect { .. } => Goal::Elect,
                CoreEvent::Heartbeat => Goal::Heartbeat,
                _ => Goal::AbortAsked,
            });
        }
        trigger(self, at, event);
    }

    fn transfer(&mut self, chance: &mut Rng) {
        let to = self.places[chance.below(self.places.len() as u64) as usize].id;
        let to = chance.chance(600).then_some(to);
        let abort = chance.chance(250);
        let Some(at) = self.leader() else { return };
        let call = self.expect(at, Expected::Transfer(to));
        let Some(running) = &mut self.places[at].running else { return };
        running.node.transfer(call, to);
        if abort {
            running.node.trigger(CoreEvent::AbortTransfer);
        }
        self.touch(at);
        self.say(|| format!("operator: transfer from node {} to {to:?}", at + 1));
    }

    fn snapshot(&mut self, at: usize) {
        let Some(running) = &self.places[at].running else { return };
        let applied = running.node.core().applied().index;
        let call = self.expect(at, Expected::Snapshot(applied));
        let Some(running) = &mut self.places[at].running else { return };
        running.node.compact(call, None);
        self.touch(at);
    }

    fn purge(&mut self, at: usize, chance: &mut Rng) {
        let upto = chance.below(self.invariants.committed() + 2);
        let call = self.expect(at, Expected::Purge);
        let Some(running) = &mut self.places[at].running else { return };
        running.node.compact(call, Some(upto));
        self.touch(at);
    }

    /// Other tunables while the node runs; some of which cannot be.
    fn reconfigure(&mut self, at: usize, chance: &mut Rng) {
        let mut config = self.options.draw_config(chance);
        let now = &self.places[at].config;
        (config.tail_cache_bytes, config.max_command_bytes) = (now.tail_cache_bytes, now.max_command_bytes);
        config.proposal_window_bytes = now.proposal_window_bytes;
        let valid = chance.chance(700);
        if !valid {
            match chance.below(3) {
                0 => config.election_timeout_max = config.election_timeout_min / 2,
                1 => config.tail_cache_bytes += 1,
                _ => config.max_inflight_appends = 0,
            }
        }
        let call = self.expect(at, Expected::Config(valid.then(|| Box::new(config.clone()))));
        let Some(running) = &mut self.places[at].running else { return };
        running.node.reconfigure(call, &config);
        self.touch(at);
        self.say(|| format!("operator: other tunables at node {}, valid {valid}: {config:?}", at + 1));
    }

    fn switch(&mut self, at: usize, chance: &mut Rng) {
        let (switch, goal) = *chance.pick(&[
            (Switch::Tick, Goal::SwitchTick),
            (Switch::Heartbeat, Goal::SwitchHeartbeat),
            (Switch::Elect, Goal::SwitchElect),
            (Switch::PreVote, Goal::SwitchPreVote),
        ]);
        let to = if chance.chance(400) { Toggle::Off } else { Toggle::On };
        let Some(running) = &self.places[at].running else { return };
        running.node.switch(switch, to);
        self.reach(goal);
        self.touch(at);
        self.say(|| format!("operator: {switch:?} {to:?} at node {}", at + 1));
    }

    /// Every node has its tunables again, with every switch as it was.
    pub(crate) fn restore_tunables(&mut self) {
        for at in 0..self.places.len() {
            let config = self.places[at].config.clone();
            let call = self.expect_an_answer(at);
            let Some(running) = &mut self.places[at].running else { continue };
            running.node.reconfigure(call, &config);
            self.touch(at);
        }
    }

    // ---- membership ----

    fn change_membership(&mut self, chance: &mut Rng) {
        let Some(at) = self.leader() else { return };
        let patience = self.options.election_timeout * chance.below(8) as u32;
        let nodes: Vec<NodeId> = self.places.iter().map(|place| place.id).collect();
        let Some(running) = &self.places[at].running else { return };
        let (twice, invalid) = (chance.chance(300), chance.chance(150));
        let mut drawer = Drawer { rng: chance, core: running.node.core(), nodes: &nodes, patience };
        let proposals = match (invalid, twice) {
            (true, _) => vec![Some(drawer.invalid())],
            (false, false) => vec![drawer.valid()],
            // The second waits for the first: it extends the joint membership, or goes back.
            (false, true) => {
                drawer.patience = self.options.election_timeout * 8;
                let first = drawer.of_voters();
                let back = drawer.rng.chance(400);
                let second = if back { drawer.back() } else { drawer.of_voters() };
                vec![first, second]
            }
        };
        for Proposal { change, retain, terms, goals } in proposals.into_iter().flatten() {
            self.say(|| format!("operator: {change:?} {terms:?} at node {}", at + 1));
            let call = self.expect(at, Expected::Change(goals));
            let Some(running) = &mut self.places[at].running else { return };
            running.node.change(call, change, retain, terms);
            self.pending.insert(call, at);
        }
        self.touch(at);
        self.disturb_change(at, chance);
    }

    /// Now and then leadership is handed over in the middle of a change, or its leader dies, or is cut off: at once, before
    /// anybody else hears of the change, or in a moment.
    fn disturb_change(&mut self, at: usize, chance: &mut Rng) {
        let moment = (self.options.latency * 3 + self.options.disk_latency).as_nanos() as u64;
        let soon = self.now + chance.below(moment);
        let faults = self.options.faults;
        match chance.below(8) {
            0 => self.transfer(chance),
            1 if faults.has(Fault::Kill) => self.schedule(soon, Event::Heal(Cure::Strike(at))),
            2 if faults.has(Fault::SymmetricPartition) => self.cut_off(at),
            3 if faults.has(Fault::SymmetricPartition) => self.schedule(soon, Event::Heal(Cure::CutOff(at))),
            _ => {}
        }
    }

    /// Whether these nodes can also decide by every membership that a sound node goes by although it is not committed: a log
    /// that holds one may be longer than all others, and then only its node can be elected, by that membership.
    pub(crate) fn could_decide_unsettled(&self, commit: u64, has: impl Fn(NodeId, Incarnation) -> bool) -> bool {
        let sound = self.operator.in_force.iter().filter(|(at, _)| !self.places[**at].impaired);
        let mut unsettled = sound.filter(|(_, (log_id, _))| log_id.index > commit);
        unsettled.all(|(_, (_, sets))| decide(sets, &has))
    }

    /// What was seen of memberships is of a cluster that is no more.
    pub(crate) fn forget_memberships(&mut self) {
        self.operator.in_force.clear();
        self.operator.memberships = Memberships::default();
    }

    /// Looks at the membership in force at a node after a step.
    pub(crate) fn watch_membership(&mut self, at: usize) {
        let Some(running) = &self.places[at].running else { return };
        let core = running.node.core();
        if self.places[at].cluster == self.cluster
            && let Err(violation) = self.operator.memberships.check(at, core)
        {
            return self.fail(violation);
        }
        let (log_id, membership) = (core.membership_log_id(), core.membership());
        if self.operator.in_force.get(&at).is_some_and(|known| known.0 == log_id) {
            return;
        }
        let now = (log_id, membership.configs.clone());
        let marked = membership.nodes.values().any(|node| node.address == NEVER);
        let leads = core.is_leader();
        let before = self.operator.in_force.insert(at, now);
        if marked {
            return self.fail(format!("a part of a change that was to be refused is in force, as of {log_id}"));
        }
        let Some((_, before)) = before.filter(|(_, before)| before.len() > 1 && leads) else { return };
        let Some((_, now)) = self.operator.in_force.get(&at) else { return };
        match now.as_slice() {
            [from, _] if before.last() == Some(from) => self.reach(Goal::JointExtended),
            [only] if before.last() == Some(only) => self.reach(Goal::JointCompleted),
            [only] if before.first() == Some(only) => self.reach(Goal::JointReverted),
            _ => {}
        }
    }

    // ---- outcomes ----

    /// An answer that no client waits for.
    pub(crate) fn on_other_answer(&mut self, at: usize, call: CallId, answer: AnswerOf<W>) {
        self.pending.remove(&call);
        let expected = self.operator.expected.remove(&call).map(|(_, expected)| expected);
        match (answer, expected) {
            (Answer::Changed(result), expected) => {
                self.changes += u64::from(result.is_ok());
                self.say(|| format!("membership change at node {}: {result:?}", at + 1));
                if let Some(Expected::Change(goals)) = expected {
                    self.on_changed(&goals, result);
                }
            }
            (Answer::Transferred(result), Some(Expected::Transfer(to))) => self.on_transferred(to, result),
            (Answer::Compacted(result), Some(Expected::Snapshot(applied))) => self.on_snapshot_taken(applied, result),
            (Answer::Compacted(result), Some(Expected::Purge)) => self.on_purged(at, result),
            (Answer::Reconfigured(result), Some(Expected::Config(config))) => self.on_reconfigured(at, config, result),
            _ => {}
        }
    }

    fn on_changed(&mut self, goals: &[Goal], result: Result<LogId, ChangeError>) {
        match result {
            Ok(log_id) if goals.is_empty() => self.fail(format!("a change that can never be was made, as of {log_id}")),
            Ok(_) => goals.iter().for_each(|goal| self.reach(*goal)),
            Err(ChangeError::Refused(refusal)) => match refusal {
                Refusal::NoVoters => self.reach(Goal::RefusedNoVoters),
                Refusal::UnknownNode(_) => self.reach(Goal::RefusedUnknownNode),
                Refusal::IsVoter(_) => self.reach(Goal::RefusedIsVoter),
                Refusal::BadRule(error) => self.on_bad_rule(goals, &error),
                Refusal::PreconditionFailed { .. } => self.reach(Goal::RefusedPrecondition),
                Refusal::ChangeInProgress { .. } => self.reach(Goal::RefusedInProgress),
                Refusal::NotCaughtUp { .. } | Refusal::NotSeenYet(_) => self.reach(Goal::RefusedNotCaughtUp),
                Refusal::WouldLoseQuorum { .. } => self.reach(Goal::RefusedQuorum),
                _ => {}
            },
            Err(_) => {}
        }
    }

    /// Rules that were drawn to be allowed are so, whatever the membership that they came upon.
    fn on_bad_rule(&mut self, goals: &[Goal], error: &RuleError) {
        let (goal, of_itself) = match error {
            RuleError::NeedOutOfRange { .. } => (Goal::RefusedRuleNeed, false),
            RuleError::OtherNodes => (Goal::RefusedRuleNodes, false),
            RuleError::NodeTwice(_) => (Goal::RefusedRuleTwice, true),
            RuleError::ZeroWeight => (Goal::RefusedRuleWeight, true),
            RuleError::WeightOverflow => (Goal::RefusedRuleSum, true),
            RuleError::TooDeep => (Goal::RefusedRuleDepth, true),
            RuleError::DoNotMeet { .. } => (Goal::RefusedRulesApart, true),
            _ => return,
        };
        if of_itself && !goals.is_empty() {
            return self.fail(format!("a change that may be was refused, with {error}"));
        }
        self.reach(goal);
    }

    fn on_transferred(&mut self, to: Option<NodeId>, result: Result<LeaderId, ChangeError>) {
        match result {
            Ok(leader) => {
                if to.is_some_and(|to| to != leader.node_id) || !self.invariants.has_led(leader) {
                    return self.fail(format!("a transfer to {to:?} is said to have ended with {leader}"));
                }
                self.reach(if to.is_some() { Goal::TransferToNamed } else { Goal::TransferToAny });
            }
            Err(ChangeError::Refused(Refusal::NotTransferred(TransferFailure::Aborted { .. }))) => {
                self.reach(Goal::TransferAborted);
            }
            Err(ChangeError::Refused(Refusal::NotTransferred(_))) => self.reach(Goal::TransferFailed),
            Err(_) => {}
        }
    }

    fn on_snapshot_taken(&mut self, applied: u64, result: Result<LogId, SnapshotError>) {
        if let Ok(log_id) = result {
            if log_id.index < applied {
                return self.fail(format!("a snapshot of at least {applied} entries is said to hold {log_id}"));
            }
            self.reach(Goal::SnapshotTaken);
        }
    }

    fn on_purged(&mut self, at: usize, result: Result<LogId, SnapshotError>) {
        let Some(running) = &self.places[at].running else { return };
        let purged = running.node.core().log().purged();
        if let Ok(log_id) = result {
            if purged.index < log_id.index {
                return self.fail(format!("the log is said to be purged to {log_id}, and is to {purged}"));
            }
            self.reach(Goal::LogPurged);
        }
    }

    fn on_reconfigured(
        &mut self,
        at: usize,
        config: Option<Box<quorate::Config>>,
        result: Result<(), ReconfigureError>,
    ) {
        match (config, result) {
            (Some(config), Ok(())) => {
                self.places[at].config = *config;
                self.reach(Goal::Reconfigured);
            }
            (None, Err(ReconfigureError::Config(_))) => self.reach(Goal::RefusedConfig),
            (None, Ok(())) => self.fail("tunables that cannot be were taken over"),
            (Some(_), Err(ReconfigureError::Config(error))) => self.fail(format!("tunables were refused: {error}")),
            (_, Err(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Quorum;

    use super::*;
    use crate::ledger::LedgerClients;
    use crate::trial::cluster;

    fn told(answer: impl FnOnce(&mut World<LedgerClients>)) -> String {
        let mut world = cluster(3);
        answer(&mut world);
        world.violation.unwrap_or_default()
    }

    #[test]
    fn a_transfer_that_ended_with_another_is_a_violation() {
        let ended = |to, other: Option<u64>| {
            told(|world| {
                let at = world.leader().expect("it leads");
                let leader = world.places[at].running.as_ref().expect("it runs").node.core().vote().leader_id;
                let to = if to { Some(leader.node_id) } else { None };
                let named = other.map_or(leader, |term| LeaderId { term, ..leader });
                world.on_transferred(to.map(|id| if other == Some(0) { NodeId(id.0 + 1) } else { id }), Ok(named));
            })
        };
        assert_eq!(ended(true, None), "");
        assert_eq!(ended(false, None), "");
        assert!(ended(true, Some(0)).contains("is said to have ended with"), "another node leads");
        assert!(ended(false, Some(99)).contains("is said to have ended with"), "nobody has led under that");
    }

    #[test]
    fn a_snapshot_that_lacks_what_was_applied_is_a_violation() {
        let log_id = LogId { index: 5, ..LogId::ZERO };
        assert_eq!(told(|world| world.on_snapshot_taken(5, Ok(log_id))), "");
        assert!(told(|world| world.on_snapshot_taken(6, Ok(log_id))).contains("is said to hold"));
    }

    #[test]
    fn a_purge_that_was_not_made_is_a_violation() {
        assert_eq!(told(|world| world.on_purged(0, Ok(LogId::ZERO))), "");
        let log_id = LogId { index: 9, ..LogId::ZERO };
        assert!(told(|world| world.on_purged(0, Ok(log_id))).contains("is said to be purged"));
    }

    #[test]
    fn a_change_that_can_never_be_is_not_to_be_made() {
        assert_eq!(told(|world| world.on_changed(&[Goal::RefusedNoVoters], Ok(LogId::ZERO))), "");
        assert!(
            told(|world| world.on_changed(&[], Ok(LogId::ZERO))).starts_with("a change that can never be was made")
        );
    }

    #[test]
    fn tunables_that_cannot_be_are_refused_and_others_are_not() {
        let config = || Some(Box::new(quorate::Config::default()));
        assert_eq!(told(|world| world.on_reconfigured(0, config(), Ok(()))), "");
        assert!(told(|world| world.on_reconfigured(0, None, Ok(()))).contains("were taken over"));
    }

    /// A deposed leader may hold the longest log, with a change by which every quorum needs one node: if that is lost,
    /// nobody can be elected any more.
    #[test]
    fn a_node_that_an_uncommitted_membership_needs_is_not_to_be_lost() {
        let mut world = cluster(3);
        let leader = world.leader().expect("it leads");
        let (other, needed) = ((leader + 1) % 3, (leader + 2) % 3);
        assert!(world.can_do_without(needed), "otherwise nothing is shown");
        let core = world.places[leader].running.as_ref().expect("it runs").node.core();
        let (next, mut sets) = (core.commit() + 1, core.membership().configs.clone());
        let needs = world.places[needed].id;
        sets[0].elect = Quorum::weighted(4, (1..=3).map(|id| (NodeId(id), if NodeId(id) == needs { 3 } else { 1 })));
        let mut goes_by = |index| {
            let log_id = LogId { index, ..LogId::ZERO };
            world.operator.in_force.insert(other, (log_id, sets.clone()));
            world.can_do_without(needed)
        };
        assert!(goes_by(next - 1), "what is committed is settled by the leader's");
        assert!(!goes_by(next));
        world.places[other].impaired = true;
        assert!(world.could_decide_unsettled(next - 1, |_, _| false), "a log that is lost elects nobody");
    }
}
