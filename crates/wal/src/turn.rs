//! The writer: what one turn takes from the queue, writes, makes durable and completes.
//!
//! A turn takes, of every group, log writes up to its first vote and then votes up to its next log write. All log
//! writes become durable with one sync, after them all votes with one sync of each vote file. So the writes of a
//! group become durable in their order, whatever files they live in (law 3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{Bug, GroupId, Instant, LogId, LogIds, WriteId, bug};

use crate::codec::round_up;
use crate::disk::{Disk, read_up_to, write_all_at, write_all_vectored_at};
use crate::error::WalError;
use crate::frame::{
    FRAME_HEADER_BYTES, FrameKind, LEAD_BYTES, Lead, MAX_MARK_GROUPS, Mark, Op, Position, SECTOR_BYTES,
};
use crate::group::Row;
use crate::handle::{Asker, OnDurable, Queued, Shared, State, Work, lock};
use crate::identity::Identity;
use crate::layout::{Layout, Place, Planned};
use crate::options::WalOptions;
use crate::recover::{Active, logs_of};
use crate::segment::{Base, DATA_AT, Segment, SegmentIndex, TRAILER_BYTES};
use crate::vote_file::VoteFiles;

/// Most bytes of frames in one turn, unless a single write is larger: bounds how long a sync takes (8 MiB: about
/// 10 ms on a disk of 1 GB/s).
const MAX_TURN_BYTES: u64 = 8 << 20;
/// Space at the end of a segment that only truncations, resets and purges may use, so that entries on a full disk
/// can be purged.
const RESERVE_BYTES: u64 = 32 << 10;
/// Purged segments kept to be used again, instead of making new ones.
const MAX_SPARES: usize = 2;
/// Segments that are not needed any more are removed one in so long, unless there is no space: a file system may take the
/// time of several writes for one, and all disks of a cluster have a snapshot's worth of them at about the same time.
/// Measured with 5.6 GiB a node: removed at once, they kept every log from writing for three seconds. A log that is written to
/// uses them again meanwhile.
const REMOVE_PACE: Duration = Duration::from_secs(1);

/// Bytes written again at a time when a log is opened.
const REWRITE_BYTES: u64 = 1 << 20;

/// When [`WalCore::turn`](crate::WalCore::turn) is to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// At once.
    Again,
    /// At this time, or when something is submitted.
    At(Instant),
    /// When something is submitted.
    Idle,
}

/// What writes. Only a turn and calls that are allowed to block hold it.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    /// Where segments are.
    pub(crate) dir: PathBuf,
    pub(crate) options: WalOptions,
    pub(crate) identity: Identity,
    /// None before the node has a cluster.
    pub(crate) active: Option<Active>,
    pub(crate) next: Option<Arc<Segment>>,
    /// All segments in use, the active one last.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) votes: VoteFiles,
    pub(crate) spares: Vec<PathBuf>,
    /// Groups that the last sync touched, and where their logs ended.
    pub(crate) touched: Vec<(GroupId, LogId)>,
    /// When an idle log writes its closing mark; none if it is written.
    pub(crate) mark_due: Option<Instant>,
    /// While there is no space: when to try again.
    pub(crate) retry_at: Option<Instant>,
    /// While segments wait to be removed: when the next one is.
    pub(crate) remove_at: Option<Instant>,
    /// Whether making a segment ahead failed for want of space, so that it is not tried again until it is needed.
    pub(crate) no_ahead: bool,
}

/// What a turn does.
#[derive(Default)]
struct Plan {
    purges: Vec<(GroupId, LogId)>,
    writes: Vec<Queued>,
    votes: Vec<Queued>,
    /// Refused writes, after everything else of the turn.
    refused: Vec<Queued>,
    /// Bytes that the first write left behind needs in a segment.
    wanted: Option<u64>,
}

/// A completion to deliver, once no lock is held.
type Done = (OnDurable, WriteId, Result<(), WalError>);

/// How much still fits into the active segment.
struct Room {
    /// Where the next batch starts, and what frames are planned for it.
    at: u64,
    frames: u64,
    /// Lines of the index, which must fit into the footer.
    rows: u64,
    limit: u64,
    reserve: u64,
    /// Whether no entries are taken any more: those before must come first.
    closed: bool,
}

