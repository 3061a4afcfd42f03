//! The dumb driver: steps cores, performs their actions in order, reports completions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate_core::{
    Action, Actions, Append, AppendHeader, Config, Core, CoreEntry, Entries, Envelope, Event, Incarnation, LogId,
    Message, NodeId, Outcome, ReadPolicy, RequestId, Run, Runs, SendOutcome, SnapshotMeta, Source, Span, Write,
    WriteOp,
};

use super::disk::{DiskOp, Entry, Payload, PendingWrite, Snapshot};
use super::net::{Cargo, Choice, Packet};
use super::node::{Job, Machine};
use super::{Auto, Kind, World, log_id, text};

/// Most deliveries until quiet: beyond it two nodes talk for ever.
const MAX_DELIVERIES_UNTIL_QUIET: usize = 20_000;

type Done = Result<(), String>;

impl World {
    /// What a node is started with, if a script says nothing else.
    pub(crate) fn config_of(&self, id: NodeId) -> Config {
        // Another seed for every node and every start, as the field asks for.
        let next = self.nodes.get(&id).map_or(1, |node| node.boot + 1);
        Config { seed: self.template.seed + id.0 * 10 + next, ..self.template.clone() }
    }

    /// Starts a stopped node from its disk.
    pub(crate) fn start(&mut self, id: NodeId, config: Config) -> Done {
        let now = self.now;
        let node = self.node_mut(id)?;
        if node.core.is_some() {
            return Err(format!("node {id} runs already"));
        }
        node.boot += 1;
        let recovered = node.recover()?;
        let on_lost_log = node.on_lost_log.unwrap_or(config.on_lost_log);
        let config = Config { node_id: id, incarnation: node.incarnation(), on_lost_log, ..config };
        config.check().map_err(|e| e.to_string())?;
        let core = guarded(|| {
            let core = Core::new(config, recovered, now);
            core.check_state();
            core
        })
        .map_err(|e| format!("node {id} cannot start: {e}"));
        let core = self.claim(core)?;
        self.node_mut(id)?.core = Some(core);
        self.check(id)
    }

    pub(crate) fn crash(&mut self, id: NodeId) -> Done {
        let node = self.node_mut(id)?;
        let (running, lost) = (node.core.is_some(), node.disk.pending.len());
        if !running {
            return Err(format!("node {id} is down already"));
        }
        node.crash();
        self.tell(Kind::Note(id), format!("is down, unsynced writes lost: {lost}"));
        self.check(id)
    }

    /// Recovers a lost quorum from the disk of a stopped node.
    pub(crate) fn recover(&mut self, id: NodeId) -> Done {
        let node = self.node_mut(id)?;
        if node.core.is_some() {
            return Err(format!("node {id} runs: recovery is offline"));
        }
        let kept = node.disk.log.last();
        let forced = node.force_membership()?;
        let disk = node.incarnation();
        let lost = self.invariants.recovered(kept.index);
        let lost = if lost.is_empty() { "nothing".to_string() } else { lost.join(" ") };
        self.tell(
            Kind::Note(id),
            format!("is recovered as {disk:?} by {}, committed and lost: {lost}", log_id(forced)),
        );
        let node = self.nodes.get(&id).ok_or("no such node")?;
        self.invariants.after_step(&self.nodes, node)
    }

    /// Steps a node that runs, and everything of its own that follows at once.
    pub(crate) fn step(&mut self, id: NodeId, event: Event, bodies: &[Entry]) -> Done {
        self.step_once(id, event, bodies)?;
        self.settle(id)
    }

    fn step_once(&mut self, id: NodeId, event: Event, bodies: &[Entry]) -> Done {
        let now = self.now;
        let node = self.node_mut(id)?;
        let Some(core) = node.core.as_mut() else { return Err(format!("node {id} is down")) };
        let mut actions = Actions::new();
        let stepped = guarded(|| {
            core.step_checked(now, event.clone(), &mut actions);
        })
        .map_err(|e| format!("node {id} panics at {event:?}: {e}"));
        self.claim(stepped)?;
        let mut after = Vec::new();
        for action in actions.0 {
            // What a core asks for must be possible, whatever the script did.
            let performed = self.perform(id, action, bodies);
            after.extend(self.claim(performed)?);
        }
        self.check(id)?;
        for event in after {
            self.step_once(id, event, &[])?;
        }
        Ok(())
    }

