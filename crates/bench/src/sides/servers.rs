//! Clusters of three server processes on loopback: `quorate serve`, and etcd. Both take the same flags, and the same
//! client speaks to both.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use prost::Message;
use quorate_server::cli::{self, Cli};
use quorate_server::proto::{
    KvClient, MaintenanceClient, PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest,
};
use tonic::transport::{Channel, Endpoint};

use crate::args::Options;
use crate::measure::Client;
use crate::sides::light::{Connection, framed};
use crate::sides::ports;
use crate::sides::processes::{ended_with_us, own_program};

/// The first argument of this binary when it is to be a node.
pub(crate) const NODE: &str = "node-of-a-row";
/// How long a cluster may take to commit its first write.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most connections of the clients: calls share them, as they do in etcd's own benchmark.
const CONNECTIONS: usize = 16;
/// Bytes of a value.
const VALUE: usize = 256;

/// Runs a node: `words` are [`NODE`] and the flags of `quorate serve`.
pub(crate) fn serve(words: Vec<String>) -> ExitCode {
    let begun = Instant::now();
    let words = ["quorate", "serve"].into_iter().map(str::to_owned).chain(words.into_iter().skip(1));
    match Cli::try_parse_from(words) {
        Ok(cli) => cli::run(cli, begun),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whose servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Quorate,
    Etcd,
}

impl Kind {
    fn program(self, options: &Options) -> (PathBuf, Vec<String>) {
        match self {
            Kind::Quorate => (own_program(), vec![NODE.to_owned()]),
            Kind::Etcd => (options.etcd.clone(), vec!["--initial-cluster-state=new".to_owned()]),
        }
    }
}

/// The version of the opponent's binary, or why there is none.
pub(crate) fn etcd_version(options: &Options) -> Result<String, String> {
    let said = Command::new(&options.etcd).arg("--version").output().map_err(|error| {
        format!("{}: {error}; crates/bench/etcd installs it, --etcd names another", options.etcd.display())
    })?;
    let text = String::from_utf8_lossy(&said.stdout);
    let version = text.lines().next().and_then(|line| line.split(':').nth(1)).unwrap_or("of an unknown version");
    Ok(format!("etcd {}", version.trim()))
}

/// Three processes; killed, and their files removed, when dropped.
pub(crate) struct Servers {
    processes: Vec<Child>,
    urls: Vec<String>,
    dir: PathBuf,
}

impl Servers {
    /// Starts them with these further flags, and waits until each takes a write.
    pub(crate) async fn start(kind: Kind, options: &Options, flags: &[String]) -> Result<Self, String> {
        let ports = ports::free(6);
        let dir = options.dir.join(format!("{kind:?}-{}-{}", std::process::id(), ports[0]));
        fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..3).map(|at| format!("n{at}={}", url(ports[2 * at + 1]))).collect();
        let (program, first) = kind.program(options);
        let mut servers = Self { processes: Vec::new(), urls: Vec::new(), dir: dir.clone() };
        for at in 0..3 {
            let (client, peer) = (url(ports[2 * at]), url(ports[2 * at + 1]));
            let mut arguments = first.clone();
            arguments.extend([
                format!("--name=n{at}"),
                format!("--data-dir={}", dir.join(format!("n{at}")).display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-token=bench".to_owned(),
            ]);
            arguments.extend_from_slice(flags);
            servers.processes.push(spawn(&program, &arguments, &dir.join(format!("n{at}.log")))?);
            servers.urls.push(client);
        }
        servers.ready().await?;
        Ok(servers)
    }

    async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for at in 0..self.urls.len() {
            let client = self.client(at)?;
            while let Err(problem) = client.put().await {
                if let Ok(Some(status)) = self.processes[at].try_wait() {
                    return Err(format!("a node ended at once, {status}: {}", self.last_words(at)));
                }
                if Instant::now() > deadline {
                    return Err(format!("no write within {PATIENCE:?}: {problem}; {}", self.last_words(at)));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    fn last_words(&self, at: usize) -> String {
        let text = fs::read_to_string(self.dir.join(format!("n{at}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// Process ids, for their processor time.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }

    /// A client of a node, as programs have it.
    pub(crate) fn client(&self, at: usize) -> Result<Grpc, String> {
        Ok(Grpc { kv: KvClient::new(self.channel(at)?) })
    }

    /// A client of a node that stands for so many, on as many connections, up to 16.
    pub(crate) async fn load(&self, at: usize, clients: usize, work: Work) -> Result<Load, String> {
        let path = match work {
            Work::Puts => "/etcdserverpb.KV/Put",
            Work::Reads => "/etcdserverpb.KV/Range",
        };
        let authority = self.urls[at].trim_start_matches("http://");
        let mut connections = Vec::new();
        for _ in 0..clients.clamp(1, CONNECTIONS) {
            connections.push(Connection::open(authority, path).await?);
        }
        let connection = connections[0].clone();
        Ok(Load { connections: connections.into(), connection, request: Bytes::new(), work }.numbered(0))
    }

    /// The node that leads, by its own word.
    pub(crate) async fn leader(&self) -> Result<usize, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for at in 0..self.urls.len() {
                let status = MaintenanceClient::new(self.channel(at)?).status(StatusRequest::default()).await;
                let Ok(status) = status.map(tonic::Response::into_inner) else { continue };
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(at);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("nobody led for {PATIENCE:?}"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, at: usize) -> Result<(), String> {
        self.processes[at].kill().map_err(|error| format!("cannot kill a node: {error}"))
    }

    fn channel(&self, at: usize) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(self.urls[at].clone()).map_err(|error| error.to_string())?;
        Ok(endpoint.tcp_nodelay(true).connect_lazy())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Fails only if it is gone.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Starts a node.
fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<Child, String> {
    let wrong = |error: std::io::Error| format!("cannot start {}: {error}", program.display());
    let output = OpenOptions::new().create(true).append(true).open(log).map_err(wrong)?;
    let mut command = ended_with_us(program);
    // etcd on a processor that it does not know asks for this.
    command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
    command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone().map_err(wrong)?).stderr(output);
    command.spawn().map_err(wrong)
}

/// Puts 256 bytes under one key, by tonic's client.
#[derive(Clone)]
pub(crate) struct Grpc {
    kv: KvClient,
}

impl Grpc {
    /// Writes once.
    pub(crate) async fn put(&self) -> Result<(), String> {
        let written = self.kv.clone().put(put_request(0)).await;
        written.map(drop).map_err(|status| format!("a put was refused: {status}"))
    }
}

/// What a [`Load`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Of 256 bytes under a key of each client's own.
    Puts,
    /// Of those keys, which were put before.
    Reads,
}

/// Puts or reads, by a client that leaves the machine to the servers.
#[derive(Clone)]
pub(crate) struct Load {
    connections: Arc<[Connection]>,
    connection: Connection,
    request: Bytes,
    work: Work,
}

impl Client for Load {
    fn numbered(&self, number: usize) -> Self {
        let request = match self.work {
            Work::Puts => framed(&put_request(number)),
            Work::Reads => framed(&RangeRequest { key: key(number), ..RangeRequest::default() }),
        };
        let connection = self.connections[number % self.connections.len()].clone();
        Self { connection, request, ..self.clone() }
    }

    async fn call(&self) -> Result<u64, String> {
        let answer = self.connection.call(&self.request).await?;
        match self.work {
            Work::Puts => {
                let put = PutResponse::decode(answer.as_slice()).map_err(|error| format!("a put's answer: {error}"))?;
                put.header.ok_or("a put's answer says nothing")?;
            }
            Work::Reads => {
                let read =
                    RangeResponse::decode(answer.as_slice()).map_err(|error| format!("a read's answer: {error}"))?;
                if read.kvs.first().is_none_or(|found| found.value.len() != VALUE) {
                    return Err("a read did not find what was put".to_owned());
                }
            }
        }
        Ok(1)
    }
}

fn put_request(number: usize) -> PutRequest {
    PutRequest { key: key(number), value: Bytes::from(vec![b'v'; VALUE]), ..PutRequest::default() }
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number:06}"))
}
