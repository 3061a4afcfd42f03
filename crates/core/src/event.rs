//! The core's contract: what goes in, what comes out.
//!
//! Perform actions in order; report each [`Action::Persist`] and [`Action::Apply`] when done, in order;
//! nothing else is required.

use std::time::Duration;

use crate::ids::{Incarnation, LeaderId, LogId, NodeId, RequestId, StreamId, Vote, WriteId};
use crate::log::{LogIds, Span};
use crate::membership::{ChangeMembers, ChangeTerms, Membership, Precondition, Retain};
use crate::message::{AppendHeader, Envelope, Message, Phase};
use crate::quorum::RuleError;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A peer said something.
    Message(Envelope),
    /// The deadline passed.
    Timeout,
    /// A caller wants these commands in the log, all or none. The driver keeps their bytes until the core
    /// answers with [`WriteOp::Append`] from [`Source::Proposal`], or refuses.
    Propose {
        /// Whom to answer.
        request: RequestId,
        /// How many commands; at least 1.
        count: u64,
        /// Their size in the log.
        bytes: u64,
    },
    /// A caller wants to read.
    Read {
        /// Whom to answer.
        request: RequestId,
        /// How fresh.
        policy: ReadPolicy,
    },
    /// A caller wants another membership.
    ChangeMembership {
        /// Whom to answer, when the change is complete or lost.
        request: RequestId,
        /// The change.
        change: ChangeMembers,
        /// What becomes of voters that leave.
        retain: Retain,
        /// What it depends on, and how long it may wait.
        terms: ChangeTerms,
    },
    /// A caller makes this blank node the first of a new cluster.
    Initialize {
        /// Whom to answer.
        request: RequestId,
        /// The first membership, with the incarnation of every voter.
        membership: Membership,
    },
    /// A caller wants this leader to hand over (dissertation 3.10). Answered with [`Outcome::Transferred`] once the
    /// new leader is heard of, or with the reason why not, within
    /// [`election_timeout_max`](crate::Config::election_timeout_max).
    TransferLeader {
        /// Whom to answer.
        request: RequestId,
        /// To whom; `None`: the most up-to-date voter that was heard of lately.
        to: Option<NodeId>,
    },
    /// A caller wants the transfer under way given up. The target may win nevertheless, if it was asked already.
    AbortTransfer,
    /// A caller wants this node to campaign now.
    Elect {
        /// Whether to ask first.
        phase: Phase,
    },
    /// A caller wants a heartbeat round now.
    Heartbeat,
    /// A caller wants a snapshot now, whatever the policy says.
    Snapshot {
        /// Whom to answer when it is durable, if anybody.
        request: Option<RequestId>,
    },
    /// A caller wants the log purged up to this index, as far as a snapshot covers it.
    PurgeLog {
        /// The last index to purge.
        upto: u64,
        /// Whom to answer, if anybody.
        request: Option<RequestId>,
    },
    /// Every write up to and including this one is durable.
    Persisted(WriteId),
    /// A write failed: the log is poisoned, and this node's core stops for good.
    PersistFailed(WriteId),
    /// The state machine has applied up to this entry.
    Applied(LogId),
    /// A snapshot was built and is durable.
    SnapshotBuilt(SnapshotMeta),
    /// A snapshot could not be built; everything is as before.
    SnapshotBuildFailed,
    /// The state machine would rather not build one now.
    SnapshotDeferred,
    /// The newest durable snapshot, read for a peer, is damaged: it is to be built again, though nothing was applied since.
    SnapshotDamaged,
    /// A snapshot from a leader arrived whole; it is not yet installed.
    SnapshotReceived {
        /// The sender.
        from: NodeId,
        /// The sender's disk.
        incarnation: Incarnation,
        /// Vote, stream and round of the sending leader.
        header: AppendHeader,
        /// What the snapshot holds.
        meta: SnapshotMeta,
    },
    /// The snapshot of [`Action::InstallSnapshot`] is durable and the state machine restored from it.
    SnapshotInstalled(SnapshotMeta),
    /// The snapshot of [`Action::InstallSnapshot`] could not be used; everything is as before.
    SnapshotInstallFailed,
    /// A snapshot transfer to a peer ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// The stream of [`Action::SendSnapshot`].
        stream: StreamId,
        /// How it ended.
        outcome: SendOutcome,
    },
    /// Entries of [`Action::SendEntries`] could not be sent: the span no longer matched, the queue was full,
    /// or the connection broke.
    SendLost {
        /// The receiver.
        to: NodeId,
        /// The stream.
        stream: StreamId,
    },
    /// This node's own connection to the peer was refused, or was reset and the immediate reconnect failed
    /// (law 6). Silence and time-outs are not reported here.
    LinkRefused {
        /// The peer.
        peer: NodeId,
    },
    /// The driver's clock did not run as other clocks did: it stood still while the machine slept, or leapt. What was
    /// measured with it counts no more: leases and confirmations are given up, promises start again.
    ClockJumped,
}

