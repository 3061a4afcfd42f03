//! Bugs that no seed may show, what random runs lack for each, and what shows it instead.
//!
//! A hunt plays the script of a bug that neither a seed nor a scenario showed, with the bug and without it. Tests and
//! crashes are commands of their own: `cargo xtask mutants --tests` and `--disk`, which fail if they do not show what is
//! theirs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use quorate_core::{Bug, plant};
use quorate_testkit::script::play;

/// No script takes so long: if one does, it never ends.
const LONGEST_SCRIPT: Duration = Duration::from_secs(30);

/// What shows a bug that random runs may miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A golden script, by its name below `testdata`.
    Script(&'static str),
    /// A test, by its file: `cargo xtask mutants --tests` runs it.
    Test(&'static str),
    /// Crashes and failing calls of the disk: `cargo xtask mutants --disk`.
    Crashes,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Script(name) => write!(f, "script {name}"),
            By::Test(file) => write!(f, "test {file}"),
            By::Crashes => f.write_str("crashes of the disk"),
        }
    }
}

/// What random runs lack, and the bugs that they may miss for it.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    /// In words.
    pub what: &'static str,
    /// Each with what shows it.
    pub bugs: &'static [(Bug, By)],
}

/// All of them. One bug has one place.
pub const LACKS: &[Lack] = &[
    Lack {
        what: "Nobody lies: every simulated node runs the same program, and nothing is sent that no correct peer sends.",
        bugs: &[
            (Bug::VoteRequestForAnother, By::Script("election/impossible-messages-are-ignored")),
            (Bug::CampaignsInTheLastTerm, By::Script("regression/nobody-campaigns-in-the-last-term")),
            (Bug::RoundsToComeCount, By::Script("replication/impossible-acknowledgements")),
            (Bug::AnyIndexAccepted, By::Script("regression/indexes-near-the-end-of-numbers")),
            (Bug::AnyLeaseIsPromised, By::Script("lease/longer-than-anyone-asks")),
            (Bug::SnapshotOfALaterMembership, By::Script("regression/snapshot-that-names-a-later-membership")),
            (Bug::SnapshotOfAnotherMembership, By::Script("regression/snapshot-with-another-membership")),
            (Bug::GapAccepted, By::Test("crates/quorate/tests/published.rs")),
        ],
    },
    Lack {
        what: "Messages and bytes are not counted: what is sent too often, or learned a message later, costs nothing that \
               is asked for.",
        bugs: &[
            (Bug::RefusalTeachesNothing, By::Script("election/refused-campaign-goes-above")),
            (Bug::RefusedLogTeachesNothing, By::Script("regression/better-candidate-catches-up-in-terms")),
            (Bug::PreVoteLearnsNothing, By::Script("election/pre-vote-learns-the-greater-vote")),
            (Bug::SlowIsTakenForLost, By::Script("replication/slow-disk-is-no-loss")),
            (Bug::HeartbeatsThoughBusy, By::Script("replication/busy-leader-needs-no-heartbeats")),
            (Bug::FrontTakenForTheWhole, By::Script("replication/front-of-a-span")),
            (Bug::PausesDoNotGrow, By::Script("replication/unreachable-peer-is-probed-less-and-less")),
            (Bug::PurgeIgnoresLaggingFollower, By::Script("snapshot/live-follower-keeps-its-entries")),
        ],
    },
    Lack {
        what: "Time is promised to nobody while faults go on: an election, an acknowledgement, a snapshot or a commit that \
               comes later, or a leader too many, is not told from one that a fault delays; and once everything healed, \
               there is patience for some timeouts.",
        bugs: &[
            (Bug::RepeatedRequestRefused, By::Script("regression/repeated-vote-request")),
            (Bug::ShorterTimeoutHoldsLater, By::Script("election/shorter-timeouts-hold-at-once")),
            (Bug::CampaignsAtStart, By::Script("restart/restarted-leader-may-campaign-at-once")),
            (Bug::LeaseBindsItsLeader, By::Script("election/lease-does-not-bind-its-own-leader")),
            (Bug::SameTimeoutEverywhere, By::Script("published/openraft-1959-not-all-at-once")),
            (Bug::SplitVoteIsSplitAgain, By::Script("election/split-vote-leaves-a-gap")),
            (Bug::SplitVoteWaitsATimeout, By::Script("election/split-vote-greatest-goes-first")),
            (Bug::EntriesDoNotCommit, By::Script("replication/commit-index-travels-with-appends")),
            (Bug::LossFoundByTimeOutOnly, By::Script("replication/loss-is-found-at-the-next-heartbeat")),
            (Bug::AnswerWaitsForTheDisk, By::Script("durability/slow-disks-do-not-end-a-leadership")),
            (Bug::NoSecondAnswer, By::Script("durability/late-disk-answers-twice")),
            (Bug::TriggerDuringABuildIsLost, By::Script("published/openraft-1829-snapshot-due-during-a-build")),
            (Bug::InstalledSnapshotIsWaitedFor, By::Script("snapshot/next-snapshot-follows-at-once")),
            (Bug::RaiseAboveTransfer, By::Script("transfer/patience-with-the-asked-for-vote-ends")),
        ],
    },
    Lack {
        what: "A node that is asked to take over has everything on its disk: a leader asks who has acknowledged everything, \
               so only a vote or a lease can still be on its way. A transfer may fail as well; what is not allowed needs \
               an election timeout, or another leader, before that write ends.",
        bugs: &[
            (Bug::TransferDroppedWhileFlushing, By::Script("transfer/waits-for-its-log-to-be-flushed")),
            (Bug::TakesOverTooLate, By::Script("transfer/flush-that-takes-too-long")),
            (Bug::TakesOverWithoutTheLog, By::Script("election/transfer-overrides-the-lease")),
            (Bug::TakesOverFromTheLastButOne, By::Script("published/openraft-1806-vote-changed-while-flushing")),
        ],
    },
    Lack {
        what: "A lease that is believed for too long does harm only if another leader's write falls into the part of a \
               timeout by which it is too long, and a lease read after it: three runs of ten have such reads. A clock that \
               leapt must do so in that part, too.",
        bugs: &[
            (Bug::LeaseFromReceipt, By::Script("lease/counts-from-send-time")),
            (Bug::PromiseForgottenOnRestart, By::Script("lease/forgotten-promise-would-serve-stale")),
            (Bug::LeaseKeptAfterTransfer, By::Script("lease/failed-transfer-leaves-no-lease")),
            (Bug::AnyTransferEndsPromise, By::Script("lease/transfer-of-an-earlier-leader")),
            (Bug::ClockJumpIgnored, By::Script("lease/clock-jump")),
        ],
    },
    Lack {
        what: "A snapshot seldom meets a log that conflicts with it: that needs a follower with a tail of an earlier leader, \
               or a membership in it, which is so far behind that it gets a snapshot.",
        bugs: &[
            (Bug::InstallKeepsConflictingTail, By::Script("published/hashicorp-697-snapshot-over-a-conflict")),
            (Bug::InstallKeepsDiscardedMemberships, By::Script("published/openraft-1808-phantom-membership")),
        ],
    },
    Lack {
        what: "A damaged snapshot is seldom read before the next one replaces it, and a node whose every snapshot is damaged \
               when it starts, with its log purged behind them, is rarer.",
        bugs: &[
            (Bug::DamagedSnapshotIsEmptyState, By::Test("crates/sim/tests/damage.rs")),
            (Bug::SendsUnverifiedSnapshot, By::Test("crates/sim/tests/damage.rs")),
            (Bug::DamagedSnapshotStays, By::Script("snapshot/damaged-snapshot-is-built-again")),
            (Bug::DiskGivesUpWithoutPromise, By::Crashes),
        ],
    },
    Lack {
        what: "An operator asks now and then for a rule that names a voter twice, or whose quorums do not meet; that the very \
               voters which are a quorum by mistake then decide against the others does not happen.",
        bugs: &[
            (Bug::VoterTwice, By::Script("quorum/one-voter-counts-once")),
            (Bug::RulesNeedNotMeet, By::Script("quorum/rules-that-do-not-meet")),
        ],
    },
    Lack {
        what: "A leader that dies when its removal is in its log alone, while none of the other voters can win without it, is \
               rare: leaders are struck and cut off in the middle of changes, of which few are removals of the leader.",
        bugs: &[(Bug::RemovedLeaderCannotFinish, By::Script("regression/removed-leader-finishes"))],
    },
    Lack {
        what: "An answer seldom meets the state that it must not be believed in: a denial that an acknowledgement overtakes, \
               which was said after it; a follower with a tail of an earlier leader that asks for a read before that tail is \
               cut; an answer to a read that was asked again, late enough to be of the first question, and wrong by then; a \
               voter on an older copy of its disk that speaks before the operator replaces it.",
        bugs: &[
            (Bug::LateDenialRegresses, By::Script("regression/late-conflict-of-a-later-round")),
            (Bug::ReadReplyCommitsAnotherEntry, By::Script("reads/answer-is-not-a-match")),
            (Bug::ReadNumberReused, By::Script("reads/read-number-is-never-reused")),
            (Bug::CountsAnOlderCopy, By::Script("membership/older-copy-of-a-disk")),
        ],
    },
    Lack {
        what: "Random runs found what this bug makes again, once in several thousand seeds: a node without pre-votes and with \
               a shorter log must campaign beside the one voter that can win, again and again, after everything healed.",
        bugs: &[(Bug::PreVoteBehindWaits, By::Script("election/pre-vote-behind-asks-again-soon"))],
    },
    Lack {
        what: "Random runs found what this bug makes again, twice in some sixty thousand seeds: of two voters one must be taken \
               out between the acknowledgement of that change and that of the round that a read waits for.",
        bugs: &[(Bug::ReadWaitsForWhoLeft, By::Script("reads/round-of-who-left"))],
    },
    Lack {
        what: "Random runs found what this bug makes again, twice in some twenty thousand seeds: a learner that lost entries \
               must become one of two voters, and be cut off from its leader before it knows what it had promised.",
        bugs: &[(Bug::PromotesWhoPromises, By::Script("recovery/who-promises-is-no-new-voter"))],
    },
    Lack {
        what: "It is not in the simulated world: the machine's own clock; snapshots that travel in pieces; an older copy of a \
               disk that goes on when it is told; two calls that wait at one node when a snapshot covers both; a voter \
               that goes on without its log does as one that is told to rejoin; a term that only those who are lost for good have seen.",
        bugs: &[
            (Bug::ExpiryByLocalClock, By::Test("crates/quorate/tests/sessions.rs")),
            (Bug::ResumedTransferMixesSnapshots, By::Test("crates/net/tests/snapshots.rs")),
            (Bug::StartsAreOnlyCounted, By::Test("crates/wal/src/identity.rs")),
            (Bug::CoveredWaiterBehindAnotherWaits, By::Test("crates/quorate/src/group/apply/tests.rs")),
            (Bug::GoesOnWithoutItsLog, By::Script("recovery/wiped-follower-halts")),
            (Bug::RecoversUnderASeenTerm, By::Script("recovery/recovery-happens-twice")),
        ],
    },
    Lack {
        what: "Checksums and the order of a disk's own writes leave little to chance: a frame must be torn though its lead is \
               whole, or a copy of a vote must lie in another one's place; a node that read damage must not be excused by a \
               disk that is full; and writes that were reported too early were made all the same.",
        bugs: &[
            (Bug::DiskAcceptsTornTail, By::Crashes),
            (Bug::DiskNoteIsEmpty, By::Crashes),
            (Bug::DiskVoteSlotAnywhere, By::Crashes),
            (Bug::EarlyCompletionCoversEarlier, By::Test("crates/quorate/src/driver/writes.rs")),
        ],
    },
];

