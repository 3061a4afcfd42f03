//! Faults of disks and lost nodes, inside what a cluster promises to survive: of each committed entry one good copy
//! stays, and a quorum that can go on. Beyond that budget only safety, or a clean halt, is required.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{ChangeMembers, ChangeTerms, Incarnation, Membership, Node as Member, NodeId, Retain};

use crate::chaos::Cure;
use crate::disk::{Armed, Crash, SimDisk};
use crate::fault::Fault;
use crate::machine::with_book;
use crate::process::Shadow;
use crate::repair::Hurt;
use crate::rng::Rng;
use crate::situations::REPLACED_FOR_BAD_SECTORS;
use crate::variants::with_rule;
use crate::workload::Workload;
use crate::world::{Event, Place, World};

/// An older copy of a node's disk.
pub(crate) struct OldDisk {
    disk: SimDisk,
    possible: Vec<Shadow>,
    incarnation: Incarnation,
    boot: u64,
}

/// Of a thousand flipped bits, so many are in a snapshot, if there is one.
const FLIPS_IN_SNAPSHOTS: u32 = 400;
/// Of a thousand flipped bits, so many are under a node that is not stopped for it.
const FLIPS_AT_WORK: u32 = 600;
/// Of a thousand read errors, so many are for good.
const BAD_SECTORS: u32 = 400;
/// Election timeouts for which a damaged disk under a running node is left as it is, at most.
const MOST_PATIENCE: u64 = 30;
/// About so many calls of one kind are made while a disk is opened.
const MOST_CALLS_OF_AN_OPENING: u64 = 24;
/// So often it is tried to put an old copy of a disk back.
const OLD_DISK_TRIES: u32 = 8;

/// What is known of nodes that lost something.
#[derive(Default)]
pub(crate) struct Atlas {
    copies: BTreeMap<usize, OldDisk>,
}

impl<W: Workload> World<W> {
    /// Whether the cluster can do without this node, besides those it does without already.
    pub(crate) fn may_lose(&self, at: usize) -> bool {
        self.options.beyond_budget || self.can_do_without(at)
    }

