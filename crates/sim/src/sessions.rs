//! Sessions of clients: opened, kept alive, lost, closed; their commands are sent again, to any node, until they are
//! answered, and some after that. What a node may answer then is checked here; that nothing is applied twice, or lost,
//! the oracle sees in the state.
//!
//! Numbers, low mark and the interval of keep-alives are the library's own (`Serials`, `SessionOptions`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::advanced::sessions::{Serials, SessionRefusal};
use quorate::advanced::wire::{EntryKind, SESSION_HEADER_BYTES, SessionOpening, encode_session_ids};
use quorate::virtual_node::{Answer, CallId};
use quorate::{Payload, RaftStateMachine, SessionOptions};
use quorate_core::{LogId, NodeId};

use crate::clients::AnswerOf;
use crate::fault::Fault;
use crate::goals::Goal;
use crate::history::Nanos;
use crate::options::Options;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Event, World};

/// An errand is given up after so many attempts.
const MAX_TRIES: u32 = 12;

/// A command of a session.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) session: u64,
    pub(crate) serial: u64,
    /// The entry; its header says what the client knew when it was sent last.
    pub(crate) payload: Vec<u8>,
}

/// An open session.
struct Open {
    id: u64,
    serials: Serials,
    /// When the last command, or other entry, was first sent that the cluster answered: it lived then.
    active: Nanos,
}

/// A client that has sessions, one after the other.
struct Holder {
    options: SessionOptions,
    /// It does nothing to keep its sessions alive.
    lazy: bool,
    open: Option<Open>,
    /// Opening or closing.
    busy: bool,
    /// The last command that was answered.
    last: Option<(u64, Numbered)>,
}

/// What a client does beside its operations.
#[derive(Debug)]
enum Task {
    Open,
    Keep {
        session: u64,
    },
    Close {
        session: u64,
    },
    /// Sends a command again that was answered; `held`: its answer was not acknowledged.
    Echo {
        op: u64,
        held: bool,
        gone: bool,
    },
}

struct Errand {
    client: u32,
    task: Task,
    entry: EntryKind,
    command: Numbered,
    /// When the first attempt began: an answer may be to any.
    begun: Nanos,
    tries: u32,
    /// Where it is under way.
    at: Option<(usize, CallId)>,
}

/// All sessions of a run.
pub(crate) struct Sessions {
    holders: BTreeMap<u32, Holder>,
    errands: BTreeMap<u64, Errand>,
    /// Where each call of an errand is under way that was not answered, and the errand.
    calls: BTreeMap<CallId, (usize, u64)>,
    next_errand: u64,
    /// By operation: where its command was applied, and the encoded response.
    told: BTreeMap<u64, (LogId, Vec<u8>)>,
    /// Operations whose command was sent more than once: logs may hold several copies, of which one is applied.
    pub(crate) sent_again: BTreeSet<u64>,
}

impl Sessions {
    pub(crate) fn new(options: &Options) -> Self {
        let mut holders = BTreeMap::new();
        for client in 0..options.clients {
            let mut chance = Rng::new(options.seed, 8 + ((u64::from(client) + 1) << 16));
            if !chance.chance(options.sessions) {
                continue;
            }
            let life = options.election_timeout * *chance.pick(&[2, 6, 20, 200]);
            let in_flight = *chance.pick(&[1, 2, 4, 64]);
            let session = SessionOptions { time_to_live: life.max(Duration::from_secs(1)), max_in_flight: in_flight };
            let lazy = chance.chance(300);
            holders.insert(client, Holder { options: session, lazy, open: None, busy: false, last: None });
        }
        Self {
            holders,
            errands: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_errand: 0,
            told: BTreeMap::new(),
            sent_again: BTreeSet::new(),
        }
    }

    /// Numbers a command of this client, if it has a session with room for it; what is returned begins with room for
    /// the header.
    pub(crate) fn number(&mut self, client: u32) -> Option<Numbered> {
        let open = self.holders.get_mut(&client).filter(|holder| !holder.busy)?.open.as_mut()?;
        let serial = open.serials.take()?;
        Some(Numbered { session: open.id, serial, payload: vec![0; SESSION_HEADER_BYTES] })
    }

    /// Whether this client could write in a session now.
    pub(crate) fn is_open(&self, client: u32) -> bool {
        self.holders.get(&client).is_some_and(|holder| holder.open.is_some() && !holder.busy)
    }

