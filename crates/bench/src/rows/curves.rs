//! C1 to C3, and C5: what an operation costs as the work grows. No opponent: a curve is there to show a cliff.

use std::fs;
use std::path::Path;
use std::time::Instant;

use quorate::MemoryNetwork;

use crate::args::Options;
use crate::measure::{Contender, Load, RowPlan, Trial, measure_row};
use crate::report::{Better, Report};
use crate::rows::recovery::files;
use crate::rows::snapshot::Leader;
use crate::sides::library::{Cluster, Link, Put, Setup};

/// Adds a point.
pub(super) fn point(
    options: &Options,
    report: &mut Report,
    (id, unit, better): (&str, &str, Better),
    what: String,
    trial: impl FnMut() -> Result<Trial, String>,
) -> Result<(), String> {
    report.curve = true;
    let plan = RowPlan { id, what, unit, better, goal: None };
    report.rows.push(measure_row(options, plan, vec![Contender::ours("quorate", trial)])?);
    Ok(())
}

/// Bytes of all files below a directory.
pub(super) fn bytes_of(dir: &Path) -> Result<u64, String> {
    let length = |path: &Path| fs::metadata(path).map(|about| about.len());
    let lengths = files(dir)?.into_iter().map(|path| length(&path).map_err(|e| format!("{}: {e}", path.display())));
    lengths.sum()
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// Commands of 16 B to 1 MiB.
pub(crate) fn payloads(options: &Options, report: &mut Report) -> Result<(), String> {
    /// Most bytes of commands in flight: half a node's window, else clients would measure how they wait for room.
    const IN_FLIGHT: usize = 32 << 20;
    report.settings.push(format!(
        "three nodes in this process, TCP on loopback, durable; 64 clients, or as many as have {} in flight",
        bytes_text(IN_FLIGHT as u64)
    ));
    for bytes in [16_usize, 256, 4 << 10, 64 << 10, 1 << 20] {
        let clients = (IN_FLIGHT / bytes).min(64);
        let dir = options.dir.join(format!("c1-{}", std::process::id()));
        let trial = || {
            let _ = fs::remove_dir_all(&dir);
            let cluster = Cluster::start(options, &Setup { data: Some(dir.clone()), ..Setup::in_memory(Link::Tcp) })?;
            let load = Load { sample_every: 1, ..Load::in_process(clients) };
            cluster.measure(options, load, |node| Put::sized(node, bytes))
        };
        let what = format!("{}, {clients} clients", bytes_text(bytes as u64));
        point(options, report, ("C1", "put/s", Better::Higher), what, trial)?;
        fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    }
    Ok(())
}

/// 1 to 4096 clients.
pub(crate) fn clients(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push("three nodes in this process, in memory".to_owned());
    for clients in [1, 4, 16, 64, 256, 1024, 4096] {
        let trial = || in_memory(options, 3, clients);
        point(options, report, ("C2", "put/s", Better::Higher), format!("{clients} clients"), trial)?;
    }
    Ok(())
}

/// 1 to 7 nodes.
pub(crate) fn nodes(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push("256 clients, all nodes in this process, in memory".to_owned());
    for nodes in [1, 3, 5, 7] {
        let trial = || in_memory(options, nodes, 256);
        point(options, report, ("C3", "put/s", Better::Higher), format!("{nodes} nodes"), trial)?;
    }
    Ok(())
}

fn in_memory(options: &Options, nodes: u64, clients: usize) -> Result<Trial, String> {
    let setup = Setup { nodes, ..Setup::in_memory(Link::Memory(MemoryNetwork::new())) };
    Cluster::start(options, &setup)?.measure(options, Load::in_process(clients), Put::new)
}

/// A state of 1 KiB to 4 GiB: how long its snapshot takes until it is durable.
pub(crate) fn states(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push("a cluster of one node; the state machine writes blocks of 1 MiB".to_owned());
    let (sizes, beyond): (Vec<u64>, Vec<u64>) = [1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20, 1 << 30, 4 << 30]
        .into_iter()
        .partition(|bytes| *bytes <= options.bytes);
    report.leave_out(options, beyond.into_iter().map(bytes_text));
    for bytes in sizes {
        let leader = Leader::start(options, bytes)?;
        let build = || {
            leader.runtime.block_on(async {
                // Without a new entry the last snapshot would be good enough.
                leader.raft.client_write(bytes).await.map_err(|error| error.to_string())?;
                let begun = Instant::now();
                leader.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
                Ok(Trial::of(begun.elapsed().as_secs_f64() * 1e3))
            })
        };
        point(options, report, ("C5", "ms", Better::Lower), bytes_text(bytes), build)?;
    }
    Ok(())
}
