//! What a damaged log is made into: an older state of itself that knows what it promised since (docs/design/001).
//!
//! Of every group stays the longest prefix that is whole, and beside it, in the vote file, the last log id that may have
//! been acknowledged. The prefix is written again as a fresh log; the damaged segments are put aside, not removed. A
//! file `mended` is the decision: before it is durable nothing has happened, after it every opening finishes the work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{Bug, GroupId, Instant, LogId, LogIds, MAX_INDEX, Tail, WriteId, bug};
use quorate_wire::Batches;

use crate::codec::{put_u32, put_u64, round_up, u32_at, u64_at};
use crate::copies::VERSION;
use crate::disk::{Disk, read_up_to, write_all_at};
use crate::error::WalError;
use crate::frame::{Op, Position, SECTOR_BYTES};
use crate::group::{GroupLog, Row};
use crate::handle::{Asker, Shared, WalWrite, lock};
use crate::identity::Identity;
use crate::note::DamageNote;
use crate::options::WalOptions;
use crate::recover::{Break, base_of, logs_of, whole_prefix};
use crate::segment::{Base, BatchError, DATA_AT, ReadBatch, Segment, SegmentIndex, number_of};
use crate::turn::{Wake, Writer};
use crate::vote_file::VoteFiles;

const DECISION_MAGIC: [u8; 8] = *b"QRMMENDS";
const DECISION_BYTES: usize = 32;
/// Where its two copies stand. Either decides: it was made when all that it leads to was durable.
const DECISION_AT: [usize; 2] = [0, 4096];
/// Entries written again at a time.
const COPY_BYTES: u64 = 1 << 20;

/// Where the parts of a mended log stand, in a data directory.
struct Places {
    wal: PathBuf,
    /// The fresh log, until it takes its place.
    fresh: PathBuf,
    /// Damaged segments, for whoever wants to look at them.
    aside: PathBuf,
    decision: PathBuf,
}

impl Places {
    fn of(dir: &Path) -> Self {
        Self {
            wal: dir.join("wal"),
            fresh: dir.join("mending"),
            aside: dir.join("damaged"),
            decision: dir.join("mended"),
        }
    }
}

/// The whole prefixes of all groups, to be written again once the fresh log is open.
pub(crate) type Prefixes = BTreeMap<GroupId, GroupLog>;

