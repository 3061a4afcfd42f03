//! Planted bugs ("mutants"): each is one line in the code, `if bug(Bug::GrantBeforePersist)`, and proves that a script, a
//! test or the simulator would notice if somebody made that mistake.
//!
//! Without the feature `mutants` the question is a constant `false` and costs nothing. Nothing but
//! `cargo xtask mutants` enables the feature.

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident,)+) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// Every bug that can be planted.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)+];

            /// Its name, as on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => stringify!($bug),)+
                }
            }

            /// What it does wrong.
            pub fn what(self) -> &'static str {
                match self {
                    $(Bug::$bug => concat!($($what,)+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    /// A snapshot whose bytes are damaged counts, with an empty state for what could not be read.
    DamagedSnapshotIsEmptyState,
    /// A snapshot is sent to a peer as it lies on disk, damaged or not.
    SendsUnverifiedSnapshot,
    /// A damaged snapshot is not built again.
    DamagedSnapshotStays,
    /// A log that no snapshot leads up to is given up without a note of how far it reached.
    DiskGivesUpWithoutPromise,
    /// A node that lost acknowledged entries to damage campaigns.
    CampaignsWithLostEntries,
    /// A node that lost acknowledged entries to damage votes as if it had never acknowledged them.
    ForgetsPromisedEnd,
    /// A node that lost entries takes any message of its leader for proof that the leader heard of it.
    HealsWithoutAnEcho,
    /// It takes what it said after an earlier start for what it said after this one.
    AnyStartIsEchoed,
    /// The promise of a node that lost entries never ends under the leader that it has.
    PromiseNeverSettles,
    /// It ends its promise before its log holds what the leader had committed.
    HealsBeforeItCaughtUp,
    /// It ends its promise though its log holds nothing of that leader's own.
    HealsOnEarlierLeadersEntries,
    /// The promise of a node that lost entries ends in its memory only.
    PromiseEndsInMemoryOnly,
    /// A leader that hears of lost entries goes on counting what was acknowledged before.
    KeepsCountingWhatWasLost,
    /// Vote requests leave before the candidate's own vote is durable.
    RequestBeforePersist,
    /// A second candidate of a term is granted a vote, in standard mode.
    TwoVotesATerm,
    /// A log is as up to date as another if it is as long.
    IgnoresLastTerm,
    /// A grant of an earlier campaign counts.
    CountsOldGrants,
    /// A pre-vote request is granted like a real one: the vote changes.
    PreVoteChangesVote,
    /// A pre-vote is granted though the leader was just heard of.
    PreVoteIgnoresLeader,
    /// A vote is granted though the leader was just heard of.
    NoRefusalInsideLease,
    /// A lease is kept against the very node it was promised to.
    LeaseBindsItsLeader,
    /// A pre-vote needs an elect quorum only.
    PreVoteWithoutCommitQuorum,
    /// A time-out starts a real campaign without asking first how it would end.
    PreVoteSkipped,
    /// A pre-vote that is granted restarts the timer of the voter.
    PreVoteResetsTimer,
    /// A campaign that is refused for a greater vote does not learn it.
    RefusalTeachesNothing,
    /// A node that refuses a shorter log stays below the term of its candidate.
    RefusedLogTeachesNothing,
    /// A voter that is asked again for the vote that it gave refuses it.
    RepeatedRequestRefused,
    /// A node campaigns as soon as it starts.
    CampaignsAtStart,
    /// A node without a membership campaigns.
    BlankNodeCampaigns,
    /// A vote request is answered that asks for another node than its sender.
    VoteRequestForAnother,
    /// A node campaigns in the last term, which nobody can follow.
    CampaignsInTheLastTerm,
    /// A shorter election timeout holds when the timer is set the next time.
    ShorterTimeoutHoldsLater,
    /// A node that restarts takes all of its log for committed.
    RestartCommitsItsLog,
    /// A campaign after a restart shares the term of the vote on disk.
    RestartSharesTheTerm,
    /// A leader that no quorum acknowledges leads on.
    NoCheckQuorum,
    /// A leader that is refused with a greater vote leads on.
    NoStepDown,
    /// An append of an earlier leader is accepted.
    StaleLeaderAccepted,
    /// Replicas of an earlier leader's entry are counted (figure 3.7).
    CommitsOlderTerm,
    /// A follower commits what the leader has, not what it knows to be the same.
    CommitsWhatIsNotMatched,
    /// The commit index follows the last message.
    CommitGoesBack,
    /// A leader counts entries that are not on its own disk.
    LeaderCountsBeforeFlush,
    /// What is committed is applied before it is durable here.
    AppliesBeforeDurable,
    /// Entries after `prev` are replaced also when they are the same.
    TruncatesOnAnyAppend,
    /// Entries that conflict with the leader's stay.
    NoTruncateOnConflict,
    /// An append without entries is accepted whatever comes before it.
    EmptyPrevMatches,
    /// Replies to an earlier leader id of this node count.
    RepliesToAnOldVoteCount,
    /// An acknowledgement that arrives twice counts for two voters.
    AcknowledgementCountsTwice,
    /// An acknowledgement of a round that was not begun counts.
    RoundsToComeCount,
    /// Entries that are not acknowledged when a later answer comes are sent again.
    SlowIsTakenForLost,
    /// A leader sends heartbeats to a peer that it sends entries to.
    HeartbeatsThoughBusy,
    /// What is durable after the first answer is never acknowledged.
    NoSecondAnswer,
    /// An append with entries does not say what is committed.
    EntriesDoNotCommit,
    /// Of an append that the driver sent only in part, the rest is taken for sent.
    FrontTakenForTheWhole,
    /// An append to an index near the end of numbers is accepted.
    AnyIndexAccepted,
    /// Pauses towards a peer that does not answer do not grow.
    PausesDoNotGrow,
    /// Replies of an earlier stream count.
    OldStreamCounts,
    /// A grant leaves before the vote is durable.
    GrantBeforePersist,
    /// An acknowledgement claims entries that are not durable.
    AcknowledgeBeforePersist,
    /// The word of a blank disk counts for the voter whose disk was lost.
    CountsAnotherDisk,
    /// A voter whose log is lost goes on, whatever `on_lost_log` says.
    GoesOnWithoutItsLog,
    /// A forced membership is written under a term that was seen, perhaps as another leader's.
    RecoversUnderASeenTerm,
    /// A follower that denies what it acknowledged is counted all the same.
    CountsAnOlderCopy,
    /// A transfer that ended leaves its flag set: no proposal is taken any more, also under a later leader id.
    TransferFlagStays,
    /// Leadership is handed over to whoever is named, a learner or another disk.
    TransferToAnybody,
    /// A request to take over is dropped by a node whose disk is busy.
    TransferDroppedWhileFlushing,
    /// A node takes over when its disk is ready, however late that is.
    TakesOverTooLate,
    /// A node is asked to take over before its log is up to date.
    TransferToLaggard,
    /// A leader goes above the very vote that it asked its successor to make.
    RaiseAboveTransfer,
    /// A leader wakes to ask its target again, whether it can ask it then or not.
    TransferWakesInVain,
    /// A leader completes a joint change while it hands over, so that the target's log is stale.
    AppendDuringTransfer,
    /// In a joint membership only the new set must agree.
    NewSetAlone,
    /// In a joint membership only the old set must agree.
    OldSetAlone,
    /// A learner campaigns.
    LearnerCampaigns,
    /// A grant that arrives twice counts twice.
    GrantCountsTwice,
    /// A learner's grant counts towards an election.
    LearnerVotes,
    /// A learner's acknowledgement counts towards a commit.
    LearnerCommits,
    /// One voter, named twice by a rule, counts twice.
    VoterTwice,
    /// Quorum rules whose quorums do not meet are accepted.
    RulesNeedNotMeet,
    /// A membership change is appended while another one is not committed.
    ChangeDuringChange,
    /// A membership is in force when it is committed, not when it is appended.
    EffectiveOnCommit,
    /// A membership that was cut from the log stays in force.
    TruncatedMembershipStays,
    /// Cutting the log forgets the membership before the one that was cut.
    TruncationForgetsMembership,
    /// The uniform membership is appended before the joint one is committed.
    LeaveJointEarly,
    /// A new leader completes a joint change before an entry of its own is committed under the joint membership.
    CompleteBeforeOwnEntry,
    /// A leader goes on leading after its removal is committed.
    RemovedLeaderStays,
    /// What a caller relies on is not looked at before its change is made.
    PreconditionsIgnored,
    /// A learner becomes a voter however far it lags.
    PromoteWithoutCatchUp,
    /// A learner becomes a voter that lost entries and may refuse every log.
    PromotesWhoPromises,
    /// Two voter sets are taken for the same if they name the same nodes.
    SameIdsSameSet,
    /// A snapshot is written without the session table.
    SnapshotWithoutSessions,
    /// An entry that keeps a session alive makes its answers forgotten.
    AnswersForgottenAtKeepAlive,
    /// A command of an unknown session opens it again.
    ExpiredSessionReopened,
    /// Sessions expire by the clock of the node that applies.
    ExpiryByLocalClock,
    /// Answers in a snapshot are not taken over, so that a repeated command is applied again after a restart.
    DuplicateAppliedAfterRestart,
    /// A command below its session's low mark is applied.
    LowMarkIgnored,
    /// A node comes back with an applied index that is ahead of its state.
    AppliedBeforeItsData,
    /// Sessions that a node knew before stay when it installs a snapshot.
    RestoreMergesSessions,
    /// A snapshot is accepted whose membership is from after its end.
    SnapshotOfALaterMembership,
    /// A snapshot is accepted with another membership than the log holds under the same log id.
    SnapshotOfAnotherMembership,
    /// A snapshot is installed under a vote that is not durable.
    InstallBeforeTheVote,
    /// The log is purged when a snapshot is asked for, not when it is durable.
    PurgeBeforeSnapshotIsDurable,
    /// A snapshot that could not be built purges the log as if it had been.
    FailedBuildPurges,
    /// A snapshot is believed to hold everything that is committed, not what was applied to it.
    SnapshotNewerThanApplied,
    /// An install keeps what follows in the log though the log does not hold the snapshot's last entry.
    InstallKeepsConflictingTail,
    /// An install keeps the memberships of a log that it discards.
    InstallKeepsDiscardedMemberships,
    /// An install forgets the membership that the snapshot holds.
    SnapshotWithoutMembership,
    /// A leader purges what a live follower has not acknowledged.
    PurgeIgnoresLaggingFollower,
    /// A peer that installed its snapshot and needs another waits as if that one were lost.
    InstalledSnapshotIsWaitedFor,
    /// A transfer goes on with another snapshot than it began with.
    ResumedTransferMixesSnapshots,
    /// Lost entries are found by the retransmit time-out only.
    LossFoundByTimeOutOnly,
    /// A denial that was said before an acknowledgement, and came after it, marks a peer as an older copy.
    LateDenialRegresses,
    /// A node that restarts helps to depose a leader that it followed a moment ago.
    RestartForgetsTheLeader,
    /// A new leader serves reads before an entry of its own is committed.
    ReadBeforeOwnCommit,
    /// A read is served before a quorum answered its round.
    ReadBeforeRound,
    /// A read goes on waiting for a voter that has left since.
    ReadWaitsForWhoLeft,
    /// The leader's answer to a read commits what stands at its index here, whatever that is.
    ReadReplyCommitsAnotherEntry,
    /// The age of what a leader confirmed is counted from its answer, not from the question.
    MaxAgeFromTheAnswer,
    /// Time, and with it every lease, is taken from the wall clock.
    LeaseByWallClock,
    /// A lease read where leases are off is served in another way.
    LeaseReadFallsBack,
    /// A lease is promised however long it is.
    AnyLeaseIsPromised,
    /// A lease is counted from the moment the acknowledgement arrives.
    LeaseFromReceipt,
    /// A refused connection ends a promised lease.
    ConnectionEvidenceEndsPromise,
    /// A restarted node does not keep what it may have promised.
    PromiseForgottenOnRestart,
    /// A leader that asked a successor to campaign goes on serving lease reads.
    LeaseKeptAfterTransfer,
    /// A transfer asked for by an earlier leader overrides the lease of a later one.
    AnyTransferEndsPromise,
    /// All nodes draw the same election timeout, every time.
    SameTimeoutEverywhere,
    /// Of two candidates that split a vote neither leaves a gap for the other.
    SplitVoteIsSplitAgain,
    /// Of two candidates that split a vote the greater waits a whole timeout, like the voters.
    SplitVoteWaitsATimeout,
    /// A leader whose removal only it has in its log cannot be elected again to finish it.
    RemovedLeaderCannotFinish,
    /// A pre-vote that is refused for a greater vote does not learn it.
    PreVoteLearnsNothing,
    /// A pre-vote that is refused for a greater vote is asked again after a whole timeout.
    PreVoteBehindWaits,
    /// A vote is not written at all.
    VoteNotWritten,
    /// A failed write is taken for one that is late.
    WriteErrorIgnored,
    /// A node that has just become a follower takes a proposal under its new leader's id.
    ProposesUnderTheNextLeader,
    /// A leader that is told of a conflict asks again at the same place.
    BackOffSkipsTheConflict,
    /// While a peer does not answer what it was sent, its leader commits nothing.
    OneHungPeerStopsTheLeader,
    /// A leader whose log is purged to its end has nothing to send to a peer that lacks it.
    NothingToSendBehindAPurgedLog,
    /// A read that is asked again is asked under the number that it had before.
    ReadNumberReused,
    /// An acknowledgement of the round before a read confirms it.
    ReadCountsAnEarlierRound,
    /// Entries that could not be read to be sent are taken for sent.
    ReadErrorIsEndOfLog,
    /// After entries could not be read, what their receiver acknowledged is forgotten.
    ReadErrorForgetsTheMatch,
    /// A snapshot that is due while another is built is forgotten.
    TriggerDuringABuildIsLost,
    /// A request to take over is obeyed whoever leads now.
    StaleTransferObeyed,
    /// A node takes over before it has the log that the leader asked for.
    TakesOverWithoutTheLog,
    /// A node takes over although another leader came while its disk was busy.
    TakesOverFromTheLastButOne,
    /// A quorum is sought among the first voters of the rule, not among those that reached the most.
    QuorumOfAnUnsortedPrefix,
    /// A clock that leapt is believed.
    ClockJumpIgnored,
    /// A refused connection counts for ever, also when the leader is heard again.
    EvidenceIsNotCancelled,
    /// An append is answered when its entries are durable, not at once.
    AnswerWaitsForTheDisk,
    /// Entries that do not follow on what their append names are decoded.
    GapAccepted,
    /// A write that is only for one leader id is proposed under another.
    WriteConditionIgnored,
    /// A forwarded write that arrives twice is proposed twice.
    ForwardedWriteTakenTwice,
    /// A write that is applied is not answered.
    AppliedIsNotAnswered,
    /// When a snapshot is installed, whoever waits for what it covers is told only up to the first who waits for more.
    CoveredWaiterBehindAnotherWaits,
    /// A transfer that ends is not answered.
    TransferEndsUnanswered,
    /// A write that completes before an earlier one is never reported.
    EarlyCompletionIsDropped,
    /// A write that completes before an earlier one is reported as if the earlier one were durable.
    EarlyCompletionCoversEarlier,
    /// An older completion of a write, which arrives after a newer one, is believed.
    OlderCompletionWins,
    /// Writes of the log are acknowledged before they are synced.
    DiskAcknowledgesBeforeSync,
    /// A sync of the log that failed is taken for one that was made.
    DiskIgnoresSyncError,
    /// The checksum of a frame's body is not looked at: a torn batch is taken for a whole one.
    DiskAcceptsTornTail,
    /// Damage in front of what was durable is cut off like a torn tail.
    DiskCutsAtDamage,
    /// A vote is written to one of its copies.
    DiskVotesInOneCopy,
    /// A copy of a vote is taken for one of the slot that it stands in, though it was written for another.
    DiskVoteSlotAnywhere,
    /// A mark says that a batch is durable while the batch is being synced.
    DiskMarksBeforeData,
    /// A read that fails is taken for the end of the log.
    DiskReadErrorEndsLog,
    /// A read that finds damage does not write down what was durable.
    DiskNoteIsEmpty,
    /// Mending forgets what was promised beyond the damage.
    DiskForgetsPromisedEnd,
    /// A segment is freed while a group still needs it.
    DiskFreesTooEarly,
    /// A segment's name is not made durable.
    DiskSegmentNameUnsynced,
    /// A snapshot gets its name before its content is durable.
    DiskSnapshotUnsynced,
    /// An older copy of a disk is told by its count of starts alone.
    StartsAreOnlyCounted,
    /// A disk does not keep the tokens of its earlier starts.
    StartTokensForgotten,
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn bug(_: Bug) -> bool {
    false
}

/// None, and: the environment was not asked yet.
#[cfg(feature = "mutants")]
const NONE: usize = usize::MAX;
#[cfg(feature = "mutants")]
const NOT_ASKED: usize = usize::MAX - 1;

#[cfg(feature = "mutants")]
static PLANTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(NOT_ASKED);

/// Whether this bug is planted: by [`plant`], or with `QUORATE_BUG=<name>`, to see that a test goes red.
#[cfg(feature = "mutants")]
pub fn bug(bug: Bug) -> bool {
    match PLANTED.load(std::sync::atomic::Ordering::Relaxed) {
        NOT_ASKED => of_environment() == Some(bug),
        planted => planted == bug as usize,
    }
}

#[cfg(feature = "mutants")]
#[cold]
fn of_environment() -> Option<Bug> {
    let name = std::env::var("QUORATE_BUG").ok();
    let found = name.as_ref().and_then(|name| Bug::ALL.iter().copied().find(|bug| bug.name() == name));
    assert!(name.is_none() || found.is_some(), "QUORATE_BUG: no such bug");
    plant(found);
    found
}

/// Plants a bug in this process, in place of the one before.
#[cfg(feature = "mutants")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(NONE, |bug| bug as usize), std::sync::atomic::Ordering::Relaxed);
}
