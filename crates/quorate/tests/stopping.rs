//! Who has stopped a node may begin again at once, with the same files: nothing of what was stopped goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use common::{Ledger, PATIENCE, peers};
use quorate::advanced::core::{Append, Entries};
use quorate::advanced::wire::BatchBuilder;
use quorate::{
    AppendHeader, Batches, Checkpoint, ClosedReason, ClusterId, Commands, EntryKind, Frozen, GroupId, Host, Inbound,
    Incarnation, LastApplied, LeaderId, LogId, Membership, MemoryEndpoint, MemoryNetwork, Message, Node, NodeId,
    OutgoingSnapshot, Packet, Raft, RaftNetwork, RaftStateMachine, ReadPolicy, ReceivedSnapshot, Round, SendOutcome,
    SnapshotData, SnapshotError, SnapshotMeta, StartError, Storage, StreamId, Vote,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// What happened, in order.
type Order = Arc<Mutex<Vec<&'static str>>>;

/// Where user code waits until the test lets it go on.
#[derive(Clone)]
struct Gate {
    reached: UnboundedSender<()>,
    open: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Gate {
    fn pass(&self) {
        self.reached.send(()).unwrap();
        self.open.lock().unwrap().recv().unwrap();
    }
}

/// A gate, who waits for it to be reached, and who opens it.
fn gate() -> (Gate, UnboundedReceiver<()>, mpsc::Sender<()>) {
    let (reached, at_gate) = unbounded_channel();
    let (open, opened) = mpsc::channel();
    (Gate { reached, open: Arc::new(Mutex::new(opened)) }, at_gate, open)
}

/// Whoever could go on too early has every chance to: a stop takes a few turns of tasks and of threads that may block.
async fn give_way() {
    for _ in 0..1000 {
        tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
    }
}

/// What a machine keeps: rows, and with them what the library does.
#[derive(Default)]
struct Kept {
    rows: Vec<u64>,
    checkpoint: Option<Vec<u8>>,
}

/// Files that outlive a machine.
#[derive(Clone, Default)]
struct Shelf {
    kept: Arc<Mutex<Kept>>,
    order: Order,
}

impl Shelf {
    fn rows(&self) -> Vec<u64> {
        self.kept.lock().unwrap().rows.clone()
    }
}

/// A durable machine; its applies pass the gate.
struct Rows {
    shelf: Shelf,
    gate: Option<Gate>,
}

impl RaftStateMachine for Rows {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _row: u64) -> u64 {
        unreachable!("apply_batch is provided")
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let mut rows = Vec::new();
        while let Some((_, row)) = commands.next_command() {
            rows.push(row);
            commands.respond(row);
        }
        if let Some(gate) = self.gate.as_ref().filter(|_| !rows.is_empty()) {
            gate.pass();
            self.shelf.order.lock().unwrap().push("applied");
        }
        let mut kept = self.shelf.kept.lock().unwrap();
        kept.rows.extend(rows);
        kept.checkpoint = Some(commands.checkpoint().as_bytes().to_vec());
        Ok(())
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        Ok(LastApplied::kept(self.shelf.kept.lock().unwrap().checkpoint.clone()))
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    fn install(&mut self, _input: &mut dyn Read, _checkpoint: Checkpoint) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_under_way_is_waited_for() {
    let (shelf, storage) = (Shelf::default(), Storage::in_memory(1).unwrap());
    let start = async |gate| {
        let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).storage(storage.clone());
        let node = builder.start(Rows { shelf: shelf.clone(), gate }).await.unwrap();
        node.wait(PATIENCE).leader().await.unwrap();
        node
    };
    let (gate, mut at_gate, open) = gate();
    let node = start(Some(gate)).await;
    node.write(7).submit().unwrap().committed().await.unwrap();
    at_gate.recv().await.unwrap();
    let stopping = {
        let (node, order) = (node.clone(), Arc::clone(&shelf.order));
        tokio::spawn(async move {
            node.shutdown().await;
            order.lock().unwrap().push("stopped");
        })
    };
    assert_eq!(node.closed().await, ClosedReason::Shutdown);
    give_way().await;
    open.send(()).unwrap();
    stopping.await.unwrap();
    assert_eq!(*shelf.order.lock().unwrap(), ["applied", "stopped"]);

    let node = start(None).await;
    node.read(ReadPolicy::ReadIndex, |_| ()).await.unwrap();
    assert_eq!(shelf.rows(), [7], "written once");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_not_started_again_beside_its_own_apply() {
    let shelf = Shelf::default();
    let builder = Host::builder(1).peers([(NodeId(1), Node::at("memory:1"))]).in_memory(&MemoryNetwork::new());
    let host = builder.open().await.unwrap();
    let (gate, mut at_gate, open) = gate();
    let earlier = host.group(1).start(Rows { shelf: shelf.clone(), gate: Some(gate) }).await.unwrap();
    earlier.wait(PATIENCE).leader().await.unwrap();
    let refused = host.group(1).start(Rows { shelf: shelf.clone(), gate: None }).await;
    assert!(matches!(refused, Err(StartError::AlreadyRunning)), "while it runs");
    earlier.write(7).submit().unwrap().committed().await.unwrap();
    at_gate.recv().await.unwrap();
    {
        // Given up as soon as the group is over.
        let mut stopping = Box::pin(earlier.shutdown());
        tokio::select! {
            () = &mut stopping => unreachable!("an apply is under way"),
            _ = earlier.closed() => {}
        }
    }
    let starting = {
        let (host, shelf) = (host.clone(), shelf.clone());
        tokio::spawn(async move {
            let order = Arc::clone(&shelf.order);
            let node = host.group(1).start(Rows { shelf, gate: None }).await.unwrap();
            order.lock().unwrap().push("started");
            node
        })
    };
    give_way().await;
    open.send(()).unwrap();
    let node = starting.await.unwrap();
    assert_eq!(*shelf.order.lock().unwrap(), ["applied", "started"]);
    node.read(ReadPolicy::ReadIndex, |_| ()).await.unwrap();
    assert_eq!(shelf.rows(), [7], "written once");
    // Who still holds the handle of before does not stop what was started since.
    earlier.shutdown().await;
    let refused = host.group(1).start(Rows { shelf: shelf.clone(), gate: None }).await;
    assert!(matches!(refused, Err(StartError::AlreadyRunning)), "it runs");
    assert_eq!(node.client_write(8).await.unwrap().response, 8);
    host.shutdown().await;
    assert_eq!(shelf.rows(), [7, 8]);
}

/// Larger than any buffer between a machine and its snapshot.
static PIECE: [u8; 1 << 20] = [1; 1 << 20];

/// Its snapshots are two pieces, between which it passes the gate.
#[derive(Default)]
struct Pieces {
    gate: Option<Gate>,
    order: Order,
    frozen: bool,
    /// It passes this while it is frozen.
    freezes: Option<Gate>,
}

fn write_pieces(gate: Option<&Gate>, order: &Order, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&PIECE)?;
    if let Some(gate) = gate {
        gate.pass();
    }
    let written = out.write_all(&PIECE);
    order.lock().unwrap().push(if written.is_ok() { "written" } else { "refused" });
    written
}

impl RaftStateMachine for Pieces {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, command: u64) -> u64 {
        command
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        write_pieces(self.gate.as_ref(), &self.order, out)
    }

    fn freeze(&self) -> Option<Frozen> {
        let (gate, order) = (self.gate.clone(), Arc::clone(&self.order));
        if let Some(gate) = &self.freezes {
            gate.pass();
        }
        self.frozen.then(|| Box::new(move |out: &mut dyn Write| write_pieces(gate.as_ref(), &order, out)) as Frozen)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        io::copy(input, &mut io::sink()).map(|_| Self::default())
    }
}

/// A directory of this test, empty.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stopping-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_way_is_given_up() {
    let directory = directory("snapshot");
    for frozen in [false, true] {
        let start = async |machine| {
            let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).data_dir(&directory);
            let node = builder.start(machine).await.unwrap();
            node.client_write(1).await.unwrap();
            node
        };
        let (order, (gate, mut at_gate, open)) = (Order::default(), gate());
        let node = start(Pieces { gate: Some(gate), order: Arc::clone(&order), frozen, freezes: None }).await;
        let building = tokio::spawn({
            let node = node.clone();
            async move { node.trigger().snapshot().await }
        });
        at_gate.recv().await.unwrap();
        let stopping = tokio::spawn({
            let (node, order) = (node.clone(), Arc::clone(&order));
            async move {
                node.shutdown().await;
                order.lock().unwrap().push("stopped");
            }
        });
        assert_eq!(node.closed().await, ClosedReason::Shutdown);
        assert_eq!(building.await.unwrap(), Err(SnapshotError::Closed(ClosedReason::Shutdown)));
        give_way().await;
        open.send(()).unwrap();
        stopping.await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["refused", "stopped"], "frozen: {frozen}");
        let left = std::fs::read_dir(directory.join("incoming")).unwrap().count();
        assert_eq!(left, 0, "what was written is removed");

        let node = start(Pieces::default()).await;
        assert_eq!(node.metrics().borrow().snapshot, LogId::ZERO, "it never was");
        node.shutdown().await;
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_was_given_up_is_waited_for_by_the_next() {
    let directory = directory("given-up");
    for steps in 0..8 {
        let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).data_dir(&directory);
        // The directory is free: the log was closed.
        let node = builder.start(Ledger::inline()).await.unwrap_or_else(|error| unreachable!("{steps} steps: {error}"));
        node.client_write("x".into()).await.unwrap();
        let mut given_up = Box::pin(node.shutdown());
        for _ in 0..steps {
            let ended = poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_ready())).await;
            if ended {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(given_up);
        node.shutdown().await;
    }
    std::fs::remove_dir_all(directory).unwrap();
}

