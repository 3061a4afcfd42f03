//! Writes that a node which does not lead hands to the one that does, and the calls that carry them.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{LeaderId, NodeId};
use quorate_wire::EntryKind;

use super::{Answer, CallId, VirtualNode};
use crate::RaftStateMachine;
use crate::call::{Call, Written};
use crate::calls::{Asked, Calls, Seen, answer};
use crate::forward::{Stop, told, written};
use crate::group::{Failure, Terms, entry_bytes};
use crate::session::check_session_entry;
use crate::write_many::propose_each;

/// Writes that others propose, and those that are proposed for others.
pub(super) struct Forwards {
    calls: Arc<Calls>,
    seen: Seen,
    open: Vec<Handed>,
}

/// What was handed to another node.
struct Handed {
    to: NodeId,
    only: Option<LeaderId>,
    /// In the order of the writes; `None` for one that nobody waits for any more.
    calls: Vec<Option<CallId>>,
    asked: Asked,
}

impl Forwards {
    /// `run` names this process among all of them, for ever.
    pub(super) fn new(run: u128) -> Self {
        Self { calls: Arc::new(Calls::new(run)), seen: Seen::default(), open: Vec::new() }
    }
}

impl<S: RaftStateMachine> VirtualNode<S> {
    /// Hands an entry of a client to the leader, as a node does that does not lead; with `only`, to that leader. It may be
    /// lost on the way: then it is never answered.
    pub fn forward(&mut self, call: CallId, entry: EntryKind, only: Option<LeaderId>, payload: &[u8]) {
        let (group, payload) = (self.group, Bytes::copy_from_slice(payload));
        self.hand_on(vec![call], only, |id, low| Call::Write { group, id, low, entry, only, payload });
    }

    /// Hands commands on in one call, each with an answer of its own; see [`forward`](Self::forward).
    pub fn forward_many(&mut self, commands: &[(CallId, Vec<u8>)], only: Option<LeaderId>) {
        let group = self.group;
        let payloads = commands.iter().map(|(_, payload)| Bytes::copy_from_slice(payload)).collect();
        let calls = commands.iter().map(|(call, _)| *call).collect();
        self.hand_on(calls, only, |id, low| Call::WriteMany { group, id, low, only, payloads });
    }

    fn hand_on(
        &mut self,
        calls: Vec<CallId>,
        only: Option<LeaderId>,
        question: impl FnOnce(crate::call::CallId, u64) -> Call,
    ) {
        let to = only.map(|only| only.node_id).or(self.core().leader()).filter(|leader| *leader != self.id);
        let asked = to.map(|to| (to, self.forwards.calls.ask(&*self.network, to, question)));
        let Some((to, asked)) = asked.filter(|(_, asked)| !asked.unsent) else {
            let unsent = calls.into_iter().map(|call| (call, Answer::NotLeader { leader: None }));
            return self.answers.lock().extend(unsent);
        };
        self.forwards.open.push(Handed { to, only, calls: calls.into_iter().map(Some).collect(), asked });
    }

    /// The caller waits for this forwarded write no more.
    pub fn forget(&mut self, call: CallId) {
        self.forwards.open.retain_mut(|handed| {
            handed.calls.iter_mut().filter(|waits| **waits == Some(call)).for_each(|waits| *waits = None);
            handed.calls.iter().any(Option::is_some)
        });
    }

    /// A call of a peer's library arrived, of the same process that it was sent to.
    pub fn called(&mut self, from: NodeId, body: Bytes) {
        match Call::decode(body) {
            Some(Call::Write { id, low, entry, only, payload, .. }) if self.forwards.seen.is_new(from, id, low) => {
                self.propose_for(from, id, entry, only, &payload);
            }
            Some(Call::WriteMany { id, low, only, payloads, .. }) if self.forwards.seen.is_new(from, id, low) => {
                self.propose_many_for(from, id, only, &payloads);
            }
            Some(call @ (Call::Written { id, .. } | Call::WrittenMany { id, .. })) => {
                self.forwards.calls.on_answer(from, id, call);
            }
            Some(_) | None => {}
        }
        self.shell.state.lock().awake = true;
    }

    /// As the library's host does for a peer.
    fn propose_for(
        &self,
        from: NodeId,
        id: crate::call::CallId,
        entry: EntryKind,
        only: Option<LeaderId>,
        payload: &Bytes,
    ) {
        let (group, network) = (self.group, Arc::clone(&self.network));
        let reply = move |written| answer(&*network, from, Call::Written { group, id, written });
        // Whether a given leader id leads is for the driver to say.
        if only.is_none() && !self.core().is_leader() {
            return reply(Written::NotLeader { leader: self.core().leader() });
        }
        if let Err(text) = check_session_entry(entry, payload) {
            return reply(Written::Malformed { text });
        }
        if !self.proposals.window.take(entry_bytes(payload.len()), self.window_bytes) {
            return reply(Written::Busy);
        }
        let later = reply.clone();
        let responder = move |result: Result<_, Failure>| later(written::<S::Response>(result, || None));
        if self.proposals.push_remote(entry, payload, &Terms::forwarded(only), Box::new(responder)).is_err() {
            reply(Written::NotLeader { leader: None });
        }
    }

    /// As the library's host does for a peer.
    fn propose_many_for(&self, from: NodeId, id: crate::call::CallId, only: Option<LeaderId>, payloads: &[Bytes]) {
        let (group, network) = (self.group, Arc::clone(&self.network));
        let reply = move |written| answer(&*network, from, Call::WrittenMany { group, id, written });
        let all = |written: Written| vec![written; payloads.len()];
        if only.is_none() && !self.core().is_leader() {
            return reply(all(Written::NotLeader { leader: self.core().leader() }));
        }
        let bytes = payloads.iter().map(|payload| entry_bytes(payload.len())).sum();
        if !self.proposals.window.take(bytes, self.window_bytes) {
            return reply(all(Written::Busy));
        }
        let check = |payload: &Bytes| check_session_entry(EntryKind::Command, payload).map(drop);
        propose_each(&self.proposals, payloads, only, check, || None, Box::new(reply));
    }

    /// Answers of leaders that arrived.
    pub(super) fn take_forwarded(&mut self) {
        let mut answers = self.answers.lock();
        self.forwards.open.retain_mut(|Handed { to, only, calls, asked }| {
            let written = match asked.take_answer() {
                Some(Call::Written { written, .. }) => vec![written],
                Some(Call::WrittenMany { written, .. }) => written,
                Some(_) | None => return true,
            };
            // An answer to other writes says nothing of these.
            let fits = written.len() == calls.len();
            let written = if fits { written } else { vec![Written::Unknown; calls.len()] };
            for (call, written) in calls.iter().zip(written) {
                let answer = match told::<S::Response>(written, *to, *only) {
                    Ok((log_id, response)) => Answer::Applied { log_id, response },
                    Err(Stop::Failed(failure)) => super::answer_of(failure),
                    // It was applied, and how is not known; or it never entered a log.
                    Err(Stop::Error(crate::ClientWriteError::Response { .. })) => Answer::Unknown,
                    Err(Stop::Error(_) | Stop::NoRoom) => Answer::Refused,
                };
                answers.extend(call.map(|call| (call, answer)));
            }
            false
        });
    }
}
