//! How everything is measured: the clock stops at the client, trials of all sides alternate.

pub(crate) mod allocations;
mod closed;
mod cpu;
pub(crate) mod disk;
mod latency;
mod open;
mod pairs;

pub(crate) use closed::{Client, Load, measure};
pub(crate) use cpu::{children_cpu, process_cpu, resident_bytes};
pub(crate) use latency::{Percentiles, Recorder};
pub(crate) use pairs::{Contender, Goal, RowPlan, measure_row, measure_row_and_count};

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::args::Options;

/// How long answers are waited for when a trial is over: an answer that is lost must not hold up the tables behind it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What one trial measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trial {
    /// What the row compares, in the row's unit.
    pub(crate) value: f64,
    /// Processor time an operation, user and system, in nanoseconds: of the nodes' processes if they are processes of
    /// their own, else of this whole process, clients included.
    pub(crate) cpu_ns: Option<f64>,
    /// Allocations of this whole process an operation, if they were counted.
    pub(crate) allocations: Option<f64>,
    /// How long operations took.
    pub(crate) latency: Option<Percentiles>,
}

impl Trial {
    /// Only a value.
    pub(crate) fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
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
