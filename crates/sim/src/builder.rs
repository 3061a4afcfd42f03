//! For users: [`Simulation`] runs a state machine of one's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use quorate::{Checkpoint, RaftStateMachine, ReadPolicy};
use quorate_wal::Disk;

use crate::disk::{MACHINE_DIRECTORY, SimDisk};
use crate::fault::{Fault, FaultSet};
use crate::history::Nanos;
use crate::options::Options;
use crate::rng::Rng;
use crate::run::{Report, run_at_most};
use crate::shrink::{Shrunk, shrink};
use crate::workload::{Asked, Invoked, LookAt, Op, Returned, Workload};
use crate::world::MOST_EVENTS;

/// After these a log may have less than was applied.
const LOSES_LOG: [Fault; 4] = [Fault::BitFlip, Fault::MisdirectedWrite, Fault::LostWrite, Fault::OldDisk];

/// What a client of a [`Simulation`] was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<R, T> {
    /// The operation's number, from 0, in the order in which they were begun.
    pub id: u64,
    /// When it was begun, in virtual nanoseconds.
    pub begun: Nanos,
    /// When it ended.
    pub ended: Nanos,
    /// How it ended.
    pub returned: Returned<R, T>,
}

/// All that clients were told, in the order in which they were told.
pub type AllTold<S, T> = Vec<Told<<S as RaftStateMachine>::Response, T>>;

type Next<S, T> = Box<dyn FnMut(u64, &mut Rng) -> Op<S, T>>;
type Check<S, T> = Box<dyn FnMut(&S, &AllTold<S, T>) -> Result<(), String>>;

/// Runs a state machine of one's own in a simulated cluster; `T` is what reads see.
///
/// The cluster must agree in every run: all nodes' [`snapshot`](RaftStateMachine::snapshot)s of one state are compared
/// byte by byte.
///
#[doc = "```"]
#[doc = include_str!("../examples/own_machine.rs")]
#[doc = "```"]
///
/// A machine that keeps its state itself is run by [`durable`](Self::durable).
pub struct Simulation<S: RaftStateMachine, T = ()> {
    options: Options,
    machine: Machines<S>,
    next: Next<S, T>,
    check: Check<S, T>,
    trace: bool,
}

/// Opens a machine in a directory of a disk.
type OpenOn<S> = dyn Fn(Arc<dyn Disk>, &Path) -> io::Result<S>;

/// Where state machines come from.
enum Machines<S> {
    Blank(Box<dyn Fn() -> S>),
    Opened(Box<OpenOn<S>>),
}

impl<S: RaftStateMachine, T> std::fmt::Debug for Simulation<S, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<S: RaftStateMachine, T: Send + 'static> Simulation<S, T> {
    /// Describes the run of a seed: `machine` makes a blank state machine, `next` what clients ask, given the number of
    /// the operation and a source of chance.
    pub fn new(
        seed: u64,
        machine: impl Fn() -> S + 'static,
        next: impl FnMut(u64, &mut Rng) -> Op<S, T> + 'static,
    ) -> Self {
        Self::of(seed, Machines::Blank(Box::new(machine)), Box::new(next))
    }

    /// As [`new`](Self::new), for a machine that keeps its state itself: `open` opens it in a directory, which it has to
    /// make, on a node's disk, blank or as a crash left it. It must do everything through that [`Disk`].
    ///
    /// Its node is killed at any moment, also while it applies or installs; what it had not synced may be gone, in whole or
    /// in part. After every batch and at every start its state is compared with that of all others after the same command,
    /// so what was applied twice, skipped or lost is noticed at once. Its files suffer nothing else: no bits that flip, no
    /// writes that are lost although they were synced, no errors of the disk:
    /// what a machine makes of its files is for a suite of its own (`quorate-testkit` has one).
    ///
    #[doc = "```"]
    #[doc = include_str!("../examples/durable_machine.rs")]
    #[doc = "```"]
    pub fn durable(
        seed: u64,
        open: impl Fn(Arc<dyn Disk>, &Path) -> io::Result<S> + 'static,
        next: impl FnMut(u64, &mut Rng) -> Op<S, T> + 'static,
    ) -> Self {
        Self::of(seed, Machines::Opened(Box::new(open)), Box::new(next))
    }

    fn of(seed: u64, machine: Machines<S>, next: Next<S, T>) -> Self {
        // What a recovery loses a check has to know of: it is asked for.
        let options = Options { recovery: false, ..Options::of_seed(seed) };
        Self { options, machine, next, check: Box::new(|_, _| Ok(())), trace: false }
    }

    /// How many nodes vote, from 1 to 7; drawn from the seed otherwise.
    #[must_use]
    pub fn nodes(mut self, voters: u64) -> Self {
        self.options.voters = voters.clamp(1, 7);
        self
    }

    /// Which kinds of faults happen; a random subset otherwise.
    #[must_use]
    pub fn faults(mut self, faults: FaultSet) -> Self {
        self.options.faults = faults;
        self
    }

    /// How many operations clients begin; a few hundred otherwise.
    #[must_use]
    pub fn operations(mut self, operations: u64) -> Self {
        self.options.operations = operations;
        self
    }

    /// Changes anything else.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Looks at the state at the end, which all nodes share, and at all that clients were told.
    ///
    /// Not called where there is no such state: if the run fails before, and in a run beyond the budget
    /// ([`Options::beyond_budget`], one seed of twenty) whose cluster lost so much that it stands still. There nodes are
    /// compared with each other, and [`Report::counters`] has "beyond-stuck".
    #[must_use]
    pub fn check(mut self, check: impl FnMut(&S, &AllTold<S, T>) -> Result<(), String> + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Whether the run is printed, event by event, with the virtual second of each: messages, faults, leaders, starts and
    /// ends of nodes, and what is wrong. It is the same run.
    #[must_use]
    pub fn trace(mut self, on: bool) -> Self {
        self.trace = on;
        self
    }

    /// Makes a run that fails short: fewer nodes, faults and operations, less time, as long as it fails in the same way.
    /// Plays at most about `most_runs` runs; `None` if the first does not fail. `describe` describes the run, and does so
    /// again for every attempt, so that what `next` and `check` remember begins anew.
    ///
    /// The short run is played again with [`options`](Self::options):
    ///
    /// ```
    /// # use quorate_sim::{Op, Simulation};
    /// # struct Sum(u64);
    /// # impl quorate::RaftStateMachine for Sum {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 {
    /// #         self.0 += add;
    /// #         self.0
    /// #     }
    /// #     fn snapshot(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    /// #         out.write_all(&self.0.to_le_bytes())
    /// #     }
    /// #     fn restore(input: &mut dyn std::io::Read) -> std::io::Result<Self> {
    /// #         let mut bytes = [0; 8];
    /// #         input.read_exact(&mut bytes)?;
    /// #         Ok(Sum(u64::from_le_bytes(bytes)))
    /// #     }
    /// # }
    /// let describe = || {
    ///     Simulation::new(7, || Sum(0), |_, _| Op::<_, ()>::Write(1))
    ///         .operations(40)
    ///         .check(|end, _| if end.0 > 2 { Err(format!("the sum is {}", end.0)) } else { Ok(()) })
    /// };
    /// let shrunk = Simulation::shrink(30, describe).expect("it fails");
    /// let short = shrunk.after.options;
    /// assert!(short.operations < 40);
    /// let report = describe().options(|options| *options = short).trace(false).run();
    /// assert!(report.violation.is_some_and(|violation| violation.starts_with("the sum is")));
    /// ```
    pub fn shrink(most_runs: u64, describe: impl Fn() -> Self) -> Option<Shrunk> {
        shrink(describe().options, most_runs, |options, events| {
            describe().options(|own| *own = options.clone()).run_within(events.saturating_add(1).min(MOST_EVENTS))
        })
    }

    /// Runs it.
    pub fn run(self) -> Report {
        self.run_within(MOST_EVENTS)
    }

    fn run_within(self, most_events: u64) -> Report {
        let Self { mut options, machine, next, check, trace } = self;
        if matches!(machine, Machines::Opened(_)) {
            // A log that lost what its machine holds makes the node stop and say that the machine's files have to go.
            options.recovery = false;
            options.faults = LOSES_LOG.iter().fold(options.faults, |faults, fault| faults.without(*fault));
        }
        let clients = Closures { machine, next, check, begun: BTreeMap::new(), told: Vec::new(), as_of: Vec::new() };
        run_at_most(options, clients, trace, most_events).0
    }
}

