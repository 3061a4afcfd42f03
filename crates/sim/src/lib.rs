//! A deterministic simulator of Quorate.
//!
//! It runs the production core, message and log formats, write-ahead log, driver and apply queue of a whole cluster in
//! one thread, on a virtual clock, network and disk, all from one seed: the same seed gives the same run, to the bit.
//! Faults of every kind happen on the way; after every event the claims of the protocol are checked, and at the end
//! of every run the cluster must heal, serve and agree.
//!
//! [`run_seed`] runs one seed with the default workload; [`run`] takes a [`Workload`] of your own, and so a state
//! machine of your own.

mod atlas;
mod builder;
mod chaos;
pub mod check;
mod clients;
mod core_phase;
mod counters;
mod digest;
mod disk;
mod edits;
mod fault;
mod goals;
mod golden;
mod halts;
pub mod history;
mod invariants;
mod latecomer;
mod ledger;
mod liveness;
mod machine;
pub mod matrix;
mod memberships;
mod musts;
#[cfg(feature = "mutants")]
pub mod mutants;
mod net;
mod operator;
mod options;
pub mod oracle;
mod process;
mod record;
mod recovery;
mod repair;
mod rng;
mod rules;
mod run;
mod schedule;
mod search;
mod service;
mod sessions;
mod shrink;
mod situations;
mod thorough;
#[cfg(test)]
mod trial;
mod variants;
mod workload;
mod world;

pub use builder::{AllTold, Simulation, Told, read};
pub use counters::{Counters, Total, Totals};
pub use digest::Digest;
pub use edits::{Decision, Decisions, Edits};
pub use fault::{Fault, FaultCounts, FaultSet};
pub use goals::Goal;
pub use golden::{Golden, golden};
pub use history::History;
pub use ledger::{FIRST_REGISTER, Ledger, LedgerClients, LedgerCommand, LedgerResponse};
pub use musts::Must;
pub use options::Options;
pub use rng::Rng;
pub use rules::RuleKind;
pub use run::{Report, run, run_options, run_seed, run_within};
pub use schedule::Schedule;
pub use search::{Search, Summary, search};
pub use shrink::{Shrunk, check_of, shrink};
pub use workload::{Asked, Invoked, LookAt, Op, Returned, Workload};
