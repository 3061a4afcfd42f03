//! The kinds of faults, and how often each happened. `docs/faults.md` has a table of what each does.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $what:literal])+ $fault:ident = $name:literal,)+) => {
        /// A kind of fault. `docs/faults.md` says what each does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[doc = $what])+ $fault,)+
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &[Fault] = &[$(Fault::$fault,)+];

            /// Its name, as printed.
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$fault => $name,)+
                }
            }
        }
    };
}

faults! {
    /// A message is lost.
    Drop = "drop",
    /// A message arrives twice.
    Duplicate = "dup",
    /// A message overtakes another.
    Reorder = "reorder",
    /// A message takes many times as long.
    Delay = "delay",
    /// A link delivers nothing for a while, then everything.
    Clog = "clog",
    /// Two sides cannot reach each other.
    SymmetricPartition = "partition",
    /// One direction of some links is cut.
    AsymmetricPartition = "one-way",
    /// Two sides are joined by one node only.
    BridgePartition = "bridge",
    /// Every node reaches its neighbours in a row only.
    ChainPartition = "chain",
    /// Messages are kept and delivered much later, again.
    HoldAndReplay = "replay",
    /// A message arrives damaged.
    CorruptFrame = "corrupt-frame",
    /// A process is killed.
    Kill = "kill",
    /// A process is stopped and started at once, with other tunables.
    Restart = "restart",
    /// A process stands still.
    Pause = "pause",
    /// A node loses its disk.
    Wipe = "wipe",
    /// An older copy of a node's disk is put back.
    OldDisk = "old-disk",
    /// A node begins to speak as a later version might, with optional fields that its peers do not know, or ends it.
    MixedVersions = "mixed-versions",
    /// A power cut loses what was not synced.
    LostUnsynced = "lost-unsynced",
    /// A power cut leaves a half-written sector.
    TornSector = "torn-sector",
    /// A power cut leaves a file longer than its content.
    ZeroTail = "zero-tail",
    /// A bit on disk changes.
    BitFlip = "bit-flip",
    /// A write goes to the wrong place.
    MisdirectedWrite = "misdirected",
    /// A write is acknowledged and not made.
    LostWrite = "lost-write",
    /// A read fails.
    ReadError = "eio-read",
    /// A write fails.
    WriteError = "eio-write",
    /// A sync fails.
    SyncError = "eio-sync",
    /// The disk is full for a while.
    DiskFull = "enospc",
    /// The disk is slow for a while.
    SlowDisk = "slow-disk",
    /// Writes are reported durable in another order.
    OutOfOrderCompletion = "out-of-order",
    /// Wall clocks differ.
    ClockSkew = "skew",
    /// Clocks run at different speeds.
    ClockDrift = "drift",
    /// A wall clock jumps.
    ClockJump = "jump",
    /// A state machine is slow for a while.
    SlowApply = "slow-apply",
    /// A state machine panics.
    MachinePanic = "machine-panic",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// How often this kind happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    pub(crate) fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Faults of all kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Faults of all kinds together, without clocks that are off from the beginning to the end.
    pub fn happened(&self) -> u64 {
        self.total() - self.of(Fault::ClockSkew) - self.of(Fault::ClockDrift)
    }
}

/// Which kinds of faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSet(u64);

impl FaultSet {
    /// No faults.
    pub const NONE: FaultSet = FaultSet(0);
    /// Every kind.
    pub const ALL: FaultSet = FaultSet((1 << Fault::ALL.len()) - 1);

    /// Whether this kind is in the set.
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }

    /// With this kind.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u64)
    }

    /// Without this kind.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u64))
    }
}

impl FromIterator<Fault> for FaultSet {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        faults.into_iter().fold(FaultSet::NONE, FaultSet::with)
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Fault::ALL.iter().filter(|fault| self.has(**fault)).map(|fault| fault.name()).collect();
        f.write_str(&names.join(","))
    }
}