    fn check(&mut self, id: NodeId) -> Done {
        let node = self.nodes.get(&id).ok_or("no such node")?;
        let held = self.invariants.after_step(&self.nodes, node);
        self.claim(held)?;
        let newest = self.invariants.newest_commit();
        if self.commits.last().is_none_or(|(_, known)| *known < newest) {
            self.commits.push((self.now, newest));
        }
        Ok(())
    }

    /// A caller asks to read; the answer is checked against what it must see.
    pub(crate) fn read(&mut self, id: NodeId, request: RequestId, policy: ReadPolicy) -> Done {
        self.tell(Kind::Told, format!("r{} asks {id}: {}", request.0, text::policy(policy)));
        let since = match policy {
            ReadPolicy::ReadIndex | ReadPolicy::LeaseRead => Some(self.now),
            // What was committed exactly then may be on either side of it.
            ReadPolicy::MaxAge(age) => Some(self.now - age - Duration::from_nanos(1)),
            ReadPolicy::Stale => None,
        };
        let seen = since.and_then(|since| self.commits.iter().rfind(|(at, _)| *at <= since));
        self.reads.insert(request, seen.map_or(0, |(_, index)| *index));
        self.step(id, Event::Read { request, policy }, &[])
    }

    /// What happens at once unless a script took it in hand: writes become durable, jobs are done.
    pub(crate) fn settle(&mut self, id: NodeId) -> Done {
        loop {
            let worked = self.autopersist == Auto::On && self.persist_unless_stalled(id)? > 0
                || self.autoapply == Auto::On && self.work(id, None)? > 0;
            if !worked {
                return Ok(());
            }
        }
    }

    /// Makes the oldest writes durable and reports the last of them.
    pub(crate) fn persist(&mut self, id: NodeId, limit: Option<usize>) -> Result<usize, String> {
        let node = self.node_mut(id)?;
        if node.core.is_none() || node.disk.poisoned {
            return Ok(0);
        }
        let mut done = 0;
        let mut last = None;
        while done < limit.unwrap_or(usize::MAX) {
            let Some(write) = node.disk.persist_one()? else { break };
            last = Some(write);
            done += 1;
        }
        if let Some(write) = last {
            if self.autopersist == Auto::Off {
                self.tell(Kind::Write(id), format!("durable up to w{}", write.0));
            }
            self.step_once(id, Event::Persisted(write), &[])?;
        }
        Ok(done)
    }

    fn persist_unless_stalled(&mut self, id: NodeId) -> Result<usize, String> {
        match self.node(id)?.stalled {
            true => Ok(0),
            false => self.persist(id, None),
        }
    }

    pub(crate) fn fail_write(&mut self, id: NodeId) -> Done {
        let node = self.node_mut(id)?;
        let Some(write) = node.disk.pending.front().map(|write| write.id) else {
            return Err(format!("node {id} has no write waiting that could fail"));
        };
        node.disk.poisoned = true;
        node.disk.pending.clear();
        self.step(id, Event::PersistFailed(write), &[])
    }

    /// Does the oldest jobs of the state machine.
    pub(crate) fn work(&mut self, id: NodeId, limit: Option<usize>) -> Result<usize, String> {
        let mut done = 0;
        while done < limit.unwrap_or(usize::MAX) {
            let Some(job) = self.node_mut(id)?.jobs.pop_front() else { break };
            done += 1;
            let event = match job {
                Job::Apply(span) => self.apply(id, span)?,
                Job::Install(meta) => self.install(id, &meta)?,
                Job::Build => self.build(id)?,
            };
            self.step_once(id, event, &[])?;
        }
        Ok(done)
    }