impl Room {
    /// Bytes that `ops` add, and lines.
    fn need(ops: &[Op]) -> (u64, u64) {
        ops.iter().fold((0, 0), |(bytes, rows), op| {
            let lines = match op {
                Op::Entries(batch) if batch.has_special() => 1 + batch.count(),
                _ => 1,
            };
            (bytes + op.frame_bytes(), rows + lines)
        })
    }

    fn fits(&self, bytes: u64, rows: u64, reserve: u64) -> bool {
        let end = round_up(self.at + LEAD_BYTES as u64 + self.frames + bytes, SECTOR_BYTES);
        end + SegmentIndex::footer_bytes(self.rows + rows) + reserve <= self.limit
    }

    fn take(&mut self, ops: &[Op]) -> bool {
        let (bytes, rows) = Self::need(ops);
        let entries = ops.iter().any(|op| matches!(op, Op::Entries(_)));
        let reserve = if entries { self.reserve } else { 0 };
        let too_much = self.frames > 0 && self.frames + bytes > MAX_TURN_BYTES;
        if (entries && self.closed) || too_much || !self.fits(bytes, rows, reserve) {
            self.closed = true;
            return false;
        }
        self.frames += bytes;
        self.rows += rows;
        true
    }
}

impl State {
    /// Takes from the queue what the next turn can do.
    fn collect(&mut self, mut room: Room) -> Plan {
        let mut plan = Plan::default();
        self.dirty = false;
        let purges = std::mem::take(&mut self.purges);
        for (group, upto) in purges {
            let Some(found) = self.groups.get(&group) else { continue };
            if upto.index <= found.written.ids.purged().index {
                continue;
            }
            // Purges overtake the queue; one of entries that are not written yet waits for them.
            if found.written.ids.holds(upto) && room.take(&[Op::Purge { upto }]) {
                plan.purges.push((group, upto));
            } else {
                self.purges.insert(group, upto);
            }
        }
        let mut blocked = BTreeSet::new();
        let mut voted = BTreeSet::new();
        for item in std::mem::take(&mut self.queue) {
            if blocked.contains(&item.group) {
                self.queue.push_back(item);
                continue;
            }
            match &item.work {
                Work::Log(ops) if !voted.contains(&item.group) && room.take(ops) => plan.writes.push(item),
                Work::Log(ops) => {
                    if !voted.contains(&item.group) && plan.wanted.is_none() {
                        let (bytes, rows) = Room::need(ops);
                        plan.wanted = Some(bytes + SegmentIndex::footer_bytes(rows) + room.reserve);
                    }
                    blocked.insert(item.group);
                    self.queue.push_back(item);
                }
                Work::Vote(_) | Work::Lease(_) | Work::ForgetPromisedEnd => {
                    voted.insert(item.group);
                    plan.votes.push(item);
                }
                Work::Refuse(_) => {
                    // Everything of the group that comes after is refused as well.
                    plan.refused.push(item);
                }
            }
        }
        plan
    }

    /// What a group is to be told of a write; a thread that waits for it finds it under its number.
    fn done(&mut self, item: &Queued, result: Result<(), WalError>) -> Option<Done> {
        match item.asker {
            Asker::Group(write) => {
                let on_durable = self.groups.get(&item.group)?.on_durable.clone()?;
                Some((on_durable, write, result))
            }
            Asker::Thread => {
                self.baton.finish(item.number, result);
                None
            }
        }
    }
}

impl Writer {
    /// Does one turn: everything queued that can be done with one sync of the log and one of each vote file.
    pub(crate) fn turn(&mut self, shared: &Shared, now: Instant) -> Wake {
        let poison = lock(&shared.state).poison.clone();
        if let Some(error) = poison {
            fail(shared, Plan::default(), &error);
            return Wake::Idle;
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
        }
        let room = self.room();
        let mut plan = lock(&shared.state).collect(room);
        self.perform(shared, &mut plan, now).unwrap_or_else(|error| {
            // Also of a write that nobody asked for, such as a closing mark: a node may have nothing to write.
            lock(&shared.state).fail_all(&error);
            fail(shared, plan, &error);
            Wake::Idle
        })
    }

