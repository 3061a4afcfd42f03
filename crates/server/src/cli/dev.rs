//! `quorate dev`: a durable cluster on this machine, in one process.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use quorate::{ClosedReason, OnLostLog, StartError};
use tokio::task::JoinSet;

use super::Failure;
use super::dev_layout::Layout;
use super::signal::Stop;
use crate::node::{Node, NodeError, NodeOptions};
use crate::topology::node_id;

/// A cluster on one machine is up in well under a second; after this something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other nodes may take after the first.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// Flags of `quorate dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// How many nodes [default: 3, or as many as the directory holds].
    #[arg(long)]
    pub nodes: Option<u16>,
    /// Where the nodes keep their data; a cluster that is there comes back.
    #[arg(long, default_value = "data/dev")]
    pub data_dir: PathBuf,
    /// The first client port: nodes listen for clients on it and every other port after it, and for each other on
    /// those between [default: 2379, then 22379, 32379, ..., and one above each].
    #[arg(long)]
    pub client_port_base: Option<u16>,
}

/// Runs until it is told to stop.
pub(super) async fn run(args: DevArgs, begun: Instant) -> Result<(), Failure> {
    let layout = layout(&args)?;
    let mut stop = Stop::listen()?;
    let mut nodes = start(&layout, &args.data_dir).await?;

    let first_write = tokio::select! {
        biased;
        () = stop.requested() => None,
        written = tokio::time::timeout(PATIENCE, ready(&nodes, begun)) => Some(written.ok()),
    };
    match first_write {
        Some(Some(elapsed)) => print_ready(&layout, &args.data_dir, &nodes, elapsed),
        Some(None) => {
            let endpoints = endpoints(&layout);
            shutdown(nodes).await;
            return Err(Failure::new(format!(
                "the cluster at {endpoints} has no leader after {} s; run with RUST_LOG=info to see why",
                PATIENCE.as_secs()
            )));
        }
        None => {}
    }
    if first_write.is_some() {
        watch(&mut nodes, &mut stop).await?;
    }
    println!("\nstopping; the data stays in {}", args.data_dir.display());
    tokio::select! {
        () = shutdown(nodes) => Ok(()),
        () = stop.requested() => Err(Failure::new("stopped at once, as told twice; the data is safe")),
    }
}

/// What is to run: what the directory holds, if the flags do not contradict it.
fn layout(args: &DevArgs) -> Result<Layout, Failure> {
    let dir = args.data_dir.display();
    let Some(there) = Layout::load(&args.data_dir)? else {
        let layout = Layout::new(args.nodes.unwrap_or(3), args.client_port_base)?;
        check_ports(&layout)?; // before the directory remembers them
        layout.save(&args.data_dir)?;
        return Ok(layout);
    };
    let nodes = args.nodes.unwrap_or(there.nodes());
    if nodes != there.nodes() {
        return Err(Failure::new(format!(
            "--nodes: {dir} holds a cluster of {}, not of {nodes}: leave the flag out, or choose another directory with --data-dir",
            there.nodes()
        )));
    }
    if args.client_port_base.is_some() && Layout::new(nodes, args.client_port_base)? != there {
        return Err(Failure::new(format!(
            "--client-port-base: the cluster in {dir} was made with client port {}: leave the flag out, or choose another directory with --data-dir",
            there.client(0).port
        )));
    }
    Ok(there)
}

fn check_ports(layout: &Layout) -> Result<(), Failure> {
    for at in 0..layout.nodes() {
        for (address, whom) in [(layout.client(at), "clients"), (layout.peer(at), "peers")] {
            if let Err(error) = TcpListener::bind(address.to_string()) {
                return Err(Failure::new(format!(
                    "node {}: cannot listen for {whom} on {address}: {error}\n{}stop what listens there, or choose other ports with --client-port-base",
                    Layout::name(at),
                    in_use(error.kind()),
                )));
            }
        }
    }
    Ok(())
}

fn in_use(kind: io::ErrorKind) -> &'static str {
    if kind == io::ErrorKind::AddrInUse { "is another quorate dev or etcd running? " } else { "" }
}

