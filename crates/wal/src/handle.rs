//! What the library calls: [`WalHandle`]. Calls that may not block only touch memory; the writing is in `turn.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_core::{
    Bug, ClusterId, GroupId, Incarnation, LeaderIdMode, LogId, LogIds, Membership, NodeId, Span, Starts, Tail, Vote,
    WriteId, bug,
};
use quorate_wire::{Batch, Batches, EntryKind, decode_membership};

use crate::baton::Baton;
use crate::disk::{Disk, read_exact_at};
use crate::error::{Damage, WalError};
use crate::frame::{Op, Position};
use crate::group::{GroupLog, MembershipPlace, Stretch, check_append, check_truncate, reset};
use crate::identity::{Identity, IdentityFile, OlderCopyMark, PeerVerdict, PeersFile};
use crate::note::{self, DamageNote};
use crate::options::OnDamage;
use crate::segment::{Base, take_within};
use crate::snapshot::SnapshotStore;
use crate::turn::Writer;

/// Told when a write is durable, or failed: then nothing written to this log after it becomes durable either. Called
/// from the log's thread or from one in [`Wal::write`](crate::Wal::write), by one at a time, in the order in which a
/// group's writes were submitted. A failure that concerns no write of the group is told as one of write 0.
pub type OnDurable = Arc<dyn Fn(WriteId, Result<(), WalError>) + Send + Sync>;

/// What to write.
#[derive(Clone, Debug)]
pub enum WalWrite {
    /// Keep this vote.
    Vote(Vote),
    /// Append these entries, which follow the end of the log.
    Append(Batches),
    /// Remove every entry after this one, which the log holds.
    Truncate {
        /// The last entry that stays.
        after: LogId,
    },
    /// A snapshot up to `to` is installed: forget the entries up to it, and unless the log holds `to` and the tail
    /// is to be kept, all others.
    Reset {
        /// The end of the snapshot.
        to: LogId,
        /// What becomes of later entries.
        tail: Tail,
    },
    /// Keep that a lease of this length may have been promised; the longest one is kept.
    PromiseLease(Duration),
    /// Forget [`GroupState::promised_end`]: nothing beyond the end of the log is promised any more.
    ForgetPromisedEnd,
}

/// What the log holds of a group.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GroupState {
    /// The last durable vote.
    pub vote: Vote,
    /// The log ids.
    pub log: LogIds,
    /// The membership entries in the log, in order.
    pub memberships: Vec<(LogId, Membership)>,
    /// The longest lease that may have been promised.
    pub promised_lease: Duration,
    /// The last entry that may have been acknowledged. Beyond the end of the log only if damage took that, see
    /// [`OnDamage::Mend`].
    pub promised_end: LogId,
}

/// A handle to the log. Cheap to clone.
#[derive(Clone)]
pub struct WalHandle {
    pub(crate) shared: Arc<Shared>,
}

/// Everything of a log. Lock order: writer, noted, then state; identity and peers are never held with another lock but
/// the writer's and noted.
pub(crate) struct Shared {
    pub(crate) writer: Mutex<Writer>,
    pub(crate) state: Mutex<State>,
    /// Signalled when there is something for the log's thread.
    pub(crate) work: Condvar,
    /// Signalled when a turn is over and the log's thread, which waits for that, is to take the next one.
    pub(crate) turned: Condvar,
    pub(crate) identity: Mutex<IdentityFile>,
    pub(crate) peers: Mutex<PeersFile>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) disk: Arc<dyn Disk>,
    /// The data directory.
    pub(crate) dir: PathBuf,
    /// What was noted of damage since the log was opened.
    pub(crate) noted: Mutex<Option<DamageNote>>,
    pub(crate) on_damage: OnDamage,
    /// What was found and mended at opening.
    pub(crate) mended: Option<Arc<Damage>>,
}

