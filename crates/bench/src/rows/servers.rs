//! D1 to D3: durable puts into three real processes on loopback, over gRPC, beside etcd.

use crate::args::Options;
use crate::measure::disk::RecycledFile;
use crate::measure::{Client, Contender, Goal, Load, RowPlan, Trial, client_runtime, measure, measure_row};
use crate::report::{Better, Report};
use crate::rows::floor::floor;
use crate::sides::servers::{Kind, Servers, Work, etcd_version};

/// Puts a second of D2's open loop: about a third of what etcd does in a closed one.
const OPEN_RATE: f64 = 2_000.0;

pub(crate) fn d1(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "D1", 1, (1.5, 3.0))
}

pub(crate) fn d2(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "D2", 64, (3.0, 6.0))?;
    if options.rate.is_some() {
        return Ok(());
    }
    row(&Options { rate: Some(OPEN_RATE), ..options.clone() }, report, "D2", 64, (3.0, 6.0))
}

pub(crate) fn d3(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "D3", 1000, (5.0, 10.0))
}

fn puts(options: &Options, report: &mut Report, id: &str, clients: usize, goal: (f64, f64)) -> Result<(), String> {
    say(options, report, id);
    report.settings.push("a short trial never ends its first segment: Quorate's log then writes into a file that is allocated, the limit into one that is recycled".to_owned());
    row(options, report, id, clients, goal)
}

fn row(
    options: &Options,
    report: &mut Report,
    id: &str,
    clients: usize,
    (must, aim): (f64, f64),
) -> Result<(), String> {
    let beside = etcd_version(options).is_ok();
    let plan = RowPlan {
        id,
        what: format!("{clients} {}", if clients == 1 { "client" } else { "clients" }),
        unit: "put/s",
        better: Better::Higher,
        goal: beside.then_some(Goal::Ratio { must, aim }),
    };
    // Each client waits for a sync at least; no batch of theirs can be durable sooner.
    let limit = || floor(options, RecycledFile::create).map(|floor| Trial::of(clients as f64 * 1e6 / floor.value));
    let mut sides = vec![Contender::ours("quorate", || trial(options, Kind::Quorate, clients, Work::Puts))];
    if beside {
        sides.push(Contender::beside("etcd", || trial(options, Kind::Etcd, clients, Work::Puts)));
    }
    if options.rate.is_none() {
        sides.push(Contender::limit("disk", limit));
    } else {
        report
            .caveats
            .push("a share of the limit in an open loop: it takes as much as is asked, not as it can".to_owned());
    }
    report.rows.push(measure_row(options, plan, sides)?);
    Ok(())
}

/// Linearizable reads of a key each, which has a value, at the leader.
pub(crate) fn dr(options: &Options, report: &mut Report) -> Result<(), String> {
    say(options, report, "DR");
    report
        .caveats
        .push("a share of the limit: a read waits for the others' answers, and neither syncs a disk for it".to_owned());
    let clients = 64;
    let plan =
        RowPlan { id: "DR", what: format!("{clients} clients"), unit: "gets/s", better: Better::Higher, goal: None };
    let mut sides = vec![Contender::ours("quorate", || trial(options, Kind::Quorate, clients, Work::Reads))];
    if etcd_version(options).is_ok() {
        sides.push(Contender::beside("etcd", || trial(options, Kind::Etcd, clients, Work::Reads)));
    }
    report.rows.push(measure_row(options, plan, sides)?);
    Ok(())
}

/// Names the opponent, or says loudly that there is none.
fn say(options: &Options, report: &mut Report, id: &str) {
    match etcd_version(options) {
        Ok(version) => report.versions.push(version),
        Err(problem) => {
            eprintln!("quorate-bench: {id} beside etcd was NOT MEASURED: {problem}");
            report.caveats.push(format!("how etcd does: {problem}"));
        }
    }
    report.settings.push("etcd: as Debian ships it, no flags but names and addresses; the same gRPC client on both sides, one that takes little of the machine, connected to the leader, values of 256 bytes".to_owned());
    report.settings.push("CPU-ns are the servers' alone, in steps of 10 ms".to_owned());
}

/// A fresh cluster, warmed up, measured, killed.
fn trial(options: &Options, kind: Kind, clients: usize, work: Work) -> Result<Trial, String> {
    let runtime = client_runtime(options)?;
    let (servers, client) = runtime.block_on(async {
        let servers = Servers::start(kind, options, &[]).await?;
        let leader = servers.leader().await?;
        if work == Work::Reads {
            // Else the reads would find nothing.
            let puts = servers.load(leader, clients, Work::Puts).await?;
            for number in 0..clients {
                puts.numbered(number).call().await?;
            }
        }
        let client = servers.load(leader, clients, work).await?;
        Ok::<_, String>((servers, client))
    })?;
    let ids = servers.ids();
    measure(options, &runtime, Load { clients, sample_every: 1, processes: &ids }, &client)
}
