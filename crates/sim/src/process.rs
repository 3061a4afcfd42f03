//! One node's process: disk, log, node, and the clock it reads.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::virtual_node::{VirtualNode, VirtualParts, storage_of};
use quorate::{
    Completions, Config, IdentityStore, LogWrite, PeerRefused, RaftLogStorage, RaftStateMachine, StorageError,
};
use quorate_core::{
    ClusterId, GroupId, Incarnation, Instant, LeaderId, LeaderIdMode, LogId, LogIds, NodeId, Recovered, Span, Starts,
    Tail, Vote, WriteId,
};
use quorate_wal::{Disk, OnDamage, WalCore, WalOptions};
use quorate_wire::Batches;

use crate::disk::SimDisk;
use crate::history::Nanos;
use crate::machine::Watched;
use crate::net::Outbox;
use crate::rng::Rng;

pub(crate) const GROUP: GroupId = GroupId(1);
/// Where a node keeps its data, on its own disk.
pub(crate) const DIRECTORY: &str = "/quorate-simulated-node";
/// The wall clock at the beginning: some day in 2030, in nanoseconds since the Unix epoch.
const EPOCH: u64 = 1_900_000_000_000_000_000;

/// Of a start's seed, what its token is drawn from.
const START_TOKENS: u64 = 7;

/// A clock that is off, and runs too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SkewedClock {
    /// Where this clock began, in the world's time.
    origin: Nanos,
    /// Millionths that it runs too fast, shifted so that it stays positive: 1,000,000 is right.
    rate: u64,
    /// What its wall clock adds.
    pub(crate) offset: i64,
    /// For how long it stood still, while the machine slept; its wall clock went on.
    slept: Nanos,
}

const RIGHT: u64 = 1_000_000;

impl SkewedClock {
    pub(crate) fn new(origin: Nanos, drift_ppm: i64, offset: i64) -> Self {
        Self { origin, rate: RIGHT.saturating_add_signed(drift_ppm), offset, slept: 0 }
    }

    /// What this clock shows.
    pub(crate) fn at(&self, now: Nanos) -> Instant {
        let since = u128::from(now.saturating_sub(self.origin + self.slept));
        Instant::from_nanos((since * u128::from(self.rate) / u128::from(RIGHT)) as u64)
    }

    /// The first moment of the world at which this clock shows `instant`.
    pub(crate) fn when(&self, instant: Instant) -> Nanos {
        let since = u128::from(instant.as_nanos()) * u128::from(RIGHT);
        self.origin + self.slept + since.div_ceil(u128::from(self.rate)) as u64
    }

    /// The machine slept until now.
    pub(crate) fn stood_still(&mut self, time: Nanos) {
        self.slept += time;
    }

    pub(crate) fn wall(&self, now: Nanos) -> u64 {
        (EPOCH + self.at(now).as_nanos() + self.slept + self.origin).saturating_add_signed(self.offset)
    }
}

/// What a disk must hold, as far as its log said that writes are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shadow {
    pub(crate) vote: Vote,
    pub(crate) log: LogIds,
    /// What the log was before damage took some of it, where it votes as if it held that (docs/design/001), or before an
    /// older copy was put back, whose votes nobody hears (law 15).
    pub(crate) lost: Vec<LogIds>,
    /// What the log was each time before some of it was cut off or replaced, or all of it given up. What damage leaves may be
    /// the front of such a one: an older state, which knows what was promised since.
    pub(crate) past: Vec<LogIds>,
}

/// A submitted write.
#[derive(Clone, Debug)]
enum ShadowOp {
    Vote(Vote),
    Append(Vec<LogId>),
    Truncate(LogId),
    Reset(LogId, Tail),
    /// The log that a start found, and gave up because no snapshot leads up to it.
    GiveUp(LogIds),
    Nothing,
}

