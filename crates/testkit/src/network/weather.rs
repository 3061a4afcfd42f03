//! Bad weather: connections that are cut, bytes that are damaged, a peer that takes nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate::{NodeId, Packet, RaftNetwork, SendOutcome, SnapshotData, SnapshotSource};

use super::delivery::{entries, essence, offer, outcome, words};
use super::inbox::Told;
use super::relay::Relay;
use super::{Node, Suite};
use crate::report::{Failure, Law};

/// Nodes 1 and 2; what 1 sends to 2 passes the relay.
fn relayed<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<(Node<N>, Node<N>, Relay), Failure> {
    let (one, two) = (suite.node(1, 11, 1)?, suite.node(2, 22, 1)?);
    let relay = Relay::to(&two.address).map_err(|error| {
        let expected = "an address of TCP, and a free port";
        Failure::new(Law::Reconnects, format!("a relay to {}", two.address), expected, error.to_string())
    })?;
    one.network.set_address(two.id(), relay.address());
    two.network.set_address(one.id(), &one.address);
    Ok((one, two, relay))
}

/// Packets with entries that were taken, by number, and how many attempts were made before each.
type Taken = BTreeMap<u64, u64>;

fn stream<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    one: &Node<N>,
    numbers: Range<u64>,
    taken: &mut Taken,
    step: &str,
) -> Result<(), Failure> {
    for number in numbers {
        let packet = numbered(number);
        let mut order = 0;
        offer(suite, step, || {
            // Before the attempt: a loss that is told right after it counts.
            order = one.inbox.count_attempt();
            one.network.send(NodeId(2), packet.clone()).is_ok()
        })?;
        taken.insert(number, order);
    }
    Ok(())
}

fn numbered(number: u64) -> Packet {
    entries(number, &vec![number as u8; 2000])
}

/// As large as 1 MiB.
fn large(number: u64) -> Packet {
    entries(number, &vec![number as u8; 1 << 20])
}

fn number_of(told: &Told) -> Option<u64> {
    match told {
        Told::Packet(_, _, packet) => packet.batches.first().map(|batch| batch.first().index),
        Told::Call(..) | Told::Lost(..) | Told::Snapshot(..) => None,
    }
}

/// Waits until messages arrive again; returns the number of the one that did.
fn until_through<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    (one, two): (&Node<N>, &Node<N>),
    mut number: u64,
    taken: &mut Taken,
    step: &str,
) -> Result<u64, Failure> {
    let deadline = Instant::now() + suite.options.patience;
    loop {
        stream(suite, one, number..number + 1, taken, step)?;
        let arrived = two.inbox.wait(Duration::from_millis(20), |told| {
            told.iter().any(|told| number_of(told) == Some(number)).then_some(())
        });
        if arrived.is_some() {
            return Ok(number);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(Law::Reconnects, step, "messages arrive again", "nothing"));
        }
        number += 1;
    }
}

/// Everything that was taken has arrived, once, in order and as `sent` makes it, or its loss was told since. Something sent
/// later has arrived.
fn settle<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    (one, two): (&Node<N>, &Node<N>),
    taken: &Taken,
    sent: &dyn Fn(u64) -> Packet,
    step: &str,
) -> Result<usize, Failure> {
    let wrong = |found: String| Failure::new(Law::DamageIsDropped, step, "what was sent, or nothing", found);
    let arrived = two.inbox.look(|told| {
        let mut arrived = Vec::new();
        for told in told.iter() {
            match (told, number_of(told)) {
                (Told::Packet(_, _, packet), Some(number)) if essence(packet) == essence(&sent(number)) => {
                    arrived.push(number);
                }
                (Told::Packet(_, _, packet), _) => return Err(wrong(words(packet))),
                (Told::Call(..), _) => return Err(wrong("a call".to_owned())),
                (Told::Snapshot(..), _) => return Err(wrong("a snapshot".to_owned())),
                // Of what this node sent: nothing.
                (Told::Lost(..), _) => {}
            }
        }
        Ok(arrived)
    })?;
    let mut sorted = arrived.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|two| two[0] == two[1]) {
        return Err(Failure::new(Law::ArrivesOnce, step, "once", format!("message {} twice", twice[0])));
    }
    if let Some(swapped) = arrived.windows(2).find(|two| two[0] > two[1]) {
        let found = format!("message {} before message {}", swapped[0], swapped[1]);
        return Err(Failure::new(Law::LanesKeepOrder, step, "in order", found));
    }
    let missing = taken.iter().filter(|(number, _)| !arrived.contains(number)).max_by_key(|(_, order)| **order);
    if let Some((number, order)) = missing {
        // It was taken after so many attempts, so a loss that was told later has seen more.
        let told = one.inbox.wait(suite.options.patience, |told| {
            let covers = |told: &Told| matches!(told, Told::Lost(NodeId(2), seen) if seen > order);
            told.iter().any(covers).then_some(())
        });
        if told.is_none() {
            let found = format!("message {number} was taken, did not arrive, and `on_lost` was not called since");
            return Err(Failure::new(Law::LossIsTold, step, "it arrives, or `on_lost` is called", found));
        }
    }
    Ok(taken.len())
}

