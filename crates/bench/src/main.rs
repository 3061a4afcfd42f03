//! Benchmarks of Quorate beside its opponents: `cargo run --release -p quorate-bench -- TABLE`.
//!
//! Every figure is a ratio inside one run on one machine. Both sides do the same work, with the same clients and the
//! same threads; their trials alternate, so that a machine that slows down slows down both. The clock stops at the
//! client: an operation counts when its caller has the answer.
//!
//! In reading order: `tables.rs` (what there is), `apart.rs` (each of several in a process
//! of its own), `measure` (clients, clocks, pairs), `rows` (one scenario a file),
//! `sides` (what is measured: Quorate, its opponents, the limits), `report` (text, JSON, chart, the page).

mod apart;
mod args;
mod measure;
mod report;
mod rows;
mod sides;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Options, Task};
use report::Report;
use tables::Table;

fn main() -> ExitCode {
    let words: Result<Vec<String>, _> = std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let words = match words {
        Ok(words) => words,
        Err(word) => {
            eprintln!("quorate-bench: {} is not UTF-8", word.display());
            return ExitCode::from(2);
        }
    };
    if words.first().is_some_and(|word| word == sides::servers::NODE) {
        // A node of a cluster that a durable row has started: this same binary, as the server.
        return sides::servers::serve(words);
    }
    if words.first().is_some_and(|word| word == rows::entries::OPENER) {
        // What C4 measures.
        return rows::entries::serve(&words);
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

/// Measures what was asked for, and writes each table down as soon as it is done.
fn run(options: &Options, words: &str) -> Result<(), String> {
    match options.tables[..] {
        [table] => run_one(table, options, words),
        _ => apart::measure(options),
    }
}

fn run_one(table: &Table, options: &Options, words: &str) -> Result<(), String> {
    println!("== {}: {}", table.id, table.what);
    let (asked, options) = (options.rate, &table.options(options));
    if asked.is_some() && options.rate.is_none() {
        eprintln!("quorate-bench: {} has no open loop, and is measured without --rate", table.id);
    }
    // What cannot be written is better known now than after minutes of measuring.
    for (path, ending) in [(&options.json, "json"), (&options.svg, "svg")] {
        place(path.as_deref(), table, ending)?;
    }
    let mut report = Report::new(table, options, words);
    let outcome = measure(table, options, &mut report);
    if let Err(problem) = &outcome {
        apart::clear(&options.dir, std::process::id());
        if report.rows.is_empty() {
            return outcome;
        }
        // A row takes minutes: those that are whole are kept.
        report.caveats.push(format!("what comes after these rows, which was NOT MEASURED: {problem}"));
    }
    println!("\n{}", report::text::table(&report));
    write(options.json.as_deref(), table, "json", &report.to_json()?)?;
    write(options.svg.as_deref(), table, "svg", &report::svg::chart(&report))?;
    outcome
}

/// Adds the table's rows to the report: if it fails, those before the one that failed.
fn measure(table: &Table, options: &Options, report: &mut Report) -> Result<(), String> {
    if table.durable {
        report.disk.push(measure::disk::probe(&options.dir)?);
    }
    let outcome = (table.run)(options, report);
    if !table.durable {
        return outcome;
    }
    let after = measure::disk::probe(&options.dir).map(|found| report.disk.push(found));
    // The disk may have failed both: what the table says names the row.
    outcome.and(after)
}

/// Writes to `path`, or to a file of the table's own below it.
fn write(path: Option<&Path>, table: &Table, ending: &str, text: &str) -> Result<(), String> {
    let Some(file) = place(path, table, ending)? else { return Ok(()) };
    std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// The file to write, in a directory that is there.
fn place(path: Option<&Path>, table: &Table, ending: &str) -> Result<Option<PathBuf>, String> {
    let Some(path) = path else { return Ok(None) };
    let is_directory = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let file = if is_directory { apart::file_in(path, table, ending) } else { path.to_owned() };
    if let Some(above) = file.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(|error| format!("cannot make {}: {error}", above.display()))?;
    }
    match file.is_dir() {
        true => Err(format!("cannot write {}: it is a directory", file.display())),
        false => Ok(Some(file)),
    }
}
