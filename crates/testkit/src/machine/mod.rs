//! Whether a [`RaftStateMachine`] keeps its promises.
//!
//! One call checks a machine that lives in memory; it needs to know how to make a blank one, commands to try, and, if
//! snapshots of equal states may differ, how to compare states:
//!
//! ```
//! # use std::io::{self, Read, Write};
//! use quorate_testkit::machine;
//!
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl quorate::RaftStateMachine for Counter {
//!     type Command = u64;
//!     type Response = u64;
//! #   fn apply(&mut self, add: u64) -> u64 {
//! #       self.0 = self.0.wrapping_add(add);
//! #       self.0
//! #   }
//! #   fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
//! #       out.write_all(&self.0.to_le_bytes())
//! #   }
//! #   fn restore(input: &mut dyn Read) -> io::Result<Self> {
//! #       let mut bytes = [0; 8];
//! #       input.read_exact(&mut bytes)?;
//! #       Ok(Self(u64::from_le_bytes(bytes)))
//! #   }
//!     // As everywhere.
//! }
//!
//! machine::conformance(Counter::default, |chance| chance.below(100));
//! ```
//!
//! [`Suite`] has more to set; [`Suite::durable`] and [`Suite::durable_on_disk`] check a machine that keeps its state
//! itself.

mod durable;
mod memory;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate::advanced::machines::Replay;
use quorate::advanced::wal::Disk;
use quorate::advanced::wire::BatchBuilder;
use quorate::{Batch, ClusterId, EntryKind, GroupId, LeaderId, LogId, Payload, RaftStateMachine};

use crate::chance::Chance;
use crate::report::{Failure, Law, Report};
use crate::storage::Places;

/// Checks a machine in memory: `blank` makes one, `command` draws a command.
///
/// # Panics
/// With the report, if a law is broken.
pub fn conformance<S: RaftStateMachine>(blank: impl Fn() -> S, command: impl Fn(&mut Chance) -> S::Command) -> Report {
    Suite::new(blank, command).run().assert_passed()
}

type Blank<'a, S> = Box<dyn Fn() -> S + 'a>;
type Draw<'a, S> = Box<dyn Fn(&mut Chance) -> <S as RaftStateMachine>::Command + 'a>;
type Contents<'a, S> = Box<dyn Fn(&S) -> String + 'a>;
type OpenAt<'a, S> = Box<dyn Fn(&Path) -> std::io::Result<S> + 'a>;
type OpenOn<'a, S> = Box<dyn Fn(Arc<dyn Disk>, &Path) -> std::io::Result<S> + 'a>;

/// How to open a durable machine.
enum Opener<'a, S> {
    InDirectory(OpenAt<'a, S>),
    OnDisk(OpenOn<'a, S>),
}

/// A description of what to check; [`run`](Self::run) does it.
pub struct Suite<'a, S: RaftStateMachine> {
    parts: Parts<'a, S>,
    opener: Option<Opener<'a, S>>,
}

/// What every part needs.
struct Parts<'a, S: RaftStateMachine> {
    blank: Option<Blank<'a, S>>,
    draw: Draw<'a, S>,
    contents: Option<Contents<'a, S>>,
    seeds: std::ops::Range<u64>,
    commands: u64,
    states: usize,
}

impl<S: RaftStateMachine> std::fmt::Debug for Suite<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Parts { seeds, commands, states, .. } = &self.parts;
        let settings = (seeds, commands, states);
        f.debug_struct("Suite").field("settings", &settings).finish_non_exhaustive()
    }
}

impl<'a, S: RaftStateMachine> Suite<'a, S> {
    /// A machine in memory: `blank` makes one, `command` draws a command. Draw few keys, so that commands meet.
    pub fn new(blank: impl Fn() -> S + 'a, command: impl Fn(&mut Chance) -> S::Command + 'a) -> Self {
        Self::of(Some(Box::new(blank)), None, Box::new(command))
    }

    /// A durable machine, which `open` opens in a directory, blank if that is empty, and opens again there when the suite
    /// has dropped it. Its `restore` is not called: `install` is.
    pub fn durable(
        open: impl Fn(&Path) -> std::io::Result<S> + 'a,
        command: impl Fn(&mut Chance) -> S::Command + 'a,
    ) -> Self {
        Self::of(None, Some(Opener::InDirectory(Box::new(open))), Box::new(command))
    }

