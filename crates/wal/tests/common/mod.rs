//! A log on a disk in memory, a model of what each group may hold, and random scripts for both.
#![allow(dead_code, unreachable_pub, reason = "every test file uses another part")]

pub mod crashes;
pub mod faulty;
pub mod mending;
pub mod records;
pub mod votes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::{
    ClusterId, GroupId, Incarnation, Instant, LeaderId, LeaderIdMode, LogId, Membership, NodeId, Span, Tail, Vote,
    WriteId,
};
use quorate_wal::fake::MemDisk;
use quorate_wal::{GroupState, OnDurable, Wake, WalCore, WalError, WalHandle, WalOptions, WalWrite};
use quorate_wire::{Batch, BatchBuilder, Batches, EntryKind, decode_membership, encode_membership};

pub const CLUSTER: ClusterId = ClusterId(0xc1);

pub fn dir() -> &'static Path {
    Path::new("/data")
}

pub fn options(segment_bytes: u64) -> WalOptions {
    WalOptions {
        segment_bytes,
        incarnation: Some(Incarnation(77)),
        start_token: Some(7),
        created: Some(1),
        ..WalOptions::new(NodeId(1))
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }
}

pub fn leader(term: u64) -> LeaderId {
    LeaderId::new(term, 1)
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader(term), index)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    pub id: LogId,
    pub kind: EntryKind,
    pub payload: Arc<[u8]>,
}

pub fn membership(n: u64) -> Membership {
    let node = quorate_core::Node::at(format!("host-{n}:1"));
    Membership::majority([(NodeId(n), Incarnation(u128::from(n)), node)])
}

pub fn batch_of(group: GroupId, entries: &[ModelEntry]) -> Batch {
    let mut builder = BatchBuilder::new();
    entries.iter().for_each(|entry| builder.push(entry.kind, &entry.payload));
    builder.seal(CLUSTER, group, entries[0].id.leader_id, entries[0].id.index, 7).unwrap()
}

/// What a group holds after one of its writes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ModelState {
    pub vote: Vote,
    pub lease: Duration,
    /// The log starts after this.
    pub base: LogId,
    pub entries: Vec<ModelEntry>,
}

impl ModelState {
    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    fn holds(&self, id: LogId) -> bool {
        id == self.base || self.entries.iter().any(|entry| entry.id == id)
    }

    fn apply(&mut self, write: &WalWrite) {
        match write {
            WalWrite::Vote(vote) => self.vote = *vote,
            WalWrite::PromiseLease(lease) => self.lease = self.lease.max(*lease),
            WalWrite::ForgetPromisedEnd => {}
            WalWrite::Append(batches) => {
                for batch in batches {
                    self.entries.extend(batch.iter().map(|entry| ModelEntry {
                        id: entry.log_id,
                        kind: entry.kind,
                        payload: entry.payload.into(),
                    }));
                }
            }
            WalWrite::Truncate { after } => self.entries.retain(|entry| entry.id.index <= after.index),
            WalWrite::Reset { to, tail } => {
                if *tail == Tail::Keep && self.holds(*to) {
                    self.entries.retain(|entry| entry.id.index > to.index);
                } else {
                    self.entries.clear();
                }
                self.base = *to;
            }
        }
    }
}

/// Every state a group may be found in, and what was acknowledged of it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// One more than there are writes.
    pub states: Vec<ModelState>,
    /// Journal steps at which the writes were acknowledged, in order.
    pub acknowledged: Vec<usize>,
    /// The furthest purge asked for.
    pub purge: u64,
    pub next_write: u64,
    pub term: u64,
}

impl Model {
    pub fn new() -> Self {
        Self { states: vec![ModelState::default()], term: 1, ..Self::default() }
    }

    pub fn now(&self) -> &ModelState {
        self.states.last().unwrap()
    }

    /// The first state it may be in after `steps`.
    pub fn floor(&self, steps: usize) -> usize {
        self.acknowledged.iter().filter(|at| **at <= steps).count()
    }

    /// Which of the states from `floor` on was found, if any.
    pub fn find(&self, floor: usize, found: &GroupState, entries: &[ModelEntry]) -> Option<usize> {
        (floor..self.states.len()).find(|k| {
            let state = &self.states[*k];
            let purged = found.log.purged();
            let kept: Vec<&ModelEntry> = state.entries.iter().filter(|entry| entry.id.index > purged.index).collect();
            state.vote == found.vote
                && state.lease == found.promised_lease
                && state.last() == found.log.last()
                && state.holds(purged)
                && purged.index <= self.purge.max(state.base.index)
                && kept.len() == entries.len()
                && kept.iter().zip(entries).all(|(kept, entry)| **kept == *entry)
        })
    }

    /// Goes on from the state that was found: it counts as acknowledged.
    pub fn restart(&self, found: usize, purged: LogId) -> Model {
        let mut state = self.states[found].clone();
        state.entries.retain(|entry| entry.id.index > purged.index);
        state.base = purged;
        Model { states: vec![state], acknowledged: Vec::new(), ..self.clone() }
    }
}

