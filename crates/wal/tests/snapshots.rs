//! Snapshot files: atomic, verified, refused when damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::{Read, Write};
use std::path::Path;

use common::{Rig, log_id, membership, options};
use quorate_core::{GroupId, SnapshotMeta};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, SNAPSHOT_CHUNK_BYTES, SnapshotFile, WalError};

const GROUP: GroupId = GroupId(4);

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: log_id(2, index), membership_log_id: log_id(1, 1), membership: membership(3) }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 31 + i / 253) as u8).collect()
}

fn write(rig: &Rig, index: u64, content: &[u8]) -> Result<SnapshotFile, WalError> {
    let mut writer = rig.handle.snapshots().create(GROUP, &meta(index))?;
    writer.write_all(content).unwrap();
    writer.commit()
}

fn read(snapshot: &SnapshotFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    snapshot.content().read_to_end(&mut bytes).map(|_| bytes)
}

const CRASHES: [Crash; 5] = [Crash::DropAll, Crash::KeepAll, Crash::Subset(1), Crash::Subset(2), Crash::Subset(3)];

/// Whether the latest snapshot after a crash is the one that ends at 9; it is whole, and else so is the one at 5.
fn is_new(after: &MemDisk) -> bool {
    let rig = Rig::open(after, options(64 << 10)).unwrap();
    let latest = rig.handle.snapshots().latest(GROUP).unwrap().unwrap();
    let new = latest.meta().last_log_id.index == 9;
    assert_eq!(read(&latest).unwrap(), content(if new { 3000 } else { 1000 }));
    new
}

#[test]
fn a_snapshot_is_read_back_and_sent_as_it_was_written() {
    for bytes in [0, 10, SNAPSHOT_CHUNK_BYTES, 2 * SNAPSHOT_CHUNK_BYTES + 77] {
        let (from, to) = (MemDisk::new(), MemDisk::new());
        let (sender, receiver) = (Rig::begin(&from, 64 << 10), Rig::begin(&to, 64 << 10));
        let snapshot = write(&sender, 9, &content(bytes)).unwrap();
        assert_eq!(snapshot.meta(), &meta(9));
        assert_eq!(read(&snapshot).unwrap(), content(bytes));

        let mut incoming = receiver.handle.snapshots().receive(GROUP).unwrap();
        let mut buffer = vec![0; 100_000];
        loop {
            let some = snapshot.read_at(incoming.len(), &mut buffer).unwrap();
            if some == 0 {
                break;
            }
            incoming.append(&buffer[..some]).unwrap();
        }
        assert_eq!(incoming.len(), snapshot.len());
        let received = incoming.finish().unwrap();
        assert!(receiver.handle.snapshots().latest(GROUP).unwrap().is_none(), "not this node's yet");
        assert_eq!(received.meta(), &meta(9));
        receiver.handle.snapshots().adopt(received).unwrap();
        drop(receiver);
        let after = to.crashed(Crash::DropAll);
        let rig = Rig::open(&after, options(64 << 10)).unwrap();
        let latest = rig.handle.snapshots().latest(GROUP).unwrap().unwrap();
        assert_eq!((latest.meta(), read(&latest).unwrap()), (&meta(9), content(bytes)));
    }
}

#[test]
fn the_newest_is_found_and_the_others_are_pruned() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    let store = rig.handle.snapshots();
    for index in [5, 300, 17] {
        write(&rig, index, b"state").unwrap();
    }
    let old = store.latest(GROUP).unwrap().unwrap();
    assert_eq!(old.meta().last_log_id.index, 300);
    write(&rig, 301, b"newer").unwrap();
    store.prune(GROUP).unwrap();
    assert_eq!(read(&old).unwrap(), b"state", "who has it open can still send it");
    let names = disk.list(Path::new("/data/snapshots/4")).unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(store.latest(GROUP).unwrap().unwrap().meta().last_log_id.index, 301);
    assert!(store.latest(GroupId(5)).unwrap().is_none());
}

#[test]
fn what_was_put_aside_before_stays() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    for _ in 0..3 {
        write(&rig, 9, b"state").unwrap();
        rig.handle.snapshots().set_aside(GROUP, 1).unwrap();
        assert!(rig.handle.snapshots().latest(GROUP).unwrap().is_none());
    }
    let names = disk.list(Path::new("/data/damaged")).unwrap();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_crash_leaves_the_old_snapshot_or_the_new_one() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    write(&rig, 5, &content(1000)).unwrap();
    disk.start_journal();
    write(&rig, 9, &content(3000)).unwrap();
    let committed = disk.journal_steps();
    rig.handle.snapshots().prune(GROUP).unwrap();
    let mut replay = disk.replay();
    let (mut states, mut found) = (0, [0, 0]);
    loop {
        for crash in CRASHES {
            let after = replay.crashed(crash);
            let new = is_new(&after);
            assert!(new || replay.steps() < committed, "step {}, {crash:?}", replay.steps());
            assert_eq!(after.list(Path::new("/data/incoming")).unwrap(), Vec::<String>::new());
            found[usize::from(new)] += 1;
            states += 1;
        }
        if !replay.advance() {
            break;
        }
    }
    println!("crash states of a snapshot: {states}");
    assert!(found[0] > 10 && found[1] > 5, "{found:?}");
}