impl Shared {
    /// Notes damage that a read found, and what is durable now, before anybody hears of it: the next opening may take the
    /// newest batch for a torn tail. Waits for the disk, not for the log's thread. That it cannot be noted changes
    /// nothing: the damage will be found again.
    fn note(&self, error: &WalError) {
        if !matches!(error, WalError::Corrupt(_)) {
            return;
        }
        let mut noted = lock(&self.noted);
        let note = lock(&self.state).durable();
        if noted.as_ref() != Some(&note) {
            let identity = lock(&self.identity).identity().of_log();
            let written = note::write(&*self.disk, &self.dir, &identity, &note);
            *noted = written.is_ok().then_some(note);
        }
    }
}

/// What changes without touching the disk.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cluster: ClusterId,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    /// Everything before this is durable; all that was acknowledged is.
    pub(crate) durable: Position,
    /// Writes that no turn has taken yet, in order.
    pub(crate) queue: VecDeque<Queued>,
    /// How far groups want to be purged. Apart from the queue, because purging must go on when the queue waits for
    /// space: that is how space is made.
    pub(crate) purges: BTreeMap<GroupId, LogId>,
    /// Numbers queued writes.
    pub(crate) next_number: u64,
    pub(crate) full: bool,
    /// The first failure; after it nothing is acknowledged.
    pub(crate) poison: Option<WalError>,
    /// Whether groups that wait for no write are to be told of the failure.
    pub(crate) tell_groups: bool,
    pub(crate) closed: bool,
    /// Whether the log's thread is to close it.
    pub(crate) stopping: bool,
    /// Whether something was queued since the last turn began.
    pub(crate) dirty: bool,
    /// Who takes turns.
    pub(crate) baton: Baton,
}

/// One group's log.
#[derive(Default)]
pub(crate) struct Group {
    /// The log with everything submitted. Invariant: an entry of it is in `pending` if its index is not below the
    /// first one there, else in `written`.
    pub(crate) view: LogIds,
    /// Submitted entries that are not written yet, with the number of their write.
    pub(crate) pending: VecDeque<(u64, Batch)>,
    /// The log as the segments have it.
    pub(crate) written: GroupLog,
    pub(crate) on_durable: Option<OnDurable>,
    /// After a write that could not follow, the group writes nothing any more.
    pub(crate) failed: Option<WalError>,
}

/// A submitted write.
pub(crate) struct Queued {
    pub(crate) group: GroupId,
    pub(crate) asker: Asker,
    pub(crate) number: u64,
    pub(crate) work: Work,
}

/// Who is told what becomes of a write.
#[derive(Clone, Copy)]
pub(crate) enum Asker {
    /// The group, under this id.
    Group(WriteId),
    /// The thread that waits for it.
    Thread,
}

pub(crate) enum Work {
    /// Goes to a segment; an append may be several frames.
    Log(Vec<Op>),
    /// Goes to the vote files.
    Vote(Vote),
    Lease(Duration),
    ForgetPromisedEnd,
    /// Is refused, in its turn.
    Refuse(WalError),
}