    /// Whether some client has sessions.
    pub(crate) fn are_used(&self) -> bool {
        !self.holders.is_empty()
    }

    /// Where calls of errands are under way that were not answered.
    pub(crate) fn owed(&self) -> impl Iterator<Item = usize> + '_ {
        self.calls.values().map(|(at, _)| *at)
    }

    fn open(&mut self, client: u32, session: u64) -> Option<&mut Open> {
        self.holders.get_mut(&client)?.open.as_mut().filter(|open| open.id == session)
    }

    /// Writes the header as of now; a command of a session that is over keeps the one it had.
    pub(crate) fn head(&mut self, client: u32, command: &mut Numbered) {
        let (session, serial) = (command.session, command.serial);
        if let Some(open) = self.open(client, session) {
            open.serials.head(session, serial, &mut command.payload);
        } else if command.payload.starts_with(&[0; 8]) {
            // Never sent while the session was open: its own serial is all that the client still wants.
            let mut serials = Serials::new(serial, 1);
            serials.take();
            serials.head(session, serial, &mut command.payload);
        }
    }

    fn release(&mut self, client: u32, command: &Numbered) {
        if let Some(open) = self.open(client, command.session) {
            open.serials.release(command.serial);
        }
    }
}

impl<W: Workload> World<W> {
    pub(crate) fn start_sessions(&mut self) {
        let clients: Vec<u32> = self.clients.sessions.holders.keys().copied().collect();
        for client in clients {
            self.schedule(self.now, Event::Session(client));
        }
    }

    /// A client looks after its session.
    pub(crate) fn on_session(&mut self, client: u32) {
        self.digest.word(16 + u64::from(client) * 64);
        // Once everything healed, until it is seen that sessions are served.
        if self.chaos.over && !self.waits_for_a_session() {
            return;
        }
        let now = self.now;
        let (over, closes) = (self.options.election_timeout.as_nanos() as u64, self.clients.rng.chance(40));
        let closes = closes && !self.chaos.over;
        let Some(holder) = self.clients.sessions.holders.get_mut(&client) else { return };
        let keep = holder.options.keep_interval().as_nanos() as u64;
        let task = match &holder.open {
            _ if holder.busy => None,
            None => Some(Task::Open),
            Some(open) if closes => Some(Task::Close { session: open.id }),
            Some(open) if !holder.lazy && now >= open.active + keep => Some(Task::Keep { session: open.id }),
            Some(_) => None,
        };
        let mut payload = Vec::new();
        let entry = match &task {
            None | Some(Task::Echo { .. }) => EntryKind::Blank,
            Some(Task::Open) => {
                let SessionOptions { time_to_live, max_in_flight } = holder.options;
                SessionOpening { time_to_live, max_in_flight }.encode(&mut payload);
                EntryKind::OpenSession
            }
            Some(Task::Keep { session }) => {
                encode_session_ids(&[*session], &mut payload);
                EntryKind::KeepSessions
            }
            Some(Task::Close { session }) => {
                encode_session_ids(&[*session], &mut payload);
                EntryKind::CloseSessions
            }
        };
        holder.busy |= matches!(task, Some(Task::Open | Task::Close { .. }));
        self.schedule(now + keep.min(over * 4), Event::Session(client));
        if let Some(task) = task {
            self.say(|| format!("client {client}: {task:?}"));
            self.send_on_errand(client, task, entry, Numbered { session: 0, serial: 0, payload });
        }
    }

    fn send_on_errand(&mut self, client: u32, task: Task, entry: EntryKind, command: Numbered) {
        let id = self.clients.sessions.next_errand;
        self.clients.sessions.next_errand += 1;
        let errand = Errand { client, task, entry, command, begun: self.now, tries: 0, at: None };
        self.clients.sessions.errands.insert(id, errand);
        self.schedule(self.now, Event::Errand(id));
    }

