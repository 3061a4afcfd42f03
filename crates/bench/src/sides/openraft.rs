//! OpenRaft's newest release at its best settings: the least log store, state machine and network its traits
//! allow, the cheap responder, pipelined appends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::ReadPolicy;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
    Snapshot, SnapshotMeta,
};
use openraft::vote::RaftLeaderId;
use openraft::{Config, EntryPayload, OptionalSend, Raft, RaftTypeConfig, SnapshotPolicy, StoredMembership};

use crate::args::{Appends, Options};
use crate::measure::{Client, Load, Trial, client_runtime, measure, server_runtime};

/// Its timeouts, in milliseconds: longer than by default, so that a busy machine does not depose the leader in the
/// middle of a trial. The interval of heartbeats is also how long its appends may take until they are given up.
const HEARTBEAT_MS: u64 = 250;
const ELECTION_MIN_MS: u64 = 1000;
const ELECTION_MAX_MS: u64 = 2000;
/// How long a cluster may take until it has a leader, and the leader until it takes a write.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cheapest types that OpenRaft takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = ();
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = EntryPayload<Command, u64, ()>;
    type Entry = openraft::Entry<<LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The command: as in OpenRaft's own benchmark, nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command;

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("put")
    }
}

type Entry = openraft::alias::EntryOf<Types>;
type LogId = LogIdOf<Types>;
pub(crate) type Node = Raft<Types, Machine>;
type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type BoxStream<'a, T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send + 'a>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log in memory. Indexes run without a gap, so a deque does what OpenRaft's own benchmark uses a tree for.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<LogInner>>);

#[derive(Default)]
struct LogInner {
    vote: Option<VoteOf<Types>>,
    purged: Option<LogId>,
    /// Index of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
}