/// A lock that survives a panic of another holder: what it guards is changed only by code that does not panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WalHandle {
    /// Whose directory this is. Its starts already count this opening.
    pub fn identity(&self) -> Identity {
        lock(&self.shared.identity).identity()
    }

    /// Notes the cluster that this node belongs to, durably. Only a blank node can get one; noting the same again
    /// does nothing. Must come before the first write. Blocks.
    ///
    /// # Errors
    /// [`WalError::OtherCluster`], or what the disk says; then the node is as blank as before.
    pub fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), WalError> {
        let mut writer = lock(&self.shared.writer);
        self.check_open()?;
        let mut identity = lock(&self.shared.identity);
        let found = identity.identity();
        if cluster == ClusterId(0) {
            return Err(WalError::Invalid { what: "cluster 0 means that there is none" });
        }
        if found.cluster != ClusterId(0) {
            return match (found.cluster == cluster, found.mode == mode) {
                (true, true) => Ok(()),
                (true, false) => Err(WalError::Invalid { what: "the cluster's leader id mode cannot be changed" }),
                (false, _) => Err(WalError::OtherCluster { found: found.cluster, wanted: cluster }),
            };
        }
        writer.begin(Identity { cluster, mode, ..found }.of_log(), 1, Base::default())?;
        identity.store_cluster(cluster, mode)?;
        self.shared.snapshots.set_cluster(cluster.base());
        lock(&self.shared.state).cluster = cluster;
        Ok(())
    }

    /// Notes that a peer spoke from this disk at the last of these starts, durably, and compares with what was noted
    /// before (law 15). Blocks when there is something new to note.
    ///
    /// # Errors
    /// What the disk says: then the peer must not be counted.
    pub fn record_peer(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        starts: &Starts,
    ) -> Result<PeerVerdict, WalError> {
        self.check_open()?;
        lock(&self.shared.peers).record(node, incarnation, starts).inspect_err(|error| {
            // A node that can write down nothing of a peer would be deaf to it for ever, and still ask for votes: it
            // stops like one whose log cannot be written. It may have nothing to write.
            if matches!(error, WalError::Io { .. }) {
                lock(&self.shared.state).fail_all(error);
                self.shared.work.notify_one();
            }
        })
    }

    /// Notes, durably, that a peer takes this directory for an older copy of the node's disk, and why. The log fails:
    /// every group is told. The directory is not opened any more (law 15). Blocks.
    ///
    /// # Errors
    /// What the disk says: then the log has failed all the same, but may be opened again.
    pub fn note_older_copy(&self, peer: NodeId, text: &str) -> Result<(), WalError> {
        self.check_open()?;
        let mark = OlderCopyMark::new(peer, text);
        let error = mark.clone().into_error(&self.shared.dir);
        // The files of a log that failed are written no more: first the mark.
        let noted = lock(&self.shared.identity).store_mark(mark);
        lock(&self.shared.state).fail_all(&error);
        self.shared.work.notify_one();
        noted
    }

    /// Opens a group, or opens it anew with other completions, and returns what the log holds of it. Makes sure that
    /// its votes never need space. May read files.
    ///
    /// # Errors
    /// [`WalError::Invalid`] if writes of an earlier opening still wait: try again when they are done. [`WalError::Corrupt`], or what the disk says.
    pub fn open_group(&self, group: GroupId, on_durable: OnDurable) -> Result<GroupState, WalError> {
        let mut writer = lock(&self.shared.writer);
        self.check_open()?;
        writer.votes.reserve(group)?;
        let record = writer.votes.record(group);
        let (log, places) = {
            let mut state = lock(&self.shared.state);
            if state.queue.iter().any(|queued| queued.group == group) {
                // What is queued is readable but not durable: who opened the group now would take it for durable.
                return Err(WalError::Invalid { what: "a group was opened again while writes of it still wait" });
            }
            let opened = state.groups.entry(group).or_default();
            opened.on_durable = Some(on_durable);
            (opened.view.clone(), opened.written.memberships.clone())
        };
        let mut memberships = Vec::new();
        for place in places {
            let membership = read_membership(group, &place);
            memberships.push((place.id, membership.inspect_err(|error| self.shared.note(error))?));
        }
        let (vote, promised_lease) = (record.vote, record.promised_lease);
        let promised_end = record.promised_end.max(log.last());
        Ok(GroupState { vote, log, memberships, promised_lease, promised_end })
    }

    /// Gives up the whole log of an open group, because no snapshot is left that leads up to it: how far it reached is
    /// kept durably as [`GroupState::promised_end`], then the log is emptied, in a write that every later one follows.
    /// Returns the promised end. Blocks.
    ///
    /// # Errors
    /// What the disk says; then the log is as before.
    pub fn give_up_log(&self, group: GroupId) -> Result<LogId, WalError> {
        let mut writer = lock(&self.shared.writer);
        self.check_open()?;
        let end = lock(&self.shared.state).groups.get(&group).map_or(LogId::ZERO, |found| found.view.last());
        let mut record = writer.votes.record(group);
        // Rule: the promise is durable before what it stands for is gone.
        if !bug(Bug::DiskGivesUpWithoutPromise) {
            record.promised_end = record.promised_end.max(end);
        }
        record.sequence += 1;
        let identity = writer.identity;
        writer.votes.write(&identity, &BTreeMap::from([(group, record)]))?;
        drop(writer);
        self.submit(group, WriteId(0), WalWrite::Reset { to: LogId::ZERO, tail: Tail::Discard });
        Ok(record.promised_end)
    }

    /// Whether any peer was ever noted: without one there is nobody to be repaired from.
    pub fn has_met_peers(&self) -> bool {
        !lock(&self.shared.peers).is_empty()
    }

    /// What is done about damage.
    pub fn on_damage(&self) -> OnDamage {
        self.shared.on_damage
    }

    /// Takes a write of an open group. Never blocks. A group's writes are made, and complete, in this order; entries
    /// can be read as soon as this returns.
    ///
    /// # Panics
    /// If the group was not opened: nobody could be told.
    pub fn submit(&self, group: GroupId, write: WriteId, op: WalWrite) {
        let mut state = lock(&self.shared.state);
        match state.enqueue(group, Asker::Group(write), op) {
            Ok(_) => self.shared.wake_thread(&state),
            Err(on_durable) => {
                drop(state);
                on_durable(write, Err(WalError::Closed));
            }
        }
    }

    /// Reads entries from the front of `span`: about `max_bytes` of them, but at least one. May read files.
    /// `Ok(None)`: the log does not hold the span, or not any more.
    ///
    /// # Errors
    /// [`WalError::Corrupt`], or what the disk says.
    pub fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, WalError> {
        self.read_checked(group, span, max_bytes).inspect_err(|error| self.shared.note(error))
    }

    fn read_checked(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, WalError> {
        let Some(places) = lock(&self.shared.state).find(group, span, max_bytes) else { return Ok(None) };
        let mut batches = Batches::new();
        let mut budget = max_bytes;
        let last = span.last.index;
        for place in places {
            let more = match place {
                Place::Memory(batch) => take_within(batch, &mut budget, &mut batches),
                Place::Disk(stretch) => {
                    let wanted = (span.first_index().max(stretch.first), last.min(stretch.last.index));
                    let frames = (stretch.start, stretch.end);
                    match stretch.segment.read_entries(group, frames, wanted, &mut budget, &mut batches) {
                        Ok(more) => more,
                        Err(_) if !lock(&self.shared.state).holds(group, span) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
            };
            if !more {
                break;
            }
        }
        check_read(&self.shared, group, span, batches)
    }

    /// Forgets entries up to and including `upto`, which a durable snapshot covers. Their files go when nobody needs
    /// them. Never blocks.
    pub fn purge(&self, group: GroupId, upto: LogId) {
        let mut state = lock(&self.shared.state);
        let Some(found) = state.groups.get_mut(&group) else { return };
        if !found.view.holds(upto) || upto.index <= found.view.purged().index {
            return;
        }
        found.view.purge(upto.index);
        state.purges.insert(group, upto);
        state.dirty = true;
        self.shared.wake_thread(&state);
    }

    /// Whether writes wait because there is no space for another segment.
    pub fn is_full(&self) -> bool {
        lock(&self.shared.state).full
    }

    /// The first failure of a write, after which this log writes nothing any more.
    pub fn failure(&self) -> Option<WalError> {
        lock(&self.shared.state).poison.clone()
    }

    /// After it was closed, the directory may be another's; after a failure, nothing is to be built on it.
    fn check_open(&self) -> Result<(), WalError> {
        let state = lock(&self.shared.state);
        match &state.poison {
            Some(error) => Err(error.clone()),
            None if state.closed => Err(WalError::Closed),
            None => Ok(()),
        }
    }

    /// The damage that was found and mended when the log was opened; see [`OnDamage::Mend`].
    pub fn mended(&self) -> Option<&Damage> {
        self.shared.mended.as_deref()
    }

    /// Where snapshots are kept.
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.shared.snapshots
    }
}

impl fmt::Debug for WalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalHandle").finish_non_exhaustive()
    }
}

