//! What the log was when the process stopped.
//!
//! Finished segments are taken from their footers. The last one is read batch by batch, until the bytes are no batch.
//! Then the rule (law 9): damage before what the newest mark calls durable, or before a later valid batch, is
//! corruption, and nothing is changed; anything else was never durable, and is a torn tail.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use quorate_core::{Bug, ClusterId, GroupId, LogId, LogIds, bug};
use quorate_wire::Batches;

use crate::codec::round_up;
use crate::disk::Disk;
use crate::error::{Damage, WalError};
use crate::frame::{FrameKind, Mark, Op, Position, SECTOR_BYTES};
use crate::group::{GroupLog, Row};
use crate::handle::read_membership;
use crate::identity::Identity;
use crate::note::DamageNote;
use crate::segment::{Base, BatchError, DATA_AT, Frame, ReadBatch, Segment, SegmentIndex, file_name, number_of};

/// What recovery found.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    /// All segments in use, the active one last.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    /// Where the log goes on; none before the node has a cluster.
    pub(crate) active: Option<Active>,
    /// A segment made ahead and not yet used.
    pub(crate) next: Option<Arc<Segment>>,
}

/// Where the log stops being whole.
#[derive(Debug)]
pub(crate) struct Break {
    /// After the last whole batch.
    pub(crate) at: Position,
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    /// After the last frame; [`DATA_AT`] if there is none.
    pub(crate) end: u64,
    /// Checksum of the last frame header, or of the segment's.
    pub(crate) chain: u32,
    pub(crate) index: SegmentIndex,
    /// What the first batch must say, until it is written.
    pub(crate) base: Option<Base>,
    /// End of the last sync.
    pub(crate) durable: Position,
    /// After recovery: from here on nothing tells that what was read is on disk.
    pub(crate) doubtful: u64,
    /// Number of the last sync.
    pub(crate) sync: u64,
    /// Number of the last mark.
    pub(crate) mark: u64,
}

/// A segment that was read batch by batch.
struct Walk {
    segment: Arc<Segment>,
    /// After the last data frame.
    end: u64,
    chain: u32,
    sync: u64,
    mark: Option<Mark>,
    index: SegmentIndex,
}

enum Stop {
    /// A footer, which ends here.
    Footer(u64),
    /// Bytes that are no batch.
    Broken(BatchError),
}

/// How the segment before ended.
#[derive(Clone, Copy, Default)]
struct Before {
    data_end: u64,
    chain: u32,
    durable: Position,
    sync: u64,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    groups: BTreeMap<GroupId, GroupLog>,
    before: Option<Before>,
    /// What a process that read damage knew.
    note: Option<&'a DamageNote>,
}

impl Recovery {
    /// Reads what every start of a group reads of its log: the memberships and the last entry. A finished segment is not
    /// read otherwise, and a start that meets damage there has nobody to mend it.
    pub(crate) fn damage_to_what_starts_read(&self) -> Option<Arc<Damage>> {
        for (group, log) in &self.groups {
            let mut read = log.memberships.iter().try_for_each(|place| read_membership(*group, place).map(drop));
            let (index, purged) = (log.ids.last().index, log.ids.purged().index);
            if let Some(last) = log.stretches.back().filter(|_| read.is_ok() && index > purged) {
                let frames = (last.start, last.end);
                let mut found = Batches::new();
                read = last.segment.read_entries(*group, frames, (index, index), &mut 1, &mut found).map(drop);
            }
            // What cannot be read just now is for the group that needs it: the others can do without.
            if let Err(WalError::Corrupt(damage)) = read {
                return Some(damage);
            }
        }
        None
    }
}

/// Reads the log in `dir`. Changes nothing but leftovers of segments that were being made.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    identity: &Identity,
    note: Option<&DamageNote>,
) -> Result<Recovery, WalError> {
    let mut numbers = Vec::new();
    for name in disk.list(dir).map_err(WalError::io("list", dir))? {
        if let Some(number) = number_of(&name) {
            numbers.push(number);
        } else if name.ends_with(".tmp") {
            let path = dir.join(&name);
            disk.remove(&path).map_err(WalError::io("remove", &path))?;
        }
    }
    if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(WalError::damaged(&dir.join(file_name(gap[0] + 1)), 0, "the segment is missing"));
    }
    let mut segments = Vec::new();
    for number in numbers {
        segments.push(Arc::new(Segment::open(disk, dir, number, identity)?));
    }
    let mut replay = Replay { disk, dir, groups: BTreeMap::new(), before: None, note };
    let recovery = match identity.cluster {
        ClusterId(0) => replay.discard_unused(&segments)?,
        _ => replay.run(segments)?,
    };
    // What a killed process did to the directory may not be durable yet.
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
    Ok(recovery)
}