/// Connections are cut, between messages and in the middle of one, and in the middle of a snapshot.
pub(super) fn loss<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two, relay) = relayed(suite)?;
    let mut taken = Taken::new();
    let mut next = until_through(suite, (&one, &two), 1, &mut taken, "connecting")? + 1;
    for turn in 0..6_u64 {
        let step = format!("the connection is cut, turn {turn}");
        if turn % 2 == 0 {
            relay.cut_after(20_000 + turn as i64 * 777);
        }
        stream(suite, &one, next..next + 40, &mut taken, &step)?;
        if turn % 2 == 1 {
            relay.cut();
        }
        next = until_through(suite, (&one, &two), next + 40, &mut taken, &step)? + 1;
        // Each turn, so that a loss that is told later does not stand for this one.
        settle(suite, (&one, &two), &taken, &numbered, &step)?;
    }
    let checks = settle(suite, (&one, &two), &taken, &numbered, "connections were cut")?;
    let (content, step) = (vec![5; 1 << 20], "the connection is cut in the middle of a snapshot of 1 MiB");
    relay.cut_after(100_000);
    let outcome = outcome(suite, &one, two.id(), 1, SnapshotSource::Memory(content.clone().into()), step)?;
    let is_it = |told: &Told| match told {
        Told::Snapshot(_, _, snapshot) => match &snapshot.data {
            SnapshotData::Memory(bytes) => *bytes == content,
            SnapshotData::File(path) => std::fs::read(path).is_ok_and(|bytes| bytes == content),
        },
        Told::Packet(..) | Told::Call(..) | Told::Lost(..) => false,
    };
    // What was delivered has arrived; what failed may have.
    let arrived = two.inbox.look(|told| told.iter().any(is_it));
    if outcome == SendOutcome::Delivered && !arrived {
        let expected = "it failed, or arrives whole";
        return Err(Failure::new(Law::TransferEndsOnce, step, expected, "`Delivered`, and it is not there"));
    }
    Ok(checks + 1)
}

/// A bit is flipped on the way.
pub(super) fn damage<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two, relay) = relayed(suite)?;
    let mut taken = Taken::new();
    let mut next = until_through(suite, (&one, &two), 1, &mut taken, "connecting")? + 1;
    for turn in 0..6 {
        let step = format!("a bit is flipped, turn {turn}");
        relay.flip_after([0, 15, 60, 1_000, 5_000, 30_001][turn]);
        stream(suite, &one, next..next + 40, &mut taken, &step)?;
        next = until_through(suite, (&one, &two), next + 40, &mut taken, &step)? + 1;
        settle(suite, (&one, &two), &taken, &numbered, &step)?;
    }
    settle(suite, (&one, &two), &taken, &numbered, "bits were flipped")
}

/// A peer that takes nothing: the sender refuses in time, and goes on when the peer does. What it took arrives then.
pub(super) fn windows<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two, relay) = relayed(suite)?;
    let mut taken = Taken::new();
    let first = until_through(suite, (&one, &two), 1, &mut taken, "connecting")? + 1;
    relay.stall(true);
    let step = "messages of 1 MiB to a peer that takes nothing";
    let most = (suite.options.window >> 20) as u64;
    let next = first + fill(suite, &one, &relay, first..first + most + 1, &mut taken, step)?;
    let sent = next - first;
    if sent > most {
        let expected = format!("a refusal before {most} MiB");
        return Err(Failure::new(Law::BytesAreBounded, step, expected, format!("{sent} MiB were taken")));
    }
    relay.stall(false);
    let step = "the peer takes messages again";
    until_through(suite, (&one, &two), next, &mut taken, step)?;
    let made = |number| if (first..next).contains(&number) { large(number) } else { numbered(number) };
    settle(suite, (&one, &two), &taken, &made, step)
}

/// Sends large messages until one is refused; returns how many were taken. On another thread: a network may wait for the
/// peer, though it must not.
fn fill<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    one: &Node<N>,
    relay: &Relay,
    numbers: Range<u64>,
    taken: &mut Taken,
    step: &str,
) -> Result<u64, Failure> {
    let (tell, told) = mpsc::channel();
    let (inbox, network) = (&one.inbox, &one.network);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in numbers {
                let order = inbox.count_attempt();
                let attempt = network.send(NodeId(2), large(number)).is_ok().then_some((number, order));
                if tell.send(attempt).is_err() || attempt.is_none() {
                    break;
                }
            }
        });
        let (told, mut count) = (told, 0);
        loop {
            match told.recv_timeout(suite.options.patience) {
                Ok(Some((number, order))) => {
                    taken.insert(number, order);
                    count += 1;
                }
                // Refused, or the last.
                Ok(None) | Err(RecvTimeoutError::Disconnected) => return Ok(count),
                Err(RecvTimeoutError::Timeout) => {
                    // It goes on and ends.
                    relay.stall(false);
                    let found = format!("`send` did not return for {:?}", suite.options.patience);
                    return Err(Failure::new(Law::BytesAreBounded, step, "a refusal", found));
                }
            }
        }
    })
}