/// Whether a snapshot arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendOutcome {
    /// The receiver has it whole.
    Delivered,
    /// It does not.
    Failed,
}

/// How fresh a read must be.
///
/// Whoever drives a core must tell all of these apart, so a new one breaks those who match on it: this is not
/// `#[non_exhaustive]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadPolicy {
    /// Linearizable: a quorum confirms the leader after the read began (dissertation 6.4).
    ReadIndex,
    /// Linearizable as long as clocks drift less than [`Config::max_clock_drift`](crate::Config::max_clock_drift);
    /// needs [`LeasePolicy::LeaseReads`](crate::LeasePolicy::LeaseReads), and is refused without. The leader serves it
    /// at once while it holds a lease; while it does not (it is new, hands over, or the clock jumped) a round
    /// confirms it as well.
    LeaseRead,
    /// No older than this when the caller asked: served at once if this node made sure at most that long ago, counted
    /// from the moment it *asked*, else as `ReadIndex`. Measured on this node's clock alone.
    MaxAge(Duration),
    /// Whatever this node has applied, however old.
    Stale,
}

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct SnapshotMeta {
    /// The last entry applied to it.
    pub last_log_id: LogId,
    /// The log id of the membership in force at that entry.
    pub membership_log_id: LogId,
    /// The membership in force at that entry.
    pub membership: Membership,
}

/// What the core found on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Recovered {
    /// The last durable vote.
    pub vote: Vote,
    /// The log. It starts at or before the end of the snapshot.
    pub log: LogIds,
    /// Membership entries in the log, in order.
    pub memberships: Vec<(LogId, Membership)>,
    /// The newest durable snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// What the state machine has durably applied; at least the snapshot, which was restored into it.
    pub applied: LogId,
    /// The longest lease this node may have promised before it stopped (law 17).
    pub promised_lease: Duration,
    /// The last entry this node may have acknowledged, if damage took the end of its log: then it is greater than
    /// the log's last (docs/design/001). Anything else: nothing was lost.
    pub promised_end: LogId,
}

/// A durable write. Writes are made, and complete, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Its place in the order.
    pub id: WriteId,
    /// What to write.
    pub op: WriteOp,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WriteOp {
    /// Keep this vote.
    Vote(Vote),
    /// Append these entries.
    Append {
        /// The entries; `span.prev` is the end of the log.
        span: Span,
        /// Where their bytes are.
        source: Source,
    },
    /// Remove every entry after this one.
    Truncate {
        /// The last entry that stays.
        after: LogId,
    },
    /// A snapshot up to `to` is installed: forget every entry up to and including it, and with
    /// [`Tail::Discard`] the ones after it too.
    Reset {
        /// The end of the snapshot.
        to: LogId,
        /// What becomes of later entries.
        tail: Tail,
    },
    /// Keep that a lease of this length may have been promised (law 17).
    PromiseLease(Duration),
    /// Everything that this node promised is in its log: forget the promised end (docs/design/001).
    ForgetPromisedEnd,
}

/// What becomes of the entries after an installed snapshot (law 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// The log holds the snapshot's last entry, so what follows it is good.
    Keep,
    /// It does not: the rest conflicts.
    Discard,
}

/// Where the bytes of appended entries are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// With the caller of this proposal.
    Proposal(RequestId),
    /// In the message being stepped. The span may leave out entries at its front that the log already holds.
    Message,
    /// The core makes the one entry itself.
    Core(CoreEntry),
}

