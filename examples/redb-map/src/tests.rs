//! The map passes the suite for durable machines, crashes included, and three nodes keep equal maps through restarts.

use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::sync::Arc;

use quorate::advanced::wal::{Disk, DiskFile};
use quorate::{MemoryNetwork, RaftMetrics};
use quorate_testkit::{Chance, machine};
use redb::StorageBackend;

use super::*;

/// redb's idea of a file on the suite's disk.
#[derive(Debug)]
struct OnDisk(Arc<dyn DiskFile>);

impl StorageBackend for OnDisk {
    fn len(&self) -> IoResult<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> IoResult<()> {
        let mut at = offset;
        while !out.is_empty() {
            let count = self.0.read_at(out, at)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            (at, out) = (at + count as u64, &mut out[count..]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> IoResult<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> IoResult<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> IoResult<()> {
        let mut at = offset;
        while !data.is_empty() {
            let count = self.0.write_at(data, at)?;
            (at, data) = (at + count as u64, &data[count..]);
        }
        Ok(())
    }
}

/// As [`Map::open`], on another disk.
fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> IoResult<Map> {
    disk.create_dir_all(directory)?;
    let path = directory.join("map.redb");
    let database = |file| Database::builder().create_with_backend(OnDisk(file)).map_err(failed);
    if matches!(disk.open(&path), Err(error) if error.kind() == ErrorKind::NotFound) {
        let new = path.with_extension("new");
        drop(database(disk.create(&new)?)?);
        disk.rename(&new, &path)?;
    }
    disk.sync_dir(directory)?;
    database(disk.open(&path)?).map(Map)
}

/// Few keys, so that commands meet.
fn command(chance: &mut Chance) -> Command {
    let key = format!("k{}", chance.below(5));
    match chance.below(4) {
        0 => Command::Remove(key),
        _ => Command::Put(key, format!("v{}", chance.below(100))),
    }
}

#[test]
fn it_conforms() {
    let report = machine::Suite::durable_on_disk(open_on, command).seeds(1, 1).commands(24).states(60).run();
    println!("{report}");
    assert_eq!(report.assert_passed().not_run_parts().len(), 3, "the parts for machines in memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_go_on_from_their_files() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("quorate-redb-map-{}", std::process::id()));
    let peers = [(1, "memory:1"), (2, "memory:2"), (3, "memory:3")];
    for round in 0..3 {
        let (network, mut nodes) = (MemoryNetwork::new(), Vec::new());
        for (id, _) in peers {
            let home = directory.join(id.to_string());
            fs::create_dir_all(&home)?;
            let map = Map::open(&home.join("map.redb"))?;
            nodes.push(Raft::builder(id).peers(peers).in_memory(&network).data_dir(home).start(map).await?);
        }
        let before = nodes[0].client_write(Command::Put("round".into(), round.to_string())).await?.response;
        assert_eq!(before, (round > 0).then(|| (round - 1).to_string()), "applied once");
        for node in &nodes {
            assert_eq!(node.read(ReadPolicy::ReadIndex, |map| map.get("round")).await??, Some(round.to_string()));
        }
        if round == 1 {
            let last = nodes[1].trigger().snapshot().await?;
            let purged = |now: &RaftMetrics| now.snapshot >= last;
            nodes[1].wait(std::time::Duration::from_secs(20)).metrics(purged, "a snapshot").await?;
        }
        for node in nodes {
            node.shutdown().await;
        }
    }
    fs::remove_dir_all(directory).map_err(IoError::other)?;
    Ok(())
}