impl LogInner {
    fn offset(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.entries.len())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let log = lock(&self.0);
        let start = match range.start_bound() {
            Bound::Included(index) => log.offset(*index),
            Bound::Excluded(index) => log.offset(index + 1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => log.offset(index + 1),
            Bound::Excluded(index) => log.offset(*index),
            Bound::Unbounded => log.entries.len(),
        };
        Ok(log.entries.range(start..end.max(start)).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(lock(&self.0).vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = lock(&self.0);
        let last = log.entries.back().map(|entry| entry.log_id()).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        lock(&self.0).entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut log = lock(&self.0);
        let keep = last_log_id.map_or(0, |id| log.offset(id.index + 1));
        log.entries.truncate(keep);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut log = lock(&self.0);
        let gone = log.offset(log_id.index + 1);
        log.entries.drain(..gone);
        log.first = log_id.index + 1;
        log.purged = Some(log_id);
        Ok(())
    }
}

/// Applies by counting and answers at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    applied: Option<LogId>,
    membership: StoredMembershipOf<Types>,
}

impl Machine {
    fn meta(&self) -> SnapshotMetaOf<Types> {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        Ok(Snapshot { meta: self.meta(), snapshot: () })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, (): ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(self.applied.map(|_| Snapshot { meta: self.meta(), snapshot: () }))
    }
}

/// The nodes of the process, known once all three are made.
#[derive(Clone)]
struct Router {
    nodes: Arc<OnceLock<BTreeMap<u64, Node>>>,
    appends: Appends,
}

/// The way to one node: a call.
struct Wire {
    router: Router,
    target: u64,
}

impl Wire {
    fn node(&self) -> Result<&Node, RPCError<Types>> {
        let missing = || lost(&io::Error::other("the node is not there yet"));
        self.router.nodes.get().and_then(|nodes| nodes.get(&self.target)).ok_or_else(missing)
    }
}

fn lost(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &()) -> Wire {
        Wire { router: self.clone(), target }
    }
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.node()?.append_entries(rpc).await.map_err(|error| lost(&error))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        match self.router.appends {
            Appends::Rpc => stream_append_sequential(self, input, option),
            Appends::Stream => Box::pin(async move {
                let answers = self.node()?.stream_append(input).map(|item| item.map_err(|error| lost(&error)));
                Ok(Box::pin(answers) as BoxStream<'s, _>)
            }),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.node()?.vote(rpc).await.map_err(|error| lost(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |error: &io::Error| StreamingError::Network(NetworkError::new(error));
        let node = self.node().map_err(|error| failed(&io::Error::other(error.to_string())))?;
        node.install_full_snapshot(vote, snapshot).await.map_err(|error| failed(&io::Error::other(error.to_string())))
    }
}

/// Writes one command a call.
#[derive(Clone)]
pub(crate) struct Put(pub(crate) Node);

impl Client for Put {
    async fn call(&self) -> Result<u64, String> {
        self.0.client_write(Command).await.map(|_| 1).map_err(|error| format!("a write was refused: {error}"))
    }
}

/// Writes many commands a call.
#[derive(Clone)]
pub(crate) struct Many {
    pub(crate) node: Node,
    pub(crate) entries: usize,
}

impl Client for Many {
    async fn call(&self) -> Result<u64, String> {
        let commands = std::iter::repeat_n(Command, self.entries);
        let mut answers = self.node.client_write_many(commands).await.map_err(|error| error.to_string())?;
        while let Some(answer) = answers.try_next().await.map_err(|error| error.to_string())? {
            answer.map_err(|error| format!("a write was refused: {error}"))?;
        }
        Ok(self.entries as u64)
    }
}

/// Confirms that a read is linearizable; what is read afterwards is up to the caller on this side.
#[derive(Clone)]
pub(crate) struct Look(pub(crate) Node);

impl Client for Look {
    async fn call(&self) -> Result<u64, String> {
        let confirmed = self.0.ensure_linearizable(ReadPolicy::ReadIndex).await;
        confirmed.map(|_| 1).map_err(|error| format!("a read was refused: {error}"))
    }
}

/// Version, and how it is set.
pub(crate) fn about(options: &Options) -> (String, String) {
    let settings = format!(
        "openraft: up to 1024 entries an append, snapshot every {} entries, OneshotResponder, a deque as its log, heartbeats (and with them the limit of an append's time) of {HEARTBEAT_MS} ms, election timeouts of {ELECTION_MIN_MS} to {ELECTION_MAX_MS} ms; OR has it under other settings",
        options.openraft_snapshot
    );
    ("openraft 0.10.0-alpha.37".to_owned(), settings)
}

/// The options with OpenRaft's best settings for this load, and words that say which: of its two networks, with one server
/// thread and with as many as Quorate has, those with which one trial was worth most. What the options name stays.
pub(crate) fn at_its_best<C: Client>(
    options: &Options,
    load: Load<'_>,
    client: impl Fn(Node) -> C,
    worth: impl Fn(&Trial) -> f64,
) -> Result<(Options, String), String> {
    let words = |threads, appends, why| {
        let clients = if load.clients == 1 { "1 client".to_owned() } else { format!("{} clients", load.clients) };
        let threads = if threads == 1 { "1 server thread".to_owned() } else { format!("{threads} server threads") };
        format!("openraft with {clients}: {threads}, appends by {appends:?}{why}")
    };
    if let Some(appends) = options.openraft_appends {
        return Ok((options.clone(), words(options.server_threads, appends, "")));
    }
    let mut most = f64::NEG_INFINITY;
    let mut best = (options.clone(), String::new());
    for (server_threads, appends) in settings(options) {
        let set = Options { server_threads, openraft_appends: Some(appends), ..options.clone() };
        // A closed loop tells settings apart also where the row's is open.
        let worth = worth(&trial(&Options { rate: None, ..set.clone() }, load, &client)?);
        if worth > most {
            most = worth;
            best = (set, words(server_threads, appends, ", the best of four settings in a trial before"));
        }
    }
    Ok(best)
}

/// What OpenRaft is tried with: server threads, and how appends travel.
pub(crate) fn settings(options: &Options) -> Vec<(usize, Appends)> {
    let mut threads = vec![1, options.server_threads];
    threads.dedup();
    threads.into_iter().flat_map(|threads| [(threads, Appends::Rpc), (threads, Appends::Stream)]).collect()
}

/// One trial: a fresh cluster, warmed up, measured, shut down.
pub(crate) fn trial<C: Client>(options: &Options, load: Load<'_>, client: impl Fn(Node) -> C) -> Result<Trial, String> {
    let servers = server_runtime(options)?;
    let runtime = client_runtime(options)?;
    let nodes = servers.block_on(cluster(options)).map_err(|error| format!("openraft does not start: {error}"))?;
    let trial = measure(options, &runtime, load, &client(nodes[0].clone()));
    servers.block_on(async {
        for node in nodes {
            node.shutdown().await.map_err(|error| format!("openraft does not stop: {error}"))?;
        }
        Ok::<(), String>(())
    })?;
    trial
}

async fn cluster(options: &Options) -> Result<Vec<Node>, Box<dyn std::error::Error + Send + Sync>> {
    // Batch sizes of OpenRaft's own minimal benchmark.
    let config = Config {
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        purge_batch_size: 1024,
        max_payload_entries: 1024,
        snapshot_policy: match options.openraft_snapshot {
            0 => SnapshotPolicy::Never,
            entries => SnapshotPolicy::LogsSinceLast(entries),
        },
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let router = Router { nodes: Arc::default(), appends: options.openraft_appends.unwrap_or(Appends::Stream) };
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::new(id, config.clone(), router.clone(), Log::default(), Machine::default()).await?);
    }
    if router.nodes.set((1..).zip(nodes.iter().cloned()).collect()).is_err() {
        return Err("the nodes were already joined".into());
    }
    nodes[0].initialize(BTreeMap::from([(1, ()), (2, ()), (3, ())])).await?;
    for node in &nodes {
        node.wait(Some(PATIENCE)).current_leader(1, "node 1 leads").await?;
    }
    first_write(&nodes[0]).await?;
    Ok(nodes)
}

/// Writes until it is taken: a leader refuses writes until a quorum has answered it once, by which it holds its lease.
async fn first_write(leader: &Node) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(refused) = leader.client_write(Command).await {
        if Instant::now() > deadline {
            return Err(format!("no write was taken within {PATIENCE:?}: {refused}"));
        }
        // Nothing tells of the lease.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
