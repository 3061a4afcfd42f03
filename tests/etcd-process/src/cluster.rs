//! Real server processes, and their certain end.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpSocket;

use crate::rng::Rng;

/// How the server was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// As users get it.
    Plain,
    /// Its disk keeps unsynced bytes in memory, so that a kill loses them as a power cut would.
    LossyDisk,
    /// The same with a planted bug: it acknowledges before the sync.
    AcknowledgesEarly,
}

impl Build {
    /// Features of `quorate-server`.
    fn features(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::LossyDisk => "lossy-disk",
            Self::AcknowledgesEarly => "lossy-disk,bug-ack-before-fsync",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Plain => "quorate",
            Self::LossyDisk => "quorate-lossy-disk",
            Self::AcknowledgesEarly => "quorate-acknowledges-early",
        }
    }

    /// The variable that names a binary to be used instead of building one.
    fn variable(self) -> &'static str {
        match self {
            Self::Plain => "QUORATE_BIN",
            Self::LossyDisk => "QUORATE_LOSSY_BIN",
            Self::AcknowledgesEarly => "QUORATE_EARLY_BIN",
        }
    }

    /// Arguments without which such a build refuses to start.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::LossyDisk | Self::AcknowledgesEarly => &["--i-know-this-is-a-test-build"],
        }
    }

    /// The binary: the one named by the environment, else built now by cargo, with the profile `ci`.
    pub fn binary(self) -> PathBuf {
        if let Some(path) = std::env::var_os(self.variable()) {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{} names {}, which is not a file", self.variable(), path.display());
            return path;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&root).args(["build", "--quiet", "--profile", "ci", "--package", "quorate-server"]);
        cargo.args(["--features", self.features()]).env_remove("CARGO_TARGET_DIR");
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "the server does not build with features {:?}", self.features());
        // The next build with other features replaces target/ci/quorate.
        let kept = root.join("target/ci").join(format!("process-test-{}", self.file_name()));
        fs::copy(root.join("target/ci/quorate"), &kept).expect("the binary can be copied");
        kept
    }
}

/// A process that dies with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints is appended to `log`.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let mut output = OpenOptions::new().create(true).append(true).open(log)?;
        writeln!(output, "--- {} {}", program.display(), arguments.join(" "))?;
        // Killed by the kernel when the thread that starts it ends, should this process not get to it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        if !has_setpriv() {
            command = Command::new(program);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: command.spawn()?, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile; the caller finds out by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, without waiting for its end.
    pub fn kill(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
    }

    /// Waits for its end; whether it said success.
    pub fn wait(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Whether it is still there. A paused process is.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in bytes, as the kernel tells it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn has_setpriv() -> bool {
    Command::new("setpriv")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A directory that is removed unless the test fails.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes an empty directory below cargo's own for tests.
    pub fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp").join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for the test can be made");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the servers' data and output are kept in {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Neighbouring ports that nobody listens on, and that the kernel does not give to outgoing connections: a server that
/// is down for a moment finds its port free again.
pub fn free_ports(count: u16) -> Vec<u16> {
    let mut rng = Rng::new(now_nanos() ^ u64::from(std::process::id()));
    loop {
        let first = 12_000 + u16::try_from(rng.below(18_000)).expect("below 18,000");
        let ports: Vec<u16> = (first..first + count).collect();
        if ports.iter().all(|port| is_free(*port)) {
            return ports;
        }
    }
}

/// Whether nobody listens there. It is asked without listening: a process that another thread is starting holds copies of
/// this one's sockets until it runs its program, and a copy that listens would keep the port for so long.
fn is_free(port: u16) -> bool {
    let bound = TcpSocket::new_v4().and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))
    });
    bound.is_ok()
}

/// Something that differs from run to run, for seeds.
pub fn now_nanos() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}

/// One member of a cluster, running or not.
#[derive(Debug)]
pub struct Node {
    /// What clients connect to.
    pub endpoint: String,
    /// What `quorate` is started with.
    pub arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Its process.
    ///
    /// # Panics
    /// If it was killed and not started again.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }
}

/// Three `quorate serve` processes.
#[derive(Debug)]
pub struct Cluster {
    /// The members; their order is that of the endpoints.
    pub nodes: Vec<Node>,
    binary: PathBuf,
    watchdog: Watchdog,
    // Last, so that the processes are gone before their directory is.
    directory: Directory,
}

impl Cluster {
    /// Lays out a cluster of three; none of them is started yet. Everything is killed after `limit`.
    pub fn new(name: &str, build: Build, limit: Duration) -> Self {
        let directory = Directory::new(name);
        let ports = free_ports(6);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> = (0..3).map(|at| format!("n{}={}", at + 1, url(ports[3 + at]))).collect();
        let nodes = (0..3).map(|at| {
            let name = format!("n{}", at + 1);
            let (client, peer) = (url(ports[at]), url(ports[3 + at]));
            let data = directory.path().join(&name).display().to_string();
            let mut arguments = vec!["serve".to_owned()];
            let flags = [
                ("--name", name.as_str()),
                ("--data-dir", &data),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &peers.join(",")),
                ("--initial-cluster-token", "process-test"),
            ];
            arguments.extend(flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]));
            arguments.extend(build.arguments().iter().map(|argument| (*argument).to_owned()));
            Node { endpoint: client, arguments, log: directory.path().join(format!("{name}.log")), process: None }
        });
        Self { nodes: nodes.collect(), binary: build.binary(), watchdog: Watchdog::new(limit), directory }
    }

    /// Where clients connect.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.clone()).collect()
    }

    /// Starts one node.
    pub fn start(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let process = Process::start(&self.binary, &it.arguments, &it.log).expect("the server can be started");
        self.watchdog.watch(process.id());
        it.process = Some(process);
    }

    /// `kill -9` of some nodes, as close together as can be, and waits for their ends.
    pub fn kill(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.nodes[*node].process().kill();
        }
        for node in nodes {
            self.nodes[*node].process = None;
        }
    }

    /// Panics with its output if a node has ended by itself.
    pub fn check_alive(&mut self) {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process
                && !process.is_running()
            {
                panic!("the node at {} ended by itself:\n{}", node.endpoint, tail(&process.output()));
            }
        }
    }

    /// The last lines of what every node printed.
    pub fn tails(&self) -> String {
        let output = |node: &Node| fs::read_to_string(&node.log).unwrap_or_default();
        self.nodes.iter().map(|node| format!("== {}\n{}\n", node.endpoint, tail(&output(node)))).collect()
    }

    /// Where their data is; for each node in a directory of its name.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Kills all processes it was told of and ends this one when its time is over: the last line of defence, for a test
/// that hangs where its own deadline cannot reach.
#[derive(Debug)]
struct Watchdog {
    watched: Arc<Mutex<Vec<u32>>>,
    // Dropped with the cluster; the thread then ends without a bite.
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(limit: Duration) -> Self {
        let (alive, gone) = mpsc::channel();
        let watched: Arc<Mutex<Vec<u32>>> = Arc::default();
        let victims = watched.clone();
        thread::spawn(move || {
            if gone.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                for id in victims.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                eprintln!("the test hangs after {limit:?}: its servers are killed, and so is it");
                std::process::abort();
            }
        });
        Self { watched, _alive: alive }
    }

    fn watch(&self, id: u32) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }
}