    /// Does what is planned; what is done is taken out of the plan.
    fn perform(&mut self, shared: &Shared, plan: &mut Plan, now: Instant) -> Result<Wake, WalError> {
        if self.remove_at.is_some_and(|at| now >= at) {
            self.free_segments(shared, now)?;
        }
        let log_work = !plan.writes.is_empty() || !plan.purges.is_empty();
        let any_work = log_work || !plan.votes.is_empty() || !plan.refused.is_empty();
        if log_work {
            let shrinks = self.write_log(shared, plan, now)?;
            plan.purges.clear();
            plan.writes.clear();
            if shrinks {
                self.free_segments(shared, now)?;
            }
        }
        if !plan.votes.is_empty() {
            self.write_votes(shared, &plan.votes)?;
            plan.votes.clear();
        }
        refuse(shared, std::mem::take(&mut plan.refused));
        if let (Some(bytes), false, None) = (plan.wanted, log_work, self.retry_at) {
            match self.roll(shared, bytes, now) {
                Ok(()) => self.set_full(shared, None),
                Err(WalError::Full { .. }) if self.remove_at.is_some() => self.free_all(shared, now)?,
                Err(WalError::Full { .. }) => {
                    self.no_ahead = true;
                    self.set_full(shared, Some(now + self.options.retry_full_after));
                }
                Err(error) => return Err(error),
            }
            return Ok(self.retry_at.map_or(Wake::Again, Wake::At));
        }
        if any_work || (plan.wanted.is_some() && self.retry_at.is_none()) {
            return Ok(Wake::Again);
        }
        self.idle(shared, now)
    }

    fn set_full(&mut self, shared: &Shared, retry_at: Option<Instant>) {
        self.retry_at = retry_at;
        lock(&shared.state).full = retry_at.is_some();
    }

    /// What there is to do when nothing is queued: the closing mark, and the next segment.
    fn idle(&mut self, shared: &Shared, now: Instant) -> Result<Wake, WalError> {
        match self.mark_due {
            Some(due) if now < due => return Ok(self.next_wake()),
            Some(_) => self.closing_mark()?,
            None => {}
        }
        let half_used = self.active.as_ref().is_some_and(|active| active.end > active.segment.bytes / 2);
        if half_used && self.next.is_none() && !self.no_ahead {
            match self.make_next(self.options.segment_bytes, shared, now) {
                Ok(()) => self.retry_at = None,
                Err(WalError::Full { .. }) if self.remove_at.is_some() => {
                    self.free_all(shared, now)?;
                    return Ok(Wake::Again);
                }
                Err(WalError::Full { .. }) => self.no_ahead = true,
                Err(error) => return Err(error),
            }
        }
        Ok(self.next_wake())
    }

    /// When an idle log has something to do.
    fn next_wake(&self) -> Wake {
        [self.mark_due, self.retry_at, self.remove_at].into_iter().flatten().min().map_or(Wake::Idle, Wake::At)
    }

    /// Whether it owes no mark and waits for no space.
    pub(crate) fn is_settled(&self) -> bool {
        self.mark_due.is_none() && self.retry_at.is_none()
    }

    /// Says that everything written is durable, so that damage to the last batch is not taken for a torn one.
    pub(crate) fn closing_mark(&mut self) -> Result<(), WalError> {
        self.mark_due = None;
        let Some(active) = &mut self.active else { return Ok(()) };
        active.mark += 1;
        let mark = Mark {
            number: active.mark,
            segment: active.segment.number,
            generation: self.identity.starts.boot(),
            sync: active.sync,
            durable: active.durable,
            batch_end: active.end,
            groups: self.touched.clone(),
        };
        active.segment.write_mark(&mark)?;
        active.segment.file.sync_data().map_err(WalError::io("sync", &active.segment.path))
    }

    fn room(&self) -> Room {
        let reserve = self.reserve_bytes();
        match &self.active {
            Some(active) => Room {
                at: round_up(active.end, SECTOR_BYTES),
                frames: 0,
                rows: active.index.count(),
                limit: active.segment.limit(),
                reserve,
                closed: self.retry_at.is_some(),
            },
            None => Room { at: 0, frames: 0, rows: 0, limit: 0, reserve, closed: true },
        }
    }