    /// The oldest job of the state machine, a build or an install, does not succeed.
    pub(crate) fn end_snapshot(&mut self, id: NodeId, deferred: bool) -> Done {
        let (event, told) = match (self.node_mut(id)?.jobs.pop_front(), deferred) {
            (Some(Job::Build), true) => (Event::SnapshotDeferred, "will not build a snapshot now"),
            (Some(Job::Build), false) => (Event::SnapshotBuildFailed, "cannot build a snapshot"),
            (Some(Job::Install(_)), false) => {
                self.node_mut(id)?.received = None;
                (Event::SnapshotInstallFailed, "cannot install a snapshot")
            }
            _ => return Err(format!("the next thing that node {id} has to do is not that")),
        };
        self.tell(Kind::Note(id), told);
        self.step(id, event, &[])
    }

    fn apply(&mut self, id: NodeId, span: Span) -> Result<Event, String> {
        let node = self.node_mut(id)?;
        if node.machine.applied != span.prev {
            return Err(format!("node {id} is to apply {span:?} after {}", node.machine.applied));
        }
        let entries = node.log.read(span).ok_or_else(|| format!("node {id} is to apply {span:?}: not in its log"))?;
        for entry in &entries {
            node.machine.apply(entry.id, &entry.payload);
        }
        let shown: Vec<String> = entries.iter().map(|e| format!("{}={}", e.id, e.payload)).collect();
        self.tell(Kind::Note(id), format!("applies {}", shown.join(" ")));
        for entry in &entries {
            let held = self.invariants.on_apply(id, entry);
            self.claim(held)?;
        }
        Ok(Event::Applied(span.last))
    }

    fn install(&mut self, id: NodeId, meta: &SnapshotMeta) -> Result<Event, String> {
        let node = self.node_mut(id)?;
        let Some(snapshot) = node.received.take().filter(|snapshot| snapshot.meta == *meta) else {
            return Err(format!("node {id} is to install a snapshot that did not arrive: {}", meta.last_log_id));
        };
        node.machine = Machine::restored(&snapshot);
        node.disk.keep_snapshot(&snapshot);
        self.tell(Kind::Write(id), format!("snapshot {} durable", log_id(meta.last_log_id)));
        Ok(Event::SnapshotInstalled(meta.clone()))
    }

    fn build(&mut self, id: NodeId) -> Result<Event, String> {
        let node = self.node_mut(id)?;
        let snapshot = node.machine.snapshot();
        node.disk.keep_snapshot(&snapshot);
        self.tell(Kind::Write(id), format!("snapshot {} durable", log_id(snapshot.meta.last_log_id)));
        Ok(Event::SnapshotBuilt(snapshot.meta))
    }

    /// The oldest job, a build, has seen the state machine; it is written while other jobs are done.
    pub(crate) fn capture(&mut self, id: NodeId) -> Done {
        let node = self.node_mut(id)?;
        let Some(Job::Build) = node.jobs.front() else { return Err(format!("node {id} is not to build a snapshot")) };
        node.jobs.pop_front();
        node.captured = Some(node.machine.snapshot());
        Ok(())
    }

    /// What was captured is durable.
    pub(crate) fn built(&mut self, id: NodeId) -> Done {
        let node = self.node_mut(id)?;
        let snapshot = node.captured.take().ok_or_else(|| format!("node {id} has captured nothing"))?;
        node.disk.keep_snapshot(&snapshot);
        self.tell(Kind::Write(id), format!("snapshot {} durable", log_id(snapshot.meta.last_log_id)));
        self.step(id, Event::SnapshotBuilt(snapshot.meta), &[])
    }

