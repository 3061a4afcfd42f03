//! Clients: what is asked of which node, again where a refusal proves that nothing happened, until they give up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::advanced::sessions::SessionRefusal;
use quorate::advanced::wire::EntryKind;
use quorate::virtual_node::{Answer, CallId};
use quorate::{Payload, RaftStateMachine, ReadPolicy};
use quorate_core::{LeaderId, LogId, NodeId, Refusal, Vote};

use crate::edits::Decision;
use crate::goals::Goal;
use crate::history::Nanos;
use crate::options::Options;
use crate::rng::Rng;
use crate::service::Service;
use crate::sessions::{Numbered, Sessions};
use crate::situations;
use crate::workload::{Invoked, LookAt, Op, Returned, Workload};
use crate::world::{Event, SeenList, World};

/// What a node of this workload answers.
pub(crate) type AnswerOf<W> = Answer<<<W as Workload>::Machine as RaftStateMachine>::Response>;

/// A client that does not wait for answers waits all the same when so many are owed to it.
const MOST_UNDER_WAY: usize = 16;

enum Asked<W: Workload> {
    Write(Vec<u8>),
    /// Only for this leader, and asked of it.
    WriteIf(LeaderId, Vec<u8>),
    /// A command of a session: repeated until it is answered.
    Numbered(Numbered),
    Read(ReadPolicy, LookAt<W::Machine, W::Seen>),
}

impl<W: Workload> Asked<W> {
    /// Counts it by what it shows of the cluster.
    fn count(&self, service: &mut Service) {
        service.writes += u64::from(!matches!(self, Asked::Read(..)));
        service.session_writes += u64::from(matches!(self, Asked::Numbered(_)));
        service.reads += u64::from(matches!(self, Asked::Read(ReadPolicy::ReadIndex | ReadPolicy::LeaseRead, _)));
    }
}

/// A call that was not answered yet.
struct Owed {
    op: u64,
    at: usize,
    /// A write. One that the node handed on is none: its answer may be lost on the way.
    write: bool,
}

struct Attempt<W: Workload> {
    asked: Asked<W>,
    client: u32,
    node: usize,
    /// The call under way at that node.
    call: Option<CallId>,
    /// When the first attempt began: an answer may be to any.
    begun: Nanos,
    tries: u32,
    /// An attempt may have been applied, or may be yet.
    maybe: bool,
    /// As it was before the attempt under way.
    maybe_before: bool,
    /// The vote of the node that is asked, when it was asked.
    under: Vote,
    /// The node hands it on to the leader.
    forwarded: bool,
    /// It was asked for together with others, and not again by itself.
    batch: Option<Place>,
}

/// Where an operation is in a call that asks for several.
#[derive(Clone, Copy)]
struct Place {
    /// The call: the first operation's.
    batch: CallId,
    /// From 0.
    at: u64,
}

/// Operations that were asked for in one call: how they end.
struct Batch {
    forwarded: bool,
    only: Option<LeaderId>,
    asked: usize,
    applied: usize,
    others: usize,
    /// Where the first of them is in the log, or would be.
    first: Option<LogId>,
}

impl Batch {
    /// The write in this place was applied there, or ended otherwise. Tells whether it stands behind the others.
    fn end_of(&mut self, place: u64, applied: Option<LogId>) -> bool {
        let Some(log_id) = applied else {
            self.others += 1;
            return true;
        };
        self.applied += 1;
        let first = LogId { index: log_id.index.saturating_sub(place), ..log_id };
        *self.first.get_or_insert(first) == first
    }
}

/// All clients of a run.
pub(crate) struct Clients<W: Workload> {
    pub(crate) workload: W,
    pub(crate) rng: Rng,
    pub(crate) sessions: Sessions,
    open: BTreeMap<u64, Attempt<W>>,
    /// By client: operations under way.
    under_way: Vec<usize>,
    calls: BTreeMap<CallId, Owed>,
    batches: BTreeMap<CallId, Batch>,
    next_call: CallId,
    pub(crate) asked: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    /// Operations that were begun, and those that were answered, by what they show.
    pub(crate) begun: Service,
    pub(crate) served: Service,
    seen: SeenList<W::Seen>,
    leader: Option<NodeId>,
    /// The leader that took the last command that was answered.
    took: Option<LeaderId>,
    /// The client that begins first the next time that they are all made to begin.
    pub(crate) first: u32,
    /// No more operations are started from here on.
    pub(crate) limit: u64,
    /// For so many election timeouts a client waits for an answer, whoever owes it.
    pub(crate) patience: u64,
}

