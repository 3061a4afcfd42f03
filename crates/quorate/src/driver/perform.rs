//! Performing the core's actions.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_core::{
    Action, Append, AppendHeader, AppendReply, CoreEntry, Entries, Event, Instant, LeaderId, LogId, Message, NodeId,
    Note, Outcome, Refusal, RequestId, Source, Span, StreamId, Tail as LogTail, Write, WriteId, WriteOp,
};
use quorate_wire::{Batch, Batches, EntryKind, Packet, encode_membership, entries_of};

use super::{Answer, ApplyJob, Awaited, Driver, Effects, Fetch, Lent, Now, Proposed, Ship, Waiting, note};
use crate::blame;
use crate::group::{Failure, Permit, Taken, forget};
use crate::memory::Links;
use crate::{ChangeError, ClosedReason, InitializeError, LogWrite, SnapshotError};

impl Driver {
    /// Leaves something meaningless where it takes what an action holds: actions are large, so none is moved.
    ///
    /// Not a part of the loop over them: there its many addresses would be computed for each step, whatever it asks for.
    #[inline(never)]
    pub(super) fn perform(&mut self, now: Now, action: &mut Action, effects: &mut Effects) {
        match action {
            Action::Persist(write) => self.persist(now, write, effects),
            Action::Send { to, message: Message::AppendReply(reply) } => self.reply_to_append(*to, reply),
            Action::SendEntries { to, header, span } => {
                self.trips.sent(&self.meters, *to, header, now.at);
                self.send_entries(*to, header, *span, effects);
            }
            Action::Apply(span) => {
                let batches = self.tail.read(*span);
                effects.apply.push(ApplyJob::Apply { span: *span, batches, since: now.at });
            }
            Action::Reply { request, outcome: Outcome::Proposed(span) } => {
                debug_assert!(!self.waiting.contains_key(request), "proposals wait elsewhere");
                self.proposed(now, *span, effects);
            }
            action => self.perform_rare(now, action, effects),
        }
    }

    /// What no write asks for.
    #[inline(never)]
    fn perform_rare(&mut self, now: Now, action: &mut Action, effects: &mut Effects) {
        match action {
            Action::Send { to, message } => {
                if let Message::Append(append) = &message {
                    self.trips.sent(&self.meters, *to, &append.header, now.at);
                }
                let nothing = Message::ReadReply { request: RequestId(0), log_id: None };
                self.send(*to, std::mem::replace(message, nothing));
            }
            Action::SendSnapshot { to, header, at_least } => {
                effects.ship.push(Ship { to: *to, header: *header, at_least: *at_least });
            }
            Action::InstallSnapshot(meta) => match self.received.take() {
                Some(data) => effects.apply.push(ApplyJob::Install { meta: Box::new(std::mem::take(meta)), data }),
                None => self.caused.push_back(Event::SnapshotInstallFailed),
            },
            Action::BuildSnapshot => effects.apply.push(ApplyJob::Build),
            Action::Reply { request, outcome } => {
                self.reply(*request, std::mem::replace(outcome, Outcome::Unknown), effects);
            }
            Action::Purge { upto } => {
                blame::storage(|| self.storage.purge(self.group, *upto));
                self.keep_time();
                self.tail.forget(upto.index);
            }
            Action::Note(note) => self.note(note, effects),
            Action::Persist(_) | Action::SendEntries { .. } | Action::Apply(_) => {
                unreachable!("the caller performs what writes ask for")
            }
        }
    }

