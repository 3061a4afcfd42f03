//! The binary as a user runs it: what it prints, how it ends, and what it refuses.

// Test builds refuse to start without their flag.
#![cfg(not(feature = "lossy-disk"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use common::{Cluster, DEADLINE, Directory, free_ports, get, put, until_free};
use quorate_server::proto::KvClient;
use tonic::transport::Endpoint;

fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that ends by itself.
fn run(arguments: &[&str]) -> Output {
    let mut child = quorate(arguments).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut running = Running { child };
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        let mut errors = Vec::new();
        let _ = stderr.read_to_end(&mut errors);
        let _ = send.send((text, errors));
    });
    let (stdout, stderr) = receive.recv_timeout(DEADLINE).expect("it ends by itself");
    Output { status: running.child.wait().unwrap(), stdout, stderr }
}

/// Runs a command that must fail; returns its exit code and what it said.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().expect("it was not killed"), said)
}

/// A process that dies with this value.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server process, up to the line that says it is ready.
struct Server {
    running: Running,
    lines: mpsc::Receiver<String>,
    printed: Vec<String>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = quorate(arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Server { running: Running { child }, lines, printed: Vec::new() };
        server.read_until("ready: first write committed");
        server
    }

    fn read_until(&mut self, what: &str) {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.printed.push(line);
                    if self.printed.last().is_some_and(|line| line.contains(what)) {
                        return;
                    }
                }
                Err(error) => panic!("no \"{what}\" ({error}) in {:#?}", self.printed),
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.running.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Asks it to stop and waits for its end.
    fn stop(mut self, signal: &str) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.printed.push(line);
        }
        (self.running.child.wait().unwrap(), std::mem::take(&mut self.printed))
    }
}

