//! Sixteen clients that write and read at the same time through the Rust etcd client, and remember everything.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::history::{Call, Key, Operation, Outcome, Revision, Seen, Stamp, Value};
use crate::rng::Rng;
use crate::wait::{in_time, until};

/// Clients at once.
pub const CLIENTS: u32 = 16;

/// Keys that all clients write; the keys of one client's own, each written once, come after them.
const SHARED_KEYS: u64 = 12;

/// After this a client gives an operation up, its outcome unknown, and asks another node.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Between two operations of a client: the load is so many clients with so much time between their calls, which bounds
/// the history. Nothing waits for it.
const PAUSE: Duration = Duration::from_millis(1);

/// The same after an error, before the next node is asked: clients of servers that are down ask no faster.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// What the clients share.
#[derive(Debug)]
pub struct Workload {
    endpoints: Vec<String>,
    origin: Instant,
    stop: AtomicBool,
    operations: AtomicU64,
    acknowledged: watch::Sender<Acknowledged>,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// The writes that were acknowledged so far.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    count: u64,
    /// The latest beginning among them.
    latest: Stamp,
}

impl Workload {
    /// A workload on the nodes at `endpoints`.
    pub fn new(endpoints: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            endpoints,
            origin: Instant::now(),
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            acknowledged: watch::Sender::new(Acknowledged::default()),
            errors: Mutex::default(),
        })
    }

    /// Now, on the clock of the history.
    pub fn now(&self) -> Stamp {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a test is shorter than 500 years")
    }

    /// The operations that ended so far, however they ended.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Starts the clients. Values and keys of different generations never meet.
    pub fn start(self: &Arc<Self>, seed: u64, generation: u32) -> Vec<JoinHandle<Vec<Operation>>> {
        self.stop.store(false, Ordering::Relaxed);
        let start = |client| tokio::spawn(Runner::new(self.clone(), generation * CLIENTS + client, seed).run());
        (0..CLIENTS).map(start).collect()
    }

    /// Stops the clients and returns what they did.
    pub async fn finish(&self, clients: Vec<JoinHandle<Vec<Operation>>>) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in clients {
            // A client gives its last operation up after its patience.
            let ended = in_time("a client ends that was told to", client).await;
            history.extend(ended.expect("a client does not panic"));
        }
        history
    }

    /// Waits until a write that began after `since` is acknowledged; how long after `since` that was.
    pub async fn next_acknowledged(&self, since: Stamp) -> Duration {
        let mut acknowledged = self.acknowledged.subscribe();
        let write = acknowledged.wait_for(|writes| writes.latest > since);
        in_time("a write is acknowledged", write).await.expect("the workload is there");
        Duration::from_nanos(self.now() - since)
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn acknowledges(&self, more: u64) {
        let mut acknowledged = self.acknowledged.subscribe();
        let enough = acknowledged.borrow().count + more;
        let writes = acknowledged.wait_for(|writes| writes.count >= enough);
        in_time("the load goes on: more writes are acknowledged", writes).await.expect("the workload is there");
    }

    /// Reads every key once more, linearizable, into the history.
    pub async fn audit(&self, history: &mut Vec<Operation>) {
        let mut runner = Connection::new(self.endpoints.clone(), 0);
        let mut expected: Vec<Key> = history.iter().map(|operation| operation.call.key()).collect();
        expected.sort_unstable();
        expected.dedup();
        let mut from = Key::PREFIX.as_bytes().to_vec();
        let mut next = expected.into_iter().peekable();
        loop {
            let invoked = self.now();
            let page = until("every key can be read again", async || runner.page(from.clone(), false).await);
            let (revision, kvs, more) = page.await;
            let returned = self.now();
            let mut found: Vec<(Key, Seen)> = kvs.iter().filter_map(read_pair).collect();
            found.sort_unstable_by_key(|(key, _)| *key);
            // Keys that the page passes over were not there; keys that nobody wrote are read as well.
            let end = found.last().map(|(key, _)| *key).filter(|_| more);
            let mut reads: BTreeMap<Key, Option<Seen>> = BTreeMap::new();
            while let Some(key) = next.next_if(|key| end.is_none_or(|end| *key <= end)) {
                reads.insert(key, None);
            }
            reads.extend(found.into_iter().map(|(key, seen)| (key, Some(seen))));
            history.extend(reads.into_iter().map(|(key, seen)| {
                let (call, outcome) = (Call::Get(key), Outcome::Read(revision, seen));
                Operation { client: u32::MAX, call, invoked, returned, outcome }
            }));
            match kvs.last().filter(|_| more) {
                Some(last) => from = [last.key(), b"\0"].concat(),
                None => return,
            }
        }
    }

    /// Errors that clients met, with their counts, the most frequent first.
    pub fn errors(&self) -> Vec<(String, u64)> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut errors: Vec<_> = errors.iter().map(|(text, count)| (text.clone(), *count)).collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        errors
    }

    fn note_error(&self, error: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(error.to_owned()).or_default() += 1;
    }
}

