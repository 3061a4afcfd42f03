//! D5: the log alone, a batch at a time, beside a raw loop that writes the same payload to a recycled file.

use std::fs;
use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use quorate::advanced::core::{ClusterId, GroupId, LeaderId, LeaderIdMode, LogId, NodeId, WriteId};
use quorate::advanced::wal::{RealDisk, Wal, WalOptions, WalWrite};
use quorate::advanced::wire::{Batch, BatchBuilder, Batches, EntryKind};

use crate::args::Options;
use crate::measure::disk::RecycledFile;
use crate::measure::{Contender, Goal, Recorder, RowPlan, Trial, measure_row, process_cpu};
use crate::report::{Better, Report};

/// Of the logs that are measured.
pub(crate) const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(1);
/// Bytes of a payload.
const PAYLOAD: usize = 256;
/// Short segments, so that the log has been through several before it is measured.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Entries stay in the log for about this many bytes, then are purged.
const KEPT_BYTES: u64 = SEGMENT_BYTES;
/// Segments that are written before the measurement begins.
pub(crate) const WARM_SEGMENTS: u64 = 3;
/// Entries of a batch in them.
pub(crate) const WARM_BATCH: usize = 1024;

pub(crate) fn d5(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push(format!(
        "payloads of {PAYLOAD} bytes, one batch in flight, encoded and written by one thread; segments of {} MiB, {} of them written and purged before",
        SEGMENT_BYTES >> 20,
        WARM_SEGMENTS
    ));
    report.settings.push("CPU-ns are those of an entry, latencies those of a group".to_owned());
    for entries in [1_usize, 8, 64, 512] {
        let plan = RowPlan {
            id: "D5",
            what: format!("groups of {entries}"),
            unit: "payload B/s",
            better: Better::Higher,
            goal: Some(Goal::Ratio { must: 0.90, aim: 0.97 }),
        };
        let row = measure_row(
            &Options { rate: None, ..options.clone() },
            plan,
            vec![
                Contender::ours("quorate", || log(options, entries)),
                Contender::limit("raw loop", || raw(options, entries, RecycledFile::create)),
                Contender::limit("raw, only allocated", || raw(options, entries, RecycledFile::allocate)),
            ],
        )?;
        report.rows.push(row);
    }
    Ok(())
}

/// One group's log, and what was appended to it.
pub(crate) struct Log {
    wal: Wal,
    durable: mpsc::Receiver<Result<(), String>>,
    builder: BatchBuilder,
    payload: Vec<u8>,
    next: u64,
    writes: u64,
    kept: u64,
    purges: bool,
}

/// The one leader of these logs.
fn leader() -> LeaderId {
    LeaderId::new(1, 1)
}

impl Log {
    /// A blank log.
    pub(crate) fn create(dir: &Path, segment_bytes: u64, payload: usize) -> Result<Self, String> {
        let _ = fs::remove_dir_all(dir);
        let options = WalOptions { segment_bytes, ..WalOptions::new(NodeId(1)) };
        let wal = Wal::open(Arc::new(RealDisk), dir, options).map_err(|error| error.to_string())?;
        wal.set_cluster(CLUSTER, LeaderIdMode::Advanced).map_err(|error| error.to_string())?;
        Self::of(wal, payload).map(|(log, _)| log)
    }

    /// One that is there, to go on behind its last entry, whose index is told.
    pub(crate) fn reopen(dir: &Path, payload: usize) -> Result<(Self, u64), String> {
        let wal = Wal::open(Arc::new(RealDisk), dir, WalOptions::new(NodeId(1))).map_err(|error| error.to_string())?;
        Self::of(wal, payload)
    }

    fn of(wal: Wal, payload: usize) -> Result<(Self, u64), String> {
        let (done, durable) = mpsc::channel();
        let told = move |_, result: Result<(), _>| {
            // Nobody listens once the log is dropped.
            let _ = done.send(result.map_err(|error: quorate::advanced::wal::WalError| error.to_string()));
        };
        let state = wal.open_group(GROUP, Arc::new(told)).map_err(|error| error.to_string())?;
        let payload = (0..payload).map(|at| at as u8).collect();
        let (builder, last) = (BatchBuilder::new(), state.log.last().index);
        Ok((Self { wal, durable, builder, payload, next: last + 1, writes: 0, kept: 0, purges: true }, last))
    }

    /// The same, without purging.
    pub(crate) fn keeping_all(self) -> Self {
        Self { purges: false, ..self }
    }

    /// The next entries, encoded as a proposer does.
    pub(crate) fn encode(&mut self, entries: usize) -> Result<Batch, String> {
        for _ in 0..entries {
            self.builder.push(EntryKind::Command, &self.payload);
        }
        let first = self.next;
        self.next += entries as u64;
        self.builder.seal(CLUSTER, GROUP, leader(), first, 0).ok_or_else(|| "an empty batch".to_owned())
    }