impl<W: Workload> Clients<W> {
    pub(crate) fn new(options: &Options, workload: W) -> Self {
        Self {
            workload,
            rng: Rng::new(options.seed, 4),
            sessions: Sessions::new(options),
            open: BTreeMap::new(),
            under_way: vec![0; options.clients as usize],
            calls: BTreeMap::new(),
            batches: BTreeMap::new(),
            // 0 is the cluster's first membership.
            next_call: 1,
            asked: 0,
            acknowledged: 0,
            unknown: 0,
            begun: Service::default(),
            served: Service::default(),
            seen: Arc::new(Mutex::new(Vec::new())),
            leader: None,
            took: None,
            first: 0,
            limit: options.operations,
            patience: 8,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn is_idle(&self, client: u32) -> bool {
        self.under_way[client as usize] == 0
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
    }

    pub(crate) fn new_call(&mut self) -> CallId {
        self.next_call += 1;
        self.next_call
    }
}

impl<W: Workload> Clients<W> {
    /// Calls without an answer: where, of what, and whether they are writes.
    pub(crate) fn owed(&self) -> impl Iterator<Item = (usize, u64, bool)> + '_ {
        let answered_here = |owed: &&Owed| owed.write || !self.is_forwarded(owed.op);
        self.calls.values().filter(answered_here).map(|owed| (owed.at, owed.op, owed.write))
    }

    fn is_forwarded(&self, op: u64) -> bool {
        self.open.get(&op).is_some_and(|attempt| attempt.forwarded)
    }
}

impl<W: Workload> World<W> {
    pub(crate) fn start_clients(&mut self) {
        for client in 0..self.options.clients {
            let after = self.clients.rng.around(self.options.think).as_nanos() as u64;
            self.schedule(self.now + after, Event::Client(client));
        }
        self.start_sessions();
    }

    /// A client starts an operation, or several at once.
    pub(crate) fn on_client(&mut self, client: u32) {
        self.digest.word(9);
        let options = &self.options;
        let batch = if self.clients.rng.chance(options.batches) { self.clients.rng.between(2, 6) } else { 1 };
        let hasty = options.hasty && !self.chaos.over;
        let batch = if hasty && self.clients.under_way[client as usize] >= MOST_UNDER_WAY { 0 } else { batch };
        let together = batch > 1 && self.clients.rng.chance(self.options.together);
        let conditional = together && self.clients.rng.chance(self.options.conditions);
        let only = self.clients.took.filter(|_| conditional);
        let (mut gathered, mut limited) = (Vec::new(), false);
        for _ in 0..batch {
            limited = self.clients.asked >= self.clients.limit;
            if limited {
                break;
            }
            let op = self.clients.asked;
            self.clients.asked += 1;
            if !self.chaos.over && !self.options.edits.keeps(Decision::Operation, op) {
                continue;
            }
            let clients = &mut self.clients;
            // Each draws from a generator of its own: leaving one out changes nothing about the others.
            let mut chance = Rng::new(self.options.seed, 4 + ((op + 1) << 16));
            let asked = match clients.workload.next(Invoked { id: op, client, at: self.now }, &mut chance) {
                Op::Write(command) => {
                    let mut numbered = clients.sessions.number(client);
                    let mut bytes = numbered.as_mut().map(|command| std::mem::take(&mut command.payload));
                    if let Err(error) = command.encode(bytes.get_or_insert_default()) {
                        return self.fail(format!("the workload made a command that cannot be encoded: {error}"));
                    }
                    let payload = bytes.unwrap_or_default();
                    match numbered {
                        None if together => match only {
                            Some(leader_id) => Asked::WriteIf(leader_id, payload),
                            None => Asked::Write(payload),
                        },
                        None => match clients.took.filter(|_| chance.chance(self.options.conditions)) {
                            Some(leader_id) => Asked::WriteIf(leader_id, payload),
                            None => Asked::Write(payload),
                        },
                        Some(command) => Asked::Numbered(Numbered { payload, ..command }),
                    }
                }
                Op::Read(policy, look) => Asked::Read(policy, look),
            };
            asked.count(&mut clients.begun);
            clients.under_way[client as usize] += 1;
            let timeouts = if matches!(asked, Asked::Numbered(_)) { 24 } else { clients.patience };
            let (begun, tries, maybe, maybe_before) = (self.now, 0, false, false);
            let (under, forwarded, batch, node, call) = (Vote::default(), false, None, 0, None);
            let gathers = together && matches!(asked, Asked::Write(_) | Asked::WriteIf(..));
            let attempt =
                Attempt { asked, client, node, call, begun, tries, maybe, maybe_before, under, forwarded, batch };
            clients.open.insert(op, attempt);
            let patience = self.options.election_timeout.as_nanos() as u64 * timeouts;
            self.schedule(self.now + patience, Event::GiveUp { client, op });
            match gathers {
                true => gathered.push(op),
                false => self.attempt(client, op),
            }
        }
        if !gathered.is_empty() {
            self.attempt_together(client, only, &gathered);
        }
        if limited {
            return;
        }
        if self.clients.under_way[client as usize] == 0 || hasty {
            self.come_back(client);
        }
    }

