//! `quorate serve`: one node of a cluster.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use quorate::{ClosedReason, OnLostLog, StartError, StorageErrorKind};

use super::Failure;
use super::signal::Stop;
use crate::node::{Node, NodeError, NodeOptions};
use crate::topology::{Address, Members, node_id};

/// After this without a committed write, say what it is waiting for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `quorate serve`; their names are etcd's.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// This member's name, one of those in --initial-cluster.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Where this member keeps its log and snapshots [default: data/NAME].
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where to listen for clients; several are separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub listen_client_urls: Vec<String>,
    /// Where to listen besides for /metrics, /livez, /readyz and /health only; the client addresses serve them, too.
    #[arg(long, value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,
    /// Where clients are told to reach this member [default: --listen-client-urls].
    #[arg(long, value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// Where to listen for the other members.
    #[arg(long, default_value = "http://127.0.0.1:2380")]
    pub listen_peer_urls: String,
    /// Where the other members reach this one [default: --listen-peer-urls].
    #[arg(long)]
    pub initial_advertise_peer_urls: Option<String>,
    /// The first members: name=http://host:port, separated by commas [default: this one alone].
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// A word that differs between clusters, so that their members never mix. Never change it: it is part of
    /// every member's id.
    #[arg(long, default_value = "quorate-cluster")]
    pub initial_cluster_token: String,
    /// What to do if the cluster knows this member as a voter, but its data directory is blank: stop, or follow as a
    /// learner until it is made a voter again.
    #[arg(long, value_enum, default_value = "halt")]
    pub on_lost_log: LostLog,
}

/// Values of --on-lost-log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LostLog {
    /// Stop, and say so.
    Halt,
    /// Follow as a learner.
    Rejoin,
}

impl ServeArgs {
    /// Makes sense of the flags.
    ///
    /// # Errors
    /// Names the flag that is wrong and what to write instead.
    pub fn options(self) -> Result<NodeOptions, Failure> {
        let wrong = |flag: &str, what: &dyn std::fmt::Display| Failure::new(format!("--{flag}: {what}"));
        if self.name.is_empty() {
            return Err(wrong("name", &"it is empty: give this member a name"));
        }
        let listen_clients = parse_all("listen-client-urls", &self.listen_client_urls)?;
        let advertised = if self.advertise_client_urls.is_empty() {
            listen_clients.clone()
        } else {
            parse_all("advertise-client-urls", &self.advertise_client_urls)?
        };
        let listen_peers = single("listen-peer-urls", &self.listen_peer_urls)?;
        let advertise_peers = match &self.initial_advertise_peer_urls {
            Some(url) => single("initial-advertise-peer-urls", url)?,
            None => listen_peers.clone(),
        };
        let members = match &self.initial_cluster {
            Some(text) => Members::parse(text).map_err(|error| wrong("initial-cluster", &error))?,
            None => Members::single(&self.name, advertise_peers.clone()),
        };
        match members.address(&self.name) {
            None => {
                let known = members.names().join(", ");
                let what = format!("it does not name this member, \"{}\", only {known}; see --name", self.name);
                return Err(wrong("initial-cluster", &what));
            }
            Some(address) if *address != advertise_peers => {
                let what = format!(
                    "it has {address} for \"{}\", but --initial-advertise-peer-urls says {advertise_peers}",
                    self.name
                );
                return Err(wrong("initial-cluster", &what));
            }
            Some(_) => {}
        }
        let token = &self.initial_cluster_token;
        let peers = members.peers(token).map_err(|error| wrong("initial-cluster", &error))?;
        Ok(NodeOptions {
            id: node_id(token, &self.name),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("data").join(&self.name)),
            name: self.name,
            listen_clients,
            listen_metrics: parse_all("listen-metrics-urls", &self.listen_metrics_urls)?,
            client_urls: advertised.iter().map(Address::url).collect(),
            listen_peers,
            peers,
            on_lost_log: match self.on_lost_log {
                LostLog::Halt => OnLostLog::Halt,
                LostLog::Rejoin => OnLostLog::Rejoin,
            },
        })
    }
}