/// Reads every batch of every segment, entries included, up to the first place that is not whole: the end of a sound log,
/// or damage. Returns every group's log up to there.
pub(crate) fn whole_prefix(
    disk: &dyn Disk,
    dir: &Path,
    identity: &Identity,
) -> Result<(BTreeMap<GroupId, GroupLog>, Break), WalError> {
    let names = disk.list(dir).map_err(WalError::io("list", dir))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    let mut replay = Replay { disk, dir, groups: BTreeMap::new(), before: None, note: None };
    let mut at = Position { segment: numbers.first().copied().unwrap_or(1), offset: DATA_AT };
    for (i, number) in numbers.iter().enumerate() {
        if i > 0 && number - 1 != numbers[i - 1] {
            break;
        }
        // Of a segment that is damaged in other ways than a broken batch, nothing is believed to be the newest.
        at = Position { segment: *number, offset: u64::MAX / 2 };
        let walked = Segment::open(disk, dir, *number, identity).and_then(|segment| replay.walk(&Arc::new(segment)));
        let (walk, stop) = match walked {
            Ok(walked) => walked,
            Err(WalError::Corrupt(_)) => break,
            Err(error) => return Err(error),
        };
        at.offset = walk.end;
        let next = numbers.get(i + 1).map(|next| Segment::open(disk, dir, *next, identity)).transpose();
        match (stop, next) {
            (Stop::Footer(end), _) => replay.finished(&walk, end),
            (Stop::Broken(_), Ok(next)) => match linked_end(&walk, next.map(Arc::new).as_ref()) {
                Ok(Some(end)) => replay.finished(&walk, end),
                Ok(None) => break,
                Err(WalError::Corrupt(_)) => break,
                Err(error) => return Err(error),
            },
            (Stop::Broken(_), Err(WalError::Corrupt(_))) => break,
            (Stop::Broken(_), Err(error)) => return Err(error),
        }
    }
    for log in replay.groups.values_mut() {
        if let Some(missing) = log.first_missing() {
            log.keep_upto(missing - 1);
        }
    }
    Ok((replay.groups, Break { at }))
}

