//! `quorate dev`, and what real clients of etcd get from it: Debian's `etcdctl` and the Rust crate `etcd-client`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use quorate_process_test::cluster::{Build, Cluster, Directory, Process, free_ports};
use quorate_process_test::wait::{self, until_on_thread};
use quorate_process_test::workload::connect;
use rustix::process::Signal;

/// When a hanging test is killed with its servers: after all that may take its own limit.
const DEADLINE: Duration = Duration::from_secs(240);

/// A `quorate dev` cluster of three nodes.
struct Dev {
    process: Process,
    endpoints: Vec<String>,
}

impl Dev {
    /// A new cluster, on ports that are free.
    fn start(directory: &Path) -> Self {
        let port = free_ports(6)[0].to_string();
        Self::start_with(directory, "first.log", &["--nodes", "3", "--client-port-base", &port])
    }

    /// The cluster that is there, as it was.
    fn start_again(directory: &Path) -> Self {
        Self::start_with(directory, "again.log", &[])
    }

    /// One file for the output of each start, so that only its own lines are read.
    fn start_with(directory: &Path, log: &str, flags: &[&str]) -> Self {
        let data = directory.join("data").display().to_string();
        let arguments: Vec<String> =
            ["dev", "--data-dir", &data].iter().chain(flags).map(|argument| (*argument).to_owned()).collect();
        let log = directory.join(log);
        let mut process = Process::start(&Build::Plain.binary(), &arguments, &log).expect("quorate starts");
        let endpoints = until_on_thread("`quorate dev` prints a line to try", || {
            let output = process.output();
            assert!(process.is_running(), "`quorate dev` ended by itself:\n{output}");
            endpoints_to_try(&output).ok_or(output)
        });
        Self { process, endpoints }
    }

    /// Ctrl-C, and whether it said that it stopped well.
    fn stop(mut self) -> bool {
        self.process.signal(Signal::INT);
        until_on_thread("Ctrl-C stops it", || match self.process.is_running() {
            true => Err(self.process.output()),
            false => Ok(()),
        });
        self.process.wait()
    }
}

/// The endpoints in the line that a person is told to try.
fn endpoints_to_try(output: &str) -> Option<Vec<String>> {
    let line = output.lines().find(|line| line.contains("etcdctl") && line.contains("--endpoints"))?;
    let list = line.split("--endpoints").nth(1)?.trim_start_matches(['=', ' ']).split_whitespace().next()?;
    Some(list.split(',').map(str::to_owned).collect())
}

/// Whether etcdctl is there. A run that was told that it must be fails without it.
fn has_etcdctl() -> bool {
    let version = Command::new("etcdctl").arg("version").env("ETCDCTL_API", "3").output();
    if version.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let rule = std::env::var("QUORATE_ETCDCTL").unwrap_or_default();
    assert_ne!(rule, "required", "etcdctl is not installed, and this run must not skip it");
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "\nSKIPPED: etcdctl is not installed (Debian: apt-get install etcd-client)\n");
    false
}

/// Runs one etcdctl command; it must succeed.
fn etcdctl(endpoints: &[String], arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .arg("--command-timeout=20s")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl starts");
    child.stdin.take().expect("its input is a pipe").write_all(input.as_bytes()).expect("etcdctl reads its input");
    let output = child.wait_with_output().expect("etcdctl ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcdctl {arguments:?} failed: {said}{complained}");
    said
}

