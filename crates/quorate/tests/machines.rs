//! What state machines may provide beside the three required methods: batches, a durable state of their own, async
//! methods, a cheap capture; and what becomes of a group whose machine fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;
mod identity;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{PATIENCE, peers};
use identity::FixedIdentity;
use quorate::{
    AsyncStateMachine, Asynchronous, Checkpoint, ClosedReason, ClusterId, Commands, Config, EntryContext, Frozen,
    GroupId, Host, Identity, Incarnation, LastApplied, LeaderIdMode, MemoryNetwork, MemorySnapshots, MemoryStorage,
    NodeId, Raft, RaftStateMachine, ReadPolicy, SessionOptions, StartError, Storage,
};

/// What a durable machine keeps: survives the node.
#[derive(Default)]
struct Kept {
    words: Vec<String>,
    checkpoint: Option<Vec<u8>>,
    /// Words that were applied since the start of the node.
    applied: usize,
    installed: usize,
}

#[derive(Clone, Default)]
struct Durable(Arc<Mutex<Kept>>);

impl RaftStateMachine for Durable {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, _word: String) -> u64 {
        unreachable!("apply_batch is provided")
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        while let Some((_, word)) = commands.next_command() {
            match word.as_str() {
                "error" => return Err(io::Error::other("the test asked for it")),
                "silence" => continue,
                "leave" => return Ok(()),
                _ => kept.words.push(word),
            }
            kept.applied += 1;
            commands.respond(kept.words.len() as u64);
        }
        kept.checkpoint = Some(commands.checkpoint().as_bytes().to_vec());
        Ok(())
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        let mut kept = self.0.lock().unwrap();
        (kept.applied, kept.installed) = (0, 0);
        Ok(LastApplied::kept(kept.checkpoint.clone()))
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.0.lock().unwrap().words.join(" ").as_bytes())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        unreachable!("a durable machine is installed into")
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let mut text = String::new();
        input.read_to_string(&mut text)?;
        let mut kept = self.0.lock().unwrap();
        kept.words = text.split_whitespace().map(str::to_owned).collect();
        kept.checkpoint = Some(checkpoint.as_bytes().to_vec());
        kept.installed += 1;
        Ok(())
    }
}

impl Durable {
    fn words(&self) -> String {
        self.0.lock().unwrap().words.join(" ")
    }

    fn counts(&self) -> (usize, usize) {
        let kept = self.0.lock().unwrap();
        (kept.applied, kept.installed)
    }
}