    /// The client starts another operation after some thought.
    fn come_back(&mut self, client: u32) {
        let after = self.clients.rng.around(self.options.think).as_nanos() as u64;
        self.schedule(self.now + after, Event::Client(client));
    }

    /// A node to ask: so often of a thousand times the one that is believed to lead, else anyone.
    pub(crate) fn someone(&mut self, leader: u32) -> usize {
        let clients = &mut self.clients;
        let known = clients.leader.and_then(|leader| self.places.iter().position(|place| place.id == leader));
        let anywhere = clients.rng.below(self.places.len() as u64) as usize;
        if let Some(core) = &self.chaos.core {
            // Clients stand on its side, most of them: whoever asks others waits for nothing.
            return core.someone(known, anywhere, &mut clients.rng);
        }
        let at = if leader > 0 && clients.rng.chance(leader) { known.unwrap_or(anywhere) } else { anywhere };
        if self.places[at].running.is_none() && known == Some(at) {
            clients.leader = None;
        }
        at
    }

    pub(crate) fn attempt(&mut self, client: u32, op: u64) {
        self.digest.word(10 + op * 64);
        let call = self.clients.new_call();
        let Some(attempt) = self.clients.open.get(&op) else { return };
        let anywhere = match attempt.asked {
            Asked::Read(..) => true,
            Asked::Write(_) | Asked::WriteIf(..) | Asked::Numbered(_) => {
                self.options.forwards > 0 && self.clients.rng.chance(self.options.forwards)
            }
        };
        let leader = if anywhere { 0 } else { 900 };
        let named = match attempt.asked {
            Asked::WriteIf(leader_id, _) if !anywhere => self.place_of_node(leader_id.node_id),
            Asked::WriteIf(..) | Asked::Write(_) | Asked::Numbered(_) | Asked::Read(..) => None,
        };
        let at = named.unwrap_or_else(|| self.someone(leader));
        let later = self.now + self.patience(attempt_number(self.clients.open.get(&op)));
        let clients = &mut self.clients;
        let Some(attempt) = clients.open.get_mut(&op) else { return };
        // Nobody waits for the attempt before.
        if let Some(call) = attempt.call.filter(|_| attempt.forwarded)
            && let Some(running) = &mut self.places[attempt.node].running
        {
            running.node.forget(call);
            clients.calls.remove(&call);
        }
        attempt.node = at;
        (attempt.call, attempt.forwarded, attempt.batch) = (None, false, None);
        let node = self.places[at].id.0;
        // Who was told of the recovery does not ask a node of before.
        let current = self.places[at].cluster == self.cluster;
        let Some(running) = self.places[at].running.as_mut().filter(|_| current) else {
            return self.retry_later(client, op);
        };
        attempt.call = Some(call);
        attempt.tries += 1;
        (attempt.maybe_before, attempt.maybe) = (attempt.maybe, true);
        attempt.under = running.seen.vote;
        attempt.forwarded = anywhere
            && match attempt.asked {
                Asked::Read(..) => false,
                Asked::WriteIf(leader_id, _) => leader_id.node_id.0 != node,
                Asked::Write(_) | Asked::Numbered(_) => running.seen.leading.is_none(),
            };
        let write = !attempt.forwarded && !matches!(attempt.asked, Asked::Read(..));
        clients.calls.insert(call, Owed { op, at, write });
        match &mut attempt.asked {
            Asked::Write(bytes) if attempt.forwarded => running.node.forward(call, EntryKind::Command, None, bytes),
            Asked::Write(bytes) => running.node.write(call, bytes),
            Asked::WriteIf(leader_id, bytes) if attempt.forwarded => {
                running.node.forward(call, EntryKind::Command, Some(*leader_id), bytes);
            }
            Asked::WriteIf(leader_id, bytes) => running.node.write_if(call, *leader_id, bytes),
            Asked::Numbered(command) => {
                clients.sessions.head(client, command);
                match attempt.forwarded {
                    true => running.node.forward(call, EntryKind::SessionCommand, None, &command.payload),
                    false => running.node.write_entry(call, EntryKind::SessionCommand, &command.payload),
                }
                self.schedule(later, Event::Late(call));
            }
            Asked::Read(policy, look) => {
                let (look, seen) = (Arc::clone(look), Arc::clone(&clients.seen));
                let look = Box::new(move |machine: &crate::machine::Watched<W::Machine>| {
                    crate::machine::with_book(|book| book.on_read(node, machine.index));
                    seen.lock().push((call, machine.index, look(&machine.machine)));
                });
                running.node.read(call, *policy, look, running.clock.at(self.now));
            }
        }
        self.touch(at);
        self.say(|| format!("client {client} asks node {node} for operation {op}, {}", self.kind_of(op)));
    }

