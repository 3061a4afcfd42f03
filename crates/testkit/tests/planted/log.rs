//! A log in one file, as simple as a correct one can be: an index in memory, a journal on the disk. With a flaw, if wanted.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::advanced::wal::{Disk, DiskFile};
use quorate::advanced::wire::BatchBuilder;
use quorate::{
    Batch, Batches, Completions, EntryKind, GroupId, LeaderId, LogId, LogIds, LogWrite, MemoryStorage, RaftLogStorage,
    Recovered, Span, StorageError, StorageErrorKind, Tail, Vote, WriteId,
};
use quorate_testkit::storage::CLUSTER;

/// What is wrong with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    VoteNotSynced,
    AppendNotSynced,
    LateCallback,
    CallbackTwice,
    HoleAfterPurge,
    TruncationUndone,
    StaleRead,
    BoundaryLost,
    VoteGoesBack,
    AcknowledgesAfterFailure,
    TornTailBelieved,
    /// Entries can be read from the read after the next on.
    ReadableLater,
    /// A later promise takes the place of a longer one.
    NewestLease,
    /// One entry more goes with a purge, if there is one.
    PurgesOneMore,
    /// Only the newest membership is told.
    NewestMembership,
    /// A snapshot beyond the log empties it first, and then says where it starts.
    ResetsInTwoSteps,
    /// All groups have one vote.
    OneVote,
    /// Skips what cannot be read, and fills the gap with blank entries.
    FillsGaps,
    /// Panics when it is asked for what it does not hold.
    PanicsWithoutEntries,
    /// No flaw: a storage may complete late, out of order, and from any thread.
    CompletesAnywhere,
}

pub(crate) struct FileLog {
    flaw: Flaw,
    index: MemoryStorage,
    inner: Mutex<Inner>,
}

struct Inner {
    file: Arc<dyn DiskFile>,
    end: u64,
    failed: bool,
    ears: BTreeMap<GroupId, Arc<dyn Completions>>,
    /// For the late callback.
    held: Vec<(GroupId, WriteId)>,
    /// For the hole: the index that is missing.
    holes: BTreeMap<GroupId, u64>,
    /// For the stale read.
    cache: BTreeMap<(GroupId, u64), Batches>,
    /// For entries that can be read later.
    unread: Vec<(GroupId, LogWrite)>,
    /// For the newest lease.
    leases: BTreeMap<GroupId, Duration>,
    /// For the one vote.
    vote: Vote,
}

/// What is found beside the index, for flaws.
#[derive(Default)]
struct Found {
    holes: BTreeMap<GroupId, u64>,
    leases: BTreeMap<GroupId, Duration>,
    vote: Vote,
}

struct Deaf;

impl Completions for Deaf {
    fn complete(&self, _write: WriteId, _result: Result<(), StorageError>) {}
}

impl FileLog {
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, flaw: Flaw) -> Result<Self, StorageError> {
        disk.create_dir_all(dir)?;
        let path = dir.join("log");
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
            opened => opened?,
        };
        // Always: whoever made it may have failed before this.
        disk.sync_dir(dir)?;
        let index = MemoryStorage::new();
        let (mut end, mut found) = (0, Found::default());
        let mut bytes = vec![0; usize::try_from(file.length()?).unwrap()];
        read_all(&*file, &mut bytes)?;
        while let Some((body, length)) = record_from(&bytes, end, flaw) {
            replay(&index, &body, flaw, &mut found)?;
            end = length;
        }
        // What a crash tore is gone, so that it never stands behind what is written now.
        file.set_len(end as u64)?;
        file.sync_data()?;
        let inner = Inner {
            file,
            end: end as u64,
            failed: false,
            ears: BTreeMap::new(),
            held: Vec::new(),
            holes: found.holes,
            cache: BTreeMap::new(),
            unread: Vec::new(),
            leases: found.leases,
            vote: found.vote,
        };
        Ok(Self { flaw, index, inner: Mutex::new(inner) })
    }
}

fn read_all(file: &dyn DiskFile, bytes: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], at as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(())
}

/// The first record, and how long it is: length, checksum, body.
fn record(bytes: &[u8], flaw: Flaw) -> Option<(Vec<u8>, usize)> {
    let head = bytes.get(..8)?;
    let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let body = bytes.get(8..8 + length).filter(|body| !body.is_empty())?;
    let is_whole = crc32c::crc32c(body) == u32::from_le_bytes(head[4..].try_into().unwrap());
    (is_whole || flaw == Flaw::TornTailBelieved).then(|| (body.to_vec(), 8 + length))
}

