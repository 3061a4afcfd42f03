//! Why a node may end by itself, or refuse to start: for what was done to it, if that was done. Whatever else it says is a
//! bug: there is a list of what may be, and none of what may not.

use quorate_core::NodeId;

use crate::disk::Damage;
use crate::record::What;
use crate::workload::Workload;
use crate::world::{Down, World};

/// What the injected panic of a state machine comes to.
const PANICKED: &str = "its state machine failed: it panicked: injected: the state machine panics";

/// What was done to a node that ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Suffered {
    /// What calls of its disk did wrong since its last stop.
    pub(crate) errors: Damage,
    /// Something on its disk is not what was written, and not all of that was dealt with.
    pub(crate) hurt: bool,
    /// It was the only voter.
    pub(crate) only_voter: bool,
    /// Its disk is an older copy of itself.
    pub(crate) outdated: bool,
    /// Its disk holds damage that was not dealt with.
    pub(crate) damaged: bool,
    /// Its disk is not its first, and somebody may know it by another.
    pub(crate) renewed: bool,
}

/// What ended a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Panic,
    DiskError,
    NoSpace,
    Damage,
    OlderCopy,
    LostLog,
}

/// Nodes that ended because their logs were lost, and nobody has added their new disks yet.
pub(crate) const LOST_LOG: &str = "ended for a lost log";

impl Cause {
    /// What a node's words say of its end, if that was done to it.
    ///
    /// # Errors
    /// A violation.
    pub(crate) fn of(id: NodeId, why: &str, suffered: Suffered) -> Result<Self, String> {
        let Suffered { errors, hurt, only_voter, outdated, damaged, renewed } = suffered;
        let claimed = if why == PANICKED {
            Some((Cause::Panic, true))
        } else if why.ends_with(": injected: a read failed") {
            Some((Cause::DiskError, errors.read_errors > 0))
        } else if why.ends_with(": injected: a write failed") {
            Some((Cause::DiskError, errors.write_errors > 0))
        } else if why.ends_with(": injected: a sync failed") {
            Some((Cause::DiskError, errors.sync_errors > 0))
        } else if why.contains("no space left for ") || why.ends_with(": no storage space") {
            Some((Cause::NoSpace, errors.full_errors > 0))
        } else if why.contains("is an older copy of this node's disk") {
            Some((Cause::OlderCopy, outdated))
        } else if why.starts_with("its log is lost: this disk (") {
            Some((Cause::LostLog, renewed))
        } else if why.contains(UNREPAIRABLE) {
            Some((Cause::Damage, hurt && only_voter))
        } else if why.contains("damaged file ") {
            Some((Cause::Damage, hurt))
        } else if DAMAGED.iter().any(|words| why.contains(words)) {
            Some((Cause::Damage, damaged))
        } else {
            None
        };
        match claimed {
            Some((cause, true)) => Ok(cause),
            Some((_, false)) => Err(format!("halt: node {id} stops for what was not done to it: {why}")),
            None => Err(format!("halt: node {id} stops: {why}")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Cause::Panic => "ended by an injected panic",
            Cause::DiskError => "ended by a disk error",
            Cause::NoSpace => "ended for want of space",
            Cause::Damage => "ended by damage",
            Cause::OlderCopy => "ended as an older copy",
            Cause::LostLog => LOST_LOG,
        }
    }

    /// Whether starting the node again, with everything healed, cannot help: the operator has to do something.
    pub(crate) fn lasts(self) -> bool {
        match self {
            Cause::Panic | Cause::DiskError | Cause::NoSpace => false,
            Cause::Damage | Cause::OlderCopy | Cause::LostLog => true,
        }
    }

    /// Whether what it has on its disk ends it.
    pub(crate) fn is_of_its_disk(self) -> bool {
        match self {
            Cause::Panic | Cause::DiskError | Cause::NoSpace | Cause::LostLog => false,
            Cause::Damage | Cause::OlderCopy => true,
        }
    }
}

/// What a node says that would be repaired if it had a peer (docs/design/001).
const UNREPAIRABLE: &str = "there is no other voter to give them back";

/// What a node says that lacks something, while there is damage on its disk.
const DAMAGED: [&str; 2] = ["to which the log on this node does not lead", "no longer in the log"];

impl<W: Workload> World<W> {
    /// A node says that it cannot go on, and why.
    pub(crate) fn halted(&mut self, at: usize, why: String, errors: Damage) {
        let place = &self.places[at];
        let suffered = Suffered {
            errors,
            hurt: self.may_find_damage(at),
            only_voter: place.only_voter,
            outdated: place.hurt.outdated,
            damaged: place.damaged || place.fragile,
            renewed: place.another_disk,
        };
        let cause = Cause::of(place.id, &why, suffered);
        match &cause {
            Ok(cause) => self.counters.add(cause.name(), 1),
            Err(violation) => self.fail(violation.clone()),
        }
        self.record(at, What::Stopped);
        let place = &mut self.places[at];
        place.running = None;
        place.run += 1;
        place.down = Down::Halted(why, cause.ok());
        self.on_halt(at);
    }

