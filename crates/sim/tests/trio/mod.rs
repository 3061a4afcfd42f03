//! Three nodes on disks in memory, with a network that delivers at once: what damage to one disk leads to.
#![allow(dead_code, reason = "each of those who use it uses a part")]

pub mod regions;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::virtual_node::{Answer, Chore, VirtualNode, VirtualParts, storage_of};
use quorate::{Config, Inbound, OutgoingSnapshot, RaftNetwork, RaftStateMachine, ReceivedSnapshot, SnapshotData};
use quorate_core::{
    ClusterId, Event, GroupId, Incarnation, Instant, LeaderIdMode, LogId, Membership, Node, NodeId, RequestId,
    SendOutcome, Span, Starts,
};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, OnDamage, WalCore, WalError, WalHandle, WalOptions};
use quorate_wire::Packet;

const GROUP: GroupId = GroupId(1);
const CLUSTER: ClusterId = ClusterId(0xd15c);
const DIR: &str = "/data";
/// Steps after which nothing will change any more.
const MAX_STEPS: usize = 20_000;

/// Remembers everything.
#[derive(Default)]
pub struct Words(Vec<u64>);

impl RaftStateMachine for Words {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, word: u64) -> u64 {
        // A write whose outcome is unknown is written again.
        if !self.0.contains(&word) {
            self.0.push(word);
        }
        self.0.len() as u64
    }

    fn snapshot(&self, out: &mut dyn Write) -> std::io::Result<()> {
        self.0.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))
    }

    fn restore(input: &mut dyn Read) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        Ok(Words(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()))
    }
}

type Done = Box<dyn FnOnce(SendOutcome) + Send>;

#[derive(Default)]
struct Outbox {
    packets: Mutex<Vec<(NodeId, Packet)>>,
    snapshots: Mutex<Vec<(NodeId, OutgoingSnapshot, Done)>>,
}

impl RaftNetwork for Outbox {
    fn start(&self, _: Arc<dyn Inbound>) {}

    fn set_address(&self, _: NodeId, _: &str) {}

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.packets.lock().unwrap().push((to, packet));
        Ok(())
    }

    fn call(&self, _: NodeId, _: bytes::Bytes) -> bool {
        false
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Done) {
        self.snapshots.lock().unwrap().push((to, snapshot, done));
    }

    fn shutdown(&self) {}
}

struct Running {
    node: VirtualNode<Words>,
    wal: WalCore,
    handle: WalHandle,
    outbox: Arc<Outbox>,
    wal_at: Option<Instant>,
}

/// The cluster.
pub struct Trio {
    now: Instant,
    pub disks: Vec<MemDisk>,
    nodes: Vec<Option<Running>>,
    answers: Vec<(u64, Answer<u64>)>,
    /// Writes that were acknowledged, in order.
    pub acknowledged: Vec<u64>,
    starts: u64,
    /// By node: it ended with a reason, or mended its log, since the cluster was made.
    noticed: Vec<bool>,
    /// Why a node of one does not start again.
    pub refused: Option<String>,
    /// Snapshots that were sent and are not what a store would take.
    pub damaged_arrivals: usize,
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn incarnation(at: usize) -> Incarnation {
    Incarnation(at as u128 + 71)
}

fn config() -> Config {
    Config { keep_entries: 6, max_kept_bytes: 0, ..Config::default() }
}

impl Trio {
    pub fn new(disks: Vec<MemDisk>, acknowledged: Vec<u64>) -> Self {
        let nodes = disks.iter().map(|_| None).collect();
        let noticed = vec![false; disks.len()];
        Self {
            now: Instant::ORIGIN,
            disks,
            nodes,
            answers: Vec::new(),
            acknowledged,
            starts: 0,
            noticed,
            refused: None,
            damaged_arrivals: 0,
        }
    }

