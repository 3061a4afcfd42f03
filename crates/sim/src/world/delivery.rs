//! Messages: on their way, where they arrive, and where nobody listens.

use quorate::{ReceivedSnapshot, SnapshotData};
use quorate_core::{Incarnation, NodeId, SendOutcome};
use quorate_wire::Packet;

use super::{Event, Place, World};
use crate::digest::hash_of;
use crate::net::{Fate, Flight, Shipment};
use crate::situations;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    pub(super) fn on_packet(&mut self, flight: Flight) {
        self.digest.word(1 + flight.to as u64 * 64);
        self.digest.word(hash_of(&flight.bytes));
        let to = self.places[flight.to].id;
        let Place { id: from, incarnation, boot, .. } = self.places[flight.from];
        let cluster = self.places[flight.to].cluster;
        let Some(running) = &mut self.places[flight.to].running else {
            return self.refuse(flight);
        };
        situations::on_arrival(&mut self.counters, &flight, incarnation, boot);
        if cluster != flight.cluster || cluster != self.cluster {
            // As any handshake: nodes of different recoveries refuse each other (law 16). And the connections of the
            // cluster of before are gone: one node of it runs, at most.
            return self.on_other_recovery(&flight);
        }
        if !running.meets(from, flight.incarnation, flight.boot) {
            // An older copy of a disk, or its log could not write down whom it met, and fails.
            self.say(|| format!("{to} refuses to hear {from}"));
            return self.touch(flight.to);
        }
        match Packet::decode(flight.cluster, flight.bytes) {
            Ok(packet) => {
                if self.trace {
                    println!("{:>14.6} {from} -> {to} {}", self.now as f64 / 1e9, brief(&packet));
                }
                running.node.packet(from, flight.incarnation, packet);
                self.touch(flight.to);
            }
            Err(error) => self.fail(format!("node {to} cannot decode a message of {from}: {error}")),
        }
    }

    /// A paused process stops: the senders of the snapshots on their way to it hear that they did not arrive.
    pub(super) fn fail_deferred(&mut self, deferred: Vec<Event>) {
        for event in deferred {
            if let Event::Snapshot { to, from, incarnation, cluster, shipment, .. } = event {
                self.schedule(self.now, Event::Snapshot { to, from, incarnation, cluster, shipment, arrives: false });
            }
        }
    }

    /// Nobody listens there: the sender's connection is refused.
    fn refuse(&mut self, flight: Flight) {
        let peer = self.places[flight.to].id;
        if !self.net.is_cut(flight.to, flight.from)
            && let Some(running) = &self.places[flight.from].running
            && self.places[flight.from].paused_until.is_none()
        {
            running.node.refused(peer);
            if flight.entries {
                running.node.lost(peer);
            }
            self.touch(flight.from);
        }
    }

    pub(super) fn on_snapshot(
        &mut self,
        to: usize,
        from: usize,
        incarnation: Incarnation,
        shipment: Shipment,
        arrives: bool,
    ) {
        self.digest.word(2 + to as u64 * 64);
        let Shipment { group, header, meta, bytes, done, .. } = shipment;
        let sender = self.places[from].id;
        let arrived = arrives && !self.net.is_cut(from, to);
        match &self.places[to].running {
            Some(running) if arrived => {
                let data = SnapshotData::Memory(bytes);
                running.node.snapshot(sender, incarnation, ReceivedSnapshot { group, header, meta, data });
                done(SendOutcome::Delivered);
                self.touch(to);
                self.say(|| format!("{sender} -> {} snapshot", to + 1));
            }
            _ => done(SendOutcome::Failed),
        }
        if self.places[from].running.is_some() && self.places[from].paused_until.is_none() {
            self.touch(from);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: NodeId, bytes: bytes::Bytes, entries: bool) {
        let Some(to) = self.places.iter().position(|place| place.id == to) else { return };
        let place = &self.places[from];
        let boot = place.running.as_ref().map_or(0, |running| running.boot);
        let bytes = if place.newer { with_unknown_fields(&bytes) } else { bytes };
        let (incarnation, cluster) = (place.incarnation, place.cluster);
        let flight = Flight { from, to, incarnation, cluster, boot, bytes, entries };
        let (run, now, peer) = (place.run, self.now, self.places[to].id);
        match self.net.send(now, &flight, &mut self.counts) {
            Fate::At(at) => self.schedule(at, Event::Packet(flight)),
            Fate::Twice(at, again) => {
                self.schedule(at, Event::Packet(flight.clone()));
                self.schedule(again, Event::Packet(flight));
            }
            Fate::Corrupt => {
                let damaged = self.net.damage(&flight.bytes);
                // The frame's checksum keeps it from the node; decoding it must be harmless all the same.
                drop(Packet::decode(flight.cluster, damaged));
                let later = now + self.options.latency.as_nanos() as u64;
                self.schedule(later, Event::Lost { at: from, run, to: peer });
            }
            Fate::Lost if entries && self.net.is_cut(from, to) => {}
            Fate::Lost => {}
        }
    }
}

/// A message as a later version might send it: with fields at the end that this one does not know.
fn with_unknown_fields(bytes: &bytes::Bytes) -> bytes::Bytes {
    const UNKNOWN: [u8; 5] = [7; 5];
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[4..8]);
    let fields = u32::from_le_bytes(length);
    let end = quorate_wire::PACKET_HEADER_BYTES + fields as usize;
    let longer = (fields + UNKNOWN.len() as u32).to_le_bytes();
    [&bytes[..4], &longer, &bytes[8..end], &UNKNOWN, &bytes[end..]].concat().into()
}

/// A message for a trace.
fn brief(packet: &Packet) -> String {
    format!("{:?}", packet.message)
}
