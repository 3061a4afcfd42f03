//! Mutual TLS: the certificate names node and cluster, and the handshake must agree with it.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Hello, Log, Node, ack, ack_number, append, assert_same, batch, identity, noise, options};
use quorate_core::{NodeId, SendOutcome};
use quorate_net::{NetError, OutgoingSnapshot, SnapshotSource, TlsOptions, Transport, TransportOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

/// An authority that signs nodes' certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this DNS name, in a cluster called `prod`.
    fn sign(&self, name: &str) -> TlsOptions {
        self.sign_for(name, vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn sign_for(&self, name: &str, uses: Vec<ExtendedKeyUsagePurpose>) -> TlsOptions {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = uses;
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        TlsOptions {
            ca_pem: self.pem.clone().into(),
            cert_pem: cert.pem().into(),
            key_pem: key.serialize_pem().into(),
            cluster_name: "prod".into(),
        }
    }

    fn node(&self, node: u64) -> TransportOptions {
        with(node, self.sign(&format!("node-{node}.prod.quorate")))
    }
}

fn with(node: u64, tls: TlsOptions) -> TransportOptions {
    let mut options = options(identity(node));
    options.tls = Some(tls);
    options
}

#[tokio::test]
async fn nodes_of_one_authority_talk_on_every_lane() {
    let authority = Authority::new();
    let (one, mut two) = (Node::start(authority.node(1)).await, Node::start(authority.node(2)).await);
    one.knows(&two, 2);
    let packet = append(vec![batch(3, 1, &[&noise(300_000, 1)]), batch(4, 2, &[b"more"])]);
    one.send(2, packet.clone()).await;
    assert_same(&two.packet().await, &packet);
    one.send(2, ack(7)).await;
    assert_eq!(ack_number(&two.packet().await), Some(7));

    let (sender, told) = tokio::sync::oneshot::channel();
    let source = SnapshotSource::Memory(Bytes::from(noise(1 << 20, 2)));
    let snapshot = OutgoingSnapshot {
        group: common::GROUP,
        header: common::header(),
        meta: common::meta(),
        source,
        progress: quorate_net::Progress::default(),
    };
    one.net.send_snapshot(NodeId(2), snapshot, move |outcome| sender.send(outcome).unwrap());
    assert_eq!(told.await, Ok(SendOutcome::Delivered));
    assert_eq!(two.snapshot().await.len, 1 << 20);

    // A node that goes is noticed as without TLS.
    let mut one = one;
    two.net.shutdown();
    assert_eq!(one.refused().await, NodeId(2));
}

/// Node 1 with `dialing` dials node 2 with `dialed`; each end must log its line.
async fn refused(dialing: TransportOptions, dialed: TransportOptions, here: &str, there: &str) {
    let mut log = Log::capture();
    let (one, mut two) = (Node::start(dialing).await, Node::start(dialed).await);
    one.knows(&two, 2);
    log.line(&["WARN", "peer=2", "not connected", here]).await;
    log.line(&["WARN", "no connection from", there]).await;
    assert!(!one.net.stats()[0].control.connected);
    assert!(!two.told().iter().any(|event| matches!(event, common::Event::Packet(..))));
}

#[tokio::test]
async fn another_authority_is_refused_by_the_dialing_node() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    refused(ours.node(1), theirs.node(2), "invalid peer certificate", "tls handshake failed").await;
}

#[tokio::test]
async fn another_authority_is_refused_by_the_accepting_node() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    // It trusts us, we do not trust it.
    let mut dialing = theirs.sign("node-1.prod.quorate");
    dialing.ca_pem = ours.pem.clone().into();
    refused(with(1, dialing), ours.node(2), "received fatal alert", "invalid peer certificate").await;
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused_by_the_dialing_node() {
    let authority = Authority::new();
    // Node 3 stands where node 2 is expected.
    refused(authority.node(1), authority.node(3), "node-3.prod.quorate", "received fatal alert").await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused_by_the_dialing_node() {
    let authority = Authority::new();
    let mut test = authority.sign("node-2.test.quorate");
    test.cluster_name = "test".into();
    refused(authority.node(1), with(2, test), "node-2.test.quorate", "received fatal alert").await;
}

#[tokio::test]
async fn a_certificate_that_is_not_for_this_use_is_refused() {
    let authority = Authority::new();
    let server_only = authority.sign_for("node-1.prod.quorate", vec![ExtendedKeyUsagePurpose::ServerAuth]);
    refused(with(1, server_only), authority.node(2), "received fatal alert", "invalid peer certificate").await;
}

#[tokio::test]
async fn no_tls_meets_tls() {
    let authority = Authority::new();
    refused(
        options(identity(1)),
        authority.node(2),
        "the other end speaks tls and this node does not",
        "the other end does not speak tls and this node does",
    )
    .await;
}

#[tokio::test]
async fn tls_meets_no_tls() {
    let authority = Authority::new();
    let there = "the other end speaks tls and this node does not";
    refused(authority.node(1), options(identity(2)), "tls handshake failed", there).await;
}

#[tokio::test]
async fn a_hello_by_hand_without_tls_gets_no_answer_of_ours() {
    let node = Node::start(Authority::new().node(2)).await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&Hello::new(1, 2, 1).bytes()).await.unwrap();
    let said = common::read_to_close(&mut stream).await;
    assert_eq!(said.first(), Some(&0x15), "a tls alert and nothing else");
}

#[tokio::test]
async fn a_node_that_claims_to_be_another_than_its_certificate_says_is_refused_by_the_accepting_node() {
    let authority = Authority::new();
    let mut log = Log::capture();
    let node = Node::start(authority.node(2)).await;
    let roots = {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        roots
    };
    for (name, claims) in [("node-4.prod.quorate", 1), ("node-5.test.quorate", 5), ("node-1.prod.quorate", 11)] {
        let own = authority.sign(name);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&own.cert_pem).unwrap()],
                PrivateKeyDer::from_pem_slice(&own.key_pem).unwrap(),
            )
            .unwrap();
        let tcp = TcpStream::connect(node.address()).await.unwrap();
        let server = ServerName::try_from("node-2.prod.quorate").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(server, tcp).await.unwrap();
        stream.write_all(&Hello::new(claims, 2, 1).bytes()).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let (code, text) = common::code_and_text(&reply);
        let why = format!("the certificate of node {claims} is not for node-{claims}.prod.quorate");
        assert_eq!(code, 8);
        assert!(text.contains(&why), "{text}");
        log.line(&["WARN", &format!("no connection from node {claims}"), &why]).await;
    }
}

