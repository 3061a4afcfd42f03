//! Whether a [`RaftLogStorage`] keeps its promises.
//!
//! One call checks a log that lives in a directory, or wherever the closure keeps it:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::path::PathBuf;
//! use std::sync::Mutex;
//! use quorate::MemoryStorage;
//!
//! // A log in memory "survives" because clones of it are the same log.
//! let logs = Mutex::new(BTreeMap::<PathBuf, MemoryStorage>::new());
//! let open = |dir: &std::path::Path| Ok(logs.lock().unwrap().entry(dir.to_owned()).or_default().clone());
//! let report = quorate_testkit::storage::conformance(open);
//! assert_eq!(report.not_run_parts(), ["crash at any write", "torn writes", "lying disk", "failing calls"]);
//! ```
//!
//! A log that does all its input and output through [`Disk`] is also crashed between any two calls of the disk, one in
//! memory that tears writes, lies and fails; that takes [`Suite::on_disk`]. At every such place if there are few, else at
//! as many as [`Suite::states`] allows, drawn by chance; the report says at how many of how many. An adapter from another library's idea of a file to
//! [`Disk`] is a few lines.

mod crash;
mod model;
mod rig;
mod scripted;
pub mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::advanced::wal::Disk;
use quorate::advanced::wal::fake::MemDisk;
use quorate::{ClusterId, RaftLogStorage, StorageError};

use self::crash::OpenOn;
use crate::report::{Failure, Looked, Report};

/// The cluster whose entries the suite writes.
pub const CLUSTER: ClusterId = ClusterId(0x7e57);

/// Checks a log that `open` opens in a directory, and opens again there when the suite has dropped it.
///
/// # Panics
/// With the report, if a law is broken.
pub fn conformance<L: RaftLogStorage>(open: impl Fn(&Path) -> Result<L, StorageError>) -> Report {
    Suite::new(open).run().assert_passed()
}

type Open<'a, L> = Box<dyn Fn(&Path) -> Result<L, StorageError> + 'a>;
type Opened<'a, L> = Box<dyn Fn(Arc<dyn Disk>, &Path) -> Result<L, StorageError> + 'a>;

/// How to open the log under test.
enum Opener<'a, L> {
    InDirectory(Open<'a, L>),
    OnDisk(Opened<'a, L>),
}

/// A description of what to check; [`run`](Self::run) does it.
pub struct Suite<'a, L> {
    open: Opener<'a, L>,
    options: Options,
}

impl<L> std::fmt::Debug for Suite<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Options {
    seed: u64,
    seeds: u64,
    writes: usize,
    states: usize,
    patience: Duration,
}

impl Options {
    fn seeds(&self) -> std::ops::Range<u64> {
        self.seed..self.seed + self.seeds
    }
}

impl<'a, L: RaftLogStorage> Suite<'a, L> {
    /// A log that `open` opens in a directory of the file system, which is empty at first. Crashes are not simulated.
    pub fn new(open: impl Fn(&Path) -> Result<L, StorageError> + 'a) -> Self {
        Self::of(Opener::InDirectory(Box::new(open)))
    }

    /// A log that does everything through the [`Disk`] it is given, in the directory it is given, which may not exist yet.
    pub fn on_disk(open: impl Fn(Arc<dyn Disk>, &Path) -> Result<L, StorageError> + 'a) -> Self {
        Self::of(Opener::OnDisk(Box::new(open)))
    }

    fn of(open: Opener<'a, L>) -> Self {
        let patience = Duration::from_secs(20);
        Self { open, options: Options { seed: 1, seeds: 2, writes: 30, states: 400, patience } }
    }

    /// How many random scripts a part plays, and from which seed on; 2 from seed 1 unless set.
    pub fn seeds(mut self, first: u64, count: u64) -> Self {
        (self.options.seed, self.options.seeds) = (first, count);
        self
    }

    /// How many writes a random script has; 30 unless set.
    pub fn writes(mut self, writes: usize) -> Self {
        self.options.writes = writes;
        self
    }

    /// About how many crashes, or faults, a part tries at most; 400 unless set. A script with more places for them than
    /// about half of that is not tried at every one, but at a sample.
    pub fn states(mut self, states: usize) -> Self {
        self.options.states = states.max(1);
        self
    }

    /// How long a write may take to complete before the suite says that it never will; 20 s unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience.min(crate::NO_LIMIT);
        self
    }

    /// Checks everything that can be.
    #[must_use = "a report may hold failures: `assert_passed` panics with them"]
    pub fn run(self) -> Report {
        let Self { open, options } = self;
        let mut report = Report::new("log storage");
        let disks = Places::default();
        let open_at = |place: &Path| match &open {
            Opener::InDirectory(open) => open(place),
            Opener::OnDisk(open) => open(disks.disk(place), Path::new(crash::DIRECTORY)),
        };
        report.part("functional", || scripted::functional(&open_at, &disks.blank(), &options));
        report.part("reopening", || scripted::reopening(&open_at, &disks.blank(), &options));
        report.part("random writes", || scripted::random(&open_at, &|| disks.blank(), &options));
        report.part("readers beside a writer", || scripted::readers(&open_at, &disks.blank(), &options));
        let parts: [(&'static str, Part<L>); 4] = [
            ("crash at any write", |open, options| crash::crashes(open, options, false)),
            ("torn writes", |open, options| crash::crashes(open, options, true)),
            ("lying disk", |open, options| crash::lying_disk(open, options).map(Looked::from)),
            ("failing calls", crash::faults),
        ];
        for (name, part) in parts {
            match &open {
                Opener::OnDisk(open) => report.part(name, || part(&**open, &options)),
                Opener::InDirectory(_) => report.not_run(name, "the log is not opened on a disk: `Suite::on_disk`"),
            }
        }
        report
    }
}

type Part<L> = fn(OpenOn<'_, L>, &Options) -> Result<Looked, Failure>;

/// Directories of a run, each blank at first; removed at the end.
pub(crate) struct Places {
    root: PathBuf,
    next: AtomicU64,
    disks: std::sync::Mutex<std::collections::BTreeMap<PathBuf, MemDisk>>,
}

impl Default for Places {
    fn default() -> Self {
        static RUN: AtomicU64 = AtomicU64::new(0);
        let name = format!("quorate-conformance-{}-{}", std::process::id(), RUN.fetch_add(1, Ordering::Relaxed));
        Self { root: std::env::temp_dir().join(name), next: AtomicU64::new(0), disks: Default::default() }
    }
}

impl Places {
    /// A directory that exists and is empty.
    pub(crate) fn blank(&self) -> PathBuf {
        let place = self.root.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        assert!(std::fs::create_dir_all(&place).is_ok(), "cannot make {}", place.display());
        place
    }

    /// The disk in memory that stands for a directory.
    pub(crate) fn disk(&self, place: &Path) -> Arc<dyn Disk> {
        let mut disks = self.disks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(disk) = disks.get(place) {
            return Arc::new(disk.clone());
        }
        let disk = MemDisk::new();
        disks.insert(place.to_owned(), disk.clone());
        Arc::new(disk)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // What is left behind is in the system's directory for such things.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
