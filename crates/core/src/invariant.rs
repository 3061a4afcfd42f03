//! The names of everything that must hold of a core's state, and of each of its steps.
//!
//! The claims are about what this node itself does. They hold whatever a peer, a file or a user says; what holds of
//! a whole cluster of correct nodes is checked by those who see all of it (scripts, exploration, simulation).

macro_rules! invariants {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// Something that must hold, always.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant {
            $($(#[doc = $text])+ $name,)+
        }

        impl Invariant {
            /// Every invariant, by number.
            pub const ALL: &[Invariant] = &[$(Invariant::$name,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Invariant::$name => stringify!($name),)+
                }
            }

            /// What must hold.
            pub fn text(self) -> &'static str {
                match self {
                    $(Invariant::$name => concat!($($text,)+).trim_ascii(),)+
                }
            }
        }
    };
}

invariants! {
    // ---- of a state: its log and its disk ----
    /// Entries up to the commit index are in the log.
    CommitInLog,
    /// Only committed entries are purged, and only behind a durable snapshot.
    PurgedBehindSnapshot,
    /// Only committed entries are in a snapshot.
    SnapshotIsCommitted,
    /// What is applied was handed out to be applied, and what was handed out is committed.
    AppliedIsCommitted,
    /// What was handed out to be applied is durable here, in the log or in the snapshot (dissertation 10.2.1).
    AppliedIsDurable,
    /// Leader ids never go back along a log.
    LeaderIdsGrow,
    /// The log holds no entry of a leader beyond the vote.
    LogWithinVote,
    /// The sizes that are remembered end where the log ends.
    SizesEndWithLog,
    /// The durable end of the log is inside the log.
    DurableInLog,
    /// Only writes that were asked for are durable.
    PersistedWasAsked,
    /// Writes that extend the log, and held replies, wait in the order of their writes.
    WritesInOrder,
    /// What is held waits for a write that was asked for and is not durable.
    HeldForAWrite,
    // ---- of a state: membership ----
    /// A membership is always in force, and memberships are in log order.
    MembershipsInOrder,
    /// The membership in force is in the log or the snapshot.
    MembershipInLog,
    /// At most one membership that a leader appended is not committed (law 12).
    OneOpenMembership,
    // ---- of a state: roles ----
    /// No node follows itself.
    FollowsAnother,
    /// What a follower accepted and acknowledged is in its log.
    AcceptedInLog,
    /// A node campaigns for itself, under a vote that is not committed.
    CampaignsForItself,
    /// A real candidate has voted for itself; one that asks first would go above its vote.
    CandidateVote,
    /// A voter is counted once.
    GrantsCountedOnce,
    /// A leader leads under its own committed vote.
    LeadsUnderOwnVote,
    /// A leadership starts with a blank entry of its own.
    LeadershipStarts,
    /// A leader that a committed membership leaves out leads on only to hand over (dissertation 4.2.2).
    RemovedLeaderLeaves,
    /// A node hands over what it led, to another.
    HandsOverItsOwn,
    /// Leadership is handed over to a node that votes, and will when a change under way is complete.
    HandsOverToAVoter,
    /// Nothing is appended while leadership is handed over.
    NothingWhileTransferring,
    /// A leader follows nobody's lease.
    LeaderOwesNoLease,
    /// A leader has committed what a commit quorum holds, if an entry of its own is among it.
    CommitsWhatIsReached,
    /// A leader replicates to every other node of the membership in force, and to nobody else.
    PeersAreMembers,
    /// What is matched is in the leader's log and is not sent again; what is sent is in its log.
    ProgressInLog,
    /// Appends in flight are in log order and within the window.
    InflightInWindow,
    /// Who is sent a snapshot lacks something of it.
    SnapshotIsLacked,
    /// Only rounds that began are acknowledged or waited for.
    RoundsBegan,
    /// A read waits at an entry that is committed, and not before this leadership's first (dissertation 6.4).
    ReadsAtCommit,
    /// No read waits for a round that a commit quorum of the membership in force has acknowledged.
    ReadsWaitForARound,
    // ---- of a step: what never goes back ----
    /// The clock never goes back.
    ClockForward,
    /// The vote never goes back.
    VoteForward,
    /// One vote a term in standard mode, except for the leader that the term elected.
    OneVoteATerm,
    /// The commit index never goes back.
    CommitForward,
    /// What is handed out and applied never goes back.
    AppliedForward,
    /// A snapshot is relied on when it is reported to be durable.
    SnapshotIsDurable,
    /// The snapshot and the purge point never go back.
    SnapshotForward,
    /// Committed entries stay as they are.
    CommittedStays,
    /// A leader only appends to its log (dissertation figure 3.2).
    LeaderAppendsOnly,
    /// What was accepted from a leader stays while that leader is followed.
    AcceptedStays,
    /// What a peer matched never goes back on one disk, unless it contradicts itself or says that entries are lost.
    MatchedForward,
    /// What a peer says of an earlier stream shows nothing of what it holds now.
    OldStreamsDoNotCount,
    /// When a leader hears that a peer lost entries, it counts nothing any more that the peer acknowledged before.
    CountsSinceTheLoss,
    // ---- of a step: the disk is told everything, in one order ----
    /// Write ids grow by one.
    WriteIdsGrowByOne,
    /// The writes of a step turn the log before it into the log after it.
    LogWritesReplay,
    /// A new vote is written.
    VoteWritten,
    /// What a leader appends is its own.
    AppendsOwnEntries,
    /// What is held stays, in order, until its write is durable, and is done then.
    HeldUntilDurable,
    /// A leader appends a membership when an entry of its own and the last membership are committed, and it shares a
    /// voter set with that one (law 12).
    MembershipByMembership,
    /// The membership in force changes only with the log.
    MembershipWithLog,
    // ---- of a step: promises ----
    /// A granted vote leaves when it is durable (law 8).
    GrantIsDurable,
    /// A real vote request leaves when the vote and the log it names are durable (law 3).
    RequestIsDurable,
    /// An acknowledgement claims what is in the log, durable, and under a durable vote (law 8).
    AcknowledgesDurable,
    /// Nobody else is voted for, or told that it would be, inside a live leader's lease, but at the leader's request
    /// (dissertation 4.2.3).
    NoVoteInsideLease,
    /// A vote, real or not, goes to a log that reaches as far as this node's own, and as far as it ever promised
    /// (dissertation 3.6.1).
    GrantsAWholeLog,
    /// A snapshot is installed under a vote that is durable.
    InstallsUnderItsVote,
    /// A leader that is heard of is not taken for dead because of a connection that was refused before (law 6).
    HeardEndsEvidence,
    /// A node campaigns if it votes in the last committed membership or a later one, and lost nothing.
    CampaignsAsVoter,
    /// A node campaigns above every term that it heard of, and above the vote that it started with (law 7).
    CampaignsAboveWhatItSaw,
    /// A node takes over when, and only when, the leader that it follows asks for that, in time and with its whole log
    /// (dissertation 3.10).
    TakesOverAsAsked,
    /// Who is asked to take over has the whole log.
    AsksWhoHasTheLog,
    /// A node begins to vote when it has nearly the whole log, unless a change was asked for without that.
    VotersAreCaughtUp,
    /// A pre-vote is won by those that can elect and commit (law 4).
    AsksACommitQuorum,
    /// A pre-vote request changes nothing (law 2).
    PreVoteChangesNothing,
    /// What an earlier leader or campaign is told or says changes nothing (laws 1, 2).
    StaleChangesNothing,
    /// A node that lost entries keeps its promised end until its log reaches it, or holds all that a leader had
    /// committed when it echoed this start.
    PromisedEndIsKept,
    /// A node leads after an elect quorum granted its real campaign.
    LeadsByQuorum,
    /// A leader commits an entry of its own that a commit quorum matched (dissertation 3.6.2).
    CommitsByQuorum,
    /// A read is served after a commit quorum followed this leader in a round that began after the read came.
    ReadAfterRound,
    /// A lease read is refused where there are no leases.
    LeaseReadsByLease,
    /// What a read can be told without a step is what the step tells it at once.
    AtOnceIsAsInAStep,
    /// What a leader says to a read is committed here if the log holds that very entry.
    CommitsWhatItHolds,
    /// What a leader confirmed is as old as the question.
    AgeFromTheQuestion,
    /// What could not be sent is not taken for sent.
    LostIsSentAgain,
    // ---- of a step: what is asked of the driver ----
    /// Entries are applied once, without a gap, up to the commit index.
    ApplyWithoutGap,
    /// What is sent is in the log, under this node's own vote, with no more than the commit index.
    SendsOwnLog,
    /// Only what a snapshot covers is purged.
    PurgeBehindSnapshot,
    /// A caller is answered once a step at most.
    OneReply,
    /// A caller that waited and does not any more was answered.
    NoCallerForgotten,
    /// After a failed write nothing happens any more.
    HaltedIsSilent,
    /// After a time-out nothing is due yet: who waits for the next one does not spin.
    TimeoutMovesDeadline,
}

impl Invariant {
    /// Its number, from 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// # Panics
    /// If it does not hold: that is a bug in the core, not in what a peer, a file or a user said.
    #[track_caller]
    pub(crate) fn check(self, holds: bool) {
        assert!(holds, "invariant {}, {}: {}", self.number(), self.name(), self.text());
    }
}
