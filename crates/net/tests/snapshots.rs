//! A snapshot arrives whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{Hello, Log, Node, PATIENCE, header, identity, meta, noise, options};
use quorate_core::{NodeId, SendOutcome};
use quorate_net::{CheckedContent, OutgoingSnapshot, Progress, ReceivedData, SnapshotSource, TransportOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A directory of this test's own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quorate-net-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn receiver(dir: Option<&Path>) -> Node {
    let mut options = options(identity(2));
    options.incoming_dir = dir.map(Path::to_path_buf);
    Node::start(options).await
}

async fn outcome(from: &Node, source: SnapshotSource) -> SendOutcome {
    outcome_with(from, source, Progress::default()).await
}

async fn outcome_with(from: &Node, source: SnapshotSource, progress: Progress) -> SendOutcome {
    let (sender, told) = oneshot::channel();
    let snapshot = OutgoingSnapshot { group: common::GROUP, header: header(), meta: meta(), source, progress };
    from.net.send_snapshot(NodeId(2), snapshot, move |outcome| sender.send(outcome).unwrap());
    timeout(PATIENCE, told).await.expect("it ends").expect("and is told")
}

#[tokio::test]
async fn five_mebibytes_arrive_equal_in_a_file() {
    let dir = Dir::new("file");
    let content = noise(5 << 20, 1);
    let sent = dir.0.join("sent");
    File::create(&sent).unwrap().write_all(&content).unwrap();
    let incoming = dir.0.join("incoming");
    let (one, mut two) = (Node::start(options(identity(1))).await, receiver(Some(&incoming)).await);
    one.knows(&two, 2);
    let file = File::open(&sent).unwrap();
    fs::remove_file(&sent).unwrap();
    assert_eq!(outcome(&one, SnapshotSource::File(file)).await, SendOutcome::Delivered);
    let snapshot = two.snapshot().await;
    assert_eq!((snapshot.group, snapshot.header, &snapshot.meta), (common::GROUP, header(), &meta()));
    assert_eq!(snapshot.len, content.len() as u64);
    let ReceivedData::File(path) = snapshot.data else { panic!("a file") };
    assert!(path.starts_with(&incoming));
    assert!(fs::read(&path).unwrap() == content, "the content is equal");
    drop(two);
    assert!(path.exists(), "the file belongs to the receiver now");
}

#[tokio::test]
async fn a_snapshot_in_memory_arrives_in_memory_and_may_be_empty() {
    let (one, mut two) = (Node::start(options(identity(1))).await, receiver(None).await);
    one.knows(&two, 2);
    for content in [noise(700_000, 2), Vec::new()] {
        let source = SnapshotSource::Memory(Bytes::from(content.clone()));
        assert_eq!(outcome(&one, source).await, SendOutcome::Delivered);
        let ReceivedData::Memory(found) = two.snapshot().await.data else { panic!("in memory") };
        assert!(found == content, "the content is equal");
    }
}

/// A byte on its way: changed, or `None` to close.
type Change = fn(u8) -> Option<u8>;

