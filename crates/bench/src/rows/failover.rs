//! R4: from `kill -9` of the leader to the next write that a survivor acknowledges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::args::Options;
use crate::measure::{Contender, Goal, RowPlan, Trial, client_runtime, measure_row};
use crate::report::{Better, Report};
use crate::sides::servers::{Kind, Servers, etcd_version};

/// A write begins this often, whatever became of the earlier ones.
const PACE: Duration = Duration::from_millis(2);
/// After that nobody will lead any more.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn r4(options: &Options, report: &mut Report) -> Result<(), String> {
    let timeout = quorate::Config::default().election_timeout_min.as_secs_f64() * 1e3;
    report.settings.push(format!("three real processes on loopback; minimum election timeout {timeout} ms; the leader is killed {:?} after its first write, then a write begins every {PACE:?} at the survivors in turn", options.warmup));
    report.caveats.push(
        "a share of the limit: a killed process is known by its connections at once, so no time-out is one".to_owned(),
    );
    let plan = |what: &str, goal| RowPlan { id: "R4", what: what.to_owned(), unit: "ms", better: Better::Lower, goal };
    let row = measure_row(
        options,
        plan("kill -9 of the leader to the next acknowledged write", Some(Goal::Ratio { must: 1.5, aim: 0.4 })),
        vec![
            Contender::ours("quorate", || trial(options, Kind::Quorate, &[])),
            Contender::beside("election timeout", || Ok(Trial::of(timeout))),
        ],
    )?;
    report.rows.push(row);
    match etcd_version(options) {
        Ok(version) => report.versions.push(version),
        Err(problem) => {
            report.caveats.push(format!("how etcd does: {problem}"));
            eprintln!("quorate-bench: R4 beside etcd was NOT MEASURED: {problem}");
            return Ok(());
        }
    }
    let flags = [format!("--election-timeout={timeout}"), "--heartbeat-interval=60".to_owned()];
    report.settings.push(format!("etcd with {}", flags.join(" ")));
    let row = measure_row(
        options,
        plan("the same beside etcd", None),
        vec![
            Contender::ours("quorate", || trial(options, Kind::Quorate, &[])),
            Contender::beside("etcd", || trial(options, Kind::Etcd, &flags)),
        ],
    )?;
    report.rows.push(row);
    Ok(())
}

/// Milliseconds without an acknowledged write.
fn trial(options: &Options, kind: Kind, flags: &[String]) -> Result<Trial, String> {
    client_runtime(options)?.block_on(async {
        let mut servers = Servers::start(kind, options, flags).await?;
        let leader = servers.leader().await?;
        // Connected before the kill: what is measured is not how long that takes.
        let mut survivors = Vec::new();
        for at in (0..3).filter(|at| *at != leader) {
            let client = servers.client(at)?;
            client.put().await?;
            survivors.push(client);
        }
        tokio::time::sleep(options.warmup).await;
        servers.kill(leader)?;
        let killed = Instant::now();
        let (sender, mut acknowledged) = mpsc::unbounded_channel();
        let over = Arc::new(AtomicBool::new(false));
        let mut next = tokio::time::interval(PACE);
        for client in survivors.iter().cycle() {
            next.tick().await;
            if let Ok(at) = acknowledged.try_recv() {
                over.store(true, Ordering::Relaxed);
                let silence: Duration = at;
                return Ok(Trial::of(silence.as_secs_f64() * 1e3));
            }
            if killed.elapsed() > PATIENCE {
                return Err(format!("no write was acknowledged within {PATIENCE:?}"));
            }
            let (client, sender, over) = (client.clone(), sender.clone(), over.clone());
            tokio::spawn(async move {
                if client.put().await.is_ok() && !over.load(Ordering::Relaxed) {
                    // Nobody listens any more once the first has come.
                    let _ = sender.send(killed.elapsed());
                }
            });
        }
        Err("no survivors".to_owned())
    })
}