async fn start(layout: &Layout, data_dir: &Path) -> Result<Vec<Node>, Failure> {
    let token = "dev";
    let id = |at: u16| node_id(token, &Layout::name(at));
    let peers: Vec<(u64, String)> = (0..layout.nodes()).map(|at| (id(at), layout.peer(at).to_string())).collect();
    let mut starting = JoinSet::new();
    for at in 0..layout.nodes() {
        let name = Layout::name(at);
        let options = NodeOptions {
            id: id(at),
            data_dir: data_dir.join(&name),
            name,
            listen_clients: vec![layout.client(at)],
            listen_metrics: Vec::new(),
            client_urls: vec![layout.client(at).url()],
            listen_peers: layout.peer(at),
            peers: peers.clone(),
            on_lost_log: OnLostLog::Halt,
        };
        starting.spawn(async move { Node::start(options.clone()).await.map_err(|error| explain(&error, &options)) });
    }
    let mut nodes = Vec::new();
    let mut failure = None;
    while let Some(started) = starting.join_next().await {
        match started {
            Ok(Ok(node)) => nodes.push(node),
            Ok(Err(error)) => failure = failure.or(Some(error)),
            Err(error) => failure = failure.or(Some(Failure::new(format!("a node did not start: {error}")))),
        }
    }
    if let Some(failure) = failure {
        shutdown(nodes).await;
        return Err(failure);
    }
    nodes.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(nodes)
}

/// Waits until a write is committed, and a little longer for every node to have one: then all know the leader.
/// Returns when the first was, counted from `begun`.
async fn ready(nodes: &[Node], begun: Instant) -> Duration {
    let mut waiting = JoinSet::new();
    for node in nodes {
        waiting.spawn(node.ready());
    }
    while let Some(ready) = waiting.join_next().await {
        if matches!(ready, Ok(true)) {
            let elapsed = begun.elapsed();
            let others = async { while waiting.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(STRAGGLERS, others).await; // the cluster works without them
            return elapsed;
        }
    }
    std::future::pending().await // every node closed: the caller's patience ends it
}

/// Watches over the nodes until told to stop. A node that fails does not stop the others: that is what they are for.
async fn watch(nodes: &mut [Node], stop: &mut Stop) -> Result<(), Failure> {
    let mut closing = JoinSet::new();
    for node in nodes.iter() {
        let (name, raft) = (node.name().to_owned(), node.raft().clone());
        closing.spawn(async move { (name, raft.closed().await) });
    }
    loop {
        let closed = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            closed = closing.join_next() => closed,
        };
        match closed {
            Some(Ok((name, reason))) if reason != ClosedReason::Shutdown => {
                eprintln!("quorate: node {name} stopped because {reason}; the others go on");
            }
            Some(_) => {}
            None => return Err(Failure::new("every node has stopped, see above")),
        }
    }
}

async fn shutdown(nodes: Vec<Node>) {
    let mut stopping = JoinSet::new();
    for node in nodes {
        stopping.spawn(node.shutdown());
    }
    while stopping.join_next().await.is_some() {}
}

fn endpoints(layout: &Layout) -> String {
    let all: Vec<String> = (0..layout.nodes()).map(|at| layout.client(at).to_string()).collect();
    all.join(",")
}

fn print_ready(layout: &Layout, data_dir: &Path, nodes: &[Node], elapsed: Duration) {
    let leader = nodes.iter().find_map(|node| node.raft().current_leader());
    println!("quorate {}: a durable cluster in {}\n", env!("CARGO_PKG_VERSION"), data_dir.display());
    for (at, node) in (0..layout.nodes()).zip(nodes) {
        let role = if Some(node.raft().node_id()) == leader { "  leader" } else { "" };
        println!("  {}  {}{role}", node.name(), layout.client(at).url());
    }
    let endpoints = endpoints(layout);
    println!("\nready: first write committed {} ms after the start\n", elapsed.as_millis());
    println!("try:   ETCDCTL_API=3 etcdctl --endpoints={endpoints} put a 1");
    println!("       quorate status --endpoints={endpoints}");
    println!("       curl {}/metrics", layout.client(0).url());
    println!("stop:  Ctrl-C; the data stays, and comes back with the same command");
}

/// Says in terms of flags why a node did not start.
fn explain(error: &NodeError, options: &NodeOptions) -> Failure {
    let ports = "stop what listens there, or choose other ports with --client-port-base and a new --data-dir";
    let hint = match error {
        NodeError::ListenClients { error, .. } => format!("{}{ports}", in_use(error.kind())),
        NodeError::Start(StartError::Network(error)) => {
            format!("cannot listen for peers on {}: {}{ports}", options.listen_peers, in_use(error.kind()))
        }
        NodeError::Start(StartError::Storage(_)) => {
            format!("{} cannot be used; choose another directory with --data-dir", options.data_dir.display())
        }
        NodeError::Start(_) => return Failure::new(format!("node {}: {error}", options.name)),
    };
    Failure::new(format!("node {}: {error}\n{hint}", options.name))
}
