//! A process that is killed: what it acknowledged is there, even if the system had lost everything unsynced.
//!
//! The test starts itself again as the process to be killed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{CLUSTER, batch_of, log_id};
use quorate_core::{GroupId, LeaderIdMode, NodeId, WriteId};
use quorate_wal::fake::LossyDisk;
use quorate_wal::{Disk, RealDisk, Wal, WalError, WalOptions, WalWrite};
use quorate_wire::{Batches, EntryKind};

const GROUP: GroupId = GroupId(1);

fn options() -> WalOptions {
    WalOptions { segment_bytes: 128 << 10, ..WalOptions::new(NodeId(1)) }
}

/// The process to be killed: appends for ever and prints what is acknowledged.
#[test]
fn victim() {
    let Ok(dir) = std::env::var("QUORATE_WAL_VICTIM") else { return };
    let disk = if std::env::var("QUORATE_WAL_LIES").is_ok() { LossyDisk::that_lies() } else { LossyDisk::new() };
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let wal = Wal::open(disk, Path::new(&dir), options()).unwrap();
    wal.set_cluster(CLUSTER, LeaderIdMode::Advanced).unwrap();
    let told = |write: WriteId, result: Result<(), WalError>| {
        result.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {}", write.0).unwrap();
    };
    let state = wal.open_group(GROUP, Arc::new(told)).unwrap();
    for index in state.log.last().index + 1.. {
        let payload = index.to_le_bytes().repeat(20);
        let entry = common::ModelEntry { id: log_id(1, index), kind: EntryKind::Command, payload: payload.into() };
        wal.submit(GROUP, WriteId(index), WalWrite::Append(Batches::from_iter([batch_of(GROUP, &[entry])])));
        if index % 16 == 0 {
            std::thread::yield_now();
        }
    }
}

/// Runs the victim until it acknowledged `count` more writes; kills it; returns the last one.
fn kill_after(dir: &Path, count: usize, lies: bool) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "victim", "--nocapture"]).env("QUORATE_WAL_VICTIM", dir);
    if lies {
        command.env("QUORATE_WAL_LIES", "1");
    }
    let mut victim = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let acknowledged = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    let last = acknowledged.take(count).last();
    victim.kill().unwrap();
    victim.wait().unwrap();
    last.expect("the victim acknowledges writes")
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = std::env::temp_dir().join(format!("quorate-wal-kill-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    for round in 1..=3 {
        let last = kill_after(&dir, 300 * round, false);
        let wal = Wal::open(Arc::new(RealDisk), &dir, options()).unwrap();
        let state = wal.open_group(GROUP, Arc::new(|_, _| {})).unwrap();
        assert!(state.log.last().index >= last, "{last} was acknowledged, the log ends at {}", state.log.last());
        let entries = common::read_all(&wal, GROUP, state.log.purged(), state.log.last(), 1 << 20).unwrap();
        assert!(entries.iter().all(|entry| *entry.payload == *entry.id.index.to_le_bytes().repeat(20)));
        wal.shutdown().unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The proof that the test above could fail: on a disk that does not keep its word, it does.
#[test]
fn on_a_disk_that_lies_the_acknowledged_is_lost() {
    let dir = std::env::temp_dir().join(format!("quorate-wal-lies-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    kill_after(&dir, 50, true);
    let kept = match Wal::open(Arc::new(RealDisk), &dir, options()) {
        Ok(wal) => wal.open_group(GROUP, Arc::new(|_, _| {})).unwrap().log.last().index,
        Err(_) => 0,
    };
    assert!(kept < 50, "{kept} writes survived a disk that keeps nothing");
    std::fs::remove_dir_all(&dir).unwrap();
}
