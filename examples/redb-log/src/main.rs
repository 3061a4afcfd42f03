//! A log of one's own: votes and entries in redb instead of the library's write-ahead log. `cargo run --release -p redb-log`
//!
//! The log is in memory for reading, where a write is seen at once; a thread puts it into the database, as many writes in a
//! transaction as have come meanwhile, and completes them when that is committed. Snapshots and the node's identity stay
//! where the library keeps them.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Result as IoResult, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quorate::{
    Batch, Batches, ClusterId, Completions, GroupId, IdentityStore, LeaderId, LogId, LogWrite, MemoryStorage, Payload,
    Raft, RaftLogStorage, RaftStateMachine, Recovered, Span, Storage, StorageError, StorageErrorKind, Tail, Vote,
    WriteId,
};
use redb::{Database, ReadableTable, Table, TableDefinition};

/// By group and index: an entry as it is on the wire, with its checksum.
const ENTRIES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("entries");
/// By group: term, node and commitment of the vote; term, node and index of the last purged; nanoseconds of the lease.
const STATE: TableDefinition<'_, u64, [u64; 7]> = TableDefinition::new("state");

/// Writes that are made in one transaction at most.
const MOST_AT_ONCE: usize = 1000;

enum Job {
    Write(GroupId, WriteId, LogWrite),
    Purge(GroupId, LogId),
}

type Ears = Arc<Mutex<BTreeMap<GroupId, Arc<dyn Completions>>>>;

struct RedbLog {
    memory: MemoryStorage,
    ears: Ears,
    /// The thread that owns the database; `None` once closed.
    writer: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
}

/// What is loaded needs no answer.
struct Nobody;

impl Completions for Nobody {
    fn complete(&self, _write: WriteId, _result: Result<(), StorageError>) {}
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl Into<redb::Error>) -> StorageError {
    let error = error.into();
    let kind = match error {
        redb::Error::Corrupted(_) => StorageErrorKind::Corrupt,
        _ => StorageErrorKind::Io,
    };
    StorageError::new(kind, error.to_string())
}

/// Of some damage redb says that it cannot be, with a panic.
fn whole<T>(work: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    let damaged = |_| Err(StorageError::new(StorageErrorKind::Corrupt, "the database is damaged"));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(damaged)
}

fn log_id([term, node, index]: [u64; 3]) -> LogId {
    LogId::new(LeaderId::new(term, node), index)
}

impl RedbLog {
    /// Opens a log, or makes an empty one; `cluster` tells to which cluster its entries must belong.
    fn open(path: &Path, cluster: ClusterId) -> Result<Self, StorageError> {
        if !path.exists() {
            // A crash while redb makes a file leaves one that it refuses: only a whole one gets the name.
            let new = path.with_extension("new");
            drop(Database::create(&new).map_err(failed)?);
            std::fs::rename(&new, path)?;
            std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Self::on(whole(|| Database::open(path).map_err(failed))?, cluster)
    }

    fn on(database: Database, cluster: ClusterId) -> Result<Self, StorageError> {
        let (memory, ears) = (MemoryStorage::new(), Ears::default());
        if let Err(error) = whole(|| load(&database, &memory, cluster)) {
            // Its end may panic as well, then.
            let end = move || {
                drop(database);
                Err(error)
            };
            return whole(end);
        }
        let (work, jobs) = mpsc::channel();
        let told = Arc::clone(&ears);
        let thread =
            thread::Builder::new().name("redb-log".into()).spawn(move || write_all(&database, &jobs, &told))?;
        Ok(Self { memory, ears, writer: Mutex::new(Some((work, thread))) })
    }

    fn push(&self, job: Job) {
        if let Some((work, _)) = &*lock(&self.writer) {
            // The thread ends only after this.
            let _ = work.send(job);
        }
    }
}

impl Drop for RedbLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn load(database: &Database, memory: &MemoryStorage, cluster: ClusterId) -> Result<(), StorageError> {
    // Makes the tables too.
    let write = database.begin_write().map_err(failed)?;
    {
        let (entries, states) = (write.open_table(ENTRIES).map_err(failed)?, write.open_table(STATE).map_err(failed)?);
        for state in states.iter().map_err(failed)? {
            let (group, [term, node, committed, purged @ .., lease]) =
                state.map(|(group, state)| (GroupId(group.value()), state.value())).map_err(failed)?;
            let (leader_id, committed) = (LeaderId::new(term, node), committed == 1);
            let mut ops = vec![
                LogWrite::Vote(Vote { leader_id, committed }),
                LogWrite::Reset { to: log_id(purged), tail: Tail::Discard },
                LogWrite::PromiseLease(Duration::from_nanos(lease)),
            ];
            for entry in entries.range((group.0, 0)..=(group.0, u64::MAX)).map_err(failed)? {
                let bytes = entry.map_err(failed)?.1.value().to_vec();
                let batches = Batch::decode(cluster, group, bytes.into());
                let damaged = |error| StorageError::new(StorageErrorKind::Corrupt, format!("{group}: {error}"));
                ops.push(LogWrite::Append(batches.map_err(damaged)?));
            }
            ops.into_iter().for_each(|op| memory.submit(group, WriteId(0), op));
        }
    }
    write.commit().map_err(failed)
}

/// Works until the log is dropped. After a failure nothing is acknowledged any more.
fn write_all(database: &Database, jobs: &Receiver<Job>, ears: &Ears) {
    let mut failure = None;
    while let Ok(first) = jobs.recv() {
        let some: Vec<Job> = [first].into_iter().chain(jobs.try_iter().take(MOST_AT_ONCE)).collect();
        let written = failure.clone().map_or_else(|| whole(|| transaction(database, &some).map_err(failed)), Err);
        failure = written.clone().err();
        for job in &some {
            let Job::Write(group, write, _) = job else { continue };
            let ear = lock(ears).get(group).cloned();
            if let Some(ear) = ear {
                ear.complete(*write, written.clone());
            }
        }
    }
}

fn transaction(database: &Database, jobs: &[Job]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let (mut entries, mut states) = (write.open_table(ENTRIES)?, write.open_table(STATE)?);
        for job in jobs {
            let (Job::Write(GroupId(group), ..) | Job::Purge(GroupId(group), _)) = *job;
            let mut state = states.get(group)?.map_or([0; 7], |state| state.value());
            match job {
                Job::Write(_, _, op) => perform(&mut entries, &mut state, group, op)?,
                Job::Purge(_, upto) => purge(&mut entries, &mut state, group, *upto, Tail::Keep)?,
            }
            states.insert(group, state)?;
        }
    }
    Ok(write.commit()?)
}

