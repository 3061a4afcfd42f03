//! A panic of what a user brings (state machine, log, snapshot store, network) is caught, told by the reason of the end,
//! and ends the group that it worked for and no other; every call that waits is answered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod bomb;
mod common;
mod identity;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bomb::Bomb;
use common::PATIENCE;
use identity::FixedIdentity;
use quorate::{
    CatchUp, Checkpoint, ClientWriteError, ClosedReason, ClusterId, Commands, Completions, Config, GroupId, Host,
    Identity, IdentityStore, Inbound, Incarnation, InitializeError, LastApplied, LeaderIdMode, LogId, LogWrite,
    MemoryEndpoint, MemoryNetwork, MemorySnapshots, MemoryStorage, Node, NodeId, OutgoingSnapshot, Packet, Payload,
    PayloadError, PeerRefused, Raft, RaftLogStorage, RaftNetwork, RaftStateMachine, ReadPolicy, ReceivedContent,
    Recovered, SendOutcome, SessionError, SessionOptions, SnapshotData, SnapshotMeta, SnapshotStore, SnapshotWriter,
    Span, StartError, Starts, Storage, StorageError, StorageErrorKind, StoredSnapshot, WriteId,
};

/// Panics at the place that a test names, for group 2 only; after "bomb in ", with what panics again when it is dropped.
#[derive(Clone, Default)]
struct Trap(Arc<Mutex<&'static str>>);

impl Trap {
    fn set(&self, place: &'static str) {
        *self.0.lock().unwrap() = place;
    }

    /// Whether this is set, which it then is no more.
    fn take(&self, place: &str) -> bool {
        let mut set = self.0.lock().unwrap();
        let is_set = *set == place;
        if is_set {
            *set = "";
        }
        is_set
    }

    fn at(&self, group: GroupId, place: &str) {
        let set = *self.0.lock().unwrap();
        assert!(group != GroupId(2) || set != place, "the trap in {place}");
        if group == GroupId(2) && set.strip_prefix("bomb in ") == Some(place) {
            std::panic::panic_any(Bomb);
        }
    }
}

struct Log(MemoryStorage, Trap);

impl RaftLogStorage for Log {
    fn recover(&self, group: GroupId, completions: Arc<dyn Completions>) -> Result<Recovered, StorageError> {
        self.1.at(group, "recover");
        self.0.recover(group, completions)
    }

    fn submit(&self, group: GroupId, write: WriteId, op: LogWrite) {
        self.1.at(group, "submit");
        self.0.submit(group, write, op);
    }

    fn read(&self, group: GroupId, span: Span, max_bytes: u64) -> Result<Option<quorate::Batches>, StorageError> {
        self.1.at(group, "read");
        self.0.read(group, span, max_bytes)
    }

    fn purge(&self, group: GroupId, upto: LogId) {
        self.1.at(group, "purge");
        self.0.purge(group, upto);
    }

    fn give_up(&self, group: GroupId) -> Result<LogId, StorageError> {
        self.1.at(group, "give_up");
        self.0.give_up(group)
    }

    fn close(&self) {
        self.1.at(GroupId(2), "close");
        self.0.close();
    }
}

/// What a store reads or writes a snapshot with.
struct Bytes<T>(T, GroupId, Trap);

impl<T: Read> Read for Bytes<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.2.at(self.1, "read of a snapshot");
        if self.2.take("damage") {
            return Err(io::Error::other(StorageError::new(StorageErrorKind::Corrupt, "unbearable")));
        }
        self.0.read(buffer)
    }
}

impl<T: Write> Write for Bytes<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.2.at(self.1, "write of a snapshot");
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl SnapshotWriter for Bytes<Box<dyn SnapshotWriter>> {
    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        self.2.at(self.1, "commit");
        self.0.commit()
    }
}

impl ReceivedContent for Bytes<Box<dyn ReceivedContent>> {
    fn meta(&self) -> &SnapshotMeta {
        self.0.meta()
    }

    fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        self.2.at(self.1, "content");
        Ok(Box::new(Bytes(self.0.content()?, self.1, self.2.clone())))
    }

    fn adopt(self: Box<Self>) -> Result<(), StorageError> {
        self.2.at(self.1, "adopt");
        self.0.adopt()
    }
}

