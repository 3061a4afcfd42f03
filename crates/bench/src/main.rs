//! Benchmarks of Quorate beside its opponents: `cargo run --release -p quorate-bench -- TABLE`.
//!
//! Every figure is a ratio inside one run on one machine. Both sides do the same work, with the same clients and the
//! same threads; their trials alternate, so that a machine that slows down slows down both. The clock stops at the
//! client: an operation counts when its caller has the answer.
//!
//! In reading order: `tables.rs` (what there is), `measure` (clients, clocks, pairs), `rows` (one scenario a file),
//! `sides` (what is measured: Quorate, its opponents, the limits), `report` (text, JSON, chart, the page).

mod args;
mod measure;
mod report;
mod rows;
mod sides;
mod tables;

use std::path::Path;
use std::process::ExitCode;

use args::{Options, Task};
use report::Report;
use tables::Table;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == sides::servers::NODE) {
        // A node of a cluster that a durable row has started: this same binary, as the server.
        return sides::servers::serve(words);
    }
    let task = match args::parse(words.clone().into_iter()) {
        Ok(task) => task,
        Err(problem) => {
            eprintln!("quorate-bench: {problem}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    let outcome = match task {
        Task::Help => {
            println!("{}", args::HELP);
            Ok(())
        }
        Task::List => {
            tables::all().iter().for_each(|table| println!("{:<9} {:<9} {}", table.id, table.group, table.what));
            Ok(())
        }
        Task::Page(directory) => report::page::write(&directory),
        Task::Run(options) => run(&options, &words.join(" ")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("quorate-bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the tables that were asked for, one after the other, and writes each down as soon as it is done.
fn run(options: &Options, words: &str) -> Result<(), String> {
    let mut failed = Vec::new();
    for table in &options.tables {
        println!("== {}: {}", table.id, table.what);
        match measured(table, options, words) {
            Ok(report) => {
                println!("\n{}", report::text::table(&report));
                let several = options.tables.len() > 1;
                write(options.json.as_deref(), several, table, "json", &report.to_json()?)?;
                write(options.svg.as_deref(), several, table, "svg", &report::svg::chart(&report))?;
            }
            // The other tables may still be had.
            Err(problem) => {
                eprintln!("quorate-bench: {} was NOT MEASURED: {problem}", table.id);
                failed.push(table.id);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {}", failed.join(", "))) }
}

fn measured(table: &Table, options: &Options, words: &str) -> Result<Report, String> {
    let mut report = Report::new(table, options, words);
    if table.durable {
        report.disk.push(measure::disk::probe(&options.dir)?);
    }
    (table.run)(options, &mut report)?;
    if table.durable {
        report.disk.push(measure::disk::probe(&options.dir)?);
    }
    Ok(report)
}

/// Writes to `path`; of several tables, each to a file of its own below it.
fn write(path: Option<&Path>, several: bool, table: &Table, ending: &str, text: &str) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let is_directory = several || path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let file = if is_directory { path.join(format!("{}.{ending}", table.id)) } else { path.to_owned() };
    if let Some(above) = file.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(|error| format!("cannot make {}: {error}", above.display()))?;
    }
    std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