#[test]
fn etcdctl_is_served() {
    if !has_etcdctl() {
        return;
    }
    let directory = Directory::new("etcdctl");
    let dev = Dev::start(directory.path());
    let run = |arguments: &[&str]| etcdctl(&dev.endpoints, arguments, "");

    assert_eq!(run(&["put", "a", "1"]), "OK\n");
    assert_eq!(run(&["get", "a"]), "a\n1\n");
    assert_eq!(run(&["get", "a", "--consistency=s"]), "a\n1\n");

    // Compares, a blank line, what to do if they hold, a blank line, what else, a blank line.
    let transaction = "value(\"a\") = \"1\"\n\nput a 2\nget a\n\nget a\n\n";
    assert_eq!(etcdctl(&dev.endpoints, &["txn"], transaction), "SUCCESS\n\nOK\n\na\n2\n");
    assert_eq!(etcdctl(&dev.endpoints, &["txn"], transaction), "FAILURE\n\na\n2\n");

    assert_eq!(run(&["put", "b", "3", "--prev-kv"]), "OK\n");
    assert_eq!(run(&["get", "", "--prefix", "--keys-only"]), "a\n\nb\n\n");
    assert_eq!(run(&["del", "a"]), "1\n");
    assert_eq!(run(&["del", "a"]), "0\n");
    assert_eq!(run(&["get", "a"]), "");

    let table = run(&["endpoint", "status", "-w", "table"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.contains("http://") || line.contains("127.0.0.1"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 3, "{table}");
    // ENDPOINT, ID, VERSION, DB SIZE, IS LEADER, ...
    assert_eq!(rows.iter().filter(|row| row[5] == "true").count(), 1, "{table}");
    let mut ids: Vec<&str> = rows.iter().map(|row| row[2]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{table}");

    // ID, status, name, peer URLs, client URLs, is learner.
    let members = run(&["member", "list"]);
    assert_eq!(members.lines().count(), 3, "{members}");
    for (member, endpoint) in members.lines().zip(&dev.endpoints) {
        let fields: Vec<&str> = member.split(", ").collect();
        assert_eq!((fields.len(), fields[1], fields[5]), (6, "started", "false"), "{members}");
        assert!(ids.contains(&fields[0]), "{members}\n{table}");
        assert!(members.contains(endpoint.trim_start_matches("http://")), "{members}");
    }
    print!("{table}{members}");
    assert!(dev.stop(), "Ctrl-C is a clean end");
}

#[test]
fn the_rust_client_is_served() {
    let directory = Directory::new("rust-client");
    let dev = Dev::start(directory.path());
    in_time(async {
        for endpoint in &dev.endpoints {
            let mut client = connect(endpoint).await.expect("every node serves clients");
            // The nodes are one cluster: each pass starts from what the one before left, and leaves nothing.
            one_client(&mut client).await.unwrap_or_else(|error| panic!("{endpoint}: {error}"));
        }
    });
    assert!(dev.stop(), "Ctrl-C is a clean end");
}

async fn one_client(client: &mut Client) -> Result<(), Error> {
    let start = client.get("a", None).await?.header().expect("a header").revision();
    let revision_of = |header: Option<&etcd_client::ResponseHeader>| header.expect("a header").revision();

    let put = client.put("a", "1", None).await?;
    assert_eq!(revision_of(put.header()), start + 1);
    let put = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(put.prev_key().expect("the pair before").value(), b"1");

    let got = client.get("a", None).await?;
    let pair = &got.kvs()[0];
    assert_eq!((pair.key(), pair.value()), (&b"a"[..], &b"2"[..]));
    assert_eq!((pair.create_revision(), pair.mod_revision(), pair.version()), (start + 1, start + 2, 2));
    let past = client.get("a", Some(GetOptions::new().with_revision(start + 1))).await?;
    assert_eq!((past.kvs()[0].value(), revision_of(past.header())), (&b"1"[..], start + 2));

    let swap = |expected: &str| {
        Txn::new()
            .when([Compare::value("a", CompareOp::Equal, expected), Compare::version("b", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("a", "3", None), TxnOp::put("b", "4", None)])
            .or_else([TxnOp::get("a", None)])
    };
    let done = client.txn(swap("2")).await?;
    assert!(done.succeeded());
    assert_eq!(revision_of(done.header()), start + 3, "both puts of a transaction are one revision");
    let refused = client.txn(swap("2")).await?;
    assert!(!refused.succeeded());
    match &refused.op_responses()[..] {
        [TxnOpResponse::Get(got)] => assert_eq!(got.kvs()[0].value(), b"3"),
        other => panic!("not the branch for else: {other:?}"),
    }

    let all = client.get("", Some(GetOptions::new().with_all_keys())).await?;
    assert_eq!((all.count(), all.more()), (2, false));
    let first = client.get("", Some(GetOptions::new().with_all_keys().with_limit(1))).await?;
    assert_eq!((first.kvs().len(), first.count(), first.more()), (1, 2, true));

    client.compact(start + 3, None).await?;
    assert_refused(client.get("a", Some(GetOptions::new().with_revision(start + 1))).await, 11, "compacted");
    assert_refused(client.get("a", Some(GetOptions::new().with_revision(start + 99))).await, 11, "future revision");
    assert_refused(client.put("", "1", None).await, 3, "key is not provided");
    assert_refused(client.put("a", vec![b'x'; 1_700_000], None).await, 3, "request is too large");

    let gone = client.delete("", Some(DeleteOptions::new().with_all_keys().with_prev_key())).await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len(), revision_of(gone.header())), (2, 2, start + 4));

    let status = client.status().await?;
    assert!(status.leader() != 0 && status.raft_term() > 0 && status.raft_index() > 0);
    let members = client.member_list().await?;
    assert_eq!(members.members().len(), 3);
    assert!(members.members().iter().any(|member| member.id() == status.leader()));
    Ok(())
}

/// A gRPC error with etcd's code and words.
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Error>, code: i32, words: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => {
            assert_eq!(status.code() as i32, code, "{status:?}");
            assert!(status.message().starts_with("etcdserver: ") && status.message().contains(words), "{status:?}");
        }
        other => panic!("expected an error about {words:?}, got {other:?}"),
    }
}

