//! `identity` and `peers` on a disk that does not do what it says: a write of theirs is lost, or takes another place.

use std::sync::Arc;

use quorate_core::{Incarnation, Instant, NodeId, Starts};
use quorate_wal::fake::{Crash, MemDisk};
use quorate_wal::{Disk, PeerVerdict, WalCore, WalError, WalOptions};

use super::crashes::States;
use super::mending::mending;
use super::votes::{Miss, MissingDisk};
use super::{Rig, Told, dir};

const SECTOR: u64 = 512;
/// The files, and from one of their four copies to the next, in sectors.
const FILES: &[&str] = &["identity", "peers"];
const PITCH: u64 = 256;
const ROUNDS: u64 = 3;
/// Starts of the peer that are met in each round.
const MET: u64 = 2;
/// Rows of `peers` besides: their copies have many sectors.
const OTHERS: u64 = 330;

const PEER: (NodeId, Incarnation) = (NodeId(2), Incarnation(20));

/// All of a peer's starts, up to this one.
fn starts(count: u64) -> Starts {
    (1..=count).fold(Starts::default(), |starts, token| starts.next(1000 + token))
}

fn opening(round: u64) -> WalOptions {
    WalOptions { start_token: Some(100 + round), ..mending() }
}

/// A node that was started once, and has met many peers.
fn base() -> MemDisk {
    let disk = MemDisk::new();
    let rig = Rig::begin(&disk, super::mending::SEGMENT_BYTES);
    for peer in 0..OTHERS {
        rig.handle.record_peer(NodeId(100 + peer), Incarnation(1), &starts(1)).unwrap();
    }
    rig.handle.record_peer(PEER.0, PEER.1, &starts(1)).unwrap();
    rig.core.close(Instant::ORIGIN).unwrap();
    disk
}

/// Starts of a node that meets starts of a peer, on a disk that misses one write.
struct Played {
    disk: MemDisk,
    /// At which step which boot counter was durable.
    booted: Vec<(usize, u64)>,
    /// At which step which start of the peer was noted.
    met: Vec<(usize, u64)>,
    writes: usize,
    missed: Option<usize>,
}

fn play(base: &MemDisk, misses: Option<(usize, Miss)>) -> Played {
    let disk = base.crashed(Crash::KeepAll);
    disk.start_journal();
    let missing = MissingDisk::new(&disk, FILES, misses);
    let plan = missing.plan.clone();
    let missing: Arc<dyn Disk> = Arc::new(missing);
    let (mut booted, mut met) = (Vec::new(), vec![(0, 1)]);
    for round in 0..ROUNDS {
        let (core, handle) = WalCore::open(missing.clone(), dir(), opening(round))
            .unwrap_or_else(|error| panic!("{misses:?}, round {round}: unopenable: {error}"));
        let rig = Rig { disk: disk.clone(), core, handle, told: Told::default(), now: Instant::ORIGIN };
        booted.push((disk.journal_steps(), rig.handle.identity().starts.boot()));
        for _ in 0..MET {
            let start = met.len() as u64 + 1;
            let verdict = rig.handle.record_peer(PEER.0, PEER.1, &starts(start)).unwrap();
            assert_eq!(verdict, PeerVerdict::Fine, "{misses:?}, round {round}");
            met.push((disk.journal_steps(), start));
        }
    }
    let plan = plan.lock().unwrap();
    Played { disk, booted, met, writes: plan.writes, missed: plan.missed }
}

impl Played {
    /// Opens it; every start that was durable must be known, its own ones and those of the peer.
    fn check(&self, disk: &MemDisk, steps: usize, what: &str) -> Result<(), WalError> {
        let durable = |of: &[(usize, u64)]| of.iter().filter(|(at, _)| *at <= steps).map(|(_, count)| *count).max();
        let rig = Rig::open(disk, opening(ROUNDS))?;
        // Before the first opening of the script there was another one.
        let (boot, least) = (rig.handle.identity().starts.boot(), durable(&self.booted).unwrap_or(1));
        assert!(boot > least, "{what}: lost: start {least} of its own; this one is {boot}");
        let seen = durable(&self.met).unwrap_or(1);
        let older = rig.handle.record_peer(PEER.0, PEER.1, &starts(seen - 1))?;
        let knows = matches!(older, PeerVerdict::OlderCopy { seen_boot } if seen_boot >= seen);
        assert!(knows, "{what}: lost: start {seen} of the peer: {older:?}");
        Ok(())
    }
}

/// Where a write may go: to the begin and the end of each copy, and behind it.
fn places() -> impl Iterator<Item = Miss> {
    let sectors = (0..4).flat_map(|copy| [0, 1, 5, 25, 26, 31, 128, 229, 255].map(|sector| copy * PITCH + sector));
    [Miss::Lost].into_iter().chain(sectors.flat_map(|sector| [0, 1].map(|file| Miss::To { file, sector })))
}

/// Every write of `identity` and `peers` lost, and put in other places of either; then a crash at every step, or none. One
/// miss costs nothing that was noted, and the node always starts. Every `stride`th of them.
pub fn sweep_missed_records(stride: usize) -> States {
    let base = base();
    let writes = play(&base, None).writes;
    let mut states = States::default();
    for (write, miss) in (0..writes).flat_map(|write| places().map(move |miss| (write, miss))).step_by(stride) {
        let played = play(&base, Some((write, miss)));
        let missed = played.missed.expect("the write is made");
        let mut replay = played.disk.replay();
        loop {
            let steps = replay.steps();
            if steps >= missed {
                let expected = played.booted.iter().chain(&played.met).filter(|(at, _)| *at <= steps).count() as u64;
                states.of_step(write as u64, &replay, expected, |crash, disk| {
                    let what = format!("write {write} {miss:?}, {crash:?} at step {steps}");
                    let checked = played.check(disk, steps, &what);
                    checked.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
                });
            }
            if !replay.advance() {
                break;
            }
        }
    }
    states
}

