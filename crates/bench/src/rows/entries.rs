//! C4: opening a log, by its number of entries. Each time in a process of its own that does nothing else, so that the
//! memory it grows by is the log's, and none that an earlier opening left is there to be taken.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use quorate::advanced::core::{GroupId, NodeId};
use quorate::advanced::wal::{RealDisk, Wal, WalOptions};
use serde::{Deserialize, Serialize};

use crate::args::Options;
use crate::measure::{Trial, resident_bytes};
use crate::report::{Better, Report};
use crate::rows::curves::{bytes_of, point};
use crate::rows::wal::Log;
use crate::sides::processes::{ended_with_us, own_program};

/// The first argument of this binary when it is to open a log.
pub(crate) const OPENER: &str = "opener-of-a-log";
/// Its last argument when it is to end without closing the log.
const LEAVE: &str = "leave";
/// Bytes of a payload, and more than what an entry takes on disk with it.
const PAYLOAD: usize = 8;
const ON_DISK: u64 = 64;
/// Entries of a batch, at all counts: what is kept in memory of a log grows by its batches.
const BATCH: usize = 100;

/// What the opener found.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    /// The last entry.
    last: u64,
    millis: f64,
    /// Memory that it grew by.
    mib: f64,
}

/// 10^4 to 10^8 entries.
pub(crate) fn entries(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push(format!("one group, commands of {PAYLOAD} bytes, batches of {BATCH}; each opening in a process of its own; the files lie in the page cache, as far as memory reaches; not closed: its process ended behind one more batch"));
    let dir = options.dir.join(format!("c4-{}", std::process::id()));
    let (counts, beyond): (Vec<u64>, Vec<u64>) =
        (4..=8).map(|power| 10_u64.pow(power)).partition(|count| count * ON_DISK <= 2 * options.bytes);
    report.leave_out(options, beyond.iter().map(|count| format!("{count} entries")));
    for count in counts {
        let mut log = Log::create(&dir, WalOptions::new(NodeId(1)).segment_bytes, PAYLOAD)?.keeping_all();
        log.fill(count / BATCH as u64, BATCH)?;
        log.close()?;
        report.settings.push(format!("{count} entries: files of {} MiB", bytes_of(&dir)? >> 20));
        let what = format!("{count} entries");
        let mut grown = Vec::new();
        let closed = || {
            let opened = opened(&dir, count, &[])?;
            grown.push(opened.mib);
            Ok(Trial::of(opened.millis))
        };
        point(options, report, ("C4", "ms to open", Better::Lower), what.clone(), closed)?;
        let mut memory = grown.into_iter();
        let again = || memory.next().map(Trial::of).ok_or_else(|| "fewer openings than trials".to_owned());
        point(options, report, ("C4", "MiB of memory", Better::Lower), what.clone(), again)?;
        let mut left = count;
        let not_closed = || {
            left = opened(&dir, left, &[LEAVE])?.last + BATCH as u64;
            Ok(Trial::of(opened(&dir, left, &[])?.millis))
        };
        point(options, report, ("C4", "ms to open, not closed", Better::Lower), what, not_closed)?;
        fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    }
    Ok(())
}

/// Opens the log in a process of its own.
fn opened(dir: &Path, entries: u64, more: &[&str]) -> Result<Opened, String> {
    let said = ended_with_us(&own_program()).arg(OPENER).arg(dir).args(more).output();
    let said = said.map_err(|error| format!("cannot start a process: {error}"))?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
    }
    let opened: Opened =
        serde_json::from_slice(&said.stdout).map_err(|error| format!("no opening was told: {error}"))?;
    match opened.last == entries {
        true => Ok(opened),
        false => Err(format!("{} of {entries} entries were recovered", opened.last)),
    }
}

/// Opens a log and tells of it: `words` are [`OPENER`], the directory, and perhaps [`LEAVE`].
pub(crate) fn serve(words: &[String]) -> ExitCode {
    let told = match words {
        [_, dir] => open(Path::new(dir)),
        [_, dir, word] if word == LEAVE => go_on(Path::new(dir)),
        _ => Err("no log was named".to_owned()),
    };
    match told.and_then(|opened| serde_json::to_string(&opened).map_err(|error| error.to_string())) {
        Ok(json) => {
            println!("{json}");
            // No destructor runs: a log that is still open is not closed by that.
            std::process::exit(0)
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn open(dir: &Path) -> Result<Opened, String> {
    let before = resident_bytes().unwrap_or(0);
    let begun = Instant::now();
    let wal = Wal::open(Arc::new(RealDisk), dir, WalOptions::new(NodeId(1))).map_err(|error| error.to_string())?;
    let state = wal.open_group(GroupId(1), Arc::new(|_, _| {})).map_err(|error| error.to_string())?;
    let took = begun.elapsed();
    let grown = resident_bytes().unwrap_or(0).saturating_sub(before);
    wal.shutdown().map_err(|error| error.to_string())?;
    let (millis, mib) = (took.as_secs_f64() * 1e3, grown as f64 / f64::from(1 << 20));
    Ok(Opened { last: state.log.last().index, millis, mib })
}

/// Writes one more batch and leaves the log open.
fn go_on(dir: &Path) -> Result<Opened, String> {
    let (log, last) = Log::reopen(dir, PAYLOAD)?;
    let mut log = log.keeping_all();
    log.fill(1, BATCH)?;
    std::mem::forget(log);
    Ok(Opened { last, millis: 0.0, mib: 0.0 })
}