/// Also notes that it was closed.
struct Who(FixedIdentity, Trap, Arc<AtomicBool>);

impl IdentityStore for Who {
    fn identity(&self) -> Identity {
        self.1.at(GroupId(2), "identity");
        self.0.identity()
    }

    fn set_cluster(&self, cluster: ClusterId, mode: LeaderIdMode) -> Result<(), StorageError> {
        self.1.at(GroupId(2), "set_cluster");
        self.0.set_cluster(cluster, mode)
    }

    fn record_peer(&self, peer: NodeId, incarnation: Incarnation, starts: &Starts) -> Result<(), PeerRefused> {
        self.0.record_peer(peer, incarnation, starts)
    }

    fn has_met_peers(&self) -> bool {
        self.1.at(GroupId(2), "has_met_peers");
        true
    }

    fn close(&self) {
        self.2.store(true, Ordering::SeqCst);
    }
}

struct Snapshots(MemorySnapshots, Trap);

impl SnapshotStore for Snapshots {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        self.1.at(group, "create");
        Ok(Box::new(Bytes(self.0.create(group, meta)?, group, self.1.clone())))
    }

    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        self.1.at(group, "latest");
        self.0.latest(group)
    }

    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError> {
        self.1.at(group, "receive");
        Ok(Box::new(Bytes(self.0.receive(group, data)?, group, self.1.clone())))
    }
}

struct Network(MemoryEndpoint, Trap);

impl RaftNetwork for Network {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        self.1.at(GroupId(2), "start");
        self.0.start(inbound);
    }

    fn set_cluster(&self, cluster: ClusterId) {
        self.1.at(GroupId(2), "the network's set_cluster");
        self.0.set_cluster(cluster);
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.1.at(GroupId(2), "set_address");
        self.0.set_address(node, address);
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.1.at(packet.group, "send");
        self.0.send(to, packet)
    }

    fn call(&self, to: NodeId, body: bytes::Bytes) -> bool {
        self.1.at(GroupId(2), "call");
        self.0.call(to, body)
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        self.1.at(snapshot.group, "send_snapshot");
        self.0.send_snapshot(to, snapshot, done);
    }

    fn shutdown(&self) {
        self.1.at(GroupId(2), "shutdown");
        self.0.shutdown();
    }
}

/// Words. A snapshot that holds "poison" cannot be taken in without a panic, nor one that cannot be read.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    durable: bool,
    trap: Trap,
}

impl Words {
    fn read(input: &mut dyn Read) -> io::Result<Vec<String>> {
        let mut text = String::new();
        if let Err(error) = input.read_to_string(&mut text) {
            assert!(!error.to_string().contains("unbearable"), "it is not read");
            return Err(error);
        }
        assert!(!text.contains("poison"), "the trap in a snapshot");
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }
}

impl RaftStateMachine for Words {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, word: String) -> u64 {
        self.words.push(word);
        self.words.len() as u64
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        while let Some((_, word)) = commands.next_command() {
            self.trap.at(GroupId(2), "apply_batch");
            let answer = self.apply(word);
            commands.respond(answer);
        }
        Ok(())
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        self.trap.at(GroupId(2), "last_applied");
        Ok(if self.durable { LastApplied::Nothing } else { LastApplied::InMemory })
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.words.join(" ").as_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self { words: Self::read(input)?, ..Self::default() })
    }

    fn install(&mut self, input: &mut dyn Read, _checkpoint: Checkpoint) -> io::Result<()> {
        self.words = Self::read(input)?;
        Ok(())
    }

    fn applies_inline(&self) -> bool {
        self.trap.at(GroupId(2), "applies_inline");
        true
    }
}

/// What a host is made of, with traps in it.
fn storage(id: u64, trap: &Trap) -> Storage {
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(id),
        incarnation: Incarnation(u128::from(id)),
        starts: Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    Storage {
        log: Arc::new(Log(MemoryStorage::new(), trap.clone())),
        snapshots: Arc::new(Snapshots(MemorySnapshots::new(), trap.clone())),
        identity: Arc::new(Who(FixedIdentity::new(identity), trap.clone(), Arc::default())),
    }
}