/// One client.
struct Runner {
    workload: Arc<Workload>,
    number: u32,
    rng: Rng,
    connection: Connection,
    serial: u64,
    /// The last revision that this client saw of each shared key.
    last_seen: HashMap<Key, Revision>,
    history: Vec<Operation>,
}

impl Runner {
    fn new(workload: Arc<Workload>, number: u32, seed: u64) -> Self {
        let connection = Connection::new(workload.endpoints.clone(), number as usize);
        let rng = Rng::new(seed ^ (u64::from(number) << 32));
        Self { workload, number, rng, connection, serial: 0, last_seen: HashMap::new(), history: Vec::new() }
    }

    async fn run(mut self) -> Vec<Operation> {
        while !self.workload.stop.load(Ordering::Relaxed) {
            let call = self.next_call();
            let invoked = self.workload.now();
            let outcome = match tokio::time::timeout(PATIENCE, self.connection.call(call)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => self.on_error(&error),
                Err(_) => {
                    self.workload.note_error("no answer in time");
                    self.connection.turn_to_next();
                    Outcome::Unknown
                }
            };
            let returned = self.workload.now();
            self.learn(call, outcome, invoked);
            self.history.push(Operation { client: self.number, call, invoked, returned, outcome });
            self.workload.operations.fetch_add(1, Ordering::Relaxed);
            let pause = if matches!(outcome, Outcome::Unknown) { AFTER_ERROR } else { PAUSE };
            tokio::time::sleep(pause).await;
        }
        self.history
    }

    /// About half of the calls write: keys of its own that are written once, shared keys, and swaps of these.
    fn next_call(&mut self) -> Call {
        self.serial += 1;
        let value = Value(u64::from(self.number) << 32 | self.serial);
        let own = |serial| Key(SHARED_KEYS + (u64::from(self.number) << 24 | serial));
        let shared = Key(self.rng.bits() % SHARED_KEYS);
        match self.rng.below(20) {
            0..=4 => Call::Put(own(self.serial), value),
            5..=8 => Call::Put(shared, value),
            9..=11 => Call::Swap(shared, self.last_seen.get(&shared).copied().unwrap_or(0), value),
            12 => Call::Get(own(1 + self.rng.bits() % self.serial)),
            _ => Call::Get(shared),
        }
    }

    fn learn(&mut self, call: Call, outcome: Outcome, invoked: Stamp) {
        let revision = match outcome {
            Outcome::Written(revision) => {
                self.workload.acknowledged.send_modify(|writes| {
                    writes.count += 1;
                    writes.latest = writes.latest.max(invoked);
                });
                revision
            }
            Outcome::Read(_, Some(seen)) => seen.mod_revision,
            Outcome::Read(_, None) | Outcome::Refused | Outcome::Unknown => return,
        };
        if call.key().0 < SHARED_KEYS {
            self.last_seen.insert(call.key(), revision);
        }
    }

    fn on_error(&mut self, error: &Error) -> Outcome {
        self.workload.note_error(&match error {
            Error::GRpcStatus(status) => status.message().to_owned(),
            other => other.to_string(),
        });
        match error {
            // These say that the request was refused as it is. All others may come after the write.
            Error::GRpcStatus(status) if matches!(status.code() as i32, INVALID_ARGUMENT | OUT_OF_RANGE) => {
                Outcome::Refused
            }
            _ => {
                self.connection.turn_to_next();
                Outcome::Unknown
            }
        }
    }
}

/// gRPC's code for a request that is wrong whatever the state.
const INVALID_ARGUMENT: i32 = 3;
/// gRPC's code for a revision that is not there.
const OUT_OF_RANGE: i32 = 11;

/// A client of one node at a time.
struct Connection {
    endpoints: Vec<String>,
    at: usize,
    client: Option<Client>,
}

impl Connection {
    fn new(endpoints: Vec<String>, at: usize) -> Self {
        Self { endpoints, at, client: None }
    }