/// A runtime of two workers, with so many threads that may block.
fn runtime(blocking: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(blocking).enable_all().build().unwrap()
}

#[test]
fn a_node_is_stopped_whose_runtime_has_ended() {
    let directory = directory("ended");
    let builder = || Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).data_dir(&directory);
    let (before, after) = (runtime(8), runtime(8));
    let node = before.block_on(builder().start(Ledger::inline())).unwrap();
    before.block_on(node.client_write("x".into())).unwrap();
    drop(before);
    after.block_on(async {
        timeout(PATIENCE, async {
            node.shutdown().await;
            assert_eq!(node.closed().await, ClosedReason::Shutdown);
        })
        .await
        .expect("it is stopped");
        // The directory is free, and what was written is there.
        let node = builder().start(Ledger::inline()).await.unwrap();
        assert_eq!(node.client_write("y".into()).await.unwrap().response, 2);
        node.shutdown().await;
    });
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_stop_needs_no_thread_of_the_runtime() {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        // One thread may block: while it freezes the machine, what is to write the snapshot waits for it.
        runtime(1).block_on(stop_while_frozen());
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).expect("it fails, or waits for ever");
}

async fn stop_while_frozen() {
    let directory = directory("one-thread");
    let builder = || Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new()).data_dir(&directory);
    let (gate, mut at_gate, open) = gate();
    let node = builder().start(Pieces { freezes: Some(gate), frozen: true, ..Pieces::default() }).await.unwrap();
    node.client_write(1).await.unwrap();
    let building = tokio::spawn({
        let node = node.clone();
        async move { node.trigger().snapshot().await }
    });
    at_gate.recv().await.unwrap();
    let stopping = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    assert_eq!(node.closed().await, ClosedReason::Shutdown);
    // Whatever the stop asks the runtime for is asked for before the machine's next step.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    stopping.await.unwrap();
    assert_eq!(building.await.unwrap(), Err(SnapshotError::Closed(ClosedReason::Shutdown)));
    // The log was closed: the directory is free.
    builder().start(Pieces::default()).await.unwrap().shutdown().await;
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_apply_that_outlives_its_runtime_is_waited_for() {
    let shelf = Shelf::default();
    let (before, after) = (runtime(8), runtime(8));
    let (gate, mut at_gate, open) = gate();
    let (host, group) = before.block_on(async {
        let builder = Host::builder(1).peers([(NodeId(1), Node::at("memory:1"))]).in_memory(&MemoryNetwork::new());
        let host = builder.open().await.unwrap();
        let group = host.group(1).start(Rows { shelf: shelf.clone(), gate: Some(gate) }).await.unwrap();
        group.wait(PATIENCE).leader().await.unwrap();
        group.write(7).submit().unwrap().committed().await.unwrap();
        at_gate.recv().await.unwrap();
        (host, group)
    });
    before.shutdown_background();
    after.block_on(async {
        let stopping = {
            let (group, order) = (group.clone(), Arc::clone(&shelf.order));
            tokio::spawn(async move {
                group.shutdown().await;
                order.lock().unwrap().push("stopped");
            })
        };
        assert_eq!(group.closed().await, ClosedReason::Shutdown);
        give_way().await;
        open.send(()).unwrap();
        stopping.await.unwrap();
        host.shutdown().await;
    });
    assert_eq!(*shelf.order.lock().unwrap(), ["applied", "stopped"]);
    assert_eq!(shelf.rows(), [7]);
}