type Entries<'a> = Table<'a, (u64, u64), &'static [u8]>;

fn perform(entries: &mut Entries<'_>, state: &mut [u64; 7], group: u64, op: &LogWrite) -> Result<(), redb::Error> {
    match op {
        LogWrite::Vote(vote) => {
            state[..3].copy_from_slice(&[vote.leader_id.term, vote.leader_id.node_id.0, vote.committed.into()]);
        }
        LogWrite::PromiseLease(lease) => {
            state[6] = state[6].max(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX));
        }
        LogWrite::Append(batches) => {
            for batch in batches {
                for index in batch.first().index..=batch.last().index {
                    if let Some(one) = batch.slice(index, index) {
                        entries.insert((group, index), &one.bytes()[..])?;
                    }
                }
            }
        }
        LogWrite::Truncate { after } => {
            entries.retain_in((group, after.index + 1)..=(group, u64::MAX), |_, _| false)?
        }
        LogWrite::Reset { to, tail } => purge(entries, state, group, *to, *tail)?,
        // This log never promises more than it holds.
        LogWrite::ForgetPromisedEnd => {}
    }
    Ok(())
}

fn purge(
    entries: &mut Entries<'_>,
    state: &mut [u64; 7],
    group: u64,
    upto: LogId,
    tail: Tail,
) -> Result<(), redb::Error> {
    let end = if tail == Tail::Keep { upto.index } else { u64::MAX };
    entries.retain_in((group, 0)..=(group, end), |_, _| false)?;
    state[3..6].copy_from_slice(&[upto.leader_id.term, upto.leader_id.node_id.0, upto.index]);
    Ok(())
}

impl RaftLogStorage for RedbLog {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        lock(&self.ears).insert(group, completions);
        self.memory.recover(group, Arc::new(Nobody))
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        self.memory.submit(group, WriteId(0), op.clone());
        self.push(Job::Write(group, write, op));
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.memory.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.memory.purge(group, upto);
        self.push(Job::Purge(group, upto));
    }

    fn close(&self) {
        if let Some((work, thread)) = lock(&self.writer).take() {
            drop(work);
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Everything that was said, in order.
#[derive(Default)]
struct Said(Vec<String>);

impl RaftStateMachine for Said {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, text: String) -> u64 {
        self.0.push(text);
        self.0.len() as u64
    }

    fn snapshot(&self, out: &mut dyn Write) -> IoResult<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> IoResult<Self> {
        Payload::read_from(input).map(Self)
    }
}

/// Starts a node in a directory: all but the log is the library's.
async fn start(directory: &Path) -> Result<Raft<Said>, Box<dyn Error>> {
    let library = Storage::open(directory, 1)?;
    let identity: &dyn IdentityStore = &*library.identity;
    let log = RedbLog::open(&directory.join("log.redb"), identity.identity().cluster)?;
    let storage = Storage { log: Arc::new(log), ..library };
    Ok(Raft::builder(1).peers([(1, "127.0.0.1:0")]).storage(storage).start(Said::default()).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = start(Path::new("data/redb-log")).await?;
    let count = node.client_write("hello".to_owned()).await?.response;
    println!("said {count} times; run it again");
    node.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests;