    fn place_of_node(&self, id: NodeId) -> Option<usize> {
        self.places.iter().position(|place| place.id == id)
    }

    /// Asks for these writes in one call. What is refused of them is asked for again one by one.
    fn attempt_together(&mut self, client: u32, only: Option<LeaderId>, ops: &[u64]) {
        self.digest.word(19 + ops[0] * 64);
        let anywhere = self.options.forwards > 0 && self.clients.rng.chance(self.options.forwards);
        let named = only.filter(|_| !anywhere).and_then(|only| self.place_of_node(only.node_id));
        let at = named.unwrap_or_else(|| self.someone(if anywhere { 0 } else { 900 }));
        let current = self.places[at].cluster == self.cluster;
        let (node, clients) = (self.places[at].id, &mut self.clients);
        let Some(running) = self.places[at].running.as_mut().filter(|_| current) else {
            return ops.iter().for_each(|op| self.retry_later(client, *op));
        };
        let elsewhere = only.map_or(running.seen.leading.is_none(), |only| only.node_id != node);
        let (forwarded, mut commands) = (anywhere && elsewhere, Vec::with_capacity(ops.len()));
        let batch = clients.next_call + 1;
        for (place, op) in (0..).zip(ops) {
            let call = clients.new_call();
            let Some(attempt) = clients.open.get_mut(op) else { continue };
            (attempt.node, attempt.call, attempt.tries) = (at, Some(call), attempt.tries + 1);
            (attempt.maybe_before, attempt.maybe) = (attempt.maybe, true);
            (attempt.under, attempt.forwarded) = (running.seen.vote, forwarded);
            attempt.batch = Some(Place { batch, at: place });
            clients.calls.insert(call, Owed { op: *op, at, write: !forwarded });
            match &attempt.asked {
                Asked::Write(bytes) | Asked::WriteIf(_, bytes) => commands.push((call, bytes.clone())),
                Asked::Numbered(_) | Asked::Read(..) => unreachable!("only plain writes are gathered"),
            }
        }
        let asked = commands.len();
        clients.batches.insert(batch, Batch { forwarded, only, asked, applied: 0, others: 0, first: None });
        match forwarded {
            true => running.node.forward_many(&commands, only),
            false => running.node.write_many(&commands, only),
        }
        self.touch(at);
        self.say(|| {
            format!(
                "client {client} asks node {node} for operations {ops:?} at once, under {only:?}, forwarded {forwarded}"
            )
        });
    }

    /// Of a call that asked for several writes one ended. Those that are applied stand in the log one behind the other.
    fn note_batch(&mut self, op: u64, call: CallId, answer: &AnswerOf<W>) {
        let attempt = self.clients.open.get(&op).filter(|attempt| attempt.call == Some(call));
        let Some(Place { batch, at }) = attempt.and_then(|attempt| attempt.batch) else { return };
        let Some(known) = self.clients.batches.get_mut(&batch) else { return };
        let applied = match answer {
            Answer::Applied { log_id, .. } => Some(*log_id),
            _ => None,
        };
        let stands = known.end_of(at, applied);
        let apart = applied.filter(|_| !stands);
        if known.applied + known.others == known.asked {
            let Batch { forwarded, only, asked, applied, .. } = *known;
            self.clients.batches.remove(&batch);
            let whole = applied == asked && asked > 1;
            let goals = [
                (whole && !forwarded, Goal::WroteMany),
                (whole && forwarded, Goal::ForwardedMany),
                (whole && only.is_some(), Goal::ManyUnderCondition),
            ];
            goals.into_iter().filter(|(reached, _)| *reached).for_each(|(_, goal)| self.reach(goal));
        }
        if let Some(log_id) = apart {
            self.fail(format!("one call: operation {op} is applied as {log_id}, not behind the others of its call"));
        }
    }

