//! A durable key-value store over HTTP: three nodes, and any of them takes any request. `cargo run --release -p kv-http`
//!
//! It prints what to try with curl and serves until Ctrl-C. `cargo run --release -p kv-http -- 2` runs node 2 alone: three
//! terminals are a cluster of three processes. A node that does not lead forwards writes to the one that does, and asks
//! it how far a read must have been applied; the handlers below know nothing of leaders.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quorate::{ClientWriteError, Drain, Payload, Raft, RaftStateMachine, ReadError, ReadPolicy};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[derive(Serialize, Deserialize)]
enum Command {
    Put { key: String, value: String },
    Delete { key: String },
}

#[derive(Default, Serialize, Deserialize)]
struct Store(BTreeMap<String, String>);

impl RaftStateMachine for Store {
    type Command = Command;
    /// The value before.
    type Response = Option<String>;

    fn apply(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Put { key, value } => self.0.insert(key, value),
            Command::Delete { key } => self.0.remove(&key),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_to(out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        Self::read_from(input)
    }
}

/// What went wrong, as HTTP says it.
struct Failure(StatusCode, String);

impl From<ClientWriteError> for Failure {
    fn from(error: ClientWriteError) -> Self {
        let status = match &error {
            ClientWriteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // It may be written or not: who asked must look before it writes again.
            error if error.outcome_is_unknown() => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure(status, format!("{error}\n"))
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Failure(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn read(raft: Raft<Store>, key: String, policy: ReadPolicy) -> Result<String, Failure> {
    let found = raft.read(policy, move |store| store.0.get(&key).cloned()).await?;
    found.ok_or(Failure(StatusCode::NOT_FOUND, "no such key\n".into()))
}

/// What was written last, whoever wrote it.
async fn look(State(raft): State<Raft<Store>>, UrlPath(key): UrlPath<String>) -> Result<String, Failure> {
    read(raft, key, ReadPolicy::ReadIndex).await
}

/// What this node knows, also if it is cut off.
async fn look_here(State(raft): State<Raft<Store>>, UrlPath(key): UrlPath<String>) -> Result<String, Failure> {
    read(raft, key, ReadPolicy::Stale).await
}

async fn put(State(raft): State<Raft<Store>>, UrlPath(key): UrlPath<String>, value: String) -> Result<String, Failure> {
    let written = raft.client_write(Command::Put { key, value }).await?;
    Ok(format!("written at {}\n", written.log_id))
}

async fn delete(State(raft): State<Raft<Store>>, UrlPath(key): UrlPath<String>) -> Result<String, Failure> {
    let written = raft.client_write(Command::Delete { key }).await?;
    Ok(written.response.map_or("there was nothing\n".into(), |value| format!("removed {value}\n")))
}

async fn status(State(raft): State<Raft<Store>>) -> String {
    let now = raft.metrics().borrow().clone();
    let leader = now.current_leader.map_or("none".into(), |leader| leader.to_string());
    format!("node {}, {:?}, leader {leader}, applied {}\n", now.id, now.role, now.last_applied)
}

fn app(raft: Raft<Store>) -> Router {
    let keys = get(look).put(put).delete(delete);
    let app = Router::new().route("/keys/{key}", keys).route("/stale/{key}", get(look_here));
    app.route("/status", get(status)).with_state(raft)
}

/// Runs one node until `stop`: its Raft peers and its clients have ports of their own.
async fn serve(
    id: u64,
    peers: Vec<(u64, String)>,
    directory: &Path,
    clients: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let raft = Raft::builder(id).peers(peers).data_dir(directory.join(id.to_string())).start(Store::default()).await?;
    axum::serve(clients, app(raft.clone())).with_graceful_shutdown(stop).await?;
    raft.shutdown_with(Drain::default()).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let only = std::env::args().nth(1).map(|id| id.parse::<u64>()).transpose()?;
    let peers: Vec<_> = (1..=3).map(|id| (id, format!("127.0.0.1:{}", 7020 + id))).collect();
    let mut nodes = JoinSet::new();
    for id in (1..=3).filter(|id| only.is_none_or(|only| only == *id)) {
        let clients = TcpListener::bind(("127.0.0.1", 8000 + id as u16)).await?;
        let peers = peers.clone();
        nodes.spawn(async move { serve(id, peers, Path::new("data/kv-http"), clients, interrupted()).await });
    }
    println!("curl -X PUT -d hello http://127.0.0.1:8001/keys/greeting");
    println!("curl http://127.0.0.1:8002/keys/greeting    curl http://127.0.0.1:8003/status    Ctrl-C stops");
    while let Some(ended) = nodes.join_next().await {
        ended??;
    }
    Ok(())
}

/// Ends with Ctrl-C.
async fn interrupted() {
    // Without a handler for it, the process ends with Ctrl-C in any case.
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests;