/// Passes bytes on to `to`, but does to the dialing side's byte number `at` what `change` says.
async fn meddler(to: String, at: usize, change: Change) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (dialing, _) = listener.accept().await.unwrap();
            let listening = TcpStream::connect(&to).await.unwrap();
            let (mut from_dialing, mut to_dialing) = dialing.into_split();
            let (mut from_listening, mut to_listening) = listening.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_listening, &mut to_dialing).await });
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (0, vec![0; 64 << 10]);
                loop {
                    let read = from_dialing.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    if (seen..seen + read).contains(&at) {
                        match change(buffer[at - seen]) {
                            Some(byte) => buffer[at - seen] = byte,
                            None => return,
                        }
                    }
                    seen += read;
                    if to_listening.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_nothing_of_the_damage_is_kept() {
    let dir = Dir::new("damaged");
    let mut log = Log::capture();
    let (one, mut two) = (Node::start(options(identity(1))).await, receiver(Some(&dir.0)).await);
    let content = Bytes::from(noise(1 << 20, 3));
    let mut other = 30;
    let damages: [(usize, Change, &str); 3] = [
        (600_000, |byte| Some(byte ^ 1), "checksum of a frame of kind 4"),
        (602, |byte| Some(byte ^ 128), "checksum"),
        (600_000, |_| None, "the other end"),
    ];
    for (at, change, why) in damages {
        one.net.set_address(NodeId(2), &meddler(two.address(), at, change).await);
        // Each time another content, so that none goes on where the one before ended.
        other += 1;
        let content = Bytes::from(noise(1 << 20, other));
        assert_eq!(outcome(&one, SnapshotSource::Memory(content)).await, SendOutcome::Failed);
        log.line(&["WARN", "peer=2", "snapshot not delivered"]).await;
        log.line(&["peer=1", "lane=snapshot", why]).await;
        assert!(!two.told().iter().any(|event| matches!(event, common::Event::Snapshot(..))));
    }
    one.knows(&two, 2);
    assert_eq!(outcome(&one, SnapshotSource::Memory(content.clone())).await, SendOutcome::Delivered);
    let ReceivedData::File(path) = two.snapshot().await.data else { panic!("a file") };
    assert!(fs::read(&path).unwrap() == content, "the content is equal");
    assert_eq!(dir.files(), [path], "no part is left");
}

/// Content of which only so much is what was written.
#[derive(Debug)]
struct Judged {
    content: Bytes,
    sound: usize,
}

impl CheckedContent for Judged {
    fn length(&self) -> u64 {
        self.content.len() as u64
    }

    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> io::Result<()> {
        let from = offset as usize;
        let until = self.content.len().min(from + most);
        if until > self.sound {
            return Err(io::Error::other("a chunk does not match"));
        }
        to.extend_from_slice(&self.content[from..until]);
        Ok(())
    }
}

#[tokio::test]
async fn what_is_checked_as_it_is_read_is_not_delivered_if_it_is_damaged() {
    let dir = Dir::new("checked");
    let mut log = Log::capture();
    // Nobody waits for the word of a receiver that waits for the rest.
    let patient = TransportOptions { snapshot_idle_timeout: 10 * PATIENCE, ..options(identity(1)) };
    let (one, mut two) = (Node::start(patient).await, receiver(Some(&dir.0)).await);
    one.knows(&two, 2);
    let content = Bytes::from(noise(1 << 20, 40));
    let of = |sound| SnapshotSource::Checked(Box::new(Judged { content: content.clone(), sound }));
    assert_eq!(outcome(&one, of(content.len() - 1)).await, SendOutcome::Failed);
    log.line(&["WARN", "peer=2", "snapshot not delivered", "a chunk does not match"]).await;
    assert!(!two.told().iter().any(|event| matches!(event, common::Event::Snapshot(..))));
    assert_eq!(outcome(&one, of(content.len())).await, SendOutcome::Delivered);
    let ReceivedData::File(path) = two.snapshot().await.data else { panic!("a file") };
    assert!(fs::read(&path).unwrap() == content, "the content is equal");
}

/// Bytes and total, each time.
type Told = Arc<Mutex<Vec<(u64, u64)>>>;

/// The first and the last that was told.
fn told_to(progress: &Told) -> ((u64, u64), (u64, u64)) {
    let told = progress.lock().unwrap();
    (told[0], told[told.len() - 1])
}

fn listener() -> (Told, Progress) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&told);
    (told, Progress::new(move |bytes, total| to.lock().unwrap().push((bytes, total))))
}

/// Sends content whose transfer breaks in the middle, and waits until the part is there.
async fn break_off(one: &Node, two: &Node, dir: &Dir, content: &Bytes) {
    one.net.set_address(NodeId(2), &meddler(two.address(), 900_000, |_| None).await);
    assert_eq!(outcome(one, SnapshotSource::Memory(content.clone())).await, SendOutcome::Failed);
    let half = |path: &PathBuf| fs::metadata(path).unwrap().len() == 3 * (256 << 10);
    common::until(|| dir.files().iter().any(half)).await;
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_ended_also_after_a_restart_of_the_receiver() {
    let dir = Dir::new("resume");
    let (one, two) = (Node::start(options(identity(1))).await, receiver(Some(&dir.0)).await);
    let content = Bytes::from(noise(2 << 20, 4));
    break_off(&one, &two, &dir, &content).await;
    two.net.shutdown();
    let mut two = receiver(Some(&dir.0)).await;
    one.knows(&two, 2);
    let (told, progress) = listener();
    assert_eq!(outcome_with(&one, SnapshotSource::Memory(content.clone()), progress).await, SendOutcome::Delivered);
    assert_eq!(told_to(&told), ((3 * (256 << 10), 2 << 20), (2 << 20, 2 << 20)));
    let ReceivedData::File(path) = two.snapshot().await.data else { panic!("a file") };
    assert!(fs::read(&path).unwrap() == content, "the content is equal");
    assert_eq!(dir.files(), [path]);
}

#[tokio::test]
async fn a_part_that_ends_within_a_block_goes_on_at_its_start() {
    let dir = Dir::new("odd");
    let (one, two) = (Node::start(options(identity(1))).await, receiver(Some(&dir.0)).await);
    let content = Bytes::from(noise(2 << 20, 9));
    break_off(&one, &two, &dir, &content).await;
    two.net.shutdown();
    let [path] = dir.files().try_into().unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(600_001).unwrap();
    let mut two = receiver(Some(&dir.0)).await;
    one.knows(&two, 2);
    let (told, progress) = listener();
    assert_eq!(outcome_with(&one, SnapshotSource::Memory(content.clone()), progress).await, SendOutcome::Delivered);
    assert_eq!(told_to(&told).0, (600_001 / 4096 * 4096, 2 << 20));
    let ReceivedData::File(path) = two.snapshot().await.data else { panic!("a file") };
    assert!(fs::read(&path).unwrap() == content, "the content is equal");
}

#[tokio::test]
async fn a_snapshot_of_other_bytes_is_not_mixed_with_what_arrived() {
    let dir = Dir::new("mixed");
    let (one, mut two) = (Node::start(options(identity(1))).await, receiver(Some(&dir.0)).await);
    break_off(&one, &two, &dir, &Bytes::from(noise(2 << 20, 5))).await;
    one.knows(&two, 2);
    // The same entries, the same length, built again: other bytes.
    let content = Bytes::from(noise(2 << 20, 6));
    let (told, progress) = listener();
    assert_eq!(outcome_with(&one, SnapshotSource::Memory(content.clone()), progress).await, SendOutcome::Delivered);
    assert_eq!(told_to(&told).0, (0, 2 << 20), "it begins again");
    let ReceivedData::File(path) = two.snapshot().await.data else { panic!("a file") };
    assert!(fs::read(&path).unwrap() == content, "the content is equal");

    break_off(&one, &two, &dir, &Bytes::from(noise(2 << 20, 7))).await;
    one.knows(&two, 2);
    let shorter = SnapshotSource::Memory(Bytes::from(noise(1000, 8)));
    assert_eq!(outcome(&one, shorter).await, SendOutcome::Delivered);
    assert_eq!(two.snapshot().await.len, 1000);
    let parts = dir.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "part"));
    assert_eq!(parts.count(), 0, "the part of another snapshot is removed");
}

