//! One node: its core in the untimed projection, its disk, and its steps.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, AppendAnswer, Config, Core, CoreEntry, Entries, Envelope, Event, Incarnation, Instant,
    LeaderId, LogId, LogIds, MAX_INDEX, Membership, Message, Node, NodeId, Note, Phase, Recovered, RequestId, Retain,
    Run, Source, Span, Tail, Vote, VoteAnswer, WriteId, WriteOp,
};

use crate::scope::{Disk, Loss, Scope};

/// A write that was asked for, with what the core leaves to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    op: WriteOp,
    runs: Vec<Run>,
    memberships: Vec<(LogId, Membership)>,
}

/// A node that runs. Crash and restart are one event: a node that is down is one that takes no steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Local {
    pub(crate) id: NodeId,
    pub(crate) boot: u8,
    pub(crate) core: Core,
    vote: Vote,
    pub(crate) durable: LogIds,
    /// What may have been acknowledged of a log that is damaged; zero: nothing more than it holds.
    promised_end: LogId,
    memberships: Vec<(LogId, Membership)>,
    pending: VecDeque<Pending>,
}

/// How late it is when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// Every lease is alive, nothing but an election is due.
    Now,
    /// A heartbeat is due besides.
    Soon,
    /// What was sent is taken for lost; leases are alive.
    Later,
    /// Every lease has ended.
    Late,
}

impl Moment {
    fn instant(self) -> Instant {
        let nanos = match self {
            Moment::Now => Duration::ZERO,
            Moment::Soon => HEARTBEAT,
            Moment::Later => RETRANSMIT,
            Moment::Late => 10 * ELECTION,
        };
        Instant::ORIGIN + nanos
    }
}

const HEARTBEAT: Duration = Duration::from_millis(10);
const RETRANSMIT: Duration = Duration::from_millis(100);
const ELECTION: Duration = Duration::from_millis(1000);

/// What may happen to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    Persisted,
    Timeout(Moment),
    Propose,
    Change,
    CrashAndRestart,
    /// The same, and the last entry of the log is damaged.
    Damage,
    Message(Packet, Moment),
    /// The sender is told that this did not arrive.
    Lost(Packet),
}

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

pub(crate) fn incarnation(id: NodeId) -> Incarnation {
    Incarnation(u128::from(id.0) << 8)
}

/// A step that breaks a claim: which.
pub(crate) type Broken = String;

/// Whether every step is checked against the invariants of one node, or only what the nodes do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    Everything,
    ClusterOnly,
}

/// What a crash leaves on a disk.
struct OnDisk {
    vote: Vote,
    durable: LogIds,
    promised_end: LogId,
    memberships: Vec<(LogId, Membership)>,
}

impl OnDisk {
    /// The last entry is damaged: the node keeps what it promised (docs/design/001).
    fn lose_newest(&mut self, loss: Loss) {
        let last = self.durable.last();
        let promised = match loss {
            Loss::Named => last,
            Loss::Unnamed => LogId::new(self.vote.leader_id, MAX_INDEX),
        };
        self.promised_end = self.promised_end.max(promised);
        self.durable.truncate_after(last.index - 1);
        self.memberships.retain(|(id, _)| id.index < last.index);
    }
}

/// Does things to one node, for a scope.
pub(crate) struct Driver<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) checks: Checks,
}