pub type Told = Arc<Mutex<Vec<(GroupId, WriteId, Result<(), WalError>, usize)>>>;

/// An open log.
pub struct Rig {
    pub disk: MemDisk,
    pub core: WalCore,
    pub handle: WalHandle,
    pub told: Told,
    pub now: Instant,
}

impl Rig {
    pub fn open(disk: &MemDisk, options: WalOptions) -> Result<Rig, WalError> {
        let (core, handle) = WalCore::open(Arc::new(disk.clone()), dir(), options)?;
        Ok(Rig { disk: disk.clone(), core, handle, told: Told::default(), now: Instant::ORIGIN })
    }

    /// Opens a log that belongs to the cluster.
    pub fn begin(disk: &MemDisk, segment_bytes: u64) -> Rig {
        let rig = Rig::open(disk, options(segment_bytes)).unwrap();
        rig.handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
        rig
    }

    pub fn on_durable(&self, group: GroupId) -> OnDurable {
        let (told, disk) = (self.told.clone(), self.disk.clone());
        Arc::new(move |write, result| told.lock().unwrap().push((group, write, result, disk.journal_steps())))
    }

    pub fn group(&self, group: GroupId) -> Result<GroupState, WalError> {
        self.handle.open_group(group, self.on_durable(group))
    }

    /// Takes turns until there is nothing to do at once.
    pub fn settle(&mut self) -> Wake {
        for _ in 0..1000 {
            match self.core.turn(self.now) {
                Wake::Again => {}
                other => return other,
            }
        }
        panic!("the log always wants another turn");
    }

    /// Lets time pass and takes turns.
    pub fn pass(&mut self, time: Duration) -> Wake {
        self.now = self.now + time;
        self.settle()
    }

    /// What was told since the last call.
    pub fn told(&self) -> Vec<(GroupId, WriteId, Result<(), WalError>, usize)> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    pub fn append(&self, group: GroupId, write: u64, term: u64, first: u64, payloads: &[&[u8]]) {
        let entries: Vec<ModelEntry> = (first..)
            .zip(payloads)
            .map(|(index, payload)| ModelEntry {
                id: log_id(term, index),
                kind: EntryKind::Command,
                payload: (*payload).into(),
            })
            .collect();
        let batches = Batches::from_iter([batch_of(group, &entries)]);
        self.handle.submit(group, WriteId(write), WalWrite::Append(batches));
    }

    /// Everything that can be read of a group, `max_bytes` at a time.
    pub fn read_all(&self, group: GroupId, state: &GroupState, max_bytes: u64) -> Result<Vec<ModelEntry>, WalError> {
        read_all(&self.handle, group, state.log.purged(), state.log.last(), max_bytes)
    }
}

pub fn read_all(
    handle: &WalHandle,
    group: GroupId,
    mut prev: LogId,
    last: LogId,
    max_bytes: u64,
) -> Result<Vec<ModelEntry>, WalError> {
    let mut entries = Vec::new();
    while prev != last {
        let batches = handle.read(group, Span { prev, last }, max_bytes)?.expect("the log holds its own span");
        assert!(!batches.is_empty(), "a read makes progress");
        for entry in batches.iter().flat_map(|batch| batch.iter()) {
            assert_eq!(entry.log_id.index, prev.index + 1, "entries come in order");
            prev = entry.log_id;
            entries.push(ModelEntry { id: entry.log_id, kind: entry.kind, payload: entry.payload.into() });
        }
    }
    Ok(entries)
}

/// Opens a group and finds its state in the model.
pub fn check_group(rig: &Rig, group: GroupId, model: &Model, floor: usize, what: &str) -> (usize, LogId) {
    let found = rig.group(group).unwrap_or_else(|error| panic!("{what}: unopenable: {group:?}: {error}"));
    let entries = rig.read_all(group, &found, 700).unwrap_or_else(|error| panic!("{what}: lost: {group:?}: {error}"));
    let Some(k) = model.find(floor, &found, &entries) else {
        let allowed: Vec<_> = model.states[floor..].iter().map(|s| (s.vote, s.lease, s.base, s.last())).collect();
        // Of the states that were allowed, every one holds what was acknowledged and never taken back.
        let misses = |state: &ModelState| {
            let purged = found.log.purged().index;
            let kept = state.entries.iter().filter(|entry| entry.id.index > purged);
            found.vote.leader_id < state.vote.leader_id || kept.clone().any(|entry| !entries.contains(entry))
        };
        let kind = if model.states[floor..].iter().all(misses) { "lost" } else { "resurrected" };
        panic!(
            "{what}: {kind}: {group:?} is {found:?} with {} entries, allowed from write {floor}: {allowed:?}",
            entries.len()
        );
    };
    let members = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
    let members: Vec<_> = members.map(|entry| (entry.id, decode_membership(&entry.payload).unwrap())).collect();
    assert_eq!(found.memberships, members, "{what}: lost: memberships of {group:?}");
    (k, found.log.purged())
}

/// A random script of writes, and what may be found after it.
pub struct Script {
    pub rng: Rng,
    pub groups: Vec<GroupId>,
    pub models: BTreeMap<GroupId, Model>,
    pub largest_payload: u64,
}

