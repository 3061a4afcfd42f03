//! The network: who reaches whom, how long it takes, and what goes wrong on the way.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate::{Inbound, OutgoingSnapshot, RaftNetwork};
use quorate_core::{AppendHeader, ClusterId, GroupId, Incarnation, NodeId, SendOutcome, SnapshotMeta, Starts, Vote};
use quorate_wire::Packet;

use crate::edits::{Decision, Edits};
use crate::fault::{Fault, FaultCounts};
use crate::history::Nanos;
use crate::options::Options;
use crate::rng::Rng;

/// Messages that are kept to be replayed.
const MAX_HELD: usize = 64;
/// Snapshots that are.
const MAX_HELD_SNAPSHOTS: usize = 4;
/// Of a thousand messages so many are kept, beside those that are kept back.
const HELD_PERMILLE: u32 = 10;

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// A message of the protocol without entries.
    Control,
    /// One without entries that must not overtake those with entries.
    Behind,
    /// One with entries: its sender is told if the connection breaks.
    Entries,
    /// A call of the library.
    Call,
}

/// A message on its way, as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) incarnation: Incarnation,
    /// The cluster of its sender, as its handshake says.
    pub(crate) cluster: ClusterId,
    /// When its disk was opened, as its handshake says.
    pub(crate) starts: Arc<Starts>,
    pub(crate) bytes: Bytes,
    /// With fields that the receiver does not know.
    pub(crate) newer: bool,
    pub(crate) carries: Carries,
    /// The receiver's process when it was sent.
    pub(crate) to_run: u64,
    /// The receiver's vote when it was sent.
    pub(crate) to_vote: Vote,
    /// It was kept, and released later.
    pub(crate) held: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Delivered then.
    At(Nanos),
    /// Delivered then, and again then.
    Twice(Nanos, Nanos),
    /// Damaged on the way: the frame's checksum tells, and the connection is given up.
    Corrupt,
    Lost,
}

/// A link carries 100 MB a second.
const NANOS_PER_BYTE: u64 = 10;

pub(crate) struct Net {
    size: usize,
    /// By sender and receiver.
    cut: Vec<bool>,
    clogged_until: Vec<Nanos>,
    /// Clogged links on which nothing has waited yet.
    clog_due: Vec<bool>,
    /// The last delivery on each connection of each link: without the fault "reorder" it keeps its order. As in production,
    /// what carries entries has a connection of its own, which the rest overtakes.
    last: Vec<[Nanos; 2]>,
    held: Vec<Flight>,
    held_snapshots: Vec<HeldSnapshot>,
    latency: u64,
    permille: u32,
    faults: crate::fault::FaultSet,
    /// Faults of single messages are off, for a quiet window or for good.
    pub(crate) quiet: bool,
    /// Faults of single messages so far, with those that were left out.
    pub(crate) suffered: u64,
    edits: Edits,
    rng: Rng,
}

