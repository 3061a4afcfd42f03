//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::tables::{self, Table};

/// What `help` prints.
pub(crate) const HELP: &str = "\
usage: quorate-bench TABLE.. [options]     measures tables, by name (M1) or group (memory, durable, ..), or all;
                                           of several, each in a process of its own
       quorate-bench list                  says what tables there are
       quorate-bench page [DIRECTORY]      makes docs/benchmarks.md, and the README's table, of the
                                           JSON files there [docs/benchmarks]

Run it with --release, on a machine that does nothing else.

  --pairs N              interleaved pairs of trials                     [7; C1 to C5, OR: 3]
  --seconds S            measured time of one trial                      [2; OV: 300]
  --warmup S             time before the measurement begins              [0.5]
  --rate N               open loop: so many operations a second begin, whatever the answers take; the row is then
                         the 99th percentile of their latency [closed loop: each client waits for its answer]
  --deadline MINUTES     of several tables: what each may take until it is ended and the next begins    [20]
  --json FILE            the result; of several tables a directory
  --svg FILE             a chart of it; of several tables a directory
  --dir DIRECTORY        where durable rows keep their files             [target/bench]
  --bytes SIZE           what R1 and R2 move, and the most of C4 and C5: 4GiB, 256MiB, 4KiB at least   [4GiB]
  --client-threads N     worker threads of the clients' runtime          [1]
  --server-threads N     worker threads of the servers' runtime          [2]
  --openraft-network W   rpc: one append at a time; stream: pipelined    [each tried, with one server thread and with
                         all, before the pairs; the best of them is measured]
  --openraft-snapshot N  entries between its snapshots, 0 for never      [100000]
  --etcd PATH            the opponent's binary                           [etcd]
  --engines PATH         other logs, for D6 and R1, built by `cargo build --release` in tests/log-engines
                         [tests/log-engines/target/release/log-engines]";

/// Those with a value, which are all.
const OPTIONS: [&str; 15] = [
    "--pairs",
    "--seconds",
    "--warmup",
    "--rate",
    "--deadline",
    "--json",
    "--svg",
    "--dir",
    "--bytes",
    "--client-threads",
    "--server-threads",
    "--openraft-network",
    "--openraft-snapshot",
    "--etcd",
    "--engines",
];

/// Operations a second of an open loop: one that is due every nanosecond is begun by no machine.
const RATES: std::ops::RangeInclusive<f64> = 1.0..=1e9;
/// What tables may move: from the least point of C5 to what no disk holds.
const BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=1 << 60;
/// More than there are cores in a machine.
const MAX_THREADS: usize = 4096;

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Task {
    Help,
    List,
    /// The page, of the files in this directory.
    Page(PathBuf),
    Run(Box<Options>),
}

/// How OpenRaft's appends travel between its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appends {
    /// One `append_entries` at a time, as in OpenRaft's own minimal benchmark.
    Rpc,
    /// `stream_append` of the target, so that appends are pipelined.
    Stream,
}

/// What the command line names of the settings that some tables have of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) pairs: Option<usize>,
    pub(crate) measure: Option<Duration>,
}

/// One run's settings.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What is measured.
    pub(crate) tables: Vec<&'static Table>,
    /// Goes before what a table has of its own.
    pub(crate) named: Named,
    /// Pairs of trials a row.
    pub(crate) pairs: usize,
    /// Measured time of one trial.
    pub(crate) measure: Duration,
    /// Time before it.
    pub(crate) warmup: Duration,
    /// Operations begun a second, if the loop is open.
    pub(crate) rate: Option<f64>,
    /// Of several tables, how long one may take.
    pub(crate) deadline: Duration,
    pub(crate) json: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
    /// Where durable rows keep their files.
    pub(crate) dir: PathBuf,
    /// What R1 and R2 move.
    pub(crate) bytes: u64,
    /// Worker threads of the clients' runtime.
    pub(crate) client_threads: usize,
    /// Worker threads of the servers' runtime.
    pub(crate) server_threads: usize,
    /// How OpenRaft's nodes are joined, if it is said.
    pub(crate) openraft_appends: Option<Appends>,
    /// Entries between OpenRaft's snapshots; 0 is never.
    pub(crate) openraft_snapshot: u64,
    /// The opponent's binary.
    pub(crate) etcd: PathBuf,
    /// The program that has other logs in it.
    pub(crate) engines: PathBuf,
    /// The words of the command line that each of several tables gets too: not tables, files and the deadline.
    pub(crate) words: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            named: Named::default(),
            pairs: 7,
            measure: Duration::from_secs(2),
            warmup: Duration::from_millis(500),
            rate: None,
            deadline: Duration::from_secs(20 * 60),
            json: None,
            svg: None,
            dir: PathBuf::from("target/bench"),
            bytes: 4 << 30,
            client_threads: 1,
            server_threads: 2,
            openraft_appends: None,
            openraft_snapshot: 100_000,
            etcd: PathBuf::from("etcd"),
            engines: PathBuf::from("tests/log-engines/target/release/log-engines"),
            words: Vec::new(),
        }
    }
}

