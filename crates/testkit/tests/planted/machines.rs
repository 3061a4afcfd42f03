//! State machines: a map in memory, and a durable sum. With a flaw, if wanted.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate::advanced::wal::Disk;
use quorate::{Checkpoint, Commands, Frozen, LastApplied, Payload, PayloadError, RaftStateMachine};

/// What is wrong with the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The snapshot leaves out some keys.
    MissingRange,
    /// A capture is taken when it is written.
    LateCapture,
    /// A response depends on an order that is another one in every instance, as that of a hash map.
    MapOrder,
    /// `restore` takes an end for the end.
    HalfRestored,
    /// State that no snapshot holds decides about responses.
    HiddenState,
    /// A blank machine holds a number of its own, as one drawn at random.
    OwnNumber,
    /// A response tells the place in the batch.
    PlaceInBatch,
    /// An entry is gone once a snapshot was taken.
    SnapshotTakesOut,
}

/// A flaw is part of the type, because `restore` makes a machine from nothing.
pub(crate) struct Map<const FLAW: usize> {
    entries: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// Decides about its order.
    instance: usize,
    applied: u64,
}

fn another_instance() -> usize {
    static INSTANCES: AtomicUsize = AtomicUsize::new(0);
    INSTANCES.fetch_add(1, Ordering::Relaxed)
}

pub(crate) const FLAWS: [Flaw; 9] = [
    Flaw::None,
    Flaw::MissingRange,
    Flaw::LateCapture,
    Flaw::MapOrder,
    Flaw::HalfRestored,
    Flaw::HiddenState,
    Flaw::OwnNumber,
    Flaw::PlaceInBatch,
    Flaw::SnapshotTakesOut,
];

impl<const FLAW: usize> Map<FLAW> {
    pub(crate) fn new() -> Self {
        let (mut entries, instance) = (BTreeMap::new(), another_instance());
        if FLAWS[FLAW] == Flaw::OwnNumber {
            entries.insert(1000, instance as u64);
        }
        Self { entries: Arc::new(Mutex::new(entries)), instance, applied: 0 }
    }

    pub(crate) fn contents(&self) -> String {
        format!("{:?}", self.entries.lock().unwrap())
    }
}

