//! Clients that each keep one operation in flight, and the measurement around them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::{PATIENCE, Percentiles, Recorder, Trial, allocations, children_cpu, open, process_cpu};
use crate::args::Options;

/// One side of a comparison, as its clients see it.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// The client of this number, which may have a connection and a key of its own.
    fn numbered(&self, _number: usize) -> Self {
        self.clone()
    }

    /// One call: returns, when the caller has its answer, how many operations that was.
    fn call(&self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// What a trial puts on its side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// Calls in flight.
    pub(crate) clients: usize,
    /// Of so many calls of a client the latency of one is taken: looking at the clock costs as much as a fast call.
    pub(crate) sample_every: u64,
    /// Processes whose processor time is told instead of this one's.
    pub(crate) processes: &'a [u32],
}

impl Load<'_> {
    /// Calls into this process, which are fast.
    pub(crate) fn in_process(clients: usize) -> Self {
        Self { clients, sample_every: 32, processes: &[] }
    }
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Puts the load on `client`, and counts what finishes in the measured time: operations a second, in a closed loop.
/// In an open loop, the 99th percentile of their latency in microseconds.
pub(crate) fn measure<C: Client>(
    options: &Options,
    runtime: &Runtime,
    load: Load<'_>,
    client: &C,
) -> Result<Trial, String> {
    if let Some(rate) = options.rate {
        return open::measure(options, runtime, load, rate, client);
    }
    let stage = Arc::new(AtomicU8::new(WARMING_UP));
    let recorder = Arc::new(Recorder::new()?);
    let counters: Arc<[Counter]> = (0..load.clients).map(|_| Counter::default()).collect();
    let failed = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..load.clients)
        .map(|number| {
            let client = client.numbered(number);
            let (stage, recorder, counters) = (stage.clone(), recorder.clone(), counters.clone());
            let failed = failed.clone();
            runtime.spawn(async move {
                let counter = &counters[number].0;
                let (mut calls, mut done) = (0_u64, 0);
                loop {
                    let now = stage.load(Ordering::Relaxed);
                    if now == OVER {
                        return Ok::<(), String>(());
                    }
                    calls += 1;
                    let begun = (now == MEASURING && calls % load.sample_every == 0).then(Instant::now);
                    done += client.call().await.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                    if let Some(begun) = begun {
                        recorder.record(number, begun.elapsed());
                    }
                    counter.store(done, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // The measurement is a stretch of time, whatever happens in it: nothing is waited for. This thread only sleeps, so
    // that it takes no processor time from either side.
    thread::sleep(options.warmup);
    stage.store(MEASURING, Ordering::Relaxed);
    let before = Sample::take(&counters, load.processes);
    let end = Instant::now() + options.measure;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|_| !failed.load(Ordering::Relaxed)) {
        thread::sleep(left.min(Duration::from_millis(250)));
    }
    let after = Sample::take(&counters, load.processes);
    stage.store(OVER, Ordering::Relaxed);
    runtime.block_on(joined(tasks, PATIENCE))?;
    after.since(&before, recorder.percentiles())
}

/// Waits until every client has the answer to its last call.
async fn joined(tasks: Vec<JoinHandle<Result<(), String>>>, patience: Duration) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + patience;
    let (count, mut waiting) = (tasks.len(), 0);
    for task in tasks {
        let stop = task.abort_handle();
        match tokio::time::timeout_at(deadline, task).await {
            Ok(ended) => ended.map_err(|error| format!("a client died: {error}"))??,
            Err(_) => {
                stop.abort();
                waiting += 1;
            }
        }
    }
    if waiting > 0 {
        return Err(format!("{waiting} of {count} clients had no answer {patience:?} after the measurement"));
    }
    Ok(())
}

/// One client's count, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

struct Sample {
    at: Instant,
    cpu: Duration,
    allocations: Option<u64>,
    operations: u64,
}

impl Sample {
    fn take(counters: &[Counter], processes: &[u32]) -> Self {
        Self {
            at: Instant::now(),
            cpu: if processes.is_empty() { process_cpu() } else { children_cpu(processes) },
            allocations: allocations::counted(),
            operations: counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum(),
        }
    }

    fn since(&self, earlier: &Self, latency: Option<Percentiles>) -> Result<Trial, String> {
        let operations = self.operations - earlier.operations;
        if operations == 0 {
            return Err("no operation finished in the measured time".to_owned());
        }
        let operations = operations as f64;
        let allocations = self.allocations.zip(earlier.allocations);
        Ok(Trial {
            value: operations / (self.at - earlier.at).as_secs_f64(),
            cpu_ns: Some((self.cpu - earlier.cpu).as_nanos() as f64 / operations),
            allocations: allocations.map(|(now, then)| (now - then) as f64 / operations),
            latency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_answer_is_not_waited_for_forever() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let said = runtime.block_on(async { joined(vec![tokio::spawn(std::future::pending())], Duration::ZERO).await });
        assert_eq!(said.unwrap_err(), "1 of 1 clients had no answer 0ns after the measurement");
    }
}