#[test]
fn a_dev_cluster_comes_back_with_its_data() {
    let directory = Directory::new("comes-back");
    let dev = Dev::start(directory.path());
    let written = in_time(async {
        let mut client = connect(&dev.endpoints[0]).await.expect("a client");
        client.put("kept", "yes", None).await.expect("a write").header().expect("a header").revision()
    });
    assert!(dev.stop(), "Ctrl-C is a clean end");

    let dev = Dev::start_again(directory.path());
    in_time(async {
        let mut client = connect(&dev.endpoints[2]).await.expect("a client");
        let got = client.get("kept", None).await.expect("a read");
        assert_eq!((got.kvs()[0].value(), got.kvs()[0].mod_revision()), (&b"yes"[..], written));
    });
    assert!(dev.stop(), "Ctrl-C is a clean end");
}

/// Runs `quorate` to its end: its exit code and all it printed.
fn quorate(arguments: &[String]) -> (i32, String) {
    let output = Command::new(Build::Plain.binary()).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("quorate starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Asks `quorate status` until it says what it must.
fn status_says(endpoints: &str, code: i32, words: &str) {
    let text = until_on_thread(&format!("`quorate status` says {words:?} with exit code {code}"), || {
        let (exit, text) = quorate(&["status".to_owned(), format!("--endpoints={endpoints}")]);
        if exit == code && text.contains(words) { Ok(text) } else { Err(format!("exit code {exit}: {text}")) }
    });
    print!("{text}");
}

#[test]
fn status_says_what_is_wrong_when_nobody_leads() {
    let mut cluster = Cluster::new("status", Build::Plain, DEADLINE);
    for node in 0..3 {
        cluster.start(node);
    }
    let endpoints = cluster.endpoints().join(",");
    status_says(&endpoints, 0, "healthy");
    cluster.kill(&[0, 2]);
    status_says(&endpoints, 1, "nobody leads: 1 of 3 voters answered here, 2 are needed");
    cluster.start(0);
    cluster.start(2);
    status_says(&endpoints, 0, "healthy");
}

#[test]
fn a_start_that_cannot_be_right_is_refused_in_words() {
    let mut cluster = Cluster::new("refused", Build::Plain, DEADLINE);
    for node in 0..3 {
        cluster.start(node);
    }
    let endpoints = cluster.endpoints().join(",");
    status_says(&endpoints, 0, "healthy");
    let with = |node: usize, flag: &str, value: &str| {
        let mut arguments = cluster.nodes[node].arguments.clone();
        let at = arguments.iter().position(|argument| argument == flag).expect("a flag that it is started with");
        arguments[at + 1] = value.to_owned();
        arguments
    };
    let directory = |name: &str| cluster.directory().join(name).display().to_string();

    let (code, text) = quorate(&["serve".to_owned(), "--no-such-flag".to_owned()]);
    assert!(code == 2 && text.contains("--no-such-flag"), "{code}: {text}");

    let (code, text) = quorate(&with(0, "--initial-cluster", "somebody=http://127.0.0.1:1"));
    assert!(code != 0 && text.contains("n1"), "a cluster without the node itself: {code}: {text}");

    let (code, text) = quorate(&with(0, "--data-dir", &directory("empty")));
    assert!(code != 0 && text.contains("in use"), "a port in use: {code}: {text}");

    let free = free_ports(2).into_iter().map(|port| format!("http://127.0.0.1:{port}")).collect::<Vec<_>>();
    let elsewhere = |mut arguments: Vec<String>| {
        for (flag, url) in [("--listen-client-urls", &free[0]), ("--listen-peer-urls", &free[1])] {
            let at = arguments.iter().position(|argument| argument == flag).expect("a flag that it is started with");
            arguments[at + 1].clone_from(url);
        }
        arguments
    };
    let (code, text) = quorate(&elsewhere(cluster.nodes[0].arguments.clone()));
    assert!(code != 0 && text.contains(&directory("n1")), "a directory that another process has open: {code}: {text}");

    let (of_another, its_directory) = (elsewhere(with(0, "--data-dir", &directory("n2"))), directory("n2"));
    cluster.kill(&[1]);
    let (code, text) = quorate(&of_another);
    assert!(code != 0 && text.contains(&its_directory), "the directory of another node: {code}: {text}");
    // Nothing was lost by it.
    cluster.start(1);
    status_says(&endpoints, 0, "healthy");
}

fn in_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(wait::in_time("a client has done its work", work))
}