    /// As [`may_lose`](Self::may_lose), also beyond the budget: for faults that no quorum is safe from.
    pub(crate) fn can_do_without(&self, at: usize) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        let Some(leader) = self.leader().and_then(|at| self.places[at].running.as_ref()) else { return false };
        let core = leader.node.core();
        let membership = core.membership();
        let settled = core.membership_log_id().index <= core.commit() && !membership.is_joint();
        let lost = self.places[at].id;
        let good = |id: NodeId, incarnation: Incarnation| {
            let fine = |place: &&crate::world::Place<W>| place.incarnation == incarnation && !place.impaired;
            let place = self.places.iter().filter(|place| place.id == id).find(fine);
            place.filter(|_| id != lost).map(|_| ())
        };
        settled
            && membership.elect_reached(good).is_some()
            && membership.commit_reached(good).is_some()
            && self.could_decide_unsettled(core.commit(), |id, incarnation| good(id, incarnation).is_some())
    }

    /// A disk is gone for good; the node comes back blank, as another voter than it was (law 15).
    pub(crate) fn wipe(&mut self, at: usize) {
        self.stop(at, Crash::DropAll);
        self.on_process_gone(at);
        let bits = self.disk_rng.bits();
        let place = &mut self.places[at];
        place.disk = SimDisk::new(Rng::new(bits, 100 + place.id.0), self.options.faults);
        place.incarnation = Incarnation(u128::from(place.id.0) << 64 | u128::from(bits | 1));
        place.cluster = self.cluster;
        place.possible = None;
        (place.renewed, place.another_disk, place.impaired) = (true, true, true);
        (place.fragile, place.damaged) = (false, false);
        place.hurt = Hurt::default();
        self.atlas.copies.remove(&at);
        let id = self.places[at].id;
        self.say(|| format!("node {id} has a blank disk"));
        let after = self.options.election_timeout.as_nanos() as u64;
        self.schedule(self.now + after, Event::Start(at));
    }

    /// Gives a node with a damaged disk a blank one, as soon as nobody needs it.
    pub(crate) fn replace(&mut self, at: usize) {
        let bad = self.places[at].disk.has_bad_sector();
        // A file that was removed, and whose removal a crash undid, is there again with its bad sector (seed 201346).
        self.places[at].damaged |= bad;
        self.places[at].impaired |= bad;
        if !self.places[at].damaged {
            return;
        }
        if self.options.mends && !self.places[at].hurt.outdated && !bad {
            return self.scrub(at);
        }
        if self.can_do_without(at) {
            self.counters.add(REPLACED_FOR_BAD_SECTORS, bad.into());
            return self.wipe(at);
        }
        if bad && self.chaos.over && self.places[at].running.is_some() {
            // It would lead, and end, and lead again. Nobody needs it.
            self.stop(at, Crash::KeepAll);
            self.on_process_gone(at);
        }
        let after = self.options.election_timeout.as_nanos() as u64 * 2;
        self.schedule(self.now + after, Event::Heal(Cure::Replace(at)));
    }

    /// Does something to a disk, if the cluster can bear it; returns whether it did.
    pub(crate) fn disk_fault(&mut self, fault: Fault, at: usize) -> bool {
        if self.places[at].running.is_none() {
            return self.fail_an_opening(fault, at);
        }
        let place = &self.places[at];
        if place.fragile || self.options.mends && place.damaged {
            return false;
        }
        let timeout = self.options.election_timeout.as_nanos() as u64;
        match fault {
            Fault::ReadError => {
                if !self.go_bad(at) {
                    self.places[at].disk.arm(Some(Armed::Read));
                }
            }
            Fault::WriteError => self.places[at].disk.arm(Some(Armed::Write)),
            Fault::SyncError => self.places[at].disk.arm(Some(Armed::Sync)),
            Fault::DiskFull => {
                let bytes = self.disk_rng.below(64 << 10);
                self.places[at].disk.leave_space(Some(bytes));
                self.schedule(self.now + timeout * 6, Event::Heal(Cure::Space(at)));
            }
            Fault::Wipe if self.may_lose(at) => {
                self.wipe(at);
                self.counts.add(fault, 1);
            }
            Fault::BitFlip if self.may_lose(at) => return self.flip(at),
            // A disk that nothing else is wrong with: if nothing is written meanwhile, nothing was done to it.
            Fault::LostWrite | Fault::MisdirectedWrite
                if !place.damaged && self.can_do_without(at) && !self.will_panic(at) =>
            {
                let armed = if fault == Fault::LostWrite { Armed::LostWrite } else { Armed::Misdirected };
                let place = &mut self.places[at];
                place.disk.arm(Some(armed));
                // Until its log has said that everything is durable, nobody could tell this from a torn tail.
                (place.fragile, place.impaired, place.damaged) = (true, true, true);
                place.hurt.ever = true;
                self.schedule(self.now + timeout * 2, Event::Heal(Cure::Expose(at)));
            }
            Fault::OldDisk => self.old_disk(at, OLD_DISK_TRIES),
            _ => return false,
        }
        true
    }

    /// A bit flips: under a node that runs on, and finds it when it reads there, or in the next start, or never; or the
    /// node is stopped, and started again soon. Returns whether there was a bit to flip.
    fn flip(&mut self, at: usize) -> bool {
        let idle = self.places[at].is_disk_idle();
        let at_work = !idle || self.disk_rng.chance(FLIPS_AT_WORK);
        // What the log has not yet said to be durable could not be told from a torn tail. Snapshots can.
        let snapshots = if idle { FLIPS_IN_SNAPSHOTS } else { 1000 };
        let Some(what) = self.places[at].disk.flip(snapshots, idle) else { return false };
        let timeout = self.options.election_timeout.as_nanos() as u64;
        self.say(|| format!("flipped a bit of {what}{}", if at_work { ", under its node" } else { "" }));
        (self.places[at].impaired, self.places[at].damaged) = (true, true);
        self.places[at].hurt.ever = true;
        self.counts.add(Fault::BitFlip, 1);
        let patience = if at_work { self.disk_rng.between(8, MOST_PATIENCE) } else { 8 };
        self.schedule(self.now + timeout * patience, Event::Heal(Cure::Replace(at)));
        if !at_work {
            self.stop(at, Crash::KeepAll);
            self.on_process_gone(at);
            self.schedule(self.now + timeout, Event::Start(at));
        }
        true
    }

    /// A sector goes bad, for good: the node ends whenever it reads there, also when it starts, until the operator gives it
    /// another disk. What is in that sector somebody else has.
    fn go_bad(&mut self, at: usize) -> bool {
        let place = &self.places[at];
        let spared = self.options.beyond_budget || place.damaged || !self.can_do_without(at);
        if spared || !self.disk_rng.chance(BAD_SECTORS) {
            return false;
        }
        let Some(what) = place.disk.go_bad(FLIPS_IN_SNAPSHOTS) else { return false };
        self.say(|| format!("a bad sector in {what}"));
        (self.places[at].impaired, self.places[at].damaged) = (true, true);
        let timeout = self.options.election_timeout.as_nanos() as u64;
        let patience = self.disk_rng.between(8, MOST_PATIENCE);
        self.schedule(self.now + timeout * patience, Event::Heal(Cure::Replace(at)));
        true
    }

    /// A call fails while a stopped node's disk is opened: it must not start, say why, and start the next time.
    fn fail_an_opening(&mut self, fault: Fault, at: usize) -> bool {
        let armed = match fault {
            Fault::ReadError => Armed::Read,
            Fault::WriteError => Armed::Write,
            Fault::SyncError => Armed::Sync,
            _ => return false,
        };
        let place = &self.places[at];
        if place.fragile {
            return false;
        }
        place.disk.arm_after(Some(armed), self.disk_rng.below(MOST_CALLS_OF_AN_OPENING));
        true
    }

    /// Whether the state machine of this node stops it at its next apply.
    fn will_panic(&self, at: usize) -> bool {
        with_book(|book| book.panic_at == Some(self.places[at].id.0))
    }

    /// Opens a log again that may have lost a write: it must notice.
    pub(crate) fn expose(&mut self, at: usize) {
        if !self.places[at].fragile {
            return;
        }
        let timeout = self.options.election_timeout.as_nanos() as u64;
        if self.places[at].running.is_some() && !self.places[at].is_disk_idle() {
            return self.schedule(self.now + timeout / 7, Event::Heal(Cure::Expose(at)));
        }
        self.places[at].fragile = false;
        if self.places[at].disk.armed().is_some() {
            // Nothing was written meanwhile.
            self.places[at].disk.arm(None);
            (self.places[at].impaired, self.places[at].damaged) = (self.places[at].lacks(), false);
            return;
        }
        self.schedule(self.now + timeout * 8, Event::Heal(Cure::Replace(at)));
        if self.places[at].running.is_some() {
            self.stop(at, Crash::KeepAll);
            self.on_process_gone(at);
            self.schedule(self.now + timeout, Event::Start(at));
        }
    }

    /// Keeps a copy of a stopped node's disk.
    pub(crate) fn keep_copy(&mut self, at: usize) {
        // Nobody would be asked who could tell an old copy.
        let place = &self.places[at];
        if !self.options.faults.has(Fault::OldDisk) || place.impaired || place.alone {
            return;
        }
        let Some(possible) = place.possible.clone() else { return };
        let copy = OldDisk { disk: place.disk.copy(), possible, incarnation: place.incarnation, boot: place.boot };
        self.atlas.copies.entry(at).or_insert(copy);
    }

    /// Copies a disk, lets its node start twice more, and then puts the copy back.
    pub(crate) fn old_disk(&mut self, at: usize, tries: u32) {
        if self.chaos.over || tries == 0 || self.put_back(at) {
            return;
        }
        let timeout = self.options.election_timeout.as_nanos() as u64;
        let place = &self.places[at];
        let copied = self.atlas.copies.get(&at).map(|copy| copy.boot);
        let enough = copied.is_some_and(|boot| place.boot >= boot + 2);
        if !enough && !place.impaired && !place.fragile && place.running.is_some() {
            self.stop(at, Crash::KeepAll);
            self.keep_copy(at);
            self.on_process_gone(at);
            self.schedule(self.now + 1_000_000, Event::Start(at));
        }
        self.schedule(self.now + timeout * 2, Event::Heal(Cure::OldDisk(at, tries - 1)));
    }

    /// No copy of a disk is of any use after a recovery.
    pub(crate) fn forget_copies(&mut self) {
        self.atlas.copies.clear();
    }

    /// Puts an older copy of a disk back. Every peer has met a later start of it, and so refuses to hear it, however often
    /// it is started (law 15). What
    /// the disk acknowledged before goes on to count, also where that makes a commit quorum only now: a quorum that elects
    /// later has to do without this node, so it meets that one in another.
    fn put_back(&mut self, at: usize) -> bool {
        let Some(copy) = self.atlas.copies.get(&at) else { return false };
        let place = &self.places[at];
        let Some(current) = place.running.as_ref().map(|running| running.starts.last()) else { return false };
        let met = |other: &crate::world::Place<W>| {
            other.id == place.id
                || other
                    .running
                    .as_ref()
                    .is_some_and(|running| running.met.get(&place.id) == Some(&(place.incarnation, current)))
        };
        let known = self.places.iter().all(met);
        if !known
            || place.impaired
            || copy.incarnation != place.incarnation
            // The copy will be opened once more, and the disk was opened later still.
            || current.boot < copy.boot + 2
            || !self.can_do_without(at)
        {
            return false;
        }
        let Some(mut copy) = self.atlas.copies.remove(&at) else { return false };
        let place = &self.places[at];
        let before = self.shadows.get(&(place.id, place.incarnation)).cloned().unwrap_or_default();
        let (id, had, has) = (place.id, before.log.last(), copy.possible[0].log.last());
        copy.possible.iter_mut().for_each(|older| older.lost = before.all_it_held());
        self.stop(at, Crash::DropAll);
        self.on_process_gone(at);
        self.say(|| format!("node {id} gets an older copy of its disk: it held {had}, the copy holds {has}"));
        let place = &mut self.places[at];
        place.disk = copy.disk;
        place.possible = Some(copy.possible);
        (place.impaired, place.damaged) = (true, true);
        place.hurt.outdated = true;
        self.counts.add(Fault::OldDisk, 1);
        let timeout = self.options.election_timeout.as_nanos() as u64;
        self.schedule(self.now + timeout, Event::Start(at));
        self.schedule(self.now + timeout * 6, Event::Heal(Cure::Replace(at)));
        true
    }

    /// The operator brings a node back that lost its disk: out of the membership, then in again as what it is now.
    pub(crate) fn readmit(&mut self) {
        let Some(at) = self.leader() else { return };
        let Some(running) = &self.places[at].running else { return };
        let core = running.node.core();
        let membership = core.membership();
        // Voters first: while they are counted on and not there, others may not be able to join.
        let back = |place: &Place<W>| place.wants_back() || self.is_left_out(place, membership);
        let lost = (0..self.places.len()).filter(|at| back(&self.places[*at]));
        let Some(lost) = lost.min_by_key(|at| !membership.is_voter(self.places[*at].id)) else { return };
        let (id, incarnation) = (self.places[lost].id, self.places[lost].incarnation);
        let up = self.places[lost].running.is_some();
        if core.membership_log_id().index > core.commit() || membership.is_joint() {
            return;
        }
        if membership.is_voter_as(id, incarnation) || !membership.nodes.contains_key(&id) && !self.options.wants(id) {
            // A node whose damage did no harm, or that is wanted no more.
            if up {
                (self.places[lost].renewed, self.places[lost].impaired) = (false, false);
            }
            return;
        }
        let mut after = membership.target().voter_ids();
        let change = if membership.is_voter(id) {
            if after.len() < 2 {
                return;
            }
            let mut leaving = BTreeSet::from([id]);
            if !self.is_sound_majority(membership, &without(&after, &leaving)) {
                // With the others that are lost, or those that are left could not decide.
                let others = self.places.iter().filter(|place| back(place)).map(|place| place.id);
                leaving.extend(others.filter(|other| after.contains(other)));
            }
            after = without(&after, &leaving);
            with_rule(membership, ChangeMembers::RemoveVoters(leaving), &after)
        } else {
            // As what it is now: the leader must have heard it since.
            let heard = |peer: &quorate_core::PeerStatus| peer.id == id && peer.incarnation == Some(incarnation);
            if !up || membership.nodes.contains_key(&id) && !core.status().peers.iter().any(heard) {
                return;
            }
            after.insert(id);
            let record = BTreeMap::from([(id, Member::at(format!("node-{id}")))]);
            with_rule(membership, ChangeMembers::AddVoters(record), &after)
        };
        if !self.is_sound_majority(membership, &after) {
            return;
        }
        let patience = self.options.election_timeout * 2;
        let terms = ChangeTerms { patience, ..ChangeTerms::default() };
        let call = self.expect_an_answer(at);
        let Some(running) = &mut self.places[at].running else { return };
        running.node.change(call, change.clone(), Retain::Remove, terms);
        self.pending.insert(call, at);
        self.touch(at);
        self.say(|| format!("operator: {change:?} at node {}", at + 1));
    }

    /// Whether a node was taken out of the membership and lost something then: nobody sends it what it lacks.
    fn is_left_out(&self, place: &Place<W>, membership: &Membership) -> bool {
        let (member, wanted) = (membership.nodes.contains_key(&place.id), self.options.wants(place.id));
        place.hurt.mending && !place.damaged && wanted && !member
    }

    /// Whether these voters, by majority, could do without those of them that lost something. One that joins has
    /// everything first.
    fn is_sound_majority(&self, membership: &Membership, voters: &BTreeSet<NodeId>) -> bool {
        let good = |place: &&Place<W>| {
            let joins = !membership.is_voter(place.id);
            voters.contains(&place.id)
                && (joins || !place.impaired && membership.is_voter_as(place.id, place.incarnation))
        };
        self.options.beyond_budget || self.places.iter().filter(good).count() * 2 > voters.len()
    }
}

fn without(voters: &BTreeSet<NodeId>, leaving: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    voters.difference(leaving).copied().collect()
}

#[cfg(test)]
mod tests;
