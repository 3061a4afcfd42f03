//! What there is to be measured: one table a row of GOALS, "Speed", each with a command of its own.

use std::time::Duration;

use crate::args::Options;
use crate::report::Report;
use crate::rows::{
    curves, engines, entries, failover, floor, memory, network, opponents, overload, reads, recovery, servers,
    snapshot, wal,
};

/// One table.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name on the command line.
    pub(crate) id: &'static str,
    /// The name of all tables of its kind.
    pub(crate) group: &'static str,
    pub(crate) what: &'static str,
    /// Whether its figures depend on how fast the disk syncs.
    pub(crate) durable: bool,
    trial: Trial,
    /// Whether `--rate` means something to it: its trials are clients that may begin operations on time.
    open_loop: bool,
    /// Pairs of trials a row, unless `--pairs` says otherwise.
    pairs: usize,
    /// Measured time of one trial, unless `--seconds` says otherwise.
    measure: Duration,
    /// What its figures do not say.
    pub(crate) caveats: &'static [&'static str],
    /// Adds its rows to the report.
    pub(crate) run: Run,
}

/// What one trial is.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// Clients keep nodes busy for as long as `--seconds` says.
    Load,
    /// A loop of the table's own does, without such clients and nodes.
    Loop,
    /// This is done once, however long that takes.
    Once(&'static str),
    /// There is only one, as long as `--seconds` says.
    Stretch,
}

const IN_MEMORY: &[&str] = &[
    "anything about a network or a disk: three nodes of one process, logs in memory, commands without bytes",
    "what a state machine costs: both sides' only count",
];

const SERVERS: &[&str] = &[
    "anything about a real network: clients and members share one machine, its cores and its disk",
    "how near the limit is with more than one client: it supposes that every sync carries a write of every client, which nobody does who answers as soon as a write is durable",
];

const FLOOR: &[&str] = &["anything about a real network: the nodes are in one process and share one disk"];

const LOG: &[&str] = &["what replication and a state machine cost: this is the log alone, one group, one writer"];

const ENGINES: &[&str] = &[
    "what replication and a state machine cost: these are the logs alone",
    "the cost of a process: the other logs run in one of their own, driven by the same loop",
    "a share of the limit with 16 producers: no loop writes for a thousand groups what a log has to",
];

const RECOVERY: &[&str] =
    &["how fast a state machine applies what was recovered", "a log after a crash: this one was closed"];

const OPENED: &[&str] = &[
    "how fast a state machine applies what was recovered",
    "files that are not in the page cache: these were just written",
];

const STATES: &[&str] = &[
    "what it takes to walk a state in memory: this one is a count, and one block of 1 MiB that is written again and again",
    "other nodes and the way to them: the cluster has one",
];

const FAILOVER: &[&str] = &[
    "a leader that is cut off or hangs: its connections stay, so the others wait for their election timeout",
    "failover with lease reads enabled, which wait for the lease to end",
];

const NETWORK: &[&str] = &["anything about a real network: loopback loses nothing and delays nothing"];

/// A leak or a slow collapse is not seen in seconds; and a write is refused only after 5 s.
const OVERLOAD: Duration = Duration::from_secs(300);

const OPENING: Trial = Trial::Once("one opening");
const TRANSFER: Trial = Trial::Once("one transfer");
const KILL: Trial = Trial::Once("one kill in a fresh cluster");
const SNAPSHOT: Trial = Trial::Once("one snapshot");

const TABLES: &[Table] = &[
    memory_table("M1", "in-memory puts, 1 client", memory::m1),
    memory_table("M2", "in-memory puts, 64 clients", memory::m2),
    memory_table("M3", "in-memory puts, 256 clients", memory::m3),
    memory_table("M4", "in-memory puts, 1024 clients", memory::m4),
    memory_table("M5", "in-memory puts, 4096 clients", memory::m5),
    memory_table("M6", "in-memory batches, 4096 clients", memory::m6),
    closed(memory_table("M7", "processor time of an in-memory put", memory::m7)),
    closed(memory_table("M8", "allocations of an in-memory put", memory::m8)),
    closed(brief(table("OR", "opponents", "OpenRaft's settings", IN_MEMORY, opponents::openraft_settings))),
    durable_table("D1", "durable puts beside etcd, 1 client", SERVERS, servers::d1),
    durable_table("D2", "durable puts beside etcd, 64 clients", SERVERS, servers::d2),
    durable_table("D3", "durable puts beside etcd, 1000 clients", SERVERS, servers::d3),
    durable_table("DR", "linearizable reads beside etcd", SERVERS, servers::dr),
    closed(durable_table("D4", "latency of one durable put", FLOOR, floor::d4)),
    of(Trial::Loop, durable_table("D5", "the log beside a raw loop on a recycled file", LOG, wal::d5)),
    of(Trial::Loop, durable_table("D6", "the log beside other logs for many groups", ENGINES, engines::d6)),
    of(OPENING, on_disk(table("R1", "recovery", "recovery of a large log", RECOVERY, recovery::r1))),
    of(TRANSFER, on_disk(table("R2", "recovery", "transfer of a large snapshot", NETWORK, snapshot::r2))),
    of(KILL, on_disk(table("R4", "recovery", "failover", FAILOVER, failover::r4))),
    closed(table("L1", "reads", "a lease read", IN_MEMORY, reads::l1)),
    table("L2", "reads", "reads by read index", IN_MEMORY, reads::l2),
    table("NT", "network", "the transport on loopback", NETWORK, network::tcp),
    table("N2", "network", "what TLS costs", NETWORK, network::n2),
    of(
        Trial::Stretch,
        lasting(OVERLOAD, on_disk(table("OV", "scale", "more work than the disk takes", FLOOR, overload::ov))),
    ),
    on_disk(curve("C1", "durable puts by size of the command", FLOOR, curves::payloads)),
    curve("C2", "in-memory puts by number of clients", IN_MEMORY, curves::clients),
    curve("C3", "in-memory puts by number of nodes", IN_MEMORY, curves::nodes),
    of(OPENING, on_disk(curve("C4", "opening a log by number of entries", OPENED, entries::entries))),
    of(SNAPSHOT, on_disk(curve("C5", "snapshots by size of the state", STATES, curves::states))),
];

