//! D4, and the limit of D1 to D3: what one durable write takes at least.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Options;
use crate::measure::disk::{RecycledFile, sync_loop};
use crate::measure::{Contender, Goal, Load, Recorder, RowPlan, Trial, measure_row};
use crate::report::{Better, Report};
use crate::sides::library::{Cluster, Link, Put, Setup};

/// Bytes of a command.
const COMMAND: usize = 256;
/// What a log writes for one such command, at least: whole sectors.
const WRITTEN: usize = 512;

/// Latency of one durable write through the library: three nodes in this process, each with a directory of its own, joined
/// by TCP on loopback.
pub(crate) fn d4(options: &Options, report: &mut Report) -> Result<(), String> {
    report
        .settings
        .push(format!("commands of {COMMAND} bytes, one at a time; the floor writes {WRITTEN} bytes a sync, into recycled files and into files that are only allocated, as the log's first segments are"));
    let plan = RowPlan {
        id: "D4",
        what: "one durable put, median".to_owned(),
        unit: "us",
        better: Better::Lower,
        goal: Some(Goal::Ratio { must: 1.4, aim: 1.15 }),
    };
    let closed = Options { rate: None, ..options.clone() };
    let row = measure_row(
        &closed,
        plan,
        vec![
            Contender::ours("quorate", || put(&closed)),
            Contender::limit("3 disks + round trip", || floor(&closed, RecycledFile::create)),
            Contender::limit("the same, only allocated", || floor(&closed, RecycledFile::allocate)),
        ],
    )?;
    report.rows.push(row);
    Ok(())
}

fn put(options: &Options) -> Result<Trial, String> {
    let dir = options.dir.join(format!("d4-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let setup = Setup { data: Some(dir.clone()), ..Setup::in_memory(Link::Tcp) };
    let load = Load { clients: 1, sample_every: 1, processes: &[] };
    let trial = Cluster::start(options, &setup)?.measure(options, load, |node| Put::sized(node, COMMAND))?;
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    let latency = trial.latency.ok_or("no put was measured")?;
    Ok(Trial { value: latency.p50, ..trial })
}

/// How a file to be written is made.
type Make = fn(&Path) -> Result<RecycledFile, String>;

/// The slowest of three loops of `fdatasync` that run at once, and a round trip over loopback: medians, in microseconds.
pub(crate) fn floor(options: &Options, make: Make) -> Result<Trial, String> {
    let half = options.measure / 2;
    let disks = thread::scope(|scope| {
        let loops: Vec<_> = (0..3)
            .map(|number| {
                let path = options.dir.join(format!("floor-{}-{number}", std::process::id()));
                scope.spawn(move || disk(&path, half, make))
            })
            .collect();
        let died = |_| Err("a disk loop died".to_owned());
        loops.into_iter().map(|each| each.join().unwrap_or_else(died)).collect::<Result<Vec<_>, _>>()
    })?;
    let slowest = disks.into_iter().fold(0.0, f64::max);
    Ok(Trial::of(slowest + round_trip(half)?))
}

fn disk(path: &Path, time: Duration, make: Make) -> Result<f64, String> {
    let mut file = make(path)?;
    let recorder = Recorder::new()?;
    sync_loop(&mut file, WRITTEN, Instant::now() + time, &recorder)?;
    fs::remove_file(path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    recorder.percentiles().map(|found| found.p50).ok_or_else(|| "no fdatasync ended in time".to_owned())
}

fn round_trip(time: Duration) -> Result<f64, String> {
    let wrong = |error: std::io::Error| format!("a round trip over loopback: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(wrong)?;
    let mut here = TcpStream::connect(listener.local_addr().map_err(wrong)?).map_err(wrong)?;
    let (mut there, _) = listener.accept().map_err(wrong)?;
    here.set_nodelay(true).map_err(wrong)?;
    there.set_nodelay(true).map_err(wrong)?;
    let echo = thread::spawn(move || {
        let mut bytes = [0; COMMAND];
        while there.read_exact(&mut bytes).is_ok() && there.write_all(&bytes).is_ok() {}
    });
    let recorder = Recorder::new()?;
    let end = Instant::now() + time;
    let mut bytes = [1; COMMAND];
    while Instant::now() < end {
        let begun = Instant::now();
        here.write_all(&bytes).map_err(wrong)?;
        here.read_exact(&mut bytes).map_err(wrong)?;
        recorder.record(0, begun.elapsed());
    }
    drop(here);
    echo.join().map_err(|_| "the echo of the round trip died".to_owned())?;
    recorder.percentiles().map(|found| found.p50).ok_or_else(|| "no round trip ended in time".to_owned())
}