/// The record here, or one behind it if gaps are filled; and where it ends.
fn record_from(bytes: &[u8], at: usize, flaw: Flaw) -> Option<(Vec<u8>, usize)> {
    let most = if flaw == Flaw::FillsGaps { bytes.len() } else { at };
    (at..=most).find_map(|at| record(&bytes[at..], flaw).map(|(body, length)| (body, at + length)))
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    for number in [id.leader_id.term, id.leader_id.node_id.0, id.index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn log_id(bytes: &[u8]) -> LogId {
    LogId::new(LeaderId::new(number(bytes, 0), number(bytes, 8)), number(bytes, 16))
}

fn encode(group: GroupId, op: &LogWrite) -> Vec<u8> {
    let mut out = group.0.to_le_bytes().to_vec();
    match op {
        LogWrite::Vote(vote) => {
            out.push(1);
            put_log_id(&mut out, LogId::new(vote.leader_id, vote.committed.into()));
        }
        LogWrite::Append(batches) => {
            out.push(2);
            batches.iter().for_each(|batch| out.extend_from_slice(batch.bytes()));
        }
        LogWrite::Truncate { after } => {
            out.push(3);
            put_log_id(&mut out, *after);
        }
        LogWrite::Reset { to, tail } => {
            out.push(if *tail == Tail::Keep { 4 } else { 5 });
            put_log_id(&mut out, *to);
        }
        LogWrite::PromiseLease(lease) => {
            out.push(6);
            out.extend_from_slice(&u64::try_from(lease.as_nanos()).unwrap().to_le_bytes());
        }
        LogWrite::ForgetPromisedEnd => out.push(8),
    }
    out
}

fn replay(index: &MemoryStorage, body: &[u8], flaw: Flaw, found: &mut Found) -> Result<(), StorageError> {
    let (group, rest) = (GroupId(number(body, 0)), &body[9..]);
    let op = match body[8] {
        1 => {
            let id = log_id(rest);
            let vote = Vote { leader_id: id.leader_id, committed: id.index == 1 };
            if flaw == Flaw::VoteGoesBack && vote.committed {
                return Ok(());
            }
            found.vote = vote;
            LogWrite::Vote(vote)
        }
        2 => {
            let decoded = Batch::decode(CLUSTER, group, rest.to_vec().into());
            let corrupt = |error| StorageError::new(StorageErrorKind::Corrupt, format!("{error:?}"));
            let decoded = decoded.map_err(corrupt)?;
            if flaw == Flaw::FillsGaps {
                fill_gap(index, group, &decoded)?;
            }
            LogWrite::Append(decoded)
        }
        3 => LogWrite::Truncate { after: log_id(rest) },
        kind @ (4 | 5) => {
            let tail = if kind == 4 { Tail::Keep } else { Tail::Discard };
            LogWrite::Reset { to: log_id(rest), tail }
        }
        6 => {
            let lease = Duration::from_nanos(number(rest, 0));
            found.leases.insert(group, lease);
            LogWrite::PromiseLease(lease)
        }
        8 => LogWrite::ForgetPromisedEnd,
        _ => {
            let upto = log_id(rest);
            if flaw == Flaw::HoleAfterPurge {
                found.holes.insert(group, upto.index + 1);
            }
            index.purge(group, upto);
            return Ok(());
        }
    };
    index.submit(group, WriteId(0), op);
    Ok(())
}

/// Puts blank entries between what the log holds and these.
fn fill_gap(index: &MemoryStorage, group: GroupId, batches: &Batches) -> Result<(), StorageError> {
    let (last, first) = (index.recover(group, Arc::new(Deaf))?.log.last(), batches[0].first());
    let mut builder = BatchBuilder::new();
    (last.index + 1..first.index).for_each(|_| builder.push(EntryKind::Blank, b""));
    if let Some(blank) = builder.seal(CLUSTER, group, first.leader_id, last.index + 1, 7) {
        index.submit(group, WriteId(0), LogWrite::Append(Batches::from_iter([blank])));
    }
    Ok(())
}

impl Inner {
    /// What was submitted can be read from now on.
    fn show(&mut self, index: &MemoryStorage) {
        self.unread.drain(..).for_each(|(group, op)| index.submit(group, WriteId(0), op));
    }

    fn write(&mut self, body: &[u8], sync: bool) -> io::Result<()> {
        let mut record = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        record.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
        record.extend_from_slice(body);
        let mut at = 0;
        while at < record.len() {
            at += self.file.write_at(&record[at..], self.end + at as u64)?;
        }
        if sync {
            self.file.sync_data()?;
        }
        self.end += record.len() as u64;
        Ok(())
    }
}

impl RaftLogStorage for FileLog {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        self.inner.lock().unwrap().ears.insert(group, completions);
        let mut found = self.index.recover(group, Arc::new(Deaf))?;
        if self.flaw == Flaw::BoundaryLost && found.log.purged().index > 0 {
            let purged = LogId::new(LeaderId::default(), found.log.purged().index);
            found.log = LogIds::new(purged, found.log.runs().collect::<Vec<_>>());
        }
        let inner = self.inner.lock().unwrap();
        match self.flaw {
            Flaw::NewestLease => found.promised_lease = inner.leases.get(&group).copied().unwrap_or_default(),
            Flaw::NewestMembership => drop(found.memberships.drain(..found.memberships.len().saturating_sub(1))),
            Flaw::OneVote => found.vote = inner.vote,
            _ => {}
        }
        Ok(found)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        let mut inner = self.inner.lock().unwrap();
        let sync = match op {
            LogWrite::Vote(_) => self.flaw != Flaw::VoteNotSynced,
            LogWrite::Append(_) => self.flaw != Flaw::AppendNotSynced,
            _ => true,
        };
        let forgets = self.flaw == Flaw::TruncationUndone && matches!(op, LogWrite::Truncate { .. });
        if let (Flaw::ResetsInTwoSteps, LogWrite::Reset { tail: Tail::Discard, .. }) = (self.flaw, &op) {
            let nothing = encode(group, &LogWrite::Truncate { after: LogId::ZERO });
            inner.failed |= inner.write(&nothing, true).is_err();
        }
        let poisoned = inner.failed && self.flaw != Flaw::AcknowledgesAfterFailure;
        let result = match (poisoned, forgets) {
            (true, _) => Err(StorageError::new(StorageErrorKind::Poisoned, "an earlier write failed")),
            (false, true) => Ok(()),
            (false, false) => inner.write(&encode(group, &op), sync).map_err(StorageError::from),
        };
        inner.failed |= result.is_err();
        match self.flaw {
            Flaw::ReadableLater => inner.unread.push((group, op)),
            _ => self.index.submit(group, WriteId(0), op),
        }
        let Some(ear) = inner.ears.get(&group).cloned() else { return };
        let mut told = vec![(ear, write)];
        if self.flaw == Flaw::LateCallback {
            let held = std::mem::replace(&mut inner.held, vec![(group, write)]);
            told = held.into_iter().map(|(group, write)| (Arc::clone(&inner.ears[&group]), write)).collect();
        }
        drop(inner);
        if self.flaw == Flaw::CallbackTwice {
            told.extend_from_within(..);
        }
        if self.flaw == Flaw::CompletesAnywhere && !write.0.is_multiple_of(3) {
            std::thread::spawn(move || told.into_iter().for_each(|(ear, write)| ear.complete(write, result.clone())));
            return;
        }
        for (ear, write) in told {
            ear.complete(write, result.clone());
        }
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        let mut inner = self.inner.lock().unwrap();
        if inner.holes.get(&group) == Some(&span.first_index()) {
            return Ok(None);
        }
        let found = self.index.read(group, span, max_bytes)?;
        inner.show(&self.index);
        assert!(found.is_some() || self.flaw != Flaw::PanicsWithoutEntries, "no entries after {}", span.prev);
        if self.flaw != Flaw::StaleRead {
            return Ok(found);
        }
        let Some(found) = found else { return Ok(None) };
        Ok(Some(inner.cache.entry((group, span.first_index())).or_insert(found).clone()))
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        let mut inner = self.inner.lock().unwrap();
        inner.show(&self.index);
        let one_more = || self.index.recover(group, Arc::new(Deaf)).unwrap().log.at(upto.index + 1);
        let more = if self.flaw == Flaw::PurgesOneMore { one_more() } else { None };
        let mut body = group.0.to_le_bytes().to_vec();
        body.push(7);
        put_log_id(&mut body, more.unwrap_or(upto));
        if inner.failed || inner.write(&body, false).is_err() {
            inner.failed = true;
            return;
        }
        drop(inner);
        self.index.purge(group, upto);
    }
}
