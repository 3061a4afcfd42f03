//! Clients: what is asked of which node, again where a refusal proves that nothing happened, until they give up.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::virtual_node::{Answer, CallId};
use quorate::{Payload, RaftStateMachine, ReadPolicy};
use quorate_core::NodeId;

use crate::edits::Decision;
use crate::options::Options;
use crate::rng::Rng;
use crate::workload::{Invoked, LookAt, Op, Returned, Workload};
use crate::world::{Event, SeenList, World};

/// What a node of this workload answers.
pub(crate) type AnswerOf<W> = Answer<<<W as Workload>::Machine as RaftStateMachine>::Response>;

enum Asked<W: Workload> {
    Write(Vec<u8>),
    Read(ReadPolicy, LookAt<W::Machine, W::Seen>),
}

struct Attempt<W: Workload> {
    asked: Asked<W>,
    client: u32,
    node: usize,
    /// The call under way at that node.
    call: Option<CallId>,
}

/// All clients of a run.
pub(crate) struct Clients<W: Workload> {
    pub(crate) workload: W,
    rng: Rng,
    open: BTreeMap<u64, Attempt<W>>,
    /// By client: operations under way.
    under_way: Vec<usize>,
    calls: BTreeMap<CallId, u64>,
    next_call: CallId,
    pub(crate) asked: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    seen: SeenList<W::Seen>,
    leader: Option<NodeId>,
    /// No more operations are started from here on.
    pub(crate) limit: u64,
}

