//! What clients asked and what they were told, for the checkers.

use crate::digest::Digest;

/// A moment of the simulation, in nanoseconds since its beginning.
pub type Nanos = u64;

/// An object of the default state machine.
pub type Key = u32;

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number, from 0, in the order of invocation; its place in [`History::operations`].
    pub id: u64,
    /// The client. A client has one operation under way, or one batch of them.
    pub client: u32,
    /// The session, if it belongs to one.
    pub session: Option<u64>,
    /// The call by which it was asked for together with others, in the order of their ids; of a write.
    pub batch: Option<u64>,
    /// The node that was asked last.
    pub node: u64,
    /// Which of its processes that was: counts its starts.
    pub process: u64,
    /// When the client asked.
    pub invoked_at: Nanos,
    /// When it was told the outcome, or gave up.
    pub returned_at: Option<Nanos>,
    /// What it asked for.
    pub call: Call,
    /// What it was told.
    pub outcome: Outcome,
}

/// A clock of the simulation is too slow by 1 % at most: what lasts a second there lasts less than 1.011 s.
pub const MAX_DRIFT_PERMILLE: u64 = 11;

/// How fresh a read was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Linearizable.
    Linearizable,
    /// What was complete so long before it was asked, and all before that; never goes back, as [`Freshness::Stale`].
    MaxAge(Nanos),
    /// Whatever the node has applied: never linearizable, but never goes back on one node in one run of it.
    Stale,
}

impl Freshness {
    /// Whether such a read must see all that was complete when it was asked.
    pub fn is_linearizable(self) -> bool {
        match self {
            Freshness::Linearizable => true,
            Freshness::MaxAge(_) | Freshness::Stale => false,
        }
    }

    /// A read asked at `asked` must see all that was complete before this moment; `None`: it need see nothing. Clocks
    /// measure ages, and run too fast or slow by [`MAX_DRIFT_PERMILLE`] at most.
    pub fn sees_all_before(self, asked: Nanos) -> Option<Nanos> {
        match self {
            Freshness::Linearizable => Some(asked),
            Freshness::MaxAge(age) => {
                Some(asked.saturating_sub(age.saturating_mul(1000 + MAX_DRIFT_PERMILLE).div_ceil(1000)))
            }
            Freshness::Stale => None,
        }
    }
}

/// What a client asks for. Values are unique over a history, and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Append to a list.
    Append {
        /// The list.
        key: Key,
        /// What.
        value: u64,
    },
    /// Overwrite a register.
    Put {
        /// The register.
        key: Key,
        /// With what.
        value: u64,
    },
    /// Overwrite a register if it holds `expect`.
    CompareAndSwap {
        /// The register.
        key: Key,
        /// What it must hold; 0: nothing yet.
        expect: u64,
        /// With what.
        value: u64,
    },
    /// Look at a list.
    ReadList {
        /// The list.
        key: Key,
        /// How fresh.
        freshness: Freshness,
    },
    /// Look at a register.
    ReadRegister {
        /// The register.
        key: Key,
        /// How fresh.
        freshness: Freshness,
    },
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet, or that nobody knows: a write may take effect at any time after the invocation, or never.
    Unknown,
    /// It certainly took no effect and never will.
    NotApplied,
    /// Appended; the list is now this long.
    Appended {
        /// Its length, this value included.
        length: u64,
    },
    /// Overwritten.
    Put {
        /// What was there; 0: nothing.
        previous: u64,
    },
    /// Compared.
    Swapped {
        /// Whether the register held what was expected, and was overwritten.
        swapped: bool,
        /// What was there before.
        previous: u64,
    },
    /// A list.
    List(ListView),
    /// A register; 0: nothing.
    Register {
        /// What it holds.
        value: u64,
    },
}

/// What a read of a list sees: enough to know its whole content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct ListView {
    /// How many values.
    pub length: u64,
    /// The last value; 0: none.
    pub last: u64,
    /// See [`ListView::append`].
    pub digest: u64,
}

impl ListView {
    /// The list with a value appended.
    #[must_use]
    pub fn append(self, value: u64) -> Self {
        let mixed = (self.digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { length: self.length + 1, last: value, digest: mixed ^ (mixed >> 29) }
    }
}

impl Call {
    /// The object it is about. Operations of different keys are independent.
    pub fn key(&self) -> Key {
        match self {
            Call::Append { key, .. }
            | Call::Put { key, .. }
            | Call::CompareAndSwap { key, .. }
            | Call::ReadList { key, .. }
            | Call::ReadRegister { key, .. } => *key,
        }
    }

    /// How fresh a read was asked to be; a write is [`Freshness::Linearizable`].
    pub fn freshness(&self) -> Freshness {
        match self {
            Call::ReadList { freshness, .. } | Call::ReadRegister { freshness, .. } => *freshness,
            Call::Append { .. } | Call::Put { .. } | Call::CompareAndSwap { .. } => Freshness::Linearizable,
        }
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        matches!(self, Call::Append { .. } | Call::Put { .. } | Call::CompareAndSwap { .. })
    }
}

/// Everything clients asked in a run, and what they were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order of invocation, which is that of their ids. Ids are missing where operations were left out of the run.
    pub operations: Vec<Operation>,
}

impl History {
    /// Where the operation of this id is.
    pub fn place_of(&self, id: u64) -> Option<usize> {
        self.operations.binary_search_by_key(&id, |operation| operation.id).ok()
    }

    /// A hash of who was asked, and what was told when.
    pub(crate) fn hash(&self) -> u128 {
        let mut digest = Digest::default();
        for operation in &self.operations {
            let Operation { id, client, session, batch, node, process, invoked_at, .. } = operation;
            let Operation { returned_at, call: _, outcome, .. } = operation;
            let (session, batch) = (session.unwrap_or(0), batch.unwrap_or(0));
            for word in [*id, u64::from(*client), session, batch, *node, *process, *invoked_at] {
                digest.word(word);
            }
            digest.word(returned_at.map_or(0, |at| at + 1));
            digest.bytes(format!("{outcome:?}").as_bytes());
        }
        digest.value()
    }
}