    fn note(&mut self, note: &Note, effects: &mut Effects) {
        note::trace(self.me, self.group, note);
        self.meters.note(note);
        match note {
            Note::MembershipInForce(_) => self.tell_addresses(),
            Note::LostLog { named } => {
                let disk = self.core.config().incarnation;
                effects.closed.get_or_insert(ClosedReason::LostLog { node: self.me, disk, named: *named });
            }
            Note::Campaigning { .. }
            | Note::BecameLeader(_)
            | Note::SteppedDown { .. }
            | Note::Following(_)
            | Note::Granted { .. }
            | Note::PeerState { .. }
            | Note::Truncated { .. }
            | Note::OtherIncarnation { .. }
            | Note::Rejoining { .. }
            | Note::OlderCopy { .. }
            | Note::PeerLostEntries { .. }
            | Note::Repaired { .. }
            | Note::Impossible { .. }
            | Note::BoundByLease
            | Note::ClockJumped
            | Note::SnapshotInstalled(_)
            | Note::Halted => {}
        }
    }

    // ---- durable writes ----

    fn persist(&mut self, now: Now, write: &Write, effects: &mut Effects) {
        let op = match &write.op {
            WriteOp::Append { span, source } => return self.persist_entries(now, write.id, (*span, source), effects),
            WriteOp::Vote(vote) => LogWrite::Vote(*vote),
            WriteOp::PromiseLease(lease) => LogWrite::PromiseLease(*lease),
            WriteOp::ForgetPromisedEnd => LogWrite::ForgetPromisedEnd,
            &WriteOp::Truncate { after } => {
                self.keep_time();
                self.tail.truncate_after(after);
                LogWrite::Truncate { after }
            }
            &WriteOp::Reset { to, tail } => {
                self.keep_time();
                match tail {
                    LogTail::Keep => self.tail.forget(to.index),
                    LogTail::Discard => self.tail.clear(),
                }
                LogWrite::Reset { to, tail }
            }
        };
        if let Some(memory) = &self.memory {
            self.meters.persist.enter(Duration::ZERO, 1);
            return memory.write(op);
        }
        self.submit(now, write.id, op);
    }

    fn persist_entries(&mut self, now: Now, id: WriteId, (span, source): (Span, &Source), effects: &mut Effects) {
        let made = match source {
            // Most often a message brings just them.
            Source::Message if is_span(&self.at_hand, span) => None,
            _ => match self.bytes_of(now, span, source) {
                Some(batches) => Some(batches),
                None => {
                    // Without the bytes of an entry that the core counts on, this node must not go on.
                    let text = format!("the bytes of entries {span:?} are not at hand");
                    effects.closed.get_or_insert(ClosedReason::Internal(text));
                    self.broken = true;
                    return;
                }
            },
        };
        let batches = made.as_ref().unwrap_or(&self.at_hand);
        self.tail.append(batches);
        if let Some(memory) = &self.memory {
            self.meters.persist.enter(Duration::ZERO, 1);
            return memory.append(batches);
        }
        let batches = made.unwrap_or_else(|| std::mem::take(&mut self.at_hand));
        self.submit(now, id, LogWrite::Append(batches));
    }

    fn submit(&mut self, now: Now, id: WriteId, op: LogWrite) {
        self.writes.submitted(id, now.at);
        blame::storage(|| self.storage.submit(self.group, id, op));
    }

    fn bytes_of(&mut self, now: Now, span: Span, source: &Source) -> Option<Batches> {
        match source {
            Source::Message => {
                let wanted = |batch: &Batch| batch.slice(span.first_index(), span.last.index);
                let batches: Batches = self.at_hand.iter().filter_map(wanted).collect();
                let whole = batches.first().map(|batch| batch.first().index) == Some(span.first_index())
                    && batches.last().map(Batch::last) == Some(span.last);
                whole.then_some(batches)
            }
            Source::Proposal(_) => {
                let time = self.stamp(now);
                let taken = self.proposal.as_mut()?;
                let batch =
                    taken.builder.seal(self.cluster, self.group, span.last.leader_id, span.first_index(), time)?;
                self.meters.proposed(span.count(), batch.bytes().len() as u64);
                (batch.last() == span.last).then(|| one(batch))
            }
            Source::Core(entry) => {
                match entry {
                    CoreEntry::Blank => {
                        // A new leader goes on where the log's time stands, whatever its own clock says.
                        self.keep_time();
                        self.builder.push(EntryKind::Blank, &[]);
                    }
                    CoreEntry::Membership(membership) => {
                        let mut payload = Vec::new();
                        encode_membership(membership, &mut payload);
                        self.builder.push(EntryKind::Membership, &payload);
                    }
                }
                let time = self.stamp(now);
                let leader_id = span.last.leader_id;
                self.builder.seal(self.cluster, self.group, leader_id, span.first_index(), time).map(one)
            }
        }
    }

