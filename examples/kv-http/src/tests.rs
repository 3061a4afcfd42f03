//! Three nodes on free ports, and a client that speaks HTTP by hand.

use super::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Sends a request; returns the status and the body.
async fn ask(to: SocketAddr, request: &str, body: &str) -> Outcome<(String, String)> {
    let mut stream = TcpStream::connect(to).await?;
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no end of the head")?;
    let status = head.split(' ').nth(1).ok_or("no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_every_request() -> Outcome<()> {
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push((TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?));
    }
    let mut peers = Vec::new();
    let mut clients = Vec::new();
    for (id, (peer, client)) in (1..).zip(ports) {
        peers.push((id, peer.local_addr()?.to_string()));
        clients.push(client);
    }
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/tmp/kv-http-{}", std::process::id()));
    let (stop, stopped) = watch::channel(false);
    let (mut nodes, mut addresses) = (JoinSet::new(), Vec::new());
    for (id, client) in (1..).zip(clients) {
        addresses.push(client.local_addr()?);
        let (peers, directory, mut stopped) = (peers.clone(), directory.clone(), stopped.clone());
        nodes.spawn(async move {
            let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
            serve(id, peers, &directory, client, stop).await
        });
    }
    for (at, address) in addresses.iter().enumerate() {
        let (status, told) = ask(*address, "PUT /keys/a", &format!("value {at}")).await?;
        assert_eq!(status, "200", "{told}");
        for reader in &addresses {
            assert_eq!(ask(*reader, "GET /keys/a", "").await?, ("200".into(), format!("value {at}")));
        }
    }
    assert_eq!(ask(addresses[1], "DELETE /keys/a", "").await?, ("200".into(), "removed value 2\n".into()));
    assert_eq!(ask(addresses[2], "GET /keys/a", "").await?.0, "404");
    assert!(ask(addresses[0], "GET /status", "").await?.1.contains("leader "));
    stop.send(true)?;
    while let Some(ended) = nodes.join_next().await {
        ended??;
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