/// Stores that outlive a node.
fn storage() -> Storage {
    let identity = Identity {
        cluster: ClusterId(0),
        node: NodeId(1),
        incarnation: Incarnation(77),
        starts: quorate::Starts::counted(1),
        mode: LeaderIdMode::Advanced,
    };
    Storage {
        log: Arc::new(MemoryStorage::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
        identity: Arc::new(FixedIdentity::new(identity)),
    }
}

/// One node on these stores.
async fn start_on<S: RaftStateMachine>(storage: &Storage, machine: S) -> Result<Raft<S>, StartError> {
    let config = Config { snapshot_entries: 0, ..Config::default() };
    let peers = [(NodeId(1), quorate::Node::at("memory:1"))];
    let host = Host::builder(1).peers(peers).config(config).in_memory(&MemoryNetwork::new());
    let raft = host.storage(storage.clone()).open().await?.group(1).start(machine).await?;
    raft.wait(PATIENCE).leader().await.unwrap();
    Ok(raft)
}

async fn write(raft: &Raft<Durable>, words: &str) {
    for word in words.split_whitespace() {
        raft.client_write(word.to_owned()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_machine_goes_on_from_what_it_has_applied() {
    let (storage, machine) = (storage(), Durable::default());
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "one two three").await;
    raft.shutdown().await;
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    assert_eq!(raft.client_write("four".into()).await.unwrap().response, 4);
    assert_eq!((machine.words().as_str(), machine.counts()), ("one two three four", (1, 0)));
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_machine_that_kept_less_applies_the_rest_again() {
    let (storage, machine) = (storage(), Durable::default());
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "one two").await;
    let earlier = {
        let kept = machine.0.lock().unwrap();
        (kept.words.clone(), kept.checkpoint.clone())
    };
    write(&raft, "three four").await;
    raft.shutdown().await;
    {
        let mut kept = machine.0.lock().unwrap();
        (kept.words, kept.checkpoint) = earlier;
    }
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "five").await;
    assert_eq!((machine.words().as_str(), machine.counts()), ("one two three four five", (3, 0)));
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_machine_behind_the_snapshot_has_it_installed() {
    let (storage, machine) = (storage(), Durable::default());
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "one two").await;
    raft.trigger().snapshot().await.unwrap();
    write(&raft, "three").await;
    raft.shutdown().await;
    *machine.0.lock().unwrap() = Kept::default();
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "four").await;
    assert_eq!((machine.words().as_str(), machine.counts()), ("one two three four", (2, 1)));
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_machine_that_the_log_does_not_lead_to_is_refused() {
    let machine = Durable::default();
    let raft = start_on(&storage(), machine.clone()).await.unwrap();
    write(&raft, "one two").await;
    raft.shutdown().await;
    let error = start_on(&storage(), machine.clone()).await.unwrap_err().to_string();
    assert!(error.contains("to which the log on this node does not lead"), "{error}");
    machine.0.lock().unwrap().checkpoint = Some(b"QRMkept?".to_vec());
    assert!(matches!(start_on(&storage(), machine.clone()).await, Err(StartError::Restore(_))));
    assert_eq!(machine.words(), "one two", "nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_has_written_is_known_after_a_restart_of_a_durable_machine() {
    let (storage, machine) = (storage(), Durable::default());
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    let session = raft.open_session(SessionOptions::default()).await.unwrap();
    session.write("one".into()).await.unwrap();
    raft.wait(PATIENCE).metrics(|metrics| metrics.sessions == 1, "the session is known").await.unwrap();
    raft.shutdown().await;
    let raft = start_on(&storage, machine.clone()).await.unwrap();
    write(&raft, "two").await;
    raft.wait(PATIENCE).metrics(|metrics| metrics.sessions == 1, "the session is still known").await.unwrap();
    assert_eq!(machine.counts(), (1, 0), "only the second word was applied, so the session came from the checkpoint");
    raft.shutdown().await;
}

/// A follower that lags behind the log is sent a snapshot, which its durable machine takes in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaders_snapshot_is_installed_into_a_durable_machine() {
    let network = MemoryNetwork::new();
    let config = Config { snapshot_entries: 0, keep_entries: 0, ..Config::default() };
    let first = Raft::builder(1).peers(peers([1])).in_memory(&network).config(config.clone());
    let first = first.start(Durable::default()).await.unwrap();
    first.wait(PATIENCE).leader().await.unwrap();
    write(&first, "one two three").await;
    let upto = first.trigger().snapshot().await.unwrap();
    first.trigger().purge_log(upto.index).await.unwrap();
    let machine = Durable::default();
    let second = Raft::builder(2).listen("memory:2").in_memory(&network).config(config);
    let second = second.start(machine.clone()).await.unwrap();
    first.add_learner(2, quorate::Node::at("memory:2"), quorate::CatchUp::Wait).await.unwrap();
    let end = first.client_write("four".into()).await.unwrap().log_id.index;
    second.wait(PATIENCE).applied_index_at_least(end).await.unwrap();
    assert_eq!((machine.words().as_str(), machine.counts()), ("one two three four", (1, 1)));
    let kept = Checkpoint::from_bytes(machine.0.lock().unwrap().checkpoint.clone().unwrap());
    assert_eq!(kept.log_id().unwrap().index, end);
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_not_applied_whole_closes_the_group() {
    for (word, expected) in [
        ("error", "it cannot apply: the test asked for it"),
        ("silence", "took another command before it answered"),
        ("leave", "before it answered the command"),
    ] {
        let raft = start_on(&storage(), Durable::default()).await.unwrap();
        let error = raft.client_write(word.into()).await.unwrap_err();
        assert!(error.outcome_is_unknown(), "{word}: {error}");
        match raft.closed().await {
            ClosedReason::StateMachine(text) => assert!(text.contains(expected), "{word}: {text}"),
            other => panic!("{word}: {other:?}"),
        }
    }
}

/// A machine that panics where it is told to.
struct Fragile {
    at: &'static str,
    frozen: bool,
}

impl Fragile {
    fn at(&self, place: &str) {
        assert_ne!(self.at, place, "the test asked for it");
    }
}

impl RaftStateMachine for Fragile {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, command: u64) -> u64 {
        self.at("apply");
        command
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        self.at("snapshot");
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn freeze(&self) -> Option<Frozen> {
        self.at("freeze");
        let panics = self.at == "frozen";
        self.frozen.then(|| -> Frozen {
            Box::new(move |_out| {
                assert!(!panics, "the test asked for it");
                Ok(())
            })
        })
    }

    fn defer_snapshot(&self) -> bool {
        self.at("defer_snapshot");
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_user_code_stops_its_own_group_and_no_other() {
    let peers = [(NodeId(1), quorate::Node::at("memory:1"))];
    let host = Host::builder(1).peers(peers).in_memory(&MemoryNetwork::new()).open().await.unwrap();
    let steady = host.group(1).start(Fragile { at: "", frozen: false }).await.unwrap();
    steady.wait(PATIENCE).leader().await.unwrap();
    for (group, at) in (2..).zip(["apply", "snapshot", "freeze", "frozen", "defer_snapshot"]) {
        let fragile = host.group(GroupId(group)).start(Fragile { at, frozen: at == "frozen" }).await.unwrap();
        fragile.wait(PATIENCE).leader().await.unwrap();
        match at {
            "apply" => assert!(fragile.client_write(1).await.unwrap_err().outcome_is_unknown()),
            _ => assert!(fragile.trigger().snapshot().await.is_err()),
        }
        match fragile.closed().await {
            ClosedReason::StateMachine(text) => assert!(text.contains("the test asked for it"), "{at}: {text}"),
            other => panic!("{at}: {other:?}"),
        }
        assert_eq!(steady.client_write(group).await.unwrap().response, group, "another group goes on");
    }
    host.shutdown().await;
}

/// A machine whose capture is written only when the test lets it.
struct Slow {
    sum: u64,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl RaftStateMachine for Slow {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.sum += add;
        self.sum
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        unreachable!("freeze is provided")
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Self { sum: u64::from_le_bytes(bytes), gate: Arc::new(Mutex::new(mpsc::channel().1)) })
    }

    fn freeze(&self) -> Option<Frozen> {
        let (sum, gate) = (self.sum, Arc::clone(&self.gate));
        Some(Box::new(move |out| {
            gate.lock().unwrap().recv().unwrap();
            out.write_all(&sum.to_le_bytes())
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_written_while_applies_go_on_and_holds_what_was_applied_before() {
    let storage = storage();
    let (open, gate) = mpsc::channel();
    let raft = start_on(&storage, Slow { sum: 0, gate: Arc::new(Mutex::new(gate)) }).await.unwrap();
    let before = raft.client_write(5).await.unwrap().log_id;
    let building = raft.clone();
    let built = tokio::spawn(async move { building.trigger().snapshot().await });
    // Answered while the capture waits at the gate, wherever the capture's turn came.
    let mut sums = Vec::new();
    for add in [1, 1, 1] {
        sums.push(raft.client_write(add).await.unwrap().response);
    }
    assert_eq!(sums, [6, 7, 8]);
    open.send(()).unwrap();
    let at = built.await.unwrap().unwrap();
    raft.shutdown().await;
    let stored = storage.snapshots.latest(GroupId(1)).unwrap().unwrap();
    let mut content = Vec::new();
    stored.content().unwrap().read_to_end(&mut content).unwrap();
    let sum = u64::from_le_bytes(content[content.len() - 8..].try_into().unwrap());
    assert_eq!(sum, 5 + (at.index - before.index), "the sum at {at}, and nothing later");
}

/// Awaits in every method.
struct Awaiting(Vec<u64>);

impl AsyncStateMachine for Awaiting {
    type Command = u64;
    type Response = u64;

    async fn apply(&mut self, entry: EntryContext, command: u64) -> u64 {
        // Something that another thread of the runtime does.
        let doubled = tokio::spawn(async move { command * 2 }).await.unwrap();
        self.0.push(doubled);
        assert!(entry.log_id.index > 0);
        doubled
    }

    async fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        tokio::task::yield_now().await;
        self.0.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    async fn restore(input: &mut dyn Read) -> io::Result<Self> {
        tokio::task::yield_now().await;
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        Ok(Self(bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_may_await() {
    let storage = storage();
    let raft = start_on(&storage, Asynchronous(Awaiting(Vec::new()))).await.unwrap();
    for number in 1..=3 {
        assert_eq!(raft.client_write(number).await.unwrap().response, number * 2);
    }
    raft.trigger().snapshot().await.unwrap();
    assert_eq!(raft.client_write(4).await.unwrap().response, 8);
    raft.shutdown().await;
    let raft = start_on(&storage, Asynchronous(Awaiting(Vec::new()))).await.unwrap();
    let numbers = raft.read(ReadPolicy::ReadIndex, |machine| machine.0.0.clone()).await.unwrap();
    assert_eq!(numbers, [2, 4, 6, 8], "restored from the snapshot, then the rest of the log");
    raft.shutdown().await;
}

/// Answers with the time of the entry, in nanoseconds since the Unix epoch.
struct Stamp;

impl RaftStateMachine for Stamp {
    type Command = ();
    type Response = u64;

    fn apply(&mut self, _command: ()) -> u64 {
        unreachable!("apply_entry is provided")
    }

    fn apply_entry(&mut self, entry: EntryContext, _command: ()) -> u64 {
        entry.time.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }
}

#[tokio::test]
async fn entries_have_the_time_of_a_clock_that_shows_less_than_the_age_of_the_process() {
    let shown = Duration::from_millis(1);
    let mut first = None;
    loop {
        let began = Instant::now();
        let builder = Raft::builder(1).peers(peers([1])).in_memory(&MemoryNetwork::new());
        let raft = builder.wall_clock(move || UNIX_EPOCH + shown).start(Stamp).await.unwrap();
        raft.wait(PATIENCE).leader().await.unwrap();
        let time = Duration::from_nanos(raft.client_write(()).await.unwrap().response);
        // Between two looks at it a clock goes on by itself.
        let most = shown + began.elapsed();
        assert!(time <= most, "{time:?} is later than {most:?}");
        raft.shutdown().await;
        // The clocks of this process have been started by now; what they show itself is not taken for the time.
        if began.duration_since(*first.get_or_insert_with(Instant::now)) > most {
            return;
        }
    }
}
