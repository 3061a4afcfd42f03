//! Service after everything healed: what a cluster must answer, and that no node owes anybody an answer.

use crate::history::Nanos;
use crate::workload::Workload;
use crate::world::World;

/// Operations, by what they show of a cluster. A stale read shows nothing: any node serves it, though it has heard of
/// nobody for days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// All writes.
    pub(crate) writes: u64,
    /// Those of them that belonged to a session.
    pub(crate) session_writes: u64,
    /// Linearizable reads.
    pub(crate) reads: u64,
}

/// What is to be shown once everything healed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// What was served before, as far as it is known that clients are served again.
    before: Service,
    operations: u64,
}

/// So many election timeouts may it take until a log has grown as far as any did, and all of it is applied.
const GROWING: u32 = 600;
/// So many election timeouts after a node has all that there is, whoever waits there is answered: a read that its leader
/// never answered is refused after two of the longest.
const ANSWERING: u32 = 8;

/// While it is still to be shown that clients are served, so many begin at once.
const PROBES: u64 = 8;
/// The least time between two such beginnings: an eighth of an election timeout. It doubles each time up to eight of those.
const PACE: u32 = 8;
/// Of what clients ask for, this may take others than those who are there.
const NO_SESSION: &str = "no write of a session";
/// How often clients were made to begin, once everything healed.
const PROBED: &str = "probes of service";
/// So many at once while a log has to grow: about what a connection carries in a pace.
const MOST_GROWTH: u64 = 64;

impl<W: Workload> World<W> {
    /// From now on it is to be shown that clients are served.
    pub(crate) fn want_service(&mut self) {
        self.wanted = Some(Wanted { before: self.clients.served, operations: self.clients.acknowledged });
        self.start_sessions();
    }

