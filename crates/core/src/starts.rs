//! The starts of a disk, by which an older copy of it is told from the disk itself (law 15).
//!
//! A count alone does not tell them apart: an older copy that is started again and again, as a service manager does
//! with what does not come up, counts on until it is ahead of what its peers saw. So each start draws a random token
//! too, and a disk keeps those of its newest starts. Whoever saw one of its starts hears a later one only if that one
//! knows the token of the start that was seen.

use std::fmt;

use crate::bug::{Bug, bug};

/// The newest starts of which a disk keeps the token.
pub const STARTS_KEPT: usize = 64;

/// One start of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Start {
    /// How often the disk was opened, this time included.
    pub boot: u64,
    /// Random, drawn at this start; 0: none is known.
    pub token: u64,
}

/// How often a disk was opened, and the tokens of its newest starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Starts {
    boot: u64,
    /// The newest first; 0: none is known.
    tokens: [u64; STARTS_KEPT],
}

/// How the starts of a disk stand to one that was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartOrder {
    /// It is the start that was seen.
    Same,
    /// It goes on from the start that was seen; or so many starts came between that nobody can tell.
    Later,
    /// It is an earlier start, or does not come after the one that was seen: an older copy of the disk was started.
    Forked,
}

impl Starts {
    /// So many starts, without tokens: of them an older copy is told by its lower count only.
    pub const fn counted(boot: u64) -> Self {
        Self { boot, tokens: [0; STARTS_KEPT] }
    }

    /// As they stand in a file or a handshake: the tokens of the newest starts, the newest first, 0 where none is known.
    pub const fn new(boot: u64, tokens: [u64; STARTS_KEPT]) -> Self {
        Self { boot, tokens }
    }

    /// With one start more. The token of the oldest one kept is forgotten.
    #[must_use]
    pub fn next(&self, token: u64) -> Self {
        let mut tokens = [token; STARTS_KEPT];
        tokens[1..].copy_from_slice(&self.tokens[..STARTS_KEPT - 1]);
        Self { boot: self.boot + 1, tokens }
    }

    /// How often the disk was opened.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The newest start.
    pub fn last(&self) -> Start {
        Start { boot: self.boot, token: self.tokens[0] }
    }

    /// The tokens of the newest starts, the newest first; 0: none is known.
    pub fn tokens(&self) -> &[u64; STARTS_KEPT] {
        &self.tokens
    }

    /// How these starts stand to one that was seen of the same disk.
    pub fn compare(&self, seen: Start) -> StartOrder {
        if self.last() == seen {
            return StartOrder::Same;
        }
        let Some(ago) = self.boot.checked_sub(seen.boot) else { return StartOrder::Forked };
        // Rule: what was seen must be among what came before. A greater count alone says nothing.
        let kept = usize::try_from(ago).ok().and_then(|ago| self.tokens.get(ago));
        match kept {
            Some(token) if *token != seen.token && seen.token != 0 && !bug(Bug::StartsAreOnlyCounted) => {
                StartOrder::Forked
            }
            _ => StartOrder::Later,
        }
    }
}

impl Default for Starts {
    fn default() -> Self {
        Self::counted(0)
    }
}

impl fmt::Debug for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Starts({}, {:016x})", self.boot, self.tokens[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(starts: Starts, tokens: impl IntoIterator<Item = u64>) -> Starts {
        tokens.into_iter().fold(starts, |starts, token| starts.next(token))
    }

    #[test]
    fn an_older_copy_is_told_however_often_it_is_started() {
        let copy = started(Starts::default(), [11, 12, 13]);
        let disk = started(copy, [14, 15]);
        assert_eq!(disk.last(), Start { boot: 5, token: 15 });
        for more in 1..STARTS_KEPT as u64 {
            let older = started(copy, (0..more).map(|start| 100 + start));
            assert_eq!(older.compare(disk.last()), StartOrder::Forked, "started {more} times");
        }
        assert_eq!(copy.compare(disk.last()), StartOrder::Forked, "an earlier start");
    }

    #[test]
    fn a_disk_goes_on_from_each_start_that_it_keeps() {
        let disk = started(Starts::default(), 1..=200);
        assert_eq!(disk.compare(disk.last()), StartOrder::Same);
        for boot in 1..200 {
            assert_eq!(disk.compare(Start { boot, token: boot }), StartOrder::Later, "start {boot}");
        }
        let oldest_kept = 200 - STARTS_KEPT as u64 + 1;
        assert_eq!(disk.compare(Start { boot: oldest_kept, token: 999 }), StartOrder::Forked);
        assert_eq!(disk.compare(Start { boot: oldest_kept - 1, token: 999 }), StartOrder::Later, "nobody can tell");
    }

    #[test]
    fn starts_without_tokens_are_counted() {
        let seen = Starts::counted(5).last();
        assert_eq!(Starts::counted(4).compare(seen), StartOrder::Forked);
        assert_eq!(Starts::counted(5).compare(seen), StartOrder::Same);
        assert_eq!(Starts::counted(6).compare(seen), StartOrder::Later);
        assert_eq!(started(Starts::default(), 1..=5).compare(seen), StartOrder::Later, "and its token is learnt");
        let with_token = Start { boot: 5, token: 7 };
        assert_eq!(Starts::counted(6).compare(with_token), StartOrder::Forked, "a disk does not forget tokens");
    }
}
