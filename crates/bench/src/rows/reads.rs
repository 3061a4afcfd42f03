//! L1 and L2: what a lease read costs beyond the look at the state, and reads that a quorum confirms.

use std::hint::black_box;
use std::time::Instant;

use quorate::{LeasePolicy, MemoryNetwork, RaftStateMachine as _, Raw, ReadPolicy};

use crate::args::Options;
use crate::measure::{Contender, Goal, Load, RowPlan, Trial, client_runtime, measure_row};
use crate::report::{Better, Report};
use crate::rows::memory::their_best;
use crate::sides::library::{Cluster, Link, Look, Machine, Put, Setup};
use crate::sides::{echo, library, openraft};

/// Reads between two looks at the clock.
const READS: u32 = 4096;

/// Lease reads one after the other on the leader, less the same closure called directly.
pub(crate) fn l1(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push("three nodes in this process, in memory; one caller".to_owned());
    report.caveats.push("a share of the limit: that is the direct call, which is taken off".to_owned());
    let plan = RowPlan {
        id: "L1",
        what: "lease read, less a direct call".to_owned(),
        unit: "ns",
        better: Better::Lower,
        goal: Some(Goal::Value { must: 150.0, aim: 60.0 }),
    };
    report.rows.push(measure_row(options, plan, vec![Contender::ours("quorate", || lease_reads(options))])?);
    let plan = RowPlan {
        id: "L1",
        what: "a direct call of the same closure".to_owned(),
        unit: "ns",
        better: Better::Lower,
        goal: None,
    };
    let direct = vec![Contender::beside("direct", || Ok(Trial::of(direct_calls())))];
    report.rows.push(measure_row(options, plan, direct)?);
    Ok(())
}

fn lease_reads(options: &Options) -> Result<Trial, String> {
    let setup = Setup { lease: LeasePolicy::LeaseReads, ..Setup::in_memory(Link::Memory(MemoryNetwork::new())) };
    let cluster = Cluster::start(options, &setup)?;
    let node = cluster.leader();
    let through = client_runtime(options)?.block_on(async {
        let (mut reads, mut begun) = (0_u64, Instant::now());
        let end = begun + options.warmup + options.measure;
        let mut warm = false;
        while Instant::now() < end {
            if !warm && begun.elapsed() > options.warmup {
                (reads, begun, warm) = (0, Instant::now(), true);
            }
            for _ in 0..READS {
                let seen = node.read(ReadPolicy::LeaseRead, |machine| machine.applied).await;
                black_box(seen.map_err(|error| format!("a read was refused: {error}"))?);
            }
            reads += u64::from(READS);
        }
        Ok::<_, String>(begun.elapsed().as_nanos() as f64 / reads as f64)
    })?;
    Ok(Trial::of(through - direct_calls()))
}

/// Nanoseconds of the same closure, called.
fn direct_calls() -> f64 {
    let mut machine = Machine::default();
    machine.apply(Raw::default());
    let look = |machine: &Machine| machine.applied;
    let begun = Instant::now();
    for _ in 0..READS * 100 {
        black_box(look(black_box(&machine)));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(READS * 100)
}

/// Reads by read index, beside puts of the same cluster, and beside OpenRaft's.
pub(crate) fn l2(options: &Options, report: &mut Report) -> Result<(), String> {
    let (version, settings) = openraft::about(options);
    report.versions.push(version);
    report.settings.extend([library::about(), settings]);
    report.settings.push("three nodes in this process, in memory; openraft's side is ensure_linearizable with ReadIndex, without a look at the state".to_owned());
    for clients in [64, 1024] {
        let load = Load::in_process(clients);
        let plan = |beside: &str, must| RowPlan {
            id: "L2",
            what: format!("{clients} clients, beside {beside}"),
            unit: "reads/s",
            better: Better::Higher,
            goal: Some(Goal::Ratio { must, aim: must }),
        };
        let look = |node| Look { node, policy: ReadPolicy::ReadIndex };
        let reads = || library::in_memory(options, &MemoryNetwork::new(), load, look);
        let puts = || library::in_memory(options, &MemoryNetwork::new(), load, Put::new);
        let best = their_best(options, report, load, openraft::Look, |trial| trial.value)?;
        let theirs = || openraft::trial(&best, load, openraft::Look);
        let limit = || echo::trial(options, load);
        let own =
            vec![Contender::ours("reads", reads), Contender::beside("puts", puts), Contender::limit("echo", limit)];
        report.rows.push(measure_row(options, plan("own puts", 2.0), own)?);
        let other = vec![
            Contender::ours("quorate", reads),
            Contender::beside("openraft", theirs),
            Contender::limit("echo", limit),
        ];
        report.rows.push(measure_row(options, plan("openraft", 3.0), other)?);
    }
    Ok(())
}