    /// What is being built or installed becomes durable, and the core does not hear of it.
    pub(crate) fn finish_snapshot(&mut self, id: NodeId) -> Done {
        if self.node(id)?.captured.is_none() {
            while let Some(Job::Apply(span)) = self.node(id)?.jobs.front().cloned() {
                self.node_mut(id)?.jobs.pop_front();
                self.apply(id, span)?;
            }
        }
        let node = self.node_mut(id)?;
        let snapshot = match (node.captured.take(), node.jobs.front()) {
            (Some(captured), _) => Some(captured),
            (None, Some(Job::Build)) => Some(node.machine.snapshot()),
            (None, Some(Job::Install(_))) => node.received.take(),
            (None, _) => None,
        };
        let snapshot = snapshot.ok_or_else(|| format!("node {id} neither builds nor installs a snapshot"))?;
        node.disk.keep_snapshot(&snapshot);
        self.tell(Kind::Write(id), format!("snapshot {} durable", log_id(snapshot.meta.last_log_id)));
        Ok(())
    }

    /// Performs one action; returns what is to be reported once the step's other actions are done.
    fn perform(&mut self, id: NodeId, action: Action, bodies: &[Entry]) -> Result<Option<Event>, String> {
        match action {
            Action::Persist(write) => self.submit(id, write, bodies)?,
            Action::Send { to, message } => self.send(id, to, message, Vec::new())?,
            Action::SendEntries { to, header, span } => return self.send_entries(id, to, header, span),
            Action::SendSnapshot { to, header, at_least } => return self.send_snapshot(id, to, header, at_least),
            Action::InstallSnapshot(meta) => self.node_mut(id)?.jobs.push_back(Job::Install(meta)),
            Action::BuildSnapshot => self.node_mut(id)?.jobs.push_back(Job::Build),
            Action::Apply(span) => self.node_mut(id)?.jobs.push_back(Job::Apply(span)),
            Action::Reply { request, outcome } => self.reply(id, request, &outcome)?,
            Action::Purge { upto } => {
                let node = self.node_mut(id)?;
                node.log.purge(upto);
                node.disk.log.purge(upto);
                self.tell(Kind::Note(id), format!("purges up to {}", log_id(upto)));
            }
            Action::Note(note) => self.tell(Kind::Note(id), text::note(&note)),
        }
        Ok(None)
    }

    fn reply(&mut self, id: NodeId, request: RequestId, outcome: &Outcome) -> Done {
        self.node_mut(id)?.proposals.remove(&request);
        if let (Outcome::Read(log_id), Some(seen)) = (outcome, self.reads.remove(&request))
            && log_id.index < seen
        {
            let at = text::log_id(*log_id);
            let stale = format!("a read is stale: r{} is served at {at} though {seen} was committed before", request.0);
            return self.claim(Err(stale));
        }
        let told = text::outcome(outcome);
        if let Some(before) = self.replies.insert(request, told.clone()) {
            return self.claim(Err(format!("request r{} is answered twice: {before}, then {told}", request.0)));
        }
        self.tell(Kind::Reply(request), told);
        Ok(())
    }

    fn submit(&mut self, id: NodeId, write: Write, bodies: &[Entry]) -> Done {
        let node = self.node_mut(id)?;
        let broken = |e: String| format!("node {id}, write w{}: {e}", write.id.0);
        let op = match write.op {
            WriteOp::Vote(vote) => DiskOp::Vote(vote),
            WriteOp::PromiseLease(longest) => DiskOp::PromiseLease(longest),
            WriteOp::ForgetPromisedEnd => DiskOp::ForgetPromisedEnd,
            WriteOp::Truncate { after } => {
                node.log.truncate(after).map_err(broken)?;
                DiskOp::Truncate(after)
            }
            WriteOp::Reset { to, tail } => {
                node.log.reset(to, tail).map_err(broken)?;
                DiskOp::Reset { to, tail }
            }
            WriteOp::Append { span, source } => {
                if span.prev != node.log.last() {
                    return Err(broken(format!("append of {span:?} to a log that ends at {}", node.log.last())));
                }
                let commands = match &source {
                    Source::Proposal(request) => node.proposals.get(request).cloned(),
                    Source::Message | Source::Core(_) => None,
                };
                let entries = entries_of(span, &source, commands, bodies).map_err(broken)?;
                node.log.append(&entries).map_err(broken)?;
                DiskOp::Append(entries)
            }
        };
        let write = PendingWrite { id: write.id, op };
        if node.disk.pending.back().is_some_and(|before| before.id >= write.id) {
            return Err(format!("node {id}: write ids go back to w{}", write.id.0));
        }
        self.tell(Kind::Write(id), text::write(&write));
        self.node_mut(id)?.disk.pending.push_back(write);
        Ok(())
    }

