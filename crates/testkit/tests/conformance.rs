//! Our own implementations of the library's traits pass the suites for them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::advanced::wal::Disk;
use quorate::{
    EntryContext, Frozen, LeaderIdMode, MemoryNetwork, MemorySnapshots, MemoryStorage, RaftStateMachine, Raw, Storage,
    StorageError, TcpNetwork,
};
use quorate_testkit::{machine, network, storage};

/// The library's own log, in a cluster.
fn open_wal(disk: Arc<dyn Disk>, dir: &Path) -> Result<Storage, StorageError> {
    let storage = Storage::open_on(disk, dir, 1)?;
    if storage.identity.identity().cluster != storage::CLUSTER {
        storage.identity.set_cluster(storage::CLUSTER, LeaderIdMode::Advanced)?;
    }
    Ok(storage)
}

#[test]
fn the_write_ahead_log() {
    let report = storage::Suite::on_disk(|disk, dir| open_wal(disk, dir).map(|storage| storage.log)).states(120).run();
    println!("{report}");
    let sampled = report.to_string().lines().filter(|line| line.ends_with(" places")).count();
    assert_eq!(sampled, 3, "crashes, torn writes and failing calls say at how many places of how many");
    assert_eq!(report.assert_passed().not_run_parts(), [""; 0]);
}

#[test]
fn the_write_ahead_log_in_a_directory() {
    let suite =
        storage::Suite::new(|dir| open_wal(Arc::new(quorate::advanced::wal::RealDisk), dir).map(|open| open.log));
    println!("{}", suite.seeds(1, 1).writes(15).run().assert_passed());
}

#[test]
fn the_log_in_memory() {
    let logs = Mutex::new(BTreeMap::<PathBuf, MemoryStorage>::new());
    let report = storage::conformance(|dir| Ok(logs.lock().unwrap().entry(dir.to_owned()).or_default().clone()));
    println!("{report}");
}

#[test]
fn the_snapshots_of_a_directory() {
    let report = storage::snapshots::Suite::on_disk(|disk, dir| open_wal(disk, dir).map(|open| Store(open.snapshots)));
    println!("{}", report.states(120).run().assert_passed());
}

#[test]
fn the_snapshots_in_memory() {
    let stores = Mutex::new(BTreeMap::<PathBuf, MemorySnapshots>::new());
    let open = |dir: &Path| Ok(stores.lock().unwrap().entry(dir.to_owned()).or_default().clone());
    println!("{}", storage::snapshots::conformance(open));
}

#[test]
fn the_network_in_memory() {
    for network in [MemoryNetwork::new(), MemoryNetwork::fused()] {
        let report = network::conformance(|identity| {
            let me = identity.identity();
            Ok((network.endpoint(me.node, me.incarnation), "memory".to_owned()))
        });
        println!("{report}");
    }
}

#[test]
fn patience_without_an_end_is_no_overflow() {
    let logs = Mutex::new(BTreeMap::<PathBuf, MemoryStorage>::new());
    let suite = storage::Suite::new(|dir| Ok(logs.lock().unwrap().entry(dir.to_owned()).or_default().clone()));
    println!("{}", suite.patience(Duration::MAX).seeds(1, 1).writes(5).run().assert_passed());
    let network = MemoryNetwork::new();
    let suite = network::Suite::new(|identity| {
        let me = identity.identity();
        Ok((network.endpoint(me.node, me.incarnation), "memory".to_owned()))
    });
    println!("{}", suite.patience(Duration::MAX).largest(1 << 20).run().assert_passed());
}

#[test]
fn the_network_over_tcp() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let suite = network::Suite::new(|identity| {
        let network = runtime.block_on(TcpNetwork::bind(identity, "127.0.0.1:0"))?;
        let address = format!("127.0.0.1:{}", network.port());
        Ok((network, address))
    });
    let report = suite.over_tcp().run();
    println!("{report}");
    assert_eq!(report.assert_passed().not_run_parts(), [""; 0]);
}

/// The example's machine.
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

#[test]
fn a_counter() {
    println!("{}", machine::conformance(|| Counter(0), |chance| chance.below(1000)));
}

/// A map whose snapshots can be captured, and which uses the entry's place.
#[derive(Clone, Debug, Default)]
struct Map(BTreeMap<Vec<u8>, (u64, Vec<u8>)>);

impl RaftStateMachine for Map {
    type Command = Raw;
    type Response = Raw;

    fn apply(&mut self, _command: Raw) -> Raw {
        unreachable!("apply_entry is provided")
    }

    fn apply_entry(&mut self, entry: EntryContext, command: Raw) -> Raw {
        let (key, value) = command.0.split_at(1);
        let before = self.0.insert(key.to_vec(), (entry.log_id.index, value.to_vec()));
        Raw(before.map(|(index, value)| [&index.to_le_bytes()[..], &value].concat()).unwrap_or_default().into())
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.0.len() as u64).to_le_bytes())?;
        for (key, (index, value)) in &self.0 {
            out.write_all(&[key[0], value.len() as u8])?;
            out.write_all(&index.to_le_bytes())?;
            out.write_all(value)?;
        }
        Ok(())
    }

    fn restore(input: &mut dyn Read) -> io::Result<Self> {
        let mut number = [0; 8];
        input.read_exact(&mut number)?;
        let mut map = BTreeMap::new();
        for _ in 0..u64::from_le_bytes(number) {
            let mut head = [0; 2];
            input.read_exact(&mut head)?;
            input.read_exact(&mut number)?;
            let mut value = vec![0; head[1].into()];
            input.read_exact(&mut value)?;
            map.insert(vec![head[0]], (u64::from_le_bytes(number), value));
        }
        Ok(Self(map))
    }

    fn freeze(&self) -> Option<Frozen> {
        let then = self.clone();
        Some(Box::new(move |out| then.snapshot(out)))
    }
}

#[test]
fn a_map() {
    let suite = machine::Suite::new(Map::default, |chance| {
        let (key, length) = (chance.below(20) as u8, chance.below(30) as usize);
        Raw([vec![key], chance.bytes(length)].concat().into())
    });
    println!("{}", suite.contents(|map| format!("{:?}", map.0)).run().assert_passed());
}

/// A store that is shared.
struct Store(Arc<dyn quorate::SnapshotStore>);

impl quorate::SnapshotStore for Store {
    fn create(
        &self,
        group: quorate::GroupId,
        meta: &quorate::SnapshotMeta,
    ) -> Result<Box<dyn quorate::SnapshotWriter>, StorageError> {
        self.0.create(group, meta)
    }

    fn latest(&self, group: quorate::GroupId) -> Result<Option<Box<dyn quorate::StoredSnapshot>>, StorageError> {
        self.0.latest(group)
    }

    fn receive(
        &self,
        group: quorate::GroupId,
        data: quorate::SnapshotData,
    ) -> Result<Box<dyn quorate::ReceivedContent>, StorageError> {
        self.0.receive(group, data)
    }
}