    /// Writes the log writes of a turn and completes them. Returns whether some log became shorter.
    fn write_log(&mut self, shared: &Shared, plan: &Plan, now: Instant) -> Result<bool, WalError> {
        let purges: Vec<(GroupId, Op)> =
            plan.purges.iter().map(|(group, upto)| (*group, Op::Purge { upto: *upto })).collect();
        let mut ops: Vec<(GroupId, &Op)> = purges.iter().map(|(group, op)| (*group, op)).collect();
        for item in &plan.writes {
            if let Work::Log(frames) = &item.work {
                ops.extend(frames.iter().map(|op| (item.group, op)));
            }
        }
        let mut places = Vec::new();
        if !ops.is_empty() {
            let planned: Vec<Planned> = ops.iter().map(|(group, op)| Planned::of(*group, op)).collect();
            places = self.write_batch(&planned)?;
            self.mark_due = Some(now + self.options.idle_mark_after);
        }
        let shrinks = ops.iter().any(|(_, op)| !matches!(op, Op::Entries(_)));
        let mut done = Vec::new();
        {
            let mut state = lock(&shared.state);
            state.durable = self.active.as_ref().map_or(state.durable, |active| active.durable);
            self.touched.clear();
            for ((group, op), offset) in ops.iter().zip(places) {
                self.note_written(&mut state, *group, op, offset)?;
            }
            for item in &plan.writes {
                if let Some(group) = state.groups.get_mut(&item.group) {
                    while group.pending.front().is_some_and(|(number, _)| *number <= item.number) {
                        group.pending.pop_front();
                    }
                }
                done.extend(state.done(item, Ok(())));
            }
        }
        deliver(done);
        Ok(shrinks)
    }