    /// A durable machine that does everything through the [`Disk`] it is given, so that it can be crashed at any write.
    pub fn durable_on_disk(
        open: impl Fn(Arc<dyn Disk>, &Path) -> std::io::Result<S> + 'a,
        command: impl Fn(&mut Chance) -> S::Command + 'a,
    ) -> Self {
        Self::of(None, Some(Opener::OnDisk(Box::new(open))), Box::new(command))
    }

    fn of(blank: Option<Blank<'a, S>>, opener: Option<Opener<'a, S>>, draw: Draw<'a, S>) -> Self {
        let parts = Parts { blank, draw, contents: None, seeds: 1..4, commands: 60, states: 200 };
        Self { parts, opener }
    }

    /// What the state holds, all of it, as text: equal texts, equal states. Without it states are compared by their
    /// snapshots, which must then be equal bytes for equal states; and what a snapshot forgets is only noticed by what
    /// commands answer later.
    pub fn contents(mut self, contents: impl Fn(&S) -> String + 'a) -> Self {
        self.parts.contents = Some(Box::new(contents));
        self
    }

    /// How many random logs a part plays, and from which seed on; 3 from seed 1 unless set.
    pub fn seeds(mut self, first: u64, count: u64) -> Self {
        self.parts.seeds = first..first + count;
        self
    }

    /// How many commands a random log has; 60 unless set.
    pub fn commands(mut self, commands: u64) -> Self {
        self.parts.commands = commands.max(4);
        self
    }

    /// About how many crashes a part tries at most; 200 unless set. With more places for them than about a quarter of
    /// that, they are at a sample of them; the report says at how many of how many.
    pub fn states(mut self, states: usize) -> Self {
        self.parts.states = states.max(1);
        self
    }

    /// Checks everything that can be.
    #[must_use = "a report may hold failures: `assert_passed` panics with them"]
    pub fn run(self) -> Report {
        let Self { parts, opener } = self;
        let mut report = Report::new("state machine");
        report.part("payloads", || parts.payloads());
        match &parts.blank {
            Some(blank) => {
                report.part("same log, same state", || memory::determinism(&parts, blank));
                report.part("snapshot and restore", || memory::snapshots(&parts, blank));
                report.part("captures", || memory::captures(&parts, blank));
            }
            None => {
                for name in ["same log, same state", "snapshot and restore", "captures"] {
                    report.not_run(name, "the machine is durable: the parts below look at the same");
                }
            }
        }
        let places = Places::default();
        let open_at = |place: &Path| match &opener {
            Some(Opener::InDirectory(open)) => open(place),
            Some(Opener::OnDisk(open)) => open(places.disk(place), Path::new("/machine")),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        match &opener {
            Some(_) => {
                report.part("durable: restarts", || durable::restarts(&parts, &open_at, &places));
                report.part("durable: installs", || durable::installs(&parts, &open_at, &places));
            }
            None => {
                report.not_run("durable: restarts", "the machine is in memory: `Suite::durable`");
                report.not_run("durable: installs", "the machine is in memory: `Suite::durable`");
            }
        }
        match &opener {
            Some(Opener::OnDisk(open)) => {
                report.part("durable: crash at any write", || durable::crashes(&parts, &**open));
            }
            Some(Opener::InDirectory(_)) | None => {
                let why = "the machine is not opened on a disk: `Suite::durable_on_disk`";
                report.not_run("durable: crash at any write", why);
            }
        }
        report
    }
}

/// What is compared of a machine.
#[derive(Clone, PartialEq, Eq)]
enum View {
    Text(String),
    Snapshot(Vec<u8>),
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            View::Text(text) if text.len() <= 500 => f.write_str(text),
            View::Text(text) => write!(f, "{}... ({} bytes)", text.chars().take(500).collect::<String>(), text.len()),
            View::Snapshot(bytes) => write!(f, "a snapshot of {} bytes, checksum {:08x}", bytes.len(), sum(bytes)),
        }
    }
}

/// FNV-1a: tells snapshots apart in a report.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A response as bytes.
type Answers = Vec<(LogId, Vec<u8>)>;

