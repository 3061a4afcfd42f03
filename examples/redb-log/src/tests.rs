//! The log passes the suite, crashes included, and a node finds its state in it.

use std::io::{Error as IoError, ErrorKind};

use quorate::ReadPolicy;
use quorate::advanced::wal::DiskFile;
use quorate_testkit::storage::{CLUSTER, Suite};
use redb::StorageBackend;

use super::*;

/// redb's idea of a file on the suite's disk.
#[derive(Debug)]
struct File(Arc<dyn DiskFile>);

impl StorageBackend for File {
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

#[test]
fn it_conforms() {
    let suite = Suite::on_disk(|disk, directory| {
        disk.create_dir_all(directory)?;
        let path = directory.join("log.redb");
        let file = |opened: IoResult<Arc<dyn DiskFile>>| {
            let file = File(opened?);
            whole(|| Database::builder().create_with_backend(file).map_err(failed))
        };
        // As in `open`.
        if matches!(disk.open(&path), Err(error) if error.kind() == ErrorKind::NotFound) {
            let new = path.with_extension("new");
            drop(file(disk.create(&new))?);
            disk.rename(&new, &path)?;
        }
        disk.sync_dir(directory)?;
        RedbLog::on(file(disk.open(&path))?, CLUSTER)
    });
    let report = suite.seeds(1, 1).writes(15).states(60).run();
    println!("{report}");
    assert_eq!(report.assert_passed().not_run_parts(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_finds_its_state() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("quorate-redb-log-{}", std::process::id()));
    for round in 1..=3 {
        let node = start(&directory).await?;
        assert_eq!(node.client_write(format!("round {round}")).await?.response, round);
        let said = node.read(ReadPolicy::ReadIndex, |said| said.0.join(", ")).await?;
        assert!(said.starts_with("round 1") && said.ends_with(&format!("round {round}")), "{said}");
        if round == 2 {
            node.trigger().snapshot().await?;
        }
        node.shutdown().await;
        drop(node);
    }
    std::fs::remove_dir_all(directory).map_err(IoError::other)?;
    Ok(())
}