#[tokio::test]
async fn a_newer_transfer_takes_the_place_of_one_that_stands_still() {
    let dir = Dir::new("newer");
    let mut two = receiver(Some(&dir.0)).await;
    let mut stream = common::raw_peer(&two, Hello::new(1, 2, 3)).await;
    stream.write_all(&[begin(6), chunk(0, b"one")].concat()).await.unwrap();
    common::until(|| !dir.files().is_empty()).await;
    let mut again = common::raw_peer(&two, Hello::new(1, 2, 3)).await;
    let all = [begin(6), chunk(0, b"one"), chunk(3, b"two"), end(6, crc32c::crc32c(b"onetwo"))].concat();
    again.write_all(&all).await.unwrap();
    again.shutdown().await.unwrap();
    assert_eq!(reply(&common::read_to_close(&mut again).await), (0, String::new()));
    assert_eq!(two.snapshot().await.len, 6);
    stream.shutdown().await.unwrap();
    let (code, text) = reply(&common::read_to_close(&mut stream).await);
    assert_eq!(code, 11);
    assert!(text.contains("a newer transfer of this group began"), "{text}");
}

#[tokio::test]
async fn a_limit_of_the_rate_that_no_transfer_could_live_with_is_refused() {
    let mut useless = options(identity(1));
    useless.snapshot_max_bytes_per_second = Some(1);
    assert!(quorate_net::Transport::bind(useless).await.is_err(), "a chunk would take longer than anybody waits");
}

#[tokio::test]
async fn what_cannot_be_sent_or_kept_fails_in_words() {
    let mut log = Log::capture();
    let one = Node::start(options(identity(1))).await;
    let source = || SnapshotSource::Memory(Bytes::from_static(b"twelve bytes"));
    assert_eq!(outcome(&one, source()).await, SendOutcome::Failed);
    log.line(&["snapshot not delivered", "no address is known for node 2"]).await;

    let mut small = options(identity(2));
    small.max_snapshot_bytes = 11;
    let two = Node::start(small).await;
    one.knows(&two, 2);
    assert_eq!(outcome(&one, source()).await, SendOutcome::Failed);
    log.line(&["snapshot not delivered", "snapshot of 12 bytes exceeds the limit of 11; raise max_snapshot_bytes"])
        .await;

    let dir = Dir::new("gone");
    let three = receiver(Some(&dir.0)).await;
    one.knows(&three, 2);
    fs::remove_dir_all(&dir.0).unwrap();
    assert_eq!(outcome(&one, source()).await, SendOutcome::Failed);
    log.line(&["snapshot not delivered", "cannot write the snapshot"]).await;

    three.net.shutdown();
    three.net.closed().await;
    assert_eq!(outcome(&one, source()).await, SendOutcome::Failed);
    log.line(&["snapshot not delivered", "no process listens there"]).await;

    one.net.shutdown();
    assert_eq!(outcome(&one, source()).await, SendOutcome::Failed, "also after a shutdown it is told");
}

