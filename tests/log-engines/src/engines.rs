//! The engines, each with the least code around it.

use std::path::Path;

use protobuf::Message;
use protobuf::well_known_types::Timestamp;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};

use crate::Outcome;

/// What this program was built with.
const LOCK: &str = include_str!("../Cargo.lock");

/// A log of many groups.
pub(crate) trait Engine: Sync {
    /// Appends `count` entries from `first` on to a group, and waits until they are durable.
    fn append(&self, group: u64, first: u64, count: u64, payload: &[u8]) -> Outcome<()>;

    /// Forgets a group's entries before `end`, and makes their files ready to be written over.
    fn purge(&self, group: u64, end: u64) -> Outcome<()>;
}

/// Those that were built.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names = vec!["raft-engine"];
    if cfg!(feature = "rocksdb") {
        names.push("rocksdb");
    }
    names
}

/// The exact version of a crate in this program.
pub(crate) fn version(name: &str) -> &'static str {
    let named = format!("name = \"{name}\"");
    let after = LOCK.lines().skip_while(|line| *line != named).nth(1);
    after.and_then(|line| line.split('"').nth(1)).unwrap_or("of an unknown version")
}

/// Opens a directory with the engine of this name; for appending, with files ready to be written over.
pub(crate) fn open(name: &str, dir: &Path, appends: bool) -> Outcome<Box<dyn Engine>> {
    match name {
        "raft-engine" => Ok(Box::new(open_raft_engine(dir, appends)?)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Ok(Box::new(rocks::open(dir)?)),
        other => Err(format!("{other} was not built; there are {}", names().join(", ")).into()),
    }
}

type RaftEngine = raft_engine::Engine;

/// An entry needs a protobuf message with an index: the smallest that protobuf brings, with the payload as an unknown
/// field, which is written as any other.
struct Entry;

impl MessageExt for Entry {
    type Entry = Timestamp;

    fn index(entry: &Timestamp) -> u64 {
        entry.get_seconds().unsigned_abs()
    }
}

/// The number of the field that holds the payload.
const PAYLOAD_FIELD: u32 = 15;

fn open_raft_engine(dir: &Path, appends: bool) -> Outcome<RaftEngine> {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        // Quorate's log does not compress either.
        batch_compression_threshold: ReadableSize::kb(0),
        enable_log_recycle: true,
        prefill_for_recycle: appends,
        // How much is made ready: half as much again.
        purge_threshold: ReadableSize::mb(256),
        ..Config::default()
    };
    Ok(RaftEngine::open(config)?)
}

impl Engine for RaftEngine {
    fn append(&self, group: u64, first: u64, count: u64, payload: &[u8]) -> Outcome<()> {
        let entry = |index: u64| {
            let mut entry = Timestamp::new();
            entry.set_seconds(index as i64);
            entry.mut_unknown_fields().add_length_delimited(PAYLOAD_FIELD, payload.to_vec());
            entry
        };
        let entries: Vec<Timestamp> = (first..first + count).map(entry).collect();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entry>(group, &entries)?;
        self.write(&mut batch, true)?;
        Ok(())
    }

    fn purge(&self, group: u64, end: u64) -> Outcome<()> {
        self.compact_to(group, end);
        self.purge_expired_files()?;
        Ok(())
    }
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use std::path::Path;

    use rocksdb::{DB, Options, WriteBatch, WriteOptions};

    use super::Engine;
    use crate::Outcome;

    /// A key is a group and an index, both so that they sort as numbers do.
    pub(super) fn open(dir: &Path) -> Outcome<DB> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_recycle_log_file_num(4);
        options.set_enable_pipelined_write(true);
        Ok(DB::open(&options, dir)?)
    }

    impl Engine for DB {
        fn append(&self, group: u64, first: u64, count: u64, payload: &[u8]) -> Outcome<()> {
            let mut batch = WriteBatch::default();
            for index in first..first + count {
                batch.put([group.to_be_bytes(), index.to_be_bytes()].concat(), payload);
            }
            let mut durable = WriteOptions::default();
            durable.set_sync(true);
            Ok(self.write_opt(batch, &durable)?)
        }

        /// What is in tables is not in the log any more, whatever becomes of it there.
        fn purge(&self, _group: u64, _end: u64) -> Outcome<()> {
            Ok(self.flush()?)
        }
    }
}