impl Script {
    pub fn new(seed: u64, groups: u64) -> Self {
        let groups: Vec<GroupId> = (1..=groups).map(|n| GroupId(n * 3)).collect();
        let models = groups.iter().map(|group| (*group, Model::new())).collect();
        Self { rng: Rng(seed), groups, models, largest_payload: 200 }
    }

    /// Submits a random write.
    pub fn submit(&mut self, rig: &Rig) {
        let group = self.groups[self.rng.below(self.groups.len() as u64) as usize];
        let write = self.next_write(group);
        let model = self.models.get_mut(&group).unwrap();
        let mut state = model.now().clone();
        state.apply(&write);
        model.states.push(state);
        model.next_write += 1;
        rig.handle.submit(group, WriteId(model.next_write), write);
    }

    fn next_write(&mut self, group: GroupId) -> WalWrite {
        let rng = &mut self.rng;
        let model = self.models.get_mut(&group).unwrap();
        let state = model.now().clone();
        match rng.below(20) {
            0..=11 => {
                let mut batches = Batches::new();
                let mut index = state.last().index;
                for _ in 0..1 + rng.below(2) {
                    model.term = model.term.max(state.last().leader_id.term) + rng.below(2);
                    let entries: Vec<ModelEntry> = (0..1 + rng.below(3))
                        .map(|_| {
                            index += 1;
                            let id = log_id(model.term, index);
                            if rng.below(12) == 0 {
                                let mut payload = Vec::new();
                                encode_membership(&membership(1 + rng.below(9)), &mut payload);
                                return ModelEntry { id, kind: EntryKind::Membership, payload: payload.into() };
                            }
                            let fill = rng.below(256) as u8;
                            let payload = vec![fill; rng.below(self.largest_payload) as usize].into();
                            ModelEntry { id, kind: EntryKind::Command, payload }
                        })
                        .collect();
                    batches.push(batch_of(group, &entries));
                }
                WalWrite::Append(batches)
            }
            12..=14 => {
                model.term += 1;
                let leader_id = LeaderId::new(model.term, 1 + rng.below(3));
                WalWrite::Vote(Vote { leader_id, committed: rng.below(2) == 0 })
            }
            15 => WalWrite::PromiseLease(Duration::from_millis(rng.below(5000))),
            16..=18 => {
                // Purged entries are committed and never truncated.
                let least = state.base.index.max(model.purge);
                let index = least + rng.below(state.last().index.saturating_sub(least) + 1);
                let kept = state.entries.iter().find(|entry| entry.id.index == index);
                model.term += rng.below(2);
                WalWrite::Truncate { after: kept.map_or(state.base, |entry| entry.id) }
            }
            _ => {
                let last = state.last();
                model.term += 1;
                match rng.below(3) {
                    0 if last.index >= model.purge && last.index > 0 => WalWrite::Reset { to: last, tail: Tail::Keep },
                    1 => {
                        let tail = if rng.below(2) == 0 { Tail::Keep } else { Tail::Discard };
                        WalWrite::Reset { to: log_id(model.term, last.index + 1 + rng.below(5)), tail }
                    }
                    _ => {
                        let entry = state.entries.iter().find(|entry| entry.id.index >= model.purge);
                        match entry {
                            Some(entry) => WalWrite::Reset { to: entry.id, tail: Tail::Keep },
                            None => WalWrite::PromiseLease(Duration::ZERO),
                        }
                    }
                }
            }
        }
    }

    /// Purges what is acknowledged, up to a random entry. As in production, only what is durable is purged.
    pub fn purge(&mut self, rig: &Rig) {
        let group = self.groups[self.rng.below(self.groups.len() as u64) as usize];
        let model = self.models.get_mut(&group).unwrap();
        // Entries that are acknowledged and in every state since.
        let safe = &model.states[model.acknowledged.len()];
        let states = &model.states[model.acknowledged.len()..];
        let common: Vec<LogId> = safe
            .entries
            .iter()
            .map(|entry| entry.id)
            .filter(|id| id.index > model.purge && states.iter().all(|state| state.entries.iter().any(|e| e.id == *id)))
            .collect();
        if common.is_empty() {
            return;
        }
        let upto = common[self.rng.below(common.len() as u64) as usize];
        model.purge = upto.index;
        rig.handle.purge(group, upto);
    }

    /// Takes note of completions, which come in order; returns the first failure.
    pub fn note(&mut self, rig: &Rig) -> Option<WalError> {
        let mut failure = None;
        for (group, write, result, steps) in rig.told() {
            let model = self.models.get_mut(&group).unwrap();
            match result {
                Ok(()) => {
                    assert!(failure.is_none(), "nothing is acknowledged after a failure");
                    let first = model.next_write - (model.states.len() as u64 - 1);
                    model.acknowledged.push(steps);
                    assert_eq!(write.0, first + model.acknowledged.len() as u64, "{group:?} completes in order");
                }
                Err(error) => failure = Some(error),
            }
        }
        failure
    }
}

pub fn segment(number: u64) -> PathBuf {
    dir().join("wal").join(format!("{number:016x}.seg"))
}
