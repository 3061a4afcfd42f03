//! The command line.

use std::time::Duration;

/// What `help` prints.
pub(crate) const HELP: &str = "\
usage: quorate-bench memory [options]

Puts into three nodes of one process, logs in memory, no sockets: Quorate beside OpenRaft, with a bare
channel echo as the limit. Run it with --release.

  --clients N,N,...      clients at once, each with one put in flight    [1,64,256,1024,4096]
  --pairs N              interleaved pairs of trials                     [7]
  --seconds S            measured time of one trial                      [2]
  --warmup S             time before the measurement begins              [0.5]
  --client-threads N     worker threads of the clients' runtime          [1]
  --server-threads N     worker threads of the servers' runtime          [2]
  --openraft-network W   rpc: one append at a time; stream: pipelined    [stream]
  --openraft-snapshot N  entries between its snapshots, 0 for never      [100000]";

/// How OpenRaft's appends travel between its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appends {
    /// One `append_entries` at a time, as in OpenRaft's own minimal benchmark.
    Rpc,
    /// `stream_append` of the target, so that appends are pipelined.
    Stream,
}

/// One run's settings.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Client counts, one row each.
    pub(crate) clients: Vec<usize>,
    /// Pairs of trials a row.
    pub(crate) pairs: usize,
    /// Measured time of one trial.
    pub(crate) measure: Duration,
    /// Time before it.
    pub(crate) warmup: Duration,
    /// Worker threads of the clients' runtime.
    pub(crate) client_threads: usize,
    /// Worker threads of the servers' runtime.
    pub(crate) server_threads: usize,
    /// How OpenRaft's nodes are joined.
    pub(crate) openraft_appends: Appends,
    /// Entries between OpenRaft's snapshots; 0 is never.
    pub(crate) openraft_snapshot: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: vec![1, 64, 256, 1024, 4096],
            pairs: 7,
            measure: Duration::from_secs(2),
            warmup: Duration::from_millis(500),
            client_threads: 1,
            server_threads: 2,
            openraft_appends: Appends::Stream,
            openraft_snapshot: 100_000,
        }
    }
}

/// Reads the arguments. `None` asks for the help text.
pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    match args.next().as_deref() {
        Some("memory") => {}
        None | Some("help" | "--help" | "-h") => return Ok(None),
        Some(other) => return Err(format!("unknown command {other:?}; there is only memory")),
    }
    let mut options = Options::default();
    while let Some(flag) = args.next() {
        if flag == "--help" {
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let bad = || format!("{flag} cannot be {value:?}");
        match flag.as_str() {
            "--clients" => {
                options.clients = value.split(',').map(positive).collect::<Option<Vec<_>>>().ok_or_else(bad)?;
            }
            "--pairs" => options.pairs = positive(&value).ok_or_else(bad)?,
            "--seconds" => options.measure = seconds(&value).ok_or_else(bad)?,
            "--warmup" => options.warmup = seconds(&value).ok_or_else(bad)?,
            "--client-threads" => options.client_threads = positive(&value).ok_or_else(bad)?,
            "--server-threads" => options.server_threads = positive(&value).ok_or_else(bad)?,
            "--openraft-snapshot" => options.openraft_snapshot = value.parse().map_err(|_| bad())?,
            "--openraft-network" => {
                options.openraft_appends = match value.as_str() {
                    "rpc" => Appends::Rpc,
                    "stream" => Appends::Stream,
                    _ => return Err(bad()),
                }
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(Some(options))
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| *n > 0)
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (seconds > 0.0 && seconds <= 3600.0).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Option<Options>, String> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = parse_words("memory --clients 1,1024 --pairs 3 --seconds 0.5 --openraft-network rpc");
        let options = options.unwrap().unwrap();
        assert_eq!(options.clients, [1, 1024]);
        assert_eq!(options.pairs, 3);
        assert_eq!(options.measure, Duration::from_millis(500));
        assert_eq!(options.openraft_appends, Appends::Rpc);

        assert!(parse_words("help").unwrap().is_none());
        assert!(parse_words("memory --clients 0").unwrap_err().contains("--clients"));
        assert!(parse_words("memory --seconds -1").unwrap_err().contains("--seconds"));
        assert!(parse_words("memory --pairs").unwrap_err().contains("needs a value"));
        assert!(parse_words("disk").unwrap_err().contains("disk"));
    }
}
