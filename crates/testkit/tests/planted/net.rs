//! A network inside one process. With a flaw, if wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate::advanced::wire::BatchBuilder;
use quorate::{
    ClusterId, EntryKind, Identity, Inbound, NodeId, OutgoingSnapshot, Packet, RaftNetwork, ReceivedSnapshot,
    SendOutcome, SnapshotData,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Delivers to the node that was there first.
    OlderIncarnation,
    /// A message behind entries overtakes them.
    LanesMixed,
    /// Cuts what is larger than 1 MiB.
    LargeTruncated,
    DeliversTwice,
    /// Says of every message that it comes from the sender's first disk.
    OldName,
    /// Nobody hears how a transfer ended.
    TransferForgotten,
}

type Nodes = Arc<Mutex<BTreeMap<NodeId, Vec<(Identity, Arc<dyn Inbound>)>>>>;

#[derive(Clone)]
pub(crate) struct Loopback {
    nodes: Nodes,
    flaw: Flaw,
}

pub(crate) struct End {
    net: Loopback,
    me: Identity,
    /// For mixed lanes.
    held: Mutex<Option<(NodeId, Packet)>>,
}

impl Loopback {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Self { nodes: Nodes::default(), flaw }
    }

    pub(crate) fn end(&self, me: Identity) -> End {
        End { net: self.clone(), me, held: Mutex::new(None) }
    }

    fn find(&self, to: NodeId) -> Option<(Identity, Arc<dyn Inbound>)> {
        let nodes = self.nodes.lock().unwrap();
        let known = nodes.get(&to)?;
        match self.flaw {
            Flaw::OlderIncarnation => known.first().cloned(),
            _ => known.last().cloned(),
        }
    }
}

impl End {
    #[allow(clippy::result_large_err, reason = "the packet is handed back, not copied")]
    fn deliver(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        let Some((_, inbound)) = self.net.find(to) else { return Err(packet) };
        let mut incarnation = self.me.incarnation;
        if self.net.flaw == Flaw::OldName
            && let Some((first, _)) = self.net.nodes.lock().unwrap().get(&self.me.node).and_then(|known| known.first())
        {
            incarnation = first.incarnation;
        }
        let packet = if self.net.flaw == Flaw::LargeTruncated { truncated(packet) } else { packet };
        if self.net.flaw == Flaw::DeliversTwice && !packet.batches.is_empty() {
            inbound.on_packet(self.me.node, incarnation, packet.clone());
        }
        inbound.on_packet(self.me.node, incarnation, packet);
        Ok(())
    }

    fn flush(&self) {
        if let Some((to, packet)) = self.held.lock().unwrap().take() {
            let _ = self.deliver(to, packet);
        }
    }
}

/// As it would be if a length had too few bits.
fn truncated(mut packet: Packet) -> Packet {
    const MOST: usize = 1 << 20;
    for batch in &mut packet.batches {
        let (first, mut builder) = (batch.first(), BatchBuilder::new());
        for entry in batch.iter() {
            builder.push(EntryKind::Command, &entry.payload[..entry.payload.len().min(MOST)]);
        }
        *batch = builder.seal(ClusterId(0x7e57), packet.group, first.leader_id, first.index, 7).unwrap();
    }
    packet
}

impl RaftNetwork for End {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        let mut nodes = self.net.nodes.lock().unwrap();
        if self.me.node == NodeId(1) {
            // Another part of the suite: what was in the part before is no flaw of this network.
            nodes.clear();
        }
        nodes.entry(self.me.node).or_default().push((self.me, inbound));
    }

    fn set_address(&self, _node: NodeId, _address: &str) {}

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.flush();
        let index = packet.batches.first().map_or(0, |batch| batch.first().index);
        if self.net.flaw == Flaw::LanesMixed && index >= 10 && index.is_multiple_of(5) {
            *self.held.lock().unwrap() = Some((to, packet));
            return Ok(());
        }
        self.deliver(to, packet)
    }

    fn send_behind(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.deliver(to, packet)?;
        self.flush();
        Ok(())
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        let found = self.net.find(to);
        if let Some((_, inbound)) = &found {
            inbound.on_call(self.me.node, body);
        }
        found.is_some()
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let Some((_, inbound)) = self.net.find(to) else { return done(SendOutcome::Failed) };
        let OutgoingSnapshot { group, header, meta, source, .. } = snapshot;
        let data = source.read_all().unwrap();
        let received = ReceivedSnapshot { group, header, meta, data: SnapshotData::Memory(data) };
        inbound.on_snapshot(self.me.node, self.me.incarnation, received);
        if self.net.flaw != Flaw::TransferForgotten {
            done(SendOutcome::Delivered);
        }
    }

    fn shutdown(&self) {
        if matches!(self.net.flaw, Flaw::OlderIncarnation | Flaw::OldName) {
            return;
        }
        if let Some(known) = self.net.nodes.lock().unwrap().get_mut(&self.me.node) {
            known.retain(|(identity, _)| identity != &self.me);
        }
    }
}