#[test]
fn a_crash_while_a_peers_file_is_taken_over_leaves_the_old_snapshot_or_the_new_one() {
    let from = MemDisk::new();
    let sender = Rig::begin(&from, 64 << 10);
    let sent = write(&sender, 9, &content(3000)).unwrap();
    let mut bytes = vec![0; sent.len() as usize];
    sent.read_at(0, &mut bytes).unwrap();
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    write(&rig, 5, &content(1000)).unwrap();
    let dir = Path::new("/data/received");
    disk.create_dir_all(dir).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    disk.start_journal();
    let path = dir.join("group-4-1.incoming");
    disk.create(&path).unwrap().write_at(&bytes, 0).unwrap();
    let store = rig.handle.snapshots();
    let received = store.take_over(GROUP, &path).unwrap().expect("it is on this disk");
    let before = disk.journal_steps();
    store.adopt(received).unwrap();
    let adopted = disk.journal_steps();
    assert!(!disk.list(dir).unwrap().contains(&"group-4-1.incoming".to_owned()), "moved, not copied");
    store.prune(GROUP).unwrap();
    let mut replay = disk.replay();
    let mut found = [0, 0];
    loop {
        for crash in CRASHES {
            let new = is_new(&replay.crashed(crash));
            assert!(new || replay.steps() < adopted, "step {}, {crash:?}", replay.steps());
            assert!(!new || replay.steps() > before, "step {}, {crash:?}: not before it is adopted", replay.steps());
            found[usize::from(new)] += 1;
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(found[0] > 5 && found[1] > 5, "{found:?}");
    // One that is damaged is removed, and named: what it says of itself at once, its content when it is read, and at the
    // latest when it is adopted.
    bytes[100] ^= 1;
    disk.create(&path).unwrap().write_at(&bytes, 0).unwrap();
    let received = store.take_over(GROUP, &path).unwrap().expect("it is on this disk");
    let read = received.content().read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(read.contains("group-4-1.incoming") && read.contains("64"), "{read}");
    let error = store.adopt(received).unwrap_err().to_string();
    assert!(error.contains("group-4-1.incoming") && error.contains("64"), "{error}");
    assert_eq!(disk.list(dir).unwrap(), Vec::<String>::new());
    bytes[1] ^= 1;
    disk.create(&path).unwrap().write_at(&bytes, 0).unwrap();
    let error = store.take_over(GROUP, &path).unwrap_err().to_string();
    assert!(error.contains("group-4-1.incoming"), "{error}");
    assert_eq!(disk.list(dir).unwrap(), Vec::<String>::new());
    assert!(store.take_over(GROUP, &path).unwrap().is_none(), "there is no such file");
}

/// A machine may take an error for the end, or go on. Neither shows it what was not verified, and what it made of that is
/// not kept, should the disk read well the next time.
#[test]
fn after_a_read_that_failed_nothing_unverified_is_read_and_nothing_adopted() {
    let sender = Rig::begin(&MemDisk::new(), 64 << 10);
    let sent = write(&sender, 9, &content(SNAPSHOT_CHUNK_BYTES + 5)).unwrap();
    let mut bytes = vec![0; sent.len() as usize];
    assert_eq!(sent.read_at(0, &mut bytes).unwrap(), bytes.len());
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    let store = rig.handle.snapshots();
    let path = Path::new("/data/incoming/group-4-1.incoming");
    for damaged in [70, SNAPSHOT_CHUNK_BYTES + 66] {
        let mut other = bytes.clone();
        other[damaged] ^= 1;
        let file = disk.create(path).unwrap();
        file.write_at(&other, 0).unwrap();
        let received = store.take_over(GROUP, path).unwrap().expect("it is on this disk");
        let (mut reader, mut read) = (received.content(), Vec::new());
        reader.read_to_end(&mut read).unwrap_err();
        let before = read.len();
        for _ in 0..2 {
            reader.read(&mut [0; 16]).unwrap_err();
        }
        file.write_at(&bytes, 0).unwrap();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == content(SNAPSHOT_CHUNK_BYTES + 5), "{damaged}: {before} bytes before it failed");
        let error = store.adopt(received).unwrap_err().to_string();
        assert!(error.contains("group-4-1.incoming"), "{error}");
    }
}

/// A large one is read once: what a machine was restored from is not read again to adopt it, the rest is.
#[test]
fn damage_behind_what_was_read_keeps_a_snapshot_from_being_adopted() {
    let sender = Rig::begin(&MemDisk::new(), 64 << 10);
    let sent = write(&sender, 9, &content(2 * SNAPSHOT_CHUNK_BYTES + 5)).unwrap();
    let (mut bytes, mut checked) = (Vec::new(), sent.checked());
    while (bytes.len() as u64) < checked.len() {
        let offset = bytes.len() as u64;
        checked.append(&mut bytes, offset, 700_001).unwrap();
    }
    let mut same = vec![0; sent.len() as usize];
    assert_eq!(sent.read_at(0, &mut same).unwrap(), same.len());
    assert!(bytes == same, "what is checked on its way is the file");
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    let store = rig.handle.snapshots();
    let path = Path::new("/data/incoming/group-4-1.incoming");
    for (damaged, sound) in
        [(70, false), (SNAPSHOT_CHUNK_BYTES + 70, false), (2 * SNAPSHOT_CHUNK_BYTES + 66, false), (0, true)]
    {
        let mut bytes = bytes.clone();
        bytes[damaged] ^= u8::from(!sound);
        disk.create(path).unwrap().write_at(&bytes, 0).unwrap();
        let received = store.take_over(GROUP, path).unwrap().expect("it is on this disk");
        let mut front = vec![0; SNAPSHOT_CHUNK_BYTES + 1];
        let read = received.content().read_exact(&mut front);
        assert_eq!(read.is_ok(), damaged != 70 && damaged != SNAPSHOT_CHUNK_BYTES + 70, "{damaged}");
        assert_eq!(store.adopt(received).is_ok(), sound, "{damaged}");
    }
    assert_eq!(read(&store.latest(GROUP).unwrap().unwrap()).unwrap(), content(2 * SNAPSHOT_CHUNK_BYTES + 5));
}

#[test]
fn a_flipped_byte_anywhere_is_refused_and_named() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    let bytes = write(&rig, 9, &content(5000)).unwrap().len();
    drop(rig);
    let (path, _) = disk.files().into_iter().find(|(path, _)| path.extension().is_some_and(|e| e == "snap")).unwrap();
    for offset in 0..bytes {
        let damaged = disk.crashed(Crash::KeepAll);
        damaged.flip(&path, offset, 0x04);
        let rig = Rig::open(&damaged, options(64 << 10)).unwrap();
        let error = match rig.handle.snapshots().latest(GROUP) {
            Ok(snapshot) => snapshot.unwrap().verify().unwrap_err(),
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(text.contains(".snap"), "offset {offset}: {error}");
        // The file, and where in it.
        let named = matches!(error, WalError::OtherVersion { .. }) || text.contains("offset");
        assert!(named, "offset {offset}: {error}");
    }
}

#[test]
fn what_did_not_arrive_whole_or_is_of_another_group_is_refused() {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, 64 << 10);
    let snapshot = write(&rig, 9, &content(5000)).unwrap();
    let mut bytes = vec![0; snapshot.len() as usize];
    snapshot.read_at(0, &mut bytes).unwrap();
    for cut in [0, 10, 63, 64, 3000, bytes.len() - 1] {
        let mut incoming = rig.handle.snapshots().receive(GROUP).unwrap();
        incoming.append(&bytes[..cut]).unwrap();
        assert!(matches!(incoming.finish(), Err(WalError::Corrupt(_))), "cut at {cut}");
    }
    let mut incoming = rig.handle.snapshots().receive(GroupId(1)).unwrap();
    incoming.append(&bytes).unwrap();
    assert!(matches!(incoming.finish(), Err(WalError::Corrupt(_))));
    assert_eq!(disk.list(Path::new("/data/incoming")).unwrap(), Vec::<String>::new(), "nothing is left behind");
    // Garbage with lengths that ask for a lot of memory.
    let mut garbage = bytes.clone();
    let at = garbage.len() - 28;
    garbage[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let checksum = crc32c::crc32c(&garbage[at - 4..at + 24]);
    garbage[at + 24..].copy_from_slice(&checksum.to_le_bytes());
    let mut incoming = rig.handle.snapshots().receive(GROUP).unwrap();
    incoming.append(&garbage).unwrap();
    assert!(matches!(incoming.finish(), Err(WalError::Corrupt(_))));
}

/// The one before a crash of its user's code, or a stop that did not wait: it goes on writing while the next one writes.
#[test]
fn what_an_earlier_opening_still_writes_is_not_what_the_next_one_writes() {
    let disk = MemDisk::new();
    let first = Rig::begin(&disk, 64 << 10);
    let mut stuck = first.handle.snapshots().create(GROUP, &meta(5)).unwrap();
    stuck.write_all(&content(1000)).unwrap();
    let Rig { core, .. } = first;
    drop(core);

    let next = Rig::open(&disk, options(64 << 10)).unwrap();
    let mut writer = next.handle.snapshots().create(GROUP, &meta(9)).unwrap();
    writer.write_all(&content(2000)).unwrap();
    stuck.write_all(&content(3000)).unwrap();
    assert!(stuck.commit().is_err(), "its file went when the directory was opened again");
    let snapshot = writer.commit().unwrap();
    assert_eq!(read(&snapshot).unwrap(), content(2000));
    let latest = next.handle.snapshots().latest(GROUP).unwrap().unwrap();
    assert_eq!((latest.meta(), read(&latest).unwrap()), (&meta(9), content(2000)));
}
