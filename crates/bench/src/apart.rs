//! Several tables: each in a process of its own, so that none meets the memory and the threads that another one left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Options;
use crate::sides::processes::{ended_with_us, own_program};
use crate::tables::Table;

/// How often it is looked whether a table is done: no work, beside minutes of measuring.
const LOOK: Duration = Duration::from_millis(200);

/// Measures one after the other, whatever becomes of the others.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let mut failed = Vec::new();
    for table in &options.tables {
        if let Err(problem) = measure_one(table, options) {
            eprintln!("quorate-bench: {} was NOT MEASURED, or not whole: {problem}", table.id);
            failed.push(table.id);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured, or not whole: {}", failed.join(", "))) }
}

fn measure_one(table: &Table, options: &Options) -> Result<(), String> {
    let mut command = ended_with_us(&own_program());
    command.args(words(table, options)).stdin(Stdio::null());
    let mut process = command.spawn().map_err(|error| format!("cannot start its process: {error}"))?;
    match ended_within(&mut process, options.deadline)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            clear(&options.dir, process.id());
            Err(format!("its process ended with {status}"))
        }
        None => {
            // Fails only if it is gone; its nodes end with it.
            let _ = process.kill();
            let _ = process.wait();
            clear(&options.dir, process.id());
            Err(format!("it was not done after {:?} and was ended", options.deadline))
        }
    }
}

/// The command line of one table: as this one's, but for what belongs to all.
fn words(table: &Table, options: &Options) -> Vec<String> {
    let mut words = vec![table.id.to_owned()];
    words.extend_from_slice(&options.words);
    for (option, directory, ending) in [("--json", &options.json, "json"), ("--svg", &options.svg, "svg")] {
        if let Some(directory) = directory {
            words.extend([option.to_owned(), file_in(directory, table, ending).display().to_string()]);
        }
    }
    words
}

/// A table's file in the directory of several.
pub(crate) fn file_in(directory: &Path, table: &Table, ending: &str) -> PathBuf {
    directory.join(format!("{}.{ending}", table.id))
}

fn ended_within(process: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, String> {
    let begun = Instant::now();
    loop {
        match process.try_wait().map_err(|error| format!("cannot wait for its process: {error}"))? {
            Some(status) => return Ok(Some(status)),
            None if begun.elapsed() >= limit => return Ok(None),
            // Nothing tells of its end, or of the limit, whichever comes first; what is measured is measured in there.
            None => thread::sleep(LOOK),
        }
    }
}

/// Removes what a process that was ended, or failed, left here, gigabytes perhaps: tables put its number into the names
/// of their files.
pub(crate) fn clear(dir: &Path, pid: u32) {
    let pid = pid.to_string();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().split(['-', '.']).any(|part| part == pid) {
            // What cannot be removed stays: the next table says so if it misses the space.
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::args::{Task, parse};

    #[test]
    fn a_table_has_a_command_of_its_own() {
        let line = "memory --pairs 3 --json docs/benchmarks --deadline 5 D1 --svg charts/ --seconds 1";
        let Task::Run(options) = parse(line.split(' ').map(str::to_owned)).unwrap() else { panic!("nothing to run") };
        let last = options.tables.last().unwrap();
        let own = words(last, &options).join(" ");
        assert_eq!(own, "D1 --pairs 3 --seconds 1 --json docs/benchmarks/D1.json --svg charts/D1.svg");
    }

    #[test]
    fn a_process_that_does_not_end_is_not_waited_for() {
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        assert_eq!(ended_within(&mut sleeper, Duration::ZERO), Ok(None));
        sleeper.kill().unwrap();
        let status = ended_within(&mut sleeper, Duration::from_secs(60)).unwrap().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn only_what_bears_the_number_of_a_process_is_cleared() {
        let dir = std::env::temp_dir().join(format!("quorate-bench-apart-{}", std::process::id()));
        for name in ["r1-41", "Etcd-41-7000", "r1-141", "other"] {
            fs::create_dir_all(dir.join(name).join("below")).unwrap();
        }
        fs::write(dir.join("sendfile-41.received"), "a state").unwrap();
        clear(&dir, 41);
        let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "r1-141"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