/// An entry that the core itself makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CoreEntry {
    /// Starts a leadership (dissertation 6.4, step 1).
    Blank,
    /// A membership, in force from the moment it is appended.
    Membership(Membership),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make this durable, then report [`Event::Persisted`].
    Persist(Write),
    /// Send this on the control lane.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to send.
        message: Message,
    },
    /// Send the entries of `span` as [`Message::Append`]; report [`Event::SendLost`] if that cannot be done.
    ///
    /// An empty span (`prev` is `last`) asks whether the peer got the entries sent before: it must not overtake
    /// them. If that cannot be kept it is dropped, and not reported.
    SendEntries {
        /// The receiver.
        to: NodeId,
        /// The message's header.
        header: AppendHeader,
        /// The message's entries.
        span: Span,
    },
    /// Send the newest snapshot, which holds at least `at_least`; report [`Event::SnapshotSent`].
    SendSnapshot {
        /// The receiver.
        to: NodeId,
        /// Goes with the snapshot, and comes back in [`Event::SnapshotReceived`] at the receiver.
        header: AppendHeader,
        /// The least last entry the snapshot must have.
        at_least: LogId,
    },
    /// Install the snapshot that was just received; report [`Event::SnapshotInstalled`] or
    /// [`Event::SnapshotInstallFailed`]. Goes through the same queue as applies (law 11).
    InstallSnapshot(SnapshotMeta),
    /// Build a snapshot of what is applied when this comes up in the apply queue; report
    /// [`Event::SnapshotBuilt`], [`Event::SnapshotBuildFailed`] or [`Event::SnapshotDeferred`].
    BuildSnapshot,
    /// Apply these entries, then report [`Event::Applied`]. Committed, and durable in this node's own log.
    Apply(Span),
    /// Answer a caller.
    Reply {
        /// Whom.
        request: RequestId,
        /// The answer.
        outcome: Outcome,
    },
    /// The log up to here is covered by a durable snapshot and may be forgotten, at leisure.
    Purge {
        /// The last entry to forget.
        upto: LogId,
    },
    /// Something that operators may want to know.
    Note(Note),
}

/// The answer to a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The commands are in the leader's log. They take effect when, and only when, an entry with this leader
    /// id is applied at their index.
    Proposed(Span),
    /// The read may be served once this entry is applied.
    Read(LogId),
    /// The change is committed; a joint change, to its end.
    MembershipChanged(LogId),
    /// The cluster exists.
    Initialized(LogId),
    /// Leadership was handed over; this is the new one.
    Transferred(LeaderId),
    /// A durable snapshot holds everything that was applied when it was asked for, up to here.
    SnapshotBuilt(LogId),
    /// The log starts after this entry.
    LogPurged(LogId),
    /// Certainly nothing was done.
    Refused(Refusal),
    /// The request may or may not take effect: leadership was lost on the way.
    Unknown,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Another node leads, or none that is known.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// This node leads, but hands over.
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// A membership change is not finished.
    ChangeInProgress {
        /// The unfinished membership entry.
        log_id: LogId,
    },
    /// No entry of this leadership is committed yet; ask again shortly (law 12).
    NotYetCommitted,
    /// The change would leave no voters.
    NoVoters,
    /// A node to become voter is not in the cluster.
    UnknownNode(NodeId),
    /// A learner's disk was not seen yet, so it cannot be named as a voter (law 15).
    NotSeenYet(NodeId),
    /// A node to become voter lags behind the end of the log by more than
    /// [`Config::replication_lag_threshold`](crate::Config), or needs a snapshot: commits would wait for it. It stays
    /// what it is.
    NotCaughtUp {
        /// The node.
        node: NodeId,
        /// What it holds.
        matched: LogId,
        /// The end of the leader's log.
        last: LogId,
    },
    /// The voters of the changed membership that are alive could not commit, or not elect.
    /// [`Readiness::Waived`](crate::Readiness) makes the change all the same.
    WouldLoseQuorum {
        /// Its voters that were not heard of within the lease.
        silent: Vec<NodeId>,
    },
    /// What the caller relies on does not hold.
    PreconditionFailed {
        /// What the caller expects.
        expected: Precondition,
        /// What is.
        actual: Precondition,
    },
    /// A node to be removed as a learner votes.
    IsVoter(NodeId),
    /// The voters decide by a rule of their own, which names them: it cannot be stretched over others. Name the new
    /// rule in the same change, with [`ChangeMembers::SetQuorum`] in a [`ChangeMembers::Batch`].
    RuleNeeded {
        /// Voters that the rule does not name.
        added: Vec<NodeId>,
        /// Nodes that the rule names, and that would not vote any more.
        removed: Vec<NodeId>,
    },
    /// The quorum rule cannot be used.
    BadRule(RuleError),
    /// The node is not blank.
    AlreadyInitialized,
    /// This node is not among the first voters, or is so under another incarnation.
    NotAmongVoters,
    /// Lease reads are not enabled in the cluster's settings.
    LeaseDisabled,
    /// Leadership was not handed over, or not to the node that was meant.
    NotTransferred(TransferFailure),
    /// Nothing was applied yet that a snapshot could hold.
    NothingApplied,
    /// The snapshot could not be built; the newest one is as before.
    SnapshotFailed,
    /// The state machine would not build a snapshot now.
    SnapshotDeferred,
    /// This node stopped after a failed write, or because its log is lost.
    Halted,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransferFailure {
    /// There is no other voter, or none was heard of lately.
    NoTarget,
    /// The node does not vote, is about to be removed from the voters, or speaks from another disk.
    NotVoter(NodeId),
    /// The target did not catch up, or did not win, within an election timeout; this node leads on.
    TimedOut {
        /// The target.
        to: NodeId,
    },
    /// A caller gave it up; this node leads on.
    Aborted {
        /// The target.
        to: NodeId,
    },
    /// Another node leads now.
    LeaderChanged {
        /// It.
        leader: NodeId,
    },
}