    fn send(&mut self, id: NodeId, to: NodeId, message: Message, bodies: Vec<Entry>) -> Done {
        let node = self.nodes.get(&id).ok_or("no such node")?;
        let held = self.invariants.on_send(node, &message);
        self.claim(held)?;
        let shown = text::message(&message, &bodies);
        self.post(id, to, Cargo::Message(message), bodies, shown)?;
        Ok(())
    }

    /// `false`: the link is cut.
    fn post(
        &mut self,
        id: NodeId,
        to: NodeId,
        cargo: Cargo,
        bodies: Vec<Entry>,
        shown: String,
    ) -> Result<bool, String> {
        let node = self.node(id)?;
        let mut packet = Packet {
            order: 0,
            number: 0,
            link: (id, to),
            incarnation: node.incarnation(),
            boot: node.boot,
            cargo,
            bodies,
            text: shown,
        };
        let sent = self.net.send(&mut packet);
        let line = match sent {
            true => packet.line(),
            false => format!("{} (lost: the link is cut)", packet.line()),
        };
        self.tell(Kind::Sent(packet.link), line);
        Ok(sent)
    }

    fn send_entries(
        &mut self,
        id: NodeId,
        to: NodeId,
        header: AppendHeader,
        span: Span,
    ) -> Result<Option<Event>, String> {
        let fails = std::mem::take(&mut self.node_mut(id)?.fails_to_read);
        let Some(bodies) = self.node(id)?.log.read(span).filter(|_| !fails) else {
            let why = if fails { "it cannot be read" } else { "not in its log" };
            self.tell(Kind::Note(id), format!("cannot send {span:?} to {to}: {why}"));
            return Ok(Some(Event::SendLost { to, stream: header.stream }));
        };
        let bodies = match self.fronts {
            Auto::On => bodies.into_iter().take(1).collect(),
            Auto::Off => bodies,
        };
        let append = Append { header, prev: span.prev, entries: summary(&bodies) };
        self.send(id, to, Message::Append(append), bodies)?;
        Ok(None)
    }

    fn send_snapshot(
        &mut self,
        id: NodeId,
        to: NodeId,
        header: AppendHeader,
        at_least: LogId,
    ) -> Result<Option<Event>, String> {
        let failed = Event::SnapshotSent { to, stream: header.stream, outcome: SendOutcome::Failed };
        let newest = self.node(id)?.disk.snapshot.clone();
        let Some(snapshot) = newest.filter(|s| s.meta.last_log_id.index >= at_least.index) else {
            self.tell(Kind::Note(id), format!("has no snapshot of {} for {to}", log_id(at_least)));
            return Ok(Some(failed));
        };
        let shown = text::snapshot(&header, snapshot.meta.last_log_id);
        let sent = self.post(id, to, Cargo::Snapshot { header, snapshot }, Vec::new(), shown)?;
        Ok((!sent).then_some(failed))
    }

    /// Delivers the chosen messages that wait now; what they cause waits for another command.
    pub(crate) fn deliver(&mut self, choice: &Choice) -> Result<usize, String> {
        let packets = self.net.take(choice);
        let count = packets.len();
        for packet in packets {
            self.arrive(packet)?;
        }
        Ok(count)
    }