    fn kind_of(&self, op: u64) -> String {
        match self.clients.open.get(&op) {
            Some(Attempt { asked: Asked::Read(policy, _), .. }) => format!("a read, {policy:?}"),
            Some(Attempt { asked: Asked::WriteIf(leader_id, _), .. }) => format!("a write under {leader_id}"),
            Some(Attempt { asked: Asked::Numbered(command), .. }) => format!("a write of session {}", command.session),
            Some(Attempt { asked: Asked::Write(_), forwarded, .. }) => format!("a write, forwarded {forwarded}"),
            None => "which is over".to_owned(),
        }
    }

    /// A command of a session that is not answered in time is sent again, perhaps elsewhere.
    pub(crate) fn resend_if_late(&mut self, call: CallId) {
        let Some(op) = self.clients.calls.get(&call).map(|owed| owed.op) else { return };
        let waiting = self.clients.open.get(&op).filter(|attempt| attempt.call == Some(call));
        if let Some(client) = waiting.map(|attempt| attempt.client) {
            self.attempt(client, op);
        }
    }

    fn retry_later(&mut self, client: u32, op: u64) {
        let pause = self.options.election_timeout.as_nanos() as u64 / 8;
        let after = pause / 2 + self.clients.rng.below(pause);
        self.schedule(self.now + after, Event::Retry { client, op });
    }

    /// Whether the membership that a node goes by names it.
    fn is_a_member_to_itself(&self, at: usize) -> bool {
        let place = &self.places[at];
        place.running.as_ref().is_some_and(|running| running.node.core().membership().nodes.contains_key(&place.id))
    }

    pub(crate) fn on_give_up(&mut self, _client: u32, op: u64) {
        self.digest.word(11 + op * 64);
        self.finish(op, None, Returned::Unknown);
    }

    pub(crate) fn on_answer(&mut self, at: usize, call: CallId, answer: AnswerOf<W>) {
        let op = match self.clients.calls.remove(&call) {
            Some(owed) => owed.op,
            None if self.on_errand_answer(call, &answer) => return,
            None => return self.on_other_answer(at, call, answer),
        };
        self.note_answer(op, call, &answer);
        self.note_batch(op, call, &answer);
        let is_member = self.is_a_member_to_itself(at);
        if let Some(numbered) = self.session_of(op) {
            match &answer {
                Answer::Applied { log_id, response } => {
                    self.check_same(op, *log_id, response);
                    // Whichever attempt it answers.
                    if let Answer::Applied { log_id, response } = answer {
                        self.finish(op, Some(log_id.index), Returned::Written(response));
                    }
                    return;
                }
                Answer::SessionRefused(SessionRefusal::Expired) => return self.on_expired(op, call, numbered),
                Answer::SessionRefused(refusal) if self.clients.open.contains_key(&op) => {
                    return self.fail(format!("exactly once: operation {op} waits for its answer, and is {refusal:?}"));
                }
                _ => {}
            }
        }
        let Some(attempt) = self.clients.open.get_mut(&op).filter(|attempt| attempt.call == Some(call)) else { return };
        let client = attempt.client;
        match answer {
            Answer::Applied { log_id, response } => {
                self.clients.took = Some(log_id.leader_id);
                self.finish_at(op, log_id, response);
            }
            Answer::OtherLeader { leader } => {
                self.clients.leader = leader;
                self.reach(Goal::RefusedLeader);
                self.finish(op, None, Returned::NotApplied);
            }
            Answer::NotLeader { leader } => {
                attempt.maybe = attempt.maybe_before;
                self.clients.leader = leader;
                let hop = self.options.latency.as_nanos() as u64;
                match leader {
                    Some(_) => self.schedule(self.now + hop, Event::Retry { client, op }),
                    None => self.retry_later(client, op),
                }
            }
            // By the cluster's settings, so elsewhere as well; a node that is in no cluster yet knows of none.
            Answer::ReadRefused(Refusal::LeaseDisabled) if is_member => self.finish(op, None, Returned::NotApplied),
            Answer::Refused | Answer::ReadRefused(_) => {
                attempt.maybe = attempt.maybe_before;
                self.retry_later(client, op);
            }
            Answer::Unknown if matches!(attempt.asked, Asked::Numbered(_)) => self.retry_later(client, op),
            Answer::Unknown
            | Answer::Changed(_)
            | Answer::Initialized(_)
            | Answer::Transferred(_)
            | Answer::Compacted(_)
            | Answer::Reconfigured(_)
            | Answer::SessionDone { .. }
            | Answer::SessionRefused(_) => self.finish(op, None, Returned::Unknown),
        }
    }