fn write(entries: &BTreeMap<u64, u64>, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&(entries.len() as u64).to_le_bytes())?;
    for (key, value) in entries {
        out.write_all(&key.to_le_bytes())?;
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

impl<const FLAW: usize> RaftStateMachine for Map<FLAW> {
    type Command = (u64, u64);
    type Response = Option<u64>;

    fn apply(&mut self, (key, value): (u64, u64)) -> Option<u64> {
        self.applied += 1;
        let mut entries = self.entries.lock().unwrap();
        let before = entries.insert(key, value);
        match FLAWS[FLAW] {
            Flaw::MapOrder => entries.values().nth(self.instance % entries.len()).copied(),
            Flaw::HiddenState => Some(self.applied),
            _ => before,
        }
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let mut place = 0;
        while let Some((_, command)) = commands.next_command() {
            let before = self.apply(command);
            place += 1;
            commands.respond(if FLAWS[FLAW] == Flaw::PlaceInBatch { Some(place) } else { before });
        }
        Ok(())
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut entries = self.entries.lock().unwrap().clone();
        if FLAWS[FLAW] == Flaw::SnapshotTakesOut {
            self.entries.lock().unwrap().pop_first();
        }
        if FLAWS[FLAW] == Flaw::MissingRange {
            entries.retain(|key, _| !(3..6).contains(key));
        }
        write(&entries, out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut number = [0; 8];
        let mut next = || match input.read_exact(&mut number) {
            Ok(()) => Ok(Some(u64::from_le_bytes(number))),
            Err(_) if FLAWS[FLAW] == Flaw::HalfRestored => Ok(None),
            Err(error) => Err(error),
        };
        let mut entries = BTreeMap::new();
        for _ in 0..next()?.unwrap_or(0) {
            let (Some(key), Some(value)) = (next()?, next()?) else { break };
            entries.insert(key, value);
        }
        Ok(Self { entries: Arc::new(Mutex::new(entries)), instance: another_instance(), applied: 0 })
    }

    fn freeze(&self) -> Option<Frozen> {
        let (shared, then) = (Arc::clone(&self.entries), self.entries.lock().unwrap().clone());
        match FLAWS[FLAW] {
            Flaw::LateCapture => Some(Box::new(move |out| write(&shared.lock().unwrap(), out))),
            _ => Some(Box::new(move |out| write(&then, out))),
        }
    }
}

/// What is wrong with the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SumFlaw {
    None,
    AppliedBeforeData,
    /// An installed snapshot keeps the old checkpoint.
    InstallsWithoutCheckpoint,
    /// Its responses count the commands since it was opened.
    CountsFromOpening,
}

/// A sum in a file.
pub(crate) struct Sum {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    flaw: SumFlaw,
    pub(crate) sum: u64,
    kept: Option<Vec<u8>>,
    /// Commands since it was opened.
    count: u64,
}

impl Sum {
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, flaw: SumFlaw) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        let mut sum = Self { disk, dir: dir.to_owned(), flaw, sum: 0, kept: None, count: 0 };
        if let Some(bytes) = sum.load("state")? {
            let (head, kept) = bytes.split_first_chunk::<8>().ok_or(io::ErrorKind::InvalidData)?;
            (sum.sum, sum.kept) = (u64::from_le_bytes(*head), Some(kept.to_vec()).filter(|kept| !kept.is_empty()));
        }
        if flaw == SumFlaw::AppliedBeforeData
            && let Some(kept) = sum.load("applied")?
        {
            sum.kept = Some(kept);
        }
        Ok(sum)
    }

    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.disk.open(&self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.length()?).unwrap()];
        let read = file.read_at(&mut bytes, 0)?;
        assert_eq!(read, bytes.len(), "the disk in memory reads all there is");
        Ok(Some(bytes))
    }

    /// In one step: a new file takes the place of the old one.
    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, new) = (self.dir.join(name), self.dir.join("new"));
        let file = self.disk.create(&new)?;
        assert_eq!(file.write_at(bytes, 0)?, bytes.len(), "the disk in memory writes all there is");
        file.sync_data()?;
        self.disk.rename(&new, &path)?;
        self.disk.sync_dir(&self.dir)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let kept = match self.flaw {
            SumFlaw::AppliedBeforeData => {
                self.store("applied", checkpoint.as_bytes())?;
                &[][..]
            }
            SumFlaw::None | SumFlaw::InstallsWithoutCheckpoint | SumFlaw::CountsFromOpening => checkpoint.as_bytes(),
        };
        self.store("state", &[&self.sum.to_le_bytes()[..], kept].concat())?;
        self.kept = Some(checkpoint.as_bytes().to_vec());
        Ok(())
    }
}

impl RaftStateMachine for Sum {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.sum += add;
        self.count += 1;
        if self.flaw == SumFlaw::CountsFromOpening { self.count } else { self.sum }
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        while let Some((_, add)) = commands.next_command() {
            let sum = self.apply(add);
            commands.respond(sum);
        }
        self.save(&commands.checkpoint())
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::kept(self.kept.clone()))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.sum.to_le_bytes())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.sum = u64::from_le_bytes(bytes);
        let old = self.kept.clone().map(Checkpoint::from_bytes);
        match (self.flaw, old) {
            (SumFlaw::InstallsWithoutCheckpoint, Some(old)) => self.save(&old),
            _ => self.save(&checkpoint),
        }
    }
}

/// A number of which so many bits are read back.
pub(crate) struct Number<const BITS: u32>(pub(crate) u64);

impl<const BITS: u32> Payload for Number<BITS> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        out.extend_from_slice(&self.0.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let bytes = bytes.as_ref().try_into().map_err(|_| PayloadError("not 8 bytes".to_owned()))?;
        Ok(Self(u64::from_le_bytes(bytes) & (u64::MAX >> (64 - BITS))))
    }
}

/// Holds the newest of its commands, and answers with the one before; so many bits of each are read back.
pub(crate) struct Newest<const COMMAND: u32, const RESPONSE: u32>(pub(crate) u64);

impl<const COMMAND: u32, const RESPONSE: u32> RaftStateMachine for Newest<COMMAND, RESPONSE> {
    type Command = Number<COMMAND>;
    type Response = Number<RESPONSE>;

    fn apply(&mut self, command: Number<COMMAND>) -> Number<RESPONSE> {
        Number(std::mem::replace(&mut self.0, command.0))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }
}