    /// A node does not start. Within the budget damage is no reason where disks are mended and there is another voter:
    /// what was lost comes back from the peers, by this start.
    pub(crate) fn refused_to_start(&mut self, at: usize, why: String) {
        let place = &self.places[at];
        let (id, errors) = (place.id, place.disk.damage());
        let mends = self.options.mends && !self.options.beyond_budget && !place.only_voter && !place.hurt.outdated;
        let damaged = why.contains("damaged file ") || DAMAGED.iter().any(|words| why.contains(words));
        self.halted(at, why.clone(), errors);
        if mends && damaged {
            self.fail(format!("halt: node {id} does not start, though its peers have what it lost: {why}"));
        }
    }

    /// Long after everything healed a node stays down only for what no start mends.
    pub(crate) fn check_halts(&self) -> Result<(), String> {
        for place in self.places.iter().filter(|place| place.running.is_none()) {
            match &place.down {
                Down::Stopped => {}
                Down::Halted(_, Some(cause)) if cause.lasts() => {}
                Down::Halted(why, _) => return Err(format!("halt: node {} stays down: {why}", place.id)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(why: &str, suffered: Suffered) -> Option<Cause> {
        Cause::of(NodeId(1), why, suffered).ok()
    }

    #[test]
    fn what_was_injected_ends_a_node_and_nothing_that_was_not() {
        let read = Suffered { errors: Damage { read_errors: 1, ..Damage::default() }, ..Suffered::default() };
        let write = Suffered { errors: Damage { write_errors: 1, ..Damage::default() }, ..Suffered::default() };
        let sync = Suffered { errors: Damage { sync_errors: 1, ..Damage::default() }, ..Suffered::default() };
        let full = Suffered { errors: Damage { full_errors: 1, ..Damage::default() }, ..Suffered::default() };
        let hurt = Suffered { hurt: true, ..Suffered::default() };
        let outdated = Suffered { outdated: true, ..Suffered::default() };
        let damaged = Suffered { damaged: true, ..Suffered::default() };
        let renewed = Suffered { renewed: true, ..Suffered::default() };
        let claims = [
            ("cannot read /n/identity: injected: a read failed", read, Cause::DiskError),
            ("its log storage failed: cannot write /n/peers: injected: a write failed", write, Cause::DiskError),
            ("its log storage failed: cannot sync /n/vote.a: injected: a sync failed", sync, Cause::DiskError),
            ("its log storage failed: no space left for /n/vote.a: free some space", full, Cause::NoSpace),
            ("cannot write /n/identity: no storage space", full, Cause::NoSpace),
            ("cannot start: damaged file /n/1.snap at offset 3: the frame", hurt, Cause::Damage),
            (
                "its log storage failed: data directory /n is an older copy of this node's disk",
                outdated,
                Cause::OlderCopy,
            ),
            ("its log storage failed: committed entries 1-1.2..1-1.3 are no longer in the log", damaged, Cause::Damage),
            (
                "its log is lost: this disk (6) is blank, but the cluster knows node 1 as a voter with disk 7",
                renewed,
                Cause::LostLog,
            ),
        ];
        for (why, suffered, expected) in claims {
            assert_eq!(cause(why, suffered), Some(expected), "{why}");
            assert_eq!(cause(why, Suffered::default()), None, "{why}");
            let others = [read, write, sync, full, hurt, outdated, damaged, renewed];
            assert_eq!(others.iter().filter(|other| cause(why, **other).is_some()).count(), 1, "{why}");
        }
        assert_eq!(cause(PANICKED, Suffered::default()), Some(Cause::Panic));
        let lost = "cannot start: 1 lost its entries after 1-1.61, up to 1-1.99, to damage, and there is no other voter \
                    to give them back";
        assert_eq!(cause(lost, hurt), None, "others vote, and have what is lost");
        assert_eq!(cause(lost, Suffered { only_voter: true, ..Suffered::default() }), None, "nothing damaged its disk");
        assert_eq!(cause(lost, Suffered { only_voter: true, ..hurt }), Some(Cause::Damage));
    }

    #[test]
    fn a_reason_that_nobody_thought_of_is_a_violation_whatever_was_done() {
        let errors = Damage {
            read_errors: 1,
            write_errors: 1,
            sync_errors: 1,
            full_errors: 1,
            lost_writes: 1,
            ..Damage::default()
        };
        let all = Suffered { errors, hurt: true, only_voter: true, outdated: true, damaged: true, renewed: true };
        for why in [
            "",
            "it was shut down",
            "its state machine failed: it panicked: a serial is applied once",
            "its state machine failed: command 1-1.7: too short",
            "its state machine failed: it panicked: injected: the state machine panics, and more",
            "the library failed, please report this: index out of bounds",
            "its log is lost: another reason",
            "cannot start: the state machine refuses its snapshot: too short",
            "its log storage failed: cannot write /n/peers: the process was killed",
            "this node belongs to cluster 1, not to cluster 2",
            "data directory /n has no identity but holds /n/wal",
            "nothing can be written before the node belongs to a cluster",
            "its log storage failed: a received snapshot holds something else than its header said",
        ] {
            let violation = Cause::of(NodeId(1), why, all).expect_err(why);
            assert!(violation.starts_with("halt: node 1 stops: "), "{violation}");
        }
    }

    #[test]
    fn only_what_no_start_mends_keeps_a_node_down() {
        for (cause, lasts) in [
            (Cause::Panic, false),
            (Cause::DiskError, false),
            (Cause::NoSpace, false),
            (Cause::Damage, true),
            (Cause::OlderCopy, true),
            (Cause::LostLog, true),
        ] {
            assert_eq!(cause.lasts(), lasts, "{cause:?}");
        }
    }
}
