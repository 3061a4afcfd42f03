//! Many writes at once, through the leader: a batch of commands is one call, so they keep their order on the way.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{LeaderId, NodeId};
use quorate_wire::EntryKind;
use tokio::time::timeout_at;

use crate::call::{Call, CallId, Written};
use crate::calls::answer;
use crate::forward::{Attempt, Stop, told, written};
use crate::group::{Failure, Permit, ProposalQueue, Responder, Terms, Timer, entry_bytes};
use crate::raft::{ClientWriteResponse, ClientWriteResult, Group, RETRY_PAUSE};
use crate::session::SessionOutcome;
use crate::{ClientWriteError, Payload, RaftStateMachine};

/// Most commands of one call.
const MAX_COMMANDS: usize = 4096;
/// A call takes no more commands once it has this many bytes: 1 MiB.
const MAX_CALL_BYTES: usize = 1 << 20;
/// Most bytes of responses in one answer, which must fit a frame: 32 MiB. A response beyond it is not handed on.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// A command and its place among the results.
type Placed = (usize, Bytes);

/// One result a command; `None` where there is none yet.
type Results<R> = [Option<ClientWriteResult<R>>];

impl<S: RaftStateMachine> Group<S> {
    /// Writes what has no result yet, in its order, through whoever leads, up to the deadline.
    pub(crate) async fn write_rest(
        self: &Arc<Self>,
        mut rest: Vec<Placed>,
        only: Option<LeaderId>,
        deadline: Instant,
        results: &mut Results<S::Response>,
    ) {
        let mut leaders = self.node.watch_leader();
        let terms = Terms { only, ..Terms::default() };
        while !rest.is_empty() {
            if Instant::now() >= deadline {
                return fail(&rest, &self.no_leader(), results);
            }
            // Another node may lead by the time there is room: only then is it asked who does.
            let count = front(&rest);
            let bytes = rest[..count].iter().map(|(_, payload)| entry_bytes(payload.len())).sum();
            let Ok(permit) = self.room(bytes, deadline).await else {
                return fail(&rest, &ClientWriteError::Overloaded, results);
            };
            let leader = match only {
                Some(leader_id) => {
                    leaders.borrow_and_update();
                    self.lost_leader(&terms).map_or(Ok(leader_id.node_id), Err)
                }
                None => self.leader_before(deadline, &mut leaders).await,
            };
            let leader = match leader {
                Ok(leader) => leader,
                Err(error) => return fail(&rest, &error, results),
            };
            let attempts = match leader == self.node.me {
                true => self.many_here(&rest[..count], only, deadline, permit).await,
                false => self.many_there(leader, &rest[..count], only, deadline, permit).await,
            };
            let (mut again, later) = (Vec::new(), rest.split_off(count));
            for ((place, payload), attempt) in rest.into_iter().zip(attempts) {
                results[place] = Some(match attempt {
                    Ok((log_id, response)) => Ok(ClientWriteResponse { log_id, response }),
                    Err(Stop::Error(error)) => Err(error),
                    Err(Stop::Failed(Failure::Replaced)) if let Some(wanted) = only => {
                        Err(ClientWriteError::LeaderChanged { wanted, leader: self.node.leader() })
                    }
                    Err(Stop::NoRoom | Stop::Failed(Failure::NotLeader(_) | Failure::Replaced)) => {
                        again.push((place, payload));
                        continue;
                    }
                    Err(Stop::Failed(failure)) => Err(self.error_of(failure)),
                });
            }
            if !again.is_empty() {
                // A known other leader is asked at once; else something has to change first.
                let pause = tokio::time::timeout(RETRY_PAUSE, leaders.changed());
                drop(timeout_at(deadline.into(), pause).await);
            }
            again.extend(later);
            rest = again;
        }
    }

    /// Puts commands into this node's queue, all or none.
    async fn many_here(
        self: &Arc<Self>,
        commands: &[Placed],
        only: Option<LeaderId>,
        deadline: Instant,
        permit: Permit,
    ) -> Vec<Attempt<S::Response>> {
        let (payloads, mut ends) = (concat(commands), Vec::with_capacity(commands.len()));
        commands.iter().for_each(|(_, payload)| ends.push(ends.last().copied().unwrap_or(0) + payload.len()));
        permit.hand_on();
        let runs = self.proposals.push_many(&payloads, &ends, only, Timer::Caller);
        let mut attempts: Vec<Attempt<S::Response>> = Vec::with_capacity(commands.len());
        self.results_of(runs, Some(deadline), |result| attempts.push(result.map_err(Stop::Failed))).await;
        // A queue that is closed takes none of them.
        attempts.resize_with(commands.len(), || Err(Stop::Failed(Failure::NotLeader(None))));
        attempts
    }

