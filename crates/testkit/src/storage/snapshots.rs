//! Whether a [`SnapshotStore`] keeps its promises. As for logs: one call for a store in a directory, and
//! [`Suite::on_disk`] for one that does its input and output through a [`Disk`].

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate::advanced::wal::Disk;
use quorate::advanced::wal::fake::{Crash, Fault, MemDisk};
use quorate::{
    GroupId, Incarnation, LeaderId, LogId, Membership, Node, NodeId, SnapshotData, SnapshotMeta, SnapshotSource,
    SnapshotStore, StorageError, StoredSnapshot,
};

use super::Places;
use super::crash::DIRECTORY;
use crate::chance::Chance;
use crate::report::{Failure, Law, Looked, Report};

const GROUP: GroupId = GroupId(3);
/// Snapshots that a script takes.
const SNAPSHOTS: u64 = 4;

/// Checks a store that `open` opens in a directory, and opens again there when the suite has dropped it.
///
/// # Panics
/// With the report, if a law is broken.
pub fn conformance<S: SnapshotStore>(open: impl Fn(&Path) -> Result<S, StorageError>) -> Report {
    Suite::new(open).run().assert_passed()
}

type Open<'a, S> = Box<dyn Fn(&Path) -> Result<S, StorageError> + 'a>;
type OpenOn<'a, S> = Box<dyn Fn(Arc<dyn Disk>, &Path) -> Result<S, StorageError> + 'a>;

enum Opener<'a, S> {
    InDirectory(Open<'a, S>),
    OnDisk(OpenOn<'a, S>),
}

/// A description of what to check; [`run`](Self::run) does it.
pub struct Suite<'a, S> {
    open: Opener<'a, S>,
    states: usize,
}

impl<S> std::fmt::Debug for Suite<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("states", &self.states).finish_non_exhaustive()
    }
}

impl<'a, S: SnapshotStore> Suite<'a, S> {
    /// A store that `open` opens in a directory of the file system, which is empty at first.
    pub fn new(open: impl Fn(&Path) -> Result<S, StorageError> + 'a) -> Self {
        Self { open: Opener::InDirectory(Box::new(open)), states: 300 }
    }

    /// A store that does everything through the [`Disk`] it is given.
    pub fn on_disk(open: impl Fn(Arc<dyn Disk>, &Path) -> Result<S, StorageError> + 'a) -> Self {
        Self { open: Opener::OnDisk(Box::new(open)), states: 300 }
    }

    /// About how many crashes, or faults, a part tries at most; 300 unless set. With more places for crashes
    /// than about a quarter of that, they are at a sample of them; the report says at how many of how many.
    pub fn states(mut self, states: usize) -> Self {
        self.states = states.max(1);
        self
    }

    /// Checks everything that can be.
    #[must_use = "a report may hold failures: `assert_passed` panics with them"]
    pub fn run(self) -> Report {
        let Self { open, states } = self;
        let mut report = Report::new("snapshot store");
        let places = Places::default();
        let open_at = |place: &Path| match &open {
            Opener::InDirectory(open) => open(place),
            Opener::OnDisk(open) => open(places.disk(place), Path::new(DIRECTORY)),
        };
        report.part("functional", || functional(&open_at, &places));
        report.part("between stores", || travel(&open_at, &places));
        match &open {
            Opener::OnDisk(open) => {
                report.part("crash at any write", || crashes(&**open, states));
                report.part("failing calls", || faults(&**open, states));
            }
            Opener::InDirectory(_) => {
                let why = "the store is not opened on a disk: `Suite::on_disk`";
                report.not_run("crash at any write", why);
                report.not_run("failing calls", why);
            }
        }
        report
    }
}

type OpenAt<'a, S> = &'a dyn Fn(&Path) -> Result<S, StorageError>;

fn opened<S>(result: Result<S, StorageError>, what: &str) -> Result<S, Failure> {
    result.map_err(|error| Failure::new(Law::OpensAgain, format!("{what}: opening"), "a store", error.to_string()))
}

fn meta(number: u64) -> SnapshotMeta {
    let id = |index| LogId::new(LeaderId::new(2, 1), index);
    let node = Node::at(format!("host-{number}:1"));
    let membership = Membership::majority([(NodeId(number), Incarnation(u128::from(number)), node)]);
    SnapshotMeta { last_log_id: id(number * 10), membership_log_id: id(number), membership }
}

/// The larger ones are larger than any buffer on the way.
fn content(number: u64) -> Vec<u8> {
    (0..number * number * 70_000).map(|at| (at * 31 + number) as u8).collect()
}

fn write<S: SnapshotStore>(store: &S, group: GroupId, number: u64) -> Result<(), StorageError> {
    let mut writer = store.create(group, &meta(number))?;
    for part in content(number).chunks(50_000) {
        writer.write_all(part)?;
    }
    writer.commit()
}

