//! What there is to be measured: one table a row of GOALS, "Speed", each with a command of its own.

use crate::args::Options;
use crate::report::Report;
use crate::rows::{failover, floor, memory, network, reads, recovery, servers, wal};

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
    /// What its figures do not say.
    pub(crate) caveats: &'static [&'static str],
    /// Adds its rows to the report.
    pub(crate) run: Run,
}

const IN_MEMORY: &[&str] = &[
    "anything about a network or a disk: three nodes of one process, logs in memory, commands without bytes",
    "what a state machine costs: both sides' only count",
];

const SERVERS: &[&str] = &[
    "anything about a real network: clients and members share one machine, its cores and its disk",
    "a share of the limit beyond one client: the limit supposes that every sync carries a write of every client",
];

const FLOOR: &[&str] = &["anything about a real network: the nodes are in one process and share one disk"];

const LOG: &[&str] = &["what replication and a state machine cost: this is the log alone, one group, one writer"];

const RECOVERY: &[&str] =
    &["how fast a state machine applies what was recovered", "a log after a crash: this one was closed"];

const FAILOVER: &[&str] = &[
    "a leader that is cut off or hangs: its connections stay, so the others wait for their election timeout",
    "failover with lease reads enabled, which wait for the lease to end",
];

const NETWORK: &[&str] = &["anything about a real network: loopback loses nothing and delays nothing"];

const TABLES: &[Table] = &[
    memory_table("M1", "in-memory puts, 1 client", memory::m1),
    memory_table("M2", "in-memory puts, 64 clients", memory::m2),
    memory_table("M3", "in-memory puts, 256 clients", memory::m3),
    memory_table("M4", "in-memory puts, 1024 clients", memory::m4),
    memory_table("M5", "in-memory puts, 4096 clients", memory::m5),
    memory_table("M6", "in-memory batches, 4096 clients", memory::m6),
    memory_table("M7", "processor time of an in-memory put", memory::m7),
    memory_table("M8", "allocations of an in-memory put", memory::m8),
    durable_table("D1", "durable puts beside etcd, 1 client", SERVERS, servers::d1),
    durable_table("D2", "durable puts beside etcd, 64 clients", SERVERS, servers::d2),
    durable_table("D3", "durable puts beside etcd, 1000 clients", SERVERS, servers::d3),
    durable_table("DR", "linearizable reads beside etcd", SERVERS, servers::dr),
    durable_table("D4", "latency of one durable put", FLOOR, floor::d4),
    durable_table("D5", "the log beside a raw loop on a recycled file", LOG, wal::d5),
    Table {
        id: "R1",
        group: "recovery",
        what: "recovery of a large log",
        durable: true,
        caveats: RECOVERY,
        run: recovery::r1,
    },
    Table { id: "R4", group: "recovery", what: "failover", durable: false, caveats: FAILOVER, run: failover::r4 },
    Table { id: "L1", group: "reads", what: "a lease read", durable: false, caveats: IN_MEMORY, run: reads::l1 },
    Table { id: "L2", group: "reads", what: "reads by read index", durable: false, caveats: IN_MEMORY, run: reads::l2 },
    Table {
        id: "NT",
        group: "network",
        what: "the transport on loopback",
        durable: false,
        caveats: NETWORK,
        run: network::tcp,
    },
    Table { id: "N2", group: "network", what: "what TLS costs", durable: false, caveats: NETWORK, run: network::n2 },
];

type Run = fn(&Options, &mut Report) -> Result<(), String>;

const fn memory_table(id: &'static str, what: &'static str, run: Run) -> Table {
    Table { id, group: "memory", what, durable: false, caveats: IN_MEMORY, run }
}

const fn durable_table(id: &'static str, what: &'static str, caveats: &'static [&'static str], run: Run) -> Table {
    Table { id, group: "durable", what, durable: true, caveats, run }
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
}
