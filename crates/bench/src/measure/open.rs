//! Operations that begin when they are due, whether or not earlier ones have their answer: what users see who do not
//! know of each other. A latency counts from when the operation was due, so that a side that stands still for a second
//! is charged with all who came in that second (no coordinated omission).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::{Client, Load, PATIENCE, Recorder, Trial, children_cpu, process_cpu};
use crate::args::Options;

/// How often due operations are looked for: what this adds to a latency at most, as long as the machine keeps up.
const PACE: Duration = Duration::from_micros(100);

/// The 99th percentile of the latency, in microseconds, at `rate` operations a second.
pub(super) fn measure<C: Client>(
    options: &Options,
    runtime: &Runtime,
    load: Load<'_>,
    rate: f64,
    client: &C,
) -> Result<Trial, String> {
    let recorder = Arc::new(Recorder::new()?);
    let answered = Arc::new(AtomicU64::new(0));
    let problem = Arc::new(Mutex::new(None));
    let clients: Vec<C> = (0..load.clients).map(|number| client.numbered(number)).collect();
    let cpu = || if load.processes.is_empty() { process_cpu() } else { children_cpu(load.processes) };

    let begun = Instant::now();
    let measured_from = begun + options.warmup;
    let end = measured_from + options.measure;
    let mut issued = 0_u64;
    let mut before = None;
    while Instant::now() < end {
        let now = Instant::now();
        if now >= measured_from && before.is_none() {
            before = Some((cpu(), issued));
        }
        while begun + due_after(issued, rate) <= now {
            let due = begun + due_after(issued, rate);
            let number = usize::try_from(issued).unwrap_or(0) % clients.len();
            let (client, recorder) = (clients[number].clone(), recorder.clone());
            let (answered, problem) = (answered.clone(), problem.clone());
            runtime.spawn(async move {
                match client.call().await {
                    Ok(_) if due >= measured_from => recorder.record(number, due.elapsed()),
                    Ok(_) => {}
                    Err(said) => *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(said),
                }
                answered.fetch_add(1, Ordering::Relaxed);
            });
            issued += 1;
        }
        // An open loop issues by the clock, whatever is answered; latency counts from when a call was due, not from here.
        thread::sleep(PACE);
    }
    let (used, counted) = before.map_or((Duration::ZERO, 0), |(then, first)| (cpu() - then, issued - first));

    let given_up = Instant::now() + PATIENCE;
    while answered.load(Ordering::Relaxed) < issued {
        if Instant::now() > given_up {
            let missing = issued - answered.load(Ordering::Relaxed);
            return Err(format!("{missing} of {issued} operations had no answer {PATIENCE:?} after the last began"));
        }
        // After the measurement: how soon this is seen changes no figure.
        thread::sleep(Duration::from_millis(10));
    }
    if let Some(said) = problem.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(said);
    }
    let latency = recorder.percentiles().ok_or("no operation was due in the measured time")?;
    Ok(Trial {
        value: latency.p99,
        cpu_ns: Some(used.as_nanos() as f64 / counted.max(1) as f64),
        allocations: None,
        latency: Some(latency),
    })
}

/// When the operation of this number begins, after the first.
fn due_after(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}
