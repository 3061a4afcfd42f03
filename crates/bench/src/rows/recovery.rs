//! R1: how long it takes to open a large log that was closed, beside a plain read of the same bytes.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use quorate::advanced::core::{GroupId, NodeId};
use quorate::advanced::wal::{RealDisk, Wal, WalOptions};
use rustix::fs::{Advice, fadvise};

use crate::args::Options;
use crate::measure::{Contender, Goal, RowPlan, Trial, measure_row};
use crate::report::{Better, Report};
use crate::rows::engines;
use crate::rows::wal::Log;

/// Bytes of a payload.
const PAYLOAD: usize = 4096;
/// The other log.
const OPPONENT: &str = "raft-engine";
/// Entries of a batch.
const BATCH: usize = 256;

pub(crate) fn r1(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push(format!(
        "one group, payloads of {PAYLOAD} bytes, {:.2} GB in all, segments as by default; the files are dropped from the page cache before each trial, as far as the kernel follows the advice",
        gigabytes(options)
    ));
    report.caveats.push(
        "a share of the limit: a log that knows what it was when it was closed need not read all of it".to_owned(),
    );
    let dir = options.dir.join(format!("r1-{}", std::process::id()));
    let entries = fill(options, &dir)?;
    let plan = RowPlan {
        id: "R1",
        what: "opening a closed log".to_owned(),
        unit: "s/GB",
        better: Better::Lower,
        goal: Some(Goal::Aim(0.02)),
    };
    let row = measure_row(
        options,
        plan,
        vec![
            Contender::ours("quorate", || open(options, &dir, entries)),
            Contender::beside("plain read", || read(options, &dir)),
        ],
    )?;
    report.rows.push(row);
    if engines::names(options, report)?.iter().any(|name| name == OPPONENT) {
        beside(options, report, &dir, entries)?;
    }
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))
}

/// The same beside another log with as many entries.
fn beside(options: &Options, report: &mut Report, dir: &Path, entries: u64) -> Result<(), String> {
    let theirs = options.dir.join(format!("r1-{OPPONENT}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&theirs);
    let sizes = [options.bytes.to_string(), PAYLOAD.to_string(), BATCH.to_string()];
    engines::call(options, OPPONENT, "fill", &theirs, &sizes)?;
    let open_theirs = || {
        forget(&theirs)?;
        let opened = engines::trial(&engines::call(options, OPPONENT, "open", &theirs, &[])?)?;
        Ok(Trial::of(opened.value / gigabytes(options)))
    };
    let plan = RowPlan {
        id: "R1",
        what: format!("the same beside {OPPONENT}"),
        unit: "s/GB",
        better: Better::Lower,
        goal: Some(Goal::Ratio { must: 0.2, aim: 0.2 }),
    };
    let sides =
        vec![Contender::ours("quorate", || open(options, dir, entries)), Contender::beside(OPPONENT, open_theirs)];
    report.rows.push(measure_row(options, plan, sides)?);
    fs::remove_dir_all(&theirs).map_err(|error| format!("cannot remove {}: {error}", theirs.display()))
}

fn gigabytes(options: &Options) -> f64 {
    options.bytes as f64 / 1e9
}

/// A log of so many bytes of payload, closed; returns its number of entries.
fn fill(options: &Options, dir: &Path) -> Result<u64, String> {
    let mut log = Log::create(dir, WalOptions::new(NodeId(1)).segment_bytes, PAYLOAD)?.keeping_all();
    let batches = options.bytes.div_ceil((PAYLOAD * BATCH) as u64);
    log.fill(batches, BATCH)?;
    log.close()?;
    Ok(batches * BATCH as u64)
}

fn open(options: &Options, dir: &Path, entries: u64) -> Result<Trial, String> {
    forget(dir)?;
    let begun = Instant::now();
    let wal = Wal::open(Arc::new(RealDisk), dir, WalOptions::new(NodeId(1))).map_err(|error| error.to_string())?;
    let state = wal.open_group(GroupId(1), Arc::new(|_, _| {})).map_err(|error| error.to_string())?;
    let took = begun.elapsed();
    let found = state.log.last().index;
    if found != entries {
        return Err(format!("{found} entries were recovered of {entries}"));
    }
    wal.shutdown().map_err(|error| error.to_string())?;
    Ok(Trial::of(took.as_secs_f64() / gigabytes(options)))
}

fn read(options: &Options, dir: &Path) -> Result<Trial, String> {
    forget(dir)?;
    let mut buffer = vec![0_u8; 1 << 20];
    let begun = Instant::now();
    for path in files(dir)? {
        let mut file = File::open(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        while file.read(&mut buffer).map_err(|error| format!("cannot read {}: {error}", path.display()))? > 0 {}
    }
    Ok(Trial::of(begun.elapsed().as_secs_f64() / gigabytes(options)))
}

/// Asks the kernel to drop these files from its cache.
fn forget(dir: &Path) -> Result<(), String> {
    for path in files(dir)? {
        let file = File::open(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        file.sync_all().map_err(|error| format!("cannot sync {}: {error}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| format!("fadvise: {error}"))?;
    }
    Ok(())
}

/// All files below a directory.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| format!("cannot list {}: {error}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
