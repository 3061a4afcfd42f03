//! Judges a history: nothing acknowledged is lost, nothing is applied twice, no read is stale, and revisions keep
//! the order of real time.
//!
//! The store tells where each operation stands in its own total order: a write has a revision, a read the revision
//! that the store had. So the check is not a search. It takes the store by its word, and finds the contradiction if
//! the word was false:
//!
//! 1. One value, one revision; one revision, one value. (Applied twice, or two stores.)
//! 2. A read at revision R shows the last known write with a revision of at most R, exactly. (Lost write.)
//! 3. What returned before another was invoked has the lesser revision. (Stale read, reordered write.)
//! 4. A key's version counts its writes, its create revision never changes, as nothing is deleted.
//! 5. A refused write is never seen; a swap's predecessor is the one it named.
//!
//! A write of unknown outcome that was never seen may have been applied or not; once it is seen it must obey all of
//! the above, except that nobody waited for it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::history::{Call, Key, Operation, Outcome, Revision, Seen, Value};

/// A contradiction. Operations are named by their place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// One value at two revisions.
    AppliedTwice {
        /// The write.
        operation: usize,
        /// Where it was first known to be.
        first: Revision,
        /// Where else it was.
        second: Revision,
    },
    /// Two writes at one revision.
    SharedRevision {
        /// One write.
        first: usize,
        /// The other.
        second: usize,
        /// The revision of both.
        revision: Revision,
    },
    /// A read that must show a write does not.
    LostWrite {
        /// The write.
        operation: usize,
        /// The read.
        read: usize,
    },
    /// A read shows a value of the key that nobody wrote, or shows it at a revision after its own.
    NeverWritten {
        /// The read.
        read: usize,
        /// What it shows.
        seen: Seen,
    },
    /// A read at an older revision than what had returned before it began.
    StaleRead {
        /// The read.
        read: usize,
        /// What had returned before.
        earlier: usize,
    },
    /// A write at a revision that is not above what had returned before it began.
    Reordered {
        /// The write.
        operation: usize,
        /// What had returned before.
        earlier: usize,
    },
    /// A refused write was seen.
    RefusedButApplied {
        /// The write.
        operation: usize,
        /// Who saw it.
        read: usize,
    },
    /// More writes, or fewer, than the key's version counts.
    WrongVersion {
        /// The read.
        read: usize,
        /// The version it shows.
        version: i64,
        /// The least it can be.
        least: i64,
        /// The most it can be.
        most: i64,
    },
    /// The create revision of a key that was never deleted changed.
    Recreated {
        /// The read.
        read: usize,
        /// What it shows.
        create_revision: Revision,
        /// What it showed before.
        before: Revision,
    },
    /// A swap was done over another revision than the one it named.
    WrongSwap {
        /// The swap.
        operation: usize,
        /// What it named.
        named: Revision,
        /// What was there.
        found: Revision,
    },
}

/// What a history without a contradiction holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged writes.
    pub written: usize,
    /// Reads, failed swaps among them.
    pub read: usize,
    /// Refused operations.
    pub refused: usize,
    /// Operations of unknown outcome.
    pub unknown: usize,
    /// Of those, writes that were seen later.
    pub unknown_but_applied: usize,
    /// Acknowledged writes of which no later read says anything. Nothing is proved about these.
    pub unaudited: usize,
}

/// Checks a history.
///
/// # Errors
/// Every contradiction found, the order without meaning.
pub fn check(history: &[Operation]) -> Result<Summary, Vec<Violation>> {
    let mut checker = Checker { history, violations: Vec::new() };
    let writes = checker.collect_writes();
    let known = checker.place_writes(&writes);
    let chains = checker.chain_by_key(&known);
    checker.check_reads(&chains);
    checker.check_versions(&writes, &known, &chains);
    checker.check_swaps(&known, &chains);
    checker.check_real_time(&known);
    if checker.violations.is_empty() { Ok(summary(history, &known)) } else { Err(checker.violations) }
}

/// Writes by their value: the place in the history.
type Writes = HashMap<Value, usize>;
/// Writes that are known to have happened: place in the history to revision.
type Known = BTreeMap<usize, Revision>;
/// The known writes of each key, by revision.
type Chains = HashMap<Key, Vec<(Revision, usize)>>;

struct Checker<'a> {
    history: &'a [Operation],
    violations: Vec<Violation>,
}

