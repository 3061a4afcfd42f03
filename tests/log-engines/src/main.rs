//! Other logs for many Raft groups, driven as `quorate-bench` drives Quorate's: producers that each append one entry to
//! one of their groups, wait until it is durable, and go on to the next group.
//!
//!     log-engines ENGINE append DIRECTORY PRODUCERS GROUPS PAYLOAD WARMUP_SECONDS SECONDS WARM_BYTES WARM_BATCH
//!     log-engines ENGINE fill DIRECTORY BYTES PAYLOAD BATCH
//!     log-engines ENGINE open DIRECTORY
//!     log-engines list
//!
//! Before the measurement `append` writes `WARM_BYTES` to a group of its own and purges them, as the other side does.
//! `append` and `open` print one line of JSON, a trial of `quorate-bench`; `list` a line for each engine, with its version.

mod engines;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engines::Engine;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("log-engines: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome<()> {
    let word = |at: usize| words.get(at).map(String::as_str).ok_or("too few arguments");
    let number = |at: usize| word(at).and_then(|text| text.parse::<u64>().map_err(|_| "not a number"));
    let seconds = |at: usize| word(at).and_then(|text| text.parse::<f64>().map_err(|_| "not a number"));
    if word(0)? == "list" {
        engines::names().iter().for_each(|name| println!("{name} {}", engines::version(name)));
        return Ok(());
    }
    let begun = Instant::now();
    let engine = engines::open(word(0)?, Path::new(word(2)?), word(1)? == "append")?;
    let opened = begun.elapsed();
    match word(1)? {
        "append" => {
            let (warmup, measure) = (Duration::from_secs_f64(seconds(6)?), Duration::from_secs_f64(seconds(7)?));
            let (producers, groups, payload) = (number(3)?, number(4)?, number(5)? as usize);
            let next = fill(&*engine, groups + 1, number(8)?, payload, number(9)?)?;
            engine.purge(groups + 1, next)?;
            append(&*engine, producers, groups, payload, warmup, measure)
        }
        "fill" => fill(&*engine, 1, number(3)?, number(4)? as usize, number(5)?).map(drop),
        "open" => {
            println!("{{\"value\":{}}}", opened.as_secs_f64());
            Ok(())
        }
        other => Err(format!("unknown command {other:?}").into()),
    }
}

/// Writes a group of so many bytes; returns the index after the last.
fn fill(engine: &dyn Engine, group: u64, bytes: u64, payload: usize, batch: u64) -> Outcome<u64> {
    let payload: Vec<u8> = (0..payload).map(|at| at as u8).collect();
    let mut next = 1;
    while (next - 1) * (payload.len() as u64) < bytes {
        engine.append(group, next, batch, &payload)?;
        next += batch;
    }
    Ok(next)
}

fn append(
    engine: &dyn Engine,
    producers: u64,
    groups: u64,
    payload: usize,
    warmup: Duration,
    measure: Duration,
) -> Outcome<()> {
    let (over, measuring, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let latencies = Mutex::new(Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?);
    let producer = |number: u64| -> Outcome<()> {
        let payload = vec![7_u8; payload];
        let mut own = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        for round in 1.. {
            for group in (1..=groups).filter(|group| group % producers == number) {
                if over.load(Ordering::Relaxed) {
                    latencies.lock().map_err(|_| "a producer died")?.add(&own)?;
                    return Ok(());
                }
                let begun = Instant::now();
                engine.append(group, round, 1, &payload)?;
                if measuring.load(Ordering::Relaxed) {
                    own.saturating_record(begun.elapsed().as_nanos() as u64);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    };
    let (seconds, cpu) = thread::scope(|scope| {
        let threads: Vec<_> = (0..producers).map(|number| scope.spawn(move || producer(number))).collect();
        // The measurement is a stretch of time: nothing is waited for.
        thread::sleep(warmup);
        let (begun, before) = (Instant::now(), cpu());
        measuring.store(true, Ordering::Relaxed);
        thread::sleep(measure);
        measuring.store(false, Ordering::Relaxed);
        let measured = (begun.elapsed().as_secs_f64(), cpu() - before);
        over.store(true, Ordering::Relaxed);
        for each in threads {
            each.join().map_err(|_| "a producer died")??;
        }
        Outcome::Ok(measured)
    })?;
    let (found, done) = (latencies.into_inner()?, done.into_inner().max(1) as f64);
    let micros = |quantile| found.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{{\"value\":{},\"cpu_ns\":{},\"latency\":{{\"p50\":{},\"p99\":{},\"p999\":{},\"most\":{}}}}}",
        done / seconds,
        cpu.as_nanos() as f64 / done,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        found.max() as f64 / 1e3
    );
    Ok(())
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