/// Finishes what an opening before had decided; removes what one had begun without deciding.
pub(crate) fn finish(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
    let places = Places::of(dir);
    let Some(first) = read_decision(disk, &places.decision)? else {
        return clear(disk, &places.fresh);
    };
    disk.create_dir_all(&places.aside).map_err(WalError::io("create", &places.aside))?;
    for name in disk.list(&places.wal).map_err(WalError::io("list", &places.wal))? {
        if number_of(&name).is_none_or(|number| number < first) {
            let (from, to) = (places.wal.join(&name), places.aside.join(&name));
            disk.rename(&from, &to).map_err(WalError::io("rename", &from))?;
        }
    }
    // One after the other: a log with old and fresh segments would have a gap.
    sync_all(disk, [&places.aside, &places.wal])?;
    for name in list_if_there(disk, &places.fresh)? {
        let (from, to) = (places.fresh.join(&name), places.wal.join(&name));
        disk.rename(&from, &to).map_err(WalError::io("rename", &from))?;
    }
    sync_all(disk, [&places.wal, &places.fresh])?;
    disk.remove(&places.decision).map_err(WalError::io("remove", &places.decision))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

/// Makes a fresh log of a damaged one. Returns what the caller has to write to it again; nothing if the log is whole up to
/// `sound_end`. Either way all that the note is for is in the files of votes then.
pub(crate) fn mend(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &WalOptions,
    identity: &Identity,
    mut votes: VoteFiles,
    sound_end: Option<Position>,
    note: &DamageNote,
) -> Result<Option<Prefixes>, WalError> {
    let places = Places::of(dir);
    let (prefixes, broken) = whole_prefix(&**disk, &places.wal, identity)?;
    let is_sound = sound_end.is_some_and(|end| end == broken.at);
    if is_sound && !note.is_damaged {
        return Ok(None);
    }
    let survey = Survey::of(&**disk, &places.wal, identity, &broken, note)?;
    let mut records = BTreeMap::new();
    let named = survey.greatest.keys().chain(note.ends.keys());
    let known = prefixes.keys().chain(named).copied().chain(votes.groups());
    for group in known.collect::<BTreeSet<GroupId>>() {
        votes.reserve(group)?;
        let mut record = votes.record(group);
        let prefix = prefixes.get(&group).map_or(LogId::ZERO, |log| log.ids.last());
        let promised = survey.promised_end(group, prefix, record.vote.leader_id);
        // The prefix is in the fresh log only after this is durable.
        if !bug(Bug::DiskForgetsPromisedEnd) {
            record.promised_end = record.promised_end.max(promised);
        }
        record.sequence += 1;
        records.insert(group, record);
    }
    votes.write(identity, &records)?;
    // What looks like the end of a sound log is where the newest batch may be lost, if nobody knows what was durable. Its
    // promise is all that is to be kept of it: the log is not written again, and no crash meanwhile makes it shorter.
    if is_sound {
        return Ok(None);
    }
    let first = survey.last_number + 1;
    begin_fresh(disk, &places, options, identity, votes, first, &prefixes)?;
    decide(&**disk, dir, &places.decision, first)?;
    finish(&**disk, dir)?;
    Ok(Some(prefixes))
}

/// Writes the whole prefixes to the log that was just opened. A crash on the way loses more of the prefix, and nothing
/// of what was promised.
pub(crate) fn write_again(shared: &Shared, prefixes: Prefixes) -> Result<(), WalError> {
    for (group, log) in prefixes {
        {
            let mut state = lock(&shared.state);
            state.groups.entry(group).or_default().on_durable = Some(Arc::new(|_, _| {}));
        }
        for stretch in &log.stretches {
            let mut next = stretch.first.max(log.ids.purged().index + 1);
            while next <= stretch.last.index {
                let mut batches = Batches::new();
                let mut budget = COPY_BYTES;
                let wanted = (next, stretch.last.index);
                let frames = (stretch.start, stretch.end);
                stretch.segment.read_entries(group, frames, wanted, &mut budget, &mut batches)?;
                let Some(last) = batches.last().map(|batch| batch.last().index) else { break };
                next = last + 1;
                append(shared, group, batches)?;
            }
        }
    }
    lock(&shared.writer).closing_mark()
}

fn append(shared: &Shared, group: GroupId, batches: Batches) -> Result<(), WalError> {
    drop(lock(&shared.state).enqueue(group, Asker::Group(WriteId(0)), WalWrite::Append(batches)));
    loop {
        let wake = lock(&shared.writer).turn(shared, Instant::ORIGIN);
        let state = lock(&shared.state);
        if let Some(error) = state.poison.clone().or_else(|| state.groups.get(&group)?.failed.clone()) {
            return Err(error);
        }
        match wake {
            Wake::Again => {}
            _ if state.queue.is_empty() => return Ok(()),
            Wake::At(_) | Wake::Idle => {
                let path = lock(&shared.writer).dir.clone();
                return Err(WalError::Full { path });
            }
        }
    }
}

/// Begins the fresh log: one segment that says where every group's log begins.
fn begin_fresh(
    disk: &Arc<dyn Disk>,
    places: &Places,
    options: &WalOptions,
    identity: &Identity,
    votes: VoteFiles,
    first: u64,
    prefixes: &Prefixes,
) -> Result<(), WalError> {
    clear(&**disk, &places.fresh)?;
    disk.create_dir_all(&places.fresh).map_err(WalError::io("create", &places.fresh))?;
    let empty: Prefixes =
        prefixes.iter().map(|(group, log)| (*group, GroupLog::of(LogIds::after(log.ids.purged())))).collect();
    let base = Base { logs: logs_of(empty.iter().map(|(group, log)| (*group, log))), ..Base::default() };
    let mut writer = Writer::new(disk.clone(), places.fresh.clone(), options.clone(), *identity, votes);
    writer.begin(*identity, first, base)?;
    writer.closing_mark()?;
    disk.sync_dir(&places.fresh).map_err(WalError::io("sync", &places.fresh))
}

fn decide(disk: &dyn Disk, dir: &Path, path: &Path, first: u64) -> Result<(), WalError> {
    let mut bytes = vec![0; DECISION_BYTES];
    bytes[0..8].copy_from_slice(&DECISION_MAGIC);
    put_u32(&mut bytes, 8, VERSION);
    put_u64(&mut bytes, 16, first);
    let checksum = crc32c::crc32c(&bytes[..DECISION_BYTES - 4]);
    put_u32(&mut bytes, DECISION_BYTES - 4, checksum);
    let made = dir.join("mended.tmp");
    let file = disk.create(&made).map_err(WalError::io("create", &made))?;
    for at in DECISION_AT {
        write_all_at(&*file, &bytes, at as u64).map_err(WalError::io("write", &made))?;
    }
    file.sync_data().map_err(WalError::io("sync", &made))?;
    disk.rename(&made, path).map_err(WalError::io("rename", &made))?;
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

fn read_decision(disk: &dyn Disk, path: &Path) -> Result<Option<u64>, WalError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(WalError::io("open", path)(error)),
    };
    let bytes = read_up_to(&*file, DECISION_AT[1] + DECISION_BYTES, 0).map_err(WalError::io("read", path))?;
    let copies = DECISION_AT.map(|at| parse_decision(path, bytes.get(at..).unwrap_or_default(), at as u64));
    match copies {
        [Ok(first), _] | [_, Ok(first)] => Ok(Some(first)),
        [Err(error @ WalError::OtherVersion { .. }), _] | [_, Err(error)] => Err(error),
    }
}

