//! Rare situations of the protocol that a search must have met: what never happens is not tested.

use quorate::virtual_node::Answer;
use quorate_core::{Core, Incarnation, ServerState, Vote};

use crate::core_phase::{CORES, OUTSIDE};
use crate::counters::Counters;
use crate::halts::LOST_LOG;
use crate::latecomer::CAUGHT_UP;
use crate::net::Flight;
use crate::process::Seen;
use crate::workload::Workload;
use crate::world::World;

/// Every situation. A search with `--every-fault` fails if one was never met.
pub(crate) const SITUATIONS: &[&str] = &[
    TWO_LEADERS,
    SPLIT_VOTE,
    STEPPED_DOWN,
    EARLIER_COMMITTED,
    CUT_OFF,
    MEMBERSHIP_CUT_OFF,
    MEMBERSHIP_INHERITED,
    ELECTED_IN_JOINT,
    JOINT_LED_BY_LEAVER,
    LEADS_FROM_OUTSIDE,
    EVEN_VOTERS,
    STARTED_IN_JOINT,
    STARTED_UNCOMMITTED_MEMBERSHIP,
    STARTED_ON_SNAPSHOT,
    INSTALLED_UNDER_LOAD,
    READ_REFUSED,
    READ_CROSSED,
    READ_AT_OLD_LEADER,
    WRITE_UNKNOWN,
    TRANSFER_ABORTED,
    EARLIER_PROCESS,
    EARLIER_DISK,
    HELD_PAST_RESTART,
    HELD_PAST_ELECTION,
    EVERYBODY_DOWN,
    CAUGHT_UP,
    ROTTEN_LOG,
    ROTTEN_SNAPSHOT,
    BAD_SECTOR_AGAIN,
    REPLACED_FOR_BAD_SECTORS,
    LEFT_FOR_ITS_DISK,
    DEFERRED,
    LOST_LOG,
    EQUAL_STATES,
    EQUAL_ANSWERS,
    APPLIED_BESIDE,
];

/// A state was compared with another node's after the same command, and is the same.
pub(crate) const EQUAL_STATES: &str = "states found equal";
/// An answer was compared with another node's to the same command, and is the same.
pub(crate) const EQUAL_ANSWERS: &str = "answers found equal";
/// A snapshot was written while its node applied what came after it.
pub(crate) const APPLIED_BESIDE: &str = "applies beside a snapshot";
/// Of the writes of one call the first took effect, and the last did not. No situation, as it is rare: most calls fit one
/// message, and one write of the disk.
pub(crate) const TAKEN_IN_PART: &str = "call taken in part";

/// A node begins to lead while another one still does, under an earlier leader id.
const TWO_LEADERS: &str = "two leaders at once";
/// A candidate campaigns again, above the vote that it campaigned for before.
const SPLIT_VOTE: &str = "campaign without a winner";
/// A leader ends its leadership without a restart.
const STEPPED_DOWN: &str = "leader steps down";
/// A leader commits, with its own first entry, one of an earlier leader (dissertation figure 3.7).
const EARLIER_COMMITTED: &str = "earlier leader's entry committed";
/// Uncommitted entries are removed from a log.
const CUT_OFF: &str = "entries cut off";
/// Among them the membership in force.
const MEMBERSHIP_CUT_OFF: &str = "membership entry cut off";
/// A node begins to lead with a membership that is not committed.
const MEMBERSHIP_INHERITED: &str = "elected, membership uncommitted";
/// A node begins to lead in a joint membership.
const ELECTED_IN_JOINT: &str = "elected in a joint membership";
/// A leader appends a joint membership that it is to leave.
const JOINT_LED_BY_LEAVER: &str = "joint membership led by a leaver";
/// A leader appends a membership in which it does not vote.
const LEADS_FROM_OUTSIDE: &str = "leads from outside the voters";
/// A leader appends a membership with an even number of voters.
const EVEN_VOTERS: &str = "even number of voters";
/// A process starts in a joint membership.
const STARTED_IN_JOINT: &str = "started in a joint membership";
/// A process starts with a membership in its log after its snapshot, so that it may not be committed.
const STARTED_UNCOMMITTED_MEMBERSHIP: &str = "started, membership uncommitted";
/// A process starts with nothing but a snapshot.
const STARTED_ON_SNAPSHOT: &str = "started with a snapshot alone";
/// A snapshot takes the place of a log while clients wait.
const INSTALLED_UNDER_LOAD: &str = "snapshot installed under load";
/// A read that waited is refused: its leader does not lead any more, or does not answer.
const READ_REFUSED: &str = "waiting read refused";
/// A read that needs its leader's word is answered, or refused, under another leader than it was asked under.
pub(crate) const READ_CROSSED: &str = "read crosses a leader change";
/// A node begins to lead while a read waits for another one, which leads under an earlier leader id.
const READ_AT_OLD_LEADER: &str = "read waits at a replaced leader";
/// A leader gives a transfer up and leads on, takes proposals again.
const TRANSFER_ABORTED: &str = "transfer aborted, leader leads on";
/// A write is answered with "unknown": its leader lost its place.
const WRITE_UNKNOWN: &str = "waiting write left unknown";
/// A message of a process that is gone arrives.
const EARLIER_PROCESS: &str = "message of an earlier process";
/// A message of a disk that is gone arrives.
const EARLIER_DISK: &str = "message of an earlier disk";
/// A message that was kept arrives, and its receiver was started again since.
const HELD_PAST_RESTART: &str = "kept message after a restart";
/// A message that was kept arrives, and its receiver votes for a later leader since.
const HELD_PAST_ELECTION: &str = "kept message after an election";
/// A node that runs reads a bit of its log that flipped under it.
pub(crate) const ROTTEN_LOG: &str = "rotten log read at work";
/// The same, of a snapshot.
pub(crate) const ROTTEN_SNAPSHOT: &str = "rotten snapshot read at work";
/// A bad sector is read once more: since it was read first, its node was started again.
pub(crate) const BAD_SECTOR_AGAIN: &str = "bad sector read again";
/// A disk with a bad sector is replaced by another one.
pub(crate) const REPLACED_FOR_BAD_SECTORS: &str = "disks replaced for bad sectors";
/// A leader whose disk is behind for too long steps down (law 8).
pub(crate) const LEFT_FOR_ITS_DISK: &str = "leader steps down for its disk";
/// A state machine does not want to build a snapshot now.
pub(crate) const DEFERRED: &str = "snapshot deferred";
/// No process runs.
const EVERYBODY_DOWN: &str = "everybody down at once";

