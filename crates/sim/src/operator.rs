//! The operator: elections, snapshots, purges by hand, and changes of the membership.

use std::collections::BTreeMap;

use quorate_core::{ChangeMembers, ChangeTerms, Event as CoreEvent, Node as Member, Phase, Retain};

use crate::edits::Decision;
use crate::workload::Workload;
use crate::world::{Event, World, trigger};

impl<W: Workload> World<W> {
    pub(crate) fn start_operator(&mut self) {
        self.schedule(self.now, Event::Operator);
    }

    pub(crate) fn on_operator(&mut self) {
        self.digest.word(15);
        let interval = self.options.election_timeout * 2;
        let after = self.disk_rng.around(interval).as_nanos() as u64;
        self.schedule(self.now + after, Event::Operator);
        if self.chaos.over && self.places.iter().all(|place| !place.impaired) {
            return;
        }
        if self.places.iter().any(|place| place.impaired) {
            return self.readmit();
        }
        let number = self.decisions.next(Decision::Operator);
        if !self.options.edits.keeps(Decision::Operator, number) {
            return;
        }
        if self.options.membership && (!self.options.triggers || self.disk_rng.chance(500)) {
            return self.change_membership();
        }
        if !self.options.triggers {
            return;
        }
        let at = self.disk_rng.below(self.places.len() as u64) as usize;
        if self.disk_rng.chance(200) {
            return self.transfer(at);
        }
        let event = match self.disk_rng.below(6) {
            5 => CoreEvent::AbortTransfer,
            0 => CoreEvent::Elect { phase: Phase::Pre },
            1 => CoreEvent::Elect { phase: Phase::Real },
            2 => CoreEvent::Heartbeat,
            3 => CoreEvent::Snapshot { request: None },
            _ => CoreEvent::PurgeLog { upto: self.disk_rng.below(self.invariants.committed() + 2), request: None },
        };
        self.say(|| format!("operator: {event:?} at node {}", at + 1));
        trigger(self, at, event);
    }

    fn transfer(&mut self, to: usize) {
        let to = self.disk_rng.chance(700).then_some(self.places[to].id);
        let Some(at) = self.leader() else { return };
        let Some(running) = &self.places[at].running else { return };
        running.node.transfer(to);
        self.touch(at);
        self.say(|| format!("operator: transfer from node {} to {to:?}", at + 1));
    }

    fn change_membership(&mut self) {
        let Some(at) = self.leader() else { return };
        let chosen = self.disk_rng.below(self.places.len() as u64) as usize;
        let (id, retain) =
            (self.places[chosen].id, if self.disk_rng.chance(500) { Retain::AsLearners } else { Retain::Remove });
        let call = self.clients.new_call();
        let patience = self.options.election_timeout * self.disk_rng.below(8) as u32;
        let Some(running) = &mut self.places[at].running else { return };
        let membership = running.node.core().membership();
        let record = Member::at(format!("node-{id}"));
        let change = if membership.is_voter(id) {
            // Whoever leaves must leave a cluster behind.
            if membership.voter_ids().len() < 2 {
                return;
            }
            ChangeMembers::RemoveVoters([id].into())
        } else if membership.nodes.contains_key(&id) {
            match self.disk_rng.below(3) {
                0 => ChangeMembers::RemoveNodes([id].into()),
                _ => ChangeMembers::AddVoterIds([id].into()),
            }
        } else {
            match self.disk_rng.below(2) {
                0 => ChangeMembers::AddNodes(BTreeMap::from([(id, record)])),
                _ => ChangeMembers::AddVoters(BTreeMap::from([(id, record)])),
            }
        };
        let terms = ChangeTerms { patience, ..ChangeTerms::default() };
        running.node.change(call, change.clone(), retain, terms);
        self.pending.insert(call, at);
        self.touch(at);
        self.say(|| format!("operator: {change:?} at node {}", at + 1));
    }
}