/// The number of the snapshot that is stored; 0 if none is.
fn number_of<S: SnapshotStore>(store: &S, group: GroupId, step: &str) -> Result<u64, Failure> {
    let broken = |law, found: String| Failure::new(law, step, "a whole snapshot", found);
    let stored = store.latest(group).map_err(|error| broken(Law::SnapshotIsWhole, error.to_string()))?;
    let Some(stored) = stored else { return Ok(0) };
    let number = stored.meta().last_log_id.index / 10;
    if stored.meta() != &meta(number) {
        return Err(broken(Law::SnapshotIsKept, format!("{:?}", stored.meta())));
    }
    stored.verify().map_err(|error| broken(Law::SnapshotIsWhole, error.to_string()))?;
    let read = read(&*stored).map_err(|error| broken(Law::SnapshotIsWhole, error.to_string()))?;
    if read != content(number) {
        let found = format!("snapshot {number} with {} bytes, not the {} written", read.len(), content(number).len());
        return Err(broken(Law::SnapshotIsWhole, found));
    }
    Ok(number)
}

fn read(stored: &dyn StoredSnapshot) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stored.content()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn expect<S: SnapshotStore>(store: &S, group: GroupId, number: u64, law: Law, step: &str) -> Result<usize, Failure> {
    let found = number_of(store, group, step)?;
    match found == number {
        true => Ok(1),
        false => Err(Failure::new(law, step, format!("snapshot {number}"), format!("snapshot {found}"))),
    }
}

fn done<T>(result: Result<T, StorageError>, law: Law, step: &str) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(law, step, "success", error.to_string()))
}

fn functional<S: SnapshotStore>(open_at: OpenAt<'_, S>, places: &Places) -> Result<usize, Failure> {
    let place = places.blank();
    let mut checks = 0;
    for number in 1..=SNAPSHOTS {
        let what = format!("snapshot {number}");
        let store = opened(open_at(&place), &what)?;
        checks += expect(&store, GROUP, number - 1, Law::SnapshotIsKept, "what was taken before, opened again")?;
        {
            let mut writer = done(store.create(GROUP, &meta(9)), Law::SnapshotIsKept, "beginning one")?;
            done(writer.write_all(&[1; 1000]).map_err(Into::into), Law::SnapshotIsKept, "writing a part of one")?;
            let step = format!("a snapshot half written, beside {}", number - 1);
            checks += expect(&store, GROUP, number - 1, Law::SnapshotIsWhole, &step)?;
        }
        let step = "a snapshot that was given up";
        checks += expect(&store, GROUP, number - 1, Law::SnapshotIsWhole, step)?;
        done(write(&store, GROUP, number), Law::SnapshotIsKept, &what)?;
        checks += expect(&store, GROUP, number, Law::SnapshotIsKept, &what)?;
        checks += expect(&store, GroupId(6), 0, Law::GroupsAreApart, &what)?;
    }
    let store = opened(open_at(&place), "all")?;
    done(write(&store, GroupId(6), 2), Law::SnapshotIsKept, "one of another group")?;
    checks += expect(&store, GROUP, SNAPSHOTS, Law::GroupsAreApart, "one of another group")?;
    Ok(checks + expect(&store, GroupId(6), 2, Law::GroupsAreApart, "one of another group")?)
}

/// What a peer would receive of the newest snapshot.
fn sent<S: SnapshotStore>(store: &S, step: &str) -> Result<Bytes, Failure> {
    let failed = |error: String| Failure::new(Law::SnapshotTravels, step, "bytes to send", error);
    let stored = store.latest(GROUP).map_err(|error| failed(error.to_string()))?;
    let stored = stored.ok_or_else(|| failed("no snapshot".to_owned()))?;
    stored.source().and_then(SnapshotSource::read_all).map_err(|error| failed(error.to_string()))
}

fn travel<S: SnapshotStore>(open_at: OpenAt<'_, S>, places: &Places) -> Result<usize, Failure> {
    let mut checks = 0;
    let (from, to) = (opened(open_at(&places.blank()), "a store")?, opened(open_at(&places.blank()), "a second")?);
    for number in 1..=SNAPSHOTS {
        let step = format!("sending snapshot {number} to another store");
        done(write(&from, GROUP, number), Law::SnapshotIsKept, &step)?;
        let bytes = sent(&from, &step)?;
        let data = match number % 2 {
            0 => SnapshotData::Memory(bytes),
            _ => {
                let file = places.blank().join("received");
                done(std::fs::write(&file, &bytes).map_err(Into::into), Law::SnapshotTravels, &step)?;
                SnapshotData::File(file)
            }
        };
        let received = done(to.receive(GROUP, data), Law::SnapshotTravels, &step)?;
        checks += expect(&to, GROUP, number - 1, Law::SnapshotIsWhole, "received, not adopted")?;
        let mut content_of = Vec::new();
        let copied = received.content().and_then(|mut reader| reader.read_to_end(&mut content_of));
        done(copied.map_err(Into::into), Law::SnapshotTravels, &step)?;
        if received.meta() != &meta(number) || content_of != content(number) {
            let found = format!("{:?}, {} bytes", received.meta(), content_of.len());
            return Err(Failure::new(Law::SnapshotTravels, step, "what was sent", found));
        }
        done(received.adopt(), Law::SnapshotTravels, &step)?;
        checks += expect(&to, GROUP, number, Law::SnapshotIsKept, "received and adopted")?;
    }
    Ok(checks)
}

