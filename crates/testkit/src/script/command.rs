//! The commands of a script.

use std::collections::BTreeMap;

use quorate_core::{
    Config, Event, Incarnation, LeasePolicy, LogId, MAX_INDEX, Membership, NodeId, OnLostLog, Phase, ReadPolicy,
    StreamId, Tail, VoterSet, WriteId,
};

use super::change::{self, Asked, record, rule, threshold};
use super::inject;
use super::words::{Words, link, links, log_id, nodes, number, options, tune};
use crate::world::{
    Auto, Beginning, Choice, Entry, Kind, Link, Payload, Trace, World, compact, incarnation, log_id as show,
};

/// A world and what happened in it.
#[derive(Default)]
pub(super) struct Stage {
    world: Option<World>,
    /// What the last command did.
    pub(super) last: Vec<Trace>,
    /// What every command did.
    pub(super) ever: Vec<Trace>,
    /// Which sorts of output the last command shows.
    detail: Detail,
}

/// How much of what happened is shown.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Detail {
    /// Everything.
    #[default]
    Full,
    /// What changed; not every message and write.
    Brief,
}

type Done = Result<(), String>;

impl Stage {
    pub(super) fn world(&self) -> Result<&World, String> {
        self.world.as_ref().ok_or_else(|| "a script begins with `cluster`".to_string())
    }

    fn world_mut(&mut self) -> Result<&mut World, String> {
        self.world.as_mut().ok_or_else(|| "a script begins with `cluster`".to_string())
    }

    /// What was violated, if something was: no error of the script itself.
    pub(super) fn violation(&self) -> Option<&str> {
        self.world.as_ref()?.violation.as_deref()
    }