impl Shadow {
    fn apply(&mut self, op: &ShadowOp) {
        if matches!(op, ShadowOp::Truncate(_) | ShadowOp::Reset(..)) {
            self.past.push(self.log.clone());
        }
        match op {
            ShadowOp::Vote(vote) => self.vote = *vote,
            ShadowOp::Append(ends) => ends.iter().for_each(|end| self.log.append(end.leader_id, end.index)),
            ShadowOp::Truncate(after) => self.log.truncate_after(after.index),
            ShadowOp::Reset(to, tail) => match tail {
                Tail::Keep if self.log.holds(*to) => self.log.purge(to.index),
                Tail::Keep | Tail::Discard => self.log = LogIds::after(*to),
            },
            // The start was over before this was durable: what it noted of the log was empty already.
            ShadowOp::GiveUp(found) => {
                self.past.push(found.clone());
                self.log = LogIds::default();
            }
            ShadowOp::Nothing => {}
        }
    }

    /// Whether this log, as far as it is not in a snapshot, is the front of what this disk held at some time.
    pub(crate) fn held_the_front(&self, log: &LogIds) -> bool {
        let is_front_of = |held: &LogIds| {
            let known = |run: quorate_core::Run| {
                run.last <= held.purged().index || held.holds(LogId::new(run.leader_id, run.last))
            };
            log.runs().filter(|run| run.last > log.purged().index).all(known)
        };
        self.past.iter().chain([&self.log]).any(is_front_of)
    }

    /// Every log that this disk has acknowledged something of.
    pub(crate) fn all_it_held(&self) -> Vec<LogIds> {
        self.lost.iter().chain([&self.log]).cloned().collect()
    }

    /// Whether this disk has the entry, or has it no more because a snapshot does; or had it, and keeps what it promised,
    /// or elects nobody any more.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        let mut logs = self.lost.iter().chain([&self.log]);
        logs.any(|log| id.index <= log.purged().index || log.holds(id))
    }
}

/// Sees every write on its way to the log, and holds its completion back until the world delivers it.
pub(crate) struct Spy {
    inner: Arc<dyn RaftLogStorage>,
    state: Arc<Mutex<SpyState>>,
}

#[derive(Default)]
pub(crate) struct SpyState {
    completions: Option<Arc<dyn Completions>>,
    done: Vec<(WriteId, Result<(), StorageError>)>,
    inflight: VecDeque<(WriteId, ShadowOp)>,
    /// Appended since the world looked.
    appended: Vec<(LogId, Batches)>,
    /// The end of the log with everything submitted.
    end: LogIds,
}

/// Keeps completions for the world.
struct Keeps(Arc<Mutex<SpyState>>);

impl Completions for Keeps {
    fn complete(&self, write: WriteId, result: Result<(), StorageError>) {
        self.0.lock().done.push((write, result));
    }
}

impl RaftLogStorage for Spy {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        let recovered = self.inner.recover(group, Arc::new(Keeps(Arc::clone(&self.state))))?;
        let mut state = self.state.lock();
        state.completions = Some(completions);
        state.end = recovered.log.clone();
        Ok(recovered)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        {
            let mut state = self.state.lock();
            let shadow = match &op {
                LogWrite::Vote(vote) => ShadowOp::Vote(*vote),
                LogWrite::Append(batches) => {
                    let prev = state.end.last();
                    state.appended.push((prev, batches.clone()));
                    ShadowOp::Append(batches.iter().map(quorate_wire::Batch::last).collect())
                }
                LogWrite::Truncate { after } => ShadowOp::Truncate(*after),
                LogWrite::Reset { to, tail } => ShadowOp::Reset(*to, *tail),
                LogWrite::PromiseLease(_) | LogWrite::ForgetPromisedEnd => ShadowOp::Nothing,
            };
            let mut end = Shadow { log: std::mem::take(&mut state.end), ..Shadow::default() };
            end.apply(&shadow);
            state.end = end.log;
            state.inflight.push_back((write, shadow));
        }
        self.inner.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<Batches>, StorageError> {
        self.inner.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.inner.purge(group, upto);
    }

    fn give_up(&self, group: GroupId) -> Result<LogId, StorageError> {
        let promised = self.inner.give_up(group)?;
        let mut state = self.state.lock();
        let found = std::mem::take(&mut state.end);
        state.inflight.push_back((WriteId(0), ShadowOp::GiveUp(found)));
        Ok(promised)
    }

