//! A log under test: what is asked of it, what it completed, and whether that fits the model.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate::advanced::wal::fake::MemDisk;
use quorate::{Completions, GroupId, LogId, LogWrite, RaftLogStorage, Recovered, Span, StorageError, WriteId};

use super::model::{Model, Written, entries_of, memberships_of, random, snapshot_beyond};
use crate::chance::Chance;
use crate::report::{Failure, Law};

/// The groups that the suite writes to.
pub(super) const GROUPS: [GroupId; 2] = [GroupId(3), GroupId(6)];

/// A completion.
#[derive(Clone, Debug)]
struct Completed {
    write: u64,
    error: Option<String>,
    /// Steps of the disk's journal then.
    steps: usize,
}

/// What was completed.
#[derive(Default)]
pub(super) struct Told {
    list: Mutex<BTreeMap<GroupId, Vec<Completed>>>,
    more: Condvar,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Vec<Completed>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the completions of one group.
struct Ear {
    group: GroupId,
    told: Arc<Told>,
    disk: Option<MemDisk>,
}

impl Completions for Ear {
    fn complete(&self, write: WriteId, result: Result<(), StorageError>) {
        let steps = self.disk.as_ref().map_or(0, MemDisk::journal_steps);
        let error = result.err().map(|error| error.to_string());
        let completed = Completed { write: write.0, error, steps };
        self.told.lock().entry(self.group).or_default().push(completed);
        self.told.more.notify_all();
    }
}

/// An open log and what is known of it.
pub(super) struct Rig<L> {
    pub(super) log: L,
    told: Arc<Told>,
    pub(super) models: BTreeMap<GroupId, Model>,
    pub(super) chance: Chance,
    pub(super) patience: Duration,
}

/// What may be found later: the models, and which writes were acknowledged when.
#[derive(Clone, Default)]
pub(super) struct Past {
    pub(super) models: BTreeMap<GroupId, Model>,
    acknowledged: BTreeMap<GroupId, Vec<(u64, usize)>>,
}

impl Past {
    /// Place of the first state that the group may be in after `steps`: all writes without a gap count.
    pub(super) fn floor(&self, group: GroupId, steps: usize) -> usize {
        let Some(model) = self.models.get(&group) else { return 0 };
        let known = self.acknowledged.get(&group).map(Vec::as_slice).unwrap_or_default();
        let is_done = |write: &u64| known.iter().any(|(done, at)| done == write && *at <= steps);
        (model.writes_before + 1..=model.last_write()).take_while(is_done).count()
    }
}

impl Past {
    /// Whether the group never had this vote, or one of these entries, but another group did.
    pub(super) fn is_anothers(&self, group: GroupId, found: &Recovered, read: &[Written]) -> bool {
        let had = |model: &Model| model.states.iter().any(|state| state.vote == found.vote);
        let wrote = |model: &Model, entry: &Written| model.ever.contains(entry);
        let (own, others): (Vec<_>, Vec<_>) = self.models.iter().partition(|(known, _)| **known == group);
        let is_of = |fits: &dyn Fn(&Model) -> bool| {
            !own.iter().any(|(_, model)| fits(model)) && others.iter().any(|(_, model)| fits(model))
        };
        is_of(&had) || read.iter().any(|entry| is_of(&|model| wrote(model, entry)))
    }
}

impl<L: RaftLogStorage> Rig<L> {
    /// Opens every group of a log; it must hold what `past` allows. Returns what else a caller may want to say of it.
    pub(super) fn open(
        log: L,
        disk: Option<&MemDisk>,
        past: &Past,
        steps: usize,
        (chance, patience): (Chance, Duration),
        what: &str,
    ) -> Result<Self, Failure> {
        let told = Arc::new(Told::default());
        let mut rig = Self { log, told, models: BTreeMap::new(), chance, patience };
        for group in GROUPS {
            let found = rig.recover(group, disk, what)?;
            let read = rig.read_all(group, &found, what)?;
            let model = past.models.get(&group).cloned().unwrap_or_default();
            let step = format!("{what}: recovering {group}");
            let place = model.find(&step, past.floor(group, steps), &found, &read).map_err(|failure| {
                let is_anothers = past.is_anothers(group, &found, &read);
                Failure { law: if is_anothers { Law::GroupsAreApart } else { failure.law }, ..failure }
            })?;
            let (expected, members) = (memberships_of(&read), found.memberships);
            if members != expected {
                let (expected, found) = (format!("{expected:?}"), format!("{members:?}"));
                return Err(Failure::new(Law::MembershipsAreFound, step, expected, found));
            }
            rig.models.insert(group, model.restart(place, found.log.purged()));
        }
        Ok(rig)
    }