fn parse_decision(path: &Path, copy: &[u8], at: u64) -> Result<u64, WalError> {
    if copy.len() < DECISION_BYTES || copy[0..8] != DECISION_MAGIC {
        return Err(WalError::damaged(path, at, "not a decision to mend a log"));
    }
    let (stored, computed) = (u32_at(copy, DECISION_BYTES - 4), crc32c::crc32c(&copy[..DECISION_BYTES - 4]));
    if stored != computed {
        return Err(WalError::checksum(path, at, "the decision does not match its checksum", stored, computed));
    }
    let found = u32_at(copy, 8);
    if found != VERSION {
        return Err(WalError::OtherVersion { path: path.to_path_buf(), found, supported: VERSION });
    }
    Ok(u64_at(copy, 16))
}

fn list_if_there(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, WalError> {
    match disk.list(dir) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(WalError::io("list", dir)(error)),
    }
}

fn clear(disk: &dyn Disk, dir: &Path) -> Result<(), WalError> {
    let names = list_if_there(disk, dir)?;
    for name in &names {
        let path = dir.join(name);
        disk.remove(&path).map_err(WalError::io("remove", &path))?;
    }
    if names.is_empty() { Ok(()) } else { disk.sync_dir(dir).map_err(WalError::io("sync", dir)) }
}

fn sync_all<'a>(disk: &dyn Disk, dirs: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), WalError> {
    for dir in dirs {
        match disk.sync_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(WalError::io("sync", dir))?,
        }
    }
    Ok(())
}

/// What the log says from where it is broken on.
#[derive(Debug, Default)]
struct Survey {
    /// The greatest log id of each group that is named.
    greatest: BTreeMap<GroupId, LogId>,
    /// Groups of which it is said where their logs ended after the last gap: of them nothing later is lost.
    since_gap: BTreeSet<GroupId>,
    /// Where the last gap ends.
    gap_end: Position,
    /// What the process that found the damage knew.
    note: DamageNote,
    last_number: u64,
}

/// After everything.
const NOWHERE: Position = Position { segment: u64::MAX, offset: u64::MAX };

/// Where the next batch would start after one that ended here.
fn next_sector(end: Position) -> Position {
    Position { offset: round_up(end.offset, SECTOR_BYTES), ..end }
}

impl Survey {
    fn of(
        disk: &dyn Disk,
        dir: &Path,
        identity: &Identity,
        broken: &Break,
        note: &DamageNote,
    ) -> Result<Self, WalError> {
        let mut survey = Self { note: note.clone(), ..Self::default() };
        let names = disk.list(dir).map_err(WalError::io("list", dir))?;
        let numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        let newest = numbers.iter().copied().max().unwrap_or(0);
        // What was noted of the log that is damaged is to say nothing of the fresh one.
        survey.last_number = newest.max(broken.at.segment).max(note.durable.segment);
        for (i, number) in numbers.iter().enumerate() {
            if *number < broken.at.segment {
                continue;
            }
            let segment = Segment::open_damaged(disk, dir, *number, identity)?;
            // If it is damaged in other ways than a broken batch, any of its batches may be whole.
            let breaks = *number == broken.at.segment && broken.at.offset <= segment.limit();
            let from = if breaks { broken.at.offset } else { DATA_AT };
            survey.take_segment(&segment, from, i + 1 == numbers.len())?;
        }
        if numbers.is_empty() || newest < note.durable.segment || note.is_damaged {
            survey.gap(NOWHERE);
        }
        Ok(survey)
    }