    fn turn_to_next(&mut self) {
        self.at += 1;
        self.client = None;
    }

    async fn client(&mut self) -> Result<&mut Client, Error> {
        if self.client.is_none() {
            self.client = Some(connect(&self.endpoints[self.at % self.endpoints.len()]).await?);
        }
        self.client.as_mut().ok_or_else(|| Error::InvalidArgs("there is no client".to_owned()))
    }

    async fn call(&mut self, call: Call) -> Result<Outcome, Error> {
        let client = self.client().await?;
        let name = call.key().to_string();
        match call {
            Call::Put(_, value) => {
                let answer = client.put(name, value.to_string(), None).await?;
                Ok(Outcome::Written(revision(answer.header())?))
            }
            Call::Get(_) => read_answer(&client.get(name, None).await?),
            Call::Swap(_, named, value) => {
                let txn = Txn::new()
                    .when([Compare::mod_revision(name.clone(), CompareOp::Equal, named)])
                    .and_then([TxnOp::put(name.clone(), value.to_string(), None)])
                    .or_else([TxnOp::get(name, None)]);
                let answer = client.txn(txn).await?;
                if answer.succeeded() {
                    return Ok(Outcome::Written(revision(answer.header())?));
                }
                match &answer.op_responses()[..] {
                    [TxnOpResponse::Get(read)] => {
                        let seen = read.kvs().first().and_then(read_pair).map(|(_, seen)| seen);
                        Ok(Outcome::Read(revision(answer.header())?, seen))
                    }
                    _ => Err(Error::InvalidArgs("a failed swap without its read".to_owned())),
                }
            }
        }
    }

    /// A page of keys: the store's revision, the pairs, and whether there are more.
    async fn page(&mut self, from: Vec<u8>, is_serializable: bool) -> Option<(Revision, Vec<KeyValue>, bool)> {
        const PAGE: i64 = 1000;
        let end = [&Key::PREFIX.as_bytes()[..Key::PREFIX.len() - 1], b"0"].concat();
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE);
        if is_serializable {
            options = options.with_serializable();
        }
        let asked = async {
            let mut answer = self.client().await?.get(from, Some(options)).await?;
            Ok::<_, Error>((revision(answer.header())?, answer.take_kvs(), answer.more()))
        };
        let answer = tokio::time::timeout(PATIENCE * 4, asked).await;
        match answer {
            Ok(Ok(page)) => Some(page),
            _ => {
                self.turn_to_next();
                None
            }
        }
    }
}

/// All that one node holds by itself, as soon as it has come to `revision`: a serializable read of each page. Of use
/// only when nobody writes.
pub async fn state_of(endpoint: &str, at_least: Revision) -> Vec<(Key, Seen)> {
    let mut connection = Connection::new(vec![endpoint.to_owned()], 0);
    let mut pairs = Vec::new();
    let mut from = Key::PREFIX.as_bytes().to_vec();
    loop {
        // Revisions do not go back, so pages from here on are as new.
        let page = until("a node has applied all that was written", async || {
            let page = connection.page(from.clone(), true).await;
            page.filter(|(revision, _, _)| *revision >= at_least)
        });
        let (_, kvs, more) = page.await;
        pairs.extend(kvs.iter().filter_map(read_pair));
        match kvs.last().filter(|_| more) {
            Some(last) => from = [last.key(), b"\0"].concat(),
            None => return pairs,
        }
    }
}

/// A client of one node.
///
/// # Errors
/// If the endpoint is not one, or, depending on the client, if nobody answers there.
pub async fn connect(endpoint: &str) -> Result<Client, Error> {
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_millis(500)).with_timeout(PATIENCE);
    Client::connect([endpoint], Some(options)).await
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> Result<Revision, Error> {
    header.map(etcd_client::ResponseHeader::revision).ok_or_else(|| Error::InvalidArgs("no header".to_owned()))
}

fn read_answer(answer: &GetResponse) -> Result<Outcome, Error> {
    let seen = answer.kvs().first().and_then(read_pair).map(|(_, seen)| seen);
    Ok(Outcome::Read(revision(answer.header())?, seen))
}

fn read_pair(pair: &KeyValue) -> Option<(Key, Seen)> {
    let seen = Seen {
        value: Value(pair.value_str().ok()?.parse().ok()?),
        mod_revision: pair.mod_revision(),
        create_revision: pair.create_revision(),
        version: pair.version(),
    };
    Some((Key::parse(pair.key_str().ok()?)?, seen))
}