/// A look at the state that any node may take, as fresh as `policy` asks for.
pub fn read<S: RaftStateMachine, T>(policy: ReadPolicy, look: impl Fn(&S) -> T + Send + Sync + 'static) -> Op<S, T> {
    let look: LookAt<S, T> = std::sync::Arc::new(look);
    Op::Read(policy, look)
}

struct Closures<S: RaftStateMachine, T> {
    machine: Machines<S>,
    next: Next<S, T>,
    check: Check<S, T>,
    /// By operation.
    begun: BTreeMap<u64, Nanos>,
    told: AllTold<S, T>,
    /// By what clients were told: the last command of the state that it is of.
    as_of: Vec<Option<u64>>,
}

impl<S: RaftStateMachine, T: Send + 'static> Workload for Closures<S, T> {
    type Machine = S;
    type Seen = T;

    fn machine(&self) -> S {
        match &self.machine {
            Machines::Blank(machine) => machine(),
            Machines::Opened(_) => unreachable!("a durable machine is opened on a disk"),
        }
    }

    fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> io::Result<S> {
        match &self.machine {
            Machines::Blank(machine) => Ok(machine()),
            Machines::Opened(open) => open(disk, directory),
        }
    }

    fn restored(&self, mut snapshot: &[u8]) -> io::Result<S> {
        match &self.machine {
            Machines::Blank(_) => S::restore(&mut snapshot),
            Machines::Opened(open) => {
                // On a disk of its own; nobody goes on from there.
                let disk = Arc::new(SimDisk::new(Rng::new(0, 0), FaultSet::NONE));
                let mut machine = open(disk, Path::new(MACHINE_DIRECTORY))?;
                machine.install(&mut snapshot, Checkpoint::from_bytes(Vec::new()))?;
                Ok(machine)
            }
        }
    }

    fn next(&mut self, asked: Invoked, chance: &mut Rng) -> Op<S, T> {
        self.begun.insert(asked.id, asked.at);
        (self.next)(asked.id, chance)
    }

    fn on_return(&mut self, id: u64, by: Asked, at: Nanos, returned: Returned<S::Response, T>) {
        let begun = self.begun.get(&id).copied().unwrap_or(0);
        self.as_of.push(by.as_of);
        self.told.push(Told { id, begun, ended: at, returned });
    }

    fn on_recovered(&mut self, from: u64, copied: &BTreeSet<u64>) -> u64 {
        let mut lost = 0;
        for (told, as_of) in self.told.iter_mut().zip(&mut self.as_of) {
            if as_of.take_if(|index| *index >= from).is_some() {
                told.returned = match copied.contains(&told.id) {
                    true => Returned::Unknown,
                    false => Returned::NotApplied,
                };
                lost += 1;
            }
        }
        lost
    }

    fn check(&mut self, end: &S) -> Result<(), String> {
        (self.check)(end, &self.told)
    }
}
