//! Three `quorate serve` processes under load and under fire, judged by what sixteen clients saw.
//!
//! Run by `./run`, one test after the other. No time is asserted but one overall deadline a test, and a limit of each wait,
//! far beyond what it takes: a test that cannot go on says for what it waits.

use std::time::{Duration, Instant};

use quorate_process_test::checker::{check, describe};
use quorate_process_test::cluster::{Build, Cluster, now_nanos};
use quorate_process_test::faults::{Fault, schedule};
use quorate_process_test::history::{Operation, Outcome};
use quorate_process_test::rng::Rng;
use quorate_process_test::wait::until;
use quorate_process_test::workload::{Workload, connect, state_of};
use rustix::process::Signal;

/// How many of each fault, in an order from the seed.
const FAULTS: [(Fault, usize); 4] =
    [(Fault::KillLeader, 5), (Fault::KillFollower, 5), (Fault::KillAll, 5), (Fault::Pause, 5)];

/// How long a paused process is paused: longer than leases and election timeouts, which is what the pause is for.
const PAUSED: Duration = Duration::from_secs(3);

/// Operations a second, at least, of which the overall deadline of a long run is made.
const LEAST_RATE: u64 = 200;

/// A killed node stays away until so many writes were acknowledged without it, which it then lacks.
const MISSED_WRITES: u64 = 200;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_stale_is_read() {
    under_fire("kill", Build::Plain, Duration::from_secs(240));
}

#[test]
fn the_same_holds_on_a_disk_that_loses_what_was_not_synced() {
    under_fire("lossy", Build::LossyDisk, Duration::from_secs(240));
}

/// The harness must be able to see a loss: a server that acknowledges before the sync must be caught.
#[test]
fn a_server_that_acknowledges_before_the_sync_is_caught() {
    const ROUNDS: u32 = 20;
    let seed = seed();
    within(Duration::from_secs(120), async |limit| {
        let mut cluster = Cluster::new("early", Build::AcknowledgesEarly, limit);
        start_all(&mut cluster);
        first_write(&mut cluster).await;
        let workload = Workload::new(cluster.endpoints());
        let mut history = Vec::new();
        let mut rng = Rng::new(seed);
        for round in 0..ROUNDS {
            let clients = workload.start(seed, round);
            under_load(&workload, &mut rng).await;
            cluster.kill(&[0, 1, 2]);
            history.extend(workload.finish(clients).await);
            start_all(&mut cluster);
            first_write(&mut cluster).await;
            workload.audit(&mut history).await;
            if let Err(violations) = check(&history) {
                println!("caught after {} kills of all three: {}", round + 1, describe(&history, &violations));
                return;
            }
        }
        panic!("{ROUNDS} kills of all three, and an acknowledgement before the sync was not caught; seed {seed}");
    });
}

fn under_fire(name: &str, build: Build, limit: Duration) {
    let seed = seed();
    let operations = asked_operations();
    let limit = limit + Duration::from_secs(operations / LEAST_RATE);
    println!(
        "seed {seed} (QUORATE_SEED repeats the order of the faults, QUORATE_OPERATIONS asks for so many operations)"
    );
    within(limit, async |limit| {
        let mut cluster = Cluster::new(name, build, limit);
        let began = Instant::now();
        start_all(&mut cluster);
        first_write(&mut cluster).await;
        println!("start of three processes to first committed write: {}", ms(began.elapsed()));
        print_resident_memory(&mut cluster).await;

        let mut rng = Rng::new(seed);
        let workload = Workload::new(cluster.endpoints());
        let began = Instant::now();
        let clients = workload.start(seed, 0);
        workload.next_acknowledged(0).await;
        let mut times = Vec::new();
        while times.is_empty() || workload.operations() < operations {
            for fault in schedule(&mut rng, &FAULTS) {
                under_load(&workload, &mut rng).await;
                let until_written = inflict(fault, &mut cluster, &workload, &mut rng).await;
                println!("{fault}: next acknowledged write after {}", ms(until_written));
                times.push((fault, until_written));
                all_answer(&mut cluster).await;
            }
        }
        under_load(&workload, &mut rng).await;
        let mut history = workload.finish(clients).await;
        let under_load_for = began.elapsed();
        cluster.check_alive();
        print_medians(&times);
        judge(&cluster, &workload, &mut history, under_load_for).await;
    });
}

/// Inflicts a fault and heals it; how long writes stood still.
async fn inflict(fault: Fault, cluster: &mut Cluster, workload: &Workload, rng: &mut Rng) -> Duration {
    let leader = leader(cluster).await;
    let victims = match fault {
        Fault::KillLeader => vec![leader],
        Fault::KillFollower => vec![(leader + 1 + rng.below(2)) % 3],
        Fault::KillAll => vec![0, 1, 2],
        Fault::Pause => vec![rng.below(3)],
    };
    let before = workload.now();
    if fault == Fault::Pause {
        let process = cluster.nodes[victims[0]].process();
        process.signal(Signal::STOP);
        let (stopped, began) = (workload.now(), Instant::now());
        let until_written = workload.next_acknowledged(stopped).await;
        // The fault itself: the process stands still for so long, whatever the others do.
        tokio::time::sleep(PAUSED.saturating_sub(began.elapsed())).await;
        cluster.nodes[victims[0]].process().signal(Signal::CONT);
        return until_written;
    }
    cluster.kill(&victims);
    let killed = workload.now();
    if fault == Fault::KillAll {
        start_all(cluster);
    }
    let until_written = workload.next_acknowledged(killed).await + Duration::from_nanos(killed - before);
    if fault != Fault::KillAll {
        workload.acknowledges(MISSED_WRITES).await;
        cluster.start(victims[0]);
    }
    until_written
}

