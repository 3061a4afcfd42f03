//! R2: a large snapshot on its way to a new node, beside a program that only calls `sendfile`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use quorate::{CatchUp, ChangeMembers, Config, LogId, Node, NodeId, Raft, RaftStateMachine, Retain};
use rustix::fs::{fdatasync, sendfile};
use tokio::runtime::Runtime;

use crate::args::Options;
use crate::measure::{Contender, Goal, RowPlan, Trial, measure_row, server_runtime};
use crate::report::{Better, Report};
use crate::sides::ports;

const BLOCK: usize = 1 << 20;
/// No snapshot of what is measured here takes longer.
const PATIENCE: Duration = Duration::from_secs(900);
/// A write waits for the disk, which may be deleting an earlier snapshot of 4 GiB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A state of as many bytes as the last command says, of which none can be guessed from the others.
#[derive(Debug, Default)]
pub(crate) struct Big {
    bytes: u64,
}

impl RaftStateMachine for Big {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, bytes: u64) -> u64 {
        std::mem::replace(&mut self.bytes, bytes)
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        write_noise(self.bytes, out)
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut block = vec![0; BLOCK];
        let mut state = Self::default();
        loop {
            match input.read(&mut block)? {
                0 => return Ok(state),
                some => state.bytes += some as u64,
            }
        }
    }
}

fn write_noise(mut bytes: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        block.extend_from_slice(&seed.to_le_bytes());
    }
    while bytes > 0 {
        let some = bytes.min(BLOCK as u64);
        out.write_all(&block[..some as usize])?;
        bytes -= some;
    }
    Ok(())
}

/// A cluster of one node, whose state is large.
pub(crate) struct Leader {
    pub(crate) runtime: Runtime,
    pub(crate) raft: Raft<Big>,
    address: String,
    dir: PathBuf,
}