    /// Runs a command and returns what it did, a line each.
    pub(super) fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.last.clear();
        self.detail = Detail::Full;
        let result = self.command(line);
        if let Some(world) = &mut self.world {
            self.last = world.take_trace();
            self.ever.extend(self.last.iter().cloned());
        }
        result.map(|()| self.output())
    }

    /// What the last command did.
    pub(super) fn output(&self) -> Vec<String> {
        let is_kept = |kind: Kind| match kind {
            Kind::Note(_) | Kind::Reply(_) | Kind::Told => true,
            Kind::Sent(_) | Kind::Arrived(_) | Kind::Write(_) => self.detail == Detail::Full,
        };
        let mut lines = Vec::new();
        // In brief output a moment is shown only if something is told of it.
        let mut moment: Option<String> = None;
        for trace in self.last.iter().filter(|trace| is_kept(trace.kind)) {
            if self.detail == Detail::Brief && trace.kind == Kind::Told && trace.text.starts_with("at ") {
                moment = Some(line_of(trace));
                continue;
            }
            lines.extend(moment.take());
            lines.push(line_of(trace));
        }
        lines
    }

    fn command(&mut self, line: &str) -> Done {
        let mut words = Words::of(line);
        let name = words.word("a name")?;
        if name == "cluster" {
            return self.cluster(&mut words);
        }
        match name {
            "deliver" | "drop" | "duplicate" | "hold" | "release" => return self.messages(name, &mut words),
            "cut" | "heal" => self.partition(name, &mut words)?,
            "lose-sent" => self.lose_sent(&mut words)?,
            "refuse-link" => self.event(&mut words, |words| Ok(Event::LinkRefused { peer: words.node()? }))?,
            "inject" => self.inject(&mut words)?,
            "disk" | "damage" | "copy-disk" | "recover" | "persist" | "autopersist" | "fronts" | "fail-write"
            | "fail-read" => self.of_disks(name, &mut words)?,
            "snapshot" | "purge" | "capture" | "built" | "fail-snapshot" | "defer-snapshot" => {
                self.of_snapshots(name, &mut words)?;
            }
            "crash" | "restart" | "stall" | "unstall" => self.of_processes(name, &mut words)?,
            "timeout" | "wait" | "advance" | "run" | "stabilize" | "clock-jump" => self.of_time(name, &mut words)?,
            "propose" => self.propose(&mut words)?,
            "apply" => self.apply(&mut words)?,
            "autoapply" => self.world_mut()?.autoapply = auto(words.word("on or off")?)?,
            "elect" => self.elect(&mut words)?,
            "read" => self.read(&mut words)?,
            "change" => return self.change(&mut words),
            "initialize" => self.initialize(&mut words)?,
            "tune" => self.tune(&mut words)?,
            "transfer" => self.transfer(&mut words)?,
            "abort-transfer" => self.event(&mut words, |_| Ok(Event::AbortTransfer))?,
            "heartbeat" => self.event(&mut words, |_| Ok(Event::Heartbeat))?,
            "status" => self.status(&mut words)?,
            "log" => self.log(&mut words)?,
            other => return Err(unknown(other)),
        }
        words.end()
    }

    fn of_disks(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        match name {
            "disk" => return self.disk(words),
            "damage" => return self.damage(words),
            "persist" => return self.persist(words),
            "autopersist" => self.world_mut()?.autopersist = auto(words.word("on or off")?)?,
            "fronts" => self.world_mut()?.fronts = auto(words.word("on or off")?)?,
            _ => {
                let id = words.node()?;
                let world = self.world_mut()?;
                match name {
                    "copy-disk" => world.node_mut(id)?.copy_disk(),
                    "recover" => world.recover(id)?,
                    "fail-write" => world.fail_write(id)?,
                    "fail-read" => world.node_mut(id)?.fails_to_read = true,
                    other => return Err(unknown(other)),
                }
            }
        }
        Ok(())
    }

    fn of_snapshots(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        if matches!(name, "snapshot" | "purge") {
            return self.snapshot_or_purge(name, words);
        }
        let id = words.node()?;
        let world = self.world_mut()?;
        match name {
            "capture" => world.capture(id),
            "built" => world.built(id),
            "fail-snapshot" | "defer-snapshot" => world.end_snapshot(id, name == "defer-snapshot"),
            other => Err(unknown(other)),
        }
    }

    fn of_processes(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        match name {
            "crash" => self.crash(words),
            "restart" => self.restart(words),
            "stall" | "unstall" => {
                for id in nodes(words.word("nodes")?)? {
                    self.world_mut()?.node_mut(id)?.stalled = name == "stall";
                }
                Ok(())
            }
            other => Err(unknown(other)),
        }
    }

    fn of_time(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        match name {
            "timeout" => self.timeout(words),
            "clock-jump" => self.event(words, |_| Ok(Event::ClockJumped)),
            "wait" => {
                let by = words.millis()?;
                self.world_mut()?.wait(by);
                Ok(())
            }
            "advance" => {
                let by = words.millis()?;
                self.world_mut()?.advance(by)
            }
            "run" => {
                self.detail = Detail::Brief;
                let by = words.millis()?;
                self.world_mut()?.run(by)
            }
            "stabilize" => {
                self.detail = Detail::Brief;
                self.world_mut()?.stabilize()
            }
            other => Err(unknown(other)),
        }
    }

    fn event(&mut self, words: &mut Words<'_>, make: impl Fn(&mut Words<'_>) -> Result<Event, String>) -> Done {
        let id = words.node()?;
        let event = make(words)?;
        self.world_mut()?.step(id, event, &[])
    }

    fn cluster(&mut self, words: &mut Words<'_>) -> Done {
        if self.world.is_some() {
            return Err("a script has one cluster".to_string());
        }
        let count = words.number("the number of nodes")?;
        let mut found = options(&words.rest());
        let all: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let mut config = Config::new(0, Incarnation(0));
        if found.remove("standard").is_some() {
            config.mode = quorate_core::LeaderIdMode::Standard;
        }
        let stopped = if found.remove("stopped").is_some() { Auto::On } else { Auto::Off };
        let blank = found.remove("blank").is_some();
        let learners = found.remove("learners").map(nodes).transpose()?.unwrap_or_default();
        let spare = found.remove("spare").map(nodes).transpose()?.unwrap_or_default();
        let voters = match found.remove("voters") {
            Some(voters) => nodes(voters)?,
            None => all.iter().copied().filter(|id| !learners.contains(id) && !spare.contains(id)).collect(),
        };
        let mut membership = membership(&voters, &learners);
        if found.remove("lease-reads").is_some() {
            membership.settings.lease = LeasePolicy::LeaseReads;
        }
        if let Some((elect, commit)) = found.remove("elect-need").zip(found.remove("commit-need")) {
            let set = membership.configs.first_mut().ok_or("there are no voters")?;
            set.elect = threshold(elect, &voters)?;
            set.commit = threshold(commit, &voters)?;
        }
        if let Some((elect, commit)) = found.remove("elect").zip(found.remove("commit")) {
            let set = membership.configs.first_mut().ok_or("there are no voters")?;
            set.elect = rule(elect)?;
            set.commit = rule(commit)?;
        }
        membership.check(config.mode).map_err(|e| e.to_string())?;
        for (key, value) in found {
            if !tune(&mut config, key, value)? {
                return Err(format!("`cluster` does not know `{key}`"));
            }
        }
        let mut world = World::new(Beginning {
            nodes: all,
            membership: (!blank).then_some(membership),
            outside: spare,
            config,
            stopped,
        })?;
        let _begun = world.take_trace();
        self.world = Some(world);
        Ok(())
    }

    /// Writes what an earlier history left on a stopped node's disk.
    fn disk(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let node = self.world_mut()?.node_mut(id)?;
        if node.core.is_some() {
            return Err(format!("node {id} runs: only the disk of a stopped node can be written"));
        }
        while let Some(word) = words.maybe() {
            match word {
                "vote" => node.disk.vote = words.vote()?,
                "log" => {
                    for word in words.rest() {
                        let (at, payload) = word.split_once('=').unwrap_or((word, "."));
                        let entry = Entry { id: log_id(at)?, payload: payload_of(payload) };
                        node.disk.log.append(&[entry])?;
                    }
                }
                other => return Err(format!("a disk has a `vote` and a `log`, not `{other}`")),
            }
        }
        Ok(())
    }

    /// What a log does at opening that finds damage after an entry: it keeps what stands before it, and the log id of
    /// its end (docs/design/001).
    fn damage(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        if words.take("snapshot") {
            return self.damage_snapshot(id);
        }
        let keep: u64 = words.number("the last index that stays")?;
        let unnamed = words.take("unnamed");
        let node = self.world_mut()?.node_mut(id)?;
        if node.core.is_some() {
            return Err(format!("node {id} runs: damage is found when a node starts"));
        }
        let log = &mut node.disk.log;
        let Some(after) = log.id_at(keep) else { return Err(format!("the log of node {id} does not hold {keep}")) };
        let voted_for = node.disk.vote.leader_id;
        let end = if unnamed { LogId::new(voted_for, MAX_INDEX) } else { log.last() };
        node.disk.promised_end = node.disk.promised_end.max(end);
        log.truncate(after)
    }

    /// What becomes of a damaged snapshot (docs/design/003). A node that runs finds it when it reads it for a peer; one
    /// that starts puts it aside, and gives up a log that does not begin at the first entry.
    fn damage_snapshot(&mut self, id: NodeId) -> Done {
        let world = self.world_mut()?;
        if world.node_mut(id)?.core.is_some() {
            return world.step(id, Event::SnapshotDamaged, &[]);
        }
        let disk = &mut world.node_mut(id)?.disk;
        if disk.snapshot.take().is_none() {
            return Err(format!("node {id} has no snapshot"));
        }
        if disk.log.purged != LogId::ZERO {
            disk.promised_end = disk.promised_end.max(disk.log.last());
            disk.log.reset(LogId::ZERO, Tail::Discard)?;
        }
        Ok(())
    }

    fn snapshot_or_purge(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let upto = if name == "purge" { words.number("an index")? } else { 0 };
        let wait = words.take("wait");
        let world = self.world_mut()?;
        let request = wait.then(|| world.next_request());
        if let Some(request) = request {
            world.tell(Kind::Told, format!("r{} asks {id}", request.0));
        }
        let event = if name == "purge" { Event::PurgeLog { upto, request } } else { Event::Snapshot { request } };
        world.step(id, event, &[])
    }

    fn propose(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let commands: Vec<String> = words.rest().into_iter().map(String::from).collect();
        let world = self.world_mut()?;
        let request = world.next_request();
        let bytes = commands.iter().map(|command| Payload::Command(command.clone()).bytes()).sum();
        let count = commands.len() as u64;
        world.node_mut(id)?.proposals.insert(request, commands);
        world.tell(Kind::Told, format!("r{} asks {id}", request.0));
        world.step(id, Event::Propose { request, count, bytes }, &[])
    }

    fn persist(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        if words.take("again") {
            let write = WriteId(words.number("a write id")?);
            return self.world_mut()?.step(id, Event::Persisted(write), &[]);
        }
        let limit = limit(words)?;
        let world = self.world_mut()?;
        match world.persist(id, limit)? {
            0 => Err(format!("node {id} has no write waiting")),
            _ => world.settle(id),
        }
    }

    fn apply(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let limit = limit(words)?;
        match self.world_mut()?.work(id, limit)? {
            0 => Err(format!("node {id} has nothing to apply, install or build")),
            _ => Ok(()),
        }
    }

    fn messages(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        if name == "deliver" && words.take("all") {
            words.end()?;
            let world = self.world_mut()?;
            while world.deliver(&Choice { limit: Some(1), ..Choice::default() })? > 0 {}
            return Ok(());
        }
        let choice = words.choice()?;
        let world = self.world_mut()?;
        let count = match name {
            "deliver" => world.deliver(&choice)?,
            "drop" => world.drop_messages(&choice)?,
            "duplicate" => told(world, "is there twice", |world| world.net.duplicate(&choice)),
            "hold" => told(world, "is held", |world| world.net.hold(&choice)),
            _ => told(world, "is released", |world| world.net.release(&choice)),
        };
        match count {
            0 => Err("no such message waits".to_string()),
            _ => Ok(()),
        }
    }

    fn partition(&mut self, name: &str, words: &mut Words<'_>) -> Done {
        let world = self.world_mut()?;
        let all: Vec<NodeId> = world.nodes.keys().copied().collect();
        let mut named: Vec<Link> = Vec::new();
        for word in words.rest() {
            named.extend(links(word, &all)?);
        }
        match (name, named.is_empty()) {
            ("cut", true) => return Err("`cut` needs links: `1->2`, `1-2`, or a node".to_string()),
            ("cut", false) => world.net.cut(&named),
            (_, true) => world.net.heal(None),
            (_, false) => world.net.heal(Some(&named)),
        }
        Ok(())
    }

    fn crash(&mut self, words: &mut Words<'_>) -> Done {
        let mut ids = Vec::new();
        let (mut kept, mut snapshot) = (0, false);
        for word in words.rest() {
            match word.strip_prefix("keeps=") {
                Some(count) => kept = number(count)?,
                None if word == "snapshot" => snapshot = true,
                None => ids.extend(nodes(word)?),
            }
        }
        for id in ids {
            let world = self.world_mut()?;
            if snapshot {
                world.finish_snapshot(id)?;
            }
            (0..kept).try_for_each(|_| world.node_mut(id)?.disk.persist_one().map(drop))?;
            world.crash(id)?;
        }
        Ok(())
    }

    fn restart(&mut self, words: &mut Words<'_>) -> Done {
        let ids = nodes(words.word("a node")?)?;
        let wiped = words.take("wiped");
        let copy = words.take("copy");
        let rejoin = words.take("rejoin");
        let tuned = words.rest();
        if let Some(word) = tuned.iter().find(|word| !word.contains('=')) {
            return Err(format!("`{word}` is not understood here"));
        }
        let tuned = options(&tuned);
        let world = self.world_mut()?;
        for id in ids {
            if world.node(id)?.core.is_some() {
                world.crash(id)?;
            }
            if wiped {
                world.node_mut(id)?.wipe();
                let disk = world.node(id)?.incarnation();
                world.tell(Kind::Note(id), format!("has a new disk {disk:?}"));
            }
            if copy {
                let node = world.node_mut(id)?;
                node.disk = node.copy.clone().ok_or_else(|| format!("there is no copy of the disk of {id}"))?;
                world.tell(Kind::Note(id), "has an older copy of its disk");
            }
            if rejoin {
                world.node_mut(id)?.on_lost_log = Some(OnLostLog::Rejoin);
            }
            let mut config = world.config_of(id);
            for (key, value) in &tuned {
                if !tune(&mut config, key, value)? {
                    return Err(format!("`restart` does not know `{key}`"));
                }
            }
            world.start(id, config)?;
        }
        Ok(())
    }

    /// Entries that were sent in this stream did not leave.
    fn lose_sent(&mut self, words: &mut Words<'_>) -> Done {
        let (from, to) = link(words.word("a link such as `1->2`")?)?;
        let stream = words.word("a stream such as `s3`")?;
        let stream =
            number(stream.strip_prefix('s').ok_or_else(|| format!("`{stream}` is not a stream such as `s3`"))?)?;
        self.world_mut()?.step(from, Event::SendLost { to, stream: StreamId(stream) }, &[])
    }

    fn timeout(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        self.world_mut()?.timeout(id)
    }

    fn elect(&mut self, words: &mut Words<'_>) -> Done {
        self.event(words, |words| {
            let phase = match words.maybe() {
                Some("real") => Phase::Real,
                Some("pre") | None => Phase::Pre,
                Some(other) => return Err(format!("a campaign is `pre` or `real`, not `{other}`")),
            };
            Ok(Event::Elect { phase })
        })
    }

    fn read(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let how = match words.maybe() {
            None => ReadPolicy::ReadIndex,
            Some("lease") => ReadPolicy::LeaseRead,
            Some("stale") => ReadPolicy::Stale,
            Some("max-age") => ReadPolicy::MaxAge(words.millis()?),
            Some(other) => return Err(format!("a read is `lease`, `stale`, `max-age MS` or nothing, not `{other}`")),
        };
        let world = self.world_mut()?;
        let request = world.next_request();
        world.read(id, request, how)
    }

    fn change(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let Asked { change, retain, terms } = change::asked(words.rest())?;
        let world = self.world_mut()?;
        let request = world.next_request();
        world.tell(Kind::Told, format!("r{} asks {id}", request.0));
        world.step(id, Event::ChangeMembership { request, change, retain, terms }, &[])
    }

    fn initialize(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let voters = nodes(words.word("voters such as `1,2,3`")?)?;
        let mut membership = membership(&voters, &[]);
        if words.take("lease-reads") {
            membership.settings.lease = LeasePolicy::LeaseReads;
        }
        let world = self.world_mut()?;
        let request = world.next_request();
        world.tell(Kind::Told, format!("r{} asks {id}", request.0));
        world.step(id, Event::Initialize { request, membership }, &[])
    }

    /// Changes a running node's tunables.
    fn tune(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let node = self.world_mut()?.node_mut(id)?;
        let core = node.core.as_mut().ok_or_else(|| format!("node {id} is down"))?;
        let mut config = core.config().clone();
        for (key, value) in options(&words.rest()) {
            if !tune(&mut config, key, value)? {
                return Err(format!("`tune` does not know `{key}`"));
            }
        }
        core.reconfigure(config).map_err(|e| e.to_string())
    }

    fn transfer(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let to = words.maybe().map(super::words::node).transpose()?;
        let world = self.world_mut()?;
        let request = world.next_request();
        world.tell(Kind::Told, format!("r{} asks {id}", request.0));
        world.step(id, Event::TransferLeader { request, to }, &[])
    }

    fn inject(&mut self, words: &mut Words<'_>) -> Done {
        let (from, to) = link(words.word("a link such as `1->2`")?)?;
        let world = self.world_mut()?;
        let disk = match words.take("as") {
            true => incarnation(from, words.number("which disk, from 0")?),
            false => world.nodes.get(&from).map_or_else(|| incarnation(from, 0), |node| node.incarnation()),
        };
        if words.take("snapshot") {
            let core = world.node(to)?.core.as_ref().ok_or_else(|| format!("node {to} is down"))?;
            let (header, meta) = inject::snapshot(words, core.membership().clone())?;
            return world.inject_snapshot(from, to, disk, header, meta);
        }
        let (message, bodies) = inject::message(words, from)?;
        world.inject(from, to, disk, message, bodies)
    }

    fn status(&mut self, words: &mut Words<'_>) -> Done {
        let only = words.maybe().map(super::words::node).transpose()?;
        let world = self.world_mut()?;
        let shown: Vec<(NodeId, String)> = world
            .nodes
            .values()
            .filter(|node| only.is_none_or(|id| id == node.id))
            .map(|node| (node.id, status_of(node)))
            .collect();
        shown.into_iter().for_each(|(id, text)| world.tell(Kind::Note(id), text));
        Ok(())
    }

    fn log(&mut self, words: &mut Words<'_>) -> Done {
        let id = words.node()?;
        let world = self.world_mut()?;
        let node = world.node(id)?;
        let entries = node.log.entries.iter().map(|entry| format!("{}={}", entry.id, entry.payload));
        let text = format!("log after {}: {}", show(node.log.purged), entries.collect::<Vec<_>>().join(" "));
        let disk = format!("disk: vote {}, log up to {}", node.disk.vote, show(node.disk.log.last()));
        world.tell(Kind::Note(id), text);
        world.tell(Kind::Note(id), disk);
        Ok(())
    }
}