/// Reads the arguments.
pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut words = words.peekable();
    match words.peek().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => return Ok(Task::Help),
        Some("list") => return alone(words.skip(1), 0).map(|_| Task::List),
        Some("page") => {
            let named = alone(words.skip(1), 1)?;
            return Ok(Task::Page(named.map_or_else(|| PathBuf::from("docs/benchmarks"), PathBuf::from)));
        }
        Some(_) => {}
    }
    let mut options = Options::default();
    while let Some(word) = words.next() {
        if word == "--help" {
            return Ok(Task::Help);
        }
        if !word.starts_with("--") {
            let found = tables::named(&word);
            if found.is_empty() {
                return Err(format!("unknown table {word:?}; `quorate-bench list` says what there is"));
            }
            // A name and its group may both be given.
            let known: Vec<&str> = options.tables.iter().map(|table| table.id).collect();
            options.tables.extend(found.into_iter().filter(|table| !known.contains(&table.id)));
            continue;
        }
        if !OPTIONS.contains(&word.as_str()) {
            return Err(format!("unknown option {word}"));
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let bad = || format!("{word} cannot be {value:?}");
        if !["--json", "--svg", "--deadline"].contains(&word.as_str()) {
            options.words.extend([word.clone(), value.clone()]);
        }
        match word.as_str() {
            "--pairs" => options.named.pairs = Some(positive(&value).ok_or_else(bad)?),
            "--seconds" => options.named.measure = Some(seconds(&value).ok_or_else(bad)?),
            "--warmup" => options.warmup = seconds(&value).ok_or_else(bad)?,
            "--rate" => options.rate = Some(value.parse().ok().filter(|rate| RATES.contains(rate)).ok_or_else(bad)?),
            "--deadline" => {
                let minutes =
                    positive(&value).and_then(|minutes| u64::try_from(minutes).ok()).and_then(|m| m.checked_mul(60));
                options.deadline = minutes.map(Duration::from_secs).ok_or_else(bad)?;
            }
            "--json" => options.json = Some(value.into()),
            "--svg" => options.svg = Some(value.into()),
            "--dir" => options.dir = value.into(),
            "--bytes" => options.bytes = bytes(&value).ok_or_else(bad)?,
            "--client-threads" => options.client_threads = threads(&value).ok_or_else(bad)?,
            "--server-threads" => options.server_threads = threads(&value).ok_or_else(bad)?,
            "--openraft-snapshot" => options.openraft_snapshot = value.parse().map_err(|_| bad())?,
            "--openraft-network" => {
                options.openraft_appends = match value.as_str() {
                    "rpc" => Some(Appends::Rpc),
                    "stream" => Some(Appends::Stream),
                    _ => return Err(bad()),
                }
            }
            "--etcd" => options.etcd = value.into(),
            // `--engines`: they are all known.
            _ => options.engines = value.into(),
        }
    }
    if options.tables.is_empty() {
        return Err("no table was named".to_owned());
    }
    Ok(Task::Run(Box::new(options)))
}

/// At most one word, or none, behind a command.
fn alone(mut words: impl Iterator<Item = String>, most: usize) -> Result<Option<String>, String> {
    let named: Vec<String> = words.by_ref().take(most).collect();
    match words.next().or_else(|| named.iter().find(|word| word.starts_with('-')).cloned()) {
        Some(word) => Err(format!("{word:?} means nothing there")),
        None => Ok(named.into_iter().next()),
    }
}

fn threads(text: &str) -> Option<usize> {
    positive(text).filter(|threads| *threads <= MAX_THREADS)
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| *n > 0)
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (seconds > 0.0 && seconds <= 3600.0).then(|| Duration::from_secs_f64(seconds))
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| BYTES.contains(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Task, String> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let task = parse_words("M1 M4 --pairs 3 --seconds 0.5 --openraft-network rpc --bytes 16MiB --rate 5000");
        let Task::Run(options) = task.unwrap() else { panic!("nothing to run") };
        assert_eq!(options.tables.iter().map(|table| table.id).collect::<Vec<_>>(), ["M1", "M4"]);
        let named = Named { pairs: Some(3), measure: Some(Duration::from_millis(500)) };
        assert_eq!(options.named, named);
        assert_eq!((options.openraft_appends, options.bytes), (Some(Appends::Rpc), 16 << 20));
        assert_eq!(options.rate, Some(5000.0));

        assert_eq!(options.words.len(), 10);

        let Task::Run(options) = parse_words("M4 memory M1 --deadline 2").unwrap() else { panic!("nothing to run") };
        assert_eq!(options.tables.iter().filter(|table| ["M1", "M4"].contains(&table.id)).count(), 2);
        assert_eq!(options.deadline, Duration::from_secs(120));

        assert!(matches!(parse_words("help"), Ok(Task::Help)));
        assert!(matches!(parse_words("page"), Ok(Task::Page(directory)) if directory.ends_with("benchmarks")));
        assert!(parse_words("M1 --seconds -1").unwrap_err().contains("--seconds"));
        assert!(parse_words("M1 --pairs").unwrap_err().contains("needs a value"));
        assert!(parse_words("--pairs 3").unwrap_err().contains("no table"));
        assert!(parse_words("disk").unwrap_err().contains("disk"));
        for wrong in [
            "R1 --bytes 4GB",
            "R1 --bytes 1KiB",
            "R1 --bytes 8589934592GiB",
            "M2 --rate inf",
            "M2 --rate 1e300",
            "M2 --rate 0",
            "M2 --server-threads 1000000",
            "M2 --bogus",
        ] {
            let option = wrong.split(' ').nth(1).unwrap();
            assert!(parse_words(wrong).unwrap_err().contains(option), "{wrong}");
        }
        for wrong in ["list junk", "page a b", "page --help"] {
            assert!(parse_words(wrong).unwrap_err().contains("means nothing there"), "{wrong}");
        }
    }

    #[test]
    fn a_group_names_all_its_tables() {
        let Task::Run(options) = parse_words("memory").unwrap() else { panic!("nothing to run") };
        assert_eq!(options.tables.first().map(|table| table.id), Some("M1"));
        assert!(options.tables.iter().all(|table| table.group == "memory"));
    }
}