#[tokio::test]
async fn leftovers_of_an_earlier_run_are_removed_and_other_files_are_not() {
    let dir = Dir::new("leftovers");
    fs::write(dir.0.join("group-1-from-1-1.incoming"), b"half").unwrap();
    fs::write(dir.0.join("mine"), b"whole").unwrap();
    receiver(Some(&dir.0)).await;
    assert_eq!(dir.files(), [dir.0.join("mine")]);
}

/// An announcement by hand: 24 fixed bytes, append header, meta.
fn begin(length: u64) -> Vec<u8> {
    let (mut append, mut snapshot) = (Vec::new(), Vec::new());
    quorate_wire::encode_append_header(&header(), &mut append);
    quorate_wire::encode_snapshot_meta(&meta(), &mut snapshot);
    let mut out = common::GROUP.0.to_le_bytes().to_vec();
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(append.len() as u32).to_le_bytes());
    out.extend_from_slice(&(snapshot.len() as u32).to_le_bytes());
    out.extend_from_slice(&append);
    out.extend_from_slice(&snapshot);
    common::frame_bytes(3, &out, b"")
}

fn chunk(offset: u64, content: &[u8]) -> Vec<u8> {
    common::frame_bytes(4, &[&offset.to_le_bytes(), content].concat(), b"")
}

fn end(length: u64, checksum: u32) -> Vec<u8> {
    common::frame_bytes(5, &[&length.to_le_bytes()[..], &checksum.to_le_bytes()].concat(), b"")
}

/// Code and text of the reply frame in `said`, which may come after a resume frame.
fn reply(said: &[u8]) -> (u16, String) {
    let said = if said[4] == 8 { &said[20 + 12..] } else { said };
    assert_eq!(said[4], 6, "a reply");
    (u16::from_le_bytes([said[20], said[21]]), String::from_utf8(said[22..].to_vec()).unwrap())
}

#[tokio::test]
async fn the_bytes_are_those_of_the_format_and_breaches_are_answered() {
    let mut two = receiver(None).await;
    let whole = crc32c::crc32c(b"onetwo");
    let good = [begin(6), chunk(0, b"one"), chunk(3, b"two"), end(6, whole)].concat();
    let mut stream = common::raw_peer(&two, Hello::new(1, 2, 3)).await;
    stream.write_all(&good).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(reply(&common::read_to_close(&mut stream).await), (0, String::new()));
    let ReceivedData::Memory(found) = two.snapshot().await.data else { panic!("in memory") };
    assert_eq!(found, "onetwo");

    let breaches = [
        (vec![chunk(0, b"one")], "unexpected frame of kind SnapshotChunk"),
        (vec![common::frame_bytes(3, b"short", b"")], "announcement of 5 bytes is too short"),
        (vec![begin(6), chunk(3, b"two")], "chunk at offset 3 where 0 was expected"),
        (vec![begin(6), chunk(0, b"one"), chunk(0, b"one")], "chunk at offset 0 where 3 was expected"),
        (vec![begin(6), chunk(0, b"onetwothree")], "longer than the 6 bytes announced"),
        (vec![begin(6), common::frame_bytes(4, b"", b"onetwo")], "chunk outside its checksum"),
        (vec![begin(6), chunk(0, b"one"), end(6, whole)], "ends after 3 of 6 bytes"),
        (vec![begin(6), chunk(0, b"onetwo"), end(6, whole ^ 1)], "snapshot checksum"),
        (vec![begin(6), common::frame_bytes(2, b"call", b"")], "unexpected frame of kind Call"),
    ];
    for (frames, why) in breaches {
        let mut stream = common::raw_peer(&two, Hello::new(1, 2, 3)).await;
        stream.write_all(&frames.concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let (code, text) = reply(&common::read_to_close(&mut stream).await);
        assert_eq!(code, 11);
        assert!(text.contains(why), "{text} instead of {why}");
    }
    assert!(!two.told().iter().any(|event| matches!(event, common::Event::Snapshot(..))));
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_stands_still_is_ended() {
    let two = receiver(None).await;
    let mut stream = common::raw_peer(&two, Hello::new(1, 2, 3)).await;
    stream.write_all(&[begin(6), chunk(0, b"one")].concat()).await.unwrap();
    // Time stands still but for timers: only the receiver's own limit can end this.
    let mut resume = [0; 20 + 12];
    stream.read_exact(&mut resume).await.unwrap();
    let (code, text) = reply(&{
        let mut said = vec![0; 20];
        stream.read_exact(&mut said).await.unwrap();
        let length = u32::from_le_bytes(said[..4].try_into().unwrap()) as usize;
        said.resize(20 + length, 0);
        stream.read_exact(&mut said[20..]).await.unwrap();
        said
    });
    assert_eq!((code, text.as_str()), (11, "the next step of the snapshot transfer took too long"));
}
