//! Client sessions: each command is applied exactly once, whatever happens on the way (law 22).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod identity;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::FixedIdentity;
use quorate::{
    ClusterId, Config, EntryContext, GroupId, Host, Identity, IdentityStore, Incarnation, LeaderIdMode, MemoryNetwork,
    MemorySnapshots, MemoryStorage, Node, NodeId, PendingWrite, Raft, RaftMetrics, RaftStateMachine, ReadPolicy,
    Session, SessionError, SessionOptions, SnapshotStore, Storage,
};

const PATIENCE: Duration = Duration::from_secs(20);
const GROUP: GroupId = GroupId(1);

// ---- a machine that counts how often each command was applied ----

/// A client's number and the command's.
type Command = (u64, u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// By client: of each of its commands, how often it was applied.
    times: BTreeMap<u64, Vec<u8>>,
    total: u64,
    /// The greatest time of a command, in nanoseconds since the Unix epoch.
    latest: u64,
    /// Commands with a smaller time than one before them.
    backwards: u64,
}

impl RaftStateMachine for Tally {
    type Command = Command;
    type Response = u64;

    fn apply(&mut self, _command: Command) -> u64 {
        unreachable!("apply_entry is provided")
    }

    fn apply_entry(&mut self, entry: EntryContext, (client, number): Command) -> u64 {
        let time = entry.time.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        self.backwards += u64::from(time < self.latest);
        self.latest = self.latest.max(time);
        let times = self.times.entry(client).or_default();
        let place = number as usize;
        times.resize(times.len().max(place + 1), 0);
        times[place] = times[place].saturating_add(1);
        self.total += 1;
        self.total
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        for number in [self.total, self.latest, self.backwards] {
            out.write_all(&number.to_le_bytes())?;
        }
        for (client, times) in &self.times {
            out.write_all(&client.to_le_bytes())?;
            out.write_all(&(times.len() as u64).to_le_bytes())?;
            out.write_all(times)?;
        }
        Ok(())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let mut tally = Tally { total: number(0), latest: number(8), backwards: number(16), ..Tally::default() };
        let mut at = 24;
        while at < bytes.len() {
            let (client, count) = (number(at), number(at + 8) as usize);
            tally.times.insert(client, bytes[at + 16..at + 16 + count].to_vec());
            at += 16 + count;
        }
        Ok(tally)
    }

    fn applies_inline(&self) -> bool {
        true
    }
}

// ---- nodes that can be started again on what their disk holds ----

/// A wall clock that a test sets, in seconds since the Unix epoch.
#[derive(Clone)]
struct Wall(Arc<AtomicU64>);

impl Wall {
    /// Somewhere in 1996: far from the machine's clock.
    fn start() -> Self {
        Self(Arc::new(AtomicU64::new(820_000_000)))
    }

