//! Opening a data directory: formatting a blank one, refusing what is not this node's, recovering.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use quorate_core::{ClusterId, Incarnation, Instant, LeaderIdMode, Starts};

use crate::codec::round_up;
use crate::disk::{Disk, DiskLock};
use crate::error::{Damage, WalError};
use crate::forced::{self, ForcedRecovery};
use crate::frame::{Position, SECTOR_BYTES};
use crate::handle::{Group, Shared, State, WalHandle, lock};
use crate::identity::{Identity, IdentityFile, PeersFile};
use crate::mend::{self, Prefixes, write_again};
use crate::note;
use crate::options::{MIN_SEGMENT_BYTES, OnDamage, WalOptions};
use crate::recover::{Recovery, recover};
use crate::segment::number_of;
use crate::snapshot::SnapshotStore;
use crate::turn::{Wake, Writer, fail_waiting};
use crate::vote_file::{VoteFiles, holds_votes};

/// The log without a thread: whoever has it calls [`turn`](Self::turn). One exists for a data directory.
pub struct WalCore {
    shared: Arc<Shared>,
    /// Held as long as the log may be written.
    _lock: Box<dyn DiskLock>,
}

impl WalCore {
    /// Opens a data directory, formatting a blank one.
    ///
    /// # Errors
    /// [`WalError::Locked`], [`WalError::OtherNode`], [`WalError::OtherVersion`], [`WalError::NoIdentity`],
    /// [`WalError::OlderCopy`], [`WalError::Corrupt`], or what the disk says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(WalCore, WalHandle), WalError> {
        let options = WalOptions {
            segment_bytes: round_up(options.segment_bytes.max(MIN_SEGMENT_BYTES), SECTOR_BYTES),
            ..options
        };
        disk.create_dir_all(dir).map_err(WalError::io("create", dir))?;
        let lock_path = dir.join("LOCK");
        let lock = disk.lock(&lock_path).map_err(WalError::io("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| WalError::Locked { dir: dir.to_path_buf() })?;
        let names = disk.list(dir).map_err(WalError::io("list", dir))?;
        if !names.iter().any(|name| name == "identity") {
            format(&*disk, dir, &options)?;
        }
        let (shared, forced) = open_formatted(Arc::clone(&disk), dir, options)?;
        let shared = Arc::new(shared);
        let (mut core, handle) = (WalCore { shared: shared.clone(), _lock: lock }, WalHandle { shared });
        if let Some(forced) = forced {
            forced::finish(&mut core, &handle, dir, &forced)?;
            forced::forget(&*disk, dir)?;
        }
        Ok((core, handle))
    }

    /// Writes what is queued and completes it. `now` never goes back.
    pub fn turn(&mut self, now: Instant) -> Wake {
        lock(&self.shared.writer).turn(&self.shared, now)
    }

    /// Whether something was submitted since the last turn began.
    pub fn has_work(&self) -> bool {
        lock(&self.shared.state).dirty
    }

    /// Whether nothing is left to be written, and the log has said that everything is durable. Superfluous segments may
    /// still wait to be removed.
    pub fn is_settled(&self) -> bool {
        let writer = lock(&self.shared.writer);
        let state = lock(&self.shared.state);
        writer.is_settled() && state.queue.is_empty() && !state.dirty
    }

    /// Writes what is queued, says that everything is durable, and closes the log. Writes that wait for space fail.
    ///
    /// # Errors
    /// The first failure of this log, if there was one.
    pub fn close(mut self, now: Instant) -> Result<(), WalError> {
        lock(&self.shared.state).closed = true;
        while self.turn(now) == Wake::Again {}
        let failure = lock(&self.shared.state).poison.clone();
        let closed = match failure {
            Some(error) => Err(error),
            None => lock(&self.shared.writer).closing_mark(),
        };
        fail_waiting(&self.shared, &WalError::Closed);
        closed
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for WalCore {
    fn drop(&mut self) {
        // Nobody will take a turn any more: whoever waits must hear of it.
        lock(&self.shared.state).closed = true;
        fail_waiting(&self.shared, &WalError::Closed);
    }
}

impl std::fmt::Debug for WalCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalCore").finish_non_exhaustive()
    }
}

pub(crate) fn vote_paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("vote.a"), dir.join("vote.b")]
}

/// Makes a blank directory a node's. The identity comes last: without it the next opening formats again.
fn format(disk: &dyn Disk, dir: &Path, options: &WalOptions) -> Result<(), WalError> {
    let wal = dir.join("wal");
    let segments = match disk.list(&wal) {
        Ok(names) => names.into_iter().find(|name| number_of(name).is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(WalError::io("list", &wal)(error)),
    };
    let mut found = segments.map(|name| wal.join(name));
    for path in vote_paths(dir) {
        if holds_votes(disk, &path)? {
            found = Some(path);
        }
    }
    if let Some(found) = found {
        return Err(WalError::NoIdentity { dir: dir.to_path_buf(), found });
    }
    disk.create_dir_all(&wal).map_err(WalError::io("create", &wal))?;
    VoteFiles::create(disk, vote_paths(dir))?;
    let incarnation = match options.incarnation {
        Some(incarnation) => incarnation,
        None => random_incarnation()?,
    };
    PeersFile::create(disk, &dir.join("peers"), incarnation)?;
    sync_parent(disk, dir)?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
    let identity = Identity {
        cluster: ClusterId(0),
        node: options.node_id,
        incarnation,
        formatted: incarnation,
        starts: Starts::default(),
        mode: LeaderIdMode::default(),
        created: options.created.unwrap_or_else(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
        }),
    };
    let (made, path) = (dir.join("identity.tmp"), dir.join("identity"));
    IdentityFile::create(disk, &made, identity)?;
    disk.rename(&made, &path).map_err(WalError::io("rename", &made))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

/// Makes the names of the directory and of those above it durable: any of them may be new. A directory above that may not be read was not made by us.
fn sync_parent(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
            other => other.map_err(WalError::io("sync", parent))?,
        }
    }
    Ok(())
}

