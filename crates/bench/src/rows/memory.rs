//! M1 to M8: puts into three nodes of one process, logs in memory, no sockets, beside OpenRaft; the limit is a bare
//! channel that answers without any consensus.

use quorate::MemoryNetwork;

use crate::args::Options;
use crate::measure::{Client, Contender, Goal, Load, RowPlan, Trial, allocations, measure_row, measure_row_and_count};
use crate::report::{Better, Report};
use crate::sides::{echo, library, openraft};

/// Puts a second of M2's open loop: a tenth of what the slower side does in a closed one on two cores.
const OPEN_RATE: f64 = 50_000.0;

/// Who steps the followers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Tasks of the server threads.
    Tasks,
    /// The thread that proposes.
    Fused,
}

pub(crate) fn m1(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "M1", 1, Form::Tasks, (2.0, 3.0))?;
    puts(options, report, "M1", 1, Form::Fused, (20.0, 100.0))
}

pub(crate) fn m2(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "M2", 64, Form::Tasks, (2.0, 2.7))?;
    puts(options, report, "M2", 64, Form::Fused, (4.0, 6.0))?;
    if options.rate.is_some() {
        return Ok(());
    }
    let open = Options { rate: Some(OPEN_RATE), ..options.clone() };
    puts(&open, report, "M2", 64, Form::Tasks, (2.0, 2.7))
}

pub(crate) fn m3(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "M3", 256, Form::Tasks, (2.5, 4.0))
}

pub(crate) fn m4(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "M4", 1024, Form::Tasks, (2.5, 4.0))
}

pub(crate) fn m5(options: &Options, report: &mut Report) -> Result<(), String> {
    puts(options, report, "M5", 4096, Form::Tasks, (2.5, 4.0))
}

fn network(form: Form) -> MemoryNetwork {
    match form {
        Form::Tasks => MemoryNetwork::new(),
        Form::Fused => MemoryNetwork::fused(),
    }
}

fn say_opponent(options: &Options, report: &mut Report) {
    let (version, settings) = openraft::about(options);
    if !report.versions.contains(&version) {
        report.versions.push(version);
        report.settings.extend([library::about(), settings]);
    }
}

/// The options with what suits OpenRaft best under this load; the report tells what that is.
pub(super) fn their_best<C: Client>(
    options: &Options,
    report: &mut Report,
    load: Load<'_>,
    client: impl Fn(openraft::Node) -> C,
    worth: impl Fn(&Trial) -> f64,
) -> Result<Options, String> {
    let (best, said) = openraft::at_its_best(options, load, client, worth)?;
    if !report.settings.contains(&said) {
        report.settings.push(said);
    }
    Ok(best)
}

fn puts(
    options: &Options,
    report: &mut Report,
    id: &str,
    clients: usize,
    form: Form,
    (must, aim): (f64, f64),
) -> Result<(), String> {
    say_opponent(options, report);
    let fused = if form == Form::Fused { ", fused" } else { "" };
    let what = format!("{clients} {}{fused}", if clients == 1 { "client" } else { "clients" });
    let goal = Some(Goal::Ratio { must, aim });
    let plan = RowPlan { id, what, unit: "put/s", better: Better::Higher, goal };
    let load = Load::in_process(clients);
    let best = their_best(options, report, load, openraft::Put, |trial| trial.value)?;
    let mut sides = vec![
        Contender::ours("quorate", || library::in_memory(options, &network(form), load, library::Put::new)),
        Contender::beside("openraft", || openraft::trial(&best, load, openraft::Put)),
    ];
    match form {
        Form::Tasks => sides.push(Contender::limit("echo", || echo::trial(options, load))),
        Form::Fused => {
            report.caveats.push("a limit of the fused form: its puts cross no channel, the echo's do".to_owned());
        }
    }
    report.rows.push(measure_row_and_count(options, plan, sides)?);
    Ok(())
}