impl Replay<'_> {
    /// Before the cluster is noted in the identity, a segment can only be one that was made for it and not used.
    fn discard_unused(&mut self, segments: &[Arc<Segment>]) -> Result<Recovery, WalError> {
        for segment in segments {
            let after_base = match segment.read_batch(DATA_AT, Some(segment.header_checksum)) {
                Ok(first) => round_up(first.end, SECTOR_BYTES),
                Err(BatchError::Bad { .. }) => DATA_AT,
                Err(BatchError::Failed(error)) => return Err(error),
            };
            if segment.number != 1 || segment.find_lead(after_base)?.is_some() {
                return Err(WalError::damaged(&segment.path, after_base, "a log, but the identity names no cluster"));
            }
        }
        for segment in segments {
            self.disk.remove(&segment.path).map_err(WalError::io("remove", &segment.path))?;
        }
        Ok(Recovery::default())
    }

    fn run(&mut self, segments: Vec<Arc<Segment>>) -> Result<Recovery, WalError> {
        let mut next_number = 1;
        for (i, segment) in segments.iter().enumerate() {
            next_number = segment.number + 1;
            if self.take_finished(segment)? {
                continue;
            }
            let (walk, stop) = self.walk(segment)?;
            match stop {
                Stop::Footer(end) => self.finished(&walk, end),
                Stop::Broken(broken) => {
                    if let Some(end) = linked_end(&walk, segments.get(i + 1))? {
                        self.finished(&walk, end);
                        continue;
                    }
                    let recovery = self.resume(walk, broken, &segments[i + 1..])?;
                    return Ok(Recovery { segments: segments[..=i].iter().cloned().collect(), ..recovery });
                }
            }
        }
        Err(WalError::damaged(&self.dir.join(file_name(next_number)), 0, "the segment is missing"))
    }

    fn finished(&mut self, walk: &Walk, footer_end: u64) {
        let durable = Position { segment: walk.segment.number, offset: footer_end };
        self.before = Some(Before { data_end: walk.end, chain: walk.chain, durable, sync: walk.sync });
    }

    /// Takes a finished segment from its footer, without reading its entries.
    fn take_finished(&mut self, segment: &Arc<Segment>) -> Result<bool, WalError> {
        let Some((footer, index)) = segment.read_footer()? else { return Ok(false) };
        let first = segment.read_batch(DATA_AT, Some(segment.header_checksum));
        let first = first.map_err(|error| error.into_damage(&segment.path))?;
        self.take_base(segment, &first)?;
        for (group, row) in index.rows() {
            self.apply(segment, group, row, footer.durable.offset)?;
        }
        self.before = Some(Before {
            data_end: footer.durable.offset,
            chain: footer.previous,
            durable: Position { segment: segment.number, offset: footer.end },
            sync: footer.sync,
        });
        Ok(true)
    }

    fn apply(&mut self, segment: &Arc<Segment>, group: GroupId, row: Row, at: u64) -> Result<(), WalError> {
        let log = self.groups.entry(group).or_default();
        log.apply(segment, row).map_err(|what| WalError::damaged(&segment.path, at, format!("group {group}: {what}")))
    }

    /// Checks that the logs are what the segment says they were when it was begun; of the first segment that is
    /// left, takes its word.
    fn take_base(&mut self, segment: &Segment, first: &ReadBatch) -> Result<(), WalError> {
        let damaged = |what| Err(WalError::damaged(&segment.path, DATA_AT, what));
        let Some(base) = base_of(first) else {
            return damaged("the first batch has no base frame");
        };
        match self.before {
            Some(before) if (before.data_end, before.chain) != (base.data_end, base.chain) => {
                damaged("the segment does not follow the one before it")
            }
            Some(_) if logs_of(self.groups.iter().map(|(group, log)| (*group, log))) != base.logs => {
                damaged("the logs before the segment are not what it says they were")
            }
            None if segment.number == 1 && base != Base::default() => damaged("the first segment follows another"),
            Some(_) => Ok(()),
            None => {
                self.groups = base.logs.into_iter().map(|(group, ids)| (group, GroupLog::of(ids))).collect();
                Ok(())
            }
        }
    }

    /// Reads a segment batch by batch.
    fn walk(&mut self, segment: &Arc<Segment>) -> Result<(Walk, Stop), WalError> {
        let mark = segment.newest_mark()?;
        let mut walk = Walk {
            segment: segment.clone(),
            end: DATA_AT,
            chain: segment.header_checksum,
            sync: self.before.map_or(0, |before| before.sync),
            mark,
            index: SegmentIndex::default(),
        };
        loop {
            let at = round_up(walk.end, SECTOR_BYTES);
            let batch = match segment.read_batch(at, Some(walk.chain)) {
                Ok(batch) => batch,
                Err(BatchError::Failed(error)) => return Err(error),
                Err(broken) => return Ok((walk, Stop::Broken(broken))),
            };
            if at == DATA_AT {
                self.take_base(segment, &batch)?;
            }
            if batch.frames.last().is_some_and(|frame| frame.header.kind == FrameKind::Footer) {
                walk.sync = batch.sync;
                return Ok((walk, Stop::Footer(batch.end)));
            }
            for frame in &batch.frames {
                self.take_frame(segment, frame, &mut walk.index)?;
            }
            (walk.end, walk.chain, walk.sync) = (batch.end, batch.chain, batch.sync);
            self.check_mark(&walk)?;
        }
    }

    fn take_frame(&mut self, segment: &Arc<Segment>, frame: &Frame, index: &mut SegmentIndex) -> Result<(), WalError> {
        let header = &frame.header;
        let op = match (&frame.entries, header.kind) {
            (Some(batch), _) => Op::Entries(batch.clone()),
            (None, FrameKind::Base) if header.offset < DATA_AT + SECTOR_BYTES => return Ok(()),
            (None, kind) => Op::decode_small(kind, &frame.body).ok_or_else(|| {
                WalError::damaged(&segment.path, header.offset, "the frame's body is not what its kind has")
            })?,
        };
        for row in Row::of(&op, header.offset) {
            index.record(header.group, row);
            self.apply(segment, header.group, row, header.offset)?;
        }
        Ok(())
    }

    /// Where the mark says that a sync ended, the logs must end as the mark says.
    fn check_mark(&self, walk: &Walk) -> Result<(), WalError> {
        let here = Position { segment: walk.segment.number, offset: walk.end };
        let Some(mark) = walk.mark.as_ref().filter(|mark| mark.durable == here) else { return Ok(()) };
        for (group, last) in &mark.groups {
            let found = self.groups.get(group).map_or_else(Default::default, |log| log.ids.last());
            if found != *last {
                let what = format!("group {group} ends at {found} here, but the mark says {last}");
                return Err(WalError::damaged(&walk.segment.path, walk.end, what));
            }
        }
        Ok(())
    }

    /// Says what is lost of what a process that read damage knew to be durable.
    fn forgotten(&self, note: &DamageNote, broken: BatchError) -> BatchError {
        let missing = note.missing(|group| self.groups.get(&group).map_or(LogId::ZERO, |log| log.ids.last()));
        match (broken, missing) {
            (BatchError::Bad { offset, what, sums }, Some(missing)) => {
                BatchError::Bad { offset, what: format!("{what}; {missing}"), sums }
            }
            (broken, _) => broken,
        }
    }

    /// Decides whether the log may go on where `walk` stopped.
    fn resume(&mut self, walk: Walk, broken: BatchError, later: &[Arc<Segment>]) -> Result<Recovery, WalError> {
        let segment = walk.segment;
        let blank = walk.end == DATA_AT;
        let marked = walk.mark.as_ref().map_or(Position::default(), |mark| mark.durable);
        let was_durable = marked > Position { segment: segment.number, offset: walk.end }
            // The first segment is durable before the identity names the cluster; a later one is begun only on top
            // of finished ones.
            || (blank && self.before.is_none())
            || segment.find_lead(round_up(walk.end, SECTOR_BYTES) + SECTOR_BYTES)?.is_some()
            || later.len() > 1;
        if was_durable && !bug(Bug::DiskCutsAtDamage) {
            return Err(broken.into_damage(&segment.path));
        }
        let here = Position { segment: segment.number, offset: walk.end };
        if let Some(note) = self.note.filter(|note| note.durable > here) {
            return Err(self.forgotten(note, broken).into_damage(&segment.path));
        }
        for next in later {
            if next.newest_mark()?.is_some() || next.find_lead(DATA_AT)?.is_some() {
                return Err(broken.into_damage(&segment.path));
            }
        }
        if let Some((group, index)) = self.groups.iter().find_map(|(group, log)| Some((group, log.first_missing()?))) {
            let path = self.dir.join(file_name(segment.number.saturating_sub(1)));
            let what = format!("group {group} has lost entry {index}: a segment up to this one is missing");
            return Err(WalError::damaged(&path, 0, what));
        }
        let before = self.before.unwrap_or_default();
        let base = Base {
            data_end: before.data_end,
            chain: before.chain,
            logs: logs_of(self.groups.iter().map(|(group, log)| (*group, log))),
        };
        let active = Active {
            end: walk.end,
            chain: walk.chain,
            index: walk.index,
            base: blank.then_some(base),
            doubtful: if marked.segment == segment.number { marked.offset } else { DATA_AT },
            durable: if blank { before.durable } else { here },
            sync: walk.mark.as_ref().map_or(0, |mark| mark.sync).max(walk.sync),
            mark: walk.mark.as_ref().map_or(0, |mark| mark.number),
            segment,
        };
        Ok(Recovery {
            groups: std::mem::take(&mut self.groups),
            segments: VecDeque::new(),
            active: Some(active),
            next: later.first().cloned(),
        })
    }
}

/// If the next segment was begun right after the last batch of this one, only this one's footer is damaged: then
/// where the footer ended.
fn linked_end(walk: &Walk, next: Option<&Arc<Segment>>) -> Result<Option<u64>, WalError> {
    let Some(next) = next else { return Ok(None) };
    match next.read_batch(DATA_AT, Some(next.header_checksum)) {
        Ok(first) => {
            let base = base_of(&first).filter(|base| (base.data_end, base.chain) == (walk.end, walk.chain));
            Ok(base.map(|_| first.durable.offset))
        }
        Err(BatchError::Bad { .. }) => Ok(None),
        Err(BatchError::Failed(error)) => Err(error),
    }
}

pub(crate) fn base_of(first: &ReadBatch) -> Option<Base> {
    first
        .frames
        .first()
        .filter(|frame| frame.header.kind == FrameKind::Base)
        .and_then(|frame| Base::decode(&frame.body))
}

/// The logs that hold anything, or ever did.
pub(crate) fn logs_of<'a>(groups: impl Iterator<Item = (GroupId, &'a GroupLog)>) -> BTreeMap<GroupId, LogIds> {
    groups.filter(|(_, log)| log.ids != LogIds::default()).map(|(group, log)| (group, log.ids.clone())).collect()
}