/// Where a part of a span is.
enum Place {
    Memory(Batch),
    Disk(Stretch),
}

impl State {
    /// What is durable now.
    fn durable(&self) -> DamageNote {
        let ends = self.groups.iter().map(|(group, found)| (*group, found.written.ids.last()));
        let ends = ends.filter(|(_, last)| *last != LogId::ZERO).collect();
        DamageNote { durable: self.durable, ends, is_damaged: false }
    }

    /// Nothing is acknowledged any more; the next turn tells every group.
    pub(crate) fn fail_all(&mut self, error: &WalError) {
        self.poison.get_or_insert_with(|| error.clone());
        (self.tell_groups, self.dirty) = (true, true);
    }

    /// Puts a write into the queue and its effect into the view; returns its number, or the group's completion if the
    /// log is closed.
    pub(crate) fn enqueue(&mut self, group: GroupId, asker: Asker, op: WalWrite) -> Result<u64, OnDurable> {
        let cluster = self.cluster;
        let opened = self.groups.get_mut(&group).and_then(|group| Some((group.on_durable.clone()?, group)));
        #[expect(
            clippy::expect_used,
            reason = "documented: a write of a group that was not opened is a bug of the caller"
        )]
        let (on_durable, opened) = opened.expect("a group is opened before it is written");
        if self.closed {
            return Err(on_durable);
        }
        let number = self.next_number;
        self.next_number += 1;
        let accepted = match (&opened.failed, cluster) {
            (Some(error), _) => Err(error.clone()),
            (None, ClusterId(0)) => Err(WalError::NoCluster),
            (None, _) => opened.accept(number, op),
        };
        let work = accepted.unwrap_or_else(|error| {
            opened.failed = Some(error.clone());
            Work::Refuse(error)
        });
        self.queue.push_back(Queued { group, asker, number, work });
        self.dirty = true;
        Ok(number)
    }

    fn holds(&self, group: GroupId, span: Span) -> bool {
        self.groups.get(&group).is_some_and(|group| group.view.holds(span.prev) && group.view.holds(span.last))
    }

    /// Where the front of `span` is, at least `max_bytes` of it.
    fn find(&self, group: GroupId, span: Span, max_bytes: u64) -> Option<Vec<Place>> {
        if !self.holds(group, span) {
            return None;
        }
        let group = self.groups.get(&group)?;
        let (mut next, last) = (span.first_index(), span.last.index);
        let in_memory = group.pending.front().map_or(u64::MAX, |(_, batch)| batch.first().index);
        let mut places = Vec::new();
        let mut bytes = 0;
        let stretches = &group.written.stretches;
        let from = stretches.partition_point(|stretch| stretch.last.index < next);
        for stretch in stretches.range(from..) {
            if next > last || next >= in_memory || bytes > max_bytes {
                break;
            }
            bytes += if places.is_empty() { 0 } else { stretch.end - stretch.start };
            next = stretch.last.index + 1;
            let mut wanted = stretch.clone();
            wanted.last.index = wanted.last.index.min(in_memory - 1);
            places.push(Place::Disk(wanted));
        }
        for (_, batch) in &group.pending {
            if batch.first().index > last || bytes > max_bytes {
                break;
            }
            if let Some(batch) = batch.slice(span.first_index(), last) {
                bytes += batch.bytes().len() as u64;
                places.push(Place::Memory(batch));
            }
        }
        Some(places)
    }
}

