//! Every state that a crash could leave: of the log, the votes, the identity and the snapshots of a random script with restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::ops::Add;
use std::time::Duration;

use quorate_core::{ClusterId, GroupId, LeaderIdMode, SnapshotMeta};
use quorate_wal::fake::{Crash, MemDisk, Replay};

use super::{CLUSTER, Model, ModelEntry, Rig, Rng, Script, check_group, log_id, membership, options};

/// What may be found from a step of the journal on, until the next epoch.
pub struct Epoch {
    from: usize,
    models: BTreeMap<GroupId, Model>,
}

/// A snapshot that was taken while the script ran.
struct Taken {
    began: usize,
    committed: usize,
    index: u64,
}

/// What a script did.
pub struct Past {
    epochs: Vec<Epoch>,
    snapshots: Vec<Taken>,
}

impl Past {
    fn at(&self, steps: usize) -> &Epoch {
        self.epochs.iter().rev().find(|epoch| epoch.from <= steps).unwrap()
    }

    /// Tells apart the steps at which different things may be found.
    fn expected_at(&self, steps: usize) -> u64 {
        let epoch = self.at(steps);
        let mut hasher = DefaultHasher::new();
        epoch.from.hash(&mut hasher);
        epoch.models.values().for_each(|model| model.floor(steps).hash(&mut hasher));
        let so_far = |at: &dyn Fn(&Taken) -> usize| self.snapshots.iter().filter(|taken| at(taken) <= steps).count();
        (so_far(&|taken| taken.began), so_far(&|taken| taken.committed)).hash(&mut hasher);
        hasher.finish()
    }

    /// The snapshot that was acknowledged last is there, or one that was begun since; and it is whole.
    fn check_snapshots(&self, rig: &Rig, steps: usize, what: &str) {
        let acknowledged =
            self.snapshots.iter().filter(|taken| taken.committed <= steps).map(|taken| taken.index).max();
        let begun = self.snapshots.iter().filter(|taken| taken.began <= steps).map(|taken| taken.index).max();
        let found = rig.handle.snapshots().latest(SNAPSHOTS_OF);
        let found = found.unwrap_or_else(|error| panic!("{what}: unopenable: a snapshot: {error}"));
        let index = found.as_ref().map(|file| file.meta().last_log_id.index);
        assert!(index >= acknowledged, "{what}: lost: the newest snapshot is {index:?}, not {acknowledged:?}");
        assert!(index <= begun, "{what}: resurrected: snapshot {index:?}, the last one begun is {begun:?}");
        if let Some(file) = found {
            let mut bytes = Vec::new();
            let read = file.content().read_to_end(&mut bytes);
            read.unwrap_or_else(|error| panic!("{what}: lost: the snapshot's content: {error}"));
            assert!(bytes == snapshot_content(index.unwrap_or(0)), "{what}: lost: the snapshot has another content");
        }
    }
}

/// The group that has snapshots.
pub const SNAPSHOTS_OF: GroupId = GroupId(3);

pub fn snapshot_meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: log_id(2, index), membership_log_id: log_id(1, 1), membership: membership(3) }
}

pub fn snapshot_content(index: u64) -> Vec<u8> {
    (0..1500 + index * 7).map(|i| (i * 31 + index) as u8).collect()
}

/// Takes a snapshot, its own or a peer's, and removes the others.
pub fn take_snapshot(rig: &Rig, index: u64) -> Result<(), quorate_wal::WalError> {
    let store = rig.handle.snapshots();
    if index.is_multiple_of(2) {
        let mut writer = store.create(SNAPSHOTS_OF, &snapshot_meta(index))?;
        writer.write_all(&snapshot_content(index)).unwrap_or_default();
        writer.commit()?;
    } else {
        let mut incoming = store.receive(SNAPSHOTS_OF)?;
        incoming.append(&peers_file(index))?;
        store.adopt(incoming.finish()?)?;
    }
    store.prune(SNAPSHOTS_OF)
}