    /// A lost quorum was recovered, and everything from this index on is lost: a session that was opened there is gone,
    /// and its id may become another's, so that nothing is sent in it any more. Nothing is under way anywhere. `tail`: the
    /// survivor keeps entries from there on that nobody committed, and they are committed now. The answer to a command
    /// of a session may be lost with the one copy that was committed, while another copy is among them.
    pub(crate) fn on_lost_entries(&mut self, from: u64, tail: bool) -> u64 {
        let lost = |session: &Option<u64>| session.is_some_and(|id| id >= from);
        let gone: Vec<u64> = self.clients.open.keys().copied().filter(|op| lost(&self.session_of(*op))).collect();
        gone.into_iter().for_each(|op| self.finish(op, None, Returned::Unknown));
        self.on_lost_sessions(from);
        let copied = if tail { std::mem::take(&mut self.clients.sessions.sent_again) } else { BTreeSet::new() };
        self.clients.workload.on_recovered(from, &copied)
    }

    fn session_of(&self, op: u64) -> Option<u64> {
        match &self.clients.open.get(&op)?.asked {
            Asked::Numbered(command) => Some(command.session),
            Asked::Write(_) | Asked::WriteIf(..) | Asked::Read(..) => None,
        }
    }

    /// A command is applied: if it was for one leader, then under that.
    fn finish_at(&mut self, op: u64, log_id: LogId, response: <W::Machine as RaftStateMachine>::Response) {
        let wanted = self.clients.open.get(&op).and_then(|attempt| match attempt.asked {
            Asked::WriteIf(leader_id, _) => Some(leader_id),
            Asked::Write(_) | Asked::Numbered(_) | Asked::Read(..) => None,
        });
        if let Some(wanted) = wanted.filter(|wanted| *wanted != log_id.leader_id) {
            return self.fail(format!("conditional write: operation {op} is for {wanted}, and applied as {log_id}"));
        }
        if wanted.is_some() {
            self.reach(Goal::ConditionHeld);
        }
        self.finish(op, Some(log_id.index), Returned::Written(response));
    }

    /// An attempt was refused because its session is no more: it is not applied, and no later one will be.
    fn on_expired(&mut self, op: u64, call: CallId, session: u64) {
        let Some(attempt) = self.clients.open.get_mut(&op) else { return };
        if attempt.call == Some(call) {
            attempt.maybe = attempt.maybe_before;
        }
        let client = attempt.client;
        self.reach(Goal::SessionGone);
        self.expired(client, session);
        self.finish(op, None, Returned::Unknown);
    }

    /// What an answer shows of the way that it came.
    fn note_answer(&mut self, op: u64, call: CallId, answer: &AnswerOf<W>) {
        let Some(attempt) = self.clients.open.get(&op).filter(|attempt| attempt.call == Some(call)) else { return };
        match answer {
            Answer::Applied { .. } if attempt.forwarded => self.reach(match attempt.asked {
                Asked::Numbered(_) => Goal::ForwardedInSession,
                Asked::WriteIf(..) => Goal::ForwardedCondition,
                Asked::Write(_) | Asked::Read(..) => Goal::Forwarded,
            }),
            Answer::OtherLeader { .. } if attempt.forwarded => self.reach(Goal::ForwardRefusedLeader),
            Answer::NotLeader { .. } if attempt.forwarded => self.reach(Goal::ForwardRefused),
            Answer::ReadRefused(_) => self.note_crossing(op),
            _ => {}
        }
    }

    /// A read is served: by which policy, and in which role.
    fn note_read(&mut self, op: u64) {
        self.note_crossing(op);
        let Some(attempt) = self.clients.open.get(&op) else { return };
        let Asked::Read(policy, _) = attempt.asked else { return };
        let place = &self.places[attempt.node];
        let Some(core) = place.running.as_ref().map(|running| running.node.core()) else { return };
        let role = match core.membership() {
            _ if core.is_leader() => ReadRole::Leader,
            membership if membership.is_voter_as(place.id, place.incarnation) => ReadRole::Follower,
            membership if membership.nodes.contains_key(&place.id) => ReadRole::Learner,
            _ => return,
        };
        self.reach(goal_of_read(policy, role));
    }