type On<'a, S> = &'a dyn Fn(Arc<dyn Disk>, &Path) -> Result<S, StorageError>;

/// Crashes while snapshots are taken, one of them from a peer: at every step as long as the steps are at most a quarter
/// of the states asked for, else at a sample.
fn crashes<S: SnapshotStore>(open: On<'_, S>, states: usize) -> Result<Looked, Failure> {
    let on = |disk: &MemDisk| open(Arc::new(disk.clone()), Path::new(DIRECTORY));
    let peer = opened(on(&MemDisk::new()), "a peer")?;
    let disk = MemDisk::new();
    disk.start_journal();
    let store = opened(on(&disk), "a blank disk")?;
    // Where in the journal each began and was committed.
    let mut taken = Vec::new();
    for number in 1..=SNAPSHOTS {
        let (step, began) = (format!("snapshot {number}"), disk.journal_steps());
        if number == 3 {
            done(write(&peer, GROUP, number), Law::SnapshotIsKept, &step)?;
            let bytes = sent(&peer, &step)?;
            let received = done(store.receive(GROUP, SnapshotData::Memory(bytes)), Law::SnapshotTravels, &step)?;
            done(received.adopt(), Law::SnapshotTravels, &step)?;
        } else {
            done(write(&store, GROUP, number), Law::SnapshotIsKept, &step)?;
        }
        taken.push((number, began, disk.journal_steps()));
    }
    drop(store);
    let (total, mut replay, mut seen) = (disk.journal_steps(), disk.replay(), 0);
    let (mut chance, mut tried, mut places) = (Chance::new(1), 0, 0);
    loop {
        let steps = replay.steps();
        places += 1;
        if chance.below(total as u64 * 4) < states as u64 {
            tried += 1;
            let least = taken.iter().filter(|taken| taken.2 <= steps).map(|taken| taken.0).max().unwrap_or(0);
            let most = taken.iter().filter(|taken| taken.1 <= steps).map(|taken| taken.0).max().unwrap_or(0);
            let sample = steps as u64;
            for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(sample), Crash::Subset(sample + 1)] {
                let step = format!("a crash at step {steps} of {total} of the disk, {crash:?}");
                let store = opened(on(&replay.crashed(crash)), &step)?;
                let found = number_of(&store, GROUP, &step)?;
                if found < least || found > most {
                    let expected = format!("snapshot {least} to {most}");
                    return Err(Failure::new(Law::SnapshotIsKept, step, expected, format!("snapshot {found}")));
                }
                seen += 1;
            }
        }
        if !replay.advance() {
            return Ok(Looked { checks: seen, places: Some((tried, places)) });
        }
    }
}

/// One call of the disk fails; what was committed before stays.
fn faults<S: SnapshotStore>(open: On<'_, S>, states: usize) -> Result<Looked, Failure> {
    let on = |disk: &MemDisk| open(Arc::new(disk.clone()), Path::new(DIRECTORY));
    let calls = {
        let disk = MemDisk::new();
        let store = opened(on(&disk), "a disk without faults")?;
        (1..=2).try_for_each(|number| done(write(&store, GROUP, number), Law::SnapshotIsKept, "no fault"))?;
        disk.calls()
    };
    let stride = calls.div_ceil(states as u64).max(1);
    let mut runs = 0;
    for call in (0..calls).step_by(usize::try_from(stride).unwrap_or(1)) {
        let disk = MemDisk::new();
        disk.fail_at(call, Fault::Error(io::ErrorKind::Other));
        let step = format!("call {call} of the disk fails");
        let store = opened(on(&disk).or_else(|_| on(&disk)), &step)?;
        let mut least = 0;
        for number in 1..=2 {
            if write(&store, GROUP, number).is_ok() {
                least = number;
            }
        }
        drop(store);
        let step = format!("{step}, then a crash");
        let store = opened(on(&disk.crashed(Crash::DropAll)), &step)?;
        let found = number_of(&store, GROUP, &step)?;
        if found < least {
            let expected = format!("at least snapshot {least}");
            return Err(Failure::new(Law::SnapshotIsKept, step, expected, format!("snapshot {found}")));
        }
        runs += 1;
    }
    Ok(Looked { checks: runs, places: Some((runs, calls as usize)) })
}
