//! Writes and reads through the public API: the driver, the queues, the applies and the callers' futures.

use std::error::Error;
use std::future::Future;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::Duration;

use quorate::{LeasePolicy, MemoryNetwork, Raft, RaftStateMachine, Raw, ReadPolicy, Settings};
use tokio::runtime::{Builder, Runtime};

use crate::measured;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WARM_UP: u64 = 3_000;

/// Counts what it applies and answers nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Machine {
    applied: u64,
}

impl RaftStateMachine for Machine {
    type Command = Raw;
    type Response = Raw;

    fn apply(&mut self, _command: Raw) -> Raw {
        self.applied += 1;
        Raw::default()
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.applied.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut applied = [0; 8];
        input.read_exact(&mut applied)?;
        Ok(Self { applied: u64::from_le_bytes(applied) })
    }

    fn applies_inline(&self) -> bool {
        true
    }
}

pub(super) fn one_client() -> Result<u64, Box<dyn Error>> {
    puts(1, 3_000)
}

pub(super) fn many_clients() -> Result<u64, Box<dyn Error>> {
    puts(64, 150)
}

pub(super) fn in_batches() -> Result<u64, Box<dyn Error>> {
    const BATCH: u64 = 64;
    const BATCHES: u64 = 150;
    with_leader(LeasePolicy::default(), |runtime, leader| {
        run(runtime, load_batches(leader, BATCH, WARM_UP.div_ceil(BATCH)))?;
        measured(|| run(runtime, load_batches(leader, BATCH, BATCHES)))
    })?;
    Ok(BATCH * BATCHES)
}

pub(super) fn lease_reads() -> Result<u64, Box<dyn Error>> {
    const READS: u64 = 5_000;
    with_leader(LeasePolicy::LeaseReads, |runtime, leader| {
        // The first ones wait for the lease.
        run(runtime, load(leader, 1, 100))?;
        run(runtime, load_reads(leader, 100))?;
        measured(|| run(runtime, load_reads(leader, READS)))
    })?;
    Ok(READS)
}

/// So many puts by each of so many clients, after a warm-up by the same.
fn puts(clients: u64, each: u64) -> Result<u64, Box<dyn Error>> {
    with_leader(LeasePolicy::default(), |runtime, leader| {
        run(runtime, load(leader, clients, WARM_UP.div_ceil(clients)))?;
        measured(|| run(runtime, load(leader, clients, each)))
    })?;
    Ok(clients * each)
}

/// Does something with the leader of a cluster.
fn with_leader(
    lease: LeasePolicy,
    work: impl FnOnce(&Runtime, &Raft<Machine>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let network = MemoryNetwork::fused();
    let (nodes, leader) = run(&runtime, start(&network, lease))?;
    work(&runtime, &leader)?;
    runtime.block_on(async {
        for node in &nodes {
            node.shutdown().await;
        }
    });
    Ok(())
}

fn run<T>(runtime: &Runtime, work: impl Future<Output = Outcome<T>>) -> Result<T, Box<dyn Error>> {
    runtime.block_on(work).map_err(|error| -> Box<dyn Error> { error })
}

/// Three nodes, and the one that leads.
async fn start(network: &MemoryNetwork, lease: LeasePolicy) -> Outcome<(Vec<Raft<Machine>>, Raft<Machine>)> {
    let peers: Vec<(u64, String)> = (1..=3).map(|id| (id, format!("node {id}"))).collect();
    let mut starting = Vec::new();
    for (id, _) in &peers {
        let builder =
            Raft::<Machine>::builder(*id).peers(peers.clone()).settings(Settings { lease }).in_memory(network);
        starting.push(tokio::spawn(builder.start(Machine::default())));
    }
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await??);
    }
    let mut leader = nodes[0].node_id();
    for node in &nodes {
        leader = node.wait(Duration::from_secs(60)).leader().await?;
    }
    let place = nodes.iter().position(|node| node.node_id() == leader).ok_or("an unknown node leads")?;
    let leader = nodes[place].clone();
    Ok((nodes, leader))
}

async fn load_reads(leader: &Raft<Machine>, reads: u64) -> Outcome<()> {
    let leader = leader.clone();
    let client = async move {
        for _ in 0..reads {
            black_box(leader.read(ReadPolicy::LeaseRead, |machine| machine.applied).await?);
        }
        Outcome::Ok(())
    };
    tokio::spawn(client).await?
}

async fn load_batches(leader: &Raft<Machine>, batch: u64, batches: u64) -> Outcome<()> {
    let leader = leader.clone();
    let client = async move {
        for _ in 0..batches {
            let commands = (0..batch).map(|_| Raw::default()).collect();
            for written in leader.client_write_many(commands).await {
                written?;
            }
        }
        Outcome::Ok(())
    };
    tokio::spawn(client).await?
}

async fn load(leader: &Raft<Machine>, clients: u64, each: u64) -> Outcome<()> {
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let leader = leader.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    leader.client_write(Raw::default()).await?;
                }
                Outcome::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