    /// A cluster of `size` that wrote, took snapshots, wrote again and was stopped in good order.
    pub fn stopped(size: usize) -> Self {
        let mut trio = Trio::new((0..size).map(|_| MemDisk::new()).collect(), Vec::new());
        (0..size).for_each(|at| trio.start(at).unwrap());
        let members = (0..size).map(|at| (id(at), incarnation(at), Node::at(format!("node-{at}:1"))));
        let membership = Membership::majority(members);
        trio.nodes[0].as_mut().unwrap().node.initialize(0, membership);
        for word in 1..=60 {
            trio.write(word * 1000 + 7);
            if word == 30 {
                for running in trio.nodes.iter().flatten() {
                    running.node.trigger(Event::Snapshot { request: None });
                }
            }
        }
        trio.converge("before the damage");
        trio.pass(Duration::from_millis(300));
        trio.stop_all();
        trio
    }

    pub fn copy(&self) -> Self {
        let disks = self.disks.iter().map(|disk| disk.crashed(Crash::KeepAll)).collect();
        Trio::new(disks, self.acknowledged.clone())
    }

    pub fn start(&mut self, at: usize) -> Result<(), String> {
        self.start_with(at, config())
    }

    pub fn start_with(&mut self, at: usize, config: Config) -> Result<(), String> {
        let options = WalOptions {
            segment_bytes: 16 << 10,
            incarnation: Some(incarnation(at)),
            start_token: Some(self.starts + 1),
            created: Some(1),
            on_damage: OnDamage::Mend,
            ..WalOptions::new(id(at))
        };
        let opened = WalCore::open(Arc::new(self.disks[at].clone()), Path::new(DIR), options);
        let (wal, handle) = opened.map_err(|error| error.to_string())?;
        self.noticed[at] |= handle.mended().is_some();
        handle.set_cluster(CLUSTER, LeaderIdMode::Advanced).map_err(|error| error.to_string())?;
        for peer in (0..self.disks.len()).filter(|peer| *peer != at) {
            handle
                .record_peer(id(peer), incarnation(peer), &Starts::counted(self.starts))
                .map_err(|error| error.to_string())?;
        }
        let storage = storage_of(handle.clone());
        let outbox = Arc::new(Outbox::default());
        self.starts += 1;
        let parts = VirtualParts {
            id: id(at),
            incarnation: incarnation(at),
            group: GROUP,
            cluster: CLUSTER,
            config,
            seed: self.starts * 77,
            log: storage.log,
            snapshots: storage.snapshots,
            network: Arc::clone(&outbox) as _,
            has_met_peers: handle.has_met_peers(),
            machine: Words::default(),
        };
        let node = VirtualNode::start(parts, self.now).map_err(|error| error.to_string())?;
        self.nodes[at] = Some(Running { node, wal, handle, outbox, wal_at: None });
        Ok(())
    }

    pub fn stop(&mut self, at: usize) {
        self.nodes[at] = None;
    }