async fn open(network: &MemoryNetwork, id: u64, of: u64, trap: &Trap, storage: Storage) -> Result<Host, StartError> {
    // What was written just now is not at hand; elections come soon.
    let config = Config { snapshot_entries: 0, keep_entries: 0, tail_cache_bytes: 1, ..Config::default() };
    let members = (1..=of).map(|id| (NodeId(id), Node::at(format!("memory:{id}"))));
    let builder = Host::builder(id).listen(format!("memory:{id}")).peers(members).config(config).storage(storage);
    let endpoint = network.endpoint(id, Incarnation(u128::from(id)));
    builder.network(Arc::new(Network(endpoint, trap.clone()))).open().await
}

/// A host with traps in what it is made of.
async fn host(network: &MemoryNetwork, id: u64, of: u64, trap: &Trap) -> Host {
    open(network, id, of, trap, storage(id, trap)).await.unwrap()
}

async fn group(host: &Host, id: u64, machine: Words) -> Raft<Words> {
    host.group(GroupId(id)).start(machine).await.unwrap()
}

/// Groups 1 and 2 on one host, both led.
async fn two_groups(trap: &Trap, machine: Words) -> (Host, Raft<Words>, Raft<Words>) {
    let host = host(&MemoryNetwork::new(), 1, 1, trap).await;
    let (steady, fragile) = (group(&host, 1, Words::default()).await, group(&host, 2, machine).await);
    steady.wait(PATIENCE).leader().await.unwrap();
    fragile.wait(PATIENCE).leader().await.unwrap();
    (host, steady, fragile)
}