/// Something that operators, metrics and tests may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// This node starts a campaign.
    Campaigning {
        /// Real or pre-vote.
        phase: Phase,
        /// The vote it asks for.
        vote: Vote,
    },
    /// This node leads.
    BecameLeader(LeaderId),
    /// This node stopped leading.
    SteppedDown {
        /// The leadership that ended.
        leader_id: LeaderId,
        /// Why.
        reason: StepDown,
    },
    /// This node follows.
    Following(LeaderId),
    /// A vote was granted.
    Granted {
        /// Real or pre-vote.
        phase: Phase,
        /// The vote.
        vote: Vote,
    },
    /// A peer moved to another replication state.
    PeerState {
        /// The peer.
        peer: NodeId,
        /// Its state.
        state: PeerState,
    },
    /// The log was cut because it conflicted with the leader's.
    Truncated {
        /// The last entry that stays.
        after: LogId,
    },
    /// A membership is in force.
    MembershipInForce(LogId),
    /// A peer speaks from another disk than the one that the membership names (law 15).
    OtherIncarnation {
        /// The peer.
        peer: NodeId,
        /// The disk it speaks from.
        seen: Incarnation,
    },
    /// This disk is blank, but the leader's membership names this node as a voter of another one: the log is lost, and
    /// this node's core does nothing any more (law 15).
    LostLog {
        /// The disk that the membership names.
        named: Incarnation,
    },
    /// The same, but this node goes on as a learner.
    Rejoining {
        /// The disk that the membership names.
        named: Incarnation,
    },
    /// A peer denies entries that it acknowledged: an older copy of its disk was put back. It is served, but no longer
    /// counted (law 15).
    OlderCopy {
        /// The peer.
        peer: NodeId,
        /// What it had acknowledged.
        held: LogId,
    },
    /// A peer lost entries that it had acknowledged, knows it, and is sent them again.
    PeerLostEntries {
        /// The peer.
        peer: NodeId,
        /// What it holds for certain, in the leader's log.
        hint: LogId,
    },
    /// Everything that damage took from this node's log is there again, or proven uncommitted.
    Repaired {
        /// The last entry it may have acknowledged before.
        promised_end: LogId,
    },
    /// A message that no correct peer sends; it was ignored.
    Impossible {
        /// The sender.
        from: NodeId,
        /// What was wrong.
        what: &'static str,
    },
    /// This node was to campaign, but promised not to for a while yet (law 17).
    BoundByLease,
    /// The clock jumped: leases and promises start again.
    ClockJumped,
    /// A snapshot was installed.
    SnapshotInstalled(LogId),
    /// A write failed; this node's core does nothing any more.
    Halted,
}

/// Why a leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepDown {
    /// A greater vote was seen.
    GreaterVote(Vote),
    /// No commit quorum acknowledged it in time.
    NoQuorum,
    /// It is no longer a voter.
    Removed,
    /// Its own disk does not keep up, or failed.
    Disk,
}

/// How a leader replicates to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Looking for the point where the logs match: one message at a time.
    Probe,
    /// Logs match: appends are pipelined.
    Replicate,
    /// The peer needs a snapshot, and is sent one.
    Snapshot,
}

/// The actions of a step, in order. Reused, so that the steady path does not allocate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Actions(pub Vec<Action>);

impl Actions {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn push(&mut self, action: Action) {
        self.0.push(action);
    }

    /// For what every write asks for: makes the action where it is kept. Actions are large.
    #[inline]
    pub(crate) fn add(&mut self, make: impl FnOnce() -> Action) {
        self.0.extend(std::iter::once_with(make));
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.0.push(Action::Note(note));
    }
}
