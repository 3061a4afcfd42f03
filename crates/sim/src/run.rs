//! One run, from a seed to a report.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate::RaftStateMachine;
use quorate_core::NodeId;

use crate::check::Verdict;
use crate::counters::Counters;
use crate::edits::{Decision, Decisions};
use crate::fault::{Fault, FaultCounts};
use crate::goals::Goal;
use crate::history::{History, Nanos};
use crate::ledger::LedgerClients;
use crate::machine::{Watched, with_book};
use crate::options::Options;
use crate::record::{Moment, Recorder};
use crate::situations;
use crate::workload::Workload;
use crate::world::{MOST_EVENTS, Place, World};

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the run was like.
    pub options: Options,
    /// The hash of everything that happened, of what clients were told, and of every state, log and disk at the end.
    pub hash: u128,
    /// What was wrong, if something was.
    pub violation: Option<String>,
    /// Events that happened.
    pub events: u64,
    /// Checks of single claims that were made.
    pub checks: u64,
    /// Virtual time from the beginning to the end.
    pub time: Duration,
    /// The part of it in which some operation of a client was under way.
    pub busy: Duration,
    /// Operations that clients began.
    pub asked: u64,
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Commands that were committed and applied, each counted once.
    pub commands: u64,
    /// Leaderships.
    pub leaders: u64,
    /// Membership changes that were completed.
    pub changes: u64,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// Steps that the search for a linearization took; 0 with a workload of one's own.
    pub search_steps: u64,
    /// Whether that search was given up.
    pub undecided: bool,
    /// Whether the search in a history without an end was given up: of a cluster that lost too much to go on.
    pub undecided_without_end: bool,
    /// How many decisions of each kind were made, or left out.
    pub decisions: Decisions,
    /// What else was counted; a name that is new appears in every total by itself.
    pub counters: Counters,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.options)?;
        writeln!(
            f,
            "{} events, {} checks, {:.1?} of virtual time, {:.1?} of it under load",
            self.events, self.checks, self.time, self.busy
        )?;
        writeln!(
            f,
            "{} operations, {} answered, {} commands committed, {} leaders, {} membership changes, {} faults",
            self.asked,
            self.acknowledged,
            self.commands,
            self.leaders,
            self.changes,
            self.faults.total()
        )?;
        for (name, count) in self.counters.iter() {
            writeln!(f, "{name}: {count}")?;
        }
        for (given_up, what) in [(self.undecided, "history"), (self.undecided_without_end, "history without an end")] {
            if given_up {
                writeln!(f, "GIVEN UP: no order of its {what} was found, nor that there is none")?;
            }
        }
        write!(f, "trace hash {:032x}", self.hash)?;
        match &self.violation {
            Some(violation) => write!(f, "\nVIOLATION {violation}"),
            None => Ok(()),
        }
    }
}

/// Runs a seed with the default workload.
pub fn run_seed(seed: u64, trace: bool) -> (Report, History) {
    run_options(Options::of_seed(seed), trace)
}

/// Runs with these options and the default workload.
pub fn run_options(options: Options, trace: bool) -> (Report, History) {
    run_ledger(options, trace, MOST_EVENTS)
}

/// The same, and cut short, with a violation that says so, if it is not over after so many events: whoever looks for a
/// shorter run need not see the end of a longer one.
pub fn run_within(options: &Options, events: u64) -> Report {
    run_ledger(options.clone(), false, events.saturating_add(1).min(MOST_EVENTS)).0
}

fn run_ledger(options: Options, trace: bool, most_events: u64) -> (Report, History) {
    let clients = LedgerClients::new(options.reads, options.lease_reads, options.inline_applies);
    let clients = clients.max_age(options.election_timeout).freezing(options.frozen_snapshots);
    let (mut report, clients) = run_at_most(options, clients, trace, most_events);
    (report.search_steps, report.undecided) = (clients.steps, clients.undecided);
    report.undecided_without_end = clients.without_end.is_some_and(|found| found.verdict != Verdict::Linearizable);
    report.hash ^= clients.history.hash();
    report.counters.add(situations::TAKEN_IN_PART, clients.in_part);
    (report, clients.history)
}