impl Driver<'_> {
    /// A node whose disk holds the first membership and nothing else.
    pub(crate) fn first(&self, id: NodeId) -> Local {
        let voters = self.scope.voters.iter().map(|id| (NodeId(*id), incarnation(NodeId(*id)), Node::default()));
        let mut membership = Membership::majority(voters);
        membership.nodes.extend(self.scope.nodes().into_iter().map(|id| (id, Node::default())));
        let first = LogId::new(LeaderId::default(), 1);
        let durable = LogIds::new(LogId::ZERO, [Run { leader_id: first.leader_id, last: 1 }]);
        let memberships = vec![(first, membership)];
        self.boot(id, 0, OnDisk { vote: Vote::default(), durable, promised_end: LogId::ZERO, memberships })
    }

    fn boot(&self, id: NodeId, boot: u8, kept: OnDisk) -> Local {
        let OnDisk { vote, durable, promised_end, memberships } = kept;
        let scope = self.scope;
        let config = Config {
            mode: scope.mode,
            pre_vote: scope.pre_vote,
            check_quorum: scope.check_quorum,
            heartbeat_interval: HEARTBEAT,
            retransmit_timeout: RETRANSMIT,
            election_timeout_min: ELECTION,
            election_timeout_max: ELECTION + HEARTBEAT,
            max_disk_lag: Duration::from_secs(1_000_000),
            snapshot_entries: 0,
            seed: u64::from(boot),
            ..Config::new(id, incarnation(id))
        };
        let (log, known) = (durable.clone(), memberships.clone());
        let recovered = Recovered { vote, log, memberships: known, promised_end, ..Recovered::default() };
        let mut core = Core::new(config, recovered, Instant::ORIGIN);
        core.forget_time();
        Local { id, boot, core, vote, durable, promised_end, memberships, pending: VecDeque::new() }
    }

    /// Lets something happen; returns the node after it, and what it sends.
    pub(crate) fn happen(&self, before: &Local, cause: &Cause) -> Result<(Local, Vec<Packet>), Broken> {
        let mut local = before.clone();
        let mut sent = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| self.act(&mut local, cause, &mut sent)));
        match run {
            Ok(Ok(())) => Ok((local, sent)),
            Ok(Err(broken)) => Err(broken),
            Err(panic) => Err(match panic.downcast_ref::<String>() {
                Some(text) => format!("node {} panics: {text}", before.id),
                None => match panic.downcast_ref::<&str>() {
                    Some(text) => format!("node {} panics: {text}", before.id),
                    None => format!("node {} panics", before.id),
                },
            }),
        }
    }

    fn act(&self, local: &mut Local, cause: &Cause, sent: &mut Vec<Packet>) -> Result<(), Broken> {
        let event = match cause {
            Cause::Persisted => {
                local.persist_one();
                Event::Persisted(WriteId(1))
            }
            Cause::Timeout(_) => Event::Timeout,
            Cause::Propose => Event::Propose { request: RequestId(1), count: 1, bytes: 1 },
            Cause::Change => {
                let Some(change) = self.scope.change() else { return Ok(()) };
                Event::ChangeMembership {
                    request: RequestId(2),
                    change,
                    retain: Retain::AsLearners,
                    terms: Default::default(),
                }
            }
            Cause::CrashAndRestart => {
                *local = self.boot(local.id, local.boot + 1, local.kept());
                return Ok(());
            }
            Cause::Damage => {
                let mut kept = local.kept();
                kept.lose_newest(self.scope.loss);
                *local = self.boot(local.id, local.boot + 1, kept);
                return Ok(());
            }
            Cause::Message(packet, _) => {
                let (from, message) = (packet.from, packet.message.clone());
                Event::Message(Envelope { from, incarnation: incarnation(from), message })
            }
            Cause::Lost(packet) => {
                let Message::Append(append) = &packet.message else { return Ok(()) };
                Event::SendLost { to: packet.to, stream: append.header.stream }
            }
        };
        let at = match cause {
            Cause::Timeout(moment) | Cause::Message(_, moment) => moment.instant(),
            _ => Instant::ORIGIN,
        };
        self.step(local, at, event, sent)?;
        while self.scope.disk == Disk::Quick && local.persist_one() {
            self.step(local, Instant::ORIGIN, Event::Persisted(WriteId(1)), sent)?;
        }
        Ok(())
    }

    fn step(&self, local: &mut Local, at: Instant, event: Event, sent: &mut Vec<Packet>) -> Result<(), Broken> {
        let arrived = match &event {
            Event::Message(Envelope { message: Message::Append(append), .. }) => append.entries.clone(),
            _ => Entries::default(),
        };
        let mut actions = Actions::new();
        match self.checks {
            Checks::Everything => local.core.step_checked(at, event, &mut actions),
            Checks::ClusterOnly => local.core.step(at, event, &mut actions),
        }
        for action in actions.0 {
            self.perform(local, action, &arrived, sent)?;
        }
        local.core.forget_time();
        if self.checks == Checks::Everything {
            local.core.check_state();
        }
        Ok(())
    }

    fn perform(
        &self,
        local: &mut Local,
        action: Action,
        arrived: &Entries,
        sent: &mut Vec<Packet>,
    ) -> Result<(), Broken> {
        let from = local.id;
        match action {
            Action::Persist(write) => local.submit(write.op, arrived),
            Action::Send { to, message } => {
                local.check_promise(&message, self.scope)?;
                sent.push(Packet { from, to, message });
            }
            Action::SendEntries { to, header, span } => {
                let entries = local.entries(span);
                sent.push(Packet { from, to, message: Message::Append(Append { header, prev: span.prev, entries }) });
            }
            // Everybody here is honest, and no disk was exchanged.
            Action::Note(note @ (Note::Impossible { .. } | Note::OlderCopy { .. } | Note::OtherIncarnation { .. })) => {
                return Err(format!("node {from} takes an honest node for a liar: {note:?}"));
            }
            Action::SendSnapshot { .. }
            | Action::InstallSnapshot(_)
            | Action::BuildSnapshot
            | Action::Apply(_)
            | Action::Reply { .. }
            | Action::Purge { .. }
            | Action::Note(_) => {}
            #[allow(unreachable_patterns, reason = "what the core asks for besides does not matter here")]
            _ => {}
        }
        Ok(())
    }
}