/// The bytes of a snapshot file of another node.
fn peers_file(index: u64) -> Vec<u8> {
    let peer = Rig::begin(&MemDisk::new(), 16 << 10);
    let mut writer = peer.handle.snapshots().create(SNAPSHOTS_OF, &snapshot_meta(index)).unwrap();
    writer.write_all(&snapshot_content(index)).unwrap();
    let file = writer.commit().unwrap();
    let mut bytes = vec![0; file.len() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Runs a random script with restarts and returns what may be found when.
pub fn run(disk: &MemDisk, seed: u64, writes: usize, segment_bytes: u64) -> Past {
    disk.start_journal();
    let mut script = Script::new(seed, 3);
    if seed % 4 == 3 {
        script.largest_payload = 3000;
    }
    let mut epochs = Vec::new();
    let (mut snapshots, mut chance) = (Vec::new(), Rng(seed ^ 0x5eed));
    let mut rig = Rig::begin(disk, segment_bytes);
    let mut from = 0;
    for group in script.groups.clone() {
        rig.group(group).unwrap();
    }
    let mut done = 0;
    while done < writes {
        if chance.below(30) == 0 {
            let (began, index) = (disk.journal_steps(), snapshots.len() as u64 + 1);
            take_snapshot(&rig, index).unwrap();
            snapshots.push(Taken { began, committed: disk.journal_steps(), index });
        }
        match script.rng.below(36) {
            0..=21 => {
                script.submit(&rig);
                done += 1;
            }
            22..=31 => {
                rig.settle();
            }
            32 => {
                rig.pass(Duration::from_millis(6));
            }
            33..=34 => {
                assert!(script.note(&rig).is_none());
                script.purge(&rig);
            }
            _ => {
                // The process is killed, perhaps in the middle of a turn, and started again; what it wrote without a
                // sync is still in the cache.
                assert!(script.note(&rig).is_none());
                disk.die_at(disk.calls() + script.rng.below(12));
                for _ in 0..2 {
                    script.submit(&rig);
                }
                rig.settle();
                script.note(&rig);
                drop(rig);
                disk.revive();
                rig = Rig::open(disk, options(segment_bytes)).unwrap();
                let mut models = BTreeMap::new();
                for (group, model) in &script.models {
                    let (k, purged) = check_group(&rig, *group, model, model.acknowledged.len(), "restart");
                    models.insert(*group, model.restart(k, purged));
                }
                epochs.push(Epoch { from, models: std::mem::replace(&mut script.models, models) });
                from = disk.journal_steps();
            }
        }
        assert!(script.note(&rig).is_none());
    }
    rig.settle();
    assert!(script.note(&rig).is_none());
    epochs.push(Epoch { from, models: script.models });
    Past { epochs, snapshots }
}

/// Opens what a crash left, checks it, goes on writing, and checks that after another crash.
pub fn check(disk: &MemDisk, past: &Past, steps: usize, go_on: bool, segment_bytes: u64, what: &str) {
    let epoch = past.at(steps);
    let opened = Rig::open(disk, options(segment_bytes));
    let mut rig = opened.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
    if rig.handle.identity().cluster == ClusterId(0) {
        rig.handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
    }
    let mut expected = BTreeMap::new();
    for (group, model) in &epoch.models {
        let (k, purged) = check_group(&rig, *group, model, model.floor(steps), what);
        expected.insert(*group, model.restart(k, purged));
    }
    past.check_snapshots(&rig, steps, what);
    if !go_on {
        return;
    }
    for (group, model) in &mut expected {
        let last = model.now().last();
        let term = last.leader_id.term + 1000;
        rig.append(*group, 1, term, last.index + 1, &[b"after the crash"]);
        let mut state = model.now().clone();
        state.entries.push(ModelEntry {
            id: log_id(term, last.index + 1),
            kind: quorate_wire::EntryKind::Command,
            payload: (*b"after the crash").into(),
        });
        model.states = vec![state];
        model.purge = u64::MAX;
    }
    rig.settle();
    assert_eq!(rig.told().iter().filter(|(_, _, result, _)| result.is_ok()).count(), expected.len(), "{what}");
    let disk = disk.crashed(Crash::DropAll);
    let rig =
        Rig::open(&disk, options(segment_bytes)).unwrap_or_else(|error| panic!("{what}, then: unopenable: {error}"));
    for (group, model) in &expected {
        check_group(&rig, *group, model, 0, &format!("{what}, then"));
    }
}

/// Random subsets of sectors and of changes of directories that a crash at one step keeps: those that come to the same
/// disk count once.
const SUBSETS: u64 = 10;

/// What of the unsynced writes a crash may leave: nothing, everything, every prefix, and some random subsets, so that
/// changes of directories are seen in every order.
fn crash_modes(seed: u64, steps: usize, unsynced: usize) -> Vec<Crash> {
    if unsynced == 0 {
        return vec![Crash::DropAll];
    }
    let sample = seed.wrapping_mul(1_000_003).wrapping_add(steps as u64 * 17);
    let mut modes = vec![Crash::DropAll, Crash::KeepAll];
    modes.extend((1..unsynced).map(Crash::KeepFirst));
    modes.extend((0..SUBSETS).map(|further| Crash::Subset(sample.wrapping_add(further))));
    modes
}

/// What crashes left at the steps of a replay.
#[derive(Debug, Default)]
pub struct States {
    /// How many were checked. A disk that is the same at two steps is checked at both if something was acknowledged in
    /// between, as more must then be found on it.
    pub checked: usize,
    /// The digests of all of them: of equal ones only one.
    pub distinct: BTreeSet<u64>,
    /// With what may be found on them.
    pub seen: BTreeSet<(u64, u64)>,
    /// The most operations that a crash could undo.
    pub most_unsynced: usize,
}

impl States {
    /// Goes through the disks that a crash at this step may leave, but for those on which the same is `expected` as at an
    /// earlier step.
    pub fn of_step(&mut self, seed: u64, replay: &Replay, expected: u64, mut check: impl FnMut(Crash, &MemDisk)) {
        self.most_unsynced = self.most_unsynced.max(replay.unsynced());
        for crash in crash_modes(seed, replay.steps(), replay.unsynced()) {
            let disk = replay.crashed(crash);
            let digest = disk.digest();
            if self.seen.insert((digest, expected)) {
                check(crash, &disk);
                self.checked += 1;
                self.distinct.insert(digest);
            }
        }
    }
}

impl Add for States {
    type Output = Self;

    fn add(mut self, mut other: Self) -> Self {
        self.distinct.append(&mut other.distinct);
        self.seen.append(&mut other.seen);
        self.checked += other.checked;
        self.most_unsynced = self.most_unsynced.max(other.most_unsynced);
        self
    }
}

/// Crashes at every step of the scripts of these seeds.
pub fn sweep(seeds: std::ops::Range<u64>, writes: usize, segment_bytes: u64) -> States {
    let (mut states, mut count) = (States::default(), 0usize);
    for seed in seeds {
        let disk = MemDisk::new();
        let past = run(&disk, seed, writes, segment_bytes);
        let mut replay = disk.replay();
        loop {
            let steps = replay.steps();
            states.of_step(seed, &replay, past.expected_at(steps), |crash, crashed| {
                let what = format!("seed {seed}, step {steps}, {crash:?}");
                check(crashed, &past, steps, count.is_multiple_of(3), segment_bytes, &what);
                count += 1;
            });
            if !replay.advance() {
                break;
            }
        }
    }
    states
}

/// Crashes at every step of an opening that follows a crash; of every `stride`th one.
pub fn sweep_recovery(seeds: std::ops::Range<u64>, stride: usize) -> States {
    let (mut firsts, mut states) = (States::default(), States::default());
    for seed in seeds {
        let disk = MemDisk::new();
        let past = run(&disk, seed, 40, 24 << 10);
        let mut replay = disk.replay();
        while replay.advance() {
            let steps = replay.steps();
            if !steps.is_multiple_of(stride) {
                continue;
            }
            firsts.of_step(seed, &replay, past.expected_at(steps), |crash, first| {
                first.start_journal();
                let opened = Rig::open(first, options(24 << 10));
                drop(opened.unwrap_or_else(|error| panic!("seed {seed}, step {steps}: unopenable: {error}")));
                let mut opening = first.replay();
                while opening.advance() {
                    let step = opening.steps();
                    states.of_step(seed + 1, &opening, past.expected_at(steps), |again, crashed| {
                        let what = format!("seed {seed}, step {steps}, {crash:?}, opening {step}, {again:?}");
                        check(crashed, &past, steps, false, 24 << 10, &what);
                    });
                }
            });
        }
    }
    states
}