    /// Of what clients ask for, this is not shown to be served since everything healed: writes, those of sessions,
    /// linearizable reads.
    pub(crate) fn lacks_service(&self) -> Option<&'static str> {
        let Wanted { before, operations } = self.wanted?;
        let (begun, served) = (self.clients.begun, self.clients.served);
        let lacks = |begun, served, before| begun > 0 && served == before;
        if lacks(begun.writes, served.writes, before.writes) {
            Some("no write")
        } else if self.waits_for_a_session() {
            Some(NO_SESSION)
        } else if lacks(begun.reads, served.reads, before.reads) {
            Some("no linearizable read")
        } else if self.clients.acknowledged == operations {
            Some("no operation")
        } else {
            None
        }
    }

    /// Whether it is still to be shown that sessions are served.
    pub(crate) fn waits_for_a_session(&self) -> bool {
        let since = |wanted: Wanted| self.clients.served.session_writes > wanted.before.session_writes;
        self.clients.sessions.are_used() && self.clients.begun.writes > 0 && !self.wanted.is_none_or(since)
    }

    /// Clients begin so many more operations; with every call others come first. Only those that have a session, if nothing
    /// but that is lacking.
    pub(crate) fn begin(&mut self, operations: u64) {
        self.clients.limit = self.clients.asked + operations;
        let clients = self.options.clients;
        self.clients.first = (self.clients.first + 1) % clients.max(1);
        let sessions_only = self.lacks_service() == Some(NO_SESSION);
        for client in 0..clients {
            let client = (self.clients.first + client) % clients;
            if !sessions_only || self.clients.sessions.is_open(client) {
                self.on_client(client);
            }
        }
        self.settle();
    }

    /// Clients begin some operations now and then, until all that they ask for is served.
    pub(crate) fn probe(&mut self, until: Nanos) {
        let least = self.nanos(1) / u64::from(PACE);
        let mut pace = least;
        while self.lacks_service().is_some() && self.now < until && self.violation.is_none() {
            let next = until.min(self.now + pace);
            pace = (pace * 2).min(least * u64::from(PACE));
            self.begin(PROBES);
            self.counters.add(PROBED, 1);
            self.run_until(until, |world| {
                world.lacks_service().is_none() || world.now >= next && !world.clients.is_busy()
            });
        }
    }

    /// A call that a node did not answer, though it runs. A write may wait for ever where nobody sends what is committed.
    pub(crate) fn owed(&self, writes_only: bool) -> Option<String> {
        let members = self.members();
        let must = |at: usize| {
            let place = &self.places[at];
            place.running.is_some() && place.paused_until.is_none() && members.contains(&place.id)
        };
        let node = |at: usize| self.places[at].id;
        let mut clients = self.clients.owed().filter(|(at, _, write)| must(*at) && (*write || !writes_only));
        if let Some((at, op, _)) = clients.next() {
            return Some(format!("node {} never answers operation {op}", node(at)));
        }
        if let Some(at) = self.clients.sessions.owed().find(|at| must(*at)) {
            return Some(format!("node {} never answers what a client asked about its session", node(at)));
        }
        // Whoever leads no more, also as a member no more, gives up what it was asked to do.
        let runs = |at: usize| self.places[at].running.is_some() && self.places[at].paused_until.is_none();
        let (at, what) = self.operator.owed().find(|(at, _)| !writes_only && runs(*at))?;
        Some(format!("node {} never answers the operator: {what}", node(at)))
    }

    /// Whoever asked is answered by every node that runs: how it ended, or that this is not known. What became of an
    /// entry that a leader lost is known to its node when another one is committed in its place. So the log grows until
    /// it is as long as any ever was.
    pub(crate) fn answer_everybody(&mut self) {
        let furthest = self.invariants.furthest();
        let until = self.now + self.nanos(GROWING);
        let mut grown = false;
        while self.violation.is_none() && self.now < until && self.owed(true).is_some() {
            let Some(leader) = self.leader().and_then(|at| self.places[at].running.as_ref()) else { break };
            if leader.node.core().last_log_id().index >= furthest {
                break;
            }
            grown = true;
            let lacks = furthest - leader.node.core().last_log_id().index;
            let next = until.min(self.now + self.nanos(1) / u64::from(PACE));
            self.begin(lacks.clamp(PROBES, MOST_GROWTH));
            self.counters.add(PROBED, 1);
            self.run_until(until, |world| world.now >= next && !world.clients.is_busy());
        }
        self.clients.limit = self.clients.asked;
        if grown {
            self.run_until(until, |world| {
                world.events.is_multiple_of(16) && !world.clients.is_busy() && world.is_converged()
            });
        }
        let patience = self.now + self.nanos(ANSWERING);
        self.run_until(patience, |world| world.events.is_multiple_of(16) && world.owed(false).is_none());
        if let Some(owed) = self.owed(false).filter(|_| self.violation.is_none()) {
            self.fail(format!("liveness: {owed}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::trial::{cluster, elapse, serve, stop};

    #[test]
    fn a_write_is_owed_until_its_node_knows_what_became_of_it() {
        let mut world = cluster(3);
        serve(&mut world, 8);
        assert_eq!(world.owed(false), None);
        let old = world.leader().expect("it leads");
        (0..3).filter(|at| *at != old).for_each(|at| {
            world.net.cut(old, at);
            world.net.cut(at, old);
        });
        // Nobody but the old leader is asked, and nothing that it appends is committed.
        world.clients.set_leader(Some(world.places[old].id));
        while world.clients.owed().filter(|(at, _, write)| *at == old && *write).count() < 8 {
            // Each is proposed for itself.
            world.begin(1);
        }
        world.clients.limit = world.clients.asked;
        elapse(&mut world, 20);
        assert_ne!(world.leader(), Some(old), "somebody else leads");
        let owed = world.owed(true);
        assert!(owed.is_some_and(|owed| owed.contains(&format!("node {}", old + 1))), "it knows nothing yet");
        // Everybody is reached again.
        world.net.heal();
        elapse(&mut world, 30);
        world.answer_everybody();
        assert_eq!(world.violation, None, "it is answered once something is committed in its place");
    }

    #[test]
    fn what_the_operator_asked_for_and_has_no_answer_to_is_a_violation() {
        let mut world = cluster(3);
        world.expect_an_answer(1);
        world.answer_everybody();
        assert_eq!(world.violation.as_deref(), Some("liveness: node 2 never answers the operator: a call"));
    }

    #[test]
    fn nobody_answers_for_a_process_that_is_gone() {
        let mut world = cluster(3);
        world.expect_an_answer(1);
        stop(&mut world, 1);
        world.answer_everybody();
        assert_eq!(world.violation, None);
    }

    #[test]
    fn a_stale_read_is_no_service() {
        let mut world = cluster(3);
        world.want_service();
        (world.clients.begun.writes, world.clients.begun.reads) = (1, 1);
        world.clients.acknowledged += 1;
        assert_eq!(world.lacks_service(), Some("no write"));
        world.clients.served.writes += 1;
        let sessions = world.clients.sessions.are_used();
        assert_eq!(world.waits_for_a_session(), sessions);
        world.clients.served.session_writes += 1;
        assert_eq!(world.lacks_service(), Some("no linearizable read"));
        world.clients.served.reads += 1;
        assert_eq!(world.lacks_service(), None);
    }
}