impl Net {
    pub(crate) fn new(size: usize, options: &Options) -> Self {
        Self {
            size,
            cut: vec![false; size * size],
            clogged_until: vec![0; size * size],
            clog_due: vec![false; size * size],
            last: vec![[0; 2]; size * size],
            held: Vec::new(),
            held_snapshots: Vec::new(),
            latency: options.latency.as_nanos() as u64,
            permille: options.message_faults,
            faults: options.faults,
            quiet: true,
            suffered: 0,
            edits: options.edits.clone(),
            rng: Rng::new(options.seed, 1),
        }
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.size + to
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        self.cut[link] = true;
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.link(from, to)]
    }

    pub(crate) fn clog(&mut self, from: usize, to: usize, until: Nanos) {
        let link = self.link(from, to);
        self.clogged_until[link] = until;
        self.clog_due[link] = true;
    }

    /// When what would arrive at `at` arrives, if the link is clogged; a clog counts with the first that waits.
    fn unclogged(&mut self, link: usize, at: Nanos, counts: &mut FaultCounts) -> Nanos {
        let until = self.clogged_until[link];
        if until > at {
            counts.add(Fault::Clog, u64::from(std::mem::take(&mut self.clog_due[link])));
        }
        at.max(until)
    }

    pub(crate) fn heal(&mut self) {
        self.cut.fill(false);
        self.clogged_until.fill(0);
    }

    /// When everything that was sent in order on some link has arrived.
    pub(crate) fn clear_at(&self) -> Nanos {
        self.last.iter().flatten().copied().max().unwrap_or(0)
    }

    /// Messages of the past, to be delivered again: half of them, so that others grow older yet. A snapshot is kept back
    /// too, after it arrived.
    pub(crate) fn release(&mut self) -> (Vec<Flight>, Vec<HeldSnapshot>) {
        let (mut flights, mut kept) = (Vec::new(), Vec::new());
        for flight in self.held.drain(..) {
            if self.rng.chance(500) { flights.push(Flight { held: true, ..flight }) } else { kept.push(flight) }
        }
        self.held = kept;
        (flights, std::mem::take(&mut self.held_snapshots))
    }

    /// Keeps a copy: of messages of any age, the last ones no more often than the first.
    fn hold(&mut self, flight: &Flight) {
        if self.held.len() < MAX_HELD {
            self.held.push(flight.clone());
        } else {
            let at = self.rng.below(MAX_HELD as u64) as usize;
            self.held[at] = flight.clone();
        }
    }

    /// Keeps a copy of a snapshot now and then.
    pub(crate) fn hold_snapshot(&mut self, snapshot: impl FnOnce() -> HeldSnapshot) {
        let holds = self.faults.has(Fault::HoldAndReplay) && self.rng.chance(HELD_PERMILLE * 10);
        if holds && self.held_snapshots.len() < MAX_HELD_SNAPSHOTS {
            self.held_snapshots.push(snapshot());
        }
    }

    fn suffers(&mut self, fault: Fault) -> bool {
        if self.quiet || !self.faults.has(fault) || !self.rng.chance(self.permille) {
            return false;
        }
        self.suffered += 1;
        self.edits.keeps(Decision::Message, self.suffered - 1)
    }

    fn travel(&mut self) -> u64 {
        self.latency / 2 + self.rng.below(self.latency + 1)
    }

    pub(crate) fn send(&mut self, now: Nanos, flight: &Flight, counts: &mut FaultCounts) -> Fate {
        let link = self.link(flight.from, flight.to);
        if self.cut[link] {
            return Fate::Lost;
        }
        let lane = match flight.carries {
            Carries::Control | Carries::Call => 0,
            Carries::Behind | Carries::Entries => 1,
        };
        let mut at = now + self.travel() + flight.bytes.len() as u64 * NANOS_PER_BYTE;
        if self.faults.has(Fault::HoldAndReplay) && self.rng.chance(HELD_PERMILLE) {
            self.hold(flight);
        }
        if self.suffers(Fault::HoldAndReplay) {
            // Kept back: nothing of it arrives now.
            self.hold(flight);
            return Fate::Lost;
        }
        if self.suffers(Fault::Drop) {
            counts.add(Fault::Drop, 1);
            return Fate::Lost;
        }
        if self.suffers(Fault::CorruptFrame) {
            counts.add(Fault::CorruptFrame, 1);
            return Fate::Corrupt;
        }
        if self.suffers(Fault::Delay) {
            counts.add(Fault::Delay, 1);
            at += self.latency * self.rng.between(4, 60);
        }
        at = self.unclogged(link, at, counts);
        if self.suffers(Fault::Reorder) {
            counts.add(Fault::Reorder, u64::from(at < self.last[link][lane]));
        } else {
            at = at.max(self.last[link][lane] + 1);
            self.last[link][lane] = at;
        }
        if self.suffers(Fault::Duplicate) {
            counts.add(Fault::Duplicate, 1);
            return Fate::Twice(at, at + self.travel() * self.rng.between(1, 20));
        }
        Fate::At(at)
    }

    /// When a snapshot of so many bytes arrives, and how; it has a connection of its own, so that nothing else waits for it.
    pub(crate) fn send_snapshot(
        &mut self,
        now: Nanos,
        from: usize,
        to: usize,
        bytes: usize,
        counts: &mut FaultCounts,
    ) -> (Nanos, Arrival) {
        let mut at = now + self.travel() * 3 + bytes as u64 * 100;
        if self.is_cut(from, to) {
            return (now + self.latency * 4, Arrival::Not);
        }
        if self.suffers(Fault::Drop) {
            counts.add(Fault::Drop, 1);
            let unheard = self.rng.chance(500);
            return (at, if unheard { Arrival::Unheard } else { Arrival::Not });
        }
        if self.suffers(Fault::CorruptFrame) {
            // A chunk's checksum tells, and the transfer is given up.
            counts.add(Fault::CorruptFrame, 1);
            return (at, Arrival::Not);
        }
        if self.suffers(Fault::Delay) {
            counts.add(Fault::Delay, 1);
            at += self.latency * self.rng.between(4, 60);
        }
        (self.unclogged(self.link(from, to), at, counts), Arrival::Whole)
    }

    /// Damages a byte.
    pub(crate) fn damage(&mut self, bytes: &Bytes) -> Bytes {
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.rng.below(8);
        }
        bytes.into()
    }
}