type Run = fn(&Options, &mut Report) -> Result<(), String>;

const fn table(
    id: &'static str,
    group: &'static str,
    what: &'static str,
    caveats: &'static [&'static str],
    run: Run,
) -> Table {
    let measure = Duration::from_secs(2);
    Table { id, group, what, durable: false, trial: Trial::Load, open_loop: true, pairs: 7, measure, caveats, run }
}

const fn memory_table(id: &'static str, what: &'static str, run: Run) -> Table {
    table(id, "memory", what, IN_MEMORY, run)
}

const fn durable_table(id: &'static str, what: &'static str, caveats: &'static [&'static str], run: Run) -> Table {
    on_disk(table(id, "durable", what, caveats, run))
}

/// Many points and no opponent: a few trials of each show a cliff.
const fn curve(id: &'static str, what: &'static str, caveats: &'static [&'static str], run: Run) -> Table {
    brief(table(id, "scale", what, caveats, run))
}

const fn brief(table: Table) -> Table {
    Table { pairs: 3, ..table }
}

/// Always a closed loop.
const fn closed(table: Table) -> Table {
    Table { open_loop: false, ..table }
}

const fn on_disk(table: Table) -> Table {
    Table { durable: true, ..table }
}

const fn of(trial: Trial, table: Table) -> Table {
    Table { trial, open_loop: matches!(trial, Trial::Load), ..table }
}

const fn lasting(measure: Duration, table: Table) -> Table {
    Table { measure, ..table }
}

impl Table {
    /// A run's options, with the table's own where the command line names none.
    pub(crate) fn options(&self, run: &Options) -> Options {
        let (pairs, measure) = (run.named.pairs.unwrap_or(self.pairs), run.named.measure.unwrap_or(self.measure));
        let rate = run.rate.filter(|_| self.open_loop);
        Options { pairs, measure, rate, ..run.clone() }
    }

    /// How many trials a row has, and what one is.
    pub(crate) fn trials(&self, options: &Options) -> String {
        let Options { pairs, measure, warmup, client_threads, server_threads, .. } = options;
        let timed = format!("{pairs} pairs of {measure:?} each, after {warmup:?} of warm-up");
        let threads = format!("{client_threads} client and {server_threads} server threads");
        match self.trial {
            Trial::Load => format!("{timed}; {threads}"),
            Trial::Loop => timed,
            Trial::Once(what) => format!("{pairs} trials a side; a trial is {what}, however long that takes"),
            Trial::Stretch => format!("one stretch of {measure:?}; {threads}"),
        }
    }
}

/// All of them, in the order of the page.
pub(crate) fn all() -> &'static [Table] {
    TABLES
}

/// The tables of this name or group; `all` are all.
pub(crate) fn named(name: &str) -> Vec<&'static Table> {
    TABLES.iter().filter(|table| table.id.eq_ignore_ascii_case(name) || table.group == name || name == "all").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_once() {
        for table in TABLES {
            assert_eq!(named(table.id).len(), 1, "{}", table.id);
            assert!(named(table.group).len() >= named(table.id).len());
        }
        assert_eq!(named("m4").len(), 1);
        assert_eq!(named("all").len(), TABLES.len());
        assert!(named("M99").is_empty());
    }

    #[test]
    fn the_command_line_goes_before_a_tables_own_settings() {
        let overload = named("OV")[0];
        let mut run = Options::default();
        assert_eq!((overload.options(&run).measure, overload.options(&run).pairs), (OVERLOAD, 7));
        assert_eq!(named("C4")[0].options(&run).pairs, 3);
        run.named.measure = Some(Duration::from_secs(1));
        assert_eq!(overload.options(&run).measure, Duration::from_secs(1));
    }

    #[test]
    fn a_rate_is_for_tables_of_clients_alone() {
        let run = Options { rate: Some(5_000.0), ..Options::default() };
        let rate = |id| named(id)[0].options(&run).rate;
        assert_eq!(["M2", "D1", "L2", "C1", "N2"].map(rate), [Some(5_000.0); 5]);
        // Bytes, appends and allocations are no latencies, whatever their unit ends with.
        assert_eq!(["M7", "M8", "L1", "D4", "D5", "D6", "R1", "R2", "OV"].map(rate), [None; 9]);
    }

    #[test]
    fn a_trial_is_what_the_table_says() {
        let options = Options::default();
        let trials = |id| named(id)[0].trials(&options);
        assert_eq!(trials("M1"), "7 pairs of 2s each, after 500ms of warm-up; 1 client and 2 server threads");
        assert_eq!(trials("D5"), "7 pairs of 2s each, after 500ms of warm-up");
        assert_eq!(trials("R1"), "7 trials a side; a trial is one opening, however long that takes");
        assert_eq!(trials("OV"), "one stretch of 2s; 1 client and 2 server threads");
    }
}
