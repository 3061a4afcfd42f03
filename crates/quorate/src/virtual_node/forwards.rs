//! Writes that a node which does not lead hands to the one that does, and the calls that carry them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::NodeId;
use quorate_wire::EntryKind;

use super::{Answer, CallId, VirtualNode};
use crate::RaftStateMachine;
use crate::call::{Call, Written};
use crate::calls::{Asked, Calls, Seen, answer};
use crate::forward::{Stop, told, written};
use crate::group::{Failure, Terms, entry_bytes};
use crate::session::check_session_entry;

/// Writes that others propose, and those that are proposed for others.
pub(super) struct Forwards {
    calls: Arc<Calls>,
    seen: Seen,
    /// Whom each write was handed to, and the question.
    open: BTreeMap<CallId, (NodeId, Asked)>,
}

impl Forwards {
    /// `run` names this process among all of them, for ever.
    pub(super) fn new(run: u128) -> Self {
        Self { calls: Arc::new(Calls::new(run)), seen: Seen::default(), open: BTreeMap::new() }
    }
}

impl<S: RaftStateMachine> VirtualNode<S> {
    /// Hands an entry of a client to the leader, as a node does that does not lead. It may be lost on the way: then it is
    /// never answered.
    pub fn forward(&mut self, call: CallId, entry: EntryKind, payload: &[u8]) {
        let Some(leader) = self.core().leader().filter(|leader| *leader != self.id) else {
            return self.answers.lock().push((call, Answer::NotLeader { leader: None }));
        };
        let (group, payload) = (self.group, Bytes::copy_from_slice(payload));
        let question = |id, low| Call::Write { group, id, low, entry, only: None, payload };
        let asked = self.forwards.calls.ask(&*self.network, leader, question);
        if asked.unsent {
            return self.answers.lock().push((call, Answer::NotLeader { leader: None }));
        }
        self.forwards.open.insert(call, (leader, asked));
    }

    /// The caller waits for this forwarded write no more.
    pub fn forget(&mut self, call: CallId) {
        self.forwards.open.remove(&call);
    }

    /// A call of a peer's library arrived, of the same process that it was sent to.
    pub fn called(&mut self, from: NodeId, body: Bytes) {
        match Call::decode(body) {
            Some(Call::Write { id, low, entry, payload, .. }) if self.forwards.seen.is_new(from, id, low) => {
                self.propose_for(from, id, entry, &payload);
            }
            Some(call @ Call::Written { id, .. }) => self.forwards.calls.on_answer(from, id, call),
            Some(_) | None => {}
        }
        self.shell.state.lock().awake = true;
    }

    /// As the library's host does for a peer.
    fn propose_for(&self, from: NodeId, id: crate::call::CallId, entry: EntryKind, payload: &Bytes) {
        let (group, network) = (self.group, Arc::clone(&self.network));
        let reply = move |written| answer(&*network, from, Call::Written { group, id, written });
        if !self.core().is_leader() {
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
        if self.proposals.push_remote(entry, payload, &Terms::default(), Box::new(responder)).is_err() {
            reply(Written::NotLeader { leader: None });
        }
    }

    /// Answers of leaders that arrived.
    pub(super) fn take_forwarded(&mut self) {
        let mut answers = self.answers.lock();
        self.forwards.open.retain(|call, (leader, asked)| {
            let Some(Call::Written { written, .. }) = asked.take_answer() else { return true };
            answers.push((
                *call,
                match told::<S::Response>(written, *leader, None) {
                    Ok((log_id, response)) => Answer::Applied { log_id, response },
                    Err(Stop::Failed(failure)) => super::answer_of(failure),
                    // It was applied, and how is not known; or it never entered a log.
                    Err(Stop::Error(crate::ClientWriteError::Response { .. })) => Answer::Unknown,
                    Err(Stop::Error(_) | Stop::NoRoom) => Answer::Refused,
                },
            ));
            false
        });
    }
}
