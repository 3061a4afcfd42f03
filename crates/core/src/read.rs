//! Reads: one confirmed round for a batch of them (dissertation 6.4).

use crate::core::{Core, Role};
use crate::event::{Action, Actions, Outcome, ReadPolicy, Refusal};
use crate::ids::{LogId, NodeId, RequestId, Round};
use crate::message::Message;

/// Most reads that may be asked of the leader and not answered: 64 KiB of state. The oldest is refused then; its
/// question, or the answer, was most likely lost.
const MAX_ASKED_READS: usize = 4096;

/// Reads that wait for a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct ReadQueue {
    /// The round under way, what the reads of its batch will see, and who they are.
    under_way: Option<(Round, LogId, Vec<Reader>)>,
    /// Reads that came after it began.
    next: Vec<Reader>,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    /// A caller on this node.
    Local(RequestId),
    /// A caller on another node, which asked for the read index.
    Remote { node: NodeId, request: RequestId },
}

impl Reader {
    fn answer(self, read: Option<LogId>, out: &mut Actions) {
        out.push(match (self, read) {
            (Reader::Local(request), Some(log_id)) => Action::Reply { request, outcome: Outcome::Read(log_id) },
            (Reader::Local(request), None) => {
                let refusal = Refusal::NotLeader { leader: None };
                Action::Reply { request, outcome: Outcome::Refused(refusal) }
            }
            (Reader::Remote { node, request }, log_id) => {
                Action::Send { to: node, message: Message::ReadReply { request, log_id } }
            }
        });
    }
}

impl ReadQueue {
    /// The round under way, and what its reads will see.
    pub(crate) fn under_way(&self) -> Option<(Round, LogId)> {
        self.under_way.as_ref().map(|(round, log_id, _)| (*round, *log_id))
    }

    /// Callers on this node that wait.
    pub(crate) fn callers(&self) -> impl Iterator<Item = RequestId> {
        let readers = self.under_way.iter().flat_map(|(_, _, readers)| readers).chain(&self.next);
        readers.filter_map(|reader| match reader {
            Reader::Local(request) => Some(*request),
            Reader::Remote { .. } => None,
        })
    }

    /// The leadership ended: nobody was answered, nothing was read.
    pub(crate) fn fail(&mut self, out: &mut Actions) {
        let (_, _, readers) = self.under_way.take().unwrap_or_default();
        for reader in readers.into_iter().chain(self.next.drain(..)) {
            reader.answer(None, out);
        }
    }
}

impl Core {
    pub(crate) fn on_read(&mut self, request: RequestId, policy: ReadPolicy, out: &mut Actions) {
        let refuse = |refusal| Action::Reply { request, outcome: Outcome::Refused(refusal) };
        match policy {
            ReadPolicy::Stale => {
                return out.push(Action::Reply { request, outcome: Outcome::Read(self.applied) });
            }
            // Never falls back silently to another policy.
            ReadPolicy::LeaseRead => return out.push(refuse(Refusal::LeaseDisabled)),
            ReadPolicy::ReadIndex => {}
        }
        match &mut self.role {
            Role::Leader(leader) => {
                leader.reads.next.push(Reader::Local(request));
                self.maybe_start_reads(out);
            }
            Role::Follower(_) | Role::Candidate(_) => match self.leader() {
                None => out.push(refuse(Refusal::NotLeader { leader: None })),
                Some(leader) => {
                    if self.asked_reads.len() >= MAX_ASKED_READS {
                        let (_, oldest) = self.asked_reads.remove(0);
                        let refusal = Refusal::NotLeader { leader: Some(leader) };
                        out.push(Action::Reply { request: oldest, outcome: Outcome::Refused(refusal) });
                    }
                    self.next_read += 1;
                    let number = RequestId(self.next_read);
                    self.asked_reads.push((number, request));
                    out.push(Action::Send { to: leader, message: Message::ReadRequest { request: number } });
                }
            },
        }
    }

    pub(crate) fn on_read_request(&mut self, from: NodeId, request: RequestId, out: &mut Actions) {
        let reader = Reader::Remote { node: from, request };
        let Role::Leader(leader) = &mut self.role else { return reader.answer(None, out) };
        leader.reads.next.push(reader);
        self.maybe_start_reads(out);
    }

    pub(crate) fn on_read_reply(&mut self, number: RequestId, log_id: Option<LogId>, out: &mut Actions) {
        let Some(place) = self.asked_reads.iter().position(|(asked, _)| *asked == number) else { return };
        let (_, request) = self.asked_reads.swap_remove(place);
        let Some(log_id) = log_id else {
            let refusal = Refusal::NotLeader { leader: None };
            return out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) });
        };
        // What the leader confirmed is committed: no need to wait for the next append to say so.
        if self.log.holds(log_id) {
            self.commit_to(log_id.index);
        }
        out.push(Action::Reply { request, outcome: Outcome::Read(log_id) });
    }

    /// Starts a round for the reads that wait, unless one is under way.
    pub(crate) fn maybe_start_reads(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &mut self.role else { return };
        // Rule: without a commit of its own a leader does not know what is committed (dissertation 6.4, step 1).
        let knows_commit = self.commit >= leader.first_own;
        if leader.reads.next.is_empty() || leader.reads.under_way.is_some() || !knows_commit {
            return;
        }
        let Some(log_id) = self.log.at(self.commit) else { return };
        let readers = std::mem::take(&mut leader.reads.next);
        self.broadcast_round(out);
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.under_way = Some((leader.round, log_id, readers));
        }
        self.maybe_confirm_reads(out);
    }

    /// Answers the reads whose round a commit quorum acknowledged.
    pub(crate) fn maybe_confirm_reads(&mut self, out: &mut Actions) {
        let Role::Leader(leader) = &self.role else { return };
        let Some((round, _, _)) = &leader.reads.under_way else { return };
        if self.round_reached().is_none_or(|reached| reached < *round) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some((_, log_id, readers)) = leader.reads.under_way.take() else { return };
        for reader in readers {
            reader.answer(Some(log_id), out);
        }
        self.maybe_start_reads(out);
    }

    /// The leader changed: what was asked of the old one may never be answered.
    pub(crate) fn fail_asked_reads(&mut self, out: &mut Actions) {
        for (_, request) in self.asked_reads.drain(..) {
            let refusal = Refusal::NotLeader { leader: None };
            out.push(Action::Reply { request, outcome: Outcome::Refused(refusal) });
        }
    }
}