/// A write of the newest records is missed, and copies are damaged besides: one, and they are known; more, and they are
/// known or the node says which file it is. Never is an older record taken. Returns the number of disks.
pub fn sweep_missed_and_damaged_records(stride: usize) -> usize {
    let base = base();
    let writes = play(&base, None).writes;
    let mut disks = 0;
    // What each file holds in the end was written by the last starts, in the last round.
    let last = (writes / ROUNDS as usize * (ROUNDS as usize - 1)..writes).map(Some).chain([None]);
    for (write, miss) in last.flat_map(|write| places().map(move |miss| (write, miss))).step_by(stride) {
        let played = play(&base, write.map(|write| (write, miss)));
        let steps = played.disk.journal_steps();
        for (file, damaged) in (0..FILES.len()).flat_map(|file| (0..16_u64).map(move |damaged| (file, damaged))) {
            let disk = played.disk.crashed(Crash::KeepAll);
            for copy in (0..4).filter(|copy| damaged >> copy & 1 == 1) {
                let spoiled = disk.open(&dir().join(FILES[file])).unwrap();
                spoiled.write_at(&[0xa5; SECTOR as usize], copy * PITCH * SECTOR).unwrap();
                spoiled.sync_data().unwrap();
            }
            let what = format!("write {write:?} {miss:?}, then damage to copies {damaged:04b} of {}", FILES[file]);
            match played.check(&disk, steps, &what) {
                Ok(()) => assert!(damaged.count_ones() < 3, "{what}: lost: one copy proves nothing"),
                Err(WalError::Corrupt(damage)) if damaged.count_ones() > 1 => {
                    assert_eq!(damage.path, dir().join(FILES[file]), "{what}");
                }
                Err(error) => panic!("{what}: unopenable: {error}"),
            }
            disks += 1;
        }
    }
    disks
}

/// A disk puts a copy of another directory's record, newer by its sequence, in the place of one of ours, and another copy is
/// damaged besides: ours are taken. Returns the number of disks.
pub fn stray_records() -> usize {
    let ours = base();
    let rig = Rig::open(&ours, opening(0)).unwrap();
    rig.handle.record_peer(PEER.0, PEER.1, &starts(5)).unwrap();
    rig.core.close(Instant::ORIGIN).unwrap();
    let identity = Rig::open(&ours.crashed(Crash::KeepAll), opening(1)).unwrap().handle.identity();
    let of_others = [(NodeId(1), 78), (NodeId(9), 79)].map(|(node, incarnation)| {
        let options = || WalOptions { incarnation: Some(Incarnation(incarnation)), ..WalOptions::new(node) };
        let disk = MemDisk::new();
        // More starts, and more that is met, than ours ever wrote.
        for start in 1..20 + OTHERS {
            let rig = Rig::open(&disk, options()).unwrap();
            rig.handle.record_peer(PEER.0, PEER.1, &starts(start)).unwrap();
        }
        disk
    });
    let mut disks = 0;
    for other in &of_others {
        for (file, from, at) in (0..32_u64).map(|case| (case as usize % 2, case / 2 % 4, case / 8)) {
            let mut copy = vec![0; (PITCH * SECTOR / 2) as usize];
            other.open(&dir().join(FILES[file])).unwrap().read_at(&mut copy, from * PITCH * SECTOR).unwrap();
            for (into, damaged) in (0..10_u64).map(|case| (case as usize / 5, case % 5)) {
                let disk = ours.crashed(Crash::KeepAll);
                let target = disk.open(&dir().join(FILES[into])).unwrap();
                target.write_at(&copy, at * PITCH * SECTOR).unwrap();
                if damaged < 4 {
                    target.write_at(&[0xa5; SECTOR as usize], damaged * PITCH * SECTOR).unwrap();
                }
                let what = format!("copy {from} of {} in place {at} of {}, {damaged}", FILES[file], FILES[into]);
                let rig = Rig::open(&disk, opening(1)).unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
                assert_eq!(rig.handle.identity(), identity, "{what}");
                let seen = rig.handle.record_peer(PEER.0, PEER.1, &starts(4)).unwrap();
                assert_eq!(seen, PeerVerdict::OlderCopy { seen_boot: 5 }, "{what}");
                disks += 1;
                if file == into && damaged == 4 {
                    // Two of them beside two of ours: nobody knows whose directory it is. `peers` has checksums of its disk.
                    let disk = ours.crashed(Crash::KeepAll);
                    let target = disk.open(&dir().join(FILES[into])).unwrap();
                    for at in [at, (at + 1) % 4] {
                        target.write_at(&copy, at * PITCH * SECTOR).unwrap();
                    }
                    let error = Rig::open(&disk, opening(1)).err();
                    let is_corrupt = matches!(&error, Some(WalError::Corrupt(_)));
                    assert_eq!(is_corrupt, FILES[file] == "identity", "{what}, and in the next: {error:?}");
                }
            }
        }
    }
    disks
}
