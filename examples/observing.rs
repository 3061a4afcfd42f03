//! Watching a cluster: numbers on a page for Prometheus, and events by name.
//! `cargo run --release -p quorate --features prometheus --example observing`
//!
//! Three nodes share a registry, so one page has all of them. The page is served here by hand; a program with an HTTP
//! server of its own adds a route that returns the same text.
use std::error::Error;
use std::io::{self, Read, Write};

use quorate::{MemoryNetwork, MetricsRegistry, PROMETHEUS_CONTENT_TYPE, Raft, RaftStateMachine};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default, Serialize, Deserialize)]
struct Counter(u64);

impl RaftStateMachine for Counter {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, add: u64) -> u64 {
        self.0 += add;
        self.0
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }
}

async fn start(registry: &MetricsRegistry) -> Result<Vec<Raft<Counter>>, Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let builder = Raft::builder(id).peers((1..=3).map(|id| (id, "in this process"))).in_memory(&network);
        nodes.push(builder.metrics_registry(registry).start(Counter::default()).await?);
    }
    Ok(nodes)
}

/// Answers every request with the page of this moment.
async fn serve(listener: TcpListener, registry: MetricsRegistry) {
    while let Ok((stream, _)) = listener.accept().await {
        let registry = registry.clone();
        // Whoever asked may have gone.
        tokio::spawn(async move { _ = answer(stream, &registry).await });
    }
}

async fn answer(stream: TcpStream, registry: &MetricsRegistry) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let page = registry.prometheus_text();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {PROMETHEUS_CONTENT_TYPE}\r\nContent-Length: {}\r\n", page.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n{page}").as_bytes()).await?;
    stream.shutdown().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // RUST_LOG=warn,quorate::election=debug says why there is, or is not, a leader.
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let registry = MetricsRegistry::new();
    let nodes = start(&registry).await?;
    let listener = TcpListener::bind("127.0.0.1:9464").await?;
    println!("curl http://{}/metrics; Ctrl-C ends it", listener.local_addr()?);
    tokio::spawn(serve(listener, registry));
    loop {
        for _ in 0..1000 {
            nodes[0].client_write(1).await?;
        }
        let Some(leader) = nodes.iter().find(|node| node.is_leader()) else { continue };
        let stats = leader.runtime_stats();
        let commit = &stats.propose_to_commit;
        println!(
            "{} commits, 50 % within {:?}, 99 % within {:?}",
            commit.count(),
            commit.quantile(0.5),
            commit.quantile(0.99)
        );
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_page_has_every_node_and_counts_the_writes() -> Result<(), Box<dyn Error>> {
        let registry = MetricsRegistry::new();
        let nodes = start(&registry).await?;
        for _ in 0..5 {
            nodes[1].client_write(1).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut stream = TcpStream::connect(listener.local_addr()?).await?;
        let server = tokio::spawn(serve(listener, registry));
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        server.abort();

        let (head, page) = answer.split_once("\r\n\r\n").ok_or("an answer has a head")?;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(PROMETHEUS_CONTENT_TYPE), "{head}");
        let values = |name: &str| {
            let of_name = page.lines().filter(|line| line.split('{').next() == Some(name));
            of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).collect::<Vec<_>>()
        };
        assert_eq!(values("quorate_is_leader").len(), 3, "every node is on the page");
        assert_eq!(values("quorate_proposed_entries_total").iter().sum::<u64>(), 5);
        assert!(page.ends_with("# EOF\n"));
        for node in nodes {
            node.shutdown().await;
        }
        Ok(())
    }
}