impl Group {
    /// Applies a write to the view, if it can follow.
    fn accept(&mut self, number: u64, op: WalWrite) -> Result<Work, WalError> {
        let invalid = |what| WalError::Invalid { what };
        let ops = match op {
            WalWrite::Vote(vote) => return Ok(Work::Vote(vote)),
            WalWrite::PromiseLease(lease) => return Ok(Work::Lease(lease)),
            WalWrite::ForgetPromisedEnd => return Ok(Work::ForgetPromisedEnd),
            WalWrite::Append(batches) => {
                for batch in &batches {
                    check_append(&self.view, batch.first().index, batch.last()).map_err(invalid)?;
                    if batch.bytes().len() > u32::MAX as usize {
                        return Err(invalid("a batch of entries is larger than 4 GiB"));
                    }
                    self.view.append(batch.last().leader_id, batch.last().index);
                    self.pending.push_back((number, batch.clone()));
                }
                batches.into_iter().map(Op::Entries).collect()
            }
            WalWrite::Truncate { after } => {
                check_truncate(&self.view, after).map_err(invalid)?;
                self.view.truncate_after(after.index);
                self.cut_pending(after.index);
                vec![Op::Truncate { after }]
            }
            WalWrite::Reset { to, tail } => {
                // To nothing at all: the log is given up.
                if to.index < self.view.purged().index && to != LogId::ZERO {
                    return Err(invalid("the log was purged beyond the snapshot that is to replace it"));
                }
                reset(&mut self.view, to, tail);
                self.cut_pending(self.view.last().index);
                let purged = self.view.purged().index;
                self.pending.retain(|(_, batch)| batch.last().index > purged);
                vec![Op::Reset { to, tail }]
            }
        };
        Ok(Work::Log(ops))
    }

