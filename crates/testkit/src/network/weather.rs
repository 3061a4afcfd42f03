//! Bad weather: connections that are cut, bytes that are damaged, a peer that takes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate::{NodeId, Packet, RaftNetwork};

use super::delivery::{entries, essence, offer, words};
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
    numbers: std::ops::Range<u64>,
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

/// Everything that was taken has arrived, once, in order and whole, or its loss was told since.
fn settle<N: RaftNetwork>(
    suite: &Suite<'_, N>,
    (one, two): (&Node<N>, &Node<N>),
    taken: &Taken,
    step: &str,
) -> Result<usize, Failure> {
    let arrived: Vec<u64> = two.inbox.look(|told| told.iter().filter_map(number_of).collect());
    let mut sorted = arrived.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|two| two[0] == two[1]) {
        return Err(Failure::new(Law::ArrivesOnce, step, "once", format!("message {} twice", twice[0])));
    }
    if let Some(swapped) = arrived.windows(2).find(|two| two[0] > two[1]) {
        let found = format!("message {} before message {}", swapped[0], swapped[1]);
        return Err(Failure::new(Law::LanesKeepOrder, step, "in order", found));
    }
    let damaged = two.inbox.look(|told| {
        told.iter().find_map(|told| match told {
            Told::Packet(_, _, packet) => {
                let whole = number_of(told).map(numbered)?;
                (essence(packet) != essence(&whole)).then(|| words(packet))
            }
            Told::Call(..) | Told::Lost(..) | Told::Snapshot(..) => Some("something that was not sent".to_owned()),
        })
    });
    if let Some(found) = damaged {
        return Err(Failure::new(Law::DamageIsDropped, step, "what was sent, or nothing", found));
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

/// Connections are cut, between messages and in the middle of one.
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
    }
    settle(suite, (&one, &two), &taken, "connections were cut")
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
    }
    settle(suite, (&one, &two), &taken, "bits were flipped")
}

/// A peer that takes nothing: the sender refuses in time, and goes on when the peer does.
pub(super) fn windows<N: RaftNetwork>(suite: &Suite<'_, N>) -> Result<usize, Failure> {
    let (one, two, relay) = relayed(suite)?;
    let mut taken = Taken::new();
    let next = until_through(suite, (&one, &two), 1, &mut taken, "connecting")? + 1;
    relay.stall(true);
    let (large, step) = (entries(next, &[7; 1 << 20]), "messages of 1 MiB to a peer that takes nothing");
    let most = suite.options.window >> 20;
    let sent = (0..=most).take_while(|_| one.network.send(NodeId(2), large.clone()).is_ok()).count();
    if sent > most {
        let expected = format!("a refusal before {most} MiB");
        return Err(Failure::new(Law::BytesAreBounded, step, expected, format!("{sent} MiB were taken")));
    }
    relay.stall(false);
    let mut later = Taken::new();
    until_through(suite, (&one, &two), next + 1, &mut later, "the peer takes messages again")?;
    Ok(sent)
}