/// A network that lets a test deliver what it likes.
struct Open(MemoryEndpoint, Arc<Mutex<Option<Arc<dyn Inbound>>>>);

impl RaftNetwork for Open {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        *self.1.lock().unwrap() = Some(Arc::clone(&inbound));
        self.0.start(inbound);
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.0.set_address(node, address);
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.0.send(to, packet)
    }

    fn call(&self, to: NodeId, body: bytes::Bytes) -> bool {
        self.0.call(to, body)
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        self.0.send_snapshot(to, snapshot, done);
    }

    fn shutdown(&self) {
        self.0.shutdown();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_for_a_group_that_is_over_is_let_go() {
    let arrivals = Arc::default();
    let network = Open(MemoryNetwork::new().endpoint(1, Incarnation(1)), Arc::clone(&arrivals));
    let builder = Host::builder(1).listen("memory:1").peers([(NodeId(1), Node::at("memory:1"))]);
    let storage = Storage::in_memory(1).unwrap();
    let host = builder.storage(storage).network(Arc::new(network)).open().await.unwrap();
    let group = host.group(1).start(Ledger::inline()).await.unwrap();
    group.wait(PATIENCE).leader().await.unwrap();
    drop(group.client_write("panic".into()).await.unwrap_err());
    assert!(matches!(group.closed().await, ClosedReason::StateMachine(_)));
    // What still runs of it ends.
    give_way().await;

    let inbound = arrivals.lock().unwrap().clone().unwrap();
    let (from, incarnation) = (NodeId(2), Incarnation(2));
    let header = AppendHeader {
        vote: Vote::committed(LeaderId::new(9, 2)),
        stream: StreamId(1),
        round: Round(1),
        commit: 0,
        lease: Duration::ZERO,
        named: None,
        heard: None,
    };
    let batch = {
        let mut entries = BatchBuilder::new();
        entries.push(EntryKind::Command, &PIECE);
        entries.seal(ClusterId(7), GroupId(1), LeaderId::new(9, 2), 1, 0).unwrap()
    };
    let message = Message::Append(Append { header, prev: LogId::ZERO, entries: Entries::default() });
    let packet = Packet { group: GroupId(1), message, batches: Batches::from_iter([batch.clone()]) };
    assert!(!batch.bytes().is_unique());
    inbound.on_packet(from, incarnation, packet);
    assert!(batch.bytes().is_unique(), "its entries are held no more");

    let path = directory("received");
    std::fs::write(&path, &PIECE[..]).unwrap();
    let meta = SnapshotMeta {
        last_log_id: LogId::new(LeaderId::new(9, 2), 5),
        membership_log_id: LogId::ZERO,
        membership: Membership::default(),
    };
    let data = SnapshotData::File(path.clone());
    inbound.on_snapshot(from, incarnation, ReceivedSnapshot { group: GroupId(1), header, meta, data });
    assert!(!path.exists(), "the file is removed");
    host.shutdown().await;
}
