//! What a log must do on a good day: directed scripts, then random ones.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::{EntryKind, GroupId, LeaderId, LogId, LogWrite, RaftLogStorage, Span, StorageError, Tail};

use super::Options;
use super::crash::{play, vote};
use super::model::{append, batch};
use super::rig::{GROUPS, Past, Rig};
use crate::chance::Chance;
use crate::report::{Failure, Law};

type OpenAt<'a, L> = &'a dyn Fn(&Path) -> Result<L, StorageError>;

const GROUP: GroupId = GROUPS[0];

fn open<L: RaftLogStorage>(
    open_at: OpenAt<'_, L>,
    place: &Path,
    past: &Past,
    options: &Options,
    what: &str,
) -> Result<Rig<L>, Failure> {
    let log = open_at(place)
        .map_err(|error| Failure::new(Law::OpensAgain, format!("{what}: opening"), "a log", error.to_string()))?;
    Rig::open(log, None, past, usize::MAX, (Chance::new(options.seed), options.patience), what)
}

/// One of the directed writes: what it is called, and how it is made of the state before.
type Step = (&'static str, fn(&super::model::State) -> LogWrite);

/// A history with everything in it that a core asks of a log.
const STEPS: &[Step] = &[
    ("a first vote", |_| vote(1, 1, false)),
    ("its commitment", |_| vote(1, 1, true)),
    ("three entries", |state| append(GROUP, state, 1, &[b"a", b"bb", b"ccc"])),
    ("an empty entry and a large one", |state| append(GROUP, state, 1, &[b"", &[7; 300_000]])),
    ("a membership", |state| {
        let mut payload = Vec::new();
        quorate::advanced::wire::encode_membership(&quorate::Membership::default(), &mut payload);
        LogWrite::Append(
            [batch(GROUP, 1, state.last().index + 1, &[(EntryKind::Membership, payload)])].into_iter().collect(),
        )
    }),
    ("a promise", |_| LogWrite::PromiseLease(Duration::from_millis(900))),
    ("a vote for another", |_| vote(2, 3, false)),
    ("a truncation in the middle of a batch", |state| LogWrite::Truncate { after: state.at(4).unwrap_or_default() }),
    ("other entries in their place", |state| append(GROUP, state, 2, &[b"dd", b"eee", b"f"])),
    ("a truncation to the third", |state| LogWrite::Truncate { after: state.at(3).unwrap_or_default() }),
    ("others again", |state| append(GROUP, state, 3, &[b"gg", b"hhh", b"i", b"j"])),
    ("a shorter promise", |_| LogWrite::PromiseLease(Duration::from_millis(300))),
    ("a snapshot inside of the log", |state| LogWrite::Reset { to: state.at(5).unwrap_or_default(), tail: Tail::Keep }),
    ("two batches in one write", |state| {
        let first = state.last().index + 1;
        let entry = |text: &[u8]| (EntryKind::Command, text.to_vec());
        let two = [batch(GROUP, 3, first, &[entry(b"k"), entry(b"l")]), batch(GROUP, 4, first + 2, &[entry(b"m")])];
        LogWrite::Append(two.into_iter().collect())
    }),
    ("a snapshot beyond the log", |_| LogWrite::Reset { to: LogId::new(LeaderId::new(5, 2), 40), tail: Tail::Discard }),
    ("a vote after it", |_| vote(6, 2, true)),
    ("entries after it", |state| append(GROUP, state, 6, &[b"n", b"o", b"p", b"q"])),
];

/// Each kind of write, completed and read back.
pub(super) fn functional<L: RaftLogStorage>(
    open_at: OpenAt<'_, L>,
    place: &Path,
    options: &Options,
) -> Result<usize, Failure> {
    let mut rig = open(open_at, place, &Past::default(), options, "a blank place")?;
    let mut checks = 0;
    for (name, write) in STEPS {
        let write = write(&rig.model(GROUP).now());
        rig.submit(GROUP, write);
        checks += rig.check_reads(name)?;
        if !rig.settle(name)? {
            return Err(Failure::new(Law::CompletesOnce, *name, "a durable write", "a failed one"));
        }
        checks += rig.check_reads(name)?;
    }
    // The other group was not touched, and can be.
    let state = rig.model(GROUPS[1]).now();
    rig.submit(GROUPS[1], append(GROUPS[1], &state, 9, &[b"other"]));
    rig.settle("an entry of another group")?;
    Ok(checks + rig.check_reads("an entry of another group")?)
}

/// After each write, and a purge after some, the log is closed and opened again.
pub(super) fn reopening<L: RaftLogStorage>(
    open_at: OpenAt<'_, L>,
    place: &Path,
    options: &Options,
) -> Result<usize, Failure> {
    let mut past = Past::default();
    let mut checks = 0;
    for (number, (name, write)) in STEPS.iter().enumerate() {
        let mut rig = open(open_at, place, &past, options, &format!("before {name}"))?;
        // In the other group the writes are those of before: nothing of one may show in the other.
        let other = rig.model(GROUPS[1]).now();
        rig.submit(GROUPS[1], append(GROUPS[1], &other, 1 + number as u64 / 3, &[b"x", b"y"]));
        let write = write(&rig.model(GROUP).now());
        rig.submit(GROUP, write);
        rig.settle(name)?;
        if number % 4 == 3 {
            let state = rig.model(GROUP).now();
            let index = rig.model(GROUP).purge.max(state.base.index) + 1;
            if let Some(upto) = state.at(index).filter(|_| index < 4) {
                rig.purge(GROUP, upto);
                checks += rig.check_reads(&format!("{name}, and a purge up to {upto}"))?;
            }
        }
        past = rig.past();
        drop(rig);
    }
    let mut rig = open(open_at, place, &past, options, "after all")?;
    let state = rig.model(GROUP).now();
    for index in state.base.index + 1..state.last().index {
        if let Some(upto) = state.at(index) {
            rig.purge(GROUP, upto);
            checks += rig.check_reads(&format!("a purge up to {upto}"))?;
        }
    }
    let past = rig.past();
    drop(rig);
    checks += open(open_at, place, &past, options, "after the purges")?.check_reads("after the purges")?;
    Ok(checks + STEPS.len())
}

/// Random writes of two groups with purges and restarts.
pub(super) fn random<L: RaftLogStorage>(
    open_at: OpenAt<'_, L>,
    blank: &dyn Fn() -> PathBuf,
    options: &Options,
) -> Result<usize, Failure> {
    let mut checks = 0;
    for seed in options.seeds() {
        let (place, options) = (blank(), Options { seed, ..options.clone() });
        let mut past = Past::default();
        for life in 0..4 {
            let what = format!("seed {seed}, life {life}");
            let mut rig = open(open_at, &place, &past, &Options { seed: seed * 31 + life, ..options.clone() }, &what)?;
            play(&mut rig, options.writes, &what)?;
            checks += rig.check_reads(&what)?;
            past = rig.past();
        }
    }
    Ok(checks)
}

/// Reads of what is committed, on another thread, while entries behind it come and go.
pub(super) fn readers<L: RaftLogStorage>(
    open_at: OpenAt<'_, L>,
    place: &Path,
    options: &Options,
) -> Result<usize, Failure> {
    let mut rig = open(open_at, place, &Past::default(), options, "a blank place")?;
    let state = rig.model(GROUP).now();
    rig.submit(GROUP, append(GROUP, &state, 1, &[b"one", b"two", b"three", &[9; 5000]]));
    rig.settle("four entries")?;
    rig.check_reads("four entries")?;
    let kept = rig.model(GROUP).now();
    let span = Span { prev: LogId::ZERO, last: kept.last() };
    let (over, rig) = (AtomicBool::new(false), &mut rig);
    let log = open_reader(rig);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !over.load(Ordering::Acquire) || reads == 0 {
                let step = "reading four entries while others are written";
                match super::rig::read_span(log, GROUP, span, 10, step)? {
                    Some(read) if read == kept.entries => reads += 1,
                    Some(read) => {
                        let found = format!("{read:?}");
                        return Err(Failure::new(Law::ReadsTheSpan, step, "the four entries", found));
                    }
                    None => return Err(Failure::new(Law::ReadsTheSpan, step, "the four entries", "nothing")),
                }
            }
            Ok(reads)
        });
        let mut state = kept.clone();
        let mut number = 4;
        for term in 2..2 + options.writes as u64 {
            for write in [append(GROUP, &state, term, &[b"come", b"go"]), LogWrite::Truncate { after: kept.last() }] {
                state.apply(&write);
                number += 1;
                log.submit(GROUP, quorate::WriteId(number), write);
            }
        }
        over.store(true, Ordering::Release);
        match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn open_reader<L>(rig: &Rig<L>) -> &L {
    &rig.log
}