    /// A read that needs its leader's word is answered under another leader than it was asked under.
    fn note_crossing(&mut self, op: u64) {
        let Some(attempt) = self.clients.open.get(&op) else { return };
        let by_round = matches!(attempt.asked, Asked::Read(ReadPolicy::ReadIndex | ReadPolicy::LeaseRead, _));
        let now = self.places[attempt.node].running.as_ref().map(|running| running.node.core().vote());
        let changed = now.is_some_and(|now| now.leader_id != attempt.under.leader_id);
        self.counters.add(situations::READ_CROSSED, u64::from(by_round && attempt.under.committed && changed));
    }

    /// Whether a client waits for a read at this node.
    pub(crate) fn reads_at(&self, at: usize) -> bool {
        let by_round =
            |asked: &Asked<W>| matches!(asked, Asked::Read(ReadPolicy::ReadIndex | ReadPolicy::LeaseRead, _));
        self.clients
            .open
            .values()
            .any(|attempt| attempt.node == at && attempt.call.is_some() && by_round(&attempt.asked))
    }

    /// Takes what reads saw.
    pub(crate) fn take_seen(&mut self) {
        let seen = std::mem::take(&mut *self.clients.seen.lock());
        for (call, as_of, saw) in seen {
            let Some(Owed { op, .. }) = self.clients.calls.remove(&call) else { continue };
            if self.clients.open.get(&op).is_some_and(|attempt| attempt.call == Some(call)) {
                self.note_read(op);
                self.finish(op, Some(as_of), Returned::Seen(saw));
            }
        }
    }

    fn finish(
        &mut self,
        op: u64,
        as_of: Option<u64>,
        returned: Returned<<W::Machine as RaftStateMachine>::Response, W::Seen>,
    ) {
        let Some(attempt) = self.clients.open.remove(&op) else { return };
        self.say(|| match &returned {
            Returned::Written(_) | Returned::Seen(_) => format!("operation {op} is answered, as of {as_of:?}"),
            Returned::NotApplied => format!("operation {op} is refused"),
            Returned::Unknown => format!("operation {op} ends in doubt"),
        });
        if let Some(call) = attempt.call.filter(|_| attempt.forwarded)
            && let Some(running) = &mut self.places[attempt.node].running
        {
            running.node.forget(call);
            self.clients.calls.remove(&call);
        }
        match &returned {
            Returned::Written(_) | Returned::Seen(_) => {
                self.clients.acknowledged += 1;
                attempt.asked.count(&mut self.clients.served);
            }
            Returned::NotApplied | Returned::Unknown => self.clients.unknown += 1,
        }
        // A write that is certainly not in any log now never will be; a read has no effect.
        let idle = match &attempt.asked {
            Asked::Write(_) | Asked::WriteIf(..) => attempt.call.is_none(),
            Asked::Numbered(_) => !attempt.maybe,
            Asked::Read(..) => true,
        };
        let returned = match returned {
            Returned::Unknown if idle => Returned::NotApplied,
            returned => returned,
        };
        let place = &self.places[attempt.node];
        let session = match &attempt.asked {
            Asked::Numbered(command) => Some(command.session),
            Asked::Write(_) | Asked::WriteIf(..) | Asked::Read(..) => None,
        };
        let batch = attempt.batch.map(|place| place.batch);
        let by = crate::workload::Asked { node: place.id.0, process: place.run, session, batch, as_of };
        self.hash_outcome(op, as_of, &returned);
        let answered = matches!(returned, Returned::Written(_));
        self.clients.workload.on_return(op, by, self.now, returned);
        if let Asked::Numbered(command) = attempt.asked {
            if attempt.maybe_before {
                self.clients.sessions.sent_again.insert(op);
            }
            if answered && attempt.tries > 1 {
                self.reach(Goal::SessionRetried);
            }
            self.end_of_command(attempt.client, op, attempt.begun, answered, command);
        }
        let under_way = &mut self.clients.under_way[attempt.client as usize];
        *under_way -= 1;
        if *under_way == 0 && (!self.options.hasty || self.chaos.over) {
            self.come_back(attempt.client);
        }
    }

