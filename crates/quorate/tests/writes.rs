//! Writes of which more is asked than their response.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod common;

use std::future::{IntoFuture, poll_fn};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Ledger, PATIENCE, by_id, leader, start, stop};
use quorate::{
    ChangeMembers, ChangeTerms, ClientWriteError, Config, Drain, LeaderId, MemoryNetwork, NodeId, Payload, Raft,
    RaftStateMachine, Raw, ReadPolicy, Retain, SessionOptions, Settings,
};
use tokio::sync::oneshot;

async fn commands(node: &Raft<Ledger>) -> Vec<String> {
    node.read(ReadPolicy::ReadIndex, Ledger::commands).await.unwrap()
}

/// Hands leadership over; returns the new leader id.
async fn hand_over(nodes: &[Raft<Ledger>], to: NodeId) -> LeaderId {
    let leader_id = leader(nodes).await.trigger().transfer_leader(to).await.unwrap();
    for node in nodes {
        node.wait(PATIENCE).current_leader(to).await.unwrap();
    }
    leader_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_for_one_leader_is_applied_under_it_or_not_at_all() {
    let (_network, nodes) = start(3, Config::default()).await;
    let first = leader(&nodes).await.client_write("first".to_owned()).await.unwrap().log_id.leader_id;
    for node in &nodes {
        // Also those that forward it.
        let written = node.write(format!("by {}", node.node_id())).with_leader(first).await.unwrap();
        assert_eq!(written.log_id.leader_id, first);
    }
    let to = NodeId(first.node_id.0 % 3 + 1);
    hand_over(&nodes, to).await;
    let back = hand_over(&nodes, first.node_id).await;
    assert!(back > first, "the node leads again, the leader id does not");
    let before = commands(&nodes[0]).await;
    for node in &nodes {
        let refused = node.write("late".to_owned()).with_leader(first).await.unwrap_err();
        assert_eq!(refused, ClientWriteError::LeaderChanged { wanted: first, leader: Some(back.node_id) });
        assert!(!refused.is_retryable() && !refused.outcome_is_unknown(), "not under this condition");
        let many = node.write_many(vec!["late".to_owned(); 3]).with_leader(first).await;
        assert!(many.iter().all(|outcome| outcome.as_ref() == Err(&refused)), "{many:?}");
    }
    assert_eq!(commands(&nodes[0]).await, before);
    let many = nodes[0].write_many(vec!["a".to_owned(), "b".to_owned()]).with_leader(back).await;
    assert!(many.iter().all(|outcome| outcome.as_ref().is_ok_and(|written| written.log_id.leader_id == back)));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_do_not_spill_over_to_other_writes_of_the_same_moment() {
    let (_network, nodes) = start(3, Config::default()).await;
    let node = leader(&nodes).await;
    let now = node.client_write("first".to_owned()).await.unwrap().log_id.leader_id;
    let gone = LeaderId { term: now.term - 1, ..now };
    // All are in the queue before it is taken.
    let (plain, refused, more) = tokio::join!(
        async { node.client_write("plain".to_owned()).await },
        async { node.write("refused".to_owned()).with_leader(gone).await },
        async { node.client_write("more".to_owned()).await },
    );
    let refusal = ClientWriteError::LeaderChanged { wanted: gone, leader: Some(now.node_id) };
    assert_eq!(refused.unwrap_err(), refusal);
    assert!(plain.unwrap().log_id < more.unwrap().log_id);
    assert_eq!(commands(&node).await, ["first", "plain", "more"]);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_loses_what_only_it_could_write() {
    let (network, nodes) = start(3, Config::default()).await;
    let old = leader(&nodes).await;
    let under = old.client_write("first".to_owned()).await.unwrap().log_id.leader_id;
    network.isolate(old.node_id());
    // It believes that it leads: the command enters its log, and is replaced when the others are heard again.
    let mut lost = old.write("lost".to_owned()).with_leader(under).submit().unwrap();
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != old.node_id()).cloned().collect();
    let next = loop {
        let id = others[0].wait(PATIENCE).leader().await.unwrap();
        if id != old.node_id() {
            break by_id(&nodes, id).unwrap();
        }
        tokio::task::yield_now().await;
    };
    next.client_write("second".to_owned()).await.unwrap();
    network.heal();
    lost.committed().await.unwrap_err();
    match lost.committed().await.unwrap_err() {
        ClientWriteError::LeaderChanged { wanted, .. } => assert_eq!(wanted, under),
        error => assert!(error.outcome_is_unknown(), "{error}"),
    }
    assert_eq!(commands(next).await, ["first", "second"]);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_is_told_of_the_commit_and_then_of_the_response() {
    let (_network, nodes) = start(3, Config::default()).await;
    for node in &nodes {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (first, second) = (Arc::clone(&seen), Arc::clone(&seen));
        let (tell, told) = oneshot::channel();
        let write =
            node.write("told".to_owned()).on_commit(move |log_id| first.lock().unwrap().push(("commit", log_id)));
        write
            .send_then(move |outcome| {
                second.lock().unwrap().push(("apply", outcome.unwrap().log_id));
                tell.send(()).unwrap();
            })
            .unwrap();
        told.await.unwrap();
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["commit", "apply"]);
        assert_eq!(seen[0].1, seen[1].1);

        let mut write = node.write("submitted".to_owned()).submit().unwrap();
        let log_id = write.committed().await.unwrap();
        assert_eq!(write.committed().await.unwrap(), log_id, "it may be asked again");
        assert_eq!(write.applied().await.unwrap().log_id, log_id);
        let (tell, told) = oneshot::channel();
        let awaited = node.write("awaited".to_owned()).on_commit(move |log_id| tell.send(log_id).unwrap());
        assert_eq!(awaited.await.unwrap().log_id, told.await.unwrap());
        node.write("sent".to_owned()).send().unwrap();
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2 + 12).await.unwrap();
    }
    let applied = commands(&nodes[0]).await;
    for what in ["told", "submitted", "awaited", "sent"] {
        assert_eq!(applied.iter().filter(|command| *command == what).count(), 3, "{what}");
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_committed_before_a_slow_machine_applied_it() {
    let network = quorate::MemoryNetwork::new();
    let node = Raft::builder(1).peers(common::peers(1..=1)).in_memory(&network).start(Ledger::default()).await.unwrap();
    node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    // The machine is looked at until it is told that the write behind is committed.
    let (go_on, wait) = std::sync::mpsc::channel();
    let (tell, looking) = oneshot::channel();
    let reader = node.clone();
    let busy = tokio::spawn(async move {
        let look = move |_: &Ledger| {
            tell.send(()).unwrap();
            wait.recv_timeout(PATIENCE).unwrap();
        };
        reader.read(ReadPolicy::Stale, look).await.unwrap();
    });
    looking.await.unwrap();
    let mut write = node.write("behind".to_owned()).submit().unwrap();
    write.committed().await.unwrap();
    go_on.send(()).unwrap();
    write.applied().await.unwrap();
    busy.await.unwrap();
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_end_well_ends_at_its_deadline() {
    let (network, nodes) = start(3, Config::default()).await;
    let now = leader(&nodes).await.client_write("first".to_owned()).await.unwrap().log_id.leader_id;
    let cut_off = nodes.iter().find(|node| node.node_id() != now.node_id).unwrap();
    network.isolate(cut_off.node_id());
    let brief = Duration::from_millis(50);
    let refused = cut_off.write("never".to_owned()).with_leader(now).deadline(brief).await.unwrap_err();
    assert!(refused.is_retryable() || refused.outcome_is_unknown(), "{refused}");
    let (tell, told) = oneshot::channel();
    let write = cut_off.write("never".to_owned()).deadline(brief);
    write.send_then(move |outcome| tell.send(outcome).unwrap()).unwrap();
    let refused = told.await.unwrap().unwrap_err();
    assert!(refused.is_retryable() || refused.outcome_is_unknown(), "{refused}");
    network.heal();
    nodes[0].shutdown().await;
    let closed = nodes[0].write("never".to_owned()).send().unwrap_err();
    assert!(matches!(closed, ClientWriteError::Closed(_)));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_may_await_and_nothing_is_applied_meanwhile() {
    let (_network, nodes) = start(3, Config::default()).await;
    let node = leader(&nodes).await;
    node.client_write("before".to_owned()).await.unwrap();
    let (arrived, arrival) = oneshot::channel();
    let (go_on, may_go) = oneshot::channel::<()>();
    let visit = node.with_state_machine(ReadPolicy::ReadIndex, async move |ledger: &Ledger| {
        arrived.send(ledger.commands()).unwrap();
        may_go.await.unwrap();
        ledger.commands()
    });
    let visitor = async {
        assert_eq!(arrival.await.unwrap(), ["before"]);
        let mut write = node.write("meanwhile".to_owned()).submit().unwrap();
        write.committed().await.unwrap();
        go_on.send(()).unwrap();
        write.applied().await.unwrap();
    };
    let (seen, ()) = tokio::join!(visit, visitor);
    assert_eq!(seen.unwrap(), ["before"]);
    node.shutdown().await;
    let closed = node.with_state_machine(ReadPolicy::Stale, async |_: &Ledger| ()).await;
    assert!(matches!(closed, Err(quorate::ReadError::Closed(_))));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_keeps_its_order_whoever_takes_it() {
    let (_network, nodes) = start(3, Config::default()).await;
    let mut expected = Vec::new();
    for node in &nodes {
        // Some calls to the leader, each of a mebibyte at most.
        let batch: Vec<String> =
            (0..3000).map(|number| format!("{}-{number}-{}", node.node_id(), "x".repeat(1000))).collect();
        let written = node.client_write_many(batch.clone()).await;
        expected.extend(batch);
        assert_eq!(written.len(), 3000);
        let log_ids: Vec<_> = written.into_iter().map(|written| written.unwrap().log_id).collect();
        assert!(log_ids.is_sorted_by(|a, b| a.index < b.index));
    }
    assert!(commands(&nodes[0]).await == expected, "in the order in which they were handed over");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_that_is_too_large_is_told_so_also_on_a_closed_node() {
    let config = Config { max_command_bytes: 100, ..Config::default() };
    let (_network, nodes) = start(1, config).await;
    let leader_id = nodes[0].client_write("first".to_owned()).await.unwrap().log_id.leader_id;
    let large = || "y".repeat(200);
    let batch = || vec!["fine".to_owned(), large(), "fine".to_owned(), large(), large(), "fine".to_owned()];
    let too_large = |outcome: &_| matches!(outcome, Err(ClientWriteError::TooLarge { limit: 100, .. }));
    let open = nodes[0].write_many(batch()).with_leader(leader_id).await;
    assert!(open.iter().enumerate().all(|(at, outcome)| match at {
        1 | 3 | 4 => too_large(outcome),
        _ => outcome.is_ok(),
    }));
    nodes[0].shutdown().await;
    let closed = nodes[0].write_many(batch()).with_leader(leader_id).await;
    assert!(
        closed.iter().enumerate().all(|(at, outcome)| match at {
            1 | 3 | 4 => too_large(outcome),
            _ => matches!(outcome, Err(ClientWriteError::Closed(_))),
        }),
        "{closed:?}"
    );
    assert_eq!(closed.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_at_its_deadline() {
    // Nothing else ends them, and no leader steps aside meanwhile.
    let config = Config {
        election_timeout_min: PATIENCE * 2,
        election_timeout_max: PATIENCE * 3,
        write_timeout: PATIENCE * 10,
        ..Config::default()
    };
    let (network, nodes) = start(3, config).await;
    let leading = leader(&nodes).await;
    let other = nodes.iter().find(|node| node.node_id() != leading.node_id()).unwrap();
    let batch = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    network.isolate(leading.node_id());
    let soon = Duration::from_millis(50);
    let here = leading.write_many(batch()).deadline(soon).await;
    assert!(here.iter().all(|outcome| outcome == &Err(ClientWriteError::OutcomeUnknown)), "{here:?}");
    let there = other.write_many(batch()).deadline(soon).await;
    let refused = |outcome: &Result<_, ClientWriteError>| matches!(outcome, Err(ClientWriteError::NoLeader { .. }));
    assert!(there.iter().all(refused), "{there:?}");
    network.heal();
    let after = other.write_many(vec!["d".to_owned()]).deadline(PATIENCE).await;
    assert!(after[0].is_ok(), "{after:?}");
    for node in nodes {
        node.shutdown_with(Drain { transfer: quorate::Toggle::Off, ..Default::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_duration_is_no_limit() {
    let (_network, nodes) = start(3, Config::default()).await;
    let leading = leader(&nodes).await;
    for node in &nodes {
        node.write("a".to_owned()).deadline(Duration::MAX).await.unwrap();
        let submitted = node.write("b".to_owned()).deadline(Duration::MAX).submit().unwrap();
        submitted.applied().await.unwrap();
        let many = node.write_many(vec!["c".to_owned(); 2]).deadline(Duration::MAX).await;
        assert!(many.iter().all(Result::is_ok), "{many:?}");
        node.wait(Duration::MAX).leader().await.unwrap();
        node.wait_for_recovery(Duration::MAX).await.unwrap();
        node.trigger().within(Duration::MAX).snapshot().await.unwrap();
        node.trigger().within(Duration::MAX).purge_log(1).await.unwrap();
    }
    leading.trigger().within(Duration::MAX).heartbeat().await.unwrap();
    let endless = SessionOptions { time_to_live: Duration::MAX, ..SessionOptions::default() };
    let session = nodes[0].open_session(endless).await.unwrap();
    session.write("d".to_owned()).await.unwrap();
    session.close().await.unwrap();
    let terms = ChangeTerms { patience: Duration::MAX, ..ChangeTerms::default() };
    let settings = ChangeMembers::SetSettings(Settings::default());
    leading.change_membership_with(settings, Retain::AsLearners, terms).await.unwrap();
    leading.trigger().within(Duration::MAX).transfer_leader(None).await.unwrap();
    for node in nodes {
        node.shutdown_with(Drain { deadline: Duration::MAX, ..Drain::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_has_the_deadline_that_its_caller_gave_it_also_beyond_the_nodes_own() {
    // No leader steps aside meanwhile.
    let config = Config {
        election_timeout_min: PATIENCE * 2,
        election_timeout_max: PATIENCE * 3,
        write_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let (network, nodes) = start(5, config).await;
    let leading = leader(&nodes).await;
    let others: Vec<_> = nodes.iter().filter(|node| node.node_id() != leading.node_id()).collect();
    let (last, late) = (leading.metrics().borrow().last_log_id.index, PATIENCE * 2);
    others[1..].iter().for_each(|cut| network.cut(leading.node_id(), cut.node_id()));
    let word = str::to_owned;
    let impatient = tokio::spawn(leading.client_write(word("z")));
    leading.wait(PATIENCE).log_index_at_least(last + 1).await.unwrap();
    let one = tokio::spawn(leading.write(word("a")).deadline(late).into_future());
    let many = tokio::spawn(leading.write_many(vec![word("b"), word("c")]).deadline(late).into_future());
    let there = tokio::spawn(others[0].write(word("d")).deadline(late).into_future());
    let many_there = tokio::spawn(others[0].write_many(vec![word("e")]).deadline(late).into_future());
    let (tell, told) = oneshot::channel();
    leading.write(word("f")).deadline(late).send_then(|outcome| tell.send(outcome).unwrap()).unwrap();
    // All of them are in the log of a leader that cannot commit them, or in its queue.
    assert_eq!(impatient.await.unwrap(), Err(ClientWriteError::OutcomeUnknown), "at `write_timeout`");
    assert!(leading.client_write(word("g")).await.is_err(), "at `write_timeout` after that");
    let ended = [one.is_finished(), many.is_finished(), there.is_finished(), many_there.is_finished()];
    assert_eq!(ended, [false; 4], "they were given more time");
    network.heal();
    assert!(one.await.unwrap().is_ok());
    assert!(many.await.unwrap().iter().all(Result::is_ok));
    assert!(there.await.unwrap().is_ok());
    assert!(many_there.await.unwrap().iter().all(Result::is_ok));
    assert!(told.await.unwrap().is_ok());
    for node in nodes {
        node.shutdown_with(Drain { transfer: quorate::Toggle::Off, ..Default::default() }).await;
    }
}

/// Answers with so many bytes.
struct Long;

impl RaftStateMachine for Long {
    type Command = u64;
    type Response = Raw;

    fn apply(&mut self, bytes: u64) -> Raw {
        Raw(vec![7; bytes as usize].into())
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_forwarded_a_write_is_told_that_its_response_is_too_large_to_be_handed_on() {
    const LARGEST: u64 = 64 << 20;
    let (network, mut nodes) = (MemoryNetwork::new(), Vec::new());
    for id in 1..=3 {
        nodes.push(Raft::builder(id).peer_ids(1..=3).in_memory(&network).start(Long).await.unwrap());
    }
    for node in &nodes {
        node.wait(PATIENCE).applied_index_at_least(2).await.unwrap();
    }
    let leading = nodes[0].wait(PATIENCE).leader().await.unwrap();
    for node in &nodes {
        let fits = node.client_write(LARGEST).await.unwrap();
        assert_eq!(fits.response.0.len() as u64, LARGEST);
        let too_large = node.client_write(LARGEST + 1).await;
        if node.node_id() == leading {
            assert_eq!(too_large.unwrap().response.0.len() as u64, LARGEST + 1, "it goes nowhere");
            continue;
        }
        let Err(ClientWriteError::Response { log_id, .. }) = too_large else { panic!("another outcome") };
        assert_eq!(log_id.index, fits.log_id.index + 1, "it was applied");
        let many = node.client_write_many(vec![LARGEST + 1, 1]).await;
        assert!(matches!(&many[..], [Err(ClientWriteError::Response { .. }), Ok(_)]), "another outcome");
    }
    for node in nodes {
        node.shutdown().await;
    }
}

/// Is at work for a while with each command, and does not say that others should not wait for it.
struct Slow;

impl RaftStateMachine for Slow {
    type Command = ();
    type Response = ();

    fn apply(&mut self, (): ()) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
    }

    fn snapshot(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }

    fn applies_inline(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_caller_alone_whose_applies_are_slow_keeps_no_other_task_of_its_thread_waiting() {
    let raft = Raft::builder(1).peer_ids([1]).in_memory(&MemoryNetwork::new()).start(Slow).await.unwrap();
    raft.wait(PATIENCE).leader().await.unwrap();
    let turns = Arc::new(AtomicU64::new(0));
    let had = Arc::clone(&turns);
    let other = tokio::spawn(poll_fn(move |context| {
        had.fetch_add(1, Ordering::Relaxed);
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    for number in 0..50 {
        let before = turns.load(Ordering::Relaxed);
        raft.client_write(()).await.unwrap();
        assert!(turns.load(Ordering::Relaxed) > before, "no other task had its turn around write {number}");
    }
    other.abort();
    raft.shutdown().await;
}

/// Applies inline what does not begin with "slow", and answers on which thread.
struct Threads(Vec<String>);

impl RaftStateMachine for Threads {
    type Command = String;
    type Response = String;

    fn apply(&mut self, command: String) -> String {
        self.0.push(command);
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Vec::read_from(input).map(Threads)
    }

    fn applies_inline(&self) -> bool {
        true
    }

    fn slow_commands(&self) -> Option<fn(&[u8]) -> bool> {
        Some(|command| {
            let text = String::decode(Bytes::copy_from_slice(command)).unwrap();
            assert_ne!(text, "worst", "a command that cannot be looked at is slow");
            text.starts_with("slow")
        })
    }
}

#[test]
fn slow_commands_of_a_machine_that_applies_inline_are_applied_apart_in_their_order() {
    // One thread, the test's; those that may block have the runtime's name.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("apart").build().unwrap();
    let here = std::thread::current().name().unwrap().to_owned();
    runtime.block_on(async {
        let raft =
            Raft::builder(1).peer_ids([1]).in_memory(&MemoryNetwork::new()).start(Threads(Vec::new())).await.unwrap();
        raft.wait(PATIENCE).leader().await.unwrap();
        // Behind a slow one, the thread that applied it may still be at work, and apply the next, too.
        let either = "";
        for (command, thread) in [("a", &*here), ("slow b", "apart"), ("c", either), ("worst", "apart"), ("d", either)]
        {
            let written = raft.client_write(command.to_owned()).await.unwrap();
            assert!(thread == either || written.response == thread, "{command} by {}", written.response);
        }
        // At once: whatever comes while the slow one is applied follows it.
        let commands: Vec<String> = (0..50).map(|n| format!("{}{n}", if n % 7 == 0 { "slow" } else { "" })).collect();
        let writes: Vec<_> = commands
            .iter()
            .map(|command| {
                let (raft, command) = (raft.clone(), command.clone());
                tokio::spawn(async move { raft.client_write(command).await.unwrap().log_id.index })
            })
            .collect();
        let mut placed = Vec::new();
        for (write, command) in writes.into_iter().zip(&commands) {
            placed.push((write.await.unwrap(), command.clone()));
        }
        placed.sort_unstable();
        let session = raft.open_session(SessionOptions::default()).await.unwrap();
        assert_eq!(session.write("slow of a session".to_owned()).await.unwrap().response, "apart");
        let applied = raft.read(ReadPolicy::ReadIndex, |machine| machine.0.clone()).await.unwrap();
        let expected = ["a", "slow b", "c", "worst", "d"].map(str::to_owned).into_iter();
        let expected: Vec<String> = expected
            .chain(placed.into_iter().map(|(_, command)| command))
            .chain(["slow of a session".to_owned()])
            .collect();
        assert_eq!(applied, expected);
        raft.shutdown().await;
    });
}
