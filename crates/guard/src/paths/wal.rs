//! The log on a disk in memory, which costs some instructions of its own.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_core::{ClusterId, GroupId, Instant, LeaderId, LeaderIdMode, NodeId, WriteId};
use quorate_wal::fake::MemDisk;
use quorate_wal::{Wake, WalCore, WalHandle, WalOptions, WalWrite};
use quorate_wire::{Batch, BatchBuilder, Batches, EntryKind};

use crate::measured;

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(1);
const WRITES: u64 = 16;
const COMMAND: [u8; 256] = [b'x'; 256];
const WARM_UP: u64 = 20;
const TURNS: u64 = 200;

pub(super) fn turn() -> Result<u64, Box<dyn Error>> {
    let (mut core, handle) = WalCore::open(Arc::new(MemDisk::new()), Path::new("/data"), WalOptions::new(NodeId(1)))?;
    handle.set_cluster(CLUSTER, LeaderIdMode::Advanced)?;
    let durable = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&durable);
    let on_durable = move |_, result: Result<(), _>| {
        counter.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    };
    handle.open_group(GROUP, Arc::new(on_durable))?;
    let mut writes = entries()?.into_iter();
    let mut one = |turn: u64| {
        writes.by_ref().take(WRITES as usize).for_each(|(write, batch)| submit(&handle, write, batch));
        let now = Instant::from_nanos(0) + Duration::from_millis(turn);
        while core.turn(now) == Wake::Again {}
    };
    (0..WARM_UP).for_each(&mut one);
    measured(|| (WARM_UP..WARM_UP + TURNS).for_each(&mut one));
    if durable.load(Ordering::Relaxed) != (WARM_UP + TURNS) * WRITES {
        return Err("not every write became durable".into());
    }
    Ok(TURNS)
}

/// One entry a write.
fn entries() -> Result<Vec<(WriteId, Batch)>, Box<dyn Error>> {
    let mut builder = BatchBuilder::new();
    let mut seal = |index: u64| {
        builder.push(EntryKind::Command, &COMMAND);
        let batch = builder.seal(CLUSTER, GROUP, LeaderId::new(1, 1), index, index)?;
        Some((WriteId(index), batch))
    };
    (1..=(WARM_UP + TURNS) * WRITES).map(|index| seal(index).ok_or_else(|| "a batch has an entry".into())).collect()
}

fn submit(handle: &WalHandle, write: WriteId, batch: Batch) {
    handle.submit(GROUP, write, WalWrite::Append(Batches::from_iter([batch])));
}