    /// A process is gone: whether its writes are in a log is not known, reads are asked elsewhere.
    pub(crate) fn on_process_gone(&mut self, at: usize) {
        self.pending.retain(|_, place| *place != at);
        self.operator.on_process_gone(at);
        self.on_errands_gone(at);
        self.clients.calls.retain(|_, owed| owed.at != at);
        let gone: Vec<(u64, u32, bool)> = self
            .clients
            .open
            .iter()
            .filter(|(_, attempt)| attempt.node == at && attempt.call.is_some())
            .map(|(op, attempt)| (*op, attempt.client, !matches!(attempt.asked, Asked::Write(_) | Asked::WriteIf(..))))
            .collect();
        for (op, client, again) in gone {
            match again {
                true => {
                    if let Some(attempt) = self.clients.open.get_mut(&op) {
                        attempt.call = None;
                    }
                    self.retry_later(client, op);
                }
                false => self.finish(op, None, Returned::Unknown),
            }
        }
    }
}

/// What the node is that serves a read.
enum ReadRole {
    Leader,
    Follower,
    Learner,
}

fn goal_of_read(policy: ReadPolicy, role: ReadRole) -> Goal {
    match (policy, role) {
        (ReadPolicy::ReadIndex, ReadRole::Leader) => Goal::ReadIndexLeader,
        (ReadPolicy::ReadIndex, ReadRole::Follower) => Goal::ReadIndexFollower,
        (ReadPolicy::ReadIndex, ReadRole::Learner) => Goal::ReadIndexLearner,
        (ReadPolicy::LeaseRead, ReadRole::Leader) => Goal::LeaseReadLeader,
        (ReadPolicy::LeaseRead, ReadRole::Follower) => Goal::LeaseReadFollower,
        (ReadPolicy::LeaseRead, ReadRole::Learner) => Goal::LeaseReadLearner,
        (ReadPolicy::MaxAge(_), ReadRole::Leader) => Goal::MaxAgeLeader,
        (ReadPolicy::MaxAge(_), ReadRole::Follower) => Goal::MaxAgeFollower,
        (ReadPolicy::MaxAge(_), ReadRole::Learner) => Goal::MaxAgeLearner,
        (ReadPolicy::Stale, ReadRole::Leader) => Goal::StaleLeader,
        (ReadPolicy::Stale, ReadRole::Follower) => Goal::StaleFollower,
        (ReadPolicy::Stale, ReadRole::Learner) => Goal::StaleLearner,
    }
}

/// The number of the next attempt, from 1.
fn attempt_number<W: Workload>(attempt: Option<&Attempt<W>>) -> u32 {
    attempt.map_or(1, |attempt| attempt.tries + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use crate::ledger::LedgerResponse;
    use crate::trial::cluster;

    #[test]
    fn a_write_for_one_leader_that_is_applied_under_another_breaks_conditional_write() {
        let answered_under = |term| {
            let mut world = cluster(3);
            let wanted = LeaderId { term: 7, node_id: NodeId(1) };
            let (call, op) = (world.clients.new_call(), 0);
            let attempt = Attempt {
                asked: Asked::WriteIf(wanted, Vec::new()),
                client: 0,
                node: 0,
                call: Some(call),
                begun: 0,
                tries: 1,
                maybe: true,
                maybe_before: false,
                under: Vote::default(),
                forwarded: false,
                batch: None,
            };
            world.clients.open.insert(op, attempt);
            world.clients.calls.insert(call, Owed { op, at: 0, write: true });
            let log_id = LogId::new(LeaderId { term, ..wanted }, 9);
            world.finish_at(op, log_id, LedgerResponse(Outcome::Appended { length: 1 }));
            world.violation
        };
        let told = answered_under(8).expect("it is applied under another leader");
        assert!(told.starts_with("conditional write: operation 0 is for"), "{told}");
    }

    #[test]
    fn writes_of_one_call_that_stand_apart_are_noticed() {
        let at = |term, index| Some(LogId::new(LeaderId::new(term, 1), index));
        let told = |other: Option<LogId>| {
            let mut batch = Batch { forwarded: false, only: None, asked: 3, applied: 0, others: 0, first: None };
            assert!(batch.end_of(0, None), "of the first it is not known");
            assert!(batch.end_of(1, at(1, 8)));
            let stands = batch.end_of(2, other);
            assert_eq!(batch.applied + batch.others, batch.asked);
            stands
        };
        assert!(told(at(1, 9)) && told(None));
        assert!(!told(at(1, 10)) && !told(at(1, 7)) && !told(at(2, 9)));
    }
}