impl Local {
    /// Whether a write waits for the disk.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether there is an entry that damage may take: the first membership is no node's to lose.
    pub(crate) fn may_be_damaged(&self) -> bool {
        self.durable.last().index > 1
    }

    fn kept(&self) -> OnDisk {
        let (durable, memberships) = (self.durable.clone(), self.memberships.clone());
        OnDisk { vote: self.vote, durable, promised_end: self.promised_end, memberships }
    }

    fn submit(&mut self, op: WriteOp, arrived: &Entries) {
        let (mut runs, mut memberships) = (Vec::new(), Vec::new());
        if let WriteOp::Append { span, source } = &op {
            match source {
                Source::Message => {
                    runs.extend(arrived.runs.iter().filter(|run| run.last > span.prev.index));
                    let new = arrived.memberships.iter().filter(|(index, _)| *index > span.prev.index);
                    let log = self.core.log();
                    memberships
                        .extend(new.filter_map(|(index, membership)| Some((log.at(*index)?, membership.clone()))));
                }
                Source::Core(entry) => {
                    runs.push(Run { leader_id: span.last.leader_id, last: span.last.index });
                    if let CoreEntry::Membership(membership) = entry {
                        memberships.push((span.last, membership.clone()));
                    }
                }
                _ => runs.push(Run { leader_id: span.last.leader_id, last: span.last.index }),
            }
        }
        self.pending.push_back(Pending { op, runs, memberships });
    }

    /// Makes the oldest write durable; returns whether there was one.
    fn persist_one(&mut self) -> bool {
        let Some(Pending { op, runs, memberships }) = self.pending.pop_front() else { return false };
        match op {
            WriteOp::Vote(vote) => self.vote = vote,
            WriteOp::ForgetPromisedEnd => self.promised_end = LogId::ZERO,
            WriteOp::Append { span, .. } => {
                assert_eq!(self.durable.last(), span.prev, "an append follows the end of the log on disk");
                runs.into_iter().for_each(|run| self.durable.append(run.leader_id, run.last));
                self.memberships.extend(memberships);
            }
            WriteOp::Truncate { after } => {
                assert!(self.durable.holds(after), "a truncation stops at an entry on disk");
                self.durable.truncate_after(after.index);
                self.memberships.retain(|(id, _)| id.index <= after.index);
            }
            WriteOp::Reset { to, tail: Tail::Discard } => self.durable = LogIds::after(to),
            _ => {}
        }
        true
    }

    fn entries(&self, span: Span) -> Entries {
        let mut entries = Entries { bytes: span.count(), ..Entries::default() };
        for index in span.first_index()..=span.last.index {
            let Some(at) = self.core.log().at(index) else { continue };
            entries.runs.push(Run { leader_id: at.leader_id, last: index });
            let (id, membership) = self.core.membership_at(index);
            if *id == at {
                entries.memberships.push((index, membership.clone()));
            }
        }
        entries
    }

    /// What a message promises is on disk when it leaves (laws 3, 8).
    fn check_promise(&self, message: &Message, scope: &Scope) -> Result<(), Broken> {
        let (promise, keeps) = match message {
            Message::VoteRequest(request) if request.phase == Phase::Real => {
                ("law 3: asks for votes", self.vote == request.vote && self.durable.holds(request.last_log_id))
            }
            Message::VoteReply(reply) if reply.phase == Phase::Real && reply.answer == VoteAnswer::Granted => {
                ("law 8: grants a vote", self.vote.at_least(reply.requested, scope.mode))
            }
            Message::AppendReply(reply) => match reply.answer {
                AppendAnswer::Accepted { matched } => ("law 8: acknowledges", self.durable.holds(matched)),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        match keeps {
            true => Ok(()),
            false => Err(format!("{promise} before it is durable: node {} sends {message:?}", self.id)),
        }
    }
}