    /// Puts a written frame into the index.
    fn note_written(&mut self, state: &mut State, group: GroupId, op: &Op, offset: u64) -> Result<(), WalError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let log = &mut state.groups.entry(group).or_default().written;
        for row in Row::of(op, offset) {
            active.index.record(group, row);
            log.apply(&active.segment, row).map_err(|what| WalError::Invalid { what })?;
        }
        let last = log.ids.last();
        match self.touched.iter().position(|(touched, _)| *touched == group) {
            Some(place) => self.touched[place].1 = last,
            None if self.touched.len() < MAX_MARK_GROUPS => self.touched.push((group, last)),
            None => {}
        }
        Ok(())
    }

    fn write_votes(&mut self, shared: &Shared, items: &[Queued]) -> Result<(), WalError> {
        let mut records = BTreeMap::new();
        for item in items {
            let record = records.entry(item.group).or_insert_with(|| self.votes.record(item.group));
            match item.work {
                Work::Vote(vote) => record.vote = vote,
                Work::Lease(lease) => record.promised_lease = record.promised_lease.max(lease),
                Work::ForgetPromisedEnd => record.promised_end = LogId::ZERO,
                Work::Log(_) | Work::Refuse(_) => {}
            }
        }
        records.values_mut().for_each(|record| record.sequence += 1);
        self.votes.write(&self.identity, &records)?;
        let done: Vec<Done> = {
            let mut state = lock(&shared.state);
            items.iter().filter_map(|item| state.done(item, Ok(()))).collect()
        };
        deliver(done);
        Ok(())
    }

    /// Writes frames as one batch and makes it durable, with a mark that says what was durable before. Returns the
    /// frames' offsets.
    fn write_batch(&mut self, frames: &[Planned]) -> Result<Vec<u64>, WalError> {
        let generation = self.identity.starts.boot();
        #[expect(clippy::expect_used, reason = "callers have found an active segment, or just made one")]
        let active = self.active.as_mut().expect("a batch is written to an active segment");
        let segment = active.segment.clone();
        let at = round_up(active.end, SECTOR_BYTES);
        let sync = active.sync + 1;
        let all: u64 = frames.iter().map(|frame| (FRAME_HEADER_BYTES + frame.body().len()) as u64).sum();
        let batch_bytes = LEAD_BYTES as u64 + all;
        assert!(at + batch_bytes <= segment.limit(), "the batch was measured against the segment");

        let lead = Lead { durable: active.durable, batch_bytes, frames: frames.len() as u32 + 1 };
        let Layout { small, pieces, offsets, end, chain } =
            Layout::new(&segment, Place { at, sync, generation, previous: active.chain }, &lead, frames);
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(pieces.len() * 2);
        for (range, body) in &pieces {
            slices.push(IoSlice::new(&small[range.clone()]));
            slices.push(IoSlice::new(body));
        }
        write_all_vectored_at(&*segment.file, &mut slices, at).map_err(WalError::io("write", &segment.path))?;

        active.mark += 1;
        segment.write_mark(&Mark {
            number: active.mark,
            segment: segment.number,
            generation,
            sync,
            durable: if bug(Bug::DiskMarksBeforeData) {
                Position { segment: segment.number, offset: end }
            } else {
                active.durable
            },
            batch_end: end,
            groups: self.touched.clone(),
        })?;
        if !bug(Bug::DiskAcknowledgesBeforeSync) {
            let synced = segment.file.sync_data().map_err(WalError::io("sync", &segment.path));
            synced.or_else(|error| if bug(Bug::DiskIgnoresSyncError) { Ok(()) } else { Err(error) })?;
        }
        active.end = end;
        active.chain = chain;
        active.sync = sync;
        active.durable = Position { segment: segment.number, offset: end };
        Ok(offsets)
    }

    /// A writer without a segment.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: WalOptions,
        identity: Identity,
        votes: VoteFiles,
    ) -> Self {
        Self {
            disk,
            dir,
            options,
            identity,
            active: None,
            next: None,
            segments: VecDeque::new(),
            votes,
            spares: Vec::new(),
            touched: Vec::new(),
            mark_due: None,
            retry_at: None,
            remove_at: None,
            no_ahead: false,
        }
    }

    /// Makes the first segment: of a node that has just learnt its cluster, number 1 and nothing before it (the caller
    /// then notes the cluster); of a mended log, what stays.
    pub(crate) fn begin(&mut self, identity: Identity, number: u64, base: Base) -> Result<(), WalError> {
        let base_bytes = round_up((LEAD_BYTES + FRAME_HEADER_BYTES + base.encode().len()) as u64, SECTOR_BYTES);
        let bytes = self.segment_bytes_for(base_bytes + SegmentIndex::footer_bytes(1) + self.reserve_bytes());
        let segment = Arc::new(Segment::create(&*self.disk, &self.dir, number, bytes, &identity, None)?);
        let blank = std::mem::replace(&mut self.identity, identity);
        self.segments = VecDeque::from([segment.clone()]);
        let durable = Position { segment: number, offset: DATA_AT };
        let began = self.activate(segment, base, durable, 0);
        if began.is_err() {
            self.active = None;
            self.segments.clear();
            self.identity = blank;
        }
        began
    }

    /// Goes on where recovery stopped: makes it durable, and overwrites the start of a torn tail with a batch of this
    /// boot, so that it can never come back.
    pub(crate) fn reopen(&mut self) -> Result<(), WalError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        // Whoever writes a batch leaves room for the footer: without it the segment can never be finished.
        let footer = SegmentIndex::footer_bytes(active.index.count());
        if round_up(active.end, SECTOR_BYTES) + footer > active.segment.limit() {
            return Err(WalError::damaged(&active.segment.path, active.end, "there is no room left for the footer"));
        }
        // What a killed process wrote may be in the page cache only, and after a sync that failed the cache may claim
        // that it is clean: so it is written again. If this segment is not begun, that is the footer before it.
        if let (Some(base), Some(before)) = (&active.base, self.segments.iter().rev().nth(1)) {
            rewrite(before, base.data_end, active.durable.offset)?;
            rewrite(before, before.limit(), before.bytes)?;
            before.file.sync_data().map_err(WalError::io("sync", &before.path))?;
        }
        rewrite(&active.segment, active.doubtful, active.end)?;
        active.segment.file.sync_data().map_err(WalError::io("sync", &active.segment.path))?;
        let at = round_up(active.end, SECTOR_BYTES);
        let first: Vec<Planned> =
            active.base.take().map(|base| Planned::special(FrameKind::Base, base.encode())).into_iter().collect();
        let bytes = first.iter().map(|frame| (FRAME_HEADER_BYTES + frame.body().len()) as u64).sum::<u64>();
        let end = round_up(at + LEAD_BYTES as u64 + bytes, SECTOR_BYTES);
        if end + SegmentIndex::footer_bytes(active.index.count()) > active.segment.limit() {
            // The segment is all but used up. Then zeros do it: what follows will be the footer, in the same place.
            let zeros = [0; SECTOR_BYTES as usize];
            write_all_at(&*active.segment.file, &zeros, at).map_err(WalError::io("write", &active.segment.path))?;
            return self.closing_mark();
        }
        self.write_batch(&first)?;
        self.closing_mark()
    }

    /// Finishes the active segment and goes on in the next one, which will have room for `wanted` bytes. Space for
    /// the next is reserved before anything is changed.
    fn roll(&mut self, shared: &Shared, wanted: u64, now: Instant) -> Result<(), WalError> {
        let Some(active) = &self.active else { return Ok(()) };
        let data_end = active.end;
        let base = Base { data_end, chain: active.chain, logs: written_logs(shared) };
        let base_bytes = round_up((LEAD_BYTES + FRAME_HEADER_BYTES + base.encode().len()) as u64, SECTOR_BYTES);
        let bytes = self.segment_bytes_for(base_bytes + LEAD_BYTES as u64 + wanted + 2 * SECTOR_BYTES);
        if self.next.as_ref().is_some_and(|next| next.bytes < bytes)
            && let Some(small) = self.next.take()
        {
            self.disk.remove(&small.path).map_err(WalError::io("remove", &small.path))?;
            self.disk.sync_dir(&self.dir).map_err(WalError::io("sync", &self.dir))?;
        }
        if self.next.is_none() {
            self.make_next(bytes, shared, now)?;
        }
        self.seal()?;
        let (Some(next), Some(active)) = (self.next.take(), &self.active) else { return Ok(()) };
        let (durable, sync) = (active.durable, active.sync);
        self.segments.push_back(next.clone());
        self.activate(next, base, durable, sync)?;
        self.free_segments(shared, now)
    }

    /// Writes the footer and the trailer. Room for both was kept.
    fn seal(&mut self) -> Result<(), WalError> {
        let Some(active) = &self.active else { return Ok(()) };
        let footer = Planned::special(FrameKind::Footer, active.index.encode());
        active.segment.write_trailer(round_up(active.end, SECTOR_BYTES))?;
        self.write_batch(&[footer])?;
        Ok(())
    }

    /// Makes `segment` the active one and writes its base.
    fn activate(&mut self, segment: Arc<Segment>, base: Base, durable: Position, sync: u64) -> Result<(), WalError> {
        let base_frame = Planned::special(FrameKind::Base, base.encode());
        self.active = Some(Active {
            end: DATA_AT,
            chain: segment.header_checksum,
            index: SegmentIndex::default(),
            base: None,
            durable,
            doubtful: DATA_AT,
            sync,
            mark: 0,
            segment,
        });
        self.write_batch(&[base_frame])?;
        Ok(())
    }

    /// Makes the next segment, from a spare if there is one.
    fn make_next(&mut self, bytes: u64, shared: &Shared, now: Instant) -> Result<(), WalError> {
        if self.spares.is_empty() && self.remove_at.is_some() {
            // Segments wait to be removed: they become spares first, however fast the log grows.
            self.free_segments(shared, now)?;
        }
        let Some(active) = &self.active else { return Ok(()) };
        let number = active.segment.number + 1;
        let spare = if bytes == self.options.segment_bytes { self.spares.pop() } else { None };
        let next = Segment::create(&*self.disk, &self.dir, number, bytes, &self.identity, spare.as_deref())?;
        self.next = Some(Arc::new(next));
        self.no_ahead = false;
        Ok(())
    }

    fn reserve_bytes(&self) -> u64 {
        RESERVE_BYTES.min(self.options.segment_bytes / 8)
    }

    fn segment_bytes_for(&self, wanted: u64) -> u64 {
        let least = round_up(DATA_AT + wanted + TRAILER_BYTES, SECTOR_BYTES);
        self.options.segment_bytes.max(least)
    }

    /// Frees the oldest segments as long as no group has entries in them, those that become no spares at their
    /// [pace](REMOVE_PACE). One after the other, each durably: a gap would be taken for a lost segment.
    fn free_segments(&mut self, shared: &Shared, now: Instant) -> Result<(), WalError> {
        let Some(active) = self.active.as_ref().map(|active| active.segment.number) else { return Ok(()) };
        let needed = {
            let state = lock(&shared.state);
            let firsts = state.groups.values().filter_map(|group| group.written.stretches.front());
            firsts.map(|stretch| stretch.segment.number).min().unwrap_or(active).min(active)
        };
        let needed = if bug(Bug::DiskFreesTooEarly) { active.min(needed + 1) } else { needed };
        while self.segments.front().is_some_and(|oldest| oldest.number < needed) {
            // A reader may still hold the file: then it must not be written again.
            let reusable =
                |oldest: &Arc<Segment>| Arc::strong_count(oldest) == 1 && oldest.bytes == self.options.segment_bytes;
            let becomes_spare = self.spares.len() < MAX_SPARES && self.segments.front().is_some_and(reusable);
            if !becomes_spare && self.remove_at.is_some_and(|at| now < at) {
                return Ok(());
            }
            let Some(oldest) = self.segments.pop_front() else { break };
            if becomes_spare {
                let spare = self.dir.join(format!("spare-{:016x}.tmp", oldest.number));
                self.disk.rename(&oldest.path, &spare).map_err(WalError::io("rename", &oldest.path))?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&oldest.path).map_err(WalError::io("remove", &oldest.path))?;
                self.remove_at = Some(now + REMOVE_PACE);
            }
            self.disk.sync_dir(&self.dir).map_err(WalError::io("sync", &self.dir))?;
            // There may be space now.
            self.retry_at = None;
            self.no_ahead = false;
        }
        self.remove_at = None;
        Ok(())
    }

    /// Frees them now, for there is no space.
    fn free_all(&mut self, shared: &Shared, now: Instant) -> Result<(), WalError> {
        while self.remove_at.is_some() {
            self.remove_at = None;
            self.free_segments(shared, now)?;
        }
        Ok(())
    }
}