    /// Remembers the time of the log's last entry, before the tail may forget that entry: this node may be the next
    /// leader, and must not stamp a smaller time.
    fn keep_time(&mut self) {
        self.last_time = self.last_time.max(self.tail.last_time().unwrap_or(0));
    }

    /// The time for a new entry: never goes back along the log.
    fn stamp(&mut self, now: Now) -> u64 {
        self.last_time = self.last_time.max(now.wall);
        self.last_time
    }

    // ---- sending ----

    /// Keeps it for a while: a later one of this turn may say the same and more.
    fn reply_to_append(&mut self, to: NodeId, reply: &AppendReply) {
        let Some((_, held)) = self.replies.iter_mut().find(|(id, _)| *id == to) else {
            return self.replies.push((to, *reply));
        };
        if !held.absorb(reply) {
            let earlier = std::mem::replace(held, *reply);
            self.post(to, Message::AppendReply(earlier));
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        // What goes to one peer keeps its order.
        if let Some(place) = self.replies.iter().position(|(id, _)| *id == to) {
            let (_, reply) = self.replies.swap_remove(place);
            self.post(to, Message::AppendReply(reply));
        }
        self.post(to, message);
    }

    pub(super) fn flush_replies(&mut self, lent: Option<Lent<'_>>) {
        // What goes to one peer keeps its order: nothing that was sent before is overtaken.
        let mut asked = lent.filter(|_| !self.posted);
        for at in 0..self.replies.len() {
            let ((to, reply), group) = (self.replies[at], self.group);
            if let Some(Lent { from, answers, .. }) = &mut asked
                && *from == to
                && let Some(links) = &self.links
            {
                answers.push_back(Answer { from: self.me, incarnation: links.incarnation(), reply });
                continue;
            }
            let packet = || Packet { group, message: Message::AppendReply(reply), batches: Batches::new() };
            let Err(packet) = send_directly(&mut self.links, to, packet, (self.at, &mut self.answers)) else {
                continue;
            };
            blame::network(|| drop(self.network.send(to, packet())));
        }
        self.replies.clear();
    }

    /// Sends a message without entries; one that cannot be sent is lost, which the protocol allows.
    fn post(&mut self, to: NodeId, message: Message) {
        if let Message::VoteReply(reply) = &message {
            note::refused(self.me, self.group, to, reply);
            self.meters.voted(&reply.answer);
        }
        self.posted = true;
        let group = self.group;
        let packet = || Packet { group, message, batches: Batches::new() };
        let Err(packet) = send_directly(&mut self.links, to, packet, (self.at, &mut self.answers)) else { return };
        blame::network(|| drop(self.network.send(to, packet())));
    }

    fn send_entries(&mut self, to: NodeId, header: &AppendHeader, span: Span, effects: &mut Effects) {
        if span.count() == 0 {
            return self.ask_behind(to, Append { header: *header, prev: span.prev, entries: Entries::default() });
        }
        if self.sent.as_ref().is_none_or(|(sent, _, _)| *sent != span) {
            let Some(batches) = self.tail.read(span) else {
                self.fetching.push(to);
                self.trips.forget(to, header.round);
                return effects.fetch.push(Fetch { to, header: *header, span });
            };
            let Ok(entries) = entries_of(&batches) else { return self.lost(to, header.stream) };
            self.sent = Some((span, batches, entries));
        }
        self.note_stream(to, header.stream);
        let Some((_, batches, entries)) = &self.sent else { return };
        let packet = || Packet {
            group: self.group,
            message: Message::Append(Append { header: *header, prev: span.prev, entries: entries.clone() }),
            batches: match &batches[..] {
                [batch] => one(batch.clone()),
                _ => batches.clone(),
            },
        };
        let Err(packet) = send_directly(&mut self.links, to, packet, (self.at, &mut self.answers)) else { return };
        if blame::network(|| self.network.send(to, packet()).is_err()) {
            self.lost(to, header.stream);
        }
    }

    /// A question about entries that were sent: must not overtake them, also not those that are still being read.
    fn ask_behind(&self, to: NodeId, append: Append) {
        if self.fetching.contains(&to) {
            return;
        }
        let packet = Packet { group: self.group, message: Message::Append(append), batches: Batches::new() };
        blame::network(|| drop(self.network.send_behind(to, packet)));
    }

    /// Sends what had to be read from the storage.
    pub(super) fn send_fetched(&mut self, to: NodeId, header: AppendHeader, prev: LogId, batches: Batches) {
        let stream = header.stream;
        let Ok(entries) = entries_of(&batches) else { return self.lost(to, stream) };
        self.note_stream(to, stream);
        let message = Message::Append(Append { header, prev, entries });
        let packet = Packet { group: self.group, message, batches };
        if blame::network(|| self.network.send(to, packet).is_err()) {
            self.lost(to, stream);
        }
    }

    /// Entries are about to be sent in this stream.
    fn note_stream(&mut self, to: NodeId, stream: StreamId) {
        match self.streams.iter_mut().find(|(id, _)| *id == to) {
            Some((_, last)) => *last = stream,
            None => self.streams.push((to, stream)),
        }
    }

    pub(super) fn lost(&mut self, to: NodeId, stream: StreamId) {
        self.caused.push_back(Event::SendLost { to, stream });
    }

    // ---- answers ----

    fn reply(&mut self, request: RequestId, outcome: Outcome, effects: &mut Effects) {
        match self.waiting.remove(&request) {
            None => self.answer_proposal(outcome, effects),
            Some(Waiting::Read(batch, _)) => match outcome {
                Outcome::Read(log_id) => batch.finish(Ok(log_id), &mut effects.fired),
                Outcome::Refused(refusal) => batch.finish(Err(refusal), &mut effects.fired),
                Outcome::Proposed(_)
                | Outcome::MembershipChanged(_)
                | Outcome::Initialized(_)
                | Outcome::Transferred(_)
                | Outcome::SnapshotBuilt(_)
                | Outcome::LogPurged(_)
                | Outcome::Unknown => batch.finish(Err(Refusal::NotLeader { leader: None }), &mut effects.fired),
            },
            Some(Waiting::Change(reply)) => {
                let result = match outcome {
                    Outcome::MembershipChanged(log_id) => Ok(log_id),
                    Outcome::Refused(Refusal::NotLeader { leader }) => Err(ChangeError::NotLeader { leader }),
                    Outcome::Refused(refusal) => Err(ChangeError::Refused(refusal)),
                    Outcome::Proposed(_)
                    | Outcome::Read(_)
                    | Outcome::Initialized(_)
                    | Outcome::Transferred(_)
                    | Outcome::SnapshotBuilt(_)
                    | Outcome::LogPurged(_)
                    | Outcome::Unknown => Err(ChangeError::OutcomeUnknown),
                };
                effects.fired.call(move || drop(reply.send(result)));
            }
            Some(Waiting::Transfer(reply)) => {
                let result = transferred(outcome);
                effects.fired.call(move || drop(reply.send(result)));
            }
            Some(Waiting::Initialize(reply)) => {
                let result = match outcome {
                    Outcome::Initialized(log_id) => Ok(log_id),
                    Outcome::Refused(refusal) => Err(InitializeError::Refused(refusal)),
                    Outcome::Proposed(_)
                    | Outcome::Read(_)
                    | Outcome::MembershipChanged(_)
                    | Outcome::Transferred(_)
                    | Outcome::SnapshotBuilt(_)
                    | Outcome::LogPurged(_)
                    | Outcome::Unknown => Err(InitializeError::OutcomeUnknown),
                };
                effects.fired.call(move || drop(reply.send(result)));
            }
            Some(Waiting::Compact(reply)) => {
                let result = match outcome {
                    Outcome::SnapshotBuilt(log_id) | Outcome::LogPurged(log_id) => Ok(log_id),
                    Outcome::Refused(refusal) => Err(SnapshotError::Refused(refusal)),
                    Outcome::Proposed(_)
                    | Outcome::Read(_)
                    | Outcome::MembershipChanged(_)
                    | Outcome::Initialized(_)
                    | Outcome::Transferred(_)
                    | Outcome::Unknown => Err(SnapshotError::Refused(Refusal::SnapshotFailed)),
                };
                effects.fired.call(move || drop(reply.send(result)));
            }
        }
    }

    /// A batch of writes is in the log.
    fn proposed(&mut self, now: Now, span: Span, effects: &mut Effects) {
        let Some(Taken { builder, waits, permit, commits, only: _ }) = self.proposal.take() else { return };
        self.proposals.recycle(builder);
        self.proposed.push_back(Proposed { last: span.last.index, entries: span.count(), at: now.at });
        let first = LogId::new(span.last.leader_id, span.first_index());
        if !commits.is_empty() {
            self.commit_waits.proposed(first, commits);
        }
        effects.awaited.push(Awaited { first, count: span.count(), waits, permit });
    }

    /// A batch of writes is not in the log, or nobody knows.
    fn answer_proposal(&mut self, outcome: Outcome, effects: &mut Effects) {
        let Some(Taken { builder, waits, permit, commits, only: _ }) = self.proposal.take() else { return };
        self.proposals.recycle(builder);
        match outcome {
            Outcome::Refused(refusal) => {
                release(permit);
                waits.fail(0, &Failure::NotLeader(refusal.leader()), &mut effects.fired);
                forget(commits, &mut effects.fired);
            }
            Outcome::Proposed(_)
            | Outcome::Read(_)
            | Outcome::MembershipChanged(_)
            | Outcome::Initialized(_)
            | Outcome::Transferred(_)
            | Outcome::SnapshotBuilt(_)
            | Outcome::LogPurged(_)
            | Outcome::Unknown => {
                waits.fail(0, &Failure::Unknown, &mut effects.fired);
                forget(commits, &mut effects.fired);
            }
        }
    }
}

fn transferred(outcome: Outcome) -> Result<LeaderId, ChangeError> {
    match outcome {
        Outcome::Transferred(leader_id) => Ok(leader_id),
        Outcome::Refused(Refusal::NotLeader { leader }) => Err(ChangeError::NotLeader { leader }),
        Outcome::Refused(refusal) => Err(ChangeError::Refused(refusal)),
        Outcome::Proposed(_)
        | Outcome::Read(_)
        | Outcome::MembershipChanged(_)
        | Outcome::Initialized(_)
        | Outcome::SnapshotBuilt(_)
        | Outcome::LogPurged(_)
        | Outcome::Unknown => Err(ChangeError::OutcomeUnknown),
    }
}

/// Whether this is one batch of just these entries.
fn is_span(batches: &Batches, span: Span) -> bool {
    matches!(&batches[..], [batch] if batch.last() == span.last && batch.first().index == span.first_index())
}

/// Room in the window is there again before the callers are woken.
fn release(permit: Permit) {
    drop(permit);
}

/// Hands a packet to a node of this process without the network around it, and keeps what is answered at once; else gives
/// it back.
#[inline]
fn send_directly<P: FnOnce() -> Packet>(
    links: &mut Option<Links>,
    to: NodeId,
    packet: P,
    turn: (Instant, &mut VecDeque<Answer>),
) -> Result<(), P> {
    match links {
        Some(links) => links.send(to, packet, turn),
        None => Err(packet),
    }
}

fn one(batch: Batch) -> Batches {
    let mut batches = Batches::new();
    batches.push(batch);
    batches
}