    /// An attempt of an errand.
    pub(crate) fn on_errand(&mut self, id: u64) {
        self.digest.word(17 + id * 64);
        let at = self.someone(900);
        let call = self.clients.new_call();
        let tries = self.clients.sessions.errands.get(&id).map_or(0, |errand| errand.tries);
        if tries >= MAX_TRIES {
            return self.end_errand(id);
        }
        let later = self.now + self.patience(tries + 1);
        let sessions = &mut self.clients.sessions;
        let Some(errand) = sessions.errands.get_mut(&id) else { return };
        (errand.tries, errand.at) = (tries + 1, None);
        let current = self.places[at].cluster == self.cluster;
        if let Some(running) = self.places[at].running.as_ref().filter(|_| current) {
            errand.at = Some((at, call));
            sessions.calls.insert(call, (at, id));
            running.node.write_entry(call, errand.entry, &errand.command.payload);
            self.touch(at);
            self.schedule(later, Event::Late(call));
        } else {
            self.schedule(later, Event::Errand(id));
        }
    }

    /// How long an answer is waited for.
    pub(crate) fn patience(&self, tries: u32) -> u64 {
        self.options.election_timeout.as_nanos() as u64 * u64::from(tries.min(4)) / 2
    }

    /// A call was not answered in time; it may be yet.
    pub(crate) fn on_late(&mut self, call: CallId) {
        self.digest.word(18);
        if let Some((_, id)) = self.clients.sessions.calls.get(&call).copied() {
            if self.clients.sessions.errands.get(&id).and_then(|errand| errand.at).is_some_and(|at| at.1 == call) {
                self.on_errand(id);
            }
        } else {
            self.resend_if_late(call);
        }
    }

    /// Takes an answer, if it is one to an errand.
    pub(crate) fn on_errand_answer(&mut self, call: CallId, answer: &AnswerOf<W>) -> bool {
        let Some((_, id)) = self.clients.sessions.calls.remove(&call) else { return false };
        let Some(errand) = self.clients.sessions.errands.get(&id) else { return true };
        let current = errand.at.is_some_and(|at| at.1 == call);
        let hop = self.options.latency.as_nanos() as u64;
        match answer {
            Answer::Applied { .. } | Answer::SessionDone { .. } | Answer::SessionRefused(_) => {
                self.conclude(id, answer);
            }
            Answer::NotLeader { leader } if current => {
                self.clients.set_leader(*leader);
                let pause = if leader.is_some() { hop } else { self.patience(1) / 4 };
                self.schedule(self.now + pause, Event::Errand(id));
            }
            _ if current => self.schedule(self.now + self.patience(1) / 4, Event::Errand(id)),
            _ => {}
        }
        true
    }

    /// An errand is answered.
    fn conclude(&mut self, id: u64, answer: &AnswerOf<W>) {
        let Some(errand) = self.clients.sessions.errands.get(&id) else { return };
        let (client, begun, session) = (errand.client, errand.begun, errand.command.session);
        self.say(|| format!("client {client}: {:?} is answered {}", errand.task, short(answer)));
        match (&errand.task, answer) {
            (Task::Open, Answer::SessionDone { log_id }) => {
                let Some(holder) = self.clients.sessions.holders.get_mut(&client) else { return };
                // Another opening of the same errand may be applied as well: its session expires unused.
                let serials = Serials::new(1, holder.options.max_in_flight);
                holder.open = Some(Open { id: log_id.index, serials, active: begun });
                self.reach(Goal::SessionOpened);
            }
            (Task::Keep { session }, Answer::SessionDone { .. }) => {
                let session = *session;
                self.was_active(client, session, begun);
                self.reach(Goal::SessionKept);
            }
            (Task::Keep { session }, Answer::SessionRefused(SessionRefusal::Expired)) => {
                let session = *session;
                self.expired(client, session);
            }
            (Task::Close { session }, Answer::SessionDone { .. }) => {
                let session = *session;
                self.reach(Goal::SessionClosed);
                self.end_errand(id);
                return self.closed(client, session);
            }
            (Task::Echo { op, .. }, Answer::Applied { log_id, response }) => {
                let op = *op;
                if self.is_gone(id) {
                    return self.fail(format!("exactly once: operation {op} of a closed session is applied again"));
                }
                self.check_same(op, *log_id, response);
                self.was_active(client, session, begun);
                self.reach(Goal::SessionEcho);
            }
            (Task::Echo { .. }, Answer::SessionRefused(SessionRefusal::Expired)) => match self.is_gone(id) {
                true => self.reach(Goal::SessionGone),
                false => self.expired(client, session),
            },
            (Task::Echo { held: false, .. }, Answer::SessionRefused(SessionRefusal::Acknowledged)) => {
                self.reach(Goal::SessionAcknowledged);
            }
            (Task::Echo { op, .. }, _) => {
                return self.fail(format!("exactly once: operation {op}, sent again, was refused: {}", short(answer)));
            }
            (_, _) => return self.fail(format!("an entry about sessions was answered {}", short(answer))),
        }
        self.end_errand(id);
    }

