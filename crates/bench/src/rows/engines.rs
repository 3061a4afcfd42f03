//! D6: the log beside other logs for many groups. Producers append one entry to one of their groups, wait until it is
//! durable, and go on to the next group. The others run in `tests/log-engines`, which drives them in the same way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use quorate::advanced::core::{GroupId, LeaderId, NodeId};
use quorate::advanced::wal::{Wal, WalOptions, WalWrite};
use quorate::advanced::wire::{BatchBuilder, Batches, EntryKind};

use crate::args::Options;
use crate::measure::disk::RecycledFile;
use crate::measure::{Contender, Goal, Recorder, RowPlan, Trial, measure_row, process_cpu};
use crate::report::{Better, Report};
use crate::rows::wal::{CLUSTER, Log, WARM_BATCH, WARM_SEGMENTS, raw};
use crate::sides::processes::ended_with_us;

/// Bytes of a payload.
const PAYLOAD: usize = 256;

pub(crate) fn d6(options: &Options, report: &mut Report) -> Result<(), String> {
    let names = names(options, report)?;
    for missing in ["raft-engine", "rocksdb"].into_iter().filter(|engine| names.iter().all(|name| name != engine)) {
        eprintln!(
            "quorate-bench: D6 beside {missing} was NOT MEASURED: the program of other logs was built without it"
        );
        report.caveats.push(format!("how {missing} does, which was NOT MEASURED: it was not built"));
    }
    // Without any of them, how we do alone.
    let opponents: Vec<Option<&String>> = if names.is_empty() { vec![None] } else { names.iter().map(Some).collect() };
    report.settings.push(format!(
        "payloads of {PAYLOAD} bytes; a producer has one append in flight; the limit of one producer: such payloads written to a recycled file, each synced; on all sides {} MiB written and purged before; others: compression off, files prepared for recycling",
        warm_bytes() >> 20
    ));
    for (producers, groups, must, aim) in [(1, 1, 1.2, 1.5), (16, 1000, 2.0, 3.0)] {
        let many = if producers == 1 { "" } else { "s" };
        for opponent in &opponents {
            let plan = RowPlan {
                id: "D6",
                what: format!("{producers} producer{many}, {groups} group{many}"),
                unit: "appends/s",
                better: Better::Higher,
                goal: opponent.map(|_| Goal::Ratio { must, aim }),
            };
            let mut sides = vec![Contender::ours("quorate", || ours(options, producers, groups))];
            if let Some(name) = opponent {
                sides.push(Contender::beside(name, || theirs(options, name, producers, groups)));
            }
            if producers == 1 {
                sides.push(Contender::limit("raw loop", || raw(options, 1, RecycledFile::create).map(appends)));
            }
            report.rows.push(measure_row(options, plan, sides)?);
        }
    }
    Ok(())
}

/// Of a loop whose value is in bytes.
fn appends(trial: Trial) -> Trial {
    Trial { value: trial.value / PAYLOAD as f64, ..trial }
}

/// Written and purged before the measurement, so that all logs write into files that were written before.
fn warm_bytes() -> u64 {
    WARM_SEGMENTS * segment_bytes()
}

fn segment_bytes() -> u64 {
    WalOptions::new(NodeId(1)).segment_bytes
}

/// A group of the producers: the first group is that of the entries written before.
fn group_of(number: u64) -> GroupId {
    GroupId(number + 1)
}

/// The other logs that were built; the report names their versions. If there is no such program, says so loudly.
pub(super) fn names(options: &Options, report: &mut Report) -> Result<Vec<String>, String> {
    match ended_with_us(&options.engines).arg("list").output() {
        Ok(said) => {
            let listed = String::from_utf8_lossy(&said.stdout);
            report.versions.extend(listed.lines().map(str::to_owned));
            Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
        }
        Err(error) => {
            let path = options.engines.display();
            eprintln!("quorate-bench: NOTHING WAS MEASURED BESIDE OTHER LOGS: {path}: {error}; see --engines");
            report.caveats.push(format!("how other logs do: {path} was not built"));
            Ok(Vec::new())
        }
    }
}