    /// Something may be missing before this place.
    fn gap(&mut self, end: Position) {
        self.since_gap.clear();
        self.gap_end = self.gap_end.max(end);
    }

    /// The group's log held this, and may have gone on after it.
    fn name(&mut self, group: GroupId, id: LogId) {
        let greatest = self.greatest.entry(group).or_default();
        *greatest = (*greatest).max(id);
    }

    /// The group's log ended with this, after all that is missing.
    fn name_end(&mut self, group: GroupId, last: LogId) {
        self.name(group, last);
        self.since_gap.insert(group);
    }

    fn take_segment(&mut self, segment: &Segment, from: u64, is_last: bool) -> Result<(), WalError> {
        let place = |offset| Position { segment: segment.number, offset };
        // Where it is broken, something is missing.
        self.gap(place(from));
        let mut at = round_up(from, SECTOR_BYTES);
        let mut finished = false;
        while !finished {
            match segment.read_batch(at, None) {
                Ok(batch) => {
                    finished = self.take_batch(segment, &batch);
                    at = round_up(batch.end, SECTOR_BYTES);
                }
                Err(BatchError::Failed(WalError::Corrupt(_)) | BatchError::Bad { .. }) => {
                    match segment.find_lead(at + SECTOR_BYTES)? {
                        Some(next) => at = next,
                        None => break,
                    }
                    self.gap(place(at));
                }
                Err(BatchError::Failed(error)) => return Err(error),
            }
        }
        let mark = segment.newest_mark()?;
        let durable = mark.as_ref().map_or(Position::default(), |mark| mark.durable);
        if !finished && durable > place(at) {
            self.gap(durable);
        }
        // A process that was killed may leave a batch behind without its mark: then the newest one is of before what is
        // missing, and knows nothing of it.
        let knows = next_sector(durable) >= self.gap_end;
        for (group, last) in mark.into_iter().flat_map(|mark| mark.groups) {
            match knows {
                true => self.name_end(group, last),
                false => self.name(group, last),
            }
        }
        // Only the last segment ends without a footer, and it must: else a segment is missing.
        match (finished, is_last) {
            (true, true) => self.gap(NOWHERE),
            (false, false) => self.gap(Position { segment: segment.number + 1, offset: DATA_AT }),
            (true, false) | (false, true) => {}
        }
        Ok(())
    }

    /// Takes in what a batch names; returns whether it finishes its segment.
    fn take_batch(&mut self, segment: &Segment, batch: &ReadBatch) -> bool {
        for (group, ids) in base_of(batch).into_iter().flat_map(|base| base.logs) {
            self.name_end(group, ids.last());
        }
        let mut finished = false;
        for frame in &batch.frames {
            let header = &frame.header;
            if let Some(index) = SegmentIndex::of_footer(frame, segment.limit()) {
                for (group, row) in index.rows() {
                    self.take_row(group, row);
                }
                finished = true;
            }
            let op = match &frame.entries {
                Some(entries) => Some(Op::Entries(entries.clone())),
                None => Op::decode_small(header.kind, &frame.body),
            };
            for row in op.iter().flat_map(|op| Row::of(op, header.offset)) {
                self.take_row(header.group, row);
            }
        }
        finished
    }

    fn take_row(&mut self, group: GroupId, row: Row) {
        match row {
            Row::Entries { last: end, .. }
            | Row::Truncate { after: end }
            | Row::Reset { to: end, tail: Tail::Discard } => self.name_end(group, end),
            // What the log held after these stayed, and it is not said how much that was.
            Row::Membership { id, .. } | Row::Reset { to: id, tail: Tail::Keep } | Row::Purge { upto: id } => {
                self.name(group, id);
            }
        }
    }

    /// The last entry of the group that may have been acknowledged.
    fn promised_end(&self, group: GroupId, prefix: LogId, voted: quorate_core::LeaderId) -> LogId {
        let noted = self.note.ends.get(&group).copied();
        let named = self.greatest.get(&group).copied().unwrap_or_default().max(prefix).max(noted.unwrap_or_default());
        let noted_end = next_sector(self.note.durable);
        match self.since_gap.contains(&group) || (noted.is_some() && self.gap_end <= noted_end) {
            true => named,
            // Whatever was acknowledged is of a leader that this node voted for, or of an earlier one.
            false if voted.term > 0 => named.max(LogId::new(voted, MAX_INDEX)),
            false => named,
        }
    }
}