fn told(world: &mut World, what: &str, act: impl Fn(&mut World) -> Vec<crate::world::Packet>) -> usize {
    let packets = act(world);
    for packet in &packets {
        world.tell(Kind::Told, format!("{} {what}", packet.line()));
    }
    packets.len()
}

fn unknown(name: &str) -> String {
    format!("there is no command `{name}`; see testdata/README.md")
}

fn line_of(trace: &Trace) -> String {
    let text = &trace.text;
    match trace.kind {
        Kind::Note(id) | Kind::Write(id) => format!("{id} {text}"),
        Kind::Arrived(_) => format!("=> {text}"),
        Kind::Reply(request) => format!("r{} {text}", request.0),
        Kind::Sent(_) | Kind::Told => text.clone(),
    }
}

fn status_of(node: &crate::world::Node) -> String {
    let Some(view) = node.view() else { return "is down".to_string() };
    let leader = view.leader.map_or("nobody".to_string(), |id| id.to_string());
    let mut text = format!(
        "{} of {leader}, vote {}, log {} durable {} commit {} applied {}, {} at {}",
        view.role,
        view.vote,
        show(view.last),
        view.durable,
        view.commit,
        view.applied.index,
        compact(&view.membership),
        show(view.membership_log_id)
    );
    if view.snapshot.index > 0 {
        text.push_str(&format!(", snapshot {} purged {}", show(view.snapshot), show(view.purged)));
    }
    text
}

fn auto(word: &str) -> Result<Auto, String> {
    match word {
        "on" => Ok(Auto::On),
        "off" => Ok(Auto::Off),
        other => Err(format!("on or off, not `{other}`")),
    }
}

fn limit(words: &mut Words<'_>) -> Result<Option<usize>, String> {
    match words.maybe() {
        None | Some("all") => Ok(None),
        Some(word) => Ok(Some(usize::try_from(number(word)?).map_err(|e| e.to_string())?)),
    }
}

fn payload_of(word: &str) -> Payload {
    match word {
        "." => Payload::Blank,
        command => Payload::Command(command.to_string()),
    }
}

/// A majority of first disks.
fn membership(voters: &[NodeId], learners: &[NodeId]) -> Membership {
    let set: BTreeMap<NodeId, Incarnation> = voters.iter().map(|id| (*id, incarnation(*id, 0))).collect();
    let nodes = voters.iter().chain(learners).map(|id| (*id, record(*id))).collect();
    Membership { configs: vec![VoterSet::majority(set)], nodes, ..Membership::default() }
}
