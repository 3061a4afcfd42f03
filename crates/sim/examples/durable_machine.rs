//! A state machine that keeps its state itself, in simulated clusters whose nodes are killed at every moment.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate::advanced::wal::Disk;
use quorate::{Checkpoint, Commands, LastApplied, RaftStateMachine, ReadPolicy};
use quorate_sim::{Op, Simulation, read};

/// Sums up what it is told, in a file: the sum, and then what the library wants to be kept with it.
struct Sum {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    sum: u64,
    kept: Option<Vec<u8>>,
}

impl Sum {
    fn open(disk: Arc<dyn Disk>, directory: &Path) -> io::Result<Self> {
        disk.create_dir_all(directory)?;
        let mut found = Self { directory: directory.to_owned(), sum: 0, kept: None, disk };
        match found.disk.open(&directory.join("sum")) {
            Ok(file) => {
                let mut bytes = vec![0; file.length()? as usize];
                file.read_at(&mut bytes, 0)?;
                let (sum, kept) = bytes.split_first_chunk().ok_or(ErrorKind::InvalidData)?;
                (found.sum, found.kept) = (u64::from_le_bytes(*sum), Some(kept.to_vec()));
                Ok(found)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// Sum and checkpoint in one step: a crash leaves the file before or the file after.
    fn keep(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let new = self.directory.join("sum.new");
        let file = self.disk.create(&new)?;
        file.write_at(&[&self.sum.to_le_bytes(), checkpoint.as_bytes()].concat(), 0)?;
        file.sync_data()?;
        self.disk.rename(&new, &self.directory.join("sum"))?;
        self.disk.sync_dir(&self.directory)
    }
}

impl RaftStateMachine for Sum {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.sum += add;
        self.sum
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        while let Some((_, add)) = commands.next_command() {
            let sum = self.apply(add);
            commands.respond(sum);
        }
        self.keep(&commands.checkpoint())
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::kept(self.kept.clone()))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.sum.to_le_bytes())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.sum = u64::from_le_bytes(bytes);
        self.keep(&checkpoint)
    }
}

fn main() {
    for seed in 1..=5 {
        let next = |_, chance: &mut quorate_sim::Rng| match chance.below(3) {
            0 => read(ReadPolicy::ReadIndex, |sum: &Sum| sum.sum),
            _ => Op::Write(1),
        };
        let report = Simulation::durable(seed, Sum::open, next).nodes(3).operations(60).run();
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
