//! Pages for those who watch a node, over plain HTTP: numbers for Prometheus, and whether the node lives and serves.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use quorate::{PROMETHEUS_CONTENT_TYPE, Raft, ReadPolicy};

use crate::mvcc::Store;

/// A node that cannot serve a read within this is not ready.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// `/metrics`, `/livez`, `/readyz`, and etcd's `/health`.
pub(crate) fn pages(raft: Raft<Store>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .with_state(raft)
}

async fn metrics(State(raft): State<Raft<Store>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], raft.metrics_registry().prometheus_text())
}

/// Whether the node runs. One that does not should be started anew.
async fn livez(State(raft): State<Raft<Store>>) -> (StatusCode, String) {
    let closed = raft.metrics().borrow().closed.clone();
    match closed {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("closed: {reason}\n")),
    }
}

/// Whether the node serves: it knows a leader that a quorum follows, and has applied what the cluster committed. One that
/// does not should get no requests for a while.
async fn readyz(State(raft): State<Raft<Store>>) -> (StatusCode, String) {
    match unready(&raft).await {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

/// The same, as etcd says it.
async fn health(State(raft): State<Raft<Store>>) -> impl IntoResponse {
    let unready = unready(&raft).await;
    let code = unready.as_ref().map_or(StatusCode::OK, |_| StatusCode::SERVICE_UNAVAILABLE);
    // Reasons are this library's: words without quotes or backslashes would be luck, so they are taken out.
    let reason: String = unready
        .iter()
        .flat_map(|reason| reason.chars())
        .filter(|c| !matches!(c, '"' | '\\') && !c.is_control())
        .collect();
    let healthy = unready.is_none();
    (code, [(CONTENT_TYPE, "application/json")], format!("{{\"health\":\"{healthy}\",\"reason\":\"{reason}\"}}\n"))
}

async fn unready(raft: &Raft<Store>) -> Option<String> {
    match tokio::time::timeout(READ_PATIENCE, raft.read(ReadPolicy::ReadIndex, |_| ())).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => {
            let leader = raft.current_leader().map_or("no leader is known".to_owned(), |id| format!("node {id} leads"));
            Some(format!("no read was served within {READ_PATIENCE:?}; {leader}"))
        }
    }
}
