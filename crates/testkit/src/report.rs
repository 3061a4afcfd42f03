//! What a conformance suite found: [`Report`].

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One list: [`Law::ALL`] cannot miss one.
macro_rules! laws {
    ($($(#[$about:meta])* $law:ident => $sentence:literal,)*) => {
        /// What an implementation owes the library. `Display` gives the sentence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Law {
            $($(#[$about])* $law,)*
        }

        impl Law {
            /// Every law that a suite may find broken.
            pub const ALL: &[Law] = &[$(Law::$law),*];

            fn sentence(self) -> &'static str {
                match self {
                    $(Law::$law => $sentence,)*
                }
            }
        }
    };
}

laws! {
    // Storage.
    /// A write completes exactly once, and without another call.
    CompletesOnce => "a write completes exactly once, and without another call",
    /// A read gives the front of its span: the entries that were written last, without a hole, at least one; or nothing,
    /// if the log does not hold the span.
    ReadsTheSpan => "a read gives the front of its span as it was written last, or nothing",
    /// Entries can be read as soon as `submit` returns.
    ReadableAtOnce => "entries can be read as soon as `submit` returns",
    /// The vote is the one that was written last, and an acknowledged one survives.
    VoteIsKept => "the vote is the one written last, and an acknowledged one survives",
    /// Acknowledged entries survive.
    EntriesAreKept => "acknowledged entries survive",
    /// What a truncation or a reset removed does not come back once that is acknowledged, nor comes what was never
    /// written.
    NothingComesBack => "what an acknowledged truncation or reset removed does not come back",
    /// The longest lease that may have been promised survives once it is acknowledged.
    LeaseIsKept => "the longest promised lease survives once it is acknowledged",
    /// The last purged log id is kept, leader id and all.
    BoundaryIsKept => "the last purged log id is kept, leader id and all",
    /// A purge forgets nothing after its log id.
    PurgeTakesNoMore => "a purge forgets nothing after its log id",
    /// Every entry that the recovered log names can be read.
    NoHoles => "every entry that the recovered log names can be read",
    /// The memberships in the log are recovered, all of them, in order.
    MembershipsAreFound => "the memberships in the log are recovered, all of them, in order",
    /// What is found after a crash is what some prefix of the writes made, in the order in which they were submitted.
    WritesInOrder => "a crash leaves what some prefix of the writes made",
    /// Groups do not touch each other.
    GroupsAreApart => "groups do not touch each other",
    /// What a crash left opens again.
    OpensAgain => "what a crash left opens again",
    /// After a failed write nothing that is submitted later is acknowledged.
    NothingAfterFailure => "after a failed write nothing submitted later is acknowledged",
    /// A disk that did not keep its word may cost data, but nothing is found that was never written.
    NothingInvented => "nothing is found that was never written, whatever the disk did",
    // Snapshot stores.
    /// A committed snapshot is the newest, and survives, whole.
    SnapshotIsKept => "a committed snapshot is the newest, and survives, whole",
    /// A snapshot that was not committed or adopted is not seen.
    SnapshotIsWhole => "a snapshot that was not committed or adopted is not seen",
    /// What one store sends another receives.
    SnapshotTravels => "what one store sends another receives",
    // State machines.
    /// The same commands in the same order give the same responses.
    SameResponses => "the same commands in the same order give the same responses",
    /// The same commands in the same order give the same state.
    SameState => "the same commands in the same order give the same state",
    /// How commands are cut into batches makes no difference.
    BatchesAreInvisible => "how commands are cut into batches makes no difference",
    /// A restored state is the state that the snapshot was taken of, and goes on like it.
    RestoreIsEqual => "a restored state is the one the snapshot was taken of, and goes on like it",
    /// A capture holds what was applied when it was taken, and nothing later.
    FreezeIsThen => "a capture holds what was applied when it was taken, and nothing later",
    /// A snapshot leaves the state as it was.
    SnapshotChangesNothing => "a snapshot leaves the state as it was",
    /// A part of a snapshot is refused.
    PartIsRefused => "a part of a snapshot is refused",
    /// A durable machine's state and its `last_applied` are of the same moment, always.
    AppliedWithData => "a durable machine's state and its `last_applied` are of the same moment",
    /// A durable machine goes on from what it kept as if it had never stopped.
    GoesOn => "a durable machine goes on from what it kept as if it had never stopped",
    /// A command or response is read back as what it was.
    PayloadsTravel => "a command or response is read back as what it was",
    // Networks.
    /// A message arrives as it was sent, from whom it was sent, however large.
    ArrivesWhole => "a message arrives as it was sent, from whom it was sent, however large",
    /// A message arrives at most once.
    ArrivesOnce => "a message arrives at most once",
    /// Messages with entries arrive in order, and nothing sent behind them overtakes them.
    LanesKeepOrder => "messages with entries arrive in order, and nothing sent behind overtakes them",
    /// A message with entries that was taken arrives, or `on_lost` tells that it may not.
    LossIsTold => "a message with entries that was taken arrives, or `on_lost` tells",
    /// What is sent again after a broken connection arrives.
    Reconnects => "what is sent again after a broken connection arrives",
    /// A message goes to the node that is there now, under the sender's own identity.
    ToWhomItConcerns => "a message goes to the node that is there now, under the sender's identity",
    /// A peer that takes nothing cannot make a sender hold more than a bounded number of bytes.
    BytesAreBounded => "a peer that takes nothing makes a sender refuse",
    /// A transfer of a snapshot ends exactly once, with what became of it.
    TransferEndsOnce => "a transfer of a snapshot ends exactly once, with what became of it",
    /// Damaged bytes are never delivered as a message.
    DamageIsDropped => "damaged bytes are never delivered as a message",
    // All.
    /// Nothing panics.
    NoPanic => "nothing panics",
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// A law that was broken, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was broken.
    pub law: Law,
    /// What the suite had just done.
    pub step: String,
    /// What the law asks for there.
    pub expected: String,
    /// What was there instead.
    pub found: String,
}

impl Failure {
    pub(crate) fn new(
        law: Law,
        step: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { law, step: step.into(), expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { law, step, expected, found } = self;
        write!(f, "broken: {law}\n    step: {step}\n    expected: {expected}\n    found: {found}")
    }
}

/// What became of a part of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed, with so many states or messages looked at.
    Passed(usize),
    /// It was not run: the reason, and what the suite needs for it.
    NotRun(&'static str),
    /// It found this.
    Failed(Failure),
}

/// What a part looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    /// States or messages.
    pub(crate) checks: usize,
    /// At how many places of a script something went wrong, of how many at which it could.
    pub(crate) places: Option<(usize, usize)>,
}

impl From<usize> for Looked {
    fn from(checks: usize) -> Self {
        Self { checks, places: None }
    }
}

/// What a suite found. `Display` lists the parts; for one that makes something go wrong at places of a script it says at
/// how many of how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    suite: &'static str,
    parts: Vec<(&'static str, Outcome)>,
    /// By part, [`Looked::places`].
    places: BTreeMap<&'static str, (usize, usize)>,
}

impl Report {
    pub(crate) fn new(suite: &'static str) -> Self {
        Self { suite, parts: Vec::new(), places: BTreeMap::new() }
    }

    /// Runs a part; a panic is a failure of it.
    pub(crate) fn part<R: Into<Looked>>(&mut self, name: &'static str, run: impl FnOnce() -> Result<R, Failure>) {
        let outcome = match catch_unwind(AssertUnwindSafe(|| run().map(Into::into))) {
            Ok(Ok(Looked { checks: 0, .. })) => {
                Outcome::NotRun("the implementation has nothing that this part looks at")
            }
            Ok(Ok(Looked { checks, places })) => {
                self.places.extend(places.map(|places| (name, places)));
                Outcome::Passed(checks)
            }
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
                Outcome::Failed(Failure::new(Law::NoPanic, name, "an answer, or an error", text))
            }
        };
        self.parts.push((name, outcome));
    }

    pub(crate) fn not_run(&mut self, name: &'static str, why: &'static str) {
        self.parts.push((name, Outcome::NotRun(why)));
    }

    /// The parts in the order in which they were run.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        self.parts.iter().map(|(name, outcome)| (*name, outcome))
    }

    /// What was broken, a part at most once.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.parts.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Passed(_) | Outcome::NotRun(_) => None,
        })
    }

    /// The parts that were not run.
    pub fn not_run_parts(&self) -> Vec<&'static str> {
        let not_run = self.parts.iter().filter(|(_, outcome)| matches!(outcome, Outcome::NotRun(_)));
        not_run.map(|(name, _)| *name).collect()
    }

    /// Whether nothing was broken. Parts that were not run prove nothing.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// For tests: gives the report back if it passed.
    ///
    /// # Panics
    /// With the report, if something was broken.
    pub fn assert_passed(self) -> Self {
        assert!(self.passed(), "{self}");
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conformance of a {}:", self.suite)?;
        for (name, outcome) in &self.parts {
            match outcome {
                Outcome::Passed(checks) => {
                    write!(f, "\n  {name}: passed, {checks} checks")?;
                    if let Some((tried, all)) = self.places.get(name) {
                        write!(f, ", at {tried} of {all} places")?;
                    }
                }
                Outcome::NotRun(why) => write!(f, "\n  {name}: not run: {why}")?,
                Outcome::Failed(failure) => write!(f, "\n  {name}: {failure}")?,
            }
        }
        Ok(())
    }
}