    pub fn stop_all(&mut self) {
        self.nodes.iter_mut().for_each(|node| *node = None);
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Running)> {
        self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?)))
    }

    /// Does what can be done now; if nothing can, lets time pass until something is due.
    fn step(&mut self) {
        let mut quiet = true;
        for at in 0..self.nodes.len() {
            let Some(running) = &mut self.nodes[at] else { continue };
            running.wal_at = loop {
                match running.wal.turn(self.now) {
                    quorate_wal::Wake::Again => quiet = false,
                    quorate_wal::Wake::At(instant) => break Some(instant),
                    quorate_wal::Wake::Idle => break None,
                }
            };
            quiet &= !running.node.is_awake();
            running.node.turn(self.now, self.now.as_nanos());
            let mut chores: Vec<Chore> = Vec::new();
            running.node.take_chores(&mut chores);
            quiet &= chores.is_empty();
            chores.into_iter().for_each(Chore::run);
            running.node.take_answers(&mut self.answers);
            let packets = std::mem::take(&mut *running.outbox.packets.lock().unwrap());
            let snapshots = std::mem::take(&mut *running.outbox.snapshots.lock().unwrap());
            quiet &= packets.is_empty() && snapshots.is_empty();
            for (to, packet) in packets {
                if let Some(to) = &self.nodes[to.0 as usize - 1] {
                    to.node.packet(id(at), incarnation(at), packet);
                }
            }
            for (to, snapshot, done) in snapshots {
                let OutgoingSnapshot { group, header, meta, source, .. } = snapshot;
                match (&self.nodes[to.0 as usize - 1], source.read_all()) {
                    (Some(to), Ok(bytes)) => {
                        let mut incoming = to.handle.snapshots().receive(GROUP).unwrap();
                        incoming.append(&bytes).unwrap();
                        self.damaged_arrivals += usize::from(incoming.finish().is_err());
                        let data = SnapshotData::Memory(bytes);
                        to.node.snapshot(id(at), incarnation(at), ReceivedSnapshot { group, header, meta, data });
                        done(SendOutcome::Delivered);
                    }
                    _ => done(SendOutcome::Failed),
                }
            }
        }
        if quiet {
            let due = self.running().flat_map(|(_, running)| [running.node.deadline(), running.wal_at]).flatten().min();
            self.now = due.unwrap_or(self.now).max(self.now + Duration::from_millis(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..MAX_STEPS {
            if done(self) || self.refused.is_some() {
                return;
            }
            self.step();
            self.restart_closed(what);
        }
        let states: Vec<String> = self
            .running()
            .map(|(at, running)| {
                let core = running.node.core();
                let (last, lost) = (core.last_log_id(), core.lost_entries());
                format!(
                    "node {at}: leader {:?}, ends at {last}, commit {}, lost {lost:?}",
                    core.leader(),
                    core.commit()
                )
            })
            .collect();
        panic!("{what}: it never comes to that: {states:?}");
    }

    /// What a supervisor does: a node that stopped with a reason is started again.
    fn restart_closed(&mut self, what: &str) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].as_ref().is_some_and(|running| running.node.closed().is_some()) {
                self.nodes[at] = None;
                self.noticed[at] = true;
                if let Err(error) = self.start(at) {
                    assert!(self.nodes.len() == 1, "{what}: unopenable: node {at} does not start again: {error}");
                    self.refused = Some(error);
                }
            }
        }
    }

    pub fn leader(&self) -> Option<usize> {
        self.running().find(|(_, running)| running.node.core().is_leader()).map(|(at, _)| at)
    }

    pub fn write(&mut self, word: u64) {
        loop {
            self.run_until("a leader", |trio| trio.leader().is_some());
            let Some(leader) = self.leader() else { return };
            self.answers.clear();
            let payload = serde_bytes(word);
            self.nodes[leader].as_ref().unwrap().node.write(word, &payload);
            self.run_until("an answer", |trio| trio.answers.iter().any(|(call, _)| *call == word));
            let Some((_, answer)) = self.answers.iter().find(|(call, _)| *call == word) else { return };
            match answer {
                Answer::Applied { .. } => return self.acknowledged.push(word),
                Answer::NotLeader { .. } | Answer::Refused | Answer::Unknown => {}
                other => panic!("the write ended as {other:?}"),
            }
        }
    }

    /// Runs until every node has applied the same, all of it.
    pub fn converge(&mut self, what: &str) {
        self.run_until(what, |trio| {
            let ends: Vec<(LogId, LogId, bool)> = trio
                .running()
                .map(|(_, running)| {
                    let core = running.node.core();
                    (core.last_log_id(), core.applied(), core.lost_entries().is_none())
                })
                .collect();
            trio.leader().is_some() && ends.iter().all(|end| *end == ends[0] && end.0 == end.1 && end.2)
        });
        for (at, running) in self.running() {
            let words = running.node.machine(|words, _| words.0.clone());
            assert_eq!(words.as_ref(), Some(&self.acknowledged), "{what}: lost: what node {at} applied");
        }
    }

    /// Hands leadership to a node.
    pub fn transfer(&mut self, to: usize, what: &str) {
        self.run_until(what, |trio| trio.leader().is_some());
        let leader = self.leader().unwrap();
        if leader != to {
            let transfer = Event::TransferLeader { request: RequestId(u64::MAX), to: Some(id(to)) };
            self.nodes[leader].as_ref().unwrap().node.trigger(transfer);
            self.run_until(what, |trio| trio.leader() == Some(to));
        }
    }

    /// Snapshots that a node put aside because they are damaged.
    pub fn set_aside(&self, at: usize) -> Vec<String> {
        let names = self.disks[at].list(&Path::new(DIR).join("damaged")).unwrap_or_default();
        names.into_iter().filter(|name| name.ends_with(".snap")).collect()
    }

    /// The newest snapshot file of a node, and its length.
    pub fn snapshot_of(&self, at: usize) -> (PathBuf, u64) {
        let dir = Path::new(DIR).join("snapshots");
        self.files(at).into_iter().rfind(|(path, _)| path.starts_with(&dir)).expect("it has a snapshot")
    }

    /// Runs until a node has nothing more to write.
    pub fn settle(&mut self, time: Duration) {
        self.pass(time);
    }

    /// Writes, of which a node's disk keeps nothing but the mark; then the node reads the entry.
    pub fn lose_newest(&mut self, at: usize) {
        const DATA_AT: usize = 12 << 10;
        let segments = |trio: &Trio| -> Vec<(PathBuf, u64)> {
            trio.files(at).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg")).collect()
        };
        let mut before = self.disks[at].crashed(Crash::KeepAll);
        for word in 0.. {
            let files = segments(self);
            before = self.disks[at].crashed(Crash::KeepAll);
            self.write(word);
            // Else a segment was begun.
            if segments(self) == files && word > 0 {
                break;
            }
        }
        for (path, _) in segments(self) {
            let (file, old) = (self.disks[at].open(&path).unwrap(), before.open(&path).unwrap());
            let mut bytes = vec![0; old.length().unwrap() as usize - DATA_AT];
            old.read_at(&mut bytes, DATA_AT as u64).unwrap();
            file.write_at(&bytes, DATA_AT as u64).unwrap();
            file.sync_data().unwrap();
        }
        let found = self.read_log(at);
        assert!(matches!(found, Err(WalError::Corrupt(_))), "lost: the damage is not seen: {found:?}");
    }

    /// Reads the log of a node from its disk.
    fn read_log(&self, at: usize) -> Result<Vec<(LogId, Vec<u8>)>, WalError> {
        let running = self.nodes[at].as_ref().unwrap();
        let core = running.node.core();
        let last = core.last_log_id();
        let mut prev = core.status().purged;
        let mut entries = Vec::new();
        while prev != last {
            let Some(batches) = running.handle.read(GROUP, Span { prev, last }, 1 << 20)? else { break };
            for entry in batches.iter().flat_map(|batch| batch.iter()) {
                entries.push((entry.log_id, entry.payload.to_vec()));
                prev = entry.log_id;
            }
        }
        Ok(entries)
    }

    /// What becomes of a cluster of which one node was damaged: it is repaired, votes and leads. Returns how the
    /// damage was seen.
    pub fn repairs(mut self, damaged: usize, what: &str) -> Seen {
        let noticed = |trio: &Trio| trio.noticed[damaged] || !trio.set_aside(damaged).is_empty();
        for at in 0..self.disks.len() {
            self.start(at).unwrap_or_else(|error| panic!("{what}: unopenable: node {at} needs an operator: {error}"));
        }
        let at_start = noticed(&self);
        self.write(1);
        self.converge(what);
        if let Err(error) = self.read_log(damaged) {
            assert!(matches!(error, WalError::Corrupt(_)), "{what}: {error}");
            self.noticed[damaged] = true;
            self.stop(damaged);
            self.start(damaged).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
            self.write(2);
            self.converge(what);
        }
        // It leads, and its vote alone elects another one.
        self.transfer(damaged, what);
        self.write(3);
        let (other, third) = ((damaged + 1) % 3, (damaged + 2) % 3);
        self.stop(third);
        self.transfer(other, what);
        self.write(4);
        self.start(third).unwrap();
        self.converge(what);
        let logs: Vec<_> = (0..3).map(|at| self.read_log(at).unwrap_or_else(|e| panic!("{what}: {e}"))).collect();
        let first = logs.iter().filter_map(|log| log.first()).map(|(id, _)| id.index).max();
        let tails: Vec<Vec<_>> =
            logs.iter().map(|log| log.iter().filter(|(id, _)| Some(id.index) >= first).collect()).collect();
        assert!(tails.iter().all(|tail| *tail == tails[0]), "{what}: the logs differ");
        match (at_start, noticed(&self)) {
            (true, _) => Seen::AtStart,
            (false, true) => Seen::WhenRead,
            (false, false) => Seen::Not { purged: self.purged(damaged) },
        }
    }

    /// What becomes of a damaged node that has no others: it serves with all that it had, or stops and names the entries that
    /// it lost, of a log that ended at the index `end`.
    pub fn serves_or_names(mut self, end: u64, what: &str) -> Seen {
        match self.start(0) {
            Ok(()) => self.write(1),
            Err(error) => self.refused = Some(error),
        }
        if self.refused.is_none() {
            self.converge(what);
            // What its snapshot covers nobody reads, unless a peer asks for it.
            if let Err(error) = self.read_log(0) {
                assert!(matches!(error, WalError::Corrupt(_)), "{what}: {error}");
                self.noticed[0] = true;
                self.stop(0);
                match self.start(0) {
                    Ok(()) => self.converge(what),
                    Err(error) => self.refused = Some(error),
                }
            }
        }
        let Some(error) = self.refused.take() else {
            let noticed = self.noticed[0] || !self.set_aside(0).is_empty();
            return if noticed { Seen::WhenRead } else { Seen::Not { purged: self.purged(0) } };
        };
        let lost = named_as_lost(&error).unwrap_or_else(|| panic!("{what}: it does not say what is lost: {error}"));
        let (after, up_to) = lost;
        // Of a segment whose header is damaged it is not known either that nothing was in it: then nothing is lost before
        // the end.
        assert!(after < up_to && after <= end, "{what}: no entry of a log that ended at {end} is lost: {error}");
        let snapshot = error.contains("which only its snapshot held");
        assert!(snapshot || up_to >= end, "{what}: entries up to {end} are lost: {error}");
        let remedy = if snapshot { "from a backup" } else { "quorate recover" };
        assert!(error.contains(remedy), "{what}: it does not say what to do: {error}");
        Seen::Halted
    }

    /// The index after which a node's log begins.
    fn purged(&self, at: usize) -> u64 {
        self.nodes[at].as_ref().unwrap().node.core().status().purged.index
    }

    /// The index at which a node's log ends.
    pub fn last_index(&self, at: usize) -> u64 {
        self.nodes[at].as_ref().unwrap().node.core().last_log_id().index
    }

    /// Files of a node's disk with anything in them.
    pub fn files(&self, at: usize) -> Vec<(PathBuf, u64)> {
        self.disks[at].files().into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// How damage was seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not at all: it must have hit nothing that counts, or one of several copies, see [`regions::Region`].
    Not {
        /// The index after which the log begins in the end.
        purged: u64,
    },
    /// When the node was started.
    AtStart,
    /// When the entry was read.
    WhenRead,
    /// The node has nobody to repair it, and stopped with the indexes that it lost.
    Halted,
}