    fn recover(&self, group: GroupId, disk: Option<&MemDisk>, what: &str) -> Result<Recovered, Failure> {
        let ear = Ear { group, told: Arc::clone(&self.told), disk: disk.cloned() };
        self.log.recover(group, Arc::new(ear)).map_err(|error| {
            Failure::new(Law::OpensAgain, format!("{what}: recovering {group}"), "a log", error.to_string())
        })
    }

    /// Reads everything that the recovered log names.
    fn read_all(&self, group: GroupId, found: &Recovered, what: &str) -> Result<Vec<Written>, Failure> {
        let (purged, last) = (found.log.purged(), found.log.last());
        let step = format!("{what}: reading the log of {group}, ({purged}, {last}]");
        match read_span(&self.log, group, Span { prev: purged, last }, 700, &step)? {
            Some(entries) => Ok(entries),
            None => Err(Failure::new(Law::NoHoles, step, "the entries", "nothing")),
        }
    }

    pub(super) fn past(&self) -> Past {
        let list = self.told.lock();
        let acknowledged = list.iter().map(|(group, list)| {
            let done = list.iter().filter(|completed| completed.error.is_none());
            (*group, done.map(|completed| (completed.write, completed.steps)).collect())
        });
        Past { models: self.models.clone(), acknowledged: acknowledged.collect() }
    }

    // ---- writing ----

    pub(super) fn model(&mut self, group: GroupId) -> &mut Model {
        self.models.entry(group).or_default()
    }

    pub(super) fn any_group(&mut self) -> GroupId {
        GROUPS[self.chance.below(GROUPS.len() as u64) as usize]
    }

    /// Submits a write; returns its id.
    pub(super) fn submit(&mut self, group: GroupId, write: LogWrite) -> u64 {
        let id = self.model(group).write(&write);
        self.log.submit(group, WriteId(id), write);
        id
    }

    pub(super) fn submit_random(&mut self) {
        let group = self.any_group();
        let mut model = self.models.remove(&group).unwrap_or_default();
        let write = random(group, &mut model, &mut self.chance);
        self.models.insert(group, model);
        self.submit(group, write);
    }

    /// A snapshot beyond the log of a random group, which is rare by chance.
    pub(super) fn submit_snapshot(&mut self) {
        let group = self.any_group();
        let model = self.model(group);
        model.term = model.term.max(model.now().last().leader_id.term) + 1;
        let write = snapshot_beyond(model, model.now().last().index + 3);
        self.submit(group, write);
    }

    /// Purges up to a random entry that is acknowledged.
    pub(super) fn purge_random(&mut self) {
        let group = self.any_group();
        let floor = self.past().floor(group, usize::MAX);
        let model = self.model(group);
        let states = &model.states[floor..];
        let lasts = |id: LogId| states.iter().all(|state| state.at(id.index) == Some(id));
        let entries = states.first().into_iter().flat_map(|state| state.entries.iter().map(|entry| entry.id));
        let safe: Vec<LogId> = entries.filter(|id| id.index > model.purge && lasts(*id)).collect();
        if safe.is_empty() {
            return;
        }
        let upto = safe[self.chance.below(safe.len() as u64) as usize];
        self.purge(group, upto);
    }

    pub(super) fn purge(&mut self, group: GroupId, upto: LogId) {
        self.model(group).purge = upto.index;
        self.log.purge(group, upto);
    }

    /// Waits until every write completed; returns whether all of them are durable.
    pub(super) fn settle(&self, step: &str) -> Result<bool, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut list = self.told.lock();
        loop {
            let waiting = self.models.iter().find_map(|(group, model)| {
                let done = list.get(group).map(Vec::as_slice).unwrap_or_default();
                let is_missing = |write: &u64| !done.iter().any(|completed| completed.write == *write);
                Some((*group, (model.writes_before + 1..=model.last_write()).find(is_missing)?))
            });
            let Some((group, write)) = waiting else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let expected = format!("write {write} of {group} completes, without another call");
                let found = format!("nothing for {:?}", self.patience);
                return Err(Failure::new(Law::CompletesOnce, step, expected, found));
            }
            list = self.told.more.wait_timeout(list, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut all = true;
        for (group, done) in list.iter() {
            let last = self.models.get(group).map_or(0, Model::last_write);
            let mut seen = std::collections::BTreeSet::new();
            for completed in done {
                if !seen.insert(completed.write) || completed.write > last {
                    let found = format!("write {} of {group}: a completion too many", completed.write);
                    return Err(Failure::new(Law::CompletesOnce, step, "one completion a write", found));
                }
                all &= completed.error.is_none();
            }
        }
        Ok(all)
    }

    /// Writes that completed although an earlier one was told to have failed before they were submitted.
    pub(super) fn acknowledged_after(&self, group: GroupId, write: u64) -> bool {
        let list = self.told.lock();
        list.get(&group).is_some_and(|done| done.iter().any(|c| c.write == write && c.error.is_none()))
    }

    // ---- reading ----

