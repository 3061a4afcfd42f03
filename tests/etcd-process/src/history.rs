//! What the clients did and what they were told.

use std::fmt;

/// A key, printed as `k/0000000007`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Key {
    /// What every key starts with.
    pub const PREFIX: &'static str = "k/";

    /// Reads a key back from the store.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix(Self::PREFIX)?.parse().ok().map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:010}", Self::PREFIX, self.0)
    }
}

/// A value. Every write of a history has its own, so that a value names the call that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A revision of the store; the first write makes revision 2.
pub type Revision = i64;

/// Nanoseconds of one monotonic clock, the same for all clients.
pub type Stamp = u64;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Write a value.
    Put(Key, Value),
    /// Write a value if the key was last modified at this revision (0: if it does not exist), else read it.
    Swap(Key, Revision, Value),
    /// Read, linearizable.
    Get(Key),
}

impl Call {
    /// The key it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(key, _) | Self::Swap(key, _, _) | Self::Get(key) => *key,
        }
    }

    /// The value it would write.
    pub fn value(&self) -> Option<Value> {
        match self {
            Self::Put(_, value) | Self::Swap(_, _, value) => Some(*value),
            Self::Get(_) => None,
        }
    }
}

/// A key as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its value.
    pub value: Value,
    /// The revision of its last write.
    pub mod_revision: Revision,
    /// The revision of its first write.
    pub create_revision: Revision,
    /// The number of its writes.
    pub version: i64,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged at this revision.
    Written(Revision),
    /// Nothing was written; the store was at this revision and held this under the key.
    Read(Revision, Option<Seen>),
    /// Refused: certainly not written.
    Refused,
    /// An error or no answer: it may have been written, or may be later.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who called.
    pub client: u32,
    /// What it asked for.
    pub call: Call,
    /// When it began.
    pub invoked: Stamp,
    /// When its answer came.
    pub returned: Stamp,
    /// The answer.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |stamp: Stamp| stamp as f64 / 1e6;
        write!(
            f,
            "client {} {:?} -> {:?} [{:.3} ms .. {:.3} ms]",
            self.client,
            self.call,
            self.outcome,
            ms(self.invoked),
            ms(self.returned)
        )
    }
}