/// Runs with these options and a workload, which is given back.
pub fn run<W: Workload>(options: Options, workload: W, trace: bool) -> (Report, W) {
    run_at_most(options, workload, trace, MOST_EVENTS)
}

/// What the cores of a run with the default workload meet, until it ends or fails; and how it failed.
pub(crate) fn recorded(options: Options) -> (Vec<Moment>, Option<String>) {
    let clients = LedgerClients::new(options.reads, options.lease_reads, options.inline_applies);
    let clients = clients.max_age(options.election_timeout).freezing(options.frozen_snapshots);
    let mut world = World::new(options, clients, false);
    let recorder = Recorder::default();
    world.recorder = Some(recorder.clone());
    world.play_caught();
    (recorder.take(), world.violation)
}

pub(crate) fn run_at_most<W: Workload>(options: Options, workload: W, trace: bool, most_events: u64) -> (Report, W) {
    let mut world = World::new(options, workload, trace);
    world.most_events = most_events;
    world.play_caught();
    if world.violation.is_none() {
        world.hash_the_end();
    }
    (world.report(), world.clients.workload)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

impl<W: Workload> World<W> {
    pub(crate) fn nanos(&self, timeouts: u32) -> Nanos {
        (self.options.election_timeout * timeouts).as_nanos() as u64
    }

    /// Plays; a panic is a violation.
    fn play_caught(&mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.play())) {
            self.violation.get_or_insert(format!("panic: {}", panic_text(&*panic)));
        }
    }

    /// Safety phase, in some runs one with a connected core, then everything heals and the cluster must serve and agree.
    fn play(&mut self) {
        self.boot_cluster();
        let begun = self.run_until(self.nanos(40), |world| world.leader().is_some());
        if !begun {
            return self.fail("liveness: no leader at the beginning");
        }
        self.start_clients();
        self.start_chaos();
        self.start_operator();
        let end = self.now + self.options.length.as_nanos() as u64;
        self.run_until(end, |world| world.clients.asked >= world.clients.limit && !world.clients.is_busy());
        if self.violation.is_none() {
            self.serve_in_a_core();
        }
        if self.violation.is_none() {
            self.heal_and_serve();
        }
        match self.options.beyond_budget {
            _ if self.violation.is_some() => {}
            false => {
                self.miss_the_end();
                self.converge();
            }
            true => self.check_beyond(),
        }
    }

    /// Beyond the budget nobody need serve. But what is served is right, and where nothing is, nobody contradicts
    /// anybody, and who is down is so for good.
    fn check_beyond(&mut self) {
        let patience = self.nanos(60);
        let converged = self.run_until(self.now + patience, |world| {
            world.events.is_multiple_of(16) && !world.clients.is_busy() && world.is_converged()
        });
        if self.violation.is_some() {
            return;
        }
        self.reach(if converged { Goal::BeyondServed } else { Goal::BeyondStuck });
        let checked = if converged { self.check_ends() } else { self.check_parts() };
        if let Err(violation) = checked.and_then(|()| self.check_halts()) {
            self.fail(violation);
        }
    }

    /// Nodes that applied the same entries have the same state, and none has what clients cannot have been told of, who
    /// were told what some order explains.
    pub(crate) fn check_parts(&mut self) -> Result<(), String> {
        self.check_session_tables()?;
        let mut states: BTreeMap<u64, (NodeId, u64, Vec<u8>)> = BTreeMap::new();
        for place in &self.places {
            let Some(running) = &place.running else { continue };
            self.invariants.check_whole(running.node.core())?;
            let state = running.node.machine(|machine: &Watched<W::Machine>, applied| {
                let mut bytes = Vec::new();
                machine.machine.snapshot(&mut bytes).map(|()| (applied.index, machine.chain, bytes))
            });
            let Some(Ok((applied, chain, bytes))) = state else { continue };
            let known = states.entry(applied).or_insert_with(|| (place.id, chain, bytes.clone()));
            if (known.1, &known.2) != (chain, &bytes) {
                return Err(format!("nodes {} and {} applied {applied} entries and differ", known.0, place.id));
            }
        }
        for (_, _, bytes) in states.values() {
            let machine = self.read_state(bytes)?;
            self.clients.workload.check_part(&machine)?;
        }
        self.clients.workload.check_without_end()
    }

    /// How many entries the node that lags most lacks.
    fn backlog(&self) -> u64 {
        let ends = self.places.iter().filter_map(|place| place.running.as_ref());
        let ends = ends.map(|running| running.node.core().last_log_id().index);
        ends.clone().max().unwrap_or(0) - ends.min().unwrap_or(0)
    }

    pub(crate) fn heal_and_serve(&mut self) {
        self.last_blow();
        self.say(|| "everything heals".to_owned());
        (self.chaos.over, self.chaos.healed) = (true, true);
        self.calm();
        for at in 0..self.places.len() {
            self.replace(at);
        }
        let led = self.wait_for_a_leader();
        if !led && self.options.beyond_budget {
            return;
        }
        if !led {
            return self.fail("liveness: no leader within 4 election timeouts after everything healed");
        }
        if let Some(lacking) = self.serve_again().filter(|_| !self.options.beyond_budget) {
            self.fail(format!("liveness: {lacking} is served after everything healed"));
        }
    }

    /// Clients are served again, and what is lacking of that in the end.
    pub(crate) fn serve_again(&mut self) -> Option<&'static str> {
        self.clients.limit = self.clients.asked;
        let patience = self.nanos(40);
        // Whoever waits for an answer gives up by then.
        self.run_until(self.now + patience, |world| !world.clients.is_busy());
        // A voter that lags, perhaps a new one, is first sent what it lacks, in windows that may hold one entry; clients
        // may give calls up until then, and make others.
        let until = self.now + patience + self.backlog() * self.options.latency.as_nanos() as u64 * 8;
        self.want_service();
        self.probe(until);
        let lacking = self.lacks_service();
        self.wanted = None;
        self.clients.limit = self.clients.asked;
        lacking
    }

    /// Every member of the cluster ends with the same state.
    pub(crate) fn converge(&mut self) {
        let patience = self.nanos(600);
        let converged = self.run_until(self.now + patience, |world| {
            world.events.is_multiple_of(16) && !world.clients.is_busy() && world.is_whole() && world.is_converged()
        });
        if self.violation.is_some() {
            return;
        }
        let ends = |world: &Self| Vec::from_iter((0..world.places.len()).map(|at| world.describe(at))).join("; ");
        if !converged && !self.is_converged() {
            return self.fail(format!("liveness: the nodes do not converge: {}", ends(self)));
        }
        if !converged && !self.is_whole() {
            return self.fail(format!("liveness: a node is not taken back, or lacks what it lost: {}", ends(self)));
        }
        self.answer_everybody();
        // What was under way until then, such as a change that takes its leader out, has its end as well.
        let settled = self.run_until(self.now + patience, |world| {
            world.events.is_multiple_of(16) && world.is_whole() && world.is_converged()
        });
        if self.violation.is_some() {
            return;
        }
        if !settled {
            return self.fail(format!("liveness: the nodes do not converge again: {}", ends(self)));
        }
        let checked = self.check_ends();
        if let Err(violation) = checked {
            self.fail(violation);
        }
    }

    fn describe(&self, at: usize) -> String {
        let place = &self.places[at];
        match &place.running {
            Some(running) => {
                let core = running.node.core();
                let (last, commit, applied) = (core.last_log_id(), core.commit(), core.applied());
                let lost = core.lost_entries().map(|lost| format!(" promises {}", lost.last)).unwrap_or_default();
                let lacks = if place.impaired { " impaired" } else { "" };
                let ends = format!("last {last} commit {commit} applied {applied}");
                format!("node {} {} {ends}{lost}{lacks}", place.id, core.state())
            }
            None => format!("node {} is down: {:?}", place.id, place.down),
        }
    }

    pub(crate) fn members(&self) -> Vec<NodeId> {
        let leader = self.leader().and_then(|at| self.places[at].running.as_ref());
        leader.map(|leader| leader.node.core().membership().nodes.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether every node that lost something was dealt with: it is what it was, or, if nobody wants it, no member.
    pub(crate) fn is_whole(&self) -> bool {
        let members = self.members();
        let matters = |id: NodeId| members.contains(&id) || self.options.wants(id);
        let promises = |place: &Place<W>| {
            place.running.as_ref().is_some_and(|running| running.node.core().lost_entries().is_some())
        };
        self.places.iter().filter(|place| matters(place.id)).all(|place| !place.impaired && !promises(place))
    }

    pub(crate) fn is_converged(&self) -> bool {
        let Some(leader) = self.leader().and_then(|at| self.places[at].running.as_ref()) else { return false };
        let end = leader.node.core().last_log_id();
        let members = self.members();
        self.places.iter().filter(|place| members.contains(&place.id)).all(|place| {
            let applied = place.running.as_ref().and_then(|running| running.node.machine(|_, applied| applied));
            applied == Some(end)
        })
    }

    fn check_ends(&mut self) -> Result<(), String> {
        self.check_session_tables()?;
        let members = self.members();
        let mut first: Option<(NodeId, u64, Vec<u8>)> = None;
        let mut end = None;
        for place in self.places.iter().filter(|place| members.contains(&place.id)) {
            let Some(running) = &place.running else { continue };
            self.invariants.check_whole(running.node.core())?;
            let state = running.node.machine(|machine: &Watched<W::Machine>, _| {
                let mut bytes = Vec::new();
                machine.machine.snapshot(&mut bytes).map(|()| (machine.chain, bytes))
            });
            let (chain, bytes) = match state {
                Some(Ok(state)) => state,
                Some(Err(error)) => return Err(format!("the state of node {} cannot be written: {error}", place.id)),
                None => return Err(format!("node {} has no state", place.id)),
            };
            match &first {
                None => {
                    end = Some(bytes.clone());
                    first = Some((place.id, chain, bytes));
                }
                Some((id, known, state)) if (*known, state) != (chain, &bytes) => {
                    return Err(format!(
                        "equal state: nodes {id} and {} applied the same entries and differ",
                        place.id
                    ));
                }
                Some(_) => {}
            }
        }
        let Some(bytes) = end else { return Err("nobody is left".to_owned()) };
        let machine = self.read_state(&bytes)?;
        self.clients.workload.check(&machine)
    }

    fn read_state(&self, bytes: &[u8]) -> Result<W::Machine, String> {
        self.clients.workload.restored(bytes).map_err(|error| format!("a state cannot be read: {error}"))
    }

    fn decided(&self) -> Decisions {
        let mut decisions = self.decisions;
        decisions.set(Decision::Message, self.net.suffered);
        decisions.set(Decision::Operation, self.clients.asked);
        decisions
    }

    fn report(&self) -> Report {
        let mut faults = self.counts.clone();
        faults.add(Fault::MachinePanic, with_book(|book| book.panics));
        let mut counters = self.counters.clone();
        with_book(|book| book.count(&mut counters));
        Report {
            options: self.options.clone(),
            hash: self.digest.value(),
            violation: self.violation.clone(),
            events: self.events,
            checks: self.invariants.checks,
            time: Duration::from_nanos(self.now),
            busy: Duration::from_nanos(self.busy),
            asked: self.clients.asked,
            acknowledged: self.clients.acknowledged,
            commands: with_book(|book| book.commands),
            leaders: self.invariants.leaders() as u64,
            changes: self.changes,
            faults,
            decisions: self.decided(),
            search_steps: 0,
            undecided: false,
            undecided_without_end: false,
            counters,
        }
    }
}