impl Checker<'_> {
    fn collect_writes(&self) -> Writes {
        let mut writes = Writes::new();
        for (place, operation) in self.history.iter().enumerate() {
            if let Some(value) = operation.call.value() {
                let other = writes.insert(value, place);
                assert!(other.is_none(), "every write of a history has its own value, {value} is used twice");
            }
        }
        writes
    }

    /// Rule 1: where each write is, by its acknowledgement and by everyone who saw it.
    fn place_writes(&mut self, writes: &Writes) -> Known {
        let mut known = Known::new();
        let mut by_revision: HashMap<Revision, usize> = HashMap::new();
        for (place, operation) in self.history.iter().enumerate() {
            let (write, revision) = match operation.outcome {
                Outcome::Written(revision) => (place, revision),
                Outcome::Read(at, Some(seen)) => match self.writer_of(writes, place, at, seen) {
                    Some(write) => (write, seen.mod_revision),
                    None => continue,
                },
                Outcome::Read(_, None) | Outcome::Refused | Outcome::Unknown => continue,
            };
            let first = *known.entry(write).or_insert(revision);
            if first != revision {
                self.violations.push(Violation::AppliedTwice { operation: write, first, second: revision });
            }
            let other = *by_revision.entry(revision).or_insert(write);
            if other != write {
                self.violations.push(Violation::SharedRevision { first: other, second: write, revision });
            }
        }
        known
    }

    /// The write that a read shows, if it can have been.
    fn writer_of(&mut self, writes: &Writes, read: usize, at: Revision, seen: Seen) -> Option<usize> {
        let key = self.history[read].call.key();
        let write = writes.get(&seen.value).copied().filter(|write| self.history[*write].call.key() == key);
        let Some(write) = write.filter(|_| seen.mod_revision <= at) else {
            self.violations.push(Violation::NeverWritten { read, seen });
            return None;
        };
        match self.history[write].outcome {
            Outcome::Written(_) | Outcome::Unknown => Some(write),
            // A swap that did not write is refused as well.
            Outcome::Refused | Outcome::Read(..) => {
                self.violations.push(Violation::RefusedButApplied { operation: write, read });
                None
            }
        }
    }

    fn chain_by_key(&self, known: &Known) -> Chains {
        let mut chains = Chains::new();
        for (&write, &revision) in known {
            chains.entry(self.history[write].call.key()).or_default().push((revision, write));
        }
        chains.values_mut().for_each(|chain| chain.sort_unstable());
        chains
    }

    /// Rule 2.
    fn check_reads(&mut self, chains: &Chains) {
        for (place, operation) in self.history.iter().enumerate() {
            let Outcome::Read(at, seen) = operation.outcome else { continue };
            let Some(&(revision, write)) = last_at(chains, operation.call.key(), at) else { continue };
            // What the read shows is itself in the chain, so a difference means that it shows something older.
            if seen.is_none_or(|seen| seen.mod_revision < revision) {
                self.violations.push(Violation::LostWrite { operation: write, read: place });
            }
        }
    }

    /// Rule 4.
    fn check_versions(&mut self, writes: &Writes, known: &Known, chains: &Chains) {
        let mut unseen: HashMap<Key, i64> = HashMap::new();
        for &write in writes.values() {
            if self.history[write].outcome == Outcome::Unknown && !known.contains_key(&write) {
                *unseen.entry(self.history[write].call.key()).or_default() += 1;
            }
        }
        let mut created: HashMap<Key, Revision> = HashMap::new();
        for (place, operation) in self.history.iter().enumerate() {
            let Outcome::Read(_, Some(seen)) = operation.outcome else { continue };
            let key = operation.call.key();
            let chain = chains.get(&key).map_or(&[][..], Vec::as_slice);
            let least = chain.partition_point(|(revision, _)| *revision <= seen.mod_revision) as i64;
            let most = least + unseen.get(&key).copied().unwrap_or(0);
            if !(least..=most).contains(&seen.version) {
                self.violations.push(Violation::WrongVersion { read: place, version: seen.version, least, most });
            }
            let before = *created.entry(key).or_insert(seen.create_revision);
            if before != seen.create_revision {
                let create_revision = seen.create_revision;
                self.violations.push(Violation::Recreated { read: place, create_revision, before });
            }
        }
    }

    /// Rule 5: the write before a swap is the one that the swap named, if all writes of the key are known.
    fn check_swaps(&mut self, known: &Known, chains: &Chains) {
        for (&write, &revision) in known {
            let Call::Swap(key, named, _) = self.history[write].call else { continue };
            let found = last_at(chains, key, revision - 1).map_or(0, |(revision, _)| *revision);
            // Found before named: the write that it named is one that nobody else saw.
            if found > named {
                self.violations.push(Violation::WrongSwap { operation: write, named, found });
            }
        }
    }

    /// Rule 3: one sweep over the beginnings, with the greatest revision among what has returned by then.
    fn check_real_time(&mut self, known: &Known) {
        let position = |place: usize| match self.history[place].outcome {
            Outcome::Written(revision) | Outcome::Read(revision, _) => Some(revision),
            Outcome::Unknown => known.get(&place).copied(),
            Outcome::Refused => None,
        };
        let mut by_begin: Vec<usize> = (0..self.history.len()).filter(|place| position(*place).is_some()).collect();
        let has_answer = |place: &usize| self.history[*place].outcome != Outcome::Unknown;
        let mut by_end: Vec<usize> = by_begin.iter().copied().filter(has_answer).collect();
        by_begin.sort_unstable_by_key(|place| self.history[*place].invoked);
        by_end.sort_unstable_by_key(|place| self.history[*place].returned);

        let mut found = Vec::new();
        let mut ended = by_end.into_iter().peekable();
        let mut floor: Option<(Revision, usize)> = None;
        for place in by_begin {
            while let Some(end) = ended.next_if(|end| self.history[*end].returned < self.history[place].invoked) {
                floor = floor.max(position(end).map(|revision| (revision, end)));
            }
            let (Some((floor, earlier)), Some(revision)) = (floor, position(place)) else { continue };
            match self.history[place].outcome {
                Outcome::Read(..) if revision < floor => found.push(Violation::StaleRead { read: place, earlier }),
                Outcome::Written(_) | Outcome::Unknown if revision <= floor => {
                    found.push(Violation::Reordered { operation: place, earlier });
                }
                _ => {}
            }
        }
        self.violations.append(&mut found);
    }
}