/// What shows a bug, and what random runs lack for it.
pub fn shown_by(bug: Bug) -> Option<(By, &'static str)> {
    let all = LACKS.iter().flat_map(|lack| lack.bugs.iter().map(|(bug, by)| (*bug, *by, lack.what)));
    all.into_iter().find(|(known, ..)| *known == bug).map(|(_, by, what)| (by, what))
}

/// The groups for docs/mutants.md: what random runs lack, and each bug with its seeds of the last hunt and what shows it.
pub(super) fn page(seeds: impl Fn(Bug) -> Option<u64>) -> String {
    let mut text = String::new();
    for Lack { what, bugs } in LACKS {
        text += &format!("\n- {what}\n");
        for (bug, by) in *bugs {
            let tried = seeds(*bug).map_or_else(|| "found".to_owned(), |seeds| format!("not in {seeds} seeds"));
            text += &format!("  - `{}`, {tried}: {by}\n", bug.name());
        }
    }
    text
}

/// Whether this shows the bug now: scripts are played, what is a command of its own is taken at its word.
///
/// # Errors
/// If the script cannot be read, or fails without the bug.
pub fn shows(by: By, bug: Bug) -> Result<bool, String> {
    let By::Script(name) = by else { return Ok(true) };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("script {name}: {error}"))?;
    if is_red(name, text.clone()) {
        return Err(format!("script {name} fails without a planted bug"));
    }
    plant(Some(bug));
    let red = is_red(name, text);
    plant(None);
    Ok(red)
}

/// Whether a script fails, plays otherwise than it is recorded, or never ends.
fn is_red(name: &'static str, text: String) -> bool {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let played = catch_unwind(AssertUnwindSafe(|| play(name, &text)));
        let red = played.map_or(true, |report| !report.failures.is_empty() || !report.changes.is_empty());
        // Nobody listens any more to one that was given up.
        let _ = sender.send(red);
    });
    receiver.recv_timeout(LONGEST_SCRIPT).unwrap_or(true)
}