    fn is_gone(&self, id: u64) -> bool {
        let errand = self.clients.sessions.errands.get(&id);
        errand.is_some_and(|errand| matches!(errand.task, Task::Echo { gone: true, .. }))
    }

    fn end_errand(&mut self, id: u64) {
        let sessions = &mut self.clients.sessions;
        let Some(errand) = sessions.errands.remove(&id) else { return };
        match errand.task {
            Task::Open | Task::Close { .. } => {
                let Some(holder) = sessions.holders.get_mut(&errand.client) else { return };
                holder.busy = false;
                if matches!(errand.task, Task::Close { .. }) {
                    // Closed or not: the client uses it no more.
                    holder.open = None;
                }
            }
            Task::Echo { held: true, .. } => sessions.release(errand.client, &errand.command),
            Task::Keep { .. } | Task::Echo { .. } => {}
        }
    }

    /// Everything from this index on is lost with a quorum. What clients did besides operations is begun anew, and when a
    /// session lived last is not known any more.
    pub(crate) fn on_lost_sessions(&mut self, from: u64) {
        let errands: Vec<u64> = self.clients.sessions.errands.keys().copied().collect();
        errands.into_iter().for_each(|id| self.end_errand(id));
        let sessions = &mut self.clients.sessions;
        sessions.told.retain(|_, (log_id, _)| log_id.index < from);
        for holder in sessions.holders.values_mut() {
            holder.last = None;
            holder.open.take_if(|open| open.id >= from);
            if let Some(open) = &mut holder.open {
                open.active = 0;
            }
        }
    }

    /// A session is closed for certain: what was sent in it may be sent again, and must not be applied.
    fn closed(&mut self, client: u32, session: u64) {
        let Some(holder) = self.clients.sessions.holders.get_mut(&client) else { return };
        if let Some((op, command)) = holder.last.take().filter(|(_, command)| command.session == session) {
            self.clients.sessions.sent_again.insert(op);
            let task = Task::Echo { op, held: false, gone: true };
            self.send_on_errand(client, task, EntryKind::SessionCommand, command);
        }
    }

    /// The cluster answered what was sent at `begun`.
    fn was_active(&mut self, client: u32, session: u64, begun: Nanos) {
        if let Some(open) = self.clients.sessions.open(client, session) {
            open.active = open.active.max(begun);
        }
    }

    /// The cluster says that a session is no more.
    pub(crate) fn expired(&mut self, client: u32, session: u64) {
        let Some(holder) = self.clients.sessions.holders.get_mut(&client) else { return };
        let Some(open) = holder.open.take_if(|open| open.id == session && !holder.busy) else { return };
        let life = holder.options.time_to_live.as_nanos() as u64;
        self.reach(Goal::SessionExpired);
        // Nodes' wall clocks agree but for their drift.
        let agree = !self.options.faults.has(Fault::ClockSkew) && !self.options.faults.has(Fault::ClockJump);
        if agree && self.now + self.now / 40 < open.active + life {
            self.fail(format!(
                "session: {session} expired too early: it was active at {}, now is {}",
                open.active, self.now
            ));
        }
    }

    // ---- operations of sessions ----

    /// A command of a session was answered: no other answer to it may differ.
    pub(crate) fn check_same(&mut self, op: u64, log_id: LogId, response: &<W::Machine as RaftStateMachine>::Response) {
        let mut bytes = Vec::new();
        if response.encode(&mut bytes).is_err() {
            return;
        }
        let told = self.clients.sessions.told.entry(op).or_insert_with(|| (log_id, bytes.clone()));
        if *told != (log_id, bytes) {
            let first = told.0;
            self.fail(format!(
                "exactly once: operation {op} was answered as of {first}, and sent again as of {log_id}, or otherwise"
            ));
        }
    }