    fn cut_pending(&mut self, after: u64) {
        while self.pending.back().is_some_and(|(_, batch)| batch.first().index > after) {
            self.pending.pop_back();
        }
        if let Some((_, batch)) = self.pending.back_mut()
            && let Some(kept) = batch.slice(batch.first().index, after)
        {
            *batch = kept;
        }
    }
}

pub(crate) fn read_membership(group: GroupId, place: &MembershipPlace) -> Result<Membership, WalError> {
    let MembershipPlace { id, segment, start, end } = place;
    let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
    read_exact_at(&*segment.file, &mut bytes, *start).map_err(WalError::io("read", &segment.path))?;
    let damaged = |what: String| WalError::damaged(&segment.path, *start, what);
    let (entry, _) =
        quorate_wire::verify(segment.cluster, group, &bytes, 0).map_err(|error| damaged(error.to_string()))?;
    if entry.log_id != *id || entry.kind != EntryKind::Membership {
        return Err(damaged(format!("the entry is not the membership {id}")));
    }
    decode_membership(entry.payload).map_err(|error| damaged(error.to_string()))
}

/// What was read must be the front of the span, without a gap; anything else was damage that checksums did not show,
/// or a span that is gone meanwhile.
fn check_read(shared: &Shared, group: GroupId, span: Span, batches: Batches) -> Result<Option<Batches>, WalError> {
    let mut next = span.first_index();
    for batch in &batches {
        if batch.first().index != next {
            break;
        }
        next = batch.last().index + 1;
    }
    let whole = batches.last().is_none_or(|batch| batch.last().index + 1 == next);
    if whole && (next > span.first_index() || span.count() == 0) {
        return Ok(Some(batches));
    }
    let state = lock(&shared.state);
    match state.holds(group, span).then(|| state.groups.get(&group)).flatten() {
        None => Ok(None),
        Some(found) => {
            let places = &found.written.stretches;
            let at = places.iter().find(|stretch| stretch.last.index >= next);
            Err(at.map_or(WalError::Invalid { what: "an entry of the log is nowhere" }, |stretch| {
                WalError::damaged(&stretch.segment.path, stretch.start, format!("entry {next} is missing"))
            }))
        }
    }
}
