//! One node: its core, its volatile log, its disk and its state machine.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::{
    Core, ForcedMembership, Incarnation, LogId, Membership, NodeId, OnLostLog, Recovered, RequestId, SnapshotMeta, Span,
};

use super::disk::{Disk, Entry, Log, Payload, Snapshot};
use super::incarnation;
use super::view::View;

/// What the state machine is asked to do, in order (law 11).
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Apply(Span),
    Install(SnapshotMeta),
    Build,
}

/// The state machine: the list of commands applied to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) applied: LogId,
    pub(crate) commands: Vec<String>,
    pub(crate) membership_log_id: LogId,
    pub(crate) membership: Membership,
}

impl Machine {
    pub(crate) fn restored(snapshot: &Snapshot) -> Self {
        Self {
            applied: snapshot.meta.last_log_id,
            commands: snapshot.commands.clone(),
            membership_log_id: snapshot.meta.membership_log_id,
            membership: snapshot.meta.membership.clone(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            membership_log_id: self.membership_log_id,
            membership: self.membership.clone(),
        };
        Snapshot { meta, commands: self.commands.clone() }
    }

    pub(crate) fn apply(&mut self, id: LogId, payload: &Payload) {
        self.applied = id;
        match payload {
            Payload::Blank => {}
            Payload::Command(command) => self.commands.push(command.clone()),
            Payload::Membership(membership) => {
                self.membership_log_id = id;
                self.membership = membership.clone();
            }
        }
    }
}

/// A node, running or not.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Which disk of this node it is, from 0.
    pub(crate) disks: u64,
    /// Which recovery of a lost quorum its disk is of; `None`: it is blank, and takes any.
    pub(crate) epoch: Option<u64>,
    /// What it does if its log is lost, if not what the cluster's nodes do.
    pub(crate) on_lost_log: Option<OnLostLog>,
    /// Counts starts.
    pub(crate) boot: u64,
    /// `None`: it is down.
    pub(crate) core: Option<Core>,
    /// The log as the running core sees it: what was submitted.
    pub(crate) log: Log,
    pub(crate) disk: Disk,
    /// A copy of the disk that somebody made, to put back later.
    pub(crate) copy: Option<Disk>,
    pub(crate) machine: Machine,
    pub(crate) jobs: VecDeque<Job>,
    /// Commands of proposals that the core has not answered.
    pub(crate) proposals: BTreeMap<RequestId, Vec<String>>,
    /// Its disk hangs: only an explicit `persist` makes writes durable.
    pub(crate) stalled: bool,
    /// What is to be sent next cannot be read.
    pub(crate) fails_to_read: bool,
    /// A snapshot that is being written.
    pub(crate) captured: Option<Snapshot>,
    /// A snapshot that arrived and is not installed.
    pub(crate) received: Option<Snapshot>,
}

impl Node {
    pub(crate) fn blank(id: NodeId) -> Self {
        Self {
            id,
            disks: 0,
            epoch: None,
            on_lost_log: None,
            boot: 0,
            core: None,
            log: Log::default(),
            disk: Disk::default(),
            copy: None,
            machine: Machine::default(),
            jobs: VecDeque::new(),
            proposals: BTreeMap::new(),
            stalled: false,
            fails_to_read: false,
            captured: None,
            received: None,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        incarnation(self.id, self.disks)
    }

    /// Everything that is not on disk is gone.
    pub(crate) fn crash(&mut self) {
        self.core = None;
        self.log = Log::default();
        self.disk.pending.clear();
        self.disk.poisoned = false;
        self.machine = Machine::default();
        self.jobs.clear();
        self.proposals.clear();
        self.captured = None;
        self.received = None;
    }

    /// Keeps a copy of what is durable.
    pub(crate) fn copy_disk(&mut self) {
        let pending = VecDeque::new();
        self.copy = Some(Disk { pending, ..self.disk.clone() });
    }

    pub(crate) fn wipe(&mut self) {
        self.disks += 1;
        self.disk = Disk::default();
        self.epoch = None;
    }

    /// Recovers a lost quorum from this disk, as the offline tool does: the log stays, the disk gets another name, and
    /// a membership of this node alone follows the log (law 16).
    pub(crate) fn force_membership(&mut self) -> Result<LogId, String> {
        let memberships = self.disk.log.memberships();
        let current = memberships.last().map(|(_, membership)| membership);
        let current = current.or(self.disk.snapshot.as_ref().map(|snapshot| &snapshot.meta.membership));
        let current = current.ok_or_else(|| format!("the disk of {} has no membership", self.id))?;
        let (seen, last) = (self.disk.vote.leader_id.term, self.disk.log.last());
        let forced = ForcedMembership::new(self.id, incarnation(self.id, self.disks + 1), seen, last, current)
            .ok_or_else(|| format!("node {} is not in the membership", self.id))?;
        self.disks += 1;
        self.epoch = Some(self.epoch.unwrap_or(0) + 1);
        self.disk.vote = forced.vote;
        self.disk.log.append(&[Entry { id: forced.log_id, payload: Payload::Membership(forced.membership) }])?;
        Ok(forced.log_id)
    }

    /// Reads the disk, as a driver does before it starts a core.
    pub(crate) fn recover(&mut self) -> Result<Recovered, String> {
        if let Some(snapshot) = &self.disk.snapshot {
            // A crash between the install of a snapshot and the reset of the log: the log keeps its tail only if
            // it holds the snapshot's last entry (law 11).
            let end = snapshot.meta.last_log_id;
            let overtaken = end.index > self.disk.log.purged.index && !self.disk.log.holds(end);
            if overtaken {
                self.disk.log.reset(end, quorate_core::Tail::Discard)?;
            }
            self.machine = Machine::restored(snapshot);
        }
        self.log = self.disk.log.clone();
        Ok(Recovered {
            vote: self.disk.vote,
            log: self.log.ids(),
            memberships: self.log.memberships(),
            snapshot: self.disk.snapshot.as_ref().map(|snapshot| snapshot.meta.clone()),
            applied: self.machine.applied,
            promised_lease: self.disk.promised_lease,
            // Whatever is on disk may have been acknowledged: a log says no less.
            promised_end: self.disk.promised_end.max(self.disk.log.last()),
        })
    }

    pub(crate) fn view(&self) -> Option<View> {
        self.core.as_ref().map(View::of)
    }
}
