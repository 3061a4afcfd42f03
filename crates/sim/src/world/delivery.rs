//! Messages: on their way, where they arrive, and where nobody listens.

use std::sync::Arc;

use quorate::{ReceivedSnapshot, SnapshotData};
use quorate_core::{NodeId, SendOutcome};
use quorate_wire::Packet;

use super::{Event, Place, World};
use crate::digest::hash_of;
use crate::fault::Fault;
use crate::net::{Arrival, Carries, Fate, Flight, HeldSnapshot, Sender, Shipment};
use crate::situations;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    pub(super) fn on_packet(&mut self, flight: Flight) {
        self.digest.word(1 + flight.to as u64 * 64);
        self.digest.word(hash_of(&flight.bytes));
        let to = self.places[flight.to].id;
        let Place { id: from, incarnation, boot, .. } = self.places[flight.from];
        let Place { cluster, run, .. } = self.places[flight.to];
        let Some(running) = &mut self.places[flight.to].running else {
            return self.refuse(flight);
        };
        situations::on_arrival(&mut self.counters, &flight, (incarnation, boot), (run, running.seen.vote));
        if cluster != flight.cluster || cluster != self.cluster {
            // As any handshake: nodes of different recoveries refuse each other (law 16). And the connections of the
            // cluster of before are gone: one node of it runs, at most.
            return self.on_other_recovery(&flight);
        }
        if let Err(refused) = running.meets(from, flight.incarnation, &flight.starts) {
            // An older copy of a disk, or its log could not write down whom it met, and fails.
            self.say(|| format!("{to} refuses to hear {from}"));
            self.touch(flight.to);
            if refused.older_copy {
                self.tell_older_copy(&flight, &refused.text);
            }
            return;
        }
        if flight.carries == Carries::Call {
            // A later process has other connections. What is repeated on one is for the library to see.
            if flight.to_run == run {
                self.say(|| format!("{from} -> {to} call of {} bytes", flight.bytes.len()));
                self.called(flight.to, from, flight.bytes);
            }
            return;
        }
        match Packet::decode(flight.cluster, flight.bytes) {
            Ok(packet) => {
                if self.trace {
                    println!("{:>14.6} {from} -> {to} {}", self.now as f64 / 1e9, brief(&packet));
                }
                running.node.packet(from, flight.incarnation, packet);
                self.touch(flight.to);
                if flight.newer {
                    self.takes_effect(flight.from, Fault::MixedVersions);
                }
            }
            Err(error) => self.fail(format!("node {to} cannot decode a message of {from}: {error}")),
        }
    }

    /// The handshake's answer: a process that runs on an older copy of its disk hears that it does, and ends.
    fn tell_older_copy(&mut self, flight: &Flight, text: &str) {
        let (peer, place) = (self.places[flight.to].id, &self.places[flight.from]);
        let Some(running) = &place.running else { return };
        // What another process sent, before this one, is refused as well: nobody hears the answer.
        let same = running.starts == flight.starts && place.incarnation == flight.incarnation;
        if !same || place.paused_until.is_some() || self.net.is_cut(flight.to, flight.from) {
            return;
        }
        let sound = !place.hurt.outdated && !place.damaged && !place.fragile;
        running.is_older_copy(peer, text);
        let id = place.id;
        self.say(|| format!("{id} hears of {peer} that it runs on an older copy of its disk"));
        if sound {
            return self.fail(format!("older copy: node {peer} takes the disk of node {id} for one: {text}"));
        }
        self.touch(flight.from);
    }

    /// A paused process stops: the senders of the snapshots on their way to it hear that they did not arrive.
    pub(super) fn fail_deferred(&mut self, deferred: Vec<Event>) {
        for event in deferred {
            if let Event::Snapshot { to, from, sender, shipment, .. } = event {
                self.schedule(self.now, Event::Snapshot { to, from, sender, shipment, arrival: Arrival::Not });
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
            if flight.carries == Carries::Entries {
                running.node.lost(peer);
            }
            self.touch(flight.from);
        }
    }

    fn called(&mut self, to: usize, from: NodeId, body: bytes::Bytes) {
        if let Some(running) = &mut self.places[to].running {
            running.node.called(from, body);
            self.touch(to);
        }
    }

    /// Puts a snapshot on its way.
    pub(super) fn ship(&mut self, from: usize, shipment: Shipment) {
        let Some(to) = self.places.iter().position(|place| place.id == shipment.to) else { return };
        let place = &self.places[from];
        let starts = place.running.as_ref().map(|running| Arc::clone(&running.starts)).unwrap_or_default();
        let sender = Sender { incarnation: place.incarnation, cluster: place.cluster, starts };
        self.net.hold_snapshot(|| HeldSnapshot { from, to, sender: sender.clone(), shipment: shipment.again() });
        let bytes = shipment.bytes.len();
        let (later, arrival) = self.net.send_snapshot(self.now, from, to, bytes, &mut self.counts);
        self.schedule(later, Event::Snapshot { to, from, sender, shipment: Box::new(shipment), arrival });
    }

    pub(super) fn on_snapshot(&mut self, to: usize, from: usize, sender: Sender, shipment: Shipment, arrival: Arrival) {
        self.digest.word(2 + to as u64 * 64);
        let Sender { incarnation, cluster, starts } = sender;
        let Shipment { group, header, meta, bytes, done, .. } = shipment;
        self.digest.word(arrival as u64);
        self.digest.word(hash_of(&bytes));
        let (id, cut) = (self.places[from].id, self.net.is_cut(from, to));
        let shakes_hands = cluster == self.places[to].cluster && cluster == self.cluster;
        let travels = arrival != Arrival::Not && !cut && shakes_hands;
        let there = self.places[to].running.as_mut().filter(|_| travels);
        match there.and_then(|running| running.meets(id, incarnation, &starts).is_ok().then_some(running)) {
            Some(running) => {
                let data = SnapshotData::Memory(bytes);
                running.node.snapshot(id, incarnation, ReceivedSnapshot { group, header, meta, data });
                done(if arrival == Arrival::Whole { SendOutcome::Delivered } else { SendOutcome::Failed });
                self.touch(to);
                self.say(|| format!("{id} -> {} snapshot, {arrival:?}", to + 1));
            }
            None => done(SendOutcome::Failed),
        }
        if self.places[from].running.is_some() && self.places[from].paused_until.is_none() {
            self.touch(from);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: NodeId, bytes: bytes::Bytes, carries: Carries) {
        let Some(to) = self.places.iter().position(|place| place.id == to) else { return };
        let place = &self.places[from];
        let starts = place.running.as_ref().map(|running| Arc::clone(&running.starts)).unwrap_or_default();
        let newer = place.newer && carries != Carries::Call;
        let bytes = if newer { with_unknown_fields(&bytes) } else { bytes };
        let (incarnation, cluster) = (place.incarnation, place.cluster);
        let (run, now, peer) = (place.run, self.now, self.places[to].id);
        let (to_run, there) = (self.places[to].run, &self.places[to].running);
        let to_vote = there.as_ref().map(|running| running.seen.vote).unwrap_or_default();
        let held = false;
        let flight = Flight { from, to, incarnation, cluster, starts, bytes, newer, carries, to_run, to_vote, held };
        match self.net.send(now, &flight, &mut self.counts) {
            Fate::At(at) => self.schedule(at, Event::Packet(flight)),
            Fate::Twice(at, again) => {
                self.schedule(at, Event::Packet(flight.clone()));
                self.schedule(again, Event::Packet(flight));
            }
            Fate::Corrupt => {
                let damaged = self.net.damage(&flight.bytes);
                // The frame's checksum keeps it from the node; decoding it must be harmless all the same.
                if carries != Carries::Call {
                    drop(Packet::decode(flight.cluster, damaged));
                }
                let later = now + self.options.latency.as_nanos() as u64;
                self.schedule(later, Event::Lost { at: from, run, to: peer });
            }
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