pub(crate) fn random_incarnation() -> Result<Incarnation, WalError> {
    Ok(Incarnation(u128::from_le_bytes(random_bytes()?)))
}

/// Of one start; 0 would say that there is none.
fn random_token() -> Result<u64, WalError> {
    Ok(u64::from_le_bytes(random_bytes()?).max(1))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], WalError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    let mut source = std::fs::File::open(path).map_err(WalError::io("open", path))?;
    source.read_exact(&mut bytes).map_err(WalError::io("read", path))?;
    Ok(bytes)
}

/// Reads everything first; only when all of it is good is something written.
fn open_formatted(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: WalOptions,
) -> Result<(Shared, Option<ForcedRecovery>), WalError> {
    let mut file = IdentityFile::open(&*disk, &dir.join("identity"))?;
    let identity = file.identity();
    if identity.node != options.node_id {
        let (found, wanted) = (identity.node, options.node_id);
        return Err(WalError::OtherNode { dir: dir.to_path_buf(), found, wanted });
    }
    if let Some(mark) = file.mark() {
        return Err(mark.clone().into_error(dir));
    }
    let wal = dir.join("wal");
    let forced = forced::pending(&*disk, dir, &identity)?;
    let Opened { recovery, prefixes, mended, noted } = recover_or_mend(&disk, dir, &options, &identity.of_log())?;
    let peers = PeersFile::open(&*disk, &dir.join("peers"), identity.formatted)?;
    let votes = VoteFiles::open(&*disk, vote_paths(dir), &identity.of_log())?;
    let snapshots = SnapshotStore::open(disk.clone(), dir, identity.cluster.base(), identity.starts.boot() + 1)?;
    let token = match options.start_token {
        Some(token) => token,
        None => random_token()?,
    };
    file.count_start(token)?;
    let on_damage = options.on_damage;
    let mut writer = Writer {
        active: recovery.active,
        next: recovery.next,
        segments: recovery.segments,
        ..Writer::new(disk.clone(), wal, options, file.identity().of_log(), votes)
    };
    writer.reopen()?;
    let groups = recovery
        .groups
        .into_iter()
        .map(|(group, written)| (group, Group { view: written.ids.clone(), written, ..Group::default() }));
    let durable = writer.active.as_ref().map(|active| active.durable).unwrap_or_default();
    let state = State { cluster: identity.cluster, groups: groups.collect(), durable, ..State::default() };
    let shared = Shared {
        writer: Mutex::new(writer),
        state: Mutex::new(state),
        work: Condvar::new(),
        turned: Condvar::new(),
        identity: Mutex::new(file),
        peers: Mutex::new(peers),
        snapshots,
        disk: disk.clone(),
        dir: dir.to_path_buf(),
        noted: Mutex::default(),
        on_damage,
        mended,
    };
    if let Some(prefixes) = prefixes {
        write_again(&shared, prefixes)?;
    }
    if noted {
        note::forget(&*disk, dir)?;
    }
    Ok((shared, forced))
}

/// What opening found.
struct Opened {
    recovery: Recovery,
    /// After mending: what is to be written to the fresh log again.
    prefixes: Option<Prefixes>,
    /// What was mended.
    mended: Option<Arc<Damage>>,
    /// Whether a note of damage was heeded, and is to be removed once the log is known to be durable.
    noted: bool,
}

/// Reads the log; mends it first if it is damaged and that is wanted.
fn recover_or_mend(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &WalOptions,
    identity: &Identity,
) -> Result<Opened, WalError> {
    let wal = dir.join("wal");
    mend::finish(&**disk, dir)?;
    let note = note::read(&**disk, dir, identity)?;
    let found = recover(&**disk, &wal, identity, note.as_ref());
    let may_mend = options.on_damage == OnDamage::Mend && identity.cluster != ClusterId(0);
    let noted = may_mend && note.is_some();
    if let Some(note) = note.as_ref().filter(|_| !may_mend) {
        note.check(dir)?;
    }
    let (damage, sound_end) = match found {
        Ok(recovery) => {
            let damage = match may_mend && !noted {
                true => recovery.damage_to_what_starts_read(),
                // Everything is read, or damage is for whoever meets it.
                false => None,
            };
            if damage.is_none() && !noted {
                return Ok(Opened { recovery, prefixes: None, mended: None, noted });
            }
            let end = recovery.active.map(|active| Position { segment: active.segment.number, offset: active.end });
            (damage, end)
        }
        Err(WalError::Corrupt(damage)) if may_mend => (Some(damage), None),
        Err(error) => return Err(error),
    };
    let votes = VoteFiles::open(&**disk, vote_paths(dir), identity)?;
    let note = note.unwrap_or_default();
    let prefixes = mend::mend(disk, dir, options, identity, votes, sound_end, &note)?;
    if noted && prefixes.is_some() {
        // What it is for is in the files of votes, durably. A crash from here on finds an ordinary log.
        note::forget(&**disk, dir)?;
    }
    let found_when_read = || Arc::new(Damage::noted(dir.join(note::NAME)));
    let mended = (prefixes.is_some() || note.is_damaged).then(|| damage.unwrap_or_else(found_when_read));
    let noted = noted && prefixes.is_none();
    Ok(Opened { recovery: recover(&**disk, &wal, identity, None)?, prefixes, mended, noted })
}