    /// An operation of a session is done; perhaps its command is sent once more, as by a network that repeats it.
    pub(crate) fn end_of_command(&mut self, client: u32, op: u64, begun: Nanos, answered: bool, command: Numbered) {
        if !answered {
            return self.clients.sessions.release(client, &command);
        }
        self.reach(Goal::SessionWrite);
        self.was_active(client, command.session, begun);
        let mut chance = Rng::new(self.options.seed, 10 + ((op + 1) << 16));
        let echo = chance.below(10);
        if let Some(holder) = self.clients.sessions.holders.get_mut(&client) {
            holder.last = Some((op, command.clone()));
        }
        if echo >= 2 {
            self.clients.sessions.release(client, &command);
        }
        if echo <= 4 && !self.chaos.over {
            self.clients.sessions.sent_again.insert(op);
            let task = Task::Echo { op, held: echo < 2, gone: false };
            self.send_on_errand(client, task, EntryKind::SessionCommand, command);
        } else if echo < 2 {
            self.clients.sessions.release(client, &command);
        }
    }

    /// A process is gone, with the errands that were under way there.
    pub(crate) fn on_errands_gone(&mut self, at: usize) {
        let mut gone = Vec::new();
        self.clients.sessions.calls.retain(|_, (place, _)| *place != at);
        for (id, errand) in &mut self.clients.sessions.errands {
            if errand.at.take_if(|under_way| under_way.0 == at).is_some() {
                gone.push(*id);
            }
        }
        let later = self.now + self.patience(1) / 4;
        gone.into_iter().for_each(|id| self.schedule(later, Event::Errand(id)));
    }

    /// All nodes that applied the same entries have the same sessions.
    pub(crate) fn check_session_tables(&self) -> Result<(), String> {
        let tables = self.places.iter().filter_map(|place| {
            let encoded = place.running.as_ref()?.node.sessions(|table, applied| {
                let mut bytes = Vec::new();
                table.encode(&mut bytes);
                (applied.index, bytes)
            });
            encoded.map(|(applied, bytes)| (place.id, applied, bytes))
        });
        check_tables(tables)
    }
}

/// Of each node: how many entries it applied, and its table.
fn check_tables(tables: impl Iterator<Item = (NodeId, u64, Vec<u8>)>) -> Result<(), String> {
    let mut known: BTreeMap<u64, (NodeId, Vec<u8>)> = BTreeMap::new();
    for (id, applied, bytes) in tables {
        let (other, table) = known.entry(applied).or_insert_with(|| (id, bytes.clone()));
        if *table != bytes {
            return Err(format!(
                "equal sessions: nodes {other} and {id} applied {applied} entries and know other sessions"
            ));
        }
    }
    Ok(())
}

fn short<R>(answer: &Answer<R>) -> String {
    match answer {
        Answer::SessionRefused(refusal) => format!("{refusal:?}"),
        Answer::SessionDone { log_id } => format!("as done at {log_id}"),
        Answer::Applied { log_id, .. } => format!("as applied at {log_id}"),
        _ => "otherwise".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{cluster_with, elapse};

    #[test]
    fn other_tables_after_the_same_entries_break_equal_sessions() {
        let tables = |last: u8| [(NodeId(1), 5, vec![1]), (NodeId(2), 6, vec![2]), (NodeId(3), 5, vec![last])];
        assert_eq!(check_tables(tables(1).into_iter()), Ok(()));
        let told = check_tables(tables(2).into_iter()).expect_err("two tables differ");
        assert!(told.starts_with("equal sessions: nodes 1 and 3 applied 5 entries"), "{told}");
    }

    #[test]
    fn a_session_that_is_gone_before_its_time_is_a_violation() {
        let mut world = cluster_with(3, |options| options.sessions = 1000);
        world.start_sessions();
        elapse(&mut world, 8);
        let now = world.now;
        let mut opened = world.clients.sessions.holders.iter_mut().filter(|(_, holder)| !holder.busy);
        let (client, session) = opened
            .find_map(|(client, holder)| {
                let open = holder.open.as_mut()?;
                open.active = now;
                Some((*client, open.id))
            })
            .expect("somebody has a session");
        world.expired(client, session);
        let told = world.violation.expect("it was active a moment ago");
        assert!(told.starts_with("session: ") && told.contains("expired too early"), "{told}");
    }
}
