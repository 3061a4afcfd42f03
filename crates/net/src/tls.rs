//! Mutual TLS 1.3: every node proves which node of which cluster it is.
//!
//! A node's certificate carries the DNS name `node-<id>.<cluster name>.quorate` among its subject alternative
//! names. The dialing node demands the name of the node it means to reach; the accepting node demands the name
//! of the node that the hello claims. So a certificate of another node, or of another cluster under the same
//! authority, is refused at both ends.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs, io};

use quorate_core::NodeId;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{Resumption, verify_server_name};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{ClientConfig, Error as RustlsError, RootCertStore, ServerConfig, version};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::error::NetError;
use crate::hello::{Refusal, RefusalCode};

/// The name of this protocol inside TLS.
const ALPN: &[u8] = b"quorate/1";
/// Read from the socket at a time: four of the largest records. TLS itself asks for 4 KiB at a time, a system call each.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Encrypted, over a socket that is read in large pieces.
pub(crate) type Encrypted = TlsStream<BufReader<TcpStream>>;

/// Certificates and key for mutual TLS, in PEM.
///
/// The node's certificate must carry the DNS name `node-<id>.<cluster name>.quorate` and be good for client and
/// server authentication.
#[derive(Clone)]
pub struct TlsOptions {
    /// The certificates of the authorities whose nodes are trusted.
    pub ca_pem: Vec<u8>,
    /// This node's certificate, then its issuers up to an authority.
    pub cert_pem: Vec<u8>,
    /// The key of this node's certificate.
    pub key_pem: Vec<u8>,
    /// The cluster's name in certificates: DNS labels such as `orders` or `orders.eu`. Not the cluster id, which is
    /// random and unknown when certificates are issued.
    pub cluster_name: String,
}

impl TlsOptions {
    /// Reads the three files.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn from_files(ca: &Path, cert: &Path, key: &Path, cluster_name: &str) -> Result<Self, NetError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| NetError::Tls(format!("cannot read {}: {error}", path.display())))
        };
        Ok(Self {
            ca_pem: read(ca)?,
            cert_pem: read(cert)?,
            key_pem: read(key)?,
            cluster_name: cluster_name.to_owned(),
        })
    }

    /// The name that the certificate of a node must carry.
    pub fn node_name(&self, node: NodeId) -> String {
        node_name(&self.cluster_name, node)
    }

    pub(crate) fn build(&self, node: NodeId) -> Result<TlsContext, NetError> {
        let bad = |what: &str, error: &dyn fmt::Display| NetError::Tls(format!("{what}: {error}"));
        let mut roots = RootCertStore::empty();
        for ca in certificates("ca certificate", &self.ca_pem)? {
            roots.add(ca).map_err(|error| bad("ca certificate", &error))?;
        }
        let chain = certificates("node certificate", &self.cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key_pem).map_err(|error| bad("node key", &error))?;
        let own_name = self.node_name(node);
        let name = ServerName::try_from(own_name.clone()).map_err(|error| bad(&own_name, &error))?;
        check_name(&chain[0], &name)
            .map_err(|error| bad(&format!("this node's certificate is not for {own_name}"), &error))?;

        let mut provider = ring::default_provider();
        // The first is the one that every TLS 1.3 must have (RFC 8446, 9.1); it costs a third less than keys of 256 bits.
        provider.cipher_suites = vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| bad("ca certificate", &error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| bad("tls 1.3", &error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| bad("node certificate and key", &error))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Connections live long; without resumption each handshake proves the certificate anew.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| bad("tls 1.3", &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("node certificate and key", &error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(TlsContext {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            cluster_name: self.cluster_name.clone(),
        })
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").field("cluster_name", &self.cluster_name).finish_non_exhaustive()
    }
}

fn node_name(cluster_name: &str, node: NodeId) -> String {
    format!("node-{node}.{cluster_name}.quorate")
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| NetError::Tls(format!("{what}: {error}")))?;
    if found.is_empty() {
        return Err(NetError::Tls(format!("{what}: no certificate in the pem text")));
    }
    Ok(found)
}

fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), RustlsError> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
}

/// Says what a message that is none most often means.
fn explain(error: io::Error) -> io::Error {
    let rustls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
    if !matches!(rustls_error, Some(RustlsError::InvalidMessage(_))) {
        return error;
    }
    let text = "the other end does not speak tls and this node does; configure tls at both ends or at neither";
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn buffered(tcp: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BUFFER_BYTES, tcp)
}

/// Both sides of TLS, ready for use.
pub(crate) struct TlsContext {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    cluster_name: String,
}

impl TlsContext {
    /// Connects to a node; its certificate must be that node's.
    pub(crate) async fn connect(&self, to: NodeId, tcp: TcpStream) -> io::Result<Encrypted> {
        let name = ServerName::try_from(node_name(&self.cluster_name, to)).map_err(io::Error::other)?;
        Ok(self.connector.connect(name, buffered(tcp)).await.map_err(explain)?.into())
    }

    /// Accepts a node whose certificate our authorities signed.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<Encrypted> {
        Ok(self.acceptor.accept(buffered(tcp)).await.map_err(explain)?.into())
    }

    /// Checks that the certificate behind `stream` is that of the node which the hello claims.
    pub(crate) fn check_certificate(&self, stream: &Encrypted, claimed: NodeId) -> Result<(), Refusal> {
        let name = node_name(&self.cluster_name, claimed);
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let valid = ServerName::try_from(name.as_str())
            .is_ok_and(|parsed| certificate.is_some_and(|certificate| check_name(certificate, &parsed).is_ok()));
        if valid {
            return Ok(());
        }
        let text = format!("the certificate of node {claimed} is not for {name}; issue one with that dns name");
        Err(Refusal::new(RefusalCode::Certificate, text))
    }
}