    fn go_on(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

struct Member {
    id: u64,
    log: MemoryStorage,
    snapshots: MemorySnapshots,
    identity: Arc<FixedIdentity>,
    host: Host,
    raft: Raft<Tally>,
}

struct Cluster {
    network: MemoryNetwork,
    config: Config,
    wall: Wall,
    members: Vec<Member>,
}

async fn start_on_disk(
    cluster: (&MemoryNetwork, &Config, &Wall),
    id: u64,
    disk: (&MemoryStorage, &MemorySnapshots, &Arc<FixedIdentity>),
) -> (Host, Raft<Tally>) {
    let (network, config, wall) = cluster;
    let (log, snapshots, identity) = disk;
    let storage = Storage {
        log: Arc::new(log.clone()),
        snapshots: Arc::new(snapshots.clone()),
        identity: Arc::clone(identity) as Arc<dyn IdentityStore>,
    };
    let peers = (1..=3).map(|id| (NodeId(id), Node::at(format!("memory:{id}"))));
    let wall = wall.clone();
    let builder = Host::builder(id)
        .peers(peers)
        .in_memory(network)
        .config(config.clone())
        .storage(storage)
        .wall_clock(move || UNIX_EPOCH + Duration::from_secs(wall.0.load(Ordering::SeqCst)));
    let host = builder.open().await.unwrap();
    let raft = host.group(GROUP.0).start(Tally::default()).await.unwrap();
    (host, raft)
}

impl Cluster {
    async fn start(config: Config) -> Self {
        // RUST_LOG=quorate=debug shows what the nodes do.
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let (network, wall) = (MemoryNetwork::new(), Wall::start());
        let mut members = Vec::new();
        for id in 1..=3 {
            let (log, snapshots) = (MemoryStorage::new(), MemorySnapshots::new());
            let identity = Arc::new(FixedIdentity::new(Identity {
                cluster: ClusterId(0),
                node: NodeId(id),
                incarnation: Incarnation(u128::from(id)),
                starts: quorate::Starts::counted(1),
                mode: LeaderIdMode::Advanced,
            }));
            let (host, raft) = start_on_disk((&network, &config, &wall), id, (&log, &snapshots, &identity)).await;
            members.push(Member { id, log, snapshots, identity, host, raft });
        }
        for member in &members {
            member.raft.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
        }
        Self { network, config, wall, members }
    }

    fn raft(&self, place: usize) -> Raft<Tally> {
        self.members[place].raft.clone()
    }

    /// Stops a node and starts it again on its disk.
    async fn restart(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.host.shutdown().await;
        let disk = (&member.log, &member.snapshots, &member.identity);
        let cluster = (&self.network, &self.config, &self.wall);
        (member.host, member.raft) = start_on_disk(cluster, member.id, disk).await;
    }

    async fn restart_all(&mut self) {
        for member in &self.members {
            member.host.shutdown().await;
        }
        for place in 0..3 {
            self.restart(place).await;
        }
    }

    /// The place of the node that leads, once one does.
    async fn leader(&self) -> usize {
        loop {
            for (place, member) in self.members.iter().enumerate() {
                if member.raft.is_leader() {
                    return place;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn follower(&self) -> usize {
        (self.leader().await + 1) % 3
    }

    async fn tally(&self) -> Tally {
        let leader = self.leader().await;
        self.members[leader].raft.read(ReadPolicy::ReadIndex, Tally::clone).await.unwrap()
    }

    /// Waits until this holds on every node.
    async fn all(&self, what: &str, condition: impl Fn(&RaftMetrics) -> bool) {
        for member in &self.members {
            member.raft.wait(PATIENCE).metrics(&condition, what).await.unwrap();
        }
    }

    /// Has every node apply the whole log, then take a snapshot of it, and returns their contents.
    async fn snapshots(&self) -> Vec<Vec<u8>> {
        let end = self.members[self.leader().await].raft.ensure_linearizable(ReadPolicy::ReadIndex).await.unwrap();
        let mut contents = Vec::new();
        for member in &self.members {
            let raft = &member.raft;
            raft.wait(PATIENCE).applied_index_at_least(end.index).await.unwrap();
            raft.trigger().snapshot().await.unwrap();
            raft.wait(PATIENCE).snapshot_index_at_least(end.index).await.unwrap();
        }
        contents.extend((0..3).map(|place| self.content(place)));
        contents
    }

    /// A node's newest snapshot.
    fn content(&self, place: usize) -> Vec<u8> {
        let mut content = Vec::new();
        let stored = self.members[place].snapshots.latest(GROUP).unwrap().unwrap();
        stored.content().unwrap().read_to_end(&mut content).unwrap();
        content
    }

    async fn stop(self) {
        for member in &self.members {
            member.host.shutdown().await;
        }
    }
}

/// The time of the last entry in a snapshot, in seconds: it follows the magic.
fn log_time(content: &[u8]) -> u64 {
    u64::from_le_bytes(content[8..16].try_into().unwrap()) / 1_000_000_000
}

fn options() -> SessionOptions {
    SessionOptions::default()
}

// ---- one command at a time ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_sent_again_is_applied_once_and_answered_alike() {
    let cluster = Cluster::start(Config::default()).await;
    let follower = cluster.follower().await;
    let session = cluster.raft(follower).open_session(options()).await.unwrap();
    let mut pending = session.prepare((1, 0)).await.unwrap();
    let first = pending.send().await.unwrap();
    let (id, serial) = (session.id(), pending.serial());
    assert_eq!(pending.send().await.unwrap(), first, "by the same node");
    session.detach();
    drop(pending);
    for place in 0..3 {
        let session = cluster.raft(place).resume_session(id, options(), serial).await.unwrap();
        let mut again = session.prepare((1, 0)).await.unwrap();
        assert_eq!((again.serial(), again.send().await.unwrap()), (serial, first.clone()), "by node {}", place + 1);
        session.detach();
    }
    assert_eq!(cluster.tally().await.times[&1], [1]);
    cluster.all("the answer is kept", |now| (now.sessions, now.session_answers) == (1, 1)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_may_be_sent_in_any_order_up_to_the_window() {
    let cluster = Cluster::start(Config::default()).await;
    let session = cluster.raft(0).open_session(SessionOptions { max_in_flight: 3, ..options() }).await.unwrap();
    let session = Arc::new(session);
    let mut pending: Vec<PendingWrite<Tally>> = Vec::new();
    for number in 0..3 {
        pending.push(session.prepare((1, number)).await.unwrap());
    }
    let mut responses = Vec::new();
    for place in [2, 0, 1] {
        responses.push(pending[place].send().await.unwrap().response);
    }
    assert_eq!(responses, [1, 2, 3], "applied as they were sent");
    let waiting = {
        let session = Arc::clone(&session);
        tokio::spawn(async move { session.write((1, 3)).await })
    };
    // The others' answers are kept, so a fourth has no place before the first is given up.
    assert_eq!(pending[1].send().await.unwrap().response, 3);
    pending.remove(0);
    assert_eq!(waiting.await.unwrap().unwrap().response, 4);
    assert_eq!(cluster.tally().await.times[&1], [1; 4]);
    drop((pending, session));
    cluster.all("dropping it closes the session", |now| now.sessions == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_acknowledged_is_not_applied_again() {
    let cluster = Cluster::start(Config::default()).await;
    let session = cluster.raft(0).open_session(options()).await.unwrap();
    session.write((1, 0)).await.unwrap();
    session.write((1, 1)).await.unwrap();
    let id = session.id();
    session.detach();
    // A client that forgot how far it was, or a copy that was on its way for long.
    let behind = cluster.raft(1).resume_session(id, options(), 1).await.unwrap();
    let error = behind.write((1, 0)).await.unwrap_err();
    assert_eq!(error, SessionError::Acknowledged);
    assert!(error.outcome_is_unknown() && !error.is_retryable());
    assert_eq!(cluster.tally().await.times[&1], [1, 1]);
    behind.close().await.unwrap();
    cluster.all("closed", |now| now.sessions == 0).await;
    assert_eq!(cluster.raft(2).resume_session(id, options(), 3).await.unwrap_err(), SessionError::Expired);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_out_of_range_are_refused() {
    let cluster = Cluster::start(Config::default()).await;
    for (field, bad) in [
        ("time_to_live", SessionOptions { time_to_live: Duration::from_millis(999), ..options() }),
        ("max_in_flight", SessionOptions { max_in_flight: 0, ..options() }),
        ("max_in_flight", SessionOptions { max_in_flight: 1025, ..options() }),
    ] {
        let error = cluster.raft(0).open_session(bad).await.unwrap_err();
        assert!(matches!(error, SessionError::Options { field: named, .. } if named == field), "{error:?}");
        assert!(!error.is_retryable() && !error.outcome_is_unknown());
    }
    cluster.all("none was opened", |now| now.sessions == 0).await;
    cluster.stop().await;
}

// ---- time ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_expires_by_the_logs_time_and_is_not_opened_again() {
    let cluster = Cluster::start(Config::default()).await;
    let [left, kept] = [0, 1].map(|place| cluster.raft(place));
    let left = left.open_session(options()).await.unwrap();
    let kept = kept.open_session(SessionOptions { time_to_live: Duration::from_secs(600), ..options() }).await.unwrap();
    assert_eq!(left.write((1, 0)).await.unwrap().response, 1);
    cluster.all("both are open everywhere", |now| now.sessions == 2).await;
    cluster.wall.go_on(61);
    // Nothing happens without entries; a leader reads its wall clock now and then.
    let mut number = 0;
    while cluster.members[0].raft.metrics().borrow().sessions > 1 {
        kept.write((2, number)).await.unwrap();
        number += 1;
    }
    let error = left.write((1, 1)).await.unwrap_err();
    assert_eq!(error, SessionError::Expired);
    assert!(error.outcome_is_unknown() && !error.is_retryable());
    assert_eq!(left.write((1, 1)).await.unwrap_err(), SessionError::Expired);
    let resumed = cluster.raft(2).resume_session(left.id(), options(), 2).await;
    assert_eq!(resumed.unwrap_err(), SessionError::Expired);
    assert_eq!(cluster.tally().await.times[&1], [1], "the second command was not applied");
    cluster.all("all nodes expired the same", |now| now.sessions == 1).await;
    let contents = cluster.snapshots().await;
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "byte-equal on all nodes");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_clock_does_not_turn_the_logs_time_back() {
    let config = Config { keep_entries: 0, ..Config::default() };
    let mut cluster = Cluster::start(config).await;
    let session = cluster.raft(0).open_session(options()).await.unwrap();
    cluster.wall.go_on(30);
    let id = session.id();
    session.detach();
    // The clock was read once an entry's time shows it.
    let late = 820_000_030;
    while log_time(&cluster.snapshots().await[0]) < late {
        cluster.raft(0).client_write((2, 0)).await.unwrap();
    }
    // The snapshots cover everything: the log behind them is forgotten, and with it its newest time.
    cluster.all("the log is purged", |now| now.purged == now.last_log_id).await;
    cluster.wall.0.store(820_000_000, Ordering::SeqCst);
    let leader = cluster.leader().await;
    cluster.restart(leader).await;
    cluster.raft((leader + 1) % 3).client_write((2, 1)).await.unwrap();
    let tally = cluster.tally().await;
    assert_eq!(tally.backwards, 0, "the last command is not earlier than those before it");
    assert!(tally.latest >= late * 1_000_000_000, "{} is before {late} s", tally.latest);
    cluster.raft(leader).resume_session(id, options(), 1).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_goes_by_the_times_of_the_entries_it_applies_again() {
    let mut cluster = Cluster::start(Config::default()).await;
    let session = cluster.raft(0).open_session(options()).await.unwrap();
    session.write((1, 0)).await.unwrap();
    cluster.wall.go_on(10);
    // The log goes on until its end is later than the session's entries.
    let (leader, late) = (cluster.leader().await, 820_000_010);
    let mut time = 0;
    while time < late {
        let written = cluster.raft(leader).client_write((2, 0)).await.unwrap();
        let raft = cluster.raft(leader);
        assert!(raft.trigger().snapshot().await.unwrap() >= written.log_id);
        time = log_time(&cluster.content(leader));
    }
    let follower = cluster.follower().await;
    cluster.restart(follower).await;
    let contents = cluster.snapshots().await;
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "the session was active when its entries say");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_kept_alive_and_a_silent_cluster_without_sessions_stays_silent() {
    let cluster = Cluster::start(Config::default()).await;
    let short = SessionOptions { time_to_live: Duration::from_secs(1), ..options() };
    let session = cluster.raft(0).open_session(short).await.unwrap();
    // Nobody else writes, so these entries keep the session.
    cluster.all("it is kept twice", |now| now.last_applied.index >= session.id() + 2).await;
    session.close().await.unwrap();
    cluster.stop().await;
}

// ---- restarts ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_the_same_after_snapshots_restarts_and_installs() {
    let config = Config { keep_entries: 0, ..Config::default() };
    let mut cluster = Cluster::start(config).await;
    let follower = cluster.follower().await;
    let session = cluster.raft((follower + 1) % 3).open_session(options()).await.unwrap();
    session.write((1, 0)).await.unwrap();
    let mut pending = session.prepare((1, 1)).await.unwrap();
    let first = pending.send().await.unwrap();
    // One starts from its snapshot and what comes after it.
    cluster.snapshots().await;
    cluster.restart(follower).await;
    session.write((1, 2)).await.unwrap();
    let contents = cluster.snapshots().await;
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "byte-equal after a restart");
    // One is given the leader's snapshot.
    let follower = cluster.follower().await;
    cluster.network.isolate(cluster.members[follower].id);
    let other = (0..3).find(|place| *place != follower).unwrap();
    let more = cluster.raft(other).open_session(options()).await.unwrap();
    for number in 0..50 {
        more.write((3, number)).await.unwrap();
    }
    for (place, member) in cluster.members.iter().enumerate().filter(|(place, _)| *place != follower) {
        member.raft.trigger().snapshot().await.unwrap();
        let upto = more.id() + 40;
        member.raft.wait(PATIENCE).purged_index_at_least(upto).await.unwrap_or_else(|_| panic!("node {place}"));
    }
    cluster.network.heal();
    let contents = cluster.snapshots().await;
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "byte-equal after an install");
    // All start from their snapshots: every node still knows what was applied.
    let (id, serial) = (session.id(), pending.serial());
    session.detach();
    more.detach();
    cluster.restart_all().await;
    drop(pending);
    for place in 0..3 {
        let session = cluster.raft(place).resume_session(id, options(), serial).await.unwrap();
        let mut again = session.prepare((1, 1)).await.unwrap();
        assert_eq!(again.send().await.unwrap(), first, "by node {}", place + 1);
        session.detach();
    }
    assert_eq!(cluster.tally().await.times[&1], [1; 3]);
    cluster.stop().await;
}

async fn start_durable(network: &MemoryNetwork, directory: &Path) -> Vec<Raft<Tally>> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let peers = (1..=3).map(|id| (id, format!("memory:{id}")));
        let builder = Raft::builder(id).peers(peers).in_memory(network).data_dir(directory.join(id.to_string()));
        nodes.push(builder.start(Tally::default()).await.unwrap());
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_the_whole_cluster_on_disk() {
    let directory = Directory::new();
    let network = MemoryNetwork::new();
    let nodes = start_durable(&network, &directory.0).await;
    let session = nodes[0].open_session(options()).await.unwrap();
    session.write((1, 0)).await.unwrap();
    let mut pending = session.prepare((1, 1)).await.unwrap();
    let first = pending.send().await.unwrap();
    let (id, serial) = (session.id(), pending.serial());
    for node in &nodes {
        node.shutdown().await;
    }
    assert!(pending.send().await.is_err(), "its node is closed");
    drop((pending, session));
    let nodes = start_durable(&network, &directory.0).await;
    let session = nodes[2].resume_session(id, options(), serial).await.unwrap();
    let mut again = session.prepare((1, 1)).await.unwrap();
    assert_eq!(again.send().await.unwrap(), first);
    let next = session.write((1, 2)).await.unwrap();
    assert_eq!(next.response, 3);
    let tally = nodes[1].read(ReadPolicy::ReadIndex, Tally::clone).await.unwrap();
    assert_eq!(tally.times[&1], [1; 3]);
    for node in &nodes {
        node.shutdown().await;
    }
}

/// A directory that is gone at the end.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let path = std::env::temp_dir().join(format!("quorate-sessions-{}-{since}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// ---- the storm ----

/// Writes that one client has under way at once.
const BATCH: u64 = 16;
const CLIENTS: u64 = 8;

/// What the clients of a storm share.
struct Storm {
    /// The nodes as they are now.
    rafts: Mutex<Vec<Raft<Tally>>>,
    /// Commands that were sent more than once.
    repeated: AtomicU64,
    /// Times that a client went to another node.
    moves: AtomicU64,
}

impl Storm {
    fn raft(&self, place: u64) -> Raft<Tally> {
        self.rafts.lock().unwrap()[(place % 3) as usize].clone()
    }

    /// Goes to another node until one takes the session up.
    async fn resume(&self, place: &mut u64, id: u64, serial: u64) -> Session<Tally> {
        loop {
            *place += 1;
            self.moves.fetch_add(1, Ordering::Relaxed);
            match self.raft(*place).resume_session(id, options(), serial).await {
                Ok(session) => return session,
                Err(SessionError::Expired) => panic!("the session is alive"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Writes commands 0 to `count`, each batch until all of it is answered; some batches twice though they were.
    async fn run_client(self: Arc<Self>, client: u64, count: u64) {
        let mut place = client;
        let mut session = loop {
            match self.raft(place).open_session(options()).await {
                Ok(session) => break session,
                Err(_) => place += 1,
            }
        };
        let (id, mut serial) = (session.id(), 1);
        for first in (0..count).step_by(BATCH as usize) {
            let batch = BATCH.min(count - first);
            let mut known: BTreeMap<u64, u64> = BTreeMap::new();
            let mut attempts = 0;
            loop {
                attempts += 1;
                let answers = send_batch(&session, client, first..first + batch).await;
                let whole = answers.len() as u64 == batch;
                for (number, response) in answers {
                    let before = known.insert(number, response);
                    assert!(before.is_none_or(|before| before == response), "a repeated command is answered alike");
                }
                let again = (first / BATCH + client).is_multiple_of(4) && attempts == 1;
                if whole && !again {
                    break;
                }
                self.repeated.fetch_add(batch, Ordering::Relaxed);
                session.detach();
                session = self.resume(&mut place, id, serial).await;
            }
            serial += batch;
        }
        session.detach();
    }
}

/// Prepares the whole batch, so that its serials follow each other, and sends all of it at once. Returns what was
/// answered; gives nothing up before all have ended.
async fn send_batch(session: &Session<Tally>, client: u64, numbers: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let mut sending = Vec::new();
    for number in numbers {
        let Ok(mut pending) = session.prepare((client, number)).await else { break };
        sending.push(tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(1);
            (number, pending.send_until(deadline).await, pending)
        }));
    }
    let mut ended = Vec::new();
    for one in sending {
        ended.push(one.await.unwrap());
    }
    ended.iter().filter_map(|(number, sent, _)| Some((*number, sent.as_ref().ok()?.response))).collect()
}

/// `QUORATE_SESSION_WRITES` commands (20,000 without it) while leaders are killed and cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_retries_and_leader_kills_every_command_is_applied_exactly_once() {
    let writes: u64 = std::env::var("QUORATE_SESSION_WRITES").map_or(20_000, |text| text.parse().unwrap());
    let config = Config {
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        heartbeat_interval: Duration::from_millis(30),
        snapshot_entries: 2_000,
        keep_entries: 500,
        ..Config::default()
    };
    let started = Instant::now();
    let mut cluster = Cluster::start(config).await;
    let rafts = (0..3).map(|place| cluster.raft(place)).collect();
    let storm = Arc::new(Storm { rafts: Mutex::new(rafts), repeated: AtomicU64::new(0), moves: AtomicU64::new(0) });
    let each = writes.div_ceil(CLIENTS);
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| tokio::spawn(Arc::clone(&storm).run_client(client, each))).collect();
    let (mut kills, mut cuts) = (0, 0);
    let mut clients = std::pin::pin!(async {
        for client in clients {
            client.await.unwrap();
        }
    });
    loop {
        let leader = cluster.leader().await;
        let applied = cluster.raft(leader).metrics().borrow().last_applied.index;
        if (kills + cuts) % 2 == 0 {
            cluster.restart(leader).await;
            storm.rafts.lock().unwrap()[leader] = cluster.raft(leader);
            kills += 1;
        } else {
            let id = cluster.members[leader].raft.node_id();
            cluster.network.isolate(id);
            let moved = |now: &RaftMetrics| now.current_leader.is_some_and(|now| now != id);
            let other = cluster.raft((leader + 1) % 3);
            other.wait(PATIENCE).metrics(moved, "another leader").await.unwrap();
            cluster.network.heal();
            cuts += 1;
        }
        // The clients get somewhere between two of these.
        let raft = cluster.raft(cluster.leader().await);
        let progress = move |now: &RaftMetrics| now.last_applied.index > applied + 1_000;
        tokio::select! {
            () = &mut clients => break,
            progress = raft.wait(PATIENCE).metrics(progress, "progress") => drop(progress),
        }
    }
    let tally = cluster.tally().await;
    let times = || tally.times.values().flatten();
    let lost = CLIENTS * each - times().count() as u64 + times().filter(|times| **times == 0).count() as u64;
    let twice = times().filter(|times| **times > 1).count();
    println!(
        "{} commands in {:?}: {kills} kills, {cuts} cuts, {} commands sent again, {} moves; {lost} lost, {twice} twice",
        CLIENTS * each,
        started.elapsed(),
        storm.repeated.load(Ordering::Relaxed),
        storm.moves.load(Ordering::Relaxed),
    );
    assert_eq!((lost, twice, tally.total), (0, 0, CLIENTS * each));
    assert!(kills > 0, "a leader was killed");
    let contents = cluster.snapshots().await;
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "all nodes hold the same, byte for byte");
    cluster.stop().await;
}