    /// Reads spans of what was written, durable or not, and spans that the log does not hold.
    pub(super) fn check_reads(&mut self, what: &str) -> Result<usize, Failure> {
        let mut checks = 0;
        for group in GROUPS {
            let (state, purge) = (self.model(group).now(), self.model(group).purge);
            let kept: Vec<&Written> = state.entries.iter().filter(|entry| entry.id.index > purge).collect();
            let Some(first) = kept.first() else { continue };
            let mut starts = vec![0, kept.len() - 1];
            starts.extend((0..3).map(|_| self.chance.below(kept.len() as u64) as usize));
            for start in starts {
                let end = start + self.chance.below((kept.len() - start) as u64) as usize;
                let before = kept[start].id.index - 1;
                let prev = match state.at(before) {
                    Some(prev) => prev,
                    None => continue,
                };
                let last = kept[end].id;
                for max_bytes in [0, 300, u64::MAX] {
                    let step = format!("{what}: reading ({prev}, {last}] of {group}, {max_bytes} bytes at a time");
                    let Some(read) = read_span(&self.log, group, Span { prev, last }, max_bytes, &step)? else {
                        return Err(Failure::new(Law::ReadableAtOnce, step, "the entries", "nothing"));
                    };
                    check_equal(&read, &kept[start..=end], &step)?;
                    checks += 1;
                }
            }
            self.check_foreign(group, first.id, state.last(), what)?;
        }
        Ok(checks)
    }

    /// Spans of another leader, or beyond the end, are not served.
    fn check_foreign(&self, group: GroupId, first: LogId, last: LogId, what: &str) -> Result<(), Failure> {
        let prev = LogId::new(first.leader_id, first.index);
        let mut other = last;
        other.leader_id.term += 1000;
        let mut beyond = last;
        beyond.index += 3;
        for last in [other, beyond] {
            let span = Span { prev, last };
            if span.count() == 0 {
                continue;
            }
            let step = format!("{what}: reading ({prev}, {last}] of {group}, which it does not hold");
            match self.log.read(group, span, u64::MAX) {
                Ok(None) => {}
                Ok(Some(found)) => {
                    return Err(Failure::new(Law::ReadsTheSpan, step, "nothing", format!("{found:?}")));
                }
                Err(error) => return Err(Failure::new(Law::ReadsTheSpan, step, "nothing", error.to_string())),
            }
        }
        Ok(())
    }
}

fn check_equal(read: &[Written], expected: &[&Written], step: &str) -> Result<(), Failure> {
    let differs = read.iter().zip(expected).find(|(read, expected)| read != *expected);
    if let Some((read, expected)) = differs {
        let text = |entry: &Written| format!("{} {:?} of {} bytes", entry.id, entry.kind, entry.payload.len());
        let same_place = read.id == expected.id && read.payload.len() == expected.payload.len();
        let found = format!("{}{}", text(read), if same_place { " with other content" } else { "" });
        return Err(Failure::new(Law::ReadsTheSpan, step, text(expected), found));
    }
    if read.len() != expected.len() {
        let (expected, found) = (format!("{} entries", expected.len()), format!("{} entries", read.len()));
        return Err(Failure::new(Law::ReadsTheSpan, step, expected, found));
    }
    Ok(())
}

/// Reads a whole span, piece by piece; `None` if the log says at once that it does not hold it.
pub(super) fn read_span<L: RaftLogStorage>(
    log: &L,
    group: GroupId,
    span: Span,
    max_bytes: u64,
    step: &str,
) -> Result<Option<Vec<Written>>, Failure> {
    let broken = |expected: String, found: String| Failure::new(Law::ReadsTheSpan, step, expected, found);
    let mut rest = span;
    let mut entries = Vec::new();
    while rest.count() > 0 {
        let found = log.read(group, rest, max_bytes).map_err(|error| broken("entries".into(), error.to_string()))?;
        let Some(batches) = found else {
            match entries.is_empty() {
                true => return Ok(None),
                false => {
                    return Err(Failure::new(Law::NoHoles, step, format!("the entry after {}", rest.prev), "nothing"));
                }
            }
        };
        let before = rest.prev;
        for entry in batches.iter().flat_map(entries_of) {
            if entry.id.index != rest.prev.index + 1 {
                return Err(broken(format!("index {}", rest.prev.index + 1), format!("{}", entry.id)));
            }
            rest.prev = entry.id;
            entries.push(entry);
        }
        if rest.prev == before {
            return Err(broken("at least one entry".into(), "none".into()));
        }
        if rest.prev.index > span.last.index {
            return Err(broken(format!("nothing after {}", span.last), format!("{}", rest.prev)));
        }
        if rest.prev.index == span.last.index && rest.prev != span.last {
            return Err(broken(span.last.to_string(), rest.prev.to_string()));
        }
    }
    Ok(Some(entries))
}