    fn arrive(&mut self, packet: Packet) -> Done {
        let (from, to) = packet.link;
        let up = self.nodes.get(&to).is_some_and(|node| node.core.is_some());
        if !up {
            self.tell(Kind::Arrived(packet.link), format!("{} finds nobody: {to} is down", packet.line()));
            return self.transfer_ends(&packet, SendOutcome::Failed);
        }
        // As the handshake does: nodes of different recoveries do not talk; a blank one takes the other's.
        match (self.node(from)?.epoch, self.node(to)?.epoch) {
            (Some(one), Some(other)) if one != other => {
                let text = format!("{} is refused: {from} is of recovery {one}, {to} of {other}", packet.line());
                self.tell(Kind::Told, text);
                return self.transfer_ends(&packet, SendOutcome::Failed);
            }
            (epoch @ Some(_), None) => self.node_mut(to)?.epoch = epoch,
            _ => {}
        }
        self.tell(Kind::Arrived(packet.link), packet.line());
        let incarnation = packet.incarnation;
        let event = match packet.cargo.clone() {
            Cargo::Message(message) => Event::Message(Envelope { from, incarnation, message }),
            Cargo::Snapshot { header, snapshot } => self.receive(to, from, incarnation, header, snapshot)?,
        };
        self.step(to, event, &packet.bodies)?;
        self.transfer_ends(&packet, SendOutcome::Delivered)
    }

    fn receive(
        &mut self,
        to: NodeId,
        from: NodeId,
        incarnation: Incarnation,
        header: AppendHeader,
        snapshot: Snapshot,
    ) -> Result<Event, String> {
        let meta = snapshot.meta.clone();
        let node = self.node_mut(to)?;
        // What is being installed, or waits for the disk before it is, stays.
        if !node.core.as_ref().is_some_and(Core::is_installing) {
            node.received = Some(snapshot);
        }
        Ok(Event::SnapshotReceived { from, incarnation, header, meta })
    }

    /// Tells the sender how a snapshot transfer ended, if it is still the run that sent it.
    fn transfer_ends(&mut self, packet: &Packet, outcome: SendOutcome) -> Done {
        let Some(stream) = packet.transfer() else { return Ok(()) };
        let (from, to) = packet.link;
        let alive = self.node(from)?.core.is_some() && self.node(from)?.boot == packet.boot;
        match alive {
            true => self.step(from, Event::SnapshotSent { to, stream, outcome }, &[]),
            false => Ok(()),
        }
    }

    pub(crate) fn drop_messages(&mut self, choice: &Choice) -> Result<usize, String> {
        let packets = self.net.take(choice);
        for packet in &packets {
            self.tell(Kind::Told, format!("{} is lost", packet.line()));
            self.transfer_ends(packet, SendOutcome::Failed)?;
        }
        Ok(packets.len())
    }

    /// A message that no core sent arrives.
    pub(crate) fn inject(
        &mut self,
        from: NodeId,
        to: NodeId,
        incarnation: Incarnation,
        message: Message,
        bodies: Vec<Entry>,
    ) -> Done {
        let line = format!("{from}->{to} {}", text::message(&message, &bodies));
        self.tell(Kind::Arrived((from, to)), line);
        self.step(to, Event::Message(Envelope { from, incarnation, message }), &bodies)
    }

    /// A snapshot that no core sent arrives; it holds no commands.
    pub(crate) fn inject_snapshot(
        &mut self,
        from: NodeId,
        to: NodeId,
        incarnation: Incarnation,
        header: AppendHeader,
        meta: SnapshotMeta,
    ) -> Done {
        let line = format!("{from}->{to} {}", text::snapshot(&header, meta.last_log_id));
        self.tell(Kind::Arrived((from, to)), line);
        let event = self.receive(to, from, incarnation, header, Snapshot { meta, commands: Vec::new() })?;
        self.step(to, event, &[])
    }

    /// Delivers and persists until nothing is left to do. The clock stands.
    pub(crate) fn stabilize(&mut self) -> Done {
        for _ in 0..MAX_DELIVERIES_UNTIL_QUIET {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut worked = 0;
            for id in ids {
                worked += self.persist_unless_stalled(id)?;
                if self.autoapply == Auto::On {
                    worked += self.work(id, None)?;
                }
            }
            worked += self.deliver(&Choice { limit: Some(1), ..Choice::default() })?;
            if worked == 0 && self.net.is_quiet() {
                return Ok(());
            }
        }
        Err(format!("not quiet after {MAX_DELIVERIES_UNTIL_QUIET} deliveries"))
    }