impl Leader {
    /// Without a snapshot.
    pub(crate) fn start(options: &Options, bytes: u64) -> Result<Self, String> {
        let dir = options.dir.join(format!("state-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let runtime = server_runtime(options)?;
        let address = format!("127.0.0.1:{}", ports::free(1)[0]);
        let raft = runtime.block_on(async {
            let config = Config { keep_entries: 0, write_timeout: WRITE_TIMEOUT, ..Config::default() };
            let builder = Raft::builder(1).peers([(1, address.clone())]).data_dir(dir.join("1")).config(config);
            let raft = builder.start(Big::default()).await.map_err(|error| error.to_string())?;
            raft.client_write(bytes).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(raft)
        })?;
        Ok(Self { runtime, raft, address, dir })
    }

    /// Builds a snapshot and forgets the log before it, so that who joins needs it.
    fn with_snapshot(self) -> Result<(Self, LogId), String> {
        let at = self.runtime.block_on(async {
            let at = self.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
            self.raft.trigger().purge_log(at.index).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(at)
        })?;
        Ok((self, at))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.runtime.block_on(self.raft.shutdown());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn r2(options: &Options, report: &mut Report) -> Result<(), String> {
    report.settings.push(format!(
        "a state of {} MiB; Quorate: from the request to add a learner, each byte verified against its snapshot before it is sent and against its frame when it arrives, first until all is durable there, then until the learner has verified it once more, restored its state from it and installed it; beside, in both rows: sendfile to a socket, read and written to a file, fdatasync, nothing of it looked at",
        options.bytes >> 20
    ));
    let (leader, at) = Leader::start(options, options.bytes)?.with_snapshot()?;
    let source = options.dir.join(format!("sendfile-{}", std::process::id()));
    let made = File::create(&source).and_then(|mut file| {
        write_noise(options.bytes, &mut file)?;
        file.sync_all()
    });
    made.map_err(|error| format!("cannot make {}: {error}", source.display()))?;
    let mut next = 1;
    let durable: fn(Joined) -> Duration = |joined| joined.durable;
    let rows = [
        ("snapshot to a new node, until it is durable there", durable),
        ("the same, until its state is restored", |joined| joined.restored),
    ];
    for (what, until) in rows {
        let plan = RowPlan {
            id: "R2",
            what: what.to_owned(),
            unit: "MB/s",
            better: Better::Higher,
            goal: Some(Goal::Ratio { must: 0.90, aim: 0.97 }),
        };
        let ours = || {
            next += 1;
            leader.runtime.block_on(join(&leader, next, at)).map(|joined| speed(options, until(joined)))
        };
        let sides = vec![
            Contender::ours("quorate", ours),
            Contender::limit("sendfile", || send(&source).map(|took| speed(options, took))),
        ];
        report.rows.push(measure_row(options, plan, sides)?);
    }
    fs::remove_file(&source).map_err(|error| format!("cannot remove {}: {error}", source.display()))
}

fn speed(options: &Options, took: Duration) -> Trial {
    Trial::of(options.bytes as f64 / 1e6 / took.as_secs_f64())
}

/// How long a blank node waits for the state.
#[derive(Clone, Copy, Debug)]
struct Joined {
    /// Until all bytes are durable on its disk.
    durable: Duration,
    /// Until its state machine has them.
    restored: Duration,
}

/// A blank node joins and gets the snapshot.
async fn join(leader: &Leader, id: u64, at: LogId) -> Result<Joined, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let dir = leader.dir.join(id.to_string());
    let address = format!("127.0.0.1:{}", ports::free(1)[0]);
    // Over TCP a blank node has to know where the others are: without a list it cannot ask who called it.
    let peers = [(1, leader.address.clone()), (id, address.clone())];
    let builder = Raft::builder(id).peers(peers).data_dir(&dir);
    let learner = builder.start(Big::default()).await.map_err(|error| said(&error))?;
    let (begun, mut shown, mut applied) = (Instant::now(), learner.metrics(), learner.data_metrics());
    let arrives = async {
        let mut began = false;
        let arrived = shown.wait_for(|now| {
            began |= now.receiving_snapshot.is_some();
            began && now.receiving_snapshot.is_none() || now.last_applied >= at
        });
        arrived.await.map(|_| begun.elapsed())
    };
    let asked = leader.raft.add_learner(id, Node::at(address), CatchUp::Skip);
    let transfer = async {
        let (arrived, added) = tokio::join!(arrives, asked);
        added.map_err(|error| said(&error))?;
        let durable = arrived.map_err(|error| said(&error))?;
        applied.wait_until(|now| now.last_applied >= at).await.map_err(|reason| said(&reason))?;
        Ok::<_, String>(Joined { durable, restored: begun.elapsed() })
    };
    let joined = tokio::time::timeout(PATIENCE, transfer).await;
    let joined = joined.map_err(|_| format!("no snapshot within {PATIENCE:?}")).flatten()?;
    let gone = ChangeMembers::RemoveNodes([NodeId(id)].into());
    leader.raft.change_membership(gone, Retain::Remove).await.map_err(|error| said(&error))?;
    learner.shutdown().await;
    fs::remove_dir_all(&dir).map_err(|error| said(&error))?;
    Ok(joined)
}

/// The same bytes with nothing of ours.
fn send(source: &Path) -> Result<Duration, String> {
    let wrong = |error: io::Error| format!("sendfile: {error}");
    let target = source.with_extension("received");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(wrong)?;
    let mut here = TcpStream::connect(listener.local_addr().map_err(wrong)?).map_err(wrong)?;
    let (there, _) = listener.accept().map_err(wrong)?;
    let file = File::open(source).map_err(wrong)?;
    let begun = Instant::now();
    let sender = thread::spawn(move || {
        while sendfile(&there, &file, None, BLOCK)? > 0 {}
        Ok::<_, rustix::io::Errno>(())
    });
    let mut received = File::create(&target).map_err(wrong)?;
    let mut block = vec![0; BLOCK];
    loop {
        match here.read(&mut block).map_err(wrong)? {
            0 => break,
            some => received.write_all(&block[..some]).map_err(wrong)?,
        }
    }
    fdatasync(&received).map_err(|error| wrong(error.into()))?;
    let took = begun.elapsed();
    sender.join().map_err(|_| "the sender died".to_owned())?.map_err(|error| wrong(error.into()))?;
    fs::remove_file(&target).map_err(wrong)?;
    Ok(took)
}