/// The last known write of a key with a revision of at most `at`.
fn last_at(chains: &Chains, key: Key, at: Revision) -> Option<&(Revision, usize)> {
    let chain = chains.get(&key)?;
    chain[..chain.partition_point(|(revision, _)| *revision <= at)].last()
}

fn summary(history: &[Operation], known: &Known) -> Summary {
    let mut summary = Summary::default();
    // The greatest revision at which each key was read.
    let mut read_at: HashMap<Key, Revision> = HashMap::new();
    for operation in history {
        match operation.outcome {
            Outcome::Written(_) => summary.written += 1,
            Outcome::Refused => summary.refused += 1,
            Outcome::Unknown => summary.unknown += 1,
            Outcome::Read(at, _) => {
                summary.read += 1;
                let latest = read_at.entry(operation.call.key()).or_default();
                *latest = at.max(*latest);
            }
        }
    }
    for (&place, revision) in known {
        let operation = &history[place];
        if operation.outcome == Outcome::Unknown {
            summary.unknown_but_applied += 1;
        } else if read_at.get(&operation.call.key()).is_none_or(|at| at < revision) {
            summary.unaudited += 1;
        }
    }
    summary
}

/// The violations with the operations they name, the first few of each kind.
pub fn describe(history: &[Operation], violations: &[Violation]) -> String {
    const SHOWN: usize = 2;
    let mut text = format!("{} violations", violations.len());
    let mut kinds: HashMap<std::mem::Discriminant<Violation>, usize> = HashMap::new();
    for violation in violations {
        let kind = kinds.entry(std::mem::discriminant(violation)).or_default();
        *kind += 1;
        if *kind > SHOWN {
            continue;
        }
        text.push_str(&format!("\n  {violation}"));
        for place in violation.operations() {
            text.push_str(&format!("\n    #{place} {}", history[place]));
        }
    }
    text
}

impl Violation {
    fn operations(&self) -> Vec<usize> {
        match *self {
            Self::AppliedTwice { operation, .. } | Self::WrongSwap { operation, .. } => vec![operation],
            Self::SharedRevision { first, second, .. } => vec![first, second],
            Self::LostWrite { operation, read } | Self::RefusedButApplied { operation, read } => vec![operation, read],
            Self::NeverWritten { read, .. } | Self::WrongVersion { read, .. } | Self::Recreated { read, .. } => {
                vec![read]
            }
            Self::StaleRead { read, earlier } => vec![earlier, read],
            Self::Reordered { operation, earlier } => vec![earlier, operation],
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppliedTwice { first, second, .. } => {
                write!(f, "applied twice: one value at revision {first} and at {second}")
            }
            Self::SharedRevision { revision, .. } => write!(f, "two writes at revision {revision}"),
            Self::LostWrite { .. } => f.write_str("lost write: a read at a later revision does not show it"),
            Self::NeverWritten { seen, .. } => write!(f, "never written: a read shows {seen:?}"),
            Self::StaleRead { .. } => {
                f.write_str("stale read: it is at an older revision than what had returned before")
            }
            Self::Reordered { .. } => {
                f.write_str("reordered write: its revision is not above what had returned before")
            }
            Self::RefusedButApplied { .. } => f.write_str("a refused write was seen"),
            Self::WrongVersion { version, least, most, .. } => {
                write!(f, "version {version} of a key that was written {least} to {most} times")
            }
            Self::Recreated { create_revision, before, .. } => {
                write!(f, "create revision {create_revision}, it was {before}, and nothing was deleted")
            }
            Self::WrongSwap { named, found, .. } => {
                write!(f, "a swap that named revision {named} was done over revision {found}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
