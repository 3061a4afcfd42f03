//! OV: clients that want more than the disk gives. Memory stays bounded, nobody is deposed, and who cannot be served is
//! told so.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::{ClientWriteError, Config, Raw};

use crate::args::Options;
use crate::measure::{Contender, Goal, PATIENCE, RowPlan, Trial, client_runtime, measure_row, resident_bytes};
use crate::report::{Better, Report};
use crate::sides::library::{Cluster, Link, Node, Setup};

/// Clients, each with one command in flight: 256 MiB in all, four times what a node takes at once.
const CLIENTS: usize = 4096;
/// Bytes of a command.
const COMMAND: usize = 64 << 10;
/// How often memory and leadership are looked at.
const PACE: Duration = Duration::from_millis(50);
/// Bytes that a log writes in one turn at most: encoded once more, beside the entries themselves.
const LOG_TURN: u64 = 8 << 20;
/// Beyond what nodes may keep: tasks and callers, buffers of sockets, and what the allocator holds back.
const SLACK: u64 = 64 << 20;

/// What was seen in one stretch of overload.
struct Seen {
    /// Most memory beyond what the idle cluster had.
    grown_mib: f64,
    /// Leaders and candidates that any node knew, beyond the first leader.
    others: f64,
    /// Calls a second.
    acknowledged: f64,
    overloaded: f64,
    unknown: f64,
    /// Calls in all that ended in another way, and the last such way.
    strange: f64,
    strangest: Option<String>,
}

/// What became of calls.
#[derive(Default)]
struct Calls {
    acknowledged: AtomicU64,
    overloaded: AtomicU64,
    unknown: AtomicU64,
    strange: AtomicU64,
    strangest: Mutex<Option<String>>,
}

impl Calls {
    fn note(&self, outcome: Result<(), ClientWriteError>) {
        let counter = match outcome {
            Ok(()) => &self.acknowledged,
            Err(ClientWriteError::Overloaded) => &self.overloaded,
            Err(ClientWriteError::OutcomeUnknown) => &self.unknown,
            Err(other) => {
                *self.strangest.lock().unwrap_or_else(PoisonError::into_inner) = Some(other.to_string());
                &self.strange
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn ov(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push(format!(
        "three nodes in this process, TCP on loopback, durable; {CLIENTS} clients with a command of {} KiB each in flight; one stretch of {:?}; a write is refused after {:?}",
        COMMAND >> 10,
        options.measure,
        Config::default().write_timeout
    ));
    let (bound, of_what) = bound_mib();
    report.settings.push(of_what);
    let seen = overload(options)?;
    let rows = [
        ("memory of three nodes beyond idle", "MiB", Better::Lower, Some(bound), seen.grown_mib),
        ("further leaders and candidates, on any node", "votes", Better::Lower, Some(0.0), seen.others),
        ("acknowledged", "MB/s", Better::Higher, None, seen.acknowledged * COMMAND as f64 / 1e6),
        ("refused: overloaded, certainly not applied", "calls/s", Better::Lower, None, seen.overloaded),
        ("outcome unknown at the deadline", "calls/s", Better::Lower, None, seen.unknown),
        ("ended in any other way", "calls", Better::Lower, Some(0.0), seen.strange),
    ];
    report.settings.extend(seen.strangest.map(|how| format!("the last call that ended in any other way: {how}")));
    for (what, unit, better, bound, value) in rows {
        let goal = bound.map(|bound| Goal::Value { must: bound, aim: bound });
        let plan = RowPlan { id: "OV", what: what.to_owned(), unit, better, goal };
        let once = Options { pairs: 1, rate: None, ..options.clone() };
        report.rows.push(measure_row(&once, plan, vec![Contender::ours("quorate", || Ok(Trial::of(value)))])?);
    }
    Ok(())
}

/// What three nodes may keep under this load, in MiB, and of what it is made.
fn bound_mib() -> (f64, String) {
    let config = Config::default();
    let parts = [
        // Counted until they are applied, so that their way through the leader's log is in it.
        ("the leader's proposals", config.proposal_window_bytes as u64),
        ("recent entries of three nodes", 3 * config.tail_cache_bytes as u64),
        // In the queue of the leader's connection, and in what the peer has read.
        ("entries under way to two peers", 2 * 2 * config.max_inflight_bytes),
        ("a turn of three logs", 3 * LOG_TURN),
        ("slack", SLACK),
    ];
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let said: Vec<_> = parts.iter().map(|(what, bytes)| format!("{what} {}", mib(*bytes))).collect();
    (mib(parts.iter().map(|(_, bytes)| bytes).sum()), format!("the bound of memory, in MiB: {}", said.join(", ")))
}

fn overload(options: &Options) -> Result<Seen, String> {
    let dir = options.dir.join(format!("overload-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let cluster = Cluster::start(options, &Setup { data: Some(dir.clone()), ..Setup::in_memory(Link::Tcp) })?;
    let runtime = client_runtime(options)?;
    let before = resident_bytes().ok_or("this system does not tell a process's memory")?;
    let over = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(Calls::default());
    // One buffer: the clients themselves take no memory.
    let command = Raw(Bytes::from(vec![b'x'; COMMAND]));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (node, command) = (cluster.leader(), command.clone());
            let (over, calls) = (over.clone(), calls.clone());
            runtime.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    calls.note(node.client_write(command.clone()).await.map(drop));
                }
            })
        })
        .collect();
    let begun = Instant::now();
    // A leader that was deposed hears of it last, if at all: whom the others vote for counts as well.
    let nodes: Vec<_> = cluster.nodes().iter().map(Node::metrics).collect();
    let votes = || nodes.iter().map(|node| node.borrow().vote.leader_id).map(|id| (id.term, id.node_id));
    let mut most = before;
    let mut known: BTreeSet<_> = votes().collect();
    while begun.elapsed() < options.measure {
        // What grows and who leads is looked at for a stretch of time: there is no event to wait for.
        thread::sleep(PACE);
        most = most.max(resident_bytes().unwrap_or(0));
        known.extend(votes());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let seen = Seen {
        grown_mib: (most - before) as f64 / f64::from(1 << 20),
        others: (known.len() - 1) as f64,
        acknowledged: count(&calls.acknowledged) / seconds,
        overloaded: count(&calls.overloaded) / seconds,
        unknown: count(&calls.unknown) / seconds,
        strange: count(&calls.strange),
        strangest: calls.strangest.lock().unwrap_or_else(PoisonError::into_inner).take(),
    };
    over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        let all = async {
            for task in tasks {
                task.await.map_err(|error| format!("a client died: {error}"))?;
            }
            Ok(())
        };
        let late = |_| Err(format!("not every client had an answer {PATIENCE:?} after the end"));
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(late)
    })?;
    drop(cluster);
    fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    Ok(seen)
}