impl<W: Workload> Clients<W> {
    pub(crate) fn new(options: &Options, workload: W) -> Self {
        Self {
            workload,
            rng: Rng::new(options.seed, 4),
            open: BTreeMap::new(),
            under_way: vec![0; options.clients as usize],
            calls: BTreeMap::new(),
            // 0 is the cluster's first membership.
            next_call: 1,
            asked: 0,
            acknowledged: 0,
            unknown: 0,
            seen: Arc::new(Mutex::new(Vec::new())),
            leader: None,
            limit: options.operations,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn is_idle(&self, client: u32) -> bool {
        self.under_way[client as usize] == 0
    }

    pub(crate) fn new_call(&mut self) -> CallId {
        self.next_call += 1;
        self.next_call
    }
}

impl<W: Workload> World<W> {
    pub(crate) fn start_clients(&mut self) {
        for client in 0..self.options.clients {
            let after = self.clients.rng.around(self.options.think).as_nanos() as u64;
            self.schedule(self.now + after, Event::Client(client));
        }
    }

    /// A client starts an operation, or several at once.
    pub(crate) fn on_client(&mut self, client: u32) {
        self.digest.word(9);
        let options = &self.options;
        let batch = if self.clients.rng.chance(options.batches) { self.clients.rng.between(2, 6) } else { 1 };
        for _ in 0..batch {
            if self.clients.asked >= self.clients.limit {
                return;
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
                    let mut bytes = Vec::new();
                    if let Err(error) = command.encode(&mut bytes) {
                        return self.fail(format!("the workload made a command that cannot be encoded: {error}"));
                    }
                    Asked::Write(bytes)
                }
                Op::Read(policy, look) => Asked::Read(policy, look),
            };
            clients.under_way[client as usize] += 1;
            clients.open.insert(op, Attempt { asked, client, node: 0, call: None });
            let patience = self.options.election_timeout.as_nanos() as u64 * 8;
            self.schedule(self.now + patience, Event::GiveUp { client, op });
            self.attempt(client, op);
        }
        if self.clients.under_way[client as usize] == 0 {
            let after = self.clients.rng.around(self.options.think).as_nanos() as u64;
            self.schedule(self.now + after, Event::Client(client));
        }
    }

    pub(crate) fn attempt(&mut self, client: u32, op: u64) {
        self.digest.word(10 + op * 64);
        let call = self.clients.new_call();
        let clients = &mut self.clients;
        let Some(attempt) = clients.open.get_mut(&op) else { return };
        let known = clients.leader.and_then(|leader| self.places.iter().position(|place| place.id == leader));
        let anywhere = clients.rng.below(self.places.len() as u64) as usize;
        let at = match &attempt.asked {
            Asked::Write(_) if clients.rng.chance(900) => known.unwrap_or(anywhere),
            Asked::Write(_) | Asked::Read(..) => anywhere,
        };
        attempt.node = at;
        attempt.call = None;
        let Some(running) = &mut self.places[at].running else {
            if known == Some(at) {
                clients.leader = None;
            }
            return self.retry_later(client, op);
        };
        attempt.call = Some(call);
        clients.calls.insert(call, op);
        match &attempt.asked {
            Asked::Write(bytes) => running.node.write(call, bytes),
            Asked::Read(policy, look) => {
                let (look, seen) = (Arc::clone(look), Arc::clone(&clients.seen));
                let look = Box::new(move |machine: &crate::machine::Watched<W::Machine>| {
                    seen.lock().push((call, look(&machine.machine)));
                });
                running.node.read(call, *policy, look, running.clock.at(self.now));
            }
        }
        self.touch(at);
    }

    fn retry_later(&mut self, client: u32, op: u64) {
        let pause = self.options.election_timeout.as_nanos() as u64 / 8;
        let after = pause / 2 + self.clients.rng.below(pause);
        self.schedule(self.now + after, Event::Retry { client, op });
    }

    pub(crate) fn on_give_up(&mut self, _client: u32, op: u64) {
        self.digest.word(11 + op * 64);
        self.finish(op, Returned::Unknown);
    }

    pub(crate) fn on_answer(&mut self, at: usize, call: CallId, answer: AnswerOf<W>) {
        let op = match self.clients.calls.remove(&call) {
            Some(op) => op,
            None => return self.on_other_answer(at, call, answer),
        };
        let Some(attempt) = self.clients.open.get(&op).filter(|attempt| attempt.call == Some(call)) else { return };
        let client = attempt.client;
        match answer {
            Answer::Applied { response, .. } => self.finish(op, Returned::Written(response)),
            Answer::NotLeader { leader } => {
                self.clients.leader = leader;
                let hop = self.options.latency.as_nanos() as u64;
                match leader {
                    Some(_) => self.schedule(self.now + hop, Event::Retry { client, op }),
                    None => self.retry_later(client, op),
                }
            }
            Answer::Refused | Answer::ReadRefused(_) => self.retry_later(client, op),
            Answer::Unknown
            | Answer::Changed(_)
            | Answer::Initialized(_)
            | Answer::SessionDone { .. }
            | Answer::SessionRefused(_) => self.finish(op, Returned::Unknown),
        }
    }

    /// Takes what reads saw.
    pub(crate) fn take_seen(&mut self) {
        let seen = std::mem::take(&mut *self.clients.seen.lock());
        for (call, saw) in seen {
            let Some(op) = self.clients.calls.remove(&call) else { continue };
            if self.clients.open.get(&op).is_some_and(|attempt| attempt.call == Some(call)) {
                self.finish(op, Returned::Seen(saw));
            }
        }
    }

    fn finish(&mut self, op: u64, returned: Returned<<W::Machine as RaftStateMachine>::Response, W::Seen>) {
        let Some(attempt) = self.clients.open.remove(&op) else { return };
        match &returned {
            Returned::Written(_) | Returned::Seen(_) => self.clients.acknowledged += 1,
            Returned::NotApplied | Returned::Unknown => self.clients.unknown += 1,
        }
        // A write that is certainly not in any log now never will be; a read has no effect.
        let idle = attempt.call.is_none() || matches!(attempt.asked, Asked::Read(..));
        let returned = match returned {
            Returned::Unknown if idle => Returned::NotApplied,
            returned => returned,
        };
        let place = &self.places[attempt.node];
        let by = crate::workload::Asked { node: place.id.0, process: place.run, session: None };
        self.digest.word(12 + op * 64);
        self.clients.workload.on_return(op, by, self.now, returned);
        let under_way = &mut self.clients.under_way[attempt.client as usize];
        *under_way -= 1;
        if *under_way == 0 {
            let after = self.clients.rng.around(self.options.think).as_nanos() as u64;
            self.schedule(self.now + after, Event::Client(attempt.client));
        }
    }

    /// A process is gone: whether its writes are in a log is not known, reads are asked elsewhere.
    pub(crate) fn on_process_gone(&mut self, at: usize) {
        self.pending.retain(|_, place| *place != at);
        let gone: Vec<(u64, u32, bool)> = self
            .clients
            .open
            .iter()
            .filter(|(_, attempt)| attempt.node == at && attempt.call.is_some())
            .map(|(op, attempt)| (*op, attempt.client, matches!(attempt.asked, Asked::Read(..))))
            .collect();
        for (op, client, read) in gone {
            match read {
                true => {
                    if let Some(attempt) = self.clients.open.get_mut(&op) {
                        attempt.call = None;
                    }
                    self.retry_later(client, op);
                }
                false => self.finish(op, Returned::Unknown),
            }
        }
    }
}
