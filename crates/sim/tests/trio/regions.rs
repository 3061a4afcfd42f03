//! What a byte of a file is for, by FORMAT.md: why damage to it may go unseen and cost nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate_wal::Disk;

use super::Trio;

const SECTOR: usize = 512;
const FRAME_HEADER: usize = 64;
const MARKS_AT: usize = 4096;
const DATA_AT: usize = 3 * 4096;
const ENTRIES: u8 = 3;
const FOOTER: u8 = 7;

/// Why damage to a byte that nobody noticed is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Nothing is written there.
    Padding,
    /// A file whose records are in several copies: the others count.
    Copies,
    /// A mark: it says how far the data reaches that is there.
    Mark,
    /// The footer or the trailer of a finished segment, or what they stand for: one is read where the other is damaged.
    Index,
    /// Entries that are purged by now.
    Purged,
}

/// One entry's bytes.
struct Entry {
    from: usize,
    to: usize,
    index: u64,
}

/// The parts of a segment.
struct Segment {
    finished: bool,
    entries: Vec<Entry>,
    /// Frames, from their headers to their ends.
    frames: Vec<(usize, usize)>,
    length: usize,
}

/// The files of one node, as they were before the damage.
pub struct Regions {
    contents: BTreeMap<PathBuf, Vec<u8>>,
    segments: BTreeMap<PathBuf, Segment>,
}

impl Regions {
    pub fn of(trio: &Trio, at: usize) -> Self {
        let read = |path: &Path| {
            let file = trio.disks[at].open(path).unwrap();
            let mut content = vec![0; file.length().unwrap() as usize];
            file.read_at(&mut content, 0).unwrap();
            content
        };
        let contents: BTreeMap<PathBuf, Vec<u8>> =
            trio.files(at).into_iter().map(|(path, _)| (path.clone(), read(&path))).collect();
        let segments = contents.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "seg"));
        let segments = segments.map(|(path, bytes)| (path.clone(), Segment::parse(bytes))).collect();
        Self { contents, segments }
    }

    /// Why damage to this byte may go unseen, by a node whose log begins after the index `purged` in the end; `None`: it
    /// may not.
    pub fn harmless(&self, path: &Path, offset: u64, purged: u64) -> Option<Region> {
        let (offset, content) = (offset as usize, &self.contents[path]);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("vote.") || name == "identity" || name == "peers" {
            return Some(Region::Copies);
        }
        let segment = self.segments.get(path)?;
        if (MARKS_AT..DATA_AT).contains(&offset) {
            return Some(if content[offset] == 0 { Region::Padding } else { Region::Mark });
        }
        if let Some(entry) = segment.entries.iter().find(|entry| (entry.from..entry.to).contains(&offset)) {
            return (entry.index <= purged).then_some(Region::Purged);
        }
        let in_frame = segment.frames.iter().any(|(from, to)| (*from..*to).contains(&offset));
        let in_trailer = offset >= segment.length - SECTOR && content[offset] != 0;
        match in_frame || in_trailer {
            true => segment.finished.then_some(Region::Index),
            false => (offset >= DATA_AT && content[offset] == 0).then_some(Region::Padding),
        }
    }
}

impl Segment {
    /// Frames from the first batch on: batches start at sectors, and chain until one does not begin with a frame.
    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut segment = Segment { finished: false, entries: Vec::new(), frames: Vec::new(), length: bytes.len() };
        let mut at = DATA_AT;
        let is_frame = |at: usize| {
            at + FRAME_HEADER <= bytes.len() - SECTOR
                && (1..=FOOTER).contains(&bytes[at + 4])
                && word(at + 32) == at as u64
        };
        while is_frame(at) {
            let end = at + FRAME_HEADER + half(at + 8);
            segment.frames.push((at, end));
            segment.finished |= bytes[at + 4] == FOOTER;
            let mut from = at + FRAME_HEADER;
            while bytes[at + 4] == ENTRIES && from < end {
                let to = from + half(from);
                // Their frame's header is read with them.
                let begin = if from == at + FRAME_HEADER { at } else { from };
                segment.entries.push(Entry { from: begin, to, index: word(from + 32) });
                from = to;
            }
            let last = bytes[at + 5] & 1 == 1;
            at = if last { end.next_multiple_of(SECTOR) } else { end };
        }
        segment
    }
}