/// Batches: many entries a call.
pub(crate) fn m6(options: &Options, report: &mut Report) -> Result<(), String> {
    say_opponent(options, report);
    report.settings.push("batches by client_write_many on both sides, every answer taken; latencies are a batch's; the echo answers a batch with one answer".to_owned());
    // Each call's: in a trial a client makes few of those with 64 entries.
    let load = Load { sample_every: 1, ..Load::in_process(4096) };
    for entries in [4_usize, 64] {
        let plan = RowPlan {
            id: "M6",
            what: format!("4096 clients, batches of {entries}"),
            unit: "entries/s",
            better: Better::Higher,
            goal: Some(Goal::Ratio { must: 3.0, aim: 6.0 }),
        };
        let ours = |node| library::Many { node, entries };
        let theirs = |node| openraft::Many { node, entries };
        let best = their_best(options, report, load, theirs, |trial| trial.value)?;
        let row = measure_row(
            options,
            plan,
            vec![
                Contender::ours("quorate", || library::in_memory(options, &network(Form::Tasks), load, ours)),
                Contender::beside("openraft", || openraft::trial(&best, load, theirs)),
                Contender::limit("echo", || echo::of_batches(options, load, entries)),
            ],
        )?;
        report.rows.push(row);
    }
    Ok(())
}

/// Processor time, clients included: theirs is the same on all sides.
pub(crate) fn m7(options: &Options, report: &mut Report) -> Result<(), String> {
    say_opponent(options, report);
    for (clients, must, aim) in [(1, 1.0 / 5.0, 1.0 / 20.0), (64, 1.0 / 3.0, 1.0 / 5.0), (4096, 1.0 / 2.0, 1.0 / 4.0)] {
        let load = Load::in_process(clients);
        let plan = RowPlan {
            id: "M7",
            what: format!("{clients} {}", if clients == 1 { "client" } else { "clients" }),
            unit: "CPU-ns/put",
            better: Better::Lower,
            goal: Some(Goal::Ratio { must, aim }),
        };
        let ours = || library::in_memory(options, &network(Form::Tasks), load, library::Put::new).map(by_cpu);
        let least = |trial: &Trial| -trial.cpu_ns.unwrap_or(f64::INFINITY);
        let best = their_best(options, report, load, openraft::Put, least)?;
        let row = measure_row(
            options,
            plan,
            vec![
                Contender::ours("quorate", ours),
                Contender::beside("openraft", || openraft::trial(&best, load, openraft::Put).map(by_cpu)),
                Contender::limit("echo", || echo::trial(options, load).map(by_cpu)),
            ],
        )?;
        report.rows.push(row);
    }
    Ok(())
}

/// Allocations of the whole process: the clients here make none of their own.
pub(crate) fn m8(options: &Options, report: &mut Report) -> Result<(), String> {
    say_opponent(options, report);
    report.caveats.push("a share of the limit: that of allocations is none at all".to_owned());
    allocations::count_them(true);
    for (clients, must, aim) in [(1, 1.0, 0.0), (4096, 0.1, 0.01)] {
        let load = Load::in_process(clients);
        let plan = RowPlan {
            id: "M8",
            what: format!("{clients} {}", if clients == 1 { "client" } else { "clients" }),
            unit: "allocations/put",
            better: Better::Lower,
            goal: Some(Goal::Value { must, aim }),
        };
        let ours = || library::in_memory(options, &network(Form::Tasks), load, library::Put::new).map(by_allocations);
        let row = measure_row(
            options,
            plan,
            vec![
                Contender::ours("quorate", ours),
                Contender::beside("openraft", || openraft::trial(options, load, openraft::Put).map(by_allocations)),
            ],
        );
        report.rows.push(row.inspect_err(|_| allocations::count_them(false))?);
    }
    allocations::count_them(false);
    Ok(())
}

fn by_cpu(trial: Trial) -> Trial {
    Trial { value: trial.cpu_ns.unwrap_or(f64::NAN), ..trial }
}

fn by_allocations(trial: Trial) -> Trial {
    Trial { value: trial.allocations.unwrap_or(f64::NAN), ..trial }
}