impl<S: RaftStateMachine> Parts<'_, S> {
    /// The payloads of a random log.
    fn log(&self, chance: &mut Chance) -> Result<Vec<Bytes>, Failure> {
        (0..self.commands).map(|_| encode(&(self.draw)(chance), "a command that was drawn")).collect()
    }

    /// What is compared.
    fn view(&self, replay: &Replay<S>, step: &str) -> Result<View, Failure> {
        match &self.contents {
            Some(contents) => Ok(View::Text(contents(replay.state()))),
            None => Ok(View::Snapshot(worked(replay.snapshot(), Law::RestoreIsEqual, step)?)),
        }
    }

    fn check_equal(&self, law: Law, one: &Replay<S>, other: &Replay<S>, step: &str) -> Result<usize, Failure> {
        let (one, other) = (self.view(one, step)?, self.view(other, step)?);
        match one == other {
            true => Ok(1),
            false => {
                let hint = match &self.contents {
                    Some(_) => "",
                    None => " (if equal states may have different snapshots, set `Suite::contents`)",
                };
                Err(Failure::new(law, step, one.to_string(), format!("{other}{hint}")))
            }
        }
    }

    fn payloads(&self) -> Result<usize, Failure> {
        let mut checks = 0;
        for seed in self.seeds.clone() {
            for payload in self.log(&mut Chance::new(seed))? {
                read_back::<S::Command>(payload, "reading back a command that was drawn")?;
                checks += 1;
            }
        }
        Ok(checks)
    }
}

fn worked<T, E: std::fmt::Display>(result: Result<T, E>, law: Law, step: &str) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(law, step, "success", error.to_string()))
}

fn encode(payload: &impl Payload, step: &str) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    worked(payload.encode(&mut bytes), Law::PayloadsTravel, step)?;
    Ok(bytes.into())
}

/// What was encoded is decoded to what is encoded the same.
fn read_back<P: Payload>(payload: Bytes, step: &str) -> Result<(), Failure> {
    let decoded = worked(P::decode(payload.clone()), Law::PayloadsTravel, step)?;
    let again = encode(&decoded, step)?;
    match again == payload {
        true => Ok(()),
        false => Err(Failure::new(Law::PayloadsTravel, step, format!("{payload:?}"), format!("{again:?}"))),
    }
}

/// A batch of commands; `first` is the index of the first. Every batch has a leader's time of its own.
fn batch(payloads: &[Bytes], first: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    payloads.iter().for_each(|payload| builder.push(EntryKind::Command, payload));
    // As a leader would stamp them: by index, so that the same entry always has the same time.
    match builder.seal(ClusterId(0x7e57), GroupId(1), LeaderId::new(1, 1), first, 1_000_000_007) {
        Some(batch) => batch,
        None => unreachable!("a batch has payloads"),
    }
}

/// Applies these commands, from index `first` on, cut into batches of these sizes, over and over.
fn apply<S: RaftStateMachine>(
    replay: &mut Replay<S>,
    payloads: &[Bytes],
    first: u64,
    sizes: &[usize],
    step: &str,
) -> Result<Answers, Failure> {
    let (mut answers, mut rest, mut next) = (Answers::new(), payloads, first);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (these, later) = rest.split_at((*size).clamp(1, rest.len()));
        for (log_id, response) in worked(replay.apply(&batch(these, next)), Law::BatchesAreInvisible, step)? {
            let response = encode(&response, step)?;
            answers.push((log_id, response.to_vec()));
            read_back::<S::Response>(response, &format!("{step}, reading back the response to command {log_id}"))?;
        }
        next += these.len() as u64;
        rest = later;
    }
    if answers.len() != payloads.len() {
        let (expected, found) = (format!("{} responses", payloads.len()), format!("{}", answers.len()));
        return Err(Failure::new(Law::BatchesAreInvisible, step, expected, found));
    }
    Ok(answers)
}

fn check_answers(law: Law, one: &Answers, other: &Answers, step: &str) -> Result<usize, Failure> {
    match one.iter().zip(other).find(|(one, other)| one != other) {
        None => Ok(one.len()),
        Some(((log_id, one), (_, other))) => {
            let (expected, found) = (format!("the response {one:?}"), format!("{other:?}"));
            Err(Failure::new(law, format!("{step}, command {log_id}"), expected, found))
        }
    }
}
