//! State machines that keep their state themselves, right and wrong, killed at every moment.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate::advanced::wal::Disk;
use quorate::{Checkpoint, Commands, EntryContext, LastApplied, RaftStateMachine, ReadPolicy};
use quorate_sim::{Op, Report, Returned, Rng, Simulation, read};

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Keeps state and checkpoint in one file after every batch.
    Right,
    /// As `Right`, after every third batch: the rest is applied again.
    Seldom,
    /// Renames a file that it has not synced.
    NotSynced,
    /// The checkpoint first, then the state, in a file of its own.
    CheckpointFirst,
    /// The state first, then the checkpoint.
    StateFirst,
    /// Applies what it was handed before its last checkpoint once more, in memory, and keeps that.
    KeepsTheNext,
    /// Installs a snapshot, and keeps the checkpoint that it had.
    InstallKeepsOldCheckpoint,
}

/// What happened on all nodes of all runs.
#[derive(Default)]
struct Seen {
    /// Starts that found something.
    found: AtomicU64,
    installed: AtomicU64,
}

/// A list of all that it was told.
struct List {
    way: Way,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    words: Vec<u64>,
    kept: Option<Vec<u8>>,
    batches: u64,
    seen: Arc<Seen>,
}

impl List {
    fn open(way: Way, seen: Arc<Seen>, disk: Arc<dyn Disk>, directory: &Path) -> io::Result<Self> {
        disk.create_dir_all(directory)?;
        let mut list = Self { way, disk, directory: directory.to_owned(), words: vec![], kept: None, batches: 0, seen };
        if let Some(state) = list.read("state")? {
            let (count, rest) = state.split_first_chunk().ok_or(ErrorKind::InvalidData)?;
            let (words, kept) =
                rest.split_at_checked(u64::from_le_bytes(*count) as usize * 8).ok_or(ErrorKind::InvalidData)?;
            list.words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
            list.kept = Some(kept.to_vec());
        }
        if list.in_two_files() {
            list.kept = list.read("checkpoint")?;
        }
        list.seen.found.fetch_add(list.kept.is_some().into(), Ordering::Relaxed);
        Ok(list)
    }

    fn in_two_files(&self) -> bool {
        matches!(self.way, Way::CheckpointFirst | Way::StateFirst)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match self.disk.open(&self.directory.join(name)) {
            Ok(file) => {
                let mut bytes = vec![0; file.length()? as usize];
                file.read_at(&mut bytes, 0)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.directory.join(format!("{name}.new"));
        let file = self.disk.create(&new)?;
        file.write_at(bytes, 0)?;
        if self.way != Way::NotSynced {
            file.sync_data()?;
        }
        self.disk.rename(&new, &self.directory.join(name))?;
        self.disk.sync_dir(&self.directory)
    }

    fn keep(&self, checkpoint: &[u8]) -> io::Result<()> {
        let mut state = (self.words.len() as u64).to_le_bytes().to_vec();
        self.words.iter().for_each(|word| state.extend_from_slice(&word.to_le_bytes()));
        match self.way {
            Way::CheckpointFirst => {
                self.write("checkpoint", checkpoint)?;
                self.write("state", &state)
            }
            Way::StateFirst => {
                self.write("state", &state)?;
                self.write("checkpoint", checkpoint)
            }
            Way::Right | Way::Seldom | Way::NotSynced | Way::KeepsTheNext | Way::InstallKeepsOldCheckpoint => {
                state.extend_from_slice(checkpoint);
                self.write("state", &state)
            }
        }
    }
}

impl RaftStateMachine for List {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _word: u64) -> u64 {
        unreachable!("`apply_batch` is provided")
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let mut before = commands.checkpoint();
        while let Some((EntryContext { log_id, .. }, word)) = commands.next_command() {
            let known = before.log_id()?.index;
            assert!(log_id.index > known, "{log_id} is applied after {known}");
            before = commands.checkpoint();
            self.words.push(word);
            commands.respond(self.words.len() as u64);
        }
        self.batches += 1;
        match self.way {
            Way::Seldom if !self.batches.is_multiple_of(3) => Ok(()),
            // Without its last command.
            Way::KeepsTheNext => self.keep(before.as_bytes()),
            _ => self.keep(commands.checkpoint().as_bytes()),
        }
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::kept(self.kept.clone()))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.words.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        self.words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        self.seen.installed.fetch_add(1, Ordering::Relaxed);
        let old = self.kept.clone().filter(|_| self.way == Way::InstallKeepsOldCheckpoint);
        self.keep(&old.unwrap_or_else(|| checkpoint.as_bytes().to_vec()))
    }
}

fn run(way: Way, seed: u64, seen: &Arc<Seen>) -> Report {
    let seen = Arc::clone(seen);
    let open = move |disk: Arc<dyn Disk>, directory: &Path| List::open(way, Arc::clone(&seen), disk, directory);
    // Every command is another one.
    let next = |id, chance: &mut Rng| match chance.below(4) {
        0 => read(ReadPolicy::ReadIndex, |list: &List| list.words.len()),
        _ => Op::Write(id),
    };
    let small_logs = |options: &mut quorate_sim::Options| {
        options.config.snapshot_entries = 8;
        options.config.keep_entries = 2;
        options.config.max_kept_bytes = 1;
    };
    let once = |list: &List, told: &quorate_sim::AllTold<List, usize>| {
        let mut words = list.words.clone();
        words.sort_unstable();
        if let Some(twice) = words.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("{} was applied twice", twice[0]));
        }
        let written = told.iter().filter(|told| matches!(told.returned, Returned::Written(_)));
        match written.map(|told| told.id).find(|id| words.binary_search(id).is_err()) {
            Some(lost) => Err(format!("{lost} was acknowledged and is not there")),
            None => Ok(()),
        }
    };
    Simulation::durable(seed, open, next).nodes(3).operations(80).options(small_logs).check(once).run()
}

#[test]
fn a_machine_that_keeps_its_state_with_its_checkpoint_goes_on_from_it() {
    for way in [Way::Right, Way::Seldom] {
        let seen = Arc::default();
        for seed in 1..=12 {
            let report = run(way, seed, &seen);
            assert_eq!(report.violation, None, "{way:?}, seed {seed}: {report}");
        }
        let Seen { found, installed, .. } = &*seen;
        println!("{way:?}: {found:?} starts found a state, {installed:?} snapshots were installed");
        assert!(found.load(Ordering::Relaxed) > 0, "{way:?}: no start found a state");
        assert!(installed.load(Ordering::Relaxed) > 0, "{way:?}: no snapshot was installed");
    }
}

#[test]
fn machines_that_keep_them_wrongly_are_found_out() {
    let wrong =
        [Way::NotSynced, Way::CheckpointFirst, Way::StateFirst, Way::KeepsTheNext, Way::InstallKeepsOldCheckpoint];
    for way in wrong {
        let found = (1..=60).find_map(|seed| run(way, seed, &Arc::default()).violation.map(|found| (seed, found)));
        let (seed, found) = found.unwrap_or_else(|| unreachable!("{way:?} is not found out"));
        println!("{way:?}: seed {seed}: {found}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let one = run(Way::Right, 3, &Arc::default());
    let other = run(Way::Right, 3, &Arc::default());
    assert_eq!((one.hash, one.events), (other.hash, other.events));
}
