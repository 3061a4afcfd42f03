//! Asking who answers at an address, by the handshake alone: for tools that must know before they touch anything.

use std::time::Duration;

use quorate_core::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{connect, read_hello};
use crate::error::Break;
use crate::hello::{FEATURES, HIGHEST_VERSION, LOWEST_VERSION, Lane, LocalIdentity, Reply, Request};
use crate::stream::Stream;

/// Largest frame that the asker claims to accept: it takes none.
const NO_FRAMES: u32 = 1 << 10;

/// Who answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// Nobody, for this reason.
    Nobody(String),
    /// This node, whether or not it would talk to the asker.
    Node(Box<LocalIdentity>),
    /// Something that listens but did not say who it is: another program, a node that wants TLS, or one that is stuck.
    Unclear(String),
}

/// Shakes hands as `local` with the node that is expected at `address`, over plain TCP, and closes. Connecting and
/// the handshake may take `limit` each.
pub async fn probe(local: &LocalIdentity, to: NodeId, address: &str, limit: Duration) -> ProbeAnswer {
    let tcp = match connect(address, limit).await {
        Ok(tcp) => tcp,
        Err(ended) => return ProbeAnswer::Nobody(ended.to_string()),
    };
    match timeout(limit, ask(local, to, tcp)).await {
        Ok(Ok(identity)) => ProbeAnswer::Node(Box::new(identity)),
        Ok(Err(ended)) => ProbeAnswer::Unclear(ended.to_string()),
        Err(_) => ProbeAnswer::Unclear(Break::Deadline("the handshake").to_string()),
    }
}

async fn ask(local: &LocalIdentity, to: NodeId, tcp: TcpStream) -> Result<LocalIdentity, Break> {
    let mut stream = Stream::Plain(tcp);
    let versions = (LOWEST_VERSION, HIGHEST_VERSION);
    let request =
        Request { versions, lane: Lane::Control, identity: *local, to, max_frame: NO_FRAMES, features: FEATURES };
    stream.write_all(&request.encode()).await?;
    stream.flush().await?;
    let reply = Reply::decode(&read_hello(&mut stream).await?)?;
    // It was heard: that the other end may not hear the farewell does not matter.
    let _ = stream.shutdown().await;
    Ok(reply.identity)
}