/// The indexes between which entries are lost, as a message says: after the one, up to the other.
fn named_as_lost(error: &str) -> Option<(u64, u64)> {
    let (after, rest) = error.split_once("lost its entries after ")?.1.split_once(", up to ")?;
    let up_to = rest.split([',', ' ']).next()?;
    let index = |log_id: &str| log_id.rsplit_once('.')?.1.parse().ok();
    Some((index(after)?, index(up_to)?))
}

fn serde_bytes(word: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    quorate::Payload::encode(&word, &mut bytes).unwrap();
    bytes
}

/// A copy with one bit flipped on one node's disk.
pub fn flip(trio: &Trio, at: usize, path: &Path, offset: u64) -> Trio {
    flip_bits(trio, at, path, offset, 0x08)
}

/// A copy with these bits of a byte flipped on one node's disk.
pub fn flip_bits(trio: &Trio, at: usize, path: &Path, offset: u64, mask: u8) -> Trio {
    let damaged = trio.copy();
    damaged.disks[at].flip(path, offset, mask);
    damaged
}

/// Where something is written in a file of a node, and a little of where nothing is.
pub fn written(trio: &Trio, at: usize, path: &Path) -> Vec<u64> {
    let file = trio.disks[at].open(path).unwrap();
    let mut content = vec![0; file.length().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    (0..content.len() as u64).filter(|at| content[*at as usize] != 0 || at % 4099 == 0).collect()
}