    /// Hands a batch over.
    pub(crate) fn submit(&mut self, batch: Batch) {
        self.writes += 1;
        let (bytes, last) = (batch.bytes().len() as u64, batch.last());
        self.wal.submit(GROUP, WriteId(self.writes), WalWrite::Append(Batches::from_iter([batch])));
        self.purge(bytes, last);
    }

    /// Writes a batch and waits until it is durable.
    pub(crate) fn write(&mut self, batch: Batch) -> Result<(), String> {
        let (bytes, last) = (batch.bytes().len() as u64, batch.last());
        let written = self.wal.write(GROUP, WalWrite::Append(Batches::from_iter([batch])));
        self.purge(bytes, last);
        written.map_err(|error| error.to_string())
    }

    fn purge(&mut self, bytes: u64, last: LogId) {
        self.kept += bytes;
        if self.purges && self.kept > KEPT_BYTES {
            // Everything but what was just submitted.
            let before = LogId::new(leader(), last.index - 1);
            self.wal.purge(GROUP, before);
            self.kept = 0;
        }
    }

    /// Waits for the oldest batch that was submitted.
    pub(crate) fn wait(&self) -> Result<(), String> {
        self.durable.recv().map_err(|_| "the log's thread is gone".to_owned())?
    }

    /// Appends so many batches, several in flight: of small ones as many as are worth a sync.
    pub(crate) fn fill(&mut self, batches: u64, entries: usize) -> Result<(), String> {
        const IN_FLIGHT_BYTES: usize = 256 << 10;
        let in_flight = (IN_FLIGHT_BYTES / (entries * self.payload.len()).max(1)).max(8) as u64;
        for number in 0..batches {
            let batch = self.encode(entries)?;
            self.submit(batch);
            if number >= in_flight {
                self.wait()?;
            }
        }
        (0..batches.min(in_flight)).try_for_each(|_| self.wait())
    }

    /// Writes whole segments and purges them, so that what follows is written into recycled ones.
    pub(crate) fn warm(&mut self, segment_bytes: u64) -> Result<(), String> {
        self.fill(WARM_SEGMENTS * segment_bytes / (WARM_BATCH * self.payload.len()) as u64, WARM_BATCH)
    }

    /// Where other groups can be opened.
    pub(crate) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Closes it.
    pub(crate) fn close(self) -> Result<(), String> {
        self.wal.shutdown().map_err(|error| error.to_string())
    }
}

fn log(options: &Options, entries: usize) -> Result<Trial, String> {
    let dir = options.dir.join(format!("d5-{}", std::process::id()));
    let mut log = Log::create(&dir, SEGMENT_BYTES, PAYLOAD)?;
    log.warm(SEGMENT_BYTES)?;
    let trial = run(options, entries, || {
        let batch = log.encode(entries)?;
        log.write(batch)
    })?;
    log.close()?;
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    Ok(trial)
}

/// One trial of a raw loop: payload bytes a second, each group of so many entries written and synced.
pub(super) fn raw(
    options: &Options,
    entries: usize,
    make: impl Fn(&Path) -> Result<RecycledFile, String>,
) -> Result<Trial, String> {
    let path = options.dir.join(format!("raw-{}", std::process::id()));
    let mut file = make(&path)?;
    let bytes = vec![1_u8; entries * PAYLOAD];
    let trial = run(options, entries, || file.write_and_sync(&[IoSlice::new(&bytes)]))?;
    fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    Ok(trial)
}

/// Batches one after the other: payload bytes a second.
fn run(options: &Options, entries: usize, mut batch: impl FnMut() -> Result<(), String>) -> Result<Trial, String> {
    for (time, is_measured) in [(options.warmup, false), (options.measure, true)] {
        let recorder = Recorder::new()?;
        let (begun, cpu, mut batches) = (Instant::now(), process_cpu(), 0_u64);
        while begun.elapsed() < time {
            let submitted = Instant::now();
            batch()?;
            recorder.record(0, submitted.elapsed());
            batches += 1;
        }
        let used: Duration = process_cpu() - cpu;
        let bytes = batches as f64 * (entries * PAYLOAD) as f64;
        if is_measured && batches > 0 {
            return Ok(Trial {
                value: bytes / begun.elapsed().as_secs_f64(),
                cpu_ns: Some(used.as_nanos() as f64 / (batches * entries as u64) as f64),
                allocations: None,
                latency: recorder.percentiles(),
            });
        }
    }
    Err("no batch became durable in the measured time".to_owned())
}