    /// Moves the clock to the node's deadline, and fires it there only: all others sleep.
    pub(crate) fn timeout(&mut self, id: NodeId) -> Done {
        let core = self.node(id)?.core.as_ref().ok_or_else(|| format!("node {id} is down"))?;
        let Some(deadline) = core.deadline() else { return Err(format!("node {id} waits for no time")) };
        let waited = self.wait_until(deadline);
        self.tell(Kind::Told, format!("{} ms pass", waited.as_millis()));
        self.step(id, Event::Timeout, &[])
    }

    /// Lets time pass; deadlines fire at their moment, messages stay where they are.
    pub(crate) fn advance(&mut self, by: Duration) -> Done {
        self.advance_with(by, Auto::Off)
    }

    /// Lets time pass on a perfect network: everything is delivered and persisted at once.
    pub(crate) fn run(&mut self, by: Duration) -> Done {
        self.advance_with(by, Auto::On)
    }

    fn advance_with(&mut self, by: Duration, delivers: Auto) -> Done {
        let end = self.now + by;
        loop {
            if delivers == Auto::On {
                self.stabilize()?;
            }
            let due = self.nodes.values().filter_map(|node| Some((node.core.as_ref()?.deadline()?, node.id))).min();
            let Some((deadline, id)) = due.filter(|(deadline, _)| *deadline <= end) else { break };
            let waited = self.wait_until(deadline);
            if delivers == Auto::Off || waited.as_nanos() > 0 {
                self.tell(Kind::Told, format!("at {} ms", self.now.as_nanos() / 1_000_000 - 1000));
            }
            self.step(id, Event::Timeout, &[])?;
            let still = self.node(id)?.core.as_ref().and_then(Core::deadline);
            if still.is_some_and(|next| next <= deadline) {
                return Err(format!("node {id} does not move its deadline when it fires"));
            }
        }
        self.wait_until(end);
        Ok(())
    }
}

/// What the core is told of entries.
pub(crate) fn summary(bodies: &[Entry]) -> Entries {
    let mut entries = Entries { runs: Runs::none(), memberships: Vec::new(), bytes: 0 };
    for body in bodies {
        entries.runs.push(Run { leader_id: body.id.leader_id, last: body.id.index });
        entries.bytes += body.payload.bytes();
        if let Payload::Membership(membership) = &body.payload {
            entries.memberships.push((body.id.index, membership.clone()));
        }
    }
    entries
}

/// The entries of an append, with their payloads.
fn entries_of(
    span: Span,
    source: &Source,
    commands: Option<Vec<String>>,
    bodies: &[Entry],
) -> Result<Vec<Entry>, String> {
    let count = usize::try_from(span.count()).map_err(|e| e.to_string())?;
    let entries: Vec<Entry> = match source {
        Source::Message => {
            let inside = |entry: &&Entry| (span.first_index()..=span.last.index).contains(&entry.id.index);
            bodies.iter().filter(inside).cloned().collect()
        }
        Source::Proposal(_) => {
            let payloads = commands.ok_or("the proposal is not waiting")?.into_iter().map(Payload::Command);
            number(span, payloads)
        }
        Source::Core(CoreEntry::Blank) => number(span, [Payload::Blank]),
        Source::Core(CoreEntry::Membership(membership)) => number(span, [Payload::Membership(membership.clone())]),
    };
    if entries.len() != count || entries.last().map(|entry| entry.id) != Some(span.last) {
        return Err(format!("{span:?} does not fit its {} bodies", entries.len()));
    }
    Ok(entries)
}

fn number(span: Span, payloads: impl IntoIterator<Item = Payload>) -> Vec<Entry> {
    let ids = (span.first_index()..).map(|index| LogId::new(span.last.leader_id, index));
    ids.zip(payloads).map(|(id, payload)| Entry { id, payload }).collect()
}

/// Runs core code; a panic becomes an error that names the script's line.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_string()
    })
}
