//! The default network: the library's trait on the TCP transport of `quorate-net`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{ClusterId, GroupId, Incarnation, NodeId, SendOutcome};
#[cfg(feature = "tls")]
use quorate_net::TlsOptions;
use quorate_net::{DialedBy, Handler, LocalIdentity, NetError, PeerHello, ReceivedData, Transport, TransportOptions};
use quorate_wire::Packet;

use crate::blame;
use crate::{
    CheckedContent, Identity, IdentityStore, Inbound, OutgoingSnapshot, PeerRefused, RaftNetwork, ReceivedSnapshot,
    SnapshotData, SnapshotSource, StartError, TlsFiles,
};

/// Peers over TCP: what a node uses unless it is given another network.
pub struct TcpNetwork {
    transport: Transport,
    local: Mutex<LocalIdentity>,
    identity: Arc<dyn IdentityStore>,
}

impl std::fmt::Debug for TcpNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpNetwork").field("port", &self.port()).finish_non_exhaustive()
    }
}

impl TcpNetwork {
    /// Listens on `address`, for a node with this identity: for [`HostBuilder::network`](crate::HostBuilder::network).
    /// Must be called on a tokio runtime, which it then uses.
    ///
    /// # Errors
    /// [`StartError::Network`] if that cannot be listened on.
    pub async fn bind(identity: Arc<dyn IdentityStore>, address: &str) -> Result<Self, StartError> {
        Self::bind_with(identity, address, None, None, None).await
    }

    pub(crate) async fn bind_with(
        identity: Arc<dyn IdentityStore>,
        address: &str,
        incoming: Option<PathBuf>,
        tls: Option<&TlsFiles>,
        snapshot_rate: Option<u64>,
    ) -> Result<Self, StartError> {
        let Identity { cluster, node, incarnation, starts, mode } = identity.identity();
        let local = LocalIdentity { cluster, node, incarnation, starts, mode };
        let mut options = TransportOptions::new(local, address);
        options.incoming_dir = incoming;
        options.snapshot_max_bytes_per_second = snapshot_rate;
        #[cfg(feature = "tls")]
        if let Some(files) = tls {
            let found = TlsOptions::from_files(&files.ca, &files.certificate, &files.key, &files.cluster_name)
                .map_err(network)?;
            options.tls = Some(found);
        }
        #[cfg(not(feature = "tls"))]
        assert!(tls.is_none(), "nothing sets it without the feature");
        let transport = Transport::bind(options).await.map_err(network)?;
        Ok(Self { transport, local: Mutex::new(local), identity })
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.transport.local_addr().port()
    }
}

fn network(error: NetError) -> StartError {
    StartError::Network(std::io::Error::other(error))
}

impl RaftNetwork for TcpNetwork {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        self.transport.start(Arc::new(Arrivals { inbound, identity: Arc::clone(&self.identity) }));
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.transport.set_address(node, address);
    }

    fn set_cluster(&self, cluster: ClusterId) {
        let mut local = self.local.lock();
        local.cluster = cluster;
        local.mode = self.identity.identity().mode;
        self.transport.set_identity(*local);
    }

    fn send(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.transport.send(to, packet)
    }

    fn send_behind(&self, to: NodeId, packet: Packet) -> Result<(), Packet> {
        self.transport.send_behind(to, packet)
    }

    fn call(&self, to: NodeId, body: Bytes) -> bool {
        self.transport.call(to, body)
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot, done: Box<dyn FnOnce(SendOutcome) + Send>) {
        let OutgoingSnapshot { group, header, meta, source, progress } = snapshot;
        let source = match source {
            SnapshotSource::File(file) => quorate_net::SnapshotSource::File(file),
            SnapshotSource::Memory(bytes) => quorate_net::SnapshotSource::Memory(bytes),
            SnapshotSource::Checked(content) => quorate_net::SnapshotSource::Checked(Box::new(Content(content))),
        };
        let progress = quorate_net::Progress::new(move |bytes, total| progress.tell(bytes, total));
        self.transport.send_snapshot(to, quorate_net::OutgoingSnapshot { group, header, meta, source, progress }, done);
    }

    fn shutdown(&self) {
        self.transport.shutdown();
    }
}

/// A snapshot that is checked as it is read.
#[derive(Debug)]
struct Content(Box<dyn CheckedContent>);

impl quorate_net::CheckedContent for Content {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn append(&mut self, to: &mut Vec<u8>, offset: u64, most: usize) -> std::io::Result<()> {
        self.0.append(to, offset, most)
    }
}