fn word(word: &str) -> String {
    word.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_panics_ends_the_group_it_worked_for() {
    for place in ["submit", "purge", "create", "write of a snapshot", "commit"] {
        let trap = Trap::default();
        let (host, steady, fragile) = two_groups(&trap, Words::default()).await;
        fragile.client_write(word("a")).await.unwrap();
        trap.set(place);
        match place {
            "submit" => assert!(fragile.client_write(word("b")).await.is_err()),
            // Of which the log is shortened at once.
            "purge" => drop(fragile.trigger().snapshot().await),
            _ => assert!(fragile.trigger().snapshot().await.is_err()),
        }
        let ClosedReason::Storage(error) = fragile.closed().await else { unreachable!("{place}: another reason") };
        assert_eq!(error.kind(), StorageErrorKind::Poisoned);
        assert!(error.to_string().contains(&format!("it panicked: the trap in {place}")), "{error}");
        assert!(steady.client_write(word("c")).await.is_ok(), "{place}: another group goes on");
        host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_code_that_panics_at_the_start_is_named_and_the_host_goes_on() {
    for place in ["recover", "last_applied", "applies_inline", "has_met_peers"] {
        let trap = Trap::default();
        let host = host(&MemoryNetwork::new(), 1, 1, &trap).await;
        let steady = group(&host, 1, Words::default()).await;
        trap.set(place);
        let machine = Words { trap: trap.clone(), ..Words::default() };
        let error = host.group(GroupId(2)).start(machine).await.unwrap_err();
        assert!(matches!(error, StartError::Panicked(_) | StartError::Restore(_)), "{place}: {error}");
        assert!(error.to_string().contains(&format!("panicked: the trap in {place}")), "{place}: {error}");
        steady.wait(PATIENCE).leader().await.unwrap();
        assert!(steady.client_write(word("a")).await.is_ok(), "{place}: another group goes on");
        // Without the trap it starts.
        trap.set("");
        let again = group(&host, 2, Words::default()).await;
        again.wait(PATIENCE).leader().await.unwrap();
        host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_in_a_batch_ends_its_group_and_answers_its_writers() {
    let trap = Trap::default();
    let (host, steady, fragile) = two_groups(&trap, Words { trap: trap.clone(), ..Words::default() }).await;
    trap.set("apply_batch");
    let ended = fragile.client_write_many(vec![word("a"), word("b")]).await;
    assert!(ended.iter().all(|ended| ended.as_ref().unwrap_err().outcome_is_unknown()), "{ended:?}");
    let ClosedReason::StateMachine(text) = fragile.closed().await else { unreachable!("another reason") };
    assert_eq!(text, "it panicked: the trap in apply_batch");
    trap.set("");
    assert!(steady.client_write(word("c")).await.is_ok());
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_whose_remains_panic_too_ends_the_group_like_any_other() {
    for place in ["bomb in submit", "bomb in apply_batch", "bomb in create"] {
        let trap = Trap::default();
        let (host, steady, fragile) = two_groups(&trap, Words { trap: trap.clone(), ..Words::default() }).await;
        trap.set(place);
        match place {
            "bomb in create" => assert!(fragile.trigger().snapshot().await.is_err()),
            _ => assert!(fragile.client_write(word("a")).await.is_err()),
        }
        let reason = fragile.closed().await.to_string();
        assert!(reason.ends_with("it panicked: a panic without a message"), "{place}: {reason}");
        assert!(steady.client_write(word("b")).await.is_ok(), "{place}: another group goes on");
        // Which waits until nothing of the group runs any more.
        fragile.shutdown().await;
        host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_panic_leaves_what_panics_too_harms_nobody_but_its_caller() {
    let (host, steady, fragile) = two_groups(&Trap::default(), Words::default()).await;
    let reader = fragile.clone();
    let read =
        tokio::spawn(
            async move { reader.read(ReadPolicy::ReadIndex, |_| -> () { std::panic::panic_any(Bomb) }).await },
        );
    // What the caller gets is the caller's to be rid of.
    std::mem::forget(read.await.unwrap_err());
    for raft in [&fragile, &steady] {
        assert!(raft.client_write(word("a")).await.is_ok(), "everybody goes on");
    }
    host.shutdown().await;
}

/// Two groups on node 1, and a second node that has nothing of them yet.
async fn leader_and_newcomer(trap: &Trap, machine: Words, words: &[&str]) -> [(Host, Raft<Words>, Raft<Words>); 2] {
    let network = MemoryNetwork::new();
    let first = host(&network, 1, 1, trap).await;
    let second = host(&network, 2, 0, trap).await;
    let leading = [group(&first, 1, Words::default()).await, group(&first, 2, Words::default()).await];
    for raft in &leading {
        raft.wait(PATIENCE).leader().await.unwrap();
        for word in words {
            raft.client_write((*word).to_owned()).await.unwrap();
        }
    }
    let newcomers = [group(&second, 1, Words::default()).await, group(&second, 2, machine).await];
    let ([one, two], [three, four]) = (leading, newcomers);
    [(first, one, two), (second, three, four)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_on_which_the_machine_panics_ends_the_group_that_takes_it_in() {
    for durable in [false, true] {
        let machine = Words { durable, ..Words::default() };
        let [(first, steady, leading), (second, other, newcomer)] =
            leader_and_newcomer(&Trap::default(), machine, &["poison"]).await;
        let last = leading.trigger().snapshot().await.unwrap();
        leading.trigger().purge_log(last.index).await.unwrap();
        leading.add_learner(2, Node::at("memory:2"), CatchUp::Skip).await.unwrap();
        let ClosedReason::StateMachine(text) = newcomer.closed().await else { unreachable!("another reason") };
        assert!(text.contains("panicked: the trap in a snapshot"), "{text}");
        // That group goes on where it was, and the other one on both nodes.
        assert!(leading.client_write(word("b")).await.is_ok());
        steady.add_learner(2, Node::at("memory:2"), CatchUp::Wait).await.unwrap();
        assert_eq!(other.client_write(word("c")).await.unwrap().response, 2);
        second.shutdown().await;
        first.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_panics_while_it_serves_a_peer_ends_the_group_it_worked_for() {
    for place in ["read", "send", "latest", "send_snapshot"] {
        let trap = Trap::default();
        let [(first, steady, leading), (second, other, _newcomer)] =
            leader_and_newcomer(&trap, Words::default(), &["a"]).await;
        if place.ends_with("latest") || place.ends_with("snapshot") {
            let last = leading.trigger().snapshot().await.unwrap();
            leading.trigger().purge_log(last.index).await.unwrap();
        }
        trap.set(place);
        // The answer may be the one or the other: it is there before the newcomer is spoken to, or not.
        drop(leading.add_learner(2, Node::at("memory:2"), CatchUp::Skip).await);
        let (reason, network) = (leading.closed().await, place.starts_with("send"));
        assert!(reason.to_string().contains(&format!("it panicked: the trap in {place}")), "{place}: {reason}");
        match reason {
            ClosedReason::Network(_) => assert!(network, "{place}"),
            ClosedReason::Storage(_) => assert!(!network, "{place}"),
            other => unreachable!("{place}: {other}"),
        }
        steady.add_learner(2, Node::at("memory:2"), CatchUp::Wait).await.unwrap();
        assert_eq!(other.client_write(word("b")).await.unwrap().response, 2, "{place}: another group goes on");
        second.shutdown().await;
        first.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_panics_on_a_call_leaves_its_outcome_unknown() {
    let network = MemoryNetwork::new();
    let trap = Trap::default();
    let (first, second) = (host(&network, 1, 2, &Trap::default()).await, host(&network, 2, 2, &trap).await);
    let nodes = [group(&first, 1, Words::default()).await, group(&second, 1, Words::default()).await];
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    while nodes[1].is_leader() {
        drop(nodes[1].trigger().transfer_leader(NodeId(1)).await);
    }
    nodes[1].wait(PATIENCE).current_leader(NodeId(1)).await.unwrap();
    nodes[1].client_write(word("a")).await.unwrap();
    trap.set("call");
    let ended = nodes[1].write(word("b")).deadline(Duration::from_millis(50)).await.unwrap_err();
    assert!(ended.outcome_is_unknown(), "it may have been sent: {ended}");
    trap.set("set_address");
    let members = BTreeMap::from([(NodeId(2), Node::at("memory:2")), (NodeId(1), Node::at("memory:1"))]);
    assert!(nodes[1].initialize(members).await.is_err(), "it is initialized already");
    trap.set("shutdown");
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_on_a_leaders_snapshot_ends_the_group_that_takes_it_in() {
    for durable in [false, true] {
        for place in ["receive", "content", "read of a snapshot", "adopt", "latest"] {
            // A machine that keeps its state itself is handed what was adopted; another one what was received.
            let only_here = match place {
                "content" | "read of a snapshot" => !durable,
                "latest" => durable,
                _ => true,
            };
            if !only_here {
                continue;
            }
            let trap = Trap::default();
            let network = MemoryNetwork::new();
            let (first, second) = (host(&network, 1, 1, &Trap::default()).await, host(&network, 2, 0, &trap).await);
            let leading = group(&first, 2, Words::default()).await;
            leading.wait(PATIENCE).leader().await.unwrap();
            leading.client_write(word("a")).await.unwrap();
            let last = leading.trigger().snapshot().await.unwrap();
            leading.trigger().purge_log(last.index).await.unwrap();
            let newcomer = group(&second, 2, Words { durable, ..Words::default() }).await;
            trap.set(place);
            leading.add_learner(2, Node::at("memory:2"), CatchUp::Skip).await.unwrap();
            let reason = newcomer.closed().await;
            assert!(reason.to_string().contains(&format!("panicked: the trap in {place}")), "{place}: {reason}");
            // Where the machine was to be handed what is gone, nobody knows what it holds.
            assert!(matches!(reason, ClosedReason::Storage(_)), "{place}: {reason:?}");
            second.shutdown().await;
            first.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_where_a_leaders_snapshot_cannot_be_read_is_not_blamed() {
    let (trap, network) = (Trap::default(), MemoryNetwork::new());
    let (first, second) = (host(&network, 1, 1, &Trap::default()).await, host(&network, 2, 0, &trap).await);
    let leading = group(&first, 2, Words::default()).await;
    leading.wait(PATIENCE).leader().await.unwrap();
    leading.client_write(word("a")).await.unwrap();
    let last = leading.trigger().snapshot().await.unwrap();
    leading.trigger().purge_log(last.index).await.unwrap();
    let newcomer = group(&second, 2, Words::default()).await;
    trap.set("damage");
    leading.add_learner(2, Node::at("memory:2"), CatchUp::Skip).await.unwrap();
    // It is sent again.
    newcomer.wait(PATIENCE).applied_index_at_least(last.index).await.unwrap();
    assert!(!trap.take("damage"), "it was met");
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_panics_while_a_host_is_opened_is_named() {
    for (place, part) in [("identity", "its log storage failed"), ("start", "its network failed")] {
        let trap = Trap::default();
        trap.set(place);
        let network = MemoryNetwork::new();
        let error = open(&network, 1, 1, &trap, storage(1, &trap)).await.unwrap_err();
        assert!(matches!(error, StartError::Panicked(_)), "{place}: {error:?}");
        assert_eq!(error.to_string(), format!("cannot start: {part}: it panicked: the trap in {place}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_panics_when_it_is_given_up_is_named() {
    let (trap, network) = (Trap::default(), MemoryNetwork::new());
    let kept = storage(1, &trap);
    let first = open(&network, 1, 1, &trap, kept.clone()).await.unwrap();
    let raft = group(&first, 2, Words::default()).await;
    raft.wait(PATIENCE).leader().await.unwrap();
    raft.client_write(word("a")).await.unwrap();
    let last = raft.trigger().snapshot().await.unwrap();
    raft.trigger().purge_log(last.index).await.unwrap();
    first.shutdown().await;
    // The snapshot that the log begins after is gone.
    let lost = Storage { snapshots: Arc::new(MemorySnapshots::new()), ..kept };
    trap.set("give_up");
    let again = open(&network, 1, 1, &trap, lost).await.unwrap();
    let error = again.group(GroupId(2)).start(Words::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start: its log storage failed: it panicked: the trap in give_up");
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_panics_while_a_cluster_is_made_fails_the_call_or_is_told() {
    let (trap, network) = (Trap::default(), MemoryNetwork::new());
    let host = host(&network, 1, 0, &trap).await;
    let raft = group(&host, 1, Words::default()).await;
    let members = BTreeMap::from([(NodeId(1), Node::at("memory:1"))]);
    trap.set("set_cluster");
    let Err(InitializeError::Storage(error)) = raft.initialize(members.clone()).await else { unreachable!("no error") };
    assert_eq!(error.to_string(), "it panicked: the trap in set_cluster");
    assert!(!raft.is_initialized());
    // Who only has to be told is not asked for leave.
    trap.set("the network's set_cluster");
    raft.initialize(members).await.unwrap();
    raft.wait(PATIENCE).leader().await.unwrap();
    assert_eq!(raft.client_write(word("a")).await.unwrap().response, 1);
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_panics_when_it_is_closed_keeps_nothing_else_open() {
    let (trap, network, closed) = (Trap::default(), MemoryNetwork::new(), Arc::new(AtomicBool::new(false)));
    let parts = storage(1, &trap);
    let identity = Who(FixedIdentity::new(parts.identity.identity()), trap.clone(), Arc::clone(&closed));
    let host = open(&network, 1, 1, &trap, Storage { identity: Arc::new(identity), ..parts }).await.unwrap();
    trap.set("close");
    host.shutdown().await;
    assert!(closed.load(Ordering::SeqCst));
}

/// Text that panics when it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Touchy(String);

impl Payload for Touchy {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        assert_ne!(self.0, "!encode", "the trap in encode");
        out.extend_from_slice(self.0.as_bytes());
        Ok(())
    }

    fn decode(bytes: bytes::Bytes) -> Result<Self, PayloadError> {
        assert_ne!(&bytes[..], b"decode", "the trap in decode");
        String::from_utf8(bytes.into()).map(Self).map_err(|error| PayloadError(error.to_string()))
    }
}

/// Answers what it is asked to.
#[derive(Default)]
struct Parrot;

impl RaftStateMachine for Parrot {
    type Command = Touchy;
    type Response = Touchy;

    fn apply(&mut self, command: Touchy) -> Touchy {
        Touchy(command.0.trim_start_matches("answer ").to_owned())
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }
}

fn touchy(text: &str) -> Touchy {
    Touchy(text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_answers_that_panic_when_they_are_encoded_or_decoded() {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let config = Config { write_timeout: Duration::from_secs(2), ..Config::default() };
        let builder = Raft::builder(id).peer_ids(1..=3).in_memory(&network).config(config);
        nodes.push(builder.start(Parrot).await.unwrap());
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    let leader = nodes[0].wait(PATIENCE).leader().await.unwrap();
    let leading = nodes.iter().find(|node| node.node_id() == leader).unwrap();
    let other = nodes.iter().find(|node| node.node_id() != leader).unwrap();

    // A command that the leader cannot decode enters no log; of an answer that cannot travel it is known that the
    // command was applied.
    let refused = other.client_write(touchy("decode")).await.unwrap_err();
    assert_eq!(refused, ClientWriteError::Encode(PayloadError("decoding it panicked".into())));
    let unreadable = other.client_write(touchy("answer decode")).await.unwrap_err();
    assert!(matches!(unreadable, ClientWriteError::Response { .. }), "{unreadable}");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    other.write(touchy("answer decode")).send_then(move |ended| drop(tell.send(ended))).unwrap();
    assert!(matches!(told.recv().await.unwrap(), Err(ClientWriteError::Response { .. })), "who sent it is told");
    let unsaid = other.client_write(touchy("answer !encode")).await.unwrap_err();
    assert!(matches!(unsaid, ClientWriteError::Response { .. }), "{unsaid}");
    let many = other.client_write_many(vec![touchy("answer !encode"), touchy("fine")]).await;
    assert!(matches!(&many[..], [Err(ClientWriteError::Response { .. }), Ok(_)]), "{many:?}");

    // The answer that is kept of a session's command.
    let session = leading.open_session(SessionOptions::default()).await.unwrap();
    let mut pending = session.prepare(touchy("answer decode")).await.unwrap();
    assert_eq!(pending.send().await.unwrap().response, touchy("decode"));
    let again = pending.send().await.unwrap_err();
    assert!(matches!(again, SessionError::Write(ClientWriteError::Response { .. })), "{again}");
    drop(pending);
    for node in &nodes {
        assert!(node.client_write(touchy("fine")).await.is_ok(), "everybody goes on");
    }

    // Nobody can apply what is in the log and cannot be decoded.
    assert_eq!(leading.client_write(touchy("decode")).await, Err(ClientWriteError::OutcomeUnknown));
    let ClosedReason::StateMachine(text) = leading.closed().await else { unreachable!("another reason") };
    assert!(text.starts_with("it panicked: ") && text.contains("the trap in decode"), "{text}");
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_panics_when_a_session_keeps_it_ends_the_group() {
    let raft = Raft::builder(1).peer_ids([1]).in_memory(&MemoryNetwork::new()).start(Parrot).await.unwrap();
    raft.wait(PATIENCE).leader().await.unwrap();
    let session = raft.open_session(SessionOptions::default()).await.unwrap();
    assert!(session.write(touchy("answer !encode")).await.is_err());
    let ClosedReason::StateMachine(text) = raft.closed().await else { unreachable!("another reason") };
    assert!(text.contains("the trap in encode"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_panics_is_named() {
    let broken = Arc::new(AtomicBool::new(true));
    let start = || {
        let broken = Arc::clone(&broken);
        let clock = move || {
            assert!(!broken.load(Ordering::SeqCst), "the trap in the clock");
            std::time::SystemTime::now()
        };
        Raft::builder(1).peer_ids([1]).in_memory(&MemoryNetwork::new()).wall_clock(clock).start(Words::default())
    };
    let Err(StartError::Panicked(text)) = start().await else { unreachable!("it started") };
    assert_eq!(text, "its wall clock failed: it panicked: the trap in the clock");
    broken.store(false, Ordering::SeqCst);
    let raft = start().await.unwrap();
    raft.wait(PATIENCE).leader().await.unwrap();
    broken.store(true, Ordering::SeqCst);
    // Whoever looks first: a turn, or the node's own task.
    assert_eq!(raft.closed().await, ClosedReason::Clock("it panicked: the trap in the clock".to_owned()));
    raft.shutdown().await;
}