fn parse_all(flag: &str, urls: &[String]) -> Result<Vec<Address>, Failure> {
    let parse =
        |url: &String| Address::parse_url(url.trim()).map_err(|error| Failure::new(format!("--{flag}: {error}")));
    urls.iter().map(parse).collect()
}

fn single(flag: &str, url: &str) -> Result<Address, Failure> {
    if url.contains(',') {
        return Err(Failure::new(format!("--{flag}: \"{url}\" has several addresses: one is supported")));
    }
    Address::parse_url(url).map_err(|error| Failure::new(format!("--{flag}: {error}")))
}

/// Runs until it is told to stop.
pub(super) async fn run(args: ServeArgs, begun: Instant) -> Result<(), Failure> {
    let options = args.options()?;
    let mut stop = Stop::listen()?;
    let node = Node::start(options.clone()).await.map_err(|error| explain(&error, &options))?;
    println!(
        "quorate: member \"{}\" ({:016x}) serves clients at {}",
        options.name,
        options.id,
        options.client_urls.join(", ")
    );

    let watch = async {
        let mut ready = pin!(node.ready());
        let committed = match tokio::time::timeout(PATIENCE, &mut ready).await {
            Ok(committed) => committed,
            Err(_) => {
                println!("quorate: still waiting for a quorum of {}", peers_text(&options));
                println!("quorate: see what is wrong: quorate status --endpoints={}", options.client_urls.join(","));
                ready.await
            }
        };
        if committed {
            println!("quorate: ready: first write committed {} ms after the start", begun.elapsed().as_millis());
        }
        std::future::pending::<()>().await;
    };
    let closed = tokio::select! {
        biased;
        () = stop.requested() => None,
        reason = node.closed() => Some(reason),
        () = watch => None,
    };
    match closed {
        None | Some(ClosedReason::Shutdown) => {
            println!("quorate: stopping");
            tokio::select! {
                () = node.shutdown() => Ok(()),
                () = stop.requested() => Err(Failure::new("stopped at once, as told twice; the data is safe")),
            }
        }
        Some(reason) => {
            node.shutdown().await;
            let hint = match reason {
                ClosedReason::LostLog { .. } => {
                    let dir = options.data_dir.display();
                    format!("\nis {dir} the right --data-dir? if its data is gone: --on-lost-log=rejoin")
                }
                _ => String::new(),
            };
            Err(Failure::new(format!("member \"{}\" stopped because {reason}{hint}", options.name)))
        }
    }
}

fn peers_text(options: &NodeOptions) -> String {
    let others = options.peers.iter().map(|(_, address)| address.as_str());
    format!("the members at {}", others.collect::<Vec<_>>().join(", "))
}

/// Says in terms of flags why a node did not start.
fn explain(error: &NodeError, options: &NodeOptions) -> Failure {
    let hint = match error {
        NodeError::ListenClients { .. } => {
            "stop what listens there, or choose another address with --listen-client-urls or --listen-metrics-urls"
                .to_owned()
        }
        NodeError::Start(StartError::Network(_)) => format!(
            "cannot listen for peers on {}: stop what listens there, or choose another address with --listen-peer-urls",
            options.listen_peers
        ),
        NodeError::Start(StartError::Storage(error)) => storage_hint(error.kind(), options),
        NodeError::Start(_) => return Failure::new(error.to_string()),
    };
    Failure::new(format!("{error}\n{hint}"))
}

fn storage_hint(kind: StorageErrorKind, options: &NodeOptions) -> String {
    let dir = options.data_dir.display();
    match kind {
        StorageErrorKind::Identity => format!(
            "{dir} is not this member's, \"{}\" with id {} ({:016x}), or another process uses it; check --data-dir, --name and --initial-cluster-token",
            options.name, options.id, options.id
        ),
        StorageErrorKind::Corrupt => {
            format!(
                "nothing was changed in {dir}; if a quorum of other members is well, move it away and replace this member"
            )
        }
        StorageErrorKind::Full => format!("free some space for {dir}, then start again"),
        _ => format!("check that {dir} can be written, see --data-dir"),
    }
}