/// What a step of a node shows.
pub(crate) fn after_step(counters: &mut Counters, core: &Core, before: Seen, seen: Seen, loaded: bool) {
    let (id, log) = (core.config().node_id, core.log());
    let elected = seen.leading.is_some() && seen.leading != before.leading;
    let own = |vote: Vote| !vote.committed && vote.leader_id.node_id == id;
    if own(before.vote) && own(seen.vote) && seen.vote != before.vote && core.state() == ServerState::Candidate {
        counters.add(SPLIT_VOTE, 1);
    }
    if before.leading.is_some() && seen.leading.is_none() {
        counters.add(STEPPED_DOWN, 1);
    }
    if let Some(leader_id) = seen.leading
        && seen.commit > before.commit
        && log.at(before.commit + 1).is_some_and(|first| first.leader_id < leader_id)
    {
        counters.add(EARLIER_COMMITTED, 1);
    }
    if log.purged().index > before.last {
        if loaded {
            counters.add(INSTALLED_UNDER_LOAD, 1);
        }
    } else if seen.last < before.last {
        counters.add(CUT_OFF, 1);
    }
    let led_on = seen.leading.is_some() && seen.leading == before.leading;
    counters.add(TRANSFER_ABORTED, u64::from(led_on && before.transfers && !seen.transfers));
    let membership = core.membership();
    if seen.membership != before.membership {
        if before.membership.index > log.purged().index && !log.holds(before.membership) {
            counters.add(MEMBERSHIP_CUT_OFF, 1);
        } else if seen.leading.is_some() && !elected {
            let leaves = membership.is_joint() && !membership.target().is_voter(id);
            counters.add(JOINT_LED_BY_LEAVER, leaves.into());
            counters.add(LEADS_FROM_OUTSIDE, u64::from(!membership.is_voter(id)));
            counters.add(EVEN_VOTERS, u64::from(membership.voter_ids().len().is_multiple_of(2)));
        }
    }
    if elected {
        counters.add(MEMBERSHIP_INHERITED, u64::from(seen.membership.index > seen.commit));
        counters.add(ELECTED_IN_JOINT, membership.is_joint().into());
    }
}

/// What a process finds when it starts.
pub(crate) fn at_start(counters: &mut Counters, core: &Core) {
    counters.add(STARTED_IN_JOINT, core.membership().is_joint().into());
    counters.add(STARTED_UNCOMMITTED_MEMBERSHIP, u64::from(core.membership_log_id().index > core.commit()));
    let alone = core.log().runs().next().is_none() && core.last_log_id().index > 0;
    counters.add(STARTED_ON_SNAPSHOT, alone.into());
}

/// What a caller is answered.
pub(crate) fn on_answer<R>(counters: &mut Counters, answer: &Answer<R>) {
    match answer {
        Answer::ReadRefused(_) => counters.add(READ_REFUSED, 1),
        Answer::Unknown => counters.add(WRITE_UNKNOWN, 1),
        _ => {}
    }
}

/// What arrives, from a node whose disk and start are now these, at a process with this number and this vote.
pub(crate) fn on_arrival(
    counters: &mut Counters,
    flight: &Flight,
    (incarnation, boot): (Incarnation, u64),
    (run, vote): (u64, Vote),
) {
    if flight.incarnation != incarnation {
        counters.add(EARLIER_DISK, 1);
    } else if flight.starts.boot() < boot {
        counters.add(EARLIER_PROCESS, 1);
    }
    if flight.held {
        counters.add(HELD_PAST_RESTART, u64::from(run != flight.to_run));
        counters.add(HELD_PAST_ELECTION, u64::from(vote.leader_id > flight.to_vote.leader_id));
    }
}

impl<W: Workload> World<W> {
    /// Names every situation, so that one that is never met shows.
    pub(crate) fn name_situations(&mut self) {
        SITUATIONS.iter().chain(&CORES).chain(&OUTSIDE).for_each(|name| self.counters.add(name, 0));
    }

    /// After a step in which this node began to lead.
    pub(crate) fn on_elected(&mut self, at: usize) {
        let leads = |place: &crate::world::Place<W>| {
            place.running.as_ref().is_some_and(|running| running.seen.leading.is_some())
        };
        let others = self.places.iter().enumerate().any(|(other, place)| other != at && leads(place));
        self.counters.add(TWO_LEADERS, others.into());
        let asked = |other: usize| other != at && leads(&self.places[other]) && self.reads_at(other);
        let reads = others && (0..self.places.len()).any(asked);
        self.counters.add(READ_AT_OLD_LEADER, reads.into());
    }

    /// After a process stopped.
    pub(crate) fn on_down(&mut self) {
        let down = self.places.len() > 1 && self.places.iter().all(|place| place.running.is_none());
        self.counters.add(EVERYBODY_DOWN, down.into());
    }
}