    fn is_full(&self) -> bool {
        self.inner.is_full()
    }
}

/// A process that runs.
pub(crate) struct Running<S: RaftStateMachine> {
    pub(crate) node: VirtualNode<Watched<S>>,
    pub(crate) wal: WalCore,
    pub(crate) outbox: Arc<Outbox>,
    spy: Arc<Mutex<SpyState>>,
    pub(crate) clock: SkewedClock,
    /// The earliest timer under way, in the world's time.
    pub(crate) timer: Option<Nanos>,
    /// When the log takes its next turn.
    pub(crate) wal_at: Option<Nanos>,
    identity: Arc<dyn IdentityStore>,
    /// When its disk was opened, as its handshakes say.
    pub(crate) starts: Arc<Starts>,
    /// Peers that it has heard, by disk and start.
    pub(crate) met: BTreeMap<NodeId, (Incarnation, quorate_core::Start)>,
    /// What the cluster saw of it at its last step.
    pub(crate) seen: Seen,
    /// Since when its log is not durable up to an entry that it knows to be committed while it leads, and that entry.
    behind: Option<(Instant, u64)>,
}

/// What was seen of a node at its last step, in this run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) vote: Vote,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) leading: Option<LeaderId>,
    /// Where its log ended.
    pub(crate) last: u64,
    /// Where its membership stands in its log.
    pub(crate) membership: LogId,
    /// Whether it hands its leadership over.
    pub(crate) transfers: bool,
}

/// What a start is given.
pub(crate) struct Start<'a> {
    pub(crate) now: Nanos,
    pub(crate) cluster: ClusterId,
    pub(crate) mode: LeaderIdMode,
    pub(crate) config: Config,
    pub(crate) seed: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) check_steps: bool,
    pub(crate) on_damage: OnDamage,
    pub(crate) clock: SkewedClock,
    pub(crate) disk: &'a SimDisk,
    pub(crate) incarnation: Incarnation,
}

/// What a start did about damage, whether or not the node then ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mended {
    pub(crate) log: bool,
    pub(crate) snapshots: usize,
}

impl Mended {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// Segments and snapshots that were put aside on this disk.
fn set_aside(disk: &SimDisk) -> [usize; 2] {
    let names = disk.list(&Path::new(DIRECTORY).join("damaged")).unwrap_or_default();
    [".seg", ".snap"].map(|ending| names.iter().filter(|name| name.ends_with(ending)).count())
}

/// Starts a process, and says what it did about damage.
pub(crate) fn start<S: RaftStateMachine>(
    id: NodeId,
    start: Start<'_>,
    machine: S,
) -> (Result<Running<S>, String>, Mended) {
    let (disk, before) = (start.disk, set_aside(start.disk));
    let mut mended = Mended::default();
    let running = open(id, start, machine, &mut mended.log);
    let after = set_aside(disk);
    // An opening that mends the log may still fail, for want of space: the next one does not say so again.
    mended.log |= after[0] > before[0];
    mended.snapshots = after[1] - before[1];
    (running, mended)
}

fn open<S: RaftStateMachine>(
    id: NodeId,
    start: Start<'_>,
    machine: S,
    mended: &mut bool,
) -> Result<Running<S>, String> {
    let options = WalOptions {
        segment_bytes: start.segment_bytes,
        incarnation: Some(start.incarnation),
        start_token: Some(Rng::new(start.seed, START_TOKENS).bits() | 1),
        created: Some(0),
        on_damage: start.on_damage,
        ..WalOptions::new(id)
    };
    let disk = Arc::new(start.disk.clone());
    let (wal, handle) = WalCore::open(disk, Path::new(DIRECTORY), options).map_err(|error| error.to_string())?;
    *mended = handle.mended().is_some();
    if handle.identity().cluster != start.cluster {
        handle.set_cluster(start.cluster, start.mode).map_err(|error| error.to_string())?;
    }
    let storage = storage_of(handle);
    let spy = Arc::new(Mutex::new(SpyState::default()));
    let outbox = Arc::new(Outbox::default());
    let mut node = VirtualNode::start(
        VirtualParts {
            id,
            incarnation: start.incarnation,
            group: GROUP,
            cluster: start.cluster,
            config: start.config,
            seed: start.seed,
            log: Arc::new(Spy { inner: storage.log, state: Arc::clone(&spy) }),
            snapshots: storage.snapshots,
            network: Arc::clone(&outbox) as _,
            has_met_peers: storage.identity.has_met_peers(),
            machine: Watched::new(machine),
        },
        start.clock.at(start.now),
    )
    .map_err(|error| error.to_string())?;
    if start.check_steps {
        node.check_steps();
    }
    let core = node.core();
    let seen = Seen {
        vote: core.vote(),
        commit: core.commit(),
        applied: core.applied().index,
        leading: None,
        last: core.last_log_id().index,
        membership: core.membership_log_id(),
        transfers: false,
    };
    let identity = storage.identity;
    let starts = Arc::new(identity.identity().starts);
    let met = BTreeMap::new();
    let (clock, timer, wal_at, behind) = (start.clock, None, None, None);
    Ok(Running { node, wal, outbox, spy, clock, timer, wal_at, identity, starts, met, seen, behind })
}

impl<S: RaftStateMachine> Running<S> {
    /// After a step: whether it led, leads no more, and its disk was behind one committed entry for as long as a leader's
    /// may be (law 8).
    pub(crate) fn left_for_its_disk(&mut self, before: Seen, now: Instant) -> bool {
        let core = self.node.core();
        let (led, leads) = (before.leading.is_some(), self.seen.leading.is_some());
        self.behind = self.behind.filter(|(_, index)| led && *index > core.durable());
        if led && self.behind.is_none() && core.commit() > core.durable() {
            self.behind = Some((now, core.commit()));
        }
        led && !leads && self.behind.is_some_and(|(since, _)| now.since(since) >= core.config().max_disk_lag)
    }