/// Hands on what the transport delivers.
struct Arrivals {
    inbound: Arc<dyn Inbound>,
    identity: Arc<dyn IdentityStore>,
}

impl Handler for Arrivals {
    fn on_packet(&self, from: NodeId, incarnation: Incarnation, packet: Packet) {
        self.inbound.on_packet(from, incarnation, packet);
    }

    fn on_call(&self, from: NodeId, body: Bytes) {
        self.inbound.on_call(from, body);
    }

    fn on_refused(&self, peer: NodeId) {
        self.inbound.on_refused(peer);
    }

    fn on_lost(&self, to: NodeId) {
        self.inbound.on_lost(to);
    }

    fn on_snapshot(&self, from: NodeId, incarnation: Incarnation, snapshot: quorate_net::ReceivedSnapshot) {
        let data = match snapshot.data {
            ReceivedData::File(path) => SnapshotData::File(path),
            ReceivedData::Memory(bytes) => SnapshotData::Memory(bytes),
        };
        let quorate_net::ReceivedSnapshot { group, header, meta, .. } = snapshot;
        self.inbound.on_snapshot(from, incarnation, ReceivedSnapshot { group, header, meta, data });
    }

    fn on_snapshot_progress(&self, from: NodeId, group: GroupId, bytes: u64, total: u64) {
        self.inbound.on_snapshot_progress(from, group, bytes, total);
    }

    fn check_peer(&self, peer: &PeerHello) -> Result<(), PeerRefused> {
        let record = || self.identity.record_peer(peer.node, peer.incarnation, &peer.starts);
        // Who cannot write down whom it met must not go on as if it had (law 15).
        blame::stored(|| Ok(record())).unwrap_or_else(|panicked| {
            Err(format!("cannot write down that node {} was seen: the identity store failed: {panicked}", peer.node)
                .into())
        })?;
        if peer.cluster == ClusterId(0) && peer.dialed_by == DialedBy::Us {
            self.inbound.on_blank_peer(peer.node);
        }
        Ok(())
    }

    fn on_older_copy(&self, peer: NodeId, text: &str) {
        // Its groups are told by their log, which has failed; whoever comes second is told that.
        let _ = blame::stored(|| self.identity.note_older_copy(peer, text));
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{LeaderIdMode, Starts};
    use quorate_net::Lane;

    use super::*;
    use crate::StorageError;

    /// Nothing arrives.
    struct Nobody;

    impl Inbound for Nobody {
        fn on_packet(&self, _from: NodeId, _incarnation: Incarnation, _packet: Packet) {}
        fn on_call(&self, _from: NodeId, _body: Bytes) {}
        fn on_refused(&self, _peer: NodeId) {}
        fn on_lost(&self, _to: NodeId) {}
        fn on_snapshot(&self, _from: NodeId, _incarnation: Incarnation, _snapshot: ReceivedSnapshot) {}
    }

    /// Panics whenever it is to keep something.
    struct Broken;

    impl IdentityStore for Broken {
        fn identity(&self) -> Identity {
            unreachable!("nobody asks who this is")
        }

        fn set_cluster(&self, _cluster: ClusterId, _mode: LeaderIdMode) -> Result<(), StorageError> {
            unreachable!("no cluster is made")
        }

        fn record_peer(&self, _: NodeId, _: Incarnation, _: &Starts) -> Result<(), PeerRefused> {
            panic!("the test asked for it");
        }

        fn note_older_copy(&self, _peer: NodeId, _text: &str) -> Result<(), StorageError> {
            panic!("the test asked for it");
        }
    }

    #[test]
    fn a_peer_that_cannot_be_recorded_is_refused_whatever_becomes_of_the_store() {
        let arrivals = Arrivals { inbound: Arc::new(Nobody), identity: Arc::new(Broken) };
        let hello = PeerHello {
            cluster: ClusterId(1),
            node: NodeId(2),
            incarnation: Incarnation(3),
            starts: Starts::counted(1),
            mode: LeaderIdMode::Advanced,
            features: 0,
            lane: Lane::Control,
            dialed_by: DialedBy::Us,
        };
        let refused = arrivals.check_peer(&hello).unwrap_err();
        assert!(
            !refused.older_copy && refused.text.ends_with("it panicked: the test asked for it"),
            "{}",
            refused.text
        );
        arrivals.on_older_copy(NodeId(2), "an older copy");
    }
}