fn kv(port: u16) -> KvClient {
    KvClient::new(Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_says_what_to_try_stops_and_comes_back_with_its_data() {
    let directory = Directory::new("dev");
    let data = directory.path().join("data").display().to_string();
    let port = free_ports(6);
    let base = port.to_string();
    let arguments = ["dev", "--data-dir", &data, "--client-port-base", &base];

    let mut server = Server::start(&arguments);
    let endpoints = format!("127.0.0.1:{port},127.0.0.1:{},127.0.0.1:{}", port + 2, port + 4);
    server.read_until(&format!("ETCDCTL_API=3 etcdctl --endpoints={endpoints} put a 1"));
    assert!(server.printed.iter().any(|line| line.contains("leader")), "{:#?}", server.printed);
    kv(port + 2).put(put("a", "1")).await.unwrap();

    let status = run(&["status", "--endpoints", &endpoints]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success(), "{text}");
    assert!(text.contains("leader: n") && text.ends_with("healthy\n"), "{text}");

    let (status, printed) = server.stop("INT");
    assert!(status.success(), "{printed:#?}");

    let server = Server::start(&["dev", "--data-dir", &data]); // it remembers its ports
    let response = kv(port + 4).range(get("a")).await.unwrap().into_inner();
    assert_eq!(response.kvs[0].value, "1");
    assert_eq!(response.header.unwrap().revision, 2);
    let (status, printed) = server.stop("TERM");
    assert!(status.success(), "{printed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_survives_being_killed() {
    let directory = Directory::new("killed");
    let data = directory.path().join("data").display().to_string();
    let port = free_ports(2);
    let base = port.to_string();
    let arguments = ["dev", "--nodes", "1", "--data-dir", &data, "--client-port-base", &base];
    let server = Server::start(&arguments);
    for n in 0..20 {
        kv(port).put(put(&format!("k{n}"), "x")).await.unwrap();
    }
    drop(server); // kill -9
    let _server = Server::start(&arguments);
    let all = quorate_server::proto::RangeRequest { range_end: common::bytes("\0"), count_only: true, ..get("\0") };
    assert_eq!(kv(port).range(all).await.unwrap().into_inner().count, 20);
}

#[test]
fn dev_refuses_what_contradicts_its_directory() {
    let directory = Directory::new("contradict");
    let data = directory.path().join("data").display().to_string();
    let base = free_ports(2).to_string();
    let one = ["dev", "--nodes", "1", "--data-dir", &data, "--client-port-base", &base];
    drop(Server::start(&one));
    let (code, said) = refused(&["dev", "--nodes", "3", "--data-dir", &data]);
    assert_eq!(code, 1);
    assert!(said.contains("--nodes") && said.contains("holds a cluster of 1"), "{said}");
    let (code, said) = refused(&["dev", "--data-dir", &data, "--client-port-base", "4000"]);
    assert_eq!(code, 1);
    assert!(said.contains("--client-port-base") && said.contains(&base), "{said}");
    fs::write(Path::new(&data).join("quorate-dev"), "something else").unwrap();
    let (code, said) = refused(&["dev", "--data-dir", &data]);
    assert_eq!(code, 1);
    assert!(said.contains("--data-dir"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_the_flag_to_change() {
    let directory = Directory::new("in-use");
    let data = directory.path().join("data").display().to_string();
    let port = free_ports(6);
    let base = port.to_string();
    let dev = ["dev", "--data-dir", &data, "--client-port-base", &base];
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 3));
    let serve = ["serve", "--data-dir", &data, "--listen-client-urls", &client, "--listen-peer-urls", &peer];
    let says = |arguments: &[&str], parts: &[&str]| {
        let (code, said) = refused(arguments);
        assert_eq!(code, 1);
        for part in parts {
            assert!(said.contains(part), "\"{part}\" in: {said}");
        }
    };
    for (taken, whom, flag) in [(port, "clients", "--listen-client-urls"), (port + 3, "peers", "--listen-peer-urls")] {
        let holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
        says(&dev, &[&taken.to_string(), whom, "in use", "--client-port-base"]);
        assert!(!Path::new(&data).exists(), "the ports are not remembered");
        says(&serve, &[&taken.to_string(), whom, "in use", flag]);
        let _ = fs::remove_dir_all(&data);
        drop(holder);
        until_free(taken);
    }
    drop(Server::start(&dev));
    let _holder = TcpListener::bind(("127.0.0.1", port + 4)).unwrap();
    says(&dev, &[&(port + 4).to_string(), "clients", "in use", "--client-port-base and a new --data-dir"]);
}

#[test]
fn wrong_flags_are_named_with_what_to_write() {
    let cases: [(&[&str], &str); 11] = [
        (&["serve", "--listen-client-urls", "127.0.0.1:1"], "--listen-client-urls: \"127.0.0.1:1\" has no scheme"),
        (&["serve", "--listen-metrics-urls", "127.0.0.1:1"], "--listen-metrics-urls: \"127.0.0.1:1\" has no scheme"),
        (&["serve", "--listen-peer-urls", "unix://x:1"], "--listen-peer-urls: \"unix://x:1\": scheme \"unix\""),
        (&["serve", "--listen-peer-urls", "http://a:1,http://b:1"], "one is supported"),
        (&["serve", "--advertise-client-urls", "https://a:1"], "--advertise-client-urls: \"https://a:1\": https"),
        (&["serve", "--name", "x", "--initial-cluster", "a=http://h:1"], "does not name this member, \"x\""),
        (
            &["serve", "--name", "a", "--initial-cluster", "a=http://h:1"],
            "but --initial-advertise-peer-urls says 127.0.0.1:2380",
        ),
        (&["serve", "--initial-cluster", "nonsense"], "--initial-cluster: \"nonsense\" has no name"),
        (&["serve", "--name", ""], "--name: it is empty"),
        (&["dev", "--nodes", "0", "--data-dir", "/nonexistent/x"], "--nodes: 0 is not a number from 1 to 9"),
        (&["status", "--endpoints", "x"], "--endpoints: \"x\" has no port"),
    ];
    for (arguments, expected) in cases {
        let (code, said) = refused(arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    for arguments in [&["serve", "--no-such-flag"][..], &["dev", "--nodes", "many"], &["nonsense"], &[]] {
        let (code, said) = refused(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains("Usage:") || said.contains("--help"), "{arguments:?}: {said}");
    }
    let (code, said) = refused(&["dev", "--data-dir", "/proc/nowhere"]);
    assert_eq!(code, 1);
    assert!(said.contains("/proc/nowhere") && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_build_for_users_has_no_use_for_the_flag_of_test_builds() {
    let (code, said) = refused(&["status", "--i-know-this-is-a-test-build"]);
    assert_eq!(code, 1);
    assert!(said.contains("test build"), "{said}");
}

#[test]
fn status_of_nobody_is_a_failure_that_says_why() {
    let endpoint = format!("127.0.0.1:{}", free_ports(1));
    let output = run(&["status", "--endpoints", &endpoint]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("{endpoint} does not answer: ")) && text.contains("connection refused"), "{text}");
    assert!(text.contains("next: "), "{text}");
}

/// Flags of one `serve` of a cluster.
fn serve_arguments(cluster: &Cluster, at: usize, token: &str, data_dir: &Path) -> Vec<String> {
    let members: Vec<String> =
        cluster.options.iter().map(|options| format!("{}={}", options.name, options.listen_peers.url())).collect();
    let options = &cluster.options[at];
    [
        "serve",
        "--name",
        &options.name,
        "--data-dir",
        &data_dir.display().to_string(),
        "--listen-client-urls",
        &options.client_urls[0],
        "--listen-peer-urls",
        &options.listen_peers.url(),
        "--initial-cluster",
        &members.join(","),
        "--initial-cluster-token",
        token,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_the_data_of_another_node_or_cluster_or_a_running_one() {
    let cluster = Cluster::new("foreign", 1);
    let data = cluster.directory.path().join("n1");
    let arguments = serve_arguments(&cluster, 0, "one", &data);
    let server = Server::start(&strings(&arguments));
    kv(cluster.options[0].listen_clients[0].port).put(put("a", "1")).await.unwrap();

    // The same directory while it runs, under other ports.
    let other = Cluster::new("foreign-twin", 1);
    let (code, said) = refused(&strings(&serve_arguments(&other, 0, "one", &data)));
    assert_eq!(code, 1);
    assert!(said.contains(&data.display().to_string()), "{said}");
    let (status, _) = server.stop("TERM");
    assert!(status.success());

    // Another token is another cluster, so another node.
    let (code, said) = refused(&strings(&serve_arguments(&cluster, 0, "two", &data)));
    assert_eq!(code, 1);
    for part in [&data.display().to_string(), "--data-dir", "--initial-cluster-token"] {
        assert!(said.contains(part), "\"{part}\" in: {said}");
    }

    // Nothing was harmed.
    let server = Server::start(&strings(&arguments));
    let response = kv(cluster.options[0].listen_clients[0].port).range(get("a")).await.unwrap().into_inner();
    assert_eq!(response.kvs[0].value, "1");
    drop(server);
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_whose_log_is_damaged_stops_and_keeps_the_damaged_file() {
    let cluster = Cluster::new("damaged", 1);
    let data = cluster.directory.path().join("n1");
    let arguments = serve_arguments(&cluster, 0, "one", &data);
    let server = Server::start(&strings(&arguments));
    let needle = "the value that will be damaged";
    let mut client = kv(cluster.options[0].listen_clients[0].port);
    client.put(put("a", needle)).await.unwrap();
    for n in 0..10 {
        client.put(put("b", &n.to_string())).await.unwrap();
    }
    let (status, _) = server.stop("TERM");
    assert!(status.success());

    let place = |file: &PathBuf| {
        let bytes = fs::read(file).unwrap();
        bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).map(|at| (bytes, at))
    };
    let (file, (mut bytes, at)) = files(&data)
        .iter()
        .find_map(|file| Some((file.clone(), place(file)?)))
        .expect("the log holds what was written");
    bytes[at] ^= 0x20;
    fs::write(&file, &bytes).unwrap();

    // Nobody can give the lost entries back, however often it is started.
    for _ in 0..2 {
        let (code, said) = refused(&strings(&arguments));
        assert_eq!(code, 1);
        assert!(said.contains("lost its entries after") && said.contains("quorate recover"), "{said}");
    }
    let name = file.file_name().unwrap();
    let aside = data.join("damaged").join(name);
    assert_eq!(fs::read(&aside).unwrap(), bytes, "the damaged file is kept as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_quorum_is_recovered_from_the_command_line() {
    let cluster = Cluster::new("recover", 3);
    let mut nodes = Vec::new();
    for at in 0..3 {
        nodes.push(cluster.start(at).await);
    }
    assert!(nodes[0].ready().await);
    let mut client = kv(cluster.options[0].listen_clients[0].port);
    client.put(put("a", "1")).await.unwrap();
    // A quorum may have it without this node; what it has read, it has.
    assert_eq!(client.range(get("a")).await.unwrap().into_inner().kvs.len(), 1);
    let data = cluster.options[0].data_dir.display().to_string();
    let plan = ["recover", "plan", "--data-dir", &data];
    let apply = ["recover", "apply", "--data-dir", &data];
    let (code, said) = refused(&plan);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("nothing was changed: {data} is in use by a running node")), "{said}");
    nodes.remove(0).shutdown().await;
    let (code, said) = refused(&apply);
    assert_eq!(code, 1);
    assert!(said.contains("a quorum of group 1 can be reached") && said.contains("Start node"), "{said}");
    for node in nodes {
        node.shutdown().await;
    }
    let (code, said) = refused(&["recover", "plan", "--data-dir", "/"]);
    assert_eq!(code, 1);
    assert!(said.contains("/ is no node's data directory"), "{said}");

    let said = String::from_utf8(run(&plan).stdout).unwrap();
    for part in ["does not answer", "MAY BE LOST", &format!("to do it: quorate recover apply --data-dir={data}")] {
        assert!(said.contains(part), "\"{part}\" in: {said}");
    }
    let output = run(&apply);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("\ndone\nnext:\n  1. start node"), "{said}");
    let (code, said) = refused(&apply);
    assert_eq!(code, 1);
    assert!(said.contains("can be reached"), "a second time there is a quorum: {said}");

    let survivor = cluster.start(0).await;
    assert!(survivor.ready().await);
    let mut client = kv(cluster.options[0].listen_clients[0].port);
    assert_eq!(client.range(get("a")).await.unwrap().into_inner().kvs[0].value, "1");
    client.put(put("b", "2")).await.unwrap();
    survivor.shutdown().await;
}