    /// Entries submitted since the last call, each run of them with the log id before it.
    pub(crate) fn take_appended(&self, into: &mut Vec<(LogId, Batches)>) {
        into.append(&mut self.spy.lock().appended);
    }

    /// Completions since the last call: what is durable is noted, the node does not know yet.
    pub(crate) fn take_done(&self, shadow: &mut Shadow) -> Vec<(WriteId, Result<(), StorageError>)> {
        let mut state = self.spy.lock();
        let done = std::mem::take(&mut state.done);
        for (write, result) in &done {
            if result.is_err() {
                continue;
            }
            while let Some((_, op)) = state.inflight.pop_front_if(|(id, _)| *id <= *write) {
                shadow.apply(&op);
            }
        }
        done
    }

    /// The handshake: whether this peer is heard. An older copy of a disk is not (law 15).
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn meets(&mut self, peer: NodeId, incarnation: Incarnation, starts: &Starts) -> Result<(), PeerRefused> {
        let met = (incarnation, starts.last());
        if self.met.get(&peer) == Some(&met) {
            return Ok(());
        }
        self.identity.record_peer(peer, incarnation, starts)?;
        self.met.insert(peer, met);
        Ok(())
    }

    /// A peer refuses it: it runs on an older copy of its disk, and ends.
    pub(crate) fn is_older_copy(&self, peer: NodeId, text: &str) {
        // Where that cannot be written down, it ends all the same.
        let _ = self.identity.note_older_copy(peer, text);
    }

    /// Tells the node.
    pub(crate) fn deliver(&self, write: WriteId, result: Result<(), StorageError>) {
        let completions = self.spy.lock().completions.clone();
        if let Some(completions) = completions {
            completions.complete(write, result);
        }
    }

    /// Every state that the disk may be in if the process stops now: what is durable, and after it a prefix of what
    /// is not.
    pub(crate) fn possible(&self, durable: &Shadow) -> Vec<Shadow> {
        let state = self.spy.lock();
        let mut states = vec![durable.clone()];
        for (_, op) in &state.inflight {
            let mut next = states[states.len() - 1].clone();
            next.apply(op);
            states.push(next);
        }
        states
    }
}
