//! A panic of what a user brings (state machine, log, snapshot store, network) is caught, told by the reason of the end,
//! and ends the group that it worked for and no other; every call that waits is answered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;
mod identity;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::PATIENCE;
use identity::FixedIdentity;
use quorate::{
    CatchUp, Checkpoint, ClosedReason, ClusterId, Commands, Completions, Config, GroupId, Host, Identity, Inbound,
    Incarnation, LastApplied, LeaderIdMode, LogId, LogWrite, MemoryEndpoint, MemoryNetwork, MemorySnapshots,
    MemoryStorage, Node, NodeId, OutgoingSnapshot, Packet, Raft, RaftLogStorage, RaftNetwork, RaftStateMachine,
    ReceivedContent, Recovered, SendOutcome, SnapshotData, SnapshotMeta, SnapshotStore, SnapshotWriter, Span,
    StartError, Starts, Storage, StorageError, StorageErrorKind, StoredSnapshot, WriteId,
};

/// Panics at the place that a test names, for group 2 only.
#[derive(Clone, Default)]
struct Trap(Arc<Mutex<&'static str>>);

impl Trap {
    fn set(&self, place: &'static str) {
        *self.0.lock().unwrap() = place;
    }

    fn at(&self, group: GroupId, place: &str) {
        let set = *self.0.lock().unwrap();
        assert!(group != GroupId(2) || set != place, "the trap in {place}");
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
}

struct Snapshots(MemorySnapshots, Trap);

impl SnapshotStore for Snapshots {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        self.1.at(group, "create");
        self.0.create(group, meta)
    }

    fn latest(&self, group: GroupId) -> Result<Option<Box<dyn StoredSnapshot>>, StorageError> {
        self.1.at(group, "latest");
        self.0.latest(group)
    }

    fn receive(&self, group: GroupId, data: SnapshotData) -> Result<Box<dyn ReceivedContent>, StorageError> {
        self.1.at(group, "receive");
        self.0.receive(group, data)
    }
}

struct Network(MemoryEndpoint, Trap);

impl RaftNetwork for Network {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        self.0.start(inbound);
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

/// Words. A snapshot that holds "poison" cannot be taken in without a panic.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    durable: bool,
    trap: Trap,
}

impl Words {
    fn read(input: &mut dyn Read) -> io::Result<Vec<String>> {
        let mut text = String::new();
        input.read_to_string(&mut text)?;
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

/// A host with traps in what it is made of.
async fn host(network: &MemoryNetwork, id: u64, of: u64, trap: &Trap) -> Host {
    let incarnation = Incarnation(u128::from(id));
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(id),
        incarnation,
        starts: Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    let storage = Storage {
        log: Arc::new(Log(MemoryStorage::new(), trap.clone())),
        snapshots: Arc::new(Snapshots(MemorySnapshots::new(), trap.clone())),
        identity: Arc::new(FixedIdentity::new(identity)),
    };
    // What was written just now is not at hand; elections come soon.
    let config = Config { snapshot_entries: 0, keep_entries: 0, tail_cache_bytes: 1, ..Config::default() };
    let members = (1..=of).map(|id| (NodeId(id), Node::at(format!("memory:{id}"))));
    let builder = Host::builder(id).listen(format!("memory:{id}")).peers(members).config(config).storage(storage);
    builder.network(Arc::new(Network(network.endpoint(id, incarnation), trap.clone()))).open().await.unwrap()
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
    for place in ["submit", "purge", "create"] {
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
    for place in ["recover", "last_applied", "applies_inline"] {
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