    /// Sends commands to the leader and waits for its answer. Until then they are counted here as well, so that a node which
    /// drains waits for it.
    async fn many_there(
        &self,
        leader: NodeId,
        commands: &[Placed],
        only: Option<LeaderId>,
        deadline: Instant,
        permit: Permit,
    ) -> Vec<Attempt<S::Response>> {
        let all = |failure: Failure| commands.iter().map(|_| Err(Stop::Failed(failure.clone()))).collect();
        let payloads: Vec<Bytes> = commands.iter().map(|(_, payload)| payload.clone()).collect();
        let group = self.node.group;
        let question = |id, low| Call::WriteMany { group, id, low, only, payloads };
        let mut asked = self.host.calls.ask(&*self.host.network, leader, question);
        if asked.unsent {
            return all(Failure::NotLeader(Some(leader)));
        }
        let Ok(Some(Call::WrittenMany { written, .. })) = timeout_at(deadline.into(), asked.answer()).await else {
            return all(Failure::Unknown);
        };
        drop(permit);
        if written.len() != commands.len() {
            return all(Failure::Unknown);
        }
        written.into_iter().map(|written| told(written, leader, only)).collect()
    }

    /// A peer forwards commands.
    pub(crate) fn propose_many(
        self: Arc<Self>,
        from: NodeId,
        id: CallId,
        only: Option<LeaderId>,
        payloads: Vec<Bytes>,
    ) {
        let (group, host) = (self.node.group, Arc::clone(&self.host));
        let reply = move |written| answer(&*host.network, from, Call::WrittenMany { group, id, written });
        let all = |written: Written| vec![written; payloads.len()];
        // Whether a given leader id leads is for the driver to say.
        if only.is_none() && !self.node.leads() {
            return reply(all(Written::NotLeader { leader: self.node.leader() }));
        }
        let bytes = payloads.iter().map(|payload| entry_bytes(payload.len())).sum();
        if !self.proposals.window.take_forwarded(bytes, self.limit()) {
            return reply(all(Written::Busy));
        }
        let node = Arc::clone(&self.node);
        let leader = move || node.leader().filter(|leader| *leader != node.me);
        propose_each(&self.proposals, &payloads, only, |payload| self.check_command(payload), leader, Box::new(reply));
        self.host.step(&self.node);
    }
}

/// Puts commands that another node forwards into the queue, whose bytes were taken from the window, and answers for all of
/// them with the last. `check` says why a command is none; `leader`, who leads if it is another node.
pub(crate) fn propose_each<R: Payload>(
    proposals: &ProposalQueue<R>,
    payloads: &[Bytes],
    only: Option<LeaderId>,
    check: impl Fn(&Bytes) -> Result<(), String>,
    leader: impl Fn() -> Option<NodeId> + Clone + Send + 'static,
    reply: Reply,
) {
    let answers = Arc::new(Answers {
        written: Mutex::new((vec![None; payloads.len()], payloads.len())),
        reply: Mutex::new(Some(reply)),
    });
    for (place, payload) in payloads.iter().enumerate() {
        if let Err(text) = check(payload) {
            proposals.window.give(entry_bytes(payload.len()));
            answers.set(place, Written::Malformed { text });
            continue;
        }
        let (told, leader) = (Arc::clone(&answers), leader.clone());
        let responder: Responder<R> = Box::new(move |result| told.set(place, written(result, leader)));
        let terms = Terms::forwarded(only);
        if proposals.push_remote(EntryKind::Command, payload, &terms, responder).is_err() {
            answers.set(place, Written::NotLeader { leader: None });
        }
    }
}

/// None of them was applied, for this reason.
fn fail<R>(rest: &[Placed], error: &ClientWriteError, results: &mut Results<R>) {
    rest.iter().for_each(|(place, _)| results[*place] = Some(Err(error.clone())));
}

/// How many commands go into one call: at least one.
fn front(rest: &[Placed]) -> usize {
    let mut bytes = 0;
    let fits = |(_, payload): &&Placed| {
        bytes += entry_bytes(payload.len());
        bytes <= MAX_CALL_BYTES
    };
    rest.iter().take(MAX_COMMANDS).take_while(fits).count().max(1)
}

fn concat(commands: &[Placed]) -> Vec<u8> {
    let mut all = Vec::with_capacity(commands.iter().map(|(_, payload)| payload.len()).sum());
    commands.iter().for_each(|(_, payload)| all.extend_from_slice(payload));
    all
}

/// Sends the answer.
pub(crate) type Reply = Box<dyn FnOnce(Vec<Written>) + Send>;

/// Collects how forwarded commands end; sends the answer with the last of them.
struct Answers {
    /// By place, and how many are missing.
    written: Mutex<(Vec<Option<Written>>, usize)>,
    reply: Mutex<Option<Reply>>,
}

impl Answers {
    fn set(&self, place: usize, written: Written) {
        let all = {
            let mut collected = self.written.lock();
            let (list, missing) = &mut *collected;
            if list[place].replace(written).is_none() {
                *missing -= 1;
            }
            (*missing == 0).then(|| std::mem::take(list))
        };
        let Some(all) = all else { return };
        let reply = self.reply.lock().take();
        if let Some(reply) = reply {
            reply(within_a_frame(all));
        }
    }
}

/// What does not fit an answer was applied all the same.
fn within_a_frame(all: Vec<Option<Written>>) -> Vec<Written> {
    let mut bytes = 0;
    let cut = |written| match written {
        Written::Applied { log_id, response } => {
            bytes += response.len();
            match bytes <= MAX_ANSWER_BYTES {
                true => Written::Applied { log_id, response },
                false => Written::Session(SessionOutcome::Unreadable(log_id)),
            }
        }
        other => other,
    };
    all.into_iter().flatten().map(cut).collect()
}