#[tokio::test]
async fn what_cannot_serve_as_certificate_is_said_at_the_start() {
    let authority = Authority::new();
    let good = authority.sign("node-1.prod.quorate");
    let say = async |node, tls| match Transport::bind(with(node, tls)).await {
        Err(NetError::Tls(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(say(2, good.clone()).await.contains("this node's certificate is not for node-2.prod.quorate"));
    let text = say(1, TlsOptions { cert_pem: b"nothing".to_vec(), ..good.clone() }).await;
    assert!(text.contains("node certificate: no certificate in the pem text"), "{text}");
    let text = say(1, TlsOptions { key_pem: b"nothing".to_vec(), ..good.clone() }).await;
    assert!(text.starts_with("node key: "), "{text}");
    let other_key = authority.sign("node-1.prod.quorate").key_pem;
    let text = say(1, TlsOptions { key_pem: other_key, ..good.clone() }).await;
    assert!(text.starts_with("node certificate and key: "), "{text}");
    let text = say(1, TlsOptions { cluster_name: "not a name".into(), ..good.clone() }).await;
    assert!(text.contains("node-1.not a name.quorate"), "{text}");
    let missing = TlsOptions::from_files("/no/ca".as_ref(), "/no/cert".as_ref(), "/no/key".as_ref(), "prod");
    assert!(missing.unwrap_err().to_string().contains("cannot read /no/ca"));
    assert!(!format!("{good:?}").contains("key_pem"), "a key is never printed");
}