async fn judge(cluster: &Cluster, workload: &Workload, history: &mut Vec<Operation>, under_load_for: Duration) {
    let operations = history.len();
    workload.audit(history).await;
    for (error, count) in workload.errors().iter().take(8) {
        println!("an error that clients met {count} times: {error}");
    }
    let summary = match check(history) {
        Ok(summary) => summary,
        Err(violations) => panic!("{}\n{}", describe(history, &violations), cluster.tails()),
    };
    println!(
        "{operations} operations in {under_load_for:.0?} and {} closing reads, no violation: {summary:?}",
        history.len() - operations
    );
    assert_eq!(summary.unaudited, 0, "an acknowledged write was not looked for");
    assert!(summary.written > 1000 && summary.read > 1000, "the load was no load: {summary:?}");

    let last = history.iter().filter_map(|operation| match operation.outcome {
        Outcome::Read(revision, _) => Some(revision),
        _ => None,
    });
    let last = last.max().expect("there were reads");
    let mut states = Vec::new();
    for endpoint in cluster.endpoints() {
        states.push(state_of(&endpoint, last).await);
    }
    assert!(states.iter().all(|state| *state == states[0]), "the nodes hold different states at revision {last}");
    println!("all three nodes hold the same {} keys at revision {last}", states[0].len());
}

fn print_medians(times: &[(Fault, Duration)]) {
    for (fault, _) in &FAULTS {
        let mut of_kind: Vec<Duration> = times.iter().filter(|(other, _)| other == fault).map(|(_, t)| *t).collect();
        of_kind.sort_unstable();
        let (median, most) = (of_kind[of_kind.len() / 2], of_kind[of_kind.len() - 1]);
        println!(
            "{fault}: {} times, next acknowledged write after {} (median), {} (most)",
            of_kind.len(),
            ms(median),
            ms(most)
        );
    }
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Runs a test on this thread, ended at the limit. The processes die with what started them.
fn within(limit: Duration, test: impl AsyncFnOnce(Duration)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, test(limit + Duration::from_secs(20))).await });
    assert!(outcome.is_ok(), "the overall deadline of {limit:?} has passed; the last line says where it stands");
}

fn seed() -> u64 {
    named_number("QUORATE_SEED").unwrap_or_else(|| now_nanos() % 1_000_000)
}

/// How long a run goes on, counted in operations; one order of faults is the least.
fn asked_operations() -> u64 {
    named_number("QUORATE_OPERATIONS").unwrap_or(0)
}

fn named_number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

fn start_all(cluster: &mut Cluster) {
    for node in 0..3 {
        cluster.start(node);
    }
}

/// Lets the clients write for a while that the seed decides, counted in writes; longer in a long run.
async fn under_load(workload: &Workload, rng: &mut Rng) {
    let longer = 1 + asked_operations() / 100_000;
    workload.acknowledges((200 + rng.below(400) as u64) * longer).await;
}

/// Writes until a write is acknowledged.
async fn first_write(cluster: &mut Cluster) {
    let endpoints = cluster.endpoints();
    let mut next = endpoints.iter().cycle();
    until("a first write is acknowledged", async || {
        cluster.check_alive();
        let mut client = connect(next.next()?).await.ok()?;
        client.put("first", "write", None).await.ok()
    })
    .await;
}

/// Which node leads, by what the nodes say.
async fn leader(cluster: &mut Cluster) -> usize {
    until("a node says that it leads", async || {
        cluster.check_alive();
        for (at, endpoint) in cluster.endpoints().iter().enumerate() {
            let asked = async { connect(endpoint).await?.status().await };
            if let Ok(status) = asked.await
                && status.header().is_some_and(|header| header.member_id() == status.leader())
            {
                return Some(at);
            }
        }
        None
    })
    .await
}

/// Waits until every node serves linearizable reads.
async fn all_answer(cluster: &mut Cluster) {
    for endpoint in cluster.endpoints() {
        until(&format!("the node at {endpoint} serves a read"), async || {
            cluster.check_alive();
            async { connect(&endpoint).await?.get("first", None).await }.await.ok()
        })
        .await;
    }
}

async fn print_resident_memory(cluster: &mut Cluster) {
    let resident = cluster.nodes.iter_mut().map(|node| node.process().resident_bytes().unwrap_or(0) as f64);
    let resident: Vec<String> = resident.map(|bytes| format!("{:.1}", bytes / (1 << 20) as f64)).collect();
    println!("resident memory of a node before the load: {} MiB", resident.join(", "));
}
