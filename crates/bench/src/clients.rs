//! Clients that each keep one operation in flight, and the measurement around them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use crate::args::Options;

/// One side of a comparison, as its clients see it.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// One operation: returns when the caller has its answer.
    fn put(&self) -> impl Future<Output = Result<(), String>> + Send;
}

/// What one trial measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    /// Answered operations a second.
    pub(crate) per_second: f64,
    /// Processor time of the whole process, user and system, an operation, in nanoseconds.
    pub(crate) cpu_ns: f64,
}

/// The runtime of the clients.
pub(crate) fn client_runtime(options: &Options) -> Result<Runtime, String> {
    runtime("client", options.client_threads)
}

/// The runtime of the nodes.
pub(crate) fn server_runtime(options: &Options) -> Result<Runtime, String> {
    runtime("server", options.server_threads)
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the {name} runtime: {error}"))
}

/// Runs `clients` copies of `client` on `runtime`, and counts what they finish in the measured time.
pub(crate) fn measure<C: Client>(
    options: &Options,
    runtime: &Runtime,
    clients: usize,
    client: &C,
) -> Result<Trial, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let counters: Arc<[Counter]> = (0..clients).map(|_| Counter::default()).collect();
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (client, stop, counters) = (client.clone(), stop.clone(), counters.clone());
            runtime.spawn(async move {
                let counter = &counters[number].0;
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.put().await?;
                    done += 1;
                    counter.store(done, Ordering::Relaxed);
                }
                Ok::<(), String>(())
            })
        })
        .collect();

    // The measurement is a stretch of time, whatever happens in it: nothing is waited for. This thread only sleeps, so
    // that it takes no processor time from either side.
    thread::sleep(options.warmup);
    let before = Sample::take(&counters);
    thread::sleep(options.measure);
    let after = Sample::take(&counters);
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).map_err(|error| format!("a client died: {error}"))??;
    }
    after.since(&before)
}

/// One client's count, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

struct Sample {
    at: Instant,
    cpu: Duration,
    operations: u64,
}

impl Sample {
    fn take(counters: &[Counter]) -> Self {
        Self {
            at: Instant::now(),
            cpu: process_cpu(),
            operations: counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum(),
        }
    }

    fn since(&self, earlier: &Self) -> Result<Trial, String> {
        let operations = self.operations - earlier.operations;
        if operations == 0 {
            return Err("no operation finished in the measured time".to_owned());
        }
        let operations = operations as f64;
        Ok(Trial {
            per_second: operations / (self.at - earlier.at).as_secs_f64(),
            cpu_ns: (self.cpu - earlier.cpu).as_nanos() as f64 / operations,
        })
    }
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