/// How a snapshot arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Whole,
    /// Whole, and its sender does not hear of that.
    Unheard,
    Not,
}

/// A snapshot that was sent once, to be delivered again.
pub(crate) struct HeldSnapshot {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) sender: Sender,
    pub(crate) shipment: Shipment,
}

/// Who sends a snapshot, as its handshake says.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster: ClusterId,
    pub(crate) starts: Arc<Starts>,
}

/// A snapshot that a node wants to send.
pub(crate) struct Shipment {
    pub(crate) to: NodeId,
    pub(crate) group: GroupId,
    pub(crate) header: AppendHeader,
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: Bytes,
    pub(crate) done: Box<dyn FnOnce(SendOutcome) + Send>,
}

impl Shipment {
    /// The same, with nobody who waits for its end.
    pub(crate) fn again(&self) -> Self {
        Self {
            to: self.to,
            group: self.group,
            header: self.header,
            meta: self.meta.clone(),
            bytes: self.bytes.clone(),
            done: Box::new(drop),
        }
    }
}

/// Messages of one node: to whom, and what.
pub(crate) type Packets = Vec<(NodeId, Bytes, Carries)>;

/// What a node sent and the world has not yet taken.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
}

#[derive(Default)]
struct OutboxState {
    packets: Packets,
    shipments: Vec<Shipment>,
    /// Peers to which there is no connection, and the node knows.
    refused: Vec<NodeId>,
    scratch: Vec<u8>,
}

impl Outbox {
    pub(crate) fn take(&self, packets: &mut Packets, shipments: &mut Vec<Shipment>) {
        let mut state = self.state.lock();
        std::mem::swap(packets, &mut state.packets);
        shipments.append(&mut state.shipments);
    }

    pub(crate) fn refuse(&self, peers: Vec<NodeId>) {
        self.state.lock().refused = peers;
    }

    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    fn post(&self, to: NodeId, packet: Packet, carries: Carries) -> Result<(), Packet> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.refused.contains(&to) {
            return Err(packet);
        }
        state.scratch.clear();
        packet.encode_head(&mut state.scratch);
        packet.batches.iter().for_each(|batch| state.scratch.extend_from_slice(batch.bytes()));
        state.packets.push((to, Bytes::copy_from_slice(&state.scratch), carries));
        Ok(())
    }
}

impl RaftNetwork for Outbox {
    fn start(&self, _inbound: Arc<dyn Inbound>) {}

    fn set_address(&self, _node: NodeId, _address: &str) {}

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let carries = if packet.batches.is_empty() { Carries::Control } else { Carries::Entries };
        self.post(to, packet, carries)
    }

    fn send_behind(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.post(to, packet, Carries::Behind)
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        let mut state = self.state.lock();
        let refused = state.refused.contains(&to);
        if !refused {
            state.packets.push((to, body, Carries::Call));
        }
        !refused
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let OutgoingSnapshot { group, header, meta, source, .. } = snapshot;
        let Ok(bytes) = source.read_all() else { return done(SendOutcome::Failed) };
        self.state.lock().shipments.push(Shipment { to, group, header, meta, bytes, done });
    }

    fn shutdown(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many messages, sent so many nanoseconds apart, are counted as overtaking others.
    fn overtaking(messages: u64, apart: u64) -> u64 {
        let mut options = Options::of_seed(1);
        (options.faults, options.message_faults) = (crate::fault::FaultSet::NONE.with(Fault::Reorder), 500);
        let mut net = Net::new(2, &options);
        net.quiet = false;
        let flight = Flight {
            from: 0,
            to: 1,
            incarnation: Incarnation(1),
            cluster: ClusterId(1),
            starts: Arc::default(),
            bytes: Bytes::new(),
            newer: false,
            carries: Carries::Control,
            to_run: 1,
            to_vote: Vote::default(),
            held: false,
        };
        let mut counts = FaultCounts::default();
        for number in 0..messages {
            net.send(number * apart, &flight, &mut counts);
        }
        counts.of(Fault::Reorder)
    }

    #[test]
    fn a_message_that_overtakes_none_is_not_reordered() {
        let latency = Options::of_seed(1).latency.as_nanos() as u64;
        assert_eq!(overtaking(100, latency * 2), 0, "each arrives before the next is sent");
        assert!(overtaking(100, latency / 10) > 0);
    }
}