/// Runs the program of other logs; returns what it printed.
pub(super) fn call(
    options: &Options,
    engine: &str,
    command: &str,
    dir: &Path,
    arguments: &[String],
) -> Result<String, String> {
    let said = ended_with_us(&options.engines).args([engine, command]).arg(dir).args(arguments).output();
    let said = said.map_err(|error| format!("{}: {error}", options.engines.display()))?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The trial that it printed.
pub(super) fn trial(json: &str) -> Result<Trial, String> {
    serde_json::from_str(json).map_err(|error| format!("{json:?} is no trial: {error}"))
}

fn theirs(options: &Options, engine: &str, producers: u64, groups: u64) -> Result<Trial, String> {
    let dir = options.dir.join(format!("d6-{engine}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let (warmup, measure) = (options.warmup.as_secs_f64(), options.measure.as_secs_f64());
    let numbers = [producers.to_string(), groups.to_string(), PAYLOAD.to_string()];
    let times = [warmup.to_string(), measure.to_string()];
    let warm = [warm_bytes().to_string(), WARM_BATCH.to_string()];
    let said = call(options, engine, "append", &dir, &[&numbers[..], &times[..], &warm[..]].concat())?;
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    trial(&said)
}

fn ours(options: &Options, producers: u64, groups: u64) -> Result<Trial, String> {
    let dir = options.dir.join(format!("d6-{}", std::process::id()));
    let mut log = Log::create(&dir, segment_bytes(), PAYLOAD)?;
    log.warm(segment_bytes())?;
    let wal = log.wal();
    for group in 1..=groups {
        // Whoever writes waits for the write itself.
        wal.open_group(group_of(group), Arc::new(|_, _| {})).map_err(|error| error.to_string())?;
    }
    let trial = produce(options, wal, producers, groups)?;
    log.close()?;
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    Ok(trial)
}

fn produce(options: &Options, wal: &Wal, producers: u64, groups: u64) -> Result<Trial, String> {
    let (over, measuring, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let recorder = Recorder::new()?;
    let produce = |number: u64| -> Result<(), String> {
        let payload = vec![7_u8; PAYLOAD];
        let mut builder = BatchBuilder::new();
        for round in 1.. {
            for group in (1..=groups).filter(|group| group % producers == number).map(group_of) {
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let begun = Instant::now();
                builder.push(EntryKind::Command, &payload);
                let batch = builder.seal(CLUSTER, group, LeaderId::new(1, 1), round, 0).ok_or("an empty batch")?;
                let written = wal.write(group, WalWrite::Append(Batches::from_iter([batch])));
                written.map_err(|error| error.to_string())?;
                if measuring.load(Ordering::Relaxed) {
                    recorder.record(number as usize, begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    };
    let produce = &produce;
    let (seconds, cpu) = thread::scope(|scope| {
        let threads: Vec<_> = (0..producers).map(|number| scope.spawn(move || produce(number))).collect();
        // The measurement is a stretch of time: nothing is waited for.
        thread::sleep(options.warmup);
        let (begun, before) = (Instant::now(), process_cpu());
        measuring.store(true, Ordering::Relaxed);
        thread::sleep(options.measure);
        measuring.store(false, Ordering::Relaxed);
        let measured = (begun.elapsed().as_secs_f64(), process_cpu() - before);
        over.store(true, Ordering::Relaxed);
        for each in threads {
            each.join().map_err(|_| "a producer died".to_owned())??;
        }
        Ok::<_, String>(measured)
    })?;
    let done = done.into_inner().max(1) as f64;
    let (value, cpu_ns) = (done / seconds, Some(cpu.as_nanos() as f64 / done));
    Ok(Trial { value, cpu_ns, allocations: None, latency: recorder.percentiles() })
}