/// Writes again what stands from `from` to `to`.
fn rewrite(segment: &Segment, mut from: u64, to: u64) -> Result<(), WalError> {
    while from < to {
        let length = REWRITE_BYTES.min(to - from);
        let bytes = read_up_to(&*segment.file, length as usize, from).map_err(WalError::io("read", &segment.path))?;
        write_all_at(&*segment.file, &bytes, from).map_err(WalError::io("write", &segment.path))?;
        from += length;
    }
    Ok(())
}

fn written_logs(shared: &Shared) -> BTreeMap<GroupId, LogIds> {
    logs_of(lock(&shared.state).groups.iter().map(|(group, found)| (*group, &found.written)))
}

/// Fails what a turn had taken, and everything that waits, in order.
fn fail(shared: &Shared, plan: Plan, error: &WalError) {
    let done: Vec<Done> = {
        let mut state = lock(&shared.state);
        state.dirty = false;
        let waiting = std::mem::take(&mut state.queue);
        let taken = plan.writes.iter().chain(&plan.votes).chain(&plan.refused);
        let mut done: Vec<Done> =
            taken.chain(&waiting).filter_map(|item| state.done(item, Err(error.clone()))).collect();
        if std::mem::take(&mut state.tell_groups) {
            let groups = state.groups.values().filter_map(|group| group.on_durable.clone());
            done.extend(groups.map(|on_durable| (on_durable, WriteId(0), Err(error.clone()))));
        }
        done
    };
    deliver(done);
}

/// Fails everything that waits, because the log is shut down.
pub(crate) fn fail_waiting(shared: &Shared, error: &WalError) {
    fail(shared, Plan::default(), error);
    shared.wake_all();
}

fn refuse(shared: &Shared, items: Vec<Queued>) {
    if items.is_empty() {
        return;
    }
    let done: Vec<Done> = {
        let mut state = lock(&shared.state);
        let reason = |item: &Queued| match &item.work {
            Work::Refuse(error) => Err(error.clone()),
            Work::Log(_) | Work::Vote(_) | Work::Lease(_) | Work::ForgetPromisedEnd => Ok(()),
        };
        items.iter().filter_map(|item| state.done(item, reason(item))).collect()
    };
    deliver(done);
}

fn deliver(done: Vec<Done>) {
    for (on_durable, write, result) in done {
        on_durable(write, result);
    }
}
